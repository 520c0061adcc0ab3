//! The files of the index: written as the log grows, merged, and made again from the log as soon as anybody meets damage in them.

use std::sync::{MutexGuard, PoisonError};

use factum::{Error, Result};

use super::Log;
use crate::{
    disk::may_take_long,
    index::{Run, run},
    recovery::index_again,
};

/// Runs that are mended for one who asks, at most.
const MOST: usize = 64;

impl Log {
    /// Writes what was frozen of the index to a run, or else merges runs if there are many. `false` if there was nothing to do.
    ///
    /// # Errors
    /// Those of the disk. Nothing is lost: the index is made from the log, and this can be done again.
    pub fn write_run(&self) -> Result<bool> {
        self.mending(|| self.write_run_once())
    }

    fn write_run_once(&self) -> Result<bool> {
        let _working = self.index_work();
        let (frozen, sparse) = {
            let durable = self.durable();
            let Some((index, span)) = durable.index.frozen(durable.end) else {
                drop(durable);
                return self.merge_runs();
            };
            ((index, span), durable.sparse.between(span.start, span.end).to_vec())
        };
        let run = run::make(&*self.disk, frozen.1, &*frozen.0, &sparse, &self.settings.index_pages)?;
        self.durable_mut().index.thaw(run);
        Ok(true)
    }

    fn merge_runs(&self) -> Result<bool> {
        let (old, sparse) = {
            let durable = self.durable();
            let Some(old) = durable.index.to_merge(self.settings.run_events) else { return Ok(false) };
            let (start, end) = (old[0].span.start, old[old.len() - 1].span.end);
            (old, durable.sparse.between(start, end).to_vec())
        };
        let last = old[old.len() - 1].span;
        let hides_something = old.iter().any(|run| run.span.hides_something);
        let largest_id = old.iter().map(|run| run.span.largest_id).max().unwrap_or_default();
        let span = run::Span { start: old[0].span.start, hides_something, largest_id, ..last };
        let merged = run::make(&*self.disk, span, &run::Merged(&old), &sparse, &self.settings.index_pages)?;
        self.durable_mut().index.replace(&old, merged);
        for run in &old {
            // What cannot be removed now is removed when the log is opened next.
            let _ = self.disk.remove(&Run::name(run.span.start, run.span.end));
        }
        Ok(true)
    }

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
        // Somebody else may have met the same damage, and made it again already.
        if damaged.check(|_| {}).is_ok_and(|checked| checked.problems.is_empty()) {
            return Ok(());
        }
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
