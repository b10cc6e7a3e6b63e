//! Properties of the cache's eviction, each over many seeds.

use alloc::collections::BTreeMap;

use super::super::mix;
use super::*;

/// A cache that knows what is in its slots, as callers do.
struct Cache {
    eviction: Eviction,
    slots: BTreeMap<u64, u32>,
    keys: BTreeMap<u32, u64>,
    hits: u64,
    reads: u64,
}

impl Cache {
    fn new(capacity: usize) -> Self {
        let (slots, keys) = (BTreeMap::new(), BTreeMap::new());
        Self { eviction: Eviction::new(capacity), slots, keys, hits: 0, reads: 0 }
    }

    /// A read, and filling when it was a miss.
    fn read(&mut self, key: u64) {
        self.reads += 1;
        if let Some(slot) = self.slots.get(&key) {
            self.hits += 1;
            return self.eviction.touch(*slot);
        }
        let Some(slot) = self.eviction.admit(key) else { return };
        if let Some(gone) = self.keys.insert(slot, key) {
            self.slots.remove(&gone);
        }
        self.slots.insert(key, slot);
    }

    fn drop_key(&mut self, key: u64) {
        if let Some(slot) = self.slots.remove(&key) {
            self.keys.remove(&slot);
            self.eviction.release(slot);
        }
    }

    fn resize(&mut self, capacity: usize) {
        for slot in self.eviction.set_capacity(capacity) {
            let key = self.keys.remove(&slot).expect("it was in use");
            self.slots.remove(&key);
        }
    }

    /// What the caller knows and what the eviction counts is the same, and within its bounds.
    fn check(&self, slots_max: usize) {
        assert_eq!(self.eviction.in_use(), self.slots.len());
        assert_eq!(self.keys.len(), self.slots.len());
        assert!(self.slots.len() <= self.eviction.capacity());
        assert!(self.keys.keys().all(|slot| (*slot as usize) < slots_max));
        assert!(self.eviction.remembered.keys.len() <= self.eviction.capacity());
        assert!(self.eviction.remembered.order.len() <= self.eviction.capacity());
        let places = self.eviction.small.len() + self.eviction.main.len();
        assert!(places <= 2 * self.slots.len() + 2 * STALE_MAX, "{places} places");
    }
}

/// A stream of numbers.
fn noise(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut at = mix(seed + 1);
    move |below| {
        at = at.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(at) % below
    }
}

/// A cache of which `hot` keys have been read again and again, with others in between.
fn warmed(capacity: usize, hot: u64, seed: u64) -> Cache {
    let mut cache = Cache::new(capacity);
    let mut next = noise(seed);
    for round in 0..40 {
        for _ in 0..hot {
            cache.read(next(hot));
        }
        (0..hot).for_each(|key| cache.read(key));
        (0..capacity as u64 / 4).for_each(|at| cache.read((1 << 40) + round * 10_000 + at));
    }
    cache
}

/// A front-to-back reader: each block several times in a row, in so many streams at a time.
fn scan(cache: &mut Cache, blocks: u64, reads: u64, streams: u64) {
    for block in 0..blocks / streams {
        for _ in 0..reads {
            for stream in 0..streams {
                cache.read((1 << 50) + stream * (1 << 30) + block);
            }
        }
    }
}

fn hot_left(cache: &Cache, hot: u64) -> u64 {
    (0..hot).filter(|key| cache.slots.contains_key(key)).count() as u64
}

#[test]
fn whatever_comes_the_books_are_right() {
    for seed in 0..200 {
        let mut next = noise(seed);
        let capacity = next(60) as usize;
        let (mut cache, mut most) = (Cache::new(capacity), capacity);
        for _ in 0..3000 {
            match next(40) {
                0 => {
                    let new = next(60) as usize;
                    most = most.max(new);
                    cache.resize(new);
                }
                1..=6 => cache.drop_key(next(90)),
                _ => {
                    let key = next(90).min(next(90));
                    cache.read(key);
                    let kept = cache.eviction.capacity() > 0;
                    assert_eq!(cache.slots.contains_key(&key), kept, "what was read is there");
                }
            }
            cache.check(most);
        }
    }
}

/// The hot set stays, whole, however long a scan is, and though nobody reads it meanwhile.
#[test]
fn a_scan_does_not_evict_what_is_hot() {
    for seed in 0..20 {
        for (reads, streams) in [(1, 1), (16, 1), (16, 2), (64, 1)] {
            let (capacity, hot) = (200, 120);
            let mut cache = warmed(capacity, hot, seed);
            assert_eq!(hot_left(&cache, hot), hot, "seed {seed}: it is warm");
            scan(&mut cache, 50 * capacity as u64, reads, streams);
            let left = hot_left(&cache, hot);
            assert_eq!(left, hot, "seed {seed}: {reads} reads, {streams} streams");
        }
    }
}

/// The planted mistake: when reads count at once, a front-to-back reader takes the cache over.
#[test]
fn without_the_pause_a_scan_would_evict_it() {
    let (capacity, hot) = (200, 120);
    let mut cache = warmed(capacity, hot, 1);
    cache.eviction.at_once = true;
    scan(&mut cache, 50 * capacity as u64, 16, 1);
    assert!(hot_left(&cache, hot) < hot / 2, "{} are left", hot_left(&cache, hot));
}

/// What is hot gets in while a scan goes on, and what has gone cold makes room.
#[test]
fn a_new_hot_set_replaces_the_old_one() {
    let (capacity, hot) = (200, 120);
    let mut cache = warmed(capacity, hot, 3);
    let (mut next, mut cold) = (noise(9), 1 << 45);
    for _ in 0..30_000 {
        cache.read(1000 + next(hot));
        if next(4) == 0 {
            cold += 1;
            cache.read(cold);
        }
    }
    let (hits, reads) = (cache.hits, cache.reads);
    for _ in 0..2000 {
        cache.read(1000 + next(hot));
    }
    let share = (cache.hits - hits) as f64 / (cache.reads - reads) as f64;
    assert!(share > 0.95, "{share} of the reads of the new hot set hit");
    // No more than there is room for beside the new ones.
    let left = hot_left(&cache, hot);
    assert!(left <= capacity as u64 - hot, "{left} old ones are left");
}

#[test]
fn without_room_nothing_is_kept_and_with_room_for_one_the_last() {
    let mut cache = Cache::new(0);
    cache.read(1);
    assert_eq!(cache.eviction.in_use(), 0);
    cache.resize(1);
    (0..10).for_each(|key| cache.read(key));
    assert_eq!(cache.slots.keys().copied().collect::<Vec<_>>(), [9]);
}
