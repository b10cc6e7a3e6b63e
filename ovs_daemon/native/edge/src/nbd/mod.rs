//! The NBD server: one per loop, any number of exports, sockets and connections.
//!
//! It is driven: whoever owns the [`Ring`] gives it its events, the outcomes of the volumes and, at
//! the end of each turn, the chance to send and to receive again.
//!
//! ```text
//!  loop {
//!      ring.turn(wait, &mut events);
//!      for event of its class { nbd.on_event(event, ring, targets) }  // submits requests
//!      loop {
//!          run the targets; for each outcome { nbd.complete(outcome) }
//!          if !nbd.end_turn(ring, targets) { break }                  // replies, next receives
//!      }
//!  }
//! ```
//!
//! What makes it fast: one `recv` fetches as many requests as the socket holds (see `flow::input`), their
//! payloads are handed to the volume where they lie, and the replies of a turn leave with one
//! `send` (see `flow::output`). A 4 KiB request allocates nothing; its state is a slot found by index.
//! Memory is the arena that the loop passed in, in chunks (see `flow::pool`): it bounds what all clients
//! together can make this server hold, and a client that finds none waits in its own socket.
//!
//! A target may use the memory of a request until it reports the outcome, not longer.

mod connection;
mod entrance;
mod exports;
mod slots;
#[cfg(test)]
mod tests;
mod transfer;

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use machines::nbd::Action;
use media::{Arena, Event, Ring};
use net::{ListenError, UnixSocket};

use crate::target::{Completion, Targets, VolumeId};

use crate::flow::pool::{CHUNK_BYTES, NONE, Pool};
use connection::Connection;
use entrance::{CONNECTIONS_MAX, Listener};
use exports::Exports;
pub use exports::Offer;
use slots::{Slab, Slots, Whole};

/// Largest piece of a read or write at a volume, in bytes.
pub const PIECE_BYTES: u32 = 256 << 10;
/// Longest range that is described to a client that wants one extent only (QEMU, each time), in
/// bytes: the volume describes all of it.
const STATUS_ONE_BYTES_MAX: u32 = 64 << 20;
/// Longest range that is described in one reply, in bytes.
const STATUS_BYTES_MAX: u32 = 1 << 30;
/// Reads that one connection submits before their replies are sent, in bytes: about what stays in
/// a core's cache, and the client starts to receive early. Slow volumes still get more, turn after
/// turn.
const TURN_BYTES_MAX: usize = 1 << 20;
/// Most extents in one reply.
const EXTENTS_MAX: usize = 4096;

/// Smallest arena that serves, in bytes. A good one has 256 MiB for a shard of volumes: every
/// connection progresses, whatever the others do, while there are 4 chunks of 260 KiB for each, and
/// with 132 MiB the largest read of a client without structured replies fits (32 MiB). Pages
/// that were never used cost nothing.
pub const ARENA_BYTES_MIN: usize = 4 * CHUNK_BYTES;

/// Counters of one export since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Read requests.
    pub reads: u64,
    /// Bytes asked for by them.
    pub read_bytes: u64,
    /// Write requests.
    pub writes: u64,
    /// Bytes of their payload.
    pub written_bytes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Trims and writes of zeroes.
    pub trims: u64,
    /// Cache and block status requests.
    pub others: u64,
    /// Outcomes that were errors.
    pub errors: u64,
}

/// One connection, for status displays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// Process and user, or address.
    pub peer: String,
    /// Export in use; `None` while it negotiates.
    pub export: Option<String>,
    /// Requests not yet answered.
    pub in_flight: u32,
}

/// A line for the log, complete in itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Something is wrong, if only with a client.
    pub warning: bool,
    /// Who, what, why.
    pub text: String,
}

/// An export that could not be made.
#[derive(Debug)]
pub enum ExportError {
    /// The name is used by another export of this server.
    NameTaken(String),
    /// The protocol allows 4096 bytes.
    NameTooLong(usize),
    /// The socket could not be made.
    Listen(ListenError),
}

impl fmt::Display for ExportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExportError::NameTaken(name) => {
                write!(f, "cannot export {name:?} over NBD: the name is in use; withdraw it first")
            }
            ExportError::NameTooLong(len) => {
                write!(f, "cannot export over NBD: the name has {len} bytes, 4096 are allowed")
            }
            ExportError::Listen(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ExportError {}

/// What a token of the ring stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TokenKind {
    Accept = 1,
    Receive,
    Send,
    Poll,
    Late,
}

/// What all connections share.
struct Core {
    class: u8,
    pool: Pool,
    slots: Slots,
    wholes: Slab<Whole>,
    exports: Exports,
    actions: Vec<Action>,
    log: Vec<LogLine>,
    /// Connections that found no memory, in order.
    queue: VecDeque<u32>,
    /// Connection and cookie of writes in pieces that are done but for a flush.
    flushes: Vec<(u32, u64)>,
    submitted: bool,
}

impl Core {
    #[inline]
    fn token(&self, kind: TokenKind, index: u32) -> u64 {
        u64::from(self.class) << 56 | (kind as u64) << 48 | u64::from(index)
    }

    fn log(&mut self, warning: bool, text: String) {
        self.log.push(LogLine { warning, text });
    }
}

/// See the module's essay.
pub struct NbdServer {
    core: Core,
    connections: Slab<Box<Connection>>,
    connections_max: usize,
    /// That there are as many connections as there may be has been said.
    told_full: bool,
    listeners: Slab<Listener>,
    /// Connections with something to do at the end of the turn.
    dirty: Vec<u32>,
}

impl NbdServer {
    /// A server without exports. `class` fills the top 8 bits of its tokens and request
    /// identifiers; `arena` is used by it alone and has at least [`ARENA_BYTES_MIN`] bytes.
    pub fn new(class: u8, arena: Arc<Arena>) -> Self {
        let bytes = arena.len();
        Self::within(class, arena, bytes)
    }

    /// The same, which uses the first `bytes` of the arena only.
    pub fn within(class: u8, arena: Arc<Arena>, bytes: usize) -> Self {
        Self {
            core: Core {
                class,
                pool: Pool::new(arena, bytes),
                slots: Slots::new(class),
                wholes: Slab::new(),
                exports: Exports::default(),
                actions: Vec::new(),
                log: Vec::new(),
                queue: VecDeque::new(),
                flushes: Vec::new(),
                submitted: false,
            },
            connections: Slab::new(),
            connections_max: CONNECTIONS_MAX,
            told_full: false,
            listeners: Slab::new(),
            dirty: Vec::new(),
        }
    }

    /// Offers a volume to the TCP sockets of this server.
    pub fn export(&mut self, offer: Offer) -> Result<(), ExportError> {
        self.add(offer).map(|_| ())
    }

    /// Offers a volume on a unix socket of its own (and to TCP). `mode`: permission bits; `owner`:
    /// uid and gid. The export answers to its name and to the empty default name.
    pub fn listen_unix(
        &mut self,
        ring: &mut Ring,
        offer: Offer,
        path: &Path,
        mode: u32,
        owner: Option<(u32, u32)>,
    ) -> Result<(), ExportError> {
        let only = self.add(offer)?;
        let socket = UnixSocket::listen(path, mode, owner).map_err(|error| {
            self.core.exports.remove(only);
            ExportError::Listen(error)
        })?;
        self.listen(ring, Listener::of_one(only, socket));
        Ok(())
    }

    /// Serves all exports on a TCP address; the default name works while there is exactly one.
    /// Returns the address in use (port 0 lets the kernel choose).
    pub fn listen_tcp(
        &mut self,
        ring: &mut Ring,
        address: SocketAddr,
    ) -> Result<SocketAddr, ExportError> {
        let (fd, bound) = net::listen_tcp(address).map_err(ExportError::Listen)?;
        self.listen(ring, Listener::of_all(fd));
        Ok(bound)
    }

    /// Withdraws a volume: its sockets and connections are closed. What was submitted for it must
    /// still be completed, or its memory stays in use.
    pub fn unexport(&mut self, ring: &mut Ring, volume: VolumeId) {
        let exports: Vec<u32> = self.core.exports.of(volume).map(|(index, _)| index).collect();
        self.close_connections(
            |c| exports.contains(&c.export) || exports.contains(&c.only),
            &"the \
            volume was withdrawn",
        );
        self.close_listeners(ring, |listener| exports.contains(&listener.only));
        for index in exports {
            self.core.exports.remove(index);
        }
    }

    /// The volume has no request of a connection that was closed, or is open: nothing of it can
    /// happen any more once it was withdrawn.
    pub fn is_quiet(&self, volume: VolumeId) -> bool {
        !self.connections.iter().any(|(_, one)| one.volume == volume && one.slots > 0)
    }

    /// Closes the connections of a volume whose size has changed; NBD clients learn the new one
    /// when they connect again. Requests that were received are still performed.
    pub fn drop_connections(&mut self, volume: VolumeId) {
        let exports: Vec<u32> = self.core.exports.of(volume).map(|(index, _)| index).collect();
        let why = "the volume has changed its size; connect again";
        self.close_connections(|connection| exports.contains(&connection.export), &why);
    }

    /// Closes everything: listeners and clients' sockets are shut when this returns, even if the
    /// loop never turns again. [`NbdServer::is_idle`] tells when the ring and the volumes have let
    /// go of the memory.
    pub fn close(&mut self, ring: &mut Ring) {
        self.close_listeners(ring, |_| true);
        self.close_connections(|_| true, &"the server stops");
        for (_, connection) in self.connections.iter_mut() {
            connection.shut(ring);
        }
    }

    /// No connection is open and nothing is outstanding at the volumes.
    pub fn is_idle(&self) -> bool {
        self.connections.len() == 0 && self.core.slots.len() == 0
    }

    /// Takes an event of the ring whose token has this server's class.
    pub fn on_event(&mut self, event: Event, ring: &mut Ring, targets: &mut dyn Targets) {
        debug_assert_eq!((event.token >> 56) as u8, self.core.class, "an event of somebody else");
        let index = event.token as u32;
        let kind = (event.token >> 48) as u8;
        if kind == TokenKind::Accept as u8 {
            return self.accepted(index, event, ring);
        }
        if kind == TokenKind::Late as u8 {
            return self.close_late(index, ring);
        }
        let Some(connection) = self.connections.get_mut(index) else { return };
        if kind == TokenKind::Receive as u8 {
            connection.received(event.result, &mut self.core, targets);
        } else if kind == TokenKind::Send as u8 {
            connection.sent(event.result, &mut self.core);
        } else {
            connection.becomes_readable();
        }
        mark(connection, &mut self.dirty);
    }

    /// Takes the outcome of a request that was submitted.
    pub fn complete(&mut self, completion: Completion) {
        let Some(slot) = self.core.slots.remove(completion.id) else {
            let text = format!("nbd: an outcome of no request was ignored: {completion:?}");
            return self.core.log(true, text);
        };
        let Some(connection) = self.connections.get_mut(slot.connection) else { return };
        connection.complete(slot, completion, &mut self.core);
        mark(connection, &mut self.dirty);
    }

    /// Sends the replies of this turn and receives again. True: more requests were submitted, so
    /// the targets must run again before the loop sleeps.
    #[must_use = "requests were submitted: run the targets before sleeping"]
    pub fn end_turn(&mut self, ring: &mut Ring, targets: &mut dyn Targets) -> bool {
        self.core.submitted = false;
        for (index, cookie) in std::mem::take(&mut self.core.flushes) {
            if let Some(connection) = self.connections.get_mut(index) {
                connection.submit_flush(cookie, &mut self.core, targets);
            }
        }
        loop {
            self.core.pool.take_freed();
            for index in std::mem::take(&mut self.core.queue) {
                if let Some(connection) = self.connections.get_mut(index) {
                    connection.queued = false;
                    mark(connection, &mut self.dirty);
                }
            }
            self.end_turn_of_connections(ring, targets);
            // What one connection has sent may be the memory that another one waits for.
            if self.core.queue.is_empty() || !self.core.pool.take_freed() {
                return self.core.submitted;
            }
        }
    }

    fn end_turn_of_connections(&mut self, ring: &mut Ring, targets: &mut dyn Targets) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for index in dirty.drain(..) {
            let Some(connection) = self.connections.get_mut(index) else { continue };
            connection.dirty = false;
            let stays = connection.end_turn(&mut self.core, ring, targets);
            if connection.entrance != NONE && !(stays && connection.is_choosing()) {
                let way = std::mem::replace(&mut connection.entrance, NONE);
                if let Some(listener) = self.listeners.get_mut(way) {
                    listener.lobby.leave(index);
                }
            }
            if !stays {
                self.connections.remove(index);
                self.accept_again(ring);
            } else if connection.wants_turn() {
                mark(connection, &mut self.dirty);
            }
        }
        dirty.append(&mut self.dirty);
        self.dirty = dirty;
    }

    /// Log lines since the last call.
    pub fn take_log(&mut self) -> Vec<LogLine> {
        std::mem::take(&mut self.core.log)
    }

    /// Counters of a volume's exports; `None`: it has none.
    pub fn stats(&self, volume: VolumeId) -> Option<Stats> {
        self.core.exports.of(volume).map(|(_, entry)| entry.stats).reduce(|sum, stats| Stats {
            reads: sum.reads + stats.reads,
            read_bytes: sum.read_bytes + stats.read_bytes,
            writes: sum.writes + stats.writes,
            written_bytes: sum.written_bytes + stats.written_bytes,
            flushes: sum.flushes + stats.flushes,
            trims: sum.trims + stats.trims,
            others: sum.others + stats.others,
            errors: sum.errors + stats.errors,
        })
    }

    /// Who is connected.
    pub fn connections(&self) -> impl Iterator<Item = ConnectionInfo> {
        self.connections.iter().map(|(_, connection)| ConnectionInfo {
            peer: connection.peer.clone(),
            export: self.core.exports.get(connection.export).map(|e| e.offer.name.clone()),
            in_flight: connection.session.in_flight(),
        })
    }

    fn add(&mut self, offer: Offer) -> Result<u32, ExportError> {
        if offer.name.len() > format::nbd::STRING_BYTES_MAX {
            return Err(ExportError::NameTooLong(offer.name.len()));
        }
        let name = offer.name.clone();
        self.core.exports.add(offer).ok_or(ExportError::NameTaken(name))
    }

    fn listen(&mut self, ring: &mut Ring, listener: Listener) {
        self.listeners.insert(listener);
        self.accept_again(ring);
    }

    fn close_listeners(&mut self, ring: &mut Ring, which: impl Fn(&Listener) -> bool) {
        let mut gone = Vec::new();
        for (index, listener) in self.listeners.iter_mut() {
            if listener.closed || !which(listener) {
                continue;
            }
            listener.closed = true;
            if let Some(file) = &listener.file {
                file.unlink();
            }
            ring.shutdown(listener.acceptor.fd());
            if !listener.acceptor.is_pending() {
                gone.push(index);
            }
        }
        for index in gone {
            self.listeners.remove(index);
        }
    }

    fn close_connections(&mut self, which: impl Fn(&Connection) -> bool, why: &dyn fmt::Display) {
        for (_, connection) in self.connections.iter_mut() {
            if which(connection) {
                connection.close(why, false, true, &mut self.core);
                mark(connection, &mut self.dirty);
            }
        }
    }
}

#[inline]
fn mark(connection: &mut Connection, dirty: &mut Vec<u32>) {
    if !connection.dirty {
        connection.dirty = true;
        dirty.push(connection.index);
    }
}
