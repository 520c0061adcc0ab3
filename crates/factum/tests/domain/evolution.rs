//! Events that have changed their shape over the years.

use factum::{
    Append, EventStore, EventStoreExt, MemoryReads, MemoryStore, NewEvent, Read, StreamName, codec,
    prelude::*,
};

/// How an account was written down in its first, second and third year; nobody has changed what lies in the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum AccountEvent {
    Opened { owner: String },
    Deposited { cents: i64, currency: String },
    Withdrawn { cents: i64, currency: String },
    Noted { text: String, by: String },
}

#[derive(Serialize, Deserialize)]
struct DepositedV1 {
    euros: i64,
}

#[derive(Serialize, Deserialize)]
struct DepositedV2 {
    cents: i64,
}

#[derive(Serialize)]
struct DepositedV3 {
    cents: i64,
    currency: &'static str,
}

#[derive(Deserialize)]
struct Moved {
    in_cents: i64,
    out_cents: i64,
}

#[derive(Deserialize)]
struct Text {
    text: String,
}

#[derive(Serialize)]
struct Note {
    text: String,
    by: String,
}

impl Event for AccountEvent {
    const CATEGORY: &'static str = "account";
    const VERSIONS: &'static [(&'static str, u32)] = &[("Deposited", 3)];

    fn evolution() -> Evolution<Self> {
        let eur = || "EUR".to_owned();
        Evolution::new()
            .upcast("Deposited", "Deposited.v2", |old: DepositedV1| DepositedV2 { cents: old.euros * 100 })
            .upcast("Deposited.v2", "Deposited.v3", |old: DepositedV2| DepositedV3 {
                cents: old.cents,
                currency: "EUR",
            })
            .rename("AccountOpened", "Opened")
            .split("Moved", move |old: Moved| {
                let deposited = AccountEvent::Deposited { cents: old.in_cents, currency: eur() };
                let withdrawn = AccountEvent::Withdrawn { cents: old.out_cents, currency: eur() };
                [(old.in_cents, deposited), (old.out_cents, withdrawn)]
                    .into_iter()
                    .filter(|(cents, _)| *cents != 0)
                    .map(|(_, event)| event)
            })
            .upcast_with("Remark", "Noted", |old: Text, record| Note {
                text: old.text,
                by: record.metadata.get("actor").unwrap_or_default(),
            })
            .upcast("Comment", "Noted", |old: Text| Note { text: old.text, by: "a comment".into() })
            .drop("LoggedIn")
    }
}

#[derive(Debug, Default, PartialEq)]
struct Account {
    owner: String,
    cents: i64,
    notes: Vec<String>,
}

impl Aggregate for Account {
    type Event = AccountEvent;

    fn apply(&mut self, event: &AccountEvent) {
        match event {
            AccountEvent::Opened { owner } => self.owner.clone_from(owner),
            AccountEvent::Deposited { cents, .. } => self.cents += cents,
            AccountEvent::Withdrawn { cents, .. } => self.cents -= cents,
            AccountEvent::Noted { text, by } => self.notes.push(format!("{by}: {text}")),
        }
    }
}

struct Balances;

impl Projection for Balances {
    const NAME: &'static str = "balances";
    type Event = AccountEvent;
    type Row = i64;

    fn evolve(&self, row: Option<i64>, event: &Recorded<AccountEvent>) -> Option<i64> {
        let cents = row.unwrap_or(0);
        Some(match &event.event {
            AccountEvent::Deposited { cents: more, .. } => cents + more,
            AccountEvent::Withdrawn { cents: less, .. } => cents - less,
            _ => cents,
        })
    }
}

/// An event as an earlier program wrote it.
fn stored(event_type: &str, json: &str) -> NewEvent {
    NewEvent::json_text(event_type, json.to_owned()).unwrap()
}

async fn old_log() -> MemoryStore {
    let store = MemoryStore::new();
    let events = [
        stored("AccountOpened", r#"{"owner":"Ada"}"#),
        stored("LoggedIn", "{}"),
        stored("Deposited", r#"{"euros":7}"#),
        stored("Deposited.v2", r#"{"cents":50}"#),
        stored("Deposited.v3", r#"{"cents":5,"currency":"EUR"}"#),
        stored("Moved", r#"{"in_cents":30,"out_cents":10}"#),
        stored("Moved", r#"{"in_cents":0,"out_cents":0}"#),
        stored("Comment", r#"{"text":"a good customer"}"#),
    ];
    store.append(Append::to(StreamName::new("account-1").unwrap(), events)).await.unwrap();
    store
}

#[tokio::test]
async fn a_log_of_many_years_is_read_as_of_today() {
    let factum = Factum::new(old_log().await);
    let account = factum.load(&Account::id("1")).await.unwrap();
    let expected = Account {
        owner: "Ada".into(),
        cents: 700 + 50 + 5 + 30 - 10,
        notes: vec!["a comment: a good customer".into()],
    };
    assert_eq!(account.state, expected);
    assert_eq!(account.revision, Some(Revision(7)), "revisions are those of the log");

    let quiet = StreamName::new("account-2").unwrap();
    let events = [stored("Opened", r#"{"owner":"Bob"}"#), stored("LoggedIn", "{}")];
    factum.store().append(Append::to(quiet, events)).await.unwrap();
    let account = factum.load(&Account::id("2")).await.unwrap();
    assert_eq!(account.revision, Some(Revision(1)), "what means nothing has happened all the same");
    factum.require_unchanged(&account).await.unwrap();

    let balances = factum.project(Balances, MemoryReads::new()).await.unwrap();
    balances.wait_for(factum.store().head().await.unwrap().token).await.unwrap();
    assert_eq!(balances.get("1").await.unwrap(), Some(775));
    assert_eq!(balances.verify().await.unwrap(), []);

    let history = factum.history(&Account::id("1")).await.unwrap();
    let revisions: Vec<u64> = history.iter().map(|event| event.record.revision.0).collect();
    assert_eq!(
        revisions,
        [0, 2, 3, 4, 5, 5, 7],
        "parts of one record keep its place; what means nothing is not there"
    );
}

#[tokio::test]
async fn new_events_are_stored_under_the_name_of_their_version() {
    let factum = Factum::new(old_log().await);
    struct Deposit;
    impl Command<Account> for Deposit {
        type Error = std::convert::Infallible;
        fn decide(&self, _: &Account) -> Result<Vec<AccountEvent>, Self::Error> {
            Ok(vec![AccountEvent::Deposited { cents: 1, currency: "EUR".into() }])
        }
    }
    factum.execute(&Account::id("1"), Deposit).await.unwrap();
    let types = |records: Vec<factum::RecordedEvent>| -> Vec<String> {
        records.into_iter().map(|record| record.event_type.as_str().to_owned()).collect()
    };
    let last = factum.store().read_to_end(Read::stream(StreamName::new("account-1").unwrap())).await.unwrap();
    assert_eq!(types(last).pop().unwrap(), "Deposited.v3");

    // A query for a kind of event finds it under every name that it ever had, and what was split into it.
    let query = Query::kinds::<AccountEvent>(["Deposited"]).unwrap();
    let found = factum.store().read_to_end(Read::query(query)).await.unwrap();
    assert_eq!(types(found), ["Deposited", "Deposited.v2", "Deposited.v3", "Moved", "Moved", "Deposited.v3"]);
    let notes = Query::kinds::<AccountEvent>(["Noted"]).unwrap();
    assert_eq!(
        types(factum.store().read_to_end(Read::query(notes)).await.unwrap()),
        ["Moved", "Moved", "Comment"]
    );
    let error = Query::kinds::<AccountEvent>(["Deposit"]).unwrap_err().to_string();
    assert!(error.contains("`Deposit`") && error.contains("`Deposited`"), "{error}");
    assert_eq!(
        codec::stored_types::<AccountEvent>().unwrap(),
        [
            "Opened",
            "Deposited.v3",
            "Withdrawn",
            "Noted",
            "AccountOpened",
            "Comment",
            "Deposited",
            "Deposited.v2",
            "LoggedIn",
            "Moved",
            "Remark"
        ]
    );
}

#[test]
fn what_cannot_be_upcast_says_which_event_and_why() {
    let message = |event_type: &str, json: &str| {
        codec::upcast::<AccountEvent>(event_type, json.as_bytes()).unwrap_err().to_string()
    };
    let unknown = message("Frozen", "{}");
    assert!(unknown.contains("`Frozen` at position 0") && unknown.contains("unknown variant"), "{unknown}");
    let newer = message("Deposited.v4", r#"{"cents":5,"currency":"EUR"}"#);
    assert!(newer.contains("`Deposited.v4`") && newer.contains("unknown variant"), "{newer}");
    let damaged = message("Deposited", r#"{"cents":5}"#);
    assert!(damaged.contains("missing field `euros`"), "{damaged}");
    let half = message("Deposited.v2", r#"{"cents":"x"}"#);
    assert!(half.contains("`Deposited.v2`") && half.contains("expected i64"), "{half}");
    assert!(message("Moved", "{}").contains("missing field `in_cents`"));
    assert!(message("Deposited.v3", "{}").contains("missing field `cents`"), "today's shape is today's");
}

/// An event enum of one variant, with this evolution.
macro_rules! evolving {
    ($name:ident, $versions:expr, $evolution:expr) => {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        enum $name {
            Done { n: i64 },
        }
        impl Event for $name {
            const CATEGORY: &'static str = "job";
            const VERSIONS: &'static [(&'static str, u32)] = $versions;
            fn evolution() -> Evolution<Self> {
                $evolution
            }
        }
    };
}

#[test]
fn an_evolution_that_does_not_fit_is_refused_before_anything_is_read() {
    evolving!(Never, &[], Evolution::new().rename("Done", "Finished"));
    evolving!(Nowhere, &[], Evolution::new().rename("Finished", "Ended"));
    evolving!(Circle, &[], Evolution::new().rename("A", "B").rename("B", "A"));
    evolving!(Twice, &[], Evolution::new().rename("A", "Done").drop("A"));
    evolving!(NoVariant, &[("Gone", 2)], Evolution::new());
    evolving!(First, &[("Done", 1)], Evolution::new());
    evolving!(Listed, &[("Done", 2), ("Done", 3)], Evolution::new());
    let why = |query: factum::Result<Query>| query.unwrap_err().to_string();
    for (message, part) in [
        (why(Never::query()), "`Done` is how events are stored today"),
        (why(Nowhere::query()), "ends at `Ended`"),
        (why(Circle::query()), "in a circle"),
        (why(Twice::query()), "two steps for `A`"),
        (why(NoVariant::query()), "there is no such variant"),
        (why(First::query()), "the next is 2"),
        (why(Listed::query()), "listed twice"),
    ] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(why(Never::query()), why(Never::query()), "and again");
}

#[test]
fn unknown_types_are_passed_over_where_that_was_asked_for_but_damage_never_is() {
    evolving!(Strict, &[], Evolution::new());
    evolving!(Lenient, &[("Done", 2)], Evolution::new().ignore_unknown());
    assert!(codec::upcast::<Strict>("Other", b"{}").is_err());
    assert_eq!(codec::upcast::<Lenient>("Other", b"{}").unwrap(), []);
    assert_eq!(codec::upcast::<Lenient>("Done.v2", br#"{"n":1}"#).unwrap(), [Lenient::Done { n: 1 }]);
    let error = codec::upcast::<Lenient>("Done.v2", b"{}").unwrap_err().to_string();
    assert!(error.contains("missing field `n`"), "{error}");
    // Versions of a kind that is known are not unknown: to pass them over would be to forget what happened.
    for known in ["Done", "Done.v3"] {
        assert!(codec::upcast::<Lenient>(known, b"{}").is_err(), "{known}");
    }
}

/// What a query selects of a log.
async fn selected(store: &MemoryStore, query: Query) -> Vec<String> {
    let found = store.read_to_end(Read::query(query)).await.unwrap();
    found.into_iter().map(|record| format!("{} {}", record.stream, record.event_type)).collect()
}

#[tokio::test]
async fn kinds_are_those_of_the_events_category() {
    let store = MemoryStore::new();
    for (stream, event_type, json) in [
        ("account-1", "AccountOpened", r#"{"owner":"Ada"}"#),
        ("shop-1", "Opened", r#"{"from":"nine"}"#),
        ("account-2", "Opened", r#"{"owner":"Bob"}"#),
    ] {
        let stream = StreamName::new(stream).unwrap();
        store.append(Append::to(stream, [stored(event_type, json)])).await.unwrap();
    }
    let opened = Query::kinds::<AccountEvent>(["Opened"]).unwrap();
    assert_eq!(selected(&store, opened.clone()).await, ["account-1 AccountOpened", "account-2 Opened"]);
    assert_eq!(opened.to_string(), "(type AccountOpened|Moved|Opened and category account)");
    let none: [&str; 0] = [];
    assert_eq!(Query::kinds::<AccountEvent>(none).unwrap().to_string(), "nothing");
    // Where the stream does not matter, there is `types`.
    let anywhere = Query::types(["Opened"]).unwrap();
    assert_eq!(selected(&store, anywhere).await, ["shop-1 Opened", "account-2 Opened"]);
}

#[test]
fn a_category_that_no_stream_has_is_refused() {
    #[derive(Serialize, Deserialize)]
    enum Dashed {
        Done,
    }
    impl Event for Dashed {
        const CATEGORY: &'static str = "bank-account";
    }
    let error = Query::kinds::<Dashed>(["Done"]).unwrap_err().to_string();
    assert!(error.contains("`bank-account`") && error.contains("without `-`"), "{error}");
}

/// Only one number of them all is one: nobody finds a sample of it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "u64")]
struct Secret(u64);

impl TryFrom<u64> for Secret {
    type Error = &'static str;
    fn try_from(number: u64) -> Result<Self, Self::Error> {
        if number == 483_920_174_653 { Ok(Self(number)) } else { Err("not the one") }
    }
}

#[test]
fn a_query_by_kind_finds_what_an_alias_reads() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Later {
        #[serde(alias = "Opened", alias = "Begun")]
        AccountOpened {
            owner: String,
        },
        Deposited {
            cents: u64,
        },
        #[serde(rename = "Shut", alias = "Closed")]
        AccountClosed,
    }
    impl Event for Later {
        const CATEGORY: &'static str = "account";
        const VERSIONS: &'static [(&'static str, u32)] = &[("Deposited", 2)];
        fn evolution() -> Evolution<Self> {
            Evolution::new().rename("Founded", "Opened").rename("Deposited", "Deposited.v2")
        }
    }
    let types = |name: &str| {
        let query = Query::kinds::<Later>([name]).unwrap();
        query.any_of[0].types.iter().map(|name| name.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(types("AccountOpened"), ["AccountOpened", "Begun", "Founded", "Opened"]);
    assert_eq!(types("Opened"), types("AccountOpened"), "an alias is the same kind");
    assert_eq!(types("Deposited"), ["Deposited", "Deposited.v2"]);
    assert_eq!(types("Shut"), ["Closed", "Shut"]);
}

#[test]
fn an_alias_of_which_it_cannot_be_seen_whose_it_is_is_refused() {
    #[derive(Debug, Serialize, Deserialize)]
    enum Hidden {
        #[serde(alias = "Old")]
        Kept(Secret),
        Other,
    }
    #[derive(Debug, Serialize, Deserialize)]
    enum Plain {
        Kept(Secret),
        Other,
    }
    impl Event for Hidden {
        const CATEGORY: &'static str = "x";
    }
    impl Event for Plain {
        const CATEGORY: &'static str = "x";
    }
    for name in ["Kept", "Old", "Other"] {
        let error = Query::kinds::<Hidden>([name]).unwrap_err().to_string();
        assert!(error.contains("`Old`") && error.contains("use `Evolution::rename`"), "{error}");
    }
    assert_eq!(Query::kinds::<Plain>(["Kept"]).unwrap().to_string(), "(type Kept and category x)");
}

#[test]
fn an_enum_that_takes_whatever_comes_is_refused() {
    #[derive(Debug, Serialize, Deserialize)]
    enum Greedy {
        Done {
            n: i64,
        },
        #[serde(other)]
        Other,
    }
    impl Event for Greedy {
        const CATEGORY: &'static str = "job";
        fn evolution() -> Evolution<Self> {
            Evolution::new().rename("Finished", "Done")
        }
    }
    for error in [Greedy::query().err(), Query::kinds::<Greedy>(["Done"]).err()] {
        let error = error.unwrap().to_string();
        assert!(error.contains("#[serde(other)]") && error.contains("use `ignore_unknown`"), "{error}");
    }
    evolving!(Modest, &[], Evolution::new().rename("Finished", "Done").ignore_unknown());
    assert_eq!(codec::upcast::<Modest>("Finished", br#"{"n":1}"#).unwrap(), [Modest::Done { n: 1 }]);
}

#[tokio::test]
async fn what_means_nothing_may_be_in_any_format() {
    evolving!(Strict, &[], Evolution::new().rename("Photo", "Image").drop("Image").rename("Ended", "Done"));
    evolving!(Lenient, &[], Evolution::new().rename("Ended", "Done").ignore_unknown());
    let store = MemoryStore::new();
    let bytes = ["Image", "Photo", "Scan", "Done", "Ended", "Done.v2"]
        .map(|event_type| NewEvent::bytes(event_type, r#"{"n":1}"#).unwrap());
    store.append(Append::to(StreamName::new("job-1").unwrap(), bytes)).await.unwrap();
    let records = store.read_to_end(Read::all()).await.unwrap();
    fn decoded<E: Event>(records: &[factum::RecordedEvent]) -> Vec<bool> {
        records
            .iter()
            .map(|record| {
                let mut events = 0;
                let decoded = codec::decode_each::<E>(record, &mut |_| events += 1);
                assert_eq!(events, 0, "{record:?}");
                let error = decoded.err().map(|error| error.to_string());
                let expected = "application/octet-stream, not JSON";
                assert!(error.as_ref().is_none_or(|error| error.contains(expected)), "{error:?}");
                error.is_none()
            })
            .collect()
    }
    assert_eq!(decoded::<Strict>(&records), [true, true, false, false, false, false]);
    assert_eq!(decoded::<Lenient>(&records), [true, true, true, false, false, false]);
}

#[test]
fn versions_of_an_older_name_are_not_unknown() {
    evolving!(
        Lenient,
        &[("Done", 2)],
        Evolution::new().rename("Ended", "Done.v2").rename("Over.v3", "Done.v2").ignore_unknown()
    );
    for known in ["Ended.v2", "Over", "Over.v2", "Over.v4"] {
        let error = codec::upcast::<Lenient>(known, br#"{"n":1}"#).unwrap_err().to_string();
        assert!(error.contains(known) && error.contains("upcast the old one"), "{error}");
    }
    for unknown in ["Other", "End", "Ended.vx", "Ended.v"] {
        assert_eq!(codec::upcast::<Lenient>(unknown, b"{}").unwrap(), [], "{unknown}");
    }
}
