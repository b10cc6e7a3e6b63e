//! The ways in, and for how long somebody may stay who does not say hello.
//!
//! An Edge says hello with the first thing that it sends. Everybody else is closed in time, and so
//! is the one that came first when there are too many (`net::Lobby`). Sessions are never closed to
//! make room.

use std::net::SocketAddr;
use std::path::Path;

use media::{Event, Fd, Ring};
use net::clock::monotonic_ns;
use net::{Acceptor, ListenError, Lobby, UnixSocket};

use super::greeting::Greeting;
use super::{EdgeServer, KIND_ACCEPT, KIND_CONTROL, KIND_LATE, Place};
use crate::token::Token;

/// Connections at once, said hello or not.
pub(super) const SESSIONS_MAX: usize = 4096;
/// The ways in by their numbers: for Edges of this host, and of others.
const HERE: usize = 0;
pub(super) const TCP: usize = 1;

/// One way in, if it is open, and who came through it and has not said hello.
#[derive(Default)]
pub(super) struct Entrance {
    acceptor: Option<Acceptor>,
    file: Option<UnixSocket>,
    pub(super) lobby: Lobby,
}

impl EdgeServer {
    /// Accepts sessions on a unix socket that only this user may connect to.
    ///
    /// # Errors
    /// The socket can't be made; the error says why.
    pub fn listen(&mut self, path: &Path, ring: &mut Ring) -> Result<(), ListenError> {
        let socket = UnixSocket::listen(path, 0o600, None)?;
        self.open_entrance(HERE, socket.fd().clone(), ring);
        self.entrances[HERE].file = Some(socket);
        Ok(())
    }

    /// Accepts Edges of other hosts. Returns the address in use (port 0 lets the kernel choose).
    ///
    /// # Errors
    /// The socket can't be made; the error says why.
    pub fn listen_tcp(
        &mut self,
        address: SocketAddr,
        ring: &mut Ring,
    ) -> Result<SocketAddr, ListenError> {
        let (fd, bound) = net::listen_tcp(address)?;
        self.open_entrance(TCP, fd, ring);
        Ok(bound)
    }

    fn open_entrance(&mut self, way: usize, fd: Fd, ring: &mut Ring) {
        let mut acceptor = Acceptor::new(fd);
        acceptor.start(self.entrance_token(KIND_ACCEPT, way), ring);
        self.entrances[way].acceptor = Some(acceptor);
    }

    pub(super) fn entrance_token(&self, kind: u8, way: usize) -> u64 {
        Token { kind, generation: 0, index: way as u32 }.pack(self.class)
    }

    /// Stops listening and removes the socket's file.
    pub fn stop_listening(&mut self, ring: &mut Ring) {
        for entrance in &mut self.entrances {
            if let Some(file) = entrance.file.take() {
                file.unlink();
            }
            if let Some(acceptor) = entrance.acceptor.take() {
                ring.shutdown(acceptor.fd());
            }
        }
    }

    pub(super) fn accepted(&mut self, event: Event, way: usize, ring: &mut Ring) {
        let taken = match &mut self.entrances[way].acceptor {
            Some(acceptor) => acceptor.take(&event, ring),
            // It no longer listens.
            None => return drop(Ring::take_fd(&event)),
        };
        match taken {
            Ok(None) => {}
            Ok(Some(fd)) if self.has_room(&fd) => self.let_in(fd, way, ring),
            Ok(Some(_)) => {}
            Err(error) => self.log.push(format!("cannot accept an Edge: {error}")),
        }
    }

    /// Whether there is room for one more, if one that has not said hello must go for it.
    fn has_room(&mut self, fd: &Fd) -> bool {
        let open = self.connections.len() - self.free.len();
        if open < self.sessions_max {
            self.told_full &= open > self.sessions_max / 2;
            return true;
        }
        if !std::mem::replace(&mut self.told_full, true) {
            let peer = net::peer_name(fd);
            self.log.push(format!(
                "{open} Edge connections are open, as many as a shard has, and {peer} comes: those \
                 that have not said hello give way, others are turned away; let other nodes own \
                 some of the volumes"
            ));
        }
        let fullest = self.entrances.iter_mut().max_by_key(|entrance| entrance.lobby.waiting());
        let oldest = fullest.and_then(|entrance| entrance.lobby.oldest());
        if let Some(oldest) = oldest {
            self.turn_out(oldest);
        }
        oldest.is_some()
    }

    fn let_in(&mut self, fd: Fd, way: usize, ring: &mut Ring) {
        if way == TCP {
            net::tune_peer(&fd);
        }
        let index = self.insert(Place::Greeting(Greeting::new(fd.clone(), way == TCP)));
        ring.poll_readable(&fd, self.token(KIND_CONTROL, index));
        let now = monotonic_ns();
        let oldest = self.entrances[way].lobby.enter(index, now);
        if oldest.is_some() && self.entrances[way].lobby.is_news() {
            let peer = self.greeter(oldest);
            self.log.push(self.entrances[way].lobby.text_of_full(&peer));
        }
        if let Some(oldest) = oldest {
            self.turn_out(oldest);
        }
        self.watch_lobby(way, now, ring);
    }

    /// The time of some who have not said hello is over.
    pub(super) fn close_late(&mut self, way: usize, ring: &mut Ring) {
        let now = monotonic_ns();
        let late = self.entrances[way].lobby.late(now);
        if !late.is_empty() {
            let peer = self.greeter(late.first().copied());
            self.log.push(self.entrances[way].lobby.text_of_late(late.len(), &peer));
        }
        late.into_iter().for_each(|index| self.turn_out(index));
        self.watch_lobby(way, now, ring);
    }

    fn watch_lobby(&mut self, way: usize, now_ns: u64, ring: &mut Ring) {
        let token = self.entrance_token(KIND_LATE, way);
        self.entrances[way].lobby.watch(now_ns, token, ring);
    }

    /// A connection is none any more that has not said hello: it has, or is over.
    pub(super) fn take_greeting(&mut self, index: u32) -> Option<Greeting> {
        let Some(Place::Greeting(greeting)) = self.remove(index) else { return None };
        self.entrances[usize::from(greeting.is_over_tcp())].lobby.leave(index);
        Some(greeting)
    }

    fn turn_out(&mut self, index: u32) {
        if let Some(greeting) = self.take_greeting(index) {
            greeting.close();
        }
    }

    fn greeter(&self, index: Option<u32>) -> String {
        let place = index.and_then(|index| self.connections[index as usize].place.as_ref());
        match place {
            Some(Place::Greeting(greeting)) => net::peer_name(greeting.socket()),
            _ => "a connection that is gone".into(),
        }
    }
}
