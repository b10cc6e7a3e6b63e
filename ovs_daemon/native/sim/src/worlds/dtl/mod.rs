//! The world of the Distributed Transaction Log ([`machines::dtl`]): nodes that own a volume one
//! after the other, a DTL node, the registry, a client, and all that can go wrong between them.
//!
//! Connections deliver in order or break, as TCP's do; each side notices the end by itself, so what
//! an old connection carried may arrive long after a new one works. The registry is atomic, its
//! answers may be lost. A process may die at any time; what is in the page cache survives that, but
//! not loss of power. The volume has one cluster, and each write is a batch and a SCO of its own.
//!
//! Opening is the shell's part (`Engine.fetch_tail`, the daemon's takeover): swap the registry,
//! then fence the DTL node, then take its tail. `Shell` plants mistakes there.

mod pairs;
mod parts;
mod scenarios;
mod steps;

use std::hash::{Hash, Hasher};

use machines::dtl::keeper::Keeper;
use machines::dtl::link::{Link, Mode, Saved};
use machines::dtl::{Mutant, State};

use crate::explore::{Goal, Violation, World};
use parts::{Batch, Frame, Node, Oracle, Pipe, Process, Registry, Tail, end_of, value_of};

pub use scenarios::scenarios;

const LOST: &str = "no acknowledged write is lost";
const TRUE: &str = "in_sync is true";
const ALONE: &str = "degrade before acknowledge";
const ONE: &str = "one epoch acknowledges";
const STALE: &str = "no stale reads";
const SAVED: &str = "only what is saved is dropped";
const KEPT: &str = "a flush survives loss of power";

/// A mistake of the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shell {
    /// A volume is taken over although its state is not in_sync.
    TakeOverDegraded,
    /// The tail is read without a fence.
    NoFence,
    /// The registry does not compare the epoch.
    SwapAnyEpoch,
    /// The DTL node starts with an empty folder.
    WipeAtRestart,
    /// What lost power is not known to be suspect.
    TrustAfterPowerLoss,
    /// A node that was the last owner prefers its own log.
    PreferLocal,
    /// What lost power is compared by its end alone.
    TakeBehindHole,
}

/// A planted fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// In a machine.
    Machine(Mutant),
    /// Around it.
    Shell(Shell),
}

/// How much may happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Writes of the client.
    pub writes: u8,
    /// Reads that the client remembers.
    pub reads: u8,
    /// Flushes.
    pub flushes: u8,
    /// Batches that reach the backend.
    pub uploads: u8,
    /// Deaths of an owner's process.
    pub crashes: u8,
    /// Deaths of the DTL node's process.
    pub keeper_crashes: u8,
    /// Connections that one side gives up.
    pub cuts: u8,
    /// Answers that an owner looks at after it gave up their connection.
    pub stale: u8,
    /// Writes that the DTL node's disk refuses.
    pub full: u8,
    /// Takeovers by another node.
    pub takeovers: u8,
    /// Openings by the node that is the owner.
    pub restarts: u8,
    /// Lost answers of the registry.
    pub lost_answers: u8,
    /// Losses of power of everything.
    pub blackouts: u8,
}

/// The fixed part of a world.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Nodes that may own the volume.
    pub nodes: usize,
    /// A takeover waits for the end of the owner's lease, and its clock can be trusted.
    pub leases: bool,
    /// Where the registry starts.
    pub state: State,
    /// How much may happen.
    pub budget: Budget,
    /// What must be reached.
    pub goals: Vec<Wanted>,
}

/// Something that must be reached, and how to tell that a world has.
pub type Wanted = (&'static str, fn(&DtlWorld) -> bool);

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// The client writes to a node.
    Write(usize),
    /// The client reads from a node.
    Read(usize),
    /// The client flushes at a node.
    Flush(usize),
    /// The oldest batch that is not on the backend gets there.
    Upload(usize),
    /// An owner's lease ends, on its own clock.
    Expire(usize),
    /// An owner has waited for the DTL node long enough.
    Impatient(usize),
    /// An owner connects.
    Dial(usize),
    /// The next batch is copied.
    Copy(usize),
    /// A swap of the state reaches the registry.
    Swap(usize),
    /// Its answer is lost; the shell asks again.
    LoseAnswer(usize),
    /// Its answer arrives.
    Answer(usize),
    /// An owner's process dies.
    Crash(usize),
    /// The owner opens the volume again.
    Restart(usize),
    /// Another node takes over.
    TakeOver(usize),
    /// The DTL node's process dies.
    CrashKeeper,
    /// It starts.
    StartKeeper,
    /// The fence is on its disk.
    FenceStored,
    /// It takes the next frame of a connection.
    Up(usize),
    /// The same, and the disk is full.
    UpFull(usize),
    /// An owner takes the next answer of a connection.
    Down(usize),
    /// An owner gives up a connection.
    HangUp(usize),
    /// The DTL node gives up a connection.
    KeeperHangsUp(usize),
    /// Everything loses power; of the batches that the DTL node held, its disk has those from the
    /// first number on, and below the second.
    Blackout(usize, usize),
}

/// The bounds are the same in all states of a world: nothing to compare.
#[derive(Clone, Debug)]
struct Fixed(&'static Bounds);

impl PartialEq for Fixed {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Fixed {}

impl Hash for Fixed {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

/// See the top of the file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DtlWorld {
    bounds: Fixed,
    fault: Option<Fault>,
    nodes: Vec<Node>,
    tail: Tail,
    pipes: Vec<Pipe>,
    registry: Registry,
    backend: Vec<Batch>,
    oracle: Oracle,
    /// The log up to the last released batch.
    released: Vec<Batch>,
    /// The newest epoch that the DTL node has greeted.
    greeted: u8,
    written: u8,
    left: Budget,
    /// States that the registry was in, for the goals.
    was_degraded: bool,
    took_over: bool,
    dark: bool,
}

impl DtlWorld {
    /// Node 0 owns the volume.
    pub fn new(bounds: &'static Bounds, fault: Option<Fault>) -> Self {
        let tail =
            Tail { keeper: None, fence: 1, suspect: false, batches: Vec::new(), storing: None };
        let mut world = DtlWorld {
            bounds: Fixed(bounds),
            fault,
            nodes: vec![Node::default(); bounds.nodes],
            tail,
            pipes: Vec::new(),
            registry: Registry { owner: 0, served: 0, epoch: 1, state: bounds.state },
            backend: Vec::new(),
            oracle: Oracle::new(),
            released: Vec::new(),
            greeted: 1,
            written: 0,
            left: bounds.budget,
            was_degraded: false,
            took_over: false,
            dark: false,
        };
        world.start_keeper();
        world.open(0, false);
        world.serve(0).expect("nothing can break before anything happened");
        world
    }

    fn shell(&self, mistake: Shell) -> bool {
        self.fault == Some(Fault::Shell(mistake))
    }

    fn planted(&self) -> Option<Mutant> {
        match self.fault {
            Some(Fault::Machine(mutant)) => Some(mutant),
            _ => None,
        }
    }

    fn start_keeper(&mut self) {
        if self.shell(Shell::WipeAtRestart) {
            self.tail.batches.clear();
        }
        let mut held = self.tail.held();
        held.suspect &= !self.shell(Shell::TrustAfterPowerLoss);
        let mut keeper = Keeper::new(self.tail.fence.into(), held);
        if let Some(mutant) = self.planted() {
            plant_keeper(&mut keeper, mutant);
        }
        self.tail.keeper = Some(keeper);
    }

    /// A process that waits for the tail.
    fn open(&mut self, node: usize, keep_local: bool) {
        self.nodes[node].process = Some(Process {
            epoch: self.registry.epoch,
            link: None,
            keep_local,
            visible: 0,
            leased: true,
            ask: None,
            impatience: false,
            dial: None,
            copying: None,
        });
    }

    /// The node's log is what it has to be: serve it.
    fn serve(&mut self, node: usize) -> Result<(), Violation> {
        let last = end_of(&self.nodes[node].log);
        let sequence = self.backend.len();
        let saved = Saved { below: sequence as u32 + 1, sequence: sequence as u64 };
        let mut link = Link::new(Mode::Sync, self.registry.state, last, saved);
        if let Some(mutant) = self.planted() {
            plant_link(&mut link, mutant);
        }
        let mut actions = Vec::new();
        link.start(&mut actions);
        self.registry.served = node;
        let visible = value_of(&self.nodes[node].log);
        if let Some(process) = &mut self.nodes[node].process {
            (process.link, process.visible) = (Some(link), visible);
        }
        self.perform(node, actions)
    }

    fn serving(&self, node: usize) -> Option<&Process> {
        self.nodes[node].process.as_ref().filter(|process| process.link.is_some())
    }

    fn link(&self, node: usize) -> Option<&Link> {
        self.nodes[node].process.as_ref()?.link.as_ref()
    }

    fn node_moves(&self, node: usize, out: &mut Vec<Move>) {
        let left = &self.left;
        let Some(process) = &self.nodes[node].process else {
            let owner = self.registry.owner == node;
            if owner && left.restarts > 0 {
                out.push(Move::Restart(node));
            }
            let free = !owner || self.shell(Shell::PreferLocal);
            if free && left.takeovers > 0 && self.may_take_over() {
                out.push(Move::TakeOver(node));
            }
            return;
        };
        if left.crashes > 0 {
            out.push(Move::Crash(node));
        }
        if process.dial.is_some() && self.tail.keeper.is_some() {
            out.push(Move::Dial(node));
        }
        let Some(link) = &process.link else { return };
        let idle = !link.is_waiting();
        // A client that goes elsewhere has given up what it asked here.
        let asked_here = self.oracle.asked.is_some_and(|(_, asked, _)| asked == node);
        if left.writes > 0 && idle && !asked_here {
            out.push(Move::Write(node));
        }
        if left.reads > 0 {
            out.push(Move::Read(node));
        }
        if left.flushes > 0 && idle {
            out.push(Move::Flush(node));
        }
        if left.uploads > 0 && self.backend.len() < self.released_of(node) {
            out.push(Move::Upload(node));
        }
        if self.bounds.0.leases && process.leased && left.takeovers > 0 {
            out.push(Move::Expire(node));
        }
        if process.impatience {
            out.push(Move::Impatient(node));
        }
        if process.copying.is_some() {
            out.push(Move::Copy(node));
        }
        match process.ask {
            Some(ask) if ask.answer.is_none() => out.push(Move::Swap(node)),
            Some(_) => {
                out.push(Move::Answer(node));
                if left.lost_answers > 0 {
                    out.push(Move::LoseAnswer(node));
                }
            }
            None => {}
        }
    }

    /// Batches of a node's log that were released there.
    fn released_of(&self, node: usize) -> usize {
        let waiting = self.link(node).is_some_and(Link::is_waiting);
        self.nodes[node].log.len() - usize::from(waiting)
    }

    fn may_take_over(&self) -> bool {
        let in_sync = self.registry.state == State::InSync;
        let owner = self.nodes[self.registry.owner].process.as_ref();
        let gone = owner.is_none_or(|process| !process.leased);
        (in_sync || self.shell(Shell::TakeOverDegraded)) && (gone || !self.bounds.0.leases)
    }
}

#[cfg(feature = "mutants")]
fn plant_link(link: &mut Link, mutant: Mutant) {
    link.plant(mutant);
}

#[cfg(feature = "mutants")]
fn plant_keeper(keeper: &mut Keeper, mutant: Mutant) {
    keeper.plant(mutant);
}

#[cfg(not(feature = "mutants"))]
fn plant_link(_: &mut Link, mutant: Mutant) {
    panic!("built without the feature `mutants`, {mutant:?} cannot be planted");
}

#[cfg(not(feature = "mutants"))]
fn plant_keeper(_: &mut Keeper, mutant: Mutant) {
    panic!("built without the feature `mutants`, {mutant:?} cannot be planted");
}

impl World for DtlWorld {
    type Move = Move;

    fn moves(&self, out: &mut Vec<Move>) {
        for node in 0..self.nodes.len() {
            self.node_moves(node, out);
        }
        let left = &self.left;
        match self.tail.keeper {
            Some(_) if left.keeper_crashes > 0 => out.push(Move::CrashKeeper),
            Some(_) => {}
            None => out.push(Move::StartKeeper),
        }
        if self.tail.storing.is_some() && self.tail.keeper.is_some() {
            out.push(Move::FenceStored);
        }
        for (at, pipe) in self.pipes.iter().enumerate() {
            if pipe.keeper_open && (!pipe.up.is_empty() || !pipe.owner_open) {
                out.push(Move::Up(at));
                if left.full > 0 && matches!(pipe.up.first(), Some(Frame::Append(..))) {
                    out.push(Move::UpFull(at));
                }
            }
            let heard = !pipe.down.is_empty() || !pipe.keeper_open;
            let late = left.stale > 0 && !pipe.down.is_empty();
            if (pipe.owner_open && heard) || (!pipe.owner_open && late) {
                out.push(Move::Down(at));
            }
            if left.cuts > 0 && pipe.owner_open && pipe.keeper_open {
                out.push(Move::HangUp(at));
                out.push(Move::KeeperHangsUp(at));
            }
        }
        if left.blackouts > 0 {
            let held = self.tail.batches.len();
            out.push(Move::Blackout(0, 0));
            for from in 0..held {
                out.extend((from + 1..=held).map(|to| Move::Blackout(from, to)));
            }
        }
    }

    fn apply(&mut self, step: &Move) -> Result<(), Violation> {
        self.happen(*step)?;
        self.was_degraded |= self.registry.state != State::InSync;
        Ok(())
    }

    fn check(&self) -> Result<(), Violation> {
        for node in 0..self.nodes.len() {
            let Some(process) = self.serving(node) else { continue };
            let newest = process.epoch == self.registry.epoch;
            if (self.bounds.0.leases || newest) && !self.oracle.allows(process.visible) {
                let name = match (newest, self.dark) {
                    (false, _) => STALE,
                    (true, true) => KEPT,
                    (true, false) => LOST,
                };
                let text = format!("node {node} shows {}, {:?}", process.visible, self.oracle);
                return Err(Violation::new(name, text));
            }
        }
        if self.registry.state == State::InSync && !self.tail.suspect && !self.dark {
            let held = &self.tail.batches;
            let unsaved = self.released.iter().skip(self.backend.len());
            if let Some(missing) = unsaved.into_iter().find(|batch| !held.contains(batch)) {
                return Err(Violation::new(TRUE, format!("the DTL node lacks {missing:?}")));
            }
        }
        Ok(())
    }

    fn canonical(&mut self) {
        let stale = self.left.stale > 0;
        for pipe in self.pipes.iter_mut().filter(|pipe| !pipe.owner_open && !stale) {
            pipe.down.clear();
        }
        let live = |pipe: &Pipe| pipe.owner_open || pipe.keeper_open || !pipe.down.is_empty();
        self.pipes.retain(live);
        if self.left.takeovers == 0 && self.left.restarts == 0 && self.left.blackouts == 0 {
            // Nobody will ever open it again: what is kept for that no longer matters.
            for node in &mut self.nodes {
                if node.process.is_none() {
                    (node.log, node.synced) = (Vec::new(), 0);
                }
            }
        }
    }

    fn goals(&self) -> Vec<Goal<Self>> {
        let goals = self.bounds.0.goals.iter();
        goals.map(|(name, holds)| Goal { name, holds: *holds }).collect()
    }
}
