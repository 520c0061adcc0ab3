//! Durable timers: events that are to happen at a moment, and what sets them off.
//!
//! What is scheduled is recorded in the log, so that it survives whatever the process does not. When the moment has come, or later if
//! nobody was there, it happens once: the event is recorded, and its handlers act on it like on any other.
//!
//! ```
//! use std::time::Duration;
//! use factum::{EventHandler, MemoryReads, MemoryStore, Trouble, prelude::*};
//!
//! # #[derive(Serialize, Deserialize, Debug, PartialEq)] enum AccountEvent { Closed }
//! # impl Event for AccountEvent { const CATEGORY: &'static str = "account"; }
//! # #[derive(Default)] struct Account; impl Aggregate for Account { type Event = AccountEvent; fn apply(&mut self, _: &AccountEvent) {} }
//! # #[derive(Serialize)] struct Close; impl Command<Account> for Close { type Error = std::convert::Infallible;
//! #     fn decide(&self, _: &Account) -> Result<Vec<AccountEvent>, Self::Error> { Ok(vec![AccountEvent::Closed]) } }
//! #[derive(Serialize, Deserialize)]
//! enum DueEvent { AccountToBeClosed { account: String } }
//! # impl Event for DueEvent { const CATEGORY: &'static str = "due"; }
//!
//! struct Closing { factum: Factum }                           // a command at a moment
//!
//! #[factum::async_trait]
//! impl EventHandler for Closing {
//!     const NAME: &'static str = "closing";
//!     type Event = DueEvent;
//!
//!     async fn handle(&self, event: &Recorded<DueEvent>) -> Result<(), Trouble> {
//!         let DueEvent::AccountToBeClosed { account } = &event.event;
//!         let factum = self.factum.caused_by(&event.record).identified(event.record.id);
//!         factum.execute(&Account::id(account), Close).await?;
//!         Ok(())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let factum = Factum::new(MemoryStore::new());
//! let reads = MemoryReads::new();
//! let timers = factum.timers(reads.clone()).await?;
//! let closing = factum.handle(Closing { factum: factum.clone() }, reads).await?;
//!
//! let at = factum.now().plus(Duration::from_millis(10));
//! factum.schedule("17", at, &DueEvent::AccountToBeClosed { account: "17".into() }).await?;
//! # while factum.history(&Account::id("17")).await?.is_empty() { tokio::time::sleep(Duration::from_millis(5)).await; }
//! # assert_eq!(factum.history(&Account::id("17")).await?[0].event, AccountEvent::Closed);
//! assert!(!factum.unschedule::<DueEvent>("17").await?);        // too late
//! # timers.stop().await; closing.stop().await;
//! # Ok(()) }
//! ```
//!
//! A [process manager](crate::process) has timers of its own, which are inputs of its instances.
//!
//! The clock is that of the handle ([`Factum::with_clock`](crate::Factum::with_clock)). It may jump: what is due is looked for at least
//! every second. One that cannot be set off is tried again, with growing pauses, and leaves room for the others.

mod due;
mod firing;
mod scheduled;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed")]
mod tests;

pub(crate) use self::{
    due::{Changes, Due, DueList, Fire, Fired},
    firing::Firing,
};
pub use self::{firing::TimerStatus, scheduled::Timers};
