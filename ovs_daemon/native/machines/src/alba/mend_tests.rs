//! Every way in which a delete, two who mend, the death of one of them and puts that fail can
//! interleave.

use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;

use super::layout::{Layout, Set};
use super::mend::{MUTANT, Mending, Mutant, Next, Outcome, at_once, due, safety};
use super::plan::plan;

fn readable(layout: &Layout, present: Set) -> bool {
    plan(layout, present, (1 << layout.data()) - 1).is_some()
}

/// The fewest fragments whose loss loses data, by trying all.
fn by_trying(layout: &Layout, present: Set) -> Option<usize> {
    let losses = (0..=layout.all()).filter(|lost| lost & !present == 0);
    let fatal = losses.filter(|lost| !readable(layout, present & !lost));
    fatal.map(|lost| lost.count_ones() as usize).min().unwrap_or(0).checked_sub(1)
}

fn safety_is_exact() -> Result<(), &'static str> {
    for (data, parity, domains, local) in
        [(2, 1, 1, 0), (2, 2, 2, 1), (4, 2, 3, 1), (3, 2, 2, 1), (1, 2, 3, 1), (4, 4, 1, 1)]
    {
        let layout = Layout::new(data, parity, domains, local).unwrap();
        for present in 0..=layout.all() {
            if safety(&layout, present) != by_trying(&layout, present) {
                return Err("safety is exact");
            }
        }
    }
    Ok(())
}

#[test]
fn safety_is_what_trying_all_losses_finds() {
    safety_is_exact().unwrap();
    let layout = Layout::new(16, 8, 3, 2).unwrap();
    assert_eq!(safety(&layout, layout.all()), Some(8), "what the preset promises");
}

#[test]
fn disks_that_may_come_back_are_waited_for() {
    let layout = Layout::new(4, 2, 3, 1).unwrap();
    // Group 0 has 0, 3 and 6.
    assert_eq!(due(&layout, 0b1, &[1, 0, 0]), 0);
    assert_eq!(due(&layout, 0b1001, &[1, 0, 0]), 0b1001, "one of them is lost, which is not known");
    assert_eq!(due(&layout, 0b1, &[0, 3, 3]), 0b1);
    assert_eq!(due(&layout, 0b10, &[0, 1, 0]), 0);
}

/// One who mends: what it does next, and how far it has looked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Mender {
    mending: Mending,
    looked: usize,
    whole: bool,
    dead: bool,
    /// A put of it has failed.
    failed: bool,
}

/// Fragment i is at home on OSD i; who mends it stores it on a disk of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct World {
    home: Set,
    mended: Set,
    menders: Vec<Mender>,
    /// Rounds of the delete that have begun, and the disks that the present one has still to reach.
    rounds: u8,
    reach: (Set, Set),
    /// Fragments that may be stored later, though nobody waits for them any more.
    late: Set,
    /// Deaths and puts that fail.
    accidents: u8,
}

struct Space {
    layout: Layout,
    first: Set,
    rounds: u8,
}

impl Space {
    fn menders_of(&self, present: Set) -> Vec<Mender> {
        let group = |group: usize| {
            let missing = self.layout.group_set(group) & !present;
            let wanted = (0..self.layout.fragments()).filter(|one| missing & 1 << one != 0);
            let mending = Mending::new(&self.layout, wanted.collect());
            Mender { mending, looked: 0, whole: true, dead: false, failed: false }
        };
        (0..self.layout.domains()).map(group).collect()
    }

    fn deletes(&self, world: &World, out: &mut Vec<World>) {
        if world.reach == (0, 0) {
            if world.rounds < self.rounds {
                let mut next = world.clone();
                next.rounds += 1;
                next.reach = (self.layout.all(), self.layout.all());
                out.push(next);
            }
            return;
        }
        for one in 0..self.layout.fragments() {
            let bit: Set = 1 << one;
            if world.reach.0 & bit != 0 {
                let mut next = world.clone();
                next.reach.0 &= !bit;
                next.home &= !bit;
                out.push(next);
            }
            if world.reach.1 & bit != 0 {
                let mut next = world.clone();
                next.reach.1 &= !bit;
                next.mended &= !bit;
                out.push(next);
            }
        }
    }

    /// One of these puts fails: it was done, or it is not, or it is yet to come.
    fn fails(
        &self,
        world: &World,
        number: usize,
        created: &[(usize, Outcome)],
        out: &mut Vec<World>,
    ) {
        if world.accidents == 0 {
            return;
        }
        let there = created.iter().fold(0, |set: Set, (one, _)| set | 1 << one);
        for (at, (one, _)) in created.iter().enumerate() {
            let bit: Set = 1 << one;
            for (outcome, stored, late) in [
                (Outcome::Failed, 0, 0),
                (Outcome::Failed, bit, 0),
                (Outcome::Unanswered, bit, 0),
                (Outcome::Unanswered, 0, bit),
            ] {
                let mut next = world.clone();
                next.accidents -= 1;
                next.mended |= there & !bit | stored;
                next.late |= late;
                let mut outcomes = created.to_vec();
                outcomes[at].1 = outcome;
                let mender = &mut next.menders[number];
                mender.mending.stored(&outcomes);
                mender.failed = true;
                out.push(next);
            }
        }
    }

    /// What nobody waits for any more is stored.
    fn stragglers(&self, world: &World, out: &mut Vec<World>) {
        for one in (0..self.layout.fragments()).filter(|one| world.late & 1 << one != 0) {
            let mut next = world.clone();
            next.late &= !(1 << one);
            next.mended |= 1 << one;
            out.push(next);
        }
    }

    fn mends(&self, world: &World, number: usize, out: &mut Vec<World>) {
        let mut next = world.clone();
        let one = &mut next.menders[number];
        match one.mending.next() {
            Next::Over(_) => return,
            Next::Store(fragments) => {
                let created: Vec<(usize, Outcome)> =
                    fragments.iter().map(|one| (*one, Outcome::Created)).collect();
                self.fails(world, number, &created, out);
                fragments.iter().for_each(|fragment| next.mended |= 1 << fragment);
                one.mending.stored(&created);
            }
            Next::Undo(fragments) => {
                fragments.iter().for_each(|fragment| next.mended &= !(1 << fragment));
                one.mending.undone();
            }
            Next::Look => {
                // One disk after the other: the world goes on in between.
                let bit = 1 << one.looked;
                one.whole &= self.first & bit == 0 || next.home & bit != 0;
                one.looked += 1;
                if one.looked == self.layout.fragments() {
                    one.mending.looked(one.whole);
                    (one.looked, one.whole) = (0, true);
                }
            }
        }
        out.push(next);
    }

    fn successors(&self, world: &World) -> Vec<World> {
        let mut out = Vec::new();
        self.deletes(world, &mut out);
        self.stragglers(world, &mut out);
        for number in 0..world.menders.len() {
            if world.menders[number].dead {
                continue;
            }
            self.mends(world, number, &mut out);
            let over = matches!(world.menders[number].mending.next(), Next::Over(_));
            if world.accidents > 0 && !over {
                let mut next = world.clone();
                next.menders[number].dead = true;
                next.accidents -= 1;
                out.push(next);
            }
        }
        out
    }

    /// What must hold, in the words of the first promise that does not.
    fn check(&self, world: &World, before: &World) -> Result<(), &'static str> {
        let (had, has) = (before.home | before.mended, world.home | world.mended);
        if world.rounds == 0 && safety(&self.layout, has) < safety(&self.layout, had) {
            return Err("safety falls only by losses and deletes");
        }
        let over = |one: &Mender| one.dead || matches!(one.mending.next(), Next::Over(_));
        if !world.menders.iter().all(over) {
            return Ok(());
        }
        let died = world.menders.iter().any(|one| one.dead || one.failed);
        if world.rounds == 0 && !died && has != self.layout.all() {
            return Err("what was lost is there again");
        }
        if world.rounds == self.rounds && world.reach == (0, 0) {
            if readable(&self.layout, has | world.late) {
                return Err("what was deleted stays deleted");
            }
            if !died && has != 0 {
                return Err("nothing is left of what was deleted");
            }
        }
        Ok(())
    }
}

/// All worlds in which the fragments `lost` are lost at first; how many.
fn explore(layout: Layout, lost: Set) -> Result<usize, &'static str> {
    let first = layout.all() & !lost;
    let rounds = if MUTANT.get() == Some(Mutant::OneRound) { 1 } else { 2 };
    let space = Space { layout, first, rounds };
    let menders = space.menders_of(first);
    // With more, those who mend for two Domains leave as much as it takes here.
    let accidents = if at_once(&layout) * layout.domains() < layout.data() { 2 } else { 1 };
    let start =
        World { home: first, mended: 0, menders, rounds: 0, reach: (0, 0), late: 0, accidents };
    let mut known = BTreeSet::from([start.clone()]);
    let mut open = VecDeque::from([start]);
    while let Some(world) = open.pop_front() {
        for next in space.successors(&world) {
            space.check(&next, &world)?;
            if known.insert(next.clone()) {
                open.push_back(next);
            }
        }
    }
    Ok(known.len())
}

fn explore_all() -> Result<usize, &'static str> {
    let mut worlds = 0;
    for (data, parity, domains, local) in [(2, 1, 1, 0), (2, 2, 1, 0), (2, 1, 2, 0), (2, 2, 2, 0)] {
        let layout = Layout::new(data, parity, domains, local).unwrap();
        for lost in 1..=layout.all() {
            if readable(&layout, layout.all() & !lost) {
                worlds += explore(layout, lost)?;
            }
        }
    }
    Ok(worlds)
}

#[test]
fn no_interleaving_brings_back_what_was_deleted() {
    let worlds = explore_all().unwrap();
    assert!(worlds > 10_000, "{worlds}");
}

#[test]
fn every_planted_fault_is_noticed() {
    for (mutant, promise) in [
        (Mutant::NoLook, "nothing is left of what was deleted"),
        (Mutant::AllAtOnce, "what was deleted stays deleted"),
        (Mutant::NoUndo, "nothing is left of what was deleted"),
        (Mutant::UndoNothingNew, "nothing is left of what was deleted"),
        (Mutant::OneRound, "nothing is left of what was deleted"),
        (Mutant::GoOn, "what was deleted stays deleted"),
    ] {
        MUTANT.set(Some(mutant));
        let found = explore_all();
        MUTANT.set(None);
        assert!(found.is_err(), "{mutant:?} breaks {promise:?} and nobody notices");
    }
    MUTANT.set(Some(Mutant::NoLocal));
    let found = safety_is_exact();
    MUTANT.set(None);
    assert_eq!(found, Err("safety is exact"));
}

#[test]
fn those_who_mend_a_deleted_object_and_die_leave_no_object() {
    for (data, parity, domains, local) in [(16, 8, 3, 2), (8, 4, 3, 2), (4, 2, 3, 1), (4, 4, 2, 2)]
    {
        let layout = Layout::new(data, parity, domains, local).unwrap();
        assert!(at_once(&layout) * layout.domains() < layout.data(), "{layout:?}");
    }
}
