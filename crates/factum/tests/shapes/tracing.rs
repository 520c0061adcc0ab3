//! What is found of a type by asking nothing of it but `Deserialize`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    marker::PhantomData,
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU8,
};

use factum::shape::{self, Shape};
use jiff::{Timestamp, civil};
use rust_decimal::Decimal;
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned, Visitor},
};
use uuid::Uuid;

#[track_caller]
fn reads<T: DeserializeOwned + 'static>(expected: &str) {
    let shape = shape::of::<T>();
    assert_eq!(shape.to_string(), expected);
    let back: Shape = shape.to_string().parse().unwrap_or_else(|error| panic!("{expected}: {error}"));
    assert_eq!(back.to_string(), expected, "on one line");
    let back: Shape = format!("{shape:#}").parse().unwrap();
    assert_eq!(back.to_string(), expected, "on many lines");
    assert_eq!(back.hash(), shape.hash());
}

#[test]
fn plain_values() {
    reads::<bool>("bool");
    reads::<()>("null");
    reads::<u8>("u8");
    reads::<i64>("i64");
    reads::<usize>("u64");
    reads::<i128>("i128");
    reads::<u128>("u128");
    reads::<f32>("f32");
    reads::<f64>("f64");
    reads::<char>("char");
    reads::<String>("string");
    reads::<Box<str>>("string");
    reads::<NonZeroU8>("u8");
    reads::<Option<u32>>("u32 | null");
    reads::<Option<Option<u32>>>("u32 | null");
    reads::<Vec<String>>("[string]");
    reads::<BTreeSet<u8>>("[u8]");
    reads::<(u8, String)>("(u8, string)");
    reads::<(u8,)>("(u8)");
    reads::<[u16; 32]>("[u16; 32]");
    reads::<HashMap<String, u32>>("{ [string]: u32 }");
    reads::<BTreeMap<u32, Vec<bool>>>("{ [u32]: [bool] }");
    reads::<PhantomData<u8>>("null");
    reads::<std::time::Duration>("only { secs: u64, nanos: u32 }");
    reads::<std::ops::Range<u8>>("only { start: u8, end: u8 }");
}

#[test]
fn texts_of_a_form() {
    reads::<Uuid>("string(uuid)");
    reads::<Decimal>("string(decimal)");
    reads::<Timestamp>("string(date-time)");
    reads::<civil::Date>("string(date)");
    reads::<civil::DateTime>("string(local-date-time)");
    reads::<civil::Time>("string(time)");
    reads::<jiff::Zoned>("string(zoned-date-time)");
    reads::<jiff::Span>("string(duration)");
    reads::<jiff::SignedDuration>("string(duration)");
    reads::<Ipv4Addr>("string(ipv4)");
    reads::<IpAddr>("string(ip)");
    reads::<HashMap<Uuid, Decimal>>("{ [string(uuid)]: string(decimal) }");
    reads::<factum::Timestamp>("string(date-time)");
    reads::<factum::StreamName>("string");
}

#[derive(Deserialize)]
#[expect(dead_code)]
struct Person {
    name: String,
    #[serde(rename = "yearOfBirth")]
    year: u16,
    nick: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default = "seven")]
    luck: u8,
    #[serde(skip)]
    cache: u64,
    #[serde(alias = "mail", alias = "e_mail")]
    email: String,
    home: Address,
    #[serde(default, with = "as_text")]
    weight: u64,
}

fn seven() -> u8 {
    7
}

mod as_text {
    use serde::{Deserialize, Deserializer, de::Error};

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

#[derive(Deserialize)]
#[expect(dead_code)]
struct Address {
    street: Street,
    place: (f64, f64),
}

#[derive(Deserialize)]
struct Street(#[expect(dead_code)] String);

#[test]
fn structs() {
    reads::<Person>(
        "{ name: string, yearOfBirth: u16, nick?: string | null, tags?: [string], luck?: u8, email: string, \
         home: { street: string, place: [f64; 2] }, weight?: string(decimal) }"
            .replace("decimal", "integer")
            .as_str(),
    );
    #[derive(Deserialize)]
    struct Nothing;
    reads::<Nothing>("null");
    #[derive(Deserialize)]
    struct Empty {}
    reads::<Empty>("{}");
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Strict {
        #[expect(dead_code)]
        a: u8,
    }
    reads::<Strict>("only { a: u8 }");
    #[derive(Deserialize)]
    struct Pair(#[expect(dead_code)] u8, #[expect(dead_code)] String);
    reads::<Pair>("(u8, string)");
    #[derive(Deserialize)]
    #[serde(default)]
    #[derive(Default)]
    #[allow(dead_code)]
    struct Settings {
        a: u8,
        b: bool,
    }
    reads::<Settings>("{ a?: u8, b?: bool }");
}

#[derive(Deserialize)]
#[expect(dead_code)]
enum External {
    Unit,
    Newtype(u32),
    Pair(u32, String),
    Struct {
        at: civil::Date,
        note: Option<String>,
    },
    #[serde(rename = "other")]
    Renamed,
    #[serde(skip)]
    Skipped,
}

#[test]
fn enums_tagged_from_outside() {
    reads::<External>(
        r#""Unit" | { Newtype: u32 } | { Pair: (u32, string) } | { Struct: { at: string(date), note?: string | null } } | "other""#,
    );
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[expect(dead_code)]
enum Internal {
    Cash,
    Card { last4: String, limit: Decimal, holder: Holder },
    Transfer(Transfer),
}

#[derive(Deserialize)]
#[expect(dead_code)]
struct Holder {
    first: String,
    last: String,
    born: civil::Date,
}

#[derive(Deserialize)]
#[expect(dead_code)]
struct Transfer {
    iban: String,
    at: Timestamp,
    amounts: Vec<u64>,
    kind: Kind,
}

#[derive(Deserialize)]
enum Kind {
    Fast,
    Slow,
}

#[test]
fn enums_tagged_from_inside() {
    reads::<Internal>(
        "{ type: \"cash\", ... } | \
         { type: \"card\", last4: string, limit: string(decimal), holder: { first: string, last: string, born: string(date), ... }, ... } | \
         { type: \"transfer\", iban: string, at: string(date-time), amounts: [u64], kind: \"Fast\" | \"Slow\", ... }",
    );
    assert!(shape::of::<Internal>().is_partial());
}

#[test]
fn enums_with_the_tag_beside_the_content() {
    #[derive(Deserialize)]
    #[serde(tag = "t", content = "c")]
    #[expect(dead_code)]
    enum Beside {
        None,
        One(u32),
        Two { a: String, b: Option<bool> },
    }
    reads::<Beside>(r#"{ t: "None" } | { t: "One", c: u32 } | { t: "Two", c: { a: string, ... } }"#);
    // It looks alike, but the one field does not depend on the other.
    #[derive(Deserialize)]
    #[expect(dead_code)]
    struct Alike {
        t: Kind,
        c: u32,
    }
    reads::<Alike>(r#"{ t: "Fast" | "Slow", c: u32 }"#);
}

#[test]
fn untagged_enums_as_far_as_they_can_be_seen() {
    #[derive(Deserialize)]
    #[serde(untagged)]
    #[expect(dead_code)]
    enum Untagged {
        Number(u64),
        Words { text: String },
    }
    reads::<Untagged>("unknown");
    assert!(shape::of::<Untagged>().is_partial());
    reads::<serde_json::Value>("any");
    reads::<serde_json::Map<String, serde_json::Value>>("{ [string]: any }");
}

#[test]
fn flattened_fields() {
    #[derive(Deserialize)]
    #[expect(dead_code)]
    struct Outer {
        id: u64,
        note: Option<String>,
        #[serde(flatten)]
        inner: Transfer,
    }
    reads::<Outer>(
        r#"{ id: u64, iban: string, at: string(date-time), amounts: [u64], kind: "Fast" | "Slow", ... }"#,
    );
}

#[derive(Deserialize)]
#[expect(dead_code)]
struct Tree {
    label: String,
    children: Vec<Tree>,
    parent: Option<Box<Tree>>,
}

#[derive(Deserialize)]
#[expect(dead_code)]
enum Expr {
    Add(Box<Expr>, Box<Expr>, u8),
    Neg(Box<Expr>),
    Num(i64),
}

#[derive(Deserialize)]
struct Nest(#[expect(dead_code)] Vec<Nest>);

#[derive(Deserialize)]
struct Endless {
    #[expect(dead_code)]
    again: Box<Endless>,
}

#[test]
fn types_that_hold_themselves() {
    reads::<Tree>("#1 = ({ label: string, children: [#1], parent?: #1 | null })");
    reads::<Expr>("#1 = ({ Add: (#1, #1, u8) } | { Neg: #1 } | { Num: i64 })");
    reads::<Nest>("#1 = ([#1])");
    reads::<Endless>("#1 = ({ again: #1 })");
    reads::<(Tree, Nest)>("(#1 = ({ label: string, children: [#1], parent?: #1 | null }), #2 = ([#2]))");
}

#[test]
fn the_order_of_declarations_is_no_part_of_a_shape() {
    #[derive(Deserialize)]
    #[expect(dead_code)]
    struct A {
        x: u8,
        y: Vec<Nest>,
        z: Option<Kind>,
    }
    #[derive(Deserialize)]
    enum Kind {
        Slow,
        Fast,
    }
    #[derive(Deserialize)]
    #[expect(dead_code)]
    struct B {
        z: Option<super::tracing::Kind>,
        y: Vec<Nest>,
        x: u8,
    }
    #[derive(Deserialize)]
    #[expect(dead_code)]
    struct C {
        x: u8,
        y: Vec<Nest>,
        z: Kind,
    }
    let (a, b, c) = (shape::of::<A>(), shape::of::<B>(), shape::of::<C>());
    assert_eq!((&a, a.hash()), (&b, b.hash()));
    assert_ne!((&a, a.hash()), (&c, c.hash()));
}

/// It stands beside snapshots on disks: another one costs everybody a replay.
#[test]
fn the_hash_of_a_shape_never_changes() {
    let hash = |text: &str| format!("{:016x}", text.parse::<Shape>().unwrap().hash());
    assert_eq!(hash("u8"), "2b4601a78aff52f8");
    assert_eq!(
        hash(r#"#7 = ({ b: [#7] | null, a?: string(date), c: "X" | { Y: (u8, any) }, ... })"#),
        "c93419bf006b565b"
    );
}

/// A type that does with its deserializer whatever it likes.
struct Hostile<const HOW: u8>;

impl<'de, const HOW: u8> Deserialize<'de> for Hostile<HOW> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match HOW {
            0 => panic!("it panics"),
            1 => Err(de::Error::custom("it refuses")),
            2 => from.deserialize_map(Greedy::<HOW>),
            3 => from.deserialize_seq(Greedy::<HOW>),
            4 => from.deserialize_tuple(usize::MAX, Greedy::<HOW>),
            5 => from.deserialize_any(Greedy::<HOW>),
            6 => from.deserialize_enum("E", &[], Greedy::<HOW>),
            7 => from.deserialize_struct("S", &["a", "a", ""], Greedy::<HOW>),
            8 => from.deserialize_newtype_struct("N", Greedy::<HOW>),
            _ => from.deserialize_option(Greedy::<HOW>),
        }
    }
}

struct Greedy<const HOW: u8>;

impl<'de, const HOW: u8> Visitor<'de> for Greedy<HOW> {
    type Value = Hostile<HOW>;

    fn expecting(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("it has no words")
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        // Neither the end nor an error stops it.
        loop {
            let _ = map.next_key::<Hostile<HOW>>();
            let _ = map.next_value::<String>();
        }
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<Hostile<HOW>>().is_ok() {}
        Ok(Hostile)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        Hostile::deserialize(from)
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        Hostile::deserialize(from)
    }

    fn visit_enum<A: de::EnumAccess<'de>>(self, data: A) -> Result<Self::Value, A::Error> {
        let _: (String, _) = data.variant()?;
        Ok(Hostile)
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<Self::Value, E> {
        panic!("it hates text")
    }
}

#[test]
fn a_hostile_type_does_no_harm() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let shapes = [
        shape::of::<Hostile<0>>(),
        shape::of::<Hostile<1>>(),
        shape::of::<Hostile<2>>(),
        shape::of::<Hostile<3>>(),
        shape::of::<Hostile<4>>(),
        shape::of::<Hostile<5>>(),
        shape::of::<Hostile<6>>(),
        shape::of::<Hostile<7>>(),
        shape::of::<Hostile<8>>(),
        shape::of::<Hostile<9>>(),
        shape::of::<(u8, Hostile<2>, Vec<Hostile<3>>)>(),
    ];
    std::panic::set_hook(hook);
    let found: Vec<String> = shapes.iter().map(ToString::to_string).collect();
    let expected = [
        "unknown",
        "unknown",
        "#1 = ({ [#1]: unknown })",
        "#1 = ([#1])",
        "#1 = ([unknown; 18446744073709551615])",
        "unknown",
        "unknown",
        "{ a?: string, a?: string, \"\"?: string }",
        "#1 = (#1)",
        "#1 = (#1 | null)",
        "(u8, #1 = ({ [#1]: unknown }), unknown)",
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_text_that_is_no_shape_is_refused_with_the_place() {
    for (text, told) in [
        ("{ a: }", "in its line 1, a shape should stand before `}`"),
        ("{\n a: u8\n b: u7 }", "in its line 3, a shape should stand before `u7 }`"),
        ("string(euid)", "a form of text should stand before `euid)`"),
        ("u8 u8", "nothing more should stand before `u8`"),
        ("", "a shape should stand before ``"),
        ("[u8; x]", "a number should stand before `x]`"),
        ("\"a", "a text in quotation marks"),
        ("{ ü: u8 }", "a name should stand before `ü: u8 }`"),
    ] {
        let error = text.parse::<Shape>().unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
    assert!("[".repeat(100_000).parse::<Shape>().unwrap_err().to_string().contains("less deep"));
}
