//! A leaf as a sorted list of runs: the general form, small while data is sequential.

use alloc::vec::Vec;

use super::LEAF_CLUSTERS;
use super::loc::{Loc, Run};
use super::memory::{reserve, trim};

/// Index of the first run that ends after `cluster`.
#[inline]
fn first_ending_after(list: &[Run], cluster: usize) -> usize {
    list.partition_point(|run| run.end() <= cluster)
}

pub(super) fn get(list: &[Run], cluster: usize) -> Option<Loc> {
    let run = list.get(first_ending_after(list, cluster))?;
    let inside = cluster.checked_sub(usize::from(run.start))?;
    Some(run.loc().plus(inside as u32))
}

/// The runs that touch `[from, to)`, clipped to it.
pub(super) fn within(list: &[Run], from: usize, to: usize) -> impl Iterator<Item = Run> {
    let rest = list.get(first_ending_after(list, from)..).unwrap_or_default();
    rest.iter()
        .take_while(move |run| usize::from(run.start) < to)
        .map(move |run| run.clip(from, to))
}

/// Puts `new` (or nothing) at `[start, start + len)`, reports what was there, and returns how many
/// clusters that was. Neighbours that become one run are merged, so the list stays maximal.
pub(super) fn replace(
    list: &mut Vec<Run>,
    start: usize,
    len: usize,
    new: Option<Loc>,
    displaced: &mut impl FnMut(Loc, u32),
) -> usize {
    let end = start + len;
    let mut first = first_ending_after(list, start);
    let mut last = first + list[first..].iter().take_while(|r| usize::from(r.start) < end).count();
    let mut removed = 0;
    for run in &list[first..last] {
        let gone = run.clip(start, end);
        removed += usize::from(gone.len);
        displaced(gone.loc(), u32::from(gone.len));
    }

    let mut pieces = Pieces::new();
    if first < last && usize::from(list[first].start) < start {
        pieces.push(list[first].clip(0, start));
    } else if new.is_some() && first > 0 && list[first - 1].end() == start {
        first -= 1;
        pieces.push(list[first]);
    }
    if let Some(loc) = new {
        pieces.push(Run::new(start, len, loc));
    }
    if first < last && list[last - 1].end() > end {
        pieces.push(list[last - 1].clip(end, LEAF_CLUSTERS));
    } else if new.is_some() && last < list.len() && usize::from(list[last].start) == end {
        pieces.push(list[last]);
        last += 1;
    }
    splice(list, first, last, pieces.as_slice());
    removed
}

/// Replaces `list[first..last]` by `pieces` under the map's own growth policy.
fn splice(list: &mut Vec<Run>, first: usize, last: usize, pieces: &[Run]) {
    if pieces.len() == last - first {
        list[first..last].copy_from_slice(pieces);
        return;
    }
    reserve(list, pieces.len().saturating_sub(last - first), LEAF_CLUSTERS);
    list.splice(first..last, pieces.iter().copied());
    trim(list);
}

/// Up to three runs that take the place of others, merged as they come.
struct Pieces {
    runs: [Run; 3],
    count: usize,
}

impl Pieces {
    fn new() -> Pieces {
        let unused = Run::new(0, 0, Loc { log: 0, sco: 0, ordinal: 0 });
        Pieces { runs: [unused; 3], count: 0 }
    }

    #[inline]
    fn push(&mut self, run: Run) {
        if self.count > 0 && run.continues(&self.runs[self.count - 1]) {
            self.runs[self.count - 1].len += run.len;
        } else {
            self.runs[self.count] = run;
            self.count += 1;
        }
    }

    fn as_slice(&self) -> &[Run] {
        &self.runs[..self.count]
    }
}
