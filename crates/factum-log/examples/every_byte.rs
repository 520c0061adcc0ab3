//! Damages every byte of a small log: `cargo run --release -p factum-log --features sim --example every_byte`.

#![allow(clippy::print_stdout, reason = "this program talks to a person")]

use std::process::ExitCode;

use factum_log::sim::{Damages, every_byte};

fn main() -> ExitCode {
    if all(false) && all(true) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn all(scavenged: bool) -> bool {
    println!("{}", if scavenged { "a log that was scavenged" } else { "a log" });
    let mut shown = 0;
    let result = every_byte(&Damages { stride: 1, first: 0, scavenged }, |done, _| {
        if done / 10_000 > shown {
            shown = done / 10_000;
            println!("{done} bytes damaged");
        }
    });
    match result {
        Ok(report) => {
            println!("{report:#?}");
            println!("every byte flipped and every length cut: each was noticed, or did no harm");
            true
        }
        Err(failure) => {
            println!("neither noticed nor harmless: {failure}");
            false
        }
    }
}
