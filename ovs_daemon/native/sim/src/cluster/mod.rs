//! A whole cluster in one thread, from one seed.
//!
//! Several nodes, their disks, the network between them, the registry, the backend, and a guest
//! behind an Edge. Production code decides: `machines::volume`, `machines::dtl` (both sides),
//! `machines::edge` (session and door), and reads and writes what is stored: `buffer` (batches,
//! recovery), `dtl` (what a DTL node holds, its fence, what a fetched tail is worth), `volume`
//! (opening, objects, checkpoints), `alba` (verified reads). Modelled are: what performs the
//! machines' actions on a shard (`volume::perform`, `volume::dtl`, `dtl::Server`, `edge::server`
//! drive io_uring), here in `owner`, `reads`, `link`, `keeper` and `sessions`; the daemon's
//! decisions, which are Python, in `policy` and `steward`; the registry and the backend.
//!
//! What is not simulated: parts of clusters (the shell's read-modify-write), snapshots and clones,
//! several volumes, a page cache that the kernel writes back by itself. A whole event is one step:
//! a process is never frozen between looking at its lease and sending an answer.
//!
//! Faults are drawn from the seed (`plan`, `faults`). First there is chaos, and what a guest sees
//! must be what it wrote (`oracle`, `promise`). Then all is mended: the cluster must come to rest,
//! with every request answered and the log in sync, and the whole volume is read. Then all power is
//! lost at once, and everything is read again.
//!
//! The same seed gives the same trace, to the byte.

mod disk;
mod event;
mod faults;
mod guest;
mod keeper;
mod link;
pub mod mutants;
mod net;
mod objects;
mod opening;
mod oracle;
mod owner;
mod plan;
mod policy;
mod promise;
mod reads;
mod registry;
mod sessions;
mod steward;
mod witness;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use format::entry::Uuid;
use machines::dtl::link::Mode;
use machines::dtl::{Held, State};
use machines::edge::{Door, Session};

use crate::explore::Violation;
use crate::fingerprint::fingerprint;
use crate::random::Random;
use disk::SimDisk;
use event::{Event, Queue};
use guest::{ENTRIES, Guest};
use keeper::Kept;
use net::Conn;
use objects::Objects;
use oracle::Oracle;
use owner::Owner;
use plan::Plan;
pub use plan::describe;
use policy::{Home, Record, View};
use promise::Promise;
use registry::Registry;
use steward::Daemon;
use witness::Witness;

/// A node, or the guest's host, or the registry's.
pub(crate) type Host = usize;

/// A millisecond and a second, in the simulation's microseconds.
const MS: u64 = 1_000;
const S: u64 = 1_000_000;

/// The volume.
const LOG: Uuid = [0x11; 16];
const NAME: &str = "11111111-1111-1111-1111-111111111111";

/// A mistake of what surrounds the machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shell {
    /// The end of the lease is not looked at.
    IgnoreLease,
    /// A volume is taken over although its log is not in sync.
    TakeOverDegraded,
    /// What lost power is not known to be suspect.
    TrustAfterPowerLoss,
    /// A node that served last does not ask its DTL node.
    PreferLocal,
    /// What was recovered is served before it is synced.
    ServeUnsynced,
    /// The folder of the write buffer is not synced when a file is made.
    ForgetFolder,
    /// A node does not notice that it lost power, or has another disk.
    ForgetHome,
    /// A node that takes over reads what the DTL node has, and does not fence it.
    NoFence,
    /// The record takes a state from any epoch.
    SwapAnyEpoch,
}

/// A planted fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// In the volume's machine.
    Volume(machines::volume::Mutant),
    /// In the DTL's machines.
    Dtl(machines::dtl::Mutant),
    /// In the Edge's machines.
    Edge(machines::edge::Mutant),
    /// Around them.
    Shell(Shell),
}

#[cfg(feature = "mutants")]
fn plant_session(session: &mut Session, planted: Option<Planted>) {
    if let Some(Planted::Edge(mutant)) = planted {
        session.plant(mutant);
    }
}

#[cfg(feature = "mutants")]
fn plant_door(door: &mut Door, planted: Option<Planted>) {
    if let Some(Planted::Edge(mutant)) = planted {
        door.plant(mutant);
    }
}

#[cfg(not(feature = "mutants"))]
fn plant_session(_: &mut Session, _: Option<Planted>) {}

#[cfg(not(feature = "mutants"))]
fn plant_door(_: &mut Door, _: Option<Planted>) {}

/// What happened in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Stats {
    pub events: u64,
    pub writes: u64,
    pub flushes: u64,
    pub answers: u64,
    pub errors: u64,
    pub faults: u64,
    pub openings: u64,
    pub handed_on: u64,
    pub in_sync: u64,
    pub blackouts: u64,
    pub stranded: u64,
    /// Simulated microseconds.
    pub time_us: u64,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What the seed stands for.
    pub plan: String,
    /// A fingerprint of every line of the trace.
    pub trace: u128,
    /// What happened.
    pub stats: Stats,
    /// What was wrong.
    pub violation: Option<Violation>,
}

struct Node {
    disk: SimDisk,
    /// Its process runs (or is frozen).
    up: bool,
    powered: bool,
    /// Which boot, and which disk.
    home: Home,
    paused_until: u64,
    life: u32,
    /// Its disk is so many times slower.
    slow: u64,
    full: bool,
    owner: Option<Box<Owner>>,
    kept: Option<Kept>,
    daemon: Daemon,
    /// What the DTL node said that the log is fetched from.
    greeted: Option<Held>,
    /// Jobs of worker threads, by opening.
    jobs: BTreeMap<u32, u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Chaos,
    /// The cluster has to come to rest until then.
    Healing {
        until: u64,
    },
    /// Everything is read.
    Verifying {
        until: u64,
    },
    Over,
}

/// Takes each line of the trace.
pub type Sink<'a> = dyn FnMut(&str) + 'a;

struct Cluster<'a> {
    now: u64,
    queue: Queue,
    random: Random,
    plan: Plan,
    planted: Option<Planted>,
    nodes: Vec<Node>,
    conns: BTreeMap<u32, Conn>,
    next_conn: u32,
    next_read: u64,
    next_serial: u32,
    /// The epoch under which a write was completed last.
    newest: u64,
    cuts: BTreeSet<(Host, Host)>,
    registry: Registry,
    objects: Objects,
    guest: Guest,
    oracle: Oracle,
    promise: Promise,
    witness: Witness,
    phase: Phase,
    /// All power was lost in the end.
    was_dark: bool,
    stats: Stats,
    violation: Option<Violation>,
    trace: u128,
    line: String,
    sink: Option<&'a mut Sink<'a>>,
    scratch: Vec<u8>,
}

/// Runs a seed to its end.
pub fn run<'a>(seed: u64, planted: Option<Planted>, sink: Option<&'a mut Sink<'a>>) -> Outcome {
    let mut cluster = Cluster::new(seed, planted, sink);
    let plan = cluster.plan.to_string();
    cluster.say(format_args!("seed {seed}: {plan}"));
    let ran = catch_unwind(AssertUnwindSafe(|| cluster.live()));
    if let Err(panic) = ran {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or(panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        cluster.fail("nothing panics", text.unwrap_or_default());
    }
    cluster.stats.time_us = cluster.now;
    let Cluster { trace, stats, violation, .. } = cluster;
    Outcome { plan, trace, stats, violation }
}

impl<'a> Cluster<'a> {
    fn new(seed: u64, planted: Option<Planted>, sink: Option<&'a mut Sink<'a>>) -> Self {
        let mut random = Random::new(seed);
        let mut plan = Plan::draw(&mut random);
        plan.spoil_clocks(&mut Random::new(seed ^ 0xc10c));
        plan.usurp(&mut Random::new(seed ^ 0x05a7));
        let count = plan.domains.len();
        let owner = random.index(count);
        let record = Record {
            owner,
            epoch: 0,
            served: owner,
            keeper: None,
            state: State::Standalone,
            mode: plan.mode,
            home: None,
            saved: false,
        };
        let mut session = Session::restored(ENTRIES, 0, false);
        plant_session(&mut session, planted);
        let mut cluster = Cluster {
            now: 0,
            queue: Queue::default(),
            nodes: (0..count).map(|_| Node::new()).collect(),
            conns: BTreeMap::new(),
            next_conn: 1,
            next_read: 0,
            next_serial: 0,
            newest: 0,
            cuts: BTreeSet::new(),
            registry: Registry::new(record, count),
            objects: Objects::default(),
            guest: Guest::new(plan.lbas.clone(), session),
            oracle: Oracle::new(plan.lbas.len(), plan.lying),
            promise: Promise::default(),
            witness: Witness::default(),
            phase: Phase::Chaos,
            was_dark: false,
            stats: Stats::default(),
            violation: None,
            trace: 0,
            line: String::new(),
            sink,
            scratch: Vec::new(),
            random,
            plan,
            planted,
        };
        cluster.begin();
        cluster
    }

    fn live(&mut self) {
        while self.phase != Phase::Over && self.violation.is_none() {
            let Some((at, event)) = self.queue.take() else { break };
            self.now = at;
            self.stats.events += 1;
            self.happen(event);
        }
    }

    fn begin(&mut self) {
        for node in 0..self.nodes.len() {
            self.at(0, Event::Boot { node });
        }
        self.at(200 * MS, Event::EdgeLook);
        self.at(S, Event::Guest);
        self.at(500 * MS, Event::Check);
        if !self.plan.faults.is_empty() {
            self.at(2 * S, Event::Fault);
        }
        if self.plan.usurped {
            self.at(2 * S, Event::Usurp);
        }
        let chaos = self.plan.chaos;
        self.at(chaos, Event::Heal);
        self.edge_step(machines::edge::Message::Start);
    }

    fn at(&mut self, at: u64, event: Event) {
        self.queue.put(at.max(self.now), event);
    }

    /// A line of the trace.
    fn say(&mut self, text: fmt::Arguments<'_>) {
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        let written = write!(line, "{:>4}.{:06} {text}", self.now / S, self.now % S);
        debug_assert!(written.is_ok(), "writing to a string succeeds");
        self.trace = fingerprint(&(self.trace, line.as_str()), 0);
        if let Some(sink) = &mut self.sink {
            sink(&line);
        }
        self.line = line;
    }

    fn fail(&mut self, invariant: &'static str, text: String) {
        if self.violation.is_none() {
            self.say(format_args!("VIOLATED: {invariant}: {text}"));
            self.violation = Some(Violation::new(invariant, text));
        }
    }

    fn shell(&self, mistake: Shell) -> bool {
        self.planted == Some(Planted::Shell(mistake))
    }

    fn edge_host(&self) -> Host {
        self.nodes.len()
    }

    fn registry_host(&self) -> Host {
        self.nodes.len() + 1
    }

    fn is_up(&self, host: Host) -> bool {
        self.nodes.get(host).is_none_or(|node| node.up)
    }

    fn has_power(&self, host: Host) -> bool {
        self.nodes.get(host).is_none_or(|node| node.powered)
    }

    fn is_paused(&self, host: Host) -> bool {
        self.nodes.get(host).is_some_and(|node| node.paused_until > self.now)
    }

    fn life(&self, host: Host) -> u32 {
        self.nodes.get(host).map_or(0, |node| node.life)
    }

    /// The time by a node's own clock.
    fn local(&self, node: Host) -> u64 {
        let rate = (1_000_000 + self.plan.clocks[node]) as u64;
        (u128::from(self.now) * u128::from(rate) / 1_000_000) as u64
    }

    /// When a node's own clock shows this.
    fn when(&self, node: Host, local: u64) -> u64 {
        let rate = (1_000_000 + self.plan.clocks[node]) as u64;
        (u128::from(local) * 1_000_000 / u128::from(rate)) as u64 + 2
    }

    fn disk_delay(&self, node: Host, usual: u64) -> u64 {
        usual * self.nodes[node].slow
    }

    fn happen(&mut self, event: Event) {
        if let Some((host, life)) = event.process()
            && host < self.nodes.len()
        {
            if self.life(host) != life || !self.nodes[host].up {
                return;
            }
            if self.is_paused(host) {
                let at = self.nodes[host].paused_until;
                return self.at(at, event);
            }
        }
        match event {
            Event::Wire { conn, to } => self.wire(conn, to),
            Event::Asked { from, life, purpose, ask } => self.asked(from, life, purpose, ask),
            Event::Told { to, purpose, answer, .. } => self.told(to, purpose, answer),
            Event::Expire => self.expire(),
            Event::Beat { node, .. } => self.beat(node),
            Event::Tend { node, .. } => self.tend(node),
            Event::LeaseEnd { node, .. } => self.check_lease(node),
            Event::FetchPatience { node, conn, .. } => self.fetch_patience(node, conn),
            Event::Propose { node, .. } => self.ask_again(node),
            Event::Fence { node, .. } => self.store_fence(node),
            Event::Boot { node } => self.boot(node),
            Event::Guest => self.guest_asks(),
            Event::EdgeTimer { token } => self.edge_timer(token),
            Event::EdgePatience { conn } => self.edge_patience(conn),
            Event::EdgeLost { generation } => {
                self.edge_step(machines::edge::Message::Lost { generation });
            }
            Event::EdgeLook => self.edge_look(),
            Event::Fault => self.fault(),
            Event::Usurp => self.usurp(),
            Event::Mend(mend) => self.mend(mend),
            Event::Heal => self.heal(),
            Event::Check => self.check(),
            Event::Work { node, serial, work, .. } => self.work(node, serial, work),
            Event::Worked { node, serial, outcome, .. } => {
                self.check_lease(node);
                if let Some(jobs) = self.nodes[node].jobs.get_mut(&serial) {
                    *jobs -= 1;
                }
                if self.owner(node).is_some_and(|owner| owner.serial == serial) {
                    self.worked(node, outcome);
                }
            }
            Event::Timer { node, serial, clock, token, .. } => {
                self.check_lease(node);
                if self.owner(node).is_some_and(|owner| owner.serial == serial) {
                    self.time(node, clock, token);
                }
            }
        }
    }

    /// At every half second: the daemons and the guest's host look around, and in the end
    /// somebody looks whether the cluster has come to rest.
    fn check(&mut self) {
        self.at(self.now + 500 * MS, Event::Check);
        for node in 0..self.nodes.len() {
            let life = self.life(node);
            let at = self.now + self.random.below(100 * MS);
            self.at(at, Event::Tend { node, life });
        }
        if self.random.chance(1, 2) {
            self.edge_look();
        }
        match self.phase {
            Phase::Chaos | Phase::Over => {}
            Phase::Healing { until } => {
                if self.rests() {
                    self.say(format_args!("the cluster has come to rest"));
                    self.phase = Phase::Verifying { until: self.now + 60 * S };
                    self.verify(true);
                } else if self.now > until {
                    self.restless();
                }
            }
            Phase::Verifying { until } => {
                if self.guest.is_idle() {
                    self.verify(false);
                } else if self.now > until {
                    self.restless();
                }
            }
        }
    }

    /// It should be at rest and is not. Where disks lie a volume may be beyond repair; and an owner
    /// whose disk is gone, and with its last words said that its log is degraded, needs a person.
    fn restless(&mut self) {
        if self.plan.lying || self.promise.thin {
            self.stats.stranded += 1;
            self.phase = Phase::Over;
            return;
        }
        let record = self.registry.record;
        let owner = self.nodes[record.owner].owner.as_deref();
        let serving = owner.map(|owner| (owner.epoch, owner.stopped, owner.machine.stall()));
        let text = format!(
            "{} requests wait, {record:?}, the owner serves {serving:?}",
            self.guest.waits()
        );
        self.fail("a healed cluster comes to rest", text);
    }

    /// The owner serves, nobody waits, and the log is where it should be.
    fn rests(&self) -> bool {
        let record = self.registry.record;
        let owner = self.nodes[record.owner].owner.as_deref();
        let serves = owner.is_some_and(|owner| {
            owner.epoch == record.epoch && owner.stopped.is_none() && !owner.quiesced
        });
        let alive = vec![true; self.nodes.len()];
        let view =
            View { alive: &alive, domains: &self.plan.domains, recovery: &self.plan.recovery };
        let in_sync = match record.mode {
            Mode::Sync => record.state == State::InSync || record.keeper.is_none(),
            // What is copied late shows in the record when there is something to copy.
            Mode::Async | Mode::None => true,
        };
        serves && self.guest.is_idle() && in_sync && view.pairing(&record).is_none()
    }

    fn verify(&mut self, begin: bool) {
        let mut more = self.guest_verifies(begin);
        while more && self.violation.is_none() && !self.guest.is_busy() {
            more = self.guest_verifies(false);
        }
        if more || !self.guest.is_idle() || self.violation.is_some() {
            return;
        }
        if self.was_dark || self.plan.lying {
            self.say(format_args!("over"));
            self.phase = Phase::Over;
            return;
        }
        self.was_dark = true;
        let all: Vec<Host> = (0..self.nodes.len()).collect();
        self.lose_power(&all, S);
        self.phase = Phase::Healing { until: self.now + 180 * S };
    }
}

impl Node {
    fn new() -> Self {
        Node {
            disk: SimDisk::new(),
            up: false,
            powered: true,
            home: Home { boot: 0, disk: 0 },
            paused_until: 0,
            life: 0,
            slow: 1,
            full: false,
            owner: None,
            kept: None,
            daemon: Daemon::default(),
            greeted: None,
            jobs: BTreeMap::new(),
        }
    }
}
