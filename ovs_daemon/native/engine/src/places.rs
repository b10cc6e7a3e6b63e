//! Where each open volume is.

use std::collections::HashMap;
use std::sync::RwLock;

use edge::target::VolumeId;
use format::entry::Uuid;

/// Shard and number of an open volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) shard: usize,
    pub(crate) volume: VolumeId,
    pub(crate) epoch: u64,
    /// It answers nobody any more, and has to be let go.
    pub(crate) stopped: bool,
}

impl Place {
    fn is(&self, shard: usize, volume: VolumeId) -> bool {
        (self.shard, self.volume) == (shard, volume)
    }
}

/// All open volumes of an engine.
#[derive(Debug, Default)]
pub(crate) struct Places {
    by_uuid: RwLock<HashMap<Uuid, Place>>,
}

impl Places {
    pub(crate) fn get(&self, uuid: &Uuid) -> Option<Place> {
        self.by_uuid.read().expect("no holder panics").get(uuid).copied()
    }

    pub(crate) fn put(&self, uuid: Uuid, place: Place) {
        self.by_uuid.write().expect("no holder panics").insert(uuid, place);
    }

    pub(crate) fn stop(&self, uuid: &Uuid) {
        if let Some(place) = self.by_uuid.write().expect("no holder panics").get_mut(uuid) {
            place.stopped = true;
        }
    }

    /// Ends it for a volume that is where the caller knows it; it may be open again elsewhere.
    pub(crate) fn stop_at(&self, uuid: &Uuid, shard: usize, volume: VolumeId) {
        let mut places = self.by_uuid.write().expect("no holder panics");
        if let Some(place) = places.get_mut(uuid).filter(|place| place.is(shard, volume)) {
            place.stopped = true;
        }
    }

    /// See [`Places::stop_at`].
    pub(crate) fn remove_at(&self, uuid: &Uuid, shard: usize, volume: VolumeId) {
        let mut places = self.by_uuid.write().expect("no holder panics");
        if places.get(uuid).is_some_and(|place| place.is(shard, volume)) {
            places.remove(uuid);
        }
    }

    pub(crate) fn all(&self) -> Vec<(Uuid, Place)> {
        let places = self.by_uuid.read().expect("no holder panics");
        places.iter().map(|(uuid, place)| (*uuid, *place)).collect()
    }
}
