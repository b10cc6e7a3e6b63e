//! The plainest performer of a session: collects what is wanted from a stream cut anywhere.
//!
//! For tests and fuzzing. The server does the same without collecting (`edge::nbd`).

use alloc::vec::Vec;

use super::{Action, Catalogue, Session, Wants};

/// A session and the bytes that it has not taken yet.
#[derive(Clone, Debug)]
pub struct Feeder {
    /// The session that is fed.
    pub session: Session,
    /// Payload bytes handed on so far.
    pub payload: Vec<u8>,
    pending: Vec<u8>,
}

impl Feeder {
    /// A fresh connection; the greeting is the first action.
    pub fn new(actions: &mut Vec<Action>) -> Self {
        Self { session: Session::new(actions), payload: Vec::new(), pending: Vec::new() }
    }

    /// Takes what has arrived, as far as the session wants it now.
    pub fn feed(&mut self, bytes: &[u8], exports: &dyn Catalogue, actions: &mut Vec<Action>) {
        self.pending.extend_from_slice(bytes);
        let mut at = 0;
        while at < self.pending.len() {
            let rest = &self.pending[at..];
            match self.session.wants() {
                Wants::Bytes(len) if len <= rest.len() => {
                    self.session.step(&rest[..len], exports, actions);
                    at += len;
                }
                Wants::Payload(left) => {
                    let len = rest.len().min(left as usize);
                    self.payload.extend_from_slice(&rest[..len]);
                    self.session.consumed(len as u32, actions);
                    at += len;
                }
                Wants::Skip(left) => {
                    let len = rest.len().min(left as usize);
                    self.session.consumed(len as u32, actions);
                    at += len;
                }
                Wants::Nothing => at = self.pending.len(),
                Wants::Bytes(_) | Wants::Answers => break,
            }
        }
        self.pending.drain(..at);
    }

    /// Answers one request and goes on with what was waiting for that.
    pub fn answer(&mut self, exports: &dyn Catalogue, actions: &mut Vec<Action>) {
        self.session.answered(actions);
        self.feed(&[], exports, actions);
    }
}
