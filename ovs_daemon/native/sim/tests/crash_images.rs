//! The crash-image enumerator on trial: toy logs whose faults are known.

use std::collections::BTreeSet;

use buffer::files::Files;
use sim::crash::{Crash, CrashBounds, CrashReport, SECTOR, enumerate};
use sim::explore::Violation;
use sim::memory::{Image, MemoryFiles};

const LOG: &str = "log/1";

/// A record fills one sector; its first byte is its number and its last eight bytes are a checksum.
fn record(number: u8) -> Vec<u8> {
    let mut bytes = vec![number ^ 0x5a; SECTOR];
    bytes[0] = number;
    let sum = checksum(&bytes);
    bytes[SECTOR - 8..].copy_from_slice(&sum);
    bytes
}

fn checksum(bytes: &[u8]) -> [u8; 8] {
    sim::fingerprint::fingerprint(&bytes[..SECTOR - 8], 0).to_le_bytes()[..8]
        .try_into()
        .expect("eight bytes")
}

/// The numbers of the valid records up to the first that is not.
fn recover(image: &Image, verify: bool) -> Vec<u8> {
    let Some(log) = image.get(LOG) else {
        return Vec::new();
    };
    let sectors = log.as_chunks::<SECTOR>().0;
    let valid = |sector: &&[u8; SECTOR]| {
        let sum = &sector[SECTOR - 8..];
        sector[0] != 0 && (!verify || sum == checksum(&sector[..]))
    };
    sectors.iter().take_while(valid).map(|sector| sector[0]).collect()
}

/// What a faulty author forgot.
#[derive(Clone, Copy, PartialEq)]
enum Forgotten {
    Nothing,
    Sync,
    SyncDir,
    Checksum,
}

fn run(forgotten: Forgotten, records: u8, per_sync: u8, bounds: &CrashBounds) -> CrashReport {
    let files = MemoryFiles::new().recording();
    let ok = "the memory twin has room and no faults";
    files.create(LOG).expect(ok);
    if forgotten != Forgotten::SyncDir {
        files.sync_dir("log").expect(ok);
    }
    for number in 1..=records {
        files.write_at(LOG, u64::from(number - 1) * SECTOR as u64, &[&record(number)]).expect(ok);
        if number % per_sync == 0 {
            if forgotten != Forgotten::Sync {
                files.sync(LOG).expect(ok);
            }
            files.mark(u64::from(number));
        }
    }
    let verify = forgotten != Forgotten::Checksum;
    enumerate(&Image::new(), &files.log(), bounds, &mut |crash: &Crash<'_>| {
        let found = recover(crash.image, verify);
        let promised = crash.marks.last().copied().unwrap_or(0);
        let whole = |(at, number): (usize, &u8)| {
            *number == at as u8 + 1
                && crash.image[LOG][at * SECTOR..(at + 1) * SECTOR] == record(*number)
        };
        if !found.iter().enumerate().all(whole) {
            return Err(Violation::new("nothing invented", format!("{found:?}")));
        }
        if (found.len() as u64) < promised {
            let detail = format!("{} records are left of {promised}", found.len());
            return Err(Violation::new("nothing lost", detail));
        }
        Ok(())
    })
}

fn broken(forgotten: Forgotten) -> Option<&'static str> {
    run(forgotten, 3, 1, &CrashBounds::default()).failure.map(|failure| failure.violation.invariant)
}

#[test]
fn a_correct_log_survives_every_image_and_each_omission_is_found() {
    assert_eq!(broken(Forgotten::Nothing), None);
    assert_eq!(broken(Forgotten::Sync), Some("nothing lost"));
    assert_eq!(broken(Forgotten::SyncDir), Some("nothing lost"));
    assert_eq!(broken(Forgotten::Checksum), Some("nothing invented"));
}

#[test]
fn all_subsets_are_built_and_each_image_once() {
    let bounds = CrashBounds { torn: 0, ..CrashBounds::default() };
    let files = MemoryFiles::new();
    files.create("f").expect("new");
    files.write_at("f", 0, &[&[7u8; 4 * SECTOR]]).expect("fits");
    let base = files.image();
    let files = files.recording();
    // In place, so the length does not change; each sector is either old (7) or new (8).
    files.write_at("f", 0, &[&[8u8; 4 * SECTOR]]).expect("fits");
    let mut states = BTreeSet::new();
    let mut images = 0;
    let report = enumerate(&base, &files.log(), &bounds, &mut |crash: &Crash<'_>| {
        images += 1;
        let sectors = crash.image["f"].as_chunks::<SECTOR>().0;
        assert_eq!(sectors.len(), 4);
        let whole = sectors.iter().all(|sector| sector.iter().all(|byte| *byte == sector[0]));
        if whole {
            states.insert(sectors.iter().map(|sector| sector[0]).collect::<Vec<_>>());
        }
        Ok(())
    });
    assert_eq!(states.len(), 16, "every subset of four sectors");
    assert_eq!(report.images, images);
    assert!(images > 16, "and some with torn sectors");
    assert_eq!((report.points, report.sampled, report.undecided_max), (1, 0, 4));
}

#[test]
fn names_are_undecided_until_the_folder_is_synced() {
    let files = MemoryFiles::from_image(Image::from([
        ("d/a".to_string(), b"a".to_vec()),
        ("d/b".to_string(), b"b".to_vec()),
    ]));
    let base = files.image();
    let files = files.recording();
    files.rename("d/a", "d/c").expect("exists");
    files.unlink("d/b").expect("exists");
    files.create("d/e").expect("new");
    let mut seen = BTreeSet::new();
    let mut gather = |crash: &Crash<'_>| {
        seen.insert(crash.image.keys().map(|path| path[2..].to_string()).collect::<String>());
        Ok(())
    };
    enumerate(&base, &files.log(), &CrashBounds::default(), &mut gather);
    let expected = ["a", "ab", "abe", "ae", "bc", "bce", "c", "ce"];
    assert_eq!(seen.iter().collect::<Vec<_>>(), expected);
    files.sync_dir("d").expect("exists");
    files.mark(1);
    let mut last = None;
    enumerate(&base, &files.log(), &CrashBounds::default(), &mut |crash: &Crash<'_>| {
        if crash.marks == [1] {
            assert!(last.is_none(), "after the sync there is one image only");
            last = Some(crash.image.keys().cloned().collect::<Vec<_>>());
        }
        Ok(())
    });
    assert_eq!(last, Some(vec!["d/c".to_string(), "d/e".to_string()]));
}

#[test]
fn many_undecided_sectors_are_sampled_and_the_report_says_so() {
    let bounds = CrashBounds { exhaustive: 3, torn: 2, samples: 50, seed: 9 };
    let good = run(Forgotten::Nothing, 8, 8, &bounds);
    assert!(good.failure.is_none());
    assert_eq!(good.undecided_max, 8);
    assert!(good.sampled > 0);
    let bad = run(Forgotten::Checksum, 8, 8, &bounds);
    let failure = bad.failure.expect("a torn record is among the samples");
    assert!(failure.to_string().contains("of log/1: "), "{failure}");
}
