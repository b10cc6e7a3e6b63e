//! The world of an Edge session that follows its volume over a network: two hosts that may own the
//! volume one after the other, and connections whose two ends disagree about being alive.
//!
//! What the network and the owners may do: a connection is cut, and its engine does not know it
//! while it still works through what it received; the owner hands the volume over, or is frozen
//! and another takes it; it crashes and comes back; the operator tells the Edge, sooner or later.
//! Hellos are heard in any order, requests are executed and answered in any order.
//!
//! A frozen owner does nothing; one that thaws is fenced by its epoch before it can change the
//! volume (that is the volume's promise, not the session's), so it only closes what it has.

use format::edge::{Attached, Command, Done, Verb};
use machines::edge::{Action, Door, Guest, Message, Mutant, Phase, Session, Verdict};

use super::register::{Cells, Register, execute};
use super::{Asked, CELL, ENTRIES, EPOCH, Fixed, LINEAR, PROGRESS, Request, plant};
use crate::explore::{Goal, Violation, World};

pub(super) const ROUND: &str = "every target is tried before a pause";
pub(super) const DOOR: &str = "a connection ends only for a later one";
pub(super) const CERTAIN: &str = "what is said to have ended has";
const HOSTS: u32 = 2;

/// How much may happen in a world.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    /// What the guest may ask for, and how often each.
    pub(super) menu: Vec<(Request, u8)>,
    /// Requests without an answer at the same time.
    pub(super) outstanding: usize,
    /// How often each thing may go wrong.
    pub(super) faults: Faults,
    /// What must be reached.
    pub(super) goals: Vec<Wanted>,
}

/// Something that must be reached, and how to tell that a world has.
type Wanted = (&'static str, fn(&FollowWorld) -> bool);

/// How often things may happen that need no guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Faults {
    /// A connection is cut.
    pub(super) cuts: u8,
    /// The owner hands the volume over.
    pub(super) moves: u8,
    /// The owner is frozen, and the other host takes the volume.
    pub(super) takeovers: u8,
    /// The owner crashes and comes back.
    pub(super) crashes: u8,
    /// The operator detaches the volume; from then on the Edge waits for nobody who is slow.
    pub(super) detaches: u8,
}

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Move {
    /// The guest asks (the number of the request in the menu).
    Submit(usize),
    /// The Edge reads the next frame.
    Hear,
    /// The Edge takes the next answer.
    Take,
    /// The Edge's patience with its connection is over.
    GiveUp,
    /// The connection is cut; the Edge sees it at once, the engine not yet.
    Cut,
    /// An engine hears a hello (connection).
    Knock(usize),
    /// An engine executes a request that it has received (connection, request).
    Execute(usize, usize),
    /// A connection ends and this request had not been taken from it (connection, request).
    Drop(usize, usize),
    /// An engine answers (connection, request).
    Answer(usize, usize),
    /// An engine notices that a connection is over or to be left.
    Notice(usize),
    /// Nothing of a connection that ends can happen any more.
    Gone(usize),
    /// The owner hands the volume over and says so.
    HandOver,
    /// The owner is frozen and the other host takes the volume.
    TakeOver,
    /// The frozen host wakes, finds itself fenced and closes what it has.
    Thaw,
    /// The owner's engine crashes and comes back under a newer epoch.
    Crash,
    /// The operator tells the Edge who the owner is.
    Retarget,
    /// The operator detaches the volume.
    Detach,
    /// A pause is over.
    Timer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Said {
    Attached(u64),
    Refused,
    Moved(u32),
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// Its hello is on its way.
    Knocking,
    /// Its hello was heard; an earlier connection must go first.
    Waiting,
    Entered,
    /// It takes no more requests.
    Ending,
    /// The engine has forgotten it.
    Closed,
}

type Numbered = (Command, u8);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Link {
    generation: u32,
    host: u32,
    stage: Stage,
    /// The Edge has given it up: it neither hears nor says anything on it any more.
    cut: bool,
    leaving: bool,
    ring: Vec<Numbered>,
    executed: Vec<(Numbered, Option<u8>)>,
    answers: Vec<(Done, Option<u8>)>,
    said: Vec<Said>,
}

impl Link {
    fn close(&mut self, said: Option<Said>) {
        self.stage = Stage::Closed;
        self.ring.clear();
        self.executed.clear();
        self.said.extend(said);
        self.said.push(Said::End);
    }
}

/// A session, two hosts, and all connections between them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct FollowWorld {
    bounds: Fixed<Bounds>,
    mutant: Option<Mutant>,
    session: Session,
    links: Vec<Link>,
    doors: [Door; HOSTS as usize],
    owner: u32,
    epoch: u64,
    frozen: Option<u32>,
    cells: Cells,
    outstanding: Vec<Asked>,
    register: Register,
    timer: bool,
    /// Targets tried since the session served last, as bits.
    tried: u32,
    /// Epoch that serves the session, and the newest that it was told of.
    serving: u64,
    told: u64,
    replayed: bool,
    waited: bool,
    submitted: u8,
    menu: Vec<u8>,
    left: Faults,
}

impl FollowWorld {
    /// A session of an attached volume that connects to its owner, host 0.
    pub(super) fn new(bounds: &'static Bounds, mutant: Option<Mutant>) -> Self {
        let mut session = Session::restored(ENTRIES, 2 * CELL, false);
        if let Some(mutant) = mutant {
            plant(&mut session, mutant);
        }
        let mut world = FollowWorld {
            bounds: Fixed(bounds),
            mutant,
            session,
            links: Vec::new(),
            doors: [fresh_door(mutant), fresh_door(mutant)],
            owner: 0,
            epoch: 1,
            frozen: None,
            cells: [0; 2],
            outstanding: Vec::new(),
            register: Register::default(),
            timer: false,
            tried: 0,
            serving: 0,
            told: 0,
            replayed: false,
            waited: false,
            submitted: 0,
            menu: bounds.menu.iter().map(|(_, times)| *times).collect(),
            left: bounds.faults,
        };
        let targets = Message::Retarget { targets: HOSTS, first: 0, epoch: 1, keep: false };
        for message in [targets, Message::Start] {
            world.step(message, None).expect("nothing can break before anything happened");
        }
        world
    }

    /// The connection that the Edge believes in.
    fn present(&self) -> Option<&Link> {
        self.links.last().filter(|link| !link.cut)
    }

    fn step(&mut self, message: Message, value: Option<u8>) -> Result<(), Violation> {
        let mut actions = Vec::new();
        let served = self.session.phase() == Phase::Ready;
        self.session.step(message, &mut actions);
        for action in actions {
            match action {
                Action::Connect { generation } => self.connect(generation),
                Action::Send(command) => self.send(command)?,
                Action::Complete(done) => self.complete(done, value)?,
                Action::SetTimer { .. } => {
                    self.timer = true;
                    if !served && self.tried != (1 << HOSTS) - 1 {
                        let text = format!("only {:#b} were tried", self.tried);
                        return Err(Violation::new(ROUND, text));
                    }
                    self.tried = 0;
                }
                Action::Leave { .. } => {
                    if let Some(link) = self.links.last_mut() {
                        link.leaving = true;
                    }
                }
                Action::Opened { .. } => self.tried = 0,
                Action::Ended(_) => self.ended()?,
                Action::Resized { .. } => {}
            }
        }
        Ok(())
    }

    fn connect(&mut self, generation: u32) {
        self.tried |= 1 << self.session.target();
        self.links.retain(|link| link.stage != Stage::Closed);
        self.links.push(Link {
            generation,
            host: self.session.target(),
            stage: Stage::Knocking,
            cut: false,
            leaving: false,
            ring: Vec::new(),
            executed: Vec::new(),
            answers: Vec::new(),
            said: Vec::new(),
        });
    }

    fn send(&mut self, command: Command) -> Result<(), Violation> {
        let asked = self.outstanding.iter_mut().find(|asked| asked.tag == command.tag);
        let Some(asked) = asked else {
            return Err(Violation::new(LINEAR, format!("tag {} is sent but over", command.tag)));
        };
        self.replayed |= asked.sent;
        asked.sent = true;
        let number = asked.number;
        if let Some(link) = self.links.last_mut()
            && matches!(link.stage, Stage::Entered | Stage::Ending)
        {
            link.ring.push((command, number));
        }
        Ok(())
    }

    fn complete(&mut self, done: Done, value: Option<u8>) -> Result<(), Violation> {
        let Some(at) = self.outstanding.iter().position(|asked| asked.tag == done.tag) else {
            return Err(Violation::new(LINEAR, format!("tag {} is completed again", done.tag)));
        };
        let Asked { number, request, .. } = self.outstanding.remove(at);
        if self.session.phase() == Phase::Over {
            // It was given up: whether it takes effect is what the session says of all.
            return Ok(());
        }
        if self.register.answered(number, value) {
            return Ok(());
        }
        let text = format!("nothing explains that {request:?} {number} returned {value:?}");
        Err(Violation::new(LINEAR, text))
    }

    /// The session is over.
    fn ended(&mut self) -> Result<(), Violation> {
        if self.session.has_ended_all() && self.leaves_behind() {
            return Err(Violation::new(CERTAIN, "an engine still has a write to execute"));
        }
        Ok(())
    }

    /// An engine still has a write to execute. One that is frozen is fenced when it thaws.
    fn leaves_behind(&self) -> bool {
        let links = self.links.iter().filter(|link| self.frozen != Some(link.host));
        links.flat_map(|link| &link.ring).any(|(command, _)| command.verb.is_write())
    }

    fn submit(&mut self, at: usize) -> Result<(), Violation> {
        self.menu[at] -= 1;
        self.submitted += 1;
        let (number, request) = (self.submitted, self.bounds.0.menu[at].0);
        let taken = |tag: u32| self.outstanding.iter().any(|asked| asked.tag == tag);
        let tag = (0..ENTRIES).find(|tag| !taken(*tag)).expect("entries for all");
        let command = super::command_of(tag, request);
        self.outstanding.push(Asked { tag, number, request, sent: false });
        self.register.submitted(number, request);
        self.step(Message::Submit(command), None)
    }

    fn hear(&mut self) -> Result<(), Violation> {
        let link = self.links.last_mut().expect("somebody said something");
        let (generation, said) = (link.generation, link.said.remove(0));
        match said {
            Said::Attached(epoch) => {
                let attached = Attached {
                    version: 1,
                    features: 0,
                    size: 2 * CELL,
                    read_only: false,
                    epoch,
                    credits: ENTRIES,
                };
                if epoch >= self.session.epoch() {
                    self.serving = epoch;
                }
                self.step(Message::Attached { generation, attached }, None)
            }
            Said::Refused => self.step(Message::Refused { generation }, None),
            Said::Moved(first) => {
                let message = Message::Retarget { targets: HOSTS, first, epoch: 0, keep: false };
                self.step(message, None)
            }
            Said::End => {
                link.cut = true;
                self.step(Message::LetGo { generation }, None)
            }
        }
    }

    /// The Edge's end of the connection is over; the engine's is not.
    fn lose(&mut self) -> Result<(), Violation> {
        let link = self.links.last_mut().expect("a connection to lose");
        link.cut = true;
        link.answers.clear();
        let generation = link.generation;
        self.step(Message::Lost { generation }, None)
    }

    fn knock(&mut self, at: usize) -> Result<(), Violation> {
        let Link { generation, host, .. } = self.links[at];
        if host != self.owner {
            self.links[at].close(Some(Said::Refused));
            return Ok(());
        }
        let connection = u64::from(generation);
        let guest = Guest { host: "a".into(), edge: [1; 16], connection, generation: 0 };
        match self.doors[host as usize].knock(generation, guest) {
            Verdict::Enter => self.enter(generation),
            Verdict::TooLate | Verdict::ShutOut { .. } => {
                self.links[at].close(Some(Said::Refused));
            }
            Verdict::Wait { end } => {
                self.links[at].stage = Stage::Waiting;
                self.waited = true;
                for key in end {
                    if key > generation {
                        let text = format!("connection {key} ended for {generation}");
                        return Err(Violation::new(DOOR, text));
                    }
                    self.end(key);
                    if self.mutant == Some(Mutant::DoorWithoutWait) {
                        self.forget(host, key);
                    }
                }
            }
        }
        Ok(())
    }

    fn enter(&mut self, key: u32) {
        let epoch = self.epoch;
        if let Some(link) = self.links.iter_mut().find(|link| link.generation == key) {
            link.stage = Stage::Entered;
            link.said.push(Said::Attached(epoch));
        }
    }

    fn end(&mut self, key: u32) {
        if let Some(link) = self.links.iter_mut().find(|link| link.generation == key) {
            link.stage = Stage::Ending;
        }
    }

    fn forget(&mut self, host: u32, key: u32) {
        for next in self.doors[host as usize].gone(key) {
            self.enter(next);
        }
    }

    /// The engine of `host` lets go of all its connections.
    fn let_go(&mut self, host: u32, said: Option<Said>) {
        self.doors[host as usize] = fresh_door(self.mutant);
        for link in self.links.iter_mut().filter(|link| link.host == host) {
            if link.stage != Stage::Knocking && link.stage != Stage::Closed {
                link.close(said);
            }
        }
    }

    fn execute(&mut self, link: usize, at: usize) {
        let numbered = self.links[link].ring.remove(at);
        let request = match numbered.0.verb {
            Verb::Read => Request::Read((numbered.0.offset / CELL) as u8),
            Verb::Write => Request::Write((numbered.0.offset / CELL) as u8),
            _ => Request::WriteBoth,
        };
        let value = execute(&mut self.cells, request, numbered.1);
        self.links[link].executed.push((numbered, value));
    }

    fn link_moves(&self, at: usize, out: &mut Vec<Move>) {
        let link = &self.links[at];
        if self.frozen == Some(link.host) {
            return;
        }
        match link.stage {
            Stage::Knocking => out.push(Move::Knock(at)),
            Stage::Waiting | Stage::Entered if link.cut || link.leaving => {
                out.push(Move::Notice(at));
            }
            _ => {}
        }
        if matches!(link.stage, Stage::Entered | Stage::Ending) {
            out.extend((0..link.ring.len()).map(|request| Move::Execute(at, request)));
            out.extend((0..link.executed.len()).map(|request| Move::Answer(at, request)));
        }
        if link.stage == Stage::Ending {
            out.extend((0..link.ring.len()).map(|request| Move::Drop(at, request)));
            if link.ring.is_empty() && link.executed.is_empty() {
                out.push(Move::Gone(at));
            }
        }
    }

    fn faults(&self, out: &mut Vec<Move>) {
        let left = &self.left;
        let connected = matches!(self.session.phase(), Phase::Connecting | Phase::Ready);
        if left.cuts > 0 && connected && self.present().is_some() {
            out.push(Move::Cut);
        }
        if left.crashes > 0 {
            out.push(Move::Crash);
        }
        if left.detaches > 0 {
            out.push(Move::Detach);
        }
        if self.frozen.is_none() && left.moves > 0 {
            out.push(Move::HandOver);
        }
        if self.frozen.is_none() && left.takeovers > 0 {
            out.push(Move::TakeOver);
        }
    }

    fn change_owner(&mut self) {
        self.owner = 1 - self.owner;
        self.epoch += 1;
    }
}

pub(super) fn fresh_door(mutant: Option<Mutant>) -> Door {
    #[cfg_attr(not(feature = "mutants"), allow(unused_mut))]
    let mut door = Door::default();
    #[cfg(feature = "mutants")]
    if let Some(mutant) = mutant {
        door.plant(mutant);
    }
    #[cfg(not(feature = "mutants"))]
    assert_eq!(mutant, None, "built without the feature `mutants`");
    door
}

impl World for FollowWorld {
    type Move = Move;

    fn moves(&self, out: &mut Vec<Move>) {
        for (at, left) in self.menu.iter().enumerate() {
            let asks = *left > 0 && !self.is_leaving();
            if asks && self.outstanding.len() < self.bounds.0.outstanding {
                out.push(Move::Submit(at));
            }
        }
        if let Some(link) = self.present() {
            if !link.said.is_empty() {
                out.push(Move::Hear);
            }
            if !link.answers.is_empty() {
                out.push(Move::Take);
            }
            // A frozen engine does not answer a hello or a goodbye.
            let hangs = self.frozen == Some(link.host) && link.said.is_empty();
            let waits = matches!(self.session.phase(), Phase::Connecting | Phase::Leaving);
            if waits && (hangs || self.is_leaving()) {
                out.push(Move::GiveUp);
            }
        }
        (0..self.links.len()).for_each(|at| self.link_moves(at, out));
        if self.frozen.is_some() {
            out.push(Move::Thaw);
        }
        if self.told < self.epoch {
            out.push(Move::Retarget);
        }
        if self.timer {
            out.push(Move::Timer);
        }
        self.faults(out);
    }

    fn apply(&mut self, step: &Move) -> Result<(), Violation> {
        match *step {
            Move::Submit(at) => self.submit(at)?,
            Move::Hear => self.hear()?,
            Move::Take => {
                let link = self.links.last_mut().expect("an answer is there");
                let (done, value) = link.answers.remove(0);
                let generation = link.generation;
                self.step(Message::Answered { generation, done }, value)?;
            }
            Move::GiveUp => self.lose()?,
            Move::Cut => {
                self.left.cuts -= 1;
                self.lose()?;
            }
            Move::Knock(at) => self.knock(at)?,
            Move::Execute(link, at) => self.execute(link, at),
            Move::Drop(link, at) => {
                self.links[link].ring.remove(at);
            }
            Move::Answer(link, at) => {
                let ((command, _), value) = self.links[link].executed.remove(at);
                if !self.links[link].cut {
                    let done = Done { tag: command.tag, errno: 0, extents: 0 };
                    self.links[link].answers.push((done, value));
                }
            }
            Move::Notice(at) => self.links[at].stage = Stage::Ending,
            Move::Gone(at) => {
                let Link { host, generation, .. } = self.links[at];
                self.links[at].close(None);
                self.forget(host, generation);
            }
            Move::HandOver => {
                self.left.moves -= 1;
                let from = self.owner;
                self.change_owner();
                self.let_go(from, Some(Said::Moved(self.owner)));
            }
            Move::TakeOver => {
                self.left.takeovers -= 1;
                self.frozen = Some(self.owner);
                self.change_owner();
            }
            Move::Thaw => {
                if let Some(host) = self.frozen.take() {
                    self.let_go(host, None);
                }
            }
            Move::Crash => {
                self.left.crashes -= 1;
                self.epoch += 1;
                self.let_go(self.owner, None);
            }
            Move::Retarget => {
                self.told = self.epoch;
                let keep = self.present().is_some_and(|link| link.host == self.owner);
                let (first, epoch) = (self.owner, self.epoch);
                self.step(Message::Retarget { targets: HOSTS, first, epoch, keep }, None)?;
            }
            Move::Detach => {
                self.left.detaches -= 1;
                self.step(Message::Detach, None)?;
            }
            Move::Timer => {
                self.timer = false;
                self.step(Message::Timer, None)?;
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Violation> {
        let ready = self.session.phase() == Phase::Ready;
        if ready && self.serving < self.told {
            let text = format!("epoch {} serves, {} was told of", self.serving, self.told);
            return Err(Violation::new(EPOCH, text));
        }
        let mut moves = Vec::new();
        self.moves(&mut moves);
        let fault = |step: &Move| {
            matches!(step, Move::Cut | Move::Crash | Move::HandOver | Move::TakeOver | Move::Thaw)
        };
        if !self.outstanding.is_empty()
            && moves.iter().all(|m| fault(m) || matches!(m, Move::Submit(_)))
        {
            return Err(Violation::new(PROGRESS, "requests wait and nothing is on its way"));
        }
        Ok(())
    }

    fn goals(&self) -> Vec<Goal<Self>> {
        let goals = self.bounds.0.goals.iter();
        goals.map(|(name, holds)| Goal { name, holds: *holds }).collect()
    }
}

impl FollowWorld {
    /// All was asked and answered, and all that may go wrong has.
    pub(super) fn is_done(&self) -> bool {
        let asked = self.menu.iter().all(|left| *left == 0);
        asked && self.outstanding.is_empty() && self.left == Faults::default()
    }

    /// It was detached, or is being so.
    fn is_leaving(&self) -> bool {
        self.bounds.0.faults.detaches > self.left.detaches
    }

    /// The session is over and certain that all has ended, of which something was on its way.
    pub(super) fn is_certain(&self) -> bool {
        self.session.has_ended_all() && self.replayed
    }

    /// The session is over, is not certain, and is right in that.
    pub(super) fn is_uncertain(&self) -> bool {
        let over = self.session.phase() == Phase::Over;
        over && !self.session.has_ended_all() && self.leaves_behind()
    }

    /// A request was sent a second time.
    pub(super) fn has_replayed(&self) -> bool {
        self.replayed
    }

    /// A connection had to wait at the door.
    pub(super) fn has_waited(&self) -> bool {
        self.waited
    }

    /// The other host serves while the first one is frozen.
    pub(super) fn serves_elsewhere(&self) -> bool {
        self.frozen.is_some() && self.session.phase() == Phase::Ready && self.serving == self.epoch
    }

    /// Why the operator's word matters: the session is with an owner that does nothing.
    pub(super) fn is_stuck(&self) -> bool {
        let with_frozen = self.present().is_some_and(|link| self.frozen == Some(link.host));
        with_frozen && self.session.phase() == Phase::Ready && !self.outstanding.is_empty()
    }
}
