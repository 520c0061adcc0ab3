//! Snapshots: a state that is kept, so that a long history need not be read from its beginning each time.
//!
//! A snapshot saves time and decides nothing. The log is asked whether it bears a snapshot out, at every load; where it does not,
//! and whenever anything about the snapshot is in doubt, the state is made from the log as if there were none:
//!
//! | what could be wrong | how it is noticed |
//! |---|---|
//! | its bytes are not those that were written, or are another key's | a digest over the key and all that it says |
//! | the state's type has another shape today, or another meaning | shapes, evolution and [version](Snapshots::version) are in the key |
//! | it was made from another log, or from a history that was rewound | the log's id and epoch are in it |
//! | its last event is not in the log (any more) | the event is read again: revision, position, time and id must be the same |
//! | events were hidden since: truncated, deleted, scavenged | what the stream hides must be what it hid then |
//! | the state does not come back from JSON as it was | it is read back when it is made, and must be equal ([`PartialEq`]) |
//! | the store fails, panics, or takes too long | what it says is not waited for longer than the [patience](Keeper::patience) |
//!
//! Only states that the log has led to are ever kept: a load that had to apply at least so many events writes what came of them,
//! in the background, when it is done.
//!
//! ```
//! # use factum::{MemorySnapshots, MemoryStore, Snapshots, prelude::*};
//! # #[derive(Serialize, Deserialize)] enum AccountEvent { MoneyDeposited { cents: i64 } }
//! # impl Event for AccountEvent { const CATEGORY: &'static str = "account"; }
//! #[derive(Default, PartialEq, Serialize, Deserialize)]
//! struct Account { cents: i64 }
//!
//! impl Aggregate for Account {
//!     type Event = AccountEvent;
//!     fn apply(&mut self, event: &AccountEvent) {
//!         let AccountEvent::MoneyDeposited { cents } = event;
//!         self.cents += cents;
//!     }
//!     fn snapshots() -> Option<Snapshots<Self>> {
//!         Some(Snapshots::every(100))
//!     }
//! }
//!
//! let factum = Factum::new(MemoryStore::new()).with_snapshots(MemorySnapshots::new());
//! ```

mod keeper;

use std::{
    any::type_name,
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

pub(crate) use self::keeper::{Found, Held, Place, Seal};
pub use self::keeper::{Keeper, Kept, SnapshotStatus};
use crate::{aggregate::Aggregate, codec, error::Result, evolution::Evolution, name::StreamName, shape};

/// Forms of one stream's state that a store keeps; of more, those go that were put longest ago.
pub const FORMS: usize = 8;
/// Streams that [`MemorySnapshots::new`] holds.
const STREAMS: usize = 10_000;

/// That an aggregate has snapshots, and how often. See [`Aggregate::snapshots`].
pub struct Snapshots<A> {
    pub(crate) every: u64,
    pub(crate) version: u32,
    /// What the state and its events look like. It takes a while: ask once.
    pub(crate) form: fn() -> Result<Vec<String>>,
    pub(crate) save: fn(&A) -> serde_json::Result<String>,
    pub(crate) restore: fn(&str) -> serde_json::Result<A>,
    pub(crate) same: fn(&A, &A) -> bool,
}

impl<A: Aggregate + Serialize + DeserializeOwned + PartialEq> Snapshots<A> {
    /// One whenever a load had to apply at least so many events.
    ///
    /// The state is kept as JSON, and read back and compared when it is made: where they differ, as with a field that serde
    /// skips, there is no snapshot, and [`Keeper::status`] says why.
    pub fn every(events: u64) -> Self {
        Self {
            every: events.max(1),
            version: 1,
            form: form::<A>,
            save: serde_json::to_string,
            restore: |json| serde_json::from_str(json),
            same: A::eq,
        }
    }
}

impl<A> Snapshots<A> {
    /// Raise it when events come to mean something else: when `apply`, or the function of an `upcast` or a `split`, does something
    /// else with the events that there are. Snapshots of other versions are not looked at. Noticed without are another evolution
    /// (a step that comes, goes or leads elsewhere) and another *shape*, of the state or of its events, as far as [`shape::of`] can
    /// see it (not within `untagged` and `flatten`).
    #[must_use]
    pub fn version(self, version: u32) -> Self {
        Self { version, ..self }
    }
}

impl<A> Clone for Snapshots<A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for Snapshots<A> {}

impl<A> fmt::Debug for Snapshots<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Snapshots::every({}).version({})", self.every, self.version)
    }
}

/// All that tells whether a state that was kept can be one of `A` today. A type that moved or was renamed costs no more than a
/// snapshot; one that is taken for another would cost the truth.
fn form<A: Aggregate + DeserializeOwned>() -> Result<Vec<String>> {
    let mut form = vec![type_name::<A>().to_owned()];
    // A field that serde does not see may have come or gone: that shows in the size, nearly always.
    form.push(size_of::<A>().to_string());
    form.push(shape::of::<A>().hash().to_string());
    // A program that knows less of the events makes another state of them, as while a new version replaces an old one.
    form.push(shape::of::<A::Event>().hash().to_string());
    form.extend(codec::stored_types::<A::Event>()?);
    // What older events become, and what is passed over, is in the state as well.
    form.push(format!("{:?}", Evolution::<A::Event>::of()?));
    Ok(form)
}

/// Which state: of which stream, and in which form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotKey {
    /// The stream that it was made from.
    pub stream: StreamName,
    /// A name for all that the state's type is: what it is called, its version, its shape, and shape and evolution of its events.
    pub form: String,
}

/// Where snapshots are kept: a place for texts by key, that may forget.
///
/// - [`get`](SnapshotStore::get) MUST give the very text that was put last under that key, or none.
/// - A change MUST be whole or not at all, also under others at the same time.
/// - Of one stream it MUST keep the [`FORMS`] that were put last, unless it forgets the stream, and SHOULD drop all others, which
///   belong to programs of the past.
/// - It MAY forget anything at any time, and need not survive a crash.
/// - Its functions must not block the thread: whoever loads cannot stop waiting then.
///
/// `factum_conformance::snapshots::check` is that as code.
#[async_trait]
pub trait SnapshotStore: Send + Sync + fmt::Debug + 'static {
    /// The snapshot of that key.
    ///
    /// # Errors
    /// Failures of the store.
    async fn get(&self, key: &SnapshotKey) -> Result<Option<String>>;

    /// Keeps a snapshot, in place of the one that was there.
    ///
    /// # Errors
    /// Failures of the store.
    async fn put(&self, key: &SnapshotKey, snapshot: String) -> Result<()>;

    /// Forgets all of a stream, in every form. Not an error if there is nothing.
    ///
    /// # Errors
    /// Failures of the store.
    async fn delete(&self, stream: &StreamName) -> Result<()>;

    /// Forgets everything.
    ///
    /// # Errors
    /// Failures of the store.
    async fn clear(&self) -> Result<()>;
}

/// Snapshots in memory, gone with the process: each long history is read once after a start.
pub struct MemorySnapshots {
    capacity: usize,
    held: Mutex<HeldInMemory>,
}

#[derive(Default)]
struct HeldInMemory {
    streams: HashMap<StreamName, Forms>,
    /// When each stream was last put, the longest ago first.
    by_age: BTreeMap<u64, StreamName>,
    puts: u64,
}

#[derive(Default)]
struct Forms {
    put_at: u64,
    /// Form and snapshot, put last at the end.
    texts: Vec<(String, String)>,
}

impl Default for MemorySnapshots {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemorySnapshots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemorySnapshots({} of {} streams)", self.held().streams.len(), self.capacity)
    }
}

impl MemorySnapshots {
    /// Room for ten thousand streams.
    pub fn new() -> Self {
        Self::holding(STREAMS)
    }

    /// Room for so many streams: of more, those go that were put longest ago.
    pub fn holding(streams: usize) -> Self {
        Self { capacity: streams.max(1), held: Mutex::default() }
    }

    fn held(&self) -> MutexGuard<'_, HeldInMemory> {
        // Nothing in between can panic, and what is held may be forgotten anyway.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HeldInMemory {
    fn remove(&mut self, stream: &StreamName) -> Option<Forms> {
        let forms = self.streams.remove(stream)?;
        self.by_age.remove(&forms.put_at);
        Some(forms)
    }
}

#[async_trait]
impl SnapshotStore for MemorySnapshots {
    async fn get(&self, key: &SnapshotKey) -> Result<Option<String>> {
        let held = self.held();
        let forms = held.streams.get(&key.stream);
        Ok(forms.and_then(|forms| {
            let (_, text) = forms.texts.iter().find(|(form, _)| *form == key.form)?;
            Some(text.clone())
        }))
    }

    async fn put(&self, key: &SnapshotKey, snapshot: String) -> Result<()> {
        let mut held = self.held();
        let mut forms = held.remove(&key.stream).unwrap_or_default();
        forms.texts.retain(|(form, _)| *form != key.form);
        if forms.texts.len() == FORMS {
            forms.texts.remove(0);
        }
        forms.texts.push((key.form.clone(), snapshot));
        held.puts += 1;
        forms.put_at = held.puts;
        held.by_age.insert(forms.put_at, key.stream.clone());
        held.streams.insert(key.stream.clone(), forms);
        if held.streams.len() > self.capacity
            && let Some((_, oldest)) = held.by_age.pop_first()
        {
            held.streams.remove(&oldest);
        }
        Ok(())
    }

    async fn delete(&self, stream: &StreamName) -> Result<()> {
        self.held().remove(stream);
        Ok(())
    }

    async fn clear(&self) -> Result<()> {
        *self.held() = HeldInMemory::default();
        Ok(())
    }
}

/// What the digests of snapshots and the names of their forms begin from.
const NAMESPACE: Uuid = Uuid::from_u128(0x7d31_c0a5_52f4_4e0b_9d4c_6a1e_8b3f_2c90);

/// A digest of these parts: no two lists of parts run into the same bytes.
fn digest<'a>(parts: impl IntoIterator<Item = &'a str>) -> Uuid {
    let mut bytes = Vec::with_capacity(1024);
    for part in parts {
        bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    Uuid::new_v5(&NAMESPACE, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prelude::*;

    macro_rules! version {
        ($name:ident, $events:item, $state:item) => {
            fn $name() -> String {
                #[derive(Serialize, Deserialize)]
                $events
                impl Event for MeterEvent {
                    const CATEGORY: &'static str = "meter";
                }
                #[derive(Default, PartialEq, Serialize, Deserialize)]
                $state
                impl Aggregate for Meter {
                    type Event = MeterEvent;
                    fn apply(&mut self, _: &MeterEvent) {}
                    fn snapshots() -> Option<Snapshots<Self>> {
                        Some(Snapshots::every(1))
                    }
                }
                form_of::<Meter>()
            }
        };
    }
    version!(
        first,
        enum MeterEvent {
            Read { value: u64 },
        },
        struct Meter {
            value: u64,
        }
    );
    version!(
        again,
        enum MeterEvent {
            Read { value: u64 },
        },
        struct Meter {
            value: u64,
        }
    );
    version!(
        other_field,
        enum MeterEvent {
            Read { value: u64 },
        },
        struct Meter {
            #[serde(default)]
            reads: u64,
        }
    );
    version!(
        other_type,
        enum MeterEvent {
            Read { value: u64 },
        },
        struct Meter {
            value: i64,
        }
    );
    version!(
        skipped,
        enum MeterEvent {
            Read { value: u64 },
        },
        struct Meter {
            value: u64,
            #[serde(skip)]
            _x: u64,
        }
    );
    version!(
        event_field,
        enum MeterEvent {
            Read {
                value: u64,
                #[serde(default)]
                by: String,
            },
        },
        struct Meter {
            value: u64,
        }
    );
    version!(
        event_kind,
        enum MeterEvent {
            Read { value: u64 },
            Reset,
        },
        struct Meter {
            value: u64,
        }
    );

    /// What tells the forms of a type apart, without what its path tells.
    fn form_of<A: Aggregate>() -> String {
        (A::snapshots().unwrap().form)().unwrap()[1..].join(" ")
    }

    #[test]
    fn another_shape_of_the_state_or_of_its_events_is_another_form() {
        assert_eq!(first(), again());
        for (name, other) in [
            ("a field of another name, with a default", other_field()),
            ("a field of another type", other_type()),
            ("a field that serde skips", skipped()),
            ("a field more in an event, with a default", event_field()),
            ("a kind of event more", event_kind()),
        ] {
            assert_ne!(first(), other, "{name}");
        }
    }

    /// The same state and events, read by programs that differ in what older events mean to them.
    #[derive(Serialize, Deserialize)]
    enum Sold<const PROGRAM: u8> {
        Deposited { cents: i64 },
    }

    impl<const PROGRAM: u8> Event for Sold<PROGRAM> {
        const CATEGORY: &'static str = "till";
        fn evolution() -> Evolution<Self> {
            let evolution = Evolution::new().rename("Paid", "Deposited");
            match PROGRAM {
                0 | 1 => evolution.rename("Refunded", "Deposited"),
                2 => evolution.rename("Refunded", "Paid"),
                3 => evolution.drop("Refunded"),
                4 => evolution.split("Refunded", |(): ()| []),
                5 => evolution.upcast("Refunded", "Deposited", |(): ()| ()),
                _ => evolution.rename("Refunded", "Deposited").ignore_unknown(),
            }
        }
    }

    #[derive(Default, PartialEq, Serialize, Deserialize)]
    struct Till<const PROGRAM: u8> {
        cents: i64,
    }

    impl<const PROGRAM: u8> Aggregate for Till<PROGRAM> {
        type Event = Sold<PROGRAM>;
        fn apply(&mut self, Sold::Deposited { cents }: &Sold<PROGRAM>) {
            self.cents += cents;
        }
        fn snapshots() -> Option<Snapshots<Self>> {
            Some(Snapshots::every(1))
        }
    }

    #[test]
    fn another_evolution_of_the_events_is_another_form() {
        let forms = [
            form_of::<Till<1>>(),
            form_of::<Till<2>>(),
            form_of::<Till<3>>(),
            form_of::<Till<4>>(),
            form_of::<Till<5>>(),
            form_of::<Till<6>>(),
        ];
        assert_eq!(form_of::<Till<0>>(), forms[0]);
        for (n, form) in forms.iter().enumerate() {
            assert!(!forms[..n].contains(form), "{form}");
        }
    }
}
