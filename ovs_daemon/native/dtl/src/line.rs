//! An owner's connection to its DTL node, on the loop of the owner's shard.

use std::io;

use format::dtl::{FRAME, Frame};
use media::{Fd, Ring, Slice};

use crate::outbox::Outbox;

/// Memory for answers: many of them.
const ROOM: usize = 64 * FRAME;

/// What was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineEvent {
    /// Every batch up to this sequence is held.
    Acknowledged(u64),
    /// The node knows a newer epoch.
    Refused,
}

/// See the top of the file. The owner of a line drops it when it is over.
#[derive(Debug)]
pub struct Line {
    fd: Fd,
    room: Slice,
    received: usize,
    outbox: Outbox,
    receive_token: u64,
    send_token: u64,
}

impl Line {
    /// A line over a connection that was greeted; the tokens are those of its ring events.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new(fd: Fd, receive_token: u64, send_token: u64, ring: &mut Ring) -> io::Result<Self> {
        let room = Slice::zeroed(ROOM)?;
        ring.recv(&fd, room.clone(), receive_token);
        let (received, outbox) = (0, Outbox::default());
        Ok(Self { fd, room, received, outbox, receive_token, send_token })
    }

    /// Sends a frame; its payload is `head` and behind it the slices, in place.
    ///
    /// # Errors
    /// The connection is over.
    pub fn send(
        &mut self,
        frame: Frame,
        head: &[u8],
        data: &[Slice],
        ring: &mut Ring,
    ) -> io::Result<()> {
        let bytes = frame.encode();
        self.outbox.send(&self.fd, &[&bytes, head], data, self.send_token, ring)
    }

    /// A receive has completed: appends what came. False: the connection is over.
    pub fn received(&mut self, result: i32, ring: &mut Ring, out: &mut Vec<LineEvent>) -> bool {
        let Some(bytes) = usize::try_from(result).ok().filter(|bytes| *bytes > 0) else {
            return false;
        };
        self.received += bytes;
        let mut at = 0;
        while self.received - at >= FRAME {
            let mut bytes = [0; FRAME];
            self.room.read(at, &mut bytes);
            at += FRAME;
            match Frame::decode(&bytes) {
                Ok(Frame::Acknowledged { sequence }) => {
                    out.push(LineEvent::Acknowledged(sequence));
                }
                Ok(Frame::Refused { .. }) => out.push(LineEvent::Refused),
                _ => return false,
            }
        }
        let left = self.received - at;
        self.room.sub(at, left).copy_to(&self.room.sub(0, left));
        self.received = left;
        ring.recv(&self.fd, self.room.sub(left, ROOM - left), self.receive_token);
        true
    }

    /// A send has completed. False: the connection is over.
    pub fn sent(&mut self, result: i32, ring: &mut Ring) -> bool {
        self.outbox.sent(result, &self.fd, self.send_token, ring)
    }

    /// Ends the connection; operations of the ring complete.
    pub fn close(&self, ring: &mut Ring) {
        ring.shutdown(&self.fd);
    }
}
