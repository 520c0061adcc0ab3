//! The sink that a relay is, over any broker.

use std::{fmt, sync::Arc};

use factum::{EventStore, Factum, Query, RecordedEvent, Result, Sink, Stuck, Trouble, async_trait};

use crate::message::{Message, MessageId};

/// Where messages are published: [`RedisStreams`](crate::RedisStreams), [`RabbitMq`](crate::RabbitMq), [`JetStream`](crate::JetStream),
/// [`Kafka`](crate::Kafka), or one of your own.
#[async_trait]
pub trait Broker: fmt::Debug + Send + Sync + 'static {
    /// Publishes messages, in this order, at least one. It returns when the broker has confirmed all of them for good.
    ///
    /// A message MUST NOT be published while one before it with the same key is not confirmed, unless the broker guarantees that
    /// it cannot get in if that one does not: who receives messages of a key takes one that comes late for a repeat. Several calls
    /// are made at the same time, each with keys of its own.
    ///
    /// # Errors
    /// [`Stuck`] with how many, from the first, are confirmed. What is confirmed after the one that is not is published again.
    async fn publish(&self, messages: &[Message]) -> Result<(), Stuck>;
}

#[async_trait]
impl<B: Broker + ?Sized> Broker for Arc<B> {
    async fn publish(&self, messages: &[Message]) -> Result<(), Stuck> {
        (**self).publish(messages).await
    }
}

type Key = Arc<dyn Fn(&RecordedEvent) -> String + Send + Sync>;

/// Publishes the events of a log to a [`Broker`], each at least once, in the order of its key. It is a [`Sink`]: the runtime
/// drives it, and moves its checkpoint when the broker has confirmed.
pub struct Relay<B> {
    store: Arc<dyn EventStore>,
    name: String,
    query: Query,
    key: Key,
    broker: B,
}

impl<B: Broker> Relay<B> {
    /// A relay of the events that `query` selects. Its checkpoint is kept under `name`, a word of a-z, 0-9 and `_`, which goes
    /// with each message. Nothing is connected before there is something to publish.
    pub fn new(factum: &Factum, name: impl Into<String>, query: Query, broker: B) -> Self {
        let key = Arc::new(|record: &RecordedEvent| record.stream.as_str().to_owned());
        Self { store: Arc::clone(factum.store()), name: name.into(), query, key, broker }
    }

    /// What keeps its order, if it is not the stream.
    ///
    /// Another key is another order: a relay that has published already gets another name with it, and receivers see its
    /// messages from where it begins.
    #[must_use]
    pub fn keyed_by(self, key: impl Fn(&RecordedEvent) -> String + Send + Sync + 'static) -> Self {
        Self { key: Arc::new(key), ..self }
    }
}

impl<B: fmt::Debug> fmt::Debug for Relay<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, query, broker, .. } = self;
        f.debug_struct("Relay")
            .field("name", name)
            .field("query", query)
            .field("broker", broker)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl<B: Broker> Sink for Relay<B> {
    fn name(&self) -> &str {
        &self.name
    }

    fn query(&self) -> Result<Query> {
        Ok(self.query.clone())
    }

    fn key(&self, record: &RecordedEvent) -> String {
        (self.key)(record)
    }

    async fn accept(&self, records: &[RecordedEvent]) -> Result<(), Stuck> {
        // Asked each time: a server that has failed over has begun another epoch meanwhile.
        let stuck = |error| Stuck { done: 0, trouble: Trouble::infrastructure(error) };
        let log = self.store.head().await.map_err(stuck)?.token.log;
        let former = match log.epoch {
            // No other came before it.
            1 => Vec::new(),
            _ => self.store.continued().await.map_err(stuck)?,
        };
        let message = |event: &RecordedEvent| Message {
            id: MessageId { log: log.log_id, position: event.position },
            epoch: log.epoch,
            former_epochs: former
                .iter()
                .filter(|to| event.position <= to.position)
                .map(|to| to.log.epoch)
                .collect(),
            relay: self.name.clone(),
            key: (self.key)(event),
            event: event.clone(),
        };
        let messages: Vec<Message> = records.iter().map(message).collect();
        self.broker.publish(&messages).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use factum::{
        Append, Appended, EventStoreExt as _, Head, Limits, LogIdentity, MemoryStore, NewEvent, Page,
        Position, Read, StreamName, StreamState, Token,
    };

    use super::*;
    use crate::{Arrival, Inbox as _, MemoryInbox, Stamp};

    /// A log that has failed over to another server: it is in epoch 9, and epoch 1 goes on up to some place.
    #[derive(Debug)]
    struct FailedOver(MemoryStore, Position);

    impl FailedOver {
        fn was(log: LogIdentity, epoch: u64) -> LogIdentity {
            LogIdentity { epoch, ..log }
        }
    }

    #[async_trait]
    impl EventStore for FailedOver {
        async fn append(&self, append: Append) -> Result<Appended> {
            self.0.append(append).await
        }
        async fn read(&self, read: Read) -> Result<Page> {
            self.0.read(read).await
        }
        async fn head(&self) -> Result<Head> {
            let mut head = self.0.head().await?;
            head.token.log = Self::was(head.token.log, 9);
            Ok(head)
        }
        async fn stream_state(&self, stream: &StreamName) -> Result<StreamState> {
            self.0.stream_state(stream).await
        }
        async fn continued(&self) -> Result<Vec<Token>> {
            Ok(vec![Self::was(self.0.head().await?.token.log, 1).at(self.1)])
        }
        async fn changed(&self, position: Position) {
            self.0.changed(position).await;
        }
        fn limits(&self) -> Limits {
            self.0.limits()
        }
    }

    /// Keeps what a receiver would see.
    #[derive(Debug, Default)]
    struct Kept(Mutex<Vec<Stamp>>);

    #[async_trait]
    impl Broker for Kept {
        async fn publish(&self, messages: &[Message]) -> Result<(), Stuck> {
            let attributes = messages.iter().map(|message| {
                let attributes: std::collections::HashMap<_, _> = message.attributes().into_iter().collect();
                Stamp::read(|name| attributes.get(name).cloned()).unwrap()
            });
            self.0.lock().unwrap().extend(attributes);
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_receiver_goes_on_over_a_failover_without_a_loss() {
        let store = MemoryStore::new();
        let stream = StreamName::new("order-1").unwrap();
        for n in 0..4 {
            let event = NewEvent::json("Placed", &n).unwrap();
            store.append(Append::to(stream.clone(), [event])).await.unwrap();
        }
        let events = store.read_to_end(Read::stream(stream)).await.unwrap();
        let kept = Arc::new(Kept::default());
        let before = Relay::new(&Factum::new(store.clone()), "out", Query::all(), kept.clone());
        before.accept(&events[..3]).await.unwrap();
        // What the new server has of the old history ends at the second event.
        let store = FailedOver(store, events[1].position);
        let after = Relay::new(&Factum::new(store), "out", Query::all(), kept.clone());
        after.accept(&events[1..]).await.unwrap();
        let (mut inbox, mut arrivals) = (MemoryInbox::default(), Vec::new());
        let stamps = std::mem::take(&mut *kept.0.lock().unwrap());
        for stamp in stamps {
            arrivals.push(inbox.arrive(&stamp).await.unwrap());
        }
        assert_eq!(arrivals[..3], [Arrival::New; 3]);
        assert_eq!(arrivals[3..], [Arrival::Repeat, Arrival::Rewound, Arrival::New]);
    }

    /// Relays end up in logs and in the messages of tests.
    #[cfg(all(feature = "kafka", feature = "nats", feature = "rabbitmq", feature = "redis"))]
    #[test]
    fn no_password_is_in_debug() {
        let factum = Factum::new(MemoryStore::new());
        let shown = |broker: Arc<dyn Broker>| {
            let (name, relay) = (format!("{broker:?}"), Relay::new(&factum, "out", Query::all(), broker));
            format!("{name} {relay:?} {relay:#?}")
        };
        // As `sasl.password` is, where the client was built with it.
        let kafka = crate::Kafka::at("host:9092").setting("client.id", "s3cret").unwrap();
        for shown in [
            shown(Arc::new(crate::RedisStreams::at("redis://app:s3cret@host").unwrap().stream("s"))),
            shown(Arc::new(crate::RabbitMq::at("amqp://app:s3cret@host/%2f").unwrap().queue("s"))),
            shown(Arc::new(crate::JetStream::at("nats://app:s3cret@host").unwrap().subject("s"))),
            shown(Arc::new(crate::JetStream::at("nats://s3cret@host").unwrap().subject("s"))),
            shown(Arc::new(kafka.topic("s"))),
        ] {
            assert!(!shown.contains("s3cret") && shown.contains("host"), "{shown}");
        }
    }
}
