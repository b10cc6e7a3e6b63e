//! Rebalancing of every small Domain to its end, and every way in which two who move fragments of
//! the same piece, one who looks, one who deletes the object, one who clears up, a death, and a put
//! that fails can interleave.

use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;

use super::mend::{MUTANT as MEND_MUTANT, Mutant as MendMutant, Outcome};
use super::placement::mix;
use super::rebalance::{
    Balance, Copy, Fill, MUTANT, Mutant, Then, band, excess, gives, has, spread, surplus, target,
    then,
};

const BEGIN: u64 = 100_000;

/// A Domain: how full its disks are, and where the fragments of its pieces are, by disk.
#[derive(Clone, Debug)]
struct House {
    disks: Vec<Fill>,
    pieces: Vec<Vec<usize>>,
    bytes: u64,
}

impl House {
    fn new(nodes: &[u32], totals: &[u64], pieces: Vec<Vec<usize>>, bytes: u64) -> Self {
        let fill = |(at, total): (usize, &u64)| {
            let on = pieces.iter().flatten().filter(|disk| **disk == at).count() as u64;
            Fill { id: 77 + at as u64, node: nodes[at], used: on * bytes, total: *total }
        };
        let disks = totals.iter().enumerate().map(fill).collect();
        Self { disks, pieces, bytes }
    }

    fn copies(&self, piece: usize) -> Vec<Copy> {
        let places = self.pieces[piece].iter().enumerate();
        let copy = |(fragment, at): (usize, &usize)| {
            let disk = self.disks[*at];
            Copy { fragment, domain: 0, node: disk.node, disk: disk.id }
        };
        places.map(copy).collect()
    }

    /// How many fragments of a piece the worst disk and the worst node have.
    fn crowd(&self, piece: usize) -> (usize, usize) {
        let copies = self.copies(piece);
        let most = |alike: fn(&Copy, &Copy) -> bool| {
            let count = |one: &Copy| copies.iter().filter(|other| alike(one, other)).count();
            copies.iter().map(count).max().unwrap_or(0)
        };
        (most(|a, b| a.disk == b.disk), most(|a, b| a.node == b.node))
    }

    /// Looks at everything on each disk that gives, and moves what can be; how many.
    fn pass(&mut self) -> Result<u64, &'static str> {
        let mut moves = 0;
        for from in 0..self.disks.len() {
            for piece in 0..self.pieces.len() {
                let band = band(BEGIN);
                let Some(fragment) = self.pieces[piece].iter().position(|at| *at == from) else {
                    continue;
                };
                if !gives(&self.disks, &self.disks[from], band) {
                    break;
                }
                let copies = self.copies(piece);
                let (key, mine) = (mix(piece as u64), copies[fragment]);
                let Some(to) = target(&self.disks, &copies, &mine, key, self.bytes, band) else {
                    continue;
                };
                let to = self.disks.iter().position(|disk| disk.id == to.id).unwrap();
                let before = self.crowd(piece);
                self.pieces[piece][fragment] = to;
                self.disks[from].used -= self.bytes;
                self.disks[to].used += self.bytes;
                moves += 1;
                let after = self.crowd(piece);
                if after.0 > before.0 || after.1 > before.1 {
                    return Err("a piece is spread as before, or better");
                }
                if self.disks[to].used > self.disks[to].total {
                    return Err("no disk is overfilled");
                }
            }
        }
        Ok(moves)
    }

    /// Rebalances to the end; how many fragments were moved, and in how many passes.
    fn run(&mut self, balance: &mut Balance) -> Result<(u64, u64), &'static str> {
        let (mut moves, mut passes) = (0, 0);
        let (first, most) = (spread(&self.disks), excess(&self.disks));
        while balance.wants(&self.disks, BEGIN) {
            let moved = self.pass()?;
            (moves, passes) = (moves + moved, passes + 1);
            if moved == 0 {
                balance.settle(&self.disks);
            }
            if passes > 50 {
                return Err("it ends");
            }
        }
        if spread(&self.disks) > first {
            return Err("disks are no more unequal than before");
        }
        // What was too much somewhere, and a fragment for each disk by which one goes beyond.
        if moves * self.bytes > most + self.disks.len() as u64 * self.bytes {
            return Err("it moves no more than what is too much");
        }
        Ok((moves, passes))
    }
}

/// All ways to place fragments, each on a disk of its own.
fn placements(disks: usize, fragments: usize) -> Vec<Vec<usize>> {
    let mut all = Vec::from([Vec::new()]);
    for _ in 0..fragments {
        let longer = |one: &Vec<usize>| {
            let free = (0..disks).filter(|disk| !one.contains(disk)).collect::<Vec<_>>();
            free.into_iter().map(|disk| [one.clone(), [disk].into()].concat()).collect::<Vec<_>>()
        };
        all = all.iter().flat_map(longer).collect();
    }
    all
}

/// Every placement of a few pieces in every small Domain; how many, and how many moves.
fn every_small_domain() -> Result<(u64, u64), &'static str> {
    let nodes: [&[u32]; 5] = [&[0, 1], &[0, 1, 2], &[0, 0, 1], &[0, 1, 1, 2], &[0, 0, 1, 1]];
    let (mut houses, mut moves) = (0, 0);
    for nodes in nodes {
        for larger in [false, true] {
            let mut totals: Vec<u64> = nodes.iter().map(|_| 16 << 20).collect();
            totals[0] *= if larger { 2 } else { 1 };
            for fragments in 1..=2 {
                let choices = placements(nodes.len(), fragments);
                let count = if choices.len() > 6 { 3 } else { 4 };
                let mut turn = alloc::vec![0; count];
                loop {
                    let pieces: Vec<_> = turn.iter().map(|one| choices[*one].clone()).collect();
                    let mut house = House::new(nodes, &totals, pieces, 1 << 20);
                    let mut balance = Balance::default();
                    moves += house.run(&mut balance)?.0;
                    houses += 1;
                    // And nothing more is done, as long as nothing changes.
                    if balance.wants(&house.disks, BEGIN) {
                        return Err("it does not begin again");
                    }
                    let Some(next) = turn.iter().position(|one| one + 1 < choices.len()) else {
                        break;
                    };
                    turn[next] += 1;
                    turn[..next].fill(0);
                }
            }
        }
    }
    Ok((houses, moves))
}

/// Pieces of three fragments, as placement would have them on these disks.
fn spread_out(disks: usize, pieces: usize) -> Vec<Vec<usize>> {
    let order = |piece: usize| {
        let mut order: Vec<usize> = (0..disks).collect();
        order.sort_by_key(|disk| mix(mix(piece as u64 + 991) ^ mix(*disk as u64 + 313)));
        order[..3].to_vec()
    };
    (0..pieces).map(order).collect()
}

/// Disks that are added one after the other are filled by as many moves as it takes.
fn added_disks() -> Result<(), &'static str> {
    let mut house = House::new(&[0, 1, 2, 3], &[1 << 40; 4], spread_out(4, 2000), 1 << 27);
    for new in 4..9usize {
        house.disks.push(Fill { id: 77 + new as u64, node: new as u32, used: 0, total: 1 << 40 });
        house.run(&mut Balance::default())?;
        if spread(&house.disks) > 2 * band(BEGIN) {
            return Err("a new disk is filled");
        }
    }
    Ok(())
}

/// A disk on which fragments have piled up, and a difference that does not pay.
fn piled_up() -> Result<(), &'static str> {
    let mut pieces = spread_out(5, 500);
    let full: Vec<Vec<usize>> = (0..300).map(|one| [0, 1 + one % 4].into()).collect();
    pieces.extend(full);
    let mut house = House::new(&[0, 1, 2, 3, 4], &[1 << 40; 5], pieces, 1 << 30);
    if spread(&house.disks) < 2 * BEGIN {
        return Err("the disk is fuller");
    }
    house.run(&mut Balance::default())?;
    if spread(&house.disks) > band(BEGIN) + 5000 {
        return Err("what has piled up is spread out");
    }
    let mut little = House::new(&[0, 1], &[1 << 26; 2], alloc::vec![[0].into(); 4], 1 << 20);
    if little.run(&mut Balance::default())?.0 != 0 {
        return Err("it begins when it pays");
    }
    let mut balance = Balance::default();
    balance.ask();
    if !balance.wants(&little.disks, BEGIN) {
        return Err("who asks for it is heard");
    }
    Ok(())
}

fn plans() -> Result<(u64, u64), &'static str> {
    added_disks()?;
    piled_up()?;
    every_small_domain()
}

#[test]
fn it_ends_moves_little_and_keeps_the_spread() {
    let (houses, moves) = plans().unwrap();
    assert!(houses > 10_000 && moves > 1000, "{houses} {moves}");
}

#[test]
fn every_planted_fault_of_a_plan_is_noticed() {
    for mutant in [
        Mutant::SameDisk,
        Mutant::AnyNode,
        Mutant::AnyLevel,
        Mutant::Overshoot,
        Mutant::NeverSettled,
        Mutant::NoBegin,
    ] {
        MUTANT.set(Some(mutant));
        let found = plans();
        MUTANT.set(None);
        assert!(found.is_err(), "{mutant:?}: nobody notices");
    }
}

const FRAGMENTS: usize = 2;
const PIECE: u64 = 5;

/// Where a mover is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// It has done nothing.
    Idle,
    /// It has chosen; what it has seen then is in the world.
    Chosen {
        from: Copy,
        to: Copy,
        saw: Seen,
    },
    /// The copy is stored.
    Stored {
        from: Copy,
        to: Copy,
        saw: Seen,
    },
    /// Nobody has answered whether it is: it may be there, by this one or another, or come later.
    Unanswered {
        to: Copy,
        saw: Seen,
    },
    /// Everything was there still: nobody has deleted the object before the copy was stored.
    Waiting {
        from: Copy,
        to: Copy,
    },
    /// All who may not have seen the copy have looked.
    Waited {
        from: Copy,
        to: Copy,
    },
    /// It has looked again.
    Judged {
        from: Copy,
        to: Copy,
        then: Then,
    },
    Over,
}

impl Step {
    /// A copy that it may take back.
    fn open(&self) -> Option<Copy> {
        match self {
            Self::Chosen { to, .. } | Self::Stored { to, .. } => Some(*to),
            Self::Waiting { to, .. } | Self::Waited { to, .. } => Some(*to),
            Self::Judged { to, then: Then::TakeBack, .. } => Some(*to),
            _ => None,
        }
    }
}

/// By fragment: the disks on which it is, one bit each.
type Seen = [u8; FRAGMENTS];

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Mover {
    step: Step,
    dead: bool,
    /// It is so late that others may take what it has stored for settled.
    late: bool,
    /// What it has asked for was not answered.
    failed: bool,
    /// This may be stored yet.
    coming: Option<Copy>,
}

/// Somebody who looks, disk by disk.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Look {
    at: usize,
    seen: [bool; FRAGMENTS],
    /// Movers whose copies were stored after it began.
    missed: [bool; 2],
}

/// Who clears up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Trim {
    Idle,
    /// It has seen that there are two.
    Seen(Seen),
    /// They are as they were, and so old that nobody takes one back.
    Aged(Seen),
    /// It deletes this.
    Deleting(Seen),
    Over,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct World {
    has: Seen,
    movers: [Mover; 2],
    look: Option<Look>,
    looks: u8,
    trim: Trim,
    /// Deaths, and puts that are not answered.
    accidents: u8,
    /// Rounds of the delete that have begun, and the disks that it has still to reach.
    rounds: u8,
    reach: u8,
}

impl World {
    /// A mover's copy is stored.
    fn stores(&mut self, number: usize, copy: &Copy) {
        self.has[copy.fragment] |= 1 << copy.disk;
        if let Some(look) = &mut self.look {
            look.missed[number] = true;
        }
    }
}

struct Space {
    nodes: Vec<u32>,
    /// Somebody deletes the object.
    deletes: bool,
    /// How many look, and how many die or are not answered.
    looks: u8,
    accidents: u8,
    /// Somebody clears up.
    trims: bool,
}

impl Space {
    fn copy(&self, fragment: usize, disk: usize) -> Copy {
        Copy { fragment, domain: 0, node: self.nodes[disk], disk: disk as u64 }
    }

    fn copies(&self, has: &Seen) -> Vec<Copy> {
        let all = (0..FRAGMENTS).flat_map(|one| (0..self.nodes.len()).map(move |at| (one, at)));
        all.filter(|(one, at)| has[*one] & 1 << at != 0)
            .map(|(one, at)| self.copy(one, at))
            .collect()
    }

    /// All moves that levels could call for.
    fn choices(&self, has: &Seen) -> Vec<(Copy, Copy)> {
        let copies = self.copies(has);
        let mut all = Vec::new();
        for from in &copies {
            if has[from.fragment].count_ones() != 1 || has.contains(&0) {
                continue;
            }
            for to in 0..self.nodes.len() {
                // The disk that gives is full, this one is empty, others are half full.
                let fill = |disk: usize| {
                    let half = if disk == to { 0 } else { 50 };
                    let used = if disk as u64 == from.disk { 100 } else { half };
                    Fill { id: disk as u64, node: self.nodes[disk], used, total: 100 }
                };
                let fills: Vec<Fill> = (0..self.nodes.len()).map(fill).collect();
                let found = target(&fills, &copies, from, PIECE, 1, 1);
                if let Some(to) = found {
                    all.push((*from, self.copy(from.fragment, to.id as usize)));
                }
            }
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    fn mover(&self, world: &World, number: usize, out: &mut Vec<World>) {
        let me = &world.movers[number];
        let mut to = |step: Step, change: &dyn Fn(&mut World)| {
            let mut next = world.clone();
            next.movers[number].step = step;
            change(&mut next);
            out.push(next);
        };
        let bit = |one: &Copy| 1u8 << one.disk;
        match me.step {
            Step::Over => {}
            Step::Idle => {
                to(Step::Over, &|_| ());
                for (from, target) in self.choices(&world.has) {
                    let saw = world.has;
                    to(Step::Chosen { from, to: target, saw }, &|next| {
                        if has(Mutant::DeleteFirst) {
                            next.has[from.fragment] &= !bit(&from);
                        }
                    });
                }
            }
            Step::Chosen { from, to: new, saw } => {
                // Where somebody else has stored it meanwhile it is his.
                if world.has[new.fragment] & bit(&new) != 0 {
                    to(Step::Over, &|_| ());
                } else {
                    to(Step::Stored { from, to: new, saw }, &|next| next.stores(number, &new));
                }
                if world.accidents > 0 {
                    self.is_not_answered(world, number, (new, saw), out);
                }
            }
            Step::Unanswered { to: new, saw } => {
                let whole = (0..FRAGMENTS).all(|one| saw[one] & !world.has[one] == 0);
                let undo = !whole && !me.late && Outcome::Unanswered.is_ours();
                to(Step::Over, &|next| {
                    if undo {
                        next.has[new.fragment] &= !bit(&new);
                    }
                });
            }
            Step::Stored { from, to: new, saw } => {
                let whole = (0..FRAGMENTS).all(|one| saw[one] & !world.has[one] == 0);
                if whole || has(Mutant::DeleteFirst) {
                    to(Step::Waiting { from, to: new }, &|_| ());
                } else if !me.late {
                    to(Step::Over, &|next| next.has[new.fragment] &= !bit(&new));
                } else {
                    to(Step::Over, &|_| ());
                }
            }
            Step::Waiting { from, to: new } => {
                let missed = world.look.as_ref().is_some_and(|look| look.missed[number]);
                if !missed || has(Mutant::NoWait) {
                    to(Step::Waited { from, to: new }, &|_| ());
                }
            }
            Step::Waited { from, to: new } => {
                let copies = self.copies(&world.has);
                let then = then(&copies, &from, &new, PIECE, !me.late);
                to(Step::Judged { from, to: new, then }, &|_| ());
            }
            Step::Judged { from, to: new, then } => match then {
                Then::DeleteOld => {
                    to(Step::Over, &|next| next.has[from.fragment] &= !bit(&from));
                }
                // Asked once more, whoever has slept meanwhile.
                Then::TakeBack if me.late && !has(Mutant::LateTakeBack) => to(Step::Over, &|_| ()),
                Then::TakeBack => to(Step::Over, &|next| next.has[new.fragment] &= !bit(&new)),
                Then::Leave => to(Step::Over, &|_| ()),
            },
        }
    }

    /// A copy was to be stored, and nobody has answered: it is stored, it is not, or it will be.
    fn is_not_answered(
        &self,
        world: &World,
        number: usize,
        (copy, saw): (Copy, Seen),
        out: &mut Vec<World>,
    ) {
        for (stored, coming) in [(false, None), (true, None), (false, Some(copy))] {
            let mut next = world.clone();
            next.accidents -= 1;
            if stored {
                next.stores(number, &copy);
            }
            let me = &mut next.movers[number];
            (me.step, me.failed) = (Step::Unanswered { to: copy, saw }, true);
            me.coming = coming;
            out.push(next);
        }
    }

    /// What nobody waits for any more is stored.
    fn straggles(&self, world: &World, number: usize, out: &mut Vec<World>) {
        if let Some(copy) = world.movers[number].coming {
            let mut next = world.clone();
            next.movers[number].coming = None;
            next.stores(number, &copy);
            out.push(next);
        }
    }

    /// What is cleared up next.
    fn goes(&self, seen: &Seen) -> Option<Copy> {
        let copies = self.copies(seen);
        (0..FRAGMENTS).find_map(|one| surplus(&copies, one, PIECE, |_| true).first().copied())
    }

    fn trims(&self, world: &World, out: &mut Vec<World>) {
        let mut to = |trim: Trim, has: Seen| {
            out.push(World { trim, has, ..world.clone() });
        };
        let double = world.has.iter().any(|one| one.count_ones() > 1);
        match world.trim {
            Trim::Idle if double && self.trims && !has(Mutant::NoTrim) => {
                to(Trim::Seen(world.has), world.has);
            }
            Trim::Seen(seen) => {
                let young = |one: &Mover| {
                    let open = one.step.open().filter(|_| !one.dead && !one.late);
                    open.is_some_and(|copy| seen[copy.fragment] & 1 << copy.disk != 0)
                };
                // Nobody looks for so long.
                let missed = |look: &Look| look.missed != [false; 2];
                let old = !world.look.as_ref().is_some_and(missed);
                if old && (!world.movers.iter().any(young) || has(Mutant::Unsettled)) {
                    to(Trim::Aged(seen), world.has);
                }
            }
            Trim::Aged(seen) if seen != world.has => to(Trim::Idle, world.has),
            Trim::Aged(seen) => to(Trim::Deleting(seen), world.has),
            Trim::Deleting(seen) => match self.goes(&seen) {
                None => to(Trim::Over, world.has),
                Some(copy) => {
                    let (mut left, mut has) = (seen, world.has);
                    left[copy.fragment] &= !(1 << copy.disk);
                    has[copy.fragment] &= !(1 << copy.disk);
                    to(Trim::Deleting(left), has);
                }
            },
            Trim::Over if double => to(Trim::Idle, world.has),
            Trim::Idle | Trim::Over => {}
        }
    }

    fn looks(&self, world: &World, out: &mut Vec<World>) {
        let mut next = world.clone();
        match &mut next.look {
            None if world.looks > 0 => {
                next.looks -= 1;
                next.look = Some(Look { at: 0, seen: [false; FRAGMENTS], missed: [false; 2] });
            }
            None => return,
            Some(look) if look.at == self.nodes.len() => next.look = None,
            Some(look) => {
                for (one, seen) in look.seen.iter_mut().enumerate() {
                    *seen |= world.has[one] & 1 << look.at != 0;
                }
                look.at += 1;
            }
        }
        out.push(next);
    }

    fn deletes(&self, world: &World, out: &mut Vec<World>) {
        if world.reach == 0 && world.rounds < 2 && self.deletes {
            let reach = (1 << self.nodes.len()) - 1;
            out.push(World { rounds: world.rounds + 1, reach, ..world.clone() });
        }
        for disk in (0..self.nodes.len()).filter(|disk| world.reach & 1 << disk != 0) {
            let mut next = world.clone();
            next.reach &= !(1 << disk);
            next.has.iter_mut().for_each(|one| *one &= !(1 << disk));
            out.push(next);
        }
    }

    fn successors(&self, world: &World) -> Vec<World> {
        let mut out = Vec::new();
        for number in 0..2 {
            let me = &world.movers[number];
            self.straggles(world, number, &mut out);
            if me.dead || me.step == Step::Over {
                continue;
            }
            self.mover(world, number, &mut out);
            if me.step != Step::Idle && !me.late && self.trims {
                let mut next = world.clone();
                next.movers[number].late = true;
                out.push(next);
            }
            if world.accidents > 0 && me.step != Step::Idle {
                let mut next = world.clone();
                (next.movers[number].dead, next.accidents) = (true, world.accidents - 1);
                out.push(next);
            }
        }
        self.trims(world, &mut out);
        self.looks(world, &mut out);
        self.deletes(world, &mut out);
        out
    }

    /// What must hold, in the words of the first promise that does not.
    fn check(&self, world: &World) -> Result<(), &'static str> {
        let over = |one: &Mover| one.dead || one.step == Step::Over;
        let rest = world.movers.iter().all(over);
        if world.rounds > 0 {
            let deleted = world.rounds == 2 && world.reach == 0;
            let tidy = world.movers.iter().all(|one| !one.dead && !one.late && !one.failed);
            if deleted && rest && tidy && world.has != [0; FRAGMENTS] {
                return Err("nothing is left of what was deleted");
            }
            return Ok(());
        }
        if world.has.contains(&0) {
            return Err("no fragment is lost");
        }
        if let Some(look) = &world.look
            && look.at == self.nodes.len()
            && look.seen.contains(&false)
        {
            return Err("whoever looks sees every fragment");
        }
        for (one, other) in [(0, 1), (1, 0)] {
            let back = |step: &Step| matches!(step, Step::Judged { then: Then::TakeBack, .. });
            if back(&world.movers[one].step) && world.movers[other].step == Step::Idle {
                return Err("a move that nobody disturbs is ended");
            }
        }
        for node in &self.nodes {
            let there = (0..self.nodes.len()).filter(|disk| self.nodes[*disk] == *node);
            let there = there.fold(0u8, |set, disk| set | 1 << disk);
            let lost = world.has.iter().filter(|has| **has & !there == 0).count();
            if lost > 1 {
                return Err("the loss of a node takes one fragment");
            }
        }
        let double = world.has.iter().any(|one| one.count_ones() > 1);
        // Where both moved fragments, and one died, both copies may have to stay.
        let late = world.movers.iter().any(|one| one.late || one.dead || one.failed);
        if let Trim::Deleting(seen) = world.trim
            && seen == world.has
            && self.goes(&seen).is_none()
            && (rest && !late && double)
        {
            return Err("what is there twice is cleared up");
        }
        Ok(())
    }
}

/// All worlds; how many, and whether a fragment was moved, taken back and cleared up.
fn explore(space: &Space, start: Seen) -> Result<(usize, [bool; 3]), &'static str> {
    let mover = Mover { step: Step::Idle, dead: false, late: false, failed: false, coming: None };
    let start = World {
        has: start,
        movers: [mover.clone(), mover],
        look: None,
        looks: space.looks,
        trim: Trim::Idle,
        accidents: space.accidents,
        rounds: 0,
        reach: 0,
    };
    let mut known = BTreeSet::from([start.clone()]);
    let mut open = VecDeque::from([start]);
    let mut goals = [false; 3];
    while let Some(world) = open.pop_front() {
        for next in space.successors(&world) {
            space.check(&next)?;
            if next.rounds == 0 {
                for one in &next.movers {
                    let judged =
                        |wanted| matches!(one.step, Step::Judged { then, .. } if then == wanted);
                    goals[0] |= judged(Then::DeleteOld);
                    goals[1] |= judged(Then::TakeBack);
                }
                let single = next.has.iter().all(|one| one.count_ones() == 1);
                let died = next.movers.iter().any(|one| one.dead);
                goals[2] |= next.trim == Trim::Over && single && died;
            }
            if known.insert(next.clone()) {
                open.push_back(next);
            }
        }
    }
    Ok((known.len(), goals))
}

fn explore_all() -> Result<(usize, [bool; 3]), &'static str> {
    let (mut worlds, mut goals) = (0, [false; 3]);
    // Disks by node; whether the object is deleted, how many look and how many die or are not answered,
    // whether it is cleared up.
    let spaces: [(&[u32], bool, u8, u8, bool); 5] = [
        (&[0, 1, 1], false, 1, 1, true),
        (&[0, 1, 2], false, 1, 0, true),
        (&[0, 1, 2], false, 0, 1, true),
        (&[0, 1, 2], true, 0, 1, false),
        (&[0, 1, 2, 2], false, 0, 1, true),
    ];
    for (nodes, deletes, looks, accidents, trims) in spaces {
        let disks = nodes.len();
        let space = Space { nodes: nodes.to_vec(), deletes, looks, accidents, trims };
        for places in placements(disks, FRAGMENTS) {
            if space.nodes[places[0]] == space.nodes[places[1]] {
                continue;
            }
            let (known, reached) = explore(&space, [1 << places[0], 1 << places[1]])?;
            worlds += known;
            (0..3).for_each(|goal| goals[goal] |= reached[goal]);
        }
    }
    Ok((worlds, goals))
}

#[test]
fn no_interleaving_of_moves_loses_or_leaves_anything() {
    let (worlds, goals) = explore_all().unwrap();
    assert!(worlds > 10_000 && goals == [true; 3], "{worlds} {goals:?}");
}

#[test]
fn every_planted_fault_of_a_move_is_noticed() {
    for mutant in [
        Mutant::AnyWay,
        Mutant::KeepFirst,
        Mutant::Unsettled,
        Mutant::NoSpread,
        Mutant::NoWait,
        Mutant::Unseen,
        Mutant::DeleteFirst,
        Mutant::NoTakeBack,
        Mutant::LateTakeBack,
        Mutant::NoTrim,
    ] {
        MUTANT.set(Some(mutant));
        let found = explore_all();
        MUTANT.set(None);
        let unnoticed = found.is_ok_and(|(_, goals)| goals == [true; 3]);
        assert!(!unnoticed, "{mutant:?}: nobody notices");
    }
    // What is there is the last copy, which the other one has moved there.
    MEND_MUTANT.set(Some(MendMutant::UndoFailed));
    let found = explore_all();
    MEND_MUTANT.set(None);
    assert_eq!(found, Err("no fragment is lost"));
}
