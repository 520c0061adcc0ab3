//! What a consumer tells of itself: how far it is, and how fast.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    consumer::State,
    position::{Position, Token},
    rebuild::RebuildProgress,
};

/// What a consumer tells.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    /// How far readers see.
    pub(crate) token: Option<Token>,
    pub(crate) state: State,
    pub(crate) rebuilding: Option<Rebuilding>,
    /// Keys that are held up, and events that are parked.
    pub(crate) parked: (usize, usize),
    pub(crate) rate: Rate,
}

/// How a rebuild comes on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rebuilding {
    position: Position,
    head: Position,
    /// Events per second.
    events: Rate,
    /// Positions per second.
    positions: Rate,
}

impl Rebuilding {
    pub(crate) fn new() -> Self {
        let (position, head) = (Position::START, Position::START);
        Self { position, head, events: Rate::new(), positions: Rate::new() }
    }

    pub(crate) fn come_to(&mut self, position: Position, head: Position, events: usize) {
        self.events.count(events as u64);
        self.positions.count(position.0.saturating_sub(self.position.0));
        (self.position, self.head) = (position, head.max(position));
    }

    pub(crate) fn now(&self) -> RebuildProgress {
        let (position, head, rate) = (self.position, self.head, self.events.now());
        let left = (head.0 - position.0) as f64 / self.positions.now();
        let time_left = Duration::try_from_secs_f64(left).ok().filter(|_| position > Position::START);
        RebuildProgress { position, head, rate, time_left }
    }
}

impl Progress {
    pub(crate) fn position(&self) -> Position {
        self.token.map_or(Position::START, |token| token.position)
    }
}

/// Events per second, over a second or two.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    since: Instant,
    events: u64,
    before: f64,
}

impl Rate {
    const SPAN: Duration = Duration::from_secs(1);

    pub(crate) fn new() -> Self {
        Self { since: Instant::now(), events: 0, before: 0.0 }
    }

    pub(crate) fn count(&mut self, events: u64) {
        if self.since.elapsed() >= Self::SPAN {
            *self = Self { since: Instant::now(), events: 0, before: self.now() };
        }
        self.events += events;
    }

    pub(crate) fn now(&self) -> f64 {
        let elapsed = self.since.elapsed();
        let rate = self.events as f64 / elapsed.as_secs_f64().max(0.001);
        // A span that has hardly begun says little; one that is long over says all.
        if elapsed < Self::SPAN && self.before > 0.0 { self.before } else { rate }
    }
}
