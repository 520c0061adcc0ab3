//! Commands and decisions on a store.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test")]

mod common;

use std::sync::Arc;

use common::{Account, AccountEvent, Deposit, Open, Refusal, Transfer, Withdraw};
use factum::{
    Append, Appended, Criterion, Error, EventStore, EventStoreExt, Head, Limits, ManualClock, MemoryStore,
    Outcome, Page, Read, StreamName, StreamState, Tags,
    prelude::*,
    testkit::{given, given_in},
};

fn factum() -> Factum {
    Factum::new(MemoryStore::new())
}

#[tokio::test]
async fn a_command_changes_what_is_loaded_and_a_refusal_changes_nothing() {
    let factum = factum().acting_as("ada");
    let id = Account::id("1");
    factum.execute(&id, Open("Ada")).await.unwrap();
    let done = factum.execute(&id, Deposit(100)).await.unwrap();
    assert_eq!((done.events.len(), done.events[0].revision, done.attempts), (1, Revision(1), 1));
    let refused = factum.execute(&id, Withdraw(101)).await.unwrap_err();
    assert_eq!(refused, Failure::Refused(Refusal::InsufficientFunds));
    let nothing = factum.execute(&id, Deposit(0)).await.unwrap();
    assert!(nothing.events.is_empty() && nothing.token.position >= done.token.position);
    let account = factum.load(&id).await.unwrap();
    assert_eq!((account.state.balance, account.revision), (100, Some(Revision(1))));
    assert!(!factum.load(&Account::id("2")).await.unwrap().exists());
    let history = factum.history(&id).await.unwrap();
    assert_eq!(history[1].event, AccountEvent::Deposited { amount: 100 });
    assert_eq!(history[1].record.metadata.actor().as_deref(), Some("ada"));
    assert_eq!(history[1].record.metadata.correlation_id(), Some(done.correlation_id));
}

#[tokio::test]
async fn causes_are_named_and_flows_share_their_id() {
    let factum = factum();
    let id = Account::id("1");
    factum.correlated("flow-1").execute(&id, Open("Ada")).await.unwrap();
    let cause = factum.history(&id).await.unwrap().remove(0).record;
    let done = factum.caused_by(&cause).execute(&id, Deposit(1)).await.unwrap();
    assert_eq!(done.correlation_id, "flow-1");
    let effect = factum.history(&id).await.unwrap().remove(1).record;
    assert_eq!(effect.metadata.causation_id(), Some(cause.id.to_string()));
    assert_eq!(effect.metadata.correlation_id().as_deref(), Some("flow-1"));
}

#[tokio::test]
async fn the_past_can_be_loaded_by_revision_position_and_time() {
    let clock = Arc::new(ManualClock::at(Timestamp(1_000)));
    let factum = Factum::new(MemoryStore::with(Limits::default(), clock.clone()));
    let id = Account::id("1");
    factum.execute(&id, Open("Ada")).await.unwrap();
    clock.set(Timestamp(2_000));
    let deposited = factum.execute(&id, Deposit(100)).await.unwrap();
    clock.set(Timestamp(3_000));
    factum.execute(&id, Withdraw(30)).await.unwrap();
    let balance = async |at: At| factum.load_at(&id, at).await.unwrap().state.balance;
    assert_eq!(balance(Revision(0).into()).await, 0);
    assert_eq!(balance(Revision(1).into()).await, 100);
    assert_eq!(balance(Revision(99).into()).await, 70);
    assert_eq!(balance(deposited.events[0].position.into()).await, 100);
    assert_eq!(balance(Timestamp(1_999).into()).await, 0);
    assert_eq!(balance(Timestamp(2_000).into()).await, 100);
    assert_eq!(balance(Timestamp(9_999).into()).await, 70);
    assert!(!factum.load_at(&id, Timestamp(999)).await.unwrap().exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn racing_commands_keep_the_rule_and_lose_nothing() {
    let factum = factum();
    let id = Account::id("1");
    factum.execute(&id, Open("Ada")).await.unwrap();
    factum.execute(&id, Deposit(20)).await.unwrap();
    let mut racing = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let (factum, id) = (factum.clone(), id.clone());
        racing.spawn(async move { factum.execute(&id, Withdraw(1)).await });
    }
    let results = racing.join_all().await;
    let granted = results.iter().filter(|result| result.is_ok()).count();
    let refused =
        results.iter().filter(|r| matches!(r, Err(Failure::Refused(Refusal::InsufficientFunds)))).count();
    assert_eq!((granted, refused), (20, 12), "{results:?}");
    assert_eq!(factum.load(&id).await.unwrap().state.balance, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn racing_transfers_conserve_money() {
    let factum = factum();
    let ids: Vec<_> = (0..4).map(|n| Account::id(n.to_string())).collect();
    for id in &ids {
        factum.execute(id, Open("Ada")).await.unwrap();
        factum.execute(id, Deposit(10)).await.unwrap();
    }
    let mut racing = tokio::task::JoinSet::new();
    for n in 0..32 {
        let (from, to) = (ids[n % 4].clone(), ids[(n + 1 + n / 4 % 3) % 4].clone());
        let factum = factum.clone();
        racing.spawn(async move { factum.decide(Transfer { from, to, amount: 3 }).await });
    }
    for result in racing.join_all().await {
        assert!(matches!(result, Ok(_) | Err(Failure::Refused(Refusal::InsufficientFunds))), "{result:?}");
    }
    let mut total = 0;
    for id in &ids {
        let balance = factum.load(id).await.unwrap().state.balance;
        assert!(balance >= 0);
        total += balance;
    }
    assert_eq!(total, 40);
}

/// How many seats are taken: over streams, by tag.
struct Seats(&'static str, usize);

#[derive(Debug, Serialize, Deserialize)]
enum Enrolment {
    Enrolled { student: u32, course: String },
}

impl Event for Enrolment {
    const CATEGORY: &'static str = "student";

    fn tags(&self) -> Vec<String> {
        let Self::Enrolled { course, .. } = self;
        vec![format!("course:{course}")]
    }
}

#[derive(Default)]
struct Student;

impl Aggregate for Student {
    type Event = Enrolment;
    fn apply(&mut self, _: &Enrolment) {}
}

impl Model for Seats {
    type Event = Enrolment;

    fn query(&self) -> factum::Result<Query> {
        Ok(Criterion { tags: Tags::new([format!("course:{}", self.0)])?, ..Criterion::default() }.into())
    }

    fn apply(&mut self, _: &Recorded<Enrolment>) {
        self.1 += 1;
    }
}

struct Enrol(u32);

impl Decide for Enrol {
    type Models = (Seats,);
    type Error = Refusal;

    fn models(&self) -> (Seats,) {
        (Seats("math", 0),)
    }

    fn decide(&self, (seats,): &(Seats,)) -> Result<Writes, Refusal> {
        refuse_if(seats.1 >= 5, Refusal::InsufficientFunds)?;
        Ok(Writes::to(
            &Student::id(self.0.to_string()),
            [Enrolment::Enrolled { student: self.0, course: "math".into() }],
        ))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_limit_over_many_streams_holds_against_racing_decisions() {
    let factum = factum();
    let mut racing = tokio::task::JoinSet::new();
    for n in 0..16 {
        let factum = factum.clone();
        racing.spawn(async move { factum.decide(Enrol(n)).await.is_ok() });
    }
    assert_eq!(racing.join_all().await.iter().filter(|granted| **granted).count(), 5);
    assert_eq!(factum.store().read_to_end(Read::all()).await.unwrap().len(), 5);
}

#[test]
fn given_when_then() {
    use AccountEvent::{Deposited, Opened, Withdrawn};
    let opened = || Opened { owner: "Ada".into() };
    given([]).when(Open("Ada")).then([opened()]);
    given([opened(), Deposited { amount: 5 }]).when(Withdraw(5)).then([Withdrawn { amount: 5 }]);
    given([opened()]).when(Withdraw(1)).then_refused(Refusal::InsufficientFunds);
    given([opened()]).when(Deposit(0)).then_nothing();
    let (from, to) = (Account::id("1"), Account::id("2"));
    let transfer = || Transfer { from: from.clone(), to: to.clone(), amount: 3 };
    given_in(&from, [opened(), Deposited { amount: 3 }])
        .and_in(&to, [opened()])
        .deciding(transfer())
        .then_writes(Writes::to(&from, [Withdrawn { amount: 3 }]).and(&to, [Deposited { amount: 3 }]));
    given_in(&from, [opened(), Deposited { amount: 3 }]).deciding(transfer()).then_refused(Refusal::NotOpen);
}

#[test]
fn a_failing_expectation_shows_both_sides() {
    let message = |test: fn()| {
        let panic = std::panic::catch_unwind(test).unwrap_err();
        panic.downcast_ref::<String>().cloned().unwrap()
    };
    let opened = || AccountEvent::Opened { owner: "Ada".into() };
    let _ = opened;
    let other = message(|| given([]).when(Open("Ada")).then([AccountEvent::Closed]));
    assert!(
        other.contains("expected account-under-test: Closed")
            && other.contains("was      account-under-test: Opened"),
        "{other}"
    );
    let granted = message(|| given([]).when(Open("Ada")).then_refused(Refusal::NotOpen));
    assert!(granted.contains("granted"), "{granted}");
    let refused = message(|| given([]).when(Deposit(1)).then_nothing());
    assert!(refused.contains("refused") && refused.contains("NotOpen"), "{refused}");
    let nothing = message(|| {
        given([AccountEvent::Opened { owner: "Ada".into() }]).when(Deposit(0)).then([AccountEvent::Closed]);
    });
    assert!(nothing.contains("was      nothing"), "{nothing}");
}

#[tokio::test]
async fn bad_ids_and_foreign_events_are_refused_in_words() {
    let factum = factum();
    let error = factum.load(&Account::id("")).await.unwrap_err();
    assert_eq!(error.to_string(), "the id of a stream in `account`: it is empty");
    let stream = StreamName::new("account-1").unwrap();
    let foreign = factum::NewEvent::json("Exploded", &serde_json::json!({})).unwrap();
    factum.store().append(Append::to(stream, [foreign])).await.unwrap();
    let error = factum.execute(&Account::id("1"), Deposit(1)).await.unwrap_err().to_string();
    assert!(
        error.contains("`Exploded`, at position 1 in `account-1`") && error.contains("Opened, Deposited"),
        "{error}"
    );
}

/// A store whose answers get lost now and then, after the append has happened.
#[derive(Debug)]
struct Forgetful(MemoryStore, std::sync::atomic::AtomicU32);

#[async_trait::async_trait]
impl EventStore for Forgetful {
    async fn append(&self, append: Append) -> factum::Result<Appended> {
        let appended = self.0.append(append).await?;
        match self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 3 {
            2 => Ok(appended),
            _ => Err(Error::Unavailable { why: "the line is dead".into(), outcome: Outcome::Unknown }),
        }
    }
    async fn read(&self, read: Read) -> factum::Result<Page> {
        self.0.read(read).await
    }
    async fn head(&self) -> factum::Result<Head> {
        self.0.head().await
    }
    async fn stream_state(&self, stream: &StreamName) -> factum::Result<StreamState> {
        self.0.stream_state(stream).await
    }
    async fn changed(&self, position: Position) {
        self.0.changed(position).await;
    }
    fn limits(&self) -> Limits {
        self.0.limits()
    }
}

#[tokio::test]
async fn a_lost_answer_makes_nothing_happen_twice() {
    let factum = Factum::new(Forgetful(MemoryStore::new(), 0.into()));
    let id = Account::id("1");
    factum.execute(&id, Open("Ada")).await.unwrap();
    for _ in 0..5 {
        factum.execute(&id, Deposit(10)).await.unwrap();
    }
    assert_eq!(factum.load(&id).await.unwrap().state.balance, 50);
}
