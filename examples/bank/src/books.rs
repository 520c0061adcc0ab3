//! What the ledger holds already, and what each row of the bank's files adds to it. Pure: it reads no file and writes no log.

use std::{
    collections::{HashMap, hash_map::DefaultHasher},
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use factum::{Aggregate, EventId};
use jiff::civil::Date;
use uuid::Uuid;

use crate::{
    account::{Account, AccountEvent, Booking, Counterparty, Movement, Particulars},
    money::Money,
    source::{AccountRow, Direction, TransactionRow},
};

/// What the ids of imported facts are derived in: the same row gives the same ids on every machine, for ever.
const FACTS: Uuid = Uuid::from_u128(0x1f0c_8a52_9d7e_4b0c_9a35_6b21_c0de_1993);

/// The books as far as they have come.
#[derive(Debug)]
pub(crate) struct Books {
    /// How far the bank's balance may be from the sum before a row is refused.
    tolerance: Money,
    accounts: HashMap<Arc<str>, Page>,
    /// Every fact that was imported, by its id.
    facts: HashMap<EventId, Fact>,
}

/// One account in the books.
#[derive(Debug, Default)]
struct Page {
    account: Account,
    /// Whether anything has happened since it was opened.
    begun: bool,
}

/// An imported fact, as far as it is needed to know it again.
#[derive(Debug)]
struct Fact {
    account: Arc<str>,
    date: Date,
    change: Money,
    /// A hash of all that it says.
    content: u64,
}

/// What a row comes to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Entry {
    /// New facts, with the ids that follow from the row; they belong together.
    New(Vec<(EventId, AccountEvent)>),
    /// The row is recorded already, as it is.
    Recorded,
}

/// Why a row that can be read does not fit into the books.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum Misfit {
    #[error(
        "account {account} is recorded already with other particulars; history is not rewritten, so correct the row"
    )]
    OtherAccount { account: String },
    #[error("account {account} is not in the accounts file, nor in the ledger; add it to the accounts file")]
    UnknownAccount { account: String },
    #[error("the transaction is of {date}, and account {account} was opened on {opened_on}")]
    BeforeOpening { account: String, date: Date, opened_on: Date },
    #[error(
        "transaction {transaction} is recorded already with other content ({recorded}); give a new transaction an id of its own"
    )]
    OtherTransaction { transaction: String, recorded: String },
    #[error("{0}")]
    DoesNotFollow(Box<Gap>),
}

/// A balance that does not follow from the one before.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Gap {
    pub(crate) account: String,
    pub(crate) before: Money,
    pub(crate) change: Money,
    pub(crate) recorded_after: Money,
    pub(crate) tolerance: Money,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { account, before, change, recorded_after, tolerance } = self;
        let (sum, sign) = (*before + *change, if change.is_negative() { '-' } else { '+' });
        let (change, difference) = (change.abs(), (*recorded_after - sum).abs());
        write!(
            f,
            "the balance_after is {recorded_after}, but account {account} held {before}, and {before} {sign} {change} = {sum}; \
             that is {difference} apart, and the tolerance is {tolerance}"
        )
    }
}

impl Books {
    pub(crate) fn new(tolerance: Money) -> Self {
        Self { tolerance, accounts: HashMap::new(), facts: HashMap::new() }
    }

    /// Takes note of a fact that is, or is about to be, in the log.
    pub(crate) fn note(&mut self, account: &str, id: EventId, event: &AccountEvent) {
        let name = match self.accounts.get_key_value(account) {
            Some((name, _)) => name.clone(),
            None => Arc::from(account),
        };
        let page = self.accounts.entry(name.clone()).or_default();
        page.account.apply(event);
        page.begun |= !matches!(event, AccountEvent::AccountOpened { .. });
        let (date, change, content) = (event.date(), event.change(), content(account, event));
        self.facts.insert(id, Fact { account: name, date, change, content });
    }

    /// How many accounts there are.
    pub(crate) fn accounts(&self) -> usize {
        self.accounts.len()
    }

    /// Opens the account of a row.
    pub(crate) fn open(&mut self, row: &AccountRow) -> Result<Entry, Misfit> {
        let id = EventId::derived(FACTS, format!("account/{}/opened", row.account));
        let AccountRow { account, district, statement_frequency, opened_on } = row.clone();
        let particulars = Some(Particulars { district, statement_frequency });
        let event = AccountEvent::AccountOpened { date: opened_on, particulars };
        match self.facts.get(&id) {
            Some(fact) if fact.content == content(&account, &event) => Ok(Entry::Recorded),
            // Either the file says something else now, or it was opened in this ledger itself.
            None if !self.accounts.contains_key(&*account) => Ok(self.add(&account, vec![(id, event)])),
            _ => Err(Misfit::OtherAccount { account }),
        }
    }

    /// Books the transaction of a row.
    pub(crate) fn book(&mut self, row: &TransactionRow) -> Result<Entry, Misfit> {
        let fact = |part: &str| EventId::derived(FACTS, format!("transaction/{}{part}", row.id));
        let (id, movement) = (fact(""), movement(row));
        if let Some(known) = self.facts.get(&id) {
            if known.content == content(&row.account, &movement) {
                return Ok(Entry::Recorded);
            }
            return Err(Misfit::OtherTransaction {
                transaction: row.id.clone(),
                recorded: known.to_string(),
            });
        }
        let (account, date) = (row.account.clone(), row.date);
        let Some(page) = self.accounts.get(&*account) else { return Err(Misfit::UnknownAccount { account }) };
        if let Some(opened_on) = page.account.opened_on.filter(|opened_on| date < *opened_on) {
            return Err(Misfit::BeforeOpening { account, date, opened_on });
        }
        let (before, change) = (page.account.balance, movement.change());
        let difference = row.balance_after - (before + change);
        let (within, begun) = (difference.abs() <= self.tolerance, page.begun);
        let first_day = page.account.opened_on == Some(date);
        let mut events = vec![(id, movement)];
        if difference != Money::ZERO && within && (begun || first_day) {
            let event =
                AccountEvent::BalanceRounded { date, amount: difference, transaction: row.id.clone() };
            events.push((fact("/rounding"), event));
        } else if difference != Money::ZERO && !begun {
            // The records begin in the midst of the account's life.
            let event = AccountEvent::BalanceBroughtForward { date, amount: difference };
            events.insert(0, (fact("/brought-forward"), event));
        } else if difference != Money::ZERO {
            let gap =
                Gap { account, before, change, recorded_after: row.balance_after, tolerance: self.tolerance };
            return Err(Misfit::DoesNotFollow(Box::new(gap)));
        }
        Ok(self.add(&row.account, events))
    }

    fn add(&mut self, account: &str, events: Vec<(EventId, AccountEvent)>) -> Entry {
        for (id, event) in &events {
            self.note(account, *id, event);
        }
        Entry::New(events)
    }
}

fn movement(row: &TransactionRow) -> AccountEvent {
    let TransactionRow {
        id, operation, purpose, balance_after, counterparty_bank, counterparty_account, ..
    } = row.clone();
    let bank = Some(counterparty_bank).filter(|bank| !bank.is_empty());
    let known = bank.is_some() || !counterparty_account.is_empty();
    let counterparty = known.then_some(Counterparty { account: counterparty_account, bank });
    let booking = Some(Booking { transaction: id, operation, purpose, balance_after });
    let movement = Movement { date: row.date, amount: row.amount, counterparty, booking };
    match (row.direction, known) {
        (Direction::Credit, false) => AccountEvent::MoneyDeposited(movement),
        (Direction::Credit, true) => AccountEvent::TransferReceived(movement),
        (Direction::Debit, false) => AccountEvent::MoneyWithdrawn(movement),
        (Direction::Debit, true) => AccountEvent::TransferSent(movement),
    }
}

fn content(account: &str, event: &AccountEvent) -> u64 {
    let mut hasher = DefaultHasher::new();
    (account, event).hash(&mut hasher);
    hasher.finish()
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { account, date, change, .. } = self;
        write!(f, "{change} on account {account}, {date}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn money(text: &str) -> Money {
        text.parse().unwrap()
    }

    fn books() -> Books {
        let mut books = Books::new(money("0.10"));
        for (account, day) in [("17", "1993-01-05"), ("19", "1992-03-01")] {
            assert!(matches!(books.open(&account_row(account, day)), Ok(Entry::New(_))));
        }
        books
    }

    fn account_row(account: &str, opened_on: &str) -> AccountRow {
        AccountRow {
            account: account.into(),
            district: "55".into(),
            statement_frequency: "monthly".into(),
            opened_on: opened_on.parse().unwrap(),
        }
    }

    /// `credit` of the amount unless it begins with `-`.
    fn row(id: &str, account: &str, date: &str, change: &str, balance_after: &str) -> TransactionRow {
        TransactionRow {
            id: id.into(),
            account: account.into(),
            date: date.parse().unwrap(),
            direction: if change.starts_with('-') { Direction::Debit } else { Direction::Credit },
            operation: "cash".into(),
            purpose: String::new(),
            amount: money(change).abs(),
            balance_after: money(balance_after),
            counterparty_bank: String::new(),
            counterparty_account: String::new(),
        }
    }

    fn changes(entry: Result<Entry, Misfit>) -> Vec<(&'static str, String)> {
        let Ok(Entry::New(events)) = entry else { panic!("{entry:?}") };
        let named = |event: &AccountEvent| match event {
            AccountEvent::AccountOpened { .. } => "opened",
            AccountEvent::BalanceBroughtForward { .. } => "brought forward",
            AccountEvent::BalanceRounded { .. } => "rounded",
            _ => "moved",
        };
        events.iter().map(|(_, event)| (named(event), event.change().to_string())).collect()
    }

    #[test]
    fn a_rounding_difference_is_a_fact_of_its_own() {
        let mut books = books();
        assert_eq!(
            changes(books.book(&row("1", "17", "1993-01-05", "900", "900"))),
            [("moved", "900.00".into())]
        );
        let rounded = changes(books.book(&row("2", "17", "1993-01-31", "1.25", "901.30")));
        assert_eq!(rounded, [("moved", "1.25".into()), ("rounded", "0.05".into())]);
        let rounded = changes(books.book(&row("3", "17", "1993-02-01", "-1000", "-98.80")));
        assert_eq!(rounded, [("moved", "-1000.00".into()), ("rounded", "-0.10".into())]);
    }

    #[test]
    fn a_difference_beyond_the_tolerance_is_refused_and_books_nothing() {
        let mut books = books();
        books.book(&row("1", "17", "1993-01-05", "900", "900")).unwrap();
        let refused = books.book(&row("2", "17", "1993-01-31", "-1.25", "898.64")).unwrap_err().to_string();
        let told = "the balance_after is 898.64, but account 17 held 900.00, and 900.00 - 1.25 = 898.75; that is 0.11 apart, and the tolerance is 0.10";
        assert_eq!(refused, told);
        assert_eq!(
            changes(books.book(&row("2", "17", "1993-01-31", "-1.25", "898.75"))),
            [("moved", "-1.25".into())]
        );
    }

    #[test]
    fn records_that_begin_in_mid_life_bring_the_balance_forward() {
        let mut books = books();
        let brought = changes(books.book(&row("9", "19", "1993-01-01", "-50", "1200.50")));
        assert_eq!(brought, [("brought forward", "1250.50".into()), ("moved", "-50.00".into())]);
        assert!(books.book(&row("10", "19", "1993-01-02", "1", "1300")).is_err(), "only once");
        // A few hellers on an old account are its balance, on the first day of a new one they are a rounding.
        books.open(&account_row("20", "1992-03-01")).unwrap();
        assert_eq!(changes(books.book(&row("11", "20", "1993-01-01", "5", "5.05")))[0].0, "brought forward");
        assert_eq!(changes(books.book(&row("12", "17", "1993-01-05", "5", "5.05")))[1].0, "rounded");
    }

    #[test]
    fn what_is_recorded_is_known_again_and_nothing_else() {
        let mut books = books();
        let first = row("1", "17", "1993-01-05", "900", "900");
        books.book(&first).unwrap();
        assert_eq!(books.book(&first), Ok(Entry::Recorded));
        assert_eq!(books.open(&account_row("17", "1993-01-05")), Ok(Entry::Recorded));
        assert!(matches!(books.open(&account_row("17", "1993-01-06")), Err(Misfit::OtherAccount { .. })));
        for other in [
            row("1", "19", "1993-01-05", "900", "900"),
            row("1", "17", "1993-01-06", "900", "900"),
            row("1", "17", "1993-01-05", "-900", "900"),
            row("1", "17", "1993-01-05", "900", "900.05"),
            TransactionRow { purpose: "pension".into(), ..first.clone() },
        ] {
            let refused = books.book(&other).unwrap_err();
            assert!(matches!(refused, Misfit::OtherTransaction { .. }), "{refused}");
            assert!(refused.to_string().contains("(900.00 on account 17, 1993-01-05)"), "{refused}");
        }
    }

    #[test]
    fn a_row_needs_an_account_that_was_open_by_then() {
        let mut books = books();
        let unknown = books.book(&row("1", "18", "1993-01-05", "1", "1")).unwrap_err();
        assert!(unknown.to_string().contains("account 18 is not in the accounts file"));
        let early = books.book(&row("1", "17", "1993-01-04", "1", "1")).unwrap_err();
        assert_eq!(
            early.to_string(),
            "the transaction is of 1993-01-04, and account 17 was opened on 1993-01-05"
        );
    }

    #[test]
    fn the_same_row_gives_the_same_ids_for_ever() {
        let Ok(Entry::New(events)) = books().book(&row("171812", "17", "1993-01-05", "900", "900.05")) else {
            panic!("a new row")
        };
        let ids: Vec<_> = events.iter().map(|(id, _)| id.to_string()).collect();
        assert_eq!(
            ids,
            ["77bc3d9e-247f-5ef2-b581-b533e265ae8a", "3e850b81-9151-5a61-85ad-a1c1f9e5a660"],
            "a change of these would import every ledger twice"
        );
    }
}
