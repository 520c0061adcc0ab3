//! Bytes that nobody wrote, a few thousand of each kind; the long lane is `cargo xtask fuzz`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test; it says its seed")]

use factum_log::sim::{Fuzzer, Target};

/// Inputs of each kind; those that open a whole directory take longer.
fn inputs(target: Target) -> u64 {
    match target {
        Target::Directory | Target::Log | Target::Index => 300,
        _ => 20_000,
    }
}

#[test]
fn bytes_that_nobody_wrote_are_refused_or_are_harmless() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut seeds = fastrand::Rng::with_seed(seed);
    let fuzzer = Fuzzer::default();
    for target in Target::ALL {
        let (mut accepted, mut refused) = (0, 0);
        for _ in 0..inputs(target) {
            let fuzzed =
                fuzzer.one(target, seeds.u64(..)).unwrap_or_else(|mishandled| panic!("{mishandled}"));
            accepted += fuzzed.accepted;
            refused += fuzzed.inputs - fuzzed.accepted;
        }
        println!("{target:?}: {accepted} accepted for what they are, {refused} refused");
        // A run that makes no sense is made again, and so mostly does no harm.
        assert!(
            accepted > 0 && (refused > 0 || target == Target::Index),
            "{target:?}: the damage is too small, or too large, to show anything"
        );
    }
}
