//! The world of a volume that is taken away from a host: two hosts with an Edge each, two engines
//! that may own the volume one after the other, and the record that says who has it.
//!
//! What hosts may do: look at the record, sooner or later, and make a token of what they saw there;
//! connect with whatever token they have, at any time (a host whose daemon is dead has an old one); ask
//! for writes, which the engine takes and executes later. What the owner may do: hear of the record's
//! generation, sooner or later; say in the record that it has shut out earlier ones; hand the volume
//! over, or die: the next one reads the record, and then opens the volume.
//!
//! A host may also let go of the volume itself, which the other one is given then: its Edge says
//! goodbye, and the record is changed when that is answered, or when it is given up. And a host may be
//! booted: its Edge is another one then, which knows nothing of the former one.
//!
//! The engine's door is the production machine; what is around it repeats `edge::server::doors` and,
//! of the daemon, `control/fencing.py` and `control/opening.py`. Requests of a former owner end with
//! it: that is the epoch's promise.

use std::sync::Arc;

use machines::edge::{Door, Guest, Mutant, Verdict};

use super::{Fixed, follow::fresh_door};
use crate::explore::{Goal, Violation, World};

pub(super) const TAKEN: &str = "who lost the volume writes no more";
pub(super) const STILL: &str = "what a host reads stays until it writes";
const HOSTS: usize = 2;

/// How much may happen in a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Bounds {
    /// The volume is taken from the host that has it, and given to the other one.
    pub(super) preempts: u8,
    /// The host that has it lets go of it, and it is given to the other one.
    pub(super) let_goes: u8,
    /// Connections of each host's Edges.
    pub(super) connections: u8,
    /// A host that has connections is booted.
    pub(super) boots: u8,
    /// Writes that are asked for.
    pub(super) writes: u8,
    /// The volume gets another owner.
    pub(super) owners: u8,
    /// The owner's daemon sees the record.
    pub(super) heard: bool,
}

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Move {
    /// The volume is given to the other host.
    Preempt,
    /// The Edge of the host that has it says goodbye, with or without unanswered writes.
    Leave {
        /// Some are.
        unanswered: bool,
    },
    /// Its daemon takes it out of the record, and the other host is given the volume.
    LetGo,
    /// The engine hears a goodbye, or finds that nobody is there any more (connection).
    Hear(usize),
    /// A host ends, and comes back.
    Boot(usize),
    /// A host's daemon reads the record.
    Look(usize),
    /// It makes a token of what it has read.
    Renew(usize),
    /// Its Edge connects with its token.
    Connect(usize),
    /// An engine hears a hello (connection).
    Knock(usize),
    /// The engine takes a write (connection).
    Ask(usize),
    /// It is executed (connection).
    Execute(usize),
    /// Nothing of a connection that ends can happen any more.
    Gone(usize),
    /// The owner's engine is told the generation.
    Tell,
    /// The record is told that it has shut out earlier ones.
    Confirm,
    /// The owner is another one, whose daemon has read the record.
    ChangeOwner,
    /// That opens the volume.
    Open,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Knocking,
    Waiting,
    Entered,
    /// It takes no more requests.
    Ending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Link {
    key: u32,
    host: usize,
    generation: u64,
    /// How often the volume had changed hands when its token was made.
    turn: u64,
    stage: Stage,
    /// Its Edge's boot.
    life: u8,
    /// The Edge has said goodbye on it, or is gone.
    left: bool,
    /// Writes that it had sent before that may still arrive.
    behind: bool,
    /// Taken and not executed.
    taken: u8,
}

/// A host's Edge has said goodbye.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Leaving {
    /// All that it had sent was answered.
    quiet: bool,
    /// Its connection that had been let in.
    key: Option<u32>,
}

/// What a host knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Known {
    /// The record's generation and turn when it was read, if the volume was attached there.
    seen: Option<(u64, u64)>,
    /// Of its Edge's token.
    token: Option<(u64, u64)>,
    connections: u8,
    /// Boots.
    life: u8,
    /// Its Edge was not let in since the last one.
    unsure: bool,
    leaving: Option<Leaving>,
}

/// A volume, its record, two hosts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct PreemptWorld {
    bounds: Fixed<Bounds>,
    mutant: Option<Mutant>,
    left: Bounds,
    /// The record: who has the volume, and the generation.
    attached: usize,
    generation: u64,
    /// How often the volume has changed hands, and in which turn each generation began.
    turn: u64,
    began: Vec<u64>,
    /// Hosts of earlier turns are known to have ended.
    ended: u64,
    /// Earlier generations are shut out, says the record; then a preempt is acknowledged.
    confirmed: u64,
    /// What the owner's engine was told.
    told: u64,
    /// `None`: it is opened by a daemon that has read this generation.
    door: Result<Door, u64>,
    hosts: [Known; HOSTS],
    links: Vec<Link>,
    next_key: u32,
    /// The latest turn of which a write was executed, and who did.
    executed: Option<(u64, usize)>,
    /// The latest turn, and life of the host in it, of which somebody was let in, and may have read.
    entered: (u64, u8),
    reopened: bool,
    turned_away: bool,
}

impl PreemptWorld {
    /// Host 0 has the volume, and has made its token.
    pub(super) fn new(bounds: &'static Bounds, mutant: Option<Mutant>) -> Self {
        let mut hosts = [Known::default(); HOSTS];
        hosts[0] = Known { seen: Some((0, 0)), token: Some((0, 0)), ..Known::default() };
        Self {
            bounds: Fixed(bounds),
            mutant,
            left: *bounds,
            attached: 0,
            generation: 0,
            turn: 0,
            began: vec![0],
            ended: 0,
            confirmed: 0,
            told: 0,
            door: Ok(fresh_door(mutant)),
            hosts,
            links: Vec::new(),
            next_key: 0,
            executed: None,
            entered: (0, 0),
            reopened: false,
            turned_away: false,
        }
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    fn look(&mut self, host: usize) {
        let has = self.attached == host || self.is(Mutant::TokenWithoutAttachment);
        self.hosts[host].seen = has.then_some((self.generation, self.turn));
    }

    /// The volume is given to the other host.
    fn change_hands(&mut self, raises: bool) {
        self.attached = 1 - self.attached;
        self.turn += 1;
        if raises {
            self.generation += 1;
            self.began.push(self.turn);
        }
    }

    /// The Edge of the host that has the volume says goodbye on all its connections, and its daemon
    /// makes no token any more.
    fn leave(&mut self, unanswered: bool) {
        let host = self.attached;
        let Known { life, unsure, .. } = self.hosts[host];
        let mut leaving = Leaving { quiet: !unanswered && !unsure, key: None };
        for link in self.links.iter_mut().filter(|link| (link.host, link.life) == (host, life)) {
            link.left = true;
            link.behind = unanswered && link.stage == Stage::Entered;
            // The last one says it for all: to be let in it had to wait for those before it.
            leaving.key = (link.stage == Stage::Entered).then_some(link.key);
        }
        (self.hosts[host].seen, self.hosts[host].token) = (None, None);
        self.hosts[host].leaving = Some(leaving);
    }

    /// The power of a host fails; what it had sent may still arrive.
    fn boot(&mut self, host: usize) {
        self.left.boots -= 1;
        for link in self.links.iter_mut().filter(|link| link.host == host && !link.left) {
            link.left = true;
            link.behind = link.stage == Stage::Entered;
        }
        let Known { connections, life, .. } = self.hosts[host];
        let life = life + 1;
        self.hosts[host] = Known { connections, life, unsure: true, ..Known::default() };
    }

    /// As `policy/fencing.py`: the generation stays only where all is known to have ended.
    fn let_go(&mut self) {
        self.left.let_goes -= 1;
        let Some(Leaving { quiet, key }) = self.hosts[self.attached].leaving.take() else { return };
        let gone = |key| !self.links.iter().any(|link| link.key == key);
        let certain = quiet || key.is_some_and(gone);
        self.change_hands(!certain && !self.is(Mutant::KeepGeneration));
        if certain {
            self.ended = self.turn;
        }
    }

    fn knock(&mut self, at: usize) {
        let Link { key, host, generation, life, .. } = self.links[at];
        let Ok(door) = &mut self.door else {
            self.links.remove(at);
            return;
        };
        let edge = [life << 4 | host as u8; 16];
        let guest = Guest { host: name_of(host), edge, connection: u64::from(key), generation };
        match door.knock(key, guest) {
            Verdict::Enter => self.enter(at),
            Verdict::Wait { end } => {
                self.links[at].stage = Stage::Waiting;
                self.end(&end);
            }
            Verdict::TooLate => drop(self.links.remove(at)),
            Verdict::ShutOut { .. } => {
                self.turned_away |= self.reopened;
                self.links.remove(at);
            }
        }
    }

    fn end(&mut self, keys: &[u32]) {
        for link in self.links.iter_mut().filter(|link| keys.contains(&link.key)) {
            link.stage = Stage::Ending;
        }
    }

    fn gone(&mut self, at: usize) {
        let key = self.links.remove(at).key;
        let Ok(door) = &mut self.door else { return };
        for entering in door.gone(key) {
            if let Some(at) = self.links.iter().position(|link| link.key == entering) {
                self.enter(at);
            }
        }
    }

    fn enter(&mut self, at: usize) {
        self.links[at].stage = Stage::Entered;
        let Link { host, turn, life, left, .. } = self.links[at];
        if !left {
            self.entered = self.entered.max((turn, life));
            self.hosts[host].unsure = false;
        }
    }

    fn execute(&mut self, at: usize) -> Result<(), Violation> {
        let link = &mut self.links[at];
        link.taken -= 1;
        let Link { turn, host, life, .. } = *link;
        // The hosts take turns: each has the volume in every other one.
        let has = |turn| turn % HOSTS as u64 == host as u64;
        let ended = self.ended.max(self.began[self.confirmed as usize]);
        if turn < ended || !(ended..=self.turn).any(has) {
            let text = format!(
                "a write of host {host} and turn {turn} is executed after {ended} was acknowledged"
            );
            return Err(Violation::new(TAKEN, text));
        }
        if self.entered > (turn, life) {
            let text = format!(
                "host {host} of turn {turn}, booted {life} times, writes; one of {:?} reads",
                self.entered
            );
            return Err(Violation::new(STILL, text));
        }
        self.executed = Some((turn, host));
        Ok(())
    }

    fn open(&mut self, read: u64) {
        let mut door = fresh_door(self.mutant);
        if !self.is(Mutant::ForgetGeneration) {
            door.raise(read);
        }
        self.told = read;
        self.door = Ok(door);
        self.reopened = true;
    }

    /// The one that has the volume has written, and everybody was shut out who had lost it.
    pub(super) fn is_done(&self) -> bool {
        let written = self.executed == Some((self.turn, self.attached));
        let told = !self.bounds.0.heard || self.confirmed == self.generation;
        let happened = self.left.preempts == 0 && self.left.let_goes == 0 && self.left.boots == 0;
        happened && written && told
    }

    /// A host that has let go and was certain left the others their tokens.
    pub(super) fn goes_on(&self) -> bool {
        self.is_done() && self.generation < self.turn
    }

    /// A host that lost the volume is turned away by another owner than the one that it lost it at.
    pub(super) fn turns_away_elsewhere(&self) -> bool {
        self.turned_away
    }

    /// A host that was booted waits for what it had asked for before.
    pub(super) fn waits_for_itself(&self) -> bool {
        let waiting = self.links.iter().filter(|link| link.stage == Stage::Waiting && !link.left);
        let mut of_itself = waiting.flat_map(|waiting| {
            let before = |link: &&Link| link.host == waiting.host && link.life < waiting.life;
            self.links.iter().filter(before)
        });
        of_itself.any(|link| link.taken > 0)
    }

    /// A connection of a later generation waits for one of an earlier one.
    pub(super) fn waits(&self) -> bool {
        let waiting = self.links.iter().find(|link| link.stage == Stage::Waiting);
        waiting.is_some_and(|waiting| {
            let earlier = |link: &&Link| link.generation < waiting.generation;
            self.links.iter().filter(earlier).any(|link| link.taken > 0)
        })
    }
}

fn name_of(host: usize) -> Arc<str> {
    ["a", "b"][host].into()
}

impl World for PreemptWorld {
    type Move = Move;

    fn moves(&self, out: &mut Vec<Move>) {
        if self.left.preempts > 0 {
            out.push(Move::Preempt);
        }
        if self.left.let_goes > 0 {
            let now = (self.attached, self.hosts[self.attached].life);
            let mut mine = self.links.iter().filter(|link| (link.host, link.life) == now);
            if self.hosts[self.attached].leaving.is_some() {
                out.push(Move::LetGo);
            } else {
                out.push(Move::Leave { unanswered: true });
                if mine.all(|link| link.taken == 0) {
                    out.push(Move::Leave { unanswered: false });
                }
            }
        }
        for (host, known) in self.hosts.iter().enumerate() {
            if known.leaving.is_none() {
                out.push(Move::Look(host));
            }
            if self.left.boots > 0 && known.connections > 0 {
                out.push(Move::Boot(host));
            }
            if known.seen.is_some() && known.seen != known.token {
                out.push(Move::Renew(host));
            }
            if known.token.is_some() && known.connections < self.bounds.0.connections {
                out.push(Move::Connect(host));
            }
        }
        for (at, link) in self.links.iter().enumerate() {
            match link.stage {
                Stage::Knocking => out.push(Move::Knock(at)),
                Stage::Entered if link.left => {
                    out.push(Move::Hear(at));
                    // What was sent before the goodbye is taken before it is heard.
                    if self.left.writes > 0 && link.behind {
                        out.push(Move::Ask(at));
                    }
                }
                Stage::Entered if self.left.writes > 0 => out.push(Move::Ask(at)),
                Stage::Ending if link.taken == 0 => out.push(Move::Gone(at)),
                _ => {}
            }
            if link.taken > 0 {
                out.push(Move::Execute(at));
            }
        }
        match &self.door {
            Ok(door) if self.bounds.0.heard => {
                if self.told < self.generation {
                    out.push(Move::Tell);
                }
                if self.confirmed < self.told && door.is_settled() {
                    out.push(Move::Confirm);
                }
            }
            Ok(_) => {}
            Err(_) => out.push(Move::Open),
        }
        if self.left.owners > 0 {
            out.push(Move::ChangeOwner);
        }
    }

    fn apply(&mut self, step: &Move) -> Result<(), Violation> {
        match *step {
            Move::Preempt => {
                self.left.preempts -= 1;
                self.hosts[self.attached].leaving = None;
                self.change_hands(true);
            }
            Move::Leave { unanswered } => self.leave(unanswered),
            Move::LetGo => self.let_go(),
            Move::Hear(at) => self.links[at].stage = Stage::Ending,
            Move::Boot(host) => self.boot(host),
            Move::Look(host) => self.look(host),
            Move::Renew(host) => self.hosts[host].token = self.hosts[host].seen,
            Move::Connect(host) => {
                let known = &mut self.hosts[host];
                known.connections += 1;
                let (generation, turn) = known.token.unwrap_or_default();
                let life = known.life;
                let (key, stage) = (self.next_key, Stage::Knocking);
                self.next_key += 1;
                self.links.push(Link {
                    key,
                    host,
                    generation,
                    turn,
                    stage,
                    life,
                    left: false,
                    behind: false,
                    taken: 0,
                });
            }
            Move::Knock(at) => self.knock(at),
            Move::Ask(at) => {
                self.left.writes -= 1;
                self.links[at].taken += 1;
            }
            Move::Execute(at) => self.execute(at)?,
            Move::Gone(at) => self.gone(at),
            Move::Tell => {
                self.told = self.generation;
                if let Ok(door) = &mut self.door {
                    let earlier = door.raise(self.told);
                    self.end(&earlier);
                }
            }
            Move::Confirm => self.confirmed = self.told,
            Move::ChangeOwner => {
                self.left.owners -= 1;
                self.door = Err(self.generation);
                self.links.retain(|link| link.stage == Stage::Knocking);
            }
            Move::Open => {
                if let Err(read) = self.door {
                    self.open(read);
                }
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Violation> {
        Ok(())
    }

    fn goals(&self) -> Vec<Goal<Self>> {
        let mut goals: Vec<Goal<Self>> = vec![
            Goal {
                name: "the host that was given the volume last has written",
                holds: Self::is_done,
            },
            Goal { name: "a later generation waits for an earlier one", holds: Self::waits },
        ];
        if self.bounds.0.let_goes > 0 {
            let name = "a host that is certain lets go without a new generation";
            goals.push(Goal { name, holds: Self::goes_on });
        }
        if self.bounds.0.boots > 0 {
            let name = "a host that was booted waits for what it had asked for before";
            goals.push(Goal { name, holds: Self::waits_for_itself });
        }
        if self.left.owners > 0 {
            let name = "the next owner turns away who lost the volume";
            goals.push(Goal { name, holds: Self::turns_away_elsewhere });
        }
        goals
    }
}
