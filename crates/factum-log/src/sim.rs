//! A simulated disk that forgets what a real one may forget, and a driver that crashes the log on it.

mod cycles;
mod disk;
mod fuzz;
mod torn;

pub use self::{
    cycles::{Cycles, Failure, Noticed, Report, notice, run},
    disk::{Crash, SimDisk},
    fuzz::{Fuzzed, Fuzzer, Mishandled, Target},
};
pub use crate::bugs::Bug;
