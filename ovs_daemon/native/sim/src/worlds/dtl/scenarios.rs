//! The worlds of the DTL that are explored.

use machines::dtl::{Mutant, State};

use super::{
    ALONE, Bounds, Budget, DtlWorld, Fault, KEPT, LOST, ONE, SAVED, STALE, Shell, TRUE, Wanted,
};
use crate::scenario::Scenario;

const NOTHING_LOST: (&str, &str) =
    (LOST, "the newest owner shows the last acknowledged write, or a later one without an answer");
const IN_SYNC: (&str, &str) = (
    TRUE,
    "while the registry says in_sync the DTL node has every acknowledged write that is not on the \
     backend",
);
const DEGRADE: (&str, &str) =
    (ALONE, "a write that the DTL node lacks is acknowledged only when the registry says so");
const FENCE: (&str, &str) =
    (ONE, "once the DTL node has greeted an epoch, no older one acknowledges a write");
const READS: (&str, &str) = (STALE, "an owner whose lease may be over answers no reads");
const SAFE: (&str, &str) = (SAVED, "the DTL node drops what is on the backend, and nothing else");
const POWER: (&str, &str) =
    (KEPT, "after everything lost power the volume shows what was flushed, or something later");

fn name_of(fault: Fault) -> &'static str {
    match fault {
        Fault::Shell(Shell::TakeOverDegraded) => "a degraded volume is taken over",
        Fault::Shell(Shell::NoFence) => "the tail is read without a fence",
        Fault::Shell(Shell::SwapAnyEpoch) => "the registry takes a state from any epoch",
        Fault::Shell(Shell::WipeAtRestart) => "the DTL node starts with an empty folder",
        Fault::Shell(Shell::TrustAfterPowerLoss) => "what lost power is not known to be suspect",
        Fault::Shell(Shell::PreferLocal) => "a node prefers what it has to what the DTL node has",
        Fault::Shell(Shell::TakeBehindHole) => {
            "a log that power loss left without its beginning \
             takes the place of a whole one"
        }
        Fault::Machine(mutant) => name_of_mutant(mutant),
    }
}

fn name_of_mutant(mutant: Mutant) -> &'static str {
    match mutant {
        Mutant::AcknowledgeAlone => "writes are acknowledged from the local log alone",
        Mutant::AcknowledgeWhileDegrading => "writes are acknowledged once degraded is proposed",
        Mutant::IgnoreRefusedSwap => "a refused swap is taken for an accepted one",
        Mutant::WipeWhileInSync => "the DTL node is wiped while the registry says in_sync",
        Mutant::InSyncTooEarly => "in_sync is proposed when copying begins",
        Mutant::GateTooLate => "writes wait for the DTL node only once in_sync is accepted",
        Mutant::BelieveAnyEnd => "whatever the DTL node holds is taken for the end of the log",
        Mutant::BelieveOldConnections => "what comes from earlier connections is believed",
        Mutant::ServeWithoutLease => "the end of the lease is ignored",
        Mutant::TrimUnsaved => "a SCO that is not on the backend is trimmed",
        Mutant::AcceptOlderEpochs => "the DTL node takes batches of any epoch",
        Mutant::AnswerBeforeFence => "the DTL node answers before its fence is durable",
        Mutant::AcknowledgeUnwritten => "the DTL node acknowledges what it could not write",
    }
}

fn words(bounds: &Bounds) -> String {
    let budget = &bounds.budget;
    let counts = [
        (budget.writes, "writes"),
        (budget.reads, "reads"),
        (budget.flushes, "flushes"),
        (budget.uploads, "uploads"),
        (budget.crashes, "crashes"),
        (budget.keeper_crashes, "crashes of the DTL node"),
        (budget.cuts, "cuts"),
        (budget.stale, "late answers"),
        (budget.full, "full disks"),
        (budget.takeovers, "takeovers"),
        (budget.restarts, "restarts"),
        (budget.lost_answers, "lost answers of the registry"),
        (budget.blackouts, "blackouts"),
    ];
    let mut text = format!("{} nodes", bounds.nodes);
    for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
        text += &format!(", {count} {what}");
    }
    if !bounds.leases {
        text += ", clocks that nobody trusts";
    }
    text
}

fn scenario(
    name: &'static str,
    invariants: &[(&'static str, &'static str)],
    bounds: Bounds,
    faults: &[(Fault, &'static str)],
) -> Scenario {
    let bounds: &'static Bounds = Box::leak(Box::new(bounds));
    let start = DtlWorld::new(bounds, None);
    let mut made = Scenario::new(name, "machines::dtl", words(bounds), invariants, start);
    for (fault, caught_by) in faults {
        if cfg!(feature = "mutants") {
            let start = DtlWorld::new(bounds, Some(*fault));
            made = made.mutant(name_of(*fault), caught_by, start);
        }
    }
    made
}

fn serves_alone(world: &DtlWorld, state: State) -> bool {
    let owner = world.registry.owner;
    world.registry.state == state && world.serving(owner).is_some()
}

const TAKEN_OVER: Wanted =
    ("a takeover succeeds, and the new owner's write is acknowledged", |w| {
        w.took_over && w.registry.served == 1 && w.oracle.asked.is_none() && w.left.writes == 0
    });

/// An owner that does not know that it has been replaced; nothing but the fence stops it.
fn fence(more: u8) -> Scenario {
    let bounds = Bounds {
        nodes: 2,
        leases: false,
        state: State::InSync,
        budget: Budget {
            writes: 2 + more,
            takeovers: 1,
            cuts: more,
            keeper_crashes: 1,
            ..Budget::default()
        },
        goals: vec![
            TAKEN_OVER,
            ("the old owner notices", |w| w.took_over && w.nodes[0].process.is_none()),
        ],
    };
    let faults = [
        (Fault::Machine(Mutant::AcceptOlderEpochs), ONE),
        (Fault::Machine(Mutant::AnswerBeforeFence), ONE),
        (Fault::Machine(Mutant::AcknowledgeAlone), ALONE),
        (Fault::Machine(Mutant::IgnoreRefusedSwap), TRUE),
        (Fault::Shell(Shell::NoFence), LOST),
        (Fault::Shell(Shell::SwapAnyEpoch), ONE),
        (Fault::Shell(Shell::WipeAtRestart), ALONE),
    ];
    scenario("dtl-fence", &[NOTHING_LOST, FENCE, DEGRADE, IN_SYNC], bounds, &faults)
}

/// The DTL node comes and goes; the volume degrades, catches up, and is taken over.
fn states(more: u8) -> Scenario {
    let bounds = Bounds {
        nodes: 2,
        leases: true,
        state: State::InSync,
        budget: Budget {
            writes: 2 + more,
            cuts: 1,
            crashes: more,
            restarts: 1,
            takeovers: 1,
            lost_answers: 1,
            ..Budget::default()
        },
        goals: vec![
            TAKEN_OVER,
            ("a degraded volume is in_sync again", |w| {
                w.was_degraded && serves_alone(w, State::InSync) && w.left.writes == 0
            }),
            ("an owner starts again and serves", |w| {
                w.left.restarts == 0 && w.serving(0).is_some()
            }),
            ("a volume serves without its DTL node", |w| {
                serves_alone(w, State::Degraded) && w.oracle.asked.is_none() && w.written > 0
            }),
            ("writes go on while the DTL node catches up", |w| {
                serves_alone(w, State::CatchingUp)
                    && w.nodes[0].process.as_ref().is_some_and(|p| p.copying.is_some())
                    && w.left.writes == 0
                    && w.oracle.asked.is_none()
            }),
        ],
    };
    let faults = [
        (Fault::Machine(Mutant::AcknowledgeWhileDegrading), ALONE),
        (Fault::Machine(Mutant::InSyncTooEarly), TRUE),
        (Fault::Machine(Mutant::GateTooLate), TRUE),
        (Fault::Machine(Mutant::BelieveAnyEnd), TRUE),
        (Fault::Shell(Shell::TakeOverDegraded), LOST),
    ];
    scenario("dtl-states", &[NOTHING_LOST, DEGRADE, IN_SYNC], bounds, &faults)
}

/// Leases, reads, and the backend.
fn leases(more: u8) -> Scenario {
    let bounds = Bounds {
        nodes: 3,
        leases: true,
        state: State::InSync,
        budget: Budget {
            writes: 2,
            reads: 1,
            uploads: 1,
            takeovers: 2,
            cuts: more,
            ..Budget::default()
        },
        goals: vec![
            ("a third node takes over from the second", |w| {
                w.registry.served == 2 && w.left.takeovers == 0 && w.oracle.asked.is_none()
            }),
            ("an owner starts again and serves", |w| {
                w.left.restarts == 0 && w.serving(0).is_some()
            }),
            ("the DTL node drops what is on the backend", |w| {
                !w.backend.is_empty() && !w.released.is_empty() && w.tail.batches.is_empty()
            }),
        ],
    };
    let faults = [
        (Fault::Machine(Mutant::ServeWithoutLease), STALE),
        (Fault::Machine(Mutant::TrimUnsaved), SAVED),
        (Fault::Shell(Shell::PreferLocal), LOST),
    ];
    scenario("dtl-leases", &[READS, SAFE, NOTHING_LOST], bounds, &faults)
}

/// The DTL node's disk is full, and connections overlap.
fn disks(more: u8) -> Scenario {
    let bounds = Bounds {
        nodes: 2,
        leases: true,
        state: State::Degraded,
        budget: Budget {
            writes: 2 + more,
            full: 2,
            cuts: 1 + more,
            stale: 1,
            takeovers: 1,
            ..Budget::default()
        },
        goals: vec![
            ("in_sync after a full disk", |w| {
                w.left.full == 0 && serves_alone(w, State::InSync) && w.left.writes == 0
            }),
            ("a DTL node whose disk is full holds nobody up", |w| {
                let alone = serves_alone(w, State::Degraded) && w.oracle.asked.is_none();
                w.left.full == 0 && w.left.cuts > 0 && w.written > 1 && alone
            }),
        ],
    };
    let faults = [
        (Fault::Machine(Mutant::AcknowledgeUnwritten), ALONE),
        (Fault::Machine(Mutant::BelieveOldConnections), TRUE),
    ];
    scenario("dtl-disks", &[IN_SYNC, DEGRADE], bounds, &faults)
}

/// Everything loses power.
fn power(more: u8) -> Scenario {
    let bounds = Bounds {
        nodes: 2,
        leases: true,
        state: State::InSync,
        budget: Budget {
            writes: 2 + more,
            flushes: 1,
            crashes: 1,
            restarts: 1,
            takeovers: 1,
            blackouts: 1,
            ..Budget::default()
        },
        goals: vec![
            ("the last owner serves after a blackout", |w| {
                w.dark && w.serving(0).is_some() && w.written > 0
            }),
            ("a node that may not take over hands the volume back", |w| {
                w.dark && w.left.takeovers == 0 && w.registry.owner == 0
            }),
        ],
    };
    let faults = [
        (Fault::Shell(Shell::TrustAfterPowerLoss), KEPT),
        (Fault::Shell(Shell::TakeBehindHole), KEPT),
        (Fault::Machine(Mutant::WipeWhileInSync), KEPT),
    ];
    scenario("dtl-power", &[POWER], bounds, &faults)
}

/// The scenarios of the DTL.
pub fn scenarios(level: u32) -> Vec<Scenario> {
    let more = level.min(200) as u8;
    let pairs = super::pairs::scenario(more, IN_SYNC);
    vec![fence(more), states(more), leases(more), disks(more), power(more), pairs]
}
