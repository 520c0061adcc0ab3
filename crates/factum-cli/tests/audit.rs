//! `factum audit`, as an auditor meets it.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use factum::{
    Append, EventStore, EventStoreExt, ExpectedRevision, Factum, Metadata, NewEvent, Retention, Revision,
    StreamName,
};
use factum_log::{LogStore, Options};

/// What it prints and says, and how it ends.
fn audit(data: &Path, arguments: &[&str]) -> (String, String, i32) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_factum"));
    let Output { stdout, stderr, status } = command.arg("audit").arg(data).args(arguments).output().unwrap();
    (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap(), status.code().unwrap())
}

fn stream(name: &str) -> StreamName {
    StreamName::new(name.to_owned()).unwrap()
}

async fn write(store: &LogStore, to: &str, event_type: &str, data: &str, metadata: &str) {
    let event = NewEvent::json_text(event_type, data.to_owned()).unwrap();
    let event = event.with_metadata(Metadata::from_json(metadata.to_owned()).unwrap());
    store.append(Append::to(stream(to), [event])).await.unwrap();
}

/// Three events by ada and bob, one of another stream among them, and an id with a formula in it.
async fn three(store: &LogStore) {
    write(store, "account-17", "Opened", r#"{"owner":"Ada"}"#, r#"{"actor":"ada","correlation_id":"f1"}"#)
        .await;
    write(store, "account-18", "Opened", r#"{"owner":"Bob"}"#, "{}").await;
    write(
        store,
        "account-17",
        "Deposited",
        r#"{"cents":100.10}"#,
        r#"{"actor":"bob","correlation_id":"f1"}"#,
    )
    .await;
    write(store, "account-17", "Noted", r#"{"text":"a, \"b\""}"#, r#"{"actor":"=1+1","causation_id":"c"}"#)
        .await;
}

#[tokio::test]
async fn a_trail_is_printed_for_people_programs_and_spreadsheets() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let store = LogStore::open(&data).unwrap();
    three(&store).await;

    // The log is in use all the while.
    let (out, said, code) = audit(&data, &["account-17"]);
    assert_eq!((code, said.as_str(), out.lines().count()), (0, "", 3), "{out}");
    assert!(
        out.lines().nth(1).unwrap().ends_with("  bob           Deposited  {\"cents\":100.10}  flow f1"),
        "{out}"
    );
    let (out, _, _) = audit(&data, &["account-17", "--format", "json-lines"]);
    let first: serde_json::Value = serde_json::from_str(out.lines().next().unwrap()).unwrap();
    assert_eq!((first["actor"].as_str(), first["data"]["owner"].as_str()), (Some("ada"), Some("Ada")));
    assert!(out.contains(r#""data":{"cents":100.10},"#), "to the last digit: {out}");
    let (csv, _, _) = audit(&data, &["account-17", "--format", "csv"]);
    assert!(
        csv.starts_with("position,stream,revision,")
            && csv.ends_with("\"{\"\"text\"\":\"\"a, \\\"\"b\\\"\"\"\"}\"\r\n"),
        "{csv}"
    );
    assert!(csv.contains(",'=1+1,"), "no formula: {csv}");
    // The library says the same.
    let trail = Factum::new(store.clone()).audit_stream(&stream("account-17")).await.unwrap();
    assert_eq!((trail.csv(), trail.json_lines()), (csv, out));
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_part_of_it_can_be_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let store = LogStore::open(&data).unwrap();
    three(&store).await;
    let times: Vec<String> = store
        .read(factum::Read::stream(stream("account-17")))
        .await
        .unwrap()
        .events
        .iter()
        .map(|event| event.recorded_at.to_string())
        .collect();
    let types = |arguments: &[&str]| {
        let all: Vec<&str> =
            ["account-17", "--format", "json-lines"].iter().chain(arguments).copied().collect();
        let (out, said, code) = audit(&data, &all);
        assert_eq!(code, 0, "{said}");
        let name = |line: &str| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["type"].as_str().unwrap().to_owned()
        };
        (out.lines().map(name).collect::<Vec<_>>(), said)
    };
    assert_eq!(types(&["--actor", "ada"]).0, ["Opened"]);
    assert_eq!(types(&["--correlation", "f1"]).0, ["Opened", "Deposited"]);
    assert_eq!(types(&["--since", &times[1]]).0, ["Deposited", "Noted"]);
    assert_eq!(types(&["--until", &times[1]]).0, ["Opened", "Deposited"]);
    assert_eq!(types(&["--since", &times[1], "--until", &times[1], "--actor", "bob"]).0, ["Deposited"]);
    let (none, said) = types(&["--actor", "eve"]);
    assert!(none.is_empty() && said.contains("nothing of the stream's trail"), "{said}");
    let (_, said, code) = audit(&data, &["account-17", "--since", "yesterday"]);
    assert!(code == 2 && said.contains("2026-03-31T23:59:59Z"), "{said}");
    let (_, said, code) = audit(&data, &["account-99"]);
    assert!(code == 10 && said.contains("there is no stream `account-99` in "), "{said}");
    let (_, _, code) = audit(&directory.path().join("nowhere"), &["account-17"]);
    assert_eq!(code, 10);
    store.close().await.unwrap();
}

#[tokio::test]
async fn what_is_hidden_is_not_in_it_but_who_hid_it() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let store = LogStore::open(&data).unwrap();
    let factum = Factum::new(store.clone());
    let of = stream("account-17");
    let same = async |after: &str| {
        let trail = factum.audit_stream(&of).await.unwrap().json_lines();
        assert_eq!(
            audit(&data, &["account-17", "--format", "json-lines"]),
            (trail.clone(), String::new(), 0),
            "{after}"
        );
        trail.lines().count()
    };
    three(&store).await;
    assert_eq!(same("three").await, 3);
    let before = |revision| Retention { truncate_before: Some(Revision(revision)), ..Retention::default() };
    store.set_retention(&of, ExpectedRevision::Any, before(2)).await.unwrap();
    assert_eq!(same("truncated").await, 2, "one event, and who hid the others");
    store.delete(&of, ExpectedRevision::Any).await.unwrap();
    assert_eq!(same("deleted").await, 2);
    three(&store).await;
    assert_eq!(same("revived").await, 5);
    let (text, _, _) = audit(&data, &["account-17"]);
    assert!(
        text.lines().nth(1).unwrap().trim_start().starts_with("life  ") && text.contains("$deleted  {}"),
        "{text}"
    );
    let last = Retention { max_count: Some(1), max_age_seconds: Some(1_000_000), ..Retention::default() };
    store.set_retention(&of, ExpectedRevision::Any, last).await.unwrap();
    assert_eq!(same("one is kept").await, 4);
    store
        .scavenge(
            factum_log::Scavenge::default().at_least_percent(0),
            |_| std::ops::ControlFlow::Continue(()),
        )
        .await
        .unwrap();
    assert_eq!(same("scavenged").await, 4);
    store.tombstone(&of, ExpectedRevision::Any).await.unwrap();
    assert_eq!(same("tombstoned").await, 4);
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_damaged_log_gives_what_it_can_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let store = Options::new(&data).segments(8192, 8192).open().unwrap();
    for n in 0..60 {
        write(
            &store,
            "account-17",
            "Noted",
            &format!("{{\"n\":{n},\"text\":\"{}\"}}", "x".repeat(200)),
            "{}",
        )
        .await;
    }
    store.close().await.unwrap();
    drop(store);
    let segment = data.join("0000000002.segment");
    let mut bytes = fs::read(&segment).unwrap();
    bytes[4096 + 80] ^= 0xff;
    fs::write(&segment, bytes).unwrap();
    let (out, said, code) = audit(&data, &["account-17"]);
    assert!(code == 8 && said.contains("the trail may lack entries"), "{code} {said}");
    assert!((1..60).contains(&out.lines().count()), "{out}");
}

#[test]
fn the_help_teaches() {
    let Output { stdout, .. } =
        Command::new(env!("CARGO_BIN_EXE_factum")).args(["audit", "--help"]).output().unwrap();
    let help = String::from_utf8(stdout).unwrap();
    for part in [
        "when, by whom and why",
        "--format <FORMAT>",
        "--since <TIME>",
        "Examples:",
        "--format csv > account-17.csv",
    ] {
        assert!(help.contains(part), "{part} in {help}");
    }
}
