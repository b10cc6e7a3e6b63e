//! The life of a log on recording files: production encoders, and the order of operations of
//! `buffer::LogBuffer`, `volume::jobs` and `volume::checkpoint`.

use std::collections::BTreeMap;

use alba::{Backend, sco_name};
use buffer::files::Files;
use buffer::{NewBatch, ScoIndex, Tail, file_name};
use format::checkpoint::{ChunkRef, Footer, Metadata, StoredMap};
use format::crc32c;
use format::entry::{Entry, Uuid};
use format::log::PAGE;
use format::object::ObjectHeader;
use machines::map::{Loc, Map};
use machines::volume::Snapshot;

use crate::Forget;
use crate::backend::{FilesBackend, TestFiles};

/// The log under test.
pub(crate) const LOG: Uuid = [0x11; 16];
/// Its UUID as text: the name of its folders.
pub(crate) const NAME: &str = "11111111-1111-1111-1111-111111111111";
/// Folder of its write buffer.
pub(crate) const FOLDER: &str = "buffer/11111111-1111-1111-1111-111111111111";
/// Clusters of the volume.
pub(crate) const CLUSTERS: usize = 2;

/// What happens to a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// One cluster is written.
    Write,
    /// Everything is synced, and that is promised.
    Flush,
    /// One cluster is trimmed.
    Trim,
    /// A snapshot is taken, which closes the SCO, and promised.
    Snapshot,
    /// The SCO is closed.
    Close,
    /// The oldest SCO that is only in the buffer is made durable, stored as an object, and evicted.
    Upload,
    /// The maps as they were at the last uploaded SCO are stored, and older checkpoints deleted.
    Checkpoint,
}

/// What a volume shows: first byte of each cluster, and the same for each snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) head: [u8; CLUSTERS],
    pub(crate) snapshots: Vec<(u8, [u8; CLUSTERS])>,
}

/// Maps and end of the chain at the closing of a SCO.
#[derive(Clone)]
struct Position {
    map: Map,
    snapshots: Vec<Snapshot>,
    sequence: u64,
    crc: u32,
}

struct Sco {
    index: ScoIndex,
    closed: Option<Position>,
}

/// See the top of the file.
pub(crate) struct Log {
    files: TestFiles,
    backend: FilesBackend,
    tail: Tail,
    durable: u64,
    scos: BTreeMap<u32, Sco>,
    open: Option<u32>,
    next_sco: u32,
    map: Map,
    snapshots: Vec<Snapshot>,
    uploaded: Option<(u32, Position)>,
    checkpoints: u64,
    listed: Vec<(u32, u32)>,
    writes: u8,
    /// Content after each batch; a mark promises an index of this list.
    pub(crate) states: Vec<Content>,
}

const OK: &str = "the memory twin has room and no faults";

impl Log {
    pub(crate) fn new(files: TestFiles) -> Self {
        Log {
            backend: FilesBackend { files: files.clone(), sync_objects: true },
            files,
            tail: Tail { log: LOG, epoch: 1, sequence: 0, crc: 0 },
            durable: 0,
            scos: BTreeMap::new(),
            open: None,
            next_sco: 1,
            map: Map::new(),
            snapshots: Vec::new(),
            uploaded: None,
            checkpoints: 0,
            listed: Vec::new(),
            writes: 0,
            states: vec![Content::default()],
        }
    }

    pub(crate) fn step(&mut self, step: Step, forget: Option<Forget>) {
        self.backend.sync_objects = forget != Some(Forget::SyncObject);
        match step {
            Step::Write => {
                self.writes += 1;
                let lba = u64::from(self.writes) % CLUSTERS as u64;
                self.append(&[Entry::Data { lba, clusters: 1 }], Some(self.writes), forget);
            }
            Step::Trim => self.append(&[Entry::Trim { lba: 1, clusters: 1 }], None, forget),
            Step::Flush => self.flush(forget),
            Step::Snapshot => {
                let id = [self.states.len() as u8; 16];
                self.append(&[Entry::SnapshotCreated(id), Entry::Closed], None, forget);
                self.flush(forget);
            }
            Step::Close if self.open.is_some() => self.append(&[Entry::Closed], None, forget),
            Step::Close => {}
            Step::Upload => self.upload(forget),
            Step::Checkpoint => self.checkpoint(forget),
        }
    }

    fn append(&mut self, entries: &[Entry], data: Option<u8>, forget: Option<Forget>) {
        let sco = self.open_sco(forget);
        let cluster = data.map(|byte| [byte; PAGE]);
        let crcs: Vec<u32> = cluster.iter().map(|bytes| crc32c(bytes)).collect();
        let batch = NewBatch {
            sco,
            sequence: self.tail.sequence + 1,
            durable_sequence: self.durable,
            entries,
            crcs: &crcs,
        };
        let index = &mut self.scos.get_mut(&sco).expect("it is open").index;
        let (mut header, mut scratch) = (Vec::new(), Vec::new());
        let tail = self.tail.encode(&batch, index, &mut header, &mut scratch);
        let at = u64::from(index.end_page) * PAGE as u64;
        let mut parts = vec![&header[..]];
        parts.extend(cluster.iter().map(|bytes| &bytes[..]));
        self.files.write_at(&format!("{FOLDER}/{}", file_name(sco)), at, &parts).expect(OK);
        if index.end_page == 0 {
            index.previous_sequence = self.tail.sequence;
            index.end_page = 1;
        }
        let ordinal = index.clusters();
        index.add(entries, &crcs, (scratch.len() / PAGE) as u32);
        (index.epoch, index.last_sequence, index.last_crc) = (tail.epoch, tail.sequence, tail.crc);
        self.tail = tail;
        self.apply(entries, sco, ordinal, data);
    }

    fn open_sco(&mut self, forget: Option<Forget>) -> u32 {
        if let Some(sco) = self.open {
            return sco;
        }
        let sco = self.next_sco;
        self.next_sco += 1;
        self.files.create(&format!("{FOLDER}/{}", file_name(sco))).expect(OK);
        if forget != Some(Forget::SyncDir) {
            self.files.sync_dir(FOLDER).expect(OK);
        }
        self.scos.insert(sco, Sco { index: ScoIndex::default(), closed: None });
        self.open = Some(sco);
        sco
    }

    fn apply(&mut self, entries: &[Entry], sco: u32, ordinal: u32, data: Option<u8>) {
        let mut state = self.states.last().cloned().unwrap_or_default();
        replay(entries, sco, ordinal, &mut self.map, &mut self.snapshots);
        for entry in entries {
            match *entry {
                Entry::Data { lba, .. } => state.head[lba as usize] = data.unwrap_or(0),
                Entry::Trim { lba, .. } => state.head[lba as usize] = 0,
                Entry::SnapshotCreated(id) => state.snapshots.push((id[0], state.head)),
                Entry::Closed => {
                    let (sequence, crc) = (self.tail.sequence, self.tail.crc);
                    let (map, snapshots) = (self.map.clone(), self.snapshots.clone());
                    let position = Position { map, snapshots, sequence, crc };
                    self.scos.get_mut(&sco).expect("it is open").closed = Some(position);
                    self.open = None;
                }
                _ => {}
            }
        }
        self.states.push(state);
    }

    fn sync_all(&mut self) {
        for sco in self.scos.keys() {
            self.files.sync(&format!("{FOLDER}/{}", file_name(*sco))).expect(OK);
        }
        self.durable = self.tail.sequence;
    }

    fn flush(&mut self, forget: Option<Forget>) {
        if forget != Some(Forget::Sync) {
            self.sync_all();
        }
        self.files.inner().mark(self.states.len() as u64 - 1);
    }

    fn upload(&mut self, forget: Option<Forget>) {
        let Some((&number, sco)) = self.scos.iter().next() else { return };
        let Some(position) = sco.closed.clone() else { return };
        if position.sequence > self.durable {
            self.sync_all();
        }
        let path = format!("{FOLDER}/{}", file_name(number));
        let object = self.object(number, &path);
        let evict = || self.files.unlink(&path).expect(OK);
        if forget == Some(Forget::ObjectFirst) {
            evict();
            // What is on the disk by now matters here, not what the process would still do.
            self.files.sync_dir(FOLDER).expect(OK);
        }
        let put = self.backend.put(&sco_name(NAME, number), &mut |sink| sink.write(&object));
        put.expect(OK);
        if forget != Some(Forget::ObjectFirst) {
            evict();
        }
        let clusters = self.scos.remove(&number).map_or(0, |sco| sco.index.clusters());
        self.listed.push((number, clusters));
        self.uploaded = Some((number, position));
    }

    fn object(&self, number: u32, path: &str) -> Vec<u8> {
        let index = &self.scos[&number].index;
        let object_index = index.object_index();
        let tail = object_index.encode();
        let header = ObjectHeader {
            log: LOG,
            sco: number,
            epoch: index.epoch,
            last_sequence: index.last_sequence,
            previous_sequence: index.previous_sequence,
            last_crc: index.last_crc,
            slots: object_index.entries.iter().map(Entry::slots).sum::<usize>() as u32,
            clusters: index.clusters(),
            index_crc: crc32c(&tail),
        };
        let mut object = header.encode().to_vec();
        for page in &index.pages {
            let mut cluster = [0; PAGE];
            self.files.read_at(path, u64::from(*page) * PAGE as u64, &mut cluster).expect(OK);
            object.extend_from_slice(&cluster);
        }
        object.extend_from_slice(&tail);
        object
    }

    fn checkpoint(&mut self, forget: Option<Forget>) {
        let Some((number, position)) = self.uploaded.clone() else { return };
        let old = self.checkpoints;
        if forget == Some(Forget::CheckpointFirst) {
            self.drop_old(old, &position);
        }
        let name = checkpoint_name(old + 1);
        let bytes = encode_checkpoint(old + 1, number, &position, &self.listed);
        self.backend.put(&name, &mut |sink| sink.write(&bytes)).expect(OK);
        if forget != Some(Forget::CheckpointFirst) {
            self.drop_old(old, &position);
        }
        self.checkpoints = old + 1;
    }

    /// Deletes the old checkpoint, and the objects that the maps at the new one do not refer to:
    /// those are in no later checkpoint, and nothing syncs their folder.
    fn drop_old(&mut self, old: u64, position: &Position) {
        if old > 0 {
            self.backend.delete(&checkpoint_name(old)).expect(OK);
        }
        let mut maps = vec![&position.map];
        maps.extend(position.snapshots.iter().map(|snapshot| &snapshot.map));
        let referenced = machines::map::count_refs(&maps, 0);
        for (number, _) in self.listed.iter().filter(|(n, _)| !referenced.contains_key(n)) {
            self.backend.delete(&sco_name(NAME, *number)).expect(OK);
        }
        self.listed.retain(|(number, _)| referenced.contains_key(number));
    }
}

fn checkpoint_name(number: u64) -> String {
    format!("{}/{number:016x}", volume::checkpoint_folder(NAME))
}

fn encode_checkpoint(number: u64, sco: u32, position: &Position, scos: &[(u32, u32)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut store = |snapshot: Uuid, at: u32, map: &Map| {
        let mut chunks = Vec::new();
        for (index, chunk) in map.chunks() {
            let offset = bytes.len() as u64;
            chunk.encode(index, &mut bytes);
            let len = (bytes.len() as u64 - offset) as u32;
            chunks.push(ChunkRef { index, log: 0, object: number, offset, len });
        }
        StoredMap { snapshot, position: at, chunks }
    };
    let mut maps = vec![store([0; 16], sco, &position.map)];
    for snapshot in &position.snapshots {
        maps.push(store(snapshot.id, snapshot.position, &snapshot.map));
    }
    let metadata = Metadata {
        log: LOG,
        position: sco,
        last_crc: position.crc,
        last_sequence: position.sequence,
        scos: scos.to_vec(),
        maps,
    };
    let encoded = metadata.encode();
    let footer = Footer {
        log: LOG,
        number,
        epoch: 1,
        metadata_at: bytes.len() as u64,
        metadata_len: encoded.len() as u32,
        metadata_crc: crc32c(&encoded),
    };
    bytes.extend_from_slice(&encoded);
    bytes.extend_from_slice(&footer.encode());
    bytes
}

/// Applies entries to maps, as the machine and `volume::open` do.
pub(crate) fn replay(
    entries: &[Entry],
    sco: u32,
    mut ordinal: u32,
    map: &mut Map,
    snapshots: &mut Vec<Snapshot>,
) {
    for entry in entries {
        match *entry {
            Entry::Data { lba, clusters } => {
                let loc = Loc { log: 0, sco, ordinal: ordinal as u16 };
                ordinal += clusters;
                map.set(lba, clusters, loc, &mut |_, _| {}).expect("it is inside the volume");
            }
            Entry::Trim { lba, clusters } => map.unset(lba, clusters.into(), &mut |_, _| {}),
            Entry::SnapshotCreated(id) => {
                snapshots.push(Snapshot { id, position: sco, map: map.clone() });
            }
            _ => {}
        }
    }
}
