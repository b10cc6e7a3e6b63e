//! `fuzz`: the seeded fuzz loop over every parser.
//!
//! ```text
//! fuzz [--target NAME] [--cases N] [--seed N] [--artifacts DIR] [--replay FILE] [--corpus DIR]
//! ```
//!
//! Each target gets `--cases` damaged inputs (200000 unless told). The first input that makes a
//! target panic is saved in `--artifacts` (the present folder unless told); `--replay FILE` with
//! `--target NAME` runs it again. Such a file belongs in `ovs_daemon/native/fuzz/regressions/NAME/`
//! once the parser is mended: the unit tests replay everything there. `--corpus DIR` only writes the
//! valid inputs to `DIR/NAME/`, where cargo-fuzz looks for inputs to start from.
// A program's main may use files; the library may not.
#![allow(clippy::disallowed_methods)]

use std::process::ExitCode;

use sim::fuzz::{Target, run, target, targets};

struct Options {
    target: Option<String>,
    cases: u64,
    seed: u64,
    artifacts: String,
    replay: Option<String>,
    corpus: Option<String>,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        target: None,
        cases: 200_000,
        seed: 1,
        artifacts: ".".to_string(),
        replay: None,
        corpus: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{argument} needs a value"))?;
        let number = || value.parse().map_err(|_| format!("{argument} {value}: not a number"));
        match argument.as_str() {
            "--cases" => options.cases = number()?,
            "--seed" => options.seed = number()?,
            "--target" => options.target = Some(value),
            "--artifacts" => options.artifacts = value,
            "--corpus" => options.corpus = Some(value),
            "--replay" => options.replay = Some(value),
            _ => return Err(format!("unknown option {argument}; see the top of fuzz.rs")),
        }
    }
    Ok(options)
}

/// Runs one target; true when nothing broke.
fn try_target(target: &Target, options: &Options) -> Result<bool, String> {
    let tally = run(target, options.seed, options.cases);
    println!("{:<24} {:>9} cases, {:>9} accepted", target.name, tally.cases, tally.accepted);
    let Some((input, why)) = tally.failure else {
        return Ok(true);
    };
    let path = format!("{}/{}-{}.bin", options.artifacts, target.name, options.seed);
    std::fs::write(&path, &input).map_err(|why| format!("writing {path}: {why}"))?;
    println!("{} panicked on {} bytes saved in {path}: {why}", target.name, input.len());
    Ok(false)
}

fn write_corpus(target: &Target, root: &str) -> Result<(), String> {
    let dir = format!("{root}/{}", target.name);
    std::fs::create_dir_all(&dir).map_err(|why| format!("creating {dir}: {why}"))?;
    for (number, input) in (target.seeds)().iter().enumerate() {
        let path = format!("{dir}/valid-{number}");
        std::fs::write(&path, input).map_err(|why| format!("writing {path}: {why}"))?;
    }
    Ok(())
}

fn program() -> Result<bool, String> {
    let options = options()?;
    if let Some(path) = &options.replay {
        let name = options.target.as_deref().ok_or("--replay needs --target")?;
        let input = std::fs::read(path).map_err(|why| format!("reading {path}: {why}"))?;
        let accepted = (target(name).run)(&input);
        println!("{name}: {}", if accepted { "accepted" } else { "refused" });
        return Ok(true);
    }
    let mut fine = true;
    for target in targets() {
        if options.target.as_deref().is_some_and(|name| name != target.name) {
            continue;
        }
        match &options.corpus {
            Some(root) => write_corpus(&target, root)?,
            None => fine &= try_target(&target, &options)?,
        }
    }
    Ok(fine)
}

fn main() -> ExitCode {
    match program() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("fuzz: {why}");
            ExitCode::from(2)
        }
    }
}
