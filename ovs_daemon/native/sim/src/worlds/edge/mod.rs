//! The world of an Edge session ([`machines::edge`]): a guest, engines that come and go, and the
//! connection between them.
//!
//! The engine is modelled as badly behaved as the protocol allows: it executes what is in its ring
//! in any order, answers in any order, dies at any moment (executed requests without an answer are
//! lost to the Edge, but not undone), lets go of the volume, deletes it, comes back with a newer
//! epoch or, a ghost, with an older one and old data, and may answer a request twice. Answers that
//! were published before the end of a connection may be taken after it.
//!
//! Sessions over a network, whose volume moves between hosts, have a world of their own ([`follow`]), and
//! so has a volume that is taken away from a host ([`preempt`]).
//!
//! Values of writes are the numbers of their requests; what a guest may see is in [`register`].

mod follow;
mod preempt;
mod register;
mod scenarios;

use std::hash::{Hash, Hasher};

use format::edge::{Attached, CloseReason, Command, Done, Verb};
use machines::edge::{Action, Ending, Message, Mutant, Phase, Session};

use crate::explore::{Goal, Violation, World};
use register::{Cells, Register, execute};

pub use register::Request;
pub use scenarios::scenarios;

const CELL: u64 = 4096;
/// Number of the present connection in canonical states; earlier ones count from 1.
const GENERATION: u32 = 1000;
/// Requests that the Edge can hold at once.
const ENTRIES: u32 = 8;

const ONCE: &str = "one answer each";
const LINEAR: &str = "guests see one disk";
const OWNER: &str = "one user of the memory";
const EPOCH: &str = "the epoch never goes back";
const PROGRESS: &str = "no request is forgotten";

/// How much may happen in a world.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// What the guest may ask for, and how often each.
    pub menu: Vec<(Request, u8)>,
    /// Requests without an answer at the same time.
    pub outstanding: usize,
    /// Requests that the engine lets the Edge send at once.
    pub credits: u32,
    /// The session was attached in an earlier life of the Edge.
    pub restored: bool,
    /// How often each thing may go wrong.
    pub faults: Faults,
    /// What must be reached.
    pub goals: Vec<Wanted>,
}

/// Something that must be reached, and how to tell that a world has.
pub type Wanted = (&'static str, fn(&EdgeWorld) -> bool);

/// How often things may happen that need no guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// The engine dies.
    pub crashes: u8,
    /// A ghost with an older epoch comes up.
    pub ghosts: u8,
    /// The engine lets go of the volume.
    pub stops: u8,
    /// The volume is deleted.
    pub deletes: u8,
    /// The engine refuses a handshake.
    pub refusals: u8,
    /// A request is answered twice.
    pub duplicates: u8,
    /// The operator detaches.
    pub detaches: u8,
    /// Connecting is tried although no engine is there.
    pub vain: u8,
}

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// The guest asks (the number of the request in the menu).
    Submit(usize),
    /// The Edge reads the next frame of its connection.
    Hear,
    /// The Edge takes the next answer of a connection, the present one or an earlier one.
    Take(usize),
    /// The same, and finds it in the ring twice.
    TakeTwice,
    /// The engine accepts the session.
    Accept,
    /// The engine refuses the session.
    Refuse,
    /// The engine executes a request of its ring.
    Execute(usize),
    /// The engine publishes the answer of an executed request.
    Answer(usize),
    /// The engine, asked to leave, has finished and closes.
    Close,
    /// A read ends that an engine had under way when it let go of the volume (connection, request).
    Still(usize, usize),
    /// The engine lets go of the volume.
    Stop,
    /// The volume is deleted.
    Delete,
    /// The engine dies.
    Crash,
    /// An engine comes up, with a newer epoch.
    Start,
    /// A ghost comes up: an older epoch, and a disk without anything.
    StartGhost,
    /// A pause is over.
    Timer,
    /// The operator detaches.
    Detach,
}

/// What an engine says on the control connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Said {
    Attached(u64),
    Refused,
    Closed(CloseReason),
    End,
}

/// A command and the number of its request.
type Numbered = (Command, u8);

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Link {
    generation: u32,
    /// The engine has not closed it: it may touch the memory of what it was sent.
    open: bool,
    accepted: bool,
    /// The Edge has said goodbye.
    leaving: bool,
    /// The engine answers nothing any more; what it reads fills memory all the same.
    parted: bool,
    ring: Vec<Numbered>,
    executed: Vec<(Numbered, Option<u8>)>,
    answers: Vec<(Done, Option<u8>)>,
    said: Vec<Said>,
}

impl Link {
    fn holds(&self, number: u8) -> bool {
        let ring = self.ring.iter().map(|(_, held)| *held);
        let executed = self.executed.iter().map(|((_, held), _)| *held);
        ring.chain(executed).any(|held| held == number)
    }

    /// The engine lets go of the volume: only reads that are under way go on.
    fn part(&mut self, reason: CloseReason) {
        self.parted = true;
        self.ring.retain(|(command, _)| command.verb == Verb::Read);
        self.executed.retain(|((command, _), _)| command.verb == Verb::Read);
        self.said.push(Said::Closed(reason));
    }

    fn is_still(&self) -> bool {
        self.ring.is_empty() && self.executed.is_empty()
    }

    fn close(&mut self) {
        self.open = false;
        self.ring.clear();
        self.executed.clear();
        self.said.push(Said::End);
    }
}

/// A request of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Asked {
    tag: u32,
    number: u8,
    request: Request,
    /// It was sent on some connection.
    sent: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Engine {
    epoch: u64,
    ghost: bool,
}

/// The bounds are the same in all states of a world: nothing to compare.
#[derive(Debug)]
struct Fixed<B: 'static>(&'static B);

impl<B> Clone for Fixed<B> {
    fn clone(&self) -> Self {
        Self(self.0)
    }
}

impl<B> PartialEq for Fixed<B> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<B> Eq for Fixed<B> {}

impl<B> Hash for Fixed<B> {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

/// A session and everything around it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EdgeWorld {
    bounds: Fixed<Bounds>,
    mutant: Option<Mutant>,
    session: Session,
    engine: Option<Engine>,
    /// Connections; the last one is the present one, earlier ones only have answers left.
    links: Vec<Link>,
    cells: Cells,
    ghost_cells: Cells,
    deleted: bool,
    /// What is not completed, in the order of submission.
    outstanding: Vec<Asked>,
    register: Register,
    timer: bool,
    ended: Option<Ending>,
    epoch: u64,
    epoch_seen: u64,
    /// Requests completed because the volume was gone.
    given_up: u8,
    /// A request was sent a second time.
    replayed: bool,
    submitted: u8,
    menu: Vec<u8>,
    left: Faults,
}

impl EdgeWorld {
    /// A host whose engine runs, and a session that starts.
    pub fn new(bounds: &'static Bounds, mutant: Option<Mutant>) -> Self {
        let mut session = match bounds.restored {
            true => Session::restored(ENTRIES, 2 * CELL, false),
            false => Session::new(ENTRIES),
        };
        if let Some(mutant) = mutant {
            plant(&mut session, mutant);
        }
        let mut world = EdgeWorld {
            bounds: Fixed(bounds),
            mutant,
            session,
            engine: Some(Engine { epoch: 1, ghost: false }),
            links: Vec::new(),
            cells: [0; 2],
            ghost_cells: [0; 2],
            deleted: false,
            outstanding: Vec::new(),
            register: Register::default(),
            timer: false,
            ended: None,
            epoch: 1,
            epoch_seen: 0,
            given_up: 0,
            replayed: false,
            submitted: 0,
            menu: bounds.menu.iter().map(|(_, times)| *times).collect(),
            left: bounds.faults,
        };
        world.step(Message::Start, None).expect("nothing can break before anything happened");
        world
    }

    fn link(&mut self) -> &mut Link {
        self.links.last_mut().expect("a session in this phase has a connection")
    }

    /// Gives the machine a message and does what it wants. `value`: what the answer carries.
    fn step(&mut self, message: Message, value: Option<u8>) -> Result<(), Violation> {
        let mut actions = Vec::new();
        self.session.step(message, &mut actions);
        let mut at = 0;
        while at < actions.len() {
            let action = actions[at].clone();
            at += 1;
            if let Action::Connect { generation } = action
                && !self.connect(generation)?
            {
                self.session.step(Message::Lost { generation }, &mut actions);
            }
            self.perform(&action, value)?;
        }
        Ok(())
    }

    fn perform(&mut self, action: &Action, value: Option<u8>) -> Result<(), Violation> {
        match action {
            Action::Connect { .. } | Action::Resized { .. } => {}
            Action::Send(command) => self.send(*command)?,
            Action::Complete(done) => self.complete(*done, value)?,
            Action::SetTimer { .. } => self.timer = true,
            Action::Leave { .. } => self.link().leaving = true,
            Action::Opened { .. } => {
                let epoch = self.session.epoch();
                if epoch < self.epoch_seen {
                    let seen = self.epoch_seen;
                    return Err(Violation::new(EPOCH, format!("epoch {epoch} after {seen}")));
                }
                self.epoch_seen = epoch;
            }
            Action::Ended(ending) => self.ended = Some(*ending),
        }
        Ok(())
    }

    /// False: nobody is there.
    fn connect(&mut self, generation: u32) -> Result<bool, Violation> {
        if self.links.iter().any(|link| link.open) {
            return Err(Violation::new(OWNER, "a second engine is asked before the first let go"));
        }
        self.links.retain(|link| !link.answers.is_empty() || !link.is_still());
        if self.engine.is_none() {
            return Ok(false);
        }
        self.links.push(Link {
            generation,
            open: true,
            accepted: false,
            leaving: false,
            parted: false,
            ring: Vec::new(),
            executed: Vec::new(),
            answers: Vec::new(),
            said: Vec::new(),
        });
        Ok(true)
    }

    fn send(&mut self, command: Command) -> Result<(), Violation> {
        let Some(at) = self.outstanding.iter().position(|asked| asked.tag == command.tag) else {
            return Err(Violation::new(ONCE, format!("tag {} is sent but over", command.tag)));
        };
        let Asked { number, sent, .. } = self.outstanding[at];
        if self.link().holds(number) {
            return Err(Violation::new(ONCE, format!("request {number} is sent twice")));
        }
        self.replayed |= sent;
        self.outstanding[at].sent = true;
        // Nobody takes it out of the ring of a connection that is over; the Edge does not know it yet.
        if self.link().open && !self.link().parted {
            self.link().ring.push((command, number));
        }
        Ok(())
    }

    fn complete(&mut self, done: Done, value: Option<u8>) -> Result<(), Violation> {
        let Some(at) = self.outstanding.iter().position(|asked| asked.tag == done.tag) else {
            return Err(Violation::new(ONCE, format!("tag {} is completed again", done.tag)));
        };
        let Asked { number, request, .. } = self.outstanding.remove(at);
        if self.links.iter().any(|link| link.holds(number)) {
            let text = format!("request {number} is completed while an engine has it");
            return Err(Violation::new(OWNER, text));
        }
        if done.errno != 0 {
            self.given_up += 1;
            return Ok(());
        }
        if !self.register.answered(number, value) {
            let text = format!("nothing explains that {request:?} {number} returned {value:?}");
            return Err(Violation::new(LINEAR, text));
        }
        Ok(())
    }

    fn submit(&mut self, at: usize) -> Result<(), Violation> {
        self.menu[at] -= 1;
        self.submitted += 1;
        let (number, request) = (self.submitted, self.bounds.0.menu[at].0);
        let taken = |tag: u32| self.outstanding.iter().any(|asked| asked.tag == tag);
        let tag = (0..ENTRIES).find(|tag| !taken(*tag)).expect("entries for all");
        let command = command_of(tag, request);
        self.outstanding.push(Asked { tag, number, request, sent: false });
        self.register.submitted(number, request);
        self.step(Message::Submit(command), None)
    }

    fn hear(&mut self) -> Result<(), Violation> {
        let link = self.link();
        let (generation, said) = (link.generation, link.said.remove(0));
        let credits = self.bounds.0.credits;
        let message = match said {
            Said::Attached(epoch) => {
                let size = 2 * CELL;
                let attached =
                    Attached { version: 1, features: 0, size, read_only: false, epoch, credits };
                Message::Attached { generation, attached }
            }
            Said::Refused => Message::Refused { generation },
            Said::Closed(reason) => Message::Closed { generation, reason },
            Said::End => Message::LetGo { generation },
        };
        self.step(message, None)
    }

    fn take(&mut self, at: usize, twice: bool) -> Result<(), Violation> {
        let (done, value) = self.links[at].answers.remove(0);
        let generation = self.links[at].generation;
        self.step(Message::Answered { generation, done }, value)?;
        if twice {
            self.step(Message::Answered { generation, done }, value)?;
        }
        Ok(())
    }

    fn execute(&mut self, at: usize) {
        let (command, number) = self.link().ring.remove(at);
        let request = match command.verb {
            Verb::Read => Request::Read((command.offset / CELL) as u8),
            Verb::Write => Request::Write((command.offset / CELL) as u8),
            _ => Request::WriteBoth,
        };
        let ghost = self.engine.is_some_and(|engine| engine.ghost);
        let cells = if ghost { &mut self.ghost_cells } else { &mut self.cells };
        let value = execute(cells, request, number);
        self.link().executed.push(((command, number), value));
    }

    /// The present connection, while its engine has not closed it.
    fn open_link(&self) -> Option<&Link> {
        self.links.last().filter(|link| link.open)
    }

    fn engine_moves(&self, out: &mut Vec<Move>) {
        let left = &self.left;
        if self.engine.is_none() {
            out.push(Move::Start);
            if left.ghosts > 0 {
                out.push(Move::StartGhost);
            }
            return;
        }
        if left.crashes > 0 {
            out.push(Move::Crash);
        }
        if left.deletes > 0 && !self.deleted {
            out.push(Move::Delete);
        }
        let Some(link) = self.open_link() else { return };
        if link.parted {
            return out.extend(link.is_still().then_some(Move::Close));
        }
        if !link.accepted {
            if !link.leaving && !self.deleted {
                out.push(Move::Accept);
            }
            if self.deleted || left.refusals > 0 {
                out.push(Move::Refuse);
            }
        } else if left.stops > 0 {
            out.push(Move::Stop);
        }
        out.extend((0..link.ring.len()).map(Move::Execute));
        out.extend((0..link.executed.len()).map(Move::Answer));
        if link.leaving && link.executed.is_empty() {
            out.push(Move::Close);
        }
    }

    /// The engine lets go of the volume.
    fn part(&mut self, reason: CloseReason) {
        let early = self.mutant == Some(Mutant::CloseWhileReading);
        if let Some(link) = self.links.last_mut().filter(|link| link.open) {
            link.part(reason);
            if early {
                link.open = false;
                link.said.push(Said::End);
            }
        }
    }

    /// The Edge has heard that the engine lets go, and the engine still reads.
    pub(super) fn waits_for_read(&self) -> bool {
        let reads = |link: &Link| link.parted && !link.is_still();
        self.session.phase() == Phase::Leaving && self.open_link().is_some_and(reads)
    }
}

fn command_of(tag: u32, request: Request) -> Command {
    let (verb, cell, cells) = match request {
        Request::Write(cell) => (Verb::Write, cell, 1),
        Request::WriteBoth => (Verb::WriteZeroes, 0, 2),
        Request::Read(cell) => (Verb::Read, cell, 1),
    };
    let (offset, length) = (u64::from(cell) * CELL, cells * CELL);
    Command { tag, verb, flags: 0, offset, length, place: 0, room: 0 }
}

#[cfg(feature = "mutants")]
fn renumber(session: &mut Session, generation: u32) {
    session.renumber(generation);
}

#[cfg(not(feature = "mutants"))]
fn renumber(_: &mut Session, _: u32) {}

#[cfg(feature = "mutants")]
fn plant(session: &mut Session, mutant: Mutant) {
    session.plant(mutant);
}

#[cfg(not(feature = "mutants"))]
fn plant(_: &mut Session, mutant: Mutant) {
    panic!("built without the feature `mutants`, {mutant:?} cannot be planted");
}

impl World for EdgeWorld {
    type Move = Move;

    fn moves(&self, out: &mut Vec<Move>) {
        let asks = self.session.is_settled() && self.outstanding.len() < self.bounds.0.outstanding;
        for (at, left) in self.menu.iter().enumerate() {
            if asks && *left > 0 && self.ended.is_none() {
                out.push(Move::Submit(at));
            }
        }
        if self.links.last().is_some_and(|link| !link.said.is_empty()) {
            out.push(Move::Hear);
        }
        for (at, link) in self.links.iter().enumerate() {
            if !link.answers.is_empty() {
                out.push(Move::Take(at));
            }
        }
        let present = self.open_link().filter(|link| !link.answers.is_empty());
        if self.left.duplicates > 0 && present.is_some() {
            out.push(Move::TakeTwice);
        }
        self.engine_moves(out);
        for (at, link) in self.links.iter().enumerate().filter(|(_, link)| link.parted) {
            let count = link.ring.len() + link.executed.len();
            out.extend((0..count).map(|request| Move::Still(at, request)));
        }
        if self.timer && (self.engine.is_some() || self.left.vain > 0) {
            out.push(Move::Timer);
        }
        if self.left.detaches > 0 && self.session.phase() != Phase::Over {
            out.push(Move::Detach);
        }
    }

    fn apply(&mut self, step: &Move) -> Result<(), Violation> {
        match *step {
            Move::Submit(at) => self.submit(at)?,
            Move::Hear => self.hear()?,
            Move::Take(at) => self.take(at, false)?,
            Move::TakeTwice => {
                self.left.duplicates -= 1;
                self.take(self.links.len() - 1, true)?;
            }
            Move::Accept => {
                let epoch = self.engine.map_or(0, |engine| engine.epoch);
                self.link().accepted = true;
                self.link().said.push(Said::Attached(epoch));
            }
            Move::Refuse => {
                self.left.refusals = self.left.refusals.saturating_sub(1);
                self.link().said.push(Said::Refused);
                self.link().close();
            }
            Move::Execute(at) => self.execute(at),
            Move::Answer(at) => {
                let ((command, _), value) = self.link().executed.remove(at);
                let done = Done { tag: command.tag, errno: 0, extents: 0 };
                self.link().answers.push((done, value));
            }
            Move::Close => self.link().close(),
            Move::Still(link, at) => {
                let link = &mut self.links[link];
                match at.checked_sub(link.ring.len()) {
                    None => drop(link.ring.remove(at)),
                    Some(at) => drop(link.executed.remove(at)),
                }
            }
            Move::Stop => {
                self.left.stops -= 1;
                self.part(CloseReason::Stopping);
            }
            Move::Delete => {
                self.left.deletes -= 1;
                self.deleted = true;
                let accepted = self.open_link().is_some_and(|link| link.accepted);
                if accepted {
                    self.part(CloseReason::Deleted);
                }
            }
            Move::Crash => {
                self.left.crashes -= 1;
                self.engine = None;
                if let Some(link) = self.links.last_mut().filter(|link| link.open) {
                    link.close();
                }
            }
            Move::Start => {
                self.epoch += 1;
                self.engine = Some(Engine { epoch: self.epoch, ghost: false });
            }
            Move::StartGhost => {
                self.left.ghosts -= 1;
                self.engine = Some(Engine { epoch: 0, ghost: true });
            }
            Move::Timer => {
                self.timer = false;
                if self.engine.is_none() {
                    self.left.vain -= 1;
                }
                self.step(Message::Timer, None)?;
            }
            Move::Detach => {
                self.left.detaches -= 1;
                self.step(Message::Detach, None)?;
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Violation> {
        let stuck = |why: &str| Err(Violation::new(PROGRESS, why));
        match self.session.phase() {
            Phase::Over if !self.outstanding.is_empty() => {
                return stuck("the session is over and requests are not answered");
            }
            Phase::Pausing if !self.timer => return stuck("a pause without an end"),
            Phase::New | Phase::Over | Phase::Pausing => return Ok(()),
            Phase::Connecting | Phase::Leaving | Phase::Ready => {}
        }
        let Some(link) = self.links.last() else { return stuck("no connection") };
        if !link.open && link.said.is_empty() {
            return stuck("the connection is over and nobody heard it");
        }
        let idle = link.ring.is_empty() && link.executed.is_empty() && link.answers.is_empty();
        let quiet = idle && link.open && link.said.is_empty();
        if self.session.phase() == Phase::Ready && quiet && !self.outstanding.is_empty() {
            return stuck("an idle engine was not given what waits");
        }
        Ok(())
    }

    /// Only the order of connections matters, and only while an earlier one has answers left.
    fn canonical(&mut self) {
        if cfg!(not(feature = "mutants")) {
            return;
        }
        let present = self.session.generation();
        self.links.retain(|link| {
            link.generation == present || link.open || !link.answers.is_empty() || !link.is_still()
        });
        let mut earlier = 0;
        for link in &mut self.links {
            let is_present = link.generation == present;
            earlier += u32::from(!is_present);
            link.generation = if is_present { GENERATION } else { earlier };
        }
        renumber(&mut self.session, GENERATION);
    }

    fn goals(&self) -> Vec<Goal<Self>> {
        let goals = self.bounds.0.goals.iter();
        goals.map(|(name, holds)| Goal { name, holds: *holds }).collect()
    }
}
