//! Edge and engines over TCP in one thread: sessions that are cut, moved, refused, and go on.

use std::net::SocketAddr;

use format::edge::{CloseReason, Frame};
use media::{Slice, Wait};
use net::clock::{monotonic_ns, unix_ms};

use super::*;
use crate::class_of;
use crate::memory::MemoryTargets;
use crate::patience::{Patience, impatient};
use crate::server::{ClusterKey, EdgeServer};
use crate::target::RequestId;

const CLIENT: u8 = 100;
const UUID: [u8; 16] = [7; 16];
const MIB: u64 = 1 << 20;
/// The volume's number in every engine.
const NUMBER: VolumeId = VolumeId(3);

struct Engine {
    server: EdgeServer,
    volumes: MemoryTargets,
    address: SocketAddr,
    /// It does nothing, as a process that was stopped.
    frozen: bool,
}

struct Bench {
    ring: Ring,
    engines: Vec<Engine>,
    targets: EdgeTargets,
    /// How often the host was booted.
    boots: u8,
    arena: Arc<Arena>,
    key: ClusterKey,
    done: Vec<Completion>,
    notices: Vec<Notice>,
    log: Vec<String>,
    /// What patience is measured with, in nanoseconds; else the clock.
    now_ns: Option<u64>,
}

impl Bench {
    fn new() -> Self {
        let arena = Arena::shared(4 * MIB as usize).unwrap();
        let nowhere = Path::new("/nonexistent/engine.sock");
        let identity = Identity::fresh("a test");
        Self {
            ring: Ring::new(64).unwrap(),
            engines: Vec::new(),
            targets: EdgeTargets::new(CLIENT, nowhere, arena.clone(), identity).unwrap(),
            boots: 0,
            arena,
            key: ClusterKey::new(&[b'k'; 32]).unwrap(),
            done: Vec::new(),
            notices: Vec::new(),
            log: Vec::new(),
            now_ns: None,
        }
    }

    /// The host's power fails: its Edge is gone without a word, and the next one knows nothing of it.
    fn boot(&mut self) {
        self.boots += 1;
        let mut identity = Identity::fresh("a test");
        identity.origin_ms += u64::from(self.boots) * 1000;
        let (class, nowhere) = (CLIENT + self.boots, Path::new("/nonexistent/engine.sock"));
        let fresh = EdgeTargets::new(class, nowhere, self.arena.clone(), identity).unwrap();
        // What waits in the ring keeps its connections open.
        drop(std::mem::replace(&mut self.targets, fresh));
    }

    fn now_ns(&self) -> u64 {
        self.now_ns.unwrap_or_else(monotonic_ns)
    }

    /// An engine; its number. It serves the volume when `epoch` is not 0.
    fn start(&mut self, epoch: u64) -> usize {
        let mut server = EdgeServer::new(self.engines.len() as u8);
        let any = "127.0.0.1:0".parse().unwrap();
        let address = server.listen_tcp(any, &mut self.ring).unwrap();
        server.trust(self.key.clone());
        let mut volumes = MemoryTargets::default();
        if epoch > 0 {
            volumes.epoch = epoch;
            volumes.add(NUMBER.0, UUID, 2 * MIB, 4 * MIB).unwrap();
        }
        self.engines.push(Engine { server, volumes, address, frozen: false });
        self.engines.len() - 1
    }

    /// The volume with its content goes from one engine to another, which owns it under `epoch`.
    fn hand_over(&mut self, from: usize, to: usize, epoch: u64, says: bool) {
        let address = self.engines[to].address.to_string();
        let old = &mut self.engines[from];
        let mut volumes = std::mem::take(&mut old.volumes);
        volumes.stall(true);
        volumes.stalled_are_lost();
        volumes.stall(false);
        volumes.epoch = epoch;
        if says {
            old.server.leave(NUMBER, &Frame::Moved { address, epoch });
        } else if !old.frozen {
            let (reason, detail) = (CloseReason::Stopping, "it stops".into());
            old.server.leave(NUMBER, &Frame::Closed { reason, detail });
        }
        self.engines[to].volumes = volumes;
    }

    fn whereabouts(&self, engines: &[usize], epoch: u64) -> Whereabouts {
        let targets =
            engines.iter().map(|engine| Address::Tcp(self.engines[*engine].address)).collect();
        let expires = unix_ms() / 1000 + 60;
        let token = self.key.sign(&UUID, "host-a", true, expires).encode();
        Whereabouts { targets, token, host: "host-a".into(), epoch }
    }

    fn attach(&mut self, engines: &[usize]) -> VolumeId {
        let whereabouts = self.whereabouts(engines, 0);
        let attachment = Attachment { uuid: UUID, whereabouts, ..Attachment::default() };
        let volume = self.targets.attach(&attachment, &mut self.ring);
        self.until(|b| !b.notices.is_empty());
        assert_eq!(self.notices.remove(0), Notice::Opened { volume, first: true });
        volume
    }

    fn retarget(&mut self, volume: VolumeId, engines: &[usize], epoch: u64) {
        let whereabouts = self.whereabouts(engines, epoch);
        self.targets.retarget(volume, &whereabouts, &mut self.ring);
    }

    fn turn(&mut self) {
        let busy =
            |e: &Engine| !e.frozen && (e.server.wants_polling() || e.volumes.has_completions());
        let busy = self.engines.iter().any(busy);
        let wait = match self.targets.patience(self.now_ns()) {
            _ if self.targets.wants_polling() || busy => Wait::No,
            Some(time) => Wait::AtMost(time),
            None => Wait::Forever,
        };
        self.turn_with(impatient(wait));
    }

    fn turn_with(&mut self, wait: Wait) {
        let mut events = Vec::new();
        self.ring.turn(wait, &mut events).unwrap();
        for event in events {
            match class_of(event.token) {
                class if class == CLIENT + self.boots => {
                    self.targets.on_event(event, &mut self.ring);
                }
                CLIENT.. => {}
                class => {
                    let Engine { server, volumes, .. } = &mut self.engines[class as usize];
                    server.on_event(event, &mut self.ring, volumes);
                }
            }
        }
        self.targets.on_timers(self.now_ns(), &mut self.ring);
        for engine in self.engines.iter_mut().filter(|engine| !engine.frozen) {
            engine.server.poll(&mut engine.volumes, &mut self.ring);
            let mut done = Vec::new();
            engine.volumes.take_completions(&mut done);
            done.into_iter().for_each(|completion| engine.server.complete(completion));
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

    fn submit(&mut self, volume: VolumeId, id: u64, offset: u64, verb: Verb) {
        self.targets.submit(volume, Request { id: RequestId(id), offset, verb });
    }

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
        let data = self.piece(id as usize % 256 * 4096, 4096);
        data.write(0, &[byte; 4096]);
        self.submit(volume, id, offset, Verb::Write { data, fua: false });
    }

    fn read_byte(&mut self, volume: VolumeId, offset: u64) -> u8 {
        let into = self.piece(MIB as usize, 4096);
        into.zero();
        self.submit(volume, 999_999, offset, Verb::Read(into.clone()));
        assert_eq!(self.outcomes(1), [(999_999, Outcome::Done)]);
        let bytes = into.to_vec();
        assert!(bytes.iter().all(|byte| *byte == bytes[0]), "half of something else");
        bytes[0]
    }

    /// Whether all has ended that was asked for, once the session is over.
    fn all_ended(&mut self) -> bool {
        self.until(|b| matches!(b.notices.last(), Some(Notice::Ended { .. })));
        let last = self.notices.drain(..).next_back();
        matches!(last, Some(Notice::Ended { all_ended: true, .. }))
    }

    fn stalled(&self, engine: usize) -> usize {
        self.engines[engine].volumes.stalled_count()
    }
}

#[test]
fn every_verb_crosses_the_network() {
    let mut bench = Bench::new();
    let engine = bench.start(1);
    let volume = bench.attach(&[engine]);
    let data = bench.piece(0, 256 << 10);
    (0..64).for_each(|at| data.write(at * 4096, &[at as u8 + 1; 4096]));
    bench.submit(volume, 1, 4096, Verb::Write { data, fua: true });
    bench.submit(volume, 2, 0, Verb::Flush);
    assert_eq!(bench.outcomes(2), [(1, Outcome::Done), (2, Outcome::Done)]);
    bench.submit(volume, 3, 8192, Verb::Trim { len: 4096, fua: false });
    bench.submit(volume, 4, 3 * 4096, Verb::WriteZeroes { len: 4096, fua: true });
    bench.outcomes(2);
    let into = bench.piece(2 * MIB as usize, 256 << 10);
    bench.submit(volume, 5, 4096, Verb::Read(into.clone()));
    bench.submit(volume, 6, 0, Verb::BlockStatus { len: 5 * 4096 });
    bench.submit(volume, 7, 2 * MIB, Verb::Read(bench.piece(0, 512)));
    let outcomes = bench.outcomes(3);
    assert_eq!(outcomes[0], (5, Outcome::Done));
    let hole = |len, hole| crate::target::Extent { len, hole };
    let extents = vec![hole(4096, true), hole(4096, false), hole(8192, true), hole(4096, false)];
    assert_eq!(outcomes[1], (6, Outcome::Extents(extents)));
    assert_eq!(outcomes[2], (7, Outcome::Failed(EINVAL)));
    let seen = into.to_vec();
    for at in 0..64 {
        let expected = if at == 1 || at == 2 { 0 } else { at as u8 + 1 };
        assert!(seen[at * 4096..(at + 1) * 4096].iter().all(|byte| *byte == expected), "{at}");
    }
}

#[test]
fn many_requests_of_all_sizes_come_back_right() {
    let mut bench = Bench::new();
    let engine = bench.start(1);
    let volume = bench.attach(&[engine]);
    for id in 0..256 {
        bench.write(volume, id, id * 4096, id as u8);
    }
    assert!(bench.outcomes(256).iter().all(|(_, outcome)| *outcome == Outcome::Done));
    for round in 0..40 {
        let mut places = Vec::new();
        let mut at = MIB as usize;
        for id in 0..24u64 {
            let len = [512, 4096, 65536, 100 * 512][(id as usize + round) % 4];
            let offset = id * 20_480 / 512 * 512;
            let into = bench.piece(at, len);
            at += len;
            bench.submit(volume, id, offset, Verb::Read(into.clone()));
            places.push((offset, into));
        }
        assert!(bench.outcomes(24).iter().all(|(_, outcome)| *outcome == Outcome::Done));
        for (offset, into) in places {
            for (at, byte) in into.to_vec().iter().enumerate().step_by(512) {
                assert_eq!(*byte, ((offset + at as u64) / 4096) as u8);
            }
        }
    }
}

#[test]
fn a_volume_that_moves_is_followed_and_nothing_is_lost() {
    let mut bench = Bench::new();
    let (old, new) = (bench.start(1), bench.start(0));
    let volume = bench.attach(&[old]);
    bench.write(volume, 1, 0, 1);
    bench.outcomes(1);
    bench.engines[old].volumes.stall(true);
    for id in 2..100 {
        bench.write(volume, id, id * 4096, id as u8);
    }
    bench.until(|b| b.stalled(old) == 98);
    bench.hand_over(old, new, 2, true);
    assert!(bench.outcomes(98).iter().all(|(_, outcome)| *outcome == Outcome::Done));
    assert_eq!(bench.read_byte(volume, 0), 1);
    assert_eq!(bench.read_byte(volume, 50 * 4096), 50);
    let status = bench.targets.status(volume).unwrap();
    assert_eq!((status.epoch, status.target), (2, bench.engines[new].address.to_string()));
}

#[test]
fn a_refusal_leads_to_the_next_target_and_retargeting_to_the_owner() {
    let mut bench = Bench::new();
    let (other, owner) = (bench.start(0), bench.start(1));
    let volume = bench.attach(&[other, owner]);
    bench.write(volume, 1, 0, 1);
    assert_eq!(bench.outcomes(1), [(1, Outcome::Done)]);
    bench.hand_over(owner, other, 2, false);
    let third = bench.start(0);
    bench.retarget(volume, &[third, other], 2);
    assert_eq!(bench.read_byte(volume, 0), 1);
    bench.hand_over(other, third, 3, false);
    assert_eq!(bench.read_byte(volume, 0), 1, "tried in turn, without being told");
}

#[test]
fn an_owner_that_is_frozen_is_left_and_what_it_had_is_harmless() {
    let mut bench = Bench::new();
    let (old, new) = (bench.start(1), bench.start(0));
    let volume = bench.attach(&[old]);
    bench.write(volume, 1, 0, 1);
    bench.outcomes(1);
    bench.engines[old].frozen = true;
    bench.write(volume, 2, 0, 2);
    for _ in 0..20 {
        bench.turn_with(Wait::No);
    }
    assert!(bench.done.is_empty(), "guests wait");
    bench.hand_over(old, new, 2, false);
    bench.retarget(volume, &[new, old], 2);
    assert_eq!(bench.outcomes(1), [(2, Outcome::Done)]);
    bench.write(volume, 3, 0, 3);
    assert_eq!(bench.outcomes(1), [(3, Outcome::Done)]);
    bench.engines[old].frozen = false;
    for _ in 0..50 {
        bench.turn_with(Wait::No);
    }
    assert_eq!(bench.read_byte(volume, 0), 3);
}

#[test]
fn an_older_owner_is_not_gone_back_to() {
    let mut bench = Bench::new();
    let owner = bench.start(5);
    let volume = bench.attach(&[owner]);
    let ghost = bench.start(4);
    bench.hand_over(owner, owner, 5, false);
    bench.engines[owner].volumes.remove(NUMBER.0);
    bench.retarget(volume, &[ghost], 0);
    bench.write(volume, 1, 0, 1);
    let outdated = |b: &Bench| {
        b.targets.status(volume).is_some_and(|s| s.why.contains("outdated ownership epoch 4"))
    };
    bench.until(outdated);
    assert!(bench.done.is_empty());
    let heir = bench.start(6);
    bench.retarget(volume, &[ghost, heir], 6);
    assert_eq!(bench.outcomes(1), [(1, Outcome::Done)]);
}

#[test]
fn who_has_no_good_token_is_told_so_and_a_better_one_helps() {
    let mut bench = Bench::new();
    let engine = bench.start(1);
    let mut whereabouts = bench.whereabouts(&[engine], 0);
    whereabouts.token[40] ^= 1;
    let attachment = Attachment { uuid: UUID, whereabouts, ..Attachment::default() };
    bench.targets.attach(&attachment, &mut bench.ring);
    bench.until(|b| !b.notices.is_empty());
    let Some(Notice::Ended { refusal: Some(refusal), .. }) = bench.notices.pop() else {
        panic!("no reason");
    };
    assert_eq!(refusal.code, "bad_token");
    let volume = bench.attach(&[engine]);
    bench.write(volume, 1, 0, 1);
    bench.outcomes(1);
}

#[test]
fn an_attach_tells_why_nobody_can_be_reached() {
    let mut bench = Bench::new();
    let (_, closed) = net::listen_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let targets = vec![Address::Tcp(closed)];
    let whereabouts = Whereabouts { targets, ..Whereabouts::default() };
    let attachment = Attachment { uuid: UUID, whereabouts, ..Attachment::default() };
    bench.targets.attach(&attachment, &mut bench.ring);
    bench.until(|b| !b.notices.is_empty());
    let Some(Notice::Ended { refusal: Some(refusal), ending, .. }) = bench.notices.pop() else {
        panic!("no reason");
    };
    assert_eq!(ending, Ending::Unreachable);
    assert!(refusal.why.contains("refused"), "{}", refusal.why);
    assert!(refusal.fix.contains("[edge] listen"), "{}", refusal.fix);
}

#[test]
fn who_never_answers_is_given_up_and_the_next_one_tried() {
    let mut bench = Bench::new();
    let (_deaf, address) = net::listen_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let engine = bench.start(1);
    let mut whereabouts = bench.whereabouts(&[engine], 0);
    whereabouts.targets.insert(0, Address::Tcp(address));
    let attachment = Attachment { uuid: UUID, whereabouts, ..Attachment::default() };
    let volume = bench.targets.attach(&attachment, &mut bench.ring);
    bench.until(|b| !b.notices.is_empty());
    assert_eq!(bench.notices.remove(0), Notice::Opened { volume, first: true });
    bench.targets.detach(volume, &mut bench.ring);
    bench.until(|b| matches!(b.notices.last(), Some(Notice::Ended { .. })));
    assert_eq!(bench.engines[engine].server.sessions(NUMBER), 0);
}

#[test]
fn a_size_that_changes_is_told_over_the_network() {
    let mut bench = Bench::new();
    let engine = bench.start(1);
    let volume = bench.attach(&[engine]);
    let Engine { server, volumes, .. } = &mut bench.engines[engine];
    volumes.resize(NUMBER.0, 3 * MIB);
    server.volume_resized(NUMBER, volumes);
    bench.turn_with(Wait::No);
    bench.until(|b| !b.notices.is_empty());
    assert_eq!(bench.notices, [Notice::Resized { volume, size: 3 * MIB }]);
}

#[test]
fn a_detach_says_whether_the_engine_has_ended_what_it_had_taken() {
    let mut bench = Bench::new();
    let engine = bench.start(1);
    for ends in [true, false] {
        let volume = bench.attach(&[engine]);
        bench.engines[engine].volumes.stall(true);
        bench.write(volume, 1, 0, 1);
        bench.until(|b| b.stalled(engine) == 1);
        // It is waited for; or patience ends long before it does.
        let ahead_ns = if ends { 0 } else { 60_000_000_000 };
        bench.targets.detach(volume, &mut bench.ring);
        bench.now_ns = Some(monotonic_ns() + ahead_ns);
        if ends {
            bench.engines[engine].volumes.stall(false);
        }
        assert_eq!(bench.all_ended(), ends);
        assert_eq!(bench.stalled(engine), usize::from(!ends), "it may still happen");
        bench.engines[engine].volumes.stall(false);
        bench.done.clear();
        bench.now_ns = None;
    }
}

#[test]
fn a_detach_without_an_engine_is_certain_only_when_nothing_was_unanswered() {
    for unanswered in [false, true] {
        let mut bench = Bench::new();
        let engine = bench.start(1);
        let volume = bench.attach(&[engine]);
        bench.write(volume, 1, 0, 1);
        assert_eq!(bench.outcomes(1), [(1, Outcome::Done)]);
        bench.engines[engine].frozen = true;
        // What is only read changes nothing.
        let into = bench.piece(0, 4096);
        bench.submit(volume, 2, 0, Verb::Read(into));
        if unanswered {
            bench.write(volume, 3, 4096, 1);
        }
        bench.turn_with(Wait::No);
        bench.targets.detach(volume, &mut bench.ring);
        bench.now_ns = Some(monotonic_ns() + 60_000_000_000);
        assert_eq!(bench.all_ended(), !unanswered);
    }
}

#[test]
fn a_host_that_was_booted_waits_for_what_it_had_asked_for_before() {
    let mut bench = Bench::new();
    let engine = bench.start(1);
    let volume = bench.attach(&[engine]);
    bench.engines[engine].volumes.stall(true);
    bench.write(volume, 1, 0, 1);
    bench.until(|b| b.stalled(engine) == 1);
    let whereabouts = bench.whereabouts(&[engine], 0);
    let attachment = Attachment { uuid: UUID, whereabouts, ..Attachment::default() };
    let waiting = |b: &Bench| b.engines[engine].server.at_the_door();
    let mut before = None;
    for gives_up in [true, false] {
        bench.boot();
        let volume = bench.targets.attach(&attachment, &mut bench.ring);
        bench.until(|b| waiting(b) > before || !b.notices.is_empty());
        assert_eq!(bench.notices, [], "its guest would read, and then see the write land");
        before = waiting(&bench);
        if gives_up {
            bench.targets.detach(volume, &mut bench.ring);
            bench.now_ns = Some(monotonic_ns() + 60_000_000_000);
            assert!(!bench.all_ended(), "who has the volume next would see it as well");
            bench.now_ns = None;
            continue;
        }
        bench.engines[engine].volumes.stall(false);
        bench.until(|b| !b.notices.is_empty());
        assert_eq!(bench.notices.remove(0), Notice::Opened { volume, first: true });
        assert_eq!(bench.read_byte(volume, 0), 1);
        bench.targets.detach(volume, &mut bench.ring);
        assert!(bench.all_ended());
    }
}
