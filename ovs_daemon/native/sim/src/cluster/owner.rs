//! A node that has the volume open: performs what `machines::volume` asks for, as
//! `volume::perform`, `volume::reads` and `volume::moves` do, on a simulated disk.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem;

use buffer::files::{Cause, Files};
use buffer::{NewBatch, ScoIndex, Tail};
use format::crc32c;
use format::edge::{Command, Verb};
use format::log::PAGE;
use format::object::ObjectIndex;
use machines::dtl::Mark;
use machines::dtl::link::{Message as LinkMessage, Reason, Saved};
use machines::edge::Door;
use machines::map::Loc;
use machines::volume::{Action, Message, Op, OpId, Verb as LogVerb, Volume as Machine};
use volume::NewCheckpoint;

use super::disk::{Folder, Ticket};
use super::event::{Clock, Event};
use super::link::Dtl;
use super::reads::Read;
use super::sessions::Session;
use super::work::{Outcome, Work, sco_path};
use super::{Cluster, Host, LOG, MS, NAME};

/// An operation that the machine has.
pub(super) struct Pending {
    /// Whose: connection and tag; `None`: compaction's.
    pub(super) from: Option<(u32, u32)>,
    data: Vec<u8>,
}

/// Clusters that compaction moves.
struct Run {
    lba: u64,
    clusters: u32,
    from: Loc,
}

/// See the top of the file.
pub(super) struct Owner {
    /// Which opening of this node it is.
    pub(super) serial: u32,
    pub(super) epoch: u64,
    pub(super) machine: Machine,
    pub(super) tail: Tail,
    /// SCO files in the write buffer.
    pub(super) index: BTreeMap<u32, ScoIndex>,
    pub(super) open: Option<u32>,
    /// The batch that was appended last, as it lies in its file.
    pub(super) last_batch: Vec<u8>,
    pub(super) saved: Saved,
    checkpoints: BTreeSet<u64>,
    next_checkpoint: u64,
    last_crcs: BTreeMap<u32, u32>,
    pub(super) ops: BTreeMap<OpId, Pending>,
    next_op: OpId,
    pub(super) reads: BTreeMap<u64, Read>,
    pub(super) dtl: Option<Box<Dtl>>,
    pub(super) stopped: Option<Reason>,
    /// It is being closed: nothing is begun any more (`volume::Volume::halt`).
    pub(super) halted: bool,
    /// It is handed over: it takes no request any more.
    pub(super) quiesced: bool,
    pub(super) door: Door,
    pub(super) sessions: BTreeMap<u32, Session>,
    sync: Option<(u64, Ticket)>,
    turn_asked: bool,
    runs: VecDeque<Run>,
    compacting: Option<u32>,
    moving: Option<Run>,
    pub(super) drained: bool,
}

impl Owner {
    pub(super) fn new(serial: u32, found: volume::Found, machine: Machine, door: Door) -> Self {
        let index = found.buffer.scos.into_iter().map(|sco| (sco.sco, sco.index)).collect();
        Owner {
            serial,
            epoch: found.tail.epoch,
            machine,
            tail: found.tail,
            index,
            open: None,
            last_batch: Vec::new(),
            saved: found.saved,
            checkpoints: found.checkpoints,
            next_checkpoint: found.next_checkpoint,
            last_crcs: found.last_crcs,
            ops: BTreeMap::new(),
            next_op: 0,
            reads: BTreeMap::new(),
            dtl: None,
            stopped: None,
            halted: false,
            quiesced: false,
            door,
            sessions: BTreeMap::new(),
            sync: None,
            turn_asked: false,
            runs: VecDeque::new(),
            compacting: None,
            moving: None,
            drained: false,
        }
    }

    /// It begins nothing and answers nobody any more.
    fn is_over(&self) -> bool {
        self.halted || self.stopped.is_some()
    }

    /// The data of the batch in flight.
    fn gather(&self) -> Vec<u8> {
        let mut data = Vec::new();
        for part in self.machine.batch().iter().flat_map(|batch| &batch.parts) {
            if let Some(op) = self.ops.get(&part.op) {
                let from = part.skip as usize * PAGE;
                data.extend_from_slice(&op.data[from..from + part.clusters as usize * PAGE]);
            }
        }
        data
    }

    fn submit(&mut self, from: Option<(u32, u32)>, data: Vec<u8>, verb: LogVerb) -> Message {
        self.next_op += 1;
        let id = self.next_op;
        self.ops.insert(id, Pending { from, data });
        Message::Submit(Op { id, verb })
    }

    /// Files that hold batches in `(after, through]`.
    fn files_between(&self, after: u64, through: u64) -> Vec<String> {
        let wanted = self
            .index
            .iter()
            .filter(|(_, index)| index.last_sequence > after && index.previous_sequence < through);
        wanted.map(|(sco, _)| format!("buffer/{}", sco_path(*sco))).collect()
    }
}

impl Cluster<'_> {
    pub(super) fn owner(&mut self, node: Host) -> Option<&mut Owner> {
        self.nodes[node].owner.as_deref_mut()
    }

    /// Gives the machine a message and does what follows from it, to the end.
    pub(super) fn run(&mut self, node: Host, message: Message) {
        let Some(owner) = self.owner(node) else { return };
        if owner.is_over() {
            return;
        }
        let mut actions = Vec::new();
        owner.machine.step(message, &mut actions);
        let mut next = 0;
        while let Some(action) = actions.get(next).copied() {
            next += 1;
            if let Some(answer) = self.perform(node, action)
                && let Some(owner) = self.owner(node)
            {
                owner.machine.step(answer, &mut actions);
            }
        }
    }

    fn perform(&mut self, node: Host, action: Action) -> Option<Message> {
        let serial = self.owner(node)?.serial;
        match action {
            Action::Append => return self.append(node),
            Action::Complete(id) => self.complete(node, id),
            Action::Open(sco) => self.job(node, serial, Work::Open { sco }),
            Action::Sync { after, through } => return self.start_sync(node, after, through),
            Action::Upload(sco) => return self.start_upload(node, sco),
            Action::Evict(sco) => {
                self.owner(node)?.index.remove(&sco);
                self.job(node, serial, Work::Unlink { sco });
            }
            Action::Checkpoint => return self.start_checkpoint(node),
            Action::Delete(sco) => self.job(node, serial, Work::Delete { sco }),
            Action::Compact(sco) => {
                self.owner(node)?.compacting = Some(sco);
                self.job(node, serial, Work::Index { sco });
            }
            Action::Retry => self.timer(node, Clock::Retry, 300 * MS, 0),
            Action::RetryDeletes { doublings } => {
                self.timer(node, Clock::RetryDeletes, (300 * MS) << doublings, 0);
            }
            // Nobody asks for it here.
            Action::Settled => {}
            Action::Drained => {
                self.owner(node)?.drained = true;
                self.tend_soon(node);
            }
        }
        None
    }

    /// Sets a timer of the open volume.
    pub(super) fn timer(&mut self, node: Host, clock: Clock, after: u64, token: u32) {
        let Some(serial) = self.owner(node).map(|owner| owner.serial) else { return };
        let (at, life) = (self.now + after, self.life(node));
        self.at(at, Event::Timer { node, life, serial, clock, token });
    }

    /// The turn ends soon: what comes until then shares a batch.
    pub(super) fn ask_turn(&mut self, node: Host) {
        let Some(owner) = self.owner(node) else { return };
        if !mem::replace(&mut owner.turn_asked, true) {
            let after = self.random.below(200);
            self.timer(node, Clock::Turn, after, 0);
        }
    }

    /// A timer of the open volume has run out.
    pub(super) fn time(&mut self, node: Host, clock: Clock, token: u32) {
        match clock {
            Clock::Turn => {
                if let Some(owner) = self.owner(node) {
                    owner.turn_asked = false;
                }
                self.run(node, Message::Turn);
                self.link_step(node, None);
            }
            Clock::Retry => {
                self.run(node, Message::Retry);
                self.retry_reads(node);
            }
            Clock::RetryDeletes => self.run(node, Message::RetryDeletes),
            Clock::Sync => self.sync_done(node),
            Clock::Dial | Clock::Away | Clock::Answer => self.link_time(node, clock, token),
        }
    }

    /// `None`: the batch is appended and waits for the DTL.
    fn append(&mut self, node: Host) -> Option<Message> {
        let owner = self.owner(node)?;
        let data = owner.gather();
        let Some(batch) = owner.machine.batch().cloned() else {
            return Some(Message::AppendFailed { no_space: false });
        };
        let crcs: Vec<u32> = data.chunks_exact(PAGE).map(crc32c).collect();
        let new = NewBatch {
            sco: batch.sco,
            sequence: batch.sequence,
            durable_sequence: owner.machine.durable(),
            entries: &batch.entries,
            crcs: &crcs,
        };
        let index = owner.index.get(&batch.sco).cloned().unwrap_or_default();
        let (mut header, mut scratch) = (Vec::new(), Vec::new());
        let tail = owner.tail.encode(&new, &index, &mut header, &mut scratch);
        let at = u64::from(index.end_page) * PAGE as u64;
        let files = Folder { disk: &self.nodes[node].disk, name: "buffer" };
        if let Err(error) = files.write_at(&sco_path(batch.sco), at, &[&header, &data]) {
            self.say(format_args!("node {node}: {error}"));
            return Some(Message::AppendFailed { no_space: error.cause == Cause::NoSpace });
        }
        let owner = self.owner(node)?;
        let index = owner.index.entry(batch.sco).or_default();
        if index.end_page == 0 {
            index.previous_sequence = owner.tail.sequence;
            index.end_page = 1;
        }
        index.add(&batch.entries, &crcs, (scratch.len() / PAGE) as u32);
        (index.epoch, index.last_sequence, index.last_crc) = (tail.epoch, tail.sequence, tail.crc);
        owner.open = (!batch.closes).then_some(batch.sco);
        if batch.closes {
            owner.last_crcs.insert(batch.sco, tail.crc);
        }
        owner.tail = tail;
        header.extend_from_slice(&data);
        owner.last_batch = header;
        if owner.dtl.is_none() {
            return Some(Message::Appended);
        }
        let mark = Mark { sequence: tail.sequence, crc: tail.crc };
        self.link_released(node, Some(LinkMessage::Appended(mark))).then_some(Message::Appended)
    }

    fn start_sync(&mut self, node: Host, after: u64, through: u64) -> Option<Message> {
        let paths = self.owner(node)?.files_between(after, through);
        if paths.is_empty() {
            return Some(Message::Synced { through });
        }
        let ticket = self.nodes[node].disk.begin_sync(&paths);
        self.owner(node)?.sync = Some((through, ticket));
        let usual = 200 + self.random.below(3 * MS);
        let after = self.disk_delay(node, usual);
        self.timer(node, Clock::Sync, after, 0);
        None
    }

    fn sync_done(&mut self, node: Host) {
        let Some((through, ticket)) = self.owner(node).and_then(|owner| owner.sync.take()) else {
            return;
        };
        let synced = self.nodes[node].disk.end_sync(ticket);
        let message = if synced { Message::Synced { through } } else { Message::SyncFailed };
        self.run(node, message);
    }

    fn start_upload(&mut self, node: Host, sco: u32) -> Option<Message> {
        let owner = self.owner(node)?;
        let serial = owner.serial;
        let Some(index) = owner.index.get(&sco).cloned() else {
            return Some(Message::UploadFailed { sco });
        };
        let may = |dtl: &Dtl| dtl.link.may_upload(index.last_sequence);
        if !owner.dtl.as_deref().is_none_or(may) {
            return Some(Message::UploadFailed { sco });
        }
        self.job(node, serial, Work::Upload { sco, index });
        None
    }

    fn start_checkpoint(&mut self, node: Host) -> Option<Message> {
        let owner = self.owner(node)?;
        let taken = owner.machine.taken()?.clone();
        let Some(last_crc) = owner.last_crcs.get(&taken.position).copied() else {
            return Some(Message::CheckpointFailed);
        };
        let number = owner.next_checkpoint;
        owner.next_checkpoint += 1;
        let new = NewCheckpoint {
            taken,
            log: LOG,
            log_text: NAME.to_owned(),
            ancestors: vec![(LOG, NAME.to_owned())],
            own_log: 0,
            epoch: owner.epoch,
            number,
            last_crc,
            existing: owner.checkpoints.clone(),
            pinned: false,
        };
        let serial = owner.serial;
        self.job(node, serial, Work::Checkpoint(Box::new(new)));
        None
    }

    /// A worker thread has done a job.
    pub(super) fn worked(&mut self, node: Host, outcome: Outcome) {
        if self.owner(node).is_none_or(|owner| owner.is_over()) {
            return;
        }
        let message = match outcome {
            Outcome::Opened { sco, failed: None } => Message::Opened { sco },
            Outcome::Opened { sco, failed: Some(no_space) } => {
                Message::OpenFailed { sco, no_space }
            }
            Outcome::Uploaded { sco, stored: true } => {
                if let Some(owner) = self.owner(node) {
                    let last = owner.machine.scos().get(&sco).map_or(0, |sco| sco.last_sequence);
                    owner.saved = Saved { below: sco + 1, sequence: last };
                    let saved = owner.saved;
                    self.link_step(node, Some(LinkMessage::Saved(saved)));
                }
                Message::Uploaded { sco }
            }
            Outcome::Uploaded { sco, stored: false } => Message::UploadFailed { sco },
            Outcome::Unlinked => return,
            Outcome::Checkpointed(Some((referenced, existing))) => {
                if let Some(owner) = self.owner(node) {
                    owner.checkpoints = existing;
                }
                Message::CheckpointStored { referenced }
            }
            Outcome::Checkpointed(None) => Message::CheckpointFailed,
            Outcome::Deleted { sco, deleted: true } => Message::Deleted { sco },
            Outcome::Deleted { sco, deleted: false } => Message::DeleteFailed { sco },
            Outcome::Fetched { read, got } => return self.fetched(node, read, got),
            Outcome::BatchesRead { generation, bytes } => {
                return self.batches_read(node, generation, bytes);
            }
            Outcome::Indexed(index) => {
                if let Some(index) = index {
                    self.list_live(node, &index);
                }
                return self.next_move(node);
            }
        };
        self.run(node, message);
    }

    /// A request of a session.
    pub(super) fn submit(&mut self, node: Host, conn: u32, command: &Command, data: Vec<u8>) {
        let (lba, clusters) = (command.offset / PAGE as u64, command.length / PAGE as u64);
        let fua = command.is_fua();
        let verb = match command.verb {
            Verb::Read => return self.start_read(node, (conn, command.tag), lba, clusters),
            Verb::Write => LogVerb::Write { lba, clusters: clusters as u32, fua },
            Verb::Trim | Verb::WriteZeroes => LogVerb::Trim { lba, clusters: clusters as u32, fua },
            Verb::Flush | Verb::BlockStatus => LogVerb::Flush,
        };
        let Some(owner) = self.owner(node) else { return };
        let message = owner.submit(Some((conn, command.tag)), data, verb);
        self.run(node, message);
        self.ask_turn(node);
    }

    fn complete(&mut self, node: Host, id: OpId) {
        let Some(op) = self.owner(node).and_then(|owner| owner.ops.remove(&id)) else { return };
        match op.from {
            Some((conn, tag)) => self.answer_request(node, conn, tag, 0, Vec::new()),
            None => self.next_move(node),
        }
    }

    fn list_live(&mut self, node: Host, index: &ObjectIndex) {
        let Some(owner) = self.owner(node) else { return };
        let Some(sco) = owner.compacting else { return };
        let mut ordinal = 0u32;
        let run_max = u64::from(owner.machine.limits().op_clusters);
        let (map, runs) = (owner.machine.map(), &mut owner.runs);
        for entry in &index.entries {
            let format::entry::Entry::Data { lba, clusters } = *entry else { continue };
            let first = ordinal;
            ordinal += clusters;
            map.runs(lba, clusters.into(), &mut |at, len, loc| {
                let from = Loc { log: 0, sco, ordinal: (first + (at - lba) as u32) as u16 };
                let mut done = 0;
                while loc == Some(from) && done < len {
                    let clusters = (len - done).min(run_max) as u32;
                    runs.push_back(Run { lba: at + done, clusters, from: from.plus(done as u32) });
                    done += u64::from(clusters);
                }
            });
        }
    }

    /// Starts the next run of a compaction, or ends it.
    fn next_move(&mut self, node: Host) {
        let Some(owner) = self.owner(node) else { return };
        let Some(sco) = owner.compacting else { return };
        match owner.runs.pop_front() {
            None => {
                owner.compacting = None;
                self.run(node, Message::Compacted { sco });
            }
            Some(run) => {
                let (lba, from, clusters) = (run.lba, run.from, u64::from(run.clusters));
                owner.moving = Some(run);
                self.start_move(node, lba, from, clusters);
            }
        }
    }

    /// The clusters of a run are there: give them to the log.
    pub(super) fn moved(&mut self, node: Host, data: Option<Vec<u8>>) {
        let Some(owner) = self.owner(node) else { return };
        let Some(Run { lba, clusters, from }) = owner.moving.take() else { return };
        let Some(data) = data else { return self.next_move(node) };
        let message = owner.submit(None, data, LogVerb::Relocate { lba, clusters, from });
        self.run(node, message);
        self.ask_turn(node);
    }
}
