//! Rings in shared memory: one producer, one consumer, in two processes that do not trust each
//! other.
//!
//! A ring is an array of fixed entries and three words, 128 bytes apart: `head` (written by the
//! consumer), `tail` (written by the producer) and `asleep` (set by a consumer that is about to
//! sleep). Positions run freely over `u32`; the entry is `position mod entries`.
//!
//! **Trust.** A side keeps its own position in private memory and only *publishes* it; from the
//! peer it reads one word, and checks that it is a possible one (never more than `entries` apart).
//! A peer that writes nonsense gets [`PeerBroke`] and loses its session. An entry is copied out
//! once, as relaxed atomic words, and only the copy is looked at: the peer may change the original
//! meanwhile, which is no undefined behaviour and changes nothing that was checked.
//!
//! **Sleep without a lost wake-up.** The consumer, before it sleeps, stores `asleep = 1`, then a
//! full fence, then looks at `tail` once more. The producer stores `tail`, then a full fence, then
//! looks at `asleep`, and rings the bell (an eventfd) when it is set. Whatever the interleaving, at
//! least one of the two sees the other's store: were both to miss, each one's load would precede
//! the other's store in the single order of the fences, which is a circle. The producer that rings
//! also takes `asleep` back to 0, so that a sleeper is rung once and not for each batch. The
//! protocol is explored in `model`, under every interleaving and with store buffers; taking out
//! either fence, the second look, or the clearing's order is caught there.

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use media::Arena;

/// Distance between a ring's words, in bytes: two cache lines, since lines are fetched in pairs.
pub const CURSOR_STRIDE: usize = 128;
/// Bytes of a ring's three words.
pub const CURSORS_LEN: usize = 3 * CURSOR_STRIDE;

/// The peer published a position that no correct peer can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerBroke;

impl fmt::Display for PeerBroke {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the peer published an impossible position in its ring")
    }
}

impl std::error::Error for PeerBroke {}

/// Where a ring of `W`-word entries lies in its arena. `W` is 8 or 2 in practice.
#[derive(Clone, Debug)]
pub struct Place<const W: usize> {
    _arena: Arc<Arena>,
    cursors: NonNull<u8>,
    entries: NonNull<u8>,
    count: u32,
}

// SAFETY: the pointers lead into the mapping that `_arena` keeps alive, and all accesses through
// them are atomic.
unsafe impl<const W: usize> Send for Place<W> {}

impl<const W: usize> Place<W> {
    /// The ring whose words start at byte `cursors` and whose `count` entries start at `entries`.
    /// `None`: not inside the arena, not aligned, or `count` is no power of two.
    pub fn new(arena: &Arc<Arena>, cursors: usize, entries: usize, count: u32) -> Option<Self> {
        let bytes = (count as usize).checked_mul(W * 8)?;
        let aligned = cursors.is_multiple_of(8) && entries.is_multiple_of(8);
        if !aligned || !count.is_power_of_two() || count > 1 << 30 {
            return None;
        }
        Some(Self {
            _arena: arena.clone(),
            cursors: arena.address(cursors, CURSORS_LEN)?,
            entries: arena.address(entries, bytes)?,
            count,
        })
    }

    #[inline]
    fn cursor(&self, which: usize) -> &AtomicU32 {
        // SAFETY: inside the mapping (checked in `new`), aligned to 8 since mappings are
        // page-aligned, alive as long as `self._arena`; both processes access it atomically.
        unsafe { &*self.cursors.as_ptr().add(which * CURSOR_STRIDE).cast() }
    }

    #[inline]
    fn head(&self) -> &AtomicU32 {
        self.cursor(0)
    }

    #[inline]
    fn tail(&self) -> &AtomicU32 {
        self.cursor(1)
    }

    #[inline]
    fn asleep(&self) -> &AtomicU32 {
        self.cursor(2)
    }

    #[inline]
    fn entry(&self, position: u32) -> &[AtomicU64; W] {
        let at = (position & (self.count - 1)) as usize;
        // SAFETY: `at` is below `count`, so the entry is inside what `new` checked; alignment and
        // lifetime as in `cursor`.
        unsafe { &*self.entries.as_ptr().add(at * W * 8).cast() }
    }
}

/// The side that fills a ring.
#[derive(Debug)]
pub struct Producer<const W: usize> {
    place: Place<W>,
    tail: u32,
    published: u32,
    head_seen: u32,
}

impl<const W: usize> Producer<W> {
    /// Starts at position 0 of a fresh ring.
    pub fn new(place: Place<W>) -> Self {
        Self { place, tail: 0, published: 0, head_seen: 0 }
    }

    /// Puts an entry behind the others; the consumer sees it after [`Producer::publish`].
    /// `Ok(false)`: the ring is full.
    ///
    /// # Errors
    /// The consumer claims to have taken what was never put.
    #[inline]
    pub fn push(&mut self, entry: &[u64; W]) -> Result<bool, PeerBroke> {
        if self.tail.wrapping_sub(self.head_seen) == self.place.count {
            let head = self.place.head().load(Ordering::Acquire);
            if self.published.wrapping_sub(head) > self.place.count {
                return Err(PeerBroke);
            }
            self.head_seen = head;
            if self.tail.wrapping_sub(head) == self.place.count {
                return Ok(false);
            }
        }
        for (word, value) in self.place.entry(self.tail).iter().zip(entry) {
            word.store(*value, Ordering::Relaxed);
        }
        self.tail = self.tail.wrapping_add(1);
        Ok(true)
    }

    /// Shows everything pushed to the consumer. True: it sleeps, ring its bell.
    #[inline]
    #[must_use = "a consumer that sleeps must be rung"]
    pub fn publish(&mut self) -> bool {
        if self.published == self.tail {
            return false;
        }
        self.published = self.tail;
        self.place.tail().store(self.tail, Ordering::Release);
        fence(Ordering::SeqCst);
        let asleep = self.place.asleep();
        asleep.load(Ordering::Relaxed) != 0 && asleep.swap(0, Ordering::AcqRel) != 0
    }
}

/// The side that empties a ring.
#[derive(Debug)]
pub struct Consumer<const W: usize> {
    place: Place<W>,
    head: u32,
    released: u32,
    tail_seen: u32,
}

impl<const W: usize> Consumer<W> {
    /// Starts at position 0 of a fresh ring.
    pub fn new(place: Place<W>) -> Self {
        Self { place, head: 0, released: 0, tail_seen: 0 }
    }

    /// Looks what the producer has published; entries that [`Consumer::pop`] will return.
    ///
    /// # Errors
    /// The producer claims more entries than the ring has.
    #[inline]
    pub fn look(&mut self) -> Result<u32, PeerBroke> {
        let tail = self.place.tail().load(Ordering::Acquire);
        let ready = tail.wrapping_sub(self.head);
        // Entries that were popped but not released still belong to us: more than `count` from
        // there on means that the producer overwrote some of them.
        if tail.wrapping_sub(self.released) > self.place.count {
            return Err(PeerBroke);
        }
        self.tail_seen = tail;
        Ok(ready)
    }

    /// Takes the next entry that the last [`Consumer::look`] saw.
    #[inline]
    pub fn pop(&mut self) -> Option<[u64; W]> {
        if self.head == self.tail_seen {
            return None;
        }
        let entry = self.place.entry(self.head);
        let mut copy = [0; W];
        for (value, word) in copy.iter_mut().zip(entry) {
            *value = word.load(Ordering::Relaxed);
        }
        self.head = self.head.wrapping_add(1);
        Some(copy)
    }

    /// Gives the room of everything taken back to the producer.
    #[inline]
    pub fn release(&mut self) {
        if self.released != self.head {
            self.released = self.head;
            self.place.head().store(self.head, Ordering::Release);
        }
    }

    /// Announces sleep. True: nothing is there and the producer will ring; false: do not sleep,
    /// there is something to take.
    #[must_use = "false means that there is something to take"]
    pub fn fall_asleep(&mut self) -> bool {
        let asleep = self.place.asleep();
        asleep.store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.place.tail().load(Ordering::Acquire) == self.head {
            return true;
        }
        asleep.store(0, Ordering::Relaxed);
        false
    }

    /// Takes the announcement back: from now on the ring is looked at without a bell.
    pub fn wake_up(&mut self) {
        self.place.asleep().store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
