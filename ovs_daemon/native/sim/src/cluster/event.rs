//! What happens, and when.

use std::collections::BTreeMap;

use super::Host;
use super::faults::Mend;
use super::registry::{Answer, Ask, Purpose};
use super::work::{Outcome, Work};

/// A timer of an open volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clock {
    /// The turn's end: what came becomes a batch.
    Turn,
    /// Time to try again what failed.
    Retry,
    /// Time to try deletes again.
    RetryDeletes,
    /// A sync has ended.
    Sync,
    /// Time to connect to the DTL node.
    Dial,
    /// The DTL node was away for long enough.
    Away,
    /// The DTL node did not answer.
    Answer,
}

/// One thing that happens. `life` is that of the process it belongs to: it dies with it.
#[derive(Debug)]
pub(super) enum Event {
    Wire {
        conn: u32,
        to: usize,
    },
    /// A question reaches the registry.
    Asked {
        from: Host,
        life: u32,
        purpose: Purpose,
        ask: Ask,
    },
    /// Its answer, or none, reaches who asked.
    Told {
        to: Host,
        life: u32,
        purpose: Purpose,
        answer: Option<Answer>,
    },
    /// A lease may be over.
    Expire,
    Beat {
        node: Host,
        life: u32,
    },
    Tend {
        node: Host,
        life: u32,
    },
    /// The node's own clock says that its lease is over.
    LeaseEnd {
        node: Host,
        life: u32,
    },
    /// Fetching the log takes too long.
    FetchPatience {
        node: Host,
        life: u32,
        conn: u32,
    },
    Propose {
        node: Host,
        life: u32,
    },
    Work {
        node: Host,
        life: u32,
        serial: u32,
        work: Work,
    },
    Worked {
        node: Host,
        life: u32,
        serial: u32,
        outcome: Outcome,
    },
    Timer {
        node: Host,
        life: u32,
        serial: u32,
        clock: Clock,
        token: u32,
    },
    /// A DTL node's fence is to be stored.
    Fence {
        node: Host,
        life: u32,
    },
    Boot {
        node: Host,
    },
    Guest,
    EdgeTimer {
        token: u32,
    },
    EdgePatience {
        conn: u32,
    },
    EdgeLost {
        generation: u32,
    },
    EdgeLook,
    Fault,
    /// An owner is kept from noticing that another node takes over.
    Usurp,
    Mend(Mend),
    Heal,
    Check,
}

impl Event {
    /// Whose process it needs, and in which life of that.
    pub(super) fn process(&self) -> Option<(Host, u32)> {
        match self {
            Event::Told { to, life, .. } => Some((*to, *life)),
            Event::Beat { node, life }
            | Event::Tend { node, life }
            | Event::LeaseEnd { node, life }
            | Event::FetchPatience { node, life, .. }
            | Event::Propose { node, life }
            | Event::Work { node, life, .. }
            | Event::Worked { node, life, .. }
            | Event::Timer { node, life, .. }
            | Event::Fence { node, life } => Some((*node, *life)),
            _ => None,
        }
    }
}

/// Events in the order of their time; of the same time in the order in which they were made.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: BTreeMap<(u64, u64), Event>,
    made: u64,
}

impl Queue {
    pub(super) fn put(&mut self, at: u64, event: Event) {
        self.made += 1;
        self.waiting.insert((at, self.made), event);
    }

    pub(super) fn take(&mut self) -> Option<(u64, Event)> {
        self.waiting.pop_first().map(|((at, _), event)| (at, event))
    }
}
