//! Shapes as text, and back.

use std::{
    fmt::{self, Write as _},
    str::FromStr,
};

use super::{Field, Format, Kind, Record, Rest, Shape};
use crate::error::{Error, Result};

/// Shapes within shapes that a text may hold.
const DEPTH: usize = 128;

const FORMATS: &[(Format, &str)] = &[
    (Format::Uuid, "uuid"),
    (Format::DateTime, "date-time"),
    (Format::ZonedDateTime, "zoned-date-time"),
    (Format::LocalDateTime, "local-date-time"),
    (Format::Date, "date"),
    (Format::Time, "time"),
    (Format::Duration, "duration"),
    (Format::Decimal, "decimal"),
    (Format::Integer, "integer"),
    (Format::Ip, "ip"),
    (Format::Ipv4, "ipv4"),
    (Format::Ipv6, "ipv6"),
    (Format::Uri, "uri"),
    (Format::Email, "email"),
];

impl Format {
    pub(crate) fn name(self) -> Option<&'static str> {
        FORMATS.iter().find(|(format, _)| *format == self).map(|(_, name)| *name)
    }
}

impl fmt::Display for Shape {
    /// On one line; with `{:#}`, each field on its own.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.kind, f)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.write(&mut text, f.alternate().then_some(0))?;
        f.write_str(&text)
    }
}

/// Text of JSON, without control characters that would break a line.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn field_name(name: &str) -> String {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-' || c == '$');
    if plain && !name.is_empty() { name.to_owned() } else { quoted(name) }
}

impl Kind {
    /// `lines`: how far a line is indented, if each field stands on its own.
    fn write(&self, out: &mut String, lines: Option<usize>) -> fmt::Result {
        match self {
            Self::Any => out.write_str("any"),
            Self::Unknown => out.write_str("unknown"),
            Self::Null => out.write_str("null"),
            Self::Bool => out.write_str("bool"),
            Self::Int { signed, bits } => write!(out, "{}{bits}", if *signed { 'i' } else { 'u' }),
            Self::Float(bits) => write!(out, "f{bits}"),
            Self::Text(Format::Char) => out.write_str("char"),
            Self::Text(format) => match format.name() {
                Some(name) => write!(out, "string({name})"),
                None => out.write_str("string"),
            },
            Self::Literal(text) => out.write_str(&quoted(text)),
            Self::List(item) => {
                out.push('[');
                item.write(out, lines)?;
                out.write_char(']')
            }
            Self::Array(item, len) => {
                out.push('[');
                item.write(out, lines)?;
                write!(out, "; {len}]")
            }
            Self::Tuple(kinds) => {
                out.push('(');
                separated(kinds, ", ", out, lines)?;
                out.write_char(')')
            }
            Self::Map(key, value) => {
                out.push_str("{ [");
                key.write(out, None)?;
                out.push_str("]: ");
                value.write(out, lines)?;
                out.write_str(" }")
            }
            Self::Record(record) => record.write(out, lines),
            Self::Union(kinds) => separated(kinds, " | ", out, lines),
            Self::Named(number, kind) => {
                write!(out, "#{number} = (")?;
                kind.write(out, lines)?;
                out.write_char(')')
            }
            Self::Again(number) => write!(out, "#{number}"),
        }
    }
}

fn separated(kinds: &[Kind], by: &str, out: &mut String, lines: Option<usize>) -> fmt::Result {
    for (at, kind) in kinds.iter().enumerate() {
        out.push_str(if at == 0 { "" } else { by });
        kind.write(out, lines)?;
    }
    Ok(())
}

impl Record {
    fn write(&self, out: &mut String, lines: Option<usize>) -> fmt::Result {
        if self.rest == Rest::Refused {
            out.push_str("only ");
        }
        if self.fields.is_empty() && self.rest != Rest::Unseen {
            return out.write_str("{}");
        }
        let inner = lines.map(|by| by + 1);
        let line = |out: &mut String, first: bool, by: Option<usize>| match by {
            Some(by) => *out += &format!("\n{}", "    ".repeat(by)),
            None => out.push_str(if first { " " } else { ", " }),
        };
        out.push('{');
        for (at, Field { name, required, kind }) in self.fields.iter().enumerate() {
            line(out, at == 0, inner);
            write!(out, "{}{}: ", field_name(name), if *required { "" } else { "?" })?;
            kind.write(out, inner)?;
        }
        if self.rest == Rest::Unseen {
            line(out, self.fields.is_empty(), inner);
            out.push_str("...");
        }
        line(out, true, lines);
        out.write_char('}')
    }
}

impl FromStr for Shape {
    type Err = Error;

    /// Reads what `Display` writes.
    fn from_str(text: &str) -> Result<Self> {
        let mut reader = Reader { text, at: 0, depth: 0 };
        let kind = reader.union()?;
        reader.space();
        if reader.at < text.len() {
            return Err(reader.wrong("nothing more"));
        }
        Ok(Self::from(kind))
    }
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
    depth: usize,
}

impl<'t> Reader<'t> {
    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn wrong(&self, expected: &str) -> Error {
        let line = self.text.get(..self.at).unwrap_or_default().lines().count().max(1);
        let found: String = self.rest().chars().take(20).collect();
        Error::invalid("the shape", format!("in its line {line}, {expected} should stand before `{found}`"))
    }

    fn space(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    /// Whether this comes next, and if so goes past it.
    fn skip(&mut self, mark: &str) -> bool {
        self.space();
        let here = self.rest().starts_with(mark);
        self.at += if here { mark.len() } else { 0 };
        here
    }

    fn need(&mut self, mark: &str) -> Result<()> {
        if self.skip(mark) { Ok(()) } else { Err(self.wrong(&format!("`{mark}`"))) }
    }

    fn word(&mut self) -> &'t str {
        self.space();
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '-' | '$'));
        let word = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
        self.at += word.len();
        word
    }

    fn quoted(&mut self) -> Result<String> {
        self.space();
        let mut values = serde_json::Deserializer::from_str(self.rest()).into_iter::<String>();
        let Some(Ok(text)) = values.next() else { return Err(self.wrong("a text in quotation marks")) };
        self.at += values.byte_offset();
        Ok(text)
    }

    fn name(&mut self) -> Result<String> {
        self.space();
        if self.rest().starts_with('"') {
            return self.quoted();
        }
        match self.word() {
            "" => Err(self.wrong("a name")),
            name => Ok(name.to_owned()),
        }
    }

    fn number<N: FromStr>(&mut self) -> Result<N> {
        self.space();
        let at = self.at;
        self.word().parse().map_err(|_| Reader { at, ..*self }.wrong("a number"))
    }

    fn union(&mut self) -> Result<Kind> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(self.wrong("a shape that is nested less deep"));
        }
        let mut kinds = vec![self.single()?];
        while self.skip("|") {
            kinds.push(self.single()?);
        }
        self.depth -= 1;
        Ok(if kinds.len() == 1 { kinds.remove(0) } else { Kind::Union(kinds) })
    }

    fn single(&mut self) -> Result<Kind> {
        self.space();
        if self.rest().starts_with('"') {
            return Ok(Kind::Literal(self.quoted()?));
        }
        if self.skip("[") {
            let item = Box::new(self.union()?);
            let kind = if self.skip(";") { Kind::Array(item, self.number()?) } else { Kind::List(item) };
            return self.need("]").map(|()| kind);
        }
        if self.skip("(") {
            let mut kinds = Vec::new();
            while !self.skip(")") {
                kinds.push(self.union()?);
                self.skip(",");
            }
            return Ok(Kind::Tuple(kinds));
        }
        if self.skip("#") {
            let number = self.number()?;
            if !self.skip("=") {
                return Ok(Kind::Again(number));
            }
            self.need("(")?;
            let kind = Box::new(self.union()?);
            return self.need(")").map(|()| Kind::Named(number, kind));
        }
        if self.skip("{") {
            return self.braces(Rest::Ignored);
        }
        let at = self.at;
        let kind = match self.word() {
            "any" => Kind::Any,
            "unknown" => Kind::Unknown,
            "null" => Kind::Null,
            "bool" => Kind::Bool,
            "char" => Kind::Text(Format::Char),
            "string" if self.skip("(") => {
                let at = self.at;
                let name = self.word();
                let format = FORMATS.iter().find(|(_, known)| *known == name);
                let (format, _) = format.ok_or_else(|| Reader { at, ..*self }.wrong("a form of text"))?;
                self.need(")")?;
                Kind::Text(*format)
            }
            "string" => Kind::Text(Format::Plain),
            "only" => {
                self.need("{")?;
                self.braces(Rest::Refused)?
            }
            word => Kind::of_number(word).ok_or_else(|| Reader { at, ..*self }.wrong("a shape"))?,
        };
        Ok(kind)
    }

    /// What stands after a `{`.
    fn braces(&mut self, rest: Rest) -> Result<Kind> {
        if self.skip("[") {
            let key = Box::new(self.union()?);
            self.need("]")?;
            self.need(":")?;
            let value = Box::new(self.union()?);
            return self.need("}").map(|()| Kind::Map(key, value));
        }
        let mut record = Record { fields: Vec::new(), rest };
        while !self.skip("}") {
            if self.skip("...") {
                record.rest = Rest::Unseen;
                self.need("}")?;
                break;
            }
            let name = self.name()?;
            let required = !self.skip("?");
            self.need(":")?;
            let kind = self.union()?;
            record.fields.push(Field { name, required, kind });
            self.skip(",");
        }
        Ok(Kind::Record(record))
    }
}

impl Kind {
    fn of_number(word: &str) -> Option<Self> {
        let (sort, bits) = word.split_at_checked(1)?;
        let bits: u8 = bits.parse().ok()?;
        match (sort, bits) {
            ("i" | "u", 8 | 16 | 32 | 64 | 128) => Some(Self::Int { signed: sort == "i", bits }),
            ("f", 32 | 64) => Some(Self::Float(bits)),
            _ => None,
        }
    }
}
