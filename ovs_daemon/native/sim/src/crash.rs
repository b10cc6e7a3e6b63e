//! Every state that a disk may be in after power loss.
//!
//! A workload runs on recording [`MemoryFiles`]. For each point in its record this module builds
//! the images that a crash at that point may leave, hands each of them to a closure (which recovers
//! from it and compares with what had been promised), and stops at the first broken promise.
//!
//! What may happen to what was not synced:
//!
//! * a write is cut at 4 KiB borders; each sector may be there or not, whatever the order in which
//!   they were written, or torn: only its first or last *n* x 512 bytes are there;
//! * a name that was made, renamed or removed may be as before or as after, each by itself;
//! * where a file grew but the data is missing, it may end early, or be as long as it was with zeros
//!   or with old garbage in the gap.
//!
//! Up to [`CrashBounds::exhaustive`] undecided pieces are taken in all combinations of present and
//! absent; few enough of them ([`CrashBounds::torn`]) in all combinations of present, absent and
//! torn. Beyond that: all, none, each alone, all but one, each prefix, and seeded random choices.
//!
//! Points are skipped when their images are a subset of the next point's, which is the case when
//! the next operation neither syncs nor promises anything. Equal images at equal promises are
//! handed over once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::explore::Violation;
use crate::fingerprint::{fingerprint, mix};
use crate::memory::{Image, Op, dir_of, put};
use crate::random::Random;

/// The unit in which unsynced data reaches the disk or does not, in bytes.
pub const SECTOR: usize = 4096;
/// The unit in which a sector may be torn, in bytes.
pub const TEAR: usize = 512;

/// How many images to build.
#[derive(Clone, Copy, Debug)]
pub struct CrashBounds {
    /// Up to this many undecided pieces every subset is built.
    pub exhaustive: usize,
    /// Up to this many undecided pieces every combination with torn sectors is built.
    pub torn: usize,
    /// Random choices at points with more undecided pieces than `exhaustive`.
    pub samples: usize,
    /// Seeds those choices, the places of tears and the garbage.
    pub seed: u64,
}

impl Default for CrashBounds {
    fn default() -> Self {
        CrashBounds { exhaustive: 12, torn: 6, samples: 256, seed: 1 }
    }
}

/// One image, as the closure sees it.
pub struct Crash<'a> {
    /// The power went after this many operations of the record.
    pub operations: usize,
    /// The promises noted up to then, in order.
    pub marks: &'a [u64],
    /// What is on the disk.
    pub image: &'a Image,
}

/// What was enumerated.
#[derive(Clone, Debug, Default)]
pub struct CrashReport {
    /// Points in the record at which images were built.
    pub points: usize,
    /// Points with more undecided pieces than could be enumerated.
    pub sampled: usize,
    /// Different images handed over (at different promises).
    pub images: usize,
    /// Largest number of undecided pieces at one point.
    pub undecided_max: usize,
    /// The first image from which recovery broke a promise.
    pub failure: Option<CrashFailure>,
}

/// An image that recovery could not cope with.
#[derive(Clone, Debug)]
pub struct CrashFailure {
    /// The broken promise.
    pub violation: Violation,
    /// The power went after this many operations.
    pub operations: usize,
    /// What became of each undecided piece.
    pub fates: Vec<String>,
    /// The image itself.
    pub image: Image,
}

impl fmt::Display for CrashFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "violated: {}; power loss after {} operations",
            self.violation, self.operations
        )?;
        for fate in &self.fates {
            writeln!(f, "  {fate}")?;
        }
        Ok(())
    }
}

/// Enumerates the crash images of `log`, which was recorded over the (durable) image `base`.
pub fn enumerate(
    base: &Image,
    log: &[Op],
    bounds: &CrashBounds,
    recover: &mut dyn FnMut(&Crash<'_>) -> Result<(), Violation>,
) -> CrashReport {
    let mut disk = Disk::new(base);
    let mut marks = Vec::new();
    let mut seen = BTreeSet::new();
    let mut report = CrashReport::default();
    for operations in 0..=log.len() {
        if operations > 0 {
            match &log[operations - 1] {
                Op::Mark(promise) => marks.push(*promise),
                op => disk.take(op),
            }
        }
        let undecided = disk.undecided.len();
        let next_decides = log.get(operations).is_none_or(decides);
        if !next_decides && undecided < bounds.exhaustive {
            continue;
        }
        report.points += 1;
        report.undecided_max = report.undecided_max.max(undecided);
        report.sampled += usize::from(undecided > bounds.exhaustive);
        let mut visit = |fates: &[Fate], gap: Gap| {
            let image = disk.image(fates, gap, bounds.seed);
            if !seen.insert(fingerprint(&(marks.len(), &image), 0)) {
                return Ok(());
            }
            report.images += 1;
            let crash = Crash { operations, marks: &marks, image: &image };
            recover(&crash).map_err(|violation| CrashFailure {
                violation,
                operations,
                fates: disk.explain(fates, gap),
                image: image.clone(),
            })
        };
        if let Err(failure) = choose(undecided, bounds, &disk, &mut visit) {
            report.failure = Some(failure);
            return report;
        }
    }
    report
}

/// True when the images before the operation are not all possible after it.
fn decides(op: &Op) -> bool {
    matches!(op, Op::Sync { .. } | Op::SyncDir { .. } | Op::Mark(_))
}

/// What became of an undecided piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Absent,
    Present,
    /// Only the first so many bytes.
    Head(usize),
    /// All but the first so many bytes.
    Tail(usize),
}

/// What stands where a file grew but its data is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gap {
    /// The file ends before it where possible; zeros inside.
    Short,
    /// The length is the newest one; zeros.
    Zeros,
    /// The length is the newest one; what was on the disk before.
    Garbage,
}

type Visit<'a> = dyn FnMut(&[Fate], Gap) -> Result<(), CrashFailure> + 'a;

/// Calls `visit` for every choice that the bounds ask for.
fn choose(
    pieces: usize,
    bounds: &CrashBounds,
    disk: &Disk,
    visit: &mut Visit<'_>,
) -> Result<(), CrashFailure> {
    let mut random = Random::new(bounds.seed ^ pieces as u64);
    let mut all_gaps = |fates: &[Fate]| {
        [Gap::Short, Gap::Zeros, Gap::Garbage].into_iter().try_for_each(|gap| visit(fates, gap))
    };
    let mut fates = vec![Fate::Absent; pieces];
    if pieces <= bounds.torn {
        return every_fate(disk, &mut random, 0, &mut fates, &mut all_gaps);
    }
    if pieces <= bounds.exhaustive {
        for subset in 0u64..1 << pieces {
            for (piece, fate) in fates.iter_mut().enumerate() {
                *fate = if subset >> piece & 1 == 1 { Fate::Present } else { Fate::Absent };
            }
            all_gaps(&fates)?;
            tear_some(disk, &mut random, &mut fates);
            all_gaps(&fates)?;
        }
        return Ok(());
    }
    for piece in 0..pieces {
        for (inside, outside) in [(Fate::Present, Fate::Absent), (Fate::Absent, Fate::Present)] {
            fates.fill(outside);
            fates[piece] = inside;
            all_gaps(&fates)?;
            fates[..piece].fill(inside);
            all_gaps(&fates)?;
        }
    }
    for _ in 0..bounds.samples {
        let share = random.below(9);
        for fate in &mut fates {
            *fate = if random.chance(share, 8) { Fate::Present } else { Fate::Absent };
        }
        if random.chance(1, 2) {
            tear_some(disk, &mut random, &mut fates);
        }
        all_gaps(&fates)?;
    }
    Ok(())
}

/// All combinations of absent, present and (at one place from the seed) torn.
fn every_fate(
    disk: &Disk,
    random: &mut Random,
    piece: usize,
    fates: &mut Vec<Fate>,
    visit: &mut dyn FnMut(&[Fate]) -> Result<(), CrashFailure>,
) -> Result<(), CrashFailure> {
    if piece == fates.len() {
        return visit(fates);
    }
    let torn = disk.tear(piece, random);
    for fate in [Some(Fate::Absent), Some(Fate::Present), torn].into_iter().flatten() {
        fates[piece] = fate;
        every_fate(disk, random, piece + 1, fates, visit)?;
    }
    Ok(())
}

fn tear_some(disk: &Disk, random: &mut Random, fates: &mut [Fate]) {
    for (piece, fate) in fates.iter_mut().enumerate() {
        if *fate == Fate::Present && random.chance(1, 2) {
            *fate = disk.tear(piece, random).unwrap_or(Fate::Present);
        }
    }
}

/// Something that power loss may undo.
enum Piece {
    Data { node: usize, offset: u64, bytes: Vec<u8> },
    Resize { node: usize, len: u64 },
    Name { path: String, node: usize },
    Rename { from: String, to: String },
    Removal { path: String },
}

impl Piece {
    fn node(&self) -> Option<usize> {
        match self {
            Piece::Data { node, .. } | Piece::Resize { node, .. } => Some(*node),
            _ => None,
        }
    }

    fn is_in(&self, dir: &str) -> bool {
        match self {
            Piece::Name { path, .. } | Piece::Removal { path } => dir_of(path) == dir,
            Piece::Rename { from, to } => dir_of(from) == dir || dir_of(to) == dir,
            Piece::Data { .. } | Piece::Resize { .. } => false,
        }
    }
}

type Names = BTreeMap<String, usize>;

/// What is durable, and what is undecided, in order. Files are numbered, apart from their names.
pub(crate) struct Disk {
    /// The durable content of each file.
    files: Vec<Vec<u8>>,
    /// The length of each file that a running process sees.
    lens: Vec<usize>,
    durable: Names,
    live: Names,
    undecided: Vec<Piece>,
    /// Of each undecided piece, how many came before it since the beginning.
    numbers: Vec<u64>,
    made: u64,
}

/// A sync that has begun: it covers what was written to the file before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Syncing {
    node: usize,
    before: u64,
}

impl Disk {
    pub(crate) fn new(base: &Image) -> Self {
        let files: Vec<Vec<u8>> = base.values().cloned().collect();
        let lens = files.iter().map(Vec::len).collect();
        let durable: Names = base.keys().cloned().zip(0..).collect();
        let live = durable.clone();
        Disk { files, lens, durable, live, undecided: Vec::new(), numbers: Vec::new(), made: 0 }
    }

    fn owe(&mut self, piece: Piece) {
        self.undecided.push(piece);
        self.numbers.push(self.made);
        self.made += 1;
    }

    /// Begins to sync a file; `None`: there is none of that name.
    pub(crate) fn begin_sync(&self, path: &str) -> Option<Syncing> {
        self.live.get(path).map(|node| Syncing { node: *node, before: self.made })
    }

    /// The sync has succeeded.
    pub(crate) fn end_sync(&mut self, sync: Syncing) {
        self.settle(|number, piece| number < sync.before && piece.node() == Some(sync.node));
    }

    /// The sync has failed: the kernel has forgotten what it should have covered.
    pub(crate) fn fail_sync(&mut self, sync: Syncing) {
        let covered =
            |number: u64, piece: &Piece| number < sync.before && piece.node() == Some(sync.node);
        let numbers = std::mem::take(&mut self.numbers);
        for (piece, number) in std::mem::take(&mut self.undecided).into_iter().zip(numbers) {
            if !covered(number, &piece) {
                self.undecided.push(piece);
                self.numbers.push(number);
            }
        }
    }

    /// Drops what was never synced of files that have no name any more: the kernel does not write
    /// it, and nobody looks for it.
    pub(crate) fn forget_removed(&mut self) {
        let live: BTreeSet<usize> = self.live.values().copied().collect();
        let numbers = std::mem::take(&mut self.numbers);
        for (piece, number) in std::mem::take(&mut self.undecided).into_iter().zip(numbers) {
            if piece.node().is_none_or(|node| live.contains(&node)) {
                self.undecided.push(piece);
                self.numbers.push(number);
            }
        }
        let durable: BTreeSet<usize> = self.durable.values().copied().collect();
        for (node, file) in self.files.iter_mut().enumerate() {
            if !live.contains(&node) && !durable.contains(&node) {
                *file = Vec::new();
            }
        }
    }

    /// What loss of power leaves, of all that is possible.
    pub(crate) fn lose_power(&self, random: &mut Random) -> Image {
        let share = random.below(9);
        let mut fate = |_: &Piece| match random.chance(share, 8) {
            true => Fate::Present,
            false => Fate::Absent,
        };
        let mut fates: Vec<Fate> = self.undecided.iter().map(&mut fate).collect();
        if random.chance(1, 2) {
            tear_some(self, random, &mut fates);
        }
        let gaps = [Gap::Short, Gap::Zeros, Gap::Garbage];
        self.image(&fates, gaps[random.index(3)], random.bits())
    }

    pub(crate) fn take(&mut self, op: &Op) {
        match op {
            Op::Create { path } => {
                let node = self.files.len();
                self.files.push(Vec::new());
                self.lens.push(0);
                self.live.insert(path.clone(), node);
                self.owe(Piece::Name { path: path.clone(), node });
            }
            Op::Write { path, offset, bytes } => self.write(self.live[path], *offset, bytes),
            Op::Truncate { path, len } => {
                let node = self.live[path];
                self.lens[node] = *len as usize;
                self.owe(Piece::Resize { node, len: *len });
            }
            Op::Rename { from, to } => {
                rename(&mut self.live, from, to);
                self.owe(Piece::Rename { from: from.clone(), to: to.clone() });
            }
            Op::Unlink { path } => {
                self.live.remove(path);
                self.owe(Piece::Removal { path: path.clone() });
            }
            Op::Sync { path } => {
                let node = self.live[path];
                self.settle(|_, piece| piece.node() == Some(node));
            }
            Op::SyncDir { dir } => self.settle(|_, piece| piece.is_in(dir)),
            Op::Mark(_) => {}
        }
    }

    fn write(&mut self, node: usize, offset: u64, bytes: &[u8]) {
        self.lens[node] = self.lens[node].max(offset as usize + bytes.len());
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let room = SECTOR - (at as usize % SECTOR);
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.owe(Piece::Data { node, offset: at, bytes: now.to_vec() });
            at += now.len() as u64;
            rest = later;
        }
    }

    /// Makes the pieces durable that `which` selects.
    fn settle(&mut self, which: impl Fn(u64, &Piece) -> bool) {
        let numbers = std::mem::take(&mut self.numbers);
        for (piece, number) in std::mem::take(&mut self.undecided).into_iter().zip(numbers) {
            if which(number, &piece) {
                apply(&piece, Fate::Present, &mut self.durable, &mut self.files);
            } else {
                self.undecided.push(piece);
                self.numbers.push(number);
            }
        }
    }

    /// A place to tear a piece; `None` when it is written as a whole or not at all.
    fn tear(&self, piece: usize, random: &mut Random) -> Option<Fate> {
        let Piece::Data { bytes, .. } = &self.undecided[piece] else {
            return None;
        };
        let places = bytes.len().checked_sub(1)? / TEAR;
        let cut = (1 + random.index(places)) * TEAR;
        match (places, random.chance(1, 2)) {
            (0, _) => None,
            (_, true) => Some(Fate::Head(cut)),
            (_, false) => Some(Fate::Tail(cut)),
        }
    }

    fn image(&self, fates: &[Fate], gap: Gap, seed: u64) -> Image {
        let mut names = self.durable.clone();
        let mut files = self.files.clone();
        if gap != Gap::Short {
            for (node, file) in files.iter_mut().enumerate() {
                stretch(file, self.lens[node], gap, seed ^ node as u64);
            }
        }
        for (piece, fate) in self.undecided.iter().zip(fates) {
            if *fate != Fate::Absent {
                apply(piece, *fate, &mut names, &mut files);
            }
        }
        let mut file = |node: usize| std::mem::take(&mut files[node]);
        names.into_iter().map(|(path, node)| (path, file(node))).collect()
    }

    fn explain(&self, fates: &[Fate], gap: Gap) -> Vec<String> {
        let name = |node: &usize| {
            let named = self.live.iter().find(|(_, other)| *other == node);
            named.map_or("a removed file".to_string(), |(path, _)| path.clone())
        };
        let line = |(piece, fate): (&Piece, &Fate)| {
            let what = match piece {
                Piece::Data { node, offset, bytes } => {
                    format!("write of {} bytes at {offset} of {}", bytes.len(), name(node))
                }
                Piece::Resize { node, len } => format!("truncation of {} to {len}", name(node)),
                Piece::Name { path, .. } => format!("name of the new file {path}"),
                Piece::Rename { from, to } => format!("renaming of {from} to {to}"),
                Piece::Removal { path } => format!("removal of {path}"),
            };
            format!("{what}: {fate:?}")
        };
        let mut lines: Vec<String> = self.undecided.iter().zip(fates).map(line).collect();
        lines.push(format!("missing data: {gap:?}"));
        lines
    }
}

fn rename(names: &mut Names, from: &str, to: &str) {
    if let Some(node) = names.remove(from) {
        names.insert(to.to_string(), node);
    }
}

fn apply(piece: &Piece, fate: Fate, names: &mut Names, files: &mut [Vec<u8>]) {
    match piece {
        Piece::Data { node, offset, bytes } => match fate {
            Fate::Absent => {}
            Fate::Present => put(&mut files[*node], *offset, bytes),
            Fate::Head(cut) => put(&mut files[*node], *offset, &bytes[..cut]),
            Fate::Tail(cut) => put(&mut files[*node], offset + cut as u64, &bytes[cut..]),
        },
        Piece::Resize { node, len } => files[*node].resize(*len as usize, 0),
        Piece::Name { path, node } => {
            names.insert(path.clone(), *node);
        }
        Piece::Rename { from, to } => rename(names, from, to),
        Piece::Removal { path } => {
            names.remove(path);
        }
    }
}

/// Extends a file to `len` bytes with zeros or garbage.
fn stretch(file: &mut Vec<u8>, len: usize, gap: Gap, seed: u64) {
    let start = file.len();
    if start >= len {
        return;
    }
    file.resize(len, 0);
    if gap == Gap::Garbage {
        for (number, old) in file[start..].chunks_mut(8).enumerate() {
            old.copy_from_slice(&mix(seed ^ number as u64).to_le_bytes()[..old.len()]);
        }
    }
}
