//! How much a proof does, and where its figures go.
//!
//! `cargo xtask test postgres` runs each proof for some seconds. `cargo xtask postgres-proofs` runs them at length, by setting
//! `FACTUM_PROOFS_FIGURES` to the directory in which each leaves its figures.

use std::path::PathBuf;

use serde_json::Value;

const FIGURES: &str = "FACTUM_PROOFS_FIGURES";
const SEED: &str = "FACTUM_PROOFS_SEED";

/// One of two: for a few seconds, or at length.
pub(crate) fn scaled<T>(short: T, long: T) -> T {
    if std::env::var_os(FIGURES).is_some() { long } else { short }
}

/// What the choices of a proof follow from: printed, and taken from `FACTUM_PROOFS_SEED` if that is set.
#[allow(clippy::print_stdout, reason = "a proof tells its seed")]
pub(crate) fn seed() -> u64 {
    let seed =
        std::env::var(SEED).ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("the same choices again: {SEED}={seed}");
    seed
}

/// Tells what a proof has shown.
#[allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a report is told, and is no data file")]
pub(crate) fn tell(name: &str, figures: &Value) {
    println!("{name}: {figures}");
    if let Some(place) = std::env::var_os(FIGURES) {
        std::fs::write(PathBuf::from(place).join(format!("{name}.json")), figures.to_string()).unwrap();
    }
}
