//! A ledger in PostgreSQL: what is the same as in a directory, and what only a server brings along.

#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed")]

mod anywhere;
mod common;

use std::{collections::HashSet, thread};

use common::{Answer, Bank, feed, last_balances, made_up, rows_of, server, small, sql};

anywhere::tests! { server().is_some(), Bank::on_postgres }

/// Ends the connections of a ledger, as an administrator or a failing network would. How many there were.
fn end_connections(bank: &Bank) -> u64 {
    let name = format!("factum {}", bank.schema());
    sql(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{name}'"))
}

#[test]
fn who_is_not_let_in_is_told_why() {
    let Some(url) = server() else { return };
    let bank = Bank::on_postgres();
    bank.run(&["open", "1", "5"]).succeeds();
    let (schema, role) = (bank.schema(), format!("r_{}", bank.schema()));
    let with_password = |user: &str| url.replace("postgres@", &format!("{user}:hunter2@"));
    let refused = |url: &str, code, words: &str| {
        let answer =
            Answer::of(Bank::bare(&["balances", "--store", url, "--schema", schema])).fails(code, words);
        assert!(!answer.err.contains("hunter2"), "{answer:?}");
    };
    let (host, _) = url.rsplit_once('/').unwrap();
    refused(&format!("{host}/nowhere"), 7, "database \"nowhere\" does not exist");
    refused(&with_password("nobody_of_this_name"), 7, "role \"nobody_of_this_name\" does not exist");
    sql(&format!("CREATE ROLE {role} LOGIN PASSWORD 'hunter2'"));
    refused(&with_password(&role), 7, "permission denied");
    sql(&format!("DROP ROLE {role}"));
    sql(&format!("INSERT INTO {schema}.migrations (number, name) VALUES (999, 'from the future')"));
    refused(&url, 7, "it is of a newer program (migration 999");
}

#[test]
fn verify_tells_which_account_differs() {
    if server().is_none() {
        return;
    }
    let bank = small(Bank::on_postgres);
    let told = bank.run(&["verify"]).succeeds();
    assert!(told.out.contains("equals the fold of the log: 2 accounts"), "{told:?}");
    let changed = sql(&format!(
        "UPDATE {0}_reads.balances_g1 SET row = jsonb_set(row, '{{balance}}', '\"500.51\"') WHERE key = 'es-acc-002'",
        bank.schema()
    ));
    assert_eq!(changed, 1);
    let told = bank.run(&["verify"]).fails(9, "differs from the log in 1 accounts");
    assert!(told.out.contains("account es-acc-002: the read model has"), "{told:?}");
    assert!(told.out.contains("500.51") && told.out.contains("500.50"), "{told:?}");
    bank.run(&["rebuild"]).succeeds();
    bank.run(&["verify"]).succeeds();
    assert_eq!(bank.balances().get("es-acc-002"), Some(&50_050));
}

#[test]
fn a_ledger_is_open_to_many_at_once() {
    if server().is_none() {
        return;
    }
    let bank = small(Bank::on_postgres);
    let asked: [&[&str]; 6] = [
        &["transfer", "es-acc-002", "es-acc-001", "1"],
        &["deposit", "es-acc-001", "1", "--by", "ada"],
        &["balances"],
        &["verify"],
        &["status"],
        &["withdraw", "es-acc-001", "1"],
    ];
    let children: Vec<_> = (0..3)
        .flat_map(|_| asked)
        .map(|arguments| {
            let mut command = bank.command(arguments);
            thread::spawn(move || command.output().unwrap())
        })
        .collect();
    for child in children {
        Answer::from(child.join().unwrap()).succeeds();
    }
    let balances = bank.balances();
    assert_eq!((balances["es-acc-001"], balances["es-acc-002"]), (10_300, 49_750));
    bank.run(&["verify"]).succeeds();
}

#[test]
fn who_writes_during_an_import_stops_it_and_it_goes_on() {
    if server().is_none() {
        return;
    }
    let bank = Bank::on_postgres();
    bank.run(&["open", "another", "1"]).succeeds();
    let (accounts, transactions) = made_up(40, 6_000);
    let accounts = bank.file("accounts.csv", accounts);
    let mut child = bank.fed_import(&accounts);
    // More than a pipe holds, so the import is under way.
    feed(&mut child, &transactions.as_bytes()[..200_000]).unwrap();
    bank.run(&["deposit", "another", "1"]).succeeds();
    feed(&mut child, &transactions.as_bytes()[200_000..]).unwrap();
    drop(child.stdin.take());
    Answer::from(child.wait_with_output().unwrap())
        .fails(5, "run the same command again to go on, nothing will be doubled");
    bank.import(&accounts, &bank.file("transactions.csv", &transactions), &[]).succeeds();
    let mut expected = last_balances(&transactions);
    expected.insert("another".to_owned(), 200);
    assert_eq!(bank.balances(), expected);
    bank.run(&["verify"]).succeeds();
}

#[test]
fn connections_that_end_in_mid_import_lose_nothing_and_double_nothing() {
    if server().is_none() {
        return;
    }
    let bank = Bank::on_postgres();
    let (accounts, transactions) = made_up(40, 8_000);
    let accounts = bank.file("accounts.csv", accounts);
    let mut child = bank.fed_import(&accounts);
    let mut ended = 0;
    for part in transactions.as_bytes().chunks(100_000) {
        if feed(&mut child, part).is_err() {
            break;
        }
        ended += end_connections(&bank);
    }
    assert!(ended > 0);
    drop(child.stdin.take());
    let answer = Answer::from(child.wait_with_output().unwrap());
    // It goes on by itself on new connections, unless they are cut as well.
    assert!(matches!(answer.code, 0 | 7), "{answer:?}");
    let file = bank.file("transactions.csv", &transactions);
    bank.import(&accounts, &file, &[]).succeeds();
    assert_eq!(bank.balances(), last_balances(&transactions));
    let events = bank.events();
    let ids: HashSet<_> = events.iter().map(|event| event.id).collect();
    let movements =
        events.iter().filter(|event| !event.tags.is_empty() && event.event_type != "BalanceRounded").count();
    assert_eq!((ids.len(), movements), (events.len(), rows_of(&transactions).count()));
    bank.run(&["verify"]).succeeds();
}

#[test]
fn a_read_model_is_kept_inline_and_in_the_background_again() {
    if server().is_none() {
        return;
    }
    let bank = Bank::on_postgres();
    let (accounts, transactions) = made_up(40, 2_500);
    let (accounts, transactions) = (bank.file("a.csv", accounts), bank.file("t.csv", &transactions));
    bank.import(&accounts, &transactions, &["--read-model", "inline"]).succeeds();
    let expected = last_balances(&std::fs::read_to_string(&transactions).unwrap());
    assert_eq!(bank.balances(), expected);
    let kept = |words: &str| {
        let told = bank.run(&["status"]).succeeds().out;
        assert!(told.contains(words), "{words:?} is not in {told}");
    };
    let entries = |account: &str| {
        let row = format!("SELECT 1 FROM {}_reads.balances WHERE key = '{account}'", bank.schema());
        sql(&row)
    };
    kept("with each append in its own transaction");
    // A command that never looks at the read model changes it all the same.
    bank.run(&["open", "another", "5"]).succeeds();
    assert_eq!(entries("another"), 1);
    bank.run(&["verify"]).succeeds();
    bank.run(&["rebuild"]).succeeds();
    kept("with each append in its own transaction");
    bank.run(&["rebuild", "--read-model", "background"]).succeeds();
    kept("0 events behind");
    bank.run(&["open", "third", "5"]).succeeds();
    assert_eq!(entries("third"), 0, "nobody keeps it in the background now");
    bank.run(&["verify"]).succeeds();
    assert_eq!(bank.balances().len(), expected.len() + 2);
}
