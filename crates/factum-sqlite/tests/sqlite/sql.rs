//! Projections in SQL.

use factum::{Error, MemoryStore, State, bus, prelude::*};
use factum_sqlite::{Sql, SqlProjected, SqlProjection, Sqlite};

use crate::support::*;

/// How much went in and out, per account and in all; withdrawals of 13 are refused.
#[derive(Debug)]
pub(crate) struct Flows<const VERSION: u32 = 1>;

impl<const V: u32> SqlProjection for Flows<V> {
    const NAME: &'static str = "flows";
    const VERSION: u32 = V;
    type Event = AccountEvent;

    fn setup(&self, sql: &Sql<'_>) -> factum::Result<()> {
        sql.execute("CREATE TABLE {per_account} (id TEXT PRIMARY KEY, cents INTEGER NOT NULL) STRICT", ())?;
        sql.execute("CREATE TABLE {in_all} (kind TEXT PRIMARY KEY, events INTEGER NOT NULL) STRICT", ())?;
        sql.execute("CREATE INDEX {richest} ON {per_account} (cents)", ())?;
        Ok(())
    }

    fn apply(&self, sql: &Sql<'_>, event: &Recorded<AccountEvent>) -> factum::Result<()> {
        let count = "INSERT INTO {in_all} VALUES (?1, 1) ON CONFLICT DO UPDATE SET events = events + 1";
        sql.execute(count, (event.record.event_type.as_str(),))?;
        let add = "INSERT INTO {per_account} VALUES (?1, ?2) ON CONFLICT DO UPDATE SET cents = cents + excluded.cents";
        let id = event.record.stream.id();
        match event.event {
            Opened { cents } => {
                sql.execute("DELETE FROM {per_account} WHERE id = ?1", (id,))?;
                sql.execute(add, (id, cents))?
            }
            Deposited { cents } => sql.execute(add, (id, cents))?,
            Withdrawn { cents: 13 } => return Err(Error::invalid("a withdrawal", "thirteen")),
            Withdrawn { cents } => sql.execute(add, (id, -cents))?,
            Closed => sql.execute("DELETE FROM {per_account} WHERE id = ?1", (id,))?,
        };
        Ok(())
    }
}

/// Takes away the room to grow, as a full disk would.
pub(crate) struct Room;

impl SqlProjection for Room {
    const NAME: &'static str = "room";
    type Event = AccountEvent;

    fn setup(&self, _: &Sql<'_>) -> factum::Result<()> {
        Ok(())
    }

    fn apply(&self, sql: &Sql<'_>, _: &Recorded<AccountEvent>) -> factum::Result<()> {
        let pages = sql.query("PRAGMA page_count", ())?[0].get::<i64>(0)?;
        sql.query(&format!("PRAGMA max_page_count = {}", pages + 4), ())?;
        Ok(())
    }
}

async fn write(store: &MemoryStore, random: &mut fastrand::Rng, events: usize) -> factum::Token {
    let mut token = None;
    let factum = Factum::new(store.clone());
    for n in 0..events {
        let id = Account::id(format!("{}", random.u8(0..6)));
        let cents = random.i64(20..50);
        let events = if n % 3 == 0 { vec![Withdrawn { cents }] } else { vec![Deposited { cents }] };
        let append = factum::Append::to(id.stream().unwrap(), [factum::codec::encode(&events[0]).unwrap()]);
        token = Some(factum.store().append(append).await.unwrap().token);
    }
    token.unwrap()
}

#[tokio::test]
async fn tables_follow_the_log_and_a_rebuild_gives_the_same() {
    let (store, mut random) = (MemoryStore::new(), seeded());
    let factum = Factum::new(store.clone());
    let sqlite = crate::reads();
    write(&store, &mut random, 2500).await;
    let flows = sqlite.project(&factum, Flows::<1>).await.unwrap();
    let token = write(&store, &mut random, 50).await;
    flows.wait_for(token).await.unwrap();
    assert_eq!(flows.verify().await.unwrap(), []);
    let rows = flows.query("SELECT events FROM {in_all} WHERE kind = ?1", ("Deposited",)).await.unwrap();
    assert_eq!(rows[0].get::<i64>(0).unwrap(), 1666 + 33);
    let before = flows.query("SELECT * FROM {per_account} ORDER BY id", ()).await.unwrap();
    flows.rebuild().await.unwrap();
    assert_eq!(flows.query("SELECT * FROM {per_account} ORDER BY id", ()).await.unwrap(), before);
    assert_eq!(
        flows.query("SELECT * FROM flows_per_account ORDER BY id", ()).await.unwrap(),
        before,
        "the view"
    );
    flows.stop().await;

    let token = write(&store, &mut random, 50).await;
    let next = sqlite.project(&factum, Flows::<2>).await.unwrap();
    next.wait_for(token).await.unwrap();
    assert_eq!(next.verify().await.unwrap(), []);
    let left = next
        .query("SELECT name FROM sqlite_schema WHERE name GLOB 'flows_g*_per_account'", ())
        .await
        .unwrap();
    assert_eq!(left.len(), 1, "the old tables are gone");
}

#[tokio::test]
async fn an_event_that_is_refused_leaves_no_trace_and_stops_it() {
    let factum = Factum::new(MemoryStore::new());
    let account = Account::id("1");
    factum.execute(&account, Open { cents: 100 }).await.unwrap();
    let before = factum.execute(&account, Withdraw { cents: 1 }).await.unwrap();
    let thirteen = factum.execute(&account, Withdraw { cents: 13 }).await.unwrap();
    let flows = Sqlite::memory().unwrap().project(&factum, Flows::<1>).await.unwrap();
    let text = flows.wait_for(&thirteen).await.unwrap_err().to_string();
    let place = format!(
        "`Withdrawn` at position {} in `account-1`: a withdrawal: thirteen",
        thirteen.events[0].position
    );
    assert!(text.contains(&place), "{text}");
    let status = flows.status().await.unwrap();
    assert!(matches!(status.state, State::Stopped(_)));
    assert_eq!(status.position, before.events[0].position);
    let rows = flows.query("SELECT events FROM {in_all} WHERE kind = 'Withdrawn'", ()).await.unwrap();
    assert_eq!(rows[0].get::<i64>(0).unwrap(), 1, "what it did before it refused is undone");
}

#[tokio::test]
async fn bad_sql_stops_it_and_says_why() {
    struct Typo;
    impl SqlProjection for Typo {
        const NAME: &'static str = "typo";
        type Event = AccountEvent;
        fn setup(&self, sql: &Sql<'_>) -> factum::Result<()> {
            sql.execute("CREATE TABLE {t} (a)", ()).map(drop)
        }
        fn apply(&self, sql: &Sql<'_>, _: &Recorded<AccountEvent>) -> factum::Result<()> {
            sql.execute("INSERT INTO {tt} VALUES (1)", ()).map(drop)
        }
    }
    let factum = Factum::new(MemoryStore::new());
    let done = factum.execute(&Account::id("1"), Open { cents: 100 }).await.unwrap();
    let typo = Sqlite::memory().unwrap().project(&factum, Typo).await.unwrap();
    let text = typo.wait_for(&done).await.unwrap_err().to_string();
    assert!(text.contains("no such table: typo_g1_tt") && text.contains("`Opened` at position 1"), "{text}");
}

#[tokio::test]
async fn readers_cannot_write() {
    let factum = Factum::new(MemoryStore::new());
    let done = factum.execute(&Account::id("1"), Open { cents: 100 }).await.unwrap();
    let flows = crate::reads().project(&factum, Flows::<1>).await.unwrap();
    flows.wait_for(&done).await.unwrap();
    assert!(flows.query("DELETE FROM {in_all}", ()).await.is_err());
    assert!(
        flows
            .query("SELECT nowhere FROM {in_all}", ())
            .await
            .unwrap_err()
            .to_string()
            .contains("no such column")
    );
    let row = &flows.query("SELECT 1, 2.5, 'x', NULL, x'00ff'", ()).await.unwrap()[0];
    assert_eq!((row.get::<i64>(0), row.get::<f64>(1)), (Ok(1), Ok(2.5)));
    assert_eq!((row.get::<String>(2), row.get::<Option<i64>>(3)), (Ok("x".into()), Ok(None)));
    assert_eq!(row.get::<Vec<u8>>(4), Ok(vec![0, 255]));
    assert!(row.get::<i64>(2).is_err() && row.get::<i64>(9).is_err());
}

/// Tables that refer to each other, one that SQLite keeps in others, and a view.
struct Shapes;

impl SqlProjection for Shapes {
    const NAME: &'static str = "shapes";
    type Event = AccountEvent;

    fn setup(&self, sql: &Sql<'_>) -> factum::Result<()> {
        for statement in [
            "CREATE TABLE {accounts} (id TEXT PRIMARY KEY, last INTEGER REFERENCES {last}(n))",
            "CREATE TABLE {bookings} (id TEXT REFERENCES {accounts}(id), n INTEGER)",
            "CREATE TABLE {last} (n INTEGER PRIMARY KEY, id TEXT REFERENCES {accounts}(id))",
            "CREATE VIRTUAL TABLE {words} USING fts5(text)",
            "CREATE VIEW {sums} AS SELECT id, sum(n) AS sum FROM {bookings} GROUP BY id",
            "CREATE TRIGGER {told} AFTER INSERT ON {bookings} BEGIN INSERT INTO {words} VALUES (new.id); END",
        ] {
            sql.execute(statement, ())?;
        }
        Ok(())
    }

    fn apply(&self, sql: &Sql<'_>, event: &Recorded<AccountEvent>) -> factum::Result<()> {
        let (id, n) = (event.record.stream.id(), i64::try_from(event.record.position.0).unwrap());
        sql.execute("INSERT INTO {accounts} (id) VALUES (?1) ON CONFLICT DO NOTHING", (id,))?;
        sql.execute("INSERT INTO {last} VALUES (?1, ?2)", (n, id))?;
        sql.execute("UPDATE {accounts} SET last = ?1 WHERE id = ?2", (n, id))?;
        sql.execute("INSERT INTO {bookings} VALUES (?1, 1)", (id,))?;
        Ok(())
    }
}

#[tokio::test]
async fn tables_that_refer_to_each_other_and_views_are_rebuilt() {
    let (store, mut random) = (MemoryStore::new(), seeded());
    let factum = Factum::new(store.clone());
    let token = write(&store, &mut random, 60).await;
    let shapes = crate::reads().project(&factum, Shapes).await.unwrap();
    shapes.wait_for(token).await.unwrap();
    for _ in 0..2 {
        shapes.rebuild().await.unwrap();
    }
    assert_eq!(shapes.verify().await.unwrap(), []);
    let number = async |sql: &str| shapes.query(sql, ()).await.unwrap()[0].get::<i64>(0).unwrap();
    let sum = number("SELECT sum FROM {sums} WHERE id = '1'").await;
    assert!(sum > 0);
    assert_eq!(number("SELECT count(*) FROM {words} WHERE text MATCH '\"1\"'").await, sum);
    assert_eq!(number("SELECT sum FROM shapes_sums WHERE id = '1'").await, sum, "as others see it");
    assert_eq!(number("SELECT count(*) FROM sqlite_schema WHERE name GLOB 'shapes_g[12]_*'").await, 0);
    let shown = "SELECT count(*) FROM sqlite_schema WHERE type = 'view' AND name NOT GLOB 'shapes_g*'";
    assert_eq!(number(shown).await, 5, "nobody needs to see how SQLite keeps words");
}

/// Panics where the tables are made, or says nonsense there.
#[derive(Debug)]
struct Broken<const PANIC: bool>;

impl<const PANIC: bool> SqlProjection for Broken<PANIC> {
    const NAME: &'static str = "flows";
    const VERSION: u32 = 2;
    type Event = AccountEvent;

    fn setup(&self, sql: &Sql<'_>) -> factum::Result<()> {
        assert!(!PANIC, "a bug in setup");
        sql.execute("CREATE TABLE {t} (id TEXT)", ()).map(drop)
    }

    fn apply(&self, sql: &Sql<'_>, _: &Recorded<AccountEvent>) -> factum::Result<()> {
        sql.execute("this is no SQL", ()).map(drop)
    }
}

#[tokio::test]
async fn a_panic_while_the_tables_are_made_is_told_and_the_database_goes_on() {
    let (store, mut random) = (MemoryStore::new(), seeded());
    let factum = Factum::new(store.clone());
    let sqlite = crate::reads();
    let refused = sqlite.project(&factum, Broken::<true>).await.unwrap_err();
    assert!(refused.to_string().contains("a bug in setup") && !refused.is_retryable(), "{refused}");
    let flows = sqlite.project(&factum, Flows::<1>).await.unwrap();
    flows.wait_for(write(&store, &mut random, 30).await).await.unwrap();
    assert_eq!(flows.verify().await.unwrap(), []);
}

#[tokio::test]
async fn tables_of_another_version_are_not_taken_for_its_own() {
    let (store, mut random) = (MemoryStore::new(), seeded());
    let factum = Factum::new(store.clone());
    let sqlite = crate::reads();
    let first = sqlite.project(&factum, Flows::<1>).await.unwrap();
    let token = write(&store, &mut random, 30).await;
    first.wait_for(token).await.unwrap();
    let second = sqlite.project(&factum, Broken::<false>).await.unwrap();
    second.wait_for(token).await.unwrap_err();
    for refused in [second.query("SELECT 1", ()).await.unwrap_err(), second.verify().await.unwrap_err()] {
        assert!(refused.to_string().contains("shows version 1 until version 2 is filled"), "{refused}");
    }
    first.query("SELECT 1 FROM {per_account}", ()).await.unwrap();
}

/// The kinds of events of which there were so many at least.
struct Frequent {
    at_least: i64,
}

impl bus::Query<SqlProjected<Flows>> for Frequent {
    type Result = Vec<String>;

    async fn answer(&self, flows: &SqlProjected<Flows>) -> factum::Result<Vec<String>> {
        let sql = "SELECT kind FROM {in_all} WHERE events >= ?1 ORDER BY kind";
        flows.query(sql, (self.at_least,)).await?.iter().map(|row| row.get(0)).collect()
    }
}

#[tokio::test]
async fn tables_answer_typed_queries_on_a_bus() {
    let factum = Factum::new(MemoryStore::new());
    let sqlite = Sqlite::memory().unwrap();
    let flows = sqlite.project(&factum, Flows::<1>).await.unwrap();
    let balances = factum.project(Balances::<1>, sqlite).await.unwrap();
    let queries = bus::QueryBus::new((balances, flows.clone())).with(bus::Tracing);
    let account = Account::id("1");
    factum.execute(&account, Open { cents: 10 }).await.unwrap();
    factum.execute(&account, Deposit { cents: 10 }).await.unwrap();
    let done = factum.execute(&account, Deposit { cents: 10 }).await.unwrap();
    flows.wait_for(&done).await.unwrap();
    assert_eq!(queries.ask(Frequent { at_least: 2 }).await.unwrap(), ["Deposited"]);
    assert_eq!(queries.ask(Frequent { at_least: 1 }).await.unwrap(), ["Deposited", "Opened"]);
}

/// Counts deposits, and does at each what it must not, forgetting what SQLite says to it.
#[derive(Debug)]
struct Steps(&'static [&'static str]);

impl SqlProjection for Steps {
    const NAME: &'static str = "steps";
    type Event = AccountEvent;

    fn setup(&self, sql: &Sql<'_>) -> factum::Result<()> {
        sql.execute("CREATE TABLE {n} (id INTEGER PRIMARY KEY, n INTEGER NOT NULL)", ())?;
        sql.execute("INSERT INTO {n} VALUES (1, 0)", ()).map(drop)
    }

    fn apply(&self, sql: &Sql<'_>, event: &Recorded<AccountEvent>) -> factum::Result<()> {
        sql.execute("UPDATE {n} SET n = n + 1", ())?;
        if let Deposited { cents: 13 } = event.event {
            for statement in self.0 {
                let _ = sql.execute(statement, ());
                let _ = sql.query(statement, ());
            }
            sql.execute("UPDATE {n} SET n = n + 1000", ())?;
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_projection_cannot_step_out_of_its_transaction() {
    // Those that would end it on the way are refused; where the database itself ends it, all of it goes.
    let refused: &[&'static [&'static str]] = &[
        &["COMMIT"],
        &[" ; /* so */ END TRANSACTION"],
        &["ROLLBACK"],
        &["SAVEPOINT a", "ROLLBACK TO a"],
        &["BEGIN"],
    ];
    let ended: &[&'static [&'static str]] = &[
        &["INSERT OR ROLLBACK INTO {n} VALUES (1, 0)"],
        &["INSERT OR ROLLBACK INTO {n} VALUES (1, 0)", "BEGIN"],
    ];
    for (statements, goes_on) in refused.iter().map(|s| (*s, true)).chain(ended.iter().map(|s| (*s, false))) {
        let factum = Factum::new(MemoryStore::new());
        let account = Account::id("1");
        factum.execute(&account, Open { cents: 1 }).await.unwrap();
        factum.execute(&account, Deposit { cents: 13 }).await.unwrap();
        let end = factum.execute(&account, Deposit { cents: 1 }).await.unwrap();
        let sqlite = crate::reads();
        let steps = sqlite.project(&factum, Steps(statements)).await.unwrap();
        let done = steps.wait_for(&end).await;
        let n = steps.query("SELECT n FROM {n}", ()).await.unwrap()[0].get::<i64>(0).unwrap();
        if goes_on {
            assert_eq!((done, n), (Ok(()), 1003), "{statements:?}");
        } else {
            let text = done.unwrap_err().to_string();
            assert!(text.contains("at position 2") && text.contains("transaction"), "{statements:?}: {text}");
            assert_eq!(n, 1, "{statements:?}: what comes before the event, once");
        }
        drop(steps);
    }
    // A statement that is refused says what to do.
    let flows = crate::reads().project(&Factum::new(MemoryStore::new()), Flows::<1>).await.unwrap();
    let refused = flows.query("COMMIT", ()).await.unwrap_err().to_string();
    assert!(refused.contains("transaction"), "{refused}");
}

/// Its tables are made for the second time with a statement that rolls back.
#[derive(Debug)]
struct RollsBack;

impl SqlProjection for RollsBack {
    const NAME: &'static str = "flows";
    const VERSION: u32 = 2;
    type Event = AccountEvent;

    fn setup(&self, sql: &Sql<'_>) -> factum::Result<()> {
        sql.execute("CREATE TABLE {n} (id INTEGER PRIMARY KEY)", ())?;
        sql.execute("INSERT INTO {n} VALUES (1)", ())?;
        let _ = sql.execute("INSERT OR ROLLBACK INTO {n} VALUES (1)", ());
        Ok(())
    }

    fn apply(&self, _: &Sql<'_>, _: &Recorded<AccountEvent>) -> factum::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn tables_whose_making_rolls_back_take_a_model_from_nobody() {
    let (store, mut random) = (MemoryStore::new(), seeded());
    let factum = Factum::new(store.clone());
    let sqlite = crate::reads();
    let flows = sqlite.project(&factum, Flows::<1>).await.unwrap();
    flows.wait_for(write(&store, &mut random, 30).await).await.unwrap();
    let refused = sqlite.project(&factum, RollsBack).await.unwrap_err().to_string();
    assert!(refused.contains("transaction"), "{refused}");
    flows.wait_for(write(&store, &mut random, 30).await).await.unwrap();
    assert_eq!(flows.verify().await.unwrap(), []);
    assert_eq!(
        flows.query("SELECT count(*) FROM flows_per_account", ()).await.unwrap().len(),
        1,
        "readers' views stay"
    );
}
