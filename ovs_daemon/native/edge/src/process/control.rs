//! The control socket: lines of JSON, one answer for each request, in order.

use std::collections::VecDeque;
use std::path::Path;

use media::{Event, Fd, Ring, Slice};
use net::{Acceptor, ListenError, UnixSocket};

use crate::token::Token;

const KIND_ACCEPT: u8 = 0;
const KIND_RECEIVE: u8 = 1;
const KIND_SEND: u8 = 2;
/// Longest request, in bytes.
const LINE_MAX: usize = 64 << 10;
/// Requests of one connection that wait for their turn.
const LINES_MAX: usize = 64;
/// Connections at once.
const CONNECTIONS_MAX: usize = 64;

/// Who asked; a later connection never has the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asker {
    index: u32,
    generation: u16,
}

struct Connection {
    fd: Fd,
    generation: u16,
    into: Slice,
    bytes: Vec<u8>,
    /// Complete requests that wait for the answer of the one before.
    lines: VecDeque<String>,
    asked: bool,
    receiving: bool,
    sending: bool,
    unsent: Vec<u8>,
    /// The peer will send no more; it may still read.
    ended: bool,
}

impl Connection {
    fn received(&mut self, result: i32) {
        self.receiving = false;
        let got = match usize::try_from(result) {
            Ok(got) if got > 0 => got,
            _ => {
                self.ended = true;
                return;
            }
        };
        self.bytes.extend_from_slice(&self.into.sub(0, got).to_vec());
        while let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.bytes.drain(..=end).collect();
            self.lines.push_back(String::from_utf8_lossy(&line[..end]).into_owned());
        }
    }

    fn sent(&mut self, result: i32) {
        self.sending = false;
        if result < 0 {
            self.ended = true;
            self.unsent.clear();
        }
    }

    /// Nothing is left to do for it.
    fn is_over(&self) -> bool {
        let idle = !self.asked && !self.sending && self.unsent.is_empty();
        self.ended && idle && self.lines.is_empty()
    }
}

pub(super) struct Control {
    class: u8,
    listener: UnixSocket,
    acceptor: Acceptor,
    connections: Vec<Option<Connection>>,
    generation: u16,
    requests: Vec<(Asker, String)>,
    log: Vec<String>,
}

impl Control {
    pub(super) fn listen(class: u8, path: &Path, ring: &mut Ring) -> Result<Self, ListenError> {
        let listener = UnixSocket::listen(path, 0o600, None)?;
        let mut acceptor = Acceptor::new(listener.fd().clone());
        acceptor.start(Token { kind: KIND_ACCEPT, generation: 0, index: 0 }.pack(class), ring);
        Ok(Self {
            class,
            listener,
            acceptor,
            connections: Vec::new(),
            generation: 0,
            requests: Vec::new(),
            log: Vec::new(),
        })
    }

    pub(super) fn close(&mut self, ring: &mut Ring) {
        self.listener.unlink();
        for connection in self.connections.iter().flatten() {
            ring.shutdown(&connection.fd);
        }
    }

    pub(super) fn take_log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }

    /// Requests that are to be answered, at most one of each connection.
    pub(super) fn take_requests(&mut self) -> Vec<(Asker, String)> {
        std::mem::take(&mut self.requests)
    }

    pub(super) fn on_event(&mut self, event: Event, ring: &mut Ring) {
        let token = Token::unpack(event.token);
        if token.kind == KIND_ACCEPT {
            return self.accepted(event, ring);
        }
        let asker = Asker { index: token.index, generation: token.generation };
        let Some(connection) = self.connection(asker) else { return };
        match token.kind {
            KIND_RECEIVE => connection.received(event.result),
            _ => connection.sent(event.result),
        }
        self.proceed(asker, ring);
    }

    fn connection(&mut self, asker: Asker) -> Option<&mut Connection> {
        let slot = self.connections.get_mut(asker.index as usize)?.as_mut()?;
        (slot.generation == asker.generation).then_some(slot)
    }

    fn accepted(&mut self, event: Event, ring: &mut Ring) {
        let fd = match self.acceptor.take(&event, ring) {
            Ok(Some(fd)) => fd,
            Ok(None) => return,
            Err(error) => {
                return self.log.push(format!("cannot accept a control connection: {error}"));
            }
        };
        let free = self.connections.iter().position(Option::is_none);
        let index = free.unwrap_or(self.connections.len());
        if index >= CONNECTIONS_MAX {
            return self.log.push("refused a control connection: too many are open".into());
        }
        let Ok(into) = Slice::zeroed(4096) else {
            return self.log.push("refused a control connection: no memory".into());
        };
        if index == self.connections.len() {
            self.connections.push(None);
        }
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        self.connections[index] = Some(Connection {
            fd,
            generation,
            into,
            bytes: Vec::new(),
            lines: VecDeque::new(),
            asked: false,
            receiving: false,
            sending: false,
            unsent: Vec::new(),
            ended: false,
        });
        self.proceed(Asker { index: index as u32, generation }, ring);
    }

    /// Sends, receives, asks or closes: whatever comes next for a connection.
    fn proceed(&mut self, asker: Asker, ring: &mut Ring) {
        let class = self.class;
        let Some(connection) = self.connection(asker) else { return };
        let token =
            |kind| Token { kind, generation: asker.generation, index: asker.index }.pack(class);
        if connection.bytes.len() > LINE_MAX {
            ring.shutdown(&connection.fd);
            self.connections[asker.index as usize] = None;
            let text = format!("closed a control connection: a request over {LINE_MAX} bytes");
            return self.log.push(text);
        }
        if !connection.sending
            && !connection.unsent.is_empty()
            && let Ok(slice) = Slice::copy_of(&std::mem::take(&mut connection.unsent))
        {
            connection.sending = true;
            ring.send(&connection.fd, slice, token(KIND_SEND));
        }
        // What one peer may have queued is bounded: no more is received before it is answered.
        if !connection.receiving && !connection.ended && connection.lines.len() < LINES_MAX {
            connection.receiving = true;
            ring.recv(&connection.fd, connection.into.clone(), token(KIND_RECEIVE));
        }
        if connection.is_over() {
            ring.shutdown(&connection.fd);
            self.connections[asker.index as usize] = None;
        } else if !connection.asked
            && let Some(line) = connection.lines.pop_front()
        {
            connection.asked = true;
            self.requests.push((asker, line));
        }
    }

    /// Answers the request that a connection waits for.
    pub(super) fn answer(&mut self, asker: Asker, answer: &str, ring: &mut Ring) {
        let Some(connection) = self.connection(asker) else { return };
        connection.asked = false;
        connection.unsent.extend_from_slice(answer.as_bytes());
        connection.unsent.push(b'\n');
        self.proceed(asker, ring);
    }
}
