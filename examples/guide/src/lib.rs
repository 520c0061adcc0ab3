//! The pages of `docs/guide`, compiled and run: the code on them is one program, carried from page to page.
//!
//! A page sees what the pages before it define. See `build.rs`.

#[cfg(test)]
#[allow(
    dead_code,
    unused_qualifications,
    clippy::all,
    reason = "a page shows what is to be said, and no more"
)]
mod pages {
    include!(concat!(env!("OUT_DIR"), "/pages.rs"));
}
