//! The erasure-coded backend: objects as fragments on OSDs of several Domains.
//!
//! Nothing central knows where objects are. An object is found by looking on the OSDs, and whether
//! it is stored is judged by what is seen there (`machines::alba::verdict`): a put that was cut off
//! leaves fragments that are never taken for an object, and with OSDs out of reach an object that
//! was acknowledged is never taken for absent.

mod deletion;
#[cfg(test)]
mod deletion_tests;
#[cfg(test)]
mod faulty;
mod find;
mod leave;
mod leftovers;
mod mend;
#[cfg(test)]
mod mend_tests;
mod places;
mod put;
mod read;
mod rebalance;
#[cfg(test)]
mod rebalance_tests;
mod repair;
mod stored;
mod survey;
#[cfg(test)]
mod tests;
mod tier;
mod uses;
#[cfg(test)]
mod uses_tests;
#[cfg(test)]
mod views_tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use format::osd::wire::Class;
use machines::alba::{Disk, Layout, Standing};
use media::Pool;

use crate::code::Codec;
use crate::osd::{Answer, OBJECT, Osd, Request};
use crate::preset::Preset;
use crate::remote::Link;
use crate::{Backend, BackendError, Cause, Put, Result, Sink, Space};
use find::Found;
pub use leftovers::PARTIAL_AGE;
pub use mend::{Mended, Spend, Terms};
pub use places::{OsdAddress, OsdPlace, Place};
use places::{Remotes, open_folders};
pub use rebalance::{DOUBLE_AGE, Doubles, MOVE_REST, Moving, walk_order};
pub use repair::Repaired;
pub use stored::Stored;
pub use survey::Survey;
pub use tier::{CacheFigures, CacheOsd};
use uses::Use;

/// Bytes of buffers that are kept for the next uploads: two objects of 64 MiB, and parity.
const KEEP: usize = 192 << 20;
/// Objects whose places are remembered.
const FOUND_MAX: usize = 4096;

/// See the top of the file.
#[derive(Debug)]
pub struct Cluster {
    /// Grows only: an OSD's place in it is its number here.
    osds: RwLock<Vec<Arc<dyn Osd>>>,
    preset: Preset,
    codecs: Mutex<BTreeMap<Layout, Arc<Codec>>>,
    found: Mutex<BTreeMap<String, Arc<Found>>>,
    uses: Mutex<BTreeSet<Use>>,
    /// The OSDs (by their numbers for placement) that this process has told of a use: one that was
    /// only read may have been told to one disk by somebody who died then.
    told: Mutex<BTreeMap<Use, BTreeSet<u64>>>,
    /// The OSDs (by number) whose records of use are known.
    read: Mutex<BTreeSet<usize>>,
    /// How OSDs stand, by their numbers for placement; of others nothing is known but that they are
    /// members.
    standings: Mutex<BTreeMap<u64, Standing>>,
    /// The folders that could not be opened, and why.
    missing: Vec<(PathBuf, BackendError)>,
    remotes: Mutex<Remotes>,
    /// For objects that are being put.
    pool: Arc<Pool>,
    /// Fragments that were stored.
    taken: AtomicU64,
    cache: tier::Cache,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn failed(
    attempted: &'static str,
    object: &str,
    why: impl Into<String>,
) -> BackendError {
    BackendError { attempted, object: object.to_owned(), cause: Cause::Failed, why: why.into() }
}

/// A number for a new OSD.
pub fn new_osd_id() -> Result<[u8; 16]> {
    random_id().map_err(|e| failed("make", "a number for an OSD", e.to_string()))
}

fn random_id() -> std::io::Result<[u8; 16]> {
    let mut id = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut id)?;
    Ok(id)
}

impl Cluster {
    /// The cluster on these folders; a new one when none of them was ever used. `reserve`: bytes
    /// that stay free on each disk. Fails when OSDs belong to different clusters, and when there are
    /// too few for any policy of the preset.
    pub fn open(places: &[OsdPlace], preset: Preset, reserve: u64) -> Result<Self> {
        let places: Vec<Place> = places.iter().cloned().map(Place::Folder).collect();
        let cluster = Self::connect(&places, preset, reserve, None)?;
        let all: Vec<usize> = (0..cluster.osds().len()).collect();
        if let (None, shortages) = cluster.preset.choose(&cluster.disks(&all)) {
            let why: Vec<String> = shortages.iter().map(ToString::to_string).collect();
            let why =
                format!("no policy of preset {} fits: {}", cluster.preset.name, why.join("; "));
            return Err(failed("open", "the cluster", why));
        }
        Ok(cluster)
    }

    /// The cluster on these OSDs, wherever they are. `link`: needed for those behind servers. With
    /// too few of them to store anything, or to tell what is stored, it is open all the same, and
    /// says so when it is asked: they may come.
    pub fn connect(
        places: &[Place],
        preset: Preset,
        reserve: u64,
        link: Option<Link>,
    ) -> Result<Self> {
        let (mut folders, mut servers) = (Vec::new(), Vec::new());
        for place in places {
            match place {
                Place::Folder(folder) => folders.push(folder.clone()),
                Place::Server(server) => servers.push(server.clone()),
            }
        }
        let (osds, missing) = open_folders(&folders, reserve)?;
        let cluster = Self {
            osds: RwLock::new(osds),
            preset,
            codecs: Mutex::default(),
            found: Mutex::default(),
            uses: Mutex::default(),
            told: Mutex::default(),
            read: Mutex::default(),
            standings: Mutex::default(),
            missing,
            remotes: Mutex::new(Remotes::new(link)?),
            pool: Pool::new(KEEP),
            taken: AtomicU64::new(0),
            cache: tier::Cache::default(),
        };
        cluster.set_servers(&servers)?;
        cluster.learn_uses();
        Ok(cluster)
    }

    /// The folders that could not be opened, and why.
    pub fn missing(&self) -> &[(PathBuf, BackendError)] {
        &self.missing
    }

    /// All OSDs, by number.
    pub fn osds(&self) -> Vec<Arc<dyn Osd>> {
        self.osds.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The OSD with a number.
    fn osd(&self, number: usize) -> Arc<dyn Osd> {
        self.osds.read().unwrap_or_else(PoisonError::into_inner)[number].clone()
    }

    /// How an OSD stands.
    fn standing(&self, osd: usize) -> Standing {
        self.standing_of(self.osd(osd).id())
    }

    fn standing_of(&self, id: u64) -> Standing {
        lock(&self.standings).get(&id).copied().unwrap_or_default()
    }

    fn codec(&self, layout: Layout) -> Arc<Codec> {
        let mut codecs = lock(&self.codecs);
        codecs.entry(layout).or_insert_with(|| Arc::new(Codec::new(layout))).clone()
    }

    /// These OSDs as placement knows them.
    fn disks(&self, numbers: &[usize]) -> Vec<Disk> {
        let osds = self.osds();
        let number = |name: &dyn Fn(&Arc<dyn Osd>) -> String, osd: &Arc<dyn Osd>| {
            let mine = name(osd);
            // Of equal names the first one's place: the same for all that bear it.
            osds.iter().position(|other| name(other) == mine).unwrap_or(0) as u32
        };
        let domain = |osd: &Arc<dyn Osd>| osd.claim().domain.clone();
        let node = |osd: &Arc<dyn Osd>| format!("{}/{}", osd.claim().domain, osd.claim().node);
        let disk = |at: &usize| {
            let osd = &osds[*at];
            Disk { id: osd.id(), domain: number(&domain, osd), node: number(&node, osd) }
        };
        numbers.iter().map(disk).collect()
    }

    fn forget(&self, name: &str) {
        lock(&self.found).remove(name);
    }

    fn forget_below(&self, folder: &str) {
        let below = format!("{folder}/");
        lock(&self.found).retain(|name, _| !name.starts_with(&below));
        self.cache.forget_below(folder);
    }

    /// Asks many OSDs at the same time; the answers in the same order.
    fn ask_all(&self, jobs: Vec<(usize, Request)>) -> Vec<Result<Answer>> {
        self.ask_all_for(Class::Guest, jobs)
    }

    fn ask_all_for(&self, class: Class, jobs: Vec<(usize, Request)>) -> Vec<Result<Answer>> {
        let (sender, hear) = channel();
        let mut answers: Vec<Result<Answer>> = Vec::with_capacity(jobs.len());
        for (number, (osd, request)) in jobs.into_iter().enumerate() {
            answers.push(Err(request.error(Cause::Unanswered, "the OSD's client was stopped")));
            let sender = sender.clone();
            let reply = move |answer| drop(sender.send((number, answer)));
            self.osd(osd).start_for(class, request, Box::new(reply));
        }
        drop(sender);
        // Ends when the last reply was called or dropped.
        hear.iter().for_each(|(number, answer)| answers[number] = answer);
        answers
    }

    /// Asks every OSD that can be reached; the first error after all have answered.
    fn everywhere(&self, request: &Request) -> Result<()> {
        let osds = self.osds();
        let reachable = osds.iter().enumerate().filter(|(_, osd)| osd.reachable());
        let jobs = reachable.map(|(number, _)| (number, request.clone())).collect();
        self.ask_all(jobs).into_iter().try_for_each(|answer| answer.map(|_| ()))
    }
}

impl Backend for Cluster {
    fn put(&self, name: &str, fill: &mut dyn FnMut(&mut dyn Sink) -> Result<()>) -> Result<Put> {
        self.put_with(name, &self.preset, false, fill)
    }

    fn read(&self, name: &str, offset: u64, into: &mut [u8]) -> Result<()> {
        self.read_object(name, offset, into)
    }

    fn len(&self, name: &str) -> Result<Option<u64>> {
        Ok(self.find(name)?.map(|found| found.object_len()))
    }

    fn list(&self, folder: &str) -> Result<Vec<String>> {
        self.list_objects(folder)
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.forget(name);
        self.cache.forget_below(&format!("{name}{OBJECT}"));
        let done = self.delete_object(name);
        // Whoever looked meanwhile may have remembered what was still there.
        self.forget(name);
        done
    }

    fn delete_folder(&self, folder: &str) -> Result<()> {
        self.forget_below(folder);
        self.delete_objects(folder)
    }

    fn delete_log(&self, log: &str) -> Result<()> {
        self.forget_below(log);
        let done = self.delete_whole_log(log);
        self.forget_below(log);
        done
    }

    fn distrust(&self, name: &str) {
        self.forget(name);
        self.osds().iter().for_each(|osd| osd.distrust(name));
        self.cache.distrust(name);
    }

    fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    fn space(&self) -> Result<Option<Space>> {
        let reach = self.reach();
        let (Some(policy), _) = self.preset.choose(&self.disks(reach.up())) else {
            return Ok(Some(Space { total: 0, free: 0 }));
        };
        let layout = policy.layout();
        let share = |bytes: u64| bytes / layout.fragments() as u64 * layout.data() as u64;
        let (mut total, mut free) = (0, 0);
        // Folders on one disk have its room together.
        let up: Vec<_> = reach.up().iter().map(|osd| (*osd, self.osd(*osd).disk())).collect();
        let jobs = up.iter().map(|(osd, _)| (*osd, Request::Space)).collect();
        for ((_, disk), answer) in up.iter().zip(self.ask_all(jobs)) {
            let sharing = up.iter().filter(|(_, other)| disk.is_some() && other == disk).count();
            let sharing = sharing.max(1) as u64;
            // One that does not answer has no room at this moment.
            if let Ok(Answer::Space { total: all, free: left }) = answer {
                (total, free) = (total + all / sharing, free + left / sharing);
            }
        }
        Ok(Some(Space { total: share(total), free: share(free) }))
    }

    fn troubles(&self) -> Vec<BackendError> {
        let missing = self.missing.iter().map(|(_, why)| why.clone());
        let osds = self.osds();
        // Of those that leave it is told elsewhere how far they are.
        let members = osds.iter().filter(|osd| self.standing_of(osd.id()) == Standing::Member);
        let gone = members.filter_map(|osd| {
            let why = osd.trouble()?;
            Some(failed("reach", &osd.name(), why))
        });
        missing.chain(gone).collect()
    }

    fn sweep(&self, folder: &str) -> Result<()> {
        for name in self.every_name(folder, &self.reach())? {
            if let Some(object) = name.strip_suffix(OBJECT) {
                self.tidy(&format!("{folder}/{object}"))?;
            }
        }
        Ok(())
    }
}
