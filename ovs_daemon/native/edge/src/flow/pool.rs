//! The arena, cut into chunks: what is received and what is sent lies here.
//!
//! A chunk counts its users: the connection that receives into it, each request whose payload lies
//! in it, each reply that waits to be sent. The last one gives it back. Free chunks are used again
//! last-in-first-out, so that a busy server stays within the few chunks that its caches hold.
//!
//! What keeps one client from starving the others:
//! - receiving never takes the last quarter of the chunks, which replies need to make progress;
//! - when less than half is free, an export whose unanswered writes pin [`PINNED_MIN`] chunks gets
//!   no further one: a volume that cannot serve now (its guests wait) must not hold the memory of
//!   those that can;
//! - replies of one connection hold a sixteenth of the chunks at most, and when less than half is
//!   free [`REPLYING_MIN`]: a client that takes no replies does not hold those of the others.

use std::sync::Arc;

use media::{Arena, Slice};

/// Bytes of a chunk: the largest piece of a read or write, with room for headers and remainders.
pub(crate) const CHUNK_BYTES: usize = (256 + 4) << 10;
/// No chunk, no export.
pub(crate) const NONE: u32 = u32::MAX;
/// Chunks that the unanswered writes of an export may pin even when memory is scarce.
const PINNED_MIN: u32 = 2;
/// Chunks that the replies of a connection may hold even when memory is scarce.
const REPLYING_MIN: u32 = 2;

/// A part of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) chunk: u32,
    pub(crate) at: u32,
    pub(crate) len: u32,
}

/// On whose account a chunk is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Account {
    /// A connection receives into it: every connection may have one.
    Receiver,
    /// Only unanswered writes of this export are left in it.
    Export(u32),
    /// Replies of this connection.
    Connection(u32),
}

struct Chunk {
    users: u32,
    account: Account,
}

/// Chunks by index of an export or a connection.
#[derive(Default)]
struct Counts(Vec<u32>);

impl Counts {
    fn get(&self, index: u32) -> u32 {
        self.0.get(index as usize).copied().unwrap_or(0)
    }

    fn add(&mut self, index: u32) {
        if self.0.len() <= index as usize {
            self.0.resize(index as usize + 1, 0);
        }
        self.0[index as usize] += 1;
    }

    fn remove(&mut self, index: u32) {
        self.0[index as usize] -= 1;
    }
}

/// See the module's essay.
pub(crate) struct Pool {
    arena: Arc<Arena>,
    chunks: Vec<Chunk>,
    free: Vec<u32>,
    pinned: Counts,
    replying: Counts,
    freed: bool,
}

impl Pool {
    /// Chunks in the first `bytes` of the arena.
    pub(crate) fn new(arena: Arc<Arena>, bytes: usize) -> Self {
        let count = arena.len().min(bytes) / CHUNK_BYTES;
        assert!(count >= 4, "an arena for NBD needs at least {} bytes", 4 * CHUNK_BYTES);
        let chunk = |_| Chunk { users: 0, account: Account::Receiver };
        Self {
            arena,
            chunks: (0..count).map(chunk).collect(),
            free: (0..count as u32).rev().collect(),
            pinned: Counts::default(),
            replying: Counts::default(),
            freed: false,
        }
    }

    /// Less than half is free: connections that wait for their client should hold nothing.
    pub(crate) fn is_scarce(&self) -> bool {
        self.free.len() * 2 < self.chunks.len()
    }

    /// A chunk to receive into, for a connection that has none; the caller is its first user.
    pub(crate) fn take_to_receive(&mut self) -> Option<u32> {
        if self.free.len() * 4 <= self.chunks.len() {
            return None;
        }
        self.take(Account::Receiver)
    }

    /// Another chunk to receive into, for a connection of `export` that leaves its chunk `old` to
    /// the writes in it. The caller is the first user of the new one and no user of `old` any more.
    pub(crate) fn replace_to_receive(&mut self, old: u32, export: u32) -> Option<u32> {
        if export != NONE && self.is_scarce() && self.pinned.get(export) >= PINNED_MIN {
            return None;
        }
        let fresh = self.take_to_receive()?;
        if export != NONE {
            self.chunks[old as usize].account = Account::Export(export);
            self.pinned.add(export);
        }
        self.release(old, 1);
        Some(fresh)
    }

    /// A chunk for the replies of a connection; the caller is its first user.
    pub(crate) fn take_to_reply(&mut self, connection: u32) -> Option<u32> {
        if self.replying.get(connection) >= self.replying_max() {
            return None;
        }
        self.take_for(connection)
    }

    /// So many chunks for one reply of a connection (each with the caller as its first user), or
    /// none at all: whoever holds some and waits for more could wait for another who does the same.
    /// One such reply at a time may be larger than a connection's share.
    pub(crate) fn take_all_to_reply(&mut self, connection: u32, count: usize) -> Option<Vec<u32>> {
        let held = self.replying.get(connection);
        let too_many = held + count as u32 > self.replying_max() && held >= REPLYING_MIN;
        if too_many || self.free.len() < count {
            return None;
        }
        (0..count).map(|_| self.take_for(connection)).collect()
    }

    fn replying_max(&self) -> u32 {
        if self.is_scarce() {
            return REPLYING_MIN;
        }
        (self.chunks.len() as u32 / 16).max(REPLYING_MIN)
    }

    fn take_for(&mut self, connection: u32) -> Option<u32> {
        let chunk = self.take(Account::Connection(connection))?;
        self.replying.add(connection);
        Some(chunk)
    }

    fn take(&mut self, account: Account) -> Option<u32> {
        let chunk = self.free.pop()?;
        self.chunks[chunk as usize] = Chunk { users: 1, account };
        Some(chunk)
    }

    /// One more user.
    #[inline]
    pub(crate) fn hold(&mut self, chunk: u32) {
        self.chunks[chunk as usize].users += 1;
    }

    /// So many users fewer.
    #[inline]
    pub(crate) fn release(&mut self, chunk: u32, users: u32) {
        let entry = &mut self.chunks[chunk as usize];
        assert!(entry.users >= users, "chunk {chunk} released more often than held");
        entry.users -= users;
        if entry.users == 0 {
            match entry.account {
                Account::Receiver => {}
                Account::Export(export) => self.pinned.remove(export),
                Account::Connection(connection) => self.replying.remove(connection),
            }
            self.free.push(chunk);
            self.freed = true;
        }
    }

    /// Chunks came back since this was last asked.
    pub(crate) fn take_freed(&mut self) -> bool {
        std::mem::take(&mut self.freed)
    }

    /// The caller, who is one, is the only user.
    #[inline]
    pub(crate) fn is_sole_user(&self, chunk: u32) -> bool {
        self.chunks[chunk as usize].users == 1
    }

    /// How many chunks replies can count on, whatever is being received.
    pub(crate) fn reply_chunks(&self) -> usize {
        self.chunks.len() / 4
    }

    /// The memory of a whole chunk.
    pub(crate) fn memory(&self, chunk: u32) -> Slice {
        self.slice(Place { chunk, at: 0, len: CHUNK_BYTES as u32 })
    }

    /// The memory of a place.
    #[inline]
    pub(crate) fn slice(&self, place: Place) -> Slice {
        let offset = place.chunk as usize * CHUNK_BYTES + place.at as usize;
        self.arena.slice(offset, place.len as usize).expect("chunks lie inside the arena")
    }

    #[cfg(test)]
    pub(crate) fn chunk_count(&self) -> usize {
        self.chunks.len()
    }

    #[cfg(test)]
    pub(crate) fn free_chunks(&self) -> usize {
        self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(chunks: usize) -> Pool {
        Pool::new(Arena::anonymous(chunks * CHUNK_BYTES).unwrap(), chunks * CHUNK_BYTES)
    }

    #[test]
    fn receiving_leaves_memory_for_replies_and_for_other_exports() {
        let mut pool = pool(16);
        let mut current = pool.take_to_receive().unwrap();
        let mut left = Vec::new();
        loop {
            // A write that is not answered.
            pool.hold(current);
            let Some(fresh) = pool.replace_to_receive(current, 0) else { break };
            left.push(current);
            current = fresh;
        }
        assert_eq!(left.len(), 8, "down to less than half");
        let others: Vec<u32> = std::iter::from_fn(|| pool.take_to_receive()).collect();
        assert_eq!(others.len(), 3, "down to a quarter");
        for connection in 0..2 {
            assert!(pool.take_to_reply(connection).is_some());
            assert!(pool.take_to_reply(connection).is_some());
            assert!(pool.take_to_reply(connection).is_none(), "at its limit");
        }
        assert_eq!(pool.free_chunks(), 0);
        pool.release(left[0], 1);
        assert!(pool.take_all_to_reply(5, 2).is_none());
        assert!(pool.take_all_to_reply(5, 1).is_some());
        left[1..].iter().for_each(|chunk| pool.release(*chunk, 1));
        assert!(pool.replace_to_receive(current, 0).is_some(), "it may go on");
    }

    #[test]
    #[should_panic(expected = "released more often than held")]
    fn giving_back_too_much_is_noticed() {
        let mut pool = pool(4);
        let chunk = pool.take_to_receive().unwrap();
        pool.release(chunk, 2);
    }
}
