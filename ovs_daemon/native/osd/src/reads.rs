//! Small reads of fragments that are open: from memory at once; what only the device has, the ring
//! reads, and no thread waits for it.

use std::sync::Arc;

use alba::folder::first_damaged;
use alba::osd::Request;
use format::log::PAGE;
use media::{Arena, Event, Ring};

use crate::disk::{AT_ONCE_MAX, Disk, Job};

/// Reads that may be under way; more are left to the disk's threads.
const SLOTS: usize = 64;
/// Bytes of one, and the checksums behind them.
const ROOM: usize = AT_ONCE_MAX as usize + PAGE;

struct Reading {
    job: Job,
    disk: usize,
    /// Of the bytes, and of the checksums, what is missing.
    missing: [usize; 2],
    /// Whether everything that has come is as long as it should be.
    sound: bool,
}

/// A read that is over.
pub(crate) struct Finished {
    pub(crate) job: Job,
    pub(crate) disk: usize,
    /// What was read and compared with the checksums, which are behind it; `None`: something is
    /// wrong, and the disk's threads will say what.
    pub(crate) bytes: Option<Vec<u8>>,
}

/// What came of a request.
pub(crate) enum Begun {
    /// Left to the disk's threads.
    Not(Job),
    /// The ring reads it.
    Started,
    /// Read.
    Over(Job, Vec<u8>),
}

/// See the top of the file.
pub(crate) struct Reads {
    arena: Arc<Arena>,
    slots: Vec<Option<Reading>>,
    /// Kind of the tokens of its operations.
    kind: u64,
}

fn lens(job: &Job) -> [usize; 2] {
    let Request::Get { len, .. } = job.asked.request else { return [0; 2] };
    [len as usize, len as usize / PAGE * 4]
}

impl Reads {
    /// Its operations have tokens of this kind, and numbers below 2^16 in them.
    pub(crate) fn new(kind: u64) -> std::io::Result<Self> {
        let slots = (0..SLOTS).map(|_| None).collect();
        Ok(Self { arena: Arena::anonymous(SLOTS * ROOM)?, slots, kind })
    }

    /// Reads, or starts it, unless it is another request, a large one, or of a fragment that is not
    /// open.
    pub(crate) fn begin(
        &mut self,
        ring: &mut Ring,
        (number, disk): (usize, &Disk),
        job: Job,
    ) -> Begun {
        let Some(found) = disk.locate(&job.asked) else { return Begun::Not(job) };
        let missing = lens(&job);
        if let Some(bytes) = found.read_cached(missing[0]) {
            return Begun::Over(job, bytes);
        }
        let Some(slot) = self.slots.iter().position(Option::is_none) else {
            return Begun::Not(job);
        };
        for (which, at) in [found.data_at, found.crcs_at].into_iter().enumerate() {
            let begin = slot * ROOM + which * missing[0];
            let Some(into) = self.arena.slice(begin, missing[which]) else {
                return Begun::Not(job);
            };
            let token = self.kind | (2 * slot + which) as u64;
            ring.read_file_at(&found.file, into, at, token);
        }
        self.slots[slot] = Some(Reading { job, disk: number, missing, sound: true });
        Begun::Started
    }

    /// An operation is over; the read, if it was the last one.
    pub(crate) fn done(&mut self, event: &Event) -> Option<Finished> {
        let number = (event.token & 0xffff) as usize;
        let (slot, which) = (number / 2, number % 2);
        let reading = self.slots.get_mut(slot)?.as_mut()?;
        reading.sound &= usize::try_from(event.result) == Ok(reading.missing[which]);
        reading.missing[which] = 0;
        if reading.missing != [0; 2] {
            return None;
        }
        let Reading { job, disk, sound, .. } = self.slots[slot].take()?;
        let [len, crcs] = lens(&job);
        let bytes = self.arena.slice(slot * ROOM, len + crcs).filter(|_| sound);
        let bytes = bytes.map(|slice| slice.to_vec());
        let bytes = bytes.filter(|bytes| first_damaged(bytes, len).is_none());
        Some(Finished { job, disk, bytes })
    }
}
