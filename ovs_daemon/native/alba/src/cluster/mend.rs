//! Mending while the cluster is in use: what is lost is computed again by somebody in the Domain
//! where it is stored, while objects are put, read and deleted (see `machines::alba::mend`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use format::fragment::crc32;
use format::osd::wire::Class;
use machines::alba::{
    Copy, Disk, Mending, Next, Outcome, Policy, Set, Standing, Verdict, apart, crowded, due, homes,
    safety,
};

use crate::osd::{Answer, OBJECT, Request, fragment_path};
use crate::pieces::{Fragment, Label};
use crate::{BackendError, Cause, Put, Result};

use super::find::Found;
use super::leftovers::Moment;
use super::read::Range;
use super::rebalance::piece_of;
use super::{Cluster, failed};

/// Bytes of a fragment that are read at a time, so that what guests read meanwhile does not wait long
/// behind them.
const STEP: usize = 256 << 10;

/// After so long nobody takes back any more what he has stored: others may have deleted another copy
/// since (see `machines::alba::rebalance`).
pub(super) const UNDO_MAX: Duration = Duration::from_secs(300);

/// What is mended, and what is waited for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Only what is stored in these Domains; `None`: in all.
    pub domains: Option<BTreeSet<String>>,
    /// How many OSDs of a Domain are away, but for so short a time that they may come back.
    pub waiting: BTreeMap<String, usize>,
    /// Numbers of OSDs that are to be emptied.
    pub leaving: BTreeSet<u64>,
    /// Whether guests' requests go before it.
    pub class: Class,
}

impl Terms {
    pub(super) fn covers(&self, domain: &str) -> bool {
        self.domains.as_ref().is_none_or(|domains| domains.contains(domain))
    }
}

/// What mending did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mended {
    /// Fragments that were stored.
    pub fragments: u64,
    /// Of them, those that were damaged.
    pub damaged: u64,
    /// Fragments for which there is no disk, or whose disk failed.
    pub unplaced: u64,
    /// Fragments that somebody else had stored.
    pub existed: u64,
    /// Bytes that were read and stored.
    pub bytes: u64,
    /// Bytes that were read from other Domains than that in which they were needed.
    pub between_domains: u64,
}

impl Mended {
    /// Adds what else was done.
    pub fn add(&mut self, other: Self) {
        self.fragments += other.fragments;
        self.damaged += other.damaged;
        self.unplaced += other.unplaced;
        self.existed += other.existed;
        self.bytes += other.bytes;
        self.between_domains += other.between_domains;
    }
}

/// Fragments of a piece that are to be computed.
struct Wanted {
    piece: u32,
    fragments: Set,
    class: Class,
}

/// What came of reading a fragment.
pub(super) struct ReadWhole {
    pub(super) bytes: u64,
    pub(super) damaged: bool,
    /// Whether to go on.
    pub(super) on: bool,
}

/// Told how many bytes were moved; returns when more may be, and false when it is time to stop.
pub type Spend<'a> = &'a mut dyn FnMut(u64) -> bool;

impl Cluster {
    /// Mends an object. One that is not stored, or of which it cannot be told, is left alone.
    pub fn mend(&self, name: &str, terms: &Terms, spend: Spend<'_>) -> Result<Mended> {
        let done = self.mend_object(name, terms, spend);
        if !done.as_ref().is_ok_and(|mended| mended.fragments == 0) {
            self.look_again(name);
        }
        done
    }

    /// What was found of an object has changed. Guests who read it do not wait for somebody to look.
    fn look_again(&self, name: &str) {
        if self.find_anew(name).is_err() {
            self.forget(name);
        }
    }

    fn mend_object(&self, name: &str, terms: &Terms, spend: Spend<'_>) -> Result<Mended> {
        let mut done = Mended::default();
        let Some(found) = self.find_anew(name)? else { return Ok(done) };
        for piece in 0..found.cut.pieces() {
            let (mended, on) = self.mend_piece(name, &found, piece, terms, spend)?;
            done.add(mended);
            if !on {
                break;
            }
        }
        Ok(done)
    }

    pub(super) fn domain_of(&self, osd: usize) -> String {
        self.osd(osd).claim().domain.clone()
    }

    /// The fragments of a piece that are to be stored elsewhere: those that are lost, and those of
    /// which all copies are on OSDs that are to be emptied.
    pub(super) fn wanted(&self, found: &Found, piece: u32, terms: &Terms) -> (Set, Set) {
        let layout = found.layout;
        let missing = layout.all() & !found.present(piece);
        let leaves = |osd: &usize| terms.leaving.contains(&self.osd(*osd).id());
        let moving = (0..layout.fragments()).filter(|one| {
            let osds = found.osds(piece, *one);
            !osds.is_empty() && osds.iter().all(leaves)
        });
        let moving = moving.fold(0, |set: Set, one| set | 1 << one);
        let all: usize = terms.waiting.values().sum();
        let waiting: Vec<usize> = (0..layout.domains())
            .map(|group| {
                let mut fragments = layout.members(group).chain(layout.locals(group));
                let home = fragments.find_map(|one| found.osd(piece, one));
                home.map_or(all, |osd| {
                    terms.waiting.get(&self.domain_of(osd)).copied().unwrap_or(0)
                })
            })
            .collect();
        (due(&layout, missing, &waiting), moving)
    }

    /// Also whether to go on.
    fn mend_piece(
        &self,
        name: &str,
        found: &Found,
        piece: u32,
        terms: &Terms,
        spend: Spend<'_>,
    ) -> Result<(Mended, bool)> {
        let mut done = Mended::default();
        let (lost, mut moving) = self.wanted(found, piece, terms);
        let targets = if lost | moving == 0 {
            let together = self.together(name, found, piece);
            moving = together.iter().fold(0, |set: Set, one| set | 1 << one.fragment);
            Some(self.targets_apart(name, found, piece, terms, &together))
        } else {
            self.targets(name, found, piece, terms, lost | moving)
        };
        if lost | moving == 0 {
            return Ok((done, true));
        }
        let Some(targets) = targets else {
            done.unplaced = u64::from((lost | moving).count_ones());
            return Ok((done, true));
        };
        let mine: BTreeMap<usize, usize> = targets
            .into_iter()
            .filter(|(one, osd)| {
                (lost | moving) & 1 << one != 0 && terms.covers(&self.domain_of(*osd))
            })
            .collect();
        let wanted = mine.keys().fold(0, |set: Set, one| set | 1 << one);
        done.unplaced = self.unplaced(found, piece, terms, (lost | moving) & !wanted);
        if wanted == 0 {
            return Ok((done, true));
        }
        let mut payloads: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
        for one in mine.keys().filter(|one| moving & 1 << **one != 0) {
            let fetched = self.fetch(name, found, (piece, *one), terms.class, spend)?;
            let Some(payload) = fetched else { return Ok((done, false)) };
            payloads.insert(*one, payload);
            done.bytes += found.cut.fragment_len();
        }
        if wanted & lost != 0 {
            let homes: BTreeSet<String> = mine.values().map(|osd| self.domain_of(*osd)).collect();
            let wanted = Wanted { piece, fragments: wanted & lost, class: terms.class };
            let computed = self.compute(name, found, &wanted, &homes, &mut done, spend)?;
            let Some(computed) = computed else { return Ok((done, false)) };
            payloads.extend(computed);
        }
        let read = done.bytes;
        self.store_mended(name, found, (piece, terms.class), &mine, payloads, &mut done);
        let on = spend(done.bytes - read);
        Ok((done, on))
    }

    /// The payloads of fragments, which are needed in these Domains, from those of others, a little at a
    /// time; `None`: it is time to stop.
    fn compute(
        &self,
        name: &str,
        found: &Found,
        &Wanted { piece, fragments: wanted, class }: &Wanted,
        homes: &BTreeSet<String>,
        done: &mut Mended,
        spend: Spend<'_>,
    ) -> Result<Option<BTreeMap<usize, Vec<u8>>>> {
        let len = found.cut.fragment_len() as usize;
        let wanted_ones = (0..found.layout.fragments()).filter(|one| wanted & 1 << one != 0);
        let mut payloads: BTreeMap<usize, Vec<u8>> =
            wanted_ones.map(|one| (one, Vec::with_capacity(len))).collect();
        for start in (0..len).step_by(STEP) {
            let range = Range { piece, start: start as u64, len: STEP.min(len - start), class };
            let have = self.gather(name, found, range, wanted, false)?;
            let mut read = 0;
            for (one, bytes) in have.into_iter().enumerate() {
                let Some(bytes) = bytes else { continue };
                if let Some(payload) = payloads.get_mut(&one) {
                    payload.extend_from_slice(&bytes);
                    continue;
                }
                read += bytes.len() as u64;
                let from = found.osd(piece, one).map(|osd| self.domain_of(osd));
                if from.is_some_and(|from| homes.len() > 1 || !homes.contains(&from)) {
                    done.between_domains += bytes.len() as u64;
                }
            }
            done.bytes += read;
            if !spend(read) {
                return Ok(None);
            }
        }
        if payloads.values().any(|payload| payload.len() != len) {
            return Err(failed("mend", name, "a fragment was computed in part only"));
        }
        Ok(Some(payloads))
    }

    /// Of these fragments, those that have no disk in the Domains of these terms.
    fn unplaced(&self, found: &Found, piece: u32, terms: &Terms, rest: Set) -> u64 {
        let layout = found.layout;
        let mine = |one: &usize| {
            let group = layout.group_of(*one);
            let mut fragments = layout.members(group).chain(layout.locals(group));
            let home = fragments.find_map(|one| found.osd(piece, one));
            home.is_none_or(|osd| terms.covers(&self.domain_of(osd)))
        };
        (0..layout.fragments()).filter(|one| rest & 1 << one != 0).filter(mine).count() as u64
    }

    /// The fragments of a piece that share a disk with another one, and are to go elsewhere.
    fn together(&self, name: &str, found: &Found, piece: u32) -> Vec<Copy> {
        let sighting = self.sighting_of(found, piece);
        crowded(&self.copies(&sighting, piece, found.seen.generation), piece_of(name, piece))
    }

    /// The OSDs to which they go, as far as there are any.
    fn targets_apart(
        &self,
        name: &str,
        found: &Found,
        piece: u32,
        terms: &Terms,
        together: &[Copy],
    ) -> Vec<(usize, usize)> {
        if together.is_empty() {
            return Vec::new();
        }
        let candidates = self.takers(found, terms);
        let disks = self.disks(&candidates);
        let sighting = self.sighting_of(found, piece);
        let mut copies = self.copies(&sighting, piece, found.seen.generation);
        let mut targets = Vec::new();
        for one in together {
            let Some(to) = apart(&disks, &copies, one, piece_of(name, piece)) else { continue };
            copies.push(Copy { disk: to.id, node: to.node, ..*one });
            let at = disks.iter().position(|disk| disk.id == to.id);
            targets.extend(at.map(|at| (one.fragment, candidates[at])));
        }
        targets
    }

    /// The OSDs that take one more fragment of an object.
    fn takers(&self, found: &Found, terms: &Terms) -> Vec<usize> {
        let up: Vec<usize> = self.reach().up().to_vec();
        let takes = |osd: &usize| {
            let leaves = terms.leaving.contains(&self.osd(*osd).id());
            !leaves && self.standing(*osd) == Standing::Member
        };
        let all = self.roomy(&up, 2 * found.cut.fragment_len());
        all.into_iter().filter(takes).collect()
    }

    /// The OSD to which each of the fragments goes; `None`: no policy is like the object's.
    fn targets(
        &self,
        name: &str,
        found: &Found,
        piece: u32,
        terms: &Terms,
        wanted: Set,
    ) -> Option<Vec<(usize, usize)>> {
        let layout = found.layout;
        // x is the preset's matter; for a policy that it has no more, what loses no data will do.
        let most = layout.parity().max(layout.local()) as u8;
        let known = self.preset.policies.iter().find(|policy| *policy.layout() == layout);
        let node_max = known.map_or(most, |policy| policy.node_max() as u8);
        let policy = Policy::new(layout, found.acknowledge(), node_max).ok()?;
        let up: Vec<usize> = self.reach().up().to_vec();
        let takers = self.takers(found, terms);
        let stays = |osd: &usize| !terms.leaving.contains(&self.osd(*osd).id());
        let all = 0..layout.fragments();
        let held = all.flat_map(|one| found.osds(piece, one).iter().map(move |osd| (one, *osd)));
        let held: Vec<(usize, usize)> =
            held.filter(|(_, osd)| up.contains(osd) && stays(osd)).collect();
        let holds = |osd: &usize| held.iter().any(|(_, other)| other == osd);
        let candidates: Vec<usize> =
            up.into_iter().filter(|osd| holds(osd) || takers.contains(osd)).collect();
        let disks = self.disks(&candidates);
        let copies: Vec<Copy> =
            held.iter().map(|(one, osd)| self.copy(&found.name(piece, *one), *osd)).collect();
        let takers: BTreeSet<u64> = takers.iter().map(|osd| self.osd(*osd).id()).collect();
        let takes = |disk: &Disk| takers.contains(&disk.id);
        let numbers = (u64::from(piece), piece_of(name, piece));
        let targets = homes(&policy, (&disks, &takes), &copies, wanted, numbers);
        Some(targets.into_iter().map(|(one, disk)| (one, candidates[disk])).collect())
    }

    /// The whole payload of a fragment, from where it is, a little at a time; `None`: it is time to
    /// stop.
    pub(super) fn fetch(
        &self,
        name: &str,
        found: &Found,
        (piece, fragment): (u32, usize),
        class: Class,
        spend: Spend<'_>,
    ) -> Result<Option<Vec<u8>>> {
        let osd = found.osd(piece, fragment).ok_or_else(|| failed("read", name, "it is lost"))?;
        let (osd, file) = (self.osd(osd), found.name(piece, fragment));
        let len = found.cut.fragment_len();
        let mut payload = Vec::with_capacity(len as usize);
        for offset in (0..len).step_by(STEP) {
            let part = (STEP as u64).min(len - offset);
            payload.extend(osd.read(name, &file, len, (offset, part as u32), class)?);
            if !spend(part) {
                return Ok(None);
            }
        }
        Ok(Some(payload))
    }

    /// Stores fragments of a piece, as `machines::alba::mend` says.
    pub(super) fn store_mended(
        &self,
        name: &str,
        found: &Found,
        (piece, class): (u32, Class),
        targets: &BTreeMap<usize, usize>,
        mut payloads: BTreeMap<usize, Vec<u8>>,
        done: &mut Mended,
    ) {
        let label = Label {
            object: name,
            object_len: found.object_len(),
            acknowledge: found.acknowledge(),
            generation: found.seen.generation,
            sealed: found.sealed,
        };
        let codec = self.codec(found.layout);
        let extent = (piece, found.cut.piece_at(piece), found.cut.piece_len(piece));
        let path = |one: usize| fragment_path(name, &found.name(piece, one));
        let mut mending = Mending::new(&found.layout, payloads.keys().copied().collect());
        let (mut stored, began) = (0, Moment::now());
        if !self.tell_of(&found.layout, found.acknowledge(), targets.values()) {
            done.unplaced += payloads.len() as u64;
            return;
        }
        loop {
            match mending.next() {
                Next::Store(batch) => {
                    let put = |one: &usize| {
                        let payload = payloads.remove(one).unwrap_or_default();
                        let fragment: Fragment = label.fragment(&codec, extent, *one, payload);
                        (
                            targets[one],
                            Request::Put { path: path(*one), parts: fragment.into_parts() },
                        )
                    };
                    let answers = self.ask_all_for(class, batch.iter().map(put).collect());
                    let outcomes: Vec<(usize, Outcome)> =
                        batch.iter().copied().zip(answers.iter().map(outcome)).collect();
                    let count = |wanted: Outcome| {
                        outcomes.iter().filter(|(_, outcome)| *outcome == wanted).count() as u64
                    };
                    let existed = count(Outcome::Existed);
                    let fine = count(Outcome::Created) + existed;
                    stored += fine;
                    done.existed += existed;
                    done.unplaced += batch.len() as u64 - fine;
                    done.bytes += batch.len() as u64 * found.cut.fragment_len();
                    mending.stored(&outcomes);
                }
                Next::Look => mending.looked(self.is_complete(name, found, piece)),
                // What is left then is what one that died would leave.
                Next::Undo(_) if began.age() > UNDO_MAX => {
                    mending.undone();
                    stored = 0;
                }
                Next::Undo(all) => {
                    let delete = |one: &usize| (targets[one], Request::Delete { path: path(*one) });
                    self.ask_all(all.iter().map(delete).collect());
                    mending.undone();
                    stored = 0;
                }
                Next::Over(_) => break,
            }
        }
        done.fragments += stored;
        // Those of which nothing was asked.
        done.unplaced += payloads.len() as u64;
    }

    /// Whether everything that was found of an object is there still, as far as it can be seen.
    fn is_complete(&self, name: &str, found: &Found, piece: u32) -> bool {
        let (verdict, sighting, reach) = self.judge(name);
        let same = |seen: &machines::alba::Seen| {
            seen.generation == found.seen.generation && seen.layout == found.layout
        };
        if !matches!(&verdict, Verdict::Stored(seen) if same(seen)) {
            return false;
        }
        let there: BTreeSet<(u32, u8, u64, usize)> = sighting
            .fragments
            .iter()
            .map(|(one, osd)| (one.piece, one.fragment, one.generation, *osd))
            .collect();
        let mut left: Set = 0;
        for at in 0..found.cut.pieces() {
            for one in 0..found.layout.fragments() {
                for osd in found.osds(at, one).iter().filter(|osd| reach.up().contains(osd)) {
                    if !there.contains(&(at, one as u8, found.seen.generation, *osd)) {
                        return false;
                    }
                    left |= if at == piece { 1 << one } else { 0 };
                }
            }
        }
        // Too few witnesses tell nothing.
        safety(&found.layout, left).is_some()
    }

    /// Reads every fragment of an object that is on OSDs of these terms, and stores those that are
    /// damaged anew, once they are computed from sound ones.
    pub fn scrub(&self, name: &str, terms: &Terms, spend: Spend<'_>) -> Result<Mended> {
        let done = self.scrub_object(name, terms, spend);
        if !done.as_ref().is_ok_and(|scrubbed| scrubbed.damaged == 0) {
            self.look_again(name);
        }
        done
    }

    fn scrub_object(&self, name: &str, terms: &Terms, spend: Spend<'_>) -> Result<Mended> {
        let mut done = Mended::default();
        let Some(found) = self.find_anew(name)? else { return Ok(done) };
        let all = (0..found.cut.pieces())
            .flat_map(|piece| (0..found.layout.fragments()).map(move |one| (piece, one)));
        for (piece, one) in all {
            for osd in found.osds(piece, one) {
                let leaves = terms.leaving.contains(&self.osd(*osd).id());
                if leaves || !terms.covers(&self.domain_of(*osd)) {
                    continue;
                }
                let read = self.read_whole(name, &found, (piece, one), *osd, terms.class, spend);
                done.bytes += read.bytes;
                let before = done.bytes;
                if read.damaged {
                    done.damaged += 1;
                    self.renew(name, &found, (piece, one), *osd, terms.class, &mut done)?;
                }
                if !read.on || !spend(done.bytes - before) {
                    return Ok(done);
                }
            }
        }
        Ok(done)
    }

    /// Reads all of a fragment, a little at a time, so that its OSD compares it with its checksums.
    pub(super) fn read_whole(
        &self,
        name: &str,
        found: &Found,
        (piece, one): (u32, usize),
        osd: usize,
        class: Class,
        spend: Spend<'_>,
    ) -> ReadWhole {
        let osd = self.osd(osd);
        let file = found.name(piece, one);
        let len = found.cut.fragment_len();
        let corrupt = |error: BackendError| error.cause == Cause::Corrupt;
        let mut read = ReadWhole { bytes: 0, damaged: false, on: true };
        if osd.header(name, &file).is_err_and(corrupt) {
            read.damaged = true;
            return read;
        }
        while read.on && read.bytes < len {
            let part = (STEP as u64).min(len - read.bytes);
            match osd.read(name, &file, len, (read.bytes, part as u32), class) {
                Ok(bytes) => read.bytes += bytes.len() as u64,
                Err(error) => {
                    read.damaged = corrupt(error);
                    return read;
                }
            }
            read.on = spend(part);
        }
        read
    }

    /// Stores a damaged fragment anew. It is computed before it is deleted, and compared with what its
    /// header says of it, as long as that is sound.
    fn renew(
        &self,
        name: &str,
        found: &Found,
        (piece, one): (u32, usize),
        osd: usize,
        class: Class,
        done: &mut Mended,
    ) -> Result<()> {
        let wanted = Wanted { piece, fragments: 1 << one, class };
        let homes = BTreeSet::from([self.domain_of(osd)]);
        let computed = self.compute(name, found, &wanted, &homes, done, &mut |_| true)?;
        let payload = computed.and_then(|mut all| all.remove(&one)).unwrap_or_default();
        let file = found.name(piece, one);
        let header = self.osd(osd).header(name, &file);
        if header.is_ok_and(|header| header.erasure.crc != crc32(&payload)) {
            let why = format!(
                "its fragment {one} of piece {piece} is damaged, and what others give instead is not \
                 what was stored: one of them was wrong before its checksums were made"
            );
            return Err(BackendError { cause: Cause::Corrupt, ..failed("mend", name, why) });
        }
        let path = fragment_path(name, &file);
        self.osd(osd).call(Request::Delete { path })?;
        // What was there of it counts no more when it is looked whether all the rest is.
        let Some(rest) = self.find_anew(name)? else { return Ok(()) };
        let targets = BTreeMap::from([(one, osd)]);
        let payloads = BTreeMap::from([(one, payload)]);
        self.store_mended(name, &rest, (piece, class), &targets, payloads, done);
        Ok(())
    }
}

/// What came of a put.
fn outcome(answer: &Result<Answer>) -> Outcome {
    match answer {
        Ok(Answer::Put(Put::Created)) => Outcome::Created,
        Ok(_) => Outcome::Existed,
        Err(error) if error.cause == Cause::Unanswered => Outcome::Unanswered,
        Err(_) => Outcome::Failed,
    }
}

/// The object of a path on an OSD; `None`: it is a folder.
pub(super) fn object_of(path: &str) -> Option<&str> {
    path.strip_suffix(OBJECT)
}
