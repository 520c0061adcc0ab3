//! The demonstration: many orders, with faults switched on, and a ledger that balances in the end.

use std::{
    collections::HashSet,
    io::Write,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use factum::{
    EventSet, EventStoreExt, Query, Read, Recorded, Token, handler::Processor, idempotency::command_tag,
    process::Process,
};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep},
};

use crate::{
    audit::audit,
    exit::Exit,
    fulfilment::Fulfilment,
    order::OrderEvent,
    provider::{Faults, Tally},
    shop::{LEASE, Place, Shop},
    shoppers::{Payers, Run},
    show::{count, say},
    signals::Interrupted,
};

/// Customers who are in the shop at once.
const AT_ONCE: u64 = 16;
/// How often it is looked how far it is, and after how long without any progress it is given up.
const LOOKS_EVERY: Duration = Duration::from_millis(100);
const GIVEN_UP_AFTER: Duration = Duration::from_secs(60);
/// How often a process that is to be killed says how far it is.
const TOLD_EVERY: Duration = Duration::from_millis(5);

/// What is to be shown.
#[derive(Clone, Debug)]
pub(crate) struct Demo {
    pub(crate) place: Place,
    pub(crate) orders: u64,
    pub(crate) faults: Faults,
    pub(crate) seed: u64,
    /// How often the program is killed, and begun again.
    pub(crate) kills: u32,
    /// This process is one that is to be killed.
    pub(crate) life: Option<Life>,
}

/// A process that is to be killed: the run that it goes on with, and how many of its orders it has placed. They are too few for it to
/// come to an end by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Life {
    pub(crate) run: u64,
    pub(crate) places: u64,
}

/// What was seen of the processes that were killed.
#[derive(Debug, Default)]
struct Kills {
    number: u32,
    /// How many orders were placed and had not come to their end, each time.
    open: Vec<u64>,
    tally: Tally,
}

impl Demo {
    /// Shows it all.
    pub(crate) async fn show(self, out: &mut String) -> Result<(), Exit> {
        let mut interrupted = Interrupted::listen()?;
        // No two lives have the same luck.
        let luck = self.life.map_or(self.seed, |life| self.seed ^ life.places.rotate_left(32));
        let shop = Shop::open(&self.place, true, self.faults, luck).await?;
        let run = |number| Run { seed: self.seed, number, orders: self.orders };
        if let Some(Life { run: number, places }) = self.life {
            let (shop, run) = (Arc::new(shop), run(number));
            let views = shop.views().await?;
            let told =
                Work { places, faults: self.faults, tells: true }.be_done(&shop, run, &mut interrupted).await;
            views.stop().await;
            return told.map(drop);
        }
        let run = run(new_number(&shop, self.seed).await?);
        run.deliver(&shop.factum).await?;
        say(format!("{} orders in {}, seed {}, run {}", count(run.orders), self.place, run.seed, run.number));
        if self.kills == 0 {
            return self.perform(shop, run, Kills::default(), &mut interrupted, out).await;
        }
        shop.close().await?;
        let kills = self.be_killed(run, &mut interrupted).await?;
        let shop = Shop::open(&self.place, true, self.faults, self.seed).await?;
        self.perform(shop, run, kills, &mut interrupted, out).await
    }

    /// Has orders placed and brought to their ends in this process, and prints the ledger.
    async fn perform(
        &self,
        shop: Shop,
        run: Run,
        kills: Kills,
        interrupted: &mut Interrupted,
        out: &mut String,
    ) -> Result<(), Exit> {
        let began = Instant::now();
        let shop = Arc::new(shop);
        let views = shop.views().await?;
        let work = Work { places: run.orders, faults: self.faults, tells: false };
        let restarts = work.be_done(&shop, run, interrupted).await?;
        audit(&shop, &views, Some(&run), out).await?;
        let Kills { number, open, mut tally } = kills;
        tally += shop.provider.tally();
        *out += &format!(
            "Of {} requests to the provider, {} were lost, {} done and not answered, and {} late.\n",
            count(tally.requests),
            count(tally.lost),
            count(tally.unanswered),
            count(tally.late),
        );
        if number > 0 {
            let (least, most) = (open.iter().min().copied(), open.iter().max().copied());
            *out += &format!(
                "The program was killed {number} times on the way, with {} to {} orders open.\n",
                count(least.unwrap_or_default()),
                count(most.unwrap_or_default()),
            );
        }
        *out += &format!(
            "The workers were restarted {} times{}; it took {:.1} s.\n",
            count(restarts),
            if number > 0 { " since then" } else { "" },
            began.elapsed().as_secs_f64()
        );
        views.stop().await;
        drop(views);
        match Arc::into_inner(shop) {
            Some(shop) => shop.close().await,
            None => Ok(()),
        }
    }

    /// Does the same in one child after the other, each of which is killed in the middle of its work: the kills are spread evenly over
    /// the orders.
    async fn be_killed(&self, run: Run, interrupted: &mut Interrupted) -> Result<Kills, Exit> {
        let (mut random, mut kills) = (fastrand::Rng::with_seed(self.seed), Kills::default());
        let share = run.orders / u64::from(self.kills + 1);
        for kill in 1..=self.kills {
            // When so many orders have ended, it is killed, while others are on their way.
            let ended = run.orders * u64::from(kill) / u64::from(self.kills + 1);
            // Some lives are killed while customers check out, others when they have done that.
            let ahead = (share * random.u64(1..6)).max(AT_ONCE);
            let places = (ended + ahead).min(run.orders.saturating_sub(1));
            let mut child = self.child(Life { run: run.number, places })?;
            let (far, tally) = tokio::select! {
                told = Self::hear_of(&mut child, ended, places) => match told? {
                    Some(told) => told,
                    None => {
                        let output = child.wait_with_output().await?;
                        let told = String::from_utf8_lossy(&output.stderr).into_owned();
                        let ended = output.status;
                        return Err(Exit::failed(format!("it failed after {} kills ({ended}): {}", kill - 1, told.trim_end())));
                    }
                },
                () = interrupted.asked() => {
                    child.kill().await?;
                    return Err(interrupted_on_the_way());
                }
            };
            sleep(Duration::from_millis(random.u64(0..20))).await;
            child.kill().await?;
            kills.number += 1;
            kills.open.push(far.placed - far.ended);
            kills.tally += tally;
            let (number, of) = (kills.number, self.kills);
            say(format!(
                "killed {number} of {of} times, with {} orders placed and {} ended",
                far.placed, far.ended
            ));
        }
        Ok(kills)
    }

    /// Waits until so many orders have ended, and not all that it places have. `None`: it is gone.
    async fn hear_of(
        child: &mut tokio::process::Child,
        ended: u64,
        places: u64,
    ) -> Result<Option<(HowFar, Tally)>, Exit> {
        let Some(told) = child.stdout.take() else { return Ok(None) };
        let mut lines = BufReader::new(told).lines();
        while let Some(line) = lines.next_line().await? {
            let Some((far, tally)) = HowFar::told(&line) else { continue };
            if far.ended >= ended && (far.ended < far.placed || far.ended >= places) {
                return Ok(Some((far, tally)));
            }
        }
        Ok(None)
    }

    fn child(&self, life: Life) -> Result<tokio::process::Child, Exit> {
        let faults = clap::ValueEnum::to_possible_value(&self.faults);
        let faults = faults.as_ref().map_or("off", |faults| faults.get_name()).to_owned();
        let mut command = tokio::process::Command::new(std::env::current_exe()?);
        command.arg("demo").args(["--faults", &faults]);
        for (name, number) in
            [("--run", life.run), ("--places", life.places), ("--seed", self.seed), ("--orders", self.orders)]
        {
            command.args([name, &number.to_string()]);
        }
        match &self.place {
            Place::Directory(directory) => command.arg("--data").arg(directory),
            Place::Postgres { url, schema } => command.args(["--store", url, "--schema", schema]),
        };
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        Ok(command.spawn()?)
    }
}

/// The work of a process.
#[derive(Clone, Copy, Debug)]
struct Work {
    /// How many of the orders are placed.
    places: u64,
    faults: Faults,
    /// Whether it says how far it is, for whoever is to kill it.
    tells: bool,
}

impl Work {
    /// Has orders placed and brought to their ends. How often the workers were restarted.
    async fn be_done(self, shop: &Arc<Shop>, run: Run, interrupted: &mut Interrupted) -> Result<u64, Exit> {
        let workers = Gremlin::start(shop.clone(), self.faults).await?;
        let buyers = tokio::spawn(buy(shop.clone(), run, self.places));
        let buying = buyers.abort_handle();
        let outcome = tokio::select! {
            done = watch_over(shop, run, buyers, self.tells) => done,
            () = interrupted.asked() => Err(interrupted_on_the_way()),
        };
        buying.abort();
        let restarts = workers.stop().await?;
        outcome.map(|()| restarts)
    }
}

fn interrupted_on_the_way() -> Exit {
    Exit::interrupted("interrupted; orders that are open go on with the next command")
}

/// The first number that no run of this seed has had: a run begins with its first delivery.
async fn new_number(shop: &Shop, seed: u64) -> Result<u64, Exit> {
    let mut run = Run { seed, number: 1, orders: 0 };
    loop {
        let begun = Read::query(Query::tags([command_tag(run.first_delivery())])?).limit(1);
        if shop.factum.store().read(begun).await?.events.is_empty() {
            return Ok(run.number);
        }
        run.number += 1;
    }
}

/// Has the first orders of a run placed, if they are not placed yet.
async fn buy(shop: Arc<Shop>, run: Run, places: u64) -> Result<(), Exit> {
    let mut placed = HashSet::new();
    let orders = Read::query(OrderEvent::query()?);
    for record in shop.factum.store().read_to_end(orders).await? {
        placed.insert(record.stream.id().to_owned());
    }
    let (placed, next, mut buyers) = (Arc::new(placed), Arc::new(AtomicU64::new(0)), JoinSet::new());
    for _ in 0..AT_ONCE {
        let (shop, placed, next) = (shop.clone(), placed.clone(), next.clone());
        buyers.spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= places {
                    return Ok(());
                }
                if !placed.contains(&run.order(n)) {
                    run.shop(n, &shop.factum).await?;
                }
            }
        });
    }
    buyers.join_all().await.into_iter().collect()
}

/// Shows how far it is, until all orders have come to an end.
async fn watch_over(
    shop: &Shop,
    run: Run,
    buyers: JoinHandle<Result<(), Exit>>,
    tells: bool,
) -> Result<(), Exit> {
    let bar = ProgressBar::new(run.orders);
    // The template is fixed; should it ever be wrong, the bar looks plainer.
    if let Ok(style) =
        ProgressStyle::with_template("{wide_bar} {pos} of {len} orders ended  {msg}  {elapsed}")
    {
        bar.set_style(style);
    }
    let mut buyers = Some(buyers);
    let (mut far, mut seen, mut moved) = (HowFar::default(), None, Instant::now());
    loop {
        if buyers.as_ref().is_some_and(JoinHandle::is_finished)
            && let Some(buyers) = buyers.take()
        {
            buyers.await.map_err(|gone| Exit::failed(format!("the customers have left: {gone}")))??;
        }
        let last = far;
        far.look(shop, run, &mut seen).await?;
        bar.set_position(far.ended);
        bar.set_message(format!("{} placed", far.placed));
        if tells {
            far.tell(shop.provider.tally());
        }
        if far.ended >= run.orders {
            bar.finish_and_clear();
            return Ok(());
        }
        if far != last {
            moved = Instant::now();
        } else if moved.elapsed() > GIVEN_UP_AFTER {
            bar.finish_and_clear();
            let open = count(run.orders - far.ended);
            return Err(Exit::failed(format!(
                "{open} orders have not come to an end, and nothing has moved for {} s; `shop parked` shows what was set aside",
                GIVEN_UP_AFTER.as_secs()
            )));
        }
        sleep(if tells { TOLD_EVERY } else { LOOKS_EVERY }).await;
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct HowFar {
    placed: u64,
    ended: u64,
}

impl HowFar {
    /// Counts what has happened since it was looked last.
    async fn look(&mut self, shop: &Shop, run: Run, seen: &mut Option<Token>) -> Result<(), Exit> {
        let mut orders = Read::query(OrderEvent::query()?);
        if let Some(seen) = *seen {
            orders = orders.beyond(seen);
        }
        let (mut records, mut last) = (Vec::new(), None);
        let pages = shop.factum.store().read_pages(orders, |page| {
            last = Some(page.token);
            records.extend(page.events);
            Ok::<_, factum::Error>(())
        });
        pages.await?;
        for Recorded { event, record } in Recorded::<OrderEvent>::decode_all(records)? {
            if !run.has(record.stream.id()) {
                continue;
            }
            match event {
                OrderEvent::Placed { .. } => self.placed += 1,
                OrderEvent::Completed { .. } | OrderEvent::Cancelled { .. } => self.ended += 1,
            }
        }
        *seen = last.or(*seen);
        Ok(())
    }

    /// Says it to whoever is to kill this process. If nobody listens, nobody will.
    fn tell(self, tally: Tally) {
        let Self { placed, ended } = self;
        let Tally { requests, lost, unanswered, late } = tally;
        let line = format!("{placed} {ended} {requests} {lost} {unanswered} {late}\n");
        let _ = std::io::stdout().lock().write_all(line.as_bytes());
    }

    /// What was told, if the line came whole.
    fn told(line: &str) -> Option<(Self, Tally)> {
        let numbers: Result<Vec<u64>, _> = line.split(' ').map(str::parse).collect();
        let [placed, ended, requests, lost, unanswered, late] = numbers.ok()?.try_into().ok()?;
        Some((Self { placed, ended }, Tally { requests, lost, unanswered, late }))
    }
}

/// Has the workers work, and stops and begins them again at random moments: some in good order, some dropped as they are.
struct Gremlin {
    stop: watch::Sender<bool>,
    mischief: JoinHandle<factum::Result<u64>>,
}

impl Gremlin {
    async fn start(shop: Arc<Shop>, faults: Faults) -> Result<Self, Exit> {
        let (stop, mut stopped) = watch::channel(false);
        let mut working = begin(&shop).await?;
        let mischief = tokio::spawn(async move {
            let pauses = match faults {
                Faults::Off => None,
                Faults::Some => Some(500..2_000),
                Faults::Many => Some(50..500),
            };
            let mut random = fastrand::Rng::with_seed(0);
            let mut restarts = 0;
            loop {
                let pause = pauses.clone().map(|pauses| Duration::from_millis(random.u64(pauses)));
                tokio::select! {
                    () = async { match pause { Some(pause) => sleep(pause).await, None => std::future::pending().await } } => {}
                    _ = stopped.wait_for(|stopped| *stopped) => break,
                }
                if random.bool() {
                    working.0.stop().await;
                    working.1.stop().await;
                }
                drop(working);
                working = begin(&shop).await?;
                restarts += 1;
            }
            working.0.stop().await;
            working.1.stop().await;
            Ok(restarts)
        });
        Ok(Self { stop, mischief })
    }

    /// Has them finish what is in hand. How often they were begun again.
    async fn stop(self) -> Result<u64, Exit> {
        self.stop.send_replace(true);
        let ended =
            self.mischief.await.map_err(|gone| Exit::failed(format!("the workers are gone: {gone}")))?;
        Ok(ended?)
    }
}

async fn begin(shop: &Shop) -> factum::Result<(Process<Fulfilment>, Processor)> {
    let payers = shop.factum.handler(Payers { factum: shop.factum.clone() }).partitions(4).lease(LEASE);
    Ok((shop.fulfil().await?, payers.start(shop.reads.clone()).await?))
}
