//! A thousand volumes on one shard: what they cost while nobody uses them, and that they go.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod support;

use std::fs;
use std::time::{Duration, Instant};

use engine::{Engine, Error};
use serde_json::Value;
use support::{Guest, PAGE, Place, create, open};

const VOLUMES: usize = 1000;
const USED: usize = 20;

fn uuid(number: usize) -> String {
    format!("aaaaaaaa-0000-4000-8000-{number:012x}")
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Waits until no more than `most` are open: sockets and folders are let go of a moment after the
/// call that no longer needs them has returned.
fn descriptors_fall_to(most: usize, which: &str) {
    let end = Instant::now() + Duration::from_secs(60);
    while descriptors() > most {
        assert!(Instant::now() < end, "{} are open, not {most}: {which}", descriptors());
        std::thread::yield_now();
    }
}

/// Bytes of memory that the process really uses.
fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * PAGE
}

#[test]
fn volumes_that_nobody_uses_cost_next_to_nothing() {
    let place = Place::new("many");
    let engine = place.engine();
    create(&engine, &uuid(0), None).unwrap();
    open(&engine, &uuid(0), None).unwrap();
    let (files, memory) = (descriptors(), resident());
    for number in 1..VOLUMES {
        create(&engine, &uuid(number), None).unwrap();
        open(&engine, &uuid(number), None).unwrap();
    }
    descriptors_fall_to(files, "a volume that was never written has no file open");
    let each = resident().saturating_sub(memory) / VOLUMES;
    assert!(each < 32 << 10, "{each} bytes for each volume");
    for number in 0..USED {
        let mut guest = Guest::new(&engine, &uuid(number));
        guest.write(0, &[1; PAGE]);
        engine.unexport_nbd(&uuid(number)).unwrap();
    }
    descriptors_fall_to(files + 2 * USED, "the open SCO, and the next one");
    let status: Value = serde_json::from_str(&engine.status().unwrap()).unwrap();
    assert_eq!(status["volumes"].as_array().unwrap().len(), VOLUMES);
    assert_eq!(status["findings"].as_array().unwrap().len(), 0);
    for number in 0..VOLUMES {
        engine.close_volume(&uuid(number), None).unwrap();
    }
    descriptors_fall_to(files, "a volume that was closed has no file open");
    engine.shutdown(true).unwrap();
}
