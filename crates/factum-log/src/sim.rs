//! A simulated disk that forgets what a real one may forget, and drivers that crash the log on it, and damage every byte of it.

mod cycles;
mod damage;
mod disk;
mod fuzz;
mod torn;

pub use self::{
    cycles::{Cycles, Failure, Noticed, Report, notice, run},
    damage::{DamageReport, Damages, every_byte},
    disk::{Crash, SimDisk},
    fuzz::{Fuzzed, Fuzzer, Mishandled, Target},
};
pub use crate::bugs::Bug;
