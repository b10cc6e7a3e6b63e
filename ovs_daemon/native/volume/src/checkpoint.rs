//! Checkpoints on the backend: writing one, and reading the last one (see `format::checkpoint`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use alba::{Backend, BackendError, Cause, Put};
use format::checkpoint::{ChunkRef, FOOTER, Footer, Metadata, StoredMap};
use format::crc32c;
use format::entry::Uuid;
use machines::map::{Chunk, Map, Stored, count_refs};
use machines::volume::{Snapshot, Taken};

use crate::jobs::JobFailure;

/// Folder of a log's checkpoints.
pub fn checkpoint_folder(log: &str) -> String {
    format!("{log}/ckpt")
}

/// Name of a checkpoint object.
pub(crate) fn checkpoint_name(log: &str, number: u64) -> String {
    format!("{}/{number:016x}", checkpoint_folder(log))
}

/// Numbers of the checkpoints of a log, ascending.
pub(crate) fn checkpoint_numbers(backend: &dyn Backend, log: &str) -> alba::Result<BTreeSet<u64>> {
    let names = backend.list(&checkpoint_folder(log))?;
    Ok(names.iter().filter_map(|name| u64::from_str_radix(name, 16).ok()).collect())
}

/// A checkpoint to be written.
#[derive(Debug)]
pub struct NewCheckpoint {
    /// What it holds.
    pub taken: Taken,
    /// The log.
    pub log: Uuid,
    /// Its UUID as text.
    pub log_text: String,
    /// The volume's table of logs; its own is the last.
    pub ancestors: Vec<(Uuid, String)>,
    /// Index of the log in that table.
    pub own_log: u16,
    /// The owner's epoch.
    pub epoch: u64,
    /// Number of the object: never used before.
    pub number: u64,
    /// Header CRC of the last batch up to the position.
    pub last_crc: u32,
    /// Checkpoint objects that exist.
    pub existing: BTreeSet<u64>,
    /// Keep them all: clones may refer to them.
    pub pinned: bool,
}

/// What writing a checkpoint brought.
#[derive(Debug)]
pub struct StoredCheckpoint {
    /// Its number.
    pub number: u64,
    /// Clusters referred to, by SCO of this log.
    pub referenced: BTreeMap<u32, u32>,
    /// Checkpoint objects that exist now.
    pub existing: BTreeSet<u64>,
}

/// Checkpoint objects that may hold chunks of the present maps before old chunks are rewritten.
const OBJECTS_MAX: usize = 16;

/// Chunks of one checkpoint while it is written. Records come first in the object, so that they
/// can be streamed; who refers to them follows in the metadata.
struct Writer<'a> {
    new: &'a NewCheckpoint,
    rewrite_below: u64,
    offset: u64,
    done: HashMap<*const Chunk, ChunkRef>,
    fresh: Vec<(Arc<Chunk>, Stored)>,
    record: Vec<u8>,
}

impl Writer<'_> {
    fn chunk(
        &mut self,
        index: u32,
        chunk: &Arc<Chunk>,
        sink: &mut dyn alba::Sink,
    ) -> alba::Result<ChunkRef> {
        if let Some(known) = self.done.get(&Arc::as_ptr(chunk)) {
            return Ok(*known);
        }
        let own = self.new.own_log;
        let reference = match self.known(index, chunk) {
            Some(reference) => reference,
            None => {
                self.record.clear();
                chunk.encode(index, &mut self.record);
                sink.write(&self.record)?;
                let (object, offset) = (self.new.number, self.offset);
                let len = self.record.len() as u32;
                self.offset += u64::from(len);
                let stored = Stored { log: self.new.log, object, offset, length: len };
                self.fresh.push((chunk.clone(), stored));
                ChunkRef { index, log: own, object, offset, len }
            }
        };
        self.done.insert(Arc::as_ptr(chunk), reference);
        Ok(reference)
    }

    /// Where the chunk is stored already, when a reference to there is good: in an object of this
    /// log that is not to be emptied, or of an ancestor, which keeps its objects for its clones. A
    /// sibling clone or a clone of this volume may have stored the chunk too, for they share it in
    /// memory; nobody keeps their objects for this volume.
    fn known(&self, index: u32, chunk: &Chunk) -> Option<ChunkRef> {
        let Stored { log, object, offset, length } = chunk.stored()?;
        let number = self.new.ancestors.iter().position(|(uuid, _)| *uuid == log)? as u16;
        let good = number != self.new.own_log || object >= self.rewrite_below;
        good.then_some(ChunkRef { index, log: number, object, offset, len: length })
    }

    fn map(
        &mut self,
        snapshot: Uuid,
        position: u32,
        map: &Map,
        sink: &mut dyn alba::Sink,
    ) -> alba::Result<StoredMap> {
        let mut chunks = Vec::new();
        for (index, chunk) in map.chunks() {
            chunks.push(self.chunk(index, chunk, sink)?);
        }
        Ok(StoredMap { snapshot, position, chunks })
    }

    fn write(&mut self, sink: &mut dyn alba::Sink) -> alba::Result<Metadata> {
        let taken = &self.new.taken;
        let mut maps = vec![self.map([0; 16], taken.position, &taken.map, sink)?];
        for Snapshot { id, position, map } in &taken.snapshots {
            maps.push(self.map(*id, *position, map, sink)?);
        }
        let metadata = Metadata {
            log: self.new.log,
            position: taken.position,
            last_crc: self.new.last_crc,
            last_sequence: taken.last_sequence,
            scos: taken.scos.clone(),
            maps,
        };
        let bytes = metadata.encode();
        let footer = Footer {
            log: self.new.log,
            number: self.new.number,
            epoch: self.new.epoch,
            metadata_at: self.offset,
            metadata_len: bytes.len() as u32,
            metadata_crc: crc32c(&bytes),
        };
        sink.write(&bytes)?;
        sink.write(&footer.encode())?;
        Ok(metadata)
    }
}

/// Stores a checkpoint and deletes those that nothing refers to any more, as long as the volume is
/// `owned`: a clone that somebody else has made meanwhile may refer to them.
///
/// # Errors
/// See [`JobFailure`]; it may be stored or not.
pub fn store(
    backend: &dyn Backend,
    new: &NewCheckpoint,
    owned: &dyn Fn() -> bool,
) -> Result<StoredCheckpoint, JobFailure> {
    let mut outcome = None;
    let name = checkpoint_name(&new.log_text, new.number);
    let excess = new.existing.len().saturating_sub(OBJECTS_MAX);
    let rewrite_below = match new.pinned || excess == 0 {
        true => 0,
        false => new.existing.iter().nth(new.existing.len() / 2).copied().unwrap_or(0),
    };
    let put = backend.put(&name, &mut |sink| {
        let mut writer = Writer {
            new,
            rewrite_below,
            offset: 0,
            done: HashMap::new(),
            fresh: Vec::new(),
            record: Vec::new(),
        };
        let metadata = writer.write(sink)?;
        outcome = Some((metadata, writer.fresh));
        Ok(())
    })?;
    let (Put::Created, Some((metadata, fresh))) = (put, outcome) else {
        return Err(JobFailure::other(format!("checkpoint {name} exists already")));
    };
    for (chunk, stored) in fresh {
        // Losing a race only means that the chunk is stored once more.
        let _ = chunk.set_stored(stored);
    }
    let mut existing = new.existing.clone();
    existing.insert(new.number);
    if !new.pinned {
        drop_unreferenced(backend, new, &metadata, owned, &mut existing);
    }
    let maps: Vec<&Map> =
        std::iter::once(&new.taken.map).chain(new.taken.snapshots.iter().map(|s| &s.map)).collect();
    let referenced = count_refs(&maps, new.own_log);
    Ok(StoredCheckpoint { number: new.number, referenced, existing })
}

/// What can't be deleted now is tried again after the next checkpoint.
fn drop_unreferenced(
    backend: &dyn Backend,
    new: &NewCheckpoint,
    metadata: &Metadata,
    owned: &dyn Fn() -> bool,
    existing: &mut BTreeSet<u64>,
) {
    let chunks = metadata.maps.iter().flat_map(|map| &map.chunks);
    let mut wanted: BTreeSet<u64> =
        chunks.filter(|c| c.log == new.own_log).map(|c| c.object).collect();
    wanted.insert(new.number);
    existing.retain(|number| {
        let name = checkpoint_name(&new.log_text, *number);
        wanted.contains(number) || !owned() || backend.delete(&name).is_err()
    });
}

/// The last checkpoint of a log.
#[derive(Debug)]
pub struct Loaded {
    /// Its metadata.
    pub metadata: Metadata,
    /// The head's map.
    pub map: Map,
    /// The snapshots.
    pub snapshots: Vec<Snapshot>,
}

fn corrupt(name: &str, why: String) -> BackendError {
    BackendError { attempted: "read", object: name.to_owned(), cause: Cause::Corrupt, why }
}

fn read_metadata(backend: &dyn Backend, name: &str, log: &Uuid) -> alba::Result<Metadata> {
    let len = backend.len(name)?.unwrap_or(0);
    let footer_at =
        len.checked_sub(FOOTER as u64).ok_or_else(|| corrupt(name, "it is too short".into()))?;
    let mut raw = [0; FOOTER];
    backend.read(name, footer_at, &mut raw)?;
    let footer = Footer::decode(&raw).map_err(|e| corrupt(name, format!("its footer: {e}")))?;
    let end = footer.metadata_at.checked_add(u64::from(footer.metadata_len));
    if footer.log != *log || end != Some(footer_at) {
        return Err(corrupt(name, "its footer belongs to another log or place".into()));
    }
    let mut bytes = vec![0; footer.metadata_len as usize];
    backend.read(name, footer.metadata_at, &mut bytes)?;
    if crc32c(&bytes) != footer.metadata_crc {
        return Err(corrupt(name, "the checksum of its metadata differs".into()));
    }
    Metadata::decode(&bytes).map_err(|e| corrupt(name, format!("its metadata: {e}")))
}

/// The last SCO that a checkpoint covers.
pub(crate) fn position(
    backend: &dyn Backend,
    log: &Uuid,
    log_text: &str,
    number: u64,
) -> alba::Result<u32> {
    Ok(read_metadata(backend, &checkpoint_name(log_text, number), log)?.position)
}

/// What a checkpoint says of itself, without its chunks.
pub(crate) fn metadata(
    backend: &dyn Backend,
    log: &Uuid,
    log_text: &str,
    number: u64,
) -> alba::Result<Metadata> {
    trusting(backend, read_metadata(backend, &checkpoint_name(log_text, number), log))
}

/// Loads a checkpoint with all its chunks; chunks that maps share are read and kept once.
pub fn load(
    backend: &dyn Backend,
    ancestors: &[(Uuid, String)],
    number: u64,
) -> alba::Result<Loaded> {
    let (log, own) = ancestors.last().cloned().unwrap_or_default();
    let metadata = metadata(backend, &log, &own, number)?;
    let (map, snapshots) = load_maps(backend, ancestors, number, &metadata, Addresses::Kept)?;
    Ok(Loaded { metadata, map, snapshots })
}

/// Whether loaded chunks remember where they are stored. Somebody who does not own the volume does
/// not learn when they are moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Addresses {
    /// They do.
    Kept,
    /// They do not.
    Dropped,
}

/// Loads the chunks of a checkpoint's maps: the head's, and the snapshots'.
pub(crate) fn load_maps(
    backend: &dyn Backend,
    ancestors: &[(Uuid, String)],
    number: u64,
    metadata: &Metadata,
    addresses: Addresses,
) -> alba::Result<(Map, Vec<Snapshot>)> {
    let name = checkpoint_name(&uuid_of(ancestors), number);
    trusting(backend, load_all(backend, ancestors, &name, metadata, addresses))
}

fn uuid_of(ancestors: &[(Uuid, String)]) -> String {
    ancestors.last().map(|(_, text)| text.clone()).unwrap_or_default()
}

/// The backend looks again at what turned out to be damaged.
fn trusting<T>(backend: &dyn Backend, loaded: alba::Result<T>) -> alba::Result<T> {
    if let Err(error) = &loaded
        && error.cause == Cause::Corrupt
    {
        backend.distrust(&error.object);
    }
    loaded
}

fn load_all(
    backend: &dyn Backend,
    ancestors: &[(Uuid, String)],
    name: &str,
    metadata: &Metadata,
    addresses: Addresses,
) -> alba::Result<(Map, Vec<Snapshot>)> {
    let mut known: HashMap<(u16, u64, u64), Arc<Chunk>> = HashMap::new();
    let mut maps = Vec::new();
    for stored in &metadata.maps {
        let mut chunks = Vec::with_capacity(stored.chunks.len());
        for at in &stored.chunks {
            let key = (at.log, at.object, at.offset);
            let chunk = match known.get(&key) {
                Some(chunk) => chunk.clone(),
                None => {
                    let chunk = Arc::new(load_chunk(backend, ancestors, at, addresses)?);
                    known.insert(key, chunk.clone());
                    chunk
                }
            };
            chunks.push((at.index, chunk));
        }
        let map = Map::from_chunks(chunks).map_err(|e| corrupt(name, format!("a map: {e}")))?;
        maps.push((stored.snapshot, stored.position, map));
    }
    let mut maps = maps.into_iter();
    let (_, _, map) = maps.next().ok_or_else(|| corrupt(name, "it has no map".into()))?;
    let snapshots = maps.map(|(id, position, map)| Snapshot { id, position, map }).collect();
    Ok((map, snapshots))
}

fn load_chunk(
    backend: &dyn Backend,
    ancestors: &[(Uuid, String)],
    at: &ChunkRef,
    addresses: Addresses,
) -> alba::Result<Chunk> {
    let (log, log_text) = ancestors
        .get(usize::from(at.log))
        .ok_or_else(|| corrupt("checkpoint", format!("chunk {} of an unknown log", at.index)))?;
    let name = checkpoint_name(log_text, at.object);
    let mut record = vec![0; at.len as usize];
    backend.read(&name, at.offset, &mut record)?;
    let (index, chunk) =
        Chunk::decode(&record).map_err(|e| corrupt(&name, format!("chunk {}: {e}", at.index)))?;
    if index != at.index {
        return Err(corrupt(&name, format!("chunk {} is in the place of {}", index, at.index)));
    }
    if addresses == Addresses::Kept {
        let stored = Stored { log: *log, object: at.object, offset: at.offset, length: at.len };
        let _ = chunk.set_stored(stored);
    }
    Ok(chunk)
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
