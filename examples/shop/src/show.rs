//! What the user sees.

use std::{fmt, io::Write};

/// Says something on stderr. Nobody may be listening, which is no reason to stop.
pub(crate) fn say(text: impl fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// A number with its thousands set apart.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Prints rows under the names of their columns; the columns from `numbers` on stand at the right.
pub(crate) fn table<const N: usize>(
    out: &mut String,
    names: [&str; N],
    numbers: usize,
    rows: &[[String; N]],
) {
    let names = names.map(str::to_owned);
    let mut widths = [0; N];
    for row in std::iter::once(&names).chain(rows) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in std::iter::once(&names).chain(rows) {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let blanks = " ".repeat(width - cell.chars().count());
            line += &if column < numbers { format!("{cell}{blanks}  ") } else { format!("{blanks}{cell}  ") };
        }
        *out += line.trim_end();
        out.push('\n');
    }
}
