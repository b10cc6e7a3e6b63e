//! 128 leaves (256 MiB of the volume): the unit that a checkpoint stores.

use alloc::sync::Arc;
use alloc::vec::Vec;

use format::chunk::{self, ChunkError, Extent, PackedLeaf, Visitor, Writer};

use super::loc::{Loc, Run};
use super::memory::arc_bytes;
use super::packed::Packed;
use super::slot::Slot;
use super::stored::{Stored, StoredCell};
use super::{CHUNK_CLUSTERS, CHUNK_LEAVES, LEAF_CLUSTERS};

/// The map of 65536 consecutive clusters. Positions inside a chunk are cluster numbers from its
/// start.
#[derive(Debug)]
pub struct Chunk {
    slots: [Slot; CHUNK_LEAVES],
    /// Mapped clusters.
    clusters: u32,
    /// Heap bytes of the leaves.
    leaf_bytes: u32,
    stored: StoredCell,
}

/// A copy is made in order to be changed, so it starts without an address.
impl Clone for Chunk {
    fn clone(&self) -> Chunk {
        Chunk {
            slots: self.slots.clone(),
            clusters: self.clusters,
            leaf_bytes: self.leaf_bytes,
            stored: StoredCell::default(),
        }
    }
}

impl Default for Chunk {
    fn default() -> Chunk {
        Chunk::new()
    }
}

impl Chunk {
    /// An empty chunk.
    pub fn new() -> Chunk {
        Chunk {
            slots: [const { Slot::Empty }; CHUNK_LEAVES],
            clusters: 0,
            leaf_bytes: 0,
            stored: StoredCell::default(),
        }
    }

    /// Number of mapped clusters.
    pub fn mapped(&self) -> u32 {
        self.clusters
    }

    /// Heap bytes of the chunk and its leaves, allocator overhead included.
    pub fn memory(&self) -> usize {
        arc_bytes::<Chunk>() + self.leaf_bytes as usize
    }

    /// Where this chunk, exactly as it is, was last stored; None when it was changed since, or
    /// never stored, or when another thread is setting the address right now (see `set_stored`).
    pub fn stored(&self) -> Option<Stored> {
        self.stored.get()
    }

    /// Remembers where this chunk is stored. Works through a shared reference, because a checkpoint
    /// is written from a clone of the map; a chunk that the owner has changed meanwhile is another
    /// chunk by then and keeps its None. Returns false (and keeps the other's address) when two
    /// threads do this at once.
    ///
    /// All maps that share the chunk see the address, those of other volumes (clones, siblings)
    /// too: who reads one must ask whether the object of that log stays while it is referred to.
    pub fn set_stored(&self, stored: Stored) -> bool {
        self.stored.set(stored)
    }

    /// Calls `visit(start, len, loc)` with the maximal runs of the chunk, in order.
    pub fn for_each_run(&self, mut visit: impl FnMut(u32, u32, Loc)) {
        let mut pending: Option<(u32, u32, Loc)> = None;
        for (index, slot) in self.slots.iter().enumerate() {
            let base = (index * LEAF_CLUSTERS) as u32;
            slot.for_each(0, LEAF_CLUSTERS, &mut |run| {
                let (start, len) = (base + u32::from(run.start), u32::from(run.len));
                if let Some((at, count, loc)) = &mut pending
                    && *at + *count == start
                    && run.loc().follows(*loc, *count)
                {
                    *count += len;
                } else if let Some((at, count, loc)) = pending.replace((start, len, run.loc())) {
                    visit(at, count, loc);
                }
            });
        }
        if let Some((at, count, loc)) = pending {
            visit(at, count, loc);
        }
    }

    /// Appends the chunk's record (`format::chunk`) to `out`; returns its number of bytes.
    pub fn encode(&self, index: u32, out: &mut Vec<u8>) -> usize {
        let mut writer = Writer::new(index, out);
        for (leaf, slot) in self.slots.iter().enumerate() {
            slot.encode(leaf as u8, &mut writer);
        }
        writer.finish()
    }

    /// Reads a chunk's record; returns the chunk and its index in the map.
    pub fn decode(bytes: &[u8]) -> Result<(u32, Chunk), ChunkError> {
        let record = chunk::decode(bytes)?;
        let mut builder = Builder::new();
        record.visit(&mut builder);
        Ok((record.index(), builder.finish()))
    }

    #[inline]
    pub(super) fn get(&self, cluster: usize) -> Option<Loc> {
        self.slots[cluster / LEAF_CLUSTERS].get(cluster % LEAF_CLUSTERS)
    }

    pub(super) fn slot(&self, leaf: usize) -> &Slot {
        &self.slots[leaf]
    }

    /// Calls `visit(leaf, from, to)` for the parts of `[start, start + len)` in each leaf.
    pub(super) fn parts(start: usize, len: usize) -> impl Iterator<Item = (usize, usize, usize)> {
        let end = start + len;
        (start / LEAF_CLUSTERS..end.div_ceil(LEAF_CLUSTERS)).map(move |leaf| {
            let base = leaf * LEAF_CLUSTERS;
            (leaf, start.saturating_sub(base), (end - base).min(LEAF_CLUSTERS))
        })
    }

    /// Whether any cluster of `[start, start + len)` is mapped.
    pub(super) fn touches(&self, start: usize, len: usize) -> bool {
        Chunk::parts(start, len).any(|(leaf, from, to)| self.slots[leaf].touches(from, to))
    }

    /// Puts `new` (or nothing) at `[start, start + len)`; returns how many clusters were there.
    pub(super) fn replace(
        &mut self,
        start: usize,
        len: usize,
        new: Option<Loc>,
        displaced: &mut impl FnMut(Loc, u32),
    ) -> usize {
        debug_assert!(len > 0 && start + len <= CHUNK_CLUSTERS, "the map splits at chunks");
        self.stored.clear();
        let mut removed = 0;
        for (leaf, from, to) in Chunk::parts(start, len) {
            let slot = &mut self.slots[leaf];
            let done = (leaf * LEAF_CLUSTERS + from - start) as u32;
            let before = slot.bytes();
            removed += slot.replace(from, to - from, new.map(|loc| loc.plus(done)), displaced);
            self.leaf_bytes = self.leaf_bytes - before as u32 + slot.bytes() as u32;
        }
        let added = if new.is_some() { len } else { 0 };
        self.clusters = self.clusters + added as u32 - removed as u32;
        removed
    }
}

impl PartialEq for Chunk {
    /// Whether both map the same clusters to the same locations, in whatever form.
    fn eq(&self, other: &Chunk) -> bool {
        self.clusters == other.clusters
            && core::iter::zip(&self.slots, &other.slots)
                .all(|(a, b)| a.same(b) || a.list() == b.list())
    }
}

impl Eq for Chunk {}

/// Builds a chunk from its record, each leaf at once.
struct Builder {
    chunk: Chunk,
    /// The leaf that `runs` belong to, and their clusters.
    leaf: usize,
    runs: Vec<Run>,
    clusters: usize,
}

impl Builder {
    fn new() -> Builder {
        Builder {
            chunk: Chunk::new(),
            leaf: 0,
            runs: Vec::with_capacity(LEAF_CLUSTERS),
            clusters: 0,
        }
    }

    fn add(&mut self, leaf: usize, run: Run) {
        if leaf != self.leaf {
            self.flush();
            self.leaf = leaf;
        }
        match self.runs.last_mut() {
            Some(last) if run.continues(last) => last.len += run.len,
            _ => self.runs.push(run),
        }
        self.clusters += usize::from(run.len);
    }

    fn flush(&mut self) {
        let slot = &mut self.chunk.slots[self.leaf];
        let before = slot.bytes();
        if matches!(slot, Slot::Empty) {
            *slot = Slot::from_runs(&self.runs, self.clusters);
        } else {
            // Another section had a part of this leaf.
            for run in &self.runs {
                let (start, len) = (usize::from(run.start), usize::from(run.len));
                slot.replace(start, len, Some(run.loc()), &mut |_, _| {});
            }
        }
        self.chunk.clusters += self.clusters as u32;
        self.chunk.leaf_bytes = self.chunk.leaf_bytes - before as u32 + slot.bytes() as u32;
        self.runs.clear();
        self.clusters = 0;
    }

    fn finish(mut self) -> Chunk {
        self.flush();
        self.chunk
    }
}

impl Visitor for Builder {
    fn extent(&mut self, extent: Extent) {
        let Extent { start, len, log, sco, ordinal } = extent;
        let (loc, start) = (Loc { log, sco, ordinal }, usize::from(start));
        for (leaf, from, to) in Chunk::parts(start, len as usize) {
            let done = (leaf * LEAF_CLUSTERS + from - start) as u32;
            self.add(leaf, Run::new(from, to - from, loc.plus(done)));
        }
    }

    fn packed(&mut self, leaf: PackedLeaf<'_>) {
        self.flush();
        self.leaf = usize::from(leaf.leaf);
        let packed = Packed::from_record(&leaf);
        if matches!(self.chunk.slots[self.leaf], Slot::Empty) {
            self.chunk.clusters += packed.clusters() as u32;
            let slot = Slot::from_packed(packed);
            self.chunk.leaf_bytes += slot.bytes() as u32;
            self.chunk.slots[self.leaf] = slot;
        } else {
            let leaf = self.leaf;
            packed.for_each(0, LEAF_CLUSTERS, &mut |run| self.add(leaf, run));
        }
    }
}

/// The chunk for writing: the one itself when nobody shares it, else a copy.
#[inline]
pub(super) fn for_writing(place: &mut Option<Arc<Chunk>>) -> &mut Chunk {
    Arc::make_mut(place.get_or_insert_with(|| Arc::new(Chunk::new())))
}
