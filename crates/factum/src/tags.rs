//! Tags: what an event concerns, so that a decision can ask for it across streams.

use std::{collections::BTreeSet, fmt};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Limit, Result},
    name::check_name,
};

/// Tags of one event, at most.
pub const TAGS: usize = 64;
/// Bytes in a tag, at most.
pub const TAG_BYTES: usize = 256;

/// A set of `key:value` strings, e.g. `account:17`: sorted, none twice.
///
/// Kept in the form in which it is stored (a u16 length, little-endian, before each tag), so that reading an event copies nothing.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Tags(Bytes);

impl Tags {
    /// No tags.
    pub const NONE: Self = Self(Bytes::new());

    /// The set of these tags.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a tag that is not `key:value` or holds a control character,
    /// [`Error::LimitExceeded`] for more than 64 tags or one of more than 256 bytes.
    pub fn new<T: AsRef<str>>(tags: impl IntoIterator<Item = T>) -> Result<Self> {
        let mut set = BTreeSet::new();
        for tag in tags {
            let tag = tag.as_ref();
            check_tag(tag)?;
            set.insert(tag.to_owned());
        }
        if set.len() > TAGS {
            let actual = set.len() as u64;
            return Err(Error::LimitExceeded { limit: Limit::Tags, allowed: TAGS as u64, actual });
        }
        let mut packed = Vec::with_capacity(set.iter().map(|tag| tag.len() + 2).sum());
        for tag in &set {
            let length = u16::try_from(tag.len()).unwrap_or(u16::MAX);
            packed.extend_from_slice(&length.to_le_bytes());
            packed.extend_from_slice(tag.as_bytes());
        }
        Ok(Self(packed.into()))
    }

    /// The same set, with this tag as well.
    ///
    /// # Errors
    /// As for [`Tags::new`].
    pub fn with(&self, tag: &str) -> Result<Self> {
        Self::new(self.iter().chain([tag]))
    }

    /// Takes the stored form. Bytes that are not of that form end the iteration early; they never panic.
    pub fn from_packed(packed: Bytes) -> Self {
        Self(packed)
    }

    /// The stored form.
    pub fn packed(&self) -> &Bytes {
        &self.0
    }

    /// The tags, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let (length, after) = rest.split_first_chunk::<2>()?;
            let (tag, after) = after.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
            rest = after;
            std::str::from_utf8(tag).ok()
        })
    }

    /// Whether `tag` is among them.
    pub fn contains(&self, tag: &str) -> bool {
        self.iter().any(|own| own == tag)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Checks one tag.
pub(crate) fn check_tag(tag: &str) -> Result<()> {
    check_name("the tag", tag, Limit::TagBytes, TAG_BYTES)?;
    match tag.split_once(':') {
        Some((key, value)) if !key.is_empty() && !value.is_empty() => Ok(()),
        _ => Err(Error::invalid(
            format!("the tag `{tag}`"),
            "write it as `key:value`, for example `account:17`",
        )),
    }
}

impl fmt::Debug for Tags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl Serialize for Tags {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Tags {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(Vec::<String>::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_sorted_and_has_no_repeats() {
        let tags = Tags::new(["b:2", "a:1", "b:2"]).unwrap();
        assert_eq!(tags.iter().collect::<Vec<_>>(), ["a:1", "b:2"]);
        assert_eq!(Tags::from_packed(tags.packed().clone()), tags);
        assert!(tags.contains("a:1") && !tags.contains("a:"));
    }

    #[test]
    fn bad_tags_are_refused() {
        for bad in ["", "plain", ":v", "k:", "k:\u{7}"] {
            assert!(Tags::new([bad]).is_err(), "{bad:?}");
        }
        assert!(Tags::new((0..65).map(|n| format!("n:{n}"))).is_err());
        assert!(Tags::new([format!("k:{}", "v".repeat(255))]).is_err());
    }

    #[test]
    fn damaged_stored_forms_do_not_panic() {
        for packed in [&[1u8][..], &[255, 255, 1], &[1, 0, 0xff], &[0, 0, 9]] {
            let _ = Tags::from_packed(Bytes::copy_from_slice(packed)).iter().count();
        }
    }
}
