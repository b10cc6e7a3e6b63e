//! From a client's byte ranges to operations on whole clusters.
//!
//! Parts of clusters are read, changed and written (read-modify-write). While one such write waits
//! for its read, everything behind it waits too: the order of writes to a cluster stays the order
//! in which they came, without any table of locks. Aligned writes, the ones that matter, never wait.

use edge::target::{Request, RequestId, Verb};
use format::log::PAGE;
use media::Slice;

const PAGE64: u64 = PAGE as u64;

/// Who is told about the end of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A front end.
    Client(RequestId),
    /// A request that was cut into several operations; number of its group.
    Group(u32),
    /// A control request; its ticket.
    Control(u64),
    /// Compaction.
    Move,
}

/// A write in the order in which it came.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    /// Bytes at any offset, at most the machine's operation size.
    Write { owner: Owner, offset: u64, data: Slice, fua: bool },
    /// Whole clusters to forget.
    Forget { owner: Owner, lba: u64, clusters: u32, fua: bool },
    /// Wait for durability.
    Flush { owner: Owner },
    /// Snapshot, its deletion, revert: passed on as they are.
    Control { owner: Owner, verb: machines::volume::Verb },
}

/// True when the range consists of whole clusters.
pub(crate) fn is_aligned(offset: u64, len: usize) -> bool {
    offset.is_multiple_of(PAGE64) && len.is_multiple_of(PAGE)
}

/// The clusters that a byte range touches: first, and how many.
pub(crate) fn covering(offset: u64, len: u64) -> (u64, u64) {
    let first = offset / PAGE64;
    (first, (offset + len).div_ceil(PAGE64) - first)
}

/// Cuts a write into items of at most `clusters_max` clusters, on cluster boundaries.
pub(crate) fn cut_write(
    offset: u64,
    data: &Slice,
    fua: bool,
    clusters_max: u32,
    owner: Owner,
    out: &mut Vec<Item>,
) {
    let bytes_max = clusters_max as usize * PAGE;
    let mut at = 0;
    while at < data.len() {
        let start = offset + at as u64;
        let into_cluster = (start % PAGE64) as usize;
        let len = (bytes_max - into_cluster).min(data.len() - at);
        out.push(Item::Write { owner, offset: start, data: data.sub(at, len), fua });
        at += len;
    }
}

/// Cuts a range to be zeroed into whole clusters and the parts of clusters at its ends. `zero`:
/// parts of clusters must read as zeroes too (a trim may leave them alone).
pub(crate) fn cut_zeroes(
    offset: u64,
    len: u64,
    fua: bool,
    zero: Option<&Slice>,
    owner: Owner,
    out: &mut Vec<Item>,
) {
    let end = offset + len;
    let first_whole = offset.div_ceil(PAGE64) * PAGE64;
    let end_whole = end / PAGE64 * PAGE64;
    let part = |from: u64, to: u64, out: &mut Vec<Item>| {
        if let Some(zero) = zero
            && from < to
        {
            let data = zero.sub(0, (to - from) as usize);
            out.push(Item::Write { owner, offset: from, data, fua });
        }
    };
    if first_whole >= end_whole {
        // No whole cluster: one part, or two in neighbouring clusters.
        let middle = first_whole.clamp(offset, end);
        part(offset, middle, out);
        part(middle, end, out);
        return;
    }
    part(offset, first_whole, out);
    let (mut lba, end_lba) = (first_whole / PAGE64, end_whole / PAGE64);
    while lba < end_lba {
        let clusters = (end_lba - lba).min(1 << 30) as u32;
        out.push(Item::Forget { owner, lba, clusters, fua });
        lba += u64::from(clusters);
    }
    part(end_whole, end, out);
}

/// Length in bytes of what a request is about.
pub(crate) fn length(request: &Request) -> u64 {
    match &request.verb {
        Verb::Read(slice) => slice.len() as u64,
        Verb::Write { data, .. } => data.len() as u64,
        Verb::Trim { len, .. } | Verb::WriteZeroes { len, .. } => *len,
        Verb::BlockStatus { len } => u64::from(*len),
        Verb::Flush => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(items: &[Item]) -> Vec<(char, u64, u64)> {
        let describe = |item: &Item| match item {
            Item::Write { offset, data, .. } => ('w', *offset, data.len() as u64),
            Item::Forget { lba, clusters, .. } => {
                ('f', lba * PAGE64, u64::from(*clusters) * PAGE64)
            }
            _ => unreachable!("only these two are made here"),
        };
        items.iter().map(describe).collect()
    }

    #[test]
    fn every_cut_covers_the_range_once_and_within_bounds() {
        let data = Slice::zeroed(40 * PAGE).unwrap();
        let zero = Slice::zeroed(PAGE).unwrap();
        for offset in [0u64, 1, 511, 4095, 4096, 4097, 8191] {
            for len in [1usize, 2, 4095, 4096, 4097, 8192, 12_287, 20 * PAGE, 30 * PAGE + 7] {
                let mut items = Vec::new();
                cut_write(offset, &data.sub(0, len), false, 4, Owner::Move, &mut items);
                let mut zeroes = Vec::new();
                cut_zeroes(offset, len as u64, false, Some(&zero), Owner::Move, &mut zeroes);
                for list in [&items, &zeroes] {
                    let mut at = offset;
                    for (kind, start, length) in ranges(list) {
                        assert_eq!(start, at, "{offset} {len}");
                        let (_, clusters) = covering(start, length);
                        assert!(kind == 'f' || clusters <= 4);
                        at += length;
                    }
                    assert_eq!(at, offset + len as u64);
                }
                let trims = |items: &[Item]| items.iter().all(|i| matches!(i, Item::Forget { .. }));
                zeroes.clear();
                cut_zeroes(offset, len as u64, false, None, Owner::Move, &mut zeroes);
                assert!(trims(&zeroes));
            }
        }
    }
}
