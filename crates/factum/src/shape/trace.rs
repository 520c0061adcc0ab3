//! Finds the shape of a type by deserializing it again and again, each time one step further.
//!
//! `Tracer::explore` stands at a place in the type, at the end of `way`. A run deserializes the whole type: the turns on the way say which
//! variant, which field, which element to go to, with samples where something must stand before it; at the end the type is asked
//! what it wants there, or given a value to see whether it takes it. So no value of the whole type is ever needed, and a place that
//! cannot be understood spoils nothing beside it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    Field, Format, Kind, Record, Rest,
    play::{Fault, Hint, object},
    step::{Act, Asked, Run, Step, Turn},
};

/// Attempts for one type. A large one needs some thousands.
const RUNS: u32 = 20_000;
/// Types within types.
const DEPTH: usize = 48;
/// Guesses within guesses.
const GUESSES: usize = 6;
/// Elements of a tuple that are looked at one by one.
const TUPLE: usize = 24;
/// Elements of a tuple for which a sample is made.
const LONG: usize = 4096;

/// What is known of a place.
#[derive(Clone, Debug)]
pub(crate) struct Traced {
    pub(crate) kind: Kind,
    /// A value that is taken there.
    pub(crate) sample: Option<Value>,
}

impl Traced {
    const UNKNOWN: Self = Self { kind: Kind::Unknown, sample: None };

    fn literal(text: &str) -> Self {
        Self { kind: Kind::Literal(text.to_owned()), sample: Some(text.into()) }
    }
}

pub(super) fn trace<T: DeserializeOwned>() -> Traced {
    Tracer::new(&|step| T::deserialize(step).map(drop)).explore()
}

/// The contents of an enum's variants; `None` if it is not an enum in serde's usual form.
pub(super) fn variants<T: DeserializeOwned>() -> Option<Vec<(&'static str, Traced)>> {
    let deserialize = |step: Step<'_>| T::deserialize(step).map(drop);
    let Some(Asked { hint: Hint::Enum(names), .. }) = Tracer::new(&deserialize).ask() else { return None };
    let content = |name: &'static str| {
        let mut tracer = Tracer::new(&deserialize);
        let traced = tracer.at(Turn::Variant(name.to_owned()), |tracer| match tracer.ask() {
            // Stored as `{}`, and read from anything.
            Some(Asked { hint: Hint::Nothing, .. }) => {
                let kind = Kind::Record(Record { fields: Vec::new(), rest: Rest::Ignored });
                Traced { kind, sample: Some(json!({})) }
            }
            _ => tracer.explore(),
        });
        (name, traced)
    };
    Some(names.iter().copied().map(content).collect())
}

type Answer = Result<(), Fault>;
/// Tries a value at the place that is looked at.
type Judge<'j, 't> = &'j dyn Fn(&mut Tracer<'t>, Value) -> Answer;

struct Tracer<'t> {
    deserialize: &'t dyn Fn(Step<'_>) -> Answer,
    way: Vec<Turn>,
    /// The types around the place that is looked at.
    around: Vec<Around>,
    runs: u32,
    named: u32,
    guesses: usize,
    /// Something was left out for want of a sample of a type around it.
    starved: bool,
}

struct Around {
    asked: Asked,
    name: Option<u32>,
    sample: Option<Value>,
}

impl<'t> Tracer<'t> {
    fn new(deserialize: &'t dyn Fn(Step<'_>) -> Answer) -> Self {
        Self {
            deserialize,
            way: Vec::new(),
            around: Vec::new(),
            runs: 0,
            named: 0,
            guesses: 0,
            starved: false,
        }
    }

    /// What the type asks for here, and what it makes of the place `up` turns before.
    fn run(&mut self, act: Act<'_>, up: usize) -> (Option<Asked>, Answer) {
        self.runs += 1;
        if self.runs > RUNS {
            return (None, Err(Fault::Stopped));
        }
        let run = Run::new(&self.way, act);
        let done = catch_unwind(AssertUnwindSafe(|| {
            let _ = run.judge(0, (self.deserialize)(Step { run: &run, at: 0 }));
        }));
        let came = run.came.borrow().get(self.way.len().saturating_sub(up)).cloned().flatten();
        let gave_up = if done.is_ok() { Fault::Stopped } else { Fault::Words };
        (run.asked.take(), came.unwrap_or(Err(gave_up)))
    }

    fn ask(&mut self) -> Option<Asked> {
        self.run(Act::Ask, 0).0
    }

    fn play(&mut self, value: &Value) -> Answer {
        self.run(Act::Play(value), 0).1
    }

    fn takes(&mut self, value: &Value) -> bool {
        self.play(value).is_ok()
    }

    /// The first of these values that is taken here.
    fn sample(&mut self, values: impl IntoIterator<Item = Value>) -> Option<Value> {
        values.into_iter().find(|value| self.takes(value))
    }

    /// One turn further.
    fn at<R>(&mut self, turn: Turn, look: impl FnOnce(&mut Self) -> R) -> R {
        self.way.push(turn);
        let result = look(self);
        self.way.pop();
        result
    }

    fn explore(&mut self) -> Traced {
        if self.way.len() > DEPTH {
            return Traced::UNKNOWN;
        }
        let Some(asked) = self.ask() else { return Traced::UNKNOWN };
        if let Some(around) = self.around.iter_mut().find(|around| around.asked == asked) {
            let name = *around.name.get_or_insert_with(|| {
                self.named += 1;
                self.named
            });
            self.starved |= around.sample.is_none();
            return Traced { kind: Kind::Again(name), sample: around.sample.clone() };
        }
        self.around.push(Around { asked: asked.clone(), name: None, sample: None });
        let mut traced = self.understand(&asked);
        if let Some(Around { name: Some(name), .. }) = self.around.pop() {
            traced.kind = Kind::Named(name, Box::new(traced.kind));
        }
        traced
    }

    /// Tells the places within that a value of the type around them is known.
    fn known(&mut self, sample: Option<&Value>) {
        if let (Some(around), Some(sample)) = (self.around.last_mut(), sample) {
            around.sample.get_or_insert_with(|| sample.clone());
        }
    }

    fn understand(&mut self, asked: &Asked) -> Traced {
        match asked.hint {
            Hint::Bool => self.plain(Kind::Bool, [json!(true), json!(false)]),
            Hint::Int { signed, bits } => {
                let usual = [1, 0, 2, 7, 10, 100, 1000, 1970, -1].map(Value::from);
                self.plain(Kind::Int { signed, bits }, usual)
            }
            Hint::Float(bits) => {
                self.plain(Kind::Float(bits), [json!(1.5), json!(0.5), json!(1.0), json!(0.0), json!(-1.5)])
            }
            Hint::Char => self.plain(Kind::Text(Format::Char), [json!("a"), json!("A"), json!("1")]),
            Hint::Str => self.text(asked),
            Hint::Bytes => {
                let byte = Kind::Int { signed: false, bits: 8 };
                self.plain(Kind::List(Box::new(byte)), [json!([1, 2, 3]), json!([]), json!("AQID")])
            }
            Hint::Unit => self.plain(Kind::Null, [Value::Null]),
            Hint::Nothing => Traced { kind: Kind::Null, sample: Some(Value::Null) },
            Hint::Option => {
                let inner = self.at(Turn::Some, Self::explore);
                let sample = inner.sample.into_iter().chain([Value::Null]);
                self.plain(Kind::one_of([inner.kind, Kind::Null]), sample)
            }
            Hint::Newtype => {
                let inner = self.at(Turn::Newtype, Self::explore);
                self.plain(inner.kind, inner.sample)
            }
            Hint::Seq => {
                let item = self.at(Turn::Element { before: Vec::new() }, Self::explore);
                let samples = item.sample.iter().map(|item| json!([item]));
                let more = item.sample.iter().map(|item| json!([item, item]));
                self.plain(Kind::List(Box::new(item.kind)), samples.chain([json!([])]).chain(more))
            }
            Hint::Tuple(len) => self.tuple(len),
            Hint::Map => self.map(),
            Hint::Struct(fields) => self.record(fields),
            Hint::Enum(names) => self.choice(names),
            Hint::Any => self.guess(&|tracer, value| tracer.play(&value)),
        }
    }

    fn plain(&mut self, kind: Kind, samples: impl IntoIterator<Item = Value>) -> Traced {
        Traced { kind, sample: self.sample(samples) }
    }

    fn text(&mut self, asked: &Asked) -> Traced {
        let (format, sample) = text_of(&asked.expecting, &mut |text| self.takes(&Value::from(text)));
        Traced { kind: Kind::Text(format), sample: sample.map(Value::from) }
    }

    fn tuple(&mut self, len: usize) -> Traced {
        let (mut kinds, mut samples) = (Vec::new(), Vec::new());
        while kinds.len() < len.min(TUPLE) {
            // One that cannot be passed hides those behind it.
            if samples.len() < kinds.len() {
                kinds.push(Kind::Unknown);
                continue;
            }
            let found = self.at(Turn::Element { before: samples.clone() }, Self::explore);
            kinds.push(found.kind);
            samples.extend(found.sample);
        }
        let same = kinds.first().filter(|first| kinds.iter().all(|kind| kind == *first)).cloned();
        if (TUPLE..=LONG).contains(&len)
            && let Some(sample) = samples.first().cloned()
        {
            samples.resize(len, sample);
        }
        let kind = match same {
            Some(kind) if len > 1 => Kind::Array(Box::new(kind), len),
            _ if len > TUPLE => Kind::Array(Box::new(Kind::Unknown), len),
            _ => Kind::Tuple(kinds),
        };
        let sample = (samples.len() == len).then_some(Value::Array(samples));
        self.plain(kind, sample)
    }

    fn map(&mut self) -> Traced {
        if let Err(Fault::Missing(_)) = self.play(&json!({})) {
            // A struct that collects what it does not name itself.
            return self.guess_record(&|tracer, value| tracer.play(&value));
        }
        let key = self.at(Turn::Key, Self::explore);
        let name = match &key.sample {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => return self.plain(Kind::Map(Box::new(key.kind), Box::new(Kind::Unknown)), [json!({})]),
        };
        let value = self.at(Turn::Field { before: Vec::new(), name: name.clone() }, Self::explore);
        let full = value.sample.map(|value| object([(&*name, &value)]));
        self.plain(Kind::Map(Box::new(key.kind), Box::new(value.kind)), full.into_iter().chain([json!({})]))
    }

    fn choice(&mut self, names: &[&str]) -> Traced {
        let (mut kinds, mut sample) = (Vec::new(), None);
        let mut starved = Vec::new();
        let before = std::mem::take(&mut self.starved);
        for (at, name) in names.iter().enumerate() {
            let (kind, found) = self.variant(name);
            if std::mem::take(&mut self.starved) {
                starved.push((at, name));
            }
            self.known(found.as_ref());
            kinds.push(kind);
            sample = sample.or(found);
        }
        // What could not be passed for want of a value of this very type can be now.
        for (at, name) in starved.into_iter().filter(|_| sample.is_some()) {
            kinds[at] = self.variant(name).0;
        }
        self.starved |= before;
        Traced { kind: Kind::one_of(kinds), sample }
    }

    fn variant(&mut self, name: &str) -> (Kind, Option<Value>) {
        let content = self.at(Turn::Variant(name.to_owned()), |tracer| {
            let nothing = tracer.ask().is_some_and(|asked| asked.hint == Hint::Nothing);
            (!nothing).then(|| tracer.explore())
        });
        let (kind, sample) = match content {
            None => (Kind::Literal(name.to_owned()), Some(Value::from(name))),
            Some(content) => {
                let sample = content.sample.map(|content| object([(name, &content)]));
                (Record::tagged(name, content.kind), sample)
            }
        };
        (kind, sample.filter(|sample| self.takes(sample)))
    }
}

impl Kind {
    /// The same, but of this kind in the field of this name, in all alternatives.
    fn with_field(&self, name: &str, kind: &Self) -> Self {
        let mut changed = self.clone();
        match &mut changed {
            Self::Record(record) => {
                let fields = record.fields.iter_mut().filter(|field| field.name == name);
                fields.for_each(|field| field.kind = kind.clone());
            }
            Self::Union(kinds) => {
                kinds.iter_mut().for_each(|alternative| *alternative = alternative.with_field(name, kind));
            }
            _ => {}
        }
        changed
    }
}

impl Record {
    /// An object with one field.
    fn tagged(name: &str, kind: Kind) -> Kind {
        let field = Field { name: name.to_owned(), required: true, kind };
        Kind::Record(Self { fields: vec![field], rest: Rest::Ignored })
    }
}

/// Structs.
impl Tracer<'_> {
    fn record(&mut self, names: &[&'static str]) -> Traced {
        if let Some(tagged) = self.tagged_beside(names) {
            return tagged;
        }
        let mut found: Vec<(&str, Traced)> = Vec::new();
        for name in names {
            let field = |before| Turn::Field { before, name: (*name).to_owned() };
            let traced = self.at(field(Vec::new()), Self::explore);
            // Given twice, the second is a duplicate of the first: so says the field's own name, of which this may be an alias.
            let first = traced.sample.iter().map(|sample| ((*name).to_owned(), sample.clone())).collect();
            let twice = self.at(field(first), |tracer| tracer.run(Act::Ask, 1).1);
            if !matches!(twice, Err(Fault::Duplicate(primary)) if primary != *name && names.contains(&primary))
            {
                found.push((*name, traced));
            }
        }
        self.needed(&found)
    }

    /// Which of the fields are needed, and whether there may be others.
    fn needed(&mut self, found: &[(&str, Traced)]) -> Traced {
        let sampled: Vec<_> =
            found.iter().filter_map(|(name, it)| Some((*name, it.sample.as_ref()?))).collect();
        let mut fields = Vec::new();
        for (at, (name, traced)) in found.iter().enumerate() {
            let rest = object(sampled.iter().filter(|(other, _)| other != name).copied());
            let required = match self.play(&rest) {
                Ok(()) => false,
                Err(Fault::Missing(missing)) => {
                    // Fields are missed in the order in which they are declared, so one that is missed before says nothing of this.
                    missing == *name || found[..at].iter().any(|(other, _)| *other == missing)
                }
                Err(_) => traced.sample.is_none(),
            };
            fields.push(Field { name: (*name).to_owned(), required, kind: traced.kind.clone() });
        }
        let full = object(sampled.iter().copied());
        let needed = fields.iter().filter(|field| field.required).map(|field| field.name.as_str());
        let needed: Vec<_> = needed.collect();
        let least = object(sampled.iter().filter(|(name, _)| needed.contains(name)).copied());
        let sample = self.sample([full, least]);
        let mut more = sample.clone().unwrap_or_else(|| json!({}));
        more[STRANGE] = Value::Null;
        let rest = match self.play(&more) {
            Err(Fault::UnknownField(_)) => Rest::Refused,
            _ => Rest::Ignored,
        };
        Traced { kind: Kind::Record(Record { fields, rest }), sample }
    }

    /// A struct of two fields may be an enum whose tag stands beside its content: then what the second is depends on the first.
    fn tagged_beside(&mut self, names: &[&'static str]) -> Option<Traced> {
        let [tag, content] = names else { return None };
        let field = |before, name: &str| Turn::Field { before, name: name.to_owned() };
        let Some(Asked { hint: Hint::Enum(variants), .. }) = self.at(field(Vec::new(), tag), Self::ask)
        else {
            return None;
        };
        let mut kinds = Vec::new();
        let mut sample = None;
        let mut contents: Vec<Kind> = Vec::new();
        for variant in variants {
            let literal = Traced::literal(variant);
            if !self.at(field(Vec::new(), tag), |tracer| tracer.takes(&Value::from(*variant))) {
                return None;
            }
            let before = vec![((*tag).to_owned(), Value::from(*variant))];
            let inner = self.at(field(before, content), Self::explore);
            contents.push(inner.kind.clone());
            let alone = object([(*tag, &Value::from(*variant))]);
            let traced = if inner.kind == Kind::Null && self.takes(&alone) {
                self.needed(&[(tag, literal)])
            } else {
                self.needed(&[(tag, literal), (content, inner)])
            };
            kinds.push(traced.kind);
            sample = sample.or(traced.sample);
        }
        let alone = self.at(field(Vec::new(), content), Self::explore).kind;
        let depends = contents.iter().any(|kind| *kind != alone);
        depends.then(|| Traced { kind: Kind::one_of(kinds), sample })
    }
}

/// Types that take any JSON and look at it later: what they want is guessed from what they say.
impl<'t> Tracer<'t> {
    fn guess(&mut self, judge: Judge<'_, 't>) -> Traced {
        if self.guesses > GUESSES || self.runs > RUNS {
            return Traced::UNKNOWN;
        }
        let mut found: Vec<Traced> = Vec::new();
        let mut dark = false;
        let mut all = true;
        for (kind, value) in [
            (Kind::Null, json!(null)),
            (Kind::Bool, json!(true)),
            (Kind::Int { signed: true, bits: 64 }, json!(-1)),
            (Kind::Int { signed: false, bits: 64 }, json!(1)),
            (Kind::Float(64), json!(1.5)),
        ] {
            let answer = judge(self, value.clone());
            all &= answer.is_ok();
            dark |= answer == Err(Fault::Words);
            if answer.is_ok() {
                found.push(Traced { kind, sample: Some(value) });
            }
        }
        let text = judge(self, json!("text"));
        let items = judge(self, json!([]));
        let entries = judge(self, json!({ STRANGE: null }));
        if all && text.is_ok() && items.is_ok() && entries.is_ok() {
            return Traced { kind: Kind::Any, sample: Some(Value::Null) };
        }
        self.guess_text(&text, judge, &mut found);
        dark |= [&items, &entries].contains(&&Err(Fault::Words));
        let record = matches!(entries, Err(Fault::Missing(_) | Fault::UnknownField(_)));
        if record {
            found.push(self.guess_record(judge));
        } else if entries.is_ok() {
            let map = Kind::Map(Box::new(Kind::Text(Format::Plain)), Box::new(Kind::Any));
            found.push(Traced { kind: map, sample: Some(json!({})) });
        }
        if items.is_ok() {
            let item = self.guess_item(judge);
            found.push(item);
        }
        let sample = found.iter().find_map(|found| found.sample.clone());
        // Whoever refuses in words of its own may have refused only this value, and not all of its kind.
        let kind = if dark { Kind::Unknown } else { Kind::one_of(narrow(found)) };
        Traced { kind, sample }
    }

    fn guess_item(&mut self, judge: Judge<'_, 't>) -> Traced {
        let item = self.deeper(|tracer| tracer.guess(&|tracer, value| judge(tracer, json!([value]))));
        let sample = item.sample.map_or(json!([]), |item| json!([item]));
        Traced { kind: Kind::List(Box::new(item.kind)), sample: Some(sample) }
    }

    fn guess_text(&mut self, text: &Answer, judge: Judge<'_, 't>, found: &mut Vec<Traced>) {
        let Err(Fault::UnknownVariant(names)) = text else {
            let words = *text == Err(Fault::Words) || *text == Err(Fault::Unfit);
            if text.is_ok() || words {
                let (format, sample) = text_of("", &mut |text| judge(self, Value::from(text)).is_ok());
                found.extend(
                    sample.map(|sample| Traced { kind: Kind::Text(format), sample: Some(sample.into()) }),
                );
            }
            return;
        };
        for name in *names {
            if judge(self, Value::from(*name)).is_ok() {
                found.push(Traced::literal(name));
                continue;
            }
            let content =
                self.deeper(|tracer| tracer.guess(&|tracer, value| judge(tracer, object([(*name, &value)]))));
            let sample = content.sample.map(|content| object([(*name, &content)]));
            found.push(Traced { kind: Record::tagged(name, content.kind), sample });
        }
    }

    fn guess_record(&mut self, judge: Judge<'_, 't>) -> Traced {
        self.deeper(|tracer| tracer.guess_fields(Vec::new(), judge))
    }

    /// Adds what is missed until nothing is.
    fn guess_fields(&mut self, mut fields: Vec<(&'static str, Traced)>, judge: Judge<'_, 't>) -> Traced {
        loop {
            let sampled = |fields: &[(&'static str, Traced)]| {
                object(fields.iter().filter_map(|(name, it)| Some((*name, it.sample.as_ref()?))))
            };
            let so_far = sampled(&fields);
            let missing = match judge(self, so_far.clone()) {
                Err(Fault::Missing(name)) if !fields.iter().any(|(known, _)| *known == name) => name,
                answer => return open(fields, answer.is_ok().then_some(so_far)),
            };
            let with = |value: &Value| {
                let mut all = so_far.clone();
                all[missing] = value.clone();
                all
            };
            let tags = judge(self, with(&json!("text")));
            if let Err(Fault::UnknownVariant(names)) = tags
                && names.iter().any(|name| progress(&judge(self, with(&json!(name))), missing))
            {
                return self.guess_tagged(&fields, missing, names, judge);
            }
            let traced = self.deeper(|tracer| {
                tracer.guess(&|tracer, value| {
                    let answer = judge(tracer, with(&value));
                    if !progress(&answer, missing) || answer.is_ok() {
                        return answer;
                    }
                    // Is it missed beside this value, or within it? Within, it stays missed whatever stands beside.
                    let Err(Fault::Missing(next)) = answer else { return answer };
                    let nested = value.is_object() || value.is_array();
                    let beside = |tracer: &mut Self, other: Value| {
                        let mut all = with(&value);
                        all[next] = other;
                        judge(tracer, all) != Err(Fault::Missing(next))
                    };
                    if !nested || beside(tracer, json!("text")) { Ok(()) } else { answer }
                })
            });
            fields.push((missing, traced));
        }
    }

    /// An object with a tag among its fields: what else it has depends on the tag.
    fn guess_tagged(
        &mut self,
        fields: &[(&'static str, Traced)],
        tag: &'static str,
        names: &[&str],
        judge: Judge<'_, 't>,
    ) -> Traced {
        let mut found: Vec<Traced> = Vec::new();
        for name in names {
            let mut fields = fields.to_vec();
            fields.push((tag, Traced::literal(name)));
            found.push(self.guess_fields(fields, judge));
        }
        let sample = found.iter().find_map(|found| found.sample.clone());
        let kinds: Vec<Kind> = found.into_iter().map(|found| found.kind).collect();
        // It is a tag only if something depends on it; otherwise it is a field with some texts.
        let any_of_them = Kind::one_of(names.iter().map(|name| Kind::Literal((*name).to_owned())));
        let untagged = |kind: &Kind| kind.with_field(tag, &any_of_them);
        let mut untagged = kinds.iter().map(untagged);
        let first = untagged.next();
        let kind = match first {
            Some(first) if untagged.all(|other| other == first) => first,
            _ => Kind::one_of(kinds),
        };
        Traced { kind, sample }
    }

    /// Guesses have no turns, but must end as well.
    fn deeper<R>(&mut self, look: impl FnOnce(&mut Self) -> R) -> R {
        self.guesses += 1;
        let result = look(self);
        self.guesses -= 1;
        result
    }
}

/// A field that nothing has.
const STRANGE: &str = "\u{1}factum";

/// Whether a value was taken, or at least the next field is what is missed.
fn progress(answer: &Answer, field: &str) -> bool {
    matches!(answer, Ok(())) || matches!(answer, Err(Fault::Missing(next)) if *next != field)
}

fn open(fields: Vec<(&'static str, Traced)>, sample: Option<Value>) -> Traced {
    let field =
        |(name, traced): (&str, Traced)| Field { name: name.to_owned(), required: true, kind: traced.kind };
    let fields = fields.into_iter().map(field).collect();
    Traced { kind: Kind::Record(Record { fields, rest: Rest::Unseen }), sample }
}

/// Of the numbers that were taken, the widest.
fn narrow(found: Vec<Traced>) -> Vec<Kind> {
    let mut kinds: Vec<Kind> = found.into_iter().map(|found| found.kind).collect();
    let (signed, unsigned) = (Kind::Int { signed: true, bits: 64 }, Kind::Int { signed: false, bits: 64 });
    if kinds.contains(&Kind::Float(64)) {
        kinds.retain(|kind| *kind != signed && *kind != unsigned);
    } else if kinds.contains(&signed) {
        kinds.retain(|kind| *kind != unsigned);
    }
    kinds
}

/// The form of the texts that are taken, and one of them.
fn text_of(expecting: &str, takes: &mut dyn FnMut(&str) -> bool) -> (Format, Option<&'static str>) {
    if takes("text") {
        return (Format::Plain, Some("text"));
    }
    for (format, text) in FORMS {
        if !takes(text) {
            continue;
        }
        let format = match format {
            Format::Ipv4 if takes("2001:db8::1") => Format::Ip,
            Format::Decimal if takes("1") && !takes("1.5") => Format::Integer,
            // Some take a date and a time for a date, and the other way round: there the words of the type tell.
            Format::Date if takes("2024-06-01T12:30:00") && expecting.contains("time") => {
                Format::LocalDateTime
            }
            other => *other,
        };
        return (format, Some(text));
    }
    (Format::Plain, None)
}

/// Forms of text, each with an example that those before it do not take.
const FORMS: &[(Format, &str)] = &[
    (Format::Uuid, "67e55044-10b1-426f-9247-bb680e5fe0c8"),
    (Format::DateTime, "2024-06-01T12:30:00Z"),
    (Format::Date, "2024-06-01"),
    (Format::Duration, "PT1H30M"),
    (Format::Time, "12:30:00"),
    (Format::LocalDateTime, "2024-06-01T12:30:00"),
    (Format::ZonedDateTime, "2024-06-01T12:30:00+00:00[+00:00]"),
    (Format::Decimal, "1.5"),
    (Format::Integer, "1"),
    (Format::Ipv4, "192.0.2.1"),
    (Format::Ipv6, "2001:db8::1"),
    (Format::Uri, "https://example.com/"),
    (Format::Email, "ada@example.com"),
    (Format::Plain, "a"),
    (Format::Plain, "A"),
    (Format::Plain, "EUR"),
    (Format::Plain, "DE"),
    (Format::Plain, "en"),
    (Format::Plain, ""),
    (Format::Plain, "true"),
    (Format::Plain, "1.2.3"),
    (Format::Plain, "UTC"),
    (Format::Plain, "Europe/Berlin"),
    (Format::Plain, "192.0.2.0/24"),
    (Format::Plain, "192.0.2.1:80"),
    (Format::Plain, "00ff"),
    (Format::Plain, "AQID"),
    (Format::Plain, "12:30"),
    (Format::Plain, "2024-06"),
    (Format::Plain, "2024-W22-6"),
    (Format::Plain, "/"),
    (Format::Plain, "+493012345678"),
    (Format::Plain, "DE89370400440532013000"),
];
