//! The scenarios: bounds, invariants, mutants.

use machines::mds::Mutant;
use machines::mds::feed::State;

use super::{Bounds, Budget, EXACT, FED, FENCE, Fault, LAG, MdsWorld, TAKEN, Taken, Wanted, parts};
use crate::scenario::Scenario;

const PROMISE_EXACT: (&str, &str) =
    (EXACT, "a follower that says it is at a sequence has the map of its feeder's log up to there");
const PROMISE_TAKEN: (&str, &str) =
    (TAKEN, "a node that goes on with its warm map serves what recovery from the log would");
const PROMISE_FED: (&str, &str) = (
    FED,
    "an owner feeds a follower only from a place in its own log, and leaves nothing out after it",
);
const PROMISE_FENCE: (&str, &str) =
    (FENCE, "a follower that has heard an owner takes nothing from one before it");
const PROMISE_LAG: (&str, &str) =
    (LAG, "a follower that does not keep up is let go of before more than so much is on its way");

fn words(bounds: &Bounds) -> String {
    let Budget { writes, uploads, checkpoints, evictions, dials, cuts, omissions, crashes, owners } =
        bounds.budget;
    let parts = [
        (writes, "batches"),
        (uploads, "uploads"),
        (checkpoints, "checkpoints"),
        (evictions, "evictions"),
        (dials, "connections"),
        (cuts, "cuts"),
        (omissions, "left-out frames"),
        (crashes, "crashes"),
        (owners, "further owners"),
    ];
    let there = parts.iter().filter(|(count, _)| *count > 0);
    there.map(|(count, what)| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
}

fn scenario(
    name: &'static str,
    invariants: &[(&'static str, &'static str)],
    bounds: Bounds,
    faults: &[(Fault, &'static str, &'static str)],
) -> Scenario {
    let bounds: &'static Bounds = Box::leak(Box::new(bounds));
    let start = MdsWorld::new(bounds, None);
    let mut made = Scenario::new(name, "machines::mds", words(bounds), invariants, start);
    for (fault, title, caught_by) in faults {
        if cfg!(feature = "mutants") {
            made = made.mutant(title, caught_by, MdsWorld::new(bounds, Some(*fault)));
        }
    }
    made
}

/// The follower has all that the newest owner has written.
fn is_level(world: &MdsWorld) -> bool {
    let owner = world.newest();
    let end = world.follower.as_ref().and_then(|follower| follower.end());
    owner.feed.state() == State::Fed && end == Some(parts::end_of(&owner.log).mark)
}

const LEVEL: Wanted = ("a follower has everything", |w| w.left.writes == 0 && is_level(w));
const COMPLETED: Wanted = ("a warm map is taken and completed from the log", |w| {
    w.taken == Some(Taken::Completed) && w.left.writes == 0
});

/// One owner: the follower begins, falls behind, loads, and is taken.
fn follow(more: u8) -> Scenario {
    let bounds = Bounds {
        frames: 1,
        budget: Budget {
            writes: 4 + more,
            uploads: 1,
            checkpoints: 1,
            evictions: 1,
            dials: 2,
            cuts: 1,
            omissions: 1,
            crashes: 1,
            owners: 0,
        },
        goals: vec![
            LEVEL,
            COMPLETED,
            ("a warm map is taken as it is", |w| {
                w.taken == Some(Taken::Warm) && w.left.writes == 0
            }),
            ("one begins from the backend after the buffer has let go", |w| {
                w.left.evictions == 0 && w.left.crashes == 0 && w.left.dials == 0 && is_level(w)
            }),
            ("one that was let go of is fed again", |w| w.let_go && is_level(w)),
        ],
    };
    let machine = Fault::Machine;
    let faults = [
        (machine(Mutant::IgnoreGap), "a gap is overlooked", EXACT),
        (machine(Mutant::KeepUnfinished), "an unfinished SCO outlives its connection", EXACT),
        (machine(Mutant::SkipWhatIsGone), "what left the buffer is left out", FED),
        (machine(Mutant::NeverLetGo), "one that does not keep up is fed on", LAG),
    ];
    let promises = [PROMISE_EXACT, PROMISE_FED, PROMISE_LAG];
    scenario("mds-follow", &promises, bounds, &faults)
}

/// Another owner writes another log, and the former one does not know.
fn owners(more: u8) -> Scenario {
    let bounds = Bounds {
        frames: 2,
        budget: Budget {
            writes: 4 + more,
            uploads: 0,
            dials: 2 + more,
            owners: 1,
            ..Budget::default()
        },
        goals: vec![
            LEVEL,
            COMPLETED,
            ("a map of another log is refused", |w| w.taken == Some(Taken::Refused)),
            ("one that followed the former owner follows the next", |w| {
                w.owners.len() == 2 && w.left.dials == 0 && is_level(w) && w.greeted == 2
            }),
            ("one that stands in another log loads again", |w| {
                w.reloaded && w.owners.len() == 2 && w.left.writes == 0
            }),
        ],
    };
    let machine = Fault::Machine;
    let faults = [
        (machine(Mutant::AcceptOlderEpochs), "a follower listens to an older owner", FENCE),
        (machine(Mutant::BelieveOldConnections), "an old connection is believed", FENCE),
        (machine(Mutant::ForgetUnclosed), "a SCO without a closing is forgotten", EXACT),
        (machine(Mutant::BelieveAnyPlace), "a place of another log is believed", FED),
        (Fault::TakeUnverified, "a map is taken without a look at the log", TAKEN),
    ];
    let promises = [PROMISE_EXACT, PROMISE_FED, PROMISE_FENCE, PROMISE_TAKEN];
    scenario("mds-owners", &promises, bounds, &faults)
}

/// The scenarios of warm maps.
pub fn scenarios(level: u32) -> Vec<Scenario> {
    let more = level.min(200) as u8;
    vec![follow(more), owners(more)]
}
