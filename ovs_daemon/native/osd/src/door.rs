//! Who comes in, and for how long somebody may stay who does not prove who he is.

use media::Event;
use net::clock::monotonic_ns;
use net::tune_peer;

use super::{LATE, READ, Server};
use crate::session::Connection;

impl Server {
    pub(super) fn accepted(&mut self, event: &Event) {
        let fd = match self.acceptor.take(event, &mut self.ring) {
            Ok(Some(fd)) => fd,
            Ok(None) => return,
            Err(error) => return (self.log)(&format!("cannot accept a connection: {error}")),
        };
        tune_peer(&fd);
        if self.connections.len() >= self.bounds.connections {
            if !std::mem::replace(&mut self.told_full, true) {
                let (peer, open) = (net::peer_name(&fd), self.connections.len());
                (self.log)(&format!(
                    "{open} connections are open, and {peer} comes: those that have not proved who \
                     they are give way, others are turned away; raise --connections if the cluster \
                     is so large"
                ));
            }
            let Some(oldest) = self.lobby.oldest() else { return };
            self.end(oldest, None);
        }
        self.told_full &= self.connections.len() > self.bounds.connections / 2;
        match Connection::new(fd, &self.pool) {
            Ok(connection) => self.admit(connection),
            Err(error) => (self.log)(&format!("a connection was not taken: {error}")),
        }
    }

    fn admit(&mut self, mut connection: Connection) {
        let number = self.next;
        self.next = self.next.wrapping_add(1).max(1);
        connection.polled = true;
        self.ring.poll_readable(connection.wire.fd(), READ | u64::from(number));
        self.connections.insert(number, connection);
        let now = monotonic_ns();
        if let Some(oldest) = self.lobby.enter(number, now) {
            self.turn_out(oldest);
        }
        self.lobby.watch(now, LATE, &mut self.ring);
    }

    /// Closes one that came first of those that have not proved who they are.
    fn turn_out(&mut self, number: u32) {
        if self.lobby.is_news()
            && let Some(connection) = self.connections.get(&number)
        {
            (self.log)(&self.lobby.text_of_full(&connection.peer));
        }
        self.end(number, None);
    }

    /// The time of some who have not proved who they are is over.
    pub(super) fn close_late(&mut self) {
        let now = monotonic_ns();
        let late = self.lobby.late(now);
        if let Some(first) = late.first().and_then(|number| self.connections.get(number)) {
            (self.log)(&self.lobby.text_of_late(late.len(), &first.peer));
        }
        late.into_iter().for_each(|number| self.end(number, None));
        self.lobby.watch(now, LATE, &mut self.ring);
    }
}
