//! What the world of the DTL consists of: logs, nodes, connections, the registry, and the oracle.

use machines::dtl::keeper::Keeper;
use machines::dtl::link::Link;
use machines::dtl::{Held, Mark, State};

/// A batch is one write of the volume's only cluster, and a SCO of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Batch {
    pub(super) sequence: u8,
    pub(super) epoch: u8,
    pub(super) value: u8,
}

impl Batch {
    pub(super) fn mark(&self) -> Mark {
        let crc = u32::from(self.epoch) * 32 + u32::from(self.value) + 1;
        Mark { sequence: self.sequence.into(), crc }
    }
}

/// The end of a log.
pub(super) fn end_of(log: &[Batch]) -> Mark {
    log.last().map(Batch::mark).unwrap_or_default()
}

/// What a log makes of the volume.
pub(super) fn value_of(log: &[Batch]) -> u8 {
    log.last().map_or(0, |batch| batch.value)
}

/// What an owner sends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Frame {
    Hello {
        epoch: u8,
        generation: u32,
    },
    Resume,
    Fresh,
    /// A batch, and the one before it, which its header names.
    Append(Batch, Mark),
    Trim {
        below: u8,
    },
}

/// What a DTL node answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Reply {
    Greeted { held: Held, tail: Vec<Batch> },
    Acknowledged(u8),
    Refused,
    End,
}

/// A connection: what is on its way is delivered in order, or not at all.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pipe {
    pub(super) id: u32,
    pub(super) node: usize,
    /// Of the process that made it; the link's number of it.
    pub(super) epoch: u8,
    pub(super) generation: u32,
    pub(super) up: Vec<Frame>,
    pub(super) down: Vec<Reply>,
    pub(super) owner_open: bool,
    pub(super) keeper_open: bool,
}

/// A swap of the DTL's state on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ask {
    pub(super) to: State,
    pub(super) answer: Option<bool>,
}

/// A volume open, or being opened, on a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Process {
    pub(super) epoch: u8,
    /// `None`: it waits for the tail.
    pub(super) link: Option<Link>,
    /// It was the last owner: its own log may be taken when the DTL node's is suspect.
    pub(super) keep_local: bool,
    /// What its reads return: the batches that were released.
    pub(super) visible: u8,
    pub(super) leased: bool,
    pub(super) ask: Option<Ask>,
    pub(super) impatience: bool,
    /// Number of the connection that is to be made.
    pub(super) dial: Option<u32>,
    /// Next sequence to copy.
    pub(super) copying: Option<u8>,
}

/// A node that may own the volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Node {
    pub(super) log: Vec<Batch>,
    /// Batches of the log that survive loss of power.
    pub(super) synced: usize,
    pub(super) process: Option<Process>,
}

/// The DTL node and its disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tail {
    pub(super) keeper: Option<Keeper>,
    pub(super) fence: u8,
    pub(super) suspect: bool,
    pub(super) batches: Vec<Batch>,
    /// A fence on its way to the disk.
    pub(super) storing: Option<(u8, bool)>,
}

impl Tail {
    pub(super) fn held(&self) -> Held {
        Held {
            begin: self.batches.first().map_or(0, |batch| u64::from(batch.sequence) - 1),
            end: self.batches.last().map(Batch::mark),
            suspect: self.suspect,
        }
    }
}

/// The volume's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Registry {
    pub(super) owner: usize,
    /// The owner that served last: its write buffer is the newest.
    pub(super) served: usize,
    pub(super) epoch: u8,
    pub(super) state: State,
}

/// What a reader may see. Values are bits; 0 is what the volume had at first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Oracle {
    /// One of these is the last acknowledged write.
    possible: u16,
    /// Not acknowledged: they may come into force at any time, once.
    maybe: u16,
    /// What was in force at some time since the last flush.
    since_flush: u16,
    /// The client's write without an answer: value, node and epoch.
    pub(super) asked: Option<(u8, usize, u8)>,
}

impl Oracle {
    pub(super) fn new() -> Self {
        Oracle { possible: 1, maybe: 0, since_flush: 1, asked: None }
    }

    pub(super) fn write(&mut self, value: u8, node: usize, epoch: u8) {
        self.asked = Some((value, node, epoch));
        self.maybe |= 1 << value;
    }

    pub(super) fn acknowledged(&mut self, value: u8) {
        self.asked = None;
        if self.maybe & (1 << value) != 0 {
            self.maybe &= !(1 << value);
            self.possible = 1 << value;
        }
        self.since_flush |= self.possible;
    }

    pub(super) fn allows(&self, value: u8) -> bool {
        (self.possible | self.maybe) & (1 << value) != 0
    }

    pub(super) fn read(&mut self, value: u8) {
        self.maybe &= !(1 << value);
        self.possible = 1 << value;
        self.since_flush |= self.possible;
    }

    pub(super) fn flushed(&mut self) {
        self.since_flush = self.possible;
    }

    /// Everything lost power: what was flushed is in force, or something later.
    pub(super) fn blackout(&mut self) {
        self.possible = self.since_flush;
        self.asked = None;
    }
}
