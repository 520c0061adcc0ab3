//! The program's verbs, its refusals and its exit codes, as a user meets them.

#![allow(clippy::disallowed_methods, reason = "tests damage files on purpose")]

mod common;

use std::{
    fs::{self, Permissions},
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::CommandExt,
    },
    process::{Command, Stdio},
};

use common::{Answer, Bank, decimal, last_balances, made_up, small};

#[test]
fn the_demonstration_shows_the_scenarios_and_is_the_same_each_time() {
    let [first, second] = [(); 2].map(|()| Answer::of(Bank::bare(&["demo"])).succeeds());
    for words in [
        "withdraw 30.00    it holds 120.00",
        "withdraw 50.00    it holds 550.00",
        "withdraw 1000.00  refused: insufficient funds",
        "open again        refused: it is open already",
        "deposit 0.00      refused: the amount must be more than 0.00",
        "events recorded by the five refusals: 0",
        "2 events, nothing between them",
        "es-acc-001   320.00",
        "as recorded by 2026-01-06T12:00:00.000000Z            550.00",
        "position 11",
        "0 differences",
    ] {
        assert!(first.out.contains(words), "{words:?} is missing in\n{}", first.out);
    }
    assert_eq!((first.out, first.err), (second.out, second.err));
}

#[test]
fn a_command_line_that_makes_no_sense_is_refused_before_anything_is_made() {
    let bank = Bank::new();
    let long = "x".repeat(600);
    for (arguments, words) in [
        (&["deposit", "a", "1.005"][..], "more than two decimals"),
        (&["deposit", "a", "ten"], "is not an amount; write it like 1234.50"),
        (&["deposit", "a", "1,50"], "is not an amount"),
        (&["deposit", "a", "9999999999999999"], "more than 15 digits"),
        (&["deposit", "a"], "required arguments"),
        (&["open", ""], "it is empty; give it at least one character"),
        (&["open", "a\tb"], "control character U+0009"),
        (&["open", &long], "it has 600 bytes; 256 are the most"),
        (&["balance", "a", "--as-of", "1993-02-30"], "not a day of the calendar; write it like 1993-12-31"),
        (&["balance", "a", "--as-of", "31.12.1993"], "not a day of the calendar"),
        (&["balance", "a", "--at-revision", "-1"], "unexpected argument"),
        (&["balance", "a", "--at-revision", "1", "--as-of", "1993-01-01"], "cannot be used with"),
        (&["balances", "--format", "json"], "possible values: table, csv"),
        (
            &["import", "--accounts", "a", "--transactions", "b", "--tolerance", "-1"],
            "it is negative; 0.00 accepts no difference",
        ),
        (&["fly"], "unrecognized subcommand"),
        (&["balances", "--store", "postgres://a@b/c"], "cannot be used with"),
        (&["balances", "--schema", "x"], "--schema goes with --store"),
    ] {
        let answer = bank.run(arguments);
        assert_eq!(answer.code, 2, "{arguments:?}: {answer:?}");
        assert!(answer.err.contains(words), "{words:?} is not in {answer:?}");
    }
    assert!(!bank.data().exists());
}

#[test]
fn an_empty_directory_is_no_ledger_and_stays_empty() {
    let bank = Bank::new();
    fs::create_dir_all(bank.data()).unwrap();
    bank.run(&["balances"]).fails(10, "there is no ledger in");
    assert_eq!(fs::read_dir(bank.data()).unwrap().count(), 0);
}

#[test]
fn a_place_that_is_none_is_refused_and_a_password_is_printed_nowhere() {
    let refused = |arguments: &[&str], words: &str| {
        let answer = Answer::of(Bank::bare(arguments)).fails(2, words);
        assert!(!answer.err.contains("hunter2"), "{answer:?}");
    };
    let url = "postgres://ada:hunter2@db.example/bank";
    refused(&["balances"], "required arguments");
    refused(&["balances", "--data", url], "a ledger in PostgreSQL is given by --store");
    for none in ["some/directory", "", "mysql://ada:hunter2@db.example/bank", "postgres:/x", "host=x user=y"]
    {
        refused(&["balances", "--store", none], "a ledger in a directory is given by --data");
    }
    refused(&["balances", url], "unexpected argument 'postgres://ada:***@db.example/bank' found");
    refused(&["balances", "--stroe", url], "unexpected argument");
    for (none, words) in [
        ("postgres://", "it names no host"),
        ("postgres:///bank", "it names no host"),
        ("postgres://ada:hunter2@db.example:port/bank", "it must look like postgres://user:password@host"),
        (
            "postgres://ada:hunter2@db.example/bank?colour=red",
            "it must look like postgres://user:password@host",
        ),
    ] {
        refused(&["balances", "--store", none], words);
    }
    refused(&["balances", "--store", url, "--schema", "No Word"], "a-z, 0-9 and _");
    refused(
        &["rebuild", "--data", "ledger", "--read-model", "inline"],
        "--read-model inline goes with --store",
    );
    let nobody_there = "postgres://ada:hunter2@127.0.0.1:1/bank";
    let answer = Answer::of(Bank::bare(&["balances", "--store", nobody_there]));
    let answer = answer.fails(7, "`bank` on 127.0.0.1:1, schema `factum` failed: error connecting to server");
    assert!(!answer.err.contains("hunter2"), "{answer:?}");
}

#[test]
fn help_documents_every_exit_code() {
    let help = Answer::of(Bank::bare(&["--help"])).succeeds().out;
    for line in [
        "3  refused by a rule",
        "4  a bad file or row",
        "6  the ledger is in use",
        "9  verify found",
        "130  interrupted",
    ] {
        assert!(help.contains(line), "{line}");
    }
    let help = Answer::of(Bank::bare(&["balances", "--help"])).succeeds().out;
    assert!(help.contains("ids that are numbers first, by value"), "{help}");
    assert!(help.contains("postgres://user:password@host:5432/database"), "{help}");
}

#[test]
fn a_second_process_is_told_that_the_ledger_is_in_use() {
    let bank = small(Bank::new);
    let log = factum_log::LogStore::open(bank.data().join("log")).unwrap();
    for arguments in [&["balances"][..], &["deposit", "es-acc-001", "1"], &["verify"]] {
        bank.run(arguments).fails(6, "another process has the ledger");
    }
    bank.import_rows("", "", &[]).fails(6, "another process has the ledger");
    drop(log);
    bank.run(&["balances"]).succeeds();
}

#[test]
fn nobody_reading_is_no_trouble() {
    let bank = small(Bank::new);
    let mut child = bank
        .command(&["history", "es-acc-001"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let answer = Answer::from(child.wait_with_output().unwrap());
    assert_eq!((answer.code, &*answer.err), (0, ""));
}

#[test]
fn a_log_that_is_damaged_is_not_believed() {
    let bank = Bank::new();
    let (accounts, transactions) = made_up(10, 1_000);
    bank.import(&bank.file("a.csv", accounts), &bank.file("t.csv", transactions), &[]).succeeds();
    let log = bank.data().join("log");
    let largest = fs::read_dir(log)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .max_by_key(|path| fs::metadata(path).unwrap().len());
    let segment = largest.unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    let middle = bytes.windows(9).position(|window| window == b"AccountOp").unwrap();
    bytes[middle] ^= 1;
    fs::write(&segment, bytes).unwrap();
    for arguments in [&["balances"][..], &["deposit", "1", "1"], &["verify"]] {
        bank.run(arguments).fails(8, "is damaged at byte");
    }
}

#[test]
fn a_read_model_that_is_gone_or_of_no_use_comes_back_from_the_log() {
    let bank = small(Bank::new);
    let before = bank.balances();
    let read_model = bank.data().join("read.db");
    let remove = || {
        for end in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(bank.data().join(format!("read.db{end}")));
        }
    };
    remove();
    assert_eq!(bank.balances(), before);
    remove();
    fs::write(&read_model, "this is no database, and longer than the header of one: ".repeat(10)).unwrap();
    bank.run(&["balances"]).fails(8, "delete it, and the read models are made again");
    bank.run(&["deposit", "es-acc-001", "1"]).succeeds();
    remove();
    assert_eq!(bank.balances().get("es-acc-001"), Some(&10_100));
}

#[test]
fn a_place_that_cannot_be_written_is_told() {
    let bank = Bank::new();
    let occupied = bank.file("ledger", "a file, not a directory");
    bank.run(&["open", "1"]).fails(7, "");
    assert_eq!(fs::read(occupied).unwrap(), b"a file, not a directory");
    let answer = Answer::of(Bank::bare(&["open", "1", "--data", "/proc/no-such-place"]));
    answer.fails(7, "/proc/no-such-place");
}

#[test]
fn a_ledger_that_may_not_be_written_is_told() {
    let bank = small(Bank::new);
    for directory in [bank.path().to_owned(), bank.data(), bank.data().join("log")] {
        fs::set_permissions(&directory, Permissions::from_mode(0o555)).unwrap();
    }
    let mut command = bank.command(&["deposit", "es-acc-001", "1"]);
    if fs::metadata(bank.path()).unwrap().uid() == 0 {
        // Rights do not bind root, so somebody else tries.
        command.uid(65_534);
    }
    let tried = command.output();
    for directory in [bank.path().to_owned(), bank.data(), bank.data().join("log")] {
        fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
    }
    match tried {
        Ok(output) => drop(Answer::from(output).fails(7, "ermission denied")),
        Err(error) => println!("skipped: nobody may not run this program here ({error})"),
    }
    assert_eq!(bank.balances().get("es-acc-001"), Some(&10_000));
}

#[test]
fn a_full_disk_is_told_and_loses_nothing() {
    let bank = Bank::new();
    let (accounts, transactions) = made_up(20, 14_500);
    // Long words fill the log's first segment; there is no room for a second one.
    let long = "long ".repeat(39);
    let transactions = transactions
        .replace(",cash,,", &format!(",{long},{long},"))
        .replace(",,\n", &format!(",{long},{long}\n"));
    let wanted = last_balances(&transactions);
    bank.file("accounts.csv", accounts);
    bank.file("transactions.csv", transactions);
    let script = r#"
        cd "$1" && mkdir -p disk && mount -t tmpfs -o size=20m none disk || exit 99
        bank=$2
        import() { "$bank" import --accounts accounts.csv --transactions transactions.csv --data disk/ledger 2>"$1"; }
        "$bank" open small 1 --data disk/ledger && import full; echo "code $?"
        mount -o remount,size=200m disk && import room; echo "code $?"
        "$bank" verify --data disk/ledger; "$bank" balances --format csv --data disk/ledger
    "#;
    let mut command = Command::new("unshare");
    command
        .args(["--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .arg(bank.path())
        .arg(env!("CARGO_BIN_EXE_bank"));
    let answer = match command.output().map(Answer::from) {
        Ok(answer) if answer.code != 99 && answer.code != 1 => answer,
        other => return println!("skipped: a small disk cannot be mounted here ({other:?})"),
    };
    let said = fs::read_to_string(bank.path().join("full")).unwrap();
    assert!(said.contains("bank: the disk is full") && said.contains("run the same command again"), "{said}");
    assert!(answer.out.contains("code 7") && answer.out.contains("code 0"), "{answer:?}");
    for (account, balance) in wanted {
        let line = format!("\n{account},{}\n", decimal(balance));
        assert!(answer.out.contains(&line), "{line:?} is not in {answer:?}");
    }
}

#[test]
fn verify_tells_which_account_differs() {
    let bank = small(Bank::new);
    let told = bank.run(&["verify"]).succeeds();
    assert!(told.out.contains("equals the fold of the log: 2 accounts"), "{told:?}");
    bank.run(&["balances"]).succeeds();
    let read_model = rusqlite::Connection::open(bank.data().join("read.db")).unwrap();
    let table: String = read_model
        .query_row(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 'balances%'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    let changed = read_model
        .execute(&format!("UPDATE {table} SET row = replace(row, '500.50', '500.51')"), [])
        .unwrap();
    assert_eq!(changed, 2, "rows of the table");
    drop(read_model);
    let told = bank.run(&["verify"]).fails(9, "differs from the log in 1 accounts");
    assert!(told.out.contains("account es-acc-002: the read model has"), "{told:?}");
    assert!(told.out.contains("500.51") && told.out.contains("500.50"), "{told:?}");
    bank.run(&["rebuild"]).succeeds();
    bank.run(&["verify"]).succeeds();
    assert_eq!(bank.balances().get("es-acc-002"), Some(&50_050));
}

#[test]
fn a_read_model_of_another_ledger_is_not_believed() {
    let (bank, other) = (small(Bank::new), small(Bank::new));
    bank.balances();
    other.balances();
    for end in ["", "-wal", "-shm"] {
        let name = format!("read.db{end}");
        let _ = fs::remove_file(bank.data().join(&name));
        let _ = fs::copy(other.data().join(&name), bank.data().join(&name));
    }
    bank.run(&["balances"]).fails(8, "is of log");
    assert!(bank.run(&["status"]).succeeds().out.contains(" is of log "));
    bank.run(&["balances"]).fails(8, "`bank rebuild` makes the read model again from this log");
    bank.run(&["rebuild"]).succeeds();
    bank.balances();
}
