//! The backend that closed SCOs and checkpoints go to.
//!
//! [`Backend`] is what the volumes need of any backend: objects that are stored once and whole
//! (put-if-absent, durable on return), read in parts, listed and deleted. [`Directory`] is the
//! first one: a folder of objects.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod batch;
pub mod cluster;
pub mod code;
pub mod codec;
mod descriptors;
mod directory;
pub mod folder;
pub mod osd;
pub mod part;
pub mod pieces;
pub mod preset;
pub mod remote;
mod same;
mod sco;
pub mod sealed;
pub mod wire;

use std::fmt;

pub use cluster::Cluster;
pub use directory::Directory;
pub use sco::{read_clusters, read_header, read_index, sco_name};
pub use sealed::Sealed;

/// Why the backend could not do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No such object.
    NotFound,
    /// No room left.
    NoSpace,
    /// The object's bytes are not what they should be.
    Corrupt,
    /// Nobody has answered: it may be done, or be done later.
    Unanswered,
    /// Anything else.
    Failed,
}

impl Cause {
    /// Whether it tells nothing about what is stored.
    pub(crate) fn tells_nothing(self) -> bool {
        matches!(self, Self::Unanswered | Self::Failed)
    }
}

/// A failed operation on an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendError {
    /// What was attempted, as in "read".
    pub attempted: &'static str,
    /// Name of the object.
    pub object: String,
    /// Kind of failure.
    pub cause: Cause,
    /// Why it failed, in words.
    pub why: String,
}

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} object {}: {}", self.attempted, self.object, self.why)
    }
}

impl std::error::Error for BackendError {}

/// Result of a backend operation.
pub type Result<T> = std::result::Result<T, BackendError>;

/// How a put ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The object is stored.
    Created,
    /// An object of this name was there already; it was left as it is.
    Exists,
}

/// Room on the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes in all.
    pub total: u64,
    /// Bytes that can still be stored.
    pub free: u64,
}

/// Takes the bytes of an object, front to back.
pub trait Sink {
    /// Appends bytes.
    fn write(&mut self, bytes: &[u8]) -> Result<()>;

    /// Appends the first bytes of a place for `len` of them: as many as `fill` says that it has put
    /// there. It may find anything in it. A sink that keeps an object in memory gives the place where
    /// the bytes stay, so that what is read from a file is copied once.
    fn fill(&mut self, len: usize, fill: &mut Fill) -> Result<()> {
        let mut place = vec![0; len];
        let filled = fill(&mut place)?;
        self.write(&place[..filled])
    }

    /// The CRC32C of each of the last 4 KiB that were appended, which who appended them has compared
    /// with the bytes. A sink that stores them takes them over: what memory spoils between then and
    /// now is seen by whoever gets the bytes, and nothing is computed twice.
    fn compared(&mut self, _crcs: &[u32]) {}
}

/// Puts bytes into a place, see [`Sink::fill`].
pub type Fill<'a> = dyn FnMut(&mut [u8]) -> Result<usize> + 'a;

/// [`Sink::fill`] of a sink that keeps nothing, with a place that is used again.
fn fill_and_write(
    sink: &mut dyn Sink,
    place: &mut Vec<u8>,
    len: usize,
    fill: &mut Fill,
) -> Result<()> {
    if place.len() < len {
        place.resize(len, 0);
    }
    let filled = fill(&mut place[..len])?;
    sink.write(&place[..filled])
}

/// A store of objects. All calls block; they run on worker threads, never on a shard's.
pub trait Backend: Send + Sync {
    /// Stores an object whose bytes `fill` writes, if none has the name. Durable on return. An
    /// error (also one from `fill`) leaves no object behind.
    fn put(&self, name: &str, fill: &mut dyn FnMut(&mut dyn Sink) -> Result<()>) -> Result<Put>;

    /// Fills `into` from `offset` bytes; [`Cause::Corrupt`] when the object ends before.
    fn read(&self, name: &str, offset: u64, into: &mut [u8]) -> Result<()>;

    /// Bytes of the object, `None` when there is none.
    fn len(&self, name: &str) -> Result<Option<u64>>;

    /// Names in a folder (`a/b`), without the folder, sorted; a missing folder is empty.
    fn list(&self, folder: &str) -> Result<Vec<String>>;

    /// Deletes an object; a missing one is fine. A power loss may bring it back, until
    /// [`Backend::settle`]: SCOs and checkpoints are deleted by the thousand, and whoever opens a
    /// volume can tell the ones that came back.
    fn delete(&self, name: &str) -> Result<()>;

    /// From the return on what was deleted from a folder stays deleted.
    fn settle(&self, _folder: &str) -> Result<()> {
        Ok(())
    }

    /// Deletes everything below a folder; a missing one is fine. Durable on return. What is on parts
    /// of the backend that are away may come back, until [`Backend::delete_log`].
    fn delete_folder(&self, folder: &str) -> Result<()>;

    /// Deletes all that a log has, its whole folder, for good: nothing is ever put there again, and
    /// nothing of it comes back.
    fn delete_log(&self, log: &str) -> Result<()> {
        self.delete_folder(log)
    }

    /// What was read of an object is damaged: it is read anew the next time, since somebody may put
    /// a good copy in its place.
    fn distrust(&self, _name: &str) {}

    /// Whether whatever is read of this object is compared with checksums that were made of the
    /// bytes as they were put. Then checksums inside it need not be read as well.
    fn checks(&self, _name: &str) -> bool {
        false
    }

    /// Room on the backend; `None`: it does not say.
    fn space(&self) -> Result<Option<Space>> {
        Ok(None)
    }

    /// Grows with each part of an object that it takes: a large one may be under way for long.
    fn taken(&self) -> u64 {
        0
    }

    /// Parts of the backend that are not there; it works without them as long as it can.
    fn troubles(&self) -> Vec<BackendError> {
        Vec::new()
    }

    /// Removes what interrupted puts left in a folder. Only for the owner of the folder, while no
    /// put into it runs.
    fn sweep(&self, folder: &str) -> Result<()>;
}
