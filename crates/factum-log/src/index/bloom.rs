//! A filter: whether a key is certainly not in a run, for the price of one cache line.

/// Bits for each key. With eight bits set per key, about one absent key in 250 is taken for present.
const BITS_PER_KEY: u64 = 12;
/// A block is eight words; a key sets one bit in each.
const WORDS: usize = 8;
/// Bytes of a block.
pub const BLOCK: usize = WORDS * 4;
/// Odd numbers that spread a key over the words of its block.
const SALTS: [u32; WORDS] =
    [0x9e37_79b1, 0x85eb_ca77, 0xc2b2_ae3d, 0x27d4_eb2f, 0x1656_67b1, 0xd3a2_646d, 0xfd70_46c5, 0xb55a_4f09];

/// A set of hashes that may say yes too often and never says no wrongly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bloom(Vec<u32>);

impl Bloom {
    /// An empty filter with room for so many keys.
    pub fn for_keys(keys: u64) -> Self {
        let blocks =
            usize::try_from((keys * BITS_PER_KEY).div_ceil(32 * WORDS as u64)).unwrap_or(usize::MAX / WORDS);
        Self(vec![0; blocks.max(1) * WORDS])
    }

    /// Takes a key in.
    pub fn add(&mut self, hash: u64) {
        let block = self.block(hash);
        for (word, bit) in self.0[block..block + WORDS].iter_mut().zip(bits(hash)) {
            *word |= bit;
        }
    }

    fn block(&self, hash: u64) -> usize {
        usize::try_from(block_of(hash, self.blocks())).unwrap_or_default() * WORDS
    }

    /// For how many keys a filter of so many blocks is made, about.
    pub fn keys_of(blocks: u64) -> u64 {
        blocks * 32 * WORDS as u64 / BITS_PER_KEY
    }

    /// How many blocks it has.
    pub fn blocks(&self) -> u64 {
        (self.0.len() / WORDS) as u64
    }

    /// The bytes of its blocks.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|word| word.to_le_bytes()).collect()
    }
}

/// The block of a filter of so many that a key is in.
#[allow(clippy::cast_possible_truncation, reason = "less than the number of blocks")]
pub fn block_of(hash: u64, blocks: u64) -> u64 {
    ((u128::from(hash) * u128::from(blocks)) >> 64) as u64
}

/// Whether a key may have been taken in, by the bytes of its block.
pub fn may_have(hash: u64, block: &[u8]) -> bool {
    let words = block.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word));
    words.zip(bits(hash)).all(|(word, bit)| word & bit != 0)
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "the low half is what is wanted; the high half chose the block"
)]
fn bits(hash: u64) -> impl Iterator<Item = u32> {
    let low = hash as u32;
    SALTS.iter().map(move |salt| 1 << (low.wrapping_mul(*salt) >> 27))
}

#[cfg(test)]
mod tests {
    use xxhash_rust::xxh3::xxh3_64;

    use super::*;

    #[test]
    fn nothing_is_missed_and_little_is_imagined() {
        let hash = |n: u64| xxh3_64(&n.to_le_bytes());
        let mut bloom = Bloom::for_keys(10_000);
        (0..10_000).for_each(|n| bloom.add(hash(n)));
        let bytes = bloom.to_bytes();
        let may_have = |n: u64| {
            let block = usize::try_from(block_of(hash(n), bloom.blocks())).unwrap();
            may_have(hash(n), &bytes[block * BLOCK..][..BLOCK])
        };
        assert!((0..10_000).all(may_have));
        let imagined = (10_000..110_000).filter(|&n| may_have(n)).count();
        assert!(imagined < 1_000, "{imagined} of 100,000");
    }
}
