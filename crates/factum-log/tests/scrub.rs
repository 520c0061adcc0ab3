//! Bits that rot in what nobody reads are found, and hurt nobody who reads something else.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

use std::{fs, path::Path, time::Duration};

use factum::{Append, Error, EventStore, EventStoreExt, NewEvent, Position, Read, Start, StreamName};
use factum_log::{LogStore, Options, Part, salvage, verify};

fn options(directory: &Path) -> Options {
    Options::new(directory).segments(8192, 8192).indexed_in_memory(20).scrub(1 << 30)
}

async fn write(store: &LogStore, events: usize) {
    for n in 0..events {
        let event = NewEvent::bytes("E", vec![7; 300]).unwrap();
        let stream = StreamName::new(format!("s-{}", n / 9)).unwrap();
        store.append(Append::to(stream, [event])).await.unwrap();
    }
}

fn runs(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".run")).collect()
}

/// A closed log whose index covers the third segment, in which a byte is wrong.
async fn damaged_log(directory: &Path) -> usize {
    let store = options(directory).open().unwrap();
    write(&store, 90).await;
    while runs(directory).is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    store.close().await.unwrap();
    let file = directory.join("0000000003.segment");
    let mut bytes = fs::read(&file).unwrap();
    bytes[4096 + 1000] ^= 1;
    fs::write(file, bytes).unwrap();
    90
}

#[tokio::test]
async fn a_damaged_segment_is_found_and_the_others_are_read_and_written_on() {
    let directory = tempfile::tempdir().unwrap();
    damaged_log(directory.path()).await;
    let store = options(directory.path()).open().unwrap();
    while store.scrub_status().rounds == 0 {
        write(&store, 1).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let status = store.scrub_status();
    assert_eq!(status.findings.len(), 1, "{status:?}");
    let found = &status.findings[0];
    assert!(found.part == Part::Log && found.damage.segment.ends_with("0000000003.segment"), "{found}");
    let (first, last) = found.damage.positions.unwrap();
    assert!(status.bytes > 30_000 && status.segment.is_none() && status.trouble.is_none(), "{status:?}");
    // A scan is told where it stops, and goes on behind.
    let refused = store.read_to_end(Read::all()).await.unwrap_err();
    let Error::Corrupt(corrupt) = refused else { panic!("{refused}") };
    let (from, to) = corrupt.positions.unwrap();
    assert!(from <= first && to >= last && corrupt.segment.ends_with("0000000003.segment"), "{corrupt}");
    let log = store.head().await.unwrap().token.log;
    let behind = Read { start: Start::Beyond(log.at(Position(last.0 + 4096))), ..Read::all() };
    assert!(store.read_to_end(behind).await.unwrap().len() > 40);
    // Streams that lie elsewhere are read, by name.
    let whole = store.read_to_end(Read::stream(StreamName::new("s-7").unwrap())).await.unwrap();
    assert_eq!(whole.len(), 9);
    write(&store, 10).await;
    store.close().await.unwrap();
    // What is whole can be had of it in any case.
    let mut events = 0;
    let damage = salvage(directory.path(), |_| {
        events += 1;
        Ok(())
    });
    assert_eq!(damage.unwrap().len(), 1);
    assert!(events >= 99, "{events}");
}

#[tokio::test]
async fn without_an_index_it_is_refused_with_its_place_and_can_be_salvaged() {
    let directory = tempfile::tempdir().unwrap();
    damaged_log(directory.path()).await;
    for run in runs(directory.path()) {
        fs::remove_file(directory.path().join(run)).unwrap();
    }
    let refused = options(directory.path()).open().unwrap_err();
    let Error::Corrupt(corrupt) = refused else { panic!("{refused}") };
    assert!(corrupt.segment.ends_with("0000000003.segment") && corrupt.positions.is_some(), "{corrupt}");
    let mut events = 0;
    salvage(directory.path(), |_| {
        events += 1;
        Ok(())
    })
    .unwrap();
    assert_eq!(events, 89);
    assert_eq!(verify(directory.path(), |_| {}).unwrap().events, 89);
}

#[tokio::test]
async fn it_can_be_switched_off_and_ends_with_the_store() {
    let directory = tempfile::tempdir().unwrap();
    damaged_log(directory.path()).await;
    let store = options(directory.path()).scrub(0).open().unwrap();
    write(&store, 5).await;
    assert_eq!(store.scrub_status(), factum_log::ScrubStatus::default());
    drop(store);
    // So slowly that it would take minutes: closing does not wait for it.
    let store = options(directory.path()).scrub(100).open().unwrap();
    write(&store, 5).await;
    store.close().await.unwrap();
    assert!(store.scrub_status().rounds == 0);
}

#[tokio::test]
async fn a_damaged_index_is_made_again_and_nobody_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let store = options(path).scrub(0).open().unwrap();
    write(&store, 900).await;
    let names: Vec<StreamName> = (0..100).map(|n| StreamName::new(format!("s-{n}")).unwrap()).collect();
    // Until runs were merged: what is made again then is several.
    while runs(path).len() > 12 || runs(path).is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    store.close().await.unwrap();
    drop(store);
    for run in runs(path) {
        let file = path.join(run);
        let mut bytes = fs::read(&file).unwrap();
        // Every page of entries and lists; the header is whole.
        for at in (4096..bytes.len().saturating_sub(4096)).step_by(4096).take(8) {
            bytes[at + 700] ^= 1;
        }
        fs::write(file, bytes).unwrap();
    }
    let before = verify(path, |_| {}).unwrap();
    assert!(before.findings.iter().all(|f| f.part == Part::Index) && !before.is_sound(), "{before:?}");
    let store = options(path).scrub(0).open().unwrap();
    for name in &names {
        assert_eq!(store.read_to_end(Read::stream(name.clone())).await.unwrap().len(), 9, "{name}");
    }
    write(&store, 10).await;
    store.close().await.unwrap();
    drop(store);
    let after = verify(path, |_| {}).unwrap();
    assert_eq!((after.findings, after.unchecked, after.events), (vec![], vec![], 910));
    assert_eq!(options(path).open().unwrap().read_to_end(Read::all()).await.unwrap().len(), 910);
}
