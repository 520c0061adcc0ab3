//! An index that is damaged is made again from the log, as soon as anybody meets the damage.

use std::sync::{MutexGuard, PoisonError};

use factum::{Error, Result};

use super::Log;
use crate::{disk::may_take_long, index::Run, recovery::index_again};

/// Runs that are mended for one who asks, at most.
const MOST: usize = 64;

impl Log {
    pub(super) fn index_work(&self) -> MutexGuard<'_, ()> {
        self.index_work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does work that reads the index. Where that is damaged, it is made again, and the work done once more: what is only derived
    /// from the log is no reason to refuse anybody.
    ///
    /// # Errors
    /// Those of the work, among them damage of the log itself.
    pub fn mending<T>(&self, mut work: impl FnMut() -> Result<T>) -> Result<T> {
        for _ in 0..MOST {
            match work() {
                Err(Error::Corrupt(damage)) if Run::is_file(&damage.segment) && may_take_long() => {
                    let mut path = damage.segment.clone();
                    // What is missing of the index before must be mended first.
                    while let Err(error) = self.mend(&path) {
                        match error {
                            Error::Corrupt(earlier)
                                if Run::is_file(&earlier.segment) && earlier.segment != path =>
                            {
                                path = earlier.segment;
                            }
                            Error::Corrupt(of_log) => return Err(Error::Corrupt(of_log)),
                            _ => return Err(Error::Corrupt(damage)),
                        }
                    }
                }
                done => return done,
            }
        }
        work()
    }

    /// Makes the run in this file again, if there is still one.
    fn mend(&self, path: &str) -> Result<()> {
        let _working = self.index_work();
        let (damaged, before, segments) = {
            let durable = self.durable();
            let Some((damaged, before)) = durable.index.run_at(path) else { return Ok(()) };
            (damaged, before, durable.segments.clone())
        };
        let mended = index_again(&*self.disk, &segments, &before, &damaged.span, &self.settings)?;
        let name = Run::name(damaged.span.start, damaged.span.end);
        let replaced =
            mended.iter().any(|run| run.span.start == damaged.span.start && run.span.end == damaged.span.end);
        self.durable_mut().index.mend(&damaged, mended);
        if !replaced {
            // If it stays, it is met and mended once more after the next start.
            let _ = self.disk.remove(&name);
        }
        Ok(())
    }
}
