//! Hints of what is new, between processes: `NOTIFY`, never within an append's transaction (there it takes a lock of the whole
//! database until the commit), but after it, from a connection of its own, one for all that came meanwhile. Hints may be lost and may lie:
//! the log is looked at once a second all the same.

use std::{future::poll_fn, sync::Arc, time::Duration};

use deadpool_postgres::Pool;
use factum::Position;
use tokio::{sync::watch, task::JoinHandle};
use tokio_postgres::{AsyncMessage, Client};

use crate::{connect::Door, fault::Fault, metrics, schema::in_schema, status};

/// Hints are given no closer to each other.
const PAUSE: Duration = Duration::from_millis(5);
/// After a failure it connects again; each time twice as much later.
const AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// What is known to be new. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct News {
    /// The last position that this process has written.
    written: Arc<watch::Sender<Position>>,
    /// The last position of which anybody has said that it is there.
    told: Arc<watch::Sender<Position>>,
}

impl News {
    pub(crate) fn new() -> Self {
        let none = || Arc::new(watch::Sender::new(Position::START));
        Self { written: none(), told: none() }
    }

    /// This process has written up to here.
    pub(crate) fn write(&self, last: Position) {
        raise(&self.told, last);
        raise(&self.written, last);
    }

    /// What has been told so far: to be taken before one looks.
    pub(crate) fn told(&self) -> Position {
        *self.told.borrow()
    }

    /// Whoever looked after `told` was known saw the log end before it: it is of a history that is gone, or was never true. Nobody is to
    /// be woken by it again and again.
    pub(crate) fn is_refuted(&self, told: Position, head: Position) {
        if head < told {
            self.told.send_if_modified(|latest| {
                let same = *latest == told;
                if same {
                    *latest = head;
                }
                same
            });
        }
    }

    pub(crate) async fn beyond(&self, position: Position) {
        // The sender lives as long as this, so waiting cannot fail.
        let _ = self.told.subscribe().wait_for(|told| *told > position).await;
    }
}

fn raise(watched: &watch::Sender<Position>, to: Position) {
    watched.send_if_modified(|latest| {
        let newer = to > *latest;
        *latest = to.max(*latest);
        newer
    });
}

/// The connection to others. It ends with this.
#[derive(Debug)]
pub(crate) struct Hints(JoinHandle<()>);

impl Drop for Hints {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Hints {
    /// And publishes how the store is, every so often.
    pub(crate) fn exchange(door: Door, news: News, pool: Pool, metrics: Option<Duration>) -> Self {
        Self(tokio::spawn(async move {
            let mut again = AGAIN.0;
            loop {
                let listened = tokio::time::Instant::now();
                // What is wrong with the database is told to those who ask it for something.
                let _ = listen(&door, &news, &pool, metrics).await;
                again = if listened.elapsed() > AGAIN.1 { AGAIN.0 } else { (again * 2).min(AGAIN.1) };
                tokio::time::sleep(again.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            }
        }))
    }
}

/// Ends a task with the one who waits for it.
struct Ending(JoinHandle<()>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn listen(door: &Door, news: &News, pool: &Pool, metrics: Option<Duration>) -> Result<(), Fault> {
    let (client, mut connection) = door.connection().await?;
    let told = news.told.clone();
    let mut driven = Ending(tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notification(notification) = message
                && let Ok(position) = notification.payload().parse()
            {
                raise(&told, Position(position));
            }
        }
    }));
    tokio::select! {
        _ = &mut driven.0 => Ok(()),
        ended = talk(&client, &door.schema, news) => ended,
        ended = publish(&client, door, pool, metrics) => ended,
    }
}

async fn publish(client: &Client, door: &Door, pool: &Pool, every: Option<Duration>) -> Result<(), Fault> {
    let Some(every) = every else { return std::future::pending().await };
    loop {
        let log = status::of_log(client, &door.schema).await?;
        metrics::publish(&log, pool, &door.place, &door.schema);
        tokio::time::sleep(every).await;
    }
}

async fn talk(client: &Client, schema: &str, news: &News) -> Result<(), Fault> {
    let channel = format!("factum {schema}");
    // A hint that is lost in a crash is no loss.
    client.batch_execute(&format!("SET synchronous_commit = off; LISTEN \"{channel}\"")).await?;
    // What was told while nobody listened.
    let head = client.query_one(&in_schema("SELECT factum.safe_head()", schema), &[]).await?;
    raise(&news.told, Position(crate::rows::number(head.try_get(0)?)));
    let notify = client.prepare("SELECT pg_notify($1, $2)").await?;
    let mut written = news.written.subscribe();
    written.mark_changed();
    while written.changed().await.is_ok() {
        let position = *written.borrow_and_update();
        if position > Position::START {
            client.query(&notify, &[&channel, &position.0.to_string()]).await?;
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}
