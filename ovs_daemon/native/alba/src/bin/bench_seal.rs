//! What compression and encryption cost of one core, for a SCO of 64 MiB of which half compresses.
//!
//! Ends with a line `RESULT {json}`; the times are the best of some rounds, the share is what is
//! stored of the plain bytes. `memcpy` is there to compare with: it reads and writes all bytes once.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use alba::sealed::{Key, Keys, seal, unseal};
use format::seal::Compression;

const NAME: &str = "00000000-0000-4000-8000-000000000001/sco/00000001";
const SCO: usize = 64 << 20;
const ROUNDS: usize = 5;

fn best(mut work: impl FnMut()) -> f64 {
    let time = || {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    let fastest: Duration = std::iter::repeat_with(time).take(ROUNDS).min().unwrap_or_default();
    fastest.as_secs_f64() * 1e6 / (SCO >> 20) as f64
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
    (0..SCO).map(byte).collect()
}

fn main() {
    let plain = content();
    let key = Key::new("bench", &"5a".repeat(32)).expect("a key");
    let keys = Keys::new(vec![key.clone()]);
    let mut copy = vec![0; SCO];
    let memcpy = best(|| copy.copy_from_slice(black_box(&plain)));
    println!("{:<20} {memcpy:8.1} us/MiB", "memcpy");
    let mut rows = Vec::new();
    for (name, compression, key) in [
        ("aes-256-gcm", Compression::None, Some(&key)),
        ("lz4", Compression::Lz4, None),
        ("zstd", Compression::Zstd, None),
        ("lz4, aes-256-gcm", Compression::Lz4, Some(&key)),
        ("zstd, aes-256-gcm", Compression::Zstd, Some(&key)),
    ] {
        let mut sealed = Vec::new();
        let seal_us =
            best(|| sealed = seal(NAME, black_box(&plain), compression, key).expect("room"));
        let unseal_us = best(|| unseal(NAME, &sealed, &keys, 0, &mut copy).expect("it is sound"));
        assert!(copy == plain, "what comes out is what went in");
        let share = sealed.len() as f64 / SCO as f64;
        println!(
            "{name:<20} {seal_us:8.1} us/MiB to seal, {unseal_us:8.1} to unseal, {:3.0} % stored",
            share * 100.0
        );
        rows.push(format!(
            r#"{{"preset":"{name}","seal_us_per_mib":{seal_us:.1},"unseal_us_per_mib":{unseal_us:.1},"stored":{share:.2}}}"#
        ));
    }
    println!("RESULT {{\"memcpy_us_per_mib\":{memcpy:.1},\"presets\":[{}]}}", rows.join(","));
}
