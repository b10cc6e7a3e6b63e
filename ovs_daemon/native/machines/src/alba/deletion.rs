//! Deleting an object while OSDs are away: what was deleted must not be stored again when they are
//! back, nothing of it may stay for ever, and nothing that was not deleted may be taken for it.
//!
//! Who deletes asks the OSDs that are there. If those that are away could help to give the object
//! back, he first *marks* each put of it that can be seen as deleted, on every OSD that is there, and
//! then deletes the fragments. A mark names one put, by its generation: a later put of the same name
//! has another one, and is no concern of it. Whoever sees one mark of a put, on any OSD, takes its
//! fragments for nothing and deletes them. The marks go when all OSDs of the cluster are there and
//! none has a fragment of that put.
//!
//! Who deletes may be cut off in the middle, and delete again while a Domain is away: what he sees
//! then must tell him of what is there. So where he marks nothing, first all fragments but one in each
//! Domain go, then the rest, which is too little to be an object.
//!
//! An acknowledged object of which nothing can be seen, but which may be stored on OSDs that are
//! away, cannot be marked: deleting it is refused until they are back, or removed from the cluster.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use super::layout::{Layout, Set};
use super::verdict::Seen;

#[cfg(test)]
extern crate std;

/// Planted faults, each of which the test must notice.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// Nothing is marked.
    NoMark,
    /// All fragments go at once.
    AllAtOnce,
    /// Fragments are deleted before they are marked.
    DeleteFirst,
    /// What is marked counts.
    IgnoreMarks,
    /// A mark holds for all puts of the name.
    MarkTheName,
    /// A mark holds for earlier puts, too.
    MarkEarlier,
    /// Marks go while OSDs are away.
    ForgetEarly,
    /// Marks go while fragments are left.
    ForgetLeft,
    /// Marks stay.
    NeverForget,
    /// What may be hidden is deleted, too.
    DeleteHidden,
}

mutant_of_this_thread!();

/// Whether a put was deleted; `marks`: the generations that are marked.
pub fn is_deleted(generation: u64, marks: &BTreeSet<u64>) -> bool {
    if planted!(IgnoreMarks) {
        return false;
    }
    if planted!(MarkTheName) {
        return !marks.is_empty();
    }
    if planted!(MarkEarlier) {
        return marks.last().is_some_and(|last| generation <= *last);
    }
    marks.contains(&generation)
}

/// Those of the puts that are seen which were not deleted: the verdict is on them.
pub fn living(seen: Vec<Seen>, marks: &BTreeSet<u64>) -> Vec<Seen> {
    seen.into_iter().filter(|put| !is_deleted(put.generation, marks)).collect()
}

/// Whether a Domain could give a piece by itself.
fn is_readable_alone(layout: &Layout) -> bool {
    (0..layout.domains()).any(|group| layout.member_count(group) >= layout.data())
}

/// What is to be done before the fragments of an object are deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// Mark these puts.
    Mark(BTreeSet<u64>),
    /// Nothing: it is refused, since something of which nothing is seen may be stored.
    Refuse,
}

/// What is to be done before the fragments of an object are deleted: `seen` is
/// all that is seen of it, `hidden` as for the verdict.
///
/// A put of which c fragments are seen is the only one that can be acknowledged.
pub fn deletion(seen: &[Seen], marks: &BTreeSet<u64>, hidden: bool) -> Deletion {
    let sure = seen.iter().any(|put| put.enough() && !is_deleted(put.generation, marks));
    if hidden && !sure && !planted!(DeleteHidden) {
        return Deletion::Refuse;
    }
    // What cannot be read when it is back is never taken for an object. With what a delete that is cut
    // off leaves in the Domain it could be.
    let could = |put: &Seen| match is_readable_alone(&put.layout) {
        true => put.out_of_reach > 0,
        false => put.out_of_reach >= put.layout.data(),
    };
    // Who marked something may have been cut off before all had the mark.
    let back = seen.iter().any(could) || !marks.is_empty();
    let all = seen.iter().map(|put| put.generation).chain(marks.iter().copied());
    Deletion::Mark(all.filter(|_| back && !planted!(NoMark)).collect())
}

/// Of the fragments of a piece, those that are deleted first, and the others when all of them are
/// gone: all but one in each Domain, if a Domain could give the piece back by itself.
pub fn goes_first(layout: &Layout, present: Set) -> Set {
    if !is_readable_alone(layout) || planted!(AllAtOnce) {
        return 0;
    }
    (0..layout.domains()).fold(present, |first, group| {
        let here = present & layout.group_set(group);
        first & !(here & here.wrapping_neg())
    })
}

/// In which order: whether marks come before deletes.
#[cfg(test)]
pub(crate) fn marks_first() -> bool {
    !planted!(DeleteFirst)
}

/// Whether the mark of a put may go. `all_here`: every OSD of the cluster has answered what it has of
/// the object; `left`: one has a fragment of that put.
pub fn may_forget(all_here: bool, left: bool) -> bool {
    let here = all_here || planted!(ForgetEarly);
    let empty = !left || planted!(ForgetLeft);
    here && empty && !planted!(NeverForget)
}
