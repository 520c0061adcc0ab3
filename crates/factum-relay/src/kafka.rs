//! Kafka.

use std::{collections::BTreeMap, fmt, time::Duration};

use factum::{Error, Result, Stuck, Trouble, async_trait};
use futures_util::future::join_all;
use rdkafka::{
    ClientConfig,
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, Headers, OwnedHeaders},
    producer::{DeliveryFuture, FutureProducer, FutureRecord},
};
use tokio::time::timeout;

use crate::{
    inbox::Stamp,
    line::{Line, PATIENCE, silent},
    message::Message,
    relay::Broker,
    route::Route,
};

/// What a relay depends on. Who sets one of these otherwise is told.
const OURS: &[(&str, &str)] = &[
    // It implies acks=all and at most five requests on their way, in order.
    ("enable.idempotence", "true"),
    // Nothing of a partition gets in after what did not.
    ("enable.gapless.guarantee", "true"),
    // It tries until we give up; then the producer is gone with all that it still had.
    ("message.timeout.ms", "0"),
    // A key stays in its partition whichever client writes it: as Java's does.
    ("partitioner", "murmur2_random"),
];

/// A topic (or several) of a Kafka cluster. The record's key is the message's, headers are `ce_` and the attribute's name, and
/// `content-type`. The record's timestamp is that of its publishing: by it the topic's retention goes.
///
/// ```no_run
/// # fn example(factum: &factum::Factum) -> factum::Result<()> {
/// use factum_relay::{Kafka, Relay};
///
/// let kafka = Kafka::at("localhost:9092").topic("orders");
/// let relay = Relay::new(factum, "orders_out", factum::Query::category("order"), kafka);
/// # Ok(()) }
/// ```
///
/// The producer is idempotent, with `acks=all`: **a record is confirmed when all replicas that are in sync have it**. How many these must be is
/// the topic's `min.insync.replicas`: 2 of 3 is usual; with 1, a broker that is lost takes confirmed records along. Kafka's brokers do not sync
/// their disks by themselves. A topic keeps records for `retention.ms`, whether anybody has read them or not. The number of its partitions
/// must not change while the order of keys matters: a key then moves to another partition.
pub struct Kafka {
    settings: BTreeMap<String, String>,
    place: String,
    topic: Route,
    patience: Duration,
    line: Line<FutureProducer>,
}

impl fmt::Debug for Kafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The settings may hold passwords.
        f.debug_struct("Kafka").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Kafka {
    /// A cluster, by some of its brokers, as `host:port,host:port`, and its topic `events`. Whether there is one is seen when something is
    /// published.
    #[must_use]
    pub fn at(brokers: &str) -> Self {
        let ours = OURS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let mut settings: BTreeMap<String, String> = ours.collect();
        settings.insert("bootstrap.servers".to_owned(), brokers.to_owned());
        let place = format!("Kafka at {brokers}");
        Self { settings, place, topic: Route::to("events"), patience: PATIENCE, line: Line::default() }
    }

    /// The topic that all messages go to.
    #[must_use]
    pub fn topic(self, name: impl Into<String>) -> Self {
        Self { topic: Route::to(name), ..self }
    }

    /// The topic of a message.
    #[must_use]
    pub fn topic_by(self, topic: impl Fn(&Message) -> String + Send + Sync + 'static) -> Self {
        Self { topic: Route::by(topic), ..self }
    }

    /// A setting of librdkafka's producer: `compression.type`, `client.id`, `message.max.bytes` …
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a setting on which the relay's promises rest, and for one that librdkafka does not take.
    pub fn setting(mut self, name: &str, value: &str) -> Result<Self> {
        let invalid = |why: String| Error::invalid(format!("the setting `{name}` of Kafka"), why);
        let fixed =
            OURS.iter().map(|(name, _)| *name).chain(["acks", "request.required.acks", "bootstrap.servers"]);
        if fixed.into_iter().any(|fixed| fixed == name) {
            return Err(invalid("it is the relay's own: leave it out".to_owned()));
        }
        self.settings.insert(name.to_owned(), value.to_owned());
        // Nothing of the value is told: it may be a key or a password.
        let refused = |_| {
            invalid("librdkafka does not take it, or not this value; see its list of settings".to_owned())
        };
        self.config().create_native_config().map_err(refused)?;
        Ok(self)
    }

    /// How long the cluster may take to confirm: 5 s, unless said otherwise.
    #[must_use]
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// What a record that a relay has published says of where it comes from.
    ///
    /// # Errors
    /// As for [`Stamp::read`].
    pub fn stamp(record: &impl rdkafka::Message) -> Result<Stamp> {
        let headers = record.headers();
        Stamp::read(|attribute| {
            let name = format!("ce_{attribute}");
            let header = headers?.iter().find(|header| header.key == name)?;
            String::from_utf8(header.value?.to_vec()).ok()
        })
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        for (name, value) in &self.settings {
            config.set(name, value);
        }
        config
    }

    fn producer(&self) -> Result<FutureProducer, Trouble> {
        self.config().create().map_err(|error| self.trouble(&error))
    }

    /// Sends messages together with those of others, and waits for the cluster to confirm them.
    async fn send(&self, messages: &[Message]) -> Result<(), Stuck> {
        let connect = async { self.producer() };
        let got = self.line.get(&self.place, connect).await;
        let (number, producer) = got.map_err(|trouble| Stuck { done: 0, trouble })?;
        let sent = self.send_by(&producer, messages).await;
        let usable = sent.as_ref().err().is_none_or(|(_, producer)| *producer == Producer::Usable);
        if !usable {
            self.line.hang_up(number).await;
        }
        sent.map_err(|(stuck, _)| stuck)
    }

    /// Sends each by itself, with a producer of its own: a cluster that refuses one refuses all that are in a batch with it, and whose they
    /// are.
    async fn send_apart(&self, messages: &[Message]) -> Result<(), Stuck> {
        let producer = self.producer().map_err(|trouble| Stuck { done: 0, trouble })?;
        for (done, message) in messages.iter().enumerate() {
            let sent = self.send_by(&producer, std::slice::from_ref(message)).await;
            sent.map_err(|(stuck, _)| Stuck { done, ..stuck })?;
        }
        Ok(())
    }

    /// Sends messages, and waits for the cluster to confirm them. If it does not, what the producer is still good for.
    async fn send_by(
        &self,
        producer: &FutureProducer,
        messages: &[Message],
    ) -> Result<(), (Stuck, Producer)> {
        let sent = async {
            let (mut on_their_way, mut refused) = (Vec::with_capacity(messages.len()), None);
            for message in messages {
                match self.begin(producer, message).await {
                    Ok(delivery) => on_their_way.push(delivery),
                    Err(trouble) => {
                        refused = Some(trouble);
                        break;
                    }
                }
            }
            (join_all(on_their_way.into_iter().map(delivered)).await, refused)
        };
        let Ok((answers, refused)) = timeout(self.patience, sent).await else {
            return Err((Stuck { done: 0, trouble: self.silence(producer) }, Producer::Spent));
        };
        let done = answers.iter().take_while(|answer| answer.is_ok()).count();
        let errors: Vec<KafkaError> = answers.into_iter().filter_map(Result::err).collect();
        // When one has failed, the producer throws away what comes after it.
        let cause = errors.iter().find(|error| !is_thrown_away(error)).or(errors.first());
        let trouble = match (cause, refused) {
            (None, None) => return Ok(()),
            (None, Some(refused)) if !refused.is_infrastructure() => {
                return Err((Stuck { done, trouble: refused }, Producer::Usable));
            }
            (None, Some(trouble)) => trouble,
            (Some(cause), _) => self.trouble(cause),
        };
        Err((Stuck { done, trouble }, Producer::Spent))
    }

    /// Hands a message to the producer, which has room for it at some time.
    async fn begin(&self, producer: &FutureProducer, message: &Message) -> Result<DeliveryFuture, Trouble> {
        let topic = self.topic.of(message);
        if !is_topic(&topic) {
            let why = format!("a topic is 1 to {TOPIC} letters, digits, `.`, `_` and `-`");
            return Err(Trouble::refused(format!("`{topic}`, the topic of {}: {why}", message.place())));
        }
        let mut headers =
            OwnedHeaders::new().insert(Header { key: "content-type", value: Some(message.content_type()) });
        for (attribute, value) in message.attributes() {
            headers = headers.insert(Header { key: &format!("ce_{attribute}"), value: Some(&value) });
        }
        let mut record =
            FutureRecord::to(&topic).key(&message.key).payload(&message.body()[..]).headers(headers);
        loop {
            match producer.send_result(record) {
                Ok(delivery) => return Ok(delivery),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                    record = again;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err((error, _)) => return Err(self.trouble(&error)),
            }
        }
    }

    /// Why nothing was confirmed, if the client knows.
    fn silence(&self, producer: &FutureProducer) -> Trouble {
        use rdkafka::producer::Producer as _;
        match producer.client().fatal_error() {
            Some((_, said)) => Trouble::infrastructure(format!("{}: {said}", self.place)),
            None => silent(&self.place, self.patience),
        }
    }

    fn trouble(&self, error: &KafkaError) -> Trouble {
        let place = &self.place;
        let Some(code) = error.rdkafka_error_code() else {
            return Trouble::infrastructure(format!("{place}: {error}"));
        };
        if let Some(never) = never(code) {
            return Trouble::refused(format!("{place} {never}"));
        }
        let advice = match code {
            RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition => {
                return Trouble::infrastructure(format!("{place} has no such topic: make it"));
            }
            RDKafkaErrorCode::TopicAuthorizationFailed => ": allow this client to write to the topic",
            RDKafkaErrorCode::UnsupportedForMessageFormat => {
                ": the topic's message format is too old for headers"
            }
            RDKafkaErrorCode::InvalidTimestamp => ": look at this machine's clock",
            _ => "",
        };
        Trouble::infrastructure(format!("{place}: {error}{advice}"))
    }
}

/// What a producer is good for after a failure.
#[derive(PartialEq)]
enum Producer {
    /// It never had the message that failed.
    Usable,
    /// It sends nothing more, or what nobody waits for.
    Spent,
}

/// What a cluster will say of a record again, however often it is asked, until somebody changes its settings. All else is waited for.
fn never(code: RDKafkaErrorCode) -> Option<&'static str> {
    Some(match code {
        RDKafkaErrorCode::MessageSizeTooLarge
        | RDKafkaErrorCode::MessageBatchTooLarge
        | RDKafkaErrorCode::InvalidMessageSize => {
            "takes no record of that size (message.max.bytes of the producer, max.message.bytes of the topic)"
        }
        RDKafkaErrorCode::InvalidTopic => "can have no topic of that name",
        RDKafkaErrorCode::PolicyViolation => "forbids the record by a policy",
        RDKafkaErrorCode::InvalidRecord => "takes the record for invalid: the topic asks for something else",
        // Alone, it is not said again.
        RDKafkaErrorCode::InvalidDifferentRecord => "takes another record of the batch for invalid",
        _ => return None,
    })
}

/// Characters of a topic's name.
const TOPIC: usize = 249;

fn is_topic(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || ['.', '_', '-'].contains(&c);
    !["", ".", ".."].contains(&name) && name.len() <= TOPIC && name.chars().all(legal)
}

async fn delivered(delivery: DeliveryFuture) -> Result<(), KafkaError> {
    match delivery.await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err((error, _))) => Err(error),
        Err(_) => Err(KafkaError::Canceled),
    }
}

fn is_thrown_away(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::PurgeQueue
                | RDKafkaErrorCode::PurgeInflight
                | RDKafkaErrorCode::Fatal
                | RDKafkaErrorCode::InvalidDifferentRecord
        )
    )
}

#[async_trait]
impl Broker for Kafka {
    async fn publish(&self, messages: &[Message]) -> Result<(), Stuck> {
        match self.send(messages).await {
            // Whose fault it is shows when each is sent alone: also of a single one, which may have shared a batch with others'.
            Err(Stuck { done: first, trouble: Trouble::Refused(_) }) => {
                let apart = self.send_apart(&messages[first..]).await;
                apart.map_err(|stuck| Stuck { done: first + stuck.done, ..stuck })
            }
            sent => sent,
        }
    }
}
