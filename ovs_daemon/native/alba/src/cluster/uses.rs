//! Records of use: on which disks acknowledged objects may lie.
//!
//! Before the first put with a policy on a set of disks, each of them gets a record that names all
//! of them. Whoever looks for an object later, while some are out of reach, learns from the others
//! whether those that are away could hold a whole acknowledged object.

use std::collections::{BTreeMap, BTreeSet};

use machines::alba::{Layout, Policy, mix, out_of_reach};
use serde::{Deserialize, Serialize};

use crate::osd::{Osd, USES, disk_id};
use crate::{Backend, Result};

use super::failed;

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
    pub(super) fn of<'a>(policy: &Policy, osds: impl Iterator<Item = &'a Osd>) -> Self {
        let layout = policy.layout();
        let [k, m, domains, local, c] = [
            layout.data(),
            layout.parity(),
            layout.domains(),
            layout.local(),
            policy.acknowledge(),
        ]
        .map(|count| count as u8);
        let disk = |osd: &Osd| (disk_id(&osd.claimed().osd), osd.claimed().domain.clone());
        Self { k, m, domains, local, c, disks: osds.map(disk).collect() }
    }

    /// Those on an OSD.
    pub(super) fn read_all(osd: &Osd) -> Result<BTreeSet<Self>> {
        let mut uses = BTreeSet::new();
        for name in osd.store().list(USES)? {
            let path = format!("{USES}/{name}");
            let mut text = vec![0; osd.store().len(&path)?.unwrap_or(0) as usize];
            osd.store().read(&path, 0, &mut text)?;
            let one: Self = serde_json::from_slice(&text)
                .map_err(|e| failed("read", &path, format!("it is no record of use: {e}")))?;
            uses.insert(one);
        }
        Ok(uses)
    }

    /// Stores it on an OSD.
    pub(super) fn write(&self, osd: &Osd) -> Result<()> {
        let text = serde_json::to_vec(self).expect("plain data");
        let hash = text.iter().fold(0, |hash, byte| mix(hash ^ u64::from(*byte)));
        osd.store().put(&format!("{USES}/{hash:016x}"), &mut |sink| sink.write(&text)).map(|_| ())
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
