//! The import: what it refuses.

mod common;

use common::{ACCOUNTS, Bank, ONE, TRANSACTIONS, TWO, held, row, three};

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
