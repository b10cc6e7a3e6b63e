//! One connection to an engine on this host: its socket, its rings, and the bytes of frames that are
//! not complete yet.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use format::edge::{ANSWER_ROOM, Command, Done, EXTENT_LEN, Frame, Layout, WireError};
use media::{Arena, Fd, Ring};
use net::Bell;
use net::pass;
use net::shm::{Consumer, Place, Producer};

use super::KIND_CONTROL;
use super::carrier::Purpose;
use super::session::Shared;
use crate::token::Token;

pub(super) struct Shm {
    pub(super) generation: u32,
    socket: Fd,
    layout: Layout,
    bytes: Vec<u8>,
    /// The engine has closed its end.
    ended: bool,
    memory: Arc<Arena>,
    commands: Producer<8>,
    answers: Consumer<2>,
    engine_bell: Bell,
}

impl Shm {
    /// Connects, makes fresh rings and says hello; never waits.
    pub(super) fn open(path: &Path, shared: &Shared, purpose: &Purpose) -> io::Result<Self> {
        let entries = purpose.entries;
        let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
        let layout = Layout::new(entries).map_err(|e| invalid(e.to_string()))?;
        let socket = pass::connect(path)?;
        let memory = Arena::shared(layout.len())?;
        let place = |cursors, first| {
            Place::new(&memory, cursors, first, entries)
                .ok_or_else(|| invalid("the rings do not fit".into()))
        };
        let commands = Producer::new(place(layout.submission_cursors(), layout.submissions())?);
        let answers =
            Place::new(&memory, layout.completion_cursors(), layout.completions(), entries)
                .ok_or_else(|| invalid("the rings do not fit".into()))?;
        let engine_bell = Bell::new()?;
        let bytes = Frame::Hello(purpose.hello(&shared.identity)).encode();
        let (Some(rings), Some(data)) = (memory.fd(), shared.arena.fd()) else {
            return Err(invalid("the data arena is not a shared one".into()));
        };
        let fds = [rings.as_fd(), data.as_fd(), engine_bell.fd().as_fd(), shared.bell.fd().as_fd()];
        if pass::send(socket.as_fd(), &bytes, &fds)? != bytes.len() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Self {
            generation: purpose.generation,
            socket: Arc::new(socket),
            layout,
            bytes: Vec::new(),
            ended: false,
            memory,
            commands,
            answers: Consumer::new(answers),
            engine_bell,
        })
    }

    /// An event comes when the engine says something or closes its end.
    pub(super) fn listen(&self, class: u8, index: u32, ring: &mut Ring) {
        let token = Token { kind: KIND_CONTROL, generation: self.generation as u16, index };
        ring.poll_readable(&self.socket, token.pack(class));
    }

    /// Bytes of the extents of an answer; `None`: more than fit.
    pub(super) fn extents(&self, done: &Done) -> Option<Vec<u8>> {
        let len = done.extents as usize * EXTENT_LEN;
        let room = self.memory.slice(self.layout.answer(done.tag), ANSWER_ROOM as usize)?;
        (len <= room.len()).then(|| room.sub(0, len).to_vec())
    }

    /// Reads what the engine sent. The end of the connection shows in [`Connection::has_ended`].
    pub(super) fn read(&mut self) {
        let mut part = [0; 2048];
        loop {
            match pass::receive(self.socket.as_fd(), &mut part) {
                Ok((0, _)) => self.ended = true,
                Ok((got, _)) => {
                    self.bytes.extend_from_slice(&part[..got]);
                    continue;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => self.ended = true,
            }
            return;
        }
    }

    /// The next complete frame.
    pub(super) fn next_frame(&mut self) -> Result<Option<Frame>, WireError> {
        let decoded = Frame::decode(&self.bytes)?;
        Ok(decoded.map(|(frame, used)| {
            self.bytes.drain(..used);
            frame
        }))
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Asks the engine to finish and close. The engine's end follows.
    pub(super) fn leave(&self) {
        // When the engine does not read, our end of the stream tells it the same.
        let _ = pass::send(self.socket.as_fd(), &Frame::Goodbye.encode(), &[]);
        pass::shutdown_write(self.socket.as_fd());
    }

    /// False: the ring is full, or the engine broke it.
    #[inline]
    pub(super) fn push(&mut self, command: &Command) -> bool {
        matches!(self.commands.push(&command.to_words()), Ok(true))
    }

    #[inline]
    pub(super) fn publish(&mut self) {
        if self.commands.publish() {
            // It fails only for a descriptor that is no eventfd, and this one is ours.
            let _ = self.engine_bell.ring();
        }
    }

    #[inline]
    pub(super) fn look(&mut self) -> Result<bool, ()> {
        self.answers.look().map(|ready| ready > 0).map_err(|_| ())
    }

    #[inline]
    pub(super) fn pop(&mut self) -> Option<Result<Done, WireError>> {
        self.answers.pop().map(|words| Done::from_words(&words))
    }

    #[inline]
    pub(super) fn release(&mut self) {
        self.answers.release();
    }

    pub(super) fn wake_up(&mut self) {
        self.answers.wake_up();
    }

    pub(super) fn fall_asleep(&mut self) -> bool {
        self.answers.fall_asleep()
    }
}
