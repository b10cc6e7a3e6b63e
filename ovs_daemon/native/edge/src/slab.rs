//! Numbered entries, found by index, and identifiers of requests made of them.

use crate::target::RequestId;

/// Numbered entries that are used again.
pub(crate) struct Slab<T> {
    entries: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    pub(crate) fn new() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }

    #[inline]
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        if let Some(index) = self.free.pop() {
            self.entries[index as usize].1 = Some(value);
            return index;
        }
        self.entries.push((0, Some(value)));
        self.entries.len() as u32 - 1
    }

    #[inline]
    pub(crate) fn remove(&mut self, index: u32) -> Option<T> {
        let entry = self.entries.get_mut(index as usize)?;
        let value = entry.1.take()?;
        entry.0 = entry.0.wrapping_add(1) & GENERATION_MASK;
        self.free.push(index);
        Some(value)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.entries.get_mut(index as usize)?.1.as_mut()
    }

    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        self.entries.get(index as usize)?.1.as_ref()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        let entries = self.entries.iter_mut().enumerate();
        entries.filter_map(|(index, entry)| Some((index as u32, entry.1.as_mut()?)))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let entries = self.entries.iter().enumerate();
        entries.filter_map(|(index, entry)| Some((index as u32, entry.1.as_ref()?)))
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }
}

const GENERATION_MASK: u32 = 0xff_ffff;

/// The requests of one front end, whose identifiers carry its class in their top 8 bits.
pub(crate) struct Slots<T> {
    class: u8,
    slab: Slab<T>,
}

impl<T> Slots<T> {
    pub(crate) fn new(class: u8) -> Self {
        Self { class, slab: Slab::new() }
    }

    /// `class` (8 bits), generation (24 bits), index (32 bits): an identifier is not used again
    /// soon, so an outcome that is reported twice is noticed.
    #[inline]
    pub(crate) fn insert(&mut self, slot: T) -> RequestId {
        let index = self.slab.insert(slot);
        let generation = self.slab.entries[index as usize].0;
        let high = u64::from(self.class) << 24 | u64::from(generation);
        RequestId(high << 32 | u64::from(index))
    }

    /// Takes the slot; `None` for an identifier that is not outstanding.
    #[inline]
    pub(crate) fn remove(&mut self, id: RequestId) -> Option<T> {
        let index = id.0 as u32;
        let generation = (id.0 >> 32) as u32 & GENERATION_MASK;
        if self.slab.entries.get(index as usize)?.0 != generation {
            return None;
        }
        self.slab.remove(index)
    }

    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_is_good_once() {
        let mut slots = Slots::new(7);
        let slot = "asked";
        let first = slots.insert(slot);
        assert_eq!(first.0 >> 56, 7);
        assert_eq!(slots.remove(first).unwrap(), slot);
        let second = slots.insert(slot);
        assert_ne!(first, second);
        assert!(slots.remove(first).is_none());
        assert!(slots.remove(second).is_some());
        assert!(slots.remove(RequestId(99)).is_none());
        assert_eq!(slots.len(), 0);
    }
}
