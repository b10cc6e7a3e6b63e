//! The world of warm maps ([`machines::mds`]): owners of a volume one after the other (a former one
//! may not know that it is one), a node that follows the map, a backend, and all that can go wrong
//! between them.
//!
//! Connections deliver in order or break; each side notices the end by itself. Beside that, a frame
//! may be left out: a follower has to notice what its feeder did wrong, too. A next owner goes on
//! from any part of the log that the backend may not lack: unsynced batches may be lost, or given
//! up by a person, and other ones written in their place. A SCO has two batches.

mod parts;
mod scenarios;
mod steps;

use std::hash::{Hash, Hasher};

use machines::mds::Mutant;
use machines::mds::follower::Follower;

use crate::explore::{Goal, Violation, World};
use parts::{Backend, Frame, Owner, Pipe, content_of};

pub use scenarios::scenarios;

const EXACT: &str = "a follower has the map of the sequence that it names";
const TAKEN: &str = "a map that is taken is what recovery finds";
const FED: &str = "an owner feeds who stands in its log, all of it";
const FENCE: &str = "a former owner feeds nobody who knows a newer one";
const LAG: &str = "what is on its way to a follower is bounded";

/// A planted fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// In a machine.
    Machine(Mutant),
    /// The next owner takes the follower's map without a look at the log.
    TakeUnverified,
}

/// How much may happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Batches.
    pub writes: u8,
    /// SCOs that reach the backend.
    pub uploads: u8,
    /// Checkpoints.
    pub checkpoints: u8,
    /// SCOs that leave the write buffer.
    pub evictions: u8,
    /// Connections that are made.
    pub dials: u8,
    /// Connections that one side gives up.
    pub cuts: u8,
    /// Frames that are left out.
    pub omissions: u8,
    /// Deaths of the follower's process.
    pub crashes: u8,
    /// Owners that begin.
    pub owners: u8,
}

/// The fixed part of a world.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Frames that may be on their way.
    pub frames: usize,
    /// How much may happen.
    pub budget: Budget,
    /// What must be reached.
    pub goals: Vec<Wanted>,
}

/// Something that must be reached, and how to tell that a world has.
pub type Wanted = (&'static str, fn(&MdsWorld) -> bool);

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// An owner appends a batch.
    Append(usize),
    /// It is released.
    Release(usize),
    /// The newest owner's next SCO gets to the backend.
    Upload,
    /// It stores a checkpoint.
    Checkpoint,
    /// Its oldest SCO leaves the write buffer.
    Evict,
    /// An owner connects.
    Dial(usize),
    /// The follower takes the next frame of a connection, or notices its end.
    Up(usize),
    /// An owner does.
    Down(usize),
    /// An owner gives up its connection.
    HangUp(usize),
    /// The follower gives up a connection.
    FollowerHangsUp(usize),
    /// An owner leaves out the next frame.
    Omit(usize),
    /// What the follower asked the backend for is there.
    Load,
    /// The follower's process dies.
    Crash,
    /// It starts.
    Start,
    /// Another owner goes on from so many batches of the newest one's log.
    Begin(usize),
    /// The follower's node does, and that is the end.
    Take(usize),
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

/// How the follower's node became the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Taken {
    /// With the map as it was.
    Warm,
    /// With the map, and what came after its place.
    Completed,
    /// Without: the map was none of the log.
    Refused,
    /// There was no map.
    Cold,
}

/// See the top of the file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MdsWorld {
    bounds: Fixed,
    fault: Option<Fault>,
    /// The newest is the last.
    owners: Vec<Owner>,
    backend: Backend,
    follower: Option<Follower>,
    /// The follower waits for the backend.
    loading: bool,
    pipes: Vec<Pipe>,
    next_pipe: u32,
    /// The newest epoch that has said hello to this life of the follower.
    greeted: u64,
    left: Budget,
    taken: Option<Taken>,
    /// For the goals.
    reloaded: bool,
    let_go: bool,
}

impl MdsWorld {
    /// One owner with an empty log.
    pub fn new(bounds: &'static Bounds, fault: Option<Fault>) -> Self {
        let mut world = MdsWorld {
            bounds: Fixed(bounds),
            fault,
            owners: Vec::new(),
            backend: Backend::default(),
            follower: None,
            loading: false,
            pipes: Vec::new(),
            next_pipe: 1,
            greeted: 0,
            left: bounds.budget,
            taken: None,
            reloaded: false,
            let_go: false,
        };
        world.begin(Vec::new());
        world.start();
        world
    }

    fn planted(&self) -> Option<Mutant> {
        match self.fault {
            Some(Fault::Machine(mutant)) => Some(mutant),
            _ => None,
        }
    }

    fn newest(&self) -> &Owner {
        self.owners.last().expect("there is always one")
    }

    fn owner_moves(&self, number: usize, out: &mut Vec<Move>) {
        let (owner, left) = (&self.owners[number], &self.left);
        if owner.released < owner.log.len() {
            out.push(Move::Release(number));
        } else if left.writes > 0 {
            out.push(Move::Append(number));
        }
        if owner.connection.is_none() && left.dials > 0 && self.follower.is_some() {
            out.push(Move::Dial(number));
        }
    }

    fn pipe_moves(&self, at: usize, out: &mut Vec<Move>) {
        let (pipe, left) = (&self.pipes[at], &self.left);
        // What came on a connection that was given up meanwhile may still be looked at.
        if !pipe.up.is_empty() || (pipe.follower_open && !pipe.owner_open) {
            out.push(Move::Up(at));
        }
        if pipe.owner_open && (!pipe.down.is_empty() || !pipe.follower_open) {
            out.push(Move::Down(at));
        }
        if left.omissions > 0 && matches!(pipe.up.first(), Some(Frame::Fed(_))) {
            out.push(Move::Omit(at));
        }
        if left.cuts > 0 && pipe.owner_open && pipe.follower_open {
            out.push(Move::HangUp(at));
            out.push(Move::FollowerHangsUp(at));
        }
    }
}

impl World for MdsWorld {
    type Move = Move;

    fn moves(&self, out: &mut Vec<Move>) {
        if self.taken.is_some() {
            return;
        }
        for number in 0..self.owners.len() {
            self.owner_moves(number, out);
        }
        for at in 0..self.pipes.len() {
            self.pipe_moves(at, out);
        }
        let left = &self.left;
        if left.uploads > 0 && self.uploadable().is_some() {
            out.push(Move::Upload);
        }
        if left.checkpoints > 0 && self.backend.has_new() {
            out.push(Move::Checkpoint);
        }
        if left.evictions > 0 && self.evictable().is_some() {
            out.push(Move::Evict);
        }
        if self.loading {
            out.push(Move::Load);
        }
        match &self.follower {
            Some(_) if left.crashes > 0 => out.push(Move::Crash),
            None => out.push(Move::Start),
            Some(_) => {}
        }
        // What the backend has is never given up.
        let from = self.backend.batches.len();
        let lengths = from..=self.newest().log.len();
        if left.owners > 0 {
            out.extend(lengths.clone().map(Move::Begin));
        }
        if self.follower.is_some() {
            out.extend(lengths.map(Move::Take));
        }
    }

    fn apply(&mut self, step: &Move) -> Result<(), Violation> {
        self.happen(*step)
    }

    fn check(&self) -> Result<(), Violation> {
        for owner in &self.owners {
            let (_, frames) = owner.feed.unanswered();
            if frames > self.bounds.0.frames {
                return Err(Violation::new(LAG, format!("{frames} frames are on their way")));
            }
        }
        let Some(follower) = &self.follower else { return Ok(()) };
        if follower.fence() < self.greeted {
            let text = format!("it listens to {}, and knows {}", follower.fence(), self.greeted);
            return Err(Violation::new(FENCE, text));
        }
        let Some(end) = follower.end() else { return Ok(()) };
        let logs = self.owners.iter().map(|owner| &owner.log);
        let log = logs.into_iter().find_map(|log| parts::up_to(log, end));
        let Some(log) = log else {
            return Err(Violation::new(EXACT, format!("it names {end:?}, which nobody wrote")));
        };
        let (there, wanted) = (follower.content(), content_of(log));
        if there.as_ref() != Some(&wanted) {
            let text = format!("at {end:?} it has {there:?}, and the log says {wanted:?}");
            return Err(Violation::new(EXACT, text));
        }
        Ok(())
    }

    fn goals(&self) -> Vec<Goal<Self>> {
        let wanted = self.bounds.0.goals.iter();
        wanted.map(|(name, holds)| Goal { name, holds: *holds }).collect()
    }
}
