//! An OSD of role cache: blocks of fragments that were read, in one file, as long as they are worth
//! it.
//!
//! *What it is for.* The cache OSDs of a Domain are one cache for all nodes there: the fragments of
//! an object are spread over all Domains and on disks that may be slow, a block that was read once
//! is read from flash next door, whichever node has the volume by then. A reader asks the one OSD
//! that rendezvous hashing names for a fragment (`alba::cluster`), and on a miss the capacity OSDs.
//!
//! *What is kept* is a block: 64 KiB of a fragment's payload. Whole fragments would have 4 MiB read
//! and written for the 4 KiB that a guest wanted, single pages would need more memory to be found
//! than they are worth. It is what the fragment has, so what is encrypted there is encrypted here.
//!
//! *Which* blocks decides `machines::alba::Eviction`: a scan does not evict what is hot.
//!
//! *Never wrong.* A fragment's path names its object and the put, and what they name never changes;
//! so nothing here is ever out of date, and deleting only makes room. What is read from the file is
//! compared with checksums that were made when it came and are in memory: whatever the file or the
//! disk does, other bytes are a miss. So reads and writes need no lock: who reads a slot that gets
//! another block meanwhile misses.
//!
//! *Never needed.* Nothing is synced and a restart forgets everything: whoever asks reads the
//! capacity OSDs, which have it all. A disk without room keeps fewer blocks.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use alba::folder::{FolderOsd, first_damaged};
use alba::osd::{Answer, Request};
use alba::{BackendError, Cause, Put};
use format::crc32c;
use format::log::PAGE;
use format::osd::wire::BLOCK;
use machines::alba::{Eviction, digest, mix};
use media::read_cached_at;

/// Name of its file in the OSD's folder.
pub const FILE_NAME: &str = "cache.blocks";
/// A disk that was full is tried again after so many blocks.
const FULL_PAUSE: u64 = 1024;

/// A block that is in the file.
#[derive(Clone, Debug)]
struct Block {
    path: Arc<str>,
    number: u32,
    /// Of the bytes that came: 4 for each 4 KiB.
    crcs: Arc<[u8]>,
    /// Tells it from others that have the slot at other times.
    serial: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    hits: u64,
    misses: u64,
    hit_bytes: u64,
    evicted: u64,
    damaged: u64,
    refused: u64,
}

#[derive(Debug)]
struct State {
    eviction: Eviction,
    /// Slots by path and number.
    index: BTreeMap<Arc<str>, BTreeMap<u32, u32>>,
    blocks: Vec<Option<Block>>,
    serial: u64,
    /// Blocks for which a place was wanted; until so many the disk is taken for full.
    asked: u64,
    full_until: u64,
    figures: Figures,
}

/// See the top of the file.
#[derive(Debug)]
pub struct Cache {
    file: File,
    /// Blocks that it may have when the disk has room.
    limit: usize,
    state: Mutex<State>,
}

/// A range of a fragment's payload that is asked for.
#[derive(Clone, Copy, Debug)]
struct Wanted<'a> {
    path: &'a str,
    offset: u64,
    len: usize,
}

/// A part of it: a slot, its block, and the bytes of it.
#[derive(Debug)]
struct Part {
    slot: u32,
    block: Block,
    /// Of the block.
    skip: usize,
    len: usize,
}

/// Where a block may go.
enum Place {
    /// It is there already.
    Taken,
    Nowhere,
    /// `new`: it was never written.
    Slot {
        slot: u32,
        new: bool,
    },
}

/// What became of a read.
enum Outcome {
    Hit(Vec<u8>),
    Miss,
    Damaged,
    /// It needs the device.
    Later,
}

fn failed(request: &Request, cause: Cause, why: &str) -> BackendError {
    request.error(cause, why)
}

impl Cache {
    /// In the folder of this OSD, with at most so many bytes, and empty.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn open(osd: &FolderOsd, bytes_max: u64) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        let file = options.open(osd.path().join(FILE_NAME))?;
        let room = osd.space().map_or(0, |(total, _)| total);
        let limit = usize::try_from(bytes_max.min(room) / BLOCK).unwrap_or(usize::MAX);
        let limit = limit.min(u32::MAX as usize);
        let state = State {
            eviction: Eviction::new(limit),
            index: BTreeMap::new(),
            blocks: Vec::new(),
            serial: 0,
            asked: 0,
            full_until: 0,
            figures: Figures::default(),
        };
        Ok(Self { file, limit, state: Mutex::new(state) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer to a read, if it takes no device.
    pub fn get_at_once(&self, request: &Request) -> Option<alba::Result<Answer>> {
        self.look_up(request, true)
    }

    /// Does what is asked for, but keeping blocks, which is for one thread.
    pub fn perform(&self, request: &Request) -> alba::Result<Answer> {
        match request {
            Request::Get { .. } => {
                let later = || Err(failed(request, Cause::Failed, "it is no read"));
                self.look_up(request, false).unwrap_or_else(later)
            }
            Request::DeleteFolder { folder } => {
                self.lock().drop_below(folder);
                Ok(Answer::Done)
            }
            Request::Space => {
                let free = self.limit - self.lock().eviction.in_use();
                let [total, free] = [self.limit, free].map(|blocks| blocks as u64 * BLOCK);
                Ok(Answer::Space { total, free })
            }
            Request::Figures => Ok(Answer::Bytes(self.figures().into_bytes())),
            _ => Err(failed(request, Cause::Failed, "it is a cache, which keeps no objects")),
        }
    }

    fn look_up(&self, request: &Request, at_once: bool) -> Option<alba::Result<Answer>> {
        let Request::Get { path, payload_len, offset, len } = request else { return None };
        let page = PAGE as u64;
        let whole = [*payload_len, *offset, u64::from(*len)].iter().all(|n| n.is_multiple_of(page));
        let inside = offset.checked_add(u64::from(*len)).is_some_and(|end| end <= *payload_len);
        if !whole || !inside || *len == 0 || *payload_len > u64::from(u32::MAX) {
            return Some(Err(failed(request, Cause::Failed, "no fragment has such a range")));
        }
        let wanted = Wanted { path, offset: *offset, len: *len as usize };
        let outcome = self.read(&wanted, at_once);
        let mut state = self.lock();
        match outcome {
            Outcome::Later => None,
            Outcome::Hit(bytes) => {
                state.figures.hits += 1;
                state.figures.hit_bytes += u64::from(*len);
                Some(Ok(Answer::Bytes(bytes)))
            }
            Outcome::Miss => {
                state.figures.misses += 1;
                Some(Err(failed(request, Cause::NotFound, "it is not in the cache")))
            }
            Outcome::Damaged => {
                state.figures.damaged += 1;
                Some(Err(failed(request, Cause::Corrupt, "the cache's disk gave other bytes")))
            }
        }
    }

    fn read(&self, wanted: &Wanted<'_>, at_once: bool) -> Outcome {
        let Some(parts) = self.lock().parts(wanted) else { return Outcome::Miss };
        let mut bytes = vec![0; wanted.len + wanted.len / PAGE * 4];
        let (data, crcs) = bytes.split_at_mut(wanted.len);
        let mut done = 0;
        for part in &parts {
            let into = &mut data[done..done + part.len];
            let at = u64::from(part.slot) * BLOCK + part.skip as u64;
            let read = if at_once {
                if !read_cached_at(&self.file, at, into) {
                    return Outcome::Later;
                }
                true
            } else {
                self.file.read_exact_at(into, at).is_ok()
            };
            let first = part.skip / PAGE * 4;
            let expected = &part.block.crcs[first..first + part.len / PAGE * 4];
            let mut pages = into.chunks(PAGE).zip(expected.chunks(4));
            if !read || !pages.all(|(page, crc)| crc32c(page).to_le_bytes() == *crc) {
                // Of another block, if one has its slot by now.
                let damaged = self.lock().drop_block(part);
                return if damaged { Outcome::Damaged } else { Outcome::Miss };
            }
            let crcs_at = done / PAGE * 4;
            crcs[crcs_at..crcs_at + expected.len()].copy_from_slice(expected);
            done += part.len;
        }
        Outcome::Hit(bytes)
    }

    /// Keeps a block, as long as the OSD's disk has room. For one thread only.
    pub fn keep(&self, request: &Request, osd: &FolderOsd) -> alba::Result<Answer> {
        let wrong = |why| failed(request, Cause::Failed, why);
        let Request::Keep { path, payload_len, offset, parts } = request else {
            return Err(wrong("it is a cache, which keeps no objects"));
        };
        let fits = |len: u64| {
            len > 0 && offset.is_multiple_of(BLOCK) && payload_len.is_multiple_of(PAGE as u64)
        };
        let len = payload_len.saturating_sub(*offset).min(BLOCK);
        let [bytes] = &parts[..] else { return Err(wrong("it is not in one piece")) };
        let len = if fits(len) { len as usize } else { 0 };
        if len == 0 || bytes.len() != len + len / PAGE * 4 {
            return Err(wrong("no fragment has such a block"));
        }
        if first_damaged(bytes, len).is_some() {
            return Err(failed(request, Cause::Corrupt, "it was damaged on its way"));
        }
        let number = (offset / BLOCK) as u32;
        let (data, crcs) = bytes.split_at(len);
        // Once more with what it has, when the disk turns out to be full.
        for _ in 0..2 {
            let (slot, new) = match self.place_for(path, number) {
                Place::Taken => return Ok(Answer::Put(Put::Exists)),
                Place::Nowhere => break,
                Place::Slot { slot, new } => (slot, new),
            };
            let full = || io::ErrorKind::StorageFull.into();
            let roomy = !new || osd.space().is_ok_and(|(_, free)| free > BLOCK);
            let at = u64::from(slot) * BLOCK;
            let written = if roomy { self.file.write_all_at(data, at) } else { Err(full()) };
            match written {
                Ok(()) => {
                    self.lock().enter(slot, path, number, crcs);
                    return Ok(Answer::Put(Put::Created));
                }
                Err(error) => self.lock().refused(slot, &error),
            }
        }
        Err(failed(request, Cause::NoSpace, "its disk has no room for a block"))
    }

    /// A slot for a block, in which nobody finds anything any more.
    fn place_for(&self, path: &str, number: u32) -> Place {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.index.get(path).is_some_and(|blocks| blocks.contains_key(&number)) {
            return Place::Taken;
        }
        state.asked += 1;
        if state.eviction.capacity() < self.limit && state.asked >= state.full_until {
            state.eviction.set_capacity(self.limit);
        }
        let key = mix(digest(path.as_bytes()) ^ u64::from(number));
        let Some(slot) = state.eviction.admit(key) else { return Place::Nowhere };
        let new = state.blocks.len() <= slot as usize;
        if new {
            state.blocks.resize(slot as usize + 1, None);
        }
        if let Some(before) = state.blocks[slot as usize].take() {
            state.figures.evicted += 1;
            state.unlist(&before);
        }
        Place::Slot { slot, new }
    }

    fn figures(&self) -> String {
        let state = self.lock();
        let Figures { hits, misses, hit_bytes, evicted, damaged, refused } = state.figures;
        let (blocks, limit) = (state.eviction.in_use() as u64, self.limit as u64);
        let (bytes, size, admitted) = (blocks * BLOCK, limit * BLOCK, state.eviction.admitted());
        format!(
            "{{\"hits\":{hits},\"misses\":{misses},\"hit_bytes\":{hit_bytes},\
             \"admitted\":{admitted},\"evicted\":{evicted},\"damaged\":{damaged},\
             \"refused\":{refused},\"bytes\":{bytes},\"size\":{size}}}"
        )
    }
}

impl State {
    /// Where what is wanted lies, which is read; `None`: not all of it is there.
    fn parts(&mut self, wanted: &Wanted<'_>) -> Option<Vec<Part>> {
        let blocks = self.index.get(wanted.path)?;
        let end = wanted.offset + wanted.len as u64;
        let (first, last) = (wanted.offset / BLOCK, (end - 1) / BLOCK);
        let mut parts = Vec::with_capacity((last - first + 1) as usize);
        for number in first..=last {
            let slot = *blocks.get(&(number as u32))?;
            let block = self.blocks[slot as usize].clone()?;
            let skip = wanted.offset.saturating_sub(number * BLOCK) as usize;
            let until = (end - number * BLOCK).min(BLOCK) as usize;
            if until > block.crcs.len() / 4 * PAGE {
                return None;
            }
            parts.push(Part { slot, block, skip, len: until - skip });
        }
        parts.iter().for_each(|part| self.eviction.touch(part.slot));
        Some(parts)
    }

    /// A block is in its slot.
    fn enter(&mut self, slot: u32, path: &str, number: u32, crcs: &[u8]) {
        let known = self.index.get_key_value(path).map(|(path, _)| path.clone());
        let path: Arc<str> = known.unwrap_or_else(|| path.into());
        self.index.entry(path.clone()).or_default().insert(number, slot);
        self.serial += 1;
        let block = Block { path, number, crcs: crcs.into(), serial: self.serial };
        self.blocks[slot as usize] = Some(block);
    }

    /// A slot could not be written.
    fn refused(&mut self, slot: u32, error: &io::Error) {
        self.eviction.release(slot);
        self.figures.refused += 1;
        if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            let in_use = self.eviction.in_use();
            self.eviction.set_capacity(in_use);
            self.full_until = self.asked + FULL_PAUSE;
        }
    }

    fn unlist(&mut self, block: &Block) {
        if let Some(blocks) = self.index.get_mut(&block.path) {
            blocks.remove(&block.number);
            if blocks.is_empty() {
                self.index.remove(&block.path);
            }
        }
    }

    /// Forgets the block of a part; false: it was gone already.
    fn drop_block(&mut self, part: &Part) -> bool {
        let place = &mut self.blocks[part.slot as usize];
        if place.as_ref().is_none_or(|block| block.serial != part.block.serial) {
            return false;
        }
        *place = None;
        self.unlist(&part.block);
        self.eviction.release(part.slot);
        true
    }

    /// Forgets all blocks below a folder.
    fn drop_below(&mut self, folder: &str) {
        let below = format!("{folder}/");
        let from = (Bound::Included(below.as_str()), Bound::Unbounded);
        let paths = self.index.range::<str, _>(from).map(|(path, _)| path.clone());
        let paths: Vec<Arc<str>> = paths.take_while(|path| path.starts_with(&below)).collect();
        for path in paths {
            for slot in self.index.remove(&path).unwrap_or_default().into_values() {
                self.blocks[slot as usize] = None;
                self.eviction.release(slot);
            }
        }
    }
}
