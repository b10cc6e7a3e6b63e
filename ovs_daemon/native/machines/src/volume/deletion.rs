//! Deletion of objects that nothing refers to: few at a time, for uploads wait in the same queue,
//! and those that a backend refuses again after a pause that grows.
//!
//! Nothing of this is stored. What is left when the process ends the next open finds on the backend,
//! and its first checkpoint refers to none of it.

use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;

use super::{Action, Mutant, Stage, Volume};

/// The pause is doubled so often: the longest is 256 times the first.
const DOUBLINGS_MAX: u32 = 8;

/// The SCOs in [`Stage::Deleting`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Deletions {
    /// In the order in which they are asked for; what failed goes to the end, so that one object
    /// that cannot be deleted keeps no other one.
    waiting: VecDeque<u32>,
    under_way: BTreeSet<u32>,
    /// One failed: nothing is asked for before [`super::Message::RetryDeletes`].
    paused: bool,
    /// Pauses since the last success.
    doublings: u32,
}

impl Volume {
    pub(super) fn delete(&mut self, number: u32) {
        if let Some(sco) = self.scos.get_mut(&number) {
            sco.stage = Stage::Deleting;
            self.deletions.waiting.push_back(number);
        }
    }

    pub(super) fn start_deletes(&mut self, out: &mut Vec<Action>) {
        let most = self.limits.deletes as usize;
        let hasty = self.is(Mutant::RetryDeletesAtOnce);
        let deletions = &mut self.deletions;
        while (!deletions.paused || hasty) && deletions.under_way.len() < most {
            let Some(number) = deletions.waiting.pop_front() else { return };
            deletions.under_way.insert(number);
            out.push(Action::Delete(number));
        }
    }

    pub(super) fn deleted(&mut self, number: u32) {
        if self.deletions.under_way.remove(&number) {
            self.deletions.doublings = 0;
            self.scos.remove(&number);
        }
    }

    pub(super) fn delete_failed(&mut self, number: u32, out: &mut Vec<Action>) {
        let forgetful = self.is(Mutant::ForgetFailedDelete);
        let deletions = &mut self.deletions;
        if !deletions.under_way.remove(&number) || forgetful {
            return;
        }
        deletions.waiting.push_back(number);
        if !deletions.paused {
            deletions.paused = true;
            out.push(Action::RetryDeletes { doublings: deletions.doublings });
            deletions.doublings = (deletions.doublings + 1).min(DOUBLINGS_MAX);
        }
    }

    pub(super) fn retry_deletes(&mut self, out: &mut Vec<Action>) {
        self.deletions.paused = false;
        if self.is(Mutant::RetryEveryDelete) {
            let deleting = self.scos.iter().filter(|(_, sco)| sco.stage == Stage::Deleting);
            out.extend(deleting.map(|(number, _)| Action::Delete(*number)));
        }
    }
}
