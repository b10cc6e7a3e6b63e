//! `vstorage-offline`: looks at stored files without a daemon, and changes nothing that it finds.
//!
//! ```text
//! vstorage-offline dump FILE...          what is in a SCO file, SCO object, checkpoint or fragment
//! vstorage-offline verify FILE|DIR...    compares every checksum; a folder: every file in it, and
//!                                        whether a volume's write buffer could be recovered
//!          --json                        one JSON document per file
//! vstorage-offline encode K+M FILE DIR   cuts a file into fragments, as the backend stores them
//!          --domains N --local N         over N Domains, with N local parity fragments in each
//!          --fragment-size BYTES
//! vstorage-offline decode DIR FILE       puts a file together from the fragments in a folder
//! vstorage-offline claim DIR LIKE DOMAIN/NODE
//!                                        makes a folder an OSD of the cluster that LIKE is one of
//! vstorage-offline repair DIR...         restores what is missing on these OSDs, all of a cluster
//! vstorage-offline presets               the sizing table of the presets that are shipped
//! ```
//! Exit status: 0 nothing is wrong, 1 something is damaged, 2 it could not be looked at.
#![allow(clippy::disallowed_methods)]

mod checkpoint;
mod coding;
mod fence;
mod folder;
mod fragment;
mod object;
mod osd;
mod report;
mod sco;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use alba::osd::is_mark_name;
use alba::preset::{Preset, sizing_table};
use media::{File, StoreError};
use report::Report;

const USAGE: &str = "usage: vstorage-offline dump|verify [--json] FILE|DIR...\n\
       vstorage-offline encode K+M FILE DIR [--domains N] [--local N] [--fragment-size BYTES]\n\
       vstorage-offline decode DIR FILE\n\
       vstorage-offline claim DIR LIKE DOMAIN/NODE\n\
       vstorage-offline repair DIR...\n\
       vstorage-offline presets";

/// What a file says it is, by its first or last bytes.
enum Kind {
    Sco,
    Object,
    Checkpoint,
    Fragment,
    Claim,
    Fence,
    Unknown,
}

fn kind(file: &File) -> Result<Kind, StoreError> {
    let mut magic = [0; 8];
    file.read_some_at(0, &mut magic)?;
    match &magic {
        b"OVSSCO01" => return Ok(Kind::Sco),
        b"OVSOBJ01" => return Ok(Kind::Object),
        b"OVSOSD01" => return Ok(Kind::Claim),
        b"OVSFRAG1" => return Ok(Kind::Fragment),
        b"OVSFENCE" => return Ok(Kind::Fence),
        _ => {}
    }
    let footer = file.len()?.checked_sub(format::checkpoint::FOOTER as u64);
    if let Some(at) = footer {
        file.read_some_at(at, &mut magic)?;
    }
    Ok(if &magic == b"OVSCKPT1" { Kind::Checkpoint } else { Kind::Unknown })
}

fn look_at(path: &Path, verify: bool) -> Result<Report, StoreError> {
    let file = File::open_read(path)?;
    let mut report = Report::new(path);
    if path.file_name().is_some_and(|name| name == "boot") {
        report.kind = "boot of the kernel";
        return Ok(report);
    }
    if path.file_name().is_some_and(|name| name == alba::osd::SEAL) {
        report.kind = "seal of an OSD that leaves its cluster";
        return Ok(report);
    }
    if path.file_name().is_some_and(|name| is_mark_name(&name.to_string_lossy())) {
        report.kind = "mark of what was deleted";
        return Ok(report);
    }
    if path.parent().is_some_and(|folder| folder.ends_with("uses")) {
        report.kind = "record of use";
        return Ok(report);
    }
    match kind(&file)? {
        Kind::Sco => sco::look(&file, verify, &mut report)?,
        Kind::Object => object::look(&file, verify, &mut report)?,
        Kind::Checkpoint => checkpoint::look(&file, verify, &mut report)?,
        Kind::Fragment => fragment::look(&file, verify, &mut report)?,
        Kind::Claim => osd::look(&file, &mut report)?,
        Kind::Fence => fence::look(&file, &mut report)?,
        Kind::Unknown if file.is_empty()? => report.kind = "empty file",
        Kind::Unknown => {
            report.kind = "unknown";
            report.damage(0, "it is neither a SCO file, a SCO object, a checkpoint nor a fragment");
        }
    }
    Ok(report)
}

fn run() -> Result<bool, String> {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    match words.split_first() {
        Some((verb, rest)) if verb == "encode" => return coding::encode(rest).map(|()| true),
        Some((verb, rest)) if verb == "decode" => return coding::decode(rest).map(|()| true),
        Some((verb, rest)) if verb == "claim" => return osd::claim(rest).map(|()| true),
        Some((verb, rest)) if verb == "repair" => return osd::repair(rest),
        Some((verb, [])) if verb == "presets" => {
            print!("{}", sizing_table(&Preset::shipped()));
            return Ok(true);
        }
        _ => {}
    }
    let json = words.iter().any(|word| word == "--json");
    words.retain(|word| word != "--json");
    let (verb, paths) = words.split_first().ok_or(USAGE)?;
    let verify = match verb.as_str() {
        "verify" => true,
        "dump" => false,
        _ => return Err(USAGE.to_owned()),
    };
    if paths.is_empty() {
        return Err(USAGE.to_owned());
    }
    let mut sound = true;
    for path in paths {
        let path = PathBuf::from(path);
        let reports = if path.is_dir() {
            folder::look(&path, verify)
        } else {
            look_at(&path, verify).map(|report| vec![report])
        };
        for report in reports.map_err(|e| e.to_string())? {
            sound &= report.damages.is_empty();
            report.print(json, verify);
        }
    }
    Ok(sound)
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(why) => {
            eprintln!("vstorage-offline: {why}");
            ExitCode::from(2)
        }
    }
}
