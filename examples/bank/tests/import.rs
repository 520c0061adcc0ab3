//! The import: what it refuses, how it goes on, and that a row is recorded once and whole.

mod common;

use std::{collections::HashSet, os::unix::process::ExitStatusExt, process::Command};

use common::{ACCOUNTS, Answer, Bank, TRANSACTIONS, feed, last_balances, made_up, rows_of};

const ONE: &str = "1,10,monthly,1993-01-01\n";
const TWO: &str = "2,10,weekly,1993-01-01\n";

/// A row of account 1: `credit` or `debit`.
fn row(id: u32, day: &str, direction: &str, amount: &str, balance_after: &str) -> String {
    format!("{id},1,{day},{direction},cash,,{amount},{balance_after},,\n")
}

/// Three rows of account 1, which then holds 120.00.
fn three() -> String {
    row(1, "1993-01-01", "credit", "100.00", "100.00")
        + &row(2, "1993-01-02", "credit", "50.00", "150.00")
        + &row(3, "1993-01-03", "debit", "30.00", "120.00")
}

fn held(bank: &Bank, account: &str) -> Option<i64> {
    bank.balances().get(account).copied()
}

#[test]
fn history_is_imported_as_it_was() {
    let bank = Bank::new();
    let rows = three()
        + &row(4, "1993-01-04", "debit", "200.00", "-80.05")
        + &row(5, "1993-01-05", "credit", "0.00", "-80.05");
    let answer = bank.import_rows(&(ONE.to_owned() + TWO), &rows, &[]).succeeds();
    assert!(answer.out.contains("accounts: 2 imported, 0 recorded before, 0 left out\n"), "{answer:?}");
    assert!(answer.out.contains("transactions: 5 imported, 0 recorded before, 0 left out\n"), "{answer:?}");
    assert!(
        answer
            .out
            .contains("1 rounding differences of the bank recorded as facts of their own, -0.05 in all\n"),
        "{answer:?}"
    );
    let balances = bank.balances();
    assert_eq!(
        (balances["1"], balances["2"]),
        (-8_005, 0),
        "an overdraft is history; an account without rows holds nothing"
    );
    bank.run(&["withdraw", "1", "1"]).fails(3, "insufficient funds: it holds -80.05");
    let history = bank.run(&["history", "1", "--format", "csv"]).succeeds().out;
    assert!(
        history.contains(",rounded by the bank,-0.05,-80.05,4,import,import-transactions.csv\n"),
        "{history}"
    );
    let events = bank.events();
    let movement = events.iter().find(|event| event.event_type == "MoneyWithdrawn").unwrap();
    let metadata = movement.metadata.to_object();
    assert_eq!(metadata["source"], serde_json::json!({ "file": "transactions.csv", "line": 4 }));
    assert!(movement.tags.contains("transaction:3"));
    bank.run(&["verify"]).succeeds();
}

#[test]
fn the_same_files_again_bring_nothing_new() {
    let bank = Bank::new();
    bank.import_rows(ONE, &three(), &[]).succeeds();
    let before = bank.events();
    let answer = bank.import_rows(ONE, &three(), &[]).succeeds();
    assert!(answer.out.starts_with("nothing new\naccounts: 0 imported, 1 recorded before"), "{answer:?}");
    assert_eq!(bank.events(), before);
}

#[test]
fn time_travel_goes_by_the_transactions_own_dates() {
    let bank = Bank::new();
    bank.import_rows(ONE, &three(), &[]).succeeds();
    let balance = |arguments: &[&str]| {
        let answer = bank.run(&[&["balance", "1", "--format", "csv"], arguments].concat()).succeeds();
        let fields: Vec<_> = answer.out.lines().nth(1).unwrap().split(',').map(str::to_owned).collect();
        assert!(
            fields[4].ends_with('Z') && !fields[4].starts_with("1993"),
            "when it was recorded: {fields:?}"
        );
        fields[1..4].join(" ")
    };
    assert_eq!(balance(&[]), "120.00 1993-01-03 3");
    assert_eq!(balance(&["--as-of", "1993-01-01"]), "100.00 1993-01-01 1");
    assert_eq!(balance(&["--as-of", "1993-01-02"]), "150.00 1993-01-02 2");
    assert_eq!(balance(&["--as-of", "2025-01-01"]), "120.00 1993-01-03 3");
    assert_eq!(balance(&["--at-revision", "0"]), "0.00 1993-01-01 0");
    assert_eq!(balance(&["--at-revision", "2"]), "150.00 1993-01-02 2");
    bank.run(&["balance", "1", "--as-of", "1992-12-31"])
        .fails(10, "was opened on 1993-01-01, after 1992-12-31");
    bank.run(&["balance", "1", "--at-revision", "4"]).fails(10, "has no revision 4: its last is 3");
    bank.run(&["deposit", "1", "5"]).succeeds();
    assert_eq!(balance(&["--as-of", "1993-12-31"]), "120.00 1993-01-03 3", "a new command is of today");
}

#[test]
fn records_that_begin_in_mid_life_bring_the_balance_forward() {
    let bank = Bank::new();
    let account = "1,10,monthly,1991-05-01\n";
    let answer =
        bank.import_rows(account, &row(2, "1993-01-02", "credit", "50.00", "150.05"), &[]).succeeds();
    assert!(answer.out.contains("1 balances brought forward"), "{answer:?}");
    assert_eq!(held(&bank, "1"), Some(15_005));
    let history = bank.run(&["history", "1", "--format", "csv"]).succeeds().out;
    assert!(history.contains(",balance brought forward,100.05,100.05,"), "{history}");
    bank.run(&["balance", "1", "--as-of", "1992-06-01"])
        .fails(10, "begin on 1993-01-02 with a balance brought forward");
}

#[test]
fn another_period_goes_on_where_the_first_ended() {
    let bank = Bank::new();
    bank.import_rows(ONE, &three(), &[]).succeeds();
    // An account of the first period and a new one; the accounts file of the second may tell of both or of the new one only.
    let second =
        row(11, "1994-01-01", "credit", "1.00", "121.00") + "12,3,1994-01-02,credit,cash,,5.00,5.00,,\n";
    let answer = bank.import_rows("3,10,monthly,1994-01-02\n", &second, &[]).succeeds();
    assert!(answer.out.contains("transactions: 2 imported, 0 recorded before"), "{answer:?}");
    assert_eq!((held(&bank, "1"), held(&bank, "3")), (Some(12_100), Some(500)));
    let third = row(13, "1995-01-01", "credit", "1.00", "122.11");
    bank.import_rows("", &third, &[])
        .fails(4, "line 2: the balance_after is 122.11, but account 1 held 121.00");
    bank.import_rows("", &third, &["--tolerance", "0.11"]).succeeds();
    bank.run(&["verify"]).succeeds();
}

#[test]
fn a_bad_row_stops_the_import_or_is_left_out() {
    let cases = [
        (
            "4,1,1993-01-04,credit,cash,,1.00,121.00,",
            "the row has 9 fields, and the file's first line names 10 columns",
        ),
        ("4,1,1993-01-04,credit,cash,,1.x,121.00,,", "the amount is `1.x`: it is not an amount"),
        ("4,1,1993-01-04,credit,cash,,1.001,121.00,,", "more than two decimals"),
        ("4,1,1993-01-04,credit,cash,,-1.00,119.00,,", "the amount -1.00 is negative"),
        ("4,1,1993-02-30,credit,cash,,1.00,121.00,,", "`1993-02-30` is not a day of the calendar"),
        ("4,1,1993-01-04,in,cash,,1.00,121.00,,", "the direction `in` is neither `credit` nor `debit`"),
        ("4,1,1993-01-04,credit,ca\0sh,,1.00,121.00,,", "the operation holds the control character U+0000"),
        ("4,1,1993-01-04,credit,\"cash,,1.00,121.00,,", "a quotation mark is not closed"),
        (
            "4,9,1993-01-04,credit,cash,,1.00,1.00,,",
            "account 9 is not in the accounts file, nor in the ledger",
        ),
        ("4,1,1992-12-31,credit,cash,,1.00,121.00,,", "account 1 was opened on 1993-01-01"),
        (
            "4,1,1993-01-04,credit,cash,,1.00,121.11,,",
            "120.00 + 1.00 = 121.00; that is 0.11 apart, and the tolerance is 0.10",
        ),
        (
            "3,1,1993-01-03,debit,cash,,30.01,120.00,,",
            "transaction 3 is recorded already with other content (-30.00 on account 1",
        ),
        ("3,2,1993-01-03,debit,cash,,30.00,120.00,,", "transaction 3 is recorded already with other content"),
    ];
    for (bad, reason) in cases {
        let rows = format!("{}{bad}\n{}", three(), row(5, "1993-01-05", "credit", "7.00", "127.00"));
        let bank = Bank::new();
        let answer = bank.import_rows(&(ONE.to_owned() + TWO), &rows, &[]).fails(4, reason);
        let [place, so_far] = [
            "transactions.csv, line 5: ",
            "the 3 rows before it are in the ledger, and the import stopped there",
        ];
        assert!(answer.err.contains(place) && answer.err.contains(so_far), "{answer:?}");
        assert_eq!(held(&bank, "1"), Some(12_000), "{bad}");

        let bank = Bank::new();
        let answer = bank.import_rows(&(ONE.to_owned() + TWO), &rows, &["--on-error", "skip"]).succeeds();
        assert!(
            answer.err.contains("left out: ") && answer.err.contains(place) && answer.err.contains(reason),
            "{answer:?}"
        );
        assert!(
            answer.out.contains("transactions: 4 imported, 0 recorded before, 1 left out\n"),
            "{answer:?}"
        );
        assert_eq!(held(&bank, "1"), Some(12_700), "{bad}");
    }
}

#[test]
fn a_row_that_was_left_out_is_imported_once_it_is_corrected() {
    let bank = Bank::new();
    let (first, last) = (three(), row(5, "1993-01-05", "credit", "7.00", "128.00"));
    let rows = |fourth: &str| format!("{first}{fourth}{last}");
    let (bad, good) =
        ("4,1,1993-01-04,credit,cash,,one,121.00,,\n", row(4, "1993-01-04", "credit", "1.00", "121.00"));
    let answer = bank.import_rows(ONE, &rows(bad), &["--on-error", "skip"]).succeeds();
    // What follows on the row that is missing does not follow on the one before it.
    assert!(answer.out.contains("3 imported, 0 recorded before, 2 left out"), "{answer:?}");
    assert_eq!(held(&bank, "1"), Some(12_000));
    let answer = bank.import_rows(ONE, &rows(&good), &[]).succeeds();
    assert!(answer.out.contains("2 imported, 3 recorded before, 0 left out"), "{answer:?}");
    assert_eq!(held(&bank, "1"), Some(12_800));
}

#[test]
fn a_bad_account_is_told_as_well() {
    let bank = Bank::new();
    bank.import_rows("1,10,monthly,1993-13-01\n", "", &[])
        .fails(4, "accounts.csv, line 2: the opened_on: `1993-13-01`");
    bank.import_rows(ONE, "", &[]).succeeds();
    bank.import_rows("1,10,monthly,1993-01-02\n", "", &[])
        .fails(4, "account 1 is recorded already with other particulars");
    bank.run(&["open", "7"]).succeeds();
    bank.import_rows("7,10,monthly,1993-01-02\n", "", &[]).fails(4, "account 7 is recorded already");
}

#[test]
fn a_file_of_no_use_leaves_no_ledger_behind() {
    let bank = Bank::new();
    let good = bank.file("good.csv", format!("{TRANSACTIONS}{}", three()));
    let accounts = bank.file("accounts.csv", format!("{ACCOUNTS}{ONE}"));
    for (name, content, words) in [
        ("empty.csv", "", "empty.csv is empty; its first line must name the columns account_id, district_id"),
        ("other.csv", TRANSACTIONS, "the column `transaction_id` is unknown"),
        ("less.csv", "account_id,district_id,opened_on\n", "the column `statement_frequency` is missing"),
        ("binary.csv", "\u{0}\u{1}\u{2}\n", "is unknown"),
    ] {
        bank.import(&bank.file(name, content), &good, &[]).fails(4, words);
    }
    let directory = bank.path().to_owned();
    bank.import(&directory, &good, &[]).fails(4, "cannot read the accounts file");
    bank.import(&accounts, &bank.path().join("nowhere.csv"), &[]).fails(4, "nowhere.csv: No such file");
    assert!(!bank.data().exists());
}

#[test]
fn a_kill_in_mid_import_loses_nothing_and_doubles_nothing() {
    let bank = Bank::new();
    let (accounts, transactions) = made_up(40, 8_000);
    let accounts = bank.file("accounts.csv", accounts);
    let mut imported = Vec::new();
    for part in [3, 4, 6, 7] {
        let mut child = bank.fed_import(&accounts);
        // More than a pipe holds, and ending in the middle of a row: the import is under way and cannot be done.
        feed(&mut child, &transactions.as_bytes()[..transactions.len() * part / 8]).unwrap();
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        imported.push(bank.events().len());
    }
    assert!(imported.is_sorted() && imported[0] < imported[3], "{imported:?}");
    let file = bank.file("transactions.csv", &transactions);
    bank.import(&accounts, &file, &[]).succeeds();
    assert_eq!(bank.balances(), last_balances(&transactions));
    let events = bank.events();
    let ids: HashSet<_> = events.iter().map(|event| event.id).collect();
    let movements =
        events.iter().filter(|event| !event.tags.is_empty() && event.event_type != "BalanceRounded").count();
    assert_eq!((ids.len(), movements), (events.len(), rows_of(&transactions).count()));
    // Half a row would leave a balance that the bank recorded unreached.
    let told = bank.run(&["verify"]).succeeds().out;
    assert!(told.contains("the log reaches each of the 8,000 balances"), "{told}");
    let answer = bank.import(&accounts, &file, &[]).succeeds();
    assert!(answer.out.starts_with("nothing new\n"), "{answer:?}");
}

#[test]
fn an_interrupted_import_says_how_to_go_on() {
    let bank = Bank::new();
    let (accounts, transactions) = made_up(40, 6_000);
    let accounts = bank.file("accounts.csv", accounts);
    let mut child = bank.fed_import(&accounts);
    // More than a pipe holds, so the import is under way.
    feed(&mut child, &transactions.as_bytes()[..200_000]).unwrap();
    let pressed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(pressed.success());
    // It hears of it at the next row, and there is always one more: the rest, and then the same ones again.
    let mut rest = &transactions.as_bytes()[200_000..];
    while feed(&mut child, rest).is_ok() {
        rest = transactions.split_once('\n').unwrap().1.as_bytes();
    }
    let answer = Answer::from(child.wait_with_output().unwrap());
    assert_eq!(answer.code, 130, "{answer:?}");
    assert!(answer.err.contains("bank: interrupted at line "), "{answer:?}");
    assert!(answer.err.contains("run the same command again to go on"), "{answer:?}");
    bank.run(&["verify"]).succeeds();
    bank.import(&accounts, &bank.file("transactions.csv", &transactions), &[]).succeeds();
    assert_eq!(bank.balances(), last_balances(&transactions));
}
