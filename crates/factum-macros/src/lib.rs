//! Derives for [`factum`](https://docs.rs/factum), which brings them with its default feature `macros`.
//!
//! They write what stands in their documentation, word for word (a test compares), and nothing that could not be written by
//! hand: leave one away, write the `impl`, and nothing else changes.

mod attributes;
mod event;
mod event_set;
mod names;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

#[doc = include_str!("event.md")]
#[proc_macro_derive(Event, attributes(event, tag))]
pub fn derive_event(input: TokenStream) -> TokenStream {
    event::derive(&parse_macro_input!(input as DeriveInput)).into()
}

#[doc = include_str!("event_set.md")]
#[proc_macro_derive(EventSet, attributes(event))]
pub fn derive_event_set(input: TokenStream) -> TokenStream {
    event_set::derive(&parse_macro_input!(input as DeriveInput)).into()
}
