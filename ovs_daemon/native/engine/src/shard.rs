//! One thread, one io_uring: the loop in which everything on the data path happens.
//!
//! A turn: events (bytes from guests, finished disk operations, messages from other threads), then
//! each active volume takes all that came as one batch, then replies go out, then the thread
//! sleeps in `io_uring_enter` until something happens. Nothing in it blocks.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use dtl::Server;
use edge::class_of;
use edge::nbd::{NbdServer, Offer};
use edge::server::{ClusterKey, EdgeServer};
use edge::target::{Completion, VolumeId};
use format::edge::{CloseReason, Frame};
use format::entry::Uuid;
use media::{Arena, Event, Ring, Wait};
use net::clock::{boottime_ns, monotonic_ns};
use volume::{ControlDone, DtlNews, Job, Outputs, Volume};

use crate::error::{Error, Result};
use crate::events::Events;
use crate::followers::Followers;
use crate::hosted::Hosted;
use crate::lease::Lease;
use crate::mailbox::{Closing, Command, Mailbox, Reply};
use crate::parting::{Partings, Removal};
use crate::places::{Place, Places};
use crate::shut_out::{Asking, ShutOuts};
use crate::workers::Workers;

const CLASS_MAIL: u8 = 1;
const CLASS_NBD: u8 = 2;
const CLASS_EDGE: u8 = 3;
/// Class of the ring tokens of volumes.
pub(crate) const CLASS_VOLUME: u8 = 4;
const CLASS_DTL: u8 = 5;

/// Memory for requests and replies of NBD guests; pages never used cost nothing.
const NBD_ARENA: usize = 512 << 20;

/// What a shard is started with.
pub(crate) struct Setup {
    pub(crate) number: usize,
    pub(crate) mailboxes: Vec<Arc<Mailbox>>,
    pub(crate) places: Arc<Places>,
    pub(crate) workers: Workers,
    /// Socket for Edges; one shard listens for all.
    pub(crate) edge_socket: Option<PathBuf>,
    /// TCP address for Edges of other hosts, and the key of their tokens. Every shard checks
    /// tokens; the one with the socket for Edges of this host listens.
    pub(crate) edge_tcp: Option<(SocketAddr, ClusterKey)>,
    pub(crate) nbd_tcp: Option<SocketAddr>,
    pub(crate) owner: Option<(u32, u32)>,
    pub(crate) mode: u32,
    /// Folder of the tails of other nodes' volumes, and the cluster.
    pub(crate) dtl: Option<(PathBuf, Uuid)>,
    /// One shard listens for all.
    pub(crate) dtl_listen: Option<SocketAddr>,
    pub(crate) followers: Arc<Followers>,
    pub(crate) events: Arc<Events>,
    pub(crate) lease: Arc<Lease>,
}

struct Shard {
    setup: Setup,
    ring: Ring,
    hosted: Hosted,
    nbd: NbdServer,
    edge: EdgeServer,
    dtl: Option<Server>,
    /// The end of a lease that volumes were stopped at.
    expired: Option<u64>,
    /// The term of the lease in which its volumes were opened.
    term: u64,
    /// Jobs that worker threads have, by volume number.
    jobs: HashMap<u32, usize>,
    /// Who waits for the last job of a volume that is gone: only then may its files be deleted,
    /// or the volume be opened again.
    removals: Vec<(u32, Uuid, Reply<()>)>,
    /// Volumes whose sessions are not over yet.
    partings: Partings,
    /// Who waits until earlier generations of a volume's attachments are shut out.
    shut_outs: ShutOuts,
    stopping: bool,
}

/// Body of a shard's thread. `started` hears whether its sockets could be made.
pub(crate) fn run(setup: Setup, started: SyncSender<Result<Option<SocketAddr>>>) {
    let _closing = Closing(setup.mailboxes[setup.number].clone());
    match Shard::start(setup) {
        Ok((mut shard, dtl_address)) => {
            let _ = started.send(Ok(dtl_address));
            shard.work();
        }
        Err(error) => {
            let _ = started.send(Err(error));
        }
    }
}

impl Shard {
    fn start(setup: Setup) -> Result<(Self, Option<SocketAddr>)> {
        let failed = |why: String| {
            let fix = "check the kernel (5.19 or newer with io_uring) and the run directory";
            Error::new("ENGINE_START", "cannot start a shard of the engine", why, fix)
        };
        let mut ring = Ring::new(256).map_err(|e| failed(format!("io_uring: {e}")))?;
        let arena = Arena::anonymous(NBD_ARENA).map_err(|e| failed(format!("memory: {e}")))?;
        let mut nbd = NbdServer::new(CLASS_NBD, arena);
        let mut edge = EdgeServer::new(CLASS_EDGE);
        if let Some(path) = &setup.edge_socket {
            edge.listen(path, &mut ring).map_err(|e| failed(e.to_string()))?;
        }
        if let Some((address, key)) = &setup.edge_tcp {
            edge.trust(key.clone());
            if setup.edge_socket.is_some() {
                edge.listen_tcp(*address, &mut ring).map_err(|e| failed(e.to_string()))?;
            }
        }
        if let Some(address) = setup.nbd_tcp {
            nbd.listen_tcp(&mut ring, address).map_err(|e| failed(e.to_string()))?;
        }
        let shards = setup.mailboxes.len();
        let mut dtl = setup
            .dtl
            .as_ref()
            .map(|(root, cluster)| Server::new(CLASS_DTL, root, *cluster, setup.number, shards));
        let mut dtl_address = None;
        if let (Some(server), Some(address)) = (&mut dtl, setup.dtl_listen) {
            let bound = server.listen(address, &mut ring).map_err(|e| failed(e.to_string()))?;
            dtl_address = Some(bound);
        }
        let hosted = Hosted::new(setup.number, setup.places.clone());
        let (jobs, removals, partings) = (HashMap::new(), Vec::new(), Partings::default());
        let shut_outs = ShutOuts::default();
        let (expired, term, stopping) = (None, setup.lease.granted().term, false);
        let shard = Self {
            setup,
            ring,
            hosted,
            nbd,
            edge,
            dtl,
            expired,
            term,
            jobs,
            removals,
            partings,
            shut_outs,
            stopping,
        };
        Ok((shard, dtl_address))
    }

    fn work(&mut self) {
        let mut events: Vec<Event> = Vec::new();
        let mail = u64::from(CLASS_MAIL) << 56;
        self.mailbox().listen(&mut self.ring, mail);
        // What is still being read for guests of other processes ends first.
        while !(self.stopping && self.partings.is_empty()) {
            events.clear();
            let wait = self.wait();
            if let Err(error) = self.ring.turn(wait, &mut events) {
                // Without its ring a shard can do nothing: stop the process, guests wait for the
                // next one.
                eprintln!(
                    "vstorage engine: the io_uring of shard {} fails: {error}",
                    self.setup.number
                );
                std::process::abort();
            }
            self.check_lease();
            for event in &events {
                self.on_event(*event, mail);
            }
            self.edge.poll(&mut self.hosted, &mut self.ring);
            loop {
                self.hosted.turn(monotonic_ns(), &mut self.ring);
                self.deliver();
                if !self.nbd.end_turn(&mut self.ring, &mut self.hosted) {
                    break;
                }
            }
            self.part();
            self.edge.end_turn(&mut self.ring);
            self.answer_shut_outs();
            self.hand_over();
            self.serve_dtl();
            self.say();
        }
        if let Some(server) = &mut self.dtl {
            server.close(&mut self.ring);
        }
        self.hosted.leave_others(&mut self.ring);
        self.nbd.close(&mut self.ring);
        self.edge.stop_listening(&mut self.ring);
    }

    /// What was asked before the lease ended may still be answered, nothing after.
    fn check_lease(&mut self) {
        let lease = self.setup.lease.granted();
        let over = self.expired != Some(lease.end_ns) && lease.is_over();
        if over || lease.term != self.term {
            self.term = lease.term;
            self.expired = over.then_some(lease.end_ns).or(self.expired);
            self.hosted.expire(&mut self.ring);
            self.deliver();
        }
    }

    /// For how long the lease holds still, where that matters.
    fn lease_left(&self) -> Option<u64> {
        let lease = self.setup.lease.granted();
        let known = self.expired == Some(lease.end_ns);
        let matters = lease.ends() && !known && !self.hosted.is_empty();
        matters.then(|| lease.end_ns.saturating_sub(boottime_ns()))
    }

    /// Hands the DTL node's work to threads, and connections to their shards.
    fn serve_dtl(&mut self) {
        let Some(server) = &mut self.dtl else { return };
        for task in server.take_tasks() {
            self.setup.workers.give_task(self.setup.number, task);
        }
        for (fd, received) in server.take_strangers() {
            self.setup.followers.adopt(fd, received);
        }
        for (shard, guest) in server.take_guests() {
            self.setup.mailboxes[shard].send(Command::DtlGuest(Box::new(guest)));
        }
    }

    fn mailbox(&self) -> Arc<Mailbox> {
        self.setup.mailboxes[self.setup.number].clone()
    }

    fn wait(&self) -> Wait {
        if self.edge.wants_polling() {
            return Wait::No;
        }
        let left = self.hosted.wakes_at().map(|at| at.saturating_sub(monotonic_ns()));
        match left.into_iter().chain(self.lease_left()).min() {
            None => Wait::Forever,
            Some(0) => Wait::No,
            Some(left) => Wait::AtMost(Duration::from_nanos(left)),
        }
    }

    fn on_event(&mut self, event: Event, mail: u64) {
        match class_of(event.token) {
            CLASS_NBD => self.nbd.on_event(event, &mut self.ring, &mut self.hosted),
            CLASS_EDGE => self.edge.on_event(event, &mut self.ring, &mut self.hosted),
            CLASS_DTL => {
                if let Some(server) = &mut self.dtl {
                    server.on_event(event, &mut self.ring);
                }
            }
            CLASS_VOLUME => {
                let number = VolumeId(Volume::number_of(event.token));
                let ring = &mut self.ring;
                self.hosted.with(number, |volume, out| volume.on_event(event, ring, out));
            }
            _ => {
                let commands = self.mailbox().take();
                // A volume that comes with a new term must not be stopped for the old one.
                self.check_lease();
                for command in commands {
                    self.obey(command);
                }
                self.mailbox().listen(&mut self.ring, mail);
            }
        }
    }

    /// Passes on what volumes have brought forth.
    fn deliver(&mut self) {
        for completion in self.hosted.out.completions.drain(..) {
            route(completion, &mut self.nbd, &mut self.edge);
        }
        for ControlDone { ticket } in self.hosted.out.control.drain(..) {
            if let Some((_, reply)) = self.hosted.tickets.remove(&ticket) {
                let _ = reply.send(Ok(()));
            }
        }
        for event in std::mem::take(&mut self.hosted.out.events) {
            let volume = VolumeId(event.volume);
            let Some(entry) = self.hosted.entry(volume) else { continue };
            let (uuid, epoch) = (entry.uuid, entry.volume.epoch());
            if matches!(event.what, DtlNews::Stopped(_)) {
                self.setup.places.stop(&uuid);
                let why = "another node may own the volume by now";
                let farewell = closed(CloseReason::Stopping, why);
                self.edge.part_with(volume, &farewell);
                self.partings.parted(volume);
                // Whoever waits for one of its control requests hears that it was closed.
                self.hosted.tickets.retain(|_, (number, _)| *number != volume.0);
            }
            self.setup.events.push(self.setup.number, volume, &uuid, epoch, &event.what);
        }
        for job in self.hosted.out.jobs.drain(..) {
            let job: Job = job;
            *self.jobs.entry(job.volume).or_default() += 1;
            self.setup.workers.give(self.setup.number, job, self.term);
        }
    }

    fn hand_over(&mut self) {
        for (shard, adopted) in self.edge.take_handovers() {
            self.setup.mailboxes[shard].send(Command::Adopt(Box::new(adopted)));
        }
    }

    fn say(&mut self) {
        for line in self.nbd.take_log() {
            eprintln!("vstorage nbd: {}", line.text);
        }
        for line in self.dtl.as_mut().map(Server::take_log).unwrap_or_default() {
            eprintln!("vstorage dtl: {line}");
        }
        for line in self.edge.take_log() {
            eprintln!("vstorage engine: {line}");
        }
    }

    /// Ends sessions of volumes that nothing reads from any more, and forgets such volumes.
    fn part(&mut self) {
        if self.partings.is_empty() {
            return;
        }
        for Removal { volume, uuid, reply } in
            self.partings.proceed(&mut self.hosted, &mut self.edge)
        {
            self.removals.push((volume.0, uuid, reply));
        }
        self.answer_removals();
    }

    /// Guests of this process have no generation: what they were served was of an earlier one.
    fn answer_shut_outs(&mut self) {
        for volume in self.edge.take_raised() {
            self.nbd.unexport(&mut self.ring, volume);
        }
        let (edge, nbd) = (&self.edge, &self.nbd);
        self.shut_outs.answer(|volume| edge.has_shut_out(volume) && nbd.is_quiet(volume));
    }

    fn answer_removals(&mut self) {
        let (jobs, setup) = (&mut self.jobs, &self.setup);
        self.removals.retain(|(number, uuid, reply)| {
            let busy = jobs.get(number).is_some_and(|jobs| *jobs > 0);
            if !busy {
                jobs.remove(number);
                setup.places.remove_at(uuid, setup.number, VolumeId(*number));
                let _ = reply.send(Ok(()));
            }
            busy
        });
    }

    fn obey(&mut self, command: Command) {
        let ring = &mut self.ring;
        match command {
            Command::JobDone(done) => {
                let number = VolumeId(done.volume);
                let outcome = done.outcome;
                if let Some(jobs) = self.jobs.get_mut(&number.0) {
                    *jobs -= 1;
                }
                self.hosted.with(number, |volume, out| volume.on_job(outcome, ring, out));
                self.answer_removals();
            }
            Command::Pair { volume, pair, reply } => {
                let of_it = |event: &volume::DtlEvent| VolumeId(event.volume) == volume;
                let events = &mut self.hosted.out.events;
                events.retain(|e| !of_it(e) || matches!(e.what, DtlNews::Stopped(_)));
                self.setup.events.forget(self.setup.number, volume);
                if self.hosted.with(volume, |v, out| v.pair(pair, ring, out)).is_some() {
                    let _ = reply.send(Ok(()));
                }
            }
            Command::Follow { volume, following, reply } => {
                if self.hosted.with(volume, |v, _| v.follow(following, ring)).is_some() {
                    let _ = reply.send(Ok(()));
                }
            }
            Command::DtlAnswer { volume, proposal, accepted } => {
                let answer = |v: &mut Volume, out: &mut Outputs| {
                    v.dtl_answer(proposal, accepted, ring, out);
                };
                self.hosted.with(volume, answer);
            }
            Command::DtlDone(done) => {
                if let Some(server) = &mut self.dtl {
                    server.on_task(done, ring);
                }
            }
            Command::DtlGuest(guest) => {
                if let Some(server) = &mut self.dtl {
                    server.adopt(*guest, ring);
                }
            }
            Command::DtlUsage { reply } => {
                let usage = self.dtl.as_ref().map(Server::usage).unwrap_or_default();
                let _ = reply.send(Ok(usage));
            }
            Command::Lease => {}
            Command::Adopt(adopted) => self.edge.adopt(*adopted, ring, &mut self.hosted),
            Command::Add { uuid, epoch, term, generation, make, pair, following, reply } => {
                let Some(number) = self.hosted.free_number() else {
                    let what = "cannot host the volume";
                    let fix = "configure more shards";
                    let why = "this shard hosts 65536 volumes already";
                    let _ = reply.send(Err(Error::new("TOO_MANY", what, why, fix)));
                    return;
                };
                let lease = self.setup.lease.granted();
                // It ended while the log was read, when this volume was not here yet.
                let lapsed = lease.is_over() || lease.term != term;
                let added = make(number).map(|volume| {
                    self.hosted.put(number, uuid, volume);
                    let volume = VolumeId(number);
                    self.hosted.raise_generation(volume, generation);
                    self.edge.shut_out(volume, generation);
                    let (shard, stopped) = (self.setup.number, false);
                    self.setup.places.put(uuid, Place { shard, volume, epoch, stopped });
                    self.hosted.with(volume, |v, out| {
                        v.follow(following, ring);
                        if let Some(pair) = pair {
                            v.pair(pair, ring, out);
                        }
                        if lapsed {
                            v.expire(ring, out);
                        }
                    });
                    volume
                });
                let _ = reply.send(added.map_err(|e| {
                    let what = "cannot host the volume";
                    Error::new("ENGINE_MEMORY", what, e.to_string(), "free memory on this host")
                }));
            }
            Command::Remove { volume, uuid, farewell, reply } => {
                self.hosted.with(volume, |v, _| {
                    v.leave_followers(ring);
                    v.leave_dtl(ring);
                    v.halt();
                });
                drop_jobs(&self.setup, &mut self.hosted, &mut self.jobs, volume);
                // Nobody finds it any more, and nobody may open it before its last job has ended.
                self.setup.places.stop_at(&uuid, self.setup.number, volume);
                self.nbd.unexport(ring, volume);
                self.edge.part_with(volume, &farewell);
                self.partings.remove(Removal { volume, uuid, reply });
            }
            // A volume that was stopped does nothing any more: its caller hears that it was closed.
            Command::Control { volume, .. } if self.hosted.is_stopped(volume) => {}
            Command::Control { volume, control, reply } => {
                let ticket = self.hosted.ticket(volume, reply);
                if self.hosted.with(volume, |v, _| v.control(ticket, control)).is_none() {
                    self.hosted.tickets.remove(&ticket);
                }
            }
            Command::Grow { volume, size, reply } => {
                self.hosted.with(volume, |v, _| v.grow(size));
                self.edge.volume_resized(volume, &self.hosted);
                let _ = reply.send(Ok(()));
            }
            Command::Quiesce { volume, reply } => {
                self.nbd.unexport(ring, volume);
                self.hosted.with(volume, |v, _| v.quiesce());
                self.setup.workers.hasten();
                let _ = reply.send(Ok(()));
            }
            Command::Map { volume, snapshot, reply } => {
                let map = self.hosted.get(volume).and_then(|v| match &snapshot {
                    Some(id) => v.snapshot(id),
                    None => Some(v.machine().map().clone()),
                });
                let _ = reply.send(Ok(map));
            }
            // Without an answer (the volume is gone) the caller hears that it was closed.
            Command::Hold { volume, reply } => {
                if self.hosted.with(volume, |v, _| v.hold()).is_some() {
                    let _ = reply.send(Ok(()));
                }
            }
            Command::Release { volume } => {
                self.hosted.with(volume, |v, _| v.release());
            }
            Command::SetQos { volume, limits, reply } => {
                let set = |v: &mut Volume| v.set_qos(limits, monotonic_ns());
                if self.hosted.with(volume, |v, _| set(v)).is_some() {
                    let _ = reply.send(Ok(()));
                }
            }
            Command::Snapshots { volume, reply } => {
                let snapshots = self.hosted.get(volume).map(|v| v.machine().snapshots());
                let ids = snapshots.unwrap_or_default().iter().map(|s| s.id).collect();
                let _ = reply.send(Ok(ids));
            }
            Command::Export { volume, name, path, reply } => {
                let read_only = self.hosted.get(volume).is_some_and(Volume::is_read_only);
                let offer = Offer { volume, name, description: String::new(), read_only };
                let (mode, owner) = (self.setup.mode, self.setup.owner);
                let made = self.nbd.listen_unix(ring, offer, &path, mode, owner);
                let _ = reply.send(made.map_err(|e| {
                    let what = format!("cannot serve {}", path.display());
                    Error::new("EXPORT", what, e.to_string(), "check the run directory")
                }));
            }
            Command::Unexport { volume, reply } => {
                self.nbd.unexport(ring, volume);
                let _ = reply.send(Ok(()));
            }
            // Who asks for a volume that answers nobody any more hears that it was closed.
            Command::ShutOut { asking: Asking { volume, .. }, .. }
                if self.hosted.get(volume).is_none() || self.hosted.is_stopped(volume) => {}
            Command::ShutOut { asking, generation, reply } => {
                let volume = asking.volume;
                if self.hosted.raise_generation(volume, generation) {
                    self.nbd.unexport(ring, volume);
                }
                self.edge.shut_out(volume, generation);
                self.shut_outs.put(asking, reply);
            }
            // Without an answer (the volume is gone) the caller hears that it was closed.
            Command::Saving { volume, reply } => {
                if let Some(volume) = self.hosted.get(volume) {
                    let _ = reply.send(Ok(volume.saving()));
                }
            }
            Command::Status { reply } => {
                let now = monotonic_ns();
                let volumes = self
                    .hosted
                    .all()
                    .map(|entry| crate::status::volume(&entry.uuid, &entry.volume, now));
                let _ = reply.send(Ok(volumes.collect()));
            }
            Command::Stop => {
                self.stopping = true;
                for volume in self.hosted.halt() {
                    self.partings.parted(volume);
                }
            }
        }
    }
}

/// Forgets the background jobs of a volume that is let go of, as far as no thread has begun them:
/// who waits for its last job would wait for what other volumes store.
fn drop_jobs(setup: &Setup, hosted: &mut Hosted, jobs: &mut HashMap<u32, usize>, volume: VolumeId) {
    hosted.out.jobs.retain(|job| job.volume != volume.0 || !job.work.is_background());
    let dropped = setup.workers.drop_jobs(setup.number, volume.0);
    if let Some(jobs) = jobs.get_mut(&volume.0) {
        *jobs -= dropped;
    }
}

/// The last word to the Edges of a volume.
pub(crate) fn closed(reason: CloseReason, detail: &str) -> Frame {
    Frame::Closed { reason, detail: detail.to_owned() }
}

fn route(completion: Completion, nbd: &mut NbdServer, edge: &mut EdgeServer) {
    match class_of(completion.id.0) {
        CLASS_NBD => nbd.complete(completion),
        CLASS_EDGE => edge.complete(completion),
        _ => {}
    }
}
