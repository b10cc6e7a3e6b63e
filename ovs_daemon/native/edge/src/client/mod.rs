//! The Edge's side of the Edge protocol: volumes that are served by an engine somewhere else.
//!
//! [`EdgeTargets`] are the [`Targets`] of an Edge process's loop, one session for each volume. The
//! decisions are `machines::edge`'s; here they are performed.
//!
//! ```text
//! loop {
//!     ring.turn(wait, &mut events)           No if targets.wants_polling(), else until next_timer
//!     for event in events: if class_of(event.token) == CLASS { targets.on_event(event, ring) }
//!     targets.on_timers(now, ring)
//!     front ends submit ...
//!     targets.poll()                         answers of the rings
//!     targets.take_completions(&mut done)    -> front ends
//!     targets.end_turn(ring)                 commands become visible; engines are rung
//! }
//! ```
//!
//! **Memory.** One data arena for the whole process: front ends receive payloads into it and every
//! engine maps it. An arena for each volume would keep engines from seeing each other's volumes'
//! data, but all engines of a host are one program with one owner, who may read all of it anyway;
//! and one arena lets idle volumes cost no memory and lets a receive buffer be used by whichever
//! volume is busy. Guests never map it. Rings are fresh for each connection, so that an engine
//! which was given up cannot write into those of its successor.
//!
//! **Carriers.** A volume whose owner is on this host is reached over shared memory, another over TCP
//! (`stream`); a session goes from one to the other as its volume does ([`EdgeTargets::retarget`]).
//!
//! **Bells.** All sessions share one bell for answers: the loop waits for one descriptor, however
//! many volumes there are. Each connection has its own bell towards its engine.

mod carrier;
#[cfg(test)]
mod follow_tests;
mod session;
mod shm;
mod stream;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use format::edge::Refusal;
use format::edge::stream::PIECE_MAX;
use machines::edge::{Ending, Phase};
use media::{Arena, Event, Ring};
use net::Bell;

use crate::spin::Spin;
use crate::target::{Completion, Outcome, Request, Targets, Verb, VolumeId, VolumeInfo};
use crate::token::Token;
pub use carrier::{Address, Identity};
use session::{Session, Shared};

const KIND_BELL: u8 = 0;
const KIND_CONTROL: u8 = 1;
const KIND_CONNECT: u8 = 2;
const KIND_SEND: u8 = 3;
const KIND_RECEIVE: u8 = 4;
/// Requests of one volume that may be on their way at once.
pub const ENTRIES: u32 = 256;
/// Argument outside its limits (errno(3)).
const EINVAL: i32 = 22;
/// The volume is gone (errno(3)); NBD has the same number for it.
const ESHUTDOWN: i32 = 108;

/// What happened to a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// It serves; `first`: for the first time, an attach that waits for it has succeeded.
    Opened {
        /// The volume.
        volume: VolumeId,
        /// Its first handshake in the life of the attachment.
        first: bool,
    },
    /// The engine is lost; requests wait. Told once until it is opened again.
    Waiting {
        /// The volume.
        volume: VolumeId,
        /// Why, for the log.
        why: String,
    },
    /// The volume has another size now.
    Resized {
        /// The volume.
        volume: VolumeId,
        /// Bytes.
        size: u64,
    },
    /// It is over: the identifier is free.
    Ended {
        /// The volume.
        volume: VolumeId,
        /// Why.
        ending: Ending,
        /// Nothing that it asked for can change the volume any more.
        all_ended: bool,
        /// The last thing an engine said against it, if any did.
        refusal: Option<Refusal>,
    },
}

/// Where a volume may be served, and with what leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whereabouts {
    /// The likeliest first; empty: on this host, by the engine that the targets were made for.
    pub targets: Vec<Address>,
    /// Attach token; zero for engines on this host.
    pub token: [u8; 64],
    /// Name of this host, for which the token was made.
    pub host: String,
    /// No engine with an older epoch owns the volume; 0: nothing is known.
    pub epoch: u64,
}

/// The bytes of an attach token in hexadecimal digits.
pub fn parse_token(text: &str) -> Option<[u8; 64]> {
    let mut token = [0; 64];
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len() == 128)?;
    for (byte, pair) in token.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = (pair[0] << 4 | pair[1]) as u8;
    }
    Some(token)
}

impl Default for Whereabouts {
    fn default() -> Self {
        Self { targets: Vec::new(), token: [0; 64], host: String::new(), epoch: 0 }
    }
}

/// What is to be attached.
#[derive(Clone, Debug, Default)]
pub struct Attachment {
    /// UUID of the volume.
    pub uuid: [u8; 16],
    /// The guest may not write.
    pub read_only: bool,
    /// The size in bytes that an earlier life of this process knew. The attachment then exists
    /// already, guests depend on it, and engines are waited for from the start.
    pub known_size: Option<u64>,
    /// Where.
    pub whereabouts: Whereabouts,
}

/// A session as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Where it stands.
    pub phase: Phase,
    /// Bytes; 0 before the first handshake.
    pub size: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// Epoch of the engine.
    pub epoch: u64,
    /// Where it is connected to, or was last.
    pub target: String,
    /// Requests that are not answered.
    pub in_flight: usize,
    /// Why it does not serve; empty when it does.
    pub why: String,
}

/// See the file's essay.
pub struct EdgeTargets {
    shared: Shared,
    sessions: Vec<Option<Box<Session>>>,
    /// Sessions with requests on their way.
    busy: Vec<u32>,
    /// Sessions that have something to publish.
    touched: Vec<u32>,
    /// Sessions that wait for the ring.
    arming: Vec<u32>,
    listening: bool,
    /// The bell was asked for.
    asleep: bool,
    spin: Spin,
    eager: bool,
    found_work: bool,
}

impl EdgeTargets {
    /// Targets whose tokens have `class` as their top 8 bits, served by the engine that listens on
    /// `engine` (a unix socket). Payloads must lie in `arena`, which must be a shared one.
    pub fn new(
        class: u8,
        engine: &Path,
        arena: Arc<Arena>,
        identity: Identity,
    ) -> std::io::Result<Self> {
        let shared = Shared {
            class,
            engine: Address::Shm(engine.to_owned()),
            identity,
            arena,
            bell: Bell::new()?,
            completions: Vec::new(),
            notices: Vec::new(),
        };
        Ok(Self {
            shared,
            sessions: Vec::new(),
            busy: Vec::new(),
            touched: Vec::new(),
            arming: Vec::new(),
            listening: false,
            asleep: false,
            spin: Spin::default(),
            eager: false,
            found_work: false,
        })
    }

    /// Starts a session; a [`Notice`] says what becomes of it.
    pub fn attach(&mut self, attachment: &Attachment, ring: &mut Ring) -> VolumeId {
        let free = self.sessions.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            self.sessions.push(None);
            self.sessions.len() - 1
        });
        let mut session = Box::new(Session::new(VolumeId(index as u32), attachment, &self.shared));
        session.start(&mut self.shared, ring);
        self.sessions[index] = Some(session);
        self.after(index as u32);
        VolumeId(index as u32)
    }

    /// Ends a session; [`Notice::Ended`] follows, at once or when the engine has let go.
    pub fn detach(&mut self, volume: VolumeId, ring: &mut Ring) {
        if let Some(session) = session_mut(&mut self.sessions, volume.0) {
            session.detach(&mut self.shared, ring);
            self.after(volume.0);
        }
    }

    /// The volume is served elsewhere from now on, or with another token. Its requests follow.
    pub fn retarget(&mut self, volume: VolumeId, whereabouts: &Whereabouts, ring: &mut Ring) {
        if let Some(session) = session_mut(&mut self.sessions, volume.0) {
            session.retarget(whereabouts, &mut self.shared, ring);
            self.touched.push(volume.0);
            self.after(volume.0);
        }
    }

    /// Drops a session that has ended.
    fn after(&mut self, index: u32) {
        let slot = &mut self.sessions[index as usize];
        if slot.as_ref().is_some_and(|session| session.is_over()) {
            *slot = None;
            self.busy.retain(|busy| *busy != index);
        }
    }

    /// How a session stands; `None`: there is none.
    pub fn status(&self, volume: VolumeId) -> Option<Status> {
        self.sessions.get(volume.0 as usize)?.as_ref().map(|session| session.status())
    }

    /// What happened since the last call.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.shared.notices)
    }

    /// Moves the completions since the last call to `out`.
    pub fn take_completions(&mut self, out: &mut Vec<Completion>) {
        out.append(&mut self.shared.completions);
    }

    /// An event of our class.
    pub fn on_event(&mut self, event: Event, ring: &mut Ring) {
        let token = Token::unpack(event.token);
        if token.kind == KIND_BELL {
            self.listening = false;
            self.shared.bell.silence();
            return;
        }
        let index = token.index;
        let Some(session) = session_mut(&mut self.sessions, index) else { return };
        if session.connection_generation() == Some(token.generation) {
            session.on_event(token.kind, event.result, &mut self.shared, ring);
            self.touched.push(index);
            self.note_busy(index);
            self.after(index);
        }
    }

    /// When [`EdgeTargets::on_timers`] is to be called next, in nanoseconds of the monotonic clock.
    pub fn next_timer_ns(&self) -> Option<u64> {
        self.sessions.iter().flatten().filter_map(|session| session.timer_ns()).min()
    }

    /// How long the loop may sleep from `now_ns` on; `None`: as long as it likes.
    pub fn patience(&self, now_ns: u64) -> Option<Duration> {
        self.next_timer_ns().map(|at| Duration::from_nanos(at.saturating_sub(now_ns)))
    }

    /// Pauses that end at or before `now_ns` (monotonic clock) are over: connects again.
    pub fn on_timers(&mut self, now_ns: u64, ring: &mut Ring) {
        for index in 0..self.sessions.len() as u32 {
            let Some(session) = session_mut(&mut self.sessions, index) else { continue };
            if session.timer_ns().is_some_and(|at| at <= now_ns) {
                session.timer(now_ns, &mut self.shared, ring);
                self.touched.push(index);
                self.after(index);
            }
        }
    }

    /// Takes answers from all rings. True: there were some.
    pub fn poll(&mut self) -> bool {
        self.publish();
        self.wake_up();
        let mut found = false;
        let mut at = 0;
        while let Some(&index) = self.busy.get(at) {
            let Some(session) = session_mut(&mut self.sessions, index) else {
                self.busy.swap_remove(at);
                continue;
            };
            if session.poll(&mut self.shared) {
                found = true;
                self.touched.push(index);
            }
            if session.is_waiting_for_answers() {
                at += 1;
            } else {
                session.busy = false;
                self.busy.swap_remove(at);
            }
        }
        self.found_work |= found;
        found
    }

    fn note_busy(&mut self, index: u32) {
        if let Some(session) = session_mut(&mut self.sessions, index)
            && session.is_waiting_for_answers()
            && !std::mem::replace(&mut session.busy, true)
        {
            self.busy.push(index);
        }
    }

    fn publish(&mut self) {
        while let Some(index) = self.touched.pop() {
            if let Some(session) = session_mut(&mut self.sessions, index) {
                session.publish();
                if session.wants_ring() {
                    self.arming.push(index);
                }
            }
        }
    }

    /// Takes requests for the bell back.
    fn wake_up(&mut self) {
        if std::mem::take(&mut self.asleep) {
            for index in &self.busy {
                if let Some(session) = session_mut(&mut self.sessions, *index) {
                    session.wake_up();
                }
            }
        }
    }

    fn few_in_flight(&self) -> bool {
        let mut sum = 0;
        for index in &self.busy {
            let session = self.sessions.get(*index as usize).and_then(Option::as_ref);
            sum += session.map_or(0, |session| session.in_flight());
            if sum > FEW {
                return false;
            }
        }
        true
    }

    /// Looks for answers however many are expected: for a loop that shares its processor with
    /// nobody.
    pub fn set_eager(&mut self, eager: bool) {
        self.eager = eager;
    }

    /// Publishes commands, rings engines that sleep, and goes to sleep when nothing is to do.
    pub fn end_turn(&mut self, ring: &mut Ring) {
        self.publish();
        while let Some(index) = self.arming.pop() {
            if let Some(session) = session_mut(&mut self.sessions, index) {
                session.arm(&mut self.shared, ring);
                self.after(index);
            }
        }
        if std::mem::take(&mut self.found_work) {
            self.spin.worked();
        }
        if !self.listening {
            self.listening = true;
            let token = Token { kind: KIND_BELL, generation: 0, index: 0 };
            self.shared.bell.listen(ring, token.pack(self.shared.class));
        }
    }

    /// True: the loop must not sleep, since answers may come without a bell. Call it after
    /// [`EdgeTargets::end_turn`], once each turn: it is here that bells are asked for.
    pub fn wants_polling(&mut self) -> bool {
        // What was submitted since then would wait for an engine that nobody wakes.
        self.publish();
        let told = !self.shared.completions.is_empty() || !self.shared.notices.is_empty();
        if told || !self.arming.is_empty() {
            return true;
        }
        if self.busy.is_empty() {
            return false;
        }
        if (self.eager || self.few_in_flight()) && self.spin.again() {
            return true;
        }
        self.asleep = true;
        let mut all = true;
        for index in &self.busy {
            if let Some(session) = session_mut(&mut self.sessions, *index) {
                all &= session.fall_asleep();
            }
        }
        !all
    }
}

/// Requests on their way up to which answers are worth looking for.
const FEW: u32 = 4;

fn session_mut(sessions: &mut [Option<Box<Session>>], index: u32) -> Option<&mut Session> {
    sessions.get_mut(index as usize)?.as_deref_mut()
}

impl Targets for EdgeTargets {
    fn info(&self, volume: VolumeId) -> Option<VolumeInfo> {
        let session = self.sessions.get(volume.0 as usize)?.as_ref()?;
        session.info()
    }

    fn submit(&mut self, volume: VolumeId, request: Request) {
        let Some(session) = session_mut(&mut self.sessions, volume.0) else {
            let outcome = Outcome::Failed(ESHUTDOWN);
            return self.shared.completions.push(Completion { id: request.id, outcome });
        };
        if let Verb::Read(slice) | Verb::Write { data: slice, .. } = &request.verb
            && (!Arc::ptr_eq(slice.arena(), &self.shared.arena)
                || !(1..=PIECE_MAX as usize).contains(&slice.len()))
        {
            let empty = slice.is_empty();
            let outcome = if empty { Outcome::Done } else { Outcome::Failed(EINVAL) };
            return self.shared.completions.push(Completion { id: request.id, outcome });
        }
        session.submit(request, &mut self.shared);
        if session.touch() {
            self.touched.push(volume.0);
            self.found_work = true;
            self.note_busy(volume.0);
        }
    }
}
