//! Commands and decisions: what is recorded, under races, lost answers and meddling.

use std::sync::Arc;

use factum::{
    Append, Error, EventStoreExt, ManualClock, MemoryStore, NewEvent, Outcome, Read, Retention, StreamName,
    codec, prelude::*, stream::LifeChange,
};

use crate::support::*;

async fn recorded(factum: &Factum) -> usize {
    factum.store().read_to_end(Read::all()).await.unwrap().len()
}

#[tokio::test]
async fn a_command_records_what_it_decides_and_who_and_why() {
    let factum = Factum::new(MemoryStore::new());
    let account = Account::id("1");
    let done = factum.acting_as("ada").execute(&account, Open { cents: 100 }).await.unwrap();
    assert_eq!((done.events.len(), done.attempts), (1, 1));
    let [opened] = &factum.history(&account).await.unwrap()[..] else { panic!("one event") };
    assert_eq!((&opened.event, &*opened.record.stream), (&Opened { cents: 100 }, "account-1"));
    let metadata = &opened.record.metadata;
    assert_eq!(metadata.actor().as_deref(), Some("ada"));
    assert_eq!(metadata.correlation_id().as_ref(), Some(&done.correlation_id));
    assert_eq!(metadata.causation_id(), None);

    let next = factum.caused_by(&opened.record).execute(&account, Deposit { cents: 1 }).await.unwrap();
    assert_eq!(next.correlation_id, done.correlation_id, "in the same flow");
    let metadata = &factum.history(&account).await.unwrap()[1].record.metadata;
    assert_eq!((metadata.causation_id(), metadata.actor()), (Some(opened.record.id.to_string()), None));

    let third = factum.execute(&account, Deposit { cents: 1 }).await.unwrap();
    assert_ne!(third.correlation_id, done.correlation_id, "each command begins its own flow");
    assert_eq!(
        factum.correlated("flow-7").execute(&account, Deposit { cents: 1 }).await.unwrap().correlation_id,
        "flow-7"
    );
}

#[tokio::test]
async fn a_refusal_and_nothing_to_do_record_nothing() {
    let factum = Factum::new(MemoryStore::new());
    let account = Account::id("1");
    let refused = factum.execute(&account, Withdraw { cents: 1 }).await.unwrap_err();
    assert_eq!((refused.refusal(), refused.to_string()), (Some(&Refusal::NotOpen), "NotOpen".to_owned()));
    assert_eq!(recorded(&factum).await, 0);
    let opened = factum.execute(&account, Open { cents: 5 }).await.unwrap();
    let again = factum.execute(&account, Open { cents: 5 }).await.unwrap();
    assert_eq!((again.events.len(), again.token), (0, opened.token));
    assert_eq!(recorded(&factum).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn racing_commands_on_one_account_lose_nothing() {
    let factum = Factum::new(Meddled::default());
    let account = Account::id("1");
    factum.execute(&account, Open { cents: 200 }).await.unwrap();
    let tasks = (0..32).map(|_| {
        let (factum, account) = (factum.clone(), account.clone());
        tokio::spawn(async move {
            let (mut taken, mut attempts) = (0, 0);
            for _ in 0..10 {
                match factum.execute(&account, Withdraw { cents: 1 }).await {
                    Ok(done) => (taken, attempts) = (taken + 1, attempts + done.attempts),
                    Err(Failure::Refused(Refusal::InsufficientFunds)) => {}
                    Err(other) => panic!("{other}"),
                }
            }
            (taken, attempts)
        })
    });
    let (mut taken, mut attempts) = (0, 0);
    for task in tasks.collect::<Vec<_>>() {
        let (took, tried) = task.await.unwrap();
        (taken, attempts) = (taken + took, attempts + tried);
    }
    assert_eq!(taken, 200, "320 wishes, money for 200");
    assert!(attempts > 200, "they did clash");
    assert_eq!(factum.load(&account).await.unwrap().state.cents, 0);
    assert_eq!(factum.history(&account).await.unwrap().len(), 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn racing_decisions_over_two_streams_conserve_money() {
    let mut random = seeded();
    let factum = Factum::new(Meddled::default());
    let accounts: Vec<_> = (0..3).map(|n| Account::id(n.to_string())).collect();
    for account in &accounts {
        factum.execute(account, Open { cents: 20 }).await.unwrap();
    }
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let (factum, accounts, mut random) = (factum.clone(), accounts.clone(), random.fork());
            tokio::spawn(async move {
                for _ in 0..10 {
                    let from = random.usize(0..3);
                    let to = (from + random.usize(1..3)) % 3;
                    let (from, to) = (accounts[from].clone(), accounts[to].clone());
                    match factum.decide(Transfer { from, to, cents: random.i64(1..15) }).await {
                        Ok(_) | Err(Failure::Refused(Refusal::InsufficientFunds)) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let mut total = 0;
    for account in &accounts {
        let mut state = Account::default();
        for event in factum.history(account).await.unwrap() {
            state.apply(&event.event);
            assert!(state.cents >= 0, "never overdrawn, at any revision");
        }
        total += state.cents;
    }
    assert_eq!(total, 60);
}

#[tokio::test]
async fn a_lost_answer_is_not_a_second_withdrawal() {
    for faults in [&[Fault::After][..], &[Fault::Before], &[Fault::After, Fault::After, Fault::Before]] {
        let store = Meddled::default();
        let factum = Factum::new(store.clone());
        let account = Account::id("1");
        factum.execute(&account, Open { cents: 10 }).await.unwrap();
        store.append_faults.lock().unwrap().extend(faults);
        let done = factum.execute(&account, Withdraw { cents: 1 }).await.unwrap();
        assert_eq!(done.events.len(), 1, "{faults:?}");
        assert_eq!(factum.load(&account).await.unwrap().state.cents, 9, "{faults:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_later_no_does_not_settle_what_became_of_a_lost_answer() {
    use Fault::{After, Before, Fenced, Never};
    let cases = [
        (vec![After, Never, Never, Never], Outcome::Unknown, 9),
        (vec![Never, After, Fenced], Outcome::Unknown, 9),
        (vec![Before, Never, Never, Never], Outcome::Unknown, 10),
        (vec![Never; 4], Outcome::No, 10),
        (vec![Never, Fenced], Outcome::No, 10),
    ];
    for (faults, outcome, left) in cases {
        let store = Meddled::default();
        let factum = Factum::new(store.clone());
        let account = Account::id("1");
        let _ = factum.execute(&account, Open { cents: 10 }).await.unwrap();
        store.append_faults.lock().unwrap().extend(&faults);
        let Err(Failure::Store(error)) = factum.execute(&account, Withdraw { cents: 1 }).await else {
            panic!("{faults:?}: it must fail")
        };
        assert_eq!(error.outcome(), outcome, "{faults:?}: {error}");
        assert_eq!(error.to_string().contains("the log is owned by another"), faults.contains(&Fenced));
        assert_eq!(factum.load(&account).await.unwrap().state.cents, left, "{faults:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn trying_again_has_an_end() {
    let store = Meddled::default();
    let factum = Factum::new(store.clone());
    let account = Account::id("1");
    factum.execute(&account, Open { cents: 10 }).await.unwrap();
    let stream = account.stream().unwrap();
    let intruder = || Append::to(stream.clone(), [codec::encode(&Deposited { cents: 1 }).unwrap()]);
    store.after_read.lock().unwrap().extend((0..1000).map(|_| intruder()));
    let failure = factum.execute(&account, Withdraw { cents: 1 }).await.unwrap_err();
    assert!(matches!(&failure, Failure::Store(error) if error.is_conflict()), "{failure}");
    assert!(failure.to_string().contains("stream `account-1` was expected at revision"), "{failure}");
    assert!(store.after_read.lock().unwrap().len() > 800);

    store.after_read.lock().unwrap().clear();
    store.append_faults.lock().unwrap().extend([Fault::Before; 1000]);
    let failure = factum.execute(&account, Withdraw { cents: 1 }).await.unwrap_err();
    assert!(matches!(&failure, Failure::Store(Error::Unavailable { .. })), "{failure}");
    assert!(store.append_faults.lock().unwrap().len() > 900);
}

/// Takes from one account as long as both together have enough.
struct TakeFromBoth {
    a: Id<Account>,
    b: Id<Account>,
    at_least: i64,
}

impl Decide for TakeFromBoth {
    type Models = Vec<Entity<Account>>;
    type Error = Refusal;

    fn models(&self) -> Self::Models {
        vec![Entity::of(&self.a), Entity::of(&self.b)]
    }

    fn decide(&self, accounts: &Self::Models) -> Result<Writes, Refusal> {
        let sum: i64 = accounts.iter().map(|account| account.state.cents).sum();
        refuse_if(sum < self.at_least, Refusal::InsufficientFunds)?;
        Ok(Writes::to(&self.a, [Withdrawn { cents: 1 }]))
    }
}

async fn two_accounts() -> (Meddled, Factum, Id<Account>, Id<Account>) {
    let store = Meddled::default();
    let factum = Factum::new(store.clone());
    let (a, b) = (Account::id("a"), Account::id("b"));
    factum.execute(&a, Open { cents: 10 }).await.unwrap();
    factum.execute(&b, Open { cents: 10 }).await.unwrap();
    (store, factum, a, b)
}

#[tokio::test]
async fn a_model_that_is_only_read_is_guarded_too() {
    let (store, factum, a, b) = two_accounts().await;
    let drained = Append::to(b.stream().unwrap(), [codec::encode(&Withdrawn { cents: 10 }).unwrap()]);
    // After both have been read: between decision and append.
    store.after_read.lock().unwrap().extend([guards_only(&a), drained]);
    let failure = factum.decide(TakeFromBoth { a: a.clone(), b, at_least: 20 }).await.unwrap_err();
    assert_eq!(failure, Failure::Refused(Refusal::InsufficientFunds));
    assert_eq!(factum.load(&a).await.unwrap().state.cents, 10);
}

/// Somebody else who changes nothing.
fn guards_only(id: &Id<Account>) -> Append {
    Append::new().expect(id.stream().unwrap(), factum::ExpectedRevision::Any)
}

#[tokio::test]
async fn a_refusal_rests_on_a_state_that_there_was() {
    let (store, factum, a, b) = two_accounts().await;
    // While the first is read already and the second is not, money moves from the second to the first.
    let moved = Append::to(b.stream().unwrap(), [codec::encode(&Withdrawn { cents: 10 }).unwrap()])
        .write(a.stream().unwrap(), [codec::encode(&Deposited { cents: 10 }).unwrap()]);
    store.after_read.lock().unwrap().push_back(moved);
    let done = factum.decide(TakeFromBoth { a: a.clone(), b, at_least: 20 }).await.unwrap();
    assert_eq!(done.attempts, 2, "10 + 0 was never the sum");
    assert_eq!(factum.load(&a).await.unwrap().state.cents, 19);
}

/// Nobody else has registered this address: a decision over the whole log, by tag.
struct Register {
    user: String,
    email: String,
}

#[derive(Serialize, Deserialize)]
enum UserEvent {
    Registered { email: String },
}

impl Event for UserEvent {
    const CATEGORY: &'static str = "user";

    fn tags(&self) -> Vec<String> {
        let Self::Registered { email } = self;
        vec![format!("email:{email}")]
    }
}

struct Taken {
    email: String,
    taken: bool,
}

impl Model for Taken {
    type Event = UserEvent;

    fn query(&self) -> factum::Result<Query> {
        Query::tags([format!("email:{}", self.email)])
    }

    fn apply(&mut self, _: &Recorded<UserEvent>) {
        self.taken = true;
    }
}

impl Decide for Register {
    type Models = Taken;
    type Error = Refusal;

    fn models(&self) -> Taken {
        Taken { email: self.email.clone(), taken: false }
    }

    fn decide(&self, email: &Taken) -> Result<Writes, Refusal> {
        refuse_if(email.taken, Refusal::NotOpen)?;
        let stream = format!("user-{}", self.user);
        Ok(Writes::to_stream(stream, [UserEvent::Registered { email: self.email.clone() }]))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_address_is_registered_once() {
    let factum = Factum::new(Meddled::default());
    let tasks: Vec<_> = (0..32)
        .map(|n| {
            let factum = factum.clone();
            let register = Register { user: n.to_string(), email: format!("{}@example.org", n % 4) };
            tokio::spawn(async move { factum.decide(register).await.is_ok() })
        })
        .collect();
    let mut registered = 0;
    for task in tasks {
        registered += usize::from(task.await.unwrap());
    }
    assert_eq!((registered, recorded(&factum).await), (4, 4));
}

#[tokio::test]
async fn an_earlier_moment() {
    let clock = Arc::new(ManualClock::at(Timestamp(1_000_000)));
    let factum = Factum::new(MemoryStore::with(factum::Limits::default(), clock.clone()));
    let account = Account::id("1");
    let mut places = Vec::new();
    factum.execute(&account, Open { cents: 0 }).await.unwrap();
    for second in 1..=5 {
        clock.set(Timestamp(second * 10_000_000));
        places.push(factum.execute(&account, Deposit { cents: 1 }).await.unwrap().events[0]);
    }
    for (n, place) in (1..).zip(&places) {
        let by_revision = factum.load_at(&account, place.revision).await.unwrap();
        let by_position = factum.load_at(&account, place.position).await.unwrap();
        let by_time = factum.load_at(&account, Timestamp(n * 10_000_000 + 5)).await.unwrap();
        assert_eq!((by_revision.state.cents, by_revision.revision), (n, Some(Revision(n as u64))));
        assert_eq!((&by_position, &by_time), (&by_revision, &by_revision));
    }
    let before = factum.load_at(&account, Timestamp(0)).await.unwrap();
    assert_eq!((before.exists(), before.state), (false, Account::default()));
    assert_eq!(factum.load_at(&account, Revision(99)).await.unwrap(), factum.load(&account).await.unwrap());
}

#[tokio::test]
async fn a_long_history_is_read_in_pages() {
    let factum = Factum::new(MemoryStore::new());
    let account = Account::id("1");
    factum.execute(&account, Open { cents: 0 }).await.unwrap();
    for _ in 0..3 {
        let events = (0..1000).map(|_| codec::encode(&Deposited { cents: 1 }).unwrap());
        factum.store().append(Append::to(account.stream().unwrap(), events)).await.unwrap();
    }
    assert_eq!(factum.load(&account).await.unwrap().state.cents, 3000);
    assert_eq!(factum.load_at(&account, Revision(1500)).await.unwrap().state.cents, 1500);
    factum.execute(&account, Withdraw { cents: 3000 }).await.unwrap();
}

#[tokio::test]
async fn hidden_and_deleted_streams_can_be_written_again() {
    let factum = Factum::new(MemoryStore::new());
    let (account, any) = (Account::id("1"), factum::ExpectedRevision::Any);
    let stream = account.stream().unwrap();
    factum.execute(&account, Open { cents: 5 }).await.unwrap();
    let hide_all = Retention { max_count: Some(0), ..Retention::default() };
    factum.store().set_retention(&stream, any, hide_all).await.unwrap();
    assert!(!factum.load(&account).await.unwrap().state.open);
    factum.store().set_retention(&stream, any, Retention::default()).await.unwrap();
    let done = factum.execute(&account, Open { cents: 6 }).await.unwrap();
    assert_eq!(done.events[0].revision, Revision(1));
    factum.store().delete(&stream, any).await.unwrap();
    let done = factum.execute(&account, Open { cents: 7 }).await.unwrap();
    assert_eq!((done.events[0].revision, done.attempts), (Revision(2), 1));
    factum.store().tombstone(&stream, any).await.unwrap();
    let failure = factum.execute(&account, Open { cents: 8 }).await.unwrap_err();
    assert!(matches!(failure, Failure::Store(Error::Tombstoned { .. })), "{failure}");
}

#[tokio::test]
async fn what_was_deleted_since_it_was_read_is_not_revived() {
    let (store, factum, a, b) = two_accounts().await;
    let delete = |id: &Id<Account>| {
        let stream = id.stream().unwrap().metadata_stream().unwrap();
        Append::to(stream, [LifeChange::Deleted.to_event().unwrap()])
    };
    store.after_read.lock().unwrap().push_back(delete(&a));
    let failure = factum.execute(&a, Withdraw { cents: 1 }).await.unwrap_err();
    assert_eq!(failure, Failure::Refused(Refusal::NotOpen), "it is decided anew, on what there is");
    assert!(!factum.load(&a).await.unwrap().exists());
    // One that is only read counts as well.
    let _ = factum.execute(&a, Open { cents: 10 }).await.unwrap();
    store.after_read.lock().unwrap().extend([guards_only(&a), delete(&b)]);
    let both = TakeFromBoth { a: a.clone(), b: b.clone(), at_least: 20 };
    assert_eq!(factum.decide(both).await.unwrap_err(), Failure::Refused(Refusal::InsufficientFunds));
    // One that was deleted already, and that somebody else revives.
    let opened = Append::to(b.stream().unwrap(), [codec::encode(&Opened { cents: 3 }).unwrap()]);
    store.after_read.lock().unwrap().push_back(opened);
    let done = factum.execute(&b, Open { cents: 7 }).await.unwrap();
    assert_eq!((done.attempts, done.events.len(), factum.load(&b).await.unwrap().state.cents), (2, 0, 3));
}

#[tokio::test]
async fn bad_names_and_foreign_events_are_errors_with_a_reason() {
    let factum = Factum::new(MemoryStore::new());
    for (id, reason) in
        [("", "it is empty"), ("a\nb", "control character"), (&*"x".repeat(600), "more than the 512")]
    {
        let failure = factum.execute(&Account::id(id), Open { cents: 1 }).await.unwrap_err();
        assert!(failure.to_string().contains(reason), "{failure}");
        assert!(factum.load(&Account::id(id)).await.is_err());
    }
    let stream = StreamName::new("account-7").unwrap();
    factum.store().append(Append::to(stream, [NewEvent::json_text("Alien", "{}").unwrap()])).await.unwrap();
    let failure = factum.execute(&Account::id("7"), Open { cents: 1 }).await.unwrap_err().to_string();
    assert!(failure.contains("`Alien` at position 1 (revision 0 of `account-7`)"), "{failure}");
}
