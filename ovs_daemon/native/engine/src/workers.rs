//! Worker threads for jobs that block: reads that guests wait for have threads of their own.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use alba::Backend;
use dtl::Task;
use volume::{Job, JobDone, Outcome};

use crate::mailbox::{Command, Mailbox};

/// What a thread does.
enum Errand {
    Job(Job),
    Dtl(Task),
}

struct Queue {
    jobs: Mutex<(VecDeque<(usize, Errand)>, bool)>,
    ready: Condvar,
}

impl Queue {
    fn push(&self, shard: usize, job: Errand) {
        self.jobs.lock().expect("no holder panics").0.push_back((shard, job));
        self.ready.notify_one();
    }

    /// The next job; `None` when there will be no more.
    fn next(&self) -> Option<(usize, Errand)> {
        let mut jobs = self.jobs.lock().expect("no holder panics");
        loop {
            if let Some(job) = jobs.0.pop_front() {
                return Some(job);
            }
            if jobs.1 {
                return None;
            }
            jobs = self.ready.wait(jobs).expect("no holder panics");
        }
    }

    fn stop(&self) {
        self.jobs.lock().expect("no holder panics").1 = true;
        self.ready.notify_all();
    }
}

/// Hands jobs to the threads; shared by all shards.
#[derive(Clone)]
pub(crate) struct Workers {
    urgent: Arc<Queue>,
    background: Arc<Queue>,
    /// What waits for other nodes, or serves them.
    remote: Arc<Queue>,
    /// What connects to nodes that are to follow: a node that is away keeps nothing else waiting.
    follow: Arc<Queue>,
}

const URGENT_THREADS: usize = 4;
const BACKGROUND_THREADS: usize = 2;
const REMOTE_THREADS: usize = 4;
const FOLLOW_THREADS: usize = 1;
/// After a node could not be reached, it is taken to be away for so long.
const AWAY: Duration = Duration::from_secs(3);

impl Workers {
    /// Starts the threads; answers go to the mailbox of the job's shard.
    pub(crate) fn start(
        backend: &Arc<dyn Backend>,
        mailboxes: &[Arc<Mailbox>],
    ) -> std::io::Result<(Self, Vec<JoinHandle<()>>)> {
        let queue = || {
            let jobs = Mutex::new((VecDeque::new(), false));
            Arc::new(Queue { jobs, ready: Condvar::new() })
        };
        let workers =
            Self { urgent: queue(), background: queue(), remote: queue(), follow: queue() };
        let mut threads = Vec::new();
        for (name, queue, count) in [
            ("vs-read", &workers.urgent, URGENT_THREADS),
            ("vs-background", &workers.background, BACKGROUND_THREADS),
            ("vs-remote", &workers.remote, REMOTE_THREADS),
            ("vs-reach", &workers.follow, FOLLOW_THREADS),
        ] {
            for _ in 0..count {
                let (queue, backend) = (queue.clone(), backend.clone());
                let mailboxes = mailboxes.to_vec();
                let work = move || {
                    let mut away = Away::default();
                    while let Some((shard, errand)) = queue.next() {
                        mailboxes[shard].send(match errand {
                            Errand::Job(job) => Command::JobDone(away.run(job, &*backend)),
                            Errand::Dtl(task) => Command::DtlDone(task.run()),
                        });
                    }
                };
                threads.push(std::thread::Builder::new().name(name.to_owned()).spawn(work)?);
            }
        }
        Ok((workers, threads))
    }

    pub(crate) fn give(&self, shard: usize, job: Job) {
        let queue = match &job.work {
            work if work.is_urgent() => &self.urgent,
            work if work.is_remote() => &self.remote,
            work if work.follower().is_some() => &self.follow,
            _ => &self.background,
        };
        queue.push(shard, Errand::Job(job));
    }

    pub(crate) fn give_task(&self, shard: usize, task: Task) {
        self.remote.push(shard, Errand::Dtl(task));
    }

    /// Threads end when their queues are empty.
    pub(crate) fn stop(&self) {
        self.urgent.stop();
        self.background.stop();
        self.remote.stop();
        self.follow.stop();
    }
}

/// Nodes that could not be reached a moment ago. With many volumes whose maps such a node is to
/// follow, it is tried once for all of them.
#[derive(Default)]
struct Away(HashMap<SocketAddr, Instant>);

impl Away {
    fn run(&mut self, job: Job, backend: &dyn Backend) -> JobDone {
        let Some((connection, address)) = job.work.follower() else { return job.run(backend) };
        if self.0.get(&address).is_some_and(|since| since.elapsed() < AWAY) {
            let result = Err(format!("the follower at {address} could not be reached"));
            return JobDone {
                volume: job.volume,
                outcome: Outcome::Reached { connection, result },
            };
        }
        let done = job.run(backend);
        match &done.outcome {
            Outcome::Reached { result: Err(_), .. } => self.0.insert(address, Instant::now()),
            _ => self.0.remove(&address),
        };
        done
    }
}
