//! Who keeps which partition: the part of it that this process has.
//!
//! Workers know of each other by the names that they hold in the store of the checkpoints. Each keeps its share: so many partitions
//! that all are kept if everybody does so. Who has more gives some up, after what is in hand is finished; who has fewer takes what is
//! free. Nothing relies on that being right at every moment: what two workers believe to have is changed by the one with the later
//! lease alone.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::Instant,
};

use super::{
    partition::{self, Plan, View},
    processor::{Views, is_of_this_process},
};
use crate::{
    consumer::State,
    error::{Error, Result},
    reads::ReadStore,
};

/// See the module.
pub(super) struct Supervisor {
    name: String,
    me: String,
    lease: Duration,
    plans: Vec<Arc<Plan>>,
    views: Views,
    kept: BTreeMap<usize, Kept>,
    /// Some worker has ended.
    ended: Arc<Notify>,
    /// Since when it is to end.
    draining: Option<Instant>,
}

/// A partition that is kept here.
struct Kept {
    worker: JoinHandle<()>,
    stop: watch::Sender<bool>,
    /// Until when nobody else can have it.
    until: watch::Sender<Instant>,
}

impl Supervisor {
    pub(super) fn new(name: &str, me: &str, lease: Duration, plans: Vec<Arc<Plan>>, views: Views) -> Self {
        let (kept, ended) = Default::default();
        let (name, me) = (name.to_owned(), me.to_owned());
        Self { name, me, lease, plans, views, kept, ended, draining: None }
    }

    fn reads(&self) -> Arc<dyn ReadStore> {
        self.plans[0].reads.clone()
    }

    /// Frees what processes have left that are gone.
    pub(super) async fn take_over_from_the_dead(&self) -> Result<()> {
        let reads = self.reads();
        for hold in reads.holds().held(&format!("{}/", self.name)).await? {
            if !is_of_this_process(&hold.holder) {
                reads.holds().let_go(&hold.name, &hold.holder).await?;
            }
        }
        Ok(())
    }

    /// Keeps its share until it is told to stop, and then until everything in hand is finished.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        while self.draining.is_none() || !self.kept.is_empty() {
            let ended = self.ended.clone();
            tokio::select! {
                () = tokio::time::sleep(self.lease / 5) => {}
                () = ended.notified() => {}
                // That nobody is there any more to tell it means the same.
                _ = stop.wait_for(|stop| *stop), if self.draining.is_none() => {
                    self.draining = Some(Instant::now());
                }
            }
            if let Err(error) = self.round().await {
                tracing::warn!(consumer = self.name, %error, "who keeps which partition cannot be agreed on");
                for (partition, view) in self.views.iter().enumerate() {
                    if !self.kept.contains_key(&partition) {
                        view.send_modify(|view| view.state = State::Waiting(error.clone()));
                    }
                }
            }
        }
        let _ = self.reads().holds().let_go(&self.worker_name(), &self.me).await;
    }

    fn worker_name(&self) -> String {
        // The process need not be told twice.
        format!("{}/worker/{}", self.name, self.me.rsplit('/').next().unwrap_or_default())
    }

    /// Keeps what it has, gives up what is too much, takes what is missing.
    pub(super) async fn round(&mut self) -> Result<()> {
        if self.draining.is_some() {
            // Before anything that may fail: who waits for the end does not wait for the store.
            self.kept.values().for_each(|kept| {
                kept.stop.send_replace(true);
            });
        }
        self.bury().await;
        let reads = self.reads();
        let mut failed = None;
        for (partition, kept) in &self.kept {
            let asked = Instant::now();
            if self.draining.is_some_and(|since| since.elapsed() > self.lease) {
                // A handler that does not come to an end is not waited for any longer.
                kept.until.send_replace(asked);
                continue;
            }
            match self.plans[*partition].hold.keep(&*reads).await {
                Ok(true) => {
                    kept.until.send_replace(until(asked, self.lease));
                }
                // Somebody has taken it: this process was held up for too long.
                Ok(false) => {
                    kept.until.send_replace(asked);
                }
                // It ends by itself, unless it can be kept in time.
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        let share = if self.draining.is_some() { 0 } else { self.share(&*reads).await? };
        let surplus = self.kept.len().saturating_sub(share);
        for kept in self.kept.values().rev().take(surplus) {
            kept.stop.send_replace(true);
        }
        for partition in 0..self.plans.len() {
            if self.kept.len() >= share {
                break;
            }
            let asked = Instant::now();
            if !self.kept.contains_key(&partition) && self.plans[partition].hold.keep(&*reads).await? {
                self.begin(partition, until(asked, self.lease));
            }
        }
        Ok(())
    }

    /// Frees the partitions whose workers have ended.
    async fn bury(&mut self) {
        let reads = self.reads();
        let over: Vec<_> =
            self.kept.iter().filter(|(_, kept)| kept.worker.is_finished()).map(|(n, _)| *n).collect();
        for partition in over {
            let Some(kept) = self.kept.remove(&partition) else { continue };
            // What it was doing here says nothing of what becomes of the partition elsewhere.
            self.views[partition].send_replace(View::new());
            if let Err(panic) = kept.worker.await {
                let what = format!("the worker of partition {partition} of `{}`", self.name);
                let error = Error::invalid(what, format!("it broke, and is begun again: {panic}"));
                tracing::error!(consumer = self.name, %error, "a consumer's worker broke");
                self.views[partition].send_modify(|view| view.state = State::Waiting(error));
            }
            let hold = &self.plans[partition].hold;
            // Where that fails, it is free a little later.
            let _ = reads.holds().let_go(&hold.name, &hold.holder).await;
        }
    }

    /// How many partitions each worker has to keep, so that all are kept.
    async fn share(&self, reads: &dyn ReadStore) -> Result<usize> {
        reads.holds().hold(&self.worker_name(), &self.me, self.lease).await?;
        let workers = reads.holds().held(&format!("{}/worker/", self.name)).await?.len();
        Ok(self.plans.len().div_ceil(workers.max(1)))
    }

    fn begin(&mut self, partition: usize, until: Instant) {
        let (stop, stopped) = watch::channel(false);
        let (until, mut valid) = watch::channel(until);
        let (plan, view, ended) =
            (self.plans[partition].clone(), self.views[partition].clone(), self.ended.clone());
        let worker = tokio::spawn(async move {
            tokio::select! {
                // Before anything else: who was held up does nothing more.
                biased;
                () = over(&mut valid) => {
                    tracing::warn!(partition = plan.model, "a partition is lost to another worker");
                }
                () = partition::keep(plan.clone(), view, stopped) => {}
            }
            ended.notify_one();
        });
        self.kept.insert(partition, Kept { worker, stop, until });
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.kept.values().for_each(|kept| kept.worker.abort());
    }
}

/// Until when a name is certainly held that was asked for at this moment. Less than the whole: clocks differ in speed.
fn until(asked: Instant, lease: Duration) -> Instant {
    asked + lease.mul_f64(0.9)
}

/// Ends when the moment has come, unless it is put off before.
async fn over(until: &mut watch::Receiver<Instant>) {
    loop {
        let moment = *until.borrow_and_update();
        if moment <= Instant::now() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep_until(moment) => {}
            // Who would put it off has gone.
            changed = until.changed() => if changed.is_err() {
                return;
            },
        }
    }
}
