//! How far an import has come: a bar on a terminal, a line for each tenth elsewhere.

use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    show::{count, say},
    source::{FromRow, Source},
};

/// Parts of the whole after which a line is printed where there is no terminal.
const PARTS: u64 = 10;

/// Tells on stderr how far the reading of one file has come.
#[derive(Debug)]
pub(crate) struct Progress {
    name: String,
    bytes: u64,
    bar: ProgressBar,
    told: u64,
}

impl Progress {
    pub(crate) fn of<T: FromRow>(source: &Source<T>) -> Self {
        let (name, bytes) = (source.name(), source.bytes());
        let bar = ProgressBar::new(bytes);
        // The template is fixed; should it ever be wrong, the bar looks plainer.
        if let Ok(style) =
            ProgressStyle::with_template("{prefix} {wide_bar} {percent:>3} %  {msg}  {eta} left")
        {
            bar.set_style(style);
        }
        bar.set_prefix(name.clone());
        Self { name, bytes, bar, told: 0 }
    }

    /// So many bytes are read, and so many rows.
    pub(crate) fn at(&mut self, bytes: u64, rows: u64) {
        if !self.bar.is_hidden() {
            self.bar.set_position(bytes);
            self.bar.set_message(format!("{} rows", count(rows)));
            return;
        }
        // A pipe has no length, and so no parts.
        let part = (bytes * PARTS).checked_div(self.bytes).unwrap_or_default();
        if part > self.told {
            self.told = part;
            say(format!("{}: {} %, {} rows", self.name, part * 100 / PARTS, count(rows)));
        }
    }

    /// Says something without tearing the bar.
    pub(crate) fn tell(&self, text: &str) {
        self.bar.suspend(|| say(text));
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Progress {
    /// Whatever stops the import, its sentence begins on a line of its own.
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
