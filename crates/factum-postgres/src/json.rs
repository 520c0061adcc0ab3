//! Which JSON `jsonb` keeps to the last digit.

/// Levels that are left to `jsonb`: the server's own bound depends on its stack.
const DEPTH: usize = 64;

/// Whether `jsonb` gives back the same value: not where it cannot hold a text (U+0000, halves of pairs), or writes a number in
/// another way (exponents, negative zero).
pub(crate) fn keeps_its_value(json: &[u8]) -> bool {
    let (mut at, mut depth) = (0, 0_usize);
    while let Some(&byte) = json.get(at) {
        match byte {
            b'"' => match end_of_text(json, at + 1) {
                Some(end) => at = end,
                None => return false,
            },
            b'{' | b'[' => {
                depth += 1;
                if depth > DEPTH {
                    return false;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'-' if json.get(at + 1) == Some(&b'0') => return false,
            b'0'..=b'9' if matches!(json.get(at + 1), Some(b'e' | b'E')) => return false,
            _ => {}
        }
        at += 1;
    }
    // Without such escapes it is UTF-8, or no JSON at all.
    std::str::from_utf8(json).is_ok()
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
    use super::keeps_its_value;

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
}
