//! The pure half of the erasure-coded backend: which fragments an object has, from which of them
//! others can be computed, on which disks they lie, and what that promises.

mod cut;
mod eviction;
mod favour;
mod gather;
mod layout;
mod mend;
#[cfg(test)]
mod mend_tests;
mod pace;
mod parting;
#[cfg(test)]
mod parting_tests;
mod placement;
#[cfg(test)]
mod placement_tests;
mod plan;
mod policy;
mod verdict;

pub use cut::{Cut, Place, UNIT};
pub use eviction::Eviction;
pub use favour::{Favour, digest, favourite};
pub use gather::Gather;
pub use layout::{FRAGMENTS_MAX, GLOBAL_MAX, Layout, LayoutError, Set};
pub use mend::{Mending, Next, at_once, due, safety};
pub use pace::Pace;
pub use parting::{Proof, Standing, counts, keeps, next_standing, takes};
pub use placement::{Disk, Shortage, mix, place, refill};
pub use plan::{Over, Step, plan};
pub use policy::{Policy, PolicyError, Promise};
pub use verdict::{Seen, Verdict, out_of_reach, verdict};
