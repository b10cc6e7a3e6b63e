//! Planted faults that the simulation must notice, each within a few seeds.

use machines::dtl::Mutant as Dtl;
use machines::edge::Mutant as Edge;
use machines::volume::Mutant as Volume;

use super::{Outcome, Planted, Shell, run};

/// A planted fault in a few words.
pub type Named = (&'static str, Planted);

/// So many seeds are tried for each.
pub const SEEDS: u64 = 400;

/// Mistakes around the machines; they need no feature.
pub const SHELL: [Named; 9] = [
    ("the lease is not obeyed", Planted::Shell(Shell::IgnoreLease)),
    ("a degraded volume is taken over", Planted::Shell(Shell::TakeOverDegraded)),
    ("what lost power is trusted", Planted::Shell(Shell::TrustAfterPowerLoss)),
    ("a returning owner does not ask its DTL node", Planted::Shell(Shell::PreferLocal)),
    ("what was recovered is not synced", Planted::Shell(Shell::ServeUnsynced)),
    ("a new file's folder is not synced", Planted::Shell(Shell::ForgetFolder)),
    ("a node does not notice that it lost power", Planted::Shell(Shell::ForgetHome)),
    ("the log is read without a fence", Planted::Shell(Shell::NoFence)),
    ("the record takes a state from any epoch", Planted::Shell(Shell::SwapAnyEpoch)),
];

/// Mistakes in the machines.
pub const MACHINES: [Named; 28] = [
    ("degraded is not recorded before a write is acknowledged", dtl(Dtl::AcknowledgeAlone)),
    ("the DTL node is wiped while the registry says in_sync", dtl(Dtl::WipeWhileInSync)),
    ("in_sync is proposed when copying begins", dtl(Dtl::InSyncTooEarly)),
    ("whatever the DTL node holds is taken for the end of the log", dtl(Dtl::BelieveAnyEnd)),
    ("the link ignores the end of the lease", dtl(Dtl::ServeWithoutLease)),
    ("a SCO that is not on the backend is trimmed", dtl(Dtl::TrimUnsaved)),
    ("writes are acknowledged once degraded is proposed", dtl(Dtl::AcknowledgeWhileDegrading)),
    ("a refused swap is taken for an accepted one", dtl(Dtl::IgnoreRefusedSwap)),
    ("writes wait for the DTL node only once in_sync is accepted", dtl(Dtl::GateTooLate)),
    ("the DTL node takes batches of any epoch", dtl(Dtl::AcceptOlderEpochs)),
    ("the DTL node answers before its fence is durable", dtl(Dtl::AnswerBeforeFence)),
    ("the DTL node acknowledges what it could not write", dtl(Dtl::AcknowledgeUnwritten)),
    ("a flush completes at once", volume(Volume::FlushWithoutSync)),
    ("a write completes before it is appended", volume(Volume::CompleteBeforeAppend)),
    ("a sync covers what was appended while it ran", volume(Volume::SyncCoversTooMuch)),
    ("a file is evicted when its upload starts", volume(Volume::EvictBeforeUploaded)),
    ("a failed upload counts as done", volume(Volume::FailedUploadCounts)),
    ("a checkpoint is stored too early", volume(Volume::CheckpointTooEarly)),
    ("a SCO is deleted before the checkpoint", volume(Volume::DeleteBeforeCheckpoint)),
    ("relocated clusters replace newer ones", volume(Volume::RelocateBlindly)),
    ("a trim does not reach the map", volume(Volume::ForgetTrim)),
    ("a write with FUA completes like any other", volume(Volume::FuaWithoutSync)),
    ("an append that failed is forgotten", volume(Volume::ForgetFailedAppend)),
    ("an Edge replays nothing", edge(Edge::NoReplay)),
    ("an Edge replays in reverse order", edge(Edge::ReplayBackwards)),
    ("overlapping writes of an Edge are on their way together", edge(Edge::NoGate)),
    ("an earlier connection goes on beside a later one", edge(Edge::NoDoor)),
    ("what an earlier connection had sent is not waited for", edge(Edge::DoorWithoutWait)),
];

const fn dtl(mutant: Dtl) -> Planted {
    Planted::Dtl(mutant)
}

const fn volume(mutant: Volume) -> Planted {
    Planted::Volume(mutant)
}

const fn edge(mutant: Edge) -> Planted {
    Planted::Edge(mutant)
}

/// Tries seeds until the fault shows; the seeds tried, and what showed.
pub fn hunt(planted: Planted) -> (u64, Option<Outcome>) {
    for seed in 1..=SEEDS {
        let outcome = run(seed, Some(planted), None);
        if outcome.violation.is_some() {
            return (seed, Some(outcome));
        }
    }
    (SEEDS, None)
}
