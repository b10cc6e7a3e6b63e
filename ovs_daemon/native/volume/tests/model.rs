//! The whole volume against a plain array: random reads, writes at any offset, trims, zeroes,
//! snapshots, reverts, clones, resizes, with SCOs so small that closing, uploading, evicting,
//! checkpointing, compacting and deleting happen all the time, a backend that fails now and then,
//! and a process that dies at any moment and opens the volume again.
#![allow(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use alba::{Backend, BackendError, Cause, Directory, Put, Sink};
use edge::target::{Completion, Outcome, Request, RequestId, Verb};
use format::entry::Uuid;
use format::log::PAGE;
use machines::map::Map;
use machines::volume::Limits;
use media::{Event, Ring, Slice, Wait};
use volume::{Control, OpenSpec, Outputs, SharedScos, Tuning, Volume, open};

const SIZE: u64 = 300 * PAGE as u64;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// A directory that refuses one in so many operations.
struct Flaky {
    inner: Directory,
    calls: AtomicU64,
    period: u64,
}

impl Flaky {
    fn hiccup(&self, name: &str) -> alba::Result<()> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        if self.period > 0 && call % self.period == self.period - 1 {
            return Err(BackendError {
                attempted: "reach",
                object: name.to_owned(),
                cause: Cause::Failed,
                why: "it hiccups".to_owned(),
            });
        }
        Ok(())
    }
}

impl Backend for Flaky {
    fn put(
        &self,
        name: &str,
        fill: &mut dyn FnMut(&mut dyn Sink) -> alba::Result<()>,
    ) -> alba::Result<Put> {
        self.hiccup(name)?;
        let put = self.inner.put(name, fill)?;
        // Stored, but the answer is lost.
        self.hiccup(name)?;
        Ok(put)
    }
    fn read(&self, name: &str, offset: u64, into: &mut [u8]) -> alba::Result<()> {
        self.inner.read(name, offset, into)
    }
    fn len(&self, name: &str) -> alba::Result<Option<u64>> {
        self.inner.len(name)
    }
    fn list(&self, folder: &str) -> alba::Result<Vec<String>> {
        self.inner.list(folder)
    }
    fn delete(&self, name: &str) -> alba::Result<()> {
        self.hiccup(name)?;
        self.inner.delete(name)
    }
    fn delete_folder(&self, folder: &str) -> alba::Result<()> {
        self.inner.delete_folder(folder)
    }
    fn sweep(&self, folder: &str) -> alba::Result<()> {
        self.inner.sweep(folder)
    }
}

struct Node {
    root: PathBuf,
    backend: Arc<dyn Backend>,
    shared: Arc<SharedScos>,
    ring: Ring,
    now: u64,
    epoch: u64,
}

struct Open {
    ancestors: Vec<Uuid>,
    volume: Volume,
    out: Outputs,
    answers: BTreeMap<u64, Outcome>,
    tickets: Vec<u64>,
    next: u64,
}

impl Open {
    fn describe(&self) -> String {
        let machine = self.volume.machine();
        format!(
            "findings {:?}, queued {}, reads {}, batch {:?}, jobs {:?}, sequence {} durable {}, taken \
             {:?}, scos {:?}",
            self.volume.findings(),
            machine.queued(),
            self.volume.reads_in_flight(),
            machine.batch(),
            self.out.jobs.len(),
            machine.sequence(),
            machine.durable(),
            machine.taken().map(|t| t.position),
            machine.scos(),
        )
    }
}

fn limits() -> Limits {
    Limits {
        sco_clusters: 24,
        buffer_scos: 3,
        keep_scos: 1,
        checkpoint_scos: 3,
        batch_clusters: 16,
        op_clusters: 8,
        compact_percent: 50,
        deletes: 2,
    }
}

impl Node {
    fn new(name: &str, period: u64) -> Self {
        let root = std::env::temp_dir().join(format!("ovs-model-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        let inner = Directory::open(&root.join("backend")).unwrap();
        let backend = Arc::new(Flaky { inner, calls: AtomicU64::new(0), period });
        let ring = Ring::new(64).unwrap();
        Self { root, backend, shared: Arc::default(), ring, now: 0, epoch: 0 }
    }

    fn open(&mut self, ancestors: &[Uuid], base: Option<Map>) -> Open {
        self.epoch += 1;
        let spec = OpenSpec {
            ancestors: ancestors.to_vec(),
            epoch: self.epoch,
            base,
            buffer_dir: self.root.join("buffer"),
            limits: limits(),
            warm: None,
        };
        let opened = open(spec, &*self.backend, &self.shared).unwrap();
        let tuning = Tuning { buffer_reserve: 0, compaction_bytes_per_s: 1 << 40 };
        let shared = self.shared.clone();
        let volume = Volume::new(opened, 0, 9, SIZE, false, shared, tuning).unwrap();
        Open {
            ancestors: ancestors.to_vec(),
            volume,
            out: Outputs::default(),
            answers: BTreeMap::new(),
            tickets: Vec::new(),
            next: 0,
        }
    }

    /// One turn; each job is done with some probability, so that much is under way at any moment.
    fn turn(&mut self, open: &mut Open, random: &mut Random) {
        self.now += 50_000_000;
        open.volume.turn(self.now, &mut self.ring, &mut open.out);
        let jobs = std::mem::take(&mut open.out.jobs);
        for job in jobs {
            if random.below(3) == 0 {
                open.out.jobs.push(job);
                continue;
            }
            let done = job.run(&*self.backend);
            open.volume.on_job(done.outcome, &mut self.ring, &mut open.out);
        }
        let mut events: Vec<Event> = Vec::new();
        if self.ring.in_flight() > 0 {
            self.ring.turn(Wait::Forever, &mut events).unwrap();
        }
        for event in events {
            open.volume.on_event(event, &mut self.ring, &mut open.out);
        }
        for Completion { id, outcome } in open.out.completions.drain(..) {
            assert!(open.answers.insert(id.0, outcome).is_none(), "answered twice");
        }
        open.tickets.extend(open.out.control.drain(..).map(|done| done.ticket));
    }

    /// Kills the process: what is in memory is gone; jobs under way may or may not have been done.
    fn kill(&mut self, mut open: Open, random: &mut Random) {
        for job in std::mem::take(&mut open.out.jobs) {
            if random.below(2) == 0 {
                job.run(&*self.backend);
            }
        }
        drop(open);
        let mut events = Vec::new();
        while self.ring.in_flight() > 0 {
            self.ring.turn(Wait::Forever, &mut events).unwrap();
        }
    }

    fn ask(&mut self, open: &mut Open, random: &mut Random, offset: u64, verb: Verb) -> Outcome {
        open.next += 1;
        let id = open.next;
        let asked = format!("{verb:?} at {offset}");
        open.volume.submit(Request { id: RequestId(id), offset, verb }, &mut open.out);
        for _ in 0..2000 {
            if let Some(outcome) = open.answers.remove(&id) {
                return outcome;
            }
            self.turn(open, random);
        }
        panic!("{asked} is not answered: {}", open.describe());
    }

    fn control(&mut self, open: &mut Open, random: &mut Random, control: Control) {
        open.next += 1;
        let ticket = open.next;
        open.volume.control(ticket, control);
        for _ in 0..2000 {
            if open.tickets.contains(&ticket) {
                return;
            }
            self.turn(open, random);
        }
        panic!("{control:?} is not answered: {}", open.describe());
    }

    fn check(&mut self, open: &mut Open, random: &mut Random, model: &[u8], what: &str) {
        let into = Slice::zeroed(model.len()).unwrap();
        let outcome = self.ask(open, random, 0, Verb::Read(into.clone()));
        assert_eq!(outcome, Outcome::Done, "{what}: {}", open.describe());
        let seen = into.to_vec();
        if let Some(at) = (0..model.len()).find(|at| seen[*at] != model[*at]) {
            panic!("{what}: byte {at} (cluster {}) is {} not {}", at / PAGE, seen[at], model[at]);
        }
    }
}

fn id(number: u8) -> Uuid {
    [number; 16]
}

fn random_range(random: &mut Random) -> (u64, usize) {
    let aligned = random.below(3) > 0;
    let (offset, len) = if aligned {
        let lba = random.below(300);
        (lba * PAGE as u64, (1 + random.below(20).min(299 - lba)) as usize * PAGE)
    } else {
        let offset = random.below(SIZE - 1);
        (offset, (1 + random.below(30_000.min(SIZE - offset))) as usize)
    };
    (offset, len)
}

/// One life of a volume; `rounds` operations.
fn life(seed: u64, rounds: u32, period: u64) {
    let mut random = Random(seed * 2_654_435_761 + 1);
    let mut node = Node::new(&format!("{seed}-{period}"), period);
    let ancestors = [id(1)];
    let mut open = node.open(&ancestors, None);
    let mut model = vec![0u8; SIZE as usize];
    let mut snapshots: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    let mut fill = 0u8;
    for round in 0..rounds {
        let what = format!("seed {seed} round {round}");
        let (offset, len) = random_range(&mut random);
        let range = offset as usize..offset as usize + len;
        match random.below(100) {
            0..50 => {
                fill = fill.wrapping_add(1).max(1);
                let data = Slice::copy_of(&vec![fill; len]).unwrap();
                let fua = random.below(8) == 0;
                let verb = Verb::Write { data, fua };
                assert_eq!(node.ask(&mut open, &mut random, offset, verb), Outcome::Done);
                model[range].fill(fill);
            }
            50..58 => {
                let verb = Verb::WriteZeroes { len: len as u64, fua: false };
                assert_eq!(node.ask(&mut open, &mut random, offset, verb), Outcome::Done);
                model[range].fill(0);
            }
            58..62 => {
                // Only whole clusters are sure to be zero after a trim.
                let lba = offset / PAGE as u64;
                let verb = Verb::Trim { len: PAGE as u64, fua: false };
                let at = lba * PAGE as u64;
                assert_eq!(node.ask(&mut open, &mut random, at, verb), Outcome::Done);
                model[at as usize..at as usize + PAGE].fill(0);
            }
            62..80 => {
                let into = Slice::zeroed(len).unwrap();
                let verb = Verb::Read(into.clone());
                assert_eq!(node.ask(&mut open, &mut random, offset, verb), Outcome::Done);
                assert_eq!(into.to_vec(), model[range], "{what}");
            }
            80..84 => {
                assert_eq!(node.ask(&mut open, &mut random, 0, Verb::Flush), Outcome::Done);
            }
            84..88 => {
                let number = random.below(4) as u8;
                node.control(&mut open, &mut random, Control::DeleteSnapshot(id(100 + number)));
                node.control(&mut open, &mut random, Control::Snapshot(id(100 + number)));
                snapshots.insert(number, model.clone());
            }
            88..90 => {
                let number = random.below(4) as u8;
                node.control(&mut open, &mut random, Control::DeleteSnapshot(id(100 + number)));
                snapshots.remove(&number);
            }
            90..92 => {
                if let Some((number, content)) = snapshots.iter().next() {
                    node.control(&mut open, &mut random, Control::Revert(id(100 + number)));
                    model = content.clone();
                }
            }
            92..94 => node.control(&mut open, &mut random, Control::Drain),
            94..97 => {
                node.kill(open, &mut random);
                open = node.open(&ancestors, None);
                node.check(&mut open, &mut random, &model, &format!("{what}: after kill"));
            }
            _ => node.check(&mut open, &mut random, &model, &what),
        }
        for (number, content) in &snapshots {
            let map = open.volume.snapshot(&id(100 + number));
            assert!(map.is_some(), "{what}: snapshot {number} is gone");
            let used = content.chunks(PAGE).filter(|c| c.iter().any(|b| *b != 0)).count();
            assert!(map.unwrap().mapped() >= used as u64, "{what}: snapshot {number}");
        }
    }
    // Every snapshot reads as it was, through a clone, and a clone of its clone.
    for (number, content) in &snapshots {
        let base = open.volume.snapshot(&id(100 + number));
        let lineage = [id(1), id(50 + number)];
        let mut clone = node.open(&lineage, base);
        node.check(&mut clone, &mut random, content, &format!("seed {seed} clone {number}"));
        let mut changed = content.clone();
        for _ in 0..40 {
            let (offset, len) = random_range(&mut random);
            let data = Slice::copy_of(&vec![0xee; len]).unwrap();
            let verb = Verb::Write { data, fua: false };
            assert_eq!(node.ask(&mut clone, &mut random, offset, verb), Outcome::Done);
            changed[offset as usize..offset as usize + len].fill(0xee);
        }
        node.control(&mut clone, &mut random, Control::Snapshot(id(200)));
        let base = clone.volume.snapshot(&id(200));
        let mut second = node.open(&[id(1), id(50 + number), id(70 + number)], base);
        node.check(&mut second, &mut random, &changed, "clone of a clone");
        node.control(&mut clone, &mut random, Control::Drain);
        let ancestors = clone.ancestors.clone();
        node.kill(second, &mut random);
        node.kill(clone, &mut random);
        let mut clone = node.open(&ancestors, None);
        node.check(&mut clone, &mut random, &changed, "clone from its own checkpoint");
        node.kill(clone, &mut random);
    }
    node.check(&mut open, &mut random, &model, "at the end");
    node.kill(open, &mut random);
    remove(&node.root);
}

fn remove(root: &Path) {
    std::fs::remove_dir_all(root).unwrap();
}

#[test]
fn random_lives_agree_with_a_plain_array() {
    for seed in 1..=6 {
        life(seed, 400, 0);
    }
}

#[test]
fn random_lives_with_a_backend_that_hiccups_agree_too() {
    for seed in 100..=104 {
        life(seed, 400, 7);
    }
}
