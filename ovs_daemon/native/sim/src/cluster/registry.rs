//! The registry: one record, changed by compare-and-swap, and who is alive.
//!
//! It is atomic. A question may not reach it: then it fails. Its answer may come late, when whoever
//! asked has looked up what became of it (`registry/etcd.py`); it is never guessed.

use super::event::Event;
use super::policy::Record;
use super::{Cluster, Host, MS, S};

/// How long after its last sign a node counts as dead.
pub(super) const LEASE: u64 = 3 * S;

/// Who of a host asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Beat,
    Steward,
    Desk,
    Edge,
}

/// A question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// Renew this lease, or grant one; `asked`: when, on the node's own clock.
    Beat {
        lease: Option<u64>,
        asked: u64,
    },
    Read,
    /// On condition that nothing changed since `version`, and that this node is not alive.
    Swap {
        record: Record,
        version: u64,
        absent: Option<usize>,
    },
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// `None`: that lease is over.
    Beaten {
        lease: Option<u64>,
        asked: u64,
    },
    Read {
        record: Record,
        version: u64,
        alive: Vec<bool>,
    },
    Swapped(bool),
}

/// See the top of the file.
#[derive(Debug)]
pub(super) struct Registry {
    pub(super) record: Record,
    version: u64,
    /// Of each node: its lease and when that ends.
    leases: Vec<Option<(u64, u64)>>,
    granted: u64,
    pub(super) down: bool,
    /// Answers are lost, in so many of 1000 cases.
    pub(super) forgetful: u32,
}

impl Registry {
    pub(super) fn new(record: Record, nodes: usize) -> Self {
        let leases = vec![None; nodes];
        Registry { record, version: 1, leases, granted: 0, down: false, forgetful: 0 }
    }

    fn is_alive(&self, node: usize, now: u64) -> bool {
        self.leases[node].is_some_and(|(_, end)| end > now)
    }
}

impl Cluster<'_> {
    /// Asks the registry; the answer comes as [`Event::Told`].
    pub(super) fn ask(&mut self, from: Host, purpose: Purpose, ask: Ask) {
        let (at, life) = (self.now + self.latency(), self.life(from));
        self.at(at, Event::Asked { from, life, purpose, ask });
    }

    pub(super) fn asked(&mut self, from: Host, life: u32, purpose: Purpose, ask: Ask) {
        let reg = self.registry_host();
        if self.registry.down || self.is_cut(from, reg) {
            let at = self.now + S + self.random.below(S);
            return self.at(at, Event::Told { to: from, life, purpose, answer: None });
        }
        let answer = self.answer(from, ask);
        let forgetful = u64::from(self.registry.forgetful);
        let mut at = self.now + self.latency();
        if self.random.chance(forgetful, 1000) {
            self.say(format_args!("registry: the answer to {from} is lost: {answer:?}"));
            at += 500 * MS + self.random.below(3 * S);
        }
        self.at(at, Event::Told { to: from, life, purpose, answer: Some(answer) });
    }

    fn answer(&mut self, from: Host, ask: Ask) -> Answer {
        let now = self.now;
        match ask {
            Ask::Beat { lease, asked } => {
                let held = self.registry.leases[from].filter(|(_, end)| *end > now);
                if lease.is_some() && held.map(|(number, _)| number) != lease {
                    return Answer::Beaten { lease: None, asked };
                }
                let number = lease.unwrap_or_else(|| {
                    self.registry.granted += 1;
                    self.registry.granted
                });
                let new = !self.registry.is_alive(from, now);
                self.registry.leases[from] = Some((number, now + LEASE));
                self.at(now + LEASE, Event::Expire);
                if new {
                    self.say(format_args!("registry: node {from} is alive"));
                    self.notify();
                }
                Answer::Beaten { lease: Some(number), asked }
            }
            Ask::Read => {
                let nodes = 0..self.registry.leases.len();
                let alive = nodes.map(|node| self.registry.is_alive(node, now)).collect();
                let (record, version) = (self.registry.record, self.registry.version);
                Answer::Read { record, version, alive }
            }
            Ask::Swap { record, version, absent } => {
                let dead = absent.is_none_or(|node| !self.registry.is_alive(node, now));
                let same = version == self.registry.version;
                let swapped = dead && same;
                if swapped {
                    self.recorded(record);
                }
                Answer::Swapped(swapped)
            }
        }
    }

    fn recorded(&mut self, record: Record) {
        let before = self.registry.record;
        self.registry.record = record;
        self.registry.version += 1;
        self.say(format_args!("registry: {record:?}"));
        self.promise_changed(&before, &record);
        self.notify();
    }

    /// A lease may have ended.
    pub(super) fn expire(&mut self) {
        let now = self.now;
        for node in 0..self.registry.leases.len() {
            if self.registry.leases[node].is_some_and(|(_, end)| end <= now) {
                self.registry.leases[node] = None;
                self.say(format_args!("registry: the lease of node {node} is over"));
                self.notify();
            }
        }
    }

    /// Those who watch look again.
    fn notify(&mut self) {
        let reg = self.registry_host();
        for node in 0..self.nodes.len() {
            if !self.is_cut(reg, node) && !self.registry.down {
                let (at, life) = (self.now + self.latency(), self.life(node));
                self.at(at, Event::Tend { node, life });
            }
        }
        if !self.is_cut(reg, self.edge_host()) && !self.registry.down {
            let at = self.now + self.latency();
            self.at(at, Event::EdgeLook);
        }
    }
}
