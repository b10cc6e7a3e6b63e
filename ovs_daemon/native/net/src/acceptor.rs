//! Accepting connections on a ring.
//!
//! A process that has no descriptors left cannot accept, and one that tries again at once does nothing
//! else any more and fills its log. So an acceptor that fails waits a moment before it tries again, and
//! says so once. Who knocks meanwhile waits in the kernel's queue and is let in when there is room:
//! nobody is refused for a shortage that may be over soon.

use std::io::{self, ErrorKind};
use std::time::Duration;

use media::{Event, Fd, Ring};

/// Between two attempts when there is no room.
const PAUSE: Duration = Duration::from_millis(100);

/// See the top of the file. All its events have the token that it was started with.
#[derive(Debug)]
pub struct Acceptor {
    fd: Fd,
    /// An event will come.
    pending: bool,
    /// That there is no room has been said.
    told: bool,
}

impl Acceptor {
    /// Accepts on a listening socket, once it is started.
    pub fn new(fd: Fd) -> Self {
        Self { fd, pending: false, told: false }
    }

    /// The listening socket.
    pub fn fd(&self) -> &Fd {
        &self.fd
    }

    /// An event will come, also after the socket was shut down.
    pub fn is_pending(&self) -> bool {
        self.pending
    }

    /// Waits for the next connection, unless it does already.
    pub fn start(&mut self, token: u64, ring: &mut Ring) {
        if !std::mem::replace(&mut self.pending, true) {
            ring.accept(&self.fd, token);
        }
    }

    /// An event has come: a connection, when it is one. The next one is waited for.
    ///
    /// # Errors
    /// Nobody can be let in for now. Said once, until somebody was.
    pub fn take(&mut self, event: &Event, ring: &mut Ring) -> io::Result<Option<Fd>> {
        let taken = self.take_one(event, ring);
        self.start(event.token, ring);
        taken
    }

    /// The same; after a connection the next one is waited for when it is started again.
    ///
    /// # Errors
    /// As those of [`Acceptor::take`].
    pub fn take_one(&mut self, event: &Event, ring: &mut Ring) -> io::Result<Option<Fd>> {
        self.pending = false;
        // The pause is over; no accept ends so.
        if event.result == -libc::ETIME {
            self.start(event.token, ring);
            return Ok(None);
        }
        let error = match Ring::take_fd(event) {
            Ok(fd) => {
                self.told = false;
                return Ok(Some(fd));
            }
            Err(error) => error,
        };
        if is_about_one_client(&error) {
            self.start(event.token, ring);
            return Ok(None);
        }
        self.pending = true;
        ring.after(PAUSE, event.token);
        if std::mem::replace(&mut self.told, true) {
            return Ok(None);
        }
        let text = format!("{error}; trying again until it works (check the limit of open files)");
        Err(io::Error::new(error.kind(), text))
    }
}

/// The connection that was to be accepted is gone; the next one may be fine (accept(2)).
fn is_about_one_client(error: &io::Error) -> bool {
    use ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, WouldBlock};
    matches!(error.kind(), ConnectionAborted | Interrupted | WouldBlock | ConnectionReset)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use media::Wait;

    use super::*;
    use crate::listen_tcp;

    const TOKEN: u64 = 7;

    fn next(ring: &mut Ring) -> Event {
        let mut events = Vec::new();
        while events.is_empty() {
            ring.turn(Wait::Forever, &mut events).unwrap();
        }
        assert_eq!(events.len(), 1);
        events[0]
    }

    #[test]
    fn a_shortage_is_a_pause_that_is_told_of_once() {
        let mut ring = Ring::new(8).unwrap();
        let (fd, address) = listen_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut acceptor = Acceptor::new(fd);
        let _waits = TcpStream::connect(address).unwrap();
        for (errno, told) in [(libc::EMFILE, true), (libc::ENFILE, false), (libc::ENOMEM, false)] {
            let outcome = acceptor.take(&Event { token: TOKEN, result: -errno }, &mut ring);
            assert_eq!(outcome.is_err(), told, "{errno}");
            // Somebody waits, and is not asked for before the pause is over.
            assert_eq!(next(&mut ring), Event { token: TOKEN, result: -libc::ETIME });
        }
        let over = Event { token: TOKEN, result: -libc::ETIME };
        assert!(acceptor.take(&over, &mut ring).unwrap().is_none());
        let event = next(&mut ring);
        assert!(acceptor.take(&event, &mut ring).unwrap().is_some(), "who has waited is let in");
        assert!(!acceptor.told, "a later shortage is told of again");
    }

    #[test]
    fn one_is_waited_for_at_a_time() {
        let mut ring = Ring::new(8).unwrap();
        let (fd, address) = listen_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut acceptor = Acceptor::new(fd);
        acceptor.start(TOKEN, &mut ring);
        acceptor.start(TOKEN, &mut ring);
        assert_eq!(ring.in_flight(), 1);
        let _client = TcpStream::connect(address).unwrap();
        let event = next(&mut ring);
        assert!(acceptor.take_one(&event, &mut ring).unwrap().is_some());
        assert_eq!((ring.in_flight(), acceptor.is_pending()), (0, false));
        let aborted = Event { token: TOKEN, result: -libc::ECONNABORTED };
        assert!(acceptor.take_one(&aborted, &mut ring).unwrap().is_none());
        assert_eq!((ring.in_flight(), acceptor.is_pending()), (1, true), "the next may be fine");
    }
}
