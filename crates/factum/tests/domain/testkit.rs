//! The test kit, tested: what it accepts, and what a failing test shows (word for word, in `shows/`).

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::Duration,
};

use factum::{
    prelude::*,
    testkit::{START, SUBJECT, Step, World, any_sequence, given, given_stored},
};

use crate::support::*;

/// What the failing test shows is what the file says. `FACTUM_UPDATE=1` writes the file.
#[track_caller]
#[allow(clippy::disallowed_methods, reason = "a test writes what it shows")]
pub(crate) fn shows(name: &str, test: impl FnOnce()) {
    let panic = catch_unwind(AssertUnwindSafe(test)).expect_err("the test must fail");
    let shown = *panic.downcast::<String>().expect("a panic with a text");
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/domain/shows").join(name).with_extension("txt");
    if std::env::var_os("FACTUM_UPDATE").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, &shown).unwrap();
    }
    let expected = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(shown == expected, "{} says\n{expected}\nbut it shows\n{shown}", file.display());
}

/// Withdraws whatever is asked for, as long as the account is open: a rule with a hole.
#[derive(Debug)]
struct Lend {
    cents: i64,
}

impl Command<Account> for Lend {
    type Error = Refusal;

    fn decide(&self, account: &Account) -> Result<Vec<AccountEvent>, Refusal> {
        refuse_if(!account.open, Refusal::NotOpen)?;
        Ok(vec![Withdrawn { cents: self.cents }])
    }
}

/// When each account was opened.
struct OpenedAt;

impl Projection for OpenedAt {
    const NAME: &'static str = "opened_at";
    type Event = AccountEvent;
    type Row = Timestamp;

    fn evolve(&self, row: Option<Timestamp>, event: &Recorded<AccountEvent>) -> Option<Timestamp> {
        assert!(event.event != Closed, "nobody thought of that");
        row.or(Some(event.record.recorded_at))
    }
}

/// Accounts as they were kept at first.
#[derive(Debug, Serialize, Deserialize)]
enum OldEvent {
    Opened { cents: i64 },
    Moved { cents: i64 },
}

#[derive(Deserialize)]
struct Transferred {
    euros: Vec<i64>,
}

impl Event for OldEvent {
    const CATEGORY: &'static str = "account";
    const VERSIONS: &'static [(&'static str, u32)] = &[("Moved", 2)];

    fn evolution() -> Evolution<Self> {
        #[derive(Serialize)]
        struct Moved {
            cents: i64,
        }
        Evolution::new()
            .rename("Begun", "Opened")
            .upcast("Moved", "Moved.v2", |old: Transferred| Moved {
                cents: old.euros.iter().sum::<i64>() * 100,
            })
            .split("Spread", |old: Transferred| {
                old.euros.into_iter().map(|euros| OldEvent::Moved { cents: euros * 100 }).collect::<Vec<_>>()
            })
            .drop("Noise")
    }
}

#[test]
fn commands() {
    given([]).when(Open { cents: 100 }).then([Opened { cents: 100 }]);
    given([Opened { cents: 100 }]).when(Withdraw { cents: 30 }).then([Withdrawn { cents: 30 }]);
    given([Opened { cents: 100 }]).when(Withdraw { cents: 101 }).then_refused(Refusal::InsufficientFunds);
    given([Opened { cents: 100 }]).when(Withdraw { cents: 0 }).then_nothing();
    given([Opened { cents: 100 }, Closed]).when(Withdraw { cents: 1 }).then_refused(Refusal::NotOpen);
    given([Opened { cents: 1 }])
        .and([Deposited { cents: 1 }])
        .when(Withdraw { cents: 2 })
        .then([Withdrawn { cents: 2 }]);
    given_stored("Opened", r#"{"cents":1}"#).when(Withdraw { cents: 1 }).then([Withdrawn { cents: 1 }]);
}

#[test]
fn decisions_over_two_streams() {
    let (a, b) = (Account::id("a"), Account::id("b"));
    let past = || Writes::to(&a, [Opened { cents: 100 }]).and(&b, [Opened { cents: 0 }]);
    let transfer = |cents| Transfer { from: a.clone(), to: b.clone(), cents };
    let expected = Writes::to(&a, [Withdrawn { cents: 60 }]).and(&b, [Deposited { cents: 60 }]);
    given(past()).when(transfer(60)).then(expected);
    given(past()).when(transfer(101)).then_refused(Refusal::InsufficientFunds);
}

#[test]
fn projections() {
    given([Opened { cents: 100 }, Deposited { cents: 20 }])
        .project(Balances::<1>)
        .then_rows([(SUBJECT, 120)]);
    given([Opened { cents: 100 }, Closed]).project(Balances::<1>).then_no_rows();
    let (a, b) = (Account::id("a"), Account::id("b"));
    given(Writes::to(&b, [Opened { cents: 2 }]).and(&a, [Opened { cents: 1 }]))
        .project(Balances::<1>)
        .then_rows([("b", 2), ("a", 1)]);
    given_stored("Opened", r#"{"cents":1}"#).project(Balances::<1>).then_rows([(SUBJECT, 1)]);
    given([Opened { cents: 1 }]).project(OpenedAt).then_rows([(SUBJECT, START)]);
    let at = "2026-03-31T12:00:00Z";
    given([Opened { cents: 1 }])
        .at(at)
        .and([Deposited { cents: 1 }])
        .at("2027-01-01T00:00:00Z")
        .project(OpenedAt)
        .then_rows([(SUBJECT, at.parse().unwrap())]);
}

#[tokio::test]
async fn projections_also_in_a_test_with_a_runtime() {
    given([Opened { cents: 1 }]).project(Balances::<1>).then_rows([(SUBJECT, 1)]);
}

#[test]
fn upcasters() {
    given_stored("Begun", r#"{"cents":1}"#).then([OldEvent::Opened { cents: 1 }]);
    given_stored("Moved", r#"{"euros":[1,2]}"#).then([OldEvent::Moved { cents: 300 }]);
    given_stored("Moved.v2", r#"{"cents":5}"#).then([OldEvent::Moved { cents: 5 }]);
    given_stored("Spread", r#"{"euros":[1,2]}"#)
        .and_stored("Noise", "{}")
        .then([OldEvent::Moved { cents: 100 }, OldEvent::Moved { cents: 200 }]);
    given_stored("Noise", "{}").then_nothing::<OldEvent>();
    given_stored("Moved", r#"{"dollars":1}"#).then_unreadable::<OldEvent>("missing field `euros`");
}

#[test]
fn a_world_repeats_itself() {
    let ran = || {
        let World { factum, clock, .. } = given([Opened { cents: 5 }]).world();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            assert_eq!(factum.now(), START);
            clock.advance(Duration::from_secs(60));
            let account = Account::id(SUBJECT);
            let done = factum.execute(&account, Deposit { cents: 1 }).await.unwrap();
            (done.correlation_id, factum.history(&account).await.unwrap(), factum.new_id())
        })
    };
    let (flow, history, next) = ran();
    assert_eq!(ran(), (flow.clone(), history.clone(), next), "to the last id");
    let [opened, deposited] = &history[..] else { panic!("two events: {history:?}") };
    assert_eq!(opened.record.id.to_string(), "00000000-0000-0000-0000-000000000001");
    assert!(opened.record.id < deposited.record.id && deposited.record.id < next, "ids in order");
    assert_eq!((opened.record.recorded_at, deposited.record.recorded_at.since(START).as_secs()), (START, 60));
    assert_eq!(flow, "00000000-0000-0000-0000-000000000002");
}

fn teller(random: &mut factum::testkit::Random) -> Step<Account> {
    match random.u8(0..3) {
        0 => Step::command(Open { cents: random.i64(0..100) }),
        1 => Step::command(Deposit { cents: random.i64(0..100) }),
        _ => Step::command(Withdraw { cents: random.i64(0..100) }),
    }
}

#[derive(Debug)]
struct Move(u8, u8, i64);

impl Decide for Move {
    type Models = Vec<Entity<Account>>;
    type Error = Refusal;

    fn models(&self) -> Self::Models {
        [self.0, self.1].iter().map(|n| Entity::of(&Account::id(n.to_string()))).collect()
    }

    fn decide(&self, both: &Self::Models) -> Result<Writes, Refusal> {
        refuse_if(both[0].state.cents < self.2 || self.0 == self.1, Refusal::InsufficientFunds)?;
        Ok(Writes::to(&both[0].id, [Withdrawn { cents: self.2 }])
            .and(&both[1].id, [Deposited { cents: self.2 }]))
    }
}

#[test]
fn invariants() {
    any_sequence(teller).keeps(|account: &Account| account.cents >= 0);
    let accounts =
        || (0..3).map(|n| Entity::of(&Account::id(n.to_string()))).collect::<Vec<Entity<Account>>>();
    let moves = |random: &mut factum::testkit::Random| {
        Step::<()>::decision(Move(random.u8(0..3), random.u8(0..3), random.i64(-9..9)))
    };
    any_sequence(moves)
        .keeps_all(accounts, |all| all.iter().map(|account| account.state.cents).sum::<i64>() == 0);
}

#[test]
fn what_failing_tests_show() {
    shows("refused", || {
        given([Opened { cents: 1 }]).when(Withdraw { cents: 2 }).then([Withdrawn { cents: 2 }]);
    });
    shows("another_refusal", || {
        given([]).when(Withdraw { cents: 2 }).then_refused(Refusal::InsufficientFunds);
    });
    shows("not_refused", || {
        given([Opened { cents: 1 }]).when(Lend { cents: 2 }).then_refused(Refusal::InsufficientFunds);
    });
    shows("not_nothing", || given([Opened { cents: 1 }]).when(Lend { cents: 2 }).then_nothing());
    shows("other_events", || {
        let all = [Deposited { cents: 1 }, Withdrawn { cents: 2 }, Closed];
        given([Opened { cents: 1 }]).when(Lend { cents: 2 }).then(all);
    });
    shows("unread_events", || {
        let (a, b) = (Account::id("a"), Account::id("b"));
        let past = Writes::to(&a, [Opened { cents: 9 }]).and(&b, [Opened { cents: 9 }]);
        given(past.and(&Account::id("c"), [Opened { cents: 7 }]))
            .when(Transfer { from: a, to: b, cents: 1 })
            .then_nothing();
    });
    shows("other_rows", || {
        let (a, b) = (Account::id("a"), Account::id("b"));
        given(Writes::to(&a, [Opened { cents: 1 }]).and(&b, [Opened { cents: 2 }]))
            .project(Balances::<1>)
            .then_rows([("b", 2), ("a", 3)]);
    });
    shows("a_projection_that_stops", || given([Closed]).project(OpenedAt).then_no_rows());
    shows("another_shape", || given_stored("Moved", r#"{"euros":[1]}"#).then([OldEvent::Moved { cents: 1 }]));
    shows("unreadable", || given_stored("Lost", "{}").then([OldEvent::Opened { cents: 1 }]));
    shows("readable", || given_stored("Begun", r#"{"cents":1}"#).then_unreadable::<OldEvent>("missing"));
    shows("broken_invariant", || {
        let lender = |random: &mut factum::testkit::Random| match random.u8(0..4) {
            0 => Step::command(Lend { cents: random.i64(0..100) }),
            _ => teller(random),
        };
        any_sequence(lender).seed(7).keeps(|account: &Account| account.cents >= 0);
    });
    shows("nothing_recorded", || {
        let poor = |_: &mut factum::testkit::Random| Step::command(Withdraw { cents: 1 });
        any_sequence(poor).seed(7).keeps(|account: &Account| account.cents >= 0);
    });
    shows("broken_from_the_start", || any_sequence(teller).seed(7).keeps(|account: &Account| account.open));
}
