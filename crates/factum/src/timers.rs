//! Durable timers.

mod due;
mod firing;

pub use self::firing::TimerStatus;
pub(crate) use self::{
    due::{Changes, Due, Fire},
    firing::Firing,
};
