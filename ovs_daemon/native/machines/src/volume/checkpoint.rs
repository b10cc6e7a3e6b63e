//! Checkpoints, which SCOs are dead after one, and compaction of nearly dead ones.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::{Action, Mutant, Snapshot, Stage, Volume};
use crate::map::Map;

/// What a checkpoint will hold: the volume as it was when its last SCO was closed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Taken {
    /// The SCO that was just closed.
    pub position: u32,
    /// Sequence of its last batch.
    pub last_sequence: u64,
    /// SCOs of this log and their data clusters.
    pub scos: Vec<(u32, u32)>,
    /// The head.
    pub map: Map,
    /// The snapshots, in order of creation.
    pub snapshots: Vec<Snapshot>,
}

/// Progress of checkpoints.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Checkpoints {
    /// Position of the last stored one.
    stored: u32,
    /// SCOs closed since the last one was taken.
    closed_since: u32,
    /// One is wanted soon: close the open SCO for it.
    wanted: bool,
    taken: Option<Taken>,
    in_flight: bool,
    failed: bool,
}

impl Checkpoints {
    pub(super) fn at(position: u32) -> Self {
        Self {
            stored: position,
            closed_since: 0,
            wanted: false,
            taken: None,
            in_flight: false,
            failed: false,
        }
    }

    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    pub(super) fn wants_close(&self) -> bool {
        self.wanted && self.taken.is_none()
    }

    pub(super) fn position(&self) -> u32 {
        self.stored
    }

    pub(super) fn is_current(&self, last_closed: u32) -> bool {
        self.taken.is_none() && self.stored >= last_closed
    }

    pub(super) fn retry(&mut self) {
        self.failed = false;
    }
}

impl Volume {
    /// What to store after [`Action::Checkpoint`].
    pub fn taken(&self) -> Option<&Taken> {
        self.checkpoints.taken.as_ref()
    }

    /// A checkpoint is due, and the SCO that was just closed is its position.
    pub(super) fn take_checkpoint(&mut self, position: u32) {
        let checkpoints = &mut self.checkpoints;
        checkpoints.closed_since += 1;
        let due = checkpoints.wanted || checkpoints.closed_since >= self.limits.checkpoint_scos;
        if !due || checkpoints.taken.is_some() {
            return;
        }
        checkpoints.closed_since = 0;
        checkpoints.wanted = false;
        self.take(position);
    }

    fn take(&mut self, position: u32) {
        // SCOs that are being deleted are listed too. Open takes objects that are not listed for
        // garbage all the same: a power loss brings back what was deleted a moment ago.
        self.checkpoints.taken = Some(Taken {
            position,
            last_sequence: self.sequence,
            scos: self.scos.iter().map(|(number, sco)| (*number, sco.clusters)).collect(),
            map: self.map.clone(),
            snapshots: self.snapshots.clone(),
        });
    }

    /// Stores the taken checkpoint once everything up to its position is on the backend.
    pub(super) fn start_checkpoint(&mut self, out: &mut Vec<Action>) {
        self.take_when_closed_already();
        let early = self.is(Mutant::CheckpointTooEarly);
        let checkpoints = &mut self.checkpoints;
        let Some(taken) = &checkpoints.taken else {
            return;
        };
        if checkpoints.in_flight || checkpoints.failed {
            return;
        }
        if early || self.pending_from > taken.position {
            checkpoints.in_flight = true;
            out.push(Action::Checkpoint);
        }
    }

    /// A checkpoint is wanted and no SCO is open that could be closed for it.
    fn take_when_closed_already(&mut self) {
        let open_has_data = self.open.is_some_and(|n| self.scos.contains_key(&n));
        if !self.checkpoints.wants_close() || open_has_data || self.batch.is_some() {
            return;
        }
        self.checkpoints.wanted = false;
        let last = self.last_closed();
        let unchanged = self.checkpoints.stored >= last && !self.has_dead_scos();
        if last > 0 && !unchanged {
            self.take(last);
        }
    }

    fn has_dead_scos(&self) -> bool {
        self.scos.values().any(|s| s.stage == Stage::Evicted && s.live == 0)
            && self.snapshots.is_empty()
    }

    pub(super) fn checkpoint_stored(
        &mut self,
        referenced: &BTreeMap<u32, u32>,
        out: &mut Vec<Action>,
    ) {
        let Some(taken) = self.checkpoints.taken.take() else {
            return;
        };
        self.checkpoints.in_flight = false;
        self.checkpoints.stored = taken.position;
        self.look_for_victims = true;
        let head_only;
        let referenced = if self.is(Mutant::DeleteIgnoresSnapshots) {
            head_only = crate::map::count_refs(&[&taken.map], self.own_log);
            &head_only
        } else {
            referenced
        };
        let early = self.is(Mutant::DeleteBeforeCheckpoint);
        let mut dead_scos = Vec::new();
        for (number, sco) in &self.scos {
            let dead = if early {
                sco.live == 0 && self.snapshots.is_empty()
            } else {
                *number <= taken.position && !referenced.contains_key(number)
            };
            if !dead || !matches!(sco.stage, Stage::Uploaded | Stage::Evicted) {
                continue;
            }
            if sco.stage == Stage::Uploaded {
                out.push(Action::Evict(*number));
            }
            dead_scos.push(*number);
        }
        dead_scos.into_iter().for_each(|number| self.delete(number));
    }

    pub(super) fn checkpoint_failed(&mut self, out: &mut Vec<Action>) {
        self.checkpoints.in_flight = false;
        self.checkpoints.failed = true;
        self.ask_retry(out);
    }

    /// Picks the emptiest SCO whose live clusters are worth moving. SCOs that a snapshot may refer
    /// to are left alone: moving them for the head would free nothing.
    pub(super) fn start_compaction(&mut self, out: &mut Vec<Action>) {
        if !self.look_for_victims || self.compacting.is_some() || self.draining {
            return;
        }
        self.look_for_victims = false;
        let pinned = self.snapshots.iter().map(|s| s.position).max().unwrap_or(0);
        let percent = self.limits.compact_percent;
        let candidates = self.scos.range(pinned + 1..=self.checkpoints.stored.max(pinned + 1));
        let victim = candidates
            .filter(|(number, s)| {
                **number <= self.checkpoints.stored
                    && matches!(s.stage, Stage::Uploaded | Stage::Evicted)
                    && s.live > 0
                    && !s.stuck
                    && s.live * 100 <= s.clusters * percent
            })
            .min_by_key(|(number, s)| (s.live, **number));
        if let Some((number, _)) = victim {
            self.compacting = Some(*number);
            out.push(Action::Compact(*number));
        }
    }

    /// Nothing is looked for before the next checkpoint: the volume may be about to be closed.
    pub(super) fn compaction_stopped(&mut self, number: u32) {
        if self.compacting == Some(number) {
            self.compacting = None;
        }
    }

    pub(super) fn compacted(&mut self, number: u32) {
        if self.compacting == Some(number) {
            self.compacting = None;
            self.look_for_victims = true;
            match self.scos.get_mut(&number) {
                Some(sco) if sco.live > 0 => sco.stuck = true,
                _ => self.checkpoints.want(),
            }
        }
    }
}
