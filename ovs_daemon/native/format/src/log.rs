//! The log form of a SCO: what a file of the write buffer holds.
//!
//! ```text
//! page 0                 SCO header
//! page 1 ..              batch: 1..16 header pages, then its data clusters; next batch; ...
//!
//! SCO header (4096 bytes)                    batch header (n * 4096 bytes)
//!   0  magic "OVSSCO01"            8           0  magic "OVSBATCH"            8
//!   8  log UUID                   16           8  log UUID                   16
//!  24  SCO number                u32          24  SCO number                u32
//!  28  format version            u16          28  header pages              u16
//!  30  0                         u16          30  0                         u16
//!  32  epoch                     u64          32  epoch                     u64
//!  40  sequence before this SCO  u64          40  sequence                  u64
//!  48  durable sequence          u64          48  durable sequence          u64
//!  56  previous header CRC       u32          56  previous header CRC       u32
//!  60  header CRC                u32          60  header CRC                u32
//!  64  zeroes                                 64  slots                     u32
//!                                             68  data clusters             u32
//!                                             72  0                         u64
//!                                             80  slots * 16   entries (see `entry`)
//!                                             ..  clusters * 4 CRC32C of each data cluster
//!                                             ..  zeroes to the end of the page
//! ```
//! A header's CRC is computed over all its pages with the CRC field 0. `previous header CRC` is the
//! header CRC of the batch before, in this SCO or the one before it, so that batches form a chain:
//! a batch left over from an earlier life of the disk never continues it. Sequences count batches of
//! the log from 1. `durable sequence`: every batch up to this one was durable when this header was
//! written; damage at or below it is bit rot, damage above it can be a torn tail.

use alloc::vec::Vec;

use crate::bytes::{Malformed, get_id, get_u16, get_u32, get_u64, put_u16, put_u32, put_u64};
use crate::entry::{Entry, SLOT, Uuid, decode_entries};

/// Bytes of a page and of a cluster.
pub const PAGE: usize = 4096;
/// Most header pages of a batch.
pub const HEADER_PAGES_MAX: usize = 16;
/// Version of all stored formats.
pub const VERSION: u16 = 1;
/// Where the entries of a batch header start.
pub const ENTRIES_AT: usize = 80;

const SCO_MAGIC: &[u8; 8] = b"OVSSCO01";
const BATCH_MAGIC: &[u8; 8] = b"OVSBATCH";
const CRC_AT: usize = 60;

/// What identifies a header and chains it to the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Link {
    /// The log (a volume's UUID).
    pub log: Uuid,
    /// Number of the SCO, from 1.
    pub sco: u32,
    /// The owner's epoch when it was written.
    pub epoch: u64,
    /// Batch header: its sequence. SCO header: sequence of the last batch before this SCO.
    pub sequence: u64,
    /// Every batch up to this one was durable when the header was written.
    pub durable_sequence: u64,
    /// CRC of the header before.
    pub previous_crc: u32,
}

impl Link {
    fn put(&self, page: &mut [u8], magic: &[u8; 8], word: u16) {
        page[..8].copy_from_slice(magic);
        page[8..24].copy_from_slice(&self.log);
        put_u32(page, 24, self.sco);
        put_u16(page, 28, word);
        put_u64(page, 32, self.epoch);
        put_u64(page, 40, self.sequence);
        put_u64(page, 48, self.durable_sequence);
        put_u32(page, 56, self.previous_crc);
    }

    fn get(page: &[u8]) -> Self {
        Self {
            log: get_id(page, 8),
            sco: get_u32(page, 24),
            epoch: get_u64(page, 32),
            sequence: get_u64(page, 40),
            durable_sequence: get_u64(page, 48),
            previous_crc: get_u32(page, 56),
        }
    }
}

fn header_crc(header: &[u8]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(&header[..CRC_AT]);
    digest.update(&[0; 4]);
    digest.update(&header[CRC_AT + 4..]);
    digest.finalize() as u32
}

/// Encodes a SCO header page; returns its CRC.
pub fn encode_sco_header(link: &Link, page: &mut [u8; PAGE]) -> u32 {
    page.fill(0);
    link.put(page, SCO_MAGIC, VERSION);
    let crc = header_crc(page);
    put_u32(page, CRC_AT, crc);
    crc
}

/// Decodes a SCO header page: its link and its CRC.
pub fn decode_sco_header(page: &[u8]) -> Result<(Link, u32), Malformed> {
    let page = page.get(..PAGE).ok_or(Malformed::Short)?;
    if &page[..8] != SCO_MAGIC {
        return Err(Malformed::Magic);
    }
    let crc = get_u32(page, CRC_AT);
    if crc != header_crc(page) {
        return Err(Malformed::Checksum);
    }
    match get_u16(page, 28) {
        VERSION => Ok((Link::get(page), crc)),
        newer => Err(Malformed::Version(newer)),
    }
}

/// Header pages that a batch with so many slots and data clusters needs.
pub fn header_pages(slots: usize, clusters: usize) -> usize {
    (ENTRIES_AT + slots * SLOT + clusters * 4).div_ceil(PAGE)
}

/// Encodes a batch header into `out` (cleared first); `crcs`: one per data cluster. Returns the
/// header's CRC. Panics when it needs more than [`HEADER_PAGES_MAX`] pages: who forms batches
/// bounds them.
pub fn encode_batch_header(link: &Link, entries: &[Entry], crcs: &[u32], out: &mut Vec<u8>) -> u32 {
    let slots: usize = entries.iter().map(Entry::slots).sum();
    let pages = header_pages(slots, crcs.len());
    assert!(pages <= HEADER_PAGES_MAX, "a batch of {slots} slots and {} clusters", crcs.len());
    out.clear();
    out.resize(ENTRIES_AT, 0);
    link.put(out, BATCH_MAGIC, pages as u16);
    put_u32(out, 64, slots as u32);
    put_u32(out, 68, crcs.len() as u32);
    for entry in entries {
        entry.encode(out);
    }
    for crc in crcs {
        out.extend_from_slice(&crc.to_le_bytes());
    }
    out.resize(pages * PAGE, 0);
    let crc = header_crc(out);
    put_u32(out, CRC_AT, crc);
    crc
}

/// A batch header that was read and whose checksum matched. Whether it belongs where it was found
/// is the reader's question: compare [`BatchHeader::link`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Identity and chain.
    pub link: Link,
    /// Pages of the header; the data clusters follow.
    pub pages: usize,
    /// CRC of the header.
    pub crc: u32,
    /// What happened, in order.
    pub entries: Vec<Entry>,
    /// CRC32C of each data cluster.
    pub crcs: Vec<u32>,
}

/// Header pages announced by the first page of a batch, to know how much to read.
pub fn peek_batch_pages(page: &[u8]) -> Result<usize, Malformed> {
    let page = page.get(..PAGE).ok_or(Malformed::Short)?;
    if &page[..8] != BATCH_MAGIC {
        return Err(Malformed::Magic);
    }
    match usize::from(get_u16(page, 28)) {
        pages @ 1..=HEADER_PAGES_MAX => Ok(pages),
        _ => Err(Malformed::Field("header pages")),
    }
}

/// A batch header that was read and whose checksum matched, where it lies. What its entries say was
/// not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchView<'a> {
    /// Identity and chain.
    pub link: Link,
    /// Pages of the header; the data clusters follow.
    pub pages: usize,
    /// CRC of the header.
    pub crc: u32,
    crcs: &'a [u8],
}

impl BatchView<'_> {
    /// Data clusters.
    pub fn clusters(&self) -> usize {
        self.crcs.len() / 4
    }

    /// CRC32C of a data cluster.
    pub fn cluster_crc(&self, index: usize) -> u32 {
        get_u32(self.crcs, index * 4)
    }
}

/// Looks at a batch header of [`peek_batch_pages`] pages without taking it apart.
pub fn view_batch_header(bytes: &[u8]) -> Result<BatchView<'_>, Malformed> {
    let pages = peek_batch_pages(bytes)?;
    let header = bytes.get(..pages * PAGE).ok_or(Malformed::Short)?;
    let crc = get_u32(header, CRC_AT);
    if crc != header_crc(header) {
        return Err(Malformed::Checksum);
    }
    let (slots, clusters) = (get_u32(header, 64) as usize, get_u32(header, 68) as usize);
    if slots > header.len() / SLOT || clusters > header.len() / 4 {
        return Err(Malformed::Field("slots"));
    }
    let at = ENTRIES_AT + slots * SLOT;
    let crcs = header.get(at..at + clusters * 4).ok_or(Malformed::Field("data clusters"))?;
    Ok(BatchView { link: Link::get(header), pages, crc, crcs })
}

/// Decodes a batch header of [`peek_batch_pages`] pages.
pub fn decode_batch_header(bytes: &[u8]) -> Result<BatchHeader, Malformed> {
    let pages = peek_batch_pages(bytes)?;
    let header = bytes.get(..pages * PAGE).ok_or(Malformed::Short)?;
    let crc = get_u32(header, CRC_AT);
    if crc != header_crc(header) {
        return Err(Malformed::Checksum);
    }
    let (slots, clusters) = (get_u32(header, 64) as usize, get_u32(header, 68) as usize);
    if slots > header.len() / SLOT || clusters > header.len() / 4 {
        return Err(Malformed::Field("slots"));
    }
    let table_end = ENTRIES_AT + slots * SLOT;
    let crcs_end = table_end + clusters * 4;
    let table = header.get(ENTRIES_AT..table_end).ok_or(Malformed::Field("slots"))?;
    let crcs = header.get(table_end..crcs_end).ok_or(Malformed::Field("data clusters"))?;
    let entries = decode_entries(table)?;
    let brought: u64 = entries.iter().map(|e| u64::from(e.data_clusters())).sum();
    if brought != clusters as u64 {
        return Err(Malformed::Field("data clusters"));
    }
    let crcs = crcs.chunks_exact(4).map(|c| get_u32(c, 0)).collect();
    Ok(BatchHeader { link: Link::get(header), pages, crc, entries, crcs })
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn link() -> Link {
        Link {
            log: [7; 16],
            sco: 3,
            epoch: 2,
            sequence: 9,
            durable_sequence: 8,
            previous_crc: 0x1234_5678,
        }
    }

    #[test]
    fn headers_come_back_as_they_were() {
        let mut page = [0; PAGE];
        let crc = encode_sco_header(&link(), &mut page);
        assert_eq!(decode_sco_header(&page), Ok((link(), crc)));
        let entries = vec![
            Entry::Data { lba: 5, clusters: 300 },
            Entry::Trim { lba: 1 << 33, clusters: 7 },
            Entry::SnapshotCreated([1; 16]),
            Entry::Reverted([2; 16]),
            Entry::SnapshotDeleted([3; 16]),
            Entry::Data { lba: 0, clusters: 900 },
            Entry::Closed,
        ];
        let crcs: Vec<u32> = (0..1200).collect();
        let mut out = vec![];
        let crc = encode_batch_header(&link(), &entries, &crcs, &mut out);
        assert_eq!(out.len(), 2 * PAGE);
        let back = decode_batch_header(&out).unwrap();
        let view = view_batch_header(&out).unwrap();
        assert_eq!((view.link, view.pages, view.crc, view.clusters()), (link(), 2, crc, 1200));
        assert!((0..1200).all(|index| view.cluster_crc(index) == index as u32));
        assert_eq!(back, BatchHeader { link: link(), pages: 2, crc, entries, crcs });
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed() {
        let mut out = vec![];
        encode_batch_header(&link(), &[Entry::Data { lba: 1, clusters: 1 }], &[9], &mut out);
        for bit in 0..out.len() * 8 {
            out[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_batch_header(&out).is_err(), "bit {bit}");
            out[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(decode_batch_header(&out).is_ok());
    }
}
