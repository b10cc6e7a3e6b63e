//! What a SCO has room for. Its data is bounded by the data clusters that it may have. What says
//! where they belong, and what was trimmed, brings no data: of that a guest could put any amount
//! into one SCO, whose file, index in memory and object would grow without an end.

use format::entry::Entry;
use format::log::header_pages;

use super::{Batch, Mutant, Volume};

/// Slots with which a SCO is full: one for each cluster of the largest. 1 MiB of its object.
const SLOTS: u32 = 1 << 16;

/// What the open SCO has beside data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Beside {
    /// Header pages of its batches.
    pages: u32,
    /// Slots of its entries.
    slots: u32,
}

impl Beside {
    pub(super) fn with(self, batch: &Batch) -> Self {
        let slots = batch.entries.iter().map(Entry::slots).sum::<usize>();
        let pages = header_pages(slots, batch.clusters as usize) as u32;
        Self { pages: self.pages + pages, slots: self.slots + slots as u32 }
    }

    /// What a SCO with so many data clusters takes of the room of one that may have `sco_clusters`:
    /// the file of a full one is hardly longer than twice its data.
    pub(super) fn room(self, clusters: u32, sco_clusters: u32) -> u32 {
        let share = u64::from(self.slots) * u64::from(sco_clusters) / u64::from(SLOTS);
        clusters.max(self.pages).max(share as u32)
    }
}

impl Volume {
    /// With this batch the open SCO is full.
    pub(super) fn fills(&self, batch: &Batch) -> bool {
        let clusters = self.scos.get(&batch.sco).map_or(0, |sco| sco.clusters) + batch.clusters;
        let full = self.limits.sco_clusters;
        if self.is(Mutant::CountDataOnly) {
            return clusters >= full;
        }
        !batch.entries.is_empty() && self.beside.with(batch).room(clusters, full) >= full
    }
}
