//! Decisions: several small states, each with its own events; what follows from them together is appended as one.

use std::future::Future;

use crate::{
    aggregate::{Aggregate, Entity, Event, Id, Recorded, new_event},
    append::{Append, ExpectedRevision, Guard, Write},
    error::{Error, Result},
    event::RecordedEvent,
    position::Token,
    query::Query,
    read::{AsOf, Read, Source},
    store::EventStore,
};

/// A decision over several things. It is taken on what they were, and holds only if they still are.
pub trait Decide: Send + Sync {
    /// The states it needs: a tuple of [`Model`]s.
    type Models: Models;
    /// Why it can be refused.
    type Error: std::error::Error + Send + Sync + 'static;

    /// The models, before any event.
    fn models(&self) -> Self::Models;

    /// What happens, if it is granted. It may be asked more than once.
    ///
    /// # Errors
    /// Why it is refused.
    fn decide(&self, models: &Self::Models) -> Result<Writes, Self::Error>;
}

/// A small state with the events that it follows from. A decision that used it holds only if no further such event came.
pub trait Model: Send + Sync {
    /// The events it understands.
    type Event: Event;

    /// Which events these are.
    ///
    /// # Errors
    /// What is wrong with a name in it.
    fn query(&self) -> Result<Query>;

    /// Changes the state by what happened.
    fn apply(&mut self, event: &Recorded<Self::Event>);

    /// From where to read, if one stream says it all: then its revision is the guard.
    ///
    /// # Errors
    /// As for [`Model::query`].
    fn source(&self) -> Result<Source> {
        Ok(Source::Query(self.query()?))
    }
}

impl<A: Aggregate> Model for Entity<A> {
    type Event = A::Event;

    fn query(&self) -> Result<Query> {
        Ok(Query::stream(self.id.stream()?))
    }

    fn apply(&mut self, event: &Recorded<A::Event>) {
        self.state.apply(&event.event);
        self.revision = Some(event.record.revision);
    }

    fn source(&self) -> Result<Source> {
        Ok(Source::Stream(self.id.stream()?))
    }
}

/// The models of a decision: a tuple of one to six of them.
pub trait Models: Send + Sync {
    /// Brings each up to date, and returns what must still hold when the decision is written.
    fn load(&mut self, store: &dyn EventStore) -> impl Future<Output = Result<Vec<Guard>>> + Send;

    /// Brings each up to date with what is given.
    ///
    /// # Errors
    /// As for [`Recorded::decode`].
    fn replay(&mut self, events: &[RecordedEvent]) -> Result<()>;
}

macro_rules! models {
    ($($model:ident $n:tt),+) => {
        impl<$($model: Model),+> Models for ($($model,)+) {
            async fn load(&mut self, store: &dyn EventStore) -> Result<Vec<Guard>> {
                Ok(vec![$(load(&mut self.$n, store, None).await?.guard()?),+])
            }

            fn replay(&mut self, events: &[RecordedEvent]) -> Result<()> {
                $(replay(&mut self.$n, events)?;)+
                Ok(())
            }
        }
    };
}
models!(A 0);
models!(A 0, B 1);
models!(A 0, B 1, C 2);
models!(A 0, B 1, C 2, D 3);
models!(A 0, B 1, C 2, D 3, E 4);
models!(A 0, B 1, C 2, D 3, E 4, F 5);

/// How far a model was read.
#[derive(Debug)]
pub(crate) struct Seen {
    source: Source,
    /// The last revision, visible or not, if a stream was read.
    expected: ExpectedRevision,
    /// Everything up to here was taken into account.
    pub(crate) token: Token,
}

impl Seen {
    /// What must still hold for what was seen to be all there is.
    pub(crate) fn guard(self) -> Result<Guard> {
        match self.source {
            Source::Stream(stream) => Ok(Guard::Stream { stream, expected: self.expected }),
            Source::Query(query) => Ok(Guard::Query { query, after: self.token }),
            Source::All => Ok(Guard::Query { query: Query::all(), after: self.token }),
        }
    }
}

/// Brings a model up to date, as of some moment.
pub(crate) async fn load<M: Model>(
    model: &mut M,
    store: &dyn EventStore,
    as_of: Option<AsOf>,
) -> Result<Seen> {
    let source = model.source()?;
    let mut read = Read { source: source.clone(), as_of, ..Read::all() };
    let mut seen = None;
    loop {
        let page = store.read(read.clone()).await?;
        let last = page.stream.and_then(|stream| stream.last_revision);
        // The first page says how the stream is; later ones may know more than is looked at.
        seen.get_or_insert_with(|| Seen {
            source: source.clone(),
            expected: last.map_or(ExpectedRevision::NoStream, ExpectedRevision::Exact),
            token: page.head,
        });
        read.as_of = read.as_of.or(Some(AsOf::Position(page.head.position)));
        for record in page.events {
            model.apply(&Recorded::decode(record)?);
        }
        match page.next {
            Some(next) => read.start = next,
            None => break,
        }
    }
    seen.ok_or_else(|| Error::invalid("a model", "it was never read"))
}

fn replay<M: Model>(model: &mut M, events: &[RecordedEvent]) -> Result<()> {
    let query = model.query()?;
    for record in events.iter().filter(|event| query.matches(event)) {
        model.apply(&Recorded::decode(record.clone())?);
    }
    Ok(())
}

/// Events for several streams, to be appended as one.
#[derive(Debug)]
#[must_use = "a decision returns them"]
pub struct Writes(Result<Vec<Write>>);

impl Writes {
    /// Nothing happens.
    pub fn none() -> Self {
        Self(Ok(Vec::new()))
    }

    /// These events of one aggregate.
    pub fn to<A: Aggregate>(id: &Id<A>, events: impl IntoIterator<Item = A::Event>) -> Self {
        Self::none().and(id, events)
    }

    /// The same, and these of another.
    pub fn and<A: Aggregate>(self, id: &Id<A>, events: impl IntoIterator<Item = A::Event>) -> Self {
        let written = || -> Result<Write> {
            let events = events.into_iter().map(|event| new_event(&event)).collect::<Result<_>>()?;
            Ok(Write { stream: id.stream()?, events })
        };
        Self(self.0.and_then(|mut writes| {
            writes.push(written()?);
            Ok(writes)
        }))
    }

    /// The writes, if every name and event in them is good.
    ///
    /// # Errors
    /// The first that is not.
    pub fn into_append(self) -> Result<Append> {
        let mut writes = self.0?;
        writes.retain(|write| !write.events.is_empty());
        Ok(Append { writes, guards: Vec::new() })
    }
}
