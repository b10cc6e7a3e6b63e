//! Large buffers that are used again.
//!
//! For a buffer of some MiB that is made, filled once and dropped, the kernel finds, clears and maps
//! pages, and takes them back: more work than what is done with the bytes. A [`Pool`] keeps some for
//! the next user, who finds in them what the last one left and has to overwrite it.
//!
//! Each small page of a buffer costs whoever has the kernel read or write it: 4 MiB go to a disk at a
//! fourth of the work from large ones. Where memory is in pieces the kernel has none when a buffer is
//! filled for the first time; so it is asked again, more and more rarely, while nobody uses the buffer.
//! It may have to move much memory for that: whoever drops a buffer does not wait, but a thread that
//! says it has the time ([`Pool::look_after`]).
//!
//! Pages that were handed to the kernel without a copy (`net::Conduit`) are read by it at a time of its
//! own, for the last time perhaps long after the connection is closed. A [`Loan`] says so: a buffer of
//! which one was never settled is not used again but given up, and the kernel keeps its pages, as they
//! are, for as long as it wants them.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use crate::memory::Arena;

/// Buffers are made in multiples of this: the size of a large page.
const STEP: usize = 2 << 20;

/// Whether the operator lets programs have large pages: what collapses them does not ask.
fn large_pages_are_wanted() -> bool {
    static WANTED: LazyLock<bool> = LazyLock::new(|| {
        let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
        setting.is_ok_and(|setting| !setting.contains("[never]"))
    });
    *WANTED
}

#[derive(Default)]
struct Free {
    /// The one that came back last is at the end.
    arenas: VecDeque<Arc<Arena>>,
    bytes: usize,
}

/// See the top of the file.
pub struct Pool {
    free: Mutex<Free>,
    /// Bytes that are kept at most.
    keep: usize,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("keep", &self.keep).field("free", &self.kept()).finish()
    }
}

impl Pool {
    /// Keeps at most so many bytes that nobody uses.
    pub fn new(keep: usize) -> Arc<Self> {
        Arc::new(Self { free: Mutex::default(), keep })
    }

    fn free(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that nobody uses.
    pub fn kept(&self) -> usize {
        self.free().bytes
    }

    /// A buffer of `len` bytes with anything in it.
    ///
    /// # Errors
    /// There is no memory.
    pub fn take(self: &Arc<Self>, len: usize) -> io::Result<Buffer> {
        let found = {
            let mut free = self.free();
            // Much too large a one is left to who needs it.
            let fits = |arena: &Arc<Arena>| (len..=4 * len.max(STEP)).contains(&arena.len());
            let fitting = free.arenas.iter().enumerate().filter(|(_, arena)| fits(arena));
            let at = fitting.min_by_key(|(at, arena)| (arena.len(), usize::MAX - at));
            let at = at.map(|(at, _)| at);
            let arena = at.and_then(|at| free.arenas.remove(at));
            free.bytes -= arena.as_ref().map_or(0, |arena| arena.len());
            arena
        };
        let arena = match found {
            Some(arena) => arena,
            None => fresh(len)?,
        };
        Ok(Buffer { arena, len, pool: Some(self.clone()), lent: AtomicUsize::new(0) })
    }

    /// A buffer with no bytes, for who will append about so many.
    ///
    /// # Errors
    /// There is no memory.
    pub fn take_empty(self: &Arc<Self>, expected: usize) -> io::Result<Buffer> {
        let mut buffer = self.take(expected)?;
        buffer.len = 0;
        Ok(buffer)
    }

    fn give_back(&self, arena: Arc<Arena>) {
        if arena.len() > self.keep {
            return;
        }
        arena.count_use();
        self.put_in(arena);
    }

    /// Asks for large pages for one buffer that nobody uses; false: none is due. For threads that no
    /// guest waits for.
    pub fn look_after(&self) -> bool {
        let due = {
            let mut free = self.free();
            let at = free.arenas.iter().position(|arena| arena.is_due());
            let arena = at.and_then(|at| free.arenas.remove(at));
            free.bytes -= arena.as_ref().map_or(0, |arena| arena.len());
            arena
        };
        let Some(arena) = due else { return false };
        arena.make_large(large_pages_are_wanted());
        self.put_in(arena);
        true
    }

    fn put_in(&self, arena: Arc<Arena>) {
        let mut dropped = Vec::new();
        let mut free = self.free();
        while free.bytes + arena.len() > self.keep {
            // The one that was not wanted for the longest time.
            let Some(oldest) = free.arenas.pop_front() else { break };
            free.bytes -= oldest.len();
            dropped.push(oldest);
        }
        free.bytes += arena.len();
        free.arenas.push_back(arena);
        // The kernel takes its time with the pages; nobody waits for that.
        drop(free);
        drop(dropped);
    }
}

fn fresh(len: usize) -> io::Result<Arc<Arena>> {
    let arena = Arena::anonymous(len.max(1).next_multiple_of(STEP))?;
    arena.prefer_large_pages();
    Ok(arena)
}

/// Bytes that begin at a page, and belong to one owner; they go back to their pool when dropped.
pub struct Buffer {
    arena: Arc<Arena>,
    len: usize,
    pool: Option<Arc<Pool>>,
    /// Loans that are not settled.
    lent: AtomicUsize,
}

/// The kernel has pages of a buffer. Who drops this without settling it does not know for how long.
#[derive(Debug)]
#[must_use = "a buffer of which a loan is not settled is never used again"]
pub struct Loan(Arc<Buffer>);

impl Loan {
    /// The kernel needs the pages no longer: whoever they were sent to has said that he has them all.
    pub fn settle(self) {
        self.0.lent.fetch_sub(1, Ordering::Release);
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("len", &self.len).finish()
    }
}

impl Buffer {
    /// A copy of a few pages, of no pool.
    ///
    /// # Errors
    /// There is no memory.
    pub(crate) fn copy_of(bytes: &[u8]) -> io::Result<Self> {
        let arena = Arena::anonymous(bytes.len().max(1))?;
        let mut copy = Self { arena, len: bytes.len(), pool: None, lent: AtomicUsize::new(0) };
        copy.copy_from_slice(bytes);
        Ok(copy)
    }

    /// Its pages may go to the kernel without a copy. Nobody can change them any more: there are
    /// others who share it.
    pub fn lend(self: &Arc<Self>) -> Loan {
        self.lent.fetch_add(1, Ordering::Relaxed);
        Loan(self.clone())
    }

    /// Forgets all bytes behind the first `len`.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Has `len` bytes from now on; those that are new are zero.
    ///
    /// # Errors
    /// There is no memory.
    pub fn resize(&mut self, len: usize) -> io::Result<()> {
        let before = self.len;
        self.reserve(len)?;
        self.len = len;
        if len > before {
            self[before..].fill(0);
        }
        Ok(())
    }

    /// Has `len` more bytes from now on, with anything in them.
    ///
    /// # Errors
    /// There is no memory.
    pub fn extend(&mut self, len: usize) -> io::Result<()> {
        self.reserve(self.len + len)?;
        self.len += len;
        Ok(())
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// There is no memory.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let before = self.len;
        self.extend(bytes.len())?;
        self[before..].copy_from_slice(bytes);
        Ok(())
    }

    fn reserve(&mut self, len: usize) -> io::Result<()> {
        if len <= self.arena.len() {
            return Ok(());
        }
        // Copying to twice as much each time costs each byte no more than one copy.
        let arena = fresh(len.max(2 * self.arena.len()))?;
        let mut larger = Self { arena, len: self.len, pool: None, lent: AtomicUsize::new(0) };
        larger.copy_from_slice(self);
        // What was too small is given up; the pool gets what turned out to be enough.
        larger.pool = self.pool.take();
        *self = larger;
        Ok(())
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: within the mapping (`len` never exceeds it), whose memory is initialised by the
        // kernel; nobody else has the arena, so nothing changes it while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(self.arena.start(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.arena.start(), self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let lent = self.lent.load(Ordering::Acquire) > 0;
        if let Some(pool) = self.pool.take().filter(|_| !lent) {
            pool.give_back(self.arena.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_by_who_fits_in_it() {
        let pool = Pool::new(16 * STEP);
        let mut first = pool.take(3 * STEP - 5).unwrap();
        first.fill(7);
        assert_eq!(first.len(), 3 * STEP - 5);
        assert_eq!(first.as_ptr() as usize % 4096, 0);
        drop(first);
        assert_eq!(pool.kept(), 3 * STEP);
        let small = pool.take(10).unwrap();
        assert_eq!((small.len(), pool.kept()), (10, 0));
        assert_eq!(small[0], 7, "what it was filled with is there still");
        let large = pool.take(4 * STEP).unwrap();
        assert_eq!(large[..], vec![0; 4 * STEP][..]);
        drop((small, large));
        assert_eq!(pool.kept(), 7 * STEP);
        // The smallest that fits, and not one that is much too large.
        assert_eq!(pool.take(2 * STEP).unwrap().arena.len(), 3 * STEP);
        drop(pool.take(9 * STEP).unwrap());
        assert_eq!(pool.take(4 * STEP + 1).unwrap().arena.len(), 9 * STEP);
        assert_eq!(pool.take_empty(2 * STEP + 1).unwrap().len(), 0);
        let (a, b) = (pool.take(1).unwrap(), pool.take(1).unwrap());
        assert_eq!((a.arena.len(), b.arena.len()), (3 * STEP, 4 * STEP));
        assert_eq!(pool.take(1).unwrap().arena.len(), STEP);
    }

    #[test]
    fn what_the_kernel_may_still_read_is_not_used_again() {
        let pool = Pool::new(16 * STEP);
        let shared = Arc::new(pool.take(STEP).unwrap());
        let (first, second) = (shared.lend(), shared.lend());
        first.settle();
        drop(shared);
        assert_eq!(pool.kept(), 0, "it is lent still");
        second.settle();
        assert_eq!(pool.kept(), STEP);
        let shared = Arc::new(pool.take(STEP).unwrap());
        let (settled, forgotten) = (shared.lend(), shared.lend());
        drop(forgotten);
        settled.settle();
        drop(shared);
        assert_eq!(pool.kept(), 0, "one loan was never settled");
    }

    #[test]
    fn what_is_in_a_buffer_stays_while_its_pages_are_looked_after() {
        let pool = Pool::new(16 * STEP);
        // Small pages, which become large ones if the kernel has some.
        let arena = Arena::anonymous(2 * STEP).unwrap();
        let mut buffer = Buffer {
            arena,
            len: 2 * STEP - 9,
            pool: Some(pool.clone()),
            lent: AtomicUsize::new(0),
        };
        for (at, byte) in buffer.iter_mut().enumerate() {
            *byte = (at * 7 + at / 4096) as u8;
        }
        let expected = buffer.to_vec();
        drop(buffer);
        let mut looked_after = Vec::new();
        for uses in 1..10 {
            // Who has dropped it did not wait for that.
            if pool.look_after() {
                looked_after.push(uses);
            }
            assert!(!pool.look_after(), "once is enough");
            assert_eq!(pool.kept(), 2 * STEP);
            let buffer = pool.take(2 * STEP - 9).unwrap();
            assert!(buffer[..] == expected[..]);
        }
        // Until the kernel had large pages, or they are not wanted: more and more rarely.
        assert!([1, 2, 4, 8].starts_with(&looked_after) && !looked_after.is_empty());
    }

    #[test]
    fn what_is_dropped_waits_for_somebody_who_has_the_time() {
        let pool = Pool::new(16 * STEP);
        let all: Vec<Buffer> = (1..4).map(|steps| pool.take(steps * STEP).unwrap()).collect();
        drop(all);
        let due = |pool: &Pool| pool.free().arenas.iter().filter(|one| one.is_due()).count();
        assert_eq!(due(&pool), 3);
        // One that is taken before stays due.
        drop(pool.take(3 * STEP).unwrap());
        for left in [2, 1, 0] {
            assert!(pool.look_after());
            assert_eq!((due(&pool), pool.kept()), (left, 6 * STEP));
        }
        assert!(!pool.look_after());
    }

    #[test]
    fn no_more_is_kept_than_was_said() {
        let pool = Pool::new(4 * STEP);
        let all: Vec<Buffer> = (1..4).map(|steps| pool.take(steps * STEP).unwrap()).collect();
        drop(all);
        // 1 + 2 steps, then 3 in their place.
        assert_eq!(pool.kept(), 3 * STEP);
        drop(pool.take(5 * STEP).unwrap());
        assert_eq!(pool.kept(), 3 * STEP);
    }

    #[test]
    fn a_buffer_grows_and_keeps_its_bytes() {
        let pool = Pool::new(16 * STEP);
        let mut buffer = pool.take_empty(1).unwrap();
        let mut expected = Vec::new();
        for number in 0..40u8 {
            let bytes = vec![number; 131_071];
            buffer.append(&bytes).unwrap();
            expected.extend_from_slice(&bytes);
        }
        assert!(buffer[..] == expected[..]);
        buffer.truncate(5);
        buffer.resize(9).unwrap();
        assert_eq!(buffer[..], [0, 0, 0, 0, 0, 0, 0, 0, 0]);
        drop(buffer);
        assert_eq!(pool.kept(), 4 * STEP);
    }
}
