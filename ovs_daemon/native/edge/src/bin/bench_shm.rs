//! Measures the Edge protocol over shared memory alone: no NBD, no guest.
//!
//! `bench_shm --engine SOCKET --volume UUID [--qd 32] [--seconds 3] [--span MIB]`, or, over TCP,
//! `bench_shm --tcp ADDRESS:PORT --token HEX --host NAME --volume UUID ...`
//!
//! Writes 4 KiB at random places of the first `span` MiB (64) for so many seconds, then reads as long,
//! always `qd` requests at a time; prints both rates and, as its last line, `RESULT {json}`.
// A benchmark's main reads the clock; the library may not.
#![allow(clippy::disallowed_methods)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edge::client::{Address, Attachment, EdgeTargets, Identity, Notice, Whereabouts, parse_token};
use edge::server::parse_uuid;
use edge::target::{Completion, Outcome, Request, RequestId, Targets, Verb, VolumeId};
use media::{Arena, Event, Ring, Slice, Wait};

const BLOCK: u64 = 4096;
/// Looks at the rings between two looks at io_uring, while there is work.
const LOOKS: usize = 16;

struct Options {
    whereabouts: Whereabouts,
    volume: [u8; 16],
    qd: usize,
    seconds: u64,
    span: u64,
}

fn options() -> Result<Options, String> {
    let mut volume = None;
    let mut whereabouts = Whereabouts::default();
    let (mut qd, mut seconds, mut span) = (32, 3, 64);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or(format!("{name} needs a value"))?;
        let number = value.parse::<u64>().map_err(|_| format!("{name} {value}: not a number"));
        match name.as_str() {
            "--engine" => whereabouts.targets.push(Address::Shm(PathBuf::from(value))),
            "--tcp" => {
                let address = value.parse().map_err(|_| format!("--tcp {value}: no address"))?;
                whereabouts.targets.push(Address::Tcp(address));
            }
            "--token" => {
                let token = parse_token(&value).ok_or("--token: not 128 hexadecimal digits")?;
                whereabouts.token = token;
            }
            "--host" => whereabouts.host = value,
            "--volume" => volume = parse_uuid(&value),
            "--qd" => qd = number? as usize,
            "--seconds" => seconds = number?,
            "--span" => span = number?.clamp(1, 1 << 30),
            _ => return Err(format!("unknown option {name}")),
        }
    }
    if !(1..=256).contains(&qd) {
        return Err("--qd must be between 1 and 256".into());
    }
    if whereabouts.targets.is_empty() {
        return Err("--engine SOCKET or --tcp ADDRESS:PORT is missing".into());
    }
    let volume = volume.ok_or("--volume UUID is missing or no UUID")?;
    Ok(Options { whereabouts, volume, qd, seconds, span: span << 20 })
}

struct Client {
    ring: Ring,
    events: Vec<Event>,
    targets: EdgeTargets,
    volume: VolumeId,
    slices: Vec<Slice>,
    done: Vec<Completion>,
    blocks: u64,
    random: u64,
}

impl Client {
    fn attach(options: &Options) -> Result<Self, String> {
        let failed = |e: std::io::Error| format!("cannot start: {e}");
        let bytes = options.qd * BLOCK as usize;
        let arena = Arena::shared(bytes).map_err(failed)?;
        let mut ring = Ring::new(64).map_err(failed)?;
        let identity = Identity::fresh("bench_shm");
        let mut targets =
            EdgeTargets::new(1, Path::new(""), Arc::clone(&arena), identity).map_err(failed)?;
        targets.set_eager(true);
        let whereabouts = options.whereabouts.clone();
        let attachment = Attachment { uuid: options.volume, whereabouts, ..Attachment::default() };
        let volume = targets.attach(&attachment, &mut ring);
        let slices = (0..options.qd).filter_map(|at| arena.slice(at * 4096, 4096)).collect();
        let (events, done) = (Vec::new(), Vec::new());
        let mut client =
            Client { ring, events, targets, volume, slices, done, blocks: 0, random: 1 };
        client.wait_for_session()?;
        let size = client.targets.info(volume).map_or(0, |info| info.size);
        client.blocks = size.min(options.span) / BLOCK;
        if client.blocks == 0 {
            return Err("the volume is smaller than one block of 4 KiB".into());
        }
        Ok(client)
    }

    fn wait_for_session(&mut self) -> Result<(), String> {
        loop {
            for notice in self.targets.take_notices() {
                match notice {
                    Notice::Opened { .. } => return Ok(()),
                    Notice::Ended { refusal, .. } => {
                        let text = refusal.map(|r| format!("{}: {}; {}", r.what, r.why, r.fix));
                        return Err(text.unwrap_or_else(|| "the session ended".into()));
                    }
                    _ => {}
                }
            }
            self.targets.end_turn(&mut self.ring);
            self.turn(Wait::Forever)?;
        }
    }

    fn turn(&mut self, wait: Wait) -> Result<(), String> {
        self.ring.turn(wait, &mut self.events).map_err(|e| format!("io_uring: {e}"))?;
        for event in self.events.drain(..) {
            self.targets.on_event(event, &mut self.ring);
        }
        Ok(())
    }

    fn submit(&mut self, slot: usize, write: bool) {
        // xorshift64*: cheap, and good enough to spread offsets.
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let random = self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11;
        let offset = random % self.blocks * BLOCK;
        let slice = self.slices[slot].clone();
        let verb = if write {
            slice.write(0, &random.to_le_bytes());
            Verb::Write { data: slice, fua: false }
        } else {
            Verb::Read(slice)
        };
        self.targets.submit(self.volume, Request { id: RequestId(slot as u64), offset, verb });
    }

    /// Keeps all slots busy for so long; operations per second.
    fn run(&mut self, write: bool, time: Duration) -> Result<f64, String> {
        let started = Instant::now();
        for slot in 0..self.slices.len() {
            self.submit(slot, write);
        }
        let (mut count, mut in_flight) = (0u64, self.slices.len());
        let mut done = Vec::new();
        while in_flight > 0 {
            let goes_on = started.elapsed() < time;
            for _ in 0..LOOKS {
                // Over TCP, answers come with events and not by looking.
                let found = self.targets.poll();
                self.targets.take_completions(&mut self.done);
                if !found && self.done.is_empty() {
                    break;
                }
                std::mem::swap(&mut done, &mut self.done);
                for completion in done.drain(..) {
                    if completion.outcome != Outcome::Done {
                        return Err(format!("a request failed: {:?}", completion.outcome));
                    }
                    count += 1;
                    if goes_on {
                        self.submit(completion.id.0 as usize, write);
                    } else {
                        in_flight -= 1;
                    }
                }
            }
            self.targets.end_turn(&mut self.ring);
            let wait = if self.targets.wants_polling() { Wait::No } else { Wait::Forever };
            if in_flight > 0 {
                self.turn(wait)?;
            }
        }
        Ok(count as f64 / started.elapsed().as_secs_f64())
    }
}

fn measure() -> Result<(), String> {
    let options = options()?;
    let mut client = Client::attach(&options)?;
    let time = Duration::from_secs(options.seconds);
    let writes = client.run(true, time)?;
    println!("4 KiB random writes, {} at a time: {writes:.0}/s", options.qd);
    let reads = client.run(false, time)?;
    println!("4 KiB random reads,  {} at a time: {reads:.0}/s", options.qd);
    let qd = options.qd;
    println!("RESULT {{\"shm_w{qd}_iops\": {writes:.0}, \"shm_r{qd}_iops\": {reads:.0}}}");
    Ok(())
}

fn main() -> ExitCode {
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench_shm: {error}");
            ExitCode::FAILURE
        }
    }
}
