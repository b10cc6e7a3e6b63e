//! The arena, cut into chunks: what is received and what is sent lies here.
//!
//! A chunk counts its users: the connection that receives into it, each request whose payload lies
//! in it, each reply that waits to be sent. The last one gives it back. Free chunks are used again
//! last-in-first-out, so that a busy server stays within the few chunks that its caches hold.
//!
//! Two rules keep one connection from starving the others. Receiving never takes the last quarter
//! of the chunks, because replies need some to make progress. And when less than half is free, an
//! export whose requests already pin [`PINNED_MIN`] chunks gets no further one: a volume that
//! cannot serve now (its guests wait) must not hold the memory of those that can.

use std::sync::Arc;

use media::{Arena, Slice};

/// Bytes of a chunk: the largest piece of a read or write, with room for headers and remainders.
pub(super) const CHUNK_BYTES: usize = (256 + 4) << 10;
/// No chunk, no export.
pub(super) const NONE: u32 = u32::MAX;
/// Receive chunks that every export may hold even when memory is scarce.
const PINNED_MIN: u32 = 2;

/// A part of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) chunk: u32,
    pub(super) at: u32,
    pub(super) len: u32,
}

struct Chunk {
    users: u32,
    /// The export on whose behalf it was taken to receive.
    export: u32,
}

/// See the module's essay.
pub(super) struct Pool {
    arena: Arc<Arena>,
    chunks: Vec<Chunk>,
    free: Vec<u32>,
    /// Receive chunks in use by each export.
    pinned: Vec<u32>,
    /// Where the next reply goes, and up to where that chunk is used.
    current: Option<(u32, usize)>,
}

impl Pool {
    pub(super) fn new(arena: Arc<Arena>) -> Self {
        let count = arena.len() / CHUNK_BYTES;
        assert!(count >= 4, "an arena for NBD needs at least {} bytes", 4 * CHUNK_BYTES);
        Self {
            arena,
            chunks: (0..count).map(|_| Chunk { users: 0, export: NONE }).collect(),
            free: (0..count as u32).rev().collect(),
            pinned: Vec::new(),
            current: None,
        }
    }

    /// Less than half is free: connections that wait for their client should hold nothing.
    pub(super) fn is_scarce(&self) -> bool {
        self.free.len() * 2 < self.chunks.len()
    }

    /// A chunk to receive into; the caller is its first user.
    pub(super) fn take_to_receive(&mut self, export: u32) -> Option<u32> {
        if self.free.len() * 4 <= self.chunks.len() {
            return None;
        }
        let pinned = self.pinned.get(export as usize).copied().unwrap_or(0);
        if self.is_scarce() && pinned >= PINNED_MIN {
            return None;
        }
        let chunk = self.take()?;
        self.chunks[chunk as usize].export = export;
        if export != NONE {
            if self.pinned.len() <= export as usize {
                self.pinned.resize(export as usize + 1, 0);
            }
            self.pinned[export as usize] += 1;
        }
        Some(chunk)
    }

    fn take(&mut self) -> Option<u32> {
        let chunk = self.free.pop()?;
        self.chunks[chunk as usize] = Chunk { users: 1, export: NONE };
        Some(chunk)
    }

    /// One more user.
    #[inline]
    pub(super) fn hold(&mut self, chunk: u32) {
        self.chunks[chunk as usize].users += 1;
    }

    /// So many users fewer.
    #[inline]
    pub(super) fn release(&mut self, chunk: u32, users: u32) {
        let entry = &mut self.chunks[chunk as usize];
        assert!(entry.users >= users, "chunk {chunk} released more often than held");
        entry.users -= users;
        if entry.users == 0 {
            if entry.export != NONE {
                self.pinned[entry.export as usize] -= 1;
            }
            self.free.push(chunk);
        }
    }

    /// The caller, who is one, is the only user.
    #[inline]
    pub(super) fn is_sole_user(&self, chunk: u32) -> bool {
        self.chunks[chunk as usize].users == 1
    }

    /// How many chunks replies can count on, whatever is being received.
    pub(super) fn reply_chunks(&self) -> usize {
        self.chunks.len() / 4
    }

    /// The memory of a whole chunk.
    pub(super) fn memory(&self, chunk: u32) -> Slice {
        self.slice(Place { chunk, at: 0, len: CHUNK_BYTES as u32 })
    }

    /// The memory of a place.
    #[inline]
    pub(super) fn slice(&self, place: Place) -> Slice {
        let offset = place.chunk as usize * CHUNK_BYTES + place.at as usize;
        self.arena.slice(offset, place.len as usize).expect("chunks lie inside the arena")
    }

    /// Memory for a reply of up to a chunk, right behind the one before it where possible, so that
    /// the replies of a turn are one piece. The caller is a user of its chunk.
    #[inline]
    pub(super) fn reserve(&mut self, len: usize) -> Option<Place> {
        debug_assert!(len <= CHUNK_BYTES, "longer than a chunk");
        let (chunk, used) = match self.current {
            Some((chunk, _)) if self.is_sole_user(chunk) => (chunk, 0),
            Some((chunk, used)) if used + len <= CHUNK_BYTES => (chunk, used),
            _ => {
                let fresh = self.take()?;
                if let Some((old, _)) = self.current {
                    self.release(old, 1);
                }
                (fresh, 0)
            }
        };
        self.current = Some((chunk, used + len));
        self.hold(chunk);
        Some(Place { chunk, at: used as u32, len: len as u32 })
    }

    /// Memory for all parts of one reply (bytes each), or none at all: whoever holds some and
    /// waits for more could wait for another who does the same.
    pub(super) fn reserve_all(&mut self, lens: &[usize]) -> Option<Vec<Place>> {
        if self.free.len() < lens.len() {
            return None;
        }
        lens.iter().map(|len| self.reserve(*len)).collect()
    }

    #[cfg(test)]
    pub(super) fn free_chunks(&self) -> usize {
        self.free.len() + usize::from(self.current.is_some_and(|(c, _)| self.is_sole_user(c)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(chunks: usize) -> Pool {
        Pool::new(Arena::anonymous(chunks * CHUNK_BYTES).unwrap())
    }

    #[test]
    fn replies_of_a_turn_are_adjacent_and_their_chunk_is_used_again() {
        let mut pool = pool(4);
        let first = pool.reserve(100).unwrap();
        let second = pool.reserve(50).unwrap();
        assert_eq!((first.chunk, first.at + first.len), (second.chunk, second.at));
        pool.release(first.chunk, 2);
        assert_eq!(pool.reserve(10).unwrap(), Place { len: 10, ..first });
        let other = pool.reserve(CHUNK_BYTES).unwrap();
        assert_ne!(other.chunk, first.chunk);
        pool.release(first.chunk, 1);
        pool.release(other.chunk, 1);
        assert_eq!(pool.free_chunks(), 4);
    }

    #[test]
    fn receiving_leaves_memory_for_replies_and_for_other_exports() {
        let mut pool = pool(16);
        let taken: Vec<u32> = std::iter::from_fn(|| pool.take_to_receive(0)).collect();
        assert_eq!(taken.len(), 9, "down to less than half");
        let others: Vec<u32> = (1..9).filter_map(|export| pool.take_to_receive(export)).collect();
        assert_eq!(others.len(), 3, "down to a quarter");
        for _ in 0..4 {
            pool.reserve(CHUNK_BYTES).unwrap();
        }
        assert!(pool.reserve(1).is_none());
        pool.release(taken[0], 1);
        assert!(pool.reserve_all(&[1, CHUNK_BYTES]).is_none());
        assert!(pool.reserve_all(&[CHUNK_BYTES]).is_some());
    }
}
