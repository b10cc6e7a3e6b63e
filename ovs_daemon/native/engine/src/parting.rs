//! Letting go of volumes: whose sessions wait until nothing touches the memory of their requests.
//!
//! A volume that is stopped, closed or deleted answers nobody any more, but reads that the ring or a
//! worker thread has go on, and they fill memory that belongs to others: to an Edge of this host,
//! which gives it to other requests once its session is over, or to this shard's own pool. So
//! sessions hear at once that the volume has left, and end when its last read has.

use edge::server::EdgeServer;
use edge::target::VolumeId;
use format::entry::Uuid;

use crate::hosted::Hosted;
use crate::mailbox::Reply;

/// A volume that is to be forgotten, and who waits for that.
pub(crate) struct Removal {
    pub(crate) volume: VolumeId,
    pub(crate) uuid: Uuid,
    pub(crate) reply: Reply<()>,
}

/// See the file's essay.
#[derive(Default)]
pub(crate) struct Partings {
    /// Their sessions have heard it and are not over.
    parted: Vec<VolumeId>,
    removals: Vec<Removal>,
}

impl Partings {
    /// The sessions of a volume have been parted with.
    pub(crate) fn parted(&mut self, volume: VolumeId) {
        if !self.parted.contains(&volume) {
            self.parted.push(volume);
        }
    }

    /// It is to be forgotten as well.
    pub(crate) fn remove(&mut self, removal: Removal) {
        self.parted(removal.volume);
        self.removals.push(removal);
    }

    /// Ends the sessions of volumes that are still by now, and forgets those that are to be: these
    /// are returned.
    pub(crate) fn proceed(&mut self, hosted: &mut Hosted, edge: &mut EdgeServer) -> Vec<Removal> {
        self.parted.retain(|volume| {
            let reading = hosted.get(*volume).is_some_and(|found| found.is_reading());
            if !reading {
                edge.let_go(*volume);
            }
            reading
        });
        let parted = &self.parted;
        let still = |removal: &mut Removal| !parted.contains(&removal.volume);
        let removed: Vec<Removal> = self.removals.extract_if(.., still).collect();
        for removal in &removed {
            hosted.remove(removal.volume);
        }
        removed
    }

    /// Nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.parted.is_empty() && self.removals.is_empty()
    }
}
