//! The migration: the bank's recorded history goes into the log as facts, which no rule may refuse.
//!
//! A row becomes its facts in one append or not at all, and its ids follow from the row: however often an import is cut off
//! and run again, each row is recorded once.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use factum::{
    Aggregate, Append, Appended, Error, Event, EventId, EventStore, EventStoreExt, Metadata, NewEvent, Query,
    Read, Recorded, Token, Write, codec,
};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::{
    account::{Account, AccountEvent},
    books::{Books, Entry, Misfit},
    exit::{Exit, Kind},
    kept::Way,
    ledger::{Ledger, Place},
    money::Money,
    progress::Progress,
    show::{count, say},
    source::{AccountRow, FromRow, Source, TransactionRow},
};

/// Rows and bytes in one append, far below what a store takes at most. Larger ones gain nothing: the disk is synced once for
/// each, and a server is asked twice.
const ROWS_AT_ONCE: usize = 2000;
const BYTES_AT_ONCE: usize = 4 << 20;

/// What to do about a bad row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum OnError {
    /// Import nothing after it
    Stop,
    /// Leave it out, say so, and go on
    Skip,
}

/// What to import, and how.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) accounts: PathBuf,
    pub(crate) transactions: PathBuf,
    pub(crate) on_error: OnError,
    pub(crate) tolerance: Money,
    /// How the read model is kept from now on; `None`: as it is.
    pub(crate) way: Option<Way>,
}

/// Imports both files into the ledger in `place`, and tells what came of it.
pub(crate) async fn import(request: &Request, place: &Place, out: &mut String) -> Result<(), Exit> {
    place.check(request.way)?;
    // Both are looked at before anything is made: a wrong name must not leave an empty ledger behind.
    let accounts = Source::<AccountRow>::open(&request.accounts)?;
    let transactions = Source::<TransactionRow>::open(&request.transactions)?;
    let interrupted = interruption()
        .map_err(|error| Exit::new(Kind::Other, format!("cannot listen for Ctrl-C: {error}")))?;
    let ledger = Ledger::open_or_begin(place).await?;
    if let Some(way) = request.way {
        ledger.keep(way).await?;
    }
    let mut balances = ledger.balances().await.map_err(again)?;
    let mut migration = Migration::begin(&ledger, request, interrupted).await.map_err(again)?;
    let opened = migration.run(accounts, Books::open).await?;
    let booked = migration.run(transactions, Books::book).await?;
    ledger.catch_up(&mut balances, migration.seen).await.map_err(again)?;
    let told = migration.summary(&opened, &booked);
    ledger.close().await?;
    *out += &told;
    Ok(())
}

/// The same, and how to go on, if what failed may do well the next time.
fn again(exit: Exit) -> Exit {
    match exit.kind() {
        Kind::Storage => exit.but("run the same command again to go on, nothing will be doubled"),
        _ => exit,
    }
}

/// Becomes true when the user presses Ctrl-C, or the system asks the process to end. The second time ends it at once, which
/// harms nothing either.
fn interruption() -> io::Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = interrupted.clone();
    let mut requests = Requests::new()?;
    tokio::spawn(async move {
        while requests.next().await {
            if flag.swap(true, Ordering::Relaxed) {
                std::process::exit(Kind::Interrupted as i32);
            }
        }
    });
    Ok(interrupted)
}

/// Requests to end, heard from the moment this is made.
#[cfg(unix)]
struct Requests {
    pressed: tokio::signal::unix::Signal,
    terminated: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Requests {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { pressed: signal(SignalKind::interrupt())?, terminated: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) -> bool {
        tokio::select! {
            pressed = self.pressed.recv() => pressed.is_some(),
            terminated = self.terminated.recv() => terminated.is_some(),
        }
    }
}

/// Requests to end.
#[cfg(not(unix))]
struct Requests;

#[cfg(not(unix))]
impl Requests {
    fn new() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> bool {
        tokio::signal::ctrl_c().await.is_ok()
    }
}

/// What became of the rows of one file.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    new: u64,
    recorded: u64,
    left_out: u64,
}

impl Tally {
    fn rows(&self) -> u64 {
        self.new + self.recorded + self.left_out
    }
}

/// Rows that are written together: all of them, or none.
#[derive(Debug, Default)]
struct Batch {
    append: Append,
    rows: usize,
    bytes: usize,
}

/// An import under way.
struct Migration<'a> {
    store: Arc<dyn EventStore>,
    request: &'a Request,
    interrupted: Arc<AtomicBool>,
    books: Books,
    /// How far the log is known: nobody else may write while this goes on.
    seen: Token,
    batch: Batch,
    /// While it is written, the next rows are read.
    on_its_way: Option<JoinHandle<Result<Appended, Error>>>,
    roundings: (u64, Money),
    brought_forward: u64,
}

impl<'a> Migration<'a> {
    /// Reads from the log what is recorded already.
    async fn begin(
        ledger: &'a Ledger,
        request: &'a Request,
        interrupted: Arc<AtomicBool>,
    ) -> Result<Self, Exit> {
        let store = ledger.factum.store().clone();
        let (mut books, mut seen) = (Books::new(request.tolerance), None);
        let read = Read::query(Query::category(AccountEvent::CATEGORY)).limit(4096);
        store
            .read_pages(read, |page| {
                seen = Some(page.token);
                for Recorded { event, record } in Recorded::<AccountEvent>::decode_all(page.events)? {
                    books.note(record.stream.id(), record.id, &event);
                }
                Ok::<_, Error>(())
            })
            .await?;
        let seen = match seen {
            Some(token) => token,
            None => store.head().await?.token,
        };
        if books.accounts() > 0 {
            say(format!(
                "the ledger holds {} accounts; what it has of these files is not imported again",
                count(books.accounts() as u64)
            ));
        }
        Ok(Self {
            store,
            request,
            interrupted,
            books,
            seen,
            batch: Batch::default(),
            on_its_way: None,
            roundings: (0, Money::ZERO),
            brought_forward: 0,
        })
    }

    /// Imports all rows of a file.
    async fn run<T: FromRow>(
        &mut self,
        mut source: Source<T>,
        enter: fn(&mut Books, &T) -> Result<Entry, Misfit>,
    ) -> Result<Tally, Exit> {
        let mut tally = Tally::default();
        let mut progress = Progress::of(&source);
        let flow = format!("import-{}", source.name());
        loop {
            let row = match source.next() {
                Ok(Some(row)) => row,
                Ok(None) => break,
                Err(unreadable) => return Err(self.stop::<T>(&tally, unreadable.into()).await),
            };
            let entry = row.content.and_then(|content: T| {
                let entry = enter(&mut self.books, &content).map_err(|misfit| misfit.to_string())?;
                Ok((entry, content))
            });
            match entry {
                Ok((Entry::Recorded, _)) => tally.recorded += 1,
                Ok((Entry::New(events), content)) => {
                    tally.new += 1;
                    let metadata = metadata(&flow, &source.name(), row.line)?;
                    self.add(content.account(), &events, &metadata).await?;
                }
                Err(reason) => {
                    let place = format!("{}, line {}", source.shown(), row.line);
                    let bad = Exit::new(Kind::BadInput, format!("{place}: {reason}"));
                    if self.request.on_error == OnError::Stop {
                        return Err(self.stop::<T>(&tally, bad).await);
                    }
                    tally.left_out += 1;
                    progress.tell(&format!("left out: {bad}"));
                }
            }
            progress.at(source.bytes_read(), tally.rows());
            if self.interrupted.load(Ordering::Relaxed) {
                let asked = Exit::new(
                    Kind::Interrupted,
                    format!("interrupted at line {} of {}", row.line, source.shown()),
                );
                return Err(self.stop::<T>(&tally, asked).await);
            }
        }
        self.write_all().await?;
        progress.finish();
        Ok(tally)
    }

    async fn add(
        &mut self,
        account: &str,
        events: &[(EventId, AccountEvent)],
        metadata: &Metadata,
    ) -> Result<(), Exit> {
        let stream = Account::id(account).stream()?;
        for (_, event) in events {
            match event {
                AccountEvent::BalanceRounded { amount, .. } => {
                    self.roundings.0 += 1;
                    self.roundings.1 += *amount;
                }
                AccountEvent::BalanceBroughtForward { .. } => self.brought_forward += 1,
                _ => {}
            }
        }
        let encoded = events
            .iter()
            .map(|(id, event)| Ok(codec::encode(event)?.with_id(*id).with_metadata(metadata.clone())));
        let encoded = encoded.collect::<Result<Vec<_>, Error>>()?;
        let bytes: usize = encoded.iter().map(NewEvent::size).sum();
        if self.batch.rows == ROWS_AT_ONCE || self.batch.bytes + bytes > BYTES_AT_ONCE {
            self.send().await?;
        }
        self.batch.append.writes.push(Write { stream, events: encoded });
        self.batch.rows += 1;
        self.batch.bytes += bytes;
        Ok(())
    }

    /// Sends the rows that have come together, once those before them are written.
    async fn send(&mut self) -> Result<(), Exit> {
        self.arrived().await?;
        let Batch { append, rows, .. } = std::mem::take(&mut self.batch);
        if rows > 0 {
            let nobody_else = Query::category(AccountEvent::CATEGORY);
            let append = append.expect_none(nobody_else, self.seen);
            let store = self.store.clone();
            self.on_its_way = Some(tokio::spawn(async move { store.append(append).await }));
        }
        Ok(())
    }

    /// Waits until what is on its way is written.
    async fn arrived(&mut self) -> Result<(), Exit> {
        let Some(on_its_way) = self.on_its_way.take() else { return Ok(()) };
        let appended =
            on_its_way.await.map_err(|error| Exit::new(Kind::Other, format!("it broke: {error}")))?;
        let appended = appended.map_err(|error| {
            let again =
                "everything before is imported; run the same command again to go on, nothing will be doubled";
            Exit::from(error).but(again)
        })?;
        self.seen = appended.token;
        Ok(())
    }

    /// Writes all that has come so far.
    async fn write_all(&mut self) -> Result<(), Exit> {
        self.send().await?;
        self.arrived().await
    }

    /// Writes what came before the trouble, and says how to go on.
    async fn stop<T: FromRow>(&mut self, tally: &Tally, trouble: Exit) -> Exit {
        if let Err(worse) = self.write_all().await {
            return worse;
        }
        let done = count(tally.new + tally.recorded);
        trouble.but(match trouble.kind() {
            Kind::Interrupted => {
                format!(
                    "{done} rows of the {} file are in the ledger; run the same command again to go on",
                    T::WHAT
                )
            }
            _ => format!(
                "the {done} rows before it are in the ledger, and the import stopped there; \
                 correct it and run the same command again, or leave bad rows out with --on-error skip"
            ),
        })
    }

    fn summary(&self, opened: &Tally, booked: &Tally) -> String {
        let mut lines = Vec::new();
        if opened.new + booked.new == 0 {
            lines.push("nothing new".to_owned());
        }
        for (what, Tally { new, recorded, left_out }) in [("accounts", opened), ("transactions", booked)] {
            let [new, recorded, left_out] = [new, recorded, left_out].map(|n| count(*n));
            lines.push(format!("{what}: {new} imported, {recorded} recorded before, {left_out} left out"));
        }
        let (roundings, sum) = self.roundings;
        if roundings > 0 {
            let roundings = count(roundings);
            lines.push(format!(
                "{roundings} rounding differences of the bank recorded as facts of their own, {sum} in all"
            ));
        }
        if self.brought_forward > 0 {
            let brought = count(self.brought_forward);
            lines.push(format!(
                "{brought} balances brought forward, of accounts whose records begin in mid-life"
            ));
        }
        lines.push(format!("the log is at position {}, and the read model with it", self.seen.position));
        lines.join("\n") + "\n"
    }
}

/// Who and why: the import, and the line that it read.
fn metadata(flow: &str, file: &str, line: u64) -> Result<Metadata, Error> {
    let source = json!({ "file": file, "line": line });
    let known = [("actor", json!("import")), ("correlation_id", json!(flow)), ("source", source)];
    Metadata::from_object(&known.map(|(key, value)| (key.to_owned(), value)).into_iter().collect())
}
