//! One connection to an engine, whatever carries it: what a session asks of it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use format::edge::{Command, Done, Frame, Hello, VERSION, WireError};
use media::{Ring, Slice};
use net::clock::monotonic_ns;

use super::session::Shared;
use super::shm::Shm;
use super::stream::Stream;

/// Where an engine listens for Edges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An engine on this host, by its unix socket; requests cross in shared memory.
    Shm(PathBuf),
    /// An engine anywhere.
    Tcp(SocketAddr),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Shm(path) => write!(f, "{}", path.display()),
            Address::Tcp(address) => write!(f, "{address}"),
        }
    }
}

/// Who this Edge is towards engines.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its name in all its lives but after a boot, so that an engine knows connections of earlier ones.
    pub edge: [u8; 16],
    /// Connections of this life have higher numbers than those of earlier ones: a time.
    pub origin_ms: u64,
    /// For an engine's log.
    pub client: String,
}

impl Identity {
    /// One that no Edge had before.
    pub fn fresh(client: &str) -> Self {
        let (edge, origin_ms) = (net::random_name(), net::clock::unix_ms());
        Self { edge, origin_ms, client: client.to_owned() }
    }
}

/// What a connection is opened for.
pub(super) struct Purpose {
    pub(super) uuid: [u8; 16],
    pub(super) read_only: bool,
    pub(super) entries: u32,
    pub(super) generation: u32,
    pub(super) token: [u8; 64],
    pub(super) host: String,
}

impl Purpose {
    pub(super) fn hello(&self, identity: &Identity) -> Hello {
        Hello {
            version: VERSION,
            features: 0,
            volume: self.uuid,
            read_only: self.read_only,
            entries: self.entries,
            token: self.token,
            edge: identity.edge,
            connection: (identity.origin_ms << 22) + u64::from(self.generation),
            host: self.host.clone(),
            client: identity.client.clone(),
        }
    }
}

/// A connection.
pub(super) enum Carrier {
    Shm(Box<Shm>),
    Tcp(Box<Stream>),
}

impl Carrier {
    /// Connects and says hello; never waits. `token`: class and index of the ring's tokens.
    pub(super) fn open(
        address: &Address,
        shared: &Shared,
        purpose: &Purpose,
        index: u32,
        ring: &mut Ring,
    ) -> io::Result<Self> {
        match address {
            Address::Shm(path) => {
                let shm = Shm::open(path, shared, purpose)?;
                shm.listen(shared.class, index, ring);
                Ok(Carrier::Shm(Box::new(shm)))
            }
            Address::Tcp(address) => {
                let stream = Stream::open(*address, shared, purpose, index, ring)?;
                Ok(Carrier::Tcp(Box::new(stream)))
            }
        }
    }

    #[inline]
    pub(super) fn generation(&self) -> u32 {
        match self {
            Carrier::Shm(shm) => shm.generation,
            Carrier::Tcp(stream) => stream.generation,
        }
    }

    /// Takes what a ring event brought; answers and frames are there afterwards.
    pub(super) fn on_event(&mut self, kind: u8, result: i32) {
        match self {
            Carrier::Shm(shm) => shm.read(),
            Carrier::Tcp(stream) => stream.on_event(kind, result),
        }
    }

    /// Asks the ring for what this connection waits for.
    pub(super) fn arm(&mut self, class: u8, index: u32, ring: &mut Ring) {
        match self {
            Carrier::Shm(shm) => shm.listen(class, index, ring),
            Carrier::Tcp(stream) => stream.arm(ring),
        }
    }

    /// The next complete frame.
    pub(super) fn next_frame(&mut self) -> Result<Option<Frame>, WireError> {
        match self {
            Carrier::Shm(shm) => shm.next_frame(),
            Carrier::Tcp(stream) => stream.next_frame(),
        }
    }

    /// Nobody but the session uses the requests' memory any more.
    pub(super) fn has_ended(&self) -> bool {
        match self {
            Carrier::Shm(shm) => shm.has_ended(),
            Carrier::Tcp(stream) => stream.has_ended(),
        }
    }

    /// It ended because the engine closed its end, not because it broke or was given up.
    pub(super) fn was_closed(&self) -> bool {
        match self {
            Carrier::Shm(shm) => shm.has_ended(),
            Carrier::Tcp(stream) => stream.was_closed(),
        }
    }

    /// Why it ended.
    pub(super) fn why(&self) -> String {
        match self {
            Carrier::Shm(_) => "the engine closed the connection".into(),
            Carrier::Tcp(stream) => stream.why(),
        }
    }

    /// Asks the engine to finish and close; the end follows.
    pub(super) fn leave(&mut self) {
        match self {
            Carrier::Shm(shm) => shm.leave(),
            Carrier::Tcp(stream) => stream.leave(monotonic_ns()),
        }
    }

    /// Gives a command to the engine; shown to it by [`Carrier::publish`]. False: there is no room
    /// for it, which the engine's credits rule out.
    #[inline]
    pub(super) fn push(&mut self, command: &Command, payload: Option<&Slice>) -> bool {
        match self {
            Carrier::Shm(shm) => shm.push(command),
            Carrier::Tcp(stream) => {
                stream.push(command, payload);
                true
            }
        }
    }

    #[inline]
    pub(super) fn publish(&mut self) {
        match self {
            Carrier::Shm(shm) => shm.publish(),
            Carrier::Tcp(stream) => stream.publish(),
        }
    }

    /// Whether answers are there. `Err`: the engine broke the protocol.
    #[inline]
    pub(super) fn look(&mut self) -> Result<bool, ()> {
        match self {
            Carrier::Shm(shm) => shm.look(),
            Carrier::Tcp(stream) => Ok(stream.has_answers()),
        }
    }

    #[inline]
    pub(super) fn pop(&mut self) -> Option<Result<Done, WireError>> {
        match self {
            Carrier::Shm(shm) => shm.pop(),
            Carrier::Tcp(stream) => stream.pop().map(Ok),
        }
    }

    /// All answers that [`Carrier::look`] saw were taken.
    #[inline]
    pub(super) fn release(&mut self) {
        if let Carrier::Shm(shm) = self {
            shm.release();
        }
    }

    /// Bytes of the extents of an answer.
    pub(super) fn extents(&mut self, done: &Done) -> Option<Vec<u8>> {
        match self {
            Carrier::Shm(shm) => shm.extents(done),
            Carrier::Tcp(stream) => stream.extents(done.tag),
        }
    }

    /// Answers come without an event of the ring: they must be looked for.
    pub(super) fn is_polled(&self) -> bool {
        matches!(self, Carrier::Shm(_))
    }

    /// Something waits for [`Carrier::arm`].
    pub(super) fn wants_ring(&self) -> bool {
        match self {
            Carrier::Shm(_) => false,
            Carrier::Tcp(stream) => stream.wants_ring(),
        }
    }

    pub(super) fn wake_up(&mut self) {
        if let Carrier::Shm(shm) = self {
            shm.wake_up();
        }
    }

    pub(super) fn fall_asleep(&mut self) -> bool {
        match self {
            Carrier::Shm(shm) => shm.fall_asleep(),
            Carrier::Tcp(stream) => !stream.has_answers(),
        }
    }

    /// When patience with the engine ends.
    pub(super) fn deadline_ns(&self) -> Option<u64> {
        match self {
            Carrier::Shm(_) => None,
            Carrier::Tcp(stream) => stream.deadline_ns(),
        }
    }

    /// Patience is over at this time, if it is that late.
    pub(super) fn expire(&mut self, now_ns: u64) {
        if let Carrier::Tcp(stream) = self {
            stream.expire(now_ns);
        }
    }
}
