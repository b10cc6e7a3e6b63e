//! Getting a range of one fragment, or of several: from where it is, or else from others of which
//! it is computed; asking elsewhere when an answer is late.
//!
//! Nobody is asked twice. What arrives counts, whoever was late: the first complete set wins.

use alloc::vec::Vec;

use super::layout::{Layout, Set};
use super::plan::{Step, plan};

/// See the top of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gather {
    layout: Layout,
    wanted: Set,
    /// Fragments that are somewhere.
    present: Set,
    asked: Set,
    here: Set,
    failed: Set,
    late: Set,
}

impl Gather {
    /// For these fragments of a piece; `present`: those that can be asked for. `direct`: the wanted
    /// ones, too.
    pub fn new(layout: Layout, wanted: Set, present: Set, direct: bool) -> Self {
        let present = if direct { present } else { present & !wanted };
        Self { layout, wanted, present, asked: 0, here: 0, failed: 0, late: 0 }
    }

    /// Fragments to ask for now; none: wait, or it is over.
    pub fn ask(&mut self) -> Set {
        let usable = self.present & !self.failed;
        // Without the late ones when that is possible.
        let needs = self.needs(usable & !self.late).or_else(|| self.needs(usable));
        let new = needs.unwrap_or(0) & !self.asked;
        self.asked |= new;
        new
    }

    /// What has to be here, when only these can be had; `None`: they are too few.
    fn needs(&self, usable: Set) -> Option<Set> {
        let direct = self.wanted & usable;
        let missing = self.wanted & !usable;
        if missing == 0 {
            return Some(direct);
        }
        let steps = plan(&self.layout, usable, missing)?;
        let computed = outputs(&steps);
        let sources = steps.iter().flat_map(|step| &step.sources);
        Some(sources.fold(direct, |set, one| set | 1 << one) & !computed)
    }

    /// A range of this fragment has arrived.
    pub fn arrived(&mut self, fragment: usize) {
        self.here |= 1 << fragment;
    }

    /// It can't be had.
    pub fn failed(&mut self, fragment: usize) {
        self.failed |= 1 << fragment;
    }

    /// Everything that was asked for and has not come is late.
    pub fn time_passed(&mut self) {
        self.late |= self.asked & !self.here & !self.failed;
    }

    /// Whether something that was asked for may still come.
    pub fn waits(&self) -> bool {
        self.asked & !self.here & !self.failed != 0
    }

    /// How the wanted ones that are not here are computed from those that are; `None`: not yet.
    pub fn ready(&self) -> Option<Vec<Step>> {
        let missing = self.wanted & !self.here;
        if missing == 0 {
            return Some(Vec::new());
        }
        plan(&self.layout, self.here, missing)
    }

    /// Whether what can still be had is too little.
    pub fn is_lost(&self) -> bool {
        self.needs(self.present & !self.failed).is_none()
    }

    /// Fragments that can still be had.
    pub fn left(&self) -> u32 {
        (self.present & !self.failed).count_ones()
    }
}

fn outputs(steps: &[Step]) -> Set {
    steps.iter().flat_map(|step| &step.outputs).fold(0, |set, one| set | 1 << one)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        Layout::new(4, 2, 3, 1).unwrap()
    }

    #[test]
    fn one_fragment_costs_one_read_and_its_group_when_it_is_late() {
        let mut gather = Gather::new(layout(), 1, layout().all(), true);
        assert_eq!(gather.ask(), 1);
        assert_eq!(gather.ask(), 0);
        assert_eq!(gather.ready(), None);
        gather.time_passed();
        let group = layout().group_set(0) & !1;
        assert_eq!(gather.ask(), group, "the group of the fragment computes it");
        (0..9).filter(|one| group & 1 << one != 0).for_each(|one| gather.arrived(one));
        assert!(gather.ready().is_some_and(|steps| !steps.is_empty()));
        gather.arrived(0);
        assert_eq!(gather.ready(), Some(Vec::new()), "the late one has come after all");
    }

    /// Every set of fragments that fail, every set of those that never answer: whatever can be
    /// computed from the others is, and it is never said to be there when it is not.
    #[test]
    fn what_can_be_computed_is_whoever_fails_or_hangs() {
        let layout = Layout::new(2, 2, 2, 1).unwrap();
        let all = layout.all();
        for failing in 0..=all {
            for hanging in (0..=all).filter(|set| set & failing == 0) {
                let good = all & !failing & !hanging;
                let mut gather = Gather::new(layout, 1, all, true);
                loop {
                    let asked = gather.ask();
                    for one in (0..layout.fragments()).filter(|one| asked & 1 << one != 0) {
                        if good & 1 << one != 0 {
                            gather.arrived(one);
                        } else if failing & 1 << one != 0 {
                            gather.failed(one);
                        }
                    }
                    let done = gather.ready().is_some();
                    let (late, asked_before) = (gather.late, gather.asked);
                    gather.time_passed();
                    if done || asked == 0 && (late, asked_before) == (gather.late, gather.asked) {
                        break;
                    }
                }
                let possible = good & 1 != 0 || plan(&layout, good, 1).is_some();
                assert_eq!(gather.ready().is_some(), possible, "{failing:b} {hanging:b}");
                let lost = plan(&layout, all & !failing, 1).is_none() && failing & 1 != 0;
                assert_eq!(gather.is_lost(), lost, "{failing:b}");
                assert_eq!(gather.waits(), gather.asked & hanging != 0);
            }
        }
    }

    #[test]
    fn a_repair_asks_for_others_only() {
        let mut gather = Gather::new(layout(), 1 << 8, layout().all(), false);
        let asked = gather.ask();
        assert!(asked != 0 && asked & 1 << 8 == 0);
        assert_eq!(gather.left(), 8);
    }
}
