//! The explorer itself on trial: a toy whose answers are known by hand.
//!
//! Two transactions share the items A and B. The writer adds one to both, the reader reads both,
//! so a reader that sees different values saw half a transaction. With two-phase locking it never
//! does. The planted bug lets the writer unlock A before it has locked B; the shortest history that
//! shows it is: the writer locks, increments and unlocks A (3), the reader locks and reads A (2),
//! then locks and reads B (2): 7 moves.

use std::collections::BTreeSet;

use sim::explore::{Bounds, Cut, Goal, NO_PANIC, Violation, World, explore};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Act {
    Lock(usize),
    Unlock(usize),
    Increment(usize),
    Read(usize),
    Panic,
}

use Act::{Increment, Lock, Read, Unlock};

const TWO_PHASE_WRITER: &[Act] =
    &[Lock(0), Lock(1), Increment(0), Increment(1), Unlock(0), Unlock(1)];
const EARLY_UNLOCK_WRITER: &[Act] =
    &[Lock(0), Increment(0), Unlock(0), Lock(1), Increment(1), Unlock(1)];
const READER: &[Act] = &[Lock(0), Read(0), Lock(1), Read(1), Unlock(0), Unlock(1)];
const OPPOSITE_WRITER: &[Act] =
    &[Lock(1), Lock(0), Increment(0), Increment(1), Unlock(0), Unlock(1)];
const PANICKING_WRITER: &[Act] = &[Lock(0), Act::Panic];

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Locks {
    programs: [&'static [Act]; 2],
    next: [usize; 2],
    holder: [Option<usize>; 2],
    items: [u8; 2],
    seen: [Option<u8>; 2],
}

fn world(writer: &'static [Act]) -> Locks {
    Locks {
        programs: [writer, READER],
        next: [0; 2],
        holder: [None; 2],
        items: [0; 2],
        seen: [None; 2],
    }
}

impl World for Locks {
    type Move = (usize, Act);

    fn moves(&self, out: &mut Vec<Self::Move>) {
        for who in 0..2 {
            match self.programs[who].get(self.next[who]) {
                Some(Lock(item)) if self.holder[*item].is_some() => {}
                Some(act) => out.push((who, *act)),
                None => {}
            }
        }
    }

    fn apply(&mut self, (who, act): &Self::Move) -> Result<(), Violation> {
        self.next[*who] += 1;
        match *act {
            Lock(item) => self.holder[item] = Some(*who),
            Unlock(item) => self.holder[item] = None,
            Increment(item) => self.items[item] += 1,
            Read(item) => self.seen[item] = Some(self.items[item]),
            Act::Panic => panic!("planted"),
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Violation> {
        match self.seen {
            [Some(a), Some(b)] if a != b => {
                Err(Violation::new("whole transactions", format!("read A={a} B={b}")))
            }
            _ => Ok(()),
        }
    }

    fn goals(&self) -> Vec<Goal<Self>> {
        fn done(world: &Locks) -> bool {
            (0..2).all(|who| world.next[who] == world.programs[who].len())
        }
        vec![
            Goal { name: "both finish", holds: done },
            Goal { name: "the reader sees the increments", holds: |w| w.seen == [Some(1); 2] },
        ]
    }

    fn describe(&self, (who, act): &Self::Move) -> String {
        format!("{} {act:?}", ["writer", "reader"][*who])
    }
}

/// The same search with exact states, recursively and without any cleverness.
fn naive(world: &Locks, seen: &mut BTreeSet<Locks>) -> u64 {
    let mut moves = Vec::new();
    world.moves(&mut moves);
    let mut transitions = moves.len() as u64;
    for step in &moves {
        let mut after = world.clone();
        after.apply(step).expect("the toy fails in check only");
        if seen.insert(after.clone()) {
            transitions += naive(&after, seen);
        }
    }
    transitions
}

#[test]
fn a_correct_world_is_explored_completely() {
    let start = world(TWO_PHASE_WRITER);
    let mut exact = BTreeSet::from([start.clone()]);
    let transitions = naive(&start, &mut exact);
    for seed in [0, 1, 99] {
        let outcome = explore(&start, &Bounds { seed, ..Bounds::default() });
        assert!(outcome.is_proof(), "{outcome:?}");
        assert_eq!((outcome.states, outcome.transitions), (exact.len(), transitions));
        assert_eq!(outcome.depth, 12, "both programs of six acts, one act a move");
        assert_eq!(outcome.goals[0], ("both finish", Some(12)));
        assert_eq!(outcome.goals[1], ("the reader sees the increments", Some(10)));
    }
}

#[test]
fn the_planted_bug_is_found_by_a_shortest_trace() {
    let outcome = explore(&world(EARLY_UNLOCK_WRITER), &Bounds::default());
    let failure = outcome.failure.expect("the bug is reachable");
    assert_eq!(failure.violation, Violation::new("whole transactions", "read A=1 B=0"));
    assert_eq!(
        failure.trace,
        [
            "writer Lock(0)",
            "writer Increment(0)",
            "writer Unlock(0)",
            "reader Lock(0)",
            "reader Read(0)",
            "reader Lock(1)",
            "reader Read(1)",
        ]
    );
    assert!(failure.to_string().starts_with("violated: whole transactions: read A=1 B=0\n"));
}

#[test]
fn a_cut_space_says_so_and_is_no_proof() {
    let shallow =
        explore(&world(EARLY_UNLOCK_WRITER), &Bounds { depth_max: 6, ..Bounds::default() });
    assert!(shallow.failure.is_none());
    assert_eq!((shallow.cut, shallow.depth), (Some(Cut::Depth), 6));
    assert!(!shallow.is_proof());
    let narrow = explore(&world(TWO_PHASE_WRITER), &Bounds { states_max: 10, ..Bounds::default() });
    assert_eq!((narrow.cut, narrow.states), (Some(Cut::States), 10));
    assert!(!narrow.is_proof());
    let exact = explore(&world(TWO_PHASE_WRITER), &Bounds { depth_max: 12, ..Bounds::default() });
    assert!(exact.is_proof(), "a bound that nothing exceeds cuts nothing");
}

#[test]
fn a_goal_that_is_not_reached_spoils_the_proof() {
    let mut stuck = world(OPPOSITE_WRITER);
    stuck.holder[0] = Some(2);
    let outcome = explore(&stuck, &Bounds::default());
    assert!(outcome.cut.is_none() && outcome.failure.is_none());
    assert_eq!(outcome.missed_goals().count(), 2);
    assert!(!outcome.is_proof());
    let deadlocks = explore(&world(OPPOSITE_WRITER), &Bounds::default());
    assert!(deadlocks.is_proof(), "it can deadlock, yet it can also finish");
}

#[test]
fn a_panic_is_a_violation_with_a_trace() {
    let outcome = explore(&world(PANICKING_WRITER), &Bounds::default());
    let failure = outcome.failure.expect("the panic is reachable");
    assert_eq!(failure.violation, Violation::new(NO_PANIC, "planted"));
    assert_eq!(failure.trace, ["writer Lock(0)", "writer Panic"]);
}

#[test]
fn a_violation_in_the_start_has_an_empty_trace() {
    let mut broken = world(TWO_PHASE_WRITER);
    broken.seen = [Some(0), Some(1)];
    let failure = explore(&broken, &Bounds::default()).failure.expect("broken from the start");
    assert!(failure.trace.is_empty());
}

/// A bag of tokens where the order of arrival means nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Bag(Vec<u8>);

impl World for Bag {
    type Move = u8;

    fn moves(&self, out: &mut Vec<u8>) {
        out.extend((0..3).filter(|token| !self.0.contains(token)));
    }

    fn apply(&mut self, token: &u8) -> Result<(), Violation> {
        self.0.push(*token);
        Ok(())
    }

    fn check(&self) -> Result<(), Violation> {
        if self.0.len() == 3 { Err(Violation::new("never full", "three tokens")) } else { Ok(()) }
    }

    fn canonical(&mut self) {
        self.0.sort_unstable();
    }
}

#[test]
fn canonical_forms_merge_symmetric_states() {
    let outcome = explore(&Bag(Vec::new()), &Bounds { depth_max: 2, ..Bounds::default() });
    assert_eq!(outcome.states, 7, "the subsets of three tokens except the full one");
    let failure = explore(&Bag(Vec::new()), &Bounds::default()).failure.expect("three fit");
    assert_eq!(failure.trace, ["0", "1", "2"]);
}
