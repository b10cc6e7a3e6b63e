//! One connection to an engine: its socket, its rings, and the bytes of frames that are not
//! complete yet.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use format::edge::{Command, Done, Frame, Hello, Layout, VERSION, WireError};
use media::{Arena, Fd};
use net::Bell;
use net::pass;
use net::shm::{Consumer, PeerBroke, Place, Producer};

use super::session::Shared;

pub(super) struct Connection {
    pub(super) generation: u32,
    socket: Fd,
    bytes: Vec<u8>,
    /// The engine has closed its end.
    ended: bool,
    memory: Arc<Arena>,
    commands: Producer<8>,
    answers: Consumer<2>,
    engine_bell: Bell,
}

impl Connection {
    /// Connects, makes fresh rings and says hello; never waits.
    pub(super) fn open(
        shared: &Shared,
        uuid: [u8; 16],
        read_only: bool,
        entries: u32,
        generation: u32,
    ) -> io::Result<Self> {
        let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
        let layout = Layout::new(entries).map_err(|e| invalid(e.to_string()))?;
        let socket = pass::connect(&shared.engine)?;
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
        let hello = Hello {
            version: VERSION,
            features: 0,
            volume: uuid,
            read_only,
            entries,
            token: [0; 64],
            client: shared.client.clone(),
        };
        let bytes = Frame::Hello(hello).encode();
        let (Some(rings), Some(data)) = (memory.fd(), shared.arena.fd()) else {
            return Err(invalid("the data arena is not a shared one".into()));
        };
        let fds = [rings.as_fd(), data.as_fd(), engine_bell.fd().as_fd(), shared.bell.fd().as_fd()];
        if pass::send(socket.as_fd(), &bytes, &fds)? != bytes.len() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Self {
            generation,
            socket: Arc::new(socket),
            bytes: Vec::new(),
            ended: false,
            memory,
            commands,
            answers: Consumer::new(answers),
            engine_bell,
        })
    }

    pub(super) fn socket(&self) -> &Fd {
        &self.socket
    }

    pub(super) fn memory(&self) -> &Arc<Arena> {
        &self.memory
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

    #[inline]
    pub(super) fn push(&mut self, command: &Command) -> Result<bool, PeerBroke> {
        self.commands.push(&command.to_words())
    }

    #[inline]
    pub(super) fn publish(&mut self) {
        if self.commands.publish() {
            // It fails only for a descriptor that is no eventfd, and this one is ours.
            let _ = self.engine_bell.ring();
        }
    }

    #[inline]
    pub(super) fn look(&mut self) -> Result<u32, PeerBroke> {
        self.answers.look()
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
