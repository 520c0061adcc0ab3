//! Relays: the events of a log, published to a message broker, each at least once, in the order of its key.
//!
//! ```no_run
//! # #[cfg(feature = "redis")]
//! # async fn example(factum: factum::Factum, reads: std::sync::Arc<dyn factum::ReadStore>) -> factum::Result<()> {
//! use factum::Query;
//! use factum_relay::{RedisStreams, Relay};
//!
//! let redis = RedisStreams::at("redis://127.0.0.1:6379")?.stream("orders");
//! let relay = Relay::new(&factum, "orders_out", Query::category("order"), redis);
//! let relay = factum.sink(relay).partitions(4).start(reads).await?;
//! # relay.stop().await;
//! # Ok(()) }
//! ```
//!
//! | broker | feature | type |
//! |---|---|---|
//! | Redis Streams | `redis` | `RedisStreams` |
//! | RabbitMQ | `rabbitmq` | `RabbitMq` |
//! | NATS JetStream | `nats` | `JetStream` |
//! | Kafka | `kafka` | `Kafka` |
//!
//! No feature is on by default: each brings a client along. Another broker is an implementation of [`Broker`]. The page `docs/relays.md` of
//! the repository is for operators: what to set at each broker, and what to do when something is stuck.
//!
//! # What is promised
//!
//! **Nothing is lost.** A relay's checkpoint moves when the broker has confirmed what comes before it. While the broker is away,
//! nothing moves; when it is back, it goes on. What a confirmation is worth is the broker's configuration: each type says it.
//!
//! **Each key is in order**, the stream's name unless [`Relay::keyed_by`] says otherwise. Of a key no event is published before the one
//! that precedes it is confirmed, or in a way in which it cannot get in without it. Different keys have no order.
//!
//! **What is published twice has the same id.** A confirmation can get lost on its way, and a process can die between it and the
//! checkpoint: then the same is published again. *Nobody can avoid that; receivers drop repeats.* An [`Inbox`] does so by the last
//! position of each key, in the receiver's own transaction, and needs no window of time:
//!
//! ```
//! use factum_relay::{Arrival, Inbox, MemoryInbox, Stamp};
//!
//! # async fn receive(stamp: Stamp) -> Result<(), std::convert::Infallible> {
//! let mut inbox = MemoryInbox::default(); // or your database's transaction
//! match inbox.arrive(&stamp).await? {
//!     Arrival::New => { /* act on it, and commit */ }
//!     Arrival::Repeat => { /* only acknowledge it */ }
//!     Arrival::Rewound => { /* stop: the log was restored from a backup */ }
//! }
//! # Ok(()) }
//! ```
//!
//! That works for a receiver who gets the messages of a key in the order in which the broker has them: one consumer of a stream or
//! queue, or one per partition. Consumers that share a queue see a key out of order; give each a part of the keys.
//!
//! # What a message looks like
//!
//! It is a CloudEvent 1.0 in binary mode: attributes are headers, and the body is the event's data as stored, byte for byte.
//!
//! | attribute | value |
//! |---|---|
//! | `specversion` | `1.0` |
//! | `id` | `LOGID:POSITION`: the same each time that the event is published ([`MessageId`]) |
//! | `source` | `urn:uuid:LOGID` |
//! | `type` | the event's stored type |
//! | `subject` | its stream |
//! | `time` | when the store took it, RFC 3339 |
//! | `partitionkey` | the key whose order it keeps |
//! | `revision` | its place in the stream |
//! | `eventid` | its id in the log |
//! | `epoch` | the epoch of the log; a restore begins another |
//! | `formerepochs` | former epochs that have gone on without a loss and had the event at this place, with commas; most have none |
//! | `relay` | the relay's name |
//! | `correlationid`, `causationid` | `correlation_id` and `causation_id` of its metadata, if it has them |
//! | `traceparent`, `tracestate` | the same keys of its metadata, if it has them |
//!
//! | broker | header | data | key | content type | besides |
//! |---|---|---|---|---|---|
//! | Redis | field `ce_…` | field `data` | `ce_partitionkey` | field `content-type` | |
//! | RabbitMQ | header `cloudEvents_…` | body | header | property | properties `message_id`, `type`, `correlation_id`, `timestamp` |
//! | NATS | header `ce-…`, percent-encoded | payload | header | header `content-type` | `Nats-Msg-Id`: `RELAY:LOGID:EPOCH:POSITION` |
//! | Kafka | header `ce_…` | value | the record's key | header `content-type` | |
//!
//! [`Stamp`] reads what an [`Inbox`] needs from any of them.

mod inbox;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(any(feature = "kafka", feature = "nats", feature = "rabbitmq", feature = "redis"))]
mod line;
mod message;
#[cfg(feature = "nats")]
mod nats;
#[cfg(feature = "rabbitmq")]
mod rabbitmq;
#[cfg(feature = "redis")]
mod redis;
mod relay;
#[cfg(any(feature = "kafka", feature = "nats", feature = "rabbitmq", feature = "redis"))]
mod route;
#[cfg(any(feature = "nats", feature = "rabbitmq", feature = "redis"))]
mod url;
#[cfg(any(feature = "nats", feature = "rabbitmq"))]
mod waves;

#[cfg(feature = "kafka")]
pub use self::kafka::Kafka;
#[cfg(feature = "nats")]
pub use self::nats::JetStream;
#[cfg(feature = "rabbitmq")]
pub use self::rabbitmq::RabbitMq;
#[cfg(feature = "redis")]
pub use self::redis::RedisStreams;
pub use self::{
    inbox::{Arrival, Inbox, Lane, MemoryInbox, Seen, Stamp},
    message::{Message, MessageId},
    relay::{Broker, Relay},
};
