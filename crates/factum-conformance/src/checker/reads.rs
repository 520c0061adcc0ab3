//! Whether readers and subscribers were shown prefixes of the log: whole, and no older than what was acknowledged before.

use std::collections::HashMap;

use factum::{AsOf, Direction, Position, Query, Read, Start, StreamName, Token, error::Actual};

use super::{Findings, Kind, blame::Timeline};
use crate::history::{Answer, Call, Operation, Seen};

pub(super) fn check(timeline: &Timeline<'_>, found: &mut Findings) {
    let mut subscribers = HashMap::new();
    for operation in &timeline.history.operations {
        let Some(answer) = &operation.answer else { continue };
        match (&operation.call, answer) {
            (Call::Read(read), Answer::Page { events, token, head, next }) => {
                check_head(timeline, operation, *head, found);
                check_page(timeline, operation, read, (events, *token, *head, *next), found);
            }
            (Call::Head, Answer::Head(head)) => check_head(timeline, operation, *head, found),
            (Call::StreamState(stream), Answer::State(state)) => {
                check_state(timeline, operation, stream, state.actual(), found);
            }
            (Call::Subscribe(query), Answer::Subscribed(from)) => {
                let subscriber = Subscriber { query, seen: from.position, asked: operation };
                subscribers.insert(operation.invoked, subscriber);
            }
            (Call::Next(name), answer) => {
                if let Some(subscriber) = subscribers.get_mut(name) {
                    subscriber.check(timeline, operation, answer, found);
                }
            }
            _ => {}
        }
    }
}

/// A head is the end of an append, no older than what was acknowledged before and no newer than what was sent.
fn check_head(timeline: &Timeline<'_>, operation: &Operation, head: Token, found: &mut Findings) {
    let (name, position) = (operation.invoked, head.position);
    if position > timeline.head {
        let text =
            format!("#{name} was shown a log that ends at {position}, but it ends at {} now", timeline.head);
        found.add(Kind::Phantom, &[operation], text);
    }
    let moment = timeline.log.moment_of(position);
    let runs = timeline.runs_begun(moment);
    if timeline.moment(runs) != moment {
        let text = format!(
            "#{name} was shown a log that ends at position {position}, in the middle of the append {}",
            timeline.author_of(moment)
        );
        found.add(Kind::Torn, &[operation], text);
    }
    let (first, last) = timeline.window(operation);
    if runs < first {
        let missing = timeline.moment(first) - 1;
        let text = format!(
            "#{name} was shown a log that ends at position {position}, though position {}, written {}, was acknowledged before it asked",
            timeline.log.entries[missing].position,
            timeline.author_of(missing)
        );
        found.add(Kind::Stale, &[operation], text);
    }
    if runs > last {
        let text = format!("#{name} was shown a log that ends at position {position}, before that was sent");
        found.add(Kind::Phantom, &[operation], text);
    }
}

fn check_state(
    timeline: &Timeline<'_>,
    operation: &Operation,
    stream: &StreamName,
    actual: Actual,
    found: &mut Findings,
) {
    let (first, last) = timeline.window(operation);
    if !timeline.log.unaccounted(stream) && !timeline.was(stream, actual, (first, last)) {
        let was = timeline.log.actual(stream, timeline.moment(first));
        let text = format!(
            "#{} was told of stream `{stream}` that {actual}, which it never was meanwhile: {was}",
            operation.invoked
        );
        found.add(Kind::Stale, &[operation], text);
    }
}

/// What a page or a delivery must show.
struct Shown<'a> {
    operation: &'a Operation,
    events: &'a [Seen],
    /// What can be shown, in the order in which it must be.
    candidates: Vec<usize>,
    /// What was hidden before this moment must not be shown.
    hidden_before: usize,
    /// What was hidden before this moment may be missing.
    may_hide: usize,
    /// Whether the log does not tell when events that are hidden by now were recorded, and that matters.
    by_time: bool,
}

fn check_page(
    timeline: &Timeline<'_>,
    operation: &Operation,
    read: &Read,
    (events, token, head, next): (&[Seen], Token, Token, Option<Start>),
    found: &mut Findings,
) {
    let name = operation.invoked;
    if events.len() > read.limit {
        let text = format!("#{name} asked for {} events, and was shown {}", read.limit, events.len());
        found.add(Kind::Phantom, &[operation], text);
    }
    let (from, to) = bounds(timeline, read, token, head, next);
    let mut candidates = timeline.log.of_source(&read.source, from, to);
    let revision = |at: &usize| timeline.log.entries[*at].revision;
    let forwards = read.direction == Direction::Forwards;
    if let Start::Revision(start) = read.start {
        candidates.retain(|at| if forwards { revision(at) >= start } else { revision(at) <= start });
    }
    if let Some(Start::Revision(next)) = next {
        candidates.retain(|at| if forwards { revision(at) < next } else { revision(at) > next });
    }
    if !forwards {
        candidates.reverse();
    }
    let may_hide = timeline.moment(timeline.window(operation).1);
    let hidden_before = timeline.log.moment_of(head.position);
    let by_time = matches!(read.as_of, Some(AsOf::Time(_)));
    Shown { operation, events, candidates, hidden_before, may_hide, by_time }.check(timeline, found);
}

/// The moments between which the page shows all that matches.
fn bounds(
    timeline: &Timeline<'_>,
    read: &Read,
    token: Token,
    head: Token,
    next: Option<Start>,
) -> (usize, usize) {
    let moment = |position| timeline.log.moment_of(position);
    let seen = match read.as_of {
        None => moment(head.position),
        Some(AsOf::Position(position)) => moment(position.min(head.position)),
        Some(AsOf::Time(time)) => timeline.log.moment_of_time(time).min(moment(head.position)),
    };
    let before = |token: Token| moment(Position(token.position.0.saturating_sub(1)));
    match read.direction {
        Direction::Forwards => {
            let from = if let Start::Beyond(after) = read.start { moment(after.position) } else { 0 };
            let to = match next {
                Some(Start::Beyond(last)) => moment(last.position).max(moment(token.position)),
                Some(_) => seen,
                None => seen.max(moment(token.position)),
            };
            (from, to)
        }
        Direction::Backwards => {
            let to = if let Start::Beyond(end) = read.start { before(end).min(seen) } else { seen };
            let from = if let Some(Start::Beyond(first)) = next { before(first) } else { 0 };
            (from, to)
        }
    }
}

impl Shown<'_> {
    /// Walks along what can be shown and what was.
    fn check(&self, timeline: &Timeline<'_>, found: &mut Findings) {
        let mut shown = self.events.iter().peekable();
        for &at in &self.candidates {
            let entry = &timeline.log.entries[at];
            match shown.peek() {
                Some(seen) if seen.position == entry.position => {
                    self.check_event(timeline, at, seen, found);
                    shown.next();
                }
                _ if self.may_miss(timeline, at) => {}
                _ => {
                    let author = timeline.author_of(at);
                    let text = format!(
                        "#{} was not shown position {}, written {author}, which lies within what it was shown",
                        self.operation.invoked, entry.position
                    );
                    found.add(Kind::Skipped, &[self.operation], text);
                    return;
                }
            }
        }
        if let Some(seen) = shown.next() {
            let text = format!(
                "#{} was shown position {}, which is not in the log, does not match, or is out of order there",
                self.operation.invoked, seen.position
            );
            // An event of which nobody was told, hidden since, cannot be told from one that never was.
            if !timeline.log.any_unaccounted() {
                found.add(Kind::Phantom, &[self.operation], text);
            }
        }
    }

    fn check_event(&self, timeline: &Timeline<'_>, at: usize, seen: &Seen, found: &mut Findings) {
        let (entry, name) = (&timeline.log.entries[at], self.operation.invoked);
        let same_time = entry.recorded_at.is_none_or(|time| time.0 == seen.recorded_at);
        if entry.content != seen.content || entry.revision != seen.revision || !same_time {
            let text =
                format!("#{name} was shown other content at position {} than is in the log", entry.position);
            found.add(Kind::Altered, &[self.operation], text);
        }
        let hidden_by = timeline.log.hidden_by[at];
        if hidden_by < self.hidden_before && !timeline.log.unaccounted(&entry.stream) {
            let by = timeline.log.entries[hidden_by].position;
            let text =
                format!("#{name} was shown position {}, though position {by} had hidden it", entry.position);
            found.add(Kind::Hidden, &[self.operation], text);
        }
    }

    fn may_miss(&self, timeline: &Timeline<'_>, at: usize) -> bool {
        let entry = &timeline.log.entries[at];
        timeline.log.hidden_by[at] < self.may_hide
            || (self.by_time && entry.recorded_at.is_none())
            || timeline.log.expires(&entry.stream)
            // Events that nobody knows of may have pushed it out of the stream's max_count earlier.
            || timeline.log.unaccounted(&entry.stream)
    }
}

/// A subscription, as far as it has come.
struct Subscriber<'a> {
    query: &'a Query,
    seen: Position,
    /// The operation before: what a delivery shows may have been read then.
    asked: &'a Operation,
}

impl<'a> Subscriber<'a> {
    fn check(
        &mut self,
        timeline: &Timeline<'_>,
        operation: &'a Operation,
        answer: &Answer,
        found: &mut Findings,
    ) {
        let none: &[Seen] = &[];
        let (events, to) = match answer {
            Answer::Events(events, token) => (&events[..], *token),
            Answer::LookedTo(token) => (none, *token),
            Answer::CaughtUp(token) => {
                self.check_caught_up(timeline, operation, *token, found);
                return;
            }
            _ => return,
        };
        let name = operation.invoked;
        if to.position < self.seen {
            let text = format!("#{name} was told to have come to {}, after {}", to.position, self.seen);
            found.add(Kind::Phantom, &[operation], text);
        }
        let log = &timeline.log;
        let candidates = log.matching(self.query, log.moment_of(self.seen), log.moment_of(to.position));
        let (hidden_before, _) = timeline.window(self.asked);
        let (_, may_hide) = timeline.window(operation);
        if timeline.runs_begun(log.moment_of(to.position)) > may_hide {
            let text =
                format!("#{name} was told to have come to position {}, before that was sent", to.position);
            found.add(Kind::Phantom, &[operation], text);
        }
        let (hidden_before, may_hide) = (timeline.moment(hidden_before), timeline.moment(may_hide));
        Shown { operation, events, candidates, hidden_before, may_hide, by_time: false }
            .check(timeline, found);
        (self.seen, self.asked) = (to.position, operation);
    }

    /// Whoever is told to have caught up has been shown all that was acknowledged before it asked.
    fn check_caught_up(
        &self,
        timeline: &Timeline<'_>,
        operation: &Operation,
        at: Token,
        found: &mut Findings,
    ) {
        let (first, last) = timeline.window(operation);
        let acknowledged = timeline.moment(first);
        let candidates = timeline.log.matching(self.query, timeline.log.moment_of(self.seen), acknowledged);
        let may_hide = timeline.moment(last);
        let all = Shown { operation, events: &[], candidates, hidden_before: 0, may_hide, by_time: false };
        if let Some(&missing) = all.candidates.iter().find(|at| !all.may_miss(timeline, **at)) {
            let text = format!(
                "#{} was told to have caught up at {}, but position {}, written {}, was acknowledged before it asked and not shown",
                operation.invoked,
                at.position,
                timeline.log.entries[missing].position,
                timeline.author_of(missing)
            );
            found.add(Kind::Stale, &[operation], text);
        }
    }
}
