//! A client of the engine over shared memory.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edge::client::{Attachment, EdgeTargets, Identity, Notice};
use edge::server::parse_uuid;
use edge::target::{Completion, Request, RequestId, Targets, Verb, VolumeId};
use media::{Arena, Event, Ring, Slice, Wait};

use crate::{Outcome, UUID, own_cpu_us, report};

const BLOCK: u64 = 4096;
/// 64 MiB of the volume are used.
const BLOCKS: u64 = 16384;
/// Looks at the rings between two looks at io_uring, while there is work.
const LOOKS: usize = 16;

struct Client {
    ring: Ring,
    events: Vec<Event>,
    targets: EdgeTargets,
    volume: VolumeId,
    slices: Vec<Slice>,
    started: Vec<Instant>,
    random: u64,
}

impl Client {
    fn attach(socket: &Path, depth: usize) -> Outcome<Self> {
        let arena = Arena::shared(depth * BLOCK as usize)?;
        let mut ring = Ring::new(64)?;
        let mut targets =
            EdgeTargets::new(1, socket, Arc::clone(&arena), Identity::fresh("bench_dtl"))?;
        targets.set_eager(true);
        let uuid = parse_uuid(UUID).ok_or("no UUID")?;
        let attachment = Attachment { uuid, ..Attachment::default() };
        let volume = targets.attach(&attachment, &mut ring);
        let slices = (0..depth).filter_map(|at| arena.slice(at * 4096, 4096)).collect();
        let started = vec![Instant::now(); depth];
        let events = Vec::new();
        let mut client = Client { ring, events, targets, volume, slices, started, random: 1 };
        loop {
            for notice in client.targets.take_notices() {
                match notice {
                    Notice::Opened { .. } => return Ok(client),
                    Notice::Ended { .. } => return Err("the session ended".into()),
                    _ => {}
                }
            }
            client.targets.end_turn(&mut client.ring);
            client.turn(Wait::Forever)?;
        }
    }

    fn turn(&mut self, wait: Wait) -> Outcome<()> {
        self.ring.turn(wait, &mut self.events)?;
        for event in self.events.drain(..) {
            self.targets.on_event(event, &mut self.ring);
        }
        Ok(())
    }

    fn write(&mut self, slot: usize) {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let offset = (self.random >> 33) % BLOCKS * BLOCK;
        let slice = self.slices[slot].clone();
        slice.write(0, &self.random.to_le_bytes());
        self.started[slot] = Instant::now();
        let verb = Verb::Write { data: slice, fua: false };
        self.targets.submit(self.volume, Request { id: RequestId(slot as u64), offset, verb });
    }

    fn flush(&mut self, slot: usize) {
        let request = Request { id: RequestId(slot as u64), offset: 0, verb: Verb::Flush };
        self.targets.submit(self.volume, request);
    }
}

/// Writes for so many seconds, `depth` at a time; with `flushes` each is followed by a flush, and both
/// count as one operation.
pub(crate) fn run(socket: &str, depth: &str, seconds: &str, flushes: bool) -> Outcome<()> {
    let (depth, seconds): (usize, f64) = (depth.parse()?, seconds.parse()?);
    let mut client = Client::attach(Path::new(socket), depth)?;
    let (start, cpu, time) = (Instant::now(), own_cpu_us(), Duration::from_secs_f64(seconds));
    let mut latencies: Vec<u32> = Vec::with_capacity(1 << 22);
    let mut flushing = vec![false; depth];
    let mut done: Vec<Completion> = Vec::new();
    (0..depth).for_each(|slot| client.write(slot));
    let mut in_flight = depth;
    while in_flight > 0 {
        let goes_on = start.elapsed() < time;
        for _ in 0..LOOKS {
            if !client.targets.poll() {
                break;
            }
            client.targets.take_completions(&mut done);
            for completion in done.drain(..) {
                let slot = completion.id.0 as usize;
                if flushes {
                    flushing[slot] = !flushing[slot];
                    if flushing[slot] {
                        client.flush(slot);
                        continue;
                    }
                }
                latencies.push(client.started[slot].elapsed().as_nanos() as u32);
                if goes_on {
                    client.write(slot);
                } else {
                    in_flight -= 1;
                }
            }
        }
        client.targets.end_turn(&mut client.ring);
        let wait = if client.targets.wants_polling() { Wait::No } else { Wait::Forever };
        if in_flight > 0 {
            client.turn(wait)?;
        }
    }
    let (elapsed, cpu) = (start.elapsed().as_secs_f64(), own_cpu_us() - cpu);
    report(latencies.len(), elapsed, &mut latencies, cpu);
    Ok(())
}
