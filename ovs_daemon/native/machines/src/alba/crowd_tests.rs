//! Every placement of a small piece; and every way in which a move that is under way, or was cut off,
//! and a Domain's upkeep can interleave, which mends and clears up, one after the other.

use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;

use super::crowd::{MUTANT, Mutant, apart, crowded, homes, safety_of_disks};
use super::layout::{Layout, Set};
use super::mend::safety;
use super::placement::Disk;
use super::policy::Policy;
use super::rebalance::{Copy, Then, rank, spreads, surplus, then};

/// By fragment: the disks on which it is, one bit each.
type Has = Vec<u8>;

fn copy(nodes: &[u32], fragment: usize, disk: usize) -> Copy {
    Copy { fragment, domain: 0, node: nodes[disk], disk: disk as u64 }
}

fn copies(nodes: &[u32], has: &[u8]) -> Vec<Copy> {
    let all = (0..has.len()).flat_map(|one| (0..nodes.len()).map(move |at| (one, at)));
    all.filter(|(one, at)| has[*one] & 1 << at != 0).map(|(one, at)| copy(nodes, one, at)).collect()
}

fn disks(nodes: &[u32]) -> Vec<Disk> {
    let disk = |(id, node): (usize, &u32)| Disk { id: id as u64, domain: 0, node: *node };
    nodes.iter().enumerate().map(disk).collect()
}

/// All ways to place fragments, each on these sets of disks.
fn placements(fragments: usize, sets: &[u8]) -> Vec<Has> {
    let mut all = Vec::from([Vec::new()]);
    for _ in 0..fragments {
        let longer = |one: &Has| {
            let one = one.clone();
            sets.iter().map(move |set| [one.clone(), [*set].into()].concat()).collect::<Vec<_>>()
        };
        all = all.iter().flat_map(longer).collect();
    }
    all
}

/// Tried out: how many disks may be lost.
fn bearable(layout: &Layout, has: &[u8], disks: usize) -> Option<usize> {
    let left = |gone: u8| {
        let there = |one: usize| has[one] & !gone != 0;
        (0..has.len()).filter(|one| there(*one)).fold(0, |set: Set, one| set | 1 << one)
    };
    let fatal = |gone: &u8| safety(layout, left(*gone)).is_none();
    let fewest = (0..1u8 << disks).filter(fatal).map(u8::count_ones).min()?;
    (fewest as usize).checked_sub(1)
}

/// What is said of every placement of a few pieces on four disks; how many.
fn every_placement() -> Result<usize, &'static str> {
    let nodes = [0, 1, 2, 2];
    // Nowhere, on one disk, on two.
    let sets: Vec<u8> = (0..16u8).filter(|set| set.count_ones() <= 2).collect();
    let mut count = 0;
    for (data, parity, domains, local) in [(1, 1, 1, 0), (2, 1, 1, 0), (2, 2, 1, 0), (2, 1, 1, 1)] {
        let layout = Layout::new(data, parity, domains, local).unwrap();
        for has in placements(layout.fragments(), &sets) {
            let copies = copies(&nodes, &has);
            judge_placement(&layout, &nodes, &has, &copies)?;
            count += 1;
        }
    }
    Ok(count)
}

fn judge_placement(
    layout: &Layout,
    nodes: &[u32],
    has: &[u8],
    copies: &[Copy],
) -> Result<(), &'static str> {
    let said = safety_of_disks(layout, copies);
    if said > bearable(layout, has, nodes.len()) {
        return Err("never more losses are said to be bearable than are");
    }
    let there = has.iter().enumerate().filter(|(_, on)| **on != 0);
    let fragments = safety(layout, there.fold(0, |set: Set, (one, _)| set | 1 << one));
    let alone = |disk: usize| has.iter().filter(|on| **on == 1 << disk).count();
    let shared = (0..nodes.len()).any(|disk| alone(disk) > 1);
    if !shared && said.is_some_and(|said| said == 0) && fragments > Some(0) {
        return Err("where no disk takes two fragments along one loss is bearable");
    }
    let single = |disk: usize| has.iter().filter(|on| **on & 1 << disk != 0).count() <= 1;
    if (0..nodes.len()).all(single) && said < fragments {
        return Err("with a disk for each copy, disks count as fragments do");
    }
    let going = crowded(copies, 5);
    for disk in 0..nodes.len() {
        let gone = going.iter().filter(|one| one.disk == disk as u64).count();
        if gone != alone(disk).saturating_sub(1) {
            return Err("of the fragments that share a disk all but one go");
        }
    }
    for one in &going {
        let Some(to) = apart(&disks(nodes), copies, one, 5) else { continue };
        let place = (to.id, to.node);
        if copies.iter().any(|other| other.disk == to.id)
            || !spreads(copies, one.fragment, one.node, place)
        {
            return Err("it goes where nothing of the piece is");
        }
    }
    Ok(())
}

#[test]
fn no_disk_counts_for_less_than_it_takes_along() {
    let count = every_placement().unwrap();
    assert!(count > 10_000, "{count}");
}

/// Who has stored a copy, and will delete the old one, or the new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Mover {
    Waiting,
    Judged(Then),
    Over,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Mender {
    Idle,
    Chosen { fragment: usize, to: usize, saw: Has },
    Stored { fragment: usize, to: usize, saw: Has },
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Trim {
    Idle,
    /// It has seen that there are two.
    Seen(Has),
    /// Nobody takes one of them back any more.
    Aged(Has),
    /// It deletes by what it has seen then.
    Deleting(Has),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct World {
    has: Has,
    mover: Mover,
    /// It is so late that it takes nothing back.
    late: bool,
    mender: Mender,
    trim: Trim,
    /// Fragments that are stored, and stay so.
    promised: u8,
}

struct Space {
    nodes: Vec<u32>,
    policy: Policy,
    piece: u64,
    /// What is moved, from where and to where.
    moved: Option<(Copy, Copy)>,
    /// At rest nothing is there twice.
    clears: bool,
}

fn doubled(has: &[u8]) -> Vec<(usize, u8)> {
    let twice = |(_, on): &(usize, &u8)| on.count_ones() > 1;
    has.iter().enumerate().filter(twice).map(|(one, on)| (one, *on)).collect()
}

impl Space {
    fn copies(&self, has: &[u8]) -> Vec<Copy> {
        copies(&self.nodes, has)
    }

    fn lost(has: &[u8]) -> Set {
        (0..has.len()).filter(|one| has[*one] == 0).fold(0, |set, one| set | 1 << one)
    }

    /// The fragment that a mender stores next, and where.
    fn plan(&self, has: &[u8]) -> Option<(usize, usize)> {
        let (copies, disks, lost) = (self.copies(has), disks(&self.nodes), Self::lost(has));
        if lost != 0 {
            let numbers = (self.piece, self.piece);
            let found = homes(&self.policy, (&disks, &|_| true), &copies, lost, numbers);
            return found.first().copied();
        }
        let going = crowded(&copies, self.piece);
        let to =
            |one: &Copy| Some((one.fragment, apart(&disks, &copies, one, self.piece)?.id as usize));
        going.iter().find_map(to)
    }

    /// What is cleared up next.
    fn goes(&self, seen: &[u8]) -> Option<Copy> {
        let copies = self.copies(seen);
        let mut all = 0..seen.len();
        all.find_map(|one| surplus(&copies, one, self.piece, |_| true).first().copied())
    }

    fn moves(&self, world: &World, out: &mut Vec<World>) {
        let Some((from, to)) = self.moved.filter(|_| world.mover != Mover::Over) else { return };
        // It dies.
        out.push(World { mover: Mover::Over, ..world.clone() });
        out.push(World { late: true, ..world.clone() });
        let mut next = world.clone();
        match world.mover {
            Mover::Waiting => {
                let copies = self.copies(&world.has);
                next.mover = Mover::Judged(then(&copies, &from, &to, self.piece, !world.late));
            }
            Mover::Judged(then) => {
                next.mover = Mover::Over;
                match then {
                    Then::DeleteOld => next.has[from.fragment] &= !(1 << from.disk),
                    Then::TakeBack if !world.late => next.has[to.fragment] &= !(1 << to.disk),
                    Then::TakeBack | Then::Leave => {}
                }
            }
            Mover::Over => return,
        }
        out.push(next);
    }

    fn mends(&self, world: &World, out: &mut Vec<World>) {
        if matches!(world.trim, Trim::Deleting(_)) {
            return;
        }
        let mut next = world.clone();
        match &world.mender {
            Mender::Idle => {
                let Some((fragment, to)) = self.plan(&world.has) else { return };
                next.mender = Mender::Chosen { fragment, to, saw: world.has.clone() };
            }
            Mender::Chosen { fragment, to, saw } => {
                let exists = world.has[*fragment] & 1 << to != 0;
                next.has[*fragment] |= 1 << to;
                let (fragment, to, saw) = (*fragment, *to, saw.clone());
                next.mender = match exists {
                    true => Mender::Idle,
                    false => Mender::Stored { fragment, to, saw },
                };
            }
            Mender::Stored { fragment, to, saw } => {
                next.mender = Mender::Idle;
                match saw.iter().zip(&world.has).all(|(saw, has)| saw & !has == 0) {
                    true => next.promised |= 1 << fragment,
                    false => next.has[*fragment] &= !(1 << to),
                }
            }
        }
        out.push(next);
    }

    /// The copy that may be taken back by the one who has moved it.
    fn open(&self, world: &World) -> Option<Copy> {
        let open = !world.late && world.mover != Mover::Over;
        self.moved.filter(|_| open).map(|(_, to)| to)
    }

    fn trims(&self, world: &World, out: &mut Vec<World>) {
        if world.mender != Mender::Idle {
            return;
        }
        let mut next = world.clone();
        next.trim = match &world.trim {
            Trim::Idle if self.goes(&world.has).is_some() => Trim::Seen(world.has.clone()),
            Trim::Idle => return,
            Trim::Seen(seen) => {
                let young = |one: Copy| seen[one.fragment] & 1 << one.disk != 0;
                if self.open(world).is_some_and(young) {
                    return;
                }
                Trim::Aged(seen.clone())
            }
            Trim::Aged(seen) if doubled(seen) != doubled(&world.has) => Trim::Idle,
            Trim::Aged(_) => Trim::Deleting(world.has.clone()),
            Trim::Deleting(seen) => match self.goes(seen) {
                None => Trim::Idle,
                Some(copy) => {
                    let mut left = seen.clone();
                    left[copy.fragment] &= !(1 << copy.disk);
                    next.has[copy.fragment] &= !(1 << copy.disk);
                    Trim::Deleting(left)
                }
            },
        };
        out.push(next);
    }

    fn check(&self, world: &World) -> Result<(), &'static str> {
        let stored = |one: usize| world.promised & 1 << one == 0 || world.has[one] != 0;
        if !(0..world.has.len()).all(stored) {
            return Err("no fragment is lost");
        }
        if world.mender != Mender::Idle {
            return Ok(());
        }
        let plan = self.plan(&world.has);
        let copies = self.copies(&world.has);
        if Self::lost(&world.has) != 0 && plan.is_none() {
            return Err("no fragment waits for a disk");
        }
        let rest = world.mover == Mover::Over && world.trim == Trim::Idle;
        if plan.is_some() || !rest || self.goes(&world.has).is_some() {
            return Ok(());
        }
        if !crowded(&copies, self.piece).is_empty() {
            return Err("every fragment gets a disk of its own");
        }
        if self.clears && !doubled(&world.has).is_empty() {
            return Err("nothing stays twice that could be cleared up");
        }
        Ok(())
    }

    /// All worlds; how many.
    fn explore(&self, has: &[u8]) -> Result<usize, &'static str> {
        let promised = (0..has.len()).filter(|one| has[*one] != 0);
        let start = World {
            has: has.to_vec(),
            mover: if self.moved.is_some() { Mover::Waiting } else { Mover::Over },
            late: false,
            mender: Mender::Idle,
            trim: Trim::Idle,
            promised: promised.fold(0, |set, one| set | 1 << one),
        };
        self.check(&start)?;
        let mut known = BTreeSet::from([start.clone()]);
        let mut open = VecDeque::from([start]);
        while let Some(world) = open.pop_front() {
            let mut next = Vec::new();
            self.moves(&world, &mut next);
            self.mends(&world, &mut next);
            self.trims(&world, &mut next);
            for world in next {
                self.check(&world)?;
                if known.insert(world.clone()) {
                    open.push_back(world);
                }
            }
        }
        Ok(known.len())
    }
}

fn policy(fragments: usize) -> Policy {
    let all = fragments as u8;
    Policy::new(Layout::new(all - 1, 1, 1, 0).unwrap(), all, 1).unwrap()
}

/// A fragment was copied, by one that lives or has died, and others may be lost.
fn beside_a_move(fragments: usize, disks: usize, piece: u64) -> Result<usize, &'static str> {
    let nodes: Vec<u32> = (0..disks as u32).collect();
    let sets: Vec<u8> = [0].into_iter().chain((0..disks).map(|disk| 1 << disk)).collect();
    let mut worlds = 0;
    for (from, to) in (0..disks).flat_map(|from| (0..disks).map(move |to| (from, to))) {
        let order = |disk: usize| rank(piece, 0, disk as u64);
        if order(from) >= order(to) {
            continue;
        }
        for others in placements(fragments - 1, &sets) {
            let on = others.iter().fold(0, |all, set| all | set);
            let flat = others.iter().map(|set| set.count_ones()).sum::<u32>() == on.count_ones();
            let both = 1 << from | 1 << to;
            if !flat || on & both != 0 {
                continue;
            }
            let has = [[both].to_vec(), others].concat();
            let moved = (copy(&nodes, 0, from), copy(&nodes, 0, to));
            for moved in [None, Some(moved)] {
                let (nodes, policy, clears) = (nodes.clone(), policy(fragments), moved.is_none());
                worlds += Space { nodes, policy, piece, moved, clears }.explore(&has)?;
            }
        }
    }
    Ok(worlds)
}

/// Fragments share disks, as earlier releases have left them.
fn together(fragments: usize, disks: usize, piece: u64) -> Result<usize, &'static str> {
    let nodes: Vec<u32> = (0..disks as u32).collect();
    let sets: Vec<u8> = (0..disks).map(|disk| 1 << disk).collect();
    let mut worlds = 0;
    for has in placements(fragments, &sets) {
        let copies = copies(&nodes, &has);
        let going = crowded(&copies, piece);
        // Where one fragment goes, and a later disk is free, the earlier copy is cleared up.
        let free = |disk: &usize| has.iter().all(|on| on & 1 << disk == 0);
        let later = |one: &Copy| {
            let order = |disk: u64| rank(piece, one.fragment, disk);
            (0..disks).filter(free).any(|disk| order(disk as u64) > order(one.disk))
        };
        let clears = going.len() == 1 && going.iter().all(later);
        let (nodes, policy, moved) = (nodes.clone(), policy(fragments), None);
        worlds += Space { nodes, policy, piece, moved, clears }.explore(&has)?;
    }
    Ok(worlds)
}

fn explore_all() -> Result<usize, &'static str> {
    let mut worlds = 0;
    for piece in 0..6 {
        for (fragments, disks) in [(2, 2), (2, 3), (3, 3), (3, 4)] {
            worlds += beside_a_move(fragments, disks, piece)?;
            worlds += together(fragments, disks, piece)?;
        }
    }
    Ok(worlds)
}

#[test]
fn no_fragment_waits_or_stays_beside_another_whoever_moves_it_meanwhile() {
    let worlds = explore_all().unwrap();
    assert!(worlds > 10_000, "{worlds}");
}

#[test]
fn every_planted_fault_is_noticed() {
    for mutant in [
        Mutant::EachAlone,
        Mutant::CopiesCount,
        Mutant::StayTogether,
        Mutant::AllGo,
        Mutant::AnyDisk,
        Mutant::NotLater,
        Mutant::NeverBeside,
        Mutant::BesideLast,
    ] {
        MUTANT.set(Some(mutant));
        let found = every_placement().and_then(|_| explore_all());
        MUTANT.set(None);
        assert!(found.is_err(), "{mutant:?}: nobody notices");
    }
}
