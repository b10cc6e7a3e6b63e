//! Who comes in, and for how long somebody may stay who does not choose an export.
//!
//! A client that means to use an export chooses it at once. Everybody else is closed in time, and
//! so is the one that came first when too many came to the same socket (`net::Lobby`). Each socket
//! counts its own: who floods that of one volume keeps nobody from another. Clients in transmission
//! are never closed to make room.

use media::{Event, Fd, Ring};
use net::clock::monotonic_ns;
use net::{Acceptor, GREETING, Lobby, UNGREETED_MAX, UnixSocket};

use super::connection::Connection;
use super::{NbdServer, TokenKind, mark};
use crate::flow::pool::NONE;

/// Connections at a time; further ones wait in the listening sockets.
pub(super) const CONNECTIONS_MAX: usize = 4096;
/// Those of one volume's own socket that have not chosen its export, at a time. QEMU has one, and
/// programs that copy with several connections have 16 at most.
const UNGREETED_OF_ONE_MAX: usize = 64;

pub(super) struct Listener {
    pub(super) acceptor: Acceptor,
    /// The only export served here, or [`NONE`] for all.
    pub(super) only: u32,
    pub(super) file: Option<UnixSocket>,
    pub(super) closed: bool,
    /// Connections that have not chosen an export.
    pub(super) lobby: Lobby,
}

impl Listener {
    /// Serves all exports.
    pub(super) fn of_all(fd: Fd) -> Self {
        let (acceptor, lobby) = (Acceptor::new(fd), Lobby::new(UNGREETED_MAX, GREETING));
        Self { acceptor, only: NONE, file: None, closed: false, lobby }
    }

    /// Serves one export.
    pub(super) fn of_one(only: u32, file: UnixSocket) -> Self {
        let acceptor = Acceptor::new(file.fd().clone());
        let lobby = Lobby::new(UNGREETED_OF_ONE_MAX, GREETING);
        Self { acceptor, only, file: Some(file), closed: false, lobby }
    }
}

impl NbdServer {
    /// Starts accepting on every listener that does not.
    pub(super) fn accept_again(&mut self, ring: &mut Ring) {
        for (index, listener) in self.listeners.iter_mut() {
            if !listener.closed {
                listener.acceptor.start(self.core.token(TokenKind::Accept, index), ring);
            }
        }
    }

    pub(super) fn accepted(&mut self, way: u32, event: Event, ring: &mut Ring) {
        let Some(listener) = self.listeners.get_mut(way) else { return };
        if listener.closed {
            drop(Ring::take_fd(&event));
            self.listeners.remove(way);
            return;
        }
        match listener.acceptor.take_one(&event, ring) {
            Ok(Some(fd)) => {
                net::tune_stream(&fd);
                self.open(fd, way, ring);
                let (open, max) = (self.connections.len(), self.connections_max);
                if open < max {
                    self.told_full &= open > max / 2;
                    self.accept_again(ring);
                } else {
                    self.make_way(way);
                }
            }
            Ok(None) => {}
            Err(error) => {
                self.core.log(true, format!("nbd: cannot accept a connection: {error}"));
            }
        }
    }

    /// Serves a stream socket that a listener accepted.
    fn open(&mut self, fd: Fd, way: u32, ring: &mut Ring) {
        let Some(listener) = self.listeners.get_mut(way) else { return };
        let peer = net::peer_name(&fd);
        // The index is known only after insertion.
        let mut connection = Connection::new(fd, peer, NONE, listener.only, &mut self.core);
        connection.entrance = way;
        let index = self.connections.insert(Box::new(connection));
        if let Some(connection) = self.connections.get_mut(index) {
            connection.index = index;
            connection.output.owner = index;
            mark(connection, &mut self.dirty);
        }
        let now = monotonic_ns();
        let oldest = listener.lobby.enter(index, now);
        listener.lobby.watch(now, self.core.token(TokenKind::Late, way), ring);
        let Some(oldest) = oldest.and_then(|oldest| self.connections.get_mut(oldest)) else {
            return;
        };
        if listener.lobby.is_news() {
            self.core.log(true, format!("nbd: {}", listener.lobby.text_of_full(&oldest.peer)));
        }
        oldest.turn_out();
        mark(oldest, &mut self.dirty);
    }

    /// There are as many connections as there may be. One of those that have chosen no export goes,
    /// but for the one that has just come through `way`; if there is none, others wait.
    fn make_way(&mut self, way: u32) {
        let others = |(index, listener): &(u32, &mut Listener)| {
            listener.lobby.waiting().saturating_sub(usize::from(*index == way))
        };
        let fullest = self.listeners.iter_mut().max_by_key(others);
        let fullest = fullest.filter(|fullest| others(fullest) > 0);
        let oldest = fullest.and_then(|(_, listener)| listener.lobby.oldest());
        if !std::mem::replace(&mut self.told_full, true) {
            let text = format!(
                "nbd: {} connections are open, others wait; those that have not chosen an export \
                 are closed for them",
                self.connections.len()
            );
            self.core.log(true, text);
        }
        if let Some(connection) = oldest.and_then(|oldest| self.connections.get_mut(oldest)) {
            connection.turn_out();
            mark(connection, &mut self.dirty);
        }
    }

    /// The time of some who have not chosen an export is over.
    pub(super) fn close_late(&mut self, way: u32, ring: &mut Ring) {
        let Some(listener) = self.listeners.get_mut(way) else { return };
        let now = monotonic_ns();
        let mut closed = 0;
        let mut first = None;
        for number in listener.lobby.late(now) {
            let Some(connection) = self.connections.get_mut(number) else { continue };
            if connection.queued {
                // It is this server that lets it wait, for memory.
                listener.lobby.enter(number, now);
                continue;
            }
            closed += 1;
            first.get_or_insert_with(|| connection.peer.clone());
            connection.turn_out();
            mark(connection, &mut self.dirty);
        }
        if let Some(peer) = first {
            let text = listener.lobby.text_of_late(closed, &peer);
            self.core.log(true, format!("nbd: {text}"));
        }
        listener.lobby.watch(now, self.core.token(TokenKind::Late, way), ring);
    }
}
