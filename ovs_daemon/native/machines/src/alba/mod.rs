//! The pure half of the erasure-coded backend: which fragments an object has, from which of them
//! others can be computed, on which disks they lie, and what that promises.

/// Beside an enum `Mutant` of faults that a test can plant: the one that is planted in this thread.
macro_rules! mutant_of_this_thread {
    () => {
        #[cfg(test)]
        std::thread_local! {
            pub(crate) static MUTANT: core::cell::Cell<Option<Mutant>> =
                const { core::cell::Cell::new(None) };
        }
    };
}

/// Whether this fault of the module's `Mutant` is planted: never, outside the test.
macro_rules! planted {
    ($mutant:ident) => {{
        #[cfg(test)]
        let planted = MUTANT.get() == Some(Mutant::$mutant);
        #[cfg(not(test))]
        let planted = false;
        planted
    }};
}

mod courtesy;
mod crowd;
#[cfg(test)]
mod crowd_tests;
mod cut;
mod deletion;
#[cfg(test)]
mod deletion_tests;
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
mod rebalance;
#[cfg(test)]
mod rebalance_tests;
mod turns;
mod verdict;

pub use courtesy::Courtesy;
pub use crowd::{Takes, apart, crowded, homes, safety_of_disks};
pub use cut::{Cut, Place, UNIT};
pub use deletion::{Deletion, deletion, goes_first, is_deleted, living, may_forget};
pub use eviction::Eviction;
pub use favour::{Favour, digest, favourite};
pub use gather::Gather;
pub use layout::{FRAGMENTS_MAX, GLOBAL_MAX, Layout, LayoutError, Set};
pub use mend::{Mending, Next, Outcome, at_once, due, is_urgent, safety};
pub use pace::Pace;
pub use parting::{Proof, Standing, counts, keeps, next_standing, takes};
pub use placement::{Disk, Shortage, mix, place, refill};
pub use plan::{Over, Step, plan};
pub use policy::{Policy, PolicyError, Promise};
pub use rebalance::{
    Balance, Copy, Fill, Then, band, excess, gives, spread, surplus, target, then,
};
pub use turns::Turns;
pub use verdict::{Seen, Verdict, out_of_reach, verdict};
