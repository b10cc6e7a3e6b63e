//! What takes long: performed by worker threads, answered to the volume's shard.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use alba::{Backend, BackendError, Cause, Put, read_clusters, read_header, read_index, sco_name};
use buffer::{ScoFile, ScoIndex, file_name};
use dtl::{Caller, Patience};
use format::crc32c;
use format::entry::{Entry, Uuid};
use format::log::PAGE;
use format::object::{ObjectHeader, ObjectIndex};
use machines::dtl::Held;
use media::{Dir, Fd, File, Slice, StoreError};

use crate::checkpoint::{NewCheckpoint, StoredCheckpoint, store};
use crate::dtl::{connect, read_batches};
use crate::feed;
use crate::standing::Standing;

/// Why a job failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobFailure {
    /// A device is full.
    pub no_space: bool,
    /// Too many files are open.
    pub no_files: bool,
    /// The object or file is missing.
    pub not_found: bool,
    /// Bytes are damaged.
    pub corrupt: bool,
    /// In words: what, on which object, why.
    pub why: String,
}

impl JobFailure {
    pub(crate) fn other(why: String) -> Self {
        Self { no_space: false, no_files: false, not_found: false, corrupt: false, why }
    }
}

impl fmt::Display for JobFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl From<BackendError> for JobFailure {
    fn from(error: BackendError) -> Self {
        Self {
            no_space: error.cause == Cause::NoSpace,
            no_files: false,
            not_found: error.cause == Cause::NotFound,
            corrupt: error.cause == Cause::Corrupt,
            why: error.to_string(),
        }
    }
}

impl From<StoreError> for JobFailure {
    fn from(error: StoreError) -> Self {
        Self {
            no_space: error.is_no_space(),
            no_files: error.is_no_files(),
            not_found: error.is_not_found(),
            corrupt: false,
            why: error.to_string(),
        }
    }
}

/// Why another node was not connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreached {
    /// It answers nobody.
    Away(String),
    /// It answers, or that is not known: for this volume it led to nothing.
    Failed(String),
    /// It knows a newer owner of the volume.
    Refused,
}

impl fmt::Display for Unreached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unreached::Away(why) | Unreached::Failed(why) => f.write_str(why),
            Unreached::Refused => f.write_str("it knows a newer owner of the volume"),
        }
    }
}

/// A job, with the number of the volume that its answer goes to.
#[derive(Debug)]
pub struct Job {
    /// The volume's number on its shard.
    pub volume: u32,
    /// What to do.
    pub work: Work,
    /// How the volume stands by now.
    pub standing: Arc<Standing>,
}

/// What to do.
#[derive(Debug)]
pub enum Work {
    /// Make an empty SCO file, unless less than `reserve` bytes would stay free.
    Open { dir: PathBuf, sco: u32, need: u64, reserve: u64 },
    /// Store a SCO as an object.
    Upload { log: Uuid, log_text: String, sco: u32, file: Arc<ScoFile> },
    /// Remove a file of the write buffer.
    Unlink { dir: PathBuf, sco: u32 },
    /// Store a checkpoint.
    Checkpoint(Box<NewCheckpoint>),
    /// Delete an object.
    Delete { log_text: String, sco: u32 },
    /// Read clusters of an object; `clusters`: how many it has, when that is known.
    Fetch {
        part: u32,
        log: Uuid,
        log_text: String,
        sco: u32,
        clusters: Option<u32>,
        ordinal: u32,
        into: Slice,
    },
    /// Connect to the DTL node.
    Connect { caller: Caller },
    /// Read whole batches from a page of a SCO file, for the DTL node.
    Batches { generation: u32, file: File, from: u32, end: u32 },
    /// Connect to a node that is to follow.
    Follow { connection: u32, caller: mds::Caller },
    /// Read the index of an object.
    Index { log: Uuid, log_text: String, sco: u32 },
}

impl Work {
    /// A guest waits for it: it must not queue behind uploads.
    pub fn is_urgent(&self) -> bool {
        matches!(self, Work::Fetch { .. } | Work::Open { .. })
    }

    /// It is for the backend, of the volume's owner alone, and nobody waits for it who asked the
    /// volume for something: it is not to be done for a volume that is over.
    pub fn is_background(&self) -> bool {
        matches!(
            self,
            Work::Upload { .. }
                | Work::Unlink { .. }
                | Work::Checkpoint(_)
                | Work::Delete { .. }
                | Work::Index { .. }
        )
    }

    /// It is for the DTL node, which waits for it.
    pub fn is_remote(&self) -> bool {
        matches!(self, Work::Batches { .. })
    }

    /// The node that it connects to, whose silence must keep nothing else waiting.
    pub fn reaches(&self) -> Option<SocketAddr> {
        match self {
            Work::Connect { caller } => Some(caller.address),
            Work::Follow { caller, .. } => Some(caller.address),
            _ => None,
        }
    }
}

/// The answer to a job.
#[derive(Debug)]
pub struct JobDone {
    /// The volume's number on its shard.
    pub volume: u32,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a job.
#[derive(Debug)]
pub enum Outcome {
    /// [`Work::Open`].
    Opened { sco: u32, result: Result<File, JobFailure> },
    /// [`Work::Upload`].
    Uploaded { sco: u32, result: Result<(), JobFailure> },
    /// [`Work::Unlink`].
    Unlinked { result: Result<(), JobFailure> },
    /// [`Work::Checkpoint`].
    Checkpointed(Result<StoredCheckpoint, JobFailure>),
    /// [`Work::Delete`].
    Deleted { sco: u32, result: Result<(), JobFailure> },
    /// [`Work::Fetch`]; the object's clusters.
    Fetched { part: u32, log: Uuid, sco: u32, result: Result<u32, JobFailure> },
    /// [`Work::Connect`].
    Connected { generation: u32, result: Result<(Fd, Held), Unreached> },
    /// [`Work::Batches`]; the batches, their pages, and the last sequence.
    BatchesRead { generation: u32, result: Result<(Slice, u32, u64), JobFailure> },
    /// [`Work::Follow`].
    Reached { connection: u32, result: Result<Fd, Unreached> },
    /// [`Work::Index`].
    Indexed { sco: u32, result: Result<ObjectIndex, JobFailure> },
}

impl Outcome {
    /// The backend has done what a volume's owner wanted of it.
    pub fn is_done(&self) -> bool {
        matches!(
            self,
            Outcome::Uploaded { result: Ok(()), .. }
                | Outcome::Checkpointed(Ok(_))
                | Outcome::Deleted { result: Ok(()), .. }
                | Outcome::Indexed { result: Ok(_), .. }
        )
    }

    /// The node that was to be connected to answers nobody.
    pub fn is_away(&self) -> bool {
        matches!(
            self,
            Outcome::Connected { result: Err(Unreached::Away(_)), .. }
                | Outcome::Reached { result: Err(Unreached::Away(_)), .. }
        )
    }
}

impl Job {
    /// Guests wait for a volume that leaves, and it for this. What it deletes may stay: whoever
    /// opens it next finds that nothing needs it.
    pub fn goes_first(&self) -> bool {
        self.standing.is_leaving() && !matches!(self.work, Work::Delete { .. })
    }

    /// What comes of connecting to a node that is known not to answer; `None`: it connects to none.
    pub fn unanswered(self) -> Option<JobDone> {
        let address = self.work.reaches()?;
        let why = Unreached::Away(format!("the node at {address} did not answer a moment ago"));
        let outcome = match self.work {
            Work::Connect { caller } => {
                Outcome::Connected { generation: caller.generation, result: Err(why) }
            }
            Work::Follow { connection, .. } => Outcome::Reached { connection, result: Err(why) },
            _ => return None,
        };
        Some(JobDone { volume: self.volume, outcome })
    }

    /// Does it. Blocks; for worker threads.
    pub fn run(self, backend: &dyn Backend) -> JobDone {
        self.run_while(backend, &|| true)
    }

    /// Does it, as far as only the owner may do it only while `owned`: what a former owner deletes
    /// the present one may need. Blocks; for worker threads.
    pub fn run_while(self, backend: &dyn Backend, owned: &dyn Fn() -> bool) -> JobDone {
        let standing = self.standing;
        let may = || !standing.is_over() && owned();
        let allowed = || match may() {
            true => Ok(()),
            false => Err(JobFailure::other("the volume is not this node's any more".to_owned())),
        };
        let outcome = match self.work {
            Work::Open { dir, sco, need, reserve } => {
                Outcome::Opened { sco, result: open_file(&dir, sco, need, reserve) }
            }
            Work::Upload { log, log_text, sco, file } => {
                let store = |()| store_sco(backend, &log, &log_text, sco, &*file);
                Outcome::Uploaded { sco, result: allowed().and_then(store) }
            }
            Work::Unlink { dir, sco } => {
                let removed = Dir::at(&dir).unlink(&file_name(sco));
                Outcome::Unlinked { result: removed.map_err(JobFailure::from) }
            }
            Work::Checkpoint(new) => {
                Outcome::Checkpointed(allowed().and_then(|()| store(backend, &new, &may)))
            }
            Work::Delete { log_text, sco } => {
                let delete = |()| Ok(backend.delete(&sco_name(&log_text, sco))?);
                Outcome::Deleted { sco, result: allowed().and_then(delete) }
            }
            Work::Fetch { part, log, log_text, sco, clusters, ordinal, into } => {
                let name = sco_name(&log_text, sco);
                let result = fetch(backend, &name, &log, sco, clusters, ordinal, &into);
                Outcome::Fetched { part, log, sco, result }
            }
            Work::Connect { caller } => {
                let generation = caller.generation;
                Outcome::Connected { generation, result: connect(&caller, Patience::default()) }
            }
            Work::Batches { generation, file, from, end } => {
                Outcome::BatchesRead { generation, result: read_batches(&file, from, end) }
            }
            Work::Follow { connection, caller } => {
                Outcome::Reached { connection, result: feed::connect(&caller) }
            }
            Work::Index { log, log_text, sco } => {
                let name = sco_name(&log_text, sco);
                let index = read_header(backend, &name, &log, sco)
                    .and_then(|header| read_index(backend, &name, &header));
                Outcome::Indexed { sco, result: index.map_err(JobFailure::from) }
            }
        };
        JobDone { volume: self.volume, outcome }
    }
}

fn open_file(dir: &std::path::Path, sco: u32, need: u64, reserve: u64) -> Result<File, JobFailure> {
    let dir = Dir::create(dir)?;
    let free = dir.space()?.free;
    if free < reserve.saturating_add(need) {
        let why = format!(
            "cannot add a SCO to {}: {} MiB are free and {} MiB have to stay free",
            dir.path().display(),
            free >> 20,
            reserve >> 20
        );
        return Err(JobFailure { no_space: true, ..JobFailure::other(why) });
    }
    let file = File::create_new(&dir.join(&file_name(sco)))?;
    dir.sync()?;
    Ok(file)
}

fn fetch(
    backend: &dyn Backend,
    name: &str,
    log: &Uuid,
    sco: u32,
    clusters: Option<u32>,
    ordinal: u32,
    into: &Slice,
) -> Result<u32, JobFailure> {
    let clusters = match clusters {
        Some(clusters) => clusters,
        None => read_header(backend, name, log, sco)?.clusters,
    };
    let mut bytes = vec![0; into.len()];
    read_clusters(backend, name, clusters, ordinal, &mut bytes)?;
    into.write(0, &bytes);
    Ok(clusters)
}

/// Where the clusters of a closed SCO are read from.
pub trait ScoSource {
    /// What is known of it.
    fn index(&self) -> &ScoIndex;

    /// Its name, for people.
    fn name(&self) -> String;

    /// Bytes that [`Self::read`] needs room for.
    fn span(&self, ordinal: u32, count: u32) -> usize;

    /// Reads `count` clusters from `ordinal` on; see [`ScoFile::read_blocking`].
    ///
    /// # Errors
    /// Why they cannot be read.
    fn read(
        &self,
        ordinal: u32,
        count: u32,
        into: &mut [u8],
    ) -> Result<Vec<(usize, usize)>, String>;
}

impl ScoSource for ScoFile {
    fn index(&self) -> &ScoIndex {
        &self.index
    }

    fn name(&self) -> String {
        self.file.path().display().to_string()
    }

    fn span(&self, ordinal: u32, count: u32) -> usize {
        ScoFile::span(self, ordinal, count)
    }

    fn read(
        &self,
        ordinal: u32,
        count: u32,
        into: &mut [u8],
    ) -> Result<Vec<(usize, usize)>, String> {
        self.read_blocking(ordinal, count, into).map_err(|error| error.to_string())
    }
}

/// Packs a closed SCO into an object, comparing every checksum on the way: what the buffer's disk
/// has spoilt must not reach the backend.
///
/// # Errors
/// See [`JobFailure`]; the object may be stored or not.
pub fn store_sco(
    backend: &dyn Backend,
    log: &Uuid,
    log_text: &str,
    sco: u32,
    source: &dyn ScoSource,
) -> Result<(), JobFailure> {
    let name = sco_name(log_text, sco);
    let index = source.index();
    let object_index = index.object_index();
    let tail = object_index.encode();
    let header = ObjectHeader {
        log: *log,
        sco,
        epoch: index.epoch,
        last_sequence: index.last_sequence,
        previous_sequence: index.previous_sequence,
        last_crc: index.last_crc,
        slots: object_index.entries.iter().map(Entry::slots).sum::<usize>() as u32,
        clusters: index.clusters(),
        index_crc: crc32c(&tail),
    };
    header.check().map_err(|e| {
        JobFailure::other(format!("cannot store SCO {sco} as {name}: nobody could read it: {e}"))
    })?;
    let put = backend.put(&name, &mut |sink| {
        sink.write(&header.encode())?;
        let mut ordinal = 0;
        while ordinal < header.clusters {
            let (count, span) = next_block(source, ordinal, header.clusters - ordinal);
            sink.fill(span, &mut |block| read_checked(source, ordinal, count, block))?;
            sink.compared(&index.crcs[ordinal as usize..][..count as usize]);
            ordinal += count;
        }
        sink.write(&tail)
    })?;
    if put == Put::Exists {
        // An earlier attempt whose answer was lost, or somebody else's object: only the first
        // is the same SCO.
        let there = read_header(backend, &name, log, sco)?;
        if there != header {
            let why = format!("object {name} exists and is not SCO {sco} of this volume");
            return Err(JobFailure { corrupt: true, ..JobFailure::other(why) });
        }
    }
    Ok(())
}

/// Clusters that are read at a time: 256 KiB, which stays in a core's cache until their checksums are
/// compared.
const BLOCK_CLUSTERS: u32 = 64;
/// Bytes of the file that are read for them at most: between clusters there may be thousands of headers
/// of batches that have none, and what is read must find room behind the object's other bytes.
const BLOCK_SPAN: usize = 2 << 20;

/// How many of the `rest` clusters from `ordinal` on are read now, and their span.
fn next_block(source: &dyn ScoSource, ordinal: u32, rest: u32) -> (u32, usize) {
    let mut count = rest.min(BLOCK_CLUSTERS);
    loop {
        let span = source.span(ordinal, count);
        if count == 1 || span <= BLOCK_SPAN {
            return (count, span);
        }
        count /= 2;
    }
}

/// Reads clusters and compares their checksums; they end up next to each other at the front of
/// `block`, in as many bytes as is returned.
fn read_checked(
    source: &dyn ScoSource,
    ordinal: u32,
    count: u32,
    block: &mut [u8],
) -> alba::Result<usize> {
    let failed = |cause, why: String| BackendError {
        attempted: "upload from",
        object: source.name(),
        cause,
        why,
    };
    let runs = source.read(ordinal, count, block);
    let runs = runs.map_err(|why| failed(Cause::Failed, why))?;
    let mut end = 0;
    for (start, pages) in runs {
        if start * PAGE > end {
            block.copy_within(start * PAGE..(start + pages) * PAGE, end);
        }
        end += pages * PAGE;
    }
    if end != count as usize * PAGE {
        let why = format!("it gave {end} bytes of {count} clusters from {ordinal} on");
        return Err(failed(Cause::Failed, why));
    }
    let clusters = &block[..end];
    for (offset, cluster) in clusters.chunks_exact(PAGE).enumerate() {
        let which = ordinal as usize + offset;
        if crc32c(cluster) != source.index().crcs[which] {
            let why = format!("the checksum of its cluster {which} differs");
            return Err(failed(Cause::Corrupt, why));
        }
    }
    Ok(end)
}

#[cfg(test)]
#[path = "jobs_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "stored_tests.rs"]
mod stored_tests;
