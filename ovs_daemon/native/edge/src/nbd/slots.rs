//! What is outstanding at the volumes: one slot for each request submitted, found by index.

use crate::target::RequestId;

use super::pool::Place;

/// Numbered entries that are used again.
pub(super) struct Slab<T> {
    entries: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    pub(super) fn new() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }

    #[inline]
    pub(super) fn insert(&mut self, value: T) -> u32 {
        if let Some(index) = self.free.pop() {
            self.entries[index as usize].1 = Some(value);
            return index;
        }
        self.entries.push((0, Some(value)));
        self.entries.len() as u32 - 1
    }

    #[inline]
    pub(super) fn remove(&mut self, index: u32) -> Option<T> {
        let entry = self.entries.get_mut(index as usize)?;
        let value = entry.1.take()?;
        entry.0 = entry.0.wrapping_add(1) & GENERATION_MASK;
        self.free.push(index);
        Some(value)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.entries.get_mut(index as usize)?.1.as_mut()
    }

    pub(super) fn get(&self, index: u32) -> Option<&T> {
        self.entries.get(index as usize)?.1.as_ref()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        let entries = self.entries.iter_mut().enumerate();
        entries.filter_map(|(index, entry)| Some((index as u32, entry.1.as_mut()?)))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let entries = self.entries.iter().enumerate();
        entries.filter_map(|(index, entry)| Some((index as u32, entry.1.as_ref()?)))
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }
}

const GENERATION_MASK: u32 = 0xff_ffff;

/// What a submitted request is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A write in one piece; its payload is `place`.
    Write,
    /// A piece of the write `whole`; its payload is `place`.
    WritePart { whole: u32 },
    /// Flush, trim, write zeroes: nothing but an errno comes back.
    Plain,
    /// A read in one piece; header and data are `place`.
    Read,
    /// A piece of the read `whole`; header and data are `place`.
    ReadPart { whole: u32 },
    /// A block status; `one`: a single extent.
    Status { one: bool },
}

/// One request at a volume.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) connection: u32,
    pub(super) kind: Kind,
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) place: Place,
}

/// A request that is served in several pieces.
#[derive(Debug, Default)]
pub(super) struct Whole {
    pub(super) cookie: u64,
    /// Pieces submitted and not completed.
    pub(super) pending: u32,
    /// More pieces are going to be submitted.
    pub(super) open: bool,
    /// First errno, or 0.
    pub(super) error: i32,
    /// It is a read, not a write.
    pub(super) is_read: bool,
    /// A flush must follow before the answer.
    pub(super) fua: bool,
    /// Pieces of a read that goes out as one simple reply, in order.
    pub(super) parts: Vec<Place>,
}

/// The slots of one server, whose identifiers carry its class in their top 8 bits.
pub(super) struct Slots {
    class: u8,
    slab: Slab<Slot>,
}

impl Slots {
    pub(super) fn new(class: u8) -> Self {
        Self { class, slab: Slab::new() }
    }

    /// `class` (8 bits), generation (24 bits), index (32 bits): an identifier is not used again
    /// soon, so an outcome that is reported twice is noticed.
    #[inline]
    pub(super) fn insert(&mut self, slot: Slot) -> RequestId {
        let index = self.slab.insert(slot);
        let generation = self.slab.entries[index as usize].0;
        let high = u64::from(self.class) << 24 | u64::from(generation);
        RequestId(high << 32 | u64::from(index))
    }

    /// Takes the slot; `None` for an identifier that is not outstanding.
    #[inline]
    pub(super) fn remove(&mut self, id: RequestId) -> Option<Slot> {
        let index = id.0 as u32;
        let generation = (id.0 >> 32) as u32 & GENERATION_MASK;
        if self.slab.entries.get(index as usize)?.0 != generation {
            return None;
        }
        self.slab.remove(index)
    }

    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_is_good_once() {
        let mut slots = Slots::new(7);
        let place = Place { chunk: 0, at: 0, len: 0 };
        let slot = Slot { connection: 3, kind: Kind::Plain, cookie: 1, offset: 0, place };
        let first = slots.insert(slot);
        assert_eq!(first.0 >> 56, 7);
        assert_eq!(slots.remove(first).unwrap().connection, 3);
        let second = slots.insert(slot);
        assert_ne!(first, second);
        assert!(slots.remove(first).is_none());
        assert!(slots.remove(second).is_some());
        assert!(slots.remove(RequestId(99)).is_none());
        assert_eq!(slots.len(), 0);
    }
}
