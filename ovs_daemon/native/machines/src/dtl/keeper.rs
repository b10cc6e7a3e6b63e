//! The DTL node's side: what is kept for one volume, and from whom.
//!
//! * The *fence* is the newest epoch that ever said hello. It is stored durably before the hello is
//!   answered, and what comes from an older epoch is refused from then on, for ever. So once a new
//!   owner has its answer no older one can have a batch acknowledged any more.
//! * One connection counts: the last one that said hello with the epoch of the fence.
//! * A connection first says whether what is held is good (resume) or has to go (fresh); then only
//!   batches are taken that continue what is held. So what is held is always one piece of one log.
//! * `Write` and `Wipe` are answered at once: no other message comes in between.
//! * Of what was to be wiped anything may be gone when that fails: nothing is said to be held then.
//! * After a restart of the process all is still there: it is in the page cache. After loss of
//!   power the end may be missing. What is held is *suspect* then, until an owner of the newest
//!   epoch has said that it is good or has filled it again.

use alloc::vec::Vec;

use super::{Held, Mark, Mutant};

/// The shell's name of a connection; never used twice.
pub type Connection = u32;

/// Which batches a frame brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Piece {
    /// The batch before the first of them.
    pub previous: Mark,
    /// The last of them.
    pub end: Mark,
    /// The first of them is the first of its SCO.
    pub starts_sco: bool,
}

/// What the outside reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    /// An owner, or somebody who is to become the owner, has connected.
    Hello {
        /// Its connection.
        connection: Connection,
        /// Its epoch.
        epoch: u64,
        /// Number of the connection among those that it has made: a late one does not take the
        /// place of a newer one.
        generation: u32,
    },
    /// The fence is durable.
    EpochStored {
        /// Where it stands.
        epoch: u64,
    },
    /// It may or may not be.
    EpochFailed,
    /// What is held is good.
    Resume {
        /// Whose word it is.
        connection: Connection,
    },
    /// What is held has to go; a SCO's first batch follows.
    Fresh {
        /// Whose word it is.
        connection: Connection,
    },
    /// What was held is gone.
    Wiped,
    /// It may be there in parts.
    WipeFailed,
    /// Batches, checked against their checksums.
    Append {
        /// Where they came from.
        connection: Connection,
        /// Which they are.
        piece: Piece,
    },
    /// The batches of the last [`Action::Write`] are in the page cache.
    Written,
    /// They are not, or not wholly.
    WriteFailed,
    /// SCOs below this number are on the backend.
    Trim {
        /// Whose word it is.
        connection: Connection,
        /// The first that has to stay.
        below: u32,
    },
    /// The connection is over.
    Gone {
        /// Which.
        connection: Connection,
    },
}

/// What the outside has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Store the fence durably; answers with `EpochStored` or `EpochFailed`.
    StoreEpoch {
        /// Where it is to stand.
        epoch: u64,
        /// What is held is suspect; to be remembered with it.
        suspect: bool,
    },
    /// Answer the hello.
    Greet {
        /// Whose.
        connection: Connection,
        /// What is held.
        held: Held,
    },
    /// Say that a newer epoch is known, and close.
    Refuse {
        /// To whom.
        connection: Connection,
        /// The newest epoch.
        fence: u64,
    },
    /// Close the connection: it says what no owner says, or cannot be served.
    Close {
        /// Which.
        connection: Connection,
    },
    /// Remove everything that is held; answers with `Wiped` or `WipeFailed`.
    Wipe,
    /// Put the batches of the append behind what is held; answers with `Written` or `WriteFailed`.
    Write,
    /// Say that everything up to here is held.
    Acknowledge {
        /// To whom.
        connection: Connection,
        /// The last batch.
        sequence: u64,
    },
    /// Remove files of SCOs below this number. No answer is awaited.
    Unlink {
        /// The first that stays.
        below: u32,
    },
    /// Record that what is held is no longer suspect. No answer is awaited.
    Vouch,
}

/// Who said hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Caller {
    connection: Connection,
    epoch: u64,
    generation: u32,
}

/// The connection that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Present {
    caller: Caller,
    talk: Talk,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Talk {
    /// Greeted; it has to say whether what is held is good.
    Greeted,
    /// What was held is being removed.
    Wiping,
    /// Batches follow what is held; when that is nothing, a SCO's first batch.
    Open,
    /// The batches of this piece are being written.
    Writing(Piece),
}

/// See the top of the file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Keeper {
    fence: u64,
    storing: Option<u64>,
    /// Who said hello and waits for the fence.
    waiting: Vec<Caller>,
    begin: u64,
    end: Option<Mark>,
    suspect: bool,
    present: Option<Present>,
    mutant: Option<Mutant>,
}

impl Keeper {
    /// A keeper as its files say: the fence (0: the volume is not known), what is held, and whether
    /// power was lost since.
    pub fn new(fence: u64, held: Held) -> Self {
        Self {
            fence,
            storing: None,
            waiting: Vec::new(),
            begin: held.begin,
            end: held.end,
            suspect: held.suspect,
            present: None,
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

    /// Takes a message; appends what has to be done to `out`.
    pub fn step(&mut self, message: Message, out: &mut Vec<Action>) {
        match message {
            Message::Hello { connection, epoch, generation } => {
                self.hello(Caller { connection, epoch, generation }, out);
            }
            Message::EpochStored { epoch } => self.epoch_stored(epoch, out),
            Message::EpochFailed => self.epoch_failed(out),
            Message::Resume { connection } => self.resume(connection, out),
            Message::Fresh { connection } => self.fresh(connection, out),
            Message::Wiped => self.wiped(out),
            Message::WipeFailed => self.wipe_failed(out),
            Message::Append { connection, piece } => self.append(connection, piece, out),
            Message::Written => self.written(out),
            Message::WriteFailed => self.give_up(out),
            Message::Trim { connection, below } => {
                if self.is_present(connection) {
                    out.push(Action::Unlink { below });
                }
            }
            Message::Gone { connection } => {
                self.waiting.retain(|caller| caller.connection != connection);
                if self.is_present(connection) {
                    self.present = None;
                }
            }
        }
    }

    fn is_present(&self, connection: Connection) -> bool {
        self.present.is_some_and(|present| present.caller.connection == connection)
    }

    fn talk(&self, connection: Connection) -> Option<Talk> {
        self.present.filter(|p| p.caller.connection == connection).map(|present| present.talk)
    }

    fn set_talk(&mut self, talk: Talk) {
        if let Some(present) = &mut self.present {
            present.talk = talk;
        }
    }

    fn hello(&mut self, caller: Caller, out: &mut Vec<Action>) {
        let Caller { connection, epoch, .. } = caller;
        if epoch < self.fence && !self.is(Mutant::AcceptOlderEpochs) {
            out.push(Action::Refuse { connection, fence: self.fence });
            return;
        }
        if epoch <= self.fence {
            self.greet(caller, out);
            return;
        }
        if self.is(Mutant::AnswerBeforeFence) {
            self.fence = epoch;
            self.greet(caller, out);
            return;
        }
        self.waiting.push(caller);
        if self.storing.is_none() {
            // Nobody knows what an earlier life of a node that does not know the volume had held.
            self.suspect |= self.fence == 0;
            self.storing = Some(epoch);
            out.push(Action::StoreEpoch { epoch, suspect: self.suspect });
        }
    }

    /// Whoever said hello before is no longer heard.
    fn greet(&mut self, caller: Caller, out: &mut Vec<Action>) {
        let connection = caller.connection;
        if let Some(Present { caller: before, .. }) = self.present {
            if before.epoch == caller.epoch && before.generation > caller.generation {
                out.push(Action::Close { connection });
                return;
            }
            let (connection, fence) = (before.connection, self.fence);
            let older = before.epoch < caller.epoch;
            let refuse = Action::Refuse { connection, fence };
            out.push(if older { refuse } else { Action::Close { connection } });
        }
        self.present = Some(Present { caller, talk: Talk::Greeted });
        out.push(Action::Greet { connection, held: self.held() });
    }

    fn epoch_stored(&mut self, epoch: u64, out: &mut Vec<Action>) {
        self.storing = None;
        self.fence = self.fence.max(epoch);
        for caller in core::mem::take(&mut self.waiting) {
            self.hello(caller, out);
        }
    }

    fn epoch_failed(&mut self, out: &mut Vec<Action>) {
        self.storing = None;
        for Caller { connection, .. } in core::mem::take(&mut self.waiting) {
            out.push(Action::Close { connection });
        }
    }

    fn resume(&mut self, connection: Connection, out: &mut Vec<Action>) {
        if self.talk(connection) != Some(Talk::Greeted) {
            self.close(connection, out);
            return;
        }
        self.set_talk(Talk::Open);
        self.vouch(out);
    }

    fn vouch(&mut self, out: &mut Vec<Action>) {
        if core::mem::take(&mut self.suspect) {
            out.push(Action::Vouch);
        }
    }

    fn fresh(&mut self, connection: Connection, out: &mut Vec<Action>) {
        if self.talk(connection) != Some(Talk::Greeted) {
            self.close(connection, out);
            return;
        }
        self.set_talk(Talk::Wiping);
        out.push(Action::Wipe);
    }

    fn wiped(&mut self, out: &mut Vec<Action>) {
        (self.begin, self.end) = (0, None);
        if self.present.is_some_and(|present| present.talk == Talk::Wiping) {
            self.set_talk(Talk::Open);
            // Nothing is what the owner wants to be held, and all there is when its whole log is on
            // the backend.
            self.vouch(out);
        }
    }

    /// An owner whose log ends where that did would take it for complete. It has it wiped again.
    fn wipe_failed(&mut self, out: &mut Vec<Action>) {
        (self.begin, self.end, self.suspect) = (0, None, true);
        self.give_up(out);
    }

    fn append(&mut self, connection: Connection, piece: Piece, out: &mut Vec<Action>) {
        let continues = match self.end {
            Some(end) => end == piece.previous,
            None => piece.starts_sco,
        };
        if self.talk(connection) != Some(Talk::Open) || !continues {
            self.close(connection, out);
            return;
        }
        if self.is(Mutant::AcknowledgeUnwritten) {
            out.push(Action::Acknowledge { connection, sequence: piece.end.sequence });
        }
        self.set_talk(Talk::Writing(piece));
        out.push(Action::Write);
    }

    fn written(&mut self, out: &mut Vec<Action>) {
        let Some(Present { caller, talk: Talk::Writing(piece) }) = self.present else { return };
        let connection = caller.connection;
        if self.end.is_none() {
            self.begin = piece.previous.sequence;
        }
        self.end = Some(piece.end);
        self.set_talk(Talk::Open);
        self.vouch(out);
        out.push(Action::Acknowledge { connection, sequence: piece.end.sequence });
    }

    fn close(&mut self, connection: Connection, out: &mut Vec<Action>) {
        if self.is_present(connection) {
            self.present = None;
        }
        out.push(Action::Close { connection });
    }

    /// The disk fails or is full: the owner goes on alone.
    fn give_up(&mut self, out: &mut Vec<Action>) {
        if let Some(Present { caller, .. }) = self.present {
            self.close(caller.connection, out);
        }
    }

    /// What is held now.
    pub fn held(&self) -> Held {
        Held { begin: self.begin, end: self.end, suspect: self.suspect }
    }

    /// The newest epoch; 0: the volume is not known.
    pub fn fence(&self) -> u64 {
        self.fence
    }

    /// The connection that counts.
    pub fn present(&self) -> Option<Connection> {
        self.present.map(|present| present.caller.connection)
    }
}
