//! Worker threads for jobs that block: reads that guests wait for have threads of their own.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Instant;

use alba::Backend;
use dtl::{Lane, Task};
use volume::{Job, JobDone};

use crate::lease::Lease;
use crate::mailbox::{Command, Mailbox};
use crate::reach::{Next, Reach};

/// What a thread does.
enum Errand {
    /// Of a volume that was opened in this term of the lease.
    Job(Job, u64),
    Dtl(Task),
}

impl Errand {
    fn goes_first(&self) -> bool {
        matches!(self, Errand::Job(job, _) if job.goes_first())
    }

    fn is_of(&self, volume: u32) -> bool {
        matches!(self, Errand::Job(job, _) if job.volume == volume)
    }
}

/// What waits for a thread, each with its shard.
#[derive(Default)]
struct Waiting {
    /// Guests wait for these volumes to leave.
    first: VecDeque<(usize, Errand)>,
    rest: VecDeque<(usize, Errand)>,
    /// There will be no more.
    over: bool,
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    ready: Condvar,
}

impl Queue {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no holder panics")
    }

    fn push(&self, shard: usize, errand: Errand) {
        let mut waiting = self.waiting();
        let queue = if errand.goes_first() { &mut waiting.first } else { &mut waiting.rest };
        queue.push_back((shard, errand));
        self.ready.notify_one();
    }

    /// The next errand; `None` when there will be no more.
    fn next(&self) -> Option<(usize, Errand)> {
        let mut waiting = self.waiting();
        loop {
            let next = waiting.first.pop_front();
            if let Some(errand) = next.or_else(|| waiting.rest.pop_front()) {
                return Some(errand);
            }
            if waiting.over {
                return None;
            }
            waiting = self.ready.wait(waiting).expect("no holder panics");
        }
    }

    /// Puts the jobs first that go first by now.
    fn hasten(&self) {
        let Waiting { first, rest, .. } = &mut *self.waiting();
        let (hasty, others) = rest.drain(..).partition(|(_, errand)| errand.goes_first());
        *rest = others;
        first.append(&mut { hasty });
    }

    /// Forgets what waits of a volume; how much that was.
    fn drop_jobs(&self, shard: usize, volume: u32) -> usize {
        let Waiting { first, rest, .. } = &mut *self.waiting();
        let before = first.len() + rest.len();
        for queue in [&mut *first, &mut *rest] {
            queue.retain(|(of, errand)| *of != shard || !errand.is_of(volume));
        }
        before - first.len() - rest.len()
    }

    fn stop(&self) {
        self.waiting().over = true;
        self.ready.notify_all();
    }
}

/// Hands jobs to the threads; shared by all shards.
#[derive(Clone)]
pub(crate) struct Workers {
    urgent: Arc<Queue>,
    background: Arc<Queue>,
    /// What is read for other nodes.
    remote: Arc<Queue>,
    /// What connects to other nodes.
    reach: Arc<Queue>,
    /// What other nodes ask of the DTL node. A tail is sent for as long as its reader likes, and
    /// nothing that is short may stand behind it.
    lanes: Lanes,
    /// What the backend has done for volumes so far.
    done: Arc<AtomicU64>,
}

#[derive(Clone, Default)]
struct Lanes {
    fence: Arc<Queue>,
    load: Arc<Queue>,
    stream: Arc<Queue>,
    removal: Arc<Queue>,
}

impl Lanes {
    fn of(&self, lane: Lane) -> &Arc<Queue> {
        match lane {
            Lane::Fence => &self.fence,
            Lane::Load => &self.load,
            Lane::Stream => &self.stream,
            Lane::Removal => &self.removal,
        }
    }
}

const URGENT_THREADS: usize = 4;
const BACKGROUND_THREADS: usize = 2;
const REMOTE_THREADS: usize = 4;
const REACH_THREADS: usize = 8;
const FENCE_THREADS: usize = 2;
const LOAD_THREADS: usize = 2;
const STREAM_THREADS: usize = 4;
const REMOVAL_THREADS: usize = 1;

impl Workers {
    /// Starts the threads; answers go to the mailbox of the job's shard.
    pub(crate) fn start(
        backend: &Arc<dyn Backend>,
        mailboxes: &[Arc<Mailbox>],
        lease: &Arc<Lease>,
    ) -> std::io::Result<(Self, Vec<JoinHandle<()>>)> {
        let queue = Arc::<Queue>::default;
        let (urgent, background, remote, reach) = (queue(), queue(), queue(), queue());
        let workers = Self {
            urgent,
            background,
            remote,
            reach,
            lanes: Lanes::default(),
            done: Arc::default(),
        };
        let reach: Arc<Mutex<Reach<(usize, Job, u64)>>> = Arc::default();
        let mut threads = Vec::new();
        for (name, queue, count) in [
            ("vs-read", &workers.urgent, URGENT_THREADS),
            ("vs-background", &workers.background, BACKGROUND_THREADS),
            ("vs-remote", &workers.remote, REMOTE_THREADS),
            ("vs-reach", &workers.reach, REACH_THREADS),
            ("vs-fence", &workers.lanes.fence, FENCE_THREADS),
            ("vs-load", &workers.lanes.load, LOAD_THREADS),
            ("vs-stream", &workers.lanes.stream, STREAM_THREADS),
            ("vs-removal", &workers.lanes.removal, REMOVAL_THREADS),
        ] {
            for _ in 0..count {
                let (queue, backend, reach) = (queue.clone(), backend.clone(), reach.clone());
                let (lease, mailboxes) = (lease.clone(), mailboxes.to_vec());
                let done = workers.done.clone();
                let thread = Thread { queue, backend, reach, mailboxes, lease, done };
                let work = move || thread.work();
                threads.push(std::thread::Builder::new().name(name.to_owned()).spawn(work)?);
            }
        }
        Ok((workers, threads))
    }

    /// `term`: that of the lease in which the job's volume was opened.
    pub(crate) fn give(&self, shard: usize, job: Job, term: u64) {
        let queue = match &job.work {
            work if work.is_urgent() => &self.urgent,
            work if work.is_remote() => &self.remote,
            work if work.reaches().is_some() => &self.reach,
            _ => &self.background,
        };
        queue.push(shard, Errand::Job(job, term));
    }

    /// How much the backend has done for volumes so far; grows.
    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Jobs of volumes that leave by now go first.
    pub(crate) fn hasten(&self) {
        self.background.hasten();
    }

    /// Forgets the jobs of a volume that is over, as far as nobody has begun them. How many.
    pub(crate) fn drop_jobs(&self, shard: usize, volume: u32) -> usize {
        self.background.drop_jobs(shard, volume)
    }

    pub(crate) fn give_task(&self, shard: usize, task: Task) {
        self.lanes.of(task.lane()).push(shard, Errand::Dtl(task));
    }

    /// Threads end when their queues are empty.
    pub(crate) fn stop(&self) {
        self.urgent.stop();
        self.background.stop();
        self.remote.stop();
        self.reach.stop();
        let Lanes { fence, load, stream, removal } = &self.lanes;
        [fence, load, stream, removal].into_iter().for_each(|queue| queue.stop());
    }
}

/// What one thread works with.
struct Thread {
    queue: Arc<Queue>,
    backend: Arc<dyn Backend>,
    reach: Arc<Mutex<Reach<(usize, Job, u64)>>>,
    mailboxes: Vec<Arc<Mailbox>>,
    lease: Arc<Lease>,
    done: Arc<AtomicU64>,
}

impl Thread {
    fn work(&self) {
        while let Some((shard, errand)) = self.queue.next() {
            match errand {
                Errand::Job(job, term) => match job.work.reaches() {
                    Some(address) => self.connect(address, (shard, job, term)),
                    None => self.answer(shard, self.run(job, term)),
                },
                Errand::Dtl(task) => {
                    self.mailboxes[shard].send(Command::DtlDone(task.run()));
                }
            }
        }
    }

    fn answer(&self, shard: usize, done: JobDone) {
        self.mailboxes[shard].send(Command::JobDone(done));
    }

    /// What waited here may come too late: the shard asked for it, but does not look at the clock
    /// now.
    fn run(&self, job: Job, term: u64) -> JobDone {
        let done = job.run_while(&*self.backend, &|| {
            let lease = self.lease.granted();
            lease.term == term && !lease.is_over()
        });
        self.done.fetch_add(u64::from(done.outcome.is_done()), Ordering::Relaxed);
        done
    }

    fn connect(&self, address: SocketAddr, errand: (usize, Job, u64)) {
        let reach = || self.reach.lock().expect("no holder panics");
        let next = reach().begin(address, errand, Instant::now());
        let freed = match next {
            Next::Parked => return,
            Next::Away((shard, job, _)) => return self.let_down(shard, job),
            Next::Connect((shard, job, term)) => {
                let began = Instant::now();
                let done = self.run(job, term);
                let now = Instant::now();
                let answered = !done.outcome.is_away();
                let freed = reach().ended(address, answered, now - began, now);
                self.answer(shard, done);
                freed
            }
        };
        for (shard, job, term) in freed.again {
            self.queue.push(shard, Errand::Job(job, term));
        }
        for (shard, job, _) in freed.away {
            self.let_down(shard, job);
        }
    }

    /// Says that a node does not answer, without asking it once more.
    fn let_down(&self, shard: usize, job: Job) {
        if let Some(done) = job.unanswered() {
            self.answer(shard, done);
        }
    }
}

#[cfg(test)]
#[path = "workers_tests.rs"]
mod tests;
