//! The engine alone, on one core: batches of 4 KiB random writes into the log and random reads of
//! what is buffered, without any front end.
//!
//! `bench_engine [--dir DIR] [--seconds S] [--depth N] [--span MIB]`; DIR decides the file system
//! (default /dev/shm), MIB how much of the volume is used (default 64). Prints figures and, last,
//! `RESULT {json}`.
#![allow(clippy::disallowed_methods)]

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use alba::{Backend, Directory};
use edge::target::{Request, RequestId, Verb};
use format::log::PAGE;
use machines::volume::Limits;
use media::{Arena, Event, Ring, Slice, Wait};
use volume::{Job, OpenSpec, Outputs, SharedScos, Tuning, Volume, open};

struct Bench {
    volume: Volume,
    ring: Ring,
    out: Outputs,
    events: Vec<Event>,
    backend: Arc<dyn Backend>,
    start: Instant,
    random: u64,
}

impl Bench {
    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.random >> 33
    }

    /// One turn, with everything that follows from it, in this thread.
    fn turn(&mut self) {
        let now = self.now();
        self.volume.turn(now, &mut self.ring, &mut self.out);
        while !self.out.jobs.is_empty() {
            for job in std::mem::take(&mut self.out.jobs) {
                let job: Job = job;
                let done = job.run(&*self.backend);
                self.volume.on_job(done.outcome, &mut self.ring, &mut self.out);
            }
        }
        if self.ring.in_flight() > 0 {
            self.events.clear();
            let _ = self.ring.turn(Wait::No, &mut self.events);
            for event in std::mem::take(&mut self.events) {
                self.volume.on_event(event, &mut self.ring, &mut self.out);
            }
        }
    }

    /// Runs `make` requests, `depth` at a time, for `seconds`; operations per second, and
    /// microseconds of this thread's CPU time per operation (what a busy machine does not change).
    fn run(
        &mut self,
        seconds: f64,
        depth: u64,
        make: impl Fn(&mut Self, u64) -> Request,
    ) -> (f64, f64) {
        let (start, cpu) = (Instant::now(), cpu_ns());
        let mut done = 0u64;
        while start.elapsed().as_secs_f64() < seconds {
            for _ in 0..16 {
                for slot in 0..depth {
                    let request = make(self, slot);
                    self.volume.submit(request, &mut self.out);
                }
                while self.out.completions.len() < depth as usize {
                    self.turn();
                }
                self.out.completions.clear();
                done += depth;
            }
        }
        let cpu_us = (cpu_ns() - cpu) as f64 / 1000.0 / done as f64;
        (done as f64 / start.elapsed().as_secs_f64(), cpu_us)
    }
}

/// CPU time of this thread in nanoseconds.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let option = |name: &str, default: &str| {
        let at = arguments.iter().position(|a| a == name);
        at.and_then(|at| arguments.get(at + 1)).map_or(default.to_owned(), String::clone)
    };
    let root = PathBuf::from(option("--dir", "/dev/shm"));
    let seconds: f64 = option("--seconds", "3").parse()?;
    let depth: u64 = option("--depth", "128").parse()?;
    let span = option("--span", "64").parse::<u64>()? << 8;
    let dir = root.join(format!("vstorage-bench-{}", std::process::id()));
    let backend: Arc<dyn Backend> = Arc::new(Directory::open(&dir.join("backend"))?);
    let shared = Arc::new(SharedScos::default());
    let limits = Limits {
        sco_clusters: 16384,
        buffer_scos: 1 << 16,
        keep_scos: 1 << 16,
        checkpoint_scos: 1 << 20,
        batch_clusters: 1024,
        op_clusters: 64,
        compact_percent: 0,
        deletes: 1,
    };
    let spec = OpenSpec {
        ancestors: vec![[7; 16]],
        epoch: 1,
        base: None,
        buffer_dir: dir.join("buffer"),
        limits,
        warm: None,
    };
    let opened = open(spec, &*backend, &shared)?;
    let tuning = Tuning { buffer_reserve: 0, compaction_bytes_per_s: 1 };
    let volume = Volume::new(opened, 0, 4, span * PAGE as u64, false, shared.clone(), tuning)?;
    let mut bench = Bench {
        volume,
        ring: Ring::new(64)?,
        out: Outputs::default(),
        events: Vec::new(),
        backend: Arc::new(NoBackend),
        start: Instant::now(),
        random: 1,
    };
    let arena = Arena::anonymous(depth as usize * PAGE)?;
    let slot = |index: u64| arena.slice(index as usize * PAGE, PAGE).ok_or("arena");
    let slices: Vec<Slice> = (0..depth).map(slot).collect::<Result<_, _>>()?;
    for slice in &slices {
        slice.write(0, &[0x5a; PAGE]);
    }
    let request = |bench: &mut Bench, slot: u64, write: bool| {
        let offset = bench.random() % span * PAGE as u64;
        let data = slices[slot as usize].clone();
        let verb = if write { Verb::Write { data, fua: false } } else { Verb::Read(data) };
        Request { id: RequestId(slot), offset, verb }
    };
    let (writes, write_cpu) = bench.run(seconds, depth, |b, slot| request(b, slot, true));
    let (reads, read_cpu) = bench.run(seconds, depth, |b, slot| request(b, slot, false));
    println!("4 KiB random writes into the log: {writes:.0}/s, CPU {write_cpu:.2} us each");
    println!("4 KiB random reads of buffered data: {reads:.0}/s, CPU {read_cpu:.2} us each");
    println!(
        "map: {} bytes for {} clusters",
        bench.volume.machine().map().memory(),
        bench.volume.machine().map().mapped()
    );
    println!("RESULT {{\"engine_writes_per_s\": {writes:.0}, \"engine_reads_per_s\": {reads:.0}}}");
    drop(bench);
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

/// Takes no objects: closed SCOs stay in the write buffer, and the figure is the log's alone.
struct NoBackend;

impl Backend for NoBackend {
    fn put(
        &self,
        name: &str,
        _: &mut dyn FnMut(&mut dyn alba::Sink) -> alba::Result<()>,
    ) -> alba::Result<alba::Put> {
        Err(refused("store", name))
    }
    fn read(&self, name: &str, _: u64, _: &mut [u8]) -> alba::Result<()> {
        Err(refused("read", name))
    }
    fn len(&self, _: &str) -> alba::Result<Option<u64>> {
        Ok(None)
    }
    fn list(&self, _: &str) -> alba::Result<Vec<String>> {
        Ok(Vec::new())
    }
    fn delete(&self, name: &str) -> alba::Result<()> {
        Err(refused("delete", name))
    }
    fn delete_folder(&self, name: &str) -> alba::Result<()> {
        Err(refused("delete", name))
    }
    fn sweep(&self, _: &str) -> alba::Result<()> {
        Ok(())
    }
}

fn refused(attempted: &'static str, name: &str) -> alba::BackendError {
    alba::BackendError {
        attempted,
        object: name.to_owned(),
        cause: alba::Cause::Failed,
        why: "this benchmark has no backend".to_owned(),
    }
}
