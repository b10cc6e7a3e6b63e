//! Who comes in, and for how long somebody may stay who does not say who he is.
//!
//! An owner greets with the first thing that it sends. Everybody else is closed in time, and so is
//! the one that came first when there are too many (`net::Lobby`).

use std::net::SocketAddr;

use format::dtl::Hello;
use media::{Arena, Event, Fd, Ring};
use net::clock::monotonic_ns;
use net::{Acceptor, ListenError, listen_tcp, tune_stream};

use super::{ACCEPT, Connection, Guest, LATE, ROOM, Server};
use crate::outbox::Outbox;

/// Connections of a shard, greeted or not. An owner has one for each of its volumes.
pub(super) const CONNECTIONS_MAX: usize = 16_384;

impl Server {
    /// Listens for owners; returns the address.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub fn listen(
        &mut self,
        address: SocketAddr,
        ring: &mut Ring,
    ) -> Result<SocketAddr, ListenError> {
        let (fd, bound) = listen_tcp(address)?;
        let mut acceptor = Acceptor::new(fd);
        acceptor.start(self.token(ACCEPT, 0), ring);
        self.acceptor = Some(acceptor);
        Ok(bound)
    }

    pub(super) fn accepted(&mut self, event: Event, ring: &mut Ring) {
        let taken = match &mut self.acceptor {
            Some(acceptor) => acceptor.take(&event, ring),
            // It no longer listens.
            None => return drop(Ring::take_fd(&event)),
        };
        match taken {
            Ok(Some(fd)) => {
                tune_stream(&fd);
                self.make_way(ring);
                let Some(number) = self.admit(fd, None) else { return };
                let now = monotonic_ns();
                if let Some(oldest) = self.lobby.enter(number, now) {
                    self.turn_out(oldest, ring);
                }
                self.watch_lobby(now, ring);
                self.receive(number, ring);
            }
            Ok(None) => {}
            Err(error) => self.log.push(format!("cannot accept a connection: {error}")),
        }
    }

    /// Takes a connection that another shard accepted.
    pub fn adopt(&mut self, guest: Guest, ring: &mut Ring) {
        if let Some(connection) = self.admit(guest.fd, Some(guest.hello)) {
            self.hello(connection, guest.hello, ring);
            self.receive(connection, ring);
        }
        self.bury(ring);
    }

    /// When there are as many connections as there may be, one of those that have not greeted goes.
    fn make_way(&mut self, ring: &mut Ring) {
        if self.open() >= self.connections_max
            && let Some(oldest) = self.lobby.oldest()
        {
            self.shut(oldest, ring);
        }
    }

    /// Connections; those that are closed and about to go do not count when it matters.
    fn open(&self) -> usize {
        let all = self.connections.len();
        if all < self.connections_max {
            return all;
        }
        self.connections.values().filter(|connection| !connection.closed).count()
    }

    /// `None`: there are too many, or no memory; its socket is closed.
    fn admit(&mut self, fd: Fd, hello: Option<Hello>) -> Option<u32> {
        let (peer, open) = (net::peer_name(&fd), self.open());
        if open >= self.connections_max {
            if !std::mem::replace(&mut self.told_full, true) {
                self.log.push(format!(
                    "{open} connections are open, as many as a shard has: {peer} and others are \
                     turned away; give volumes another DTL node"
                ));
            }
            return None;
        }
        self.told_full &= open > self.connections_max / 2;
        // The mapping costs nothing until it is written to.
        let room = Arena::anonymous(ROOM).ok()?.slice(0, ROOM)?;
        let (from, to, receiving, closed) = (0, 0, false, false);
        let outbox = Outbox::default();
        let new = Connection { fd, peer, room, from, to, receiving, hello, outbox, closed };
        let number = self.next;
        self.next = self.next.wrapping_add(1).max(1);
        self.connections.insert(number, new);
        Some(number)
    }

    /// Closes one that came first of those that have not greeted.
    fn turn_out(&mut self, number: u32, ring: &mut Ring) {
        if self.lobby.is_news()
            && let Some(connection) = self.connections.get(&number)
        {
            self.log.push(self.lobby.text_of_full(&connection.peer));
        }
        self.shut(number, ring);
    }

    fn watch_lobby(&mut self, now_ns: u64, ring: &mut Ring) {
        let token = self.token(LATE, 0);
        self.lobby.watch(now_ns, token, ring);
    }

    /// The time of some who have not greeted is over.
    pub(super) fn close_late(&mut self, ring: &mut Ring) {
        let now = monotonic_ns();
        let late = self.lobby.late(now);
        if let Some(first) = late.first().and_then(|number| self.connections.get(number)) {
            self.log.push(self.lobby.text_of_late(late.len(), &first.peer));
        }
        late.into_iter().for_each(|number| self.shut(number, ring));
        self.watch_lobby(now, ring);
    }
}
