//! The log of an owner, for tests: batches as they lie in its files.

use buffer::{NewBatch, ScoIndex, Tail};
use format::crc32c;
use format::entry::{Entry, Uuid};
use format::log::PAGE;
use machines::dtl::Mark;

/// Its end, and its newest SCO.
pub(crate) struct Owner {
    tail: Tail,
    pub(crate) sco: u32,
    index: ScoIndex,
}

impl Owner {
    /// One that has written nothing.
    pub(crate) fn new(volume: Uuid) -> Self {
        let tail = Tail { log: volume, epoch: 1, sequence: 0, crc: 0 };
        Self { tail, sco: 0, index: ScoIndex::default() }
    }

    /// What is written next begins a SCO.
    pub(crate) fn next_sco(&mut self) {
        (self.sco, self.index) = (self.sco + 1, ScoIndex::default());
    }

    /// The last batch.
    pub(crate) fn end(&self) -> Mark {
        Mark { sequence: self.tail.sequence, crc: self.tail.crc }
    }

    /// Where the newest SCO's file ends.
    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.index.end_page) * PAGE as u64
    }

    /// The next batch, of so many clusters: header and data.
    pub(crate) fn batch(&mut self, clusters: usize) -> Vec<u8> {
        let data = vec![self.tail.sequence as u8 + 1; clusters * PAGE];
        let crcs: Vec<u32> = data.chunks(PAGE).map(crc32c).collect();
        let entries = [Entry::Data { lba: 0, clusters: clusters as u32 }];
        let batch = NewBatch {
            sco: self.sco,
            sequence: self.tail.sequence + 1,
            // All before it is durable at the owner: no batch may be missing elsewhere unseen.
            durable_sequence: self.tail.sequence,
            entries: &entries,
            crcs: &crcs,
        };
        let (mut bytes, mut scratch) = (Vec::new(), Vec::new());
        self.tail = self.tail.encode(&batch, &self.index, &mut bytes, &mut scratch);
        self.index.end_page = self.index.end_page.max(1);
        self.index.add(&entries, &crcs, (scratch.len() / PAGE) as u32);
        bytes.extend_from_slice(&data);
        bytes
    }
}
