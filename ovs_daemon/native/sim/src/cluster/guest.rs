//! A guest and its Edge, on a host of their own: requests go through the production session machine
//! (`machines::edge::Session`), answers to the oracle.

use std::collections::BTreeMap;

use format::edge::{Command, Done, FLAG_FUA, Verb};
use format::log::PAGE;
use machines::edge::{Action, Guest as Name, Message, Session};

use super::event::Event;
use super::net::Packet;
use super::oracle::{Value, Writing};
use super::registry::{Answer, Ask, Purpose};
use super::{Cluster, MS, S, plant_session};

/// Requests that may be unanswered at once.
pub(super) const ENTRIES: u32 = 16;
const PATIENCE: u64 = 2 * S;
const SECTOR: usize = 512;

/// What the guest waits for.
enum Wait {
    Write(Writing),
    Read { id: u64, first: usize, cells: usize },
    Flush { id: u64 },
}

struct Asked {
    wait: Wait,
    data: Vec<u8>,
    began: u64,
}

/// See the top of the file.
pub(super) struct Guest {
    session: Session,
    /// Of the present connection.
    conn: Option<u32>,
    connected_at: u64,
    /// The Edge starts with a number of its own each time, so that its connections are later ones.
    lives: u64,
    asked: BTreeMap<u32, Asked>,
    timer: u32,
    told: (usize, u64),
    looking: bool,
    values: Value,
    ids: u64,
    /// LBA of each cluster that the guest uses.
    lbas: Vec<u64>,
    /// The guest asks for nothing new.
    pub(super) quiet: bool,
    /// Cells that are read at the end.
    verify: Vec<usize>,
}

/// The bytes of a cluster after a write: every sector says whose it is.
fn fill(value: Value, lba: u64) -> Vec<u8> {
    let mut bytes = vec![0; PAGE];
    for (number, sector) in bytes.chunks_exact_mut(SECTOR).enumerate() {
        sector[..4].copy_from_slice(&value.to_le_bytes());
        sector[4..12].copy_from_slice(&lba.to_le_bytes());
        sector[12] = number as u8;
    }
    bytes
}

/// Which write a cluster shows.
fn shown(bytes: &[u8], lba: u64) -> Result<Value, String> {
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(0);
    }
    let value = Value::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    match fill(value, lba) == bytes {
        true => Ok(value),
        false => Err(format!("the bytes at LBA {lba} are not those of any write")),
    }
}

impl Guest {
    pub(super) fn new(lbas: Vec<u64>, session: Session) -> Self {
        Guest {
            session,
            conn: None,
            connected_at: 0,
            lives: 1,
            asked: BTreeMap::new(),
            timer: 0,
            told: (usize::MAX, 0),
            looking: false,
            values: 0,
            ids: 0,
            lbas,
            quiet: false,
            verify: Vec::new(),
        }
    }

    /// Size of the volume.
    pub(super) fn bytes(&self) -> u64 {
        (self.lbas.iter().max().copied().unwrap_or(0) + 1) * PAGE as u64
    }

    pub(super) fn is_idle(&self) -> bool {
        self.asked.is_empty()
    }

    /// No more requests fit.
    pub(super) fn is_busy(&self) -> bool {
        self.asked.len() >= ENTRIES as usize
    }

    pub(super) fn waits(&self) -> usize {
        self.asked.len()
    }

    /// Clusters from `first` on whose LBAs follow each other, at most `wanted`.
    fn run(&self, first: usize, wanted: usize) -> usize {
        let follows = |n: &usize| self.lbas.get(first + n) == Some(&(self.lbas[first] + *n as u64));
        (1..wanted).take_while(follows).count() + 1
    }
}

impl Cluster<'_> {
    /// The guest asks for something.
    pub(super) fn guest_asks(&mut self) {
        let pause = 1 + self.random.below(self.plan.think * 2);
        self.at(self.now + pause, Event::Guest);
        if self.guest.quiet || self.guest.asked.len() >= self.plan.depth {
            return;
        }
        let cells = self.guest.lbas.len();
        // Some places are hot, so that requests meet.
        let hot = self.random.chance(1, 3);
        let first = self.random.index(if hot { cells.div_ceil(8) } else { cells });
        let wanted = 1 + self.random.index(self.plan.limits.op_clusters as usize);
        let length = self.guest.run(first, wanted);
        match self.random.below(100) {
            0..50 => {
                let fua = self.random.chance(1, 10);
                self.guest_writes(Verb::Write, first, length, fua);
            }
            50..56 => self.guest_writes(Verb::Trim, first, length, false),
            56..92 => self.guest_reads(first, length),
            _ => self.guest_flushes(),
        }
    }

    fn guest_writes(&mut self, verb: Verb, first: usize, cells: usize, fua: bool) {
        let value = match verb {
            Verb::Write => {
                self.guest.values += 1;
                self.guest.values
            }
            _ => 0,
        };
        let data = match verb {
            Verb::Write => {
                let lbas = &self.guest.lbas[first..first + cells];
                lbas.iter().flat_map(|lba| fill(value, *lba)).collect()
            }
            _ => Vec::new(),
        };
        let writing = self.oracle.write(first, cells, value, fua);
        self.stats.writes += 1;
        self.guest_submits(verb, first, cells, fua, Wait::Write(writing), data);
    }

    fn guest_reads(&mut self, first: usize, cells: usize) {
        self.guest.ids += 1;
        let id = self.guest.ids;
        self.oracle.read(id, first, cells);
        let wait = Wait::Read { id, first, cells };
        self.guest_submits(Verb::Read, first, cells, false, wait, Vec::new());
    }

    pub(super) fn guest_flushes(&mut self) {
        self.guest.ids += 1;
        let id = self.guest.ids;
        self.oracle.flush(id);
        self.guest_submits(Verb::Flush, 0, 0, false, Wait::Flush { id }, Vec::new());
    }

    fn guest_submits(
        &mut self,
        verb: Verb,
        first: usize,
        cells: usize,
        fua: bool,
        wait: Wait,
        data: Vec<u8>,
    ) {
        let Some(tag) = (0..ENTRIES).find(|tag| self.guest.session.is_free(*tag)) else { return };
        let offset = if cells == 0 { 0 } else { self.guest.lbas[first] * PAGE as u64 };
        let length = (cells * PAGE) as u64;
        let flags = if fua { FLAG_FUA } else { 0 };
        self.say(format_args!("guest: {tag}: {verb:?} {first}+{cells} {flags}"));
        self.guest.asked.insert(tag, Asked { wait, data, began: self.now });
        let command = Command { tag, verb, flags, offset, length, place: 0, room: 0 };
        self.edge_step(Message::Submit(command));
    }

    pub(super) fn edge_step(&mut self, message: Message) {
        let mut actions = Vec::new();
        self.guest.session.step(message, &mut actions);
        for action in actions {
            self.edge_acts(action);
        }
    }

    fn edge_acts(&mut self, action: Action) {
        match action {
            Action::Connect { generation } => {
                let (target, host) = (self.guest.session.target() as usize, self.edge_host());
                let conn = self.dial(host, target);
                let connection = self.guest.lives << 32 | u64::from(generation);
                (self.guest.conn, self.guest.connected_at) = (Some(conn), self.now);
                self.say(format_args!("edge: knocks at node {target}, connection {generation}"));
                let host = "guest".into();
                let guest = Name { host, edge: [7; 16], connection, generation: 0 };
                self.send(conn, 0, Packet::Knock { guest });
                self.at(self.now + PATIENCE, Event::EdgePatience { conn });
            }
            Action::Send(command) => {
                let asked = self.guest.asked.get(&command.tag);
                let data = asked.map(|asked| asked.data.clone()).unwrap_or_default();
                if let Some(conn) = self.guest.conn {
                    self.send(conn, 0, Packet::Ask { command, data });
                }
            }
            Action::Complete(done) => self.guest_hears(done),
            Action::SetTimer { pause_ms } => {
                self.guest.timer += 1;
                let token = self.guest.timer;
                self.at(self.now + u64::from(pause_ms) * MS, Event::EdgeTimer { token });
            }
            Action::Leave { generation, breach } => {
                self.say(format_args!("edge: leaves connection {generation} {breach:?}"));
                // The kernel lets go at once, and the engine hears of it in its own time.
                if let Some(conn) = self.guest.conn.take() {
                    self.send(conn, 0, Packet::Goodbye);
                    self.close(conn, 0);
                }
                self.at(self.now + 100, Event::EdgeLost { generation });
            }
            Action::Opened { .. } => {
                self.say(format_args!("edge: is let in"));
                self.oracle.settle();
            }
            Action::Resized { .. } => {}
            Action::Ended(ending) => {
                self.fail("no guest is given up", format!("the session ended: {ending:?}"));
            }
        }
    }

    pub(super) fn edge_timer(&mut self, token: u32) {
        if token == self.guest.timer {
            self.edge_step(Message::Timer);
        }
    }

    /// A hello was not answered in time.
    pub(super) fn edge_patience(&mut self, conn: u32) {
        let connecting = self.guest.session.phase() == machines::edge::Phase::Connecting;
        if self.guest.conn == Some(conn) && connecting {
            self.edge_lost_connection(conn);
        }
    }

    fn edge_lost_connection(&mut self, conn: u32) {
        self.close(conn, 0);
        if self.guest.conn == Some(conn) {
            self.guest.conn = None;
            let generation = self.guest.session.generation();
            self.edge_step(Message::Lost { generation });
        }
    }

    pub(super) fn edge_hears(&mut self, conn: u32, packet: Packet) {
        if self.guest.conn != Some(conn) {
            return self.close(conn, 0);
        }
        let generation = self.guest.session.generation();
        match packet {
            Packet::Attached(attached) => {
                self.edge_step(Message::Attached { generation, attached });
            }
            Packet::TurnedAway => self.edge_step(Message::Refused { generation }),
            Packet::Closed(reason) => self.edge_step(Message::Closed { generation, reason }),
            Packet::Answer { done, data } => {
                if let Some(asked) = self.guest.asked.get_mut(&done.tag)
                    && matches!(asked.wait, Wait::Read { .. })
                {
                    asked.data = data;
                }
                self.edge_step(Message::Answered { generation, done });
            }
            _ => self.edge_lost_connection(conn),
        }
    }

    /// A request has ended.
    fn guest_hears(&mut self, done: Done) {
        let Some(Asked { wait, data, began }) = self.guest.asked.remove(&done.tag) else {
            return self.fail("one answer each", format!("tag {} is answered again", done.tag));
        };
        self.say(format_args!("guest: {}: done {}", done.tag, done.errno));
        self.stats.answers += 1;
        if done.errno != 0 {
            return self.guest_fails(&wait, done);
        }
        match wait {
            Wait::Write(writing) => {
                let late = self.guest.connected_at <= self.promise.dark_at;
                self.oracle.written(&writing, late);
                self.promise_acknowledged(began);
            }
            Wait::Flush { id } => {
                self.oracle.flushed(id);
                self.stats.flushes += 1;
            }
            Wait::Read { id, first, cells } => self.guest_looks(id, first, cells, &data),
        }
    }

    fn guest_fails(&mut self, wait: &Wait, done: Done) {
        self.stats.errors += 1;
        if let Wait::Read { id, .. } = wait {
            self.oracle.drop_read(*id);
        }
        // What a lying disk has spoilt is noticed and said.
        if !(self.oracle.lying && matches!(wait, Wait::Read { .. })) {
            self.fail(
                "no request fails",
                format!("request {} ended with {}", done.tag, done.errno),
            );
        }
    }

    fn guest_looks(&mut self, id: u64, first: usize, cells: usize, data: &[u8]) {
        let lbas = &self.guest.lbas[first..first + cells];
        let clusters = data.chunks_exact(PAGE).zip(lbas);
        let values: Result<Vec<Value>, String> =
            clusters.map(|(cluster, lba)| shown(cluster, *lba)).collect();
        match values {
            Err(why) => self.fail("nothing is returned that was never written", why),
            Ok(values) if values.len() < cells => {
                self.fail("nothing is returned that was never written", "too short".to_owned());
            }
            Ok(values) => {
                if let Err(wrong) = self.oracle.has_read(id, &values) {
                    self.fail("reads show what was acknowledged", wrong.to_string());
                }
            }
        }
    }

    /// The guest's host looks into the registry: who owns the volume?
    pub(super) fn edge_look(&mut self) {
        if !std::mem::replace(&mut self.guest.looking, true) {
            let host = self.edge_host();
            self.ask(host, Purpose::Edge, Ask::Read);
        }
    }

    pub(super) fn edge_told(&mut self, answer: Option<Answer>) {
        self.guest.looking = false;
        let Some(Answer::Read { record, .. }) = answer else { return };
        let now = (record.owner, record.epoch);
        if self.guest.told == now {
            return;
        }
        self.guest.told = now;
        let (targets, first) = (self.nodes.len() as u32, record.owner as u32);
        let same = self.guest.session.target() == first;
        self.edge_step(Message::Retarget { targets, first, epoch: record.epoch, keep: same });
    }

    /// The Edge and its guest die and begin again.
    pub(super) fn restart_guest(&mut self) {
        self.say(format_args!("guest: starts again"));
        let host = self.edge_host();
        self.close_all(host, false);
        self.oracle.abandon();
        let size = self.guest.bytes();
        let mut session = Session::restored(ENTRIES, size, false);
        plant_session(&mut session, self.planted);
        self.guest.session = session;
        self.guest.asked.clear();
        (self.guest.conn, self.guest.told) = (None, (usize::MAX, 0));
        self.guest.lives += 1;
        self.guest.timer += 1;
        self.edge_step(Message::Start);
        self.edge_look();
    }

    /// Reads everything; false: that has been done.
    pub(super) fn guest_verifies(&mut self, begin: bool) -> bool {
        if begin {
            self.guest.verify = (0..self.guest.lbas.len()).rev().collect();
        }
        let Some(cell) = self.guest.verify.pop() else { return false };
        self.guest_reads(cell, 1);
        true
    }
}
