//! Which losses an acknowledged write is promised to survive.
//!
//! *Holders* are the nodes that had promised to have the log: the node that served last and, while
//! the registry says `in_sync` of a synchronous DTL, its DTL node. A holder that lost power is
//! *damaged* until it is made whole: by opening the volume (what it has is the truth then), by a
//! new `in_sync`, or by a write that began after the loss and was acknowledged while `in_sync`.
//! When every holder is damaged, only what was flushed is promised. That may also come about when the
//! last words of an owner that lost power reach the registry, and say that its log is degraded: from
//! then on nobody else is known to have it.

use std::collections::{BTreeMap, BTreeSet};

use machines::dtl::State;
use machines::dtl::link::Mode;

use super::policy::Record;
use super::{Cluster, Host};

/// See the top of the file.
#[derive(Clone, Debug, Default)]
pub(super) struct Promise {
    /// Nodes that lost power, and when.
    damaged: BTreeMap<Host, u64>,
    /// A holder's disk was destroyed: what was flushed may be in a page cache only.
    pub(super) thin: bool,
    /// When every holder was damaged for the last time.
    pub(super) dark_at: u64,
}

fn holders(record: &Record) -> BTreeSet<Host> {
    let mut holders = BTreeSet::from([record.served]);
    if record.mode == Mode::Sync && record.state == State::InSync {
        holders.extend(record.keeper);
    }
    holders
}

impl Promise {
    pub(super) fn is_damaged(&self, node: Host) -> bool {
        self.damaged.contains_key(&node)
    }

    pub(super) fn opened(&mut self, node: Host) {
        self.damaged.remove(&node);
        self.thin = false;
    }

    /// The disk of a node may be destroyed: somebody else is promised to have everything.
    pub(super) fn may_destroy(&self, record: &Record, node: Host) -> bool {
        let holders = holders(record);
        let others = holders.iter().filter(|other| **other != node);
        let whole = others.filter(|other| !self.damaged.contains_key(other)).count() > 0;
        !self.thin && (whole || !holders.contains(&node))
    }

    pub(super) fn may_lose_power(&self, record: &Record, node: Host) -> bool {
        !self.thin || !holders(record).contains(&node)
    }

    pub(super) fn destroyed(&mut self, record: &Record, node: Host, now: u64) {
        self.thin |= record.served == node;
        self.damaged.insert(node, now);
    }
}

impl Cluster<'_> {
    pub(super) fn promise_changed(&mut self, before: &Record, after: &Record) {
        if after.state == State::InSync && before.state != State::InSync {
            for node in holders(after) {
                self.promise.damaged.remove(&node);
            }
            self.stats.in_sync += 1;
        }
        if after.saved && !before.saved {
            // Compaction may have moved something since it was drained: that changes nothing.
            self.witness.closed();
        }
        if after.served != before.served {
            self.promise.damaged.remove(&after.served);
            self.stats.handed_on += 1;
        }
        if self.all_damaged(after) && !self.all_damaged(before) {
            self.promise_darkens();
        }
    }

    fn all_damaged(&self, record: &Record) -> bool {
        holders(record).iter().all(|node| self.promise.damaged.contains_key(node))
    }

    /// A write that began at `began` is acknowledged.
    pub(super) fn promise_acknowledged(&mut self, began: u64) {
        let record = self.registry.record;
        if record.mode == Mode::Sync && record.state == State::InSync {
            self.promise.damaged.retain(|node, lost| {
                *lost >= began || !(record.keeper == Some(*node) || record.served == *node)
            });
        }
    }

    /// Nodes lose power, all at once.
    pub(super) fn promise_power_lost(&mut self, nodes: &[Host]) {
        for node in nodes {
            self.promise.damaged.insert(*node, self.now);
        }
        self.promise_darkens();
    }

    fn promise_darkens(&mut self) {
        if self.all_damaged(&self.registry.record) {
            self.say(format_args!("oracle: only what was flushed is promised"));
            self.oracle.blackout();
            self.witness.darkens();
            self.promise.dark_at = self.now;
            self.stats.blackouts += 1;
        }
    }
}
