//! The read model: one row for each account, kept beside the log.

use factum::prelude::*;
use jiff::civil::Date;

use crate::{account::AccountEvent, money::Money};

/// The balances of all accounts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Balances;

/// What is known of an account at a glance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Balance {
    pub(crate) balance: Money,
    pub(crate) opened_on: Option<Date>,
    /// The day of the last entry.
    pub(crate) last_entry_on: Option<Date>,
    /// How many entries there are, the opening not among them.
    pub(crate) entries: u64,
}

impl Projection for Balances {
    const NAME: &'static str = "balances";
    type Event = AccountEvent;
    type Row = Balance;

    fn evolve(&self, row: Option<Balance>, event: &Recorded<AccountEvent>) -> Option<Balance> {
        let mut row = row.unwrap_or_default();
        match &event.event {
            AccountEvent::AccountOpened { date, .. } => row.opened_on = Some(*date),
            entry => {
                row.balance += entry.change();
                row.last_entry_on = row.last_entry_on.max(Some(entry.date()));
                row.entries += 1;
            }
        }
        Some(row)
    }
}
