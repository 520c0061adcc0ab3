//! How far a long task has come: a bar on a terminal, a line for each tenth elsewhere.

use factum_log::Progress;
use indicatif::{ProgressBar, ProgressStyle};

use crate::show::say;

/// Parts of the whole after which a line is printed where there is no terminal.
const PARTS: u64 = 10;
/// Bytes of a task that is over before anybody looks: it says nothing.
const SMALL: u64 = 64 << 20;

/// Tells on stderr how far a task has come.
#[derive(Debug)]
pub(crate) struct Bar {
    doing: &'static str,
    bar: ProgressBar,
    told: u64,
}

impl Bar {
    /// For a task that is measured in bytes.
    pub(crate) fn new(doing: &'static str) -> Self {
        Self::like(doing, "{prefix} {wide_bar} {percent:>3} %  {bytes} of {total_bytes}  {eta} left")
    }

    /// For one that is measured in segments.
    pub(crate) fn of_segments(doing: &'static str) -> Self {
        Self::like(doing, "{prefix} {wide_bar} segment {pos} of {len}")
    }

    fn like(doing: &'static str, template: &str) -> Self {
        let bar = ProgressBar::new(0);
        // The template is fixed; should it ever be wrong, the bar looks plainer.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(doing);
        Self { doing, bar, told: 0 }
    }

    pub(crate) fn at(&mut self, Progress { done, total }: Progress) {
        if !self.bar.is_hidden() {
            self.bar.set_length(total);
            self.bar.set_position(done);
            return;
        }
        let part = done.saturating_mul(PARTS).checked_div(total).unwrap_or_default();
        if part > self.told && total > SMALL {
            self.told = part;
            say(format!("{}: {} %", self.doing, part * 100 / PARTS));
        }
    }
}

impl Drop for Bar {
    /// However the task ends, what is said then begins on a line of its own.
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
