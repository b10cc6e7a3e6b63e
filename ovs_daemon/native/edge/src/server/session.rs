//! One open session: commands out of its ring, answers into it.
//!
//! Everything that comes from the ring is checked before it is used: the command parses, its tag
//! is below the number of entries, no more requests than credits are unanswered, and its place is
//! inside the memory that the Edge passed. An Edge that breaks one of these loses this session, and
//! nothing else happens.
//!
//! The connection is closed only when no request of the session is unanswered. The Edge relies on
//! it: a closed connection means that this engine touches the shared memory no more.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use format::edge::{
    Attached, CloseReason, Command, Done, EXTENT_LEN, FLAG_OWN, Frame, Layout, Refusal, VERSION,
    Verb as Wire, encode_extent,
};
use media::{Arena, Ring, Slice};
use net::Bell;
use net::pass;
use net::shm::{Consumer, Place, Producer};

use super::greeting::{Adopted, Carrier, say};
use super::{Arenas, Socket, map_arena, uuid};
use crate::target::{
    Completion, Extent, Outcome, Request, RequestId, Targets, Verb, VolumeId, VolumeInfo,
};

/// Requests that may be unanswered at once, at most.
const CREDITS_MAX: u32 = 1024;
/// Operation not permitted (errno(3)).
const EPERM: i32 = 1;

/// Who a session is, within request identifiers:
/// class (8 bits), generation (8), index (24), tag (24).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) class: u8,
    pub(super) generation: u8,
    pub(super) index: u32,
}

const TAG_BITS: u32 = 24;
const INDEX_MASK: u64 = (1 << 24) - 1;

impl Identity {
    #[inline]
    pub(super) fn of(id: RequestId) -> Self {
        let (class, generation) = ((id.0 >> 56) as u8, (id.0 >> 48) as u8);
        Self { class, generation, index: (id.0 >> TAG_BITS & INDEX_MASK) as u32 }
    }

    #[inline]
    pub(super) fn request(self, tag: u32) -> RequestId {
        let head = u64::from(self.class) << 56 | u64::from(self.generation) << 48;
        RequestId(head | u64::from(self.index) << TAG_BITS | u64::from(tag))
    }
}

#[inline]
pub(super) fn tag_of(id: RequestId) -> u32 {
    (id.0 & ((1 << TAG_BITS) - 1)) as u32
}

/// Why a session was refused.
pub(super) fn refusal_of(name: &str, code: &str, why: String, fix: &str) -> Refusal {
    let what = format!("attach volume {name}");
    Refusal { code: code.into(), what, why, fix: fix.into() }
}

/// Why a session ends.
pub(super) enum End {
    /// The Edge went away or said goodbye.
    Left,
    /// The Edge has a later connection.
    Replaced,
    /// The volume is not served here any more.
    Parted,
    /// The volume was taken away from its host; why, for the Edge.
    ShutOut(String),
    /// The Edge broke the protocol.
    Breach(String),
}

pub(super) struct Session {
    socket: Socket,
    control: Vec<u8>,
    volume: VolumeId,
    name: String,
    read_only: bool,
    memory: Arc<Arena>,
    data: Arc<Arena>,
    submissions: Consumer<8>,
    answers: Producer<2>,
    our_bell: Bell,
    edge_bell: Bell,
    listening: bool,
    awake: bool,
    touched: bool,
    entries: u32,
    credits: u32,
    in_flight: u32,
    /// Where the extents of block status requests in flight go, by tag.
    statuses: Vec<(u32, Slice)>,
    end: Option<End>,
}

impl Session {
    /// Maps what the Edge passed and answers its hello.
    pub(super) fn open(
        adopted: &Adopted,
        volume: VolumeId,
        info: VolumeInfo,
        epoch: u64,
        arenas: &mut Arenas,
    ) -> Result<Self, Refusal> {
        let hello = &adopted.hello;
        let name = uuid(&hello.volume);
        let failed = |code: &str, why: String, fix: &str| refusal_of(&name, code, why, fix);
        let update = "run a vstorage-edge of the same release as the daemon";
        if hello.version < VERSION {
            let why = format!("the Edge speaks version {} of its protocol", hello.version);
            return Err(failed("old_edge", why, update));
        }
        let layout =
            Layout::new(hello.entries).map_err(|e| failed("memory", e.to_string(), update))?;
        let mapped = Mapped::new(adopted, &layout, arenas).map_err(|error| {
            let why = format!("its shared memory cannot be used: {error}");
            failed("memory", why, "free memory on this host, or restart vstorage-edge")
        })?;
        let credits = layout.entries().min(CREDITS_MAX);
        let read_only = info.read_only || hello.read_only;
        let attached =
            Attached { version: VERSION, features: 0, size: info.size, read_only, epoch, credits };
        say(&adopted.socket, &Frame::Attached(attached));
        Ok(Self {
            socket: adopted.socket.clone(),
            control: Vec::new(),
            volume,
            name,
            read_only,
            memory: mapped.memory,
            data: mapped.data,
            submissions: mapped.submissions,
            answers: mapped.answers,
            our_bell: mapped.our_bell,
            edge_bell: mapped.edge_bell,
            listening: false,
            awake: false,
            touched: false,
            entries: layout.entries(),
            credits,
            in_flight: 0,
            statuses: Vec::new(),
            end: None,
        })
    }

    pub(super) fn volume(&self) -> VolumeId {
        self.volume
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    fn breach(&mut self, why: impl Into<String>) {
        self.end_with(End::Breach(why.into()));
    }

    /// It takes no more commands.
    pub(super) fn end_with(&mut self, end: End) {
        self.end.get_or_insert(end);
    }

    /// Reads the control socket. False: the session ends, do not listen again.
    pub(super) fn read_control(&mut self) -> bool {
        let mut part = [0; 1024];
        match pass::receive(self.socket.as_fd(), &mut part) {
            Ok((0, _)) => self.end = self.end.take().or(Some(End::Left)),
            Ok((got, fds)) if fds.is_empty() => {
                self.control.extend_from_slice(&part[..got]);
                self.read_frames();
            }
            Ok(_) => self.breach("it passed descriptors after its hello"),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.end = self.end.take().or(Some(End::Left)),
        }
        self.end.is_none()
    }

    fn read_frames(&mut self) {
        loop {
            match Frame::decode(&self.control) {
                Ok(None) => return,
                Ok(Some((Frame::Goodbye, used))) => {
                    self.control.drain(..used);
                    self.end = self.end.take().or(Some(End::Left));
                }
                Ok(Some((frame, _))) => {
                    return self.breach(format!("it sent {:?} within a session", frame.kind()));
                }
                Err(error) => return self.breach(error.to_string()),
            }
        }
    }

    /// Gives the ring's commands to the targets. True: there were some, or the session ended.
    pub(super) fn poll<T: Targets + ?Sized>(&mut self, me: Identity, targets: &mut T) -> bool {
        if self.end.is_some() {
            return false;
        }
        let ready = match self.submissions.look() {
            Ok(0) => return false,
            Ok(ready) => ready,
            Err(error) => {
                self.breach(error.to_string());
                return true;
            }
        };
        for _ in 0..ready {
            let Some(words) = self.submissions.pop() else { break };
            let taken = match Command::from_words(&words) {
                Ok(command) => self.take(&command, me, targets),
                Err(error) => Err(error.to_string()),
            };
            if let Err(why) = taken {
                self.breach(why);
                break;
            }
        }
        self.submissions.release();
        true
    }

    /// Turns one command into a request.
    #[inline]
    fn take<T: Targets + ?Sized>(
        &mut self,
        command: &Command,
        me: Identity,
        targets: &mut T,
    ) -> Result<(), String> {
        if command.tag >= self.entries {
            return Err(format!("tag {} is outside its ring", command.tag));
        }
        if self.in_flight >= self.credits {
            return Err(format!("more than {} requests are unanswered", self.credits));
        }
        let fua = command.is_fua();
        let verb = match command.verb {
            Wire::Read => Verb::Read(self.place(command, command.length)?),
            Wire::Write => Verb::Write { data: self.place(command, command.length)?, fua },
            Wire::Trim => Verb::Trim { len: command.length, fua },
            Wire::WriteZeroes => Verb::WriteZeroes { len: command.length, fua },
            Wire::Flush => Verb::Flush,
            Wire::BlockStatus => {
                if u64::from(command.room) < EXTENT_LEN as u64 || command.length == 0 {
                    return Err("a block status without room or length".into());
                }
                let len = u32::try_from(command.length)
                    .map_err(|_| "a block status of 4 GiB or more".to_owned())?;
                let place = self.place(command, u64::from(command.room))?;
                self.statuses.push((command.tag, place));
                Verb::BlockStatus { len }
            }
        };
        self.in_flight += 1;
        let id = me.request(command.tag);
        if self.read_only && command.verb.is_write() {
            let outcome = Outcome::Failed(EPERM);
            self.complete(Completion { id, outcome });
            return Ok(());
        }
        targets.submit(self.volume, Request { id, offset: command.offset, verb });
        Ok(())
    }

    #[inline]
    fn place(&self, command: &Command, len: u64) -> Result<Slice, String> {
        let arena = if command.flags & FLAG_OWN != 0 { &self.memory } else { &self.data };
        let inside = match (usize::try_from(command.place), usize::try_from(len)) {
            (Ok(place), Ok(len)) => arena.slice(place, len),
            _ => None,
        };
        inside.ok_or_else(|| format!("{len} bytes at {:#x} are outside its memory", command.place))
    }

    /// Puts the answer of a request into the ring.
    pub(super) fn complete(&mut self, completion: Completion) {
        let tag = tag_of(completion.id);
        let mut done = Done { tag, errno: 0, extents: 0 };
        match completion.outcome {
            Outcome::Done => {}
            Outcome::Failed(errno) => done.errno = errno.max(1),
            Outcome::Extents(extents) => done.extents = self.write_extents(tag, &extents),
        }
        if !self.statuses.is_empty() {
            self.statuses.retain(|(of, _)| *of != tag);
        }
        self.in_flight = self.in_flight.saturating_sub(1);
        match self.answers.push(&done.to_words()) {
            Ok(true) => {}
            Ok(false) => self.breach("its ring of answers is full"),
            Err(error) => self.breach(error.to_string()),
        }
    }

    /// Puts extents where the Edge wants them; how many. What does not fit is joined into the last
    /// one, as data: to call a hole data is allowed, the opposite is not.
    fn write_extents(&mut self, tag: u32, extents: &[Extent]) -> u32 {
        let Some((_, place)) = self.statuses.iter().find(|(of, _)| *of == tag) else { return 0 };
        let room = (place.len() / EXTENT_LEN).min(extents.len());
        for (at, extent) in extents.iter().take(room).enumerate() {
            let last = at + 1 == room && room < extents.len();
            let (len, hole) = if last {
                let rest = extents[at..].iter().map(|e| u64::from(e.len)).sum::<u64>();
                (rest.min(u64::from(u32::MAX)) as u32, false)
            } else {
                (extent.len, extent.hole)
            };
            place.write(at * EXTENT_LEN, &encode_extent(len, hole));
        }
        room as u32
    }

    /// True the first time since the last [`Session::publish`].
    #[inline]
    pub(super) fn touch(&mut self) -> bool {
        !std::mem::replace(&mut self.touched, true)
    }

    /// Shows the answers to the Edge and wakes it if it sleeps.
    pub(super) fn publish(&mut self) {
        self.touched = false;
        if self.answers.publish()
            && let Err(error) = self.edge_bell.ring()
        {
            self.breach(format!("its bell cannot be rung: {error}"));
        }
    }

    /// Sends a control frame; an Edge that does not read them loses its session.
    pub(super) fn tell(&mut self, frame: &Frame) {
        if self.end.is_none() && !say(&self.socket, frame) {
            self.end = Some(End::Left);
        }
    }

    /// From now on its ring is looked at. True: it was not before.
    pub(super) fn wake_up(&mut self) -> bool {
        self.submissions.wake_up();
        !std::mem::replace(&mut self.awake, true)
    }

    /// The bell was rung.
    pub(super) fn rung(&mut self) {
        self.listening = false;
        self.our_bell.silence();
    }

    /// Goes to sleep until the Edge rings. False: there is something to do.
    pub(super) fn fall_asleep(&mut self, ring: &mut Ring, token: u64) -> bool {
        if self.end.is_none() && !self.submissions.fall_asleep() {
            return false;
        }
        if !self.listening && self.end.is_none() {
            self.listening = true;
            self.our_bell.listen(ring, token);
        }
        self.awake = false;
        true
    }

    /// Shows the answers that there are, says farewell and takes no more commands.
    pub(super) fn part(&mut self, farewell: &Frame) {
        self.publish();
        self.tell(farewell);
        self.end_with(End::Parted);
    }

    #[cfg(test)]
    pub(super) fn drop_dead(&self) {
        let _ = self.our_bell.ring();
        pass::shutdown(self.socket.as_fd());
    }

    /// It takes no more commands; it may still wait for outcomes.
    pub(super) fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// It has ended, and nothing of it is unanswered: it can be closed.
    pub(super) fn is_over(&self) -> bool {
        self.end.is_some() && self.in_flight == 0
    }

    /// Closes the connection; a line for the log.
    pub(super) fn close(mut self) -> String {
        let line = match self.end.take() {
            None | Some(End::Parted) => format!("volume {}: closed its Edge session", self.name),
            Some(End::Left) => format!("volume {}: the Edge has left", self.name),
            Some(End::Replaced) => format!("volume {}: its Edge has connected again", self.name),
            Some(End::ShutOut(detail)) => {
                say(&self.socket, &Frame::Closed { reason: CloseReason::Fenced, detail });
                format!("volume {}: closed an Edge session of an earlier generation", self.name)
            }
            Some(End::Breach(why)) => {
                let detail = why.clone();
                say(&self.socket, &Frame::Closed { reason: CloseReason::Protocol, detail });
                format!("volume {}: closed its Edge session, which broke: {why}", self.name)
            }
        };
        // Operations that wait on the bell or the socket hold on to them: let them complete.
        if self.listening {
            let _ = self.our_bell.ring();
        }
        pass::shutdown(self.socket.as_fd());
        line
    }
}

/// The memory and bells of a session.
struct Mapped {
    memory: Arc<Arena>,
    data: Arc<Arena>,
    submissions: Consumer<8>,
    answers: Producer<2>,
    our_bell: Bell,
    edge_bell: Bell,
}

impl Mapped {
    fn new(adopted: &Adopted, layout: &Layout, arenas: &mut Arenas) -> io::Result<Self> {
        let short = || io::Error::new(io::ErrorKind::InvalidInput, "it is too small");
        let Carrier::Shm(fds) = &adopted.carrier else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it came over a network"));
        };
        let [memory, data, our_bell, edge_bell] = fds.as_slice() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "descriptors are missing"));
        };
        let memory = Arena::from_fd(memory.try_clone()?)?;
        if memory.len() < layout.len() {
            return Err(short());
        }
        let count = layout.entries();
        let ring = Place::new(&memory, layout.submission_cursors(), layout.submissions(), count);
        let submissions = Consumer::new(ring.ok_or_else(short)?);
        let ring = Place::new(&memory, layout.completion_cursors(), layout.completions(), count);
        let answers = Producer::new(ring.ok_or_else(short)?);
        Ok(Self {
            memory,
            data: map_arena(arenas, data.try_clone()?)?,
            submissions,
            answers,
            our_bell: Bell::from_fd(our_bell.try_clone()?)?,
            edge_bell: Bell::from_fd(edge_bell.try_clone()?)?,
        })
    }
}
