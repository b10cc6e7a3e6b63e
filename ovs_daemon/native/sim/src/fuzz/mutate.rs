//! Damage to bytes, as disks, networks and enemies do it.

use crate::random::Random;

/// Values at which length and offset arithmetic tends to go wrong.
const EDGES: [u64; 14] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0xfff,
    0x1000,
    0x7fff,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

/// Longest input that mutation makes, in bytes.
const LEN_MAX: usize = 128 * 1024;

/// Damages `input` in one to eight ways; `others` lend it their pieces.
pub fn mutate(input: &mut Vec<u8>, others: &[Vec<u8>], random: &mut Random) {
    for _ in 0..=random.below(8) {
        once(input, others, random);
    }
    input.truncate(LEN_MAX);
}

fn once(input: &mut Vec<u8>, others: &[Vec<u8>], random: &mut Random) {
    if input.is_empty() {
        input.extend((0..random.below(64)).map(|n| n as u8));
        return;
    }
    // Most structures keep their interesting fields in front.
    let reach = if random.chance(1, 2) { input.len().min(128) } else { input.len() };
    let at = random.index(reach);
    match random.below(10) {
        0 | 1 => input[at] ^= 1 << random.below(8),
        2 => input[at] = random.bits() as u8,
        3 | 4 => {
            let width = 1usize << random.below(4);
            let aligned = at & !(width - 1);
            let edge = EDGES[random.index(EDGES.len())];
            let edge = if random.chance(1, 4) { edge.wrapping_sub(1) } else { edge };
            let bytes = if random.chance(1, 4) { edge.to_be_bytes() } else { edge.to_le_bytes() };
            let from = if random.chance(1, 4) { 8 - width } else { 0 };
            put(input, aligned, &bytes[from..from + width]);
        }
        5 => input.truncate(at),
        6 => {
            let more = random.index(64) + 1;
            let byte = random.bits() as u8;
            input.extend(std::iter::repeat_n(byte, more));
        }
        7 => {
            let end = (at + 1 + random.index(32)).min(input.len());
            input.drain(at..end);
        }
        8 => {
            let end = (at + 1 + random.index(64)).min(input.len());
            let piece = input[at..end].to_vec();
            let to = random.index(input.len());
            if random.chance(1, 2) { put(input, to, &piece) } else { insert(input, to, &piece) }
        }
        _ => {
            let other = &others[random.index(others.len())];
            if !other.is_empty() {
                let from = random.index(other.len());
                let end = (from + 1 + random.index(64)).min(other.len());
                put(input, at, &other[from..end]);
            }
        }
    }
}

fn put(input: &mut [u8], at: usize, bytes: &[u8]) {
    let len = bytes.len().min(input.len() - at);
    input[at..at + len].copy_from_slice(&bytes[..len]);
}

fn insert(input: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    input.splice(at..at, bytes.iter().copied());
}
