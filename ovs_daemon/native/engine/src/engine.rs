//! The control calls. They block, may come from any thread, and never touch the data path: each
//! sends a message to the volume's shard and waits for the answer.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use alba::cluster::OsdAddress;
use alba::{Backend, BackendError, Cause, Cluster, Sealed};
use edge::target::VolumeId;
use format::edge::{CloseReason, Frame};
use format::entry::Uuid;
use machines::map::Map;
use media::{Dir, FileLock};
use serde_json::{Value, json};
use volume::{
    Control, OpenError, OpenSpec, Opened, SharedScos, Tuning, Volume, checkpoint_folder, open,
    uuid_text,
};

use crate::claims::{Claim, Claims};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::events::Events;
use crate::followers::Followers;
use crate::following::start_name;
use crate::lease::Lease;
use crate::mailbox::{Command, Mailbox, Reply};
use crate::places::{Place, Places};
use crate::presets::{self, Backends};
use crate::replication::{prepare_dtl_dir, undo_leftovers};
use crate::shard::{self, CLASS_VOLUME, Setup, closed};
use crate::spec::{CreateSpec, OpenVolume, Parent, QosSpec, check_size, parse, uuid};
use crate::upkeep::Upkeep;
use crate::workers::Workers;

/// Bytes of a cluster.
const CLUSTER: u64 = format::log::PAGE as u64;

/// How long a volume that is to go to another node waits for a backend that takes nothing of it; and
/// its guests, at the end, for the rest. It has just taken nearly everything then, so that it is away
/// when it takes longer.
pub(crate) const MOVE_PATIENCE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Threads {
    workers: Vec<JoinHandle<()>>,
    shards: Vec<JoinHandle<()>>,
}

/// A running engine.
pub struct Engine {
    pub(crate) config: Config,
    pub(crate) backend: Arc<dyn Backend>,
    /// The backend, when it is one that knows presets.
    pub(crate) sealed: Option<Arc<Sealed>>,
    pub(crate) mailboxes: Vec<Arc<Mailbox>>,
    pub(crate) places: Arc<Places>,
    shared: Arc<SharedScos>,
    pub(crate) workers: Workers,
    threads: Mutex<Threads>,
    next_shard: AtomicUsize,
    pub(crate) claims: Claims,
    pub(crate) events: Arc<Events>,
    pub(crate) followers: Arc<Followers>,
    pub(crate) lease: Arc<Lease>,
    pub(crate) dtl_address: Option<SocketAddr>,
    /// Tails that were fetched and not opened yet: the epoch.
    fetched: Mutex<HashMap<Uuid, u64>>,
    /// Looks after the backend, when it is one that needs it.
    pub(crate) upkeep: Option<Upkeep>,
    /// No other engine may use the same write buffers.
    _lock: FileLock,
}

pub(crate) fn backend_error(what: &str, error: &BackendError) -> Error {
    Error::new("BACKEND", what, error.to_string(), "check the backend and try again")
}

fn store_error(what: &str, error: &media::StoreError) -> Error {
    Error::new("STORE", what, error.to_string(), "check the directory and its disk, and try again")
}

fn open_error(what: &str, error: &OpenError) -> Error {
    match error {
        OpenError::Backend(e) if !matches!(e.cause, Cause::NotFound | Cause::Corrupt) => {
            backend_error(what, e)
        }
        OpenError::Store(e) if e.is_no_files() => {
            let fix = "raise LimitNOFILE of vstorage-daemon, or serve fewer volumes";
            Error::new("TOO_MANY_FILES", what, e.to_string(), fix)
        }
        _ => {
            let fix = "repair what is named; the volume stays closed and nothing was changed";
            Error::new("DAMAGED", what, error.to_string(), fix)
        }
    }
}

fn is_open(what: String, uuid: &str) -> Error {
    let why = format!("volume {uuid} is not open in this engine");
    Error::new("NOT_OPEN", what, why, "open it first")
}

/// An answer that is on its way.
pub(crate) struct Asked<T>(Receiver<Result<T>>);

impl<T> Asked<T> {
    /// One that has failed already.
    pub(crate) fn failed(error: Error) -> Self {
        let (reply, hear) = sync_channel(1);
        let _ = reply.send(Err(error));
        Self(hear)
    }

    pub(crate) fn wait(self) -> Result<T> {
        self.0.recv().unwrap_or_else(|_| Self::unanswered())
    }

    /// The same; `None`: it takes longer.
    pub(crate) fn wait_at_most(&self, patience: Duration) -> Option<Result<T>> {
        match self.0.recv_timeout(patience) {
            Err(RecvTimeoutError::Timeout) => None,
            Ok(answer) => Some(answer),
            Err(RecvTimeoutError::Disconnected) => Some(Self::unanswered()),
        }
    }

    fn unanswered() -> Result<T> {
        let why = "the volume or the engine was closed meanwhile";
        Err(Error::new("CLOSED", "cannot complete the call", why, "look at its state first"))
    }
}

impl Engine {
    /// Starts an engine; see [`Config`].
    pub fn new(config_json: &str) -> Result<Self> {
        let config = Config::parse(config_json)?;
        let backends = presets::backend(&config)?;
        Self::start(config, backends)
    }

    pub(crate) fn start(config: Config, (backend, sealed): Backends) -> Result<Self> {
        let what = "cannot start the engine";
        for dir in [&config.buffer_dir, &config.run_dir, &config.run_dir.join("direct")] {
            let made = Dir::create(dir).and_then(|dir| dir.sync_entry());
            made.map_err(|e| store_error(what, &e))?;
        }
        let lock_path = config.buffer_dir.join(".lock");
        let lock = FileLock::take(&lock_path).map_err(|e| {
            let fix = "stop the other vstorage-daemon, or give this one another buffer_dir";
            Error::new("BUFFER_IN_USE", what, e.to_string(), fix)
        })?;
        let failed = |e: std::io::Error| {
            Error::new("ENGINE_START", what, e.to_string(), "check the limits of this process")
        };
        let mut mailboxes = Vec::new();
        for _ in 0..config.shards {
            mailboxes.push(Arc::new(Mailbox::new().map_err(failed)?));
        }
        let lease = Arc::<Lease>::default();
        let (workers, threads) = Workers::start(&backend, &mailboxes, &lease).map_err(failed)?;
        let mut threads = Threads { workers: threads, shards: Vec::new() };
        let places = Arc::new(Places::default());
        undo_leftovers(&config).map_err(|e| store_error(what, &e))?;
        if config.dtl_listen.is_some() {
            prepare_dtl_dir(&config)?;
        }
        let events = Arc::new(Events::default());
        let (followers, thread) =
            Followers::start(config.cluster()?, backend.clone()).map_err(failed)?;
        threads.workers.extend(thread);
        let mut dtl_address = None;
        let edge_tcp = config.edge_tcp()?;
        for number in 0..config.shards {
            let setup = Setup {
                number,
                mailboxes: mailboxes.clone(),
                places: places.clone(),
                workers: workers.clone(),
                edge_socket: (number == 0).then(|| config.run_dir.join("engine.sock")),
                edge_tcp: edge_tcp.clone(),
                nbd_tcp: config.nbd_tcp.map(|mut address| {
                    address.set_port(address.port() + number as u16);
                    address
                }),
                owner: config.owner()?,
                mode: config.socket_mode,
                dtl: config.dtl_listen.and(config.dtl_dir.clone()).zip(config.cluster().ok()),
                dtl_listen: config.dtl_listen.filter(|_| number == 0),
                followers: followers.clone(),
                events: events.clone(),
                lease: lease.clone(),
            };
            let (started, hear) = sync_channel(1);
            let name = format!("vs-shard-{number}");
            let thread = std::thread::Builder::new().name(name);
            threads.shards.push(thread.spawn(move || shard::run(setup, started)).map_err(failed)?);
            let bound = hear.recv().unwrap_or_else(|_| {
                let fix = "look at the log of this process";
                Err(Error::new("ENGINE_START", what, "a shard died at its start", fix))
            })?;
            dtl_address = dtl_address.or(bound);
        }
        let upkeep = sealed.as_ref().map(Upkeep::start).transpose().map_err(failed)?;
        Ok(Self {
            config,
            backend,
            sealed,
            mailboxes,
            places,
            shared: Arc::default(),
            workers,
            threads: Mutex::new(threads),
            next_shard: AtomicUsize::new(0),
            claims: Claims::default(),
            events,
            followers,
            lease,
            dtl_address,
            fetched: Mutex::default(),
            upkeep,
            _lock: lock,
        })
    }

    pub(crate) fn fetched(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, u64>> {
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody else opens this volume, fetches its tail, creates or deletes it.
    pub(crate) fn claim(&self, what: &str, volume: Uuid) -> Result<Claim<'_>> {
        let Some(claim) = self.claims.opening(volume) else {
            let fix = "wait until that is over";
            return Err(Error::new("BUSY", what, "it is being opened already", fix));
        };
        if self.places.get(&volume).is_some() {
            let fix = "close it first";
            return Err(Error::new("ALREADY_OPEN", what, "it is open in this engine", fix));
        }
        Ok(claim)
    }

    pub(crate) fn place(&self, what: String, text: &str) -> Result<(Uuid, Place)> {
        let id = uuid(text)?;
        let place = self.places.get(&id).ok_or_else(|| is_open(what, text))?;
        Ok((id, place))
    }

    pub(crate) fn ask<T>(
        &self,
        shard: usize,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T> {
        self.begin(shard, command).wait()
    }

    /// Asks without waiting for the answer.
    pub(crate) fn begin<T>(
        &self,
        shard: usize,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Asked<T> {
        let (reply, hear) = sync_channel(1);
        if self.mailboxes[shard].send(command(reply)) {
            return Asked(hear);
        }
        let (what, why) = ("cannot complete the call", "the engine was shut down");
        Asked::failed(Error::new("STOPPED", what, why, "start vstorage-daemon again"))
    }

    pub(crate) fn tell(&self, shard: usize, command: Command) {
        self.mailboxes[shard].send(command);
    }

    /// Prepares a volume: its folder, and for a clone the mark at its parent that keeps what it
    /// refers to. Repeating it is harmless.
    pub fn create_volume(&self, spec_json: &str) -> Result<()> {
        let spec: CreateSpec = parse("cannot create a volume", spec_json)?;
        let what = format!("cannot create volume {}", spec.uuid);
        let id = uuid(&spec.uuid)?;
        check_size(&what, spec.size)?;
        let parent = spec.parent.as_ref().map(|parent| uuid(&parent.volume)).transpose()?;
        let _claim = self.claims.changing([Some(id), parent].into_iter().flatten().collect());
        self.check_preset(&what, spec.preset.as_ref())?;
        self.assign_preset(&what, &id, spec.preset.as_ref())?;
        if let Some(parent) = &spec.parent {
            self.snapshot_map(&what, parent)?;
            self.pin(&what, parent, &uuid_text(&id))?;
        }
        let dir = self.config.buffer_dir.join(uuid_text(&id));
        Dir::create(&dir).map_err(|e| store_error(&what, &e))?;
        Ok(())
    }

    fn pin(&self, what: &str, parent: &Parent, clone: &str) -> Result<()> {
        let parent_id = uuid(&parent.volume)?;
        let text = serde_json::to_string(parent).unwrap_or_default();
        volume::pin(&*self.backend, clone, &uuid_text(&parent_id), text.as_bytes())
            .map_err(|e| backend_error(what, &e))?;
        if let Some(place) = self.places.get(&parent_id) {
            let (volume, control) = (place.volume, Control::Pin);
            self.ask(place.shard, |reply| Command::Control { volume, control, reply })?;
        }
        Ok(())
    }

    fn snapshot_map(&self, what: &str, parent: &Parent) -> Result<Map> {
        self.map(what, &parent.volume, Some(&parent.snapshot))
    }

    /// The map of a snapshot, or of the head.
    fn map(&self, what: &str, text: &str, snapshot: Option<&str>) -> Result<Map> {
        let (_, place) = self.place(what.to_owned(), text)?;
        let (volume, id) = (place.volume, snapshot.map(uuid).transpose()?);
        let map = self.ask(place.shard, |reply| Command::Map { volume, snapshot: id, reply })?;
        map.ok_or_else(|| {
            let why = format!("volume {text} has no snapshot {}", snapshot.unwrap_or_default());
            Error::new("NO_SNAPSHOT", what, why, "list the snapshots of the volume")
        })
    }

    /// What changed in a volume between two snapshots: `[[offset, length], ...]` in bytes. Without
    /// `from`: everything that is allocated in `to`; without `to`: up to now.
    pub fn diff_snapshots(
        &self,
        text: &str,
        from: Option<&str>,
        to: Option<&str>,
    ) -> Result<String> {
        let what = format!("cannot compare snapshots of volume {text}");
        let to = self.map(&what, text, to)?;
        let from = from.map(|id| self.map(&what, text, Some(id))).transpose()?.unwrap_or_default();
        let mut ranges: Vec<[u64; 2]> = Vec::new();
        to.diff(&from, &mut |lba, clusters| ranges.push([lba * CLUSTER, clusters * CLUSTER]));
        Ok(json!(ranges).to_string())
    }

    /// Sets how fast a volume's requests are admitted, from now on.
    pub fn set_qos(&self, text: &str, qos_json: &str) -> Result<()> {
        let what = format!("cannot limit volume {text}");
        let (_, place) = self.place(what.clone(), text)?;
        let spec: QosSpec = parse(&what, qos_json)?;
        let (volume, limits) = (place.volume, spec.limits(&what)?);
        self.ask(place.shard, |reply| Command::SetQos { volume, limits, reply })
    }

    /// Opens a volume: finds out what its log holds, and serves it. Proportional to its map and to
    /// what was written since the last checkpoint, not to its data.
    pub fn open_volume(&self, spec_json: &str) -> Result<String> {
        let spec: OpenVolume = parse("cannot open a volume", spec_json)?;
        let what = format!("cannot open volume {}", spec.uuid);
        let id = uuid(&spec.uuid)?;
        check_size(&what, spec.size)?;
        let _claim = self.claim(&what, id)?;
        let term = self.check_lease(&what, spec.term)?;
        let limits = spec.qos.clone().unwrap_or_default().limits(&what)?;
        let cluster = self.config.cluster()?;
        let pair = spec.dtl.as_ref().map(|dtl| dtl.pair(&what, cluster)).transpose()?;
        if let Some(pair) = &pair {
            self.check_fetched(&what, &id, spec.epoch, pair)?;
        }
        self.assign_preset(&what, &id, spec.preset.as_ref())?;
        let following = self.following(&spec)?;
        let opened = self.recover(&what, &spec, id)?;
        let recovered = json!({
            "replayed_scos": opened.replayed_scos,
            "cut_bytes": opened.cut_pages * 4096,
            "map": start_name(&opened.start),
        });
        let pinned = self.pins(&uuid_text(&id)).map_err(|e| backend_error(&what, &e))?;
        let shard = self.next_shard.fetch_add(1, Ordering::Relaxed) % self.mailboxes.len();
        let (shared, tuning) = (self.shared.clone(), self.tuning());
        let (size, read_only) = (spec.size, spec.read_only);
        let make = Box::new(move |number| {
            let mut volume =
                Volume::new(opened, number, CLASS_VOLUME, size, read_only, shared, tuning)?;
            volume.set_pinned(!pinned.is_empty());
            volume.set_qos(limits, 0);
            Ok(volume)
        });
        let epoch = spec.epoch;
        let volume = self.ask(shard, |reply| Command::Add {
            uuid: id,
            epoch,
            term,
            generation: spec.generation,
            make,
            pair,
            following,
            reply,
        })?;
        if let Err(error) = self.forget_unlisted(shard, volume, &spec) {
            // Who opens it takes it for closed, and tries again.
            let farewell = closed(CloseReason::Stopping, "the volume could not be opened");
            self.ask(shard, |reply| Command::Remove { volume, uuid: id, farewell, reply })?;
            return Err(error);
        }
        Ok(json!({"size": spec.size, "recovered": recovered}).to_string())
    }

    fn recover(&self, what: &str, spec: &OpenVolume, id: Uuid) -> Result<Opened> {
        let mut ancestors =
            spec.ancestors.iter().map(|text| uuid(text)).collect::<Result<Vec<_>>>()?;
        if ancestors.last() != Some(&id) {
            ancestors.push(id);
        }
        // Once a clone has a checkpoint of its own it needs its parent's map no more.
        let own = self.backend.list(&checkpoint_folder(&uuid_text(&id)));
        let has_checkpoint = !own.map_err(|e| backend_error(what, &e))?.is_empty();
        let base = match &spec.parent {
            Some(parent) if !has_checkpoint => Some(self.snapshot_map(what, parent)?),
            _ => None,
        };
        let open_spec = OpenSpec {
            ancestors,
            epoch: spec.epoch,
            base,
            buffer_dir: self.config.buffer_dir.clone(),
            limits: self.config.limits(spec.sco_size),
            warm: self.followers.give(&id),
        };
        self.check_ancestors(what, &open_spec.ancestors)?;
        open(open_spec, &*self.backend, &self.shared).map_err(|e| open_error(what, &e))
    }

    /// What an ancestor has in its write buffer only is read through it: without it guests would
    /// see errors where they only have to wait.
    fn check_ancestors(&self, what: &str, logs: &[Uuid]) -> Result<()> {
        for log in logs.iter().rev().skip(1) {
            if self.places.get(log).is_some_and(|place| !place.stopped) {
                continue;
            }
            let unsaved = volume::has_unsaved(&*self.backend, &self.config.buffer_dir, log);
            if unsaved.map_err(|e| open_error(what, &e))? {
                return Err(is_open(what.to_owned(), &uuid_text(log)));
            }
        }
        Ok(())
    }

    /// A snapshot that the registry does not know was being deleted when the engine died. One that a
    /// clone starts from was not: the registry is wrong then, and the clone needs it.
    fn forget_unlisted(&self, shard: usize, volume: VolumeId, spec: &OpenVolume) -> Result<()> {
        let Some(listed) = &spec.snapshots else { return Ok(()) };
        let listed = listed.iter().map(|text| uuid(text)).collect::<Result<Vec<_>>>()?;
        for id in self.snapshot_ids(shard, volume)? {
            if listed.contains(&id) {
                continue;
            }
            let (log, snapshot) = (uuid_text(&uuid(&spec.uuid)?), uuid_text(&id));
            match self.check_unused("cannot forget a snapshot", &log, &snapshot) {
                Err(error) if error.code == "HAS_CLONES" => continue,
                checked => checked?,
            }
            let control = Control::DeleteSnapshot(id);
            self.ask(shard, |reply| Command::Control { volume, control, reply })?;
        }
        Ok(())
    }

    pub(crate) fn snapshot_ids(&self, shard: usize, volume: VolumeId) -> Result<Vec<Uuid>> {
        self.ask(shard, |reply| Command::Snapshots { volume, reply })
    }

    fn tuning(&self) -> Tuning {
        Tuning {
            buffer_reserve: self.config.reserve,
            compaction_bytes_per_s: self.config.compaction_bytes_per_s,
        }
    }

    /// The erasure-coded backend, if that is in use.
    pub fn alba(&self) -> Option<&Cluster> {
        self.sealed.as_ref().map(|sealed| sealed.cluster())
    }

    /// Makes OSDs behind servers part of the backend, and tells where those are by now that are, and
    /// how they stand.
    pub fn set_osds(&self, osds_json: &str) -> Result<()> {
        let what = "cannot use the OSDs of the cluster";
        let osds: Vec<OsdAddress> = parse(what, osds_json)?;
        let Some(alba) = self.alba() else {
            let why = "the backend of this engine is a directory";
            return Err(Error::new("NO_ALBA", what, why, "configure [alba] on this node"));
        };
        alba.set_servers(&osds).map_err(|e| backend_error(what, &e))
    }

    fn pins(&self, log: &str) -> alba::Result<Vec<String>> {
        self.backend.list(&volume::pins_folder(log))
    }

    /// Brings everything of a volume to the backend, takes a checkpoint and stops serving it. Its
    /// Edges are told to look for it at `moved_to` (address and port), if that is given.
    ///
    /// False: the volume was stopped, by a fence or the end of the lease, before everything was
    /// there; or it was to be moved, and the backend did not take everything while guests waited:
    /// the rest is in the write buffer.
    pub fn close_volume(&self, text: &str, moved_to: Option<&str>) -> Result<bool> {
        self.close_within(text, moved_to, moved_to.map(|_| MOVE_PATIENCE))
    }

    pub(crate) fn close_within(
        &self,
        text: &str,
        moved_to: Option<&str>,
        patience: Option<Duration>,
    ) -> Result<bool> {
        let what = format!("cannot close volume {text}");
        let (uuid, place) = self.place(what.clone(), text)?;
        let farewell = match moved_to {
            None => closed(CloseReason::Stopping, "the volume was closed"),
            Some(address) if address.parse::<SocketAddr>().is_ok() => {
                Frame::Moved { address: address.to_owned(), epoch: place.epoch }
            }
            Some(address) => {
                let why = format!("{address:?} is no address with a port");
                let fix = "this is a fault of the caller: report it";
                return Err(Error::new("BAD_REQUEST", what, why, fix));
            }
        };
        let volume = place.volume;
        self.ask(place.shard, |reply| Command::Quiesce { volume, reply })?;
        let stopped = || self.places.get(&uuid).is_some_and(|place| place.stopped);
        let mut drained = false;
        if !stopped() {
            let control = Control::Drain;
            let drain =
                self.begin(place.shard, |reply| Command::Control { volume, control, reply });
            let drain = match patience {
                None => Some(drain.wait()),
                Some(patience) => drain.wait_at_most(patience),
            };
            drained = match drain {
                Some(Ok(())) => true,
                // One that stops meanwhile brings nothing to the backend any more.
                Some(Err(error)) if !stopped() => return Err(error),
                Some(Err(_)) | None => false,
            };
        }
        self.ask(place.shard, |reply| Command::Remove { volume, uuid, farewell, reply })?;
        Ok(drained)
    }

    /// Deletes a volume and all its data. One that has clones is refused; a missing one is fine.
    pub fn delete_volume(&self, text: &str) -> Result<()> {
        let what = format!("cannot delete volume {text}");
        let id = uuid(text)?;
        let name = uuid_text(&id);
        let failed = |e: BackendError| backend_error(&what, &e);
        let _claim = self.claims.changing(vec![id]);
        let clones = self.pins(&name).map_err(failed)?;
        if !clones.is_empty() {
            let why = format!("{} clones use its data, one is {}", clones.len(), clones[0]);
            return Err(Error::new("HAS_CLONES", what, why, "delete the clones first"));
        }
        if let Some(place) = self.places.get(&id) {
            let volume = place.volume;
            let farewell = closed(CloseReason::Deleted, "the volume was deleted");
            self.ask(place.shard, |reply| Command::Remove { volume, uuid: id, farewell, reply })?;
        }
        let dir = Dir::at(&self.config.buffer_dir.join(&name));
        dir.remove_all().map_err(|e| store_error(&what, &e))?;
        let parent = self.read_mark(&volume::parent_name(&name)).map_err(failed)?;
        let parent = parent.map(|parent| parent.volume.to_ascii_lowercase());
        volume::remove(&*self.backend, &name, parent.as_deref()).map_err(failed)
    }

    /// What the mark of a clone says; `None`: there is none.
    fn read_mark(&self, name: &str) -> alba::Result<Option<Parent>> {
        let Some(len) = self.backend.len(name)? else { return Ok(None) };
        let mut bytes = vec![0; len as usize];
        self.backend.read(name, 0, &mut bytes)?;
        serde_json::from_slice(&bytes).map(Some).map_err(|e| {
            let (object, why) = (name.to_owned(), e.to_string());
            BackendError { attempted: "understand", object, cause: Cause::Corrupt, why }
        })
    }

    /// Makes a volume larger, while it is in use.
    pub fn resize_volume(&self, text: &str, size: u64) -> Result<()> {
        let what = format!("cannot resize volume {text}");
        check_size(&what, size)?;
        let (_, place) = self.place(what, text)?;
        let volume = place.volume;
        self.ask(place.shard, |reply| Command::Grow { volume, size, reply })
    }

    /// Keeps the present content under a UUID. Durable on return; repeating it is harmless.
    pub fn create_snapshot(&self, text: &str, snapshot: &str) -> Result<()> {
        let what = format!("cannot take snapshot {snapshot} of volume {text}");
        let (_, place) = self.place(what, text)?;
        let (volume, id) = (place.volume, uuid(snapshot)?);
        if self.snapshot_ids(place.shard, volume)?.contains(&id) {
            return Ok(());
        }
        let control = Control::Snapshot(id);
        self.ask(place.shard, |reply| Command::Control { volume, control, reply })
    }

    /// Forgets a snapshot; a missing one is fine.
    pub fn delete_snapshot(&self, text: &str, snapshot: &str) -> Result<()> {
        let what = format!("cannot delete snapshot {snapshot} of volume {text}");
        let (id, place) = self.place(what.clone(), text)?;
        let (volume, control) = (place.volume, Control::DeleteSnapshot(uuid(snapshot)?));
        self.check_unused(&what, &uuid_text(&id), snapshot)?;
        self.ask(place.shard, |reply| Command::Control { volume, control, reply })
    }

    /// A snapshot that a clone starts from has to stay.
    pub(crate) fn check_unused(&self, what: &str, log: &str, snapshot: &str) -> Result<()> {
        let failed = |e: BackendError| backend_error(what, &e);
        for clone in self.pins(log).map_err(failed)? {
            // Not what the clone says: its own mark is the last thing that goes.
            let pin = format!("{}/{clone}", volume::pins_folder(log));
            let parent = self.read_mark(&pin).map_err(failed)?;
            if parent.is_some_and(|p| p.snapshot.eq_ignore_ascii_case(snapshot)) {
                let why = format!("volume {clone} is a clone of it");
                return Err(Error::new("HAS_CLONES", what, why, "delete the clones first"));
            }
        }
        Ok(())
    }

    /// Makes a snapshot's content the present one.
    pub fn revert_volume(&self, text: &str, snapshot: &str) -> Result<()> {
        let what = format!("cannot revert volume {text} to snapshot {snapshot}");
        let (_, place) = self.place(what.clone(), text)?;
        let parent = Parent { volume: text.to_owned(), snapshot: snapshot.to_owned() };
        self.snapshot_map(&what, &parent)?;
        let (volume, control) = (place.volume, Control::Revert(uuid(snapshot)?));
        self.ask(place.shard, |reply| Command::Control { volume, control, reply })
    }

    /// Serves a volume over NBD in this process; returns the socket's path.
    pub fn export_nbd(&self, text: &str, name: &str) -> Result<String> {
        let (id, place) = self.place(format!("cannot export volume {text}"), text)?;
        let (volume, name) = (place.volume, name.to_owned());
        let path: PathBuf = self.config.run_dir.join(format!("direct/{}.sock", uuid_text(&id)));
        let socket = path.clone();
        self.ask(place.shard, |reply| Command::Export { volume, name, path: socket, reply })?;
        Ok(path.display().to_string())
    }

    /// Ends [`Engine::export_nbd`]; clients are disconnected.
    pub fn unexport_nbd(&self, text: &str) -> Result<()> {
        let (_, place) = self.place(format!("cannot withdraw volume {text}"), text)?;
        let volume = place.volume;
        self.ask(place.shard, |reply| Command::Unexport { volume, reply })
    }

    /// State of the engine and its volumes.
    pub fn status(&self) -> Result<String> {
        let mut volumes: Vec<Value> = Vec::new();
        for shard in 0..self.mailboxes.len() {
            volumes.extend(self.ask(shard, |reply| Command::Status { reply })?);
        }
        let mut findings: Vec<Value> = Vec::new();
        for volume in &mut volumes {
            if let Some(Value::Array(own)) = volume.get_mut("findings").map(Value::take) {
                findings.extend(own);
            }
        }
        let dir = Dir::at(&self.config.buffer_dir);
        let space = dir.space().map_err(|e| store_error("cannot tell the status", &e))?;
        if space.free < self.config.reserve {
            findings.push(json!({
                "code": "BUFFER_DISK_LOW",
                "severity": "warning",
                "object": format!("directory {}", self.config.buffer_dir.display()),
                "why": format!("{} MiB are free, less than the reserve of {} MiB",
                               space.free >> 20, self.config.reserve >> 20),
                "fix": "free space on this disk; new SCOs wait until then",
            }));
        }
        let backend = self.backend.space();
        if let Err(error) = &backend {
            findings.push(json!({
                "code": "BACKEND_ERROR",
                "severity": "warning",
                "object": self.config.backend_name(),
                "why": error.to_string(),
                "fix": "repair the backend; uploads go on by themselves, nothing is lost meanwhile",
            }));
        }
        findings.extend(self.backend.troubles().iter().map(|trouble| {
            // One behind a server is named so.
            let of_server = trouble.object.strip_prefix("OSD ");
            let osd = of_server.and_then(|rest| rest.split(' ').next());
            let fix = match osd {
                Some(osd) => format!(
                    "start its vstorage-osd; after [alba] repair_delay what is on it is stored on \
                     others. If it will never be back, 'vstorage osd remove {osd} --lost', and put \
                     a new disk in its place with 'vstorage osd claim'"
                ),
                None => "bring the disk back and restart this daemon; if it is lost, claim a new \
                         one in its place with 'vstorage-offline claim' and repair"
                    .to_owned(),
            };
            json!({
                "code": "OSD_MISSING",
                "severity": "warning",
                "object": trouble.object,
                "why": trouble.to_string(),
                "fix": fix,
            })
        }));
        findings.extend(self.preset_findings());
        let backend = backend.ok().flatten();
        let status = json!({
            "volumes": volumes,
            "backend_free_bytes": backend.map(|space| space.free),
            "backend_total_bytes": backend.map(|space| space.total),
            "sealed": self.sealed_bytes(),
            "findings": findings,
            "buffer_free_bytes": space.free,
            "buffer_total_bytes": space.total,
            "shards": self.mailboxes.len(),
            "dtl_server": self.dtl_server()?,
            "followed": self.followed(),
        });
        Ok(status.to_string())
    }

    /// Stops. With `drain` every volume is closed first (uploads and checkpoints everything).
    pub fn shutdown(&self, drain: bool) -> Result<()> {
        self.upkeep.iter().for_each(Upkeep::stop);
        let mut outcome = Ok(());
        if drain {
            for (uuid, _) in self.places.all() {
                outcome = outcome.and(self.close_volume(&uuid_text(&uuid), None).map(drop));
            }
        }
        for mailbox in &self.mailboxes {
            mailbox.send(Command::Stop);
        }
        let Threads { workers, shards } =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        // Shards wait for reads that the workers have.
        for thread in shards {
            let _ = thread.join();
        }
        self.workers.stop();
        self.followers.stop();
        for thread in workers {
            let _ = thread.join();
        }
        outcome
    }
}
