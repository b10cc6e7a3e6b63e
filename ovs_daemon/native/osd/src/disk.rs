//! The threads of one disk: puts are gathered and committed together, everything else is done by
//! several at a time. On an OSD of role cache the thread of the puts keeps blocks.
//!
//! What the upkeep asks has a thread of its own, which gives way to all others, and works while no
//! guest's request waits for the disk (`machines::alba::Turns`); what it stores it writes in small
//! steps.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use alba::codec::{Asked, encode_answer};
use alba::folder::{FolderOsd, Located, check_file};
use alba::osd::{Answer, Parts, Request};
use alba::{BackendError, Cause, Put};
use format::osd::Role;
use format::osd::wire::Class;
use machines::alba::Turns;
use media::{Pool, give_way};
use net::Bell;

use crate::cache::Cache;

/// Threads that read, list and delete.
const READERS: usize = 2;
/// The same of a cache, which is a device that does much at a time.
const CACHE_READERS: usize = 6;
/// Fragments, and bytes of them, that are committed together.
const BATCH: usize = 64;
const BATCH_BYTES: usize = 256 << 20;
/// Bytes of fragments that may wait for the disk; more are refused, and go to others.
const WAITING_BYTES_MAX: usize = 1 << 30;

/// Reads of so many bytes are done by the thread that owns the sockets, if their file is open.
pub(crate) const AT_ONCE_MAX: u32 = 64 << 10;

/// A request on its way to a disk or back.
#[derive(Debug)]
pub struct Job {
    /// Whose it is.
    pub connection: u32,
    /// Its tag.
    pub tag: u64,
    /// What for.
    pub asked: Asked,
}

/// What is to be sent for a job.
#[derive(Debug)]
pub struct Done {
    /// To whom.
    pub connection: u32,
    /// The tag of the request.
    pub tag: u64,
    /// The answer.
    pub answer: alba::codec::Outgoing,
}

/// Where disks leave their answers; the bell wakes the server's thread.
#[derive(Debug)]
pub struct Outbox {
    done: Mutex<Vec<Done>>,
    bell: Bell,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Outbox {
    /// An empty one.
    pub fn new() -> io::Result<Self> {
        Ok(Self { done: Mutex::default(), bell: Bell::new()? })
    }

    /// The bell, to listen to.
    pub fn bell(&self) -> &Bell {
        &self.bell
    }

    /// What was left.
    pub fn take(&self) -> Vec<Done> {
        std::mem::take(&mut *lock(&self.done))
    }

    fn leave(&self, new: impl IntoIterator<Item = Done>) {
        let wake = {
            let mut done = lock(&self.done);
            let empty = done.is_empty();
            done.extend(new);
            empty
        };
        if wake {
            // It can only fail when the descriptor is none, which it is.
            let _ = self.bell.ring();
        }
    }
}

#[derive(Debug, Default)]
struct Queue {
    puts: VecDeque<Job>,
    put_bytes: usize,
    others: VecDeque<Job>,
    /// Of the upkeep, whatever it is.
    upkeep: VecDeque<Job>,
    turns: Turns,
    ended: bool,
}

impl Queue {
    /// A guest's request was taken.
    fn took_guests(&mut self) {
        if !self.upkeep.is_empty() {
            self.turns.guest();
        }
    }

    /// One of the upkeep's, if it is its turn.
    fn take_upkeeps(&mut self) -> Option<Job> {
        let guests = !(self.puts.is_empty() && self.others.is_empty());
        if !self.turns.is_upkeeps(guests) {
            return None;
        }
        let job = self.upkeep.pop_front()?;
        self.turns.upkeep();
        self.put_bytes -= bytes_of(&job.asked);
        Some(job)
    }
}

#[derive(Debug)]
struct Shared {
    osd: FolderOsd,
    /// Of an OSD of role cache.
    cache: Option<Cache>,
    queue: Mutex<Queue>,
    /// For who commits, for who does the rest, and for the upkeep.
    put: Condvar,
    other: Condvar,
    upkeep: Condvar,
    outbox: Arc<Outbox>,
    /// Where fragments come to.
    pool: Arc<Pool>,
}

/// See the top of the file.
#[derive(Debug)]
pub struct Disk {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

fn bytes_of(asked: &Asked) -> usize {
    asked.request.payload()
}

impl Disk {
    /// Starts the threads of a disk; `cache_bytes`: the most that it keeps if it is a cache; `pool`:
    /// where fragments come to, which it looks after.
    ///
    /// # Errors
    /// There are too many threads, or the file of a cache cannot be made.
    pub fn start(
        osd: FolderOsd,
        cache_bytes: u64,
        outbox: Arc<Outbox>,
        pool: Arc<Pool>,
    ) -> io::Result<Self> {
        let is_cache = osd.claimed().role == Role::Cache;
        let cache = is_cache.then(|| Cache::open(&osd, cache_bytes)).transpose()?;
        let readers = if is_cache { CACHE_READERS } else { READERS };
        let [put, other, upkeep] = [(); 3].map(|()| Condvar::new());
        let queue = Mutex::default();
        let shared = Arc::new(Shared { osd, cache, queue, put, other, upkeep, outbox, pool });
        let mut threads = Vec::new();
        let mut start = |name: String, work: fn(&Shared)| {
            let inside = shared.clone();
            let thread = std::thread::Builder::new().name(name);
            thread.spawn(move || work(&inside)).map(|thread| threads.push(thread))
        };
        start("vs-osd-0".to_owned(), Shared::commit)?;
        for number in 1..=readers {
            start(format!("vs-osd-{number}"), Shared::do_others)?;
        }
        if !is_cache {
            start("vs-osd-upkeep".to_owned(), Shared::do_upkeep)?;
        }
        Ok(Self { shared, threads })
    }

    /// The folder.
    pub fn osd(&self) -> &FolderOsd {
        &self.shared.osd
    }

    /// What a cache answers to a small read, if that takes no device; it needs none of the threads.
    pub(crate) fn cached_answer(&self, asked: &Asked, tag: u64) -> Option<alba::codec::Outgoing> {
        let (cache, request) = (self.shared.cache.as_ref()?, &asked.request);
        let Request::Get { len, .. } = request else { return None };
        if *len > AT_ONCE_MAX || self.shared.osd.check_path(request).is_err() {
            return None;
        }
        Some(encode_answer(asked, cache.get_at_once(request)?, tag))
    }

    /// Where what a small read asks for is in a file; `None`: the threads have to look.
    pub(crate) fn locate(&self, asked: &Asked) -> Option<Located> {
        let Request::Get { path, payload_len, offset, len } = &asked.request else { return None };
        let small = *len > 0 && *len <= AT_ONCE_MAX && asked.class == Class::Guest;
        if !small || self.shared.osd.check_path(&asked.request).is_err() {
            return None;
        }
        self.shared.osd.locate(path, *payload_len, *offset, *len)
    }

    /// Takes a request; its answer comes to the outbox.
    pub fn ask(&self, job: Job) {
        let bytes = bytes_of(&job.asked);
        let upkeep = job.asked.class == Class::Upkeep && self.shared.cache.is_none();
        let mut queue = lock(&self.shared.queue);
        if bytes == 0 && upkeep {
            queue.upkeep.push_back(job);
            self.shared.upkeep.notify_one();
        } else if bytes == 0 {
            queue.others.push_back(job);
            self.shared.other.notify_one();
        } else if queue.put_bytes + bytes > WAITING_BYTES_MAX {
            drop(queue);
            let why = "too many fragments wait for this disk already";
            let error = job.asked.request.error(Cause::Failed, why);
            self.shared.outbox.leave([done(job, Err(error))]);
        } else {
            queue.put_bytes += bytes;
            if upkeep {
                queue.upkeep.push_back(job);
                self.shared.upkeep.notify_one();
            } else {
                queue.puts.push_back(job);
                self.shared.put.notify_one();
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        lock(&self.shared.queue).ended = true;
        self.shared.put.notify_all();
        self.shared.other.notify_all();
        self.shared.upkeep.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn done(job: Job, answer: alba::Result<Answer>) -> Done {
    let answer = encode_answer(&job.asked, answer, job.tag);
    Done { connection: job.connection, tag: job.tag, answer }
}

impl Shared {
    /// Commits what has come while the disk was busy with what came before.
    fn commit(&self) {
        loop {
            let mut batch = Vec::new();
            {
                let mut queue = lock(&self.queue);
                while queue.puts.is_empty() && !queue.ended {
                    queue = self.put.wait(queue).unwrap_or_else(PoisonError::into_inner);
                }
                if queue.ended {
                    return;
                }
                let mut bytes = 0;
                while batch.len() < BATCH && bytes < BATCH_BYTES {
                    let Some(job) = queue.puts.pop_front() else { break };
                    bytes += bytes_of(&job.asked);
                    batch.push(job);
                    queue.took_guests();
                }
                queue.put_bytes -= bytes;
                self.wake_upkeep(&queue);
            }
            self.outbox.leave(self.store(batch, Class::Guest));
            self.pool.look_after();
        }
    }

    /// It may be its turn now.
    fn wake_upkeep(&self, queue: &Queue) {
        if !queue.upkeep.is_empty() {
            self.upkeep.notify_one();
        }
    }

    fn store(&self, batch: Vec<Job>, class: Class) -> Vec<Done> {
        if let Some(cache) = &self.cache {
            let keep = |job: Job| {
                let checked = self.osd.check_path(&job.asked.request);
                let kept = checked.and_then(|()| cache.keep(&job.asked.request, &self.osd));
                done(job, kept)
            };
            return batch.into_iter().map(keep).collect();
        }
        let checked: Vec<Result<(String, Parts), BackendError>> =
            batch.iter().map(|job| fragment_of(&self.osd, &job.asked)).collect();
        let puts: Vec<(String, Parts)> =
            checked.iter().filter_map(|one| one.as_ref().ok().cloned()).collect();
        let mut stored = self.osd.put_all(&puts, class).into_iter();
        let outcome = |checked: Result<(String, Parts), BackendError>| match checked {
            Ok(_) => stored.next().unwrap_or(Ok(Put::Exists)).map(Answer::Put),
            Err(error) => Err(error),
        };
        let outcomes: Vec<alba::Result<Answer>> = checked.into_iter().map(outcome).collect();
        batch.into_iter().zip(outcomes).map(|(job, answer)| done(job, answer)).collect()
    }

    fn do_others(&self) {
        loop {
            let job = {
                let mut queue = lock(&self.queue);
                loop {
                    if queue.ended {
                        return;
                    }
                    if let Some(job) = queue.others.pop_front() {
                        queue.took_guests();
                        self.wake_upkeep(&queue);
                        break job;
                    }
                    queue = self.other.wait(queue).unwrap_or_else(PoisonError::into_inner);
                }
            };
            let answer = self.perform(&job.asked.request);
            self.outbox.leave([done(job, answer)]);
        }
    }

    fn do_upkeep(&self) {
        // Where that is not allowed it works as the others do.
        let _ = give_way();
        loop {
            let job = {
                let mut queue = lock(&self.queue);
                loop {
                    if queue.ended {
                        return;
                    }
                    if let Some(job) = queue.take_upkeeps() {
                        break job;
                    }
                    queue = self.upkeep.wait(queue).unwrap_or_else(PoisonError::into_inner);
                }
            };
            if bytes_of(&job.asked) > 0 {
                self.outbox.leave(self.store(vec![job], Class::Upkeep));
            } else {
                let answer = self.perform(&job.asked.request);
                self.outbox.leave([done(job, answer)]);
            }
        }
    }

    fn perform(&self, request: &Request) -> alba::Result<Answer> {
        if let Some(cache) = &self.cache {
            return self.osd.check_path(request).and_then(|()| cache.perform(request));
        }
        match request {
            // With the checksums, so that whoever asked can compare them, too.
            Request::Get { path, payload_len, offset, len } => {
                self.osd.check_path(request)?;
                self.osd.get(path, *payload_len, *offset, *len).map(Answer::Bytes)
            }
            other => self.osd.perform(other),
        }
    }
}

/// The file of a put, if it is a whole fragment of the name that it shall have: what was damaged on
/// its way is not stored.
fn fragment_of(osd: &FolderOsd, asked: &Asked) -> Result<(String, Parts), BackendError> {
    let request = &asked.request;
    osd.check_path(request)?;
    let Request::Put { path, parts } = request else {
        return Err(request.error(Cause::Failed, "it is no cache"));
    };
    let whole: &[u8] = parts.first().map_or(&[], |part| part);
    check_file(path, whole, &asked.crcs)
        .map_err(|e| request.error(Cause::Corrupt, e.to_string()))?;
    Ok((path.clone(), parts.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(tag: u64, class: Class) -> Job {
        let request = Request::Space;
        let (after, limit, crcs) = (String::new(), 0, Vec::new());
        Job { connection: 1, tag, asked: Asked { request, after, limit, crcs, class } }
    }

    #[test]
    fn what_the_upkeep_asks_waits_for_guests_but_not_for_ever() {
        let mut queue = Queue::default();
        let tag = |job: Option<Job>| job.map(|job| job.tag);
        queue.upkeep.push_back(job(1, Class::Upkeep));
        assert_eq!(tag(queue.take_upkeeps()), Some(1), "nobody waits");
        queue.upkeep.extend([2, 3].map(|tag| job(tag, Class::Upkeep)));
        queue.others.push_back(job(4, Class::Guest));
        assert_eq!(tag(queue.take_upkeeps()), None, "a guest waits");
        queue.puts.push_back(job(5, Class::Guest));
        queue.others.clear();
        assert_eq!(tag(queue.take_upkeeps()), None, "a guest's fragment waits");
        let mut before = 0;
        while tag(queue.take_upkeeps()).is_none() {
            assert!(before < 1000, "it is never taken");
            queue.took_guests();
            before += 1;
        }
        assert!(before > 1);
        assert_eq!(tag(queue.take_upkeeps()), None, "the next one waits anew");
        queue.puts.clear();
        assert_eq!((tag(queue.take_upkeeps()), tag(queue.take_upkeeps())), (Some(3), None));
    }
}
