//! What compression and encryption cost of one core, for 64 objects of 1 MiB of which half
//! compresses. (Larger ones would measure how the kernel clears fresh memory.)
//!
//! Ends with a line `RESULT {json}`; the times are of CPU, the best of some rounds; the share is what is
//! stored of the plain bytes. `memcpy` is there to compare with: it reads and writes all bytes once.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fs;
use std::hint::black_box;

use alba::sealed::{Key, Keys, seal, unseal};
use format::seal::Compression;

const NAME: &str = "00000000-0000-4000-8000-000000000001/sco/00000001";
const OBJECT: usize = 1 << 20;
const ALL: usize = 64 * OBJECT;
const ROUNDS: usize = 5;
/// The kernel counts in steps of some milliseconds, and one copy takes less.
const COPIES: u32 = 16;

/// Nanoseconds that this thread was on a processor (proc(5), schedstat): others at work do not count.
fn cpu_ns() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells");
    text.split(' ').next().and_then(|first| first.parse().ok()).expect("its first field")
}

fn best(mut work: impl FnMut()) -> f64 {
    let time = || {
        let start = cpu_ns();
        work();
        cpu_ns() - start
    };
    let fastest = std::iter::repeat_with(time).take(ROUNDS).min().unwrap_or_default();
    fastest as f64 / 1e3 / (ALL >> 20) as f64
}

/// Clusters of noise and of text, in turns of 64 KiB.
fn content() -> Vec<u8> {
    let mut state = 1u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    let text = b"2026-11-25T17:00:00Z INFO volume 42: a line of a log as there are many\n";
    let byte = |at: usize| match (at >> 16).is_multiple_of(2) {
        true => text[(at + at / 977) % text.len()],
        false => noise(),
    };
    (0..ALL).map(byte).collect()
}

fn main() {
    let plain = content();
    let key = Key::new("bench", &"5a".repeat(32)).expect("a key");
    let keys = Keys::new(vec![key.clone()]);
    let mut copy = vec![0; ALL];
    let memcpy = best(|| (0..COPIES).for_each(|_| copy.copy_from_slice(black_box(&plain))));
    let memcpy = memcpy / f64::from(COPIES);
    println!("{:<20} {memcpy:8.1} us/MiB", "memcpy");
    let mut rows = Vec::new();
    for (name, compression, key) in [
        ("aes-256-gcm", Compression::None, Some(&key)),
        ("lz4", Compression::Lz4, None),
        ("zstd", Compression::Zstd, None),
        ("lz4, aes-256-gcm", Compression::Lz4, Some(&key)),
        ("zstd, aes-256-gcm", Compression::Zstd, Some(&key)),
    ] {
        let seal = |plain: &[u8]| seal(NAME, black_box(plain), compression, key).expect("room");
        let seal_us = best(|| plain.chunks(OBJECT).for_each(|one| drop(black_box(seal(one)))));
        let sealed: Vec<Vec<u8>> = plain.chunks(OBJECT).map(seal).collect();
        let unseal_us = best(|| {
            for (one, into) in sealed.iter().zip(copy.chunks_mut(OBJECT)) {
                unseal(NAME, one, &keys, 0, into).expect("it is sound");
            }
        });
        assert!(copy == plain, "what comes out is what went in");
        let share = sealed.iter().map(Vec::len).sum::<usize>() as f64 / ALL as f64;
        println!(
            "{name:<20} {seal_us:8.1} us/MiB to seal, {unseal_us:8.1} to unseal, {:3.0} % stored",
            share * 100.0
        );
        let times = format!(r#""seal_us_per_mib":{seal_us:.1},"unseal_us_per_mib":{unseal_us:.1}"#);
        rows.push(format!(r#"{{"preset":"{name}",{times},"stored":{share:.2}}}"#));
    }
    println!("RESULT {{\"memcpy_us_per_mib\":{memcpy:.1},\"presets\":[{}]}}", rows.join(","));
}
