//! One connection: feeds its session, hands payloads and reads to the volume, answers.

use std::fmt::Display;

use format::nbd::{self, REQUEST_BYTES};
use machines::nbd::{Action, Reason, Request, Session, Verb, Wants};
use media::{Fd, Ring};

use crate::target::{self, Completion, Outcome, Targets, VolumeId};

use super::exports::View;
use super::slots::{Kind, Slot, Whole};
use super::{Core, Stats, TokenKind};
use crate::flow::input::Input;
use crate::flow::output::Output;
use crate::flow::pool::{NONE, Place};

/// A receive that a signal ended, on Linux; it is simply started again.
const EINTR: i32 = 4;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// To be shut down once everything was sent.
    Closing,
    /// To be shut down at once.
    Broken,
    /// Shut down; waits for the ring and the volume to let go of its memory.
    Shut,
}

/// A write whose payload is arriving.
pub(super) struct Write {
    pub(super) cookie: u64,
    /// Where the next piece goes.
    pub(super) offset: u64,
    pub(super) fua: bool,
    pub(super) whole: Option<u32>,
}

/// A read that has not been submitted completely.
pub(super) struct Read {
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) left: u32,
    pub(super) whole: Option<u32>,
}

/// See the module's essay.
pub(super) struct Connection {
    pub(super) fd: Fd,
    pub(super) peer: String,
    pub(super) index: u32,
    /// The only export it may use, or [`NONE`].
    pub(super) only: u32,
    /// The export it uses, or [`NONE`] before it has chosen.
    pub(super) export: u32,
    pub(super) volume: VolumeId,
    /// The listener that counts it among those that have not chosen an export, or [`NONE`].
    pub(super) entrance: u32,
    pub(super) session: Session,
    pub(super) input: Input,
    pub(super) output: Output,
    pub(super) write: Option<Write>,
    pub(super) read: Option<Read>,
    /// Bytes of reads that may still be submitted in this turn.
    pub(super) turn_bytes: usize,
    /// Requests at the volume, counting pieces.
    pub(super) slots: u32,
    pub(super) dirty: bool,
    pub(super) queued: bool,
    receiving: bool,
    /// The client has sent something: receiving will not have to wait.
    readable: bool,
    state: State,
}

impl Connection {
    pub(super) fn new(fd: Fd, peer: String, index: u32, only: u32, core: &mut Core) -> Self {
        let session = Session::new(&mut core.actions);
        let mut connection = Self {
            fd,
            peer,
            index,
            only,
            export: NONE,
            volume: VolumeId(NONE),
            entrance: NONE,
            session,
            input: Input::new(),
            output: Output::new(index),
            write: None,
            read: None,
            turn_bytes: super::TURN_BYTES_MAX,
            slots: 0,
            dirty: false,
            queued: false,
            receiving: false,
            readable: false,
            state: State::Open,
        };
        connection.finish(core);
        connection
    }

    /// Takes the outcome of a `recv`.
    #[inline]
    pub(super) fn received(&mut self, result: i32, core: &mut Core, targets: &mut dyn Targets) {
        self.receiving = false;
        if self.state != State::Open {
            return;
        }
        match result {
            1.. => {
                self.input.received(result as usize);
                self.run(core, targets);
            }
            0 => {
                let partial = self.input.available() > 0;
                self.session.end_of_stream(partial, &mut core.actions);
                self.finish(core);
            }
            _ if -result == EINTR => {}
            _ => {
                let error = std::io::Error::from_raw_os_error(-result);
                self.close(&format_args!("receiving failed: {error}"), true, true, core);
            }
        }
    }

    /// The client has sent something after a pause.
    pub(super) fn becomes_readable(&mut self) {
        self.receiving = false;
        self.readable = true;
    }

    /// Takes the outcome of a `send`.
    #[inline]
    pub(super) fn sent(&mut self, result: i32, core: &mut Core) {
        let complete = self.output.sent(result, &mut core.pool);
        match self.state {
            State::Closing if !complete => self.state = State::Broken,
            State::Open if !complete => {
                let error = std::io::Error::from_raw_os_error((-result).max(0));
                let why = format_args!("the client did not take its replies: {error}");
                self.close(&why, true, true, core);
            }
            _ => {}
        }
    }

    /// Works on what was received until something must be waited for.
    #[inline]
    pub(super) fn run(&mut self, core: &mut Core, targets: &mut dyn Targets) {
        while self.state == State::Open && !self.output.is_congested() {
            if self.read.is_some() {
                if self.submit_read(core, targets) {
                    continue;
                }
                return;
            }
            match self.session.wants() {
                Wants::Bytes(len) => {
                    if self.input.available() < len {
                        return;
                    }
                    self.step(len, core, targets);
                }
                Wants::Payload(left) => {
                    if !self.submit_payload(left, core, targets) {
                        return;
                    }
                }
                Wants::Skip(left) => {
                    let len = self.input.available().min(left as usize);
                    if len == 0 {
                        return;
                    }
                    self.input.skip(len);
                    self.session.consumed(len as u32, &mut core.actions);
                    self.finish(core);
                }
                Wants::Answers | Wants::Nothing => return,
            }
        }
    }

    #[inline]
    fn step(&mut self, len: usize, core: &mut Core, targets: &mut dyn Targets) {
        let view = View { exports: &core.exports, targets: &*targets, only: self.only };
        if len == REQUEST_BYTES {
            let mut bytes = [0; REQUEST_BYTES];
            self.input.take(&mut bytes);
            self.session.step(&bytes, &view, &mut core.actions);
        } else {
            let mut bytes = vec![0; len];
            self.input.take(&mut bytes);
            self.session.step(&bytes, &view, &mut core.actions);
        }
        let mut actions = std::mem::take(&mut core.actions);
        for action in actions.drain(..) {
            match action {
                Action::Request(request) => self.begin(&request, core, targets),
                other => self.perform(other, core),
            }
        }
        core.actions = actions;
    }

    /// Performs actions that cannot be requests.
    pub(super) fn finish(&mut self, core: &mut Core) {
        while let Some(action) = core.actions.pop() {
            // One at most: every caller is a single step of the machine.
            self.perform(action, core);
        }
    }

    fn perform(&mut self, action: Action, core: &mut Core) {
        match action {
            Action::Send(bytes) => self.output.put(&bytes),
            Action::Serve(name) => self.serve(&name, core),
            Action::Close(reason) => {
                let at_once = matches!(
                    reason,
                    Reason::RequestMagic(_) | Reason::OptionMagic(_) | Reason::PeerLeftDuring(_)
                );
                self.close(&reason, !reason.is_clean(), at_once, core);
            }
            Action::Request(_) => unreachable!("requests come from `step` only"),
        }
    }

    fn serve(&mut self, name: &str, core: &mut Core) {
        let Some(index) = core.exports.find(name, self.only) else {
            return self.close(&"its export was withdrawn", true, true, core);
        };
        self.export = index;
        // A client may send requests along with its last option: the answer to the option is first.
        self.output.settle(&mut core.pool);
        if let Some(entry) = core.exports.get(index) {
            self.volume = entry.offer.volume;
        }
        core.log(false, format!("nbd export {name:?}: {} connected", self.peer));
    }

    fn begin(&mut self, request: &Request, core: &mut Core, targets: &mut dyn Targets) {
        let Request { cookie, offset, len, verb } = *request;
        if let Some(stats) = core.exports.stats(self.export) {
            stats.count(request);
        }
        let verb = match verb {
            Verb::Read { .. }
            | Verb::Write { .. }
            | Verb::Trim { .. }
            | Verb::WriteZeroes { .. }
                if len == 0 =>
            {
                return self.answer_plain(cookie, 0, core);
            }
            Verb::Cache => return self.answer_plain(cookie, 0, core),
            Verb::Read { whole: true } if len > super::PIECE_BYTES => {
                return self.answer_error(cookie, nbd::error::EOVERFLOW as i32, core);
            }
            Verb::Read { .. } => {
                self.read = Some(Read { cookie, offset, left: len, whole: None });
                return;
            }
            Verb::Write { fua } => {
                self.write = Some(Write { cookie, offset, fua, whole: None });
                return;
            }
            Verb::Flush => target::Verb::Flush,
            Verb::Trim { fua } => target::Verb::Trim { len: u64::from(len), fua },
            Verb::WriteZeroes { fua } => target::Verb::WriteZeroes { len: u64::from(len), fua },
            Verb::BlockStatus { one } => {
                let max = if one { super::STATUS_ONE_BYTES_MAX } else { super::STATUS_BYTES_MAX };
                let place = Place { chunk: NONE, at: 0, len: 0 };
                let verb = target::Verb::BlockStatus { len: len.min(max) };
                let kind = Kind::Status { one };
                return self.submit(kind, cookie, offset, place, verb, core, targets);
            }
        };
        let place = Place { chunk: NONE, at: 0, len: 0 };
        self.submit(Kind::Plain, cookie, offset, place, verb, core, targets);
    }

    #[inline]
    #[expect(clippy::too_many_arguments, reason = "a slot and a request, field by field")]
    pub(super) fn submit(
        &mut self,
        kind: Kind,
        cookie: u64,
        offset: u64,
        place: Place,
        verb: target::Verb,
        core: &mut Core,
        targets: &mut dyn Targets,
    ) {
        let slot = Slot { connection: self.index, kind, cookie, offset, place };
        let id = core.slots.insert(slot);
        self.slots += 1;
        core.submitted = true;
        targets.submit(self.volume, target::Request { id, offset, verb });
    }

    /// Submits a flush on behalf of a write in pieces that must be durable.
    pub(super) fn submit_flush(&mut self, cookie: u64, core: &mut Core, t: &mut dyn Targets) {
        let place = Place { chunk: NONE, at: 0, len: 0 };
        self.submit(Kind::Plain, cookie, 0, place, target::Verb::Flush, core, t);
    }

    /// Takes an outcome.
    #[inline]
    pub(super) fn complete(&mut self, slot: Slot, completion: Completion, core: &mut Core) {
        self.slots -= 1;
        let open = self.state == State::Open;
        let errno = match completion.outcome {
            Outcome::Failed(errno) => {
                if let Some(stats) = core.exports.stats(self.export) {
                    stats.errors += 1;
                }
                errno.max(1)
            }
            _ => 0,
        };
        match slot.kind {
            Kind::Write => {
                core.pool.release(slot.place.chunk, 1);
                if open {
                    self.answer_plain(slot.cookie, errno, core);
                }
            }
            Kind::Plain => {
                if open {
                    self.answer_plain(slot.cookie, errno, core);
                }
            }
            Kind::Status { one } => match completion.outcome {
                Outcome::Extents(extents) if open => {
                    self.answer_status(slot, one, &extents, core);
                }
                _ if open => {
                    self.answer_error(slot.cookie, errno.max(nbd::error::EIO as i32), core)
                }
                _ => {}
            },
            Kind::Read => {
                self.complete_read(slot, errno, open, core);
            }
            Kind::ReadPart { whole } => {
                self.complete_read_part(whole, slot, errno, open, core);
            }
            Kind::WritePart { whole } => {
                core.pool.release(slot.place.chunk, 1);
                self.complete_part(whole, errno, core);
            }
        }
    }

    /// A piece is done; when it was the last, so is the whole.
    pub(super) fn complete_part(&mut self, index: u32, errno: i32, core: &mut Core) {
        if let Some(whole) = core.wholes.get_mut(index) {
            whole.pending -= 1;
            if whole.error == 0 {
                whole.error = errno;
            }
            self.finish_whole(index, core);
        }
    }

    /// Answers a request in pieces when its last piece is done.
    pub(super) fn finish_whole(&mut self, index: u32, core: &mut Core) {
        if core.wholes.get(index).is_some_and(|whole| whole.open || whole.pending > 0) {
            return;
        }
        let Some(whole) = core.wholes.remove(index) else { return };
        if self.state != State::Open {
            for part in whole.parts {
                core.pool.release(part.chunk, 1);
            }
        } else if whole.is_read {
            self.answer_whole_read(whole, core);
        } else if whole.fua && whole.error == 0 {
            core.flushes.push((self.index, whole.cookie));
        } else {
            self.answer_plain(whole.cookie, whole.error, core);
        }
    }

    /// A simple reply without data; structured replies are a must for reads and status only.
    #[inline]
    pub(super) fn answer_plain(&mut self, cookie: u64, errno: i32, core: &mut Core) {
        let error = if errno == 0 { 0 } else { nbd::wire_error(errno) };
        self.output.put(&nbd::simple_reply(error, cookie));
        self.answered(core);
    }

    /// The error reply of a read or block status.
    pub(super) fn answer_error(&mut self, cookie: u64, errno: i32, core: &mut Core) {
        let error = nbd::wire_error(errno);
        if self.session.structured() {
            nbd::put_error(self.output.small(), cookie, error, "");
        } else {
            self.output.put(&nbd::simple_reply(error, cookie));
        }
        self.answered(core);
    }

    fn answer_status(
        &mut self,
        slot: Slot,
        one: bool,
        extents: &[target::Extent],
        core: &mut Core,
    ) {
        let max = if one { 1 } else { super::EXTENTS_MAX };
        let mut merged: Vec<(u32, u32)> = Vec::new();
        for extent in extents.iter().filter(|extent| extent.len > 0) {
            let bits = if extent.hole { nbd::status::HOLE | nbd::status::ZERO } else { 0 };
            let count = merged.len();
            match merged.last_mut() {
                Some((len, last)) if *last == bits && len.checked_add(extent.len).is_some() => {
                    *len += extent.len;
                }
                _ if count == max => break,
                _ => merged.push((extent.len, bits)),
            }
        }
        if merged.is_empty() {
            return self.answer_error(slot.cookie, nbd::error::EIO as i32, core);
        }
        let context = machines::nbd::ALLOCATION_ID;
        nbd::put_block_status(self.output.small(), slot.cookie, context, &merged);
        self.answered(core);
    }

    #[inline]
    pub(super) fn answered(&mut self, core: &mut Core) {
        // `step` may be going through the actions: this list is then a fresh one.
        self.session.answered(&mut core.actions);
        if !core.actions.is_empty() {
            self.finish(core);
        }
    }

    /// Ends the connection; `at_once`: without sending what waits.
    pub(super) fn close(&mut self, why: &dyn Display, warn: bool, at_once: bool, core: &mut Core) {
        if self.state != State::Open {
            if at_once && self.state == State::Closing {
                self.state = State::Broken;
            }
            return;
        }
        self.state = if at_once { State::Broken } else { State::Closing };
        let whole = self.write.take().and_then(|write| write.whole);
        let whole = whole.or(self.read.take().and_then(|read| read.whole));
        if let Some(index) = whole
            && let Some(whole) = core.wholes.get_mut(index)
        {
            whole.open = false;
            self.finish_whole(index, core);
        }
        let name = match core.exports.get(self.export) {
            Some(entry) => format!("export {:?}", entry.offer.name),
            None => "no export chosen".to_string(),
        };
        core.log(warn, format!("nbd {name}: connection of {} closed: {why}", self.peer));
    }

    /// It has not chosen an export, and can still.
    #[inline]
    pub(super) fn is_choosing(&self) -> bool {
        self.export == NONE && self.state != State::Shut
    }

    /// Ends a connection that has not chosen an export; why is said by whoever calls this.
    pub(super) fn turn_out(&mut self) {
        if self.state != State::Shut {
            self.state = State::Broken;
        }
    }

    /// The end of a turn: sends replies, receives more. False: it is gone and may be forgotten.
    #[inline]
    pub(super) fn end_turn(
        &mut self,
        core: &mut Core,
        ring: &mut Ring,
        targets: &mut dyn Targets,
    ) -> bool {
        // First the replies, so that further reads find their memory free and still in cache.
        self.send(core, ring);
        if self.state == State::Open {
            self.turn_bytes = super::TURN_BYTES_MAX;
            self.run(core, targets);
            self.send(core, ring);
        }
        match self.state {
            State::Open => {
                self.receive(core, ring);
                return true;
            }
            State::Closing if !self.output.is_empty() => return true,
            State::Closing | State::Broken => self.shut(ring),
            State::Shut => {}
        }
        let busy = self.receiving || self.output.is_sending() || self.slots > 0;
        if !busy {
            self.output.drop_waiting(&mut core.pool);
            self.input.close(&mut core.pool);
        }
        busy
    }

    /// Shuts the socket of a closed connection; the client sees its end.
    pub(super) fn shut(&mut self, ring: &mut Ring) {
        ring.shutdown(&self.fd);
        self.state = State::Shut;
    }

    #[inline]
    fn send(&mut self, core: &mut Core, ring: &mut Ring) {
        if matches!(self.state, State::Open | State::Closing) {
            let token = core.token(TokenKind::Send, self.index);
            self.output.send(&self.fd, token, &mut core.pool, ring);
        }
    }

    /// It stopped submitting only to let what is ready go out first.
    pub(super) fn wants_turn(&self) -> bool {
        self.state == State::Open && self.read.is_some() && self.turn_bytes == 0
    }

    /// Starts receiving, unless it would be pointless now.
    #[inline]
    fn receive(&mut self, core: &mut Core, ring: &mut Ring) {
        if self.receiving || self.read.is_some() || self.output.is_congested() {
            return;
        }
        let contiguous = match self.session.wants() {
            Wants::Bytes(len) if self.input.available() < len => len,
            Wants::Payload(_) | Wants::Skip(_) => 1,
            _ => return,
        };
        if !self.readable && core.pool.is_scarce() {
            // Waiting for the client must not hold memory that others could use.
            self.input.let_go(&mut core.pool);
            if self.input.chunk() == NONE {
                ring.poll_readable(&self.fd, core.token(TokenKind::Poll, self.index));
                self.receiving = true;
                return;
            }
        }
        match self.input.room(contiguous, self.export, &mut core.pool) {
            Some(room) => {
                ring.recv(&self.fd, room, core.token(TokenKind::Receive, self.index));
                self.receiving = true;
                self.readable = false;
            }
            None => self.queue(core),
        }
    }

    /// Asks for another try when memory comes back.
    pub(super) fn queue(&mut self, core: &mut Core) {
        if !self.queued {
            self.queued = true;
            core.queue.push_back(self.index);
        }
    }
}

impl Stats {
    fn count(&mut self, request: &Request) {
        let bytes = u64::from(request.len);
        match request.verb {
            Verb::Read { .. } => {
                self.reads += 1;
                self.read_bytes += bytes;
            }
            Verb::Write { .. } => {
                self.writes += 1;
                self.written_bytes += bytes;
            }
            Verb::Flush => self.flushes += 1,
            Verb::Trim { .. } | Verb::WriteZeroes { .. } => self.trims += 1,
            Verb::Cache | Verb::BlockStatus { .. } => self.others += 1,
        }
    }
}

impl Whole {
    /// A write that arrives in pieces, its first one counted by whoever submits it.
    pub(super) fn write(cookie: u64, fua: bool) -> Self {
        Self { cookie, fua, open: true, ..Self::default() }
    }
}
