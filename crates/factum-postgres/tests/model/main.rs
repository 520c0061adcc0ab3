//! The protocol that keeps positions in the order of commits, gone through in every order in which its steps can happen.
//!
//! [`fence`] is the protocol, with a lock's key so short that it goes round, and [`explorer`] goes everywhere. Each known wrong way
//! of doing it is gone through as well, and must be noticed: a check that cannot fail checks nothing. The group-committing mode is
//! the same protocol with fewer appenders and longer runs.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that unwraps an error has failed; it says its figures"
)]

mod explorer;
mod fence;
#[path = "../support/proof.rs"]
#[allow(dead_code, reason = "no choice is made here")]
mod proof;

use std::collections::BTreeMap;

use explorer::{Broken, Explored, explore};
use fence::{Bug, Fence, Promise, Runs, STATEMENTS, Setting};
use serde_json::json;

const STORE: &str = include_str!("../../sql/migrations/0001_store.sql");

/// Three processes that append one event each.
const ONE_EACH: [Runs; 3] = [[1, 0]; 3];
/// Two processes that append one event twice.
const TWICE: [Runs; 3] = [[1, 1], [1, 1], [0, 0]];
/// Two processes, whose appends are of several events.
const SEVERAL: [Runs; 3] = [[2, 1], [2, 0], [0, 0]];

/// Appenders that draw across the end of the ring: of 8 positions, with a key of 3 bits.
fn setting(appenders: [Runs; 3], key_bits: u32, crashes: u8) -> Setting {
    Setting { appenders, key_bits, begin: 6, crashes, bugs: &[], only: None }
}

/// Goes everywhere, sees no promise broken, and says how much that was.
fn holds(setting: &Setting) -> Explored {
    let explored = explore(Fence::new(setting), None).unwrap_or_else(|broken| {
        let Broken { promise, steps, story } = broken;
        panic!("{setting:?}: {promise:?} broken after {steps} steps:\n{story}")
    });
    println!("{setting:?}: {explored:?}");
    assert!(explored.states > 1_000, "hardly anything was looked at: {setting:?}");
    explored
}

/// How many steps lead to a broken promise of this kind.
fn breaks(setting: &Setting) -> usize {
    match explore(Fence::new(setting), setting.only) {
        Ok(explored) => panic!("not noticed: {setting:?}, {explored:?}"),
        Err(Broken { promise, steps, story }) => {
            println!("{:?} {promise:?}, broken after {steps} steps:\n{story}\n", setting.bugs);
            assert_eq!(promise, setting.only);
            steps
        }
    }
}

#[test]
fn the_steps_are_those_of_the_sql_in_its_order() {
    let mut from: BTreeMap<&str, usize> = BTreeMap::new();
    for (function, statement) in STATEMENTS {
        let begin = [format!("FUNCTION factum.{function}("), format!("VIEW factum.{function} AS")]
            .iter()
            .find_map(|head| STORE.find(head))
            .unwrap_or_else(|| panic!("0001_store.sql has no `{function}`"));
        let body = &STORE[begin..];
        let body = &body[..body[1..].find("\nCREATE ").map_or(body.len(), |end| end + 1)];
        let from = from.entry(function).or_default();
        let found = body[*from..].find(statement);
        *from += found
            .unwrap_or_else(|| panic!("`{function}` does not say `{statement}` where the model does"))
            + 1;
    }
}

#[test]
fn no_order_of_steps_breaks_a_promise() {
    let short = [setting(ONE_EACH, 3, 0), setting(TWICE, 3, 0), setting(SEVERAL, 4, 0)];
    let long = [setting([[3, 0], [1, 0], [2, 0]], 4, 0), setting([[1, 1], [1, 0], [1, 0]], 4, 0)];
    let settings = short.iter().chain(proof::scaled(&[][..], &long));
    tell("model", settings);
}

#[test]
fn nor_does_a_crash_of_the_server_at_any_step() {
    let short = [setting([[1, 0], [1, 0], [0, 0]], 3, 2), setting([[1, 1], [1, 0], [0, 0]], 3, 1)];
    let long =
        [setting(ONE_EACH, 3, 1), setting(TWICE, 3, 1), setting(SEVERAL, 4, 2), setting(ONE_EACH, 3, 2)];
    let settings = short.iter().chain(proof::scaled(&[][..], &long));
    tell("model_crashes", settings);
}

fn tell<'a>(name: &str, settings: impl Iterator<Item = &'a Setting>) {
    let (mut all, mut count) = (Explored::default(), 0);
    for setting in settings {
        let Explored { states, steps, depth } = holds(setting);
        all = Explored { states: all.states + states, steps: all.steps + steps, depth: all.depth.max(depth) };
        count += 1;
    }
    let figures =
        json!({ "settings": count, "states": all.states, "steps": all.steps, "most_deep": all.depth });
    proof::tell(name, &figures);
}

#[test]
fn each_known_wrong_way_is_noticed() {
    use Promise::{AnsweredIsSeen, CheckpointsStayGood, NothingIsMissed, OnePlaceEach};
    let wrong: [(&'static [Bug], Promise); 12] = [
        (&[Bug::CeilingAndMinimumInOneStatement], NothingIsMissed),
        (&[Bug::EventsInTheStatementOfTheLooks], NothingIsMissed),
        (&[Bug::FencesBeforeTheCeiling], NothingIsMissed),
        (&[Bug::LockAfterDrawing, Bug::TokenOfAHole], NothingIsMissed),
        (&[Bug::LockGivenBackBeforeCommit], NothingIsMissed),
        (&[Bug::ReadToWhatWasDrawn], NothingIsMissed),
        (&[Bug::AnswerWithoutSettling], AnsweredIsSeen),
        (&[Bug::NoGate], AnsweredIsSeen),
        (&[Bug::NoGate], OnePlaceEach),
        (&[Bug::KeyIsPosition], CheckpointsStayGood),
        (&[Bug::KeyIsAlwaysBehind], CheckpointsStayGood),
        (&[Bug::TokenOfAHole], CheckpointsStayGood),
    ];
    let mut noticed = serde_json::Map::new();
    for (bugs, promise) in wrong {
        // A crash makes the last one, and none of the others.
        let crashes = u8::from(bugs == [Bug::TokenOfAHole]);
        let setting = Setting { bugs, only: Some(promise), ..setting(TWICE, 3, crashes) };
        noticed.insert(format!("{bugs:?} {promise:?}"), json!(breaks(&setting)));
    }
    proof::tell(
        "model_bugs",
        &json!({ "wrong_ways_noticed": noticed.len(), "steps_until_noticed": noticed }),
    );
}

/// With a key of 32 bits: as long as no transaction lives through more than 2^31 positions.
#[test]
fn a_fence_is_right_through_half_the_ring_and_not_further() {
    // A ring of 8: one event, and then three beside it; or one more.
    holds(&setting([[1, 0], [1, 0], [2, 0]], 3, 0));
    for promise in [Promise::NothingIsMissed, Promise::CheckpointsStayGood] {
        breaks(&Setting { only: Some(promise), ..setting([[1, 0], [2, 0], [2, 0]], 3, 0) });
    }
}
