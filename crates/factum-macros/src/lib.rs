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

#[cfg(test)]
mod tests {
    use proc_macro2::TokenStream;
    use syn::DeriveInput;

    /// The first two blocks of code in a page, without their hidden lines.
    fn shown_and_written(page: &str) -> (String, String) {
        let hidden = |line: &&str| *line == "#" || line.starts_with("# ");
        let visible = |block: &str| block.lines().filter(|line| !hidden(line)).collect::<Vec<_>>().join("\n");
        let mut blocks =
            page.split("```rust\n").skip(1).map(|rest| visible(rest.split("```").next().unwrap()));
        (blocks.next().unwrap(), blocks.next().unwrap())
    }

    /// Tokens, whatever blanks are printed between them.
    fn words(code: &TokenStream) -> String {
        code.to_string().split_whitespace().collect()
    }

    fn same(page: &str, derive: fn(&DeriveInput) -> TokenStream) {
        let (shown, promised) = shown_and_written(page);
        let written = derive(&syn::parse_str(&shown).unwrap());
        assert_eq!(words(&written), words(&promised.parse().unwrap()));
    }

    #[test]
    fn the_documentation_shows_what_is_written_word_for_word() {
        same(include_str!("event.md"), crate::event::derive);
        same(include_str!("event_set.md"), crate::event_set::derive);
    }

    #[test]
    fn no_arm_is_written_that_nothing_reaches() {
        let arms = |variants: &str| {
            let events = format!("enum SeatEvent {{ SeatTaken {{ #[tag] seat: u8 }}{variants} }}");
            words(&crate::event::derive(&syn::parse_str(&events).unwrap())).matches("=>{").count()
        };
        assert_eq!((arms(""), arms(", Rebuilt")), (1, 2));
    }
}
