//! Damages every byte of a small log: `cargo run --release -p factum-log --features sim --example every_byte`.

#![allow(clippy::print_stdout, reason = "this program talks to a person")]

use std::process::ExitCode;

use factum_log::sim::{Damages, every_byte};

fn main() -> ExitCode {
    let mut shown = 0;
    let result = every_byte(&Damages { stride: 1, first: 0 }, |done, _| {
        if done / 10_000 > shown {
            shown = done / 10_000;
            println!("{done} bytes damaged");
        }
    });
    match result {
        Ok(report) => {
            println!("{report:#?}");
            println!("every byte flipped and every length cut: each was noticed, or did no harm");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("neither noticed nor harmless: {failure}");
            ExitCode::FAILURE
        }
    }
}
