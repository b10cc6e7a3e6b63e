//! The engine's side of an Edge's sessions, as `edge::server` does it: who is let in is decided by
//! `machines::edge::Door`.

use std::collections::BTreeMap;

use format::edge::{Attached, CloseReason, Command, Done};
use machines::edge::{Guest, Mutant, Verdict};

use super::net::Packet;
use super::{Cluster, Host, Planted};

/// A connection of an Edge to an open volume.
pub(super) struct Session {
    entered: bool,
    /// It takes no more requests; what was taken is waited for.
    ending: bool,
    in_flight: BTreeMap<u32, Command>,
}

impl Cluster<'_> {
    /// Something for a node as a server: of its DTL node, or of an open volume.
    pub(super) fn server_hears(&mut self, node: Host, conn: u32, packet: Packet) {
        self.check_lease(node);
        if matches!(packet, Packet::CallKeeper { .. }) || self.is_keeper_call(node, conn) {
            return self.keeper_hears(node, conn, packet);
        }
        match packet {
            Packet::Knock { guest } => self.knock(node, conn, guest),
            Packet::Ask { command, data } => {
                let Some(owner) = self.owner(node) else { return };
                let quiesced = owner.quiesced;
                let Some(session) = owner.sessions.get_mut(&conn) else { return };
                if !session.entered || session.ending {
                    return;
                }
                if !quiesced {
                    let others = session.in_flight.clone();
                    session.in_flight.insert(command.tag, command);
                    self.witness_asked(&command, others.values());
                    self.submit(node, conn, &command, data);
                }
            }
            Packet::Goodbye => self.end_session(node, conn),
            Packet::End => {
                self.end_session(node, conn);
                self.close(conn, 1);
            }
            _ => self.close(conn, 1),
        }
    }

    fn knock(&mut self, node: Host, conn: u32, guest: Guest) {
        let open = self.owner(node).filter(|owner| owner.stopped.is_none() && !owner.quiesced);
        let Some(owner) = open else {
            self.send(conn, 1, Packet::TurnedAway);
            return self.close(conn, 1);
        };
        let session = Session { entered: false, ending: false, in_flight: BTreeMap::new() };
        match owner.door.knock(conn, guest) {
            Verdict::Enter => {
                owner.sessions.insert(conn, session);
                self.enter(node, conn);
            }
            Verdict::Wait { end } => {
                owner.sessions.insert(conn, session);
                for earlier in end {
                    self.end_session(node, earlier);
                    if self.planted == Some(Planted::Edge(Mutant::DoorWithoutWait)) {
                        self.session_gone(node, earlier);
                    }
                }
            }
            Verdict::TooLate | Verdict::ShutOut { .. } => {
                self.send(conn, 1, Packet::TurnedAway);
                self.close(conn, 1);
            }
        }
    }

    fn enter(&mut self, node: Host, conn: u32) {
        let size = self.guest.bytes();
        let Some(owner) = self.owner(node) else { return };
        let epoch = owner.epoch;
        let Some(session) = owner.sessions.get_mut(&conn) else { return };
        session.entered = true;
        let credits = super::guest::ENTRIES;
        let attached = Attached { version: 1, features: 0, size, read_only: false, epoch, credits };
        self.send(conn, 1, Packet::Attached(attached));
    }

    /// A session takes no more requests.
    fn end_session(&mut self, node: Host, conn: u32) {
        let Some(owner) = self.owner(node) else { return };
        let Some(session) = owner.sessions.get_mut(&conn) else { return };
        session.ending = true;
        if session.in_flight.is_empty() {
            self.session_gone(node, conn);
        }
    }

    /// Nothing of a session can happen any more.
    fn session_gone(&mut self, node: Host, conn: u32) {
        let Some(owner) = self.owner(node) else { return };
        owner.sessions.remove(&conn);
        let next = owner.door.gone(conn);
        self.close(conn, 1);
        for next in next {
            self.enter(node, next);
        }
    }

    /// A request has ended.
    pub(super) fn answer_request(
        &mut self,
        node: Host,
        conn: u32,
        tag: u32,
        errno: i32,
        data: Vec<u8>,
    ) {
        let Some(owner) = self.owner(node) else { return };
        let epoch = owner.epoch;
        let Some(session) = owner.sessions.get_mut(&conn) else { return };
        session.in_flight.remove(&tag);
        let over = session.ending && session.in_flight.is_empty();
        let written = data.is_empty();
        if epoch < self.newest && !self.plan.wild_clocks {
            // No guest here would see it: each believes the newest owner only. Another one might.
            let text = format!("node {node} answers under epoch {epoch} after {}", self.newest);
            self.fail("one node serves", text);
        }
        if written {
            self.newest = self.newest.max(epoch);
        }
        let done = Done { tag, errno, extents: 0 };
        self.send(conn, 1, Packet::Answer { done, data });
        if over {
            self.session_gone(node, conn);
        }
    }

    /// The volume is not served here any more.
    pub(super) fn close_sessions(&mut self, node: Host) {
        let Some(owner) = self.owner(node) else { return };
        for conn in std::mem::take(&mut owner.sessions).into_keys() {
            self.send(conn, 1, Packet::Closed(CloseReason::Stopping));
            self.close(conn, 1);
        }
    }
}
