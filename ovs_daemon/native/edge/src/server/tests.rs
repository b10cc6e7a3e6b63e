//! The server against Edges that nobody here wrote: bytes and rings put together by hand.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use format::edge::{
    Attached, CloseReason, Command, Done, EXTENT_LEN, FLAG_OWN, Hello, Layout, VERSION, Verb,
    decode_extent,
};
use media::Wait;
use net::pass;
use net::shm::{CURSOR_STRIDE, Consumer, Place as RingPlace, Producer};
use net::{Bell, Lobby};

use super::*;
use crate::memory::MemoryTargets;
use crate::patience::{Patience, impatient};
use crate::target::{Request, VolumeInfo};

const CLASS: u8 = 9;
const UUID: [u8; 16] = [5; 16];
const VOLUME: VolumeId = VolumeId(2);
const MIB: u64 = 1 << 20;

struct Engine {
    ring: Ring,
    server: EdgeServer,
    volumes: MemoryTargets,
    socket: PathBuf,
    log: Vec<String>,
}

impl Engine {
    fn new(name: &str) -> Self {
        let name = format!("ovs-server-{name}-{}.sock", std::process::id());
        let socket = std::env::temp_dir().join(name);
        let mut ring = Ring::new(64).unwrap();
        let mut server = EdgeServer::new(CLASS);
        server.listen(&socket, &mut ring).unwrap();
        let mut volumes = MemoryTargets::default();
        volumes.epoch = 4;
        volumes.add(VOLUME.0, UUID, MIB, MIB).unwrap();
        Self { ring, server, volumes, socket, log: Vec::new() }
    }

    fn turn(&mut self) {
        let mut events = Vec::new();
        self.ring.turn(Wait::No, &mut events).unwrap();
        for event in events {
            assert_eq!(crate::class_of(event.token), CLASS);
            self.server.on_event(event, &mut self.ring, &mut self.volumes);
        }
        self.server.poll(&mut self.volumes, &mut self.ring);
        let mut done = Vec::new();
        self.volumes.take_completions(&mut done);
        for completion in done {
            self.server.complete(completion);
        }
        self.server.end_turn(&mut self.ring);
        self.log.extend(self.server.take_log());
    }

    #[track_caller]
    fn until(&mut self, mut reached: impl FnMut(&mut Self) -> bool) {
        let patience = Patience::new();
        while !reached(self) {
            patience.wait_on(|| &self.log);
            self.turn();
        }
    }
}

/// One end of a session, by hand.
struct Raw {
    socket: OwnedFd,
    bytes: Vec<u8>,
    ended: bool,
    layout: Layout,
    memory: Arc<Arena>,
    data: Arc<Arena>,
    commands: Producer<8>,
    answers: Consumer<2>,
    engine_bell: Bell,
    bell: Bell,
}

/// Of an Edge on a host of its own.
fn hello() -> Hello {
    let edge = net::random_name();
    Hello {
        version: VERSION,
        features: 0,
        volume: UUID,
        read_only: false,
        entries: 8,
        token: [0; 64],
        edge,
        connection: 3,
        host: uuid(&edge),
        client: "by hand".into(),
    }
}

fn clone(arena: &Arc<Arena>) -> OwnedFd {
    arena.fd().unwrap().try_clone().unwrap()
}

impl Raw {
    fn new(engine: &Engine) -> Self {
        let layout = Layout::new(8).unwrap();
        let memory = Arena::shared(layout.len()).unwrap();
        let commands =
            RingPlace::new(&memory, layout.submission_cursors(), layout.submissions(), 8);
        let answers = RingPlace::new(&memory, layout.completion_cursors(), layout.completions(), 8);
        Self {
            socket: pass::connect(&engine.socket).unwrap(),
            bytes: Vec::new(),
            ended: false,
            layout,
            memory,
            data: Arena::shared(65536).unwrap(),
            commands: Producer::new(commands.unwrap()),
            answers: Consumer::new(answers.unwrap()),
            engine_bell: Bell::new().unwrap(),
            bell: Bell::new().unwrap(),
        }
    }

    fn say(&self, bytes: &[u8], fds: &[OwnedFd]) {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        assert_eq!(pass::send(self.socket.as_fd(), bytes, &fds).unwrap(), bytes.len());
    }

    fn fds(&self) -> Vec<OwnedFd> {
        let bells = [&self.engine_bell, &self.bell].map(|bell| bell.fd().try_clone().unwrap());
        [clone(&self.memory), clone(&self.data)].into_iter().chain(bells).collect()
    }

    fn attach(&self, hello: &Hello) {
        self.say(&Frame::Hello(hello.clone()).encode(), &self.fds());
    }

    /// What the engine said next, if anything yet; [`Raw::ended`] tells its end.
    fn hear(&mut self) -> Option<Frame> {
        let mut part = [0; 4096];
        match pass::receive(self.socket.as_fd(), &mut part) {
            Ok((0, _)) => self.ended = true,
            Ok((got, _)) => self.bytes.extend_from_slice(&part[..got]),
            Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::WouldBlock),
        }
        let (frame, used) = Frame::decode(&self.bytes).unwrap()?;
        self.bytes.drain(..used);
        Some(frame)
    }

    #[track_caller]
    fn frame(&mut self, engine: &mut Engine) -> Frame {
        let mut heard = None;
        engine.until(|_| {
            heard = self.hear();
            heard.is_some()
        });
        heard.unwrap()
    }

    fn open(engine: &mut Engine) -> Self {
        let mut raw = Self::new(engine);
        raw.attach(&hello());
        assert!(matches!(raw.frame(engine), Frame::Attached(_)));
        raw
    }

    fn put(&mut self, command: &Command) {
        assert!(self.commands.push(&command.to_words()).unwrap());
        if self.commands.publish() {
            self.engine_bell.ring().unwrap();
        }
    }

    #[track_caller]
    fn answer(&mut self, engine: &mut Engine) -> Done {
        engine.until(|_| self.answers.look().unwrap() > 0);
        let done = Done::from_words(&self.answers.pop().unwrap()).unwrap();
        self.answers.release();
        done
    }

    /// The engine ends the session because of a breach; the reason that it gave.
    fn breach(&mut self, engine: &mut Engine) -> String {
        let Frame::Closed { reason, detail } = self.frame(engine) else { panic!("not closed") };
        assert_eq!(reason, CloseReason::Protocol);
        engine.until(|_| {
            self.hear();
            self.ended
        });
        detail
    }
}

fn command(tag: u32, verb: Verb, offset: u64, length: u64) -> Command {
    Command { tag, verb, flags: 0, offset, length, place: 0, room: 0 }
}

/// A session that must not be touched by what others do.
fn works(raw: &mut Raw, engine: &mut Engine) {
    raw.put(&command(1, Verb::Read, 0, 4096));
    assert_eq!(raw.answer(engine), Done { tag: 1, errno: 0, extents: 0 });
}

#[test]
fn a_session_opens_with_what_the_volume_is() {
    let mut engine = Engine::new("opens");
    let mut raw = Raw::new(&engine);
    raw.attach(&hello());
    let expected =
        Attached { version: 1, features: 0, size: MIB, read_only: false, epoch: 4, credits: 8 };
    assert_eq!(raw.frame(&mut engine), Frame::Attached(expected));
    assert_eq!(engine.server.sessions(VOLUME), 1);
    raw.data.slice(512, 4096).unwrap().write(0, &[7; 4096]);
    raw.put(&Command { place: 512, ..command(3, Verb::Write, 8192, 4096) });
    assert_eq!(raw.answer(&mut engine).errno, 0);
    raw.put(&Command { place: 40960, ..command(3, Verb::Read, 8192 + 4000, 200) });
    assert_eq!(raw.answer(&mut engine).errno, 0);
    let seen = raw.data.slice(40960, 200).unwrap().to_vec();
    assert!(seen[..96].iter().all(|b| *b == 7) && seen[96..].iter().all(|b| *b == 0));
}

#[test]
fn hellos_that_make_no_sense_are_refused_with_a_reason() {
    let mut engine = Engine::new("hellos");
    let mut bystander = Raw::open(&mut engine);
    let good = Frame::Hello(hello()).encode();
    let mut refused = |bytes: &[u8], fds: fn(&Raw) -> Vec<OwnedFd>, code: &str, why: &str| {
        let mut raw = Raw::new(&engine);
        raw.say(bytes, &fds(&raw));
        let Frame::Refused(refusal) = raw.frame(&mut engine) else { panic!("accepted: {why}") };
        assert_eq!(refusal.code, code, "{refusal:?}");
        assert!(refusal.why.contains(why), "{refusal:?}");
        assert!(!refusal.fix.is_empty());
        engine.until(|_| {
            raw.hear();
            raw.ended
        });
    };
    refused(b"GET / HTTP/1.1\r\n", |_| vec![], "malformed_hello", "Edge magic");
    refused(&Frame::Goodbye.encode(), |_| vec![], "malformed_hello", "instead of a hello");
    refused(&good, |_| vec![], "malformed_hello", "0 descriptors, not 4");
    refused(&good, |raw| raw.fds().drain(..3).collect(), "malformed_hello", "3 descriptors");
    let too_many = |raw: &Raw| raw.fds().into_iter().chain(raw.fds()).collect();
    refused(&good, too_many, "malformed_hello", "more than 4 descriptors");
    let small = |raw: &Raw| {
        let mut fds = raw.fds();
        fds[0] = clone(&Arena::shared(8192).unwrap());
        fds
    };
    refused(&good, small, "memory", "too small");
    let unsealed = |raw: &Raw| {
        let mut fds = raw.fds();
        fds[1] = raw.socket.try_clone().unwrap();
        fds
    };
    refused(&good, unsealed, "memory", "not sealed");
    let other = Frame::Hello(Hello { volume: [6; 16], ..hello() }).encode();
    refused(&other, Raw::fds, "unknown_volume", "does not serve");
    let old = Frame::Hello(Hello { version: 0, ..hello() }).encode();
    refused(&old, Raw::fds, "old_edge", "version 0");
    works(&mut bystander, &mut engine);
    assert_eq!(engine.server.sessions(VOLUME), 1);
}

#[test]
fn commands_that_break_the_protocol_end_their_session_only() {
    let mut engine = Engine::new("commands");
    let mut bystander = Raw::open(&mut engine);
    let broken = [
        (command(8, Verb::Read, 0, 512), "tag 8 is outside its ring"),
        (Command { place: 65536, ..command(1, Verb::Write, 0, 1) }, "outside its memory"),
        (Command { place: u64::MAX, ..command(1, Verb::Read, 0, 512) }, "outside its memory"),
        (Command { flags: FLAG_OWN, place: 1 << 30, ..command(1, Verb::Read, 0, 1) }, "outside"),
        (command(1, Verb::BlockStatus, 0, 4096), "without room"),
        (Command { room: 64, ..command(1, Verb::BlockStatus, 0, 1 << 32) }, "4 GiB"),
    ];
    for (command, why) in broken {
        let mut raw = Raw::open(&mut engine);
        raw.put(&command);
        let said = raw.breach(&mut engine);
        assert!(said.contains(why), "{said}");
        works(&mut bystander, &mut engine);
    }
    let mut raw = Raw::open(&mut engine);
    assert!(raw.commands.push(&[0xff; 8]).unwrap());
    assert!(!raw.commands.publish() || raw.engine_bell.ring().is_ok());
    assert!(raw.breach(&mut engine).contains("reserved"));
    assert_eq!(engine.server.sessions(VOLUME), 1);
}

#[test]
fn positions_that_cannot_be_end_their_session_only() {
    let mut engine = Engine::new("positions");
    let mut bystander = Raw::open(&mut engine);
    let mut raw = Raw::open(&mut engine);
    let tail = raw.layout.submission_cursors() + CURSOR_STRIDE;
    raw.memory.slice(tail, 4).unwrap().write(0, &1000u32.to_le_bytes());
    raw.engine_bell.ring().unwrap();
    assert!(raw.breach(&mut engine).contains("impossible position"));
    works(&mut bystander, &mut engine);
}

#[test]
fn more_requests_than_credits_end_the_session_when_the_others_are_done() {
    let mut engine = Engine::new("credits");
    let mut raw = Raw::open(&mut engine);
    engine.volumes.stall(true);
    for tag in 0..8 {
        raw.put(&command(tag, Verb::Read, 0, 512));
    }
    engine.until(|e| e.volumes.stalled_count() == 8);
    raw.put(&command(0, Verb::Read, 0, 512));
    for _ in 0..20 {
        engine.turn();
        assert_eq!(raw.hear(), None, "requests of the session still use its memory");
    }
    engine.volumes.stall(false);
    assert!(raw.breach(&mut engine).contains("more than 8 requests"));
}

#[test]
fn frames_out_of_place_end_their_session() {
    let mut engine = Engine::new("frames");
    let mut raw = Raw::open(&mut engine);
    raw.attach(&hello());
    assert!(raw.breach(&mut engine).contains("descriptors after its hello"));
    let mut raw = Raw::open(&mut engine);
    raw.say(&Frame::Hello(hello()).encode(), &[]);
    assert!(raw.breach(&mut engine).contains("Hello within a session"));
    let mut raw = Raw::open(&mut engine);
    raw.say(&[0x55; 16], &[]);
    assert!(raw.breach(&mut engine).contains("magic"));
}

#[test]
fn who_attaches_read_only_cannot_write() {
    let mut engine = Engine::new("read-only");
    let mut raw = Raw::new(&engine);
    raw.attach(&Hello { read_only: true, ..hello() });
    let Frame::Attached(attached) = raw.frame(&mut engine) else { panic!("refused") };
    assert!(attached.read_only);
    for verb in [Verb::Write, Verb::Trim, Verb::WriteZeroes] {
        raw.put(&command(0, verb, 0, 4096));
        assert_eq!(raw.answer(&mut engine).errno, 1, "{verb:?}");
    }
    works(&mut raw, &mut engine);
    assert_eq!(engine.volumes.executed, 1, "writes never reached the volume");
}

#[test]
fn extents_that_do_not_fit_are_told_as_data() {
    let mut engine = Engine::new("extents");
    let mut raw = Raw::open(&mut engine);
    for cluster in [1, 3, 5] {
        raw.data.slice(0, 4096).unwrap().write(0, &[1; 4096]);
        raw.put(&command(0, Verb::Write, cluster * 4096, 4096));
        assert_eq!(raw.answer(&mut engine).errno, 0);
    }
    let mut ask = |extents: u32| {
        let room = extents * EXTENT_LEN as u32;
        let place = raw.layout.answer(2) as u64;
        raw.put(&Command {
            flags: FLAG_OWN,
            place,
            room,
            ..command(2, Verb::BlockStatus, 0, 8 * 4096)
        });
        let done = raw.answer(&mut engine);
        let place = raw.memory.slice(raw.layout.answer(2), room as usize).unwrap();
        let read = |at: u32| {
            let mut bytes = [0; EXTENT_LEN];
            place.read(at as usize * EXTENT_LEN, &mut bytes);
            decode_extent(&bytes)
        };
        (0..done.extents).map(read).collect::<Vec<_>>()
    };
    let all = [(4096, true), (4096, false), (4096, true), (4096, false), (4096, true)];
    let all = [&all[..], &[(4096, false), (8192, true)]].concat();
    assert_eq!(ask(20), all);
    assert_eq!(ask(7), all);
    assert_eq!(ask(2), [(4096, true), (7 * 4096, false)]);
    assert_eq!(ask(1), [(8 * 4096, false)]);
}

#[test]
fn a_goodbye_is_answered_when_nothing_is_in_flight() {
    let mut engine = Engine::new("goodbye");
    let mut raw = Raw::open(&mut engine);
    engine.volumes.stall(true);
    raw.put(&command(0, Verb::Read, 0, 512));
    engine.until(|e| e.volumes.stalled_count() == 1);
    raw.say(&Frame::Goodbye.encode(), &[]);
    for _ in 0..20 {
        engine.turn();
        raw.hear();
        assert!(!raw.ended, "the volume still works on the memory");
    }
    engine.volumes.stall(false);
    engine.until(|_| {
        raw.hear();
        raw.ended
    });
    assert_eq!(raw.answers.look(), Ok(1), "answered before the end");
    assert_eq!(engine.server.sessions(VOLUME), 0);
}

#[test]
fn idle_sessions_sleep_and_are_woken() {
    let mut engine = Engine::new("idle");
    let mut sessions = [Raw::open(&mut engine), Raw::open(&mut engine)];
    for round in 0..5 {
        engine.until(|e| !e.server.wants_polling());
        let raw = &mut sessions[round % 2];
        assert!(raw.commands.push(&command(0, Verb::Read, 0, 512).to_words()).unwrap());
        assert!(raw.commands.publish(), "a sleeper wants its bell");
        raw.engine_bell.ring().unwrap();
        assert_eq!(raw.answer(&mut engine).errno, 0);
    }
}

#[test]
fn sessions_of_one_edge_share_its_mapping() {
    let mut engine = Engine::new("shared");
    let first = Raw::open(&mut engine);
    let mut second = Raw::new(&engine);
    second.data = first.data.clone();
    second.attach(&hello());
    assert!(matches!(second.frame(&mut engine), Frame::Attached(_)));
    assert_eq!(engine.server.arenas.len(), 1);
    let _other = Raw::open(&mut engine);
    assert_eq!(engine.server.arenas.len(), 2);
}

/// Knows only where volumes are.
struct Elsewhere;

impl Targets for Elsewhere {
    fn info(&self, _: VolumeId) -> Option<VolumeInfo> {
        None
    }

    fn submit(&mut self, _: VolumeId, request: Request) {
        panic!("no volume is here: {request:?}");
    }
}

impl Host for Elsewhere {
    fn find(&self, _: &[u8; 16]) -> Found {
        Found::Shard(3)
    }
}

#[test]
fn a_connection_goes_to_the_shard_of_its_volume() {
    let mut engine = Engine::new("handover");
    let mut raw = Raw::new(&engine);
    raw.attach(&hello());
    let (mut handed, patience) = (Vec::new(), Patience::new());
    while handed.is_empty() {
        patience.wait_on(|| engine.server.take_log());
        let mut events = Vec::new();
        engine.ring.turn(impatient(Wait::Forever), &mut events).unwrap();
        for event in events {
            engine.server.on_event(event, &mut engine.ring, &mut Elsewhere);
        }
        handed = engine.server.take_handovers();
    }
    let (shard, adopted) = handed.pop().unwrap();
    assert_eq!((shard, adopted.hello.volume), (3, UUID));
    fn can_cross_threads<T: Send>(it: T) -> T {
        it
    }
    let adopted = can_cross_threads(adopted);
    engine.server.adopt(adopted, &mut engine.ring, &mut engine.volumes);
    assert!(matches!(raw.frame(&mut engine), Frame::Attached(_)));
    works(&mut raw, &mut engine);
}

#[test]
fn uuids_read_back() {
    let text = "01234567-89ab-cdef-0123-456789abcdef";
    assert_eq!(uuid(&parse_uuid(text).unwrap()), text);
    assert_eq!(parse_uuid(&text.replace('-', "")), parse_uuid(text));
    for wrong in ["", "01234567", "0123456789abcdef0123456789abcdeg", &format!("{text}0")] {
        assert_eq!(parse_uuid(wrong), None);
    }
}

#[test]
fn who_says_no_hello_in_time_is_closed_and_sessions_stay() {
    let mut engine = Engine::new("silent");
    let mut bystander = Raw::open(&mut engine);
    engine.server.entrances[0].lobby = Lobby::new(2, Duration::from_millis(50));
    let mut silent = Raw::new(&engine);
    engine.until(|_| {
        silent.hear();
        silent.ended
    });
    let told = |line: &String| line.contains("did not say who they are in 50ms");
    assert!(engine.log.iter().any(told), "{:?}", engine.log);
    engine.server.entrances[0].lobby = Lobby::new(2, Duration::from_secs(3600));
    let mut crowd: Vec<Raw> = Vec::new();
    for _ in 0..20 {
        crowd.push(Raw::new(&engine));
        engine.turn();
        works(&mut bystander, &mut engine);
    }
    // Of all that came only two are left, and one more goes for who says hello.
    works(&mut Raw::open(&mut engine), &mut engine);
    engine.until(|_| {
        crowd[..18].iter_mut().all(|raw| {
            raw.hear();
            raw.ended
        })
    });
    works(&mut bystander, &mut engine);
}

#[test]
fn without_descriptors_it_pauses_and_says_so_once() {
    let mut engine = Engine::new("short");
    let token = engine.server.entrance_token(KIND_ACCEPT, 0);
    // EMFILE (errno(3)), as if the accept under way had failed, and again after each pause.
    for _ in 0..3 {
        let event = Event { token, result: -24 };
        engine.server.on_event(event, &mut engine.ring, &mut engine.volumes);
    }
    let log = engine.server.take_log();
    assert_eq!(log.len(), 1, "{log:?}");
    assert!(log[0].contains("open files"), "{log:?}");
}
