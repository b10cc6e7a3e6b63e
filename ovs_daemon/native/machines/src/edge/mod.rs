//! The Edge's side of a session: it keeps a guest's requests until some engine has answered them.
//!
//! The guest must never see that an engine died, was upgraded or moved. So a request lives here
//! from its acceptance to its answer; the engine is only somebody who works on it. When the engine
//! is lost, everything that is not answered stays, in its original order, and is sent again to the
//! next engine. The rules that make this safe:
//!
//! * **Once only.** A request is completed when its answer is taken, and its tag is free from then
//!   on. Answers are believed only from the present *generation* of the connection (each attempt to
//!   connect has its own number), and only for a tag that was sent in it; anything else is a breach
//!   and ends that connection.
//! * **Replays are harmless.** Only unanswered requests are sent again. A write that was executed
//!   but not answered is executed twice, with the same bytes. Between the two nothing else may have
//!   changed that place, or an acknowledged write would be undone; hence the *gate*: a write waits
//!   until no write that touches the same bytes is on its way. Requests behind it wait as well (one
//!   queue, first in first out), so nothing overtakes and nothing starves.
//! * **One user of the memory.** The connection counts as lost only when nobody else uses the
//!   payloads' memory any more; only then are requests sent elsewhere or given up. In shared memory
//!   that is when the engine has closed its end (a killed process's descriptors are closed after
//!   its last system call); over a network it is when our own kernel has let go, and what the
//!   engine still has of the connection is shut out by its [`Door`], or by the epoch when the
//!   volume has moved.
//! * **No claim without proof.** A session that is over says whether anything that it asked for can
//!   still change the volume ([`Session::has_ended_all`]): whoever gets the volume next reads it. Its
//!   writes have ended when each was answered, or when the engine that let it in has closed the
//!   connection as it was asked to, which it does last of all. A connection that only was given up,
//!   or was never let in, says nothing about the writes of itself and of earlier ones.
//! * **No way back.** An engine with an older ownership epoch than one seen before, or than the
//!   operator has told of, is refused.
//!
//! A session has a list of *targets*, the places where the volume may be served. After a failure
//! the next one is tried at once, and when a round of all has failed, after a pause that grows.
//! This goes on for ever; only the very first round may fail, since then nobody depends on the
//! session yet. [`Message::Retarget`] replaces the list at any time.

mod door;
mod gate;
mod mutant;
mod table;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;

use format::edge::{Attached, CloseReason, Command, Done};

pub use door::{Door, Guest, Verdict};
pub use mutant::Mutant;
use table::Table;

/// Answer to requests of a volume that is gone (ESHUTDOWN: NBD has the same number for it).
pub const ERRNO_GONE: i32 = 108;
/// First pause between two attempts to connect, in milliseconds.
pub const PAUSE_FIRST_MS: u32 = 5;
/// So many pauses have one length; the next have twice that, up to the longest. A volume that is
/// being handed over is away for tens of milliseconds, and is not to be missed for as long again.
const PAUSES_OF_A_LENGTH: u32 = 4;
/// Longest pause between two attempts to connect, in milliseconds.
pub const PAUSE_LONGEST_MS: u32 = 250;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    /// Begin: connect.
    Start,
    /// A front end asks; the command's tag must be free ([`Session::is_free`]).
    Submit(Command),
    /// The engine accepted the handshake.
    Attached {
        /// Of the connection that this came from.
        generation: u32,
        /// What it said.
        attached: Attached,
    },
    /// The engine refused the handshake.
    Refused {
        /// Of the connection that this came from.
        generation: u32,
    },
    /// The engine answered a request.
    Answered {
        /// Of the connection that this came from.
        generation: u32,
        /// The answer.
        done: Done,
    },
    /// The engine said that the volume has another size.
    Resized {
        /// Of the connection that this came from.
        generation: u32,
        /// Bytes.
        size: u64,
    },
    /// The engine said that it will close the session.
    Closed {
        /// Of the connection that this came from.
        generation: u32,
        /// Why.
        reason: CloseReason,
    },
    /// The engine sent something that the protocol does not allow.
    Nonsense {
        /// Of the connection that this came from.
        generation: u32,
    },
    /// The connection could not be made, broke or was given up.
    Lost {
        /// Of the connection that this came from.
        generation: u32,
    },
    /// The engine has closed its end by itself. Otherwise the same as [`Message::Lost`].
    LetGo {
        /// Of the connection that this came from.
        generation: u32,
    },
    /// The pause is over.
    Timer,
    /// There are other targets now: the operator said so, or the engine that the volume left.
    Retarget {
        /// How many; at least one.
        targets: u32,
        /// The one to be tried first, or, with `keep`, the one that the present connection is to.
        first: u32,
        /// No engine with an older epoch is the owner; 0: nothing is known.
        epoch: u64,
        /// The present connection is to one of them: stay, unless its epoch is too old.
        keep: bool,
    },
    /// The operator detaches the volume.
    Detach,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Make a connection of this generation to the present target ([`Session::target`]), with
    /// fresh rings, and say hello.
    Connect {
        /// To be given back with all that comes from it.
        generation: u32,
    },
    /// Put the command into the ring of the present connection.
    Send(Command),
    /// Tell the front end; the tag is free again.
    Complete(Done),
    /// Send [`Message::Timer`] after this many milliseconds; replaces an earlier one.
    SetTimer {
        /// Milliseconds.
        pause_ms: u32,
    },
    /// Ask the engine to finish and close; [`Message::LetGo`] follows when it has, and
    /// [`Message::Lost`] when it is not waited for any more.
    Leave {
        /// Of the connection.
        generation: u32,
        /// The engine broke the protocol; what it did is for the log.
        breach: Option<Breach>,
    },
    /// The session serves: now (first), or again.
    Opened {
        /// The first handshake; an attach that waits for it has succeeded.
        first: bool,
    },
    /// The volume has another size than before, in bytes.
    Resized {
        /// Bytes.
        size: u64,
    },
    /// The session is over and can be dropped.
    Ended(Ending),
}

/// How an engine broke the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Breach {
    /// It answered a tag that it had not been given, or twice.
    StrangeAnswer {
        /// The tag.
        tag: u32,
    },
    /// Its epoch is older than one that served this session before.
    OldEpoch {
        /// What it said.
        epoch: u64,
    },
    /// It sent a message out of turn.
    OutOfTurn,
    /// Its bytes make no sense.
    Nonsense,
}

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// Detached as asked.
    Detached,
    /// The volume was deleted.
    Deleted,
    /// The first handshake was refused.
    Refused,
    /// The first connection could not be made.
    Unreachable,
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Not started.
    New,
    /// Said hello.
    Connecting,
    /// Requests flow.
    Ready,
    /// Waits for the engine to close its end.
    Leaving,
    /// Pauses before the next attempt.
    Pausing,
    /// Over.
    Over,
}

/// One session. See the module's essay.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Session {
    phase: Phase,
    generation: u32,
    attempts: u32,
    epoch: u64,
    size: u64,
    read_only: bool,
    targets: u32,
    /// The one that is connected to, or comes next.
    target: u32,
    /// Failures since the last pause, handshake or retarget: a round is over after one for each
    /// target.
    failures: u32,
    /// Some target refused the handshake in the first round.
    refused: bool,
    /// Connect without a pause once the present connection is lost.
    at_once: bool,
    /// A handshake succeeded once, here or in an earlier life of the Edge.
    settled: bool,
    /// What ends the session once the engine lets go of the memory.
    ending: Option<Ending>,
    /// The present connection was let in, and with that nothing of earlier ones can happen any more.
    let_in: bool,
    /// Writes of earlier connections, also in earlier lives of the Edge, may still happen.
    unsure: bool,
    table: Table,
    mutant: Option<Mutant>,
}

impl Session {
    /// A session with room for `entries` requests, that has not started.
    pub fn new(entries: u32) -> Self {
        Self {
            phase: Phase::New,
            generation: 0,
            attempts: 0,
            epoch: 0,
            size: 0,
            read_only: false,
            targets: 1,
            target: 0,
            failures: 0,
            refused: false,
            at_once: false,
            settled: false,
            ending: None,
            let_in: false,
            unsure: true,
            table: Table::new(entries),
            mutant: None,
        }
    }

    /// A session that was attached in an earlier life of the Edge process: guests may depend on
    /// it, so its first handshake may not fail either.
    pub fn restored(entries: u32, size: u64, read_only: bool) -> Self {
        Self { settled: true, size, read_only, ..Self::new(entries) }
    }

    /// Plants a fault, for the explorer.
    #[cfg(feature = "mutants")]
    pub fn plant(&mut self, mutant: Mutant) {
        self.mutant = Some(mutant);
    }

    /// Gives the present connection another number and forgets how often connecting was tried, so
    /// that the explorer sees that two states are the same but for their history.
    #[cfg(feature = "mutants")]
    pub fn renumber(&mut self, generation: u32) {
        self.generation = generation;
        self.attempts = 0;
    }

    fn is(&self, mutant: Mutant) -> bool {
        cfg!(feature = "mutants") && self.mutant == Some(mutant)
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Generation of the present or last connection.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Index of the target that is connected to, or comes next.
    pub fn target(&self) -> u32 {
        self.target
    }

    /// Bytes of the volume as last heard; 0 before the first handshake.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Writes are refused.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// A handshake has succeeded at least once.
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// Ownership epoch of the last engine, or a newer one that was told of.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Nothing that a session which is over has asked for can change the volume any more. One that was
    /// never let in knows nothing of earlier ones of its Edge, and says no.
    pub fn has_ended_all(&self) -> bool {
        self.phase == Phase::Over && !self.unsure
    }

    /// Requests accepted and not completed.
    pub fn in_flight(&self) -> u32 {
        self.table.len()
    }

    /// True when the tag may be used for a [`Message::Submit`].
    pub fn is_free(&self, tag: u32) -> bool {
        self.table.is_free(tag)
    }

    /// Takes a message; appends what has to be done to `out`.
    pub fn step(&mut self, message: Message, out: &mut Vec<Action>) {
        match message {
            Message::Submit(command) => self.submit(command, out),
            Message::Answered { generation, done } => self.answered(generation, done, out),
            Message::Start if self.phase == Phase::New => self.connect(out),
            Message::Timer if self.phase == Phase::Pausing => self.connect(out),
            Message::Attached { generation, attached } if self.is_present(generation) => {
                self.attached(attached, out);
            }
            Message::Refused { generation } if self.is_present(generation) => {
                if self.phase != Phase::Connecting {
                    return self.leave(Some(Breach::OutOfTurn), out);
                }
                self.refused = true;
                self.leave(None, out);
            }
            Message::Resized { generation, size } if self.is_present(generation) => {
                match self.phase {
                    Phase::Ready => self.resize(size, out),
                    _ => self.leave(Some(Breach::OutOfTurn), out),
                }
            }
            Message::Closed { generation, reason } if self.is_present(generation) => {
                if reason == CloseReason::Deleted {
                    self.ending = Some(Ending::Deleted);
                }
                self.leave(None, out);
            }
            Message::Nonsense { generation } if self.is_present(generation) => {
                self.leave(Some(Breach::Nonsense), out);
            }
            Message::Lost { generation } if self.is_waited_for(generation) => self.lost(false, out),
            Message::LetGo { generation } if self.is_waited_for(generation) => {
                // One that nobody asked to close it has died, or what it says is still to be read.
                self.lost(self.phase == Phase::Leaving, out);
            }
            Message::Retarget { targets, first, epoch, keep } => {
                self.targets = targets.max(1);
                self.retarget(first.min(self.targets - 1), epoch, keep, out);
            }
            Message::Detach => self.detach(out),
            // A message from an earlier connection, or a timer that is too late.
            _ => {}
        }
    }

    /// The connection is the present one and still believed.
    fn is_present(&self, generation: u32) -> bool {
        generation == self.generation && matches!(self.phase, Phase::Connecting | Phase::Ready)
    }

    fn is_waited_for(&self, generation: u32) -> bool {
        generation == self.generation
            && matches!(self.phase, Phase::Connecting | Phase::Ready | Phase::Leaving)
    }

    fn submit(&mut self, command: Command, out: &mut Vec<Action>) {
        if self.phase == Phase::Over || self.ending.is_some() {
            let done = Done { tag: command.tag, errno: ERRNO_GONE, extents: 0 };
            return out.push(Action::Complete(done));
        }
        self.table.accept(command);
        if self.phase == Phase::Ready {
            self.pump(out);
        }
    }

    /// Sends what may be sent.
    fn pump(&mut self, out: &mut Vec<Action>) {
        let gated = !self.is(Mutant::NoGate);
        while let Some(command) = self.table.send_next(gated) {
            out.push(Action::Send(command));
        }
    }

    fn answered(&mut self, generation: u32, done: Done, out: &mut Vec<Action>) {
        let believed = self.is(Mutant::BelieveOldGenerations)
            || generation == self.generation && self.phase == Phase::Ready;
        if !believed {
            return;
        }
        let keep = self.is(Mutant::KeepAnswered);
        if !self.table.answer(done.tag, keep) {
            return self.leave(Some(Breach::StrangeAnswer { tag: done.tag }), out);
        }
        out.push(Action::Complete(done));
        if self.phase == Phase::Ready {
            self.pump(out);
        }
    }

    fn connect(&mut self, out: &mut Vec<Action>) {
        if !self.is(Mutant::SameGeneration) || self.generation == 0 {
            self.generation = self.generation.wrapping_add(1);
        }
        self.phase = Phase::Connecting;
        self.let_in = false;
        out.push(Action::Connect { generation: self.generation });
    }

    fn attached(&mut self, attached: Attached, out: &mut Vec<Action>) {
        if self.phase != Phase::Connecting {
            return self.leave(Some(Breach::OutOfTurn), out);
        }
        if attached.epoch < self.epoch && !self.is(Mutant::AnyEpoch) {
            return self.leave(Some(Breach::OldEpoch { epoch: attached.epoch }), out);
        }
        let first = !self.settled;
        self.phase = Phase::Ready;
        (self.let_in, self.unsure) = (true, false);
        (self.attempts, self.failures) = (0, 0);
        self.settled = true;
        self.epoch = attached.epoch;
        self.read_only = attached.read_only;
        if self.is(Mutant::ForgetInFlight) {
            self.table.forget_sent();
        } else if !self.is(Mutant::NoReplay) {
            self.table.rewind();
        }
        if self.is(Mutant::ReplayBackwards) {
            self.table.reverse();
        }
        self.table.set_credits(attached.credits);
        out.push(Action::Opened { first });
        if first {
            self.size = attached.size;
        } else {
            self.resize(attached.size, out);
        }
        self.pump(out);
    }

    fn resize(&mut self, size: u64, out: &mut Vec<Action>) {
        if self.size != size {
            self.size = size;
            out.push(Action::Resized { size });
        }
    }

    /// Stops believing the engine and waits until it has let go.
    fn leave(&mut self, breach: Option<Breach>, out: &mut Vec<Action>) {
        self.phase = Phase::Leaving;
        out.push(Action::Leave { generation: self.generation, breach });
        if self.is(Mutant::GiveUpEarly) && self.ending.is_some() {
            self.give_up(out);
        }
    }

    fn retarget(&mut self, first: u32, epoch: u64, keep: bool, out: &mut Vec<Action>) {
        let outdated = epoch > self.epoch && self.settled;
        self.epoch = self.epoch.max(epoch);
        self.target = first;
        let stays = keep && !outdated || self.is(Mutant::StayWithOldOwner);
        match self.phase {
            Phase::Connecting | Phase::Ready if stays => {}
            Phase::Connecting | Phase::Ready => {
                self.at_once = true;
                self.leave(None, out);
            }
            Phase::Leaving => self.at_once = true,
            Phase::Pausing => {
                (self.attempts, self.failures) = (0, 0);
                self.connect(out);
            }
            Phase::New | Phase::Over => {}
        }
    }

    /// `finished`: the engine closed the connection when all that it had taken was done.
    fn lost(&mut self, finished: bool, out: &mut Vec<Action>) {
        let finished = finished || self.is(Mutant::BelieveGivenUp);
        if core::mem::take(&mut self.let_in) {
            self.unsure = !finished && self.table.has_sent_writes();
        } else if finished && self.is(Mutant::BelieveTurnedAway) {
            self.unsure = false;
        }
        let first_of_all = core::mem::take(&mut self.at_once);
        if first_of_all {
            (self.attempts, self.failures) = (0, 0);
        } else if self.phase != Phase::Ready {
            self.failures += 1;
        }
        let round_is_over = self.failures >= self.targets;
        if !self.settled && self.ending.is_none() && round_is_over {
            self.ending = Some(if self.refused { Ending::Refused } else { Ending::Unreachable });
        }
        if let Some(ending) = self.ending {
            self.give_up(out);
            self.phase = Phase::Over;
            return out.push(Action::Ended(ending));
        }
        if first_of_all {
            return self.connect(out);
        }
        if self.failures > 0 && !self.is(Mutant::OneTargetOnly) {
            self.target = (self.target + 1) % self.targets;
        }
        if self.failures > 0 && !round_is_over {
            return self.connect(out);
        }
        self.failures = 0;
        self.phase = Phase::Pausing;
        let pause_ms =
            (PAUSE_FIRST_MS << (self.attempts / PAUSES_OF_A_LENGTH).min(8)).min(PAUSE_LONGEST_MS);
        self.attempts = self.attempts.saturating_add(1);
        out.push(Action::SetTimer { pause_ms });
    }

    /// Answers everything that is left: nobody will work on it any more.
    fn give_up(&mut self, out: &mut Vec<Action>) {
        while let Some(tag) = self.table.drop_first() {
            let done = Done { tag, errno: ERRNO_GONE, extents: 0 };
            out.push(Action::Complete(done));
        }
    }

    fn detach(&mut self, out: &mut Vec<Action>) {
        self.ending.get_or_insert(Ending::Detached);
        match self.phase {
            Phase::Connecting | Phase::Ready => self.leave(None, out),
            Phase::New | Phase::Pausing => self.lost(false, out),
            Phase::Leaving | Phase::Over => {}
        }
    }
}
