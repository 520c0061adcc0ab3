//! The program as its users run it.

#![allow(dead_code, reason = "each file of tests uses its part")]
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "tests talk, and may fail")]

use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// The PostgreSQL that `cargo xtask test postgres` has started. Without it, tests that need one are skipped and say so.
pub(crate) fn server() -> Option<String> {
    let server = std::env::var("FACTUM_TEST_POSTGRES").ok();
    if server.is_none() {
        println!("skipped: no server; run `cargo xtask test postgres`, or name one in FACTUM_TEST_POSTGRES");
    }
    server
}

/// A shop, or room for one.
pub(crate) struct Shop {
    directory: TempDir,
    /// The URL of a database and a schema in it, if the shop is not in the directory.
    schema: Option<(String, String)>,
}

/// How the program ended.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Shop {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), schema: None }
    }

    /// One in a schema of its own in the database that [`server`] names.
    pub(crate) fn on_postgres() -> Self {
        let schema = format!("t_{}", factum::EventId::new().0.simple());
        Self { schema: Some((server().unwrap(), schema)), ..Self::new() }
    }

    pub(crate) fn data(&self) -> std::path::PathBuf {
        self.directory.path().join("shop")
    }

    /// `shop …`, and where.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shop"));
        command.args(arguments).stdin(Stdio::null());
        match &self.schema {
            None => command.arg("--data").arg(self.data()),
            Some((url, schema)) => command.args(["--store", url, "--schema", schema]),
        };
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Answer {
        Answer::from(self.command(arguments).output().unwrap())
    }

    /// What it prints, when all is well.
    #[track_caller]
    pub(crate) fn says(&self, arguments: &[&str]) -> String {
        let answer = self.run(arguments);
        assert_eq!(answer.code, 0, "{arguments:?}: {answer:?}");
        answer.out
    }
}

impl Answer {
    /// It ends with this code, says one sentence that holds `words`, and does not panic.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, words: &str) {
        assert_eq!(self.code, code, "{self:?}");
        let told = self.err.lines().find(|line| line.starts_with("shop: ") || line.starts_with("error: "));
        assert!(told.is_some_and(|told| told.contains(words)), "{words:?} is not in {self:?}");
        assert!(!self.err.contains("panicked"), "{self:?}");
    }
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// The id of the order that was told.
pub(crate) fn order_in(told: &str) -> String {
    told.split_whitespace().nth(1).unwrap().to_owned()
}

/// A table without its blanks.
fn words_of(told: &str) -> String {
    told.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Orders of each kind come to their end, wherever the shop is.
pub(crate) fn every_kind_of_order(shop: &Shop) {
    shop.says(&["receive", "mug=10", "--price", "2.50"]);
    shop.says(&["receive", "tea=1", "--price", "4"]);
    let told = shop.says(&["cart", "ada", "mug=2"]);
    assert!(words_of(&told).contains("mug 2 2.50"), "{told}");
    let told = shop.says(&["order", "ada", "mug", "tea"]);
    assert!(told.contains("of ada, 11.50: completed"), "{told}");
    let told = shop.says(&["order", "ben", "mug=3", "tea"]);
    assert!(told.contains("cancelled: tea: 1 pieces are wanted, and 0 are left"), "{told}");
    let told = shop.says(&["order", "ben", "mug=3", "--card", "empty"]);
    assert!(told.contains("cancelled: the card `empty` is declined"), "{told}");
    let told = shop.says(&["order", "ben", "mug=3", "--to", "Atlantis"]);
    assert!(told.contains("cancelled: no carrier goes to Atlantis"), "{told}");
    let told = shop.says(&["order", "cleo", "mug=3", "--pay-later"]);
    assert!(told.contains("awaits payment"), "{told}");
    let cleos = order_in(&told);
    let told = shop.says(&["stock"]);
    assert!(words_of(&told).contains("mug 2.50 10 4 3 3"), "{told}");
    assert!(shop.says(&["orders", "--open"]).contains(&cleos));
    assert!(shop.says(&["pay", &cleos]).contains("completed"));
    shop.run(&["pay", &cleos]).fails(3, "it is paid already");
    shop.run(&["pay", "17"]).fails(3, "order 17: nobody has asked for this payment");
    assert_eq!(
        shop.says(&["customer", "ben"]),
        "ben: 3 orders, 0 completed and 3 cancelled; 7.50 paid, 7.50 refunded; 0 pieces in the cart\n"
    );
    shop.run(&["customer", "dora"]).fails(3, "there is no customer dora");
    assert_eq!(shop.says(&["parked"]), "nothing is set aside\n");
    let told = shop.says(&["audit"]);
    assert!(told.contains("11 pieces received = 4 left + 0 reserved + 7 shipped\n"), "{told}");
    assert!(told.contains("2 dispatched, for 2 completed orders and 0 open ones\n"), "{told}");
    assert!(told.contains("26.50 charged - 7.50 refunded, by its own books: 3 charges\n"), "{told}");
    assert!(
        told.contains("26.50 charged - 7.50 refunded = 19.00 for completed orders + 0.00 for open ones\n")
    );
    assert!(told.ends_with("It balances.\n"), "{told}");
}

/// The number that stands before these words.
#[track_caller]
fn number_before(told: &str, words: &str) -> u64 {
    let before = told.split_once(words).unwrap_or_else(|| panic!("{words:?} is not in {told}")).0;
    let number = before.split_whitespace().last().unwrap().replace([',', '.'], "");
    number.parse().unwrap_or_else(|_| panic!("there is no number before {words:?} in {told}"))
}

/// Two demonstrations in the same place balance, the second with kills; and what was to go wrong did go wrong.
pub(crate) fn faults_and_kills(shop: &Shop, orders: u32, kills: u32) {
    let (orders, kills) = (orders.to_string(), kills.to_string());
    let told = shop.says(&["demo", "--orders", &orders, "--faults", "many", "--seed", "1"]);
    println!("{told}");
    assert!(told.contains("It balances.") && told.contains(&format!("{orders} placed = ")), "{told}");
    let happened = [
        " cancelled: it was not paid in time",
        " cancelled: the card `empty` is declined",
        " cancelled: no carrier goes to Atlantis",
        " cancelled: there was not enough stock",
        " refunded = ",
        " were lost",
        " done and not answered",
        " late.",
    ];
    for happened in happened {
        assert!(number_before(&told, happened) > 0, "{happened}: {told}");
    }
    assert!(number_before(&told[told.find("were restarted").unwrap()..], " times") > 0, "{told}");
    let completed = number_before(&told, " completed + ");
    let sent = format!("{completed} dispatched, for {completed} completed orders and 0 open ones");
    assert!(told.contains(&sent) && told.contains(" cancelled + 0 open\n"), "{told}");

    let told = shop.says(&["demo", "--orders", &orders, "--seed", "1", "--kills", &kills]);
    println!("{told}");
    let both = 2 * orders.parse::<u32>().unwrap();
    assert!(told.contains("It balances.") && told.contains(&format!("{both} placed = ")), "{told}");
    assert!(told.contains(&format!("was killed {kills} times on the way")), "{told}");
    assert!(number_before(&told, " orders open.") > 0, "{told}");
    for happened in &happened[..4] {
        assert!(number_before(&told, happened) > 1, "{happened}: {told}");
    }
}
