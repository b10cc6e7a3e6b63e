//! OSDs that leave the cluster: what they have that nobody else has, and their seals (see
//! `machines::alba::parting`).

use std::collections::BTreeSet;
use std::sync::Arc;

use format::fragment::FragmentName;
use machines::alba::{Standing, Verdict, is_deleted, keeps};

use super::{Cluster, failed};
use crate::Result;
use crate::osd::{Osd, Request, SEAL, USES, disk_id, is_mark_name};

use super::mend::object_of;

impl Cluster {
    /// How an OSD stands.
    pub fn stands(&self, osd: &[u8; 16]) -> Standing {
        self.standing_of(disk_id(osd))
    }

    /// OSDs that leave, or are lost, and how they stand.
    pub fn parting(&self) -> Vec<(Arc<dyn Osd>, Standing)> {
        let all = self.osds().into_iter().map(|osd| {
            let standing = self.standing_of(osd.id());
            (osd, standing)
        });
        all.filter(|(_, one)| !matches!(one, Standing::Member | Standing::Removed)).collect()
    }

    fn number_of(&self, osd: &[u8; 16]) -> Result<usize> {
        let found = self.osds().iter().position(|one| one.claim().osd == *osd);
        found.ok_or_else(|| failed("find", "an OSD", "it is not known here"))
    }

    /// Has an OSD note that it stores no fragment any more.
    pub fn seal(&self, osd: &[u8; 16]) -> Result<()> {
        let osd = self.osd(self.number_of(osd)?);
        let text = b"it leaves the cluster\n".to_vec();
        osd.call(Request::PutRecord { name: SEAL.to_owned(), text })?;
        // A server of an earlier release takes it for a record of use, which seals nothing.
        if osd.names(USES)?.iter().any(|name| name == SEAL) {
            return Err(failed("seal", &osd.name(), "its server is of an earlier release"));
        }
        Ok(())
    }

    /// How many fragments an OSD has that no OSD has which stays. `go_on` is asked after each object;
    /// `None`: it said no.
    pub fn alone_on(&self, osd: &[u8; 16], go_on: &mut dyn FnMut() -> bool) -> Result<Option<u64>> {
        let mut alone = 0;
        let all = self.alone_below(self.number_of(osd)?, "", &mut alone, go_on)?;
        Ok(all.then_some(alone))
    }

    /// Whether no OSD that stays has the mark of a log. Upkeep tells others of it.
    fn alone_marked(&self, osd: usize, folder: &str, mark: &str) -> Result<bool> {
        for other in (0..self.osds().len()).filter(|other| *other != osd) {
            let asked = self.standing(other) == Standing::Member && self.osd(other).reachable();
            if asked && self.osd(other).names(folder)?.iter().any(|name| name == mark) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn alone_below(
        &self,
        osd: usize,
        folder: &str,
        alone: &mut u64,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<bool> {
        for name in self.osd(osd).names(folder)? {
            let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
            if path == USES {
                continue;
            }
            if is_mark_name(&name) {
                *alone += u64::from(self.alone_marked(osd, folder, &name)?);
                continue;
            }
            let Some(object) = object_of(&path) else {
                if !self.alone_below(osd, &path, alone, go_on)? {
                    return Ok(false);
                }
                continue;
            };
            let here = self.osd(osd).fragments(object)?;
            let (verdict, sighting, _) = self.judge(object);
            let stays = |osd: usize| self.standing(osd) == Standing::Member;
            let deleted = sighting.deleted();
            let marked = sighting
                .marks
                .values()
                .filter(|on| on.contains(&osd) && !on.iter().any(|other| stays(*other)));
            // Upkeep marks others as well.
            *alone += marked.count() as u64;
            let elsewhere: BTreeSet<FragmentName> = sighting
                .fragments
                .into_iter()
                .filter(|(_, osd)| stays(*osd))
                .map(|(one, _)| one)
                .collect();
            let stored = matches!(verdict, Verdict::Stored(_));
            let needed = |one: &FragmentName| !is_deleted(one.generation, &deleted);
            let mine =
                here.iter().filter(|one| keeps(stored) && needed(one) && !elsewhere.contains(one));
            *alone += mine.count() as u64;
            if !go_on() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
