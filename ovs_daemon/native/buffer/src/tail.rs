//! Where the next batch of a log goes, and its header's bytes.
//!
//! This is the only place that forms what is appended; production and the crash images of `sim`
//! both write what it gives.

use format::entry::{Entry, Uuid};
use format::log::{Link, PAGE, encode_batch_header, encode_sco_header};

use crate::index::ScoIndex;

/// The end of a log: which header comes last, so that the next one continues the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// The log (a volume's UUID).
    pub log: Uuid,
    /// The owner's epoch.
    pub epoch: u64,
    /// Sequence of the last batch.
    pub sequence: u64,
    /// CRC of the last header.
    pub crc: u32,
}

/// One batch, as the machine formed it.
#[derive(Clone, Copy, Debug)]
pub struct NewBatch<'a> {
    /// SCO that it goes to.
    pub sco: u32,
    /// Its sequence: the tail's plus one.
    pub sequence: u64,
    /// Every batch up to here is durable.
    pub durable_sequence: u64,
    /// What happens.
    pub entries: &'a [Entry],
    /// CRC32C of each data cluster.
    pub crcs: &'a [u32],
}

impl Tail {
    /// Encodes what precedes the batch's data clusters: the SCO header when the file is empty, and
    /// the batch header. Returns the tail and the index as they will be once all of it is written;
    /// so a failed append changes nothing and can be repeated at the same place.
    pub fn encode(
        &self,
        batch: &NewBatch<'_>,
        index: &ScoIndex,
        out: &mut Vec<u8>,
        scratch: &mut Vec<u8>,
    ) -> Tail {
        out.clear();
        let mut tail = *self;
        let link = |tail: &Tail, sequence| Link {
            log: tail.log,
            sco: batch.sco,
            epoch: tail.epoch,
            sequence,
            durable_sequence: batch.durable_sequence,
            previous_crc: tail.crc,
        };
        if index.end_page == 0 {
            let mut page = [0; PAGE];
            tail.crc = encode_sco_header(&link(&tail, tail.sequence), &mut page);
            out.extend_from_slice(&page);
        }
        let header = link(&tail, batch.sequence);
        tail.crc = encode_batch_header(&header, batch.entries, batch.crcs, scratch);
        tail.sequence = batch.sequence;
        out.extend_from_slice(scratch);
        tail
    }
}
