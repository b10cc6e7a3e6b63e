//! Edge and engine in one thread, over real sockets, rings and bells.

use std::path::PathBuf;

use format::edge::{CloseReason, Frame};
use media::{Slice, Wait};

use super::*;
use crate::class_of;
use crate::memory::MemoryTargets;
use crate::patience::{Patience, impatient};
use crate::server::EdgeServer;
use crate::target::{Extent, RequestId};

const SERVER: u8 = 1;
const CLIENT: u8 = 2;
const UUID: [u8; 16] = [7; 16];
const MIB: u64 = 1 << 20;

/// One life of an engine.
struct Engine {
    server: EdgeServer,
    volumes: MemoryTargets,
}

/// A host: the Edge, and the engine if one runs.
struct Bench {
    ring: Ring,
    events: Vec<Event>,
    socket: PathBuf,
    engine: Option<Engine>,
    targets: EdgeTargets,
    arena: Arc<Arena>,
    done: Vec<Completion>,
    notices: Vec<Notice>,
    log: Vec<String>,
}

impl Bench {
    fn new(name: &str) -> Self {
        let name = format!("ovs-edge-{name}-{}.sock", std::process::id());
        let socket = std::env::temp_dir().join(name);
        let arena = Arena::shared(MIB as usize).unwrap();
        let targets =
            EdgeTargets::new(CLIENT, &socket, arena.clone(), Identity::fresh("a test")).unwrap();
        Self {
            ring: Ring::new(64).unwrap(),
            events: Vec::new(),
            socket,
            engine: None,
            targets,
            arena,
            done: Vec::new(),
            notices: Vec::new(),
            log: Vec::new(),
        }
    }

    /// Starts an engine that serves these volumes.
    fn start(&mut self, volumes: MemoryTargets) {
        let mut server = EdgeServer::new(SERVER);
        server.listen(&self.socket, &mut self.ring).unwrap();
        self.engine = Some(Engine { server, volumes });
    }

    fn fresh_volume() -> MemoryTargets {
        let mut volumes = MemoryTargets::default();
        volumes.epoch = 1;
        volumes.add(3, UUID, MIB, 2 * MIB).unwrap();
        volumes
    }

    /// The engine dies at once; what it had stored stays.
    fn kill(&mut self) -> MemoryTargets {
        let mut engine = self.engine.take().unwrap();
        engine.server.die(&mut self.ring);
        engine.volumes.stall(true);
        engine.volumes.stalled_are_lost();
        engine.volumes
    }

    /// One turn of both loops.
    fn turn(&mut self) {
        let idle = self.targets.shared.completions.is_empty();
        let polling = self
            .engine
            .as_ref()
            .is_some_and(|e| e.volumes.has_completions() || e.server.wants_polling());
        let wait = match self.targets.patience(net::clock::monotonic_ns()) {
            _ if polling || !idle || self.targets.wants_polling() => Wait::No,
            Some(time) => Wait::AtMost(time),
            None => Wait::Forever,
        };
        self.turn_with(impatient(wait));
    }

    fn turn_with(&mut self, wait: Wait) {
        self.ring.turn(wait, &mut self.events).unwrap();
        for event in std::mem::take(&mut self.events) {
            match (class_of(event.token), &mut self.engine) {
                (SERVER, Some(engine)) => {
                    engine.server.on_event(event, &mut self.ring, &mut engine.volumes);
                }
                (CLIENT, _) => self.targets.on_event(event, &mut self.ring),
                _ => {}
            }
        }
        self.targets.on_timers(net::clock::monotonic_ns(), &mut self.ring);
        if let Some(engine) = &mut self.engine {
            engine.server.poll(&mut engine.volumes, &mut self.ring);
            let mut done = Vec::new();
            engine.volumes.take_completions(&mut done);
            for completion in done {
                engine.server.complete(completion);
            }
            engine.server.end_turn(&mut self.ring);
            self.log.extend(engine.server.take_log());
        }
        self.targets.poll();
        self.targets.take_completions(&mut self.done);
        self.targets.end_turn(&mut self.ring);
        self.notices.extend(self.targets.take_notices());
    }

    #[track_caller]
    fn until(&mut self, reached: impl Fn(&Self) -> bool) {
        let patience = Patience::new();
        while !reached(self) {
            patience.wait_on(|| (&self.log, &self.notices));
            self.turn();
        }
    }

    fn attach(&mut self) -> VolumeId {
        let attachment =
            Attachment { uuid: UUID, read_only: false, known_size: None, ..Attachment::default() };
        let volume = self.targets.attach(&attachment, &mut self.ring);
        self.until(|b| !b.notices.is_empty());
        assert_eq!(self.notices.remove(0), Notice::Opened { volume, first: true });
        volume
    }

    fn submit(&mut self, volume: VolumeId, id: u64, offset: u64, verb: Verb) {
        self.targets.submit(volume, Request { id: RequestId(id), offset, verb });
    }

    /// The outcomes by request, once there are so many.
    #[track_caller]
    fn outcomes(&mut self, count: usize) -> Vec<(u64, Outcome)> {
        self.until(|b| b.done.len() >= count);
        let mut all: Vec<_> = self.done.drain(..).map(|c| (c.id.0, c.outcome)).collect();
        all.sort_by_key(|(id, _)| *id);
        all
    }

    fn piece(&self, at: usize, len: usize) -> Slice {
        self.arena.slice(at, len).unwrap()
    }

    fn write(&mut self, volume: VolumeId, id: u64, offset: u64, byte: u8) {
        let data = self.piece(id as usize * 4096 % MIB as usize, 4096);
        data.write(0, &[byte; 4096]);
        self.submit(volume, id, offset, Verb::Write { data, fua: false });
    }

    fn read_byte(&mut self, volume: VolumeId, offset: u64) -> u8 {
        let into = self.piece(MIB as usize - 512, 512);
        self.submit(volume, 999_999, offset, Verb::Read(into.clone()));
        assert_eq!(self.outcomes(1), [(999_999, Outcome::Done)]);
        into.to_vec()[0]
    }
}

#[test]
fn every_verb_crosses_and_comes_back() {
    let mut bench = Bench::new("verbs");
    bench.start(Bench::fresh_volume());
    let volume = bench.attach();
    let info = VolumeInfo { size: MIB, read_only: false };
    assert_eq!(bench.targets.info(volume), Some(info));
    bench.write(volume, 1, 8192, 0xaa);
    bench.submit(volume, 2, 0, Verb::Flush);
    assert_eq!(bench.outcomes(2), [(1, Outcome::Done), (2, Outcome::Done)]);
    assert_eq!(bench.read_byte(volume, 8192 + 77), 0xaa);
    bench.submit(volume, 3, 0, Verb::BlockStatus { len: 16384 });
    let extents = [(8192, true), (4096, false), (4096, true)];
    let extents = extents.map(|(len, hole)| Extent { len, hole }).to_vec();
    assert_eq!(bench.outcomes(1), [(3, Outcome::Extents(extents))]);
    bench.submit(volume, 4, 8192, Verb::Trim { len: 512, fua: true });
    bench.submit(volume, 5, 8704, Verb::WriteZeroes { len: 3584, fua: false });
    bench.submit(volume, 6, MIB, Verb::Trim { len: 1, fua: false });
    let expected = [(4, Outcome::Done), (5, Outcome::Done), (6, Outcome::Failed(EINVAL))];
    assert_eq!(bench.outcomes(3), expected);
    assert_eq!(bench.read_byte(volume, 8192), 0);
}

/// A loop that asks for a bell with commands unpublished would wait for an engine that sleeps.
#[test]
fn what_is_submitted_just_before_sleep_is_published() {
    let mut bench = Bench::new("late");
    bench.start(Bench::fresh_volume());
    let volume = bench.attach();
    bench.until(|b| b.engine.as_ref().is_some_and(|engine| !engine.server.wants_polling()));
    bench.write(volume, 1, 0, 0x11);
    let patience = Patience::new();
    while bench.targets.wants_polling() {
        patience.wait_on(|| &bench.log);
    }
    bench.turn_with(Wait::Forever);
    assert_eq!(bench.outcomes(1), [(1, Outcome::Done)]);
}

#[test]
fn more_requests_than_entries_all_complete_in_one_go() {
    let mut bench = Bench::new("many");
    bench.start(Bench::fresh_volume());
    let volume = bench.attach();
    for id in 0..3000 {
        bench.write(volume, id, id % 256 * 4096, (id % 251) as u8);
    }
    let outcomes = bench.outcomes(3000);
    assert_eq!(outcomes.len(), 3000);
    assert!(outcomes.iter().enumerate().all(|(at, o)| *o == (at as u64, Outcome::Done)));
}

#[test]
fn a_killed_engine_is_a_pause_and_nothing_else() {
    let mut bench = Bench::new("kill");
    bench.start(Bench::fresh_volume());
    let volume = bench.attach();
    bench.write(volume, 1, 0, 1);
    assert_eq!(bench.outcomes(1), [(1, Outcome::Done)]);
    bench.engine.as_mut().unwrap().volumes.stall(true);
    for id in 2..200 {
        bench.write(volume, id, id * 4096, id as u8);
    }
    bench.until(|b| b.engine.as_ref().unwrap().volumes.stalled_count() == 198);
    let mut volumes = bench.kill();
    bench.until(|b| !b.notices.is_empty());
    assert!(matches!(&bench.notices[0], Notice::Waiting { why, .. } if why.contains("closed")));
    bench.write(volume, 200, 200 * 4096, 200);
    for _ in 0..20 {
        bench.turn_with(Wait::No);
    }
    assert!(bench.done.is_empty(), "guests wait");
    volumes.stall(false);
    volumes.epoch = 2;
    bench.start(volumes);
    assert_eq!(bench.outcomes(199).len(), 199);
    assert_eq!(bench.notices.pop(), Some(Notice::Opened { volume, first: false }));
    assert_eq!(bench.read_byte(volume, 0), 1);
    assert_eq!(bench.read_byte(volume, 150 * 4096), 150);
}

#[test]
fn an_older_epoch_is_not_served_by() {
    let mut bench = Bench::new("epoch");
    let mut volumes = Bench::fresh_volume();
    volumes.epoch = 5;
    bench.start(volumes);
    let volume = bench.attach();
    let mut volumes = bench.kill();
    volumes.epoch = 4;
    volumes.stall(false);
    bench.start(volumes);
    bench.write(volume, 1, 0, 1);
    let outdated = |b: &Bench| {
        b.targets.status(volume).is_some_and(|s| s.why.contains("outdated ownership epoch 4"))
    };
    bench.until(outdated);
    let mut volumes = bench.kill();
    volumes.epoch = 6;
    volumes.stall(false);
    bench.start(volumes);
    assert_eq!(bench.outcomes(1), [(1, Outcome::Done)]);
}

#[test]
fn memory_that_a_stopped_engine_still_fills_is_used_for_nothing_else() {
    let mut bench = Bench::new("parted");
    bench.start(Bench::fresh_volume());
    let volume = bench.attach();
    let engine = bench.engine.as_mut().unwrap();
    engine.volumes.stall(true);
    let slice = bench.arena.slice(0, 4096).unwrap();
    bench.submit(volume, 1, 0, Verb::Read(slice.clone()));
    bench.until(|b| b.engine.as_ref().unwrap().volumes.stalled_count() == 1);
    let engine = bench.engine.as_mut().unwrap();
    let (reason, detail) = (CloseReason::Stopping, "another node may own it".into());
    engine.server.part_with(VolumeId(3), &Frame::Closed { reason, detail });
    bench.until(|b| b.targets.status(volume).is_some_and(|s| s.phase == Phase::Leaving));
    // The read ends late: its outcome is nobody's, its bytes are where they were asked for.
    for _ in 0..20 {
        bench.turn_with(Wait::No);
    }
    let status = bench.targets.status(volume).unwrap();
    assert_eq!(status.phase, Phase::Leaving, "it may neither be replayed nor given back");
    assert!(status.why.contains("the memory of 1 requests"), "{}", status.why);
    slice.write(0, &[9; 4096]);
    let engine = bench.engine.as_mut().unwrap();
    engine.volumes.stalled_are_lost();
    engine.volumes.stall(false);
    engine.server.let_go(VolumeId(3));
    assert_eq!(bench.outcomes(1), [(1, Outcome::Done)], "it was asked again");
    assert_eq!(slice.to_vec(), [0; 4096]);
}

#[test]
fn a_deleted_volume_fails_what_waits_and_a_stopping_engine_does_not() {
    let mut bench = Bench::new("closed");
    bench.start(Bench::fresh_volume());
    let volume = bench.attach();
    let engine = bench.engine.as_mut().unwrap();
    engine.volumes.stall(true);
    bench.write(volume, 1, 0, 1);
    bench.until(|b| b.engine.as_ref().unwrap().volumes.stalled_count() == 1);
    let engine = bench.engine.as_mut().unwrap();
    let reason = CloseReason::Stopping;
    engine.server.leave(VolumeId(3), &Frame::Closed { reason, detail: "the engine stops".into() });
    engine.volumes.stalled_are_lost();
    engine.volumes.stall(false);
    assert_eq!(bench.outcomes(1), [(1, Outcome::Done)], "it came back");
    let engine = bench.engine.as_mut().unwrap();
    engine.volumes.stall(true);
    bench.write(volume, 2, 0, 2);
    bench.until(|b| b.engine.as_ref().unwrap().volumes.stalled_count() == 1);
    let engine = bench.engine.as_mut().unwrap();
    engine.volumes.remove(3);
    let reason = CloseReason::Deleted;
    engine.server.leave(VolumeId(3), &Frame::Closed { reason, detail: "deleted".into() });
    assert_eq!(bench.outcomes(1), [(2, Outcome::Failed(ESHUTDOWN))]);
    bench.until(|b| matches!(b.notices.last(), Some(Notice::Ended { .. })));
    assert_eq!(bench.targets.info(volume), None);
    bench.submit(volume, 3, 0, Verb::Flush);
    assert_eq!(bench.outcomes(1), [(3, Outcome::Failed(ESHUTDOWN))]);
}

#[test]
fn a_resize_is_told_and_seen_by_requests() {
    let mut bench = Bench::new("resize");
    bench.start(Bench::fresh_volume());
    let volume = bench.attach();
    let engine = bench.engine.as_mut().unwrap();
    engine.volumes.resize(3, 2 * MIB);
    engine.server.volume_resized(VolumeId(3), &engine.volumes);
    bench.until(|b| !b.notices.is_empty());
    assert_eq!(bench.notices, [Notice::Resized { volume, size: 2 * MIB }]);
    assert_eq!(bench.targets.info(volume).unwrap().size, 2 * MIB);
    bench.write(volume, 1, MIB, 1);
    assert_eq!(bench.outcomes(1), [(1, Outcome::Done)]);
}

#[test]
fn a_first_attach_fails_with_a_reason_and_what_to_do() {
    let mut bench = Bench::new("refused");
    let attachment =
        Attachment { uuid: [9; 16], read_only: false, known_size: None, ..Attachment::default() };
    bench.targets.attach(&attachment, &mut bench.ring);
    bench.until(|b| !b.notices.is_empty());
    let Some(Notice::Ended { ending, refusal: Some(refusal), .. }) = bench.notices.pop() else {
        panic!("no reason");
    };
    assert_eq!(ending, Ending::Unreachable);
    assert_eq!(refusal.code, "engine_unavailable");
    assert!(refusal.why.contains("no engine listens on"), "{}", refusal.why);
    assert!(refusal.fix.contains("start vstorage-daemon"), "{}", refusal.fix);
    bench.start(Bench::fresh_volume());
    bench.targets.attach(&attachment, &mut bench.ring);
    bench.until(|b| !b.notices.is_empty());
    let Some(Notice::Ended { ending, refusal: Some(refusal), .. }) = bench.notices.pop() else {
        panic!("no reason");
    };
    assert_eq!((ending, refusal.code.as_str()), (Ending::Refused, "unknown_volume"));
    assert!(refusal.what.contains("09090909-0909-0909-0909-090909090909"), "{}", refusal.what);
}

#[test]
fn a_restored_attachment_waits_for_its_engine() {
    let mut bench = Bench::new("restored");
    let attachment =
        Attachment { uuid: UUID, read_only: true, known_size: Some(MIB), ..Attachment::default() };
    let volume = bench.targets.attach(&attachment, &mut bench.ring);
    let info = VolumeInfo { size: MIB, read_only: true };
    assert_eq!(bench.targets.info(volume), Some(info));
    bench.submit(volume, 1, 0, Verb::Read(bench.piece(0, 512)));
    bench.write(volume, 2, 0, 2);
    bench.turn();
    bench.start(Bench::fresh_volume());
    assert_eq!(bench.outcomes(2), [(1, Outcome::Done), (2, Outcome::Failed(1))]);
}

#[test]
fn detaching_ends_cleanly_with_and_without_an_engine() {
    let mut bench = Bench::new("detach");
    bench.start(Bench::fresh_volume());
    let volume = bench.attach();
    bench.engine.as_mut().unwrap().volumes.stall(true);
    bench.write(volume, 1, 0, 1);
    bench.until(|b| b.engine.as_ref().unwrap().volumes.stalled_count() == 1);
    bench.targets.detach(volume, &mut bench.ring);
    for _ in 0..20 {
        bench.turn_with(Wait::No);
    }
    assert!(bench.notices.is_empty(), "the engine still works on the memory");
    bench.engine.as_mut().unwrap().volumes.stall(false);
    assert_eq!(bench.outcomes(1), [(1, Outcome::Failed(ESHUTDOWN))]);
    let ended = |b: &Bench| matches!(b.notices.last(), Some(Notice::Ended { .. }));
    bench.until(ended);
    assert!(matches!(bench.notices.last(), Some(Notice::Ended { all_ended: true, .. })));
    let volume = {
        bench.notices.clear();
        bench.attach()
    };
    bench.kill();
    bench.until(|b| !b.notices.is_empty());
    bench.targets.detach(volume, &mut bench.ring);
    bench.until(ended);
    assert_eq!(bench.targets.status(volume), None);
}

#[test]
fn memory_that_is_not_in_the_arena_is_refused() {
    let mut bench = Bench::new("foreign");
    bench.start(Bench::fresh_volume());
    let volume = bench.attach();
    bench.submit(volume, 1, 0, Verb::Read(Slice::zeroed(512).unwrap()));
    assert_eq!(bench.outcomes(1), [(1, Outcome::Failed(EINVAL))]);
}

#[test]
fn one_request_at_a_time_goes_round_the_rings_many_times() {
    let mut bench = Bench::new("single");
    bench.start(Bench::fresh_volume());
    let volume = bench.attach();
    for id in 0..4 * u64::from(ENTRIES) {
        bench.write(volume, id, id % 256 * 4096, 1);
        assert_eq!(bench.outcomes(1), [(id, Outcome::Done)]);
    }
}
