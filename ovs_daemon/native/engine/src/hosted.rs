//! The volumes of a shard, as front ends see them.

use std::collections::HashMap;
use std::sync::Arc;

use edge::server::{Found, Host};
use edge::target::{Request, Targets, VolumeId, VolumeInfo};
use format::entry::Uuid;
use media::Ring;
use net::clock::monotonic_ns;
use volume::{Outputs, Volume};

use crate::mailbox::Reply;
use crate::places::Places;

/// Volumes that a shard can host at a time: ring tokens have 16 bits for the number.
const NUMBERS: u32 = 1 << 16;

/// A volume and who it is.
pub(crate) struct Entry {
    pub(crate) uuid: Uuid,
    pub(crate) volume: Volume,
    /// Of its attachments: earlier ones are shut out.
    generation: u64,
    active: bool,
}

/// The volumes of one shard.
pub(crate) struct Hosted {
    shard: usize,
    places: Arc<Places>,
    entries: Vec<Option<Box<Entry>>>,
    next_number: u32,
    /// Numbers of volumes that have something to do, or wait for a moment.
    active: Vec<u32>,
    pub(crate) out: Outputs,
    /// Control requests under way: the volume's number, and who waits.
    pub(crate) tickets: HashMap<u64, (u32, Reply<()>)>,
    next_ticket: u64,
}

impl Hosted {
    pub(crate) fn new(shard: usize, places: Arc<Places>) -> Self {
        Self {
            shard,
            places,
            entries: Vec::new(),
            next_number: 0,
            active: Vec::new(),
            out: Outputs::default(),
            tickets: HashMap::new(),
            next_ticket: 0,
        }
    }

    /// A number for a new volume; fill it with [`Hosted::put`]. A number is used again only after
    /// all others: whatever still comes in for a volume that is gone finds nobody, not its
    /// successor.
    pub(crate) fn free_number(&mut self) -> Option<u32> {
        for _ in 0..NUMBERS {
            let number = self.next_number;
            self.next_number = (number + 1) % NUMBERS;
            if self.entries.get(number as usize).is_none_or(Option::is_none) {
                return Some(number);
            }
        }
        None
    }

    pub(crate) fn put(&mut self, number: u32, uuid: Uuid, volume: Volume) {
        let index = number as usize;
        if index >= self.entries.len() {
            self.entries.resize_with(index + 1, || None);
        }
        self.entries[index] = Some(Box::new(Entry { uuid, volume, generation: 0, active: false }));
        self.activate(number);
    }

    /// Lets go of a volume. Jobs that no worker has yet are dropped, and whoever waits for one of
    /// its control requests hears that it was closed.
    pub(crate) fn remove(&mut self, number: VolumeId) {
        if let Some(place) = self.entries.get_mut(number.0 as usize) {
            *place = None;
        }
        self.out.jobs.retain(|job| job.volume != number.0);
        self.tickets.retain(|_, (volume, _)| *volume != number.0);
    }

    pub(crate) fn get(&self, number: VolumeId) -> Option<&Volume> {
        Some(&self.entries.get(number.0 as usize)?.as_ref()?.volume)
    }

    /// Earlier generations of a volume's attachments are shut out. False: they were already.
    pub(crate) fn raise_generation(&mut self, number: VolumeId, generation: u64) -> bool {
        let entry = self.entries.get_mut(number.0 as usize).and_then(Option::as_mut);
        let raised = entry.filter(|entry| entry.generation < generation);
        raised.map(|entry| entry.generation = generation).is_some()
    }

    /// Whether a volume answers nobody any more: fenced, or the lease was over.
    pub(crate) fn is_stopped(&self, number: VolumeId) -> bool {
        self.get(number).is_some_and(|volume| volume.stopped().is_some())
    }

    /// The lease has ended: every volume stops.
    pub(crate) fn expire(&mut self, ring: &mut Ring) {
        for entry in self.entries.iter_mut().flatten() {
            entry.volume.expire(ring, &mut self.out);
        }
    }

    /// Nothing is begun any more; the volumes that still read.
    pub(crate) fn halt(&mut self) -> Vec<VolumeId> {
        let mut reading = Vec::new();
        for (number, entry) in self.entries.iter_mut().enumerate() {
            let Some(entry) = entry else { continue };
            entry.volume.halt();
            if entry.volume.is_reading() {
                reading.push(VolumeId(number as u32));
            }
        }
        reading
    }

    /// Ends the volumes' connections to other nodes.
    pub(crate) fn leave_others(&mut self, ring: &mut Ring) {
        for entry in self.entries.iter_mut().flatten() {
            entry.volume.leave_followers(ring);
            entry.volume.leave_dtl(ring);
        }
    }

    pub(crate) fn entry(&self, number: VolumeId) -> Option<&Entry> {
        self.entries.get(number.0 as usize)?.as_deref()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.iter().all(Option::is_none)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().flatten().map(|entry| &**entry)
    }

    /// Calls `f` with a volume, which gets a turn afterwards.
    pub(crate) fn with<T>(
        &mut self,
        number: VolumeId,
        f: impl FnOnce(&mut Volume, &mut Outputs) -> T,
    ) -> Option<T> {
        let entry = self.entries.get_mut(number.0 as usize)?.as_mut()?;
        let result = f(&mut entry.volume, &mut self.out);
        self.activate(number.0);
        Some(result)
    }

    pub(crate) fn ticket(&mut self, number: VolumeId, reply: Reply<()>) -> u64 {
        self.next_ticket += 1;
        self.tickets.insert(self.next_ticket, (number.0, reply));
        self.next_ticket
    }

    fn activate(&mut self, number: u32) {
        if let Some(Some(entry)) = self.entries.get_mut(number as usize)
            && !entry.active
        {
            entry.active = true;
            self.active.push(number);
        }
    }

    /// Gives every active volume its turn.
    pub(crate) fn turn(&mut self, now: u64, ring: &mut Ring) {
        let mut next = 0;
        while next < self.active.len() {
            let number = self.active[next] as usize;
            next += 1;
            if let Some(Some(entry)) = self.entries.get_mut(number) {
                entry.volume.turn(now, ring, &mut self.out);
                if entry.volume.is_busy() {
                    entry.volume.end_turn(monotonic_ns());
                }
            }
        }
        let entries = &mut self.entries;
        self.active.retain(|number| match entries.get_mut(*number as usize) {
            Some(Some(entry)) => {
                entry.active = entry.volume.has_work() || entry.volume.wakes_at().is_some();
                entry.active
            }
            _ => false,
        });
    }

    /// When the next turn has to come by itself, in nanoseconds of the monotonic clock.
    pub(crate) fn wakes_at(&self) -> Option<u64> {
        let volumes = self
            .active
            .iter()
            .filter_map(|number| self.entries.get(*number as usize)?.as_ref()?.volume.wakes_at());
        volumes.min()
    }
}

impl Targets for Hosted {
    fn info(&self, volume: VolumeId) -> Option<VolumeInfo> {
        let volume = self.get(volume)?;
        Some(VolumeInfo { size: volume.size(), read_only: volume.is_read_only() })
    }

    fn submit(&mut self, volume: VolumeId, request: Request) {
        let id = request.id;
        if self.with(volume, |volume, out| volume.submit(request, out)).is_none() {
            let outcome = edge::target::Outcome::Failed(media::errno::EIO);
            self.out.completions.push(edge::target::Completion { id, outcome });
        }
    }
}

impl Host for Hosted {
    fn find(&self, volume: &Uuid) -> Found {
        match self.places.get(volume) {
            None => Found::Missing,
            Some(place) if place.stopped => Found::Missing,
            Some(place) if place.shard == self.shard => {
                Found::Here { volume: place.volume, epoch: place.epoch }
            }
            Some(place) => Found::Shard(place.shard),
        }
    }
}
