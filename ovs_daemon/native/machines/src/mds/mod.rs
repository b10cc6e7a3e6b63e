//! Warm maps: other nodes follow the map of a volume, so that one that goes on with it need not
//! load it.
//!
//! ```text
//!   owner                                            follower
//!   Feed: does what stands there  <-- standing ---   Follower: the map at the end of a SCO (a place),
//!         belong to my log?                                    loaded from the last checkpoint;
//!         -- the SCOs since, then each batch -->               the entries of the SCO after it
//!         how far behind is it?   <-- acknowledged
//! ```
//!
//! A follower's map is a hint and never the truth: whoever goes on with the volume reads the log as
//! it would without it, and takes the map only when the log has, at the follower's place, the
//! batch that the follower names by sequence and CRC ([`fits`]). Headers are chained by their CRCs,
//! so the same batch means the same log up to there, and the same map.
//!
//! So nothing here has to be durable or exact about time. What is promised, and explored in `sim`:
//!
//! * a follower that says it is at a sequence has the map of its feeder's log up to there;
//! * what is taken from a follower is what recovery would have found;
//! * an older owner feeds nobody who has heard a newer one;
//! * the owner never has more than so much on its way to a follower: one that does not keep up is
//!   let go of, and begins again at its place.

pub mod feed;
pub mod follower;
mod mutant;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;

use format::entry::Entry;
pub use mutant::Mutant;

use crate::dtl::Mark;
use crate::replay::Content;

/// The end of a SCO in a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Number of the SCO; 0: before the first.
    pub sco: u32,
    /// Its last batch.
    pub mark: Mark,
}

/// A volume's content at a place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Warm {
    /// Where.
    pub place: Place,
    /// What.
    pub content: Content,
}

/// A part of a SCO: one batch or many, from which on a follower's end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Piece {
    /// The SCO.
    pub sco: u32,
    /// The batch before.
    pub before: Mark,
    /// Its last batch.
    pub last: Mark,
    /// What happened.
    pub entries: Vec<Entry>,
}

/// Whether a log that has these ends of SCOs is the one that a place belongs to.
pub fn fits(place: &Place, ends: impl IntoIterator<Item = Place>) -> bool {
    ends.into_iter().any(|end| end == *place)
}
