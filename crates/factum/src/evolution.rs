//! How events of older shapes become those of today: when they are read, never where they are stored.
//!
//! A stored type's name pins its shape. A variant whose shape changes gets a new version, so that new events are stored under
//! another name (`Deposited.v2`), and an upcaster says what the old ones are now.
//!
//! ```
//! # use factum::{codec, prelude::*};
//! #[derive(Debug, PartialEq, Serialize, Deserialize)]
//! enum AccountEvent {
//!     AccountOpened { owner: String },
//!     Deposited { cents: u64 },
//!     Withdrawn { cents: u64 },
//! }
//!
//! /// Version 1 counted in whole euros.
//! #[derive(Deserialize)]
//! struct DepositedV1 { euros: u64 }
//! #[derive(Serialize)]
//! struct DepositedV2 { cents: u64 }
//! #[derive(Deserialize)]
//! struct Corrected { by: i64 }
//!
//! impl Event for AccountEvent {
//!     const CATEGORY: &'static str = "account";
//!     const VERSIONS: &'static [(&'static str, u32)] = &[("Deposited", 2)];
//!
//!     fn evolution() -> Evolution<Self> {
//!         Evolution::new()
//!             .rename("Opened", "AccountOpened")
//!             .upcast("Deposited", "Deposited.v2", |old: DepositedV1| DepositedV2 { cents: old.euros * 100 })
//!             .split("Corrected", |old: Corrected| match u64::try_from(old.by) {
//!                 Ok(0) => vec![],
//!                 Ok(cents) => vec![AccountEvent::Deposited { cents }],
//!                 Err(_) => vec![AccountEvent::Withdrawn { cents: old.by.unsigned_abs() }],
//!             })
//!             .drop("LoggedIn")
//!     }
//! }
//!
//! let stored = |event_type: &str, json: &'static str| codec::upcast::<AccountEvent>(event_type, json.as_bytes());
//! assert_eq!(stored("Deposited", r#"{"euros":7}"#)?, [AccountEvent::Deposited { cents: 700 }]);
//! assert_eq!(stored("Deposited.v2", r#"{"cents":7}"#)?, [AccountEvent::Deposited { cents: 7 }]);
//! assert_eq!(stored("Corrected", r#"{"by":-5}"#)?, [AccountEvent::Withdrawn { cents: 5 }]);
//! assert_eq!(stored("LoggedIn", "{}")?, []);
//! assert_eq!(codec::encode(&AccountEvent::Deposited { cents: 7 })?.event_type.as_str(), "Deposited.v2");
//! # Ok::<(), factum::Error>(())
//! ```
//!
//! To **merge** two types, upcast both to one. Events of today's shapes pay nothing for any of this.

use std::{
    any::{Any, TypeId, type_name},
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, LazyLock, OnceLock, PoisonError, RwLock},
};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    aggregate::Event,
    codec,
    error::{Error, Result},
    event::RecordedEvent,
    shape::{self, Traced},
};

type Convert = dyn Fn(&RecordedEvent, &[u8]) -> serde_json::Result<Vec<u8>> + Send + Sync;
type Split<E> = dyn Fn(&RecordedEvent, &[u8]) -> serde_json::Result<Vec<E>> + Send + Sync;

/// Finds the shape of the content that a step takes.
type Content = fn() -> Traced;

/// Where steps end.
enum End<'a> {
    /// At this name.
    Name(&'a str),
    /// In a split.
    Several,
    Nothing,
}

/// What older events of `E` are today: see the [module](self).
pub struct Evolution<E> {
    steps: BTreeMap<String, Step<E>>,
    ignore_unknown: bool,
    /// What was said twice of one name.
    twice: Option<String>,
    /// See [`codec::written_as`].
    written_as: OnceLock<Vec<&'static str>>,
}

enum Step<E> {
    /// Events of another name and shape, which may be an older one still.
    To { name: String, convert: Option<(Box<Convert>, Content)> },
    /// Any number of today's events.
    Split(Box<Split<E>>, Content),
    /// Nothing.
    Drop,
}

impl<E: Event> Default for Evolution<E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<E: Event> Evolution<E> {
    /// Nothing has changed: every stored event has today's shape.
    pub fn new() -> Self {
        Self { steps: BTreeMap::new(), ignore_unknown: false, twice: None, written_as: OnceLock::new() }
    }

    /// Events stored as `from`, whose content was an `A`, are events `to` with the content `B`. `to` may itself be an older
    /// name: one step leads to the next.
    #[must_use]
    pub fn upcast<A, B>(self, from: &str, to: &str, upcast: impl Fn(A) -> B + Send + Sync + 'static) -> Self
    where
        A: DeserializeOwned,
        B: Serialize,
    {
        self.upcast_with(from, to, move |old, _| upcast(old))
    }

    /// The same, where the new content takes something from the record: when it was recorded, by whom, in which stream.
    #[must_use]
    pub fn upcast_with<A, B>(
        self,
        from: &str,
        to: &str,
        upcast: impl Fn(A, &RecordedEvent) -> B + Send + Sync + 'static,
    ) -> Self
    where
        A: DeserializeOwned,
        B: Serialize,
    {
        let convert = move |record: &RecordedEvent, data: &[u8]| {
            serde_json::to_vec(&upcast(serde_json::from_slice(data)?, record))
        };
        self.step(from, Step::To { name: to.into(), convert: Some((Box::new(convert), shape::trace::<A>)) })
    }

    /// Events stored as `from` are called `to` now; their content is the same.
    #[must_use]
    pub fn rename(self, from: &str, to: &str) -> Self {
        self.step(from, Step::To { name: to.into(), convert: None })
    }

    /// An event stored as `from` is any number of today's: several, one, or none.
    ///
    /// Its parts keep its place: they have one position and revision, and are always handled together.
    #[must_use]
    pub fn split<A, P>(self, from: &str, split: impl Fn(A) -> P + Send + Sync + 'static) -> Self
    where
        A: DeserializeOwned,
        P: IntoIterator<Item = E>,
    {
        let split = move |_: &RecordedEvent, data: &[u8]| {
            Ok(split(serde_json::from_slice(data)?).into_iter().collect())
        };
        self.step(from, Step::Split(Box::new(split), shape::trace::<A>))
    }

    /// Events stored as `from` mean nothing any more, in whatever format their data is. They stay in the log; who reads it by [`Event`]s
    /// does not see them.
    #[must_use]
    pub fn drop(self, from: &str) -> Self {
        self.step(from, Step::Drop)
    }

    /// Types that nobody knows are passed over, in whatever format their data is. Without this they are an error: a program that is
    /// older than the log would decide on half of what happened. Another version of a kind that is known, by today's name or an older
    /// one, is an error in any case.
    ///
    /// This stands in the place of serde's `#[serde(other)]`, which is refused: with it no step would ever be taken.
    #[must_use]
    pub fn ignore_unknown(mut self) -> Self {
        self.ignore_unknown = true;
        self
    }

    fn step(mut self, from: &str, step: Step<E>) -> Self {
        if self.steps.insert(from.to_owned(), step).is_some() {
            self.twice = Some(from.to_owned());
        }
        self
    }

    /// The evolution of `E`, made and checked once.
    pub(crate) fn of() -> Result<Arc<Self>> {
        static KNOWN: LazyLock<RwLock<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>> =
            LazyLock::new(RwLock::default);
        // Nothing panics while one of these locks is held.
        let known = KNOWN.read().unwrap_or_else(PoisonError::into_inner).get(&TypeId::of::<E>()).cloned();
        if let Some(Ok(known)) = known.map(Arc::downcast::<Self>) {
            return Ok(known);
        }
        let made = E::evolution();
        made.check()?;
        let made = Arc::new(made);
        KNOWN.write().unwrap_or_else(PoisonError::into_inner).insert(TypeId::of::<E>(), made.clone());
        Ok(made)
    }

    /// Whether each step begins at an older name and leads to one of today.
    fn check(&self) -> Result<()> {
        let wrong =
            |why: String| Err(Error::invalid(format!("the evolution of `{}`", type_name::<E>()), why));
        if codec::takes_anything::<E>() {
            return wrong(
                "this enum takes events of any type, so that no step would ever be taken: it has #[serde(other)]; use `ignore_unknown` \
                 in its place"
                    .to_owned(),
            );
        }
        if self.steps.is_empty() && E::VERSIONS.is_empty() {
            return Ok(());
        }
        if let Some(name) = &self.twice {
            return wrong(format!("there are two steps for `{name}`; leave one"));
        }
        let today = codec::today::<E>()?;
        if let Some(name) = today.iter().find(|name| self.steps.contains_key(*name)) {
            return wrong(format!(
                "`{name}` is how events are stored today, so its step would never be taken; give the variant a new version \
                 (`VERSIONS`, or `#[event(version = 2)]`) or the old events another name"
            ));
        }
        for from in self.steps.keys() {
            match self.destination(from) {
                Some(End::Name(end)) if !today.iter().any(|name| name == end) => {
                    let today = today.join("`, `");
                    return wrong(format!(
                        "the step from `{from}` ends at `{end}`, which nothing is stored as and no step begins at; today's are `{today}`"
                    ));
                }
                None => return wrong(format!("the steps from `{from}` lead round in a circle")),
                _ => {}
            }
        }
        Ok(())
    }

    /// Where the steps from `from` end. `None`: they lead round in a circle.
    fn destination<'a>(&'a self, from: &'a str) -> Option<End<'a>> {
        let mut name = from;
        for _ in 0..=self.steps.len() {
            match self.steps.get(name) {
                Some(Step::To { name: to, .. }) => name = to,
                Some(Step::Split(..)) => return Some(End::Several),
                Some(Step::Drop) => return Some(End::Nothing),
                None => return Some(End::Name(name)),
            }
        }
        None
    }

    /// The older names.
    pub(crate) fn older(&self) -> impl Iterator<Item = &str> {
        self.steps.keys().map(String::as_str)
    }

    /// The content of events of an older name, as the first step takes it. `Err`: the step takes it as that of another name.
    /// `None`: it does not look at it.
    pub(crate) fn content(&self, name: &str) -> Option<Result<Traced, &str>> {
        match self.steps.get(name)? {
            Step::To { convert: Some((_, content)), .. } | Step::Split(_, content) => Some(Ok(content())),
            Step::To { name, convert: None } => Some(Err(name)),
            Step::Drop => None,
        }
    }

    /// The older names whose events can be today's `name`: those that lead there, and those that are split.
    pub(crate) fn leading_to(&self, name: &str) -> impl Iterator<Item = &str> {
        self.older().filter(move |from| match self.destination(from) {
            Some(End::Name(end)) => end == name,
            Some(End::Several) => true,
            Some(End::Nothing) | None => false,
        })
    }

    /// Whether events of this older name mean nothing any more, at once or step by step.
    pub(crate) fn drops(&self, name: &str) -> bool {
        matches!(self.destination(name), Some(End::Nothing))
    }

    /// What [`codec::written_as`] says. It takes a while where there are aliases, so it is asked once.
    pub(crate) fn written_as(&self) -> Result<&[&'static str]> {
        if let Some(known) = self.written_as.get() {
            return Ok(known);
        }
        let found = codec::written_as::<E>()?;
        Ok(self.written_as.get_or_init(|| found))
    }

    /// Whether types that nobody knows are passed over.
    pub(crate) fn ignores_unknown(&self) -> bool {
        self.ignore_unknown
    }

    /// What an event stored under an older name is today. `None`: it is not of an older name.
    pub(crate) fn apply(
        &self,
        record: &RecordedEvent,
        each: &mut dyn FnMut(E),
    ) -> Option<serde_json::Result<()>> {
        self.steps.contains_key(record.event_type.as_str()).then(|| self.walk(record, each))
    }

    fn walk(&self, record: &RecordedEvent, each: &mut dyn FnMut(E)) -> serde_json::Result<()> {
        let (mut name, mut data) = (record.event_type.as_str(), Cow::from(&record.data[..]));
        // It ends: there is no circle.
        while let Some(step) = self.steps.get(name) {
            match step {
                Step::To { name: to, convert } => {
                    if let Some((convert, _)) = convert {
                        data = convert(record, &data)?.into();
                    }
                    name = to;
                }
                Step::Split(split, _) => {
                    split(record, &data)?.into_iter().for_each(each);
                    return Ok(());
                }
                Step::Drop => return Ok(()),
            }
        }
        each(codec::decode_today(name, &data)?);
        Ok(())
    }
}

impl<E> fmt::Debug for Evolution<E> {
    /// Two that differ in what an older event becomes, but for what a function does, are not written the same.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps = self.steps.iter().map(|(from, step)| match step {
            Step::To { name, convert: Some(_) } => format!("upcast {from:?} to {name:?}"),
            Step::To { name, convert: None } => format!("rename {from:?} to {name:?}"),
            Step::Split(..) => format!("split {from:?}"),
            Step::Drop => format!("drop {from:?}"),
        });
        let ignore_unknown = self.ignore_unknown.then(|| "ignore_unknown".to_owned());
        write!(f, "Evolution [{}]", steps.chain(ignore_unknown).collect::<Vec<_>>().join(", "))
    }
}
