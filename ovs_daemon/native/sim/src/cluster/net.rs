//! Connections: in order and once, or broken. Each end notices by itself, sooner or later.

use std::collections::VecDeque;

use format::edge::{Attached, CloseReason, Command, Done};
use machines::dtl::Held;
use machines::edge::Guest;

use super::event::Event;
use super::{Cluster, Host, MS, S};

/// What crosses a connection.
#[derive(Clone, Debug)]
pub(super) enum Packet {
    // To a DTL node.
    CallKeeper {
        epoch: u64,
        generation: u32,
        successor: bool,
    },
    Resume,
    Fresh,
    Append(Vec<u8>),
    Trim {
        below: u32,
    },
    // From a DTL node.
    Greeted {
        held: Held,
    },
    Tail(Vec<(u32, Vec<u8>)>),
    Acknowledged {
        sequence: u64,
    },
    Refused,
    // To an engine.
    Knock {
        guest: Guest,
    },
    Ask {
        command: Command,
        data: Vec<u8>,
    },
    Goodbye,
    // From an engine.
    Attached(Attached),
    TurnedAway,
    Answer {
        done: Done,
        data: Vec<u8>,
    },
    Closed(CloseReason),
    /// The other end is closed.
    End,
}

/// A connection; end 0 made it.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) ends: [Host; 2],
    pub(super) open: [bool; 2],
    /// On the way to each end.
    queue: [VecDeque<Packet>; 2],
    arrival: [u64; 2],
    blocked_since: [Option<u64>; 2],
}

/// After so long without an acknowledgement the kernel gives a connection up.
const SILENCE: u64 = 3 * S;

impl Cluster<'_> {
    /// Latency of one message.
    pub(super) fn latency(&mut self) -> u64 {
        let usual = 100 + self.random.below(400);
        match self.random.chance(u64::from(self.plan.jitter), 1000) {
            true => usual + self.random.below(50 * MS),
            false => usual,
        }
    }

    pub(super) fn is_cut(&self, from: Host, to: Host) -> bool {
        from != to && self.cuts.contains(&(from, to))
    }

    pub(super) fn dial(&mut self, from: Host, to: Host) -> u32 {
        let number = self.next_conn;
        self.next_conn += 1;
        let conn = Conn {
            ends: [from, to],
            open: [true, self.is_up(to)],
            queue: Default::default(),
            arrival: [self.now; 2],
            blocked_since: [None; 2],
        };
        let refused = !conn.open[1] && self.has_power(to);
        self.conns.insert(number, conn);
        if refused && !self.is_cut(from, to) && !self.is_cut(to, from) {
            self.push(number, 0, Packet::End);
        }
        number
    }

    /// Sends from an end (0 or 1).
    pub(super) fn send(&mut self, number: u32, end: usize, packet: Packet) {
        let Some(conn) = self.conns.get(&number) else { return };
        if conn.open[end] && conn.open[1 - end] {
            self.push(number, 1 - end, packet);
        }
    }

    fn push(&mut self, number: u32, to: usize, packet: Packet) {
        let at = self.now + self.latency();
        let Some(conn) = self.conns.get_mut(&number) else { return };
        let at = at.max(conn.arrival[to] + 1);
        conn.arrival[to] = at;
        conn.queue[to].push_back(packet);
        self.at(at, Event::Wire { conn: number, to });
    }

    /// An end is closed: by its process, or by the kernel when that dies.
    pub(super) fn close(&mut self, number: u32, end: usize) {
        let Some(conn) = self.conns.get_mut(&number) else { return };
        if !std::mem::replace(&mut conn.open[end], false) {
            return;
        }
        conn.queue[end].clear();
        if conn.open[1 - end] {
            self.push(number, 1 - end, Packet::End);
        } else {
            self.conns.remove(&number);
        }
    }

    /// A host's process has ended, or the host lost power.
    pub(super) fn close_all(&mut self, host: Host, power_lost: bool) {
        let numbers: Vec<u32> = self.conns.keys().copied().collect();
        for number in numbers {
            for end in 0..2 {
                let Some(conn) = self.conns.get_mut(&number) else { break };
                if conn.ends[end] != host || !conn.open[end] {
                    continue;
                }
                if power_lost {
                    // What the kernel had not sent is gone, and nobody tells the other end soon.
                    let keep = self.random.index(conn.queue[1 - end].len() + 1);
                    conn.queue[1 - end].truncate(keep);
                    conn.arrival[1 - end] = self.now + S + self.random.below(3 * S);
                }
                self.close(number, end);
            }
        }
    }

    /// A packet arrives.
    pub(super) fn wire(&mut self, number: u32, to: usize) {
        let now = self.now;
        let Some(conn) = self.conns.get(&number) else { return };
        let (from_host, host) = (conn.ends[1 - to], conn.ends[to]);
        if conn.queue[to].is_empty() || !conn.open[to] {
            return;
        }
        let cut = self.is_cut(from_host, host);
        if cut || self.is_paused(host) {
            return self.hold(number, to, cut);
        }
        let Some(conn) = self.conns.get_mut(&number) else { return };
        conn.blocked_since[to] = None;
        let Some(packet) = conn.queue[to].pop_front() else { return };
        if now < conn.arrival[to] && matches!(packet, Packet::End) {
            // The end comes last.
            conn.queue[to].push_front(packet);
            let at = conn.arrival[to];
            return self.at(at, Event::Wire { conn: number, to });
        }
        self.deliver(number, to, host, packet);
    }

    /// A packet cannot get through now. A paused process's kernel still acknowledges it.
    fn hold(&mut self, number: u32, to: usize, cut: bool) {
        let now = self.now;
        let Some(conn) = self.conns.get_mut(&number) else { return };
        let since = *conn.blocked_since[to].get_or_insert(now);
        if !cut {
            conn.blocked_since[to] = None;
        }
        let (sender, host) = (1 - to, conn.ends[1 - to]);
        let alive = conn.open[sender];
        if cut && now > since + SILENCE && alive && !self.is_paused(host) {
            // The sender's kernel gives up; the other end learns of it when it can be reached.
            if let Some(conn) = self.conns.get_mut(&number) {
                conn.queue[to].clear();
                conn.blocked_since[to] = None;
            }
            self.deliver(number, sender, host, Packet::End);
            return self.close(number, sender);
        }
        self.at(now + 10 * MS, Event::Wire { conn: number, to });
    }

    /// A connection breaks in the middle: each end is told, in its own time.
    pub(super) fn break_connection(&mut self, number: u32) {
        for to in 0..2 {
            let keep = self.conns.get(&number).map_or(0, |conn| conn.queue[to].len());
            let keep = self.random.index(keep + 1);
            let delay = self.random.below(S);
            let Some(conn) = self.conns.get_mut(&number) else { return };
            if conn.open[to] {
                conn.queue[to].truncate(keep);
                conn.arrival[to] = conn.arrival[to].max(self.now + delay);
                self.push(number, to, Packet::End);
            }
        }
    }

    fn deliver(&mut self, number: u32, to: usize, host: Host, packet: Packet) {
        if host == self.edge_host() {
            self.edge_hears(number, packet);
        } else if to == 0 {
            self.caller_hears(host, number, packet);
        } else {
            self.server_hears(host, number, packet);
        }
    }
}
