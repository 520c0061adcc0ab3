//! factum: event sourcing and CQRS, complete.
//!
//! This crate holds the words, the contract and the pure logic; it knows no disk, no network and no SQL.

pub mod admission;
pub mod aggregate;
pub mod append;
pub mod audit;
pub mod batch;
pub mod bus;
pub mod codec;
pub mod consumer;
pub mod decision;
pub mod documents;
pub mod error;
pub mod event;
pub mod evolution;
pub mod handle;
pub mod handler;
pub mod idempotency;
pub mod ids;
mod json;
pub mod lock;
pub mod memory;
mod metrics;
pub mod moment;
pub mod name;
pub mod pass;
pub mod position;
pub mod prelude;
pub mod process;
mod progress;
pub mod projection;
pub mod query;
pub mod read;
pub mod reads;
pub mod rebuild;
pub mod shape;
pub mod snapshot;
pub mod store;
pub mod stream;
pub mod subscription;
pub mod tagged;
pub mod tags;
mod tenure;
pub mod testkit;
pub mod time;
pub mod timers;
mod worker;

pub use self::{
    aggregate::{Aggregate, Command, Event, EventSet, Id, Recorded, refuse_if},
    append::{Append, Appended, Durability, ExpectedRevision, Guard, Limits, Placed, Write},
    consumer::{Consumer, State, Status},
    decision::{Decide, Entity, Model, Models, Writes},
    error::{Error, Outcome, Result},
    event::{ContentType, EventId, Metadata, NewEvent, RecordedEvent},
    evolution::Evolution,
    handle::{Done, Factum, Failure},
    handler::{DeadLetter, EventBus, EventHandler, Parked, Processor, Sink, Stuck, Trouble},
    idempotency::Identified,
    ids::{CountedIds, Ids},
    memory::MemoryStore,
    moment::{At, Changes},
    name::{EventType, StreamName},
    pass::Pass,
    position::{LogIdentity, Position, Revision, Token},
    process::{Effect, Input, Process, ProcessManager, Timer},
    projection::{Difference, MultiProjection, OnFailure, Projected, Projection, ReadModel, Rows},
    query::{Criterion, Query},
    read::{AsOf, Direction, Page, Read, Source, Start},
    reads::{MemoryReads, ReadStore},
    rebuild::{Rebuild, RebuildProgress},
    snapshot::{MemorySnapshots, SnapshotStore, Snapshots},
    store::{EventStore, EventStoreExt, Head, subscribe},
    stream::{Life, Retention, StreamState},
    subscription::{Delivery, Subscription},
    tagged::{Tagged, Whatever},
    tags::Tags,
    time::{Clock, ManualClock, SystemClock, Timestamp},
    timers::Timers,
};
/// For implementors of this crate's traits that have `async` functions.
pub use async_trait::async_trait;
#[cfg(feature = "macros")]
#[doc(inline)]
pub use factum_macros::{Event, EventSet};
