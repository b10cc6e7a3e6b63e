//! What the daemons decide, in the words of `ovs_daemon/policy`: `ownership.decide` and `judge`,
//! `takeover.takeovers` and `placement.keepers` for a cluster with one volume.
//!
//! This is a copy by hand of pure Python functions, which are explored exhaustively where they are
//! (`tests/unit/policy`); here they drive the machines.

use machines::dtl::State;
use machines::dtl::link::Mode;

/// What a node's write buffer rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Home {
    /// Which boot of its kernel it is.
    pub(super) boot: u32,
    /// Which disk.
    pub(super) disk: u32,
}

/// The volume's record in the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) owner: usize,
    pub(super) epoch: u64,
    /// The node whose write buffer holds everything that is not on the backend.
    pub(super) served: usize,
    pub(super) keeper: Option<usize>,
    pub(super) state: State,
    pub(super) mode: Mode,
    /// Of the node that served it last.
    pub(super) home: Option<Home>,
    /// Everything is on the backend, and nothing in any write buffer.
    pub(super) saved: bool,
}

/// What came of fetching the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fetch {
    Done,
    Unreachable,
    /// The same, and the node that served the volume last lives.
    OwnerBack,
    Insufficient,
    Fenced,
}

/// What one attempt to open the volume knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Knowledge {
    pub(super) raised: Option<u64>,
    pub(super) fetched: Option<(u64, Fetch)>,
    pub(super) cleared: Option<u64>,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Rest,
    TakeOver(Record),
    RaiseEpoch(Record),
    Clear,
    Fetch { keep_local: bool },
    Adopt(Record),
    Degrade(Record),
    GiveBack(Record),
    Open,
}

/// What node `me` has to do about the volume, which is not open there. `here`: what its write
/// buffer rests on.
pub(super) fn decide(
    me: usize,
    record: Record,
    known: Knowledge,
    chosen: bool,
    here: Home,
) -> Step {
    if record.owner != me {
        if !chosen || !(record.saved || record.state == State::InSync) {
            return Step::Rest;
        }
        return Step::TakeOver(Record { owner: me, epoch: record.epoch + 1, ..record });
    }
    if known.raised != Some(record.epoch) {
        return Step::RaiseEpoch(Record { epoch: record.epoch + 1, ..record });
    }
    if record.saved {
        if known.cleared != Some(record.epoch) {
            return Step::Clear;
        }
        return Step::Adopt(Record { served: me, home: Some(here), saved: false, ..record });
    }
    if record.state == State::InSync {
        return with_log(me, record, known, here);
    }
    if record.served != me || other_disk(record, here) {
        return Step::Rest;
    }
    open(me, record, here)
}

/// The disk that had what was acknowledged is not there.
fn other_disk(record: Record, here: Home) -> bool {
    record.home.is_some_and(|home| home.disk != here.disk)
}

fn open(me: usize, record: Record, here: Home) -> Step {
    match (record.served, record.home) == (me, Some(here)) {
        true => Step::Open,
        false => Step::Adopt(adopted(me, record, here)),
    }
}

fn with_log(me: usize, record: Record, known: Knowledge, here: Home) -> Step {
    let served = record.served == me;
    let degraded = Record { state: State::Degraded, ..record };
    if served && record.mode != Mode::Sync {
        return if other_disk(record, here) { Step::Rest } else { Step::Degrade(degraded) };
    }
    let last = served && !other_disk(record, here);
    let outcome = match known.fetched {
        Some((epoch, outcome)) if epoch == record.epoch => outcome,
        _ => return Step::Fetch { keep_local: last },
    };
    let lost = record.home.is_some_and(|home| home != here);
    match outcome {
        Fetch::Done => open(me, record, here),
        Fetch::Fenced => Step::Rest,
        _ if served && lost => Step::Rest,
        _ if served => Step::Degrade(degraded),
        Fetch::OwnerBack => {
            let (owner, epoch) = (record.served, record.epoch + 1);
            Step::GiveBack(Record { owner, epoch, ..record })
        }
        Fetch::Insufficient => {
            let (owner, epoch) = (record.served, record.epoch + 1);
            Step::GiveBack(Record { owner, epoch, ..degraded })
        }
        Fetch::Unreachable => Step::Rest,
    }
}

fn adopted(me: usize, record: Record, here: Home) -> Record {
    let adopted = Record { served: me, home: Some(here), ..record };
    match record.keeper == Some(me) {
        true => Record { keeper: None, state: State::Standalone, ..adopted },
        false => adopted,
    }
}

/// The engine's change of a log's state: `Err`: refused; `Ok(None)`: recorded already.
pub(super) fn judge(
    me: usize,
    record: Record,
    epoch: u64,
    keeper: Option<usize>,
    to: State,
) -> Result<Option<Record>, ()> {
    if (record.owner, record.epoch, record.keeper) != (me, epoch, keeper) {
        return Err(());
    }
    Ok((record.state != to).then_some(Record { state: to, ..record }))
}

/// The nodes as the registry shows them.
pub(super) struct View<'a> {
    pub(super) alive: &'a [bool],
    pub(super) domains: &'a [usize],
    /// The Recovery Domain of each Domain.
    pub(super) recovery: &'a [Option<usize>],
}

impl View<'_> {
    /// Who goes on with the volume of a dead owner by itself.
    pub(super) fn successor(&self, record: &Record) -> Option<usize> {
        let complete = record.mode == Mode::Sync && record.state == State::InSync;
        let readable = complete && record.keeper.is_some_and(|keeper| self.alive[keeper]);
        // It was given the volume, with everything on the backend, and has not opened it.
        let handed = record.saved && record.home.is_none();
        if !readable && !handed {
            return None;
        }
        let domain = self.domains[record.owner];
        let rank = |node: &usize| {
            let near = match self.domains[*node] {
                own if own == domain => 0,
                other if Some(other) == self.recovery[domain] => 1,
                _ => 2,
            };
            (near, Some(*node) == record.keeper, *node)
        };
        (0..self.alive.len()).filter(|n| self.alive[*n] && *n != record.owner).min_by_key(rank)
    }

    /// Where the log should go, when it is not where it should be.
    pub(super) fn pairing(&self, record: &Record) -> Option<Option<usize>> {
        let in_domain = |domain: usize| -> Vec<usize> {
            let nodes = 0..self.alive.len();
            let usable =
                |n: &usize| self.alive[*n] && *n != record.owner && self.domains[*n] == domain;
            nodes.filter(usable).collect()
        };
        let domain = self.domains[record.owner];
        let mut allowed = self.recovery[domain].map(in_domain).unwrap_or_default();
        if allowed.is_empty() {
            allowed = in_domain(domain);
        }
        let belongs = match (record.mode, record.keeper) {
            (Mode::None, keeper) => keeper.is_none(),
            (_, None) => allowed.is_empty(),
            (_, Some(keeper)) => allowed.contains(&keeper),
        };
        // With nobody else there the present one may come back, and then has most of it.
        let waits = allowed.is_empty() && record.keeper.is_some() && record.mode != Mode::None;
        let wanted = if record.mode == Mode::None { None } else { allowed.first().copied() };
        (!belongs && !waits).then_some(wanted)
    }
}
