//! Every byte looked at: nothing found where nothing is wrong, and all of it where much is.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use factum::{
    Append, Error, EventStore, EventStoreExt, ExpectedRevision, ManualClock, NewEvent, Read, Retention,
    StreamName, Tags, Timestamp,
};
use factum_log::{LogStore, Options, Part, verify};

fn options(directory: &Path) -> Options {
    Options::new(directory).segments(8192, 32 << 10).indexed_in_memory(40)
}

fn event(n: usize) -> NewEvent {
    let event =
        NewEvent::json("Deposited", &serde_json::json!({ "n": n, "note": "x".repeat(n % 150) })).unwrap();
    event.with_tags(Tags::new([format!("n:{}", n % 10), "all:1".into()]).unwrap())
}

async fn write(store: &LogStore, events: usize) {
    for n in 0..events {
        let stream = StreamName::new(format!("account-{}", n % 7)).unwrap();
        store.append(Append::to(stream, [event(n), event(n + 1)])).await.unwrap();
    }
}

/// A log of many segments and runs, with retention, closed in good order.
async fn log_in(directory: &Path) -> LogStore {
    let store = options(directory).clock(Arc::new(ManualClock::at(Timestamp(5)))).open().unwrap();
    write(&store, 100).await;
    let stream = StreamName::new("account-3").unwrap();
    let retention = Retention { max_count: Some(4), ..Retention::default() };
    store.set_retention(&stream, ExpectedRevision::Any, retention).await.unwrap();
    store.delete(&StreamName::new("account-4").unwrap(), ExpectedRevision::Any).await.unwrap();
    write(&store, 200).await;
    // The index is written by a thread of its own.
    while runs(directory).len() < 3 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    store.close().await.unwrap();
    store
}

fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect()
}

fn named(directory: &Path, extension: &str) -> Vec<String> {
    let names =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut named: Vec<String> = names.filter(|name| name.ends_with(extension)).collect();
    named.sort();
    named
}

fn runs(directory: &Path) -> Vec<String> {
    named(directory, ".run")
}

fn flip(directory: &Path, name: &str, at: usize) {
    let mut bytes = fs::read(directory.join(name)).unwrap();
    bytes[at] ^= 0xff;
    fs::write(directory.join(name), bytes).unwrap();
}

#[tokio::test]
async fn a_sound_log_is_sound_open_or_closed_and_nothing_is_changed() {
    let directory = tempfile::tempdir().unwrap();
    let store = log_in(directory.path()).await;
    let events = store.read_to_end(Read::all()).await.unwrap().len() as u64;
    drop(store);
    let before = files(directory.path());
    let mut told = Vec::new();
    let found = verify(directory.path(), |progress| told.push(progress)).unwrap();
    assert_eq!(found.findings, []);
    assert!(found.unchecked.is_empty() && !found.live, "{found:?}");
    // Hidden events are read by nobody, and verified all the same.
    assert!(found.events > events && found.events == 602, "{} of {events}", found.events);
    assert!(found.segments > 3 && found.runs >= 3, "{found:?}");
    assert_eq!(told.last().map(|last| last.done), told.last().map(|last| last.total));
    assert_eq!(files(directory.path()), before, "looking changes nothing");

    let store = options(directory.path()).open().unwrap();
    write(&store, 10).await;
    let found = store.verify(|_| {}).await.unwrap();
    assert_eq!((found.findings, found.live, found.events), (vec![], true, 622));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_verified_while_writers_write() {
    let directory = tempfile::tempdir().unwrap();
    let store = options(directory.path()).open().unwrap();
    write(&store, 20).await;
    let writer = tokio::spawn({
        let store = store.clone();
        async move { write(&store, 600).await }
    });
    let mut looks = 0;
    while !writer.is_finished() {
        let found = store.verify(|_| {}).await.unwrap();
        assert_eq!((found.findings, found.unchecked), (vec![], vec![]));
        // As another process would.
        let found = verify(directory.path(), |_| {}).unwrap();
        assert_eq!((found.findings, found.unchecked), (vec![], vec![]));
        looks += 2;
    }
    writer.await.unwrap();
    assert!(looks > 2, "{looks}");
}

#[tokio::test]
async fn all_damage_is_listed_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    drop(log_in(path).await);
    let (segments, runs) = (named(path, ".segment"), runs(path));
    let sound = verify(path, |_| {}).unwrap();
    flip(path, &segments[0], 4096 + 70);
    flip(path, &segments[0], 4096 + 2000);
    flip(path, &segments[1], 4100);
    flip(path, &segments[2], 100);
    let length = fs::read(path.join(&segments[1])).unwrap().len();
    flip(path, &segments[1], length - 1);
    flip(path, &runs[1], 5000);
    flip(path, "manifest", 3);
    let found = verify(path, |_| {}).unwrap();
    let of = |file: &str| {
        let of_file = found.findings.iter().filter(|finding| finding.damage.segment.ends_with(file));
        of_file
            .map(|finding| (finding.part, finding.damage.offset, finding.damage.positions))
            .collect::<Vec<_>>()
    };
    let first = of(&segments[0]);
    assert_eq!(first.len(), 2, "{first:#?}");
    assert!(first.iter().all(|(part, _, positions)| *part == Part::Log && positions.is_some()));
    assert!((4096..=4096 + 70).contains(&first[0].1) && first[0].2.unwrap().0.0 == first[0].1, "{first:?}");
    assert!(first[1].1 > 4096 + 70 && first[1].1 <= 4096 + 2000, "{first:?}");
    let second = of(&segments[1]);
    assert_eq!(second.len(), 2, "{second:#?}");
    assert_eq!(second[0].1, 4096);
    assert!(second[0].2.is_some() && second[1].2.is_none());
    assert!(of(&segments[2]).iter().any(|(_, offset, _)| *offset == 0));
    assert!(of(&runs[1]).iter().any(|(part, ..)| *part == Part::Index));
    assert_eq!(of("manifest").len(), 1);
    assert!(found.log_is_damaged() && !found.positions().is_empty());
    // What is damaged are some frames: all others are still looked at.
    assert!(found.events + 20 > sound.events, "{} of {}", found.events, sound.events);
}

#[tokio::test]
async fn missing_files_are_found() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    drop(log_in(path).await);
    let segments = named(path, ".segment");
    for name in &segments {
        fs::rename(path.join(name), path.join("elsewhere")).unwrap();
        let found = verify(path, |_| {}).unwrap();
        let missing = found.findings.iter().find(|f| f.damage.segment.ends_with(name.as_str()));
        assert!(
            missing.is_some_and(|f| f.damage.problem.contains("missing")),
            "{name}: {:#?}",
            found.findings
        );
        fs::rename(path.join("elsewhere"), path.join(name)).unwrap();
    }
    for run in runs(path) {
        fs::remove_file(path.join(run)).unwrap();
    }
    fs::remove_file(path.join("manifest")).unwrap();
    let found = verify(path, |_| {}).unwrap();
    assert_eq!((found.findings, found.events), (vec![], 602), "what can be made again is not missed");
}

#[tokio::test]
async fn an_index_that_lies_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    drop(log_in(path).await);
    // A run of another stretch under the right name, and one that is not of this log.
    let all = runs(path);
    let saved = fs::read(path.join(&all[1])).unwrap();
    fs::write(path.join(&all[1]), fs::read(path.join(&all[2])).unwrap()).unwrap();
    let found = verify(path, |_| {}).unwrap();
    assert!(found.findings.iter().any(|f| f.part == Part::Index) && !found.log_is_damaged(), "{found:#?}");
    fs::write(path.join(&all[1]), saved).unwrap();
    assert!(verify(path, |_| {}).unwrap().is_sound());
    let other = tempfile::tempdir().unwrap();
    drop(log_in(other.path()).await);
    let foreign = runs(other.path()).into_iter().next().unwrap();
    fs::remove_file(path.join(&all[0])).unwrap();
    fs::copy(other.path().join(&foreign), path.join(&foreign)).unwrap();
    let found = verify(path, |_| {}).unwrap();
    assert!(found.findings.iter().any(|f| f.part == Part::Index) && !found.log_is_damaged(), "{found:#?}");
}

#[test]
fn what_is_no_log_is_said_to_be_none() {
    let directory = tempfile::tempdir().unwrap();
    let refused = verify(directory.path(), |_| {}).unwrap_err();
    assert_eq!(refused, Error::NotFound { what: format!("log in {}", directory.path().display()) });
    let refused = verify(directory.path().join("nowhere"), |_| {}).unwrap_err();
    assert!(matches!(refused, Error::NotFound { .. }), "{refused}");
    fs::write(directory.path().join("file"), "x").unwrap();
    let refused = verify(directory.path().join("file"), |_| {}).unwrap_err();
    assert!(matches!(refused, Error::InvalidInput { .. }), "{refused}");
}
