//! The world of a volume that is paired with one DTL node, with another, and with the first one again,
//! while its owner lives: the owner's machine, the machines of both nodes, the registry, and between
//! them the daemon, which answers the engine's questions when it comes to them.
//!
//! What the daemon does is the world's, written after `control/dtl.py`, `control/steward.py` and the
//! engine's `Events`, and to be changed with them: one question is answered after the other; under the
//! lock of the pairing (`dtl_lock`) either one is judged and recorded, or the record is changed and the
//! engine told. A node that kept the log before is made to forget it when another has it complete.
//! [`Slip`] plants mistakes there.

use std::collections::VecDeque;

use machines::dtl::keeper::{Action as KeeperAction, Keeper, Message as KeeperMessage, Piece};
use machines::dtl::link::{Action, Link, Message, Mode, Saved};
use machines::dtl::{Held, State};

use super::TRUE;
use super::parts::{Batch, Frame, Pipe, Reply, end_of};
use crate::explore::{Goal, Violation, World};
use crate::scenario::Scenario;

const EPOCH: u8 = 1;

/// A mistake of the daemon, or of the engine around the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Slip {
    /// A question is judged although its volume was paired anew since then.
    JudgeFormerPair,
    /// Whether it stands is asked before the lock is taken.
    AskBeforeLock,
    /// One is judged while the record says more of the pair than the engine knows.
    JudgeHalfPaired,
    /// A node is chosen again that is about to forget what it held.
    PairForgetting,
}

/// What the engine asks of the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Question {
    proposal: u32,
    keeper: usize,
    to: State,
    /// The volume was not paired anew since then.
    stands: bool,
    /// What was found of that before the lock was taken.
    stood: Option<bool>,
    answer: Option<bool>,
}

/// A node that may keep the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    keeper: Keeper,
    batches: Vec<Batch>,
    /// It kept the log before, and has not been made to forget it.
    former: bool,
}

/// What may happen still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Left {
    writes: u8,
    pairings: u8,
    cuts: u8,
    /// Answers of the registry that are lost.
    lost_answers: u8,
    /// Pairings that the engine does not take at once.
    deaf: u8,
}

/// See the top of the file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct PairsWorld {
    slip: Option<Slip>,
    link: Link,
    log: Vec<Batch>,
    /// Batches that were released.
    released: usize,
    places: [Place; 2],
    pipes: Vec<Pipe>,
    dial: Option<u32>,
    impatience: bool,
    copying: Option<u8>,
    /// With whom the engine is paired.
    paired: usize,
    /// The engine's number for what it asks.
    proposal: u32,
    questions: VecDeque<Question>,
    /// The record.
    keeper: usize,
    state: State,
    /// The record has a new pair, the lock is held, and the engine has not heard.
    pairing: bool,
    /// The same, and the lock is not held: it was told in vain.
    unheard: bool,
    forgetting: Option<usize>,
    left: Left,
    /// For the goals.
    came_back: bool,
    refused: bool,
    forgot: bool,
}

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Move {
    /// A guest writes.
    Write,
    /// The owner has waited for the DTL node long enough.
    Impatient,
    /// It connects.
    Dial,
    /// The next batch is copied.
    Copy,
    /// The DTL node takes the next frame of a connection.
    Up(usize),
    /// The owner takes the next answer.
    Down(usize),
    /// A connection breaks.
    Cut(usize),
    /// The daemon finds out, too early, whether the first question stands.
    Look,
    /// It judges the first question, and records what is asked.
    Judge,
    /// The registry's answer is lost: it is judged again.
    LoseAnswer,
    /// The engine hears the answer.
    Answer,
    /// The record gets another pair.
    Pair(usize),
    /// The engine hears of it.
    Tell,
    /// The engine does not.
    TellInVain,
    /// A node that kept the log before is to forget it.
    BeginForgetting(usize),
    /// It does, unless the owner is connected to it.
    Forget,
}

impl PairsWorld {
    fn new(left: Left, slip: Option<Slip>) -> Self {
        let place = || Place {
            keeper: Keeper::new(EPOCH.into(), Held::default()),
            batches: Vec::new(),
            former: false,
        };
        let link = Link::new(Mode::Sync, State::Degraded, end_of(&[]), Saved::default());
        let mut world = Self {
            slip,
            link,
            log: Vec::new(),
            released: 0,
            places: [place(), place()],
            pipes: Vec::new(),
            dial: None,
            impatience: false,
            copying: None,
            paired: 0,
            proposal: 0,
            questions: VecDeque::new(),
            keeper: 0,
            state: State::Degraded,
            pairing: false,
            unheard: false,
            forgetting: None,
            left,
            came_back: false,
            refused: false,
            forgot: false,
        };
        let mut actions = Vec::new();
        world.link.start(&mut actions);
        world.perform(actions);
        world
    }

    /// All that guests write here is acknowledged.
    fn is_written(&self) -> bool {
        self.left.writes == 0 && self.released == self.log.len()
    }

    fn is(&self, slip: Slip) -> bool {
        self.slip == Some(slip)
    }

    fn tell(&mut self, message: Message) {
        let mut actions = Vec::new();
        self.link.step(message, &mut actions);
        self.perform(actions);
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Connect { generation } => {
                    self.hang_up();
                    self.dial = Some(generation);
                }
                Action::Disconnect => {
                    self.hang_up();
                    (self.dial, self.impatience) = (None, false);
                    self.proposal += 1;
                }
                Action::Resume => self.send(Frame::Resume),
                Action::Copy => {
                    self.send(Frame::Fresh);
                    self.copying = Some(1);
                }
                Action::StopCopying => self.copying = None,
                Action::Send => self.send_batch(self.log.len()),
                Action::Release => self.released = self.log.len(),
                Action::Propose { to, .. } => {
                    self.proposal += 1;
                    self.questions.push_back(Question {
                        proposal: self.proposal,
                        keeper: self.paired,
                        to,
                        stands: true,
                        stood: None,
                        answer: None,
                    });
                }
                Action::WaitForKeeper => self.impatience = true,
                Action::Trim { .. } | Action::Stop(_) => {}
            }
        }
    }

    fn hang_up(&mut self) {
        self.copying = None;
        for pipe in &mut self.pipes {
            pipe.owner_open = false;
            pipe.down.clear();
        }
    }

    /// Puts a frame into the present connection.
    fn send(&mut self, frame: Frame) {
        let generation = self.link.generation();
        let present = |pipe: &&mut Pipe| pipe.generation == generation && pipe.owner_open;
        if let Some(pipe) = self.pipes.iter_mut().find(present)
            && pipe.keeper_open
        {
            pipe.up.push(frame);
        }
    }

    fn send_batch(&mut self, number: usize) {
        let previous = end_of(&self.log[..number - 1]);
        self.send(Frame::Append(self.log[number - 1], previous));
    }

    fn write(&mut self) {
        self.left.writes -= 1;
        let sequence = self.log.len() as u8 + 1;
        let batch = Batch { sequence, epoch: EPOCH, value: sequence };
        self.log.push(batch);
        self.tell(Message::Appended(batch.mark()));
    }

    fn dial(&mut self) {
        let Some(generation) = self.dial.take() else { return };
        self.pipes.push(Pipe {
            id: generation,
            node: self.paired,
            epoch: EPOCH,
            generation,
            up: vec![Frame::Hello { epoch: EPOCH, generation }],
            down: Vec::new(),
            owner_open: true,
            keeper_open: true,
        });
    }

    fn copy(&mut self) {
        let Some(next) = self.copying else { return };
        if usize::from(next) > self.log.len() {
            let generation = self.link.generation();
            return self.tell(Message::Copied { generation });
        }
        self.copying = Some(next + 1);
        self.send_batch(next.into());
    }

    fn up(&mut self, at: usize) {
        let (place, connection) = (self.pipes[at].node, self.pipes[at].id);
        if self.pipes[at].up.is_empty() {
            self.pipes[at].keeper_open = false;
            return self.hear(place, KeeperMessage::Gone { connection }, None);
        }
        match self.pipes[at].up.remove(0) {
            Frame::Hello { epoch, generation } => {
                let epoch = epoch.into();
                self.hear(place, KeeperMessage::Hello { connection, epoch, generation }, None);
            }
            Frame::Resume => self.hear(place, KeeperMessage::Resume { connection }, None),
            Frame::Fresh => self.hear(place, KeeperMessage::Fresh { connection }, None),
            Frame::Append(batch, previous) => {
                let piece = Piece { previous, end: batch.mark(), starts_sco: true };
                self.hear(place, KeeperMessage::Append { connection, piece }, Some(batch));
            }
            Frame::Trim { below } => {
                let below = below.into();
                self.hear(place, KeeperMessage::Trim { connection, below }, None);
            }
        }
    }

    /// Gives a DTL node's machine a message and does what it wants. Fences are stored at once.
    fn hear(&mut self, place: usize, message: KeeperMessage, batch: Option<Batch>) {
        let mut actions = Vec::new();
        self.places[place].keeper.step(message, &mut actions);
        let mut next = 0;
        while let Some(action) = actions.get(next).copied() {
            next += 1;
            let answer = match action {
                KeeperAction::StoreEpoch { epoch, .. } => {
                    Some(KeeperMessage::EpochStored { epoch })
                }
                KeeperAction::Greet { connection, held } => {
                    self.reply(connection, Reply::Greeted { held, tail: Vec::new() });
                    None
                }
                KeeperAction::Refuse { connection, .. } | KeeperAction::Close { connection } => {
                    self.close(connection);
                    None
                }
                KeeperAction::Wipe => {
                    self.places[place].batches.clear();
                    Some(KeeperMessage::Wiped)
                }
                KeeperAction::Write => {
                    self.places[place].batches.extend(batch);
                    Some(KeeperMessage::Written)
                }
                KeeperAction::Acknowledge { connection, sequence } => {
                    self.reply(connection, Reply::Acknowledged(sequence as u8));
                    None
                }
                KeeperAction::Unlink { .. } | KeeperAction::Vouch => None,
            };
            if let Some(answer) = answer {
                self.places[place].keeper.step(answer, &mut actions);
            }
        }
    }

    fn reply(&mut self, connection: u32, reply: Reply) {
        if let Some(pipe) = self.pipes.iter_mut().find(|pipe| pipe.id == connection)
            && pipe.owner_open
            && pipe.keeper_open
        {
            pipe.down.push(reply);
        }
    }

    /// The DTL node's side of a connection is over.
    fn close(&mut self, connection: u32) {
        self.reply(connection, Reply::End);
        if let Some(pipe) = self.pipes.iter_mut().find(|pipe| pipe.id == connection) {
            pipe.keeper_open = false;
            pipe.up.clear();
        }
    }

    fn down(&mut self, at: usize) {
        let generation = self.pipes[at].generation;
        match self.pipes[at].down.remove(0) {
            Reply::Greeted { held, .. } => self.tell(Message::Connected { generation, held }),
            Reply::Acknowledged(sequence) => {
                let sequence = sequence.into();
                self.tell(Message::Acknowledged { generation, sequence });
            }
            Reply::Refused => self.tell(Message::Refused { generation }),
            Reply::End => {
                self.pipes[at].owner_open = false;
                self.tell(Message::Lost { generation });
            }
        }
    }

    fn cut(&mut self, at: usize) {
        self.left.cuts -= 1;
        let (place, connection) = (self.pipes[at].node, self.pipes[at].id);
        self.close(connection);
        self.hear(place, KeeperMessage::Gone { connection }, None);
    }

    fn judge(&mut self) {
        let trusting = self.is(Slip::JudgeFormerPair);
        let Some(question) = self.questions.front_mut() else { return };
        let stands = question.stood.unwrap_or(question.stands) || trusting;
        let accepted = stands && question.keeper == self.keeper;
        question.answer = Some(accepted);
        self.refused |= question.keeper == self.keeper && !stands;
        if accepted {
            self.state = question.to;
        }
    }

    fn answer(&mut self) {
        let Some(question) = self.questions.pop_front() else { return };
        let accepted = question.answer == Some(true);
        if !question.stands || question.proposal != self.proposal {
            return;
        }
        self.tell(Message::Answered { accepted });
    }

    fn pair(&mut self, with: usize) {
        self.left.pairings -= 1;
        let before = self.keeper;
        if before != with {
            self.places[before].former = true;
            self.places[with].former = false;
        }
        self.came_back |= self.left.pairings == 0 && with == 0 && before == 1;
        (self.keeper, self.state, self.pairing) = (with, State::Degraded, true);
    }

    fn hear_of_pair(&mut self) {
        (self.pairing, self.unheard) = (false, false);
        self.questions.iter_mut().for_each(|question| question.stands = false);
        self.paired = self.keeper;
        self.tell(Message::Paired { mode: Mode::Sync, state: State::Degraded });
    }

    /// The remover says hello as the owner's first connection would.
    fn forget(&mut self) {
        let Some(place) = self.forgetting.take() else { return };
        let place = &mut self.places[place];
        if place.keeper.present().is_none() {
            let nothing = Held { suspect: true, ..Held::default() };
            (place.keeper, place.former) = (Keeper::new(0, nothing), false);
            place.batches.clear();
            self.forgot = true;
        }
    }
}

impl World for PairsWorld {
    type Move = Move;

    fn moves(&self, out: &mut Vec<Move>) {
        let serves = self.link.stopped().is_none();
        let mut may = |step, can| out.extend(Some(step).filter(|_| can));
        may(Move::Write, serves && self.left.writes > 0 && !self.link.is_waiting());
        may(Move::Impatient, serves && self.impatience);
        may(Move::Dial, serves && self.dial.is_some());
        may(Move::Copy, self.copying.is_some());
        for (at, pipe) in self.pipes.iter().enumerate() {
            may(Move::Up(at), pipe.keeper_open && (!pipe.up.is_empty() || !pipe.owner_open));
            may(Move::Down(at), pipe.owner_open && !pipe.down.is_empty());
            may(Move::Cut(at), self.left.cuts > 0 && pipe.owner_open && pipe.keeper_open);
        }
        if let Some(question) = self.questions.front() {
            let early = self.is(Slip::AskBeforeLock);
            let locked = self.pairing && !self.is(Slip::JudgeHalfPaired);
            let open = question.answer.is_none();
            may(Move::Look, open && early && question.stood.is_none());
            may(Move::Judge, open && !locked && (!early || question.stood.is_some()));
            may(Move::LoseAnswer, !open && self.left.lost_answers > 0);
            may(Move::Answer, !open);
        }
        for with in 0..2 {
            let free = self.forgetting != Some(with) || self.is(Slip::PairForgetting);
            may(Move::Pair(with), serves && self.left.pairings > 0 && !self.pairing && free);
            let others = self.keeper != with && self.state == State::InSync;
            let former = self.places[with].former && self.forgetting.is_none();
            may(Move::BeginForgetting(with), others && former);
        }
        may(Move::Tell, serves && (self.pairing || (self.unheard && self.state != State::InSync)));
        may(Move::TellInVain, self.pairing && self.left.deaf > 0);
        may(Move::Forget, self.forgetting.is_some());
    }

    fn apply(&mut self, step: &Move) -> Result<(), Violation> {
        match *step {
            Move::Write => self.write(),
            Move::Impatient => {
                self.impatience = false;
                self.tell(Message::Impatient);
            }
            Move::Dial => self.dial(),
            Move::Copy => self.copy(),
            Move::Up(at) => self.up(at),
            Move::Down(at) => self.down(at),
            Move::Cut(at) => self.cut(at),
            Move::Look => {
                if let Some(question) = self.questions.front_mut() {
                    question.stood = Some(question.stands);
                }
            }
            Move::Judge => self.judge(),
            Move::LoseAnswer => {
                self.left.lost_answers -= 1;
                if let Some(question) = self.questions.front_mut() {
                    (question.answer, question.stood) = (None, None);
                }
            }
            Move::Answer => self.answer(),
            Move::Pair(with) => self.pair(with),
            Move::Tell => self.hear_of_pair(),
            Move::TellInVain => {
                self.left.deaf -= 1;
                (self.pairing, self.unheard) = (false, true);
            }
            Move::BeginForgetting(place) => self.forgetting = Some(place),
            Move::Forget => self.forget(),
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Violation> {
        let held = &self.places[self.keeper].batches;
        let missing = self.log[..self.released].iter().find(|batch| !held.contains(batch));
        match missing.filter(|_| self.state == State::InSync) {
            Some(batch) => Err(Violation::new(TRUE, format!("the DTL node lacks {batch:?}"))),
            None => Ok(()),
        }
    }

    fn canonical(&mut self) {
        self.pipes.retain(|pipe| pipe.owner_open || pipe.keeper_open);
    }

    fn goals(&self) -> Vec<Goal<Self>> {
        let goal = |name, holds: fn(&Self) -> bool| Goal { name, holds };
        vec![
            goal("the log is complete on a node that was chosen a second time", |w| {
                w.came_back && w.state == State::InSync && w.is_written() && w.paired == 0
            }),
            goal("a question of a former pair fits the record, and is refused", |w| w.refused),
            goal("a node that kept the log before forgets it", |w| {
                w.forgot && w.state == State::InSync && w.is_written()
            }),
        ]
    }
}

/// The scenario.
pub(super) fn scenario(more: u8, in_sync: (&'static str, &'static str)) -> Scenario {
    let left = Left { writes: 1 + more, pairings: 2, cuts: 1, lost_answers: more, deaf: more };
    let bounds = format!(
        "two DTL nodes, {} writes, paired anew {} times, {} cuts, {} lost answers of the registry, \
         {} pairings that are not heard of at once",
        left.writes, left.pairings, left.cuts, left.lost_answers, left.deaf
    );
    let start = PairsWorld::new(left, None);
    let mut made = Scenario::new("dtl-pairs", "machines::dtl", bounds, &[in_sync], start);
    for (slip, name) in [
        (Slip::JudgeFormerPair, "what was asked before a volume was paired anew is judged"),
        (Slip::AskBeforeLock, "whether a question stands is asked before the lock is taken"),
        (Slip::JudgeHalfPaired, "a question is judged while the volume is half paired"),
        (Slip::PairForgetting, "a node is chosen that is about to forget what it held"),
    ] {
        made = made.mutant(name, in_sync.0, PairsWorld::new(left, Some(slip)));
    }
    made
}
