//! Every way in which an OSD can leave while somebody puts an object and has heard of it or not.

use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;

use super::parting::{MUTANT, Mutant, Proof, Standing, counts, keeps, next_standing, takes};

/// Disks: the one that leaves, and those that stay. An object has two fragments, of which one is
/// enough to read it, and both are needed to acknowledge it: k = 1, m = 1, c = 2.
const LEAVER: usize = 0;
const DISKS: usize = 4;
const FRAGMENTS: usize = 2;

/// Somebody who puts the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Put {
    /// It has not begun.
    Idle,
    /// It has chosen the disks of its fragments; which of them were asked, and which have answered
    /// that it is stored.
    Storing { on: [usize; FRAGMENTS], asked: [bool; FRAGMENTS], stored: [bool; FRAGMENTS] },
    /// It was acknowledged.
    Acknowledged,
    /// It has failed, or was cut off.
    Over,
}

/// Whoever removes: what it is looking at. Disks are looked at one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Look {
    /// The next disk.
    at: usize,
    /// It was sealed, or all had heard, when it began.
    after: bool,
    /// By fragment: seen on the leaver, and elsewhere.
    here: [bool; FRAGMENTS],
    elsewhere: [bool; FRAGMENTS],
    /// A disk did not answer.
    hidden: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct World {
    /// By disk and fragment.
    has: [[bool; FRAGMENTS]; DISKS],
    standing: Standing,
    /// What the putter has heard of the leaver's standing.
    heard: Standing,
    /// The leaver has noted that it is sealed.
    sealed: bool,
    put: Put,
    look: Option<Look>,
    /// A disk that stays and does not answer for a while.
    away: Option<usize>,
    outages: u8,
    /// How often a copy was made.
    moves: u8,
}

struct Space {
    lost: bool,
}

impl Space {
    fn heard(world: &World, out: &mut Vec<World>) {
        if world.heard != world.standing {
            let mut next = world.clone();
            next.heard = world.standing;
            out.push(next);
        }
    }

    /// The put, which was or was not told of the leaver when it chose.
    fn puts(&self, world: &World, out: &mut Vec<World>) {
        let mut to = |put: Put, change: &dyn Fn(&mut World)| {
            let mut next = World { put, ..world.clone() };
            change(&mut next);
            out.push(next);
        };
        match world.put {
            Put::Idle => {
                let (asked, stored) = ([false; FRAGMENTS], [false; FRAGMENTS]);
                if world.heard == Standing::Member {
                    to(Put::Storing { on: [LEAVER, 1], asked, stored }, &|_| ());
                }
                to(Put::Storing { on: [2, 1], asked, stored }, &|_| ());
            }
            Put::Storing { on, asked, stored } => {
                to(Put::Over, &|_| ());
                for one in 0..FRAGMENTS {
                    let disk = on[one];
                    let gone = disk == LEAVER && !world.heard.is_asked();
                    if !asked[one] && !gone {
                        let mut asked = asked;
                        asked[one] = true;
                        to(Put::Storing { on, asked, stored }, &|_| ());
                    }
                    // What is on its way arrives some time.
                    let full = disk == LEAVER && !takes(world.sealed);
                    if asked[one] && !stored[one] && !full && world.away != Some(disk) {
                        let mut stored = stored;
                        stored[one] = true;
                        to(Put::Storing { on, asked, stored }, &|next| next.has[disk][one] = true);
                    }
                }
                let counted = |one: usize| {
                    let standing = if on[one] == LEAVER { world.heard } else { Standing::Member };
                    stored[one] && counts(standing)
                };
                if (0..FRAGMENTS).all(counted) {
                    to(Put::Acknowledged, &|_| ());
                }
            }
            Put::Acknowledged | Put::Over => {}
        }
    }

    /// What is on the leaver alone is copied, once its object is known to be stored.
    fn moves(&self, world: &World, out: &mut Vec<World>) {
        let readable = (0..DISKS).any(|disk| world.has[disk].contains(&true));
        if world.moves == 0 || !readable || world.standing == Standing::Member {
            return;
        }
        for one in 0..FRAGMENTS {
            let elsewhere = (1..DISKS).any(|disk| world.has[disk][one]);
            // Of one that is lost it is computed from the others.
            let enough = world.has.iter().filter(|has| has.contains(&true)).count() >= 2
                || self.lost && world.has[1..].iter().any(|has| has.contains(&true));
            if !elsewhere && enough {
                let mut next = world.clone();
                next.has[3][one] = true;
                next.moves -= 1;
                out.push(next);
            }
        }
    }

    fn looks(&self, world: &World, out: &mut Vec<World>) {
        if world.standing == Standing::Removed {
            return;
        }
        let Some(look) = world.look else {
            if world.standing != Standing::Member {
                let after = if self.lost {
                    world.heard == Standing::Lost
                } else {
                    world.sealed && world.standing == Standing::Sealed
                };
                let nothing = [false; FRAGMENTS];
                let look = Look { at: 0, after, here: nothing, elsewhere: nothing, hidden: false };
                out.push(World { look: Some(look), ..world.clone() });
            }
            return;
        };
        let mut next = world.clone();
        if look.at < DISKS {
            let mut look = look;
            let unseen = world.away == Some(look.at) || self.lost && look.at == LEAVER;
            // Who does not see the leaver that is to be emptied has seen nothing.
            look.hidden |= unseen && look.at != LEAVER;
            for one in 0..FRAGMENTS {
                let there = world.has[look.at][one] && !unseen;
                let seen = if look.at == LEAVER { &mut look.here } else { &mut look.elsewhere };
                seen[one] |= there;
            }
            look.at += 1;
            next.look = Some(look);
        } else {
            let seen = |one: usize| look.here[one] || look.elsewhere[one];
            let all = (0..FRAGMENTS).filter(|one| seen(*one)).count();
            let alone = |one: &usize| look.here[*one] && !look.elsewhere[*one] && keeps(all == 2);
            let proof = Proof {
                alone: (0..FRAGMENTS).filter(alone).count() as u64,
                short: u64::from(all == 1),
                hidden: look.hidden,
                after: look.after,
            };
            next.look = None;
            if let Some(standing) = next_standing(world.standing, &proof) {
                next.standing = standing;
            }
        }
        out.push(next);
    }

    fn successors(&self, world: &World) -> Vec<World> {
        let mut out = Vec::new();
        if world.standing == Standing::Member {
            let standing = if self.lost { Standing::Lost } else { Standing::Leaving };
            out.push(World { standing, ..world.clone() });
        }
        if world.standing == Standing::Sealed && !world.sealed {
            out.push(World { sealed: true, ..world.clone() });
        }
        if world.outages > 0 && world.away.is_none() {
            for disk in 1..DISKS {
                let outages = world.outages - 1;
                out.push(World { away: Some(disk), outages, ..world.clone() });
            }
        }
        if world.away.is_some() {
            out.push(World { away: None, ..world.clone() });
        }
        Self::heard(world, &mut out);
        self.puts(world, &mut out);
        self.moves(world, &mut out);
        self.looks(world, &mut out);
        out
    }

    /// An acknowledged object has c fragments on disks that are not forgotten.
    fn check(&self, world: &World) -> Result<(), &'static str> {
        if world.put != Put::Acknowledged || world.standing != Standing::Removed {
            return Ok(());
        }
        let there = |one: usize| (1..DISKS).any(|disk| world.has[disk][one]);
        if (0..FRAGMENTS).all(there) {
            return Ok(());
        }
        Err("what is acknowledged has c fragments on disks that stay")
    }
}

/// All worlds; how many, and whether the disk was ever removed.
fn explore(lost: bool) -> Result<(usize, bool), &'static str> {
    let space = Space { lost };
    let start = World {
        has: [[false; FRAGMENTS]; DISKS],
        standing: Standing::Member,
        heard: Standing::Member,
        sealed: false,
        put: Put::Idle,
        look: None,
        away: None,
        outages: 1,
        moves: 2,
    };
    let mut known = BTreeSet::from([start.clone()]);
    let mut open = VecDeque::from([start]);
    let mut removed = false;
    while let Some(world) = open.pop_front() {
        for next in space.successors(&world) {
            space.check(&next)?;
            removed |= next.standing == Standing::Removed && next.put == Put::Acknowledged;
            if known.insert(next.clone()) {
                open.push_back(next);
            }
        }
    }
    Ok((known.len(), removed))
}

#[test]
fn no_disk_leaves_with_what_somebody_needs() {
    for lost in [false, true] {
        let (worlds, removed) = explore(lost).unwrap();
        assert!(worlds > 1000 && removed, "{worlds} {removed}");
    }
}

#[test]
fn every_planted_fault_is_noticed() {
    for (mutant, lost) in [
        (Mutant::NoSeal, false),
        (Mutant::EarlyLook, false),
        (Mutant::EarlyLook, true),
        (Mutant::NotEmpty, false),
        (Mutant::NotShort, true),
        (Mutant::NotHidden, true),
        (Mutant::ObjectsOnly, false),
        (Mutant::CountLost, true),
        (Mutant::OpenSeal, false),
    ] {
        MUTANT.set(Some(mutant));
        let found = explore(lost);
        MUTANT.set(None);
        assert!(found.is_err(), "{mutant:?}, lost: {lost}: nobody notices");
    }
}

#[test]
fn standings_have_names() {
    for standing in
        [Standing::Member, Standing::Leaving, Standing::Sealed, Standing::Lost, Standing::Removed]
    {
        assert_eq!(Standing::named(standing.name()), Some(standing));
    }
    assert_eq!(Standing::named("dancing"), None);
}
