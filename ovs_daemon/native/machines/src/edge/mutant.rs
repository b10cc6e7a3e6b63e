//! Planted faults: each breaks one rule of the session, and the explorer must notice.

/// One small wrong change each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mutant {
    /// Overlapping writes may be on their way at once.
    NoGate,
    /// Answers of earlier connections are believed.
    BelieveOldGenerations,
    /// All connections have the same number.
    SameGeneration,
    /// An answered request stays in the table.
    KeepAnswered,
    /// Requests that were sent to a lost engine are not sent again.
    NoReplay,
    /// Requests that were sent to a lost engine are dropped.
    ForgetInFlight,
    /// Requests are sent again in reverse order.
    ReplayBackwards,
    /// An engine with an older epoch is accepted.
    AnyEpoch,
    /// The front end gets its memory back while the engine still uses it.
    GiveUpEarly,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Mutant; 9] = [
        Mutant::NoGate,
        Mutant::BelieveOldGenerations,
        Mutant::SameGeneration,
        Mutant::KeepAnswered,
        Mutant::NoReplay,
        Mutant::ForgetInFlight,
        Mutant::ReplayBackwards,
        Mutant::AnyEpoch,
        Mutant::GiveUpEarly,
    ];
}
