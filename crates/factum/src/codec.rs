//! The domain's events as a store keeps them: an enum's variant is the event type, its content is the JSON data.
//!
//! No macro and no intermediate value: a small [`serde`] serializer catches the variant's name and hands the content to
//! `serde_json`; the way back is the same. What serde can rename, skip, default or flatten keeps working. A variant without
//! content is written as `{}`.
//!
//! ```
//! # use factum::{codec, prelude::*};
//! #[derive(Serialize, Deserialize)]
//! enum AccountEvent {
//!     AccountOpened { owner: String },
//!     #[serde(rename = "AccountClosed")]
//!     Shut,
//! }
//! impl Event for AccountEvent {
//!     const CATEGORY: &'static str = "account";
//! }
//!
//! let event = codec::encode(&AccountEvent::AccountOpened { owner: "Ada".into() })?;
//! assert_eq!((&*event.event_type, &event.data[..]), ("AccountOpened", &br#"{"owner":"Ada"}"#[..]));
//! assert_eq!(codec::types::<AccountEvent>()?, ["AccountOpened", "AccountClosed"]);
//! # Ok::<(), factum::Error>(())
//! ```

use std::{any::type_name, fmt, panic::catch_unwind};

use bytes::Bytes;
use serde::{
    Deserializer as _, Serialize,
    de::{self, DeserializeSeed, IgnoredAny, IntoDeserializer, value::StrDeserializer},
    forward_to_deserialize_any,
    ser::{self, Impossible, SerializeStruct, SerializeTuple},
};

use crate::{
    aggregate::Event,
    error::{Error, Result},
    event::{ContentType, EventId, Metadata, NewEvent, RecordedEvent},
    evolution::Evolution,
    name::{EventType, StreamName},
    position::{Position, Revision},
    shape,
    tags::Tags,
    time::Timestamp,
};

/// What to say of a type that is not an enum in serde's usual form.
pub(crate) const NOT_AN_ENUM: &str =
    "an event must be an enum with one variant per kind, without serde's `tag` or `untagged`";

/// The event as a store takes it, with a new id and its tags.
///
/// # Errors
/// [`Error::InvalidInput`] if the type is not an enum, its content cannot be JSON, or a tag is malformed.
pub fn encode<E: Event>(event: &E) -> Result<NewEvent> {
    let mut data = Vec::with_capacity(128);
    let name = event
        .serialize(Variant { json: &mut serde_json::Serializer::new(&mut data) })
        .map_err(|e| Error::invalid(format!("an event of `{}`", type_name::<E>()), e.to_string()))?;
    let tags = event.tags();
    Ok(NewEvent {
        id: EventId::new(),
        event_type: match version::<E>(name) {
            None => EventType::new(name)?,
            Some(version) => EventType::new(versioned(name, version))?,
        },
        content_type: ContentType::Json,
        data: data.into(),
        metadata: Metadata::EMPTY,
        tags: if tags.is_empty() { Tags::NONE } else { Tags::new(tags)? },
    })
}

/// The domain's events that a record holds: one, unless [`evolution`](Event::evolution) made several of it, or none.
///
/// # Errors
/// [`Error::InvalidInput`] saying which event, where it is, and why it is not an `E`.
pub fn decode_each<E: Event>(record: &RecordedEvent, each: &mut dyn FnMut(E)) -> Result<()> {
    let wrong = |why: String| {
        let RecordedEvent { event_type, position, revision, stream, .. } = record;
        let what =
            format!("the event `{event_type}` at position {position} (revision {revision} of `{stream}`)");
        Error::invalid(what, format!("it is not a `{}`: {why}", type_name::<E>()))
    };
    let is_json = record.content_type == ContentType::Json;
    let error = if is_json {
        match decode_today(&record.event_type, &record.data) {
            Ok(event) => {
                each(event);
                return Ok(());
            }
            Err(error) => error,
        }
    } else {
        de::Error::custom(format!("its data is {}, not JSON", record.content_type.as_str()))
    };
    let evolution = Evolution::<E>::of()?;
    // What means nothing is not looked at, so it may be in any format.
    if evolution.drops(&record.event_type)
        || (evolution.ignores_unknown() && !is_known::<E>(&evolution, &record.event_type)?)
    {
        return Ok(());
    }
    if !is_json {
        return Err(wrong(error.to_string()));
    }
    match evolution.apply(record, each) {
        Some(done) => done.map_err(|error| wrong(error.to_string())),
        None => Err(wrong(format!("{error}; {}", advice::<E>(&evolution, record)?))),
    }
}

/// What to do about an event that is none of today's, and that no step of the evolution takes.
fn advice<E: Event>(evolution: &Evolution<E>, record: &RecordedEvent) -> Result<&'static str> {
    Ok(if is_known::<E>(evolution, &record.event_type)? {
        "if its shape has changed, give the variant a new version and upcast the old one"
    } else {
        "say in its evolution what became of it, or start the program that knows it"
    })
}

/// The domain's events that a record holds. See [`decode_each`].
///
/// # Errors
/// As for [`decode_each`].
pub fn decode<E: Event>(record: &RecordedEvent) -> Result<Vec<E>> {
    let mut events = Vec::with_capacity(1);
    decode_each(record, &mut |event| events.push(event))?;
    Ok(events)
}

/// What an event stored under this type, with this JSON as its data, is today: for trying out an
/// [`evolution`](Event::evolution).
///
/// # Errors
/// As for [`decode_each`].
pub fn upcast<E: Event>(event_type: &str, json: &[u8]) -> Result<Vec<E>> {
    decode(&RecordedEvent {
        position: Position::START,
        stream: StreamName::new(format!("{}-upcast", E::CATEGORY))?,
        revision: Revision::FIRST,
        recorded_at: Timestamp(0),
        id: EventId::new(),
        event_type: EventType::new(event_type)?,
        content_type: ContentType::Json,
        data: Bytes::copy_from_slice(json),
        metadata: Metadata::EMPTY,
        tags: Tags::NONE,
    })
}

/// An event of today's shape.
pub(crate) fn decode_today<E: Event>(stored: &str, data: &[u8]) -> serde_json::Result<E> {
    match variant::<E>(stored) {
        Some(event_type) => E::deserialize(Tagged { event_type, data }),
        None => Err(de::Error::custom("it is of an older version, and no step of `evolution` begins there")),
    }
}

/// The variant that is stored under this name, if it is a variant at all. `None`: that variant is stored under another name.
fn variant<E: Event>(stored: &str) -> Option<&str> {
    if E::VERSIONS.is_empty() {
        return Some(stored);
    }
    let ours = |(name, version): &(&str, u32)| {
        let number = stored.strip_prefix(name)?.strip_prefix(".v")?;
        (number.parse() == Ok(*version)).then_some(name.len())
    };
    match E::VERSIONS.iter().find_map(ours) {
        Some(length) => Some(&stored[..length]),
        None => version::<E>(stored).is_none().then_some(stored),
    }
}

/// The version of a variant that is not at its first.
fn version<E: Event>(name: &str) -> Option<u32> {
    E::VERSIONS.iter().find(|(own, _)| *own == name).map(|(_, version)| *version)
}

fn versioned(name: &str, version: u32) -> String {
    format!("{name}.v{version}")
}

/// The variants that `E` knows, in their order, as serde calls them (aliases too).
///
/// # Errors
/// [`Error::InvalidInput`] if `E` is not an enum.
pub fn types<E: Event>() -> Result<&'static [&'static str]> {
    let mut found = None;
    // The probe refuses to give a value, so this can only fail; what it was asked for is what we want to know.
    let _ = E::deserialize(Probe { variants: &mut found });
    found.ok_or_else(|| Error::invalid(format!("the type `{}`", type_name::<E>()), NOT_AN_ENUM))
}

/// The event types that `E` is stored under today, in the order of its variants.
///
/// # Errors
/// [`Error::InvalidInput`] if `E` is not an enum, or [`Event::VERSIONS`] names what is no variant of it.
pub fn today<E: Event>() -> Result<Vec<String>> {
    let variants = types::<E>()?;
    for (at, (name, number)) in E::VERSIONS.iter().enumerate() {
        let wrong = |why: &str| {
            Err(Error::invalid(format!("version {number} of `{name}` in `{}`", type_name::<E>()), why))
        };
        if !variants.contains(name) {
            return wrong("there is no such variant");
        }
        if *number < 2 {
            return wrong("the first version has the bare name and is not listed; the next is 2");
        }
        if E::VERSIONS[..at].iter().any(|(before, _)| before == name) {
            return wrong("it is listed twice");
        }
    }
    let stored = |name: &&str| match version::<E>(name) {
        None => (*name).to_owned(),
        Some(number) => versioned(name, number),
    };
    Ok(variants.iter().map(stored).collect())
}

/// The event types that `E` is made from: those of [`today`], and the older ones that its evolution knows.
///
/// # Errors
/// As for [`today`], and for an evolution that does not fit.
pub fn stored_types<E: Event>() -> Result<Vec<String>> {
    let mut all = today::<E>()?;
    all.extend(Evolution::<E>::of()?.older().map(str::to_owned));
    Ok(all)
}

/// The event types that can hold events of the variant `name`: today's, what its aliases read, and the older ones.
pub(crate) fn stored_types_of<E: Event>(name: &str) -> Result<Vec<String>> {
    let variants = types::<E>()?;
    let Some(at) = variants.iter().position(|variant| *variant == name) else {
        let known = variants.join("`, `");
        let what = format!("the event `{name}` of `{}`", type_name::<E>());
        return Err(Error::invalid(what, format!("there is no such variant; it has `{known}`")));
    };
    let (today, evolution) = (today::<E>()?, Evolution::<E>::of()?);
    let written = evolution.written_as()?;
    let mut stored = Vec::new();
    for (_, today) in written.iter().zip(&today).filter(|(kind, _)| **kind == written[at]) {
        stored.extend(evolution.leading_to(today).map(str::to_owned));
        stored.push(today.clone());
    }
    Ok(stored)
}

/// For each of [`types`], the name that its variant is written under: the same for all names that one variant is read from.
///
/// serde does not say which names are aliases, nor of what. Where there are no more variants than names, none is. Else an event is
/// read under each name, and written again.
pub(crate) fn written_as<E: Event>() -> Result<Vec<&'static str>> {
    let names = types::<E>()?;
    if has_variant::<E>(names.len().saturating_sub(1)) {
        return Ok(names.to_vec());
    }
    let samples = shape::of_variants::<E>().unwrap_or_default();
    let written = |name: &str| {
        let sample = samples.iter().find(|(of, _)| *of == name)?.1.sample.as_ref()?.to_string();
        let event = E::deserialize(Tagged { event_type: name, data: sample.as_bytes() }).ok()?;
        event.serialize(Variant { json: &mut serde_json::Serializer::new(&mut Vec::new()) }).ok()
    };
    let written: Vec<_> = names.iter().map(|name| (*name, written(name))).collect();
    let unseen: Vec<_> = written.iter().filter(|(_, kind)| kind.is_none()).map(|(name, _)| *name).collect();
    if !unseen.is_empty() {
        return Err(Error::invalid(
            format!("the event `{}` of `{}`", unseen.join("`, `"), type_name::<E>()),
            "the enum has aliases (`#[serde(alias)]`), and it cannot be seen whether this is one, and of which variant, because no \
             sample of it could be made; use `Evolution::rename` instead of the aliases",
        ));
    }
    Ok(written.into_iter().filter_map(|(_, kind)| kind).collect())
}

/// Whether there are so many variants that this one exists, counted from 0. An alias is none.
fn has_variant<E: Event>(index: usize) -> bool {
    let mut found = false;
    // It refuses to give a value, so this can only fail.
    let _ = E::deserialize(ByIndex { index: index as u64, found: &mut found });
    found
}

/// Whether the type takes events that it knows nothing of: then no step would ever be taken, and nothing be unknown.
pub(crate) fn takes_anything<E: Event>() -> bool {
    // No stored type can be called that. A type that panics has not taken it; whoever reads an event will hear of it.
    let taken = || E::deserialize(Tagged { event_type: "\0 no such event", data: b"{}" }).is_ok();
    catch_unwind(taken).unwrap_or(false)
}

/// Whether the type is a variant, or what one was called before, of whatever version: such an event is damaged, or there is no step
/// for its version, but it is not unknown.
fn is_known<E: Event>(evolution: &Evolution<E>, stored: &str) -> Result<bool> {
    let kind = without_version(stored);
    let is_of = |name: &str| name == kind || without_version(name) == kind;
    Ok(types::<E>()?.iter().any(|name| is_of(name)) || evolution.older().any(is_of))
}

/// `Deposited`, of `Deposited.v2`.
fn without_version(stored: &str) -> &str {
    match stored.rsplit_once(".v") {
        Some((name, number)) if number.parse::<u32>().is_ok() => name,
        _ => stored,
    }
}

type Json<'a, 'w> = &'a mut serde_json::Serializer<&'w mut Vec<u8>>;

/// Takes an enum's variant: its content goes to `json`, its name is the result.
struct Variant<'a, 'w> {
    json: Json<'a, 'w>,
}

/// The content of a variant on its way to JSON, with the variant's name.
struct Content<S> {
    name: &'static str,
    json: S,
}

macro_rules! refuse {
    ($($method:ident($($arg:ty),*) -> $ok:ty;)*) => {$(
        fn $method(self, $(_: $arg),*) -> Result<$ok, Self::Error> {
            Err(ser::Error::custom(NOT_AN_ENUM))
        }
    )*};
}

impl<'a, 'w> ser::Serializer for Variant<'a, 'w> {
    type Ok = &'static str;
    type Error = serde_json::Error;
    type SerializeSeq = Impossible<Self::Ok, Self::Error>;
    type SerializeTuple = Impossible<Self::Ok, Self::Error>;
    type SerializeTupleStruct = Impossible<Self::Ok, Self::Error>;
    type SerializeMap = Impossible<Self::Ok, Self::Error>;
    type SerializeStruct = Impossible<Self::Ok, Self::Error>;
    type SerializeTupleVariant = Content<<Json<'a, 'w> as ser::Serializer>::SerializeTuple>;
    type SerializeStructVariant = Content<<Json<'a, 'w> as ser::Serializer>::SerializeStruct>;

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
    ) -> Result<Self::Ok, Self::Error> {
        SerializeStruct::end(ser::Serializer::serialize_struct(self.json, name, 0)?)?;
        Ok(name)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
        content: &T,
    ) -> Result<Self::Ok, Self::Error> {
        content.serialize(self.json)?;
        Ok(name)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleVariant, Self::Error> {
        Ok(Content { name, json: self.json.serialize_tuple(len)? })
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStructVariant, Self::Error> {
        Ok(Content { name, json: self.json.serialize_struct(name, len)? })
    }

    fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<Self::Ok, Self::Error> {
        Err(ser::Error::custom(NOT_AN_ENUM))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: &T,
    ) -> Result<Self::Ok, Self::Error> {
        Err(ser::Error::custom(NOT_AN_ENUM))
    }

    refuse! {
        serialize_bool(bool) -> Self::Ok;
        serialize_i8(i8) -> Self::Ok;
        serialize_i16(i16) -> Self::Ok;
        serialize_i32(i32) -> Self::Ok;
        serialize_i64(i64) -> Self::Ok;
        serialize_u8(u8) -> Self::Ok;
        serialize_u16(u16) -> Self::Ok;
        serialize_u32(u32) -> Self::Ok;
        serialize_u64(u64) -> Self::Ok;
        serialize_f32(f32) -> Self::Ok;
        serialize_f64(f64) -> Self::Ok;
        serialize_char(char) -> Self::Ok;
        serialize_str(&str) -> Self::Ok;
        serialize_bytes(&[u8]) -> Self::Ok;
        serialize_none() -> Self::Ok;
        serialize_unit() -> Self::Ok;
        serialize_unit_struct(&'static str) -> Self::Ok;
        serialize_seq(Option<usize>) -> Self::SerializeSeq;
        serialize_tuple(usize) -> Self::SerializeTuple;
        serialize_tuple_struct(&'static str, usize) -> Self::SerializeTupleStruct;
        serialize_map(Option<usize>) -> Self::SerializeMap;
        serialize_struct(&'static str, usize) -> Self::SerializeStruct;
    }
}

impl<S: SerializeTuple> ser::SerializeTupleVariant for Content<S> {
    type Ok = &'static str;
    type Error = S::Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Self::Error> {
        self.json.serialize_element(value)
    }

    fn end(self) -> Result<Self::Ok, Self::Error> {
        self.json.end()?;
        Ok(self.name)
    }
}

impl<S: SerializeStruct> ser::SerializeStructVariant for Content<S> {
    type Ok = &'static str;
    type Error = S::Error;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        value: &T,
    ) -> Result<(), Self::Error> {
        self.json.serialize_field(key, value)
    }

    fn skip_field(&mut self, key: &'static str) -> Result<(), Self::Error> {
        self.json.skip_field(key)
    }

    fn end(self) -> Result<Self::Ok, Self::Error> {
        self.json.end()?;
        Ok(self.name)
    }
}

/// Gives an enum: the variant named by the event type, with the data as its content.
struct Tagged<'a> {
    event_type: &'a str,
    data: &'a [u8],
}

type JsonReader<'a> = serde_json::Deserializer<serde_json::de::SliceRead<'a>>;

impl<'a> Tagged<'a> {
    /// Reads the data as one JSON value with nothing after it.
    fn content<T>(
        self,
        read: impl FnOnce(&mut JsonReader<'a>) -> serde_json::Result<T>,
    ) -> serde_json::Result<T> {
        let mut json = serde_json::Deserializer::from_slice(self.data);
        let value = read(&mut json)?;
        json.end()?;
        Ok(value)
    }
}

impl<'de, 'a: 'de> de::Deserializer<'de> for Tagged<'a> {
    type Error = serde_json::Error;

    fn deserialize_enum<V: de::Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_enum(self)
    }

    fn deserialize_any<V: de::Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(de::Error::custom(NOT_AN_ENUM))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

impl<'de, 'a: 'de> de::EnumAccess<'de> for Tagged<'a> {
    type Error = serde_json::Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Self::Error> {
        let name: StrDeserializer<'_, Self::Error> = self.event_type.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de, 'a: 'de> de::VariantAccess<'de> for Tagged<'a> {
    type Error = serde_json::Error;

    /// Whatever the content is: a variant that lost its fields still reads what was written when it had them.
    fn unit_variant(self) -> Result<(), Self::Error> {
        self.content(|json| de::Deserialize::deserialize(json).map(|IgnoredAny| ()))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Self::Error> {
        self.content(|json| seed.deserialize(json))
    }

    fn tuple_variant<V: de::Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Self::Error> {
        self.content(|json| json.deserialize_tuple(len, visitor))
    }

    fn struct_variant<V: de::Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.content(|json| json.deserialize_struct("", fields, visitor))
    }
}

/// Gives nothing, and remembers which variants it was asked for.
struct Probe<'a> {
    variants: &'a mut Option<&'static [&'static str]>,
}

#[derive(Debug)]
struct Probed;

impl fmt::Display for Probed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("only asked for its variants")
    }
}

impl std::error::Error for Probed {}

impl de::Error for Probed {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

impl<'de> de::Deserializer<'de> for Probe<'_> {
    type Error = Probed;

    fn deserialize_enum<V: de::Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Probed> {
        *self.variants = Some(variants);
        Err(Probed)
    }

    fn deserialize_any<V: de::Visitor<'de>>(self, _: V) -> Result<V::Value, Probed> {
        Err(Probed)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// Gives a variant by its number, and nothing of its content.
struct ByIndex<'a> {
    index: u64,
    found: &'a mut bool,
}

impl<'de> de::Deserializer<'de> for ByIndex<'_> {
    type Error = Probed;

    fn deserialize_enum<V: de::Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Probed> {
        visitor.visit_enum(self)
    }

    fn deserialize_any<V: de::Visitor<'de>>(self, _: V) -> Result<V::Value, Probed> {
        Err(Probed)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

impl<'de> de::EnumAccess<'de> for ByIndex<'_> {
    type Error = Probed;
    type Variant = NoContent;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, NoContent), Probed> {
        let variant = seed.deserialize(IntoDeserializer::<Probed>::into_deserializer(self.index))?;
        *self.found = true;
        Ok((variant, NoContent))
    }
}

struct NoContent;

impl<'de> de::VariantAccess<'de> for NoContent {
    type Error = Probed;

    fn unit_variant(self) -> Result<(), Probed> {
        Err(Probed)
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, Probed> {
        Err(Probed)
    }

    fn tuple_variant<V: de::Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Probed> {
        Err(Probed)
    }

    fn struct_variant<V: de::Visitor<'de>>(
        self,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Probed> {
        Err(Probed)
    }
}
