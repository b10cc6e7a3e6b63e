//! Rebalancing: which fragments go from the fuller disks of a Domain to its emptier ones, and which
//! of two copies may be deleted afterwards.
//!
//! A fragment is copied as one that is mended is stored (`mend`), and when nobody can still be
//! looking who has seen neither copy, the old one is deleted. What must hold: no safety is lost, not
//! for a moment and whoever dies or moves fragments of the same object at the same time; and it ends.
//!
//! Both follow from an order of the disks of a Domain that is another one for each fragment: a
//! fragment only ever moves to a disk that comes later in its order, and a copy is deleted only
//! where one exists that comes later and stays. So the last copy in the order is never deleted,
//! whoever decides, and a fragment moves less often than there are disks. A disk that is new comes
//! last for its share of the fragments at least, as with rendezvous hashing: they are enough to fill
//! it. Where there is a choice, fullness decides: only from a disk above the mean to one below it,
//! so that no more bytes move than are too many somewhere.

use alloc::vec::Vec;

use super::placement::mix;

#[cfg(test)]
extern crate std;

/// Parts of a disk's size in which its level is told.
const WHOLE: u128 = 1_000_000;

/// Planted faults, each of which the test must notice.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// A fragment may also go back in its order.
    AnyWay,
    /// A disk may get a second fragment of a piece.
    SameDisk,
    /// It is not asked on which node a disk is.
    AnyNode,
    /// Disks below the mean give, too, and those above it take.
    AnyLevel,
    /// It is not asked whether the order of two disks by level is turned around.
    Overshoot,
    /// What is found to be stuck is tried again and again.
    NeverSettled,
    /// It begins with the smallest difference.
    NoBegin,
    /// Of two copies the earlier one in the order stays.
    KeepFirst,
    /// A copy counts that may be taken back.
    Unsettled,
    /// When a copy goes it is not asked how those that stay are spread.
    NoSpread,
    /// The old copy goes while somebody is looking who has not seen the new one.
    NoWait,
    /// The old copy goes even if the new one is not seen.
    Unseen,
    /// The old copy goes first.
    DeleteFirst,
    /// Nobody takes back a copy that cannot stay.
    NoTakeBack,
    /// A copy is taken back however late that is.
    LateTakeBack,
    /// What is left by one that died stays.
    NoTrim,
}

mutant_of_this_thread!();

/// A disk and how full it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fill {
    /// A number that stays with it for life.
    pub id: u64,
    /// Number of its node.
    pub node: u32,
    /// Bytes that are not free.
    pub used: u64,
    /// Bytes in all.
    pub total: u64,
}

fn level(used: u64, total: u64) -> u64 {
    (u128::from(used) * WHOLE / u128::from(total.max(1))) as u64
}

impl Fill {
    /// How full it is, in millionths.
    pub fn level(&self) -> u64 {
        level(self.used, self.total)
    }
}

/// How full all of them are together, in millionths.
fn mean(disks: &[Fill]) -> u64 {
    let sum = |part: fn(&Fill) -> u64| disks.iter().map(part).fold(0, u64::saturating_add);
    level(sum(|disk| disk.used), sum(|disk| disk.total))
}

/// How much fuller the fullest one is than the emptiest one, in millionths.
pub fn spread(disks: &[Fill]) -> u64 {
    let levels = || disks.iter().map(Fill::level);
    levels().max().unwrap_or(0) - levels().min().unwrap_or(0)
}

/// Bytes that are on disks above the mean and too many there.
pub fn excess(disks: &[Fill]) -> u64 {
    let mean = mean(disks);
    let above = disks.iter().filter(|disk| disk.level() > mean);
    above
        .map(|disk| (u128::from(disk.level() - mean) * u128::from(disk.total) / WHOLE) as u64)
        .sum()
}

/// When the disks of a Domain are rebalanced: from a difference at which it pays to one that is
/// small, and not again for what could not be made better.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Balance {
    active: bool,
    /// Levels at which nothing more could be moved, by disk.
    stuck: Option<Vec<(u64, u64)>>,
}

/// The difference, in millionths, that is left alone when it began with another.
pub fn band(begin: u64) -> u64 {
    begin / 4
}

impl Balance {
    /// Whether fragments are to be moved now. `begin`: the difference of the fullest and the emptiest
    /// disk from which on, in millionths.
    pub fn wants(&mut self, disks: &[Fill], begin: u64) -> bool {
        let spread = spread(disks);
        if spread <= band(begin) {
            *self = Self::default();
            return false;
        }
        if let Some(stuck) = &self.stuck {
            let like = |disk: &Fill| {
                let known = stuck.iter().find(|(id, _)| *id == disk.id);
                known.is_some_and(|(_, level)| level.abs_diff(disk.level()) < band(begin).max(1))
            };
            if stuck.len() == disks.len() && disks.iter().all(like) && !planted!(NeverSettled) {
                return false;
            }
            self.stuck = None;
        }
        self.active |= spread >= begin || planted!(NoBegin);
        self.active
    }

    /// Somebody asks for it: it begins with a smaller difference, too.
    pub fn ask(&mut self) {
        *self = Self { active: true, stuck: None };
    }

    /// All that is on disks that give was looked at, and nothing more can be moved.
    pub fn settle(&mut self, disks: &[Fill]) {
        let levels = disks.iter().map(|disk| (disk.id, disk.level())).collect();
        *self = Self { active: false, stuck: Some(levels) };
    }
}

/// Whether a disk gives fragments to others.
pub fn gives(disks: &[Fill], from: &Fill, band: u64) -> bool {
    let mean = mean(disks);
    let above = from.level() > mean || planted!(AnyLevel);
    above && disks.iter().any(|to| takes(to, mean, from.level(), band))
}

fn takes(to: &Fill, mean: u64, from: u64, band: u64) -> bool {
    let below = to.level() < mean || planted!(AnyLevel);
    below && from > to.level() + band || planted!(Overshoot)
}

/// A copy of a fragment of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Copy {
    /// Its number.
    pub fragment: usize,
    /// Number of the disk's Domain.
    pub domain: u32,
    /// Number of the disk's node.
    pub node: u32,
    /// The disk.
    pub disk: u64,
}

/// Where a disk comes in the order of a fragment; `piece`: a number of the piece and its object.
pub(super) fn rank(piece: u64, fragment: usize, disk: u64) -> (u64, u64) {
    (mix(mix(disk) ^ mix(piece ^ (fragment as u64 + 1) << 56)), disk)
}

/// How many fragments of a piece, without one, have a copy on a node.
pub(super) fn on_node(copies: &[Copy], node: u32, without: usize) -> usize {
    let mut there: Vec<usize> = copies
        .iter()
        .filter(|one| one.node == node)
        .map(|one| one.fragment)
        .filter(|one| *one != without)
        .collect();
    there.sort_unstable();
    there.dedup();
    there.len()
}

/// Whether a fragment may be on one disk instead of another: no other one of its piece is there, and
/// no more of them are on the disk's node than on the one that it leaves.
pub(super) fn spreads(copies: &[Copy], fragment: usize, from: u32, (to, node): (u64, u32)) -> bool {
    let shared = copies.iter().any(|one| one.disk == to && one.fragment != fragment);
    let crowded = on_node(copies, node, fragment) > on_node(copies, from, fragment);
    (!shared || planted!(SameDisk)) && (node == from || !crowded || planted!(AnyNode))
}

/// The disk, of all of the Domain, to which a fragment goes; `None`: it stays. `copies`: all of its
/// piece, of which `from` is its only one; `bytes`: its size; `band`: see [`band()`].
pub fn target(
    disks: &[Fill],
    copies: &[Copy],
    from: &Copy,
    piece: u64,
    bytes: u64,
    band: u64,
) -> Option<Fill> {
    let mean = mean(disks);
    let source = disks.iter().find(|disk| disk.id == from.disk)?;
    let later = |to: &Fill| {
        let forward = rank(piece, from.fragment, to.id) > rank(piece, from.fragment, from.disk);
        to.id != from.disk && (forward || planted!(AnyWay))
    };
    let better = |to: &Fill| {
        let (less, more) = (source.used.saturating_sub(bytes), to.used.saturating_add(bytes));
        takes(to, mean, source.level(), band)
            && (level(less, source.total) >= level(more, to.total) || planted!(Overshoot))
            && more.saturating_add(bytes) <= to.total
    };
    if source.level() <= mean && !planted!(AnyLevel) {
        return None;
    }
    let fits = |to: &Fill| spreads(copies, from.fragment, from.node, (to.id, to.node));
    let able = disks.iter().filter(|to| later(to) && better(to) && fits(to));
    able.min_by_key(|to| (to.level(), to.id)).copied()
}

/// The copies of a fragment that may be deleted. `copies`: all of its piece that can be seen;
/// `stays`: whether nobody takes back the copy on this disk any more.
pub fn surplus(
    copies: &[Copy],
    fragment: usize,
    piece: u64,
    stays: impl Fn(u64) -> bool,
) -> Vec<Copy> {
    let mine: Vec<&Copy> = copies.iter().filter(|one| one.fragment == fragment).collect();
    let order = |one: &Copy| rank(piece, fragment, one.disk);
    let settled = mine.iter().filter(|one| stays(one.disk) || planted!(Unsettled));
    let last = if planted!(KeepFirst) {
        settled.min_by_key(|one| order(one))
    } else {
        settled.max_by_key(|one| order(one))
    };
    let Some(last) = last else { return Vec::new() };
    // A group belongs into one Domain: which one is not for its fragments to say.
    let apart = mine.iter().any(|one| one.domain != last.domain);
    let goes = |one: &&&Copy| {
        let earlier = order(one) < order(last) || planted!(KeepFirst) && one.disk != last.disk;
        let place = (last.disk, last.node);
        let spread = spreads(copies, fragment, one.node, place) || planted!(NoSpread);
        earlier && spread && !apart
    };
    mine.iter().filter(goes).map(|one| **one).collect()
}

/// What becomes of a fragment that was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Then {
    /// The old copy is deleted.
    DeleteOld,
    /// The new copy is deleted: somebody else moved others of the piece meanwhile.
    TakeBack,
    /// Both stay as they are, until it is seen that there are two.
    Leave,
}

/// What becomes of a fragment that was copied from one disk to another, by all that can be seen of
/// its piece. `in_time`: nobody takes the new copy for one that stays yet.
pub fn then(copies: &[Copy], from: &Copy, to: &Copy, piece: u64, in_time: bool) -> Then {
    let seen = |one: &Copy| copies.contains(one);
    if planted!(Unseen) {
        return Then::DeleteOld;
    }
    if !seen(from) || !seen(to) {
        return Then::Leave;
    }
    if surplus(copies, from.fragment, piece, |disk| disk == to.disk).contains(from) {
        return Then::DeleteOld;
    }
    if planted!(NoTakeBack) {
        return Then::Leave;
    }
    if in_time || planted!(LateTakeBack) { Then::TakeBack } else { Then::Leave }
}

/// Whether the steps of a move are taken as they should; for the test, which takes them itself.
#[cfg(test)]
pub(crate) fn has(mutant: Mutant) -> bool {
    MUTANT.get() == Some(mutant)
}
