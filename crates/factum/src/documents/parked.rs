//! Events that a projection cannot apply: set aside in the step that passes them, while other streams go on.

use super::DocumentFiller;
use crate::{
    batch::{Batch, Decoded, Filled},
    error::{Error, Result},
    event::RecordedEvent,
    handler::{Bounds, Parking, Trouble},
    position::{Position, Token},
    projection::{MultiProjection, PARKED_STREAMS},
    query::Query,
    read::Read,
    reads::Lease,
    store::EventStore,
};

/// An event that could not be applied will not be a moment later: it is tried again when somebody says so.
const BOUNDS: Bounds = Bounds { attempts: 1, keys: PARKED_STREAMS, letters: 100 * PARKED_STREAMS };

/// Events of one stream that are tried again at once.
const RETRIED: usize = 100;

/// Records, as they can be dealt with.
struct Part {
    /// Those to apply.
    free: Vec<RecordedEvent>,
    /// Those that wait behind another of their stream.
    held: Vec<RecordedEvent>,
    /// Whether there are others, which can neither be applied nor set aside.
    is_cut: bool,
}

impl Part {
    fn of(records: Vec<RecordedEvent>, parking: &Parking, is_full: bool) -> Self {
        let mut part = Self { free: Vec::new(), held: Vec::new(), is_cut: false };
        for record in records {
            match parking.holds(record.stream.as_str()) {
                false => part.free.push(record),
                true if is_full => return Self { is_cut: true, ..part },
                true => part.held.push(record),
            }
        }
        part
    }

    /// Queues those that come before a place, and says where the last of them is.
    fn queue(&mut self, before: Position, parking: &mut Parking) -> Option<Position> {
        let count = self.held.partition_point(|record| record.position < before);
        let queued = self.held.drain(..count).inspect(|record| parking.queue(record, key_of(record)));
        queued.last().map(|record| record.position)
    }

    /// All of them after a place, in their order.
    fn after(self, place: Position) -> Vec<RecordedEvent> {
        let all = self.free.into_iter().chain(self.held);
        let mut rest: Vec<_> = all.filter(|record| record.position > place).collect();
        rest.sort_by_key(|record| record.position);
        rest
    }
}

fn key_of(record: &RecordedEvent) -> String {
    record.stream.as_str().to_owned()
}

/// What is the matter with an event; `None` if it is the rows that are at fault.
fn trouble_of(problem: &Error, undecodable: bool) -> Option<Trouble> {
    match problem {
        _ if undecodable => Some(Trouble::Undecodable(problem.to_string())),
        Error::Corrupt(_) => None,
        _ => Some(Trouble::refused(problem)),
    }
}

impl<P: MultiProjection> DocumentFiller<P> {
    async fn take_parking(&mut self) -> Result<Parking> {
        match self.parking.take() {
            Some(parking) => Ok(parking),
            None => Parking::load(P::NAME, BOUNDS, &*self.reads, P::NAME, self.generation).await,
        }
    }

    /// Stores rows and what is set aside, in one step.
    async fn store(
        &mut self,
        lease: &Lease,
        (from, to): (Option<Token>, Token),
        rows: super::Changed,
        parking: &mut Parking,
    ) -> Result<()> {
        self.commit(lease, from, to, rows, parking.changes()?).await?;
        parking.stored();
        Ok(())
    }

    /// Applies what can be applied, and sets the rest aside.
    pub(super) async fn fill_or_park(&mut self, lease: &Lease, batch: Batch) -> Result<Filled> {
        let mut parking = self.take_parking().await?;
        let filled = self.fill_beside(lease, batch, &mut parking).await?;
        self.parking = Some(parking);
        Ok(filled)
    }

    async fn fill_beside(&mut self, lease: &Lease, batch: Batch, parking: &mut Parking) -> Result<Filled> {
        let (mut from, to) = (batch.from, batch.to);
        // `None`: all of the batch, and nothing is set aside. What others have decoded need not be decoded again.
        let mut rest = (!parking.is_empty()).then(|| batch.records());
        loop {
            let full = parking.is_full();
            let part = rest.take().map(|rest| Part::of(rest, parking, full.is_some()));
            let decoded = part.as_ref().map_or_else(|| batch.decode(), |part| Decoded::of(part.free.clone()));
            let (mut plan, rows) = self.work(decoded).await?;
            let (count, undecodable) = (plan.records, plan.records == plan.decoded.len());
            let mut part = match (part, &plan.problem) {
                (Some(part), _) => part,
                (None, Some(_)) => Part::of(batch.records(), parking, false),
                (None, None) => Part::of(Vec::new(), parking, false),
            };
            let last =
                count.checked_sub(1).and_then(|last| part.free.get(last)).map(|record| record.position);
            let failed =
                plan.problem.take().and_then(|problem| Some((part.free.get(count)?.clone(), problem)));
            let (end, problem) = match (failed, full) {
                (None, None) => {
                    part.queue(Position(u64::MAX), parking);
                    self.store(lease, (from, to), rows, parking).await?;
                    return Ok(Filled { checkpoint: Some(to), problem: None });
                }
                (None, Some(_)) if !part.is_cut => {
                    self.store(lease, (from, to), rows, parking).await?;
                    return Ok(Filled { checkpoint: Some(to), problem: None });
                }
                (None, Some(full)) => (last, full),
                (Some((record, problem)), full) => {
                    let queued = part.queue(record.position, parking);
                    match (trouble_of(&problem, undecodable), full) {
                        (Some(trouble), None) => {
                            tracing::warn!(model = P::NAME, %trouble, "an event is set aside");
                            parking.set_aside(&record, key_of(&record), &trouble);
                            let end = to.log.at(record.position);
                            self.store(lease, (from, end), rows, parking).await?;
                            (from, rest) = (Some(end), Some(part.after(record.position)));
                            continue;
                        }
                        (Some(_), Some(full)) => (last.max(queued), full),
                        (None, _) => (last.max(queued), problem),
                    }
                }
            };
            let checkpoint = end.map(|end| to.log.at(end)).or(from);
            if let (Some(end), true) = (checkpoint, end.is_some()) {
                self.store(lease, (from, end), rows, parking).await?;
            }
            return Ok(Filled { checkpoint, problem: Some(problem) });
        }
    }

    /// Tries what is set aside again, stream by stream, up to the first event of each that still cannot be applied.
    pub(super) async fn redrive(&mut self, lease: &Lease, at: Token, log: &dyn EventStore) -> Result<()> {
        let mut parking = self.take_parking().await?;
        for key in parking.keys() {
            while let Some(first) = parking.places(&key).first() {
                // By a query: a stream that is tombstoned has no events, and is no error.
                let stream = Query::stream(crate::StreamName::new(key.clone())?);
                let before = at.log.at(Position(first.0.saturating_sub(1)));
                let page = log.read(Read::query(stream).beyond(before).limit(RETRIED)).await?;
                let seen = match (&page.next, page.events.last()) {
                    (Some(_), Some(last)) => last.position,
                    // It has looked over what is hidden, and is not at the end.
                    (Some(_), None) => page.token.position,
                    (None, _) => Position(u64::MAX),
                };
                let places = parking.places(&key);
                let set_aside = |record: &RecordedEvent| places.binary_search(&record.position).is_ok();
                let records: Vec<_> = page.events.into_iter().filter(set_aside).collect();
                let (mut plan, rows) = self.work(Decoded::of(records.clone())).await?;
                let (count, undecodable) = (plan.records, plan.records == plan.decoded.len());
                let failed = plan.problem.take().and_then(|problem| Some((records.get(count)?, problem)));
                let end = failed.as_ref().map_or(seen, |(record, _)| Position(record.position.0 - 1));
                // Also those that are hidden by now, which nobody would make anything of.
                places.iter().filter(|place| **place <= end).for_each(|place| parking.remove(*place));
                if let Some((record, problem)) = &failed {
                    let trouble =
                        trouble_of(problem, undecodable).unwrap_or_else(|| Trouble::refused(problem));
                    parking.failed(record.position, &trouble);
                }
                self.store(lease, (Some(at), at), rows, &mut parking).await?;
                if failed.is_some() {
                    break;
                }
            }
        }
        self.parking = Some(parking);
        Ok(())
    }
}
