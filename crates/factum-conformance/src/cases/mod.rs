//! The cases, one module per theme. [`suite!`](crate::suite) makes a test of each.
#![allow(missing_docs, reason = "the name of a case says what it shows")]
#![allow(
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    reason = "a case fails by panic or error; that is its use"
)]

pub mod append;
pub mod guards;
