//! The contract of factum's event stores, as code.
//!
//! - [`suite!`] makes one test per promise for a store; its author implements [`Harness`] and writes one line.
//! - [`Recorder`] notes what clients asked of a store and what they were told, also across kills; [`check`] says whether that
//!   can be true of the log as it is in the end.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use factum::{EventStore, Limits, MemoryStore, Result, SystemClock};
//! use factum_conformance::Harness;
//!
//! #[derive(Debug, Default)]
//! struct InMemory;
//!
//! #[async_trait::async_trait]
//! impl Harness for InMemory {
//!     async fn open(&mut self, limits: Limits) -> Result<Arc<dyn EventStore>> {
//!         Ok(Arc::new(MemoryStore::with(limits, Arc::new(SystemClock))))
//!     }
//!     fn durable(&self) -> bool {
//!         false
//!     }
//! }
//!
//! factum_conformance::suite!(InMemory);
//! ```

pub mod bugs;
pub mod cases;
pub mod checker;
pub mod history;
pub mod lab;
pub mod recorder;
pub mod workload;

pub use checker::{FinalLog, Kind, Violation, check, verify};
pub use history::History;
pub use lab::{Harness, Lab, Tried, run};
pub use recorder::{RecordedSubscription, Recorder};

/// Names every case once: `$then!` gets `theme { case, … } …` after `$with`.
#[doc(hidden)]
#[macro_export]
macro_rules! for_every_case {
    ([$($then:tt)*] $($with:tt)*) => {
        $($then)*! { $($with)*;
            append {
                an_empty_log_has_nothing,
                what_is_read_is_what_was_sent,
                positions_grow_and_revisions_have_no_holes,
                many_streams_are_written_as_one_in_the_order_given,
                all_events_of_one_append_have_one_time,
                one_bad_guard_undoes_all,
                an_append_of_nothing_is_refused,
                guards_alone_check_and_write_nothing,
                the_same_id_twice_in_one_append_is_refused,
                an_ack_says_how_safe_it_is,
                an_acknowledged_append_is_seen_at_once_by_every_kind_of_read,
            }
            guards {
                every_expectation_meets_every_life_on_a_stream_not_written,
                every_expectation_meets_every_life_on_the_stream_written,
                guards_look_at_the_state_before_the_append,
                all_guards_must_hold_and_the_one_that_fails_is_named,
                a_query_guard_holds_until_something_matches,
                a_query_guard_can_be_about_anything_a_query_can,
                as_many_guards_as_are_allowed_are_all_looked_at,
            }
        }
    };
}

/// Makes a test of every case, for the store of a [`Harness`] that has a `Default`: `suite!(MyHarness);`, once per module.
#[macro_export]
macro_rules! suite {
    ($harness:ty) => {
        $crate::for_every_case!([$crate::tests_of] $harness);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! tests_of {
    ($harness:ty; $($theme:ident { $($case:ident,)* })*) => {$(
        mod $theme {
            #[allow(unused_imports, reason = "the harness may be named by a full path")]
            use super::*;
            $(
                #[test]
                fn $case() {
                    $crate::run(|| ::std::boxed::Box::new(<$harness>::default()), $crate::cases::$theme::$case);
                }
            )*
        }
    )*};
}

macro_rules! names_of {
    ((); $($theme:ident { $($case:ident,)* })*) => {
        &[$($((stringify!($theme), stringify!($case)),)*)*]
    };
}
/// The theme and the name of every case that [`suite!`] makes a test of.
pub const CASES: &[(&str, &str)] = for_every_case!([names_of]());

#[cfg(test)]
mod tests {
    use super::CASES;

    /// A case that nobody calls is a promise that nobody checks.
    #[test]
    fn every_case_is_in_the_suite() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cases");
        let mut written = Vec::new();
        for file in std::fs::read_dir(dir).unwrap() {
            let path = file.unwrap().path();
            let theme = path.file_stem().unwrap().to_str().unwrap().to_owned();
            for line in std::fs::read_to_string(&path).unwrap().lines() {
                if let Some((name, _)) =
                    line.strip_prefix("pub async fn ").and_then(|rest| rest.split_once('('))
                {
                    written.push((theme.clone(), name.to_owned()));
                }
            }
        }
        let mut listed: Vec<_> =
            CASES.iter().map(|&(theme, case)| (theme.to_owned(), case.to_owned())).collect();
        written.sort();
        listed.sort();
        assert_eq!(written, listed);
    }
}
