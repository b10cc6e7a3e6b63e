//! Puts: encode, store on all OSDs that placement chose, acknowledge when c fragments are durable.

use std::time::{SystemTime, UNIX_EPOCH};

use format::fragment::NAME_MAX;
use machines::alba::{Cut, Policy, Verdict, mix, place};

use crate::pieces::{Fragment, Label, encode_piece};
use crate::preset::Preset;
use crate::{BackendError, Cause, Put, Result, Sink};

use super::find::unknown;
use super::uses::Use;
use super::{Cluster, failed, lock};

struct Memory(Vec<u8>);

impl Sink for Memory {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// The number by which an object is placed.
fn number_of(name: &str, piece: u32) -> u64 {
    name.bytes().fold(mix(u64::from(piece) + 1), |hash, byte| mix(hash ^ u64::from(byte)))
}

/// Later puts have higher numbers: the clock, or one more than what is seen.
fn next_generation(seen: u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
    now.max(seen + 1)
}

impl Cluster {
    pub(super) fn put_object(
        &self,
        name: &str,
        preset: &Preset,
        sealed: bool,
        fill: &mut dyn FnMut(&mut dyn Sink) -> Result<()>,
    ) -> Result<Put> {
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(failed("store", name, "its name has no or over 1024 bytes"));
        }
        let (verdict, sighting, _) = self.judge(name);
        match verdict {
            Verdict::Stored(_) => return self.put_again(name),
            Verdict::Unknown => return Err(unknown("store", name)),
            Verdict::Absent => {}
        }
        self.remove_leftovers(name)?;
        let latest = sighting.iter().map(|(fragment, _)| fragment.generation).max();
        let generation = next_generation(latest.unwrap_or(0));
        let mut object = Memory(Vec::new());
        fill(&mut object)?;
        let (policy, osds) = self.prepare(name, object.0.len() as u64, preset)?;
        let cut = Cut::new(policy.layout(), object.0.len() as u64, preset.fragment_size);
        let label = Label {
            object: name,
            object_len: object.0.len() as u64,
            acknowledge: policy.acknowledge() as u8,
            generation,
            sealed,
        };
        let stored = self.store(&label, &object.0, &cut, &policy, &osds);
        if stored.is_err() {
            // What stays behind on an OSD that fails is never taken for the object.
            let _ = self.everywhere(|osd| osd.delete_object(name));
        }
        self.forget(name);
        stored.map(|()| Put::Created)
    }

    /// The object is there already; but whoever put it may not have got as far as c.
    fn put_again(&self, name: &str) -> Result<Put> {
        self.forget(name);
        let found = self.must_find(name)?;
        if found.enough() {
            return Ok(Put::Exists);
        }
        self.repair_object(name)?;
        self.forget(name);
        if self.must_find(name)?.enough() {
            return Ok(Put::Exists);
        }
        Err(failed("store", name, "it is there, but on too few OSDs; bring more into reach"))
    }

    /// Removes fragments of puts that were cut off, if the object is not stored.
    pub(super) fn remove_leftovers(&self, name: &str) -> Result<()> {
        let (verdict, sighting, _) = self.judge(name);
        if verdict == Verdict::Absent {
            for (fragment, osd) in sighting {
                self.osds[osd].delete(name, &fragment)?;
            }
        }
        Ok(())
    }

    /// The policy for an object of so many bytes and the OSDs that may take it, which have been told
    /// of each other.
    fn prepare(&self, name: &str, bytes: u64, preset: &Preset) -> Result<(Policy, Vec<usize>)> {
        let mut up: Vec<usize> = self.reach().up().to_vec();
        loop {
            let room = |osd: &usize| self.osds[*osd].space().is_ok_and(|(_, free)| free > bytes);
            let roomy: Vec<usize> = up.iter().copied().filter(room).collect();
            let (policy, shortages) = preset.choose(&self.disks(&roomy));
            let Some(policy) = policy.copied() else {
                let why: Vec<String> = shortages.iter().map(ToString::to_string).collect();
                let full = preset.choose(&self.disks(&up)).0.is_some();
                let cause = if full { Cause::NoSpace } else { Cause::Failed };
                let why = format!("no policy of preset {} fits: {}", preset.name, why.join("; "));
                return Err(BackendError { cause, ..failed("store", name, why) });
            };
            let used = Use::of(&policy, up.iter().map(|osd| &self.osds[*osd]));
            if lock(&self.uses).contains(&used) {
                return Ok((policy, roomy));
            }
            let before = up.len();
            up.retain(|osd| used.write(&self.osds[*osd]).is_ok());
            if up.len() == before {
                lock(&self.uses).insert(used);
                return Ok((policy, roomy));
            }
        }
    }

    fn store(
        &self,
        label: &Label,
        object: &[u8],
        cut: &Cut,
        policy: &Policy,
        osds: &[usize],
    ) -> Result<()> {
        let codec = self.codec(*policy.layout());
        let disks = self.disks(osds);
        let name = label.object;
        for piece in 0..cut.pieces() {
            let placed = place(policy, &disks, number_of(name, piece));
            let placed = placed.map_err(|why| failed("store", name, why.to_string()))?;
            let fragments = encode_piece(&codec, label, object, cut, piece);
            let jobs = placed.iter().map(|disk| osds[*disk]).zip(&fragments).collect();
            let outcomes = self.store_all(name, jobs);
            let global = &outcomes[..policy.layout().global()];
            if global.iter().filter(|outcome| outcome.is_ok()).count() < policy.acknowledge() {
                let why = outcomes.into_iter().find_map(Result::err);
                return Err(why.unwrap_or_else(|| failed("store", name, "too few were stored")));
            }
        }
        Ok(())
    }

    /// Stores fragments on their OSDs, all at the same time; the outcomes in the same order.
    pub(super) fn store_all(&self, name: &str, jobs: Vec<(usize, &Fragment)>) -> Vec<Result<()>> {
        let store = |osd: usize, fragment: &Fragment| match fragment.header.name() {
            Some(file) => self.osds[osd].put(name, &file, fragment).map(|_| ()),
            None => Err(failed("store", name, "its header makes no sense")),
        };
        std::thread::scope(|scope| {
            let start = |(osd, fragment)| scope.spawn(move || store(osd, fragment));
            let threads: Vec<_> = jobs.into_iter().map(start).collect();
            let lost = || Err(failed("store", name, "the thread that stored it died"));
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| lost())).collect()
        })
    }
}
