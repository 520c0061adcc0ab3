//! What lies in a directory, told to a person.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

use std::{fs, path::Path};

use factum::{Append, EventStore, NewEvent, StreamName};
use factum_log::{LogStore, Options, layout};

fn options(directory: &Path) -> Options {
    Options::new(directory).segments(8192, 8192).indexed_in_memory(20)
}

async fn write(store: &LogStore, events: usize) {
    for _ in 0..events {
        let event = NewEvent::bytes("E", vec![7; 300]).unwrap();
        store.append(Append::to(StreamName::new("s-1").unwrap(), [event])).await.unwrap();
    }
}

#[tokio::test]
async fn it_tells_what_is_there_and_what_opening_would_do() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    assert_eq!(layout(path, None).unwrap().opening, ["there is no log here; opening it would begin one"]);
    let store = options(path).open().unwrap();
    write(&store, 45).await;
    while !fs::read_dir(path).unwrap().any(|e| e.unwrap().path().extension().is_some_and(|e| e == "run")) {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let open = layout(path, None).unwrap();
    assert!(open.in_use && open.opening == ["refuse: another process has it open"], "{open}");
    store.close().await.unwrap();
    drop(store);
    let closed = layout(path, Some(2)).unwrap();
    println!("{closed}");
    assert_eq!(closed.segments.iter().map(|segment| segment.events).sum::<u64>(), 45);
    assert_eq!(closed.opening.last().unwrap(), "nothing else: the log was closed in good order");
    assert_eq!(closed.frames.len() as u64, closed.segments[1].frames);
    assert_eq!(
        closed.frames.iter().map(|frame| u64::from(frame.events)).sum::<u64>(),
        closed.segments[1].events
    );
    let last = closed.segments.last().unwrap().clone();
    // As after a crash: no word of a good end, and a torn frame.
    fs::remove_file(path.join("manifest")).unwrap();
    let file = path.join(format!("{:010}.segment", last.number));
    let mut bytes = fs::read(&file).unwrap();
    bytes[usize::try_from(last.used_bytes).unwrap() + 10] = 1;
    fs::write(&file, &bytes).unwrap();
    let crashed = layout(path, None).unwrap();
    assert!(crashed.opening.iter().any(|step| step.starts_with("copy 11 bytes of torn frames")), "{crashed}");
    let recovery = options(path).open().unwrap().recovery().clone();
    assert_eq!(recovery.cut_bytes, 11);
    bytes[4096 + 70] ^= 1;
    fs::write(&file, bytes).unwrap();
    let damaged = layout(path, None).unwrap();
    assert!(
        damaged.opening[0].starts_with("refuse: ") && damaged.opening[0].contains("positions"),
        "{damaged}"
    );
    assert!(layout(path, Some(99)).is_err());
}
