//! Records of use: on which disks acknowledged objects may lie.
//!
//! Before the first put with a policy on a set of disks, each of them gets a record that names all
//! of them. Whoever looks for an object later, while some are out of reach, learns from the others
//! whether those that are away could hold a whole acknowledged object.
//!
//! A disk that was removed has nothing that anybody needs (`machines::alba::parting`). What it had
//! was stored on others of its Domain, which a record that names it need not name: such a record
//! stands for all disks of the cluster but those that were removed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use machines::alba::{Layout, Policy, Standing, mix, out_of_reach};
use serde::{Deserialize, Serialize};

use super::{Cluster, lock};
use crate::osd::{Osd, Request, USES, bytes_of, names_of};

/// See the top of the file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Use {
    k: u8,
    m: u8,
    domains: u8,
    local: u8,
    c: u8,
    /// Numbers of the disks with the names of their Domains.
    disks: BTreeMap<u64, String>,
}

impl Use {
    /// Of a policy on these OSDs.
    pub(super) fn of<'a>(policy: &Policy, osds: impl Iterator<Item = &'a Arc<dyn Osd>>) -> Self {
        let disk = |osd: &Arc<dyn Osd>| (osd.id(), osd.claim().domain.clone());
        let (c, disks) = (policy.acknowledge() as u8, osds.map(disk).collect());
        Self { c, disks, ..Self::of_layout(policy.layout()) }
    }

    /// Of none.
    fn of_layout(layout: &Layout) -> Self {
        let [k, m, domains, local] =
            [layout.data(), layout.parity(), layout.domains(), layout.local()]
                .map(|count| count as u8);
        Self { k, m, domains, local, c: 0, disks: BTreeMap::new() }
    }

    /// What it says.
    fn text(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain data")
    }

    /// The name of its record: others have others.
    fn name(&self) -> String {
        let hash = self.text().iter().fold(0, |hash, byte| mix(hash ^ u64::from(*byte)));
        format!("{hash:016x}")
    }

    /// Storing it.
    pub(super) fn put(&self) -> Request {
        Request::PutRecord { name: self.name(), text: self.text() }
    }

    /// The disks on which objects of this use may lie.
    fn disks<'a>(&'a self, census: &'a Census) -> BTreeMap<u64, &'a str> {
        let named = self.disks.iter().map(|(id, domain)| (*id, domain.as_str()));
        if !self.disks.keys().any(|id| census.removed.contains(id)) {
            return named.collect();
        }
        let members = census.members.iter().map(|(id, domain)| (*id, domain.as_str()));
        named.chain(members).filter(|(id, _)| !census.removed.contains(id)).collect()
    }

    /// Whether these disks could hold so many fragments of a piece as `enough` says.
    fn hides(&self, away: &[usize], enough: Enough) -> bool {
        let layout = Layout::new(self.k, self.m, self.domains, self.local);
        let enough = match enough {
            Enough::Acknowledged => self.c,
            Enough::Readable => self.k,
        };
        // A record that makes no sense warns of anything.
        layout.map_or(true, |layout| out_of_reach(&layout, away) >= usize::from(enough))
    }
}

/// How many fragments of a piece it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Enough {
    /// For an object that was acknowledged.
    Acknowledged,
    /// For one that can be read.
    Readable,
}

/// Disks by number, with their Domains.
#[derive(Debug, Default)]
struct Census {
    members: BTreeMap<u64, String>,
    removed: BTreeSet<u64>,
}

/// How many of the disks of each Domain are not in `up`.
fn away_of<'a>(disks: impl IntoIterator<Item = (u64, &'a str)>, up: &BTreeSet<u64>) -> Vec<usize> {
    let mut away: BTreeMap<&str, usize> = BTreeMap::new();
    for (id, domain) in disks {
        *away.entry(domain).or_default() += usize::from(!up.contains(&id));
    }
    away.into_values().collect()
}

impl Cluster {
    fn census(&self) -> Census {
        let mut census = Census::default();
        for osd in self.osds() {
            let id = osd.id();
            if self.standing_of(id) != Standing::Removed {
                census.members.insert(id, osd.claim().domain.clone());
            }
        }
        let standings = lock(&self.standings);
        let removed = standings.iter().filter(|(_, one)| **one == Standing::Removed);
        census.removed.extend(removed.map(|(id, _)| *id));
        census
    }

    /// How many OSDs belong to the cluster, whether they can be reached or not.
    pub(super) fn size(&self) -> usize {
        self.census().members.len() + self.missing.len()
    }

    /// How many disks of each Domain are not among these: of those that records of use stand for, and
    /// of these `late` ones.
    pub(super) fn away(&self, up: &[usize], late: &[usize]) -> Vec<usize> {
        let osds = self.osds();
        let ids: BTreeSet<u64> = up.iter().map(|osd| osds[*osd].id()).collect();
        let census = self.census();
        let uses = lock(&self.uses);
        let mut known: BTreeMap<u64, &str> =
            uses.iter().flat_map(|one| one.disks(&census)).collect();
        known.extend(late.iter().map(|osd| (osds[*osd].id(), &*osds[*osd].claim().domain)));
        away_of(known, &ids)
    }

    /// Whether the disks that are not among these could hold a whole acknowledged object of which
    /// nothing is seen: as far as records of use tell, or because too few are there that could have
    /// such records, or because several of those that are away are named by none. (Two disks at least
    /// have fragments of an acknowledged object.)
    pub(super) fn hides(&self, up: &[usize]) -> bool {
        self.could_hide(up, &|_| true, Enough::Acknowledged)
    }

    /// The same of an object that can be read when they are back, those that are lost excepted.
    pub(super) fn hides_for_good(&self, up: &[usize]) -> bool {
        self.could_hide(up, &|id| self.standing_of(id) != Standing::Lost, Enough::Readable)
    }

    fn could_hide(&self, up: &[usize], counts: &dyn Fn(u64) -> bool, enough: Enough) -> bool {
        let census = self.census();
        let osds = self.osds();
        let ids: BTreeSet<u64> = up.iter().map(|osd| osds[*osd].id()).collect();
        let all: BTreeSet<u64> = census.members.keys().copied().filter(|id| counts(*id)).collect();
        let uses = lock(&self.uses);
        let mut named: BTreeSet<u64> = BTreeSet::new();
        let mut hidden = false;
        for one in uses.iter() {
            let mut disks = one.disks(&census);
            disks.retain(|id, _| counts(*id));
            named.extend(disks.keys());
            hidden |= one.hides(&away_of(disks, &ids), enough);
        }
        let unnamed = all.difference(&ids).filter(|id| !named.contains(id)).count();
        // Of a folder that could not be opened the number is not known.
        let unopened = self.missing.len().saturating_sub(named.difference(&all).count());
        up.is_empty()
            || 2 * up.len() < all.len() + self.missing.len()
            || unnamed + unopened > 1
            || hidden
    }

    /// Tells OSDs of a new use, and of all earlier ones, since some may be new themselves; those that
    /// cannot be told are left out.
    pub(super) fn tell_uses(&self, up: &mut Vec<usize>, new: &Use) {
        let mut all: Vec<Use> = lock(&self.uses).iter().cloned().collect();
        all.push(new.clone());
        for one in &all {
            let answers = self.ask_all(up.iter().map(|osd| (*osd, one.put())).collect());
            let mut told = answers.into_iter().map(|answer| answer.is_ok());
            up.retain(|_| told.next().unwrap_or(false));
        }
    }

    /// Before fragments of a put are stored on OSDs that were not among those it was put on: tells
    /// them, and all others that can be told, that objects of its policy may lie on any. Whether all of
    /// these know it now, and half of all.
    pub(super) fn tell_of<'a>(
        &self,
        layout: &Layout,
        acknowledge: u8,
        targets: impl Iterator<Item = &'a usize>,
    ) -> bool {
        let targets: Vec<u64> = targets.map(|osd| self.osd(*osd).id()).collect();
        let disks = self.census().members;
        let one = Use { c: acknowledge, disks, ..Use::of_layout(layout) };
        if let Some(told) = lock(&self.told_of).get(&one)
            && targets.iter().all(|id| told.contains(id))
        {
            return true;
        }
        let mut up: Vec<usize> = self.reach().up().to_vec();
        self.tell_uses(&mut up, &one);
        let told: BTreeSet<u64> = up.iter().map(|osd| self.osd(*osd).id()).collect();
        if 2 * told.len() < self.size() || !targets.iter().all(|id| told.contains(id)) {
            return false;
        }
        lock(&self.uses).insert(one.clone());
        lock(&self.told_of).insert(one, told);
        true
    }

    /// Reads the records of use of the OSDs that can be reached and were not read yet, and of those
    /// that have new ones.
    pub(super) fn learn_uses(&self) {
        let osds = self.osds();
        let up: Vec<usize> = (0..osds.len()).filter(|osd| osds[*osd].reachable()).collect();
        let known: BTreeSet<String> = lock(&self.uses).iter().map(Use::name).collect();
        let folder = Request::Names { folder: USES.to_owned() };
        let listed = self.ask_all(up.iter().map(|osd| (*osd, folder.clone())).collect());
        let mut unread: BTreeMap<String, usize> = BTreeMap::new();
        let mut whole = BTreeSet::new();
        for (osd, names) in up.into_iter().zip(listed) {
            let Ok(names) = names_of(names) else { continue };
            whole.insert(osd);
            let new = names.into_iter().filter(|name| !known.contains(name));
            unread.extend(new.map(|name| (name, osd)));
        }
        let jobs = unread.iter().map(|(name, osd)| (*osd, Request::Record { name: name.clone() }));
        let texts = self.ask_all(jobs.collect());
        for ((_, osd), text) in unread.iter().zip(texts) {
            match bytes_of(text).ok().and_then(|text| serde_json::from_slice(&text).ok()) {
                Some(one) => drop(lock(&self.uses).insert(one)),
                // It may say anything: what this OSD knows is not known here.
                None => drop(whole.remove(osd)),
            }
        }
        *lock(&self.read) = whole;
    }
}
