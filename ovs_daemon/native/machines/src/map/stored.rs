//! Where a chunk was last stored, readable and settable through a shared reference: the checkpoint
//! thread works on a clone of the map while the owner goes on reading and writing its own.
//!
//! Five words, guarded by a state and a version in the first. A writer takes the cell by a
//! compare-and-swap to `BUSY`, stores the other words, then publishes the first. A reader takes the
//! first word, the others, and the first again; any change in between makes it answer None, which
//! is always safe: a chunk without an address is merely stored once more. Nobody waits.
//!
//! Orders: the other words are stored with Release after the cell became `BUSY` and read with
//! Acquire, so a reader that saw a writer's word sees at least its `BUSY` in the last read of the
//! first word. The publication is a Release that pairs with the reader's first Acquire.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// The address of a chunk record in a checkpoint object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stored {
    /// UUID of the log whose checkpoint it is. Not an index as in `Loc::log`: volumes with different
    /// tables of logs share chunks, and the same index means another log in each.
    pub log: [u8; 16],
    /// Number of the checkpoint object in that log.
    pub object: u64,
    /// Place of the record in the object, in bytes.
    pub offset: u64,
    /// Length of the record in bytes.
    pub length: u32,
}

const EMPTY: u64 = 0;
const BUSY: u64 = 1;
const SET: u64 = 2;
const STATE: u64 = 3;
const VERSION: u64 = 0xffff_fffc;
const VERSION_ONE: u64 = 4;

/// `first`: state (2 bits), version (30), length (32). `log`: the UUID's halves, big endian.
#[derive(Debug, Default)]
pub(super) struct StoredCell {
    first: AtomicU64,
    log: [AtomicU64; 2],
    object: AtomicU64,
    offset: AtomicU64,
}

impl StoredCell {
    #[inline]
    pub(super) fn get(&self) -> Option<Stored> {
        self.read(|| {})
    }

    /// `meanwhile` stands for what other threads may do in the middle of a read.
    #[inline]
    fn read(&self, meanwhile: impl FnOnce()) -> Option<Stored> {
        let first = self.first.load(Acquire);
        meanwhile();
        let [high, low] = self.log.each_ref().map(|half| u128::from(half.load(Acquire)));
        let (object, offset) = (self.object.load(Acquire), self.offset.load(Acquire));
        if first & STATE != SET || self.first.load(Relaxed) != first {
            return None;
        }
        Some(Stored {
            log: (high << 64 | low).to_be_bytes(),
            object,
            offset,
            length: (first >> 32) as u32,
        })
    }

    /// False when another thread was setting the address at the same time.
    pub(super) fn set(&self, stored: Stored) -> bool {
        let before = self.first.load(Relaxed);
        let version = before.wrapping_add(VERSION_ONE) & VERSION;
        if before & STATE == BUSY
            || self.first.compare_exchange(before, version | BUSY, Acquire, Relaxed).is_err()
        {
            return false;
        }
        let log = u128::from_be_bytes(stored.log);
        self.log[0].store((log >> 64) as u64, Release);
        self.log[1].store(log as u64, Release);
        self.object.store(stored.object, Release);
        self.offset.store(stored.offset, Release);
        let first = u64::from(stored.length) << 32 | version | SET;
        self.first.store(first, Release);
        true
    }

    /// Forgets the address; the caller is the only one who has the chunk.
    #[inline]
    pub(super) fn clear(&mut self) {
        *self.first.get_mut() = EMPTY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(number: u64) -> Stored {
        Stored { log: [number as u8; 16], object: number, offset: number * 3, length: 5 }
    }

    #[test]
    fn a_read_that_a_write_overtakes_answers_none() {
        let cell = StoredCell::default();
        assert_eq!(cell.read(|| assert!(cell.set(stored(1)))), None);
        assert_eq!(cell.read(|| assert!(cell.set(stored(2)))), None);
        // The first word would be the same but for its version.
        assert_eq!(cell.read(|| assert!(cell.set(stored(3)))), None);
        assert_eq!(cell.get(), Some(stored(3)));
    }

    #[test]
    fn a_cell_that_is_being_set_is_left_alone() {
        let cell = StoredCell::default();
        cell.first.store(BUSY, Relaxed);
        assert_eq!(cell.get(), None);
        assert!(!cell.set(stored(1)));
        assert_eq!((cell.first.load(Relaxed), cell.object.load(Relaxed)), (BUSY, 0));
    }
}
