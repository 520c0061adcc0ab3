//! An append that is sent again is recognised by its event ids, for ever, before anything else is looked at.

use factum::{
    Append, ContentType, Error, EventStoreExt, ExpectedRevision, Metadata, NewEvent, Placed, Result,
    Retention, Revision, Tags, error::IdProblem,
};

use crate::lab::{Lab, Tried, event, events, stream, tagged, tags};

/// Sends again what was acknowledged, and checks that the original places come back and nothing is written.
pub(super) async fn replays(lab: &Lab, again: Append, original: &[Placed]) -> Result<()> {
    let head = lab.head().await?;
    let appended = lab.append(again).await?;
    assert!(appended.replayed, "{appended:?}");
    assert_eq!(appended.events, original);
    let last = original.iter().map(|placed| placed.position).max().unwrap_or_default();
    assert!(appended.token.position >= last, "{appended:?}");
    assert_eq!(lab.head().await?, head, "a replay writes nothing");
    Ok(())
}

fn id_conflict(error: &Error, wanted: Option<IdProblem>) {
    match error {
        Error::IdConflict { problem, .. } if wanted.is_none_or(|wanted| wanted == *problem) => {}
        other => panic!("an IdConflict ({wanted:?}) was due, but the store said: {other:?}"),
    }
}

pub async fn the_original_places_come_back_before_guards_are_looked_at(lab: Lab) -> Result<Tried> {
    let start = lab.head().await?;
    let append = Append::to(stream("a-1"), events("A", 3))
        .write(stream("b-1"), [tagged("B", &["t:1"])])
        .expect(stream("a-1"), ExpectedRevision::NoStream)
        .expect_none(tags(&["t:1"]), start);
    let first = lab.append(append.clone()).await?;
    assert!(!first.replayed);
    replays(&lab, append.clone(), &first.events).await?;
    lab.write("a-1", 5).await?;
    replays(&lab, append, &first.events).await?;
    Ok(Tried::Yes)
}

pub async fn a_part_of_an_earlier_append_is_a_replay_too(lab: Lab) -> Result<Tried> {
    let [one, two, three] = [event("A"), event("A"), event("A")];
    let first = lab.append(Append::to(stream("a-1"), [one.clone(), two, three.clone()])).await?;
    replays(&lab, Append::to(stream("a-1"), [one.clone()]), &first.events[..1]).await?;
    replays(&lab, Append::to(stream("a-1"), [three, one]), &[first.events[2], first.events[0]]).await?;
    Ok(Tried::Yes)
}

pub async fn only_some_ids_are_a_clash(lab: Lab) -> Result<Tried> {
    let (old, new) = (event("Old"), event("New"));
    lab.append(Append::to(stream("a-1"), [old.clone()])).await?;
    let wanted = Some(IdProblem::PartlyRecorded);
    id_conflict(&lab.refused(Append::to(stream("a-1"), [old.clone(), new.clone()])).await?, wanted);
    id_conflict(&lab.refused(Append::to(stream("a-1"), [new.clone(), old.clone()])).await?, wanted);
    id_conflict(
        &lab.refused(Append::to(stream("b-1"), [new.clone()]).write(stream("a-1"), [old])).await?,
        wanted,
    );
    lab.append(Append::to(stream("a-1"), [new])).await?;
    Ok(Tried::Yes)
}

pub async fn other_content_is_a_clash_and_names_the_event(lab: Lab) -> Result<Tried> {
    let original = tagged("A", &["t:1"]).with_metadata(Metadata::from_json(r#"{"actor":"ada"}"#)?);
    lab.append(Append::to(stream("a-1"), [original.clone()])).await?;
    let changed = [
        NewEvent::json("A", &2)?.with_tags(original.tags.clone()).with_metadata(original.metadata.clone()),
        NewEvent { event_type: factum::EventType::new("B")?, ..original.clone() },
        NewEvent { content_type: ContentType::Bytes, ..original.clone() },
        NewEvent { tags: Tags::NONE, ..original.clone() },
        NewEvent { metadata: Metadata::EMPTY, ..original.clone() },
    ];
    for other in changed {
        let other = other.with_id(original.id);
        let error = lab.refused(Append::to(stream("a-1"), [other])).await?;
        id_conflict(&error, Some(IdProblem::OtherContent));
        let text = error.to_string();
        assert!(text.contains(&original.id.to_string()) && text.contains("a-1"), "{text}");
    }
    Ok(Tried::Yes)
}

pub async fn json_is_compared_as_a_value_and_bytes_as_bytes(lab: Lab) -> Result<Tried> {
    let sent = NewEvent::json_text("A", r#"{"a":1,"b":[true,null]}"#)?
        .with_metadata(Metadata::from_json(r#"{"actor":"ada","flow":"f"}"#)?);
    let first = lab.append(Append::to(stream("a-1"), [sent.clone()])).await?;
    let rewritten = NewEvent::json_text("A", "{ \"b\" : [true, null],\n \"a\" : 1 }")?
        .with_metadata(Metadata::from_json(r#"{ "flow":"f", "actor":"ada" }"#)?)
        .with_id(sent.id);
    replays(&lab, Append::to(stream("a-1"), [rewritten]), &first.events).await?;
    let raw = NewEvent::bytes("B", "{\"a\":1}")?;
    lab.append(Append::to(stream("a-1"), [raw.clone()])).await?;
    let spaced = NewEvent { data: "{ \"a\":1}".into(), ..raw };
    id_conflict(&lab.refused(Append::to(stream("a-1"), [spaced])).await?, Some(IdProblem::OtherContent));
    Ok(Tried::Yes)
}

pub async fn json_numbers_are_compared_to_the_last_digit(lab: Lab) -> Result<Tried> {
    let metadata = |n: &str| Metadata::from_json(format!("{{\"n\":{n}}}"));
    for (n, (sent, same, other)) in [
        ("1.0", " 1.0 ", "1.1"),
        ("10000000000000000000001", "10000000000000000000001 ", "10000000000000000000002"),
        ("0.1", "\n0.1", "0.10000000000000000555"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = stream(&format!("a-{n}"));
        let event = NewEvent::json_text("A", sent)?.with_metadata(metadata(sent)?);
        let first = lab.append(Append::to(name.clone(), [event.clone()])).await?;
        let again = NewEvent { data: same.into(), metadata: metadata(same)?, ..event.clone() };
        replays(&lab, Append::to(name.clone(), [again]), &first.events).await?;
        let other_data = NewEvent { data: other.into(), ..event.clone() };
        let other_metadata = NewEvent { metadata: metadata(other)?, ..event };
        for changed in [other_data, other_metadata] {
            let error = lab.refused(Append::to(name.clone(), [changed])).await?;
            id_conflict(&error, Some(IdProblem::OtherContent));
        }
    }
    Ok(Tried::Yes)
}

pub async fn ids_are_taken_within_a_stream_only(lab: Lab) -> Result<Tried> {
    let event = event("A");
    let first = lab.append(Append::to(stream("a-1"), [event.clone()])).await?;
    let second = lab.append(Append::to(stream("a-2"), [event.clone()])).await?;
    assert!(!second.replayed);
    replays(&lab, Append::to(stream("a-1"), [event.clone()]), &first.events).await?;
    replays(&lab, Append::to(stream("a-2"), [event]), &second.events).await?;
    Ok(Tried::Yes)
}

pub async fn hidden_events_keep_their_ids(lab: Lab) -> Result<Tried> {
    for name in ["hidden-truncated", "hidden-deleted", "hidden-revived", "hidden-tombstoned"] {
        let append =
            Append::to(stream(name), events("A", 2)).expect(stream(name), ExpectedRevision::NoStream);
        let first = lab.append(append.clone()).await?.events;
        let all = Retention { truncate_before: Some(Revision(2)), ..Retention::default() };
        match name {
            "hidden-truncated" => lab.store.set_retention(&stream(name), ExpectedRevision::Any, all).await?,
            "hidden-tombstoned" => lab.store.tombstone(&stream(name), ExpectedRevision::Any).await?,
            _ => lab.store.delete(&stream(name), ExpectedRevision::Any).await?,
        };
        if name == "hidden-revived" {
            lab.write(name, 1).await?;
        }
        replays(&lab, append, &first).await?;
    }
    Ok(Tried::Yes)
}

pub async fn ids_are_remembered_behind_many_others(lab: Lab) -> Result<Tried> {
    let append = Append::to(stream("a-1"), events("A", 1));
    let first = lab.append(append.clone()).await?.events;
    for _ in 0..20 {
        lab.write("a-1", 100).await?;
    }
    replays(&lab, append, &first).await?;
    Ok(Tried::Yes)
}

pub async fn a_large_append_is_recognised_whole(lab: Lab) -> Result<Tried> {
    let mut append = Append::new();
    for n in 0..10 {
        append = append.write(stream(&format!("a-{n}")), events("A", 100));
    }
    let first = lab.append(append.clone()).await?.events;
    replays(&lab, append, &first).await?;
    Ok(Tried::Yes)
}

pub async fn a_refused_append_leaves_its_ids_free(lab: Lab) -> Result<Tried> {
    let event = event("A");
    let append =
        Append::to(stream("a-1"), [event.clone()]).expect(stream("b-1"), ExpectedRevision::StreamExists);
    assert!(lab.refused(append).await?.is_conflict());
    assert!(!lab.append(Append::to(stream("a-1"), [event])).await?.replayed);
    Ok(Tried::Yes)
}
