//! Mistakes that an engine like this could make, to be switched on by the tests that must notice them.

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Answers before the sync.
    AckBeforeSync,
    /// Does not sync the directory after making a segment.
    NoNameSync,
    /// Believes a frame whose header is right, whatever its body.
    HeaderOnlyCrc,
    /// Serves what it recovered without syncing it.
    NoSyncInRecovery,
    /// Does not write again what the page cache may only pretend to have written.
    NoRewrite,
    /// Begins a new segment while the end of the old one is not synced.
    RollWithoutSync,
    /// Tries a failed sync again, and believes the second answer.
    RetryAfterFailedSync,
    /// Goes on in the old segment when nobody knows whether the new one has its name.
    GoOnAfterFailedRoll,
    /// Cuts off whatever cannot be read, acknowledged or not.
    NaiveTruncation,
    /// Gives a packed segment its name before it is synced.
    PackWithoutSync,
    /// Removes the old file of a segment before the packed one has its name.
    RemoveBeforePacked,
    /// Takes the first event that is to be kept off the disk, too.
    RemoveOneTooMany,
    /// Takes events off the disk that are too old by the clock, and not by the last event of the log.
    RemoveByTheClock,
    /// Forgets the ids of the events that it takes off the disk.
    StubWithoutId,
    /// Forgets what the content of the events was that it takes off the disk.
    StubWithoutContent,
    /// Takes more appends after a failed write or sync, as if nothing had happened.
    GoOnAfterFailedSync,
    /// Gives a new segment its name before its header is synced.
    NoHeaderSync,
    /// Shows readers what is not synced yet.
    ShowBeforeSync,
    /// Answers an append that was sent again before the first is durable.
    ReplayBeforeSync,
    /// Leaves the last frame of a quiet log without anything that says that it was durable.
    NoMark,
    /// Cuts off torn frames without a copy of them.
    CutWithoutCopy,
    /// Takes no more appends, ever, once the disk was full.
    PoisonedByFullDisk,
    /// Gives a run of the index its name before it is synced.
    #[cfg(feature = "sim")]
    NoRunSync,
}

#[cfg(feature = "sim")]
impl Bug {
    /// All of them.
    pub const ALL: [Self; 23] = [
        Self::AckBeforeSync,
        Self::NoNameSync,
        Self::HeaderOnlyCrc,
        Self::NoSyncInRecovery,
        Self::NoRewrite,
        Self::RollWithoutSync,
        Self::RetryAfterFailedSync,
        Self::GoOnAfterFailedRoll,
        Self::NaiveTruncation,
        Self::GoOnAfterFailedSync,
        Self::NoHeaderSync,
        Self::ShowBeforeSync,
        Self::ReplayBeforeSync,
        Self::NoMark,
        Self::CutWithoutCopy,
        Self::PoisonedByFullDisk,
        Self::NoRunSync,
        Self::PackWithoutSync,
        Self::RemoveBeforePacked,
        Self::RemoveOneTooMany,
        Self::RemoveByTheClock,
        Self::StubWithoutId,
        Self::StubWithoutContent,
    ];
}

/// The mistake that is switched on, if any. Without the feature `sim` there is no way to switch one on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bugs(#[cfg(feature = "sim")] Option<Bug>);

impl Bugs {
    /// Makes this mistake.
    #[cfg(feature = "sim")]
    pub fn only(bug: Bug) -> Self {
        Self(Some(bug))
    }

    /// Whether to make this mistake.
    #[cfg(feature = "sim")]
    pub fn has(self, bug: Bug) -> bool {
        self.0 == Some(bug)
    }

    /// Whether to make this mistake.
    #[cfg(not(feature = "sim"))]
    #[allow(clippy::unused_self, reason = "the same shape as with the feature")]
    pub fn has(self, _: Bug) -> bool {
        false
    }
}
