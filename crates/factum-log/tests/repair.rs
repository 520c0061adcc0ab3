//! The last resort: a log cut before its first damage, with everything that is cut kept.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

use std::{collections::BTreeMap, fs, path::Path};

use factum::{Append, Error, EventStore, EventStoreExt, NewEvent, Read, RecordedEvent, Start, StreamName};
use factum_log::{LogStore, Options, plan_repair, repair, verify};

fn options(directory: &Path) -> Options {
    Options::new(directory).segments(8192, 8192).indexed_in_memory(30)
}

async fn write(store: &LogStore, events: usize) {
    for n in 0..events {
        let stream = StreamName::new(format!("account-{}", n % 3)).unwrap();
        store.append(Append::to(stream, [NewEvent::bytes("E", vec![7; 200]).unwrap()])).await.unwrap();
    }
}

async fn log_in(directory: &Path) -> Vec<RecordedEvent> {
    let store = options(directory).open().unwrap();
    write(&store, 100).await;
    store.close().await.unwrap();
    store.read_to_end(Read::all()).await.unwrap()
}

fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect()
}

/// Damages a copy of the log, repairs it, and looks at what is left.
async fn is_cut(damage: impl Fn(&Path), keeps: usize) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let events = log_in(path).await;
    damage(path);
    let damaged = files(path);
    let planned = plan_repair(path, |_| {}).unwrap();
    assert_eq!(files(path), damaged, "a plan changes nothing");
    let done = repair(path, |_| {}).unwrap();
    assert_eq!((&planned.files, planned.lost_events), (&done.files, done.lost_events));
    assert_eq!(done.kept_events, keeps as u64);
    assert!(done.lost_events < 100 - done.kept_events || done.damaged.is_empty(), "{done:?}");
    let now = files(path);
    for (name, kept) in &done.files {
        assert_eq!(now[kept], damaged[name], "{name} is kept as it was");
    }
    assert_eq!(verify(path, |_| {}).unwrap().findings, []);
    let store = options(path).open().unwrap();
    assert_eq!(store.read_to_end(Read::all()).await.unwrap(), events[..keeps]);
    write(&store, 50).await;
    let after = store.read_to_end(Read::all()).await.unwrap();
    assert_eq!(after.len(), keeps + 50);
    assert!(after[keeps].position > events[99].position, "no position is given twice");
    let old = events[0].position;
    let old = factum::LogIdentity { epoch: 1, ..done.log }.at(old);
    let refused = store.read(Read { start: Start::Beyond(old), ..Read::all() }).await.unwrap_err();
    assert!(matches!(refused, Error::LogRewound(_)), "{refused}");
    store.close().await.unwrap();
    drop(store);
    assert_eq!(verify(path, |_| {}).unwrap().findings, []);
    let refused = repair(path, |_| {}).unwrap_err();
    assert!(refused.to_string().contains("nothing needs to be cut"), "{refused}");
}

fn segment(directory: &Path, number: u32) -> std::path::PathBuf {
    directory.join(format!("{number:010}.segment"))
}

fn flip(directory: &Path, number: u32, at: usize) {
    let mut bytes = fs::read(segment(directory, number)).unwrap();
    bytes[at] ^= 0xff;
    fs::write(segment(directory, number), bytes).unwrap();
}

/// Events of this log that are in one segment: what a test writes is always the same.
const IN_SEGMENT: usize = 12;

#[tokio::test]
async fn an_event_in_the_middle_costs_all_after_it() {
    is_cut(|path| flip(path, 3, 4096 + 100), 2 * IN_SEGMENT).await;
}

#[tokio::test]
async fn a_frame_before_the_last_in_the_last_segment() {
    is_cut(|path| flip(path, 9, 4096), 8 * IN_SEGMENT).await;
}

#[tokio::test]
async fn a_header_and_a_missing_file() {
    is_cut(|path| flip(path, 5, 20), 4 * IN_SEGMENT).await;
    is_cut(|path| fs::remove_file(segment(path, 7)).unwrap(), 6 * IN_SEGMENT).await;
    is_cut(|path| fs::remove_file(segment(path, 9)).unwrap(), 8 * IN_SEGMENT).await;
}

#[tokio::test]
async fn what_cannot_be_mended_is_not_touched() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let refused = plan_repair(path, |_| {}).unwrap_err();
    assert!(matches!(refused, Error::NotFound { .. }), "{refused}");
    log_in(path).await;
    let refused = plan_repair(path, |_| {}).unwrap_err();
    assert!(matches!(refused, Error::InvalidInput { .. }), "{refused}");
    flip(path, 1, 20);
    let before = files(path);
    for refused in [plan_repair(path, |_| {}), repair(path, |_| {})] {
        let refused = refused.unwrap_err();
        assert!(refused.to_string().contains("nothing of it would be left"), "{refused}");
    }
    let now = files(path);
    assert!(before.iter().all(|(name, bytes)| name == "LOCK" || now[name] == *bytes));
    flip(path, 1, 20);
    let store = options(path).open().unwrap();
    let refused = repair(path, |_| {}).unwrap_err();
    assert!(matches!(refused, Error::Fenced { .. }), "{refused}");
    drop(store);
}
