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

/// For keys that are numbers in a row.
pub type Mixing = BuildHasherDefault<Mixed>;

/// Spreads a number over all bits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mixed(u64);

impl Hasher for Mixed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    #[allow(clippy::cast_possible_truncation, reason = "the two halves")]
    fn write_u64(&mut self, number: u64) {
        let product = u128::from(number ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
}
