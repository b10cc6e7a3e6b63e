//! The DTL node, on the loop of a shard: takes frames, gives them to the machines of their volumes,
//! performs what those decide.
//!
//! Frames are received into memory of the connection and written from there: a batch is copied by
//! the kernel only, from the socket and into the page cache.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::path::{Path, PathBuf};

use format::dtl::{FRAME, Fence, Frame, Greeted, Hello, PAYLOAD_MAX, Rejection, Role, VERSION};
use format::entry::Uuid;
use format::mds;
use machines::dtl::Held;
use machines::dtl::keeper::{Action, Keeper, Message};
use media::{Event, Fd, Ring, Slice, StoreError};
use net::{Acceptor, Lobby};

use crate::inspect::{Contents, inspect};
use crate::outbox::Outbox;
use crate::replica::{Replica, uuid_text};
use crate::tasks::{Done, Kind, Task, TaskDone};

#[path = "door.rs"]
mod door;
#[path = "removal.rs"]
mod removal;
#[path = "room.rs"]
mod room;

use door::CONNECTIONS_MAX;
use removal::Removal;

const ACCEPT: u64 = 1 << 48;
const RECV: u64 = 2 << 48;
const SEND: u64 = 3 << 48;
const LATE: u64 = 4 << 48;
const KIND: u64 = 0xff << 48;

/// Memory for what a connection receives: one frame of the largest size, and what came with it.
const ROOM: usize = PAYLOAD_MAX + (1 << 20);

/// Answers that wait for a peer to read them. An owner that works has a handful under way.
const ANSWERS_MAX: usize = 1024;

struct Connection {
    fd: Fd,
    peer: String,
    room: Slice,
    /// What was received and not taken yet: from, to.
    from: usize,
    to: usize,
    receiving: bool,
    hello: Option<Hello>,
    outbox: Outbox,
    /// Nothing more is taken from it.
    closed: bool,
}

/// A volume whose files have been read.
struct Volume {
    keeper: Keeper,
    replica: Replica,
    /// Fences to be stored one after the other: the newest must win.
    fences: VecDeque<Fence>,
    storing: bool,
    /// The greatest epoch of any fence that was given to the disk: none below it may follow.
    newest: u64,
}

enum Entry {
    Loading(Vec<u32>),
    Ready(Box<Volume>),
    Removing(Removal),
}

/// A connection on its way to the shard that keeps its volume.
#[derive(Debug)]
pub struct Guest {
    fd: Fd,
    hello: Hello,
}

/// See the top of the file.
pub struct Server {
    class: u8,
    root: PathBuf,
    cluster: Uuid,
    shard: usize,
    shards: usize,
    acceptor: Option<Acceptor>,
    connections: HashMap<u32, Connection>,
    connections_max: usize,
    /// That there are too many has been said.
    told_full: bool,
    /// Connections that have not said hello.
    lobby: Lobby,
    /// Connections that were shut.
    shut: Vec<u32>,
    next: u32,
    volumes: HashMap<Uuid, Entry>,
    tasks: Vec<Task>,
    guests: Vec<(usize, Guest)>,
    strangers: Vec<(Fd, Vec<u8>)>,
    log: Vec<String>,
    actions: Vec<Action>,
    /// Who was greeted in this step and wants the volume to be forgotten.
    remover: Option<u32>,
    /// Volumes that keep files for later SCOs, once for each file, those in use last.
    spares: VecDeque<Uuid>,
    /// Files that threads are to remove, and have not said that they did.
    gone: BTreeSet<PathBuf>,
    scratch: Vec<u8>,
}

impl Server {
    /// The part of a DTL node that shard `shard` of `shards` is: it keeps some of the volumes below
    /// `root`. `class`: top byte of its ring tokens.
    pub fn new(class: u8, root: &Path, cluster: Uuid, shard: usize, shards: usize) -> Self {
        Self {
            class,
            root: root.to_owned(),
            cluster,
            shard,
            shards,
            acceptor: None,
            connections: HashMap::new(),
            connections_max: CONNECTIONS_MAX,
            told_full: false,
            lobby: Lobby::default(),
            shut: Vec::new(),
            next: 1,
            volumes: HashMap::new(),
            tasks: Vec::new(),
            guests: Vec::new(),
            strangers: Vec::new(),
            log: Vec::new(),
            actions: Vec::new(),
            remover: None,
            spares: VecDeque::new(),
            gone: BTreeSet::new(),
            scratch: Vec::new(),
        }
    }

    /// Stops listening and closes every connection: owners go on alone, or wait for the next
    /// process, as they like.
    pub fn close(&mut self, ring: &mut Ring) {
        if let Some(acceptor) = self.acceptor.take() {
            ring.shutdown(acceptor.fd());
        }
        for connection in self.connections.values() {
            ring.shutdown(&connection.fd);
        }
    }

    fn token(&self, kind: u64, connection: u32) -> u64 {
        u64::from(self.class) << 56 | kind | u64::from(connection)
    }

    /// Work for threads that may wait.
    pub fn take_tasks(&mut self) -> Vec<Task> {
        std::mem::take(&mut self.tasks)
    }

    /// Connections that belong to other shards.
    pub fn take_guests(&mut self) -> Vec<(usize, Guest)> {
        std::mem::take(&mut self.guests)
    }

    /// Connections of owners that want their maps followed, with what they have sent so far.
    pub fn take_strangers(&mut self) -> Vec<(Fd, Vec<u8>)> {
        std::mem::take(&mut self.strangers)
    }

    /// What an operator may want to read.
    pub fn take_log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }

    /// Volumes that are kept here, as far as they are in use, and their bytes.
    pub fn usage(&self) -> (usize, u64) {
        let ready = self.volumes.values().filter_map(|entry| match entry {
            Entry::Ready(volume) => Some(volume),
            Entry::Loading(_) | Entry::Removing(_) => None,
        });
        let bytes = ready.flat_map(|volume| volume.replica.scos()).map(|(_, bytes)| bytes).sum();
        (self.volumes.len(), bytes)
    }

    /// An operation on the ring has completed.
    pub fn on_event(&mut self, event: Event, ring: &mut Ring) {
        let connection = event.token as u32;
        match event.token & KIND {
            ACCEPT => self.accepted(event, ring),
            RECV => self.received(connection, event.result, ring),
            LATE => self.close_late(ring),
            _ => self.sent(connection, event.result, ring),
        }
        self.bury(ring);
    }

    /// Forgets connections that were shut while nothing was received from them: of the others the
    /// ring tells.
    fn bury(&mut self, ring: &mut Ring) {
        for number in std::mem::take(&mut self.shut) {
            if self.connections.get(&number).is_some_and(|connection| !connection.receiving) {
                self.gone(number, ring);
            }
        }
    }

    fn receive(&mut self, number: u32, ring: &mut Ring) {
        let token = self.token(RECV, number);
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let successor = connection.hello.is_some_and(|hello| hello.role != Role::Owner);
        if connection.receiving || connection.closed || successor {
            return;
        }
        let into = connection.room.sub(connection.to, ROOM - connection.to);
        connection.receiving = true;
        ring.recv(&connection.fd, into, token);
    }

    fn received(&mut self, number: u32, result: i32, ring: &mut Ring) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        connection.receiving = false;
        if result <= 0 || connection.closed {
            self.gone(number, ring);
            return;
        }
        connection.to += result as usize;
        while self.take_frame(number, ring) {}
        self.make_room(number);
        self.receive(number, ring);
    }

    /// Takes one whole frame; false: there is none.
    fn take_frame(&mut self, number: u32, ring: &mut Ring) -> bool {
        let Some(connection) = self.connections.get_mut(&number) else { return false };
        if connection.closed || connection.to - connection.from < FRAME {
            return false;
        }
        let mut bytes = [0; FRAME];
        connection.room.read(connection.from, &mut bytes);
        let frame = match Frame::decode(&bytes) {
            Ok(frame) => frame,
            Err(_) if connection.hello.is_none() && bytes.starts_with(mds::MAGIC) => {
                self.lobby.leave(number);
                if let Some(connection) = self.connections.remove(&number) {
                    let Connection { fd, room, from, to, .. } = connection;
                    self.strangers.push((fd, room.sub(from, to - from).to_vec()));
                }
                return false;
            }
            Err(why) => {
                let text = format!("{}: a frame makes no sense: {why}", connection.peer);
                self.log.push(text);
                self.shut(number, ring);
                return false;
            }
        };
        if connection.hello.is_none() && !matches!(frame, Frame::Hello(_)) {
            // Before its payload has filled the room.
            self.shut(number, ring);
            return false;
        }
        let end = connection.from + FRAME + frame.payload();
        if end > connection.to {
            return false;
        }
        let payload = connection.room.sub(connection.from + FRAME, frame.payload());
        connection.from = end;
        let hello = connection.hello;
        match (frame, hello) {
            (Frame::Hello(hello), None) => self.greet_or_pass_on(number, hello, ring),
            (Frame::Append { .. }, Some(hello)) => {
                let new = inspect(&payload, &hello.volume, &mut self.scratch);
                match new {
                    Some(new) => self.append(number, hello.volume, new, &payload, ring),
                    None => {
                        let peer = self.connections.get(&number).map(|c| c.peer.clone());
                        let peer = peer.unwrap_or_default();
                        self.log.push(format!("{peer}: a batch with wrong checksums"));
                        self.shut(number, ring);
                    }
                }
            }
            (Frame::Resume, Some(hello)) => {
                self.tell(hello.volume, Message::Resume { connection: number }, None, ring);
            }
            (Frame::Fresh, Some(hello)) => {
                self.tell(hello.volume, Message::Fresh { connection: number }, None, ring);
            }
            (Frame::Trim { below }, Some(hello)) => {
                let message = Message::Trim { connection: number, below };
                self.tell(hello.volume, message, None, ring);
            }
            _ => self.shut(number, ring),
        }
        true
    }

    /// What is left over goes to the front, when the rest of a frame would not fit behind it.
    fn make_room(&mut self, number: u32) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let left = connection.to - connection.from;
        if left == 0 {
            (connection.from, connection.to) = (0, 0);
        } else if ROOM - connection.to < FRAME + PAYLOAD_MAX - left.min(PAYLOAD_MAX) {
            let part = connection.room.sub(connection.from, left);
            part.copy_to(&connection.room.sub(0, left));
            (connection.from, connection.to) = (0, left);
        }
    }

    fn greet_or_pass_on(&mut self, number: u32, hello: Hello, ring: &mut Ring) {
        self.lobby.leave(number);
        let home = hello.volume.iter().fold(0, |sum, b| sum + usize::from(*b)) % self.shards;
        if home == self.shard {
            self.hello(number, hello, ring);
        } else if let Some(connection) = self.connections.remove(&number) {
            self.guests.push((home, Guest { fd: connection.fd, hello }));
        }
    }

    fn hello(&mut self, number: u32, hello: Hello, ring: &mut Ring) {
        let wrong = if hello.version != VERSION {
            Some(Rejection::Version)
        } else {
            (hello.cluster != self.cluster).then_some(Rejection::Cluster)
        };
        if let Some(why) = wrong {
            self.send(number, Frame::Rejected(why), ring);
            self.shut(number, ring);
            return;
        }
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.hello = Some(hello);
        }
        match self.volumes.get_mut(&hello.volume) {
            Some(Entry::Loading(waiting)) => waiting.push(number),
            Some(Entry::Removing(removal)) => removal.waiting.push(number),
            Some(Entry::Ready(_)) => self.say_hello(number, ring),
            None => self.load(hello.volume, vec![number]),
        }
    }

    /// Has a thread read what is held of a volume, for those who wait.
    fn load(&mut self, volume: Uuid, waiting: Vec<u32>) {
        self.volumes.insert(volume, Entry::Loading(waiting));
        self.tasks.push(Task(Kind::Load { root: self.root.clone(), volume }));
    }

    fn say_hello(&mut self, connection: u32, ring: &mut Ring) {
        let hello = self.connections.get(&connection).and_then(|c| c.hello);
        let Some(Hello { volume, epoch, generation, .. }) = hello else { return };
        self.tell(volume, Message::Hello { connection, epoch, generation }, None, ring);
    }

    /// A thread has done a task.
    pub fn on_task(&mut self, done: TaskDone, ring: &mut Ring) {
        match done.0 {
            Done::Loaded { volume, result } => {
                let Some(Entry::Loading(waiting)) = self.volumes.remove(&volume) else { return };
                match result {
                    Ok(loaded) => {
                        let keeper = Keeper::new(loaded.fence.epoch, loaded.held);
                        let (replica, fences) = (loaded.replica, VecDeque::new());
                        let newest = loaded.fence.epoch;
                        let new = Volume { keeper, replica, fences, storing: false, newest };
                        self.volumes.insert(volume, Entry::Ready(Box::new(new)));
                        waiting.into_iter().for_each(|number| self.say_hello(number, ring));
                    }
                    Err(error) => {
                        self.log.push(error.to_string());
                        for number in waiting {
                            self.send(number, Frame::Rejected(Rejection::Failed), ring);
                            self.shut(number, ring);
                        }
                    }
                }
            }
            Done::Stored { fence, result } => self.fence_stored(&fence, result, ring),
            Done::Streamed { connection, result } => {
                self.log.extend(result.err().map(|why| format!("sending a tail: {why}")));
                self.shut(connection, ring);
                self.gone(connection, ring);
            }
            Done::Removed { connection, volume, result } => {
                self.removed(connection, volume, result, ring);
            }
            Done::Unlinked { files, result } => self.unlinked(&files, result),
        }
        self.bury(ring);
    }

    fn fence_stored(&mut self, fence: &Fence, result: Result<(), String>, ring: &mut Ring) {
        let Some(Entry::Ready(volume)) = self.volumes.get_mut(&fence.volume) else {
            return self.go_on_removing(&fence.volume);
        };
        volume.storing = false;
        let raised = fence.epoch > volume.keeper.fence();
        let message = match result {
            Ok(()) if raised => Some(Message::EpochStored { epoch: fence.epoch }),
            Ok(()) => None,
            Err(why) => {
                self.log.push(format!("storing the fence of {}: {why}", uuid_text(&fence.volume)));
                raised.then_some(Message::EpochFailed)
            }
        };
        if let Some(message) = message {
            self.tell(fence.volume, message, None, ring);
        }
        self.store_next(fence.volume);
    }

    fn store_next(&mut self, volume: Uuid) {
        let Some(Entry::Ready(entry)) = self.volumes.get_mut(&volume) else { return };
        if !entry.storing
            && let Some(fence) = entry.fences.pop_front()
        {
            entry.storing = true;
            self.tasks.push(Task(Kind::Store { root: self.root.clone(), fence }));
        }
    }

    fn append(
        &mut self,
        connection: u32,
        volume: Uuid,
        new: Contents,
        payload: &Slice,
        ring: &mut Ring,
    ) {
        let message = Message::Append { connection, piece: new.piece };
        self.tell(volume, message, Some((&new, payload)), ring);
    }

    /// Gives a volume's machine a message and does what follows.
    fn tell(
        &mut self,
        volume: Uuid,
        message: Message,
        append: Option<(&Contents, &Slice)>,
        ring: &mut Ring,
    ) {
        let mut actions = std::mem::take(&mut self.actions);
        if let Some(Entry::Ready(entry)) = self.volumes.get_mut(&volume) {
            entry.keeper.step(message, &mut actions);
        }
        let mut next = 0;
        while next < actions.len() {
            let action = actions[next];
            next += 1;
            let answer = self.perform(volume, action, append, ring);
            if let Some(answer) = answer
                && let Some(Entry::Ready(entry)) = self.volumes.get_mut(&volume)
            {
                entry.keeper.step(answer, &mut actions);
            }
        }
        actions.clear();
        self.actions = actions;
        if let Some(remover) = self.remover.take() {
            self.begin_removal(volume, remover);
        }
    }

    fn perform(
        &mut self,
        volume: Uuid,
        action: Action,
        append: Option<(&Contents, &Slice)>,
        ring: &mut Ring,
    ) -> Option<Message> {
        let Some(Entry::Ready(entry)) = self.volumes.get_mut(&volume) else { return None };
        match action {
            Action::StoreEpoch { epoch, suspect } => {
                entry.newest = entry.newest.max(epoch);
                entry.fences.push_back(Fence { volume, epoch, suspect });
                self.store_next(volume);
            }
            Action::Vouch => {
                // The machine has not heard of an epoch that is being stored.
                let fence = Fence { volume, epoch: entry.newest, suspect: false };
                entry.fences.push_back(fence);
                self.store_next(volume);
            }
            Action::Greet { connection, held } => self.greet(volume, connection, held, ring),
            Action::Refuse { connection, fence } => {
                self.send(connection, Frame::Refused { fence }, ring);
                self.shut(connection, ring);
            }
            Action::Close { connection } => self.shut(connection, ring),
            Action::Wipe => {
                let wiped = entry.replica.wipe();
                self.hand_out_gone(volume);
                return Some(match wiped {
                    Ok(()) => Message::Wiped,
                    Err(error) => {
                        self.log.push(error.to_string());
                        Message::WipeFailed
                    }
                });
            }
            Action::Write => {
                let (new, payload) = append?;
                let mut done = entry.replica.append(new, payload);
                if done.as_ref().is_err_and(StoreError::is_no_space) && self.make_space() {
                    let Some(Entry::Ready(entry)) = self.volumes.get_mut(&volume) else {
                        return None;
                    };
                    done = entry.replica.append(new, payload);
                }
                if new.piece.starts_sco {
                    self.count_spares(volume);
                }
                return Some(match done {
                    Ok(()) => Message::Written,
                    Err(error) => {
                        self.log.push(error.to_string());
                        Message::WriteFailed
                    }
                });
            }
            Action::Acknowledge { connection, sequence } => {
                self.send(connection, Frame::Acknowledged { sequence }, ring);
            }
            Action::Unlink { below } => {
                entry.replica.unlink(below);
                self.count_spares(volume);
            }
        }
        None
    }

    fn greet(&mut self, volume: Uuid, connection: u32, held: Held, ring: &mut Ring) {
        let Some(Entry::Ready(entry)) = self.volumes.get(&volume) else { return };
        let greeted = Greeted {
            begin: held.begin,
            end: held.end.map(|mark| (mark.sequence, mark.crc)),
            suspect: held.suspect,
            fence: entry.keeper.fence(),
        };
        let (folder, scos) = (entry.replica.path(), entry.replica.scos());
        self.send(connection, Frame::Greeted(greeted), ring);
        let Some(caller) = self.connections.get(&connection) else { return };
        let (fd, role) = (caller.fd.clone(), caller.hello.map(|hello| hello.role));
        match role {
            Some(Role::Successor) => {
                self.tasks.push(Task(Kind::Stream { connection, fd, folder, scos }));
            }
            Some(Role::Remover) => self.remover = Some(connection),
            _ => {}
        }
    }

    fn send(&mut self, number: u32, frame: Frame, ring: &mut Ring) {
        let token = self.token(SEND, number);
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if connection.closed {
            return;
        }
        let bytes = frame.encode();
        let sent = connection.outbox.send(&connection.fd, &[&bytes], &[], token, ring);
        if connection.outbox.waiting() > ANSWERS_MAX {
            self.log.push(format!("{}: closed, it does not read its answers", connection.peer));
            self.shut(number, ring);
        } else if sent.is_err() {
            self.shut(number, ring);
        }
    }

    fn sent(&mut self, number: u32, result: i32, ring: &mut Ring) {
        let token = self.token(SEND, number);
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if !connection.outbox.sent(result, &connection.fd, token, ring) {
            self.shut(number, ring);
        }
    }

    /// Nothing more is taken from a connection; the ring tells when it is over.
    fn shut(&mut self, number: u32, ring: &mut Ring) {
        if let Some(connection) = self.connections.get_mut(&number)
            && !connection.closed
        {
            connection.closed = true;
            ring.shutdown(&connection.fd);
            self.shut.push(number);
        }
    }

    fn gone(&mut self, number: u32, ring: &mut Ring) {
        self.lobby.leave(number);
        let Some(connection) = self.connections.remove(&number) else { return };
        ring.shutdown(&connection.fd);
        let Some(Hello { volume, .. }) = connection.hello else { return };
        if let Some(Entry::Loading(waiting) | Entry::Removing(Removal { waiting, .. })) =
            self.volumes.get_mut(&volume)
        {
            waiting.retain(|waiting| *waiting != number);
        }
        self.tell(volume, Message::Gone { connection: number }, None, ring);
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
