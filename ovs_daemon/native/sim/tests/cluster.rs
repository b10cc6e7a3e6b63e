//! The simulation of a whole cluster: it repeats itself, it passes, and it notices mistakes.

use sim::cluster::mutants::{SHELL, hunt};
use sim::cluster::{Outcome, Sink, run};

fn traced(seed: u64) -> (Outcome, Vec<String>) {
    let mut lines = Vec::new();
    let mut keep = |line: &str| lines.push(line.to_owned());
    let sink: &mut Sink<'_> = &mut keep;
    (run(seed, None, Some(sink)), lines)
}

#[test]
fn the_same_seed_gives_the_same_trace_to_the_byte() {
    for seed in [3, 8] {
        let (first, lines) = traced(seed);
        let (again, same) = traced(seed);
        assert!(lines == same, "seed {seed} does not repeat itself");
        assert_eq!((first.trace, first.stats), (again.trace, again.stats));
        assert!(lines.len() > 100, "{} lines are too few to mean something", lines.len());
        // Nobody has to listen for it to be the same.
        assert_eq!(run(seed, None, None).trace, first.trace);
    }
    assert_ne!(run(3, None, None).trace, run(8, None, None).trace);
}

#[test]
fn what_was_found_once_is_not_found_again() {
    let corpus = include_str!("../corpus.txt").lines().filter(|line| !line.starts_with('#'));
    let mut seeds = 0;
    for line in corpus {
        let seed = line.split_whitespace().next().expect("a line has a seed");
        let outcome = run(seed.parse().expect("it is a number"), None, None);
        assert!(outcome.violation.is_none(), "{line}: {:?}", outcome.violation);
        seeds += 1;
    }
    assert!(seeds > 0, "the corpus is empty");
}

#[test]
fn an_ignored_lease_is_noticed() {
    let (name, planted) = SHELL[0];
    let (seeds, outcome) = hunt(planted);
    assert!(outcome.is_some(), "{name}: nothing was noticed in {seeds} seeds");
}
