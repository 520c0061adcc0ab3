//! A small domain for this crate's own tests: accounts, in whole cents.

use crate::prelude::*;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum AccountEvent {
    Opened { cents: i64 },
    Deposited { cents: i64 },
    Withdrawn { cents: i64 },
    Closed,
}

pub(crate) use AccountEvent::*;

impl Event for AccountEvent {
    const CATEGORY: &'static str = "account";
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Account {
    pub(crate) open: bool,
    pub(crate) cents: i64,
}

impl Aggregate for Account {
    type Event = AccountEvent;

    fn apply(&mut self, event: &AccountEvent) {
        match event {
            Opened { cents } => (self.open, self.cents) = (true, *cents),
            Deposited { cents } => self.cents += cents,
            Withdrawn { cents } => self.cents -= cents,
            Closed => self.open = false,
        }
    }
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the account is not open")]
    NotOpen,
    #[error("insufficient funds")]
    InsufficientFunds,
}

pub(crate) struct Open {
    pub(crate) cents: i64,
}

impl Command<Account> for Open {
    type Error = Refusal;

    fn decide(&self, account: &Account) -> Result<Vec<AccountEvent>, Refusal> {
        Ok(if account.open { vec![] } else { vec![Opened { cents: self.cents }] })
    }
}

pub(crate) struct Withdraw {
    pub(crate) cents: i64,
}

impl Command<Account> for Withdraw {
    type Error = Refusal;

    fn decide(&self, account: &Account) -> Result<Vec<AccountEvent>, Refusal> {
        refuse_if(!account.open, Refusal::NotOpen)?;
        refuse_if(account.cents < self.cents, Refusal::InsufficientFunds)?;
        Ok(if self.cents == 0 { vec![] } else { vec![Withdrawn { cents: self.cents }] })
    }
}

pub(crate) struct Transfer {
    pub(crate) from: Id<Account>,
    pub(crate) to: Id<Account>,
    pub(crate) cents: i64,
}

impl Decide for Transfer {
    type Models = (Entity<Account>, Entity<Account>);
    type Error = Refusal;

    fn models(&self) -> Self::Models {
        (Entity::of(&self.from), Entity::of(&self.to))
    }

    fn decide(&self, (from, to): &Self::Models) -> Result<Writes, Refusal> {
        refuse_if(!from.state.open || !to.state.open, Refusal::NotOpen)?;
        refuse_if(from.state.cents < self.cents, Refusal::InsufficientFunds)?;
        Ok(Writes::to(&self.from, [Withdrawn { cents: self.cents }])
            .and(&self.to, [Deposited { cents: self.cents }]))
    }
}
