//! The embedded event store of factum: a segmented, checksummed, group-committed log in a directory.
//!
//! ```no_run
//! use factum::{Append, EventStore, NewEvent, StreamName};
//! # async fn example() -> factum::Result<()> {
//! let store = factum_log::LogStore::open("data")?;
//! let deposited = NewEvent::json("Deposited", &serde_json::json!({"amount": "1.20"}))?;
//! store.append(Append::to(StreamName::new("account-1")?, [deposited])).await?;
//! # Ok(()) }
//! ```
//!
//! To look after a log: [`verify()`] looks at every byte, [`layout()`] tells what is there, [`backup()`] and [`restore()`] copy it, also
//! while it is written to, [`salvage()`] reads what can be read of a damaged one, and [`repair()`] cuts it before the damage. What each
//! promises is in `docs/operations.md`; the executable `factum` has a command for each.

#![allow(unreachable_pub, reason = "in a private module, `pub` says what other modules may use")]

mod backup;
mod batch;
mod bugs;
pub mod disk;
mod format;
mod index;
mod layout;
mod log;
mod manifest;
mod packed;
mod read;
mod recovery;
mod repair;
mod salvage;
mod scrub;
mod segment;
#[cfg(feature = "sim")]
pub mod sim;
mod sparse;
mod store;
mod verify;

pub use self::{
    backup::{Backup, Restored, backup, restore},
    layout::{FileLayout, FrameLayout, Layout, ManifestLayout, RunLayout, SegmentLayout, layout},
    log::scavenge::{Reclaimed, Scavenge, ScavengeStep, Scavenged, Scavenging},
    recovery::Recovery,
    repair::{Cut, plan_repair, repair},
    salvage::salvage,
    scrub::ScrubStatus,
    store::{LogStore, Options},
    verify::{Finding, Part, Progress, Verification, verify},
};
