//! A real year of a real bank: every balance, after kills, in time travel, in two halves. Read in place; `FACTUM_DATA` names
//! another place. Where there is none, this says so.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "tests say what they skip, and may fail")]

mod common;

use std::{
    collections::BTreeSet,
    env, fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
};

use common::{Bank, TRANSACTIONS, decimal, feed, last_balances, rows_of};

/// The files of the year and the text of its transactions.
struct Year {
    accounts: PathBuf,
    transactions: PathBuf,
    text: String,
}

fn year() -> Option<Year> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/bank");
    let directory = env::var_os("FACTUM_DATA").map_or(beside, PathBuf::from);
    let [accounts, transactions] =
        ["accounts", "transactions"].map(|name| directory.join(format!("{name}-1993.csv")));
    match fs::read_to_string(&transactions) {
        Ok(text) if accounts.exists() => Some(Year { accounts, transactions, text }),
        _ => {
            println!(
                "skipped: no {} with its accounts; FACTUM_DATA may name another directory",
                transactions.display()
            );
            None
        }
    }
}

#[test]
fn every_account_ends_at_the_banks_last_balance_also_after_kills() {
    let Some(Year { accounts, transactions, text }) = year() else { return };
    let bank = Bank::new();
    for part in [1, 4, 7] {
        let mut child = bank.fed_import(&accounts);
        feed(&mut child, &text.as_bytes()[..text.len() * part / 8]).unwrap();
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }
    let resumed = bank.import(&accounts, &transactions, &[]).succeeds();
    let expected = last_balances(&text);
    assert_eq!(expected.len(), 1_139);
    assert_eq!(bank.balances(), expected);
    assert!(
        !resumed.out.contains("transactions: 28,205 imported"),
        "something was imported before the kills: {resumed:?}"
    );
    let told = bank.run(&["verify"]).succeeds().out;
    assert!(told.contains("1,139 accounts") && told.contains("each of the 28,205 balances"), "{told}");

    // As of any day: the balance that the bank recorded after the last transaction up to then.
    let accounts_with_overdraft: BTreeSet<_> =
        rows_of(&text).filter(|row| row[7].starts_with('-')).map(|row| row[1]).collect();
    assert_eq!(accounts_with_overdraft.len(), 6);
    for account in accounts_with_overdraft {
        let day = rows_of(&text).find(|row| row[1] == account && row[7].starts_with('-')).unwrap()[2];
        let last = rows_of(&text).filter(|row| row[1] == account && row[2] <= day).last().unwrap()[7];
        let answer = bank.run(&["balance", account, "--as-of", day, "--format", "csv"]).succeeds();
        let held = answer.out.lines().nth(1).unwrap().split(',').nth(1).unwrap();
        assert_eq!(held, last, "account {account} at the end of {day}");
    }
    assert!(bank.import(&accounts, &transactions, &[]).succeeds().out.starts_with("nothing new\n"));
}

#[test]
fn the_second_half_goes_on_from_the_first_and_stands_on_its_own() {
    let Some(Year { accounts, text, .. }) = year() else { return };
    let half = |wanted: fn(&str) -> bool| -> String {
        let rows = text.lines().skip(1).filter(|line| line.split(',').nth(2).is_some_and(wanted));
        rows.fold(TRANSACTIONS.to_owned(), |text, row| text + row + "\n")
    };
    let [first, second] = [half(|day| day < "1993-07-01"), half(|day| day >= "1993-07-01")];
    let bank = Bank::new();
    let files = [bank.file("first.csv", &first), bank.file("second.csv", &second)];
    let on_its_own = Bank::new();
    let answer = on_its_own.import(&accounts, &files[1], &[]).succeeds();
    assert!(answer.out.contains("balances brought forward"), "{answer:?}");
    let balances = on_its_own.balances();
    for (account, balance) in last_balances(&second) {
        assert_eq!(balances.get(&account), Some(&balance), "account {account}: {}", decimal(balance));
    }
    for file in &files {
        bank.import(&accounts, file, &[]).succeeds();
    }
    assert_eq!(bank.balances(), last_balances(&text));
}
