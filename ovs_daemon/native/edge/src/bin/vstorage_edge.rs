//! `vstorage-edge`: serves volumes of an engine on this host to guests, and outlives the engine.
//!
//! ```text
//! vstorage-edge --run-dir DIR [--arena-mib N]
//! ```
//!
//! Sockets in DIR: `edge.sock` (control: JSON lines), `engine.sock` (the engine's; we connect),
//! `nbd/<uuid>.sock` (guests). What is attached is kept in `DIR/edge.json`. Log lines go to
//! standard error. SIGTERM and SIGINT end it; guests that connect again find the next one.

use std::path::PathBuf;
use std::process::ExitCode;

use edge::process::{ARENA_BYTES, Process, Setup};
use net::Signals;

const USAGE: &str = "usage: vstorage-edge --run-dir DIR [--arena-mib N]";

fn setup() -> Result<Setup, String> {
    let (mut run_dir, mut arena_bytes) = (None, ARENA_BYTES);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{name} needs a value; {USAGE}"))?;
        match name.as_str() {
            "--run-dir" => run_dir = Some(PathBuf::from(value)),
            "--arena-mib" => {
                let mib = value.parse::<usize>().ok().filter(|mib| (16..=65536).contains(mib));
                let mib = mib.ok_or(format!("--arena-mib {value}: not between 16 and 65536"))?;
                arena_bytes = mib << 20;
            }
            _ => return Err(format!("unknown option {name}; {USAGE}")),
        }
    }
    let run_dir = run_dir.ok_or_else(|| format!("--run-dir is missing; {USAGE}"))?;
    let run_dir = std::path::absolute(&run_dir).map_err(|e| format!("--run-dir: {e}"))?;
    Ok(Setup { run_dir, arena_bytes })
}

fn log(line: &str) {
    eprintln!("vstorage-edge: {line}");
}

fn main() -> ExitCode {
    let setup = match setup() {
        Ok(setup) => setup,
        Err(text) => {
            log(&text);
            return ExitCode::from(2);
        }
    };
    let ended = Signals::of_termination().map_err(|e| format!("cannot take over signals: {e}"));
    let ended = ended.and_then(|signals| {
        let mut process = Process::start(&setup, Some(signals), log).map_err(|e| e.to_string())?;
        log(&format!("listens on {}", setup.run_dir.join("edge.sock").display()));
        process.run().map_err(|e| e.to_string())
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            log(&text);
            ExitCode::FAILURE
        }
    }
}
