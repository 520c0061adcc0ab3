//! The manifest: how far the log was known to be durable, and whether it was closed in good order.
//!
//! It is a hint. A log without it opens all the same; a log that contradicts it does not.

use std::io;

use crc32c::crc32c;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::disk::Disk;

/// The manifest's file.
pub const NAME: &str = "manifest";
/// What it is called while it is written.
pub const NEW: &str = "manifest.new";
/// Bytes of a manifest, at most.
const MAX_BYTES: usize = 4096;

/// What the engine last wrote down about a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The log.
    pub log_id: Uuid,
    /// Its epoch.
    pub epoch: u64,
    /// The last segment that was made.
    pub last_segment: u32,
    /// Everything before this position was durable.
    pub durable_upto: u64,
    /// Nothing was written after it.
    pub clean: bool,
}

impl Manifest {
    /// Its text: a line of JSON for people, and a checksum of that line.
    pub fn encode(&self) -> io::Result<Vec<u8>> {
        Ok(with_checksum(serde_json::to_vec(self)?))
    }

    /// Reads a manifest; `None` for anything that is not one, whole and undamaged.
    pub fn decode(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(checked(text)?).ok()
    }

    /// Reads the manifest of a directory, if there is one.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn read(disk: &dyn Disk) -> io::Result<Option<Self>> {
        let file = match disk.open(NAME) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut text = vec![0; MAX_BYTES];
        let read = file.read_at(&mut text, 0)?;
        Ok(Self::decode(&text[..read]))
    }

    /// Puts it in the place of the one before, so that a crash leaves one or the other.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn replace(&self, disk: &dyn Disk) -> io::Result<()> {
        let text = self.encode()?;
        if disk.list()?.iter().any(|name| name == NEW) {
            disk.remove(NEW)?;
        }
        let file = disk.create(NEW, text.len() as u64)?;
        file.write_at(&text, 0)?;
        file.sync()?;
        disk.rename(NEW, NAME)?;
        disk.sync_names()
    }

    /// Removes it, if there is one: a log without a hint is better than one with a wrong hint.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn remove(disk: &dyn Disk) -> io::Result<()> {
        for name in disk.list()?.iter().filter(|name| *name == NAME || *name == NEW) {
            disk.remove(name)?;
        }
        disk.sync_names()
    }
}

/// A line, and its checksum in the next.
pub fn with_checksum(mut line: Vec<u8>) -> Vec<u8> {
    let crc = crc32c(&line);
    line.extend(format!("\ncrc32c {crc:08x}\n").as_bytes());
    line
}

/// The line of such a text, if it is undamaged.
pub fn checked(text: &[u8]) -> Option<&[u8]> {
    let end = text.iter().position(|&byte| byte == b'\n')?;
    let (line, rest) = text.split_at(end);
    let crc = rest.strip_prefix(b"\ncrc32c ")?.get(..8)?;
    let crc = u32::from_str_radix(std::str::from_utf8(crc).ok()?, 16).ok()?;
    (crc32c(line) == crc).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_makes_it_nothing() {
        let manifest = Manifest {
            log_id: Uuid::from_u128(7),
            epoch: 1,
            last_segment: 3,
            durable_upto: 1 << 60,
            clean: true,
        };
        let text = manifest.encode().unwrap();
        assert_eq!(Manifest::decode(&text), Some(manifest));
        for length in 0..text.len() - 1 {
            assert_eq!(Manifest::decode(&text[..length]), None, "{length}");
        }
        for bit in 0..(text.len() - 1) * 8 {
            let mut damaged = text.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            // The checksum itself may be written in capitals; nothing else may change.
            assert!(Manifest::decode(&damaged).is_none_or(|m| m.encode().unwrap() == text), "{bit}");
        }
    }
}
