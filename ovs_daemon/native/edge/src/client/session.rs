//! One volume: the machine, its present connection, and what the front ends wait for.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use format::edge::{
    ANSWER_ROOM, Command, Done, EXTENT_LEN, FLAG_FUA, FLAG_OWN, Frame, Layout, Refusal,
    Verb as Wire, decode_extent,
};
use machines::edge::{self as machine, Action, Breach, Message, Phase};
use media::{Arena, Ring, Slice};
use net::Bell;
use net::clock::monotonic_ns;

use super::carrier::{Address, Carrier, Identity, Purpose};
use super::{Attachment, ENTRIES, Notice, Status, Whereabouts};
use crate::server::uuid;
use crate::target::{Completion, Extent, Outcome, Request, RequestId, Verb, VolumeId, VolumeInfo};

/// Places that are tried for a volume, at most.
pub(super) const TARGETS_MAX: usize = 16;
/// Input or output error (errno(3)).
const EIO: i32 = 5;

/// What all sessions of a process share.
pub(super) struct Shared {
    pub(super) class: u8,
    /// Where volumes are looked for that say nothing else.
    pub(super) engine: Address,
    pub(super) identity: Identity,
    pub(super) arena: Arc<Arena>,
    pub(super) bell: Bell,
    pub(super) completions: Vec<Completion>,
    pub(super) notices: Vec<Notice>,
}

/// A request on its way, by tag.
struct Pending {
    id: RequestId,
    /// The payload's place.
    slice: Option<Slice>,
    /// Bytes that a block status describes; 0 for other verbs.
    status_len: u32,
}

pub(super) struct Session {
    volume: VolumeId,
    uuid: [u8; 16],
    read_only: bool,
    machine: machine::Session,
    /// Where it may be served; never empty.
    targets: Vec<Address>,
    token: [u8; 64],
    host: String,
    connection: Option<Carrier>,
    /// Where that is to.
    connected_to: Address,
    pending: Vec<Option<Pending>>,
    free: Vec<u32>,
    /// Requests for which there was no tag.
    backlog: VecDeque<Request>,
    actions: Vec<Action>,
    timer_ns: Option<u64>,
    why: String,
    told_waiting: bool,
    /// The engine has said why it ends the present connection: its end says less.
    explained: bool,
    refusal: Option<Refusal>,
    over: bool,
    touched: bool,
    pub(super) busy: bool,
}

impl Session {
    pub(super) fn new(volume: VolumeId, attachment: &Attachment, shared: &Shared) -> Self {
        let mut machine = match attachment.known_size {
            Some(size) => machine::Session::restored(ENTRIES, size, attachment.read_only),
            None => machine::Session::new(ENTRIES),
        };
        let Whereabouts { token, epoch, .. } = attachment.whereabouts;
        let host = attachment.whereabouts.host.clone();
        let targets = targets_of(&attachment.whereabouts, shared);
        let first =
            Message::Retarget { targets: targets.len() as u32, first: 0, epoch, keep: false };
        machine.step(first, &mut Vec::new());
        Self {
            volume,
            uuid: attachment.uuid,
            read_only: attachment.read_only,
            machine,
            connected_to: targets[0].clone(),
            targets,
            token,
            host,
            connection: None,
            pending: (0..ENTRIES).map(|_| None).collect(),
            free: (0..ENTRIES).rev().collect(),
            backlog: VecDeque::new(),
            actions: Vec::new(),
            timer_ns: None,
            why: String::new(),
            told_waiting: false,
            explained: false,
            refusal: None,
            over: false,
            touched: false,
            busy: false,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    pub(super) fn info(&self) -> Option<VolumeInfo> {
        let read_only = self.read_only || self.machine.is_read_only();
        self.machine.is_settled().then(|| VolumeInfo { size: self.machine.size(), read_only })
    }

    pub(super) fn status(&self) -> Status {
        let serving = self.machine.phase() == Phase::Ready;
        Status {
            phase: self.machine.phase(),
            size: self.machine.size(),
            read_only: self.read_only || self.machine.is_read_only(),
            epoch: self.machine.epoch(),
            target: self.connected_to.to_string(),
            in_flight: self.machine.in_flight() as usize + self.backlog.len(),
            why: if serving { String::new() } else { self.why_waiting() },
        }
    }

    /// An engine that shares memory is waited for, whatever it does and wherever the volume is: what
    /// it still reads would overwrite what others put into that memory.
    fn why_waiting(&self) -> String {
        let shares = self.connection.as_ref().is_some_and(Carrier::is_polled);
        if self.machine.phase() != Phase::Leaving || !shares {
            return self.why.clone();
        }
        format!(
            "{}; the engine on {} has not let go of the memory of {} requests yet: it goes on, or end \
             its process",
            self.why,
            self.connected_to,
            self.machine.in_flight()
        )
    }

    /// Generation in the tokens of the present connection.
    pub(super) fn connection_generation(&self) -> Option<u16> {
        self.connection.as_ref().map(|connection| connection.generation() as u16)
    }

    pub(super) fn timer_ns(&self) -> Option<u64> {
        let patience = self.connection.as_ref().and_then(Carrier::deadline_ns);
        self.timer_ns.into_iter().chain(patience).min()
    }

    pub(super) fn start(&mut self, shared: &mut Shared, ring: &mut Ring) {
        self.step(Message::Start, shared, Some(ring));
        self.arm(shared, ring);
    }

    pub(super) fn detach(&mut self, shared: &mut Shared, ring: &mut Ring) {
        self.step(Message::Detach, shared, Some(ring));
        self.arm(shared, ring);
    }

    /// Something is due at `now_ns`.
    pub(super) fn timer(&mut self, now_ns: u64, shared: &mut Shared, ring: &mut Ring) {
        if let Some(connection) = self.connection.as_mut() {
            connection.expire(now_ns);
        }
        if self.timer_ns.take_if(|at| *at <= now_ns).is_some() {
            self.step(Message::Timer, shared, Some(ring));
        }
        self.arm(shared, ring);
    }

    /// The volume may be served elsewhere from now on.
    pub(super) fn retarget(
        &mut self,
        whereabouts: &Whereabouts,
        shared: &mut Shared,
        ring: &mut Ring,
    ) {
        self.targets = targets_of(whereabouts, shared);
        self.token = whereabouts.token;
        self.host.clone_from(&whereabouts.host);
        let known = self.targets.iter().position(|target| *target == self.connected_to);
        let outdated = whereabouts.epoch > self.machine.epoch();
        let present = known.filter(|_| !outdated && self.connection.is_some());
        let message = Message::Retarget {
            targets: self.targets.len() as u32,
            first: present.unwrap_or(0) as u32,
            epoch: whereabouts.epoch,
            keep: present.is_some(),
        };
        if present.is_none() && self.machine.phase() == Phase::Ready {
            self.wait_because("the volume has another owner", shared);
        }
        self.step(message, shared, Some(ring));
        self.arm(shared, ring);
    }

    /// The engine says where the volume went: that place is tried first.
    fn moved(&mut self, address: &str) -> Message {
        let Ok(address) = address.parse() else {
            let generation = self.machine.generation();
            let reason = format::edge::CloseReason::Fenced;
            return Message::Closed { generation, reason };
        };
        let address = Address::Tcp(address);
        self.targets.retain(|target| *target != address);
        self.targets.insert(0, address);
        self.targets.truncate(TARGETS_MAX);
        let targets = self.targets.len() as u32;
        Message::Retarget { targets, first: 0, epoch: 0, keep: false }
    }

    /// Asks the ring for what the connection waits for, or notes that it is over.
    pub(super) fn arm(&mut self, shared: &mut Shared, ring: &mut Ring) {
        while let Some(connection) = self.connection.take_if(|c| c.has_ended()) {
            if !self.explained {
                self.wait_because(&connection.why(), shared);
            }
            let generation = connection.generation();
            let message = match connection.was_closed() {
                true => Message::LetGo { generation },
                false => Message::Lost { generation },
            };
            self.step(message, shared, Some(&mut *ring));
        }
        if let Some(connection) = self.connection.as_mut()
            && connection.wants_ring()
        {
            connection.arm(shared.class, self.volume.0, ring);
        }
    }

    /// It has to be armed before the loop sleeps.
    pub(super) fn wants_ring(&self) -> bool {
        self.connection.as_ref().is_some_and(Carrier::wants_ring)
    }

    /// Takes a request from a front end.
    pub(super) fn submit(&mut self, request: Request, shared: &mut Shared) {
        self.backlog.push_back(request);
        self.drain_backlog(shared);
    }

    fn accept(&mut self, tag: u32, request: Request, shared: &mut Shared) {
        let mut command = Command {
            tag,
            verb: Wire::Flush,
            flags: 0,
            offset: request.offset,
            length: 0,
            place: 0,
            room: 0,
        };
        let fua = |fua: bool| if fua { FLAG_FUA } else { 0 };
        let mut status_len = 0;
        let slice = match request.verb {
            Verb::Read(slice) => {
                command.verb = Wire::Read;
                Some(slice)
            }
            Verb::Write { data, fua: durable } => {
                command.verb = Wire::Write;
                command.flags = fua(durable);
                Some(data)
            }
            Verb::Trim { len, fua: durable } => {
                (command.verb, command.length) = (Wire::Trim, len);
                command.flags = fua(durable);
                None
            }
            Verb::WriteZeroes { len, fua: durable } => {
                (command.verb, command.length) = (Wire::WriteZeroes, len);
                command.flags = fua(durable);
                None
            }
            Verb::Flush => None,
            Verb::BlockStatus { len } => {
                (command.verb, command.length) = (Wire::BlockStatus, u64::from(len));
                command.flags = FLAG_OWN;
                command.place = answer_place(tag) as u64;
                command.room = ANSWER_ROOM;
                status_len = len;
                None
            }
        };
        if let Some(slice) = &slice {
            command.length = slice.len() as u64;
            command.place = slice.offset() as u64;
        }
        self.pending[tag as usize] = Some(Pending { id: request.id, slice, status_len });
        self.step(Message::Submit(command), shared, None);
    }

    /// Runs the machine. Without a `ring` only messages of the data path may be given: these lead
    /// to no action that needs one.
    fn step(&mut self, message: Message, shared: &mut Shared, mut ring: Option<&mut Ring>) {
        let mut actions = std::mem::take(&mut self.actions);
        self.machine.step(message, &mut actions);
        let mut at = 0;
        while at < actions.len() {
            let action = actions[at].clone();
            at += 1;
            if let Some(answer) = self.perform(action, shared, ring.as_deref_mut()) {
                self.machine.step(answer, &mut actions);
            }
        }
        actions.clear();
        self.actions = actions;
    }

    /// Accepts requests that waited for a tag.
    #[inline]
    fn drain_backlog(&mut self, shared: &mut Shared) {
        while !self.free.is_empty()
            && let Some(request) = self.backlog.pop_front()
            && let Some(tag) = self.free.pop()
        {
            self.accept(tag, request, shared);
        }
    }

    /// Performs one action; what it led to at once.
    fn perform(
        &mut self,
        action: Action,
        shared: &mut Shared,
        ring: Option<&mut Ring>,
    ) -> Option<Message> {
        let volume = self.volume;
        match action {
            Action::Send(command) => {
                let connection = self.connection.as_mut()?;
                let generation = connection.generation();
                let payload = self.pending[command.tag as usize].as_ref();
                let payload = payload.and_then(|pending| pending.slice.as_ref());
                let pushed = connection.push(&command, payload);
                return (!pushed).then_some(Message::Nonsense { generation });
            }
            Action::Complete(done) => self.finish(done, shared),
            Action::Connect { generation } => {
                let ring = ring?;
                if let Err(error) = self.connect(generation, shared, ring) {
                    self.wait_because(&unreachable(&self.connected_to, &error), shared);
                    return Some(Message::Lost { generation });
                }
            }
            Action::SetTimer { pause_ms } => {
                self.timer_ns = Some(monotonic_ns() + u64::from(pause_ms) * 1_000_000);
            }
            Action::Leave { breach, .. } => {
                if let Some(breach) = breach {
                    self.wait_because(&format!("the engine {}", describe(breach)), shared);
                }
                if let Some(connection) = &mut self.connection {
                    connection.leave();
                }
            }
            Action::Opened { first } => {
                self.told_waiting = false;
                self.refusal = None;
                self.why.clear();
                shared.notices.push(Notice::Opened { volume, first });
            }
            Action::Resized { size } => shared.notices.push(Notice::Resized { volume, size }),
            Action::Ended(ending) => {
                self.over = true;
                for request in self.backlog.drain(..) {
                    let outcome = Outcome::Failed(machine::ERRNO_GONE);
                    shared.completions.push(Completion { id: request.id, outcome });
                }
                let refusal = self.refusal.take().or_else(|| self.refusal_of_silence());
                let all_ended = self.machine.has_ended_all();
                shared.notices.push(Notice::Ended { volume, ending, all_ended, refusal });
            }
        }
        None
    }

    fn refusal_of_silence(&self) -> Option<Refusal> {
        (!self.why.is_empty()).then(|| Refusal {
            code: "engine_unavailable".into(),
            what: format!("attach volume {}", uuid(&self.uuid)),
            why: self.why.clone(),
            fix: match &self.connected_to {
                Address::Shm(path) => format!(
                    "start vstorage-daemon on this host, or check that it listens on {}",
                    path.display()
                ),
                Address::Tcp(address) => format!(
                    "check that vstorage-daemon runs there, that its [edge] listen is {address}, \
                     and the network between the hosts"
                ),
            },
        })
    }

    /// Notes why the volume does not serve, and tells it once.
    fn wait_because(&mut self, why: &str, shared: &mut Shared) {
        self.why = why.to_owned();
        if self.machine.is_settled() && !std::mem::replace(&mut self.told_waiting, true) {
            let (volume, why) = (self.volume, self.why.clone());
            shared.notices.push(Notice::Waiting { volume, why });
        }
    }

    fn connect(&mut self, generation: u32, shared: &Shared, ring: &mut Ring) -> io::Result<()> {
        self.connection = None;
        self.explained = false;
        let target = self.targets.get(self.machine.target() as usize);
        self.connected_to = target.unwrap_or(&self.targets[0]).clone();
        let purpose = Purpose {
            uuid: self.uuid,
            read_only: self.read_only,
            entries: ENTRIES,
            generation,
            token: self.token,
            host: self.host.clone(),
        };
        let (address, index) = (&self.connected_to, self.volume.0);
        self.connection = Some(Carrier::open(address, shared, &purpose, index, ring)?);
        Ok(())
    }

    /// An event of the present connection.
    pub(super) fn on_event(&mut self, kind: u8, result: i32, shared: &mut Shared, ring: &mut Ring) {
        let Some(connection) = self.connection.as_mut() else { return };
        connection.on_event(kind, result);
        // Answers that the engine published before what it said are good; they need no replay.
        self.poll(shared);
        let Some(connection) = self.connection.as_ref() else { return };
        let generation = connection.generation();
        loop {
            // An action may have replaced the connection meanwhile.
            let Some(connection) = self.connection.as_mut() else { return };
            if connection.generation() != generation {
                return;
            }
            let message = match connection.next_frame() {
                Ok(Some(frame)) => self.message_of(frame, generation, shared),
                Ok(None) => break,
                Err(_) => {
                    self.step(Message::Nonsense { generation }, shared, Some(ring));
                    break;
                }
            };
            self.step(message, shared, Some(ring));
        }
        if let Some(connection) = self.connection.as_mut()
            && connection.is_polled()
            && !connection.has_ended()
        {
            connection.arm(shared.class, self.volume.0, ring);
        }
        self.arm(shared, ring);
    }

    fn message_of(&mut self, frame: Frame, generation: u32, shared: &mut Shared) -> Message {
        match frame {
            Frame::Attached(attached) => Message::Attached { generation, attached },
            Frame::Refused(refusal) => {
                let known = self.refusal.as_ref().map(|known| &known.code);
                if known != Some(&refusal.code) {
                    self.told_waiting = false;
                }
                self.explained = true;
                self.wait_because(&format!("the engine refused it: {}", refusal.why), shared);
                self.refusal = Some(refusal);
                Message::Refused { generation }
            }
            Frame::Resized { size } => Message::Resized { generation, size },
            Frame::Closed { reason, detail } => {
                self.explained = true;
                self.wait_because(&format!("the engine closed it: {detail}"), shared);
                Message::Closed { generation, reason }
            }
            Frame::Moved { address, epoch } => {
                let why = format!("the volume moved to '{address}' with epoch {epoch}");
                self.wait_because(&why, shared);
                self.moved(&address)
            }
            Frame::Hello(_) | Frame::Goodbye => Message::Nonsense { generation },
        }
    }

    /// Takes answers from the ring. True: there were some.
    pub(super) fn poll(&mut self, shared: &mut Shared) -> bool {
        let Some(connection) = self.connection.as_mut() else { return false };
        let generation = connection.generation();
        match connection.look() {
            Ok(false) => return false,
            Ok(true) => {}
            Err(()) => {
                self.step(Message::Nonsense { generation }, shared, None);
                return true;
            }
        }
        while let Some(connection) = self.connection.as_mut() {
            let message = match connection.pop() {
                Some(Ok(done)) => Message::Answered { generation, done },
                Some(Err(_)) => Message::Nonsense { generation },
                None => {
                    connection.release();
                    break;
                }
            };
            self.step(message, shared, None);
        }
        self.drain_backlog(shared);
        true
    }

    /// Gives the outcome of a request to its front end.
    fn finish(&mut self, done: Done, shared: &mut Shared) {
        let Some(pending) = self.pending[done.tag as usize].take() else { return };
        let outcome = match done.errno {
            0 if pending.status_len > 0 => self.read_extents(&done, pending.status_len),
            0 => Outcome::Done,
            errno => Outcome::Failed(errno),
        };
        self.free.push(done.tag);
        shared.completions.push(Completion { id: pending.id, outcome });
    }

    /// The extents of a block status; an error when they do not describe exactly what was asked.
    fn read_extents(&mut self, done: &Done, len: u32) -> Outcome {
        let Some(bytes) = self.connection.as_mut().and_then(|c| c.extents(done)) else {
            return Outcome::Failed(EIO);
        };
        let mut extents = Vec::with_capacity(done.extents as usize);
        let mut described = 0u64;
        for chunk in bytes.chunks_exact(EXTENT_LEN) {
            let mut bytes = [0; EXTENT_LEN];
            bytes.copy_from_slice(chunk);
            let (len, hole) = decode_extent(&bytes);
            described += u64::from(len);
            extents.push(Extent { len, hole });
        }
        if described == u64::from(len) && extents.iter().all(|extent| extent.len > 0) {
            Outcome::Extents(extents)
        } else {
            Outcome::Failed(EIO)
        }
    }

    /// Requests accepted and not answered, apart from the backlog.
    pub(super) fn in_flight(&self) -> u32 {
        self.machine.in_flight()
    }

    /// Requests are with the engine, so answers will come that must be looked for.
    pub(super) fn is_waiting_for_answers(&self) -> bool {
        self.connection.as_ref().is_some_and(Carrier::is_polled)
            && self.machine.phase() == Phase::Ready
            && self.machine.in_flight() > 0
    }

    /// True the first time since the last [`Session::publish`].
    #[inline]
    pub(super) fn touch(&mut self) -> bool {
        !std::mem::replace(&mut self.touched, true)
    }

    /// Shows commands to the engine and wakes it if it sleeps.
    pub(super) fn publish(&mut self) {
        self.touched = false;
        if let Some(connection) = self.connection.as_mut() {
            connection.publish();
        }
    }

    /// Asks for the bell. False: an answer is there already.
    pub(super) fn fall_asleep(&mut self) -> bool {
        self.connection.as_mut().is_none_or(Carrier::fall_asleep)
    }

    /// Takes the request for the bell back: the loop is looking again.
    pub(super) fn wake_up(&mut self) {
        if let Some(connection) = self.connection.as_mut() {
            connection.wake_up();
        }
    }
}

/// Where the extents for a tag are in the session's memory.
fn answer_place(tag: u32) -> usize {
    Layout::new(ENTRIES).map_or(0, |layout| layout.answer(tag))
}

/// Where a volume is to be looked for, nearest first.
fn targets_of(whereabouts: &Whereabouts, shared: &Shared) -> Vec<Address> {
    match &whereabouts.targets[..] {
        [] => vec![shared.engine.clone()],
        targets => targets[..targets.len().min(TARGETS_MAX)].to_vec(),
    }
}

fn unreachable(address: &Address, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            format!("no engine listens on {address}")
        }
        _ => format!("cannot connect to the engine on {address}: {error}"),
    }
}

fn describe(breach: Breach) -> String {
    match breach {
        Breach::StrangeAnswer { tag } => format!("answered tag {tag}, which it was not asked"),
        Breach::OldEpoch { epoch } => format!("has the outdated ownership epoch {epoch}"),
        Breach::OutOfTurn => "sent a message out of turn".into(),
        Breach::Nonsense => "sent bytes that make no sense".into(),
    }
}
