//! Where some of a segment's frames begin: enough to start reading near any position or moment.

use factum::Timestamp;

use crate::format::SEGMENT_HEADER;

/// Bytes between two entries, at least.
const EVERY: u64 = 32 << 10;

/// Starts of frames in one segment, in order, about one in [`EVERY`] bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sparse(Vec<(u64, Timestamp)>);

impl Sparse {
    /// Takes note of a frame at `offset`, whose first event was recorded then; marks have none and are left out.
    pub fn add(&mut self, offset: u64, first_recorded_at: Option<Timestamp>) {
        let Some(at) = first_recorded_at else { return };
        if self.0.last().is_none_or(|&(last, _)| offset - last >= EVERY) {
            self.0.push((offset, at));
        }
    }

    /// The start of a frame at or before `offset`, and that of the next known one.
    pub fn around(&self, offset: u64) -> (u64, Option<u64>) {
        let next = self.0.partition_point(|&(start, _)| start <= offset);
        let start = next.checked_sub(1).map_or(SEGMENT_HEADER, |n| self.0[n].0);
        (start, self.0.get(next).map(|&(start, _)| start))
    }

    /// The start of a frame before which every event was recorded at `time` or before.
    pub fn until(&self, time: Timestamp) -> u64 {
        let next = self.0.partition_point(|&(_, at)| at <= time);
        next.checked_sub(1).map_or(SEGMENT_HEADER, |n| self.0[n].0)
    }
}
