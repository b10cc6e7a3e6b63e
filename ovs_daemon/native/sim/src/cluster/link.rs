//! An open volume's DTL: performs what `machines::dtl::link` decides, as `volume::dtl` does.

use format::log::PAGE;
use machines::dtl::link::{Action, Link, Message, Mode, Reason};
use machines::dtl::{Mark, State};
use machines::volume::Message as LogMessage;

use super::event::Clock;
use super::net::Packet;
use super::work::Work;
use super::{Cluster, Host, MS, Planted, S, Shell};

const ANSWER: u64 = S;
const AWAY: u64 = 500 * MS;
const GREETING: u64 = 5 * S;
const DIAL: u64 = 200 * MS;
const DIAL_DOUBLINGS: u32 = 5;

/// Copies the log from the SCO files.
#[derive(Clone, Copy, Debug)]
struct Copier {
    sco: u32,
    page: u32,
    /// The file was looked at: its end, and whether that will stay its end.
    file: Option<(u32, bool)>,
    reading: bool,
    unanswered: Option<u64>,
    reported: bool,
}

/// A question to the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Proposal {
    pub(super) serial: u32,
    pub(super) epoch: u64,
    pub(super) number: u32,
    pub(super) keeper: usize,
    pub(super) to: State,
}

/// See the top of the file.
pub(super) struct Dtl {
    pub(super) link: Link,
    pub(super) keeper: usize,
    actions: Vec<Action>,
    conn: Option<u32>,
    copier: Option<Copier>,
    proposal: u32,
    away: u32,
    answer: u32,
    dial: Option<u32>,
    dial_not_before: u64,
    attempts: u32,
}

impl Cluster<'_> {
    /// Pairs the open volume with a DTL node, or with another one.
    pub(super) fn pair(&mut self, node: Host, mode: Mode, state: State, keeper: usize) {
        let planted = self.planted;
        let Some(owner) = self.owner(node) else { return };
        if let Some(dtl) = &mut owner.dtl {
            dtl.keeper = keeper;
            return self.link_step(node, Some(Message::Paired { mode, state }));
        }
        let last = Mark { sequence: owner.tail.sequence, crc: owner.tail.crc };
        let mut link = Link::new(mode, state, last, owner.saved);
        if let Some(Planted::Dtl(mutant)) = planted {
            link.plant(mutant);
        }
        let mut actions = Vec::new();
        link.start(&mut actions);
        owner.dtl = Some(Box::new(Dtl {
            link,
            keeper,
            actions,
            conn: None,
            copier: None,
            proposal: 0,
            away: 0,
            answer: 0,
            dial: None,
            dial_not_before: 0,
            attempts: 0,
        }));
        self.link_step(node, None);
    }

    /// Gives the link a message and does what follows.
    pub(super) fn link_step(&mut self, node: Host, message: Option<Message>) {
        if self.link_released(node, message) {
            self.run(node, LogMessage::Appended);
        }
    }

    /// The same; true: the batch in flight may be acknowledged.
    pub(super) fn link_released(&mut self, node: Host, message: Option<Message>) -> bool {
        let Some(mut dtl) = self.owner(node).and_then(|owner| owner.dtl.take()) else {
            return false;
        };
        if let Some(message) = message {
            dtl.link.step(message, &mut dtl.actions);
        }
        let (mut next, mut released) = (0, false);
        loop {
            while let Some(action) = dtl.actions.get(next).copied() {
                next += 1;
                released |= self.link_perform(node, &mut dtl, action);
            }
            self.copy_on(node, &mut dtl);
            if next == dtl.actions.len() {
                break;
            }
        }
        dtl.actions.clear();
        if let Some(owner) = self.owner(node) {
            owner.dtl = Some(dtl);
        }
        released
    }

    fn link_perform(&mut self, node: Host, dtl: &mut Dtl, action: Action) -> bool {
        match action {
            Action::Connect { generation } => {
                self.hang_up(dtl);
                dtl.dial = Some(generation);
                let after = dtl.dial_not_before.saturating_sub(self.now);
                self.timer(node, Clock::Dial, after, generation);
            }
            Action::Disconnect => {
                self.hang_up(dtl);
                dtl.dial = None;
                dtl.away += 1;
                dtl.proposal += 1;
            }
            Action::Resume => self.send_keeper(dtl, Packet::Resume),
            Action::Copy => {
                self.send_keeper(dtl, Packet::Fresh);
                let sco = self.owner(node).map_or(1, |owner| owner.saved.below);
                dtl.copier = Some(Copier {
                    sco,
                    page: 0,
                    file: None,
                    reading: false,
                    unanswered: None,
                    reported: false,
                });
            }
            Action::StopCopying => dtl.copier = None,
            Action::Send => {
                let batch = self.owner(node).map(|owner| owner.last_batch.clone());
                self.send_keeper(dtl, Packet::Append(batch.unwrap_or_default()));
                self.wait_for_answer(node, dtl);
            }
            Action::Release => {
                self.witness_release(node, dtl);
                return true;
            }
            Action::Propose { to, .. } => {
                dtl.proposal += 1;
                let Some(owner) = self.owner(node) else { return false };
                let (serial, epoch) = (owner.serial, owner.epoch);
                let (number, keeper) = (dtl.proposal, dtl.keeper);
                self.propose(node, Proposal { serial, epoch, number, keeper, to });
            }
            Action::WaitForKeeper => {
                dtl.away += 1;
                self.timer(node, Clock::Away, AWAY, dtl.away);
            }
            Action::Trim { below } => self.send_keeper(dtl, Packet::Trim { below }),
            Action::Stop(reason) => self.stop(node, reason),
        }
        false
    }

    fn send_keeper(&mut self, dtl: &Dtl, packet: Packet) {
        if let Some(conn) = dtl.conn {
            self.send(conn, 0, packet);
        }
    }

    fn wait_for_answer(&mut self, node: Host, dtl: &mut Dtl) {
        dtl.answer += 1;
        self.timer(node, Clock::Answer, ANSWER, dtl.answer);
    }

    fn hang_up(&mut self, dtl: &mut Dtl) {
        if let Some(conn) = dtl.conn.take() {
            self.close(conn, 0);
        }
        dtl.copier = None;
        dtl.answer += 1;
    }

    /// Copies on, as far as that goes without waiting.
    fn copy_on(&mut self, node: Host, dtl: &mut Dtl) {
        loop {
            let Some(owner) = self.nodes[node].owner.as_deref() else { return };
            let Some(copier) = &mut dtl.copier else { return };
            if copier.reading || copier.unanswered.is_some() || dtl.conn.is_none() {
                return;
            }
            if let Some(index) = owner.index.get(&copier.sco).filter(|index| index.end_page > 0) {
                copier.file = Some((index.end_page, owner.open != Some(copier.sco)));
            } else if let Some((_, closed)) = &mut copier.file {
                *closed = true;
            }
            match copier.file {
                Some((end, _)) if copier.page < end => {
                    let newest = owner.index.range(copier.sco + 1..).next().is_none();
                    let (sco, from, serial) = (copier.sco, copier.page, owner.serial);
                    if newest && self.random.chance(3, 4) {
                        self.copy_now(node, dtl, end);
                        continue;
                    }
                    copier.reading = true;
                    let generation = dtl.link.generation();
                    return self.job(node, serial, Work::Batches { generation, sco, from, end });
                }
                Some((_, false)) => return report_copied(dtl),
                Some(_) | None => {
                    let after = copier.sco + u32::from(copier.file.is_some());
                    let mut later = owner.index.range(after..);
                    let Some((next, _)) = later.find(|(_, index)| index.end_page > 0) else {
                        return report_copied(dtl);
                    };
                    (copier.sco, copier.page, copier.file) = (*next, 0, None);
                }
            }
        }
    }

    /// Sends what is in the page cache at the end of the log at once.
    fn copy_now(&mut self, node: Host, dtl: &mut Dtl, end: u32) {
        let Some(copier) = &mut dtl.copier else { return };
        let (sco, from) = (copier.sco, copier.page);
        (copier.page, copier.reported) = (end, false);
        let Some(owner) = self.nodes[node].owner.as_deref() else { return };
        if dtl.link.mode() == Mode::Async {
            copier.unanswered = Some(owner.tail.sequence);
        }
        let bytes = self.read_pages(node, sco, from, end);
        self.send_keeper(dtl, Packet::Append(bytes));
        self.wait_for_answer(node, dtl);
    }

    fn read_pages(&self, node: Host, sco: u32, from: u32, end: u32) -> Vec<u8> {
        use buffer::files::Files;
        let files = super::disk::Folder { disk: &self.nodes[node].disk, name: "buffer" };
        let mut bytes = vec![0; (end - from) as usize * PAGE];
        let at = u64::from(from) * PAGE as u64;
        // What cannot be read has the wrong checksums for the DTL node.
        let _ = files.read_at(&super::work::sco_path(sco), at, &mut bytes);
        bytes
    }

    /// A worker has read batches for the copier.
    pub(super) fn batches_read(
        &mut self,
        node: Host,
        generation: u32,
        bytes: Option<(Vec<u8>, u64)>,
    ) {
        let Some(mut dtl) = self.owner(node).and_then(|owner| owner.dtl.take()) else { return };
        let present = dtl.link.generation() == generation;
        let copier = dtl.copier.as_mut().filter(|copier| present && copier.reading);
        let mut message = None;
        match (copier, bytes) {
            (None, _) => {}
            (Some(copier), Some((bytes, sequence))) => {
                copier.reading = false;
                copier.page += (bytes.len() / PAGE) as u32;
                (copier.reported, copier.unanswered) = (false, Some(sequence));
                self.send_keeper(&dtl, Packet::Append(bytes));
                self.wait_for_answer(node, &mut dtl);
            }
            (Some(_), None) => message = Some(Message::Lost { generation }),
        }
        if let Some(owner) = self.owner(node) {
            owner.dtl = Some(dtl);
        }
        self.link_step(node, message);
    }

    pub(super) fn link_time(&mut self, node: Host, clock: Clock, token: u32) {
        let Some(dtl) = self.owner(node).and_then(|owner| owner.dtl.as_deref()) else { return };
        let generation = dtl.link.generation();
        match clock {
            Clock::Answer if dtl.answer == token => {
                self.link_step(node, Some(Message::Lost { generation }));
            }
            Clock::Away if dtl.away == token => self.link_step(node, Some(Message::Impatient)),
            Clock::Dial if dtl.dial == Some(token) => self.dial_keeper(node),
            _ => {}
        }
    }

    fn dial_keeper(&mut self, node: Host) {
        let now = self.now;
        let Some(owner) = self.owner(node) else { return };
        let epoch = owner.epoch;
        let Some(mut dtl) = owner.dtl.take() else { return };
        let Some(generation) = dtl.dial.take() else { return };
        dtl.dial_not_before = now + (DIAL << dtl.attempts);
        dtl.attempts = (dtl.attempts + 1).min(DIAL_DOUBLINGS);
        let conn = self.dial(node, dtl.keeper);
        self.send(conn, 0, Packet::CallKeeper { epoch, generation, successor: false });
        dtl.conn = Some(conn);
        dtl.answer += 1;
        self.timer(node, Clock::Answer, GREETING, dtl.answer);
        if let Some(owner) = self.owner(node) {
            owner.dtl = Some(dtl);
        }
    }

    /// The DTL node says something; true: it was meant for the open volume.
    pub(super) fn link_hears(&mut self, node: Host, conn: u32, packet: &Packet) -> bool {
        let Some(dtl) = self.owner(node).and_then(|owner| owner.dtl.as_deref_mut()) else {
            return false;
        };
        if dtl.conn != Some(conn) {
            return false;
        }
        let generation = dtl.link.generation();
        let message = match packet {
            Packet::Greeted { held } => {
                dtl.answer += 1;
                Message::Connected { generation, held: *held }
            }
            Packet::Acknowledged { sequence } => {
                (dtl.answer, dtl.attempts) = (dtl.answer + 1, 0);
                if let Some(copier) = &mut dtl.copier
                    && copier.unanswered.is_some_and(|last| last <= *sequence)
                {
                    copier.unanswered = None;
                }
                Message::Acknowledged { generation, sequence: *sequence }
            }
            Packet::Refused => Message::Refused { generation },
            _ => Message::Lost { generation },
        };
        self.link_step(node, Some(message));
        true
    }

    /// The volume that asked was paired anew since then.
    pub(super) fn is_of_former_pair(&mut self, node: Host, proposal: &Proposal) -> bool {
        let owner = self.owner(node).filter(|owner| owner.serial == proposal.serial);
        let dtl = owner.and_then(|owner| owner.dtl.as_deref());
        dtl.is_some_and(|dtl| dtl.proposal != proposal.number)
    }

    /// The registry has answered a proposal; an old one is ignored.
    pub(super) fn link_answer(&mut self, node: Host, proposal: &Proposal, accepted: bool) {
        let Some(owner) = self.owner(node) else { return };
        let same = owner.serial == proposal.serial;
        if same && owner.dtl.as_ref().is_some_and(|dtl| dtl.proposal == proposal.number) {
            self.link_step(node, Some(Message::Answered { accepted }));
        }
    }

    /// The volume answers nobody any more.
    pub(super) fn stop(&mut self, node: Host, reason: Reason) {
        let Some(owner) = self.owner(node) else { return };
        if owner.stopped.is_some() {
            return;
        }
        (owner.stopped, owner.quiesced) = (Some(reason), true);
        self.say(format_args!("node {node}: stops: {reason:?}"));
        self.close_sessions(node);
        self.tend_soon(node);
    }

    /// The lease may be over, by the node's own clock: then the volume stops.
    pub(super) fn check_lease(&mut self, node: Host) {
        let over = self.local(node) >= self.nodes[node].daemon.held_until;
        let open = self.owner(node).is_some_and(|owner| owner.stopped.is_none());
        if !over || !open || self.shell(Shell::IgnoreLease) {
            return;
        }
        match self.owner(node).is_some_and(|owner| owner.dtl.is_some()) {
            true => self.link_step(node, Some(Message::LeaseExpired)),
            false => self.stop(node, Reason::Lease),
        }
    }

    /// Lets go of the DTL node, before the volume is closed.
    pub(super) fn leave_dtl(&mut self, node: Host) {
        if let Some(mut dtl) = self.owner(node).and_then(|owner| owner.dtl.take()) {
            self.hang_up(&mut dtl);
        }
    }
}

fn report_copied(dtl: &mut Dtl) {
    if let Some(copier) = &mut dtl.copier
        && !std::mem::replace(&mut copier.reported, true)
    {
        let generation = dtl.link.generation();
        dtl.link.step(Message::Copied { generation }, &mut dtl.actions);
    }
}
