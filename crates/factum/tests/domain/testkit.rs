//! The test kit, tested: what it accepts, and what a failing test tells.

use std::panic::catch_unwind;

use factum::{
    prelude::*,
    testkit::{given, given_writes},
};

use crate::support::*;

fn message(test: impl FnOnce() + std::panic::UnwindSafe) -> String {
    let panic = catch_unwind(test).expect_err("the assertion must fail");
    *panic.downcast::<String>().expect("a panic with a text")
}

#[test]
fn the_three_words() {
    given([]).when(Open { cents: 100 }).then([Opened { cents: 100 }]);
    given([Opened { cents: 100 }]).when(Withdraw { cents: 30 }).then([Withdrawn { cents: 30 }]);
    given([Opened { cents: 100 }]).when(Withdraw { cents: 101 }).then_refused(Refusal::InsufficientFunds);
    given([Opened { cents: 100 }]).when(Withdraw { cents: 0 }).then_nothing();
    given([Opened { cents: 100 }, Closed]).when(Withdraw { cents: 1 }).then_refused(Refusal::NotOpen);
}

#[test]
fn a_decision_over_two_streams() {
    let (a, b) = (Account::id("a"), Account::id("b"));
    let past = || Writes::to(&a, [Opened { cents: 100 }]).and(&b, [Opened { cents: 0 }]);
    let transfer = |cents| Transfer { from: a.clone(), to: b.clone(), cents };
    let expected = Writes::to(&a, [Withdrawn { cents: 60 }]).and(&b, [Deposited { cents: 60 }]);
    given_writes(past()).when(transfer(60)).then(expected);
    given_writes(past()).when(transfer(101)).then_refused(Refusal::InsufficientFunds);
}

#[test]
fn a_failing_test_tells_the_whole_story() {
    let text =
        message(|| given([Opened { cents: 1 }]).when(Withdraw { cents: 2 }).then([Withdrawn { cents: 2 }]));
    for part in
        ["account-under-test: Opened {\"cents\":1}", "Withdrawn {\"cents\":2}", "refused: InsufficientFunds"]
    {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    let text = message(|| {
        let (a, b) = (Account::id("a"), Account::id("b"));
        let past = Writes::to(&a, [Opened { cents: 9 }]).and(&b, [Opened { cents: 9 }]);
        given_writes(past.and(&Account::id("c"), [Opened { cents: 7 }]))
            .when(Transfer { from: a, to: b, cents: 1 })
            .then_nothing();
    });
    assert!(
        text.contains("no model of the decision reads these given events:\n    account-c: Opened"),
        "{text}"
    );
}
