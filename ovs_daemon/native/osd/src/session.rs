//! A connection of the server: performs what `machines::osd::Session` decides.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use format::osd::wire::{
    Challenge, DATA_MAX, Frame, Hello, Kind, META_MAX, NONCE, Reason, Side, VERSION,
};
use machines::osd::{Action, Message, Session};
use media::{Fd, Pool, Ring};
use net::ClusterKey;

use alba::wire::{Received, Wire};

/// What follows a frame of who has not proved himself yet.
const GREETING_MAX: usize = 4096;

/// See the top of the file.
pub(crate) struct Connection {
    pub(crate) wire: Wire,
    pub(crate) peer: String,
    session: Session,
    hello: Option<Hello>,
    nonce: [u8; NONCE],
    /// What has come and is not begun: it owes too much already.
    pub(crate) waiting: VecDeque<Received>,
    /// Bytes of the answers that are being read for it, by tag.
    promised: HashMap<u64, usize>,
    promised_bytes: usize,
    /// That it reads slowly has been said.
    pub(crate) told_slow: bool,
    /// A poll for what comes is under way.
    pub(crate) polled: bool,
    /// A poll for room in the socket is under way.
    pub(crate) writing: bool,
    /// Nothing more is taken; it ends when what waits is sent.
    pub(crate) ends: bool,
}

/// Whose OSDs are served, and which.
pub(crate) struct House<'a> {
    pub(crate) key: &'a ClusterKey,
    /// Cluster and number of each OSD.
    pub(crate) osds: &'a [([u8; 16], [u8; 16])],
    /// That it is of, for those who have proved who they are.
    pub(crate) release: &'a str,
    pub(crate) random: fn() -> std::io::Result<[u8; NONCE]>,
}

impl Connection {
    pub(crate) fn new(fd: Fd, pool: &Arc<Pool>) -> std::io::Result<Self> {
        let peer = net::peer_name(&fd);
        let mut wire = Wire::new(fd, GREETING_MAX)?;
        wire.receive_into(pool.clone());
        Ok(Self {
            wire,
            peer,
            session: Session::default(),
            hello: None,
            nonce: [0; NONCE],
            waiting: VecDeque::new(),
            promised: HashMap::new(),
            promised_bytes: 0,
            told_slow: false,
            polled: false,
            writing: false,
            ends: false,
        })
    }

    /// Number of the OSD that it is with; `None`: the server, or nobody yet.
    pub(crate) fn osd(&self) -> Option<[u8; 16]> {
        self.hello.filter(|hello| !hello.is_for_server()).map(|hello| hello.osd)
    }

    /// Whether its peer has proved who it is.
    pub(crate) fn is_open(&self) -> bool {
        self.session.is_open()
    }

    /// Bytes of answers that it has not read, or will get.
    pub(crate) fn owes(&self) -> usize {
        self.wire.queued() + self.promised_bytes
    }

    /// An answer of so many bytes is being read for it.
    pub(crate) fn promise(&mut self, tag: u64, bytes: usize) {
        if bytes > 0 && self.promised.insert(tag, bytes).is_none() {
            self.promised_bytes += bytes;
        }
    }

    /// Takes a frame. True: the request is to be performed. An error is what its log should say.
    pub(crate) fn take(&mut self, received: &Received, house: &House) -> Result<bool, String> {
        let frame = received.frame;
        let message = match frame.kind {
            Kind::Hello => {
                let hello = Hello::decode(&received.meta).map_err(|e| e.to_string())?;
                self.hello = Some(hello);
                let (version, for_server) = (frame.code, hello.is_for_server());
                Message::Hello { version, for_server, wrong: wrong(&hello, house.osds) }
            }
            Kind::Proof => {
                let signed = self.hello.map(|hello| Side::Client.signed(&hello, &self.nonce));
                let genuine =
                    signed.is_some_and(|signed| house.key.is_genuine(&signed, &received.meta));
                Message::Proof { genuine }
            }
            kind if kind.is_request() => Message::Request { kind, tag: frame.tag },
            _ => Message::Other,
        };
        self.step(message, house)
    }

    /// A request was performed: its answer may be sent.
    pub(crate) fn performed(&mut self, tag: u64, house: &House) -> Result<bool, String> {
        self.promised_bytes -= self.promised.remove(&tag).unwrap_or(0);
        self.step(Message::Performed { tag }, house)
    }

    fn step(&mut self, message: Message, house: &House) -> Result<bool, String> {
        let mut actions = Vec::new();
        self.session.step(message, &mut actions);
        let mut go = false;
        for action in actions {
            match action {
                Action::Challenge => self.challenge(house)?,
                Action::Welcome => {
                    self.wire.allow(META_MAX + DATA_MAX);
                    let release = house.release.as_bytes();
                    let frame = Frame::new(Kind::Welcome, 0, release, 0);
                    self.wire.send(&Frame { code: VERSION, ..frame }, release, None);
                }
                Action::Refuse(reason) => {
                    let frame = Frame::new(Kind::Refused, 0, b"", 0);
                    self.wire.send(&Frame { code: reason as u16, ..frame }, b"", None);
                    self.ends = true;
                    if reason == Reason::Proof {
                        return Err("it does not have this cluster's key".to_owned());
                    }
                }
                Action::Perform { .. } | Action::Answer { .. } => go = true,
                Action::Close(why) => return Err(why.to_owned()),
            }
        }
        Ok(go)
    }

    fn challenge(&mut self, house: &House) -> Result<(), String> {
        let Some(hello) = self.hello else { return Ok(()) };
        self.nonce = (house.random)().map_err(|e| e.to_string())?;
        let proof = house.key.sign(&Side::Server.signed(&hello, &self.nonce));
        let meta = Challenge { nonce: self.nonce, proof }.encode();
        self.wire.send(&Frame::new(Kind::Challenge, 0, &meta, 0), &meta, None);
        Ok(())
    }

    /// Ends it.
    pub(crate) fn shut(&mut self, ring: &mut Ring) {
        self.ends = true;
        ring.shutdown(self.wire.fd());
    }
}

fn wrong(hello: &Hello, osds: &[([u8; 16], [u8; 16])]) -> Option<Reason> {
    let mut of_cluster = osds.iter().filter(|(cluster, _)| *cluster == hello.cluster).peekable();
    if of_cluster.peek().is_none() {
        return Some(Reason::Cluster);
    }
    let here = hello.is_for_server() || of_cluster.any(|(_, osd)| *osd == hello.osd);
    (!here).then_some(Reason::NoOsd)
}
