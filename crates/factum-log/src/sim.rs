//! A simulated disk that forgets what a real one may forget, and a driver that crashes the log on it.

mod cycles;
mod disk;
mod torn;

pub use self::{
    cycles::{Cycles, Failure, Noticed, Report, notice, run},
    disk::{Crash, SimDisk},
};
pub use crate::bugs::Bug;
