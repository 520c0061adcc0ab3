//! What a store gives back after it was closed and opened again: everything.

use factum::{
    Append, Error, EventStoreExt, ExpectedRevision, ExpectedRevision::Any, Query, Read, Result, Retention,
    Revision, StreamState,
};

use crate::{
    cases::idempotency::replays,
    lab::{Lab, Tried, catch_up, event, events, stream, tagged, tags},
};

const CANNOT: Result<Tried> = Ok(Tried::Skipped("the harness cannot open the same data again"));

pub async fn everything_comes_back(lab: Lab) -> Result<Tried> {
    for n in 0..30 {
        let tagged = tagged("T", &[&format!("n:{n}"), "all:1"]);
        let append =
            Append::to(stream(&format!("a-{}", n % 3)), [tagged]).write(stream("b-1"), events("B", n % 4));
        lab.append(append).await?;
    }
    let (all, head) = (lab.all().await?, lab.store.head().await?);
    let found = lab.store.read_to_end(Read::query(tags(&["all:1"]))).await?;
    let Some(lab) = lab.reopened().await? else { return CANNOT };
    assert_eq!(lab.store.head().await?, head, "the head, the log's id and its epoch");
    assert_eq!(lab.all().await?, all);
    assert_eq!(lab.store.read_to_end(Read::query(tags(&["all:1"]))).await?, found);
    assert_eq!(
        lab.of("b-1").await?,
        all.iter().filter(|event| event.stream == *"b-1").cloned().collect::<Vec<_>>()
    );
    Ok(Tried::Yes)
}

pub async fn an_empty_log_comes_back_as_the_same_log(lab: Lab) -> Result<Tried> {
    let log = lab.log().await?;
    let Some(lab) = lab.reopened().await? else { return CANNOT };
    assert_eq!(lab.log().await?, log);
    assert_eq!(lab.all().await?, []);
    assert_eq!(lab.write("a-1", 1).await?.events[0].revision, Revision(0));
    Ok(Tried::Yes)
}

pub async fn positions_revisions_and_tokens_go_on(lab: Lab) -> Result<Tried> {
    let token = lab.write("a-1", 3).await?.token;
    let mut lab = lab;
    for round in 0..3 {
        let Some(reopened) = lab.reopened().await? else { return CANNOT };
        lab = reopened;
        let appended = lab.write("a-1", 1).await?;
        assert!(appended.events[0].position > token.position);
        assert_eq!(appended.events[0].revision, Revision(3 + round));
        assert_eq!(lab.store.read(Read::all().beyond(token)).await?.events.len() as u64, 1 + round);
        lab.append(Append::new().expect_none(Query::types(["Nope"])?, token)).await?;
        assert!(lab.refused(Append::new().expect_none(Query::all(), token)).await?.is_conflict());
    }
    Ok(Tried::Yes)
}

pub async fn ids_are_still_known(lab: Lab) -> Result<Tried> {
    let append = Append::to(stream("a-1"), events("A", 3)).expect(stream("a-1"), ExpectedRevision::NoStream);
    let first = lab.append(append.clone()).await?.events;
    let deleted = Append::to(stream("gone-1"), events("G", 2));
    let hidden = lab.append(deleted.clone()).await?.events;
    lab.store.delete(&stream("gone-1"), Any).await?;
    let Some(lab) = lab.reopened().await? else { return CANNOT };
    replays(&lab, append.clone(), &first).await?;
    replays(&lab, deleted, &hidden).await?;
    let mut partly = append;
    partly.writes[0].events.push(event("New"));
    assert!(matches!(lab.refused(partly).await?, Error::IdConflict { .. }));
    Ok(Tried::Yes)
}

pub async fn the_lives_of_streams_come_back(lab: Lab) -> Result<Tried> {
    let names = ["kept-1", "cut-1", "few-1", "deleted-1", "revived-1", "dead-1", "described-1"];
    for name in &names[..6] {
        lab.write(name, 5).await?;
    }
    let before = Retention { truncate_before: Some(Revision(2)), ..Retention::default() };
    lab.store.set_retention(&stream("cut-1"), Any, before).await?;
    let few = Retention { max_count: Some(2), ..Retention::default() };
    lab.store.set_retention(&stream("few-1"), Any, few).await?;
    lab.store.set_retention(&stream("described-1"), Any, few).await?;
    lab.store.delete(&stream("deleted-1"), Any).await?;
    lab.store.delete(&stream("revived-1"), Any).await?;
    lab.write("revived-1", 1).await?;
    lab.store.tombstone(&stream("dead-1"), Any).await?;
    let (mut states, all): (Vec<StreamState>, _) = (Vec::new(), lab.all().await?);
    for name in names {
        states.push(lab.store.stream_state(&stream(name)).await?);
    }
    let Some(lab) = lab.reopened().await? else { return CANNOT };
    for (name, state) in names.iter().zip(states) {
        assert_eq!(lab.store.stream_state(&stream(name)).await?, state, "{name}");
    }
    assert_eq!(lab.all().await?, all);
    assert!(matches!(
        lab.refused(Append::to(stream("dead-1"), [event("E")])).await?,
        Error::Tombstoned { .. }
    ));
    lab.write("few-1", 1).await?;
    assert_eq!(lab.of("few-1").await?.len(), 2);
    Ok(Tried::Yes)
}

pub async fn a_checkpoint_is_good_after_it(lab: Lab) -> Result<Tried> {
    lab.write("a-1", 10).await?;
    let mut subscription = lab.subscribe(Query::all(), None).await?;
    let seen = catch_up(&mut subscription).await?.len();
    let checkpoint = subscription.token();
    // The store can only be closed once nobody reads it any more.
    drop(subscription);
    lab.write("a-1", 5).await?;
    let Some(lab) = lab.reopened().await? else { return CANNOT };
    let rest = catch_up(&mut lab.subscribe(Query::all(), Some(checkpoint)).await?).await?;
    assert_eq!((seen, rest.len()), (10, 5));
    Ok(Tried::Yes)
}

pub async fn time_goes_on(lab: Lab) -> Result<Tried> {
    let clock = lab.clock();
    if let Some(clock) = &clock {
        clock.set(100);
    }
    lab.write("a-1", 1).await?;
    if let Some(clock) = &clock {
        clock.set(50);
    }
    let Some(lab) = lab.reopened().await? else { return CANNOT };
    lab.write("a-1", 1).await?;
    let times: Vec<_> = lab.of("a-1").await?.iter().map(|event| event.recorded_at).collect();
    assert!(times.is_sorted(), "time ran backwards over a restart: {times:?}");
    Ok(Tried::Yes)
}
