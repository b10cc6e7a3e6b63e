//! The thread that speaks with all OSDs of a cluster: one io_uring, any number of connections. What
//! the upkeep asks has a thread and connections of its own, so that no guest's answer waits behind
//! large ones of the upkeep.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use format::osd::Claim;
use machines::alba::Courtesy;
use media::{Ring, Wait, give_way};
use net::clock::monotonic_ns;
use net::{Bell, Conduit};

use super::peer::{Line, Peer, Token};
use super::{LINES, Link, RemoteOsd, Shared, lock};
use crate::osd::{Reply, Request};

/// How often it is looked whether something takes too long, while there is something.
const TICK: Duration = Duration::from_millis(20);
const BELL: u64 = u64::MAX;

/// What the fleet's thread is told.
pub(crate) enum Command {
    /// There is a new connection to be kept.
    Add(Box<Peer>),
    /// A request.
    Ask { peer: usize, request: Request, reply: Reply },
    /// The address has changed.
    Reconnect(usize),
    /// Nothing is asked there any more.
    Retire(usize),
    /// That was all.
    Stop,
}

/// The way to the fleet's thread.
pub(crate) struct Mailbox {
    /// `None`: the thread has ended.
    commands: Mutex<Option<Vec<Command>>>,
    bell: Bell,
}

impl std::fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mailbox")
    }
}

impl Mailbox {
    pub(crate) fn send(&self, command: Command) {
        let first = {
            let mut commands = lock(&self.commands);
            // Without the thread the command is dropped with its reply: who waits hears that.
            let Some(commands) = commands.as_mut() else { return };
            commands.push(command);
            commands.len() == 1
        };
        if first {
            // It can only fail when the descriptor is none, which it is.
            let _ = self.bell.ring();
        }
    }
}

/// A thread, and how it is spoken to.
struct Lane {
    mailbox: Arc<Mailbox>,
    peers: Mutex<usize>,
    thread: Option<JoinHandle<()>>,
}

impl Lane {
    fn start(name: &str, gives_way: bool) -> io::Result<Self> {
        let mailbox =
            Arc::new(Mailbox { commands: Mutex::new(Some(Vec::new())), bell: Bell::new()? });
        let inside = mailbox.clone();
        let (started, hear) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name(name.to_owned());
        let thread = thread.spawn(move || {
            if gives_way {
                // Where that is not allowed it goes on as any other.
                let _ = give_way();
            }
            match Ring::new(256) {
                Ok(ring) => {
                    let _ = started.send(Ok(()));
                    let conduit = Conduit::of_this_thread();
                    Loop { ring, conduit, mailbox: inside, peers: Vec::new() }.run();
                }
                Err(e) => drop(started.send(Err(e))),
            }
        })?;
        hear.recv().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))?;
        Ok(Self { mailbox, peers: Mutex::new(0), thread: Some(thread) })
    }

    /// A new connection; its number.
    fn add(&self, line: Line, osd: [u8; 16], link: &Link, shared: &Arc<Shared>) -> usize {
        let mut count = lock(&self.peers);
        let number = *count;
        *count += 1;
        let peer = Peer::new(number, line, osd, link.clone(), shared.clone());
        self.mailbox.send(Command::Add(Box::new(peer)));
        number
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.mailbox.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// See the top of the file.
pub struct Fleet {
    link: Link,
    guests: Lane,
    upkeep: Option<Lane>,
    courtesy: Arc<Mutex<Courtesy>>,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fleet of {} connections", *lock(&self.guests.peers))
    }
}

impl Fleet {
    /// Starts the thread; without one of the upkeep's own.
    ///
    /// # Errors
    /// There is no io_uring, thread or descriptor.
    pub fn start(link: Link) -> io::Result<Self> {
        let guests = Lane::start("vs-osd-client", false)?;
        Ok(Self { link, guests, upkeep: None, courtesy: Arc::default() })
    }

    /// Starts both threads.
    ///
    /// # Errors
    /// As [`Fleet::start`].
    pub fn start_with_upkeep(link: Link) -> io::Result<Self> {
        Ok(Self { upkeep: Some(Lane::start("vs-osd-upkeep", true)?), ..Self::start(link)? })
    }

    /// Whose OSDs it speaks with.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// How much the upkeep, which has just moved something, may move from now on.
    pub fn share(&self) -> u32 {
        lock(&self.courtesy).moved(monotonic_ns() / 1_000_000)
    }

    /// An OSD at this address.
    pub fn add(&self, claim: Claim, address: SocketAddr) -> RemoteOsd {
        let shared = Arc::new(Shared::new(address, self.courtesy.clone()));
        let of = |lane: &Lane, line| lane.add(line, claim.osd, &self.link, &shared);
        let peers: [usize; LINES] = std::array::from_fn(|at| of(&self.guests, Line::Guests(at)));
        let upkeep = self.upkeep.as_ref();
        let upkeep = upkeep.map(|lane| (lane.mailbox.clone(), of(lane, Line::Upkeep)));
        let mailbox = self.guests.mailbox.clone();
        RemoteOsd { claim, shared, peers, mailbox, upkeep, engaged: AtomicBool::new(true) }
    }
}

struct Loop {
    ring: Ring,
    conduit: Conduit,
    mailbox: Arc<Mailbox>,
    peers: Vec<Peer>,
}

impl Loop {
    fn run(mut self) {
        let mut events = Vec::new();
        self.mailbox.bell.listen(&mut self.ring, BELL);
        loop {
            let busy = self.peers.iter().any(Peer::has_deadline);
            let wait = if busy { Wait::AtMost(TICK) } else { Wait::Forever };
            if self.ring.turn(wait, &mut events).is_err() {
                // Whoever asks hears that the client was stopped, and takes the OSD for unreachable.
                return self.stop();
            }
            let now = monotonic_ns();
            for event in events.drain(..) {
                if event.token == BELL {
                    self.mailbox.bell.silence();
                    self.mailbox.bell.listen(&mut self.ring, BELL);
                } else if let Some(peer) = self.peers.get_mut(Token::unpack(event.token).peer) {
                    peer.on_event(event, &mut self.ring, now);
                }
            }
            let commands = lock(&self.mailbox.commands).as_mut().map(std::mem::take);
            for command in commands.unwrap_or_default() {
                match command {
                    Command::Add(peer) => self.peers.push(*peer),
                    Command::Ask { peer, request, reply } => match self.peers.get_mut(peer) {
                        Some(peer) => peer.ask(request, reply, now),
                        None => drop(reply),
                    },
                    Command::Reconnect(peer) => {
                        if let Some(peer) = self.peers.get_mut(peer) {
                            peer.reconnect(&mut self.ring, now);
                        }
                    }
                    Command::Retire(peer) => {
                        if let Some(peer) = self.peers.get_mut(peer) {
                            peer.retire(&mut self.ring);
                        }
                    }
                    Command::Stop => return self.stop(),
                }
            }
            for peer in &mut self.peers {
                peer.tick(&mut self.ring, &mut self.conduit, now);
            }
        }
    }

    fn stop(mut self) {
        for peer in &mut self.peers {
            peer.stop(&mut self.ring);
        }
        *lock(&self.mailbox.commands) = None;
    }
}
