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
