//! How the maps in memory hash: what is a hash already is taken as it is.

use std::hash::{BuildHasherDefault, Hasher};

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// For keys that are good hashes already.
pub type AsItIs = BuildHasherDefault<Taken>;

/// Takes a hash for a hash.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taken(u64);

impl Hasher for Taken {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    #[allow(clippy::cast_possible_truncation, reason = "half of a hash is one, too")]
    fn write_u128(&mut self, hash: u128) {
        self.0 = hash as u64;
    }
}
