//! One open session over TCP: commands and payloads out of its socket, answers and payloads into it.
//!
//! Bytes are received into chunks of a pool and written by the volume from where they lie; what a
//! read returns is sent from where the volume put it (`flow`). One receive brings as many commands
//! as the socket holds, and the answers of a turn leave together.
//!
//! What comes is checked as in shared memory: frames and commands parse, tags are free, no more
//! requests than credits are unanswered. An Edge that breaks one of these loses this session.
//!
//! A session that has ended takes no more commands, also none that it has received; it is over when
//! what it had taken is answered, and it may be forgotten when the ring has let go of its memory.
//! One that is parted with, because its volume has stopped, is shut at once, but keeps the memory of
//! its requests until nothing fills that any more.

use std::collections::VecDeque;
use std::os::fd::AsFd;

use format::edge::{
    Attached, CloseReason, Command, Done, EXTENT_LEN, FRAME_HEADER_LEN, Frame, FrameHeader,
    FrameKind, Layout, Refusal, VERSION, Verb as Wire, encode_extent, stream,
};
use media::Ring;
use net::pass;

use super::greeting::{Adopted, say};
use super::session::{End, Identity, refusal_of, tag_of};
use super::{Socket, uuid};
use crate::flow::input::Input;
use crate::flow::output::Output;
use crate::flow::pool::{CHUNK_BYTES, Place, Pool};
use crate::target::{Completion, Extent, Outcome, Request, Targets, Verb, VolumeId, VolumeInfo};

/// Requests that may be unanswered at once, at most.
const CREDITS_MAX: u32 = 256;
/// Operation not permitted (errno(3)).
const EPERM: i32 = 1;
/// A receive that a signal ended (errno(3)); it is simply started again.
const EINTR: i32 = 4;

const _: () = assert!(stream::PIECE_MAX as usize <= CHUNK_BYTES, "a payload fits into a chunk");

/// What a request in flight holds.
#[derive(Clone, Copy)]
enum Held {
    Nothing,
    /// Its payload lies in this chunk.
    Write(u32),
    /// What it reads goes here.
    Read(Place),
}

/// An answer and what follows it.
struct Answer {
    done: Done,
    read: Option<Place>,
    extents: Vec<u8>,
}

pub(super) struct Streaming {
    socket: Socket,
    volume: VolumeId,
    name: String,
    read_only: bool,
    credits: u32,
    input: Input,
    output: Output,
    /// A frame whose body has not arrived yet.
    header: Option<FrameHeader>,
    /// Commands that were received and not given to the volume.
    commands: VecDeque<Command>,
    /// By tag.
    held: Vec<Option<Held>>,
    in_flight: u32,
    answers: Vec<Answer>,
    receiving: bool,
    /// It waits for memory.
    stalled: bool,
    end: Option<End>,
    shut: bool,
    /// It was shut with requests that the volume may still work on.
    parted: bool,
}

impl Streaming {
    /// Answers the hello. `index`: on whose account memory is taken.
    pub(super) fn open(
        adopted: &Adopted,
        volume: VolumeId,
        info: VolumeInfo,
        epoch: u64,
        index: u32,
    ) -> Result<Self, Refusal> {
        let hello = &adopted.hello;
        let name = uuid(&hello.volume);
        if hello.version < VERSION {
            let why = format!("the Edge speaks version {} of its protocol", hello.version);
            let fix = "run a vstorage-edge of the same release as the daemon";
            return Err(refusal_of(&name, "old_edge", why, fix));
        }
        let update = "run a vstorage-edge of the same release as the daemon";
        let layout = Layout::new(hello.entries)
            .map_err(|error| refusal_of(&name, "malformed_hello", error.to_string(), update))?;
        let credits = layout.entries().min(CREDITS_MAX);
        let read_only = info.read_only || hello.read_only;
        let attached =
            Attached { version: VERSION, features: 0, size: info.size, read_only, epoch, credits };
        let said = say(&adopted.socket, &Frame::Attached(attached));
        Ok(Self {
            socket: adopted.socket.clone(),
            volume,
            name,
            read_only,
            credits,
            input: Input::new(),
            output: Output::new(index),
            header: None,
            commands: VecDeque::new(),
            held: (0..layout.entries()).map(|_| None).collect(),
            in_flight: 0,
            answers: Vec::new(),
            receiving: false,
            stalled: false,
            end: (!said).then_some(End::Left),
            shut: false,
            parted: false,
        })
    }

    /// Its volume, unless it has nothing to do with it any more.
    pub(super) fn volume(&self) -> Option<VolumeId> {
        (!self.shut).then_some(self.volume)
    }

    fn breach(&mut self, why: impl Into<String>) {
        self.end_with(End::Breach(why.into()));
    }

    /// It takes no more commands, also none that it has received.
    pub(super) fn end_with(&mut self, end: End) {
        if self.end.is_none() {
            self.end = Some(end);
            self.commands.clear();
        }
    }

    // ---- in

    /// Takes the outcome of a receive. What it brought is worked on by [`Streaming::run`].
    pub(super) fn received(&mut self, result: i32) {
        self.receiving = false;
        match result {
            1.. => self.input.received(result as usize),
            _ if -result == EINTR => {}
            _ => self.end_with(End::Left),
        }
    }

    /// Gives the volume what has arrived completely, as far as memory and credits allow.
    pub(super) fn run<T: Targets + ?Sized>(
        &mut self,
        me: Identity,
        pool: &mut Pool,
        targets: &mut T,
    ) {
        self.stalled = false;
        while self.end.is_none() {
            let step = match self.commands.front().copied() {
                Some(command) => self.take(&command, me, pool, targets),
                None => self.parse(),
            };
            match step {
                Ok(true) => {}
                Ok(false) => return,
                Err(why) => self.breach(why),
            }
        }
    }

    /// Parses the next frame; false: more must arrive.
    fn parse(&mut self) -> Result<bool, String> {
        let header = match self.header {
            Some(header) => header,
            None if self.input.available() < FRAME_HEADER_LEN => return Ok(false),
            None => {
                let mut bytes = [0; FRAME_HEADER_LEN];
                self.input.take(&mut bytes);
                let header = FrameHeader::decode(&bytes).map_err(|error| error.to_string())?;
                *self.header.insert(header)
            }
        };
        if self.input.available() < header.body_len as usize {
            return Ok(false);
        }
        let mut body = vec![0; header.body_len as usize];
        self.input.take(&mut body);
        self.header = None;
        match header.kind {
            FrameKind::Submit => {
                let commands = stream::commands(&header, &body).map_err(|e| e.to_string())?;
                self.commands.extend(commands);
            }
            FrameKind::Goodbye if body.is_empty() => self.end_with(End::Left),
            other => return Err(format!("it sent {other:?} within a session")),
        }
        Ok(true)
    }

    /// Gives one command to the volume; false: its payload or memory is not there yet.
    #[inline]
    fn take<T: Targets + ?Sized>(
        &mut self,
        command: &Command,
        me: Identity,
        pool: &mut Pool,
        targets: &mut T,
    ) -> Result<bool, String> {
        match self.held.get(command.tag as usize) {
            Some(None) => {}
            Some(Some(_)) => return Err(format!("tag {} is in use", command.tag)),
            None => return Err(format!("tag {} is outside its entries", command.tag)),
        }
        if self.in_flight >= self.credits {
            return Err(format!("more than {} requests are unanswered", self.credits));
        }
        let (len, fua) = (command.length as usize, command.is_fua());
        let mut held = Held::Nothing;
        let verb = match command.verb {
            Wire::Write if self.input.available() < len => return Ok(false),
            Wire::Write => {
                let chunk = self.input.chunk();
                pool.hold(chunk);
                held = Held::Write(chunk);
                Verb::Write { data: self.input.take_slice(len), fua }
            }
            Wire::Read => {
                let Some(place) = self.output.reserve(len, pool) else {
                    self.stalled = true;
                    return Ok(false);
                };
                held = Held::Read(place);
                Verb::Read(pool.slice(place))
            }
            Wire::Trim => Verb::Trim { len: command.length, fua },
            Wire::WriteZeroes => Verb::WriteZeroes { len: command.length, fua },
            Wire::Flush => Verb::Flush,
            Wire::BlockStatus => {
                let len = u32::try_from(command.length).ok().filter(|len| *len > 0);
                let len = len.ok_or("a block status of nothing, or of 4 GiB or more")?;
                Verb::BlockStatus { len }
            }
        };
        self.commands.pop_front();
        self.held[command.tag as usize] = Some(held);
        self.in_flight += 1;
        let id = me.request(command.tag);
        if self.read_only && command.verb.is_write() {
            self.complete(Completion { id, outcome: Outcome::Failed(EPERM) }, pool);
        } else {
            targets.submit(self.volume, Request { id, offset: command.offset, verb });
        }
        Ok(true)
    }

    // ---- out

    /// Takes an outcome.
    #[inline]
    pub(super) fn complete(&mut self, completion: Completion, pool: &mut Pool) {
        let tag = tag_of(completion.id);
        let Some(held) = self.held.get_mut(tag as usize).and_then(Option::take) else { return };
        self.in_flight -= 1;
        let mut answer =
            Answer { done: Done { tag, errno: 0, extents: 0 }, read: None, extents: Vec::new() };
        match completion.outcome {
            Outcome::Done => {}
            Outcome::Failed(errno) => answer.done.errno = errno.max(1),
            Outcome::Extents(extents) => {
                answer.extents = encode_extents(&extents);
                answer.done.extents = (answer.extents.len() / EXTENT_LEN) as u32;
            }
        }
        match held {
            Held::Nothing => {}
            Held::Write(chunk) => pool.release(chunk, 1),
            Held::Read(place) if answer.done.errno == 0 && self.end.is_none() => {
                answer.read = Some(place);
            }
            Held::Read(place) => pool.release(place.chunk, 1),
        }
        if self.end.is_none() {
            self.answers.push(answer);
        }
    }

    /// Says something beside the answers.
    pub(super) fn tell(&mut self, frame: &Frame) {
        if self.end.is_none() {
            self.output.put(&frame.encode());
        }
    }

    fn gather(&mut self, pool: &mut Pool) {
        let mut answers = std::mem::take(&mut self.answers);
        for batch in answers.chunks_mut(stream::BATCH_MAX) {
            let done: Vec<Done> = batch.iter().map(|answer| answer.done).collect();
            stream::put_answers(self.output.small(), &done);
            for answer in batch {
                self.output.put(&answer.extents);
                if let Some(place) = answer.read.take() {
                    // What is small has its place in front of it.
                    self.output.settle(pool);
                    self.output.push(place);
                }
            }
        }
        answers.clear();
        self.answers = answers;
    }

    /// Sends the answers of this turn and receives again.
    pub(super) fn end_turn(&mut self, receive: u64, send: u64, pool: &mut Pool, ring: &mut Ring) {
        if self.end.is_some() {
            return;
        }
        self.gather(pool);
        self.output.send(&self.socket, send, pool, ring);
        if self.receiving || self.stalled || self.output.is_congested() {
            return;
        }
        let contiguous = match (self.commands.front(), self.header) {
            (Some(command), _) => stream::payload_of(command).max(1),
            (None, Some(header)) => header.body_len as usize,
            (None, None) => FRAME_HEADER_LEN,
        };
        match self.input.room(contiguous, self.volume.0, pool) {
            Some(room) => {
                ring.recv(&self.socket, room, receive);
                self.receiving = true;
            }
            None => self.stalled = true,
        }
    }

    /// A send has ended.
    pub(super) fn sent(&mut self, result: i32, pool: &mut Pool) {
        if !self.output.sent(result, pool) {
            self.end_with(End::Left);
        }
    }

    /// It waits for memory.
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled && self.end.is_none()
    }

    // ---- end

    /// It has ended, and nothing of it is unanswered: it can be closed.
    pub(super) fn is_over(&self) -> bool {
        self.end.is_some() && self.in_flight == 0 && !self.shut
    }

    /// Shuts a connection whose volume has stopped, and keeps what its requests hold; a line for the
    /// log.
    pub(super) fn part(&mut self, farewell: &Frame) -> String {
        self.parted = true;
        self.shut(Some(farewell))
    }

    /// See [`Streaming::part`].
    pub(super) fn has_parted_with(&self, volume: VolumeId) -> bool {
        self.parted && self.volume == volume
    }

    /// Nothing touches the memory of a parted session's requests any more.
    pub(super) fn forget(&mut self, pool: &mut Pool) {
        self.parted = false;
        self.release(pool);
    }

    /// Closes the connection; a line for the log.
    pub(super) fn close(&mut self, pool: &mut Pool) -> String {
        let line = self.shut(None);
        self.release(pool);
        line
    }

    fn release(&mut self, pool: &mut Pool) {
        for held in self.held.iter_mut().filter_map(Option::take) {
            match held {
                Held::Nothing => {}
                Held::Write(chunk) => pool.release(chunk, 1),
                Held::Read(place) => pool.release(place.chunk, 1),
            }
        }
        self.in_flight = 0;
        for place in self.answers.drain(..).filter_map(|answer| answer.read) {
            pool.release(place.chunk, 1);
        }
    }

    /// `last`: what the Edge should hear.
    fn shut(&mut self, last: Option<&Frame>) -> String {
        let line = match &self.end {
            None | Some(End::Parted) => format!("volume {}: closed its Edge session", self.name),
            Some(End::Left) => format!("volume {}: the Edge has left", self.name),
            Some(End::Replaced) => format!("volume {}: its Edge has connected again", self.name),
            Some(End::ShutOut(_)) => {
                format!("volume {}: closed an Edge session of an earlier generation", self.name)
            }
            Some(End::Breach(why)) => {
                format!("volume {}: closed its Edge session, which broke: {why}", self.name)
            }
        };
        let why = match self.end.take() {
            Some(End::Breach(detail)) => {
                Some(Frame::Closed { reason: CloseReason::Protocol, detail })
            }
            Some(End::ShutOut(detail)) => {
                Some(Frame::Closed { reason: CloseReason::Fenced, detail })
            }
            _ => None,
        };
        // In the middle of another send it would make no sense, and the end says enough.
        if let Some(frame) = last.or(why.as_ref())
            && !self.output.is_sending()
        {
            say(&self.socket, frame);
        }
        self.end = Some(End::Left);
        self.shut = true;
        pass::shutdown(self.socket.as_fd());
        line
    }

    /// It was closed, and the ring has let go of its memory: gives that back.
    pub(super) fn let_go(&mut self, pool: &mut Pool) -> bool {
        if !self.shut || self.parted || self.receiving || self.output.is_sending() {
            return false;
        }
        self.output.drop_waiting(pool);
        self.input.close(pool);
        true
    }

    #[cfg(test)]
    pub(super) fn drop_dead(&self) {
        pass::shutdown(self.socket.as_fd());
    }
}

/// What does not fit is joined into the last extent, as data: to call a hole data is allowed, the
/// opposite is not.
fn encode_extents(extents: &[Extent]) -> Vec<u8> {
    let room = (stream::EXTENTS_MAX as usize).min(extents.len());
    let mut bytes = Vec::with_capacity(room * EXTENT_LEN);
    for (at, extent) in extents.iter().take(room).enumerate() {
        let last = at + 1 == room && room < extents.len();
        let (len, hole) = if last {
            let rest = extents[at..].iter().map(|e| u64::from(e.len)).sum::<u64>();
            (rest.min(u64::from(u32::MAX)) as u32, false)
        } else {
            (extent.len, extent.hole)
        };
        bytes.extend_from_slice(&encode_extent(len, hole));
    }
    bytes
}
