//! Whether acknowledged appends were allowed to happen, and refused ones were not.

use factum::{
    Guard, Position, Query, StreamName,
    error::{Actual, Conflict},
};

use super::{Findings, Kind, blame::Timeline};
use crate::history::{Answer, Call, Operation, Refusal, Sent};

pub(super) fn check(timeline: &Timeline<'_>, found: &mut Findings) {
    let mut last = None;
    for (run, author) in timeline.authors.iter().enumerate() {
        let Some(author) = author else { continue };
        // Guards count before the first event only, also where an append was torn.
        if last.replace(author.invoked) != Some(author.invoked) {
            let moment = timeline.moment(run);
            let innocent = |suspect: &Operation| timeline.guards_hold(suspect, moment);
            if !timeline.suspects(run).any(innocent) {
                report_guards(timeline, author, moment, found);
            }
        }
    }
    for operation in &timeline.history.operations {
        let (Call::Append { events, guards }, Some(answer)) = (&operation.call, &operation.answer) else {
            continue;
        };
        match answer {
            Answer::Appended { .. } if events.is_empty() => check_alone(timeline, operation, guards, found),
            Answer::Refused(refusal) => check_refusal(timeline, operation, (events, guards), refusal, found),
            _ => {}
        }
    }
}

/// Names the guards of an append that do not hold at its place in the log.
fn report_guards(timeline: &Timeline<'_>, author: &Operation, moment: usize, found: &mut Findings) {
    let Some((_, guards)) = author.append() else { return };
    for guard in guards {
        let Some((actual, rival)) = timeline.failure(guard, moment) else { continue };
        let conflict = Conflict { guard: guard.clone(), actual };
        let rival = rival.map(|at| format!(", written {}", timeline.author_of(at))).unwrap_or_default();
        let text = format!(
            "#{} was written at position {} although its guard does not hold there: {conflict}{rival}",
            author.invoked,
            timeline.log.position_at(moment + 1),
        );
        found.add(Kind::Guard, &[author], text);
    }
}

/// Guards of an append that wrote nothing held together at some instant while it was under way.
fn check_alone(timeline: &Timeline<'_>, operation: &Operation, guards: &[Guard], found: &mut Findings) {
    let (first, last) = timeline.window(operation);
    let held = |runs| guards.iter().all(|guard| timeline.failure(guard, timeline.moment(runs)).is_none());
    if !(first..=last).any(held) {
        let text = format!(
            "#{} was told that its guards hold, but at no instant between its call and its answer (positions {} to {}) did they",
            operation.invoked,
            timeline.log.position_at(timeline.moment(first)),
            timeline.log.position_at(timeline.moment(last)),
        );
        found.add(Kind::Guard, &[operation], text);
    }
}

fn check_refusal(
    timeline: &Timeline<'_>,
    operation: &Operation,
    (events, guards): (&[Sent], &[Guard]),
    refusal: &Refusal,
    found: &mut Findings,
) {
    let (first, last) = timeline.window(operation);
    let name = operation.invoked;
    let decided = matches!(
        refusal,
        Refusal::Conflict(..) | Refusal::IdConflict | Refusal::Tombstoned(_) | Refusal::LogRewound
    );
    let was_there = |sent: &Sent| {
        timeline.find(sent).is_some_and(|at| timeline.run(at) < first && timeline.same(at, sent))
    };
    if decided && !events.is_empty() && events.iter().all(was_there) {
        let text = format!(
            "#{name} sent again what is recorded, and was refused ({}) in place of being told where it is",
            refusal.reason()
        );
        found.add(Kind::Replay, &[operation], text);
        return;
    }
    let justified = match refusal {
        Refusal::Conflict(guard, actual) => {
            guards.contains(guard) && timeline.conflicts(guard, *actual, (first, last))
        }
        Refusal::IdConflict => events.iter().any(|sent| {
            timeline.log.unaccounted(&sent.stream)
                || timeline.find(sent).is_some_and(|at| timeline.run(at) < last)
        }),
        Refusal::Tombstoned(stream) => (first..=last)
            .any(|runs| timeline.log.actual(stream, timeline.moment(runs)) == Actual::Tombstoned),
        Refusal::LogRewound => !guards.iter().all(|guard| timeline.surely_in_log(guard, first)),
        Refusal::Other(_) => true,
    };
    if !justified {
        let between = (
            timeline.log.position_at(timeline.moment(first)),
            timeline.log.position_at(timeline.moment(last)),
        );
        let reason = refusal.reason();
        let text = format!(
            "#{name} was refused ({reason}), but that was so at no instant between its call and its answer (positions {} to {})",
            between.0, between.1
        );
        found.add(Kind::FalseRefusal, &[operation], text);
    }
}

impl Timeline<'_> {
    fn guards_hold(&self, operation: &Operation, moment: usize) -> bool {
        operation
            .append()
            .is_none_or(|(_, guards)| guards.iter().all(|guard| self.failure(guard, moment).is_none()))
    }

    /// What a guard meets at a moment, if it does not hold there; and the event that is in its way.
    fn failure(&self, guard: &Guard, moment: usize) -> Option<(Actual, Option<usize>)> {
        match guard {
            Guard::Stream { stream, .. } if self.log.unaccounted(stream) => None,
            Guard::Stream { stream, expected } => {
                let actual = self.log.actual(stream, moment);
                let state = state_of(actual);
                expected.check(&state).err().map(|actual| (actual, self.log.last_of(stream, moment)))
            }
            Guard::Query { query, after } => {
                let matching = self.log.matching(query, self.log.moment_of(after.position), moment);
                let visible = |at: &usize| {
                    let stream = &self.log.entries[*at].stream;
                    let vague = self.log.expires(stream) || self.log.unaccounted(stream);
                    self.log.hidden_by[*at] >= moment && !vague
                };
                let at = matching.into_iter().rev().find(visible)?;
                Some((Actual::Match(self.log.entries[at].position), Some(at)))
            }
        }
    }

    /// Whether the guard failed with `actual` at some instant between the first and the last of these runs.
    fn conflicts(&self, guard: &Guard, actual: Actual, (first, last): (usize, usize)) -> bool {
        match (guard, actual) {
            (Guard::Stream { stream, .. }, _) if self.log.unaccounted(stream) => true,
            (Guard::Stream { stream, expected }, _) => {
                expected.check(&state_of(actual)).is_err() && self.was(stream, actual, (first, last))
            }
            (Guard::Query { query, after }, Actual::Match(position)) => {
                position > after.position && self.matched(query, position, (first, last))
            }
            (Guard::Query { .. }, _) => false,
        }
    }

    /// Whether the stream was so at some instant between the first and the last of these runs.
    pub(super) fn was(&self, stream: &StreamName, actual: Actual, (first, last): (usize, usize)) -> bool {
        (first..=last).any(|runs| self.log.actual(stream, self.moment(runs)) == actual)
    }

    fn matched(&self, query: &Query, position: Position, (first, last): (usize, usize)) -> bool {
        let Some(at) = self.log.moment_of(position).checked_sub(1) else { return false };
        if self.log.entries[at].position != position {
            return self.log.any_unaccounted();
        }
        let shown = self.log.hidden_by[at] >= self.moment(first)
            || self.log.unaccounted(&self.log.entries[at].stream);
        self.run(at) < last && shown && self.log.matching(query, at, at + 1) == [at]
    }

    /// Whether the token of a guard was in the log for sure after the first `runs`.
    fn surely_in_log(&self, guard: &Guard, runs: usize) -> bool {
        match guard {
            Guard::Stream { .. } => true,
            Guard::Query { after, .. } => {
                self.identity.is_none_or(|log| log == after.log)
                    && after.position <= self.log.position_at(self.moment(runs))
            }
        }
    }
}

impl Refusal {
    fn reason(&self) -> String {
        match self {
            Self::Conflict(guard, actual) => Conflict { guard: guard.clone(), actual: *actual }.to_string(),
            Self::IdConflict => "an id is taken".to_owned(),
            Self::Tombstoned(stream) => format!("stream `{stream}` is tombstoned"),
            Self::LogRewound => "a token is of another history".to_owned(),
            Self::Other(text) => text.clone(),
        }
    }
}

/// A state that guards see as `actual`.
fn state_of(actual: Actual) -> factum::StreamState {
    use factum::Life::{Deleted, Live, Tombstoned};
    let (life, last_revision) = match actual {
        Actual::NoStream | Actual::Match(_) => (Live, None),
        Actual::Revision(last) => (Live, Some(last)),
        Actual::Deleted(last) => (Deleted, Some(last)),
        Actual::Tombstoned => (Tombstoned, None),
    };
    factum::StreamState { life, last_revision, ..Default::default() }
}
