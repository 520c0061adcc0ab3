//! Names are any text: a store never makes a path, a pattern or a statement out of one.

use std::collections::BTreeSet;

use factum::{
    Append, Error, EventStoreExt, EventType, ExpectedRevision, Query, Read, Result, StreamName, Tags,
};

use crate::lab::{Lab, Tried, event, stream};

/// Names that break what is careless with them. Several differ only for whoever looks closely.
const AWKWARD: [&str; 36] = [
    "a",
    "A",
    " ",
    "  ",
    " a",
    "a ",
    ".",
    "..",
    "/",
    "\\",
    "../../etc/passwd",
    "C:\\con",
    "nul",
    "a/b",
    "a%2Fb",
    "a%",
    "a_",
    "a*",
    "'; DROP TABLE events; --",
    "\"quoted\"",
    "`tick`",
    "${HOME}",
    "$(rm)",
    "$",
    "$all",
    "-",
    "--",
    "a-",
    "-a",
    "a--b",
    "é",
    "e\u{301}",
    "ß",
    "日本語-😀",
    "\u{202e}right",
    "{\"json\":1}",
];

pub async fn awkward_stream_names_are_only_names(lab: Lab) -> Result<Tried> {
    for (n, name) in AWKWARD.iter().enumerate() {
        lab.append(
            Append::to(stream(name), crate::lab::events("E", 1 + n % 3))
                .expect(stream(name), ExpectedRevision::NoStream),
        )
        .await?;
    }
    for (n, name) in AWKWARD.iter().enumerate() {
        let read = lab.of(name).await?;
        assert_eq!(read.len(), 1 + n % 3, "{name:?} and another stream were taken for one");
        assert!(read.iter().all(|event| event.stream == stream(name)));
        assert_eq!(lab.store.read_to_end(Read::query(Query::stream(stream(name)))).await?, read);
        assert_eq!(
            lab.store.stream_state(&stream(name)).await?.last_revision.map(|last| last.0),
            Some(n as u64 % 3)
        );
    }
    for name in AWKWARD {
        lab.store.delete(&stream(name), ExpectedRevision::StreamExists).await?;
        assert_eq!(lab.of(name).await?, [], "{name:?}");
    }
    Ok(Tried::Yes)
}

pub async fn awkward_types_and_tags_are_only_names(lab: Lab) -> Result<Tried> {
    for name in AWKWARD {
        let tags = Tags::new([format!("k:{name}"), format!("{name}:v")])?;
        lab.append(Append::to(stream("a-1"), [event(name).with_tags(tags)])).await?;
    }
    for name in AWKWARD {
        for query in
            [Query::types([name])?, Query::tags([format!("k:{name}")])?, Query::tags([format!("{name}:v")])?]
        {
            let found = lab.store.read_to_end(Read::query(query)).await?;
            let types: Vec<&str> = found.iter().map(|event| event.event_type.as_str()).collect();
            assert_eq!(types, [name]);
        }
    }
    Ok(Tried::Yes)
}

pub async fn a_category_is_the_name_up_to_the_first_dash(lab: Lab) -> Result<Tried> {
    let names = ["account-1", "account-2-b", "account", "accounts-1", "Account-1", "-account-1", "account1"];
    for name in names {
        lab.write(name, 1).await?;
    }
    let of = async |category: &str| -> Result<BTreeSet<String>> {
        let found = lab.store.read_to_end(Read::query(Query::category(category))).await?;
        Ok(found.iter().map(|event| event.stream.to_string()).collect())
    };
    assert_eq!(
        of("account").await?,
        BTreeSet::from(["account-1", "account-2-b", "account"].map(str::to_owned))
    );
    assert_eq!(of("").await?, BTreeSet::from(["-account-1".to_owned()]));
    assert_eq!(of("account-2").await?, BTreeSet::new());
    Ok(Tried::Yes)
}

pub async fn control_characters_and_nothing_are_no_names(_lab: Lab) -> Result<Tried> {
    for bad in ["", "\0", "a\0b", "a\nb", "\u{7f}", "\u{85}", "tab\t"] {
        for refused in [
            StreamName::new(bad).map(drop),
            EventType::new(bad).map(drop),
            Tags::new([format!("k:{bad}")]).map(drop),
        ] {
            assert!(matches!(refused, Err(Error::InvalidInput { .. })), "{bad:?}: {refused:?}");
        }
    }
    Ok(Tried::Yes)
}

pub async fn metadata_streams_take_only_what_they_are_for(lab: Lab) -> Result<Tried> {
    lab.write("a-1", 1).await?;
    let bad = [
        Append::to(stream("$$a-1"), [event("Anything")]),
        Append::to(
            stream("$$a-1"),
            [factum::NewEvent::json("$metadata", &serde_json::json!({ "$maxCount": "many" }))?],
        ),
        Append::to(
            stream("$$a-1"),
            [factum::NewEvent::json("$metadata", &serde_json::json!({ "$unknown": 1 }))?],
        ),
        Append::to(stream("$$$$a-1"), [factum::NewEvent::json("$deleted", &serde_json::json!({}))?]),
        Append::to(stream("$$"), [factum::NewEvent::json("$deleted", &serde_json::json!({}))?]),
    ];
    for append in bad {
        let error = lab.refused(append).await?;
        assert!(matches!(error, Error::InvalidInput { .. }), "{error:?}");
    }
    Ok(Tried::Yes)
}
