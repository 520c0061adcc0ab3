//! RabbitMQ.

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use factum::{Error, Result, Stuck, Trouble, async_trait};
use futures_util::future::join_all;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ErrorKind,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    protocol::{AMQPErrorKind, AMQPSoftError},
    types::{AMQPValue, FieldTable, ShortString},
    uri::{AMQPScheme, AMQPUri},
};
use tokio::time::timeout;

use crate::{
    inbox::Stamp,
    line::{Line, PATIENCE, silent},
    message::Message,
    relay::Broker,
    route::Route,
    url::shown,
    waves::in_waves,
};

/// What stands before the attributes' names in the headers.
const PREFIX: &str = "cloudEvents_";
/// What AMQP has room for in routing keys and properties.
const SHORT: usize = 255;
/// What a message is marked with that must survive the server.
const PERSISTENT: u8 = 2;
/// What a frame with properties has besides them: its own head and end, the class, the body's size and the flags.
const FRAME: usize = 22;

/// A queue or an exchange of a RabbitMQ server. Headers are `cloudEvents_` and the attribute's name; AMQP's own properties
/// (`message_id`, `content_type`, `type`, `correlation_id`, `timestamp`) are set too.
///
/// ```no_run
/// # fn example(factum: &factum::Factum) -> factum::Result<()> {
/// use factum_relay::{RabbitMq, Relay};
///
/// let rabbit = RabbitMq::at("amqp://app:secret@127.0.0.1:5672/%2f")?.exchange("events");
/// let relay = Relay::new(factum, "orders_out", factum::Query::category("order"), rabbit);
/// # Ok(()) }
/// ```
///
/// Messages are persistent and mandatory, and the publisher waits for confirms. **A message is confirmed when every queue that it was
/// routed to has taken it**: a durable queue has it on its disk then, a quorum queue on most of its members. What no
/// queue takes comes back, and the relay waits until one does. The queues must be durable, or they are gone with the server; declaring
/// them is the operator's work. A queue with `x-message-ttl`, or with a length limit that drops its oldest (`drop-head`), loses messages however they were published.
///
/// RabbitMQ may refuse one message and take the next, so a key has one message on its way at a time, while keys do not wait for each other.
pub struct RabbitMq {
    url: AMQPUri,
    place: String,
    exchange: String,
    routing_key: Route,
    patience: Duration,
    line: Line<Arc<Connection>>,
    /// Channels that nobody uses, with the number of their connection. A channel has one batch at a time: what comes back can only be told
    /// by its id, and must not be taken for somebody else's.
    idle: Mutex<Vec<(u64, Channel)>>,
}

/// The URL may hold a password, which is not shown.
impl fmt::Debug for RabbitMq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RabbitMq({})", self.place)
    }
}

/// How messages that were sent together have failed.
enum Fault {
    /// The server will not take one of them, and has closed the channel.
    Refused(String),
    /// The connection is of no use any more.
    Broken(Trouble),
}

impl RabbitMq {
    /// A server, as `amqp://[user:password@]host[:port][/vhost]`, and its queue `events`.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if that is no such URL. Whether there is a server is seen when something is published.
    pub fn at(url: &str) -> Result<Self> {
        let place = shown(url);
        let invalid = |why: String| Error::invalid(format!("the URL `{place}`"), why);
        let url: AMQPUri =
            url.parse().map_err(|error| invalid(format!("write amqp://host:port/vhost ({error})")))?;
        if url.scheme == AMQPScheme::AMQPS && !cfg!(feature = "tls") {
            return Err(invalid("amqps needs the feature `tls` of factum-relay".to_owned()));
        }
        let relay = Self {
            url,
            place,
            exchange: String::new(),
            routing_key: Route::to("events"),
            patience: PATIENCE,
            line: Line::default(),
            idle: Mutex::default(),
        };
        Ok(relay)
    }

    /// The queue that all messages go to.
    #[must_use]
    pub fn queue(self, name: impl Into<String>) -> Self {
        Self { exchange: String::new(), routing_key: Route::to(name), ..self }
    }

    /// The exchange that all messages go to, with the event's type as routing key.
    ///
    /// Messages that are routed to different queues overtake each other. A receiver that reads several of them, and drops repeats by an
    /// [`Inbox`](crate::Inbox), remembers a place for each queue, or routes by the key: `routing_key_by(|message| message.key.clone())`.
    #[must_use]
    pub fn exchange(self, name: impl Into<String>) -> Self {
        let by_type = Route::by(|message| message.event.event_type.as_str().to_owned());
        Self { exchange: name.into(), routing_key: by_type, ..self }
    }

    /// The routing key of a message, if it is another than its event's type: after [`exchange`](Self::exchange). For a consistent-hash exchange,
    /// which gives each of several queues a part of the keys, it is `message.key.clone()`.
    #[must_use]
    pub fn routing_key_by(self, routing_key: impl Fn(&Message) -> String + Send + Sync + 'static) -> Self {
        Self { routing_key: Route::by(routing_key), ..self }
    }

    /// How long the server may take to confirm: 5 s, unless said otherwise. A server that is out of memory or disk confirms nothing.
    #[must_use]
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// What a message that a relay has published says of where it comes from.
    ///
    /// # Errors
    /// As for [`Stamp::read`].
    pub fn stamp(properties: &BasicProperties) -> Result<Stamp> {
        let headers = properties.headers().as_ref();
        Stamp::read(|attribute| match headers?.inner().get(format!("{PREFIX}{attribute}").as_str())? {
            AMQPValue::LongString(text) => String::from_utf8(text.as_bytes().to_vec()).ok(),
            AMQPValue::ShortString(text) => Some(text.as_str().to_owned()),
            _ => None,
        })
    }

    async fn connection(&self) -> Result<(u64, Arc<Connection>), Trouble> {
        let connect = async {
            let made = Connection::connect_uri(self.url.clone(), ConnectionProperties::default()).await;
            made.map(Arc::new).map_err(|error| self.trouble(&error))
        };
        self.line.get(&self.place, connect).await
    }

    /// A channel that nobody else uses now, with the number of its connection.
    async fn channel(&self) -> Result<(u64, Channel), Trouble> {
        let (number, connection) = self.connection().await?;
        let idle = {
            let mut idle = self.idle();
            idle.retain(|(of, channel)| *of == number && channel.status().connected());
            idle.pop()
        };
        if let Some(idle) = idle {
            return Ok(idle);
        }
        let open = async {
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok(channel)
        };
        let opened = match timeout(self.patience, open).await {
            Ok(opened) => opened.map_err(|error: lapin::Error| self.trouble(&error)),
            Err(_) => Err(silent(&self.place, self.patience)),
        };
        if opened.is_err() {
            self.line.hang_up(number).await;
        }
        Ok((number, opened?))
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<(u64, Channel)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes messages of different keys, and says what became of each.
    async fn wave(&self, messages: Vec<&Message>) -> Vec<Result<(), Trouble>> {
        let frame = match self.connection().await {
            Ok((_, connection)) => connection.configuration().frame_max(),
            Err(trouble) => return vec![Err(trouble); messages.len()],
        };
        let frame = usize::try_from(frame).unwrap_or(usize::MAX);
        let unfit: Vec<Option<String>> = messages.iter().map(|message| self.unfit(message, frame)).collect();
        let fit = messages.iter().zip(&unfit).filter(|(_, unfit)| unfit.is_none());
        let mut fates = self.together(fit.map(|(message, _)| *message).collect()).await.into_iter();
        let fate = |unfit: Option<String>| match unfit {
            Some(why) => Err(Trouble::Refused(why)),
            None => fates.next().unwrap_or_else(|| Err(silent(&self.place, self.patience))),
        };
        unfit.into_iter().map(fate).collect()
    }

    /// Why AMQP has no room for a message in frames of this size, if it has not. The client would never send it, and nothing after it.
    fn unfit(&self, message: &Message, frame: usize) -> Option<String> {
        let place = message.place();
        let too_long = |what: &str| format!("{what} is longer than the {SHORT} bytes that AMQP has for it");
        if self.exchange.len() > SHORT {
            return Some(too_long(&format!("`{}`, the exchange of {place},", self.exchange)));
        }
        if self.routing_key.of(message).len() > SHORT {
            return Some(too_long(&format!("the routing key of {place}")));
        }
        let Message { key, event, .. } = message;
        let texts = key.len() + event.stream.as_str().len() + event.metadata.as_bytes().len();
        // What is far from the limit is not worth being counted exactly.
        if 2 * texts + 2048 < frame {
            return None;
        }
        let header = header_size(message);
        let why = format!(
            "the key, the names and the ids of {place} are {header} bytes, and a frame has {frame} (frame_max)"
        );
        (header > frame).then_some(why)
    }

    /// The same for messages that AMQP has room for.
    async fn together(&self, messages: Vec<&Message>) -> Vec<Result<(), Trouble>> {
        if messages.is_empty() {
            return Vec::new();
        }
        match self.send(&messages).await {
            Ok(fates) => fates,
            Err(Fault::Broken(trouble)) => vec![Err(trouble); messages.len()],
            Err(Fault::Refused(why)) if messages.len() == 1 => vec![Err(Trouble::Refused(why))],
            Err(Fault::Refused(_)) => self.apart(&messages).await,
        }
    }

    /// Which of them the server will not take shows when each is sent alone. They are of different keys: their order is nobody's.
    async fn apart(&self, messages: &[&Message]) -> Vec<Result<(), Trouble>> {
        let mut fates = Vec::with_capacity(messages.len());
        for message in messages {
            fates.push(match self.send(&[message]).await {
                Ok(mut fate) => fate.pop().unwrap_or_else(|| Err(silent(&self.place, self.patience))),
                Err(Fault::Refused(why)) => Err(Trouble::Refused(why)),
                Err(Fault::Broken(trouble)) => {
                    // What was not sent shares the fate of what was sent in vain: nobody waits for a server once for each.
                    fates.resize(messages.len(), Err(trouble));
                    return fates;
                }
            });
        }
        fates
    }

    async fn send(&self, messages: &[&Message]) -> Result<Vec<Result<(), Trouble>>, Fault> {
        let (number, channel) = self.channel().await.map_err(Fault::Broken)?;
        let sent = async {
            let mut confirms = Vec::with_capacity(messages.len());
            for message in messages {
                confirms.push(self.begin(&channel, message).await);
            }
            join_all(confirms.into_iter().map(|begun| async { begun?.await })).await
        };
        let Ok(answers) = timeout(self.patience, sent).await else {
            self.line.hang_up(number).await;
            return Err(Fault::Broken(silent(&self.place, self.patience)));
        };
        // A channel is closed for one reason, which only the first to meet it may be told.
        let errors: Vec<&lapin::Error> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
        if let Some(first) = errors.first() {
            if let Some(said) = errors.iter().find_map(|error| refusal(error)) {
                return Err(Fault::Refused(format!("{}: {said}", self.place)));
            }
            let told = errors.iter().find(|error| error.is_amqp_error()).unwrap_or(first);
            // A channel is closed alone, and the connection stays.
            if !told.is_amqp_soft_error() {
                self.line.hang_up(number).await;
            }
            return Err(Fault::Broken(self.trouble(told)));
        }
        let fates = self.fates(messages, answers);
        self.idle().push((number, channel));
        Ok(fates)
    }

    async fn begin(&self, channel: &Channel, message: &Message) -> lapin::Result<lapin::PublisherConfirm> {
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let (exchange, routing_key) = (self.exchange.as_str().into(), self.routing_key.of(message).into());
        channel.basic_publish(exchange, routing_key, options, message.body(), properties(message)).await
    }

    /// What became of each, when all have been answered.
    fn fates(
        &self,
        messages: &[&Message],
        answers: Vec<lapin::Result<Confirmation>>,
    ) -> Vec<Result<(), Trouble>> {
        let mut back: HashSet<String> = HashSet::new();
        let mut taken = Vec::with_capacity(messages.len());
        for answer in answers {
            taken.push(answer.as_ref().is_ok_and(Confirmation::is_ack));
            // The client gives what has come back to any of the answers, not to its own: only the id says whose it is.
            let returned = answer.ok().and_then(Confirmation::take_message);
            let id = returned.and_then(|returned| returned.delivery.properties.message_id().clone());
            back.extend(id.map(|id| id.as_str().to_owned()));
        }
        let fate = |(message, taken): (&&Message, bool)| {
            let Self { place, exchange, routing_key, .. } = self;
            let key = routing_key.of(message);
            let why = match (back.contains(&message.id.to_string()), taken, exchange.as_str()) {
                (true, _, "") => format!("{place} has no queue `{key}`: declare it, durable"),
                (true, ..) => format!(
                    "{place}: no queue takes what has the routing key `{key}` from exchange `{exchange}`: bind one"
                ),
                (false, false, _) => {
                    format!("{place} did not take {}: a queue is full or has failed", message.place())
                }
                (false, true, _) => return Ok(()),
            };
            Err(Trouble::Infrastructure(why))
        };
        messages.iter().zip(taken).map(fate).collect()
    }

    fn trouble(&self, error: &lapin::Error) -> Trouble {
        let said = match error.kind() {
            ErrorKind::ProtocolError(error) => error.get_message().to_string(),
            // The server closes the connection of a stranger without a word.
            ErrorKind::IOError(io) => io.to_string(),
            _ => error.to_string(),
        };
        let advice = match error.kind() {
            ErrorKind::ProtocolError(error) => match error.kind() {
                AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => ": declare it",
                AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => {
                    ": put user, password and vhost into the URL"
                }
                _ => "",
            },
            _ => "",
        };
        Trouble::infrastructure(format!("{}: {said}{advice}", self.place))
    }
}

#[async_trait]
impl Broker for RabbitMq {
    async fn publish(&self, messages: &[Message]) -> Result<(), Stuck> {
        in_waves(messages, |wave| self.wave(wave)).await
    }
}

/// What the server says of a message that it will never take, if this is that. What it says of an exchange, or of all that a user may do,
/// is no message's fault.
fn refusal(error: &lapin::Error) -> Option<String> {
    let ErrorKind::ProtocolError(error) = error.kind() else { return None };
    let said = error.get_message().to_string();
    let AMQPErrorKind::Soft(kind) = error.kind() else { return None };
    let is = match kind {
        // Its size, or one of its properties.
        AMQPSoftError::PRECONDITIONFAILED => true,
        // Topics are allowed one by one; `access to topic 'a.b' in exchange …`.
        AMQPSoftError::ACCESSREFUSED => said.contains("access to topic"),
        _ => false,
    };
    is.then_some(said)
}

/// Bytes of the frame that all but the body is sent in.
fn header_size(message: &Message) -> usize {
    let properties = properties(message);
    let shorts =
        [properties.content_type(), properties.kind(), properties.correlation_id(), properties.message_id()];
    let shorts: usize = shorts.into_iter().flatten().map(|text| 1 + text.as_str().len()).sum();
    let attributes = message.attributes();
    // Names have one byte for their length; values have one for their type, and four.
    let size = |(name, value): &(&str, String)| 1 + PREFIX.len() + name.len() + 5 + value.len();
    let headers: usize = attributes.iter().map(size).sum();
    let (delivery_mode, timestamp, length_of_headers) = (1, 8, 4);
    FRAME + shorts + delivery_mode + timestamp + length_of_headers + headers
}

fn properties(message: &Message) -> BasicProperties {
    let mut headers = FieldTable::default();
    let mut properties = BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_message_id(message.id.to_string().into())
        .with_timestamp(u64::try_from(message.event.recorded_at.0 / 1_000_000).unwrap_or_default());
    if let Some(content_type) = short(message.content_type()) {
        properties = properties.with_content_type(content_type);
    }
    if let Some(event_type) = short(message.event.event_type.as_str()) {
        properties = properties.with_type(event_type);
    }
    for (attribute, value) in message.attributes() {
        if let ("correlationid", Some(correlation)) = (attribute, short(&value)) {
            properties = properties.with_correlation_id(correlation);
        }
        headers.insert(format!("{PREFIX}{attribute}").into(), AMQPValue::LongString(value.into()));
    }
    properties.with_headers(headers)
}

/// The same for a place that has not room for everything.
fn short(text: &str) -> Option<ShortString> {
    (text.len() <= SHORT).then(|| text.into())
}
