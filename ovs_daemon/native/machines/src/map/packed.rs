//! A leaf as a bitmap of its mapped clusters and 4 bytes for each of them, in order: the small form
//! for random data. Entry *rank(cluster)* belongs to `cluster`, where the rank counts the mapped
//! clusters before it.
//!
//! A cell holds the ordinal and the low half of the SCO number. What is left of a location, the log
//! and the high half of the SCO number, is its *page*. Almost every leaf has one page, which is then
//! stored once: a page is 4 TiB of one log when SCOs are 64 MiB. A leaf whose data is in several
//! (a clone has written here, or the log has grown by terabytes) has a palette of pages and one byte
//! per cluster (5 bytes per cluster). A palette has at most 256 entries; a leaf with more pages
//! stays a list of runs.
//!
//! The number of maximal runs is kept up to date (`links`: neighbours that continue each other), so
//! the choice between this form and the list of runs is exact and costs nothing.

use alloc::boxed::Box;
use alloc::vec::Vec;

use format::chunk::{PackedLeaf, Writer};

use super::LEAF_CLUSTERS;
use super::loc::{Loc, Run};
use super::memory::{allocated, arc_bytes, reserve, trim, vec_bytes};

const WORDS: usize = LEAF_CLUSTERS / 64;
/// Low half of the SCO number in the upper 16 bits, ordinal in the lower.
type Cell = u32;

/// 65536 SCOs of one log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Page {
    log: u16,
    /// Upper half of the SCO number.
    sco_high: u16,
}

impl Page {
    pub(super) fn of(loc: Loc) -> Page {
        Page { log: loc.log, sco_high: (loc.sco >> 16) as u16 }
    }

    #[inline]
    fn loc(self, cell: Cell) -> Loc {
        Loc {
            log: self.log,
            sco: u32::from(self.sco_high) << 16 | cell >> 16,
            ordinal: cell as u16,
        }
    }
}

fn cell(loc: Loc) -> Cell {
    loc.sco << 16 | u32::from(loc.ordinal)
}

#[derive(Clone, Debug)]
pub(super) struct Packed {
    bitmap: [u64; WORDS],
    cells: Vec<Cell>,
    /// Set when the leaf holds data of several pages; `page` is meaningless then.
    mixed: Option<Box<Mixed>>,
    page: Page,
    /// Pairs of neighbours `(n - 1, n)` in which n continues the run of n - 1.
    links: u16,
}

#[derive(Clone, Debug, Default)]
struct Mixed {
    palette: Vec<Shade>,
    /// Index into `palette` for each cell.
    shades: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Shade {
    page: Page,
    clusters: u16,
}

const PALETTE_MAX: usize = 256;

/// Whether `next` is one ordinal after `before` in the same SCO, both of one page: the ordinal is the
/// lower half, so adding one may not carry.
fn follows(next: Cell, before: Cell) -> bool {
    next == before.wrapping_add(1) && next as u16 != 0
}

impl Mixed {
    /// The palette entry of `page`: an existing one, a disused one, or a new one.
    fn shade(&mut self, page: Page) -> Option<u8> {
        let known = self.palette.iter().position(|shade| shade.page == page);
        let known = known.or_else(|| self.palette.iter().position(|shade| shade.clusters == 0));
        let index = match known {
            Some(index) => index,
            None if self.palette.len() < PALETTE_MAX => {
                reserve(&mut self.palette, 1, PALETTE_MAX);
                self.palette.push(Shade { page, clusters: 0 });
                self.palette.len() - 1
            }
            None => return None,
        };
        self.palette[index].page = page;
        Some(index as u8)
    }

    fn bytes(&self) -> usize {
        allocated(size_of::<Mixed>()) + vec_bytes(&self.palette) + vec_bytes(&self.shades)
    }
}

impl Packed {
    /// Bytes of heap that a packed leaf of one page with `clusters` cells takes at least.
    pub(super) const fn bytes_for(clusters: usize) -> usize {
        arc_bytes::<Packed>() + allocated(clusters * size_of::<Cell>())
    }

    /// The packed form of `runs`, or None when they belong to more pages than a palette holds.
    pub(super) fn from_runs(runs: &[Run], clusters: usize) -> Option<Packed> {
        let page = Page::of(runs.first()?.loc());
        let mut packed = Packed {
            bitmap: [0; WORDS],
            cells: Vec::new(),
            mixed: None,
            page,
            links: clusters.saturating_sub(runs.len()) as u16,
        };
        packed.cells.reserve_exact(clusters);
        for run in runs {
            packed.mark(usize::from(run.start), usize::from(run.len));
            let loc = run.loc();
            packed.cells.extend((0..u32::from(run.len)).map(|n| cell(loc.plus(n))));
        }
        if runs.iter().any(|run| Page::of(run.loc()) != page) {
            let mut mixed = Box::<Mixed>::default();
            mixed.shades.reserve_exact(clusters);
            for run in runs {
                let shade = mixed.shade(Page::of(run.loc()))?;
                mixed.palette[usize::from(shade)].clusters += run.len;
                mixed.shades.extend((0..run.len).map(|_| shade));
            }
            packed.mixed = Some(mixed);
        }
        Some(packed)
    }

    pub(super) fn from_record(leaf: &PackedLeaf<'_>) -> Packed {
        let mut packed = Packed {
            bitmap: leaf.bitmap,
            cells: Vec::new(),
            mixed: None,
            page: Page { log: leaf.log, sco_high: leaf.sco_high },
            links: 0,
        };
        packed.cells.reserve_exact(leaf.cells().len());
        packed.cells.extend(leaf.cells());
        packed.links = packed.count_links();
        packed
    }

    fn count_links(&self) -> u16 {
        let (mut links, mut rank, mut before) = (0, 0, 0);
        for bits in self.bitmap {
            // Clusters whose left neighbour is mapped too.
            let mut joined = bits & (bits << 1 | before);
            before = bits >> 63;
            if bits == u64::MAX {
                // All 64 in one loop without branches: opening a volume of 1 TiB runs it 4 million
                // times.
                let cells = &self.cells[rank..rank + 64];
                let pairs = cells.iter().zip(&cells[1..]);
                links += pairs.map(|(cell, next)| u16::from(follows(*next, *cell))).sum::<u16>();
                joined &= 1;
            }
            while joined != 0 {
                let lowest = joined & joined.wrapping_neg();
                let at = rank + (bits & (lowest - 1)).count_ones() as usize;
                links += u16::from(follows(self.cells[at], self.cells[at - 1]));
                joined &= joined - 1;
            }
            rank += bits.count_ones() as usize;
        }
        links
    }

    /// Adds the leaf to a chunk's record.
    pub(super) fn encode(&self, leaf: u8, writer: &mut Writer<'_>) {
        if self.mixed.is_none() {
            let page = (self.page.log, self.page.sco_high);
            writer.packed(leaf, page, &self.bitmap, self.cells.iter().copied());
            return;
        }
        let cells = (0..self.cells.len()).map(|rank| {
            let Loc { log, sco, ordinal } = self.loc(rank);
            (log, sco, ordinal)
        });
        writer.mixed(leaf, &self.bitmap, cells);
    }

    pub(super) fn bytes(&self) -> usize {
        let mixed = self.mixed.as_ref().map_or(0, |mixed| mixed.bytes());
        arc_bytes::<Packed>() + vec_bytes(&self.cells) + mixed
    }

    pub(super) fn clusters(&self) -> usize {
        self.cells.len()
    }

    /// Number of maximal runs.
    pub(super) fn run_count(&self) -> usize {
        self.cells.len() - usize::from(self.links)
    }

    #[inline]
    fn has(&self, cluster: usize) -> bool {
        self.bitmap[cluster / 64] >> (cluster % 64) & 1 != 0
    }

    /// Mapped clusters before `cluster` (0..=512).
    #[inline]
    fn rank(&self, cluster: usize) -> usize {
        if self.cells.len() == LEAF_CLUSTERS {
            return cluster;
        }
        let word = cluster / 64;
        let full: u32 = self.bitmap[..word].iter().map(|bits| bits.count_ones()).sum();
        let part = match self.bitmap.get(word) {
            Some(bits) => (bits & ((1 << (cluster % 64)) - 1)).count_ones(),
            None => 0,
        };
        (full + part) as usize
    }

    #[inline]
    fn loc(&self, rank: usize) -> Loc {
        let page = match &self.mixed {
            None => self.page,
            Some(mixed) => mixed.palette[usize::from(mixed.shades[rank])].page,
        };
        page.loc(self.cells[rank])
    }

    #[inline]
    pub(super) fn get(&self, cluster: usize) -> Option<Loc> {
        self.has(cluster).then(|| self.loc(self.rank(cluster)))
    }

    /// Whether `cluster`, whose rank is `rank`, continues the run of its left neighbour.
    #[inline]
    fn linked(&self, cluster: usize, rank: usize) -> bool {
        if cluster == 0 || cluster >= LEAF_CLUSTERS || !self.has(cluster) || !self.has(cluster - 1)
        {
            return false;
        }
        self.loc(rank).follows(self.loc(rank - 1), 1)
    }

    pub(super) fn touches(&self, from: usize, to: usize) -> bool {
        (from..to).any(|cluster| self.has(cluster))
    }

    /// Calls `visit` with the maximal runs of `[from, to)`, in order.
    pub(super) fn for_each(&self, from: usize, to: usize, visit: &mut impl FnMut(Run)) {
        let mut pending: Option<Run> = None;
        let mut rank = self.rank(from);
        for cluster in from..to {
            if !self.has(cluster) {
                continue;
            }
            let single = Run::new(cluster, 1, self.loc(rank));
            rank += 1;
            match &mut pending {
                Some(run) if single.continues(run) => run.len += 1,
                _ => {
                    if let Some(run) = pending.replace(single) {
                        visit(run);
                    }
                }
            }
        }
        if let Some(run) = pending {
            visit(run);
        }
    }

    /// Whether data of `page` can be stored in this form; when not, the caller turns it into runs.
    pub(super) fn accepts(&self, page: Page) -> bool {
        self.mixed.as_ref().is_none_or(|mixed| {
            mixed.palette.len() < PALETTE_MAX
                || mixed.palette.iter().any(|shade| shade.page == page || shade.clusters == 0)
        })
    }

    /// Overwrites one mapped cluster in a leaf of one page and returns its old location; None when
    /// this is another case, for `replace`. A map of random data spends its time here.
    #[inline]
    pub(super) fn overwrite(&mut self, cluster: usize, new: Loc) -> Option<Loc> {
        if !self.has(cluster) || self.mixed.is_some() || Page::of(new) != self.page {
            return None;
        }
        let rank = self.rank(cluster);
        let place = self.cells.get_mut(rank)?;
        let (old, fresh) = (*place, cell(new));
        *place = fresh;
        if rank > 0 && cluster > 0 && self.has(cluster - 1) {
            let before = self.cells[rank - 1];
            self.links += u16::from(follows(fresh, before));
            self.links -= u16::from(follows(old, before));
        }
        if cluster + 1 < LEAF_CLUSTERS && self.has(cluster + 1) {
            let after = self.cells[rank + 1];
            self.links += u16::from(follows(after, fresh));
            self.links -= u16::from(follows(after, old));
        }
        Some(self.page.loc(old))
    }

    /// Puts `new` (or nothing) at `[start, start + len)`, reports what was there, and returns how
    /// many clusters that was. The caller has asked `accepts`.
    pub(super) fn replace(
        &mut self,
        start: usize,
        len: usize,
        new: Option<Loc>,
        displaced: &mut impl FnMut(Loc, u32),
    ) -> usize {
        let end = start + len;
        let first = self.rank(start);
        let (mut removed, mut lost) = (0, 0);
        self.for_each(start, end, &mut |run| {
            removed += usize::from(run.len);
            lost += usize::from(run.len) - 1;
            displaced(run.loc(), u32::from(run.len));
        });
        lost += usize::from(self.linked(start, first));
        lost += usize::from(self.linked(end, first + removed));
        self.forget_shades(first, removed);

        let mut gained = 0;
        match new {
            Some(loc) => {
                resize_cells(&mut self.cells, first, removed, len);
                for (n, place) in self.cells[first..first + len].iter_mut().enumerate() {
                    *place = cell(loc.plus(n as u32));
                }
                self.mark(start, len);
                self.record_shades(first, removed, len, Page::of(loc));
                gained += len - 1;
                gained += usize::from(self.linked(start, first));
                gained += usize::from(self.linked(end, first + len));
            }
            None => {
                resize_cells(&mut self.cells, first, removed, 0);
                if let Some(mixed) = &mut self.mixed {
                    resize_cells(&mut mixed.shades, first, removed, 0);
                }
                self.clear(start, len);
                self.settle_shades();
            }
        }
        self.links = (usize::from(self.links) + gained - lost) as u16;
        removed
    }

    fn mark(&mut self, start: usize, len: usize) {
        for_words(start, len, |word, mask| self.bitmap[word] |= mask);
    }

    fn clear(&mut self, start: usize, len: usize) {
        for_words(start, len, |word, mask| self.bitmap[word] &= !mask);
    }

    /// Takes the cells `[first, first + count)` out of the palette's counts.
    fn forget_shades(&mut self, first: usize, count: usize) {
        if let Some(mixed) = &mut self.mixed {
            for shade in &mixed.shades[first..first + count] {
                mixed.palette[usize::from(*shade)].clusters -= 1;
            }
        }
    }

    /// Says that the cells `[first, first + len)`, which took the place of `removed`, are of `page`.
    fn record_shades(&mut self, first: usize, removed: usize, len: usize, page: Page) {
        if self.mixed.is_none() {
            if page == self.page || self.cells.len() == len {
                self.page = page;
                return;
            }
            let before = self.cells.len() + removed - len;
            let mut mixed = Box::<Mixed>::default();
            mixed.palette.push(Shade { page: self.page, clusters: (before - removed) as u16 });
            mixed.shades.resize(before, 0);
            self.mixed = Some(mixed);
        }
        if let Some(mixed) = &mut self.mixed {
            resize_cells(&mut mixed.shades, first, removed, len);
            // `accepts` was asked before the call, so there is an entry for this page.
            let shade = mixed.shade(page).unwrap_or_default();
            mixed.palette[usize::from(shade)].clusters += len as u16;
            mixed.shades[first..first + len].fill(shade);
        }
        self.settle_shades();
    }

    /// Drops the palette when one page is left, or none.
    fn settle_shades(&mut self) {
        let Some(mixed) = &self.mixed else { return };
        let mut used = mixed.palette.iter().filter(|shade| shade.clusters > 0);
        let first = used.next();
        if used.next().is_none() {
            self.page = first.map_or(self.page, |shade| shade.page);
            self.mixed = None;
        }
    }
}

/// Makes the `old` elements at `first` into `new` elements, whose values the caller writes.
fn resize_cells<T: Copy + Default>(cells: &mut Vec<T>, first: usize, old: usize, new: usize) {
    if new > old {
        let (len, extra) = (cells.len(), new - old);
        reserve(cells, extra, LEAF_CLUSTERS);
        cells.resize(len + extra, T::default());
        cells.copy_within(first + old..len, first + new);
    } else if new < old {
        cells.drain(first + new..first + old);
        trim(cells);
    }
}

/// Calls `visit` with each word of a bitmap that `[start, start + len)` touches and its mask.
fn for_words(start: usize, len: usize, mut visit: impl FnMut(usize, u64)) {
    let end = start + len;
    for word in start / 64..end.div_ceil(64) {
        let from = start.saturating_sub(word * 64);
        let to = (end - word * 64).min(64);
        visit(word, (u64::MAX >> (64 - (to - from))) << from);
    }
}

#[cfg(test)]
#[path = "packed_tests.rs"]
mod tests;
