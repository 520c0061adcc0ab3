//! Logs as earlier versions wrote them, in `tests/golden`: every later version reads them, goes on with them, and finds them sound.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

use std::{
    env, fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

use factum::{
    Append, ContentType, EventId, EventStore, EventStoreExt, ExpectedRevision, ManualClock, Metadata,
    NewEvent, Read, RecordedEvent, Retention, StreamName, Tags, Timestamp,
};
use factum_log::{LogStore, Options, Scavenge, backup, restore, verify};
use serde_json::{Value, json};

/// Makes a golden log of this version, if there is none of that name yet. One that is there is never changed: that is its point. If
/// the name ends with `scavenged`, the log is.
const MAKE: &str = "FACTUM_NEW_GOLDEN";

fn goldens() -> Vec<PathBuf> {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    if let Ok(name) = env::var(MAKE) {
        assert!(!all.join(&name).exists(), "{name} is there already: choose another name");
        fs::create_dir_all(all.join(&name)).unwrap();
        make(&all.join(name));
    }
    let mut found: Vec<_> = fs::read_dir(all).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    assert!(!found.is_empty());
    found
}

fn options(directory: &Path) -> Options {
    let clock = ManualClock::at("2026-01-31T12:00:00Z".parse::<Timestamp>().unwrap());
    Options::new(directory).segments(8192, 8192).indexed_in_memory(12).clock(Arc::new(clock)).create(false)
}

/// Events of a golden log. Never to be changed, like what is made of them.
const EVENTS: u128 = 33;

fn event(n: u128) -> Append {
    let event = match n % 3 {
        0 => NewEvent::json("Deposited", &json!({ "amount": "12.50", "n": n.to_string() })).unwrap(),
        1 => NewEvent::bytes("Überwiesen", vec![0xff; 300]).unwrap(),
        _ => {
            let event = NewEvent::bytes("Table", "a,b\n1,2\n").unwrap();
            NewEvent { content_type: ContentType::Other("text/csv".into()), ..event }
        }
    };
    let event = event.with_id(EventId(uuid::Uuid::from_u128(n + 1)));
    let event = event.with_tags(Tags::new(["account:1".to_owned(), format!("n:{n}")]).unwrap());
    let metadata = Metadata::from_json(r#"{"actor":"ada","nested":{"π":[1,null]}}"#).unwrap();
    let stream = ["account-1", "account-2", "süß-ß"][usize::try_from(n / 2 % 3).unwrap()];
    Append::to(StreamName::new(stream).unwrap(), [event.with_metadata(metadata)])
}

/// Three segments, some runs, and one of everything that an event can have.
#[tokio::main(flavor = "current_thread")]
async fn make(golden: &Path) {
    let log = golden.join("log");
    let store = options(&log).create(true).open().unwrap();
    for n in 0..EVENTS {
        assert!(!store.append(event(n)).await.unwrap().replayed);
    }
    let of = |name: &str| StreamName::new(name).unwrap();
    let retention = Retention { max_count: Some(3), ..Retention::default() };
    store.set_retention(&of("account-2"), ExpectedRevision::Any, retention).await.unwrap();
    store.delete(&of("süß-ß"), ExpectedRevision::Any).await.unwrap();
    if golden.to_string_lossy().ends_with("scavenged") {
        let all = Scavenge::default().at_least_percent(0);
        let done = store.scavenge(all, |_| ControlFlow::Continue(())).await.unwrap();
        assert!(done.events() > 0, "{done}");
    }
    store.close().await.unwrap();
    let events = events(&store).await;
    fs::write(golden.join("events.json"), serde_json::to_string_pretty(&events).unwrap() + "\n").unwrap();
    for entry in fs::read_dir(&log).unwrap().map(|entry| entry.unwrap()) {
        if entry.file_name() == "LOCK" || entry.file_name() == "spare.new" {
            fs::remove_file(entry.path()).unwrap();
        }
    }
}

fn shown(event: &RecordedEvent) -> Value {
    let data = match event.content_type {
        ContentType::Json => serde_json::from_slice(&event.data).unwrap(),
        _ => json!(event.data.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
    };
    json!({
        "position": event.position,
        "stream": event.stream.as_str(),
        "revision": event.revision,
        "recorded_at": event.recorded_at,
        "id": event.id,
        "type": event.event_type.as_str(),
        "content_type": format!("{:?}", event.content_type),
        "data": data,
        "metadata": serde_json::from_slice::<Value>(event.metadata.as_bytes()).unwrap_or_default(),
        "tags": event.tags.iter().collect::<Vec<_>>(),
    })
}

async fn events(store: &LogStore) -> Vec<Value> {
    store.read_to_end(Read::all()).await.unwrap().iter().map(shown).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn every_golden_log_is_read_goes_on_and_is_sound() {
    for golden in goldens() {
        println!("{}", golden.display());
        check(&golden);
    }
}

#[tokio::main(flavor = "current_thread")]
async fn check(golden: &Path) {
    let place = tempfile::tempdir().unwrap();
    let expected: Vec<Value> =
        serde_json::from_slice(&fs::read(golden.join("events.json")).unwrap()).unwrap();
    assert!(expected.len() > 10);
    // As it lies there, without becoming its owner.
    let found = verify(golden.join("log"), |_| {}).unwrap();
    assert_eq!((found.findings, found.torn_bytes), (vec![], 0));
    backup(golden.join("log"), place.path().join("backup"), |_| {}).unwrap();
    restore(place.path().join("backup"), place.path().join("restored"), |_| {}).unwrap();
    copy(&golden.join("log"), &place.path().join("copy"));
    for name in ["copy", "restored"] {
        let log = place.path().join(name);
        let store = options(&log).open().unwrap();
        assert!(store.recovery().clean);
        assert_eq!(events(&store).await, expected);
        let by_stream = store.read_to_end(Read::stream(StreamName::new("account-1").unwrap())).await.unwrap();
        let of_stream: Vec<_> = expected.iter().filter(|event| event["stream"] == "account-1").collect();
        assert_eq!(by_stream.iter().map(shown).collect::<Vec<_>>().iter().collect::<Vec<_>>(), of_stream);
        for n in 0..EVENTS {
            let again = store.append(event(n)).await;
            assert!(again.unwrap().replayed, "event {n} is known for ever, hidden, removed or not");
        }
        for n in 0..30 {
            let event = NewEvent::bytes("Later", vec![n; 200]).unwrap();
            store.append(Append::to(StreamName::new("account-1").unwrap(), [event])).await.unwrap();
        }
        store.close().await.unwrap();
        drop(store);
        let store = options(&log).open().unwrap();
        let all = events(&store).await;
        assert_eq!((&all[..expected.len()], all.len()), (&expected[..], expected.len() + 30));
        drop(store);
        assert_eq!(verify(&log, |_| {}).unwrap().findings, []);
    }
}
