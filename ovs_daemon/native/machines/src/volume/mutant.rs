//! Planted faults: each breaks one rule of the machine, and the explorer must notice.

/// One small wrong change each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mutant {
    /// A flush completes at once.
    FlushWithoutSync,
    /// A write completes when its batch is formed, before it is appended.
    CompleteBeforeAppend,
    /// A sync is taken to cover the batch that was appended while it ran.
    SyncCoversTooMuch,
    /// A failed sync is simply repeated, and its later success believed.
    BelieveSecondSync,
    /// The newest closed SCO is uploaded first.
    UploadNewestFirst,
    /// A file is evicted when its upload starts.
    EvictBeforeUploaded,
    /// A failed upload counts as done.
    FailedUploadCounts,
    /// A checkpoint is stored while SCOs before its position are not on the backend.
    CheckpointTooEarly,
    /// The snapshots are left out of a checkpoint's references.
    DeleteIgnoresSnapshots,
    /// A SCO is deleted as soon as the head does not refer to it.
    DeleteBeforeCheckpoint,
    /// Relocated clusters replace newer ones.
    RelocateBlindly,
    /// A trim does not reach the map.
    ForgetTrim,
    /// A write with FUA completes like any other.
    FuaWithoutSync,
    /// A snapshot is taken after the rest of its batch instead of before.
    SnapshotWithoutClosing,
    /// An append that failed is not tried again.
    ForgetFailedAppend,
    /// Every second sequence is left out.
    SkipSequence,
    /// Every SCO gets the same number.
    ReuseNumbers,
    /// A write is answered twice.
    AnswerTwice,
    /// A small SCO in the cache counts like a full one.
    CountFilesKept,
    /// The volume is settled before what it had is on the backend.
    SettleTooEarly,
    /// After a failed delete everything that is to be deleted is asked for once more.
    RetryEveryDelete,
    /// A failed delete is asked for again at once.
    RetryDeletesAtOnce,
    /// A failed delete is not tried again.
    ForgetFailedDelete,
    /// A SCO is full of data only: what else is in it takes no room.
    CountDataOnly,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Mutant; 24] = [
        Mutant::FlushWithoutSync,
        Mutant::CompleteBeforeAppend,
        Mutant::SyncCoversTooMuch,
        Mutant::BelieveSecondSync,
        Mutant::UploadNewestFirst,
        Mutant::EvictBeforeUploaded,
        Mutant::FailedUploadCounts,
        Mutant::CheckpointTooEarly,
        Mutant::DeleteIgnoresSnapshots,
        Mutant::DeleteBeforeCheckpoint,
        Mutant::RelocateBlindly,
        Mutant::ForgetTrim,
        Mutant::FuaWithoutSync,
        Mutant::SnapshotWithoutClosing,
        Mutant::ForgetFailedAppend,
        Mutant::SkipSequence,
        Mutant::ReuseNumbers,
        Mutant::AnswerTwice,
        Mutant::CountFilesKept,
        Mutant::SettleTooEarly,
        Mutant::RetryEveryDelete,
        Mutant::RetryDeletesAtOnce,
        Mutant::ForgetFailedDelete,
        Mutant::CountDataOnly,
    ];
}
