//! Log entries: what a batch says happened, in order. The same 16-byte form is stored in batch
//! headers and in the index of an object.
//!
//! ```text
//! offset  0      6      7     8         12           16
//!         +------+------+-----+---------+------------+
//!         | LBA  | kind | 0   | length  | reserved   |
//!         | u48  | u8   | u8  | u32     | u32 = 0    |
//!         +------+------+-----+---------+------------+
//! ```
//! `length` is in clusters of 4 KiB. Kinds 1 (data) and 2 (trim; also write-zeroes) name a range.
//! Kinds 3, 4 and 5 (snapshot created, snapshot deleted, reverted to snapshot) are followed by one
//! more 16-byte slot that holds the snapshot's UUID. Kind 6 closes the SCO.

use alloc::vec::Vec;

use crate::bytes::{Malformed, get_id, get_u32, get_u64, put_u32, put_u64};

/// A UUID as 16 bytes.
pub type Uuid = [u8; 16];

/// Bytes of a slot.
pub const SLOT: usize = 16;

/// LBAs are below this: 64 TiB of 4 KiB clusters.
pub const LBA_LIMIT: u64 = 1 << 34;

/// One thing that happened to a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Entry {
    /// `clusters` clusters from `lba` have the batch's next data clusters.
    Data {
        /// First cluster.
        lba: u64,
        /// Length.
        clusters: u32,
    },
    /// `clusters` clusters from `lba` read as zeroes from now on.
    Trim {
        /// First cluster.
        lba: u64,
        /// Length.
        clusters: u32,
    },
    /// The volume as it is here can be referred to by this UUID.
    SnapshotCreated(Uuid),
    /// The snapshot is gone.
    SnapshotDeleted(Uuid),
    /// The volume is again what it was at the snapshot.
    Reverted(Uuid),
    /// No further batch follows in this SCO.
    Closed,
}

impl Entry {
    /// Slots that the entry takes.
    pub fn slots(&self) -> usize {
        match self {
            Entry::SnapshotCreated(_) | Entry::SnapshotDeleted(_) | Entry::Reverted(_) => 2,
            _ => 1,
        }
    }

    /// Data clusters that the entry brings along.
    pub fn data_clusters(&self) -> u32 {
        match self {
            Entry::Data { clusters, .. } => *clusters,
            _ => 0,
        }
    }

    /// Appends the entry's slots.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (kind, lba, clusters, id): (u8, u64, u32, Option<&Uuid>) = match self {
            Entry::Data { lba, clusters } => (1, *lba, *clusters, None),
            Entry::Trim { lba, clusters } => (2, *lba, *clusters, None),
            Entry::SnapshotCreated(id) => (3, 0, 0, Some(id)),
            Entry::SnapshotDeleted(id) => (4, 0, 0, Some(id)),
            Entry::Reverted(id) => (5, 0, 0, Some(id)),
            Entry::Closed => (6, 0, 0, None),
        };
        let mut slot = [0; SLOT];
        put_u64(&mut slot, 0, lba | u64::from(kind) << 48);
        put_u32(&mut slot, 8, clusters);
        out.extend_from_slice(&slot);
        if let Some(id) = id {
            out.extend_from_slice(id);
        }
    }
}

/// Decodes the slots of a table; every byte must make sense.
pub fn decode_entries(slots: &[u8]) -> Result<Vec<Entry>, Malformed> {
    let mut entries = Vec::with_capacity(slots.len() / SLOT);
    let mut at = 0;
    while at < slots.len() {
        let slot = slots.get(at..at + SLOT).ok_or(Malformed::Short)?;
        at += SLOT;
        let word = get_u64(slot, 0);
        let (lba, clusters) = (word & ((1 << 48) - 1), get_u32(slot, 8));
        if word >> 56 != 0 || get_u32(slot, 12) != 0 {
            return Err(Malformed::Field("reserved"));
        }
        let kind = (word >> 48) as u8;
        if matches!(kind, 1 | 2) {
            let end = lba + u64::from(clusters);
            if clusters == 0 || end > LBA_LIMIT {
                return Err(Malformed::Field("length"));
            }
        }
        let mut id = || {
            let id = slots.get(at..at + SLOT).ok_or(Malformed::Short).map(|s| get_id(s, 0));
            at += SLOT;
            id
        };
        entries.push(match kind {
            1 => Entry::Data { lba, clusters },
            2 => Entry::Trim { lba, clusters },
            3 => Entry::SnapshotCreated(id()?),
            4 => Entry::SnapshotDeleted(id()?),
            5 => Entry::Reverted(id()?),
            6 => Entry::Closed,
            _ => return Err(Malformed::Field("kind")),
        });
    }
    Ok(entries)
}
