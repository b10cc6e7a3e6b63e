//! What a seed stands for: the cluster, its guest, and the faults that it has to live with. As in
//! swarm testing, each seed has some kinds of faults and not others: rare meetings of two of them
//! would drown in the noise of all.

use std::fmt;

use machines::dtl::link::Mode;
use machines::volume::Limits;

use super::{MS, S};
use crate::random::Random;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Crash,
    PowerLoss,
    Blackout,
    DomainLoss,
    DiskDestroyed,
    Pause,
    Cut,
    Isolation,
    ConnectionLost,
    RegistryDown,
    AnswersLost,
    Move,
    BackendAway,
    PutAnswersLost,
    DiskFull,
    DiskSlow,
    SyncFails,
    GuestRestarts,
    // What lies: never together with the promise that nothing is lost.
    BitRot,
    SyncLost,
    WriteMisdirected,
}

/// Faults of which a seed draws some.
const HONEST: [(Kind, u64); 18] = [
    (Kind::Crash, 8),
    (Kind::PowerLoss, 5),
    (Kind::Blackout, 1),
    (Kind::DomainLoss, 2),
    (Kind::DiskDestroyed, 1),
    (Kind::Pause, 8),
    (Kind::Cut, 8),
    (Kind::Isolation, 3),
    (Kind::ConnectionLost, 8),
    (Kind::RegistryDown, 3),
    (Kind::AnswersLost, 3),
    (Kind::Move, 3),
    (Kind::BackendAway, 3),
    (Kind::PutAnswersLost, 3),
    (Kind::DiskFull, 3),
    (Kind::DiskSlow, 3),
    (Kind::SyncFails, 2),
    (Kind::GuestRestarts, 2),
];
const LYING: [(Kind, u64); 3] =
    [(Kind::BitRot, 4), (Kind::SyncLost, 3), (Kind::WriteMisdirected, 2)];

/// See the top of the file.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// The Domain of each node.
    pub(super) domains: Vec<usize>,
    /// The Recovery Domain of each Domain.
    pub(super) recovery: Vec<Option<usize>>,
    pub(super) mode: Mode,
    pub(super) limits: Limits,
    /// LBAs that the guest uses.
    pub(super) lbas: Vec<u64>,
    /// Mean pause between two requests, in microseconds.
    pub(super) think: u64,
    /// Requests without an answer at the same time.
    pub(super) depth: usize,
    /// Messages of 1000 that are delayed for long.
    pub(super) jitter: u32,
    /// Jobs of 1000 that take 200 times as long.
    pub(super) slow_jobs: u32,
    /// How wrong each node's clock goes, in millionths.
    pub(super) clocks: Vec<i64>,
    /// So wrong that leases mean nothing: only the fence keeps a former owner from acknowledging.
    pub(super) wild_clocks: bool,
    /// Beside other faults, owners do not notice that others take their volume.
    pub(super) usurped: bool,
    /// Kinds of faults with their weights.
    pub(super) faults: Vec<(Kind, u64)>,
    /// Mean time between two faults.
    pub(super) gap: u64,
    /// How long faults go on.
    pub(super) chaos: u64,
    /// Some disks lie.
    pub(super) lying: bool,
}

impl Plan {
    pub(super) fn draw(random: &mut Random) -> Self {
        let nodes = 3 + random.index(3);
        let domain_count = 1 + random.index(3.min(nodes - 1));
        let domains: Vec<usize> = (0..nodes).map(|node| node % domain_count).collect();
        let paired = random.chance(3, 4) && domain_count > 1;
        let recovery =
            (0..domain_count).map(|d| paired.then_some((d + 1) % domain_count)).collect();
        let mode = match random.below(10) {
            0 => Mode::Async,
            1 => Mode::None,
            _ => Mode::Sync,
        };
        let lying = random.chance(1, 10);
        let mut faults: Vec<(Kind, u64)> =
            HONEST.iter().copied().filter(|_| random.chance(2, 5)).collect();
        if lying {
            faults.extend(LYING.iter().copied().filter(|_| random.chance(2, 3)));
        }
        let rare = random.chance(1, 4);
        Plan {
            domains,
            recovery,
            mode,
            limits: limits(random),
            lbas: lbas(random),
            think: 500 << random.below(6),
            depth: 1 + random.index(12),
            jitter: [0, 0, 5, 50][random.index(4)],
            slow_jobs: [0, 0, 20, 200][random.index(4)],
            clocks: (0..nodes).map(|_| random.below(401) as i64 - 200).collect(),
            wild_clocks: false,
            usurped: false,
            faults,
            gap: if rare { 5 * S } else { (300 * MS) << random.below(4) },
            chaos: 8 * S + random.below(30 * S),
            lying,
        }
    }
}

fn limits(random: &mut Random) -> Limits {
    let sco_clusters = 8 << random.below(4);
    Limits {
        sco_clusters,
        buffer_scos: 3 + random.below(6) as u32,
        keep_scos: random.below(4) as u32,
        checkpoint_scos: 1 + random.below(4) as u32,
        batch_clusters: 8,
        op_clusters: 4,
        compact_percent: [0, 30, 60][random.index(3)],
        deletes: 2,
    }
}

/// Clusters of one chunk of the map, or spread over many chunks.
fn lbas(random: &mut Random) -> Vec<u64> {
    const CHUNK: u64 = 65_536;
    let cells = 8 + random.below(40);
    let run = [4, 8, 64][random.index(3)];
    (0..cells).map(|cell| cell / run * CHUNK + cell % run).collect()
}

impl Plan {
    /// In some seeds no clock can be trusted.
    pub(super) fn spoil_clocks(&mut self, random: &mut Random) {
        if random.chance(1, 8) {
            self.wild_clocks = true;
            for clock in &mut self.clocks {
                *clock = random.below(1_200_001) as i64 - 600_000;
            }
        }
    }

    /// In some seeds clocks are so slow that owners believe for long in leases that are over, and
    /// it is made sure that they are (`faults::usurp`).
    pub(super) fn usurp(&mut self, random: &mut Random) {
        if random.chance(1, 8) {
            (self.wild_clocks, self.usurped) = (true, true);
            for clock in &mut self.clocks {
                *clock = random.below(300_001) as i64 - 600_000;
            }
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<String> = self.faults.iter().map(|(kind, _)| format!("{kind:?}")).collect();
        write!(
            f,
            "{} nodes in {} Domains, {:?}, {} clusters, {} requests at once, SCOs of {}, {}a fault \
             each {} ms: {}",
            self.domains.len(),
            self.recovery.len(),
            self.mode,
            self.lbas.len(),
            self.depth,
            self.limits.sco_clusters,
            match (self.wild_clocks, self.usurped) {
                (true, false) => "wild clocks, ",
                (_, true) => "slow clocks, usurped owners, ",
                _ => "",
            },
            self.gap / MS,
            kinds.join(" ")
        )
    }
}

/// What seeds draw from, for the page about verification.
pub fn describe() -> String {
    let names = |kinds: &[(Kind, u64)]| -> String {
        let names: Vec<String> = kinds.iter().map(|(kind, _)| format!("{kind:?}")).collect();
        names.join(", ")
    };
    format!(
        "* 3 to 5 nodes in 1 to 3 Domains, with Recovery Domains or without; DTL `sync` (8 of 10), \
         `async`, `none`; clocks up to 200 millionths wrong, and in 1 of 8 seeds \
         so wrong that leases mean nothing; in another 1 of 8 all are slow, and owners are cut from the \
         registry, and sometimes from their DTL node, until another node has taken over;\n\
         * a volume of 8 to 47 clusters that are used, in one chunk of the map or in many; SCOs of 8 \
         to 64 clusters, compaction or not; 1 to 12 requests at once: writes (also FUA), trims, \
         reads, flushes, 1 to 4 clusters long;\n\
         * 8 to 38 s of chaos with a fault each 0.3 to 5 s, 2 of 5 kinds in each seed: {};\n\
         * in 1 of 10 seeds also what lies, and then nothing is promised but that nothing wrong is \
         returned: {}.",
        names(&HONEST),
        names(&LYING)
    )
}
