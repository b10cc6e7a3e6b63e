//! Mending an object that has lost fragments: how safe it is, which fragments are computed now, and
//! in which order they are stored, while anybody may delete the object.
//!
//! A delete asks every OSD twice, the second time when all have answered the first. Who mends stores
//! a few fragments, looks whether all that was there before is there still, and takes them back
//! otherwise. So either it sees the delete, or the delete's second round sees what was stored. One
//! who dies in between leaves a few fragments: too few to be taken for the object.
//!
//! It takes back only what an OSD has said to be stored by nobody before: this copy is its own. Where
//! a put fails there may be a copy all the same, and nothing tells whose: somebody else may have moved
//! the fragment there, and deleted the copy that was looked for since, so that it is the last one. What
//! is left of such puts is cleared up as what one leaves who dies: fragments of an object that is not
//! stored go when they are old, and of two copies the earlier one goes (`rebalance`). So that it stays
//! too little to be an object, nothing more of the piece is stored once an OSD has not answered: what it
//! was asked to store may come when the delete is over.

use alloc::vec::Vec;

use super::layout::{GLOBAL_MAX, Layout, Set};

#[cfg(test)]
extern crate std;

/// Planted faults, each of which the test must notice.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// It is not looked again.
    NoLook,
    /// All fragments are stored at once.
    AllAtOnce,
    /// What was stored stays.
    NoUndo,
    /// What is taken back is only what was stored last but one.
    UndoNothingNew,
    /// A delete asks once.
    OneRound,
    /// Local parity is not counted.
    NoLocal,
    /// What may be somebody else's is taken back as well.
    UndoFailed,
    /// It goes on behind an OSD that has not answered.
    GoOn,
}

mutant_of_this_thread!();

fn count(set: Set) -> usize {
    set.count_ones() as usize
}

/// How many members of a group can be had when `lost` of its present fragments are lost in the worst
/// way: members first.
fn left(layout: &Layout, group: usize, present: Set, lost: usize) -> usize {
    let members = count(present & layout.member_set(group));
    let all = count(present & layout.group_set(group));
    let locals = if planted!(NoLocal) { 0 } else { all - members };
    let whole = layout.member_count(group);
    if members + locals >= whole + lost { whole } else { members.saturating_sub(lost) }
}

/// How many more fragments of a piece may be lost, whichever they are, before data is; `None`: it is
/// lost already.
pub fn safety(layout: &Layout, present: Set) -> Option<usize> {
    // By how many members are left: the fewest losses that leave no more of them.
    let mut fewest = [usize::MAX; GLOBAL_MAX + 1];
    fewest[0] = 0;
    for group in 0..layout.domains() {
        let mut next = [usize::MAX; GLOBAL_MAX + 1];
        for lost in 0..=count(present & layout.group_set(group)) {
            let here = left(layout, group, present, lost);
            for before in 0..=GLOBAL_MAX - here {
                if fewest[before] != usize::MAX {
                    let best = &mut next[before + here];
                    *best = (*best).min(fewest[before] + lost);
                }
            }
        }
        fewest = next;
    }
    fewest[..layout.data()].iter().min().copied().unwrap_or(0).checked_sub(1)
}

/// Whether an object of such a safety is mended at full speed, whatever guests notice: one more loss,
/// and what they have stored is gone.
pub fn is_urgent(safety: usize) -> bool {
    safety == 0
}

/// Which of the `missing` fragments are computed now. `waiting`: for each group, how many disks of
/// its Domain are away for so short a time that they may come back with what they have.
pub fn due(layout: &Layout, missing: Set, waiting: &[usize]) -> Set {
    let groups = (0..layout.domains()).zip(waiting);
    groups.fold(0, |due, (group, waiting)| {
        let here = missing & layout.group_set(group);
        if count(here) > *waiting { due | here } else { due }
    })
}

/// How many fragments of a piece may be stored before it is looked again: so few that what is left
/// of a deleted object when those who mend it, one for each Domain, die at that moment is no object.
pub fn at_once(layout: &Layout) -> usize {
    if planted!(AllAtOnce) {
        return layout.fragments();
    }
    ((layout.data() - 1) / layout.domains()).max(1)
}

/// What became of a fragment that was to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It is stored, and was not there before.
    Created,
    /// It was there: somebody else has stored it, or an earlier try.
    Existed,
    /// It failed, and is not being stored any more. It may be there, whoever has stored it.
    Failed,
    /// Nobody has answered: as one that failed, but it may also be stored later.
    Unanswered,
}

impl Outcome {
    /// Whether what is there is known to be stored by nobody else, so that it may be taken back.
    pub fn is_ours(self) -> bool {
        self == Self::Created || planted!(UndoFailed) && self != Self::Existed
    }

    fn is_stored(self) -> bool {
        matches!(self, Self::Created | Self::Existed)
    }
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Store these fragments.
    Store(Vec<usize>),
    /// Look whether everything is there that was there at first.
    Look,
    /// The object is being deleted: delete these, which were stored.
    Undo(Vec<usize>),
    /// Nothing; whether all is stored, and stays.
    Over(bool),
}

/// One piece that is mended; it was just looked at. See the top of the file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mending {
    at_once: usize,
    wanted: Vec<usize>,
    /// How many of them were stored, or failed.
    tried: usize,
    /// Stored by us.
    created: Vec<usize>,
    /// It was looked since.
    proved: bool,
    gone: bool,
    failed: bool,
    unanswered: bool,
}

impl Mending {
    /// Of these fragments.
    pub fn new(layout: &Layout, wanted: Vec<usize>) -> Self {
        Self {
            at_once: at_once(layout),
            wanted,
            tried: 0,
            created: Vec::new(),
            proved: true,
            gone: false,
            failed: false,
            unanswered: false,
        }
    }

    /// See [`Next`].
    pub fn next(&self) -> Next {
        if self.gone {
            return match planted!(NoUndo) || self.created.is_empty() {
                true => Next::Over(false),
                false => Next::Undo(self.created.clone()),
            };
        }
        if !self.proved && !planted!(NoLook) {
            return Next::Look;
        }
        let rest = &self.wanted[self.tried..];
        if rest.is_empty() || self.unanswered && !planted!(GoOn) {
            return Next::Over(!self.failed);
        }
        Next::Store(rest[..rest.len().min(self.at_once)].to_vec())
    }

    /// What became of the fragments that were to be stored.
    pub fn stored(&mut self, outcomes: &[(usize, Outcome)]) {
        self.tried += outcomes.len();
        if !planted!(UndoNothingNew) || self.tried > 1 {
            let ours = outcomes.iter().filter(|(_, outcome)| outcome.is_ours());
            self.created.extend(ours.map(|(one, _)| *one));
        }
        self.failed |= outcomes.iter().any(|(_, outcome)| !outcome.is_stored());
        self.unanswered |= outcomes.iter().any(|(_, outcome)| *outcome == Outcome::Unanswered);
        self.proved = false;
    }

    /// Whether everything is there that was there at first.
    pub fn looked(&mut self, whole: bool) {
        self.proved = true;
        self.gone = !whole;
    }

    /// What was stored is deleted again.
    pub fn undone(&mut self) {
        self.created.clear();
    }
}
