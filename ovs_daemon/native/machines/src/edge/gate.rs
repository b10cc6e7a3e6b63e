//! Which bytes have a write on its way, in counters that answer "none of these" at once.

use alloc::vec;
use alloc::vec::Vec;

use format::edge::Command;

/// log2 of the bytes that one cell of the volume has.
const CELL_SHIFT: u32 = 12;
/// Counters; cells that are so many apart share one.
const COUNTERS: u64 = 256;

/// Counters of writes on their way, by 4 KiB cell modulo [`COUNTERS`]. Two writes that overlap
/// always share a counter; two that share a counter may still be apart, so a hit is looked at
/// closely ([`overlap`]).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Gate {
    counters: Vec<u16>,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self { counters: vec![0; COUNTERS as usize] }
    }

    /// A write of this range is on its way.
    pub(super) fn enter(&mut self, command: &Command) {
        for cell in cells(command) {
            self.counters[(cell % COUNTERS) as usize] += 1;
        }
    }

    /// It has arrived.
    pub(super) fn exit(&mut self, command: &Command) {
        for cell in cells(command) {
            self.counters[(cell % COUNTERS) as usize] -= 1;
        }
    }

    /// True when some write on its way may touch the same bytes.
    pub(super) fn may_conflict(&self, command: &Command) -> bool {
        cells(command).any(|cell| self.counters[(cell % COUNTERS) as usize] != 0)
    }

    pub(super) fn clear(&mut self) {
        self.counters.fill(0);
    }
}

/// Cells that a command touches; at most [`COUNTERS`] of them, which is all counters.
fn cells(command: &Command) -> impl Iterator<Item = u64> {
    let first = command.offset >> CELL_SHIFT;
    let end = command.offset.saturating_add(command.length);
    let last = end.saturating_sub(1) >> CELL_SHIFT;
    let count = if command.length == 0 { 0 } else { (last - first + 1).min(COUNTERS) };
    (0..count).map(move |at| first.wrapping_add(at))
}

/// True when two ranges share a byte.
pub(super) fn overlap(a: &Command, b: &Command) -> bool {
    let end = |c: &Command| c.offset.saturating_add(c.length);
    a.offset < end(b) && b.offset < end(a)
}
