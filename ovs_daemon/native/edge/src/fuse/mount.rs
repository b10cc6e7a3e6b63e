//! One volume as a file: the kernel's requests to it, and its outcomes back.

use std::io;

use format::fuse::{self, Ask, Asked, Attributes, Change, KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE};
use net::FuseDevice;

use crate::target::{Extent, Outcome, Request, Targets, Verb};

use super::memory::{DATA_BYTES, Memory};
use super::{Core, FileOffer};

/// Error numbers (errno(3)).
const EIO: i32 = 5;
const ENXIO: i32 = 6;
const EFBIG: i32 = 27;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;
const EINVAL: i32 = 22;
const ENOSYS: i32 = 38;
const EPROTO: i32 = 71;
const EOPNOTSUPP: i32 = 95;
/// What targets answer for a volume that is read-only, and for one that is gone.
const EPERM: i32 = 1;
const ESHUTDOWN: i32 = 108;

/// Requests taken from one mount before the others have their turn.
const TURN_MAX: usize = 32;
/// Requests of asynchronous readers and writers that the kernel may have under way.
const BACKGROUND: u16 = 256;
/// Bytes in one step of zeroing, and of looking for data.
const STEP_BYTES: u64 = 1 << 30;

/// What a request at the volume is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Its data is in the chunk.
    Read {
        chunk: u32,
        len: u32,
    },
    /// Its payload is in the chunk.
    Write {
        chunk: u32,
        len: u32,
    },
    Flush,
    /// Zeroes from `at` to `end`, step by step. `cut`: as a new size was set. Trimming would leave
    /// parts of clusters as they are.
    Zero {
        at: u64,
        end: u64,
        cut: bool,
    },
    /// Looks for a hole, or for data, from `at` on.
    Seek {
        at: u64,
        hole: bool,
    },
}

/// A request that is with the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pending {
    pub(super) mount: u32,
    pub(super) generation: u16,
    unique: u64,
    kind: Kind,
}

impl Pending {
    pub(super) fn give_back(&self, memory: &mut Memory) {
        if let Kind::Read { chunk, .. } | Kind::Write { chunk, .. } = self.kind {
            memory.give_back(chunk);
        }
    }
}

pub(super) struct Mount {
    pub(super) offer: FileOffer,
    pub(super) device: FuseDevice,
    pub(super) generation: u16,
    pub(super) listening: bool,
    /// It has requests for which there was no memory.
    pub(super) starved: bool,
    mode: u32,
    owner: (u32, u32),
    /// Chunks in use.
    held: usize,
}

impl Mount {
    pub(super) fn new(offer: FileOffer, device: FuseDevice, generation: u16) -> Self {
        let (mode, owner) = (offer.mode, offer.owner);
        let (listening, starved, held) = (false, false, 0);
        Self { offer, device, generation, listening, starved, mode, owner, held }
    }

    /// Takes requests until there are none, memory is short or it is others' turn.
    pub(super) fn serve(
        &mut self,
        index: u32,
        core: &mut Core,
        targets: &mut dyn Targets,
    ) -> io::Result<()> {
        self.starved = false;
        for _ in 0..TURN_MAX {
            let Some(chunk) = core.memory.take(self.held) else {
                self.starved = true;
                return Ok(());
            };
            let request = core.memory.request(chunk);
            let len = match self.device.read(&request) {
                Ok(len) => len,
                Err(error) => {
                    core.memory.give_back(chunk);
                    match error.kind() {
                        io::ErrorKind::WouldBlock => return Ok(()),
                        io::ErrorKind::Interrupted | io::ErrorKind::NotFound => continue,
                        _ => return Err(error),
                    }
                }
            };
            let mut head = [0; fuse::ARGUMENTS_MAX];
            let known = len.min(head.len());
            request.read(0, &mut head[..known]);
            let asked = Asked::parse(&head[..known], len)
                .map_err(|error| io::Error::other(format!("the kernel sent nonsense: {error}")))?;
            let of = Pending {
                mount: index,
                generation: self.generation,
                unique: asked.unique,
                kind: Kind::Flush,
            };
            if !self.data(of, asked.ask, chunk, core, targets) {
                core.memory.give_back(chunk);
                self.other(of, asked.ask, core, targets);
            }
        }
        Ok(())
    }

    /// Reads and writes, which keep the chunk. False: it is neither, or over already.
    fn data(
        &mut self,
        of: Pending,
        ask: Ask,
        chunk: u32,
        core: &mut Core,
        targets: &mut dyn Targets,
    ) -> bool {
        let size = self.size(targets);
        let (kind, offset, verb) = match ask {
            Ask::Read { offset, len } => {
                let len = u64::from(len).min(size.saturating_sub(offset)).min(DATA_BYTES as u64);
                if len == 0 {
                    return false;
                }
                let verb = Verb::Read(core.memory.data(chunk, len as usize));
                (Kind::Read { chunk, len: len as u32 }, offset, verb)
            }
            Ask::Write { offset, len } => {
                let fits = offset.checked_add(u64::from(len)).is_some_and(|end| end <= size);
                if !fits || len == 0 || self.offer.read_only {
                    return false;
                }
                let data = core.memory.data(chunk, len as usize);
                (Kind::Write { chunk, len }, offset, Verb::Write { data, fua: false })
            }
            _ => return false,
        };
        self.held += 1;
        self.submit(Pending { kind, ..of }, offset, verb, core, targets);
        true
    }

    /// Everything else, and reads and writes that end at once.
    fn other(&mut self, of: Pending, ask: Ask, core: &mut Core, targets: &mut dyn Targets) {
        let size = self.size(targets);
        match ask {
            Ask::Init { major, flags } if fuse::is_known(major) => {
                self.answer(of, &fuse::init(flags, DATA_BYTES as u32, BACKGROUND));
            }
            Ask::Init { .. } => self.refuse(of, EPROTO),
            Ask::GetAttr => self.answer(of, &self.attributes(size)),
            Ask::SetAttr(change) => self.change(of, change, size, core, targets),
            Ask::Open => self.answer(of, &fuse::opened()),
            Ask::Write { .. } if self.offer.read_only => self.refuse(of, EROFS),
            Ask::Write { len: 0, .. } => self.answer(of, &fuse::written(0)),
            Ask::Write { .. } => self.refuse(of, ENOSPC),
            Ask::Read { .. } | Ask::Release | Ask::Destroy => self.answer(of, &[]),
            Ask::Fsync => {
                self.submit(Pending { kind: Kind::Flush, ..of }, 0, Verb::Flush, core, targets);
            }
            Ask::Allocate { offset, len, mode } => match zeroed_to(offset, len, mode, size) {
                Ok(end) if !self.offer.read_only => {
                    let kind = Kind::Zero { at: offset.min(end), end, cut: false };
                    self.go_on(Pending { kind, ..of }, core, targets);
                }
                Ok(_) => self.refuse(of, EROFS),
                Err(errno) => self.refuse(of, errno),
            },
            Ask::Seek { offset, whence } => {
                let hole = whence == fuse::SEEK_HOLE;
                if !hole && whence != fuse::SEEK_DATA {
                    return self.refuse(of, EINVAL);
                }
                let kind = Kind::Seek { at: offset, hole };
                if offset >= size {
                    return self.refuse(of, ENXIO);
                }
                self.go_on(Pending { kind, ..of }, core, targets);
            }
            Ask::StatFs => self.answer(of, &fuse::space(size)),
            Ask::Forget => {}
            Ask::Other(_) => self.refuse(of, ENOSYS),
        }
    }

    fn change(
        &mut self,
        of: Pending,
        change: Change,
        size: u64,
        core: &mut Core,
        targets: &mut dyn Targets,
    ) {
        if let Some(end) = change.size {
            if end > size {
                return self.refuse(of, EFBIG);
            }
            if self.offer.read_only {
                return self.refuse(of, EROFS);
            }
        }
        self.mode = change.mode.map_or(self.mode, |mode| mode & 0o777);
        self.owner = (change.uid.unwrap_or(self.owner.0), change.gid.unwrap_or(self.owner.1));
        let at = change.size.unwrap_or(size);
        let kind = Kind::Zero { at, end: size, cut: true };
        self.go_on(Pending { kind, ..of }, core, targets);
    }

    /// The next step of a request that is served in several, or its end.
    pub(super) fn go_on(&mut self, of: Pending, core: &mut Core, targets: &mut dyn Targets) {
        match of.kind {
            Kind::Zero { at, end, cut, .. } if at >= end => {
                if cut {
                    self.answer(of, &self.attributes(self.size(targets)));
                } else {
                    self.answer(of, &[]);
                }
            }
            Kind::Zero { at, end, cut } => {
                let len = (end - at).min(STEP_BYTES);
                let kind = Kind::Zero { at: at + len, end, cut };
                let verb = Verb::WriteZeroes { len, fua: false };
                self.submit(Pending { kind, ..of }, at, verb, core, targets);
            }
            Kind::Seek { at, hole } => {
                let size = self.size(targets);
                if at >= size {
                    // Behind the end is a hole, and no data.
                    return if hole {
                        self.answer(of, &fuse::found(size));
                    } else {
                        self.refuse(of, ENXIO);
                    };
                }
                let verb = Verb::BlockStatus { len: (size - at).min(STEP_BYTES) as u32 };
                self.submit(of, at, verb, core, targets);
            }
            Kind::Read { .. } | Kind::Write { .. } | Kind::Flush => {}
        }
    }

    fn submit(
        &mut self,
        of: Pending,
        offset: u64,
        verb: Verb,
        core: &mut Core,
        targets: &mut dyn Targets,
    ) {
        let id = core.slots.insert(of);
        core.submitted = true;
        targets.submit(self.offer.volume, Request { id, offset, verb });
    }

    /// A request of this mount has ended at the volume.
    pub(super) fn complete(&mut self, of: Pending, outcome: Outcome, core: &mut Core) {
        let errno = match &outcome {
            Outcome::Failed(EPERM) => EROFS,
            Outcome::Failed(ESHUTDOWN) => EIO,
            Outcome::Failed(errno) => *errno,
            Outcome::Done | Outcome::Extents(_) => 0,
        };
        match (of.kind, outcome) {
            _ if errno != 0 => self.refuse(of, errno),
            (Kind::Read { chunk, len }, _) => {
                let data = core.memory.data(chunk, len as usize);
                let head = fuse::reply(of.unique, 0, len as usize);
                // Nobody waits any more: then nobody misses it.
                let _ = self.device.reply(&head, &[], Some(&data));
            }
            (Kind::Write { len, .. }, _) => self.answer(of, &fuse::written(len)),
            (Kind::Flush, _) => self.answer(of, &[]),
            (Kind::Zero { .. }, _) => core.next.push(of),
            (Kind::Seek { at, hole }, Outcome::Extents(extents)) => match first(&extents, hole) {
                Ok(skipped) => self.answer(of, &fuse::found(at + skipped)),
                Err(all) => {
                    let kind = Kind::Seek { at: at + all, hole };
                    core.next.push(Pending { kind, ..of });
                }
            },
            (Kind::Seek { .. }, _) => self.refuse(of, EIO),
        }
        if matches!(of.kind, Kind::Read { .. } | Kind::Write { .. }) {
            self.held -= 1;
            of.give_back(&mut core.memory);
        }
    }

    fn answer(&self, of: Pending, result: &[u8]) {
        let head = fuse::reply(of.unique, 0, result.len());
        let _ = self.device.reply(&head, result, None);
    }

    fn refuse(&self, of: Pending, errno: i32) {
        let _ = self.device.reply(&fuse::reply(of.unique, errno, 0), &[], None);
    }

    fn size(&self, targets: &dyn Targets) -> u64 {
        targets.info(self.offer.volume).map_or(0, |info| info.size)
    }

    fn attributes(&self, size: u64) -> [u8; 104] {
        let (uid, gid) = self.owner;
        Attributes { size, mode: self.mode, uid, gid }.result()
    }
}

/// The end of what `fallocate(2)` asks to have zeroed; or an errno.
fn zeroed_to(offset: u64, len: u64, mode: u32, size: u64) -> Result<u64, i32> {
    let end = offset.saturating_add(len);
    if mode & KEEP_SIZE == 0 && end > size {
        return Err(EFBIG);
    }
    match mode & !KEEP_SIZE {
        PUNCH_HOLE | ZERO_RANGE => Ok(end.min(size)),
        _ => Err(EOPNOTSUPP),
    }
}

/// How many bytes come before the first hole, or the first data; or how many there are in all.
fn first(extents: &[Extent], hole: bool) -> Result<u64, u64> {
    let mut skipped = 0;
    for extent in extents {
        if extent.hole == hole {
            return Ok(skipped);
        }
        skipped += u64::from(extent.len);
    }
    Err(skipped)
}
