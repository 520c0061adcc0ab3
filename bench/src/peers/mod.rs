//! The stores, each used as its own users use it.

mod factum;
mod fjall;
pub mod group;
mod sqlite;
mod tephra;
mod umadb;

use crate::peer::Peer;

/// All of them, in the order in which they are shown.
pub fn all() -> Vec<Box<dyn Peer>> {
    vec![
        Box::new(factum::FactumLog),
        Box::new(tephra::Tephra),
        Box::new(umadb::UmaDbCore { pipelined: false }),
        Box::new(umadb::UmaDbCore { pipelined: true }),
        Box::new(sqlite::Sqlite),
        Box::new(fjall::Fjall),
        Box::new(group::Sketch),
    ]
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc};

    use super::all;
    use crate::peer::{Batch, Condition, Failure, Store, tag_of};

    /// A store that did less than it was asked for would look fast.
    #[test]
    fn every_store_does_what_is_measured() {
        for peer in all() {
            let name = peer.name();
            let directory = std::env::temp_dir().join(format!("factum-bench-{}-{name}", std::process::id()));
            fs::create_dir_all(&directory).unwrap();
            let store = peer.open(&directory).unwrap();
            appends_and_conditions(name, &store);
            store.close().unwrap();
            drop(store);
            let store = peer.open(&directory).unwrap();
            reads(name, &store);
            store.close().unwrap();
            drop(store);
            fs::remove_dir_all(&directory).unwrap();
        }
    }

    /// Entity 1 gets 1 + 512 events, entity 2 gets 1, entities 3 to 12 get 1 each.
    fn appends_and_conditions(name: &str, store: &Arc<dyn Store>) {
        let first = store.append(Batch::new(1, 0, 1)).unwrap();
        let of = |entity, condition| Batch { condition, ..Batch::new(entity, 1, 1) };
        let revision = |events, after| Condition::Revision { events, after };
        let tag =
            |entity, after| Condition::Tags { any_of: vec![tag_of(entity), "none:1".to_owned()], after };
        let refused = |batch| matches!(store.append(batch), Err(Failure::Conflict));
        assert!(refused(of(1, revision(0, 0))), "{name}: the stream is not new");
        assert!(refused(of(1, tag(1, 0))), "{name}: there is an event with that tag");
        let second = store.append(of(2, tag(2, first))).unwrap();
        assert!(second > first, "{name}: positions grow");
        let many = Batch { condition: revision(1, first), ..Batch::new(1, 2, 512) };
        let last = pollster::block_on(store.clone().append_in_task(many)).unwrap();
        assert!(refused(of(1, tag(1, second))), "{name}: 512 events came after");
        assert!(refused(of(1, revision(1, first))), "{name}: the stream has moved");
        assert!(last > second, "{name}: positions grow");
        store.append(Batch { spread: true, ..Batch::new(3, 514, 10) }).unwrap();
    }

    fn reads(name: &str, store: &Arc<dyn Store>) {
        let entity = store.read_entity(1).unwrap();
        assert_eq!(entity.events, 513, "{name}");
        assert_eq!(store.read_entity(7).unwrap().events, 1, "{name}");
        let both = store.read_tags(&[tag_of(2), tag_of(12), tag_of(99)]).unwrap();
        assert_eq!((both.events, both.upto >= entity.upto), (2, true), "{name}");
        assert_eq!(store.scan(None).unwrap().events, 524, "{name}");
        if name == "sketch" {
            return;
        }
        // Types go round by the number of the event: 524 events, of which numbers 0 and 1 twice.
        let of_types: u64 =
            crate::peer::TYPES.iter().map(|name| store.scan(Some(name)).unwrap().events).sum();
        assert_eq!(of_types, 524, "{name}");
        let mut left = 524;
        store
            .follow(&mut |data| {
                left -= 1;
                assert_eq!(data.len(), crate::peer::EVENT_BYTES);
                left > 0
            })
            .unwrap();
        assert_eq!(left, 0, "{name}");
    }
}
