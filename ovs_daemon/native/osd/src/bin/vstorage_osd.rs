//! `vstorage-osd`: serves disks of this host to the nodes of a cluster, and outlives their daemons.
//!
//! ```text
//! vstorage-osd serve --listen ADDRESS:PORT --key-file FILE [--reserve BYTES] [--cache-size BYTES]
//!                    [--connections NUMBER] FOLDER...
//! vstorage-osd claim --cluster UUID --domain DOMAIN --node NODE [--role ROLE] FOLDER...
//! ```
//!
//! `claim` makes folders OSDs of a cluster, each for life; ROLE is capacity (the default) or cache.
//! `serve` serves them until SIGTERM or SIGINT; an OSD of role cache keeps at most `--cache-size`
//! bytes, unless given as much as its disk has room for. `--connections` (16384) are served at a time;
//! each node of the cluster has three for each OSD. Killing it with SIGKILL is safe: what it has
//! acknowledged is on disk, and what a cache had nobody needs. Log lines go to standard error.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use alba::cluster::new_osd_id;
use alba::folder::FolderOsd;
use format::osd::{Claim, Role};
use net::{ClusterKey, RELEASE, Signals};
use osd::{Bounds, Server, Setup};

const USAGE: &str = "usage: vstorage-osd serve --listen ADDRESS:PORT --key-file FILE \
                     [--reserve BYTES] [--cache-size BYTES] [--connections NUMBER] \
                     FOLDER...\n       \
                     vstorage-osd claim --cluster UUID --domain DOMAIN --node NODE \
                     [--role capacity|cache] FOLDER...";

fn log(line: &str) {
    eprintln!("vstorage-osd: {line}");
}

/// Options by name, and the folders.
struct Words {
    options: Vec<(String, String)>,
    folders: Vec<PathBuf>,
}

impl Words {
    fn of(arguments: impl Iterator<Item = String>, known: &[&str]) -> Result<Self, String> {
        let mut words = Self { options: Vec::new(), folders: Vec::new() };
        let mut arguments = arguments;
        while let Some(word) = arguments.next() {
            if !word.starts_with("--") {
                let folder = std::path::absolute(&word).map_err(|e| format!("{word}: {e}"))?;
                words.folders.push(folder);
                continue;
            }
            if !known.contains(&word.as_str()) {
                return Err(format!("unknown option {word}\n{USAGE}"));
            }
            let value = arguments.next().ok_or_else(|| format!("{word} needs a value\n{USAGE}"))?;
            words.options.push((word, value));
        }
        if words.folders.is_empty() {
            return Err(format!("name at least one folder\n{USAGE}"));
        }
        Ok(words)
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.options.iter().rev().find(|(option, _)| option == name).map(|(_, v)| v.as_str())
    }

    fn must(&self, name: &str) -> Result<&str, String> {
        self.get(name).ok_or_else(|| format!("{name} is missing\n{USAGE}"))
    }
}

fn uuid(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let number = u128::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 32);
    number.map(u128::to_be_bytes)
}

fn uuid_text(id: &[u8; 16]) -> String {
    let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

fn setup(arguments: impl Iterator<Item = String>) -> Result<Setup, String> {
    let known = ["--listen", "--key-file", "--reserve", "--cache-size", "--connections"];
    let words = Words::of(arguments, &known)?;
    let listen = words.must("--listen")?;
    let listen = listen.parse().map_err(|e| format!("--listen {listen}: {e}"))?;
    let number = |name: &str, default: u64| match words.get(name) {
        Some(text) => text.parse().map_err(|_| format!("{name} {text}: not a number")),
        None => Ok(default),
    };
    let (reserve, cache_bytes) = (number("--reserve", 1 << 30)?, number("--cache-size", u64::MAX)?);
    let mut bounds = Bounds::default();
    bounds.connections = number("--connections", bounds.connections as u64)? as usize;
    if bounds.connections == 0 {
        return Err("--connections 0: nobody would be served".to_owned());
    }
    let path = Path::new(words.must("--key-file")?);
    let key = ClusterKey::read(path).map_err(|why| {
        format!("cannot use the cluster key {}: {why}; copy it from another node", path.display())
    })?;
    let (folders, release) = (words.folders, RELEASE);
    Ok(Setup { listen, key, folders, reserve, cache_bytes, bounds, release })
}

fn serve(arguments: impl Iterator<Item = String>) -> Result<(), String> {
    let setup = setup(arguments)?;
    let signals =
        Signals::of_termination().map_err(|e| format!("cannot take over signals: {e}"))?;
    let mut server = Server::start(&setup, log).map_err(|e| e.to_string())?;
    for disk in server.disks() {
        let (path, claim) = (disk.osd().path().display(), disk.osd().claimed());
        log(&format!("serves {} OSD {} in {path}", claim.role.text(), uuid_text(&claim.osd)));
    }
    log(&format!("listens on {}", server.address()));
    let signal = server.run(&signals).map_err(|e| e.to_string())?;
    log(&format!("ends on signal {signal}"));
    Ok(())
}

fn claim(arguments: impl Iterator<Item = String>) -> Result<(), String> {
    let words = Words::of(arguments, &["--cluster", "--domain", "--node", "--role"])?;
    let text = words.must("--cluster")?;
    let cluster = uuid(text).ok_or_else(|| format!("--cluster {text}: it is no UUID"))?;
    let text = words.get("--role").unwrap_or("capacity");
    let role = Role::parse(text).ok_or_else(|| format!("--role {text}: capacity or cache"))?;
    let (domain, node) = (words.must("--domain")?.to_owned(), words.must("--node")?.to_owned());
    for folder in &words.folders {
        let osd = new_osd_id().map_err(|e| e.to_string())?;
        let claim = Claim { cluster, osd, domain: domain.clone(), node: node.clone(), role };
        let claim = FolderOsd::claim(folder, &claim).map_err(|e| e.to_string())?;
        println!("{} {}", uuid_text(&claim.osd), folder.display());
    }
    Ok(())
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let done = match arguments.next().as_deref() {
        Some("serve") => serve(arguments),
        Some("claim") => claim(arguments),
        _ => Err(USAGE.to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            log(&text);
            ExitCode::FAILURE
        }
    }
}
