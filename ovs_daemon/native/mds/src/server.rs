//! A node that follows maps, on a loop of its own: takes frames, gives them to the machines of
//! their volumes, performs what those decide.

use std::collections::{BTreeMap, HashMap};

use dtl::Outbox;
use format::entry::Uuid;
use format::mds::End;
use format::mds::{FRAME, Frame, Hello, PAYLOAD_MAX, Payload, Rejection, VERSION, decode_origin};
use machines::mds::Warm;
use machines::mds::follower::{Action, Follower, Message};
use media::{Arena, Event, Fd, Ring, Slice};
use net::Lobby;
use net::clock::monotonic_ns;

use crate::pieces::{self, Source};

const RECV: u64 = 1 << 48;
const SEND: u64 = 2 << 48;
const LATE: u64 = 3 << 48;
const KIND: u64 = 0xff << 48;

/// Connections, greeted or not: one for each volume that is followed.
const CONNECTIONS_MAX: usize = 16_384;

/// Memory for what a connection receives: a frame of the largest size, and what came with it.
const ROOM: usize = FRAME + PAYLOAD_MAX + (64 << 10);

struct Connection {
    fd: Fd,
    peer: String,
    room: Slice,
    /// What was received and not taken yet: from, to.
    from: usize,
    to: usize,
    receiving: bool,
    source: Option<Source>,
    outbox: Outbox,
    /// Nothing more is taken from it.
    closed: bool,
}

struct Volume {
    follower: Follower,
    base: Option<Uuid>,
    ancestors: Vec<Uuid>,
    /// Why it could not be loaded.
    trouble: Option<String>,
}

/// A map that has to be loaded, by a thread that may wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// The volume.
    pub volume: Uuid,
    /// Its ancestors, oldest first, itself last.
    pub ancestors: Vec<Uuid>,
    /// The snapshot of its parent that it starts from.
    pub base: Option<Uuid>,
}

/// A volume that is followed, for `status`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Followed {
    pub volume: Uuid,
    pub epoch: u64,
    /// An owner feeds it.
    pub fed: bool,
    /// The last batch that it has; `None`: it has no map yet.
    pub sequence: Option<u64>,
    pub mapped_clusters: u64,
    pub memory_bytes: usize,
    pub trouble: Option<String>,
}

/// See the top of the file.
pub struct Server {
    cluster: Uuid,
    connections: HashMap<u32, Connection>,
    /// That there are too many has been said.
    told_full: bool,
    /// Those that have not said yet what they feed.
    lobby: Lobby,
    next: u32,
    volumes: BTreeMap<Uuid, Volume>,
    /// Maps that were given away are loaded for nobody any more.
    loads: Vec<Load>,
    log: Vec<String>,
    actions: Vec<Action>,
}

impl Server {
    /// A node of this cluster that follows nothing.
    pub fn new(cluster: Uuid) -> Self {
        Self {
            cluster,
            connections: HashMap::new(),
            told_full: false,
            lobby: Lobby::default(),
            next: 1,
            volumes: BTreeMap::new(),
            loads: Vec::new(),
            log: Vec::new(),
            actions: Vec::new(),
        }
    }

    /// Maps to be loaded; each is answered with [`Server::loaded`].
    pub fn take_loads(&mut self) -> Vec<Load> {
        std::mem::take(&mut self.loads)
    }

    /// What an operator may want to read.
    pub fn take_log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }

    /// What is followed here.
    pub fn status(&self) -> Vec<Followed> {
        let one = |(id, volume): (&Uuid, &Volume)| {
            let follower = &volume.follower;
            let map = follower.warm().map(|warm| &warm.content.map);
            Followed {
                volume: *id,
                epoch: follower.fence(),
                fed: follower.feeder().is_some() && follower.warm().is_some(),
                sequence: follower.end().map(|end| end.sequence),
                mapped_clusters: map.map_or(0, |map| map.mapped()),
                memory_bytes: map.map_or(0, |map| map.memory()),
                trouble: volume.trouble.clone(),
            }
        };
        self.volumes.iter().map(one).collect()
    }

    /// Gives a volume's map away, and follows it no more.
    pub fn give(&mut self, volume: &Uuid, ring: &mut Ring) -> Option<Warm> {
        let found = self.volumes.remove(volume)?;
        self.shut_all_of(volume, ring);
        found.follower.into_warm()
    }

    /// Forgets what is not among these: nobody wants this node to follow it any more.
    pub fn retain(&mut self, wanted: &[Uuid], ring: &mut Ring) {
        let gone: Vec<Uuid> =
            self.volumes.keys().filter(|volume| !wanted.contains(volume)).copied().collect();
        for volume in gone {
            self.give(&volume, ring);
        }
    }

    fn shut_all_of(&mut self, volume: &Uuid, ring: &mut Ring) {
        let of = |connection: &Connection| connection.source.is_some_and(|s| s.volume == *volume);
        let numbers: Vec<u32> =
            self.connections.iter().filter(|(_, c)| of(c)).map(|(number, _)| *number).collect();
        numbers.into_iter().for_each(|number| self.shut(number, ring));
    }

    /// Takes a connection that somebody else accepted, with what was received on it so far.
    pub fn adopt(&mut self, fd: Fd, received: &[u8], ring: &mut Ring) {
        if self.connections.len() >= CONNECTIONS_MAX {
            if !std::mem::replace(&mut self.told_full, true) {
                let text = "turned away: so many maps are fed to this node already, no more than";
                self.log.push(format!("{}: {text} {CONNECTIONS_MAX}", net::peer_name(&fd)));
            }
            return;
        }
        self.told_full &= self.connections.len() > CONNECTIONS_MAX / 2;
        // The mapping costs nothing until it is written to.
        let arena = Arena::anonymous(ROOM).ok().and_then(|arena| arena.slice(0, ROOM));
        let Some(room) = arena.filter(|_| received.len() <= ROOM) else { return };
        room.write(0, received);
        let peer = net::peer_name(&fd);
        let (from, to, receiving, closed) = (0, received.len(), false, false);
        let (source, outbox) = (None, Outbox::default());
        let new = Connection { fd, peer, room, from, to, receiving, source, outbox, closed };
        let number = self.next;
        self.next = self.next.wrapping_add(1).max(1);
        self.connections.insert(number, new);
        let now = monotonic_ns();
        if let Some(oldest) = self.lobby.enter(number, now) {
            if self.lobby.is_news()
                && let Some(connection) = self.connections.get(&oldest)
            {
                self.log.push(self.lobby.text_of_full(&connection.peer));
            }
            self.shut(oldest, ring);
        }
        self.lobby.watch(now, LATE, ring);
        self.take_frames(number, ring);
    }

    /// The time of some who have not said what they feed is over.
    fn close_late(&mut self, ring: &mut Ring) {
        let now = monotonic_ns();
        let late = self.lobby.late(now);
        if let Some(first) = late.first().and_then(|number| self.connections.get(number)) {
            self.log.push(self.lobby.text_of_late(late.len(), &first.peer));
        }
        late.into_iter().for_each(|number| self.shut(number, ring));
        self.lobby.watch(now, LATE, ring);
    }

    /// An operation on the ring has completed.
    pub fn on_event(&mut self, event: Event, ring: &mut Ring) {
        let number = event.token as u32;
        if event.token & KIND == LATE {
            return self.close_late(ring);
        }
        if event.token & KIND == RECV {
            self.received(number, event.result, ring);
            return;
        }
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let token = SEND | u64::from(number);
        if !connection.outbox.sent(event.result, &connection.fd, token, ring) {
            self.shut(number, ring);
        }
    }

    fn received(&mut self, number: u32, result: i32, ring: &mut Ring) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        connection.receiving = false;
        match usize::try_from(result) {
            Ok(bytes) if bytes > 0 && !connection.closed => connection.to += bytes,
            _ => {
                self.gone(number, ring);
                return;
            }
        }
        self.take_frames(number, ring);
    }

    fn gone(&mut self, number: u32, ring: &mut Ring) {
        self.lobby.leave(number);
        let Some(connection) = self.connections.remove(&number) else { return };
        ring.shutdown(&connection.fd);
        if let Some(source) = connection.source {
            self.tell(source.volume, Message::Gone { connection: number }, ring);
        }
    }

    /// Takes no more from a connection; it is forgotten when its last receive has completed.
    fn shut(&mut self, number: u32, ring: &mut Ring) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        connection.closed = true;
        ring.shutdown(&connection.fd);
        if !connection.receiving {
            self.gone(number, ring);
        }
    }

    fn take_frames(&mut self, number: u32, ring: &mut Ring) {
        while let Some((frame, payload)) = self.next_frame(number, ring) {
            self.take(number, frame, &payload, ring);
        }
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if connection.closed {
            if !connection.receiving {
                self.gone(number, ring);
            }
            return;
        }
        let left = connection.to - connection.from;
        connection.room.sub(connection.from, left).copy_to(&connection.room.sub(0, left));
        (connection.from, connection.to, connection.receiving) = (0, left, true);
        let into = connection.room.sub(left, ROOM - left);
        ring.recv(&connection.fd, into, RECV | u64::from(number));
    }

    /// One whole frame with its payload; `None`: there is none.
    fn next_frame(&mut self, number: u32, ring: &mut Ring) -> Option<(Frame, Vec<u8>)> {
        let connection = self.connections.get_mut(&number)?;
        if connection.closed || connection.to - connection.from < FRAME {
            return None;
        }
        let mut bytes = [0; FRAME];
        connection.room.read(connection.from, &mut bytes);
        let (frame, payload): (Frame, Payload) = match Frame::decode(&bytes) {
            Ok(found) => found,
            Err(why) => {
                return self.refuse(number, &format!("a frame makes no sense: {why}"), ring);
            }
        };
        if connection.source.is_none() && !matches!(frame, Frame::Hello(_)) {
            // Before its payload has filled the room.
            return self.refuse(number, "something came before its hello", ring);
        }
        let end = connection.from + FRAME + payload.len;
        if end > connection.to {
            return None;
        }
        let bytes = connection.room.sub(connection.from + FRAME, payload.len).to_vec();
        connection.from = end;
        match payload.check(&bytes) {
            Ok(()) => Some((frame, bytes)),
            Err(why) => self.refuse(number, &format!("a payload: {why}"), ring),
        }
    }

    fn refuse<T>(&mut self, number: u32, why: &str, ring: &mut Ring) -> Option<T> {
        if let Some(connection) = self.connections.get(&number) {
            self.log.push(format!("{}: {why}", connection.peer));
        }
        self.shut(number, ring);
        None
    }

    fn take(&mut self, number: u32, frame: Frame, payload: &[u8], ring: &mut Ring) {
        let source = self.connections.get(&number).and_then(|c| c.source);
        let fed = match (frame, source) {
            (Frame::Hello(hello), None) => return self.greet(number, hello, payload, ring),
            (Frame::Reload, Some(source)) => {
                return self.tell(source.volume, Message::Reload { connection: number }, ring);
            }
            (Frame::Forget, Some(source)) => {
                self.give(&source.volume, ring);
                return;
            }
            (Frame::Sco { sco, before, last, .. }, Some(source)) => {
                pieces::sco(sco, before, last, payload).map(|piece| (source, vec![piece]))
            }
            (Frame::Batches, Some(source)) => {
                pieces::batches(source, payload).map(|pieces| (source, pieces))
            }
            _ => Err("a frame that no owner sends here".to_owned()),
        };
        match fed {
            Ok((source, pieces)) => {
                let fed = |piece| Message::Fed { connection: number, piece };
                self.tell_all(source.volume, pieces.into_iter().map(fed), ring);
            }
            Err(why) => {
                let _: Option<()> = self.refuse(number, &why, ring);
            }
        }
    }

    fn greet(&mut self, number: u32, hello: Hello, payload: &[u8], ring: &mut Ring) {
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
        let (base, ancestors) = match decode_origin(payload, &hello.volume) {
            Ok(origin) => origin,
            Err(why) => {
                let _: Option<()> = self.refuse(number, &format!("a hello: {why}"), ring);
                return;
            }
        };
        self.lobby.leave(number);
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.source = Some(Source { volume: hello.volume, epoch: hello.epoch });
        }
        let own_log = (ancestors.len() - 1) as u16;
        self.volumes.entry(hello.volume).or_insert_with(|| Volume {
            follower: Follower::new(own_log),
            base,
            ancestors,
            trouble: None,
        });
        self.tell(hello.volume, Message::Hello { connection: number, epoch: hello.epoch }, ring);
    }

    /// A map was loaded, or not.
    pub fn loaded(&mut self, volume: Uuid, result: Result<Option<Warm>, String>, ring: &mut Ring) {
        let Some(found) = self.volumes.get_mut(&volume) else { return };
        let (warm, trouble) = match result {
            Ok(Some(warm)) => (Some(warm), None),
            Ok(None) => (None, Some("neither it nor its parent has a checkpoint yet".to_owned())),
            Err(why) => (None, Some(why)),
        };
        found.trouble = trouble;
        self.tell(volume, Message::Loaded(warm), ring);
    }

    fn tell(&mut self, volume: Uuid, message: Message, ring: &mut Ring) {
        self.tell_all(volume, [message], ring);
    }

    /// Gives a machine messages and does what follows; of what it acknowledges, the last.
    fn tell_all(
        &mut self,
        volume: Uuid,
        messages: impl IntoIterator<Item = Message>,
        ring: &mut Ring,
    ) {
        let Some(found) = self.volumes.get_mut(&volume) else { return };
        let mut actions = std::mem::take(&mut self.actions);
        for message in messages {
            found.follower.step(message, &mut actions);
        }
        let mut last = None;
        for action in actions.drain(..) {
            match action {
                Action::Acknowledge { connection, sequence } => last = Some((connection, sequence)),
                Action::Load => {
                    let Some(found) = self.volumes.get(&volume) else { continue };
                    let (ancestors, base) = (found.ancestors.clone(), found.base);
                    self.loads.push(Load { volume, ancestors, base });
                }
                Action::Stand { connection, place } => {
                    let end = End { sequence: place.mark.sequence, crc: place.mark.crc };
                    self.send(connection, Frame::Standing { sco: place.sco, end }, ring);
                }
                Action::Unable { connection } => self.send(connection, Frame::Unable, ring),
                Action::Refuse { connection, fence } => {
                    self.send(connection, Frame::Refused { fence }, ring);
                    self.shut(connection, ring);
                }
                Action::Close { connection } => self.shut(connection, ring),
            }
        }
        self.actions = actions;
        if let Some((connection, sequence)) = last {
            self.send(connection, Frame::Acknowledged { sequence }, ring);
        }
    }

    fn send(&mut self, number: u32, frame: Frame, ring: &mut Ring) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if connection.closed {
            return;
        }
        let bytes = frame.encode(&[]);
        let token = SEND | u64::from(number);
        if connection.outbox.send(&connection.fd, &[&bytes], &[], token, ring).is_err() {
            self.shut(number, ring);
        }
    }
}
