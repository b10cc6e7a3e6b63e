//! Requests that were accepted and not completed, in the order of their acceptance.
//!
//! One list through an array of slots, the tag being the index. A cursor divides it: what is
//! before the cursor was sent on the present connection, what is behind it waits. Losing an engine
//! moves the cursor back to the beginning, and that is all that a replay is.

use alloc::vec;
use alloc::vec::Vec;

use format::edge::Command;

use super::gate::{Gate, overlap};

const NONE: u32 = u32::MAX;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Slot {
    command: Command,
    before: u32,
    after: u32,
    sent: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Table {
    slots: Vec<Option<Slot>>,
    first: u32,
    last: u32,
    /// First request that is not sent.
    cursor: u32,
    len: u32,
    sent: u32,
    credits: u32,
    gate: Gate,
}

impl Table {
    pub(super) fn new(entries: u32) -> Self {
        Self {
            slots: vec![None; entries as usize],
            first: NONE,
            last: NONE,
            cursor: NONE,
            len: 0,
            sent: 0,
            credits: 0,
            gate: Gate::new(),
        }
    }

    pub(super) fn len(&self) -> u32 {
        self.len
    }

    pub(super) fn is_free(&self, tag: u32) -> bool {
        self.slots.get(tag as usize).is_some_and(Option::is_none)
    }

    /// Requests that may be on their way at once.
    pub(super) fn set_credits(&mut self, credits: u32) {
        self.credits = credits.min(self.slots.len() as u32);
    }

    /// Some write was sent on the present connection and is not answered.
    pub(super) fn has_sent_writes(&self) -> bool {
        self.slots.iter().flatten().any(|slot| slot.sent && slot.command.verb.is_write())
    }

    fn slot(&mut self, tag: u32) -> Option<&mut Slot> {
        self.slots.get_mut(tag as usize).and_then(Option::as_mut)
    }

    /// Puts a request behind the others. Its tag must be free: that is the caller's promise, since
    /// it chose the tag.
    pub(super) fn accept(&mut self, command: Command) {
        let tag = command.tag;
        assert!(self.is_free(tag), "tag {tag} is in use");
        let before = self.last;
        self.slots[tag as usize] = Some(Slot { command, before, after: NONE, sent: false });
        match self.slot(before) {
            Some(slot) => slot.after = tag,
            None => self.first = tag,
        }
        self.last = tag;
        if self.cursor == NONE {
            self.cursor = tag;
        }
        self.len += 1;
    }

    /// Marks the next request as sent and returns it, unless it has to wait: for credits, or, when
    /// `gated`, for a write to the same bytes.
    pub(super) fn send_next(&mut self, gated: bool) -> Option<Command> {
        if self.sent >= self.credits {
            return None;
        }
        let command = self.slots.get(self.cursor as usize)?.as_ref()?.command;
        if command.verb.is_write() {
            if gated && self.gate.may_conflict(&command) && self.conflicts(&command) {
                return None;
            }
            self.gate.enter(&command);
        }
        let slot = self.slot(self.cursor)?;
        slot.sent = true;
        self.cursor = slot.after;
        self.sent += 1;
        Some(command)
    }

    /// Some write on its way touches the same bytes.
    fn conflicts(&self, command: &Command) -> bool {
        let mut at = self.first;
        while at != self.cursor {
            let Some(slot) = self.slots.get(at as usize).and_then(Option::as_ref) else {
                return false;
            };
            if slot.command.verb.is_write() && overlap(&slot.command, command) {
                return true;
            }
            at = slot.after;
        }
        false
    }

    /// Takes an answered request out; false when the tag is not on its way. (`keep` is a planted
    /// fault.)
    pub(super) fn answer(&mut self, tag: u32, keep: bool) -> bool {
        if !self.slot(tag).is_some_and(|slot| slot.sent) {
            return false;
        }
        if !keep {
            self.remove(tag);
        }
        true
    }

    fn remove(&mut self, tag: u32) {
        let Some(slot) = self.slots[tag as usize].take() else { return };
        match self.slot(slot.before) {
            Some(before) => before.after = slot.after,
            None => self.first = slot.after,
        }
        match self.slot(slot.after) {
            Some(after) => after.before = slot.before,
            None => self.last = slot.before,
        }
        if self.cursor == tag {
            self.cursor = slot.after;
        }
        self.len -= 1;
        if slot.sent {
            self.sent -= 1;
            if slot.command.verb.is_write() {
                self.gate.exit(&slot.command);
            }
        }
    }

    /// Nothing is on its way any more; everything will be sent again, in the same order.
    pub(super) fn rewind(&mut self) {
        self.cursor = self.first;
        self.sent = 0;
        self.gate.clear();
        for slot in self.slots.iter_mut().flatten() {
            slot.sent = false;
        }
    }

    /// Takes the oldest request out; its tag.
    pub(super) fn drop_first(&mut self) -> Option<u32> {
        let tag = self.first;
        self.slot(tag)?;
        self.remove(tag);
        Some(tag)
    }

    /// Planted fault: what was sent is dropped without an answer.
    pub(super) fn forget_sent(&mut self) {
        while self.first != self.cursor && self.drop_first().is_some() {}
    }

    /// Planted fault: the order is turned round.
    pub(super) fn reverse(&mut self) {
        for slot in self.slots.iter_mut().flatten() {
            core::mem::swap(&mut slot.before, &mut slot.after);
        }
        core::mem::swap(&mut self.first, &mut self.last);
        self.cursor = self.first;
    }
}
