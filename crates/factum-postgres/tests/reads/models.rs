//! What others can read in the tables, what stays whole when something is in the way, and who holds up whom.

use std::time::Duration;

use factum::{
    Append, Error, EventStore, MemoryStore, NewEvent, ReadStore, StreamName, prelude::*, reads::Step,
};
use factum_postgres::{Options, PostgresReads, PostgresStore};
use tokio_postgres::Client;

use crate::{server, support::*};

const LONG: Duration = Duration::from_secs(30);

/// Somebody with a tool for PostgreSQL.
async fn outside() -> Client {
    let (client, connection) = tokio_postgres::connect(&server::url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn ask(client: &Client, sql: &str) -> Vec<Option<String>> {
    let rows = client.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.try_get(0).unwrap()).collect()
}

async fn fresh() -> (String, PostgresReads) {
    let schema = server::fresh_schema();
    let options = Options { schema: schema.clone(), connections: 4, ..Options::default() };
    (schema, PostgresReads::open(&server::url(), options).await.unwrap())
}

#[tokio::test]
async fn anyone_can_read_it_with_plain_sql_and_it_outlives_the_process() {
    let schema = server::fresh_schema();
    let options = Options { schema: schema.clone(), ..Options::default() };
    let (store, mut random, hand) = (MemoryStore::new(), seeded(), outside().await);
    let factum = Factum::new(store.clone());
    for round in 0..3 {
        let reads = PostgresReads::open(&server::url(), options.clone()).await.unwrap();
        let balances = factum.project(Balances::<1>, reads).await.unwrap();
        let token = write_some(&store, &mut random, 200, 5).await;
        balances.wait_for(token).await.unwrap();
        if round == 1 {
            let grant = format!("GRANT SELECT ON {schema}_reads.balances TO pg_monitor");
            hand.batch_execute(&grant).await.unwrap();
            balances.rebuild().await.unwrap();
        }
        let rows = fold(&store).await;
        let total: i64 = rows.iter().map(|(_, cents)| cents).sum();
        let summed = format!("SELECT sum(row::bigint)::text FROM {schema}_reads.balances");
        assert_eq!(ask(&hand, &summed).await, [Some(total.to_string())]);
        assert_eq!(balances.all().await.unwrap(), rows);
        balances.stop().await;
    }
    let tables = format!(
        "SELECT relname::text FROM pg_class WHERE relnamespace = '{schema}_reads'::regnamespace AND relkind IN ('r', 'v') ORDER BY 1"
    );
    let tables = ask(&hand, &tables).await.into_iter().flatten().collect::<Vec<_>>();
    assert_eq!(tables, ["balances", "balances_g2"], "one table, one view");
    let may = format!("SELECT has_table_privilege('pg_monitor', '{schema}_reads.balances', 'SELECT')::text");
    assert_eq!(ask(&hand, &may).await, [Some("true".to_owned())], "who might read it still may");
}

#[tokio::test]
async fn tables_of_others_are_left_alone_and_not_taken() {
    let (schema, reads) = fresh().await;
    let hand = outside().await;
    let mine = format!(
        "CREATE TABLE {schema}_reads.balances (mine text); INSERT INTO {schema}_reads.balances VALUES ('keep')"
    );
    hand.batch_execute(&mine).await.unwrap();
    let error = Factum::new(MemoryStore::new()).project(Balances::<1>, reads).await.unwrap_err();
    assert!(error.to_string().contains("balances") && matches!(error, Error::InvalidInput { .. }), "{error}");
    assert_eq!(ask(&hand, &format!("SELECT mine FROM {schema}_reads.balances")).await, [Some("keep".into())]);
}

/// A model called like a table of the store, in the store's own database.
struct Events;

impl Projection for Events {
    const NAME: &'static str = "events";
    type Event = AccountEvent;
    type Row = u64;

    fn evolve(&self, row: Option<u64>, _: &Recorded<AccountEvent>) -> Option<u64> {
        Some(row.unwrap_or(0) + 1)
    }
}

#[tokio::test]
async fn a_model_may_be_called_like_a_table_of_the_store() {
    let options = Options { schema: server::fresh_schema(), ..Options::default() };
    let store = PostgresStore::open(&server::url(), options).await.unwrap();
    let factum = Factum::new(store.clone());
    let events = factum.project(Events, store.reads()).await.unwrap();
    factum.execute(&Account::id("1"), Open { cents: 10 }).await.unwrap();
    let done = factum.execute(&Account::id("1"), Withdraw { cents: 5 }).await.unwrap();
    events.wait_for(&done).await.unwrap();
    let counted = events.get("1").await.unwrap();
    events.rebuild().await.unwrap();
    assert_eq!(events.get("1").await.unwrap(), counted);
    assert!(counted.is_some());
    assert_eq!(events.verify().await.unwrap(), []);
}

#[tokio::test]
async fn every_json_text_comes_back_as_the_same_value() {
    let (schema, reads) = fresh().await;
    let lease = reads.claim("notes").await.unwrap();
    let generation = reads.create(&lease, 1).await.unwrap().number;
    reads.activate(&lease, generation).await.unwrap();
    let deep = "[".repeat(100) + &"]".repeat(100);
    let texts = [
        "1e-7",
        "-0.0",
        r#""\u0000""#,
        r#"{"b":1.50,"a":"\u00e9"}"#,
        "12345678901234567890.10",
        &deep,
        "null",
    ];
    let rows = texts.iter().enumerate().map(|(n, text)| (format!("k{n}"), Some((*text).to_owned())));
    let log = MemoryStore::new().head().await.unwrap().token.log;
    let step =
        Step { generation, from: None, to: log.at(Position(9)), rows: rows.collect(), letters: Vec::new() };
    reads.commit(&lease, step).await.unwrap();
    for (n, text) in texts.iter().enumerate() {
        let found = reads.get("notes", &format!("k{n}")).await.unwrap().rows;
        let as_value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap().to_string();
        let same = found[0].1 == *text || as_value(&found[0].1) == as_value(text);
        assert!(same, "{text} came back as {}", found[0].1);
    }
    let hand = outside().await;
    let numbers =
        format!("SELECT row::text FROM {schema}_reads.notes WHERE key IN ('k0', 'k2') ORDER BY key");
    assert_eq!(ask(&hand, &numbers).await, [Some("0.0000001".to_owned()), None], "what SQL can know of it");
    assert_eq!(reads.get("notes", "k\u{0}").await.unwrap().rows, []);
    let bad = vec![("a\u{0}b".to_owned(), Some("1".to_owned()))];
    let step = Step {
        generation,
        from: Some(log.at(Position(9))),
        to: log.at(Position(10)),
        rows: bad,
        letters: Vec::new(),
    };
    let error = reads.commit(&lease, step).await.unwrap_err();
    assert!(error.to_string().contains("U+0000") && !error.is_retryable(), "{error}");
}

/// Fails between any two parts of a step, also between the rows and the checkpoint: a trigger that objects.
#[tokio::test]
async fn a_step_that_fails_in_the_middle_leaves_nothing_behind() {
    let (schema, reads) = fresh().await;
    let (store, mut random, hand) = (MemoryStore::new(), seeded(), outside().await);
    let factum = Factum::new(store.clone());
    let balances = factum.project(Balances::<1>, reads.clone()).await.unwrap();
    let token = write_some(&store, &mut random, 50, 5).await;
    balances.wait_for(token).await.unwrap();
    balances.stop().await;
    let before = fold(&store).await;
    write_some(&store, &mut random, 50, 5).await;
    let after = factum.execute(&Account::id("9"), Open { cents: 1 }).await.unwrap().token;
    hand.batch_execute(&format!(
        "CREATE FUNCTION {schema}.object() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'objection'; END $$"
    ))
    .await
    .unwrap();
    for objection in [
        format!("BEFORE INSERT ON {schema}_reads.balances_g1"),
        format!("AFTER INSERT ON {schema}_reads.balances_g1"),
        format!("BEFORE UPDATE ON {schema}.generations"),
        format!("AFTER UPDATE ON {schema}.generations"),
    ] {
        let (event, table) = objection.split_once(" ON ").unwrap();
        let trigger = format!(
            "CREATE TRIGGER objection {event} ON {table} FOR EACH ROW EXECUTE FUNCTION {schema}.object()"
        );
        hand.batch_execute(&trigger).await.unwrap();
        let balances = factum.project(Balances::<1>, reads.clone()).await.unwrap();
        let error = balances.wait_for(after).await.unwrap_err();
        assert!(error.to_string().contains("objection"), "{error}");
        assert_eq!(balances.all().await.unwrap(), before, "{objection}");
        hand.batch_execute(&format!("DROP TRIGGER objection ON {table}")).await.unwrap();
    }
    let balances = factum.project(Balances::<1>, reads).await.unwrap();
    balances.wait_for(after).await.unwrap();
    assert_eq!(balances.all().await.unwrap(), fold(&store).await);
    assert_eq!(balances.verify().await.unwrap(), []);
}

/// A commit of the old keeper that is under way when the model is claimed: the new one sees what it did, and goes on there.
#[tokio::test]
async fn who_claims_a_model_waits_for_the_commit_that_is_under_way() {
    let (schema, reads) = fresh().await;
    let log = MemoryStore::new().head().await.unwrap().token.log;
    let old = reads.claim("notes").await.unwrap();
    let generation = reads.create(&old, 1).await.unwrap().number;
    let hand = outside().await;
    // Whoever writes the row waits for this lock.
    hand.batch_execute(&format!(
        "CREATE FUNCTION {schema}.wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            PERFORM pg_advisory_xact_lock_shared(hashtextextended('{schema}', 0)); RETURN new; END $$;
         CREATE TRIGGER waits BEFORE INSERT ON {schema}_reads.notes_g1 FOR EACH ROW EXECUTE FUNCTION {schema}.wait();
         SELECT pg_advisory_lock(hashtextextended('{schema}', 0))"
    ))
    .await
    .unwrap();
    let row = |key: &str| vec![(key.to_owned(), Some("1".to_owned()))];
    let at = |position| log.at(Position(position));
    let (committing, lease) = (reads.clone(), old.clone());
    let step = Step { generation, from: None, to: at(5), rows: row("a"), letters: Vec::new() };
    let commit = tokio::spawn(async move { committing.commit(&lease, step).await });
    until_waiting(&hand, 1, &schema).await;
    let claiming = reads.clone();
    let claim = tokio::spawn(async move { claiming.claim("notes").await });
    until_waiting(&hand, 2, &schema).await;
    assert!(!claim.is_finished(), "it waits for the commit");
    hand.batch_execute(&format!("SELECT pg_advisory_unlock(hashtextextended('{schema}', 0))")).await.unwrap();
    commit.await.unwrap().unwrap();
    let new = claim.await.unwrap().unwrap();
    let found = reads.catalog("notes").await.unwrap().building.unwrap();
    assert_eq!(found.checkpoint, Some(at(5)), "what was under way is there");
    let late = Step { generation, from: Some(at(5)), to: at(6), rows: row("b"), letters: Vec::new() };
    let fenced = reads.commit(&old, late.clone()).await.unwrap_err();
    assert!(matches!(fenced, Error::Fenced { .. }), "{fenced}");
    reads.commit(&new, late).await.unwrap();
    assert_eq!(
        reads.rows("notes", generation, vec!["b".into(), "c".into()]).await.unwrap(),
        [Some("1".into()), None]
    );
}

/// Until so many connections of this schema wait for a lock.
async fn until_waiting(hand: &Client, count: i64, schema: &str) {
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name LIKE '%' || $1";
    let looking = async {
        while hand.query_one(waiting, &[&schema]).await.unwrap().get::<_, i64>(0) < count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, looking).await.expect("nobody waits");
}

/// Readers of a whole model neither hold up a switch nor lose their moment by it; the old table goes when they have gone.
#[tokio::test]
async fn a_switch_waits_for_no_reader_of_a_whole_model() {
    let (schema, reads) = fresh().await;
    let (store, mut random) = (MemoryStore::new(), seeded());
    let factum = Factum::new(store.clone());
    let balances = factum.project(Balances::<1>, reads.clone()).await.unwrap();
    let token = write_some(&store, &mut random, 3000, 2000).await;
    balances.wait_for(token).await.unwrap();
    let before = fold(&store).await;
    let mut rows = balances.rows().await.unwrap();
    let mut seen = vec![rows.next().await.unwrap().unwrap()];
    let token = write_some(&store, &mut random, 500, 2000).await;
    balances.wait_for(token).await.unwrap();
    tokio::time::timeout(LONG, balances.rebuild()).await.unwrap().unwrap();
    let hand = outside().await;
    let old = format!("SELECT to_regclass('{schema}_reads.balances_g1')::text");
    assert!(ask(&hand, &old).await[0].is_some(), "it is still read");
    while let Some(row) = rows.next().await.unwrap() {
        seen.push(row);
    }
    assert_eq!(seen, before, "all of one moment");
    drop(rows);
    balances.rebuild().await.unwrap();
    assert_eq!(ask(&hand, &old).await, [None], "it went with the next rebuild");
    assert_eq!(balances.all().await.unwrap(), fold(&store).await);
    assert_eq!(balances.verify().await.unwrap(), []);
}

/// Several lists read side by side, as in a merge, with fewer connections in the pool than lists.
#[tokio::test]
async fn many_read_whole_models_side_by_side() {
    let (_, reads) = fresh().await;
    let store = MemoryStore::new();
    let factum = Factum::new(store.clone());
    let balances = factum.project(Balances::<1>, reads).await.unwrap();
    let end = write_some(&store, &mut seeded(), 2000, 1500).await;
    balances.wait_for(end).await.unwrap();
    let mut open = Vec::new();
    for _ in 0..16 {
        let mut rows = tokio::time::timeout(LONG, balances.rows()).await.unwrap().unwrap();
        assert!(rows.next().await.unwrap().is_some());
        open.push(rows);
    }
    tokio::time::pause();
    let refused = balances.rows().await.unwrap_err();
    tokio::time::resume();
    assert!(refused.is_retryable() && refused.to_string().contains("drop them"), "{refused}");
    open.truncate(14);
    assert_eq!(balances.all().await.unwrap(), fold(&store).await);
    assert_eq!(balances.verify().await.unwrap(), []);
}

#[tokio::test]
async fn temporary_models_go_with_their_handle() {
    let (_, reads) = fresh().await;
    let log = MemoryStore::new().head().await.unwrap().token.log;
    let scratch = reads.scratch().await.unwrap();
    let lease = scratch.claim("notes").await.unwrap();
    assert_eq!(reads.catalog("notes").await.unwrap(), Default::default(), "elsewhere nobody knows of it");
    let generation = scratch.create(&lease, 1).await.unwrap().number;
    scratch.activate(&lease, generation).await.unwrap();
    let rows = (0..1200).map(|n| (format!("{n:04}"), Some(n.to_string()))).collect();
    let to = log.at(Position(1));
    scratch.commit(&lease, Step { generation, from: None, to, rows, letters: Vec::new() }).await.unwrap();
    let mut scan = scratch.scan("notes").await.unwrap();
    assert!(scan.next().await.unwrap().is_some());
    let away = vec![("0700".to_owned(), None)];
    let step = Step { generation, from: Some(to), to: log.at(Position(2)), rows: away, letters: Vec::new() };
    scratch.commit(&lease, step).await.unwrap();
    let mut left = 0;
    while scan.next().await.unwrap().is_some() {
        left += 1;
    }
    assert_eq!(left, 1199, "as it was at one moment");
    assert_eq!(scratch.snapshot("notes").await.unwrap().rows.len(), 1199);
}

/// The server ends its connections, again and again: the keeping goes on, and nothing counts twice.
#[tokio::test]
async fn connections_that_are_cut_cost_nothing() {
    let (schema, reads) = fresh().await;
    let (store, mut random, hand) = (MemoryStore::new(), seeded(), outside().await);
    let factum = Factum::new(store.clone());
    let balances = factum.project(Balances::<1>, reads).await.unwrap();
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'factum ' || $1";
    for _ in 0..15 {
        let token = write_some(&store, &mut random, 40, 5).await;
        for _ in 0..random.u8(0..4) {
            hand.query_one(cut, &[&schema]).await.unwrap();
            tokio::task::yield_now().await;
        }
        balances.wait_for_within(token, LONG).await.unwrap();
    }
    let event = NewEvent::json("Deposited", &serde_json::json!({"cents": 1})).unwrap();
    let token = store.append(Append::to(StreamName::new("account-1").unwrap(), [event])).await.unwrap().token;
    balances.wait_for_within(token, LONG).await.unwrap();
    assert_eq!(balances.all().await.unwrap(), fold(&store).await);
}
