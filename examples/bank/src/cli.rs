//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use factum::{Aggregate, Clock, Revision, SystemClock};
use jiff::civil::Date;

use crate::{
    account::Account,
    audit, demo,
    exit::{EXIT_CODES, Exit, Kind},
    import::{self, OnError},
    kept::Way,
    ledger::Place,
    money::Money,
    report::{self, When},
    show::Format,
    source::parse_day,
    teller::Teller,
};

/// A bank whose accounts are event-sourced with factum: every change is a fact in an append-only log
#[derive(Debug, Parser)]
#[command(name = "bank", version, after_help = EXIT_CODES, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show what this is, on a small sample in memory
    Demo,
    /// Import a bank's recorded history as facts; run again, it goes on where it stopped
    Import(Import),
    /// Print the balances of all accounts, from the read model
    Balances {
        #[command(flatten)]
        data: Data,
        /// `csv` prints `account_id,balance`. Sorted by account: ids that are numbers first, by value
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Print the balance of one account, now or at an earlier moment, by a fold of the log
    Balance {
        /// The account
        #[arg(value_parser = account_id)]
        account: String,
        #[command(flatten)]
        data: Data,
        /// As it was at the end of this day, by the transactions' own dates
        #[arg(long, value_name = "YYYY-MM-DD", value_parser = parse_day, conflicts_with = "at_revision")]
        as_of: Option<Date>,
        /// As it was after the event with this revision, counted from 0
        #[arg(long, value_name = "N")]
        at_revision: Option<u64>,
        /// How to print it
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Print all that happened to one account: what, when, by whom and why
    History {
        /// The account
        #[arg(value_parser = account_id)]
        account: String,
        #[command(flatten)]
        data: Data,
        /// How to print it
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Open an account, with a first deposit or without; begins a ledger where there is none
    Open {
        /// The new account: any name without control characters
        #[arg(value_parser = account_id)]
        account: String,
        /// The first deposit
        #[arg(allow_negative_numbers = true)]
        amount: Option<Money>,
        #[command(flatten)]
        work: Work,
    },
    /// Put money into an account
    Deposit {
        /// The account
        #[arg(value_parser = account_id)]
        account: String,
        /// How much, like 12.50
        #[arg(allow_negative_numbers = true)]
        amount: Money,
        #[command(flatten)]
        work: Work,
    },
    /// Take money out of an account, if it is there
    Withdraw {
        /// The account
        #[arg(value_parser = account_id)]
        account: String,
        /// How much, like 12.50
        #[arg(allow_negative_numbers = true)]
        amount: Money,
        #[command(flatten)]
        work: Work,
    },
    /// Move money from one account to another: both are changed, or neither
    Transfer {
        /// The account that pays
        #[arg(value_parser = account_id)]
        from: String,
        /// The account that is paid
        #[arg(value_parser = account_id)]
        to: String,
        /// How much, like 12.50
        #[arg(allow_negative_numbers = true)]
        amount: Money,
        #[command(flatten)]
        work: Work,
    },
    /// Compare the read model with a fold of the log, and the log with the balances that the bank recorded
    Verify(Data),
    /// Make the read model again from the start of the log; the present one is read until the new one takes its place
    Rebuild {
        #[command(flatten)]
        data: Data,
        #[command(flatten)]
        read_model: ReadModel,
    },
    /// Print how far the log and the read model are
    Status(Data),
}

/// Where the ledger is.
#[derive(Debug, Args)]
struct Data {
    #[command(flatten)]
    one_of: DirectoryOrStore,
    /// The schema of the database, if it holds more than one ledger [default: factum]
    #[arg(long, value_name = "NAME")]
    schema: Option<String>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct DirectoryOrStore {
    /// The directory of the ledger: the log is in DIR/log, the read model in DIR/read.db
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The PostgreSQL database of the ledger, instead of a directory: postgres://user:password@host:5432/database
    #[arg(long, value_name = "URL")]
    store: Option<String>,
}

impl Data {
    fn place(self) -> Result<Place, Exit> {
        match (self.one_of.data, self.one_of.store) {
            (Some(_), _) if self.schema.is_some() => {
                let sentence = "--schema goes with --store; a directory has no schemas";
                Err(Exit::new(Kind::Usage, sentence))
            }
            (Some(directory), _) => Place::directory(directory),
            (None, Some(url)) => Place::postgres(url, self.schema),
            (None, None) => Err(Exit::new(Kind::Usage, "say where the ledger is, by --data or --store")),
        }
    }
}

/// How the read model is kept.
#[derive(Debug, Args)]
struct ReadModel {
    /// How the read model is kept from now on, by whatever process [default: as it is, which is in the background at first]
    #[arg(long, value_name = "HOW", value_enum)]
    read_model: Option<Way>,
}

/// Where a command is done, and for whom.
#[derive(Debug, Args)]
struct Work {
    #[command(flatten)]
    data: Data,
    /// Who asks for it; the event's metadata keeps the name
    #[arg(long, value_name = "NAME", default_value = "teller", value_parser = name)]
    by: String,
}

impl Work {
    async fn teller(self, clock: &dyn Clock, begin: bool) -> Result<Teller, Exit> {
        Teller::at(&self.data.place()?, &self.by, clock, begin).await
    }
}

#[derive(Debug, Args)]
struct Import {
    /// CSV: account_id, district_id, statement_frequency, opened_on
    #[arg(long, value_name = "FILE")]
    accounts: PathBuf,
    /// CSV: transaction_id, account_id, date, direction (credit|debit), operation, purpose, amount, balance_after,
    /// counterparty_bank, counterparty_account
    #[arg(long, value_name = "FILE")]
    transactions: PathBuf,
    #[command(flatten)]
    data: Data,
    /// What to do about a bad row. With `skip`, rows that are left out are listed, and the exit code is 0 all the same
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = OnError::Stop)]
    on_error: OnError,
    /// How far the bank's balance may be from the sum: a smaller difference is recorded as a rounding, a larger one is a bad row
    #[arg(long, value_name = "AMOUNT", default_value = "0.10", value_parser = tolerance, allow_negative_numbers = true)]
    tolerance: Money,
    #[command(flatten)]
    read_model: ReadModel,
}

/// Bytes in the name of whoever asks, at most.
const NAME_BYTES: usize = 256;

fn name(text: &str) -> Result<String, String> {
    match text.chars().find(|c| c.is_control()) {
        _ if text.is_empty() => Err("it is empty; give it at least one character".to_owned()),
        _ if text.len() > NAME_BYTES => {
            Err(format!("it has {} bytes; {NAME_BYTES} are the most", text.len()))
        }
        Some(bad) => Err(format!("it holds the control character U+{:04X}; leave it out", u32::from(bad))),
        None => Ok(text.to_owned()),
    }
}

/// A name that a stream can be named after.
fn account_id(text: &str) -> Result<String, String> {
    let account = name(text)?;
    Account::id(text).stream().map(|_| account).map_err(|error| error.to_string())
}

fn tolerance(text: &str) -> Result<Money, String> {
    let tolerance: Money = text.parse().map_err(|error: crate::money::NotMoney| error.to_string())?;
    if tolerance.is_negative() {
        Err("it is negative; 0.00 accepts no difference".to_owned())
    } else {
        Ok(tolerance)
    }
}

impl Cli {
    /// Does what was asked; what there is to print comes to `out`.
    pub(crate) async fn run(self, out: &mut String) -> Result<(), Exit> {
        let clock = SystemClock;
        match self.verb {
            Verb::Demo => demo::demo(out).await,
            Verb::Import(Import { accounts, transactions, data, on_error, tolerance, read_model }) => {
                let way = read_model.read_model;
                let request = import::Request { accounts, transactions, on_error, tolerance, way };
                import::import(&request, &data.place()?, out).await
            }
            Verb::Balances { data, format } => report::balances(&data.place()?, format, out).await,
            Verb::Balance { account, data, as_of, at_revision, format } => {
                let when = match (as_of, at_revision) {
                    (Some(day), _) => When::Day(day),
                    (None, Some(revision)) => When::Revision(Revision(revision)),
                    (None, None) => When::Now,
                };
                report::balance(&data.place()?, &account, when, format, out).await
            }
            Verb::History { account, data, format } => {
                report::history(&data.place()?, &account, format, out).await
            }
            Verb::Open { account, amount, work } => {
                work.teller(&clock, true).await?.open(&account, amount, out).await
            }
            Verb::Deposit { account, amount, work } => {
                work.teller(&clock, false).await?.deposit(&account, amount, out).await
            }
            Verb::Withdraw { account, amount, work } => {
                work.teller(&clock, false).await?.withdraw(&account, amount, out).await
            }
            Verb::Transfer { from, to, amount, work } => {
                work.teller(&clock, false).await?.transfer(&from, &to, amount, out).await
            }
            Verb::Verify(data) => audit::verify(&data.place()?, out).await,
            Verb::Rebuild { data, read_model } => {
                report::rebuild(&data.place()?, read_model.read_model, out).await
            }
            Verb::Status(data) => report::status(&data.place()?, out).await,
        }
    }
}
