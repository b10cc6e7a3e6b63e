//! Which SCOs a set of maps still needs.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::chunk::Chunk;
use super::loc::{Loc, Run};
use super::slot::Slot;
use super::{CHUNK_LEAVES, LEAF_CLUSTERS, Map};

/// SCO numbers below this are counted in an array, which a scan of random data needs for its speed
/// (4 MiB at most, for the time of the scan).
const DENSE_SCOS: usize = 1 << 20;

/// For every SCO of `log` that any of `maps` refers to: the number of its clusters that are in use.
/// A cluster that several maps (a head and its snapshots) hold at the same LBA counts once. Pages
/// that maps share are scanned once. Takes time in proportion to the distinct pages.
pub fn count_refs(maps: &[&Map], log: u16) -> BTreeMap<u32, u32> {
    let mut counts = Counts { log, dense: Vec::new(), sparse: BTreeMap::new() };
    let length = maps.iter().map(|map| map.root.len()).max().unwrap_or(0);
    let mut chunks: Vec<&Chunk> = Vec::new();
    for index in 0..length {
        chunks.clear();
        for chunk in maps.iter().filter_map(|map| map.root.get(index)?.as_deref()) {
            if !chunks.iter().any(|seen| core::ptr::eq(*seen, chunk)) {
                chunks.push(chunk);
            }
        }
        count_chunks(&chunks, &mut counts);
    }
    counts.finish()
}

/// Counts the chunks that stand at one place in several maps.
fn count_chunks(chunks: &[&Chunk], counts: &mut Counts) {
    let mut slots: Vec<&Slot> = Vec::new();
    for leaf in 0..CHUNK_LEAVES {
        slots.clear();
        for chunk in chunks {
            let slot = chunk.slot(leaf);
            if !slots.iter().any(|seen| seen.same(slot)) {
                slots.push(slot);
            }
        }
        for (number, slot) in slots.iter().enumerate() {
            slot.for_each(0, LEAF_CLUSTERS, &mut |run| {
                if run.loc().log == counts.log {
                    counts.add(run.loc().sco, u32::from(run.len) - known(&slots[..number], run));
                }
            });
        }
    }
}

/// How many clusters of `run` are at the same location in one of `earlier`.
fn known(earlier: &[&Slot], run: Run) -> u32 {
    if earlier.is_empty() {
        return 0;
    }
    let same = |n: &u32| {
        let loc: Loc = run.loc().plus(*n);
        earlier.iter().any(|slot| slot.get(usize::from(run.start) + *n as usize) == Some(loc))
    };
    (0..u32::from(run.len)).filter(same).count() as u32
}

struct Counts {
    log: u16,
    dense: Vec<u32>,
    sparse: BTreeMap<u32, u32>,
}

impl Counts {
    fn add(&mut self, sco: u32, clusters: u32) {
        let index = sco as usize;
        if clusters == 0 {
            return;
        }
        if index >= DENSE_SCOS {
            *self.sparse.entry(sco).or_default() += clusters;
            return;
        }
        if index >= self.dense.len() {
            self.dense.resize(index + 1, 0);
        }
        self.dense[index] += clusters;
    }

    fn finish(self) -> BTreeMap<u32, u32> {
        let mut counts = self.sparse;
        let used = self.dense.into_iter().enumerate().filter(|(_, clusters)| *clusters > 0);
        counts.extend(used.map(|(sco, clusters)| (sco as u32, clusters)));
        counts
    }
}
