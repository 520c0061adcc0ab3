//! `factum consumer`, as an operator meets it.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

use std::{
    path::Path,
    process::{Command, Output},
    sync::{Arc, Mutex},
    time::Duration,
};

use factum::{
    Append, EventHandler, EventStore, EventStoreExt, NewEvent, OnFailure, Processor, Projection, Query, Read,
    StreamName, Trouble,
    handler::{Order, Standing},
    prelude::*,
};
use factum_log::LogStore;
use factum_sqlite::Sqlite;

/// What it prints and says, and how it ends.
fn consumer(arguments: &[&str]) -> (String, String, i32) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_factum"));
    let Output { stdout, stderr, status } = command.arg("consumer").args(arguments).output().unwrap();
    (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap(), status.code().unwrap())
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum OrderEvent {
    Placed { n: u64 },
}

impl Event for OrderEvent {
    const CATEGORY: &'static str = "order";
}

/// Handles what is not poison.
#[derive(Clone, Default)]
struct Mails {
    poison: Vec<u64>,
    sent: Arc<Mutex<Vec<u64>>>,
}

#[factum::async_trait]
impl EventHandler for Mails {
    const NAME: &'static str = "mails";
    type Event = OrderEvent;

    async fn handle(&self, event: &Recorded<OrderEvent>) -> Result<(), Trouble> {
        let OrderEvent::Placed { n } = event.event;
        if self.poison.contains(&n) {
            return Err(Trouble::refused("no address"));
        }
        self.sent.lock().unwrap().push(n);
        Ok(())
    }
}

/// Has everything handled that is in the log, or set aside for good.
async fn run(directory: &Path, mails: Mails) {
    let store = LogStore::open(directory.join("log")).unwrap();
    let factum = Factum::new(store.clone());
    let reads = Sqlite::open(directory.join("read.db")).unwrap();
    let processor = factum.handler(mails).attempts(1).start(Arc::new(reads)).await.unwrap();
    processor.wait_for(store.head().await.unwrap().token).await.unwrap();
    while is_busy(&processor).await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    processor.stop().await;
    drop((factum, processor));
    store.close().await.unwrap();
}

async fn is_busy(processor: &Processor) -> bool {
    let letters = processor.parked().list().await.unwrap();
    letters.iter().any(|letter| letter.standing == Standing::Retrying)
}

async fn place(directory: &Path, orders: &[(&str, u64)]) {
    let store = LogStore::open(directory.join("log")).unwrap();
    for (stream, n) in orders {
        let event = NewEvent::json("Placed", &serde_json::json!({ "n": n })).unwrap();
        store.append(Append::to(StreamName::new((*stream).to_owned()).unwrap(), [event])).await.unwrap();
    }
    store.close().await.unwrap();
}

#[tokio::test]
async fn what_is_set_aside_is_listed_retried_skipped_and_discarded() {
    let directory = tempfile::tempdir().unwrap();
    let (log, reads) = (directory.path().join("log"), directory.path().join("read.db"));
    let (log, reads) = (log.to_str().unwrap(), reads.to_str().unwrap());
    place(
        directory.path(),
        &[("order-a", 1), ("order-a", 2), ("order-b", 3), ("order-b", 4), ("order-c", 5)],
    )
    .await;
    let broken = Mails { poison: vec![1, 3, 5], ..Mails::default() };
    run(directory.path(), broken.clone()).await;
    let on =
        |verb: &str, more: &[&str]| consumer(&[&[verb, log, "mails", "--reads", reads][..], more].concat());

    let (out, said, code) = on("parked", &[]);
    assert_eq!((code, said.as_str(), out.lines().count()), (0, "", 5), "{out}");
    assert!(
        out.starts_with("`Placed` at position ") && out.contains("is parked after 1 attempt, the last at "),
        "{out}"
    );
    assert!(out.contains("waits behind another") && out.contains("it was refused: no address"), "{out}");
    let (out, _, _) = on("parked", &["--key", "order-c", "--format", "json-lines"]);
    let letter: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&letter["standing"], &letter["attempts"]), (&"parked".into(), &1.into()), "{out}");
    let (out, _, code) = on("status", &[]);
    assert_eq!(code, 0);
    assert!(out.ends_with("kept by nobody; 5 events of 3 keys set aside\n"), "{out}");

    let (out, said, code) = on("retry", &["--key", "order-a"]);
    assert_eq!((code, out.as_str(), said.as_str()), (0, "", ""));
    let position = letter["position"].to_string();
    assert_eq!(on("skip", &[&position, "--why", "gone", "--actor", "ada"]).2, 0);
    assert_eq!(on("discard", &["order-b", "--why", "a test"]).2, 0);
    let mended = Mails::default();
    run(directory.path(), mended.clone()).await;
    assert_eq!(*mended.sent.lock().unwrap(), [1, 2], "in order");
    assert_eq!(on("parked", &[]), ("nothing is set aside\n".to_owned(), String::new(), 0));

    let store = LogStore::open(log).unwrap();
    let orders = Read::query(Query::stream(StreamName::new("$consumer-mails").unwrap()));
    let orders = Recorded::<Order>::decode_all(store.read_to_end(orders).await.unwrap()).unwrap();
    assert_eq!(orders.len(), 3);
    assert_eq!(orders[1].record.metadata.actor().as_deref(), Some("ada"));
    assert!(matches!(&orders[1].event, Order::SkipAsked { why, .. } if why == "gone"));
    // A program has it open: it can be looked at, and orders must wait.
    assert_eq!(on("parked", &[]).2, 0);
    let (_, said, code) = on("retry", &["--all"]);
    assert_eq!(code, 6, "{said}");
    store.close().await.unwrap();
}

#[tokio::test]
async fn mistakes_are_told_in_a_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let (log, reads) = (directory.path().join("log"), directory.path().join("read.db"));
    let (log, reads) = (log.to_str().unwrap(), reads.to_str().unwrap());
    place(directory.path(), &[("order-a", 1)]).await;
    run(directory.path(), Mails { poison: vec![1], ..Mails::default() }).await;
    let cases: &[(&[&str], i32, &str)] = &[
        (&["parked", log, "mails"], 2, "say by --reads which SQLite file"),
        (&["parked", log, "mails", "--reads", "/nowhere/read.db"], 10, "there is no file /nowhere/read.db"),
        (&["parked", log, "letters", "--reads", reads], 10, "there is no consumer `letters`"),
        (&["parked", log, "Mails", "--reads", reads], 3, "beginning with a letter"),
        (&["retry", log, "mails", "--reads", reads], 2, "--key"),
        (&["retry", log, "mails", "--reads", reads, "--key", "order-z"], 10, "event of the key `order-z`"),
        (&["skip", log, "mails", "99", "--why", "x", "--reads", reads], 10, "event at position 99"),
        (&["skip", log, "mails", "1", "--why", "", "--reads", reads], 3, "it is empty; say why"),
        (&["skip", log, "mails", "1", "--reads", reads], 2, "--why"),
        (&["retry", "/nowhere", "mails", "--all", "--reads", reads], 10, "there is no log in /nowhere"),
        (&["retry", log, "letters", "--all", "--reads", reads], 10, "there is no consumer `letters`"),
        (&["parked", log, "mails_p0", "--reads", reads], 10, "but as a partition of `mails`"),
    ];
    for (arguments, code, said) in cases {
        let (out, text, ended) = consumer(arguments);
        assert_eq!((out.as_str(), ended), ("", *code), "{arguments:?}: {text}");
        assert!(text.contains(said), "{arguments:?}: {text}");
    }
}

/// The names of the files in a directory with what is in them.
fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())
    };
    let entries = std::fs::read_dir(directory).unwrap();
    let mut files: Vec<_> =
        entries.filter(|entry| entry.as_ref().unwrap().path().is_file()).map(read).collect();
    files.sort();
    files
}

#[tokio::test]
async fn a_database_of_something_else_is_refused_and_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    place(directory.path(), &[("order-a", 1)]).await;
    run(directory.path(), Mails { poison: vec![1], ..Mails::default() }).await;
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    // A database of no tables: as foreign as any.
    std::fs::write(path("foreign.db"), "").unwrap();
    let before = files(directory.path());
    let verbs: [&[&str]; 5] = [
        &["status"],
        &["parked"],
        &["retry", "--all"],
        &["skip", "1", "--why", "gone"],
        &["discard", "order-a", "--why", "gone"],
    ];
    for (file, said) in [("foreign.db", "there is no read model of factum in"), ("no.db", "there is no file")]
    {
        for verb in verbs {
            let (first, more) = verb.split_first().unwrap();
            let (log, reads) = (path("log"), path(file));
            let asked = [&[*first, &log, "mails"][..], more, &["--reads", &reads]].concat();
            let (out, text, ended) = consumer(&asked);
            assert_eq!((out.as_str(), ended, text.lines().count()), ("", 10, 1), "{asked:?}: {text}");
            assert!(text.contains(said), "{asked:?}: {text}");
        }
    }
    for verb in ["status", "parked"] {
        assert_eq!(consumer(&[verb, &path("log"), "mails", "--reads", &path("read.db")]).2, 0);
    }
    assert!(files(directory.path()) == before, "{:?}", files(directory.path()));
}

/// Cannot count what is poison.
struct Totals;

impl Projection for Totals {
    const NAME: &'static str = "totals";
    const ON_FAILURE: OnFailure = OnFailure::Park;
    type Event = OrderEvent;
    type Row = u64;

    fn evolve(&self, row: Option<u64>, event: &Recorded<OrderEvent>) -> Option<u64> {
        let OrderEvent::Placed { n } = event.event;
        assert!(n != 2, "two is too many");
        Some(row.unwrap_or(0) + n)
    }
}

#[tokio::test]
async fn what_a_projection_has_parked_is_listed_and_takes_no_orders() {
    let directory = tempfile::tempdir().unwrap();
    let (log, reads) = (directory.path().join("log"), directory.path().join("read.db"));
    place(directory.path(), &[("order-partitions", 1), ("order-b", 2), ("order-b", 3)]).await;
    let store = LogStore::open(&log).unwrap();
    let factum = Factum::new(store.clone());
    let totals = factum.project(Totals, Sqlite::open(&reads).unwrap()).await.unwrap();
    totals.wait_for(store.head().await.unwrap().token).await.unwrap();
    totals.stop().await;
    drop((factum, totals));
    store.close().await.unwrap();
    drop(store);
    let (log, reads) = (log.to_str().unwrap(), reads.to_str().unwrap());
    let on =
        |verb: &str, more: &[&str]| consumer(&[&[verb, log, "totals", "--reads", reads][..], more].concat());

    let (out, said, code) = on("status", &[]);
    assert_eq!((said.as_str(), code), ("", 0));
    assert!(out.starts_with("projection `totals`: at position "), "{out}");
    assert!(out.ends_with("; 2 events of 1 key set aside\n") && !out.contains("kept by"), "{out}");
    let (out, _, _) = on("parked", &[]);
    assert_eq!(out.lines().count(), 2, "{out}");
    assert!(out.starts_with("projection `totals`: `Placed` at position "), "{out}");
    assert!(out.contains("two is too many") && out.contains("waits behind another"), "{out}");
    let (out, _, _) = on("parked", &["--key", "order-b", "--format", "json-lines"]);
    let letter: serde_json::Value = serde_json::from_str(out.lines().next().unwrap()).unwrap();
    assert_eq!((&letter["projection"], &letter["standing"]), (&"totals".into(), &"parked".into()), "{out}");
    let position = letter["position"].to_string();
    let orders: [(&str, &[&str]); 4] = [
        ("retry", &["--all"]),
        ("retry", &["--key", "order-b"]),
        ("skip", &[&position, "--why", "gone"]),
        ("discard", &["order-b", "--why", "gone"]),
    ];
    for (verb, more) in orders {
        let (out, said, code) = on(verb, more);
        assert_eq!((out.as_str(), code, said.lines().count()), ("", 3, 1), "{verb}: {said}");
        assert!(said.contains("it is a projection, which takes no orders: mend it"), "{verb}: {said}");
    }
}
