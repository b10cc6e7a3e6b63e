//! Deletes, also while OSDs are away (see `machines::alba::deletion`).

use std::collections::{BTreeMap, BTreeSet};

use format::fragment::FragmentName;
use machines::alba::{Deletion, Set, deletion, goes_first, may_forget};

use crate::osd::{OBJECT, Request, log_mark_path, mark_path};
use crate::{BackendError, Result};

use super::find::{Reach, Sighting, layout_of};
use super::{Cluster, failed};

fn mark(name: &str, generation: u64) -> Request {
    Request::PutRecord { name: mark_path(name, generation), text: b"deleted\n".to_vec() }
}

fn mark_log(log: &str) -> Request {
    Request::PutRecord { name: log_mark_path(log), text: b"deleted\n".to_vec() }
}

fn hidden(name: &str) -> BackendError {
    let why = "OSDs are out of reach that may have it, and nobody who is there knows of it; bring \
               them back, or remove those that are lost";
    failed("delete", name, why)
}

impl Cluster {
    /// Deletes an object.
    pub(super) fn delete_object(&self, name: &str) -> Result<()> {
        let (here, mut reach) = self.deleting(Self::reach);
        let sighting = self.look(name, &mut reach);
        let puts = self.puts(&sighting, &reach);
        let marks = match deletion(&puts, &sighting.deleted(), reach.hides()) {
            Deletion::Refuse => return Err(hidden(name)),
            Deletion::Mark(marks) => marks,
        };
        if marks.is_empty() {
            self.delete_first(name, &sighting)?;
        }
        self.put_marks(&here, marks.into_iter().map(|put| mark(name, put)).collect())?;
        self.delete_below(&here, &format!("{name}{OBJECT}"))
    }

    /// Deletes what is below a folder, on the OSDs that are here.
    pub(super) fn delete_objects(&self, folder: &str) -> Result<()> {
        self.delete_below(&self.deleting(Self::reach).0, folder)
    }

    /// Deletes a log for good. It is marked first, on half of all OSDs at least, so that whoever can
    /// tell what is stored sees one that is marked; the marks go when everything else has.
    pub(super) fn delete_whole_log(&self, log: &str) -> Result<()> {
        let (here, reach) = self.deleting(Self::reach_anew);
        if 2 * here.len() < self.size() {
            return Err(hidden(log));
        }
        self.put_marks(&here, vec![mark_log(log)])?;
        self.delete_below(&here, log)?;
        if self.is_whole(&reach) { self.forget_log(&here, log) } else { Ok(()) }
    }

    /// Finishes deleting a log of which something may have come back. Whether its marks have gone.
    pub fn collect_log(&self, log: &str) -> Result<bool> {
        let (here, reach) = self.deleting(Self::reach_anew);
        self.put_marks(&here, vec![mark_log(log)])?;
        self.delete_below(&here, log)?;
        let whole = self.is_whole(&reach);
        if whole {
            self.forget_log(&here, log)?;
        }
        Ok(whole)
    }

    fn forget_log(&self, here: &[usize], log: &str) -> Result<()> {
        let path = log_mark_path(log);
        let jobs = here.iter().map(|osd| (*osd, Request::Delete { path: path.clone() }));
        self.ask_all(jobs.collect()).into_iter().try_for_each(|answer| answer.map(drop))
    }

    /// The OSDs of which each has to delete, and what is in reach. One that comes back later is none
    /// of them, and one that goes fails the delete. Of logs `reach` is what others have told the disks
    /// until now: their marks must not go while they have objects on disks of which nobody has told
    /// this process yet.
    fn deleting(&self, reach: fn(&Self) -> Reach) -> (Vec<usize>, Reach) {
        let mut here: BTreeSet<usize> = self.here().into_iter().collect();
        let reach = reach(self);
        here.extend(reach.up());
        (here.into_iter().collect(), reach)
    }

    /// Deletes what has to be gone before the rest is deleted.
    fn delete_first(&self, name: &str, sighting: &Sighting) -> Result<()> {
        let mut present: BTreeMap<FragmentName, Set> = BTreeMap::new();
        for (one, _) in &sighting.fragments {
            let of = FragmentName { fragment: 0, ..*one };
            *present.entry(of).or_default() |= 1_u64.checked_shl(one.fragment.into()).unwrap_or(0);
        }
        let first = |one: &FragmentName| {
            let present = present.get(&FragmentName { fragment: 0, ..*one });
            let layout = layout_of(one).zip(present.copied());
            layout.is_some_and(|(layout, present)| {
                goes_first(&layout, present).checked_shr(one.fragment.into()).unwrap_or(0) & 1 == 1
            })
        };
        self.remove(name, sighting, first).map(drop)
    }

    /// Stores marks, each on all of these OSDs.
    fn put_marks(&self, here: &[usize], marks: Vec<Request>) -> Result<()> {
        let each = |mark: Request| here.iter().map(move |osd| (*osd, mark.clone()));
        let jobs = marks.into_iter().flat_map(each).collect();
        self.ask_all(jobs).into_iter().try_for_each(|answer| answer.map(drop))
    }

    /// Deletes a folder on these OSDs. All are asked a second time when all have answered: what was
    /// stored by those who mended it meanwhile goes as well (`machines::alba::mend`).
    fn delete_below(&self, here: &[usize], folder: &str) -> Result<()> {
        for _ in 0..2 {
            let request = Request::DeleteFolder { folder: folder.to_owned() };
            let jobs = here.iter().map(|osd| (*osd, request.clone())).collect();
            self.ask_all(jobs).into_iter().try_for_each(|answer| answer.map(drop))?;
        }
        Ok(())
    }

    /// Marks that are needed no more go; others are brought to OSDs that have not got them.
    pub(super) fn keep_marks(&self, name: &str, sighting: &Sighting, reach: &Reach) -> Result<()> {
        let mut on: BTreeMap<u64, BTreeSet<usize>> = BTreeMap::new();
        for (one, osd) in &sighting.fragments {
            on.entry(one.generation).or_default().insert(*osd);
        }
        let mut jobs = Vec::new();
        for (put, marked) in &sighting.marks {
            if may_forget(self.is_whole(reach), on.contains_key(put)) {
                let path = mark_path(name, *put);
                jobs.extend(
                    marked.iter().map(|osd| (*osd, Request::Delete { path: path.clone() })),
                );
            } else {
                let others = reach.up().iter().filter(|osd| !marked.contains(osd));
                jobs.extend(others.map(|osd| (*osd, mark(name, *put))));
            }
        }
        self.ask_all(jobs).into_iter().try_for_each(|answer| answer.map(drop))
    }
}
