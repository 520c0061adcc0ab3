//! Events to JSON and back, without a macro.

use std::collections::BTreeMap;

use factum::{
    Append, ContentType, Error, EventStore, EventStoreExt, MemoryStore, NewEvent, Read, RecordedEvent,
    StreamName, codec, prelude::*,
};

use crate::support::*;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Address {
    street: String,
    floor: Option<i8>,
}

/// One variant of each shape that serde knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Shapes {
    Unit,
    Empty {},
    Newtype(Address),
    Number(u64),
    Text(String),
    Nested(Option<Vec<Shapes>>),
    Tuple(i64, String, bool),
    Struct {
        a: f64,
        b: Vec<u8>,
        c: BTreeMap<String, i64>,
        d: Option<char>,
    },
    #[serde(rename = "Renamed-2.ü")]
    Renamed {
        x: i32,
    },
    #[serde(rename_all = "camelCase")]
    Decorated {
        a_field: i32,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        often_empty: Vec<i32>,
        #[serde(flatten)]
        inner: BTreeMap<String, String>,
    },
}

impl Event for Shapes {
    const CATEGORY: &'static str = "shapes";
}

fn text(random: &mut fastrand::Rng) -> String {
    (0..random.usize(0..12)).map(|_| random.char(..)).collect()
}

fn shape(random: &mut fastrand::Rng, depth: u32) -> Shapes {
    let floor = random.bool().then(|| random.i8(..));
    match random.u8(0..if depth == 0 { 9 } else { 10 }) {
        0 => Shapes::Unit,
        1 => Shapes::Empty {},
        2 => Shapes::Newtype(Address { street: text(random), floor }),
        3 => Shapes::Number(random.u64(..)),
        4 => Shapes::Text(text(random)),
        5 => Shapes::Tuple(random.i64(..), text(random), random.bool()),
        6 => Shapes::Struct {
            a: random.f64() * 1e9 - 5e8,
            b: (0..random.usize(0..5)).map(|_| random.u8(..)).collect(),
            c: (0..random.usize(0..4)).map(|_| (text(random), random.i64(..))).collect(),
            d: random.bool().then(|| random.char(..)),
        },
        7 => Shapes::Renamed { x: random.i32(..) },
        8 => Shapes::Decorated {
            a_field: random.i32(..),
            often_empty: (0..random.usize(0..3)).map(|_| random.i32(..)).collect(),
            inner: (0..random.usize(0..3)).map(|n| (format!("k{n}"), text(random))).collect(),
        },
        _ => Shapes::Nested(
            random.bool().then(|| (0..random.usize(0..4)).map(|_| shape(random, depth - 1)).collect()),
        ),
    }
}

async fn record(event: NewEvent) -> RecordedEvent {
    let store = MemoryStore::new();
    store.append(Append::to(StreamName::new("shapes-1").unwrap(), [event])).await.unwrap();
    store.read_to_end(Read::all()).await.unwrap().remove(0)
}

#[tokio::test]
async fn every_shape_comes_back_and_its_content_is_what_serde_json_writes() {
    let mut random = seeded();
    for _ in 0..2000 {
        let event = shape(&mut random, 3);
        let encoded = codec::encode(&event).unwrap();
        let recorded = record(encoded.clone()).await;
        assert_eq!(codec::decode::<Shapes>(&recorded).unwrap(), std::slice::from_ref(&event));
        // serde's own form of an enum is {"Variant": content}, or "Variant" where there is none.
        let data: serde_json::Value = serde_json::from_slice(&encoded.data).unwrap();
        match serde_json::to_value(&event).unwrap() {
            serde_json::Value::String(name) => {
                assert_eq!((&*encoded.event_type, data), (&*name, serde_json::json!({})));
            }
            whole => assert_eq!(whole[&*encoded.event_type], data),
        }
    }
}

#[test]
fn types_are_the_variants_by_their_names() {
    let types = codec::types::<Shapes>().unwrap();
    assert_eq!(types.len(), 10);
    assert!(types.contains(&"Renamed-2.ü") && !types.contains(&"Renamed"));
    assert_eq!(codec::types::<AccountEvent>().unwrap(), ["Opened", "Deposited", "Withdrawn", "Closed"]);
}

#[tokio::test]
async fn variants_change_as_serde_lets_them() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Later {
        #[serde(alias = "Opened")]
        Begun {
            cents: i64,
            #[serde(default)]
            currency: Option<String>,
        },
        Deposited,
    }
    impl Event for Later {
        const CATEGORY: &'static str = "account";
    }
    let begun = record(codec::encode(&Opened { cents: 5 }).unwrap()).await;
    assert_eq!(codec::decode::<Later>(&begun).unwrap(), [Later::Begun { cents: 5, currency: None }]);
    let lost_its_field = record(codec::encode(&Deposited { cents: 5 }).unwrap()).await;
    assert_eq!(codec::decode::<Later>(&lost_its_field).unwrap(), [Later::Deposited]);
    assert!(codec::types::<Later>().unwrap().contains(&"Opened"), "an alias is a type that it knows");
}

#[tokio::test]
async fn what_cannot_be_decoded_says_where_and_why() {
    let message = |record: RecordedEvent| codec::decode::<AccountEvent>(&record).unwrap_err().to_string();
    let place = "at position 1 (revision 0 of `shapes-1`)";

    let unknown = message(record(NewEvent::json_text("Vanished", "{}").unwrap()).await);
    assert!(unknown.contains(place) && unknown.contains("unknown variant `Vanished`"), "{unknown}");
    let shape = message(record(NewEvent::json_text("Opened", r#"{"cents":"many"}"#).unwrap()).await);
    assert!(shape.contains(place) && shape.contains("invalid type: string \"many\""), "{shape}");
    let missing = message(record(NewEvent::json_text("Opened", "{}").unwrap()).await);
    assert!(missing.contains("missing field `cents`"), "{missing}");
    let bytes = message(record(NewEvent::bytes("Opened", "{\"cents\":1}").unwrap()).await);
    assert!(bytes.contains("application/octet-stream, not JSON"), "{bytes}");

    let mut torn = record(NewEvent::json_text("Opened", r#"{"cents":1}"#).unwrap()).await;
    for data in ["{\"cents\":1", "{\"cents\":1} {}", "", "\u{0}"] {
        torn.data = data.into();
        assert!(matches!(codec::decode::<AccountEvent>(&torn), Err(Error::InvalidInput { .. })), "{data}");
    }
    torn.event_type = "Closed".try_into().unwrap();
    torn.data = "{} trailing".into();
    assert!(codec::decode::<AccountEvent>(&torn).is_err(), "also where the content is not looked at");
    assert_eq!(torn.content_type, ContentType::Json);
}

#[tokio::test]
async fn what_is_not_an_enum_is_refused_with_advice() {
    #[derive(Debug, Serialize, Deserialize)]
    struct NotAnEnum {
        a: i32,
    }
    #[derive(Debug, Serialize, Deserialize)]
    #[serde(tag = "type")]
    enum Tagged {
        A { a: i32 },
    }
    #[derive(Debug, Serialize, Deserialize)]
    #[serde(untagged)]
    enum Untagged {
        A(i32),
    }
    macro_rules! check {
        ($($type:ty: $value:expr),*) => {$(
            impl Event for $type {
                const CATEGORY: &'static str = "x";
            }
            let stored = record(NewEvent::json_text("A", r#"{"a":1}"#).unwrap()).await;
            let errors = [codec::encode(&$value).unwrap_err(), codec::decode::<$type>(&stored).unwrap_err()];
            for error in errors.into_iter().chain(codec::types::<$type>().err()) {
                assert!(error.to_string().contains("an event must be an enum"), "{error}");
            }
        )*};
    }
    check!(NotAnEnum: NotAnEnum { a: 1 }, Tagged: Tagged::A { a: 1 }, Untagged: Untagged::A(1));
}

#[test]
fn tags_are_checked() {
    #[derive(Debug, Serialize, Deserialize)]
    enum Bad {
        A(String),
    }
    impl Event for Bad {
        const CATEGORY: &'static str = "x";
        fn tags(&self) -> Vec<String> {
            let Self::A(tag) = self;
            vec![tag.clone(), "b:2".into()]
        }
    }
    let good = codec::encode(&Bad::A("a:1".into())).unwrap();
    assert_eq!(good.tags.iter().collect::<Vec<_>>(), ["a:1", "b:2"]);
    assert!(codec::encode(&Bad::A("no colon".into())).unwrap_err().to_string().contains("key:value"));
}
