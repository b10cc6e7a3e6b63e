//! Sessions over TCP against Edges that nobody here wrote: bytes put together by hand.
// The test is the other end of the network.
#![allow(clippy::disallowed_methods)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use format::edge::stream::{BATCH_MAX, put_commands};
use format::edge::{
    CloseReason, Command, Done, FRAME_HEADER_LEN, FrameHeader, FrameKind, Hello, VERSION, Verb,
};
use media::Wait;

use super::*;
use crate::memory::MemoryTargets;
use crate::patience::Patience;

const CLASS: u8 = 9;
const UUID: [u8; 16] = [5; 16];
pub(super) const VOLUME: VolumeId = VolumeId(2);
const MIB: u64 = 1 << 20;

pub(super) struct Engine {
    pub(super) ring: Ring,
    pub(super) server: EdgeServer,
    volumes: MemoryTargets,
    address: SocketAddr,
    key: ClusterKey,
    pub(super) log: Vec<String>,
}

impl Engine {
    pub(super) fn new() -> Self {
        let mut ring = Ring::new(64).unwrap();
        let mut server = EdgeServer::new(CLASS);
        let key = ClusterKey::new(&[b'k'; 32]).unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let address = server.listen_tcp(any, &mut ring).unwrap();
        server.trust(key.clone());
        let mut volumes = MemoryTargets::default();
        volumes.epoch = 4;
        volumes.add(VOLUME.0, UUID, MIB, MIB).unwrap();
        Self { ring, server, volumes, address, key, log: Vec::new() }
    }

    pub(super) fn turn(&mut self) {
        let mut events = Vec::new();
        self.ring.turn(Wait::No, &mut events).unwrap();
        for event in events {
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
    pub(super) fn until(&mut self, mut reached: impl FnMut(&mut Self) -> bool) {
        let patience = Patience::new();
        while !reached(self) {
            patience.wait_on(|| &self.log);
            self.turn();
        }
    }

    /// From another host, by a token of this generation.
    pub(super) fn hello_of(&self, generation: u64, connection: u64) -> Hello {
        let expires = unix_ms() / 1000 + 60;
        let token = self.key.sign_of(generation, &UUID, "host-b", true, expires).encode();
        Hello { token, edge: [4; 16], host: "host-b".into(), ..self.hello(connection) }
    }

    pub(super) fn hello(&self, connection: u64) -> Hello {
        self.hello_from("host-a", 3, connection)
    }

    fn hello_from(&self, host: &str, edge: u8, connection: u64) -> Hello {
        let expires = unix_ms() / 1000 + 60;
        Hello {
            version: VERSION,
            features: 0,
            volume: UUID,
            read_only: false,
            entries: 8,
            token: self.key.sign(&UUID, host, true, expires).encode(),
            edge: [edge; 16],
            connection,
            host: host.into(),
            client: "by hand".into(),
        }
    }

    /// Every chunk of the pool is free again.
    fn holds_nothing(&self) -> bool {
        let pool = self.server.pool.as_ref();
        pool.is_none_or(|pool| pool.free_chunks() == pool.chunk_count())
    }
}

/// One end of a session, by hand.
pub(super) struct Raw {
    socket: TcpStream,
    bytes: Vec<u8>,
    ended: bool,
}

enum Heard {
    Frame(Frame),
    Done(Vec<Done>),
}

impl Raw {
    pub(super) fn new(engine: &Engine) -> Self {
        let socket = TcpStream::connect(engine.address).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket, bytes: Vec::new(), ended: false }
    }

    pub(super) fn open(engine: &mut Engine, connection: u64) -> Self {
        let mut raw = Self::new(engine);
        raw.say(&Frame::Hello(engine.hello(connection)).encode());
        assert!(matches!(raw.frame(engine), Frame::Attached(_)));
        raw
    }

    pub(super) fn say(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    fn pull(&mut self) {
        let mut part = [0; 65536];
        match self.socket.read(&mut part) {
            Ok(0) => self.ended = true,
            Ok(got) => self.bytes.extend_from_slice(&part[..got]),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => self.ended = true,
        }
    }

    /// The next frame; payloads stay in `bytes`.
    #[track_caller]
    fn hear(&mut self, engine: &mut Engine) -> Heard {
        let patience = Patience::new();
        loop {
            patience.wait_on(|| &engine.log);
            self.pull();
            if let Some(header) = self.bytes.first_chunk() {
                let header = FrameHeader::decode(header).unwrap();
                let end = FRAME_HEADER_LEN + header.body_len as usize;
                if self.bytes.len() >= end {
                    let bytes: Vec<u8> = self.bytes.drain(..end).collect();
                    if header.kind == FrameKind::Complete {
                        let body = &bytes[FRAME_HEADER_LEN..];
                        return Heard::Done(format::edge::stream::answers(&header, body).unwrap());
                    }
                    return Heard::Frame(Frame::decode(&bytes).unwrap().unwrap().0);
                }
            }
            engine.turn();
        }
    }

    #[track_caller]
    pub(super) fn frame(&mut self, engine: &mut Engine) -> Frame {
        match self.hear(engine) {
            Heard::Frame(frame) => frame,
            Heard::Done(done) => panic!("answers instead of a frame: {done:?}"),
        }
    }

    #[track_caller]
    fn done(&mut self, engine: &mut Engine) -> Vec<Done> {
        match self.hear(engine) {
            Heard::Done(done) => done,
            Heard::Frame(frame) => panic!("{frame:?} instead of answers"),
        }
    }

    #[track_caller]
    fn payload(&mut self, engine: &mut Engine, len: usize) -> Vec<u8> {
        let patience = Patience::new();
        while self.bytes.len() < len {
            patience.wait_on(|| &engine.log);
            engine.turn();
            self.pull();
        }
        self.bytes.drain(..len).collect()
    }

    #[track_caller]
    pub(super) fn until_end(&mut self, engine: &mut Engine) {
        let patience = Patience::new();
        while !self.ended {
            patience.wait_on(|| &engine.log);
            engine.turn();
            self.pull();
        }
    }

    fn breach(mut self, engine: &mut Engine) -> String {
        let Frame::Closed { reason, detail } = self.frame(engine) else { panic!("not closed") };
        assert_eq!(reason, CloseReason::Protocol);
        self.until_end(engine);
        detail
    }

    fn refusal(mut self, engine: &mut Engine, hello: &Hello) -> Refusal {
        self.say(&Frame::Hello(hello.clone()).encode());
        let Frame::Refused(refusal) = self.frame(engine) else { panic!("accepted {hello:?}") };
        self.until_end(engine);
        refusal
    }
}

fn command(tag: u32, verb: Verb, offset: u64, length: u64) -> Command {
    Command { tag, verb, flags: 0, offset, length, place: 0, room: 0 }
}

fn submit(commands: &[Command]) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_commands(&mut bytes, commands);
    bytes
}

pub(super) fn works(raw: &mut Raw, engine: &mut Engine) {
    raw.say(&submit(&[command(1, Verb::Read, 0, 512)]));
    assert_eq!(raw.done(engine), [Done { tag: 1, errno: 0, extents: 0 }]);
    raw.payload(engine, 512);
}

#[test]
fn a_batch_is_answered_with_its_payloads_however_it_is_cut() {
    let mut engine = Engine::new();
    let mut raw = Raw::open(&mut engine, 1);
    let mut bytes = submit(&[
        command(1, Verb::Write, 4096, 8192),
        command(2, Verb::Flush, 0, 0),
        command(3, Verb::Write, 512, 512),
    ]);
    bytes.extend([7; 8192]);
    bytes.extend([8; 512]);
    bytes.extend(submit(&[
        command(4, Verb::Read, 512, 512),
        command(5, Verb::BlockStatus, 0, 16384),
        command(6, Verb::Read, 4096, 8192),
    ]));
    for piece in bytes.chunks(1000) {
        raw.say(piece);
        engine.turn();
    }
    let mut done = Vec::new();
    let mut read = Vec::new();
    while done.len() < 6 {
        for one in raw.done(&mut engine) {
            let len = match one.tag {
                4 => 512,
                5 => one.extents as usize * 8,
                6 => 8192,
                _ => 0,
            };
            read.push((one.tag, raw.payload(&mut engine, len)));
            done.push(one);
        }
    }
    assert!(done.iter().all(|one| one.errno == 0), "{done:?}");
    let of = |tag: u32| &read.iter().find(|(of, _)| *of == tag).unwrap().1;
    assert_eq!((of(4), of(6)), (&vec![8; 512], &vec![7; 8192]));
    assert_eq!(of(5).len() / 8, 2, "data, then a hole");
    drop(raw);
    engine.until(|e| e.server.sessions(VOLUME) == 0 && e.holds_nothing());
    assert!(engine.log.iter().any(|line| line.contains("the Edge has left")));
}

#[test]
fn only_tokens_of_this_cluster_for_this_volume_and_host_open_a_session() {
    let mut engine = Engine::new();
    let mut bystander = Raw::open(&mut engine, 1);
    let good = engine.hello_from("host-c", 4, 1);
    let other = ClusterKey::new(&[b'x'; 32]).unwrap();
    let late = engine.key.sign(&UUID, "host-c", true, 1000).encode();
    let foreign = other.sign(&UUID, "host-c", true, u64::MAX).encode();
    let cases = [
        (Hello { token: [0; 64], ..good.clone() }, "bad_token", "without an attach token"),
        (Hello { token: [1; 64], ..good.clone() }, "bad_token", "reserved bytes"),
        (Hello { token: late, ..good.clone() }, "bad_token", "expired"),
        (Hello { token: foreign, ..good.clone() }, "bad_token", "not signed"),
        (Hello { host: "host-b".into(), ..good.clone() }, "bad_token", "not signed"),
        (Hello { volume: [6; 16], ..good.clone() }, "unknown_volume", "does not serve"),
        (Hello { version: 0, ..good }, "old_edge", "version 0"),
    ];
    for (hello, code, why) in cases {
        let refusal = Raw::new(&engine).refusal(&mut engine, &hello);
        assert_eq!(refusal.code, code, "{refusal:?}");
        assert!(refusal.why.contains(why) && !refusal.fix.is_empty(), "{refusal:?}");
        assert!(engine.log.iter().any(|line| line.contains("refused")), "{:?}", engine.log);
        works(&mut bystander, &mut engine);
    }
    let mut garbage = Raw::new(&engine);
    garbage.say(b"GET / HTTP/1.1\r\n\r\n");
    assert!(matches!(garbage.frame(&mut engine), Frame::Refused(_)));
    garbage.until_end(&mut engine);
    assert_eq!(engine.server.sessions(VOLUME), 1);
}

#[test]
fn bytes_that_make_no_sense_end_their_session_only() {
    let mut engine = Engine::new();
    let mut bystander = Raw::open(&mut engine, 1);
    let read = command(1, Verb::Read, 0, 512);
    let mut wrong_sum = submit(&[read]);
    wrong_sum[FRAME_HEADER_LEN + 8] ^= 1;
    let mut twice = submit(&[command(1, Verb::Flush, 0, 0), command(1, Verb::Flush, 0, 0)]);
    twice.extend([0; 3]);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"nonsense that is long enough".to_vec(), "magic"),
        (wrong_sum, "checksum"),
        (submit(&[command(8, Verb::Flush, 0, 0)]), "outside its entries"),
        (twice, "in use"),
        (submit(&[command(1, Verb::BlockStatus, 0, 0)]), "block status"),
        (submit(&[Command { place: 7, ..read }]), "place"),
        (submit(&[command(1, Verb::Read, 0, 1 << 20)]), "length"),
        (Frame::Resized { size: 1 }.encode(), "Resized within a session"),
    ];
    engine.volumes.stall(true);
    for (at, (bytes, why)) in cases.into_iter().enumerate() {
        let hello = engine.hello_from(&format!("host {at}"), at as u8 + 50, 1);
        let mut raw = Raw::new(&engine);
        raw.say(&Frame::Hello(hello).encode());
        assert!(matches!(raw.frame(&mut engine), Frame::Attached(_)));
        raw.say(&bytes);
        if why == "in use" {
            engine.until(|e| e.volumes.stalled_count() == 1);
            engine.volumes.stall(false);
            engine.volumes.stall(true);
        }
        let detail = raw.breach(&mut engine);
        assert!(detail.contains(why), "{detail} instead of {why}");
    }
    engine.volumes.stall(false);
    works(&mut bystander, &mut engine);
    drop(bystander);
    engine.until(|e| e.server.sessions(VOLUME) == 0 && e.holds_nothing());
}

#[test]
fn positions_outside_the_volume_are_errors_of_their_request() {
    let mut engine = Engine::new();
    let mut raw = Raw::open(&mut engine, 1);
    raw.say(&submit(&[command(1, Verb::Read, MIB, 512), command(2, Verb::Read, u64::MAX, 512)]));
    let done = raw.done(&mut engine);
    assert!(done.iter().all(|one| one.errno == 22), "{done:?}");
    works(&mut raw, &mut engine);
}

#[test]
fn a_later_connection_waits_until_nothing_of_the_earlier_one_can_happen() {
    let mut engine = Engine::new();
    let mut first = Raw::open(&mut engine, 1);
    engine.volumes.stall(true);
    let mut bytes = submit(&[command(1, Verb::Write, 0, 512), command(2, Verb::Write, 512, 512)]);
    bytes.extend([1; 512]);
    first.say(&bytes);
    engine.until(|e| e.volumes.stalled_count() == 1);
    let mut second = Raw::new(&engine);
    second.say(&Frame::Hello(engine.hello(2)).encode());
    engine.until(|e| e.server.connections.len() > 1);
    for _ in 0..50 {
        engine.turn();
        second.pull();
    }
    assert!(second.bytes.is_empty(), "the first one's write may still happen");
    // The rest of what the first one had sent comes too late.
    first.say(&[2; 512]);
    for _ in 0..50 {
        engine.turn();
    }
    assert_eq!(engine.volumes.stalled_count(), 1, "it takes no more");
    let again = engine.hello(1);
    let refused = Raw::new(&engine).refusal(&mut engine, &again);
    assert_eq!(refused.code, "replaced");
    engine.volumes.stall(false);
    assert!(matches!(second.frame(&mut engine), Frame::Attached(_)));
    first.until_end(&mut engine);
    second.say(&submit(&[command(1, Verb::Read, 0, 1024)]));
    assert_eq!(second.done(&mut engine)[0].errno, 0);
    let seen = second.payload(&mut engine, 1024);
    assert!(seen[..512].iter().all(|b| *b == 1) && seen[512..].iter().all(|b| *b == 0));
    drop(second);
    engine.until(|e| e.server.sessions(VOLUME) == 0 && e.holds_nothing());
    assert!(engine.server.doors.is_empty());
}

#[test]
fn a_host_that_lost_the_volume_writes_no_more() {
    let mut engine = Engine::new();
    let mut first = Raw::open(&mut engine, 1);
    engine.volumes.stall(true);
    let mut bytes = submit(&[command(1, Verb::Write, 0, 512), command(2, Verb::Write, 512, 512)]);
    bytes.extend([1; 512]);
    first.say(&bytes);
    engine.until(|e| e.volumes.stalled_count() == 1);
    engine.server.shut_out(VOLUME, 1);
    let mut second = Raw::new(&engine);
    second.say(&Frame::Hello(engine.hello_of(1, 1)).encode());
    first.say(&[2; 512]);
    for _ in 0..50 {
        engine.turn();
        second.pull();
    }
    assert!(second.bytes.is_empty(), "the first one's write may still happen");
    assert_eq!(engine.volumes.stalled_count(), 1, "and no further one");
    assert!(!engine.server.has_shut_out(VOLUME));
    let again = engine.hello(2);
    let refused = Raw::new(&engine).refusal(&mut engine, &again);
    assert_eq!(refused.code, "preempted");
    assert!(refused.why.contains("generation 0 of the volume's attachments, and only 1"));
    engine.volumes.stall(false);
    assert!(matches!(second.frame(&mut engine), Frame::Attached(_)));
    assert!(engine.server.has_shut_out(VOLUME));
    let Frame::Closed { reason, detail } = first.frame(&mut engine) else { panic!("not closed") };
    assert_eq!(reason, CloseReason::Fenced);
    assert!(detail.contains("taken away"), "{detail}");
    first.until_end(&mut engine);
    drop(second);
    engine.until(|e| e.server.sessions(VOLUME) == 0);
    let refused = Raw::new(&engine).refusal(&mut engine, &again);
    assert_eq!(refused.code, "preempted", "also when nobody is there");
    let told = |line: &&String| line.contains("refused") && line.contains("taken away");
    assert_eq!(engine.log.iter().filter(told).count(), 1, "the log hears of it once");
    let mut anew = Raw::new(&engine);
    anew.say(&Frame::Hello(engine.hello_of(1, 2)).encode());
    assert!(matches!(anew.frame(&mut engine), Frame::Attached(_)));
    works(&mut anew, &mut engine);
}

#[test]
fn a_token_of_a_later_generation_shuts_out_earlier_ones_by_itself() {
    let mut engine = Engine::new();
    let mut first = Raw::open(&mut engine, 1);
    let mut second = Raw::new(&engine);
    second.say(&Frame::Hello(engine.hello_of(2, 1)).encode());
    let closed = first.frame(&mut engine);
    assert!(matches!(closed, Frame::Closed { reason: CloseReason::Fenced, .. }), "{closed:?}");
    assert!(matches!(second.frame(&mut engine), Frame::Attached(_)));
    assert_eq!(engine.server.take_raised(), [VOLUME]);
    works(&mut second, &mut engine);
    // The generation is the volume's: of the next one under this number nothing is known.
    engine.server.leave(VOLUME, &Frame::Resized { size: 1 });
    second.until_end(&mut engine);
    assert!(engine.server.doors.is_empty());
}

#[test]
fn a_volume_that_moves_says_where_and_forgets_what_it_was_asked() {
    let mut engine = Engine::new();
    let mut raw = Raw::open(&mut engine, 1);
    engine.volumes.stall(true);
    let mut bytes = submit(&[command(1, Verb::Write, 0, 512), command(2, Verb::Read, 0, 512)]);
    bytes.extend([1; 512]);
    raw.say(&bytes);
    engine.until(|e| e.volumes.stalled_count() == 2);
    let mut waiting = Raw::new(&engine);
    waiting.say(&Frame::Hello(engine.hello(2)).encode());
    engine.until(|e| e.server.connections.len() > 1);
    (0..20).for_each(|_| engine.turn());
    engine.volumes.remove(VOLUME.0);
    let moved = Frame::Moved { address: "10.0.0.7:26203".into(), epoch: 5 };
    engine.server.leave(VOLUME, &moved);
    assert_eq!(raw.frame(&mut engine), moved);
    raw.until_end(&mut engine);
    assert!(matches!(waiting.frame(&mut engine), Frame::Refused(_)));
    engine.until(|e| e.holds_nothing());
}

#[test]
fn a_reader_that_does_not_take_its_answers_holds_bounded_memory() {
    let mut engine = Engine::new();
    let mut slow = Raw::new(&engine);
    let hello = Hello { entries: 64, ..engine.hello_from("host-c", 9, 1) };
    slow.say(&Frame::Hello(hello).encode());
    assert!(matches!(slow.frame(&mut engine), Frame::Attached(_)));
    let many: Vec<Command> =
        (0..BATCH_MAX as u32).map(|tag| command(tag, Verb::Read, 0, 256 << 10)).collect();
    slow.say(&submit(&many));
    (0..200).for_each(|_| engine.turn());
    let mut other = Raw::open(&mut engine, 1);
    works(&mut other, &mut engine);
    let mut done = 0;
    while done < BATCH_MAX {
        for one in slow.done(&mut engine) {
            assert_eq!(one.errno, 0);
            slow.payload(&mut engine, 256 << 10);
            done += 1;
        }
    }
}
