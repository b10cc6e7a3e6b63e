//! Compaction: moves what is live in a nearly dead SCO to the end of the log. One run of clusters
//! at a time, so that guests hardly notice; the machine picks the SCO and checks, when the run is
//! put into a batch, that nothing newer has taken its place.

use std::collections::VecDeque;

use format::entry::Entry;
use format::log::PAGE;
use format::object::ObjectIndex;
use machines::map::Loc;
use machines::volume::{Message, Verb};
use media::{Ring, Slice};

use crate::items::Owner;
use crate::jobs::JobFailure;
use crate::shell::{Outputs, Volume};

const PAGE64: u64 = PAGE as u64;
/// What a run is charged for at least: a short one costs more than its bytes.
const RUN_BYTES_MIN: u64 = 16 << 10;

struct Run {
    lba: u64,
    clusters: u32,
    from: Loc,
}

/// The SCO that is being compacted, and other things that wait for a later turn.
#[derive(Default)]
pub(crate) struct Moves {
    sco: Option<u32>,
    runs: VecDeque<Run>,
    reading: Option<(Run, Slice)>,
    /// The last run was given to the log and has ended.
    ended: bool,
    /// The volume is drained: what was not submitted yet is left for another time.
    given_up: bool,
    /// The budget allows the next run from then on (nanoseconds).
    not_before: u64,
    pub(crate) drains: Vec<u64>,
    pub(crate) settles: Vec<u64>,
    pub(crate) retry_asked: bool,
    /// Deletes are to be tried again: after so many doublings of the pause, and when.
    pub(crate) deletes_asked: Option<u32>,
    pub(crate) deletes_at: Option<u64>,
}

impl Moves {
    pub(crate) fn start(&mut self, sco: u32) {
        self.sco = Some(sco);
        self.given_up = false;
    }

    /// Guests wait: thousands of runs may be left, and each may wait for the backend.
    pub(crate) fn give_up(&mut self) {
        self.runs.clear();
        self.given_up = true;
    }

    pub(crate) fn finished_one(&mut self) {
        self.ended = true;
    }
}

impl Volume {
    /// The index of the SCO to compact is there: list what is live.
    pub(crate) fn index_read(
        &mut self,
        sco: u32,
        result: Result<ObjectIndex, JobFailure>,
        ring: &mut Ring,
        out: &mut Outputs,
    ) {
        match result {
            Ok(_) if self.moves.given_up => {}
            Ok(index) => {
                self.trouble.remove("compact");
                self.list_live(sco, &index);
            }
            // Guests need no index: if their clusters can't be read either, that is said then.
            Err(error) => self.note("compact", error),
        }
        self.next_move(ring, out);
    }

    fn list_live(&mut self, sco: u32, index: &ObjectIndex) {
        let own = self.machine.own_log();
        let mut ordinal = 0u32;
        let run_max = u64::from(self.machine.limits().op_clusters);
        let runs = &mut self.moves.runs;
        for entry in &index.entries {
            let Entry::Data { lba, clusters } = *entry else { continue };
            let first = ordinal;
            ordinal += clusters;
            self.machine.map().runs(lba, clusters.into(), &mut |at, len, loc| {
                let from = Loc { log: own, sco, ordinal: (first + (at - lba) as u32) as u16 };
                if loc != Some(from) {
                    return;
                }
                let mut done = 0;
                while done < len {
                    let clusters = (len - done).min(run_max) as u32;
                    runs.push_back(Run { lba: at + done, clusters, from: from.plus(done as u32) });
                    done += u64::from(clusters);
                }
            });
        }
    }

    /// Starts the next run, or ends the compaction. Called once per turn while one is under way.
    pub(crate) fn next_move(&mut self, ring: &mut Ring, out: &mut Outputs) {
        let Some(sco) = self.moves.sco else { return };
        let mut next = self.moves.runs.pop_front();
        while next.as_ref().is_some_and(|run| !self.is_live(run)) {
            next = self.moves.runs.pop_front();
        }
        let Some(run) = next else {
            self.moves.sco = None;
            let message = match self.moves.given_up {
                true => Message::CompactionStopped { sco },
                false => Message::Compacted { sco },
            };
            self.run(message, ring, out);
            return;
        };
        let Ok(into) = Slice::zeroed(run.clusters as usize * PAGE) else {
            self.moves.runs.clear();
            self.moves.ended = true;
            return;
        };
        let (lba, from) = (run.lba, run.from);
        self.moves.reading = Some((run, into.clone()));
        self.read_for_move(lba, from, into, ring, out);
    }

    /// Some of it is still where it was when it was listed.
    fn is_live(&self, run: &Run) -> bool {
        let mut live = false;
        self.machine.map().runs(run.lba, run.clusters.into(), &mut |at, _, loc| {
            live |= loc == Some(run.from.plus((at - run.lba) as u32));
        });
        live
    }

    /// The clusters of a run are there: give them to the log.
    pub(crate) fn move_is_read(&mut self, failed: Option<i32>) {
        let Some((run, data)) = self.moves.reading.take() else { return };
        if failed.is_some() || self.moves.given_up {
            self.moves.ended = true;
            return;
        }
        self.stats.moved_clusters += u64::from(run.clusters);
        let Run { lba, clusters, from } = run;
        self.submit_op(Owner::Move, Some(data), Verb::Relocate { lba, clusters, from });
    }

    /// Goes on with compaction when a run has ended and the budget allows it, and with deletes.
    pub(crate) fn continue_moves(&mut self, now: u64, ring: &mut Ring, out: &mut Outputs) {
        if self.moves.deletes_at.take_if(|at| *at <= now).is_some() {
            self.run(Message::RetryDeletes, ring, out);
        }
        if self.moves.ended && self.moves.not_before <= now {
            self.moves.ended = false;
            let bytes = self.moves.runs.front().map_or(0, |run| u64::from(run.clusters)) * PAGE64;
            let charged = bytes.max(RUN_BYTES_MIN);
            self.moves.not_before = now + charged * 1_000_000_000 / self.compaction_budget.max(1);
            self.next_move(ring, out);
        }
    }

    /// When compaction or deletes want the next turn.
    pub(crate) fn moves_at(&self) -> Option<u64> {
        let moves = self.moves.ended.then_some(self.moves.not_before);
        [moves, self.moves.deletes_at].into_iter().flatten().min()
    }
}
