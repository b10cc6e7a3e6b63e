//! Reads: the map says where each cluster is; what the page cache has is copied at once, what the
//! disk has goes through the ring, what only the backend has goes to a worker thread. Every cluster
//! is compared with its checksum before anybody sees it.

use std::mem;

use buffer::{FileRange, ScoFile};
use edge::target::{Completion, Outcome, RequestId};
use format::entry::Uuid;
use format::log::PAGE;
use machines::map::Loc;
use machines::volume::Stage;
use media::{Fd, Ring, Slice, errno};

use crate::items::{covering, is_aligned};
use crate::jobs::{JobFailure, Work};
use crate::load::Class;
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

/// Clusters of a read that are consecutive in one SCO.
#[derive(Clone)]
struct Span {
    read: u32,
    lba: u64,
    loc: Loc,
    into: Slice,
    /// Earlier attempts.
    tries: u32,
    /// What the write buffer has of it is damaged: the backend's copy is the better one.
    damaged: bool,
}

impl Span {
    fn clusters(&self) -> u32 {
        (self.into.len() / PAGE) as u32
    }
}

/// A span that is under way.
struct Part {
    span: Span,
    /// Through the ring: checksums to compare. On a worker: compared there.
    crcs: Option<Vec<u32>>,
}

/// Reads under way.
pub(crate) struct Reads {
    reads: Slab<Read>,
    parts: Slab<Part>,
    /// Pieces whose backend fails: tried again with the next retry, for as long as it takes.
    stalled: Vec<Span>,
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

    /// The ring or a worker thread has some.
    pub(crate) fn has_parts(&self) -> bool {
        self.parts.len() > 0
    }

    /// One that ended after the volume was stopped: nobody waits for it.
    pub(crate) fn drop_part(&mut self, part: u32) {
        self.parts.remove(part);
    }

    /// Memory of front ends is being filled.
    pub(crate) fn has_clients(&self) -> bool {
        self.reads.iter().any(|read| matches!(read.reader, Reader::Client { .. }))
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
                self.load.leave(Class::Read, 1);
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

    /// Reads what was listed at `from`, not what the map has at `lba` by now: only that may be
    /// given to the log as the content of `from`.
    pub(crate) fn read_for_move(
        &mut self,
        lba: u64,
        from: Loc,
        into: Slice,
        ring: &mut Ring,
        out: &mut Outputs,
    ) {
        let read = Read { reader: Reader::Move, into: into.clone(), left: 1, failed: None };
        let number = self.reads.reads.insert(read);
        let span = Span { read: number, lba, loc: from, into, tries: 0, damaged: false };
        self.begin_piece(span, ring, out);
        self.part_ended(number, out);
    }

    fn read(&mut self, reader: Reader, lba: u64, into: Slice, ring: &mut Ring, out: &mut Outputs) {
        let clusters = (into.len() / PAGE) as u64;
        if clusters == 1 {
            // The common case, without a list of runs.
            let loc = self.machine.map().get(lba);
            match loc {
                None => {
                    into.zero();
                    return self.read_done(reader, &into, None, out);
                }
                Some(loc) if self.read_now(loc, &into) => {
                    return self.read_done(reader, &into, None, out);
                }
                Some(_) => {}
            }
        }
        let read = Read { reader, into: into.clone(), left: 1, failed: None };
        let number = self.reads.reads.insert(read);
        self.look_up(number, lba, &into, 0, ring, out);
        self.part_ended(number, out);
    }

    /// Finds out where clusters are, and starts to read them.
    fn look_up(
        &mut self,
        read: u32,
        lba: u64,
        into: &Slice,
        tries: u32,
        ring: &mut Ring,
        out: &mut Outputs,
    ) {
        let mut runs = Vec::new();
        let clusters = (into.len() / PAGE) as u64;
        self.machine.map().runs(lba, clusters, &mut |at, len, loc| runs.push((at, len, loc)));
        for (at, len, loc) in runs {
            let into = into.sub((at - lba) as usize * PAGE, len as usize * PAGE);
            let Some(loc) = loc else {
                into.zero();
                continue;
            };
            let span = Span { read, lba: at, loc, into, tries, damaged: false };
            self.begin_piece(span, ring, out);
        }
    }

    /// Starts a piece, which its read then waits for.
    fn begin_piece(&mut self, span: Span, ring: &mut Ring, out: &mut Outputs) {
        let read = span.read;
        if let Piece::Pending = self.piece(span, ring, out)
            && let Some(read) = self.reads.reads.get_mut(read)
        {
            read.left += 1;
        }
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

    /// Starts reading a span: in the write buffer, or on the backend. After a checksum error in
    /// the buffer the backend's copy is the better one.
    fn piece(&mut self, span: Span, ring: &mut Ring, out: &mut Outputs) -> Piece {
        let own = span.loc.log == self.machine.own_log();
        let sco = span.loc.sco;
        let Some((log, log_text)) = self.ancestors.get(usize::from(span.loc.log)).cloned() else {
            return self.give_up(&span, "it is in an unknown log".to_owned());
        };
        let shared = if own { None } else { self.shared.get(&log, sco) };
        let file = if own { self.log.get(sco) } else { shared.as_deref() };
        if let Some(file) = file.filter(|_| !span.damaged) {
            let (fd, pending) = match read_file(file, &span) {
                Ok(pending) => (file.file.fd().clone(), pending),
                Err(why) => return self.give_up(&span, why),
            };
            return self.read_through_ring(&span, &fd, pending, ring);
        }
        let clusters = if own {
            self.machine.scos().get(&sco).map(|s| s.clusters)
        } else {
            self.reads.sizes.get(&(log, sco)).copied()
        };
        let (ordinal, into) = (span.loc.ordinal.into(), span.into.clone());
        let part = self.reads.parts.insert(Part { span, crcs: None });
        self.job(Work::Fetch { part, log, log_text, sco, clusters, ordinal, into }, out);
        Piece::Pending
    }

    /// Reads what the page cache did not have.
    fn read_through_ring(
        &mut self,
        span: &Span,
        fd: &Fd,
        pending: Vec<(u32, FileRange, Vec<u32>)>,
        ring: &mut Ring,
    ) -> Piece {
        if pending.is_empty() {
            return Piece::Done;
        }
        if let Some(read) = self.reads.reads.get_mut(span.read) {
            read.left += pending.len() as u32 - 1;
        }
        for (skip, range, crcs) in pending {
            let part = Span {
                lba: span.lba + u64::from(skip),
                loc: span.loc.plus(skip),
                into: range.into.clone(),
                ..span.clone()
            };
            let number = self.reads.parts.insert(Part { span: part, crcs: Some(crcs) });
            ring.read_at(fd, range.into, range.offset, self.token(0, number));
        }
        Piece::Pending
    }

    /// A span that can't be read at all; the read fails when its other spans are done.
    fn give_up(&mut self, span: &Span, why: String) -> Piece {
        self.stats.checksum_errors += 1;
        let (_, text) = self.own();
        let lba = span.lba;
        self.trouble.insert("read", format!("cannot read cluster {lba} of volume {text}: {why}"));
        if let Some(read) = self.reads.reads.get_mut(span.read) {
            read.failed = Some(errno::EIO);
        }
        Piece::Done
    }

    /// A range of a file was read through the ring.
    pub(crate) fn part_done(&mut self, part: u32, result: i32, ring: &mut Ring, out: &mut Outputs) {
        let Some(Part { mut span, crcs }) = self.reads.parts.remove(part) else { return };
        let whole = result == span.into.len() as i32;
        let crcs = crcs.unwrap_or_default();
        let cluster = |i: usize| span.into.sub(i * PAGE, PAGE).crc32c();
        let same = whole && crcs.iter().enumerate().all(|(i, crc)| cluster(i) == *crc);
        let read = span.read;
        if !same {
            self.stats.checksum_errors += 1;
            // The backend may have it, if the SCO is there already.
            span.damaged = true;
            if let Piece::Pending = self.piece(span, ring, out) {
                return;
            }
        }
        self.part_ended(read, out);
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
        let Some(Part { span, .. }) = self.reads.parts.remove(part) else { return };
        let read = span.read;
        match result {
            Ok(clusters) => {
                if span.loc.log != self.machine.own_log() {
                    self.reads.sizes.insert((log, sco), clusters);
                }
            }
            // What was to be moved is needed by nobody any more, if its object is being deleted.
            Err(error) if error.not_found && self.is_for_move(read) && !self.holds(sco) => {
                if let Some(read) = self.reads.reads.get_mut(read) {
                    read.failed = Some(errno::EIO);
                }
            }
            // Compaction may have moved it meanwhile: look again.
            Err(error) if error.not_found && span.tries < TRIES_MAX => {
                return self.look_again(span, ring, out);
            }
            // The backend is away: guests wait, they see no error.
            Err(error) if !error.not_found && !error.corrupt => {
                self.note("backend", error);
                self.moves.retry_asked = true;
                // Waiting is no attempt: a guest waits for as long as it takes.
                self.reads.stalled.push(Span { tries: 0, ..span });
                return;
            }
            Err(error) => {
                self.give_up(&span, error.why);
            }
        }
        self.part_ended(read, out);
    }

    pub(crate) fn retry_reads(&mut self, ring: &mut Ring, out: &mut Outputs) {
        for span in mem::take(&mut self.reads.stalled) {
            self.trouble.remove("backend");
            self.look_again(span, ring, out);
        }
    }

    fn look_again(&mut self, span: Span, ring: &mut Ring, out: &mut Outputs) {
        let (read, tries) = (span.read, span.tries + 1);
        if self.is_for_move(read) {
            self.begin_piece(Span { tries, ..span }, ring, out);
        } else {
            self.look_up(read, span.lba, &span.into, tries, ring, out);
        }
        self.part_ended(read, out);
    }

    fn is_for_move(&self, read: u32) -> bool {
        self.reads.reads.get(read).is_some_and(|read| matches!(read.reader, Reader::Move))
    }

    /// This SCO of the volume's own log is there and stays for now.
    fn holds(&self, sco: u32) -> bool {
        self.machine.scos().get(&sco).is_some_and(|sco| sco.stage != Stage::Deleting)
    }

    fn part_ended(&mut self, read: u32, out: &mut Outputs) {
        let Some(state) = self.reads.reads.get_mut(read) else { return };
        state.left -= 1;
        if state.left > 0 {
            return;
        }
        if let Some(Read { reader, into, failed, .. }) = self.reads.reads.remove(read) {
            self.read_done(reader, &into, failed, out);
        }
    }

    fn read_done(&mut self, reader: Reader, into: &Slice, failed: Option<i32>, out: &mut Outputs) {
        match reader {
            Reader::Client { id, part } => {
                if let (None, Some((at, target))) = (failed, &part) {
                    into.sub(*at, target.len()).copy_to(target);
                }
                let outcome = failed.map_or(Outcome::Done, Outcome::Failed);
                self.load.leave(Class::Read, 1);
                out.completions.push(Completion { id, outcome });
            }
            Reader::Patch => self.patch_is_read(failed, out),
            Reader::Move => self.move_is_read(failed),
        }
    }

    /// Reads that have not been answered yet.
    pub fn reads_in_flight(&self) -> usize {
        self.reads.in_flight()
    }
}

/// Reads a span from a SCO file as far as the page cache has it. What is left: clusters to skip,
/// where the bytes are and go, and their checksums.
fn read_file(file: &ScoFile, span: &Span) -> Result<Vec<(u32, FileRange, Vec<u32>)>, String> {
    let first = u32::from(span.loc.ordinal);
    if first + span.clusters() > file.index.clusters() {
        return Err(format!("SCO {} has only {} clusters", span.loc.sco, file.index.clusters()));
    }
    let mut ranges = Vec::new();
    file.ranges(first, &span.into, &mut ranges);
    let (mut pending, mut ordinal) = (Vec::new(), first);
    for range in ranges {
        let next = ordinal + (range.into.len() / PAGE) as u32;
        let cached = matches!(file.file.read_cached(range.offset, &range.into), Ok(true));
        if !cached || file.verify(ordinal, &range.into).is_err() {
            let crcs = file.index.crcs[ordinal as usize..next as usize].to_vec();
            pending.push((ordinal - first, range, crcs));
        }
        ordinal = next;
    }
    Ok(pending)
}
