//! What holds wherever a ledger is: each function is a test of a ledger in a directory and of one in PostgreSQL.

#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed")]

use std::{collections::HashSet, os::unix::process::ExitStatusExt, process::Command};

use factum::{Append, NewEvent, StreamName};

use crate::common::{Answer, Bank, ONE, TWO, feed, held, last_balances, made_up, row, rows_of, small, three};

/// A test for each of them, in ledgers that `$new` makes, if `$there`.
macro_rules! tests {
    ($there:expr, $new:expr) => {
        anywhere::tests! { $there, $new;
            without_a_ledger_nothing_is_made,
            the_scenarios_on_a_disk,
            a_refusal_says_why_and_records_nothing,
            awkward_names_are_names_like_any_other,
            an_event_that_this_program_did_not_write_is_told_with_its_place,
            history_is_imported_as_it_was,
            the_same_files_again_bring_nothing_new,
            time_travel_goes_by_the_transactions_own_dates,
            records_that_begin_in_mid_life_bring_the_balance_forward,
            another_period_goes_on_where_the_first_ended,
            a_row_that_was_left_out_is_imported_once_it_is_corrected,
            a_bad_account_is_told_as_well,
            an_interrupted_import_says_how_to_go_on,
            a_kill_in_mid_import_loses_nothing_and_doubles_nothing,
        }
    };
    ($there:expr, $new:expr; $($name:ident,)*) => {
        $(
            #[test]
            fn $name() {
                if $there {
                    anywhere::$name($new);
                }
            }
        )*
    };
}
pub(crate) use tests;

pub(crate) fn without_a_ledger_nothing_is_made(new: fn() -> Bank) {
    let bank = new();
    for arguments in [
        &["balances"][..],
        &["balance", "1"],
        &["history", "1"],
        &["deposit", "1", "1"],
        &["withdraw", "1", "1"],
        &["transfer", "1", "2", "1"],
        &["verify"],
        &["rebuild"],
        &["status"],
    ] {
        bank.run(arguments).fails(10, "there is no ledger in");
        assert!(!bank.is_made(), "{arguments:?}");
    }
    bank.import(&bank.path().join("nowhere.csv"), &bank.path().join("nowhere.csv"), &[])
        .fails(4, "nowhere.csv");
    assert!(!bank.is_made());
    bank.run(&["open", "1"]).succeeds();
    assert!(bank.is_made());
}

pub(crate) fn the_scenarios_on_a_disk(new: fn() -> Bank) {
    let bank = new();
    bank.run(&["open", "es-acc-001", "100"]).succeeds();
    bank.run(&["deposit", "es-acc-001", "50"]).succeeds();
    let told = bank.run(&["withdraw", "es-acc-001", "30.00", "--by", "ada"]).succeeds();
    assert!(told.out.starts_with("account es-acc-001 holds 120.00 (revision 3)\n"), "{told:?}");
    bank.run(&["open", "es-acc-002", "500"]).succeeds();
    let told = bank.run(&["transfer", "es-acc-002", "es-acc-001", "200"]).succeeds();
    assert!(told.out.contains("account es-acc-002 holds 300.00 (revision 2)\n"), "{told:?}");
    assert!(told.out.contains("account es-acc-001 holds 320.00 (revision 4)\n"), "{told:?}");
    let balances = bank.run(&["balances", "--format", "csv"]).succeeds();
    assert_eq!(balances.out, "account_id,balance\nes-acc-001,320.00\nes-acc-002,300.00\n");
    let table = bank.run(&["balances"]).succeeds();
    assert_eq!(table.out, "account id  balance\nes-acc-001   320.00\nes-acc-002   300.00\n");
    let history = bank.run(&["history", "es-acc-001", "--format", "csv"]).succeeds();
    let rows: Vec<Vec<_>> = history.out.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(rows[0][..6], ["revision", "date", "recorded_at", "what", "amount", "balance"]);
    let by: Vec<_> = rows.iter().skip(1).map(|row| (row[3], row[4], row[5], row[7])).collect();
    assert_eq!(
        by,
        [
            ("opened", "", "0.00", "teller"),
            ("deposit", "100.00", "100.00", "teller"),
            ("deposit", "50.00", "150.00", "teller"),
            ("withdrawal", "-30.00", "120.00", "ada"),
            ("transfer from es-acc-002", "200.00", "320.00", "teller"),
        ]
    );
    let flow = told.out.lines().last().unwrap().rsplit(' ').next().unwrap();
    assert_eq!(rows[5][8], flow, "the correlation id that the transfer told is in the history");
}

pub(crate) fn a_refusal_says_why_and_records_nothing(new: fn() -> Bank) {
    let bank = small(new);
    bank.balances();
    let before = bank.run(&["status"]).succeeds().out;
    for (arguments, code, words) in [
        (
            &["withdraw", "es-acc-001", "1000"][..],
            3,
            "account es-acc-001: insufficient funds: it holds 100.00, and 1000.00",
        ),
        (&["open", "es-acc-001"], 3, "account es-acc-001: it is open already; nothing was recorded"),
        (&["open", "es-acc-003", "-1"], 3, "the amount must be more than 0.00, and -1.00 is not"),
        (&["open", "es-acc-003", "0"], 3, "the amount must be more than 0.00"),
        (&["deposit", "es-acc-001", "0"], 3, "the amount must be more than 0.00, and 0.00 is not"),
        (&["deposit", "es-acc-001", "-5"], 3, "-5.00 is not; nothing was recorded"),
        (&["withdraw", "es-acc-001", "-5"], 3, "-5.00 is not"),
        (&["transfer", "es-acc-001", "es-acc-002", "100.01"], 3, "account es-acc-001: insufficient funds"),
        (&["transfer", "es-acc-001", "es-acc-001", "1"], 3, "account es-acc-001 cannot pay itself"),
        (&["transfer", "es-acc-001", "nobody", "1"], 10, "account nobody: there is no such account"),
        (&["deposit", "nobody", "1"], 10, "account nobody: there is no such account; nothing was recorded"),
        (&["balance", "nobody"], 10, "there is no account nobody"),
        (&["history", "nobody"], 10, "there is no account nobody"),
    ] {
        let answer = bank.run(arguments).fails(code, words);
        assert_eq!(answer.out, "", "{arguments:?}");
    }
    assert_eq!(bank.run(&["status"]).succeeds().out, before);
}

pub(crate) fn awkward_names_are_names_like_any_other(new: fn() -> Bank) {
    let bank = new();
    let names = [
        "a-b-c",
        "../../etc/passwd",
        "x'; DROP TABLE balances; --",
        "žluťoučký 🐎",
        "a,b\"c",
        "10",
        "9",
        "$$x",
    ];
    for name in names {
        bank.run(&["open", name, "1"]).succeeds();
    }
    let told = bank.run(&["balances", "--format", "csv"]).succeeds();
    let lines: Vec<_> = told.out.lines().skip(1).map(|line| line.strip_suffix(",1.00").unwrap()).collect();
    assert_eq!(
        lines,
        [
            "9",
            "10",
            "$$x",
            "../../etc/passwd",
            "\"a,b\"\"c\"",
            "a-b-c",
            "x'; DROP TABLE balances; --",
            "žluťoučký 🐎"
        ]
    );
    bank.run(&["verify"]).succeeds();
}

pub(crate) fn an_event_that_this_program_did_not_write_is_told_with_its_place(new: fn() -> Bank) {
    let bank = small(new);
    let event = NewEvent::json("AccountFrozen", &serde_json::json!({})).unwrap();
    bank.append(Append::to(StreamName::new("account-x").unwrap(), [event]));
    for arguments in [&["balances"][..], &["history", "x"], &["verify"]] {
        bank.run(arguments).fails(8, "AccountFrozen");
    }
    bank.import_rows("", "", &[]).fails(8, "AccountFrozen");
    bank.run(&["deposit", "es-acc-001", "1"]).succeeds();
}

pub(crate) fn history_is_imported_as_it_was(new: fn() -> Bank) {
    let bank = new();
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

pub(crate) fn the_same_files_again_bring_nothing_new(new: fn() -> Bank) {
    let bank = new();
    bank.import_rows(ONE, &three(), &[]).succeeds();
    let before = bank.events();
    let answer = bank.import_rows(ONE, &three(), &[]).succeeds();
    assert!(answer.out.starts_with("nothing new\naccounts: 0 imported, 1 recorded before"), "{answer:?}");
    assert_eq!(bank.events(), before);
}

pub(crate) fn time_travel_goes_by_the_transactions_own_dates(new: fn() -> Bank) {
    let bank = new();
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

pub(crate) fn records_that_begin_in_mid_life_bring_the_balance_forward(new: fn() -> Bank) {
    let bank = new();
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

pub(crate) fn another_period_goes_on_where_the_first_ended(new: fn() -> Bank) {
    let bank = new();
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

pub(crate) fn a_row_that_was_left_out_is_imported_once_it_is_corrected(new: fn() -> Bank) {
    let bank = new();
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

pub(crate) fn a_bad_account_is_told_as_well(new: fn() -> Bank) {
    let bank = new();
    bank.import_rows("1,10,monthly,1993-13-01\n", "", &[])
        .fails(4, "accounts.csv, line 2: the opened_on: `1993-13-01`");
    bank.import_rows(ONE, "", &[]).succeeds();
    bank.import_rows("1,10,monthly,1993-01-02\n", "", &[])
        .fails(4, "account 1 is recorded already with other particulars");
    bank.run(&["open", "7"]).succeeds();
    bank.import_rows("7,10,monthly,1993-01-02\n", "", &[]).fails(4, "account 7 is recorded already");
}

pub(crate) fn an_interrupted_import_says_how_to_go_on(new: fn() -> Bank) {
    let bank = new();
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

pub(crate) fn a_kill_in_mid_import_loses_nothing_and_doubles_nothing(new: fn() -> Bank) {
    let bank = new();
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
