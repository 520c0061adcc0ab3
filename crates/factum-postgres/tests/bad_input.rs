//! What goes wrong outside of the store: each is told in one sentence that says what, where and what to do, and never loses or
//! doubles anything.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that unwraps an error has failed; it says what it sees"
)]

mod support;

use std::{path::PathBuf, process::Command, sync::Arc, time::Duration};

use factum::{
    Append, Error, EventId, EventStore, EventStoreExt, NewEvent, Outcome, Read, Result, StreamName,
};
use factum_postgres::{Options, PostgresStore};
use support::{
    bench::{connect, one},
    cluster::Cluster,
    fresh_schema, url,
};
use tokio::net::TcpListener;
use tokio_postgres::{Client, NoTls};

const SECRET: &str = "correct-horse";

/// One sentence, on one line, without the password.
fn sentence(error: &Error) -> String {
    let text = error.to_string();
    println!("{text}");
    assert!(!text.contains('\n') && !text.contains(SECRET) && text.len() < 400, "{text}");
    assert!(!format!("{error:?}").contains(SECRET), "{error:?}");
    text
}

fn impatient(schema: &str) -> Options {
    Options { schema: schema.to_owned(), patience: Duration::from_secs(5), ..Options::default() }
}

/// Why a store cannot be opened there.
async fn refusal(url: &str, schema: &str) -> (String, bool) {
    let error = PostgresStore::open(url, impatient(schema)).await.unwrap_err();
    (sentence(&error), error.is_retryable())
}

#[tokio::test]
async fn an_address_that_is_wrong() {
    for wrong in
        ["", "localhost", "http://localhost/app", "postgres://localhost:port/app", "host=localhost port=x"]
    {
        let (text, retry) = refusal(wrong, "factum").await;
        assert!(text.contains("postgres://") && !retry, "{text}");
    }
    let (text, retry) = refusal("postgres://app@no-such-host.invalid/app", "factum").await;
    assert!(text.contains("no-such-host.invalid") && retry, "{text}");
}

#[tokio::test]
async fn a_server_that_is_none() {
    // One that takes calls and says nothing, and one that talks of something else.
    let (mute, other) =
        (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let of = |listener: &TcpListener| format!("postgres://app@{}/app", listener.local_addr().unwrap());
    let (to_mute, to_other) = (of(&mute), of(&other));
    tokio::spawn(async move {
        while let Ok((mut client, _)) = other.accept().await {
            let _ =
                tokio::io::AsyncWriteExt::write_all(&mut client, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let (text, retry) = refusal(&to_mute, "factum").await;
    assert!(text.contains("does not answer") && retry, "{text}");
    let (text, _) = refusal(&to_other, "factum").await;
    assert!(text.contains("127.0.0.1"), "{text}");
}

/// A server that wants a password of `app`.
async fn locked() -> Option<(Cluster, Client)> {
    let cluster = Cluster::new(&[])?;
    let hand = connected(&cluster.url()).await;
    let hba = cluster.data().join("pg_hba.conf");
    let rules = std::fs::read_to_string(&hba).unwrap();
    let owner_rule = "host all app 127.0.0.1/32 scram-sha-256\n";
    written(&hba, &format!("{owner_rule}{rules}"));
    hand.batch_execute(&format!("CREATE ROLE app LOGIN PASSWORD '{SECRET}'; SELECT pg_reload_conf()"))
        .await
        .unwrap();
    hand.batch_execute("CREATE DATABASE app").await.unwrap();
    hand.batch_execute("GRANT CREATE ON DATABASE app TO app").await.unwrap();
    Some((cluster, hand))
}

#[allow(clippy::disallowed_methods, reason = "the server's own settings are no data file of the product's")]
fn written(path: &std::path::Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

async fn connected(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test]
async fn a_password_that_is_wrong_or_missing() {
    let Some((cluster, hand)) = locked().await else { return };
    let with = |user: &str| format!("postgres://{user}@127.0.0.1:{}/app", cluster.port());
    let right = with(&format!("app:{SECRET}"));
    // The rules are read when the server comes to it.
    let mut store = PostgresStore::open(&right, impatient("factum")).await;
    while store.as_ref().is_err_and(Error::is_retryable) {
        store = PostgresStore::open(&right, impatient("factum")).await;
    }
    let store = store.unwrap();
    assert!(!format!("{store:?}").contains(SECRET));
    store.append(one("a-1")).await.unwrap();

    let (text, retry) = refusal(&with("app:wrong"), "factum").await;
    assert!(text.contains("password") && text.contains("look at the user") && !retry, "{text}");
    let (text, retry) = refusal(&with("app"), "factum").await;
    assert!(text.contains("password") && !retry, "{text}");

    // It is changed while the store is open: connections go on, new ones are refused.
    hand.batch_execute("ALTER ROLE app PASSWORD 'another'; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
        .await
        .unwrap();
    let mut refused = store.append(one("a-2")).await;
    while refused.as_ref().is_err_and(|error| error.outcome() == Outcome::Unknown) {
        refused = store.append(one("a-2")).await;
    }
    let text = sentence(&refused.unwrap_err());
    assert!(text.contains("password"), "{text}");
}

#[tokio::test]
async fn rights_that_are_missing() {
    let (schema, hand) = (fresh_schema(), connect().await);
    let store = PostgresStore::open(&url(), impatient(&schema)).await.unwrap();
    store.append(one("a-1")).await.unwrap();
    let role = format!("r{schema}");
    hand.batch_execute(&format!("CREATE ROLE {role} LOGIN")).await.unwrap();
    let as_role = url().replace("postgres@", &format!("{role}@"));
    let (text, retry) = refusal(&as_role, &format!("x{}", &schema[..20])).await;
    assert!(text.contains("permission denied") && text.contains("docs/postgres.md") && !retry, "{text}");

    // Who may only look can look, and is told when it appends.
    let look = format!(
        "GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role};
         GRANT SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO {role}; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema} TO {role}"
    );
    hand.batch_execute(&look).await.unwrap();
    let looking = PostgresStore::open(&as_role, impatient(&schema)).await.unwrap();
    assert_eq!(looking.read_to_end(Read::all()).await.unwrap().len(), 1);
    let error = looking.append(one("a-2")).await.unwrap_err();
    assert_eq!((error.outcome(), error.is_retryable()), (Outcome::No, false));
    assert!(sentence(&error).contains("docs/postgres.md"), "{error}");

    // A limit of connections, and a role that is set to read only.
    drop(looking);
    hand.batch_execute(&format!("ALTER ROLE {role} CONNECTION LIMIT 0")).await.unwrap();
    let (text, retry) = refusal(&as_role, &schema).await;
    assert!(text.contains("too many connections") && retry, "{text}");
    let read_only = format!(
        "ALTER ROLE {role} CONNECTION LIMIT -1; ALTER ROLE {role} SET default_transaction_read_only = on"
    );
    hand.batch_execute(&read_only).await.unwrap();
    let looking = PostgresStore::open(&as_role, impatient(&schema)).await.unwrap();
    let error = looking.append(one("a-2")).await.unwrap_err();
    assert!(sentence(&error).contains("read-only") && error.outcome() == Outcome::No, "{error}");
    drop(looking);
    assert_eq!(store.read_to_end(Read::all()).await.unwrap().len(), 1);
    hand.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
}

#[tokio::test]
async fn a_schema_that_is_somebody_elses() {
    let (schema, hand) = (fresh_schema(), connect().await);
    hand.batch_execute(&format!("CREATE SCHEMA {schema}; CREATE TABLE {schema}.events (n int)"))
        .await
        .unwrap();
    let (text, retry) = refusal(&url(), &schema).await;
    assert!(text.contains("already exists") && !retry, "{text}");
    // Nothing is left half made.
    let tables = format!("SELECT count(*) FROM pg_tables WHERE schemaname = '{schema}'");
    assert_eq!(hand.query_one(&tables, &[]).await.unwrap().get::<_, i64>(0), 1);
}

/// A file system that is soon full. It is unmounted when this is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None`, and a sentence that says so, where nobody may mount one.
    fn mount(megabytes: u32) -> Option<Self> {
        let place = std::env::temp_dir().join(format!("factum-small-disk-{}", EventId::new().0.simple()));
        std::fs::create_dir(&place).unwrap();
        let disk = Self(place);
        let size = format!("size={megabytes}m,mode=700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&disk.0).output();
        if mounted.is_ok_and(|mounted| mounted.status.success()) {
            assert!(Command::new("chown").arg("postgres").arg(&disk.0).status().unwrap().success());
            return Some(disk);
        }
        println!("skipped: a full disk (nobody but root may mount a small one)");
        None
    }

    fn grow(&self, megabytes: u32) {
        let size = format!("remount,size={megabytes}m");
        assert!(Command::new("mount").args(["-o", &size]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ =
            Command::new("umount").arg("--lazy").arg(&self.0).stderr(std::process::Stdio::null()).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Half a megabyte that cannot be made smaller.
fn bulky(n: usize) -> Append {
    let mut rng = fastrand::Rng::with_seed(n as u64);
    let bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(500_000).collect();
    Append::to(StreamName::new("bulk-1").unwrap(), [NewEvent::bytes("Bulk", bytes).unwrap()])
}

/// Appends until it is refused. What was answered, and what was not.
async fn fill(store: &PostgresStore) -> (Vec<EventId>, Append, Error) {
    let mut answered = Vec::new();
    for n in 0..1_000 {
        let append = bulky(n);
        match store.append(append.clone()).await {
            Ok(_) => answered.push(append.writes[0].events[0].id),
            Err(error) => return (answered, append, error),
        }
    }
    panic!("it was never full");
}

/// Sent again until it is answered, it is there once, and everything that was answered before.
async fn goes_on(store: &PostgresStore, mut answered: Vec<EventId>, refused: Append) -> Result<()> {
    answered.push(refused.writes[0].events[0].id);
    let mut tries = 0;
    while let Err(error) = store.append(refused.clone()).await {
        tries += 1;
        assert!(tries < 20, "{error}");
    }
    let there: Vec<EventId> =
        store.read_to_end(Read::all().limit(5)).await?.iter().map(|event| event.id).collect();
    assert_eq!(there, answered);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full() {
    let Some(disk) = SmallDisk::mount(24) else { return };
    let Some(cluster) = Cluster::new(&[]) else { return };
    let hand = connected(&cluster.url()).await;
    hand.batch_execute(&format!("CREATE TABLESPACE small LOCATION '{}'", disk.0.display())).await.unwrap();
    hand.batch_execute("CREATE DATABASE app TABLESPACE small").await.unwrap();
    let store = PostgresStore::open(&cluster.url_of("app"), Options::default()).await.unwrap();
    let (answered, refused, error) = fill(&store).await;
    assert!(matches!(error, Error::StorageFull { .. }) && error.outcome() == Outcome::No, "{error:?}");
    assert!(sentence(&error).contains("No space left"), "{error}");
    // What is there can be read meanwhile.
    assert_eq!(store.read_to_end(Read::all().limit(5)).await.unwrap().len(), answered.len());
    disk.grow(60);
    goes_on(&store, answered, refused).await.unwrap();
}

/// Without room for its log of changes, the server itself gives up.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_under_the_servers_own_log() {
    let Some(disk) = SmallDisk::mount(64) else { return };
    let Some(mut cluster) = Cluster::new(&["wal_keep_size=1GB", "max_wal_size=32MB"]) else { return };
    cluster.stop_fast();
    let wal = cluster.data().join("pg_wal");
    let moved = format!("cp -a {0}/. {1}/ && rm -r {0} && ln -s {1} {0}", wal.display(), disk.0.display());
    assert!(Command::new("sh").args(["-c", &moved]).status().unwrap().success());
    cluster.start();
    let store = Arc::new(PostgresStore::open(&cluster.url(), Options::default()).await.unwrap());
    let (answered, refused, error) = fill(&store).await;
    let text = sentence(&error);
    assert!(error.is_retryable(), "{text}");
    disk.grow(128);
    cluster.kill();
    cluster.start();
    goes_on(&store, answered, refused).await.unwrap();
}
