//! `events.lock` over the life of a type of events.

use std::{fs, path::PathBuf};

use factum::{
    lock::{EventsLock, Report},
    prelude::*,
    shape,
};
use jiff::civil::Date;
use serde_json::json;

/// The first year.
#[derive(Serialize, Deserialize)]
enum First {
    Opened { owner: String },
    Deposited { euros: u64 },
    Noted(String),
    Closed,
}

impl Event for First {
    const CATEGORY: &'static str = "account";
}

const FIRST: &str = r##"# The shapes of all events that were ever stored. Written by a test (`events_lock!`) with FACTUM_UPDATE=1; commit it.
# What is stored is stored for ever: blocks are added, and not taken away.

event account Closed
shape {}
sample {}

event account Deposited
shape {
    euros: u64
}
sample {"euros":1}

event account Noted
shape string
sample "text"

event account Opened
shape {
    owner: string
}
sample {"owner":"text"}
"##;

fn compare<E: Event>(text: &str) -> Report {
    EventsLock::at("events.lock").of::<E>().compare(text)
}

/// What an update makes of a file, if it may.
#[track_caller]
fn updated<E: Event>(text: &str) -> String {
    let report = compare::<E>(text);
    assert_eq!(report.problems, [""; 0]);
    let again = compare::<E>(&report.text);
    assert_eq!((again.news.len(), &again.text), (0, &report.text), "what was written is up to date");
    report.text
}

#[track_caller]
fn problem<E: Event>(text: &str) -> String {
    let Report { mut problems, text: same, .. } = compare::<E>(text);
    assert_eq!(same, text, "what cannot be accepted is not written");
    assert_eq!(problems.len(), 1, "{problems:#?}");
    problems.remove(0)
}

#[test]
fn the_first_run_writes_what_there_is() {
    let report = compare::<First>("");
    assert_eq!(report.problems, [""; 0]);
    assert_eq!(report.news.first().map(String::as_str), Some("`account Closed`: it is new"));
    assert_eq!(report.text, FIRST);
    assert_eq!(compare::<First>(FIRST), Report { problems: vec![], news: vec![], text: FIRST.into() });
}

/// Another first year: nothing but an optional field has come.
#[derive(Serialize, Deserialize)]
enum Added {
    Closed,
    Deposited {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        on: Option<Date>,
        euros: u64,
    },
    Noted(String),
    Opened {
        owner: String,
    },
    Frozen {
        why: String,
    },
}

impl Event for Added {
    const CATEGORY: &'static str = "account";
}

#[test]
fn optional_fields_and_new_types_are_accepted_and_old_samples_stay() {
    let report = compare::<Added>(FIRST);
    assert_eq!(
        report.news,
        ["`account Deposited`: `on` is new, and optional", "`account Frozen`: it is new"]
    );
    let text = updated::<Added>(FIRST);
    let deposited = "shape {\n    on?: string(date) | null\n    euros: u64\n}\nsample {\"euros\":1}\n";
    assert!(text.contains(deposited), "{text}");
    // It may go again, but its name is taken.
    let without = compare::<First>(
        &text.replace("event account Frozen\nshape {\n    why: string\n}\nsample {\"why\":\"text\"}\n", ""),
    );
    assert_eq!((without.problems.len(), without.news.len()), (0, 0), "{without:#?}");
    assert!(without.text.contains("    on?: string(date) | null\n"), "{}", without.text);
    let told = problem_of(&compare::<Retyped>(&text), "Deposited");
    assert!(told.contains("`on` was string(date), and is u64"), "{told}");
}

#[derive(Serialize, Deserialize)]
enum Retyped {
    Deposited { on: Option<u64>, euros: u64 },
}

impl Event for Retyped {
    const CATEGORY: &'static str = "account";
}

#[track_caller]
fn problem_of(report: &Report, event_type: &str) -> String {
    let found =
        report.problems.iter().find(|problem| problem.starts_with(&format!("`account {event_type}`")));
    found.unwrap_or_else(|| panic!("{:#?}", report.problems)).clone()
}

/// The shape of `Deposited` changes, and nobody has thought of a version.
#[derive(Serialize, Deserialize)]
enum Careless {
    Opened { owner: String },
    Deposited { cents: u64 },
    Noted(String),
    Closed,
}

impl Event for Careless {
    const CATEGORY: &'static str = "account";
}

#[test]
fn a_changed_shape_is_refused_with_what_to_do() {
    assert_eq!(
        problem::<Careless>(FIRST),
        "`account Deposited`: its shape has changed: `euros` is gone; `cents` is new, and missing in what is stored (an optional field \
         would do: `#[serde(default)]`). Events of the old shape are stored for ever, under this name. Give the variant `Deposited` the \
         version 2 (`VERSIONS`, or `#[event(version = 2)]`), and say in `evolution` what the old events are: `.upcast(\"Deposited\", \
         \"Deposited.v2\", |old| …)`. (If none was ever stored but on your own machine, delete its block, and run again with \
         FACTUM_UPDATE=1.)"
    );
}

#[derive(Serialize, Deserialize)]
struct DepositedV1 {
    euros: u64,
}

#[derive(Serialize, Deserialize)]
struct DepositedV2 {
    cents: u64,
}

/// An account in its second year, with these steps.
macro_rules! second_year {
    ($name:ident, $evolution:expr) => {
        #[derive(Serialize, Deserialize)]
        enum $name {
            AccountOpened { owner: String },
            Deposited { cents: u64 },
            Closed,
        }
        impl Event for $name {
            const CATEGORY: &'static str = "account";
            const VERSIONS: &'static [(&'static str, u32)] = &[("Deposited", 2)];
            fn evolution() -> Evolution<Self> {
                $evolution
            }
        }
    };
}

second_year!(
    Second,
    Evolution::new()
        .rename("Opened", "AccountOpened")
        .upcast("Deposited", "Deposited.v2", |old: DepositedV1| DepositedV2 { cents: old.euros * 100 })
        .drop("Noted")
);

const SECOND: &str = r#"
event account AccountOpened
shape {
    owner: string
}
sample {"owner":"text"}

event account Closed
shape {}
sample {}

event account Deposited
shape {
    euros: u64
}
sample {"euros":1}
becomes Deposited.v2 {"cents":100}

event account Deposited.v2
shape {
    cents: u64
}
sample {"cents":1}

event account Noted
shape string
sample "text"
becomes nothing

event account Opened
shape {
    owner: string
}
sample {"owner":"text"}
becomes AccountOpened {"owner":"text"}
"#;

#[test]
fn old_shapes_stay_with_what_they_are_now() {
    let text = updated::<Second>(FIRST);
    assert_eq!(text.split_once("away.\n").unwrap().1, SECOND);
    let report = compare::<Second>(FIRST);
    assert!(
        report.news.contains(&"`account Deposited`: its sample becomes something else than before".into())
    );
    // Who begins with the file only now gets the old shapes from what the steps take.
    let late = updated::<Second>("");
    assert!(late.contains("event account Deposited\nshape {\n    euros: u64\n}\n"), "{late}");
    assert!(!late.contains("Noted"), "{late}");
}

second_year!(Forgetful, Evolution::new().rename("Opened", "AccountOpened").drop("Deposited"));
second_year!(
    Otherwise,
    Evolution::new()
        .rename("Opened", "AccountOpened")
        .upcast("Deposited", "Deposited.v2", |old: DepositedV1| DepositedV2 { cents: old.euros })
        .drop("Noted")
);
#[derive(Serialize, Deserialize)]
struct Misremembered {
    euros: u64,
    by: String,
}
second_year!(
    Misread,
    Evolution::new()
        .rename("Opened", "AccountOpened")
        .upcast("Deposited", "Deposited.v2", |old: Misremembered| DepositedV2 { cents: old.euros })
        .drop("Noted")
);

#[test]
fn what_nothing_reads_any_more_is_refused() {
    assert_eq!(
        problem::<Forgetful>(FIRST),
        "`account Noted`: events of this type are stored, and nothing reads them any more; say in `evolution` what they are now: \
         `.rename(\"Noted\", …)`, `.upcast(\"Noted\", …)`, `.split(\"Noted\", …)` or `.drop(\"Noted\")`. (If none was ever stored but on \
         your own machine, delete its block, and run again with FACTUM_UPDATE=1.)"
    );
    let told = problem::<Misread>(FIRST);
    assert!(
        told.contains("the step of `evolution` that begins here does not read what is stored: `by` is new"),
        "{told}"
    );
    assert!(told.ends_with("It must take the shape of then: { euros: u64 }"), "{told}");
    let other = FIRST.replace("event account Closed", "event order Placed");
    let told = problem::<First>(&other);
    assert!(told.contains("has the category `order`; add its type to `events_lock!`"), "{told}");
}

#[test]
fn another_meaning_of_an_old_event_is_seen() {
    let text = updated::<Second>(FIRST);
    let report = compare::<Otherwise>(&text);
    assert_eq!(report.problems, [""; 0]);
    assert_eq!(report.news, ["`account Deposited`: its sample becomes something else than before"]);
    assert!(report.text.contains("becomes Deposited.v2 {\"cents\":1}\n"), "{}", report.text);
}

#[test]
fn a_sample_of_ones_own_is_kept_and_must_be_read() {
    let own = FIRST.replace(r#"{"owner":"text"}"#, r#"{"owner":"Ada"}"#);
    assert_eq!(compare::<First>(&own), Report { problems: vec![], news: vec![], text: own.clone() });
    let wrong = FIRST.replace(r#"{"owner":"text"}"#, r#"{"name":"Ada"}"#);
    let told = problem::<First>(&wrong);
    assert!(told.starts_with("`account Opened`: its sample cannot be read any more"), "{told}");
    assert!(told.contains("missing field `owner`"), "{told}");
}

/// A text of which no tracer thinks.
#[derive(Serialize)]
struct Password(String);

impl<'de> Deserialize<'de> for Password {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        if text == "xyzzy" { Ok(Self(text)) } else { Err(serde::de::Error::custom("wrong")) }
    }
}

#[derive(Serialize, Deserialize)]
enum Secret {
    Told { password: Password },
}

impl Event for Secret {
    const CATEGORY: &'static str = "secret";
}

#[test]
fn where_no_sample_is_found_one_is_asked_for() {
    let told = problem::<Secret>("");
    assert_eq!(
        told,
        "`secret Told`: no sample of it could be made up; put its block into the file, and a line `sample {…}` below its shape. The \
         block is:\nevent secret Told\nshape {\n    password: string\n}\n"
    );
    let (_, block) = told.split_once("is:\n").unwrap();
    let text = updated::<Secret>(&format!("{block}sample {{\"password\":\"xyzzy\"}}\n"));
    assert!(text.contains("sample {\"password\":\"xyzzy\"}"), "{text}");
}

/// What is written is not what is read.
#[derive(Serialize, Deserialize)]
enum Crooked {
    Done {
        #[serde(rename(serialize = "number"))]
        count: u32,
    },
}

impl Event for Crooked {
    const CATEGORY: &'static str = "crooked";
}

#[test]
fn what_is_written_must_be_read() {
    let told = problem::<Crooked>("");
    assert!(told.contains("`crooked Done`") && told.contains("missing field `count`"), "{told}");
    let told = problem::<Crooked>("event crooked Done\nshape { count: u32 }\nsample {\"count\":1}\n");
    assert!(told.contains("missing field `count`"), "{told}");
}

/// Written in capitals, whatever was read.
#[derive(Serialize)]
struct Loud(String);

impl<'de> Deserialize<'de> for Loud {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Self(String::deserialize(from)?.to_uppercase()))
    }
}

#[derive(Serialize, Deserialize)]
enum Shouted {
    Said(Loud),
}

impl Event for Shouted {
    const CATEGORY: &'static str = "shout";
}

#[test]
fn a_sample_that_was_made_up_is_as_it_would_be_written() {
    let text = updated::<Shouted>("");
    assert!(text.ends_with("event shout Said\nshape string\nsample \"TEXT\"\n"), "{text}");
    // One's own is not touched.
    let own = updated::<Shouted>(&text.replace("TEXT", "Psst"));
    assert!(own.ends_with("sample \"Psst\"\nbecomes Said \"PSST\"\n"), "{own}");
}

#[test]
fn a_damaged_file_is_refused_with_the_line() {
    for (text, told) in [
        ("shape u8", "line 1 of events.lock: an `event` line should stand before it"),
        ("event account", "a category and an event type should follow `event`"),
        ("event account A B", "a category and an event type should follow `event`"),
        ("event account A\nshap u8", "line 2 of events.lock: `shap` is none of"),
        (
            "event account A\n\nshape {\n  a: u9\n}",
            "line 3 of events.lock: the shape: in its line 2, a shape should stand",
        ),
        ("event account A\nsample {", "line 2 of events.lock: its JSON is damaged"),
        ("event account A\nbecomes", "an event type should follow `becomes`"),
    ] {
        let report = compare::<First>(text);
        assert!(report.problems[0].contains(told), "{:?}", report.problems);
    }
    let twice = format!("{FIRST}\nevent account Closed\nshape {{}}\nsample {{}}\n");
    assert_eq!(problem::<First>(&twice), "`account Closed`: it stands there twice; delete one");
}

#[test]
fn names_with_spaces_are_kept() {
    #[derive(Serialize, Deserialize)]
    enum Spaced {
        #[serde(rename = "Account \"opened\"")]
        Opened(Vec<Date>),
        #[serde(rename = "Ätsch")]
        Other {
            #[serde(rename = "the date")]
            date: Date,
        },
    }
    impl Event for Spaced {
        const CATEGORY: &'static str = "my accounts";
    }
    let text = updated::<Spaced>("");
    assert!(
        text.contains("event \"my accounts\" \"Account \\\"opened\\\"\"\nshape [string(date)]\n"),
        "{text}"
    );
    assert!(text.contains("    \"the date\": string(date)\n"), "{text}");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a file of the source tree and no data")]
fn the_file_is_written_only_when_it_is_asked_for() {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("shapes-events.lock");
    let _ = fs::remove_file(&path);
    let lock = || EventsLock::at(&path);
    let told = lock().of::<First>().settle(false).unwrap_err();
    assert!(
        told.contains("shapes-events.lock is not up to date:\n  - `account Closed`: it is new\n"),
        "{told}"
    );
    assert!(told.ends_with("Run this test again with FACTUM_UPDATE=1 in the environment, look at the difference, and commit it.\n"));
    assert!(!path.exists());
    lock().of::<First>().settle(true).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), FIRST);
    lock().of::<First>().settle(false).unwrap();
    fs::write(&path, FIRST.replace('\n', "\r\n")).unwrap();
    lock().of::<First>().settle(false).unwrap();
    let told = lock().of::<Careless>().settle(true).unwrap_err();
    assert!(told.contains("does not hold:\n  - `account Deposited`: its shape has changed"), "{told}");
    let told = lock().of::<First>().of::<Added>().settle(true).unwrap_err();
    assert!(told.contains("two types of events of `account` have a `Closed`"), "{told}");
    fs::remove_file(&path).unwrap();
}

#[test]
fn schemas_of_all_types_for_readers_in_other_languages() {
    let schemas = shape::schemas::<Second>().unwrap();
    let names: Vec<&str> = schemas.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["AccountOpened", "Deposited.v2", "Closed", "Deposited", "Opened"]);
    assert_eq!(
        schemas[3].1,
        json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "account Deposited",
            "type": "object",
            "properties": { "euros": { "type": "integer", "minimum": 0, "maximum": u64::MAX } },
            "required": ["euros"],
        })
    );
    let schema = |text: &str| text.parse::<shape::Shape>().unwrap().schema();
    assert_eq!(
        schema(r#"#1 = ({ at: string(date), kind: "A" | "B", next?: #1 | null })"#),
        json!({
            "$ref": "#/$defs/1",
            "$defs": { "1": {
                "type": "object",
                "properties": {
                    "at": { "type": "string", "format": "date" },
                    "kind": { "enum": ["A", "B"] },
                    "next": { "anyOf": [{ "$ref": "#/$defs/1" }, { "type": "null" }] },
                },
                "required": ["at", "kind"],
            } },
        })
    );
    assert_eq!(
        schema(r#"only { a: i8, b?: [bool; 2], c: { [string(uuid)]: f64 }, d: (u8, any) }"#),
        json!({
            "type": "object",
            "properties": {
                "a": { "type": "integer", "minimum": -128, "maximum": 127 },
                "b": { "type": "array", "items": { "type": "boolean" }, "minItems": 2, "maxItems": 2 },
                "c": {
                    "type": "object",
                    "additionalProperties": { "type": "number" },
                    "propertyNames": { "type": "string", "format": "uuid" },
                },
                "d": {
                    "type": "array",
                    "prefixItems": [{ "type": "integer", "minimum": 0, "maximum": 255 }, {}],
                    "items": false,
                    "minItems": 2,
                },
            },
            "required": ["a", "c", "d"],
            "additionalProperties": false,
        })
    );
}

/// Somebody has an address.
const TAGGED: &str = r##"
event member Joined
shape {
    email: string
    name: string
}
tags email
sample {"email":"text","name":"text"}
"##;

/// Events of `member`, with these tags.
macro_rules! members {
    ($name:ident { $($(#[$serde:meta])* $field:ident: $type:ty),+ } $tags:expr) => {
        #[derive(Serialize, Deserialize)]
        enum $name {
            Joined { $($(#[$serde])* $field: $type),+ },
        }

        impl Event for $name {
            const CATEGORY: &'static str = "member";

            fn tags(&self) -> Vec<String> {
                let Self::Joined { $($field),+ } = self;
                let tags: fn($(&$type),+) -> Vec<String> = $tags;
                tags($($field),+)
            }
        }
    };
}

members!(Member { email: String, name: String } | email, _ | vec![format!("email:{email}")]);
members!(Untagged { email: String, name: String } | _, _ | vec![]);
members!(Renamed { email: String, name: String } | email, _ | vec![format!("address:{email}")]);
members!(
    Both { email: String, name: String } | email,
    name | vec![format!("email:{email}"), format!("name:{name}")]
);
members!(Grown { email: String, name: String, #[serde(default)] team: Option<String> } |email, _, team| {
    let team = team.iter().map(|team| format!("team:{team}"));
    [format!("email:{email}")].into_iter().chain(team).collect()
});

#[test]
fn tags_are_kept_with_the_shape() {
    let text = updated::<Member>("");
    assert!(text.ends_with(TAGGED), "{text}");
    assert_eq!(compare::<Member>(&text), Report { problems: vec![], news: vec![], text: text.clone() });
}

#[test]
fn a_tag_that_comes_goes_or_is_renamed_is_a_problem() {
    assert_eq!(
        problem::<Untagged>(TAGGED),
        "`member Joined`: its tags have changed: events have no tag `email` any more. A decision that asks for it does not find them, and what \
         they hold counts as free. Leave the tags as they were; if no rule asks for these, take the line `tags` out of its block by hand"
    );
    let renamed = problem::<Renamed>(TAGGED);
    assert!(
        renamed.contains("are stored have no tag `address`, and never get it; events have no tag `email`"),
        "{renamed}"
    );
    let both = problem::<Both>(TAGGED);
    assert!(
        both.contains("no tag `name`, and never") && both.ends_with("by hand: `tags email name`"),
        "{both}"
    );

    // As the message says.
    let (none, both) =
        (TAGGED.replace("tags email\n", ""), TAGGED.replace("tags email\n", "tags email name\n"));
    updated::<Untagged>(&none);
    updated::<Both>(&both);
    assert!(problem::<Member>(&none).contains("no tag `email`, and never get it"));
    assert!(problem::<Member>(&both).contains("no tag `name` any more"));
}

#[test]
fn a_tag_of_a_new_field_leaves_no_event_behind() {
    let report = compare::<Grown>(TAGGED);
    assert_eq!(report.problems, [""; 0]);
    assert_eq!(
        report.news[..2],
        ["`member Joined`: `team` is new, and optional", "`member Joined`: its new field is a tag, `team`"]
    );
    let text = updated::<Grown>(TAGGED);
    assert!(text.contains("\ntags email team\n"), "{text}");
    // And from then on it stays.
    assert!(
        problem::<Grown>(&text.replace("tags email team", "tags email team place"))
            .contains("no tag `place` any more")
    );
}

/// A new version that has no tag any more.
#[derive(Serialize, Deserialize)]
enum Versioned {
    Joined { address: String },
}

impl Event for Versioned {
    const CATEGORY: &'static str = "member";
    const VERSIONS: &'static [(&'static str, u32)] = &[("Joined", 2)];

    fn evolution() -> Evolution<Self> {
        #[derive(Deserialize)]
        struct Old {
            email: String,
            name: String,
        }
        Evolution::new().upcast(
            "Joined",
            "Joined.v2",
            |Old { email, name }: Old| json!({"address": format!("{name} {email}")}),
        )
    }
}

#[test]
fn a_new_version_with_other_tags_says_so() {
    let report = compare::<Versioned>(TAGGED);
    assert_eq!(report.problems, [""; 0]);
    assert_eq!(
        report.news.last().map(String::as_str),
        Some(
            "`member Joined.v2`: its tags are not those of `member Joined`, which stay as they are stored: whoever asks for `email` does not find both"
        )
    );
    assert!(report.text.contains("\ntags email\n"), "what is stored stays");
}
