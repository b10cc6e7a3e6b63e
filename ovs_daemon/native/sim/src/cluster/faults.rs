//! What goes wrong, how it is mended, and how the cluster is healed in the end.

use machines::dtl::link::Mode;

use super::disk::{Mischief, SimDisk};
use super::event::Event;
use super::plan::Kind;
use super::{Cluster, Host, MS, Phase, S};

/// What is made good again.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mend {
    Cut(Host, Host),
    Registry,
    Answers,
    Backend,
    Full(Host),
    Slow(Host),
}

impl Cluster<'_> {
    /// The next fault.
    pub(super) fn fault(&mut self) {
        if self.phase != Phase::Chaos {
            return;
        }
        let pause = 1 + self.random.below(self.plan.gap * 2);
        self.at(self.now + pause, Event::Fault);
        let total: u64 = self.plan.faults.iter().map(|(_, weight)| weight).sum();
        let mut at = self.random.below(total);
        let kinds = self.plan.faults.clone();
        for (kind, weight) in kinds {
            if at < weight {
                return self.strike(kind);
            }
            at -= weight;
        }
    }

    /// Rather a node that matters.
    fn victim(&mut self) -> Host {
        let record = self.registry.record;
        match self.random.below(10) {
            0..5 => record.owner,
            5..8 => record.keeper.unwrap_or(record.served),
            _ => self.random.index(self.nodes.len()),
        }
    }

    /// Mostly short, sometimes longer than a lease.
    fn duration(&mut self) -> u64 {
        match self.random.below(4) {
            0 => self.random.below(200 * MS),
            1 | 2 => self.random.below(2 * S),
            _ => self.random.below(9 * S),
        }
    }

    fn strike(&mut self, kind: Kind) {
        let (node, lasts) = (self.victim(), self.duration());
        self.stats.faults += 1;
        match kind {
            Kind::Crash => self.crash(node, lasts),
            Kind::PowerLoss => self.lose_power(&[node], lasts),
            Kind::Blackout => {
                let all: Vec<Host> = (0..self.nodes.len()).collect();
                self.lose_power(&all, lasts);
            }
            Kind::DomainLoss => {
                let domain = self.plan.domains[node];
                let all = 0..self.nodes.len();
                let members: Vec<Host> =
                    all.filter(|one| self.plan.domains[*one] == domain).collect();
                self.lose_power(&members, lasts);
            }
            Kind::DiskDestroyed => self.destroy(node),
            Kind::Pause => {
                self.say(format_args!("fault: node {node} is frozen for {} ms", lasts / MS));
                self.nodes[node].paused_until = self.now + lasts;
            }
            Kind::Cut | Kind::Isolation => self.cut(kind, node, lasts),
            Kind::ConnectionLost => self.lose_connection(),
            Kind::GuestRestarts => self.restart_guest(),
            Kind::Move => {
                let target = self.random.index(self.nodes.len());
                let owner = self.registry.record.owner;
                self.nodes[owner].daemon.moving = Some(target);
                self.tend_soon(owner);
            }
            _ => self.spoil(kind, node, lasts),
        }
    }

    /// Faults of the registry, the backend and of disks.
    fn spoil(&mut self, kind: Kind, node: Host, lasts: u64) {
        self.say(format_args!("fault: {kind:?} at node {node} for {} ms", lasts / MS));
        let until = self.now + lasts;
        match kind {
            Kind::RegistryDown => {
                self.registry.down = true;
                self.at(until, Event::Mend(Mend::Registry));
            }
            Kind::AnswersLost => {
                self.registry.forgetful = 300;
                self.at(until, Event::Mend(Mend::Answers));
            }
            Kind::BackendAway => {
                self.objects.set_away(true);
                self.at(until, Event::Mend(Mend::Backend));
            }
            Kind::PutAnswersLost => self.objects.lose_answers(1 + self.random.below(3) as u32),
            Kind::DiskFull => {
                let room = self.random.below(64 << 10);
                let disk = &self.nodes[node].disk;
                disk.set_capacity(Some(disk.used() + room));
                self.nodes[node].full = true;
                self.at(until, Event::Mend(Mend::Full(node)));
            }
            Kind::DiskSlow => {
                self.nodes[node].slow = 10 + self.random.below(190);
                self.at(until, Event::Mend(Mend::Slow(node)));
            }
            Kind::SyncFails => self.nodes[node].disk.mischief.borrow_mut().failed_syncs = 1,
            Kind::SyncLost => self.nodes[node].disk.mischief.borrow_mut().lost_syncs = 3,
            Kind::WriteMisdirected => self.nodes[node].disk.mischief.borrow_mut().misdirected = 1,
            Kind::BitRot => {
                let there = match self.random.chance(1, 3) {
                    true => self.objects.rot(&mut self.random),
                    false => self.nodes[node].disk.rot(&mut self.random),
                };
                self.say(format_args!("fault: a bit flips: {there:?}"));
            }
            _ => {}
        }
    }

    pub(super) fn mend(&mut self, mend: Mend) {
        match mend {
            Mend::Cut(from, to) => {
                self.cuts.remove(&(from, to));
            }
            Mend::Registry => self.registry.down = false,
            Mend::Answers => self.registry.forgetful = 0,
            Mend::Backend => self.objects.set_away(false),
            Mend::Full(node) => {
                self.nodes[node].full = false;
                self.nodes[node].disk.set_capacity(None);
            }
            Mend::Slow(node) => self.nodes[node].slow = 1,
        }
        self.say(format_args!("mended: {mend:?}"));
    }

    /// A process is gone; its kernel, with the page cache, is not.
    fn end_process(&mut self, node: Host) {
        let host = &mut self.nodes[node];
        (host.up, host.paused_until) = (false, 0);
        host.life += 1;
        (host.owner, host.kept, host.greeted) = (None, None, None);
        host.jobs.clear();
        host.daemon = Default::default();
    }

    fn crash(&mut self, node: Host, lasts: u64) {
        if !self.nodes[node].up {
            return;
        }
        self.say(format_args!("fault: node {node} is killed for {} ms", lasts / MS));
        self.end_process(node);
        self.close_all(node, false);
        self.at(self.now + lasts, Event::Boot { node });
    }

    /// All at once.
    pub(super) fn lose_power(&mut self, nodes: &[Host], lasts: u64) {
        let record = self.registry.record;
        let lost: Vec<Host> = nodes
            .iter()
            .copied()
            .filter(|n| self.nodes[*n].powered && self.promise.may_lose_power(&record, *n))
            .collect();
        if lost.is_empty() {
            return;
        }
        self.say(format_args!("fault: nodes {lost:?} lose power for {} ms", lasts / MS));
        self.promise_power_lost(&lost);
        for node in lost {
            self.end_process(node);
            self.close_all(node, true);
            let disk = self.nodes[node].disk.after_power_loss(&mut self.random);
            self.nodes[node].disk = disk;
            (self.nodes[node].powered, self.nodes[node].full) = (false, false);
            self.at(self.now + lasts, Event::Boot { node });
        }
    }

    /// A node is gone with its disk; it comes back, empty.
    fn destroy(&mut self, node: Host) {
        let record = self.registry.record;
        // A question that is on its way may still turn the record to `degraded`.
        let quiet = self.nodes[node].daemon.is_quiet();
        let possible = self.nodes[node].powered && quiet && record.mode == Mode::Sync;
        if !possible || !self.promise.may_destroy(&record, node) {
            return;
        }
        self.say(format_args!("fault: the disk of node {node} is destroyed"));
        self.promise.destroyed(&record, node, self.now);
        self.end_process(node);
        self.close_all(node, true);
        self.nodes[node].disk = SimDisk::new();
        self.nodes[node].home.disk += 1;
        self.witness.destroyed(node);
        self.nodes[node].powered = false;
        self.at(self.now + S, Event::Boot { node });
    }

    /// A process starts.
    pub(super) fn boot(&mut self, node: Host) {
        if self.nodes[node].up {
            return;
        }
        self.say(format_args!("node {node}: starts"));
        let powered = std::mem::replace(&mut self.nodes[node].powered, true);
        self.nodes[node].up = true;
        if !powered {
            self.nodes[node].home.boot += 1;
            self.mark_power_loss(node);
        }
        self.start_daemon(node);
    }

    fn cut(&mut self, kind: Kind, node: Host, lasts: u64) {
        let hosts = self.nodes.len() + 2;
        let others: Vec<Host> = match kind {
            Kind::Isolation => (0..hosts).filter(|other| *other != node).collect(),
            _ => vec![self.random.index(hosts)],
        };
        let ways = self.random.below(3);
        let lasts_ms = lasts / MS;
        self.say(format_args!("fault: {node} is cut from {others:?}, {ways}, for {lasts_ms} ms"));
        for other in others {
            for (way, link) in [(node, other), (other, node)].into_iter().enumerate() {
                if other != node && ways != way as u64 {
                    self.cuts.insert(link);
                    let mend = Mend::Cut(link.0, link.1);
                    self.at(self.now + lasts, Event::Mend(mend));
                }
            }
        }
    }

    /// The owner does not reach the registry; guests mostly reach the owner, and sometimes it does
    /// not reach its DTL node, and only that hears of a newer epoch.
    pub(super) fn usurp(&mut self) {
        if self.phase != Phase::Chaos {
            return;
        }
        let pause = 6 * S + self.random.below(4 * S);
        self.at(self.now + pause, Event::Usurp);
        let (record, registry) = (self.registry.record, self.registry_host());
        let lasts = 3 * S + self.random.below(2 * S);
        self.say(format_args!("fault: node {} is usurped", record.owner));
        self.stats.faults += 1;
        self.cut_off(record.owner, registry, lasts);
        if self.random.chance(2, 3) {
            self.cut_off(self.edge_host(), registry, lasts + S);
        }
        if let Some(keeper) = record.keeper
            && self.random.chance(1, 2)
        {
            self.cut_off(record.owner, keeper, lasts + 2 * S);
        }
    }

    fn cut_off(&mut self, one: Host, other: Host, lasts: u64) {
        for (from, to) in [(one, other), (other, one)] {
            self.cuts.insert((from, to));
            self.at(self.now + lasts, Event::Mend(Mend::Cut(from, to)));
        }
    }

    fn lose_connection(&mut self) {
        let numbers: Vec<u32> = self.conns.keys().copied().collect();
        if numbers.is_empty() {
            return;
        }
        let number = numbers[self.random.index(numbers.len())];
        self.say(format_args!("fault: connection {number} breaks"));
        self.break_connection(number);
    }

    /// Everything that is out of order is put right, and nothing new happens.
    pub(super) fn heal(&mut self) {
        self.say(format_args!("all is mended"));
        self.phase = Phase::Healing { until: self.now + 180 * S };
        self.cuts.clear();
        (self.registry.down, self.registry.forgetful) = (false, 0);
        self.objects.set_away(false);
        self.objects.lose_answers(0);
        self.guest.quiet = true;
        for node in 0..self.nodes.len() {
            let host = &mut self.nodes[node];
            (host.full, host.slow, host.paused_until) = (false, 1, 0);
            host.disk.set_capacity(None);
            *host.disk.mischief.borrow_mut() = Mischief::default();
            if !host.up {
                self.at(self.now + 100 * MS, Event::Boot { node });
            }
        }
    }
}
