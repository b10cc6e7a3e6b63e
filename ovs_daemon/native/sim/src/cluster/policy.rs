//! What the daemons decide, in the words of `ovs_daemon/policy`: `ownership.decide` and `judge`,
//! `takeover.takeovers` and `placement.keepers` for a cluster with one volume.
//!
//! This is a copy by hand of pure Python functions, which are explored exhaustively where they are
//! (`tests/unit/policy`); here they drive the machines.

use machines::dtl::State;
use machines::dtl::link::Mode;

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
}

/// What came of fetching the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fetch {
    Done,
    Unreachable,
    Insufficient,
    Fenced,
}

/// What one attempt to open the volume knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Knowledge {
    pub(super) raised: Option<u64>,
    pub(super) fetched: Option<(u64, Fetch)>,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Rest,
    TakeOver(Record),
    RaiseEpoch(Record),
    Fetch { keep_local: bool },
    Adopt(Record),
    Degrade(Record),
    GiveBack(Record),
    Open,
}

/// What node `me` has to do about the volume, which is not open there.
pub(super) fn decide(me: usize, record: Record, known: Knowledge, chosen: bool) -> Step {
    if record.owner != me {
        if !chosen || record.state != State::InSync {
            return Step::Rest;
        }
        return Step::TakeOver(Record { owner: me, epoch: record.epoch + 1, ..record });
    }
    if known.raised != Some(record.epoch) {
        return Step::RaiseEpoch(Record { epoch: record.epoch + 1, ..record });
    }
    if record.state == State::InSync {
        return with_log(me, record, known);
    }
    if record.served != me { Step::Rest } else { Step::Open }
}

fn with_log(me: usize, record: Record, known: Knowledge) -> Step {
    let last = record.served == me;
    let degraded = Record { state: State::Degraded, ..record };
    if last && record.mode != Mode::Sync {
        return Step::Degrade(degraded);
    }
    let outcome = match known.fetched {
        Some((epoch, outcome)) if epoch == record.epoch => outcome,
        _ => return Step::Fetch { keep_local: last },
    };
    match outcome {
        Fetch::Done if last => Step::Open,
        Fetch::Done => Step::Adopt(adopted(me, record)),
        Fetch::Fenced => Step::Rest,
        _ if last => Step::Degrade(degraded),
        Fetch::Insufficient => {
            let (owner, epoch) = (record.served, record.epoch + 1);
            Step::GiveBack(Record { owner, epoch, ..degraded })
        }
        Fetch::Unreachable => Step::Rest,
    }
}

fn adopted(me: usize, record: Record) -> Record {
    let adopted = Record { served: me, ..record };
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
        let keeper = record.keeper?;
        let complete = record.mode == Mode::Sync && record.state == State::InSync;
        if !complete || !self.alive[keeper] {
            return None;
        }
        let domain = self.domains[record.owner];
        let rank = |node: &usize| {
            let near = match self.domains[*node] {
                own if own == domain => 0,
                other if Some(other) == self.recovery[domain] => 1,
                _ => 2,
            };
            (near, *node == keeper, *node)
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
