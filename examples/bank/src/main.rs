//! Soon.
mod money;
mod source;
fn main() {}
