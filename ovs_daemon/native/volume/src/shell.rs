//! An open volume on its shard's thread. See `perform` (what the machine asks for), `reads`,
//! `moves` (compaction) and `items` (from bytes to clusters).

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use buffer::LogBuffer;
use edge::target::{Completion, Extent, Outcome, Request, RequestId, Verb};
use format::entry::Uuid;
use format::log::PAGE;
use machines::dtl::link::{Reason, Saved};
use machines::map::Map;
use machines::volume::{
    Action, Message, OpId, Stall, Verb as LogVerb, Volume as Machine, throttle_ns,
};
use media::{File, Ring, Slice};

use crate::dtl::{Dtl, DtlEvent};
use crate::feed::Feeds;
use crate::gate::Gate;
use crate::items::{Item, Owner, covering, cut_write, cut_zeroes, is_aligned, length};
use crate::jobs::{Job, Work};
use crate::load::{Class, Load};
use crate::moves::Moves;
use crate::open::{Opened, Start};
use crate::reads::Reads;
use crate::shared::SharedScos;
use crate::slab::Slab;
use crate::standing::Standing;

/// A request of the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Keep the present content under this UUID.
    Snapshot(Uuid),
    /// Forget a snapshot.
    DeleteSnapshot(Uuid),
    /// Make a snapshot's content the present one.
    Revert(Uuid),
    /// Bring everything to the backend and take a checkpoint.
    Drain,
    /// Bring what there is now to the backend and into a checkpoint, while more may come.
    Settle,
    /// From the answer on no checkpoint object is deleted: clones may refer to it.
    Pin,
}

/// A control request that has ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlDone {
    /// The ticket it was given.
    pub ticket: u64,
}

/// Something an operator should know; gone when it is no longer so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Stable name.
    pub code: &'static str,
    /// Why.
    pub why: String,
    /// What to do.
    pub fix: &'static str,
}

/// What an operator can tune while volumes are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Bytes of the write buffer's disk that stay free.
    pub buffer_reserve: u64,
    /// Bytes per second that compaction may move.
    pub compaction_bytes_per_s: u64,
}

/// Counters since open, and the state now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Stats {
    pub reads: u64,
    pub read_bytes: u64,
    pub writes: u64,
    pub write_bytes: u64,
    pub trims: u64,
    pub flushes: u64,
    pub batches: u64,
    pub checksum_errors: u64,
    pub moved_clusters: u64,
    /// Uploads and checkpoints that did not come to the backend.
    pub failed_stores: u64,
    /// The times of all reads together, and of all writes, trims and flushes (see `load`).
    pub read_ns: u64,
    pub change_ns: u64,
}

/// What a volume hands to its shard in a turn.
#[derive(Debug, Default)]
pub struct Outputs {
    /// Answers to front ends.
    pub completions: Vec<Completion>,
    /// Answers to the control plane.
    pub control: Vec<ControlDone>,
    /// Work for worker threads.
    pub jobs: Vec<Job>,
    /// What the daemon has to decide or to know.
    pub events: Vec<DtlEvent>,
}

/// An operation that the machine has.
#[derive(Debug)]
pub(crate) struct OpSlot {
    pub(crate) owner: Owner,
    pub(crate) data: Option<Slice>,
}

struct Group {
    request: RequestId,
    left: u32,
    failed: Option<i32>,
}

/// A partial write that waits for the content around it.
pub(crate) struct Patch {
    owner: Owner,
    offset: u64,
    data: Slice,
    fua: bool,
    /// Whole clusters, filled by a read.
    around: Slice,
}

pub(crate) struct SyncState {
    pub(crate) through: u64,
    pub(crate) left: usize,
    pub(crate) failed: bool,
}

/// See the top of the file.
pub struct Volume {
    /// Number on the shard; in tokens and jobs.
    pub(crate) number: u32,
    pub(crate) class: u8,
    size: u64,
    read_only: bool,
    pub(crate) machine: Machine,
    pub(crate) log: LogBuffer,
    pub(crate) ancestors: Vec<(Uuid, String)>,
    pub(crate) epoch: u64,
    pub(crate) shared: Arc<SharedScos>,
    pub(crate) buffer_reserve: u64,
    /// Bytes per second.
    pub(crate) compaction_budget: u64,
    pub(crate) ops: Slab<OpSlot>,
    groups: Slab<Group>,
    pub(crate) gate: Gate,
    items: VecDeque<Item>,
    patch: Option<Patch>,
    /// A partial write is first and waits until all before it is in the map.
    behind_log: bool,
    zero: Slice,
    pub(crate) incoming_reads: VecDeque<(RequestId, u64, Slice)>,
    statuses: Vec<(RequestId, u64, u32)>,
    pub(crate) reads: Reads,
    pub(crate) actions: Vec<Action>,
    pub(crate) append_data: Vec<Slice>,
    pub(crate) spares: HashMap<u32, File>,
    pub(crate) sync: Option<SyncState>,
    pub(crate) checkpoints: BTreeSet<u64>,
    pub(crate) next_checkpoint: u64,
    pub(crate) last_crcs: BTreeMap<u32, u32>,
    pub(crate) pinned: bool,
    /// Tickets of pins; answered when no checkpoint from before is being stored.
    pub(crate) pins: Vec<u64>,
    pub(crate) storing_checkpoint: bool,
    pub(crate) quiesced: bool,
    pub(crate) stopped: Option<Reason>,
    /// It is being let go of: nothing is begun any more.
    halted: bool,
    pub(crate) standing: Arc<Standing>,
    pub(crate) saved: Saved,
    pub(crate) dtl: Option<Box<Dtl>>,
    pub(crate) feeds: Option<Box<Feeds>>,
    start: Start,
    pub(crate) moves: Moves,
    pub(crate) retry_at: Option<u64>,
    pub(crate) drains: Vec<u64>,
    settles: Vec<u64>,
    not_before: u64,
    pub(crate) throttle_ns: u64,
    pub(crate) trouble: BTreeMap<&'static str, String>,
    pub(crate) stats: Stats,
    pub(crate) load: Load,
    item_buffer: Vec<Item>,
}

impl Volume {
    /// A volume that `open` has opened. `number` and `class` (top byte of its ring tokens) are the
    /// shard's; `size` is in bytes.
    pub fn new(
        opened: Opened,
        number: u32,
        class: u8,
        size: u64,
        read_only: bool,
        shared: Arc<SharedScos>,
        tuning: Tuning,
    ) -> std::io::Result<Self> {
        Ok(Self {
            number,
            class,
            size,
            read_only,
            machine: opened.machine,
            log: opened.log,
            ancestors: opened.ancestors,
            epoch: opened.epoch,
            shared,
            buffer_reserve: tuning.buffer_reserve,
            compaction_budget: tuning.compaction_bytes_per_s,
            ops: Slab::new(),
            groups: Slab::new(),
            gate: Gate::default(),
            items: VecDeque::new(),
            patch: None,
            behind_log: false,
            zero: Slice::zeroed(PAGE)?,
            incoming_reads: VecDeque::new(),
            statuses: Vec::new(),
            reads: Reads::new(),
            actions: Vec::new(),
            append_data: Vec::new(),
            spares: HashMap::new(),
            sync: None,
            checkpoints: opened.checkpoints,
            next_checkpoint: opened.next_checkpoint,
            last_crcs: opened.last_crcs,
            pinned: false,
            pins: Vec::new(),
            storing_checkpoint: false,
            quiesced: false,
            stopped: None,
            halted: false,
            standing: Arc::default(),
            saved: opened.saved,
            dtl: None,
            feeds: None,
            start: opened.start,
            moves: Moves::default(),
            retry_at: None,
            drains: Vec::new(),
            settles: Vec::new(),
            not_before: 0,
            throttle_ns: 0,
            trouble: BTreeMap::new(),
            stats: Stats::default(),
            load: Load::default(),
            item_buffer: Vec::new(),
        })
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The owner's epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Writes are refused.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Makes the volume larger. Clusters behind the old end were never written.
    pub fn grow(&mut self, size: u64) {
        self.size = self.size.max(size);
    }

    /// Clones refer to this volume's checkpoint objects. For a volume that does not work yet; see
    /// [`Control::Pin`] for one that does.
    pub fn set_pinned(&mut self, pinned: bool) {
        self.pinned |= pinned;
    }

    /// Takes no request any more: before the volume is drained and closed. Requests that come
    /// nevertheless are not answered; an Edge gives them to whoever serves the volume next.
    pub fn quiesce(&mut self) {
        self.quiesced = true;
        self.standing.leave();
        let [reads, changes] = self.gate.clear();
        self.load.leave(Class::Read, reads);
        self.load.leave(Class::Change, changes);
    }

    /// Begins nothing any more and answers nobody. What is under way ends; see
    /// [`Volume::is_reading`].
    pub fn halt(&mut self) {
        self.halted = true;
        self.standing.end();
        self.quiesce();
    }

    /// It answers nobody any more, because it was stopped or is being let go of.
    pub(crate) fn is_over(&self) -> bool {
        self.halted || self.stopped.is_some()
    }

    /// Memory of requests may still be filled by the ring or a worker thread. It belongs to the
    /// guests again only afterwards, also when the volume answers nobody any more.
    pub fn is_reading(&self) -> bool {
        self.reads.has_parts()
    }

    /// A snapshot's content.
    pub fn snapshot(&self, id: &Uuid) -> Option<Map> {
        self.machine.snapshots().iter().find(|s| s.id == *id).map(|s| s.map.clone())
    }

    /// The machine, to look at.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// What its map was made from when it was opened.
    pub fn start(&self) -> &Start {
        &self.start
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        let [read_ns, change_ns] = [Class::Read, Class::Change].map(|one| self.load.spent(one));
        Stats { read_ns, change_ns, ..self.stats }
    }

    /// Bytes in the write buffer.
    pub fn buffer_bytes(&self) -> u64 {
        self.log.bytes()
    }

    /// How long a written cluster is held back now, in nanoseconds.
    pub fn throttle_ns(&self) -> u64 {
        self.throttle_ns
    }

    /// Folder of the write buffer.
    pub fn buffer_dir(&self) -> PathBuf {
        self.log.dir().path().to_owned()
    }

    /// What an operator should know.
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut add = |code, why: String, fix| findings.push(Finding { code, why, fix });
        for (kind, why) in &self.trouble {
            match *kind {
                "upload" | "checkpoint" | "delete" | "backend" | "compact" => {
                    add(
                        "BACKEND_ERROR",
                        why.clone(),
                        "repair the backend; uploads go on by \
                         themselves, nothing is lost meanwhile",
                    );
                }
                "read" => add(
                    "DATA_UNREADABLE",
                    why.clone(),
                    "restore the named object or file \
                               from a copy; every other cluster stays readable",
                ),
                "sync" => add(
                    "BUFFER_SYNC_FAILED",
                    why.clone(),
                    "look at the disk of the write \
                               buffer; the data goes to the backend directly",
                ),
                "files" => add(
                    "TOO_MANY_FILES",
                    why.clone(),
                    "raise LimitNOFILE of vstorage-daemon, or serve fewer volumes; writes wait \
                     meanwhile",
                ),
                _ => add("BUFFER_ERROR", why.clone(), "look at the disk of the write buffer"),
            }
        }
        match self.machine.stall() {
            Some(Stall::NoSpace) => add(
                "BUFFER_FULL",
                "the write buffer's disk is full or down to its reserve: writes wait".into(),
                "free space on that disk, or let the backend take data faster; writes go on then",
            ),
            // The disk is not to blame.
            Some(Stall::BufferError) if self.trouble.contains_key("files") => {}
            Some(Stall::BufferError) => add(
                "BUFFER_ERROR",
                "the write buffer's disk fails: writes wait".into(),
                "look at the kernel log and replace the disk",
            ),
            Some(Stall::BackendBehind) => add(
                "BACKEND_BEHIND",
                "the backend is slower than the writes or away: writes wait".into(),
                "look at the backend; writes go on as soon as it takes a SCO",
            ),
            None => {}
        }
        findings
    }

    /// Takes a front end's request. Answers come out of [`Volume::turn`].
    pub fn submit(&mut self, request: Request, out: &mut Outputs) {
        let id = request.id;
        if self.quiesced {
            return;
        }
        if let Some(errno) = self.refusal(&request) {
            out.completions.push(Completion { id, outcome: Outcome::Failed(errno) });
            return;
        }
        match request.verb {
            Verb::Read(_) => self.load.enter(Class::Read),
            Verb::BlockStatus { .. } => {}
            _ => self.load.enter(Class::Change),
        }
        if let Some(request) = self.gate.admit(request) {
            self.accept(request, out);
        }
    }

    fn accept(&mut self, request: Request, out: &mut Outputs) {
        let id = request.id;
        match request.verb {
            Verb::Read(into) => self.incoming_reads.push_back((id, request.offset, into)),
            Verb::BlockStatus { len } => self.statuses.push((id, request.offset, len)),
            Verb::Flush => {
                self.stats.flushes += 1;
                self.items.push_back(Item::Flush { owner: Owner::Client(id) });
            }
            Verb::Write { data, fua } => {
                self.stats.writes += 1;
                self.stats.write_bytes += data.len() as u64;
                self.accept_write(id, request.offset, data, fua);
            }
            Verb::Trim { len, fua } => {
                self.stats.trims += 1;
                self.accept_zeroes(id, request.offset, len, fua, false, out);
            }
            Verb::WriteZeroes { len, fua } => {
                self.stats.trims += 1;
                self.accept_zeroes(id, request.offset, len, fua, true, out);
            }
        }
    }

    /// Takes a request of the control plane; `ticket` comes back in [`Outputs::control`].
    pub fn control(&mut self, ticket: u64, control: Control) {
        let owner = Owner::Control(ticket);
        let verb = match control {
            Control::Snapshot(id) => LogVerb::Snapshot(id),
            Control::DeleteSnapshot(id) => LogVerb::DeleteSnapshot(id),
            Control::Revert(id) => LogVerb::Revert(id),
            Control::Drain => {
                self.drains.push(ticket);
                return;
            }
            Control::Settle => {
                self.settles.push(ticket);
                return;
            }
            Control::Pin => {
                self.pinned = true;
                self.pins.push(ticket);
                return;
            }
        };
        self.items.push_back(Item::Control { owner, verb });
    }

    fn refusal(&self, request: &Request) -> Option<i32> {
        let writes =
            !matches!(request.verb, Verb::Read(_) | Verb::Flush | Verb::BlockStatus { .. });
        if writes && self.read_only {
            return Some(media::errno::EPERM);
        }
        let end = request.offset.checked_add(length(request));
        if end.is_none_or(|end| end > self.size) {
            return Some(if writes { media::errno::ENOSPC } else { media::errno::EINVAL });
        }
        None
    }

    fn accept_write(&mut self, id: RequestId, offset: u64, data: Slice, fua: bool) {
        let limit = self.machine.limits().op_clusters;
        let (_, clusters) = covering(offset, data.len() as u64);
        if clusters <= u64::from(limit) {
            self.items.push_back(Item::Write { owner: Owner::Client(id), offset, data, fua });
            return;
        }
        let group = self.groups.insert(Group { request: id, left: 0, failed: None });
        let mut cut = std::mem::take(&mut self.item_buffer);
        cut_write(offset, &data, fua, limit, Owner::Group(group), &mut cut);
        self.add_group(group, &mut cut);
        self.item_buffer = cut;
    }

    fn accept_zeroes(
        &mut self,
        id: RequestId,
        offset: u64,
        len: u64,
        fua: bool,
        exact: bool,
        out: &mut Outputs,
    ) {
        let group = self.groups.insert(Group { request: id, left: 0, failed: None });
        let zero = exact.then(|| self.zero.clone());
        let mut cut = std::mem::take(&mut self.item_buffer);
        cut_zeroes(offset, len, fua, zero.as_ref(), Owner::Group(group), &mut cut);
        if cut.is_empty() {
            self.groups.remove(group);
            self.load.leave(Class::Change, 1);
            out.completions.push(Completion { id, outcome: Outcome::Done });
        } else {
            self.add_group(group, &mut cut);
        }
        self.item_buffer = cut;
    }

    fn add_group(&mut self, group: u32, cut: &mut Vec<Item>) {
        if let Some(group) = self.groups.get_mut(group) {
            group.left = cut.len() as u32;
        }
        self.items.extend(cut.drain(..));
    }

    /// Something waits to be done in a turn.
    pub fn has_work(&self) -> bool {
        if self.is_over() {
            return false;
        }
        !self.items.is_empty()
            || !self.incoming_reads.is_empty()
            || !self.statuses.is_empty()
            || !self.drains.is_empty()
            || !self.settles.is_empty()
            || (!self.pins.is_empty() && !self.storing_checkpoint)
    }

    /// When the next turn has to come even if nothing happens; nanoseconds of the shard's clock.
    pub fn wakes_at(&self) -> Option<u64> {
        if self.is_over() {
            return None;
        }
        let dtl = self.dtl.as_ref();
        // What waits for the machine or the DTL goes on when something has happened, not at some
        // moment.
        let waits =
            self.patch.is_some() || self.behind_log || dtl.is_some_and(|dtl| dtl.is_waiting());
        let held_back = (!self.items.is_empty() && !waits).then_some(self.not_before);
        let dtl_at = dtl.and_then(|dtl| dtl.wakes_at());
        let feeds_at = self.feeds.as_ref().and_then(|feeds| feeds.wakes_at());
        let moments =
            [self.retry_at, held_back, self.moves_at(), self.gate.wakes_at(), dtl_at, feeds_at];
        moments.into_iter().flatten().min()
    }

    /// One turn of the shard's loop: everything submitted is put into the log or read, as far as
    /// that goes without waiting. `now`: nanoseconds of a monotonic clock.
    pub fn turn(&mut self, now: u64, ring: &mut Ring, out: &mut Outputs) {
        if self.is_over() {
            return;
        }
        self.load.look(now);
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            self.run(Message::Retry, ring, out);
            self.retry_reads(ring, out);
        }
        if !self.storing_checkpoint {
            for ticket in std::mem::take(&mut self.pins) {
                self.finish(Owner::Control(ticket), None, out);
            }
        }
        while let Some(request) = self.gate.pass(now) {
            self.accept(request, out);
        }
        self.admit(now, ring, out);
        self.start_drains(ring, out);
        for ticket in std::mem::take(&mut self.settles) {
            self.moves.settles.push(ticket);
            self.run(Message::Settle, ring, out);
        }
        self.continue_moves(now, ring, out);
        self.run(Message::Turn, ring, out);
        self.set_retry(now);
        self.dtl_turn(now, ring, out);
        if self.is_over() {
            return;
        }
        self.start_reads(ring, out);
        self.answer_statuses(out);
        self.feed_turn(now, ring, out);
    }

    /// Whether the end of a turn matters to anybody.
    pub fn is_busy(&self) -> bool {
        self.load.is_busy()
    }

    /// The end of a turn: what was answered in it was under way until `now`.
    pub fn end_turn(&mut self, now: u64) {
        self.load.look(now);
    }

    /// Drained is what the machine has, so it has to have everything: a write that waits here would
    /// be answered after the volume was called drained, and stay in the write buffer. One that takes
    /// no requests any more is about to be closed: its guests' memory is theirs again from then on,
    /// so no read may still fill it.
    fn start_drains(&mut self, ring: &mut Ring, out: &mut Outputs) {
        let reads = self.quiesced && (!self.incoming_reads.is_empty() || self.reads.has_clients());
        if !self.items.is_empty() || self.patch.is_some() || reads {
            return;
        }
        for ticket in std::mem::take(&mut self.drains) {
            self.moves.drains.push(ticket);
            self.moves.give_up();
            self.run(Message::Drain, ring, out);
        }
    }

    /// Passes items to the machine while the throttle lets it.
    fn admit(&mut self, now: u64, ring: &mut Ring, out: &mut Outputs) {
        self.throttle_ns = throttle_ns(self.machine.fill());
        self.not_before = self.not_before.max(now.saturating_sub(1_000_000));
        self.behind_log = false;
        while self.patch.is_none() && (self.throttle_ns == 0 || self.not_before <= now) {
            let Some(item) = self.items.pop_front() else { return };
            match item {
                Item::Write { owner, offset, data, fua } if is_aligned(offset, data.len()) => {
                    self.not_before += self.throttle_ns * (data.len() / PAGE) as u64;
                    self.submit_write(owner, offset, data, fua);
                }
                Item::Write { owner, offset, data, fua } => {
                    // What came before has to be in the map before its surroundings are read.
                    self.run(Message::Turn, ring, out);
                    if self.machine.queued() > 0 || self.machine.batch().is_some() {
                        self.items.push_front(Item::Write { owner, offset, data, fua });
                        self.behind_log = true;
                        return;
                    }
                    self.start_patch(owner, offset, data, fua, ring, out);
                }
                Item::Forget { owner, lba, clusters, fua } => {
                    // However long it is, it takes a header page at most.
                    self.not_before += self.throttle_ns;
                    self.submit_op(owner, None, LogVerb::Trim { lba, clusters, fua });
                }
                Item::Flush { owner } => self.submit_op(owner, None, LogVerb::Flush),
                Item::Control { owner, verb } => self.submit_op(owner, None, verb),
            }
        }
    }

    fn submit_write(&mut self, owner: Owner, offset: u64, data: Slice, fua: bool) {
        let lba = offset / PAGE as u64;
        let clusters = (data.len() / PAGE) as u32;
        self.submit_op(owner, Some(data), LogVerb::Write { lba, clusters, fua });
    }

    pub(crate) fn submit_op(&mut self, owner: Owner, data: Option<Slice>, verb: LogVerb) {
        let id: OpId = self.ops.insert(OpSlot { owner, data });
        self.machine.step(Message::Submit(machines::volume::Op { id, verb }), &mut self.actions);
    }

    fn start_patch(
        &mut self,
        owner: Owner,
        offset: u64,
        data: Slice,
        fua: bool,
        ring: &mut Ring,
        out: &mut Outputs,
    ) {
        let (lba, clusters) = covering(offset, data.len() as u64);
        let Ok(around) = Slice::zeroed(clusters as usize * PAGE) else {
            self.finish(owner, Some(media::errno::ENOMEM), out);
            return;
        };
        self.patch = Some(Patch { owner, offset, data, fua, around: around.clone() });
        self.read_around(lba, around, ring, out);
    }

    /// The content around a partial write is there: put the write into it.
    pub(crate) fn patch_is_read(&mut self, failed: Option<i32>, out: &mut Outputs) {
        let Some(patch) = self.patch.take() else { return };
        if failed.is_some() {
            self.finish(patch.owner, failed, out);
            return;
        }
        let at = (patch.offset % PAGE as u64) as usize;
        patch.data.copy_to(&patch.around.sub(at, patch.data.len()));
        let start = patch.offset - at as u64;
        self.not_before += self.throttle_ns * (patch.around.len() / PAGE) as u64;
        self.submit_write(patch.owner, start, patch.around, patch.fua);
    }

    /// Tells whoever asked.
    pub(crate) fn finish(&mut self, owner: Owner, failed: Option<i32>, out: &mut Outputs) {
        let outcome = failed.map_or(Outcome::Done, Outcome::Failed);
        match owner {
            Owner::Client(id) => {
                self.load.leave(Class::Change, 1);
                out.completions.push(Completion { id, outcome });
            }
            Owner::Control(ticket) => out.control.push(ControlDone { ticket }),
            Owner::Move => self.moves.finished_one(),
            Owner::Group(number) => {
                let Some(group) = self.groups.get_mut(number) else { return };
                group.left -= 1;
                group.failed = group.failed.or(failed);
                if group.left == 0
                    && let Some(group) = self.groups.remove(number)
                {
                    let outcome = group.failed.map_or(Outcome::Done, Outcome::Failed);
                    self.load.leave(Class::Change, 1);
                    out.completions.push(Completion { id: group.request, outcome });
                }
            }
        }
    }

    fn answer_statuses(&mut self, out: &mut Outputs) {
        for (id, offset, len) in std::mem::take(&mut self.statuses) {
            let mut extents: Vec<Extent> = Vec::new();
            let (lba, clusters) = covering(offset, u64::from(len));
            let end = offset + u64::from(len);
            self.machine.map().runs(lba, clusters, &mut |at, count, loc| {
                let from = (at * PAGE as u64).max(offset);
                let to = ((at + count) * PAGE as u64).min(end);
                let (len, hole) = ((to - from) as u32, loc.is_none());
                match extents.last_mut() {
                    Some(last) if last.hole == hole => last.len += len,
                    _ => extents.push(Extent { len, hole }),
                }
            });
            out.completions.push(Completion { id, outcome: Outcome::Extents(extents) });
        }
    }

    pub(crate) fn job(&self, work: Work, out: &mut Outputs) {
        let standing = self.standing.clone();
        out.jobs.push(Job { volume: self.number, work, standing });
    }

    pub(crate) fn own(&self) -> (Uuid, String) {
        self.ancestors.last().cloned().unwrap_or_default()
    }
}

impl Drop for Volume {
    /// Clones no longer find this volume's files in the write buffer.
    fn drop(&mut self) {
        let (log, _) = self.own();
        for (sco, _) in self.log.all_closed() {
            self.shared.remove(&log, sco);
        }
    }
}
