//! The contract: what every store promises, whatever is underneath.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    append::{Append, Appended, ExpectedRevision, Limits},
    error::{Error, Outcome, Result},
    event::{EventId, RecordedEvent},
    name::StreamName,
    position::{Position, Revision, Token},
    query::Query,
    read::{AsOf, Direction, Page, Read, Source},
    stream::{Life, LifeChange, Retention, StreamState},
    subscription::Subscription,
    time::Timestamp,
};

/// The end of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The last event that can be read; [`Position::START`] in an empty log.
    pub token: Token,
    /// When it was recorded. `None` in an empty log.
    pub recorded_at: Option<Timestamp>,
}

/// A store of events. What it promises is `docs/semantics.md`; the crate `factum-conformance` is that page as code.
///
/// In short:
/// - [`append`](EventStore::append) MUST be atomic, and MUST NOT answer before a power cut can no longer undo it (unless a relaxed
///   mode was asked for, which every answer then says).
/// - Positions MUST grow in commit order: once a reader has seen position *p*, nothing ever appears at or before *p*.
/// - A read MUST see everything acknowledged before it began.
/// - Dropping the future of an append leaves its outcome unknown, like a lost answer: send it again with the same ids.
#[async_trait]
pub trait EventStore: Send + Sync + fmt::Debug + 'static {
    /// Writes events and checks guards as one.
    ///
    /// Sent again with the same event ids, it answers with the original places (`replayed`), before it looks at guards.
    ///
    /// # Errors
    /// [`Error::Conflict`] if a guard does not hold, [`Error::IdConflict`], [`Error::Tombstoned`], [`Error::LimitExceeded`],
    /// [`Error::InvalidInput`], [`Error::LogRewound`] for a guard's token from another history, and failures of the store.
    /// [`Error::outcome`] tells whether it can have happened.
    async fn append(&self, append: Append) -> Result<Appended>;

    /// Reads a page of events. Hidden events (truncated, expired, deleted) are never in it.
    ///
    /// # Errors
    /// [`Error::Tombstoned`] for a tombstoned stream, [`Error::LogRewound`] for a token of another history,
    /// [`Error::InvalidInput`], [`Error::Corrupt`], and failures of the store. A stream never written is an empty page.
    async fn read(&self, read: Read) -> Result<Page>;

    /// The end of the log: every position up to it can be read, and nothing will appear there any more.
    ///
    /// # Errors
    /// Failures of the store.
    async fn head(&self) -> Result<Head>;

    /// What is known of a stream; [`StreamState::default`] if it was never heard of.
    ///
    /// # Errors
    /// Failures of the store.
    async fn stream_state(&self, stream: &StreamName) -> Result<StreamState>;

    /// The same place in the log as it is now, for a token that its history still has.
    ///
    /// A store that can be told that a former epoch has gone on without a loss MUST translate its tokens here, and take them
    /// itself; what was handed out in that epoch but is not in the log stays refused.
    ///
    /// # Errors
    /// [`Error::LogRewound`] for a token of another history or past the head, and failures of the store.
    async fn locate(&self, token: Token) -> Result<Token> {
        let head = self.head().await?.token;
        Ok(head.log.at(token.position_in(head.log, head.position)?))
    }

    /// The former epochs of this log that have gone on without a loss, as the last place of each that the present epoch still has:
    /// up to there they are the same. For who tells others what is in the log, and cannot be asked by them; a store that
    /// translates tokens in [`locate`](EventStore::locate) MUST answer accordingly, for the newest of its epochs at least.
    ///
    /// # Errors
    /// Failures of the store.
    async fn continued(&self) -> Result<Vec<Token>> {
        Ok(Vec::new())
    }

    /// Returns when the head may lie beyond `position`. A hint: it MAY return early, and callers look again after a while.
    async fn changed(&self, position: Position);

    /// What it takes at most.
    fn limits(&self) -> Limits;

    /// Whether no other process can have this log open: then nobody but this process works on it, and whoever did before is gone.
    fn is_exclusive(&self) -> bool {
        false
    }
}

/// What follows from the contract, for every store.
pub trait EventStoreExt: EventStore {
    /// Reads page after page to the end as it was when the reading began, and hands each page on.
    ///
    /// What is hidden (truncated, deleted, too old) between two pages is not in the later ones: a stream may then have a gap, and a
    /// query miss an event from between two others. [`read_to_end`](Self::read_to_end) begins again where a stream has one.
    ///
    /// # Errors
    /// Those of [`EventStore::read`], and those of `each`.
    fn read_pages<E: From<Error>>(
        &self,
        mut read: Read,
        mut each: impl FnMut(Page) -> Result<(), E> + Send,
    ) -> impl Future<Output = Result<(), E>> + Send {
        async move {
            loop {
                let page = self.read(read.clone()).await?;
                read.as_of = read.as_of.or(Some(AsOf::Position(page.head.position)));
                let next = page.next;
                each(page)?;
                match next {
                    Some(start) => read.start = start,
                    None => return Ok(()),
                }
            }
        }
    }

    /// Reads all that there is into memory. `limit` then bounds a page, not the whole.
    ///
    /// Where events of a stream are hidden while it is read, it is read again: forwards, its events follow each other without a gap.
    ///
    /// # Errors
    /// Those of [`EventStore::read`], and [`Error::Unavailable`] if events of the stream were hidden each time that it was read.
    fn read_to_end(&self, read: Read) -> impl Future<Output = Result<Vec<RecordedEvent>>> + Send {
        async move {
            for _ in 0..READINGS {
                let (mut events, mut seam) = (Vec::new(), Seam::of(&read));
                let pages = self.read_pages(read.clone(), |page| {
                    seam.check(&page)?;
                    events.extend(page.events);
                    Ok::<_, Torn>(())
                });
                let read_all = match pages.await {
                    Ok(()) => seam.close(self, &read.source).await,
                    torn => torn,
                };
                match read_all {
                    Ok(()) => return Ok(events),
                    Err(Torn::Failed(error)) => return Err(error),
                    Err(Torn::Gap) => {}
                }
            }
            Err(torn(&read.source))
        }
    }

    /// Sets which events of a stream are kept. Replaces what was set before; what is hidden stays hidden.
    ///
    /// # Errors
    /// Those of [`EventStore::append`].
    fn set_retention(
        &self,
        stream: &StreamName,
        expected: ExpectedRevision,
        retention: Retention,
    ) -> impl Future<Output = Result<Appended>> + Send {
        change_life(self, stream, expected, LifeChange::Retention(retention))
    }

    /// Hides all events of a stream. It can be written again, and its revisions go on.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is nothing to delete, and those of [`EventStore::append`].
    fn delete(
        &self,
        stream: &StreamName,
        expected: ExpectedRevision,
    ) -> impl Future<Output = Result<Appended>> + Send {
        async move {
            let state = self.stream_state(stream).await?;
            if state.last_revision.is_none() || state.life == Life::Deleted {
                return Err(Error::NotFound { what: format!("stream `{stream}` to delete") });
            }
            change_life(self, stream, expected, LifeChange::Deleted).await
        }
    }

    /// Hides all events of a stream for ever; it can never be written again.
    ///
    /// # Errors
    /// Those of [`EventStore::append`].
    fn tombstone(
        &self,
        stream: &StreamName,
        expected: ExpectedRevision,
    ) -> impl Future<Output = Result<Appended>> + Send {
        change_life(self, stream, expected, LifeChange::Tombstoned)
    }
}

impl<S: EventStore + ?Sized> EventStoreExt for S {}

async fn change_life<S: EventStore + ?Sized>(
    store: &S,
    stream: &StreamName,
    expected: ExpectedRevision,
    change: LifeChange,
) -> Result<Appended> {
    let event = change.to_event()?.with_id(EventId::new());
    store.append(Append::to(stream.metadata_stream()?, [event]).expect(stream.clone(), expected)).await
}

/// How often a stream is read, if events of it are hidden while it is.
pub(crate) const READINGS: u32 = 8;

/// Whether the pages of a stream, read forwards, fit together: what is hidden is its beginning, so that what can be seen has no
/// gap, unless more was hidden meanwhile.
#[derive(Debug)]
pub(crate) struct Seam {
    forwards: bool,
    /// Whether it is read as it is, and not as of a moment.
    whole: bool,
    /// What its pages should come to.
    end: Option<Revision>,
    /// What they have come to.
    last: Option<Revision>,
    pages: u32,
}

/// Why pages do not fit together.
#[derive(Debug)]
pub(crate) enum Torn {
    Gap,
    Failed(Error),
}

impl From<Error> for Torn {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Seam {
    pub(crate) fn of(read: &Read) -> Self {
        let forwards = read.direction == Direction::Forwards;
        Self { forwards, whole: read.as_of.is_none(), end: None, last: None, pages: 0 }
    }

    /// # Errors
    /// [`Torn::Gap`] if the page does not fit to those before.
    pub(crate) fn check(&mut self, page: &Page) -> Result<(), Torn> {
        let Some(stream) = page.stream.filter(|_| self.forwards) else { return Ok(()) };
        self.pages += 1;
        if self.pages == 1 {
            self.end = stream.last_revision;
        }
        // Also within a page: a store may look at its events one after the other.
        for event in &page.events {
            if self.last.is_some_and(|last| event.revision != last.next()) {
                return Err(Torn::Gap);
            }
            self.last = Some(event.revision);
        }
        Ok(())
    }

    /// After the last page.
    ///
    /// # Errors
    /// [`Torn::Gap`] if all has gone that came after what was read, and those of [`EventStore::stream_state`].
    pub(crate) async fn close(
        &self,
        store: &(impl EventStore + ?Sized),
        source: &Source,
    ) -> Result<(), Torn> {
        let (Source::Stream(stream), Some(last)) = (source, self.last) else { return Ok(()) };
        // A page's state may be of a later moment than its events. So that it was to come further proves nothing yet.
        let short = if self.whole { self.end > self.last } else { self.pages > 1 };
        if !self.forwards || !short {
            return Ok(());
        }
        // A stream that is deleted hides what came before its next event.
        let gone = store.stream_state(stream).await?.hidden_before > last.next();
        if gone { Err(Torn::Gap) } else { Ok(()) }
    }
}

/// Events were hidden each time that it was read.
pub(crate) fn torn(source: &Source) -> Error {
    let what = match source {
        Source::Stream(stream) => format!("stream `{stream}`"),
        _ => "what was read".to_owned(),
    };
    let why =
        format!("events of {what} were hidden while it was read, each of {READINGS} times; read it again");
    Error::Unavailable { why, outcome: Outcome::No }
}

/// Starts a subscription: everything that matches after `from` (from the beginning, if `None`), then what comes.
///
/// # Errors
/// [`Error::LogRewound`] if `from` belongs to another history.
pub async fn subscribe(
    store: Arc<dyn EventStore>,
    query: Query,
    from: Option<Token>,
) -> Result<Subscription> {
    let from = match from {
        Some(token) => store.locate(token).await?,
        None => store.head().await?.token.log.at(Position::START),
    };
    Ok(Subscription::new(store, query, from))
}

/// How long a subscriber waits for a hint before it looks again all the same.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::NewEvent, memory::MemoryStore};

    async fn torn(store: &MemoryStore, read: &Read, pages: Vec<Page>) -> bool {
        let mut seam = Seam::of(read);
        pages.iter().any(|page| seam.check(page).is_err()) || seam.close(store, &read.source).await.is_err()
    }

    /// Stores look at the events of a page, and at the state of its stream, one after the other.
    #[tokio::test]
    async fn what_fits_together_is_told_from_what_does_not() {
        let (store, stream) = (MemoryStore::new(), StreamName::new("s").unwrap());
        let events = (0..10).map(|_| NewEvent::json_text("E", "{}").unwrap());
        store.append(Append::to(stream.clone(), events)).await.unwrap();
        let read = Read::stream(stream.clone());
        let page = store.read(read.clone()).await.unwrap();
        assert!(!torn(&store, &read, vec![page.clone()]).await);
        let mut gap = page.clone();
        gap.events.drain(3..7);
        assert!(torn(&store, &read, vec![gap]).await);
        let mut short = page.clone();
        short.events.truncate(4);
        assert!(!torn(&store, &read, vec![short.clone()]).await, "only the state is of a later moment");
        let mut empty = page.clone();
        empty.events.clear();
        assert!(!torn(&store, &read, vec![page, empty.clone()]).await, "an empty page at the end");
        store.delete(&stream, ExpectedRevision::Any).await.unwrap();
        assert!(torn(&store, &read, vec![short.clone()]).await, "the rest has gone");
        let then = read.clone().as_of(AsOf::Position(short.head.position));
        assert!(torn(&store, &then, vec![short.clone(), empty]).await);
        assert!(!torn(&store, &read.backwards(), vec![short]).await);
    }
}
