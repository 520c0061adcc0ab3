//! The shape of the JSON that a type reads, found without asking anything of the type but serde's `Deserialize`.
//!
//! [`of`] hands the type one made-up value after another and looks at what it asks for and what it refuses. Everything that
//! serde's derive can do is found as far as it can be seen from there: renamed, skipped, optional and defaulted fields, newtypes,
//! all four forms of enums, maps, tuples, recursion, and types whose text has a form of its own, such as dates and UUIDs.
//!
//! ```
//! # use factum::{prelude::*, shape};
//! #[derive(Serialize, Deserialize)]
//! struct Deposited {
//!     cents: u64,
//!     #[serde(default)]
//!     by: Option<String>,
//!     method: Method,
//! }
//!
//! #[derive(Serialize, Deserialize)]
//! enum Method {
//!     Cash,
//!     Card { last4: String },
//! }
//!
//! let shape = shape::of::<Deposited>();
//! assert_eq!(shape.to_string(), r#"{ cents: u64, by?: string | null, method: "Cash" | { Card: { last4: string } } }"#);
//! assert_eq!(shape.to_string().parse::<shape::Shape>()?, shape);
//! # Ok::<(), factum::Error>(())
//! ```
//!
//! ## How to read one
//!
//! | text | JSON |
//! |---|---|
//! | `bool`, `null`, `u8` … `i128`, `f32`, `f64`, `string`, `char` | itself |
//! | `string(uuid)` | text of a form: `uuid`, `date-time`, `date`, `time`, `local-date-time`, `zoned-date-time`, `duration`, `decimal`, `integer`, `ipv4`, `ipv6`, `ip`, `uri`, `email` |
//! | `"Cash"` | this text |
//! | `[T]`, `[T; 3]`, `(T, U)` | an array: any number of `T`, three of them, a `T` and a `U` |
//! | `{ [K]: T }` | an object with any keys of the form `K` |
//! | `{ a: T, b?: U }` | an object with the field `a`, and perhaps `b`. Other fields are ignored |
//! | `{ a: T, ... }` | the same, but there may be fields that could not be seen |
//! | `only { a: T }` | the same, but other fields are refused |
//! | `T \| U` | one of them |
//! | `#1 = T`, `#1` | a shape that holds itself |
//! | `any` | any JSON |
//! | `unknown` | something, but it could not be seen what |
//!
//! ## What cannot be seen
//!
//! serde reads an untagged enum, and what stands in a `flatten` or in an internally tagged variant, by taking any JSON first and looking
//! at it later. Of these, required fields are found by leaving them out (the error names them); optional ones are not, and so such
//! an object ends in `...`. An untagged enum that holds anything but plain values is `unknown`. So is a type that refuses every value
//! that we can think of, and what lies behind it. What a type *writes* is not looked at.
//!
//! A type cannot do harm: what panics is `unknown`, and what goes on asking is stopped. (One that loops without asking for anything hangs
//! here as it would on its first event.)

mod change;
mod play;
mod schema;
mod step;
mod text;
mod trace;

use std::{
    any::TypeId,
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use serde::de::DeserializeOwned;
use uuid::Uuid;

pub use self::schema::{DIALECT, schemas};
pub(crate) use self::{
    change::{Change, changes},
    text::quoted,
    trace::Traced,
};

/// The JSON that a type reads. Two are equal if they say the same, in whatever order fields and alternatives are declared.
#[derive(Clone)]
pub struct Shape {
    pub(crate) kind: Kind,
}

/// The shape of `T`. Found once for each type, and then kept.
pub fn of<T: DeserializeOwned + 'static>() -> Shape {
    Shape::from(traced::<T>().kind.clone())
}

/// The shape of a type with a value that it takes.
fn traced<T: DeserializeOwned + 'static>() -> Arc<Traced> {
    static KNOWN: LazyLock<Mutex<HashMap<TypeId, Arc<Traced>>>> = LazyLock::new(Mutex::default);
    let of = TypeId::of::<T>();
    if let Some(known) = KNOWN.lock().unwrap_or_else(PoisonError::into_inner).get(&of) {
        return known.clone();
    }
    // Not under the lock: what the type does while it is asked is its own affair.
    let traced = Arc::new(trace::trace::<T>());
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner).insert(of, traced.clone());
    traced
}

/// The contents of the variants of an enum in serde's usual form, by their names.
pub(crate) fn of_variants<T: DeserializeOwned>() -> Option<Vec<(&'static str, Traced)>> {
    trace::variants::<T>()
}

/// What can be found of a type that may not live for ever, each time anew.
pub(crate) fn trace<T: DeserializeOwned>() -> Traced {
    trace::trace::<T>()
}

impl Shape {
    /// A number that is the same for equal shapes only (but for a chance of 2⁻⁶⁰), whatever the machine, the version of the compiler and
    /// the order in which fields are declared.
    pub fn hash(&self) -> u64 {
        let digest = Uuid::new_v5(&Uuid::NAMESPACE_OID, self.canonical().as_bytes());
        digest.as_u64_pair().0
    }

    /// Whether something in it could not be seen: `unknown`, or fields behind a `...`.
    pub fn is_partial(&self) -> bool {
        let mut partial = false;
        self.kind.visit(&mut |kind| {
            partial |= matches!(kind, Kind::Unknown | Kind::Record(Record { rest: Rest::Unseen, .. }));
        });
        partial
    }

    /// That of which nothing is known.
    pub(crate) fn unknown() -> Self {
        Self { kind: Kind::Unknown }
    }

    /// One text for all equal shapes.
    fn canonical(&self) -> String {
        let mut kind = self.kind.clone();
        kind.sort();
        kind.number(&mut BTreeMap::new());
        kind.to_string()
    }
}

impl From<Kind> for Shape {
    fn from(mut kind: Kind) -> Self {
        kind.number(&mut BTreeMap::new());
        Self { kind }
    }
}

impl PartialEq for Shape {
    fn eq(&self, other: &Self) -> bool {
        self.canonical() == other.canonical()
    }
}

impl Eq for Shape {}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    /// It takes any JSON.
    Any,
    /// It could not be seen what it takes.
    Unknown,
    Null,
    Bool,
    Int {
        signed: bool,
        bits: u8,
    },
    Float(u8),
    Text(Format),
    Literal(String),
    List(Box<Kind>),
    Array(Box<Kind>, usize),
    Tuple(Vec<Kind>),
    Map(Box<Kind>, Box<Kind>),
    Record(Record),
    Union(Vec<Kind>),
    /// A shape that holds itself, somewhere within, as `Again` with the same number.
    Named(u32, Box<Kind>),
    Again(u32),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    pub(crate) fields: Vec<Field>,
    pub(crate) rest: Rest,
}

/// What becomes of fields that are not named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    Ignored,
    Refused,
    /// There may be fields that could not be seen.
    Unseen,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) required: bool,
    pub(crate) kind: Kind,
}

/// The form of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Any text, or a form that is not known.
    Plain,
    Char,
    Uuid,
    DateTime,
    ZonedDateTime,
    LocalDateTime,
    Date,
    Time,
    Duration,
    Decimal,
    Integer,
    Ip,
    Ipv4,
    Ipv6,
    Uri,
    Email,
}

impl Kind {
    /// One of these; alternatives within alternatives are alternatives.
    pub(crate) fn one_of(kinds: impl IntoIterator<Item = Self>) -> Self {
        let mut flat: Vec<Self> = Vec::new();
        for kind in kinds {
            let inner = if let Self::Union(inner) = kind { inner } else { vec![kind] };
            for kind in inner {
                if matches!(kind, Self::Any | Self::Unknown) {
                    return kind;
                }
                if !flat.contains(&kind) {
                    flat.push(kind);
                }
            }
        }
        match flat.len() {
            0 => Self::Unknown,
            1 => flat.remove(0),
            _ => Self::Union(flat),
        }
    }

    fn children(&mut self) -> Vec<&mut Self> {
        match self {
            Self::List(item) | Self::Array(item, _) | Self::Named(_, item) => vec![item],
            Self::Map(key, value) => vec![key, value],
            Self::Tuple(kinds) | Self::Union(kinds) => kinds.iter_mut().collect(),
            Self::Record(record) => record.fields.iter_mut().map(|field| &mut field.kind).collect(),
            _ => Vec::new(),
        }
    }

    pub(crate) fn visit(&self, look: &mut dyn FnMut(&Self)) {
        look(self);
        match self {
            Self::List(item) | Self::Array(item, _) | Self::Named(_, item) => item.visit(look),
            Self::Map(key, value) => {
                key.visit(look);
                value.visit(look);
            }
            Self::Tuple(kinds) | Self::Union(kinds) => kinds.iter().for_each(|kind| kind.visit(look)),
            Self::Record(record) => record.fields.iter().for_each(|field| field.kind.visit(look)),
            _ => {}
        }
    }

    /// Puts fields and alternatives in the order of their texts.
    fn sort(&mut self) {
        self.children().into_iter().for_each(Self::sort);
        match self {
            Self::Record(record) => record.fields.sort_by(|a, b| a.name.cmp(&b.name)),
            Self::Union(kinds) => kinds.sort_by_cached_key(ToString::to_string),
            _ => {}
        }
    }

    /// Numbers shapes that hold themselves in the order in which they stand.
    fn number(&mut self, known: &mut BTreeMap<u32, u32>) {
        match self {
            Self::Named(number, _) | Self::Again(number) => {
                let next = u32::try_from(known.len()).unwrap_or(u32::MAX) + 1;
                *number = *known.entry(*number).or_insert(next);
            }
            _ => {}
        }
        self.children().into_iter().for_each(|kind| kind.number(known));
    }
}
