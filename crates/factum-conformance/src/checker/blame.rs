//! Who wrote what, and when that can have been.

use std::collections::{HashMap, HashSet};

use factum::{LogIdentity, Placed, Position, Revision, StreamName};
use uuid::Uuid;

use super::{
    FinalLog, Findings, Kind,
    log::{Entry, Log, NEVER},
};
use crate::history::{self, History, Operation, Sent};

/// The log, divided into the appends that wrote it, each with the instants between which it took effect.
#[derive(Debug)]
pub(super) struct Timeline<'a> {
    pub(super) history: &'a History,
    pub(super) log: Log,
    /// Which log it is.
    pub(super) identity: Option<LogIdentity>,
    /// Where the final log ends; there may be no event there.
    pub(super) head: Position,
    by_id: HashMap<(StreamName, Uuid), usize>,
    /// The moment at which each run ends.
    ends: Vec<usize>,
    /// The operation that wrote each run.
    pub(super) authors: Vec<Option<&'a Operation>>,
    /// Where nobody was told, every operation that may have written the run; sorted by run.
    rivals: Vec<(usize, &'a Operation)>,
    /// The run of each entry.
    run_of: Vec<usize>,
    /// No run took effect before this instant.
    earliest: Vec<u64>,
    /// Every run had taken effect at this instant.
    latest: Vec<u64>,
}

/// What is known of who sent one entry.
#[derive(Clone, Debug, Default)]
struct Claims<'a> {
    /// Was told that it was new.
    author: Option<&'a Operation>,
    /// Were told nothing, and each of them may have written it.
    maybe: Vec<&'a Operation>,
    /// Was the first to be told that it is there.
    witness: Option<&'a Operation>,
    /// Was told that it had been there before.
    replay: Option<&'a Operation>,
    /// Was told that it did not happen.
    refused: Option<&'a Operation>,
    /// Sent the same id with other content, and was not refused.
    altered: Option<&'a Operation>,
    /// Sent it in an append of which only a part is in the log.
    torn: Option<&'a Operation>,
}

impl<'a> Claims<'a> {
    /// Of those who may have written it, the one whose append explains the most of the log.
    fn likeliest(&self) -> Option<&'a Operation> {
        let events = |operation: &&Operation| operation.append().map_or(0, |(events, _)| events.len());
        self.maybe.iter().rev().copied().max_by_key(events)
    }
}

impl<'a> Timeline<'a> {
    pub(super) fn new(history: &'a History, log: &FinalLog, found: &mut Findings) -> Self {
        let (head, identity, written) = (log.head, log.log, &log.written);
        let mut log = with_hidden(history, log);
        check_log(&mut log, head, written, found);
        let by_id = index_ids(&log, found);
        let mut timeline = Self {
            history,
            head,
            identity,
            log,
            by_id,
            ends: Vec::new(),
            authors: Vec::new(),
            rivals: Vec::new(),
            run_of: Vec::new(),
            earliest: Vec::new(),
            latest: Vec::new(),
        };
        let claims = timeline.claims(found);
        timeline.divide(&claims, found);
        timeline.date(&claims, found);
        timeline
    }

    /// Where an event is in the log.
    pub(super) fn find(&self, sent: &Sent) -> Option<usize> {
        self.by_id.get(&(sent.stream.clone(), sent.id.0)).copied()
    }

    /// Whether the entry is what was sent.
    pub(super) fn same(&self, at: usize, sent: &Sent) -> bool {
        self.log.entries[at].content == sent.content
    }

    /// The moments that a client can have met who asked at `invoked` and was answered at `completed`: one after each run
    /// from the first number to the last.
    pub(super) fn window(&self, operation: &Operation) -> (usize, usize) {
        let first = self.latest.partition_point(|instant| *instant < operation.invoked);
        let last = self.earliest.partition_point(|instant| *instant < operation.completed);
        (first.min(last), last.max(first))
    }

    /// The moment after so many runs.
    pub(super) fn moment(&self, runs: usize) -> usize {
        runs.checked_sub(1).map_or(0, |last| self.ends[last])
    }

    /// The number of runs that a moment has seen begin.
    pub(super) fn runs_begun(&self, moment: usize) -> usize {
        moment.checked_sub(1).map_or(0, |last| self.run_of[last] + 1)
    }

    /// The run that an entry is in.
    pub(super) fn run(&self, at: usize) -> usize {
        self.run_of[at]
    }

    /// Everyone who may have written a run.
    pub(super) fn suspects(&self, run: usize) -> impl Iterator<Item = &'a Operation> {
        let first = self.rivals.partition_point(|(of, _)| *of < run);
        let rivals =
            self.rivals[first..].iter().take_while(move |(of, _)| *of == run).map(|(_, rival)| *rival);
        self.authors[run].into_iter().chain(rivals)
    }

    /// The operation that wrote an entry, as a text.
    pub(super) fn author_of(&self, at: usize) -> String {
        let author = self.authors[self.run_of[at]];
        author.map_or_else(
            || "by an append that was not recorded".to_owned(),
            |author| format!("by #{}", author.invoked),
        )
    }

    /// Looks at every append, and notes for each entry who can have written it.
    fn claims(&self, found: &mut Findings) -> Vec<Claims<'a>> {
        let mut claims = vec![Claims::default(); self.log.entries.len()];
        for operation in &self.history.operations {
            let Some((sent, _)) = operation.append() else { continue };
            let places: Vec<Option<usize>> = sent.iter().map(|sent| self.find(sent)).collect();
            if let Some((acknowledged, replayed)) = operation.acknowledged() {
                self.check_places(operation, acknowledged, &places, found);
                if !replayed {
                    self.check_run(operation, &places, found);
                }
            }
            let complete = is_run(&places) || (operation.is_unknown() && self.excused(operation));
            for (sent, at) in sent.iter().zip(&places) {
                let Some(at) = *at else { continue };
                note(&mut claims[at], operation, self.same(at, sent), complete, found);
            }
        }
        claims
    }

    /// Whether acknowledged events are where they were said to be, with the content that was sent.
    fn check_places(
        &self,
        operation: &Operation,
        acknowledged: &[Placed],
        places: &[Option<usize>],
        found: &mut Findings,
    ) {
        let Some((sent, _)) = operation.append() else { return };
        let name = operation.invoked;
        if acknowledged.len() != sent.len() {
            let text =
                format!("#{name} sent {} events, and was told {} places", sent.len(), acknowledged.len());
            found.add(Kind::Moved, &[operation], text);
        }
        for ((sent, said), at) in sent.iter().zip(acknowledged).zip(places) {
            let Sent { id, stream, .. } = sent;
            let Some(at) = *at else {
                let text = format!(
                    "event {id} of `{stream}`, acknowledged to #{name} at position {}, is not in the log",
                    said.position
                );
                found.add(Kind::LostAck, &[operation], text);
                continue;
            };
            let Entry { position, revision, .. } = self.log.entries[at];
            if (position, revision) != (said.position, said.revision) {
                let text = format!(
                    "event {id} of `{stream}` was acknowledged to #{name} at position {} and revision {}, but stands at position {position} and revision {revision}",
                    said.position, said.revision
                );
                found.add(Kind::Moved, &[operation], text);
            }
            if !self.same(at, sent) {
                let text = format!(
                    "event {id} of `{stream}`, acknowledged to #{name}, stands at position {position} with other content than was sent"
                );
                found.add(Kind::Altered, &[operation], text);
            }
        }
    }

    /// Whether the events of an append stand in the log as one run in the order given.
    fn check_run(&self, operation: &Operation, places: &[Option<usize>], found: &mut Findings) {
        let all: Option<Vec<usize>> = places.iter().copied().collect();
        let Some(all) = all else { return };
        if let Some(gap) = all.windows(2).find(|pair| pair[1] != pair[0] + 1) {
            let (before, after) = (self.log.entries[gap[0]].position, self.log.entries[gap[1]].position);
            let text = format!(
                "#{} was acknowledged as one append, but its events at positions {before} and {after} do not follow each other in the log",
                operation.invoked
            );
            found.add(Kind::Torn, &[operation], text);
        }
    }

    /// Divides the log into runs of the same author, and reports entries that have none.
    fn divide(&mut self, claims: &[Claims<'a>], found: &mut Findings) {
        for (at, claim) in claims.iter().enumerate() {
            let author = claim.author.or_else(|| claim.likeliest());
            if author.is_none() && self.is_new(at) {
                self.report_stray(at, claim, found);
            }
            let same = matches!((author, self.authors.last()), (Some(this), Some(Some(last))) if std::ptr::eq(this, *last));
            if same {
                if let Some(end) = self.ends.last_mut() {
                    *end = at + 1;
                }
            } else {
                self.authors.push(author);
                self.ends.push(at + 1);
            }
            self.run_of.push(self.ends.len() - 1);
        }
    }

    /// Whether the entry was written while the history was recorded, and is not the second of two.
    fn is_new(&self, at: usize) -> bool {
        let Entry { position, stream, id, .. } = &self.log.entries[at];
        *position > self.history.base && self.by_id.get(&(stream.clone(), *id)) == Some(&at)
    }

    fn report_stray(&self, at: usize, claim: &Claims<'a>, found: &mut Findings) {
        let Entry { position, id, stream, .. } = &self.log.entries[at];
        let event = format!("event {id} of `{stream}` at position {position}");
        let (kind, operation, why) = if let Some(torn) = claim.torn {
            (
                Kind::Torn,
                Some(torn),
                "is in the log, but not all of the append that sent it, as one run in the order given",
            )
        } else if let Some(operation) = claim.altered {
            (Kind::Altered, Some(operation), "is not what was sent with that id")
        } else if let Some(operation) = claim.refused {
            (
                Kind::RefusedYetRecorded,
                Some(operation),
                "is in the log, though the store said that it did not happen",
            )
        } else if let Some(operation) = claim.replay {
            (Kind::Replay, Some(operation), "was acknowledged as a replay, though nobody had sent it before")
        } else {
            (Kind::Invented, None, "was sent by nobody")
        };
        let sender = operation.map(|operation| format!(" (#{})", operation.invoked)).unwrap_or_default();
        let operations: Vec<&Operation> = operation.into_iter().collect();
        found.add(kind, &operations, format!("{event} {why}{sender}"));
    }

    /// Whether the rest of a torn append may be among events that are hidden by now.
    fn excused(&self, operation: &Operation) -> bool {
        let Some((sent, _)) = operation.append() else { return false };
        sent.iter().any(|sent| self.find(sent).is_none() && self.log.unaccounted(&sent.stream))
    }

    /// Between which instants each run took effect; reports runs for which there is no such instant.
    fn date(&mut self, claims: &[Claims<'a>], found: &mut Findings) {
        let runs = self.ends.len();
        let (mut sent, mut told) = (Vec::with_capacity(runs), Vec::with_capacity(runs));
        for run in 0..runs {
            let first = self.moment(run);
            let before = self.log.entries[first].position <= self.history.base && self.authors[run].is_none();
            let witnesses = claims[first..self.ends[run]].iter().filter_map(|claim| claim.witness);
            let witness = witnesses.map(|witness| witness.completed).min();
            let claim = &claims[first];
            let maybe = claim.maybe.iter().filter(|_| claim.author.is_none()).copied();
            let since = self.authors[run].into_iter().chain(maybe.clone()).map(|author| author.invoked).min();
            sent.push(since.unwrap_or(0));
            self.rivals.extend(maybe.map(|rival| (run, rival)));
            told.push(if before { 0 } else { witness.unwrap_or(history::NEVER) });
        }
        self.earliest.clone_from(&sent);
        self.latest.clone_from(&told);
        let mut last_sent = 0;
        for run in 0..runs {
            if sent[run] >= sent[last_sent] {
                last_sent = run;
            }
            self.earliest[run] = sent[last_sent];
            if told[run] < sent[last_sent] {
                self.report_order(run, last_sent, found);
            }
        }
        for run in (0..runs.saturating_sub(1)).rev() {
            self.latest[run] = self.latest[run].min(self.latest[run + 1]);
        }
    }

    fn report_order(&self, early: usize, late: usize, found: &mut Findings) {
        let (Some(early_by), Some(late_by)) = (self.authors[early], self.authors[late]) else { return };
        let at = |run| self.log.entries[self.moment(run)].position;
        let text = format!(
            "#{} was acknowledged before #{} was sent, yet it stands after it in the log, at position {} behind {}",
            early_by.invoked,
            late_by.invoked,
            at(early),
            at(late)
        );
        found.add(Kind::Order, &[early_by, late_by], text);
    }
}

/// Notes what one append says about one entry.
fn note<'a>(
    claim: &mut Claims<'a>,
    operation: &'a Operation,
    same: bool,
    complete: bool,
    found: &mut Findings,
) {
    let witness = |claim: &mut Claims<'a>| {
        if claim.witness.is_none_or(|first| operation.completed < first.completed) {
            claim.witness = Some(operation);
        }
    };
    match operation.acknowledged() {
        Some((_, false)) => {
            if let Some(other) = claim.author {
                let text = format!(
                    "#{} and #{} sent the same events, and both were told that they are new",
                    other.invoked, operation.invoked
                );
                found.add(Kind::Replay, &[other, operation], text);
            }
            claim.author = Some(operation);
            witness(claim);
        }
        Some((_, true)) => {
            claim.replay.get_or_insert(operation);
            witness(claim);
        }
        None if operation.is_unknown() && !same => {
            claim.altered.get_or_insert(operation);
        }
        None if operation.is_unknown() && complete => {
            claim.maybe.push(operation);
        }
        None if operation.is_unknown() => {
            claim.torn.get_or_insert(operation);
        }
        None if same => {
            claim.refused.get_or_insert(operation);
        }
        None => {}
    }
}

fn is_run(places: &[Option<usize>]) -> bool {
    places
        .first()
        .copied()
        .flatten()
        .is_some_and(|first| places.iter().zip(first..).all(|(at, next)| *at == Some(next)))
}

/// The log with what is hidden by now, as far as anyone was told of it.
fn with_hidden(history: &History, log: &FinalLog) -> Log {
    let mut entries = log.entries.clone();
    let told = hidden_by_now(history, log);
    if told.is_empty() {
        return Log::new(entries);
    }
    let mut all = entries.clone();
    all.extend(told.into_values());
    all.sort_by_key(|entry| entry.position);
    let tried = Log::new(all);
    // What nothing hides should be there: it is lost, not hidden.
    entries = tried
        .entries
        .iter()
        .zip(&tried.hidden_by)
        .filter(|(entry, by)| entry.recorded_at.is_some() || **by != NEVER || tried.expires(&entry.stream))
        .map(|(entry, _)| entry.clone())
        .collect();
    Log::new(entries)
}

/// What acknowledgements and readers tell of events that are not in the log any more.
fn hidden_by_now(history: &History, log: &FinalLog) -> HashMap<Position, Entry> {
    let standing: HashSet<Position> = log.entries.iter().map(|entry| entry.position).collect();
    let hides = log.entries.iter().any(|entry| entry.change.is_some());
    let (mut told, mut by_content) = (HashMap::new(), HashMap::new());
    for operation in &history.operations {
        let Some((sent, _)) = operation.append() else { continue };
        if hides {
            by_content.extend(sent.iter().map(|sent| (sent.content, sent)));
        }
        let places = operation.acknowledged().map_or(&[][..], |(places, _)| places);
        for (sent, place) in sent.iter().zip(places).filter(|(_, place)| !standing.contains(&place.position))
        {
            told.entry(place.position).or_insert_with(|| Entry::acknowledged(sent, *place));
        }
    }
    if hides {
        // An append of which nobody was told may have been seen before it was hidden.
        for seen in history.operations.iter().flat_map(Operation::shown) {
            let place = Placed { position: seen.position, revision: seen.revision };
            match by_content.get(&seen.content) {
                Some(sent) if !standing.contains(&seen.position) => {
                    told.entry(seen.position).or_insert_with(|| Entry::acknowledged(sent, place));
                }
                _ => {}
            }
        }
    }
    told
}

/// Whether positions, revisions and times grow, and nothing that is hidden is shown.
fn check_log(log: &mut Log, head: Position, written: &[(StreamName, Revision)], found: &mut Findings) {
    for (at, missing) in log.missing_revisions(written) {
        let Entry { stream, position, revision, .. } = &log.entries[at];
        let text = format!(
            "the event at position {position} has revision {revision} of `{stream}`, where {missing} was next"
        );
        found.add(Kind::Log, &[], text);
    }
    for pair in log.entries.windows(2) {
        let (before, after) = (&pair[0], &pair[1]);
        if after.position <= before.position {
            let text =
                format!("the log shows position {} after position {}", after.position, before.position);
            found.add(Kind::Log, &[], text);
        }
        if let (Some(earlier), Some(later)) = (before.recorded_at, after.recorded_at)
            && later < earlier
        {
            let text = format!(
                "position {} was recorded at {later}, before position {} at {earlier}",
                after.position, before.position
            );
            found.add(Kind::Log, &[], text);
        }
    }
    if let Some(last) = log.entries.last().filter(|last| last.position > head) {
        found.add(
            Kind::Log,
            &[],
            format!("the log holds position {}, past its head at {head}", last.position),
        );
    }
    for (entry, by) in log.entries.iter().zip(&log.hidden_by) {
        if entry.recorded_at.is_some() && *by != NEVER && !log.unaccounted(&entry.stream) {
            let Entry { position, stream, revision, .. } = entry;
            let by = log.entries[*by].position;
            let text = format!(
                "revision {revision} of `{stream}` at position {position} is shown, though position {by} hid it"
            );
            found.add(Kind::Hidden, &[], text);
        }
    }
}

/// Where each id is; reports those that are there twice.
fn index_ids(log: &Log, found: &mut Findings) -> HashMap<(StreamName, Uuid), usize> {
    let mut by_id = HashMap::with_capacity(log.entries.len());
    for (at, Entry { stream, id, position, .. }) in log.entries.iter().enumerate() {
        let first = *by_id.entry((stream.clone(), *id)).or_insert(at);
        if first != at {
            let first = log.entries[first].position;
            let text =
                format!("event {id} of `{stream}` is in the log twice, at positions {first} and {position}");
            found.add(Kind::Duplicate, &[], text);
        }
    }
    by_id
}
