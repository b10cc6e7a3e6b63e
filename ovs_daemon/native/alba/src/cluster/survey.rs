//! Looking at every object: how safe it is, and what is to be mended, worst first.

use std::collections::BTreeMap;

use format::fragment::FragmentName;
use machines::alba::{Set, Verdict, safety};

use crate::Result;
use crate::osd::USES;

use super::Cluster;
use super::mend::{Terms, object_of};

/// Objects to be mended that are remembered: the others wait for the next look.
const MEND_MAX: usize = 100_000;

/// What was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Objects that are stored.
    pub objects: u64,
    /// How many of them can bear the loss of so many more fragments, whichever they are.
    pub by_safety: BTreeMap<usize, u64>,
    /// Of how many it cannot be told whether they are stored.
    pub unknown: u64,
    /// Fragments that are not where they can be seen.
    pub missing: u64,
    /// To be mended: how safe it is, and its name; worst first.
    pub todo: Vec<(usize, String)>,
    /// Objects of which puts that were cut off have left something.
    pub partial: Vec<String>,
    /// How many objects are to be mended.
    pub to_mend: u64,
    /// Objects of which fewer fragments were seen than it takes to acknowledge one, or of which it
    /// cannot be told whether they are stored.
    pub short: u64,
    /// Whether an object that can be read, once all are back that are not lost, could be hidden.
    pub hidden: bool,
}

impl Cluster {
    /// Calls `each` with the name of every object of which something is stored; false ends it, and is
    /// what is returned then.
    pub fn walk(&self, each: &mut dyn FnMut(&str) -> bool) -> Result<bool> {
        self.walk_below("", &mut false, each)
    }

    fn walk_below(
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
        survey.todo.sort();
        Ok(survey)
    }

    fn survey_object(&self, name: &str, terms: &Terms, survey: &mut Survey) {
        let (verdict, sighting, reach) = self.judge(name);
        survey.hidden |= self.hides_for_good(reach.up());
        let seen = match verdict {
            Verdict::Stored(seen) => seen,
            Verdict::Unknown => {
                survey.unknown += 1;
                survey.short += 1;
                return;
            }
            Verdict::Absent => {
                if !sighting.is_empty() {
                    survey.partial.push(name.to_owned());
                }
                return;
            }
        };
        let other = |(one, _): &(FragmentName, usize)| one.generation != seen.generation;
        if seen.enough() && sighting.iter().any(other) {
            survey.partial.push(name.to_owned());
        }
        let layout = seen.layout;
        // Stored is what can be computed.
        let worst = seen.pieces.iter().filter_map(|piece| safety(&layout, *piece)).min();
        let worst = worst.unwrap_or(0);
        survey.objects += 1;
        survey.short += u64::from(!seen.enough());
        *survey.by_safety.entry(worst).or_default() += 1;
        let gone: u64 =
            seen.pieces.iter().map(|piece| u64::from((layout.all() & !piece).count_ones())).sum();
        survey.missing += gone;
        let mut staying: Vec<Set> = vec![0; seen.pieces.len()];
        for (one, osd) in &sighting {
            let mine = one.generation == seen.generation;
            let Some(piece) = staying.get_mut(one.piece as usize).filter(|_| mine) else {
                continue;
            };
            if !terms.leaving.contains(&self.osd(*osd).id()) {
                *piece |= 1 << one.fragment;
            }
        }
        let moves = seen.pieces.iter().zip(&staying).any(|(all, staying)| all & !staying != 0);
        if gone > 0 || moves {
            survey.to_mend += 1;
            if survey.todo.len() < MEND_MAX {
                survey.todo.push((worst, name.to_owned()));
            }
        }
    }
}
