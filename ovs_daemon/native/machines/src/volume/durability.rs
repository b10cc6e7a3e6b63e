//! From appended to safe: syncs, uploads, evictions.

use alloc::vec::Vec;

use super::room::Beside;
use super::{Action, Mutant, Sco, Stage, Stall, Volume};

impl Volume {
    pub(super) fn closed(&mut self, number: u32) {
        if let Some(sco) = self.scos.get_mut(&number) {
            sco.stage = Stage::Closed;
            self.closed_sequence = sco.last_sequence;
        }
        self.open = None;
        self.beside = Beside::default();
        self.take_checkpoint(number);
    }

    /// Syncs when somebody waits for it or a closed SCO is not durable; one sync at a time, so
    /// that all flushes that arrive meanwhile share the next one.
    pub(super) fn start_sync(&mut self, out: &mut Vec<Action>) {
        if self.sync_in_flight.is_some() || self.durable >= self.sequence {
            return;
        }
        let durable = self.durable;
        if self.waiters.is_empty() && self.closed_sequence <= durable {
            return;
        }
        // A file whose sync failed stays in the way until its object is stored.
        let trouble = self.pending().any(|(_, s)| s.unsyncable && s.last_sequence > durable);
        if trouble && !self.is(Mutant::BelieveSecondSync) {
            return;
        }
        self.sync_in_flight = Some(self.sequence);
        out.push(Action::Sync { after: self.durable, through: self.sequence });
    }

    pub(super) fn synced(&mut self, through: u64, out: &mut Vec<Action>) {
        self.sync_in_flight = None;
        let through = if self.is(Mutant::SyncCoversTooMuch) { self.sequence } else { through };
        self.advance_durable(through, out);
    }

    /// What the sync should have covered is in the page cache at best, and the kernel may drop it.
    /// Its SCOs are uploaded from there (every checksum compared) and become durable that way.
    pub(super) fn sync_failed(&mut self) {
        self.sync_in_flight = None;
        let durable = self.durable;
        for sco in self.scos.values_mut() {
            if sco.last_sequence > durable && sco.stage < Stage::Uploaded {
                sco.unsyncable = true;
            }
        }
    }

    fn advance_durable(&mut self, through: u64, out: &mut Vec<Action>) {
        self.durable = self.durable.max(through);
        while let Some(&(sequence, id)) = self.waiters.front() {
            if sequence > self.durable {
                break;
            }
            self.waiters.pop_front();
            out.push(Action::Complete(id));
        }
    }

    /// Uploads the oldest closed SCO; one at a time and in log order, so that what the backend has
    /// is always the log up to some SCO, without a hole.
    pub(super) fn start_uploads(&mut self, out: &mut Vec<Action>) {
        if self.upload_failed || self.pending_scos == 0 {
            return;
        }
        let closed = |(_, sco): &(&u32, &Sco)| sco.stage == Stage::Closed;
        let next = match self.is(Mutant::UploadNewestFirst) {
            true => self.pending().filter(closed).last(),
            false => self.pending().next(),
        };
        let Some((number, sco)) = next.map(|(number, sco)| (*number, *sco)) else {
            return;
        };
        let may = sco.last_sequence <= self.durable || sco.unsyncable;
        if sco.stage != Stage::Closed || !may {
            return;
        }
        if let Some(sco) = self.scos.get_mut(&number) {
            sco.stage = Stage::Uploading;
        }
        out.push(Action::Upload(number));
        if self.is(Mutant::EvictBeforeUploaded) {
            out.push(Action::Evict(number));
        }
    }

    pub(super) fn uploaded(&mut self, number: u32, out: &mut Vec<Action>) {
        let Some(sco) = self.scos.get_mut(&number) else {
            return;
        };
        if sco.stage != Stage::Uploading {
            return;
        }
        sco.stage = Stage::Uploaded;
        self.pending_scos -= 1;
        self.pending_room -= u64::from(sco.room);
        if self.stall == Some(Stall::BackendBehind) {
            self.stall = None;
        }
        self.count_uploads_as_durable(out);
        self.advance_pending();
        self.evict(out);
    }

    /// Objects are durable: the log is as far as they reach without a gap.
    fn count_uploads_as_durable(&mut self, out: &mut Vec<Action>) {
        let mut durable = self.durable;
        for sco in self.scos.values() {
            if sco.last_sequence > durable {
                if sco.stage < Stage::Uploaded {
                    break;
                }
                durable = sco.last_sequence;
            }
        }
        self.advance_durable(durable, out);
    }

    /// What an uploaded SCO takes of the cache, in clusters. Each is a file that is open: the
    /// smallest count for a sixteenth of a full one, so that their number is bounded too.
    fn cache_weight(&self, sco: &Sco) -> u64 {
        if self.is(Mutant::CountFilesKept) {
            return self.limits.sco_clusters.into();
        }
        sco.room.max(self.limits.sco_clusters.div_ceil(16)).into()
    }

    /// Evicts the oldest until what is kept has room.
    fn evict(&mut self, out: &mut Vec<Action>) {
        let room = u64::from(self.limits.keep_scos) * u64::from(self.limits.sco_clusters);
        let uploaded = |(_, sco): &(&u32, &Sco)| sco.stage == Stage::Uploaded;
        let cached = self.scos.iter().filter(uploaded);
        let cached: Vec<(u32, u64)> = cached.map(|(n, sco)| (*n, self.cache_weight(sco))).collect();
        let mut kept: u64 = cached.iter().map(|(_, weight)| weight).sum();
        for (number, weight) in cached {
            if kept <= room {
                return;
            }
            kept -= weight;
            if let Some(sco) = self.scos.get_mut(&number) {
                sco.stage = Stage::Evicted;
                out.push(Action::Evict(number));
            }
        }
    }

    pub(super) fn upload_failed(&mut self, number: u32, out: &mut Vec<Action>) {
        if self.is(Mutant::FailedUploadCounts) {
            self.uploaded(number, out);
            return;
        }
        if let Some(sco) = self.scos.get_mut(&number)
            && sco.stage == Stage::Uploading
        {
            sco.stage = Stage::Closed;
            self.upload_failed = true;
            self.ask_retry(out);
        }
    }
}
