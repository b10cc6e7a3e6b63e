//! Moving fragments to emptier disks of their Domain, and clearing up where there are two copies of
//! one: because a move was cut off, or an OSD came back after what it has was computed again (see
//! `machines::alba::rebalance`).

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use format::fragment::{FragmentName, crc32};
use format::osd::wire::Class;
use machines::alba::{Copy, Fill, Standing, Then, Verdict, mix, surplus, target, then};

use super::find::{Found, LOOK_MAX};
use super::leftovers::Moment;
use super::mend::{Mended, Spend, Terms, UNDO_MAX, object_of};
use super::put::number_of;
use super::{Cluster, failed};
use crate::osd::{OBJECT, Request, USES, fragment_path, is_mark_name};
use crate::{BackendError, Cause, Result};

/// For how long a copy is there before the old one is deleted: whoever has begun to look before, and
/// has seen neither, has ended.
pub const MOVE_REST: Duration = Duration::from_millis(2 * LOOK_MAX.as_millis() as u64);
/// For how long copies are seen to be two before one of them is deleted: whoever has stored one of
/// them does not take it back any more.
pub const DOUBLE_AGE: Duration = Duration::from_secs(2 * UNDO_MAX.as_secs());

/// How often an object is looked at that others change meanwhile.
const TRIES: usize = 3;

/// A fragment that was copied, and whose old copy is to go.
#[derive(Clone, Debug)]
pub struct Moving {
    pub(super) object: String,
    pub(super) file: FragmentName,
    pub(super) from: usize,
    pub(super) to: usize,
    began: Moment,
}

/// The fragments of an object of which there are several copies: each with its OSDs (by number).
pub type Doubles = BTreeMap<FragmentName, BTreeSet<usize>>;

/// A number of a piece and its object, for the orders of its fragments.
pub(super) fn piece_of(object: &str, piece: u32) -> u64 {
    mix(number_of(object, piece))
}

/// Where an object comes in a walk over all: by its folders, one after the other.
pub fn walk_order(object: &str) -> Vec<String> {
    format!("{object}{OBJECT}").split('/').map(str::to_owned).collect()
}

/// What of a folder's entry comes behind a place in the walk: what is below it and behind this place
/// there (nothing: all of it). `None`: nothing of it.
fn rest_of<'a>(behind: &'a [String], name: &str) -> Option<&'a [String]> {
    let Some((first, rest)) = behind.split_first() else { return Some(&[]) };
    match name.cmp(first) {
        Ordering::Less => None,
        // The object itself.
        Ordering::Equal if rest.is_empty() => None,
        Ordering::Equal => Some(rest),
        Ordering::Greater => Some(&[]),
    }
}

impl Cluster {
    /// The disks of a Domain and how full they are; `None`: one of them cannot be asked, or leaves.
    pub fn fills(&self, domain: &str) -> Option<Vec<Fill>> {
        let osds = self.osds();
        let here = |at: &usize| {
            let osd = &osds[*at];
            osd.claim().domain == domain && self.standing_of(osd.id()) != Standing::Removed
        };
        let here: Vec<usize> = (0..osds.len()).filter(here).collect();
        if here.iter().any(|at| self.standing(*at) != Standing::Member || !osds[*at].reachable()) {
            return None;
        }
        let rooms = self.rooms_of(&here);
        let fill = |(disk, room): (machines::alba::Disk, Option<(u64, u64)>)| {
            let (total, free) = room?;
            Some(Fill { id: disk.id, node: disk.node, used: total.saturating_sub(free), total })
        };
        self.disks(&here).into_iter().zip(rooms).map(fill).collect()
    }

    /// Calls `each` with every object of which an OSD (by its number for placement) has something and
    /// that comes behind another one in the walk (see [`walk_order`]; nothing: with all); false ends it,
    /// and is what is returned then.
    pub fn walk_on(
        &self,
        disk: u64,
        behind: &[String],
        each: &mut dyn FnMut(&str) -> bool,
    ) -> Result<bool> {
        let osd = self.osds().iter().position(|osd| osd.id() == disk);
        let osd = osd.ok_or_else(|| failed("find", "an OSD", "it is not known here"))?;
        self.walk_folder(osd, ("", behind), each)
    }

    fn walk_folder(
        &self,
        osd: usize,
        (folder, behind): (&str, &[String]),
        each: &mut dyn FnMut(&str) -> bool,
    ) -> Result<bool> {
        let mut names = self.osd(osd).names(folder)?;
        names.sort_unstable();
        for name in names {
            let Some(rest) = rest_of(behind, &name) else { continue };
            let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
            if path == USES || is_mark_name(&name) {
                continue;
            }
            let on = match object_of(&path) {
                Some(object) => each(object),
                None => self.walk_folder(osd, (&path, rest), each)?,
            };
            if !on {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn copy(&self, file: &FragmentName, osd: usize) -> Copy {
        let disk = self.disks(&[osd])[0];
        let fragment = file.fragment.into();
        Copy { fragment, domain: disk.domain, node: disk.node, disk: disk.id }
    }

    /// All copies of a piece that are seen on members.
    pub(super) fn copies(
        &self,
        sighting: &[(FragmentName, usize)],
        piece: u32,
        generation: u64,
    ) -> Vec<Copy> {
        let mine = sighting.iter().filter(|(one, osd)| {
            let member = self.standing(*osd) == Standing::Member;
            one.piece == piece && one.generation == generation && member
        });
        mine.map(|(one, osd)| self.copy(one, *osd)).collect()
    }

    /// Copies fragments of an object from one of a Domain's disks to others, if they are better off
    /// there. Only of an object that is whole. `fills`: all disks of the Domain, which are kept up.
    pub fn give(
        &self,
        name: &str,
        (from, fills): (u64, &mut [Fill]),
        band: u64,
        spend: Spend<'_>,
    ) -> Result<(Vec<Moving>, Mended)> {
        let mut moving = Vec::new();
        let mut done = Mended::default();
        for _ in 0..TRIES {
            self.forget(name);
            let to = (&mut moving, &mut done);
            let given = self.give_object(name, (from, fills), band, to, spend);
            self.forget(name);
            match given {
                Ok(false) => break,
                // Others moved fragments of it meanwhile, perhaps.
                Ok(true) => {}
                // What was copied before it failed is carried on with.
                Err(error) if moving.is_empty() => return Err(error),
                Err(_) => break,
            }
        }
        Ok((moving, done))
    }

    /// Whether one was not stored because the object was not as it was found any more.
    fn give_object(
        &self,
        name: &str,
        (from, fills): (u64, &mut [Fill]),
        band: u64,
        (moving, done): (&mut Vec<Moving>, &mut Mended),
        spend: Spend<'_>,
    ) -> Result<bool> {
        let Some(found) = self.find(name)? else { return Ok(false) };
        let whole = |piece: u32| found.present(piece) == found.layout.all();
        if !(0..found.cut.pieces()).all(whole) {
            return Ok(false);
        }
        let mut disturbed = false;
        let bytes = found.cut.fragment_len();
        for piece in 0..found.cut.pieces() {
            let sighting = self.sighting_of(&found, piece);
            let copies = self.copies(&sighting, piece, found.seen.generation);
            if copies.len() != found.layout.fragments() {
                // Some are on a disk that leaves, or there twice.
                continue;
            }
            let Some(mine) = copies.iter().find(|one| one.disk == from) else { continue };
            let key = piece_of(name, piece);
            let Some(to) = target(fills, &copies, mine, key, bytes, band) else { continue };
            let osds = self.osds();
            let Some(to) = osds.iter().position(|osd| osd.id() == to.id) else { continue };
            let began = Moment::now();
            let which = (piece, mine.fragment);
            let copied = self.copy_fragment(name, &found, which, to, done, spend)?;
            disturbed |= !copied;
            if copied {
                let file = found.name(piece, mine.fragment);
                let Some(from) = found.osd(piece, mine.fragment) else { continue };
                moving.push(Moving { object: name.to_owned(), file, from, to, began });
                for fill in fills.iter_mut() {
                    if fill.id == osds[from].id() {
                        fill.used = fill.used.saturating_sub(bytes);
                    } else if fill.id == osds[to].id() {
                        fill.used = fill.used.saturating_add(bytes);
                    }
                }
            }
            if !spend(if copied { bytes } else { 0 }) {
                return Ok(false);
            }
        }
        Ok(disturbed)
    }

    pub(super) fn sighting_of(&self, found: &Found, piece: u32) -> Vec<(FragmentName, usize)> {
        let all = 0..found.layout.fragments();
        let each = |one| found.osds(piece, one).iter().map(move |osd| (one, *osd));
        all.flat_map(each).map(|(one, osd)| (found.name(piece, one), osd)).collect()
    }

    /// Whether it is stored there now, by nobody else.
    fn copy_fragment(
        &self,
        name: &str,
        found: &Found,
        (piece, fragment): (u32, usize),
        to: usize,
        done: &mut Mended,
        spend: Spend<'_>,
    ) -> Result<bool> {
        let (which, class) = ((piece, fragment), Class::Upkeep);
        let Some(payload) = self.fetch(name, found, which, class, spend)? else {
            return Ok(false);
        };
        done.bytes += payload.len() as u64;
        let Some(from) = found.osd(piece, fragment) else { return Ok(false) };
        if self.domain_of(from) != self.domain_of(to) {
            done.between_domains += payload.len() as u64;
        }
        let header = self.osd(from).header(name, &found.name(piece, fragment))?;
        if header.erasure.crc != crc32(&payload) {
            let why = "a fragment is not what its header says";
            return Err(BackendError { cause: Cause::Corrupt, ..failed("move", name, why) });
        }
        let mut stored = Mended::default();
        let (targets, payloads) = ([(fragment, to)].into(), [(fragment, payload)].into());
        self.store_mended(name, found, (piece, class), &targets, payloads, &mut stored);
        let mine = stored.fragments == 1 && stored.existed == 0 && stored.unplaced == 0;
        done.add(stored);
        Ok(mine)
    }

    /// Ends a move, [`MOVE_REST`] after all were copied: deletes the old copy, or the new one where
    /// others moved fragments of the same piece meanwhile. Whether the old one is gone.
    pub fn end_move(&self, moving: &Moving) -> Result<bool> {
        let Moving { object, file, from, to, began } = moving;
        let (verdict, sighting, _) = self.judge(object);
        match verdict {
            Verdict::Stored(seen) if seen.generation == file.generation => {}
            _ => return Ok(false),
        }
        let copies = self.copies(&sighting.fragments, file.piece, file.generation);
        let (old, new) = (self.copy(file, *from), self.copy(file, *to));
        let key = piece_of(object, file.piece);
        let next = then(&copies, &old, &new, key, began.age() < UNDO_MAX);
        let path = fragment_path(object, file);
        let gone = match next {
            Then::DeleteOld => self.osd(*from).call(Request::Delete { path }).map(|_| true),
            Then::TakeBack => self.osd(*to).call(Request::Delete { path }).map(|_| false),
            Then::Leave => Ok(false),
        };
        self.forget(object);
        gone
    }

    /// Of which fragments of an object there are several copies.
    pub fn doubles(&self, name: &str) -> Doubles {
        let (verdict, sighting, _) = self.judge(name);
        let Verdict::Stored(seen) = verdict else { return Doubles::new() };
        let mut all = Doubles::new();
        for (file, osd) in sighting.fragments {
            if file.generation == seen.generation && self.standing(osd) == Standing::Member {
                all.entry(file).or_default().insert(osd);
            }
        }
        all.retain(|_, osds| osds.len() > 1);
        all
    }

    /// Deletes copies of fragments that were seen, [`DOUBLE_AGE`] ago, to be there more than once,
    /// once that which stays is read. How many.
    pub fn trim(&self, name: &str, terms: &Terms, aged: &Doubles, spend: Spend<'_>) -> Result<u64> {
        self.forget(name);
        let Some(found) = self.find(name)? else { return Ok(0) };
        if self.doubles(name) != *aged {
            return Ok(0);
        }
        let mut gone = 0;
        for (file, osds) in aged {
            let sighting = self.sighting_of(&found, file.piece);
            let copies = self.copies(&sighting, file.piece, file.generation);
            let key = piece_of(name, file.piece);
            let fragment = usize::from(file.fragment);
            let surplus = surplus(&copies, fragment, key, |_| true);
            let goes = |osd: &usize| {
                let id = self.osd(*osd).id();
                surplus.iter().any(|one| one.disk == id) && terms.covers(&self.domain_of(*osd))
            };
            if !osds.iter().any(&goes) {
                // Those that would go are others' to clear up, or have to stay.
                continue;
            }
            let (mut sound, mut on) = (true, true);
            for osd in osds.iter().filter(|osd| !goes(osd)) {
                let (which, class) = ((file.piece, fragment), Class::Upkeep);
                let read = self.read_whole(name, &found, which, *osd, class, spend);
                sound &= !read.damaged && read.bytes == found.cut.fragment_len();
                on &= read.on;
            }
            for osd in osds.iter().filter(|osd| sound && goes(osd)) {
                self.osd(*osd).call(Request::Delete { path: fragment_path(name, file) })?;
                gone += 1;
            }
            if !on {
                break;
            }
        }
        self.forget(name);
        Ok(gone)
    }
}
