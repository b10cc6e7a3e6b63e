//! Planted faults: each breaks one rule of a machine, and the explorer must notice.

/// One small wrong change each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mutant {
    /// The owner feeds whoever stands at a SCO of its log, whatever its CRC there is.
    BelieveAnyPlace,
    /// The owner goes on although it has not everything that is missing.
    SkipWhatIsGone,
    /// The owner never lets go of a follower that does not keep up.
    NeverLetGo,
    /// The follower takes what does not continue its end.
    IgnoreGap,
    /// The follower listens to an older owner than it has heard.
    AcceptOlderEpochs,
    /// The follower listens to connections that a newer one has replaced.
    BelieveOldConnections,
    /// The entries of an unfinished SCO outlive their connection.
    KeepUnfinished,
    /// A SCO that ends without a closing is forgotten.
    ForgetUnclosed,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Mutant; 8] = [
        Mutant::BelieveAnyPlace,
        Mutant::SkipWhatIsGone,
        Mutant::NeverLetGo,
        Mutant::IgnoreGap,
        Mutant::AcceptOlderEpochs,
        Mutant::BelieveOldConnections,
        Mutant::KeepUnfinished,
        Mutant::ForgetUnclosed,
    ];
}
