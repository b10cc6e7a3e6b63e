//! The LBA map of a volume: which cluster is where in which log. All of it is in RAM.
//!
//! ```text
//!   Map ── Arc ──> root: [chunk, chunk, ...]      a chunk = 65536 clusters = 256 MiB
//!                          │
//!                         Arc ──> Chunk: 128 slots of 16 bytes, a slot = 512 clusters = 2 MiB
//!                                   ├─ Empty
//!                                   ├─ Run(loc)         the whole leaf in order: no leaf at all
//!                                   ├─ Runs   ── Arc ──> list of runs, 12 bytes each
//!                                   └─ Packed ── Arc ──> bitmap + 4 bytes per mapped cluster
//! ```
//!
//! *Sharing.* Everything below a `Map` is immutable while it is shared. A snapshot or a clone is
//! `Map::clone`, one counter; a write copies the root (8 bytes per 256 MiB), the chunk (2 KiB) and
//! the leaf that it touches, once, and then works in place until the next snapshot.
//!
//! *Size.* Sequential data costs its slots, 0.03 bytes per cluster. Random data costs 4.3 bytes per
//! cluster when a leaf is full and 5.4 at a quarter; what fragmentation of the heap adds on top stays
//! below 1.9 when a volume is filled at random (`bench_map` measures it). See `slot` for the choice
//! of the form and `memory` for how bytes are counted.
//!
//! *Checkpoints.* A chunk remembers where it was last stored and forgets it when it is changed, so
//! a checkpoint writes the chunks whose `Chunk::stored` is None. A clone of the map can be stored by
//! another thread (`Map` is Send and Sync).
//!
//! *Equality* and hash are those of the function LBA -> location, whatever form the leaves have.

mod chunk;
mod diff;
mod loc;
mod memory;
mod packed;
mod refs;
mod runs;
mod slot;
mod stored;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::hash::{Hash, Hasher};

pub use chunk::Chunk;
pub use loc::Loc;
pub use refs::count_refs;
pub use stored::Stored;

use memory::{arc_bytes, vec_bytes};

/// Clusters of a leaf.
pub const LEAF_CLUSTERS: usize = 512;
/// Leaves of a chunk.
pub const CHUNK_LEAVES: usize = 128;
/// Clusters of a chunk.
pub const CHUNK_CLUSTERS: usize = LEAF_CLUSTERS * CHUNK_LEAVES;
/// Clusters that a map can hold: 64 TiB.
pub const CLUSTERS_MAX: u64 = 1 << 34;
/// Chunks that a map can hold.
pub const CHUNKS_MAX: u32 = (CLUSTERS_MAX / CHUNK_CLUSTERS as u64) as u32;

type Root = Vec<Option<Arc<Chunk>>>;

/// Why a map refused a change; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// The clusters lie beyond `CLUSTERS_MAX`.
    BeyondEnd {
        /// First cluster of the change.
        lba: u64,
        /// Number of clusters.
        len: u64,
    },
    /// The run would pass ordinal 65535 of its SCO.
    BeyondSco {
        /// Start of the run.
        loc: Loc,
        /// Number of clusters.
        len: u64,
    },
}

impl fmt::Display for MapError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MapError::BeyondEnd { lba, len } => write!(
                out,
                "cannot map {len} clusters from LBA {lba}: a map ends at {CLUSTERS_MAX} clusters \
                 (64 TiB); check the size of the volume"
            ),
            MapError::BeyondSco { loc, len } => write!(
                out,
                "cannot map {len} clusters from ordinal {} of SCO {:08x} of log {}: ordinals end at \
                 65535; the run must be split at the end of its SCO",
                loc.ordinal, loc.sco, loc.log
            ),
        }
    }
}

impl core::error::Error for MapError {}

/// The map; see the module. `clone` is a snapshot: O(1), and independent from then on.
#[derive(Clone, Debug, Default)]
pub struct Map {
    root: Arc<Root>,
    mapped: u64,
}

impl Map {
    /// An empty map.
    pub fn new() -> Map {
        Map::default()
    }

    /// The location of cluster `lba`; None when it was never written, or trimmed.
    #[inline]
    pub fn get(&self, lba: u64) -> Option<Loc> {
        let (index, cluster) = split(lba);
        self.root.get(index)?.as_ref()?.get(cluster)
    }

    /// Calls `visit(lba, len, location of the first)` with the maximal runs and holes (None) that
    /// `[lba, lba + len)` consists of, in order and without gaps.
    pub fn runs(&self, lba: u64, len: u64, visit: &mut impl FnMut(u64, u64, Option<Loc>)) {
        let end = lba.saturating_add(len);
        let mut spans = Spans { visit, start: lba, len: 0, loc: None };
        let mut at = lba;
        while at < end {
            let (index, start) = split(at);
            let count = (end - at).min((CHUNK_CLUSTERS - start) as u64);
            match self.root.get(index) {
                None => break,
                Some(None) => {}
                Some(Some(chunk)) => {
                    let base = at - start as u64;
                    for (leaf, from, to) in Chunk::parts(start, count as usize) {
                        let base = base + (leaf * LEAF_CLUSTERS) as u64;
                        chunk.slot(leaf).for_each(from, to, &mut |run| {
                            let first = base + u64::from(run.start);
                            spans.push(first, u64::from(run.len), run.loc());
                        });
                    }
                }
            }
            at += count;
        }
        spans.finish(end);
    }

    /// Calls `visit(lba, len, location of the first)` with all maximal runs of the map, in order.
    pub fn for_each_run(&self, visit: &mut impl FnMut(u64, u64, Loc)) {
        let end = (self.root.len() * CHUNK_CLUSTERS) as u64;
        self.runs(0, end, &mut |lba, len, loc| {
            if let Some(loc) = loc {
                visit(lba, len, loc);
            }
        });
    }

    /// Maps `[lba, lba + len)` to `len` consecutive ordinals from `loc`. Calls `displaced(loc, len)`
    /// with every run that was mapped there before, in order of LBA.
    pub fn set(
        &mut self,
        lba: u64,
        len: u32,
        loc: Loc,
        displaced: &mut impl FnMut(Loc, u32),
    ) -> Result<(), MapError> {
        let clusters = u64::from(len);
        if lba.saturating_add(clusters) > CLUSTERS_MAX {
            return Err(MapError::BeyondEnd { lba, len: clusters });
        }
        if u64::from(loc.ordinal) + clusters > 1 << 16 {
            return Err(MapError::BeyondSco { loc, len: clusters });
        }
        let (mut at, end) = (lba, lba + clusters);
        while at < end {
            let (index, start) = split(at);
            let count = (end - at).min((CHUNK_CLUSTERS - start) as u64);
            let root = Arc::make_mut(&mut self.root);
            if index >= root.len() {
                root.resize_with(index + 1, || None);
            }
            let new = loc.plus((at - lba) as u32);
            let chunk = chunk::for_writing(&mut root[index]);
            let removed = chunk.replace(start, count as usize, Some(new), displaced);
            self.mapped = self.mapped + count - removed as u64;
            at += count;
        }
        Ok(())
    }

    /// Unmaps `[lba, lba + len)` (trim) and calls `displaced` as `set` does. Clusters that are not
    /// mapped, or lie beyond the end, are nothing to do: pages without mapped clusters in the range
    /// are neither copied nor marked as changed.
    pub fn unset(&mut self, lba: u64, len: u64, displaced: &mut impl FnMut(Loc, u32)) {
        let end = lba.saturating_add(len).min((self.root.len() * CHUNK_CLUSTERS) as u64);
        let mut at = lba;
        while at < end {
            let (index, start) = split(at);
            let count = (end - at).min((CHUNK_CLUSTERS - start) as u64);
            at += count;
            let touched =
                self.root[index].as_ref().is_some_and(|c| c.touches(start, count as usize));
            if !touched {
                continue;
            }
            let place = &mut Arc::make_mut(&mut self.root)[index];
            let chunk = chunk::for_writing(place);
            self.mapped -= chunk.replace(start, count as usize, None, displaced) as u64;
            if chunk.mapped() == 0 {
                *place = None;
            }
        }
    }

    /// Number of mapped clusters.
    pub fn mapped(&self) -> u64 {
        self.mapped
    }

    /// Heap bytes of everything this map refers to, allocator overhead included; pages that it
    /// shares with other maps are counted in each of them. O(chunks).
    pub fn memory(&self) -> usize {
        let chunks: usize = self.chunks().map(|(_, chunk)| chunk.memory()).sum();
        arc_bytes::<Root>() + vec_bytes(&self.root) + chunks
    }

    /// The chunks that hold anything, with their index, in order.
    pub fn chunks(&self) -> impl Iterator<Item = (u32, &Arc<Chunk>)> {
        let present = self.root.iter().enumerate();
        present.filter_map(|(index, chunk)| Some((index as u32, chunk.as_ref()?)))
    }

    /// The map made of `chunks` (index, chunk), in any order; a later one replaces an earlier one of
    /// the same index.
    pub fn from_chunks(
        chunks: impl IntoIterator<Item = (u32, Arc<Chunk>)>,
    ) -> Result<Map, MapError> {
        let (mut root, mut mapped) = (Root::new(), 0);
        for (index, chunk) in chunks {
            if index >= CHUNKS_MAX {
                let lba = u64::from(index) * CHUNK_CLUSTERS as u64;
                return Err(MapError::BeyondEnd { lba, len: CHUNK_CLUSTERS as u64 });
            }
            let index = index as usize;
            if index >= root.len() {
                root.resize(index + 1, None);
            }
            mapped += u64::from(chunk.mapped());
            let place = &mut root[index];
            mapped -= place.as_ref().map_or(0, |old| u64::from(old.mapped()));
            *place = (chunk.mapped() > 0).then_some(chunk);
        }
        Ok(Map { root: Arc::new(root), mapped })
    }
}

/// Index of the chunk of `lba` and its place there. The index does not wrap on any `lba`.
#[inline]
fn split(lba: u64) -> (usize, usize) {
    ((lba / CHUNK_CLUSTERS as u64) as usize, lba as usize % CHUNK_CLUSTERS)
}

impl PartialEq for Map {
    fn eq(&self, other: &Map) -> bool {
        Arc::ptr_eq(&self.root, &other.root)
            || self.mapped == other.mapped
                && self
                    .chunks()
                    .zip(other.chunks())
                    .all(|((i, a), (j, b))| i == j && (Arc::ptr_eq(a, b) || a == b))
    }
}

impl Eq for Map {}

impl Hash for Map {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.mapped.hash(state);
        self.for_each_run(&mut |lba, len, loc| (lba, len, loc).hash(state));
    }
}

/// Joins what the leaves report into maximal runs and holes.
struct Spans<'a, F> {
    visit: &'a mut F,
    start: u64,
    len: u64,
    loc: Option<Loc>,
}

impl<F: FnMut(u64, u64, Option<Loc>)> Spans<'_, F> {
    fn push(&mut self, lba: u64, len: u64, loc: Loc) {
        let end = self.start + self.len;
        if let Some(before) = self.loc
            && lba == end
            && loc.follows(before, self.len as u32)
        {
            self.len += len;
            return;
        }
        self.flush();
        if lba > end {
            (self.visit)(end, lba - end, None);
        }
        (self.start, self.len, self.loc) = (lba, len, Some(loc));
    }

    fn flush(&mut self) {
        if self.len > 0 {
            (self.visit)(self.start, self.len, self.loc);
        }
    }

    fn finish(mut self, end: u64) {
        self.flush();
        let done = self.start + self.len;
        if done < end {
            (self.visit)(done, end - done, None);
        }
        self.len = 0;
    }
}
