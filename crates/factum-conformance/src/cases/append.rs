//! An append is atomic: all or nothing, one contiguous run in the order given.

use factum::{Append, Durability, ExpectedRevision, Read, Result, Revision};

use crate::lab::{Lab, Tried, event, events, stream};

pub async fn an_empty_log_has_nothing(lab: Lab) -> Result<Tried> {
    let head = lab.store.head().await?;
    assert_eq!((head.token.position.0, head.recorded_at), (0, None), "the head of an empty log");
    assert_eq!(lab.all().await?, []);
    assert_eq!(lab.of("never-written").await?, []);
    assert_eq!(lab.store.stream_state(&stream("never-written")).await?, factum::StreamState::default());
    Ok(Tried::Yes)
}

pub async fn what_is_read_is_what_was_sent(lab: Lab) -> Result<Tried> {
    let sent = [
        event("Json"),
        factum::NewEvent::bytes("Bytes", vec![0, 255, 1, 10, 13, 39])?,
        factum::NewEvent { content_type: factum::ContentType::from_name("text/plain")?, ..event("Other") },
        factum::NewEvent::bytes("Empty", "")?,
        factum::NewEvent::json_text("Wide", r#"{"ü":[1,2.5,null,true,"\u0000\n","9007199254740993"]}"#)?,
        crate::lab::tagged("Tagged", &["a:1", "b:2", "ключ:значение:3"])
            .with_metadata(factum::Metadata::from_json(r#"{"correlation_id":"c","mine":{"deep":[1]}}"#)?),
    ];
    let appended = lab.append(Append::to(stream("all-kinds"), sent.clone())).await?;
    let read = lab.of("all-kinds").await?;
    assert_eq!(read.len(), sent.len());
    for ((sent, read), placed) in sent.iter().zip(&read).zip(&appended.events) {
        assert!(sent.id == read.id && sent.same_content(read), "sent {sent:?}, read {read:?}");
        assert_eq!((read.position, read.revision), (placed.position, placed.revision));
        assert_eq!(read.stream, stream("all-kinds"));
    }
    Ok(Tried::Yes)
}

pub async fn positions_grow_and_revisions_have_no_holes(lab: Lab) -> Result<Tried> {
    let mut last = lab.head().await?.position;
    for round in 0..20 {
        let appended = lab.write(if round % 3 == 0 { "a-1" } else { "b-1" }, 1 + round % 4).await?;
        for placed in &appended.events {
            assert!(placed.position > last, "position {} after {last}", placed.position);
            last = placed.position;
        }
        assert_eq!(appended.token.position, last, "a reader who has come to the token has seen it all");
        assert_eq!(lab.head().await?, appended.token, "what is acknowledged is readable");
    }
    for name in ["a-1", "b-1"] {
        let read = lab.of(name).await?;
        let revisions: Vec<u64> = read.iter().map(|event| event.revision.0).collect();
        assert_eq!(revisions, (0..read.len() as u64).collect::<Vec<_>>());
    }
    Ok(Tried::Yes)
}

pub async fn many_streams_are_written_as_one_in_the_order_given(lab: Lab) -> Result<Tried> {
    lab.write("b-1", 2).await?;
    let [a0, b2, a1, c0, a2] = ["A0", "B2", "A1", "C0", "A2"].map(event);
    let append = Append::to(stream("a-1"), [a0]).write(stream("b-1"), [b2]).write(stream("a-1"), [a1]);
    let appended = lab.append(append.write(stream("c-1"), [c0]).write(stream("a-1"), [a2])).await?;
    let revisions: Vec<u64> = appended.events.iter().map(|placed| placed.revision.0).collect();
    assert_eq!(revisions, [0, 2, 1, 0, 2]);
    assert!(!appended.replayed);
    let all = lab.all().await?;
    let kinds: Vec<&str> = all.iter().map(|event| &*event.event_type).collect();
    assert_eq!(kinds, ["Happened", "Happened", "A0", "B2", "A1", "C0", "A2"]);
    Ok(Tried::Yes)
}

pub async fn all_events_of_one_append_have_one_time(lab: Lab) -> Result<Tried> {
    lab.append(Append::to(stream("a-1"), events("A", 3)).write(stream("b-1"), events("B", 3))).await?;
    let all = lab.all().await?;
    assert!(all.iter().all(|event| event.recorded_at == all[0].recorded_at), "{all:?}");
    assert_eq!(lab.store.head().await?.recorded_at, Some(all[0].recorded_at));
    Ok(Tried::Yes)
}

pub async fn one_bad_guard_undoes_all(lab: Lab) -> Result<Tried> {
    lab.write("a-1", 1).await?;
    let append = Append::to(stream("new-1"), events("N", 5))
        .write(stream("a-1"), events("A", 5))
        .expect(stream("new-1"), ExpectedRevision::NoStream)
        .expect(stream("a-1"), ExpectedRevision::Exact(Revision(7)));
    assert!(lab.refused(append).await?.is_conflict());
    assert_eq!(lab.store.stream_state(&stream("new-1")).await?.last_revision, None);
    assert_eq!(lab.store.stream_state(&stream("a-1")).await?.last_revision, Some(Revision(0)));
    Ok(Tried::Yes)
}

pub async fn an_append_of_nothing_is_refused(lab: Lab) -> Result<Tried> {
    for nothing in [Append::new(), Append::to(stream("a-1"), [])] {
        let error = lab.refused(nothing).await?;
        assert!(matches!(error, factum::Error::InvalidInput { .. }), "{error:?}");
    }
    Ok(Tried::Yes)
}

pub async fn guards_alone_check_and_write_nothing(lab: Lab) -> Result<Tried> {
    let head = lab.write("a-1", 2).await?.token;
    let exact = |n| Append::new().expect(stream("a-1"), ExpectedRevision::Exact(Revision(n)));
    let checked = lab.append(exact(1)).await?;
    assert_eq!((checked.events.len(), checked.replayed), (0, false));
    assert!(checked.token.position <= head.position, "{checked:?}");
    assert!(lab.refused(exact(0)).await?.is_conflict());
    assert_eq!(lab.head().await?, head, "checking writes nothing");
    // A write without events is no write.
    lab.append(Append::to(stream("b-1"), []).expect(stream("b-1"), ExpectedRevision::NoStream)).await?;
    assert_eq!(lab.head().await?, head);
    Ok(Tried::Yes)
}

pub async fn the_same_id_twice_in_one_append_is_refused(lab: Lab) -> Result<Tried> {
    let twin = event("Twin");
    let error = lab.refused(Append::to(stream("a-1"), [twin.clone(), twin.clone()])).await?;
    assert!(matches!(error, factum::Error::InvalidInput { .. }), "{error:?}");
    // In two streams it is two events.
    let both = Append::to(stream("a-1"), [twin.clone()]).write(stream("b-1"), [twin]);
    assert_eq!(lab.append(both).await?.events.len(), 2);
    Ok(Tried::Yes)
}

pub async fn an_ack_says_how_safe_it_is(lab: Lab) -> Result<Tried> {
    let appended = lab.write("a-1", 1).await?;
    let expected = if lab.harness().durable() { Durability::Synced } else { Durability::Relaxed };
    assert_eq!(appended.durability, expected);
    Ok(Tried::Yes)
}

pub async fn an_acknowledged_append_is_seen_at_once_by_every_kind_of_read(lab: Lab) -> Result<Tried> {
    for n in 0..50 {
        let event = crate::lab::tagged("Seen", &["n:1"]);
        let id = event.id;
        lab.append(Append::to(stream(&format!("s-{}", n % 5)), [event])).await?;
        let name = stream(&format!("s-{}", n % 5));
        for read in [Read::all(), Read::stream(name), Read::query(crate::lab::tags(&["n:1"]))] {
            let page = lab.store.read(read.backwards().limit(1)).await?;
            assert_eq!(page.events.first().map(|event| event.id), Some(id), "a stale read after the ack");
        }
    }
    Ok(Tried::Yes)
}
