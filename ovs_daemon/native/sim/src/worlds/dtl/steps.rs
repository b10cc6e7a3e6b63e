//! What each move of the DTL's world does.

use machines::dtl::State;
use machines::dtl::keeper::{Action as KeeperAction, Message as KeeperMessage, Piece};
use machines::dtl::link::{Action, Message, Saved};

use super::parts::{Ask, Batch, Frame, Pipe, Reply, end_of, value_of};
use super::{ALONE, DtlWorld, KEPT, LOST, Move, ONE, SAVED, Shell};
use crate::explore::Violation;

impl DtlWorld {
    pub(super) fn happen(&mut self, step: Move) -> Result<(), Violation> {
        match step {
            Move::Write(node) => self.write(node),
            Move::Read(node) => self.read(node),
            Move::Flush(node) => {
                self.left.flushes -= 1;
                self.nodes[node].synced = self.nodes[node].log.len();
                self.oracle.flushed();
                Ok(())
            }
            Move::Upload(node) => self.upload(node),
            Move::Expire(node) => {
                if let Some(process) = &mut self.nodes[node].process {
                    process.leased = false;
                }
                self.tell(node, Message::LeaseExpired)
            }
            Move::Impatient(node) => {
                if let Some(process) = &mut self.nodes[node].process {
                    process.impatience = false;
                }
                self.tell(node, Message::Impatient)
            }
            Move::Dial(node) => self.dial(node),
            Move::Copy(node) => self.copy(node),
            Move::Swap(node) => self.swap(node),
            Move::LoseAnswer(node) => {
                self.left.lost_answers -= 1;
                if let Some(ask) = self.ask_of(node) {
                    ask.answer = None;
                }
                Ok(())
            }
            Move::Answer(node) => self.answer(node),
            Move::Crash(node) => {
                self.left.crashes -= 1;
                self.end_process(node);
                Ok(())
            }
            Move::Restart(node) => self.restart(node),
            Move::TakeOver(node) => self.take_over(node),
            Move::CrashKeeper => {
                self.left.keeper_crashes -= 1;
                self.end_keeper();
                Ok(())
            }
            Move::StartKeeper => {
                self.start_keeper();
                Ok(())
            }
            Move::FenceStored => self.fence_stored(),
            Move::Up(at) => self.up(at, false),
            Move::UpFull(at) => {
                self.left.full -= 1;
                self.up(at, true)
            }
            Move::Down(at) => self.down(at),
            Move::HangUp(at) => {
                self.left.cuts -= 1;
                self.hang_up(at)
            }
            Move::KeeperHangsUp(at) => {
                self.left.cuts -= 1;
                let connection = self.pipes[at].id;
                self.close_at_keeper(connection);
                self.hear(KeeperMessage::Gone { connection }, None, false)
            }
            Move::Blackout(from, to) => {
                self.blackout(from, to);
                Ok(())
            }
        }
    }

    fn write(&mut self, node: usize) -> Result<(), Violation> {
        self.left.writes -= 1;
        self.written += 1;
        let epoch = self.nodes[node].process.as_ref().map_or(0, |process| process.epoch);
        self.oracle.write(self.written, node, epoch);
        let log = &mut self.nodes[node].log;
        let batch = Batch { sequence: log.len() as u8 + 1, epoch, value: self.written };
        log.push(batch);
        self.tell(node, Message::Appended(batch.mark()))
    }

    fn read(&mut self, node: usize) -> Result<(), Violation> {
        self.left.reads -= 1;
        let value = self.nodes[node].process.as_ref().map_or(0, |process| process.visible);
        // With clocks that nobody trusts only the newest owner is asked.
        let newest = self.serving(node).is_some_and(|p| p.epoch == self.registry.epoch);
        if self.bounds.0.leases || newest {
            self.oracle.read(value);
        }
        Ok(())
    }

    fn upload(&mut self, node: usize) -> Result<(), Violation> {
        self.left.uploads -= 1;
        let at = self.backend.len();
        let batch = self.nodes[node].log[at];
        self.backend.push(batch);
        let sequence = batch.sequence.into();
        self.tell(node, Message::Saved(Saved { below: u32::from(batch.sequence) + 1, sequence }))
    }

    fn ask_of(&mut self, node: usize) -> Option<&mut Ask> {
        self.nodes[node].process.as_mut()?.ask.as_mut()
    }

    fn swap(&mut self, node: usize) -> Result<(), Violation> {
        let epoch = self.nodes[node].process.as_ref().map_or(0, |process| process.epoch);
        let any = self.shell(Shell::SwapAnyEpoch);
        let owns = any || (self.registry.owner == node && self.registry.epoch == epoch);
        let Some(ask) = self.ask_of(node) else { return Ok(()) };
        ask.answer = Some(owns);
        let to = ask.to;
        if owns {
            self.registry.state = to;
        }
        Ok(())
    }

    fn answer(&mut self, node: usize) -> Result<(), Violation> {
        let ask = self.nodes[node].process.as_mut().and_then(|process| process.ask.take());
        let accepted = ask.and_then(|ask| ask.answer).unwrap_or(false);
        self.tell(node, Message::Answered { accepted })
    }

    fn restart(&mut self, node: usize) -> Result<(), Violation> {
        self.left.restarts -= 1;
        self.registry.epoch += 1;
        self.open(node, self.registry.served == node);
        if self.registry.state == State::InSync {
            return self.call(node, 0);
        }
        self.serve(node)
    }

    fn take_over(&mut self, node: usize) -> Result<(), Violation> {
        self.left.takeovers -= 1;
        self.registry.epoch += 1;
        self.registry.owner = node;
        self.open(node, self.shell(Shell::PreferLocal));
        self.call(node, 0)
    }

    /// A connection is wanted.
    fn call(&mut self, node: usize, generation: u32) -> Result<(), Violation> {
        if let Some(process) = &mut self.nodes[node].process {
            process.dial = Some(generation);
        }
        match self.tail.keeper {
            Some(_) => self.dial(node),
            None => Ok(()),
        }
    }

    fn dial(&mut self, node: usize) -> Result<(), Violation> {
        let unfenced = self.shell(Shell::NoFence);
        let Some(process) = &mut self.nodes[node].process else { return Ok(()) };
        let Some(generation) = process.dial.take() else { return Ok(()) };
        if process.link.is_none() && unfenced {
            let tail = self.tail.batches.clone();
            return self.take_tail(node, tail, false);
        }
        let epoch = process.epoch;
        let taken = |id: &u32| self.pipes.iter().any(|pipe| pipe.id == *id);
        let id = (1..).find(|id| !taken(id)).unwrap_or(0);
        self.pipes.push(Pipe {
            id,
            node,
            epoch,
            generation,
            up: vec![Frame::Hello { epoch, generation }],
            down: Vec::new(),
            owner_open: true,
            keeper_open: true,
        });
        Ok(())
    }

    /// The new owner has what the DTL node holds.
    fn take_tail(&mut self, node: usize, tail: Vec<Batch>, suspect: bool) -> Result<(), Violation> {
        let saved = self.backend.len();
        let mut log = self.backend.clone();
        log.extend(tail.into_iter().filter(|batch| usize::from(batch.sequence) > saved));
        let keep_local = self.nodes[node].process.as_ref().is_some_and(|p| p.keep_local);
        let rank = |log: &[Batch]| log.last().map(|batch| (batch.epoch, batch.sequence));
        let longer = rank(&log) > rank(&self.nodes[node].log);
        let better = longer && (is_dense(&log) || self.shell(Shell::TakeBehindHole));
        let local = &self.nodes[node].log;
        let prefer = self.shell(Shell::PreferLocal) && local.len() > log.len();
        if (suspect && keep_local && !better) || prefer {
            log = local.clone();
        } else if suspect && !keep_local {
            // The one who served last has to do it.
            self.nodes[node].process = None;
            (self.registry.owner, self.registry.state) = (self.registry.served, State::Degraded);
            return Ok(());
        }
        if !is_dense(&log) {
            let name = if self.dark { KEPT } else { LOST };
            return Err(Violation::new(name, format!("the tail has a hole: {log:?}")));
        }
        self.nodes[node].log = log;
        self.took_over |= self.registry.served != node;
        // What was recovered is synced before it is served.
        self.nodes[node].synced = self.nodes[node].log.len();
        self.serve(node)
    }

    fn copy(&mut self, node: usize) -> Result<(), Violation> {
        let Some(process) = &self.nodes[node].process else { return Ok(()) };
        let Some(next) = process.copying else { return Ok(()) };
        let Some(batch) = self.nodes[node].log.get(usize::from(next) - 1).copied() else {
            let generation = self.link(node).map_or(0, |link| link.generation());
            return self.tell(node, Message::Copied { generation });
        };
        self.with(node, |process| process.copying = Some(next + 1));
        self.send_batch(node, batch);
        Ok(())
    }

    fn send_batch(&mut self, node: usize, batch: Batch) {
        let before = usize::from(batch.sequence) - 1;
        let previous = end_of(&self.nodes[node].log[..before]);
        self.send(node, Frame::Append(batch, previous));
    }

    /// Puts a frame into the node's present connection, if that still exists.
    fn send(&mut self, node: usize, frame: Frame) {
        let Some(process) = &self.nodes[node].process else { return };
        let generation = process.link.as_ref().map_or(0, |link| link.generation());
        let epoch = process.epoch;
        let present = |pipe: &&mut Pipe| {
            pipe.node == node && pipe.epoch == epoch && pipe.generation == generation
        };
        if let Some(pipe) = self.pipes.iter_mut().find(present)
            && pipe.owner_open
            && pipe.keeper_open
        {
            pipe.up.push(frame);
        }
    }

    pub(super) fn tell(&mut self, node: usize, message: Message) -> Result<(), Violation> {
        let mut actions = Vec::new();
        if let Some(link) = self.nodes[node].process.as_mut().and_then(|p| p.link.as_mut()) {
            link.step(message, &mut actions);
        }
        self.perform(node, actions)
    }

    pub(super) fn perform(&mut self, node: usize, actions: Vec<Action>) -> Result<(), Violation> {
        for action in actions {
            let saved = self.backend.len() as u8;
            match action {
                Action::Connect { generation } => {
                    self.with(node, |process| process.copying = None);
                    self.call(node, generation)?;
                }
                Action::Disconnect => self.disconnect(node),
                Action::Resume => self.send(node, Frame::Resume),
                Action::Copy => {
                    self.send(node, Frame::Fresh);
                    self.with(node, |process| process.copying = Some(saved + 1));
                }
                Action::StopCopying => self.with(node, |process| process.copying = None),
                Action::Send => {
                    let last = self.nodes[node].log.last().copied();
                    last.into_iter().for_each(|batch| self.send_batch(node, batch));
                }
                Action::Release => self.release(node)?,
                Action::Propose { to, .. } => {
                    self.with(node, |p| p.ask = Some(Ask { to, answer: None }));
                }
                Action::WaitForKeeper => self.with(node, |process| process.impatience = true),
                Action::Trim { below } => self.send(node, Frame::Trim { below: below as u8 }),
                Action::Stop(_) => self.end_process(node),
            }
        }
        Ok(())
    }

    fn with(&mut self, node: usize, change: impl FnOnce(&mut super::Process)) {
        if let Some(process) = &mut self.nodes[node].process {
            change(process);
        }
    }

    fn release(&mut self, node: usize) -> Result<(), Violation> {
        let log = self.nodes[node].log.clone();
        let epoch = self.nodes[node].process.as_ref().map_or(0, |process| process.epoch);
        let last = log.last().copied();
        let held = last.is_some_and(|batch| self.tail.batches.contains(&batch));
        let saved = last.is_some_and(|batch| self.backend.contains(&batch));
        // An acknowledgement of what the newer owner has, too, may have been on its way.
        let served = self.registry.served;
        let successor = &self.nodes[served].log;
        let taken = served != node && last.is_some_and(|batch| successor.contains(&batch));
        if epoch < self.greeted && !held && !saved && !taken {
            let text = format!("epoch {epoch} acknowledges, {} was greeted", self.greeted);
            return Err(Violation::new(ONE, text));
        }
        let owns = self.registry.epoch == epoch;
        if owns && self.registry.state == State::InSync && !held && !saved {
            return Err(Violation::new(ALONE, format!("{last:?} while the registry says in_sync")));
        }
        let value = value_of(&log);
        self.with(node, |process| process.visible = value);
        self.released = log;
        if self.oracle.asked == Some((value, node, epoch)) {
            self.oracle.acknowledged(value);
        }
        Ok(())
    }

    fn disconnect(&mut self, node: usize) {
        for pipe in &mut self.pipes {
            if pipe.node == node {
                pipe.owner_open = false;
                pipe.down.clear();
            }
        }
    }

    fn end_process(&mut self, node: usize) {
        self.disconnect(node);
        self.nodes[node].process = None;
        if self.oracle.asked.is_some_and(|(_, asked, _)| asked == node) {
            self.oracle.asked = None;
        }
    }

    fn end_keeper(&mut self) {
        (self.tail.keeper, self.tail.storing) = (None, None);
        for pipe in &mut self.pipes {
            pipe.keeper_open = false;
            pipe.up.clear();
        }
    }

    fn blackout(&mut self, from: usize, to: usize) {
        self.left.blackouts -= 1;
        self.dark = true;
        self.end_keeper();
        self.pipes.clear();
        for node in &mut self.nodes {
            node.process = None;
            node.log.truncate(node.synced);
        }
        // Each batch is a file, and its name is not synced.
        self.tail.batches.truncate(to);
        self.tail.batches.drain(..from);
        self.tail.suspect = true;
        self.oracle.blackout();
    }

    /// The owner's side of a connection is over.
    fn hang_up(&mut self, at: usize) -> Result<(), Violation> {
        let stale = self.left.stale > 0;
        let pipe = &mut self.pipes[at];
        pipe.owner_open = false;
        // What was received before the end may be looked at after it.
        pipe.down.retain(|reply| stale && matches!(reply, Reply::Acknowledged(_)));
        let (node, epoch, generation) = (pipe.node, pipe.epoch, pipe.generation);
        let Some(process) = &self.nodes[node].process else { return Ok(()) };
        if process.epoch != epoch {
            return Ok(());
        }
        match process.link {
            None => self.call(node, 0),
            Some(_) => self.tell(node, Message::Lost { generation }),
        }
    }

    fn down(&mut self, at: usize) -> Result<(), Violation> {
        let pipe = &mut self.pipes[at];
        if pipe.down.is_empty() {
            return self.hang_up(at);
        }
        let reply = pipe.down.remove(0);
        self.left.stale -= u8::from(!pipe.owner_open);
        let (node, generation) = (pipe.node, pipe.generation);
        let opening = self.nodes[node].process.as_ref().is_some_and(|p| p.link.is_none());
        match reply {
            Reply::Greeted { held, tail } if opening => {
                self.pipes[at].owner_open = false;
                self.take_tail(node, tail, held.suspect)
            }
            Reply::Greeted { held, .. } => self.tell(node, Message::Connected { generation, held }),
            Reply::Acknowledged(sequence) => {
                let sequence = sequence.into();
                self.tell(node, Message::Acknowledged { generation, sequence })
            }
            Reply::Refused if opening => {
                self.end_process(node);
                Ok(())
            }
            Reply::Refused => self.tell(node, Message::Refused { generation }),
            Reply::End => self.hang_up(at),
        }
    }

    fn up(&mut self, at: usize, full: bool) -> Result<(), Violation> {
        let connection = self.pipes[at].id;
        if self.pipes[at].up.is_empty() {
            self.pipes[at].keeper_open = false;
            return self.hear(KeeperMessage::Gone { connection }, None, false);
        }
        match self.pipes[at].up.remove(0) {
            Frame::Hello { epoch, generation } => {
                let epoch = epoch.into();
                self.hear(KeeperMessage::Hello { connection, epoch, generation }, None, false)
            }
            Frame::Resume => self.hear(KeeperMessage::Resume { connection }, None, false),
            Frame::Fresh => self.hear(KeeperMessage::Fresh { connection }, None, false),
            Frame::Append(batch, previous) => {
                let piece = Piece { previous, end: batch.mark(), starts_sco: true };
                self.hear(KeeperMessage::Append { connection, piece }, Some(batch), full)
            }
            Frame::Trim { below } => {
                let below = below.into();
                self.hear(KeeperMessage::Trim { connection, below }, None, false)
            }
        }
    }

    fn close_at_keeper(&mut self, connection: u32) {
        if let Some(pipe) = self.pipes.iter_mut().find(|pipe| pipe.id == connection) {
            pipe.keeper_open = false;
            pipe.up.clear();
            if pipe.owner_open {
                pipe.down.push(Reply::End);
            }
        }
    }

    fn reply(&mut self, connection: u32, reply: Reply) {
        if let Some(pipe) = self.pipes.iter_mut().find(|pipe| pipe.id == connection)
            && pipe.owner_open
            && pipe.keeper_open
        {
            pipe.down.push(reply);
        }
    }

    fn fence_stored(&mut self) -> Result<(), Violation> {
        let Some((epoch, suspect)) = self.tail.storing.take() else { return Ok(()) };
        (self.tail.fence, self.tail.suspect) = (epoch, suspect);
        self.hear(KeeperMessage::EpochStored { epoch: epoch.into() }, None, false)
    }

    /// Gives the DTL node's machine a message and does what it wants.
    fn hear(
        &mut self,
        message: KeeperMessage,
        batch: Option<Batch>,
        full: bool,
    ) -> Result<(), Violation> {
        let Some(mut keeper) = self.tail.keeper.take() else { return Ok(()) };
        let mut actions = Vec::new();
        keeper.step(message, &mut actions);
        let mut next = 0;
        while next < actions.len() {
            let action = actions[next];
            next += 1;
            if let Some(answer) = self.obey(action, batch, full)? {
                keeper.step(answer, &mut actions);
            }
        }
        self.tail.keeper = Some(keeper);
        Ok(())
    }

    fn obey(
        &mut self,
        action: KeeperAction,
        batch: Option<Batch>,
        full: bool,
    ) -> Result<Option<KeeperMessage>, Violation> {
        match action {
            KeeperAction::StoreEpoch { epoch, suspect } => {
                self.tail.storing = Some((epoch as u8, suspect));
            }
            KeeperAction::Greet { connection, held } => {
                let pipe = self.pipes.iter().find(|pipe| pipe.id == connection);
                self.greeted = self.greeted.max(pipe.map_or(0, |pipe| pipe.epoch));
                let tail = self.tail.batches.clone();
                self.reply(connection, Reply::Greeted { held, tail });
            }
            KeeperAction::Refuse { connection, .. } => {
                self.reply(connection, Reply::Refused);
                self.close_at_keeper(connection);
            }
            KeeperAction::Close { connection } => self.close_at_keeper(connection),
            KeeperAction::Wipe => {
                self.tail.batches.clear();
                return Ok(Some(KeeperMessage::Wiped));
            }
            KeeperAction::Write => {
                let failed = full || batch.is_none();
                self.tail.batches.extend(batch.filter(|_| !full));
                let written = KeeperMessage::Written;
                return Ok(Some(if failed { KeeperMessage::WriteFailed } else { written }));
            }
            KeeperAction::Acknowledge { connection, sequence } => {
                let epoch = self.pipes.iter().find(|p| p.id == connection).map(|p| p.epoch);
                if epoch.is_some_and(|epoch| epoch < self.greeted) {
                    let text = format!("a batch of epoch {epoch:?} is taken after its fence");
                    return Err(Violation::new(ONE, text));
                }
                self.reply(connection, Reply::Acknowledged(sequence as u8));
            }
            KeeperAction::Unlink { below } => {
                let saved = self.backend.len();
                let dropped = |batch: &Batch| u32::from(batch.sequence) < below;
                let unsaved = |batch: &&Batch| usize::from(batch.sequence) > saved;
                if let Some(batch) = self.tail.batches.iter().filter(unsaved).find(|b| dropped(b)) {
                    return Err(Violation::new(SAVED, format!("{batch:?} is dropped")));
                }
                self.tail.batches.retain(|batch| !dropped(batch));
            }
            KeeperAction::Vouch => self.tail.suspect = false,
        }
        Ok(None)
    }
}

/// Nothing is missing before its end.
fn is_dense(log: &[Batch]) -> bool {
    log.iter().enumerate().all(|(at, batch)| usize::from(batch.sequence) == at + 1)
}
