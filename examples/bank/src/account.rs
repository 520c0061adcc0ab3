//! The domain: what can happen to an account, and what may be asked of it.
//!
//! Plain data and pure functions; nothing here knows of files, stores or clocks.

use factum::prelude::*;
use jiff::civil::Date;

use crate::money::Money;

/// What happened to an account. Each fact carries the day it belongs to; when it was recorded, the log knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum AccountEvent {
    AccountOpened {
        date: Date,
        /// What the bank's file says of the account besides; nothing for accounts opened here.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        particulars: Option<Particulars>,
    },
    /// What an account held when the records that were imported begin in the midst of its life.
    BalanceBroughtForward {
        date: Date,
        amount: Money,
    },
    MoneyDeposited(Movement),
    MoneyWithdrawn(Movement),
    TransferSent(Movement),
    TransferReceived(Movement),
    /// The bank's own balance after a transaction differs from the sum by this much: it rounded.
    BalanceRounded {
        date: Date,
        amount: Money,
        /// The transaction after which it did.
        transaction: String,
    },
}

/// Money that came or went.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Movement {
    pub(crate) date: Date,
    /// Never negative: the kind of event says which way it went.
    pub(crate) amount: Money,
    /// The other side of a transfer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) counterparty: Option<Counterparty>,
    /// What the bank recorded of it; nothing for what was asked of this ledger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) booking: Option<Booking>,
}

/// The other side of a transfer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Counterparty {
    pub(crate) account: String,
    /// Another bank; nothing for an account of this ledger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bank: Option<String>,
}

/// A transaction as the bank recorded it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Booking {
    pub(crate) transaction: String,
    pub(crate) operation: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) purpose: String,
    /// The balance that the bank recorded afterwards.
    pub(crate) balance_after: Money,
}

/// What the bank's file says of an account.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Particulars {
    pub(crate) district: String,
    pub(crate) statement_frequency: String,
}

impl AccountEvent {
    /// The day it belongs to.
    pub(crate) fn date(&self) -> Date {
        match self {
            Self::AccountOpened { date, .. }
            | Self::BalanceBroughtForward { date, .. }
            | Self::BalanceRounded { date, .. } => *date,
            Self::MoneyDeposited(movement)
            | Self::MoneyWithdrawn(movement)
            | Self::TransferSent(movement)
            | Self::TransferReceived(movement) => movement.date,
        }
    }

    /// By how much it changes the balance.
    pub(crate) fn change(&self) -> Money {
        match self {
            Self::AccountOpened { .. } => Money::ZERO,
            Self::BalanceBroughtForward { amount, .. } | Self::BalanceRounded { amount, .. } => *amount,
            Self::MoneyDeposited(movement) | Self::TransferReceived(movement) => movement.amount,
            Self::MoneyWithdrawn(movement) | Self::TransferSent(movement) => -movement.amount,
        }
    }

    /// The money that moved, if it tells of that.
    pub(crate) fn movement(&self) -> Option<&Movement> {
        match self {
            Self::MoneyDeposited(movement)
            | Self::MoneyWithdrawn(movement)
            | Self::TransferSent(movement)
            | Self::TransferReceived(movement) => Some(movement),
            _ => None,
        }
    }

    /// The transaction of the bank that it comes from.
    pub(crate) fn transaction(&self) -> Option<&str> {
        match self {
            Self::BalanceRounded { transaction, .. } => Some(transaction),
            _ => Some(&self.movement()?.booking.as_ref()?.transaction),
        }
    }
}

impl Event for AccountEvent {
    const CATEGORY: &'static str = "account";

    fn tags(&self) -> Vec<String> {
        self.transaction().map(|id| format!("transaction:{id}")).into_iter().collect()
    }
}

/// An account, as far as decisions about it must know it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Account {
    /// Nothing: there is no such account.
    pub(crate) opened_on: Option<Date>,
    pub(crate) balance: Money,
}

impl Aggregate for Account {
    type Event = AccountEvent;

    fn apply(&mut self, event: &AccountEvent) {
        if let AccountEvent::AccountOpened { date, .. } = event {
            self.opened_on = Some(*date);
        }
        self.balance += event.change();
    }
}

impl Account {
    /// What these events make of an account.
    pub(crate) fn fold<'a>(events: impl IntoIterator<Item = &'a AccountEvent>) -> Self {
        let mut account = Self::default();
        events.into_iter().for_each(|event| account.apply(event));
        account
    }

    fn must_exist(&self) -> Result<(), Refusal> {
        refuse_if(self.opened_on.is_none(), Refusal::NoSuchAccount)
    }

    fn must_hold(&self, amount: Money) -> Result<(), Refusal> {
        refuse_if(self.balance < amount, Refusal::InsufficientFunds { balance: self.balance, amount })
    }
}

/// Why an account does not do what it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("it is open already")]
    AlreadyOpen,
    #[error("there is no such account")]
    NoSuchAccount,
    #[error("the amount must be more than 0.00, and {0} is not")]
    AmountNotPositive(Money),
    #[error("insufficient funds: it holds {balance}, and {amount} was asked for")]
    InsufficientFunds { balance: Money, amount: Money },
}

fn positive(amount: Money) -> Result<Money, Refusal> {
    refuse_if(!amount.is_positive(), Refusal::AmountNotPositive(amount))?;
    Ok(amount)
}

/// Money that moves because this ledger was asked to.
fn moved(date: Date, amount: Money) -> Movement {
    Movement { date, amount, counterparty: None, booking: None }
}

/// Opens an account, with money in it or without.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Open {
    pub(crate) date: Date,
    pub(crate) deposit: Option<Money>,
}

impl Command<Account> for Open {
    type Error = Refusal;

    fn decide(&self, account: &Account) -> Result<Vec<AccountEvent>, Refusal> {
        refuse_if(account.opened_on.is_some(), Refusal::AlreadyOpen)?;
        let mut events = vec![AccountEvent::AccountOpened { date: self.date, particulars: None }];
        if let Some(amount) = self.deposit {
            events.push(AccountEvent::MoneyDeposited(moved(self.date, positive(amount)?)));
        }
        Ok(events)
    }
}

/// Puts money into an account.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deposit {
    pub(crate) date: Date,
    pub(crate) amount: Money,
}

impl Command<Account> for Deposit {
    type Error = Refusal;

    fn decide(&self, account: &Account) -> Result<Vec<AccountEvent>, Refusal> {
        let amount = positive(self.amount)?;
        account.must_exist()?;
        Ok(vec![AccountEvent::MoneyDeposited(moved(self.date, amount))])
    }
}

/// Takes money out of an account.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Withdraw {
    pub(crate) date: Date,
    pub(crate) amount: Money,
}

impl Command<Account> for Withdraw {
    type Error = Refusal;

    fn decide(&self, account: &Account) -> Result<Vec<AccountEvent>, Refusal> {
        let amount = positive(self.amount)?;
        account.must_exist()?;
        account.must_hold(amount)?;
        Ok(vec![AccountEvent::MoneyWithdrawn(moved(self.date, amount))])
    }
}

/// Moves money between two accounts: one decision, written as one.
#[derive(Clone, Debug)]
pub(crate) struct Transfer {
    pub(crate) date: Date,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) amount: Money,
}

/// Why a transfer does not happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TransferRefusal {
    #[error("{0}")]
    Amount(Refusal),
    #[error("account {account}: {refusal}")]
    Account { account: String, refusal: Refusal },
    #[error("account {0} cannot pay itself")]
    SameAccount(String),
}

impl Decide for Transfer {
    type Models = (Entity<Account>, Entity<Account>);
    type Error = TransferRefusal;

    fn models(&self) -> Self::Models {
        (Entity::of(&Account::id(&self.from)), Entity::of(&Account::id(&self.to)))
    }

    fn decide(&self, (from, to): &Self::Models) -> Result<Writes, TransferRefusal> {
        let amount = positive(self.amount).map_err(TransferRefusal::Amount)?;
        refuse_if(self.from == self.to, TransferRefusal::SameAccount(self.from.clone()))?;
        let told = |account: &str, answer: Result<(), Refusal>| {
            answer.map_err(|refusal| TransferRefusal::Account { account: account.to_owned(), refusal })
        };
        told(&self.from, from.state.must_exist())?;
        told(&self.to, to.state.must_exist())?;
        told(&self.from, from.state.must_hold(amount))?;
        let with = |account: &str| Movement {
            counterparty: Some(Counterparty { account: account.to_owned(), bank: None }),
            ..moved(self.date, amount)
        };
        Ok(Writes::to(&from.id, [AccountEvent::TransferSent(with(&self.to))])
            .and(&to.id, [AccountEvent::TransferReceived(with(&self.from))]))
    }
}

#[cfg(test)]
mod tests {
    use factum::testkit::given;

    use super::*;

    fn money(text: &str) -> Money {
        text.parse().unwrap()
    }

    fn day() -> Date {
        "2026-01-05".parse().unwrap()
    }

    fn opened() -> AccountEvent {
        AccountEvent::AccountOpened { date: day(), particulars: None }
    }

    fn deposited(amount: &str) -> AccountEvent {
        AccountEvent::MoneyDeposited(moved(day(), money(amount)))
    }

    fn withdrawn(amount: &str) -> AccountEvent {
        AccountEvent::MoneyWithdrawn(moved(day(), money(amount)))
    }

    fn withdraw(amount: &str) -> Withdraw {
        Withdraw { date: day(), amount: money(amount) }
    }

    fn deposit(amount: &str) -> Deposit {
        Deposit { date: day(), amount: money(amount) }
    }

    #[test]
    fn an_account_is_opened_once_with_money_or_without() {
        let open = |deposit: Option<&str>| Open { date: day(), deposit: deposit.map(money) };
        given([]).when(open(None)).then([opened()]);
        given([]).when(open(Some("100"))).then([opened(), deposited("100")]);
        given([opened()]).when(open(Some("100"))).then_refused(Refusal::AlreadyOpen);
        for amount in ["0", "-100"] {
            given([]).when(open(Some(amount))).then_refused(Refusal::AmountNotPositive(money(amount)));
        }
    }

    #[test]
    fn money_comes_and_goes_within_the_balance() {
        given([opened()]).when(deposit("50")).then([deposited("50")]);
        given([opened(), deposited("100")]).when(withdraw("100")).then([withdrawn("100")]);
        let insufficient = Refusal::InsufficientFunds { balance: money("550"), amount: money("550.01") };
        given([opened(), deposited("600"), withdrawn("50")])
            .when(withdraw("550.01"))
            .then_refused(insufficient);
        for amount in ["0", "-0.01"] {
            let refusal = Refusal::AmountNotPositive(money(amount));
            given([opened(), deposited("100")]).when(withdraw(amount)).then_refused(refusal);
            given([opened()]).when(deposit(amount)).then_refused(refusal);
        }
    }

    #[test]
    fn an_account_that_was_never_opened_does_nothing() {
        given([]).when(deposit("1")).then_refused(Refusal::NoSuchAccount);
        given([]).when(withdraw("1")).then_refused(Refusal::NoSuchAccount);
    }

    #[test]
    fn imported_facts_may_overdraw_and_new_commands_then_obey_the_rules() {
        let past = [opened(), deposited("10"), withdrawn("60")];
        assert_eq!(Account::fold(&past).balance, money("-50"));
        let insufficient = Refusal::InsufficientFunds { balance: money("-50"), amount: money("1") };
        given(past.clone()).when(withdraw("1")).then_refused(insufficient);
        given(past).when(deposit("1")).then([deposited("1")]);
    }

    fn transfer(from: &str, to: &str, amount: &str) -> Transfer {
        Transfer { date: day(), from: from.into(), to: to.into(), amount: money(amount) }
    }

    fn two_accounts() -> Writes {
        Writes::to(&Account::id("a"), [opened(), deposited("100")]).and(&Account::id("b"), [opened()])
    }

    #[test]
    fn a_transfer_changes_both_accounts() {
        let side = |account: &str| Movement {
            counterparty: Some(Counterparty { account: account.into(), bank: None }),
            ..moved(day(), money("100"))
        };
        given(two_accounts()).when(transfer("a", "b", "100")).then(
            Writes::to(&Account::id("a"), [AccountEvent::TransferSent(side("b"))])
                .and(&Account::id("b"), [AccountEvent::TransferReceived(side("a"))]),
        );
    }

    #[test]
    fn a_transfer_is_refused_whole() {
        let about = |account: &str, refusal| TransferRefusal::Account { account: account.into(), refusal };
        let insufficient = Refusal::InsufficientFunds { balance: money("100"), amount: money("100.01") };
        let cases = [
            (transfer("a", "b", "100.01"), about("a", insufficient)),
            (transfer("a", "c", "1"), about("c", Refusal::NoSuchAccount)),
            (transfer("c", "b", "1"), about("c", Refusal::NoSuchAccount)),
            (transfer("a", "a", "1"), TransferRefusal::SameAccount("a".into())),
            (transfer("a", "b", "0"), TransferRefusal::Amount(Refusal::AmountNotPositive(Money::ZERO))),
        ];
        for (transfer, refusal) in cases {
            given(two_accounts()).when(transfer).then_refused(refusal);
        }
    }

    #[test]
    fn what_is_stored_is_pinned() {
        let booking = Booking {
            transaction: "7".into(),
            operation: "transfer out".into(),
            purpose: String::new(),
            balance_after: money("-1.5"),
        };
        let counterparty = Some(Counterparty { account: "20747721".into(), bank: Some("AB".into()) });
        let sent = Movement { counterparty, booking: Some(booking), ..moved(day(), money("3")) };
        let encoded = factum::codec::encode(&AccountEvent::TransferSent(sent)).unwrap();
        let data = r#"{"date":"2026-01-05","amount":"3.00","counterparty":{"account":"20747721","bank":"AB"},"booking":{"transaction":"7","operation":"transfer out","balance_after":"-1.50"}}"#;
        assert_eq!((&*encoded.event_type, &*encoded.data), ("TransferSent", data.as_bytes()));
        assert!(encoded.tags.contains("transaction:7"));
        factum::events_lock!(AccountEvent);
    }
}
