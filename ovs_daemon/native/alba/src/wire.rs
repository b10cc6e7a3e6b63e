//! A connection between a cluster and an OSD server: frames in, frames out, never waiting.
//!
//! The owner has a loop: it calls [`Wire::receive`] when the socket can be read and
//! [`Wire::flush`] when it can be written. What is sent is not copied in user space: a fragment goes
//! to the socket from where it was computed, what is received lies where it is used. Nor is it copied
//! by the kernel if it was lent: see [`Wire::lend`].

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind, IoSlice, Read};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use format::log::PAGE;
use format::osd::wire::{FRAME, Frame, Kind};
use format::{Malformed, crc32c};
use media::{Buffer, Fd, Loan, Pool};
use net::{Conduit, send_some_now, wake_at};

use crate::osd::Parts;
use crate::part::Part;

/// Bytes that are received at once when frames are small.
const ROOM: usize = 64 << 10;
/// Bytes that are received at once of what is large; while more are missing nobody is woken for
/// less. They are in the processor's cache when their checksums are computed.
const STRETCH: usize = 256 << 10;
/// A connection gives way to others after so many bytes, received or sent: what is large must not
/// keep small requests of others waiting.
const TURN_BYTES: usize = 256 << 10;
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
    pub data: Part,
    /// Of a put: the CRC32C of each whole 4 KiB of its data, computed as they came.
    pub crcs: Vec<u8>,
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
    tag: u64,
    head: Vec<u8>,
    parts: Option<Parts>,
    /// Of each part whether its pages may be sent as they are.
    lent: Vec<bool>,
    sent: usize,
    len: usize,
}

impl Outgoing {
    /// What is left of it, in order, and whether it is lent.
    fn pieces(&self) -> impl Iterator<Item = (&[u8], bool)> {
        let parts = self.parts.iter().flat_map(|parts| parts.iter().map(|part| &**part));
        let lent = self.lent.iter().copied().chain(std::iter::repeat(false));
        let mut skip = self.sent;
        let all = std::iter::once((self.head.as_slice(), false)).chain(parts.zip(lent));
        all.filter_map(move |(part, lent)| {
            let cut = skip.min(part.len());
            skip -= cut;
            Some((&part[cut..], lent)).filter(|(rest, _)| !rest.is_empty())
        })
    }
}

/// Where the data of a frame comes to.
#[derive(Debug)]
enum Body {
    Plain(Vec<u8>),
    Pooled(Buffer),
}

impl Body {
    fn len(&self) -> usize {
        match self {
            Body::Plain(bytes) => bytes.len(),
            Body::Pooled(buffer) => buffer.len(),
        }
    }

    fn bytes(&mut self) -> &mut [u8] {
        match self {
            Body::Plain(bytes) => bytes,
            Body::Pooled(buffer) => buffer,
        }
    }
}

/// A frame whose body has not come entirely.
#[derive(Debug)]
struct Partial {
    frame: Frame,
    meta: Vec<u8>,
    data: Body,
    /// Bytes of the data that have come.
    filled: usize,
    /// See [`Received::crcs`].
    crcs: Vec<u8>,
}

/// See the top of the file.
#[derive(Debug)]
pub struct Wire {
    fd: Fd,
    stream: TcpStream,
    room: Vec<u8>,
    from: usize,
    to: usize,
    partial: Option<Partial>,
    body_max: usize,
    outbox: VecDeque<Outgoing>,
    queued: usize,
    traffic: Arc<Traffic>,
    pool: Option<Arc<Pool>>,
    /// With how many bytes the socket counts as readable.
    wakes_at: usize,
}

impl Wire {
    /// Over a connected socket; `body_max`: bytes that may follow a frame.
    pub fn new(fd: Fd, body_max: usize) -> io::Result<Self> {
        let stream = TcpStream::from(fd.try_clone()?);
        stream.set_nonblocking(true)?;
        let (room, outbox) = (vec![0; ROOM], VecDeque::new());
        let (from, to, queued) = (0, 0, 0);
        let traffic = Arc::default();
        Ok(Self {
            fd,
            stream,
            room,
            from,
            to,
            partial: None,
            body_max,
            outbox,
            queued,
            traffic,
            pool: None,
            wakes_at: 1,
        })
    }

    /// Receives large data into buffers of this pool.
    pub fn receive_into(&mut self, pool: Arc<Pool>) {
        self.pool = Some(pool);
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
        self.queue(frame, meta, parts, Vec::new());
    }

    /// The same; what is large of its data is not copied when it is sent through a conduit. The loans
    /// are to be settled when the peer has answered: until then nobody may change the data, and if it
    /// never answers they must not be.
    pub fn lend(&mut self, frame: &Frame, meta: &[u8], parts: Option<Parts>) -> Vec<Loan> {
        let loans: Vec<Option<Loan>> =
            parts.iter().flat_map(|parts| parts.iter().map(Part::lend)).collect();
        self.queue(frame, meta, parts, loans.iter().map(Option::is_some).collect());
        loans.into_iter().flatten().collect()
    }

    /// Whether a frame of this tag has not been sent entirely.
    pub fn is_sending(&self, tag: u64) -> bool {
        self.outbox.iter().any(|one| one.tag == tag)
    }

    fn queue(&mut self, frame: &Frame, meta: &[u8], parts: Option<Parts>, lent: Vec<bool>) {
        let mut head = Vec::with_capacity(FRAME + meta.len());
        head.extend_from_slice(&frame.encode());
        head.extend_from_slice(meta);
        let len = head.len() + frame.data as usize;
        self.queued += len;
        self.outbox.push_back(Outgoing { tag: frame.tag, head, parts, lent, sent: 0, len });
    }

    /// Sends what the socket takes, and no more than one turn's; what was lent goes through the conduit.
    /// True: everything.
    pub fn flush(&mut self, mut conduit: Option<&mut Conduit>) -> Result<bool, WireError> {
        let mut turn = TURN_BYTES;
        while !self.outbox.is_empty() {
            if turn == 0 {
                return Ok(false);
            }
            let sent = self.send_some(conduit.as_deref_mut(), turn);
            let mut sent = sent.map_err(WireError::Io)?;
            if sent == 0 {
                return Ok(false);
            }
            self.queued -= sent;
            turn = turn.saturating_sub(sent);
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

    /// Sends the first bytes that wait, no more than so many (of what was lent, than a whole turn's), in
    /// one way; 0: the socket takes nothing now.
    fn send_some(&self, conduit: Option<&mut Conduit>, most: usize) -> io::Result<usize> {
        let mut pieces = self.outbox.iter().flat_map(Outgoing::pieces).peekable();
        let lends = conduit.is_some();
        if let (Some(conduit), Some((first, _))) = (conduit, pieces.next_if(|(_, lent)| *lent)) {
            // Whole pages, whatever went before them in this turn.
            let now = &first[..first.len().min(TURN_BYTES)];
            let more = now.len() < first.len() || pieces.peek().is_some();
            return conduit.send(&self.fd, now, more);
        }
        let (mut vector, mut room): (Vec<IoSlice>, usize) = (Vec::new(), most);
        let mut cut = false;
        while vector.len() < PIECES
            && room > 0
            && let Some((piece, _)) = pieces.next_if(|(_, lent)| !(lends && *lent))
        {
            let now = &piece[..piece.len().min(room)];
            room -= now.len();
            cut = now.len() < piece.len();
            vector.push(IoSlice::new(now));
        }
        send_some_now(&self.fd, &vector, cut || pieces.peek().is_some())
    }

    /// Takes what has come; whole frames are appended. True: there may be more at once.
    pub fn receive(&mut self, out: &mut Vec<Received>) -> Result<bool, WireError> {
        let mut taken = 0;
        while taken < TURN_BYTES {
            let large = self.partial.as_ref().is_some_and(Partial::is_large);
            let (bytes, room) = if large { self.receive_data()? } else { self.receive_room()? };
            taken += bytes;
            self.traffic.received.fetch_add(bytes as u64, Ordering::Relaxed);
            self.take_frames(out)?;
            if bytes < room {
                // That was all: asking for more would only be told so.
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Bytes that have come, and that there was room for.
    fn receive_room(&mut self) -> Result<(usize, usize), WireError> {
        if self.from > 0 {
            self.room.copy_within(self.from..self.to, 0);
            (self.from, self.to) = (0, self.to - self.from);
        }
        let room = self.room.len() - self.to;
        let bytes = outcome((&self.stream).read(&mut self.room[self.to..]))?;
        self.to += bytes;
        Ok((bytes, room))
    }

    /// The rest of a large body, to where it is used.
    fn receive_data(&mut self) -> Result<(usize, usize), WireError> {
        let Some(partial) = &mut self.partial else { return Ok((0, 1)) };
        let room = partial.missing().min(STRETCH);
        let got = (&self.stream).read(&mut partial.data.bytes()[partial.filled..][..room]);
        let bytes = outcome(got)?;
        partial.filled += bytes;
        partial.sum();
        // Also when there is more already: the turn may be over.
        let worthwhile = if partial.is_large() { partial.missing().min(STRETCH) } else { 1 };
        self.wake_at(worthwhile);
        Ok((bytes, room))
    }

    /// The socket counts as readable with so many bytes.
    fn wake_at(&mut self, bytes: usize) {
        if self.wakes_at != bytes {
            self.wakes_at = bytes;
            wake_at(&self.fd, bytes);
        }
    }

    fn body(&self, len: usize) -> Result<Body, WireError> {
        match &self.pool {
            Some(pool) if len > ROOM => Ok(Body::Pooled(pool.take(len).map_err(WireError::Io)?)),
            _ => Ok(Body::Plain(vec![0; len])),
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
                let data = self.body(frame.data as usize)?;
                let clusters = if frame.kind == Kind::Put { data.len() / PAGE } else { 0 };
                let crcs = Vec::with_capacity(clusters * 4);
                self.partial = Some(Partial { frame, meta, data, filled: 0, crcs });
            }
            let Some(partial) = &mut self.partial else { return Ok(()) };
            let there = &self.room[self.from..self.to];
            let meta = there.len().min(partial.frame.meta as usize - partial.meta.len());
            partial.meta.extend_from_slice(&there[..meta]);
            let there = &there[meta..];
            let data = there.len().min(partial.frame.data as usize - partial.filled);
            partial.data.bytes()[partial.filled..partial.filled + data]
                .copy_from_slice(&there[..data]);
            partial.filled += data;
            partial.sum();
            self.from += meta + data;
            if partial.missing() > 0 {
                return Ok(());
            }
            let Some(Partial { frame, meta, data, crcs, .. }) = self.partial.take() else {
                return Ok(());
            };
            frame.check_meta(&meta).map_err(WireError::Malformed)?;
            let data = match data {
                Body::Plain(bytes) => bytes.into(),
                Body::Pooled(buffer) => buffer.into(),
            };
            out.push(Received { frame, meta, data, crcs });
        }
    }
}

impl Partial {
    fn missing(&self) -> usize {
        self.frame.body() - self.meta.len() - self.filled
    }

    /// Computes the checksums of what has come, while it is in the processor's cache.
    fn sum(&mut self) {
        if self.frame.kind != Kind::Put {
            return;
        }
        let from = self.crcs.len() / 4 * PAGE;
        for cluster in self.data.bytes()[from..self.filled].chunks_exact(PAGE) {
            self.crcs.extend(crc32c(cluster).to_le_bytes());
        }
    }

    /// Whether only data is missing, and much of it.
    fn is_large(&self) -> bool {
        self.meta.len() == self.frame.meta as usize && self.missing() > ROOM
    }
}

fn outcome(got: io::Result<usize>) -> Result<usize, WireError> {
    match got {
        Ok(0) => Err(WireError::Ended),
        Ok(bytes) => Ok(bytes),
        // Whoever polls is told at once of what is there after an interruption.
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
        Err(e) => Err(WireError::Io(e)),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use format::fragment::payload_crcs;

    use super::*;

    fn pair() -> (Wire, Wire) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (theirs, _) = listener.accept().unwrap();
        let wire = |stream: TcpStream| Wire::new(Arc::new(stream.into()), 64 << 20).unwrap();
        (wire(ours), wire(theirs))
    }

    /// Receives until it is over: why it is.
    fn end_of(wire: &mut Wire, received: &mut Vec<Received>) -> WireError {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            match wire.receive(received) {
                Ok(_) => assert!(Instant::now() < end, "it goes on"),
                Err(error) => return error,
            }
        }
    }

    #[test]
    fn frames_of_all_sizes_arrive_as_they_were_sent() {
        let (mut ours, mut theirs) = pair();
        let pool = Pool::new(64 << 20);
        theirs.receive_into(pool.clone());
        let mut sent = Vec::new();
        for (number, len) in [0, 1, 4096, 70_000, 9 << 20, 5, 3 << 20].into_iter().enumerate() {
            let meta = vec![number as u8; number * 1000];
            let data: Vec<u8> = (0..len).map(|at| (at * 7 + number) as u8).collect();
            let frame = Frame::new(Kind::Put, number as u64, &meta, len);
            let (a, b) = data.split_at(len / 3);
            ours.send(&frame, &meta, Some(Arc::new(vec![a.to_vec().into(), b.to_vec().into()])));
            let crcs = payload_crcs(&data[..len / PAGE * PAGE]);
            sent.push(Received { frame, meta, data: data.into(), crcs });
        }
        let mut received = Vec::new();
        while received.len() < sent.len() {
            let before = (ours.queued(), theirs.traffic.received.load(Ordering::Relaxed));
            ours.flush(None).unwrap();
            theirs.receive(&mut received).unwrap();
            let taken = theirs.traffic.received.load(Ordering::Relaxed) - before.1;
            assert!(before.0 - ours.queued() <= TURN_BYTES && taken < 2 * TURN_BYTES as u64);
            // Nobody would be woken for what is left.
            let missing = theirs.partial.as_ref().map_or(1, Partial::missing);
            assert!(theirs.wakes_at <= missing.max(1), "{} of {missing}", theirs.wakes_at);
        }
        assert_eq!(received, sent);
        received.clear();
        assert!(pool.kept() > 9 << 20, "{}", pool.kept());
        assert_eq!(ours.queued(), 0);
        drop(ours);
        assert!(matches!(end_of(&mut theirs, &mut received), WireError::Ended));
    }

    #[test]
    fn what_was_lent_arrives_and_is_not_used_again_before_the_loan_is_settled() {
        let (mut ours, mut theirs) = pair();
        let (pool, mut conduit) = (Pool::new(64 << 20), Conduit::of_this_thread());
        let mut buffer = pool.take(9 << 20).unwrap();
        for (at, byte) in buffer.iter_mut().enumerate() {
            *byte = (at / PAGE * 3 + at) as u8;
        }
        let all = Part::from(buffer);
        let expected = all.to_vec();
        // Small parts, and plain ones, are copied beside those that are lent.
        let parts = [0..5000, 5000..1 << 20, 1 << 20..5 << 20, 5 << 20..9 << 20];
        let mut parts: Vec<Part> = parts.into_iter().map(|range| all.sub(range)).collect();
        parts.insert(2, vec![9; PAGE].into());
        drop(all);
        let expected = [&expected[..1 << 20], &[9; PAGE], &expected[1 << 20..]].concat();
        let mut loans = Vec::new();
        for tag in [1, 2] {
            let frame = Frame::new(Kind::Put, tag, b"meta", expected.len());
            loans.push(ours.lend(&frame, b"meta", Some(Arc::new(parts.clone()))));
        }
        drop(parts);
        let mut received: Vec<Received> = Vec::new();
        assert!(ours.is_sending(1) && ours.is_sending(2));
        while received.len() < 2 {
            ours.flush(Some(&mut conduit)).unwrap();
            theirs.receive(&mut received).unwrap();
        }
        assert!(!ours.is_sending(1) && !ours.is_sending(2));
        assert!(received.iter().all(|one| one.data[..] == expected));
        assert_eq!(loans.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3]);
        loans.remove(0).into_iter().for_each(Loan::settle);
        assert_eq!(pool.kept(), 0, "the second frame was not answered");
        loans.remove(0).into_iter().for_each(Loan::settle);
        assert!(pool.kept() > 0);
    }

    #[test]
    fn what_is_too_large_now_or_damaged_ends_it() {
        let (mut ours, mut theirs) = pair();
        theirs.allow(100);
        ours.send(&Frame::new(Kind::Hello, 0, &[1; 101], 0), &[1; 101], None);
        ours.flush(None).unwrap();
        let mut received = Vec::new();
        let error = end_of(&mut theirs, &mut received);
        assert!(matches!(error, WireError::TooLarge), "{error}");
        let (mut ours, mut theirs) = pair();
        ours.send(&Frame::new(Kind::Hello, 0, b"this", 0), b"that", None);
        ours.flush(None).unwrap();
        let error = end_of(&mut theirs, &mut received);
        assert!(matches!(error, WireError::Malformed(Malformed::Checksum)), "{error}");
        assert!(received.is_empty());
    }
}
