//! Which fragment of an object goes to which disk.
//!
//! A pure function of the disks and the object's number, so that whoever knows them finds the
//! fragments. Each group gets a Domain of its own, each fragment a disk of its own, a node never
//! more than x of them. Which Domains and disks are chosen, among those that may be, follows from
//! hashes: objects spread evenly over all disks.

use alloc::vec::Vec;
use core::fmt;

use super::policy::Policy;

#[cfg(test)]
extern crate std;

/// A disk that may take a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// A number that stays with it for life.
    pub id: u64,
    /// Number of its Domain.
    pub domain: u32,
    /// Number of its node.
    pub node: u32,
}

/// What is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// Too few Domains.
    Domains {
        /// How many the policy needs.
        needed: usize,
        /// How many have disks.
        found: usize,
    },
    /// Too few Domains with so many disks on enough nodes.
    Disks {
        /// Domains that need so many.
        domains: usize,
        /// Fragments of a group, for each of which a disk is needed.
        needed: usize,
        /// How many of the Domains have room for them.
        found: usize,
        /// At most so many disks of a node count.
        node_max: usize,
    },
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Domains { needed, found } => {
                write!(f, "it needs {needed} Domains with disks, and there are {found}")
            }
            Self::Disks { domains, needed, found, node_max } => write!(
                f,
                "it needs {needed} disks, at most {node_max} of them on one node, in each of \
                 {domains} Domains, and {found} have that"
            ),
        }
    }
}

/// Planted faults: each breaks one rule, and the test over all small clusters must notice.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// A Domain gets two groups.
    SameDomain,
    /// x is ignored.
    IgnoreNodeMax,
    /// A disk gets two fragments.
    SameDisk,
    /// Only the number of a Domain's disks counts, not on how many nodes they are.
    CountDisksOnly,
    /// Smaller groups come before larger ones.
    SmallFirst,
}

mutant_of_this_thread!();

/// The finalizer of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number
/// generators, 2014): every bit of the input changes half of the output.
pub fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A Domain's disks.
struct Room {
    domain: u32,
    /// Places in the slice of all disks.
    disks: Vec<usize>,
    /// Fragments that it can take.
    capacity: usize,
}

/// Disks by node, and how many fragments of one object they can take.
fn capacity(nodes: &[(u32, usize)], node_max: usize) -> usize {
    nodes
        .iter()
        .map(|(_, disks)| if planted!(CountDisksOnly) { *disks } else { node_max.min(*disks) })
        .sum()
}

/// Nodes of some disks with the number of their disks.
fn by_node(all: &[Disk], chosen: &[usize]) -> Vec<(u32, usize)> {
    let mut nodes: Vec<(u32, usize)> = Vec::new();
    for disk in chosen {
        match nodes.iter_mut().find(|(node, _)| *node == all[*disk].node) {
            Some((_, count)) => *count += 1,
            None => nodes.push((all[*disk].node, 1)),
        }
    }
    nodes
}

fn rooms(policy: &Policy, disks: &[Disk], object: u64) -> Vec<Room> {
    let mut rooms: Vec<Room> = Vec::new();
    for (place, disk) in disks.iter().enumerate() {
        match rooms.iter_mut().find(|room| room.domain == disk.domain) {
            Some(room) => room.disks.push(place),
            None => rooms.push(Room { domain: disk.domain, disks: [place].into(), capacity: 0 }),
        }
    }
    for room in &mut rooms {
        room.capacity = capacity(&by_node(disks, &room.disks), policy.node_max());
        room.disks.sort_by_key(|disk| (mix(object ^ mix(disks[*disk].id)), disks[*disk].id));
    }
    rooms.sort_by_key(|room| (mix(object ^ mix(!u64::from(room.domain))), room.domain));
    rooms
}

/// `needed` of a room's disks, spread over its nodes as evenly as they allow.
fn choose(disks: &[Disk], room: &Room, needed: usize, node_max: usize) -> Vec<usize> {
    let nodes = by_node(disks, &room.disks);
    let mut limit = 1;
    while limit < node_max && capacity(&nodes, limit) < needed {
        limit += 1;
    }
    if planted!(IgnoreNodeMax) {
        limit = needed;
    }
    let mut chosen: Vec<usize> = Vec::with_capacity(needed);
    for disk in &room.disks {
        let mine = chosen.iter().filter(|other| disks[**other].node == disks[*disk].node);
        if chosen.len() < needed && mine.count() < limit {
            chosen.push(*disk);
        }
    }
    if planted!(SameDisk) && chosen.len() > 1 {
        chosen[1] = chosen[0];
    }
    chosen
}

/// Disks for the fragments that have none: `(fragment, place of its disk in disks)`. `placed`: for
/// each fragment of the object its disk, if it is on one of `disks`. A group stays in its Domain; one
/// of which nothing is left gets a Domain that has none of the others. A fragment for which there is
/// no disk is left out.
pub fn refill(
    policy: &Policy,
    disks: &[Disk],
    placed: &[Option<usize>],
    object: u64,
) -> Vec<(usize, usize)> {
    let layout = policy.layout();
    let mut placed = placed.to_vec();
    let mut targets = Vec::new();
    let rooms = rooms(policy, disks, object);
    for group in 0..layout.domains() {
        let fragments = || layout.members(group).chain(layout.locals(group));
        let taken =
            |room: &Room| placed.iter().flatten().any(|disk| disks[*disk].domain == room.domain);
        let home = fragments().find_map(|fragment| placed[fragment]);
        let room = match home {
            Some(disk) => rooms.iter().find(|room| room.domain == disks[disk].domain),
            None => rooms.iter().filter(|room| !taken(room)).max_by_key(|room| room.capacity),
        };
        let Some(room) = room else { continue };
        for fragment in fragments() {
            if placed[fragment].is_some() {
                continue;
            }
            let on_node = |node: u32| {
                placed.iter().flatten().filter(|disk| disks[**disk].node == node).count()
            };
            // The emptiest node first, so that a group spreads as a new one would.
            let free = room.disks.iter().copied().filter(|disk| !placed.contains(&Some(*disk)));
            let target = free.min_by_key(|disk| on_node(disks[*disk].node));
            let target = target.filter(|disk| on_node(disks[*disk].node) < policy.node_max());
            if let Some(disk) = target {
                placed[fragment] = Some(disk);
                targets.push((fragment, disk));
            }
        }
    }
    targets
}

/// For each fragment of the object the place of its disk in `disks`, which has every disk that may
/// take one, each once.
pub fn place(policy: &Policy, disks: &[Disk], object: u64) -> Result<Vec<usize>, Shortage> {
    let layout = policy.layout();
    let mut rooms = rooms(policy, disks, object);
    let groups = layout.domains();
    if rooms.len() < groups {
        return Err(Shortage::Domains { needed: groups, found: rooms.len() });
    }
    let mut placed = alloc::vec![0; layout.fragments()];
    // Groups come largest first: a Domain that has room for a large one is never wasted on a small
    // one while a large one waits.
    for turn in 0..groups {
        let group = if planted!(SmallFirst) { groups - 1 - turn } else { turn };
        let members = layout.member_count(group);
        let needed = members + layout.local();
        let fits = |room: &Room| room.capacity >= needed;
        let Some(found) = rooms.iter().position(fits) else {
            let like_it = |other: &usize| layout.member_count(*other) == members;
            return Err(Shortage::Disks {
                domains: (0..groups).filter(like_it).count(),
                needed,
                found: (0..group).filter(like_it).count(),
                node_max: policy.node_max(),
            });
        };
        let chosen = choose(disks, &rooms[found], needed, policy.node_max());
        for (fragment, disk) in layout.members(group).chain(layout.locals(group)).zip(chosen) {
            placed[fragment] = disk;
        }
        if !planted!(SameDomain) {
            rooms.remove(found);
        }
    }
    Ok(placed)
}
