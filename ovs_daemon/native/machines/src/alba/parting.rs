//! How an OSD leaves the cluster: emptied or lost for good, and in the end forgotten, so that nobody
//! asks any more what may be on it.
//!
//! What must hold: of an object that is acknowledged, c fragments of each piece are on OSDs that are
//! not forgotten. One that is emptied is *leaving* first: what is on it is stored elsewhere, and who
//! has heard of it puts nothing there. Somebody may not have heard. So when nothing is on it alone
//! it is *sealed*: it stores nothing more, whoever asks, and does not forget that. What it has
//! alone afterwards is all that it will ever have alone; with nothing of that kind it is *removed*.
//!
//! One that is *lost* cannot be sealed. It is removed once everybody who lives has heard that it is
//! lost (and counts nothing that it answers), and a look at all objects that began afterwards finds
//! c fragments of each elsewhere, with nothing that could be hidden from it.

#[cfg(test)]
extern crate std;

/// How an OSD stands to the cluster, as the registry says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It stores objects.
    #[default]
    Member,
    /// It is being emptied: nothing new goes there.
    Leaving,
    /// It was empty once, and stores nothing any more.
    Sealed,
    /// It will never be back: what it answers counts no more.
    Lost,
    /// It is forgotten; if it comes back, nobody believes it anything.
    Removed,
}

impl Standing {
    /// Its name in the registry; `None`: there is no such standing.
    pub fn named(name: &str) -> Option<Self> {
        let all = [Self::Member, Self::Leaving, Self::Sealed, Self::Lost, Self::Removed];
        all.into_iter().find(|one| one.name() == name)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Leaving => "leaving",
            Self::Sealed => "sealed",
            Self::Lost => "lost",
            Self::Removed => "removed",
        }
    }

    /// Whether it may be asked for what it has.
    pub fn is_asked(self) -> bool {
        matches!(self, Self::Member | Self::Leaving | Self::Sealed)
    }

    /// Whether what is on it is stored elsewhere as well.
    pub fn is_emptied(self) -> bool {
        matches!(self, Self::Leaving | Self::Sealed)
    }
}

/// What a look has found out about an OSD that is to leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// Fragments that are on it and on no OSD that stays, of objects and of puts that may be under
    /// way. Of one that is emptied.
    pub alone: u64,
    /// Objects that have less than c fragments of a piece, or of which that cannot be told. Of one
    /// that is lost.
    pub short: u64,
    /// Whether so many OSDs were out of reach that a whole object could be hidden there.
    pub hidden: bool,
    /// Whether the look began when it was sealed, or everybody had heard that it is lost.
    pub after: bool,
}

/// Planted faults, each of which the test must notice.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// It is removed when it is empty once.
    NoSeal,
    /// What a look found before the seal, or before all have heard, counts.
    EarlyLook,
    /// It is removed while it has something alone.
    NotEmpty,
    /// It is not asked whether objects have c fragments elsewhere.
    NotShort,
    /// It is not asked whether something could be hidden.
    NotHidden,
    /// Fragments of puts that may be under way count for nothing.
    ObjectsOnly,
    /// What an OSD answers that is lost counts.
    CountLost,
    /// A sealed OSD stores.
    OpenSeal,
}

mutant_of_this_thread!();

/// How an OSD may stand next, by what is known of it; `None`: it stays as it is.
pub fn next_standing(now: Standing, proof: &Proof) -> Option<Standing> {
    let after = proof.after || planted!(EarlyLook);
    let empty = proof.alone == 0 || planted!(NotEmpty);
    let found = proof.short == 0 || planted!(NotShort);
    let hidden = proof.hidden && !planted!(NotHidden);
    match now {
        Standing::Leaving if empty && planted!(NoSeal) => Some(Standing::Removed),
        Standing::Leaving if empty => Some(Standing::Sealed),
        Standing::Sealed if empty && after => Some(Standing::Removed),
        Standing::Lost if found && !hidden && after => Some(Standing::Removed),
        _ => None,
    }
}

/// Whether what an OSD answered to a put counts.
pub fn counts(standing: Standing) -> bool {
    standing.is_asked() || planted!(CountLost)
}

/// Whether an OSD stores what it is asked to; `sealed`: what it has noted itself.
pub fn takes(sealed: bool) -> bool {
    !sealed || planted!(OpenSeal)
}

/// Whether a fragment that is on an OSD alone keeps it from being removed; `stored`: whether its
/// object is known to be stored.
pub fn keeps(stored: bool) -> bool {
    stored || !planted!(ObjectsOnly)
}
