//! What a volume has to contain: a plain array and the list of what clients asked for.
//!
//! The log keeps the order in which operations were submitted. Hence the whole promise fits in one
//! sentence: *at any time, and after any crash, the volume is what the first k operations made of
//! it*, for one k that is
//!
//! * not below `acked`: everything up to the last acknowledged operation, while the process lives
//!   and after `kill -9`;
//! * not below `floor`: everything up to what a flush (or FUA, or a finished snapshot verb)
//!   promised, after power loss.

use machines::volume::OpId;

/// Clusters of the modelled volume.
pub(super) const CLUSTERS: usize = 2;

/// What a cluster holds; 0 is never written. Every written cluster gets another value.
pub(super) type Value = u8;

/// What a client may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Request {
    /// Write `clusters` clusters from `lba`.
    Write {
        /// First cluster.
        lba: u8,
        /// Length.
        clusters: u8,
        /// Complete only when durable.
        fua: bool,
    },
    /// Trim one cluster.
    Trim {
        /// The cluster.
        lba: u8,
    },
    /// Flush.
    Flush,
    /// Take the snapshot of this number.
    Snapshot(u8),
    /// Delete it.
    DeleteSnapshot(u8),
    /// Go back to it.
    Revert(u8),
}

impl Request {
    /// Its acknowledgement promises that it survives power loss.
    pub(super) fn is_durable(self) -> bool {
        match self {
            Request::Write { fua, .. } => fua,
            Request::Trim { .. } => false,
            _ => true,
        }
    }
}

/// A volume with its snapshots, in order of creation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Content {
    pub(super) head: [Value; CLUSTERS],
    pub(super) snapshots: Vec<(u8, [Value; CLUSTERS])>,
}

impl Content {
    fn apply(&mut self, op: &Asked) {
        match op.request {
            Request::Write { lba, clusters, .. } => {
                for n in 0..clusters {
                    self.head[usize::from(lba + n)] = op.value + n;
                }
            }
            Request::Trim { lba } => self.head[usize::from(lba)] = 0,
            Request::Flush => {}
            Request::Snapshot(id) => {
                self.snapshots.retain(|(other, _)| *other != id);
                self.snapshots.push((id, self.head));
            }
            Request::DeleteSnapshot(id) => self.snapshots.retain(|(other, _)| *other != id),
            Request::Revert(id) => {
                if let Some((_, content)) = self.snapshots.iter().find(|(other, _)| *other == id) {
                    self.head = *content;
                }
            }
        }
    }
}

/// An operation that was submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Asked {
    pub(super) id: OpId,
    pub(super) request: Request,
    /// Value of its first cluster.
    pub(super) value: Value,
    /// A flush: operations that had been acknowledged when it was submitted.
    covers: usize,
}

/// The submitted operations and what was promised about them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Reference {
    /// What the operations before `asked` made.
    base: Content,
    asked: Vec<Asked>,
    /// Submitted, not answered, since the last crash.
    outstanding: Vec<Asked>,
    acked: usize,
    floor: usize,
}

impl Reference {
    pub(super) fn submit(&mut self, id: OpId, request: Request, value: Value) {
        let op = Asked { id, request, value, covers: self.acked };
        self.asked.push(op);
        self.outstanding.push(op);
    }

    /// Takes a completion; the operation, unless nobody waits for it.
    pub(super) fn complete(&mut self, id: OpId) -> Option<Asked> {
        let at = self.outstanding.iter().position(|op| op.id == id)?;
        let op = self.outstanding.remove(at);
        // An operation that is not listed any more was covered by an earlier promise.
        let place = self.asked.iter().position(|other| other.id == id).map_or(0, |at| at + 1);
        self.acked = self.acked.max(place);
        let promised = match op.request {
            Request::Flush => op.covers,
            other if other.is_durable() => place,
            _ => 0,
        };
        self.floor = self.floor.max(promised);
        Some(op)
    }

    pub(super) fn outstanding(&self) -> &[Asked] {
        &self.outstanding
    }

    /// What the first `k` operations make.
    fn after(&self, k: usize) -> Content {
        let mut content = self.base.clone();
        self.asked[..k].iter().for_each(|op| content.apply(op));
        content
    }

    /// The smallest k from `least` on whose content is `found`.
    fn find(&self, least: usize, found: &Content) -> Option<usize> {
        let mut content = self.after(least);
        let mut k = least;
        while content != *found {
            content.apply(self.asked.get(k)?);
            k += 1;
        }
        Some(k)
    }

    /// Is `found` what a running volume may show?
    pub(super) fn allows(&self, found: &Content) -> bool {
        self.find(self.acked, found).is_some()
    }

    /// Is `found` what may be left after power loss?
    pub(super) fn allows_after_power_loss(&self, found: &Content) -> bool {
        self.find(self.floor, found).is_some()
    }

    /// The process died and recovery found this; false when it may not be.
    pub(super) fn crash(&mut self, found: &Content, power: bool) -> bool {
        let least = if power { self.floor } else { self.acked };
        let Some(k) = self.find(least, found) else { return false };
        self.asked.truncate(k);
        self.outstanding.clear();
        self.acked = k;
        true
    }

    /// Merges what need not be told apart any more into the base.
    pub(super) fn forget(&mut self) {
        let gone = self.floor;
        for op in self.asked.drain(..gone) {
            self.base.apply(&op);
        }
        self.floor = 0;
        self.acked = self.acked.saturating_sub(gone);
        for op in self.asked.iter_mut().chain(&mut self.outstanding) {
            op.covers = op.covers.saturating_sub(gone);
        }
    }

    /// What is expected, for messages.
    pub(super) fn expected(&self, power: bool) -> String {
        let least = if power { self.floor } else { self.acked };
        let states: Vec<Content> = (least..=self.asked.len()).map(|k| self.after(k)).collect();
        format!("one of {states:?}")
    }
}
