//! One connection to an engine on another host: commands and payloads out, answers and payloads in,
//! over TCP.
//!
//! **Out.** What was pushed since the last [`Stream::publish`] leaves with one `sendmsg`: frames of
//! commands from a small area, payloads from where front ends received them. What the socket does
//! not take at once goes through the ring; meanwhile what is pushed gathers.
//!
//! **In.** The ring receives into the places of the payloads that are due, in order, and what is
//! behind them into a small area where frames are parsed. So of a large answer nothing is copied,
//! and of a small one at most what came along with its frame.
//!
//! **End.** The connection has ended when the ring has let go of it: from then on nobody but the
//! front ends uses the memory. An engine that does not answer a hello or a goodbye in time is given
//! up; one that only is slow with requests is not: nothing says that another one were faster.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;

use format::edge::{
    Command, Done, EXTENT_LEN, FRAME_HEADER_LEN, Frame, FrameHeader, FrameKind, Verb, WireError,
    stream,
};
use media::{Arena, Fd, Ring, Slice};
use net::clock::monotonic_ns;
use net::pass;

use super::carrier::Purpose;
use super::session::Shared;
use super::{KIND_CONNECT, KIND_RECEIVE, KIND_SEND};
use crate::token::Token;

/// Longest wait for the answer to a hello or a goodbye, in nanoseconds.
const PATIENCE_NS: u64 = 2_000_000_000;
/// Area for received frames, in bytes: the longest frame fits twice.
const IN_BYTES: usize = 20 << 10;
/// Area for frames to be sent, in bytes: commands for all entries, and control frames.
const OUT_BYTES: usize = 44 << 10;

/// What the engine owes for a tag.
enum Due {
    /// Nothing but its answer.
    Plain,
    /// The bytes of a read.
    Read(Slice),
    /// Extents.
    Status,
}

/// A payload that arrives.
enum Payload {
    Read { done: Done, into: Slice, filled: usize },
    Extents { done: Done, bytes: Vec<u8>, len: usize },
}

pub(super) struct Stream {
    pub(super) generation: u32,
    fd: Fd,
    class: u8,
    index: u32,
    connecting: bool,
    receiving: bool,
    sending: bool,
    ended: bool,
    /// By the engine.
    closed: bool,
    why: String,
    deadline_ns: Option<u64>,
    received: Slice,
    start: usize,
    fill: usize,
    out: Slice,
    /// Encoded control frames that are not sent.
    control: Vec<u8>,
    waiting: Vec<(Command, Option<Slice>)>,
    /// What the socket did not take.
    unsent: Vec<Slice>,
    sending_bytes: usize,
    due: Vec<Option<Due>>,
    payloads: VecDeque<Payload>,
    answers: VecDeque<Done>,
    extents: Vec<(u32, Vec<u8>)>,
    frames: VecDeque<Frame>,
    /// What the session has to hear of bytes that make no sense.
    broken: Option<WireError>,
    /// Where frames begin is not known any more.
    nonsense: bool,
}

impl Stream {
    pub(super) fn open(
        address: SocketAddr,
        shared: &Shared,
        purpose: &Purpose,
        index: u32,
        ring: &mut Ring,
    ) -> io::Result<Self> {
        let fd = net::tcp_socket(address)?;
        let area = Arena::anonymous(IN_BYTES + OUT_BYTES)?;
        let part = |at, len| area.slice(at, len).ok_or(io::ErrorKind::InvalidInput);
        let (received, out) = (part(0, IN_BYTES)?, part(IN_BYTES, OUT_BYTES)?);
        let stream = Self {
            generation: purpose.generation,
            fd,
            class: shared.class,
            index,
            connecting: true,
            receiving: false,
            sending: false,
            ended: false,
            closed: false,
            why: String::new(),
            deadline_ns: Some(monotonic_ns() + PATIENCE_NS),
            received,
            start: 0,
            fill: 0,
            out,
            control: Frame::Hello(purpose.hello(&shared.identity)).encode(),
            waiting: Vec::new(),
            unsent: Vec::new(),
            sending_bytes: 0,
            due: (0..purpose.entries).map(|_| None).collect(),
            payloads: VecDeque::new(),
            answers: VecDeque::new(),
            extents: Vec::new(),
            frames: VecDeque::new(),
            broken: None,
            nonsense: false,
        };
        ring.connect(&stream.fd, address, stream.token(KIND_CONNECT));
        Ok(stream)
    }

    fn token(&self, kind: u8) -> u64 {
        let generation = self.generation as u16;
        Token { kind, generation, index: self.index }.pack(self.class)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended && !self.connecting && !self.receiving && !self.sending
    }

    pub(super) fn was_closed(&self) -> bool {
        self.closed
    }

    pub(super) fn why(&self) -> String {
        self.why.clone()
    }

    fn fail(&mut self, why: impl Into<String>) {
        if !std::mem::replace(&mut self.ended, true) {
            self.why = why.into();
            self.deadline_ns = None;
            // What is under way in the ring completes at once.
            pass::shutdown(std::os::fd::AsFd::as_fd(&*self.fd));
        }
    }

    pub(super) fn deadline_ns(&self) -> Option<u64> {
        self.deadline_ns
    }

    pub(super) fn expire(&mut self, now_ns: u64) {
        if self.deadline_ns.is_some_and(|at| at <= now_ns) {
            let seconds = PATIENCE_NS / 1_000_000_000;
            self.fail(format!("the engine did not answer within {seconds} s"));
        }
    }

    /// Asks the engine to finish and close.
    pub(super) fn leave(&mut self, now_ns: u64) {
        if self.connecting || self.nonsense {
            return self.fail("it was given up");
        }
        self.waiting.clear();
        self.control.extend(Frame::Goodbye.encode());
        self.deadline_ns = Some(now_ns + PATIENCE_NS);
        self.publish();
    }

    pub(super) fn on_event(&mut self, kind: u8, result: i32) {
        let error = |result: i32| io::Error::from_raw_os_error(-result);
        match kind {
            KIND_CONNECT => {
                self.connecting = false;
                if result < 0 {
                    self.fail(format!("cannot connect: {}", error(result)));
                }
            }
            KIND_SEND => {
                self.sending = false;
                let expected = std::mem::take(&mut self.sending_bytes);
                if result < 0 {
                    self.fail(format!("sending failed: {}", error(result)));
                } else if result as usize != expected {
                    self.fail("the engine stopped receiving");
                }
            }
            _ => {
                self.receiving = false;
                match result {
                    1.. => self.take_received(result as usize),
                    0 => {
                        // What we have shut ourselves ends in the same way.
                        self.closed = !self.ended;
                        self.fail("the engine closed the connection");
                    }
                    _ => self.fail(format!("receiving failed: {}", error(result))),
                }
            }
        }
        self.publish();
    }

    // ---- out

    #[inline]
    pub(super) fn push(&mut self, command: &Command, payload: Option<&Slice>) {
        let due = match (command.verb, payload) {
            (Verb::Read, Some(into)) => Due::Read(into.clone()),
            (Verb::BlockStatus, _) => Due::Status,
            _ => Due::Plain,
        };
        self.due[command.tag as usize] = Some(due);
        let flags = command.flags & format::edge::FLAG_FUA;
        let command = Command { flags, place: 0, room: 0, ..*command };
        let payload = payload.filter(|_| command.verb == Verb::Write).cloned();
        self.waiting.push((command, payload));
    }

    /// Sends what waits, as far as the socket takes it.
    pub(super) fn publish(&mut self) {
        let busy = self.connecting || self.ended || self.sending || !self.unsent.is_empty();
        if busy || self.waiting.is_empty() && self.control.is_empty() {
            return;
        }
        let slices = self.gather();
        let total: usize = slices.iter().map(Slice::len).sum();
        match net::send_all_now(&self.fd, &slices) {
            Ok(sent) if sent == total => {}
            Ok(sent) => self.unsent = rest_of(slices, sent),
            Err(error) => self.fail(format!("sending failed: {error}")),
        }
    }

    /// All that waits, in order: frames in the area for them, payloads where they are.
    fn gather(&mut self) -> Vec<Slice> {
        let mut slices = Vec::with_capacity(2 * self.waiting.len() + 8);
        let mut bytes = std::mem::take(&mut self.control);
        let mut at = 0;
        let mut waiting = self.waiting.drain(..).peekable();
        loop {
            let batch: Vec<_> = waiting.by_ref().take(stream::BATCH_MAX).collect();
            if !batch.is_empty() {
                let commands: Vec<Command> = batch.iter().map(|(command, _)| *command).collect();
                stream::put_commands(&mut bytes, &commands);
            }
            if bytes.is_empty() {
                break;
            }
            let place = self.out.sub(at, bytes.len());
            place.write(0, &bytes);
            at += bytes.len();
            bytes.clear();
            slices.push(place);
            slices.extend(batch.into_iter().filter_map(|(_, payload)| payload));
        }
        drop(waiting);
        self.control = bytes;
        slices
    }

    pub(super) fn wants_ring(&self) -> bool {
        let receives = !self.receiving && !self.connecting;
        let sends = !self.sending && !self.unsent.is_empty();
        if self.ended { self.has_ended() } else { receives || sends }
    }

    /// Starts what waits for the ring.
    pub(super) fn arm(&mut self, ring: &mut Ring) {
        if self.ended || self.connecting {
            return;
        }
        if !self.sending && !self.unsent.is_empty() {
            let slices = std::mem::take(&mut self.unsent);
            self.sending_bytes = slices.iter().map(Slice::len).sum();
            self.sending = true;
            ring.send_all(&self.fd, slices, self.token(KIND_SEND));
        }
        if !self.receiving {
            self.receiving = true;
            let places = self.places();
            ring.recv_all(&self.fd, places, self.token(KIND_RECEIVE));
        }
    }

    // ---- in

    /// Where the next bytes go: into payloads that are due, then behind what was received.
    fn places(&mut self) -> Vec<Slice> {
        if self.start == self.fill {
            (self.start, self.fill) = (0, 0);
        } else if self.start > 0 {
            let rest = self.received.sub(self.start, self.fill - self.start);
            rest.copy_to(&self.received.sub(0, rest.len()));
            (self.start, self.fill) = (0, rest.len());
        }
        let mut places = Vec::new();
        for payload in self.payloads.iter().take(net::PIECES_MAX - 1) {
            let Payload::Read { into, filled, .. } = payload else { break };
            places.push(into.sub(*filled, into.len() - filled));
        }
        places.push(self.received.sub(self.fill, IN_BYTES - self.fill));
        places
    }

    fn take_received(&mut self, mut len: usize) {
        while let Some(Payload::Read { done, into, filled }) = self.payloads.front_mut() {
            let part = len.min(into.len() - *filled);
            (*filled, len) = (*filled + part, len - part);
            if *filled < into.len() {
                return;
            }
            self.answers.push_back(*done);
            self.payloads.pop_front();
        }
        self.fill += len;
        if self.nonsense {
            return self.start = self.fill;
        }
        if let Err(error) = self.parse() {
            self.broken = Some(error);
            self.nonsense = true;
            self.payloads.clear();
        }
    }

    fn available(&self) -> usize {
        self.fill - self.start
    }

    fn parse(&mut self) -> Result<(), WireError> {
        while self.fill_payloads() && self.available() >= FRAME_HEADER_LEN {
            let mut header = [0; FRAME_HEADER_LEN];
            self.received.read(self.start, &mut header);
            let header = FrameHeader::decode(&header)?;
            let len = FRAME_HEADER_LEN + header.body_len as usize;
            if self.available() < len {
                break;
            }
            let mut bytes = vec![0; len];
            self.received.read(self.start, &mut bytes);
            self.start += len;
            match header.kind {
                FrameKind::Complete => {
                    for done in stream::answers(&header, &bytes[FRAME_HEADER_LEN..])? {
                        self.answered(done)?;
                    }
                }
                _ => {
                    let (frame, _) = Frame::decode(&bytes)?.ok_or(WireError::Length)?;
                    // The engine is there and answers.
                    self.deadline_ns = None;
                    self.frames.push_back(frame);
                }
            }
        }
        Ok(())
    }

    /// Puts what was received into the payloads that are due; false: more must arrive.
    fn fill_payloads(&mut self) -> bool {
        while let Some(payload) = self.payloads.front_mut() {
            let available = self.fill - self.start;
            let done = match payload {
                Payload::Read { done, into, filled } => {
                    let part = available.min(into.len() - *filled);
                    self.received.sub(self.start, part).copy_to(&into.sub(*filled, part));
                    (*filled, self.start) = (*filled + part, self.start + part);
                    if *filled < into.len() {
                        return false;
                    }
                    *done
                }
                Payload::Extents { done, bytes, len } => {
                    let part = available.min(*len - bytes.len());
                    bytes.extend(self.received.sub(self.start, part).to_vec());
                    self.start += part;
                    if bytes.len() < *len {
                        return false;
                    }
                    self.extents.push((done.tag, std::mem::take(bytes)));
                    *done
                }
            };
            self.payloads.pop_front();
            self.answers.push_back(done);
        }
        true
    }

    /// An answer; its payload follows.
    fn answered(&mut self, done: Done) -> Result<(), WireError> {
        let due = self.due.get_mut(done.tag as usize).and_then(Option::take);
        match due.ok_or(WireError::Value("tag"))? {
            Due::Read(into) if done.errno == 0 && done.extents == 0 => {
                self.payloads.push_back(Payload::Read { done, into, filled: 0 });
            }
            Due::Status if done.extents > 0 => {
                let len = done.extents as usize * EXTENT_LEN;
                self.payloads.push_back(Payload::Extents { done, bytes: Vec::new(), len });
            }
            _ if done.extents > 0 => return Err(WireError::Value("extents")),
            _ => self.answers.push_back(done),
        }
        Ok(())
    }

    pub(super) fn has_answers(&self) -> bool {
        !self.answers.is_empty()
    }

    pub(super) fn pop(&mut self) -> Option<Done> {
        self.answers.pop_front()
    }

    pub(super) fn extents(&mut self, tag: u32) -> Option<Vec<u8>> {
        let at = self.extents.iter().position(|(of, _)| *of == tag)?;
        Some(self.extents.swap_remove(at).1)
    }

    pub(super) fn next_frame(&mut self) -> Result<Option<Frame>, WireError> {
        match self.frames.pop_front() {
            None => self.broken.take().map_or(Ok(None), Err),
            frame => Ok(frame),
        }
    }
}

/// What is left of slices of which so many bytes are gone.
fn rest_of(slices: Vec<Slice>, mut gone: usize) -> Vec<Slice> {
    let mut rest = Vec::new();
    for slice in slices {
        let skip = gone.min(slice.len());
        gone -= skip;
        if skip < slice.len() {
            rest.push(if skip == 0 { slice } else { slice.sub(skip, slice.len() - skip) });
        }
    }
    rest
}
