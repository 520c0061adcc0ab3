//! Relays: the events of a log, published to a message broker.
mod inbox;
#[cfg(feature = "kafka")]
mod kafka;
mod line;
mod message;
#[cfg(feature = "nats")]
mod nats;
#[cfg(feature = "rabbitmq")]
mod rabbitmq;
#[cfg(feature = "redis")]
mod redis;
mod relay;
mod url;
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
