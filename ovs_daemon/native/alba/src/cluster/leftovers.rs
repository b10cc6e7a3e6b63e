//! What is left by puts that failed or were cut off, and when it may go.
//!
//! Several may put the same object at the same time: the former owner of a volume does not know yet
//! that he is not its owner any more, and what his process asked of an OSD may be done after it was
//! killed. So nobody who puts an object deletes fragments of other puts: they may be acknowledged a
//! moment later. A put that fails takes back its own, unless somebody may have taken them for the
//! object meanwhile and completed it. The rest goes when it is so old that no put is under way that
//! it could belong to.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use format::fragment::FragmentName;
use machines::alba::{Verdict, is_deleted};

use crate::Result;
use crate::osd::{OBJECT, Request, fragment_path};

use super::find::Sighting;
use super::{Cluster, Terms, failed};

/// Fragments of a put that is older than this are not of one that is under way.
pub const PARTIAL_AGE: Duration = Duration::from_secs(3600);
/// A put that takes longer is not acknowledged: clocks of nodes may differ by the rest.
const PUT_MAX: Duration = Duration::from_secs(1800);

/// Nanoseconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
}

/// A moment, and how long it is ago. Both clocks are asked: one may have been set back meanwhile, the
/// other stands still while the host sleeps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment(u64, Instant);

impl Moment {
    pub(super) fn now() -> Self {
        Self(now(), Instant::now())
    }

    /// So long ago by the clock that does not stand still.
    #[cfg(test)]
    pub(super) fn ago(age: Duration) -> Self {
        Self(now() - age.as_nanos() as u64, Instant::now())
    }

    pub(super) fn age(&self) -> Duration {
        Duration::from_nanos(now().saturating_sub(self.0)).max(self.1.elapsed())
    }
}

/// Whether a put is over so soon that nothing of it was taken for a leftover. Both clocks are asked:
/// one may have been set back meanwhile, the other stands still while the host sleeps.
pub(super) fn in_time(name: &str, generation: u64, began: Instant) -> Result<()> {
    let age = Duration::from_nanos(now().saturating_sub(generation)).max(began.elapsed());
    if age <= PUT_MAX {
        return Ok(());
    }
    let why = "it took so long that what was stored first may have been removed as a leftover";
    Err(failed("store", name, why))
}

impl Cluster {
    /// Takes back what a put that failed has stored.
    pub(super) fn take_back(&self, name: &str, generation: u64) {
        let (verdict, sighting, _) = self.judge(name);
        if verdict == Verdict::Absent {
            // What stays behind on an OSD that fails is never taken for the object.
            let _ = self.remove(name, &sighting, |one| one.generation == generation);
        }
    }

    /// Removes fragments of puts that were deleted, and of those that were cut off before this time
    /// (nanoseconds since 1970): of an object that is not stored, or stored by another put. How many.
    pub fn collect(&self, name: &str, before: u64) -> Result<u64> {
        let (verdict, sighting, reach) = self.judge(name);
        let deleted = sighting.deleted();
        let is_other = |one: &FragmentName| match &verdict {
            Verdict::Absent => true,
            Verdict::Stored(seen) => seen.enough() && one.generation != seen.generation,
            Verdict::Unknown => false,
        };
        let goes = |one: &FragmentName| {
            is_deleted(one.generation, &deleted) || one.generation < before && is_other(one)
        };
        let removed = self.remove(name, &sighting, goes)?;
        self.keep_marks(name, &sighting, &reach)?;
        Ok(removed)
    }

    /// For the owner of an object, while he puts it nowhere: removes all that was left, if the object
    /// is not stored. If it is, by a put that was cut off before it could be acknowledged, it is
    /// completed: whoever sees an object lets go of what the write buffer has.
    pub(super) fn tidy(&self, name: &str) -> Result<()> {
        let request = Request::Sweep { folder: format!("{name}{OBJECT}") };
        self.everywhere(&request)?;
        let (verdict, sighting, _) = self.judge(name);
        match verdict {
            Verdict::Absent => self.remove(name, &sighting, |_| true).map(drop),
            Verdict::Stored(seen) if !seen.may_be_acknowledged() => {
                // Where there is no room for what is missing it is mended later.
                let _ = self.mend(name, &Terms::default(), &mut |_| true);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn remove(
        &self,
        name: &str,
        sighting: &Sighting,
        which: impl Fn(&FragmentName) -> bool,
    ) -> Result<u64> {
        let which = sighting.fragments.iter().filter(|(one, _)| which(one));
        let delete = |(one, osd): &(FragmentName, usize)| {
            (*osd, Request::Delete { path: fragment_path(name, one) })
        };
        let jobs: Vec<_> = which.map(delete).collect();
        let count = jobs.len() as u64;
        self.ask_all(jobs).into_iter().try_for_each(|answer| answer.map(|_| ()))?;
        Ok(count)
    }
}
