//! A simulated disk that forgets what a real one may forget, and drivers that crash the log on it, and damage every byte of it.

mod cycles;
mod damage;
mod disk;

pub use self::{
    cycles::{Cycles, Failure, Report, run},
    damage::{DamageReport, Damages, every_byte},
    disk::{Crash, SimDisk},
};
pub use crate::bugs::Bug;
