//! The thread that owns the sockets.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

use alba::codec::{decode_request, encode_answer};
use alba::folder::FolderOsd;
use alba::osd::{Answer, Request};
use alba::part::Part;
use alba::wire::{Received, WireError};
use format::log::PAGE;
use format::osd::wire::{Frame, Kind, META_MAX, NONCE};
use media::{Event, Fd, Pool, Ring, Wait};
use net::{Acceptor, ClusterKey, ListenError, Lobby, Signals, listen_tcp};

use crate::bounds::Bounds;
use crate::disk::{Disk, Job, Outbox};
use crate::reads::{Begun, Finished, Reads};
use crate::session::{Connection, House};

#[path = "door.rs"]
mod door;

const ACCEPT: u64 = 1 << 48;
const READ: u64 = 2 << 48;
const WRITE: u64 = 3 << 48;
const BELL: u64 = 4 << 48;
const SIGNAL: u64 = 5 << 48;
const DISK: u64 = 6 << 48;
const LATE: u64 = 7 << 48;
const KIND: u64 = 0xff << 48;
const MEMORY: &str = "look for memory limits of the service";
/// Bytes of buffers that are kept for the next fragments.
const KEEP: usize = 64 << 20;
const LISTEN_TRIES: u32 = 100;
const LISTEN_PAUSE: Duration = Duration::from_millis(50);

/// What a server is started with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Where it listens; port 0 lets the kernel choose.
    pub listen: SocketAddr,
    /// The key of the cluster.
    pub key: ClusterKey,
    /// The folders of its OSDs, which are claimed.
    pub folders: Vec<PathBuf>,
    /// Bytes that stay free on each disk.
    pub reserve: u64,
    /// Most bytes that each OSD of role cache keeps.
    pub cache_bytes: u64,
    /// What connections may take of it.
    pub bounds: Bounds,
    /// The release that it says it is of.
    pub release: &'static str,
}

/// Why it cannot start or go on.
#[derive(Debug)]
pub struct Fatal {
    what: String,
    why: String,
    fix: &'static str,
}

impl Fatal {
    pub(crate) fn new(what: impl Into<String>, why: impl fmt::Display, fix: &'static str) -> Self {
        Self { what: what.into(), why: why.to_string(), fix }
    }
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}; {}", self.what, self.why, self.fix)
    }
}

impl std::error::Error for Fatal {}

/// See the top of the file.
pub struct Server {
    ring: Ring,
    acceptor: Acceptor,
    address: SocketAddr,
    key: ClusterKey,
    /// Cluster and number of each disk.
    names: Vec<([u8; 16], [u8; 16])>,
    release: &'static str,
    disks: Vec<Disk>,
    reads: Reads,
    outbox: Arc<Outbox>,
    connections: HashMap<u32, Connection>,
    bounds: Bounds,
    /// Those that have not proved who they are.
    lobby: Lobby,
    /// That there are too many connections has been said.
    told_full: bool,
    next: u32,
    received: Vec<Received>,
    /// For fragments that come.
    pool: Arc<Pool>,
    log: fn(&str),
}

fn nonce() -> io::Result<[u8; NONCE]> {
    let mut bytes = [0; NONCE];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// What an answer to a request may take, roughly.
fn bytes_of_answer(request: &Request) -> usize {
    match request {
        Request::Get { len, .. } => *len as usize + *len as usize / PAGE * 4,
        Request::Names { .. } => META_MAX,
        Request::Header { .. } => PAGE,
        _ => 0,
    }
}

/// Listens, and waits for an address that is taken: the kernel lets go of the ring of a server that
/// was killed, and of its listener, some time after the process has ended.
fn listen(address: SocketAddr) -> Result<(Fd, SocketAddr), ListenError> {
    for _ in 0..LISTEN_TRIES {
        match listen_tcp(address) {
            Err(error) if error.source.kind() == ErrorKind::AddrInUse => sleep(LISTEN_PAUSE),
            done => return done,
        }
    }
    listen_tcp(address)
}

impl Server {
    /// Opens the disks and listens. A folder that cannot be used is told of and left out, unless
    /// none is left. `log` gets one line at a time.
    ///
    /// # Errors
    /// Nothing is served then; the text says what to do.
    pub fn start(setup: &Setup, log: fn(&str)) -> Result<Self, Fatal> {
        let kernel = "a kernel of 5.19 or newer with io_uring enabled is needed";
        let mut ring = Ring::new(256).map_err(|e| Fatal::new("set up io_uring", e, kernel))?;
        let threads = "raise the limits of threads and open files";
        let outbox = Outbox::new().map_err(|e| Fatal::new("set up the server", e, threads))?;
        let (outbox, pool) = (Arc::new(outbox), Pool::new(KEEP));
        let (mut disks, mut names) = (Vec::new(), Vec::new());
        let mut first = None;
        for folder in &setup.folders {
            match FolderOsd::open(folder, setup.reserve) {
                Ok(osd) => {
                    names.push((osd.claimed().cluster, osd.claimed().osd));
                    let (outbox, pool) = (outbox.clone(), pool.clone());
                    let disk = Disk::start(osd, setup.cache_bytes, outbox, pool);
                    disks.push(disk.map_err(|e| Fatal::new("start a disk's threads", e, threads))?);
                }
                Err(error) => {
                    log(&error.to_string());
                    first.get_or_insert(error);
                }
            }
        }
        if disks.is_empty() {
            let why = first.map_or("no folder is given".to_owned(), |e| e.to_string());
            let fix = "claim folders with 'vstorage-osd claim', and mount their disks";
            return Err(Fatal::new("serve any OSD", why, fix));
        }
        let (listener, address) = listen(setup.listen).map_err(|e| {
            Fatal::new("listen", e, "choose an address of this host and a port that is free")
        })?;
        let mut acceptor = Acceptor::new(listener);
        acceptor.start(ACCEPT, &mut ring);
        outbox.bell().listen(&mut ring, BELL);
        let reads = Reads::new(DISK).map_err(|e| Fatal::new("get memory", e, MEMORY))?;
        Ok(Self {
            ring,
            acceptor,
            address,
            key: setup.key.clone(),
            names,
            release: setup.release,
            disks,
            reads,
            outbox,
            connections: HashMap::new(),
            lobby: Lobby::new(setup.bounds.ungreeted, setup.bounds.greeting),
            bounds: setup.bounds.clone(),
            told_full: false,
            next: 1,
            received: Vec::new(),
            pool,
            log,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The disks.
    pub fn disks(&self) -> &[Disk] {
        &self.disks
    }

    /// Serves until a signal comes. What was not answered is asked again of the next process, or was
    /// never promised.
    ///
    /// # Errors
    /// The io_uring fails.
    pub fn run(&mut self, signals: &Signals) -> Result<i32, Fatal> {
        signals.listen(&mut self.ring, SIGNAL);
        let mut events = Vec::new();
        while !self.turn(&mut events)? {}
        self.close(&mut events);
        Ok(signals.take().unwrap_or(0))
    }

    /// Lets go of the address and of every connection, so that the next process can have them.
    fn close(&mut self, events: &mut Vec<Event>) {
        self.ring.shutdown(self.acceptor.fd());
        let all: Vec<u32> = self.connections.keys().copied().collect();
        all.into_iter().for_each(|number| self.end(number, None));
        // What is cancelled completes; the process ends in any case.
        let _ = self.ring.turn(Wait::No, events);
    }

    /// One turn of the loop; true: a signal has come.
    fn turn(&mut self, events: &mut Vec<Event>) -> Result<bool, Fatal> {
        let turned = self.ring.turn(Wait::Forever, events);
        turned.map_err(|e| Fatal::new("wait for events", e, MEMORY))?;
        let mut signalled = false;
        for event in events.drain(..) {
            let number = event.token as u32;
            match event.token & KIND {
                ACCEPT => self.accepted(&event),
                READ => self.readable(number),
                DISK => self.disk_read(&event),
                WRITE => {
                    if let Some(connection) = self.connections.get_mut(&number) {
                        connection.writing = false;
                        self.serve(number);
                    }
                }
                LATE => self.close_late(),
                BELL => {
                    self.outbox.bell().silence();
                    self.outbox.bell().listen(&mut self.ring, BELL);
                }
                _ => signalled = true,
            }
        }
        self.answer();
        Ok(signalled)
    }

    fn readable(&mut self, number: u32) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        connection.polled = false;
        let outcome = connection.wire.receive(&mut self.received);
        connection.waiting.extend(self.received.drain(..));
        self.serve(number);
        match outcome {
            Ok(_) => {}
            Err(WireError::Ended) => self.end(number, None),
            Err(error) => self.end(number, Some(&error.to_string())),
        }
    }

    /// Does what a connection has asked for, as long as it reads the answers; and sends those.
    fn serve(&mut self, number: u32) {
        loop {
            while let Some(one) = self.next_of(number) {
                if let Err(why) = self.take(number, one) {
                    return self.end(number, Some(&why));
                }
            }
            self.flush(number);
            let Some(connection) = self.connections.get_mut(&number) else { return };
            if connection.waiting.is_empty() {
                if !std::mem::replace(&mut connection.polled, true) {
                    // What is left in the socket makes the poll complete at once.
                    self.ring.poll_readable(connection.wire.fd(), READ | u64::from(number));
                }
                return;
            }
            if connection.owes() >= self.bounds.owed_bytes {
                // It goes on when answers have gone: nothing is received until then.
                return;
            }
        }
    }

    /// The next frame of a connection that has room for the answer.
    fn next_of(&mut self, number: u32) -> Option<Received> {
        let connection = self.connections.get_mut(&number)?;
        if connection.owes() < self.bounds.owed_bytes {
            return connection.waiting.pop_front();
        }
        if connection.wire.queued() > self.bounds.owed_bytes / 2
            && !connection.waiting.is_empty()
            && !std::mem::replace(&mut connection.told_slow, true)
        {
            let (peer, queued) = (&connection.peer, connection.wire.queued());
            (self.log)(&format!(
                "{peer} reads its answers more slowly than it asks: {queued} bytes wait for it, \
                 and so do its next requests"
            ));
        }
        None
    }

    fn take(&mut self, number: u32, received: Received) -> Result<(), String> {
        let Some(connection) = self.connections.get_mut(&number) else { return Ok(()) };
        if connection.ends {
            return Ok(());
        }
        let (osds, release) = (&self.names[..], self.release);
        let house = House { key: &self.key, osds, release, random: nonce };
        let go = connection.take(&received, &house)?;
        if !go {
            if connection.is_open() {
                self.lobby.leave(number);
            }
            return Ok(());
        }
        let tag = received.frame.tag;
        let Some(osd) = connection.osd() else {
            return self.claims(number, tag);
        };
        let asked = decode_request(received).map_err(|e| e.to_string())?;
        let here = self.names.iter().position(|(_, name)| *name == osd);
        let disk = here.and_then(|disk| self.disks.get(disk)).ok_or("no such OSD")?;
        if let Some((frame, meta, parts)) = disk.cached_answer(&asked, tag) {
            if connection.performed(tag, &house)? {
                connection.wire.send(&frame, &meta, parts);
            }
            return Ok(());
        }
        let (here, job) = (here.unwrap_or(0), Job { connection: number, tag, asked });
        let answer_bytes = bytes_of_answer(&job.asked.request);
        match self.reads.begin(&mut self.ring, (here, disk), job) {
            Begun::Not(job) => {
                connection.promise(tag, answer_bytes);
                disk.ask(job);
            }
            Begun::Started => connection.promise(tag, answer_bytes),
            Begun::Over(job, bytes) => {
                if connection.performed(tag, &house)? {
                    let answer = encode_answer(&job.asked, Ok(Answer::Bytes(bytes)), tag);
                    connection.wire.send(&answer.0, &answer.1, answer.2);
                }
            }
        }
        Ok(())
    }

    /// An operation of a small read is over.
    fn disk_read(&mut self, event: &Event) {
        let Some(Finished { job, disk, bytes }) = self.reads.done(event) else { return };
        let Some(bytes) = bytes else { return self.disks[disk].ask(job) };
        let Some(connection) = self.connections.get_mut(&job.connection) else { return };
        let (osds, release) = (&self.names[..], self.release);
        let house = House { key: &self.key, osds, release, random: nonce };
        if connection.performed(job.tag, &house) == Ok(true) {
            let (frame, meta, parts) = encode_answer(&job.asked, Ok(Answer::Bytes(bytes)), job.tag);
            connection.wire.send(&frame, &meta, parts);
            self.serve(job.connection);
        }
    }

    /// Says which OSDs of the cluster are here.
    fn claims(&mut self, number: u32, tag: u64) -> Result<(), String> {
        let pages = self.disks.iter().map(|disk| disk.osd().claimed().encode().to_vec());
        let parts: Vec<Part> = pages.map(Part::from).collect();
        let bytes = parts.iter().map(|part| part.len()).sum();
        let frame = Frame::new(Kind::Bytes, tag, b"", bytes);
        let Some(connection) = self.connections.get_mut(&number) else { return Ok(()) };
        let (osds, release) = (&self.names[..], self.release);
        let house = House { key: &self.key, osds, release, random: nonce };
        if connection.performed(tag, &house)? {
            connection.wire.send(&frame, b"", Some(Arc::new(parts)));
        }
        Ok(())
    }

    /// Sends what the disks have done.
    fn answer(&mut self) {
        let mut touched = Vec::new();
        for done in self.outbox.take() {
            let Some(connection) = self.connections.get_mut(&done.connection) else { continue };
            let (osds, release) = (&self.names[..], self.release);
            let house = House { key: &self.key, osds, release, random: nonce };
            if connection.performed(done.tag, &house) == Ok(true) {
                let (frame, meta, parts) = done.answer;
                connection.wire.send(&frame, &meta, parts);
                touched.push(done.connection);
            }
        }
        touched.dedup();
        touched.into_iter().for_each(|number| self.serve(number));
    }

    fn flush(&mut self, number: u32) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if connection.writing {
            return;
        }
        match connection.wire.flush(None) {
            Ok(true) if connection.ends => self.end(number, None),
            Ok(true) => {}
            Ok(false) => {
                connection.writing = true;
                self.ring.poll_writable(connection.wire.fd(), WRITE | u64::from(number));
            }
            Err(_) => self.end(number, None),
        }
    }

    /// A connection is over; `why`: what its peer did wrong.
    fn end(&mut self, number: u32, why: Option<&str>) {
        let Some(mut connection) = self.connections.remove(&number) else { return };
        self.lobby.leave(number);
        if let Some(why) = why {
            (self.log)(&format!("{}: {why}", connection.peer));
        }
        // A refusal may be on its way.
        let _ = connection.wire.flush(None);
        connection.shut(&mut self.ring);
    }
}

/// A server on a thread of this process, for tests.
pub struct Running {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    outbox: Arc<Outbox>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// Starts it.
    ///
    /// # Errors
    /// See [`Server::start`].
    pub fn start(setup: &Setup) -> Result<Self, Fatal> {
        Self::start_with_log(setup, |_| {})
    }

    /// The same; see [`Server::start`] for `log`.
    ///
    /// # Errors
    /// See [`Server::start`].
    pub fn start_with_log(setup: &Setup, log: fn(&str)) -> Result<Self, Fatal> {
        let (setup, stop) = (setup.clone(), Arc::new(AtomicBool::new(false)));
        let inside = stop.clone();
        let (started, hear) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::spawn(move || {
            let mut server = match Server::start(&setup, log) {
                Ok(server) => server,
                Err(why) => return drop(started.send(Err(why))),
            };
            let _ = started.send(Ok((server.address, server.outbox.clone())));
            let mut events = Vec::new();
            while !inside.load(Ordering::Acquire) && server.turn(&mut events).is_ok() {}
            server.close(&mut events);
        });
        let died = || Err(Fatal::new("start", "the thread died", "look at the log"));
        let (address, outbox) = hear.recv().unwrap_or_else(|_| died())?;
        Ok(Self { address, stop, outbox, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let _ = self.outbox.bell().ring();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
