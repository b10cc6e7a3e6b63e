//! The engine's side of the Edge protocol, driven by a shard's loop.
//!
//! ```text
//! server.listen(path), listen_tcp(...)       once
//! loop {
//!     ring.turn(if server.wants_polling() { Wait::No } else { ... }, &mut events)
//!     for event in events: if class_of(event.token) == CLASS { server.on_event(event, ring, host) }
//!     server.poll(host, ring)                commands of the rings -> Targets::submit
//!     ... the volumes work; for each completion whose id has our class: server.complete(it)
//!     server.end_turn(ring)                  answers become visible; sleepers are rung
//! }
//! ```
//!
//! A session belongs to the shard that serves its volume. The shard that listens reads the hello,
//! asks its [`Host`] where the volume is, and hands the connection over ([`take_handovers`] there,
//! [`adopt`] here) when it is on another shard.
//!
//! Edges on this host come over a unix socket and share memory (`session`), others over TCP, with a
//! token (`stream`, `key`). Which connection of an Edge may work, and that of a host which the volume
//! was taken away from none may, is decided at the volume's door (`machines::edge::Door`, `doors`).
//!
//! [`take_handovers`]: EdgeServer::take_handovers
//! [`adopt`]: EdgeServer::adopt

mod doors;
mod entrance;
#[cfg(test)]
mod entrance_tests;
mod greeting;
mod key;
mod refusals;
mod session;
mod stream;
#[cfg(test)]
mod stream_tests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};

use format::edge::{Frame, Refusal};
use machines::edge::Door;
use media::{Arena, Event, Fd, Ring};
use net::clock::unix_ms;

use crate::spin::Spin;
use crate::target::{Completion, Targets, VolumeId, VolumeInfo};
use crate::token::Token;

use crate::flow::pool::Pool;
use entrance::{Entrance, SESSIONS_MAX};
pub use greeting::Adopted;
use greeting::{Carrier, Greeting};
use key::generation_here;
pub use key::{ClusterKey, KEY_BYTES_MIN};
use refusals::{malformed, unknown};
pub use refusals::{parse_uuid, uuid};
use session::{Identity, Session};
use stream::Streaming;

const KIND_ACCEPT: u8 = 0;
const KIND_CONTROL: u8 = 1;
const KIND_BELL: u8 = 2;
const KIND_LATE: u8 = 3;
const KIND_RECEIVE: u8 = 4;
const KIND_SEND: u8 = 5;
/// Memory for the requests and answers of all sessions over TCP; pages never used cost nothing.
const STREAM_ARENA: usize = 256 << 20;

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
    /// An earlier connection of the same Edge must go first.
    Waiting(Box<Visitor>),
    Open(Box<Session>),
    Stream(Box<Streaming>),
}

/// A connection at the door of its volume.
struct Visitor {
    adopted: Adopted,
    volume: VolumeId,
    epoch: u64,
    /// Of the volume's attachments, as its token says.
    generation: u64,
}

struct Connection {
    generation: u16,
    place: Option<Place>,
}

/// See the file's essay.
pub struct EdgeServer {
    class: u8,
    /// By their numbers.
    entrances: [Entrance; 2],
    sessions_max: usize,
    /// That there are as many connections as there may be has been said.
    told_full: bool,
    /// The key that the tokens of sessions over TCP are signed with.
    key: Option<ClusterKey>,
    connections: Vec<Connection>,
    free: Vec<u32>,
    /// Sessions whose rings are looked at; the others sleep until their bell is rung.
    awake: Vec<u32>,
    /// Sessions that have answers to publish or may have come to their end.
    touched: Vec<u32>,
    arenas: Vec<((u64, u64), Weak<Arena>)>,
    doors: BTreeMap<VolumeId, Door>,
    /// Volumes of which a connection has shown a later generation.
    raised: Vec<VolumeId>,
    /// Edges that were told in the log to be shut out; they try again all the time.
    turned_away: BTreeSet<(VolumeId, [u8; 16])>,
    /// Connections that may enter now.
    admitted: Vec<u32>,
    /// Memory of sessions over TCP, once there is one.
    pool: Option<Pool>,
    /// Sessions over TCP that wait for memory.
    stalled: Vec<u32>,
    /// Memory came back.
    retry: bool,
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
            entrances: Default::default(),
            sessions_max: SESSIONS_MAX,
            told_full: false,
            key: None,
            connections: Vec::new(),
            free: Vec::new(),
            awake: Vec::new(),
            touched: Vec::new(),
            arenas: Vec::new(),
            doors: BTreeMap::new(),
            raised: Vec::new(),
            turned_away: BTreeSet::new(),
            admitted: Vec::new(),
            pool: None,
            stalled: Vec::new(),
            retry: false,
            handovers: Vec::new(),
            log: Vec::new(),
            spin: Spin::default(),
            found_work: false,
        }
    }

    /// Opens sessions over TCP, accepted here or on another shard, whose tokens are signed with
    /// `key`.
    pub fn trust(&mut self, key: ClusterKey) {
        self.key = Some(key);
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
        let mine = |connection: &&Connection| match &connection.place {
            Some(Place::Open(session)) => session.volume() == volume,
            Some(Place::Stream(stream)) => stream.volume() == Some(volume),
            _ => false,
        };
        self.connections.iter().filter(mine).count()
    }

    fn session(&mut self, index: u32) -> Option<&mut Session> {
        match self.connections.get_mut(index as usize)?.place.as_mut()? {
            Place::Open(session) => Some(session),
            _ => None,
        }
    }

    /// A session over TCP, and the memory for it.
    fn stream(&mut self, index: u32) -> Option<(&mut Streaming, &mut Pool)> {
        match self.connections.get_mut(index as usize)?.place.as_mut()? {
            Place::Stream(stream) => Some((stream, self.pool.as_mut()?)),
            _ => None,
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
        self.admitted.retain(|admitted| *admitted != index);
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
        match token.kind {
            KIND_ACCEPT => return self.accepted(event, token.index as usize, ring),
            KIND_LATE => return self.close_late(token.index as usize, ring),
            _ => {}
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
            KIND_RECEIVE | KIND_SEND => self.moved_bytes(token, event.result, host),
            _ => self.readable(token.index, ring, host),
        }
    }

    /// A receive or a send of a session over TCP has ended.
    fn moved_bytes<H: Host + ?Sized>(&mut self, token: Token, result: i32, host: &mut H) {
        let me = self.identity(token.index);
        let Some((stream, pool)) = self.stream(token.index) else { return };
        if token.kind == KIND_SEND {
            stream.sent(result, pool);
        } else {
            stream.received(result);
            stream.run(me, pool, host);
        }
        self.touched.push(token.index);
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
                    let Some(greeting) = self.take_greeting(index) else { return };
                    self.route(greeting.into_adopted(hello), ring, host);
                }
                Err(why) => {
                    let who = net::peer_name(greeting.socket());
                    self.log.push(format!("closed the Edge connection of {who}: {why}"));
                    greeting.refuse(&malformed(&why));
                    self.take_greeting(index);
                }
            },
            _ => {}
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
        let Found::Here { volume, epoch } = host.find(&adopted.hello.volume) else {
            return self.refuse(&adopted, &unknown(&adopted.hello));
        };
        let leave = match (&adopted.carrier, &self.key) {
            (Carrier::Shm(_), _) => Ok(generation_here(&adopted.hello)),
            (Carrier::Tcp, Some(key)) => key.check(&adopted.hello, unix_ms() / 1000),
            (Carrier::Tcp, None) => Err(unknown(&adopted.hello)),
        };
        match leave {
            Ok(generation) => {
                let visitor = Visitor { adopted, volume, epoch, generation };
                self.knock(visitor, ring, host);
            }
            Err(refusal) => self.refuse(&adopted, &refusal),
        }
    }

    fn refuse(&mut self, adopted: &Adopted, refusal: &Refusal) {
        let (name, why) = (uuid(&adopted.hello.volume), &refusal.why);
        self.log.push(format!("volume {name}: refused {}: {why}", adopted.who()));
        adopted.refuse(refusal);
    }

    /// Opens the session of a connection that was let in.
    fn enter<T: Targets + ?Sized>(&mut self, index: u32, targets: &mut T, ring: &mut Ring) {
        let place = &mut self.connections[index as usize].place;
        let waiting = place.take_if(|place| matches!(place, Place::Waiting(_)));
        let Some(Place::Waiting(visitor)) = waiting else { return };
        let Visitor { adopted, volume, epoch, .. } = *visitor;
        let opened = match targets.info(volume) {
            Some(info) => self.open(index, &adopted, volume, info, epoch),
            None => Err(unknown(&adopted.hello)),
        };
        match opened {
            Ok(place) => {
                let name = uuid(&adopted.hello.volume);
                self.log.push(format!("volume {name}: attached by {}", adopted.who()));
                self.connections[index as usize].place = Some(place);
                if let Some(session) = self.session(index) {
                    let fd = session.socket().clone();
                    ring.poll_readable(&fd, self.token(KIND_CONTROL, index));
                    self.wake(index);
                }
                self.touched.push(index);
            }
            Err(refusal) => {
                self.free.push(index);
                self.leave_door(volume, index);
                self.refuse(&adopted, &refusal);
            }
        }
    }

    fn open(
        &mut self,
        index: u32,
        adopted: &Adopted,
        volume: VolumeId,
        info: VolumeInfo,
        epoch: u64,
    ) -> Result<Place, Refusal> {
        if let Carrier::Shm(_) = adopted.carrier {
            let session = Session::open(adopted, volume, info, epoch, &mut self.arenas)?;
            return Ok(Place::Open(Box::new(session)));
        }
        if self.pool.is_none() {
            let arena = Arena::anonymous(STREAM_ARENA).map_err(|error| Refusal {
                code: "memory".into(),
                what: format!("attach volume {}", uuid(&adopted.hello.volume)),
                why: format!("the engine has no memory for sessions over TCP: {error}"),
                fix: "free memory on the owner's host".into(),
            })?;
            self.pool = Some(Pool::new(arena, STREAM_ARENA));
        }
        let session = Streaming::open(adopted, volume, info, epoch, index)?;
        Ok(Place::Stream(Box::new(session)))
    }

    fn wake(&mut self, index: u32) {
        if let Some(session) = self.session(index)
            && session.wake_up()
        {
            self.awake.push(index);
        }
    }

    /// Gives commands of all rings to the targets. True: there were some.
    pub fn poll<T: Targets + ?Sized>(&mut self, targets: &mut T, ring: &mut Ring) -> bool {
        let mut found = false;
        for index in std::mem::take(&mut self.admitted) {
            self.enter(index, targets, ring);
        }
        if std::mem::take(&mut self.retry) {
            for index in std::mem::take(&mut self.stalled) {
                let me = self.identity(index);
                if let Some((stream, pool)) = self.stream(index) {
                    stream.run(me, pool, targets);
                    self.touched.push(index);
                    found = true;
                }
            }
        }
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
        } else if let Some((stream, pool)) = self.stream(index) {
            stream.complete(completion, pool);
            self.touched.push(index);
        }
    }

    /// Publishes answers and rings Edges that sleep. [`EdgeServer::end_turn`] does it as well; a
    /// loop that looks at the rings several times in a turn calls it in between.
    pub fn publish(&mut self) {
        let mut touched = std::mem::take(&mut self.touched);
        touched.retain(|index| match self.session(*index) {
            Some(session) => {
                session.publish();
                session.has_ended()
            }
            None => true,
        });
        self.touched = touched;
    }

    /// Publishes answers, rings sleepers, ends what has ended.
    pub fn end_turn(&mut self, ring: &mut Ring) {
        self.publish();
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        for index in touched {
            self.end_turn_of(index, ring);
        }
        let freed = self.pool.as_mut().is_some_and(Pool::take_freed);
        self.retry |= freed && !self.stalled.is_empty();
        if std::mem::take(&mut self.found_work) {
            self.spin.worked();
        } else if !self.awake.is_empty() && !self.spin.again() {
            self.fall_asleep(ring);
        }
    }

    fn end_turn_of(&mut self, index: u32, ring: &mut Ring) {
        if let Some(session) = self.session(index) {
            if session.is_over() {
                self.finish(index);
            }
            return;
        }
        let (receive, send) = (self.token(KIND_RECEIVE, index), self.token(KIND_SEND, index));
        let Some((stream, pool)) = self.stream(index) else { return };
        stream.end_turn(receive, send, pool, ring);
        let (is_over, is_stalled) = (stream.is_over(), stream.is_stalled());
        if is_stalled && !self.stalled.contains(&index) {
            self.stalled.push(index);
        }
        if is_over {
            self.finish(index);
        }
        if let Some((stream, pool)) = self.stream(index)
            && stream.let_go(pool)
        {
            self.remove(index);
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

    /// True while rings are looked at without a bell, or something waits for [`EdgeServer::poll`]:
    /// the loop must not sleep.
    pub fn wants_polling(&self) -> bool {
        !self.awake.is_empty() || !self.admitted.is_empty() || self.retry
    }

    /// Closes a session, of which nothing is unanswered or touched. One over TCP stays until the
    /// ring has let go of it.
    fn finish(&mut self, index: u32) {
        if let Some((stream, pool)) = self.stream(index) {
            let volume = stream.volume();
            let line = stream.close(pool);
            self.log.push(line);
            self.touched.push(index);
            if let Some(volume) = volume {
                self.leave_door(volume, index);
            }
        } else if let Some(Place::Open(session)) = self.remove(index) {
            let volume = session.volume();
            self.log.push(session.close());
            self.leave_door(volume, index);
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
            } else if let Some((stream, _)) = self.stream(at)
                && stream.volume() == Some(volume)
            {
                stream.tell(&frame);
                self.touched.push(at);
            }
        }
    }

    /// Parts with the sessions of a volume that has stopped: they take no more requests, and their
    /// Edges hear `farewell`. Requests that were not completed are answered by whoever serves the
    /// volume next, or fail when it was deleted. [`EdgeServer::let_go`] must follow.
    pub fn part_with(&mut self, volume: VolumeId, farewell: &Frame) {
        // Nobody enters any more, so nothing of it waits for the others to go. Whoever opens it
        // again says which generation is let in.
        self.forget_door(volume);
        for at in 0..self.connections.len() as u32 {
            match self.connections[at as usize].place.as_mut() {
                Some(Place::Open(session)) if session.volume() == volume => {
                    session.part(farewell);
                    self.touched.push(at);
                }
                Some(Place::Stream(stream)) if stream.volume() == Some(volume) => {
                    self.log.push(stream.part(farewell));
                    self.touched.push(at);
                }
                Some(Place::Waiting(visitor)) if visitor.volume == volume => {
                    if let Some(Place::Waiting(visitor)) = self.remove(at) {
                        self.refuse(&visitor.adopted, &unknown(&visitor.adopted.hello));
                    }
                }
                _ => {}
            }
        }
    }

    /// Ends the sessions of a volume that was parted with. Call it when nothing touches the memory
    /// of its requests any more, no ring and no thread: an Edge whose connection is closed uses that
    /// memory for others, and so does this server.
    pub fn let_go(&mut self, volume: VolumeId) {
        for at in 0..self.connections.len() as u32 {
            match self.connections[at as usize].place.as_mut() {
                Some(Place::Open(session)) if session.volume() == volume => self.finish(at),
                Some(Place::Stream(stream)) if stream.has_parted_with(volume) => {
                    if let Some(pool) = &mut self.pool {
                        stream.forget(pool);
                    }
                    self.touched.push(at);
                }
                _ => {}
            }
        }
    }

    /// Lets go of a volume of which nothing is under way.
    #[cfg(test)]
    pub(crate) fn leave(&mut self, volume: VolumeId, farewell: &Frame) {
        self.part_with(volume, farewell);
        self.let_go(volume);
    }

    /// Ends as a killed process does: every socket closes, nothing is said.
    #[cfg(test)]
    pub(crate) fn die(mut self, ring: &mut Ring) {
        for connection in &self.connections {
            match &connection.place {
                Some(Place::Open(session)) => session.drop_dead(),
                Some(Place::Stream(stream)) => stream.drop_dead(),
                _ => {}
            }
        }
        self.stop_listening(ring);
    }
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
