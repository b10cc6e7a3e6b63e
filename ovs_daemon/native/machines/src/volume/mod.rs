//! The owner of a volume: what happens to a write, from being asked for to being forgotten.
//!
//! ```text
//! Submit -> queue -> (Turn) batch -> Append -> Appended: map updated, writes completed
//!                                     |
//!                 Sync -> Synced: flushes completed; closed SCOs may be uploaded
//!                                     |
//!                 Upload -> Uploaded: object is safe; the local file may be evicted
//!                                     |
//!     Checkpoint -> CheckpointStored: open need not replay what came before;
//!                                     SCOs that the checkpoint does not refer to are deleted
//! ```
//!
//! Rules that everything rests on (the explorer in `sim` checks each, with a mutant that breaks it):
//!
//! * One batch is in flight at a time, sequences are dense, a batch is in one SCO.
//! * A flush completes when `durable` reached every batch that was appended before it.
//! * `durable` grows in log order only: by a sync of all files up to there, or by uploads.
//! * An object is stored only of a SCO that is durable (or whose file can't be synced any more),
//!   in log order: so after power loss the log has no hole.
//! * A file leaves the write buffer only after its object is stored.
//! * A checkpoint holds only what is on the backend, and an object is deleted only when the last
//!   stored checkpoint covers it and refers to it from no map. References to a closed SCO never
//!   come back, except through a snapshot, and snapshots are in every checkpoint.
//! * Few objects are being deleted at a time, and each refusal makes the pause before the next try
//!   longer: what can't be deleted never stands in the way of uploads.
//! * Relocations (compaction) go to the front of a batch and only as far as the map still agrees.

mod batch;
mod checkpoint;
mod deletion;
mod durability;
mod mutant;
mod room;
#[cfg(test)]
mod tests;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

pub use batch::{Batch, Part};
pub use checkpoint::Taken;
use format::entry::Uuid;
pub use mutant::Mutant;

use crate::map::{Loc, Map};

/// The shell's name for an operation; returned with its completion.
pub type OpId = u32;

/// What can be asked of the log. Ranges are whole clusters of 4 KiB; the shell turns parts of
/// clusters into whole ones before (read-modify-write).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Store clusters; the shell holds their bytes. At most [`Limits::op_clusters`].
    Write {
        /// First cluster.
        lba: u64,
        /// Length.
        clusters: u32,
        /// Complete only when durable.
        fua: bool,
    },
    /// Forget clusters.
    Trim {
        /// First cluster.
        lba: u64,
        /// Length.
        clusters: u32,
        /// Complete only when durable.
        fua: bool,
    },
    /// Move live clusters out of a SCO: as a write, where the map still has `from`. The data must
    /// be what lies at `from`, whatever the map had at `lba` when it was read: a revert may bring
    /// `from` back after something else took its place.
    Relocate {
        /// First cluster.
        lba: u64,
        /// Length.
        clusters: u32,
        /// Where they are now (consecutive ordinals).
        from: Loc,
    },
    /// Complete when everything appended before is durable.
    Flush,
    /// Keep the present content under this UUID. Completes when durable.
    Snapshot(Uuid),
    /// Forget a snapshot. Completes when durable; an unknown one is fine.
    DeleteSnapshot(Uuid),
    /// Make a snapshot's content the present one. Completes when durable.
    Revert(Uuid),
}

/// An operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Op {
    /// The shell's name for it.
    pub id: OpId,
    /// What is asked.
    pub verb: Verb,
}

/// Sizes that decide when things happen. Set once, at open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Data clusters of a SCO, 1..=65536. It is also full with as many header pages.
    pub sco_clusters: u32,
    /// SCOs that may wait for the backend; with more, writes wait.
    pub buffer_scos: u32,
    /// Uploaded SCOs kept in the write buffer as a read cache: as much as this many full ones.
    /// Small ones (compaction and snapshots close SCOs early) count for what they hold.
    pub keep_scos: u32,
    /// SCOs closed between two checkpoints.
    pub checkpoint_scos: u32,
    /// Data clusters of a batch.
    pub batch_clusters: u32,
    /// Data clusters of one operation; not more than `sco_clusters` or `batch_clusters`.
    pub op_clusters: u32,
    /// Compact SCOs with at most this share of live clusters, in percent. 0: never.
    pub compact_percent: u32,
    /// Objects that are being deleted at a time, at least 1.
    pub deletes: u32,
}

/// What the outside reports.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    /// A client's operation.
    Submit(Op),
    /// The loop's turn is over: what was submitted may become a batch.
    Turn,
    /// The batch in flight is in the write buffer (page cache).
    Appended,
    /// It is not, or not wholly.
    AppendFailed {
        /// The device is full; anything else is an I/O error.
        no_space: bool,
    },
    /// An empty file for this SCO exists, durably.
    Opened {
        /// Its number.
        sco: u32,
    },
    /// It could not be made.
    OpenFailed {
        /// Its number.
        sco: u32,
        /// The device is full, or its reserve is reached.
        no_space: bool,
    },
    /// All batches up to `through` are on the local device.
    Synced {
        /// As asked for.
        through: u64,
    },
    /// A sync failed: what it should have covered is not to be trusted to the local device.
    SyncFailed,
    /// The SCO's object is stored, durably.
    Uploaded {
        /// Its number.
        sco: u32,
    },
    /// It may or may not be.
    UploadFailed {
        /// Its number.
        sco: u32,
    },
    /// The checkpoint is stored, durably.
    CheckpointStored {
        /// Clusters that its maps refer to, by SCO of this log.
        referenced: BTreeMap<u32, u32>,
    },
    /// It may or may not be.
    CheckpointFailed,
    /// The SCO's object is gone.
    Deleted {
        /// Its number.
        sco: u32,
    },
    /// It may or may not be.
    DeleteFailed {
        /// Its number.
        sco: u32,
    },
    /// All that was live in the SCO has been submitted again (or could not be read).
    Compacted {
        /// Its number.
        sco: u32,
    },
    /// It was given up, since the volume is drained: what is left there is moved another time.
    CompactionStopped {
        /// Its number.
        sco: u32,
    },
    /// Time to try again what failed, other than deletes.
    Retry,
    /// Time to try deletes again.
    RetryDeletes,
    /// Close, upload and checkpoint everything (before the volume is closed). Guests wait, so a
    /// compaction that is under way ends with what is submitted already.
    Drain,
    /// Upload and checkpoint what there is now, while more may come (before it is drained).
    Settle,
}

/// What the outside has to do. Each answers with the message of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Append [`Volume::batch`].
    Append,
    /// The operation is done.
    Complete(OpId),
    /// Make an empty file for this SCO.
    Open(u32),
    /// Sync the files that hold batches in `(after, through]`.
    Sync {
        /// Durable already.
        after: u64,
        /// To be durable.
        through: u64,
    },
    /// Store this SCO as an object (put-if-absent; one that is there already is the same).
    Upload(u32),
    /// Remove the file of this SCO from the write buffer. No answer is awaited.
    Evict(u32),
    /// Store [`Volume::taken`].
    Checkpoint,
    /// Delete the object of this SCO.
    Delete(u32),
    /// Submit what is live in this SCO as [`Verb::Relocate`].
    Compact(u32),
    /// Send [`Message::Retry`] after a while.
    Retry,
    /// Send [`Message::RetryDeletes`] after a while.
    RetryDeletes {
        /// So often twice as long a while.
        doublings: u32,
    },
    /// Everything is on the backend and in a checkpoint.
    Drained,
    /// Everything that was appended before the last [`Message::Settle`] is.
    Settled,
}

/// Where a SCO is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// Batches are appended to it.
    Open,
    /// No batch will be added; it is in the write buffer only.
    Closed,
    /// Its object is being stored.
    Uploading,
    /// It is in both places.
    Uploaded,
    /// It is on the backend only.
    Evicted,
    /// Its object is to be deleted.
    Deleting,
}

/// A SCO of this log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sco {
    /// Where it is in its life.
    pub stage: Stage,
    /// Data clusters.
    pub clusters: u32,
    /// What it takes of the room that a SCO has, in clusters: its data, or more (see `room`).
    pub room: u32,
    /// Of its clusters, referred to by the head's map.
    pub live: u32,
    /// Sequence of its last batch.
    pub last_sequence: u64,
    /// A sync of its file failed: only its object can make it durable.
    pub unsyncable: bool,
    /// Compaction could not move everything; it is not tried again before the next open.
    pub stuck: bool,
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Snapshot {
    /// Its UUID.
    pub id: Uuid,
    /// The SCO that was closed when it was taken.
    pub position: u32,
    /// The content.
    pub map: Map,
}

/// Why writes wait, when they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stall {
    /// The write buffer's device is full or its reserve is reached.
    NoSpace,
    /// The write buffer's device fails.
    BufferError,
    /// The backend is too slow or away: the buffer holds as many SCOs as it may.
    BackendBehind,
}

/// The state of a volume's owner.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Volume {
    limits: Limits,
    own_log: u16,
    map: Map,
    snapshots: Vec<Snapshot>,
    scos: BTreeMap<u32, Sco>,
    /// Every SCO below this number is on the backend: what happens each turn looks only at the
    /// few above, however long the log is.
    pending_from: u32,
    /// Number and room of the SCOs that are not on the backend.
    pending_scos: u32,
    pending_room: u64,
    /// Sequence of the last batch of the last closed SCO.
    closed_sequence: u64,
    /// Something changed that may have made a SCO worth compacting.
    look_for_victims: bool,
    /// The SCO that batches go to, and what is in it beside data.
    open: Option<u32>,
    beside: room::Beside,
    /// An empty one, ready to be next; `Err`: asked for.
    spare: Option<Result<u32, u32>>,
    next_sco: u32,
    /// Last appended batch.
    sequence: u64,
    /// Last durable batch.
    durable: u64,
    queue: VecDeque<Op>,
    relocations: VecDeque<Op>,
    batch: Option<Batch>,
    /// The batch in flight failed and waits for a retry.
    append_failed: bool,
    sync_in_flight: Option<u64>,
    waiters: VecDeque<(u64, OpId)>,
    stall: Option<Stall>,
    retry_asked: bool,
    upload_failed: bool,
    checkpoints: checkpoint::Checkpoints,
    deletions: deletion::Deletions,
    compacting: Option<u32>,
    draining: bool,
    /// Up to this SCO everything is to be on the backend and in a checkpoint.
    settling: Option<u32>,
    mutant: Option<Mutant>,
}

/// What open found: where a volume starts from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Recovered {
    /// The log's index in the table of ancestors.
    pub own_log: u16,
    /// The head.
    pub map: Map,
    /// Snapshots in order of creation.
    pub snapshots: Vec<Snapshot>,
    /// SCOs that exist: [`Stage::Closed`] (file only) or [`Stage::Evicted`] (object).
    pub scos: BTreeMap<u32, Sco>,
    /// Last batch of the log.
    pub sequence: u64,
    /// Every batch up to here survives power loss.
    pub durable: u64,
    /// A number that no file or object of this log has, nor any above.
    pub next_sco: u32,
    /// Position of the last checkpoint, 0 when there is none.
    pub checkpoint_position: u32,
}

impl Volume {
    /// A volume as open found it.
    pub fn new(limits: Limits, recovered: Recovered) -> Self {
        let mut volume = Self {
            limits,
            own_log: recovered.own_log,
            map: recovered.map,
            snapshots: recovered.snapshots,
            scos: recovered.scos,
            pending_from: 0,
            pending_scos: 0,
            pending_room: 0,
            closed_sequence: 0,
            look_for_victims: true,
            open: None,
            beside: room::Beside::default(),
            spare: None,
            next_sco: recovered.next_sco,
            sequence: recovered.sequence,
            durable: recovered.durable,
            queue: VecDeque::new(),
            relocations: VecDeque::new(),
            batch: None,
            append_failed: false,
            sync_in_flight: None,
            waiters: VecDeque::new(),
            stall: None,
            retry_asked: false,
            upload_failed: false,
            checkpoints: checkpoint::Checkpoints::at(recovered.checkpoint_position),
            deletions: deletion::Deletions::default(),
            compacting: None,
            draining: false,
            settling: None,
            mutant: None,
        };
        volume.count_live();
        volume.advance_pending();
        let pending: Vec<Sco> = volume.pending().map(|(_, sco)| *sco).collect();
        volume.pending_scos = pending.len() as u32;
        volume.pending_room = pending.iter().map(|s| u64::from(s.room)).sum();
        volume
    }

    /// For the explorer: makes the planted change. Without the feature `mutants` it does nothing.
    pub fn plant(&mut self, mutant: Mutant) {
        self.mutant = Some(mutant);
    }

    fn is(&self, mutant: Mutant) -> bool {
        cfg!(feature = "mutants") && self.mutant == Some(mutant)
    }

    /// Takes a message; appends what has to be done to `out`.
    pub fn step(&mut self, message: Message, out: &mut Vec<Action>) {
        match message {
            // Nothing starts before the turn ends: a batch takes all that the turn brought.
            Message::Submit(op) => {
                let relocation = matches!(op.verb, Verb::Relocate { .. });
                let queue = if relocation { &mut self.relocations } else { &mut self.queue };
                queue.push_back(op);
                return;
            }
            Message::Turn => {}
            Message::Appended => self.appended(out),
            Message::AppendFailed { no_space } => self.append_failed(no_space, out),
            Message::Opened { sco } => self.opened(sco),
            Message::OpenFailed { sco, no_space } => self.open_failed(sco, no_space, out),
            Message::Synced { through } => self.synced(through, out),
            Message::SyncFailed => self.sync_failed(),
            Message::Uploaded { sco } => self.uploaded(sco, out),
            Message::UploadFailed { sco } => self.upload_failed(sco, out),
            Message::CheckpointStored { referenced } => self.checkpoint_stored(&referenced, out),
            Message::CheckpointFailed => self.checkpoint_failed(out),
            Message::Deleted { sco } => self.deleted(sco),
            Message::DeleteFailed { sco } => self.delete_failed(sco, out),
            Message::Compacted { sco } => self.compacted(sco),
            Message::CompactionStopped { sco } => self.compaction_stopped(sco),
            Message::Retry => self.retry(out),
            Message::RetryDeletes => self.retry_deletes(out),
            Message::Drain => {
                self.draining = true;
                self.checkpoints.want();
            }
            Message::Settle => {
                self.settling = Some(self.last_closed());
                self.checkpoints.want();
            }
        }
        self.proceed(out);
    }

    /// Everything that may start now, starts.
    fn proceed(&mut self, out: &mut Vec<Action>) {
        // What was queued when draining began may end up behind the checkpoint it asked for.
        if self.draining && !self.checkpoints.is_current(self.last_closed()) {
            self.checkpoints.want();
        }
        if self.settling.is_some_and(|last| self.checkpoints.position() < last) {
            self.checkpoints.want();
        }
        self.form_batch(out);
        self.start_sync(out);
        self.start_uploads(out);
        self.start_checkpoint(out);
        self.start_deletes(out);
        self.start_compaction(out);
        if self.draining && self.is_drained() {
            self.draining = false;
            out.push(Action::Drained);
        }
        let early = self.is(Mutant::SettleTooEarly);
        if self.settling.is_some_and(|last| self.checkpoints.position() >= last || early) {
            self.settling = None;
            out.push(Action::Settled);
        }
    }

    fn ask_retry(&mut self, out: &mut Vec<Action>) {
        if !self.retry_asked {
            self.retry_asked = true;
            out.push(Action::Retry);
        }
    }

    fn retry(&mut self, out: &mut Vec<Action>) {
        self.retry_asked = false;
        self.upload_failed = false;
        if core::mem::take(&mut self.append_failed) && !self.is(Mutant::ForgetFailedAppend) {
            self.stall = None;
            out.push(Action::Append);
        }
        if matches!(self.stall, Some(Stall::NoSpace | Stall::BufferError)) {
            self.stall = None;
        }
        self.checkpoints.retry();
    }

    fn is_drained(&self) -> bool {
        self.queue.is_empty()
            && self.batch.is_none()
            && self.relocations.is_empty()
            && self.open.is_none_or(|sco| !self.scos.contains_key(&sco))
            && self.scos.values().all(|s| s.stage >= Stage::Uploaded)
            && self.checkpoints.is_current(self.last_closed())
    }

    /// SCOs that may not be on the backend yet, in log order.
    fn pending(&self) -> impl Iterator<Item = (&u32, &Sco)> {
        self.scos.range(self.pending_from..).filter(|(_, s)| s.stage < Stage::Uploaded)
    }

    fn advance_pending(&mut self) {
        let first = self.pending().next().map(|(number, _)| *number);
        self.pending_from = first.unwrap_or_else(|| self.last_closed() + 1);
    }

    fn last_closed(&self) -> u32 {
        self.scos.keys().next_back().copied().unwrap_or(0).max(self.checkpoints.position())
    }

    /// The batch to append after [`Action::Append`].
    pub fn batch(&self) -> Option<&Batch> {
        self.batch.as_ref()
    }

    /// The head's map: for reads.
    pub fn map(&self) -> &Map {
        &self.map
    }

    /// Snapshots in order of creation.
    pub fn snapshots(&self) -> &[Snapshot] {
        &self.snapshots
    }

    /// SCOs of this log.
    pub fn scos(&self) -> &BTreeMap<u32, Sco> {
        &self.scos
    }

    /// Sequence of the last appended batch.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Sequence of the last durable batch.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// Why writes wait, when they do.
    pub fn stall(&self) -> Option<Stall> {
        self.stall
    }

    /// Operations that wait for a batch.
    pub fn queued(&self) -> usize {
        self.queue.len() + self.relocations.len()
    }

    /// Index of this volume's log in its table of ancestors.
    pub fn own_log(&self) -> u16 {
        self.own_log
    }

    /// Sizes.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// How full the write buffer is with what the backend does not have yet, in parts per 1024.
    /// The shell slows writes down as it grows.
    pub fn fill(&self) -> u32 {
        let room = u64::from(self.limits.buffer_scos) * u64::from(self.limits.sco_clusters);
        (self.pending_room * 1024 / room.max(1)).min(1024) as u32
    }
}

/// How long a cluster of a write is held back, in nanoseconds, when the buffer is `fill`/1024 full:
/// nothing up to one half, then growing without a step, beyond every bound as the buffer gets full.
/// At 3/4 about 500 MB/s pass, at 0.95 about 55 MB/s, at 0.995 about 5 MB/s.
pub fn throttle_ns(fill: u32) -> u64 {
    let fill = u64::from(fill.min(1023));
    if fill <= 512 { 0 } else { 8_000 * (fill - 512) / (1024 - fill) }
}
