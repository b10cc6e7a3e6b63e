//! Reads of an open volume, as `volume::reads` performs them: the map says where each cluster is;
//! every cluster is compared with its checksum, wherever it comes from.

use buffer::files::Files;
use format::crc32c;
use format::log::PAGE;
use machines::map::Loc;

use super::disk::Folder;
use super::work::{Got, Wanted, Work, sco_path};
use super::{Cluster, Host};

const EIO: i32 = 5;
const TRIES_MAX: u32 = 8;

/// A read under way.
pub(super) struct Read {
    /// Whose: connection and tag; `None`: compaction's.
    from: Option<(u32, u32)>,
    lba: u64,
    /// Compaction reads what it has listed, wherever the map has it by now.
    listed: Option<Loc>,
    data: Vec<u8>,
    /// Clusters that are still to be found.
    missing: Vec<usize>,
    tries: u32,
    failed: bool,
    /// The backend was away: it is tried again later.
    stalled: bool,
}

impl Cluster<'_> {
    pub(super) fn start_read(&mut self, node: Host, from: (u32, u32), lba: u64, clusters: u64) {
        self.begin_read(node, Some(from), lba, None, clusters);
    }

    pub(super) fn start_move(&mut self, node: Host, lba: u64, from: Loc, clusters: u64) {
        self.begin_read(node, None, lba, Some(from), clusters);
    }

    fn begin_read(
        &mut self,
        node: Host,
        from: Option<(u32, u32)>,
        lba: u64,
        listed: Option<Loc>,
        clusters: u64,
    ) {
        self.next_read += 1;
        let number = self.next_read;
        let read = Read {
            from,
            lba,
            listed,
            data: vec![0; clusters as usize * PAGE],
            missing: (0..clusters as usize).collect(),
            tries: 0,
            failed: false,
            stalled: false,
        };
        if let Some(owner) = self.owner(node) {
            owner.reads.insert(number, read);
            self.look_up(node, number);
        }
    }

    /// Finds what is missing: here, or on the backend.
    fn look_up(&mut self, node: Host, number: u64) {
        let Some(mut read) = self.owner(node).and_then(|owner| owner.reads.remove(&number)) else {
            return;
        };
        let mut wanted = Vec::new();
        for slot in std::mem::take(&mut read.missing) {
            let at = slot * PAGE;
            let listed = read.listed.map(|from| from.plus(slot as u32));
            let mapped = || self.owner(node)?.machine.map().get(read.lba + slot as u64);
            let found = listed.or_else(mapped).map(|loc| self.find(node, loc));
            match found.unwrap_or(Place::Nowhere) {
                Place::Nowhere => read.data[at..at + PAGE].fill(0),
                Place::Here(cluster) => read.data[at..at + PAGE].copy_from_slice(&cluster),
                Place::Backend(one) => wanted.push(Wanted { slot, ..one }),
            }
        }
        read.missing = wanted.iter().map(|one| one.slot).collect();
        if wanted.is_empty() {
            return self.read_done(node, read);
        }
        let Some(owner) = self.owner(node) else { return };
        let serial = owner.serial;
        owner.reads.insert(number, read);
        self.job(node, serial, Work::Fetch { read: number, wanted });
    }

    fn find(&mut self, node: Host, loc: Loc) -> Place {
        let Some(owner) = self.owner(node) else { return Place::Nowhere };
        let (sco, ordinal) = (loc.sco, u32::from(loc.ordinal));
        let clusters = owner.machine.scos().get(&sco).map_or(0, |sco| sco.clusters);
        let here = owner.index.get(&sco).and_then(|index| {
            let page = index.pages.get(ordinal as usize)?;
            Some((u64::from(*page) * PAGE as u64, index.crcs[ordinal as usize]))
        });
        if let Some((at, crc)) = here {
            let mut cluster = vec![0; PAGE];
            let files = Folder { disk: &self.nodes[node].disk, name: "buffer" };
            let read = files.read_at(&sco_path(sco), at, &mut cluster);
            if matches!(read, Ok(PAGE)) && crc32c(&cluster) == crc {
                return Place::Here(cluster);
            }
            self.say(format_args!("node {node}: cluster {ordinal} of SCO {sco} is damaged"));
        }
        Place::Backend(Wanted { slot: 0, sco, clusters, ordinal })
    }

    /// A worker has looked on the backend.
    pub(super) fn fetched(&mut self, node: Host, number: u64, got: Vec<(Wanted, Got)>) {
        let Some(read) = self.owner(node).and_then(|owner| owner.reads.get_mut(&number)) else {
            return;
        };
        let mut away = false;
        for (one, got) in got {
            let at = one.slot * PAGE;
            match got {
                Got::Cluster(cluster) => {
                    read.data[at..at + PAGE].copy_from_slice(&cluster);
                    read.missing.retain(|slot| *slot != one.slot);
                }
                Got::Gone if read.tries < TRIES_MAX => {}
                Got::Away => away = true,
                Got::Gone | Got::Damaged => read.failed = true,
            }
        }
        if read.failed || read.missing.is_empty() {
            if let Some(read) = self.owner(node).and_then(|owner| owner.reads.remove(&number)) {
                self.read_done(node, read);
            }
        } else if away {
            read.stalled = true;
            self.timer(node, super::event::Clock::Retry, 300 * super::MS, 0);
        } else {
            read.tries += 1;
            self.look_up(node, number);
        }
    }

    pub(super) fn retry_reads(&mut self, node: Host) {
        let Some(owner) = self.owner(node) else { return };
        let stalled: Vec<u64> =
            owner.reads.iter().filter(|(_, read)| read.stalled).map(|(n, _)| *n).collect();
        for number in stalled {
            if let Some(read) = self.owner(node).and_then(|owner| owner.reads.get_mut(&number)) {
                (read.stalled, read.tries) = (false, 0);
            }
            self.look_up(node, number);
        }
    }

    fn read_done(&mut self, node: Host, read: Read) {
        let Read { from, data, failed, .. } = read;
        match from {
            None => self.moved(node, (!failed).then_some(data)),
            Some((conn, tag)) if failed => self.answer_request(node, conn, tag, EIO, Vec::new()),
            Some((conn, tag)) => self.answer_request(node, conn, tag, 0, data),
        }
    }
}

enum Place {
    Nowhere,
    Here(Vec<u8>),
    Backend(Wanted),
}
