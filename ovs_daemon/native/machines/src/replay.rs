//! What the entries of a log make of a volume's content: the same for who recovers it and for who
//! follows it.

use alloc::vec::Vec;

use format::entry::Entry;

use crate::map::{Loc, Map, MapError};
use crate::volume::Snapshot;

/// A volume's content: the head, and its snapshots in order of creation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Content {
    /// The head.
    pub map: Map,
    /// The snapshots.
    pub snapshots: Vec<Snapshot>,
}

impl Content {
    /// Takes in all entries of a SCO, from its begin. `own_log`: the log's index in the table of
    /// ancestors.
    ///
    /// # Errors
    /// An entry that no map takes; what came before it is in.
    pub fn replay(&mut self, own_log: u16, sco: u32, entries: &[Entry]) -> Result<(), MapError> {
        let mut ordinal = 0;
        let ignore = &mut |_: Loc, _: u32| {};
        for entry in entries {
            match *entry {
                Entry::Data { lba, clusters } => {
                    let loc = Loc { log: own_log, sco, ordinal: ordinal as u16 };
                    ordinal += clusters;
                    self.map.set(lba, clusters, loc, ignore)?;
                }
                Entry::Trim { lba, clusters } => self.map.unset(lba, clusters.into(), ignore),
                Entry::SnapshotCreated(id) => {
                    self.snapshots.retain(|s| s.id != id);
                    let map = self.map.clone();
                    self.snapshots.push(Snapshot { id, position: sco, map });
                }
                Entry::SnapshotDeleted(id) => self.snapshots.retain(|s| s.id != id),
                Entry::Reverted(id) => {
                    if let Some(snapshot) = self.snapshots.iter().find(|s| s.id == id) {
                        self.map = snapshot.map.clone();
                    }
                }
                Entry::Closed => {}
            }
        }
        Ok(())
    }
}
