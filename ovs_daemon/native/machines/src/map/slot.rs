//! One leaf (512 clusters, 2 MiB of the volume) in the smallest of its forms.
//!
//! | form     | holds                                    | heap bytes              |
//! |----------|------------------------------------------|-------------------------|
//! | `Empty`  | nothing                                  | 0                       |
//! | `Run`    | 512 clusters at consecutive ordinals     | 0                       |
//! | `Runs`   | a list of runs                           | 48 + 12 per run         |
//! | `Packed` | a bitmap and a cell per mapped cluster   | 128 + 4 (5) per cluster |
//!
//! A leaf changes its form when another one would be smaller by `HYSTERESIS_BYTES`; that is some ten
//! writes' worth of change, so no sequence of writes converts it at every step.

use alloc::sync::Arc;
use alloc::vec::Vec;

use format::chunk::{Extent, Writer};

use super::LEAF_CLUSTERS;
use super::loc::{Loc, Run};
use super::memory::{allocated, arc_bytes, reserve, vec_bytes};
use super::packed::{Packed, Page};
use super::runs;

const HYSTERESIS_BYTES: usize = 96;

#[derive(Clone, Debug)]
pub(super) enum Slot {
    Empty,
    Run(Loc),
    /// Number of mapped clusters (it fits into the slot's padding) and the list.
    Runs(u16, Arc<Vec<Run>>),
    Packed(Arc<Packed>),
}

const _: () = assert!(size_of::<Slot>() == 16 && size_of::<Run>() == 12 && size_of::<Loc>() == 8);

fn runs_bytes_for(runs: usize) -> usize {
    arc_bytes::<Vec<Run>>() + allocated(runs * size_of::<Run>())
}

impl Slot {
    /// The leaf that holds `list` (sorted, maximal runs) with `clusters` clusters in total.
    pub(super) fn from_runs(list: &[Run], clusters: usize) -> Slot {
        if list.is_empty() {
            return Slot::Empty;
        }
        if clusters == LEAF_CLUSTERS && list.len() == 1 {
            return Slot::Run(list[0].loc());
        }
        if runs_bytes_for(list.len()) > Packed::bytes_for(clusters)
            && let Some(packed) = Packed::from_runs(list, clusters)
        {
            return Slot::Packed(Arc::new(packed));
        }
        Slot::Runs(clusters as u16, Arc::new(list.to_vec()))
    }

    pub(super) fn from_packed(packed: Packed) -> Slot {
        let mut slot = Slot::Packed(Arc::new(packed));
        slot.settle();
        slot
    }

    /// Adds the leaf to a chunk's record, in the form that it has in memory.
    pub(super) fn encode(&self, leaf: u8, writer: &mut Writer<'_>) {
        let base = u16::from(leaf) * LEAF_CLUSTERS as u16;
        match self {
            Slot::Packed(packed) => packed.encode(leaf, writer),
            _ => self.for_each(0, LEAF_CLUSTERS, &mut |run| {
                let Loc { log, sco, ordinal } = run.loc();
                let (start, len) = (base + run.start, u32::from(run.len));
                writer.run(Extent { start, len, log, sco, ordinal });
            }),
        }
    }

    #[inline]
    pub(super) fn get(&self, cluster: usize) -> Option<Loc> {
        match self {
            Slot::Empty => None,
            Slot::Run(loc) => Some(loc.plus(cluster as u32)),
            Slot::Runs(_, list) => runs::get(list, cluster),
            Slot::Packed(packed) => packed.get(cluster),
        }
    }

    /// Calls `visit` with the maximal runs of `[from, to)`, in order.
    pub(super) fn for_each(&self, from: usize, to: usize, visit: &mut impl FnMut(Run)) {
        match self {
            Slot::Empty => {}
            Slot::Run(loc) => visit(Run::new(from, to - from, loc.plus(from as u32))),
            Slot::Runs(_, list) => runs::within(list, from, to).for_each(visit),
            Slot::Packed(packed) => packed.for_each(from, to, visit),
        }
    }

    /// Whether any cluster of `[from, to)` is mapped.
    pub(super) fn touches(&self, from: usize, to: usize) -> bool {
        match self {
            Slot::Empty => false,
            Slot::Run(_) => true,
            Slot::Runs(_, list) => runs::within(list, from, to).next().is_some(),
            Slot::Packed(packed) => packed.touches(from, to),
        }
    }

    /// Heap bytes of this leaf, the allocator's overhead included.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Slot::Empty | Slot::Run(_) => 0,
            Slot::Runs(_, list) => arc_bytes::<Vec<Run>>() + vec_bytes(list),
            Slot::Packed(packed) => packed.bytes(),
        }
    }

    /// Whether both are the same leaf in memory (or the same whole run).
    pub(super) fn same(&self, other: &Slot) -> bool {
        match (self, other) {
            (Slot::Empty, Slot::Empty) => true,
            (Slot::Run(a), Slot::Run(b)) => a == b,
            (Slot::Runs(_, a), Slot::Runs(_, b)) => Arc::ptr_eq(a, b),
            (Slot::Packed(a), Slot::Packed(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// The maximal runs of the leaf.
    pub(super) fn list(&self) -> Vec<Run> {
        let mut list = Vec::new();
        self.for_each(0, LEAF_CLUSTERS, &mut |run| list.push(run));
        list
    }

    /// Puts `new` (or nothing) at `[start, start + len)`, reports what was there in order, and
    /// returns how many clusters that was. A leaf that others share is copied first.
    pub(super) fn replace(
        &mut self,
        start: usize,
        len: usize,
        new: Option<Loc>,
        displaced: &mut impl FnMut(Loc, u32),
    ) -> usize {
        if len == LEAF_CLUSTERS {
            let mut removed = 0;
            self.for_each(0, LEAF_CLUSTERS, &mut |run| {
                removed += usize::from(run.len);
                displaced(run.loc(), u32::from(run.len));
            });
            *self = new.map_or(Slot::Empty, Slot::Run);
            return removed;
        }
        if let (Slot::Packed(packed), Some(loc), 1) = (&mut *self, new, len)
            && let Some(old) = Arc::make_mut(packed).overwrite(start, loc)
        {
            displaced(old, 1);
            self.settle();
            return 1;
        }
        if let (Slot::Packed(packed), Some(loc)) = (&*self, new)
            && !packed.accepts(Page::of(loc))
        {
            *self = Slot::runs_of(packed);
        }
        let removed = match self {
            Slot::Empty => match new {
                Some(loc) => {
                    let list = Vec::from([Run::new(start, len, loc)]);
                    *self = Slot::Runs(len as u16, Arc::new(list));
                    return 0;
                }
                None => return 0,
            },
            Slot::Run(loc) => {
                let whole = *loc;
                displaced(whole.plus(start as u32), len as u32);
                if new != Some(whole.plus(start as u32)) {
                    *self = Slot::split(whole, start, len, new);
                }
                return len;
            }
            Slot::Runs(clusters, list) => {
                let removed = runs::replace(Arc::make_mut(list), start, len, new, displaced);
                let added = if new.is_some() { len } else { 0 };
                *clusters = (usize::from(*clusters) + added - removed) as u16;
                removed
            }
            Slot::Packed(packed) => Arc::make_mut(packed).replace(start, len, new, displaced),
        };
        self.settle();
        removed
    }

    /// A whole run after `[start, start + len)` of it was replaced by something else, which can
    /// therefore continue neither side.
    fn split(whole: Loc, start: usize, len: usize, new: Option<Loc>) -> Slot {
        let end = start + len;
        let parts = [
            (0, start, Some(whole)),
            (start, len, new),
            (end, LEAF_CLUSTERS - end, Some(whole.plus(end as u32))),
        ];
        let mut list = Vec::new();
        list.reserve_exact(parts.len());
        for (start, len, loc) in parts {
            if let (Some(loc), true) = (loc, len > 0) {
                list.push(Run::new(start, len, loc));
            }
        }
        let clusters = list.iter().map(|run| run.len).sum();
        Slot::Runs(clusters, Arc::new(list))
    }

    /// Changes the form when another one is smaller by enough.
    #[inline]
    fn settle(&mut self) {
        match self {
            Slot::Empty | Slot::Run(_) => {}
            Slot::Runs(clusters, list) => {
                let (clusters, count) = (usize::from(*clusters), list.len());
                if count == 0 {
                    *self = Slot::Empty;
                } else if count == 1 && clusters == LEAF_CLUSTERS {
                    *self = Slot::Run(list[0].loc());
                } else if runs_bytes_for(count) > Packed::bytes_for(clusters) + HYSTERESIS_BYTES
                    && let Some(packed) = Packed::from_runs(list, clusters)
                {
                    *self = Slot::Packed(Arc::new(packed));
                }
            }
            Slot::Packed(packed) => {
                let (clusters, count) = (packed.clusters(), packed.run_count());
                if clusters == 0 {
                    *self = Slot::Empty;
                } else if runs_bytes_for(count) + HYSTERESIS_BYTES < Packed::bytes_for(clusters) {
                    *self = Slot::runs_of(packed);
                    self.settle();
                }
            }
        }
    }

    fn runs_of(packed: &Packed) -> Slot {
        let mut list = Vec::new();
        reserve(&mut list, packed.run_count(), LEAF_CLUSTERS);
        packed.for_each(0, LEAF_CLUSTERS, &mut |run| list.push(run));
        Slot::Runs(packed.clusters() as u16, Arc::new(list))
    }
}
