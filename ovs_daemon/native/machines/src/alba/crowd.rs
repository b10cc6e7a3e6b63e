//! Disks that have more than one fragment of a piece: what the loss of one takes, which fragments
//! get another disk, and where those go that are mended while others are there twice.
//!
//! Nobody places two fragments of a piece on one disk as long as another one is left. Still it comes
//! to that: releases before this one mended fragments beside copies of others, and who mends knows
//! nothing of a move that is under way.
//!
//! A disk is as good as none where all that it has of the piece is on others as well: whichever copy
//! goes in the end, a fragment that is stored there meanwhile is safer than one that waits for it.
//! First come disks with copies that go by themselves (`rebalance::surplus`). Where the other copy
//! is deleted all the same, two fragments are left on one disk, and one of them moves: it is stored
//! on another disk, later in its order if there is one, and then the earlier copy goes.

use alloc::vec::Vec;

use super::layout::{Layout, Set};
use super::mend::safety;
use super::placement::{Disk, refill};
use super::policy::Policy;
use super::rebalance::{Copy, on_node, rank, spreads};

#[cfg(test)]
extern crate std;

/// Planted faults, each of which the test must notice.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// What is on one disk counts as if each fragment had one of its own.
    EachAlone,
    /// A fragment that is there twice counts as if it were there once.
    CopiesCount,
    /// Fragments that share a disk stay.
    StayTogether,
    /// All of them go.
    AllGo,
    /// It goes to a disk that has another one.
    AnyDisk,
    /// It is not asked which disk comes later.
    NotLater,
    /// No disk is taken that has a copy, whatever else there is.
    NeverBeside,
    /// Of two copies the disk of the later one is taken.
    BesideLast,
}

mutant_of_this_thread!();

/// How often a fragment is there.
fn times(copies: &[Copy], fragment: usize) -> usize {
    copies.iter().filter(|one| one.fragment == fragment).count()
}

/// What the loss of a disk takes along.
struct Load {
    disk: u64,
    alone: usize,
    halves: usize,
}

/// How many more disks may be lost, whichever they are, before data of a piece is; never too many.
/// `None`: it is lost already. `copies`: all that are seen of the piece.
pub fn safety_of_disks(layout: &Layout, copies: &[Copy]) -> Option<usize> {
    let present = copies.iter().fold(0, |set: Set, one| set | 1 << one.fragment);
    let fragments = safety(layout, present)?;
    // What a disk takes along, in halves: a fragment that is there twice takes two disks.
    let mut disks: Vec<Load> = Vec::new();
    for one in copies {
        let alone = times(copies, one.fragment) == 1 || planted!(CopiesCount);
        let known = disks.iter_mut().find(|load| load.disk == one.disk && !planted!(EachAlone));
        let (whole, halves) = if alone { (1, 2) } else { (0, 1) };
        match known {
            Some(load) => (load.alone, load.halves) = (load.alone + whole, load.halves + halves),
            None => disks.push(Load { disk: one.disk, alone: whole, halves }),
        }
    }
    disks.sort_unstable_by_key(|load| core::cmp::Reverse(load.halves));
    let worst = disks.iter().map(|load| load.alone).max().unwrap_or(0);
    let mut halves = 0;
    let bearable = disks.iter().enumerate().take_while(|(before, load)| {
        halves += load.halves;
        let lost = if *before == 0 { worst } else { halves / 2 };
        lost <= fragments
    });
    Some(bearable.count())
}

/// The copies that are to be stored on another disk: each is its fragment's only one, on a disk that
/// is the only one of another fragment as well. Of these the one stays that has the fewest later
/// disks in its order. `piece`: a number of the piece and its object.
pub fn crowded(copies: &[Copy], piece: u64) -> Vec<Copy> {
    if planted!(StayTogether) {
        return Vec::new();
    }
    let alone: Vec<&Copy> = copies.iter().filter(|one| times(copies, one.fragment) == 1).collect();
    let order = |one: &Copy| (rank(piece, one.fragment, one.disk), one.fragment);
    let goes = |one: &&&Copy| {
        let beside = alone.iter().filter(|other| other.disk == one.disk);
        let mut beside = beside.filter(|other| other.fragment != one.fragment);
        beside.any(|other| order(other) > order(one) || planted!(AllGo))
    };
    alone.iter().filter(goes).map(|one| **one).collect()
}

/// The disk to which a fragment goes that has to share its own. `disks`: those with room; `copies`:
/// all of its piece, and what others were given just now.
pub fn apart(disks: &[Disk], copies: &[Copy], from: &Copy, piece: u64) -> Option<Disk> {
    let order = |disk: u64| rank(piece, from.fragment, disk);
    let fits = |to: &&Disk| {
        let empty = copies.iter().all(|one| one.disk != to.id) || planted!(AnyDisk);
        let spread = spreads(copies, from.fragment, from.node, (to.id, to.node));
        let other = to.domain == from.domain && to.id != from.disk;
        other && empty && (spread || planted!(AnyDisk))
    };
    let choice = |to: &&Disk| {
        let later = order(to.id) > order(from.disk) || planted!(NotLater);
        (!later, on_node(copies, to.node, from.fragment), order(to.id))
    };
    disks.iter().filter(fits).min_by_key(choice).copied()
}

/// Whether a disk takes one more fragment.
pub type Takes<'a> = &'a dyn Fn(&Disk) -> bool;

/// Disks for the fragments of a piece that have none: `(fragment, place of its disk in disks)`, as
/// far as there are any (see [`refill`]). `copies`: those on these disks;
/// `object` and `piece`: numbers by which disks are chosen, and by which copies come one after the
/// other.
pub fn homes(
    policy: &Policy,
    (disks, takes): (&[Disk], Takes<'_>),
    copies: &[Copy],
    wanted: Set,
    (object, piece): (u64, u64),
) -> Vec<(usize, usize)> {
    let place = |disk: u64| disks.iter().position(|other| other.id == disk);
    let stays = |fragment: usize| {
        let mine = copies.iter().filter(|one| one.fragment == fragment);
        let order = |one: &&Copy| rank(piece, fragment, one.disk);
        let last =
            if planted!(BesideLast) { mine.min_by_key(order) } else { mine.max_by_key(order) };
        last.filter(|_| wanted & 1 << fragment == 0).and_then(|one| place(one.disk))
    };
    let fragments = policy.layout().fragments();
    let mut placed: Vec<Option<usize>> = (0..fragments).map(stays).collect();
    // First those that have nothing of the piece but what is to stay there.
    let mut found: Vec<(usize, usize)> = Vec::new();
    for beside in [false, true] {
        if beside && planted!(NeverBeside) {
            break;
        }
        let clean = |at: usize| beside || copies.iter().all(|one| one.disk != disks[at].id);
        let may = |at: &usize| placed.contains(&Some(*at)) || takes(&disks[*at]) && clean(*at);
        let among: Vec<usize> = (0..disks.len()).filter(may).collect();
        let at = |at: usize| among.iter().position(|other| *other == at);
        let kept: Vec<Option<usize>> = placed.iter().map(|one| one.and_then(at)).collect();
        let some: Vec<Disk> = among.iter().map(|at| disks[*at]).collect();
        for (one, at) in refill(policy, &some, &kept, object) {
            placed[one] = Some(among[at]);
            found.push((one, among[at]));
        }
    }
    found
}
