//! A filter: whether a key is certainly not in a run, for the price of one cache line.

/// Bits for each key. With eight bits set per key, about one absent key in 250 is taken for present.
const BITS_PER_KEY: u64 = 12;
/// A block is eight words; a key sets one bit in each.
const WORDS: usize = 8;
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

    /// Whether the key may have been taken in.
    pub fn may_have(&self, hash: u64) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let block = self.block(hash);
        self.0[block..block + WORDS].iter().zip(bits(hash)).all(|(word, bit)| word & bit != 0)
    }

    #[allow(clippy::cast_possible_truncation, reason = "less than the number of blocks")]
    fn block(&self, hash: u64) -> usize {
        let blocks = (self.0.len() / WORDS) as u128;
        ((u128::from(hash) * blocks) >> 64) as usize * WORDS
    }

    /// How many bytes it has.
    pub fn bytes(&self) -> u64 {
        self.0.len() as u64 * 4
    }

    /// Its bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// The filter of these bytes; `None` if they are none.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (words, rest) = bytes.as_chunks::<4>();
        let words: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
        (rest.is_empty() && !words.is_empty() && words.len().is_multiple_of(WORDS)).then_some(Self(words))
    }
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
        assert!((0..10_000).all(|n| bloom.may_have(hash(n))));
        let imagined = (10_000..110_000).filter(|&n| bloom.may_have(hash(n))).count();
        assert!(imagined < 1_000, "{imagined} of 100,000");
        assert_eq!(Bloom::from_bytes(&bloom.to_bytes()), Some(bloom));
        assert_eq!(Bloom::from_bytes(&[1, 2, 3]), None);
        assert!(!Bloom::default().may_have(7));
    }
}
