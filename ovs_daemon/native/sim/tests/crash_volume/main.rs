//! Power loss at every point of short lives of a log: every sequence of up to three operations out
//! of {write, flush, trim, snapshot, close SCO, upload done, checkpoint}, then long random ones.
//!
//! The bytes are written by the production encoders and read by the production parsers and
//! `buffer::recover`; only the order of system calls is repeated here (`log.rs`), because the real
//! calls go to a real disk. From every image that `sim::crash` builds, the volume must open and be
//! what the first *k* operations made of it, with *k* not before the last promise.

mod backend;
mod garbage;
mod log;
mod marks;
mod recover;

use std::sync::Arc;

use sim::crash::{Crash, CrashBounds, CrashReport, enumerate};
use sim::explore::Violation;
use sim::faulty::{Fault, FaultyFiles};
use sim::memory::{Image, MemoryFiles};
use sim::random::Random;

use log::{Content, Log, Step};

const STEPS: [Step; 7] = [
    Step::Write,
    Step::Flush,
    Step::Trim,
    Step::Snapshot,
    Step::Close,
    Step::Upload,
    Step::Checkpoint,
];

/// Runs the steps on recording files and opens every image that a power loss may leave.
fn survive(steps: &[Step], bounds: &CrashBounds, forget: Option<Forget>) -> CrashReport {
    let memory = MemoryFiles::new().recording();
    let mut log = Log::new(Arc::new(FaultyFiles::new(memory.clone(), Vec::new())));
    for step in steps {
        log.step(*step, forget);
    }
    enumerate(&Image::new(), &memory.log(), bounds, &mut |crash| check(crash, &log.states))
}

/// What a faulty author forgot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forget {
    /// To sync before a flush is answered.
    Sync,
    /// To sync the folder after a file was made.
    SyncDir,
    /// To store the object before the file is removed.
    ObjectFirst,
    /// To sync an object before it gets its name.
    SyncObject,
    /// To store a checkpoint before what it replaces is deleted.
    CheckpointFirst,
}

fn check(crash: &Crash<'_>, states: &[Content]) -> Result<(), Violation> {
    let memory = MemoryFiles::from_image(crash.image.clone());
    let files = Arc::new(FaultyFiles::new(memory, Vec::new()));
    let found =
        recover::open(&files).map_err(|why| Violation::new("the volume can be opened", why))?;
    let promised = crash.marks.last().copied().unwrap_or(0) as usize;
    if states[promised..].contains(&found) {
        return Ok(());
    }
    let detail = format!("found {found:?}, expected one of {:?}", &states[promised..]);
    Err(Violation::new("flushed survives power loss", detail))
}

fn demand(report: &CrashReport, steps: &[Step]) {
    if let Some(failure) = &report.failure {
        panic!("{steps:?}\n{failure}");
    }
}

#[test]
fn every_sequence_of_three_operations_survives_power_loss() {
    let bounds = CrashBounds { exhaustive: 10, torn: 4, ..CrashBounds::default() };
    let mut images = 0;
    for number in 0..STEPS.len().pow(3) {
        let place = |at: u32| STEPS[number / STEPS.len().pow(at) % STEPS.len()];
        // Shorter sequences are prefixes, and every point of the record is a crash.
        let steps = [place(2), place(1), place(0)];
        let report = survive(&steps, &bounds, None);
        demand(&report, &steps);
        images += report.images;
    }
    assert!(images > 5_000, "{images} images are too few to mean something");
}

#[test]
fn long_random_lives_survive_power_loss() {
    let bounds = CrashBounds { exhaustive: 6, torn: 3, samples: 8, seed: 3 };
    for seed in 0..6 {
        let mut random = Random::new(seed);
        // Writes are more frequent, or little would be there to lose.
        let mut pick = || STEPS[random.index(STEPS.len() + 5).saturating_sub(5)];
        let steps: Vec<Step> = (0..24).map(|_| pick()).collect();
        demand(&survive(&steps, &bounds, None), &steps);
    }
}

/// One write of a life goes wrong silently. What is found later may be less than was promised, but
/// it is noticed or it is what the volume once was; it is never something else.
#[test]
fn silent_faults_are_never_returned_as_data() {
    let (mut noticed, mut shorter, mut unharmed) = (0, 0, 0);
    for seed in 0..400 {
        let mut random = Random::new(seed);
        let mut pick = || STEPS[random.index(STEPS.len() + 5).saturating_sub(5)];
        let steps: Vec<Step> = (0..16).map(|_| pick()).collect();
        let fault = Fault::silent(&mut random, 14);
        let memory = MemoryFiles::new();
        let mut log = Log::new(Arc::new(FaultyFiles::new(memory.clone(), vec![fault])));
        steps.iter().for_each(|step| log.step(*step, None));
        let files = Arc::new(FaultyFiles::new(memory, Vec::new()));
        match recover::open(&files) {
            Err(_) => noticed += 1,
            Ok(found) if log.states.last() == Some(&found) => unharmed += 1,
            Ok(found) if log.states.contains(&found) => shorter += 1,
            Ok(found) => panic!("seed {seed}: {fault:?} in {steps:?} gave {found:?}"),
        }
    }
    assert!(noticed > 40 && shorter > 10 && unharmed > 40, "{noticed} {shorter} {unharmed}");
}

/// A failed sync of an earlier life must not go unnoticed (`buffer::LogBuffer::open`).
#[test]
fn what_no_header_proves_to_be_durable_is_to_be_written_again() {
    use Step::{Close, Flush, Write};
    let memory = MemoryFiles::new();
    let mut log = Log::new(Arc::new(FaultyFiles::new(memory.clone(), Vec::new())));
    // The header of the last write says that the first SCO was durable; nothing says so of it.
    [Write, Close, Flush, Write].into_iter().for_each(|step| log.step(step, None));
    let end = buffer::ChainEnd { sco: 0, sequence: 0, crc: 0 };
    let found = buffer::recover(&memory, log::FOLDER, &log::LOG, end).expect("nothing is wrong");
    let unproven: Vec<(u32, bool)> = found.scos.iter().map(|s| (s.sco, s.unproven)).collect();
    assert_eq!(unproven, [(1, false), (2, true)]);
}

#[test]
fn every_omission_is_found() {
    use Step::{Checkpoint, Close, Flush, Upload, Write};
    let bounds = CrashBounds::default();
    // The first SCO is dead when the second checkpoint is stored.
    let first = [Write, Close, Upload, Checkpoint];
    let overwritten = [&first[..], &[Write, Write, Flush, Close, Upload, Checkpoint]].concat();
    let cases: [(Forget, &[Step]); 5] = [
        (Forget::Sync, &[Write, Flush]),
        (Forget::SyncDir, &[Write, Flush]),
        (Forget::ObjectFirst, &[Write, Flush, Close, Upload]),
        (Forget::SyncObject, &[Write, Flush, Close, Upload]),
        (Forget::CheckpointFirst, &overwritten),
    ];
    for (forget, steps) in cases {
        demand(&survive(steps, &bounds, None), steps);
        let report = survive(steps, &bounds, Some(forget));
        assert!(report.failure.is_some(), "{forget:?} went unnoticed in {steps:?}");
    }
}
