//! `tephra`, embedded: its writer thread, its blocking `append` in threads and its `append_async` in tasks.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use tephra::{
    AppendCondition, AppendError, Event, EventType, Position, PositionRange, Query, QueryItem, SegmentConfig,
    SegmentSet, Tag, Tags, WriteCoordinator, WriteHandle, WriterConfig,
};

use crate::peer::{Answer, Batch, Condition, Failure, Peer, Pending, Seen, Store, broken, tag_of};

/// The peer.
pub struct Tephra;

struct Open {
    handle: WriteHandle,
    coordinator: Mutex<Option<WriteCoordinator>>,
}

impl Peer for Tephra {
    fn name(&self) -> &'static str {
        "tephra"
    }

    fn about(&self) -> &'static str {
        "tephra 0.4.1 embedded, its defaults, segments of 256 MiB as in its README; streams are tags"
    }

    fn open(&self, directory: &Path) -> Result<Arc<dyn Store>, Failure> {
        let set = SegmentSet::open(directory, SegmentConfig::new(256 << 20)).map_err(broken)?;
        let (coordinator, handle) = WriteCoordinator::start(set, WriterConfig::default()).map_err(broken)?;
        Ok(Arc::new(Open { handle, coordinator: Mutex::new(Some(coordinator)) }))
    }
}

fn events_of(batch: &Batch) -> Result<Vec<Event>, Failure> {
    let tags = |tags: Vec<String>| {
        let tags = tags.into_iter().map(Tag::new).collect::<Result<Vec<_>, _>>().map_err(broken)?;
        Tags::new(tags).map_err(broken)
    };
    batch.with_tags(tags, |fact, tags| {
        Event::new(&EventType::new(fact.name).map_err(broken)?, &tags, fact.data).map_err(broken)
    })
}

fn condition_of(batch: &Batch) -> Result<Option<AppendCondition>, Failure> {
    let (query, after) = match &batch.condition {
        Condition::None => return Ok(None),
        Condition::Revision { after, .. } => (query_of(&[tag_of(batch.entity)])?, after),
        Condition::Tags { any_of, after } => (query_of(any_of)?, after),
    };
    Ok(Some(AppendCondition::new(query).after(Position::new(*after))))
}

fn query_of(any_of: &[String]) -> Result<Query, Failure> {
    let item = |tag: &String| {
        let tags = Tags::new([Tag::new(tag.as_str()).map_err(broken)?]).map_err(broken)?;
        Ok(QueryItem::with_tags(tags))
    };
    Ok(Query::items(any_of.iter().map(item).collect::<Result<Vec<_>, Failure>>()?))
}

fn answer(result: Result<PositionRange, AppendError>) -> Answer {
    match result {
        Ok(range) => Ok(range.last.get()),
        Err(AppendError::Conflict { .. }) => Err(Failure::Conflict),
        Err(error) => Err(broken(error)),
    }
}

impl Open {
    fn read(&self, query: &Query) -> Result<Seen, Failure> {
        let mut seen = Seen::default();
        let mut reads = self.handle.read(query, Position::ZERO, None);
        while let Some(event) = reads.next() {
            seen.look(event.map_err(broken)?.event.data());
        }
        seen.upto = reads.watermark().get();
        Ok(seen)
    }
}

impl Store for Open {
    fn append(&self, batch: Batch) -> Answer {
        answer(self.handle.append(events_of(&batch)?, condition_of(&batch)?))
    }

    fn append_in_task(self: Arc<Self>, batch: Batch) -> Pending {
        Box::pin(
            async move { answer(self.handle.append_async(events_of(&batch)?, condition_of(&batch)?).await) },
        )
    }

    fn read_tags(&self, any_of: &[String]) -> Result<Seen, Failure> {
        self.read(&query_of(any_of)?)
    }

    fn scan(&self, event_type: Option<&str>) -> Result<Seen, Failure> {
        match event_type {
            None => self.read(&Query::all()),
            Some(name) => {
                self.read(&Query::item(QueryItem::of_types(vec![EventType::new(name).map_err(broken)?])))
            }
        }
    }

    fn follow(&self, each: &mut dyn FnMut(&[u8]) -> bool) -> Result<(), Failure> {
        let mut subscription = self.handle.subscribe(Query::all(), Position::ZERO);
        while let Some(batch) = subscription.next_batch() {
            for (_, event) in batch.map_err(broken)? {
                if !each(event.data()) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn close(&self) -> Result<(), Failure> {
        if let Some(coordinator) = self.coordinator.lock().unwrap_or_else(PoisonError::into_inner).take() {
            coordinator.shutdown();
        }
        Ok(())
    }
}
