//! What is known of a SCO file without reading it: where each data cluster is and its checksum.

use format::entry::Entry;
use format::object::ObjectIndex;

/// The index of a SCO file; 8 bytes per data cluster and 16 to 32 per entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScoIndex {
    /// What happened, in log order.
    pub entries: Vec<Entry>,
    /// CRC32C of each data cluster, by ordinal.
    pub crcs: Vec<u32>,
    /// Page of each data cluster in the file, by ordinal.
    pub pages: Vec<u32>,
    /// First free page of the file; 0: the file is empty.
    pub end_page: u32,
    /// Epoch of the last batch.
    pub epoch: u64,
    /// Sequence of the last batch before this SCO.
    pub previous_sequence: u64,
    /// Sequence of the last batch.
    pub last_sequence: u64,
    /// Header CRC of the last batch.
    pub last_crc: u32,
}

impl ScoIndex {
    /// Takes in a batch whose header starts at the first free page (after the SCO header, when the
    /// file is empty) and has `header_pages` pages.
    pub fn add(&mut self, entries: &[Entry], crcs: &[u32], header_pages: u32) {
        let first = self.end_page + header_pages;
        self.pages.extend(first..first + crcs.len() as u32);
        self.crcs.extend_from_slice(crcs);
        self.end_page = first + crcs.len() as u32;
        for entry in entries {
            if let (Some(Entry::Data { lba, clusters }), Entry::Data { lba: next, clusters: more }) =
                (self.entries.last_mut(), entry)
                && *lba + u64::from(*clusters) == *next
            {
                *clusters += more;
                continue;
            }
            self.entries.push(*entry);
        }
    }

    /// Data clusters.
    pub fn clusters(&self) -> u32 {
        self.crcs.len() as u32
    }

    /// What the object's index will hold.
    pub fn object_index(&self) -> ObjectIndex {
        ObjectIndex { entries: self.entries.clone(), crcs: self.crcs.clone() }
    }
}
