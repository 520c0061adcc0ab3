//! Names: streams, categories, event types.

use std::{borrow::Borrow, fmt, ops::Deref};

use bytestring::ByteString;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Limit, Result};

/// Bytes in a stream's name, at most.
pub const STREAM_NAME_BYTES: usize = 512;
/// Bytes in an event type's or content type's name, at most.
pub const TYPE_BYTES: usize = 256;
/// What the name of a stream's metadata stream begins with.
pub const METADATA_PREFIX: &str = "$$";

/// Any name: not empty, no control characters, no longer than `allowed`.
pub(crate) fn check_name(what: &str, name: &str, limit: Limit, allowed: usize) -> Result<()> {
    if name.is_empty() {
        return Err(Error::invalid(what, "it is empty; give it at least one character"));
    }
    if name.len() > allowed {
        return Err(Error::LimitExceeded { limit, allowed: allowed as u64, actual: name.len() as u64 });
    }
    if let Some((at, bad)) = name.char_indices().find(|(_, c)| c.is_control()) {
        let why = format!("it holds the control character U+{:04X} at byte {at}; leave it out", bad as u32);
        return Err(Error::invalid(what, why));
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $limit:expr, $allowed:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(ByteString);

        impl $name {
            /// Checks and keeps a name.
            ///
            /// # Errors
            /// [`Error::InvalidInput`] if it is empty or holds a control character, [`Error::LimitExceeded`] if it is too long.
            pub fn new(name: impl Into<ByteString>) -> Result<Self> {
                let name = name.into();
                check_name($what, &name, $limit, $allowed)?;
                Ok(Self(name))
            }

            /// Takes a name that a store checked when it wrote it. For authors of stores: nothing is checked here, not even
            /// the length; use [`new`](Self::new) for anything else.
            pub fn from_store(name: ByteString) -> Self {
                Self(name)
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Deref for $name {
            type Target = str;
            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                &*self.0 == other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                &*self.0 == *other
            }
        }

        impl TryFrom<&str> for $name {
            type Error = Error;
            fn try_from(name: &str) -> Result<Self> {
                Self::new(name)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(name: String) -> Result<Self> {
                Self::new(name)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

name! {
    /// The name of a stream: any UTF-8 of 1 to 512 bytes without control characters.
    ///
    /// A store never makes a path or a query out of it.
    StreamName, "the stream's name", Limit::StreamNameBytes, STREAM_NAME_BYTES
}

name! {
    /// The name of a kind of event, 1 to 256 bytes: pinned for as long as events of it exist.
    EventType, "the event type", Limit::TypeBytes, TYPE_BYTES
}

impl StreamName {
    /// The name up to the first `-`; the whole name where there is none.
    pub fn category(&self) -> &str {
        self.0.split_once('-').map_or(&self.0, |(category, _)| category)
    }

    /// What follows the first `-`; the whole name where there is none.
    pub fn id(&self) -> &str {
        self.0.split_once('-').map_or(&self.0, |(_, id)| id)
    }

    /// The stream that holds this stream's retention and end of life: `$$` and the name.
    ///
    /// # Errors
    /// [`Error::LimitExceeded`] where the name is so long that no prefix fits.
    pub fn metadata_stream(&self) -> Result<Self> {
        Self::new(format!("{METADATA_PREFIX}{}", self.0))
    }

    /// The stream that this one is the metadata stream of.
    pub fn described_stream(&self) -> Option<Self> {
        let described = self.0.strip_prefix(METADATA_PREFIX)?;
        Self::new(described).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn category_ends_at_the_first_dash() {
        let cases = [
            ("account-17", "account", "17"),
            ("account", "account", "account"),
            ("a-b-c", "a", "b-c"),
            ("-x", "", "x"),
        ];
        for (name, category, id) in cases {
            let name = StreamName::new(name).unwrap();
            assert_eq!((name.category(), name.id()), (category, id));
        }
    }

    #[test]
    fn bad_names_are_refused_with_the_reason() {
        assert!(StreamName::new("").unwrap_err().to_string().contains("empty"));
        assert!(StreamName::new("a\nb").unwrap_err().to_string().contains("U+000A at byte 1"));
        let long = StreamName::new("x".repeat(513)).unwrap_err();
        assert_eq!(long, Error::LimitExceeded { limit: Limit::StreamNameBytes, allowed: 512, actual: 513 });
        assert!(StreamName::new("../../etc/passwd'; DROP TABLE x; -- 😀").is_ok());
    }
}
