//! The Edge process: guests' sockets and files on one side, an engine on the other, and a control
//! socket.
//!
//! It is small and lives long: engines come and go under it. One thread, one io_uring. What it was
//! asked to serve is written to `<run_dir>/edge.json` and taken up again when it starts.

mod attachments;
mod control;
mod desk;
mod identity;
mod served;
#[cfg(test)]
mod tests;
mod whereabouts;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use media::{Arena, Event, Ring, Wait};
use net::Signals;
use net::clock::{monotonic_ns, unix_ms};

use crate::class_of;
use crate::client::{EdgeTargets, Identity};
use crate::fuse::FuseServer;
use crate::nbd::NbdServer;
use crate::target::Completion;
use control::Control;
use desk::{Desk, Room};

const CLASS_NBD: u8 = 1;
const CLASS_TARGETS: u8 = 2;
const CLASS_CONTROL: u8 = 3;
const CLASS_SIGNAL: u8 = 4;
const CLASS_FUSE: u8 = 5;

/// Bytes of the data arena unless said otherwise; only what guests' requests use at once is ever
/// backed by memory.
pub const ARENA_BYTES: usize = 512 << 20;

/// What the process is started with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Where the sockets and `edge.json` are.
    pub run_dir: PathBuf,
    /// Bytes of the data arena.
    pub arena_bytes: usize,
}

/// Why the process cannot start or go on.
#[derive(Debug)]
pub struct Fatal {
    /// What was attempted.
    what: String,
    /// Why it failed.
    why: String,
    /// What to do.
    fix: &'static str,
}

impl Fatal {
    fn new(what: impl Into<String>, why: impl fmt::Display, fix: &'static str) -> Self {
        Self { what: what.into(), why: why.to_string(), fix }
    }
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}; {}", self.what, self.why, self.fix)
    }
}

impl std::error::Error for Fatal {}

/// The loop and all it drives.
pub struct Process {
    ring: Ring,
    nbd: NbdServer,
    fuse: FuseServer,
    targets: EdgeTargets,
    control: Control,
    desk: Desk,
    signals: Option<Signals>,
    completions: Vec<Completion>,
    log: fn(&str),
    ends: bool,
}

impl Process {
    /// Listens for control connections and takes up what an earlier life served. `log` gets one
    /// line at a time.
    ///
    /// # Errors
    /// Nothing is served then; the text says what to do.
    pub fn start(setup: &Setup, signals: Option<Signals>, log: fn(&str)) -> Result<Self, Fatal> {
        let kernel = "a kernel of 5.19 or newer with io_uring enabled is needed";
        let mut ring = Ring::new(256).map_err(|e| Fatal::new("set up io_uring", e, kernel))?;
        let arena = Arena::shared(setup.arena_bytes).map_err(|e| {
            let what = format!("reserve {} bytes of shared memory", setup.arena_bytes);
            Fatal::new(what, e, "free memory, or start with a smaller --arena-mib")
        })?;
        let engine = setup.run_dir.join("engine.sock");
        let client = format!("vstorage-edge of {}", setup.run_dir.display());
        let edge = identity::of(&setup.run_dir).map_err(|e| {
            Fatal::new("keep a name for this Edge", e, "make the run directory writable")
        })?;
        let identity = Identity { edge, origin_ms: unix_ms(), client };
        let targets = EdgeTargets::new(CLASS_TARGETS, &engine, arena.clone(), identity)
            .map_err(|e| Fatal::new("set up sessions", e, "raise the limit of open files"))?;
        let for_nbd = setup.arena_bytes / 4 * 3;
        let nbd = NbdServer::within(CLASS_NBD, arena.clone(), for_nbd);
        let fuse = FuseServer::new(CLASS_FUSE, arena, for_nbd);
        let directory = "create the run directory, owned by the user of this process";
        let path = setup.run_dir.join("edge.sock");
        let control = Control::listen(CLASS_CONTROL, &path, &mut ring)
            .map_err(|e| Fatal::new("listen for control connections", e, directory))?;
        let desk = Desk::open(&setup.run_dir)?;
        if let Some(signals) = &signals {
            signals.listen(&mut ring, u64::from(CLASS_SIGNAL) << 56);
        }
        let completions = Vec::new();
        let mut process = Self {
            ring,
            nbd,
            fuse,
            targets,
            control,
            desk,
            signals,
            completions,
            log,
            ends: false,
        };
        process.desk.restore(&mut Room {
            ring: &mut process.ring,
            nbd: &mut process.nbd,
            fuse: &mut process.fuse,
            targets: &mut process.targets,
            now_ns: monotonic_ns(),
        });
        process.say();
        Ok(process)
    }

    /// Serves until a signal ends it.
    ///
    /// # Errors
    /// The io_uring fails.
    pub fn run(&mut self) -> Result<(), Fatal> {
        let mut events = Vec::new();
        while !self.ends {
            let wait = self.wait();
            self.turn(wait, &mut events)?;
        }
        self.desk.close(&mut self.ring, &mut self.nbd, &mut self.fuse);
        self.control.close(&mut self.ring);
        self.say();
        Ok(())
    }

    fn wait(&mut self) -> Wait {
        if self.targets.wants_polling() {
            return Wait::No;
        }
        let now = monotonic_ns();
        let next = [self.targets.next_timer_ns(), self.desk.next_deadline_ns()];
        match next.into_iter().flatten().min() {
            None => Wait::Forever,
            Some(at) if at <= now => Wait::No,
            Some(at) => Wait::AtMost(Duration::from_nanos(at - now)),
        }
    }

    fn turn(&mut self, wait: Wait, events: &mut Vec<Event>) -> Result<(), Fatal> {
        self.ring.turn(wait, events).map_err(|e| {
            Fatal::new("wait for events", e, "look for memory limits of the service")
        })?;
        for event in events.drain(..) {
            self.on_event(event);
        }
        self.targets.on_timers(monotonic_ns(), &mut self.ring);
        loop {
            self.targets.poll();
            self.targets.take_completions(&mut self.completions);
            for completion in self.completions.drain(..) {
                match class_of(completion.id.0) {
                    CLASS_FUSE => self.fuse.complete(completion),
                    _ => self.nbd.complete(completion),
                }
            }
            let more = self.nbd.end_turn(&mut self.ring, &mut self.targets);
            if !(self.fuse.end_turn(&mut self.ring, &mut self.targets) || more) {
                break;
            }
        }
        self.serve_control();
        self.targets.end_turn(&mut self.ring);
        self.say();
        Ok(())
    }

    fn serve_control(&mut self) {
        loop {
            let mut room = Room {
                ring: &mut self.ring,
                nbd: &mut self.nbd,
                fuse: &mut self.fuse,
                targets: &mut self.targets,
                now_ns: monotonic_ns(),
            };
            for (asker, line) in self.control.take_requests() {
                self.desk.request(asker, &line, &mut room);
            }
            self.desk.turn(&mut room);
            let answers = self.desk.take_answers();
            if answers.is_empty() {
                return;
            }
            for (asker, answer) in answers {
                self.control.answer(asker, &answer, &mut self.ring);
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        let ring = &mut self.ring;
        match class_of(event.token) {
            CLASS_NBD => self.nbd.on_event(event, ring, &mut self.targets),
            CLASS_FUSE => self.fuse.on_event(event, ring, &mut self.targets),
            CLASS_TARGETS => self.targets.on_event(event, ring),
            CLASS_CONTROL => self.control.on_event(event, ring),
            _ => {
                if let Some(signal) = self.signals.as_ref().and_then(Signals::take) {
                    (self.log)(&format!("ends on signal {signal}"));
                    self.ends = true;
                }
            }
        }
    }

    fn say(&mut self) {
        for line in self.nbd.take_log() {
            (self.log)(&line.text);
        }
        for line in self.fuse.take_log() {
            (self.log)(&line);
        }
        for line in self.desk.take_log() {
            (self.log)(&line);
        }
        for line in self.control.take_log() {
            (self.log)(&line);
        }
    }
}

/// Where a volume's guest socket is unless the attach says otherwise.
pub fn guest_socket(run_dir: &Path, uuid: &str) -> PathBuf {
    run_dir.join("nbd").join(format!("{uuid}.sock"))
}
