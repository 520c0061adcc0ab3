//! The demonstration: many orders, with faults switched on, and a ledger that balances in the end.

use std::{
    collections::HashSet,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use factum::{
    EventSet, EventStoreExt, Query, Read, handler::Processor, idempotency::command_tag, process::Process,
};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, timeout},
};

use crate::{
    audit::audit,
    exit::Exit,
    fulfilment::Fulfilment,
    order::OrderEvent,
    provider::Faults,
    shop::{Place, Shop},
    shoppers::{HowFar, Payers, Run, Runs},
    show::{count, say},
    signals::Interrupted,
};

/// Customers who are in the shop at once.
const AT_ONCE: u64 = 16;
/// How often it is looked how far it is, and after how long without any progress it is given up.
const LOOKS_EVERY: Duration = Duration::from_millis(100);
const GIVEN_UP_AFTER: Duration = Duration::from_secs(60);

/// How long an order takes, more or less: so the kills are spread over the whole run.
const MS_PER_ORDER: u64 = 5;

/// What is to be shown.
#[derive(Clone, Debug)]
pub(crate) struct Demo {
    pub(crate) place: Place,
    pub(crate) orders: u64,
    pub(crate) faults: Faults,
    pub(crate) seed: u64,
    /// How often the program is killed, and begun again.
    pub(crate) kills: u32,
    /// The number of the run that is gone on with. Nothing: a new one.
    pub(crate) run: Option<u64>,
}

impl Demo {
    /// Shows it all.
    pub(crate) async fn show(self, out: &mut String) -> Result<(), Exit> {
        let mut interrupted = Interrupted::listen()?;
        let shop = Shop::open(&self.place, true, self.faults, self.seed).await?;
        let number = match self.run {
            Some(number) => number,
            None => new_number(&shop, self.seed).await?,
        };
        let run = Run { seed: self.seed, number, orders: self.orders };
        run.deliver(&shop.factum).await?;
        if self.run.is_none() {
            let (orders, seed) = (count(run.orders), self.seed);
            say(format!("{orders} orders in {}, seed {seed}, run {number}", self.place));
        }
        if self.kills == 0 {
            return Self::perform(shop, run, self.faults, &mut interrupted, out).await;
        }
        shop.close().await?;
        let killed = self.be_killed(number, &mut interrupted).await?;
        let shop = Shop::open(&self.place, true, self.faults, self.seed).await?;
        Self::perform(shop, run, self.faults, &mut interrupted, out).await?;
        *out += &format!("The program was killed {killed} times on the way.\n");
        Ok(())
    }

    /// Has orders placed and brought to their ends in this process, and prints the ledger.
    async fn perform(
        shop: Shop,
        run: Run,
        faults: Faults,
        interrupted: &mut Interrupted,
        out: &mut String,
    ) -> Result<(), Exit> {
        let began = Instant::now();
        let shop = Arc::new(shop);
        let views = shop.views().await?;
        let workers = Gremlin::start(shop.clone(), faults).await?;
        let buyers = tokio::spawn(buy(shop.clone(), run));
        let buying = buyers.abort_handle();
        let outcome = tokio::select! {
            done = watch_over(&shop, run, buyers) => done,
            () = interrupted.asked() => Err(Exit::interrupted("interrupted; orders that are open go on with the next command")),
        };
        buying.abort();
        let restarts = workers.stop().await?;
        outcome?;
        audit(&shop, &views, out).await?;
        let tally = shop.provider.tally();
        *out += &format!(
            "Of {} requests to the provider, {} were lost, {} done and not answered, and {} late; the workers were restarted {} times; it took {:.1} s.\n",
            count(tally.requests),
            count(tally.lost),
            count(tally.unanswered),
            count(tally.late),
            restarts,
            began.elapsed().as_secs_f64()
        );
        views.stop().await;
        drop(views);
        match Arc::into_inner(shop) {
            Some(shop) => shop.close().await,
            None => Ok(()),
        }
    }

    /// Does the same in a child, which is killed again and again. How often it was.
    async fn be_killed(&self, number: u64, interrupted: &mut Interrupted) -> Result<u32, Exit> {
        let mut random = fastrand::Rng::with_seed(self.seed);
        // On PostgreSQL it takes a moment until the dead are known to be dead.
        let share = self.orders * MS_PER_ORDER / u64::from(self.kills);
        let lives = match self.place {
            Place::Directory(_) => 300..2_000 + share,
            Place::Postgres { .. } => 2_000..15_000 + share,
        };
        for kill in 0..self.kills {
            let mut child = self.child(number)?;
            let life = Duration::from_millis(random.u64(lives.clone()));
            tokio::select! {
                ended = timeout(life, child.wait()) => match ended {
                    Ok(Ok(ended)) if ended.success() => {
                        say(format!("it was done before it could be killed for the {}. time", kill + 1));
                        return Ok(kill);
                    }
                    Ok(ended) => {
                        let output = child.wait_with_output().await?;
                        let told = String::from_utf8_lossy(&output.stderr).into_owned();
                        return Err(Exit::failed(format!("it failed after {kill} kills ({ended:?}): {}", told.trim_end())));
                    }
                    Err(_) => child.kill().await?,
                },
                () = interrupted.asked() => {
                    child.kill().await?;
                    return Err(Exit::interrupted("interrupted; orders that are open go on with the next command"));
                }
            }
            say(format!(
                "killed {} of {} times, this time after {:.1} s",
                kill + 1,
                self.kills,
                life.as_secs_f64()
            ));
        }
        Ok(self.kills)
    }

    fn child(&self, number: u64) -> Result<tokio::process::Child, Exit> {
        let mut command = tokio::process::Command::new(std::env::current_exe()?);
        let faults = clap::ValueEnum::to_possible_value(&self.faults);
        command.arg("demo").args(["--run", &number.to_string()]).args(["--seed", &self.seed.to_string()]);
        command.args([
            "--orders",
            &self.orders.to_string(),
            "--faults",
            faults.as_ref().map_or("off", |f| f.get_name()),
        ]);
        match &self.place {
            Place::Directory(directory) => command.arg("--data").arg(directory),
            Place::Postgres { url, schema } => command.args(["--store", url, "--schema", schema]),
        };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        Ok(command.spawn()?)
    }
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

/// Has the orders placed that are not placed yet.
async fn buy(shop: Arc<Shop>, run: Run) -> Result<(), Exit> {
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
                if n >= run.orders {
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
async fn watch_over(shop: &Shop, run: Run, buyers: JoinHandle<Result<(), Exit>>) -> Result<(), Exit> {
    let runs = shop.factum.project_in(Runs, shop.reads.clone()).await?;
    let bar = ProgressBar::new(run.orders);
    // The template is fixed; should it ever be wrong, the bar looks plainer.
    if let Ok(style) =
        ProgressStyle::with_template("{wide_bar} {pos} of {len} orders ended  {msg}  {elapsed}")
    {
        bar.set_style(style);
    }
    let mut buyers = Some(buyers);
    let (mut last, mut moved) = (HowFar::default(), Instant::now());
    loop {
        if buyers.as_ref().is_some_and(JoinHandle::is_finished)
            && let Some(buyers) = buyers.take()
        {
            buyers.await.map_err(|gone| Exit::failed(format!("the customers have left: {gone}")))??;
        }
        let far = runs.get(&run.prefix()).await?.unwrap_or_default();
        bar.set_position(far.ended);
        bar.set_message(format!("{} placed", far.placed));
        if far.ended >= run.orders {
            bar.finish_and_clear();
            runs.stop().await;
            return Ok(());
        }
        if far != last {
            (last, moved) = (far, Instant::now());
        } else if moved.elapsed() > GIVEN_UP_AFTER {
            bar.finish_and_clear();
            let open = count(run.orders - far.ended);
            return Err(Exit::failed(format!(
                "{open} orders have not come to an end, and nothing has moved for {} s; `shop parked` shows what was set aside",
                GIVEN_UP_AFTER.as_secs()
            )));
        }
        sleep(LOOKS_EVERY).await;
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
    let payers = shop.factum.handler(Payers { factum: shop.factum.clone() }).partitions(4);
    Ok((shop.fulfil().await?, payers.start(shop.reads.clone()).await?))
}
