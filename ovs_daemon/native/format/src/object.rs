//! The object form of a SCO: what the backend holds.
//!
//! ```text
//! page 0                     header
//! page 1 + n                 data cluster with ordinal n
//! then                       CRC32C of each data cluster        clusters * 4
//! then                       entries in log order               slots * 16   (see `entry`)
//!
//! header (4096 bytes)
//!   0  magic "OVSOBJ01"                    8
//!   8  log UUID                           16
//!  24  SCO number                        u32
//!  28  format version                    u16
//!  30  0                                 u16
//!  32  epoch                             u64
//!  40  sequence of the last batch        u64
//!  48  sequence before its first batch   u64
//!  56  header CRC of the last batch      u32
//!  60  header CRC                        u32
//!  64  slots                             u32
//!  68  data clusters                     u32
//!  72  CRC of everything after the data  u32
//!  76  zeroes
//! ```
//! The place of a cluster and of its checksum follow from its ordinal: 4 KiB can be read, and
//! verified, from a 64 MiB object.

use alloc::vec::Vec;

use crate::bytes::{
    Malformed, crc32c, get_id, get_u16, get_u32, get_u64, put_u16, put_u32, put_u64,
};
use crate::entry::{Entry, SLOT, Uuid, decode_entries};
use crate::log::{PAGE, VERSION};

const MAGIC: &[u8; 8] = b"OVSOBJ01";
const CRC_AT: usize = 60;
/// Most data clusters of an object: ordinals have 16 bits.
const CLUSTERS_MAX: u32 = 1 << 16;
/// Most slots of an object's entry table. Writers close a SCO long before; objects of before they
/// did so are to be read all the same.
const SLOTS_MAX: u32 = 1 << 24;

/// Header of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ObjectHeader {
    /// The log (a volume's UUID).
    pub log: Uuid,
    /// Number of the SCO.
    pub sco: u32,
    /// Epoch of its last batch.
    pub epoch: u64,
    /// Sequence of its last batch (or of the last batch before it, when it has none).
    pub last_sequence: u64,
    /// Sequence of the last batch before this SCO.
    pub previous_sequence: u64,
    /// Header CRC of its last batch: where the chain goes on.
    pub last_crc: u32,
    /// Slots of the entry table.
    pub slots: u32,
    /// Data clusters.
    pub clusters: u32,
    /// CRC32C of the index (everything after the data).
    pub index_crc: u32,
}

impl ObjectHeader {
    /// Offset of a data cluster.
    pub fn data_at(ordinal: u32) -> u64 {
        PAGE as u64 * (1 + u64::from(ordinal))
    }

    /// Offset of the checksum of a data cluster.
    pub fn crc_at(&self, ordinal: u32) -> u64 {
        Self::data_at(self.clusters) + u64::from(ordinal) * 4
    }

    /// Bytes of the index.
    pub fn index_len(&self) -> usize {
        self.clusters as usize * 4 + self.slots as usize * SLOT
    }

    /// Bytes of the whole object.
    pub fn len(&self) -> u64 {
        Self::data_at(self.clusters) + self.index_len() as u64
    }

    /// Never true: an object has a header.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Encodes the header page.
    pub fn encode(&self) -> [u8; PAGE] {
        let mut page = [0; PAGE];
        page[..8].copy_from_slice(MAGIC);
        page[8..24].copy_from_slice(&self.log);
        put_u32(&mut page, 24, self.sco);
        put_u16(&mut page, 28, VERSION);
        put_u64(&mut page, 32, self.epoch);
        put_u64(&mut page, 40, self.last_sequence);
        put_u64(&mut page, 48, self.previous_sequence);
        put_u32(&mut page, 56, self.last_crc);
        put_u32(&mut page, 64, self.slots);
        put_u32(&mut page, 68, self.clusters);
        put_u32(&mut page, 72, self.index_crc);
        let crc = crc32c(&page);
        put_u32(&mut page, CRC_AT, crc);
        page
    }

    /// Decodes a header page.
    pub fn decode(page: &[u8]) -> Result<Self, Malformed> {
        let mut copy: [u8; PAGE] =
            page.get(..PAGE).and_then(|p| p.try_into().ok()).ok_or(Malformed::Short)?;
        if &copy[..8] != MAGIC {
            return Err(Malformed::Magic);
        }
        let crc = get_u32(&copy, CRC_AT);
        put_u32(&mut copy, CRC_AT, 0);
        if crc != crc32c(&copy) {
            return Err(Malformed::Checksum);
        }
        if get_u16(&copy, 28) != VERSION {
            return Err(Malformed::Version(get_u16(&copy, 28)));
        }
        let header = Self {
            log: get_id(&copy, 8),
            sco: get_u32(&copy, 24),
            epoch: get_u64(&copy, 32),
            last_sequence: get_u64(&copy, 40),
            previous_sequence: get_u64(&copy, 48),
            last_crc: get_u32(&copy, 56),
            slots: get_u32(&copy, 64),
            clusters: get_u32(&copy, 68),
            index_crc: get_u32(&copy, 72),
        };
        header.check()?;
        Ok(header)
    }

    /// What decoding refuses, so that nobody stores it.
    ///
    /// # Errors
    /// Which field is out of its bounds.
    pub fn check(&self) -> Result<(), Malformed> {
        if self.clusters > CLUSTERS_MAX {
            return Err(Malformed::Field("data clusters"));
        }
        if self.slots > SLOTS_MAX {
            return Err(Malformed::Field("slots"));
        }
        Ok(())
    }
}

/// What follows the data of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectIndex {
    /// What happened, in log order.
    pub entries: Vec<Entry>,
    /// CRC32C of each data cluster.
    pub crcs: Vec<u32>,
}

impl ObjectIndex {
    /// Encodes the index; its length is [`ObjectHeader::index_len`].
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.crcs.len() * 4 + self.entries.len() * SLOT);
        for crc in &self.crcs {
            out.extend_from_slice(&crc.to_le_bytes());
        }
        for entry in &self.entries {
            entry.encode(&mut out);
        }
        out
    }

    /// Decodes an index that belongs to `header`.
    pub fn decode(header: &ObjectHeader, bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() != header.index_len() {
            return Err(Malformed::Short);
        }
        if crc32c(bytes) != header.index_crc {
            return Err(Malformed::Checksum);
        }
        let (crcs, slots) = bytes.split_at(header.clusters as usize * 4);
        let entries = decode_entries(slots)?;
        let brought: u64 = entries.iter().map(|e| u64::from(e.data_clusters())).sum();
        if brought != u64::from(header.clusters) {
            return Err(Malformed::Field("data clusters"));
        }
        Ok(Self { entries, crcs: crcs.chunks_exact(4).map(|c| get_u32(c, 0)).collect() })
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    #[test]
    fn an_object_comes_back_as_it_was_and_damage_is_noticed() {
        let index = ObjectIndex {
            entries: vec![
                Entry::Data { lba: 1, clusters: 2 },
                Entry::Trim { lba: 9, clusters: 9 },
                Entry::SnapshotCreated([4; 16]),
            ],
            crcs: vec![1, 2],
        };
        let bytes = index.encode();
        let header = ObjectHeader {
            log: [1; 16],
            sco: 4,
            epoch: 5,
            last_sequence: 6,
            previous_sequence: 3,
            last_crc: 7,
            slots: 4,
            clusters: 2,
            index_crc: crc32c(&bytes),
        };
        assert_eq!(header.index_len(), bytes.len());
        let mut page = header.encode();
        assert_eq!(ObjectHeader::decode(&page), Ok(header));
        assert_eq!(ObjectIndex::decode(&header, &bytes), Ok(index));
        for bit in 0..PAGE * 8 {
            page[bit / 8] ^= 1 << (bit % 8);
            assert!(ObjectHeader::decode(&page).is_err(), "bit {bit}");
            page[bit / 8] ^= 1 << (bit % 8);
        }
        let long = ObjectHeader { slots: 5 << 20, ..header };
        assert_eq!(ObjectHeader::decode(&long.encode()), Ok(long));
        let mut damaged = bytes.clone();
        damaged[3] ^= 1;
        assert_eq!(ObjectIndex::decode(&header, &damaged), Err(Malformed::Checksum));
    }
}
