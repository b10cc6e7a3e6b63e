//! Data of reads and writes, in pieces of up to 256 KiB.
//!
//! A write's payload is handed to the volume where it was received, as it arrives. A read gets
//! memory with room for the reply's header in front of the data. A structured read is sent piece by
//! piece as the pieces complete, so it never waits for memory while it holds some; a simple reply
//! must be complete before its header can say so, therefore it takes all its memory at once.

use format::nbd::{self, DATA_HEADER_BYTES, SIMPLE_REPLY_BYTES};

use crate::target::{self, Targets};

use super::connection::{Connection, Read};
use super::slots::{Kind, Slot, Whole};
use super::{Core, PIECE_BYTES};
use crate::flow::pool::Place;

impl Connection {
    /// Hands the next piece of a write's payload to the volume; false: more must arrive first.
    #[inline]
    pub(super) fn submit_payload(
        &mut self,
        left: u32,
        core: &mut Core,
        targets: &mut dyn Targets,
    ) -> bool {
        let write = self.write.as_mut().expect("a payload belongs to a write");
        let len = self.input.piece(left, write.offset, write.whole.is_none());
        if len == 0 {
            return false;
        }
        let last = len == left as usize;
        let (cookie, offset) = (write.cookie, write.offset);
        let kind = match (write.whole, last) {
            (None, true) => Kind::Write,
            (Some(whole), _) => Kind::WritePart { whole },
            (None, false) => {
                let whole = core.wholes.insert(Whole::write(cookie, write.fua));
                write.whole = Some(whole);
                Kind::WritePart { whole }
            }
        };
        // Pieces are not made durable one by one: a flush follows the last.
        let fua = write.fua && kind == Kind::Write;
        write.offset += len as u64;
        let place =
            Place { chunk: self.input.chunk(), at: self.input.at() as u32, len: len as u32 };
        let data = self.input.take_slice(len);
        core.pool.hold(place.chunk);
        if let Kind::WritePart { whole } = kind
            && let Some(whole) = core.wholes.get_mut(whole)
        {
            whole.pending += 1;
            whole.open = !last;
        }
        if last {
            self.write = None;
        }
        self.session.consumed(len as u32, &mut core.actions);
        let verb = target::Verb::Write { data, fua };
        self.submit(kind, cookie, offset, place, verb, core, targets);
        true
    }

    /// Submits what can be submitted of the current read; false: memory must come back first.
    #[inline]
    pub(super) fn submit_read(&mut self, core: &mut Core, targets: &mut dyn Targets) -> bool {
        let Some(Read { cookie, offset, left, whole }) = self.read else { return true };
        if self.turn_bytes == 0 {
            return false;
        }
        let structured = self.session.structured();
        if left <= PIECE_BYTES && whole.is_none() {
            let header = if structured { DATA_HEADER_BYTES } else { SIMPLE_REPLY_BYTES };
            let Some(place) = self.output.reserve(header + left as usize, &mut core.pool) else {
                self.queue(core);
                return false;
            };
            self.read = None;
            self.submit_data(Kind::Read, cookie, offset, place, header, core, targets);
            return true;
        }
        if structured {
            self.submit_structured(core, targets)
        } else {
            self.submit_simple(core, targets)
        }
    }

    /// The next piece of a large read with structured replies.
    fn submit_structured(&mut self, core: &mut Core, targets: &mut dyn Targets) -> bool {
        let Some(read) = self.read.as_mut() else { return true };
        let len = piece_len(read.offset, read.left);
        let Some(place) = self.output.reserve(DATA_HEADER_BYTES + len as usize, &mut core.pool)
        else {
            self.queue(core);
            return false;
        };
        let (cookie, offset) = (read.cookie, read.offset);
        let whole = *read.whole.get_or_insert_with(|| {
            core.wholes.insert(Whole { cookie, is_read: true, ..Whole::default() })
        });
        read.offset += u64::from(len);
        read.left -= len;
        let open = read.left > 0;
        if let Some(whole) = core.wholes.get_mut(whole) {
            whole.pending += 1;
            whole.open = open;
        }
        if !open {
            self.read = None;
        }
        let kind = Kind::ReadPart { whole };
        self.submit_data(kind, cookie, offset, place, DATA_HEADER_BYTES, core, targets);
        true
    }

    /// All pieces of a large read with a simple reply.
    fn submit_simple(&mut self, core: &mut Core, targets: &mut dyn Targets) -> bool {
        let Some(Read { cookie, offset, left, .. }) = self.read else { return true };
        let mut lens = Vec::new();
        let mut rest = left;
        while rest > 0 {
            let len = piece_len(offset + u64::from(left - rest), rest);
            let header = if lens.is_empty() { SIMPLE_REPLY_BYTES } else { 0 };
            lens.push(header + len as usize);
            rest -= len;
        }
        if lens.len() > core.pool.reply_chunks() {
            self.read = None;
            self.answer_error(cookie, nbd::error::ENOMEM as i32, core);
            return true;
        }
        let Some(parts) = self.output.reserve_all(&lens, &mut core.pool) else {
            self.queue(core);
            return false;
        };
        self.read = None;
        let pending = parts.len() as u32;
        let whole = Whole { cookie, pending, is_read: true, ..Whole::default() };
        let whole = core.wholes.insert(Whole { parts: parts.clone(), ..whole });
        let mut at = offset;
        for (index, place) in parts.into_iter().enumerate() {
            let header = if index == 0 { SIMPLE_REPLY_BYTES } else { 0 };
            let kind = Kind::ReadPart { whole };
            self.submit_data(kind, cookie, at, place, header, core, targets);
            at += u64::from(place.len) - header as u64;
        }
        true
    }

    #[inline]
    #[expect(clippy::too_many_arguments, reason = "a slot and a request, field by field")]
    fn submit_data(
        &mut self,
        kind: Kind,
        cookie: u64,
        offset: u64,
        place: Place,
        header: usize,
        core: &mut Core,
        targets: &mut dyn Targets,
    ) {
        self.turn_bytes = self.turn_bytes.saturating_sub(place.len as usize);
        let skip = header as u32;
        let data = Place { at: place.at + skip, len: place.len - skip, ..place };
        let verb = target::Verb::Read(core.pool.slice(data));
        self.submit(kind, cookie, offset, place, verb, core, targets);
    }

    /// A read in one piece is done.
    #[inline]
    pub(super) fn complete_read(&mut self, slot: Slot, errno: i32, open: bool, core: &mut Core) {
        if errno != 0 || !open {
            core.pool.release(slot.place.chunk, 1);
            if open {
                self.answer_error(slot.cookie, errno, core);
            }
            return;
        }
        if self.session.structured() {
            self.push_data(slot, true, core);
        } else {
            let header = nbd::simple_reply(0, slot.cookie);
            core.pool.slice(slot.place).write(0, &header);
            self.output.push(slot.place);
        }
        self.answered(core);
    }

    /// A piece of a read is done.
    pub(super) fn complete_read_part(
        &mut self,
        whole: u32,
        slot: Slot,
        errno: i32,
        open: bool,
        core: &mut Core,
    ) {
        if self.session.structured() {
            if errno == 0 && open {
                self.push_data(slot, false, core);
            } else {
                core.pool.release(slot.place.chunk, 1);
            }
        }
        self.complete_part(whole, errno, core);
    }

    /// All pieces of a read are done.
    pub(super) fn answer_whole_read(&mut self, whole: Whole, core: &mut Core) {
        let failed = whole.error != 0;
        for (index, part) in whole.parts.iter().enumerate() {
            if failed {
                core.pool.release(part.chunk, 1);
                continue;
            }
            if index == 0 {
                core.pool.slice(*part).write(0, &nbd::simple_reply(0, whole.cookie));
            }
            self.output.push(*part);
        }
        if failed {
            return self.answer_error(whole.cookie, whole.error, core);
        }
        if self.session.structured() {
            // Behind the data: small replies are moved behind what was pushed before.
            nbd::put_done(self.output.small(), whole.cookie);
        }
        self.answered(core);
    }

    #[inline]
    fn push_data(&mut self, slot: Slot, done: bool, core: &mut Core) {
        let len = slot.place.len - DATA_HEADER_BYTES as u32;
        let header = nbd::data_header(done, slot.cookie, slot.offset, len);
        core.pool.slice(slot.place).write(0, &header);
        self.output.push(slot.place);
    }
}

/// Bytes of the next piece: up to 256 KiB, ending at a cluster so that the following ones start at
/// one.
fn piece_len(offset: u64, left: u32) -> u32 {
    left.min(PIECE_BYTES - (offset % 4096) as u32)
}
