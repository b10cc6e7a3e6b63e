//! What each move does: the shell's part, as `volume::feed`, `mds::Server` and `volume::open` do it.

use machines::mds::feed::{self, Feed, Limits};
use machines::mds::follower::{self, Follower};
use machines::mds::{Mutant, Place, fits};

use super::parts::{Batch, Frame, Owner, Pipe, content_of, end_of, ends_of};
use super::{FED, FENCE, Fault, MdsWorld, Move, TAKEN, Taken};
use crate::explore::Violation;

#[cfg(feature = "mutants")]
fn plant_feed(feed: &mut Feed, mutant: Mutant) {
    feed.plant(mutant);
}

#[cfg(feature = "mutants")]
fn plant_follower(follower: &mut Follower, mutant: Mutant) {
    follower.plant(mutant);
}

#[cfg(not(feature = "mutants"))]
fn plant_feed(_: &mut Feed, mutant: Mutant) {
    panic!("built without the feature `mutants`, {mutant:?} cannot be planted");
}

#[cfg(not(feature = "mutants"))]
fn plant_follower(_: &mut Follower, mutant: Mutant) {
    panic!("built without the feature `mutants`, {mutant:?} cannot be planted");
}

impl MdsWorld {
    pub(super) fn happen(&mut self, step: Move) -> Result<(), Violation> {
        match step {
            Move::Append(number) => {
                self.left.writes -= 1;
                self.owners[number].append();
            }
            Move::Release(number) => return self.release(number),
            Move::Upload => {
                self.left.uploads -= 1;
                let batches = self.uploadable().unwrap_or_default();
                self.backend.batches.extend(batches);
            }
            Move::Checkpoint => {
                self.left.checkpoints -= 1;
                self.backend.covered = self.backend.batches.len();
                let number = self.owners.len() - 1;
                return self.feed(number, feed::Message::Checkpointed, None);
            }
            Move::Evict => {
                self.left.evictions -= 1;
                if let (Some(sco), Some(owner)) = (self.evictable(), self.owners.last_mut()) {
                    owner.kept_from = sco + 1;
                }
            }
            Move::Dial(number) => return self.dial(number),
            Move::Up(at) => return self.up(at),
            Move::Down(at) => return self.down(at),
            Move::HangUp(at) => {
                self.left.cuts -= 1;
                return self.hang_up(at);
            }
            Move::FollowerHangsUp(at) => {
                self.left.cuts -= 1;
                self.shut(self.pipes[at].number);
            }
            Move::Omit(at) => {
                self.left.omissions -= 1;
                self.pipes[at].up.remove(0);
            }
            Move::Load => {
                self.loading = false;
                let found = self.backend.load();
                self.tell(follower::Message::Loaded(Some(found)));
            }
            Move::Crash => {
                self.left.crashes -= 1;
                (self.follower, self.loading, self.greeted) = (None, false, 0);
                for pipe in &mut self.pipes {
                    (pipe.follower_open, pipe.up) = (false, Vec::new());
                }
                self.pipes.retain(|pipe| pipe.owner_open);
            }
            Move::Start => self.start(),
            Move::Begin(length) => {
                self.left.owners -= 1;
                self.begin(self.newest().log[..length].to_vec());
            }
            Move::Take(length) => return self.take(length),
        }
        Ok(())
    }

    pub(super) fn start(&mut self) {
        let mut follower = Follower::new(0);
        if let Some(mutant) = self.planted() {
            plant_follower(&mut follower, mutant);
        }
        self.follower = Some(follower);
    }

    pub(super) fn begin(&mut self, log: Vec<Batch>) {
        let limits = Limits { bytes: u64::MAX, frames: self.bounds.0.frames };
        let mut feed = Feed::with(limits);
        if let Some(mutant) = self.planted() {
            plant_feed(&mut feed, mutant);
        }
        // What was given up may have had the same numbers.
        let own_from = end_of(&log).sco + 1;
        self.owners.push(Owner {
            epoch: self.owners.len() as u64 + 1,
            released: log.len(),
            kept_from: end_of(&self.backend.batches).sco + 1,
            own_from,
            log,
            feed,
            connection: None,
            catch_up_after: None,
        });
    }

    /// The next SCO of the newest owner that is closed, released and not on the backend.
    pub(super) fn uploadable(&self) -> Option<Vec<Batch>> {
        let owner = self.newest();
        let saved = self.backend.batches.len();
        let released = owner.log.get(saved..owner.released)?;
        let sco: Vec<Batch> =
            released.chunk_by(|a, b| a.sco == b.sco).next().map(<[Batch]>::to_vec)?;
        let closed = owner.log.len() > saved + sco.len()
            || sco.last()?.entries.contains(&format::entry::Entry::Closed)
            || sco.last()?.sco < owner.own_from;
        closed.then_some(sco)
    }

    /// The oldest SCO of the newest owner's buffer, when the backend has it.
    pub(super) fn evictable(&self) -> Option<u32> {
        let owner = self.newest();
        let first = owner.log.iter().find(|batch| batch.sco >= owner.kept_from)?.sco;
        (first <= end_of(&self.backend.batches).sco).then_some(first)
    }

    fn dial(&mut self, number: usize) -> Result<(), Violation> {
        self.left.dials -= 1;
        let (pipe, epoch) = (self.next_pipe, self.owners[number].epoch);
        self.next_pipe += 1;
        self.pipes.push(Pipe {
            number: pipe,
            owner: number,
            epoch,
            up: vec![Frame::Hello(epoch)],
            down: Vec::new(),
            owner_open: true,
            follower_open: true,
        });
        self.owners[number].connection = Some(pipe);
        self.feed(number, feed::Message::Connected, None)
    }

    fn release(&mut self, number: usize) -> Result<(), Violation> {
        let owner = &mut self.owners[number];
        owner.released = owner.log.len();
        let piece = owner.piece(owner.released - 1);
        if owner.catch_up_after.is_none() {
            let sequence = piece.last.sequence;
            let message = feed::Message::Released { sequence, bytes: 1 };
            self.feed(number, message, Some(Frame::Fed(piece)))?;
        }
        self.catch_up(number);
        Ok(())
    }

    fn catch_up(&mut self, number: usize) {
        let owner = &mut self.owners[number];
        if owner.released < owner.log.len() {
            return;
        }
        let Some(after) = owner.catch_up_after.take() else { return };
        let pieces = owner.pieces_after(after);
        self.send_up(number, pieces.into_iter().map(Frame::Fed));
    }

    fn send_up(&mut self, number: usize, frames: impl IntoIterator<Item = Frame>) {
        let connection = self.owners[number].connection;
        let mut pipes = self.pipes.iter_mut();
        if let Some(pipe) = pipes.find(|pipe| Some(pipe.number) == connection) {
            pipe.up.extend(frames);
        }
    }

    /// Gives a feed a message and does what follows.
    fn feed(
        &mut self,
        number: usize,
        message: feed::Message,
        frame: Option<Frame>,
    ) -> Result<(), Violation> {
        let mut actions = Vec::new();
        self.owners[number].feed.step(message, &mut actions);
        for action in actions {
            match action {
                feed::Action::Reload => {
                    self.reloaded = true;
                    self.send_up(number, [Frame::Reload]);
                }
                feed::Action::Send => self.send_up(number, frame.clone()),
                feed::Action::CatchUp { after } => {
                    if let feed::Message::Standing { place, .. } = message {
                        self.check_feeding(number, &place)?;
                    }
                    self.owners[number].catch_up_after = Some(after);
                    self.catch_up(number);
                }
                feed::Action::LetGo => {
                    self.let_go = true;
                    let connection = self.owners[number].connection;
                    let at = self.pipes.iter().position(|p| Some(p.number) == connection);
                    if let Some(at) = at {
                        self.hang_up(at)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn check_feeding(&self, number: usize, place: &Place) -> Result<(), Violation> {
        let owner = &self.owners[number];
        let mine = fits(place, ends_of(&owner.log));
        let missing = owner.log.iter().any(|b| b.sco > place.sco && b.sco < owner.kept_from);
        if mine && !missing {
            return Ok(());
        }
        let text = format!("owner {number} feeds from {place:?}, its log is {:?}", owner.log);
        Err(Violation::new(FED, text))
    }

    fn hang_up(&mut self, at: usize) -> Result<(), Violation> {
        let Pipe { owner, number, .. } = self.pipes[at];
        self.pipes[at].owner_open = false;
        self.pipes.retain(|pipe| pipe.owner_open || pipe.follower_open);
        if self.owners[owner].connection == Some(number) {
            (self.owners[owner].connection, self.owners[owner].catch_up_after) = (None, None);
        }
        self.feed(owner, feed::Message::Lost, None)
    }

    fn shut(&mut self, number: u32) {
        if let Some(pipe) = self.pipes.iter_mut().find(|pipe| pipe.number == number) {
            pipe.follower_open = false;
        }
        self.pipes.retain(|pipe| pipe.owner_open || pipe.follower_open);
        self.tell(follower::Message::Gone { connection: number });
    }

    /// Gives the follower a message and does what follows.
    fn tell(&mut self, message: follower::Message) {
        let Some(machine) = &mut self.follower else { return };
        let mut actions = Vec::new();
        machine.step(message, &mut actions);
        for action in actions {
            match action {
                follower::Action::Load => self.loading = true,
                follower::Action::Stand { connection, place } => {
                    self.send_down(connection, Frame::Standing(place));
                }
                follower::Action::Unable { connection } => {
                    self.send_down(connection, Frame::Unable);
                }
                follower::Action::Acknowledge { connection, sequence } => {
                    self.send_down(connection, Frame::Acknowledged(sequence));
                }
                follower::Action::Refuse { connection, .. } => {
                    self.send_down(connection, Frame::Refused);
                    self.shut(connection);
                }
                follower::Action::Close { connection } => self.shut(connection),
            }
        }
    }

    fn send_down(&mut self, number: u32, frame: Frame) {
        let pipe = self.pipes.iter_mut().find(|pipe| pipe.number == number);
        if let Some(pipe) = pipe.filter(|pipe| pipe.follower_open) {
            pipe.down.push(frame);
        }
    }

    fn up(&mut self, at: usize) -> Result<(), Violation> {
        let Pipe { number: connection, epoch, .. } = self.pipes[at];
        if self.pipes[at].up.is_empty() {
            self.shut(connection);
            return Ok(());
        }
        match self.pipes[at].up.remove(0) {
            Frame::Hello(epoch) => {
                self.greeted = self.greeted.max(epoch);
                self.tell(follower::Message::Hello { connection, epoch });
            }
            Frame::Reload => self.tell(follower::Message::Reload { connection }),
            Frame::Fed(piece) => {
                let before = self.follower.as_ref().and_then(Follower::end);
                let last = piece.last;
                self.tell(follower::Message::Fed { connection, piece });
                let after = self.follower.as_ref().and_then(Follower::end);
                if before != after && after == Some(last) && epoch < self.greeted {
                    let text = format!("epoch {epoch} feeds it, and it knows {}", self.greeted);
                    return Err(Violation::new(FENCE, text));
                }
            }
            Frame::Standing(_) | Frame::Unable | Frame::Refused | Frame::Acknowledged(_) => {}
        }
        Ok(())
    }

    fn down(&mut self, at: usize) -> Result<(), Violation> {
        let owner = self.pipes[at].owner;
        if self.pipes[at].down.is_empty() {
            return self.hang_up(at);
        }
        match self.pipes[at].down.remove(0) {
            Frame::Standing(place) => {
                let known = self.owners[owner].known(&place);
                self.feed(owner, feed::Message::Standing { place, known }, None)
            }
            Frame::Acknowledged(sequence) => {
                self.feed(owner, feed::Message::Acknowledged { sequence }, None)
            }
            Frame::Unable => self.feed(owner, feed::Message::Unable, None),
            Frame::Refused => self.hang_up(at),
            Frame::Hello(_) | Frame::Reload | Frame::Fed(_) => Ok(()),
        }
    }

    /// The follower's node opens the volume: as `volume::open` does.
    fn take(&mut self, length: usize) -> Result<(), Violation> {
        let log = self.newest().log[..length].to_vec();
        let Some(warm) = self.follower.take().and_then(Follower::into_warm) else {
            self.taken = Some(Taken::Cold);
            return Ok(());
        };
        let covered = end_of(&self.backend.batches[..self.backend.covered]).sco;
        let ends = ends_of(&log).into_iter().filter(|end| end.sco >= covered);
        let verified = fits(&warm.place, ends);
        if !verified && self.fault != Some(Fault::TakeUnverified) {
            self.taken = Some(Taken::Refused);
            return Ok(());
        }
        let mut content = warm.content;
        let rest: Vec<&Batch> = log.iter().filter(|batch| batch.sco > warm.place.sco).collect();
        for sco in rest.chunk_by(|a, b| a.sco == b.sco) {
            let entries: Vec<_> = sco.iter().flat_map(|batch| batch.entries.clone()).collect();
            content.replay(0, sco[0].sco, &entries).expect("a map takes small volumes");
        }
        let wanted = content_of(&log);
        if content != wanted {
            let text = format!("it serves {content:?}, and recovery finds {wanted:?}");
            return Err(Violation::new(TAKEN, text));
        }
        self.taken = Some(if rest.is_empty() { Taken::Warm } else { Taken::Completed });
        Ok(())
    }
}
