//! A DTL node's part: what `dtl::Server` and `dtl::Replica` do, on a simulated disk. What is held is
//! read by `dtl::read_replica`, the fence is stored by `dtl::store_fence`.

use std::collections::{BTreeMap, VecDeque};

use buffer::file_name;
use buffer::files::{FileError, Files};
use dtl::{Contents, inspect, read_replica, store_fence};
use format::dtl::Fence;
use format::log::PAGE;
use machines::dtl::Held;
use machines::dtl::keeper::{Action, Keeper, Message};
use media::Slice;

use super::disk::Folder;
use super::event::Event;
use super::net::Packet;
use super::{Cluster, Host, LOG, MS, NAME, Planted, Shell};

/// What a DTL node has of the volume, while its process lives.
pub(super) struct Kept {
    keeper: Keeper,
    /// The SCO that batches go to, and its first free page.
    open: Option<(u32, u64)>,
    trimmed: u32,
    bytes: BTreeMap<u32, u64>,
    fences: VecDeque<Fence>,
    storing: bool,
    /// Connections that said hello: their epochs; true: of a node that takes over.
    callers: BTreeMap<u32, (u64, bool)>,
}

fn path(sco: u32) -> String {
    format!("{NAME}/{}", file_name(sco))
}

impl Kept {
    pub(super) fn held(&self) -> Held {
        self.keeper.held()
    }

    fn append(
        &mut self,
        files: &dyn Files,
        new: &Contents,
        payload: &[u8],
    ) -> Result<(), FileError> {
        if new.piece.starts_sco {
            files.unlink(&path(new.sco))?;
            files.create(&path(new.sco))?;
            self.open = Some((new.sco, 0));
            self.unlink(files, self.trimmed)?;
        }
        let Some((sco, end)) = self.open.as_mut().filter(|(sco, _)| *sco == new.sco) else {
            let cause = buffer::files::Cause::Failed;
            return Err(FileError::new("append to", &path(new.sco), cause, "it is not open"));
        };
        files.write_at(&path(*sco), *end * PAGE as u64, &[payload])?;
        *end += (payload.len() / PAGE) as u64;
        self.bytes.insert(*sco, *end * PAGE as u64);
        Ok(())
    }

    fn unlink(&mut self, files: &dyn Files, below: u32) -> Result<(), FileError> {
        self.trimmed = self.trimmed.max(below);
        let newest = self.open.map_or(below, |(sco, _)| sco);
        let rest = self.bytes.split_off(&below.min(newest));
        let old = std::mem::replace(&mut self.bytes, rest);
        old.into_keys().try_for_each(|sco| files.unlink(&path(sco)))
    }

    fn wipe(&mut self, files: &dyn Files) -> Result<(), FileError> {
        (self.open, self.trimmed, self.bytes) = (None, 0, BTreeMap::new());
        let mut names = files.list(NAME)?;
        names.retain(|(name, _)| buffer::recover::parse_file_name(name).is_some());
        names.iter().rev().try_for_each(|(name, _)| files.unlink(&format!("{NAME}/{name}")))
    }
}

impl Cluster<'_> {
    fn load_keeper(&mut self, node: Host) -> Result<Kept, FileError> {
        let files = Folder { disk: &self.nodes[node].disk, name: "dtl" };
        let read = read_replica(&files, &LOG)?;
        for name in read.remove.iter().rev() {
            files.unlink(&format!("{NAME}/{name}"))?;
        }
        let mut open = None;
        if let Some((sco, bytes)) = read.scos.last() {
            files.truncate(&path(*sco), *bytes)?;
            open = Some((*sco, bytes / PAGE as u64));
        }
        let mut held = read.held;
        held.suspect &= !self.shell(Shell::TrustAfterPowerLoss);
        let mut keeper = Keeper::new(read.fence.epoch, held);
        if let Some(Planted::Dtl(mutant)) = self.planted {
            keeper.plant(mutant);
        }
        Ok(Kept {
            keeper,
            open,
            trimmed: 0,
            bytes: read.scos.into_iter().collect(),
            fences: VecDeque::new(),
            storing: false,
            callers: BTreeMap::new(),
        })
    }

    /// Notes that power was lost since what is held was acknowledged (`dtl::mark_power_loss`).
    pub(super) fn mark_power_loss(&mut self, node: Host) {
        let files = Folder { disk: &self.nodes[node].disk, name: "dtl" };
        if let Ok(read) = read_replica(&files, &LOG)
            && read.fence.epoch > 0
        {
            // Until that has succeeded nothing is served: it is tried again.
            let fence = Fence { suspect: true, ..read.fence };
            let stored = (0..9).any(|_| store_fence(&files, &fence).is_ok());
            debug_assert!(stored, "a disk that just started has room");
        }
    }

    pub(super) fn is_keeper_call(&self, node: Host, conn: u32) -> bool {
        self.nodes[node].kept.as_ref().is_some_and(|kept| kept.callers.contains_key(&conn))
    }

    pub(super) fn keeper_hears(&mut self, node: Host, conn: u32, packet: Packet) {
        let message = match packet {
            Packet::CallKeeper { epoch, generation, successor } => {
                if self.nodes[node].kept.is_none() {
                    match self.load_keeper(node) {
                        Ok(kept) => self.nodes[node].kept = Some(kept),
                        Err(error) => {
                            self.say(format_args!("keeper {node}: {error}"));
                            return self.close(conn, 1);
                        }
                    }
                }
                if successor && self.shell(Shell::NoFence) {
                    return self.show_tail(node, conn);
                }
                if let Some(kept) = &mut self.nodes[node].kept {
                    kept.callers.insert(conn, (epoch, successor));
                }
                Message::Hello { connection: conn, epoch, generation }
            }
            Packet::Resume => Message::Resume { connection: conn },
            Packet::Fresh => Message::Fresh { connection: conn },
            Packet::Trim { below } => Message::Trim { connection: conn, below },
            Packet::Append(payload) => return self.keeper_append(node, conn, payload),
            _ => {
                if let Some(kept) = &mut self.nodes[node].kept {
                    kept.callers.remove(&conn);
                }
                self.close(conn, 1);
                Message::Gone { connection: conn }
            }
        };
        self.tell_keeper(node, message, None);
    }

    fn keeper_append(&mut self, node: Host, conn: u32, payload: Vec<u8>) {
        let slice = Slice::copy_of(&payload).expect("memory for a batch");
        let mut scratch = std::mem::take(&mut self.scratch);
        let new = inspect(&slice, &LOG, &mut scratch);
        self.scratch = scratch;
        let Some(new) = new else {
            self.say(format_args!("keeper {node}: a batch with wrong checksums"));
            return self.keeper_hears(node, conn, Packet::End);
        };
        let message = Message::Append { connection: conn, piece: new.piece };
        self.tell_keeper(node, message, Some((&new, &payload)));
    }

    fn tell_keeper(&mut self, node: Host, message: Message, append: Option<(&Contents, &[u8])>) {
        let Some(mut kept) = self.nodes[node].kept.take() else { return };
        let mut actions = Vec::new();
        kept.keeper.step(message, &mut actions);
        let mut next = 0;
        while let Some(action) = actions.get(next).copied() {
            next += 1;
            if let Some(answer) = self.keep(node, &mut kept, action, append) {
                kept.keeper.step(answer, &mut actions);
            }
        }
        self.nodes[node].kept = Some(kept);
    }

    fn keep(
        &mut self,
        node: Host,
        kept: &mut Kept,
        action: Action,
        append: Option<(&Contents, &[u8])>,
    ) -> Option<Message> {
        match action {
            Action::StoreEpoch { epoch, suspect } => {
                kept.fences.push_back(Fence { volume: LOG, epoch, suspect });
                self.store_next(node, kept);
            }
            Action::Vouch => {
                let epoch = kept.keeper.fence();
                kept.fences.push_back(Fence { volume: LOG, epoch, suspect: false });
                self.store_next(node, kept);
            }
            Action::Greet { connection, held } => {
                self.send(connection, 1, Packet::Greeted { held });
                let caller = kept.callers.get(&connection).copied();
                self.witness_greet(node, caller.map_or(0, |(epoch, _)| epoch));
                if caller.is_some_and(|(_, successor)| successor) {
                    self.stream_tail(node, kept, connection);
                }
            }
            Action::Refuse { connection, .. } => {
                self.send(connection, 1, Packet::Refused);
                self.hang_up_caller(kept, connection);
            }
            Action::Close { connection } => self.hang_up_caller(kept, connection),
            Action::Wipe => {
                let files = Folder { disk: &self.nodes[node].disk, name: "dtl" };
                let wiped = kept.wipe(&files);
                return Some(wiped.map_or(Message::WipeFailed, |()| Message::Wiped));
            }
            Action::Write => {
                let (new, payload) = append?;
                let files = Folder { disk: &self.nodes[node].disk, name: "dtl" };
                let written = kept.append(&files, new, payload);
                return Some(written.map_or(Message::WriteFailed, |()| Message::Written));
            }
            Action::Acknowledge { connection, sequence } => {
                let caller = kept.callers.get(&connection);
                self.witness_acknowledged(node, caller.map_or(u64::MAX, |(epoch, _)| *epoch));
                self.send(connection, 1, Packet::Acknowledged { sequence });
            }
            Action::Unlink { below } => {
                let files = Folder { disk: &self.nodes[node].disk, name: "dtl" };
                // One that stays behind is trimmed again, or wiped, another time.
                let _ = kept.unlink(&files, below);
            }
        }
        None
    }

    /// What a DTL node would do that has no fence.
    fn show_tail(&mut self, node: Host, conn: u32) {
        let Some(kept) = self.nodes[node].kept.take() else { return };
        self.send(conn, 1, Packet::Greeted { held: kept.held() });
        self.stream_tail(node, &kept, conn);
        self.nodes[node].kept = Some(kept);
    }

    fn hang_up_caller(&mut self, kept: &mut Kept, conn: u32) {
        kept.callers.remove(&conn);
        self.close(conn, 1);
    }

    fn stream_tail(&mut self, node: Host, kept: &Kept, conn: u32) {
        let mut tail = Vec::new();
        for (sco, len) in &kept.bytes {
            let mut bytes = vec![0; *len as usize];
            let files = Folder { disk: &self.nodes[node].disk, name: "dtl" };
            match files.read_at(&path(*sco), 0, &mut bytes) {
                Ok(read) if read == bytes.len() => tail.push((*sco, bytes)),
                _ => return self.close(conn, 1),
            }
        }
        self.send(conn, 1, Packet::Tail(tail));
    }

    fn store_next(&mut self, node: Host, kept: &mut Kept) {
        if !kept.storing && !kept.fences.is_empty() {
            kept.storing = true;
            let at = self.now + self.disk_delay(node, 2 * MS);
            let life = self.life(node);
            self.at(at, Event::Fence { node, life });
        }
    }

    /// A fence is stored now.
    pub(super) fn store_fence(&mut self, node: Host) {
        let Some(mut kept) = self.nodes[node].kept.take() else { return };
        kept.storing = false;
        let message = kept.fences.pop_front().and_then(|fence| {
            let files = Folder { disk: &self.nodes[node].disk, name: "dtl" };
            let raised = fence.epoch > kept.keeper.fence();
            match store_fence(&files, &fence) {
                Ok(()) => raised.then_some(Message::EpochStored { epoch: fence.epoch }),
                Err(_) => raised.then_some(Message::EpochFailed),
            }
        });
        self.store_next(node, &mut kept);
        self.nodes[node].kept = Some(kept);
        if let Some(message) = message {
            self.tell_keeper(node, message, None);
        }
    }
}
