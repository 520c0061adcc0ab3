//! Who keeps a read model, where several processes may: one has its name, the others stand by.
//!
//! The name keeps workers out of each other's way. What is relied on is the lease: if two believe to have the name, the one that
//! claimed the model later writes, and the other is told.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::Instant,
};

use crate::{
    consumer::Form,
    error::{Error, Outcome, Result},
    handler::new_holder,
    reads::Hold,
};

/// For how long a worker has a name that it does not keep: so long others wait for one that is gone.
const TTL: Duration = Duration::from_secs(10);
/// How long ago it may have been kept last for the model to be claimed: a claim that is on its way for a while, too, is then still in time.
const FRESH: Duration = Duration::from_secs(5);
/// How often it is kept.
const KEPT_EVERY: Duration = Duration::from_secs(3);
/// How often those who stand by look whether it is free.
pub(crate) const STANDING_BY: Duration = Duration::from_millis(500);

/// The name of a model, and whether this worker has it.
pub(crate) struct Tenure {
    form: Arc<dyn Form>,
    /// What this worker calls itself, until it gives the name up: who lets go is another than who takes it later.
    holder: String,
    keeping: Option<Keeping>,
    /// Lets go of what it had before.
    leaving: Option<JoinHandle<()>>,
}

/// The task that keeps a name, for as long as this is there.
struct Keeping {
    /// When it was kept last. `None`: it is lost.
    kept: watch::Receiver<Option<Instant>>,
    end: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Tenure {
    pub(crate) fn new(form: Arc<dyn Form>) -> Self {
        let holder = holder_of(&*form);
        Self { form, holder, keeping: None, leaving: None }
    }

    /// Takes the name, from an older version of the program also if that still has it: else a new one could only begin when the last
    /// old one has gone.
    ///
    /// # Errors
    /// [`Error::Unavailable`] saying who has it, and failures of the store.
    pub(crate) async fn take(&mut self) -> Result<()> {
        if self.is_held() {
            return Ok(());
        }
        if let Some(leaving) = self.leaving.take() {
            let _ = leaving.await;
        }
        let (name, holds) = (self.form.name(), self.form.reads().holds());
        let mut asked = Instant::now();
        let mut hold = holds.hold(name, &self.holder, TTL).await?;
        if version_of(&hold.holder).is_some_and(|version| version < self.form.version()) {
            holds.let_go(name, &hold.holder).await?;
            asked = Instant::now();
            hold = holds.hold(name, &self.holder, TTL).await?;
        }
        if hold.holder != self.holder {
            return Err(elsewhere(&hold));
        }
        self.keep(asked);
        Ok(())
    }

    fn keep(&mut self, asked: Instant) {
        let (tell, kept) = watch::channel(Some(asked));
        let (end, ended) = oneshot::channel();
        let (form, holder) = (self.form.clone(), self.holder.clone());
        let task = tokio::spawn(async move {
            tokio::select! {
                // To go away means to end it.
                _ = ended => {}
                () = keep(&*form, &holder, &tell) => return,
            }
            // Where that fails, it is over in a while.
            let _ = form.reads().holds().let_go(form.name(), &holder).await;
        });
        self.keeping = Some(Keeping { kept, end, task });
    }

    /// Whether this worker has the name, as far as it knows.
    pub(crate) fn is_held(&self) -> bool {
        // A task that has ended keeps nothing.
        let is_kept =
            |kept: &watch::Receiver<Option<Instant>>| kept.has_changed().is_ok() && kept.borrow().is_some();
        self.keeping.as_ref().is_some_and(|keeping| is_kept(&keeping.kept))
    }

    /// Whether nobody else can have had the name since it was taken.
    pub(crate) async fn is_unbroken(&self) -> Result<bool> {
        let Some(keeping) = self.keeping.as_ref().filter(|_| self.is_held()) else { return Ok(false) };
        let hold = self.form.reads().holds().hold(self.form.name(), &self.holder, TTL).await?;
        let kept = *keeping.kept.borrow();
        Ok(hold.holder == self.holder && kept.is_some_and(|kept| kept.elapsed() < TTL))
    }

    /// Makes sure that the name was this worker's a moment ago, right before it claims the model. Else it lets it go: somebody else may
    /// have it by now, who is not to be fenced.
    ///
    /// # Errors
    /// [`Error::Unavailable`] saying that it was held up.
    pub(crate) async fn check_fresh(&mut self) -> Result<()> {
        let kept = self.keeping.as_ref().and_then(|keeping| *keeping.kept.borrow());
        if kept.is_some_and(|kept| kept.elapsed() < FRESH) {
            return Ok(());
        }
        self.let_go().await;
        let why = format!(
            "the worker of the read model `{}` was held up for more than {} s when it was about to take it over; it begins anew",
            self.form.name(),
            FRESH.as_secs()
        );
        Err(Error::Unavailable { why, outcome: Outcome::No })
    }

    /// Ends when a name is lost that was held.
    pub(crate) async fn lost(&mut self) {
        match &mut self.keeping {
            Some(keeping) => drop(keeping.kept.wait_for(Option::is_none).await),
            None => std::future::pending().await,
        }
    }

    /// Lets the name go, some time soon.
    pub(crate) fn give_up(&mut self) {
        if let Some(Keeping { end, task, .. }) = self.keeping.take() {
            drop(end);
            self.leaving = Some(task);
            self.holder = holder_of(&*self.form);
        }
    }

    /// Lets the name go, and waits for that.
    pub(crate) async fn let_go(&mut self) {
        self.give_up();
        if let Some(leaving) = self.leaving.take() {
            let _ = leaving.await;
        }
    }
}

/// A name that nobody has had before, with the version.
fn holder_of(form: &dyn Form) -> String {
    format!("{}/v{}", new_holder(), form.version())
}

/// Keeps a name until it is lost.
async fn keep(form: &dyn Form, holder: &str, tell: &watch::Sender<Option<Instant>>) {
    let mut last = *tell.borrow();
    while let Some(kept) = last {
        tokio::time::sleep(KEPT_EVERY).await;
        let asked = Instant::now();
        match form.reads().holds().hold(form.name(), holder, TTL).await {
            // Who comes later than that may have missed another's time.
            Ok(hold) => last = (hold.holder == holder && kept.elapsed() < TTL).then_some(asked),
            // What else is done with the store says so; the next time is soon enough.
            Err(_) => continue,
        }
        tell.send_replace(last);
    }
}

/// The version that the name of a holder ends with.
fn version_of(holder: &str) -> Option<u32> {
    holder.rsplit_once("/v")?.1.parse().ok()
}

fn elsewhere(hold: &Hold) -> Error {
    let Hold { name, holder, left } = hold;
    let why = format!(
        "the read model `{name}` is kept by `{holder}`; this worker stands by, and goes on when that one stops or is not heard of for {:.1} s",
        left.as_secs_f64()
    );
    Error::Unavailable { why, outcome: Outcome::No }
}
