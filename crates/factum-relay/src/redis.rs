//! Redis Streams.

use std::time::Duration;

use factum::{Error, Result, Stuck, Trouble, async_trait};
use redis::{
    AsyncConnectionConfig, Client, Pipeline, RedisError, RedisResult, Value, aio::MultiplexedConnection,
    streams::StreamId,
};
use tokio::time::timeout;

use crate::{
    inbox::Stamp,
    line::{Line, PATIENCE, silent},
    message::{Message, Route},
    relay::Broker,
    url::shown,
};

/// Messages in one transaction, at most, and their bytes: a server does nothing else meanwhile.
const CHUNK: usize = 256;
const CHUNK_BYTES: usize = 1 << 20;

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

    /// How long the server may take to confirm: 30 s, unless said otherwise.
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
            let made = self.client.get_multiplexed_async_connection_with_config(&config).await;
            made.map_err(|error| self.trouble(&error))
        };
        let (number, mut connection) = self.line.get(&self.place, connect).await.map_err(stuck)?;
        let pipeline = self.pipeline(messages);
        let asked =
            timeout(self.patience, pipeline.query_async::<Vec<RedisResult<Value>>>(&mut connection)).await;
        let failed = match asked {
            Ok(Ok(answers)) => {
                let done = answers.iter().take_while(|answer| answer.is_ok()).count();
                match answers.into_iter().find_map(Result::err) {
                    None => return self.replicated(number, &mut connection).await.map_err(stuck),
                    // The connection is fine: the server has said no.
                    Some(error) => return Err(Stuck { done, trouble: self.trouble(&error) }),
                }
            }
            Ok(Err(error)) => self.trouble(&error),
            Err(_) => silent(&self.place, self.patience),
        };
        self.line.hang_up(number).await;
        Err(stuck(failed))
    }

    fn pipeline(&self, messages: &[Message]) -> Pipeline {
        let mut pipeline = Pipeline::with_capacity(messages.len());
        pipeline.atomic().ignore_errors();
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
                // One of them is too large. Which, shows when each is sent alone.
                Err(Stuck { trouble: Trouble::Refused(_), .. }) if chunk > 1 => {
                    for message in &messages[done..done + chunk] {
                        let sent = self.send(std::slice::from_ref(message)).await;
                        sent.map_err(|stuck| Stuck { done, ..stuck })?;
                        done += 1;
                    }
                }
                Err(stuck) => return Err(Stuck { done: done + stuck.done, ..stuck }),
            }
        }
        Ok(())
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
