//! One volume, turn by turn: when it wants a turn, and what it does before it calls itself drained.
#![allow(clippy::disallowed_methods)]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use alba::{Backend, Directory, Put, Sink};
use edge::target::{Outcome, Request, RequestId, Verb};
use format::log::PAGE;
use machines::map::Map;
use machines::volume::{Limits, Stage};
use media::{Event, Ring, Slice, Wait};
use volume::{
    Control, FollowerAt, Following, Job, JobFailure, OpenSpec, Outcome as JobOutcome, Outputs,
    SharedScos, Tuning, Volume, Work, open, uuid_text,
};

const LOG: [u8; 16] = [7; 16];
const SIZE: u64 = 20 * CHUNK as u64;
/// Bytes that a chunk of the map is about.
const CHUNK: usize = 256 << 20;

struct Bench {
    root: PathBuf,
    backend: Directory,
    ring: Ring,
    volume: Volume,
    out: Outputs,
    now: u64,
    requests: u64,
    /// Time does not pass beyond.
    until: u64,
    /// The backend refuses deletes; so often it has, and so many waited for it together.
    refuses: bool,
    refused: u64,
    deletes_max: usize,
    /// `Some`: what `is_slow` takes its time, these have not ended.
    slow: Option<Vec<Job>>,
    is_slow: fn(&Work) -> bool,
}

fn is_fetch(work: &Work) -> bool {
    matches!(work, Work::Fetch { .. })
}

fn opened(root: &Path, backend: &Directory, epoch: u64) -> Volume {
    opened_on(root, backend, epoch, vec![LOG], None)
}

fn opened_on(
    root: &Path,
    backend: &Directory,
    epoch: u64,
    ancestors: Vec<[u8; 16]>,
    base: Option<Map>,
) -> Volume {
    let limits = Limits {
        sco_clusters: 24,
        buffer_scos: 8,
        keep_scos: 4,
        checkpoint_scos: 1,
        batch_clusters: 16,
        op_clusters: 8,
        compact_percent: 50,
        deletes: 2,
    };
    let buffer_dir = root.join("buffer");
    let spec = OpenSpec { ancestors, epoch, base, buffer_dir, limits, warm: None };
    let shared: Arc<SharedScos> = Arc::default();
    let found = open(spec, backend, &shared).unwrap();
    let tuning = Tuning { buffer_reserve: 0, compaction_bytes_per_s: 1 << 30 };
    Volume::new(found, 0, 9, SIZE, false, shared, tuning).unwrap()
}

fn refusal() -> JobFailure {
    let why = "an OSD refuses to delete it".to_owned();
    let (no_space, no_files, not_found, corrupt) = (false, false, false, false);
    JobFailure { no_space, no_files, not_found, corrupt, why }
}

impl Bench {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("ovs-turns-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        let backend = Directory::open(&root.join("backend")).unwrap();
        let (ring, volume) = (Ring::new(64).unwrap(), opened(&root, &backend, 1));
        let (out, now, requests) = (Outputs::default(), 1_000_000_000, 0);
        let (until, refuses, refused, deletes_max) = (u64::MAX, false, 0, 0);
        Self {
            root,
            backend,
            ring,
            volume,
            out,
            now,
            requests,
            until,
            refuses,
            refused,
            deletes_max,
            slow: None,
            is_slow: is_fetch,
        }
    }

    /// Closes the volume without a word and opens it again.
    fn reopen(&mut self) {
        self.out = Outputs::default();
        self.volume = opened(&self.root, &self.backend, 2);
    }

    fn submit(&mut self, offset: u64, verb: Verb) -> u64 {
        self.requests += 1;
        let request = Request { id: RequestId(self.requests), offset, verb };
        self.volume.submit(request, &mut self.out);
        self.requests
    }

    fn write(&mut self, offset: usize, len: usize, fill: u8) -> u64 {
        let data = Slice::copy_of(&vec![fill; len]).unwrap();
        self.submit(offset as u64, Verb::Write { data, fua: false })
    }

    fn turn(&mut self) {
        self.volume.turn(self.now, &mut self.ring, &mut self.out);
    }

    fn perform(&mut self, jobs: Vec<Job>) {
        let deletes = jobs.iter().filter(|job| matches!(job.work, Work::Delete { .. })).count();
        self.deletes_max = self.deletes_max.max(deletes);
        for job in jobs {
            if let Some(slow) = self.slow.as_mut().filter(|_| (self.is_slow)(&job.work)) {
                slow.push(job);
                continue;
            }
            let outcome = match job.work {
                Work::Delete { sco, .. } if self.refuses => {
                    self.refused += 1;
                    JobOutcome::Deleted { sco, result: Err(refusal()) }
                }
                _ => job.run(&self.backend).outcome,
            };
            self.volume.on_job(outcome, &mut self.ring, &mut self.out);
        }
    }

    /// As a shard does it: a turn after whatever happened, or when the volume has asked for one.
    fn run_until_idle(&mut self) {
        self.turn();
        loop {
            let jobs = std::mem::take(&mut self.out.jobs);
            if !jobs.is_empty() {
                self.perform(jobs);
            } else if self.ring.in_flight() > 0 {
                let mut events: Vec<Event> = Vec::new();
                self.ring.turn(Wait::Forever, &mut events).unwrap();
                for event in events {
                    self.volume.on_event(event, &mut self.ring, &mut self.out);
                }
            } else if let Some(at) = self.volume.wakes_at()
                && at <= self.until
            {
                self.now = self.now.max(at);
            } else {
                return;
            }
            self.turn();
        }
    }

    /// The backend answers the reads that it has; more of them will take their time again.
    fn answer_slow(&mut self) {
        let jobs = self.slow.replace(Vec::new()).unwrap_or_default();
        assert!(!jobs.is_empty(), "nothing is read from the backend");
        for job in jobs {
            let done = job.run(&self.backend);
            self.volume.on_job(done.outcome, &mut self.ring, &mut self.out);
        }
        self.run_until_idle();
    }

    /// The first bytes of some clusters.
    fn content(&mut self, clusters: std::ops::Range<usize>) -> Vec<u8> {
        let into = Slice::zeroed(clusters.len() * PAGE).unwrap();
        let id = self.submit((clusters.start * PAGE) as u64, Verb::Read(into.clone()));
        self.run_until_idle();
        assert_eq!(self.answered(id), Some(&Outcome::Done));
        into.to_vec().chunks(PAGE).map(|cluster| cluster[0]).collect()
    }

    /// A volume that the backend alone has, four clusters of whose first SCO are still live: two
    /// runs, of two each. Compaction waits for the backend with the first.
    fn compacting(name: &str) -> Self {
        let mut bench = Self::new(name);
        for at in 0..3 {
            bench.write(at * 8 * PAGE, 8 * PAGE, 1);
        }
        bench.volume.control(1, Control::Drain);
        bench.run_until_idle();
        assert!(bench.drained(1));
        std::fs::remove_dir_all(bench.root.join("buffer")).unwrap();
        bench.reopen();
        bench.slow = Some(Vec::new());
        for (at, clusters) in [(2, 2), (6, 8), (14, 8), (22, 2), (30, 4)] {
            bench.write(at * PAGE, clusters * PAGE, 2);
        }
        bench.run_until_idle();
        bench
    }

    fn answered(&self, id: u64) -> Option<&Outcome> {
        self.out.completions.iter().find(|one| one.id.0 == id).map(|one| &one.outcome)
    }

    fn drained(&self, ticket: u64) -> bool {
        self.out.control.iter().any(|done| done.ticket == ticket)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

#[test]
fn what_was_taken_before_a_drain_is_drained_too() {
    let mut bench = Bench::new("drain");
    bench.write(0, PAGE, 1);
    bench.volume.control(1, Control::Drain);
    bench.run_until_idle();
    assert!(bench.drained(1));
    bench.reopen();
    // A part of a cluster that only the backend has: it waits for the rest of the cluster.
    let id = bench.write(100, 10, 2);
    bench.turn();
    let slow = std::mem::take(&mut bench.out.jobs);
    assert!(!slow.is_empty(), "it has to be read from the backend");
    bench.volume.quiesce();
    bench.volume.control(2, Control::Drain);
    bench.run_until_idle();
    assert!(!bench.drained(2) && bench.answered(id).is_none());
    bench.perform(slow);
    bench.run_until_idle();
    assert!(bench.drained(2) && bench.answered(id) == Some(&Outcome::Done));
    // Another host has the backend only.
    std::fs::remove_dir_all(bench.root.join("buffer")).unwrap();
    bench.reopen();
    let into = Slice::zeroed(PAGE).unwrap();
    bench.submit(0, Verb::Read(into.clone()));
    bench.run_until_idle();
    assert_eq!(into.to_vec()[99..111], [1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1]);
}

#[test]
fn a_volume_that_is_to_be_closed_is_not_drained_while_a_read_fills_memory() {
    let mut bench = Bench::new("reading");
    for at in 0..64 {
        bench.write(at * PAGE, PAGE, 3);
        bench.run_until_idle();
    }
    bench.volume.control(1, Control::Drain);
    bench.run_until_idle();
    assert!(bench.drained(1));
    // Another host has the backend only, so that a read takes its time.
    std::fs::remove_dir_all(bench.root.join("buffer")).unwrap();
    bench.reopen();
    let into = Slice::zeroed(PAGE).unwrap();
    let id = bench.submit(0, Verb::Read(into.clone()));
    bench.turn();
    let slow = std::mem::take(&mut bench.out.jobs);
    assert!(!slow.is_empty(), "it has to be read from the backend");
    bench.volume.quiesce();
    bench.volume.control(2, Control::Drain);
    bench.run_until_idle();
    assert!(!bench.drained(2), "its guest's memory would be filled after it was closed");
    bench.perform(slow);
    bench.run_until_idle();
    assert!(bench.drained(2) && bench.answered(id) == Some(&Outcome::Done));
    assert_eq!(into.to_vec(), [3; PAGE]);
}

#[test]
fn a_read_that_was_overtaken_finds_what_the_write_buffer_has() {
    let mut bench = Bench::new("overtaken");
    bench.write(0, PAGE, 1);
    bench.volume.control(1, Control::Drain);
    bench.run_until_idle();
    assert!(bench.drained(1));
    std::fs::remove_dir_all(bench.root.join("buffer")).unwrap();
    bench.reopen();
    let into = Slice::zeroed(PAGE).unwrap();
    let id = bench.submit(0, Verb::Read(into.clone()));
    bench.turn();
    let Some(Job { work: Work::Fetch { part, log, sco, .. }, .. }) = bench.out.jobs.pop() else {
        panic!("it has to be read from the backend");
    };
    // While the backend takes its time the cluster is written again, and its object deleted.
    let write = bench.write(0, PAGE, 2);
    bench.run_until_idle();
    assert_eq!(bench.answered(write), Some(&Outcome::Done));
    let why = "there is no such object".to_owned();
    let (no_space, no_files, not_found, corrupt) = (false, false, true, false);
    let result = Err(JobFailure { no_space, no_files, not_found, corrupt, why });
    let gone = JobOutcome::Fetched { part, log, sco, result };
    bench.volume.on_job(gone, &mut bench.ring, &mut bench.out);
    bench.run_until_idle();
    assert_eq!(bench.answered(id), Some(&Outcome::Done));
    assert_eq!(into.to_vec(), [2; PAGE]);
}

#[test]
fn a_partial_write_behind_a_stalled_log_asks_for_no_turn() {
    let mut bench = Bench::new("stalled");
    bench.write(0, PAGE, 1);
    bench.turn();
    // Nobody makes a file for the first SCO.
    let jobs = std::mem::take(&mut bench.out.jobs);
    let id = bench.write(100, 10, 2);
    bench.turn();
    bench.turn();
    assert_eq!(bench.volume.wakes_at(), None, "a shard would take one turn after the other");
    bench.perform(jobs);
    bench.run_until_idle();
    assert_eq!(bench.answered(id), Some(&Outcome::Done));
}

#[test]
fn a_volume_at_rest_is_compacted_to_the_end() {
    let mut bench = Bench::new("rest");
    // Every second run of two clusters stays live in the first SCO, which the buffer still has.
    for at in 0..3 {
        bench.write(at * 8 * PAGE, 8 * PAGE, 1);
    }
    bench.run_until_idle();
    for at in [1, 2, 4, 5, 7, 8, 10, 11] {
        bench.write(at * 2 * PAGE, 2 * PAGE, 2);
    }
    bench.write(30 * PAGE, 8 * PAGE, 3);
    bench.run_until_idle();
    assert!(bench.volume.stats().moved_clusters >= 8, "{:?}", bench.volume.stats());
    let scos = bench.volume.machine().scos();
    assert!(!scos.contains_key(&1), "what the first SCO held was moved: {scos:?}");
}

#[test]
fn that_no_file_can_be_opened_is_not_blamed_on_the_disk() {
    let mut bench = Bench::new("files");
    let id = bench.write(0, PAGE, 1);
    bench.turn();
    assert_eq!(std::mem::take(&mut bench.out.jobs).len(), 1);
    let why = "cannot create the file: too many open files".to_owned();
    let (no_space, no_files, not_found, corrupt) = (false, true, false, false);
    let result = Err(JobFailure { no_space, no_files, not_found, corrupt, why });
    let failed = JobOutcome::Opened { sco: 1, result };
    bench.volume.on_job(failed, &mut bench.ring, &mut bench.out);
    bench.turn();
    let codes: Vec<&str> = bench.volume.findings().iter().map(|one| one.code).collect();
    assert_eq!(codes, ["TOO_MANY_FILES"]);
    bench.run_until_idle();
    assert_eq!(bench.answered(id), Some(&Outcome::Done), "it is tried again");
    assert!(bench.volume.findings().is_empty());
}

/// A volume that is on the backend only.
fn uploaded(name: &str) -> Bench {
    let mut bench = Bench::new(name);
    for at in 0..64 {
        bench.write(at * PAGE, PAGE, 3);
        bench.run_until_idle();
    }
    bench.volume.control(1, Control::Drain);
    bench.run_until_idle();
    std::fs::remove_dir_all(bench.root.join("buffer")).unwrap();
    bench.reopen();
    bench
}

#[test]
fn a_volume_that_was_let_go_of_still_reads_until_its_last_read_has_ended() {
    let mut bench = uploaded("halted");
    let into = Slice::zeroed(PAGE).unwrap();
    let id = bench.submit(0, Verb::Read(into.clone()));
    bench.turn();
    let slow = std::mem::take(&mut bench.out.jobs);
    assert!(!slow.is_empty(), "it has to be read from the backend");
    bench.volume.halt();
    let late = bench.submit(0, Verb::Read(into.clone()));
    bench.run_until_idle();
    assert!(bench.volume.is_reading(), "its guest's memory will be filled");
    bench.perform(slow);
    bench.run_until_idle();
    assert_eq!(into.to_vec()[0], 3);
    assert!(!bench.volume.is_reading());
    assert!(bench.answered(id).is_none() && bench.answered(late).is_none());
}

/// A connection to a follower has a number, and so has a read; they are often the same.
#[test]
fn what_followers_say_ends_no_read_of_a_volume_that_was_let_go_of() {
    let mut bench = uploaded("halted-feed");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let followers = vec![FollowerAt { node: "node2".to_owned(), address }];
    bench.volume.follow(Following { cluster: [1; 16], base: None, followers }, &mut bench.ring);
    bench.turn();
    let dialing = std::mem::take(&mut bench.out.jobs);
    bench.perform(dialing);
    let into = [0, 1].map(|_| Slice::zeroed(PAGE).unwrap());
    for (at, slice) in into.iter().enumerate() {
        bench.submit((at * PAGE) as u64, Verb::Read(slice.clone()));
    }
    bench.turn();
    let mut slow = std::mem::take(&mut bench.out.jobs);
    let last = slow.split_off(1);
    assert_eq!((slow.len(), last.len()), (1, 1), "both have to be read from the backend");
    bench.volume.leave_followers(&mut bench.ring);
    bench.volume.halt();
    bench.run_until_idle();
    bench.perform(slow);
    assert!(bench.volume.is_reading(), "the other guest's memory will be filled");
    bench.perform(last);
    assert!(!bench.volume.is_reading());
    assert_eq!(into.map(|slice| slice.to_vec()[0]), [3, 3]);
}

/// Guests overwrite what they wrote, and the backend refuses to delete what is dead.
#[test]
fn refused_deletes_never_pile_up_before_uploads_and_none_is_forgotten() {
    let mut bench = Bench::new("refused");
    bench.refuses = true;
    for round in 1..=12 {
        bench.write(0, 8 * PAGE, round);
        bench.volume.control(round.into(), Control::Settle);
        bench.until = bench.now + 100_000_000;
        bench.run_until_idle();
        assert!(bench.drained(round.into()), "round {round} is on the backend");
    }
    let dead = |bench: &Bench| {
        let scos = bench.volume.machine().scos();
        scos.values().filter(|sco| sco.stage == Stage::Deleting).count()
    };
    assert_eq!(dead(&bench), 11);
    let (hour, before) = (3_600 * 1_000_000_000, bench.refused);
    bench.until = bench.now + hour;
    bench.run_until_idle();
    let pauses = 9 + 3_600_000 / (300 << 8);
    let most = 2 * (pauses + 1);
    assert!(bench.refused - before <= most, "{} deletes in an hour", bench.refused - before);
    assert!(bench.refused - before > pauses, "{} deletes in an hour", bench.refused - before);
    assert!(bench.deletes_max <= 2, "{} deletes waited together", bench.deletes_max);
    assert_eq!(dead(&bench), 11);
    bench.refuses = false;
    bench.until = u64::MAX;
    bench.run_until_idle();
    assert_eq!(dead(&bench), 0);
    let objects = bench.backend.list(&format!("{}/sco", uuid_text(&LOG))).unwrap();
    assert_eq!(objects.len(), 1, "{objects:?}");
}

#[test]
fn what_is_moved_is_what_was_listed_whatever_the_guest_wrote_meanwhile() {
    const SNAPSHOT: [u8; 16] = [5; 16];
    let mut bench = Bench::compacting("moved");
    bench.volume.control(2, Control::Snapshot(SNAPSHOT));
    bench.run_until_idle();
    bench.write(4 * PAGE, PAGE, 9);
    bench.run_until_idle();
    // The second run: the page cache has what is new, the backend what was there before.
    bench.answer_slow();
    bench.volume.control(3, Control::Revert(SNAPSHOT));
    bench.run_until_idle();
    assert!(bench.drained(3));
    bench.answer_slow();
    bench.slow = None;
    assert!(bench.volume.stats().moved_clusters == 4, "{:?}", bench.volume.stats());
    assert_eq!(bench.content(0..8), [1, 1, 2, 2, 1, 1, 2, 2]);
    bench.reopen();
    assert_eq!(bench.content(0..8), [1, 1, 2, 2, 1, 1, 2, 2]);
}

#[test]
fn a_guest_that_only_trims_fills_scos_and_the_volume_opens_again() {
    let mut bench = Bench::new("trims");
    for at in 0..4 {
        bench.write(at * 8 * PAGE, 8 * PAGE, 1);
    }
    for at in 0..200 {
        let len = PAGE as u64;
        bench.submit((at % 30 * PAGE) as u64, Verb::Trim { len, fua: false });
        bench.run_until_idle();
    }
    let scos = bench.volume.machine().scos();
    let (last, _) = scos.last_key_value().unwrap();
    assert!(*last > 200 / 24, "{scos:?}");
    assert!(bench.volume.buffer_bytes() < 8 * 24 * PAGE as u64, "{scos:?}");
    // Nothing was drained: what was uploaded is read, and the write buffer's rest.
    bench.reopen();
    assert_eq!(bench.content(29..32), [0, 1, 1]);
}

/// A backend whose puts begin, and then take their time.
struct Paused<'a> {
    backend: &'a Directory,
    begun: SyncSender<()>,
    go_on: Mutex<Receiver<()>>,
}

impl Backend for Paused<'_> {
    fn put(
        &self,
        name: &str,
        fill: &mut dyn FnMut(&mut dyn Sink) -> alba::Result<()>,
    ) -> alba::Result<Put> {
        self.begun.send(()).unwrap();
        self.go_on.lock().unwrap().recv().unwrap();
        self.backend.put(name, fill)
    }

    fn read(&self, name: &str, offset: u64, into: &mut [u8]) -> alba::Result<()> {
        self.backend.read(name, offset, into)
    }

    fn len(&self, name: &str) -> alba::Result<Option<u64>> {
        self.backend.len(name)
    }

    fn list(&self, folder: &str) -> alba::Result<Vec<String>> {
        self.backend.list(folder)
    }

    fn delete(&self, name: &str) -> alba::Result<()> {
        self.backend.delete(name)
    }

    fn delete_folder(&self, folder: &str) -> alba::Result<()> {
        self.backend.delete_folder(folder)
    }

    fn sweep(&self, folder: &str) -> alba::Result<()> {
        self.backend.sweep(folder)
    }
}

/// As many checkpoints as there are before old chunks are written anew.
fn with_many_checkpoints(name: &str) -> Bench {
    let mut bench = Bench::new(name);
    bench.is_slow = |work| matches!(work, Work::Checkpoint(_));
    for chunk in 0..18 {
        if chunk == 17 {
            bench.slow = Some(Vec::new());
        }
        for at in 0..3 {
            bench.write(chunk * CHUNK + at * 8 * PAGE, 8 * PAGE, chunk as u8 + 1);
        }
        bench.run_until_idle();
    }
    bench
}

#[test]
fn a_checkpoint_that_ends_after_the_lease_takes_nothing_away_from_a_clone() {
    const CLONE: [u8; 16] = [8; 16];
    let mut bench = with_many_checkpoints("late-checkpoint");
    let job = bench.slow.take().and_then(|mut jobs| jobs.pop()).expect("a checkpoint is stored");
    let folders = ["elsewhere", "clone"].map(|name| bench.root.join(name));
    let (begun, hear) = sync_channel(1);
    let (resume, go_on) = sync_channel(1);
    let paused = Paused { backend: &bench.backend, begun, go_on: Mutex::new(go_on) };
    std::thread::scope(|scope| {
        let late = scope.spawn(|| job.run(&paused).outcome);
        hear.recv().unwrap();
        bench.volume.expire(&mut bench.ring, &mut bench.out);
        // Its next owner has stored no checkpoint when it is cloned.
        let owner = opened(&folders[0], &bench.backend, 2);
        let base = Some(owner.machine().map().clone());
        bench.volume = opened_on(&folders[1], &bench.backend, 1, vec![LOG, CLONE], base);
        resume.send(()).unwrap();
        assert!(matches!(late.join().unwrap(), JobOutcome::Checkpointed(Ok(_))));
    });
    bench.out = Outputs::default();
    bench.write(19 * CHUNK, PAGE, 9);
    bench.volume.control(1, Control::Drain);
    bench.run_until_idle();
    assert!(bench.drained(1));
    bench.volume = opened_on(&folders[1], &bench.backend, 2, vec![LOG, CLONE], None);
    let found = [0, 1, 17, 19]
        .map(|chunk| bench.content(chunk * CHUNK / PAGE..chunk * CHUNK / PAGE + 1)[0]);
    assert_eq!(found, [1, 2, 18, 9]);
}

#[test]
fn jobs_of_a_volume_that_is_over_change_nothing_on_the_backend() {
    let mut bench = with_many_checkpoints("over");
    let folder = volume::checkpoint_folder(&volume::uuid_text(&LOG));
    let before = bench.backend.list(&folder).unwrap();
    let jobs = bench.slow.take().unwrap();
    bench.volume.halt();
    for job in jobs {
        assert!(matches!(job.run(&bench.backend).outcome, JobOutcome::Checkpointed(Err(_))));
    }
    assert_eq!(bench.backend.list(&folder).unwrap(), before);
}

#[test]
fn a_volume_is_drained_while_its_compaction_waits_for_the_backend() {
    let mut bench = Bench::compacting("drain-moves");
    bench.volume.quiesce();
    bench.volume.control(2, Control::Drain);
    bench.run_until_idle();
    assert!(bench.drained(2), "guests wait for a run to be read");
    bench.answer_slow();
    assert_eq!(bench.volume.stats().moved_clusters, 0);
    assert!(bench.slow.as_ref().is_some_and(Vec::is_empty), "the next run is read");
    // Whoever opens it next goes on where it was left.
    bench.slow = None;
    bench.reopen();
    bench.volume.control(3, Control::Settle);
    bench.write(40 * PAGE, PAGE, 5);
    bench.run_until_idle();
    assert_eq!(bench.content(0..8), [1, 1, 2, 2, 1, 1, 2, 2]);
}

#[test]
fn parts_of_clusters_are_held_back_like_whole_ones_while_the_buffer_is_full() {
    let mut bench = Bench::new("held-back");
    bench.is_slow = |work| matches!(work, Work::Upload { .. });
    bench.slow = Some(Vec::new());
    for at in 0..7 * 3 {
        bench.write(at * 8 * PAGE, 8 * PAGE, 1);
        bench.run_until_idle();
    }
    let mut held = false;
    for at in 0..24 {
        bench.write(at * PAGE + 100, 10, 2);
        bench.turn();
        held |= bench.volume.wakes_at().is_some_and(|moment| moment > bench.now);
        bench.run_until_idle();
    }
    assert!(held, "all of them passed at once");
}
