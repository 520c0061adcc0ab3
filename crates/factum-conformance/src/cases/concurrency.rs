//! Many at once: guards let exactly one through, and nobody is lost.

use std::{collections::BTreeSet, sync::Arc};

use factum::{Append, EventStoreExt, ExpectedRevision, Query, Read, Result, Revision};
use tokio::{sync::Barrier, task::JoinSet};

use crate::lab::{Lab, Tried, event, events, stream, tagged, tags};

const RACERS: usize = 16;

/// Sends all of these at the same time; returns which were acknowledged as new. The others must be conflicts.
async fn race(lab: &Lab, appends: Vec<Append>) -> Result<Vec<usize>> {
    let barrier = Arc::new(Barrier::new(appends.len()));
    let mut racers = JoinSet::new();
    for (n, append) in appends.into_iter().enumerate() {
        let (barrier, store) = (barrier.clone(), lab.store.clone());
        racers.spawn(async move {
            barrier.wait().await;
            (n, store.append(append).await)
        });
    }
    let mut winners = Vec::new();
    for (n, result) in racers.join_all().await {
        match result {
            Ok(appended) if !appended.replayed => winners.push(n),
            Ok(_) => {}
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(winners)
}

pub async fn of_racing_exact_guards_exactly_one_wins(lab: Lab) -> Result<Tried> {
    for round in 0..20u64 {
        let expected = round
            .checked_sub(1)
            .map_or(ExpectedRevision::NoStream, |last| ExpectedRevision::Exact(Revision(last)));
        let append = |_| Append::to(stream("a-1"), [event("Won")]).expect(stream("a-1"), expected);
        assert_eq!(race(&lab, (0..RACERS).map(append).collect()).await?.len(), 1, "round {round}");
    }
    assert_eq!(lab.of("a-1").await?.len(), 20);
    Ok(Tried::Yes)
}

pub async fn of_racing_query_guards_exactly_one_wins(lab: Lab) -> Result<Tried> {
    for round in 0..20 {
        let tag = format!("seat:{round}");
        let token = lab.store.read(Read::query(tags(&[&tag]))).await?.token;
        let append = |n| {
            Append::to(stream(&format!("student-{n}")), [tagged("SeatTaken", &[&tag])])
                .expect_none(tags(&[&tag]), token)
        };
        assert_eq!(race(&lab, (0..RACERS).map(append).collect()).await?.len(), 1, "round {round}");
        assert_eq!(lab.store.read_to_end(Read::query(tags(&[&tag]))).await?.len(), 1);
    }
    Ok(Tried::Yes)
}

pub async fn of_two_that_exclude_each_other_one_wins(lab: Lab) -> Result<Tried> {
    for round in 0..30 {
        let (left, right) = (format!("left-{round}"), format!("right-{round}"));
        let one = Append::to(stream(&left), [event("L")]).expect(stream(&right), ExpectedRevision::NoStream);
        let other =
            Append::to(stream(&right), [event("R")]).expect(stream(&left), ExpectedRevision::NoStream);
        assert_eq!(race(&lab, vec![one, other]).await?.len(), 1, "write skew in round {round}");
    }
    Ok(Tried::Yes)
}

pub async fn the_same_append_sent_at_once_is_written_once(lab: Lab) -> Result<Tried> {
    for round in 0..20 {
        let append = Append::to(stream("a-1"), events("Once", 3)).write(stream("b-1"), [event("Once")]);
        assert_eq!(race(&lab, vec![append; RACERS]).await?.len(), 1, "round {round}");
    }
    assert_eq!(lab.all().await?.len(), 20 * 4);
    Ok(Tried::Yes)
}

pub async fn a_seat_limit_holds_under_64_tasks(lab: Lab) -> Result<Tried> {
    const SEATS: usize = 10;
    let mut students = JoinSet::new();
    for student in 0..64 {
        let store = lab.store.clone();
        students.spawn(async move {
            loop {
                let page = store.read(Read::query(tags(&["course:math"]))).await?;
                if page.events.len() >= SEATS {
                    return Ok::<_, factum::Error>(false);
                }
                let seat = tagged("SeatTaken", &["course:math", &format!("student:{student}")]);
                let append = Append::to(stream(&format!("student-{student}")), [seat]);
                match store.append(append.expect_none(tags(&["course:math"]), page.token)).await {
                    Ok(_) => return Ok(true),
                    Err(error) if error.is_conflict() => {}
                    Err(error) => return Err(error),
                }
            }
        });
    }
    let mut taken = 0;
    for seated in students.join_all().await {
        taken += usize::from(seated?);
    }
    assert_eq!((taken, lab.all().await?.len()), (SEATS, SEATS));
    Ok(Tried::Yes)
}

pub async fn a_counter_loses_no_increment_under_64_tasks(lab: Lab) -> Result<Tried> {
    let mut tasks = JoinSet::new();
    for _ in 0..64 {
        let store = lab.store.clone();
        tasks.spawn(async move {
            loop {
                let last = store.stream_state(&stream("counter-1")).await?.last_revision;
                let expected = last.map_or(ExpectedRevision::NoStream, ExpectedRevision::Exact);
                let append =
                    Append::to(stream("counter-1"), [event("Counted")]).expect(stream("counter-1"), expected);
                match store.append(append).await {
                    Ok(_) => return Ok::<_, factum::Error>(()),
                    Err(error) if error.is_conflict() => {}
                    Err(error) => return Err(error),
                }
            }
        });
    }
    tasks.join_all().await.into_iter().collect::<Result<()>>()?;
    let revisions: Vec<u64> = lab.of("counter-1").await?.iter().map(|event| event.revision.0).collect();
    assert_eq!(revisions, (0..64).collect::<Vec<_>>());
    Ok(Tried::Yes)
}

pub async fn runs_of_different_appends_do_not_mix(lab: Lab) -> Result<Tried> {
    let append = |n| {
        let kind = format!("Run{n}");
        Append::to(stream(&format!("a-{n}")), events(&kind, 7)).write(stream("shared"), events(&kind, 5))
    };
    race(&lab, (0..RACERS).map(append).collect()).await?;
    let all = lab.all().await?;
    let kinds: Vec<&str> = all.iter().map(|event| &*event.event_type).collect();
    let runs: Vec<&[&str]> = kinds.chunk_by(|a, b| a == b).collect();
    assert_eq!((runs.len(), runs.iter().all(|run| run.len() == 12)), (RACERS, true), "{kinds:?}");
    Ok(Tried::Yes)
}

pub async fn readers_see_whole_appends_only_and_never_less_than_before(lab: Lab) -> Result<Tried> {
    let mut writers = JoinSet::new();
    for n in 0..4 {
        let store = lab.store.clone();
        writers.spawn(async move {
            for _ in 0..25 {
                let append = Append::to(stream(&format!("a-{n}")), events("A", 2))
                    .write(stream("b-1"), events("B", 2));
                store.append(append).await?;
            }
            Ok::<_, factum::Error>(())
        });
    }
    let (mut seen, mut last) = (0, factum::Position::START);
    while seen < 400 {
        let page = lab.store.read(Read::all()).await?;
        assert!(page.events.len() >= seen && page.head.position >= last, "a reader saw less than before");
        assert_eq!(page.events.len() % 4, 0, "a reader saw a part of an append");
        (seen, last) = (page.events.len(), page.head.position);
        tokio::task::yield_now().await;
    }
    writers.join_all().await.into_iter().collect::<Result<()>>()?;
    let positions: BTreeSet<_> =
        lab.store.read_to_end(Read::query(Query::all())).await?.iter().map(|e| e.position).collect();
    assert_eq!(positions.len(), 400);
    Ok(Tried::Yes)
}

pub async fn an_append_whose_caller_went_away_is_whole_or_not_there(lab: Lab) -> Result<Tried> {
    for n in 0..20 {
        let append =
            Append::to(stream(&format!("a-{n}")), events("A", 3)).write(stream("b-1"), events("B", 2));
        let sent = append.clone();
        tokio::select! {
            biased;
            _ = async { for _ in 0..n % 5 { tokio::task::yield_now().await; } } => {}
            _ = lab.store.append(sent) => {}
        }
        lab.append(append).await?;
        assert_eq!(lab.of(&format!("a-{n}")).await?.len(), 3);
    }
    assert_eq!(lab.of("b-1").await?.len(), 40);
    Ok(Tried::Yes)
}
