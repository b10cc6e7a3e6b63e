//! The engine's side of the Edge protocol, driven by a shard's loop.
//!
//! ```text
//! server.listen(path)                        once
//! loop {
//!     ring.turn(if server.wants_polling() { Wait::No } else { ... }, &mut events)
//!     for event in events: if class_of(event.token) == CLASS { server.on_event(event, ring, host) }
//!     server.poll(host)                      commands of the rings -> Targets::submit
//!     ... the volumes work; for each completion whose id has our class: server.complete(it)
//!     server.end_turn(ring)                  answers become visible; sleepers are rung
//! }
//! ```
//!
//! A session belongs to the shard that serves its volume. The shard that listens reads the hello,
//! asks its [`Host`] where the volume is, and hands the connection over ([`take_handovers`] there,
//! [`adopt`] here) when it is on another shard.
//!
//! [`take_handovers`]: EdgeServer::take_handovers
//! [`adopt`]: EdgeServer::adopt

mod greeting;
mod session;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{Arc, Weak};

use format::edge::{CloseReason, Frame, Hello, Refusal};
use media::{Arena, Event, Fd, Ring};
use net::UnixSocket;

use crate::spin::Spin;
use crate::target::{Completion, Targets, VolumeId};
use crate::token::Token;

pub use greeting::Adopted;
use greeting::Greeting;
use session::{Identity, Session};

const KIND_ACCEPT: u8 = 0;
const KIND_CONTROL: u8 = 1;
const KIND_BELL: u8 = 2;
/// Connections at once; more are refused.
const SESSIONS_MAX: usize = 4096;

/// Where a volume is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// On this shard.
    Here {
        /// Its index here.
        volume: VolumeId,
        /// The engine's ownership epoch of it.
        epoch: u64,
    },
    /// On the shard with this number.
    Shard(usize),
    /// Not open in this engine.
    Missing,
}

/// The targets of a shard, and where volumes are.
pub trait Host: Targets {
    /// Looks a volume up by its UUID.
    fn find(&self, volume: &[u8; 16]) -> Found;
}

enum Place {
    Greeting(Greeting),
    Open(Box<Session>),
}

struct Connection {
    generation: u16,
    place: Option<Place>,
}

/// See the file's essay.
pub struct EdgeServer {
    class: u8,
    listener: Option<UnixSocket>,
    connections: Vec<Connection>,
    free: Vec<u32>,
    /// Sessions whose rings are looked at; the others sleep until their bell is rung.
    awake: Vec<u32>,
    /// Sessions that have answers to publish or may have come to their end.
    touched: Vec<u32>,
    arenas: Vec<((u64, u64), Weak<Arena>)>,
    handovers: Vec<(usize, Adopted)>,
    log: Vec<String>,
    spin: Spin,
    found_work: bool,
}

impl EdgeServer {
    /// A server whose tokens and request identifiers have `class` as their top 8 bits.
    pub fn new(class: u8) -> Self {
        Self {
            class,
            listener: None,
            connections: Vec::new(),
            free: Vec::new(),
            awake: Vec::new(),
            touched: Vec::new(),
            arenas: Vec::new(),
            handovers: Vec::new(),
            log: Vec::new(),
            spin: Spin::default(),
            found_work: false,
        }
    }

    /// Accepts sessions on a unix socket that only this user may connect to.
    ///
    /// # Errors
    /// The socket can't be made; the error says why.
    pub fn listen(&mut self, path: &Path, ring: &mut Ring) -> Result<(), net::ListenError> {
        let listener = UnixSocket::listen(path, 0o600, None)?;
        self.listener = Some(listener);
        self.accept_next(ring);
        Ok(())
    }

    fn accept_next(&self, ring: &mut Ring) {
        if let Some(listener) = &self.listener {
            let token = Token { kind: KIND_ACCEPT, generation: 0, index: 0 };
            ring.accept(listener.fd(), token.pack(self.class));
        }
    }

    /// Lines for the log since the last call.
    pub fn take_log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }

    /// Connections that belong to other shards, with the shard's number.
    pub fn take_handovers(&mut self) -> Vec<(usize, Adopted)> {
        std::mem::take(&mut self.handovers)
    }

    /// Open sessions of a volume.
    pub fn sessions(&self, volume: VolumeId) -> usize {
        let mine = |s: &&Session| s.volume() == volume;
        self.open_sessions().filter(mine).count()
    }

    fn open_sessions(&self) -> impl Iterator<Item = &Session> {
        self.connections.iter().filter_map(|c| match &c.place {
            Some(Place::Open(session)) => Some(&**session),
            _ => None,
        })
    }

    fn session(&mut self, index: u32) -> Option<&mut Session> {
        match self.connections.get_mut(index as usize)?.place.as_mut()? {
            Place::Open(session) => Some(session),
            Place::Greeting(_) => None,
        }
    }

    fn insert(&mut self, place: Place) -> u32 {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.connections.push(Connection { generation: 0, place: None });
                self.connections.len() as u32 - 1
            }
        };
        let connection = &mut self.connections[index as usize];
        connection.generation = connection.generation.wrapping_add(1);
        connection.place = Some(place);
        index
    }

    fn remove(&mut self, index: u32) -> Option<Place> {
        let place = self.connections.get_mut(index as usize)?.place.take()?;
        self.free.push(index);
        self.awake.retain(|awake| *awake != index);
        Some(place)
    }

    fn token(&self, kind: u8, index: u32) -> u64 {
        let generation = self.connections[index as usize].generation;
        Token { kind, generation, index }.pack(self.class)
    }

    fn identity(&self, index: u32) -> Identity {
        let generation = self.connections[index as usize].generation as u8;
        Identity { class: self.class, generation, index }
    }

    /// An event of our class.
    pub fn on_event<H: Host + ?Sized>(&mut self, event: Event, ring: &mut Ring, host: &mut H) {
        let token = Token::unpack(event.token);
        if token.kind == KIND_ACCEPT {
            return self.accepted(event, ring);
        }
        let present = self.connections.get(token.index as usize);
        if present.is_none_or(|c| c.generation != token.generation || c.place.is_none()) {
            return;
        }
        match token.kind {
            KIND_BELL => {
                if let Some(session) = self.session(token.index) {
                    session.rung();
                    self.wake(token.index);
                }
            }
            _ => self.readable(token.index, ring, host),
        }
    }

    fn accepted(&mut self, event: Event, ring: &mut Ring) {
        match Ring::take_fd(&event) {
            Ok(fd) if self.connections.len() - self.free.len() < SESSIONS_MAX => {
                let index = self.insert(Place::Greeting(Greeting::new(fd.clone())));
                ring.poll_readable(&fd, self.token(KIND_CONTROL, index));
            }
            Ok(fd) => {
                self.log.push(format!("refused {}: too many sessions", net::peer_name(&fd)));
            }
            Err(error) => self.log.push(format!("cannot accept an Edge: {error}")),
        }
        self.accept_next(ring);
    }

    /// The control socket of a connection has something to read.
    fn readable<H: Host + ?Sized>(&mut self, index: u32, ring: &mut Ring, host: &mut H) {
        match self.connections[index as usize].place.as_mut() {
            Some(Place::Open(session)) => {
                if session.read_control() {
                    let fd = session.socket().clone();
                    ring.poll_readable(&fd, self.token(KIND_CONTROL, index));
                }
                self.touched.push(index);
            }
            Some(Place::Greeting(greeting)) => match greeting.read() {
                Ok(None) => {
                    let fd = greeting.socket().clone();
                    ring.poll_readable(&fd, self.token(KIND_CONTROL, index));
                }
                Ok(Some(hello)) => {
                    let Some(Place::Greeting(greeting)) = self.remove(index) else { return };
                    self.route(greeting.into_adopted(hello), ring, host);
                }
                Err(why) => {
                    let who = net::peer_name(greeting.socket());
                    self.log.push(format!("closed the Edge connection of {who}: {why}"));
                    greeting.refuse(&malformed(&why));
                    self.remove(index);
                }
            },
            None => {}
        }
    }

    fn route<H: Host + ?Sized>(&mut self, adopted: Adopted, ring: &mut Ring, host: &mut H) {
        match host.find(&adopted.hello.volume) {
            Found::Shard(shard) => self.handovers.push((shard, adopted)),
            _ => self.adopt(adopted, ring, host),
        }
    }

    /// Opens the session of a connection that was accepted here or on another shard, or refuses it.
    pub fn adopt<H: Host + ?Sized>(&mut self, adopted: Adopted, ring: &mut Ring, host: &mut H) {
        let found = host.find(&adopted.hello.volume);
        let opened = match found {
            Found::Here { volume, epoch } => match host.info(volume) {
                Some(info) => Session::open(&adopted, volume, info, epoch, &mut self.arenas),
                None => Err(unknown(&adopted.hello)),
            },
            _ => Err(unknown(&adopted.hello)),
        };
        let name = uuid(&adopted.hello.volume);
        match opened {
            Ok(session) => {
                self.log.push(format!("volume {name}: attached by {}", adopted.who()));
                let fd = session.socket().clone();
                let index = self.insert(Place::Open(Box::new(session)));
                ring.poll_readable(&fd, self.token(KIND_CONTROL, index));
                self.wake(index);
            }
            Err(refusal) => {
                let why = &refusal.why;
                self.log.push(format!("volume {name}: refused {}: {why}", adopted.who()));
                adopted.refuse(&refusal);
            }
        }
    }

    fn wake(&mut self, index: u32) {
        if let Some(session) = self.session(index)
            && session.wake_up()
        {
            self.awake.push(index);
        }
    }

    /// Gives commands of all rings to the targets. True: there were some.
    pub fn poll<T: Targets + ?Sized>(&mut self, targets: &mut T) -> bool {
        let mut found = false;
        for at in 0..self.awake.len() {
            let index = self.awake[at];
            let me = self.identity(index);
            if let Some(session) = self.session(index)
                && session.poll(me, targets)
            {
                found = true;
                self.touched.push(index);
            }
        }
        self.found_work |= found;
        found
    }

    /// A request with our class has ended.
    #[inline]
    pub fn complete(&mut self, completion: Completion) {
        let me = Identity::of(completion.id);
        let index = me.index;
        if self.connections.len() <= index as usize || self.identity(index) != me {
            return;
        }
        if let Some(session) = self.session(index) {
            session.complete(completion);
            if session.touch() {
                self.touched.push(index);
            }
            self.found_work = true;
        }
    }

    /// Publishes answers and rings Edges that sleep. [`EdgeServer::end_turn`] does it as well; a
    /// loop that looks at the rings several times in a turn calls it in between.
    pub fn publish(&mut self) {
        let mut touched = std::mem::take(&mut self.touched);
        touched.retain(|index| {
            self.session(*index).is_some_and(|session| {
                session.publish();
                session.has_ended()
            })
        });
        self.touched = touched;
    }

    /// Publishes answers, rings sleepers, ends what has ended.
    pub fn end_turn(&mut self, ring: &mut Ring) {
        self.publish();
        for index in std::mem::take(&mut self.touched) {
            if self.session(index).is_some_and(|session| session.is_over()) {
                self.finish(index);
            }
        }
        if std::mem::take(&mut self.found_work) {
            self.spin.worked();
        } else if !self.awake.is_empty() && !self.spin.again() {
            self.fall_asleep(ring);
        }
    }

    fn fall_asleep(&mut self, ring: &mut Ring) {
        let mut awake = std::mem::take(&mut self.awake);
        awake.retain(|index| {
            let token = self.token(KIND_BELL, *index);
            self.session(*index).is_some_and(|session| !session.fall_asleep(ring, token))
        });
        self.awake = awake;
    }

    /// True while rings are looked at without a bell: the loop must not sleep.
    pub fn wants_polling(&self) -> bool {
        !self.awake.is_empty()
    }

    fn finish(&mut self, index: u32) {
        if let Some(Place::Open(session)) = self.remove(index) {
            self.log.push(session.close());
        }
    }

    /// Tells the Edges of a volume its size now. Call it after a resize.
    pub fn volume_resized<T: Targets + ?Sized>(&mut self, volume: VolumeId, targets: &T) {
        let Some(info) = targets.info(volume) else { return };
        let frame = Frame::Resized { size: info.size };
        for at in 0..self.connections.len() as u32 {
            if let Some(session) = self.session(at)
                && session.volume() == volume
            {
                session.tell(&frame);
                self.touched.push(at);
            }
        }
    }

    /// Ends the sessions of a volume that this shard lets go of. Call it when the volume has
    /// stopped and touches no request's memory any more: requests that it did not complete are
    /// answered by whoever serves the volume next, or fail when it was deleted.
    pub fn close_volume(&mut self, volume: VolumeId, reason: CloseReason, detail: &str) {
        let frame = Frame::Closed { reason, detail: detail.to_owned() };
        for at in 0..self.connections.len() as u32 {
            let Some(session) = self.session(at) else { continue };
            if session.volume() == volume {
                session.publish();
                session.tell(&frame);
                self.finish(at);
            }
        }
    }

    /// Ends as a killed process does: every socket closes, nothing is said.
    #[cfg(test)]
    pub(crate) fn die(mut self, ring: &mut Ring) {
        for session in self.open_sessions() {
            session.drop_dead();
        }
        self.stop_listening(ring);
    }

    /// Stops listening and removes the socket's file.
    pub fn stop_listening(&mut self, ring: &mut Ring) {
        if let Some(listener) = self.listener.take() {
            listener.unlink();
            ring.shutdown(listener.fd());
        }
    }
}

fn unknown(hello: &Hello) -> Refusal {
    Refusal {
        code: "unknown_volume".into(),
        what: format!("attach volume {}", uuid(&hello.volume)),
        why: "this engine does not serve a volume with this UUID".into(),
        fix: "check the UUID with 'vstorage volume list'; if it is listed, start its daemon".into(),
    }
}

fn malformed(why: &str) -> Refusal {
    Refusal {
        code: "malformed_hello".into(),
        what: "open an Edge session".into(),
        why: why.to_owned(),
        fix: "run a vstorage-edge of the same release as the daemon".into(),
    }
}

/// The usual text form of a UUID.
pub fn uuid(bytes: &[u8; 16]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    parts.join("-")
}

/// The bytes of a UUID in its usual text form, with or without hyphens.
pub fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let hex: Vec<u8> = text.bytes().filter(|byte| *byte != b'-').collect();
    let mut bytes = [0; 16];
    if hex.len() != 32 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = (digit(0)? << 4 | digit(1)?) as u8;
    }
    Some(bytes)
}

/// A control socket and the way to it.
type Socket = Fd;
/// Data arenas of this shard by device and inode of their memfd: sessions of one Edge share one
/// mapping.
type Arenas = Vec<((u64, u64), Weak<Arena>)>;

/// The mapping of a data arena, shared with other sessions of the same Edge.
fn map_arena(arenas: &mut Arenas, fd: std::os::fd::OwnedFd) -> std::io::Result<Arc<Arena>> {
    use std::os::fd::AsFd;
    let identity = net::pass::identity(fd.as_fd())?;
    arenas.retain(|(_, arena)| arena.strong_count() > 0);
    let known = arenas.iter().find(|(id, _)| *id == identity);
    if let Some(arena) = known.and_then(|(_, arena)| arena.upgrade()) {
        return Ok(arena);
    }
    let arena = Arena::from_fd(fd)?;
    arenas.push((identity, Arc::downgrade(&arena)));
    Ok(arena)
}
