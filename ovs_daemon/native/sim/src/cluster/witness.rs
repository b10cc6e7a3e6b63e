//! What is looked at in the moment when something is promised: the invariants of the DTL's worlds
//! (`worlds::dtl`), and one of the Edge's. A guest sees most mistakes there only when others come
//! on top; here the first one shows.
//!
//! Where disks lie nothing of this is promised.

use std::collections::BTreeMap;

use dtl::read_replica;
use format::edge::Command;
use machines::dtl::link::Mode;
use machines::dtl::{Mark, State};

use super::disk::Folder;
use super::link::Dtl;
use super::{Cluster, Host, LOG};

/// See the top of the file.
#[derive(Clone, Debug, Default)]
pub(super) struct Witness {
    /// The newest epoch that each DTL node has greeted.
    greeted: BTreeMap<Host, u64>,
    /// Where the log ended when it was opened, by epoch.
    opened: BTreeMap<u64, u64>,
    /// The last batch that was released to be acknowledged, and that no loss of power took.
    released: u64,
}

impl Witness {
    /// Power was lost wherever the log was.
    pub(super) fn darkens(&mut self) {
        self.released = 0;
    }

    /// Everything is on the backend, and the last batches say nothing new.
    pub(super) fn closed(&mut self) {
        self.released = 0;
    }

    /// The disk of a DTL node is a new one.
    pub(super) fn destroyed(&mut self, node: Host) {
        self.greeted.remove(&node);
    }
}

/// Two requests touch the same cluster.
fn overlap(a: &Command, b: &Command) -> bool {
    a.offset < b.offset + b.length && b.offset < a.offset + a.length
}

impl Cluster<'_> {
    /// The owner may acknowledge the batch that it appended last.
    pub(super) fn witness_release(&mut self, node: Host, dtl: &Dtl) {
        let Some(owner) = self.owner(node) else { return };
        let (epoch, saved) = (owner.epoch, owner.saved.sequence);
        let last = Mark { sequence: owner.tail.sequence, crc: owner.tail.crc };
        if self.plan.lying {
            return;
        }
        self.witness.released = self.witness.released.max(last.sequence);
        if dtl.link.mode() != Mode::Sync {
            return;
        }
        let record = self.registry.record;
        let alone = last.sequence > saved
            && !self.promise.is_damaged(dtl.keeper)
            && !self.keeper_has(dtl.keeper, last);
        if alone && record.epoch == epoch && record.state == State::InSync {
            let text = format!("node {node}: batch {}, and the record says in_sync", last.sequence);
            self.fail("a write is acknowledged alone only when the record says so", text);
        }
        let later = self.witness.opened.range(epoch + 1..).next();
        let taken = later.map(|(_, end)| *end < last.sequence);
        if record.epoch > epoch && taken.unwrap_or(alone) {
            let text = format!("node {node}: batch {} under epoch {epoch}", last.sequence);
            self.fail("one epoch acknowledges", text);
        }
    }

    fn keeper_has(&self, node: Host, last: Mark) -> bool {
        let files = Folder { disk: &self.nodes[node].disk, name: "dtl" };
        let held = match &self.nodes[node].kept {
            Some(kept) => Some(kept.held()),
            None => read_replica(&files, &LOG).ok().map(|read| read.held),
        };
        held.and_then(|held| held.end).is_some_and(|end| end.sequence >= last.sequence)
    }

    /// A node serves under this epoch what ends with this batch.
    pub(super) fn witness_opened(&mut self, node: Host, epoch: u64, end: u64) {
        if epoch < self.registry.record.epoch {
            // Its clock is so wrong that it does not know: it reads what was, and writes nothing.
            return;
        }
        let released = std::mem::replace(&mut self.witness.released, end);
        if end < released && !self.plan.lying {
            let text = format!("node {node}: the log ends at {end}, {released} was acknowledged");
            self.fail("who serves has every acknowledged write", text);
        }
        self.witness.opened.insert(epoch, end);
    }

    /// A DTL node answers an owner's hello.
    pub(super) fn witness_greet(&mut self, node: Host, epoch: u64) {
        let files = Folder { disk: &self.nodes[node].disk, name: "dtl" };
        let fence = read_replica(&files, &LOG).map_or(epoch, |read| read.fence.epoch);
        if fence < epoch && !self.plan.lying {
            let text = format!("node {node}: epoch {epoch}, its fence is {fence}");
            self.fail("a fence is stored before it is answered", text);
        }
        let greeted = self.witness.greeted.entry(node).or_default();
        *greeted = (*greeted).max(epoch);
    }

    /// A DTL node acknowledges a batch of this epoch.
    pub(super) fn witness_acknowledged(&mut self, node: Host, epoch: u64) {
        let greeted = self.witness.greeted.get(&node).copied().unwrap_or_default();
        if epoch < greeted && !self.plan.lying {
            let text = format!("node {node}: epoch {epoch}, after it has greeted {greeted}");
            self.fail("one epoch acknowledges", text);
        }
    }

    /// An Edge's request reaches an engine, which works at these.
    pub(super) fn witness_asked<'a>(
        &mut self,
        command: &Command,
        others: impl Iterator<Item = &'a Command>,
    ) {
        let writes = |one: &Command| one.verb.is_write();
        let mut others = others.filter(|other| writes(other) && overlap(command, other));
        if writes(command)
            && let Some(other) = others.next()
        {
            let text = format!("{command:?} and {other:?}");
            self.fail("overlapping writes of an Edge take turns", text);
        }
    }
}
