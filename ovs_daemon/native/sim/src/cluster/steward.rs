//! A node's daemon: its sign of life (`control/liveness.py`), what it does about the volume
//! (`control/steward.py`, `control/opening.py`), and the engine's questions (`control/dtl.py`).

use machines::dtl::State;
use machines::dtl::link::Mode;

use super::event::Event;
use super::link::Proposal;
use super::policy::{Fetch, Knowledge, Record, Step, View, decide, judge};
use super::registry::{Answer, Ask, LEASE, Purpose};
use super::{Cluster, Host, MS, Shell};

/// What the daemon's thread waits for.
#[derive(Clone, Debug, Default)]
pub(super) enum Task {
    #[default]
    Idle,
    /// The record.
    Reading,
    /// A swap of it, and what is known when it succeeds.
    Swapping(Knowledge),
    /// The swap that gives the volume to another node.
    HandingOver,
    /// The swap that pairs the volume with this keeper.
    Pairing(Option<usize>),
    /// The log, through this connection.
    Fetching { conn: u32, epoch: u64, keep_local: bool },
}

/// What one life of a daemon knows.
#[derive(Clone, Debug, Default)]
pub(super) struct Daemon {
    lease: Option<u64>,
    /// On the node's own clock.
    pub(super) held_until: u64,
    generation: u32,
    pub(super) task: Task,
    known: Knowledge,
    /// The generation of the lease under which it was learned.
    known_in: u32,
    /// Who lived when the record was read last.
    alive: Vec<bool>,
    failures: u32,
    not_before: u64,
    /// The volume is to be given to this node.
    pub(super) moving: Option<usize>,
    /// It is closed, and everything of it is on the backend.
    closed: bool,
    proposals: std::collections::VecDeque<Proposal>,
}

impl Daemon {
    /// The engine has asked nothing that is not answered.
    pub(super) fn is_quiet(&self) -> bool {
        self.proposals.is_empty()
    }
}

impl Cluster<'_> {
    /// One sign of life.
    pub(super) fn beat(&mut self, node: Host) {
        let asked = self.local(node);
        let lease = self.nodes[node].daemon.lease;
        self.ask(node, Purpose::Beat, Ask::Beat { lease, asked });
    }

    fn beaten(&mut self, node: Host, answer: Option<Answer>) {
        let life = self.life(node);
        let mut next = LEASE / 3;
        match answer {
            Some(Answer::Beaten { lease: Some(lease), asked }) => {
                let daemon = &mut self.nodes[node].daemon;
                daemon.lease = Some(lease);
                daemon.held_until = asked + LEASE;
                let end = self.when(node, asked + LEASE);
                self.at(end, Event::LeaseEnd { node, life });
            }
            Some(Answer::Beaten { lease: None, .. }) => {
                // Others may have taken this node for dead: all that was begun is begun again.
                let daemon = &mut self.nodes[node].daemon;
                daemon.lease = None;
                daemon.generation += 1;
                next = 0;
            }
            _ => {}
        }
        self.at(self.now + next, Event::Beat { node, life });
    }

    /// Has the daemon look at the volume.
    pub(super) fn tend_soon(&mut self, node: Host) {
        let life = self.life(node);
        self.at(self.now + 50, Event::Tend { node, life });
    }

    pub(super) fn tend(&mut self, node: Host) {
        if !matches!(self.nodes[node].daemon.task, Task::Idle) {
            return;
        }
        self.let_go(node);
        if self.now < self.nodes[node].daemon.not_before && self.nodes[node].owner.is_none() {
            return;
        }
        if let Some(owner) = self.owner(node)
            && owner.drained
            && owner.stopped.is_none()
        {
            return self.close_for_move(node);
        }
        self.read_record(node);
    }

    fn read_record(&mut self, node: Host) {
        self.nodes[node].daemon.task = Task::Reading;
        self.ask(node, Purpose::Steward, Ask::Read);
    }

    /// Closes what the engine has stopped, once no job of it is under way.
    fn let_go(&mut self, node: Host) {
        let Some(owner) = self.owner(node).filter(|owner| owner.stopped.is_some()) else { return };
        let serial = owner.serial;
        if self.nodes[node].jobs.get(&serial).is_none_or(|jobs| *jobs == 0) {
            self.leave_dtl(node);
            self.nodes[node].owner = None;
            self.nodes[node].daemon.moving = None;
            self.say(format_args!("node {node}: let go"));
        }
    }

    fn close_for_move(&mut self, node: Host) {
        let Some(owner) = self.owner(node) else { return };
        owner.halted = true;
        let serial = owner.serial;
        self.close_sessions(node);
        self.leave_dtl(node);
        if self.nodes[node].jobs.get(&serial).is_some_and(|jobs| *jobs > 0) {
            return;
        }
        self.nodes[node].owner = None;
        self.nodes[node].daemon.closed = true;
        self.say(format_args!("node {node}: closed, to be handed over"));
        self.read_record(node);
    }

    /// The registry has answered.
    pub(super) fn told(&mut self, host: Host, purpose: Purpose, answer: Option<Answer>) {
        match purpose {
            Purpose::Beat => self.beaten(host, answer),
            Purpose::Steward => self.steward_told(host, answer),
            Purpose::Desk => self.desk_told(host, answer),
            Purpose::Edge => self.edge_told(answer),
        }
    }

    fn give_up(&mut self, node: Host) {
        let now = self.now;
        let daemon = &mut self.nodes[node].daemon;
        (daemon.task, daemon.known) = (Task::Idle, Knowledge::default());
        daemon.not_before = now + ((500 * MS) << daemon.failures.min(3));
        daemon.failures += 1;
        (daemon.moving, daemon.closed) = (None, false);
    }

    fn steward_told(&mut self, node: Host, answer: Option<Answer>) {
        let task = std::mem::take(&mut self.nodes[node].daemon.task);
        match (task, answer) {
            (Task::Reading, Some(Answer::Read { record, version, alive })) => {
                self.consider(node, record, version, &alive);
            }
            (Task::Swapping(known), Some(Answer::Swapped(swapped))) => {
                if swapped {
                    self.nodes[node].daemon.known = known;
                }
                self.read_record(node);
            }
            (Task::HandingOver, Some(Answer::Swapped(_))) => {
                self.nodes[node].daemon.moving = None;
                self.read_record(node);
            }
            (Task::Pairing(keeper), Some(Answer::Swapped(true))) => {
                self.paired(node, keeper);
            }
            (Task::Pairing(_), Some(_)) => {}
            _ => self.give_up(node),
        }
    }

    fn swap(&mut self, node: Host, record: Record, version: u64, task: Task) {
        self.nodes[node].daemon.task = task;
        self.ask(node, Purpose::Steward, Ask::Swap { record, version, absent: None });
    }

    fn consider(&mut self, node: Host, record: Record, version: u64, alive: &[bool]) {
        if self.nodes[node].owner.is_some() {
            return self.consider_open(node, record, version, alive);
        }
        let daemon = &mut self.nodes[node].daemon;
        if std::mem::take(&mut daemon.closed)
            && let Some(target) = daemon.moving
            && record.owner == node
        {
            let (epoch, state) = (record.epoch + 1, State::Standalone);
            let (served, home, saved) = (target, None, true);
            let keeper = None;
            let handed =
                Record { owner: target, served, epoch, keeper, state, home, saved, ..record };
            return self.swap(node, handed, version, Task::HandingOver);
        }
        let daemon = &mut self.nodes[node].daemon;
        if daemon.known_in != daemon.generation {
            (daemon.known, daemon.known_in) = (Knowledge::default(), daemon.generation);
        }
        let known = daemon.known;
        daemon.alive = alive.to_vec();
        let here = self.nodes[node].home;
        let mut record = record;
        if self.shell(Shell::ForgetHome) && record.home.is_some() {
            record.home = Some(here);
        }
        if self.shell(Shell::TakeOverDegraded) && record.owner != node {
            record.state = State::InSync;
        }
        let view = View { alive, domains: &self.plan.domains, recovery: &self.plan.recovery };
        let dead = !alive[record.owner];
        let chosen = record.owner != node && dead && view.successor(&record) == Some(node);
        let step = decide(node, record, known, chosen, here);
        self.follow(node, step, record, version, known);
    }

    fn follow(&mut self, node: Host, step: Step, record: Record, version: u64, known: Knowledge) {
        match step {
            Step::Rest => {
                if record.owner == node {
                    self.say(format_args!("node {node}: rests: {record:?}"));
                    self.give_up(node);
                } else {
                    self.nodes[node].daemon.known = Knowledge::default();
                }
            }
            Step::TakeOver(new) => {
                self.say(format_args!("node {node}: takes over from {}", record.owner));
                let raised = Knowledge { raised: Some(new.epoch), ..known };
                self.nodes[node].daemon.task = Task::Swapping(raised);
                let absent = Some(record.owner);
                self.ask(node, Purpose::Steward, Ask::Swap { record: new, version, absent });
            }
            Step::RaiseEpoch(new) => {
                let raised = Knowledge { raised: Some(new.epoch), ..known };
                self.swap(node, new, version, Task::Swapping(raised));
            }
            Step::Clear => self.clear_buffer(node, record.epoch),
            Step::Adopt(new) | Step::Degrade(new) | Step::GiveBack(new) => {
                self.swap(node, new, version, Task::Swapping(known));
            }
            Step::Fetch { keep_local } => self.begin_fetch(node, &record, keep_local),
            Step::Open => self.try_open(node, &record),
        }
    }

    /// All is on the backend: nothing that lies here may come into force.
    fn clear_buffer(&mut self, node: Host, epoch: u64) {
        if let Err(error) = self.remove_leftovers(node) {
            self.say(format_args!("node {node}: {error}"));
            return self.give_up(node);
        }
        self.nodes[node].daemon.known.cleared = Some(epoch);
        self.read_record(node);
    }

    fn try_open(&mut self, node: Host, record: &Record) {
        let daemon = &self.nodes[node].daemon;
        let held = self.local(node) < daemon.held_until && daemon.known_in == daemon.generation;
        if !held {
            return self.give_up(node);
        }
        match self.open_volume(node, record) {
            Ok(()) => {
                let daemon = &mut self.nodes[node].daemon;
                (daemon.known, daemon.failures) = (Knowledge::default(), 0);
            }
            Err(why) => {
                self.say(format_args!("node {node}: cannot open: {why}"));
                self.give_up(node);
            }
        }
    }

    /// It is open here.
    fn consider_open(&mut self, node: Host, record: Record, version: u64, alive: &[bool]) {
        let Some(owner) = self.owner(node) else { return };
        let mine = (record.owner, record.epoch) == (node, owner.epoch);
        if !mine || owner.stopped.is_some() || owner.quiesced {
            return;
        }
        if let Some(target) = self.nodes[node].daemon.moving {
            if alive[target] && target != node {
                self.say(format_args!("node {node}: gives the volume to node {target}"));
                if let Some(owner) = self.owner(node) {
                    owner.quiesced = true;
                }
                return self.run(node, machines::volume::Message::Drain);
            }
            self.nodes[node].daemon.moving = None;
        }
        let view = View { alive, domains: &self.plan.domains, recovery: &self.plan.recovery };
        if let Some(keeper) = view.pairing(&record) {
            let state = if keeper.is_some() { State::Degraded } else { State::Standalone };
            let paired = Record { keeper, state, ..record };
            self.say(format_args!("node {node}: {keeper:?} is to keep the log"));
            self.swap(node, paired, version, Task::Pairing(keeper));
        }
    }

    fn paired(&mut self, node: Host, keeper: Option<usize>) {
        let mode = self.registry.record.mode;
        match keeper {
            Some(keeper) => self.pair(node, mode, State::Degraded, keeper),
            None if self.owner(node).is_some_and(|owner| owner.dtl.is_some()) => {
                self.pair(node, Mode::None, State::Standalone, node);
            }
            None => {}
        }
    }

    /// The engine asks for a change of the log's state.
    pub(super) fn propose(&mut self, node: Host, proposal: Proposal) {
        let daemon = &mut self.nodes[node].daemon;
        daemon.proposals.push_back(proposal);
        if daemon.proposals.len() == 1 {
            self.ask(node, Purpose::Desk, Ask::Read);
        }
    }

    pub(super) fn ask_again(&mut self, node: Host) {
        if !self.nodes[node].daemon.proposals.is_empty() {
            self.ask(node, Purpose::Desk, Ask::Read);
        }
    }

    fn desk_told(&mut self, node: Host, answer: Option<Answer>) {
        let Some(proposal) = self.nodes[node].daemon.proposals.front().copied() else { return };
        let life = self.life(node);
        if matches!(self.nodes[node].daemon.task, Task::Pairing(_)) {
            // Not before engine and registry agree who keeps the log (`dtl_lock`).
            return self.at(self.now + 50 * MS, Event::Propose { node, life });
        }
        let keeper = Some(proposal.keeper);
        let accepted = match answer {
            // Paired anew since then, if with the same node (`Engine::event_stands`).
            Some(Answer::Read { .. }) if self.is_of_former_pair(node, &proposal) => Some(false),
            Some(Answer::Read { record, version, .. }) => {
                match judge(node, record, proposal.epoch, keeper, proposal.to) {
                    Err(()) if self.shell(Shell::SwapAnyEpoch) => {
                        let record = Record { state: proposal.to, ..record };
                        let swap = Ask::Swap { record, version, absent: None };
                        return self.ask(node, Purpose::Desk, swap);
                    }
                    Err(()) => Some(false),
                    Ok(None) => Some(true),
                    Ok(Some(record)) => {
                        let swap = Ask::Swap { record, version, absent: None };
                        return self.ask(node, Purpose::Desk, swap);
                    }
                }
            }
            Some(Answer::Swapped(true)) => Some(true),
            Some(_) => return self.ask(node, Purpose::Desk, Ask::Read),
            None => None,
        };
        let Some(accepted) = accepted else {
            return self.at(self.now + 200 * MS, Event::Propose { node, life });
        };
        self.nodes[node].daemon.proposals.pop_front();
        self.ask_again(node);
        self.link_answer(node, &proposal, accepted);
    }

    /// What came of fetching the log.
    pub(super) fn fetched_log(&mut self, node: Host, outcome: Option<Fetch>) {
        let Task::Fetching { conn, epoch, .. } = self.nodes[node].daemon.task else { return };
        self.nodes[node].daemon.task = Task::Idle;
        self.close(conn, 0);
        self.say(format_args!("node {node}: fetching the log: {outcome:?}"));
        let Some(mut outcome) = outcome else { return self.give_up(node) };
        let served = self.registry.record.served;
        if outcome == Fetch::Unreachable && self.nodes[node].daemon.alive.get(served) == Some(&true)
        {
            outcome = Fetch::OwnerBack;
        }
        self.nodes[node].daemon.known.fetched = Some((epoch, outcome));
        self.read_record(node);
    }

    /// A process begins its life.
    pub(super) fn start_daemon(&mut self, node: Host) {
        let life = self.life(node);
        self.nodes[node].daemon = Daemon::default();
        self.at(self.now + 10 * MS, Event::Beat { node, life });
        self.at(self.now + 50 * MS, Event::Tend { node, life });
    }
}
