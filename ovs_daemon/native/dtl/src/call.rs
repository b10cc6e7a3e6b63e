//! Saying hello to a DTL node, by a thread that may wait.
//!
//! When that leads to nothing, the node may be away, or only what it has of this volume may take it
//! long or fail. Whoever has to know asks it something that no volume matters to ([`Caller::is_there`]).

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use format::Malformed;
use format::dtl::{FRAME, Frame, Greeted, Hello, Rejection, Role, VERSION};
use format::entry::Uuid;
use media::Fd;
use net::Stream;

/// How long a call may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience(pub Duration);

impl Default for Patience {
    /// A DTL node that stores a fence on a slow disk still answers in this time.
    fn default() -> Self {
        Patience(Duration::from_secs(5))
    }
}

/// What no node speaks.
const NO_VERSION: u8 = 0;

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The DTL node.
    pub address: SocketAddr,
    /// The cluster.
    pub cluster: Uuid,
    /// The volume.
    pub volume: Uuid,
    /// The caller's epoch.
    pub epoch: u64,
    /// Number of the connection among those of this epoch.
    pub generation: u32,
}

/// Why a call led to nothing.
#[derive(Debug)]
pub enum CallError {
    /// The node cannot be connected to.
    Unreachable(io::Error),
    /// It was connected to, and has not answered in time.
    Late(io::Error),
    /// No connection could be made here, or it broke: that tells nothing about the node.
    Broken(io::Error),
    /// It knows a newer epoch.
    Refused {
        /// That one.
        fence: u64,
    },
    /// It does not want to talk.
    Rejected(Rejection),
    /// It says what no DTL node says.
    Malformed(Malformed),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::Unreachable(error) | CallError::Broken(error) => write!(f, "{error}"),
            CallError::Late(_) => write!(f, "it has not answered in time"),
            CallError::Refused { fence } => write!(f, "it knows the newer epoch {fence}"),
            CallError::Rejected(Rejection::Version) => {
                write!(f, "it speaks another version of the protocol")
            }
            CallError::Rejected(Rejection::Cluster) => write!(f, "it belongs to another cluster"),
            CallError::Rejected(Rejection::Failed) => write!(f, "its disk fails"),
            CallError::Malformed(why) => write!(f, "its answer makes no sense: {why}"),
        }
    }
}

impl std::error::Error for CallError {}

/// Of a connection that was made.
impl From<io::Error> for CallError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => CallError::Late(error),
            _ => CallError::Broken(error),
        }
    }
}

impl CallError {
    /// Why no connection was made: because of the node or the way to it, or because of this host.
    pub fn of_connecting(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::TimedOut => CallError::Unreachable(error),
            _ => CallError::Broken(error),
        }
    }
}

impl Caller {
    fn hello(&self, role: Role) -> Hello {
        Hello {
            version: VERSION,
            role,
            volume: self.volume,
            cluster: self.cluster,
            epoch: self.epoch,
            generation: self.generation,
        }
    }

    /// Connects, says hello, hears the answer.
    fn say(&self, hello: Hello, patience: Patience) -> Result<(Stream, Frame), CallError> {
        let connected = Stream::connect(self.address, patience.0);
        let mut stream = connected.map_err(CallError::of_connecting)?;
        stream.write_all(&Frame::Hello(hello).encode())?;
        let answer = next_frame(&mut stream)?;
        Ok((stream, answer))
    }

    /// Whether the node answers anybody: it refuses a version that it has never heard of, whatever
    /// it has to do for the volume.
    pub fn is_there(&self, patience: Patience) -> bool {
        let odd = Hello { version: NO_VERSION, ..self.hello(Role::Owner) };
        let said = self.say(odd, patience);
        !matches!(said, Err(CallError::Unreachable(_) | CallError::Late(_)))
    }

    /// Connects, says hello, hears what is held.
    pub(crate) fn call(
        &self,
        role: Role,
        patience: Patience,
    ) -> Result<(Stream, Greeted), CallError> {
        match self.say(self.hello(role), patience)? {
            (stream, Frame::Greeted(greeted)) => Ok((stream, greeted)),
            (_, Frame::Refused { fence }) => Err(CallError::Refused { fence }),
            (_, Frame::Rejected(why)) => Err(CallError::Rejected(why)),
            _ => Err(CallError::Malformed(Malformed::Field("kind"))),
        }
    }
}

/// The next frame of a stream; its payload is not read.
pub(crate) fn next_frame(stream: &mut Stream) -> Result<Frame, CallError> {
    let mut bytes = [0; FRAME];
    stream.read_exact(&mut bytes)?;
    Frame::decode(&bytes).map_err(CallError::Malformed)
}

/// An owner's connection: its descriptor, and what the node holds.
///
/// # Errors
/// See [`CallError`].
pub fn greet(caller: &Caller, patience: Patience) -> Result<(Fd, Greeted), CallError> {
    let (stream, greeted) = caller.call(Role::Owner, patience)?;
    Ok((stream.into_fd()?, greeted))
}

/// Has the node forget the volume.
///
/// # Errors
/// See [`CallError`].
pub fn remove(caller: &Caller, patience: Patience) -> Result<(), CallError> {
    let (mut stream, _) = caller.call(Role::Remover, patience)?;
    match next_frame(&mut stream)? {
        Frame::Done => Ok(()),
        Frame::Rejected(why) => Err(CallError::Rejected(why)),
        _ => Err(CallError::Malformed(Malformed::Field("kind"))),
    }
}

#[cfg(test)]
#[path = "call_tests.rs"]
mod tests;
