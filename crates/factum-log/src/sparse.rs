//! Where some frames begin: enough to start reading near any position or moment.

use factum::Timestamp;

/// Bytes between two entries, at least.
const EVERY: u64 = 32 << 10;

/// Positions at which frames begin, in order, about one in [`EVERY`] bytes, each with the time of its first event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sparse(Vec<(u64, Timestamp)>);

impl Sparse {
    /// Takes in what was noted before.
    pub fn extend(&mut self, entries: &[(u64, Timestamp)]) {
        self.0.extend_from_slice(entries);
    }

    /// Takes note of a frame at `position`, whose first event was recorded then; marks have none and are left out.
    pub fn add(&mut self, position: u64, first_recorded_at: Option<Timestamp>) {
        let Some(at) = first_recorded_at else { return };
        if self.0.last().is_none_or(|&(last, _)| position - last >= EVERY) {
            self.0.push((position, at));
        }
    }

    /// The entries between two positions.
    pub fn between(&self, start: u64, end: u64) -> &[(u64, Timestamp)] {
        let first = self.0.partition_point(|&(position, _)| position < start);
        let beyond = self.0.partition_point(|&(position, _)| position < end);
        &self.0[first..beyond.max(first)]
    }

    /// The start of a frame at or before `position`, in the segment whose frames begin at `first`.
    pub fn start_for(&self, first: u64, position: u64) -> u64 {
        let next = self.0.partition_point(|&(start, _)| start <= position);
        next.checked_sub(1).map_or(first, |n| self.0[n].0).max(first)
    }

    /// The start of a frame before which every event was recorded at `time` or before, in the segment whose frames begin at
    /// `first` and end at `end`.
    pub fn start_until(&self, first: u64, end: u64, time: Timestamp) -> u64 {
        let entries = self.between(first, end);
        let next = entries.partition_point(|&(_, at)| at <= time);
        next.checked_sub(1).map_or(first, |n| entries[n].0)
    }
}
