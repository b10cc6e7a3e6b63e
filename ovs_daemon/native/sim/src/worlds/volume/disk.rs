//! What is outside the volume machine: the write buffer, the backend, and opening from them.
//!
//! A *record* is a batch as it is stored. It knows the record before it, as real batch headers do
//! by their CRC chain; a record is identified by the life of the process that wrote it and its
//! sequence, since sequences are used again after a crash that lost some.

use std::collections::{BTreeMap, BTreeSet};

use format::entry::Entry;
use machines::map::{Loc, Map, count_refs};
use machines::volume::{Recovered, Sco, Snapshot, Stage, Taken};

use super::reference::{CLUSTERS, Content, Value};
use crate::explore::Violation;

/// A life and a sequence.
pub(super) type Identity = (u8, u64);

/// How far a record got on the local disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Safety {
    /// In the page cache, to be written.
    Dirty,
    /// In the page cache, and a failed sync made the kernel forget that it is not on the disk.
    Forgotten,
    /// On the disk.
    Durable,
}

/// A stored batch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Record {
    pub(super) identity: Identity,
    pub(super) previous: Identity,
    /// Every batch up to this one was durable when it was written.
    pub(super) durable_sequence: u64,
    pub(super) entries: Vec<Entry>,
    pub(super) data: Vec<Value>,
    pub(super) safety: Safety,
}

/// A checkpoint object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Checkpoint {
    pub(super) taken: Taken,
    /// The last record up to its position.
    pub(super) last: Identity,
}

/// The write buffer's files and the backend's objects, by SCO, and the last stored checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Disk {
    pub(super) files: BTreeMap<u32, Vec<Record>>,
    pub(super) objects: BTreeMap<u32, Vec<Record>>,
    pub(super) checkpoint: Option<Checkpoint>,
    /// Objects that were deleted since the backend's folder was synced: power loss may bring them
    /// back.
    pub(super) lingering: BTreeSet<u32>,
}

/// How open treats the files that it keeps; it syncs them all.
#[derive(Clone, Copy, Debug)]
pub struct OpenPolicy {
    /// It writes them again before: otherwise a sync that failed in an earlier life goes unnoticed,
    /// since the kernel reports it once and then takes the pages for clean.
    pub rewrites: bool,
    /// It takes objects that it needs for nothing as garbage to be deleted.
    pub adopts: bool,
}

/// What open gives: the machine's start, and the end of the chain.
pub(super) struct Opened {
    pub(super) recovered: Recovered,
    pub(super) tail: Identity,
    pub(super) content: Content,
}

/// Snapshots of the model have one-byte numbers.
pub(super) fn uuid(id: u8) -> [u8; 16] {
    [id; 16]
}

impl Disk {
    /// The value at a place, from the file or the object.
    pub(super) fn value(&self, loc: Loc) -> Option<Value> {
        let sco = self.files.get(&loc.sco).or_else(|| self.objects.get(&loc.sco))?;
        sco.iter().flat_map(|record| &record.data).nth(usize::from(loc.ordinal)).copied()
    }

    pub(super) fn values(&self, map: &Map) -> Result<[Value; CLUSTERS], Violation> {
        let mut values = [0; CLUSTERS];
        for (lba, value) in values.iter_mut().enumerate() {
            if let Some(loc) = map.get(lba as u64) {
                *value = self.value(loc).ok_or_else(|| {
                    let detail = format!("cluster {lba} is in SCO {}, which is gone", loc.sco);
                    Violation::new("no reference dangles", detail)
                })?;
            }
        }
        Ok(values)
    }

    pub(super) fn content(&self, head: &Map, snapshots: &[Snapshot]) -> Result<Content, Violation> {
        let mut content = Content { head: self.values(head)?, snapshots: Vec::new() };
        for snapshot in snapshots {
            content.snapshots.push((snapshot.id[0], self.values(&snapshot.map)?));
        }
        Ok(content)
    }

    /// Records that power loss may take, in log order.
    pub(super) fn unsafe_records(&self) -> usize {
        self.files.values().flatten().filter(|record| record.safety != Safety::Durable).count()
    }

    /// The power goes; of the records that were not durable those stay whose bit is set, and what
    /// was deleted last is `back`.
    pub(super) fn lose_power(&mut self, kept: u32, back: bool) {
        for number in std::mem::take(&mut self.lingering) {
            if back {
                self.objects.insert(number, Vec::new());
            }
        }
        let mut number = 0;
        for file in self.files.values_mut() {
            file.retain_mut(|record| {
                if record.safety == Safety::Durable {
                    return true;
                }
                record.safety = Safety::Durable;
                number += 1;
                kept >> (number - 1) & 1 == 1
            });
        }
    }

    /// What a sync leaves behind that failed: pages that are neither on the disk nor dirty.
    pub(super) fn forget_dirty(&mut self, after: u64, through: u64) {
        for file in self.files.values_mut() {
            let asked = |record: &Record| record.identity.1 > after && record.identity.1 <= through;
            let affected = file.iter().any(asked);
            for record in file.iter_mut().filter(|_| affected) {
                if record.safety == Safety::Dirty {
                    record.safety = Safety::Forgotten;
                }
            }
        }
    }

    /// A sync that succeeds covers what was dirty, and nothing that an earlier one dropped.
    pub(super) fn sync(&mut self, through: u64) {
        for record in self.files.values_mut().flatten() {
            if record.identity.1 <= through && record.safety == Safety::Dirty {
                record.safety = Safety::Durable;
            }
        }
    }

    /// Opens the volume as `volume::open` and `buffer::recover` do: the last checkpoint, then the
    /// objects after it, then the files as far as they continue the chain.
    pub(super) fn open(&mut self, policy: OpenPolicy) -> Result<Opened, Violation> {
        let mut replay = Replay::new(self.checkpoint.as_ref());
        let position = replay.position;
        let greatest = self.files.keys().chain(self.objects.keys()).copied().max();
        let next_sco = greatest.unwrap_or(0).max(position) + 1;
        self.replay_objects(&mut replay)?;
        let end = replay.last_sco;
        self.files.retain(|number, _| *number > end);
        let mut broken = false;
        for (number, file) in &mut self.files {
            let valid = if broken { 0 } else { replay.take_sco(*number, file) };
            broken |= valid < file.len();
            replay.claims(file);
            file.truncate(valid);
        }
        replay.check_claims()?;
        self.files.retain(|_, file| !file.is_empty());
        for record in self.files.values_mut().flatten() {
            if record.safety == Safety::Dirty || policy.rewrites {
                record.safety = Safety::Durable;
            }
        }
        let recovered = replay.finish(self, policy, next_sco)?;
        let content = self.content(&recovered.map, &recovered.snapshots)?;
        Ok(Opened { content, tail: replay.tail, recovered })
    }

    /// All records of the past belong to life 0 from now on.
    pub(super) fn start_life(&mut self) {
        for record in self.files.values_mut().chain(self.objects.values_mut()).flatten() {
            record.identity.0 = 0;
            record.previous.0 = 0;
        }
        if let Some(checkpoint) = &mut self.checkpoint {
            checkpoint.last.0 = 0;
        }
    }

    /// Forgets what can't matter any more: of a SCO that open does not replay only the data counts.
    pub(super) fn forget(&mut self) {
        let position = self.checkpoint.as_ref().map_or(0, |stored| stored.taken.position);
        for records in self.objects.range_mut(..=position).map(|(_, records)| records) {
            let data = records.iter_mut().flat_map(|record| std::mem::take(&mut record.data));
            let data = data.collect();
            let whole = Record {
                identity: records.last().map_or((0, 0), |record| record.identity),
                previous: (0, 0),
                durable_sequence: 0,
                entries: Vec::new(),
                data,
                safety: Safety::Durable,
            };
            *records = vec![whole];
        }
    }

    fn replay_objects(&self, replay: &mut Replay) -> Result<(), Violation> {
        for (number, records) in self.objects.range(replay.position + 1..) {
            let first = records.first().map(|record| record.previous);
            if first != Some(replay.tail) {
                let detail = format!("object {number} follows {first:?}, not {:?}", replay.tail);
                return Err(Violation::new("the volume can be opened", detail));
            }
            replay.take_sco(*number, records);
        }
        Ok(())
    }
}

/// Replays the log onto a checkpoint.
struct Replay {
    map: Map,
    snapshots: Vec<Snapshot>,
    position: u32,
    /// SCOs that the checkpoint lists.
    listed: Vec<(u32, u32)>,
    /// The last SCO that was replayed or is in the checkpoint.
    last_sco: u32,
    tail: Identity,
    /// The greatest durable sequence that any header in the files claims.
    claimed: u64,
}

impl Replay {
    fn new(checkpoint: Option<&Checkpoint>) -> Self {
        let taken = checkpoint.map(|checkpoint| &checkpoint.taken);
        let position = taken.map_or(0, |taken| taken.position);
        Replay {
            map: taken.map_or_else(Map::new, |taken| taken.map.clone()),
            snapshots: taken.map_or_else(Vec::new, |taken| taken.snapshots.clone()),
            position,
            listed: taken.map_or_else(Vec::new, |taken| taken.scos.clone()),
            last_sco: position,
            tail: checkpoint.map_or((0, 0), |checkpoint| checkpoint.last),
            claimed: 0,
        }
    }

    /// Replays a SCO as far as its records continue the chain; the number of those.
    fn take_sco(&mut self, number: u32, records: &[Record]) -> usize {
        let mut ordinal = 0;
        for (at, record) in records.iter().enumerate() {
            if record.previous != self.tail {
                return at;
            }
            self.tail = record.identity;
            self.last_sco = number;
            for entry in &record.entries {
                self.apply(entry, number, &mut ordinal);
            }
        }
        records.len()
    }

    /// Every header counts here, also one behind the end of the chain.
    fn claims(&mut self, records: &[Record]) {
        let claimed = records.iter().map(|record| record.durable_sequence).max();
        self.claimed = self.claimed.max(claimed.unwrap_or(0));
    }

    /// A header that says that more was durable than is left means bit rot: open would refuse a
    /// volume that only lost its power.
    fn check_claims(&self) -> Result<(), Violation> {
        if self.claimed <= self.tail.1 {
            return Ok(());
        }
        let detail = format!("a header says {} is durable, {} is left", self.claimed, self.tail.1);
        Err(Violation::new("the volume can be opened", detail))
    }

    fn apply(&mut self, entry: &Entry, sco: u32, ordinal: &mut u32) {
        match *entry {
            Entry::Data { lba, clusters } => {
                let loc = Loc { log: 0, sco, ordinal: *ordinal as u16 };
                *ordinal += clusters;
                let set = self.map.set(lba, clusters, loc, &mut |_, _| {});
                set.expect("the model writes inside the volume");
            }
            Entry::Trim { lba, clusters } => {
                self.map.unset(lba, u64::from(clusters), &mut |_, _| {});
            }
            Entry::SnapshotCreated(id) => {
                self.snapshots.retain(|snapshot| snapshot.id != id);
                self.snapshots.push(Snapshot { id, position: sco, map: self.map.clone() });
            }
            Entry::SnapshotDeleted(id) => self.snapshots.retain(|snapshot| snapshot.id != id),
            Entry::Reverted(id) => {
                if let Some(snapshot) = self.snapshots.iter().find(|other| other.id == id) {
                    self.map = snapshot.map.clone();
                }
            }
            Entry::Closed => {}
        }
    }

    fn finish(
        &mut self,
        disk: &Disk,
        policy: OpenPolicy,
        next_sco: u32,
    ) -> Result<Recovered, Violation> {
        let mut scos = BTreeMap::new();
        let listed = self.listed.iter().map(|(number, clusters)| (*number, *clusters, 0));
        for (number, clusters, last_sequence) in listed.collect::<Vec<_>>() {
            if disk.objects.contains_key(&number) {
                scos.insert(number, sco(Stage::Evicted, clusters, last_sequence));
            } else if self.refers_to(number) {
                let detail = format!("SCO {number} is gone and the checkpoint refers to it");
                return Err(Violation::new("the volume can be opened", detail));
            }
        }
        if policy.adopts {
            for number in disk.objects.range(..=self.position).map(|(number, _)| *number) {
                scos.entry(number).or_insert(sco(Stage::Evicted, 0, 0));
            }
        }
        let clusters = |records: &[Record]| records.iter().map(|r| r.data.len() as u32).sum();
        let last = |records: &[Record]| records.last().map_or(0, |record| record.identity.1);
        for (number, records) in disk.objects.range(self.position + 1..) {
            scos.insert(*number, sco(Stage::Evicted, clusters(records), last(records)));
        }
        for (number, records) in &disk.files {
            scos.insert(*number, sco(Stage::Closed, clusters(records), last(records)));
        }
        Ok(Recovered {
            own_log: 0,
            map: std::mem::take(&mut self.map),
            snapshots: std::mem::take(&mut self.snapshots),
            scos,
            sequence: self.tail.1,
            durable: self.tail.1,
            next_sco,
            checkpoint_position: self.position,
        })
    }

    fn refers_to(&self, number: u32) -> bool {
        let snapshots = self.snapshots.iter().map(|snapshot| &snapshot.map);
        let maps: Vec<&Map> = std::iter::once(&self.map).chain(snapshots).collect();
        count_refs(&maps, 0).contains_key(&number)
    }
}

fn sco(stage: Stage, clusters: u32, last_sequence: u64) -> Sco {
    let (room, live, unsyncable, stuck) = (clusters, 0, false, false);
    Sco { stage, clusters, room, live, last_sequence, unsyncable, stuck }
}
