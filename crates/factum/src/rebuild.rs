//! A rebuild of a read model, as those who asked for it see it.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::sync::oneshot;

use crate::{
    consumer::{Consumer, ended},
    error::{Error, Outcome, Result},
    position::Position,
    worker::Command,
};

/// A rebuild that is under way: await it, watch it, or give it up.
///
/// A rebuild goes on for as long as somebody wants it. Who drops this gives it up, and so does who drops the future that
/// awaits it, by a timeout for example; [`detach`](Self::detach) lets it go on without anybody. What was given up leaves no
/// trace: readers go on with what they had. Whoever asks for a rebuild while there is one shares it.
///
/// ```
/// # use factum::{MemoryReads, MemoryStore, prelude::*};
/// # use std::time::Duration;
/// # #[derive(Serialize, Deserialize)] enum OrderEvent { Placed { cents: i64 } }
/// # impl Event for OrderEvent { const CATEGORY: &'static str = "order"; }
/// # struct Orders; impl Projection for Orders { const NAME: &'static str = "orders"; type Event = OrderEvent; type Row = i64;
/// #   fn evolve(&self, _: Option<i64>, e: &Recorded<OrderEvent>) -> Option<i64> { let OrderEvent::Placed { cents } = e.event; Some(cents) } }
/// # async fn example(orders: Projected<Orders>) -> factum::Result<()> {
/// let mut rebuild = orders.rebuild();
/// let mut every_second = tokio::time::interval(Duration::from_secs(1));
/// loop {
///     tokio::select! {
///         done = &mut rebuild => break done,
///         _ = every_second.tick() => if let Some(progress) = rebuild.progress() {
///             println!("{progress}"); // at position 61000 of 100000, 250000 events/s, 0.2 s left
///         },
///     }
/// }
/// # }
/// ```
#[must_use = "a rebuild that is dropped is given up: await it, or let it go on by `detach`"]
#[derive(Debug)]
pub struct Rebuild {
    answer: oneshot::Receiver<Result<()>>,
    consumer: Consumer,
    detached: Arc<AtomicBool>,
}

/// How a rebuild comes on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RebuildProgress {
    /// How far the new rows are made.
    pub position: Position,
    /// How far the log reached when it was last read.
    pub head: Position,
    /// Events per second, of late.
    pub rate: f64,
    /// For how long it will go on, if it goes on as of late. `None`: nobody knows yet.
    pub time_left: Option<Duration>,
}

impl fmt::Display for RebuildProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { position, head, rate, time_left } = self;
        write!(f, "at position {position} of {head}, {rate:.0} events/s")?;
        time_left.map_or(Ok(()), |left| write!(f, ", {:.1} s left", left.as_secs_f64()))
    }
}

impl Rebuild {
    pub(crate) fn begin(consumer: &Consumer) -> Self {
        let ((reply, answer), detached) = (oneshot::channel(), Arc::new(AtomicBool::new(false)));
        let asker = Asker { reply: Some(reply), detached: detached.clone() };
        // If it has ended already, so has the channel of the answer.
        consumer.order(Command::Rebuild(asker));
        Self { answer, consumer: consumer.clone(), detached }
    }

    /// How it comes on. `None`: it has not begun, or is over.
    pub fn progress(&self) -> Option<RebuildProgress> {
        self.consumer.rebuilding()
    }

    /// Lets it go on although nobody waits for it, for as long as there is a handle of the read model: a consumer stops with its
    /// last one, and this may be it.
    pub fn detach(self) {
        self.detached.store(true, Ordering::SeqCst);
    }

    /// Gives it up, also for others who wait for it: they are told [`Error::Unavailable`]. It returns when nothing is left of
    /// it. The filling of a new version goes on: readers would see nothing without it.
    pub async fn cancel(self) {
        let (done, is_done) = oneshot::channel();
        self.consumer.order(Command::Cancel(done));
        // What has ended rebuilds nothing.
        let _ = is_done.await;
    }
}

impl Future for Rebuild {
    /// Nothing, once readers see the new rows; or what kept it from being done. Readers then go on with what they had.
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let answer = Pin::new(&mut self.answer).poll(context);
        answer.map(|answer| answer.unwrap_or_else(|_| Err(ended(self.consumer.name()))))
    }
}

/// One who waits for a rebuild, as the worker sees it.
#[derive(Debug)]
pub(crate) struct Asker {
    /// `None`: it has gone, and wants it all the same.
    reply: Option<oneshot::Sender<Result<()>>>,
    detached: Arc<AtomicBool>,
}

impl Asker {
    pub(crate) fn answer(self, answer: Result<()>) {
        // Nobody is there to hear it if the caller has gone.
        let _ = self.reply.map(|reply| reply.send(answer));
    }

    /// Whether it still wants the rebuild.
    pub(crate) fn is_there(&mut self) -> bool {
        let gone = self.reply.as_ref().is_some_and(oneshot::Sender::is_closed);
        !gone || self.detached.load(Ordering::SeqCst)
    }

    /// Ready when it does not want the rebuild any more.
    pub(crate) fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(reply) = &mut self.reply else { return Poll::Pending };
        match reply.poll_closed(context) {
            Poll::Ready(()) if self.detached.load(Ordering::SeqCst) => {
                self.reply = None;
                Poll::Pending
            }
            poll => poll,
        }
    }
}

/// The answer of a rebuild that was given up.
pub(crate) fn cancelled(model: &str) -> Error {
    let why = format!("the rebuild of `{model}` was cancelled; what was there before it stays");
    Error::Unavailable { why, outcome: Outcome::No }
}
