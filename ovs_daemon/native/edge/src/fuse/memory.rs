//! A part of the arena, cut into chunks: a request is received into one, and its data stays there.
//!
//! ```text
//! 0             4016          4096                                     4096 + 256 KiB
//! |  (unused)   | write's head | payload of a write, or data of a read |
//!                   | reply's head
//! ```
//! A mount may hold many chunks while there are enough, and [`HELD_MIN`] when they are scarce: one
//! whose volume does not answer leaves enough for the others. What it may not hold waits in the
//! kernel, in its own queue.

use std::sync::Arc;

use format::fuse::WRITE_BYTES;
use media::{Arena, Slice};

/// Largest read or write, in bytes.
pub(super) const DATA_BYTES: usize = 256 << 10;
/// Where data starts in a chunk.
const DATA_AT: usize = 4096;
/// Bytes of a chunk.
pub(super) const CHUNK_BYTES: usize = DATA_AT + DATA_BYTES;
/// Chunks that a mount may hold.
const HELD_MAX: usize = 64;
/// Chunks that it may hold when less than half of all is free.
const HELD_MIN: usize = 4;

/// See the file's essay.
pub(super) struct Memory {
    arena: Arc<Arena>,
    start: usize,
    count: usize,
    free: Vec<u32>,
}

impl Memory {
    /// The arena from `start` on.
    pub(super) fn new(arena: Arc<Arena>, start: usize) -> Self {
        let count = arena.len().saturating_sub(start) / CHUNK_BYTES;
        assert!(count >= HELD_MIN, "files need at least {} bytes", HELD_MIN * CHUNK_BYTES);
        Self { arena, start, count, free: (0..count as u32).rev().collect() }
    }

    /// A chunk for a mount that holds so many.
    pub(super) fn take(&mut self, held: usize) -> Option<u32> {
        let scarce = self.free.len() * 2 < self.count;
        if held >= if scarce { HELD_MIN } else { HELD_MAX } {
            return None;
        }
        self.free.pop()
    }

    pub(super) fn give_back(&mut self, chunk: u32) {
        debug_assert!(!self.free.contains(&chunk), "chunk {chunk} given back twice");
        self.free.push(chunk);
    }

    /// Where a request is received.
    pub(super) fn request(&self, chunk: u32) -> Slice {
        self.part(chunk, DATA_AT - WRITE_BYTES, WRITE_BYTES + DATA_BYTES)
    }

    /// Where its data is.
    pub(super) fn data(&self, chunk: u32, len: usize) -> Slice {
        self.part(chunk, DATA_AT, len)
    }

    fn part(&self, chunk: u32, at: usize, len: usize) -> Slice {
        let offset = self.start + chunk as usize * CHUNK_BYTES + at;
        self.arena.slice(offset, len).expect("chunks lie inside the arena")
    }

    /// All chunks are free.
    pub(super) fn is_whole(&self) -> bool {
        self.free.len() == self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_mount_leaves_enough_for_the_others() {
        let mut memory = Memory::new(Arena::anonymous(40 * CHUNK_BYTES).unwrap(), 0);
        let mut held = 0;
        while memory.take(held).is_some() {
            held += 1;
        }
        assert_eq!(held, 21, "down to less than half");
        for _ in 0..4 {
            let mine: Vec<u32> = (0..5).map_while(|held| memory.take(held)).collect();
            assert_eq!(mine.len(), 4);
        }
        assert!(!memory.is_whole());
    }
}
