//! `events.lock`: the shapes of all events that were ever stored, in a file beside the code that a test keeps true.
//!
//! ```no_run
//! # use factum::prelude::*;
//! # #[derive(Serialize, Deserialize)] enum AccountEvent { Opened }
//! # impl Event for AccountEvent { const CATEGORY: &'static str = "account"; }
//! # #[derive(Serialize, Deserialize)] enum OrderEvent { Placed }
//! # impl Event for OrderEvent { const CATEGORY: &'static str = "order"; }
//! #[test]
//! fn stored_events_keep_their_shapes() {
//!     factum::events_lock!(AccountEvent, OrderEvent);
//! }
//! ```
//!
//! The first run with `FACTUM_UPDATE=1` in the environment writes the file; commit it. From then on the test fails when a shape
//! changes that events may have been stored in, and says what to do. The file is for people, in a diff above all, and for
//! programs: one block for each event type that there is or ever was.
//!
//! ```text
//! event account Deposited
//! shape { euros: u64 }
//! sample {"euros":1}
//! becomes Deposited.v2 {"cents":100}
//!
//! event account Deposited.v2
//! shape {
//!     cents: u64
//!     note?: string
//! }
//! sample {"cents":1,"note":"text"}
//! ```
//!
//! - **shape**: how it is stored ([how to read it](crate::shape)).
//! - **tags**: the keys of the tags that it is stored with (`tags email student`), if there are any: those that its sample gets.
//! - **sample**: such an event, made up when the type came. It is never made anew: put a real one in its place if you have one.
//! - **becomes**: what the sample is today, if that is not itself. `becomes nothing` is a type that means nothing any more.
//!
//! ## What may change
//!
//! | change | under the same name? |
//! |---|---|
//! | a field comes, and is optional (`Option`, `#[serde(default)]`), at any depth | yes: run with `FACTUM_UPDATE=1`, and commit |
//! | the fields or alternatives stand in another order; a Rust type has another name | yes, and the file does not change |
//! | an optional field goes | yes; it stays in the file, so that its name never comes to mean something else |
//! | anything else: another field goes, is needed, or of another type; an enum gets a variant | no: a new version and an upcaster |
//! | a tag comes, goes or gets another key | no: see below |
//! | a tag comes together with the optional field that it is made of | yes, with `FACTUM_UPDATE=1` |
//! | a variant comes | yes, with `FACTUM_UPDATE=1` |
//! | a variant goes or is renamed | if a step of its [`evolution`](crate::Event::evolution) begins at its old name |
//! | what a sample becomes | with `FACTUM_UPDATE=1`: look at the diff, it is what an old event means |
//!
//! Tags are stored with the event, and stay as they were then: a decision that asks for a tag of today does not see events from before it, and
//! takes for free what they hold. No new version of the event changes that, so it is for you to say that nothing rests on it, by writing the
//! `tags` line by hand. What is not noticed: a tag whose value alone changes (`email` in lower case from today on), one that depends on the
//! content and not on the kind of event, where the samples do not show it, and, but for a line in what is new, one that comes or goes with a new version or name.
//!
//! This is stricter than what serde would still read, on purpose: the readers are not only today's program, but the ones of
//! yesterday that still run, and those in other languages. Where a shape was never stored outside of your own machine, delete its block and
//! let it be written anew.

mod file;

use std::{
    any::type_name,
    collections::{BTreeMap, BTreeSet, HashMap},
    env, fmt,
    path::PathBuf,
};

use serde_json::Value;

use self::file::{Block, words};
use crate::{
    aggregate::Event,
    codec,
    error::{Error, Result},
    evolution::Evolution,
    shape::{self, Change, Shape, Traced},
};

/// What is set in the environment to accept what is new.
const UPDATE: &str = "FACTUM_UPDATE";

/// Checks `events.lock`, beside the `Cargo.toml` of the crate that this stands in, against these types of events. For a test: it
/// panics, and says what to do, if it does not hold. See [`lock`](crate::lock).
#[macro_export]
macro_rules! events_lock {
    ($($event:ty),+ $(,)?) => {
        $crate::lock::EventsLock::at(concat!(env!("CARGO_MANIFEST_DIR"), "/events.lock"))$(.of::<$event>())+.check()
    };
}

/// A type of events that is stored.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) name: String,
    /// `None`: nothing looks at its content any more.
    pub(crate) shape: Option<Shape>,
    sample: Option<Value>,
    today: bool,
}

/// The types that events of `E` are stored under, today's first.
pub(crate) fn stored<E: Event>() -> Result<Vec<Stored>> {
    let evolution = Evolution::<E>::of()?;
    let not_an_enum = || Error::invalid(format!("the type `{}`", type_name::<E>()), codec::NOT_AN_ENUM);
    let contents = shape::of_variants::<E>().ok_or_else(not_an_enum)?;
    let of = |name: String, content: Option<Traced>, today| {
        let (kind, sample) = content.map_or((None, None), |content| (Some(content.kind), content.sample));
        Stored { name, shape: kind.map(Shape::from), sample, today }
    };
    let names = codec::today::<E>()?.into_iter();
    let today: HashMap<String, Traced> =
        names.clone().zip(contents.into_iter().map(|(_, content)| content)).collect();
    let content = |older: &str| {
        let mut name = older;
        loop {
            match evolution.content(name) {
                Some(Ok(content)) => return Some(content),
                Some(Err(to)) => name = to,
                None => return today.get(name).cloned(),
            }
        }
    };
    let older = evolution.older().map(|name| of(name.to_owned(), content(name), false));
    let mut all: Vec<Stored> =
        names.map(|name| (today.get(&name).cloned(), name)).map(|(c, n)| of(n, c, true)).collect();
    all.extend(older);
    Ok(all)
}

/// What an event is today, as it would be stored.
type Becomes = Vec<(String, Value)>;

fn becomes<E: Event>(event_type: &str, sample: &Value) -> Result<Becomes> {
    let parse = |data: &[u8]| {
        serde_json::from_slice(data).map_err(|error| Error::invalid("the event", error.to_string()))
    };
    let mut all = Vec::new();
    for event in codec::upcast::<E>(event_type, sample.to_string().as_bytes())? {
        let stored = codec::encode(&event)?;
        let (name, data) = (stored.event_type.as_str().to_owned(), parse(&stored.data)?);
        // What is written must be read.
        codec::upcast::<E>(&name, &stored.data)?;
        all.push((name, data));
    }
    Ok(all)
}

/// The keys of the tags that an event is stored with today.
fn tag_keys<E: Event>(event_type: &str, sample: &Value) -> BTreeSet<String> {
    let today = codec::upcast::<E>(event_type, sample.to_string().as_bytes()).unwrap_or_default();
    let tags = today.iter().flat_map(Event::tags);
    tags.map(|tag| tag.split_once(':').map_or(&*tag, |(key, _)| key).to_owned()).collect()
}

struct Known {
    stored: Stored,
    becomes: fn(&str, &Value) -> Result<Becomes>,
    tag_keys: fn(&str, &Value) -> BTreeSet<String>,
}

/// The check of `events.lock`: see the [module](self) and [`events_lock!`](crate::events_lock).
#[must_use]
pub struct EventsLock {
    path: PathBuf,
    /// By category and name.
    known: BTreeMap<(String, String), Known>,
    categories: Vec<String>,
    problems: Vec<String>,
}

impl fmt::Debug for EventsLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventsLock").field("path", &self.path).field("events", &self.known.keys()).finish()
    }
}

/// What a check found.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// What no update can accept: an event that was stored would be read wrongly, or not at all.
    pub problems: Vec<String>,
    /// What is new, and harmless.
    pub news: Vec<String>,
    /// The file as it should be.
    pub text: String,
}

impl EventsLock {
    /// With this file. Nothing is read yet.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), known: BTreeMap::new(), categories: Vec::new(), problems: Vec::new() }
    }

    /// These events are locked too.
    pub fn of<E: Event>(mut self) -> Self {
        match stored::<E>() {
            Err(error) => self.problems.push(error.to_string()),
            Ok(all) => {
                for stored in all {
                    let key = (E::CATEGORY.to_owned(), stored.name.clone());
                    let known = Known { stored, becomes: becomes::<E>, tag_keys: tag_keys::<E> };
                    if let Some(other) = self.known.insert(key, known) {
                        let name = other.stored.name;
                        self.problems.push(format!(
                            "two types of events of `{}` have a `{name}`; leave one",
                            E::CATEGORY
                        ));
                    }
                }
            }
        }
        self.categories.push(E::CATEGORY.to_owned());
        self
    }

    /// Reads the file, and compares; with `FACTUM_UPDATE=1` in the environment, writes what is new if all of it is harmless.
    ///
    /// # Panics
    /// If the file does not hold, with what to do.
    #[track_caller]
    pub fn check(self) {
        let update = env::var_os(UPDATE).is_some_and(|value| !value.is_empty() && value != "0");
        if let Err(story) = self.settle(update) {
            panic!("{story}");
        }
    }

    /// What [`check`](Self::check) does, without the environment and without a panic.
    ///
    /// # Errors
    /// The text that tells what does not hold, and what to do.
    pub fn settle(self, update: bool) -> Result<(), String> {
        let text = file::read(&self.path).map_err(|error| error.to_string())?;
        let path = self.path.clone();
        let Report { problems, mut news, text: new } = self.compare(&text);
        let list = |lines: &[String]| lines.iter().map(|line| format!("\n  - {line}")).collect::<String>();
        if !problems.is_empty() {
            return Err(format!("{} does not hold:{}\n", path.display(), list(&problems)));
        }
        if new == text {
            return Ok(());
        }
        if update {
            return file::write(&path, &new).map_err(|error| error.to_string());
        }
        if news.is_empty() {
            news.push("it says the same, but in another form".to_owned());
        }
        Err(format!(
            "{} is not up to date:{}\nRun this test again with {UPDATE}=1 in the environment, look at the difference, and commit it.\n",
            path.display(),
            list(&news)
        ))
    }

    /// What the file says against what the types say. Nothing is written.
    pub fn compare(mut self, text: &str) -> Report {
        let mut news = Vec::new();
        let (blocks, mut problems) = match Block::all(text) {
            Ok(blocks) => (blocks, std::mem::take(&mut self.problems)),
            Err(error) => return Report { problems: vec![error.to_string()], news, text: text.to_owned() },
        };
        let mut done: BTreeMap<(String, String), Block> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for block in blocks {
            let key = (block.category.clone(), block.name.clone());
            if !seen.insert(key.clone()) {
                problems.push(format!("{}: it stands there twice; delete one", block.title()));
                continue;
            }
            let checked = match self.known.get(&key) {
                None => Err(self.nobody_reads(&block)),
                Some(known) => known.check(block, &mut news),
            };
            match checked {
                Ok(block) => drop(done.insert(key, block)),
                Err(problem) => problems.push(problem),
            }
        }
        for (key, known) in self.known.iter().filter(|(key, _)| !seen.contains(*key)) {
            // Old types of which nothing is known but the name are of no use to anybody.
            let Some(shape) = known.stored.shape.clone() else { continue };
            let ((category, name), sample) = (key.clone(), known.stored.sample.clone());
            let block = Block { category, name, shape, tags: BTreeSet::new(), sample, becomes: None };
            news.push(format!("{}: it is new", block.title()));
            match known.becoming(block).and_then(|block| known.as_written(block)) {
                Ok(mut block) => {
                    block.tags = known.tags_of(&block).0;
                    news.extend(done.values().filter_map(|old| block.other_tags_than(old)));
                    done.insert(key.clone(), block);
                }
                Err(problem) => problems.push(problem),
            }
        }
        let text = if problems.is_empty() { file::text(done.values()) } else { text.to_owned() };
        Report { problems, news, text }
    }

    fn nobody_reads(&self, block: &Block) -> String {
        let (title, Block { category, name, .. }) = (block.title(), block);
        if !self.categories.contains(category) {
            return format!(
                "{title}: none of the types that are checked has the category `{category}`; add its type to `events_lock!`"
            );
        }
        format!(
            "{title}: events of this type are stored, and nothing reads them any more; say in `evolution` what they are now: \
             `.rename(\"{name}\", …)`, `.upcast(\"{name}\", …)`, `.split(\"{name}\", …)` or `.drop(\"{name}\")`. {NEVER_STORED}"
        )
    }
}

impl Block {
    /// What is to be said of a type that another one becomes, and that has other tags.
    fn other_tags_than(&self, old: &Self) -> Option<String> {
        let becomes = old.becomes.iter().flatten().any(|(name, _)| *name == self.name);
        let lacks: Vec<_> = self.tags.symmetric_difference(&old.tags).collect();
        (old.category == self.category && becomes && !lacks.is_empty()).then(|| {
            format!(
                "{}: its tags are not those of {}, which stay as they are stored: whoever asks for `{}` does not find both",
                self.title(),
                old.title(),
                words(lacks)
            )
        })
    }
}

const NEVER_STORED: &str = "(If none was ever stored but on your own machine, delete its block, and run again with FACTUM_UPDATE=1.)";

impl Known {
    /// A block of the file as it should be, or what is wrong with it.
    fn check(&self, mut block: Block, news: &mut Vec<String>) -> Result<Block, String> {
        let title = block.title();
        let changes = match &self.stored.shape {
            Some(shape) => shape::changes(&block.shape, shape),
            None => Vec::new(),
        };
        let said = |which: fn(&Change) -> bool| {
            let said = changes.iter().filter(|change| which(change)).map(Change::to_string);
            said.collect::<Vec<_>>().join("; ")
        };
        match &self.stored.shape {
            Some(shape) if self.stored.today => {
                if changes.iter().any(|change| !change.harmless) {
                    return Err(self.needs_a_version(&title, &said(|change| !change.harmless)));
                }
                let mut shape = shape.clone();
                shape.keep(&block.shape);
                if shape != block.shape {
                    news.push(format!("{title}: {}", said(|_| true)));
                    block.shape = shape;
                }
            }
            _ if changes.iter().any(|change| !change.reads) => {
                return Err(format!(
                    "{title}: the step of `evolution` that begins here does not read what is stored: {}. It must take the shape \
                     of then: {}",
                    said(|change| !change.reads),
                    block.shape
                ));
            }
            _ => {}
        }
        if block.sample.is_none() {
            block.sample.clone_from(&self.stored.sample);
        }
        if self.stored.today {
            self.check_tags(&mut block, !changes.is_empty(), news)?;
        }
        let before = block.becomes.clone();
        let block = self.becoming(block)?;
        if block.becomes != before {
            news.push(format!("{title}: its sample becomes something else than before"));
        }
        Ok(block)
    }

    /// The keys of the tags that such events get today, and those of them that events of the stored sample's form get.
    fn tags_of(&self, block: &Block) -> (BTreeSet<String>, BTreeSet<String>) {
        if !self.stored.today {
            return Default::default();
        }
        let keys =
            |sample: &Option<Value>| sample.as_ref().map(|sample| (self.tag_keys)(&block.name, sample));
        let old = keys(&block.sample).unwrap_or_default();
        (old.iter().cloned().chain(keys(&self.stored.sample).unwrap_or_default()).collect(), old)
    }

    fn check_tags(&self, block: &mut Block, grown: bool, news: &mut Vec<String>) -> Result<(), String> {
        let (title, (all, old)) = (block.title(), self.tags_of(block));
        // A tag of a field that no stored event has leaves none of them behind.
        let harmless = |key: &&String| grown && !old.contains(*key);
        let (new, late): (Vec<_>, Vec<_>) = all.difference(&block.tags).partition(harmless);
        let gone: Vec<_> = block.tags.difference(&all).collect();
        if late.is_empty() && gone.is_empty() {
            if !new.is_empty() {
                news.push(format!("{title}: its new field is a tag, `{}`", words(new)));
                block.tags = all;
            }
            return Ok(());
        }
        let mut said = Vec::new();
        if !late.is_empty() {
            said.push(format!("events that are stored have no tag `{}`, and never get it", words(late)));
        }
        if !gone.is_empty() {
            said.push(format!("events have no tag `{}` any more", words(gone)));
        }
        let line = match all.is_empty() {
            true => "take the line `tags` out of its block by hand".to_owned(),
            false => format!("write into its block, below the shape, by hand: `tags {}`", words(&all)),
        };
        Err(format!(
            "{title}: its tags have changed: {}. A decision that asks for it does not find them, and what they hold counts as free. \
             Leave the tags as they were; if no rule asks for these, {line}",
            said.join("; ")
        ))
    }

    fn needs_a_version(&self, title: &str, changes: &str) -> String {
        let name = &self.stored.name;
        let (variant, version) = match name.rsplit_once(".v").map(|(variant, n)| (variant, n.parse::<u32>()))
        {
            Some((variant, Ok(version))) => (variant, version.saturating_add(1)),
            _ => (name.as_str(), 2),
        };
        format!(
            "{title}: its shape has changed: {changes}. Events of the old shape are stored for ever, under this name. Give the variant \
             `{variant}` the version {version} (`VERSIONS`, or `#[event(version = {version})]`), and say in `evolution` what the old events \
             are: `.upcast(\"{name}\", \"{variant}.v{version}\", |old| …)`. {NEVER_STORED}"
        )
    }

    /// A sample that was made up, in the form in which it would be stored.
    fn as_written(&self, mut block: Block) -> Result<Block, String> {
        match block.becomes.as_deref() {
            Some([(name, data)]) if *name == block.name => {
                block.sample = Some(data.clone());
                self.becoming(block)
            }
            _ => Ok(block),
        }
    }

    /// The block with what its sample is today.
    fn becoming(&self, mut block: Block) -> Result<Block, String> {
        let Some(sample) = &block.sample else {
            let why = "no sample of it could be made up; put its block into the file, and a line `sample {…}` below its shape";
            let told = format!("{}: {why}. The block is:\n{block}", block.title());
            return if self.stored.today { Err(told) } else { Ok(block) };
        };
        let becomes = (self.becomes)(&block.name, sample)
            .map_err(|error| format!("{}: its sample cannot be read any more: {error}", block.title()))?;
        let itself = matches!(&becomes[..], [(name, data)] if *name == block.name && data == sample);
        block.becomes = (!itself).then_some(becomes);
        Ok(block)
    }
}
