//! `factum-log`, the engine that all this is about.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use factum::{
    Append, Delivery, Error, EventStore, ExpectedRevision, LogIdentity, NewEvent, Position, Query, Read,
    Revision, StreamName, Tags, subscribe,
};
use factum_log::{LogStore, Options};
use tokio::runtime::Runtime;

use crate::{
    limit::{Trace, Traced},
    peer::{Answer, Batch, Condition, Fact, Failure, Peer, Pending, Seen, Store, broken, stream_of},
};

/// Pages of a scan and of a subscription.
const PAGE: usize = 1000;

/// The peer.
pub struct FactumLog;

struct Open {
    store: LogStore,
    log: LogIdentity,
    disk: Traced,
    /// Reads are handed to this runtime's blocking threads.
    runtime: Runtime,
}

impl Peer for FactumLog {
    fn name(&self) -> &'static str {
        "factum"
    }

    fn about(&self) -> &'static str {
        "factum-log, the defaults; threads wait with a bare block_on, reads go through `EventStore::read`"
    }

    fn open(&self, directory: &Path) -> Result<Arc<dyn Store>, Failure> {
        let disk = Traced::at(directory);
        let store = Options::new(directory).open_on(Arc::new(disk.clone())).map_err(broken)?;
        let log = pollster::block_on(store.head()).map_err(broken)?.token.log;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_time()
            .build()
            .map_err(broken)?;
        Ok(Arc::new(Open { store, log, disk, runtime }))
    }
}

/// An append in factum's words.
fn append_of(batch: &Batch, log: LogIdentity) -> factum::Result<Append> {
    let stream = StreamName::new(stream_of(batch.entity))?;
    let event = |fact: Fact, tags| {
        let event = NewEvent::bytes(fact.name, Bytes::copy_from_slice(fact.data))?.with_tags(tags);
        Ok((fact.entity, event))
    };
    let mut events = batch.with_tags(Tags::new, event)?.into_iter();
    let append = match batch.spread {
        false => Append::to(stream.clone(), events.map(|(_, event)| event)),
        true => events.try_fold(Append::new(), |append, (entity, event)| {
            Ok::<_, Error>(append.write(StreamName::new(stream_of(entity))?, [event]))
        })?,
    };
    Ok(match &batch.condition {
        Condition::None => append,
        Condition::Revision { events: 0, .. } => append.expect(stream, ExpectedRevision::NoStream),
        Condition::Revision { events, .. } => {
            append.expect(stream, ExpectedRevision::Exact(Revision(events - 1)))
        }
        Condition::Tags { any_of, after } => append.expect_none(query_of(any_of)?, log.at(Position(*after))),
    })
}

fn query_of(any_of: &[String]) -> factum::Result<Query> {
    let mut query = Query { any_of: Vec::new() };
    for tag in any_of {
        query = query.or(Query::tags([tag])?);
    }
    Ok(query)
}

fn answer(result: factum::Result<factum::Appended>) -> Answer {
    match result {
        Ok(appended) => Ok(appended.token.position.0),
        Err(Error::Conflict(_)) => Err(Failure::Conflict),
        Err(error) => Err(broken(error)),
    }
}

impl Open {
    fn read_all(&self, mut read: Read) -> Result<Seen, Failure> {
        self.runtime.block_on(async {
            let mut seen = Seen::default();
            loop {
                let page = self.store.read(read.clone()).await.map_err(broken)?;
                page.events.iter().for_each(|event| seen.look(&event.data));
                seen.upto = page.token.position.0;
                match page.next {
                    Some(start) => read.start = start,
                    None => return Ok(seen),
                }
            }
        })
    }
}

impl Store for Open {
    fn append(&self, batch: Batch) -> Answer {
        let append = append_of(&batch, self.log).map_err(broken)?;
        answer(pollster::block_on(self.store.append(append)))
    }

    fn append_in_task(self: Arc<Self>, batch: Batch) -> Pending {
        Box::pin(async move {
            let append = append_of(&batch, self.log).map_err(broken)?;
            answer(self.store.append(append).await)
        })
    }

    fn read_entity(&self, entity: u64) -> Result<Seen, Failure> {
        self.read_all(Read::stream(StreamName::new(stream_of(entity)).map_err(broken)?).limit(PAGE))
    }

    fn read_tags(&self, any_of: &[String]) -> Result<Seen, Failure> {
        self.read_all(Read::query(query_of(any_of).map_err(broken)?).limit(PAGE))
    }

    fn scan(&self, event_type: Option<&str>) -> Result<Seen, Failure> {
        let read = match event_type {
            None => Read::all(),
            Some(name) => Read::query(Query::types([name]).map_err(broken)?),
        };
        self.read_all(read.limit(PAGE))
    }

    fn follow(&self, each: &mut dyn FnMut(&[u8]) -> bool) -> Result<(), Failure> {
        let store: Arc<dyn EventStore> = Arc::new(self.store.clone());
        self.runtime.block_on(async {
            let mut subscription = subscribe(store, Query::all(), None).await.map_err(broken)?;
            loop {
                if let Delivery::Events { events, .. } = subscription.next().await.map_err(broken)? {
                    for event in events {
                        if !each(&event.data) {
                            return Ok(());
                        }
                    }
                }
            }
        })
    }

    fn trace(&self) -> Option<Trace> {
        Some(self.disk.trace())
    }

    fn close(&self) -> Result<(), Failure> {
        self.runtime.block_on(self.store.close()).map_err(broken)
    }
}
