//! The erasure-coded backend: objects as fragments on OSDs of several Domains.
//!
//! Nothing central knows where objects are. An object is found by looking on the OSDs, and whether
//! it is stored is judged by what is seen there (`machines::alba::verdict`): a put that was cut off
//! leaves fragments that are never taken for an object, and with OSDs out of reach an object that
//! was acknowledged is never taken for absent.

mod find;
mod put;
mod read;
mod repair;
mod stored;
#[cfg(test)]
mod tests;
mod uses;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use format::osd::Claim;
use machines::alba::{Disk, Layout};
use serde::Deserialize;

use crate::code::Codec;
use crate::osd::{OBJECT, Osd, read_claim};
use crate::preset::Preset;
use crate::{Backend, BackendError, Cause, Put, Result, Sink, Space};
use find::Found;
pub use repair::Repaired;
pub use stored::Stored;
use uses::Use;

/// Objects whose places are remembered.
const FOUND_MAX: usize = 4096;

/// A folder that is an OSD.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OsdPlace {
    /// The folder.
    pub path: PathBuf,
    /// Name of its Domain.
    pub domain: String,
    /// Name of its node.
    pub node: String,
}

/// See the top of the file.
#[derive(Debug)]
pub struct Cluster {
    osds: Vec<Osd>,
    preset: Preset,
    codecs: Mutex<BTreeMap<Layout, Arc<Codec>>>,
    found: Mutex<BTreeMap<String, Arc<Found>>>,
    uses: Mutex<BTreeSet<Use>>,
    /// The OSDs that could not be opened, and why.
    missing: Vec<(PathBuf, BackendError)>,
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

/// Claims folders for a new cluster. Once any of them is claimed nothing is claimed any more: a
/// folder without a claim is then a disk that was emptied or is not mounted.
fn claim_all(places: &[OsdPlace]) -> Result<()> {
    for place in places {
        if read_claim(&place.path)?.is_some() {
            return Ok(());
        }
    }
    let failed = |e: std::io::Error| failed("make", "a cluster", e.to_string());
    let cluster = random_id().map_err(failed)?;
    for place in places {
        let (domain, node) = (place.domain.clone(), place.node.clone());
        let osd = random_id().map_err(failed)?;
        Osd::claim(&place.path, &Claim { cluster, osd, domain, node })?;
    }
    Ok(())
}

impl Cluster {
    /// The cluster on these folders; a new one when none of them was ever used. `reserve`: bytes
    /// that stay free on each disk. Fails when OSDs belong to different clusters, and when there are
    /// too few for any policy of the preset.
    pub fn open(places: &[OsdPlace], preset: Preset, reserve: u64) -> Result<Self> {
        claim_all(places)?;
        let mut osds: Vec<Osd> = Vec::new();
        let mut missing = Vec::new();
        for place in places {
            match Osd::open(&place.path, reserve) {
                Ok(osd) => osds.push(osd),
                Err(why) => missing.push((place.path.clone(), why)),
            }
        }
        let text = |osd: &Osd| osd.path().display().to_string();
        let Some(first) = osds.first() else {
            let why = missing.first().map_or("no OSD is given".to_owned(), |(_, e)| e.to_string());
            return Err(failed("open", "the cluster", why));
        };
        for (osd, place) in osds
            .iter()
            .zip(places.iter().filter(|place| missing.iter().all(|(path, _)| *path != place.path)))
        {
            let claim = osd.claimed();
            if claim.cluster != first.claimed().cluster {
                let why = format!("{} and {} belong to different clusters", text(first), text(osd));
                return Err(failed("open", "the cluster", why));
            }
            if (&claim.domain, &claim.node) != (&place.domain, &place.node) {
                let why = format!(
                    "{} was claimed for node {} of Domain {}, not for {} of {}",
                    text(osd),
                    claim.node,
                    claim.domain,
                    place.node,
                    place.domain
                );
                return Err(failed("open", "the cluster", why));
            }
        }
        let mut uses = BTreeSet::new();
        for osd in &osds {
            uses.extend(Use::read_all(osd)?);
        }
        let cluster = Self {
            osds,
            preset,
            codecs: Mutex::default(),
            found: Mutex::default(),
            uses: Mutex::new(uses),
            missing,
        };
        let all: Vec<usize> = (0..cluster.osds.len()).collect();
        if let (None, shortages) = cluster.preset.choose(&cluster.disks(&all)) {
            let why: Vec<String> = shortages.iter().map(ToString::to_string).collect();
            let why =
                format!("no policy of preset {} fits: {}", cluster.preset.name, why.join("; "));
            return Err(failed("open", "the cluster", why));
        }
        Ok(cluster)
    }

    /// The OSDs that could not be opened, and why.
    pub fn missing(&self) -> &[(PathBuf, BackendError)] {
        &self.missing
    }

    fn codec(&self, layout: Layout) -> Arc<Codec> {
        let mut codecs = lock(&self.codecs);
        codecs.entry(layout).or_insert_with(|| Arc::new(Codec::new(layout))).clone()
    }

    /// These OSDs as placement knows them.
    fn disks(&self, osds: &[usize]) -> Vec<Disk> {
        let number = |name: &dyn Fn(&Osd) -> String, osd: &Osd| {
            let mine = name(osd);
            // Of equal names the first one's place: the same for all that bear it.
            self.osds.iter().position(|other| name(other) == mine).unwrap_or(0) as u32
        };
        let domain = |osd: &Osd| osd.claimed().domain.clone();
        let node = |osd: &Osd| format!("{}/{}", osd.claimed().domain, osd.claimed().node);
        let disk = |osd: &usize| {
            let osd = &self.osds[*osd];
            Disk { id: osd.id(), domain: number(&domain, osd), node: number(&node, osd) }
        };
        osds.iter().map(disk).collect()
    }

    fn forget(&self, name: &str) {
        lock(&self.found).remove(name);
    }

    /// Calls `work` for every OSD that can be reached; the first error after all were tried.
    fn everywhere(&self, work: impl Fn(&Osd) -> Result<()>) -> Result<()> {
        let reachable = self.osds.iter().filter(|osd| osd.reachable());
        let outcomes: Vec<Result<()>> = reachable.map(work).collect();
        outcomes.into_iter().collect()
    }
}

impl Backend for Cluster {
    fn put(&self, name: &str, fill: &mut dyn FnMut(&mut dyn Sink) -> Result<()>) -> Result<Put> {
        self.put_object(name, &self.preset, false, fill)
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
        self.everywhere(|osd| osd.delete_object(name))
    }

    fn delete_folder(&self, folder: &str) -> Result<()> {
        let below = format!("{folder}/");
        lock(&self.found).retain(|name, _| !name.starts_with(&below));
        self.everywhere(|osd| osd.store().delete_folder(folder))
    }

    fn distrust(&self, name: &str) {
        self.forget(name);
        for osd in &self.osds {
            osd.distrust(name);
        }
    }

    fn space(&self) -> Result<Option<Space>> {
        let reach = self.reach();
        let (Some(policy), _) = self.preset.choose(&self.disks(reach.up())) else {
            return Ok(Some(Space { total: 0, free: 0 }));
        };
        let layout = policy.layout();
        let share = |bytes: u64| bytes / layout.fragments() as u64 * layout.data() as u64;
        let (mut total, mut free) = (0, 0);
        for osd in reach.up() {
            let (all, left) = self.osds[*osd].space()?;
            (total, free) = (total + all, free + left);
        }
        Ok(Some(Space { total: share(total), free: share(free) }))
    }

    fn troubles(&self) -> Vec<BackendError> {
        let missing = self.missing.iter().map(|(_, why)| why.clone());
        let gone = self.osds.iter().filter(|osd| !osd.reachable()).map(|osd| {
            failed("reach", &osd.path().display().to_string(), "its claim is gone or another one")
        });
        missing.chain(gone).collect()
    }

    fn sweep(&self, folder: &str) -> Result<()> {
        for name in self.every_name(folder, &self.reach())? {
            if let Some(object) = name.strip_suffix(OBJECT) {
                let object = format!("{folder}/{object}");
                self.everywhere(|osd| osd.sweep(&object))?;
                self.remove_leftovers(&object)?;
            }
        }
        Ok(())
    }
}
