//! From which fragments lost ones are computed: inside the Domain where that is possible.

use alloc::vec::Vec;

use super::layout::{Layout, Set};

/// The code that a step uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Over {
    /// k data and m parity fragments over all Domains.
    Global,
    /// The members of a group and its local parity.
    Group(usize),
}

/// One computation: as many sources as the code has data fragments, and what comes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// With which code.
    pub over: Over,
    /// Fragments that go in, ascending.
    pub sources: Vec<usize>,
    /// Fragments that come out, ascending.
    pub outputs: Vec<usize>,
}

fn list(set: Set) -> Vec<usize> {
    (0..Set::BITS as usize).filter(|fragment| set & 1 << fragment != 0).collect()
}

fn count(set: Set) -> usize {
    set.count_ones() as usize
}

/// The first `needed` fragments of `first`, and of `then` what is missing.
fn choose(first: Set, then: Set, needed: usize) -> Vec<usize> {
    let mut chosen = list(first);
    chosen.truncate(needed);
    chosen.extend(list(then & !first).into_iter().take(needed - chosen.len()));
    chosen.sort_unstable();
    chosen
}

fn local_step(layout: &Layout, group: usize, have: Set, outputs: Set) -> Step {
    let sources = choose(have & layout.group_set(group), 0, layout.member_count(group));
    Step { over: Over::Group(group), sources, outputs: list(outputs) }
}

/// Whether a group restores itself.
fn heals(layout: &Layout, group: usize, have: Set) -> bool {
    count(have & layout.group_set(group)) >= layout.member_count(group)
}

/// How to compute the fragments `wanted` from those `present`; no step when all are present,
/// `None` when it cannot be done. A group that can restore what is wanted of it does so by itself.
pub fn plan(layout: &Layout, present: Set, wanted: Set) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    let mut have = present & layout.all();
    let mut missing = wanted & layout.all() & !have;
    for group in 0..layout.domains() {
        let here = missing & layout.group_set(group);
        if here != 0 && heals(layout, group, present) {
            steps.push(local_step(layout, group, present, here));
            have |= here;
            missing &= !here;
        }
    }
    if missing == 0 {
        return Some(steps);
    }
    for group in 0..layout.domains() {
        let lost = layout.member_set(group) & !have;
        if count(have & layout.global_set()) < layout.data()
            && lost != 0
            && heals(layout, group, present)
        {
            steps.push(local_step(layout, group, present, lost));
            have |= lost;
        }
    }
    if count(have & layout.global_set()) < layout.data() {
        return None;
    }
    // A local parity fragment that its group cannot restore needs all members of the group first.
    let in_need = (0..layout.domains()).filter(|g| missing & layout.group_set(*g) != 0);
    let mut outputs = missing & layout.global_set();
    for group in in_need.clone() {
        if layout.locals(group).any(|local| missing & 1 << local != 0) {
            outputs |= layout.member_set(group) & !have;
        }
    }
    if outputs != 0 {
        let global = layout.global_set();
        let sources = choose(present & global, have & global, layout.data());
        steps.push(Step { over: Over::Global, sources, outputs: list(outputs) });
    }
    for group in in_need {
        let locals = missing & layout.group_set(group) & !layout.global_set();
        if locals != 0 {
            steps.push(Step {
                over: Over::Group(group),
                sources: layout.members(group).collect(),
                outputs: list(locals),
            });
        }
    }
    Some(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without(layout: &Layout, lost: &[usize]) -> Set {
        lost.iter().fold(layout.all(), |set, fragment| set & !(1 << fragment))
    }

    #[test]
    fn one_lost_fragment_is_computed_inside_its_group() {
        let layout = Layout::new(4, 2, 3, 1).unwrap();
        for lost in 0..layout.fragments() {
            let steps = plan(&layout, without(&layout, &[lost]), layout.all()).unwrap();
            let group = layout.group_of(lost);
            assert_eq!(steps.len(), 1);
            assert_eq!((steps[0].over, &*steps[0].outputs), (Over::Group(group), &[lost][..]));
            assert!(steps[0].sources.iter().all(|source| layout.group_of(*source) == group));
            assert_eq!(steps[0].sources.len(), layout.member_count(group));
        }
    }

    #[test]
    fn a_lost_domain_comes_back_from_the_others_with_its_local_parity_last() {
        let layout = Layout::new(4, 2, 3, 1).unwrap();
        // Group 0 has 0, 3 and local 6; besides it, 1 of group 1 is lost.
        let steps = plan(&layout, without(&layout, &[0, 3, 6, 1]), layout.all()).unwrap();
        assert_eq!(
            steps,
            [
                Step { over: Over::Group(1), sources: [4, 7].into(), outputs: [1].into() },
                Step { over: Over::Global, sources: [1, 2, 4, 5].into(), outputs: [0, 3].into() },
                Step { over: Over::Group(0), sources: [0, 3].into(), outputs: [6].into() },
            ]
        );
    }

    #[test]
    fn what_is_there_needs_nothing_and_what_is_gone_is_gone() {
        let layout = Layout::new(4, 2, 3, 1).unwrap();
        assert_eq!(plan(&layout, layout.all(), layout.all()), Some(Vec::new()));
        assert_eq!(plan(&layout, 0b11, 0b1), Some(Vec::new()));
        assert_eq!(plan(&layout, without(&layout, &[0, 3, 6, 1, 4, 7]), 1), None);
    }

    /// Every set of lost fragments: a plan exists exactly when, after each group that can has
    /// restored itself, k fragments are left; and its steps only use what is there by then.
    #[test]
    fn plans_exist_exactly_when_enough_is_left() {
        for (data, parity, domains, local) in [(4, 2, 3, 1), (3, 3, 2, 2), (5, 2, 1, 0)] {
            let layout = Layout::new(data, parity, domains, local).unwrap();
            for present in 0..=layout.all() {
                let mut healed = present;
                for group in 0..layout.domains() {
                    let set = layout.group_set(group);
                    if (present & set).count_ones() as usize >= layout.member_count(group) {
                        healed |= set;
                    }
                }
                let left = (healed & layout.global_set()).count_ones() as usize;
                let can = left >= layout.data() || healed == layout.all();
                let steps = plan(&layout, present, layout.all());
                assert_eq!(steps.is_some(), can, "{layout:?} {present:b}");
                let mut have = present;
                for step in steps.into_iter().flatten() {
                    assert!(step.sources.iter().all(|source| have & 1 << source != 0));
                    step.outputs.iter().for_each(|output| have |= 1 << output);
                }
                assert!(!can || have == layout.all());
            }
        }
    }
}
