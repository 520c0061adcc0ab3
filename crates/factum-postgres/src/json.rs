//! Which JSON `jsonb` keeps to the last digit.

/// Levels that are left to `jsonb`: the server's own bound depends on its stack.
const DEPTH: usize = 64;

/// Characters of a number with an exponent, and digits of the exponent, at most: `numeric` has bounds, and a double is well within.
const NUMBER: (usize, usize) = (400, 3);

/// What `jsonb` makes of a JSON text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// The same value.
    Whole,
    /// A number is written in another way (exponents, negative zero): the same to most who ask.
    Otherwise,
    /// It cannot hold a text in it (U+0000, halves of pairs), or that many levels, or such a number.
    Never,
}

/// Whether `jsonb` gives back the same value.
pub(crate) fn keeps_its_value(json: &[u8]) -> bool {
    kept(json) == Kept::Whole
}

/// What `jsonb` makes of it.
pub(crate) fn kept(json: &[u8]) -> Kept {
    let (mut at, mut depth, mut number, mut kept) = (0, 0_usize, 0, Kept::Whole);
    while let Some(&byte) = json.get(at) {
        if !matches!(byte, b'0'..=b'9' | b'.' | b'-') {
            // Where the next number begins, at the earliest.
            number = at + 1;
        }
        match byte {
            b'"' => match end_of_text(json, at + 1) {
                Some(end) => at = end,
                None => return Kept::Never,
            },
            b'{' | b'[' => {
                depth += 1;
                if depth > DEPTH {
                    return Kept::Never;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'-' if json.get(at + 1) == Some(&b'0') => kept = Kept::Otherwise,
            b'0'..=b'9' if matches!(json.get(at + 1), Some(b'e' | b'E')) => {
                let exponent = json[at + 2..].iter().skip_while(|sign| matches!(sign, b'+' | b'-'));
                let digits = exponent.take_while(|digit| digit.is_ascii_digit()).count();
                if at - number > NUMBER.0 || digits > NUMBER.1 {
                    return Kept::Never;
                }
                kept = Kept::Otherwise;
            }
            _ => {}
        }
        at += 1;
    }
    // Without such escapes it is UTF-8, or no JSON at all.
    if std::str::from_utf8(json).is_ok() { kept } else { Kept::Never }
}

/// Where a text that begins at `at` has its closing quote.
fn end_of_text(json: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *json.get(at)? {
            b'"' => return Some(at),
            b'\\' if *json.get(at + 1)? == b'u' => {
                let hex = json.get(at + 2..at + 6)?;
                if hex == b"0000" || hex[0].eq_ignore_ascii_case(&b'd') && !(b'0'..=b'7').contains(&hex[1]) {
                    return None;
                }
                at += 6;
            }
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Kept, keeps_its_value, kept};

    #[test]
    fn what_jsonb_would_change_is_known() {
        for kept in
            [r#"{"a":[1,2.50,-3,0,"\u00e9\n\"",null,true]}"#, "0.1", r#""e5 1e5""#, "[0]", r#""\\u0000""#]
        {
            assert!(keeps_its_value(kept.as_bytes()), "{kept}");
        }
        let deep = "[".repeat(100) + &"]".repeat(100);
        for changed in
            ["1e5", "[1.5E-3]", "-0", "-0.0", r#""\u0000""#, r#""\ud83d\ude00""#, r#"{"a\u0000":1}"#, &deep]
        {
            assert!(!keeps_its_value(changed.as_bytes()), "{changed}");
        }
    }

    #[test]
    fn what_jsonb_cannot_hold_is_known() {
        let (deep, long) = ("[".repeat(100) + &"]".repeat(100), "1".repeat(500) + "e1");
        for (json, known) in [
            (r#"{"a":1.5}"#, Kept::Whole),
            ("1e-7", Kept::Otherwise),
            (r#"{"a":[1.5E+300,-0.0,true],"e5":"-1e5"}"#, Kept::Otherwise),
            (r#"[1e5,"\u0000"]"#, Kept::Never),
            (r#"[1e5,"\ud83d"]"#, Kept::Never),
            ("1e20000", Kept::Never),
            (&long, Kept::Never),
            (&deep, Kept::Never),
        ] {
            assert_eq!(kept(json.as_bytes()), known, "{json}");
        }
    }
}
