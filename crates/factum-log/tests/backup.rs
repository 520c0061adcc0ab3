//! Backups made while the log is written to, and logs made from them.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test; it says its seed"
)]

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use factum::{Append, Error, EventStore, EventStoreExt, NewEvent, Read, RecordedEvent, Start, StreamName};
use factum_conformance::{
    checker::{FinalLog, verify as check_history},
    recorder::Recorder,
    workload,
};
use factum_log::{LogStore, Options, backup, restore, verify};

fn options(directory: &Path) -> Options {
    Options::new(directory).segments(8192, 32 << 10).indexed_in_memory(60)
}

async fn write(store: &LogStore, events: usize) {
    for n in 0..events {
        let stream = StreamName::new(format!("account-{}", n % 7)).unwrap();
        let event = NewEvent::json("Deposited", &serde_json::json!({ "n": n, "x": "x".repeat(n % 90) }));
        store.append(Append::to(stream, [event.unwrap()])).await.unwrap();
    }
}

async fn all(store: &LogStore) -> Vec<RecordedEvent> {
    store.read_to_end(Read::all()).await.unwrap()
}

fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect()
}

#[tokio::test]
async fn a_restored_log_has_everything_and_another_epoch() {
    let place = tempfile::tempdir().unwrap();
    let [data, copy, again] = ["data", "copy", "again"].map(|name| place.path().join(name));
    let store = options(&data).open().unwrap();
    write(&store, 300).await;
    let made = store.backup(&copy, |_| {}).await.unwrap();
    assert_eq!((made.events, made.copied_bytes), (300, made.bytes));
    assert!(verify(&copy, |_| {}).unwrap().is_sound());
    let events = all(&store).await;
    write(&store, 10).await;
    let late = store.head().await.unwrap().token;

    let restored = restore(&copy, &again, |_| {}).unwrap();
    assert_eq!((restored.backup.events, restored.verified.events), (300, 300));
    let store_again = options(&again).create(false).open().unwrap();
    assert_eq!(all(&store_again).await, events);
    assert!(store_again.recovery().clean);
    let head = store_again.head().await.unwrap().token;
    assert_eq!(head.log, restored.log);
    assert!(head.log.log_id == late.log.log_id && head.log.epoch > late.log.epoch);
    for old in [late, made.log.at(events[5].position)] {
        let refused = store_again.read(Read { start: Start::Beyond(old), ..Read::all() }).await.unwrap_err();
        assert!(matches!(refused, Error::LogRewound(_)), "{refused}");
    }
    write(&store_again, 200).await;
    assert_eq!(all(&store_again).await.len(), 500);
    store_again.close().await.unwrap();
    drop(store_again);
    assert!(verify(&again, |_| {}).unwrap().is_sound());
    let store_again = options(&again).open().unwrap();
    assert_eq!(store_again.head().await.unwrap().token.log, restored.log, "the epoch is kept");
    // Restored a second time, it is yet another history.
    let third = place.path().join("third");
    assert_ne!(restore(&copy, &third, |_| {}).unwrap().log, restored.log);
}

#[tokio::test]
async fn a_second_backup_copies_only_what_is_new() {
    let place = tempfile::tempdir().unwrap();
    let [data, copy] = ["data", "copy"].map(|name| place.path().join(name));
    let store = options(&data).open().unwrap();
    let mut bytes = 0;
    for round in 0..6 {
        write(&store, [1, 150, 0, 3, 400, 1][round]).await;
        let made = store.backup(&copy, |_| {}).await.unwrap();
        assert_eq!(made.copied_bytes, made.bytes - bytes, "round {round}");
        bytes = made.bytes;
        assert_eq!(verify(&copy, |_| {}).unwrap().findings, []);
        let again = place.path().join(format!("again {round}"));
        restore(&copy, &again, |_| {}).unwrap();
        assert_eq!(all(&LogStore::open(&again).unwrap()).await, all(&store).await, "round {round}");
    }
    store.close().await.unwrap();
    drop(store);
    let made = backup(&data, &copy, |_| {}).unwrap();
    assert!(made.copied_bytes < 4096 + 200, "closed, there is a mark at most: {made:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn backups_beside_sixteen_writers_are_prefixes_of_a_sound_history() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let place = tempfile::tempdir().unwrap();
    let [data, inside, outside] = ["data", "inside", "outside"].map(|name| place.path().join(name));
    let store = Options::new(&data).segments(16 << 10, 64 << 10).indexed_in_memory(500).open().unwrap();
    let recorder = Recorder::in_memory(Arc::new(store.clone())).await.unwrap();
    let options = workload::Options { seed, clients: 16, operations: 80, ..Default::default() };
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let backups = tokio::spawn({
        let (store, done, data, inside, outside) =
            (store.clone(), done.clone(), data.clone(), inside.clone(), outside.clone());
        async move {
            let mut made = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) || made == 0 {
                let before = store.head().await.unwrap().token.position;
                let backed_up = store.backup(&inside, |_| {}).await.unwrap();
                assert!(backed_up.end > before.0, "what was acknowledged before is in it");
                let (data, outside) = (data.clone(), outside.clone());
                tokio::task::spawn_blocking(move || backup(&data, &outside, |_| {}).unwrap()).await.unwrap();
                made += 1;
            }
            made
        }
    });
    workload::run(&recorder, &options).await.unwrap();
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    let made = backups.await.unwrap();
    let everything = all(&store).await;
    check_history(&recorder.into_history(), &FinalLog::read(&store).await.unwrap()).unwrap();
    println!("{made} backups, {} events", everything.len());
    assert!(made > 1);
    for copy in [inside, outside] {
        let again = copy.with_extension("again");
        restore(&copy, &again, |_| {}).unwrap();
        let events = all(&LogStore::open(&again).unwrap()).await;
        assert!(everything.starts_with(&events) && !events.is_empty(), "{} events", events.len());
    }
    // The last one, with all writers gone, restores a log on which the whole history holds.
    let last = place.path().join("last");
    store.backup(&last, |_| {}).await.unwrap();
    restore(&last, place.path().join("again"), |_| {}).unwrap();
    let again = LogStore::open(place.path().join("again")).unwrap();
    assert_eq!(all(&again).await, everything);
    assert_eq!(verify(place.path().join("again"), |_| {}).unwrap().findings, []);
}

#[tokio::test]
async fn what_must_not_be_overwritten_is_not() {
    let place = tempfile::tempdir().unwrap();
    let [data, copy, other, again] = ["data", "copy", "other", "again"].map(|name| place.path().join(name));
    let store = options(&data).open().unwrap();
    write(&store, 50).await;
    store.backup(&copy, |_| {}).await.unwrap();
    let kept = files(&copy);
    // Another log, the log itself, and any other directory.
    let foreign = options(&other).open().unwrap();
    write(&foreign, 60).await;
    for (refused, why) in [
        (foreign.backup(&copy, |_| {}).await, "a backup of another log"),
        (foreign.backup(&data, |_| {}).await, "is owned by another"),
        (backup(&data, place.path(), |_| {}), "holds other things than a backup"),
    ] {
        let shown = refused.unwrap_err().to_string();
        assert!(shown.contains(why), "{shown}");
    }
    // A log that was restored from an older backup does not have what the newer one has.
    restore(&copy, &again, |_| {}).unwrap();
    write(&store, 50).await;
    store.backup(&copy, |_| {}).await.unwrap();
    assert_ne!(files(&copy), kept);
    let kept = files(&copy);
    let rewound = options(&again).open().unwrap();
    write(&rewound, 200).await;
    let refused = rewound.backup(&copy, |_| {}).await.unwrap_err();
    assert!(refused.to_string().contains("has what the log"), "{refused}");
    drop(rewound);
    // A directory with anything in it takes no restore; a backup is no log.
    for (to, name) in
        [(&data, "segment"), (&again, "segment"), (&copy, "copy"), (&place.path().into(), "again")]
    {
        let refused = restore(&copy, to, |_| {}).unwrap_err();
        assert!(matches!(refused, Error::InvalidInput { .. } | Error::Fenced { .. }), "{name}: {refused}");
    }
    let refused = LogStore::open(&copy).unwrap_err();
    assert!(refused.to_string().contains("it holds a backup"), "{refused}");
    let now = files(&copy);
    assert!(kept.iter().filter(|(name, _)| *name != "LOCK").all(|(name, bytes)| now[name] == *bytes));
}

#[tokio::test]
async fn a_damaged_or_unfinished_backup_is_not_restored() {
    let place = tempfile::tempdir().unwrap();
    let [data, copy, again] = ["data", "copy", "again"].map(|name| place.path().join(name));
    let store = options(&data).open().unwrap();
    write(&store, 100).await;
    store.backup(&copy, |_| {}).await.unwrap();
    let whole = files(&copy);
    for (name, bytes) in whole.iter().filter(|(name, _)| *name != "LOCK") {
        for at in (0..bytes.len()).step_by(211) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            fs::write(copy.join(name), damaged).unwrap();
            let refused = restore(&copy, &again, |_| {}).unwrap_err();
            assert!(matches!(refused, Error::Corrupt(_)), "{name} byte {at}: {refused}");
            assert!(!again.exists() || files(&again).keys().all(|name| name == "LOCK"));
        }
        fs::remove_file(copy.join(name)).unwrap();
        assert!(restore(&copy, &again, |_| {}).is_err(), "{name} missing");
        fs::write(copy.join(name), bytes).unwrap();
    }
    fs::remove_file(copy.join("backup")).unwrap();
    let refused = restore(&copy, &again, |_| {}).unwrap_err();
    assert_eq!(refused.to_string(), format!("there is no finished backup in {}", copy.display()));
    // Made again into the same place, it is one.
    store.backup(&copy, |_| {}).await.unwrap();
    assert_eq!(restore(&copy, &again, |_| {}).unwrap().verified.events, 100);
}

#[tokio::test]
async fn an_interrupted_restore_is_no_log_and_can_be_done_again() {
    let place = tempfile::tempdir().unwrap();
    let [data, copy, again] = ["data", "copy", "again"].map(|name| place.path().join(name));
    let store = options(&data).open().unwrap();
    write(&store, 100).await;
    store.backup(&copy, |_| {}).await.unwrap();
    // As it is found after a kill in the middle.
    fs::create_dir(&again).unwrap();
    fs::write(again.join("restore.unfinished"), "").unwrap();
    fs::write(again.join("0000000001.segment"), "half").unwrap();
    let refused = LogStore::open(&again).unwrap_err();
    assert!(refused.to_string().contains("a restore into it did not finish"), "{refused}");
    restore(&copy, &again, |_| {}).unwrap();
    assert_eq!(all(&LogStore::open(&again).unwrap()).await, all(&store).await);
}

#[tokio::test]
async fn a_damaged_log_does_not_replace_what_a_backup_still_has() {
    let place = tempfile::tempdir().unwrap();
    let [data, copy] = ["data", "copy"].map(|name| place.path().join(name));
    let store = options(&data).open().unwrap();
    write(&store, 20).await;
    store.backup(&copy, |_| {}).await.unwrap();
    write(&store, 20).await;
    let last = files(&data).into_keys().rfind(|name| name.ends_with(".segment")).unwrap();
    let mut bytes = fs::read(data.join(&last)).unwrap();
    let used = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    bytes[used - 150] ^= 1;
    fs::write(data.join(&last), bytes).unwrap();
    let refused = store.backup(&copy, |_| {}).await.unwrap_err();
    assert!(matches!(refused, Error::Corrupt(_)), "{refused}");
    assert_eq!(restore(&copy, place.path().join("again"), |_| {}).unwrap().verified.events, 20);
}
