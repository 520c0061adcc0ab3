//! Scavenges: nothing that anyone can see changes, and the space comes back.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test; it says its seed"
)]

use std::{fs, ops::ControlFlow, path::Path, sync::Arc, time::Duration};

use factum::{
    Append, AsOf, Direction, Error, EventStore, EventStoreExt, ManualClock, NewEvent, Page, Query, Read,
    Retention, Revision, StreamName, Tags, Timestamp,
};
use factum_log::{LogStore, Options, Scavenge, Scavenged};
use fastrand::Rng;

fn seed() -> u64 {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    seed
}

fn stream(name: &str) -> StreamName {
    StreamName::new(name).unwrap()
}

async fn scavenge(store: &LogStore, percent: u8) -> Scavenged {
    let options = Scavenge::default().at_least_percent(percent);
    store.scavenge(options, |_| ControlFlow::Continue(())).await.unwrap()
}

fn bytes_of_segments(directory: &Path) -> u64 {
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let segments = files.filter(|file| file.path().extension().is_some_and(|e| e == "segment"));
    segments.map(|file| file.metadata().unwrap().len()).sum()
}

fn forget_index(directory: &Path) {
    for file in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
        if file.extension().is_some_and(|extension| extension == "run") {
            fs::remove_file(file).unwrap();
        }
    }
}

#[tokio::test]
async fn the_space_of_a_deleted_stream_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let options = || Options::new(directory.path()).segments(256 << 10, 256 << 10);
    let store = options().open().unwrap();
    let mut sent = Vec::new();
    for n in 0..2000u32 {
        let name = stream(if n % 4 == 0 { "kept-1" } else { "gone-1" });
        let event = NewEvent::json("Said", &serde_json::json!({ "n": n, "text": "x".repeat(400) })).unwrap();
        let append = Append::to(name, [event]);
        sent.push((append.clone(), store.append(append).await.unwrap()));
    }
    store.delete(&stream("gone-1"), factum::ExpectedRevision::Any).await.unwrap();
    let before = bytes_of_segments(directory.path());
    let seen = store.read_to_end(Read::all()).await.unwrap();
    let done = scavenge(&store, 20).await;
    let after = bytes_of_segments(directory.path());
    println!("{done}; {before} bytes before, {after} after");
    assert_eq!(before - after, done.bytes());
    assert!(done.events() > 1000 && done.bytes() > 500_000, "{done}");
    assert_eq!(store.read_to_end(Read::all()).await.unwrap(), seen);
    for (append, answer) in &sent {
        let again = store.append(append.clone()).await.unwrap();
        assert!(again.replayed);
        assert_eq!(again.events, answer.events);
    }
    drop(store);
    forget_index(directory.path());
    let store = options().open().unwrap();
    assert_eq!(store.read_to_end(Read::all()).await.unwrap(), seen);
    for (append, answer) in &sent {
        assert_eq!(store.append(append.clone()).await.unwrap().events, answer.events);
    }
    assert_eq!(store.stream_state(&stream("gone-1")).await.unwrap().last_revision, Some(Revision(1499)));
    assert_eq!(scavenge(&store, 20).await.events(), 0, "there is nothing left to remove");
}
