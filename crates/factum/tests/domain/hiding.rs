//! Events that are hidden while they are read, and streams of which all is hidden: what was never there is not decided on.

use factum::{
    Append, At, EventStore, EventStoreExt, ExpectedRevision, Guard, MemoryStore, Query, Read, Recorded,
    Retention, Revision, StreamName, codec,
    decision::{Model, Seen},
    prelude::*,
    stream::LifeChange,
};

use crate::support::*;

fn stream() -> StreamName {
    Account::id("1").stream().unwrap()
}

fn life(change: &LifeChange) -> Append {
    Append::to(stream().metadata_stream().unwrap(), [change.to_event().unwrap()])
}

fn hide_before(revision: u64) -> Append {
    let truncate_before = Some(Revision(revision));
    life(&LifeChange::Retention(Retention { truncate_before, ..Retention::default() }))
}

/// An account with an `Opened` and deposits of a cent, two thousand events in all, of which a read finds a thousand.
async fn two_pages() -> (Meddled, Factum) {
    let store = Meddled::default();
    let events = (0..2_000).map(|n| {
        let event = if n == 0 { Opened { cents: 0 } } else { Deposited { cents: 1 } };
        codec::encode(&event).unwrap()
    });
    store.inner.append(Append::to(stream(), events)).await.unwrap();
    (store.clone(), Factum::new(store))
}

fn after_each_read(store: &Meddled, appends: impl IntoIterator<Item = Append>) {
    store.after_read.lock().unwrap().extend(appends);
}

/// What it saw is refused.
#[derive(Debug)]
struct Look;

impl Command<Account> for Look {
    type Error = Found;

    fn decide(&self, account: &Account) -> Result<Vec<AccountEvent>, Found> {
        Err(Found(account.clone()))
    }
}

#[derive(Debug, PartialEq)]
struct Found(Account);

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl std::error::Error for Found {}

#[tokio::test]
async fn a_stream_that_is_hidden_between_two_pages_is_read_again() {
    let rest = Account { open: false, cents: 500 };
    let all = (hide_before(2_000), Account::default());
    let gone = (life(&LifeChange::Deleted), Account::default());
    for (change, left) in [(hide_before(1_500), rest), all, gone] {
        let read = |store: &Meddled| after_each_read(store, [change.clone()]);
        let (store, factum) = two_pages().await;
        read(&store);
        let refused = factum.execute(&Account::id("1"), Look).await.unwrap_err();
        assert_eq!(refused.refusal(), Some(&Found(left.clone())));

        let (store, factum) = two_pages().await;
        read(&store);
        assert_eq!(factum.load(&Account::id("1")).await.unwrap().state, left);

        let (store, factum) = two_pages().await;
        read(&store);
        let before = factum.load_at(&Account::id("1"), Revision(1_700)).await.unwrap();
        assert_eq!(before.state.cents, left.cents.min(201));

        let (store, factum) = two_pages().await;
        read(&store);
        let history = factum.history(&Account::id("1")).await.unwrap();
        let first = if left.cents > 0 { 1_500 } else { 2_000 };
        assert_eq!(
            history.iter().map(|e| e.record.revision.0).collect::<Vec<_>>(),
            (first..2_000).collect::<Vec<_>>()
        );
    }
}

/// What has been read already may be hidden: that is how things were when the reading began.
#[tokio::test]
async fn hiding_what_was_read_tears_nothing() {
    let (store, factum) = two_pages().await;
    after_each_read(&store, [hide_before(1_000)]);
    let account = factum.load(&Account::id("1")).await.unwrap();
    assert_eq!(account.revision, Some(Revision(1_999)));
    assert_eq!(store.after_read.lock().unwrap().len(), 0);
    // A stream that begins later is whole, and so are events that come while it is read; backwards it ends earlier.
    after_each_read(&store, [Append::to(stream(), [codec::encode(&Deposited { cents: 1 }).unwrap()])]);
    assert_eq!(factum.load(&Account::id("1")).await.unwrap().revision, Some(Revision(1_999)));
    after_each_read(&store, [hide_before(1_500)]);
    let back = Read::stream(stream()).limit(300).backwards();
    assert_eq!(store.read_to_end(back).await.unwrap().len(), 501);
}

#[tokio::test]
async fn who_hides_more_each_time_is_reported() {
    let (store, factum) = two_pages().await;
    // Each reading begins anew with 1,000 events, of which the last is followed by a gap.
    store
        .inner
        .append(Append::to(stream(), (0..9_000).map(|_| codec::encode(&Deposited { cents: 1 }).unwrap())))
        .await
        .unwrap();
    let nothing = Append::new().expect(stream(), ExpectedRevision::Any);
    let gaps = (1..=8).flat_map(|n| [hide_before(n * 1_200), nothing.clone()]);
    after_each_read(&store, gaps);
    let error = factum.load(&Account::id("1")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the store is not available: events of stream `account-1` were hidden while it was read, each of 8 times; read it again"
    );
    assert!(error.is_retryable());
    assert_eq!(factum.load(&Account::id("1")).await.unwrap().revision, Some(Revision(10_999)));
}

#[tokio::test]
async fn an_aggregate_of_which_all_is_hidden_is_unchanged_until_it_changes() {
    let factum = Factum::new(MemoryStore::new());
    let id = Account::id("1");
    factum.execute(&id, Open { cents: 1 }).await.unwrap();
    factum.store().append(hide_before(1)).await.unwrap();
    let account = factum.load(&id).await.unwrap();
    assert_eq!((account.exists(), account.state.open), (false, false));
    factum.require_unchanged(&account).await.unwrap();
    factum.require_unchanged(&factum.load_at(&id, At::NOW).await.unwrap()).await.unwrap();
    // Before its first event it was not there, and that is no longer so.
    let before = factum.load_at(&id, Position(0)).await.unwrap();
    assert!(factum.require_unchanged(&before).await.unwrap_err().is_conflict());
    factum.execute(&id, Open { cents: 1 }).await.unwrap();
    assert!(factum.require_unchanged(&account).await.unwrap_err().is_conflict());
    let account = factum.load(&id).await.unwrap();
    factum.store().append(life(&LifeChange::Deleted)).await.unwrap();
    assert!(factum.require_unchanged(&account).await.unwrap_err().is_conflict());
}

/// Cares for nothing that comes.
struct Careless;

impl Model for Careless {
    type Event = AccountEvent;

    fn query(&self) -> factum::Result<Query> {
        Ok(Query::category("account"))
    }

    fn apply(&mut self, _: &Recorded<AccountEvent>) {}

    fn guards(&self, _: &Seen) -> factum::Result<Vec<Guard>> {
        Ok(Vec::new())
    }
}

struct Refuse;

impl Decide for Refuse {
    type Models = (Careless, Careless);
    type Error = Refusal;

    fn models(&self) -> Self::Models {
        (Careless, Careless)
    }

    fn decide(&self, _: &Self::Models) -> Result<Writes, Refusal> {
        Err(Refusal::NotOpen)
    }
}

#[tokio::test]
async fn models_without_guards_can_be_refused() {
    let (store, factum) = two_pages().await;
    after_each_read(&store, (0..4).map(|_| hide_before(1)));
    let failure = factum.decide(Refuse).await.unwrap_err();
    assert_eq!(failure, Failure::Refused(Refusal::NotOpen));
}

/// Deposits that mean nothing any more.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum LifeEvent {
    Opened {},
}

impl Event for LifeEvent {
    const CATEGORY: &'static str = "account";
    fn evolution() -> Evolution<Self> {
        Evolution::new().drop("Deposited")
    }
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct Opening(u32);

impl Aggregate for Opening {
    type Event = LifeEvent;
    fn apply(&mut self, _: &LifeEvent) {
        self.0 += 1;
    }
}

#[tokio::test]
async fn the_revision_is_that_of_the_last_record_on_every_axis() {
    let (_, factum) = two_pages().await;
    let id = Opening::id("1");
    let now = factum.load(&id).await.unwrap();
    assert_eq!(now.revision, Some(Revision(1_999)));
    let changes = factum.difference(&id, Revision(3), At::NOW).await.unwrap();
    assert_eq!(changes.after, now);
    assert_eq!(changes.before, factum.load_at(&id, Revision(3)).await.unwrap());
    assert_eq!(changes.before.revision, Some(Revision(3)));
    let today = factum.load_at(&id, At::Business(factum.now())).await.unwrap();
    assert_eq!(today, now);
    factum.require_unchanged(&today).await.unwrap();
}
