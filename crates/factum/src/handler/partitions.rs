//! How a consumer's work is divided: 1,024 slices of the keys, in one or more partitions, each with a checkpoint of its own.

use std::ops::Range;

use crate::{
    error::{Error, Result},
    position::{Position, Token},
    reads::{ReadStore, Step, check_model_name},
    store::EventStore,
};

/// What keys are divided into. It never changes: checkpoints rest on it.
pub const SLICES: u32 = 1024;
/// Characters of a consumer's name, at most: partitions add to it.
const NAME_CHARS: usize = 40;
/// Where the number of partitions is kept: a row of the model that has the consumer's name.
const ROW: &str = "partitions";
/// Where is kept what the consumer begins after, if that is not the beginning of the log.
const BEGINS: &str = "begins_after";

/// Into how many partitions a consumer's work is divided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    consumer: String,
    pub(crate) partitions: u32,
}

impl Layout {
    pub(crate) fn new(consumer: &str, partitions: u32) -> Result<Self> {
        check_consumer_name(consumer)?;
        if !(1..=SLICES).contains(&partitions) {
            let why = format!("there are {partitions} of them; choose 1 to {SLICES}");
            return Err(Error::invalid(format!("the partitions of `{consumer}`"), why));
        }
        Ok(Self { consumer: consumer.to_owned(), partitions })
    }

    /// The layout that a store has for the consumer.
    pub(crate) async fn stored(reads: &dyn ReadStore, consumer: &str) -> Result<Option<Self>> {
        let shown = reads.get(consumer, ROW).await?;
        let Some((_, row)) = shown.rows.first() else { return Ok(None) };
        let partitions = row.parse().map_err(|_| {
            Error::invalid(
                format!("the number of partitions of `{consumer}`"),
                format!("it is stored as `{row}`"),
            )
        })?;
        Self::new(consumer, partitions).map(Some)
    }

    /// Makes sure that the store has this layout. Whoever is the first makes it; nobody changes it, since a partition's checkpoint
    /// says nothing of other keys.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if it has another, or the name is that of a read model.
    pub(crate) async fn settle(
        &self,
        reads: &dyn ReadStore,
        store: &dyn EventStore,
        from_now: bool,
    ) -> Result<()> {
        loop {
            if let Some(stored) = Self::stored(reads, &self.consumer).await? {
                if stored == *self {
                    return Ok(());
                }
                let what = format!("the partitions of `{}`", self.consumer);
                let why = format!(
                    "{} are asked for, but its checkpoints are those of {}; ask for {}, or give the consumer another name to begin anew",
                    self.partitions, stored.partitions, stored.partitions
                );
                return Err(Error::invalid(what, why));
            }
            match self.make(reads, store, from_now).await {
                // Somebody else has made it, or is about to.
                Ok(()) | Err(Error::Fenced { .. }) => {}
                failed => return failed,
            }
        }
    }

    /// What the partitions of a consumer begin after: one place for all of them, however late somebody begins with one. `None`: the
    /// beginning of the log.
    pub(crate) async fn begins_after(reads: &dyn ReadStore, consumer: &str) -> Result<Option<Token>> {
        let shown = reads.get(consumer, BEGINS).await?;
        let Some((_, row)) = shown.rows.first() else { return Ok(None) };
        let read = serde_json::from_str(row);
        read.map(Some).map_err(|_| {
            Error::invalid(
                format!("the place at which `{consumer}` began"),
                format!("it is stored as `{row}`"),
            )
        })
    }

    async fn make(&self, reads: &dyn ReadStore, store: &dyn EventStore, from_now: bool) -> Result<()> {
        let lease = reads.claim(&self.consumer).await?;
        let catalog = reads.catalog(&self.consumer).await?;
        // Looked at once nobody else can make it.
        if Self::stored(reads, &self.consumer).await?.is_some() {
            return Ok(());
        }
        if catalog.active.is_some_and(|active| active.checkpoint.is_some()) {
            let why = "a read model of this name is kept there already; give one of them another name";
            return Err(Error::invalid(format!("the consumer's name `{}`", self.consumer), why));
        }
        let generation = reads.create(&lease, 1).await?.number;
        let head = store.head().await?.token;
        let to = head.log.at(Position::START);
        let mut rows = vec![(ROW.to_owned(), Some(self.partitions.to_string()))];
        if from_now {
            let head = serde_json::to_string(&head).map_err(|e| Error::invalid("a token", e.to_string()))?;
            rows.push((BEGINS.to_owned(), Some(head)));
        }
        reads.commit(&lease, Step { generation, from: None, to, rows, letters: Vec::new() }).await?;
        reads.activate(&lease, generation).await
    }

    /// The model in which a partition's checkpoint and dead letters are kept.
    pub(crate) fn model(&self, partition: u32) -> String {
        format!("{}_p{partition}", self.consumer)
    }

    pub(crate) fn models(&self) -> impl Iterator<Item = String> {
        (0..self.partitions).map(|partition| self.model(partition))
    }

    /// The slices of a partition.
    pub(crate) fn slices(&self, partition: u32) -> Range<u32> {
        let first = |partition: u32| partition * SLICES / self.partitions;
        first(partition)..first(partition + 1)
    }
}

/// The slice of a key, on every machine and in every version the same.
pub(crate) fn slice_of(key: &str) -> u32 {
    // FNV-1a, stirred so that names that differ in their last character only are spread, too.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in key.as_bytes() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    u32::try_from(hash >> 54).unwrap_or_default()
}

/// Whether a consumer can have this name.
pub(crate) fn check_consumer_name(name: &str) -> Result<()> {
    if name.len() > NAME_CHARS {
        let why = format!("it has {} characters; up to {NAME_CHARS} are possible", name.len());
        return Err(Error::invalid(format!("the consumer's name `{name}`"), why));
    }
    check_model_name(name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed")]
mod tests {
    use super::*;

    #[test]
    fn slices_are_the_same_for_ever_and_all_of_them_are_somebodys() {
        let known = ["", "order-1", "order-2", "account-\u{e4}"].map(slice_of);
        assert_eq!(
            known,
            [533, 485, 204, 831],
            "a checkpoint of an older program would be that of other keys"
        );
        for partitions in [1, 2, 3, 7, 8, 1000, SLICES] {
            let layout = Layout::new("c", partitions).unwrap();
            let mut next = 0;
            for partition in 0..partitions {
                let slices = layout.slices(partition);
                assert!(slices.start == next && slices.end > next, "{partitions}: {slices:?}");
                next = slices.end;
            }
            assert_eq!(next, SLICES);
        }
    }

    #[test]
    fn keys_are_spread() {
        let mut counts = [0_u32; 8];
        for n in 0..8000 {
            counts[(slice_of(&format!("order-{n}")) / 128) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }
}
