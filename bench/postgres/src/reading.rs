//! Reading a stream of 100 events, beside a bare SELECT of the same rows.

use std::time::{Duration, Instant};

use factum::{Append, EventStore, NewEvent, Read, StreamName};
use factum_postgres::{Options, PostgresStore};

use crate::{
    bare::connect,
    subject::{Failure, Sample, payload},
};

const SCHEMA: &str = "bench_read";
const EVENTS: u64 = 100;
const STREAMS: u64 = 2_000;

/// How often each way reads a stream in a second, with so many readers at once.
pub async fn measure(
    url: &str,
    readers: usize,
    round: usize,
    time: Duration,
) -> Result<[(&'static str, Sample); 2], Failure> {
    if round == 0 && readers == 1 {
        connect(url).await?.batch_execute(&format!("DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")).await?;
    }
    let options = Options { schema: SCHEMA.to_owned(), connections: readers, ..Options::default() };
    let store = PostgresStore::open(url, options).await?;
    fill(&store).await?;
    let ours = async {
        // Connections are made before anything is measured, as those of the other are.
        let warm = (0..readers).map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.read(Read::stream(StreamName::new("account-0")?)).await })
        });
        for warm in warm.collect::<Vec<_>>() {
            warm.await??;
        }
        let begun = Instant::now();
        let read = |reader: usize| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut took = Vec::new();
                while begun.elapsed() < time {
                    let start = Instant::now();
                    let stream = StreamName::new(stream(reader, took.len()))?;
                    let page = store.read(Read::stream(stream)).await?;
                    assert_eq!(page.events.len() as u64, EVENTS);
                    took.push(start.elapsed());
                }
                Ok::<_, Failure>(took)
            })
        };
        gather((0..readers).map(read).collect(), begun).await
    };
    let bare = async {
        let mut clients = Vec::new();
        for _ in 0..readers {
            let client = connect(url).await?;
            let select = format!(
                "SELECT position, stream, revision, recorded_at, id, event_type, content_type, data::text, data_bytes,
                        metadata::text, metadata_bytes, tags
                 FROM {SCHEMA}.events WHERE stream = $1 ORDER BY revision"
            );
            let statement = client.prepare(&select).await?;
            clients.push((client, statement));
        }
        let begun = Instant::now();
        let read = |(reader, (client, statement)): (usize, (tokio_postgres::Client, _))| {
            tokio::spawn(async move {
                let mut took = Vec::new();
                while begun.elapsed() < time {
                    let start = Instant::now();
                    let rows = client.query(&statement, &[&stream(reader, took.len())]).await?;
                    let events: Vec<Event> = rows.iter().map(Event::of).collect();
                    assert_eq!(events.len() as u64, EVENTS);
                    took.push(start.elapsed());
                }
                Ok::<_, Failure>(took)
            })
        };
        gather(clients.into_iter().enumerate().map(read).collect(), begun).await
    };
    // Another one begins each time.
    let (ours, bare) = if round.is_multiple_of(2) {
        let ours = ours.await?;
        (ours, bare.await?)
    } else {
        let bare = bare.await?;
        (ours.await?, bare)
    };
    Ok([("factum", ours), ("bare select", bare)])
}

/// What the rows hold, as whoever asks for them takes it out.
#[allow(dead_code, reason = "it is what is read")]
struct Event {
    position: i64,
    stream: String,
    revision: i64,
    recorded_at: i64,
    id: uuid::Uuid,
    event_type: String,
    content_type: String,
    data: Option<String>,
    metadata: Option<String>,
    tags: Vec<String>,
}

impl Event {
    fn of(row: &tokio_postgres::Row) -> Self {
        Self {
            position: row.get(0),
            stream: row.get(1),
            revision: row.get(2),
            recorded_at: row.get(3),
            id: row.get(4),
            event_type: row.get(5),
            content_type: row.get(6),
            data: row.get(7),
            metadata: row.get(9),
            tags: row.get(11),
        }
    }
}

type Reader = tokio::task::JoinHandle<Result<Vec<Duration>, Failure>>;

async fn gather(readers: Vec<Reader>, begun: Instant) -> Result<Sample, Failure> {
    let mut took = Vec::new();
    for reader in readers {
        took.extend(reader.await??);
    }
    Ok(Sample::of(took, begun.elapsed()))
}

fn stream(reader: usize, n: usize) -> String {
    format!("account-{}", (reader as u64 * 31 + n as u64 * 7) % STREAMS)
}

async fn fill(store: &PostgresStore) -> Result<(), Failure> {
    for n in 0..STREAMS {
        let name = format!("account-{n}");
        let stream = StreamName::new(name.as_str())?;
        if store.stream_state(&stream).await?.last_revision.is_some() {
            continue;
        }
        let events = (0..EVENTS).map(|revision| NewEvent::json("Deposited", &payload(&name, revision)));
        store.append(Append::to(stream, events.collect::<factum::Result<Vec<_>>>()?)).await?;
    }
    Ok(())
}
