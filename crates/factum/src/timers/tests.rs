//! Timers, whatever happens to the process and to the clock.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::{runtime, time::Instant};

use super::*;
use crate::{
    Append, Event, EventStoreExt, Factum, Limits, ManualClock, MemoryReads, MemoryStore, NewEvent, Query,
    Read, ReadStore, Result, StreamName, Timestamp, Trouble,
};

#[derive(Serialize, Deserialize)]
enum DueEvent {
    Due { number: usize },
}

impl Event for DueEvent {
    const CATEGORY: &'static str = "due";
}

const BEGIN: Timestamp = Timestamp(1_000_000_000_000_000);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

fn world() -> (Factum, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(BEGIN));
    let store = MemoryStore::with(Limits::default(), clock.clone());
    (Factum::new(store).with_clock(clock.clone()), clock)
}

/// How often each has happened.
async fn happened(factum: &Factum) -> HashMap<String, usize> {
    let mut times = HashMap::new();
    for event in factum.store().read_to_end(Read::query(Query::category("due"))).await.unwrap() {
        *times.entry(event.stream.id().to_owned()).or_default() += 1;
    }
    times
}

/// What a process held that was killed becomes free after a while.
async fn free(reads: &MemoryReads) {
    for held in reads.holds().held("").await.unwrap() {
        reads.holds().let_go(&held.name, &held.holder).await.unwrap();
    }
}

#[test]
fn ten_thousand_timers_with_kills_and_a_clock_that_jumps() {
    const TIMERS: usize = 10_000;
    let seed = std::env::var("FACTUM_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    eprintln!("FACTUM_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let ((factum, clock), reads) = (world(), MemoryReads::new());
    let at_once = runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut stopped = HashSet::new();
    at_once.block_on(async {
        for number in 0..TIMERS {
            let at = BEGIN.plus(HOUR.mul_f64(random.f64()));
            let event = DueEvent::Due { number };
            factum.schedule(&number.to_string(), at, &event).await.unwrap();
            if number % 10 == 0 {
                factum.schedule(&number.to_string(), at.plus(HOUR), &event).await.unwrap();
            }
        }
    });
    for round in 0..40 {
        // A process, for some milliseconds; then it is gone, in the middle of whatever it does.
        let process = runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
        let timers = process.block_on(factum.timers(reads.clone())).unwrap();
        let back = if round % 3 == 0 { DAY } else { Duration::ZERO };
        clock.set(BEGIN.plus(HOUR.mul_f64(2.0 * f64::from(round) / 40.0)).minus(back));
        for _ in 0..10 {
            let number = random.usize(..TIMERS).to_string();
            if process.block_on(factum.unschedule::<DueEvent>(&number)).unwrap() {
                stopped.insert(number);
            }
        }
        let while_it_lives = Duration::from_millis(random.u64(1..60));
        process.block_on(async { tokio::time::sleep(while_it_lives).await });
        drop(timers);
        process.shutdown_background();
        at_once.block_on(free(&reads));
    }
    clock.set(BEGIN.plus(DAY));
    at_once.block_on(async {
        let timers = factum.timers(reads.clone()).await.unwrap();
        let until = Instant::now() + Duration::from_secs(30);
        while happened(&factum).await.len() + stopped.len() < TIMERS && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        clock.set(BEGIN.minus(DAY));
        timers.stop().await;
        let times = happened(&factum).await;
        assert_eq!(
            times.len() + stopped.len(),
            TIMERS,
            "one is lost, or has happened although it was stopped"
        );
        assert!(times.keys().all(|number| !stopped.contains(number)));
        assert!(times.values().all(|times| *times == 1), "one has happened twice");
    });
}

/// What sets timers and stops them, by hand.
fn set(timers: &Changes) -> Append {
    let set = NewEvent::json("Set", &serde_json::json!({ "timers": timers })).unwrap();
    Append::to(StreamName::new("of_a_test-1").unwrap(), [set])
}

/// Some hang, some fail; the others are counted.
struct Sick {
    fired: Arc<Mutex<HashSet<String>>>,
    tried: Arc<AtomicUsize>,
    until: Duration,
    began: Instant,
    factum: Factum,
}

#[async_trait]
impl Fire for Sick {
    async fn fire(&self, due: &Due) -> Result<Fired, Trouble> {
        if due.id.starts_with("stuck") && self.began.elapsed() < self.until {
            self.tried.fetch_add(1, Ordering::SeqCst);
            if due.id.ends_with('0') {
                return Err(Trouble::infrastructure("sick"));
            }
            std::future::pending::<()>().await;
        }
        self.fired.lock().unwrap().insert(due.id.clone());
        let changes = Changes { on: Vec::new(), off: vec![(due.id.clone(), due.at)] };
        Ok(Fired::at(self.factum.store().append(set(&changes)).await.unwrap().token))
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_that_are_stuck_starve_nobody() {
    let (factum, clock) = world();
    let on = |prefix: &str, count: usize, at: Timestamp| {
        let on = (0..count).map(|n| (format!("{prefix}-{n}"), at)).collect();
        set(&Changes { on, off: Vec::new() })
    };
    factum.store().append(on("stuck", 100, BEGIN.minus(HOUR))).await.unwrap();
    factum.store().append(on("well", 1000, BEGIN)).await.unwrap();
    let (fired, tried) = (Arc::<Mutex<HashSet<String>>>::default(), Arc::<AtomicUsize>::default());
    let (until, began) = (Duration::from_secs(60), Instant::now());
    let sick = Sick { fired: fired.clone(), tried: tried.clone(), until, began, factum: factum.clone() };
    let sick = Arc::new(sick);
    let query = Query::category("of_a_test");
    let firing =
        Firing::start("sick", query, Arc::new(MemoryReads::new()), factum.clone(), sick.clone(), HOUR)
            .unwrap();
    let count = |prefix: &str| fired.lock().unwrap().iter().filter(|id| id.starts_with(prefix)).count();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(count("well"), 1000, "they have waited for those that are stuck");
    // Later ones, too, when those that are stuck are tried again and again.
    for minute in 0..5 {
        tokio::time::sleep(Duration::from_secs(7)).await;
        let later = format!("later{minute}");
        factum.store().append(on(&later, 50, clock_now(&clock))).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert_eq!(count(&later), 50, "{:?}", firing.status());
    }
    assert!(tried.load(Ordering::SeqCst) > 200, "they are tried again");
    assert_eq!((count("stuck"), firing.status().failing), (0, 100));
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(count("stuck"), 100, "they are well again");
    firing.stop().await;
}

fn clock_now(clock: &ManualClock) -> Timestamp {
    crate::Clock::now(clock)
}

/// What is set off is set again at once, for the same moment, so often; in one event, so that the list has it all the time.
struct Again {
    factum: Factum,
    left: AtomicUsize,
    /// How often it was asked to set it off.
    asked: AtomicUsize,
    /// Others do it: whoever asks is told that there was nothing to do.
    by_others: bool,
    /// It leaves the list in the end.
    ends: bool,
}

#[async_trait]
impl Fire for Again {
    async fn fire(&self, _: &Due) -> Result<Fired, Trouble> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let before = self.factum.store().head().await.unwrap().token;
        let again = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if again.is_err() && !self.ends {
            return Ok(Fired::before(before));
        }
        let timer = || ("1".to_owned(), BEGIN);
        let changes = Changes { on: again.iter().map(|_| timer()).collect(), off: vec![timer()] };
        let done = self.factum.store().append(set(&changes)).await.unwrap();
        Ok(if self.by_others { Fired::before(before) } else { Fired::at(done.token) })
    }
}

/// Runs it for so long.
async fn run_again(left: usize, by_others: bool, ends: bool, seconds: u64) -> usize {
    let (factum, _) = world();
    let (left, asked) = (AtomicUsize::new(left), AtomicUsize::new(0));
    let again = Arc::new(Again { factum: factum.clone(), left, asked, by_others, ends });
    let timer = ("1".to_owned(), BEGIN);
    factum.store().append(set(&Changes { on: vec![timer], off: Vec::new() })).await.unwrap();
    let reads = Arc::new(MemoryReads::new());
    let query = Query::category("of_a_test");
    let firing = Firing::start("again", query, reads.clone(), factum, again.clone(), HOUR).unwrap();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let left = reads.page("again_timers", None, 10).await.unwrap().rows.len();
    assert_eq!(left, usize::from(!ends), "{}", firing.status());
    assert_eq!(firing.status().failing, 0);
    firing.stop().await;
    again.asked.load(Ordering::SeqCst)
}

#[tokio::test(start_paused = true)]
async fn what_is_set_again_for_the_same_moment_happens_again() {
    assert_eq!(run_again(20, false, true, 2).await, 21);
}

#[tokio::test(start_paused = true)]
async fn what_others_have_set_again_for_the_same_moment_happens_again() {
    assert_eq!(run_again(3, true, true, 30).await, 4);
}

#[tokio::test(start_paused = true)]
async fn what_is_in_the_list_for_no_reason_is_looked_at_now_and_then() {
    let asked = run_again(0, true, false, 600).await;
    assert!((20..40).contains(&asked), "{asked} times in ten minutes");
}

#[tokio::test(start_paused = true)]
async fn what_is_scheduled_again_as_it_was_happens_once() {
    let ((factum, clock), reads) = (world(), MemoryReads::new());
    let timers = factum.timers(reads).await.unwrap();
    let (at, event) = (BEGIN.plus(HOUR), DueEvent::Due { number: 1 });
    factum.schedule("1", at, &event).await.unwrap();
    factum.schedule("1", at, &event).await.unwrap();
    factum.schedule("2", at, &event).await.unwrap();
    assert!(factum.unschedule::<DueEvent>("2").await.unwrap());
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(happened(&factum).await.len(), 0, "its time has not come");
    assert_eq!(timers.status().next, Some(at));
    clock.advance(DAY);
    tokio::time::sleep(Duration::from_secs(2)).await;
    factum.schedule("1", at, &event).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(happened(&factum).await, HashMap::from([("1".to_owned(), 1)]));
    // Another moment is another timer.
    factum.schedule("1", at.plus(HOUR), &event).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(happened(&factum).await, HashMap::from([("1".to_owned(), 2)]));
    assert!(factum.schedule("", at, &event).await.unwrap_err().to_string().contains("empty"));
    timers.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_list_of_another_history_is_made_anew() {
    let clock = Arc::new(ManualClock::at(BEGIN));
    let (store, reads) = (MemoryStore::with(Limits::default(), clock.clone()), MemoryReads::new());
    let factum = Factum::new(store.clone()).with_clock(clock.clone());
    let timers = factum.timers(reads.clone()).await.unwrap();
    factum.schedule("1", BEGIN.plus(HOUR), &DueEvent::Due { number: 1 }).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(timers.status().next.is_some());
    timers.stop().await;
    // The log was restored from a backup.
    store.begin_epoch();
    clock.advance(DAY);
    let timers = factum.timers(reads).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(happened(&factum).await.len(), 1, "{}", timers.status());
    timers.stop().await;
}

#[tokio::test(start_paused = true)]
async fn of_two_processes_one_is_at_work_and_the_other_takes_over() {
    let ((factum, _), reads) = (world(), MemoryReads::new());
    let one = factum.timers(reads.clone()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let other = factum.timers(reads).await.unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!((one.status().here, other.status().here), (true, false));
    one.stop().await;
    factum.schedule("1", BEGIN, &DueEvent::Due { number: 1 }).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(other.status().here);
    assert_eq!(happened(&factum).await.len(), 1);
    other.stop().await;
}
