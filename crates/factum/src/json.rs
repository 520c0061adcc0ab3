//! JSON as a value: whether two texts say the same, to the last digit.

use serde::de::IgnoredAny;
use serde_json::Value;

/// Whether two JSON texts are the same value.
///
/// White space, the order of keys and the way in which a character or a number is written do not count. Numbers are decimal
/// numbers of any length: `1.0` is `1`, but two that only a double takes for the same are not. Text that is not JSON, or nested
/// deeper than 128, is the same only byte for byte.
pub(crate) fn same(a: &[u8], b: &[u8]) -> bool {
    a == b || matches!((value(a), value(b)), (Some(a), Some(b)) if a == b)
}

/// A JSON text in a form that is equal, byte for byte, for exactly the texts that are [`same`].
///
/// The form is kept on disks, so it must never change.
pub(crate) fn canonical(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() + 1);
    if let Some(value) = value(json) {
        put(&value, &mut out);
    } else {
        // It is the same as no other text, and no value begins like this.
        out.push(b'?');
        out.extend_from_slice(json);
    }
    out
}

/// Writes a value with its lengths before it, so that no two values look alike. Numbers are texts here.
fn put(value: &Value, out: &mut Vec<u8>) {
    let text = |text: &str, out: &mut Vec<u8>| {
        out.extend_from_slice(format!("{}:", text.len()).as_bytes());
        out.extend_from_slice(text.as_bytes());
    };
    match value {
        Value::Null => out.push(b'0'),
        Value::Bool(no_or_yes) => out.push(if *no_or_yes { b'y' } else { b'n' }),
        Value::Number(number) => text(&number.to_string(), out),
        Value::String(string) => {
            out.push(b'"');
            text(string, out);
        }
        Value::Array(items) => {
            out.extend_from_slice(format!("[{}:", items.len()).as_bytes());
            items.iter().for_each(|item| put(item, out));
        }
        Value::Object(members) => {
            out.extend_from_slice(format!("{{{}:", members.len()).as_bytes());
            // Whether a map is sorted depends on how `serde_json` was built.
            let mut members: Vec<_> = members.iter().collect();
            members.sort_unstable_by_key(|(name, _)| *name);
            for (name, member) in members {
                text(name, out);
                put(member, out);
            }
        }
    }
}

/// The value, with text in place of numbers, since a parsed number would be a double: `n` and the number for a number, `s` and
/// the text for a text, so that the two cannot be mistaken for each other.
fn value(json: &[u8]) -> Option<Value> {
    serde_json::from_slice::<IgnoredAny>(json).ok()?;
    let mut marked = Vec::with_capacity(json.len() * 2);
    let mut rest = json;
    while let Some(&first) = rest.first() {
        let (token, behind) = rest.split_at(token_length(first, rest));
        match first {
            b'"' => {
                marked.extend_from_slice(b"\"s");
                marked.extend_from_slice(&token[1..]);
            }
            b'-' | b'0'..=b'9' => {
                let number = normal(std::str::from_utf8(token).ok()?);
                marked.extend_from_slice(format!("\"n{number}\"").as_bytes());
            }
            _ => marked.extend_from_slice(token),
        }
        rest = behind;
    }
    serde_json::from_slice(&marked).ok()
}

/// How long the text or number at the start of `json` is. Anything else goes byte by byte.
fn token_length(first: u8, json: &[u8]) -> usize {
    let end = match first {
        b'"' => {
            let mut escaped = true; // The quote that opens does not close.
            json.iter().position(|&byte| {
                let closes = byte == b'"' && !escaped;
                escaped = byte == b'\\' && !escaped;
                closes
            })
        }
        b'-' | b'0'..=b'9' => {
            let inside = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
            return json.iter().position(|byte| !inside(byte)).unwrap_or(json.len());
        }
        _ => return 1,
    };
    end.map_or(json.len(), |end| end + 1)
}

/// A number as its digits, without zeros at either end, and the power of ten of the last one: `-1.50` is `-15e-1`.
fn normal(number: &str) -> String {
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let Ok(exponent) = exponent.parse::<i64>() else {
        return number.to_owned(); // Beyond all reason: the same only if written the same.
    };
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |mantissa| ("-", mantissa));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{whole}{fraction}");
    let digits = all.trim_end_matches('0');
    let power = i128::from(exponent) + (all.len() - digits.len()) as i128 - fraction.len() as i128;
    match digits.trim_start_matches('0') {
        "" => "0".to_owned(),
        digits => format!("{sign}{digits}e{power}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_value_however_it_is_written() {
        let same_values = [
            (r#"{"a":1,"b":[true,null]}"#, "{ \"b\" : [ true , null ],\n\t\"a\" : 1 }"),
            (r#""Aé\"\\""#, r#""\u0041\u00e9\u0022\u005c""#),
            (r#"{"a\"b":["-1"],"c":"\\"}"#, r#"{"c":"\\", "a\"b":["-1"]}"#),
            ("1.0", "1.0"),
            ("1.0", "1"),
            ("1e2", "100"),
            ("-0.0150E+3", "-15"),
            ("-0", "0.00e7"),
            ("1e9223372036854775807", "10e9223372036854775806"),
            ("1e999", "10E+998"),
        ];
        for (a, b) in same_values {
            assert!(same(a.as_bytes(), b.as_bytes()), "{a} {b}");
            assert_eq!(canonical(a.as_bytes()), canonical(b.as_bytes()), "{a} {b}");
        }
    }

    /// What is on disks cannot be made again: this text may never change.
    #[test]
    fn the_canonical_form_is_frozen() {
        let json = r#"{ "b": [1.50, -0, true, null, "x\u00e9"], "a": {"c": 1e999, "": "1"} }"#;
        let canonical = String::from_utf8(canonical(json.as_bytes())).unwrap();
        let frozen = "{2:2:sa{2:1:s\"2:s12:sc\"6:n1e9992:sb[5:\"6:n15e-1\"2:n0y0\"4:sxé";
        assert_eq!(canonical, frozen);
    }

    #[test]
    fn other_values_are_others_to_the_last_digit() {
        let other_values = [
            ("10000000000000000000001", "10000000000000000000002"),
            ("0.1", "0.10000000000000000555"),
            ("9007199254740993.0", "9007199254740992.0"),
            ("1e999", "1e998"),
            ("1e99999999999999999999", "2e99999999999999999999"),
            ("1", "-1"),
            ("10", "1"),
            ("1", "\"1\""),
            ("1", "\"n1e0\""),
            ("[1,2]", "[2,1]"),
            ("[1,2]", "[12]"),
            (r#"{"a":1}"#, r#"{"a":1,"b":null}"#),
            (r#""a b""#, r#""ab""#),
            // Not JSON at all, and so the same only byte for byte.
            ("{1:2}", "{1: 2}"),
            ("\"a", "\"a "),
            ("", " "),
        ];
        for (a, b) in other_values {
            assert!(!same(a.as_bytes(), b.as_bytes()), "{a} {b}");
            assert_ne!(canonical(a.as_bytes()), canonical(b.as_bytes()), "{a} {b}");
            assert!(same(a.as_bytes(), a.as_bytes()), "{a}");
        }
        let deep = |space: &str| "[".repeat(100_000) + space + &"]".repeat(100_000);
        assert!(!same(deep("").as_bytes(), deep(" ").as_bytes()));
    }
}
