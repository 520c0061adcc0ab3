//! What a failing test shows.

use std::fmt::Write as _;

use serde::Serialize;

use crate::{
    aggregate::EventSet,
    append::Write,
    decision::Writes,
    event::{NewEvent, RecordedEvent},
};

/// An event or a row as a failing test shows it, and as they are compared: by what is stored of them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    /// The stream of an event, the key of a row.
    pub(super) stream: String,
    event_type: String,
    data: serde_json::Value,
    tags: Vec<String>,
}

impl Line {
    fn of<'a>(stream: &str, event_type: &str, data: &[u8], tags: impl Iterator<Item = &'a str>) -> Self {
        let data = serde_json::from_slice(data).unwrap_or_default();
        Self {
            stream: stream.into(),
            event_type: event_type.into(),
            data,
            tags: tags.map(str::to_owned).collect(),
        }
    }

    #[track_caller]
    pub(super) fn all(Writes(writes): Writes) -> Vec<Self> {
        let writes = writes.unwrap_or_else(|error| panic!("an expected event cannot be written: {error}"));
        let line = |stream: &str, e: &NewEvent| Self::of(stream, &e.event_type, &e.data, e.tags.iter());
        let lines = |write: &Write| write.events.iter().map(|e| line(&write.stream, e)).collect::<Vec<_>>();
        writes.iter().flat_map(lines).collect()
    }

    pub(super) fn recorded(event: &RecordedEvent) -> Self {
        Self::of(&event.stream, &event.event_type, &event.data, event.tags.iter())
    }

    #[track_caller]
    pub(super) fn row(key: &str, row: &impl Serialize) -> Self {
        let data = serde_json::to_value(row);
        let data = data.unwrap_or_else(|error| panic!("the row `{key}` cannot be JSON: {error}"));
        Self { stream: key.into(), event_type: String::new(), data, tags: Vec::new() }
    }

    pub(super) fn text(&self) -> String {
        let Self { stream, event_type, data, tags } = self;
        let mut text = format!("{stream}: ");
        if !event_type.is_empty() {
            text += &format!("{event_type} ");
        }
        // Writing to a string cannot fail.
        let _ = write!(text, "{data}");
        for tag in tags {
            text += &format!("  {tag}");
        }
        text
    }
}

/// The lines, each with this mark before it.
pub(super) fn listed(lines: &[Line], mark: &str) -> String {
    lines.iter().fold(String::new(), |mut text, line| {
        let _ = writeln!(text, "{mark}{}", line.text());
        text
    })
}

/// The category of the events of a set, if they have one.
pub(super) fn category_of<E: EventSet>() -> Option<String> {
    E::query().ok()?.any_of.into_iter().next()?.category
}

/// What was given and tried, until it turns out not to be as expected.
pub(super) struct Story {
    text: String,
    unread: String,
}

impl Story {
    pub(super) fn new(given: &[Line]) -> Self {
        let given = if given.is_empty() { "    nothing\n".into() } else { listed(given, "    ") };
        Self { text: format!("given\n{given}"), unread: String::new() }
    }

    pub(super) fn when(mut self, tried: &str) -> Self {
        self.text += &format!("when\n    {tried}\n");
        self
    }

    /// Given events that are in nobody's way: perhaps a query is wrong.
    pub(super) fn unread(mut self, unread: &[Line]) -> Self {
        if !unread.is_empty() {
            let unread = listed(unread, "    ");
            self.unread = format!("none of the decision's models reads these given events\n{unread}");
        }
        self
    }

    /// Events that a process manager has not heard: perhaps its query is wrong, or how it finds the instance.
    pub(super) fn unheard(mut self, who: &str, unheard: &[Line]) -> Self {
        if !unheard.is_empty() {
            let unheard = listed(unheard, "    ");
            self.unread =
                format!("{who} has no instance for these events, or does not ask for them\n{unheard}");
        }
        self
    }

    #[track_caller]
    pub(super) fn fail(self, expected: &str, lines: &[Line], but: &str) -> ! {
        let Self { text, unread } = self;
        panic!("{text}expected {expected}\n{}but {but}\n{unread}", listed(lines, "    "));
    }

    #[track_caller]
    pub(super) fn fail_with_difference(self, expected: &str, wanted: &[Line], came: &[Line]) -> ! {
        let Self { text, unread } = self;
        if wanted.is_empty() {
            panic!("{text}expected {expected}\nbut there came\n{}{unread}", listed(came, "    "));
        }
        let difference = difference(wanted, came);
        panic!("{text}expected (-) {expected}, but (+) there came\n{difference}{unread}");
    }
}

/// What both have, and what only one has: `-` what was wanted, `+` what came.
fn difference(wanted: &[Line], came: &[Line]) -> String {
    // The longest run of lines that both have, from each place on: enough for what a test lists.
    let mut common = vec![vec![0usize; came.len() + 1]; wanted.len() + 1];
    for w in (0..wanted.len()).rev() {
        for c in (0..came.len()).rev() {
            common[w][c] = match wanted[w] == came[c] {
                true => common[w + 1][c + 1] + 1,
                false => common[w + 1][c].max(common[w][c + 1]),
            };
        }
    }
    let (mut w, mut c, mut text) = (0, 0, String::new());
    while w < wanted.len() || c < came.len() {
        let (mark, line) = match (wanted.get(w), came.get(c)) {
            (Some(one), Some(other)) if one == other => {
                (w, c) = (w + 1, c + 1);
                ("    ", one)
            }
            (Some(one), _) if c == came.len() || common[w + 1][c] >= common[w][c + 1] => {
                w += 1;
                ("  - ", one)
            }
            (_, Some(other)) => {
                c += 1;
                ("  + ", other)
            }
            _ => break,
        };
        text += &listed(std::slice::from_ref(line), mark);
    }
    text
}
