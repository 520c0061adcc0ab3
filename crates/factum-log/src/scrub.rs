//! A slow look at what is not read otherwise: sealed segments are read again and again, so that bits that rot are known before they are
//! needed, while there is still a backup that has them.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use factum::{Clock, Error, Outcome, Position, Result, Timestamp};

use crate::{
    format::{Damage, SEGMENT_HEADER},
    log::Log,
    segment::Segment,
    verify::{Continuity, End, Finding, Findings, Part, Visitor, Whole, is_unused, table_damage, walk},
};

/// Bytes after which it pauses.
const STEP: u64 = 256 << 10;
/// How long it pauses after a round, and where there is nothing to look at yet.
const BETWEEN_ROUNDS: Duration = Duration::from_secs(3600);
const NOTHING_YET: Duration = Duration::from_secs(10);

/// What the background look at sealed segments has found so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScrubStatus {
    /// How often all sealed segments were looked through since the store was opened.
    pub rounds: u64,
    /// When the last round ended.
    pub last_round: Option<Timestamp>,
    /// The segment that is being looked at.
    pub segment: Option<u32>,
    /// Bytes that were looked at since the store was opened.
    pub bytes: u64,
    /// What was found, each place once.
    pub findings: Vec<Finding>,
    /// Why the last round was broken off, if the disk would not be read.
    pub trouble: Option<Error>,
}

/// The look, under way.
#[derive(Debug, Default)]
pub struct Scrub {
    state: Mutex<State>,
    stopped: Condvar,
}

#[derive(Debug, Default)]
struct State {
    stopping: bool,
    status: ScrubStatus,
}

impl Scrub {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was found so far.
    pub fn status(&self) -> ScrubStatus {
        self.state().status.clone()
    }

    /// Ends it soon.
    pub fn stop(&self) {
        self.state().stopping = true;
        self.stopped.notify_all();
    }

    /// Waits. `false` if it is to end.
    fn pause(&self, time: Duration) -> bool {
        let waited = self.stopped.wait_timeout_while(self.state(), time, |state| !state.stopping);
        !waited.unwrap_or_else(PoisonError::into_inner).0.stopping
    }

    /// Looks through sealed segments, round after round, at so many bytes a second, until it is stopped.
    pub fn run(&self, log: &Log, bytes_per_second: u64, clock: &dyn Clock) {
        // Whatever is wrong with it must not end the store.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            while self.pause(if log.durable().segments.len() > 1 { Duration::ZERO } else { NOTHING_YET }) {
                if log.durable().segments.len() < 2 {
                    continue;
                }
                let round = self.round(log, bytes_per_second);
                let mut state = self.state();
                state.status.segment = None;
                match round {
                    Ok(()) => {
                        state.status.rounds += 1;
                        state.status.last_round = Some(clock.now());
                        state.status.trouble = None;
                    }
                    Err(error) => state.status.trouble = Some(error),
                }
                drop(state);
                if !self.pause(BETWEEN_ROUNDS) {
                    return;
                }
            }
        }));
    }

    fn round(&self, log: &Log, bytes_per_second: u64) -> Result<()> {
        let mut n = 0;
        loop {
            // A segment that was scavenged since is another file.
            let (segment, next) = {
                let durable = log.durable();
                match durable.segments.get(n..n + 2) {
                    Some([segment, next]) => (segment.clone(), next.header),
                    _ => return Ok(()),
                }
            };
            self.state().status.segment = Some(segment.header.number);
            let end = End::Sealed(next.previous_end.saturating_sub(segment.header.base));
            let mut pacing = Pacing { scrub: self, bytes_per_second, step: 0 };
            n += 1;
            if let Some(damage) = table_damage(&segment)? {
                let positions = Some((Position(segment.first()), Position(segment.end() - 1)));
                pacing.damage(&segment, 0, positions, damage);
                continue;
            }
            walk(&segment, SEGMENT_HEADER, end, &mut Continuity::at(&segment.header), &mut pacing)?;
        }
    }
}

/// A look that takes its time.
struct Pacing<'a> {
    scrub: &'a Scrub,
    bytes_per_second: u64,
    /// Bytes since the last pause.
    step: u64,
}

impl Visitor for Pacing<'_> {
    fn frame(&mut self, _: &Segment, frame: &Whole) -> Result<()> {
        self.step += frame.header.bytes();
        if self.step < STEP.min(self.bytes_per_second) {
            return Ok(());
        }
        let step = std::mem::take(&mut self.step);
        let time = Duration::from_secs_f64(step as f64 / self.bytes_per_second.max(1) as f64);
        if self.scrub.pause(time) {
            Ok(())
        } else {
            Err(Error::Unavailable { why: "it was closed".into(), outcome: Outcome::No })
        }
    }

    fn damage(
        &mut self,
        segment: &Segment,
        offset: u64,
        positions: Option<(Position, Position)>,
        damage: Damage,
    ) {
        let part = if is_unused(damage) { Part::Unused } else { Part::Log };
        let mut found = Findings::default();
        found.add(part, &segment.path, offset, positions, damage.0);
        let mut state = self.scrub.state();
        for finding in found.listed {
            if !state.status.findings.contains(&finding) {
                state.status.findings.push(finding);
            }
        }
    }

    fn done(&mut self, bytes: u64) {
        self.scrub.state().status.bytes += bytes;
    }
}
