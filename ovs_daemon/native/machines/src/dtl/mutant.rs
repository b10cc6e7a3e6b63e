//! Planted faults: each breaks one rule of a machine, and the explorer must notice.

/// One small wrong change each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mutant {
    /// Writes are acknowledged from the local log although the registry says in_sync.
    AcknowledgeAlone,
    /// Writes are acknowledged as soon as degraded is proposed.
    AcknowledgeWhileDegrading,
    /// A refused swap is taken for an accepted one.
    IgnoreRefusedSwap,
    /// What the DTL node holds is wiped while the registry says in_sync.
    WipeWhileInSync,
    /// in_sync is proposed when copying begins.
    InSyncTooEarly,
    /// Writes wait for the DTL node only once in_sync is accepted.
    GateTooLate,
    /// Whatever the DTL node holds is taken for the end of the log.
    BelieveAnyEnd,
    /// What comes from earlier connections is believed.
    BelieveOldConnections,
    /// The end of the lease is ignored.
    ServeWithoutLease,
    /// A SCO that is not on the backend is trimmed.
    TrimUnsaved,
    /// The DTL node takes batches of any epoch.
    AcceptOlderEpochs,
    /// The DTL node answers before its fence is durable.
    AnswerBeforeFence,
    /// The DTL node acknowledges what it could not write.
    AcknowledgeUnwritten,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Mutant; 13] = [
        Mutant::AcknowledgeAlone,
        Mutant::AcknowledgeWhileDegrading,
        Mutant::IgnoreRefusedSwap,
        Mutant::WipeWhileInSync,
        Mutant::InSyncTooEarly,
        Mutant::GateTooLate,
        Mutant::BelieveAnyEnd,
        Mutant::BelieveOldConnections,
        Mutant::ServeWithoutLease,
        Mutant::TrimUnsaved,
        Mutant::AcceptOlderEpochs,
        Mutant::AnswerBeforeFence,
        Mutant::AcknowledgeUnwritten,
    ];
}
