//! Places in a log and in a stream.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, LogRewound, Result};

/// The largest integer that every JSON reader keeps exactly (2^53).
const JSON_EXACT: u64 = 1 << 53;

/// A place in the order of the whole store.
///
/// Strictly increasing in commit order and never reused within an epoch, but not dense: numbers may be missing.
/// [`Position::START`] lies before the first event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

impl Position {
    /// Before the first event.
    pub const START: Self = Self(0);
}

/// A place in one stream: 0, 1, 2 … without holes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl Revision {
    /// The first event of a stream.
    pub const FIRST: Self = Self(0);

    /// The revision that follows this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Display, and JSON as a number up to 2^53 and as a string beyond, since many readers of JSON know only doubles.
macro_rules! wide_number {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if self.0 <= JSON_EXACT { serializer.serialize_u64(self.0) } else { serializer.collect_str(&self.0) }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                #[derive(Deserialize)]
                #[serde(untagged)]
                enum Wide { Number(u64), Text(String) }
                match Wide::deserialize(deserializer)? {
                    Wide::Number(number) => Ok(Self(number)),
                    Wide::Text(text) => text.parse().map(Self).map_err(serde::de::Error::custom),
                }
            }
        }
    )*};
}
wide_number!(Position, Revision);

/// Which log, and which of its histories.
///
/// The epoch changes when history could have been rewound: a restore from a backup, a failover that lost commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LogIdentity {
    /// Made at random when the log was created.
    pub log_id: Uuid,
    /// 1 for a new log. It only grows, and not by one: a restore takes its moment, so that no two histories share a number.
    pub epoch: u64,
}

impl LogIdentity {
    /// A place in this log.
    pub fn at(self, position: Position) -> Token {
        Token { log: self, position }
    }
}

/// A place in a named history: what a read hands to a guard, an append to a waiting reader, a consumer to its next run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Token {
    /// The log and its epoch.
    #[serde(flatten)]
    pub log: LogIdentity,
    /// The place: everything up to and including it has been seen.
    pub position: Position,
}

impl Token {
    /// The position, if the token belongs to the history of `log`, which reaches to `head`.
    ///
    /// # Errors
    /// [`Error::LogRewound`] if it is from another log or epoch, or lies past the head.
    pub fn position_in(self, log: LogIdentity, head: Position) -> Result<Position> {
        if self.log == log && self.position <= head {
            Ok(self.position)
        } else {
            Err(Error::from(LogRewound { token: self, log, head }))
        }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.log.log_id, self.log.epoch, self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_carries_wide_numbers_as_strings() {
        let json = serde_json::to_string(&[Position(JSON_EXACT), Position(JSON_EXACT + 1)]).unwrap();
        assert_eq!(json, r#"[9007199254740992,"9007199254740993"]"#);
        let back: Vec<Position> = serde_json::from_str(&json).unwrap();
        assert_eq!(back, [Position(JSON_EXACT), Position(JSON_EXACT + 1)]);
    }

    #[test]
    fn a_token_of_another_history_is_refused() {
        let log = LogIdentity { log_id: Uuid::nil(), epoch: 2 };
        assert_eq!(log.at(Position(7)).position_in(log, Position(7)), Ok(Position(7)));
        let past = log.at(Position(8)).position_in(log, Position(7));
        let older = LogIdentity { epoch: 1, ..log }.at(Position(1)).position_in(log, Position(7));
        let foreign =
            LogIdentity { log_id: Uuid::max(), epoch: 2 }.at(Position(1)).position_in(log, Position(7));
        for refused in [past, older, foreign] {
            assert!(matches!(refused, Err(Error::LogRewound(_))), "{refused:?}");
        }
    }
}
