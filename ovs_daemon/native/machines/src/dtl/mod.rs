//! The Distributed Transaction Log: a second node keeps what is not yet on the backend.
//!
//! ```text
//!   owner                                             DTL node
//!   Link: may this batch be acknowledged? -- batch --> Keeper: does it continue what is held?
//!         which state has the registry?  <-- ack ---          is the sender's epoch the newest?
//!           |  swap of the DTL's state
//!           v
//!        registry
//! ```
//!
//! Both are pure. What they rest on:
//!
//! * A connection delivers frames in order, each once, or it breaks (TCP, RDMA's reliable
//!   connections). Nothing is assumed across connections: the end of an old one may be noticed long
//!   after a new one works.
//! * The registry's swap of a DTL state succeeds only while its caller is the owner of the epoch.
//!   Its answer may be lost; asking again for what is recorded already is a success.
//!
//! The explorer in `sim` checks what they promise together, with a mutant for each promise.

pub mod keeper;
pub mod link;
mod mutant;
#[cfg(test)]
mod tests;

pub use mutant::Mutant;

/// The last batch of a log, or of a part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mark {
    /// Its sequence; 0: there is none.
    pub sequence: u64,
    /// CRC of its header, which chains it to all that came before.
    pub crc: u32,
}

/// What a DTL node says that it holds of a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Held {
    /// Sequence of the last batch before the first one.
    pub begin: u64,
    /// The last batch; `None`: nothing.
    pub end: Option<Mark>,
    /// It lost power since it took them, or never knew the volume: batches may be missing at the
    /// end that it had acknowledged.
    pub suspect: bool,
}

/// The DTL's state as the registry records it. The names are those of the original.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// There is no DTL node.
    Standalone,
    /// The DTL node may lack acknowledged writes: only the owner may serve the volume.
    Degraded,
    /// The same, and it is being copied to.
    CatchingUp,
    /// The DTL node has every acknowledged write that is not on the backend.
    InSync,
}
