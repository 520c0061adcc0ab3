//! How the maps in memory hash: what is a hash already is taken as it is, and names are hashed with the index's secret.

use std::hash::{BuildHasher, BuildHasherDefault, Hasher};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Secret;

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
}

impl BuildHasher for Secret {
    type Hasher = Named;

    fn build_hasher(&self) -> Named {
        Named(self.0)
    }
}

/// Hashes names so that nobody can choose ones that collide.
#[derive(Clone, Copy, Debug)]
pub struct Named(u64);

impl Hasher for Named {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    fn write_u8(&mut self, _: u8) {
        // What the standard library adds to tell texts apart that follow each other. There is only one.
    }
}
