//! Performs the machine's actions and tells it what came of them.

use std::mem;

use buffer::file_name;
use format::log::PAGE;
use machines::dtl::Mark;
use machines::dtl::link::{Message as DtlMessage, Saved};
use machines::volume::{Action, Message};
use media::{Event, Ring, Slice};

use crate::checkpoint::NewCheckpoint;
use crate::dtl::{TOKEN_DTL_RECEIVE, TOKEN_DTL_SEND};
use crate::feed::{TOKEN_FEED_RECEIVE, TOKEN_FEED_SEND};
use crate::items::Owner;
use crate::jobs::{JobFailure, Outcome, Work};
use crate::shell::{Outputs, SyncState, Volume};

/// Kind of a ring token: bits 48..56. The rest: class (top byte) and volume number (16 bits above
/// the low 32, which are the kind's own).
pub(crate) const TOKEN_SYNC: u64 = 1 << 52;
/// All kinds; the token of a read has none.
const KINDS: u64 = 0xff << 48;

/// Nanoseconds until something that failed is tried again; deletes after 77 seconds in the end.
const RETRY_NS: u64 = 300_000_000;

impl Volume {
    pub(crate) fn token(&self, kind: u64, detail: u32) -> u64 {
        u64::from(self.class) << 56
            | kind
            | u64::from(self.number & 0xffff) << 32
            | u64::from(detail)
    }

    /// Number of the volume that a token of the volumes' class belongs to.
    pub fn number_of(token: u64) -> u32 {
        (token >> 32) as u32 & 0xffff
    }

    /// Gives the machine a message and does what follows from it, to the end.
    pub(crate) fn run(&mut self, message: Message, ring: &mut Ring, out: &mut Outputs) {
        if self.is_over() {
            return;
        }
        let mut actions = mem::take(&mut self.actions);
        self.note_message(&message, ring);
        self.machine.step(message, &mut actions);
        let mut next = 0;
        while next < actions.len() {
            let action = actions[next];
            next += 1;
            if let Some(answer) = self.perform(action, ring, out) {
                self.note_message(&answer, ring);
                self.machine.step(answer, &mut actions);
            }
        }
        actions.clear();
        self.actions = actions;
    }

    fn note_message(&mut self, message: &Message, ring: &mut Ring) {
        match message {
            Message::Appended => self.note_released(ring),
            Message::UploadFailed { .. } | Message::CheckpointFailed => {
                self.stats.failed_stores += 1;
            }
            _ => {}
        }
    }

    /// Does one thing; `Some`: it is done already, and this came of it.
    fn perform(&mut self, action: Action, ring: &mut Ring, out: &mut Outputs) -> Option<Message> {
        match action {
            Action::Append => return self.append(ring, out),
            Action::Complete(id) => {
                if let Some(op) = self.ops.remove(id) {
                    self.finish(op.owner, None, out);
                }
            }
            Action::Open(sco) => {
                let limits = self.machine.limits();
                // Headers of small batches can take as much room as the data.
                let need = 2 * u64::from(limits.sco_clusters) * PAGE as u64;
                let (dir, reserve) = (self.buffer_dir(), self.buffer_reserve);
                self.job(Work::Open { dir, sco, need, reserve }, out);
            }
            Action::Sync { after, through } => return self.start_sync(after, through, ring),
            Action::Upload(sco) => return self.start_upload(sco, out),
            Action::Evict(sco) => {
                let (log, _) = self.own();
                self.log.forget(sco);
                self.shared.remove(&log, sco);
                self.job(Work::Unlink { dir: self.buffer_dir(), sco }, out);
            }
            Action::Checkpoint => return self.start_checkpoint(out),
            Action::Delete(sco) => {
                let (_, log_text) = self.own();
                self.job(Work::Delete { log_text, sco }, out);
            }
            // It would only keep waiting who waits for its last job.
            Action::Compact(sco) if self.quiesced => {
                return Some(Message::CompactionStopped { sco });
            }
            Action::Compact(sco) => {
                let (log, log_text) = self.own();
                self.moves.start(sco);
                self.job(Work::Index { log, log_text, sco }, out);
            }
            Action::Retry => self.moves.retry_asked = true,
            Action::RetryDeletes { doublings } => self.moves.deletes_asked = Some(doublings),
            Action::Drained => {
                for ticket in mem::take(&mut self.moves.drains) {
                    self.finish(Owner::Control(ticket), None, out);
                }
            }
            Action::Settled => {
                for ticket in mem::take(&mut self.moves.settles) {
                    self.finish(Owner::Control(ticket), None, out);
                }
            }
        }
        None
    }

    /// After the machine asked for a retry: when.
    pub(crate) fn set_retry(&mut self, now: u64) {
        if mem::take(&mut self.moves.retry_asked) {
            self.retry_at = Some(now + RETRY_NS);
        }
        if let Some(doublings) = self.moves.deletes_asked.take() {
            self.moves.deletes_at = Some(now + (RETRY_NS << doublings));
        }
    }

    /// The data of the batch in flight, in slices of whole clusters.
    pub(crate) fn gather(&self, data: &mut Vec<Slice>) {
        for part in self.machine.batch().iter().flat_map(|batch| &batch.parts) {
            if let Some(slice) = self.ops.get(part.op).and_then(|op| op.data.as_ref()) {
                let (from, len) = (part.skip as usize * PAGE, part.clusters as usize * PAGE);
                let whole = from == 0 && len == slice.len();
                data.push(if whole { slice.clone() } else { slice.sub(from, len) });
            }
        }
    }

    /// `None`: the batch is appended and waits for the DTL.
    fn append(&mut self, ring: &mut Ring, out: &mut Outputs) -> Option<Message> {
        let mut data = mem::take(&mut self.append_data);
        data.clear();
        self.gather(&mut data);
        let appended = self.append_locally(&data);
        self.append_data = data;
        let answer = match appended {
            Message::Appended if self.dtl.is_some() => {
                let tail = self.log.tail();
                let mark = Mark { sequence: tail.sequence, crc: tail.crc };
                let message = Some(DtlMessage::Appended(mark));
                self.dtl_released(message, ring, out).then_some(Message::Appended)
            }
            answer => Some(answer),
        };
        self.append_data.clear();
        answer
    }

    fn append_locally(&mut self, data: &[Slice]) -> Message {
        let Some(batch) = self.machine.batch() else {
            return Message::AppendFailed { no_space: false };
        };
        if let Some(file) = self.spares.remove(&batch.sco) {
            self.log.add_empty(batch.sco, file);
        }
        let durable = self.machine.durable();
        let appended = self.log.append(batch.sequence, durable, &batch.entries, data);
        match appended {
            Ok(()) => {
                let (closes, sco) = (batch.closes, batch.sco);
                self.stats.batches += 1;
                self.trouble.remove("append");
                if closes && let Some((_, file)) = self.log.close() {
                    let (log, _) = self.own();
                    self.last_crcs.insert(sco, file.index.last_crc);
                    self.shared.put(log, sco, file);
                }
                Message::Appended
            }
            Err(error) => {
                self.trouble.insert("append", error.to_string());
                Message::AppendFailed { no_space: error.is_no_space() }
            }
        }
    }

    fn start_sync(&mut self, after: u64, through: u64, ring: &mut Ring) -> Option<Message> {
        let files = self.log.files_between(after, through);
        if files.is_empty() {
            return Some(Message::Synced { through });
        }
        let token = self.token(TOKEN_SYNC, 0);
        for file in &files {
            ring.datasync(file.fd(), token);
        }
        self.sync = Some(SyncState { through, left: files.len(), failed: false });
        None
    }

    fn sync_done(&mut self, result: i32) -> Option<Message> {
        let sync = self.sync.as_mut()?;
        sync.left -= 1;
        if result < 0 {
            sync.failed = true;
            let error = std::io::Error::from_raw_os_error(-result);
            let dir = self.log.dir().path().display();
            self.trouble.insert("sync", format!("cannot sync a file in {dir}: {error}"));
        }
        if sync.left > 0 {
            return None;
        }
        let SyncState { through, failed, .. } = self.sync.take()?;
        Some(if failed { Message::SyncFailed } else { Message::Synced { through } })
    }

    fn start_upload(&mut self, sco: u32, out: &mut Outputs) -> Option<Message> {
        let (log, log_text) = self.own();
        let Some(file) = self.log.closed(sco).cloned() else {
            self.trouble.insert("upload", format!("{} is not there", file_name(sco)));
            return Some(Message::UploadFailed { sco });
        };
        if !self.dtl_may_upload(file.index.last_sequence) {
            return Some(Message::UploadFailed { sco });
        }
        self.job(Work::Upload { log, log_text, sco, file }, out);
        None
    }

    fn start_checkpoint(&mut self, out: &mut Outputs) -> Option<Message> {
        let taken = self.machine.taken()?.clone();
        let Some(last_crc) = self.last_crcs.get(&taken.position).copied() else {
            let why = format!("the end of SCO {} is not known", taken.position);
            self.trouble.insert("checkpoint", why);
            return Some(Message::CheckpointFailed);
        };
        let (log, log_text) = self.own();
        let number = self.next_checkpoint;
        self.next_checkpoint += 1;
        let new = NewCheckpoint {
            taken,
            log,
            log_text,
            ancestors: self.ancestors.clone(),
            own_log: self.machine.own_log(),
            epoch: self.epoch,
            number,
            last_crc,
            existing: self.checkpoints.clone(),
            pinned: self.pinned,
        };
        self.storing_checkpoint = true;
        self.job(Work::Checkpoint(Box::new(new)), out);
        None
    }

    /// An operation on the ring has completed.
    pub fn on_event(&mut self, event: Event, ring: &mut Ring, out: &mut Outputs) {
        if self.is_over() {
            if event.token & KINDS == 0 {
                self.reads.drop_part(event.token as u32);
            }
            return;
        }
        if event.token & (TOKEN_DTL_RECEIVE | TOKEN_DTL_SEND) != 0 {
            self.dtl_event(event.token, event.result, ring, out);
        } else if event.token & (TOKEN_FEED_RECEIVE | TOKEN_FEED_SEND) != 0 {
            self.feed_event(event.token, event.result, ring);
        } else if event.token & TOKEN_SYNC != 0 {
            if let Some(message) = self.sync_done(event.result) {
                self.run(message, ring, out);
            }
        } else {
            self.part_done(event.token as u32, event.result, ring, out);
        }
    }

    /// A worker thread has done a job.
    pub fn on_job(&mut self, outcome: Outcome, ring: &mut Ring, out: &mut Outputs) {
        if self.is_over() {
            if let Outcome::Fetched { part, .. } = outcome {
                self.reads.drop_part(part);
            }
            return;
        }
        let message = match outcome {
            Outcome::Opened { sco, result: Ok(file) } => {
                self.trouble.remove("open");
                self.trouble.remove("files");
                self.spares.insert(sco, file);
                Message::Opened { sco }
            }
            Outcome::Opened { sco, result: Err(error) } => {
                let no_space = error.no_space;
                self.note(if error.no_files { "files" } else { "open" }, error);
                Message::OpenFailed { sco, no_space }
            }
            Outcome::Uploaded { sco, result: Ok(()) } => {
                self.trouble.remove("upload");
                let last = self.machine.scos().get(&sco).map_or(0, |sco| sco.last_sequence);
                self.note_saved(Saved { below: sco + 1, sequence: last }, ring, out);
                Message::Uploaded { sco }
            }
            Outcome::Uploaded { sco, result: Err(error) } => {
                self.note("upload", error);
                Message::UploadFailed { sco }
            }
            Outcome::Unlinked { result } => {
                if let Err(error) = result {
                    self.note("unlink", error);
                }
                return;
            }
            Outcome::Checkpointed(Ok(stored)) => {
                self.storing_checkpoint = false;
                self.trouble.remove("checkpoint");
                self.checkpoints = stored.existing;
                self.forget_last_crcs();
                self.feed_checkpointed(ring);
                Message::CheckpointStored { referenced: stored.referenced }
            }
            Outcome::Checkpointed(Err(error)) => {
                self.storing_checkpoint = false;
                self.note("checkpoint", error);
                Message::CheckpointFailed
            }
            Outcome::Deleted { sco, result: Ok(()) } => {
                self.trouble.remove("delete");
                Message::Deleted { sco }
            }
            Outcome::Deleted { sco, result: Err(error) } => {
                self.note("delete", error);
                Message::DeleteFailed { sco }
            }
            Outcome::Fetched { part, log, sco, result } => {
                self.fetched(part, log, sco, result, ring, out);
                return;
            }
            Outcome::Connected { generation, result } => {
                self.dtl_connected(generation, result, ring, out);
                return;
            }
            Outcome::BatchesRead { generation, result } => {
                self.batches_read(generation, result, ring, out);
                return;
            }
            Outcome::Reached { connection, result } => {
                self.follower_reached(connection, result, ring);
                return;
            }
            Outcome::Indexed { sco, result } => {
                self.index_read(sco, result, ring, out);
                return;
            }
        };
        self.run(message, ring, out);
    }

    fn forget_last_crcs(&mut self) {
        if let Some(position) = self.machine.taken().map(|t| t.position) {
            self.last_crcs = self.last_crcs.split_off(&position);
        }
    }

    pub(crate) fn note(&mut self, kind: &'static str, error: JobFailure) {
        self.trouble.insert(kind, error.why);
    }
}
