//! The text of `events.lock`.

use std::{collections::BTreeSet, fmt, fs, io, path::Path};

use serde_json::Value;

use super::Becomes;
use crate::{
    error::{Error, Result},
    shape::{Shape, quoted},
};

const HEAD: &str = "\
# The shapes of all events that were ever stored. Written by a test (`events_lock!`) with FACTUM_UPDATE=1; commit it.
# What is stored is stored for ever: blocks are added, and not taken away.
";

/// What is known of one type of events.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Block {
    pub(super) category: String,
    pub(super) name: String,
    pub(super) shape: Shape,
    /// The keys of the tags that such events are stored with.
    pub(super) tags: BTreeSet<String>,
    pub(super) sample: Option<Value>,
    /// `None`: itself.
    pub(super) becomes: Option<Becomes>,
}

/// A name in a line: as it is, or in quotation marks where it would not be read back.
fn word(name: &str) -> String {
    let plain = !name.is_empty() && !name.starts_with('"') && !name.contains(char::is_whitespace);
    if plain { name.to_owned() } else { quoted(name) }
}

pub(super) fn words<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    names.into_iter().map(|name| word(name)).collect::<Vec<_>>().join(" ")
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "event {} {}\nshape {:#}", word(&self.category), word(&self.name), self.shape)?;
        if !self.tags.is_empty() {
            writeln!(f, "tags {}", words(&self.tags))?;
        }
        if let Some(sample) = &self.sample {
            writeln!(f, "sample {sample}")?;
        }
        match self.becomes.as_deref() {
            None => Ok(()),
            Some([]) => writeln!(f, "becomes nothing"),
            Some(all) => all.iter().try_for_each(|(name, data)| writeln!(f, "becomes {} {data}", word(name))),
        }
    }
}

pub(super) fn text<'a>(blocks: impl Iterator<Item = &'a Block>) -> String {
    blocks.fold(HEAD.to_owned(), |text, block| format!("{text}\n{block}"))
}

impl Block {
    pub(super) fn title(&self) -> String {
        format!("`{} {}`", word(&self.category), word(&self.name))
    }

    pub(super) fn all(text: &str) -> Result<Vec<Self>> {
        let mut blocks: Vec<Self> = Vec::new();
        let mut lines = text.lines().enumerate().peekable();
        while let Some((at, line)) = lines.next() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let (section, rest) = line.split_once(' ').unwrap_or((line, ""));
            // Whatever begins with none of the words goes on with what stands before.
            let mut content = rest.to_owned();
            while let Some((_, more)) = lines.next_if(|(_, line)| line.starts_with([' ', '}', ']', ')'])) {
                content = format!("{content}\n{more}");
            }
            let read = match (section, blocks.last_mut()) {
                ("event", _) => Self::begin(&content).map(|block| blocks.push(block)),
                (_, Some(block)) => block.add(section, &content),
                _ => Err("an `event` line should stand before it".to_owned()),
            };
            read.map_err(|why| Error::invalid(format!("line {} of events.lock", at + 1), why))?;
        }
        Ok(blocks)
    }

    fn begin(content: &str) -> Result<Self, String> {
        let wrong = || "a category and an event type should follow `event`".to_owned();
        let (category, rest) = split_word(content).ok_or_else(wrong)?;
        let (name, rest) = split_word(rest).ok_or_else(wrong)?;
        if !rest.is_empty() {
            return Err(wrong());
        }
        Ok(Self {
            category,
            name,
            shape: Shape::unknown(),
            tags: BTreeSet::new(),
            sample: None,
            becomes: None,
        })
    }

    fn add(&mut self, section: &str, content: &str) -> Result<(), String> {
        let json =
            |text: &str| serde_json::from_str(text).map_err(|error| format!("its JSON is damaged: {error}"));
        match section {
            "shape" => self.shape = content.parse().map_err(|error: Error| error.to_string())?,
            "tags" => {
                let mut rest = content;
                while let Some((name, more)) = split_word(rest) {
                    self.tags.insert(name);
                    rest = more;
                }
            }
            "sample" => self.sample = Some(json(content)?),
            "becomes" => {
                let all = self.becomes.get_or_insert_default();
                if content != "nothing" {
                    let (name, data) = split_word(content).ok_or("an event type should follow `becomes`")?;
                    all.push((name, json(data)?));
                }
            }
            other => {
                return Err(format!("`{other}` is none of `event`, `shape`, `tags`, `sample` and `becomes`"));
            }
        }
        Ok(())
    }
}

/// A name, and what stands behind it.
fn split_word(text: &str) -> Option<(String, &str)> {
    if text.starts_with('"') {
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<String>();
        let name = values.next()?.ok()?;
        return Some((name, text.get(values.byte_offset()..)?.trim_start()));
    }
    let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    (!name.is_empty()).then(|| (name.to_owned(), rest.trim_start()))
}

fn failed(path: &Path, doing: &str, error: &io::Error) -> Error {
    Error::invalid(format!("{}", path.display()), format!("it cannot be {doing}: {error}"))
}

/// The file; nothing where there is none yet.
pub(super) fn read(path: &Path) -> Result<String> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.replace("\r\n", "\n")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(failed(path, "read", &error)),
    }
}

/// Only a test writes it, in the source tree of its own crate.
#[expect(
    clippy::disallowed_methods,
    reason = "a file of the source tree and no data: written by a test that was asked to"
)]
pub(super) fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|error| failed(path, "written", &error))
}
