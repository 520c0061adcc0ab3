//! The program as its users run it, and small ledgers made up for it.

#![allow(dead_code, reason = "each file of tests uses its part")]
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests write the files that the program reads, and may fail"
)]

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
};

use factum::{Append, EventStore, EventStoreExt, Read, RecordedEvent};
use factum_postgres::PostgresStore;
use tempfile::TempDir;
use tokio_postgres::NoTls;

/// The PostgreSQL that `cargo xtask test postgres` has started. Without it, tests that need one are skipped and say so.
pub(crate) fn server() -> Option<String> {
    let server = std::env::var("FACTUM_TEST_POSTGRES").ok();
    if server.is_none() {
        println!("skipped: no server; run `cargo xtask test postgres`, or name one in FACTUM_TEST_POSTGRES");
    }
    server
}

pub(crate) const ACCOUNTS: &str = "account_id,district_id,statement_frequency,opened_on\n";
pub(crate) const TRANSACTIONS: &str = "transaction_id,account_id,date,direction,operation,purpose,amount,balance_after,counterparty_bank,counterparty_account\n";

pub(crate) const ONE: &str = "1,10,monthly,1993-01-01\n";
pub(crate) const TWO: &str = "2,10,weekly,1993-01-01\n";

/// A row of account 1: `credit` or `debit`.
pub(crate) fn row(id: u32, day: &str, direction: &str, amount: &str, balance_after: &str) -> String {
    format!("{id},1,{day},{direction},cash,,{amount},{balance_after},,\n")
}

/// Three rows of account 1, which then holds 120.00.
pub(crate) fn three() -> String {
    row(1, "1993-01-01", "credit", "100.00", "100.00")
        + &row(2, "1993-01-02", "credit", "50.00", "150.00")
        + &row(3, "1993-01-03", "debit", "30.00", "120.00")
}

pub(crate) fn held(bank: &Bank, account: &str) -> Option<i64> {
    bank.balances().get(account).copied()
}

/// A ledger with two accounts.
pub(crate) fn small(new: fn() -> Bank) -> Bank {
    let bank = new();
    bank.run(&["open", "es-acc-001", "100"]).succeeds();
    bank.run(&["open", "es-acc-002", "500.50"]).succeeds();
    bank
}

/// Says this to the server, by hand.
pub(crate) fn sql(statements: &str) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(&server().unwrap(), NoTls).await.unwrap();
        tokio::spawn(connection);
        let answers = client.simple_query(statements).await.unwrap();
        let rows = answers.iter().filter_map(|answer| match answer {
            tokio_postgres::SimpleQueryMessage::CommandComplete(rows) => Some(*rows),
            _ => None,
        });
        rows.last().unwrap_or_default()
    })
}

/// A ledger, or room for one, and a directory with files beside it.
pub(crate) struct Bank {
    directory: TempDir,
    /// The URL of a database and a schema in it, if the ledger is not in the directory.
    schema: Option<(String, String)>,
}

/// How the program ended.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Bank {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), schema: None }
    }

    /// One in a schema of its own in the database that [`server`] names.
    pub(crate) fn on_postgres() -> Self {
        let schema = format!("t_{}", factum::EventId::new().0.simple());
        Self { schema: Some((server().unwrap(), schema)), ..Self::new() }
    }

    /// The schema of the ledger.
    pub(crate) fn schema(&self) -> &str {
        &self.schema.as_ref().unwrap().1
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Where the ledger is.
    pub(crate) fn data(&self) -> PathBuf {
        self.path().join("ledger")
    }

    /// Whether there is anything of a ledger.
    pub(crate) fn is_made(&self) -> bool {
        let Some((_, schema)) = &self.schema else { return self.data().exists() };
        let made =
            sql(&format!("SELECT 1 FROM pg_namespace WHERE nspname IN ('{schema}', '{schema}_reads')"));
        assert_ne!(made, 1, "the store's schema comes with the one of its read models");
        made > 0
    }

    /// Writes a file beside the ledger.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// `bank …`, without a ledger.
    pub(crate) fn bare(arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bank"));
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// `bank …` and the ledger.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Self::bare(arguments);
        match &self.schema {
            None => command.arg("--data").arg(self.data()),
            Some((url, schema)) => command.args(["--store", url, "--schema", schema]),
        };
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Answer {
        Answer::of(self.command(arguments))
    }

    pub(crate) fn import_command(&self, accounts: &Path, transactions: &Path, more: &[&str]) -> Command {
        let mut command = self.command(&["import"]);
        command.arg("--accounts").arg(accounts).arg("--transactions").arg(transactions).args(more);
        command
    }

    pub(crate) fn import(&self, accounts: &Path, transactions: &Path, more: &[&str]) -> Answer {
        Answer::of(self.import_command(accounts, transactions, more))
    }

    /// Imports rows: the first lines of the files need not be given.
    pub(crate) fn import_rows(&self, accounts: &str, transactions: &str, more: &[&str]) -> Answer {
        let accounts = self.file("accounts.csv", format!("{ACCOUNTS}{accounts}"));
        let transactions = self.file("transactions.csv", format!("{TRANSACTIONS}{transactions}"));
        self.import(&accounts, &transactions, more)
    }

    /// What `bank balances --format csv` prints, read.
    pub(crate) fn balances(&self) -> Balances {
        let answer = self.run(&["balances", "--format", "csv"]).succeeds();
        let mut lines = answer.out.lines();
        assert_eq!(lines.next(), Some("account_id,balance"));
        let read = |line: &str| {
            let (account, balance) = line.rsplit_once(',').unwrap();
            (account.to_owned(), hundredths(balance))
        };
        lines.map(read).collect()
    }

    /// All events of the log, read without the program.
    pub(crate) fn events(&self) -> Vec<RecordedEvent> {
        self.at_the_log(async |log| log.read_to_end(Read::all()).await.unwrap())
    }

    /// Writes to the log without the program.
    pub(crate) fn append(&self, append: Append) {
        self.at_the_log(async |log| drop(log.append(append).await.unwrap()));
    }

    fn at_the_log<T>(&self, work: impl AsyncFnOnce(Arc<dyn EventStore>) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let log: Arc<dyn EventStore> = match &self.schema {
                None => {
                    Arc::new(factum_log::Options::new(self.data().join("log")).create(false).open().unwrap())
                }
                Some((url, schema)) => {
                    let options = factum_postgres::Options { schema: schema.clone(), ..Default::default() };
                    Arc::new(PostgresStore::open(url, options).await.unwrap())
                }
            };
            work(log).await
        })
    }

    /// Starts an import whose transactions are fed to it, so that it cannot be over before it is stopped.
    pub(crate) fn fed_import(&self, accounts: &Path) -> Child {
        let mut command = self.import_command(accounts, Path::new("/dev/stdin"), &[]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }
}

impl Answer {
    pub(crate) fn of(mut command: Command) -> Self {
        Self::from(command.output().unwrap())
    }

    #[track_caller]
    pub(crate) fn succeeds(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    /// It ends with this code, says one sentence that holds `words`, and does not panic.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, words: &str) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        let sentence =
            self.err.lines().find(|line| line.starts_with("bank: ") || line.starts_with("error: "));
        assert!(sentence.is_some_and(|sentence| sentence.contains(words)), "{words:?} is not in {self:?}");
        assert!(!self.err.contains("panicked"), "{self:?}");
        self
    }
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// Balances by account, in hundredths: computed without the code under test.
pub(crate) type Balances = BTreeMap<String, i64>;

pub(crate) fn hundredths(text: &str) -> i64 {
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
    let (whole, fraction) = digits.split_once('.').unwrap();
    assert_eq!(fraction.len(), 2, "{text}");
    sign * (whole.parse::<i64>().unwrap() * 100 + fraction.parse::<i64>().unwrap())
}

pub(crate) fn decimal(hundredths: i64) -> String {
    let sign = if hundredths < 0 { "-" } else { "" };
    format!("{sign}{}.{:02}", hundredths.abs() / 100, hundredths.abs() % 100)
}

/// The last balance of each account that the bank recorded in these rows.
pub(crate) fn last_balances(transactions: &str) -> Balances {
    rows_of(transactions).map(|row| (row[1].to_owned(), hundredths(row[7]))).collect()
}

/// The rows of a file, split; none of the files here quotes anything.
pub(crate) fn rows_of(transactions: &str) -> impl Iterator<Item = Vec<&str>> {
    transactions.lines().skip(1).map(|line| line.split(',').collect())
}

/// A made-up ledger: the rows of both files with their first lines, roundings and overdrafts among them.
pub(crate) fn made_up(accounts: usize, rows: usize) -> (String, String) {
    let mut account_rows = ACCOUNTS.to_owned();
    for account in 0..accounts {
        account_rows += &format!("{},{},monthly,1993-01-01\n", account + 1, account % 7);
    }
    let mut transaction_rows = TRANSACTIONS.to_owned();
    let mut balances = vec![0_i64; accounts];
    // Any sequence will do, as long as it is always the same.
    let mut state = 1993_u64;
    let mut any = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        i64::try_from((state >> 33) % below).unwrap()
    };
    for row in 0..rows {
        let account = row % accounts;
        let (amount, credit) = (any(100_000), row < accounts || any(2) == 0);
        let rounding =
            if row < accounts { 0 } else { [0, 0, 0, 0, 10, -10, 5][usize::try_from(any(7)).unwrap()] };
        balances[account] += rounding + if credit { amount } else { -amount };
        let day = row * 360 / rows;
        transaction_rows += &format!(
            "{},{},1993-{:02}-{:02},{},cash,,{},{},,\n",
            1000 + row,
            account + 1,
            day / 30 + 1,
            day % 30 % 28 + 1,
            if credit { "credit" } else { "debit" },
            decimal(amount),
            decimal(balances[account]),
        );
    }
    (account_rows, transaction_rows)
}

/// Gives a child something to read; an error once it is gone.
pub(crate) fn feed(child: &mut Child, bytes: &[u8]) -> std::io::Result<()> {
    child.stdin.as_mut().unwrap().write_all(bytes)
}
