//! Forgetting a volume, while others may want it.
//!
//! A thread removes the files. From the moment on that this is begun until it has ended nobody else is
//! greeted: what an owner appended meanwhile would go to files that are being removed, and be
//! acknowledged. Whoever says hello waits, and finds a volume that is not known. Nor does a fence that
//! is still being stored come after the removal and bring half of the folder back.

use media::Ring;

use super::{Entry, Server};
use crate::replica::uuid_text;
use crate::tasks::{Kind, Task};
use format::entry::Uuid;

/// A volume whose files are being removed.
pub(super) struct Removal {
    /// Whose word it is.
    remover: u32,
    /// The task, until it may begin: a fence is being stored.
    task: Option<Task>,
    /// Who has said hello meanwhile.
    pub(super) waiting: Vec<u32>,
}

impl Server {
    /// Forgets a volume, unless somebody has said hello to its keeper after the remover did.
    pub(super) fn begin_removal(&mut self, volume: Uuid, remover: u32) {
        let Some(Entry::Ready(entry)) = self.volumes.get(&volume) else { return };
        let Some(connection) = self.connections.get(&remover) else { return };
        if entry.keeper.present() != Some(remover) || connection.closed {
            return;
        }
        let (root, fd) = (self.root.clone(), connection.fd.clone());
        let task = Task(Kind::Remove { connection: remover, fd, root, volume });
        // They wait for a fence that nobody will store: after the removal they are asked again.
        let others = self.connections.iter().filter(|(number, connection)| {
            let same = connection.hello.is_some_and(|hello| hello.volume == volume);
            same && **number != remover && !connection.closed
        });
        let mut waiting: Vec<u32> = others.map(|(number, _)| *number).collect();
        waiting.sort_unstable();
        let task = if entry.storing {
            Some(task)
        } else {
            self.tasks.push(task);
            None
        };
        self.volumes.insert(volume, Entry::Removing(Removal { remover, task, waiting }));
    }

    /// The fence that a removal waits for is stored, or not.
    pub(super) fn go_on_removing(&mut self, volume: &Uuid) {
        if let Some(Entry::Removing(removal)) = self.volumes.get_mut(volume) {
            self.tasks.extend(removal.task.take());
        }
    }

    /// A thread has removed the files, or some of them.
    pub(super) fn removed(
        &mut self,
        connection: u32,
        volume: Uuid,
        result: Result<(), String>,
        ring: &mut Ring,
    ) {
        let text = uuid_text(&volume);
        self.log.extend(result.err().map(|why| format!("forgetting {text}: {why}")));
        let ours = |entry: &Entry| matches!(entry, Entry::Removing(r) if r.remover == connection);
        if self.volumes.get(&volume).is_some_and(ours)
            && let Some(Entry::Removing(removal)) = self.volumes.remove(&volume)
            && !removal.waiting.is_empty()
        {
            self.load(volume, removal.waiting);
        }
        self.shut(connection, ring);
        self.gone(connection, ring);
    }
}
