//! The contract, kept by the embedded engine on the machine's own disk.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

use std::sync::Arc;

use async_trait::async_trait;
use factum::{EventStore, Limits, ManualClock, Result};
use factum_conformance::Harness;
use factum_log::{LogStore, Options};
use tempfile::TempDir;

/// Small segments, so that every case that writes much crosses some.
#[derive(Debug)]
struct OnDisk {
    directory: TempDir,
    clock: Arc<ManualClock>,
    limits: Limits,
    opened: u32,
}

impl Default for OnDisk {
    fn default() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { directory, clock: Arc::default(), limits: Limits::default(), opened: 0 }
    }
}

impl OnDisk {
    fn options(&self) -> Options {
        let directory = self.directory.path().join(self.opened.to_string());
        Options::new(directory).limits(self.limits).clock(self.clock.clone()).segments(8192, 64 << 10)
    }
}

#[async_trait]
impl Harness for OnDisk {
    async fn open(&mut self, limits: Limits) -> Result<Arc<dyn EventStore>> {
        (self.limits, self.opened) = (limits, self.opened + 1);
        Ok(Arc::new(self.options().open()?))
    }

    fn durable(&self) -> bool {
        true
    }

    fn reopens(&self) -> bool {
        true
    }

    async fn reopen(&mut self, closed: Arc<dyn EventStore>) -> Result<Arc<dyn EventStore>> {
        drop(closed);
        let store: LogStore = self.options().create(false).open()?;
        Ok(Arc::new(store))
    }

    fn clock(&self) -> Option<Arc<ManualClock>> {
        Some(self.clock.clone())
    }
}

factum_conformance::suite!(OnDisk);

/// The same, with a scavenge after every few appends, and an index that is made again with every opening.
mod scavenged {
    use std::{
        ops::ControlFlow,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use factum::{Append, Appended};
    use factum_conformance::{Around, Wrapped};
    use factum_log::Scavenge;

    use super::{Arc, EventStore, Harness, Limits, LogStore, ManualClock, OnDisk, Result, async_trait};

    /// Appends between two scavenges.
    const EVERY: usize = 5;

    #[derive(Debug)]
    struct Scavenged {
        store: LogStore,
        appends: AtomicUsize,
    }

    impl Scavenged {
        fn of(store: LogStore) -> Arc<dyn EventStore> {
            Arc::new(Wrapped(Self { store, appends: AtomicUsize::new(0) }))
        }
    }

    #[async_trait]
    impl Around for Scavenged {
        fn store(&self) -> &dyn EventStore {
            &self.store
        }

        async fn append(&self, append: Append) -> Result<Appended> {
            let answer = self.store.append(append).await;
            if self.appends.fetch_add(1, Ordering::Relaxed).is_multiple_of(EVERY) {
                let options = Scavenge::default().at_least_percent(0);
                match self.store.scavenge(options, |_| ControlFlow::Continue(())).await {
                    // Another client is at it.
                    Ok(_) | Err(factum::Error::Unavailable { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            answer
        }
    }

    #[derive(Debug, Default)]
    struct ScavengedOnDisk(OnDisk);

    #[async_trait]
    impl Harness for ScavengedOnDisk {
        async fn open(&mut self, limits: Limits) -> Result<Arc<dyn EventStore>> {
            (self.0.limits, self.0.opened) = (limits, self.0.opened + 1);
            Ok(Scavenged::of(self.0.options().indexed_in_memory(16).segments(8192, 8192).open()?))
        }

        fn durable(&self) -> bool {
            true
        }

        fn reopens(&self) -> bool {
            true
        }

        async fn reopen(&mut self, closed: Arc<dyn EventStore>) -> Result<Arc<dyn EventStore>> {
            drop(closed);
            let directory = self.0.directory.path().join(self.0.opened.to_string());
            for file in std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().path()) {
                if file.extension().is_some_and(|extension| extension == "run") {
                    std::fs::remove_file(file).unwrap();
                }
            }
            Ok(Scavenged::of(self.0.options().create(false).open()?))
        }

        fn clock(&self) -> Option<Arc<ManualClock>> {
            self.0.clock()
        }
    }

    factum_conformance::suite!(ScavengedOnDisk);
}
