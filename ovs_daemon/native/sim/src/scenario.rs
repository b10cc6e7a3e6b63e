//! Worlds by name: one list that the `explore` program, CI and `doc/verification.md` share.
//!
//! A scenario is a world within bounds, together with its *mutants*: copies of the machine with one
//! planted fault each. An invariant that no mutant ever broke might as well always be true, so a
//! scenario passes only when the real machine breaks nothing, every goal is reached, every mutant
//! is caught, by the invariant that is meant to catch it, and every invariant caught a mutant.

use crate::explore::{Bounds, Cut, Outcome, World, explore};

/// A planted fault.
pub struct Mutant {
    /// The fault in a few words: "acknowledges a flush before the sync".
    pub name: &'static str,
    /// The invariant that must catch it.
    pub caught_by: &'static str,
    run: Box<dyn Fn(&Bounds) -> Outcome>,
}

/// A named world with its bounds, invariants and mutants.
pub struct Scenario {
    /// A short name, used on the command line and in reports.
    pub name: &'static str,
    /// The machine under test, as a path in the source.
    pub machine: &'static str,
    /// The bounds of the world in words: "3 writes, 1 flush, 2 crashes".
    pub bounds: String,
    /// Each invariant with the promise it states.
    pub invariants: Vec<(&'static str, &'static str)>,
    /// The planted faults.
    pub mutants: Vec<Mutant>,
    run: Box<dyn Fn(&Bounds) -> Outcome>,
}

impl Scenario {
    /// A scenario without mutants yet.
    pub fn new<W: World + 'static>(
        name: &'static str,
        machine: &'static str,
        bounds: String,
        invariants: &[(&'static str, &'static str)],
        start: W,
    ) -> Self {
        Scenario {
            name,
            machine,
            bounds,
            invariants: invariants.to_vec(),
            mutants: Vec::new(),
            run: Box::new(move |bounds| explore(&start, bounds)),
        }
    }

    /// Adds a mutant: a world whose machine has the fault planted.
    #[must_use]
    pub fn mutant<W: World + 'static>(
        mut self,
        name: &'static str,
        caught_by: &'static str,
        start: W,
    ) -> Self {
        let run = Box::new(move |bounds: &Bounds| explore(&start, bounds));
        self.mutants.push(Mutant { name, caught_by, run });
        self
    }

    /// Explores the real machine.
    pub fn explore(&self, bounds: &Bounds) -> Outcome {
        (self.run)(bounds)
    }

    /// Invariants that no mutant is meant to break: unproven promises.
    pub fn unproven(&self) -> Vec<&'static str> {
        self.invariants
            .iter()
            .map(|(name, _)| *name)
            .filter(|name| self.mutants.iter().all(|mutant| mutant.caught_by != *name))
            .collect()
    }
}

impl Mutant {
    /// Explores the faulty machine until the fault shows.
    pub fn explore(&self, bounds: &Bounds) -> Outcome {
        (self.run)(bounds)
    }

    /// Says why the mutant does not count as caught; `None` when it was caught as it should be.
    pub fn survival(&self, outcome: &Outcome) -> Option<String> {
        match &outcome.failure {
            None => Some(format!("mutant survived: {}", self.name)),
            Some(failure) if failure.violation.invariant == self.caught_by => None,
            Some(failure) => Some(format!(
                "mutant caught by the wrong invariant: {} was meant to break `{}`, it broke: {}",
                self.name, self.caught_by, failure.violation
            )),
        }
    }
}

/// Everything that is wrong with the exploration of the real machine; empty when it is a proof
/// within its bounds. A cut by `depth_max` or `states_max` counts as wrong: the published bounds
/// are the world's own and are meant to be exhausted.
pub fn complaints(scenario: &Scenario, outcome: &Outcome) -> Vec<String> {
    let mut wrong = Vec::new();
    if let Some(failure) = &outcome.failure {
        wrong.push(failure.to_string());
    } else {
        wrong.extend(outcome.missed_goals().map(|name| format!("goal not reached: {name}")));
    }
    match outcome.cut {
        Some(Cut::States) => wrong.push(format!("cut after {} states", outcome.states)),
        Some(Cut::Depth) => wrong.push(format!("cut after {} moves", outcome.depth)),
        None => {}
    }
    let unproven = scenario.unproven();
    wrong.extend(unproven.iter().map(|name| format!("invariant without a mutant: {name}")));
    wrong
}
