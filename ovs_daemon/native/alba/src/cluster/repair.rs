//! Repair: missing fragments are computed again, inside their Domain where that is possible, and
//! stored in the Domain of their group.

use machines::alba::{Policy, Set, Standing, refill};

use crate::pieces::{Fragment, Label};
use crate::{Backend, Result};

use super::Cluster;
use super::find::Found;
use super::put::Enough;
use super::read::Range;
use crate::osd::{OBJECT, USES};

/// What a repair did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Objects that were looked at.
    pub objects: usize,
    /// Fragments that were computed and stored.
    pub fragments: usize,
    /// Fragments that are still missing: there is no disk for them, or it failed.
    pub missing: usize,
    /// Objects that cannot be computed, or of which it cannot be told.
    pub lost: usize,
    /// Bytes that were read from other Domains than that of the fragment.
    pub bytes_between_domains: u64,
}

impl Repaired {
    fn add(&mut self, other: Self) {
        self.objects += other.objects;
        self.fragments += other.fragments;
        self.missing += other.missing;
        self.lost += other.lost;
        self.bytes_between_domains += other.bytes_between_domains;
    }
}

impl Cluster {
    /// Repairs every object below a folder; "" is everything.
    pub fn repair(&self, folder: &str) -> Result<Repaired> {
        let mut total = Repaired::default();
        for name in self.every_name(folder, &self.reach())? {
            let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
            if let Some(object) = path.strip_suffix(OBJECT) {
                total.add(self.repair_object(object).unwrap_or_else(|_| Repaired {
                    objects: 1,
                    lost: usize::from(self.len(object).is_err()),
                    ..Repaired::default()
                }));
            } else if path != USES {
                total.add(self.repair(&path)?);
            }
        }
        Ok(total)
    }

    /// Computes the fragments of an object that are missing, and stores them on disks that have none
    /// of the same piece.
    pub fn repair_object(&self, name: &str) -> Result<Repaired> {
        self.forget(name);
        let found = self.must_find(name)?;
        let mut total = Repaired { objects: 1, ..Repaired::default() };
        for piece in 0..found.cut.pieces() {
            total.add(self.repair_piece(name, &found, piece)?);
        }
        self.forget(name);
        Ok(total)
    }

    fn repair_piece(&self, name: &str, found: &Found, piece: u32) -> Result<Repaired> {
        let layout = found.layout;
        let missing: Set = layout.all() & !found.present(piece);
        let mut done = Repaired { missing: missing.count_ones() as usize, ..Repaired::default() };
        if missing == 0 {
            return Ok(done);
        }
        // x is the preset's matter; for a policy that it has no more, what loses no data will do.
        let most = layout.parity().max(layout.local()) as u8;
        let known = self.preset.policies.iter().find(|policy| *policy.layout() == layout);
        let node_max = known.map_or(most, |policy| policy.node_max() as u8);
        let Ok(policy) = Policy::new(layout, found.acknowledge(), node_max) else {
            return Ok(done);
        };
        let up = self.reach().up().to_vec();
        let len = found.cut.fragment_len();
        let with_room = self.roomy(&up, 2 * len);
        let fits = |osd: &usize| {
            let holds = (0..layout.fragments()).any(|one| found.osd(piece, one) == Some(*osd));
            holds || with_room.contains(osd) && self.standing(*osd) == Standing::Member
        };
        let candidates: Vec<usize> = up.into_iter().filter(fits).collect();
        let place = |one| {
            let osd = found.osd(piece, one)?;
            candidates.iter().position(|other| *other == osd)
        };
        let placed: Vec<Option<usize>> = (0..layout.fragments()).map(place).collect();
        let targets = refill(&policy, &self.disks(&candidates), &placed, u64::from(piece));
        let wanted = targets.iter().fold(0, |set: Set, (fragment, _)| set | 1 << fragment);
        let mut have: Vec<Option<Vec<u8>>> = vec![None; layout.fragments()];
        if wanted != 0 {
            let range = Range { piece, start: 0, len: len as usize };
            have = self.gather(name, found, range, wanted, false)?;
        }
        done.bytes_between_domains = self.crossing(found, piece, wanted, &have);
        let label = Label {
            object: name,
            object_len: found.object_len(),
            acknowledge: found.acknowledge(),
            generation: found.seen.generation,
            sealed: found.sealed,
        };
        let codec = self.codec(layout);
        let extent = (piece, found.cut.piece_at(piece), found.cut.piece_len(piece));
        let fragments: Vec<(usize, Fragment)> = targets
            .iter()
            .filter_map(|(number, disk)| {
                let payload = have[*number].take()?;
                Some((candidates[*disk], label.fragment(&codec, extent, *number, payload)))
            })
            .collect();
        let enough = Enough { of: fragments.len(), are: fragments.len() };
        let outcomes = self.store_all(name, fragments, enough);
        let stored = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        done.fragments = stored;
        done.missing -= stored;
        Ok(done)
    }

    /// Bytes that were read for a repair from other Domains than those of the wanted fragments.
    fn crossing(&self, found: &Found, piece: u32, wanted: Set, have: &[Option<Vec<u8>>]) -> u64 {
        let layout = found.layout;
        let groups: Vec<usize> =
            (0..layout.domains()).filter(|g| wanted & layout.group_set(*g) != 0).collect();
        let read = (0..layout.fragments())
            .filter(|one| have[*one].is_some() && found.present(piece) & 1 << one != 0);
        // One wanted group's reads from itself stay inside; any other read leaves a Domain.
        let crossing = read.filter(|one| {
            groups.len() != 1 && !groups.contains(&layout.group_of(*one))
                || groups.len() == 1 && layout.group_of(*one) != groups[0]
        });
        crossing.count() as u64 * found.cut.fragment_len()
    }
}
