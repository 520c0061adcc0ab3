//! New commands on a ledger: they obey the rules, whatever was imported.

use factum::{Aggregate, Clock, Command, Done, Factum, Failure};
use jiff::civil::Date;

use crate::{
    account::{Account, Deposit, Open, Refusal, Transfer, TransferRefusal, Withdraw},
    exit::{Exit, Kind},
    ledger::{Ledger, Place, today},
    money::Money,
};

/// Does what is asked of accounts, today and in somebody's name.
#[derive(Debug)]
pub(crate) struct Teller {
    ledger: Ledger,
    factum: Factum,
    today: Date,
}

impl Teller {
    /// At the ledger in a place; where there is none, `begin` begins one.
    pub(crate) async fn at(place: &Place, by: &str, clock: &dyn Clock, begin: bool) -> Result<Self, Exit> {
        let ledger = if begin { Ledger::open_or_begin(place).await } else { Ledger::open(place).await }?;
        let factum = ledger.factum.acting_as(by);
        Ok(Self { ledger, factum, today: today(clock) })
    }

    pub(crate) async fn open(
        self,
        account: &str,
        deposit: Option<Money>,
        out: &mut String,
    ) -> Result<(), Exit> {
        let date = self.today;
        self.execute(account, Open { date, deposit }, out).await
    }

    pub(crate) async fn deposit(self, account: &str, amount: Money, out: &mut String) -> Result<(), Exit> {
        let date = self.today;
        self.execute(account, Deposit { date, amount }, out).await
    }

    pub(crate) async fn withdraw(self, account: &str, amount: Money, out: &mut String) -> Result<(), Exit> {
        let date = self.today;
        self.execute(account, Withdraw { date, amount }, out).await
    }

    pub(crate) async fn transfer(
        self,
        from: &str,
        to: &str,
        amount: Money,
        out: &mut String,
    ) -> Result<(), Exit> {
        let transfer = Transfer { date: self.today, from: from.to_owned(), to: to.to_owned(), amount };
        let done = self.factum.decide(transfer).await;
        self.tell(&[from, to], done.map_err(transfer_exit)?, out).await
    }

    async fn execute<C>(self, account: &str, command: C, out: &mut String) -> Result<(), Exit>
    where
        C: Command<Account, Error = Refusal>,
    {
        let done = self.factum.execute(&Account::id(account), command).await;
        let done = done.map_err(|failure| match failure {
            Failure::Refused(refusal) => refused(refusal).because(format!("account {account}")),
            Failure::Store(error) => error.into(),
        })?;
        self.tell(&[account], done, out).await
    }

    /// What the accounts hold now, and how to find again what was recorded.
    async fn tell(self, accounts: &[&str], done: Done, out: &mut String) -> Result<(), Exit> {
        for account in accounts {
            let account = self.factum.load(&Account::id(*account)).await?;
            let revision = account.revision.map_or(0, |revision| revision.0);
            *out +=
                &format!("account {} holds {} (revision {revision})\n", account.id, account.state.balance);
        }
        *out += &format!("recorded under the correlation id {}\n", done.correlation_id);
        self.ledger.close().await
    }
}

fn refused(refusal: Refusal) -> Exit {
    let kind = if refusal == Refusal::NoSuchAccount { Kind::NotFound } else { Kind::Refused };
    Exit::new(kind, refusal.to_string()).but("nothing was recorded")
}

fn transfer_exit(failure: Failure<TransferRefusal>) -> Exit {
    match failure {
        Failure::Refused(TransferRefusal::Account { account, refusal }) => {
            refused(refusal).because(format!("account {account}"))
        }
        Failure::Refused(TransferRefusal::Amount(refusal)) => refused(refusal),
        Failure::Refused(same) => Exit::new(Kind::Refused, same.to_string()).but("nothing was recorded"),
        Failure::Store(error) => error.into(),
    }
}
