//! Whether an object is stored, judged by the fragments that can be seen of it.
//!
//! A put gives each fragment the number of the put, its *generation*, and is acknowledged when c of
//! the k + m global fragments of every piece are stored. It may be cut off at any moment, it may
//! have been acknowledged without anybody hearing of it, and disks may be out of reach when one
//! asks. What must hold: an acknowledged object is never taken for absent, so it is neither hidden
//! nor overwritten; and what is called stored can be read.
//!
//! With two Domains they may disagree: one has all that makes the object readable, the other one
//! nothing, and both are here. Then it counts as stored, and is completed. It was acknowledged, and the
//! other Domain's disks were replaced; or its put was cut off, and it may be kept as well as not. That
//! it was deleted say marks (`deletion`). While the other Domain is away, its marks are, too: then what
//! was deleted counts as stored for that long, since nothing tells it from what was not.

use alloc::vec::Vec;

use super::layout::{Layout, Set};
use super::plan::plan;

/// A put of which fragments are seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The put.
    pub generation: u64,
    /// How its pieces are coded.
    pub layout: Layout,
    /// c.
    pub acknowledge: usize,
    /// How many fragments of a piece may be on disks out of reach.
    pub out_of_reach: usize,
    /// For each piece: the fragments that are seen, local parity too.
    pub pieces: Vec<Set>,
}

impl Seen {
    fn fewest(&self) -> usize {
        let global = self.layout.global_set();
        self.pieces.iter().map(|seen| (seen & global).count_ones() as usize).min().unwrap_or(0)
    }

    /// Whether so many fragments are seen as an acknowledgement asks for.
    pub fn enough(&self) -> bool {
        self.fewest() >= self.acknowledge
    }

    /// Whether as many may be stored, with those on disks out of reach.
    pub fn may_be_acknowledged(&self) -> bool {
        self.fewest() + self.out_of_reach >= self.acknowledge
    }

    /// Whether every piece can be computed from what is seen.
    pub fn readable(&self) -> bool {
        let data = (1 << self.layout.data()) - 1;
        self.pieces.iter().all(|seen| plan(&self.layout, *seen, data).is_some())
    }
}

/// Whether an object is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is, by this put; it can be read.
    Stored(Seen),
    /// It is not: no put of it was acknowledged.
    Absent,
    /// It may be, on disks that are out of reach. Whoever takes it for absent may lose it.
    Unknown,
}

/// The verdict on an object, from all that is seen of it. `hidden`: whether disks out of reach
/// could hold an acknowledged put of it of which nothing is seen. A later put has a higher
/// generation.
///
/// A put begins only where no other was acknowledged. So one of which c fragments are seen is the
/// only one that can be, and else the latest readable one counts, unless a later one may be.
pub fn verdict(seen: &[Seen], hidden: bool) -> Verdict {
    let readable = seen.iter().filter(|put| put.readable());
    let latest = readable.max_by_key(|put| (put.enough(), put.generation));
    if let Some(put) = latest
        && put.enough()
    {
        return Verdict::Stored(put.clone());
    }
    let after = latest.map_or(0, |put| put.generation);
    let later = |put: &Seen| put.generation > after && put.may_be_acknowledged();
    if hidden || seen.iter().any(later) {
        return Verdict::Unknown;
    }
    latest.cloned().map_or(Verdict::Absent, Verdict::Stored)
}

/// How many fragments of a piece may be on disks out of reach: `away` has, for each Domain, how many
/// of its disks are.
pub fn out_of_reach(layout: &Layout, away: &[usize]) -> usize {
    let mut away = away.to_vec();
    away.sort_unstable_by(|a, b| b.cmp(a));
    let groups = (0..layout.domains()).map(|group| layout.member_count(group));
    groups.zip(away).map(|(members, disks)| members.min(disks)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISKS: usize = 4;

    /// Fragment i of a put is on disk i.
    fn put(generation: u64, (data, acknowledge): (usize, usize), on: Set, away: Set) -> Seen {
        let layout = Layout::new(data as u8, (DISKS - data) as u8, 1, 0).unwrap();
        let (out_of_reach, pieces) = (away.count_ones() as usize, [on & !away].into());
        Seen { generation, layout, acknowledge, out_of_reach, pieces }
    }

    type Judge = fn(&[Seen], bool) -> Verdict;

    /// Two puts of an object, each cut off anywhere, each acknowledged or not where it may be, any
    /// disks out of reach at the second put and at the reader's look: the first broken promise.
    fn walk(judge: Judge, code: (usize, usize)) -> Option<&'static str> {
        let enough = |on: Set| on.count_ones() as usize >= code.1;
        let look = |puts: &[(u64, Set)], away: Set| {
            let seen: Vec<Seen> = puts
                .iter()
                .filter(|(_, on)| on & !away != 0)
                .map(|(generation, on)| put(*generation, code, *on, away))
                .collect();
            judge(&seen, enough(away))
        };
        let every = 0..1u64 << DISKS;
        for (first, away) in every.clone().flat_map(|one| every.clone().map(move |two| (one, two)))
        {
            for acknowledged in [false, true] {
                if acknowledged && !enough(first) {
                    continue;
                }
                let found = look(&[(1, first)], away);
                match &found {
                    Verdict::Absent if acknowledged => return Some("never taken for absent"),
                    Verdict::Stored(put) if !put.readable() => return Some("stored is readable"),
                    Verdict::Absent => {}
                    _ => continue,
                }
                // The second put removes what it sees of the first, or is cut off before.
                for (removed, second) in [0, !away]
                    .into_iter()
                    .flat_map(|removed| every.clone().map(move |on| (removed, on & !away)))
                {
                    for away in every.clone() {
                        let found = look(&[(1, first & !removed), (2, second)], away);
                        match found {
                            Verdict::Absent if enough(second) => {
                                return Some("never taken for absent");
                            }
                            Verdict::Stored(put) if enough(second) && put.generation == 1 => {
                                return Some("the acknowledged put counts");
                            }
                            _ => {}
                        }
                    }
                }
            }
        }
        None
    }

    #[test]
    fn no_history_of_two_puts_deceives_it() {
        for code in [(1, 2), (1, 3), (2, 3), (2, 4), (3, 4)] {
            assert_eq!(walk(verdict, code), None, "k and c: {code:?}");
        }
    }

    #[test]
    fn every_planted_fault_is_noticed() {
        let mutants: [(Judge, &str); 5] = [
            (|seen, _| verdict(seen, false), "never taken for absent"),
            (
                |seen, hidden| {
                    let blind = seen.iter().map(|put| Seen { out_of_reach: 0, ..put.clone() });
                    verdict(&blind.collect::<Vec<_>>(), hidden)
                },
                "never taken for absent",
            ),
            (
                |seen, hidden| {
                    let any = seen.first().cloned().map(Verdict::Stored);
                    any.unwrap_or_else(|| verdict(seen, hidden))
                },
                "stored is readable",
            ),
            (
                |seen, hidden| {
                    let earliest = seen.iter().find(|put| put.readable());
                    let earliest = earliest.cloned().map(Verdict::Stored);
                    earliest.unwrap_or_else(|| verdict(seen, hidden))
                },
                "the acknowledged put counts",
            ),
            (
                |seen, hidden| {
                    let latest = seen.iter().rfind(|put| put.readable());
                    let latest = latest.cloned().map(Verdict::Stored);
                    latest.unwrap_or_else(|| verdict(seen, hidden))
                },
                "the acknowledged put counts",
            ),
        ];
        for (number, (mutant, promise)) in mutants.into_iter().enumerate() {
            let found: Vec<&str> =
                [(1, 2), (2, 3), (2, 4)].iter().filter_map(|code| walk(mutant, *code)).collect();
            assert!(found.contains(&promise), "mutant {number}: {found:?}");
        }
    }

    #[test]
    fn a_lost_domain_hides_no_object_that_lies_in_three() {
        let layout = Layout::new(16, 8, 3, 2).unwrap();
        assert_eq!(out_of_reach(&layout, &[100, 0, 3]), 8 + 3);
        assert_eq!(out_of_reach(&layout, &[100, 0, 0]), 8);
        assert_eq!(out_of_reach(&layout, &[100, 100, 100]), 24);
        assert_eq!(out_of_reach(&Layout::new(16, 4, 1, 0).unwrap(), &[100, 0]), 20);
        assert_eq!(out_of_reach(&Layout::new(3, 2, 2, 0).unwrap(), &[1, 9]), 3 + 1);
    }
}
