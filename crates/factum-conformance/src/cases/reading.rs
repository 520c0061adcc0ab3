//! Reads: bounded pages of a prefix of the log, in the order asked for.

use factum::{
    Append, Criterion, Error, EventStoreExt, EventType, Query, Read, RecordedEvent, Result, Revision, Start,
    Tags,
};

use crate::lab::{Lab, Tried, event, stream, tagged, tags};

/// A small log with something of everything, and all of it.
async fn filled(lab: &Lab) -> Result<Vec<RecordedEvent>> {
    for n in 0..24 {
        let (name, kind) = (["account-1", "account-2", "course-1", "plain"][n % 4], ["A", "B", "C"][n % 3]);
        let sets: [&[&str]; 4] = [&[], &["x:1"], &["x:1", "y:2"], &["y:2", "z:3"]];
        lab.append(Append::to(stream(name), [tagged(kind, sets[n / 3 % 4]), event("Z")])).await?;
    }
    lab.all().await
}

/// Reads page by page, and checks what every page must say of itself.
async fn pages(lab: &Lab, mut read: Read) -> Result<Vec<RecordedEvent>> {
    let (mut found, before) = (Vec::new(), lab.head().await?.position);
    loop {
        let page = lab.store.read(read.clone()).await?;
        assert!(
            page.events.len() <= read.limit,
            "{} events for a limit of {}",
            page.events.len(),
            read.limit
        );
        assert!(page.head.position >= before && page.token.position <= page.head.position);
        found.extend(page.events);
        match page.next {
            Some(next) => {
                assert_ne!(std::mem::replace(&mut read.start, next), next, "the next page is this page");
            }
            None => return Ok(found),
        }
        assert!(found.len() <= 10_000, "paging never ends");
    }
}

pub async fn every_query_finds_what_matches_in_both_directions_on_pages_of_any_size(
    lab: Lab,
) -> Result<Tried> {
    let all = filled(&lab).await?;
    let (t, b) = (EventType::new("A")?, EventType::new("B")?);
    let mut queries = vec![Query { any_of: vec![] }, Query::all()];
    // Every combination of what a criterion can ask for.
    for types in [vec![], vec![t.clone()], vec![t, b]] {
        for wanted in [&[] as &[&str], &["x:1"], &["x:1", "y:2"], &["nope:1"]] {
            for category in [None, Some("account".to_owned()), Some("plain".to_owned())] {
                for only in [None, Some(stream("account-1")), Some(stream("plain"))] {
                    let tags = Tags::new(wanted)?;
                    let criterion =
                        Criterion { types: types.clone(), tags, category: category.clone(), stream: only };
                    queries.push(Query::from(criterion));
                }
            }
        }
    }
    queries.push(tags(&["x:1"]).or(Query::types(["Z"])?).or(Query::category("course")));
    queries.push(tags(&["x:1"]).or(tags(&["x:1"])));
    for query in queries {
        let mut wanted: Vec<_> = all.iter().filter(|event| query.matches(event)).cloned().collect();
        for limit in [1, 5, 1000] {
            assert_eq!(
                pages(&lab, Read::query(query.clone()).limit(limit)).await?,
                wanted,
                "{query}, limit {limit}"
            );
        }
        wanted.reverse();
        for limit in [3, 1000] {
            let read = Read::query(query.clone()).backwards().limit(limit);
            assert_eq!(pages(&lab, read).await?, wanted, "{query} backwards, limit {limit}");
        }
    }
    Ok(Tried::Yes)
}

pub async fn a_stream_is_read_from_any_revision_both_ways(lab: Lab) -> Result<Tried> {
    filled(&lab).await?;
    let all = lab.of("account-1").await?;
    assert_eq!(all.len(), 12);
    for start in [0, 1, 5, 11, 12, 1000, u64::MAX] {
        for limit in [1, 4, 1000] {
            let read = || Read::stream(stream("account-1")).from_revision(Revision(start)).limit(limit);
            let later: Vec<_> = all.iter().filter(|event| event.revision.0 >= start).cloned().collect();
            assert_eq!(pages(&lab, read()).await?, later, "from {start}");
            let earlier: Vec<_> =
                all.iter().rev().filter(|event| event.revision.0 <= start).cloned().collect();
            assert_eq!(pages(&lab, read().backwards()).await?, earlier, "back from {start}");
        }
    }
    Ok(Tried::Yes)
}

pub async fn a_read_goes_on_beyond_any_token(lab: Lab) -> Result<Tried> {
    let all = filled(&lab).await?;
    let log = lab.log().await?;
    for token in all.iter().map(|event| log.at(event.position)).chain([log.at(factum::Position::START)]) {
        let after: Vec<_> = all.iter().filter(|event| event.position > token.position).cloned().collect();
        assert_eq!(pages(&lab, Read::all().beyond(token).limit(7)).await?, after);
        let before: Vec<_> =
            all.iter().rev().filter(|event| event.position < token.position).cloned().collect();
        assert_eq!(pages(&lab, Read::all().backwards().beyond(token).limit(7)).await?, before);
        let of_stream: Vec<_> = after.into_iter().filter(|event| event.stream == *"plain").collect();
        assert_eq!(pages(&lab, Read::stream(stream("plain")).beyond(token).limit(2)).await?, of_stream);
    }
    Ok(Tried::Yes)
}

pub async fn a_page_says_how_far_it_looked(lab: Lab) -> Result<Tried> {
    let all = filled(&lab).await?;
    let head = lab.head().await?;
    let whole = lab.store.read(Read::query(tags(&["x:1"]))).await?;
    assert_eq!(
        (whole.token, whole.head, whole.next),
        (head, head, None),
        "the last page has looked to the head"
    );
    let page = lab.store.read(Read::query(tags(&["x:1"])).limit(2)).await?;
    let unseen = all.iter().filter(|event| event.tags.contains("x:1")).nth(2).expect("there are more");
    assert!(page.token.position < unseen.position, "the token {} lies beyond what was not shown", page.token);
    assert!(page.next.is_some());
    let backwards = lab.store.read(Read::query(tags(&["x:1"])).backwards().limit(1)).await?;
    assert_eq!(backwards.token, head, "reading backwards, the token is where the read began to look");
    let none = lab.store.read(Read::query(tags(&["nope:1"]))).await?;
    assert_eq!((none.events.len(), none.token, none.next), (0, head, None));
    Ok(Tried::Yes)
}

pub async fn the_token_of_a_read_is_the_guard_of_a_decision(lab: Lab) -> Result<Tried> {
    filled(&lab).await?;
    for read in [Read::query(tags(&["x:1"])), Read::query(tags(&["x:1"])).backwards().limit(1)] {
        let token = lab.store.read(read).await?.token;
        lab.append(Append::to(stream("other"), [tagged("A", &["q:1"])]).expect_none(tags(&["x:1"]), token))
            .await?;
        lab.append(Append::to(stream("other"), [tagged("A", &["x:1"])]).expect_none(tags(&["x:1"]), token))
            .await?;
        let late = Append::to(stream("other"), [tagged("A", &["x:1"])]).expect_none(tags(&["x:1"]), token);
        assert!(lab.refused(late).await?.is_conflict());
    }
    // Half a read is no basis for a decision: what it has not shown is in the way.
    let half = lab.store.read(Read::query(tags(&["x:1"])).limit(2)).await?.token;
    assert!(lab.refused(Append::new().expect_none(tags(&["x:1"]), half)).await?.is_conflict());
    Ok(Tried::Yes)
}

pub async fn pages_of_one_reading_show_one_moment(lab: Lab) -> Result<Tried> {
    lab.write("a-1", 10).await?;
    let mut counts = Vec::new();
    let store = lab.store.clone();
    let read = Read::all().limit(4);
    let first = store.read(read.clone()).await?;
    lab.write("a-1", 10).await?;
    let as_of = factum::AsOf::Position(first.head.position);
    let mut next = first.next;
    counts.push(first.events.len());
    while let Some(start) = next {
        let page = store.read(Read { start, ..read.clone().as_of(as_of) }).await?;
        counts.push(page.events.len());
        next = page.next;
    }
    assert_eq!(counts.iter().sum::<usize>(), 10);
    assert_eq!(store.read_to_end(Read::all().limit(3)).await?.len(), 20);
    Ok(Tried::Yes)
}

pub async fn a_stream_comes_with_its_state(lab: Lab) -> Result<Tried> {
    lab.write("a-1", 3).await?;
    let page = lab.store.read(Read::stream(stream("a-1")).limit(1)).await?;
    assert_eq!(page.stream, Some(lab.store.stream_state(&stream("a-1")).await?));
    assert_eq!(page.stream.and_then(|state| state.last_revision), Some(Revision(2)));
    assert_eq!(lab.store.read(Read::all()).await?.stream, None);
    let never = lab.store.read(Read::stream(stream("never"))).await?;
    assert_eq!((never.events.len(), never.stream), (0, Some(factum::StreamState::default())));
    Ok(Tried::Yes)
}

pub async fn a_senseless_read_is_refused(lab: Lab) -> Result<Tried> {
    lab.write("a-1", 3).await?;
    let senseless = [
        Read::all().limit(0),
        Read { start: Start::Revision(Revision(0)), ..Read::all() },
        Read { start: Start::Revision(Revision(0)), ..Read::query(Query::all()) },
    ];
    for read in senseless {
        let refused = lab.store.read(read.clone()).await;
        assert!(matches!(refused, Err(Error::InvalidInput { .. })), "{read:?}: {refused:?}");
    }
    assert_eq!(lab.store.read(Read::all().limit(usize::MAX)).await?.events.len(), 3);
    Ok(Tried::Yes)
}

pub async fn a_long_stream_among_many_short_ones_comes_back_whole(lab: Lab) -> Result<Tried> {
    for n in 0..50 {
        lab.write("long-1", 20).await?;
        lab.write(&format!("short-{n}"), 1).await?;
    }
    assert_eq!(pages(&lab, Read::stream(stream("long-1")).limit(64)).await?.len(), 1000);
    assert_eq!(pages(&lab, Read::query(Query::category("short")).limit(7)).await?.len(), 50);
    assert_eq!(pages(&lab, Read::all().limit(100)).await?.len(), 1050);
    Ok(Tried::Yes)
}
