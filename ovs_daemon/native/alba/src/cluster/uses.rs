//! Records of use: on which disks acknowledged objects may lie.
//!
//! Before the first put with a policy on a set of disks, each of them gets a record that names all
//! of them. Whoever looks for an object later, while some are out of reach, learns from the others
//! whether those that are away could hold a whole acknowledged object.
//!
//! A disk that was removed has nothing that anybody needs (`machines::alba::parting`). What it had
//! was stored on others of its Domain, which a record that names it need not name: such a record
//! stands for all disks of the cluster but those that were removed.
//!
//! So that there are few, a record names what earlier ones of its policy name as well: with a disk away
//! nothing is said that was not said before, and the disk needs only be one of those that were told.
//! Whoever reads it is warned of no less: a record of more disks hides an object wherever one of fewer
//! does, and no disk is named that no record named before.
//!
//! A record is deleted from a disk only when the disk has said that it has another one for good which
//! covers it: which warns of all that it warns of. So each disk warns of no less than before, whoever
//! dies in between, and however late a delete is done: what covers a record goes only when something has
//! come that covers both. Who finds that a record is gone that he was to read looks again: by then there
//! is what covers it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use machines::alba::{Layout, Policy, Standing, mix, out_of_reach};
use serde::{Deserialize, Serialize};

use super::{Cluster, lock};
use crate::Cause;
use crate::osd::{Osd, Request, USES, bytes_of, names_of, use_path};

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
    /// Of a policy on these OSDs alone.
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

    /// Whether they are of one layout.
    fn is_like(&self, other: &Self) -> bool {
        let layout = |one: &Self| (one.k, one.m, one.domains, one.local);
        layout(self) == layout(other)
    }

    /// Whether it warns of everything that another one warns of, whoever reads them and whichever disks
    /// were removed by then: of as many fragments or fewer, on the same disks and others.
    fn covers(&self, other: &Self) -> bool {
        let names = |(id, domain): (&u64, &String)| self.disks.get(id) == Some(domain);
        self.is_like(other) && self.c <= other.c && other.disks.iter().all(names)
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

/// Records that OSDs are told at a time: a disk stores each for good before it has the next one.
const TELL: usize = 16;

/// How often it is looked what there is to be read where records were deleted meanwhile.
const LOOKS: usize = 3;

/// Those that no other one covers.
fn largest(mut all: Vec<Use>) -> Vec<Use> {
    // Whatever covers one comes before it.
    all.sort_unstable_by_key(|one| (Reverse(one.disks.len()), one.c));
    let mut kept: Vec<Use> = Vec::new();
    for one in all {
        if !kept.iter().any(|other| other.covers(&one)) {
            kept.push(one);
        }
    }
    kept
}

impl Cluster {
    /// Of a policy on these OSDs, and on all disks that records of it name already.
    pub(super) fn use_on(&self, policy: &Policy, on: &[usize]) -> Use {
        let (osds, census) = (self.osds(), self.census());
        let mut new = Use::of(policy, on.iter().map(|osd| &osds[*osd]));
        let mut named: BTreeMap<u64, String> = BTreeMap::new();
        for one in lock(&self.uses).iter().filter(|one| one.is_like(&new) && one.c == new.c) {
            let stay = one.disks.iter().filter(|(id, _)| !census.removed.contains(id));
            named.extend(stay.map(|(id, domain)| (*id, domain.clone())));
        }
        named.append(&mut new.disks);
        Use { disks: named, ..new }
    }

    /// Whether this process has told these OSDs of a use, and half of all.
    pub(super) fn is_told(&self, one: &Use, targets: &[usize]) -> bool {
        let (members, size) = (self.census().members, self.size());
        let targets: Vec<u64> = targets.iter().map(|osd| self.osd(*osd).id()).collect();
        lock(&self.told).get(one).is_some_and(|told| {
            let count = told.iter().filter(|id| members.contains_key(id)).count();
            2 * count >= size && targets.iter().all(|id| told.contains(id))
        })
    }

    /// They have been told.
    pub(super) fn have_told(&self, one: Use, up: &[usize]) {
        let ids: Vec<u64> = up.iter().map(|osd| self.osd(*osd).id()).collect();
        lock(&self.uses).insert(one.clone());
        lock(&self.told).entry(one).or_default().extend(ids);
    }

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

    /// Tells OSDs of a new use, and of all earlier ones that none covers, since some may be new
    /// themselves; those that cannot be told are left out. Of the others those go that are covered.
    pub(super) fn tell_uses(&self, up: &mut Vec<usize>, new: &Use) {
        let mut all: Vec<Use> = lock(&self.uses).iter().cloned().collect();
        all.push(new.clone());
        let kept = largest(all.clone());
        for some in kept.chunks(TELL) {
            let jobs = up.iter().flat_map(|osd| some.iter().map(|one| (*osd, one.put())));
            let answers: Vec<bool> =
                self.ask_all(jobs.collect()).iter().map(|answer| answer.is_ok()).collect();
            let mut told = answers.chunks(some.len());
            up.retain(|_| told.next().is_some_and(|all| all.iter().all(|stored| *stored)));
        }
        self.delete_covered(up, &all, &kept);
    }

    /// Deletes records from OSDs that have for good what covers them. What is not deleted, because an
    /// OSD fails or is of an earlier release, says nothing new, and goes when others are told.
    fn delete_covered(&self, on: &[usize], all: &[Use], kept: &[Use]) {
        let stay: BTreeSet<String> = kept.iter().map(Use::name).collect();
        let mut covered: BTreeSet<String> = all.iter().map(Use::name).collect();
        covered.retain(|name| !stay.contains(name));
        if covered.is_empty() {
            return;
        }
        let folder = Request::Names { folder: USES.to_owned() };
        let listed = self.ask_all(on.iter().map(|osd| (*osd, folder.clone())).collect());
        let mut jobs = Vec::new();
        for (osd, names) in on.iter().zip(listed) {
            let names = names_of(names).unwrap_or_default().into_iter();
            let goes = names.filter(|name| covered.contains(name));
            jobs.extend(goes.map(|name| (*osd, Request::Delete { path: use_path(&name) })));
        }
        while !jobs.is_empty() {
            let some = jobs.split_off(jobs.len().saturating_sub(TELL * on.len()));
            drop(self.ask_all(some));
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
        let targets: Vec<usize> = targets.copied().collect();
        let disks = self.census().members;
        let one = Use { c: acknowledge, disks, ..Use::of_layout(layout) };
        if self.is_told(&one, &targets) {
            return true;
        }
        let mut up: Vec<usize> = self.reach().up().to_vec();
        self.tell_uses(&mut up, &one);
        if 2 * up.len() < self.size() || !targets.iter().all(|osd| up.contains(osd)) {
            return false;
        }
        self.have_told(one, &up);
        true
    }

    /// Reads the records of use of the OSDs that can be reached and were not read yet, and of those
    /// that have new ones.
    pub(super) fn learn_uses(&self) {
        for look in 1..=LOOKS {
            let (whole, gone) = self.learn_once();
            if !gone || look == LOOKS {
                *lock(&self.read) = whole;
                return;
            }
        }
    }

    /// The OSDs of which all records are known now, and whether others were deleted meanwhile.
    fn learn_once(&self) -> (BTreeSet<usize>, bool) {
        let osds = self.osds();
        let up: Vec<usize> = (0..osds.len()).filter(|osd| osds[*osd].reachable()).collect();
        let known: BTreeSet<String> = lock(&self.uses).iter().map(Use::name).collect();
        let folder = Request::Names { folder: USES.to_owned() };
        let listed = self.ask_all(up.iter().map(|osd| (*osd, folder.clone())).collect());
        // By their names: those that have them.
        let mut unread: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        let mut whole = BTreeSet::new();
        for (osd, names) in up.into_iter().zip(listed) {
            let Ok(names) = names_of(names) else { continue };
            whole.insert(osd);
            let new = names.into_iter().filter(|name| !known.contains(name));
            new.for_each(|name| unread.entry(name).or_default().push(osd));
        }
        let gone = (0..osds.len()).fold(false, |gone, turn| {
            let here = self.read_records(&mut unread, turn);
            gone | here
        });
        // What is not read may say anything: what these know is not known here.
        let gone = gone && !unread.is_empty();
        for osd in unread.into_values().flatten() {
            whole.remove(&osd);
        }
        (whole, gone)
    }

    /// Reads each of these records from that of its OSDs whose turn it is; those that it gives are no
    /// longer unread. Whether one has lost it meanwhile.
    fn read_records(&self, unread: &mut BTreeMap<String, Vec<usize>>, turn: usize) -> bool {
        let which = unread.iter().filter_map(|(name, on)| Some((name.clone(), *on.get(turn)?)));
        let which: Vec<(String, usize)> = which.collect();
        let record = |(name, osd): &(String, usize)| (*osd, Request::Record { name: name.clone() });
        let texts = self.ask_all(which.iter().map(record).collect());
        let mut gone = false;
        for ((name, _), text) in which.iter().zip(texts) {
            let text = bytes_of(text);
            gone |= text.as_ref().is_err_and(|error| error.cause == Cause::NotFound);
            let read = text.ok().and_then(|text| serde_json::from_slice(&text).ok());
            if let Some(one) = read {
                lock(&self.uses).insert(one);
                unread.remove(name);
            }
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISKS: u64 = 5;

    /// Of these disks, of which two are in a Domain each time.
    fn disks(set: u32) -> BTreeMap<u64, String> {
        let there = (0..DISKS).filter(|id| set & 1 << id != 0);
        there.map(|id| (id, format!("dc{}", id / 2))).collect()
    }

    /// What a reader may know: the disks that he reaches, and how all stand, one of them removed or none.
    fn readers() -> impl Iterator<Item = (BTreeSet<u64>, Census)> {
        let stand = |gone: Option<u64>| {
            let mut members = disks(u32::MAX);
            members.retain(|id, _| Some(*id) != gone);
            Census { members, removed: gone.into_iter().collect() }
        };
        let sets = 0..1u32 << DISKS;
        sets.flat_map(move |up| {
            let gone = (0..DISKS).map(Some).chain([None]);
            gone.map(move |gone| (disks(up).into_keys().collect(), stand(gone)))
        })
    }

    #[test]
    fn who_has_a_record_that_covers_another_is_warned_of_as_much() {
        let readers: Vec<(BTreeSet<u64>, Census)> = readers().collect();
        let every = || 0..1u32 << DISKS;
        let sets = every().flat_map(|one| every().map(move |two| (one, two)));
        let sets: Vec<(u32, u32)> = sets.collect();
        let mut covered = 0;
        for (k, m, domains, c) in [(2, 1, 1, 3), (2, 2, 3, 3), (1, 2, 3, 2)] {
            let of = |set: u32, c: u8| Use { k, m, domains, local: 0, c, disks: disks(set) };
            let both = |(one, two): &(u32, u32)| {
                [(of(*one, c), of(*two, c)), (of(*one, c - 1), of(*two, c))]
            };
            for (large, small) in sets.iter().flat_map(both).filter(|(one, two)| one.covers(two)) {
                covered += 1;
                for (up, census) in &readers {
                    let warns =
                        |one: &Use, enough| one.hides(&away_of(one.disks(census), up), enough);
                    for enough in [Enough::Acknowledged, Enough::Readable] {
                        assert!(
                            !warns(&small, enough) || warns(&large, enough),
                            "{small:?} {large:?}"
                        );
                    }
                    let (named, all) = (small.disks(census), large.disks(census));
                    assert!(named.keys().all(|id| all.contains_key(id)), "{small:?} {large:?}");
                }
            }
        }
        assert!(covered > 1000, "{covered}");
    }

    #[test]
    fn what_is_told_says_all_that_is_known() {
        let of = |set: u32, c: u8| Use { k: 2, m: 1, domains: 1, local: 0, c, disks: disks(set) };
        let all: Vec<Use> =
            (0..1 << DISKS).flat_map(|set| [of(set, 2), of(set, 3)]).chain([of(7, 1)]).collect();
        let told = largest(all.clone());
        assert_eq!(told, [of(u32::MAX, 2), of(7, 1)]);
        assert!(all.iter().all(|one| told.iter().any(|other| other.covers(one))));
    }
}
