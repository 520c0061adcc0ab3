//! The contract, kept by the store in memory.

use std::sync::Arc;

use async_trait::async_trait;
use factum::{EventStore, Limits, ManualClock, MemoryStore, Result, SystemClock};
use factum_conformance::Harness;

/// On a clock that cases set.
mod by_hand {
    use super::*;

    #[derive(Debug, Default)]
    struct ByHand {
        clock: Arc<ManualClock>,
        store: Option<MemoryStore>,
    }

    #[async_trait]
    impl Harness for ByHand {
        async fn open(&mut self, limits: Limits) -> Result<Arc<dyn EventStore>> {
            let store = self.store.insert(MemoryStore::with(limits, Arc::new(self.clock.clone())));
            Ok(Arc::new(store.clone()))
        }

        fn durable(&self) -> bool {
            false
        }

        fn clock(&self) -> Option<Arc<ManualClock>> {
            Some(self.clock.clone())
        }

        fn begin_epoch(&self) -> bool {
            self.store.as_ref().inspect(|store| store.begin_epoch()).is_some()
        }
    }

    factum_conformance::suite!(ByHand);
}

/// On the machine's clock; "reopened" as a second handle on the same memory, so that those cases run here as well.
mod by_the_machine {
    use super::*;

    #[derive(Debug, Default)]
    struct ByTheMachine(Option<MemoryStore>);

    #[async_trait]
    impl Harness for ByTheMachine {
        async fn open(&mut self, limits: Limits) -> Result<Arc<dyn EventStore>> {
            Ok(Arc::new(self.0.insert(MemoryStore::with(limits, Arc::new(SystemClock))).clone()))
        }

        fn durable(&self) -> bool {
            false
        }

        fn reopens(&self) -> bool {
            true
        }

        async fn reopen(&mut self, closed: Arc<dyn EventStore>) -> Result<Arc<dyn EventStore>> {
            drop(closed);
            Ok(Arc::new(self.0.clone().unwrap_or_default()))
        }
    }

    factum_conformance::suite!(ByTheMachine);
}
