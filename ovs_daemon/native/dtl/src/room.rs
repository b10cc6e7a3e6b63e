//! The room that a shard's files take, as far as nothing in them is needed.
//!
//! The shard only takes files out of use; a thread removes them. When the disk is full nothing is gained
//! by waiting for that: then the shard does it.

use std::path::PathBuf;

use format::entry::Uuid;

use super::{Entry, Server};
use crate::gone;
use crate::tasks::{Kind, Task};

/// Files of a shard that are kept to be used again.
const SPARES_MAX: usize = 8;

impl Server {
    /// Files that are kept for later SCOs take room: all volumes together have a few of them.
    pub(super) fn count_spares(&mut self, volume: Uuid) {
        let now = match self.volumes.get(&volume) {
            Some(Entry::Ready(entry)) => entry.replica.spares(),
            _ => 0,
        };
        self.spares.retain(|one| *one != volume);
        self.spares.extend(std::iter::repeat_n(volume, now));
        self.drop_spares(SPARES_MAX);
        self.hand_out_gone(volume);
    }

    /// Gives up the oldest of them until so many are left.
    fn drop_spares(&mut self, left: usize) {
        while self.spares.len() > left
            && let Some(oldest) = self.spares.pop_front()
        {
            if let Some(Entry::Ready(entry)) = self.volumes.get_mut(&oldest) {
                entry.replica.drop_spare();
            }
            self.hand_out_gone(oldest);
        }
    }

    /// Has a thread remove what a volume has no use for.
    pub(super) fn hand_out_gone(&mut self, volume: Uuid) {
        let Some(Entry::Ready(entry)) = self.volumes.get_mut(&volume) else { return };
        let files = entry.replica.take_gone();
        if !files.is_empty() {
            self.gone.extend(files.iter().cloned());
            self.tasks.push(Task(Kind::Unlink { files }));
        }
    }

    /// A thread has removed files, or some of them: those are removed when their folder is read again.
    pub(super) fn unlinked(&mut self, files: &[PathBuf], result: Result<(), String>) {
        files.iter().for_each(|file| _ = self.gone.remove(file));
        self.log.extend(result.err());
    }

    /// The disk is full: removes what is not needed, whoever waits. False: there is nothing.
    pub(super) fn make_space(&mut self) -> bool {
        self.drop_spares(0);
        let files: Vec<PathBuf> = std::mem::take(&mut self.gone).into_iter().collect();
        // What a thread removes meanwhile is missing, and what stays it tells.
        let _ = gone::remove(&files);
        !files.is_empty()
    }
}
