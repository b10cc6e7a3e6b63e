//! A volume's DTL: performs what `machines::dtl::link` decides.
//!
//! A batch is sent from where it was appended from: the log's header and the guest's memory, which
//! stays as it is until the write is answered. What was appended without the DTL node is copied to
//! it from the SCO files.

use std::net::SocketAddr;
use std::time::Duration;

use dtl::{CallError, Caller, Line, LineEvent, Patience, greet, whole_batches};
use format::dtl::Frame;
use format::log::PAGE;
use machines::dtl::link::{Action, Link, Message, Mode, Reason, Saved};
use machines::dtl::{Held, Mark, State};
use machines::volume::Message as LogMessage;
use media::{Fd, File, Ring, Slice};

use crate::jobs::{JobFailure, Unreached, Work};
use crate::shell::{Outputs, Volume};

pub(crate) const TOKEN_DTL_RECEIVE: u64 = 1 << 53;
pub(crate) const TOKEN_DTL_SEND: u64 = 1 << 54;

/// How long the DTL node may take for an answer.
const ANSWER_NS: u64 = 1_000_000_000;
/// How long it may be away before the volume goes on without it.
const AWAY_NS: u64 = 500_000_000;
/// Between two attempts to reach it, at first; twice as long after each, so often.
const DIAL_NS: u64 = 200_000_000;
const DIAL_DOUBLINGS: u32 = 5;
/// For an answer that takes a node nothing but time to hear the question.
const PROBE: Duration = Duration::from_secs(2);
/// Bytes that are copied at a time.
const COPY_BYTES: usize = 1 << 20;

/// With whom, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// When a write is acknowledged.
    pub mode: Mode,
    /// What the registry has recorded.
    pub state: State,
    /// The DTL node's name.
    pub node: String,
    /// Where it listens; `None` only with [`Mode::None`].
    pub address: Option<SocketAddr>,
    /// The cluster.
    pub cluster: format::entry::Uuid,
}

/// Something that the daemon has to decide or to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DtlEvent {
    /// The volume's number on its shard.
    pub volume: u32,
    /// What.
    pub what: DtlNews,
}

/// See [`DtlEvent`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DtlNews {
    /// Record this state; answer with [`Volume::dtl_answer`].
    Propose {
        /// Number of the question.
        proposal: u32,
        /// What is recorded.
        from: State,
        /// What is to be.
        to: State,
        /// The DTL node.
        node: String,
        /// Its address.
        address: Option<SocketAddr>,
    },
    /// The volume answers nobody any more.
    Stopped(Reason),
}

/// For `status`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct DtlStatus {
    pub mode: Mode,
    pub state: State,
    pub node: String,
    pub address: Option<SocketAddr>,
    pub connected: bool,
    pub lag_batches: u64,
    pub lag_bytes: u64,
}

/// A moment that is set in the next turn, which knows the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum When {
    #[default]
    Off,
    Asked,
    At(u64),
}

impl When {
    /// True once, when the moment has come.
    fn come(&mut self, now: u64, after: u64) -> bool {
        match *self {
            When::Asked => *self = When::At(now + after),
            When::At(at) if at <= now => {
                *self = When::Off;
                return true;
            }
            When::At(_) | When::Off => {}
        }
        false
    }

    fn at(self) -> Option<u64> {
        match self {
            When::Off => None,
            When::Asked => Some(0),
            When::At(at) => Some(at),
        }
    }
}

/// The answer that the DTL node owes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Owed {
    /// The newest batch that was sent.
    newest: u64,
    when: When,
}

impl Owed {
    /// Batches up to this sequence are on their way.
    fn sent(&mut self, sequence: u64) {
        (self.newest, self.when) = (self.newest.max(sequence), When::Asked);
    }

    /// An answer to older ones says nothing of those that came after them, but it lives.
    fn heard(&mut self, sequence: u64) {
        self.when = if sequence < self.newest { When::Asked } else { When::Off };
    }
}

/// Copies the log from the SCO files.
#[derive(Debug)]
struct Copier {
    sco: u32,
    page: u32,
    /// The file, its end in pages, and whether that will stay its end.
    file: Option<(File, u32, bool)>,
    /// A thread reads from it.
    reading: bool,
    /// Batches that were sent and are not acknowledged.
    unanswered: Option<u64>,
    /// The end of the log was reported, and nothing came since.
    reported: bool,
}

/// See the top of the file.
#[derive(Debug)]
pub(crate) struct Dtl {
    pair: Pair,
    link: Link,
    actions: Vec<Action>,
    line: Option<Line>,
    heard: Vec<LineEvent>,
    copier: Option<Copier>,
    proposal: u32,
    away: When,
    answer: Owed,
    /// Number of the connection that is to be made.
    dial: Option<u32>,
    dial_not_before: u64,
    /// Attempts to connect since the node last took something.
    attempts: u32,
    /// Why the last attempt to reach the node failed.
    pub(crate) trouble: Option<String>,
}

impl Dtl {
    fn lost(&mut self) {
        let generation = self.link.generation();
        self.link.step(Message::Lost { generation }, &mut self.actions);
    }

    fn send(&mut self, frame: Frame, head: &[u8], data: &[Slice], ring: &mut Ring) {
        let Some(line) = &mut self.line else { return };
        if line.send(frame, head, data, ring).is_err() {
            self.lost();
        }
    }

    /// When the next turn has to come.
    pub(crate) fn wakes_at(&self) -> Option<u64> {
        let dial = self.dial.map(|_| self.dial_not_before);
        [self.away.at(), self.answer.when.at(), dial].into_iter().flatten().min()
    }

    /// A batch waits for the DTL node or for the registry.
    pub(crate) fn is_waiting(&self) -> bool {
        self.link.is_waiting()
    }
}

/// A worker's part of connecting: hello, and what the node holds.
pub(crate) fn connect(caller: &Caller, patience: Patience) -> Result<(Fd, Held), Unreached> {
    match greet(caller, patience) {
        Ok((fd, greeted)) => {
            let end = greeted.end.map(|(sequence, crc)| Mark { sequence, crc });
            Ok((fd, Held { begin: greeted.begin, end, suspect: greeted.suspect }))
        }
        Err(CallError::Refused { .. }) => Err(Unreached::Refused),
        Err(error) => {
            let why = format!("the DTL node at {}: {error}", caller.address);
            // It may stand still, or have much to read of this volume.
            let away = match error {
                CallError::Unreachable(_) => true,
                CallError::Late(_) => !caller.is_there(Patience(PROBE)),
                _ => false,
            };
            Err(if away { Unreached::Away(why) } else { Unreached::Failed(why) })
        }
    }
}

/// A worker's part of copying: whole batches from a page on; their pages and the last sequence.
pub(crate) fn read_batches(
    file: &File,
    from: u32,
    end: u32,
) -> Result<(Slice, u32, u64), JobFailure> {
    let mut bytes = Vec::new();
    let left = (end - from) as usize * PAGE;
    let mut want = COPY_BYTES.min(left);
    loop {
        bytes.resize(want, 0);
        file.read_bytes_at(u64::from(from) * PAGE as u64, &mut bytes)?;
        match whole_batches(&bytes, from == 0) {
            Ok((len, mark)) => {
                let slice = Slice::copy_of(&bytes[..len]);
                let slice = slice.map_err(|e| JobFailure::other(e.to_string()))?;
                return Ok((slice, (len / PAGE) as u32, mark.sequence));
            }
            Err(pages) if pages * PAGE > want && pages * PAGE <= left => want = pages * PAGE,
            Err(_) => {
                let path = file.path().display();
                let why = format!("page {from} of {path} is not the start of a batch");
                return Err(JobFailure { corrupt: true, ..JobFailure::other(why) });
            }
        }
    }
}

impl Volume {
    /// Pairs the volume with a DTL node, or with another one.
    pub fn pair(&mut self, pair: Pair, ring: &mut Ring, out: &mut Outputs) {
        let (mode, state) = (pair.mode, pair.state);
        if let Some(dtl) = &mut self.dtl {
            dtl.pair = pair;
            self.dtl_step(Some(Message::Paired { mode, state }), ring, out);
            return;
        }
        if mode == Mode::None && state == State::Standalone {
            return;
        }
        let tail = self.log.tail();
        let last = Mark { sequence: tail.sequence, crc: tail.crc };
        let mut link = Link::new(mode, state, last, self.saved);
        let mut actions = Vec::new();
        link.start(&mut actions);
        self.dtl = Some(Box::new(Dtl {
            pair,
            link,
            actions,
            line: None,
            heard: Vec::new(),
            copier: None,
            proposal: 0,
            away: When::Off,
            answer: Owed::default(),
            dial: None,
            dial_not_before: 0,
            attempts: 0,
            trouble: None,
        }));
        self.dtl_step(None, ring, out);
    }

    /// The registry's answer to a proposal; an old one is ignored.
    pub fn dtl_answer(
        &mut self,
        proposal: u32,
        accepted: bool,
        ring: &mut Ring,
        out: &mut Outputs,
    ) {
        if self.dtl.as_ref().is_some_and(|dtl| dtl.proposal == proposal) {
            self.dtl_step(Some(Message::Answered { accepted }), ring, out);
        }
    }

    /// The DTL lets a SCO that ends with this batch go to the backend. When it does not: not yet,
    /// so the upload is tried again.
    pub(crate) fn dtl_may_upload(&self, sequence: u64) -> bool {
        self.dtl.as_ref().is_none_or(|dtl| dtl.link.may_upload(sequence))
    }

    /// Lets go of the DTL node, before the volume is closed.
    pub fn leave_dtl(&mut self, ring: &mut Ring) {
        if let Some(line) = self.dtl.take().and_then(|dtl| dtl.line) {
            line.close(ring);
        }
    }

    /// The node's lease has ended: the volume stops, with a DTL or without.
    pub fn expire(&mut self, ring: &mut Ring, out: &mut Outputs) {
        match self.dtl {
            Some(_) => self.dtl_step(Some(Message::LeaseExpired), ring, out),
            None => self.stop(Reason::Lease, out),
        }
    }

    fn stop(&mut self, reason: Reason, out: &mut Outputs) {
        if self.stopped.is_none() {
            self.stopped = Some(reason);
            self.standing.end();
            self.quiesce();
            out.events.push(DtlEvent { volume: self.number, what: DtlNews::Stopped(reason) });
        }
    }

    /// Why it answers nobody any more, when it does not.
    pub fn stopped(&self) -> Option<Reason> {
        self.stopped
    }

    /// Gives the link a message and does what follows.
    pub(crate) fn dtl_step(
        &mut self,
        message: Option<Message>,
        ring: &mut Ring,
        out: &mut Outputs,
    ) {
        if self.dtl_released(message, ring, out) {
            self.run(LogMessage::Appended, ring, out);
        }
    }

    /// The same; true: the batch in flight may be acknowledged.
    pub(crate) fn dtl_released(
        &mut self,
        message: Option<Message>,
        ring: &mut Ring,
        out: &mut Outputs,
    ) -> bool {
        let Some(mut dtl) = self.dtl.take() else { return false };
        if let Some(message) = message {
            dtl.link.step(message, &mut dtl.actions);
        }
        let (mut next, mut released) = (0, false);
        loop {
            while let Some(action) = dtl.actions.get(next).copied() {
                next += 1;
                released |= self.dtl_perform(&mut dtl, action, ring, out);
            }
            self.copy_on(&mut dtl, ring, out);
            if next == dtl.actions.len() {
                break;
            }
        }
        dtl.actions.clear();
        self.dtl = Some(dtl);
        released
    }

    fn dtl_perform(
        &mut self,
        dtl: &mut Dtl,
        action: Action,
        ring: &mut Ring,
        out: &mut Outputs,
    ) -> bool {
        match action {
            Action::Connect { generation } => {
                self.hang_up(dtl, ring);
                dtl.dial = Some(generation);
            }
            Action::Disconnect => {
                self.hang_up(dtl, ring);
                (dtl.dial, dtl.away) = (None, When::Off);
                dtl.proposal += 1;
            }
            Action::Resume => dtl.send(Frame::Resume, &[], &[], ring),
            Action::Copy => {
                dtl.send(Frame::Fresh, &[], &[], ring);
                dtl.copier = Some(Copier {
                    sco: self.saved.below,
                    page: 0,
                    file: None,
                    reading: false,
                    unanswered: None,
                    reported: false,
                });
            }
            Action::StopCopying => dtl.copier = None,
            Action::Send => self.send_batch(dtl, ring),
            Action::Release => return true,
            Action::Propose { from, to } => {
                dtl.proposal += 1;
                let (node, address) = (dtl.pair.node.clone(), dtl.pair.address);
                let what = DtlNews::Propose { proposal: dtl.proposal, from, to, node, address };
                out.events.push(DtlEvent { volume: self.number, what });
            }
            Action::WaitForKeeper => dtl.away = When::Asked,
            Action::Trim { below } => dtl.send(Frame::Trim { below }, &[], &[], ring),
            Action::Stop(reason) => self.stop(reason, out),
        }
        false
    }

    fn hang_up(&self, dtl: &mut Dtl, ring: &mut Ring) {
        if let Some(line) = dtl.line.take() {
            line.close(ring);
        }
        (dtl.copier, dtl.answer) = (None, Owed::default());
    }

    /// Sends the batch in flight.
    fn send_batch(&mut self, dtl: &mut Dtl, ring: &mut Ring) {
        let mut data = std::mem::take(&mut self.append_data);
        if data.is_empty() {
            self.gather(&mut data);
        }
        let head = self.log.header();
        let bytes = head.len() + data.iter().map(Slice::len).sum::<usize>();
        dtl.send(Frame::Append { payload: bytes as u32 }, head, &data, ring);
        dtl.answer.sent(self.log.tail().sequence);
        self.append_data = data;
    }

    /// Copies on, as far as that goes without waiting.
    fn copy_on(&mut self, dtl: &mut Dtl, ring: &mut Ring, out: &mut Outputs) {
        loop {
            let Some(copier) = &mut dtl.copier else { return };
            if copier.reading || copier.unanswered.is_some() || dtl.line.is_none() {
                return;
            }
            let file = self.log.get(copier.sco).filter(|file| file.index.end_page > 0);
            if let Some(file) = file {
                let closed = self.log.closed(copier.sco).is_some();
                copier.file = Some((file.file.clone(), file.index.end_page, closed));
            } else if let Some((_, _, closed)) = &mut copier.file {
                // Evicted meanwhile: nothing comes to it any more. If it had more than was seen of
                // it, the DTL node takes nothing that follows, and the copy is begun anew.
                *closed = true;
            }
            match copier.file.clone() {
                Some((file, end, _)) if copier.page < end => {
                    if !self.copy_part(dtl, file, end, ring, out) {
                        return;
                    }
                }
                Some((_, _, false)) => return self.report_copied(dtl),
                Some(_) | None => {
                    let after = copier.sco + u32::from(copier.file.is_some());
                    let Some(next) = self.log.first_from(after) else {
                        return self.report_copied(dtl);
                    };
                    (copier.sco, copier.page, copier.file) = (next, 0, None);
                }
            }
        }
    }

    fn report_copied(&self, dtl: &mut Dtl) {
        if let Some(copier) = &mut dtl.copier
            && !std::mem::replace(&mut copier.reported, true)
        {
            let generation = dtl.link.generation();
            dtl.link.step(Message::Copied { generation }, &mut dtl.actions);
        }
    }

    /// Sends what is in the page cache at the end of the log at once: only so does copying ever
    /// catch up with a guest that writes all the time. Anything else is read by a thread. True: it
    /// is sent.
    fn copy_part(
        &self,
        dtl: &mut Dtl,
        file: File,
        end: u32,
        ring: &mut Ring,
        out: &mut Outputs,
    ) -> bool {
        let Some(copier) = &mut dtl.copier else { return false };
        let (from, pages) = (copier.page, end - copier.page);
        let bytes = pages as usize * PAGE;
        let newest = self.log.first_from(copier.sco + 1).is_none();
        if newest
            && bytes <= COPY_BYTES
            && let Ok(slice) = Slice::zeroed(bytes)
            && let Ok(true) = file.read_cached(u64::from(from) * PAGE as u64, &slice)
        {
            (copier.page, copier.reported) = (end, false);
            if dtl.link.mode() == Mode::Async {
                copier.unanswered = Some(self.log.tail().sequence);
            }
            dtl.send(Frame::Append { payload: bytes as u32 }, &[], &[slice], ring);
            dtl.answer.sent(self.log.tail().sequence);
            return true;
        }
        copier.reading = true;
        let generation = dtl.link.generation();
        self.job(Work::Batches { generation, file, from, end }, out);
        false
    }

    /// A worker has read batches for the copier.
    pub(crate) fn batches_read(
        &mut self,
        generation: u32,
        result: Result<(Slice, u32, u64), JobFailure>,
        ring: &mut Ring,
        out: &mut Outputs,
    ) {
        let Some(dtl) = &mut self.dtl else { return };
        let Some(copier) = &mut dtl.copier else { return };
        if dtl.link.generation() != generation || !copier.reading {
            return;
        }
        copier.reading = false;
        match result {
            Ok((slice, pages, sequence)) => {
                (copier.page, copier.reported) = (copier.page + pages, false);
                copier.unanswered = Some(sequence);
                let payload = slice.len() as u32;
                dtl.send(Frame::Append { payload }, &[], &[slice], ring);
                dtl.answer.sent(sequence);
                self.dtl_step(None, ring, out);
            }
            Err(error) => {
                self.note("read", error);
                self.dtl_step(Some(Message::Lost { generation }), ring, out);
            }
        }
    }

    /// A worker has reached the DTL node, or not.
    pub(crate) fn dtl_connected(
        &mut self,
        generation: u32,
        result: Result<(Fd, Held), Unreached>,
        ring: &mut Ring,
        out: &mut Outputs,
    ) {
        let tokens = [TOKEN_DTL_RECEIVE, TOKEN_DTL_SEND].map(|kind| self.token(kind, generation));
        let Some(dtl) = &mut self.dtl else { return };
        if dtl.link.generation() != generation || dtl.link.stopped().is_some() {
            return;
        }
        let message = match result {
            Ok((fd, held)) => match Line::new(fd, tokens[0], tokens[1], ring) {
                Ok(line) => {
                    (dtl.line, dtl.trouble) = (Some(line), None);
                    Message::Connected { generation, held }
                }
                Err(error) => {
                    dtl.trouble = Some(error.to_string());
                    Message::Lost { generation }
                }
            },
            Err(Unreached::Refused) => Message::Refused { generation },
            Err(error) => {
                dtl.trouble = Some(error.to_string());
                Message::Lost { generation }
            }
        };
        self.dtl_step(Some(message), ring, out);
    }

    /// A receive or send of the line has completed.
    pub(crate) fn dtl_event(
        &mut self,
        token: u64,
        result: i32,
        ring: &mut Ring,
        out: &mut Outputs,
    ) {
        let generation = token as u32;
        let Some(dtl) = &mut self.dtl else { return };
        if dtl.link.generation() != generation {
            return;
        }
        let Some(line) = &mut dtl.line else { return };
        let mut heard = std::mem::take(&mut dtl.heard);
        let alive = if token & TOKEN_DTL_SEND != 0 {
            line.sent(result, ring)
        } else {
            line.received(result, ring, &mut heard)
        };
        for event in heard.drain(..) {
            let message = match event {
                LineEvent::Refused => Message::Refused { generation },
                LineEvent::Acknowledged(sequence) => {
                    self.acknowledged(sequence);
                    Message::Acknowledged { generation, sequence }
                }
            };
            self.dtl_step(Some(message), ring, out);
        }
        if let Some(dtl) = &mut self.dtl {
            dtl.heard = heard;
        }
        let message = (!alive).then_some(Message::Lost { generation });
        self.dtl_step(message, ring, out);
    }

    fn acknowledged(&mut self, sequence: u64) {
        let Some(dtl) = &mut self.dtl else { return };
        dtl.answer.heard(sequence);
        dtl.attempts = 0;
        if let Some(copier) = &mut dtl.copier
            && copier.unanswered.is_some_and(|last| last <= sequence)
        {
            copier.unanswered = None;
        }
    }

    /// What time brings; once a turn.
    pub(crate) fn dtl_turn(&mut self, now: u64, ring: &mut Ring, out: &mut Outputs) {
        let Some(dtl) = &mut self.dtl else { return };
        let generation = dtl.link.generation();
        if dtl.answer.when.come(now, ANSWER_NS) {
            dtl.trouble = Some(format!("the DTL node {} does not answer", dtl.pair.node));
            self.dtl_step(Some(Message::Lost { generation }), ring, out);
        }
        let Some(dtl) = &mut self.dtl else { return };
        if dtl.away.come(now, AWAY_NS) {
            self.dtl_step(Some(Message::Impatient), ring, out);
        }
        let Some(dtl) = &mut self.dtl else { return };
        if let Some(generation) = dtl.dial
            && dtl.dial_not_before <= now
            && let Some(address) = dtl.pair.address
        {
            (dtl.dial, dtl.dial_not_before) = (None, now + (DIAL_NS << dtl.attempts));
            dtl.attempts = (dtl.attempts + 1).min(DIAL_DOUBLINGS);
            let (cluster, epoch) = (dtl.pair.cluster, self.epoch);
            let (volume, _) = self.own();
            let caller = Caller { address, cluster, volume, epoch, generation };
            self.job(Work::Connect { caller }, out);
        }
        // What was appended in this turn is copied now.
        if self.dtl.as_ref().is_some_and(|dtl| dtl.copier.is_some()) {
            self.dtl_step(None, ring, out);
        }
    }

    /// The backend has everything below a SCO.
    pub(crate) fn note_saved(&mut self, saved: Saved, ring: &mut Ring, out: &mut Outputs) {
        self.saved = saved;
        self.dtl_step(Some(Message::Saved(saved)), ring, out);
    }

    /// For `status`.
    pub fn dtl_status(&self) -> Option<DtlStatus> {
        let dtl = self.dtl.as_ref()?;
        let unsaved = || self.log.pages_from(self.saved.below);
        let (lag_batches, lag_pages) = match (dtl.link.lag(), &dtl.copier) {
            (Some(0), _) => (0, 0),
            (Some(batches), Some(copier)) => {
                let pages = self.log.pages_from(copier.sco);
                (batches, pages.saturating_sub(copier.page.into()))
            }
            (Some(batches), None) => {
                (batches, self.machine.batch().map_or(0, |b| b.clusters.into()))
            }
            (None, _) if dtl.link.mode() == Mode::None => (0, 0),
            (None, _) => (self.log.tail().sequence.saturating_sub(self.saved.sequence), unsaved()),
        };
        Some(DtlStatus {
            mode: dtl.link.mode(),
            state: dtl.link.recorded(),
            node: dtl.pair.node.clone(),
            address: dtl.pair.address,
            connected: dtl.link.is_connected(),
            lag_batches,
            lag_bytes: lag_pages * PAGE as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_to_an_older_batch_does_not_end_the_wait_for_a_newer_one() {
        let mut owed = Owed::default();
        owed.sent(5);
        owed.sent(6);
        owed.heard(5);
        assert!(!owed.when.come(10, ANSWER_NS), "its time begins");
        assert!(owed.when.come(10 + ANSWER_NS, ANSWER_NS), "the DTL node hangs");
        owed.sent(7);
        owed.heard(7);
        assert_eq!(owed.when.at(), None);
    }
}
