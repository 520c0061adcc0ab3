//! A connection that several share, and that the next one makes anew when it has broken.

use std::{fmt, time::Duration};

use factum::Trouble;
use tokio::{sync::Mutex, time::timeout};

/// How long making a connection may take.
const CONNECTING: Duration = Duration::from_secs(3);
/// How long a broker may take to confirm, unless said otherwise. Together they are less than a worker's lease.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// The connection, if there is one, with a number that says which it is.
pub(crate) struct Line<C> {
    held: Mutex<(u64, Option<C>)>,
}

impl<C> Default for Line<C> {
    fn default() -> Self {
        Self { held: Mutex::new((0, None)) }
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
    /// # Errors
    /// [`Trouble::Infrastructure`] if it cannot be made now.
    pub(crate) async fn get(
        &self,
        place: &str,
        connect: impl Future<Output = Result<C, Trouble>> + Send,
    ) -> Result<(u64, C), Trouble> {
        let mut held = self.held.lock().await;
        let (number, open) = &mut *held;
        if let Some(open) = open {
            return Ok((*number, open.clone()));
        }
        let made = timeout(CONNECTING, connect).await.unwrap_or_else(|_| {
            let seconds = CONNECTING.as_secs();
            Err(Trouble::infrastructure(format!("{place} does not answer: no connection within {seconds} s")))
        })?;
        *number += 1;
        *open = Some(made.clone());
        Ok((*number, made))
    }

    /// That connection is of no more use. Who has made another meanwhile keeps it.
    pub(crate) async fn hang_up(&self, number: u64) {
        let mut held = self.held.lock().await;
        if held.0 == number {
            held.1 = None;
        }
    }
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
}
