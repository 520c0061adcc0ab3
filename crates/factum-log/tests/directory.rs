//! What a person meets on the machine's own disk: locks, missing directories, damaged files.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

use std::{fs, path::Path};

use factum::{Append, Error, EventStore, EventStoreExt, NewEvent, Read, StreamName};
use factum_log::{LogStore, Options};

async fn write(store: &LogStore, events: usize) {
    for n in 0..events {
        let stream = StreamName::new(format!("account-{}", n % 3)).unwrap();
        let event =
            NewEvent::json("Deposited", &serde_json::json!({ "n": n, "note": "x".repeat(n % 200) })).unwrap();
        store.append(Append::to(stream, [event])).await.unwrap();
    }
}

async fn count(store: &LogStore) -> usize {
    store.read_to_end(Read::all()).await.unwrap().len()
}

#[tokio::test]
async fn a_second_owner_is_refused_until_the_first_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let first = LogStore::open(directory.path()).unwrap();
    let refused = LogStore::open(directory.path()).unwrap_err();
    assert!(matches!(refused, Error::Fenced { .. }), "{refused}");
    let shown = refused.to_string();
    assert!(shown.contains(&format!("process {}", std::process::id())), "{shown}");
    first.close().await.unwrap();
    drop(first);
    LogStore::open(directory.path()).unwrap();
}

#[tokio::test]
async fn an_owner_whose_lock_file_was_deleted_stops_at_the_next_segment() {
    let directory = tempfile::tempdir().unwrap();
    let open = || Options::new(directory.path()).segments(8192, 8192).open();
    let first = open().unwrap();
    write(&first, 5).await;
    fs::remove_file(directory.path().join("LOCK")).unwrap();
    let mut refused = None;
    for _ in 0..100 {
        let event = NewEvent::bytes("E", vec![0; 500]).unwrap();
        if let Err(error) = first.append(Append::to(StreamName::new("s").unwrap(), [event])).await {
            refused = Some(error);
            break;
        }
    }
    assert!(matches!(refused, Some(Error::Fenced { .. })), "{refused:?}");
}

#[test]
fn what_is_not_a_log_is_refused_in_words() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("nowhere");
    let refused = Options::new(&missing).create(false).open().unwrap_err();
    assert_eq!(refused.to_string(), format!("there is no log in {}", missing.display()));
    assert!(!missing.exists(), "looking makes nothing");
    let file = directory.path().join("file");
    fs::write(&file, "text").unwrap();
    let refused = LogStore::open(&file).unwrap_err();
    assert!(matches!(refused, Error::Unavailable { .. }), "{refused}");
}

/// A log of some segments that was closed in good order.
async fn log_in(directory: &Path) -> usize {
    let store = Options::new(directory).segments(8192, 8192).open().unwrap();
    write(&store, 60).await;
    store.close().await.unwrap();
    count(&store).await
}

fn segments(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "segment"));
    files.sort();
    files
}

#[tokio::test]
async fn flipped_bytes_and_cut_files_are_refused_or_harmless() {
    let directory = tempfile::tempdir().unwrap();
    let events = log_in(directory.path()).await;
    let files = segments(directory.path());
    assert!(files.len() >= 3, "{files:?}");
    let open = || Options::new(directory.path()).create(false).open();
    let mut refused = 0;
    for file in &files {
        let whole = fs::read(file).unwrap();
        for at in (0..whole.len()).step_by(97) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x20;
            fs::write(file, &damaged).unwrap();
            match open() {
                Ok(store) => assert_eq!(count(&store).await, events, "{} byte {at}", file.display()),
                Err(Error::Corrupt(_)) => refused += 1,
                Err(other) => panic!("{} byte {at}: {other}", file.display()),
            }
            // Opening may have written: put everything back.
            fs::write(file, &whole).unwrap();
        }
        for length in (0..whole.len()).step_by(531) {
            fs::write(file, &whole[..length]).unwrap();
            let error = open().unwrap_err();
            assert!(matches!(error, Error::Corrupt(_)), "{} cut at {length}: {error}", file.display());
        }
        fs::write(file, &whole).unwrap();
    }
    assert!(refused > 50, "{refused}");
    for file in &files {
        let elsewhere = directory.path().join("elsewhere");
        fs::rename(file, &elsewhere).unwrap();
        let error = open().unwrap_err();
        // Without its first segment, a directory is not taken for a log at all.
        assert!(
            matches!(error, Error::Corrupt(_) | Error::NotFound { .. }),
            "{} missing: {error}",
            file.display()
        );
        fs::rename(&elsewhere, file).unwrap();
    }
    assert_eq!(count(&open().unwrap()).await, events);
}

#[tokio::test]
async fn a_lost_or_damaged_manifest_is_only_a_lost_hint() {
    let directory = tempfile::tempdir().unwrap();
    let events = log_in(directory.path()).await;
    let manifest = directory.path().join("manifest");
    fs::write(&manifest, "nonsense").unwrap();
    let store = LogStore::open(directory.path()).unwrap();
    assert!(!store.recovery().clean);
    assert_eq!(count(&store).await, events);
    drop(store);
    fs::remove_file(&manifest).unwrap();
    let store = LogStore::open(directory.path()).unwrap();
    assert_eq!(count(&store).await, events);
    drop(store);
    assert!(LogStore::open(directory.path()).unwrap().recovery().clean);
}

#[tokio::test]
async fn the_largest_append_fits_whatever_the_segments_are() {
    let directory = tempfile::tempdir().unwrap();
    let store = Options::new(directory.path()).segments(8192, 8192).open().unwrap();
    let events = (0..16).map(|_| NewEvent::bytes("E", vec![1; (1 << 20) - 1]).unwrap());
    store.append(Append::to(StreamName::new("large-1").unwrap(), events)).await.unwrap();
    write(&store, 3).await;
    drop(store);
    let store = LogStore::open(directory.path()).unwrap();
    assert_eq!(count(&store).await, 19);
}
