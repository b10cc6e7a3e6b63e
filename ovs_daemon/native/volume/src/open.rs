//! Opening a volume: last checkpoint, then the objects after it, then the write buffer.
//!
//! What is proportional to the map is read (the checkpoint), and what came after the checkpoint;
//! never the data.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use alba::{Backend, BackendError, read_header, read_index, sco_name};
use buffer::files::Files;
use buffer::recover::{begun_later, parse_file_name};
use buffer::{
    ChainEnd, DiskFiles, LogBuffer, RecoverError, RecoveredLog, RecoveredSco, Tail, recover,
};
use format::checkpoint::Metadata;
use format::entry::{Entry, Uuid};
use machines::dtl::Mark;
use machines::dtl::link::Saved;
use machines::map::Map;
use machines::mds::{Place, Warm, fits};
use machines::replay::Content;
use machines::volume::{Limits, Recovered, Sco, Stage, Volume as Machine};
use media::{Dir, StoreError};

use crate::checkpoint::{
    Addresses, checkpoint_folder, checkpoint_numbers, load_maps, metadata, position,
};
use crate::shared::SharedScos;
use crate::warm;

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
    /// The map that this node has kept warm while another one owned the volume.
    pub warm: Option<Warm>,
}

/// What the map was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// The last checkpoint.
    Cold,
    /// The map that was kept warm here.
    Warm,
    /// The last checkpoint, since the warm map does not belong to the log: why.
    Refused(String),
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
    /// What the map was made from.
    pub start: Start,
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

/// What is known of a SCO that comes after the last checkpoint.
struct Later {
    place: Place,
    entries: Vec<Entry>,
    stage: Stage,
    clusters: u32,
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

/// The log's SCOs, without what they did to the map.
pub(crate) struct Log {
    /// Where the last checkpoint ends.
    pub(crate) checkpoint: Place,
    scos: BTreeMap<u32, Sco>,
    later: Vec<Later>,
    /// Epochs of the objects after the checkpoint.
    epochs: BTreeMap<u32, u64>,
    objects: BTreeSet<u32>,
    saved: Saved,
    found: RecoveredLog,
}

impl Log {
    /// What the backend has of it.
    pub(crate) fn on_backend(
        backend: &dyn Backend,
        (log, text): &(Uuid, String),
        metadata: Option<&Metadata>,
    ) -> Result<Self, OpenError> {
        let mut scos = BTreeMap::new();
        let mut checkpoint = Place::default();
        if let Some(metadata) = metadata {
            let mark = Mark { sequence: metadata.last_sequence, crc: metadata.last_crc };
            checkpoint = Place { sco: metadata.position, mark };
            for (sco, clusters) in &metadata.scos {
                scos.insert(*sco, known_sco(Stage::Evicted, *clusters, 0));
            }
        }
        let objects = object_numbers(backend, text)?;
        let mut later: Vec<Later> = Vec::new();
        let mut epochs = BTreeMap::new();
        let mut end = checkpoint;
        for &sco in objects.range(checkpoint.sco + 1..) {
            let name = sco_name(text, sco);
            let header = read_header(backend, &name, log, sco)?;
            if header.previous_sequence != end.mark.sequence {
                return Err(OpenError::Inconsistent(format!(
                    "object {name} continues the log after batch {}, but the log before it ends \
                     with batch {}: an object is missing",
                    header.previous_sequence, end.mark.sequence
                )));
            }
            let entries = read_index(backend, &name, &header)?.entries;
            let mark = Mark { sequence: header.last_sequence, crc: header.last_crc };
            end = Place { sco, mark };
            let (stage, clusters) = (Stage::Evicted, header.clusters);
            later.push(Later { place: end, entries, stage, clusters });
            epochs.insert(sco, header.epoch);
        }
        let saved = Saved { below: end.sco + 1, sequence: end.mark.sequence };
        let found = RecoveredLog::default();
        Ok(Self { checkpoint, scos, later, epochs, objects, saved, found })
    }

    /// What the write buffer has of SCOs that are on the backend is removed. But if this node went
    /// on with the volume by force, a former owner who comes to life again in the middle of an upload
    /// may store what it had under a number that has been used here since.
    fn refuse_former_owners(
        &self,
        files: &dyn Files,
        (log, text): &(Uuid, String),
        last: Option<u64>,
    ) -> Result<(), OpenError> {
        let covered = last.and_then(epoch_of);
        let stored = |sco| match sco <= self.checkpoint.sco {
            true => covered,
            false => self.epochs.get(&sco).copied(),
        };
        let later = begun_later(files, text, log, &stored).map_err(RecoverError::File)?;
        later.map_or(Ok(()), |(sco, here, there)| {
            Err(OpenError::Inconsistent(format!(
                "SCO {sco} is in the write buffer since epoch {here}, and what the backend has of it \
                 ({}, or a checkpoint after it) is of epoch {there}: a former owner stored that after \
                 the volume had gone on without it; keep a copy of both, and delete that object",
                sco_name(text, sco),
            )))
        })
    }

    /// And what the write buffer has after that; `last`: number of the last checkpoint.
    fn add_buffer(
        &mut self,
        files: &dyn Files,
        own: &(Uuid, String),
        last: Option<u64>,
    ) -> Result<(), OpenError> {
        let (log, text) = own;
        self.refuse_former_owners(files, own, last)?;
        self.found = recover(files, text, log, chain_end(self.end()))?;
        for RecoveredSco { sco, index, .. } in &self.found.scos {
            let mark = Mark { sequence: index.last_sequence, crc: index.last_crc };
            self.later.push(Later {
                place: Place { sco: *sco, mark },
                entries: index.entries.clone(),
                stage: Stage::Closed,
                clusters: index.clusters(),
            });
        }
        Ok(())
    }

    /// Its end.
    pub(crate) fn end(&self) -> Place {
        self.later.last().map_or(self.checkpoint, |later| later.place)
    }

    /// The ends of SCOs that a follower's place may be.
    fn ends(&self) -> impl Iterator<Item = Place> {
        std::iter::once(self.checkpoint).chain(self.later.iter().map(|later| later.place))
    }

    /// Takes in what came after a SCO. The number of SCOs that it was.
    pub(crate) fn replay(
        &self,
        after: u32,
        own_log: u16,
        content: &mut Content,
    ) -> Result<usize, OpenError> {
        let later = self.later.iter().filter(|later| later.place.sco > after);
        let mut count = 0;
        for Later { place, entries, .. } in later {
            count += 1;
            content.replay(own_log, place.sco, entries).map_err(|e| {
                OpenError::Inconsistent(format!("SCO {} of the log: {e}", place.sco))
            })?;
        }
        Ok(count)
    }
}

fn known_sco(stage: Stage, clusters: u32, last_sequence: u64) -> Sco {
    let (room, live, unsyncable, stuck) = (clusters, 0, false, false);
    Sco { stage, clusters, room, live, last_sequence, unsyncable, stuck }
}

/// The content that a follower has kept warm, brought to the log's end. `Err`: why it cannot be
/// used; then the checkpoint has to be loaded.
fn take_warm(
    warm: Warm,
    log: &Log,
    own_log: u16,
    ancestors: &[(Uuid, String)],
    metadata: Option<&Metadata>,
) -> Result<(Content, usize), String> {
    let Warm { place, mut content } = warm;
    if !fits(&place, log.ends()) {
        return Err(format!(
            "it ends with SCO {}, batch {}, which is not a SCO's end of the log since its last \
             checkpoint",
            place.sco, place.mark.sequence
        ));
    }
    if let Some(metadata) = metadata {
        let covered = log.later.iter().take_while(|later| later.place.sco <= place.sco);
        let entries = covered.flat_map(|later| &later.entries);
        warm::address(&content, metadata, entries, ancestors);
    }
    check_missing(&content, &log.scos, &log.objects, own_log, place.sco)
        .map_err(|e| e.to_string())?;
    let replayed = log.replay(place.sco, own_log, &mut content).map_err(|e| e.to_string())?;
    Ok((content, replayed))
}

/// The content as the last checkpoint has it, brought to the log's end.
fn load_cold(
    backend: &dyn Backend,
    log: &Log,
    own_log: u16,
    ancestors: &[(Uuid, String)],
    checkpoint: Option<(u64, &Metadata)>,
    base: Option<Map>,
) -> Result<(Content, usize), OpenError> {
    let mut content = Content { map: base.unwrap_or_default(), snapshots: Vec::new() };
    if let Some((number, metadata)) = checkpoint {
        let loaded = load_maps(backend, ancestors, number, metadata, Addresses::Kept)?;
        (content.map, content.snapshots) = loaded;
    }
    check_missing(&content, &log.scos, &log.objects, own_log, log.checkpoint.sco)?;
    let replayed = log.replay(log.checkpoint.sco, own_log, &mut content)?;
    Ok((content, replayed))
}

/// Where the backend's part of a log ends.
///
/// # Errors
/// See [`OpenError`].
pub fn saved_end(backend: &dyn Backend, log: &Uuid) -> Result<ChainEnd, OpenError> {
    let own = (*log, uuid_text(log));
    let last = checkpoint_numbers(backend, &own.1)?.last().copied();
    let metadata = last.map(|number| metadata(backend, log, &own.1, number)).transpose()?;
    Ok(chain_end(Log::on_backend(backend, &own, metadata.as_ref())?.end()))
}

fn chain_end(Place { sco, mark: Mark { sequence, crc } }: Place) -> ChainEnd {
    ChainEnd { sco, sequence, crc }
}

/// What a log holds, found out without changing anything.
#[derive(Debug)]
pub struct Found {
    /// Where the machine starts from.
    pub recovered: Recovered,
    /// The end of the log.
    pub tail: Tail,
    /// What the write buffer has, and what of it has to be cut and removed before the log goes on.
    pub buffer: RecoveredLog,
    /// How much of the log is on the backend.
    pub saved: Saved,
    /// Checkpoint objects that exist.
    pub checkpoints: BTreeSet<u64>,
    /// Number of the next one.
    pub next_checkpoint: u64,
    /// Header CRC at the end of each SCO that a checkpoint may still be taken at.
    pub last_crcs: BTreeMap<u32, u32>,
    /// SCOs whose entries were replayed.
    pub replayed_scos: usize,
    /// What the map was made from.
    pub start: Start,
}

/// Opens a volume. Blocks.
///
/// The log is read and checked in the same way with a follower's map and without; the map is taken
/// only where the log has the follower's place, and then spares loading the checkpoint's chunks.
pub fn open(
    spec: OpenSpec,
    backend: &dyn Backend,
    shared: &Arc<SharedScos>,
) -> Result<Opened, OpenError> {
    let (limits, epoch, buffer_dir) = (spec.limits, spec.epoch, spec.buffer_dir.clone());
    let ancestors = with_names(&spec.ancestors);
    let found = find(spec, backend, &DiskFiles::new(&buffer_dir))?;
    let log = found.tail.log;
    let (dir, buffer) = (buffer_dir.join(uuid_text(&log)), &found.buffer);
    let log_buffer = LogBuffer::open(&dir, found.tail, &buffer.scos, &buffer.remove)?;
    for (sco, file) in log_buffer.all_closed() {
        shared.put(log, sco, file.clone());
    }
    Ok(Opened {
        machine: Machine::new(limits, found.recovered),
        log: log_buffer,
        epoch,
        saved: found.saved,
        next_checkpoint: found.next_checkpoint,
        checkpoints: found.checkpoints,
        replayed_scos: found.replayed_scos,
        last_crcs: found.last_crcs,
        cut_pages: found.buffer.cut_pages,
        start: found.start,
        ancestors,
    })
}

fn with_names(logs: &[Uuid]) -> Vec<(Uuid, String)> {
    logs.iter().map(|uuid| (*uuid, uuid_text(uuid))).collect()
}

/// Finds out what a log holds. `files`: the folder of all write buffers.
///
/// # Errors
/// See [`OpenError`].
pub fn find(spec: OpenSpec, backend: &dyn Backend, files: &dyn Files) -> Result<Found, OpenError> {
    let ancestors = with_names(&spec.ancestors);
    let own = ancestors
        .last()
        .cloned()
        .ok_or_else(|| OpenError::Inconsistent("cannot open a volume without a UUID".to_owned()))?;
    let (log, text) = &own;
    backend.sweep(&format!("{text}/sco"))?;
    backend.sweep(&checkpoint_folder(text))?;
    let own_log = (ancestors.len() - 1) as u16;
    let checkpoints = checkpoint_numbers(backend, text)?;
    let last = checkpoints.last().copied();
    let metadata = last.map(|number| metadata(backend, log, text, number)).transpose()?;
    let mut read = Log::on_backend(backend, &own, metadata.as_ref())?;
    read.add_buffer(files, &own, last)?;
    let warmth = spec
        .warm
        .map(|warm| take_warm(warm, &read, own_log, &ancestors, metadata.as_ref()))
        .transpose();
    let (start, (content, replayed_scos)) = match warmth {
        Ok(Some(content)) => (Start::Warm, content),
        other => {
            let checkpoint = last.zip(metadata.as_ref());
            let cold = load_cold(backend, &read, own_log, &ancestors, checkpoint, spec.base)?;
            (other.err().map_or(Start::Cold, Start::Refused), cold)
        }
    };
    read.scos.retain(|sco, _| read.objects.contains(sco));
    adopt_unlisted(&mut read);
    let mut last_crcs = BTreeMap::from([(read.checkpoint.sco, read.checkpoint.mark.crc)]);
    for Later { place, stage, clusters, .. } in &read.later {
        read.scos.insert(place.sco, known_sco(*stage, *clusters, place.mark.sequence));
        last_crcs.insert(place.sco, place.mark.crc);
    }
    let end = read.end();
    let tail =
        Tail { log: *log, epoch: spec.epoch, sequence: end.mark.sequence, crc: end.mark.crc };
    let last_object = read.objects.last().copied().unwrap_or(0);
    let greatest = last_object.max(read.found.greatest_sco).max(read.checkpoint.sco);
    let recovered = Recovered {
        own_log,
        map: content.map,
        snapshots: content.snapshots,
        scos: read.scos,
        sequence: tail.sequence,
        durable: tail.sequence,
        next_sco: greatest + 1,
        checkpoint_position: read.checkpoint.sco,
    };
    Ok(Found {
        recovered,
        tail,
        buffer: read.found,
        saved: read.saved,
        checkpoints,
        next_checkpoint: first_checkpoint(spec.epoch, last),
        last_crcs,
        replayed_scos,
        start,
    })
}

/// Objects that the checkpoint covers and does not list had been deleted before it was taken, and a
/// power loss brought them back: deletions are not synced, each of them. Nothing refers to them,
/// and the next checkpoint deletes them again.
fn adopt_unlisted(log: &mut Log) {
    for sco in log.objects.range(..=log.checkpoint.sco) {
        log.scos.entry(*sco).or_insert_with(|| known_sco(Stage::Evicted, 0, 0));
    }
}

/// Numbers of checkpoints start with the epoch: what a former owner stores late neither takes a
/// number of this one's checkpoints nor comes after them.
fn first_checkpoint(epoch: u64, last: Option<u64>) -> u64 {
    last.map_or(1, |last| last + 1).max(epoch << 32)
}

/// The epoch in which a checkpoint was stored; `None`: its number does not say.
fn epoch_of(number: u64) -> Option<u64> {
    Some(number >> 32).filter(|epoch| *epoch > 0)
}

/// SCOs may have been deleted after the checkpoint was stored; one that a map still refers to must
/// be there. `position`: the SCO at whose end the content is.
fn check_missing(
    content: &Content,
    scos: &BTreeMap<u32, Sco>,
    objects: &BTreeSet<u32>,
    own_log: u16,
    position: u32,
) -> Result<(), OpenError> {
    let missing: Vec<u32> = scos.keys().copied().filter(|sco| !objects.contains(sco)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let maps: Vec<&Map> =
        std::iter::once(&content.map).chain(content.snapshots.iter().map(|s| &s.map)).collect();
    let referenced = machines::map::count_refs(&maps, own_log);
    for sco in missing {
        if let Some(clusters) = referenced.get(&sco) {
            return Err(OpenError::Inconsistent(format!(
                "SCO {sco} is missing on the backend, and {clusters} clusters of the content at \
                 SCO {position} are in it: restore the object, nothing was changed"
            )));
        }
    }
    Ok(())
}
