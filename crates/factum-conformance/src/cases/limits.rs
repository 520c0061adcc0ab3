//! Every limit: exactly at it is taken, one past it is refused by name.

use factum::{
    Append, Error, Limits, Metadata, NewEvent, Result, StreamName, Tags,
    append::GUARDS,
    error::Limit,
    event::METADATA_BYTES,
    name::{STREAM_NAME_BYTES, TYPE_BYTES},
    tags::{TAG_BYTES, TAGS},
};

use crate::lab::{Lab, Tried, event, events, stream};

/// Small limits, so that tests are quick.
const SMALL: Limits = Limits { event_bytes: 1000, append_bytes: 3000, append_events: 5 };

fn exceeded(error: &Error, limit: Limit, allowed: usize, actual: usize) {
    assert_eq!(*error, Error::LimitExceeded { limit, allowed: allowed as u64, actual: actual as u64 });
    let text = error.to_string();
    assert!(text.contains(&allowed.to_string()) && text.contains(&actual.to_string()), "{text}");
}

/// An event of exactly so many bytes, as limits count them.
fn sized(bytes: usize) -> Result<NewEvent> {
    NewEvent::bytes("Sized", vec![7; bytes - "Sized".len()])
}

pub async fn a_store_says_what_it_takes(lab: Lab) -> Result<Tried> {
    assert_eq!(lab.store.limits(), Limits::default());
    assert_eq!(lab.another(SMALL).await?.store.limits(), SMALL);
    Ok(Tried::Yes)
}

pub async fn the_size_of_an_event(lab: Lab) -> Result<Tried> {
    for (limits, allowed) in [(SMALL, 1000), (Limits::default(), 1 << 20)] {
        let lab = lab.another(limits).await?;
        lab.append(Append::to(stream("a-1"), [sized(allowed)?])).await?;
        let error = lab.refused(Append::to(stream("a-1"), [sized(allowed + 1)?])).await?;
        exceeded(&error, Limit::EventBytes, allowed, allowed + 1);
        assert_eq!(lab.of("a-1").await?[0].data.len(), allowed - "Sized".len());
    }
    Ok(Tried::Yes)
}

pub async fn the_largest_event_that_can_be_configured(lab: Lab) -> Result<Tried> {
    let limits = Limits { event_bytes: 16 << 20, append_bytes: 16 << 20, ..Limits::default() };
    let lab = lab.another(limits).await?;
    let largest = sized(16 << 20)?;
    lab.append(Append::to(stream("a-1"), [largest.clone()])).await?;
    assert!(lab.of("a-1").await?[0].data == largest.data, "the largest event came back changed");
    Ok(Tried::Yes)
}

pub async fn metadata_type_and_tags_count_too(lab: Lab) -> Result<Tried> {
    let lab = lab.another(SMALL).await?;
    let full = sized(900)?.with_tags(Tags::new(["k:v"])?);
    let room = 1000 - full.size() - r#"{"a":""}"#.len();
    let with = |length| Metadata::from_json(format!(r#"{{"a":"{}"}}"#, "m".repeat(length)));
    lab.append(Append::to(stream("a-1"), [full.clone().with_metadata(with(room)?)])).await?;
    let error = lab.refused(Append::to(stream("a-1"), [full.with_metadata(with(room + 1)?)])).await?;
    exceeded(&error, Limit::EventBytes, 1000, 1001);
    Ok(Tried::Yes)
}

pub async fn the_size_of_an_append(lab: Lab) -> Result<Tried> {
    let lab = lab.another(SMALL).await?;
    let three = |last| Ok::<_, Error>([sized(1000)?, sized(1000)?, sized(last)?]);
    lab.append(Append::to(stream("a-1"), three(1000)?)).await?;
    let over = Append::to(stream("a-1"), three(1000)?).write(stream("b-1"), [NewEvent::bytes("S", "")?]);
    exceeded(&lab.refused(over).await?, Limit::AppendBytes, 3000, 3001);
    Ok(Tried::Yes)
}

pub async fn the_number_of_events_of_an_append(lab: Lab) -> Result<Tried> {
    let small = lab.another(SMALL).await?;
    small.append(Append::to(stream("a-1"), events("A", 3)).write(stream("b-1"), events("B", 2))).await?;
    let error =
        small.refused(Append::to(stream("a-1"), events("A", 3)).write(stream("b-1"), events("B", 3))).await?;
    exceeded(&error, Limit::AppendEvents, 5, 6);
    assert_eq!(lab.write("a-1", 10_000).await?.events.len(), 10_000);
    let error = lab.refused(Append::to(stream("a-1"), events("A", 10_001))).await?;
    exceeded(&error, Limit::AppendEvents, 10_000, 10_001);
    assert_eq!(lab.of("a-1").await?.len(), 10_000);
    Ok(Tried::Yes)
}

pub async fn the_number_of_guards(lab: Lab) -> Result<Tried> {
    let with = |count| {
        let guarded = |append: Append, n| {
            append.expect(stream(&format!("free-{n}")), factum::ExpectedRevision::NoStream)
        };
        (0..count).fold(Append::to(stream("a-1"), [event("A")]), guarded)
    };
    lab.append(with(GUARDS)).await?;
    exceeded(&lab.refused(with(GUARDS + 1)).await?, Limit::Guards, GUARDS, GUARDS + 1);
    Ok(Tried::Yes)
}

pub async fn the_longest_names_tags_and_metadata_come_back(lab: Lab) -> Result<Tried> {
    let name = format!("a-{}", "é".repeat((STREAM_NAME_BYTES - 2) / 2));
    assert_eq!(name.len(), STREAM_NAME_BYTES);
    let tags: Vec<String> = (0..TAGS).map(|n| format!("{n:02}:{}", "v".repeat(TAG_BYTES - 3))).collect();
    let metadata = format!(r#"{{"a":"{}"}}"#, "m".repeat(METADATA_BYTES - 8));
    let sent = event(&"T".repeat(TYPE_BYTES))
        .with_tags(Tags::new(&tags)?)
        .with_metadata(Metadata::from_json(metadata)?);
    lab.append(Append::to(stream(&name), [sent.clone()])).await?;
    assert!(sent.same_content(&lab.of(&name).await?[0]));
    let query = factum::Query::tags([&tags[TAGS - 1]])?;
    assert_eq!(lab.store.read(factum::Read::query(query)).await?.events.len(), 1);
    Ok(Tried::Yes)
}

pub async fn what_is_too_long_is_refused_before_it_is_sent(_lab: Lab) -> Result<Tried> {
    let refused = |result: Result<()>, limit, allowed, actual| match result {
        Err(error) => exceeded(&error, limit, allowed, actual),
        Ok(()) => panic!("{limit} of {actual} was taken"),
    };
    let long = |length| "x".repeat(length);
    refused(StreamName::new(long(513)).map(drop), Limit::StreamNameBytes, 512, 513);
    refused(NewEvent::bytes(&long(257), "").map(drop), Limit::TypeBytes, 256, 257);
    refused(factum::ContentType::from_name(long(257)).map(drop), Limit::TypeBytes, 256, 257);
    refused(Tags::new([format!("k:{}", long(255))]).map(drop), Limit::TagBytes, 256, 257);
    refused(Tags::new((0..65).map(|n| format!("k:{n}"))).map(drop), Limit::Tags, 64, 65);
    let metadata = Metadata::from_json(format!(r#"{{"a":"{}"}}"#, long(METADATA_BYTES - 7)));
    refused(metadata.map(drop), Limit::MetadataBytes, METADATA_BYTES, METADATA_BYTES + 1);
    Ok(Tried::Yes)
}
