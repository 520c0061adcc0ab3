//! The loop that sets timers off.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::watch,
    task::{JoinError, JoinSet},
    time::{Instant, timeout},
};

use super::due::{Due, DueList, Fire, Fired};
use crate::{
    consumer::{Consumer, State},
    error::{Error, Outcome, Result},
    handle::Factum,
    handler::{Trouble, is_of_this_process, new_holder},
    metrics,
    position::Token,
    progress::Progress,
    query::Query,
    reads::ReadStore,
    time::Timestamp,
};

/// Timers that are set off at once, at most.
const AT_ONCE: usize = 256;
/// Those among them that have failed before, or for which there was nothing to do: so the others always find room.
const FAILED_AT_ONCE: usize = 64;
/// Timers that are read at once.
const PAGE: usize = 500;
/// How long one may take, before others get its place. It is tried again.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the loop sleeps at most: the clock may have jumped.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long the list is left alone at least.
const SHORTEST_PAUSE: Duration = Duration::from_millis(2);
/// The longest pause of a timer that keeps failing.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// For how long a process has the right to fire without asking again, at most.
pub(super) const HELD: Duration = Duration::from_secs(6);

/// How timers are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TimerStatus {
    /// Whether it is this process that sets them off.
    pub here: bool,
    /// How many have been set off by this process.
    pub fired: u64,
    /// How many have failed and are tried again.
    pub failing: usize,
    /// What the last failure was.
    pub last_failure: Option<String>,
    /// The earliest that is not due yet.
    pub next: Option<Timestamp>,
}

impl fmt::Display for TimerStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { here, fired, failing, last_failure, next } = self;
        let whose = if *here { "set off here" } else { "set off by another process" };
        write!(f, "{whose}, {fired} so far")?;
        if *failing > 0 {
            write!(f, ", {failing} failing")?;
        }
        if let Some(failure) = last_failure {
            write!(f, " ({failure})")?;
        }
        next.map_or(Ok(()), |next| write!(f, ", next at {next}"))
    }
}

/// Sets timers off until it is stopped or dropped.
#[derive(Debug)]
pub(crate) struct Firing {
    stop: watch::Sender<bool>,
    status: watch::Receiver<TimerStatus>,
}

impl Firing {
    /// Begins, for the timers of this name. One process at a time does it; the others stand by, so long if it does not answer any more.
    pub(crate) fn start<F: Fire>(
        name: &str,
        query: Query,
        reads: Arc<dyn ReadStore>,
        factum: Factum,
        fire: Arc<F>,
        held: Duration,
    ) -> Result<Self> {
        let runtime = Handle::try_current().map_err(|_| Error::Unavailable {
            why: "timers need a tokio runtime to run in".into(),
            outcome: Outcome::No,
        })?;
        let (stop, stopped) = watch::channel(false);
        let (tell, status) = watch::channel(TimerStatus::default());
        let (hold, holder, name) = (format!("{name}/timers"), new_holder(), Self::list_of(name));
        let held = held.clamp(Duration::from_millis(100), HELD);
        let duty = Duty { name, hold, query, reads, factum, fire, holder, held, stopped, tell };
        runtime.spawn(duty.run());
        Ok(Self { stop, status })
    }

    /// The read model in which timers are looked up.
    pub(crate) fn list_of(name: &str) -> String {
        format!("{name}_timers")
    }

    pub(crate) fn status(&self) -> TimerStatus {
        self.status.borrow().clone()
    }

    /// Stops it, and waits for what is on its way.
    pub(crate) async fn stop(&self) {
        self.stop.send_replace(true);
        let mut status = self.status.clone();
        while status.changed().await.is_ok() {}
    }
}

/// Who may set the timers off, and does it while nobody else may.
struct Duty<F> {
    /// Of the list.
    name: String,
    hold: String,
    query: Query,
    reads: Arc<dyn ReadStore>,
    factum: Factum,
    fire: Arc<F>,
    holder: String,
    held: Duration,
    stopped: watch::Receiver<bool>,
    tell: watch::Sender<TimerStatus>,
}

impl<F: Fire> Duty<F> {
    async fn run(mut self) {
        if self.factum.store().is_exclusive()
            && let Err(error) = self.take_over_from_the_dead().await
        {
            self.failed(&error);
        }
        let mut work: Option<Round<F>> = None;
        let mut asked = None::<Instant>;
        while !self.is_over() {
            if asked.is_none_or(|asked| asked.elapsed() >= self.held / 3) {
                match self.reads.holds().hold(&self.hold, &self.holder, self.held).await {
                    Ok(held) if held.holder == self.holder => asked = Some(Instant::now()),
                    Ok(_) => (work, asked) = (None, None),
                    // Nothing relies on it: what is recorded is recorded once, whoever does it.
                    Err(error) => self.failed(&error),
                }
            }
            if asked.is_some() && work.is_none() {
                work = match self.begin().await {
                    Ok(round) => Some(round),
                    Err(error) => {
                        self.failed(&error);
                        None
                    }
                };
            }
            let mut next = None;
            if let Some(error) = work.as_ref().and_then(Round::ended) {
                self.failed(&error);
                match &work {
                    // It is made of a history that the log has not: it is made anew.
                    Some(round) if matches!(error, Error::LogRewound(_)) => {
                        let _ = round.list.rebuild().await.inspect_err(|error| self.failed(error));
                    }
                    // Somebody else keeps it now; or it is begun again.
                    _ => (work, asked) = (None, None),
                }
            }
            if let Some(round) = &mut work {
                match round.pass().await {
                    Ok(until) => next = until,
                    Err(error) => self.failed(&error),
                }
                let status = round.status(next);
                self.tell.send_replace(status);
            } else {
                self.tell.send_modify(|status| status.here = false);
            }
            self.sleep(next, work.as_mut()).await;
        }
        if let Some(mut round) = work {
            while round.settle().await {}
            round.list.stop().await;
        }
        // It is free a little later otherwise.
        let _ = self.reads.holds().let_go(&self.hold, &self.holder).await;
    }

    /// Frees what a process has left that is gone.
    async fn take_over_from_the_dead(&self) -> Result<()> {
        for held in self.reads.holds().held(&self.hold).await? {
            if held.name == self.hold && !is_of_this_process(&held.holder) {
                self.reads.holds().let_go(&held.name, &held.holder).await?;
            }
        }
        Ok(())
    }

    async fn begin(&self) -> Result<Round<F>> {
        let (name, query, reads) = (self.name.clone(), self.query.clone(), self.reads.clone());
        let list = self.factum.consume(DueList { name, query, reads }).await?;
        Ok(Round {
            progress: list.progress(),
            list,
            reads: self.reads.clone(),
            factum: self.factum.clone(),
            fire: self.fire.clone(),
            flying: JoinSet::new(),
            known: HashMap::new(),
            fired: 0,
            last_failure: None,
            took: Duration::ZERO,
            tell: self.tell.clone(),
        })
    }

    fn is_over(&self) -> bool {
        // Whoever would stop it has gone.
        *self.stopped.borrow() || self.stopped.has_changed().is_err()
    }

    fn failed(&self, error: &Error) {
        tracing::warn!(timers = self.name, %error, "timers wait");
        self.tell.send_modify(|status| status.last_failure = Some(error.to_string()));
    }

    /// Until the next is due, or the list has changed, or the clock may have jumped.
    async fn sleep(&mut self, next: Option<Timestamp>, work: Option<&mut Round<F>>) {
        let until_next = next.map_or(LOOK_AGAIN, |next| next.since(self.factum.now()));
        let pause = until_next.clamp(Duration::from_millis(1), LOOK_AGAIN.min(self.held / 3));
        match work {
            Some(round) => tokio::select! {
                _ = self.stopped.changed() => {}
                () = tokio::time::sleep(pause) => {}
                () = round.news() => {}
            },
            None => tokio::select! {
                _ = self.stopped.changed() => {}
                () = tokio::time::sleep(pause) => {}
            },
        }
    }
}

/// What is known of a timer that is due.
struct Known {
    /// How often it has failed since it was last set off.
    failures: u32,
    /// How often there was nothing to do.
    in_vain: u32,
    now: Now,
}

impl Known {
    /// Others have more right to be set off.
    fn is_suspect(&self) -> bool {
        self.failures > 0 || self.in_vain > 0
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Now {
    Flying,
    /// It was set off, which the log says at this place. As long as the list is not there, it may not know it yet; a list that is
    /// there and has the timer has one that was set again, for the same moment: or one that is there for no reason, which is looked
    /// at again, but not before this moment.
    Done(Token, Instant),
    /// It is tried again then.
    Later(Instant),
}

impl Now {
    fn is_done(self) -> bool {
        matches!(self, Self::Done(..))
    }
}

/// The work of whoever sets timers off.
struct Round<F> {
    list: Consumer,
    progress: watch::Receiver<Progress>,
    reads: Arc<dyn ReadStore>,
    factum: Factum,
    fire: Arc<F>,
    flying: JoinSet<(String, Result<Fired, Trouble>)>,
    known: HashMap<String, Known>,
    fired: u64,
    last_failure: Option<String>,
    /// How long the last look at the list took.
    took: Duration,
    tell: watch::Sender<TimerStatus>,
}

impl<F: Fire> Round<F> {
    /// Goes once over all that is due. The earliest that is not.
    async fn pass(&mut self) -> Result<Option<Timestamp>> {
        let begun = Instant::now();
        // Before the list is read: what it says then is no older.
        let reached = self.progress.borrow().token;
        let (mut after, mut met) = (None, HashSet::new());
        let next = 'all: loop {
            let page = DueList::page(self.list.name(), &*self.reads, after, PAGE).await?;
            let full = page.len() == PAGE;
            after = page.last().map(|(key, _)| key.clone());
            for (key, due) in page {
                if due.at > self.factum.now() {
                    break 'all Some(due.at);
                }
                met.insert(key.clone());
                self.consider(key, due, reached).await;
            }
            if !full {
                break None;
            }
        };
        while let Some(flown) = self.flying.try_join_next() {
            self.landed(flown);
        }
        // What has left the list need not be known.
        self.known.retain(|key, known| known.now == Now::Flying || met.contains(key));
        let done = self.known.values().filter(|known| known.now.is_done()).count();
        self.took = begun.elapsed();
        metrics::timers(self.list.name(), met.len().saturating_sub(done), self.failing());
        Ok(next)
    }

    /// Sets a timer off that is in the list, as it was when it had reached this place: unless that is being done, or was.
    async fn consider(&mut self, key: String, due: Due, reached: Option<Token>) {
        let has_come_to = |off: &Token| {
            // The place in another history says nothing: nobody knows what was done in this one.
            reached.is_some_and(|at| at.log != off.log || at.position >= off.position)
        };
        let (failures, in_vain) = match self.known.get(&key) {
            Some(Known { now: Now::Flying, .. }) => return,
            Some(Known { now: Now::Done(off, until), .. })
                if !has_come_to(off) || *until > Instant::now() =>
            {
                return;
            }
            Some(Known { now: Now::Later(until), .. }) if *until > Instant::now() => return,
            Some(known) => (known.failures, known.in_vain),
            None => (0, 0),
        };
        let known = Known { failures, in_vain, now: Now::Flying };
        let suspects = || self.known.values().filter(|known| known.now == Now::Flying && known.is_suspect());
        if known.is_suspect() && suspects().count() >= FAILED_AT_ONCE {
            return;
        }
        while self.flying.len() >= AT_ONCE && self.settle().await {}
        self.known.insert(key.clone(), known);
        let (fire, factum, name) = (self.fire.clone(), self.factum.clone(), self.list.name().to_owned());
        self.flying.spawn(async move {
            let fired = timeout(PATIENCE, fire.fire(&due)).await;
            let late = || Trouble::infrastructure(format!("it took longer than {} s", PATIENCE.as_secs()));
            let fired = fired.unwrap_or_else(|_| Err(late()));
            if fired.as_ref().is_ok_and(|fired| fired.now) {
                metrics::timer_fired(&name, factum.now().since(due.at));
            }
            (key, fired)
        });
    }

    /// Waits for one of those that are on their way. `false`: there is none.
    async fn settle(&mut self) -> bool {
        let flown = self.flying.join_next().await;
        flown.map(|flown| self.landed(flown)).is_some()
    }

    fn landed(&mut self, flown: Result<(String, Result<Fired, Trouble>), JoinError>) {
        // Whoever panicked does not say which one it was: all that fly are looked at again.
        let Ok((key, fired)) = flown else {
            let until = Instant::now() + LOOK_AGAIN;
            for known in self.known.values_mut().filter(|known| known.now == Now::Flying) {
                (known.failures, known.now) = (known.failures + 1, Now::Later(until));
            }
            return;
        };
        let before = self.known.get(&key).map(|known| (known.failures, known.in_vain));
        let (failures, in_vain) = before.unwrap_or_default();
        let known = match fired {
            Ok(Fired { now: true, off }) => {
                self.fired += 1;
                Known { failures: 0, in_vain: 0, now: Now::Done(off, Instant::now()) }
            }
            Ok(Fired { now: false, off }) => {
                let again = LOOK_AGAIN.saturating_mul((1 << in_vain.min(8)) - 1).min(LONGEST_PAUSE);
                Known { failures: 0, in_vain: in_vain + 1, now: Now::Done(off, Instant::now() + again) }
            }
            Err(trouble) => {
                tracing::warn!(timers = self.list.name(), timer = key, %trouble, "a timer could not be set off; it is tried again");
                self.last_failure = Some(trouble.to_string());
                let pause = LOOK_AGAIN.saturating_mul(1 << failures.min(8)).min(LONGEST_PAUSE);
                Known { failures: failures + 1, in_vain, now: Now::Later(Instant::now() + pause) }
            }
        };
        self.known.insert(key, known);
        self.tell.send_modify(|status| {
            (status.fired, status.last_failure) = (self.fired, self.last_failure.clone());
        });
    }

    /// Returns when the list has changed.
    async fn news(&mut self) {
        // To look at a long list for each of its changes would be all that is done.
        let until = Instant::now() + SHORTEST_PAUSE.max(self.took * 2);
        let mut changed = false;
        loop {
            let Self { flying, progress, .. } = self;
            tokio::select! {
                Some(flown) = flying.join_next() => self.landed(flown),
                Ok(()) = progress.changed(), if !changed => changed = true,
                () = tokio::time::sleep_until(until), if changed => return,
                else => std::future::pending().await,
            }
        }
    }

    /// Why the list is not kept up to date any more, if it is not.
    fn ended(&self) -> Option<Error> {
        match &self.progress.borrow().state {
            State::Stopped(error) => Some(error.clone()),
            _ => None,
        }
    }

    fn failing(&self) -> usize {
        self.known.values().filter(|known| known.failures > 0 && !known.now.is_done()).count()
    }

    fn status(&self, next: Option<Timestamp>) -> TimerStatus {
        let failing = self.failing();
        let (fired, last_failure) = (self.fired, self.last_failure.clone());
        TimerStatus { here: true, fired, failing, last_failure, next }
    }
}
