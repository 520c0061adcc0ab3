//! From enums to event types and JSON, and back.
//!
//! A variant's name (as serde knows it, so `#[serde(rename)]` pins it) is the event type; what the variant holds is the data. There
//! is nothing to derive besides serde's own traits.

use std::cell::Cell;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, DeserializeOwned, DeserializeSeed, EnumAccess, IntoDeserializer, VariantAccess, Visitor},
    ser::{self, Impossible, SerializeStructVariant, SerializeTupleVariant},
};

use crate::error::{Error, Result};

/// The error that serde gets, before it is known which event it is about.
type Json = serde_json::Error;

const NOT_AN_ENUM: &str =
    "an event must be an enum with one variant per kind, and without `tag` or `untagged`";

/// The event type and the JSON data of an event.
///
/// # Errors
/// [`Error::InvalidInput`] if it is no enum, or holds what JSON cannot say.
pub fn encode<E: Serialize>(event: &E) -> Result<(&'static str, Vec<u8>)> {
    event.serialize(VariantSerializer).map_err(|e| Error::invalid(std::any::type_name::<E>(), e.to_string()))
}

/// The event of this type and data. The reason, if there is none such.
///
/// # Errors
/// [`Error::InvalidInput`] naming the type and what is wrong.
pub fn decode<E: DeserializeOwned>(event_type: &str, data: &[u8]) -> Result<E> {
    let known = types::<E>();
    if !known.contains(&event_type) {
        let why = format!("{} knows only {}", std::any::type_name::<E>(), known.join(", "));
        return Err(Error::invalid(format!("the event type `{event_type}`"), why));
    }
    E::deserialize(VariantDeserializer { event_type, data })
        .map_err(|e| Error::invalid(format!("the data of `{event_type}`"), e.to_string()))
}

/// The event types that an enum knows, in the order of its variants. Empty for what is no enum.
pub fn types<E: DeserializeOwned>() -> &'static [&'static str] {
    let probe = Probe::default();
    let _ = E::deserialize(&probe);
    probe.variants.get()
}

/// Learns an enum's variants from what it asks of a deserializer, and gives it nothing.
#[derive(Default)]
struct Probe {
    variants: Cell<&'static [&'static str]>,
}

impl<'de> Deserializer<'de> for &Probe {
    type Error = Json;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Json> {
        Err(de::Error::custom(NOT_AN_ENUM))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Json> {
        self.variants.set(variants);
        Err(de::Error::custom("only asked for the variants"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

/// An event's type, as the name of the variant, and its data, as what the variant holds.
struct VariantDeserializer<'a> {
    event_type: &'a str,
    data: &'a [u8],
}

impl<'de> Deserializer<'de> for VariantDeserializer<'de> {
    type Error = Json;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Json> {
        Err(de::Error::custom(NOT_AN_ENUM))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Json> {
        visitor.visit_enum(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

impl<'de> EnumAccess<'de> for VariantDeserializer<'de> {
    type Error = Json;
    type Variant = Content<'de>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Content<'de>), Json> {
        let name: de::value::StrDeserializer<'_, Json> = self.event_type.into_deserializer();
        Ok((seed.deserialize(name)?, Content(self.data)))
    }
}

/// What a variant holds, as JSON.
struct Content<'de>(&'de [u8]);

impl<'de> Content<'de> {
    fn read<T>(
        self,
        read: impl FnOnce(&mut serde_json::Deserializer<serde_json::de::SliceRead<'de>>) -> Result<T, Json>,
    ) -> Result<T, Json> {
        let mut json = serde_json::Deserializer::from_slice(self.0);
        let value = read(&mut json)?;
        json.end()?;
        Ok(value)
    }
}

impl<'de> VariantAccess<'de> for Content<'de> {
    type Error = Json;

    fn unit_variant(self) -> Result<(), Json> {
        // Whatever a former or later version keeps with it is none of this one's business.
        self.read(|json| de::IgnoredAny::deserialize(json)).map(drop)
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Json> {
        self.read(|json| seed.deserialize(json))
    }

    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Json> {
        self.read(|json| json.deserialize_tuple(length, visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Json> {
        self.read(|json| json.deserialize_struct("", fields, visitor))
    }
}

/// Takes an enum apart; refuses all else.
struct VariantSerializer;

type Encoded = (&'static str, Vec<u8>);

/// A variant that is being written, field after field.
struct Fields {
    variant: &'static str,
    json: Vec<u8>,
    close: u8,
}

impl Fields {
    fn open(variant: &'static str, open: u8, close: u8) -> Self {
        Self { variant, json: vec![open], close }
    }

    fn next(&mut self) {
        if self.json.len() > 1 {
            self.json.push(b',');
        }
    }

    fn done(mut self) -> Result<Encoded, Json> {
        self.json.push(self.close);
        Ok((self.variant, self.json))
    }
}

impl SerializeTupleVariant for Fields {
    type Ok = Encoded;
    type Error = Json;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Json> {
        self.next();
        serde_json::to_writer(&mut self.json, value)
    }

    fn end(self) -> Result<Encoded, Json> {
        self.done()
    }
}

impl SerializeStructVariant for Fields {
    type Ok = Encoded;
    type Error = Json;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), Json> {
        self.next();
        serde_json::to_writer(&mut self.json, key)?;
        self.json.push(b':');
        serde_json::to_writer(&mut self.json, value)
    }

    fn end(self) -> Result<Encoded, Json> {
        self.done()
    }
}

/// Refuses values of these kinds.
macro_rules! refuse {
    ($($method:ident($($argument:ty),*) $(-> $answer:ty)?;)*) => {$(
        fn $method(self $(, _: $argument)*) -> Result<refuse!(@ $($answer)?), Json> {
            Err(ser::Error::custom(NOT_AN_ENUM))
        }
    )*};
    (@ $answer:ty) => { $answer };
    (@) => { Encoded };
}

impl Serializer for VariantSerializer {
    type Ok = Encoded;
    type Error = Json;
    type SerializeSeq = Impossible<Encoded, Json>;
    type SerializeTuple = Impossible<Encoded, Json>;
    type SerializeTupleStruct = Impossible<Encoded, Json>;
    type SerializeTupleVariant = Fields;
    type SerializeMap = Impossible<Encoded, Json>;
    type SerializeStruct = Impossible<Encoded, Json>;
    type SerializeStructVariant = Fields;

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<Encoded, Json> {
        Ok((variant, b"{}".to_vec()))
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Encoded, Json> {
        Ok((variant, serde_json::to_vec(value)?))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Fields, Json> {
        Ok(Fields::open(variant, b'[', b']'))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Fields, Json> {
        Ok(Fields::open(variant, b'{', b'}'))
    }

    fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<Encoded, Json> {
        Err(ser::Error::custom(NOT_AN_ENUM))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<Encoded, Json> {
        // A wrapper around an enum is as good as the enum.
        value.serialize(self)
    }

    refuse! {
        serialize_bool(bool);
        serialize_i8(i8);
        serialize_i16(i16);
        serialize_i32(i32);
        serialize_i64(i64);
        serialize_u8(u8);
        serialize_u16(u16);
        serialize_u32(u32);
        serialize_u64(u64);
        serialize_f32(f32);
        serialize_f64(f64);
        serialize_char(char);
        serialize_str(&str);
        serialize_bytes(&[u8]);
        serialize_none();
        serialize_unit();
        serialize_unit_struct(&'static str);
        serialize_seq(Option<usize>) -> Self::SerializeSeq;
        serialize_tuple(usize) -> Self::SerializeTuple;
        serialize_tuple_struct(&'static str, usize) -> Self::SerializeTupleStruct;
        serialize_map(Option<usize>) -> Self::SerializeMap;
        serialize_struct(&'static str, usize) -> Self::SerializeStruct;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Money {
        amount: String,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Happened {
        Opened {
            owner: String,
            limit: Option<u32>,
        },
        Deposited(Money),
        Moved(u8, String),
        #[serde(rename = "account-closed")]
        Closed,
    }

    #[test]
    fn every_kind_of_variant_comes_back() {
        let cases = [
            (
                Happened::Opened { owner: "Ada \"L\"".into(), limit: None },
                "Opened",
                r#"{"owner":"Ada \"L\"","limit":null}"#,
            ),
            (Happened::Deposited(Money { amount: "1.20".into() }), "Deposited", r#"{"amount":"1.20"}"#),
            (Happened::Moved(7, "x".into()), "Moved", r#"[7,"x"]"#),
            (Happened::Closed, "account-closed", "{}"),
        ];
        for (event, event_type, data) in cases {
            let (got_type, got_data) = encode(&event).unwrap();
            assert_eq!((got_type, std::str::from_utf8(&got_data).unwrap()), (event_type, data));
            assert_eq!(decode::<Happened>(got_type, &got_data).unwrap(), event);
        }
        assert_eq!(types::<Happened>(), ["Opened", "Deposited", "Moved", "account-closed"]);
        assert_eq!(decode::<Happened>("account-closed", br#"{"by":"x"}"#).unwrap(), Happened::Closed);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let error =
            |event_type, data: &str| decode::<Happened>(event_type, data.as_bytes()).unwrap_err().to_string();
        assert!(
            error("Opend", "{}").contains("`Opend`") && error("Opend", "{}").contains("Opened, Deposited")
        );
        assert!(error("Opened", "{}").contains("missing field `owner`"));
        assert!(error("Opened", "{").contains("EOF"));
        assert!(error("Deposited", r#"{"amount":"1"} x"#).contains("trailing"));
        assert!(encode(&Money { amount: "1".into() }).unwrap_err().to_string().contains("must be an enum"));
        assert!(encode(&7).is_err() && encode(&"x").is_err() && encode(&Some(Happened::Closed)).is_err());
        assert!(types::<Money>().is_empty());
    }
}
