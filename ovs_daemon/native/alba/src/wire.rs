//! A connection between a cluster and an OSD server: frames in, frames out, never waiting.
//!
//! The owner has a loop: it calls [`Wire::receive`] when the socket can be read and
//! [`Wire::flush`] when it can be written. What is sent is not copied in user space: a fragment goes
//! to the socket from where it was computed, what is received lies where it is used.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use format::Malformed;
use format::osd::wire::{FRAME, Frame};
use media::Fd;

use crate::osd::Parts;

/// Bytes that are received at once when frames are small.
const ROOM: usize = 64 << 10;
/// A connection gives way to others after so many bytes.
const TURN_BYTES: usize = 8 << 20;
/// Pieces of one send.
const PIECES: usize = 64;

/// A frame that has come, with all that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The frame.
    pub frame: Frame,
    /// Its meta, compared with its checksum.
    pub meta: Vec<u8>,
    /// Its data.
    pub data: Vec<u8>,
}

impl Received {
    /// The meta as text.
    pub fn text(&self) -> Result<&str, Malformed> {
        std::str::from_utf8(&self.meta).map_err(|_| Malformed::Field("text"))
    }
}

/// Why a connection is over.
#[derive(Debug)]
pub enum WireError {
    /// The socket.
    Io(io::Error),
    /// The peer has closed it.
    Ended,
    /// What came makes no sense.
    Malformed(Malformed),
    /// A frame is larger than it may be now.
    TooLarge,
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
            Self::Ended => write!(f, "the connection was closed"),
            Self::Malformed(why) => write!(f, "what came makes no sense: {why}"),
            Self::TooLarge => write!(f, "a frame is too large"),
        }
    }
}

impl std::error::Error for WireError {}

/// Bytes that went over sockets.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Sent.
    pub sent: AtomicU64,
    /// Received.
    pub received: AtomicU64,
    /// Of both: bytes of fragments, without what is said about them.
    pub fragments: AtomicU64,
}

#[derive(Debug)]
struct Outgoing {
    head: Vec<u8>,
    parts: Option<Parts>,
    sent: usize,
    len: usize,
}

impl Outgoing {
    fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let parts = self.parts.iter().flat_map(|parts| parts.iter().map(Vec::as_slice));
        let mut skip = self.sent;
        std::iter::once(self.head.as_slice()).chain(parts).filter_map(move |part| {
            let cut = skip.min(part.len());
            skip -= cut;
            Some(&part[cut..]).filter(|rest| !rest.is_empty())
        })
    }
}

/// See the top of the file.
#[derive(Debug)]
pub struct Wire {
    fd: Fd,
    stream: TcpStream,
    room: Vec<u8>,
    from: usize,
    to: usize,
    /// A frame whose body has not come entirely.
    partial: Option<Received>,
    body_max: usize,
    outbox: VecDeque<Outgoing>,
    queued: usize,
    traffic: Arc<Traffic>,
}

impl Wire {
    /// Over a connected socket; `body_max`: bytes that may follow a frame.
    pub fn new(fd: Fd, body_max: usize) -> io::Result<Self> {
        let stream = TcpStream::from(fd.try_clone()?);
        stream.set_nonblocking(true)?;
        let (room, outbox) = (vec![0; ROOM], VecDeque::new());
        let (from, to, queued) = (0, 0, 0);
        let traffic = Arc::default();
        Ok(Self { fd, stream, room, from, to, partial: None, body_max, outbox, queued, traffic })
    }

    /// Counts its bytes with those of others.
    pub fn count_with(&mut self, traffic: Arc<Traffic>) {
        self.traffic = traffic;
    }

    /// Its socket.
    pub fn fd(&self) -> &Fd {
        &self.fd
    }

    /// From now on so many bytes may follow a frame.
    pub fn allow(&mut self, body_max: usize) {
        self.body_max = body_max;
    }

    /// Bytes that wait to be sent.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Puts a frame with its meta and data behind those that wait; [`Wire::flush`] sends it.
    pub fn send(&mut self, frame: &Frame, meta: &[u8], parts: Option<Parts>) {
        let mut head = Vec::with_capacity(FRAME + meta.len());
        head.extend_from_slice(&frame.encode());
        head.extend_from_slice(meta);
        let len = head.len() + frame.data as usize;
        self.queued += len;
        self.outbox.push_back(Outgoing { head, parts, sent: 0, len });
    }

    /// Sends what the socket takes. True: everything.
    pub fn flush(&mut self) -> Result<bool, WireError> {
        while !self.outbox.is_empty() {
            let slices = self.outbox.iter().flat_map(Outgoing::slices).take(PIECES);
            let vector: Vec<IoSlice> = slices.map(IoSlice::new).collect();
            let mut sent = match (&self.stream).write_vectored(&vector) {
                Ok(0) => return Err(WireError::Ended),
                Ok(sent) => sent,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(WireError::Io(e)),
            };
            self.queued -= sent;
            self.traffic.sent.fetch_add(sent as u64, Ordering::Relaxed);
            while let Some(first) = self.outbox.front_mut() {
                let now = sent.min(first.len - first.sent);
                first.sent += now;
                sent -= now;
                if first.sent < first.len {
                    break;
                }
                self.outbox.pop_front();
            }
        }
        Ok(true)
    }

    /// Takes what has come; whole frames are appended. True: there may be more at once.
    pub fn receive(&mut self, out: &mut Vec<Received>) -> Result<bool, WireError> {
        let mut taken = 0;
        while taken < TURN_BYTES {
            let large = self.partial.as_ref().is_some_and(Received::is_large);
            let got = if large { self.receive_data()? } else { self.receive_room()? };
            let Some(bytes) = got else { return Ok(false) };
            taken += bytes;
            self.traffic.received.fetch_add(bytes as u64, Ordering::Relaxed);
            self.take_frames(out)?;
        }
        Ok(true)
    }

    fn receive_room(&mut self) -> Result<Option<usize>, WireError> {
        if self.from > 0 {
            self.room.copy_within(self.from..self.to, 0);
            (self.from, self.to) = (0, self.to - self.from);
        }
        let got = (&self.stream).read(&mut self.room[self.to..]);
        let bytes = outcome(got)?;
        self.to += bytes.unwrap_or(0);
        Ok(bytes)
    }

    /// The rest of a large body, to where it is used.
    fn receive_data(&mut self) -> Result<Option<usize>, WireError> {
        let Some(partial) = &mut self.partial else { return Ok(None) };
        let (before, missing) = (partial.data.len(), partial.missing());
        let got = (&self.stream).take(missing as u64).read_to_end(&mut partial.data);
        let bytes = partial.data.len() - before;
        match got {
            Ok(_) if bytes < missing => Err(WireError::Ended),
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => Err(WireError::Io(e)),
            _ => Ok((bytes > 0).then_some(bytes)),
        }
    }

    fn take_frames(&mut self, out: &mut Vec<Received>) -> Result<(), WireError> {
        loop {
            if self.partial.is_none() {
                let Some(frame) = self.room[self.from..self.to].get(..FRAME) else { return Ok(()) };
                let frame = Frame::decode(frame).map_err(WireError::Malformed)?;
                if frame.body() > self.body_max {
                    return Err(WireError::TooLarge);
                }
                self.from += FRAME;
                let meta = Vec::with_capacity(frame.meta as usize);
                let data = Vec::with_capacity(frame.data as usize);
                self.partial = Some(Received { frame, meta, data });
            }
            let Some(partial) = &mut self.partial else { return Ok(()) };
            let there = &self.room[self.from..self.to];
            let meta = there.len().min(partial.frame.meta as usize - partial.meta.len());
            partial.meta.extend_from_slice(&there[..meta]);
            let there = &there[meta..];
            let data = there.len().min(partial.frame.data as usize - partial.data.len());
            partial.data.extend_from_slice(&there[..data]);
            self.from += meta + data;
            if partial.missing() > 0 {
                return Ok(());
            }
            let Some(whole) = self.partial.take() else { return Ok(()) };
            whole.frame.check_meta(&whole.meta).map_err(WireError::Malformed)?;
            out.push(whole);
        }
    }
}

impl Received {
    fn missing(&self) -> usize {
        self.frame.body() - self.meta.len() - self.data.len()
    }

    /// Whether only data is missing, and much of it.
    fn is_large(&self) -> bool {
        self.meta.len() == self.frame.meta as usize && self.missing() > ROOM
    }
}

fn outcome(got: io::Result<usize>) -> Result<Option<usize>, WireError> {
    match got {
        Ok(0) => Err(WireError::Ended),
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(Some(0)),
        Err(e) => Err(WireError::Io(e)),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::Arc;

    use format::osd::wire::Kind;

    use super::*;

    fn pair() -> (Wire, Wire) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (theirs, _) = listener.accept().unwrap();
        let wire = |stream: TcpStream| Wire::new(Arc::new(stream.into()), 64 << 20).unwrap();
        (wire(ours), wire(theirs))
    }

    #[test]
    fn frames_of_all_sizes_arrive_as_they_were_sent() {
        let (mut ours, mut theirs) = pair();
        let mut sent = Vec::new();
        for (number, len) in [0, 1, 4096, 70_000, 9 << 20, 5, 3 << 20].into_iter().enumerate() {
            let meta = vec![number as u8; number * 1000];
            let data: Vec<u8> = (0..len).map(|at| (at * 7 + number) as u8).collect();
            let frame = Frame::new(Kind::Put, number as u64, &meta, len);
            let (a, b) = data.split_at(len / 3);
            ours.send(&frame, &meta, Some(Arc::new(vec![a.to_vec(), b.to_vec()])));
            sent.push(Received { frame, meta, data });
        }
        let mut received = Vec::new();
        while received.len() < sent.len() {
            ours.flush().unwrap();
            theirs.receive(&mut received).unwrap();
        }
        assert_eq!(received, sent);
        assert_eq!(ours.queued(), 0);
        drop(ours);
        assert!(matches!(theirs.receive(&mut received), Err(WireError::Ended)));
    }

    #[test]
    fn what_is_too_large_now_or_damaged_ends_it() {
        let (mut ours, mut theirs) = pair();
        theirs.allow(100);
        ours.send(&Frame::new(Kind::Hello, 0, &[1; 101], 0), &[1; 101], None);
        ours.flush().unwrap();
        let mut received = Vec::new();
        let error = loop {
            match theirs.receive(&mut received) {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert!(matches!(error, WireError::TooLarge), "{error}");
        let (mut ours, mut theirs) = pair();
        ours.send(&Frame::new(Kind::Hello, 0, b"this", 0), b"that", None);
        ours.flush().unwrap();
        let error = loop {
            match theirs.receive(&mut received) {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert!(matches!(error, WireError::Malformed(Malformed::Checksum)), "{error}");
        assert!(received.is_empty());
    }
}
