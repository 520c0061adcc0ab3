//! Money: decimal, two places, never a float.

use std::{
    fmt,
    iter::Sum,
    ops::{Add, AddAssign, Neg, Sub},
    str::FromStr,
};

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

/// Digits before the point, at most. Sums of as many amounts as a log can hold stay far below what a [`Decimal`] holds.
const WHOLE_DIGITS: usize = 15;

/// An amount or a balance. Text and JSON are decimal with two places: `"-12.30"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Money(Decimal);

/// Why a text is not money.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotMoney {
    #[error("it is not an amount; write it like 1234.50")]
    Malformed,
    #[error("it has more than two decimals; round it first, for nothing here rounds silently")]
    TooFine,
    #[error("it has more than {WHOLE_DIGITS} digits before the point; no bank holds that much")]
    TooLarge,
}

impl Money {
    pub(crate) const ZERO: Self = Self(Decimal::ZERO);

    pub(crate) fn is_negative(self) -> bool {
        self < Self::ZERO
    }

    pub(crate) fn is_positive(self) -> bool {
        self > Self::ZERO
    }

    pub(crate) fn abs(self) -> Self {
        Self(self.0.abs())
    }
}

impl FromStr for Money {
    type Err = NotMoney;

    /// Stricter than `Decimal`, which takes `1_000`, `+5` and `.5`.
    fn from_str(text: &str) -> Result<Self, NotMoney> {
        let digits = text.strip_prefix('-').unwrap_or(text);
        let (whole, fraction) = match digits.split_once('.') {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (digits, None),
        };
        let only_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !only_digits(whole) || !fraction.is_none_or(only_digits) {
            return Err(NotMoney::Malformed);
        }
        if fraction.is_some_and(|fraction| fraction.len() > 2) {
            return Err(NotMoney::TooFine);
        }
        if whole.trim_start_matches('0').len() > WHOLE_DIGITS {
            return Err(NotMoney::TooLarge);
        }
        let mut decimal: Decimal = text.parse().map_err(|_| NotMoney::Malformed)?;
        decimal.rescale(2);
        Ok(Self(decimal))
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:.2}", self.0))
    }
}

impl Serialize for Money {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(|e| serde::de::Error::custom(format!("the amount `{text}`: {e}")))
    }
}

impl Add for Money {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl AddAssign for Money {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Money {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

impl Neg for Money {
    type Output = Self;
    fn neg(self) -> Self {
        Self(-self.0)
    }
}

impl Sum for Money {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_exact_and_comes_back_with_two_decimals() {
        let cases = [
            ("0", "0.00"),
            ("5", "5.00"),
            ("900.00", "900.00"),
            ("-12.3", "-12.30"),
            ("0.1", "0.10"),
            ("-0", "0.00"),
            ("000000000000000000001.00", "1.00"),
            ("999999999999999.99", "999999999999999.99"),
        ];
        for (text, printed) in cases {
            let money: Money = text.parse().unwrap();
            assert_eq!(money.to_string(), printed, "{text}");
            assert_eq!(serde_json::to_string(&money).unwrap(), format!("\"{printed}\""));
            assert_eq!(serde_json::from_str::<Money>(&format!("\"{printed}\"")).unwrap(), money);
        }
    }

    #[test]
    fn what_is_not_money_is_refused_with_the_reason() {
        for bad in
            ["", "-", ".", ".5", "5.", "+5", "1e3", "1_000", "1,50", " 1", "1 ", "--1", "NaN", "0x1", "١"]
        {
            assert_eq!(bad.parse::<Money>(), Err(NotMoney::Malformed), "{bad:?}");
        }
        assert_eq!("0.001".parse::<Money>(), Err(NotMoney::TooFine));
        assert_eq!("1000000000000000".parse::<Money>(), Err(NotMoney::TooLarge));
        assert!(serde_json::from_str::<Money>("900.0").is_err(), "a JSON number is a float");
        assert!(serde_json::from_str::<Money>("\"99999999999999999999999999999999\"").is_err());
    }

    #[test]
    fn sums_are_those_of_decimals_not_of_floats() {
        let tenth: Money = "0.10".parse().unwrap();
        assert_eq!(std::iter::repeat_n(tenth, 3).sum::<Money>(), "0.30".parse().unwrap());
        assert_eq!((tenth - "0.30".parse().unwrap()).to_string(), "-0.20");
    }
}
