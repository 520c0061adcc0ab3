//! Every byte flipped, every length: noticed or harmless.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test; it says its seed")]

use factum_log::sim::{Damages, every_byte};

/// Of all bytes one in so many, from a place that differs each time: in debug, all of them take minutes. With optimisation, or by the
/// example `every_byte`, it is all of them.
const STRIDE: usize = if cfg!(debug_assertions) { 23 } else { 1 };

#[test]
fn no_damage_goes_unnoticed_and_does_harm() {
    let first = fastrand::usize(..STRIDE);
    println!("stride {STRIDE}, first {first}");
    let report = every_byte(&Damages { stride: STRIDE, first }, |_, _| {}).unwrap_or_else(|f| panic!("{f}"));
    println!("{report:#?}");
    assert!(report.bytes > 40_000 && report.flipped + report.files >= report.bytes / STRIDE, "{report:?}");
    // Damage that never meets what it damages proves nothing.
    assert!(report.refused > report.flipped / 4 && report.harmless > report.flipped / 4, "{report:?}");
    assert!(report.verified > report.flipped / 8, "{report:?}");
}
