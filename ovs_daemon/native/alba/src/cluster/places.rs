//! The OSDs of a cluster: where they are, and opening them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use format::osd::{Claim, Role};
use machines::alba::{Courtesy, Standing};
use serde::de::Error;
use serde::{Deserialize, Deserializer};

use super::{Cluster, failed, lock, random_id};
use crate::folder::{FolderOsd, read_claim};
use crate::osd::{Answer, LocalOsd, Osd, Request, disk_id};
use crate::remote::{Fleet, Link, RemoteOsd};
use crate::{BackendError, Result};

/// How long opening waits for OSDs that do not answer.
const SETTLE: Duration = Duration::from_secs(3);

/// A folder that is an OSD.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OsdPlace {
    /// The folder.
    pub path: PathBuf,
    /// Name of its Domain.
    pub domain: String,
    /// Name of its node.
    pub node: String,
}

/// An OSD behind a server.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OsdAddress {
    /// Its number: a UUID.
    pub osd: String,
    /// Where its server listens.
    pub address: SocketAddr,
    /// Name of its Domain.
    pub domain: String,
    /// Name of its node.
    pub node: String,
    /// How it stands to the cluster.
    #[serde(default, deserialize_with = "standing")]
    pub standing: Standing,
}

fn standing<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Standing, D::Error> {
    let name = String::deserialize(from)?;
    Standing::named(&name).ok_or_else(|| D::Error::custom(format!("{name:?} is no standing")))
}

/// Where an OSD is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Place {
    /// In a folder of this host, which this process uses itself.
    Folder(OsdPlace),
    /// Behind a server.
    Server(OsdAddress),
}

impl OsdAddress {
    pub(super) fn claim(&self, cluster: [u8; 16], role: Role) -> Result<Claim> {
        let digits: String = self.osd.chars().filter(|c| *c != '-').collect();
        let number = u128::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 32);
        let number = number.ok_or_else(|| failed("use OSD", &self.osd, "it is no UUID"))?;
        let (domain, node) = (self.domain.clone(), self.node.clone());
        Ok(Claim { cluster, osd: number.to_be_bytes(), domain, node, role })
    }
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
        let claim = Claim { cluster, osd, domain, node, role: Role::Capacity };
        FolderOsd::claim(&place.path, &claim)?;
    }
    Ok(())
}

/// The folders that could be opened, and those that could not.
pub(super) type Opened = (Vec<Arc<dyn Osd>>, Vec<(PathBuf, BackendError)>);

/// Opens folders; new ones when none of them was ever used.
pub(super) fn open_folders(places: &[OsdPlace], reserve: u64) -> Result<Opened> {
    claim_all(places)?;
    let mut osds: Vec<Arc<dyn Osd>> = Vec::new();
    let mut missing = Vec::new();
    let mut first: Option<(String, [u8; 16])> = None;
    for place in places {
        let osd = match FolderOsd::open(&place.path, reserve) {
            Ok(osd) => osd,
            Err(why) => {
                missing.push((place.path.clone(), why));
                continue;
            }
        };
        let (claim, text) = (osd.claimed().clone(), place.path.display().to_string());
        if claim.role == Role::Cache {
            let why = format!("{text} was claimed for a cache, which keeps no objects");
            return Err(failed("open", "the cluster", why));
        }
        let (other, cluster) = first.get_or_insert_with(|| (text.clone(), claim.cluster));
        if claim.cluster != *cluster {
            let why = format!("{other} and {text} belong to different clusters");
            return Err(failed("open", "the cluster", why));
        }
        if (&claim.domain, &claim.node) != (&place.domain, &place.node) {
            let why = format!(
                "{text} was claimed for node {} of Domain {}, not for {} of {}",
                claim.node, claim.domain, place.node, place.domain
            );
            return Err(failed("open", "the cluster", why));
        }
        osds.push(Arc::new(LocalOsd::new(osd)));
    }
    if let (true, Some((_, why))) = (osds.is_empty(), missing.first()) {
        return Err(failed("open", "the cluster", why.to_string()));
    }
    Ok((osds, missing))
}

/// OSDs behind servers, by their numbers.
#[derive(Debug, Default)]
pub(super) struct Remotes {
    fleet: Option<Fleet>,
    known: BTreeMap<[u8; 16], Arc<RemoteOsd>>,
}

impl Remotes {
    pub(super) fn new(link: Option<Link>) -> Result<Self> {
        let failed = |e: std::io::Error| failed("start", "the client of OSDs", e.to_string());
        let fleet = link.map(Fleet::start_with_upkeep).transpose().map_err(failed)?;
        Ok(Self { fleet, known: BTreeMap::new() })
    }

    /// How the servers know who asks.
    pub(super) fn link(&self) -> Option<Link> {
        self.fleet.as_ref().map(|fleet| fleet.link().clone())
    }

    /// See [`Cluster::share`].
    fn share(&self) -> u32 {
        self.fleet.as_ref().map_or(Courtesy::WHOLE, Fleet::share)
    }

    /// Those that are new among these; the others may have moved.
    fn update(&mut self, addresses: &[OsdAddress]) -> Result<Vec<Arc<RemoteOsd>>> {
        let mut new = Vec::new();
        for place in addresses {
            let fleet = self.fleet.as_ref().ok_or_else(|| {
                failed(
                    "use OSD",
                    &place.osd,
                    "a cluster and its key are needed for a server's OSDs",
                )
            })?;
            let claim = place.claim(fleet.link().cluster, Role::Capacity)?;
            let asked = place.standing.is_asked();
            match self.known.get(&claim.osd) {
                Some(osd) => {
                    osd.move_to(place.address);
                    osd.engage(asked);
                }
                None if place.standing == Standing::Removed => {}
                None => {
                    let id = claim.osd;
                    let osd = Arc::new(fleet.add(claim, place.address));
                    osd.engage(asked);
                    self.known.insert(id, osd.clone());
                    new.push(osd);
                }
            }
        }
        let until = Instant::now() + SETTLE;
        new.iter().for_each(|osd| osd.settle(until));
        Ok(new)
    }
}

impl Cluster {
    /// The upkeep has moved something: how much of its budget it may use from now on, in parts of
    /// [`Courtesy::WHOLE`].
    pub fn share(&self) -> u32 {
        lock(&self.remotes).share()
    }

    /// Bytes in all and bytes that may still be stored of each OSD, by number; `None`: it does not
    /// say.
    pub fn rooms(&self) -> Vec<Option<(u64, u64)>> {
        self.rooms_of(&(0..self.osds().len()).collect::<Vec<_>>())
    }

    /// The same of some of them, in their order.
    pub(super) fn rooms_of(&self, osds: &[usize]) -> Vec<Option<(u64, u64)>> {
        let jobs = osds.iter().map(|osd| (*osd, Request::Space)).collect();
        let room = |answer| match answer {
            Ok(Answer::Space { total, free }) => Some((total, free)),
            _ => None,
        };
        self.ask_all(jobs).into_iter().map(room).collect()
    }

    /// Makes OSDs behind servers part of the cluster, and tells how those stand that are, and where
    /// they are by now. One of which nothing is told stays as it is: what is on it may be needed.
    /// What has been put when this returns, and was not acknowledged, counts nothing that an OSD
    /// answered which is lost.
    pub fn set_servers(&self, addresses: &[OsdAddress]) -> Result<()> {
        let mut changed = false;
        // First: nothing may be put on one that leaves between the two.
        for place in addresses {
            let id = disk_id(&place.claim([0; 16], Role::Capacity)?.osd);
            let before = lock(&self.standings).insert(id, place.standing);
            changed |= before.unwrap_or_default() != place.standing;
        }
        let new = lock(&self.remotes).update(addresses)?;
        if new.is_empty() && !changed {
            return Ok(());
        }
        {
            let mut osds = self.osds.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            osds.extend(new.into_iter().map(|osd| osd as Arc<dyn Osd>));
        }
        lock(&self.found).clear();
        self.learn_uses();
        Ok(())
    }
}
