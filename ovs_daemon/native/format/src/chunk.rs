//! The record of a chunk of an LBA map (65536 clusters, 256 MiB of a volume) in a checkpoint.
//!
//! A run of consecutive ordinals costs 12 bytes and may span leaves; a leaf of random data costs a
//! bitmap and 6 bytes per cluster, or 8 when its data is in several logs. The writer takes for each
//! leaf what is smaller. All numbers are little endian.
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
//!   section PACKED: one leaf, one log
//!    0       1       2       4              68
//!    +-------+-------+-------+--------------+-- one per set bit, 6 bytes --+
//!    | kind  | leaf  | log   | bitmap       | ordinal u16 | sco u32        |
//!    | 2     | u8    | u16   | 8 x u64      |                              |
//!    +-------+-------+-------+--------------+------------------------------+
//!
//!   section MIXED: one leaf, several logs
//!    0       1       2       4              68
//!    +-------+-------+-------+--------------+-- one per set bit, 8 bytes ------------+
//!    | kind  | leaf  | zero  | bitmap       | ordinal u16 | log u16 | sco u32        |
//!    | 3     | u8    | u16   | 8 x u64      |                                        |
//!    +-------+-------+-------+--------------+----------------------------------------+
//! ```
//!
//! Sections are in order of clusters and do not overlap. Bit n of the bitmap (word n / 64, bit
//! n % 64) is cluster 512 * leaf + n; a bitmap is not empty.

use alloc::vec::Vec;
use core::fmt;

use crate::bytes::crc32c;

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
pub const LEAF_BYTES: usize = 68;
/// Bytes of a cell in a PACKED section.
pub const PACKED_CELL_BYTES: usize = 6;
/// Bytes of a cell in a MIXED section.
pub const MIXED_CELL_BYTES: usize = 8;

const LEAF_CLUSTERS: usize = 512;
const WORDS: usize = LEAF_CLUSTERS / 64;
const KIND_RUNS: u8 = 1;
const KIND_PACKED: u8 = 2;
const KIND_MIXED: u8 = 3;
const RUNS_MAX: usize = u16::MAX as usize;

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

    fn leaf(&self) -> usize {
        usize::from(self.start) / LEAF_CLUSTERS
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
                write!(
                    out,
                    "{given} bytes where {expected} belong; the object is cut short, "
                )?;
                write!(out, "or its root table is damaged")
            }
            ChunkError::Magic(found) => {
                write!(out, "it starts with {found:02x?}, not {MAGIC:02x?}; ")?;
                write!(out, "there is something else at this place")
            }
            ChunkError::Version(found) => {
                write!(
                    out,
                    "version {found}, this program knows {VERSION}; use a newer program"
                )
            }
            ChunkError::Checksum { stored, computed } => {
                write!(
                    out,
                    "its CRC32C is {stored:08x}, its bytes have {computed:08x}; "
                )?;
                write!(out, "they are damaged, take an older checkpoint")
            }
            ChunkError::Section { at, why } => {
                write!(out, "section at byte {at}: {why}; take an older checkpoint")
            }
            ChunkError::Totals => {
                write!(
                    out,
                    "its sections are not what the header says; take an older checkpoint"
                )
            }
        }
    }
}

impl core::error::Error for ChunkError {}

/// Appends the record of chunk `index` to `out`. `extents` are in order, do not overlap, lie within
/// the chunk and pass no SCO's ordinal 65535; of anything else comes a record that `decode` refuses.
pub fn encode(index: u32, extents: &[Extent], out: &mut Vec<u8>) {
    let base = out.len();
    let clusters = extents
        .iter()
        .fold(0u32, |sum, extent| sum.wrapping_add(extent.len));
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&index.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&clusters.to_le_bytes());
    out.extend_from_slice(&[0; 4]);

    let mut sections = 0u32;
    let mut runs: &[Extent] = &[];
    let mut rest = extents;
    while let Some((first, _)) = rest.split_first() {
        let leaf = first.leaf();
        let leaf_end = ((leaf + 1) * LEAF_CLUSTERS) as u32;
        let inside = rest
            .iter()
            .take_while(|e| e.leaf() == leaf && e.end() <= leaf_end)
            .count();
        let (group, after) = rest.split_at(inside);
        let mixed = group.iter().any(|extent| extent.log != first.log);
        let cells: usize = group.iter().map(|extent| extent.len as usize).sum();
        let cell_bytes = if mixed {
            MIXED_CELL_BYTES
        } else {
            PACKED_CELL_BYTES
        };
        if group.len() * RUN_BYTES > LEAF_BYTES + cells * cell_bytes {
            sections += put_runs(runs, out);
            put_leaf(group, mixed, out);
            sections += 1;
            (runs, rest) = (&[], after);
        } else {
            // The pending runs and these are neighbours in `extents`: one longer slice.
            let taken = inside.max(1);
            let from = extents.len() - rest.len() - runs.len();
            runs = &extents[from..from + runs.len() + taken];
            rest = &rest[taken..];
        }
    }
    sections += put_runs(runs, out);

    let length = (out.len() - base + TRAILER_BYTES) as u32;
    out[base + 12..base + 16].copy_from_slice(&sections.to_le_bytes());
    out[base + 20..base + 24].copy_from_slice(&length.to_le_bytes());
    let crc = crc32c(&out[base..]);
    out.extend_from_slice(&crc.to_le_bytes());
}

/// Writes `runs` as RUNS sections; returns how many.
fn put_runs(runs: &[Extent], out: &mut Vec<u8>) -> u32 {
    let mut sections = 0;
    for part in runs.chunks(RUNS_MAX) {
        out.extend_from_slice(&[KIND_RUNS, 0]);
        out.extend_from_slice(&(part.len() as u16).to_le_bytes());
        for extent in part {
            out.extend_from_slice(&extent.start.to_le_bytes());
            out.extend_from_slice(&(extent.len.wrapping_sub(1) as u16).to_le_bytes());
            out.extend_from_slice(&extent.ordinal.to_le_bytes());
            out.extend_from_slice(&extent.log.to_le_bytes());
            out.extend_from_slice(&extent.sco.to_le_bytes());
        }
        sections += 1;
    }
    sections
}

/// Writes the extents of one leaf as a PACKED or MIXED section.
fn put_leaf(group: &[Extent], mixed: bool, out: &mut Vec<u8>) {
    let Some(first) = group.first() else { return };
    out.extend_from_slice(&[
        if mixed { KIND_MIXED } else { KIND_PACKED },
        first.leaf() as u8,
    ]);
    out.extend_from_slice(&(if mixed { 0 } else { first.log }).to_le_bytes());
    let mut bitmap = [0u64; WORDS];
    for extent in group {
        for cluster in u32::from(extent.start)..extent.end() {
            let bit = cluster as usize % LEAF_CLUSTERS;
            bitmap[bit / 64] |= 1 << (bit % 64);
        }
    }
    bitmap
        .iter()
        .for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
    for extent in group {
        for n in 0..extent.len {
            out.extend_from_slice(&extent.ordinal.wrapping_add(n as u16).to_le_bytes());
            if mixed {
                out.extend_from_slice(&extent.log.to_le_bytes());
            }
            out.extend_from_slice(&extent.sco.to_le_bytes());
        }
    }
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

    /// Calls `visit` with the maximal extents of the chunk, in order.
    pub fn for_each(&self, mut visit: impl FnMut(Extent)) {
        let mut pending: Option<Extent> = None;
        // The sections were walked once by `decode`, so this walk cannot fail.
        let _ = walk(self.sections, &mut |extent| match &mut pending {
            Some(before) if extent.continues(before) => before.len += extent.len,
            _ => {
                if let Some(done) = pending.replace(extent) {
                    visit(done);
                }
            }
        });
        if let Some(done) = pending {
            visit(done);
        }
    }
}

/// Checks `bytes`, which are one whole record, and gives access to its extents. Allocates nothing.
pub fn decode(bytes: &[u8]) -> Result<Record<'_>, ChunkError> {
    let given = bytes.len();
    let too_short = ChunkError::Length {
        given,
        expected: HEADER_BYTES + TRAILER_BYTES,
    };
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
        return Err(ChunkError::Section {
            at: 6,
            why: "the reserved bytes are not zero",
        });
    }
    let mut found = 0;
    let count = walk(rest, &mut |extent| found += extent.len)?;
    if count != sections || found != clusters {
        return Err(ChunkError::Totals);
    }
    Ok(Record {
        index,
        clusters,
        sections: rest,
    })
}

/// Calls `visit` with the extents of all sections (a cell is an extent of its own) and checks that
/// they are in order, apart, inside the chunk and inside their SCO. Returns the number of sections.
fn walk(sections: &[u8], visit: &mut impl FnMut(Extent)) -> Result<u32, ChunkError> {
    let mut rest = sections;
    let mut next = 0u32;
    let mut count = 0;
    while !rest.is_empty() {
        let at = HEADER_BYTES + sections.len() - rest.len();
        let mut checked = |extent: Extent| {
            if u32::from(extent.start) < next {
                return Err("the clusters are not in order");
            }
            next = extent.end();
            if next > CLUSTERS {
                return Err("it passes the end of the chunk");
            }
            if u32::from(extent.ordinal) + extent.len > 1 << 16 {
                return Err("a run passes the last ordinal of its SCO");
            }
            visit(extent);
            Ok(())
        };
        section(&mut rest, &mut checked).map_err(|why| ChunkError::Section { at, why })?;
        count += 1;
    }
    Ok(count)
}

const CUT: &str = "it is cut short";

/// Takes one section from `rest`.
fn section(
    rest: &mut &[u8],
    visit: &mut impl FnMut(Extent) -> Result<(), &'static str>,
) -> Result<(), &'static str> {
    let [kind, leaf] = take::<2>(rest).ok_or(CUT)?;
    let number = take_u16(rest).ok_or(CUT)?;
    match kind {
        KIND_RUNS if leaf != 0 => Err("the reserved byte is not zero"),
        KIND_RUNS if number == 0 => Err("it has no runs"),
        KIND_RUNS => {
            for _ in 0..number {
                let start = take_u16(rest).ok_or(CUT)?;
                let len = u32::from(take_u16(rest).ok_or(CUT)?) + 1;
                let ordinal = take_u16(rest).ok_or(CUT)?;
                let log = take_u16(rest).ok_or(CUT)?;
                let sco = take_u32(rest).ok_or(CUT)?;
                visit(Extent {
                    start,
                    len,
                    log,
                    sco,
                    ordinal,
                })?;
            }
            Ok(())
        }
        KIND_MIXED if number != 0 => Err("the reserved bytes are not zero"),
        KIND_PACKED | KIND_MIXED => {
            let log = (kind == KIND_PACKED).then_some(number);
            leaf_section(rest, leaf, log, visit)
        }
        _ => Err("its kind is unknown"),
    }
}

/// Takes the bitmap and cells of a PACKED section (`log` known) or a MIXED one.
fn leaf_section(
    rest: &mut &[u8],
    leaf: u8,
    log: Option<u16>,
    visit: &mut impl FnMut(Extent) -> Result<(), &'static str>,
) -> Result<(), &'static str> {
    let leaf = usize::from(leaf);
    if leaf >= CLUSTERS as usize / LEAF_CLUSTERS {
        return Err("its leaf is outside the chunk");
    }
    let mut bitmap = [0u64; WORDS];
    for word in &mut bitmap {
        *word = u64::from_le_bytes(take::<8>(rest).ok_or(CUT)?);
    }
    if bitmap == [0; WORDS] {
        return Err("its bitmap is empty");
    }
    for (number, bits) in bitmap.into_iter().enumerate() {
        let mut left = bits;
        while left != 0 {
            let cluster = leaf * LEAF_CLUSTERS + number * 64 + left.trailing_zeros() as usize;
            left &= left - 1;
            let ordinal = take_u16(rest).ok_or(CUT)?;
            let log = match log {
                Some(log) => log,
                None => take_u16(rest).ok_or(CUT)?,
            };
            let sco = take_u32(rest).ok_or(CUT)?;
            visit(Extent {
                start: cluster as u16,
                len: 1,
                log,
                sco,
                ordinal,
            })?;
        }
    }
    Ok(())
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
