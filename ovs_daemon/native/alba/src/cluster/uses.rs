//! Records of use: on which disks acknowledged objects may lie.
//!
//! Before the first put with a policy on a set of disks, each of them gets a record that names all
//! of them. Whoever looks for an object later, while some are out of reach, learns from the others
//! whether those that are away could hold a whole acknowledged object.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use machines::alba::{Layout, Policy, mix, out_of_reach};
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
        let layout = policy.layout();
        let [k, m, domains, local, c] = [
            layout.data(),
            layout.parity(),
            layout.domains(),
            layout.local(),
            policy.acknowledge(),
        ]
        .map(|count| count as u8);
        let disk = |osd: &Arc<dyn Osd>| (osd.id(), osd.claim().domain.clone());
        Self { k, m, domains, local, c, disks: osds.map(disk).collect() }
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

    /// The disks that it names.
    pub(super) fn disks(&self) -> impl Iterator<Item = (u64, &str)> {
        self.disks.iter().map(|(id, domain)| (*id, domain.as_str()))
    }

    /// Whether those of its disks that are not in `up` could hold a whole acknowledged object.
    pub(super) fn hides(&self, up: &BTreeSet<u64>) -> bool {
        let mut away: BTreeMap<&str, usize> = BTreeMap::new();
        for (id, domain) in self.disks() {
            *away.entry(domain).or_default() += usize::from(!up.contains(&id));
        }
        let away: Vec<usize> = away.into_values().collect();
        let layout = Layout::new(self.k, self.m, self.domains, self.local);
        // A record that makes no sense warns of anything.
        layout.map_or(true, |layout| out_of_reach(&layout, &away) >= usize::from(self.c))
    }
}

impl Cluster {
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
