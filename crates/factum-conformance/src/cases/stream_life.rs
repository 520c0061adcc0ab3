//! A stream's life: what is hidden never comes back, positions stay, and a tombstone is for ever.

use factum::{
    Append, AsOf, Error, EventStoreExt, ExpectedRevision::Any, ExpectedRevision::Exact, Life, Query, Read,
    Result, Retention, Revision,
};

use crate::lab::{Lab, Tried, event, stream, tagged, tags};

async fn revisions(lab: &Lab, name: &str) -> Result<Vec<u64>> {
    Ok(lab.of(name).await?.iter().map(|event| event.revision.0).collect())
}

async fn keep(lab: &Lab, name: &str, retention: Retention) -> Result<()> {
    lab.store.set_retention(&stream(name), Any, retention).await?;
    Ok(())
}

fn before(revision: u64) -> Retention {
    Retention { truncate_before: Some(Revision(revision)), ..Retention::default() }
}

fn newest(max_count: u64) -> Retention {
    Retention { max_count: Some(max_count), ..Retention::default() }
}

fn young(seconds: u64) -> Retention {
    Retention { max_age_seconds: Some(seconds), ..Retention::default() }
}

pub async fn truncation_hides_from_every_kind_of_read(lab: Lab) -> Result<Tried> {
    lab.append(Append::to(stream("a-1"), (0..6).map(|_| tagged("T", &["k:1"])))).await?;
    let all = lab.of("a-1").await?;
    let head = lab.head().await?;
    keep(&lab, "a-1", before(4)).await?;
    let of_a = |read: Read| async {
        let read = lab.store.read_to_end(read).await?;
        Ok::<_, Error>(read.into_iter().filter(|event| event.stream == *"a-1").collect::<Vec<_>>())
    };
    let reads = [
        Read::all(),
        Read::stream(stream("a-1")),
        Read::query(tags(&["k:1"])),
        Read::query(Query::stream(stream("a-1"))),
    ];
    for read in reads {
        assert_eq!(of_a(read.clone()).await?, all[4..], "{read:?}");
        let mut backwards = of_a(read.clone().backwards().limit(1)).await?;
        backwards.reverse();
        assert_eq!(backwards, all[4..], "positions and revisions stay: {read:?}");
        assert_eq!(of_a(read.as_of(AsOf::Position(head.position))).await?, all[4..], "hidden then, too");
    }
    assert_eq!(revisions(&lab, "a-1").await?, [4, 5]);
    let from_hidden = Read::stream(stream("a-1")).from_revision(Revision(1)).limit(1);
    assert_eq!(lab.store.read(from_hidden).await?.events, all[4..5]);
    Ok(Tried::Yes)
}

pub async fn what_is_hidden_never_comes_back(lab: Lab) -> Result<Tried> {
    lab.write("a-1", 10).await?;
    keep(&lab, "a-1", newest(4)).await?;
    assert_eq!(revisions(&lab, "a-1").await?, [6, 7, 8, 9]);
    lab.write("a-1", 1).await?;
    assert_eq!(revisions(&lab, "a-1").await?, [7, 8, 9, 10]);
    for laxer in [newest(100), before(0), Retention::default()] {
        keep(&lab, "a-1", laxer).await?;
        assert_eq!(revisions(&lab, "a-1").await?, [7, 8, 9, 10], "{laxer:?}");
    }
    lab.write("a-1", 1).await?;
    assert_eq!(revisions(&lab, "a-1").await?, [7, 8, 9, 10, 11]);
    keep(&lab, "a-1", newest(0)).await?;
    lab.write("a-1", 1).await?;
    assert_eq!(revisions(&lab, "a-1").await?, [] as [u64; 0]);
    assert_eq!(lab.store.stream_state(&stream("a-1")).await?.last_revision, Some(Revision(12)));
    Ok(Tried::Yes)
}

pub async fn the_future_is_not_truncated(lab: Lab) -> Result<Tried> {
    lab.write("a-1", 2).await?;
    keep(&lab, "a-1", before(1000)).await?;
    assert_eq!(revisions(&lab, "a-1").await?, [] as [u64; 0]);
    lab.write("a-1", 2).await?;
    assert_eq!(revisions(&lab, "a-1").await?, [2, 3]);
    Ok(Tried::Yes)
}

pub async fn a_stream_can_be_described_before_it_is_written(lab: Lab) -> Result<Tried> {
    keep(&lab, "a-1", newest(2)).await?;
    lab.write("a-1", 5).await?;
    assert_eq!(revisions(&lab, "a-1").await?, [3, 4]);
    assert_eq!(lab.store.stream_state(&stream("a-1")).await?.retention, newest(2));
    Ok(Tried::Yes)
}

pub async fn age_hides_as_time_passes(lab: Lab) -> Result<Tried> {
    let Some(clock) = lab.clock() else { return Ok(Tried::Skipped("the harness has no clock to move")) };
    for now in [100, 110, 120] {
        clock.set(now);
        lab.write("a-1", 1).await?;
    }
    let start = lab.log().await?.at(factum::Position::START);
    keep(&lab, "a-1", young(10)).await?;
    for (now, wanted) in [(120, vec![1, 2]), (121, vec![2]), (130, vec![2]), (131, vec![])] {
        clock.set(now);
        assert_eq!(revisions(&lab, "a-1").await?, wanted, "at second {now}");
    }
    lab.append(Append::new().expect_none(Query::stream(stream("a-1")), start)).await?;
    // Once the log knows how late it is, a clock that is turned back reveals nothing.
    lab.write("b-1", 1).await?;
    clock.set(121);
    assert_eq!(revisions(&lab, "a-1").await?, [] as [u64; 0], "what was too old came back");
    keep(&lab, "a-1", Retention::default()).await?;
    assert_eq!(revisions(&lab, "a-1").await?, [] as [u64; 0]);
    lab.write("a-1", 1).await?;
    clock.set(1000);
    assert_eq!(revisions(&lab, "a-1").await?, [3]);
    Ok(Tried::Yes)
}

pub async fn a_deleted_stream_can_be_written_and_its_revisions_go_on(lab: Lab) -> Result<Tried> {
    lab.write("a-1", 3).await?;
    lab.store.delete(&stream("a-1"), Exact(Revision(2))).await?;
    assert_eq!(revisions(&lab, "a-1").await?, [] as [u64; 0]);
    let state = lab.store.stream_state(&stream("a-1")).await?;
    assert_eq!((state.life, state.last_revision), (Life::Deleted, Some(Revision(2))));
    assert_eq!(lab.write("a-1", 2).await?.events[0].revision, Revision(3));
    assert_eq!(revisions(&lab, "a-1").await?, [3, 4]);
    assert_eq!(lab.store.stream_state(&stream("a-1")).await?.life, Life::Live);
    Ok(Tried::Yes)
}

pub async fn there_must_be_something_to_delete(lab: Lab) -> Result<Tried> {
    let deleted = lab.store.delete(&stream("never"), Any).await;
    assert!(matches!(deleted, Err(Error::NotFound { .. })), "{deleted:?}");
    lab.write("a-1", 1).await?;
    let stale = lab.store.delete(&stream("a-1"), Exact(Revision(7))).await;
    assert!(stale.as_ref().is_err_and(Error::is_conflict), "{stale:?}");
    lab.store.delete(&stream("a-1"), Any).await?;
    let again = lab.store.delete(&stream("a-1"), Any).await;
    assert!(matches!(again, Err(Error::NotFound { .. })), "{again:?}");
    Ok(Tried::Yes)
}

pub async fn a_tombstone_is_for_ever(lab: Lab) -> Result<Tried> {
    lab.write("a-1", 3).await?;
    lab.write("b-1", 1).await?;
    lab.store.tombstone(&stream("a-1"), Any).await?;
    let is_tombstoned = |what: &str, error: Option<Error>| {
        assert_eq!(error, Some(Error::Tombstoned { stream: stream("a-1") }), "{what}");
    };
    is_tombstoned("a read", lab.store.read(Read::stream(stream("a-1"))).await.err());
    is_tombstoned("a write", Some(lab.refused(Append::to(stream("a-1"), [event("E")])).await?));
    let with_others = Append::to(stream("b-1"), [event("E")]).write(stream("a-1"), [event("E")]);
    is_tombstoned("a write with others", Some(lab.refused(with_others).await?));
    is_tombstoned("a second tombstone", lab.store.tombstone(&stream("a-1"), Any).await.err());
    is_tombstoned("retention", lab.store.set_retention(&stream("a-1"), Any, newest(1)).await.err());
    assert_eq!(lab.store.stream_state(&stream("a-1")).await?.life, Life::Tombstoned);
    assert_eq!(lab.store.read_to_end(Read::query(Query::category("a"))).await?, []);
    assert_eq!(lab.of("b-1").await?.len(), 1, "others live");
    Ok(Tried::Yes)
}

pub async fn an_append_cannot_write_to_a_stream_that_it_tombstones(lab: Lab) -> Result<Tried> {
    let tombstone = || factum::stream::LifeChange::Tombstoned.to_event();
    let after = Append::to(stream("$$a-1"), [tombstone()?]).write(stream("a-1"), [event("E")]);
    assert!(matches!(lab.refused(after).await?, Error::Tombstoned { .. }));
    let before = Append::to(stream("a-1"), [event("E")]).write(stream("$$a-1"), [tombstone()?]);
    lab.append(before).await?;
    assert!(matches!(lab.of("a-1").await, Err(Error::Tombstoned { .. })));
    Ok(Tried::Yes)
}

pub async fn hidden_events_are_in_no_guards_way(lab: Lab) -> Result<Tried> {
    let start = lab.head().await?;
    for name in ["cut-1", "deleted-1", "dead-1"] {
        lab.append(Append::to(stream(name), [tagged("T", &["k:1"])])).await?;
    }
    let guarded = || Append::new().expect_none(tags(&["k:1"]), start);
    assert!(lab.refused(guarded()).await?.is_conflict());
    keep(&lab, "cut-1", before(1)).await?;
    lab.store.delete(&stream("deleted-1"), Any).await?;
    assert!(lab.refused(guarded()).await?.is_conflict());
    lab.store.tombstone(&stream("dead-1"), Any).await?;
    lab.append(guarded()).await?;
    Ok(Tried::Yes)
}

pub async fn the_story_of_a_stream_is_itself_recorded(lab: Lab) -> Result<Tried> {
    lab.write("a-1", 3).await?;
    keep(&lab, "a-1", newest(2)).await?;
    lab.store.delete(&stream("a-1"), Any).await?;
    lab.store.tombstone(&stream("a-1"), Any).await?;
    let story = lab.of("$$a-1").await?;
    let kinds: Vec<&str> = story.iter().map(|event| event.event_type.as_str()).collect();
    assert_eq!(kinds, ["$metadata", "$deleted", "$tombstoned"]);
    assert_eq!(story[0].json::<Retention>()?, newest(2));
    assert_eq!(lab.all().await?, story, "all the rest is hidden");
    Ok(Tried::Yes)
}
