//! `fjall`, a log-structured merge tree: an event log as its users would build it, with group commit by one writing thread.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::group::{Backend, Group};
use crate::peer::{Answer, Batch, Condition, Fact, Failure, Peer, Pending, Seen, Store, broken, tag_of};

/// The peer.
pub struct Fjall;

#[derive(Clone)]
struct Tables {
    db: Database,
    /// Position to data.
    events: Keyspace,
    /// A tag or a type, zero, a position: to nothing.
    index: Keyspace,
    /// The last position that is committed.
    head: Arc<(Mutex<u64>, Condvar)>,
}

struct Open {
    group: Group,
    tables: Tables,
}

impl Peer for Fjall {
    fn name(&self) -> &'static str {
        "fjall"
    }

    fn about(&self) -> &'static str {
        "fjall 3.1.13: events by position and an index of tags and types, batches with SyncData, group commit by one writing thread"
    }

    fn open(&self, directory: &Path) -> Result<Arc<dyn Store>, Failure> {
        let db = Database::builder(directory).open().map_err(broken)?;
        let events = db.keyspace("events", KeyspaceCreateOptions::default).map_err(broken)?;
        let index = db.keyspace("index", KeyspaceCreateOptions::default).map_err(broken)?;
        let last = match events.last_key_value() {
            Some(last) => position_at_end(&last.key().map_err(broken)?)?,
            None => 0,
        };
        let tables = Tables { db, events, index, head: Arc::new((Mutex::new(last), Condvar::new())) };
        Ok(Arc::new(Open { group: Group::start(tables.clone()), tables }))
    }
}

fn position_at_end(key: &[u8]) -> Result<u64, Failure> {
    let bytes = key.last_chunk::<8>().ok_or_else(|| broken("a key without a position"))?;
    Ok(u64::from_be_bytes(*bytes))
}

fn index_key(name: &str, position: u64) -> Vec<u8> {
    [name.as_bytes(), &[0], &position.to_be_bytes()].concat()
}

impl Tables {
    fn head(&self) -> u64 {
        *self.head.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last position under a name.
    fn last_of(&self, name: &str) -> Result<u64, Failure> {
        let range = index_key(name, 0)..=index_key(name, u64::MAX);
        match self.index.range(range).next_back() {
            Some(entry) => position_at_end(&entry.key().map_err(broken)?),
            None => Ok(0),
        }
    }
}

impl Backend for Tables {
    fn commit(&mut self, batches: &[Batch]) -> Result<Vec<Answer>, Failure> {
        let mut writes = self.db.batch().durability(Some(PersistMode::SyncData));
        let (mut position, mut fresh) = (self.head(), HashMap::new());
        let mut answers = Vec::with_capacity(batches.len());
        for batch in batches {
            let own = [tag_of(batch.entity)];
            let (any_of, after) = match &batch.condition {
                Condition::None => (&[][..], 0),
                Condition::Revision { after, .. } => (&own[..], *after),
                Condition::Tags { any_of, after } => (&any_of[..], *after),
            };
            let mut holds = true;
            for tag in any_of {
                let last = match fresh.get(tag) {
                    Some(last) => *last,
                    None => self.last_of(tag)?,
                };
                holds &= last <= after;
            }
            if !holds {
                answers.push(Err(Failure::Conflict));
                continue;
            }
            for Fact { entity, name, data } in batch.facts() {
                position += 1;
                writes.insert(&self.events, position.to_be_bytes(), data);
                writes.insert(&self.index, index_key(name, position), []);
                for tag in batch.tags_of(entity) {
                    writes.insert(&self.index, index_key(&tag, position), []);
                    fresh.insert(tag, position);
                }
            }
            answers.push(Ok(position));
        }
        writes.commit().map_err(broken)?;
        *self.head.0.lock().unwrap_or_else(PoisonError::into_inner) = position;
        self.head.1.notify_all();
        Ok(answers)
    }
}

impl Open {
    fn read(&self, any_of: &[&str]) -> Result<Seen, Failure> {
        let mut seen = Seen { upto: self.tables.head(), ..Seen::default() };
        let mut positions = Vec::new();
        for name in any_of {
            for entry in self.tables.index.range(index_key(name, 0)..=index_key(name, seen.upto)) {
                positions.push(position_at_end(&entry.key().map_err(broken)?)?);
            }
        }
        positions.sort_unstable();
        positions.dedup();
        for position in positions {
            let data = self.tables.events.get(position.to_be_bytes()).map_err(broken)?;
            seen.look(&data.ok_or_else(|| broken("an event that is not there"))?);
        }
        Ok(seen)
    }
}

impl Store for Open {
    fn append(&self, batch: Batch) -> Answer {
        self.group.append(batch)
    }

    fn append_in_task(self: Arc<Self>, batch: Batch) -> Pending {
        self.group.append_in_task(batch)
    }

    fn read_tags(&self, any_of: &[String]) -> Result<Seen, Failure> {
        self.read(&any_of.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn scan(&self, event_type: Option<&str>) -> Result<Seen, Failure> {
        let Some(name) = event_type else {
            let mut seen = Seen { upto: self.tables.head(), ..Seen::default() };
            for entry in self.tables.events.range(..=seen.upto.to_be_bytes()) {
                seen.look(&entry.value().map_err(broken)?);
            }
            return Ok(seen);
        };
        self.read(&[name])
    }

    fn follow(&self, each: &mut dyn FnMut(&[u8]) -> bool) -> Result<(), Failure> {
        let mut after = 0;
        loop {
            let (head, came) = &*self.tables.head;
            let idle = |head: &mut u64| *head <= after;
            let upto = {
                let head = head.lock().unwrap_or_else(PoisonError::into_inner);
                let waited = came.wait_timeout_while(head, Duration::from_millis(100), idle);
                *waited.unwrap_or_else(PoisonError::into_inner).0
            };
            if upto <= after {
                continue;
            }
            for entry in self.tables.events.range((after + 1).to_be_bytes()..=upto.to_be_bytes()) {
                if !each(&entry.value().map_err(broken)?) {
                    return Ok(());
                }
            }
            after = upto;
        }
    }

    fn close(&self) -> Result<(), Failure> {
        self.group.close();
        Ok(())
    }
}
