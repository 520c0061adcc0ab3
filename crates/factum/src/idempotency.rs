//! Commands that are done once, however often they are sent.
//!
//! The events of a command with an id say so in a tag. The tag is looked up before the command is decided, and guarded when its
//! events are written; so of two that are sent at once, one finds the other. The ids of its events follow from the command's,
//! so that the store knows them also when they can no longer be read.

use std::{any::type_name, collections::HashMap, fmt};

use serde::Serialize;
use uuid::Uuid;

use crate::{
    aggregate::{Aggregate, Command, Id},
    append::{Append, Guard, Placed},
    decision::Decide,
    error::{Error, Result},
    event::{EventId, Metadata},
    handle::{Done, Factum, Failure, OfOne},
    json,
    name::StreamName,
    position::Token,
    query::Query,
    read::Read,
    store::{EventStore, EventStoreExt},
};

/// Bytes in a command's id, at most: it becomes a tag.
pub const COMMAND_ID_BYTES: usize = 248;

/// What the event ids and digests of identified commands are derived within. It never changes: both are recorded.
const NAMESPACE: Uuid = Uuid::from_u128(0xbdc8_9bb1_1e61_4a9e_9c36_77ac_4c0f_6d11);

/// The tag of the events that the command with this id has recorded: `command:4711`.
pub fn command_tag(command_id: impl fmt::Display) -> String {
    format!("command:{command_id}")
}

/// A handle for the one command with this id: see [`Factum::identified`].
#[derive(Clone, Debug)]
#[must_use]
pub struct Identified<H> {
    pub(crate) handle: H,
    pub(crate) command_id: String,
}

impl Factum {
    /// The same handle for the one command that has this id: a request's idempotency key, a message's id, the id of the event
    /// that it reacts to. Sent again, also by another process and years later, it is not done again:
    /// [`Done::repeated`] says so, and the rest of the answer is that of the first time.
    ///
    /// ```
    /// # use factum::prelude::*;
    /// # #[derive(Serialize, Deserialize)] enum AccountEvent { MoneyWithdrawn { cents: i64 } }
    /// # impl Event for AccountEvent { const CATEGORY: &'static str = "account"; }
    /// # #[derive(Default)] struct Account;
    /// # impl Aggregate for Account { type Event = AccountEvent; fn apply(&mut self, _: &AccountEvent) {} }
    /// # #[derive(Serialize)] struct Withdraw { cents: i64 }
    /// # impl Command<Account> for Withdraw { type Error = std::convert::Infallible;
    /// #   fn decide(&self, _: &Account) -> Result<Vec<AccountEvent>, Self::Error> { Ok(vec![AccountEvent::MoneyWithdrawn { cents: self.cents }]) } }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (factum, account, key) = (Factum::new(factum::MemoryStore::new()), Account::id("17"), "4711");
    /// let first = factum.identified(key).execute(&account, Withdraw { cents: 30 }).await?;
    /// let again = factum.identified(key).execute(&account, Withdraw { cents: 30 }).await?;
    /// assert_eq!((first.repeated, again.repeated), (false, true));
    /// assert_eq!(first.events, again.events);
    /// # Ok(()) }
    /// ```
    ///
    /// The command is compared with the one that had the id first, and so it must be [`Serialize`]: the same id with another
    /// command, or for another aggregate, is an error and never taken for a repetition. What differs each time that it is sent (a
    /// time, a new id) has no place in it, or is `#[serde(skip)]`. The order of a list counts, so that a set that is the same each time
    /// is a `BTreeSet`: a `HashSet` has another order in each process. The type counts with the path of its module and its
    /// parameters: one that was moved or renamed is another command.
    ///
    /// For that, a digest of the command without a key is recorded in the metadata of its events, and whoever has the log can
    /// guess at it: put only opaque or keyed values (ids, sealed texts, an HMAC) into such a command, and no address in plain.
    ///
    /// What is remembered is events: a command that was refused, or had nothing to do, is decided anew.
    pub fn identified(&self, command_id: impl fmt::Display) -> Identified<Self> {
        Identified { handle: self.clone(), command_id: command_id.to_string() }
    }
}

impl<H> Identified<H> {
    /// The command's id: also what makes a request to somebody else the same request, as its `Idempotency-Key`.
    pub fn id(&self) -> &str {
        &self.command_id
    }

    /// The handle, for what is no part of the command: to load, to ask for the time.
    pub fn handle(&self) -> &H {
        &self.handle
    }
}

impl Identified<Factum> {
    /// As [`Factum::execute`], once.
    ///
    /// # Errors
    /// [`Failure::Refused`] with the command's own error; [`Failure::Store`] otherwise, with [`Error::InvalidInput`] if the id is
    /// that of another command.
    pub async fn execute<A, C>(&self, id: &Id<A>, command: C) -> Result<Done, Failure<C::Error>>
    where
        A: Aggregate,
        C: Command<A> + Serialize,
    {
        let identity = Identity::of(&self.command_id, Some(id.stream()?), &command)?;
        self.handle.take(&OfOne { id, command: &command }, Some(&identity)).await
    }

    /// As [`Factum::decide`], once.
    ///
    /// # Errors
    /// [`Failure::Refused`] with the decision's own error; [`Failure::Store`] otherwise, with [`Error::InvalidInput`] if the id is
    /// that of another command.
    pub async fn decide<D: Decide + Serialize>(&self, decision: D) -> Result<Done, Failure<D::Error>> {
        let identity = Identity::of(&self.command_id, None, &decision)?;
        self.handle.take(&decision, Some(&identity)).await
    }
}

/// The name of a type without its path and parameters.
pub(crate) fn short_name<T: ?Sized>() -> &'static str {
    let name = type_name::<T>();
    let (mut bare, mut depth) = (name, 0_u32);
    // Up to the parameters, if it ends with some. The `>` of an arrow closes nothing.
    for (at, c) in name.char_indices().rev() {
        match c {
            '>' if !name[..at].ends_with('-') => depth += 1,
            '<' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            bare = if c == '<' { &name[..at] } else { name };
            break;
        }
    }
    bare.rsplit("::").next().unwrap_or(bare)
}

/// The name of a type, and of its parameters, without their paths: `Pay<Euro>`.
fn full_name(full: &str) -> String {
    // Where the paths begin: that of the whole, and those within brackets that are open.
    let (mut name, mut paths) = (String::new(), vec![0]);
    let (mut rest, mut before) = (full, ' ');
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("::") {
            name.truncate(paths.last().copied().unwrap_or_default());
            (rest, before) = (after, ':');
            continue;
        }
        let closes = matches!(c, ')' | ']' | '}') || c == '>' && before != '-';
        if closes && paths.len() > 1 {
            paths.pop();
        }
        name.push(c);
        if matches!(c, '<' | '(' | '[' | '{') {
            paths.push(name.len());
        } else if !closes
            && !c.is_alphanumeric()
            && c != '_'
            && let Some(path) = paths.last_mut()
        {
            *path = name.len();
        }
        (rest, before) = (&rest[c.len_utf8()..], c);
    }
    name
}

/// A command's id, and what tells the command from others.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    id: String,
    /// The command's type, for people: without paths.
    pub(crate) name: String,
    /// Stands for its type, with paths and parameters; for its content; and for the stream that it is for.
    pub(crate) digest: String,
}

/// Whether a command was done before.
pub(crate) enum Before {
    /// Nothing of it can be read, and this must still hold when its events are written.
    Never(Guard),
    Done(Earlier),
}

/// What a command has recorded earlier.
pub(crate) struct Earlier {
    pub(crate) token: Token,
    pub(crate) events: Vec<Placed>,
    pub(crate) correlation_id: Option<String>,
}

impl Identity {
    pub(crate) fn of<C: Serialize>(id: &str, stream: Option<StreamName>, command: &C) -> Result<Self> {
        let wrong = |why: &str| Err(Error::invalid(format!("the command id `{id}`"), why));
        if id.is_empty() {
            return wrong("it is empty; give it at least one character");
        }
        if id.len() > COMMAND_ID_BYTES {
            return wrong("it is longer than 248 bytes; give a digest of it");
        }
        let path = type_name::<C>();
        let name = full_name(path);
        let json = serde_json::to_vec(command).map_err(|e| {
            Error::invalid(format!("the command `{name}`"), format!("it cannot be JSON: {e}"))
        })?;
        let mut content = json::canonical(&json);
        content.push(0);
        content.extend_from_slice(path.as_bytes());
        if let Some(stream) = stream {
            content.push(0);
            content.extend_from_slice(stream.as_bytes());
        }
        let digest = EventId::derived(NAMESPACE, content).to_string();
        Ok(Self { id: id.to_owned(), name, digest })
    }

    /// The id, as it was given.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    fn query(&self) -> Result<Query> {
        Query::tags([command_tag(&self.id)])
    }

    /// Looks for what the command has recorded.
    pub(crate) async fn look_up(&self, store: &dyn EventStore) -> Result<Before> {
        let query = self.query()?;
        let (mut seen, mut events, mut flow) = (None, Vec::new(), None);
        let pages = store.read_pages(Read::query(query.clone()), |page| {
            seen = Some(page.token);
            for event in page.events {
                self.check(&event.metadata, event.position)?;
                flow = flow.take().or_else(|| event.metadata.correlation_id());
                events.push(Placed { position: event.position, revision: event.revision });
            }
            Ok::<_, Error>(())
        });
        pages.await?;
        let after = seen.ok_or_else(|| Error::invalid("the read", "it gave no page"))?;
        Ok(match events.last() {
            None => Before::Never(Guard::Query { query, after }),
            Some(last) => {
                Before::Done(Earlier { token: after.log.at(last.position), events, correlation_id: flow })
            }
        })
    }

    /// Whether what is recorded under this id is this command's.
    fn check(&self, recorded: &Metadata, position: impl fmt::Display) -> Result<()> {
        let (name, digest) = (recorded.get("command"), recorded.get("command_digest"));
        if name.as_deref() == Some(&self.name) && digest.as_deref() == Some(&self.digest) {
            return Ok(());
        }
        let (id, own) = (&self.id, &self.name);
        let other = match name {
            Some(name) if name == *own => format!("another `{own}`"),
            Some(name) => format!("`{name}`"),
            None => "something else".into(),
        };
        let why =
            format!("{other} had it before (at position {position}); give this `{own}` an id of its own");
        Err(Error::invalid(format!("the command id `{id}`"), why))
    }

    /// Marks what the command is about to record.
    pub(crate) fn mark(&self, append: &mut Append) -> Result<()> {
        let tag = command_tag(&self.id);
        let mut counts: HashMap<&StreamName, u64> = HashMap::new();
        for write in &mut append.writes {
            let count = counts.entry(&write.stream).or_default();
            for event in &mut write.events {
                event.tags = event.tags.with(&tag)?;
                event.id = EventId::derived(NAMESPACE, format!("{}\n{count}\n{}", write.stream, self.id));
                *count += 1;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, marker::PhantomData};

    use super::*;

    struct Local;
    impl Local {
        fn names_within() -> (String, &'static str) {
            struct Inner<T>(PhantomData<T>);
            (full_name(type_name::<Inner<Factum>>()), short_name::<Inner<Factum>>())
        }
    }

    #[test]
    fn names_have_no_paths() {
        assert_eq!(full_name(type_name::<Identity>()), "Identity");
        assert_eq!(full_name(type_name::<&str>()), "&str");
        assert_eq!(
            full_name(type_name::<Identified<BTreeMap<String, (u8, Factum)>>>()),
            "Identified<BTreeMap<String, (u8, Factum)>>"
        );
        assert_eq!(full_name(type_name::<fn(Factum) -> Option<Done>>()), "fn(Factum) -> Option<Done>");
        assert_eq!(full_name("a::<impl a::B for a::c::D>::f::Pay"), "Pay");
        assert_eq!(full_name("a::{impl#0}::f::Pay<[a::B; 2], <a::C as a::D>::E>"), "Pay<[B; 2], E>");
        assert_eq!(short_name::<PhantomData<Factum>>(), "PhantomData");
        assert_eq!(short_name::<Option<fn(u8) -> Option<Done>>>(), "Option");
        assert_eq!(short_name::<Factum>(), "Factum");
        assert_eq!(Local::names_within(), ("Inner<Factum>".to_owned(), "Inner"));
    }
}
