//! Checkpoint objects: the changed chunks of a volume's map, and where all the others are.
//!
//! ```text
//! 0 ..        chunk records (see `chunk`), one after the other
//! then        metadata
//! last 64     footer
//!
//! metadata                                        footer (64 bytes)
//!   log UUID                            16          0  magic "OVSCKPT1"        8
//!   position: SCO number               u32          8  log UUID               16
//!   last header CRC                    u32         24  checkpoint number     u64
//!   last sequence                      u64         32  epoch                 u64
//!   SCOs of this log: count            u32         40  metadata offset       u64
//!     SCO number u32, clusters u32   8 each        48  metadata bytes        u32
//!   maps: count (head first)           u32         52  metadata CRC          u32
//!     snapshot UUID (head: zeroes)      16         56  format version        u16
//!     position: SCO number             u32         58  0                     u16
//!     chunks: count                    u32         60  footer CRC            u32
//!       chunk index u32, log u16, 0 u16,
//!       object number u64, offset u64,
//!       bytes u32, 0 u32            32 each
//! ```
//! `position`: every batch of SCOs up to this one is in the maps; open replays what comes after.
//! A chunk reference may name another log: a clone shares the stored chunks of its parents; `log`
//! indexes the volume's table of ancestors, as in a location.

use alloc::vec::Vec;

use crate::bytes::{
    Malformed, crc32c, get_id, get_u16, get_u32, get_u64, put_u16, put_u32, put_u64,
};
use crate::entry::Uuid;
use crate::log::VERSION;

/// Bytes of the footer.
pub const FOOTER: usize = 64;
const MAGIC: &[u8; 8] = b"OVSCKPT1";
const CRC_AT: usize = 60;
const CHUNK_REF: usize = 32;

/// Where a chunk record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkRef {
    /// Which 256 MiB of the volume.
    pub index: u32,
    /// Log that owns the checkpoint object (index into the table of ancestors).
    pub log: u16,
    /// Number of the checkpoint object.
    pub object: u64,
    /// First byte of the record.
    pub offset: u64,
    /// Bytes of the record.
    pub len: u32,
}

/// A stored map: the head, or a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMap {
    /// The snapshot's UUID; zeroes for the head.
    pub snapshot: Uuid,
    /// SCO that was closed when the snapshot was taken (head: the checkpoint's position).
    pub position: u32,
    /// Its chunks, by ascending index.
    pub chunks: Vec<ChunkRef>,
}

/// Everything of a checkpoint but the chunk records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// The log (a volume's UUID).
    pub log: Uuid,
    /// Last SCO whose batches are all in the maps.
    pub position: u32,
    /// Header CRC of the last batch up to there.
    pub last_crc: u32,
    /// Its sequence.
    pub last_sequence: u64,
    /// SCOs of this log that exist: number and data clusters.
    pub scos: Vec<(u32, u32)>,
    /// Head first, then the snapshots in order of creation.
    pub maps: Vec<StoredMap>,
}

/// The end of a checkpoint object, which is read first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    /// The log.
    pub log: Uuid,
    /// Number of the checkpoint, ascending.
    pub number: u64,
    /// The owner's epoch.
    pub epoch: u64,
    /// Where the metadata starts: the length of all chunk records.
    pub metadata_at: u64,
    /// Its length in bytes.
    pub metadata_len: u32,
    /// Its CRC32C.
    pub metadata_crc: u32,
}

impl Footer {
    /// Encodes the footer.
    pub fn encode(&self) -> [u8; FOOTER] {
        let mut out = [0; FOOTER];
        out[..8].copy_from_slice(MAGIC);
        out[8..24].copy_from_slice(&self.log);
        put_u64(&mut out, 24, self.number);
        put_u64(&mut out, 32, self.epoch);
        put_u64(&mut out, 40, self.metadata_at);
        put_u32(&mut out, 48, self.metadata_len);
        put_u32(&mut out, 52, self.metadata_crc);
        put_u16(&mut out, 56, VERSION);
        let crc = crc32c(&out);
        put_u32(&mut out, CRC_AT, crc);
        out
    }

    /// Decodes a footer.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut copy: [u8; FOOTER] =
            bytes.get(..FOOTER).and_then(|p| p.try_into().ok()).ok_or(Malformed::Short)?;
        if &copy[..8] != MAGIC {
            return Err(Malformed::Magic);
        }
        let crc = get_u32(&copy, CRC_AT);
        put_u32(&mut copy, CRC_AT, 0);
        if crc != crc32c(&copy) {
            return Err(Malformed::Checksum);
        }
        if get_u16(&copy, 56) != VERSION {
            return Err(Malformed::Version(get_u16(&copy, 56)));
        }
        Ok(Self {
            log: get_id(&copy, 8),
            number: get_u64(&copy, 24),
            epoch: get_u64(&copy, 32),
            metadata_at: get_u64(&copy, 40),
            metadata_len: get_u32(&copy, 48),
            metadata_crc: get_u32(&copy, 52),
        })
    }
}

impl Metadata {
    /// Encodes the metadata.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&self.log);
        out.extend_from_slice(&self.position.to_le_bytes());
        out.extend_from_slice(&self.last_crc.to_le_bytes());
        out.extend_from_slice(&self.last_sequence.to_le_bytes());
        out.extend_from_slice(&(self.scos.len() as u32).to_le_bytes());
        for (sco, clusters) in &self.scos {
            out.extend_from_slice(&sco.to_le_bytes());
            out.extend_from_slice(&clusters.to_le_bytes());
        }
        out.extend_from_slice(&(self.maps.len() as u32).to_le_bytes());
        for map in &self.maps {
            out.extend_from_slice(&map.snapshot);
            out.extend_from_slice(&map.position.to_le_bytes());
            out.extend_from_slice(&(map.chunks.len() as u32).to_le_bytes());
            for chunk in &map.chunks {
                let mut slot = [0; CHUNK_REF];
                put_u32(&mut slot, 0, chunk.index);
                put_u16(&mut slot, 4, chunk.log);
                put_u64(&mut slot, 8, chunk.object);
                put_u64(&mut slot, 16, chunk.offset);
                put_u32(&mut slot, 24, chunk.len);
                out.extend_from_slice(&slot);
            }
        }
        out
    }

    /// Decodes metadata whose length and CRC the caller has compared with the footer.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader { rest: bytes };
        let log = reader.id()?;
        let (position, last_crc) = (reader.u32()?, reader.u32()?);
        let last_sequence = get_u64(reader.take(8)?, 0);
        let count = reader.count(8)?;
        let mut scos = Vec::with_capacity(count);
        for _ in 0..count {
            scos.push((reader.u32()?, reader.u32()?));
        }
        let count = reader.count(24)?;
        let mut maps = Vec::with_capacity(count);
        for _ in 0..count {
            maps.push(reader.map()?);
        }
        if !reader.rest.is_empty() {
            return Err(Malformed::Field("length"));
        }
        Ok(Self { log, position, last_crc, last_sequence, scos, maps })
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (part, rest) = self.rest.split_at_checked(len).ok_or(Malformed::Short)?;
        self.rest = rest;
        Ok(part)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(get_u32(self.take(4)?, 0))
    }

    fn id(&mut self) -> Result<Uuid, Malformed> {
        Ok(get_id(self.take(16)?, 0))
    }

    /// A count of items of at least `each` bytes that the rest can really hold.
    fn count(&mut self, each: usize) -> Result<usize, Malformed> {
        let count = self.u32()? as usize;
        if count > self.rest.len() / each { Err(Malformed::Field("count")) } else { Ok(count) }
    }

    fn map(&mut self) -> Result<StoredMap, Malformed> {
        let (snapshot, position) = (self.id()?, self.u32()?);
        let count = self.count(CHUNK_REF)?;
        let mut chunks = Vec::with_capacity(count);
        for _ in 0..count {
            let slot = self.take(CHUNK_REF)?;
            chunks.push(ChunkRef {
                index: get_u32(slot, 0),
                log: get_u16(slot, 4),
                object: get_u64(slot, 8),
                offset: get_u64(slot, 16),
                len: get_u32(slot, 24),
            });
        }
        if !chunks.is_sorted_by(|a: &ChunkRef, b| a.index < b.index) {
            return Err(Malformed::Field("chunk index"));
        }
        Ok(StoredMap { snapshot, position, chunks })
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    #[test]
    fn a_checkpoint_comes_back_as_it_was() {
        let chunk = ChunkRef { index: 3, log: 1, object: 7, offset: 1 << 40, len: 99 };
        let metadata = Metadata {
            log: [9; 16],
            position: 12,
            last_crc: 5,
            last_sequence: 1 << 40,
            scos: vec![(1, 100), (12, 16384)],
            maps: vec![
                StoredMap { snapshot: [0; 16], position: 12, chunks: vec![chunk] },
                StoredMap { snapshot: [8; 16], position: 4, chunks: vec![] },
            ],
        };
        let bytes = metadata.encode();
        assert_eq!(Metadata::decode(&bytes), Ok(metadata));
        for cut in 0..bytes.len() {
            assert!(Metadata::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let footer = Footer {
            log: [9; 16],
            number: 3,
            epoch: 4,
            metadata_at: 5,
            metadata_len: bytes.len() as u32,
            metadata_crc: crc32c(&bytes),
        };
        let mut raw = footer.encode();
        assert_eq!(Footer::decode(&raw), Ok(footer));
        for bit in 0..FOOTER * 8 {
            raw[bit / 8] ^= 1 << (bit % 8);
            assert!(Footer::decode(&raw).is_err(), "bit {bit}");
            raw[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
