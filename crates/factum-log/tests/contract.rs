//! The contract, kept by the embedded engine on the machine's own disk.

#![allow(clippy::unwrap_used, reason = "a test")]

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
