//! Commands with an id, under lost answers and meddling; the suite in `factum-conformance` has the rest. And the bound of attempts.

use factum::{Append, Error, EventStoreExt, MemoryStore, Outcome, Read, codec, prelude::*};

use crate::support::*;

#[derive(Serialize)]
struct Pay {
    cents: i64,
    /// Differs each time that it is sent.
    #[serde(skip)]
    #[allow(dead_code, reason = "it is there to be left out")]
    sent_at: i64,
}

impl Command<Account> for Pay {
    type Error = Refusal;

    fn decide(&self, account: &Account) -> Result<Vec<AccountEvent>, Refusal> {
        Withdraw { cents: self.cents }.decide(account)
    }
}

fn pay(cents: i64) -> Pay {
    Pay { cents, sent_at: fastrand::i64(..) }
}

async fn opened(cents: i64) -> (Meddled, Factum, Id<Account>) {
    let store = Meddled::default();
    let (factum, account) = (Factum::new(store.clone()), Account::id("1"));
    factum.execute(&account, Open { cents }).await.unwrap();
    (store, factum, account)
}

/// Opens an account that each sending has thought of another id for.
#[derive(Serialize)]
struct OpenNew {
    #[serde(skip)]
    account: Id<Account>,
}

impl Decide for OpenNew {
    type Models = ();
    type Error = Refusal;

    fn models(&self) {}

    fn decide(&self, (): &()) -> Result<Writes, Refusal> {
        Ok(Writes::to(&self.account, [Opened { cents: 0 }]))
    }
}

/// What another process records when it does the same command.
async fn same_by_another(cents: i64) -> Append {
    let (store, factum, account) = opened(cents).await;
    factum.identified("k").execute(&account, pay(cents)).await.unwrap();
    let recorded =
        store.inner.read_to_end(Read::stream(account.stream().unwrap())).await.unwrap().pop().unwrap();
    let event = codec::encode(&Withdrawn { cents }).unwrap().with_id(recorded.id);
    Append::to(recorded.stream, [event.with_metadata(recorded.metadata).with_tags(recorded.tags)])
}

#[tokio::test(start_paused = true)]
async fn after_an_unknown_outcome_the_same_id_settles_it() {
    for (fault, repeated) in [(Fault::After, true), (Fault::Before, false)] {
        let (store, factum, account) = opened(10).await;
        let mut faults = vec![Fault::Before; 4];
        faults[0] = fault;
        store.append_faults.lock().unwrap().extend(faults);
        let k = factum.identified("k");
        let Err(Failure::Store(error)) = k.execute(&account, pay(10)).await else { panic!("{fault:?}") };
        assert_eq!(error.outcome(), Outcome::Unknown);
        let done = k.execute(&account, pay(10)).await.unwrap();
        assert_eq!((done.repeated, done.events.len()), (repeated, 1), "{fault:?}");
        assert_eq!(factum.load(&account).await.unwrap().state.cents, 0, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_within_one_call_is_no_repetition() {
    let (store, factum, account) = opened(10).await;
    store.append_faults.lock().unwrap().push_back(Fault::After);
    let done = factum.identified("k").execute(&account, pay(10)).await.unwrap();
    assert_eq!((done.repeated, done.events.len(), done.attempts), (false, 1, 1));
}

/// Wherever another process does the same command while this one is at it, it is found, and not taken for a refusal.
#[tokio::test]
async fn the_same_command_done_meanwhile_is_found() {
    // After the account has been read; after the id has been looked up.
    for (reads_before, attempts) in [(0, 0), (1, 1)] {
        let (store, factum, account) = opened(10).await;
        let nothing = || Append::new().expect(account.stream().unwrap(), factum::ExpectedRevision::Any);
        let meddling = (0..reads_before).map(|_| nothing());
        store.after_read.lock().unwrap().extend(meddling);
        let same = same_by_another(10).await;
        store.after_read.lock().unwrap().push_back(same);
        let done = factum.identified("k").execute(&account, pay(10)).await.unwrap();
        assert_eq!((done.repeated, done.events.len(), done.attempts), (true, 1, attempts));
        assert_eq!(factum.load(&account).await.unwrap().state.cents, 0);
    }
}

/// Nothing but the look-up and its guard can know: the two write to different streams.
#[tokio::test]
async fn the_same_command_done_elsewhere_meanwhile_is_found() {
    let open = |id: &str| OpenNew { account: Account::id(id) };
    let another = Meddled::default();
    Factum::new(another.clone()).identified("k").decide(open("theirs")).await.unwrap();
    let theirs = another.inner.read_to_end(Read::all()).await.unwrap().remove(0);
    let event = codec::encode(&Opened { cents: 0 }).unwrap().with_id(theirs.id);
    let event = event.with_metadata(theirs.metadata).with_tags(theirs.tags);
    // Also if it is decided but once.
    for attempts in [64, 1] {
        let store = Meddled::default();
        store.after_read.lock().unwrap().push_back(Append::to(theirs.stream.clone(), [event.clone()]));
        let factum = Factum::new(store.clone()).with_attempts(attempts);
        let done = factum.identified("k").decide(open("ours")).await.unwrap();
        assert_eq!((done.repeated, done.attempts, done.events.len()), (true, 1, 1));
        assert_eq!(store.inner.read_to_end(Read::all()).await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn events_that_only_look_like_those_of_a_command_are_told_from_it() {
    let factum = Factum::new(MemoryStore::new());
    let account = Account::id("1");
    let tags = factum::Tags::new([factum::idempotency::command_tag("k")]).unwrap();
    let opened = codec::encode(&Opened { cents: 1 }).unwrap().with_tags(tags);
    factum.store().append(Append::to(account.stream().unwrap(), [opened])).await.unwrap();
    let answer = factum.identified("k").execute(&account, pay(1)).await;
    let Err(Failure::Store(error)) = answer else { panic!("{answer:?}") };
    assert_eq!(
        error.to_string(),
        "the command id `k`: something else had it before (at position 1); give this `Pay` an id of its own"
    );
}

#[tokio::test(start_paused = true)]
async fn attempts_are_bounded_as_the_handle_says() {
    let (store, factum, account) = opened(10).await;
    let intruder =
        || Append::to(account.stream().unwrap(), [codec::encode(&Deposited { cents: 1 }).unwrap()]);
    for (bound, decided) in [(0, 1), (1, 1), (3, 3)] {
        store.after_read.lock().unwrap().extend((0..100).map(|_| intruder()));
        let answer = factum.with_attempts(bound).execute(&account, Withdraw { cents: 1 }).await;
        assert!(matches!(&answer, Err(Failure::Store(Error::Conflict(_)))), "{answer:?}");
        let left: Vec<_> = store.after_read.lock().unwrap().drain(..).collect();
        assert_eq!(left.len(), 100 - decided, "{bound}");
    }
    store.after_read.lock().unwrap().extend((0..4).map(|_| intruder()));
    let done = factum.with_attempts(5).execute(&account, Withdraw { cents: 1 }).await.unwrap();
    assert_eq!(done.attempts, 5);
}

/// Somebody else's answer is not one's own: who has sent nothing that can have happened has not done it.
#[tokio::test(start_paused = true)]
async fn what_others_did_while_the_store_was_away_is_repeated() {
    let (another, theirs, account) = opened(10).await;
    theirs.correlated("flow").identified("k").execute(&account, pay(10)).await.unwrap();
    let recorded =
        another.inner.read_to_end(Read::stream(account.stream().unwrap())).await.unwrap().pop().unwrap();
    let event = codec::encode(&Withdrawn { cents: 10 }).unwrap().with_id(recorded.id);
    let event = event.with_metadata(recorded.metadata).with_tags(recorded.tags);
    for (fault, repeated) in [(Fault::Never, true), (Fault::Before, false)] {
        let (store, factum, account) = opened(10).await;
        let nothing = Append::new().expect(account.stream().unwrap(), factum::ExpectedRevision::Any);
        store
            .after_read
            .lock()
            .unwrap()
            .extend([nothing, Append::to(recorded.stream.clone(), [event.clone()])]);
        store.append_faults.lock().unwrap().push_back(fault);
        let done = factum.correlated("flow").identified("k").execute(&account, pay(10)).await.unwrap();
        // Where an answer was lost, nobody can tell whose it is.
        assert_eq!((done.repeated, done.events.len(), done.attempts), (repeated, 1, 1), "{fault:?}");
    }
}

/// With an id of the command in a parameter, or in a module of the same name, or local to a function.
#[tokio::test]
async fn commands_are_told_apart_by_all_of_their_type() {
    #[derive(Serialize)]
    struct Set<T> {
        cents: i64,
        #[serde(skip)]
        of: std::marker::PhantomData<T>,
    }
    impl<T: Send + Sync> Command<Account> for Set<T> {
        type Error = Refusal;
        fn decide(&self, _: &Account) -> Result<Vec<AccountEvent>, Refusal> {
            Ok(vec![Deposited { cents: self.cents }])
        }
    }
    mod other {
        #[derive(super::Serialize)]
        pub(super) struct Pay {
            pub(super) cents: i64,
        }
        pub(super) struct Email;
    }
    impl Command<Account> for other::Pay {
        type Error = Refusal;
        fn decide(&self, _: &Account) -> Result<Vec<AccountEvent>, Refusal> {
            Ok(vec![Deposited { cents: self.cents }])
        }
    }
    struct Email;
    fn set<T>() -> Set<T> {
        Set { cents: 1, of: std::marker::PhantomData }
    }
    let (_, factum, account) = opened(10).await;
    let (k, l) = (factum.identified("k"), factum.identified("l"));
    assert!(!k.execute(&account, set::<Email>()).await.unwrap().repeated);
    assert!(k.execute(&account, set::<Email>()).await.unwrap().repeated);
    assert!(!l.execute(&account, pay(1)).await.unwrap().repeated);
    let all = [
        k.execute(&account, set::<other::Email>()).await,
        k.execute(&account, set::<u8>()).await,
        l.execute(&account, other::Pay { cents: 1 }).await,
    ];
    let shown = all.map(|answer| answer.unwrap_err().to_string());
    assert_eq!(
        shown[0],
        "the command id `k`: another `Set<Email>` had it before (at position 2); give this `Set<Email>` an id of its own"
    );
    assert_eq!(
        shown[1],
        "the command id `k`: `Set<Email>` had it before (at position 2); give this `Set<u8>` an id of its own"
    );
    assert_eq!(
        shown[2],
        "the command id `l`: another `Pay` had it before (at position 4); give this `Pay` an id of its own"
    );
    assert_eq!(factum.load(&account).await.unwrap().state.cents, 10);
}
