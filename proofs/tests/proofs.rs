//! A few of each proof, on every run of the tests; the long lanes are `cargo xtask kills`, `powercut`, `faults` and `soak`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test; it says its figures")]

use std::process::Command;

use serde_json::Value;

/// Runs a proof to its end and returns its figures; `None` if the machine does not allow it.
fn proof(args: &[&str]) -> Option<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_proofs")).args(args).arg("--json").output().unwrap();
    println!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}", output.status);
    let figures: Value = serde_json::from_slice(&output.stdout).unwrap();
    figures["skipped"].is_null().then_some(figures)
}

fn figure(figures: &Value, name: &str) -> u64 {
    figures[name].as_u64().unwrap_or_else(|| panic!("{name} in {figures}"))
}

#[test]
fn kills_lose_nothing_that_was_acknowledged() {
    let figures = proof(&["kills", "--blows", "20", "--per-log", "10"]).unwrap();
    assert!(figure(&figures, "operations_checked") > 200 && figure(&figures, "events") > 50, "{figures}");
}

#[test]
fn power_cuts_lose_nothing_that_was_acknowledged() {
    let Some(figures) = proof(&["powercuts", "--blows", "10"]) else { return };
    assert!(figure(&figures, "operations_checked") > 100 && figure(&figures, "events") > 20, "{figures}");
    // The same with an engine that syncs nothing: a proof that cannot fail proves nothing.
    let unsynced =
        Command::new(env!("CARGO_BIN_EXE_proofs")).args(["powercuts", "--no-sync"]).output().unwrap();
    let said = String::from_utf8_lossy(&unsynced.stderr);
    assert!(!unsynced.status.success(), "{said}");
    assert!(said.contains("broken promises") || said.contains("does not open"), "{said}");
}

#[test]
fn system_calls_that_fail_lose_nothing_and_invent_nothing() {
    let Some(figures) = proof(&["faults", "--nth", "2,7"]) else { return };
    assert!(figure(&figures, "faults_injected") > 30 && figure(&figures, "logs_poisoned") > 2, "{figures}");
}

#[test]
fn a_full_disk_refuses_appends_until_there_is_room_again() {
    let Some(figures) = proof(&["fulldisk", "--rounds", "2"]) else { return };
    assert!(figure(&figures, "times_full") >= 2 && figure(&figures, "appends_refused") >= 20, "{figures}");
}
