//! Compaction in the world: what is live in a SCO is listed, then read and submitted run by run,
//! and anything may happen in between.

use std::collections::VecDeque;

use machines::volume::{Message, Op, OpId, Verb};

use super::VolumeWorld;
use crate::explore::Violation;

/// Relocations get numbers from here on, apart from those of the clients.
pub(super) const RELOCATIONS: OpId = 1000;

/// Where compaction reads a run that it has listed before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MovePolicy {
    /// Where it was when it was listed.
    AsListed,
    /// Where the map has it by then.
    ByMap,
}

/// Moving live clusters out of a SCO: they are listed, and then read and submitted run by run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Compaction {
    pub(super) sco: u32,
    pub(super) listed: VecDeque<Op>,
    pub(super) waits_for: Option<OpId>,
    /// The volume is drained.
    pub(super) given_up: bool,
}

impl VolumeWorld {
    pub(super) fn compact(&mut self, sco: u32) -> Result<(), Violation> {
        let mut listed = VecDeque::new();
        self.volume.map().for_each_run(&mut |lba, clusters, from| {
            if from.sco == sco {
                let id = RELOCATIONS + listed.len() as OpId;
                let clusters = clusters as u32;
                listed.push_back(Op { id, verb: Verb::Relocate { lba, clusters, from } });
            }
        });
        self.compaction = Some(Compaction { sco, listed, waits_for: None, given_up: false });
        Ok(())
    }

    /// A run of a compaction is to be read.
    pub(super) fn has_listed(&self) -> bool {
        let listed = |other: &Compaction| other.waits_for.is_none() && !other.listed.is_empty();
        self.compaction.as_ref().is_some_and(listed)
    }

    pub(super) fn read_listed(&mut self) -> Result<(), Violation> {
        let next = self.compaction.as_mut().and_then(|other| other.listed.pop_front());
        let Some(op @ Op { id, verb: Verb::Relocate { lba, clusters, from } }) = next else {
            return Ok(());
        };
        let mut data = Vec::new();
        for skip in 0..clusters {
            let by_map = || self.volume.map().get(lba + u64::from(skip));
            let loc = match self.bounds.0.moves {
                MovePolicy::AsListed => Some(from.plus(skip)),
                MovePolicy::ByMap => by_map(),
            };
            data.extend(loc.map_or(Some(0), |loc| self.disk.value(loc)));
        }
        if data.len() < clusters as usize {
            // Its object was deleted, since nobody needs it any more.
            return Ok(());
        }
        self.data.push((id, data));
        if let Some(compaction) = &mut self.compaction {
            compaction.waits_for = Some(id);
        }
        self.step(Message::Submit(op))
    }

    /// Tells the machine when the last relocation is through.
    pub(super) fn finish_compaction(&mut self) -> Result<(), Violation> {
        let over = |other: &mut Compaction| other.listed.is_empty() && other.waits_for.is_none();
        while let Some(done) = self.compaction.take_if(over) {
            let sco = done.sco;
            self.step(match done.given_up {
                true => Message::CompactionStopped { sco },
                false => Message::Compacted { sco },
            })?;
        }
        Ok(())
    }

    /// The volume is drained: what was not submitted yet is left for another time.
    pub(super) fn give_up_compaction(&mut self) {
        if let Some(compaction) = &mut self.compaction {
            compaction.listed.clear();
            compaction.given_up = true;
        }
    }
}
