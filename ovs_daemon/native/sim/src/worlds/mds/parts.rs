//! What the world consists of.

use format::entry::Entry;
use machines::dtl::Mark;
use machines::mds::feed::{Feed, Known};
use machines::mds::{Piece, Place, Warm};
use machines::replay::Content;

/// Batches of a SCO.
const SCO_BATCHES: usize = 2;

/// A batch of a log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Batch {
    pub(super) sco: u32,
    pub(super) mark: Mark,
    pub(super) entries: Vec<Entry>,
}

/// An owner, for ever: a former one may live on without knowing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Owner {
    pub(super) epoch: u64,
    pub(super) log: Vec<Batch>,
    /// Batches that may be known.
    pub(super) released: usize,
    /// The first SCO in the write buffer.
    pub(super) kept_from: u32,
    /// SCOs from here on are this owner's own.
    pub(super) own_from: u32,
    pub(super) feed: Feed,
    /// Its place among the pipes, by number.
    pub(super) connection: Option<u32>,
    /// It is to be caught up from this SCO on.
    pub(super) catch_up_after: Option<u32>,
}

/// What an owner and the follower say.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Frame {
    Hello(u64),
    Reload,
    Fed(Piece),
    Standing(Place),
    Unable,
    Refused,
    Acknowledged(u64),
}

/// A connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pipe {
    pub(super) number: u32,
    pub(super) owner: usize,
    pub(super) epoch: u64,
    pub(super) up: Vec<Frame>,
    pub(super) down: Vec<Frame>,
    pub(super) owner_open: bool,
    pub(super) follower_open: bool,
}

/// What everybody can read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Backend {
    /// Those of whole SCOs.
    pub(super) batches: Vec<Batch>,
    /// Batches that the last checkpoint covers.
    pub(super) covered: usize,
}

impl Backend {
    pub(super) fn has_new(&self) -> bool {
        self.covered < self.batches.len()
    }

    /// What a follower loads: the last checkpoint, and the objects after it.
    pub(super) fn load(&self) -> Warm {
        Warm { place: end_of(&self.batches), content: content_of(&self.batches) }
    }
}

/// The end of a log, as that of its last SCO.
pub(super) fn end_of(log: &[Batch]) -> Place {
    log.last().map_or(Place::default(), |batch| Place { sco: batch.sco, mark: batch.mark })
}

/// The ends of a log's SCOs, and its begin.
pub(super) fn ends_of(log: &[Batch]) -> Vec<Place> {
    let mut ends = vec![Place::default()];
    for sco in log.chunk_by(|a, b| a.sco == b.sco) {
        ends.push(end_of(sco));
    }
    ends
}

/// What recovery makes of a log.
pub(super) fn content_of(log: &[Batch]) -> Content {
    let mut content = Content::default();
    for sco in log.chunk_by(|a, b| a.sco == b.sco) {
        let entries: Vec<Entry> = sco.iter().flat_map(|batch| batch.entries.clone()).collect();
        content.replay(0, sco[0].sco, &entries).expect("a map takes small volumes");
    }
    content
}

/// The part of a log that ends with a batch; `None`: it has none such.
pub(super) fn up_to(log: &[Batch], end: Mark) -> Option<&[Batch]> {
    if end == Mark::default() {
        return Some(&[]);
    }
    let at = log.iter().position(|batch| batch.mark == end)?;
    Some(&log[..=at])
}

impl Owner {
    /// The next batch: it overwrites what the last but one wrote, closes its SCO when that is full,
    /// and has a CRC that says all that came before.
    pub(super) fn append(&mut self) {
        let last = end_of(&self.log);
        let in_sco = self.log.iter().rev().take_while(|batch| batch.sco == last.sco).count();
        let fresh = self.log.is_empty() || in_sco == SCO_BATCHES || last.sco < self.own_from;
        let sco = if fresh { last.sco.max(self.own_from - 1) + 1 } else { last.sco };
        let sequence = last.mark.sequence + 1;
        let mut entries = vec![Entry::Data { lba: sequence % 2, clusters: 1 }];
        if sequence.is_multiple_of(3) {
            entries.push(Entry::Trim { lba: (sequence + 1) % 2, clusters: 1 });
        }
        if !fresh && in_sco + 1 == SCO_BATCHES {
            entries.push(Entry::Closed);
        }
        let crc = (last.mark.crc * 10 + 1) * 10 + self.epoch as u32;
        self.log.push(Batch { sco, mark: Mark { sequence, crc }, entries });
    }

    /// A batch as it is fed.
    pub(super) fn piece(&self, at: usize) -> Piece {
        let Batch { sco, mark: last, entries } = self.log[at].clone();
        let before = end_of(&self.log[..at]).mark;
        Piece { sco, before, last, entries }
    }

    /// What the write buffer has after a SCO.
    pub(super) fn pieces_after(&self, sco: u32) -> Vec<Piece> {
        let from = sco.saturating_add(1).max(self.kept_from);
        let mut at = self.log.iter().take_while(|batch| batch.sco < from).count();
        let mut pieces = Vec::new();
        for part in self.log[at..].chunk_by(|a, b| a.sco == b.sco) {
            let before = end_of(&self.log[..at]).mark;
            let entries = part.iter().flat_map(|batch| batch.entries.clone()).collect();
            pieces.push(Piece { sco: part[0].sco, before, last: end_of(part).mark, entries });
            at += part.len();
        }
        pieces
    }

    /// What the log says about a place, as the shell finds it out.
    pub(super) fn known(&self, place: &Place) -> Known {
        let before = match self.pieces_after(place.sco).first() {
            Some(piece) => piece.before,
            None => end_of(&self.log).mark,
        };
        let end = ends_of(&self.log).into_iter().find(|end| end.sco == place.sco);
        let crc = end.map(|end| end.mark.crc);
        Known { crc, continues: before.sequence == place.mark.sequence }
    }
}
