//! A short run of the seeded fuzz loop over every parser, and every input that ever broke one.
#![allow(clippy::disallowed_methods)]

use std::path::Path;

use sim::fuzz::{Target, run, targets};

#[test]
fn no_parser_panics_and_what_is_accepted_can_be_written_again() {
    for target in targets() {
        let tally = run(&target, 1, 3_000);
        if let Some((input, why)) = tally.failure {
            panic!("{} on {input:02x?}: {why}", target.name);
        }
        let reached = tally.accepted * 20 >= tally.cases;
        assert!(reached, "{}: {} accepted: too few get deep", target.name, tally.accepted);
    }
}

#[test]
fn the_loop_repeats_itself_and_finds_a_planted_panic() {
    fn fragile(bytes: &[u8]) -> bool {
        assert!(!(bytes.len() > 3 && bytes[2] == 0xff), "planted");
        true
    }
    let planted =
        Target { name: "planted", run: fragile, seeds: || vec![vec![0; 64]], seal: |_| {} };
    let first = run(&planted, 4, 100_000);
    let (input, why) = first.failure.expect("a byte of a small input is hit soon");
    assert_eq!((input[2], why.as_str()), (0xff, "planted"));
    let second = run(&planted, 4, 100_000);
    assert_eq!((second.cases, second.failure), (first.cases, Some((input, why))));
}

#[test]
fn inputs_that_once_broke_a_parser_are_handled() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/regressions");
    for target in targets() {
        let Ok(inputs) = std::fs::read_dir(root.join(target.name)) else {
            continue;
        };
        for input in inputs {
            let path = input.expect("the folder is readable").path();
            (target.run)(&std::fs::read(&path).expect("the file is readable"));
        }
    }
}
