//! A JSON value handed to a type as `serde_json` would, with an error that tells what the type said.

use std::{cell::Cell, fmt, panic::resume_unwind};

use serde::{
    Deserializer,
    de::{self, DeserializeSeed, IntoDeserializer as _, Visitor, value::StrDeserializer},
};
use serde_json::{Map, Value};

/// What a type asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Hint {
    Bool,
    Int {
        signed: bool,
        bits: u8,
    },
    Float(u8),
    Char,
    Str,
    Bytes,
    Unit,
    /// The content of a variant that has none.
    Nothing,
    Option,
    Newtype,
    Seq,
    Tuple(usize),
    Map,
    Struct(&'static [&'static str]),
    Enum(&'static [&'static str]),
    /// It takes what comes.
    Any,
}

impl Hint {
    /// Whether `serde_json` hands such a value to one who asks for this.
    fn takes(self, value: &Value) -> bool {
        match self {
            Self::Bool => value.is_boolean(),
            Self::Int { .. } | Self::Float(_) => value.is_number(),
            Self::Char | Self::Str => value.is_string(),
            Self::Bytes => value.is_string() || value.is_array(),
            Self::Unit | Self::Nothing => value.is_null(),
            Self::Seq | Self::Tuple(_) => value.is_array(),
            Self::Map => value.is_object(),
            Self::Struct(_) => value.is_object() || value.is_array(),
            Self::Option | Self::Newtype | Self::Enum(_) | Self::Any => true,
        }
    }
}

/// What a type said against a value, as far as it can be understood.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fault {
    Missing(&'static str),
    Duplicate(&'static str),
    UnknownField(&'static [&'static str]),
    UnknownVariant(&'static [&'static str]),
    /// Not a value of this kind.
    Unfit,
    /// In words of its own.
    Words,
    /// It was only asked what it wants.
    Asked,
    /// It asked for more than it is given, or for something else than before.
    Stopped,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self::Words
    }

    fn invalid_type(_: de::Unexpected<'_>, _: &dyn de::Expected) -> Self {
        Self::Unfit
    }

    fn invalid_value(_: de::Unexpected<'_>, _: &dyn de::Expected) -> Self {
        Self::Unfit
    }

    fn invalid_length(_: usize, _: &dyn de::Expected) -> Self {
        Self::Unfit
    }

    fn unknown_variant(_: &str, known: &'static [&'static str]) -> Self {
        Self::UnknownVariant(known)
    }

    fn unknown_field(_: &str, known: &'static [&'static str]) -> Self {
        Self::UnknownField(known)
    }

    fn missing_field(field: &'static str) -> Self {
        Self::Missing(field)
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::Duplicate(field)
    }
}

/// Ends types that never end by themselves, and that no error stops.
#[derive(Debug, Default)]
pub(super) struct Meter {
    asked: Cell<u32>,
}

impl Meter {
    const PATIENCE: u32 = 100_000;

    pub(super) fn tick(&self) {
        let asked = self.asked.get() + 1;
        self.asked.set(asked);
        if asked > Self::PATIENCE {
            // Not a panic: nothing is printed, and `Tracer::run` catches it.
            resume_unwind(Box::new(Fault::Stopped));
        }
    }
}

/// Answers every method of `Deserializer` by one function, `by`.
macro_rules! deserialize_by_hint {
    () => {
        deserialize_by_hint! {
            deserialize_bool = Hint::Bool, deserialize_char = Hint::Char, deserialize_str = Hint::Str,
            deserialize_string = Hint::Str, deserialize_bytes = Hint::Bytes, deserialize_byte_buf = Hint::Bytes,
            deserialize_i8 = Hint::Int { signed: true, bits: 8 }, deserialize_i16 = Hint::Int { signed: true, bits: 16 },
            deserialize_i32 = Hint::Int { signed: true, bits: 32 }, deserialize_i64 = Hint::Int { signed: true, bits: 64 },
            deserialize_i128 = Hint::Int { signed: true, bits: 128 }, deserialize_u8 = Hint::Int { signed: false, bits: 8 },
            deserialize_u16 = Hint::Int { signed: false, bits: 16 }, deserialize_u32 = Hint::Int { signed: false, bits: 32 },
            deserialize_u64 = Hint::Int { signed: false, bits: 64 }, deserialize_u128 = Hint::Int { signed: false, bits: 128 },
            deserialize_f32 = Hint::Float(32), deserialize_f64 = Hint::Float(64), deserialize_unit = Hint::Unit,
            deserialize_option = Hint::Option, deserialize_seq = Hint::Seq, deserialize_map = Hint::Map,
            deserialize_any = Hint::Any, deserialize_identifier = Hint::Str, deserialize_ignored_any = Hint::Any
        }

        fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
            self.by(Hint::Unit, visitor)
        }

        fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
            self.by(Hint::Newtype, visitor)
        }

        fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Fault> {
            self.by(Hint::Tuple(len), visitor)
        }

        fn deserialize_tuple_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            len: usize,
            visitor: V,
        ) -> Result<V::Value, Fault> {
            self.by(Hint::Tuple(len), visitor)
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Fault> {
            self.by(Hint::Struct(fields), visitor)
        }

        fn deserialize_enum<V: Visitor<'de>>(
            self,
            _: &'static str,
            variants: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Fault> {
            self.by(Hint::Enum(variants), visitor)
        }
    };
    ($($method:ident = $hint:expr),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            self.by($hint, visitor)
        }
    )*};
}
pub(super) use deserialize_by_hint;

/// A JSON value as a type meets it in a text.
#[derive(Clone, Copy)]
pub(super) struct Play<'a> {
    pub(super) value: &'a Value,
    pub(super) meter: &'a Meter,
}

impl<'a> Play<'a> {
    fn of(self, value: &'a Value) -> Self {
        Self { value, ..self }
    }

    pub(super) fn by<'de, V: Visitor<'de>>(self, hint: Hint, visitor: V) -> Result<V::Value, Fault> {
        self.meter.tick();
        match (hint, self.value) {
            (Hint::Option, Value::Null) => visitor.visit_none(),
            (Hint::Option, _) => visitor.visit_some(self),
            (Hint::Newtype, _) => visitor.visit_newtype_struct(self),
            (Hint::Enum(_), _) => visitor.visit_enum(self),
            (hint, value) if !hint.takes(value) => Err(Fault::Unfit),
            (_, Value::Null) => visitor.visit_unit(),
            (_, Value::Bool(it)) => visitor.visit_bool(*it),
            (_, Value::Number(number)) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => visitor.visit_u64(number),
                (None, Some(number)) => visitor.visit_i64(number),
                (None, None) => visitor.visit_f64(number.as_f64().unwrap_or_default()),
            },
            (_, Value::String(text)) => visitor.visit_str(text),
            (_, Value::Array(items)) => visitor.visit_seq(Items { play: self, items: items.iter() }),
            (_, Value::Object(entries)) => {
                visitor.visit_map(Entries { play: self, entries: entries.iter(), value: None })
            }
        }
    }
}

impl<'de> Deserializer<'de> for Play<'_> {
    type Error = Fault;
    deserialize_by_hint!();
}

struct Items<'a> {
    play: Play<'a>,
    items: std::slice::Iter<'a, Value>,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        self.play.meter.tick();
        self.items.next().map(|item| seed.deserialize(self.play.of(item))).transpose()
    }
}

struct Entries<'a> {
    play: Play<'a>,
    entries: serde_json::map::Iter<'a>,
    value: Option<&'a Value>,
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        self.play.meter.tick();
        let Some((key, value)) = self.entries.next() else { return Ok(None) };
        self.value = Some(value);
        seed.deserialize(Key { text: key, meter: self.play.meter }).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        self.play.meter.tick();
        seed.deserialize(self.play.of(self.value.take().ok_or(Fault::Stopped)?))
    }
}

impl<'de> de::EnumAccess<'de> for Play<'_> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Fault> {
        static NONE: Value = Value::Null;
        let (name, content) = match self.value {
            Value::String(name) => (name, &NONE),
            Value::Object(entries) if entries.len() == 1 => entries.iter().next().ok_or(Fault::Unfit)?,
            _ => return Err(Fault::Unfit),
        };
        let name: StrDeserializer<'_, Fault> = name.as_str().into_deserializer();
        Ok((seed.deserialize(name)?, self.of(content)))
    }
}

impl<'de> de::VariantAccess<'de> for Play<'_> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        if self.value.is_null() { Ok(()) } else { Err(Fault::Unfit) }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Fault> {
        self.by(Hint::Tuple(len), visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.by(Hint::Struct(fields), visitor)
    }
}

/// The key of a JSON object: always text, but numbers and booleans are found in it where they are asked for.
#[derive(Clone, Copy)]
pub(super) struct Key<'a> {
    pub(super) text: &'a str,
    pub(super) meter: &'a Meter,
}

impl<'a> Key<'a> {
    pub(super) fn by<'de, V: Visitor<'de>>(self, hint: Hint, visitor: V) -> Result<V::Value, Fault> {
        self.meter.tick();
        match hint {
            Hint::Option => visitor.visit_some(self),
            Hint::Newtype => visitor.visit_newtype_struct(self),
            Hint::Enum(_) => {
                let name: StrDeserializer<'a, Fault> = self.text.into_deserializer();
                visitor.visit_enum(name)
            }
            Hint::Bool => visitor.visit_bool(self.text.parse().map_err(|_| Fault::Unfit)?),
            Hint::Int { .. } => match self.text.parse() {
                Ok(number) => visitor.visit_u64(number),
                Err(_) => visitor.visit_i64(self.text.parse().map_err(|_| Fault::Unfit)?),
            },
            Hint::Float(_) => visitor.visit_f64(self.text.parse().map_err(|_| Fault::Unfit)?),
            Hint::Str | Hint::Char | Hint::Any | Hint::Bytes => visitor.visit_str(self.text),
            _ => Err(Fault::Unfit),
        }
    }
}

impl<'de> Deserializer<'de> for Key<'_> {
    type Error = Fault;
    deserialize_by_hint!();
}

/// An object of these entries.
pub(super) fn object<'a>(entries: impl IntoIterator<Item = (&'a str, &'a Value)>) -> Value {
    Value::Object(Map::from_iter(entries.into_iter().map(|(name, value)| (name.to_owned(), value.clone()))))
}
