//! The exhaustive explorer: every state of a small world that can be reached, breadth first.
//!
//! A *world* is the production state machine together with everything around it that may act:
//! clients, disks, networks, crashes. It lists the moves that are possible in its present state;
//! the explorer takes each of them, checks the invariants in every state that it has not seen
//! before, and goes on until nothing new is left. Because the search is breadth first, the trace
//! to a violation is a shortest one.
//!
//! A visited state is remembered as a 128-bit fingerprint (see [`crate::fingerprint`] for the odds
//! that this hides a state) and as eight bytes: its parent and the number of the move that led to
//! it. A trace is rebuilt by playing those moves again from the start, which works because worlds
//! are deterministic: the same state always lists the same moves in the same order.
//!
//! An explored space proves something only when two more things hold, and the report says both:
//! the space was not cut by a bound, and the things that ought to happen did happen (*goals*): a
//! world whose disk never works violates nothing.

use std::collections::HashSet;
use std::fmt::{self, Debug};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::fingerprint::fingerprint;

/// A broken promise: which invariant, and what was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The invariant's name as listed in `doc/verification.md`.
    pub invariant: &'static str,
    /// What was found and what was expected instead.
    pub detail: String,
}

impl Violation {
    /// Builds a violation; a shorthand for worlds.
    pub fn new(invariant: &'static str, detail: impl Into<String>) -> Self {
        Violation { invariant, detail: detail.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.detail)
    }
}

/// The name under which a panic of the machine under test is reported.
pub const NO_PANIC: &str = "no panic";

/// Something that must be reached somewhere in the explored space.
pub struct Goal<W> {
    /// What is reached, as a sentence: "an upload succeeds after a failed one".
    pub name: &'static str,
    /// Holds in a state that has reached it.
    pub holds: fn(&W) -> bool,
}

/// A closed, deterministic world around a machine under test.
pub trait World: Clone + Eq + Hash {
    /// One thing that can happen.
    type Move: Debug + Clone;

    /// Appends every move that is possible now, always in the same order for the same state.
    fn moves(&self, out: &mut Vec<Self::Move>);

    /// Makes one of the listed moves happen.
    ///
    /// # Errors
    /// The violation, when the move itself breaks a promise (a wrong answer to a client, say).
    fn apply(&mut self, step: &Self::Move) -> Result<(), Violation>;

    /// Checks what must hold in every state.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    fn check(&self) -> Result<(), Violation>;

    /// Brings the state into the form that stands for all its symmetric twins (sorted bags,
    /// renumbered tokens). States that differ only in history that can no longer matter should
    /// become equal here.
    fn canonical(&mut self) {}

    /// What must be reached somewhere; asked of the start only.
    fn goals(&self) -> Vec<Goal<Self>> {
        Vec::new()
    }

    /// One readable line for a move that is about to happen in this state.
    fn describe(&self, step: &Self::Move) -> String {
        format!("{step:?}")
    }
}

/// Where the search stops although there is more.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Largest number of different states to visit.
    pub states_max: usize,
    /// Largest number of moves from the start.
    pub depth_max: usize,
    /// Selects the fingerprint function; any value gives the same counts.
    pub seed: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds { states_max: 20_000_000, depth_max: usize::MAX, seed: 0 }
    }
}

/// The bound that cut the space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// `states_max` was reached.
    States,
    /// States at `depth_max` still had moves.
    Depth,
}

/// A violation with the shortest way to it.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What was broken.
    pub violation: Violation,
    /// One line per move, from the start to the violation.
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "violated: {}", self.violation)?;
        for (number, line) in self.trace.iter().enumerate() {
            writeln!(f, "  {:>2}. {line}", number + 1)?;
        }
        Ok(())
    }
}

/// What the search found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Different states visited.
    pub states: usize,
    /// Moves made, including those that led to a known state.
    pub transitions: u64,
    /// Moves from the start to the farthest visited state.
    pub depth: usize,
    /// The bound that cut the space; `None` means that the space is complete.
    pub cut: Option<Cut>,
    /// Each goal with the depth at which it was first reached.
    pub goals: Vec<(&'static str, Option<usize>)>,
    /// The first violation; the search ends with it.
    pub failure: Option<Failure>,
}

impl Outcome {
    /// Every reachable state was visited and nothing was violated.
    pub fn is_proof(&self) -> bool {
        self.cut.is_none() && self.failure.is_none() && self.missed_goals().next().is_none()
    }

    /// Goals that no visited state reached.
    pub fn missed_goals(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.goals.iter().filter(|(_, at)| at.is_none()).map(|(name, _)| *name)
    }
}

/// Explores everything that can be reached from `start` within `bounds`.
pub fn explore<W: World>(start: &W, bounds: &Bounds) -> Outcome {
    let mut search = Search::new(start, bounds);
    let failure = search.run();
    let mut outcome = search.outcome;
    outcome.failure = failure;
    outcome
}

/// A fingerprint is already a hash; hashing it again would only cost time.
#[derive(Default)]
struct Passthrough(u64);

impl Hasher for Passthrough {
    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("the visited set holds u128 keys only");
    }

    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// How a state was reached: the number of its parent, and which of the parent's moves it was.
#[derive(Clone, Copy)]
struct Origin {
    parent: u32,
    choice: u32,
}

struct Search<'a, W: World> {
    start: &'a W,
    bounds: &'a Bounds,
    goals: Vec<Goal<W>>,
    visited: HashSet<u128, BuildHasherDefault<Passthrough>>,
    origins: Vec<Origin>,
    outcome: Outcome,
}

impl<'a, W: World> Search<'a, W> {
    fn new(start: &'a W, bounds: &'a Bounds) -> Self {
        let goals = start.goals();
        let outcome = Outcome {
            states: 0,
            transitions: 0,
            depth: 0,
            cut: None,
            goals: goals.iter().map(|goal| (goal.name, None)).collect(),
            failure: None,
        };
        let (visited, origins) = (HashSet::default(), Vec::new());
        Search { start, bounds, goals, visited, origins, outcome }
    }

    fn run(&mut self) -> Option<Failure> {
        let mut first = self.start.clone();
        first.canonical();
        self.visit(&first, Origin { parent: 0, choice: 0 });
        if let Err(violation) = guarded(|| first.check()) {
            return Some(Failure { violation, trace: Vec::new() });
        }
        let mut frontier = vec![(0u32, first)];
        let mut moves = Vec::new();
        while !frontier.is_empty() {
            let mut next = Vec::new();
            for (number, world) in frontier {
                moves.clear();
                world.moves(&mut moves);
                if self.outcome.depth >= self.bounds.depth_max {
                    if !moves.is_empty() {
                        self.outcome.cut = Some(Cut::Depth);
                    }
                    continue;
                }
                for (choice, step) in moves.iter().enumerate() {
                    let origin = Origin { parent: number, choice: choice as u32 };
                    if let Err(violation) = self.take(&world, step, origin, &mut next) {
                        return Some(self.failure(violation, origin));
                    }
                    if self.outcome.cut == Some(Cut::States) {
                        return None;
                    }
                }
            }
            if !next.is_empty() {
                self.outcome.depth += 1;
                self.reach_goals(&next);
            }
            frontier = next;
        }
        None
    }

    /// Makes one move; appends the state to `next` when it is new.
    fn take(
        &mut self,
        world: &W,
        step: &W::Move,
        origin: Origin,
        next: &mut Vec<(u32, W)>,
    ) -> Result<(), Violation> {
        let mut after = world.clone();
        self.outcome.transitions += 1;
        guarded(|| after.apply(step))?;
        after.canonical();
        if !self.visit(&after, origin) {
            return Ok(());
        }
        guarded(|| after.check())?;
        next.push((self.origins.len() as u32 - 1, after));
        if self.outcome.states >= self.bounds.states_max.min(u32::MAX as usize) {
            self.outcome.cut = Some(Cut::States);
            self.outcome.depth += 1;
            self.reach_goals(next);
        }
        Ok(())
    }

    /// Remembers a state; true when it was not known.
    fn visit(&mut self, world: &W, origin: Origin) -> bool {
        if !self.visited.insert(fingerprint(world, self.bounds.seed)) {
            return false;
        }
        self.origins.push(origin);
        self.outcome.states += 1;
        if self.outcome.states == 1 {
            for (goal, reached) in self.goals.iter().zip(&mut self.outcome.goals) {
                reached.1 = (goal.holds)(world).then_some(0);
            }
        }
        true
    }

    fn reach_goals(&mut self, level: &[(u32, W)]) {
        let depth = self.outcome.depth;
        for (goal, reached) in self.goals.iter().zip(&mut self.outcome.goals) {
            if reached.1.is_none() && level.iter().any(|(_, world)| (goal.holds)(world)) {
                reached.1 = Some(depth);
            }
        }
    }

    /// Plays the moves to the violation again and describes each of them.
    fn failure(&self, violation: Violation, last: Origin) -> Failure {
        let mut choices = vec![last.choice];
        let mut number = last.parent;
        while number != 0 {
            let origin = self.origins[number as usize];
            choices.push(origin.choice);
            number = origin.parent;
        }
        let mut world = self.start.clone();
        world.canonical();
        let mut trace = Vec::with_capacity(choices.len());
        for choice in choices.into_iter().rev() {
            let mut moves = Vec::new();
            world.moves(&mut moves);
            let step = &moves[choice as usize];
            trace.push(world.describe(step));
            // The last move may be the one that fails or panics; what it says is known already.
            if guarded(|| world.apply(step)).is_err() {
                break;
            }
            world.canonical();
        }
        Failure { violation, trace }
    }
}

/// Runs the machine under test; its panic is a violation with a trace like any other, unless the
/// build aborts on panic.
fn guarded(run: impl FnOnce() -> Result<(), Violation>) -> Result<(), Violation> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|cause| {
        let text = cause
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| cause.downcast_ref::<&str>().map(ToString::to_string))
            .unwrap_or_else(|| "a panic without a message".to_string());
        Err(Violation::new(NO_PANIC, text))
    })
}
