//! Shapes as JSON Schema, for readers in other languages.

use serde_json::{Map, Value, json};

use super::{Format, Kind, Record, Rest, Shape};
use crate::{aggregate::Event, error::Result, lock};

/// The version of JSON Schema that is written.
pub const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// The JSON Schema of each type that events of `E` are stored under, today's and older ones, by the type's name.
///
/// Of older types there are those whose content an upcaster or a split takes, and those that were renamed. A schema describes what
/// is stored, which may have more fields than it names.
///
/// ```
/// # use factum::{prelude::*, shape};
/// #[derive(Serialize, Deserialize)]
/// enum AccountEvent { Deposited { cents: u64 } }
///
/// impl Event for AccountEvent {
///     const CATEGORY: &'static str = "account";
/// }
///
/// let (name, schema) = &shape::schemas::<AccountEvent>()?[0];
/// assert_eq!(name, "Deposited");
/// assert_eq!(schema["title"], "account Deposited");
/// assert_eq!(schema["required"][0], "cents");
/// assert_eq!(schema["properties"]["cents"]["maximum"], u64::MAX);
/// # Ok::<(), factum::Error>(())
/// ```
///
/// # Errors
/// [`Error::InvalidInput`](crate::Error::InvalidInput) if `E` is not an enum, or its evolution does not fit it.
pub fn schemas<E: Event>() -> Result<Vec<(String, Value)>> {
    let schema = |stored: lock::Stored| {
        let title = format!("{} {}", E::CATEGORY, stored.name);
        let mut schema = json!({ "$schema": DIALECT, "title": title });
        merge(&mut schema, stored.shape?.schema());
        Some((stored.name, schema))
    };
    Ok(lock::stored::<E>()?.into_iter().filter_map(schema).collect())
}

fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        into.extend(from);
    }
}

impl Shape {
    /// As [JSON Schema](https://json-schema.org/draft/2020-12), without `$schema`.
    pub fn schema(&self) -> Value {
        let mut definitions = Map::new();
        let mut schema = self.kind.schema(&mut definitions);
        if !definitions.is_empty() {
            schema["$defs"] = definitions.into();
        }
        schema
    }
}

impl Kind {
    fn schema(&self, definitions: &mut Map<String, Value>) -> Value {
        match self {
            Self::Any | Self::Unknown => json!({}),
            Self::Null => json!({ "type": "null" }),
            Self::Bool => json!({ "type": "boolean" }),
            Self::Int { signed, bits } => integer(*signed, *bits),
            Self::Float(_) => json!({ "type": "number" }),
            Self::Text(format) => text(*format),
            Self::Literal(text) => json!({ "const": text }),
            Self::List(item) => json!({ "type": "array", "items": item.schema(definitions) }),
            Self::Array(item, len) => {
                json!({ "type": "array", "items": item.schema(definitions), "minItems": len, "maxItems": len })
            }
            Self::Tuple(kinds) => {
                let items: Vec<_> = kinds.iter().map(|kind| kind.schema(definitions)).collect();
                if items.is_empty() {
                    return json!({ "type": "array", "maxItems": 0 });
                }
                json!({ "type": "array", "prefixItems": items, "items": false, "minItems": items.len() })
            }
            Self::Map(key, value) => {
                let mut schema =
                    json!({ "type": "object", "additionalProperties": value.schema(definitions) });
                // The keys of an object are texts, whatever is found in them.
                if matches!(**key, Self::Text(format) if format != Format::Plain)
                    || matches!(**key, Self::Union(_))
                {
                    schema["propertyNames"] = key.schema(definitions);
                }
                schema
            }
            Self::Record(record) => record.schema(definitions),
            Self::Union(kinds) if kinds.iter().all(|kind| matches!(kind, Self::Literal(_))) => {
                let texts = kinds
                    .iter()
                    .filter_map(|kind| if let Self::Literal(text) = kind { Some(text) } else { None });
                json!({ "enum": texts.collect::<Vec<_>>() })
            }
            Self::Union(kinds) => {
                let kinds: Vec<_> = kinds.iter().map(|kind| kind.schema(definitions)).collect();
                json!({ "anyOf": kinds })
            }
            Self::Named(number, kind) => {
                let schema = kind.schema(definitions);
                definitions.insert(number.to_string(), schema);
                Self::Again(*number).schema(definitions)
            }
            Self::Again(number) => json!({ "$ref": format!("#/$defs/{number}") }),
        }
    }
}

impl Record {
    fn schema(&self, definitions: &mut Map<String, Value>) -> Value {
        let mut properties = Map::new();
        for field in &self.fields {
            properties.insert(field.name.clone(), field.kind.schema(definitions));
        }
        let required: Vec<_> =
            self.fields.iter().filter(|field| field.required).map(|field| &field.name).collect();
        let mut schema = json!({ "type": "object", "properties": properties });
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        if self.rest == Rest::Refused {
            schema["additionalProperties"] = json!(false);
        }
        schema
    }
}

fn integer(signed: bool, bits: u8) -> Value {
    let mut schema = json!({ "type": "integer" });
    match (signed, bits) {
        (true, ..=64) => {
            schema["minimum"] = json!(i64::MIN >> (64 - bits));
            schema["maximum"] = json!(i64::MAX >> (64 - bits));
        }
        (false, ..=64) => {
            schema["minimum"] = json!(0);
            schema["maximum"] = json!(u64::MAX >> (64 - bits));
        }
        (false, _) => schema["minimum"] = json!(0),
        (true, _) => {}
    }
    schema
}

fn text(format: Format) -> Value {
    let mut schema = json!({ "type": "string" });
    match format {
        Format::Plain => {}
        Format::Char => {
            schema["minLength"] = json!(1);
            schema["maxLength"] = json!(1);
        }
        // JSON Schema has names for these.
        Format::Uuid | Format::DateTime | Format::Date | Format::Duration | Format::Uri | Format::Email => {
            schema["format"] = json!(format.name());
        }
        Format::Ipv4 | Format::Ipv6 => schema["format"] = json!(format.name()),
        Format::Ip => schema["anyOf"] = json!([{ "format": "ipv4" }, { "format": "ipv6" }]),
        Format::Integer => schema["pattern"] = json!("^[+-]?[0-9]+$"),
        // And not for these: its `time` has an offset.
        Format::Decimal | Format::Time | Format::LocalDateTime | Format::ZonedDateTime => {
            schema["description"] = json!(format.name());
        }
    }
    schema
}
