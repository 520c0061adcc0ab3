//! What the user sees.

use std::{fmt, io::Write};

use factum::LogIdentity;

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

/// So many of something.
pub(crate) fn many(n: u64, one: &str, more: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{} {more}", count(n)) }
}

/// Which log, in people's words.
pub(crate) fn identity(LogIdentity { log_id, epoch }: LogIdentity) -> String {
    format!("log {log_id} in epoch {epoch}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0, 1, 2].map(|n| many(n, "event", "events")), ["0 events", "1 event", "2 events"]);
    }
}
