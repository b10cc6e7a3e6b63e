//! A node that follows the map of one volume.
//!
//! It keeps the content at a place, the end of a SCO, and the entries since then, which become part
//! of the content when their SCO ends: so it can go back to the place at any time, without a copy
//! of the map.

use alloc::vec::Vec;

use format::entry::Entry;

use super::{Mutant, Piece, Place, Warm};
use crate::dtl::Mark;
use crate::replay::Content;

/// What the outside reports.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    /// An owner says hello.
    Hello {
        /// Its connection.
        connection: u32,
        /// Its epoch.
        epoch: u64,
    },
    /// A connection is over.
    Gone {
        /// Which.
        connection: u32,
    },
    /// The owner says that the place is none of its log, or too old.
    Reload {
        /// Its connection.
        connection: u32,
    },
    /// A part of the log.
    Fed {
        /// Its connection.
        connection: u32,
        /// What.
        piece: Piece,
    },
    /// What the backend has; `None`: nothing to begin from.
    Loaded(Option<Warm>),
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Tell a connection that a newer owner is known, and end it.
    Refuse {
        /// Which.
        connection: u32,
        /// The newer epoch.
        fence: u64,
    },
    /// Load the last checkpoint and what the backend has after it.
    Load,
    /// Say where it stands.
    Stand {
        /// To whom.
        connection: u32,
        /// Where.
        place: Place,
    },
    /// Say that there is nothing to begin from.
    Unable {
        /// To whom.
        connection: u32,
    },
    /// Say that it has every batch up to a sequence.
    Acknowledge {
        /// To whom.
        connection: u32,
        /// Up to where.
        sequence: u64,
    },
    /// End a connection: another one has replaced it, or what it said makes no sense.
    Close {
        /// Which.
        connection: u32,
    },
}

/// The SCO after the place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Unfinished {
    sco: u32,
    entries: Vec<Entry>,
}

/// See the top of the file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Follower {
    own_log: u16,
    /// The newest epoch that has said hello.
    fence: u64,
    /// The connection that feeds it.
    feeder: Option<u32>,
    warm: Option<Warm>,
    unfinished: Option<Unfinished>,
    /// The last batch that it has.
    end: Mark,
    loading: bool,
    mutant: Option<Mutant>,
}

impl Follower {
    /// One that has nothing. `own_log`: the log's index in the volume's table of ancestors.
    pub fn new(own_log: u16) -> Self {
        Self {
            own_log,
            fence: 0,
            feeder: None,
            warm: None,
            unfinished: None,
            end: Mark::default(),
            loading: false,
            mutant: None,
        }
    }

    /// For the explorer: makes the planted change. Without the feature `mutants` it does nothing.
    pub fn plant(&mut self, mutant: Mutant) {
        self.mutant = Some(mutant);
    }

    fn is(&self, mutant: Mutant) -> bool {
        cfg!(feature = "mutants") && self.mutant == Some(mutant)
    }

    /// The epoch of the owner that it listens to.
    pub fn fence(&self) -> u64 {
        self.fence
    }

    /// The connection that feeds it.
    pub fn feeder(&self) -> Option<u32> {
        self.feeder
    }

    /// The last batch that it has; `None`: it has nothing yet.
    pub fn end(&self) -> Option<Mark> {
        self.warm.as_ref().map(|_| self.end)
    }

    /// The content at its place.
    pub fn warm(&self) -> Option<&Warm> {
        self.warm.as_ref()
    }

    /// Gives the content at its place away.
    pub fn into_warm(self) -> Option<Warm> {
        self.warm
    }

    /// The content at its end. Costs what the entries since its place cost.
    pub fn content(&self) -> Option<Content> {
        let mut content = self.warm.as_ref()?.content.clone();
        if let Some(Unfinished { sco, entries }) = &self.unfinished {
            content.replay(self.own_log, *sco, entries).ok()?;
        }
        Some(content)
    }

    /// Takes a message; appends what has to be done to `out`.
    pub fn step(&mut self, message: Message, out: &mut Vec<Action>) {
        match message {
            Message::Hello { connection, epoch } => self.hello(connection, epoch, out),
            Message::Gone { connection } => {
                if self.feeder == Some(connection) {
                    self.feeder = None;
                    self.go_back();
                }
            }
            Message::Reload { connection } => {
                if self.feeder == Some(connection) {
                    self.warm = None;
                    self.go_back();
                    self.load(out);
                }
            }
            Message::Fed { connection, piece } => {
                let listens = self.feeder == Some(connection);
                if listens || (self.feeder.is_some() && self.is(Mutant::BelieveOldConnections)) {
                    self.fed(connection, piece, out);
                }
            }
            Message::Loaded(found) => {
                self.loading = false;
                self.warm = found;
                self.go_back();
                self.answer(out);
            }
        }
    }

    fn hello(&mut self, connection: u32, epoch: u64, out: &mut Vec<Action>) {
        if epoch < self.fence && !self.is(Mutant::AcceptOlderEpochs) {
            out.push(Action::Refuse { connection, fence: self.fence });
            return;
        }
        if let Some(connection) = self.feeder.replace(connection) {
            out.push(Action::Close { connection });
        }
        self.fence = epoch;
        self.go_back();
        if self.warm.is_some() {
            self.answer(out);
        } else {
            self.load(out);
        }
    }

    fn load(&mut self, out: &mut Vec<Action>) {
        if !core::mem::replace(&mut self.loading, true) {
            out.push(Action::Load);
        }
    }

    fn answer(&self, out: &mut Vec<Action>) {
        let Some(connection) = self.feeder else { return };
        out.push(match &self.warm {
            Some(warm) => Action::Stand { connection, place: warm.place },
            None => Action::Unable { connection },
        });
    }

    /// What came after the place is forgotten: the next owner's log may be another one there.
    fn go_back(&mut self) {
        if !self.is(Mutant::KeepUnfinished) {
            self.unfinished = None;
        }
        self.end = self.warm.as_ref().map(|warm| warm.place.mark).unwrap_or_default();
    }

    fn fed(&mut self, connection: u32, piece: Piece, out: &mut Vec<Action>) {
        if self.take(piece).is_none() {
            self.feeder = None;
            self.go_back();
            out.push(Action::Close { connection });
            return;
        }
        out.push(Action::Acknowledge { connection, sequence: self.end.sequence });
    }

    /// `None`: it does not continue what is here.
    fn take(&mut self, piece: Piece) -> Option<()> {
        let place = self.warm.as_ref()?.place;
        let behind = self.unfinished.as_ref().map_or(place.sco + 1, |open| open.sco);
        let continues = piece.before == self.end && piece.sco >= behind;
        if !continues && !self.is(Mutant::IgnoreGap) {
            return None;
        }
        if self.unfinished.as_ref().is_some_and(|open| open.sco != piece.sco) {
            // It ended without a closing: its owner died, and the next one began another.
            if self.is(Mutant::ForgetUnclosed) {
                self.unfinished = None;
            }
            self.finish()?;
        }
        self.end = piece.last;
        let closes = piece.entries.contains(&Entry::Closed);
        let open = self
            .unfinished
            .get_or_insert_with(|| Unfinished { sco: piece.sco, entries: Vec::new() });
        append(&mut open.entries, piece.entries);
        if closes { self.finish() } else { Some(()) }
    }

    /// The entries of a SCO that has ended become part of the content.
    fn finish(&mut self) -> Option<()> {
        let Some(Unfinished { sco, entries }) = self.unfinished.take() else { return Some(()) };
        let warm = self.warm.as_mut()?;
        if warm.content.replay(self.own_log, sco, &entries).is_err() {
            // No owner writes that; what is half in is of no use.
            self.warm = None;
            return None;
        }
        warm.place = Place { sco, mark: self.end };
        Some(())
    }
}

/// Appends entries; data that continues the data before is one entry.
fn append(entries: &mut Vec<Entry>, more: Vec<Entry>) {
    for entry in more {
        if let (Some(Entry::Data { lba, clusters }), Entry::Data { lba: next, clusters: added }) =
            (entries.last_mut(), entry)
            && *lba + u64::from(*clusters) == next
        {
            *clusters += added;
        } else {
            entries.push(entry);
        }
    }
}
