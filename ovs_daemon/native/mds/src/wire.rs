//! An owner's connection to a node that follows, on the loop of the owner's shard.

use std::io;

use dtl::Outbox;
use format::mds::{End, FRAME, Frame, Rejection};
use machines::dtl::Mark;
use machines::mds::Place;
use media::{Fd, Ring, Slice};

/// Memory for answers: many of them.
const ROOM: usize = 16 * FRAME;

/// What was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireEvent {
    /// The follower stands here.
    Standing(Place),
    /// It has every batch up to this sequence.
    Acknowledged(u64),
    /// It has nothing to begin from.
    Unable,
    /// It knows a newer owner.
    Refused,
    /// It does not want to follow.
    Rejected(Rejection),
}

/// See the top of the file. The owner of a wire drops it when it is over.
#[derive(Debug)]
pub struct Wire {
    fd: Fd,
    room: Slice,
    received: usize,
    outbox: Outbox,
    receive_token: u64,
    send_token: u64,
}

impl Wire {
    /// A wire over a connection on which hello was said; the tokens are those of its ring events.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new(fd: Fd, receive_token: u64, send_token: u64, ring: &mut Ring) -> io::Result<Self> {
        let room = Slice::zeroed(ROOM)?;
        ring.recv(&fd, room.clone(), receive_token);
        let (received, outbox) = (0, Outbox::default());
        Ok(Self { fd, room, received, outbox, receive_token, send_token })
    }

    /// Sends a frame and its payload.
    ///
    /// # Errors
    /// The connection is over.
    pub fn send(&mut self, frame: Frame, payload: &[u8], ring: &mut Ring) -> io::Result<()> {
        let head = frame.encode(payload);
        self.outbox.send(&self.fd, &[&head, payload], &[], self.send_token, ring)
    }

    /// A receive has completed: appends what came. False: the connection is over.
    pub fn received(&mut self, result: i32, ring: &mut Ring, out: &mut Vec<WireEvent>) -> bool {
        let Some(bytes) = usize::try_from(result).ok().filter(|bytes| *bytes > 0) else {
            return false;
        };
        self.received += bytes;
        let mut at = 0;
        while self.received - at >= FRAME {
            let mut bytes = [0; FRAME];
            self.room.read(at, &mut bytes);
            at += FRAME;
            let event = match Frame::decode(&bytes).map(|(frame, _)| frame) {
                Ok(Frame::Standing { sco, end: End { sequence, crc } }) => {
                    WireEvent::Standing(Place { sco, mark: Mark { sequence, crc } })
                }
                Ok(Frame::Acknowledged { sequence }) => WireEvent::Acknowledged(sequence),
                Ok(Frame::Unable) => WireEvent::Unable,
                Ok(Frame::Refused { .. }) => WireEvent::Refused,
                Ok(Frame::Rejected(why)) => WireEvent::Rejected(why),
                _ => return false,
            };
            out.push(event);
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
