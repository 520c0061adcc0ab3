//! A small bank, as domain code.

use factum::prelude::*;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum AccountEvent {
    Opened { owner: String },
    Deposited { amount: i64 },
    Withdrawn { amount: i64 },
    Closed,
}
use AccountEvent::{Closed, Deposited, Opened, Withdrawn};

impl Event for AccountEvent {
    const CATEGORY: &'static str = "account";
}

#[derive(Debug, Default, PartialEq)]
pub struct Account {
    pub open: bool,
    pub balance: i64,
}

impl Aggregate for Account {
    type Event = AccountEvent;

    fn apply(&mut self, event: &AccountEvent) {
        match event {
            Opened { .. } => self.open = true,
            Deposited { amount } => self.balance += amount,
            Withdrawn { amount } => self.balance -= amount,
            Closed => self.open = false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Refusal {
    AlreadyOpen,
    NotOpen,
    InsufficientFunds,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

impl std::error::Error for Refusal {}

pub struct Open(pub &'static str);
pub struct Deposit(pub i64);
pub struct Withdraw(pub i64);

impl Command<Account> for Open {
    type Error = Refusal;

    fn decide(&self, account: &Account) -> Result<Vec<AccountEvent>, Refusal> {
        refuse_if(account.open, Refusal::AlreadyOpen)?;
        Ok(vec![Opened { owner: self.0.into() }])
    }
}

impl Command<Account> for Deposit {
    type Error = Refusal;

    fn decide(&self, account: &Account) -> Result<Vec<AccountEvent>, Refusal> {
        refuse_if(!account.open, Refusal::NotOpen)?;
        Ok(if self.0 == 0 { vec![] } else { vec![Deposited { amount: self.0 }] })
    }
}

impl Command<Account> for Withdraw {
    type Error = Refusal;

    fn decide(&self, account: &Account) -> Result<Vec<AccountEvent>, Refusal> {
        refuse_if(!account.open, Refusal::NotOpen)?;
        refuse_if(account.balance < self.0, Refusal::InsufficientFunds)?;
        Ok(vec![Withdrawn { amount: self.0 }])
    }
}

pub struct Transfer {
    pub from: Id<Account>,
    pub to: Id<Account>,
    pub amount: i64,
}

impl Decide for Transfer {
    type Models = (Entity<Account>, Entity<Account>);
    type Error = Refusal;

    fn models(&self) -> Self::Models {
        (Entity::of(&self.from), Entity::of(&self.to))
    }

    fn decide(&self, (from, to): &Self::Models) -> Result<Writes, Refusal> {
        let amount = self.amount;
        refuse_if(!from.state.open || !to.state.open, Refusal::NotOpen)?;
        refuse_if(from.state.balance < amount, Refusal::InsufficientFunds)?;
        Ok(Writes::to(&self.from, [Withdrawn { amount }]).and(&self.to, [Deposited { amount }]))
    }
}
