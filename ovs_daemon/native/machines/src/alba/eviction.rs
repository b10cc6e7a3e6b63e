//! Which blocks a cache keeps: S3-FIFO (Yang et al., FIFO queues are all you need for cache eviction,
//! SOSP 2023), with one change for readers that go on where they were.
//!
//! What is new goes into a *small* queue, a tenth of the room. When it has gone through that without
//! being read again it is out, and only its key is remembered for a while: so a scan of any length
//! passes through the tenth and leaves the rest, the *main* queue, as it was. Into the main queue
//! comes what was read again while it was in the small one, or came back while its key was
//! remembered; out of it goes, first in first out, what was not read since its last turn.
//!
//! The change: a guest that reads front to back in small pieces reads each block many times, one
//! read after the other. That says nothing about whether the block will be wanted later; so a read
//! counts, as long as a block is in the small queue, only if some other blocks have come since the
//! block came (2Q's correlated references: Johnson and Shasha, VLDB 1994).
//!
//! Blocks are numbered slots; what is in them, and where, the caller knows.

use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;

/// Turns in the main queue that reads can earn.
const TOUCHES_MAX: u8 = 3;
/// The small queue's part of the room.
const SMALL_PART: usize = 10;
/// Part of the small queue that has to come before a read of a block in it counts.
const APART_PART: usize = 4;
/// Stale places in a queue that are tolerated beside as many good ones.
const STALE_MAX: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queue {
    None,
    Small,
    Main,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    key: u64,
    queue: Queue,
    touches: u8,
    /// How many blocks had been admitted when this one was: its name in a queue, too.
    since: u64,
}

/// See the top of the file.
#[derive(Clone, Debug)]
pub struct Eviction {
    capacity: usize,
    slots: Vec<Slot>,
    unused: Vec<u32>,
    small: VecDeque<(u32, u64)>,
    main: VecDeque<(u32, u64)>,
    small_len: usize,
    main_len: usize,
    remembered: Remembered,
    admitted: u64,
    /// Whether a read counts however soon it comes: what this must not be is shown in the tests.
    at_once: bool,
}

/// Keys of what went out of the small queue lately.
#[derive(Clone, Debug, Default)]
struct Remembered {
    keys: BTreeSet<u64>,
    order: VecDeque<u64>,
}

impl Remembered {
    fn add(&mut self, key: u64, most: usize) {
        if self.keys.insert(key) {
            self.order.push_back(key);
        }
        self.limit(most);
    }

    fn limit(&mut self, most: usize) {
        while self.order.len() > most {
            if let Some(oldest) = self.order.pop_front() {
                self.keys.remove(&oldest);
            }
        }
    }
}

impl Eviction {
    /// Room for so many blocks, all of it unused.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            slots: Vec::new(),
            unused: Vec::new(),
            small: VecDeque::new(),
            main: VecDeque::new(),
            small_len: 0,
            main_len: 0,
            remembered: Remembered::default(),
            admitted: 0,
            at_once: false,
        }
    }

    /// Blocks that are kept.
    pub fn in_use(&self) -> usize {
        self.small_len + self.main_len
    }

    /// Blocks that may be kept.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Blocks that were ever taken in.
    pub fn admitted(&self) -> u64 {
        self.admitted
    }

    fn small_max(&self) -> usize {
        (self.capacity / SMALL_PART).max(1)
    }

    /// Takes a block in: the slot for it. What was in that slot is out. `None`: there is no room for
    /// any block.
    pub fn admit(&mut self, key: u64) -> Option<u32> {
        // Before something that goes out is remembered in its place.
        let again = self.remembered.keys.contains(&key);
        let slot = if self.in_use() < self.capacity { self.unused_slot() } else { self.evict()? };
        self.admitted += 1;
        let queue = if again { Queue::Main } else { Queue::Small };
        self.slots[slot as usize] = Slot { key, queue, touches: 0, since: self.admitted };
        self.enqueue(slot, queue);
        Some(slot)
    }

    /// A block was read.
    pub fn touch(&mut self, slot: u32) {
        let apart = (self.small_max() / APART_PART).max(1) as u64;
        let Some(one) = self.slots.get_mut(slot as usize) else { return };
        let early = one.queue == Queue::Small && self.admitted - one.since < apart;
        if !early || self.at_once {
            one.touches = (one.touches + 1).min(TOUCHES_MAX);
        }
    }

    /// A block is not wanted any more, whatever it is worth.
    pub fn release(&mut self, slot: u32) {
        let Some(one) = self.slots.get_mut(slot as usize) else { return };
        let queue = core::mem::replace(&mut one.queue, Queue::None);
        match queue {
            Queue::None => return,
            Queue::Small => self.small_len -= 1,
            Queue::Main => self.main_len -= 1,
        }
        self.unused.push(slot);
        self.tidy();
    }

    /// From now on there is room for so many blocks; those that have to go.
    pub fn set_capacity(&mut self, capacity: usize) -> Vec<u32> {
        self.capacity = capacity;
        let mut gone = Vec::new();
        while self.in_use() > capacity {
            let Some(slot) = self.evict() else { break };
            self.unused.push(slot);
            gone.push(slot);
        }
        self.remembered.limit(capacity);
        gone
    }

    fn unused_slot(&mut self) -> u32 {
        self.unused.pop().unwrap_or_else(|| {
            self.slots.push(Slot { key: 0, queue: Queue::None, touches: 0, since: 0 });
            (self.slots.len() - 1) as u32
        })
    }

    fn enqueue(&mut self, slot: u32, queue: Queue) {
        let place = (slot, self.slots[slot as usize].since);
        if queue == Queue::Main {
            self.main.push_back(place);
            self.main_len += 1;
        } else {
            self.small.push_back(place);
            self.small_len += 1;
        }
    }

    /// The first one in a queue, which leaves it.
    fn dequeue(&mut self, queue: Queue) -> Option<u32> {
        let (places, len) = match queue {
            Queue::Main => (&mut self.main, &mut self.main_len),
            _ => (&mut self.small, &mut self.small_len),
        };
        while let Some((slot, since)) = places.pop_front() {
            let one = &self.slots[slot as usize];
            if (one.queue, one.since) == (queue, since) {
                *len -= 1;
                return Some(slot);
            }
        }
        None
    }

    /// The block that goes. Ends: each turn empties the small queue by one, or takes a touch away.
    fn evict(&mut self) -> Option<u32> {
        while self.in_use() > 0 {
            let small = self.small_len >= self.small_max() || self.main_len == 0;
            let queue = if small { Queue::Small } else { Queue::Main };
            let slot = self.dequeue(queue)?;
            let one = &mut self.slots[slot as usize];
            if one.touches == 0 {
                one.queue = Queue::None;
                let key = one.key;
                if small {
                    self.remembered.add(key, self.capacity);
                }
                return Some(slot);
            }
            one.touches = if small { 0 } else { one.touches - 1 };
            one.queue = Queue::Main;
            self.enqueue(slot, Queue::Main);
        }
        None
    }

    /// Takes what was released out of the queues, when it is much.
    fn tidy(&mut self) {
        let slots = &self.slots;
        let sound = |queue: Queue| {
            move |place: &(u32, u64)| {
                let one = &slots[place.0 as usize];
                (one.queue, one.since) == (queue, place.1)
            }
        };
        if self.small.len() > 2 * self.small_len + STALE_MAX {
            self.small.retain(sound(Queue::Small));
        }
        if self.main.len() > 2 * self.main_len + STALE_MAX {
            self.main.retain(sound(Queue::Main));
        }
    }
}

#[cfg(test)]
#[path = "eviction_tests.rs"]
mod tests;
