//! A 128-bit fingerprint of anything that is `Hash`.
//!
//! The explorer remembers a visited state by its fingerprint alone, so that several million states
//! fit in memory. Two different states with the same fingerprint would make the explorer skip the
//! second one and everything behind it. With *n* states and a fingerprint that behaves like a
//! random function the odds of one such pair are below n^2 / 2^129: 1.5e-25 for ten million
//! states, far below the odds of a memory error during the run. The hash is not keyed against an
//! adversary; the `seed` exists so that a run can be repeated with an unrelated hash, and must then
//! report the same number of states.

use std::hash::{Hash, Hasher};

const LANE_A: u64 = 0x9e37_79b9_7f4a_7c15;
const LANE_B: u64 = 0xc2b2_ae3d_27d4_eb4f;

/// Hashes `value` to 128 bits; equal values and seeds give equal results on every machine.
pub fn fingerprint<T: Hash + ?Sized>(value: &T, seed: u64) -> u128 {
    let mut hasher = Lanes { a: mix(seed ^ LANE_A), b: mix(seed.wrapping_add(LANE_B)) };
    value.hash(&mut hasher);
    let a = mix(hasher.a.wrapping_add(hasher.b.rotate_left(32)));
    let b = mix(hasher.b ^ a);
    (u128::from(a) << 64) | u128::from(b)
}

/// Two 64-bit lanes that absorb the same words through different bijections: two inputs collide
/// only when they cancel out in both.
struct Lanes {
    a: u64,
    b: u64,
}

impl Lanes {
    fn absorb(&mut self, word: u64) {
        self.a = mix(self.a ^ word);
        self.b = (self.b.rotate_left(23) ^ word).wrapping_mul(LANE_B);
        self.b ^= self.b >> 29;
    }
}

impl Hasher for Lanes {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.absorb(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let mut last = [0u8; 8];
            last[..rest.len()].copy_from_slice(rest);
            // The length keeps a short tail apart from the same bytes followed by zeros.
            self.absorb(u64::from_le_bytes(last) ^ ((rest.len() as u64) << 56));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.absorb(u64::from(value));
    }

    fn write_u16(&mut self, value: u16) {
        self.absorb(u64::from(value));
    }

    fn write_u32(&mut self, value: u32) {
        self.absorb(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.absorb(value);
    }

    fn write_usize(&mut self, value: usize) {
        self.absorb(value as u64);
    }

    fn finish(&self) -> u64 {
        mix(self.a ^ self.b)
    }
}

/// The finaliser of splitmix64: a bijection in which every input bit reaches every output bit.
pub(crate) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn small_values_do_not_collide_in_either_half() {
        let mut low = BTreeSet::new();
        let mut high = BTreeSet::new();
        for x in 0u32..300 {
            for y in 0u16..300 {
                let print = fingerprint(&(x, y, [x as u8, 0, 1]), 7);
                low.insert(print as u64);
                high.insert((print >> 64) as u64);
            }
        }
        assert_eq!(low.len(), 90_000);
        assert_eq!(high.len(), 90_000);
    }

    #[test]
    fn order_length_and_seed_count() {
        assert_ne!(fingerprint(&(1u8, 2u8), 0), fingerprint(&(2u8, 1u8), 0));
        assert_ne!(fingerprint(&[0u8; 3][..], 0), fingerprint(&[0u8; 4][..], 0));
        assert_ne!(fingerprint("a", 0), fingerprint("a\0", 0));
        assert_ne!(fingerprint(&1u8, 0), fingerprint(&1u8, 1));
        assert_eq!(fingerprint("same", 3), fingerprint("same", 3));
    }
}
