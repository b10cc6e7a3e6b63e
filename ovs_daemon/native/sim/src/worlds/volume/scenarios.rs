//! The worlds of the volume owner that are explored: each has enough of everything to reach one
//! part of its life, so that every one of them can be explored to the end.

use machines::volume::{Action, Limits, Mutant, Stage, Stall};

use super::disk::Safety;
use super::{Bounds, MovePolicy, OpenPolicy, Request, VolumeWorld};
use crate::scenario::Scenario;

const WRITE_0: Request = Request::Write { lba: 0, clusters: 1, fua: false };
const WRITE_BOTH: Request = Request::Write { lba: 0, clusters: 2, fua: false };
const FUA_0: Request = Request::Write { lba: 0, clusters: 1, fua: true };
const TRIM_0: Request = Request::Trim { lba: 0 };

const READS: (&str, &str) = (
    "reads return what was written",
    "what a running volume and its snapshots show is what the first k operations made, with k at \
     or after the last acknowledged one",
);
const KILL: (&str, &str) = (
    "acknowledged survives kill -9",
    "in every state: opening after `kill -9` would find all acknowledged operations, in order",
);
const POWER: (&str, &str) = (
    "flushed survives power loss",
    "in every state: opening after power loss would find all that a flush, FUA or snapshot verb \
     promised, and a prefix of the operations after it",
);
const BUFFERED: (&str, &str) = (
    "buffer until stored",
    "a file leaves the write buffer only when its object is stored, or open needs neither",
);
const DANGLING: (&str, &str) = (
    "no reference dangles",
    "no deleted SCO is referred to by the head, a snapshot, the stored checkpoint or its replay",
);
const CHECKPOINT: (&str, &str) = (
    "checkpoints hold what is stored",
    "when a checkpoint is stored, every SCO up to its position that exists is an object",
);
const OPENS: (&str, &str) = (
    "the volume can be opened",
    "in every state, after `kill -9` and after power loss: objects and checkpoint fit together \
     without a hole, and no header claims that something was durable that is gone",
);
const LEAKS: (&str, &str) =
    ("nothing leaks", "the machine knows every object on the backend, also after a crash");
const PROGRESS: (&str, &str) = (
    "no operation is forgotten",
    "while somebody waits for an answer, or for the volume to drain, something is on its way",
);
const ORDER: (&str, &str) =
    ("batches are in order", "each batch continues the log, in a file that is there");
const NUMBERS: (&str, &str) =
    ("numbers are not used twice", "no file or object gets the number of another one");
const ANSWERS: (&str, &str) = ("one answer each", "every operation is answered at most once");
const CACHE: (&str, &str) = (
    "the cache is used up and bounded",
    "files of uploaded SCOs stay as long as what they hold has room, and no longer",
);
const SETTLED: (&str, &str) =
    ("settled is stored", "what was appended before a settling is in a checkpoint at its end");
const DELETED: (&str, &str) = (
    "what is dead is deleted",
    "while an object is to be deleted, a delete or the next try of one is on its way",
);
const FEW: (&str, &str) =
    ("deletes are few at a time", "so many objects as the limit says, and none of them twice");
const PATIENT: (&str, &str) =
    ("a refused delete waits", "after a refusal nothing is deleted before the pause is over");
const SNAPSHOT: (&str, &str) =
    ("snapshots end their SCO", "the position of a snapshot is a closed SCO");

const BOUNDED: (&str, &str) =
    ("a SCO is bounded", "a SCO has no more header pages than it may have data clusters");

const LIMITS: Limits = Limits {
    sco_clusters: 2,
    buffer_scos: 2,
    keep_scos: 0,
    checkpoint_scos: 1,
    batch_clusters: 2,
    op_clusters: 2,
    compact_percent: 0,
    deletes: 1,
};

/// A world without any faults.
fn calm(operations: u8, menu: Vec<(Request, u8)>) -> Bounds {
    Bounds {
        limits: LIMITS,
        menu,
        in_order: false,
        operations,
        outstanding: 1,
        crashes: 0,
        failures: 0,
        may_fail: |_| false,
        open: OpenPolicy { rewrites: true, adopts: true },
        moves: MovePolicy::AsListed,
        drain: false,
        settle: false,
        goals: Vec::new(),
    }
}

fn words(bounds: &Bounds) -> String {
    let faults = [
        (bounds.crashes, "crash"),
        (bounds.failures, "failed action"),
        (u8::from(bounds.drain), "drain"),
        (u8::from(bounds.settle), "settling"),
    ];
    let faults = faults.iter().filter(|(times, _)| *times > 0);
    let faults: Vec<String> = faults.map(|(times, what)| format!("{what} x{times}")).collect();
    format!(
        "{} operations of {} kinds, {} at a time; {}",
        bounds.operations,
        bounds.menu.len(),
        bounds.outstanding,
        faults.join(", ")
    )
}

/// Builds a scenario; the world borrows its bounds for as long as the program runs.
fn scenario(
    name: &'static str,
    invariants: &[(&'static str, &'static str)],
    bounds: Bounds,
    mutants: &[(Mutant, &'static str)],
) -> (Scenario, &'static Bounds) {
    let bounds: &'static Bounds = Box::leak(Box::new(bounds));
    let start = VolumeWorld::new(bounds, None);
    let mut scenario = Scenario::new(name, "machines::volume", words(bounds), invariants, start);
    for (mutant, caught_by) in mutants {
        let start = VolumeWorld::new(bounds, Some(*mutant));
        scenario = scenario.mutant(mutant_name(*mutant), caught_by, start);
    }
    (scenario, bounds)
}

/// Every world of the volume owner.
pub fn scenarios(level: u32) -> Vec<Scenario> {
    let more = u8::try_from(level).unwrap_or(u8::MAX);
    vec![
        log(more),
        backend(more),
        deletions(more),
        snapshots(more),
        revert(more),
        compaction(more),
        moves(more),
        cache(more),
        full(more),
        settling(more),
    ]
}

/// Appends, syncs and crashes, with operations that overlap.
fn log(more: u8) -> Scenario {
    let menu = vec![(WRITE_0, 2 + more), (FUA_0, 1), (TRIM_0, 1), (Request::Flush, 1)];
    let bounds = Bounds {
        outstanding: 2,
        crashes: 2,
        failures: 1,
        may_fail: |action| matches!(action, Action::Append | Action::Sync { .. } | Action::Open(_)),
        goals: vec![
            ("two operations share a batch", |w| {
                w.disk.files.values().flatten().any(|record| record.entries.len() > 2)
            }),
            ("an object saves what a failed sync left at risk", |w| {
                let saved = |s: &machines::volume::Sco| s.unsyncable && s.stage == Stage::Evicted;
                w.volume.scos().values().any(saved) && w.reference.outstanding().is_empty()
            }),
            ("the process dies while pages are forgotten", |w| {
                let mut records = w.disk.files.values().flatten();
                w.budget.crashes == 0 && records.any(|record| record.safety == Safety::Forgotten)
            }),
        ],
        ..calm(3 + more, menu)
    };
    let mutants = [
        (Mutant::FlushWithoutSync, POWER.0),
        (Mutant::FuaWithoutSync, POWER.0),
        (Mutant::SyncCoversTooMuch, POWER.0),
        (Mutant::BelieveSecondSync, POWER.0),
        (Mutant::CompleteBeforeAppend, KILL.0),
        (Mutant::ForgetTrim, READS.0),
        (Mutant::AnswerTwice, ANSWERS.0),
        (Mutant::SkipSequence, ORDER.0),
        (Mutant::CountDataOnly, BOUNDED.0),
    ];
    let invariants = [READS, KILL, POWER, ANSWERS, ORDER, BOUNDED];
    let (scenario, bounds) = scenario("volume-log", &invariants, bounds, &mutants);
    let careless = Bounds { open: OpenPolicy { rewrites: false, adopts: true }, ..bounds.clone() };
    let careless = Box::leak(Box::new(careless));
    let start = VolumeWorld::new(careless, None);
    scenario.mutant("open only syncs what an earlier life failed to sync", POWER.0, start)
}

/// Uploads, evictions, checkpoints and deletions, one client operation after the other.
fn backend(more: u8) -> Scenario {
    let menu = vec![(WRITE_0, 2), (WRITE_BOTH, 2 + more)];
    let bounds = Bounds {
        crashes: 2,
        failures: 1,
        may_fail: |action| {
            matches!(
                action,
                Action::Upload(_) | Action::Checkpoint | Action::Delete(_) | Action::Sync { .. }
            )
        },
        goals: vec![
            ("an object is deleted", |w| {
                let last = w.disk.objects.keys().next_back().copied().unwrap_or(0);
                w.disk.objects.len() < last as usize && w.disk.files.is_empty()
            }),
            ("the backend is behind and writes wait", |w| {
                w.volume.stall() == Some(Stall::BackendBehind)
            }),
            ("everything is stored after a failure", |w| {
                w.budget.failures == 0 && w.flight.is_empty() && w.disk.checkpoint.is_some()
            }),
        ],
        ..calm(3 + more, menu)
    };
    let mutants = [
        (Mutant::UploadNewestFirst, OPENS.0),
        (Mutant::EvictBeforeUploaded, BUFFERED.0),
        (Mutant::FailedUploadCounts, BUFFERED.0),
        (Mutant::CheckpointTooEarly, CHECKPOINT.0),
        (Mutant::DeleteBeforeCheckpoint, DANGLING.0),
        (Mutant::ReuseNumbers, NUMBERS.0),
    ];
    let invariants = [OPENS, BUFFERED, CHECKPOINT, DANGLING, NUMBERS];
    scenario("volume-backend", &invariants, bounds, &mutants).0
}

/// Deletions that the backend refuses and that a power loss takes back, with checkpoints in between.
fn deletions(more: u8) -> Scenario {
    let bounds = Bounds {
        limits: Limits { checkpoint_scos: 2, ..LIMITS },
        crashes: 1,
        failures: 2 + more,
        may_fail: |action| matches!(action, Action::Delete(_)),
        drain: true,
        goals: vec![
            ("an object is deleted in a second life", |w| {
                let gone = !w.disk.objects.contains_key(&1) && w.volume.scos().contains_key(&2);
                w.budget.crashes == 0 && gone && w.disk.lingering.contains(&1)
            }),
            ("two objects are to be deleted", |w| deleting(w) == 2),
            ("what was refused twice is deleted", |w| {
                let refused = w.budget.failures == w.bounds.0.failures - 2;
                refused && w.life == 0 && deleting(w) == 0 && w.flight.is_empty() && w.drained
            }),
        ],
        ..calm(3 + more, vec![(WRITE_BOTH, 3 + more)])
    };
    let mutants = [
        (Mutant::RetryEveryDelete, FEW.0),
        (Mutant::RetryDeletesAtOnce, PATIENT.0),
        (Mutant::ForgetFailedDelete, DELETED.0),
    ];
    let invariants = [LEAKS, DELETED, FEW, PATIENT];
    let (scenario, bounds) = scenario("volume-deletions", &invariants, bounds, &mutants);
    let open = OpenPolicy { adopts: false, ..bounds.open };
    let careless = Box::leak(Box::new(Bounds { open, ..bounds.clone() }));
    let start = VolumeWorld::new(careless, None);
    scenario.mutant("open leaves objects alone that the checkpoint does not list", LEAKS.0, start)
}

/// Objects that are to be deleted.
fn deleting(world: &VolumeWorld) -> usize {
    world.volume.scos().values().filter(|sco| sco.stage == Stage::Deleting).count()
}

/// Snapshots taken and deleted.
fn snapshots(more: u8) -> Scenario {
    let menu = vec![(WRITE_BOTH, 2), (Request::Snapshot(1), 1), (Request::DeleteSnapshot(1), 1)];
    let bounds = Bounds {
        crashes: 1,
        goals: vec![("a snapshot outlives the content of the head", |w| {
            w.disk.checkpoint.as_ref().is_some_and(|stored| {
                let taken = &stored.taken;
                taken.snapshots.iter().any(|snapshot| snapshot.map != taken.map)
            })
        })],
        ..calm(3 + more, menu)
    };
    let mutants = [
        (Mutant::DeleteIgnoresSnapshots, DANGLING.0),
        (Mutant::SnapshotWithoutClosing, SNAPSHOT.0),
    ];
    scenario("volume-snapshots", &[SNAPSHOT, DANGLING], bounds, &mutants).0
}

/// Going back to a snapshot.
fn revert(more: u8) -> Scenario {
    let menu = vec![(WRITE_BOTH, 2 + more), (Request::Snapshot(1), 1), (Request::Revert(1), 1)];
    let bounds = Bounds {
        crashes: 1,
        goals: vec![("the head goes back to a SCO before its last one", |w| {
            let refers = machines::map::count_refs(&[w.volume.map()], 0);
            let last = w.volume.scos().keys().next_back().copied().unwrap_or(0);
            refers.keys().all(|sco| *sco + 2 < last) && !refers.is_empty()
        })],
        ..calm(4 + more, menu)
    };
    scenario("volume-revert", &[], bounds, &[]).0
}

/// Compaction: live clusters move while clients write.
fn compaction(more: u8) -> Scenario {
    let menu = vec![(WRITE_BOTH, 1), (WRITE_0, 3 + more)];
    let bounds = Bounds {
        limits: Limits { compact_percent: 50, ..LIMITS },
        crashes: 1,
        drain: true,
        goals: vec![
            ("a SCO is emptied and deleted", |w| {
                let first = w.disk.objects.keys().next().copied().unwrap_or(0);
                first > 1 && w.disk.checkpoint.as_ref().is_some_and(|c| c.taken.map.mapped() == 2)
            }),
            ("the volume is drained while a run is moved", |w| {
                w.compaction.as_ref().is_some_and(|other| other.given_up)
            }),
        ],
        ..calm(3 + more, menu)
    };
    let mutants = [(Mutant::RelocateBlindly, KILL.0)];
    scenario("volume-compaction", &[KILL], bounds, &mutants).0
}

/// Compaction while the head leaves what is moved, and goes back to it.
fn moves(more: u8) -> Scenario {
    let menu = vec![
        (WRITE_BOTH, 1),
        (WRITE_0, 1),
        (Request::Snapshot(1), 1),
        (WRITE_BOTH, 1 + more),
        (Request::Revert(1), 1),
    ];
    let bounds = Bounds {
        limits: Limits { compact_percent: 50, ..LIMITS },
        in_order: true,
        goals: vec![("what was listed is read after a revert", |w| {
            let over = w.budget.operations == 0 && w.reference.outstanding().is_empty();
            over && w.has_listed()
        })],
        ..calm(5 + more, menu)
    };
    let (scenario, bounds) = scenario("volume-moves", &[KILL], bounds, &[]);
    let careless = Bounds { moves: MovePolicy::ByMap, ..bounds.clone() };
    let careless = Box::leak(Box::new(careless));
    let start = VolumeWorld::new(careless, None);
    scenario.mutant("compaction reads what the map has by then", KILL.0, start)
}

/// Uploaded SCOs of different sizes that stay in the write buffer.
fn cache(more: u8) -> Scenario {
    let menu = vec![(WRITE_0, 3), (WRITE_BOTH, 2 + more), (Request::Snapshot(1), 1)];
    let bounds = Bounds {
        limits: Limits { keep_scos: 1, ..LIMITS },
        crashes: 1,
        goals: vec![
            ("two small SCOs are kept", |w| {
                let kept = w.volume.scos().values().filter(|sco| sco.stage == Stage::Uploaded);
                kept.count() == 2
            }),
            ("one makes room for another", |w| {
                let scos = w.volume.scos();
                scos.values().any(|sco| sco.stage == Stage::Evicted)
                    && scos.values().any(|sco| sco.stage == Stage::Uploaded)
            }),
        ],
        ..calm(4 + more, menu)
    };
    let mutants = [(Mutant::CountFilesKept, CACHE.0)];
    scenario("volume-cache", &[CACHE], bounds, &mutants).0
}

/// What there is goes to the backend while more comes, before the volume is handed over.
fn settling(more: u8) -> Scenario {
    let bounds = Bounds {
        crashes: more.min(1),
        failures: 1,
        may_fail: |action| matches!(action, Action::Upload(_) | Action::Checkpoint),
        settle: true,
        drain: true,
        goals: vec![
            ("a write is answered while the volume settles", |w| {
                w.settling.is_some_and(|sequence| w.volume.sequence() > sequence)
            }),
            ("what settled is drained", |w| w.drained && w.settled && w.budget.operations == 0),
        ],
        ..calm(3 + more, vec![(WRITE_BOTH, 3 + more)])
    };
    let mutants = [(Mutant::SettleTooEarly, SETTLED.0)];
    scenario("volume-settling", &[SETTLED], bounds, &mutants).0
}

/// A full disk, and closing the volume.
fn full(more: u8) -> Scenario {
    let menu = vec![(WRITE_BOTH, 2), (TRIM_0, 1), (Request::Flush, 1)];
    let bounds = Bounds {
        outstanding: 2,
        failures: 2 + more,
        may_fail: |action| matches!(action, Action::Append | Action::Open(_)),
        drain: true,
        goals: vec![
            ("writes wait for space", |w| w.volume.stall() == Some(Stall::NoSpace)),
            ("everything is drained after the disk was full", |w| {
                w.drained && w.budget.failures == 0 && w.budget.operations == 0
            }),
        ],
        ..calm(3, menu)
    };
    scenario("volume-full", &[PROGRESS], bounds, &[(Mutant::ForgetFailedAppend, PROGRESS.0)]).0
}

fn mutant_name(mutant: Mutant) -> &'static str {
    match mutant {
        Mutant::FlushWithoutSync => "a flush completes at once",
        Mutant::CompleteBeforeAppend => "a write completes before it is appended",
        Mutant::SyncCoversTooMuch => "a sync covers the batch appended while it ran",
        Mutant::BelieveSecondSync => "a failed sync is repeated and believed",
        Mutant::UploadNewestFirst => "the newest closed SCO is uploaded first",
        Mutant::EvictBeforeUploaded => "a file is evicted when its upload starts",
        Mutant::FailedUploadCounts => "a failed upload counts as done",
        Mutant::CheckpointTooEarly => "a checkpoint is stored before its SCOs are",
        Mutant::DeleteIgnoresSnapshots => "snapshots do not keep their SCOs",
        Mutant::DeleteBeforeCheckpoint => "a SCO is deleted when the head leaves it",
        Mutant::RelocateBlindly => "relocated clusters replace newer ones",
        Mutant::ForgetTrim => "a trim does not reach the map",
        Mutant::FuaWithoutSync => "a write with FUA completes like any other",
        Mutant::SnapshotWithoutClosing => "a snapshot leaves its SCO open",
        Mutant::ForgetFailedAppend => "a failed append is not tried again",
        Mutant::SkipSequence => "every second sequence is left out",
        Mutant::ReuseNumbers => "every SCO gets the same number",
        Mutant::AnswerTwice => "a write is answered twice",
        Mutant::CountFilesKept => "a small SCO in the cache counts like a full one",
        Mutant::SettleTooEarly => "a volume is settled before its SCOs are stored",
        Mutant::RetryEveryDelete => "after a refusal every delete is asked for again",
        Mutant::RetryDeletesAtOnce => "a refused delete is asked for again at once",
        Mutant::ForgetFailedDelete => "a refused delete is not tried again",
        Mutant::CountDataOnly => "a SCO is full of data only",
    }
}
