//! Every byte flipped, every length: noticed or harmless.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test; it says its seed")]

use factum_log::sim::{Damages, every_byte};

/// Of all bytes one in so many, from a place that differs each time: in debug, all of them take minutes. With optimisation, or by the
/// example `every_byte`, it is all of them.
const STRIDE: usize = if cfg!(debug_assertions) { 37 } else { 1 };

fn damage(scavenged: bool) {
    let first = fastrand::usize(..STRIDE);
    println!("stride {STRIDE}, first {first}");
    let what = Damages { stride: STRIDE, first, scavenged };
    let report = every_byte(&what, |_, _| {}).unwrap_or_else(|f| panic!("{f}"));
    println!("{report:#?}");
    assert!(report.bytes > 40_000 && report.flipped + report.files >= report.bytes / STRIDE, "{report:?}");
    // Damage that never meets what it damages proves nothing.
    assert!(report.refused > report.flipped / 4 && report.harmless > report.flipped / 4, "{report:?}");
    assert!(report.verified > report.flipped / 8, "{report:?}");
}

#[test]
fn no_damage_goes_unnoticed_and_does_harm() {
    damage(false);
}

#[test]
fn nor_does_it_in_a_log_that_was_scavenged() {
    damage(true);
}
