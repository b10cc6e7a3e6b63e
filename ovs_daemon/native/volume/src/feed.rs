//! The nodes that follow a volume's map: performs what `machines::mds::feed` decides.
//!
//! Headers of released batches are collected and sent to all of them in one frame, a few times a
//! second at most; nothing of the data path waits for that, and a follower that does not take them
//! is let go of. One that begins gets what the write buffer's indexes say about the SCOs that it
//! lacks.

use std::net::SocketAddr;

use dtl::CallError;
use format::entry::Uuid;
use format::mds::{End, Frame, encode_origin, encode_sco, put_headers};
use machines::mds::Place;
use machines::mds::feed::{Action, Feed, Known, Message, State};
use mds::{Caller, Wire, WireEvent};
use media::{Fd, Ring};

use crate::jobs::{Unreached, Work};
use crate::shell::{Outputs, Volume};

pub(crate) const TOKEN_FEED_RECEIVE: u64 = 1 << 50;
pub(crate) const TOKEN_FEED_SEND: u64 = 1 << 51;

/// How long released batches are collected.
const COLLECT_NS: u64 = 50_000_000;
/// Bytes of headers that are not collected any longer.
const COLLECT_BYTES: usize = 64 << 10;
/// Between two attempts to reach a follower, at first; twice as long after each, so often.
const DIAL_NS: u64 = 200_000_000;
const DIAL_DOUBLINGS: u32 = 5;
/// Between two questions to a follower that had nothing to begin from, without a checkpoint.
const UNABLE_NS: u64 = 10_000_000_000;

/// A node that is to follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FollowerAt {
    /// Its name.
    pub node: String,
    /// Where it listens.
    pub address: SocketAddr,
}

/// Who is to follow a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Following {
    /// The cluster.
    pub cluster: Uuid,
    /// The snapshot of its parent that the volume was cloned from.
    pub base: Option<Uuid>,
    /// The nodes.
    pub followers: Vec<FollowerAt>,
}

/// For `status`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct FeedStatus {
    pub node: String,
    pub address: SocketAddr,
    pub state: State,
    /// Released batches that it has not acknowledged.
    pub lag_batches: u64,
    /// Bytes of headers on their way to it.
    pub lag_bytes: u64,
    /// Since when it is not fed, in nanoseconds of the shard's clock.
    pub apart_since: Option<u64>,
    pub trouble: Option<String>,
}

struct Follower {
    at: FollowerAt,
    feed: Feed,
    wire: Option<Wire>,
    /// Number of its connection; of the one that a worker makes, while there is none.
    connection: u32,
    dialing: bool,
    dial_not_before: u64,
    attempts: u32,
    /// It is to be caught up as soon as no batch is between the log and its release.
    catch_up_after: Option<u32>,
    apart_since: Option<u64>,
    trouble: Option<String>,
}

/// See the top of the file.
pub(crate) struct Feeds {
    cluster: Uuid,
    origin: Vec<u8>,
    followers: Vec<Follower>,
    next_connection: u32,
    /// Headers of released batches that wait to be sent.
    pending: Vec<u8>,
    send_at: Option<u64>,
    /// The last released batch.
    released: u64,
    heard: Vec<WireEvent>,
    actions: Vec<Action>,
}

impl Feeds {
    /// When the next turn has to come.
    pub(crate) fn wakes_at(&self) -> Option<u64> {
        let dials = self.followers.iter().filter(|f| f.wants_dial()).map(|f| f.dial_not_before);
        dials.chain(self.send_at).min()
    }
}

impl Follower {
    fn wants_dial(&self) -> bool {
        let apart = self.wire.is_none() && !self.dialing;
        apart || self.feed.state() == State::Unable
    }

    fn is_fed(&self) -> bool {
        self.feed.state() == State::Fed && self.catch_up_after.is_none()
    }

    fn hang_up(&mut self, ring: &mut Ring) {
        if let Some(wire) = self.wire.take() {
            wire.close(ring);
        }
        self.catch_up_after = None;
    }
}

/// A worker's part of connecting.
pub(crate) fn connect(caller: &Caller) -> Result<Fd, Unreached> {
    mds::hello(caller).map_err(|error| {
        let why = format!("the follower at {}: {error}", caller.address);
        match error {
            CallError::Unreachable(_) => Unreached::Away(why),
            _ => Unreached::Failed(why),
        }
    })
}

impl Volume {
    /// Says who is to follow the map. Those that do already go on.
    pub fn follow(&mut self, following: Following, ring: &mut Ring) {
        let logs: Vec<Uuid> = self.ancestors.iter().map(|(uuid, _)| *uuid).collect();
        let released = self.machine.sequence();
        let feeds = self.feeds.get_or_insert_with(|| {
            Box::new(Feeds {
                cluster: following.cluster,
                origin: encode_origin(following.base.as_ref(), &logs),
                followers: Vec::new(),
                next_connection: 0,
                pending: Vec::new(),
                send_at: None,
                released,
                heard: Vec::new(),
                actions: Vec::new(),
            })
        });
        let before = std::mem::take(&mut feeds.followers);
        let wanted = &following.followers;
        let (kept, gone): (Vec<_>, Vec<_>) =
            before.into_iter().partition(|follower| wanted.contains(&follower.at));
        for mut follower in gone {
            if let Some(wire) = &mut follower.wire {
                // Without it, the node forgets when it looks at the registry.
                let _ = wire.send(Frame::Forget, &[], ring);
            }
            follower.hang_up(ring);
        }
        feeds.followers = kept;
        for at in following.followers {
            if feeds.followers.iter().all(|follower| follower.at != at) {
                feeds.followers.push(Follower {
                    at,
                    feed: Feed::default(),
                    wire: None,
                    connection: 0,
                    dialing: false,
                    dial_not_before: 0,
                    attempts: 0,
                    catch_up_after: None,
                    apart_since: None,
                    trouble: None,
                });
            }
        }
    }

    /// Lets go of all followers, before the volume is closed. They keep what they have for the
    /// next owner.
    pub fn leave_followers(&mut self, ring: &mut Ring) {
        let Some(mut feeds) = self.feeds.take() else { return };
        self.send_pending(&mut feeds, ring);
        feeds.followers.iter_mut().for_each(|follower| follower.hang_up(ring));
    }

    /// The batch that was appended last may be known by everybody: called before the machine
    /// hears of it, so that the log's header is still that batch's, and its end is released.
    pub(crate) fn note_released(&mut self, ring: &mut Ring) {
        let Some(mut feeds) = self.feeds.take() else { return };
        feeds.released = self.log.tail().sequence;
        if feeds.followers.iter().any(Follower::is_fed) {
            let whole = put_headers(self.log.header(), &mut feeds.pending);
            debug_assert!(whole, "the log forms headers as the format has them");
        }
        self.catch_up(&mut feeds, ring);
        self.feeds = Some(feeds);
    }

    /// What time brings; once a turn.
    pub(crate) fn feed_turn(&mut self, now: u64, ring: &mut Ring, out: &mut Outputs) {
        let Some(mut feeds) = self.feeds.take() else { return };
        if !feeds.pending.is_empty() {
            let at = *feeds.send_at.get_or_insert(now + COLLECT_NS);
            if at <= now || feeds.pending.len() >= COLLECT_BYTES {
                self.send_pending(&mut feeds, ring);
            }
        }
        // What is in the log and not released is nobody's business yet.
        if self.log.tail().sequence == feeds.released {
            self.catch_up(&mut feeds, ring);
        }
        for index in 0..feeds.followers.len() {
            let follower = &mut feeds.followers[index];
            follower.apart_since = match follower.feed.state() {
                State::Fed => None,
                State::Away | State::Asked | State::Unable => {
                    Some(follower.apart_since.unwrap_or(now))
                }
            };
            if follower.wants_dial() && follower.dial_not_before <= now {
                self.dial(&mut feeds, index, now, ring, out);
            }
        }
        self.feeds = Some(feeds);
    }

    fn dial(&self, feeds: &mut Feeds, index: usize, now: u64, ring: &mut Ring, out: &mut Outputs) {
        let (volume, _) = self.own();
        feeds.next_connection += 1;
        let connection = feeds.next_connection;
        let (cluster, epoch, origin) = (feeds.cluster, self.epoch, feeds.origin.clone());
        let follower = &mut feeds.followers[index];
        follower.hang_up(ring);
        follower.feed.step(Message::Lost, &mut feeds.actions);
        (follower.connection, follower.dialing) = (connection, true);
        follower.dial_not_before = now + (DIAL_NS << follower.attempts);
        follower.attempts = (follower.attempts + 1).min(DIAL_DOUBLINGS);
        let caller = Caller { address: follower.at.address, cluster, volume, epoch, origin };
        self.job(Work::Follow { connection, caller }, out);
    }

    /// A worker has reached a follower, or not.
    pub(crate) fn follower_reached(
        &mut self,
        connection: u32,
        result: Result<Fd, Unreached>,
        ring: &mut Ring,
    ) {
        let tokens = [TOKEN_FEED_RECEIVE, TOKEN_FEED_SEND].map(|kind| self.token(kind, connection));
        let Some(feeds) = &mut self.feeds else { return };
        let actions = &mut feeds.actions;
        let follower = feeds.followers.iter_mut().find(|f| f.connection == connection);
        let Some(follower) = follower else { return };
        follower.dialing = false;
        let wire = result.map_err(|error| error.to_string()).and_then(|fd| {
            Wire::new(fd, tokens[0], tokens[1], ring).map_err(|error| error.to_string())
        });
        match wire {
            Ok(wire) => {
                (follower.wire, follower.trouble) = (Some(wire), None);
                follower.feed.step(Message::Connected, actions);
            }
            Err(why) => follower.trouble = Some(why),
        }
    }

    /// A receive or send of a follower's connection has completed.
    pub(crate) fn feed_event(&mut self, token: u64, result: i32, ring: &mut Ring) {
        let Some(mut feeds) = self.feeds.take() else { return };
        let connection = token as u32;
        let index = feeds.followers.iter().position(|f| f.connection == connection);
        if let Some(index) = index
            && let Some(wire) = &mut feeds.followers[index].wire
        {
            let mut heard = std::mem::take(&mut feeds.heard);
            let alive = if token & TOKEN_FEED_SEND != 0 {
                wire.sent(result, ring)
            } else {
                wire.received(result, ring, &mut heard)
            };
            for event in heard.drain(..) {
                self.heard(&mut feeds, index, event, ring);
            }
            feeds.heard = heard;
            if !alive {
                self.part(&mut feeds, index, None, ring);
            }
        }
        self.feeds = Some(feeds);
    }

    fn heard(&self, feeds: &mut Feeds, index: usize, event: WireEvent, ring: &mut Ring) {
        let message = match event {
            WireEvent::Standing(place) => Message::Standing { place, known: self.known(&place) },
            WireEvent::Acknowledged(sequence) => Message::Acknowledged { sequence },
            WireEvent::Unable => {
                let follower = &mut feeds.followers[index];
                follower.trouble = Some("it found nothing to begin from".to_owned());
                follower.dial_not_before = follower.dial_not_before.saturating_add(UNABLE_NS);
                Message::Unable
            }
            WireEvent::Refused => {
                return self.part(feeds, index, Some("it knows a newer owner".to_owned()), ring);
            }
            WireEvent::Rejected(why) => {
                return self.part(feeds, index, Some(format!("it does not follow: {why:?}")), ring);
            }
        };
        self.feed_step(feeds, index, message, &[], ring);
    }

    /// What the log says about a place.
    fn known(&self, place: &Place) -> Known {
        let next = self.log.first_from(place.sco.saturating_add(1));
        let before = match next.and_then(|sco| self.log.get(sco)) {
            Some(file) => file.index.previous_sequence,
            None => self.log.tail().sequence,
        };
        let crc = self.last_crcs.get(&place.sco).copied();
        Known { crc, continues: before == place.mark.sequence }
    }

    /// Gives a feed a message and does what follows; `frame`: what a `Send` sends.
    fn feed_step(
        &self,
        feeds: &mut Feeds,
        index: usize,
        message: Message,
        frame: &[u8],
        ring: &mut Ring,
    ) {
        let mut actions = std::mem::take(&mut feeds.actions);
        feeds.followers[index].feed.step(message, &mut actions);
        for action in actions.drain(..) {
            let follower = &mut feeds.followers[index];
            let sent = match (action, &mut follower.wire) {
                (Action::LetGo, _) => Err("it does not keep up".to_owned()),
                (Action::CatchUp { after }, _) => {
                    (follower.catch_up_after, follower.trouble) = (Some(after), None);
                    follower.attempts = 0;
                    Ok(())
                }
                (Action::Reload, Some(wire)) => {
                    wire.send(Frame::Reload, &[], ring).map_err(|e| e.to_string())
                }
                (Action::Send, Some(wire)) => {
                    wire.send(Frame::Batches, frame, ring).map_err(|e| e.to_string())
                }
                (Action::Reload | Action::Send, None) => Ok(()),
            };
            if let Err(why) = sent {
                self.part(feeds, index, Some(why), ring);
            }
        }
        feeds.actions = actions;
    }

    fn part(&self, feeds: &mut Feeds, index: usize, why: Option<String>, ring: &mut Ring) {
        let follower = &mut feeds.followers[index];
        follower.hang_up(ring);
        follower.trouble = why.or(follower.trouble.take());
        let mut nothing = Vec::new();
        follower.feed.step(Message::Lost, &mut nothing);
    }

    fn send_pending(&self, feeds: &mut Feeds, ring: &mut Ring) {
        let pending = std::mem::take(&mut feeds.pending);
        feeds.send_at = None;
        let (sequence, bytes) = (feeds.released, pending.len() as u32);
        if pending.is_empty() {
            return;
        }
        for index in 0..feeds.followers.len() {
            if feeds.followers[index].is_fed() {
                let message = Message::Released { sequence, bytes };
                self.feed_step(feeds, index, message, &pending, ring);
            }
        }
        feeds.pending = pending;
        feeds.pending.clear();
    }

    /// Sends those that begin what they lack.
    fn catch_up(&self, feeds: &mut Feeds, ring: &mut Ring) {
        if feeds.followers.iter().all(|follower| follower.catch_up_after.is_none()) {
            return;
        }
        self.send_pending(feeds, ring);
        for index in 0..feeds.followers.len() {
            let Some(after) = feeds.followers[index].catch_up_after.take() else { continue };
            if let Err(why) = self.send_scos(&mut feeds.followers[index], after, ring) {
                self.part(feeds, index, Some(why), ring);
            }
        }
    }

    fn send_scos(
        &self,
        follower: &mut Follower,
        after: u32,
        ring: &mut Ring,
    ) -> Result<(), String> {
        let Some(wire) = &mut follower.wire else { return Ok(()) };
        let mut crc =
            self.last_crcs.get(&after).copied().ok_or("its place is not known any more")?;
        let mut next = self.log.first_from(after.saturating_add(1));
        while let Some(sco) = next {
            let Some(file) = self.log.get(sco) else { break };
            let index = &file.index;
            let before = End { sequence: index.previous_sequence, crc };
            let last = End { sequence: index.last_sequence, crc: index.last_crc };
            let frame = Frame::Sco { sco, epoch: self.epoch, before, last };
            wire.send(frame, &encode_sco(&index.entries), ring).map_err(|e| e.to_string())?;
            crc = index.last_crc;
            next = self.log.first_from(sco.saturating_add(1));
        }
        Ok(())
    }

    /// A checkpoint was stored: those that had nothing to begin from may have now.
    pub(crate) fn feed_checkpointed(&mut self, ring: &mut Ring) {
        let Some(mut feeds) = self.feeds.take() else { return };
        for index in 0..feeds.followers.len() {
            self.feed_step(&mut feeds, index, Message::Checkpointed, &[], ring);
        }
        self.feeds = Some(feeds);
    }

    /// For `status`.
    pub fn feed_status(&self) -> Vec<FeedStatus> {
        let Some(feeds) = &self.feeds else { return Vec::new() };
        let one = |follower: &Follower| FeedStatus {
            node: follower.at.node.clone(),
            address: follower.at.address,
            state: follower.feed.state(),
            lag_batches: feeds.released.saturating_sub(follower.feed.acknowledged()),
            lag_bytes: follower.feed.unanswered().0,
            apart_since: follower.apart_since,
            trouble: follower.trouble.clone(),
        };
        feeds.followers.iter().map(one).collect()
    }
}
