//! Placement over every small cluster and every loss that a policy promises to survive.

use alloc::vec::Vec;

use super::layout::{Layout, Set};
use super::placement::{Disk, MUTANT, Mutant, Shortage, place, refill};
use super::plan::{Step, plan};
use super::policy::Policy;

/// (k, m, c, x, Domains, local).
const POLICIES: [[u8; 6]; 8] = [
    [4, 2, 5, 1, 3, 1],
    [4, 2, 6, 2, 3, 1],
    [2, 2, 3, 1, 2, 1],
    [2, 2, 3, 2, 2, 2],
    [3, 4, 5, 2, 2, 0],
    [7, 4, 9, 3, 3, 1],
    [4, 2, 5, 2, 1, 0],
    [5, 3, 7, 2, 3, 0],
];

fn policy([k, m, c, x, domains, local]: [u8; 6]) -> Policy {
    Policy::new(Layout::new(k, m, domains, local).unwrap(), c, x).unwrap()
}

/// Disks of nodes of Domains; `shape`: for each Domain the disks of each node.
fn disks(shape: &[Vec<usize>]) -> Vec<Disk> {
    let mut disks = Vec::new();
    for (domain, nodes) in shape.iter().enumerate() {
        for (node, count) in nodes.iter().enumerate() {
            for _ in 0..*count {
                let id = 1000 + disks.len() as u64 * 7;
                let node = (domain * 10 + node) as u32;
                disks.push(Disk { id, domain: domain as u32, node });
            }
        }
    }
    disks
}

/// 2 to 3 Domains, each with 2 to 4 nodes of 2 to 3 disks: all nodes of a Domain alike, and for two
/// Domains every mixture of nodes.
fn shapes() -> Vec<Vec<Vec<usize>>> {
    let even: Vec<Vec<usize>> =
        (2..=4).flat_map(|nodes| (2..=3).map(move |count| alloc::vec![count; nodes])).collect();
    let mut any = Vec::new();
    for nodes in 2..=4u32 {
        for bits in 0..1 << nodes {
            any.push((0..nodes).map(|node| 2 + (bits >> node & 1)).collect::<Vec<usize>>());
        }
    }
    let mut shapes = Vec::new();
    for first in &any {
        for second in &any {
            shapes.push([first.clone(), second.clone()].into());
        }
    }
    for first in &even {
        for second in &even {
            for third in &even {
                shapes.push([first.clone(), second.clone(), third.clone()].into());
            }
        }
    }
    shapes
}

/// Whether the cluster can hold an object at all, by counting: the groups, largest first, against
/// the Domains' capacities, largest first.
fn possible(policy: &Policy, shape: &[Vec<usize>]) -> bool {
    let layout = policy.layout();
    let capacity = |nodes: &Vec<usize>| -> usize {
        nodes.iter().map(|disks| (*disks).min(policy.node_max())).sum()
    };
    let mut capacities: Vec<usize> = shape.iter().map(capacity).collect();
    capacities.sort_unstable_by(|a, b| b.cmp(a));
    let needed = |group| layout.member_count(group) + layout.local();
    capacities.len() >= layout.domains()
        && (0..layout.domains()).all(|group| needed(group) <= capacities[group])
}

/// The fragments on the disks that `picked` picks.
fn on(disks: &[Disk], placed: &[usize], picked: impl Fn(&Disk) -> bool) -> Set {
    let mine = placed.iter().enumerate().filter(|(_, disk)| picked(&disks[**disk]));
    mine.fold(0, |set, (fragment, _)| set | 1 << fragment)
}

/// The rule of spreading that a placement breaks, if any.
fn crowded(policy: &Policy, disks: &[Disk], placed: &[usize]) -> Option<&'static str> {
    let layout = policy.layout();
    for group in 0..layout.domains() {
        let fragments = layout.group_set(group);
        let first = disks[placed[fragments.trailing_zeros() as usize]].domain;
        if on(disks, placed, |disk| disk.domain == first) != fragments {
            return Some("each group has a Domain of its own");
        }
    }
    for disk in disks {
        if on(disks, placed, |other| other.id == disk.id).count_ones() > 1 {
            return Some("each fragment has a disk of its own");
        }
    }
    for disk in disks {
        let node = on(disks, placed, |other| other.node == disk.node);
        if node.count_ones() as usize > policy.node_max() {
            return Some("a node has x fragments at most");
        }
    }
    None
}

/// The promise that a placement breaks, if any.
fn broken(policy: &Policy, disks: &[Disk], placed: &[usize]) -> Option<&'static str> {
    let (layout, promise) = (policy.layout(), policy.promise());
    let repair = |lost: Set| plan(layout, layout.all() & !lost, layout.all());
    for disk in disks {
        let crosses = |step: &Step| {
            step.sources.iter().any(|source| disks[placed[*source]].domain != disk.domain)
        };
        let lost = on(disks, placed, |other| other.id == disk.id);
        let Some(steps) = repair(lost) else { return Some("a disk may be lost") };
        if promise.disk_repair_local && steps.iter().any(crosses) {
            return Some("a disk is repaired inside its Domain");
        }
        if steps.iter().any(|step| step.sources.len() > promise.repair_reads) {
            return Some("a lost fragment is computed from so many");
        }
        let node = on(disks, placed, |other| other.node == disk.node);
        let Some(steps) = repair(node) else { return Some("a node may be lost") };
        if promise.node_repair_local && steps.iter().any(crosses) {
            return Some("a node is repaired inside its Domain");
        }
        let domain = on(disks, placed, |other| other.domain == disk.domain);
        if promise.domain && repair(domain).is_none() {
            return Some("a Domain may be lost");
        }
        for other in disks.iter().filter(|other| other.domain != disk.domain) {
            let more = domain | on(disks, placed, |third| third.id == other.id);
            if promise.domain_and_disk && repair(more).is_none() {
                return Some("a Domain and a disk may be lost");
            }
        }
    }
    None
}

/// Walks policies, clusters and objects; the first broken rule.
fn walk(objects: u64) -> Option<&'static str> {
    for policy in POLICIES.map(policy) {
        for shape in shapes() {
            let disks = disks(&shape);
            for object in 0..objects {
                match place(&policy, &disks, object) {
                    Ok(placed) => {
                        let rule = crowded(&policy, &disks, &placed);
                        let rule = rule.or_else(|| broken(&policy, &disks, &placed));
                        if rule.is_some() {
                            return rule;
                        }
                    }
                    Err(_) if possible(&policy, &shape) => {
                        return Some("what can be placed is placed");
                    }
                    Err(_) => {}
                }
            }
        }
    }
    None
}

#[test]
fn every_promise_holds_in_every_small_cluster() {
    assert_eq!(walk(4), None);
}

/// Every loss of a disk or of a node in every small cluster: what is refilled keeps all the rules,
/// and nothing is left out where the Domain has a disk for it.
#[test]
fn refilled_objects_keep_every_rule() {
    for policy in POLICIES.map(policy) {
        for shape in shapes() {
            let all = disks(&shape);
            let Ok(placed) = place(&policy, &all, 5) else { continue };
            for (lost, node) in all.iter().flat_map(|lost| [(lost, false), (lost, true)]) {
                let stays = |disk: &&Disk| disk.id != lost.id && (!node || disk.node != lost.node);
                let left: Vec<Disk> = all.iter().filter(stays).copied().collect();
                let id = |disk: usize| all[disk].id;
                let find = |id: u64| left.iter().position(|disk| disk.id == id);
                let mut now: Vec<Option<usize>> =
                    placed.iter().map(|disk| find(id(*disk))).collect();
                for (fragment, disk) in refill(&policy, &left, &now, 5) {
                    assert_eq!(now[fragment].replace(disk), None);
                }
                if let Some(now) = now.iter().copied().collect::<Option<Vec<usize>>>() {
                    assert_eq!(crowded(&policy, &left, &now), None, "{policy:?} {shape:?}");
                    assert_eq!(broken(&policy, &left, &now), None, "{policy:?} {shape:?}");
                    continue;
                }
                let free = left.iter().enumerate().find(|(disk, one)| {
                    let mine = now.iter().flatten().filter(|d| left[**d].node == one.node).count();
                    one.domain == lost.domain
                        && !now.contains(&Some(*disk))
                        && mine < policy.node_max()
                });
                assert_eq!(free, None, "{policy:?} {shape:?}: there was a disk");
            }
        }
    }
}

#[test]
fn every_planted_fault_is_noticed() {
    let expected = [
        (Mutant::SameDomain, "each group has a Domain of its own"),
        (Mutant::IgnoreNodeMax, "a node has x fragments at most"),
        (Mutant::SameDisk, "each fragment has a disk of its own"),
        (Mutant::CountDisksOnly, "each group has a Domain of its own"),
        (Mutant::SmallFirst, "what can be placed is placed"),
    ];
    for (mutant, rule) in expected {
        MUTANT.set(Some(mutant));
        let found = walk(4);
        MUTANT.set(None);
        assert_eq!(found, Some(rule), "{mutant:?}");
    }
}

#[test]
fn objects_spread_evenly() {
    let policy = policy([4, 2, 5, 1, 3, 1]);
    let disks = disks(&[[3, 3, 3, 3].into(), [3, 3, 3, 3].into(), [3, 3, 3, 3].into()]);
    let mut count = alloc::vec![0usize; disks.len()];
    let objects = 4000;
    for object in 0..objects {
        for disk in place(&policy, &disks, object * 977).unwrap() {
            count[disk] += 1;
        }
    }
    let fair = objects as usize * 9 / disks.len();
    assert!(count.iter().all(|one| one.abs_diff(fair) < fair / 5), "{count:?}");
}

#[test]
fn a_shortage_says_what_is_missing() {
    let policy = policy([4, 2, 5, 1, 3, 1]);
    let two = disks(&[[3].into(), [3, 3].into()]);
    assert_eq!(place(&policy, &two, 1), Err(Shortage::Domains { needed: 3, found: 2 }));
    let flat = disks(&[[3, 3, 3].into(), [9, 9].into(), [3, 3, 3].into()]);
    let why = place(&policy, &flat, 1).unwrap_err();
    assert_eq!(why, Shortage::Disks { domains: 3, needed: 3, found: 2, node_max: 1 });
    assert_eq!(
        alloc::string::ToString::to_string(&why),
        "it needs 3 disks, at most 1 of them on one node, in each of 3 Domains, and 2 have that"
    );
}
