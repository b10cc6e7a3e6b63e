//! Looking at every object: how safe it is, and what is to be mended, worst first.

use std::collections::{BTreeMap, BTreeSet};

use format::fragment::LOG_MARK;
use machines::alba::{Copy, Seen, Set, Verdict, crowded, safety_of_disks};

use crate::Result;
use crate::osd::{Request, USES, names_of};

use super::Cluster;
use super::find::Sighting;
use super::mend::{Terms, object_of};
use super::rebalance::piece_of;

/// Objects to be mended that are remembered: the others wait for the next look.
const MEND_MAX: usize = 100_000;

/// What was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Objects that are stored.
    pub objects: u64,
    /// How many of them can bear the loss of so many more disks, whichever they are.
    pub by_safety: BTreeMap<usize, u64>,
    /// Of how many it cannot be told whether they are stored.
    pub unknown: u64,
    /// Fragments that are not where they can be seen.
    pub missing: u64,
    /// To be mended: how safe it is, and its name; worst first.
    pub todo: Vec<(usize, String)>,
    /// Objects of which puts that were cut off, or were deleted while OSDs were away, have left
    /// something.
    pub partial: Vec<String>,
    /// Logs that were deleted for good, of which something may be left or come back.
    pub logs: Vec<String>,
    /// Objects that have several copies of a fragment, on OSDs that stay.
    pub doubled: Vec<String>,
    /// How many objects are to be mended.
    pub to_mend: u64,
    /// Objects of which fewer fragments were seen than it takes to acknowledge one, or of which it
    /// cannot be told whether they are stored.
    pub short: u64,
    /// Whether an object that can be read, once all are back that are not lost, could be hidden.
    pub hidden: bool,
}

/// Whether there is something that goes, now or later: of puts that were deleted or cut off.
fn leaves_something(verdict: &Verdict, sighting: &Sighting) -> bool {
    let other = |seen: &Seen| {
        seen.enough() && sighting.fragments.iter().any(|(one, _)| one.generation != seen.generation)
    };
    let rest = match verdict {
        Verdict::Stored(seen) => other(seen),
        Verdict::Absent => !sighting.fragments.is_empty(),
        Verdict::Unknown => false,
    };
    rest || !sighting.marks.is_empty()
}

impl Cluster {
    /// Calls `each` with the name of every object of which something is stored; false ends it, and is
    /// what is returned then.
    pub fn walk(&self, each: &mut dyn FnMut(&str) -> bool) -> Result<bool> {
        self.walk_below("", &mut false, each)
    }

    pub(super) fn walk_below(
        &self,
        folder: &str,
        hidden: &mut bool,
        each: &mut dyn FnMut(&str) -> bool,
    ) -> Result<bool> {
        let reach = self.reach();
        *hidden |= self.hides_for_good(reach.up());
        for name in self.every_name(folder, &reach)? {
            let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
            let on = match object_of(&path) {
                Some(object) => each(object),
                None if path == USES => true,
                None => self.walk_below(&path, hidden, each)?,
            };
            if !on {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Looks at all objects. `go_on` is asked after each; false ends it.
    pub fn survey(&self, terms: &Terms, go_on: &mut dyn FnMut(&Survey) -> bool) -> Result<Survey> {
        let mut survey = Survey::default();
        let mut hidden = false;
        self.walk_below("", &mut hidden, &mut |name| {
            self.survey_object(name, terms, &mut survey);
            go_on(&survey)
        })?;
        survey.hidden |= hidden;
        survey.logs = self.deleted_logs();
        survey.todo.sort();
        Ok(survey)
    }

    /// The logs that are marked, as far as OSDs say so: one that fails now is asked again at the next
    /// look, and what was seen of all objects counts without it.
    fn deleted_logs(&self) -> Vec<String> {
        let reach = self.reach();
        let root = Request::Names { folder: String::new() };
        let jobs = reach.up().iter().map(|osd| (*osd, root.clone())).collect();
        let names = self.ask_all(jobs).into_iter().filter_map(|answer| names_of(answer).ok());
        let mut logs: BTreeSet<String> = names.flatten().collect();
        logs.retain(|name| object_of(name).is_none() && name != USES);
        let mut deleted = Vec::new();
        for log in logs {
            let folder = Request::Names { folder: log.clone() };
            let jobs = reach.up().iter().map(|osd| (*osd, folder.clone())).collect();
            for answer in self.ask_all(jobs) {
                let names = names_of(answer).unwrap_or_default();
                if names.iter().any(|name| name == LOG_MARK) {
                    deleted.push(log);
                    break;
                }
            }
        }
        deleted
    }

    /// On which disks the fragments of each piece of a put are; of their places nothing else is told.
    fn copies_by_piece(&self, seen: &Seen, sighting: &Sighting) -> Vec<Vec<Copy>> {
        let mut all = vec![Vec::new(); seen.pieces.len()];
        for (one, osd) in &sighting.fragments {
            let known = usize::from(one.fragment) < seen.layout.fragments();
            let mine = one.generation == seen.generation && known;
            if let Some(copies) = all.get_mut(one.piece as usize).filter(|_| mine) {
                let (disk, fragment) = (self.osd(*osd).id(), one.fragment.into());
                copies.push(Copy { fragment, domain: 0, node: 0, disk });
            }
        }
        all
    }

    fn survey_object(&self, name: &str, terms: &Terms, survey: &mut Survey) {
        let (verdict, sighting, reach) = self.judge(name);
        survey.hidden |= self.hides_for_good(reach.up());
        if leaves_something(&verdict, &sighting) && survey.partial.len() < MEND_MAX {
            survey.partial.push(name.to_owned());
        }
        let seen = match verdict {
            Verdict::Stored(seen) => seen,
            Verdict::Unknown => {
                survey.unknown += 1;
                survey.short += 1;
                return;
            }
            Verdict::Absent => return,
        };
        let layout = seen.layout;
        // Stored is what can be computed.
        let copies = self.copies_by_piece(&seen, &sighting);
        let worst = copies.iter().filter_map(|copies| safety_of_disks(&layout, copies)).min();
        let worst = worst.unwrap_or(0);
        survey.objects += 1;
        survey.short += u64::from(!seen.enough());
        *survey.by_safety.entry(worst).or_default() += 1;
        let gone: u64 =
            seen.pieces.iter().map(|piece| u64::from((layout.all() & !piece).count_ones())).sum();
        survey.missing += gone;
        let mut staying: Vec<Set> = vec![0; seen.pieces.len()];
        let mut doubled = false;
        for (one, osd) in &sighting.fragments {
            let mine = one.generation == seen.generation;
            let Some(piece) = staying.get_mut(one.piece as usize).filter(|_| mine) else {
                continue;
            };
            if !terms.leaving.contains(&self.osd(*osd).id()) {
                doubled |= *piece & 1 << one.fragment != 0;
                *piece |= 1 << one.fragment;
            }
        }
        if doubled && survey.doubled.len() < MEND_MAX {
            survey.doubled.push(name.to_owned());
        }
        let moves = seen.pieces.iter().zip(&staying).any(|(all, staying)| all & !staying != 0);
        let stays = |one: &&Copy| !terms.leaving.contains(&one.disk);
        let moves = moves
            || copies.iter().enumerate().any(|(piece, copies)| {
                let copies: Vec<Copy> = copies.iter().filter(stays).copied().collect();
                !crowded(&copies, piece_of(name, piece as u32)).is_empty()
            });
        if gone > 0 || moves {
            survey.to_mend += 1;
            if survey.todo.len() < MEND_MAX {
                survey.todo.push((worst, name.to_owned()));
            }
        }
    }
}
