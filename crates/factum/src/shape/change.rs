//! What has changed between two shapes, and whether readers of both can live with it.

use std::fmt;

use super::{Field, Format, Kind, Record, Rest, Shape};

/// One difference.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    /// Where, such as `booking.lines[].price`; empty for the shape itself.
    pub(crate) path: String,
    pub(crate) what: String,
    /// Who reads the new shape reads what is stored in the old one.
    pub(crate) reads: bool,
    /// Who reads either shape reads what was and will be stored under the name: nothing but an optional field has come.
    pub(crate) harmless: bool,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            write!(f, "it {}", self.what)
        } else {
            write!(f, "`{}` {}", self.path, self.what)
        }
    }
}

pub(crate) fn changes(old: &Shape, new: &Shape) -> Vec<Change> {
    let mut comparison = Comparison::default();
    if old != new {
        comparison.kinds(&old.kind, &new.kind, "");
    }
    comparison.changes
}

/// Who cannot live with a change.
#[derive(Clone, Copy, PartialEq)]
enum Whom {
    Nobody,
    /// Those who read the old shape, once new events come.
    Older,
    /// And those who read the new one, of old events.
    All,
}

#[derive(Default)]
struct Comparison {
    changes: Vec<Change>,
    /// Shapes that hold themselves, by their numbers, and that are compared already.
    paired: Vec<(u32, u32)>,
}

impl Comparison {
    fn say(&mut self, path: &str, whom: Whom, what: impl Into<String>) {
        let (reads, harmless) = (whom != Whom::All, whom == Whom::Nobody);
        self.changes.push(Change { path: path.to_owned(), what: what.into(), reads, harmless });
    }

    fn kinds(&mut self, old: &Kind, new: &Kind, path: &str) {
        match (old, new) {
            (Kind::Named(a, old), Kind::Named(b, new)) => {
                self.paired.push((*a, *b));
                self.kinds(old, new, path);
            }
            // It came to hold itself, or ceased to.
            (Kind::Named(_, old), new @ (Kind::Record(_) | Kind::Union(_))) => self.kinds(old, new, path),
            (old @ (Kind::Record(_) | Kind::Union(_)), Kind::Named(_, new)) => self.kinds(old, new, path),
            (Kind::Again(a), Kind::Again(b)) if self.paired.contains(&(*a, *b)) => {}
            (Kind::Record(old), Kind::Record(new)) => self.records(old, new, path),
            (Kind::List(old), Kind::List(new)) => self.kinds(old, new, &format!("{path}[]")),
            (Kind::Array(old, a), Kind::Array(new, b)) if a == b => {
                self.kinds(old, new, &format!("{path}[]"));
            }
            (Kind::Tuple(old), Kind::Tuple(new)) if old.len() == new.len() => {
                for (at, (old, new)) in old.iter().zip(new).enumerate() {
                    self.kinds(old, new, &format!("{path}[{at}]"));
                }
            }
            (Kind::Map(a, old), Kind::Map(b, new)) if a == b => self.kinds(old, new, &format!("{path}.*")),
            (Kind::Unknown, new) if *new != Kind::Unknown => {
                self.say(path, Whom::Nobody, format!("could not be seen, and is {new}"));
            }
            (Kind::Union(_), _) | (_, Kind::Union(_)) => {
                self.unions(alternatives(old), alternatives(new), path);
            }
            (old, new) if old != new => {
                let whom = if holds(new, old) { Whom::Older } else { Whom::All };
                self.say(path, whom, format!("was {old}, and is {new}"));
            }
            _ => {}
        }
    }

    fn records(&mut self, old: &Record, new: &Record, path: &str) {
        let at = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        let of = |fields: &[Field], name: &str| fields.iter().find(|field| field.name == name).cloned();
        for Field { name, required, kind } in &old.fields {
            match of(&new.fields, name) {
                None if new.rest == Rest::Refused => {
                    self.say(&at(name), Whom::All, "is gone, and refused where it is stored");
                }
                // Who reads the old shape can do without it. But its name stays taken: see `keep`.
                None if !required && kind.stands_alone() => {
                    self.say(&at(name), Whom::Nobody, "is read no more");
                }
                None => self.say(&at(name), Whom::Older, "is gone"),
                Some(now) => {
                    match (required, now.required) {
                        (true, false) => {
                            self.say(&at(name), Whom::Older, "was always there, and may be left out");
                        }
                        (false, true) => self.say(&at(name), Whom::All, "could be left out, and is needed"),
                        _ => {}
                    }
                    self.kinds(kind, &now.kind, &at(name));
                }
            }
        }
        for Field { name, required, .. } in &new.fields {
            match (of(&old.fields, name).is_some(), required, old.rest) {
                (true, ..) => {}
                (_, true, _) => {
                    let what = "is new, and missing in what is stored (an optional field would do: `#[serde(default)]`)";
                    self.say(&at(name), Whom::All, what);
                }
                (_, _, Rest::Refused) => {
                    self.say(
                        &at(name),
                        Whom::Older,
                        "is new, and older readers refuse fields that they do not know",
                    );
                }
                _ => self.say(&at(name), Whom::Nobody, "is new, and optional"),
            }
        }
        match (old.rest, new.rest) {
            (Rest::Ignored | Rest::Unseen, Rest::Refused) => {
                self.say(path, Whom::All, "refuses fields that it does not know, which are stored perhaps");
            }
            (before, now) if before != now => {
                self.say(path, Whom::Nobody, "treats fields that it does not know otherwise");
            }
            _ => {}
        }
    }

    fn unions(&mut self, old: &[Kind], new: &[Kind], path: &str) {
        // A shape that holds them all has no need of their names.
        if let [wide] = new
            && old.iter().all(|kind| holds(wide, kind))
        {
            let old = Kind::Union(old.to_vec());
            return self.say(path, Whom::Older, format!("was {old}, and is {wide}"));
        }
        let mut lost = Vec::new();
        let mut come: Vec<&Kind> = new.iter().filter(|kind| !old.contains(kind)).collect();
        for gone in old.iter().filter(|kind| !new.contains(kind)) {
            let same = counterpart(gone, old, new, &come);
            let wider = || come.iter().position(|kind| holds(kind, gone));
            match same.or_else(wider) {
                Some(at) => self.kinds(gone, come.remove(at), path),
                None => lost.push(gone),
            }
        }
        if let ([was], [is]) = (&lost[..], &come[..]) {
            return self.kinds(was, is, path);
        }
        for gone in lost {
            self.say(path, Whom::All, format!("could be {gone}, and can no more"));
        }
        for kind in come {
            self.say(path, Whom::Older, format!("can also be {kind}, which older readers do not know"));
        }
    }
}

/// Which of the alternatives `among` in the union `new` is `one` in the union `old`: objects of one tag, or those that are the
/// only one of their sort.
fn counterpart(one: &Kind, old: &[Kind], new: &[Kind], among: &[&Kind]) -> Option<usize> {
    let sort = std::mem::discriminant(one);
    let alike = |kinds: &[Kind]| kinds.iter().filter(|kind| std::mem::discriminant(*kind) == sort).count();
    if alike(old) == 1 && alike(new) == 1 {
        among.iter().position(|kind| std::mem::discriminant(*kind) == sort)
    } else {
        among.iter().position(|kind| tag(kind).is_some() && tag(kind) == tag(one))
    }
}

impl Shape {
    /// Keeps the optional fields that were stored once, and that this shape does not read any more: a field of the same name that
    /// means something else must not come. Only for a shape without changes that do harm.
    pub(crate) fn keep(&mut self, old: &Self) {
        self.kind.keep(&old.kind);
    }
}

impl Kind {
    fn keep(&mut self, old: &Self) {
        match (self, old) {
            (Self::Named(_, new), old) if !matches!(old, Self::Named(..)) => new.keep(old),
            (new, Self::Named(_, old)) if !matches!(new, Self::Named(..)) => new.keep(old),
            (Self::Named(_, new), Self::Named(_, old))
            | (Self::List(new), Self::List(old))
            | (Self::Array(new, _), Self::Array(old, _))
            | (Self::Map(_, new), Self::Map(_, old)) => new.keep(old),
            (Self::Tuple(new), Self::Tuple(old)) => {
                new.iter_mut().zip(old).for_each(|(new, old)| new.keep(old));
            }
            (Self::Record(new), Self::Record(old)) => {
                for field in &old.fields {
                    match new.fields.iter_mut().find(|now| now.name == field.name) {
                        Some(now) => now.kind.keep(&field.kind),
                        None => new.fields.push(field.clone()),
                    }
                }
            }
            (Self::Union(new), Self::Union(old)) => {
                for one in old.iter().filter(|kind| matches!(kind, Self::Record(_))) {
                    let among: Vec<&Self> = new.iter().collect();
                    if let Some(at) = counterpart(one, old, new, &among) {
                        new[at].keep(one);
                    }
                }
            }
            _ => {}
        }
    }

    /// Whether it holds nothing that is numbered.
    fn stands_alone(&self) -> bool {
        let mut alone = true;
        self.visit(&mut |kind| alone &= !matches!(kind, Self::Named(..) | Self::Again(_)));
        alone
    }
}

/// Whether every value of the kind `narrow` is one of `wide`.
fn holds(wide: &Kind, narrow: &Kind) -> bool {
    match (wide, narrow) {
        (Kind::Any | Kind::Unknown, _) => true,
        (Kind::Int { signed: a, bits: wide }, Kind::Int { signed: b, bits: narrow }) => {
            if a == b {
                wide >= narrow
            } else {
                *a && wide > narrow
            }
        }
        (Kind::Float(wide), Kind::Float(narrow)) => wide >= narrow,
        (Kind::Float(_), Kind::Int { .. }) => true,
        (Kind::Text(Format::Plain), Kind::Text(_) | Kind::Literal(_)) => true,
        (Kind::List(item), Kind::Array(items, _)) => item == items,
        _ => false,
    }
}

fn alternatives(kind: &Kind) -> &[Kind] {
    if let Kind::Union(kinds) = kind { kinds } else { std::slice::from_ref(kind) }
}

/// What tells an object from others of its union: the text in a field that holds nothing else, or else its only field.
fn tag(kind: &Kind) -> Option<(&str, &str)> {
    let Kind::Record(record) = kind else { return None };
    let literal = record.fields.iter().find_map(|field| match &field.kind {
        Kind::Literal(text) => Some((field.name.as_str(), text.as_str())),
        _ => None,
    });
    match (literal, &record.fields[..]) {
        (None, [only]) => Some((only.name.as_str(), "")),
        (literal, _) => literal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_of_the_new_shape_may_still_read_the_old() {
        for (old, new, reads) in [
            ("{ a: u8, b: u8 }", "{ a: u8 }", true),
            ("{ a: u8 }", "{ a?: u16 | null }", true),
            ("{ a: u8 }", "{ a?: u8 | null }", true),
            ("{ a: u8 }", "{ a: i16 }", true),
            ("{ a: u8 }", "{ a: i8 }", false),
            ("{ a: u64 }", "{ a: u32 }", false),
            ("{ a: u64 }", "{ a: f64 }", true),
            ("{ a: string(uuid) }", "{ a: string }", true),
            ("{ a: string }", "{ a: string(uuid) }", false),
            ("{ a?: u8 }", "{ a: u8 }", false),
            ("{ a: u8 | null }", "{ a: u8 }", false),
            ("{ a: u8 }", "{ a: u8, b: u8 }", false),
            ("{ a: { b: [bool] } }", "{ a: any }", true),
            (r#""A" | "B""#, r#""A""#, false),
            (r#""A""#, r#""A" | "B""#, true),
            (r#"{ a: "A" | "B" }"#, "{ a: string }", true),
        ] {
            let [from, to]: [Shape; 2] = [old, new].map(|text| text.parse().unwrap());
            assert_eq!(changes(&from, &to).iter().all(|change| change.reads), reads, "{old} to {new}");
        }
    }

    fn said(old: &str, new: &str) -> Vec<String> {
        let [old, new]: [Shape; 2] = [old, new].map(|text| text.parse().unwrap());
        let said = |change: &Change| format!("{} {change}", if change.harmless { "+" } else { "!" });
        changes(&old, &new).iter().map(said).collect()
    }

    #[test]
    fn only_optional_fields_may_come() {
        let none: [&str; 0] = [];
        assert_eq!(said("{ a: u8, b?: [bool] }", "{ b?: [bool], a: u8 }"), none);
        assert_eq!(said("{ a: u8 }", "{ a: u8, b?: bool }"), ["+ `b` is new, and optional"]);
        assert_eq!(said("{ a: { x: u8 } }", "{ a: { x: u8, y?: u8 } }"), ["+ `a.y` is new, and optional"]);
        assert_eq!(
            said("[{ x: u8 } | null]", "[null | { x: u8, y?: u8 }]"),
            ["+ `[].y` is new, and optional"]
        );
        assert_eq!(
            said(r#""A" | { B: { x: u8 } } | { C: u8 }"#, r#""A" | { B: { x: u8, y?: u8 } } | { C: u8 }"#),
            ["+ `B.y` is new, and optional"]
        );
        assert_eq!(
            said("{ a: u8 }", "{ a: u8, b: bool }"),
            ["! `b` is new, and missing in what is stored (an optional field would do: `#[serde(default)]`)"]
        );
        let refused = said("only { a: u8 }", "only { a: u8, b?: bool }");
        assert_eq!(refused, ["! `b` is new, and older readers refuse fields that they do not know"]);
        assert_eq!(said("unknown", "{ a: u8 }"), ["+ it could not be seen, and is { a: u8 }"]);
    }

    #[test]
    fn an_optional_field_may_go_but_its_name_stays_taken() {
        for (old, new, kept) in [
            ("{ a: u8, b?: bool }", "{ a: u8 }", "{ a: u8, b?: bool }"),
            ("{ a: u8, b?: bool }", "{ c?: u8, a: u8 }", "{ c?: u8, a: u8, b?: bool }"),
            (
                "[{ x: { y?: u8 } | null }]",
                "[{ x: null | { z?: u8 } }]",
                "[{ x: null | { z?: u8, y?: u8 } }]",
            ),
            (
                r#"{ t: "a", x?: u8 } | { t: "b", y?: u8 }"#,
                r#"{ t: "b" } | { t: "a" }"#,
                r#"{ t: "b", y?: u8 } | { t: "a", x?: u8 }"#,
            ),
            ("#1 = ({ a?: u8, n?: #1 })", "#1 = ({ n?: #1 })", "#1 = ({ n?: #1, a?: u8 })"),
        ] {
            let [from, mut to]: [Shape; 2] = [old, new].map(|text| text.parse().unwrap());
            assert!(changes(&from, &to).iter().all(|change| change.harmless), "{old} to {new}");
            to.keep(&from);
            assert_eq!(to.to_string(), kept);
        }
        assert_eq!(said("{ b?: bool }", "{}"), ["+ `b` is read no more"]);
    }

    #[test]
    fn all_else_needs_a_version() {
        for (old, new, expected) in [
            ("u32", "u64", "! it was u32, and is u64"),
            ("string", "string(uuid)", "! it was string, and is string(uuid)"),
            ("any", "{ a: u8 }", "! it was any, and is { a: u8 }"),
            ("{ a: u8 }", "any", "! it was { a: u8 }, and is any"),
            ("{ a: u8, b: u8 }", "{ a: u8 }", "! `b` is gone"),
            ("only { a?: u8 }", "only {}", "! `a` is gone, and refused where it is stored"),
            ("#1 = ({ a?: #1 })", "{}", "! `a` is gone"),
            ("{ a: u8 }", "{ a?: u8 }", "! `a` was always there, and may be left out"),
            ("{ a?: u8 }", "{ a: u8 }", "! `a` could be left out, and is needed"),
            ("{ a: u8 }", "{ a: u8 | null }", "! `a` can also be null, which older readers do not know"),
            ("{ a: u8 | null }", "{ a: u8 }", "! `a` could be null, and can no more"),
            (r#""A" | "B""#, r#""A" | "B" | "C""#, "! it can also be \"C\", which older readers do not know"),
            ("(u8, bool)", "(u8, u8)", "! `[1]` was bool, and is u8"),
            ("(u8, bool)", "[u8]", "! it was (u8, bool), and is [u8]"),
            ("{ [string]: u8 }", "{ [string]: u16 }", "! `.*` was u8, and is u16"),
            (
                "{ a: u8 }",
                "only { a: u8 }",
                "! it refuses fields that it does not know, which are stored perhaps",
            ),
            (
                r#"{ t: "a", x: u8 } | { t: "b" }"#,
                r#"{ t: "a", x: u16 } | { t: "b" }"#,
                "! `x` was u8, and is u16",
            ),
        ] {
            assert_eq!(said(old, new), [expected], "{old} to {new}");
        }
    }

    #[test]
    fn shapes_that_hold_themselves_are_compared_once() {
        let old = "#1 = ({ a: u8, next?: #1 | null })";
        assert_eq!(said(old, "#5 = ({ a: u8, next?: #5 | null, b?: u8 })"), ["+ `b` is new, and optional"]);
        assert_eq!(said(old, "#1 = ({ a: u16, next?: #1 | null })"), ["! `a` was u8, and is u16"]);
        let came = said("{ a: u8 }", "#1 = ({ a: u8, next?: #1 | null })");
        assert_eq!(came, ["+ `next` is new, and optional"]);
        // Another number is not another shape.
        let moved = said("{ z: #1 = ({ n?: #1 }) }", "{ a?: #1 = ([#1]), z: #2 = ({ n?: #2 }) }");
        assert_eq!(moved, ["+ `a` is new, and optional"]);
        let other = said("#1 = ({ a: #2 = ([#1 | #2]) })", "#1 = ({ a: #2 = ([#2 | #1]) })");
        assert_eq!(other, [""; 0]);
    }
}
