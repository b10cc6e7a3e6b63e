//! A connection that has not said hello yet, and one that has but is not a session yet.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use format::edge::{CONTROL_BODY_MAX, FRAME_HEADER_LEN, Frame, HELLO_DESCRIPTORS, Hello, Refusal};
use net::pass;

use super::Socket;

/// A connection of which nothing is known.
pub(super) struct Greeting {
    socket: Socket,
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
    over_tcp: bool,
}

impl Greeting {
    pub(super) fn new(socket: Socket, over_tcp: bool) -> Self {
        Self { socket, bytes: Vec::new(), fds: Vec::new(), over_tcp }
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    pub(super) fn is_over_tcp(&self) -> bool {
        self.over_tcp
    }

    /// Reads what is there; the hello once it is complete.
    pub(super) fn read(&mut self) -> Result<Option<Hello>, String> {
        let mut part = [0; 2048];
        let (got, mut fds) = match pass::receive(self.socket.as_fd(), &mut part) {
            Ok((0, _)) => return Err("it was closed before a hello".into()),
            Ok(got) => got,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(e) => return Err(e.to_string()),
        };
        self.bytes.extend_from_slice(&part[..got]);
        self.fds.append(&mut fds);
        if self.fds.len() > HELLO_DESCRIPTORS {
            return Err(format!("the hello came with more than {HELLO_DESCRIPTORS} descriptors"));
        }
        match Frame::decode(&self.bytes) {
            Ok(Some((Frame::Hello(hello), used))) if used == self.bytes.len() => {
                let wanted = if self.over_tcp { 0 } else { HELLO_DESCRIPTORS };
                match self.fds.len() {
                    got if got == wanted => Ok(Some(hello)),
                    got => Err(format!("the hello came with {got} descriptors, not {wanted}")),
                }
            }
            Ok(Some((frame, _))) => Err(format!("{:?} came instead of a hello", frame.kind())),
            Ok(None) if self.bytes.len() > FRAME_HEADER_LEN + CONTROL_BODY_MAX => {
                Err("the hello is too long".into())
            }
            Ok(None) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    pub(super) fn refuse(&self, refusal: &Refusal) {
        say(&self.socket, &Frame::Refused(refusal.clone()));
    }

    /// What waits in the ring holds on to the socket: lets it complete.
    pub(super) fn close(&self) {
        pass::shutdown(self.socket.as_fd());
    }

    pub(super) fn into_adopted(self, hello: Hello) -> Adopted {
        let carrier = if self.over_tcp { Carrier::Tcp } else { Carrier::Shm(self.fds) };
        Adopted { socket: self.socket, hello, carrier }
    }
}

/// How requests are to cross.
pub(super) enum Carrier {
    /// In memory, with what the Edge passed for it.
    Shm(Vec<OwnedFd>),
    /// On the connection itself.
    Tcp,
}

/// A connection that said hello; it can be sent to the thread of another shard.
pub struct Adopted {
    pub(super) socket: Socket,
    /// What it said.
    pub hello: Hello,
    pub(super) carrier: Carrier,
}

impl Adopted {
    /// Who it is, for logs.
    pub fn who(&self) -> String {
        format!("{} ({})", self.hello.client.escape_debug(), net::peer_name(&self.socket))
    }

    pub(super) fn refuse(&self, refusal: &Refusal) {
        say(&self.socket, &Frame::Refused(refusal.clone()));
    }
}

/// Sends a control frame without waiting. False: the peer does not read; give up on it.
pub(super) fn say(socket: &Socket, frame: &Frame) -> bool {
    let bytes = frame.encode();
    matches!(pass::send(socket.as_fd(), &bytes, &[]), Ok(sent) if sent == bytes.len())
}
