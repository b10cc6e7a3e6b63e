//! One snapshot of several volumes: is it one instant?
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use engine::{Engine, Error};
use serde_json::json;
use support::{Guest, PAGE, Place, create, open};

const VOLUMES: usize = 4;
const ROUNDS: usize = 24;

fn volume(number: usize) -> String {
    format!("aaaaaaaa-0000-4000-8000-{number:012x}")
}

fn snapshot(round: usize, number: usize) -> String {
    format!("bbbbbbbb-0000-4000-8000-{:012x}", round << 8 | number)
}

fn group(round: usize) -> String {
    let pairs = (0..VOLUMES).map(|n| (volume(n), snapshot(round, n)));
    json!(pairs.collect::<Vec<_>>()).to_string()
}

fn count_in(bytes: &[u8]) -> u64 {
    let count = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert!(bytes.chunks_exact(8).all(|word| word == count.to_le_bytes()), "written wholly");
    count
}

/// What the snapshots of a round hold, one count for each volume.
fn counts(engine: &Engine, round: usize) -> Vec<u64> {
    let read = |number: usize| {
        let clone = format!("cccccccc-0000-4000-8000-{:012x}", round << 8 | number);
        let (volume, snapshot) = (volume(number), snapshot(round, number));
        let parent = Some((volume.as_str(), snapshot.as_str()));
        create(engine, &clone, parent).unwrap();
        open(engine, &clone, parent).unwrap();
        let count = count_in(&Guest::new(engine, &clone).read(0, 3 * PAGE));
        engine.delete_volume(&clone).unwrap();
        count
    };
    (0..VOLUMES).map(read).collect()
}

/// Writes 1, 2, 3 ... to each volume in turn, each after the answer to the one before; tells when it
/// has begun.
fn write_round_robin(mut guests: Vec<Guest>, begun: Sender<()>, stop: &AtomicBool) {
    let mut count = 0u64;
    while !stop.load(Ordering::Relaxed) {
        count += 1;
        let bytes: Vec<u8> = count.to_le_bytes().repeat(3 * PAGE / 8);
        for guest in &mut guests {
            guest.write(0, &bytes);
        }
        // Nobody hears it but the first time.
        let _ = begun.send(());
    }
}

#[test]
fn no_write_is_in_it_without_those_that_were_answered_before() {
    let place = Place::new("group");
    let engine = place.engine_with(2);
    for number in 0..VOLUMES {
        create(&engine, &volume(number), None).unwrap();
        open(&engine, &volume(number), None).unwrap();
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let guests = (0..VOLUMES).map(|n| Guest::new(&engine, &volume(n))).collect();
        let ((begun, hear), stopped) = (channel(), &stop);
        let writer = scope.spawn(move || write_round_robin(guests, begun, stopped));
        let heard = hear.recv_timeout(Duration::from_secs(60));
        heard.expect("the first round is written");
        for round in 0..ROUNDS {
            engine.snapshot_group(&group(round)).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap();
    });
    let mut last = 0;
    for round in 0..ROUNDS {
        let counts = counts(&engine, round);
        assert!(counts.is_sorted_by(|a, b| a >= b), "round {round}: {counts:?}");
        assert!(counts[0] - counts[VOLUMES - 1] <= 1, "round {round}: {counts:?}");
        assert!(counts[0] >= last, "round {round} is older than the one before");
        last = counts[0];
    }
    assert!(last > 0, "writes went on between the snapshots");
    engine.shutdown(false).unwrap();
}

#[test]
fn repeating_it_changes_nothing_and_completing_it_replaces_what_was_left() {
    let place = Place::new("group-again");
    let engine = place.engine_with(2);
    for number in 0..VOLUMES {
        create(&engine, &volume(number), None).unwrap();
        open(&engine, &volume(number), None).unwrap();
    }
    let write = |count: u64| {
        for number in 0..VOLUMES {
            let bytes = count.to_le_bytes().repeat(3 * PAGE / 8);
            Guest::new(&engine, &volume(number)).write(0, &bytes);
            engine.unexport_nbd(&volume(number)).unwrap();
        }
    };
    write(1);
    engine.snapshot_group(&group(0)).unwrap();
    engine.create_snapshot(&volume(2), &snapshot(1, 2)).unwrap();
    write(2);
    engine.snapshot_group(&group(0)).unwrap();
    assert_eq!(counts(&engine, 0), [1; VOLUMES]);
    // As an engine that died in between would leave it: one of them is there already.
    engine.snapshot_group(&group(1)).unwrap();
    assert_eq!(counts(&engine, 1), [2; VOLUMES]);
    engine.shutdown(false).unwrap();
}

#[test]
fn what_can_not_be_one_instant_is_refused_and_holds_nobody() {
    let place = Place::new("group-refused");
    let engine = place.engine_with(2);
    for number in 0..VOLUMES - 1 {
        create(&engine, &volume(number), None).unwrap();
        open(&engine, &volume(number), None).unwrap();
    }
    assert_eq!(engine.snapshot_group(&group(0)).unwrap_err().code, "NOT_OPEN");
    let twice = json!([[volume(0), snapshot(0, 0)], [volume(0), snapshot(0, 1)]]);
    assert_eq!(engine.snapshot_group(&twice.to_string()).unwrap_err().code, "BAD_REQUEST");
    engine.create_snapshot(&volume(0), &snapshot(0, 0)).unwrap();
    let (parent, left) = (volume(0), snapshot(0, 0));
    create(&engine, &volume(9), Some((&parent, &left))).unwrap();
    let pairs = json!([[volume(0), snapshot(0, 0)], [volume(1), snapshot(0, 1)]]);
    let error = engine.snapshot_group(&pairs.to_string()).unwrap_err();
    assert_eq!(error.code, "HAS_CLONES", "a snapshot with a clone is not replaced: {error}");
    engine.snapshot_group("[]").unwrap();
    for number in 0..VOLUMES - 1 {
        Guest::new(&engine, &volume(number)).write(0, &[1; PAGE]);
    }
    engine.shutdown(false).unwrap();
}
