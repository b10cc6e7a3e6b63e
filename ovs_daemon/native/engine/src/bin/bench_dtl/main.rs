//! Writes with a synchronous DTL beside a replicator that does as little as can be done.
//!
//! `bench_dtl [--seconds S] [--shm DIR] [--disk DIR]`
//!
//! Ours: a client over shared memory, the owner's engine, the DTL node's engine, each a process. The
//! limit: a client over a unix socket, a first process that appends to a file and sends to a second one
//! over TCP, which appends to a file and acknowledges; both compare CRC32C, one write of 4 KiB each. Both
//! in one run, on the same file system, pinned to one core (CPU time per write) and not pinned (what a
//! user sees). Ours once more with the DTL node following the map, too: what that costs all of them
//! together. Prints a table and, last, `RESULT {json}`.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod client;
mod limit;

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

const UUID: &str = "00000000-0000-0000-0000-000000000001";

/// A process of this program, which says one line when it is ready.
struct Process {
    child: Child,
    said: String,
}

impl Process {
    fn start(arguments: &[&str], pinned: bool) -> Outcome<Self> {
        let own = std::env::current_exe()?;
        let mut command = Command::new(if pinned { Path::new("taskset") } else { &own });
        if pinned {
            command.args(["--cpu-list", "0"]).arg(&own);
        }
        let mut child = command.args(arguments).stdout(Stdio::piped()).spawn()?;
        let mut said = String::new();
        let output = child.stdout.take().ok_or("no output")?;
        BufReader::new(output).read_line(&mut said)?;
        Ok(Self { child, said: said.trim().to_owned() })
    }

    /// CPU time of all its threads, and of those that bring SCOs to the backend and remove what is
    /// no longer needed, which no write waits for; in microseconds.
    fn cpu_us(&self) -> [f64; 2] {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let (mut all, mut background) = (0.0, 0.0);
        for task in tasks.into_iter().flatten().flatten() {
            let read = |name| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let text = read("schedstat");
            let word = text.split_whitespace().next().and_then(|word| word.parse::<f64>().ok());
            let us = word.unwrap_or(0.0) / 1000.0;
            all += us;
            if read("comm").trim() == "vs-background" {
                background += us;
            }
        }
        [all, background]
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn engine(dir: &Path, listen: bool) -> Outcome<engine::Engine> {
    let mut config = json!({
        "buffer_dir": dir.join("buffer"), "backend_dir": dir.join("backend"),
        "run_dir": dir.join("run"), "reserve": 0, "buffer_size": 8u64 << 30,
    });
    if listen {
        config["dtl_dir"] = json!(dir.join("dtl"));
        config["dtl_listen"] = json!("127.0.0.1:0");
    }
    Ok(engine::Engine::new(&config.to_string())?)
}

fn keeper(dir: &Path) -> Outcome<()> {
    let engine = engine(dir, true)?;
    let status: Value = serde_json::from_str(&engine.status()?)?;
    println!("{}", status["dtl_server"]["address"].as_str().unwrap_or_default());
    loop {
        std::thread::park();
    }
}

/// Serves a volume whose DTL is in_sync when it says so. `follower`: where its map is followed.
fn owner(dir: &Path, address: &str, follower: Option<&str>) -> Outcome<()> {
    let engine = engine(dir, false)?;
    let dtl = json!({"mode": "sync", "state": "degraded", "node": "keeper", "address": address});
    let followers: Vec<Value> =
        follower.iter().map(|address| json!({"node": "follower", "address": address})).collect();
    let spec = json!({
        "uuid": UUID, "size": 1u64 << 30, "epoch": 1, "dtl": dtl, "followers": followers,
    });
    engine.create_volume(&spec.to_string())?;
    engine.open_volume(&spec.to_string())?;
    loop {
        let event = engine.next_event(3600.0).ok_or("nothing happens")?;
        let event: Value = serde_json::from_str(&event)?;
        engine.answer_event(event["id"].as_u64().unwrap_or(0), true);
        if event["to"] == "in_sync" {
            println!("{}", dir.join("run/engine.sock").display());
        } else {
            eprintln!("bench_dtl: the DTL is {}", event["to"]);
        }
    }
}

/// What one client measured, with the CPU time of all processes per write.
struct Figures {
    iops: f64,
    p50_us: f64,
    us_per_op: f64,
    /// The part of it that no write waits for.
    background_us_per_op: f64,
}

/// CPU time of both servers; see [`Process::cpu_us`].
fn cpu_us(servers: [&Process; 2]) -> [f64; 2] {
    let [a, b] = servers.map(Process::cpu_us);
    [a[0] + b[0], a[1] + b[1]]
}

fn measure(
    what: &str,
    target: &str,
    depth: &str,
    seconds: &str,
    pinned: bool,
    servers: [&Process; 2],
) -> Outcome<Figures> {
    let before = cpu_us(servers);
    let client = Process::start(&[what, target, depth, seconds], pinned)?;
    let after = cpu_us(servers);
    let said: Value = serde_json::from_str(&client.said)
        .map_err(|e| format!("the client of {target} said {:?}: {e}", client.said))?;
    let number = |key: &str| said[key].as_f64().unwrap_or(f64::NAN);
    let figures = Figures {
        iops: number("iops"),
        p50_us: number("p50_us"),
        us_per_op: (after[0] - before[0] + number("cpu_us")) / number("ops"),
        background_us_per_op: (after[1] - before[1]) / number("ops"),
    };
    let place = if pinned { "one core" } else { "all cores" };
    println!(
        "{what:13} QD {depth:>2}, {place:9}: {:8.0}/s  p50 {:7.1} us  {:6.2} CPU us each, {:.2} of \
         them in the background",
        figures.iops, figures.p50_us, figures.us_per_op, figures.background_us_per_op
    );
    Ok(figures)
}

struct Ours {
    keeper: Process,
    owner: Process,
}

impl Ours {
    fn start(dir: &Path, pinned: bool, followed: bool) -> Outcome<Self> {
        let path = |name: &str| dir.join(name).display().to_string();
        let keeper = Process::start(&["keeper", &path("keeper")], pinned)?;
        let owner = path("owner");
        let mut arguments = vec!["owner", &owner, &keeper.said];
        arguments.extend(followed.then_some(keeper.said.as_str()));
        let owner = Process::start(&arguments, pinned)?;
        Ok(Self { keeper, owner })
    }

    fn measure(&self, what: &str, depth: &str, seconds: &str, pinned: bool) -> Outcome<Figures> {
        let servers = [&self.keeper, &self.owner];
        measure(what, &self.owner.said, depth, seconds, pinned, servers)
    }
}

/// Ours and the limit, at depth 32 and 1.
fn compare(dir: &Path, seconds: &str, pinned: bool) -> Outcome<[Figures; 4]> {
    let ours = Ours::start(&dir.join("ours"), pinned, false)?;
    let wide = ours.measure("client", "32", seconds, pinned)?;
    let single = ours.measure("client", "1", seconds, pinned)?;
    drop(ours);
    let log = |name: &str| dir.join(name).display().to_string();
    let second = Process::start(&["limit-second", &log("second.log")], pinned)?;
    let socket = log("limit.sock");
    let arguments = ["limit-first", &log("first.log"), &socket, &second.said];
    let first = Process::start(&arguments, pinned)?;
    let servers = [&second, &first];
    let limit_wide = measure("limit-client", &socket, "32", seconds, pinned, servers)?;
    let limit_single = measure("limit-client", &socket, "1", seconds, pinned, servers)?;
    Ok([wide, single, limit_wide, limit_single])
}

fn bench(seconds: &str, shm: &Path, disk: &Path) -> Outcome<()> {
    let fresh = |dir: &Path| -> Outcome<PathBuf> {
        let dir = dir.join(format!("vstorage-bench-dtl-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir)?;
        Ok(dir)
    };
    let dir = fresh(shm)?;
    let pinned = compare(&dir, seconds, true);
    let _ = std::fs::remove_dir_all(&dir);
    let dir = fresh(shm)?;
    let free = compare(&dir, seconds, false);
    let _ = std::fs::remove_dir_all(&dir);
    let dir = fresh(shm)?;
    let followed = Ours::start(&dir, true, true).and_then(|ours| {
        let wide = ours.measure("client", "32", seconds, true)?;
        Ok([wide, ours.measure("client", "1", seconds, true)?])
    });
    let _ = std::fs::remove_dir_all(&dir);
    let dir = fresh(disk)?;
    let flushes = Ours::start(&dir, false, false)
        .and_then(|ours| ours.measure("flush-client", "1", seconds, false));
    let _ = std::fs::remove_dir_all(&dir);
    let ([wide, single, limit_wide, limit_single], free, flushes) = (pinned?, free?, flushes?);
    let [followed_wide, followed_single] = followed?;
    let round = |value: f64| (value * 100.0).round() / 100.0;
    let result = json!({
        "dtl_w32_us_per_op": round(wide.us_per_op),
        "dtl_w32_background_us_per_op": round(wide.background_us_per_op),
        "limit_w32_us_per_op": round(limit_wide.us_per_op),
        "dtl_w1_p50_us": round(single.p50_us),
        "limit_w1_p50_us": round(limit_single.p50_us),
        "followed_w32_us_per_op": round(followed_wide.us_per_op),
        "followed_w1_p50_us": round(followed_single.p50_us),
        "dtl_w32_iops": free[0].iops.round(),
        "limit_w32_iops": free[2].iops.round(),
        "dtl_flush_pairs_per_s": flushes.iops.round(),
    });
    println!("RESULT {result}");
    Ok(())
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["keeper", dir] => keeper(Path::new(dir)),
        ["owner", dir, address] => owner(Path::new(dir), address, None),
        ["owner", dir, address, follower] => owner(Path::new(dir), address, Some(follower)),
        ["client", socket, depth, seconds] => client::run(socket, depth, seconds, false),
        ["flush-client", socket, depth, seconds] => client::run(socket, depth, seconds, true),
        ["limit-second", log] => limit::second(Path::new(log)),
        ["limit-first", log, socket, address] => limit::first(Path::new(log), socket, address),
        ["limit-client", socket, depth, seconds] => limit::client(socket, depth, seconds),
        _ => {
            let option = |name: &str, default: &str| {
                let at = words.iter().position(|word| *word == name);
                at.and_then(|at| words.get(at + 1)).map_or(default.to_owned(), |w| (*w).to_owned())
            };
            let disk = option("--disk", &std::env::temp_dir().display().to_string());
            let shm = option("--shm", "/dev/shm");
            bench(&option("--seconds", "4"), Path::new(&shm), Path::new(&disk))
        }
    }
}

/// Rates, the middle latency, and this process's CPU time, as one line.
pub(crate) fn report(ops: usize, elapsed_s: f64, latencies_ns: &mut [u32], cpu_us: f64) {
    latencies_ns.sort_unstable();
    let p50 = latencies_ns.get(latencies_ns.len() / 2).copied().unwrap_or(0);
    let said = json!({
        "ops": ops, "iops": ops as f64 / elapsed_s, "p50_us": f64::from(p50) / 1000.0,
        "cpu_us": cpu_us,
    });
    println!("{said}");
}

/// CPU time of this thread in microseconds.
pub(crate) fn own_cpu_us() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let word = text.split_whitespace().next().and_then(|word| word.parse::<f64>().ok());
    word.unwrap_or(0.0) / 1000.0
}
