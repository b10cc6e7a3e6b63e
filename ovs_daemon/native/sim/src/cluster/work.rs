//! What an open volume has done by worker threads: the jobs of `volume::jobs`, on simulated disks
//! and the simulated backend.
//!
//! A worker knows nothing of leases: a job of a process that was frozen goes on where it was.

use std::collections::BTreeMap;

use alba::{Cause, read_clusters, sco_name};
use buffer::files::Files;
use buffer::{ScoIndex, file_name};
use format::log::PAGE;
use format::object::ObjectIndex;
use volume::{NewCheckpoint, ScoSource, store_checkpoint, store_sco};

use super::disk::Folder;
use super::event::Event;
use super::{Cluster, Host, LOG, MS, NAME, S, Shell};

/// A cluster that a read wants from the backend.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// Which of the read's clusters.
    pub(super) slot: usize,
    pub(super) sco: u32,
    /// Data clusters of the SCO.
    pub(super) clusters: u32,
    pub(super) ordinal: u32,
}

/// A job.
#[derive(Debug)]
pub(super) enum Work {
    Open { sco: u32 },
    Upload { sco: u32, index: ScoIndex },
    Unlink { sco: u32 },
    Checkpoint(Box<NewCheckpoint>),
    Delete { sco: u32 },
    Fetch { read: u64, wanted: Vec<Wanted> },
    Batches { generation: u32, sco: u32, from: u32, end: u32 },
    Index { sco: u32 },
}

/// What a fetch of one cluster brought.
#[derive(Debug)]
pub(super) enum Got {
    Cluster(Vec<u8>),
    /// It was deleted meanwhile: the map knows better by now.
    Gone,
    /// The backend is away.
    Away,
    Damaged,
}

/// What came of a job.
#[derive(Debug)]
pub(super) enum Outcome {
    Opened { sco: u32, failed: Option<bool> },
    Uploaded { sco: u32, stored: bool },
    Unlinked,
    Checkpointed(Option<(BTreeMap<u32, u32>, std::collections::BTreeSet<u64>)>),
    Deleted { sco: u32, deleted: bool },
    Fetched { read: u64, got: Vec<(Wanted, Got)> },
    BatchesRead { generation: u32, bytes: Option<(Vec<u8>, u64)> },
    Indexed(Option<ObjectIndex>),
}

/// Path of a SCO's file below the write buffers' folder.
pub(super) fn sco_path(sco: u32) -> String {
    format!("{NAME}/{}", file_name(sco))
}

/// A SCO file on a simulated disk.
struct Source<'a> {
    files: Folder<'a>,
    sco: u32,
    index: &'a ScoIndex,
}

impl ScoSource for Source<'_> {
    fn index(&self) -> &ScoIndex {
        self.index
    }

    fn name(&self) -> String {
        sco_path(self.sco)
    }

    fn span(&self, _ordinal: u32, count: u32) -> usize {
        count as usize * PAGE
    }

    fn read(
        &self,
        ordinal: u32,
        count: u32,
        into: &mut [u8],
    ) -> Result<Vec<(usize, usize)>, String> {
        let pages = &self.index.pages[ordinal as usize..(ordinal + count) as usize];
        for (page, cluster) in pages.iter().zip(into.chunks_exact_mut(PAGE)) {
            let at = u64::from(*page) * PAGE as u64;
            let read = self.files.read_at(&sco_path(self.sco), at, cluster);
            if read.map_err(|error| error.to_string())? < PAGE {
                return Err("the file ends early".to_owned());
            }
        }
        Ok(vec![(0, pages.len())])
    }
}

impl Cluster<'_> {
    /// Hands a job to a worker thread.
    pub(super) fn job(&mut self, node: Host, serial: u32, work: Work) {
        let delay = match &work {
            Work::Upload { .. } | Work::Checkpoint(_) => 2 * MS + self.random.below(20 * MS),
            Work::Fetch { .. } | Work::Index { .. } => MS + self.random.below(4 * MS),
            _ => 200 + self.random.below(2 * MS),
        };
        let slow = self.random.chance(u64::from(self.plan.slow_jobs), 1000);
        let delay = if slow { delay * 200 } else { delay };
        *self.nodes[node].jobs.entry(serial).or_default() += 1;
        let delay = self.disk_delay(node, delay).min(8 * S);
        let (at, life) = (self.now + delay, self.life(node));
        self.at(at, Event::Work { node, life, serial, work });
    }

    /// A worker thread does it.
    pub(super) fn work(&mut self, node: Host, serial: u32, work: Work) {
        let outcome = match work {
            Work::Open { sco } => Outcome::Opened { sco, failed: self.open_file(node, sco) },
            Work::Upload { sco, index } => {
                let files = Folder { disk: &self.nodes[node].disk, name: "buffer" };
                let source = Source { files, sco, index: &index };
                let stored = store_sco(&self.objects, &LOG, NAME, sco, &source);
                if let Err(failure) = &stored {
                    self.say(format_args!("node {node}: {failure}"));
                }
                Outcome::Uploaded { sco, stored: stored.is_ok() }
            }
            Work::Unlink { sco } => {
                let files = Folder { disk: &self.nodes[node].disk, name: "buffer" };
                // One that stays is removed by the next open.
                let _ = files.unlink(&sco_path(sco));
                Outcome::Unlinked
            }
            Work::Checkpoint(new) => {
                let stored = store_checkpoint(&self.objects, &new, &|| true);
                match &stored {
                    Ok(stored) => {
                        let number = stored.number;
                        self.say(format_args!("node {node}: stored checkpoint {number:x}"));
                    }
                    Err(failure) => self.say(format_args!("node {node}: {failure}")),
                }
                Outcome::Checkpointed(stored.ok().map(|s| (s.referenced, s.existing)))
            }
            Work::Delete { sco } => {
                let deleted = alba::Backend::delete(&self.objects, &sco_name(NAME, sco));
                Outcome::Deleted { sco, deleted: deleted.is_ok() }
            }
            Work::Fetch { read, wanted } => {
                let got = wanted.into_iter().map(|one| (one, self.fetch_cluster(one))).collect();
                Outcome::Fetched { read, got }
            }
            Work::Batches { generation, sco, from, end } => {
                let bytes = self.read_batches(node, sco, from, end);
                Outcome::BatchesRead { generation, bytes }
            }
            Work::Index { sco } => {
                let name = sco_name(NAME, sco);
                let index = alba::read_header(&self.objects, &name, &LOG, sco)
                    .and_then(|header| alba::read_index(&self.objects, &name, &header));
                Outcome::Indexed(index.ok())
            }
        };
        let (at, life) = (self.now + 20 + self.random.below(80), self.life(node));
        self.at(at, Event::Worked { node, life, serial, outcome });
    }

    /// Makes an empty file, durably; `Some`: it failed, for lack of space or not.
    fn open_file(&mut self, node: Host, sco: u32) -> Option<bool> {
        if self.nodes[node].full {
            return Some(true);
        }
        let forget = self.shell(Shell::ForgetFolder);
        let files = Folder { disk: &self.nodes[node].disk, name: "buffer" };
        let made = files.create(&sco_path(sco)).and_then(|()| match forget {
            true => Ok(()),
            false => files.sync_dir(NAME),
        });
        made.err().map(|_| false)
    }

    fn fetch_cluster(&self, one: Wanted) -> Got {
        let mut cluster = vec![0; PAGE];
        let name = sco_name(NAME, one.sco);
        match read_clusters(&self.objects, &name, one.clusters, one.ordinal, &mut cluster) {
            Ok(()) => Got::Cluster(cluster),
            Err(error) => match error.cause {
                Cause::NotFound => Got::Gone,
                Cause::Corrupt => Got::Damaged,
                Cause::NoSpace | Cause::Unanswered | Cause::Failed => Got::Away,
            },
        }
    }

    fn read_batches(&self, node: Host, sco: u32, from: u32, end: u32) -> Option<(Vec<u8>, u64)> {
        let files = Folder { disk: &self.nodes[node].disk, name: "buffer" };
        let mut bytes = vec![0; (end - from) as usize * PAGE];
        let read = files.read_at(&sco_path(sco), u64::from(from) * PAGE as u64, &mut bytes);
        if read.ok()? < bytes.len() {
            return None;
        }
        let (len, mark) = dtl::whole_batches(&bytes, from == 0).ok()?;
        bytes.truncate(len);
        Some((bytes, mark.sequence))
    }
}
