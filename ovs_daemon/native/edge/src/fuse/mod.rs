//! Volumes as files: for programs of the host that want a path, and for guests whose disk is to be
//! a file.
//!
//! Each volume is a file system of its own, whose root is a regular file, mounted over a file. The
//! kernel asks through one descriptor for each mount, so a volume that cannot serve now holds up
//! those who use it and nobody else. Nothing is cached in the kernel: reads and writes come as they
//! were asked, with `O_DIRECT` or without, and the size is asked for each time.
//!
//! What a regular file can do and a volume cannot: it does not grow by being written, and it does
//! not shrink. To cut it off means that what was cut off reads as zeroes; so `O_TRUNC`, by which
//! copying programs say that they want nothing of what was there, does what they count on.
//!
//! Driven like [`crate::nbd`]: events in, requests to the targets, outcomes back, `end_turn`.

mod memory;
mod mount;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;
use std::sync::Arc;

use media::{Arena, Event, Ring};
use net::FuseDevice;

use crate::slab::{Slab, Slots};
use crate::target::{Completion, Targets, VolumeId};
use crate::token::Token;

use memory::Memory;
use mount::{Mount, Pending};

/// Bytes of the arena that files need at least.
pub const ARENA_BYTES_MIN: usize = 4 * memory::CHUNK_BYTES;

/// A volume that is to be a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileOffer {
    /// The volume.
    pub volume: VolumeId,
    /// For the log.
    pub name: String,
    /// Refuse writes, whatever the volume would accept.
    pub read_only: bool,
    /// Permission bits.
    pub mode: u32,
    /// uid and gid.
    pub owner: (u32, u32),
}

/// What all mounts share.
struct Core {
    memory: Memory,
    slots: Slots<Pending>,
    /// Requests that are served in several steps and have a next one.
    next: Vec<Pending>,
    submitted: bool,
}

/// See the module's essay.
pub struct FuseServer {
    class: u8,
    core: Core,
    mounts: Slab<Mount>,
    generation: u16,
    log: Vec<String>,
}

impl FuseServer {
    /// A server without files. `class` fills the top 8 bits of its tokens and request identifiers;
    /// it uses the arena from `start` on, at least [`ARENA_BYTES_MIN`] bytes.
    pub fn new(class: u8, arena: Arc<Arena>, start: usize) -> Self {
        let (memory, slots) = (Memory::new(arena, start), Slots::new(class));
        let core = Core { memory, slots, next: Vec::new(), submitted: false };
        Self { class, core, mounts: Slab::new(), generation: 0, log: Vec::new() }
    }

    /// Mounts a volume over `path`.
    ///
    /// # Errors
    /// As [`FuseDevice::mount`] has them.
    pub fn mount(&mut self, ring: &mut Ring, offer: FileOffer, path: &Path) -> io::Result<()> {
        let device = FuseDevice::mount(path, offer.read_only, memory::DATA_BYTES as u32)?;
        self.adopt(ring, offer, device);
        Ok(())
    }

    /// Serves a volume to whoever is at the other end of a device.
    pub fn adopt(&mut self, ring: &mut Ring, offer: FileOffer, device: FuseDevice) {
        self.generation = self.generation.wrapping_add(1);
        let index = self.mounts.insert(Mount::new(offer, device, self.generation));
        self.listen(ring, index);
    }

    fn listen(&mut self, ring: &mut Ring, index: u32) {
        let Some(mount) = self.mounts.get_mut(index) else { return };
        if !mount.listening && !mount.starved {
            mount.listening = true;
            let token = Token { kind: 0, generation: mount.generation, index };
            ring.poll_readable(mount.device.fd(), token.pack(self.class));
        }
    }

    /// Whether a volume is a file now; somebody else may have unmounted it.
    pub fn serves(&self, volume: VolumeId) -> bool {
        self.mounts.iter().any(|(_, mount)| mount.offer.volume == volume)
    }

    /// Unmounts a volume. What was submitted for it must still be completed, or its memory stays in
    /// use.
    pub fn unmount(&mut self, volume: VolumeId) {
        let found = self.mounts.iter().find(|(_, mount)| mount.offer.volume == volume);
        if let Some(index) = found.map(|(index, _)| index) {
            self.mounts.remove(index);
        }
    }

    /// Unmounts everything.
    pub fn close(&mut self) {
        let all: Vec<u32> = self.mounts.iter().map(|(index, _)| index).collect();
        for index in all {
            self.mounts.remove(index);
        }
    }

    /// Nothing is outstanding at the volumes.
    pub fn is_idle(&self) -> bool {
        self.core.slots.len() == 0 && self.core.memory.is_whole()
    }

    /// Lines for the log since the last call.
    pub fn take_log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }

    /// An event of our class: a mount has requests.
    pub fn on_event(&mut self, event: Event, ring: &mut Ring, targets: &mut dyn Targets) {
        let token = Token::unpack(event.token);
        match self.mounts.get_mut(token.index) {
            Some(mount) if mount.generation == token.generation => mount.listening = false,
            _ => return,
        }
        self.serve(token.index, ring, targets);
    }

    fn serve(&mut self, index: u32, ring: &mut Ring, targets: &mut dyn Targets) {
        let Some(mount) = self.mounts.get_mut(index) else { return };
        match mount.serve(index, &mut self.core, targets) {
            Ok(()) => self.listen(ring, index),
            Err(error) => {
                let name = &mount.offer.name;
                self.log.push(format!("the file of volume {name} is gone: {error}"));
                self.mounts.remove(index);
            }
        }
    }

    /// The outcome of a request of ours.
    pub fn complete(&mut self, completion: Completion) {
        let Some(pending) = self.core.slots.remove(completion.id) else { return };
        let mount = self.mounts.get_mut(pending.mount);
        match mount.filter(|mount| mount.generation == pending.generation) {
            Some(mount) => mount.complete(pending, completion.outcome, &mut self.core),
            // Unmounted meanwhile; its memory was in use until now.
            None => pending.give_back(&mut self.core.memory),
        }
    }

    /// Goes on with what waited for memory or has a next step. True: the targets have got requests.
    pub fn end_turn(&mut self, ring: &mut Ring, targets: &mut dyn Targets) -> bool {
        for pending in std::mem::take(&mut self.core.next) {
            let mount = self.mounts.get_mut(pending.mount);
            if let Some(mount) = mount.filter(|mount| mount.generation == pending.generation) {
                mount.go_on(pending, &mut self.core, targets);
            }
        }
        let starved: Vec<u32> =
            self.mounts.iter().filter(|(_, mount)| mount.starved).map(|(index, _)| index).collect();
        for index in starved {
            self.serve(index, ring, targets);
        }
        std::mem::take(&mut self.core.submitted)
    }
}
