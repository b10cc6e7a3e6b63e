//! Fuzzing of everything that parses bytes: one [`Target`] each, shared by two drivers.
//!
//! * The seeded loop ([`run`]; program `fuzz`, and a short run in the unit tests): the same seed
//!   gives the same cases on every machine, on the stable compiler. CI runs this one.
//! * `ovs_daemon/native/fuzz`: the same targets for cargo-fuzz, guided by coverage, for long runs on
//!   a nightly compiler.
//!
//! A target panics when the parser does, and when something that the parser accepted does not
//! survive encoding and parsing again. Random bytes alone would never get past a checksum, so each
//! target knows valid inputs to start from, and how to *seal* a damaged one: put magic, version and
//! checksums right, so that the damage reaches the code behind them.

mod formats;
mod mds;
mod mutate;
mod osd;
mod protocols;

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::random::Random;

pub use mutate::mutate;

/// A parser on trial.
pub struct Target {
    /// Its name: that of the program in `ovs_daemon/native/fuzz/fuzz_targets`.
    pub name: &'static str,
    /// Parses the input; panics when a promise is broken. True when the input was accepted.
    pub run: fn(&[u8]) -> bool,
    /// Valid inputs.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Puts magic, version and checksums right.
    pub seal: fn(&mut [u8]),
}

/// Every target.
pub fn targets() -> Vec<Target> {
    let all = formats::targets().into_iter().chain(protocols::targets());
    all.chain(osd::targets()).chain([mds::target()]).collect()
}

/// The target of this name.
///
/// # Panics
/// When there is none: the caller's name for it has a mistake.
pub fn target(name: &str) -> Target {
    let found = targets().into_iter().find(|target| target.name == name);
    found.unwrap_or_else(|| panic!("there is no fuzz target {name}"))
}

/// What a cargo-fuzz program does with an input: tries it as it is, and sealed.
pub fn drive(name: &str, input: &[u8]) {
    let target = target(name);
    (target.run)(input);
    let mut sealed = input.to_vec();
    (target.seal)(&mut sealed);
    (target.run)(&sealed);
}

/// What a run of the seeded loop saw.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Inputs tried.
    pub cases: u64,
    /// Inputs that the parser accepted: proof that the loop gets past the checksums.
    pub accepted: u64,
    /// The first input on which the target panicked, and what it said.
    pub failure: Option<(Vec<u8>, String)>,
}

/// Tries the valid inputs and `cases` damaged ones; stops at the first panic.
pub fn run(target: &Target, seed: u64, cases: u64) -> Tally {
    let seeds = (target.seeds)();
    let mut random = Random::new(seed);
    let mut tally = Tally::default();
    for input in &seeds {
        if !attempt(target, input, &mut tally) {
            return tally;
        }
    }
    for _ in 0..cases {
        let mut input = seeds[random.index(seeds.len())].clone();
        mutate(&mut input, &seeds, &mut random);
        if random.chance(7, 8) {
            (target.seal)(&mut input);
        }
        if !attempt(target, &input, &mut tally) {
            return tally;
        }
    }
    tally
}

fn attempt(target: &Target, input: &[u8], tally: &mut Tally) -> bool {
    tally.cases += 1;
    match catch_unwind(AssertUnwindSafe(|| (target.run)(input))) {
        Ok(accepted) => {
            tally.accepted += u64::from(accepted);
            true
        }
        Err(cause) => {
            let text = cause.downcast_ref::<String>().cloned();
            let text = text.or_else(|| cause.downcast_ref::<&str>().map(ToString::to_string));
            tally.failure = Some((input.to_vec(), text.unwrap_or_default()));
            false
        }
    }
}
