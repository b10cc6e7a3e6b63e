//! One connection to an OSD: connects, proves who it is, asks, hears, connects again.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use format::Malformed;
use format::osd::wire::{
    Challenge, Class, DATA_MAX, Frame, Hello, IN_FLIGHT_MAX, Kind, META_MAX, NONCE, Reason, Side,
    VERSION,
};
use media::{Event, Fd, Loan, Ring};
use net::{Conduit, unpaced_socket};

use super::{Link, Shared, lock};
use crate::Cause;
use crate::codec::{Heard, decode_answer, encode_request};
use crate::osd::{Answer, Reply, Request};
use crate::wire::{Received, Wire};

const SECOND: u64 = 1_000_000_000;
/// How long connecting and greeting may take.
const GREETING: u64 = 2 * SECOND;
/// How long an answer may take.
const ANSWER: u64 = 5 * SECOND;
/// The same of what waits for a disk, or for many of its files.
const ANSWER_OF_DISK: u64 = 30 * SECOND;
/// Between attempts to connect.
const RETRY_MIN: u64 = SECOND / 50;
const RETRY_MAX: u64 = SECOND / 2;
/// Fragments that wait for an OSD may have so many bytes: one that is too slow must not fill the
/// memory.
const WAITING_BYTES_MAX: usize = 256 << 20;

/// How often it is looked whether something takes too long.
const LOOK: u64 = SECOND / 50;

const CONNECT: u64 = 1;
const READ: u64 = 2;
const WRITE: u64 = 3;

/// What a ring event is about. A connection has a generation: events of earlier ones are ignored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Token {
    pub(crate) peer: usize,
    kind: u64,
    generation: u16,
}

impl Token {
    fn pack(self) -> u64 {
        self.kind << 48 | u64::from(self.generation) << 32 | self.peer as u64
    }

    pub(crate) fn unpack(token: u64) -> Self {
        let peer = token as u32 as usize;
        Self { peer, kind: token >> 48, generation: (token >> 32) as u16 }
    }
}

enum State {
    Down,
    Connecting(Fd),
    Greeting { wire: Box<Wire>, hello: Hello, proved: bool },
    Up(Box<Wire>),
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// For guests, with its number: it is there always, and says whether the OSD can be reached.
    Guests(usize),
    /// For the upkeep: made when something is asked there.
    Upkeep,
}

impl Line {
    fn class(self) -> Class {
        match self {
            Line::Guests(_) => Class::Guest,
            Line::Upkeep => Class::Upkeep,
        }
    }
}

struct Waiting {
    request: Request,
    reply: Reply,
    asked_at: u64,
    until: u64,
    /// Names that came already.
    names: Vec<String>,
    /// Pages that the kernel has since it was sent. With the connection they are lost: what waits in a
    /// closed socket is sent still, and nobody tells of its end.
    loans: Vec<Loan>,
}

/// See the top of the file.
pub(crate) struct Peer {
    number: usize,
    line: Line,
    osd: [u8; 16],
    link: Link,
    shared: Arc<Shared>,
    state: State,
    generation: u16,
    waiting: BTreeMap<u64, Waiting>,
    unsent: VecDeque<u64>,
    waiting_bytes: usize,
    next_tag: u64,
    /// When it broke, or was tried for the first time; nobody waits longer than [`Link::grace`].
    broke_at: Option<u64>,
    /// Requests fail at once.
    gone: bool,
    /// It is not tried to connect.
    retired: bool,
    /// Of connecting and greeting.
    until: u64,
    retry_at: u64,
    retry: u64,
    look_at: u64,
    writing: bool,
    received: Vec<Received>,
    why: String,
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Peer {}", self.number)
    }
}

/// Bytes of fragments went to the OSD or came from it.
fn count(shared: &Shared, bytes: usize) {
    shared.traffic.fragments.fetch_add(bytes as u64, Ordering::Relaxed);
}

fn patience(request: &Request, line: Line) -> u64 {
    match request {
        // It waits until no guest's waits.
        _ if line == Line::Upkeep => ANSWER_OF_DISK,
        Request::Put { .. }
        | Request::PutRecord { .. }
        | Request::Keep { .. }
        | Request::Delete { .. }
        | Request::DeleteFolder { .. }
        | Request::Sweep { .. } => ANSWER_OF_DISK,
        _ => ANSWER,
    }
}

impl Peer {
    pub(crate) fn new(
        number: usize,
        line: Line,
        osd: [u8; 16],
        link: Link,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            number,
            line,
            osd,
            link,
            shared,
            state: State::Down,
            generation: 0,
            waiting: BTreeMap::new(),
            unsent: VecDeque::new(),
            waiting_bytes: 0,
            next_tag: 1,
            broke_at: None,
            gone: false,
            retired: false,
            until: 0,
            retry_at: 0,
            retry: RETRY_MIN,
            look_at: 0,
            writing: false,
            received: Vec::new(),
            why: String::new(),
        }
    }

    /// Whether it has to be looked at without an event.
    pub(crate) fn has_deadline(&self) -> bool {
        !self.is_idle() && !matches!(self.state, State::Up(_)) || !self.waiting.is_empty()
    }

    /// Whether it is not to be connected.
    fn is_idle(&self) -> bool {
        self.retired
            || self.line == Line::Upkeep
                && self.waiting.is_empty()
                && matches!(self.state, State::Down)
    }

    fn token(&self, kind: u64) -> u64 {
        Token { peer: self.number, kind, generation: self.generation }.pack()
    }

    /// Takes a request.
    pub(crate) fn ask(&mut self, request: Request, reply: Reply, now: u64) {
        let is_up = matches!(self.state, State::Up(_));
        if self.line == Line::Upkeep && !self.retired && !is_up && self.waiting.is_empty() {
            // Guests' connections are there, or nobody would ask here; what was in the way is over.
            (self.gone, self.broke_at) = (false, None);
            self.retry_at = self.retry_at.min(now);
        }
        if self.gone {
            return reply(Err(request.error(Cause::Failed, self.why.as_str())));
        }
        let bytes = request.payload();
        if bytes > 0 && self.waiting_bytes + bytes > WAITING_BYTES_MAX {
            let why = "too many fragments wait for this OSD already";
            return reply(Err(request.error(Cause::Failed, why)));
        }
        self.waiting_bytes += bytes;
        let tag = self.next_tag;
        self.next_tag += 1;
        let until = now + patience(&request, self.line);
        let (names, loans) = (Vec::new(), Vec::new());
        self.waiting.insert(tag, Waiting { request, reply, asked_at: now, until, names, loans });
        self.unsent.push_back(tag);
    }

    /// Does what it is time for: sends what waits, gives up what takes too long.
    pub(crate) fn tick(&mut self, ring: &mut Ring, conduit: &mut Conduit, now: u64) {
        if now >= self.look_at {
            self.look_at = now + LOOK;
            self.look(ring, now);
        }
        self.send(ring, conduit, now);
    }

    fn look(&mut self, ring: &mut Ring, now: u64) {
        if self.is_idle() {
            return;
        }
        match self.state {
            State::Down if now >= self.retry_at => self.connect(ring, now),
            State::Connecting(_) | State::Greeting { .. } if now >= self.until => {
                self.broken("it does not answer", false, ring, now);
            }
            State::Up(_) if self.waiting.values().any(|one| now >= one.until) => {
                self.broken("it did not answer in time", true, ring, now);
            }
            _ => {}
        }
        let since = *self.broke_at.get_or_insert(now);
        let grace = self.link.grace.as_nanos() as u64;
        if !matches!(self.state, State::Up(_)) && !self.gone && now >= since + grace {
            self.give_up();
        }
    }

    fn give_up(&mut self) {
        self.gone = true;
        if let Line::Guests(number) = self.line {
            lock(&self.shared.why).clone_from(&self.why);
            self.shared.set(number, false);
        }
        self.fail_all();
    }

    fn fail_all(&mut self) {
        self.unsent.clear();
        self.waiting_bytes = 0;
        for (_, one) in std::mem::take(&mut self.waiting) {
            // It may have been sent.
            let error = one.request.error(Cause::Unanswered, self.why.as_str());
            (one.reply)(Err(error));
        }
    }

    /// The address has changed.
    pub(crate) fn reconnect(&mut self, ring: &mut Ring, now: u64) {
        self.retry = RETRY_MIN;
        self.retired = false;
        self.broken("its address was changed", false, ring, now);
        self.retry_at = now;
    }

    /// Nobody asks any more, and nobody is answered.
    pub(crate) fn retire(&mut self, ring: &mut Ring) {
        if !self.retired {
            self.retired = true;
            self.close(ring);
            "it leaves the cluster, for good".clone_into(&mut self.why);
            self.give_up();
        }
    }

    pub(crate) fn stop(&mut self, ring: &mut Ring) {
        self.close(ring);
        "the OSD's client was stopped".clone_into(&mut self.why);
        self.give_up();
    }

    fn close(&mut self, ring: &mut Ring) {
        match std::mem::replace(&mut self.state, State::Down) {
            State::Down => {}
            State::Connecting(fd) => ring.shutdown(&fd),
            State::Greeting { wire, .. } | State::Up(wire) => ring.shutdown(wire.fd()),
        }
        self.generation = self.generation.wrapping_add(1);
        self.writing = false;
    }

    /// The connection is over. `hangs`: the OSD is there and does not answer, so that nobody should
    /// wait for it.
    fn broken(&mut self, why: &str, hangs: bool, ring: &mut Ring, now: u64) {
        if matches!(self.state, State::Up(_)) {
            self.broke_at = Some(now);
            self.retry = RETRY_MIN;
        }
        self.close(ring);
        self.why = format!("{}: {why}", lock(&self.shared.address));
        self.retry_at = now + self.retry;
        self.retry = (self.retry * 2).min(RETRY_MAX);
        if hangs {
            self.give_up();
        } else if self.gone && self.line != Line::Upkeep {
            lock(&self.shared.why).clone_from(&self.why);
        }
        // What was asked is asked again.
        self.waiting.values_mut().for_each(|one| one.loans.clear());
        self.unsent = self.waiting.keys().copied().collect();
    }

    fn connect(&mut self, ring: &mut Ring, now: u64) {
        let address = *lock(&self.shared.address);
        match unpaced_socket(address) {
            Ok(fd) => {
                ring.connect(&fd, address, self.token(CONNECT));
                self.state = State::Connecting(fd);
                self.until = now + GREETING;
            }
            Err(error) => self.broken(&error.to_string(), false, ring, now),
        }
    }

    /// An operation on the ring has completed.
    pub(crate) fn on_event(&mut self, event: Event, ring: &mut Ring, now: u64) {
        let token = Token::unpack(event.token);
        if token.generation != self.generation {
            return;
        }
        let done = match token.kind {
            CONNECT => self.connected(event.result, ring),
            READ => self.readable(ring, now),
            _ => {
                self.writing = false;
                Ok(())
            }
        };
        if let Err(why) = done {
            self.broken(&why, false, ring, now);
        }
    }

    fn connected(&mut self, result: i32, ring: &mut Ring) -> Result<(), String> {
        if result < 0 {
            return Err(std::io::Error::from_raw_os_error(-result).to_string());
        }
        let State::Connecting(fd) = &self.state else { return Ok(()) };
        let failed = |e: std::io::Error| e.to_string();
        let mut nonce = [0; NONCE];
        random(&mut nonce).map_err(failed)?;
        let mut wire = Wire::new(fd.clone(), META_MAX + DATA_MAX).map_err(failed)?;
        let hello = Hello { cluster: self.link.cluster, osd: self.osd, nonce };
        let meta = hello.encode();
        let frame = Frame { code: VERSION, ..Frame::new(Kind::Hello, 0, &meta, 0) };
        wire.count_with(self.shared.traffic.clone());
        wire.send(&frame, &meta, None);
        ring.poll_readable(wire.fd(), self.token(READ));
        self.state = State::Greeting { wire: Box::new(wire), hello, proved: false };
        Ok(())
    }

    fn readable(&mut self, ring: &mut Ring, now: u64) -> Result<(), String> {
        let mut received = std::mem::take(&mut self.received);
        let token = self.token(READ);
        let outcome = match &mut self.state {
            State::Greeting { wire, .. } | State::Up(wire) => wire.receive(&mut received),
            _ => return Ok(()),
        };
        for one in received.drain(..) {
            if matches!(self.state, State::Up(_)) {
                self.answered(one, now)?;
            } else {
                self.greet(one)?;
            }
        }
        self.received = received;
        outcome.map_err(|e| e.to_string())?;
        if let State::Greeting { wire, .. } | State::Up(wire) = &self.state {
            // What is left in the socket makes the poll complete at once.
            ring.poll_readable(wire.fd(), token);
        }
        Ok(())
    }

    fn greet(&mut self, received: Received) -> Result<(), String> {
        let odd = |why: Malformed| format!("its greeting makes no sense: {why}");
        let State::Greeting { wire, hello, proved } = &mut self.state else { return Ok(()) };
        match (received.frame.kind, *proved) {
            (Kind::Challenge, false) => {
                let challenge = Challenge::decode(&received.meta).map_err(odd)?;
                let signed = Side::Server.signed(hello, &challenge.nonce);
                if !self.link.key.is_genuine(&signed, &challenge.proof) {
                    return Err("it has another cluster's key".to_owned());
                }
                let proof = self.link.key.sign(&Side::Client.signed(hello, &challenge.nonce));
                wire.send(&Frame::new(Kind::Proof, 0, &proof, 0), &proof, None);
                *proved = true;
                Ok(())
            }
            (Kind::Welcome, true) => {
                *lock(&self.shared.release) = net::release_of(&received.meta);
                if let State::Greeting { wire, .. } =
                    std::mem::replace(&mut self.state, State::Down)
                {
                    self.state = State::Up(wire);
                }
                (self.gone, self.broke_at, self.retry) = (false, None, RETRY_MIN);
                if let Line::Guests(number) = self.line {
                    self.shared.set(number, true);
                }
                Ok(())
            }
            (Kind::Refused, _) => Err(refusal(&received)),
            _ => Err("it sent something out of turn".to_owned()),
        }
    }

    fn answered(&mut self, received: Received, now: u64) -> Result<(), String> {
        let tag = received.frame.tag;
        if let State::Up(wire) = &self.state
            && wire.is_sending(tag)
        {
            return Err("it answered what it has not heard to the end".to_owned());
        }
        let Some(mut one) = self.waiting.remove(&tag) else {
            return Err("it answered what nobody asked".to_owned());
        };
        // It has all of the request: nobody needs the pages for that any more.
        one.loans.drain(..).for_each(Loan::settle);
        let heard = decode_answer(&one.request, received);
        let answer = match heard.map_err(|e| format!("its answer makes no sense: {e}")) {
            Ok(Heard::More(names)) => {
                one.names.extend(names);
                one.until = now + patience(&one.request, self.line);
                self.waiting.insert(tag, one);
                self.unsent.push_back(tag);
                return Ok(());
            }
            Ok(Heard::Whole(Ok(Answer::Names(rest)))) => {
                one.names.extend(rest);
                Ok(Answer::Names(one.names))
            }
            Ok(Heard::Whole(answer)) => answer,
            Err(why) => {
                (one.reply)(Err(one.request.error(Cause::Failed, why.as_str())));
                return Err(why);
            }
        };
        self.waiting_bytes -= one.request.payload().min(self.waiting_bytes);
        if let Request::Get { .. } = one.request {
            if let Ok(Answer::Bytes(bytes)) = &answer {
                count(&self.shared, bytes.len());
            }
            if self.line != Line::Upkeep {
                self.shared.observe(one.asked_at, now);
            }
        }
        (one.reply)(answer);
        Ok(())
    }

    /// Sends what waits, as far as the OSD takes it.
    fn send(&mut self, ring: &mut Ring, conduit: &mut Conduit, now: u64) {
        let token = self.token(WRITE);
        let wire = match &mut self.state {
            State::Up(wire) => wire,
            State::Greeting { wire, .. } => {
                if let Err(error) = wire.flush(None) {
                    self.broken(&error.to_string(), false, ring, now);
                }
                return;
            }
            _ => return,
        };
        while let Some(tag) = self.unsent.front() {
            if self.waiting.len() - self.unsent.len() >= IN_FLIGHT_MAX {
                break;
            }
            if let Some(one) = self.waiting.get_mut(tag) {
                let after = one.names.last().map_or("", String::as_str);
                let (frame, meta, parts) =
                    encode_request(&one.request, self.line.class(), after, *tag);
                one.loans = wire.lend(&frame, &meta, parts);
                count(&self.shared, one.request.payload());
            }
            self.unsent.pop_front();
        }
        if self.writing || wire.queued() == 0 {
            return;
        }
        match wire.flush(Some(conduit)) {
            Ok(true) => {}
            Ok(false) => {
                ring.poll_writable(wire.fd(), token);
                self.writing = true;
            }
            Err(error) => self.broken(&error.to_string(), false, ring, now),
        }
    }
}

/// Why a server does not want to talk.
pub(super) fn refusal(received: &Received) -> String {
    let why = match Reason::of(received.frame.code) {
        Some(Reason::Version) => "it speaks another version of the protocol",
        Some(Reason::Cluster) => "it belongs to another cluster",
        Some(Reason::NoOsd) => "it does not serve this OSD",
        Some(Reason::Proof) => "it has another cluster's key",
        None => "it refuses",
    };
    why.to_owned()
}

pub(super) fn random(bytes: &mut [u8]) -> std::io::Result<()> {
    use std::io::Read;
    std::fs::File::open("/dev/urandom")?.read_exact(bytes)
}
