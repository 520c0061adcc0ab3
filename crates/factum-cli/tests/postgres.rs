//! The executable on a log in PostgreSQL: on the server that `cargo xtask test postgres` has started. Without one, what needs it is
//! skipped and says so.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test, which says what it skips")]

use std::{
    process::{Command, Output},
    sync::Arc,
};

use factum::{
    Append, EventId, EventStore, EventStoreExt, ExpectedRevision, Factum, Metadata, NewEvent, StreamName,
};
use factum_postgres::{Options, PostgresStore};
use tokio_postgres::NoTls;

/// What it prints and says, and how it ends.
fn factum(arguments: &[&str]) -> (String, String, i32) {
    let Output { stdout, stderr, status } =
        Command::new(env!("CARGO_BIN_EXE_factum")).args(arguments).output().unwrap();
    (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap(), status.code().unwrap())
}

/// It ends with this code and says this; nothing that it says holds the password.
#[track_caller]
fn refuses(arguments: &[&str], code: i32, words: &str) {
    let (out, said, ended) = factum(arguments);
    assert_eq!(ended, code, "{arguments:?}: {out}{said}");
    assert!(said.contains(words), "{words:?} is not in {said}");
    assert!(!(out + &said).contains("hunter2"), "{said}");
}

/// A schema of a test's own on the server.
struct Place {
    url: String,
    schema: String,
}

impl Place {
    fn new() -> Option<Self> {
        let Ok(url) = std::env::var("FACTUM_TEST_POSTGRES") else {
            println!(
                "skipped: no server; run `cargo xtask test postgres`, or name one in FACTUM_TEST_POSTGRES"
            );
            return None;
        };
        Some(Self { url, schema: format!("t_{}", EventId::new().0.simple()) })
    }

    fn factum(&self, verb: &str, more: &[&str]) -> (String, String, i32) {
        factum(&[&[verb, &self.url], more, &["--schema", &self.schema]].concat())
    }

    #[track_caller]
    fn succeeds(&self, verb: &str, more: &[&str]) -> String {
        let (out, said, code) = self.factum(verb, more);
        assert_eq!((code, said.as_str()), (0, ""), "{out}");
        out
    }

    #[track_caller]
    fn refuses(&self, verb: &str, more: &[&str], code: i32, words: &str) {
        refuses(&[&[verb, &self.url], more, &["--schema", &self.schema]].concat(), code, words);
    }

    async fn store(&self) -> PostgresStore {
        PostgresStore::open(&self.url, Options { schema: self.schema.clone(), ..Options::default() })
            .await
            .unwrap()
    }

    /// Says this to the server, by hand.
    async fn sql(&self, statements: &str) {
        let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await.unwrap();
        tokio::spawn(connection);
        client.batch_execute(&statements.replace("SCHEMA", &self.schema)).await.unwrap();
    }
}

fn stream(name: &str) -> StreamName {
    StreamName::new(name.to_owned()).unwrap()
}

async fn write(store: &PostgresStore, to: &str, data: &str, actor: &str) {
    let metadata = Metadata::from_json(format!(r#"{{"actor":"{actor}"}}"#)).unwrap();
    let event = NewEvent::json_text("Noted", data.to_owned()).unwrap().with_metadata(metadata);
    store.append(Append::to(stream(to), [event])).await.unwrap();
}

#[test]
fn verbs_for_files_say_so_when_they_are_given_a_database() {
    let url = "postgres://ada:hunter2@db.example/app";
    for (arguments, words) in [
        (&["verify", url][..], "reads the files of a log in a directory; a PostgreSQL server checks its own"),
        (&["layout", url], "`factum status URL` tells how a database is"),
        (&["backup", url, "copy"], "pg_dump or pg_basebackup"),
        (&["backup", "data", url], "pg_dump or pg_basebackup"),
        (&["restore", url, "data"], "pg_restore"),
        (&["restore", "copy", url], "pg_restore"),
        (&["repair", url], "restore a backup"),
        (&["status", "data"], "`factum layout DIR` and `factum verify DIR` tell how a log in a directory is"),
        (&["migrate", "data"], "a log in a directory needs no migration"),
        (&["begin-epoch", "data"], "when it is restored or repaired"),
        (&["continue-epoch", "data", "--epoch", "1"], "end for good"),
        (&["events", "data", "--schema", "x"], "a directory has no schemas"),
        (&["verify", "data", url], "unexpected argument 'postgres://ada:***@db.example/app'"),
        (&["status", "mysql://ada:hunter2@db.example"], "`mysql://ada:***@db.example` is not the URL"),
        (&["status", "postgres:///app"], "it names no host"),
        (&["status", url, "--schema", "No Word"], "a-z, 0-9 and _"),
    ] {
        refuses(arguments, 2, words);
    }
    refuses(
        &["events", "postgres://ada:hunter2@127.0.0.1:1/app"],
        7,
        "`app` on 127.0.0.1:1, schema `factum` failed",
    );
}

#[tokio::test]
async fn where_there_is_no_log_none_is_made_until_it_is_asked_for() {
    let Some(place) = Place::new() else { return };
    for (verb, more) in [
        ("events", &[][..]),
        ("audit", &["a-1"]),
        ("scavenge", &[]),
        ("begin-epoch", &[]),
        ("continue-epoch", &["--epoch", "1"]),
    ] {
        place.refuses(verb, more, 10, "there is no log in");
    }
    place.refuses("status", &[], 10, "`factum migrate` or the program itself makes one");
    let (out, ..) = place.factum("status", &[]);
    assert!(out.contains("migration 1  the event store") && out.contains("not applied"), "{out}");

    let out = place.succeeds("migrate", &[]);
    assert!(out.starts_with("migration 1, the event store: applied\n"), "{out}");
    assert!(place.succeeds("migrate", &[]).contains("is up to date"));
    let out = place.succeeds("status", &["--format", "json"]);
    let status: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&status["up_to_date"], &status["log"]["safe_head"]), (&true.into(), &0.into()), "{out}");
    assert_eq!(place.succeeds("events", &[]), "");
    place.refuses("audit", &["a-1"], 10, "there is no stream `a-1` in postgres://");

    place.sql("DELETE FROM SCHEMA.migrations WHERE number > 1").await;
    place.refuses("status", &[], 3, "lacks 1 migration; `factum migrate` brings it up to date");
    place.refuses("events", &[], 3, "`factum migrate` brings it up to date");
    place.sql("INSERT INTO SCHEMA.migrations (number, name) VALUES (2, 'x'), (999, 'from the future')").await;
    place.refuses("status", &[], 3, "is of a newer program");
    place.refuses("migrate", &[], 7, "it is of a newer program (migration 999");
    place.refuses("events", &[], 7, "it is of a newer program (migration 999");
}

#[tokio::test]
async fn who_is_not_let_in_is_told_why() {
    let Some(place) = Place::new() else { return };
    let (host, _) = place.url.rsplit_once('/').unwrap();
    refuses(&["status", &format!("{host}/nowhere")], 7, "database \"nowhere\" does not exist; create it");
    place.succeeds("migrate", &[]);
    let role = format!("r_{}", place.schema);
    place.sql(&format!("CREATE ROLE {role} LOGIN")).await;
    let url = place.url.replace("postgres@", &format!("{role}:hunter2@"));
    for verb in ["status", "events"] {
        refuses(&[verb, &url, "--schema", &place.schema], 7, "permission denied for schema");
    }
    refuses(
        &["migrate", &url, "--schema", &format!("{}_2", place.schema)],
        7,
        "permission denied for database",
    );
    place.sql(&format!("DROP ROLE {role}")).await;
}

#[tokio::test]
async fn events_and_audit_trails_are_printed() {
    let Some(place) = Place::new() else { return };
    let store = place.store().await;
    for n in 0..3 {
        write(&store, "account-17", &format!(r#"{{"n":{n},"cents":100.10}}"#), "ada").await;
        write(&store, "account-18", "{}", "bob").await;
    }
    let out = place.succeeds("events", &[]);
    let lines: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        (lines.len(), &lines[2]["stream"], &lines[2]["revision"]),
        (6, &"account-17".into(), &1.into())
    );
    assert!(out.contains("100.10"), "to the last digit: {out}");

    // The library says the same.
    let trail = Factum::new(store.clone()).audit_stream(&stream("account-17")).await.unwrap();
    assert_eq!(place.succeeds("audit", &["account-17", "--format", "csv"]), trail.csv());
    assert_eq!(place.succeeds("audit", &["account-17", "--format", "json-lines"]), trail.json_lines());
    let (out, said, code) = place.factum("audit", &["account-17", "--actor", "bob"]);
    assert_eq!((out.as_str(), code), ("", 0), "{said}");
    assert!(said.contains("nothing of the stream's trail is what was asked for"), "{said}");

    // What is hidden is printed no more, and who deleted it is.
    store.delete(&stream("account-17"), ExpectedRevision::Any).await.unwrap();
    assert_eq!(place.succeeds("events", &[]).matches("account-17\"").count(), 1, "the record of its life");
    assert_eq!(place.succeeds("audit", &["account-17"]).lines().count(), 1);
    let out = place.succeeds("scavenge", &[]);
    assert!(out.contains("the contents of 3 events are removed"), "{out}");
}

#[tokio::test]
async fn an_epoch_is_begun_and_continued() {
    let Some(place) = Place::new() else { return };
    let store: Arc<dyn EventStore> = Arc::new(place.store().await);
    let event = NewEvent::bytes("E", vec![7]).unwrap();
    let appended = store.append(Append::to(stream("s-1"), [event])).await.unwrap();
    let before = appended.token.log;
    let out = place.succeeds("begin-epoch", &[]);
    assert!(out.contains("begins after position 1\n"), "{out}");
    let out = place.succeeds("status", &[]);
    assert!(
        out.contains(&format!("epoch {} ended", before.epoch)) && out.contains("must be rebuilt"),
        "{out}"
    );
    let epoch = before.epoch.to_string();
    let out = place.succeeds("continue-epoch", &["--epoch", &epoch]);
    assert_eq!(out, format!("tokens and checkpoints of epoch {epoch} are valid again up to position 1\n"));
    assert!(place.succeeds("status", &[]).contains("it goes on up to position 1"));
    place.refuses("continue-epoch", &["--epoch", "999"], 10, "there is no epoch 999");
}
