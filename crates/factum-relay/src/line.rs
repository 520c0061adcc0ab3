//! A connection that several share, and that the next one makes anew when it has broken.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use factum::Trouble;
use tokio::{sync::Mutex, time::timeout};

/// How long making a connection may take.
const CONNECTING: Duration = Duration::from_secs(3);
/// How long a broker may take to confirm, unless said otherwise. Together they are less than a worker's lease.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// The connection, if there is one, with a number that says which it is.
pub(crate) struct Line<C> {
    held: Mutex<Held<C>>,
    /// How many attempts to make one have failed.
    failures: AtomicU64,
}

struct Held<C> {
    number: u64,
    open: Option<C>,
    /// What became of the last attempt, if it failed.
    failed: Option<Trouble>,
}

impl<C> Default for Line<C> {
    fn default() -> Self {
        let held = Held { number: 0, open: None, failed: None };
        Self { held: Mutex::new(held), failures: AtomicU64::new(0) }
    }
}

impl<C> fmt::Debug for Line<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Line")
    }
}

impl<C: Clone + Send> Line<C> {
    /// The connection, made by `connect` if there is none. `place` is where it leads to, as it is shown.
    ///
    /// Who waits while another makes it shares what comes of it, a failure too: however many want one, nobody waits for more than one
    /// attempt.
    ///
    /// # Errors
    /// [`Trouble::Infrastructure`] if it cannot be made now.
    pub(crate) async fn get(
        &self,
        place: &str,
        connect: impl Future<Output = Result<C, Trouble>> + Send,
    ) -> Result<(u64, C), Trouble> {
        let failures = self.failures.load(Ordering::Acquire);
        let mut held = self.held.lock().await;
        if let Some(open) = &held.open {
            return Ok((held.number, open.clone()));
        }
        if let Some(failed) = &held.failed
            && self.failures.load(Ordering::Acquire) != failures
        {
            return Err(failed.clone());
        }
        match made(place, connect).await {
            Ok(made) => {
                (held.number, held.failed) = (held.number + 1, None);
                held.open = Some(made.clone());
                Ok((held.number, made))
            }
            Err(trouble) => {
                held.failed = Some(trouble.clone());
                self.failures.fetch_add(1, Ordering::Release);
                Err(trouble)
            }
        }
    }

    /// That connection is of no more use. Who has made another meanwhile keeps it.
    pub(crate) async fn hang_up(&self, number: u64) {
        let mut held = self.held.lock().await;
        if held.number == number {
            held.open = None;
        }
    }
}

/// A connection, unless it takes too long.
pub(crate) async fn made<C>(
    place: &str,
    connect: impl Future<Output = Result<C, Trouble>>,
) -> Result<C, Trouble> {
    timeout(CONNECTING, connect).await.unwrap_or_else(|_| {
        let seconds = CONNECTING.as_secs();
        Err(Trouble::infrastructure(format!("{place} does not answer: no connection within {seconds} s")))
    })
}

/// For who has waited in vain.
pub(crate) fn silent(place: &str, patience: Duration) -> Trouble {
    let why = format!(
        "{place} did not confirm within {} s: it is overloaded, out of room, or gone",
        patience.as_secs_f64()
    );
    Trouble::infrastructure(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_has_a_newer_one_keeps_it() {
        let line = Line::default();
        let connect = |n: u32| async move { Ok(n) };
        assert_eq!(line.get("x", connect(7)).await, Ok((1, 7)));
        assert_eq!(line.get("x", connect(8)).await, Ok((1, 7)));
        line.hang_up(1).await;
        assert_eq!(line.get("x", connect(9)).await, Ok((2, 9)));
        line.hang_up(1).await;
        assert_eq!(line.get("x", connect(10)).await, Ok((2, 9)));
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_answer_is_not_waited_for() {
        let line = Line::<u32>::default();
        let waited = line.get("redis://nowhere", std::future::pending()).await.unwrap_err();
        assert!(
            waited.is_infrastructure() && waited.to_string().starts_with("redis://nowhere does not answer")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_attempt_is_everybodys_who_waited_for_it() {
        let line = Line::<u32>::default();
        let begun = tokio::time::Instant::now();
        let get = || line.get("redis://nowhere", std::future::pending());
        let (a, b, c, d) = tokio::join!(get(), get(), get(), get());
        assert!(a.is_err() && a == b && b == c && c == d);
        assert_eq!(begun.elapsed(), CONNECTING, "whoever stops waits for all of them");
        assert_eq!(line.get("x", async { Ok(7) }).await, Ok((1, 7)), "who comes later tries again");
        line.hang_up(1).await;
        assert_eq!(line.get("x", async { Ok(8) }).await, Ok((2, 8)));
    }
}
