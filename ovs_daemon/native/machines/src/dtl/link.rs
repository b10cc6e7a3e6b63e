//! The owner's side of the DTL: which writes may be acknowledged, and what the registry says.
//!
//! ```text
//!            Connected, same end          all acknowledged: Propose in_sync
//!   Down ------------------------> Live <---------------------------+
//!    ^ \                            |                               |
//!    |  \  Connected, other end     | Lost                          | Copied (sync)
//!    |   +------> Greeted ----------|-------------> Copying --------+
//!    |             | (registry says in_sync: Propose degraded first)
//!    +-------------+----------------+----------------+ Lost
//! ```
//!
//! A batch is *released* when it may be acknowledged: it is in the local log, and, while the
//! registry may say `in_sync`, the DTL node has it as well. The volume's machine has one batch in
//! flight, so at most one waits here; it takes part in no read before it is released.
//!
//! * `in_sync` is proposed when the gate is closed and the DTL node has everything up to the last
//!   batch that is not on the backend: nothing was and nothing will be acknowledged without it.
//! * Acknowledging alone needs an accepted `degraded` (or a state that never was `in_sync`).
//! * What the DTL node holds is wiped for a fresh copy only while the registry does not say
//!   `in_sync`.
//! * A refused swap, a newer epoch at the DTL node, or the end of the lease stop the owner for
//!   good. It must be opened again, with an epoch of its own.
//! * With mode `async` no write waits: the log is copied from the write buffer, always. But a SCO
//!   goes to the backend only when the DTL node has all of it ([`Link::may_upload`]), as it does of
//!   itself with `sync`: a node that takes over finishes that SCO as the DTL node has it, and must
//!   not find more of it on the backend.

use alloc::vec::Vec;

use super::{Held, Mark, Mutant, State};

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// When the DTL node has it too.
    Sync,
    /// At once; the DTL node gets it soon.
    Async,
    /// At once; there is no DTL node.
    None,
}

/// Why an owner stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The DTL node knows a newer epoch.
    NewerEpoch,
    /// The registry refused the swap of the state.
    SwapRefused,
    /// The lease has ended: another node may be the owner by now.
    Lease,
}

/// How much of the log is on the backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Saved {
    /// The first SCO number that is not.
    pub below: u32,
    /// The last batch that is.
    pub sequence: u64,
}

/// What the outside reports. `generation` is that of the connection, see [`Action::Connect`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    /// This batch is in the local log, behind all before it.
    Appended(Mark),
    /// The connection is there, and this is what the DTL node holds.
    Connected {
        /// Of the connection.
        generation: u32,
        /// What it said.
        held: Held,
    },
    /// The DTL node has every batch up to this sequence.
    Acknowledged {
        /// Of the connection.
        generation: u32,
        /// The last of them.
        sequence: u64,
    },
    /// Everything in the local log has been sent by the copier.
    Copied {
        /// Of the connection.
        generation: u32,
    },
    /// The connection broke, could not be made, or nothing came back for too long.
    Lost {
        /// Of the connection.
        generation: u32,
    },
    /// The DTL node knows a newer epoch.
    Refused {
        /// Of the connection.
        generation: u32,
    },
    /// Waited long enough for the DTL node to come back.
    Impatient,
    /// The registry's answer to the last [`Action::Propose`].
    Answered {
        /// The state is recorded.
        accepted: bool,
    },
    /// SCOs below this number are stored on the backend.
    Saved(Saved),
    /// Another DTL node or mode; the registry has recorded `state` with it.
    Paired {
        /// The mode.
        mode: Mode,
        /// The state, not in_sync.
        state: State,
    },
    /// The lease has ended.
    LeaseExpired,
}

/// What the outside has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Connect to the DTL node and say hello; answers with `Connected`, `Refused` or `Lost`.
    Connect {
        /// Number of this connection.
        generation: u32,
    },
    /// Close the connection. No answer is awaited.
    Disconnect,
    /// Tell the DTL node that what it holds is good, and that the next batches follow.
    Resume,
    /// Tell the DTL node to forget what it holds, and copy the log to it from the first SCO that
    /// is not on the backend; answers with `Copied` whenever the end of the log is reached.
    Copy,
    /// Stop copying: from here on each batch is sent as it is appended.
    StopCopying,
    /// Send the batch that was appended last.
    Send,
    /// The batch that was appended last may be acknowledged.
    Release,
    /// Record this state in the registry; answers with `Answered`.
    Propose {
        /// What is recorded now.
        from: State,
        /// What is to be recorded.
        to: State,
    },
    /// Send [`Message::Impatient`] after a while.
    WaitForKeeper,
    /// Tell the DTL node that it may drop SCOs below this number.
    Trim {
        /// The first that it has to keep.
        below: u32,
    },
    /// Answer nobody any more.
    Stop(Reason),
}

/// So many connections may break over one batch before the owner goes on alone: a DTL node whose
/// disk is full can be reached, and is of no use.
const FUTILE: u8 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Line {
    /// There is no DTL node.
    Off,
    /// No connection; one is being made.
    Down,
    /// Connected; what the DTL node holds is not what is needed.
    Greeted,
    /// The log is being copied.
    Copying,
    /// Each batch is sent as it is appended.
    Live,
}

/// See the top of the file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Link {
    mode: Mode,
    line: Line,
    /// Number of the present connection, or of the one that is being made.
    generation: u32,
    /// What the registry has, as far as answers have told.
    recorded: State,
    /// What was asked of the registry and is not answered.
    proposed: Option<State>,
    /// The last batch of the local log, and the one before it.
    last: Mark,
    previous: Mark,
    /// The last batch waits to be released.
    waiting: bool,
    /// The DTL node has everything up to this sequence, through this connection.
    acknowledged: u64,
    /// The copier reached the end of the log.
    copied: bool,
    impatient: bool,
    /// Connections in a row that took the batch in flight and broke without an answer.
    futile: u8,
    saved: Saved,
    stopped: Option<Reason>,
    mutant: Option<Mutant>,
}

impl Link {
    /// The link of an owner that has just opened the volume with the registry saying `recorded`.
    /// `last`: the end of its log. Ask it with [`Link::start`] what to do first.
    pub fn new(mode: Mode, recorded: State, last: Mark, saved: Saved) -> Self {
        Self {
            mode,
            line: Line::Off,
            generation: 0,
            recorded,
            proposed: None,
            last,
            previous: last,
            waiting: false,
            acknowledged: 0,
            copied: false,
            impatient: false,
            futile: 0,
            saved,
            stopped: None,
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

    /// What to do first.
    pub fn start(&mut self, out: &mut Vec<Action>) {
        self.connect(out);
        self.wait_when_in_sync(out);
        self.proceed(out);
    }

    fn wait_when_in_sync(&self, out: &mut Vec<Action>) {
        if self.recorded == State::InSync {
            out.push(Action::WaitForKeeper);
        }
    }

    /// Takes a message; appends what has to be done to `out`.
    pub fn step(&mut self, message: Message, out: &mut Vec<Action>) {
        if self.stopped.is_some() {
            return;
        }
        match message {
            Message::Appended(mark) => self.appended(mark, out),
            Message::Connected { generation, held } if self.is_present(generation) => {
                self.connected(held, out);
            }
            Message::Acknowledged { generation, sequence } if self.is_present(generation) => {
                self.acknowledged = self.acknowledged.max(sequence);
                self.futile = 0;
            }
            Message::Copied { generation } if self.is_present(generation) => self.copied(out),
            Message::Lost { generation } if self.is_present(generation) => self.lost(out),
            Message::Refused { generation } if self.is_present(generation) => {
                self.stop(Reason::NewerEpoch, out);
            }
            Message::Connected { .. }
            | Message::Acknowledged { .. }
            | Message::Copied { .. }
            | Message::Refused { .. }
            | Message::Lost { .. } => {}
            Message::Impatient => self.impatient = matches!(self.line, Line::Down),
            Message::Answered { accepted } => self.answered(accepted, out),
            Message::Saved(saved) => {
                self.saved = saved;
                self.trim(out);
            }
            Message::Paired { mode, state } => self.paired(mode, state, out),
            Message::LeaseExpired if self.is(Mutant::ServeWithoutLease) => {}
            Message::LeaseExpired => self.stop(Reason::Lease, out),
        }
        self.proceed(out);
    }

    fn is_present(&self, generation: u32) -> bool {
        generation == self.generation || self.is(Mutant::BelieveOldConnections)
    }

    fn appended(&mut self, mark: Mark, out: &mut Vec<Action>) {
        self.previous = self.last;
        self.last = mark;
        self.waiting = true;
        if self.line == Line::Live {
            out.push(Action::Send);
        }
    }

    fn connected(&mut self, held: Held, out: &mut Vec<Action>) {
        if self.line != Line::Down {
            return;
        }
        self.impatient = false;
        let end = held.end.unwrap_or_default();
        // Nothing at all is the same end only for a log that is empty.
        let has_last = end == self.last;
        let has_previous = self.waiting && end == self.previous;
        let fits = (has_last || has_previous) && held.begin <= self.saved.sequence;
        if self.mode == Mode::Async || !(fits || self.is(Mutant::BelieveAnyEnd)) {
            self.line = Line::Greeted;
            return;
        }
        self.acknowledged = end.sequence;
        out.push(Action::Resume);
        self.line = Line::Live;
        self.trim(out);
        if !has_last {
            out.push(Action::Send);
        }
    }

    fn copied(&mut self, out: &mut Vec<Action>) {
        if self.line != Line::Copying {
            return;
        }
        self.copied = true;
        if self.mode == Mode::Sync {
            self.line = Line::Live;
            out.push(Action::StopCopying);
        }
    }

    fn lost(&mut self, out: &mut Vec<Action>) {
        let was_there = self.line != Line::Down;
        if self.line == Line::Off {
            return;
        }
        if self.line == Line::Live && self.waiting {
            self.futile = (self.futile + 1).min(FUTILE);
        }
        self.connect(out);
        self.impatient |= self.futile == FUTILE;
        if was_there {
            self.wait_when_in_sync(out);
        }
    }

    fn connect(&mut self, out: &mut Vec<Action>) {
        (self.acknowledged, self.copied) = (0, false);
        self.generation += 1;
        if self.mode == Mode::None {
            self.line = Line::Off;
            return;
        }
        self.line = Line::Down;
        out.push(Action::Connect { generation: self.generation });
    }

    fn paired(&mut self, mode: Mode, state: State, out: &mut Vec<Action>) {
        out.push(Action::Disconnect);
        (self.mode, self.recorded) = (mode, state);
        (self.proposed, self.impatient, self.futile) = (None, false, 0);
        self.connect(out);
    }

    fn answered(&mut self, accepted: bool, out: &mut Vec<Action>) {
        let Some(to) = self.proposed.take() else { return };
        if accepted || self.is(Mutant::IgnoreRefusedSwap) {
            self.recorded = to;
        } else {
            self.stop(Reason::SwapRefused, out);
        }
    }

    fn stop(&mut self, reason: Reason, out: &mut Vec<Action>) {
        self.stopped = Some(reason);
        out.push(Action::Disconnect);
        out.push(Action::Stop(reason));
    }

    fn trim(&mut self, out: &mut Vec<Action>) {
        let connected = self.line == Line::Live || self.line == Line::Copying;
        if connected && self.saved.sequence > 0 {
            let early = u32::from(self.is(Mutant::TrimUnsaved));
            out.push(Action::Trim { below: self.saved.below + early });
        }
    }

    /// A batch must be at the DTL node before it is released.
    fn is_gated(&self) -> bool {
        if self.mode != Mode::Sync || self.is(Mutant::AcknowledgeAlone) {
            return false;
        }
        if self.is(Mutant::AcknowledgeWhileDegrading) && self.proposed == Some(State::Degraded) {
            return false;
        }
        let may_be_in_sync = self.recorded == State::InSync || self.proposed == Some(State::InSync);
        if self.is(Mutant::GateTooLate) {
            return self.recorded == State::InSync;
        }
        may_be_in_sync || self.line == Line::Live
    }

    fn has_everything(&self) -> bool {
        let connected = matches!(self.line, Line::Live | Line::Copying);
        // What is on the backend it need not have. A batch that waits is not there, whoever says so.
        let saved = if self.waiting { 0 } else { self.saved.sequence };
        connected && self.acknowledged.max(saved) >= self.last.sequence
    }

    fn proceed(&mut self, out: &mut Vec<Action>) {
        if self.stopped.is_some() {
            return;
        }
        let may_be_in_sync = self.recorded == State::InSync || self.proposed == Some(State::InSync);
        if self.line == Line::Greeted && (!may_be_in_sync || self.is(Mutant::WipeWhileInSync)) {
            self.line = Line::Copying;
            (self.acknowledged, self.copied) = (0, false);
            out.push(Action::Copy);
            self.trim(out);
        }
        if self.proposed.is_none()
            && let Some(to) = self.wanted()
        {
            self.proposed = Some(to);
            out.push(Action::Propose { from: self.recorded, to });
        }
        if self.waiting && (!self.is_gated() || self.has_everything()) {
            self.waiting = false;
            out.push(Action::Release);
        }
    }

    /// The state that the registry should have instead of the present one.
    fn wanted(&self) -> Option<State> {
        let early = self.is(Mutant::InSyncTooEarly) && self.line == Line::Copying;
        let everything = self.has_everything() || early;
        match (self.line, self.recorded) {
            (Line::Off, State::Standalone) => None,
            (Line::Off, _) => Some(State::Standalone),
            (Line::Down, State::InSync) => self.impatient.then_some(State::Degraded),
            (Line::Greeted, State::InSync) => Some(State::Degraded),
            (Line::Down, State::CatchingUp | State::Standalone) => Some(State::Degraded),
            (Line::Live, State::InSync) => None,
            (Line::Live, _) => everything.then_some(State::InSync),
            (Line::Copying, State::InSync) => None,
            (Line::Copying, _) if (self.copied && everything) || early => Some(State::InSync),
            (Line::Copying, State::CatchingUp) => None,
            (Line::Copying, _) => Some(State::CatchingUp),
            (Line::Down | Line::Greeted, _) => None,
        }
    }

    /// A SCO that ends with this batch may be stored on the backend.
    pub fn may_upload(&self, sequence: u64) -> bool {
        let may_be_in_sync = self.recorded == State::InSync || self.proposed == Some(State::InSync);
        let has_it = self.is_connected() && self.acknowledged >= sequence;
        self.stopped.is_none() && (self.mode != Mode::Async || !may_be_in_sync || has_it)
    }

    /// Number of the present connection.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// When writes are acknowledged.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// What the registry has recorded, as far as is known.
    pub fn recorded(&self) -> State {
        self.recorded
    }

    /// What was asked of the registry and is not answered.
    pub fn proposed(&self) -> Option<State> {
        self.proposed
    }

    /// There is a connection that batches go through.
    pub fn is_connected(&self) -> bool {
        matches!(self.line, Line::Live | Line::Copying)
    }

    /// Batches in the local log that the DTL node has not acknowledged; `None`: it is not connected.
    pub fn lag(&self) -> Option<u64> {
        self.is_connected().then(|| self.last.sequence.saturating_sub(self.acknowledged))
    }

    /// Why it stopped, when it did.
    pub fn stopped(&self) -> Option<Reason> {
        self.stopped
    }

    /// A batch waits to be released.
    pub fn is_waiting(&self) -> bool {
        self.waiting
    }
}
