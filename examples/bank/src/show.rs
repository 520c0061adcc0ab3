//! What the user sees: tables, CSV, numbers.

use std::{cmp::Ordering, fmt, io::Write};

/// How rows are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// For programs
    Csv,
}

/// Says something on stderr. Nobody may be listening, which is no reason to stop.
pub(crate) fn say(text: impl fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// A number with its thousands set apart.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The order of account ids: numbers first and by value, then the others by their letters.
pub(crate) fn by_id(a: &str, b: &str) -> Ordering {
    let number = |id: &str| !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit());
    match (number(a), number(b)) {
        (true, true) => {
            let (x, y) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
            x.len().cmp(&y.len()).then_with(|| x.cmp(y)).then_with(|| a.cmp(b))
        }
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        (false, false) => a.cmp(b),
    }
}

/// A column's name, and whether its cells stand at the right.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column(pub(crate) &'static str, pub(crate) Align);

/// Where a cell stands in its column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Prints rows under the names of their columns.
pub(crate) fn print(out: &mut String, format: Format, columns: &[Column], rows: &[Vec<String>]) {
    match format {
        Format::Csv => {
            let names: Vec<_> = columns.iter().map(|Column(name, _)| (*name).to_owned()).collect();
            for row in std::iter::once(&names).chain(rows) {
                let cells: Vec<_> = row.iter().map(|cell| quoted(cell)).collect();
                *out += &cells.join(",");
                out.push('\n');
            }
        }
        Format::Table => table(out, columns, rows),
    }
}

fn quoted(cell: &str) -> String {
    if cell.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell.to_owned()
    }
}

fn table(out: &mut String, columns: &[Column], rows: &[Vec<String>]) {
    let mut widths: Vec<_> = columns.iter().map(|Column(name, _)| name.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let names: Vec<_> = columns.iter().map(|Column(name, _)| name.replace('_', " ")).collect();
    for row in std::iter::once(&names).chain(rows) {
        let mut line = String::new();
        for ((cell, width), Column(_, align)) in row.iter().zip(&widths).zip(columns) {
            let blanks = " ".repeat(width.saturating_sub(cell.chars().count()));
            match align {
                Align::Left => line += &format!("{cell}{blanks}  "),
                Align::Right => line += &format!("{blanks}{cell}  "),
            }
        }
        *out += line.trim_end();
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_are_numbers_stand_in_the_order_of_numbers() {
        let mut ids = ["b", "10", "9", "a-1", "010", "007", "99999999999999999999999", "100", "-1", "é"];
        ids.sort_by(|a, b| by_id(a, b));
        assert_eq!(ids, ["007", "9", "010", "10", "100", "99999999999999999999999", "-1", "a-1", "b", "é"]);
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!([0, 999, 1000, 28205, 1_234_567].map(count), ["0", "999", "1,000", "28,205", "1,234,567"]);
    }

    #[test]
    fn tables_align_and_csv_quotes() {
        let columns = [Column("account_id", Align::Left), Column("balance", Align::Right)];
        let rows = [["ž, \"x\"", "-1.00"], ["17", "1234567.00"]].map(|row| row.map(str::to_owned).to_vec());
        let mut text = String::new();
        print(&mut text, Format::Table, &columns, &rows);
        assert_eq!(text, "account id     balance\nž, \"x\"           -1.00\n17          1234567.00\n");
        text.clear();
        print(&mut text, Format::Csv, &columns, &rows);
        assert_eq!(text, "account_id,balance\n\"ž, \"\"x\"\"\",-1.00\n17,1234567.00\n");
    }
}
