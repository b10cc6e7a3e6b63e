//! Reads: the map says where each cluster is; what the page cache has is copied at once, what the
//! disk has goes through the ring, what only the backend has goes to a worker thread. Every cluster
//! is compared with its checksum before anybody sees it.

use std::mem;

use edge::target::{Completion, Outcome, RequestId};
use format::entry::Uuid;
use format::log::PAGE;
use machines::map::Loc;
use media::{Ring, Slice, errno};

use crate::items::{covering, is_aligned};
use crate::jobs::{JobFailure, Work};
use crate::shell::{Outputs, Volume};
use crate::slab::Slab;

/// Who gets the bytes.
#[derive(Clone, Debug)]
enum Reader {
    /// A front end; `Some`: the wanted bytes are a part of the clusters read.
    Client { id: RequestId, part: Option<(usize, Slice)> },
    /// The volume's own partial write.
    Patch,
    /// Compaction.
    Move,
}

struct Read {
    reader: Reader,
    /// Whole clusters.
    into: Slice,
    left: u32,
    failed: Option<i32>,
}

/// A contiguous piece of a read that is under way.
struct Part {
    read: u32,
    lba: u64,
    into: Slice,
    loc: Loc,
    /// Through the ring: checksums to compare. On a worker: compared there.
    crcs: Option<Vec<u32>>,
    tries: u32,
}

/// Reads under way.
pub(crate) struct Reads {
    reads: Slab<Read>,
    parts: Slab<Part>,
    /// Pieces whose backend fails: tried again with the next retry, for as long as it takes.
    stalled: Vec<Part>,
    /// Data clusters of objects of ancestors, once known.
    sizes: std::collections::HashMap<(Uuid, u32), u32>,
}

impl Reads {
    pub(crate) fn new() -> Self {
        Self {
            reads: Slab::new(),
            parts: Slab::new(),
            stalled: Vec::new(),
            sizes: Default::default(),
        }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.reads.len()
    }
}

/// What became of a piece that was asked for.
enum Piece {
    Done,
    Pending,
}

const TRIES_MAX: u32 = 8;

impl Volume {
    pub(crate) fn start_reads(&mut self, ring: &mut Ring, out: &mut Outputs) {
        while let Some((id, offset, into)) = self.incoming_reads.pop_front() {
            self.stats.reads += 1;
            self.stats.read_bytes += into.len() as u64;
            if is_aligned(offset, into.len()) {
                let reader = Reader::Client { id, part: None };
                self.read(reader, offset / PAGE as u64, into, ring, out);
                continue;
            }
            let (lba, clusters) = covering(offset, into.len() as u64);
            let Ok(around) = Slice::zeroed(clusters as usize * PAGE) else {
                let outcome = Outcome::Failed(errno::ENOMEM);
                out.completions.push(Completion { id, outcome });
                continue;
            };
            let part = Some(((offset % PAGE as u64) as usize, into));
            self.read(Reader::Client { id, part }, lba, around, ring, out);
        }
    }

    pub(crate) fn read_around(
        &mut self,
        lba: u64,
        into: Slice,
        ring: &mut Ring,
        out: &mut Outputs,
    ) {
        self.read(Reader::Patch, lba, into, ring, out);
    }

    pub(crate) fn read_for_move(
        &mut self,
        lba: u64,
        into: Slice,
        ring: &mut Ring,
        out: &mut Outputs,
    ) {
        self.read(Reader::Move, lba, into, ring, out);
    }

    fn read(&mut self, reader: Reader, lba: u64, into: Slice, ring: &mut Ring, out: &mut Outputs) {
        let clusters = (into.len() / PAGE) as u64;
        if clusters == 1 {
            // The common case, without a list of runs.
            let loc = self.machine.map().get(lba);
            match loc {
                None => {
                    into.zero();
                    return self.read_done(reader, &into, None, ring, out);
                }
                Some(loc) if self.read_now(loc, &into) => {
                    return self.read_done(reader, &into, None, ring, out);
                }
                Some(_) => {}
            }
        }
        let mut runs = Vec::new();
        self.machine.map().runs(lba, clusters, &mut |at, len, loc| runs.push((at, len, loc)));
        let number =
            self.reads.reads.insert(Read { reader, into: into.clone(), left: 1, failed: None });
        for (at, len, loc) in runs {
            let target = into.sub((at - lba) as usize * PAGE, len as usize * PAGE);
            match loc {
                None => target.zero(),
                Some(loc) => {
                    if let Piece::Pending = self.piece(number, at, loc, target, 0, ring, out)
                        && let Some(read) = self.reads.reads.get_mut(number)
                    {
                        read.left += 1;
                    }
                }
            }
        }
        self.part_ended(number, None, ring, out);
    }

    /// One cluster, or a contiguous run of them, from the page cache; false: not there, or not
    /// as it should be (the long way finds out).
    fn read_now(&mut self, loc: Loc, into: &Slice) -> bool {
        if loc.log != self.machine.own_log() {
            return false;
        }
        let Some(file) = self.log.get(loc.sco) else { return false };
        let page = file.index.pages[usize::from(loc.ordinal)];
        let read = file.file.read_cached(u64::from(page) * PAGE as u64, into);
        matches!(read, Ok(true)) && file.verify(loc.ordinal.into(), into).is_ok()
    }

    /// Starts reading a run of clusters that are consecutive in one SCO.
    fn piece(
        &mut self,
        read: u32,
        lba: u64,
        loc: Loc,
        into: Slice,
        tries: u32,
        ring: &mut Ring,
        out: &mut Outputs,
    ) -> Piece {
        let own = loc.log == self.machine.own_log();
        let Some((log, log_text)) = self.ancestors.get(usize::from(loc.log)).cloned() else {
            return self.give_up(read, lba, "it is in an unknown log".to_owned());
        };
        let shared;
        let file = if own {
            self.log.get(loc.sco)
        } else {
            shared = self.shared.get(&log, loc.sco);
            shared.as_deref()
        };
        // After a checksum error in the buffer the backend's copy is the better one.
        if let Some(file) = file.filter(|_| tries == 0) {
            return self.piece_of_file_of(
                read,
                lba,
                loc,
                into,
                ring,
                out,
                own,
                &log,
                file.index.clusters(),
            );
        }
        let clusters = if own {
            self.machine.scos().get(&loc.sco).map(|s| s.clusters)
        } else {
            self.reads.sizes.get(&(log, loc.sco)).copied()
        };
        let crcs = None;
        let part =
            self.reads.parts.insert(Part { read, lba, into: into.clone(), loc, crcs, tries });
        let ordinal = loc.ordinal.into();
        let sco = loc.sco;
        self.job(Work::Fetch { part, log, log_text, sco, clusters, ordinal, into }, out);
        Piece::Pending
    }

    /// Reads a run from a SCO file: every range that the page cache has at once, the others
    /// through the ring.
    #[allow(clippy::too_many_arguments)]
    fn piece_of_file_of(
        &mut self,
        read: u32,
        lba: u64,
        loc: Loc,
        into: Slice,
        ring: &mut Ring,
        out: &mut Outputs,
        own: bool,
        log: &Uuid,
        clusters: u32,
    ) -> Piece {
        let first = u32::from(loc.ordinal);
        let count = (into.len() / PAGE) as u32;
        if first + count > clusters {
            return self.give_up(read, lba, format!("SCO {} is too short", loc.sco));
        }
        let mut ranges = Vec::new();
        let shared = if own { None } else { self.shared.get(log, loc.sco) };
        let file = if own { self.log.get(loc.sco) } else { shared.as_deref() };
        let Some(file) = file else { return self.piece(read, lba, loc, into, 1, ring, out) };
        file.ranges(first, &into, &mut ranges);
        let mut pending = Vec::new();
        let mut ordinal = first;
        for range in ranges {
            let here = (range.into.len() / PAGE) as u32;
            let cached = matches!(file.file.read_cached(range.offset, &range.into), Ok(true));
            if !(cached && file.verify(ordinal, &range.into).is_ok()) {
                let crcs = file.index.crcs[ordinal as usize..(ordinal + here) as usize].to_vec();
                pending.push((ordinal, range, crcs));
            }
            ordinal += here;
        }
        let fd = file.file.fd().clone();
        if pending.is_empty() {
            return Piece::Done;
        }
        let more = pending.len() as u32 - 1;
        if let Some(read) = self.reads.reads.get_mut(read) {
            read.left += more;
        }
        for (ordinal, range, crcs) in pending {
            let part = Part {
                read,
                lba: lba + u64::from(ordinal - first),
                into: range.into.clone(),
                loc: Loc { ordinal: ordinal as u16, ..loc },
                crcs: Some(crcs),
                tries: 0,
            };
            let number = self.reads.parts.insert(part);
            let token = self.token(0, number);
            ring.read_at(&fd, range.into, range.offset, token);
        }
        Piece::Pending
    }

    /// A piece that can't be read at all; the read fails when its other pieces are done.
    fn give_up(&mut self, read: u32, lba: u64, why: String) -> Piece {
        self.stats.checksum_errors += 1;
        let (_, text) = self.own();
        self.trouble.insert("read", format!("cannot read cluster {lba} of volume {text}: {why}"));
        if let Some(read) = self.reads.reads.get_mut(read) {
            read.failed = Some(errno::EIO);
        }
        Piece::Done
    }

    /// A range of a file was read through the ring.
    pub(crate) fn part_done(&mut self, part: u32, result: i32, ring: &mut Ring, out: &mut Outputs) {
        let Some(part) = self.reads.parts.remove(part) else { return };
        let whole = result == part.into.len() as i32;
        let crcs = part.crcs.unwrap_or_default();
        let same = whole
            && crcs
                .iter()
                .enumerate()
                .all(|(i, crc)| part.into.sub(i * PAGE, PAGE).crc32c() == *crc);
        let read = part.read;
        if !same {
            self.stats.checksum_errors += 1;
            // The backend may have it, if the SCO is there already.
            if let Piece::Pending = self.piece(read, part.lba, part.loc, part.into, 1, ring, out) {
                return;
            }
        }
        self.part_ended(read, None, ring, out);
    }

    /// A worker has read clusters of an object, or not.
    pub(crate) fn fetched(
        &mut self,
        part: u32,
        log: Uuid,
        sco: u32,
        result: Result<u32, JobFailure>,
        ring: &mut Ring,
        out: &mut Outputs,
    ) {
        let Some(part) = self.reads.parts.remove(part) else { return };
        let read = part.read;
        match result {
            Ok(clusters) => {
                if part.loc.log != self.machine.own_log() {
                    self.reads.sizes.insert((log, sco), clusters);
                }
            }
            // Compaction may have moved it meanwhile: look again.
            Err(error) if error.not_found && part.tries < TRIES_MAX => {
                return self.look_again(part, ring, out);
            }
            // The backend is away: guests wait, they see no error.
            Err(error) if !error.not_found && !error.corrupt => {
                self.note("backend", error);
                self.moves.retry_asked = true;
                self.reads.stalled.push(part);
                return;
            }
            Err(error) => {
                self.give_up(read, part.lba, error.why);
            }
        }
        self.part_ended(read, None, ring, out);
    }

    pub(crate) fn retry_reads(&mut self, ring: &mut Ring, out: &mut Outputs) {
        for part in mem::take(&mut self.reads.stalled) {
            self.trouble.remove("backend");
            self.look_again(part, ring, out);
        }
    }

    fn look_again(&mut self, part: Part, ring: &mut Ring, out: &mut Outputs) {
        let Part { read, lba, into, tries, .. } = part;
        let mut runs = Vec::new();
        let clusters = (into.len() / PAGE) as u64;
        self.machine.map().runs(lba, clusters, &mut |at, len, loc| runs.push((at, len, loc)));
        for (at, len, loc) in runs {
            let target = into.sub((at - lba) as usize * PAGE, len as usize * PAGE);
            match loc {
                None => target.zero(),
                Some(loc) => {
                    if let Piece::Pending = self.piece(read, at, loc, target, tries + 1, ring, out)
                        && let Some(read) = self.reads.reads.get_mut(read)
                    {
                        read.left += 1;
                    }
                }
            }
        }
        self.part_ended(read, None, ring, out);
    }

    fn part_ended(&mut self, read: u32, failed: Option<i32>, ring: &mut Ring, out: &mut Outputs) {
        let Some(state) = self.reads.reads.get_mut(read) else { return };
        state.failed = state.failed.or(failed);
        state.left -= 1;
        if state.left > 0 {
            return;
        }
        if let Some(Read { reader, into, failed, .. }) = self.reads.reads.remove(read) {
            self.read_done(reader, &into, failed, ring, out);
        }
    }

    fn read_done(
        &mut self,
        reader: Reader,
        into: &Slice,
        failed: Option<i32>,
        ring: &mut Ring,
        out: &mut Outputs,
    ) {
        match reader {
            Reader::Client { id, part } => {
                if let (None, Some((at, target))) = (failed, &part) {
                    into.sub(*at, target.len()).copy_to(target);
                }
                let outcome = failed.map_or(Outcome::Done, Outcome::Failed);
                out.completions.push(Completion { id, outcome });
            }
            Reader::Patch => self.patch_is_read(failed, out),
            Reader::Move => self.move_is_read(failed, ring, out),
        }
    }

    /// Reads that have not been answered yet.
    pub fn reads_in_flight(&self) -> usize {
        self.reads.in_flight()
    }
}
