//! The list of what is due: a read model of the log, sorted by time.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    aggregate::EventSet,
    batch::{Batch, Filled},
    consumer::{Filler, Form},
    error::{Error, Result},
    event::RecordedEvent,
    name::StreamName,
    position::Token,
    query::Query,
    reads::{Lease, ReadStore, Step},
    time::Timestamp,
};

/// How an event changes the timers of its stream: each by its id, with the moment at which it is or was due.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Changes {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) on: Vec<(String, Timestamp)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) off: Vec<(String, Timestamp)>,
}

impl Changes {
    pub(crate) fn is_empty(&self) -> bool {
        self.on.is_empty() && self.off.is_empty()
    }
}

/// A timer that is set, as the list has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Due {
    pub(crate) stream: StreamName,
    pub(crate) id: String,
    pub(crate) at: Timestamp,
}

impl Due {
    /// Sorts by time: what comes before the year 1970, too.
    fn key(&self) -> String {
        let sortable = self.at.0.cast_unsigned() ^ (1 << 63);
        format!("{sortable:020}/{}/{}", self.stream, self.id)
    }
}

/// What the list keeps of an event.
struct Change {
    stream: StreamName,
    timers: Changes,
}

#[derive(Deserialize)]
struct WithTimers {
    #[serde(default)]
    timers: Changes,
}

impl EventSet for Change {
    fn query() -> Result<Query> {
        Ok(Query::all())
    }

    fn is_for(_: &RecordedEvent) -> bool {
        true
    }

    fn decode_each(record: &RecordedEvent, each: &mut dyn FnMut(Self)) -> Result<()> {
        let WithTimers { timers } = record.json()?;
        each(Self { stream: record.stream.clone(), timers });
        Ok(())
    }
}

/// The list as what the runtime keeps up to date. Its rows are never read for that: an event says all.
pub(crate) struct DueList {
    pub(crate) name: String,
    pub(crate) query: Query,
    pub(crate) reads: Arc<dyn ReadStore>,
}

impl DueList {
    /// Up to `limit` timers after a key, in the order of time.
    pub(crate) async fn page(
        name: &str,
        reads: &dyn ReadStore,
        after: Option<String>,
        limit: usize,
    ) -> Result<Vec<(String, Due)>> {
        let rows = reads.page(name, after, limit).await?.rows;
        let due = |(key, row): (String, String)| {
            let due = serde_json::from_str(&row);
            let due =
                due.map_err(|e| Error::invalid(format!("the row `{key}` of `{name}`"), e.to_string()))?;
            Ok((key, due))
        };
        rows.into_iter().map(due).collect()
    }
}

impl Form for DueList {
    fn name(&self) -> &str {
        &self.name
    }

    fn version(&self) -> u32 {
        1
    }

    fn query(&self) -> Result<Query> {
        Ok(self.query.clone())
    }

    fn reads(&self) -> &dyn ReadStore {
        &*self.reads
    }

    fn filler(&self, generation: u32) -> Box<dyn Filler> {
        Box::new(DueFiller { reads: self.reads.clone(), generation })
    }
}

struct DueFiller {
    reads: Arc<dyn ReadStore>,
    generation: u32,
}

#[async_trait]
impl Filler for DueFiller {
    async fn fill(&mut self, lease: &Lease, batch: Batch) -> Result<Filled> {
        let (decoded, mut rows) = (batch.decode::<Change>(), std::collections::BTreeMap::new());
        for n in 0..decoded.len() {
            for change in decoded.events(n) {
                let Change { stream, timers } = &change.event;
                let due =
                    |(id, at): &(String, Timestamp)| Due { stream: stream.clone(), id: id.clone(), at: *at };
                rows.extend(timers.off.iter().map(|timer| (due(timer).key(), None)));
                for timer in &timers.on {
                    let due = due(timer);
                    let row = serde_json::to_string(&due);
                    let row = row.map_err(|e| Error::invalid("a timer", e.to_string()))?;
                    rows.insert(due.key(), Some(row));
                }
            }
        }
        let problem = decoded.problem.clone();
        let checkpoint = match problem {
            None => Some(batch.to),
            Some(_) => decoded.checkpoint_after(decoded.len(), batch.from, batch.to),
        };
        if let Some(to) = checkpoint.filter(|_| problem.is_none() || !decoded.is_empty()) {
            let rows = rows.into_iter().collect();
            let step = Step { generation: self.generation, from: batch.from, to, rows, letters: Vec::new() };
            self.reads.commit(lease, step).await?;
        }
        Ok(Filled { checkpoint, problem })
    }
}

/// What happens when a timer is due.
#[async_trait]
pub(crate) trait Fire: Send + Sync + 'static {
    /// Records that it was due, unless that is recorded or it was stopped: then there is nothing to do.
    async fn fire(&self, due: &Due) -> Result<Fired, crate::handler::Trouble>;
}

/// What came of setting a timer off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Fired {
    /// Whether it was recorded at this moment.
    pub(crate) now: bool,
    /// The log up to here says that the timer is not set. If a list that has come so far has it, then it was set again.
    pub(crate) off: Token,
}

impl Fired {
    /// It is recorded, there.
    pub(crate) fn at(off: Token) -> Self {
        Self { now: true, off }
    }

    /// There is nothing to do, by the log up to there.
    pub(crate) fn before(off: Token) -> Self {
        Self { now: false, off }
    }
}
