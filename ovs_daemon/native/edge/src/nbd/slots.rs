//! What is outstanding at the volumes: one slot for each request submitted.

use crate::flow::pool::Place;
pub(super) use crate::slab::Slab;

/// The slots of one server.
pub(super) type Slots = crate::slab::Slots<Slot>;

/// What a submitted request is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A write in one piece; its payload is `place`.
    Write,
    /// A piece of the write `whole`; its payload is `place`.
    WritePart { whole: u32 },
    /// Flush, trim, write zeroes: nothing but an errno comes back.
    Plain,
    /// A read in one piece; header and data are `place`.
    Read,
    /// A piece of the read `whole`; header and data are `place`.
    ReadPart { whole: u32 },
    /// A block status; `one`: a single extent.
    Status { one: bool },
}

/// One request at a volume.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) connection: u32,
    pub(super) kind: Kind,
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) place: Place,
}

/// A request that is served in several pieces.
#[derive(Debug, Default)]
pub(super) struct Whole {
    pub(super) cookie: u64,
    /// Pieces submitted and not completed.
    pub(super) pending: u32,
    /// More pieces are going to be submitted.
    pub(super) open: bool,
    /// First errno, or 0.
    pub(super) error: i32,
    /// It is a read, not a write.
    pub(super) is_read: bool,
    /// A flush must follow before the answer.
    pub(super) fua: bool,
    /// Pieces of a read that goes out as one simple reply, in order.
    pub(super) parts: Vec<Place>,
}
