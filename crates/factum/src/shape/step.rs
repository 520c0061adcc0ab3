//! The way through a type to one place in it.

use std::{any::type_name, cell::RefCell};

use serde::{
    Deserializer,
    de::{self, DeserializeSeed, IntoDeserializer as _, Visitor, value::StrDeserializer},
};
use serde_json::Value;

use super::play::{Fault, Hint, Key, Meter, Play, deserialize_by_hint};

/// One turn on the way. What must be there before the type asks for the next place comes along as samples.
#[derive(Clone, Debug)]
pub(super) enum Turn {
    Some,
    Newtype,
    /// The value of a field, or of an entry in a map.
    Field {
        before: Vec<(String, Value)>,
        name: String,
    },
    /// The key of an entry in a map.
    Key,
    Element {
        before: Vec<Value>,
    },
    /// The content of a variant.
    Variant(String),
}

/// What to do at the place.
#[derive(Clone, Copy, Debug)]
pub(super) enum Act<'r> {
    Ask,
    Play(&'r Value),
}

/// What a type asks for at a place, and who asks: the name of the visitor's type, generic arguments and all.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Asked {
    pub(super) hint: Hint,
    pub(super) visitor: &'static str,
    pub(super) expecting: String,
}

/// One attempt to deserialize a type.
#[derive(Debug)]
pub(super) struct Run<'r> {
    pub(super) way: &'r [Turn],
    pub(super) act: Act<'r>,
    pub(super) meter: Meter,
    pub(super) asked: RefCell<Option<Asked>>,
    /// What the type made of each place on the way, the root first.
    pub(super) came: RefCell<Vec<Option<Result<(), Fault>>>>,
}

impl<'r> Run<'r> {
    pub(super) fn new(way: &'r [Turn], act: Act<'r>) -> Self {
        let came = RefCell::new(vec![None; way.len() + 1]);
        Self { way, act, meter: Meter::default(), asked: RefCell::default(), came }
    }

    pub(super) fn judge<T>(&self, at: usize, result: Result<T, Fault>) -> Result<T, Fault> {
        if let Some(came) = self.came.borrow_mut().get_mut(at) {
            *came = Some(result.as_ref().map(drop).map_err(Clone::clone));
        }
        result
    }
}

/// The deserializer of one place on the way.
#[derive(Clone, Copy)]
pub(super) struct Step<'r> {
    pub(super) run: &'r Run<'r>,
    /// How many turns lie behind.
    pub(super) at: usize,
}

struct Expecting<'v, V>(&'v V);

impl<'de, V: Visitor<'de>> std::fmt::Display for Expecting<'_, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.expecting(f)
    }
}

impl<'r> Step<'r> {
    fn next(self) -> Self {
        Self { at: self.at + 1, ..self }
    }

    fn seed<'de, S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Fault> {
        let next = self.next();
        self.run.judge(next.at, seed.deserialize(next))
    }

    fn play(self, value: &'r Value) -> Play<'r> {
        Play { value, meter: &self.run.meter }
    }

    pub(super) fn by<'de, V: Visitor<'de>>(self, hint: Hint, visitor: V) -> Result<V::Value, Fault> {
        self.run.meter.tick();
        let Some(turn) = self.run.way.get(self.at) else { return self.arrive(hint, visitor) };
        match (turn, hint) {
            (Turn::Some, Hint::Option) => self.run.judge(self.at + 1, visitor.visit_some(self.next())),
            (Turn::Newtype, Hint::Newtype) => {
                self.run.judge(self.at + 1, visitor.visit_newtype_struct(self.next()))
            }
            (Turn::Field { before, name }, Hint::Struct(_) | Hint::Map) => visitor.visit_map(Fields {
                step: self,
                before: before.iter(),
                value: None,
                name: Some(name),
                here: false,
            }),
            (Turn::Key, Hint::Map) => visitor.visit_map(FirstKey { step: self, asked: false }),
            (Turn::Element { before }, Hint::Seq | Hint::Tuple(_)) => {
                visitor.visit_seq(Elements { step: self, before: before.iter(), over: false })
            }
            (Turn::Variant(name), Hint::Enum(_)) => visitor.visit_enum(Chosen { step: self, name }),
            _ => Err(Fault::Stopped),
        }
    }

    fn arrive<'de, V: Visitor<'de>>(self, hint: Hint, visitor: V) -> Result<V::Value, Fault> {
        let in_key = matches!(self.run.way.last(), Some(Turn::Key));
        match self.run.act {
            Act::Ask => {
                let expecting =
                    if hint == Hint::Str { Expecting(&visitor).to_string() } else { String::new() };
                let asked = Asked { hint, visitor: type_name::<V>(), expecting };
                *self.run.asked.borrow_mut() = Some(asked);
                Err(Fault::Asked)
            }
            Act::Play(Value::String(text)) if in_key => {
                Key { text, meter: &self.run.meter }.by(hint, visitor)
            }
            Act::Play(value) if in_key => {
                Key { text: &value.to_string(), meter: &self.run.meter }.by(hint, visitor)
            }
            Act::Play(value) => self.play(value).by(hint, visitor),
        }
    }
}

impl<'de> Deserializer<'de> for Step<'_> {
    type Error = Fault;
    deserialize_by_hint!();
}

/// An object: samples, then the field on the way, then no more.
struct Fields<'r> {
    step: Step<'r>,
    before: std::slice::Iter<'r, (String, Value)>,
    value: Option<&'r Value>,
    name: Option<&'r str>,
    here: bool,
}

impl<'de> de::MapAccess<'de> for Fields<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let meter = &self.step.run.meter;
        meter.tick();
        let text = if let Some((name, value)) = self.before.next() {
            self.value = Some(value);
            name
        } else if let Some(name) = self.name.take() {
            self.here = true;
            name
        } else {
            return Ok(None);
        };
        seed.deserialize(Key { text, meter }).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        self.step.run.meter.tick();
        match self.value.take() {
            Some(sample) => seed.deserialize(self.step.play(sample)),
            None if self.here => self.step.seed(seed),
            None => Err(Fault::Stopped),
        }
    }
}

struct FirstKey<'r> {
    step: Step<'r>,
    asked: bool,
}

impl<'de> de::MapAccess<'de> for FirstKey<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        self.step.run.meter.tick();
        if std::mem::replace(&mut self.asked, true) { Ok(None) } else { self.step.seed(seed).map(Some) }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, _: V) -> Result<V::Value, Fault> {
        Err(Fault::Asked)
    }
}

struct Elements<'r> {
    step: Step<'r>,
    before: std::slice::Iter<'r, Value>,
    over: bool,
}

impl<'de> de::SeqAccess<'de> for Elements<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        self.step.run.meter.tick();
        if let Some(sample) = self.before.next() {
            return seed.deserialize(self.step.play(sample)).map(Some);
        }
        if std::mem::replace(&mut self.over, true) { Ok(None) } else { self.step.seed(seed).map(Some) }
    }
}

struct Chosen<'r> {
    step: Step<'r>,
    name: &'r str,
}

impl<'de, 'r> de::EnumAccess<'de> for Chosen<'r> {
    type Error = Fault;
    type Variant = Content<'r>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Content<'r>), Fault> {
        self.step.run.meter.tick();
        let name: StrDeserializer<'_, Fault> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, Content { step: self.step }))
    }
}

/// The content of the variant that was chosen.
struct Content<'r> {
    step: Step<'r>,
}

impl<'de> de::VariantAccess<'de> for Content<'_> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        let Step { run, at } = self.step.next();
        if run.way.len() > at {
            return Err(Fault::Stopped);
        }
        if matches!(run.act, Act::Ask) {
            let asked = Asked { hint: Hint::Nothing, visitor: "", expecting: String::new() };
            *run.asked.borrow_mut() = Some(asked);
        }
        run.judge(at, Ok(()))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        self.step.seed(seed)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Fault> {
        let next = self.step.next();
        next.run.judge(next.at, next.by(Hint::Tuple(len), visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let next = self.step.next();
        next.run.judge(next.at, next.by(Hint::Struct(fields), visitor))
    }
}
