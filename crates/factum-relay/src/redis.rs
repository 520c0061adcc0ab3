//! Redis Streams.

use std::{collections::HashMap, time::Duration};

use factum::{Error, Result, Stuck, Trouble, async_trait};
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, Pipeline, RedisError, RedisResult, Value,
    aio::MultiplexedConnection, streams::StreamId,
};
use tokio::time::timeout;

use crate::{
    inbox::Stamp,
    line::{Line, PATIENCE, silent},
    message::Message,
    relay::Broker,
    route::Route,
    url::shown,
};

/// Messages in one transaction, at most, and their bytes: a server does nothing else meanwhile.
const CHUNK: usize = 256;
const CHUNK_BYTES: usize = 1 << 20;
/// No server can be set to take less than this in a value. What is larger is alone in its transaction.
const LEAST_LIMIT: usize = CHUNK_BYTES;

/// A stream (or several) of a Redis server, 5 or later. The fields of an entry are `ce_` and the attribute's name, `content-type`, and `data`.
///
/// ```no_run
/// # fn example(factum: &factum::Factum) -> factum::Result<()> {
/// use factum_relay::{RedisStreams, Relay};
///
/// let redis = RedisStreams::at("redis://127.0.0.1:6379")?.stream("orders");
/// let relay = Relay::new(factum, "orders_out", factum::Query::category("order"), redis);
/// # Ok(()) }
/// ```
///
/// Entries are added by `XADD` within `MULTI` and `EXEC`, so that of messages that are sent together all get in or none.
///
/// **What its answer means is the server's configuration.** With `appendonly yes` and `appendfsync always` an entry is on the disk
/// before it is confirmed. With `appendfsync everysec`, the usual setting, a power cut takes up to two seconds of confirmed entries; with
/// snapshots alone, everything since the last one. A replica that takes over lacks what had not reached it: ask for
/// [`replicas`](Self::replicas). The relay does not publish again what was confirmed.
#[derive(Debug)]
pub struct RedisStreams {
    client: Client,
    place: String,
    stream: Route,
    newest: Option<u64>,
    replicas: u32,
    patience: Duration,
    line: Line<MultiplexedConnection>,
}

impl RedisStreams {
    /// A server, as `redis://[user:password@]host[:port][/database]`, and its stream `events`.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if that is no URL of a Redis server. Whether there is one is seen when something is published.
    pub fn at(url: &str) -> Result<Self> {
        let place = shown(url);
        let client = Client::open(url).map_err(|error| {
            let why =
                format!("write redis://host:port ({})", error.detail().unwrap_or("it is no URL of Redis"));
            Error::invalid(format!("the URL `{place}`"), why)
        })?;
        let (stream, patience, line) = (Route::to("events"), PATIENCE, Line::default());
        Ok(Self { client, place, stream, newest: None, replicas: 0, patience, line })
    }

    /// The stream that all messages go to. Redis makes it with the first.
    #[must_use]
    pub fn stream(self, name: impl Into<String>) -> Self {
        Self { stream: Route::to(name), ..self }
    }

    /// The stream that a message goes to: for several consumers that keep the order, a stream for each part of the keys. In a
    /// Redis cluster all must be in one slot, as `{orders}:0` and `{orders}:1` are.
    #[must_use]
    pub fn stream_by(self, stream: impl Fn(&Message) -> String + Send + Sync + 'static) -> Self {
        Self { stream: Route::by(stream), ..self }
    }

    /// Keeps about so many entries of a stream, and lets Redis drop the oldest (`MAXLEN ~`), **whether anybody has read them or not**.
    #[must_use]
    pub fn keep_newest(self, entries: u64) -> Self {
        Self { newest: Some(entries), ..self }
    }

    /// Takes an entry for confirmed when so many replicas have it as well (`WAIT`).
    #[must_use]
    pub fn replicas(self, replicas: u32) -> Self {
        Self { replicas, ..self }
    }

    /// How long the server may take to confirm: 5 s, unless said otherwise.
    #[must_use]
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// What an entry that a relay has published says of where it comes from.
    ///
    /// # Errors
    /// As for [`Stamp::read`].
    pub fn stamp(entry: &StreamId) -> Result<Stamp> {
        Stamp::read(|attribute| entry.get(&format!("ce_{attribute}")))
    }

    async fn send(&self, messages: &[Message]) -> Result<(), Stuck> {
        let stuck = |trouble| Stuck { done: 0, trouble };
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let connect = async {
            #[cfg(feature = "tls")]
            self.settle_on_cryptography();
            let made = self.client.get_multiplexed_async_connection_with_config(&config).await;
            let mut connection = made.map_err(|error| self.trouble(&error))?;
            // A server answers a stranger's short question, and hangs up at a long one.
            let greeted = redis::cmd("PING").query_async::<()>(&mut connection).await;
            greeted.map(|()| connection).map_err(|error| self.trouble(&error))
        };
        let (number, mut connection) = self.line.get(&self.place, connect).await.map_err(stuck)?;
        if let [message] = messages {
            self.check_size(message, &mut connection).await.map_err(stuck)?;
        }
        let pipeline = self.pipeline(messages);
        let asked =
            timeout(self.patience, pipeline.query_async::<Vec<RedisResult<Value>>>(&mut connection)).await;
        let failed = match asked {
            Ok(Ok(answers)) => match refusal(answers) {
                None => return self.replicated(number, &mut connection).await.map_err(stuck),
                Some((done, error)) => {
                    let trouble = self.trouble(&error);
                    if trouble.is_infrastructure() {
                        // It may be a primary that is none any more: the name leads to the new one.
                        self.line.hang_up(number).await;
                    }
                    return Err(Stuck { done, trouble });
                }
            },
            Ok(Err(error)) => self.trouble(&error),
            Err(_) => silent(&self.place, self.patience),
        };
        self.line.hang_up(number).await;
        Err(stuck(failed))
    }

    /// Where a program has several libraries for it, the client would not know which to take. What the program itself has settled on stays.
    #[cfg(feature = "tls")]
    fn settle_on_cryptography(&self) {
        use rustls::crypto::{CryptoProvider, ring};
        let secure = matches!(self.client.get_connection_info().addr(), redis::ConnectionAddr::TcpTls { .. });
        if secure && CryptoProvider::get_default().is_none() {
            let _ = ring::default_provider().install_default();
        }
    }

    /// A server closes the connection of who sends it what is larger than it takes, so it is asked before.
    async fn check_size(
        &self,
        message: &Message,
        connection: &mut MultiplexedConnection,
    ) -> Result<(), Trouble> {
        let bytes = message.body().len();
        if bytes < LEAST_LIMIT {
            return Ok(());
        }
        let mut ask = redis::cmd("CONFIG");
        ask.arg("GET").arg("proto-max-bulk-len");
        let asked = timeout(self.patience, ask.query_async::<HashMap<String, usize>>(connection)).await;
        // Who may not ask is left with the usual limit, which is far beyond any event.
        let limit = asked.ok().and_then(Result::ok).and_then(|settings| settings.into_values().next());
        match limit.filter(|limit| bytes > *limit) {
            None => Ok(()),
            Some(limit) => {
                let (place, what) = (&self.place, message.place());
                let why = format!(
                    "{place} takes no value of more than {limit} bytes (proto-max-bulk-len), and {what} has {bytes}"
                );
                Err(Trouble::refused(why))
            }
        }
    }

    fn pipeline(&self, messages: &[Message]) -> Pipeline {
        // A transaction in our own words: the client's own takes a refused MULTI for an error in itself.
        let mut pipeline = Pipeline::with_capacity(messages.len() + 2);
        pipeline.ignore_errors().cmd("MULTI");
        for message in messages {
            pipeline.cmd("XADD").arg(self.stream.of(message));
            if let Some(newest) = self.newest {
                pipeline.arg("MAXLEN").arg("~").arg(newest);
            }
            pipeline.arg("*");
            for (attribute, value) in message.attributes() {
                pipeline.arg(format!("ce_{attribute}")).arg(value);
            }
            pipeline.arg("content-type").arg(message.content_type()).arg("data").arg(&message.body()[..]);
        }
        pipeline.cmd("EXEC");
        pipeline
    }

    /// Waits until enough replicas have what this connection has written.
    async fn replicated(&self, number: u64, connection: &mut MultiplexedConnection) -> Result<(), Trouble> {
        if self.replicas == 0 {
            return Ok(());
        }
        let mut wait = redis::cmd("WAIT");
        wait.arg(self.replicas).arg(self.patience.as_millis().max(1).to_string());
        let waited = timeout(self.patience * 2, wait.query_async::<u32>(connection)).await;
        let failed = match waited {
            Ok(Ok(have)) if have >= self.replicas => return Ok(()),
            Ok(Ok(have)) => {
                let Self { place, replicas, .. } = self;
                self.line.hang_up(number).await;
                return Err(Trouble::infrastructure(format!(
                    "{have} of {replicas} replicas of {place} have what was published"
                )));
            }
            Ok(Err(error)) => self.trouble(&error),
            Err(_) => silent(&self.place, self.patience),
        };
        self.line.hang_up(number).await;
        Err(failed)
    }

    fn trouble(&self, error: &RedisError) -> Trouble {
        let said = error.to_string();
        if said.contains("invalid bulk length") {
            return Trouble::refused(format!(
                "{} takes no value of that size (proto-max-bulk-len)",
                self.place
            ));
        }
        let advice = match error.code() {
            _ if error.kind() == ErrorKind::AuthenticationFailed => ": put user and password into the URL",
            Some("WRONGTYPE") => {
                ": the name belongs to something that is no stream; choose another, or remove it"
            }
            Some("OOM") => ": its memory is full (maxmemory)",
            Some("NOAUTH" | "WRONGPASS") => ": put user and password into the URL",
            _ => "",
        };
        Trouble::infrastructure(format!("{}: {said}{advice}", self.place))
    }
}

#[async_trait]
impl Broker for RedisStreams {
    async fn publish(&self, messages: &[Message]) -> Result<(), Stuck> {
        let mut done = 0;
        while done < messages.len() {
            let chunk = chunk(&messages[done..]);
            match self.send(&messages[done..done + chunk]).await {
                Ok(()) => done += chunk,
                Err(stuck) => return Err(Stuck { done: done + stuck.done, ..stuck }),
            }
        }
        Ok(())
    }
}

/// What a transaction was refused for, if it was, and how many entries got in before.
fn refusal(mut answers: Vec<RedisResult<Value>>) -> Option<(usize, RedisError)> {
    // MULTI and each entry's being queued; of the errors here the first is the cause, and EXEC only its consequence.
    let executed = answers.pop()?;
    if let Some(error) = answers.into_iter().find_map(Result::err) {
        return Some((0, error));
    }
    match executed {
        Err(error) => Some((0, error)),
        Ok(Value::Array(entries)) => entries.into_iter().enumerate().find_map(|(done, entry)| match entry {
            Value::ServerError(error) => Some((done, error.into())),
            _ => None,
        }),
        Ok(other) => {
            Some((0, (ErrorKind::UnexpectedReturnType, "EXEC has answered", format!("{other:?}")).into()))
        }
    }
}

/// How many of these go into one transaction.
fn chunk(messages: &[Message]) -> usize {
    let mut bytes = 0;
    let fits = messages.iter().take(CHUNK).take_while(|message| {
        bytes += message.size();
        bytes <= CHUNK_BYTES
    });
    fits.count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "tls")]
    #[tokio::test]
    async fn a_program_settles_on_cryptography_itself_unless_a_server_needs_it() {
        let settled = || rustls::crypto::CryptoProvider::get_default().is_some();
        let message = crate::message::tests::message("order-1", 1);
        // Nobody is there, and somebody has been asked for.
        let plain = RedisStreams::at("redis://127.0.0.1:1").unwrap();
        assert!(plain.publish(std::slice::from_ref(&message)).await.is_err());
        let secure = RedisStreams::at("rediss://127.0.0.1:1").unwrap();
        assert!(!settled(), "the choice is the program's");
        assert!(secure.publish(&[message]).await.is_err());
        assert!(settled());
    }
}
