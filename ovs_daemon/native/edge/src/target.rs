//! What a front end talks to: volumes that take requests and complete them later.
//!
//! In the engine's shard the targets are the volumes themselves; in `vstorage-edge` they are
//! sessions over shared memory. A front end never waits: it submits, and is told the outcome in a
//! later turn of the same loop.

use media::Slice;

/// Index of an open volume within this loop (not a UUID; given when the volume is attached).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VolumeId(pub u32);

/// Who asked: the front end's own identifier of one request. Returned untouched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// What is asked. Offsets and lengths are bytes; any alignment is allowed (whole 4 KiB clusters
/// are fast, parts of clusters are read-modify-write inside the volume).
#[derive(Clone, Debug)]
pub enum Verb {
    /// Fill the slice from `offset`. Its length is the length of the read.
    Read(Slice),
    /// Write the slice at `offset`; `fua`: durable before completion.
    Write { data: Slice, fua: bool },
    /// The range may be forgotten; it reads as zeroes afterwards.
    Trim { len: u64, fua: bool },
    /// The range reads as zeroes afterwards.
    WriteZeroes { len: u64, fua: bool },
    /// Everything completed before this request was submitted is durable at completion.
    Flush,
    /// Describe the allocation of `len` bytes from `offset` (NBD base:allocation).
    BlockStatus { len: u32 },
}

/// One request to one volume.
#[derive(Clone, Debug)]
pub struct Request {
    /// Returned with the outcome.
    pub id: RequestId,
    /// First byte.
    pub offset: u64,
    /// What to do.
    pub verb: Verb,
}

/// One extent of a block status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes.
    pub len: u32,
    /// True: nothing is stored there, it reads as zeroes (NBD_STATE_HOLE | NBD_STATE_ZERO).
    pub hole: bool,
}

/// How a request ended. A volume that cannot serve now (full, owner gone) does not answer at all
/// until it can: guests wait, they do not see errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Done,
    /// Done, with these extents, in order, covering the whole range asked for.
    Extents(Vec<Extent>),
    /// Refused or failed: a positive errno (EINVAL outside the volume, EPERM read-only, EIO data
    /// that fails its checksum).
    Failed(i32),
}

/// A request that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The request's identifier.
    pub id: RequestId,
    /// How it ended.
    pub outcome: Outcome,
}

/// What a front end must know of a volume before it can serve it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeInfo {
    /// Bytes; a multiple of 4096.
    pub size: u64,
    /// Writes are refused with EPERM.
    pub read_only: bool,
}

/// The volumes of this loop.
pub trait Targets {
    /// Size and mode now (a resize changes it); `None`: no such volume any more.
    fn info(&self, volume: VolumeId) -> Option<VolumeInfo>;

    /// Takes a request. Requests submitted within one turn of the loop form one batch; the loop
    /// calls the targets once per turn after all front ends have submitted. Completions are given
    /// to the front end by the loop (`complete`), never from inside `submit`.
    fn submit(&mut self, volume: VolumeId, request: Request);
}
