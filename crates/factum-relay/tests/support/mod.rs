//! What the tests of this crate share.
#![allow(dead_code, reason = "each file of tests uses a part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that unwraps an error has failed; it says what it sees"
)]

pub(crate) mod mischief;
#[cfg(any(feature = "nats", feature = "rabbitmq", feature = "redis"))]
pub(crate) mod server;
pub(crate) mod storm;
pub(crate) mod tls;
#[cfg(any(feature = "nats", feature = "rabbitmq", feature = "redis"))]
#[path = "../../../../xtask/src/watchdog.rs"]
mod watchdog;

use factum::{Append, EventStoreExt, Factum, MemoryStore, NewEvent, Query, Read, RecordedEvent, StreamName};
use factum_relay::{Broker, Relay};

/// A log in memory.
pub(crate) fn log() -> Factum {
    Factum::new(MemoryStore::new())
}

/// Records an event of so many bytes.
pub(crate) async fn record(factum: &Factum, key: &str, data: serde_json::Value) -> RecordedEvent {
    let event = NewEvent::json("Placed", &data).unwrap();
    let stream = StreamName::new(key.to_owned()).unwrap();
    factum.store().append(Append::to(stream.clone(), [event])).await.unwrap();
    factum.store().read_to_end(Read::stream(stream)).await.unwrap().pop().unwrap()
}

/// A relay of everything.
pub(crate) fn relay<B: Broker>(factum: &Factum, broker: B) -> Relay<B> {
    Relay::new(factum, "out", Query::all(), broker)
}

/// A seed of `FACTUM_TEST_SEED`, or a new one.
pub(crate) fn seed(of: &str) -> u64 {
    let given = std::env::var("FACTUM_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    println!("{of}: the same again with FACTUM_TEST_SEED={seed}");
    seed
}

/// A port that nobody has at this moment.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// Which events were received, in the order in which they first were.
pub(crate) fn which(events: &[RecordedEvent], received: &[storm::Received]) -> Vec<usize> {
    let mut which = Vec::new();
    for (stamp, _) in received {
        let event = events.iter().position(|event| event.position == stamp.id.position).unwrap();
        if !which.contains(&event) {
            which.push(event);
        }
    }
    which
}
