//! The contract of factum's event stores, as code.
//!
//! - [`suite!`] makes one test per promise for a store; its author implements [`Harness`] and writes one line.
//! - [`Recorder`] notes what clients asked of a store and what they were told, also across kills; [`check`] says whether that
//!   can be true of the log as it is in the end.
//! - [`Around`] is for stores that do something of a test's own beside what they are asked.
//! - [`workload`] is many clients that do everything at random; [`bugs`] are stores that break one promise each, to show that
//!   the checker sees.
//!
//! A kill -9 loop: the child runs [`workload::run`] on [`Recorder::to_file`] with a new seed each time; the parent kills it,
//! and in the end opens the store itself and calls [`verify`] with [`History::load`] and [`FinalLog::read`].
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

pub mod around;
pub mod bugs;
pub mod cases;
pub mod checker;
pub mod history;
pub mod lab;
pub mod model;
pub mod reads;
pub mod recorder;
pub mod snapshots;
pub mod workload;

pub use around::{Around, Wrapped};
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
            idempotency {
                the_original_places_come_back_before_guards_are_looked_at,
                a_part_of_an_earlier_append_is_a_replay_too,
                only_some_ids_are_a_clash,
                other_content_is_a_clash_and_names_the_event,
                json_is_compared_as_a_value_and_bytes_as_bytes,
                json_numbers_are_compared_to_the_last_digit,
                ids_are_taken_within_a_stream_only,
                hidden_events_keep_their_ids,
                ids_are_remembered_behind_many_others,
                a_large_append_is_recognised_whole,
                a_refused_append_leaves_its_ids_free,
            }
            reading {
                every_query_finds_what_matches_in_both_directions_on_pages_of_any_size,
                a_stream_is_read_from_any_revision_both_ways,
                a_read_goes_on_beyond_any_token,
                a_page_says_how_far_it_looked,
                the_token_of_a_read_is_the_guard_of_a_decision,
                pages_of_one_reading_show_one_moment,
                a_stream_comes_with_its_state,
                a_senseless_read_is_refused,
                a_long_stream_among_many_short_ones_comes_back_whole,
            }
            time_travel {
                as_of_a_position_shows_the_log_as_it_was,
                as_of_a_time_shows_what_was_recorded_by_then,
                events_of_the_same_time_are_seen_together,
                time_never_runs_backwards_in_the_log,
                a_moment_before_the_start_of_a_read_shows_nothing,
            }
            subscriptions {
                an_empty_log_has_caught_up_at_once,
                catching_up_then_live_has_no_seam,
                events_written_while_it_waits_wake_it,
                writers_at_the_same_time_leave_no_gap_for_many_subscribers,
                a_filtered_one_says_how_far_it_has_looked,
                it_goes_on_from_any_checkpoint,
                a_slow_reader_falls_back_to_catching_up_and_misses_nothing,
                giving_up_waiting_loses_nothing,
                hidden_events_are_not_delivered,
            }
            stream_life {
                truncation_hides_from_every_kind_of_read,
                what_is_hidden_never_comes_back,
                the_future_is_not_truncated,
                a_stream_can_be_described_before_it_is_written,
                age_hides_as_time_passes,
                a_deleted_stream_can_be_written_and_its_revisions_go_on,
                there_must_be_something_to_delete,
                a_tombstone_is_for_ever,
                an_append_cannot_write_to_a_stream_that_it_tombstones,
                hidden_events_are_in_no_guards_way,
                the_story_of_a_stream_is_itself_recorded,
            }
            limits {
                a_store_says_what_it_takes,
                the_size_of_an_event,
                the_largest_event_that_can_be_configured,
                metadata_type_and_tags_count_too,
                the_size_of_an_append,
                the_number_of_events_of_an_append,
                the_number_of_guards,
                the_longest_names_tags_and_metadata_come_back,
                what_is_too_long_is_refused_before_it_is_sent,
            }
            names {
                awkward_stream_names_are_only_names,
                awkward_types_and_tags_are_only_names,
                a_category_is_the_name_up_to_the_first_dash,
                control_characters_and_nothing_are_no_names,
                metadata_streams_take_only_what_they_are_for,
            }
            identity {
                a_token_of_another_log_is_refused,
                a_token_of_another_epoch_is_refused,
                a_token_past_the_head_is_refused,
                a_new_epoch_refuses_the_old_tokens,
                every_token_names_the_log,
            }
            errors {
                what_was_refused_did_not_happen_and_is_not_worth_sending_again,
                a_refusal_says_what_it_is_about,
                after_any_refusal_the_store_goes_on,
            }
            concurrency {
                of_racing_exact_guards_exactly_one_wins,
                of_racing_query_guards_exactly_one_wins,
                of_two_that_exclude_each_other_one_wins,
                the_same_append_sent_at_once_is_written_once,
                a_seat_limit_holds_under_64_tasks,
                a_counter_loses_no_increment_under_64_tasks,
                runs_of_different_appends_do_not_mix,
                readers_see_whole_appends_only_and_never_less_than_before,
                an_append_whose_caller_went_away_is_whole_or_not_there,
            }
            decisions {
                of_64_students_as_many_get_in_as_the_course_has_seats,
                a_student_who_asks_for_64_courses_at_once_gets_as_many_as_allowed,
                a_courses_seats_and_a_students_limit_both_hold_under_64_enrolments,
            }
            commands {
                a_command_with_an_id_is_done_once,
                an_id_is_for_one_command_only,
                of_racing_commands_with_one_id_one_is_done,
                of_racing_decisions_with_one_id_over_many_streams_one_is_done,
                of_different_commands_racing_for_one_id_one_is_done,
                of_racing_commands_that_make_something_new_one_does,
                what_recorded_nothing_is_decided_anew,
                a_command_is_known_when_its_events_are_hidden,
                command_ids_are_known_after_a_restart,
                a_name_is_given_to_one_of_many,
                unchanged_can_be_required_without_writing,
            }
            restart {
                everything_comes_back,
                an_empty_log_comes_back_as_the_same_log,
                positions_revisions_and_tokens_go_on,
                ids_are_still_known,
                the_lives_of_streams_come_back,
                a_checkpoint_is_good_after_it,
                time_goes_on,
            }
            random {
                any_sequence_of_operations_does_what_the_naive_model_does,
                many_clients_at_once_leave_a_history_that_can_be_true,
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
