//! Where two maps differ: what changed between two snapshots.
//!
//! Pages that both maps share are the same and are not looked into, so this costs what differs.
//! Locations are compared, not content: a cluster that compaction moved is reported although its
//! bytes are the same, and one whose bytes differ is always reported, since no location is ever
//! written twice.

use alloc::sync::Arc;

use super::chunk::Chunk;
use super::loc::Loc;
use super::slot::Slot;
use super::{CHUNK_CLUSTERS, CHUNK_LEAVES, LEAF_CLUSTERS, Map};

impl Map {
    /// Calls `visit(lba, len)` with the maximal ranges of clusters whose location (or absence) in
    /// `self` differs from that in `other`, in order.
    pub fn diff(&self, other: &Map, visit: &mut impl FnMut(u64, u64)) {
        let mut ranges = Ranges { visit, start: 0, len: 0 };
        if !Arc::ptr_eq(&self.root, &other.root) {
            for index in 0..self.root.len().max(other.root.len()) {
                let a = self.root.get(index).and_then(Option::as_ref);
                let b = other.root.get(index).and_then(Option::as_ref);
                let base = (index * CHUNK_CLUSTERS) as u64;
                match (a, b) {
                    (None, None) => {}
                    (Some(a), Some(b)) if Arc::ptr_eq(a, b) => {}
                    (a, b) => diff_chunks(a.map(|a| &**a), b.map(|b| &**b), base, &mut ranges),
                }
            }
        }
        ranges.flush();
    }
}

fn diff_chunks<F: FnMut(u64, u64)>(
    a: Option<&Chunk>,
    b: Option<&Chunk>,
    base: u64,
    ranges: &mut Ranges<'_, F>,
) {
    const NOTHING: &Slot = &Slot::Empty;
    for leaf in 0..CHUNK_LEAVES {
        let a = a.map_or(NOTHING, |chunk| chunk.slot(leaf));
        let b = b.map_or(NOTHING, |chunk| chunk.slot(leaf));
        if a.same(b) {
            continue;
        }
        let (a, b) = (locations(a), locations(b));
        let base = base + (leaf * LEAF_CLUSTERS) as u64;
        for (lba, (a, b)) in (base..).zip(a.iter().zip(&b)) {
            if a != b {
                ranges.push(lba);
            }
        }
    }
}

fn locations(slot: &Slot) -> [Option<Loc>; LEAF_CLUSTERS] {
    let mut all = [None; LEAF_CLUSTERS];
    slot.for_each(0, LEAF_CLUSTERS, &mut |run| {
        let places = &mut all[usize::from(run.start)..run.end()];
        for (place, number) in places.iter_mut().zip(0..) {
            *place = Some(run.loc().plus(number));
        }
    });
    all
}

/// Joins clusters into ranges.
struct Ranges<'a, F> {
    visit: &'a mut F,
    start: u64,
    len: u64,
}

impl<F: FnMut(u64, u64)> Ranges<'_, F> {
    fn push(&mut self, lba: u64) {
        if self.len > 0 && self.start + self.len == lba {
            self.len += 1;
            return;
        }
        self.flush();
        (self.start, self.len) = (lba, 1);
    }

    fn flush(&mut self) {
        if self.len > 0 {
            (self.visit)(self.start, self.len);
        }
    }
}
