//! The real years of a bank, imported by the `bank` example and compared, account by account, with the bank's own last balance.
//!
//! Written without the code under test, down to its decimals: money is whole hundredths here.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::process::Command;

use crate::{
    lanes::Pass,
    servers::Postgres,
    shell::{Shell, Stop, elapsed, now},
};

/// Balances by account, in hundredths.
type Balances = BTreeMap<String, i64>;

/// Kills of the second import: each a little later, as it has come further, and none after half the time of the first one.
const KILLS: u32 = 3;

/// How often all connections of an import are cut on the way.
const CUTS: u32 = 3;

/// Imports every period in `data`, once undisturbed and once killed on the way, and compares all balances: in directories, and on
/// a PostgreSQL of its own where there is one to start.
pub(crate) async fn run(shell: &mut Shell, data: &Path) -> Result<Pass, Stop> {
    let periods = periods_in(data)?;
    if periods.is_empty() {
        let why = format!(
            "no transactions-YEAR.csv with its accounts-YEAR.csv in {}; name another with --bank-data",
            data.display()
        );
        return Ok(Pass::Skipped(why));
    }
    shell.run(shell.cargo(&["build", "--release", "--quiet", "-p", "bank"])).await?;
    let scratch = Scratch::new(shell, "year")?;
    let mut told = Vec::new();
    for period in &periods {
        let [whole, killed] = ["whole", "killed"]
            .map(|what| Place::Directory(scratch.0.join(format!("{}-{what}", period.name))));
        told.push(period.try_out(shell, &whole, &killed).await?.1);
    }
    match Postgres::start(shell).await? {
        Err(why) => told.push(format!("not on PostgreSQL: {why}")),
        Ok(server) => {
            let done = on_postgres(shell, &periods, &server).await;
            server.stop().await;
            told.extend(done?);
        }
    }
    Ok(Pass::Done(told.join("; ")))
}

async fn on_postgres(shell: &mut Shell, periods: &[Period], server: &Postgres) -> Result<Vec<String>, Stop> {
    let mut told = Vec::new();
    for period in periods {
        for read_model in ["background", "inline"] {
            let [whole, killed, cut] = ["whole", "killed", "cut"].map(|what| {
                let name =
                    period.name.replace(|c: char| !c.is_ascii_alphanumeric(), "_").to_ascii_lowercase();
                Place::Schema {
                    url: server.url(),
                    schema: format!("year_{name}_{read_model}_{what}"),
                    read_model,
                }
            });
            let (took, line) = period.try_out(shell, &whole, &killed).await?;
            let cuts = period.import_with_cuts(shell, &cut, server, took).await?;
            let rate = events_in(shell, server, &whole).await? / took.as_secs_f64();
            let line = format!(
                "on PostgreSQL, read model {read_model}: {line} and {cuts} cut connections, {rate:.0} events/s"
            );
            println!("{line}");
            told.push(line);
        }
    }
    Ok(told)
}

/// How many events a ledger has.
async fn events_in(shell: &mut Shell, server: &Postgres, place: &Place) -> Result<f64, Stop> {
    let Place::Schema { schema, .. } = place else { return Ok(0.0) };
    let count = format!("SELECT count(*) FROM {schema}.events");
    let psql = server.psql(shell, [&*count]);
    let told = shell.output(psql).await?;
    told.trim().parse().map_err(Stop::at(format!("psql printed `{}`", told.trim())))
}

/// Where a ledger is.
#[derive(Clone, Debug)]
enum Place {
    Directory(PathBuf),
    Schema { url: String, schema: String, read_model: &'static str },
}

/// One pair of files.
#[derive(Debug)]
struct Period {
    name: String,
    accounts: PathBuf,
    transactions: PathBuf,
}

impl Period {
    fn bank(shell: &Shell, verb: &str, place: &Place) -> Command {
        let mut command = shell.command(shell.target().join("release/bank"));
        command.arg(verb);
        match place {
            Place::Directory(directory) => command.arg("--data").arg(directory),
            Place::Schema { url, schema, .. } => command.args(["--store", url, "--schema", schema]),
        };
        command
    }

    fn import(&self, shell: &Shell, place: &Place) -> Command {
        let mut command = Self::bank(shell, "import", place);
        command.arg("--accounts").arg(&self.accounts).arg("--transactions").arg(&self.transactions);
        if let Place::Schema { read_model, .. } = place {
            command.args(["--read-model", read_model]);
        }
        command
    }

    /// Imports once undisturbed and once killed on the way, and compares both. How long the first took, and what to tell.
    async fn try_out(
        &self,
        shell: &mut Shell,
        whole: &Place,
        killed: &Place,
    ) -> Result<(Duration, String), Stop> {
        let began = now();
        let expected = last_balances(&self.transactions)?;
        let import = now();
        shell.run(self.import(shell, whole)).await?;
        let took = import.elapsed();
        self.compare(shell, &expected, whole).await?;
        let line =
            format!("{}: {} accounts equal, import {:.1} s", self.name, expected.len(), took.as_secs_f64());
        let kills = self.import_with_kills(shell, killed, took).await?;
        self.compare(shell, &expected, killed).await?;
        println!("{line}; equal again after {kills} kills in mid-import; {} in all", elapsed(began));
        Ok((took, format!("{line}, again after {kills} kills")))
    }

    /// Imports while all its connections are cut, a few times; then to the end, and compares. How many were cut.
    async fn import_with_cuts(
        &self,
        shell: &mut Shell,
        place: &Place,
        server: &Postgres,
        whole: Duration,
    ) -> Result<u64, Stop> {
        let Place::Schema { schema, .. } = place else { return Ok(0) };
        let wait = format!("SELECT pg_sleep({})", whole.as_secs_f64() / f64::from(CUTS + 1));
        let cut = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'factum {schema}'"
        );
        let mut psql = server.psql(shell, (0..CUTS).flat_map(|_| [&*wait, &*cut]));
        let knife = psql.stdout(Stdio::piped()).kill_on_drop(true).spawn();
        let knife = knife.map_err(Stop::at("cannot start psql"))?;
        // It may go on by itself on new connections, or stop and say so.
        if let Err(Stop::Interrupted) = shell.run(self.import(shell, place)).await {
            return Err(Stop::Interrupted);
        }
        let told = knife.wait_with_output().await.map_err(Stop::at("cannot wait for psql"))?.stdout;
        let cuts = String::from_utf8_lossy(&told).lines().filter_map(|line| line.parse::<u64>().ok()).sum();
        if cuts == 0 {
            return Err(Stop::Failed(format!("the import of {} was over before it could be cut", self.name)));
        }
        shell.run(self.import(shell, place)).await?;
        self.compare(shell, &last_balances(&self.transactions)?, place).await?;
        Ok(cuts)
    }

    /// Imports, killed a few times on the way; then to the end. How often there was something to kill.
    async fn import_with_kills(
        &self,
        shell: &mut Shell,
        place: &Place,
        whole: Duration,
    ) -> Result<u32, Stop> {
        let mut kills = 0;
        for n in 1..=KILLS {
            let import = self.import(shell, place);
            if !shell.run_and_kill(import, whole * n / (2 * KILLS)).await? {
                break;
            }
            kills += 1;
        }
        if kills == 0 {
            return Err(Stop::Failed(format!(
                "the import of {} was over before it could be killed",
                self.name
            )));
        }
        shell.run(self.import(shell, place)).await?;
        Ok(kills)
    }

    async fn compare(&self, shell: &mut Shell, expected: &Balances, place: &Place) -> Result<(), Stop> {
        let mut balances = Self::bank(shell, "balances", place);
        balances.args(["--format", "csv"]);
        let reported = reported_balances(&shell.output(balances).await?)?;
        let differences = differences(expected, &reported);
        if !differences.is_empty() {
            let (count, name) = (differences.len(), &self.name);
            let some: Vec<_> = differences.into_iter().take(10).collect();
            return Err(Stop::Failed(format!(
                "{name}: {count} accounts differ from the bank's books, such as\n{}",
                some.join("\n")
            )));
        }
        shell.run(Self::bank(shell, "verify", place)).await
    }
}

fn periods_in(data: &Path) -> Result<Vec<Period>, Stop> {
    let Ok(entries) = fs::read_dir(data) else { return Ok(Vec::new()) };
    let mut periods = Vec::new();
    for entry in entries {
        let file = entry.map_err(Stop::at(format!("cannot list {}", data.display())))?.file_name();
        let file = file.to_string_lossy();
        let Some(name) = file.strip_prefix("transactions-").and_then(|rest| rest.strip_suffix(".csv")) else {
            continue;
        };
        let accounts = data.join(format!("accounts-{name}.csv"));
        if accounts.exists() {
            periods.push(Period { name: name.to_owned(), accounts, transactions: data.join(&*file) });
        }
    }
    periods.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(periods)
}

/// What the bank's books say at the end: the last `balance_after` of each account.
fn last_balances(transactions: &Path) -> Result<Balances, Stop> {
    let text = fs::read_to_string(transactions)
        .map_err(Stop::at(format!("cannot read {}", transactions.display())))?;
    let told = transactions.display().to_string();
    columns(&text, "account_id", "balance_after").map_err(Stop::at(told))
}

fn reported_balances(csv: &str) -> Result<Balances, Stop> {
    let balances = columns(csv, "account_id", "balance").map_err(Stop::at("`bank balances`"))?;
    let lines = csv.lines().filter(|line| !line.is_empty()).count();
    if balances.len() + 1 == lines {
        Ok(balances)
    } else {
        Err(Stop::Failed(format!("`bank balances` printed {lines} lines for {} accounts", balances.len())))
    }
}

/// Money by key; where a key comes again, the last one counts.
fn columns(csv: &str, key: &str, money: &str) -> Result<Balances, String> {
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let headers = reader.headers().map_err(|error| error.to_string())?.clone();
    let column = |name: &str| {
        let found = headers.iter().position(|header| header == name);
        found.ok_or_else(|| format!("there is no column `{name}` in the CSV's first line"))
    };
    let (key, money) = (column(key)?, column(money)?);
    let mut balances = Balances::new();
    for record in reader.records() {
        let record = record.map_err(|error| error.to_string())?;
        let amount = hundredths(&record[money])
            .ok_or_else(|| format!("`{}` is not an amount with two decimals", &record[money]))?;
        balances.insert(record[key].to_owned(), amount);
    }
    Ok(balances)
}

/// `-12.30` as -1230. Exactly two decimals, so that what is printed is checked as well.
fn hundredths(text: &str) -> Option<i64> {
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    let (whole, fraction) = digits.split_once('.')?;
    let digits_only = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !digits_only(whole) || !digits_only(fraction) || fraction.len() != 2 {
        return None;
    }
    Some(sign * (whole.parse::<i64>().ok()?.checked_mul(100)? + fraction.parse::<i64>().ok()?))
}

fn differences(expected: &Balances, reported: &Balances) -> Vec<String> {
    let keys: std::collections::BTreeSet<_> = expected.keys().chain(reported.keys()).collect();
    let told = |balance: Option<&i64>| balance.map_or("nothing".to_owned(), |b| format!("{b} hundredths"));
    keys.into_iter()
        .filter(|key| expected.get(*key) != reported.get(*key))
        .map(|key| {
            let (wanted, got) = (told(expected.get(key)), told(reported.get(key)));
            format!("  account {key}: the bank's books say {wanted}, the read model says {got}")
        })
        .collect()
}

/// A directory in the target directory, on a real disk, that is gone afterwards.
#[derive(Debug)]
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new(shell: &Shell, purpose: &str) -> Result<Self, Stop> {
        let path = shell.target().join("xtask").join(format!("{purpose}-{}", std::process::id()));
        fs::create_dir_all(&path).map_err(Stop::at(format!("cannot create {}", path.display())))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balances<const N: usize>(of: [(&str, i64); N]) -> Balances {
        of.into_iter().map(|(account, balance)| (account.to_owned(), balance)).collect()
    }

    #[test]
    fn money_is_exact_and_has_two_decimals() {
        let cases =
            [("900.00", 90000), ("-0.05", -5), ("-12.30", -1230), ("123456789012.34", 12_345_678_901_234)];
        for (text, amount) in cases {
            assert_eq!(hundredths(text), Some(amount), "{text}");
        }
        for bad in ["", "1", "1.0", "1.000", ".50", "1.-5", "+1.00", "1e3.00", "99999999999999999999.00"] {
            assert_eq!(hundredths(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_last_row_of_an_account_counts() {
        let csv = "transaction_id,account_id,balance_after\n1,a,1.00\n2,b,5.00\n3,a,-2.50\n";
        assert_eq!(columns(csv, "account_id", "balance_after").unwrap(), balances([("a", -250), ("b", 500)]));
        assert!(columns("account_id\n1\n", "account_id", "balance").is_err());
    }

    #[test]
    fn one_hundredth_a_missing_and_an_invented_account_are_differences() {
        let books = balances([("1", 100), ("2", 200), ("3", 300)]);
        assert_eq!(differences(&books, &books), [""; 0]);
        let found = differences(&books, &balances([("1", 100), ("2", 201), ("4", 0)]));
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].contains("account 2") && found[0].contains("200") && found[0].contains("201"));
    }

    #[test]
    fn an_account_printed_twice_is_noticed() {
        assert!(reported_balances("account_id,balance\n1,1.00\n1,1.00\n").is_err());
        assert!(reported_balances("account_id,balance\n1,1.00\n").is_ok());
    }
}
