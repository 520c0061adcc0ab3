//! NATS JetStream.

use std::{
    fmt::{self, Write as _},
    time::Duration,
};

use async_nats::{
    ConnectErrorKind, ConnectOptions, Event, HeaderMap, ServerAddr, ServerError,
    header::HeaderValue,
    jetstream::{
        self, Context,
        context::{PublishError, PublishErrorKind},
    },
};
use factum::{Error, Result, Stuck, Trouble, async_trait};
use futures_util::future::join_all;
use tokio::{sync::watch, time::timeout};

use crate::{
    inbox::Stamp,
    line::{Line, PATIENCE, made, silent},
    message::Message,
    relay::Broker,
    route::Route,
    url::shown,
    waves::in_waves,
};

/// What the server calls a message that is larger than its stream takes, and one with more than 64 KiB of headers.
const LARGER_THAN_STREAM: u64 = 10054;
const HEADERS_TOO_LARGE: u64 = 10097;
/// What it says of a message before it hangs up.
const REFUSALS: &[&str] = &["maximum control line", "maximum payload", "invalid publish subject"];

/// A subject (or several) of NATS JetStream, 2.2 or later. Headers are `ce-` and the attribute's name, `content-type`, and `Nats-Msg-Id`; values are
/// percent-encoded as in HTTP.
///
/// ```no_run
/// # fn example(factum: &factum::Factum) -> factum::Result<()> {
/// use factum_relay::{JetStream, Relay};
///
/// let nats = JetStream::at("nats://127.0.0.1:4222")?.subject("orders");
/// let relay = Relay::new(factum, "orders_out", factum::Query::category("order"), nats);
/// # Ok(()) }
/// ```
///
/// **A message is confirmed when the stream that takes its subject has stored it**: on its disk if its storage is `file`, on most of its
/// replicas if it has some. When the file is synced is the server's `sync_interval`, two minutes unless said otherwise: a process that
/// is killed loses nothing, a power cut does. Set `sync_interval: always` (server 2.10), or have three replicas in different places. The stream is the operator's
/// to make; a limit on it with `discard: old` drops messages whether anybody has read them or not, one with `discard: new` makes the relay wait.
///
/// The server drops a repeat by itself within the stream's `duplicate_window`. That is a saving, not the guarantee: the window is a time.
pub struct JetStream {
    url: ServerAddr,
    place: String,
    subject: Route,
    patience: Duration,
    line: Line<Open>,
}

/// The URL may hold a password, which is not shown.
impl fmt::Debug for JetStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JetStream({})", self.place)
    }
}

/// A connection, and whether it still is one. The client would make it anew by itself, and then send what nobody waits for any more.
#[derive(Clone)]
struct Open {
    context: Context,
    state: watch::Receiver<State>,
}

/// What has become of a connection.
#[derive(Clone, Default)]
struct State {
    broken: bool,
    /// What the server has said of it last, if it said something.
    said: Option<String>,
}

impl State {
    /// What the server said of a message for which it has hung up.
    fn refusal(&self) -> Option<&str> {
        let said = self.said.as_deref().filter(|_| self.broken)?;
        let lower = said.to_lowercase();
        REFUSALS.iter().any(|refusal| lower.contains(refusal)).then_some(said)
    }
}

impl JetStream {
    /// A server, as `nats://[user:password@]host[:port]`, `nats://token@host` or `tls://…`, and the subject `events`.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if that is no such URL. Whether there is a server is seen when something is published.
    pub fn at(url: &str) -> Result<Self> {
        let place = shown(url);
        let invalid = |why: &str| {
            Error::invalid(format!("the URL `{place}`"), format!("write nats://host:port ({why})"))
        };
        let url: ServerAddr = url.parse().map_err(|error: std::io::Error| invalid(&error.to_string()))?;
        if url.host().is_empty() {
            return Err(invalid("it names no host"));
        }
        Ok(Self { url, place, subject: Route::to("events"), patience: PATIENCE, line: Line::default() })
    }

    /// The subject that all messages go to.
    #[must_use]
    pub fn subject(self, subject: impl Into<String>) -> Self {
        Self { subject: Route::to(subject), ..self }
    }

    /// The subject of a message, as in `format!("orders.{}", message.part_of(8))`. Names of streams may hold what a subject may
    /// not (spaces, `*`, `>`).
    #[must_use]
    pub fn subject_by(self, subject: impl Fn(&Message) -> String + Send + Sync + 'static) -> Self {
        Self { subject: Route::by(subject), ..self }
    }

    /// How long the server may take to confirm: 5 s, unless said otherwise.
    #[must_use]
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// What a message that a relay has published says of where it comes from.
    ///
    /// # Errors
    /// As for [`Stamp::read`].
    pub fn stamp(headers: &HeaderMap) -> Result<Stamp> {
        Stamp::read(|attribute| {
            headers.get(format!("ce-{attribute}")).and_then(|value| decoded(value.as_str()))
        })
    }

    async fn connect(&self) -> Result<Open, Trouble> {
        let (changes, state) = watch::channel(State::default());
        // The client leaves what stands before the host to us.
        let part = |text: &str| decoded(text).unwrap_or_else(|| text.to_owned());
        let options = match (self.url.username().map(part), self.url.password().map(part)) {
            (Some(user), Some(password)) => ConnectOptions::with_user_and_password(user, password),
            (Some(token), None) => ConnectOptions::with_token(token),
            _ => ConnectOptions::new(),
        };
        let options = options
            // The next connection is ours to make: what the client would still send then, nobody waits for.
            .max_reconnects(1)
            .event_callback(move |event| {
                match event {
                    Event::Disconnected | Event::Closed => changes.send_modify(|state| state.broken = true),
                    Event::ServerError(ServerError::Other(said)) => {
                        changes.send_modify(|state| state.said = Some(said));
                    }
                    _ => {}
                }
                std::future::ready(())
            });
        let client = options.connect(self.url.clone()).await.map_err(|error| {
            let advice = match error.kind() {
                ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                    ": put user and password into the URL"
                }
                _ => "",
            };
            Trouble::infrastructure(format!("{}: {}{advice}", self.place, in_full(&error)))
        })?;
        let mut context = jetstream::new(client);
        // Ours ends first, and knows why.
        context.set_timeout(self.patience * 2);
        Ok(Open { context, state })
    }

    /// Publishes messages of different keys, and says what became of each.
    async fn wave(&self, messages: Vec<&Message>) -> Vec<Result<(), Trouble>> {
        let (number, open) = match self.line.get(&self.place, self.connect()).await {
            Ok(got) => got,
            Err(trouble) => return vec![Err(trouble); messages.len()],
        };
        let fates = self.send(&open, &messages).await;
        if !fates.iter().any(|fate| fate.as_ref().is_err_and(Trouble::is_infrastructure)) {
            return fates;
        }
        self.line.hang_up(number).await;
        let refused = open.state.borrow().refusal().is_some();
        if refused { self.apart(&messages).await } else { fates }
    }

    /// The server has hung up because of a message, of these or of others on the same connection. Whose fault it was shows when each is
    /// sent by itself, on a connection of its own. They are of different keys: their order is nobody's.
    async fn apart(&self, messages: &[&Message]) -> Vec<Result<(), Trouble>> {
        let mut fates = Vec::with_capacity(messages.len());
        let mut held: Option<Open> = None;
        for message in messages {
            let open = match held.take() {
                Some(open) => open,
                None => match made(&self.place, self.connect()).await {
                    Ok(open) => open,
                    Err(trouble) => {
                        fates.resize(messages.len(), Err(trouble));
                        break;
                    }
                },
            };
            let fate = self.send(&open, &[*message]).await.pop().unwrap_or(Ok(()));
            let said = open.state.borrow().refusal().map(|said| format!("{}: {said}", self.place));
            match (fate, said) {
                (Ok(()), _) => {
                    fates.push(Ok(()));
                    held = Some(open);
                }
                (Err(trouble), None) if trouble.is_infrastructure() => {
                    // What was not sent shares the fate of what was sent in vain: nobody waits for a server once for each.
                    fates.resize(messages.len(), Err(trouble));
                    break;
                }
                (Err(trouble), None) => fates.push(Err(trouble)),
                (Err(_), Some(why)) => fates.push(Err(Trouble::Refused(why))),
            }
        }
        fates
    }

    async fn send(&self, open: &Open, messages: &[&Message]) -> Vec<Result<(), Trouble>> {
        let all = |trouble: Trouble| vec![Err(trouble); messages.len()];
        let Open { context, mut state } = open.clone();
        let sent = async {
            let mut acks = Vec::with_capacity(messages.len());
            for message in messages {
                acks.push(self.begin(&context, message).await);
            }
            join_all(
                acks.into_iter()
                    .map(|begun| async { begun?.await.map(drop).map_err(|error| self.trouble(&error)) }),
            )
            .await
        };
        tokio::select! {
            fates = timeout(self.patience, sent) => fates.unwrap_or_else(|_| {
                // Who may not publish is told so, and nothing else.
                let said = open.state.borrow().said.clone();
                all(said.map_or_else(
                    || silent(&self.place, self.patience),
                    |said| Trouble::infrastructure(format!("{}: {said}", self.place)),
                ))
            }),
            _ = state.wait_for(|state| state.broken) => {
                all(Trouble::infrastructure(format!("{}: the connection broke", self.place)))
            }
        }
    }

    async fn begin(
        &self,
        context: &Context,
        message: &Message,
    ) -> Result<jetstream::context::PublishAckFuture, Trouble> {
        let subject = self.subject.of(message);
        if !is_subject(&subject) {
            let why = "a subject is words without spaces, `*` and `>`, with a `.` between them";
            return Err(Trouble::refused(format!("`{subject}`, the subject of {}: {why}", message.place())));
        }
        let sent = context.publish_with_headers(subject, headers(message), message.body().clone()).await;
        sent.map_err(|error| self.trouble(&error))
    }

    fn trouble(&self, error: &PublishError) -> Trouble {
        let place = &self.place;
        let code = std::error::Error::source(error)
            .and_then(|source| source.downcast_ref::<jetstream::Error>())
            .map(|error| error.error_code().0);
        match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => {
                Trouble::refused(format!("{place}: {} (max_payload)", in_full(error)))
            }
            _ if code == Some(LARGER_THAN_STREAM) => {
                Trouble::refused(format!("{place}: the stream takes no message of that size (max_msg_size)"))
            }
            _ if code == Some(HEADERS_TOO_LARGE) => {
                let what = "the key, the names and the ids of a message are more than the 64 KiB that a stream takes";
                Trouble::refused(format!("{place}: {what} as headers"))
            }
            PublishErrorKind::StreamNotFound => Trouble::infrastructure(format!(
                "{place}: no stream of JetStream takes the subject: make one with it among its subjects"
            )),
            _ => Trouble::infrastructure(format!("{place}: {}", in_full(error))),
        }
    }
}

#[async_trait]
impl Broker for JetStream {
    async fn publish(&self, messages: &[Message]) -> Result<(), Stuck> {
        in_waves(messages, |wave| self.wave(wave)).await
    }
}

fn headers(message: &Message) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut insert = |name: &str, value: &str| {
        if let Ok(value) = encoded(value).parse::<HeaderValue>() {
            headers.insert(name, value);
        }
    };
    // What the server drops repeats by, among all that any relay sends to the stream: another relay's message of the same event is none, nor
    // is one of the same place in another history.
    let Message { id, epoch, relay, .. } = message;
    insert("Nats-Msg-Id", &format!("{relay}:{}:{epoch}:{}", id.log, id.position));
    insert("content-type", message.content_type());
    for (attribute, value) in message.attributes() {
        insert(&format!("ce-{attribute}"), &value);
    }
    headers
}

fn is_subject(subject: &str) -> bool {
    let word =
        |word: &str| !word.is_empty() && !word.contains(|c: char| c.is_whitespace() || c == '*' || c == '>');
    subject.split('.').all(word)
}

/// As HTTP has it in headers: all but what is printable ASCII, and space, `"` and `%`, byte for byte.
fn encoded(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'"' | b'%' => _ = write!(encoded, "%{byte:02X}"),
            0x21..=0x7E => encoded.push(char::from(byte)),
            _ => _ = write!(encoded, "%{byte:02X}"),
        }
    }
    encoded
}

fn decoded(value: &str) -> Option<String> {
    let mut bytes = value.bytes();
    let mut decoded = Vec::with_capacity(value.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit =
                    || char::from(bytes.next()?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                digit()? * 16 + digit()?
            }
            byte => byte,
        });
    }
    String::from_utf8(decoded).ok()
}

/// An error with what has led to it.
fn in_full(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_says = cause.to_string();
        if !said.contains(&cause_says) {
            said = format!("{said}: {cause_says}");
        }
        source = cause.source();
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_carry_any_name() {
        for name in ["order-1", "Zürich 100 %", "\"a\"\t", "注文", "a%20b"] {
            let encoded = encoded(name);
            assert!(encoded.bytes().all(|byte| byte.is_ascii_graphic()), "{encoded}");
            assert_eq!(decoded(&encoded).as_deref(), Some(name));
        }
        assert_eq!(encoded("a b%é"), "a%20b%25%C3%A9");
        for broken in ["%", "%4", "%zz", "%FF"] {
            assert_eq!(decoded(broken), None, "{broken}");
        }
        let message = crate::message::tests::message("Zürich 1", 9);
        assert_eq!(JetStream::stamp(&headers(&message)), Ok(Stamp::from(&message)));
    }

    #[test]
    fn subjects_are_words() {
        assert!(is_subject("orders") && is_subject("orders.eu.1"));
        for bad in ["", ".", "a.", "a..b", "a b", "a.*", ">", "a\n"] {
            assert!(!is_subject(bad), "{bad}");
        }
    }

    #[test]
    fn a_url_that_is_none_is_refused() {
        let refused = JetStream::at("http://u:secret@host").unwrap_err().to_string();
        assert!(refused.contains("nats://host:port") && !refused.contains("secret"), "{refused}");
    }
}
