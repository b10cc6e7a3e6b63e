//! The record of a chunk of an LBA map (65536 clusters, 256 MiB of a volume) in a checkpoint.
//!
//! A run of consecutive ordinals costs 12 bytes and may span leaves. A leaf (512 clusters) of random
//! data costs a bitmap and 4 bytes per mapped cluster, or 8 when its data is in several logs or its
//! SCO numbers differ in their upper halves. The writer takes what the map has in memory. All
//! numbers are little endian.
//!
//! ```text
//!   record
//!    0        4         6        8         12          16          20         24
//!    +--------+---------+--------+---------+-----------+-----------+----------+---------------+
//!    | magic  | version | zero   | index   | sections  | clusters  | length   | sections ...  |
//!    | "OVMC" | u16 = 1 | u16    | u32     | u32       | u32       | u32      |               |
//!    +--------+---------+--------+---------+-----------+-----------+----------+---------------+
//!    ... then, as the last 4 bytes: CRC32C (Castagnoli) of all bytes before it, u32
//!    index = number of the chunk in the map; clusters = mapped clusters; length = bytes of the
//!    record, CRC included
//!
//!   section RUNS
//!    0       1       2         4
//!    +-------+-------+---------+--- count x 12 bytes -------------------------------------+
//!    | kind  | zero  | count   | start u16 | len - 1 u16 | ordinal u16 | log u16 | sco u32 |
//!    | 1     | u8    | u16 > 0 |                                                           |
//!    +-------+-------+---------+-----------------------------------------------------------+
//!
//!   section PACKED: one leaf, one log, one upper half of the SCO number
//!    0       1       2       4          6      8            72
//!    +-------+-------+-------+----------+------+------------+-- one per set bit, 4 bytes ------+
//!    | kind  | leaf  | log   | sco_high | zero | bitmap     | ordinal u16 | lower half of the  |
//!    | 2     | u8    | u16   | u16      | u16  | 8 x u64    |             | SCO number u16     |
//!    +-------+-------+-------+----------+------+------------+----------------------------------+
//!
//!   section MIXED: one leaf
//!    0       1       2              8            72
//!    +-------+-------+--------------+------------+-- one per set bit, 8 bytes ----+
//!    | kind  | leaf  | zero         | bitmap     | ordinal u16 | log u16 | sco u32 |
//!    | 3     | u8    | 6 bytes      | 8 x u64    |                                 |
//!    +-------+-------+--------------+------------+---------------------------------+
//! ```
//!
//! Sections are in order of clusters and do not overlap. Bit n of the bitmap (word n / 64, bit
//! n % 64) is cluster 512 * leaf + n; a bitmap is not empty.

use alloc::vec::Vec;
use core::fmt;

use crate::bytes::{crc32c, put_u16, put_u32};

/// First bytes of a record.
pub const MAGIC: [u8; 4] = *b"OVMC";
/// Version of this layout.
pub const VERSION: u16 = 1;
/// Clusters of a chunk.
pub const CLUSTERS: u32 = 1 << 16;
/// Bytes of the record's header.
pub const HEADER_BYTES: usize = 24;
/// Bytes of the record's trailer, the CRC.
pub const TRAILER_BYTES: usize = 4;
/// Bytes of one run in a RUNS section.
pub const RUN_BYTES: usize = 12;
/// Bytes of a leaf's section before its cells.
pub const LEAF_BYTES: usize = 72;
/// Bytes of a cell in a PACKED section.
pub const PACKED_CELL_BYTES: usize = 4;
/// Bytes of a cell in a MIXED section.
pub const MIXED_CELL_BYTES: usize = 8;

/// Clusters of a leaf.
pub const LEAF_CLUSTERS: usize = 512;
/// Words of a leaf's bitmap.
pub const WORDS: usize = LEAF_CLUSTERS / 64;

const SECTIONS_AT: usize = 12;
const CLUSTERS_AT: usize = 16;
const LENGTH_AT: usize = 20;
const KIND_RUNS: u8 = 1;
const KIND_PACKED: u8 = 2;
const KIND_MIXED: u8 = 3;

/// `len` clusters of a chunk from `start` that are at `len` consecutive ordinals of one SCO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First cluster, counted from the start of the chunk.
    pub start: u16,
    /// Number of clusters, 1 to 65536.
    pub len: u32,
    /// Index of the log in the volume's table of logs.
    pub log: u16,
    /// Number of the SCO in the log.
    pub sco: u32,
    /// Ordinal of the first data cluster in the SCO.
    pub ordinal: u16,
}

impl Extent {
    fn end(&self) -> u32 {
        u32::from(self.start) + self.len
    }

    /// Whether `self` goes on where `before` ends, on the volume and in the log.
    fn continues(&self, before: &Extent) -> bool {
        u32::from(self.start) == before.end()
            && self.log == before.log
            && self.sco == before.sco
            && u32::from(self.ordinal) == u32::from(before.ordinal) + before.len
    }
}

/// Why bytes are not a chunk record. `at` is an offset in bytes from the start of the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkError {
    /// Fewer bytes than the smallest record, or another number than the header says.
    Length {
        /// Bytes that were given.
        given: usize,
        /// Bytes that the record has, or at least must have.
        expected: usize,
    },
    /// The first bytes are not `MAGIC`.
    Magic([u8; 4]),
    /// A layout that this version does not know.
    Version(u16),
    /// The CRC32C does not fit the bytes.
    Checksum {
        /// CRC32C in the record.
        stored: u32,
        /// CRC32C of its bytes.
        computed: u32,
    },
    /// A section is malformed (CRC is right, so a program wrote it so).
    Section {
        /// Offset of the section.
        at: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// Mapped clusters or sections differ from what the header says.
    Totals,
}

impl fmt::Display for ChunkError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "cannot read a chunk record of a map checkpoint: ")?;
        match self {
            ChunkError::Length { given, expected } => {
                write!(out, "{given} bytes where {expected} belong; the object is cut short, ")?;
                write!(out, "or its root table is damaged")
            }
            ChunkError::Magic(found) => {
                write!(out, "it starts with {found:02x?}, not {MAGIC:02x?}; ")?;
                write!(out, "there is something else at this place")
            }
            ChunkError::Version(found) => {
                write!(out, "version {found}, this program knows {VERSION}; use a newer program")
            }
            ChunkError::Checksum { stored, computed } => {
                write!(out, "its CRC32C is {stored:08x}, its bytes have {computed:08x}; ")?;
                write!(out, "they are damaged, take an older checkpoint")
            }
            ChunkError::Section { at, why } => {
                write!(out, "section at byte {at}: {why}; take an older checkpoint")
            }
            ChunkError::Totals => {
                write!(out, "its sections are not what the header says; take an older checkpoint")
            }
        }
    }
}

impl core::error::Error for ChunkError {}

/// The mapped clusters of a leaf that share a log and the upper half of the SCO number.
#[derive(Clone, Copy, Debug)]
pub struct PackedLeaf<'a> {
    /// Number of the leaf in the chunk, 0 to 127.
    pub leaf: u8,
    /// Index of the log.
    pub log: u16,
    /// Upper half of all SCO numbers.
    pub sco_high: u16,
    /// Bit n % 64 of word n / 64: cluster n of the leaf is mapped. Never all zero.
    pub bitmap: [u64; WORDS],
    cells: &'a [u8],
}

impl<'a> PackedLeaf<'a> {
    /// For each mapped cluster in order: the lower half of its SCO number in the upper 16 bits, its
    /// ordinal in the lower.
    pub fn cells(&self) -> impl ExactSizeIterator<Item = u32> + 'a {
        self.cells.as_chunks::<PACKED_CELL_BYTES>().0.iter().map(|cell| u32::from_le_bytes(*cell))
    }

    fn for_each(&self, mut visit: impl FnMut(Extent)) {
        for (start, cell) in clusters(self.leaf, self.bitmap).zip(self.cells()) {
            let sco = u32::from(self.sco_high) << 16 | cell >> 16;
            visit(Extent { start, len: 1, log: self.log, sco, ordinal: cell as u16 });
        }
    }
}

/// The clusters (counted from the start of the chunk) whose bits are set.
fn clusters(leaf: u8, bitmap: [u64; WORDS]) -> impl Iterator<Item = u16> {
    let base = u16::from(leaf) * LEAF_CLUSTERS as u16;
    bitmap.into_iter().zip((base..).step_by(64)).flat_map(|(bits, base)| {
        let mut left = bits;
        core::iter::from_fn(move || {
            let bit = (left != 0).then(|| left.trailing_zeros() as u16)?;
            left &= left - 1;
            Some(base + bit)
        })
    })
}

/// Writes one record. Clusters must come in order and once, runs within the chunk and within the
/// ordinals of their SCO; of anything else comes a record that `decode` refuses.
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
    base: usize,
    sections: u32,
    clusters: u32,
    /// Place of the open RUNS section and its number of runs.
    open: Option<(usize, u16)>,
    pending: Option<Extent>,
}

impl<'a> Writer<'a> {
    /// Begins the record of chunk `index` at the end of `out`.
    pub fn new(index: u32, out: &'a mut Vec<u8>) -> Writer<'a> {
        let base = out.len();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&index.to_le_bytes());
        out.resize(base + HEADER_BYTES, 0);
        Writer { out, base, sections: 0, clusters: 0, open: None, pending: None }
    }

    /// Adds a run; it is joined to the one before when it continues it.
    pub fn run(&mut self, extent: Extent) {
        match &mut self.pending {
            Some(before) if extent.continues(before) => before.len += extent.len,
            _ => {
                self.put_run();
                self.pending = Some(extent);
            }
        }
    }

    /// Adds a leaf as a PACKED section; `cells` as in `PackedLeaf::cells`, one per bit of `bitmap`.
    pub fn packed(
        &mut self,
        leaf: u8,
        (log, sco_high): (u16, u16),
        bitmap: &[u64; WORDS],
        cells: impl Iterator<Item = u32>,
    ) {
        let [log, sco_high] = [log.to_le_bytes(), sco_high.to_le_bytes()];
        let head = [KIND_PACKED, leaf, log[0], log[1], sco_high[0], sco_high[1], 0, 0];
        self.begin_leaf(head, bitmap);
        let before = self.out.len();
        cells.for_each(|cell| self.out.extend_from_slice(&cell.to_le_bytes()));
        self.clusters += ((self.out.len() - before) / PACKED_CELL_BYTES) as u32;
    }

    /// Adds a leaf as a MIXED section; `cells` = {log, SCO, ordinal}, one per bit of `bitmap`.
    pub fn mixed(
        &mut self,
        leaf: u8,
        bitmap: &[u64; WORDS],
        cells: impl Iterator<Item = (u16, u32, u16)>,
    ) {
        self.begin_leaf([KIND_MIXED, leaf, 0, 0, 0, 0, 0, 0], bitmap);
        for (log, sco, ordinal) in cells {
            self.out.extend_from_slice(&ordinal.to_le_bytes());
            self.out.extend_from_slice(&log.to_le_bytes());
            self.out.extend_from_slice(&sco.to_le_bytes());
            self.clusters += 1;
        }
    }

    /// Completes the record; returns its number of bytes.
    pub fn finish(mut self) -> usize {
        self.close_runs();
        let length = self.out.len() - self.base + TRAILER_BYTES;
        let record = &mut self.out[self.base..];
        put_u32(record, SECTIONS_AT, self.sections);
        put_u32(record, CLUSTERS_AT, self.clusters);
        put_u32(record, LENGTH_AT, length as u32);
        let crc = crc32c(record);
        self.out.extend_from_slice(&crc.to_le_bytes());
        length
    }

    fn begin_leaf(&mut self, head: [u8; 8], bitmap: &[u64; WORDS]) {
        self.close_runs();
        self.out.extend_from_slice(&head);
        bitmap.iter().for_each(|word| self.out.extend_from_slice(&word.to_le_bytes()));
        self.sections += 1;
    }

    /// Writes the pending run into the open RUNS section, or into a new one.
    fn put_run(&mut self) {
        let Some(Extent { start, len, log, sco, ordinal }) = self.pending.take() else { return };
        let (at, count) = match self.open {
            Some((at, count)) if count < u16::MAX => (at, count + 1),
            _ => {
                self.out.extend_from_slice(&[KIND_RUNS, 0, 0, 0]);
                self.sections += 1;
                (self.out.len() - 4, 1)
            }
        };
        self.open = Some((at, count));
        put_u16(self.out, at + 2, count);
        self.out.extend_from_slice(&start.to_le_bytes());
        self.out.extend_from_slice(&(len.wrapping_sub(1) as u16).to_le_bytes());
        self.out.extend_from_slice(&ordinal.to_le_bytes());
        self.out.extend_from_slice(&log.to_le_bytes());
        self.out.extend_from_slice(&sco.to_le_bytes());
        self.clusters = self.clusters.wrapping_add(len);
    }

    fn close_runs(&mut self) {
        self.put_run();
        self.open = None;
    }
}

/// What a record consists of, for `Record::visit`.
pub trait Visitor {
    /// Clusters at consecutive ordinals; not necessarily all that there are.
    fn extent(&mut self, extent: Extent);
    /// A PACKED section.
    fn packed(&mut self, leaf: PackedLeaf<'_>);
}

/// A record whose every byte has been checked.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    index: u32,
    clusters: u32,
    sections: &'a [u8],
}

impl Record<'_> {
    /// Number of the chunk in the map.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Number of mapped clusters.
    pub fn clusters(&self) -> u32 {
        self.clusters
    }

    /// Gives the contents to `visitor`, in order.
    pub fn visit(&self, visitor: &mut impl Visitor) {
        // `decode` has walked these bytes, so this walk finds nothing to refuse.
        let _ = walk(self.sections, visitor);
    }

    /// Calls `visit` with the maximal extents of the chunk, in order.
    pub fn for_each(&self, visit: impl FnMut(Extent)) {
        let mut joined = Joined { visit, pending: None };
        self.visit(&mut joined);
        if let Some(last) = joined.pending {
            (joined.visit)(last);
        }
    }
}

/// Joins extents to maximal ones.
struct Joined<F> {
    visit: F,
    pending: Option<Extent>,
}

impl<F: FnMut(Extent)> Visitor for Joined<F> {
    fn extent(&mut self, extent: Extent) {
        match &mut self.pending {
            Some(before) if extent.continues(before) => before.len += extent.len,
            _ => {
                if let Some(done) = self.pending.replace(extent) {
                    (self.visit)(done);
                }
            }
        }
    }

    fn packed(&mut self, leaf: PackedLeaf<'_>) {
        leaf.for_each(|extent| self.extent(extent));
    }
}

/// Counts clusters.
struct Count(u32);

impl Visitor for Count {
    fn extent(&mut self, extent: Extent) {
        self.0 += extent.len;
    }

    fn packed(&mut self, leaf: PackedLeaf<'_>) {
        self.0 += leaf.cells().len() as u32;
    }
}

/// Checks `bytes`, which are one whole record, and gives access to its extents. Allocates nothing.
pub fn decode(bytes: &[u8]) -> Result<Record<'_>, ChunkError> {
    let given = bytes.len();
    let too_short = ChunkError::Length { given, expected: HEADER_BYTES + TRAILER_BYTES };
    let (body, trailer) = bytes.split_last_chunk::<TRAILER_BYTES>().ok_or(too_short)?;
    let mut rest = body;
    let magic = take::<4>(&mut rest).ok_or(too_short)?;
    if magic != MAGIC {
        return Err(ChunkError::Magic(magic));
    }
    let version = take_u16(&mut rest).ok_or(too_short)?;
    if version != VERSION {
        return Err(ChunkError::Version(version));
    }
    let zero = take_u16(&mut rest).ok_or(too_short)?;
    let index = take_u32(&mut rest).ok_or(too_short)?;
    let sections = take_u32(&mut rest).ok_or(too_short)?;
    let clusters = take_u32(&mut rest).ok_or(too_short)?;
    let expected = take_u32(&mut rest).ok_or(too_short)? as usize;
    if given != expected {
        return Err(ChunkError::Length { given, expected });
    }
    let (stored, computed) = (u32::from_le_bytes(*trailer), crc32c(body));
    if stored != computed {
        return Err(ChunkError::Checksum { stored, computed });
    }
    if zero != 0 {
        return Err(ChunkError::Section { at: 6, why: "the reserved bytes are not zero" });
    }
    let mut found = Count(0);
    let count = walk(rest, &mut found)?;
    if count != sections || found.0 != clusters {
        return Err(ChunkError::Totals);
    }
    Ok(Record { index, clusters, sections: rest })
}

const CUT: &str = "it is cut short";

/// Gives all sections to `visitor` and checks that they are in order, apart, inside the chunk and
/// inside their SCOs. Returns the number of sections.
fn walk(sections: &[u8], visitor: &mut impl Visitor) -> Result<u32, ChunkError> {
    let mut rest = sections;
    let mut next = 0;
    let mut count = 0;
    while !rest.is_empty() {
        let at = HEADER_BYTES + sections.len() - rest.len();
        section(&mut rest, &mut next, visitor).map_err(|why| ChunkError::Section { at, why })?;
        count += 1;
    }
    Ok(count)
}

/// Takes one section from `rest`; `next` is the first cluster that it may hold.
fn section(
    rest: &mut &[u8],
    next: &mut u32,
    visitor: &mut impl Visitor,
) -> Result<(), &'static str> {
    let [kind, leaf] = take::<2>(rest).ok_or(CUT)?;
    match kind {
        KIND_RUNS if leaf != 0 => Err("the reserved byte is not zero"),
        KIND_RUNS => runs_section(rest, next, visitor),
        KIND_PACKED => {
            let log = take_u16(rest).ok_or(CUT)?;
            let sco_high = take_u16(rest).ok_or(CUT)?;
            let zero = take_u16(rest).ok_or(CUT)?;
            let (bitmap, cells) = leaf_section(rest, leaf, zero == 0, next, PACKED_CELL_BYTES)?;
            visitor.packed(PackedLeaf { leaf, log, sco_high, bitmap, cells });
            Ok(())
        }
        KIND_MIXED => {
            let zero = take::<6>(rest).ok_or(CUT)?;
            let (bitmap, cells) = leaf_section(rest, leaf, zero == [0; 6], next, MIXED_CELL_BYTES)?;
            for (start, cell) in clusters(leaf, bitmap).zip(cells.as_chunks().0) {
                let [o0, o1, l0, l1, sco @ ..]: [u8; MIXED_CELL_BYTES] = *cell;
                let (ordinal, log) = (u16::from_le_bytes([o0, o1]), u16::from_le_bytes([l0, l1]));
                let sco = u32::from_le_bytes(sco);
                visitor.extent(Extent { start, len: 1, log, sco, ordinal });
            }
            Ok(())
        }
        _ => Err("its kind is unknown"),
    }
}

fn runs_section(
    rest: &mut &[u8],
    next: &mut u32,
    visitor: &mut impl Visitor,
) -> Result<(), &'static str> {
    let count = take_u16(rest).ok_or(CUT)?;
    if count == 0 {
        return Err("it has no runs");
    }
    for _ in 0..count {
        let start = take_u16(rest).ok_or(CUT)?;
        let len = u32::from(take_u16(rest).ok_or(CUT)?) + 1;
        let ordinal = take_u16(rest).ok_or(CUT)?;
        let log = take_u16(rest).ok_or(CUT)?;
        let sco = take_u32(rest).ok_or(CUT)?;
        let extent = Extent { start, len, log, sco, ordinal };
        if u32::from(start) < *next {
            return Err("the clusters are not in order");
        }
        *next = extent.end();
        if *next > CLUSTERS {
            return Err("it passes the end of the chunk");
        }
        if u32::from(ordinal) + len > 1 << 16 {
            return Err("a run passes the last ordinal of its SCO");
        }
        visitor.extent(extent);
    }
    Ok(())
}

/// Takes the bitmap and the cells of a leaf's section.
fn leaf_section<'a>(
    rest: &mut &'a [u8],
    leaf: u8,
    reserved_is_zero: bool,
    next: &mut u32,
    cell_bytes: usize,
) -> Result<([u64; WORDS], &'a [u8]), &'static str> {
    if !reserved_is_zero {
        return Err("the reserved bytes are not zero");
    }
    let leaf = usize::from(leaf);
    if leaf >= CLUSTERS as usize / LEAF_CLUSTERS {
        return Err("its leaf is outside the chunk");
    }
    let mut bitmap = [0u64; WORDS];
    for word in &mut bitmap {
        *word = u64::from_le_bytes(take::<8>(rest).ok_or(CUT)?);
    }
    let base = (leaf * LEAF_CLUSTERS) as u32;
    let word = |(n, bits): (usize, &u64)| (*bits != 0).then_some((base + 64 * n as u32, *bits));
    let (first, low) = bitmap.iter().enumerate().find_map(word).ok_or("its bitmap is empty")?;
    if first + low.trailing_zeros() < *next {
        return Err("the clusters are not in order");
    }
    let (last, high) = bitmap.iter().enumerate().rev().find_map(word).unwrap_or((first, low));
    *next = last + 64 - high.leading_zeros();
    let count: u32 = bitmap.iter().map(|word| word.count_ones()).sum();
    let (cells, tail) = rest.split_at_checked(count as usize * cell_bytes).ok_or(CUT)?;
    *rest = tail;
    Ok((bitmap, cells))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

fn take_u16(rest: &mut &[u8]) -> Option<u16> {
    take::<2>(rest).map(u16::from_le_bytes)
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    take::<4>(rest).map(u32::from_le_bytes)
}
