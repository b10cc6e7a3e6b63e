//! Opening the volume: fetching the log from its DTL node (`dtl::fetch`), and `volume::open`.
//!
//! What lies in a folder is judged by `dtl::survey`, what the log holds is found by `volume::find`.
//! The fetched folder takes the place of the old one in one step, as the renaming of a folder does.

use std::path::PathBuf;

use buffer::files::{FileError, Files};
use buffer::{RecoveredSco, file_name};
use dtl::{FetchError, keep_own, survey};
use format::crc32c;
use format::log::PAGE;
use machines::dtl::link::Mode;
use machines::dtl::{Held, Mark};
use machines::edge::Door;
use machines::volume::Volume as Machine;
use volume::{OpenSpec, saved_end};

use super::disk::Folder;
use super::event::Event;
use super::net::Packet;
use super::objects::Objects;
use super::owner::Owner;
use super::policy::{Fetch, Record};
use super::steward::Task;
use super::{Cluster, Host, LOG, NAME, Planted, S, Shell, plant_door};

const FETCHED: &str = "11111111-1111-1111-1111-111111111111.fetched";
const PATIENCE: u64 = 5 * S;

type Files1 = Vec<(u32, Vec<u8>)>;

impl Cluster<'_> {
    pub(super) fn begin_fetch(&mut self, node: Host, record: &Record, keep_local: bool) {
        let epoch = record.epoch;
        if keep_local && self.shell(Shell::PreferLocal) {
            self.nodes[node].daemon.task = Task::Fetching { conn: 0, epoch, keep_local };
            return self.fetched_log(node, Some(Fetch::Done));
        }
        let Some(keeper) = record.keeper else {
            self.nodes[node].daemon.task = Task::Fetching { conn: 0, epoch, keep_local };
            return self.fetched_log(node, Some(Fetch::Unreachable));
        };
        let conn = self.dial(node, keeper);
        self.nodes[node].daemon.task = Task::Fetching { conn, epoch, keep_local };
        self.nodes[node].greeted = None;
        self.send(conn, 0, Packet::CallKeeper { epoch, generation: 0, successor: true });
        let (at, life) = (self.now + PATIENCE, self.life(node));
        self.at(at, Event::FetchPatience { node, life, conn });
    }

    /// Something for a node as a caller: of the open volume's DTL, or while it fetches the log.
    pub(super) fn caller_hears(&mut self, node: Host, conn: u32, packet: Packet) {
        self.check_lease(node);
        if self.link_hears(node, conn, &packet) {
            return;
        }
        let Task::Fetching { conn: fetching, keep_local, .. } = self.nodes[node].daemon.task else {
            return self.close(conn, 0);
        };
        if fetching != conn {
            return self.close(conn, 0);
        }
        match packet {
            Packet::Greeted { held } => self.nodes[node].greeted = Some(held),
            Packet::Tail(tail) => {
                let held = self.nodes[node].greeted.take().unwrap_or_default();
                let outcome = self.take_tail(node, held, &tail, keep_local);
                self.fetched_log(node, outcome);
            }
            Packet::Refused => self.fetched_log(node, Some(Fetch::Fenced)),
            _ => self.fetched_log(node, Some(Fetch::Unreachable)),
        }
    }

    pub(super) fn fetch_patience(&mut self, node: Host, conn: u32) {
        if matches!(self.nodes[node].daemon.task, Task::Fetching { conn: now, .. } if now == conn) {
            self.fetched_log(node, Some(Fetch::Unreachable));
        }
    }

    /// `None`: this node's disk fails; it is tried again.
    fn take_tail(
        &mut self,
        node: Host,
        held: Held,
        tail: &Files1,
        keep_local: bool,
    ) -> Option<Fetch> {
        if held.suspect && !keep_local {
            return Some(Fetch::Insufficient);
        }
        let files = Folder { disk: &self.nodes[node].disk, name: "buffer" };
        match put_in_place(&files, &self.objects, held, tail) {
            Ok(local) => {
                self.say(format_args!("node {node}: has the log, its own: {local}"));
                Some(Fetch::Done)
            }
            Err(FetchError::Damaged(why)) => {
                self.say(format_args!("node {node}: what was fetched is damaged: {why}"));
                Some(Fetch::Insufficient)
            }
            Err(error) => {
                self.say(format_args!("node {node}: {error}"));
                None
            }
        }
    }

    /// What `dtl::clear` does.
    pub(super) fn remove_leftovers(&self, node: Host) -> Result<(), FileError> {
        let files = Folder { disk: &self.nodes[node].disk, name: "buffer" };
        for folder in [FETCHED, NAME] {
            clear(&files, folder)?;
            files.sync_dir(folder)?;
        }
        files.sync_dir("")
    }

    /// Opens the volume as the record says.
    pub(super) fn open_volume(&mut self, node: Host, record: &Record) -> Result<(), String> {
        let spec = OpenSpec {
            ancestors: vec![LOG],
            epoch: record.epoch,
            base: None,
            buffer_dir: PathBuf::new(),
            limits: self.plan.limits,
            warm: None,
        };
        let files = Folder { disk: &self.nodes[node].disk, name: "buffer" };
        let found = volume::find(spec, &self.objects, &files).map_err(|e| e.to_string())?;
        let unsynced = self.shell(Shell::ServeUnsynced);
        settle(&files, &found.buffer.scos, &found.buffer.remove, unsynced)
            .map_err(|e| e.to_string())?;
        let mut machine = Machine::new(self.plan.limits, found.recovered.clone());
        if let Some(Planted::Volume(mutant)) = self.planted {
            machine.plant(mutant);
        }
        self.next_serial += 1;
        let end = found.tail.sequence;
        let owner = Owner::new(self.next_serial, found, machine, self.new_door());
        self.nodes[node].owner = Some(Box::new(owner));
        let epoch = record.epoch;
        self.say(format_args!("node {node}: serves under epoch {epoch}, the log ends at {end}"));
        self.stats.openings += 1;
        self.promise.opened(node);
        self.witness_opened(node, epoch, end);
        if let Some(keeper) = record.keeper
            && record.mode != Mode::None
        {
            self.pair(node, record.mode, record.state, keeper);
        }
        Ok(())
    }

    fn new_door(&self) -> Door {
        let mut door = Door::default();
        plant_door(&mut door, self.planted);
        door
    }
}

/// What `buffer::LogBuffer::open` does to the files before they are used.
fn settle(
    files: &Folder<'_>,
    scos: &[RecoveredSco],
    remove: &[String],
    unsynced: bool,
) -> Result<(), FileError> {
    files.sync_dir("")?;
    for sco in scos {
        let path = format!("{NAME}/{}", file_name(sco.sco));
        let len = u64::from(sco.index.end_page) * PAGE as u64;
        if sco.cut {
            files.truncate(&path, len)?;
        }
        if unsynced {
            continue;
        }
        if sco.unproven {
            let mut bytes = vec![0; len as usize];
            files.read_at(&path, 0, &mut bytes)?;
            files.write_at(&path, 0, &[&bytes])?;
        }
        files.sync(&path)?;
    }
    for name in remove.iter().rev() {
        files.unlink(&format!("{NAME}/{name}"))?;
    }
    files.sync_dir(NAME)
}

/// Puts a fetched tail in the place of the write buffer; true: what is here is better.
fn put_in_place(
    files: &Folder<'_>,
    backend: &Objects,
    held: Held,
    tail: &Files1,
) -> Result<bool, FetchError> {
    clear(files, FETCHED)?;
    for (sco, bytes) in tail {
        let path = format!("{FETCHED}/{}", file_name(*sco));
        files.create(&path)?;
        files.write_at(&path, 0, &[bytes])?;
        files.sync(&path)?;
    }
    let there = check(files, held, tail);
    if held.suspect {
        let whole = match &there {
            Err(FetchError::Damaged(_)) => None,
            _ => Some(FETCHED),
        };
        let end = saved_end(backend, &LOG).map_err(|e| FetchError::Backend(e.to_string()))?;
        if keep_own(files, NAME, whole, &LOG, end)?.is_some() {
            clear(files, FETCHED)?;
            return Ok(true);
        }
    }
    there?;
    files.sync_dir(FETCHED)?;
    clear(files, NAME)?;
    files.sync_dir(NAME)?;
    for (sco, _) in tail {
        let name = file_name(*sco);
        files.rename(&format!("{FETCHED}/{name}"), &format!("{NAME}/{name}"))?;
    }
    files.sync_dir(NAME)?;
    files.sync_dir("")?;
    Ok(false)
}

/// Compares what was fetched with every checksum, and with what the DTL node said.
fn check(files: &Folder<'_>, held: Held, tail: &Files1) -> Result<(), FetchError> {
    let there = survey(files, FETCHED, &LOG)?;
    let promised: Option<Mark> = held.end;
    if !tail.is_empty() && promised != there.end() {
        let text = format!("its log ends at {:?}, it said {promised:?}", there.end());
        return Err(FetchError::Damaged(text));
    }
    verify(files, &there.log.scos)
}

fn clear(files: &Folder<'_>, folder: &str) -> Result<(), FileError> {
    for (name, _) in files.list(folder)?.iter().rev() {
        files.unlink(&format!("{folder}/{name}"))?;
    }
    Ok(())
}

/// Compares every checksum.
fn verify(files: &Folder<'_>, scos: &[RecoveredSco]) -> Result<(), FetchError> {
    let mut cluster = [0; PAGE];
    for sco in scos {
        let path = format!("{FETCHED}/{}", file_name(sco.sco));
        for (which, (page, crc)) in sco.index.pages.iter().zip(&sco.index.crcs).enumerate() {
            files.read_at(&path, u64::from(*page) * PAGE as u64, &mut cluster)?;
            if crc32c(&cluster) != *crc {
                return Err(FetchError::Damaged(format!("cluster {which} of SCO {}", sco.sco)));
            }
        }
    }
    Ok(())
}
