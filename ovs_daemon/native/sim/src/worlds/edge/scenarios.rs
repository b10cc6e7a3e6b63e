//! The worlds of the Edge session that are explored.

use machines::edge::{Ending, Mutant, Phase};

use super::follow::{self, CERTAIN, DOOR, FollowWorld, ROUND};
use super::preempt::{self, PreemptWorld, STILL, TAKEN};
use super::{Bounds, EPOCH, EdgeWorld, Faults, LINEAR, ONCE, OWNER, PROGRESS, Request};
use crate::scenario::Scenario;

const ANSWERS: (&str, &str) =
    (ONCE, "every request is completed once, and sent once on each connection");
const DISK: (&str, &str) = (
    LINEAR,
    "all answers fit one order of the requests in which each takes effect once, between its \
     submission and its answer",
);
const MEMORY: (&str, &str) = (
    OWNER,
    "an engine is asked, and memory given back, only when no other engine may still use it",
);
const GIVEN_UP: (&str, &str) = (
    TAKEN,
    "once it is acknowledged that a volume was taken away from a host, no write of that host is \
     executed",
);
const READS: (&str, &str) = (
    STILL,
    "once a host that was given the volume is let in, and reads, no write of one that had it before, \
     or of itself before it was booted, is executed",
);
const EPOCHS: (&str, &str) = (EPOCH, "no engine serves after one with a newer epoch");
const FORGOTTEN: (&str, &str) =
    (PROGRESS, "in every state: while a request has no answer, something is on its way");

fn name_of(mutant: Mutant) -> &'static str {
    match mutant {
        Mutant::NoGate => "overlapping writes are on their way together",
        Mutant::BelieveOldGenerations => "answers of earlier connections are believed",
        Mutant::SameGeneration => "all connections have the same number",
        Mutant::KeepAnswered => "an answered request stays in the table",
        Mutant::NoReplay => "nothing is sent again",
        Mutant::ForgetInFlight => "what a lost engine had is dropped",
        Mutant::ReplayBackwards => "requests are sent again in reverse order",
        Mutant::AnyEpoch => "an older epoch is accepted",
        Mutant::GiveUpEarly => "memory is given back before the engine let go",
        Mutant::StayWithOldOwner => "an outdated owner is not left",
        Mutant::OneTargetOnly => "the same target is tried for ever",
        Mutant::NoDoor => "an earlier connection goes on beside a later one",
        Mutant::DoorWithoutWait => "what an earlier connection had sent is not waited for",
        Mutant::AnyConnection => "an earlier connection ends a later one",
        Mutant::CloseWhileReading => "an engine closes what it still reads for",
        Mutant::EarlierGeneration => "a token of an earlier generation is let in",
        Mutant::NoShutOut => "a later generation is let in beside an earlier one",
        Mutant::ShutOutWithoutWait => "what an earlier generation had sent is not waited for",
        Mutant::ForgetGeneration => "the next owner forgets the generation",
        Mutant::TokenWithoutAttachment => "a host that lost the volume gets a new token",
        Mutant::BelieveGivenUp => "an engine that was given up counts as one that has finished",
        Mutant::BelieveTurnedAway => {
            "an engine that never let the connection in counts as one that has finished"
        }
        Mutant::KeepGeneration => "a host that is not certain raises no generation",
        Mutant::ForgetHost => "a host that was booted is taken for another one",
    }
}

fn scenario(
    name: &'static str,
    invariants: &[(&'static str, &'static str)],
    bounds: Bounds,
    mutants: &[(Mutant, &'static str)],
) -> Scenario {
    let bounds: &'static Bounds = Box::leak(Box::new(bounds));
    let requests: u8 = bounds.menu.iter().map(|(_, times)| times).sum();
    let faults = &bounds.faults;
    let mut text = format!("{requests} requests, {} at a time", bounds.outstanding);
    let counts = [
        (faults.crashes, "crashes"),
        (faults.ghosts, "ghosts"),
        (faults.stops, "stops"),
        (faults.deletes, "deletes"),
        (faults.refusals, "refusals"),
        (faults.duplicates, "double answers"),
        (faults.detaches, "detaches"),
    ];
    for (count, what) in counts {
        if count > 0 {
            text += &format!(", {count} {what}");
        }
    }
    let start = EdgeWorld::new(bounds, None);
    let mut made = Scenario::new(name, "machines::edge", text, invariants, start);
    for (mutant, caught_by) in mutants {
        if cfg!(feature = "mutants") {
            let start = EdgeWorld::new(bounds, Some(*mutant));
            made = made.mutant(name_of(*mutant), caught_by, start);
        }
    }
    made
}

/// Overlapping writes and reads across crashes.
fn replay(more: u8) -> Scenario {
    let menu = vec![(Request::Write(0), 2), (Request::WriteBoth, more), (Request::Read(0), 2)];
    let bounds = Bounds {
        menu,
        outstanding: 3,
        credits: 3,
        restored: true,
        faults: Faults { crashes: 1 + more, ..Faults::default() },
        goals: vec![
            ("everything is answered after all crashes", |w| {
                w.left.crashes == 0 && all_answered(w)
            }),
            ("a request is sent again", |w| w.replayed),
            ("a write waits for another one to the same place", |w| {
                w.session.phase() == Phase::Ready
                    && w.outstanding.len() == 2
                    && w.open_link().is_some_and(|link| link.ring.len() == 1)
            }),
        ],
    };
    let mutants = [
        (Mutant::NoGate, LINEAR),
        (Mutant::NoReplay, PROGRESS),
        (Mutant::ForgetInFlight, PROGRESS),
        (Mutant::ReplayBackwards, LINEAR),
    ];
    scenario("edge-replay", &[DISK, FORGOTTEN], bounds, &mutants)
}

/// Engines that come, go, haunt and refuse.
fn engines(more: u8) -> Scenario {
    let bounds = Bounds {
        menu: vec![(Request::Write(0), 1), (Request::Read(0), 1)],
        outstanding: 1 + usize::from(more),
        credits: 1,
        restored: false,
        faults: Faults { crashes: 2, ghosts: 1, refusals: 1, vain: 1, ..Faults::default() },
        goals: vec![
            ("everything is answered after all that can go wrong", |w| {
                w.left == Faults::default() && all_answered(w)
            }),
            ("a ghost is refused", |w| {
                w.engine.is_some_and(|engine| engine.ghost)
                    && w.open_link().is_some_and(|link| link.leaving)
            }),
            ("a first handshake is refused", |w| w.ended == Some(Ending::Refused)),
            ("a first engine dies in the handshake", |w| w.ended == Some(Ending::Unreachable)),
        ],
    };
    scenario("edge-engines", &[EPOCHS], bounds, &[(Mutant::AnyEpoch, EPOCH)])
}

/// Answers that come twice, or from a connection that is over.
fn answers(more: u8) -> Scenario {
    let bounds = Bounds {
        menu: vec![(Request::Write(0), 2 + more), (Request::Read(0), 1)],
        outstanding: 2,
        credits: 2,
        restored: true,
        faults: Faults { crashes: 1, stops: 1, duplicates: 1, ..Faults::default() },
        goals: vec![
            ("everything is answered after all that can go wrong", |w| {
                w.left == Faults::default() && all_answered(w)
            }),
            ("a stopped engine's read is waited for", EdgeWorld::waits_for_read),
        ],
    };
    let mutants = [
        (Mutant::BelieveOldGenerations, OWNER),
        (Mutant::SameGeneration, OWNER),
        (Mutant::KeepAnswered, ONCE),
        (Mutant::CloseWhileReading, OWNER),
    ];
    scenario("edge-answers", &[ANSWERS, MEMORY], bounds, &mutants)
}

fn all_answered(world: &EdgeWorld) -> bool {
    let asked = world.menu.iter().all(|left| *left == 0);
    asked && world.outstanding.is_empty() && world.ended.is_none()
}

/// The end of a session: deleted or detached, with requests on their way.
fn endings(more: u8) -> Scenario {
    let bounds = Bounds {
        menu: vec![(Request::Write(0), 1 + more), (Request::Read(0), 1)],
        outstanding: 2,
        credits: 2,
        restored: false,
        faults: Faults { crashes: 1, deletes: 1, detaches: 1, ..Faults::default() },
        goals: vec![
            ("requests of a deleted volume fail", |w| {
                w.ended == Some(Ending::Deleted) && w.given_up > 0
            }),
            ("requests of a detached volume fail", |w| {
                w.ended == Some(Ending::Detached) && w.given_up > 0
            }),
            ("a detach waits for the engine", |w| {
                w.session.phase() == Phase::Leaving
                    && w.open_link().is_some_and(|link| !link.executed.is_empty())
            }),
        ],
    };
    let mutants = [(Mutant::GiveUpEarly, OWNER)];
    scenario("edge-endings", &[MEMORY], bounds, &mutants)
}

fn follow_scenario(
    name: &'static str,
    invariants: &[(&'static str, &'static str)],
    bounds: follow::Bounds,
    mutants: &[(Mutant, &'static str)],
) -> Scenario {
    let bounds: &'static follow::Bounds = Box::leak(Box::new(bounds));
    let requests: u8 = bounds.menu.iter().map(|(_, times)| times).sum();
    let faults = &bounds.faults;
    let mut text = format!("two hosts, {requests} requests, {} at a time", bounds.outstanding);
    let counts = [
        (faults.cuts, "cuts"),
        (faults.moves, "hand-overs"),
        (faults.takeovers, "takeovers"),
        (faults.crashes, "crashes"),
        (faults.detaches, "detaches"),
    ];
    for (count, what) in counts {
        if count > 0 {
            text += &format!(", {count} {what}");
        }
    }
    let start = FollowWorld::new(bounds, None);
    let mut made = Scenario::new(name, "machines::edge", text, invariants, start);
    for (mutant, caught_by) in mutants {
        if cfg!(feature = "mutants") {
            let start = FollowWorld::new(bounds, Some(*mutant));
            made = made.mutant(name_of(*mutant), caught_by, start);
        }
    }
    made
}

/// Connections that are cut, to an engine that does not know it.
fn cuts(more: u8) -> Scenario {
    let bounds = follow::Bounds {
        menu: vec![(Request::Write(0), 2), (Request::Read(0), 1 + more.min(1))],
        outstanding: 2,
        faults: follow::Faults { cuts: 1 + more, ..follow::Faults::default() },
        goals: vec![
            ("everything is answered after all cuts", FollowWorld::is_done),
            ("a request is sent again", FollowWorld::has_replayed),
            ("a connection waits for an earlier one", FollowWorld::has_waited),
        ],
    };
    let later = (DOOR, "an engine ends a connection of an Edge only for a later one of that Edge");
    let mutants = [
        (Mutant::NoDoor, LINEAR),
        (Mutant::DoorWithoutWait, LINEAR),
        (Mutant::NoReplay, PROGRESS),
        (Mutant::AnyConnection, DOOR),
    ];
    follow_scenario("edge-cuts", &[DISK, FORGOTTEN, later], bounds, &mutants)
}

/// Owners that hand over, freeze, are replaced, crash.
fn owners(more: u8) -> Scenario {
    let bounds = follow::Bounds {
        menu: vec![(Request::Write(0), 2), (Request::Read(0), 2)],
        outstanding: 2,
        faults: follow::Faults {
            cuts: more.min(1),
            moves: 1,
            takeovers: 1,
            crashes: more.min(2),
            detaches: 0,
        },
        goals: vec![
            ("everything is answered after all that can go wrong", FollowWorld::is_done),
            ("the other host serves while the first is frozen", FollowWorld::serves_elsewhere),
            ("a frozen owner keeps requests waiting", FollowWorld::is_stuck),
        ],
    };
    let rounds = (ROUND, "no pause begins before each target was tried since the last one");
    let mutants = [
        (Mutant::StayWithOldOwner, EPOCH),
        (Mutant::OneTargetOnly, ROUND),
        (Mutant::ForgetInFlight, PROGRESS),
        (Mutant::NoGate, LINEAR),
    ];
    follow_scenario("edge-owners", &[DISK, EPOCHS, FORGOTTEN, rounds], bounds, &mutants)
}

/// A session that is detached, and what it says then.
fn leaves(more: u8) -> Scenario {
    let bounds = follow::Bounds {
        menu: vec![(Request::Write(0), 1 + more.min(1)), (Request::Read(0), 1)],
        outstanding: 2,
        faults: follow::Faults {
            cuts: 1,
            moves: more.min(1),
            takeovers: more.min(1),
            crashes: more.min(1),
            detaches: 1,
        },
        goals: vec![
            ("one is certain that what it sent twice has ended", FollowWorld::is_certain),
            ("one is not certain, and is right", FollowWorld::is_uncertain),
        ],
    };
    let certain = (
        CERTAIN,
        "when a session that is over says that all has ended, no engine executes a write of it any \
         more",
    );
    let mutants = [(Mutant::BelieveGivenUp, CERTAIN), (Mutant::BelieveTurnedAway, CERTAIN)];
    follow_scenario("edge-leaves", &[certain], bounds, &mutants)
}

fn preempt_scenario(
    name: &'static str,
    invariants: &[(&'static str, &'static str)],
    bounds: preempt::Bounds,
    mutants: &[(Mutant, &'static str)],
) -> Scenario {
    let bounds: &'static preempt::Bounds = Box::leak(Box::new(bounds));
    let preempt::Bounds { preempts, let_goes, connections, boots, writes, owners, heard } = bounds;
    let booted = if *boots > 0 { format!(", booted {boots} times") } else { String::new() };
    let told = if *heard { "" } else { ", which hear nothing of it" };
    let text = format!(
        "two hosts, taken away {preempts} times, let go {let_goes} times{booted}, \
         {connections} connections each, {writes} writes, {owners} further owners{told}"
    );
    let start = PreemptWorld::new(bounds, None);
    let mut made = Scenario::new(name, "machines::edge", text, invariants, start);
    for (mutant, caught_by) in mutants {
        if cfg!(feature = "mutants") {
            let start = PreemptWorld::new(bounds, Some(*mutant));
            made = made.mutant(name_of(*mutant), caught_by, start);
        }
    }
    made
}

/// A volume is taken away, and the owner hears of it.
fn preempts(more: u8) -> Scenario {
    let bounds = preempt::Bounds {
        preempts: 1 + more.min(1),
        let_goes: 0,
        connections: 2,
        boots: 0,
        writes: 3,
        owners: 1,
        heard: true,
    };
    let mutants = [
        (Mutant::EarlierGeneration, TAKEN),
        (Mutant::ShutOutWithoutWait, TAKEN),
        (Mutant::ForgetGeneration, TAKEN),
        (Mutant::TokenWithoutAttachment, TAKEN),
    ];
    preempt_scenario("edge-preempts", &[GIVEN_UP], bounds, &mutants)
}

/// The owner's daemon hears nothing: tokens are all that tells of it.
fn tokens(more: u8) -> Scenario {
    let bounds = preempt::Bounds {
        preempts: 2,
        let_goes: 0,
        connections: 2,
        boots: 0,
        writes: 3 + more.min(1),
        owners: 1,
        heard: false,
    };
    let mutants = [(Mutant::NoShutOut, STILL), (Mutant::ShutOutWithoutWait, STILL)];
    preempt_scenario("edge-tokens", &[READS], bounds, &mutants)
}

/// A host lets go of the volume by itself, and is certain that its writes have ended, or not.
fn lets_go(more: u8) -> Scenario {
    let bounds = preempt::Bounds {
        preempts: more.min(1),
        let_goes: 1,
        connections: 2,
        boots: 0,
        writes: 2 + more.min(1),
        owners: 1,
        heard: true,
    };
    let mutants = [(Mutant::KeepGeneration, STILL), (Mutant::ShutOutWithoutWait, TAKEN)];
    preempt_scenario("edge-lets-go", &[GIVEN_UP, READS], bounds, &mutants)
}

/// A host's power fails, and it comes back as another Edge while the engine still has its writes; it may
/// let go of the volume then, certain or not.
fn boots(more: u8) -> Scenario {
    let bounds = preempt::Bounds {
        preempts: more.min(1),
        let_goes: 1,
        connections: 2,
        boots: 1,
        writes: 2,
        owners: 0,
        heard: true,
    };
    let mutants = [
        (Mutant::ForgetHost, STILL),
        (Mutant::KeepGeneration, STILL),
        (Mutant::ShutOutWithoutWait, TAKEN),
    ];
    preempt_scenario("edge-boots", &[GIVEN_UP, READS], bounds, &mutants)
}

/// All worlds of the session; higher levels allow more.
pub fn scenarios(level: u32) -> Vec<Scenario> {
    let more = level.min(3) as u8;
    vec![
        replay(more),
        engines(more),
        answers(more),
        endings(more),
        cuts(more),
        owners(more),
        leaves(more),
        preempts(more),
        tokens(more),
        lets_go(more),
        boots(more),
    ]
}
