//! Where objects are, and whether they are there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use format::fragment::{FragmentName, LOG_MARK, marked_generation};
use machines::alba::{
    Cut, FRAGMENTS_MAX, Layout, Seen, Set, Verdict, living, out_of_reach, verdict,
};

use crate::osd::{OBJECT, Request, is_mark_name, names_of};
use crate::{Cause, Result};

use super::leftovers::Moment;
use super::{Cluster, FOUND_MAX, failed, lock};

/// How long an OSD may take to say what it has of an object; afterwards it is taken for out of reach,
/// which is always safe.
const LOOK_PATIENCE: Duration = Duration::from_secs(1);
/// What OSDs say in one look is of a time that is no longer than this: who moves a fragment deletes
/// the old copy so long after it has stored the new one that nobody sees neither.
pub(super) const LOOK_MAX: Duration = Duration::from_secs(2);
/// How often it is looked again when this host stood still meanwhile.
const LOOKS: usize = 3;

/// Which OSDs can be reached at this moment.
#[derive(Clone, Debug)]
pub(super) struct Reach {
    up: Vec<usize>,
    /// How many known disks of each Domain cannot.
    away: Vec<usize>,
    /// Whether those could hold a whole acknowledged object.
    hides: bool,
    /// Records of use were read for it: it knows what others have told the disks until then.
    learned: bool,
}

impl Reach {
    pub(super) fn up(&self) -> &[usize] {
        &self.up
    }

    /// Whether those that are away could hold a whole acknowledged object of which nothing is seen.
    pub(super) fn hides(&self) -> bool {
        self.hides
    }
}

/// Where an object lies.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) layout: Layout,
    pub(super) cut: Cut,
    pub(super) seen: Seen,
    pub(super) sealed: bool,
    object_len: u64,
    /// A fragment's name; piece and fragment are to be set.
    name: FragmentName,
    /// By piece and fragment: the OSDs that have it, one unless it was mended or moved.
    places: BTreeMap<(u32, usize), Vec<usize>>,
}

impl Found {
    pub(super) fn object_len(&self) -> u64 {
        self.object_len
    }

    /// The OSD of a fragment.
    pub(super) fn osd(&self, piece: u32, fragment: usize) -> Option<usize> {
        self.osds(piece, fragment).last().copied()
    }

    /// All OSDs that have a fragment.
    pub(super) fn osds(&self, piece: u32, fragment: usize) -> &[usize] {
        self.places.get(&(piece, fragment)).map_or(&[], Vec::as_slice)
    }

    /// Fragments of a piece that are somewhere.
    pub(super) fn present(&self, piece: u32) -> Set {
        self.seen.pieces.get(piece as usize).copied().unwrap_or(0)
    }

    pub(super) fn name(&self, piece: u32, fragment: usize) -> FragmentName {
        FragmentName { piece, fragment: fragment as u8, ..self.name }
    }

    /// Whether so many fragments are stored as an acknowledgement asks for.
    pub(super) fn enough(&self) -> bool {
        self.seen.enough()
    }

    pub(super) fn acknowledge(&self) -> u8 {
        self.name.acknowledge
    }
}

/// What is seen of an object.
#[derive(Clone, Debug, Default)]
pub(super) struct Sighting {
    /// Its fragments, and the OSDs that have them.
    pub(super) fragments: Vec<(FragmentName, usize)>,
    /// The puts of it that were deleted, by generation, and the OSDs that are marked with that.
    pub(super) marks: BTreeMap<u64, BTreeSet<usize>>,
    /// Whether its whole log was.
    pub(super) log_is_deleted: bool,
}

impl Sighting {
    fn add(&mut self, osd: usize, names: &[String]) {
        let fragments = names.iter().filter_map(|name| FragmentName::parse(name));
        self.fragments.extend(fragments.map(|name| (name, osd)));
        for generation in names.iter().filter_map(|name| marked_generation(name)) {
            self.marks.entry(generation).or_default().insert(osd);
        }
        self.log_is_deleted |= names.iter().any(|name| name == LOG_MARK);
    }

    /// The generations of the puts that were deleted.
    pub(super) fn deleted(&self) -> BTreeSet<u64> {
        let all = self.fragments.iter().map(|(one, _)| one.generation);
        let of_log = all.filter(|_| self.log_is_deleted);
        self.marks.keys().copied().chain(of_log).collect()
    }
}

pub(super) fn layout_of(name: &FragmentName) -> Option<Layout> {
    Layout::new(name.data, name.parity, name.domains, name.local).ok()
}

/// Fragments of one put have all but piece and fragment in common.
fn put_of(name: &FragmentName) -> FragmentName {
    FragmentName { piece: 0, fragment: 0, ..*name }
}

impl Cluster {
    pub(super) fn reach(&self) -> Reach {
        let here = self.here();
        let unread = here.iter().any(|osd| !lock(&self.read).contains(osd));
        if here.len() < self.size() || unread {
            // Others may have put objects on fewer disks since, while some were away.
            return self.reach_anew();
        }
        self.reach_among(here, false)
    }

    /// The same, after all have been asked of what they have been told: others may store objects on
    /// disks of which nobody has told this process yet.
    pub(super) fn reach_anew(&self) -> Reach {
        self.learn_uses();
        self.reach_among(self.here(), true)
    }

    /// The OSDs that are asked, and can be.
    pub(super) fn here(&self) -> Vec<usize> {
        let osds = self.osds();
        let is_asked = |osd: &usize| self.standing_of(osds[*osd].id()).is_asked();
        (0..osds.len()).filter(is_asked).filter(|osd| osds[*osd].reachable()).collect()
    }

    fn reach_among(&self, here: Vec<usize>, learned: bool) -> Reach {
        let read = lock(&self.read).clone();
        let up: Vec<usize> = here.into_iter().filter(|osd| read.contains(osd)).collect();
        let away = self.away(&up, &[]);
        Reach { away, hides: self.hides(&up), up, learned }
    }

    /// What is seen of an object on the OSDs that can be reached; one that fails or is slow now
    /// counts as out of reach.
    pub(super) fn look(&self, name: &str, reach: &mut Reach) -> Sighting {
        let mut seen = BTreeMap::new();
        for _ in 0..LOOKS {
            let began = Moment::now();
            seen = self.look_once(name, reach, began);
            if seen.len() == reach.up.len() || began.age() <= LOOK_MAX {
                break;
            }
        }
        let late: Vec<usize> = reach.up.extract_if(.., |osd| !seen.contains_key(osd)).collect();
        if !late.is_empty() {
            reach.away = self.away(&reach.up, &late);
            reach.hides |= self.hides(&reach.up);
        }
        let mut sighting = Sighting::default();
        seen.iter().for_each(|(osd, names)| sighting.add(*osd, names));
        sighting
    }

    /// What OSDs say within [`LOOK_MAX`]. Folders of this host are asked one after the other: when
    /// they are slow the last ones are late, and what the first ones said counts all the same.
    pub(super) fn look_once(
        &self,
        name: &str,
        reach: &Reach,
        began: Moment,
    ) -> BTreeMap<usize, Vec<String>> {
        let (sender, hear) = channel();
        for osd in &reach.up {
            let (number, sender) = (*osd, sender.clone());
            let reply = move |answer| {
                let in_time = began.age() <= LOOK_MAX;
                drop(sender.send((number, names_of(answer), in_time)));
            };
            let folder = format!("{name}{OBJECT}");
            self.osd(number).start(Request::Names { folder }, Box::new(reply));
        }
        drop(sender);
        let until = Instant::now() + LOOK_PATIENCE;
        let mut seen: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        while let Ok((osd, names, in_time)) =
            hear.recv_timeout(until.saturating_duration_since(Instant::now()))
        {
            if let (Ok(names), true) = (names, in_time) {
                seen.insert(osd, names);
            }
        }
        seen
    }

    /// Whether every OSD of the cluster is in reach.
    pub(super) fn is_whole(&self, reach: &Reach) -> bool {
        reach.up.len() == self.size() && reach.away.iter().all(|away| *away == 0)
    }

    /// All puts of which something is seen.
    pub(super) fn puts(&self, sighting: &Sighting, reach: &Reach) -> Vec<Seen> {
        let mut puts: BTreeMap<FragmentName, Seen> = BTreeMap::new();
        for (name, _) in &sighting.fragments {
            let Some(layout) = layout_of(name) else { continue };
            if usize::from(name.fragment) >= layout.fragments().min(FRAGMENTS_MAX) {
                continue;
            }
            let put = puts.entry(put_of(name)).or_insert_with(|| Seen {
                generation: name.generation,
                layout,
                acknowledge: name.acknowledge.into(),
                out_of_reach: out_of_reach(&layout, &reach.away),
                pieces: vec![0; name.pieces as usize],
            });
            put.pieces[name.piece as usize] |= 1 << name.fragment;
        }
        puts.into_values().collect()
    }

    /// The verdict on an object and what it was judged by.
    pub(super) fn judge(&self, name: &str) -> (Verdict, Sighting, Reach) {
        let reach = self.reach();
        let (known, learned) = (lock(&self.uses).len(), reach.learned);
        let judged = self.judge_within(name, reach);
        let sure = matches!(&judged.0, Verdict::Stored(seen) if seen.enough());
        if sure || learned {
            return judged;
        }
        let reach = self.reach_anew();
        match lock(&self.uses).len() > known {
            true => self.judge_within(name, reach),
            false => judged,
        }
    }

    fn judge_within(&self, name: &str, mut reach: Reach) -> (Verdict, Sighting, Reach) {
        let sighting = self.look(name, &mut reach);
        let puts = living(self.puts(&sighting, &reach), &sighting.deleted());
        let hidden = reach.hides && !sighting.log_is_deleted;
        (verdict(&puts, hidden), sighting, reach)
    }

    /// Where an object lies; `None` when it is not stored.
    pub(super) fn find(&self, name: &str) -> Result<Option<Arc<Found>>> {
        if let Some(found) = lock(&self.found).get(name) {
            return Ok(Some(found.clone()));
        }
        let (verdict, sighting, _) = self.judge(name);
        match verdict {
            Verdict::Absent => Ok(None),
            Verdict::Unknown => Err(unknown("find", name)),
            Verdict::Stored(seen) => self.remember(name, seen, &sighting).map(Some),
        }
    }

    /// Looks where an object is by now, whatever was found before; who reads it meanwhile goes on with
    /// that, and then with what is found now. Nothing is remembered that was not: it may be deleted.
    pub(super) fn find_anew(&self, name: &str) -> Result<Option<Arc<Found>>> {
        let (verdict, sighting, _) = self.judge(name);
        let found = match verdict {
            Verdict::Absent => {
                self.forget(name);
                return Ok(None);
            }
            Verdict::Unknown => return Err(unknown("find", name)),
            Verdict::Stored(seen) => self.found_of(name, seen, &sighting)?,
        };
        if let Some(known) = lock(&self.found).get_mut(name) {
            *known = found.clone();
        }
        Ok(Some(found))
    }

    /// Like [`Self::find`], for an object that must be there.
    pub(super) fn must_find(&self, name: &str) -> Result<Arc<Found>> {
        self.find(name)?.ok_or_else(|| {
            let mut error = failed("read", name, "no such object is stored");
            error.cause = Cause::NotFound;
            error
        })
    }

    fn remember(&self, name: &str, seen: Seen, sighting: &Sighting) -> Result<Arc<Found>> {
        let found = self.found_of(name, seen, sighting)?;
        let mut known = lock(&self.found);
        if known.len() >= FOUND_MAX {
            known.clear();
        }
        known.insert(name.to_owned(), found.clone());
        Ok(found)
    }

    fn found_of(&self, name: &str, seen: Seen, sighting: &Sighting) -> Result<Arc<Found>> {
        let mine = |one: &FragmentName| {
            one.generation == seen.generation && layout_of(one) == Some(seen.layout)
        };
        let mut places: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        let mut header = None;
        for (one, osd) in sighting.fragments.iter().filter(|(one, _)| mine(one)) {
            places.entry((one.piece, usize::from(one.fragment))).or_default().push(*osd);
            if header.is_none() {
                header = self.osd(*osd).header(name, one).ok().map(|header| (*one, header));
            }
        }
        let Some((fragment, header)) = header else {
            let mut error = failed("read", name, "no header of its fragments is sound");
            error.cause = Cause::Corrupt;
            return Err(error);
        };
        Ok(Arc::new(Found {
            layout: seen.layout,
            cut: Cut::stored(&seen.layout, header.object_len, header.payload_len() as u64),
            seen,
            sealed: header.sealed,
            object_len: header.object_len,
            name: fragment,
            places,
        }))
    }

    /// Names in a folder on any OSD, as they are there; not those of marks.
    pub(super) fn every_name(&self, folder: &str, reach: &Reach) -> Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        let request = Request::Names { folder: folder.to_owned() };
        let jobs = reach.up.iter().map(|osd| (*osd, request.clone())).collect();
        for answer in self.ask_all(jobs) {
            names.extend(names_of(answer)?);
        }
        names.retain(|name| !is_mark_name(name));
        Ok(names)
    }

    pub(super) fn list_objects(&self, folder: &str) -> Result<Vec<String>> {
        // What lies on unknown disks only has no name here that could be judged.
        let reach = self.reach_anew();
        if reach.hides {
            return Err(unknown("list", folder));
        }
        let mut listed = Vec::new();
        for name in self.every_name(folder, &reach)? {
            let Some(object) = name.strip_suffix(OBJECT) else {
                listed.push(name);
                continue;
            };
            match self.judge(&format!("{folder}/{object}")).0 {
                Verdict::Stored(_) => listed.push(object.to_owned()),
                Verdict::Absent => {}
                Verdict::Unknown => return Err(unknown("find", &format!("{folder}/{object}"))),
            }
        }
        listed.sort();
        Ok(listed)
    }
}

pub(super) fn unknown(attempted: &'static str, name: &str) -> crate::BackendError {
    failed(
        attempted,
        name,
        "too many OSDs are out of reach to tell what is stored; bring them back",
    )
}
