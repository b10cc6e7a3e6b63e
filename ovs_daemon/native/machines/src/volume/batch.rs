//! Forming batches, and what an appended batch changes.

use alloc::vec::Vec;

use format::entry::Entry;

use super::{Action, Mutant, Op, OpId, Sco, Snapshot, Stage, Stall, Verb, Volume};
use crate::map::Loc;

/// Most slots of a batch header; with the clusters of a batch it stays below 16 pages.
const SLOTS_MAX: usize = 1024;

/// Where the data of a data entry comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Part {
    /// The operation that brought it.
    pub op: OpId,
    /// Clusters of the operation's data to skip.
    pub skip: u32,
    /// Clusters to take.
    pub clusters: u32,
}

/// What is appended in one piece.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Batch {
    /// Its place in the log's order, from 1.
    pub sequence: u64,
    /// The SCO it goes to.
    pub sco: u32,
    /// What happens, in order.
    pub entries: Vec<Entry>,
    /// The data of its data entries, in order.
    pub parts: Vec<Part>,
    /// Data clusters.
    pub clusters: u32,
    /// No batch follows in this SCO.
    pub closes: bool,
    /// Operations that complete with it; true: only when it is durable.
    completes: Vec<(OpId, bool)>,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.completes.is_empty()
    }

    fn data(&mut self, lba: u64, part: Part) {
        if let Some(Entry::Data { lba: first, clusters }) = self.entries.last_mut()
            && *first + u64::from(*clusters) == lba
        {
            *clusters += part.clusters;
        } else {
            self.entries.push(Entry::Data { lba, clusters: part.clusters });
        }
        self.clusters += part.clusters;
        self.parts.push(part);
    }
}

impl Volume {
    /// Makes a batch of what waits, when none is in flight and there is a SCO to take it.
    pub(super) fn form_batch(&mut self, out: &mut Vec<Action>) {
        if self.batch.is_some() {
            return;
        }
        let closing = self.must_close();
        if self.queue.is_empty() && self.relocations.is_empty() && !closing {
            return;
        }
        self.answer_leading_flushes(out);
        if self.queue.is_empty() && self.relocations.is_empty() && !closing {
            return;
        }
        let Some(sco) = self.open_sco(out) else {
            return;
        };
        let used = self.scos.get(&sco).map_or(0, |s| s.clusters);
        let room = self.limits.sco_clusters - used;
        let next = if self.is(Mutant::SkipSequence) { 2 } else { 1 };
        let mut batch = Batch { sequence: self.sequence + next, sco, ..Batch::default() };
        let full =
            self.take_relocations(&mut batch, room) || self.take_operations(&mut batch, room);
        if full || closing || self.fills(&batch) {
            batch.entries.push(Entry::Closed);
            batch.closes = true;
        }
        if batch.is_empty() {
            return;
        }
        if batch.entries.is_empty() {
            self.complete_dropped(&batch, out);
            return;
        }
        if self.is(Mutant::CompleteBeforeAppend) {
            out.extend(batch.completes.drain(..).map(|(id, _)| Action::Complete(id)));
        }
        self.batch = Some(batch);
        out.push(Action::Append);
    }

    /// The open SCO has to end although it is not full: a checkpoint waits for it, or its file
    /// can't be synced any more.
    fn must_close(&self) -> bool {
        let Some(sco) = self.open.and_then(|n| self.scos.get(&n)) else {
            return false;
        };
        sco.unsyncable || self.checkpoints.wants_close()
    }

    /// Flushes that nothing precedes need no batch.
    fn answer_leading_flushes(&mut self, out: &mut Vec<Action>) {
        while let Some(Op { id, verb: Verb::Flush }) = self.queue.front().copied() {
            self.queue.pop_front();
            self.wait_durable(self.sequence, id, out);
        }
    }

    /// Completes `id` when `durable` reaches `sequence`.
    fn wait_durable(&mut self, sequence: u64, id: OpId, out: &mut Vec<Action>) {
        if self.durable >= sequence || self.is(Mutant::FlushWithoutSync) {
            out.push(Action::Complete(id));
        } else {
            self.waiters.push_back((sequence, id));
        }
    }

    /// Relocations that became pointless before they were stored.
    fn complete_dropped(&mut self, batch: &Batch, out: &mut Vec<Action>) {
        out.extend(batch.completes.iter().map(|(id, _)| Action::Complete(*id)));
    }

    /// The SCO for the next batch; asks for one when there is none.
    fn open_sco(&mut self, out: &mut Vec<Action>) -> Option<u32> {
        if self.open.is_none()
            && let Some(Ok(sco)) = self.spare
        {
            self.spare = None;
            self.open = Some(sco);
        }
        let half = self.limits.sco_clusters / 2;
        let ample = self.open.and_then(|n| self.scos.get(&n)).is_some_and(|s| s.room < half);
        if self.spare.is_none() && !ample {
            self.ask_spare(out);
        }
        self.open
    }

    fn ask_spare(&mut self, out: &mut Vec<Action>) {
        let waiting = self.pending_scos;
        let empty = u32::from(self.open.is_some_and(|n| !self.scos.contains_key(&n)));
        if waiting + empty >= self.limits.buffer_scos {
            if self.open.is_none() {
                self.stall = Some(Stall::BackendBehind);
            }
            return;
        }
        if matches!(self.stall, Some(Stall::NoSpace | Stall::BufferError)) {
            return;
        }
        let sco = self.next_sco;
        if !self.is(Mutant::ReuseNumbers) {
            self.next_sco += 1;
        }
        self.spare = Some(Err(sco));
        out.push(Action::Open(sco));
    }

    pub(super) fn opened(&mut self, sco: u32) {
        if self.spare == Some(Err(sco)) {
            self.spare = Some(Ok(sco));
            self.stall = None;
        }
    }

    pub(super) fn open_failed(&mut self, sco: u32, no_space: bool, out: &mut Vec<Action>) {
        if self.spare == Some(Err(sco)) {
            self.spare = None;
            self.stall = Some(if no_space { Stall::NoSpace } else { Stall::BufferError });
            self.ask_retry(out);
        }
    }

    /// Fills the batch from the relocations. True: the SCO has no room for what comes next.
    fn take_relocations(&mut self, batch: &mut Batch, room: u32) -> bool {
        while let Some(Op { id, verb: Verb::Relocate { lba, clusters, from } }) =
            self.relocations.front().copied()
        {
            if batch.clusters + clusters > room {
                return true;
            }
            let full = batch.clusters + clusters > self.limits.batch_clusters;
            if full || batch.entries.len() + 2 > SLOTS_MAX / 2 {
                return false;
            }
            self.relocations.pop_front();
            let mut pieces = Vec::new();
            self.map.runs(lba, u64::from(clusters), &mut |at, len, loc| {
                let skip = (at - lba) as u32;
                let expected = from.plus(skip);
                if let Some(loc) = loc {
                    // A run of the map may begin before or run past what is asked; it is cut.
                    if loc == expected {
                        pieces.push((at, Part { op: id, skip, clusters: len as u32 }));
                    }
                }
            });
            if self.is(Mutant::RelocateBlindly) {
                pieces.clear();
                pieces.push((lba, Part { op: id, skip: 0, clusters }));
            }
            for (at, part) in pieces {
                batch.data(at, part);
            }
            batch.completes.push((id, false));
        }
        false
    }

    /// Fills the batch from the queue. True: the SCO has no room for what comes next.
    fn take_operations(&mut self, batch: &mut Batch, room: u32) -> bool {
        while let Some(op) = self.queue.front().copied() {
            if batch.entries.len() + 4 > SLOTS_MAX / 2 {
                return false;
            }
            let durable = match op.verb {
                Verb::Write { lba, clusters, fua } => {
                    if batch.clusters + clusters > room {
                        return true;
                    }
                    if batch.clusters + clusters > self.limits.batch_clusters {
                        return false;
                    }
                    batch.data(lba, Part { op: op.id, skip: 0, clusters });
                    fua && !self.is(Mutant::FuaWithoutSync)
                }
                Verb::Trim { lba, clusters, fua } => {
                    batch.entries.push(Entry::Trim { lba, clusters });
                    fua
                }
                Verb::Flush => true,
                Verb::Snapshot(id) => {
                    batch.entries.push(Entry::SnapshotCreated(id));
                    true
                }
                Verb::DeleteSnapshot(id) => {
                    batch.entries.push(Entry::SnapshotDeleted(id));
                    true
                }
                Verb::Revert(id) => {
                    batch.entries.push(Entry::Reverted(id));
                    true
                }
                Verb::Relocate { .. } => false,
            };
            self.queue.pop_front();
            batch.completes.push((op.id, durable));
            // A snapshot ends its SCO, so that its position is a whole number of SCOs.
            if matches!(op.verb, Verb::Snapshot(_)) && !self.is(Mutant::SnapshotWithoutClosing) {
                return true;
            }
        }
        false
    }

    pub(super) fn appended(&mut self, out: &mut Vec<Action>) {
        let Some(batch) = self.batch.take() else {
            return;
        };
        self.sequence = batch.sequence;
        self.beside = self.beside.with(&batch);
        self.pending_scos += u32::from(!self.scos.contains_key(&batch.sco));
        let sco = self.scos.entry(batch.sco).or_insert(Sco {
            stage: Stage::Open,
            clusters: 0,
            room: 0,
            live: 0,
            last_sequence: 0,
            unsyncable: false,
            stuck: false,
        });
        let mut ordinal = sco.clusters;
        sco.clusters += batch.clusters;
        sco.last_sequence = batch.sequence;
        let before = sco.room;
        sco.room = self.beside.room(sco.clusters, self.limits.sco_clusters);
        self.pending_room += u64::from(sco.room - before);
        for entry in &batch.entries {
            self.apply(entry, batch.sco, &mut ordinal);
        }
        for (id, durable) in &batch.completes {
            if *durable {
                self.wait_durable(batch.sequence, *id, out);
            } else {
                let times = if self.is(Mutant::AnswerTwice) { 2 } else { 1 };
                out.extend(core::iter::repeat_n(Action::Complete(*id), times));
            }
        }
        if batch.closes {
            self.closed(batch.sco);
        }
    }

    fn apply(&mut self, entry: &Entry, sco: u32, ordinal: &mut u32) {
        match *entry {
            Entry::Data { lba, clusters } => {
                let loc = Loc { log: self.own_log, sco, ordinal: *ordinal as u16 };
                *ordinal += clusters;
                self.change(lba, clusters, Some(loc));
            }
            Entry::Trim { lba, clusters } => {
                if !self.is(Mutant::ForgetTrim) {
                    self.change(lba, clusters, None);
                }
            }
            Entry::SnapshotCreated(id) => {
                self.snapshots.retain(|s| s.id != id);
                self.snapshots.push(Snapshot { id, position: sco, map: self.map.clone() });
            }
            Entry::SnapshotDeleted(id) => {
                let before = self.snapshots.len();
                self.snapshots.retain(|s| s.id != id);
                if self.snapshots.len() < before {
                    self.checkpoints.want();
                }
            }
            Entry::Reverted(id) => {
                if let Some(snapshot) = self.snapshots.iter().find(|s| s.id == id) {
                    self.map = snapshot.map.clone();
                    self.count_live();
                }
            }
            Entry::Closed => {}
        }
    }

    /// Changes the map and the counts of live clusters.
    fn change(&mut self, lba: u64, clusters: u32, to: Option<Loc>) {
        let (own, scos) = (self.own_log, &mut self.scos);
        let mut displaced = |loc: Loc, len: u32| {
            if loc.log == own
                && let Some(sco) = scos.get_mut(&loc.sco)
            {
                sco.live = sco.live.saturating_sub(len);
            }
        };
        match to {
            Some(loc) => {
                // The shell refuses ranges outside the volume, so that the map takes every range.
                let set = self.map.set(lba, clusters, loc, &mut displaced);
                if let (Ok(()), Some(sco)) = (set, self.scos.get_mut(&loc.sco)) {
                    sco.live += clusters;
                }
            }
            None => self.map.unset(lba, u64::from(clusters), &mut displaced),
        }
    }

    /// Counts live clusters from the map: after open and after a revert.
    pub(super) fn count_live(&mut self) {
        let counts = crate::map::count_refs(&[&self.map], self.own_log);
        for (number, sco) in &mut self.scos {
            sco.live = counts.get(number).copied().unwrap_or(0);
        }
    }

    pub(super) fn append_failed(&mut self, no_space: bool, out: &mut Vec<Action>) {
        self.append_failed = true;
        self.stall = Some(if no_space { Stall::NoSpace } else { Stall::BufferError });
        self.ask_retry(out);
    }
}
