//! Somebody is held up between any two statements of what the server does for them, while a rival and a reader go on; then they
//! go on too, or their connection is cut, or their statement is.
//!
//! The functions of the store are taken from the database and given a gate after each of their statements: an advisory lock that a
//! test can shut, at which the first to come waits.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that unwraps an error has failed; it says what it sees"
)]

mod support;

use std::{collections::BTreeMap, sync::Arc};

use factum::{Append, AsOf, EventStore, Query, Read};
use factum_postgres::{Options, PostgresStore, Writing};
use serde_json::{Value, json};
use support::{
    bench::{Bench, Reader, connect, one, until},
    proof,
};
use tokio_postgres::Client;

/// What an append calls, in the order in which it does.
const OF_APPENDS: [&str; 6] = ["meet", "lock_streams", "record", "append_plain", "allocate", "settle"];

/// Waits at the gate of a point if it is shut and nobody else waits there: however long, also where the store would not.
const PAUSE: &str =
    "CREATE FUNCTION factum.pause(point integer) RETURNS void LANGUAGE plpgsql SET lock_timeout = 0 AS $$
DECLARE place CONSTANT integer := hashtext('factum.');
BEGIN
    IF pg_try_advisory_lock_shared(place, point) THEN
        PERFORM pg_advisory_unlock_shared(place, point);
    ELSIF pg_try_advisory_lock(place, 10000 + point) THEN
        PERFORM pg_advisory_lock_shared(place, point);
        PERFORM pg_advisory_unlock_shared(place, point);
        PERFORM pg_advisory_unlock(place, 10000 + point);
    END IF;
END $$";

/// A store whose functions have gates.
struct Gates {
    bench: Bench,
    /// Of each gate, the function and what follows it.
    points: BTreeMap<i32, (&'static str, String)>,
    shutter: Client,
}

impl Gates {
    async fn of(functions: &[&'static str], options: Options) -> Self {
        let bench = Bench::with(options).await;
        bench.by_hand(PAUSE).await;
        let mut points = BTreeMap::new();
        for &function in functions {
            let definition = bench.sql(&format!("SELECT pg_get_functiondef('factum.{function}'::regproc)"));
            let definition: String = bench.hand.query_one(&definition, &[]).await.unwrap().get(0);
            let gated = with_gates(&definition, &bench.sql("factum.pause"), function, &mut points);
            bench.hand.batch_execute(&gated).await.unwrap();
        }
        Self { bench, points, shutter: connect().await }
    }

    async fn gate(&self, action: &str, point: i32) {
        let gate = self.bench.sql(&format!("SELECT pg_advisory_{action}(hashtext('factum.'), {point})"));
        self.shutter.batch_execute(&gate).await.unwrap();
    }

    /// Who waits at a gate, and in the statement of which moment: a connection may come by again.
    async fn waits_at(&self, point: i32) -> Option<(i32, String)> {
        let waits = self.bench.sql(
            "SELECT pid, coalesce(a.query_start::text, '') FROM pg_locks l JOIN pg_stat_activity a USING (pid)
             WHERE l.locktype = 'advisory' AND NOT l.granted AND l.objid::bigint = $1
             AND l.classid::bigint = hashtext('factum.')::bigint & 4294967295",
        );
        let rows = self.bench.hand.query(&waits, &[&i64::from(point)]).await.unwrap();
        rows.first().map(|row| (row.get(0), row.get(1)))
    }

    /// How many connections of the store wait for a lock.
    async fn waiting(&self) -> i64 {
        let waiting = format!(
            "SELECT count(DISTINCT pid) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
             WHERE NOT l.granted AND a.application_name = 'factum {}'",
            self.bench.schema
        );
        self.bench.hand_count(&waiting).await
    }

    /// How many locks of the store's own are held, of those that outlive a transaction or are of one that is open.
    async fn held(&self) -> i64 {
        let held = self.bench.sql(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
             AND classid IN ('factum.log'::regclass, 'factum.events'::regclass, 'factum.streams'::regclass)",
        );
        self.bench.hand_count(&held).await
    }
}

/// The text of a function with a gate at its beginning and after each statement.
fn with_gates(
    definition: &str,
    pause: &str,
    function: &'static str,
    points: &mut BTreeMap<i32, (&'static str, String)>,
) -> String {
    let without_comments: Vec<&str> =
        definition.lines().map(|line| line.split_once("--").map_or(line, |(code, _)| code)).collect();
    let code = without_comments.join("\n");
    let (head, body) = code.split_once("BEGIN").unwrap();
    let mut gated = format!("{head}BEGIN");
    let statements: Vec<&str> = body.split(';').collect();
    for (n, statement) in statements.iter().enumerate() {
        if n > 0 {
            gated.push(';');
        }
        let never_comes =
            n > 0 && ["RETURN ", "RAISE"].iter().any(|end| statements[n - 1].trim_start().starts_with(end));
        // These ask about the statement before them.
        let asks = ["GET DIAGNOSTICS", "IF FOUND"].iter().any(|how| statement.trim_start().starts_with(how));
        if asks || never_comes && !statements[n - 1].contains("QUERY") {
            gated += statement;
            continue;
        }
        let point = i32::try_from(points.len()).unwrap();
        let follows = statement.split_whitespace().collect::<Vec<_>>().join(" ");
        points.insert(point, (function, follows.chars().take(60).collect()));
        gated += &format!("\nPERFORM {pause}({point});{statement}");
    }
    gated
}

/// What becomes of who was held up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    GoesOn,
    ConnectionCut,
    StatementCancelled,
}

/// One writer is held up, a rival writes, a reader reads.
struct Scene<'g> {
    gates: &'g Gates,
    slow: Arc<PostgresStore>,
    quick: Arc<PostgresStore>,
    reader: Reader,
}

impl Scene<'_> {
    /// Whether anybody came by this point.
    async fn play(&mut self, point: i32, end: End, slow: Append, quick: Append) -> bool {
        let gates = self.gates;
        let settles = gates.points[&point].0 == "settle";
        if settles {
            // Who settles has somebody to wait for.
            gates.bench.draw().await;
        }
        println!("{:?} {end:?} {:?}", gates.points[&point], quick.writes[0].stream);
        gates.gate("lock", point).await;
        let victim = {
            let (store, append) = (self.slow.clone(), slow.clone());
            tokio::spawn(async move { store.append(append).await })
        };
        let stands = async || victim.is_finished() || gates.waits_at(point).await.is_some();
        until(async || stands().await || settles && gates.waiting().await > 0).await;
        gates.bench.by_hand("ROLLBACK").await;
        until(stands).await;
        let Some(stands) = gates.waits_at(point).await else {
            gates.gate("unlock", point).await;
            victim.await.unwrap().unwrap();
            self.reader.look().await;
            return false;
        };
        let rival = {
            let (store, append) = (self.quick.clone(), quick.clone());
            tokio::spawn(async move { store.append(append).await })
        };
        until(async || rival.is_finished() || gates.waiting().await > 1).await;
        let answered = rival.is_finished();
        self.reader.look().await;
        let id = quick.writes[0].events[0].id;
        assert!(!answered || self.reader.seen.iter().any(|seen| seen.1 == id), "answered, and not seen");
        let act = match end {
            End::GoesOn => "SELECT 1",
            End::ConnectionCut => "SELECT pg_terminate_backend($1)",
            End::StatementCancelled => "SELECT pg_cancel_backend($1)",
        };
        if end != End::GoesOn {
            gates.bench.hand.execute(act, &[&stands.0]).await.unwrap();
            until(async || gates.waits_at(point).await.as_ref() != Some(&stands)).await;
        }
        gates.gate("unlock", point).await;
        let done = victim.await.unwrap();
        if end != End::StatementCancelled {
            done.as_ref().unwrap();
        }
        let again = self.slow.append(slow).await.unwrap();
        assert!(again.replayed || done.is_err(), "{done:?}");
        rival.await.unwrap().unwrap();
        self.reader.look().await;
        assert_eq!(self.reader.seen.iter().filter(|seen| seen.1 == id).count(), 1);
        true
    }
}

/// Everybody is held up once at each point, in each way, with a rival on another stream and on the same.
async fn writers(writing: Writing, ends: &[End]) -> Value {
    let options = Options { writing, ..Options::default() };
    let gates = Gates::of(&OF_APPENDS, options.clone()).await;
    let (slow, quick) = (gates.bench.another(options.clone()).await, gates.bench.another(options).await);
    let mut scene = Scene { gates: &gates, slow, quick, reader: Reader::new(&gates.bench.store) };
    let (mut reached, mut unreached, mut scenes) = (0, Vec::new(), 0_u64);
    for (&point, (function, follows)) in &gates.points {
        let mut here = false;
        for &end in ends {
            for same in [false, true] {
                let mut slow = one(&format!("slow-{scenes}"));
                if !same {
                    let never = Query::tags(["never:1"]).unwrap();
                    slow = slow.expect_none(never, scene.slow.head().await.unwrap().token);
                }
                let quick =
                    if same { one(&format!("slow-{scenes}")) } else { one(&format!("quick-{scenes}")) };
                let came = scene.play(point, end, slow, quick).await;
                let (held, inversions) = (gates.held().await, scene.reader.inversions);
                assert!(
                    held == 0 && inversions == 0,
                    "{function} before `{follows}`, {end:?}: {held} {inversions}"
                );
                here |= came;
                scenes += u64::from(came);
            }
        }
        if here { reached += 1 } else { unreached.push(format!("{function}: {follows}")) }
    }
    scene.reader.look().await;
    let missed = scene.reader.missed(&gates.bench).await;
    println!("nobody came by: {unreached:#?}");
    assert_eq!(missed, (0, 0), "missed, invented");
    assert!(reached > 20, "{reached}");
    json!({ "points": reached, "scenes": scenes, "events": scene.reader.seen.len(), "missed": 0, "inversions": 0 })
}

const EVERY_END: [End; 3] = [End::GoesOn, End::ConnectionCut, End::StatementCancelled];

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_may_be_held_up_between_any_two_statements() {
    proof::tell("pauses", &writers(Writing::Single, &EVERY_END).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_writers_may_be_held_up_between_any_two_statements() {
    let ends = proof::scaled(&EVERY_END[1..2], &EVERY_END);
    proof::tell("pauses_grouped", &writers(Writing::Grouped, ends).await);
}

/// A reader is held up at each point, while one writer draws and another one, which draws after it, commits before it.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_may_be_held_up_between_any_two_statements() {
    let gates = Gates::of(&["safe_head"], Options::default()).await;
    let bench = &gates.bench;
    let (mut reader, quick) = (Reader::new(&bench.another(Options::default()).await), bench.store.clone());
    let mut scenes = 0;
    for &point in gates.points.keys() {
        for (drawn_before, written_before) in [(true, true), (true, false), (false, true), (false, false)] {
            let mut drawn = None;
            if drawn_before {
                drawn = Some(bench.draw().await);
            }
            gates.gate("lock", point).await;
            let looking = tokio::spawn(async move {
                reader.look().await;
                reader
            });
            until(async || looking.is_finished() || gates.waits_at(point).await.is_some()).await;
            assert!(!looking.is_finished(), "nobody came by {:?}", gates.points[&point]);
            let drawn = match drawn {
                Some(drawn) => drawn,
                None => bench.draw().await,
            };
            let rival = {
                let (store, append) = (quick.clone(), one(&format!("quick-{scenes}")));
                tokio::spawn(async move { store.append(append).await })
            };
            // The reader waits, and the rival for who drew before it.
            until(async || gates.waiting().await > 1).await;
            if written_before {
                bench.write(drawn, &format!("slow-{scenes}")).await;
            }
            gates.gate("unlock", point).await;
            reader = looking.await.unwrap();
            if !written_before {
                bench.write(drawn, &format!("slow-{scenes}")).await;
            }
            rival.await.unwrap().unwrap();
            reader.look().await;
            assert_eq!(
                (reader.missed(bench).await, reader.inversions),
                ((0, 0), 0),
                "{:?}",
                gates.points[&point]
            );
            scenes += 1;
        }
    }
    let figures = json!({ "points": gates.points.len(), "scenes": scenes, "events": reader.seen.len(), "missed": 0, "inversions": 0 });
    proof::tell("pauses_of_readers", &figures);
}

/// An event comes while the reader of an earlier time is held up: the page does not claim to have looked at it.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_as_of_a_time_claims_no_more_than_it_has_looked_at() {
    let gates = Gates::of(&["safe_head"], Options::default()).await;
    let store = gates.bench.another(Options::default()).await;
    let first = store.append(one("a-1")).await.unwrap();
    let then = store.head().await.unwrap().recorded_at.unwrap();
    gates.gate("lock", 0).await;
    let reading = tokio::spawn(async move { store.read(Read::all().as_of(AsOf::Time(then))).await });
    until(async || gates.waits_at(0).await.is_some()).await;
    let second = gates.bench.append("a-2").await.unwrap().unwrap();
    assert!(second.events[0].position > first.events[0].position);
    gates.gate("unlock", 0).await;
    let page = reading.await.unwrap().unwrap();
    assert_eq!((page.events.len(), page.token, page.head), (1, first.token, second.token));
}
