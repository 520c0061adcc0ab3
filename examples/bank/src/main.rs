//! Soon.
mod account;
mod books;
mod exit;
mod money;
mod source;
fn main() {}
