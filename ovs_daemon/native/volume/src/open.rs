//! Opening a volume: last checkpoint, then the objects after it, then the write buffer.
//!
//! What is proportional to the map is read (the checkpoint), and what came after the checkpoint;
//! never the data.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use alba::{Backend, BackendError, read_header, read_index, sco_name};
use buffer::recover::parse_file_name;
use buffer::{ChainEnd, DiskFiles, LogBuffer, RecoverError, RecoveredLog, Tail, recover};
use format::entry::{Entry, Uuid};
use machines::dtl::link::Saved;
use machines::map::{Loc, Map};
use machines::volume::{Limits, Recovered, Sco, Snapshot, Stage, Volume as Machine};
use media::{Dir, StoreError};

use crate::checkpoint::{checkpoint_folder, checkpoint_numbers, load, position};
use crate::shared::SharedScos;

/// A UUID as text: 8-4-4-4-12 hexadecimal digits.
pub fn uuid_text(uuid: &Uuid) -> String {
    let hex: String = uuid.iter().map(|b| format!("{b:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// What to open.
#[derive(Debug)]
pub struct OpenSpec {
    /// Ancestors, oldest first; the volume itself last.
    pub ancestors: Vec<Uuid>,
    /// The owner's epoch; greater than any before.
    pub epoch: u64,
    /// The parent's snapshot that a clone starts from; `None`: an empty volume.
    pub base: Option<Map>,
    /// Folder of all write buffers.
    pub buffer_dir: PathBuf,
    /// Sizes.
    pub limits: Limits,
}

/// Why a volume can't be opened.
#[derive(Debug)]
pub enum OpenError {
    /// The backend.
    Backend(BackendError),
    /// The write buffer's files.
    Store(StoreError),
    /// The write buffer's content.
    Recover(RecoverError),
    /// What the parts say does not fit together.
    Inconsistent(String),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Backend(e) => e.fmt(f),
            OpenError::Store(e) => e.fmt(f),
            OpenError::Recover(e) => e.fmt(f),
            OpenError::Inconsistent(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for OpenError {}

macro_rules! from {
    ($error:ty, $variant:ident) => {
        impl From<$error> for OpenError {
            fn from(error: $error) -> Self {
                OpenError::$variant(error)
            }
        }
    };
}
from!(BackendError, Backend);
from!(StoreError, Store);
from!(RecoverError, Recover);

/// An opened volume, to be handed to its shard.
#[derive(Debug)]
pub struct Opened {
    pub(crate) machine: Machine,
    pub(crate) log: LogBuffer,
    pub(crate) ancestors: Vec<(Uuid, String)>,
    pub(crate) epoch: u64,
    /// How much of the log is on the backend.
    pub(crate) saved: Saved,
    pub(crate) checkpoints: BTreeSet<u64>,
    pub(crate) next_checkpoint: u64,
    /// Header CRC at the end of each SCO that a checkpoint may still be taken at.
    pub(crate) last_crcs: BTreeMap<u32, u32>,
    /// SCOs whose entries were replayed.
    pub replayed_scos: usize,
    /// Pages cut off the end of the log.
    pub cut_pages: u64,
}

impl Opened {
    /// A snapshot's content, for a clone to start from.
    pub fn snapshot(&self, id: &Uuid) -> Option<Map> {
        self.machine.snapshots().iter().find(|s| s.id == *id).map(|s| s.map.clone())
    }

    /// SCOs of the log, as the machine begins with them.
    pub fn scos(&self) -> &BTreeMap<u32, Sco> {
        self.machine.scos()
    }
}

struct Replay {
    own_log: u16,
    map: Map,
    snapshots: Vec<Snapshot>,
    scos: BTreeMap<u32, Sco>,
}

impl Replay {
    fn sco(&mut self, number: u32, entries: &[Entry]) -> Result<(), OpenError> {
        let mut ordinal = 0;
        let ignore = &mut |_: Loc, _: u32| {};
        for entry in entries {
            match *entry {
                Entry::Data { lba, clusters } => {
                    let loc = Loc { log: self.own_log, sco: number, ordinal: ordinal as u16 };
                    ordinal += clusters;
                    self.map.set(lba, clusters, loc, ignore).map_err(|e| {
                        OpenError::Inconsistent(format!("SCO {number} of the log: {e}"))
                    })?;
                }
                Entry::Trim { lba, clusters } => self.map.unset(lba, clusters.into(), ignore),
                Entry::SnapshotCreated(id) => {
                    self.snapshots.retain(|s| s.id != id);
                    let map = self.map.clone();
                    self.snapshots.push(Snapshot { id, position: number, map });
                }
                Entry::SnapshotDeleted(id) => self.snapshots.retain(|s| s.id != id),
                Entry::Reverted(id) => {
                    if let Some(snapshot) = self.snapshots.iter().find(|s| s.id == id) {
                        self.map = snapshot.map.clone();
                    }
                }
                Entry::Closed => {}
            }
        }
        Ok(())
    }

    fn add(&mut self, number: u32, stage: Stage, clusters: u32, last_sequence: u64) {
        let (live, unsyncable, stuck) = (0, false, false);
        let sco = Sco { stage, clusters, live, last_sequence, unsyncable, stuck };
        self.scos.insert(number, sco);
    }
}

/// SCO objects of a log, ascending.
fn object_numbers(backend: &dyn Backend, log: &str) -> alba::Result<BTreeSet<u32>> {
    let names = backend.list(&format!("{log}/sco"))?;
    Ok(names.iter().filter_map(|name| u32::from_str_radix(name, 16).ok()).collect())
}

/// Whether the write buffer has SCOs of a log that the backend has not: whoever reads them needs
/// that volume open.
pub fn has_unsaved(
    backend: &dyn Backend,
    buffer_dir: &Path,
    log: &Uuid,
) -> Result<bool, OpenError> {
    let text = uuid_text(log);
    let dir = Dir::at(&buffer_dir.join(&text));
    let mut last = 0;
    for name in dir.list()? {
        let Some(sco) = parse_file_name(&name) else { continue };
        // One that was never written to has nothing that anybody could need.
        if media::file_len(&dir.join(&name))?.is_some_and(|len| len > 0) {
            last = last.max(sco);
        }
    }
    let saved = object_numbers(backend, &text)?.last().copied().unwrap_or(0);
    if last <= saved {
        return Ok(false);
    }
    // What a checkpoint covers may be deleted on the backend, and a file of it still be there.
    let covered = match checkpoint_numbers(backend, &text)?.last() {
        Some(number) => position(backend, log, &text, *number)?,
        None => 0,
    };
    Ok(last > covered)
}

/// Opens a volume. Blocks.
pub fn open(
    spec: OpenSpec,
    backend: &dyn Backend,
    shared: &Arc<SharedScos>,
) -> Result<Opened, OpenError> {
    let ancestors: Vec<(Uuid, String)> =
        spec.ancestors.iter().map(|uuid| (*uuid, uuid_text(uuid))).collect();
    let (log, text) = ancestors
        .last()
        .cloned()
        .ok_or_else(|| OpenError::Inconsistent("cannot open a volume without a UUID".to_owned()))?;
    backend.sweep(&format!("{text}/sco"))?;
    backend.sweep(&checkpoint_folder(&text))?;
    let own_log = (ancestors.len() - 1) as u16;
    let checkpoints = checkpoint_numbers(backend, &text)?;
    let mut replay = Replay {
        own_log,
        map: spec.base.unwrap_or_default(),
        snapshots: Vec::new(),
        scos: BTreeMap::new(),
    };
    let mut end = ChainEnd { sco: 0, sequence: 0, crc: 0 };
    if let Some(number) = checkpoints.last() {
        let loaded = load(backend, &ancestors, *number)?;
        let metadata = loaded.metadata;
        end = ChainEnd {
            sco: metadata.position,
            sequence: metadata.last_sequence,
            crc: metadata.last_crc,
        };
        (replay.map, replay.snapshots) = (loaded.map, loaded.snapshots);
        for (sco, clusters) in metadata.scos {
            replay.add(sco, Stage::Evicted, clusters, 0);
        }
    }
    let position = end.sco;
    let mut last_crcs = BTreeMap::from([(position, end.crc)]);
    let objects = object_numbers(backend, &text)?;
    forget_deleted(&mut replay, &objects, position)?;
    adopt_unlisted(&mut replay, &objects, position);
    for &sco in objects.range(position + 1..) {
        let name = sco_name(&text, sco);
        let header = read_header(backend, &name, &log, sco)?;
        if header.previous_sequence != end.sequence {
            return Err(OpenError::Inconsistent(format!(
                "object {name} continues the log after batch {}, but the log before it ends with \
                 batch {}: an object is missing",
                header.previous_sequence, end.sequence
            )));
        }
        replay.sco(sco, &read_index(backend, &name, &header)?.entries)?;
        replay.add(sco, Stage::Evicted, header.clusters, header.last_sequence);
        end = ChainEnd { sco, sequence: header.last_sequence, crc: header.last_crc };
        last_crcs.insert(sco, end.crc);
    }
    let saved = Saved { below: end.sco + 1, sequence: end.sequence };
    let files = DiskFiles::new(&spec.buffer_dir);
    let found: RecoveredLog = recover(&files, &text, &log, end)?;
    let mut tail = Tail { log, epoch: spec.epoch, sequence: end.sequence, crc: end.crc };
    for sco in &found.scos {
        replay.sco(sco.sco, &sco.index.entries)?;
        replay.add(sco.sco, Stage::Closed, sco.index.clusters(), sco.index.last_sequence);
        (tail.sequence, tail.crc) = (sco.index.last_sequence, sco.index.last_crc);
        last_crcs.insert(sco.sco, tail.crc);
    }
    let dir = spec.buffer_dir.join(&text);
    let log_buffer = LogBuffer::open(&dir, tail, &found.scos, &found.remove)?;
    for (sco, file) in log_buffer.all_closed() {
        shared.put(log, sco, file.clone());
    }
    let greatest = objects.last().copied().unwrap_or(0).max(found.greatest_sco).max(position);
    let recovered = Recovered {
        own_log,
        map: replay.map,
        snapshots: replay.snapshots,
        scos: replay.scos,
        sequence: tail.sequence,
        durable: tail.sequence,
        next_sco: greatest + 1,
        checkpoint_position: position,
    };
    Ok(Opened {
        machine: Machine::new(spec.limits, recovered),
        log: log_buffer,
        ancestors,
        epoch: spec.epoch,
        saved,
        next_checkpoint: first_checkpoint(spec.epoch, checkpoints.last().copied()),
        checkpoints,
        replayed_scos: objects.range(position + 1..).count() + found.scos.len(),
        last_crcs,
        cut_pages: found.cut_pages,
    })
}

/// Objects that the checkpoint covers and does not list had been deleted before it was taken, and a
/// power loss brought them back: deletions are not synced, each of them. Nothing refers to them,
/// and the next checkpoint deletes them again.
fn adopt_unlisted(replay: &mut Replay, objects: &BTreeSet<u32>, position: u32) {
    for sco in objects.range(..=position) {
        if !replay.scos.contains_key(sco) {
            replay.add(*sco, Stage::Evicted, 0, 0);
        }
    }
}

/// Numbers of checkpoints start with the epoch: what a former owner stores late neither takes a
/// number of this one's checkpoints nor comes after them.
fn first_checkpoint(epoch: u64, last: Option<u64>) -> u64 {
    last.map_or(1, |last| last + 1).max(epoch << 32)
}

/// Drops SCOs that were deleted after the checkpoint was stored. One that a map still refers to
/// must be there.
fn forget_deleted(
    replay: &mut Replay,
    objects: &BTreeSet<u32>,
    position: u32,
) -> Result<(), OpenError> {
    let missing: Vec<u32> =
        replay.scos.keys().copied().filter(|sco| !objects.contains(sco)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let maps: Vec<&Map> =
        std::iter::once(&replay.map).chain(replay.snapshots.iter().map(|s| &s.map)).collect();
    let referenced = machines::map::count_refs(&maps, replay.own_log);
    for sco in missing {
        if let Some(clusters) = referenced.get(&sco) {
            return Err(OpenError::Inconsistent(format!(
                "SCO {sco} is missing on the backend, and {clusters} clusters of the checkpoint at \
                 SCO {position} are in it: restore the object, nothing was changed"
            )));
        }
        replay.scos.remove(&sco);
    }
    Ok(())
}
