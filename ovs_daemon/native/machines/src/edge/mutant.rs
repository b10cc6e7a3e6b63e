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
    /// A retarget is taken note of, but the outdated owner is not left.
    StayWithOldOwner,
    /// After a failure the same target is tried for ever.
    OneTargetOnly,
    /// The engine lets a connection in while an earlier one of the same Edge works.
    NoDoor,
    /// The engine ends the earlier connection, but does not wait for what it had taken (planted by
    /// the world: it is whoever uses the door that waits).
    DoorWithoutWait,
    /// The engine lets an earlier connection end a later one.
    AnyConnection,
    /// The engine lets go of a volume and closes its connections while it still fills memory for
    /// them (planted by the world: it is the shard that waits).
    CloseWhileReading,
    /// A connection whose token is of an earlier generation is let in.
    EarlierGeneration,
    /// A later generation is let in beside connections of earlier ones.
    NoShutOut,
    /// What is asked for by a generation that is shut out is not waited for.
    ShutOutWithoutWait,
    /// The next owner does not know the generation (planted by the world: it is whoever opens the
    /// volume that says it).
    ForgetGeneration,
    /// A host that lost its attachment makes tokens of the present generation (planted by the world:
    /// it is the daemon that looks at the record).
    TokenWithoutAttachment,
    /// A connection that was given up counts as one whose engine has finished.
    BelieveGivenUp,
    /// So does one that was closed before it was let in.
    BelieveTurnedAway,
    /// A host that let go of the volume itself, and does not know whether its writes have ended,
    /// raises no generation (planted by the world: it is the daemon that changes the record).
    KeepGeneration,
    /// The engine knows an Edge by the name that it drew itself, which a boot of its host may change.
    ForgetHost,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Mutant; 24] = [
        Mutant::NoGate,
        Mutant::BelieveOldGenerations,
        Mutant::SameGeneration,
        Mutant::KeepAnswered,
        Mutant::NoReplay,
        Mutant::ForgetInFlight,
        Mutant::ReplayBackwards,
        Mutant::AnyEpoch,
        Mutant::GiveUpEarly,
        Mutant::StayWithOldOwner,
        Mutant::OneTargetOnly,
        Mutant::NoDoor,
        Mutant::DoorWithoutWait,
        Mutant::AnyConnection,
        Mutant::CloseWhileReading,
        Mutant::EarlierGeneration,
        Mutant::NoShutOut,
        Mutant::ShutOutWithoutWait,
        Mutant::ForgetGeneration,
        Mutant::TokenWithoutAttachment,
        Mutant::BelieveGivenUp,
        Mutant::BelieveTurnedAway,
        Mutant::KeepGeneration,
        Mutant::ForgetHost,
    ];
}
