//! An owner's side: one for each node that follows the volume's map.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::{Mutant, Place};

/// How much may be on its way to a follower, beside what it is caught up with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Bytes; one frame may be larger.
    pub bytes: u64,
    /// Frames.
    pub frames: usize,
}

impl Default for Limits {
    /// At twenty frames a second, a follower may be silent for some seconds.
    fn default() -> Self {
        Self { bytes: 4 << 20, frames: 64 }
    }
}

/// What the owner's log says about a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Known {
    /// CRC at the end of the place's SCO; `None`: not known any more, or no SCO of this log.
    pub crc: Option<u32>,
    /// What comes after the place is in the write buffer, without a hole.
    pub continues: bool,
}

/// What the outside reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    /// The connection is made, and hello is said.
    Connected,
    /// It is over.
    Lost,
    /// The follower stands here.
    Standing {
        /// Where.
        place: Place,
        /// What the log says about it.
        known: Known,
    },
    /// The follower found nothing to begin from.
    Unable,
    /// A checkpoint was stored.
    Checkpointed,
    /// Batches up to a sequence were released, and are ready to be sent in one frame.
    Released {
        /// The last one.
        sequence: u64,
        /// Bytes of the frame.
        bytes: u32,
    },
    /// The follower has every batch up to here.
    Acknowledged {
        /// The last one.
        sequence: u64,
    },
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Have the follower begin from the last checkpoint.
    Reload,
    /// Send the SCOs after this one, as far as they are released.
    CatchUp {
        /// The follower has this SCO.
        after: u32,
    },
    /// Send the frame of released batches.
    Send,
    /// End the connection; make another one later.
    LetGo,
}

/// How it stands with a follower.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum State {
    /// There is no connection.
    #[default]
    Away,
    /// It was asked where it stands.
    Asked,
    /// It has nothing to begin from.
    Unable,
    /// It is fed.
    Fed,
}

/// See the top of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Feed {
    state: State,
    /// It began from the last checkpoint, on this connection.
    reloaded: bool,
    /// Frames on their way: last sequence, bytes.
    unanswered: VecDeque<(u64, u32)>,
    bytes: u64,
    acknowledged: u64,
    limits: Limits,
    mutant: Option<Mutant>,
}

impl Feed {
    /// One with limits of its own.
    pub fn with(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// For the explorer: makes the planted change. Without the feature `mutants` it does nothing.
    pub fn plant(&mut self, mutant: Mutant) {
        self.mutant = Some(mutant);
    }

    fn is(&self, mutant: Mutant) -> bool {
        cfg!(feature = "mutants") && self.mutant == Some(mutant)
    }

    /// How it stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// What the follower has said that it has.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Bytes and frames on their way.
    pub fn unanswered(&self) -> (u64, usize) {
        (self.bytes, self.unanswered.len())
    }

    /// Takes a message; appends what has to be done to `out`.
    pub fn step(&mut self, message: Message, out: &mut Vec<Action>) {
        match message {
            Message::Connected => {
                self.forget();
                self.state = State::Asked;
            }
            Message::Lost => self.forget(),
            Message::Standing { place, known } if self.state == State::Asked => {
                self.standing(place, known, out);
            }
            Message::Unable if self.state == State::Asked => self.state = State::Unable,
            Message::Checkpointed if self.state == State::Unable => {
                (self.state, self.reloaded) = (State::Asked, true);
                out.push(Action::Reload);
            }
            Message::Released { sequence, bytes } if self.state == State::Fed => {
                self.released(sequence, bytes, out);
            }
            Message::Acknowledged { sequence } if self.state == State::Fed => {
                self.acknowledged = self.acknowledged.max(sequence);
                while self.unanswered.front().is_some_and(|(last, _)| *last <= sequence) {
                    let (_, bytes) = self.unanswered.pop_front().unwrap_or_default();
                    self.bytes -= u64::from(bytes);
                }
            }
            // What an earlier state would have answered.
            Message::Standing { .. }
            | Message::Unable
            | Message::Checkpointed
            | Message::Released { .. }
            | Message::Acknowledged { .. } => {}
        }
    }

    fn forget(&mut self) {
        let (mutant, limits) = (self.mutant, self.limits);
        *self = Self { mutant, limits, acknowledged: self.acknowledged, ..Self::default() };
    }

    fn standing(&mut self, place: Place, known: Known, out: &mut Vec<Action>) {
        let same = match known.crc {
            Some(crc) => crc == place.mark.crc || self.is(Mutant::BelieveAnyPlace),
            None => false,
        };
        if same && (known.continues || self.is(Mutant::SkipWhatIsGone)) {
            (self.state, self.acknowledged) = (State::Fed, place.mark.sequence);
            out.push(Action::CatchUp { after: place.sco });
        } else if self.reloaded {
            // Checkpoints are stored faster than it loads them, or the backend is another one.
            self.forget();
            out.push(Action::LetGo);
        } else {
            self.reloaded = true;
            out.push(Action::Reload);
        }
    }

    fn released(&mut self, sequence: u64, bytes: u32, out: &mut Vec<Action>) {
        let full = self.unanswered.len() >= self.limits.frames
            || self.bytes + u64::from(bytes) > self.limits.bytes && !self.unanswered.is_empty();
        if full && !self.is(Mutant::NeverLetGo) {
            self.forget();
            out.push(Action::LetGo);
            return;
        }
        self.unanswered.push_back((sequence, bytes));
        self.bytes += u64::from(bytes);
        out.push(Action::Send);
    }
}
