//! OSDs behind servers: what a cluster has of them.
//!
//! One thread, the *fleet*, speaks with all OSDs of a cluster (`fleet`); a connection is a `peer`.
//! Each OSD has two: small requests do not wait behind fragments that are being sent. A third one, with
//! a thread of its own that gives way to all others, is for what the upkeep asks.
//!
//! A connection that breaks is made again, and what was asked is asked again: putting, reading and
//! deleting twice is harmless. Only when that takes longer than [`Link::grace`], or when an OSD does
//! not answer in time, its requests fail, and until it is back it is out of reach at once.

mod fleet;
mod peer;
mod roll;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use format::osd::Claim;
use machines::alba::{Courtesy, Pace};
use net::ClusterKey;

use crate::Cause;
use crate::osd::{Exchanged, Osd, Reply, Request};
use crate::wire::Traffic;

pub use fleet::Fleet;
use fleet::{Command, Mailbox};
pub use roll::{RollError, roll};

/// Connections to an OSD for guests: one for what is large, one for the rest.
const LINES: usize = 2;

/// How long requests of a connection that broke wait for the next one.
const GRACE: Duration = Duration::from_millis(1500);

/// Whose OSDs they are, and how that is proved.
#[derive(Clone, Debug)]
pub struct Link {
    /// The cluster.
    pub cluster: [u8; 16],
    /// Its key.
    pub key: ClusterKey,
    /// How long requests of a connection that broke wait for the next one.
    pub grace: Duration,
}

impl Link {
    /// To the OSDs of a cluster.
    pub fn new(cluster: [u8; 16], key: ClusterKey) -> Self {
        Self { cluster, key, grace: GRACE }
    }
}

/// How a connection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Condition {
    /// Requests may be asked.
    up: bool,
    /// It is known whether the OSD can be reached.
    tried: bool,
}

impl Condition {
    fn is_gone(self) -> bool {
        self.tried && !self.up
    }
}

/// What the handle of an OSD and the fleet's thread both know.
#[derive(Debug)]
pub(crate) struct Shared {
    lines: Mutex<[Condition; LINES]>,
    changed: Condvar,
    pace: Mutex<Pace>,
    /// Of all OSDs of the fleet together.
    courtesy: Arc<Mutex<Courtesy>>,
    /// Why it cannot be reached.
    why: Mutex<String>,
    /// What it said when it was reached last.
    release: Mutex<String>,
    address: Mutex<SocketAddr>,
    traffic: Arc<Traffic>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn new(address: SocketAddr, courtesy: Arc<Mutex<Courtesy>>) -> Self {
        Self {
            lines: Mutex::default(),
            changed: Condvar::new(),
            pace: Mutex::default(),
            courtesy,
            why: Mutex::new("it has not been tried yet".to_owned()),
            release: Mutex::default(),
            address: Mutex::new(address),
            traffic: Arc::default(),
        }
    }

    fn set(&self, line: usize, up: bool) {
        lock(&self.lines)[line] = Condition { up, tried: true };
        self.changed.notify_all();
    }

    /// A guest's read was answered.
    fn observe(&self, asked_at: u64, now: u64) {
        let us = now.saturating_sub(asked_at) / 1000;
        lock(&self.pace).observe(us);
        lock(&self.courtesy).observe(us, now / 1_000_000);
    }

    fn up(&self) -> bool {
        lock(&self.lines).iter().all(|line| line.up)
    }
}

/// See the top of the file.
#[derive(Debug)]
pub struct RemoteOsd {
    claim: Claim,
    shared: Arc<Shared>,
    /// Numbers of its connections.
    peers: [usize; LINES],
    mailbox: Arc<Mailbox>,
    /// Of the upkeep's.
    upkeep: Option<(Arc<Mailbox>, usize)>,
    engaged: AtomicBool,
}

impl RemoteOsd {
    /// Tells all of its connections.
    fn tell_all(&self, command: fn(usize) -> Command) {
        self.peers.iter().for_each(|peer| self.mailbox.send(command(*peer)));
        if let Some((mailbox, peer)) = &self.upkeep {
            mailbox.send(command(*peer));
        }
    }

    /// It is reached at another address from now on.
    pub fn move_to(&self, address: SocketAddr) {
        let moved = {
            let mut known = lock(&self.shared.address);
            std::mem::replace(&mut *known, address) != address
        };
        if moved {
            self.tell_all(Command::Reconnect);
        }
    }

    /// From now on it is asked, or nothing is asked there any more.
    pub fn engage(&self, asked: bool) {
        if self.engaged.swap(asked, Ordering::Relaxed) == asked {
            return;
        }
        self.tell_all(if asked { Command::Reconnect } else { Command::Retire });
    }

    /// Waits until it is known whether it can be reached, no longer than `until`.
    pub fn settle(&self, until: Instant) {
        let mut lines = lock(&self.shared.lines);
        while !lines.iter().all(|line| line.tried) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.shared.changed.wait_timeout(lines, left);
            lines = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Why it cannot be reached, in words.
    pub fn why(&self) -> String {
        lock(&self.shared.why).clone()
    }
}

impl Osd for RemoteOsd {
    fn claim(&self) -> &Claim {
        &self.claim
    }

    fn name(&self) -> String {
        let hex: String = self.claim.osd.iter().map(|byte| format!("{byte:02x}")).collect();
        let [a, b, c, d, e] = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &hex[part]);
        format!("OSD {a}-{b}-{c}-{d}-{e} at {}", lock(&self.shared.address))
    }

    fn reachable(&self) -> bool {
        self.shared.up()
    }

    fn trouble(&self) -> Option<String> {
        (!self.reachable()).then(|| self.why())
    }

    fn release(&self) -> Option<String> {
        self.reachable().then(|| lock(&self.shared.release).clone())
    }

    fn start(&self, request: Request, reply: Reply) {
        let large = matches!(request, Request::Put { .. } | Request::Keep { .. });
        let line = usize::from(large);
        if lock(&self.shared.lines)[line].is_gone() {
            // The fleet's thread would say no more.
            return reply(Err(request.error(Cause::Failed, self.why())));
        }
        let peer = self.peers[line];
        self.mailbox.send(Command::Ask { peer, request, reply });
    }

    fn start_gently(&self, request: Request, reply: Reply) {
        match &self.upkeep {
            Some((mailbox, peer)) if self.shared.up() => {
                mailbox.send(Command::Ask { peer: *peer, request, reply });
            }
            // That it is away is known at the others.
            _ => self.start(request, reply),
        }
    }

    fn may_lag(&self) -> bool {
        true
    }

    fn traffic(&self) -> Exchanged {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let traffic = &self.shared.traffic;
        Exchanged {
            sent: of(&traffic.sent),
            received: of(&traffic.received),
            fragments: of(&traffic.fragments),
        }
    }

    fn late_after(&self) -> Duration {
        Duration::from_micros(lock(&self.shared.pace).late_after_us())
    }
}
