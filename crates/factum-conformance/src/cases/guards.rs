//! Guards: what must hold for an append, decided at the instant at which it takes its place.

use factum::{
    Append, Error, EventStoreExt, ExpectedRevision, Guard, Query, Read, Result, Revision,
    error::{Actual, Conflict},
};

use crate::lab::{Lab, Tried, event, events, stream, tagged, tags};
use ExpectedRevision::{Any, Exact, NoStream, StreamExists};

/// Streams in every state of life, each with what a guard must find there.
async fn every_life(lab: &Lab) -> Result<Vec<(&'static str, Actual)>> {
    lab.write("life-live", 3).await?;
    lab.write("life-truncated", 3).await?;
    let all_but_nothing = factum::Retention { truncate_before: Some(Revision(3)), ..Default::default() };
    lab.store.set_retention(&stream("life-truncated"), Any, all_but_nothing).await?;
    lab.write("life-deleted", 3).await?;
    lab.store.delete(&stream("life-deleted"), Any).await?;
    lab.write("life-revived", 3).await?;
    lab.store.delete(&stream("life-revived"), Any).await?;
    lab.write("life-revived", 1).await?;
    lab.write("life-tombstoned", 3).await?;
    lab.store.tombstone(&stream("life-tombstoned"), Any).await?;
    lab.store.tombstone(&stream("life-stillborn"), Any).await?;
    lab.store.set_retention(&stream("life-described"), Any, all_but_nothing).await?;
    Ok(vec![
        ("life-never", Actual::NoStream),
        ("life-described", Actual::NoStream),
        ("life-live", Actual::Revision(Revision(2))),
        ("life-truncated", Actual::Revision(Revision(2))),
        ("life-deleted", Actual::Deleted(Revision(2))),
        ("life-revived", Actual::Revision(Revision(3))),
        ("life-tombstoned", Actual::Tombstoned),
        ("life-stillborn", Actual::Tombstoned),
    ])
}

/// The contract's table, written out by hand.
fn holds(expected: ExpectedRevision, actual: Actual) -> bool {
    match (expected, actual) {
        (Any, _) => true,
        (NoStream, Actual::NoStream | Actual::Deleted(_)) => true,
        (StreamExists, Actual::Revision(_)) => true,
        (Exact(wanted), Actual::Revision(last) | Actual::Deleted(last)) => wanted == last,
        _ => false,
    }
}

const EXPECTATIONS: [ExpectedRevision; 7] = [
    Any,
    NoStream,
    StreamExists,
    Exact(Revision(0)),
    Exact(Revision(2)),
    Exact(Revision(3)),
    Exact(Revision(u64::MAX)),
];

/// `guarded` must be refused because of `expected`, and say so.
async fn refused_for(
    lab: &Lab,
    guarded: Append,
    name: &str,
    expected: ExpectedRevision,
    actual: Actual,
) -> Result<()> {
    let guard = Guard::Stream { stream: stream(name), expected };
    let error = lab.refused(guarded).await?;
    assert_eq!(error, Error::from(Conflict { guard, actual }), "`{name}` expected {expected:?}");
    Ok(())
}

pub async fn every_expectation_meets_every_life_on_a_stream_not_written(lab: Lab) -> Result<Tried> {
    for (name, actual) in every_life(&lab).await? {
        for expected in EXPECTATIONS {
            let guarded = Append::to(stream("elsewhere"), [event("E")]).expect(stream(name), expected);
            let alone = Append::new().expect(stream(name), expected);
            if holds(expected, actual) {
                lab.append(alone).await?;
                lab.append(guarded).await?;
            } else {
                refused_for(&lab, alone, name, expected, actual).await?;
                refused_for(&lab, guarded, name, expected, actual).await?;
            }
        }
    }
    Ok(Tried::Yes)
}

pub async fn every_expectation_meets_every_life_on_the_stream_written(lab: Lab) -> Result<Tried> {
    for expected in EXPECTATIONS {
        let lab = lab.another(factum::Limits::default()).await?;
        for (name, actual) in every_life(&lab).await? {
            let guarded = Append::to(stream(name), events("E", 2)).expect(stream(name), expected);
            if actual == Actual::Tombstoned {
                let error = lab.refused(guarded).await?;
                assert!(matches!(error, Error::Tombstoned { .. } | Error::Conflict(_)), "{error:?}");
            } else if holds(expected, actual) {
                let before = match actual {
                    Actual::Revision(last) | Actual::Deleted(last) => last.0 + 1,
                    _ => 0,
                };
                let placed = lab.append(guarded).await?.events;
                assert_eq!([placed[0].revision.0, placed[1].revision.0], [before, before + 1], "{name}");
            } else {
                refused_for(&lab, guarded, name, expected, actual).await?;
            }
        }
    }
    Ok(Tried::Yes)
}

pub async fn guards_look_at_the_state_before_the_append(lab: Lab) -> Result<Tried> {
    let append = Append::to(stream("a-1"), events("A", 2))
        .write(stream("a-1"), [tagged("A", &["t:1"])])
        .expect(stream("a-1"), NoStream)
        .expect_none(tags(&["t:1"]), lab.head().await?);
    lab.append(append).await?;
    Ok(Tried::Yes)
}

pub async fn all_guards_must_hold_and_the_one_that_fails_is_named(lab: Lab) -> Result<Tried> {
    lab.write("a-1", 1).await?;
    lab.write("b-1", 2).await?;
    let base = || {
        Append::to(stream("c-1"), [event("C")])
            .expect(stream("a-1"), Exact(Revision(0)))
            .expect(stream("b-1"), StreamExists)
    };
    refused_for(
        &lab,
        base().expect(stream("b-1"), Exact(Revision(0))),
        "b-1",
        Exact(Revision(0)),
        Actual::Revision(Revision(1)),
    )
    .await?;
    let text = lab.refused(base().expect(stream("b-1"), NoStream)).await?.to_string();
    assert!(
        text.contains("b-1") && text.contains('1'),
        "the text must name the stream and what it is: {text}"
    );
    lab.append(base()).await?;
    Ok(Tried::Yes)
}

pub async fn a_query_guard_holds_until_something_matches(lab: Lab) -> Result<Tried> {
    let seats = || Query::types(["SeatTaken"])?.tag("course:math");
    let start = lab.head().await?;
    lab.append(Append::to(stream("x-1"), [tagged("SeatTaken", &["course:art"])])).await?;
    lab.append(Append::to(stream("x-1"), [tagged("Other", &["course:math"])])).await?;
    let seen = lab.store.read(Read::query(seats()?)).await?.token;
    for after in [start, seen] {
        lab.append(Append::new().expect_none(seats()?, after)).await?;
    }
    let taken =
        lab.append(Append::to(stream("x-2"), [tagged("SeatTaken", &["course:math", "student:1"])])).await?;
    for after in [start, seen] {
        let guarded = Append::to(stream("x-3"), [event("E")]).expect_none(seats()?, after);
        let error = lab.refused(guarded).await?;
        let guard = Guard::Query { query: seats()?, after };
        assert_eq!(error, Error::from(Conflict { guard, actual: Actual::Match(taken.events[0].position) }));
    }
    let seen = lab.store.read(Read::query(seats()?)).await?.token;
    lab.append(Append::to(stream("x-3"), [event("E")]).expect_none(seats()?, seen)).await?;
    lab.append(Append::to(stream("x-3"), [event("E")]).expect_none(seats()?, taken.token)).await?;
    Ok(Tried::Yes)
}

pub async fn a_query_guard_can_be_about_anything_a_query_can(lab: Lab) -> Result<Tried> {
    let start = lab.head().await?;
    let placed = lab.append(Append::to(stream("course-1"), [tagged("SeatTaken", &["c:1", "s:2"])])).await?;
    let actual = Actual::Match(placed.events[0].position);
    let both = Query::types(["SeatTaken"])?.tag("c:1")?.tag("s:2")?;
    let matching = [
        Query::all(),
        both,
        Query::category("course"),
        Query::stream(stream("course-1")),
        Query::types(["Nope", "SeatTaken"])?,
        Query::category("nope").or(tags(&["s:2"])),
    ];
    for query in matching {
        let error = lab.refused(Append::new().expect_none(query.clone(), start)).await?;
        let guard = Guard::Query { query, after: start };
        assert_eq!(error, Error::from(Conflict { guard, actual }));
    }
    let not_matching = [
        Query { any_of: vec![] },
        Query::types(["SeatFreed"])?,
        Query::types(["SeatTaken"])?.tag("c:2")?,
        Query::category("cours"),
        Query::category("course-1"),
        Query::stream(stream("course")),
        tags(&["c:1", "s:3"]),
    ];
    for query in not_matching {
        lab.append(Append::new().expect_none(query, start)).await?;
    }
    Ok(Tried::Yes)
}

pub async fn as_many_guards_as_are_allowed_are_all_looked_at(lab: Lab) -> Result<Tried> {
    lab.write("a-1", 1).await?;
    let mut append = Append::to(stream("b-1"), [event("B")]);
    for n in 1..factum::append::GUARDS {
        append = append.expect(stream(&format!("free-{n}")), NoStream);
    }
    refused_for(
        &lab,
        append.clone().expect(stream("a-1"), NoStream),
        "a-1",
        NoStream,
        Actual::Revision(Revision(0)),
    )
    .await?;
    lab.append(append.expect(stream("a-1"), StreamExists)).await?;
    Ok(Tried::Yes)
}
