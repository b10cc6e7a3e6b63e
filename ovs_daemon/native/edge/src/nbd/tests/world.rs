//! A server, its loop, volumes in memory and clients, all in one thread.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use format::nbd::{self, RequestHeader, chunk, option};
use media::{Arena, Ring, Slice, Wait};

use crate::flow::pool::CHUNK_BYTES;
use crate::nbd::{NbdServer, Offer};
use crate::patience::Patience;
use crate::target::{
    Completion, Extent, Outcome, Request, RequestId, Targets, Verb, VolumeId, VolumeInfo,
};

pub(super) const DISK: VolumeId = VolumeId(0);
pub(super) const OTHER: VolumeId = VolumeId(1);
pub(super) const DISK_BYTES: usize = 8 << 20;

/// Volumes in memory that can be told to wait or to fail.
pub(super) struct Volumes {
    pub(super) bytes: BTreeMap<VolumeId, Slice>,
    pub(super) done: Vec<Completion>,
    /// Volumes that do not answer now, and what they were asked meanwhile.
    pub(super) held: BTreeMap<VolumeId, Vec<Request>>,
    /// Requests that touch this byte fail with this errno.
    pub(super) bad: Option<(u64, i32)>,
    /// Answers some requests each turn, in any order.
    pub(super) lazy: Option<Dice>,
    /// Every verb in order: its name, offset, length, fua.
    pub(super) seen: Vec<(&'static str, u64, u64, bool)>,
}

impl Targets for Volumes {
    fn info(&self, volume: VolumeId) -> Option<VolumeInfo> {
        let size = self.bytes.get(&volume)?.len() as u64;
        Some(VolumeInfo { size, read_only: false })
    }

    fn submit(&mut self, volume: VolumeId, request: Request) {
        let (name, len, fua) = match &request.verb {
            Verb::Read(into) => ("read", into.len() as u64, false),
            Verb::Write { data, fua } => ("write", data.len() as u64, *fua),
            Verb::Trim { len, fua } => ("trim", *len, *fua),
            Verb::WriteZeroes { len, fua } => ("zero", *len, *fua),
            Verb::Flush => ("flush", 0, false),
            Verb::BlockStatus { len } => ("status", u64::from(*len), false),
        };
        self.seen.push((name, request.offset, len, fua));
        match self.held.get_mut(&volume) {
            Some(held) => held.push(request),
            None => self.perform(volume, request, len),
        }
    }
}

impl Volumes {
    fn perform(&mut self, volume: VolumeId, request: Request, len: u64) {
        let Request { id, offset, verb } = request;
        let at = offset as usize;
        let hit = |byte| (offset..offset + len).contains(&byte);
        let outcome = match self.bad {
            Some((byte, errno)) if hit(byte) => Outcome::Failed(errno),
            _ => {
                let disk = &self.bytes[&volume];
                match &verb {
                    Verb::Read(into) => disk.sub(at, into.len()).copy_to(into),
                    Verb::Write { data, .. } => data.copy_to(&disk.sub(at, data.len())),
                    Verb::Trim { len, .. } | Verb::WriteZeroes { len, .. } => {
                        disk.sub(at, *len as usize).zero();
                    }
                    Verb::Flush | Verb::BlockStatus { .. } => {}
                }
                match &verb {
                    Verb::BlockStatus { len } => Outcome::Extents(extents(disk, at, *len)),
                    _ => Outcome::Done,
                }
            }
        };
        self.done.push(Completion { id, outcome });
    }

    /// Lets a volume that was held answer, last request first.
    pub(super) fn release(&mut self, volume: VolumeId) {
        for request in self.held.remove(&volume).unwrap_or_default().into_iter().rev() {
            self.answer(volume, request);
        }
    }

    fn answer(&mut self, volume: VolumeId, request: Request) {
        let len = match &request.verb {
            Verb::Read(into) => into.len() as u64,
            Verb::Write { data, .. } => data.len() as u64,
            _ => 0,
        };
        self.perform(volume, request, len);
    }

    /// Lets held volumes answer some of what they were asked; false: there was nothing.
    fn answer_some(&mut self) -> bool {
        let Some(mut dice) = self.lazy.take() else { return false };
        let mut chosen = Vec::new();
        for (volume, held) in &mut self.held {
            let count = dice.below(held.len() + 1).max(held.len().min(1));
            for _ in 0..count {
                chosen.push((*volume, held.swap_remove(dice.below(held.len()))));
            }
        }
        let some = !chosen.is_empty();
        chosen.into_iter().for_each(|(volume, request)| self.answer(volume, request));
        self.lazy = Some(dice);
        some
    }
}

fn extents(disk: &Slice, at: usize, len: u32) -> Vec<Extent> {
    let pages = (at..at + len as usize).step_by(4096);
    pages.map(|page| Extent { len: 4096, hole: disk.sub(page, 4096).is_zero() }).collect()
}

/// See the module's essay.
pub(super) struct World {
    pub(super) ring: Ring,
    pub(super) nbd: NbdServer,
    pub(super) volumes: Volumes,
    pub(super) directory: PathBuf,
    chunks: usize,
}

impl World {
    /// A server with so many chunks of memory that exports `disk` and `other` on unix sockets.
    pub(super) fn new(name: &str, chunks: usize) -> Self {
        let directory = std::env::temp_dir().join(format!("nbd-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let arena = Arena::anonymous(chunks * CHUNK_BYTES).unwrap();
        let disk = |_| Slice::zeroed(DISK_BYTES).unwrap();
        let mut world = Self {
            ring: Ring::new(64).unwrap(),
            nbd: NbdServer::new(9, arena),
            volumes: Volumes {
                bytes: [DISK, OTHER].map(|volume| (volume, disk(volume))).into(),
                done: Vec::new(),
                held: BTreeMap::new(),
                bad: None,
                lazy: None,
                seen: Vec::new(),
            },
            directory,
            chunks,
        };
        for (volume, name) in [(DISK, "disk"), (OTHER, "other")] {
            let path = world.directory.join(name);
            let offer = offer(volume, name);
            world.nbd.listen_unix(&mut world.ring, offer, &path, 0o600, None).unwrap();
        }
        world
    }

    /// One turn of the loop; false: nothing happened.
    pub(super) fn turn(&mut self) -> bool {
        let mut events = Vec::new();
        let wait = Wait::AtMost(Duration::from_millis(5));
        self.ring.turn(wait, &mut events).unwrap();
        let mut busy = !events.is_empty() || !self.volumes.done.is_empty();
        for event in events {
            self.nbd.on_event(event, &mut self.ring, &mut self.volumes);
        }
        busy |= self.volumes.answer_some();
        loop {
            for completion in std::mem::take(&mut self.volumes.done) {
                self.nbd.complete(completion);
            }
            if !self.nbd.end_turn(&mut self.ring, &mut self.volumes) {
                return busy;
            }
            busy = true;
        }
    }

    /// Turns until nothing more happens.
    pub(super) fn settle(&mut self) {
        let patience = Patience::new();
        while self.turn() {
            patience.wait_on(|| &self.nbd.core.log);
        }
    }

    /// A connected client that has not said anything.
    pub(super) fn connect(&mut self, name: &str) -> Client {
        let stream = UnixStream::connect(self.directory.join(name)).unwrap();
        stream.set_nonblocking(true).unwrap();
        Client { stream, structured: false, size: 0 }
    }

    /// A client in transmission.
    pub(super) fn client(&mut self, name: &str, structured: bool) -> Client {
        let mut client = self.connect(name);
        client.negotiate(self, name, structured);
        client
    }

    /// Everything the server held for clients has come back.
    pub(super) fn assert_no_leak(&mut self) {
        self.settle();
        assert!(self.nbd.is_idle());
        assert_eq!(self.nbd.core.wholes.len(), 0);
        assert_eq!(self.nbd.core.pool.free_chunks(), self.chunks);
    }

    pub(super) fn log(&mut self) -> String {
        self.nbd.take_log().iter().map(|line| format!("{}\n", line.text)).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

pub(super) fn offer(volume: VolumeId, name: &str) -> Offer {
    Offer { volume, name: name.to_string(), description: String::new(), read_only: false }
}

/// One client; its socket never blocks, the world turns while it waits.
pub(super) struct Client {
    pub(super) stream: UnixStream,
    structured: bool,
    pub(super) size: u64,
}

impl Client {
    pub(super) fn negotiate(&mut self, world: &mut World, name: &str, structured: bool) {
        self.receive(world, nbd::GREETING_BYTES);
        self.send(world, &[0, 0, 0, 3]);
        if structured {
            self.structured = true;
            self.send(world, &client_option(option::STRUCTURED_REPLY, &[]));
            self.receive(world, 20);
            let mut data = nbd::server_entry(name);
            data.extend_from_slice(&[0, 0, 0, 1]);
            data.extend_from_slice(&nbd::server_entry(nbd::BASE_ALLOCATION));
            self.send(world, &client_option(option::SET_META_CONTEXT, &data));
            self.receive(world, 20 + 4 + nbd::BASE_ALLOCATION.len() + 20);
        }
        self.send(world, &client_option(option::EXPORT_NAME, name.as_bytes()));
        let answer = self.receive(world, 10);
        self.size = u64::from_be_bytes(answer[..8].try_into().unwrap());
    }

    /// Sends everything, turning the world when the socket is full.
    pub(super) fn send(&mut self, world: &mut World, bytes: &[u8]) {
        let sent = self.try_send(world, bytes);
        assert_eq!(sent, bytes.len(), "the server does not take it");
    }

    /// Sends until the server takes no more; returns how much it took.
    pub(super) fn try_send(&mut self, world: &mut World, bytes: &[u8]) -> usize {
        let mut sent = 0;
        let mut idle = 0;
        while sent < bytes.len() && idle < 20 {
            match self.stream.write(&bytes[sent..]) {
                Ok(len) => {
                    sent += len;
                    idle = 0;
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    idle = if world.turn() { 0 } else { idle + 1 };
                }
                Err(e) => panic!("sending failed: {e}"),
            }
        }
        sent
    }

    /// Receives exactly `len` bytes.
    pub(super) fn receive(&mut self, world: &mut World, len: usize) -> Vec<u8> {
        self.try_receive(world, len).expect("the server closed the connection")
    }

    /// Receives exactly `len` bytes; `None`: the server closed the connection.
    pub(super) fn try_receive(&mut self, world: &mut World, len: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; len];
        let mut got = 0;
        let mut idle = 0;
        while got < len {
            match self.stream.read(&mut bytes[got..]) {
                Ok(0) => return None,
                Ok(more) => got += more,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    idle = if world.turn() { 0 } else { idle + 1 };
                    assert!(idle < 400, "{got} of {len} bytes, then silence");
                }
                Err(e) if e.kind() == ErrorKind::ConnectionReset => return None,
                Err(e) => panic!("receiving failed: {e}"),
            }
        }
        Some(bytes)
    }

    /// Sends a request; of a write with its payload.
    pub(super) fn request(
        &mut self,
        world: &mut World,
        (command, flags): (u16, u16),
        cookie: u64,
        (offset, len): (usize, usize),
        data: &[u8],
    ) {
        let mut bytes = header((command, flags), cookie, (offset, len));
        bytes.extend_from_slice(data);
        self.send(world, &bytes);
    }

    /// Receives a simple reply: cookie and error.
    pub(super) fn simple(&mut self, world: &mut World) -> (u64, u32) {
        let bytes = self.receive(world, nbd::SIMPLE_REPLY_BYTES);
        assert_eq!(bytes[..4], nbd::MAGIC_SIMPLE_REPLY.to_be_bytes());
        let error = u32::from_be_bytes(bytes[4..8].try_into().unwrap());
        (u64::from_be_bytes(bytes[8..].try_into().unwrap()), error)
    }

    /// Receives the answer to a read: its error, or its data.
    pub(super) fn data(
        &mut self,
        world: &mut World,
        (offset, len): (usize, usize),
    ) -> Result<Vec<u8>, u32> {
        if !self.structured {
            let (_, error) = self.simple(world);
            return if error == 0 { Ok(self.receive(world, len)) } else { Err(error) };
        }
        let mut data = vec![None; len];
        loop {
            let (done, kind, body) = self.chunk(world);
            match kind {
                chunk::NONE => assert!(done),
                chunk::OFFSET_DATA => {
                    let at = u64::from_be_bytes(body[..8].try_into().unwrap()) as usize - offset;
                    for (index, byte) in body[8..].iter().enumerate() {
                        assert!(data[at + index].replace(*byte).is_none(), "sent twice");
                    }
                }
                chunk::ERROR => return Err(u32::from_be_bytes(body[..4].try_into().unwrap())),
                other => panic!("chunk of type {other:#x} in answer to a read"),
            }
            if done {
                return Ok(data.into_iter().map(|byte| byte.expect("a gap")).collect());
            }
        }
    }

    /// Receives one structured chunk: final, type, payload.
    pub(super) fn chunk(&mut self, world: &mut World) -> (bool, u16, Vec<u8>) {
        let head = self.receive(world, nbd::CHUNK_HEADER_BYTES);
        let (_, done, kind, body) = self.chunk_after(world, &head);
        (done, kind, body)
    }

    fn chunk_after(&mut self, world: &mut World, head: &[u8]) -> (u64, bool, u16, Vec<u8>) {
        assert_eq!(head[..4], nbd::MAGIC_STRUCTURED_REPLY.to_be_bytes());
        let cookie = u64::from_be_bytes(head[8..16].try_into().unwrap());
        let len = u32::from_be_bytes(head[16..20].try_into().unwrap());
        let kind = u16::from_be_bytes([head[6], head[7]]);
        (cookie, head[5] & 1 != 0, kind, self.receive(world, len as usize))
    }

    /// Receives successful answers to all of these reads, by cookie, in whatever order and pieces
    /// they come.
    pub(super) fn all_data(
        &mut self,
        world: &mut World,
        reads: &BTreeMap<u64, (usize, usize)>,
    ) -> BTreeMap<u64, Vec<u8>> {
        let mut open: BTreeMap<u64, (usize, Vec<u8>)> = BTreeMap::new();
        let mut closed = BTreeMap::new();
        while closed.len() < reads.len() {
            if !self.structured {
                let (cookie, error) = self.simple(world);
                assert_eq!(error, 0);
                let data = self.receive(world, reads[&cookie].1);
                assert!(closed.insert(cookie, data).is_none(), "answered twice");
                continue;
            }
            let head = self.receive(world, nbd::CHUNK_HEADER_BYTES);
            let (cookie, done, kind, body) = self.chunk_after(world, &head);
            let (offset, len) = reads[&cookie];
            let (seen, data) = open.entry(cookie).or_insert_with(|| (0, vec![0; len]));
            if kind == chunk::OFFSET_DATA {
                let at = u64::from_be_bytes(body[..8].try_into().unwrap()) as usize - offset;
                data[at..at + body.len() - 8].copy_from_slice(&body[8..]);
                *seen += body.len() - 8;
            } else {
                assert_eq!(kind, chunk::NONE);
            }
            if done {
                let (seen, data) = open.remove(&cookie).unwrap();
                assert_eq!(seen, len, "every byte once");
                assert!(closed.insert(cookie, data).is_none(), "answered twice");
            }
        }
        closed
    }

    /// The server closes the connection without another word.
    pub(super) fn assert_closed(&mut self, world: &mut World) {
        assert_eq!(self.try_receive(world, 1), None);
    }
}

pub(super) fn header(
    (command, flags): (u16, u16),
    cookie: u64,
    (offset, len): (usize, usize),
) -> Vec<u8> {
    let magic = nbd::MAGIC_REQUEST;
    let (offset, len) = (offset as u64, len as u32);
    RequestHeader { magic, flags, command, cookie, offset, len }.encode().to_vec()
}

pub(super) fn client_option(number: u32, data: &[u8]) -> Vec<u8> {
    let mut out = nbd::MAGIC_OPTION.to_be_bytes().to_vec();
    out.extend_from_slice(&number.to_be_bytes());
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    out.extend_from_slice(data);
    out
}

/// A repeatable stream of numbers (xorshift64).
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    pub(super) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let start = self.below(251);
        (0..len).map(|at| ((start + at * 31 + at / 257) % 251) as u8).collect()
    }
}

/// An identifier that the server never gave out.
pub(super) const STRANGE: RequestId = RequestId(9 << 56 | 77 << 32 | 5);
