//! Money: whole cents, never a float.

use std::{
    fmt,
    iter::Sum,
    ops::{Add, AddAssign, Mul, Sub},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// The highest price: a million. What a shop of this size sells adds up to far less than what a number holds.
const HIGHEST: Cents = Cents(100_000_000);

/// An amount of money.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Cents(pub(crate) i64);

impl Cents {
    pub(crate) const ZERO: Self = Self(0);
}

impl fmt::Display for Cents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, cents) = (if self.0 < 0 { "-" } else { "" }, self.0.unsigned_abs());
        f.pad(&format!("{sign}{}.{:02}", cents / 100, cents % 100))
    }
}

impl FromStr for Cents {
    type Err = String;

    /// A price: `12`, `12.5` or `12.50`.
    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || format!("`{text}` is not a price; write it like 12.50");
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(fraction) || fraction.len() > 2 {
            return Err(malformed());
        }
        let cents = format!("{whole}{fraction:0<2}").parse().map(Self);
        match cents {
            Ok(price) if Self::ZERO < price && price <= HIGHEST => Ok(price),
            _ => Err(format!("`{text}` is no price of this shop: it must be from 0.01 to {HIGHEST}")),
        }
    }
}

impl Add for Cents {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl AddAssign for Cents {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}

impl Sub for Cents {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

impl Mul<u32> for Cents {
    type Output = Self;
    fn mul(self, pieces: u32) -> Self {
        Self(self.0 * i64::from(pieces))
    }
}

impl Sum for Cents {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_read_and_shown() {
        for (text, cents) in
            [("12.50", 1250), ("12.5", 1250), ("12", 1200), ("0.01", 1), ("1000000", 100_000_000)]
        {
            assert_eq!(text.parse(), Ok(Cents(cents)), "{text}");
        }
        for text in [
            "",
            ".5",
            "5.",
            "1,50",
            "1.005",
            "-1",
            "+1",
            "1e3",
            "0",
            "0.00",
            "1000000.01",
            "99999999999999999999",
        ] {
            assert!(text.parse::<Cents>().is_err(), "{text}");
        }
        assert_eq!([Cents(1250), Cents(-5), Cents(0)].map(|c| c.to_string()), ["12.50", "-0.05", "0.00"]);
    }
}
