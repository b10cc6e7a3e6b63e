//! Volumes in plain memory, which forget everything: what front ends and the Edge protocol are
//! tested and measured against, so that nothing but them is in the figures.

use std::collections::BTreeMap;
use std::io;

use media::{Arena, Slice};

use crate::server::{Found, Host};
use crate::target::{Completion, Extent, Outcome, Request, Targets, Verb, VolumeId, VolumeInfo};

const EINVAL: i32 = 22;
const EPERM: i32 = 1;

struct Volume {
    uuid: [u8; 16],
    bytes: Slice,
    size: u64,
    read_only: bool,
}

/// See the file's essay.
#[derive(Default)]
pub struct MemoryTargets {
    volumes: BTreeMap<u32, Volume>,
    completions: Vec<Completion>,
    /// Requests are kept and not executed, as by a volume that cannot serve.
    stalled: Option<Vec<(VolumeId, Request)>>,
    /// Requests executed since the start.
    pub executed: u64,
    /// Ownership epoch of all volumes.
    pub epoch: u64,
}

impl MemoryTargets {
    /// Adds a volume of `size` bytes; it can grow up to `size_max`.
    ///
    /// # Errors
    /// No memory.
    pub fn add(&mut self, id: u32, uuid: [u8; 16], size: u64, size_max: u64) -> io::Result<()> {
        let arena = Arena::anonymous(size_max.max(size) as usize)?;
        let bytes =
            arena.slice(0, size_max.max(size) as usize).ok_or(io::ErrorKind::InvalidInput)?;
        self.volumes.insert(id, Volume { uuid, bytes, size, read_only: false });
        Ok(())
    }

    /// Removes a volume with what it was asked and has not done.
    pub fn remove(&mut self, id: u32) {
        self.volumes.remove(&id);
        if let Some(kept) = &mut self.stalled {
            kept.retain(|(volume, _)| volume.0 != id);
        }
    }

    /// Changes the size of a volume, within what it can grow to.
    pub fn resize(&mut self, id: u32, size: u64) {
        if let Some(volume) = self.volumes.get_mut(&id) {
            volume.size = size.min(volume.bytes.len() as u64);
        }
    }

    /// From now on writes to the volume are refused, or not.
    pub fn set_read_only(&mut self, id: u32, read_only: bool) {
        if let Some(volume) = self.volumes.get_mut(&id) {
            volume.read_only = read_only;
        }
    }

    /// Stops executing requests, or executes those that waited and goes on.
    pub fn stall(&mut self, stalled: bool) {
        let kept = std::mem::replace(&mut self.stalled, stalled.then(Vec::new));
        for (volume, request) in kept.into_iter().flatten() {
            self.submit(volume, request);
        }
    }

    /// Requests that wait because of [`MemoryTargets::stall`].
    pub fn stalled_count(&self) -> usize {
        self.stalled.as_ref().map_or(0, Vec::len)
    }

    /// Forgets requests that wait, as a crash does.
    pub fn stalled_are_lost(&mut self) {
        if let Some(kept) = &mut self.stalled {
            kept.clear();
        }
        self.completions.clear();
    }

    /// There are completions to take; nothing rings for them.
    pub fn has_completions(&self) -> bool {
        !self.completions.is_empty()
    }

    /// Moves the completions since the last call to `out`.
    pub fn take_completions(&mut self, out: &mut Vec<Completion>) {
        out.append(&mut self.completions);
    }

    fn execute(&mut self, volume: VolumeId, request: &Request) -> Outcome {
        self.executed += 1;
        let Some(volume) = self.volumes.get(&volume.0) else {
            return Outcome::Failed(EINVAL);
        };
        let len = match &request.verb {
            Verb::Read(slice) | Verb::Write { data: slice, .. } => slice.len() as u64,
            Verb::Trim { len, .. } | Verb::WriteZeroes { len, .. } => *len,
            Verb::BlockStatus { len } => u64::from(*len),
            Verb::Flush => return Outcome::Done,
        };
        if request.offset.checked_add(len).is_none_or(|end| end > volume.size) {
            return Outcome::Failed(EINVAL);
        }
        let range = volume.bytes.sub(request.offset as usize, len as usize);
        match &request.verb {
            Verb::Read(slice) => range.copy_to(slice),
            Verb::BlockStatus { .. } => return Outcome::Extents(extents(&range)),
            _ if volume.read_only => return Outcome::Failed(EPERM),
            Verb::Write { data, .. } => data.copy_to(&range),
            _ => range.zero(),
        }
        Outcome::Done
    }
}

/// Holes are whole zero clusters.
fn extents(range: &Slice) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::new();
    let mut at = 0;
    while at < range.len() {
        let len = (range.len() - at).min(4096);
        let hole = range.sub(at, len).is_zero();
        match extents.last_mut() {
            Some(last) if last.hole == hole => last.len += len as u32,
            _ => extents.push(Extent { len: len as u32, hole }),
        }
        at += len;
    }
    extents
}

impl Targets for MemoryTargets {
    fn info(&self, volume: VolumeId) -> Option<VolumeInfo> {
        let volume = self.volumes.get(&volume.0)?;
        Some(VolumeInfo { size: volume.size, read_only: volume.read_only })
    }

    fn submit(&mut self, volume: VolumeId, request: Request) {
        if let Some(kept) = &mut self.stalled {
            return kept.push((volume, request));
        }
        let outcome = self.execute(volume, &request);
        self.completions.push(Completion { id: request.id, outcome });
    }
}

impl Host for MemoryTargets {
    fn find(&self, uuid: &[u8; 16]) -> Found {
        let found = self.volumes.iter().find(|(_, volume)| volume.uuid == *uuid);
        found.map_or(Found::Missing, |(id, _)| Found::Here {
            volume: VolumeId(*id),
            epoch: self.epoch,
        })
    }
}
