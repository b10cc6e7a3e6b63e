//! Every way in which an object can be put, deleted, put again and collected while disks of one
//! Domain or the other are away.

use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;

extern crate std;

use super::deletion::{
    Deletion, MUTANT, Mutant, deletion, goes_first, is_deleted, living, marks_first, may_forget,
};
use super::layout::{Layout, Set};
use super::verdict::{Seen, Verdict, verdict};

/// Two Domains with two disks each; fragment i is on disk i. 2+2, c = 3: any two give the object.
const DISKS: usize = 4;
const ACKNOWLEDGE: usize = 3;
/// By group: fragment i belongs to group i % 2, which is a Domain.
const DOMAIN: [Set; 2] = [0b0101, 0b1010];
const ALL: Set = 0b1111;
/// Generations of the first and the second put: the clock of who puts it the second time may be behind,
/// if he sees nothing of the first one.
const NUMBERS: [[u64; 2]; 2] = [[10, 20], [20, 10]];

/// One who deletes, or puts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Doing {
    Nothing,
    /// A put: which disks have stored its fragment.
    Putting(usize, Set),
    /// A delete, of the disks that were there when it began: those it has not marked yet and those
    /// on which it has not deleted yet; of these puts, and of each what goes first.
    Deleting {
        there: Set,
        mark: Set,
        first: [Set; 2],
        delete: Set,
        puts: [bool; 2],
    },
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct World {
    numbers: [u64; 2],
    /// By put: disks with its fragment, and with its mark.
    has: [Set; 2],
    marked: [Set; 2],
    away: Set,
    outages: u8,
    /// What the owner does, and what he has done.
    owner: Doing,
    put: usize,
    acknowledged: [bool; 2],
    /// By put: a delete that was to delete it was begun; it was done, by these disks.
    doomed: [bool; 2],
    gone: [Set; 2],
    deletes: u8,
}

fn layout() -> Layout {
    Layout::new(2, 2, 2, 0).unwrap()
}

impl World {
    fn up(&self) -> Set {
        ALL & !self.away
    }

    /// What is seen by who reaches these disks.
    fn look(&self, up: Set) -> (Vec<Seen>, BTreeSet<u64>, bool) {
        let out_of_reach = (ALL & !up).count_ones() as usize;
        let put = |one: usize| Seen {
            generation: self.numbers[one],
            layout: layout(),
            acknowledge: ACKNOWLEDGE,
            out_of_reach,
            pieces: [self.has[one] & up].into(),
        };
        let seen = (0..2).filter(|one| self.has[*one] & up != 0).map(put).collect();
        let marks = (0..2).filter(|one| self.marked[*one] & up != 0).map(|one| self.numbers[one]);
        (seen, marks.collect(), out_of_reach >= ACKNOWLEDGE)
    }

    fn judge(&self, up: Set) -> Verdict {
        let (seen, marks, hidden) = self.look(up);
        verdict(&living(seen, &marks), hidden)
    }

    fn with(&self, change: impl FnOnce(&mut World)) -> World {
        let mut next = self.clone();
        change(&mut next);
        next
    }
}

fn each(set: Set) -> impl Iterator<Item = usize> {
    (0..DISKS).filter(move |disk| set & 1 << disk != 0)
}

fn outages(world: &World, out: &mut Vec<World>) {
    if world.away != 0 {
        out.push(world.with(|next| next.away = 0));
    } else if world.outages > 0 {
        for away in [DOMAIN[0], DOMAIN[1], 0b0001, 0b0111] {
            out.push(world.with(|next| {
                next.away = away;
                next.outages -= 1;
            }));
        }
    }
}

/// The owner puts, deletes, puts the same again and deletes it again; he may die anywhere.
fn owner(world: &World, out: &mut Vec<World>) {
    match world.owner {
        Doing::Nothing => begins(world, out),
        Doing::Putting(put, asked) => {
            out.push(world.with(|next| next.owner = Doing::Nothing));
            for disk in each(world.up() & asked) {
                out.push(world.with(|next| {
                    next.has[put] |= 1 << disk;
                    next.owner = Doing::Putting(put, asked & !(1 << disk));
                }));
            }
            if (ALL & !asked).count_ones() as usize >= ACKNOWLEDGE {
                out.push(world.with(|next| {
                    next.acknowledged[put] = true;
                    next.owner = Doing::Nothing;
                }));
            }
        }
        Doing::Deleting { there, mark, first, delete, puts } => {
            // Cut off, or a disk that was there is not any more.
            out.push(world.with(|next| next.owner = Doing::Nothing));
            for put in 0..2 {
                for disk in each(first[put] & world.up()) {
                    out.push(world.with(|next| {
                        next.has[put] &= !(1 << disk);
                        let mut first = first;
                        first[put] &= !(1 << disk);
                        next.owner = Doing::Deleting { there, mark, first, delete, puts };
                    }));
                }
            }
            let (now, then) = if marks_first() { (mark, delete) } else { (delete, mark) };
            let marking = (now != 0) == marks_first();
            let rest = if first != [0; 2] {
                0
            } else if now != 0 {
                now
            } else {
                then
            };
            for disk in each(rest & world.up()) {
                out.push(world.with(|next| {
                    let bit = 1 << disk;
                    for put in (0..2).filter(|put| puts[*put]) {
                        if marking {
                            next.marked[put] |= bit;
                        } else {
                            next.has[put] &= !bit;
                        }
                    }
                    let (mark, delete) =
                        if marking { (mark & !bit, delete) } else { (mark, delete & !bit) };
                    next.owner = Doing::Deleting { there, mark, first, delete, puts };
                }));
            }
            if first == [0; 2] && mark | delete == 0 {
                out.push(world.with(|next| {
                    for put in (0..2).filter(|put| puts[*put]) {
                        next.gone[put] = there;
                    }
                    next.owner = Doing::Nothing;
                }));
            }
        }
    }
}

fn begins(world: &World, out: &mut Vec<World>) {
    let again = world.put < 2 && (0..world.put).all(|put| world.gone[put] != 0);
    let (seen, marks, _) = world.look(world.up());
    let is_later = world.put == 0 || world.numbers[0] < world.numbers[1];
    let knows_none = seen.is_empty() && marks.is_empty();
    if again && (is_later || knows_none) && world.judge(world.up()) == Verdict::Absent {
        out.push(world.with(|next| {
            next.owner = Doing::Putting(world.put, ALL);
            next.put += 1;
        }));
    }
    if world.put > 0 && world.deletes > 0 && world.up() != 0 {
        let (seen, marks, hidden) = world.look(world.up());
        let marked = match deletion(&seen, &marks, hidden) {
            Deletion::Refuse => return,
            Deletion::Mark(marked) => marked,
        };
        // What was never acknowledged, and of which nobody who is there has anything, is promised
        // nothing.
        let is_seen = |put: usize| seen.iter().any(|one| one.generation == world.numbers[put]);
        let puts = [0, 1].map(|put| world.acknowledged[put] || is_seen(put));
        out.push(world.with(|next| {
            let mark = if marked.is_empty() { 0 } else { world.up() };
            let (there, delete) = (world.up(), world.up());
            let first = world.has.map(|has| match marked.is_empty() {
                true => goes_first(&layout(), has & world.up()),
                false => 0,
            });
            next.owner = Doing::Deleting { there, mark, first, delete, puts };
            next.deletes -= 1;
            for put in (0..2).filter(|put| puts[*put]) {
                next.doomed[put] = true;
            }
        }));
    }
}

/// Upkeep: of what is deleted, and of what is not stored and old, fragments go, and then marks.
fn collects(world: &World, out: &mut Vec<World>) {
    let (seen, marks, _) = world.look(world.up());
    let under_way = |put: usize| matches!(world.owner, Doing::Putting(one, _) if one == put);
    let verdict = world.judge(world.up());
    for put in 0..2 {
        let deleted = is_deleted(world.numbers[put], &marks);
        let other = match &verdict {
            Verdict::Absent => true,
            Verdict::Stored(stored) => stored.enough() && stored.generation != world.numbers[put],
            Verdict::Unknown => false,
        };
        if deleted || other && !under_way(put) {
            for disk in each(world.has[put] & world.up()) {
                out.push(world.with(|next| next.has[put] &= !(1 << disk)));
            }
        }
        let left = seen.iter().any(|one| one.generation == world.numbers[put]);
        if may_forget(world.away == 0, left) {
            for disk in each(world.marked[put] & world.up()) {
                out.push(world.with(|next| next.marked[put] &= !(1 << disk)));
            }
        }
    }
}

fn check(world: &World) -> Result<(), &'static str> {
    for put in 0..2 {
        let kept = world.acknowledged[put] && !world.doomed[put];
        if kept && (world.has[put].count_ones() as usize) < ACKNOWLEDGE {
            return Err("what was not deleted stays");
        }
        if kept {
            for away in 0..=ALL {
                if world.judge(ALL & !away) == Verdict::Absent {
                    return Err("what was not deleted is not taken for absent");
                }
            }
        }
        // Whoever reaches one of those that took part in a delete knows of it.
        let told = (1..=ALL).filter(|up| world.gone[put] & up != 0);
        for up in told {
            let verdict = world.judge(up);
            let stored = |one: &Seen| one.generation == world.numbers[put];
            if matches!(&verdict, Verdict::Stored(one) if stored(one)) {
                return Err("what was deleted is not stored");
            }
        }
    }
    Ok(())
}

/// With everybody there, and once what is stored is mended, nothing of what was deleted is left in the end.
fn settles(world: &World) -> Result<(), &'static str> {
    let mut world = world.with(|next| (next.away, next.owner) = (0, Doing::Nothing));
    for _ in 0..100 {
        // What is stored is mended.
        if let Verdict::Stored(seen) = world.judge(ALL) {
            world.has[usize::from(seen.generation == world.numbers[1])] = ALL;
        }
        let mut out = Vec::new();
        collects(&world, &mut out);
        match out.pop() {
            Some(next) => world = next,
            None => break,
        }
    }
    for put in 0..2 {
        if world.gone[put] != 0 && world.has[put] | world.marked[put] != 0 {
            return Err("nothing is left for ever");
        }
    }
    Ok(())
}

/// All worlds: how many, and in how many a put that was made after a delete is acknowledged while the
/// first one is marked.
fn explore(numbers: [u64; 2]) -> Result<(usize, usize), &'static str> {
    let start = World {
        numbers,
        has: [0; 2],
        marked: [0; 2],
        away: 0,
        outages: 2,
        owner: Doing::Nothing,
        put: 0,
        acknowledged: [false; 2],
        doomed: [false; 2],
        gone: [0; 2],
        deletes: 2,
    };
    let mut known = BTreeSet::from([start.clone()]);
    let mut open = VecDeque::from([start]);
    let mut both = 0;
    while let Some(world) = open.pop_front() {
        let mut out = Vec::new();
        outages(&world, &mut out);
        owner(&world, &mut out);
        collects(&world, &mut out);
        for next in out {
            if !known.contains(&next) {
                check(&next).and_then(|()| settles(&next)).inspect_err(|why| {
                    std::println!("{why}: {next:?} after {world:?}");
                })?;
                both += usize::from(next.marked[0] != 0 && next.acknowledged[1]);
                known.insert(next.clone());
                open.push_back(next);
            }
        }
    }
    Ok((known.len(), both))
}

#[test]
fn what_is_deleted_while_disks_are_away_is_gone_and_nothing_else() {
    for numbers in NUMBERS {
        let (worlds, both) = explore(numbers).unwrap();
        assert!(worlds > 10_000 && both > 0, "{worlds} {both}");
    }
}

#[test]
fn every_planted_fault_is_noticed() {
    for mutant in [
        Mutant::NoMark,
        Mutant::AllAtOnce,
        Mutant::DeleteFirst,
        Mutant::IgnoreMarks,
        Mutant::MarkTheName,
        Mutant::MarkEarlier,
        Mutant::ForgetEarly,
        Mutant::ForgetLeft,
        Mutant::NeverForget,
        Mutant::DeleteHidden,
    ] {
        MUTANT.set(Some(mutant));
        let found = NUMBERS.into_iter().any(|numbers| explore(numbers).is_err());
        MUTANT.set(None);
        assert!(found, "{mutant:?}: nobody notices");
    }
}
