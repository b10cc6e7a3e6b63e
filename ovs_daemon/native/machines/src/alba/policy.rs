//! A policy (k, m, c, x): how objects are coded, and what that promises.

use core::fmt;

use super::layout::{Layout, LayoutError};

/// How an object is coded, stored and spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Policy {
    layout: Layout,
    acknowledge: u8,
    node_max: u8,
}

/// Why there is no such policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyError {
    /// The layout is impossible.
    Layout(LayoutError),
    /// c is not over k: one more lost disk, and what was just acknowledged is lost.
    AcknowledgeTooFew,
    /// c is over k + m.
    AcknowledgeTooMany,
    /// x is 0.
    NoneOnNode,
    /// x is so large that a node may take with it what cannot be computed any more.
    TooManyOnNode,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layout(why) => write!(f, "{why}"),
            Self::AcknowledgeTooFew => {
                write!(f, "c must be over k: else one lost disk can lose what was acknowledged")
            }
            Self::AcknowledgeTooMany => write!(f, "c is over k + m"),
            Self::NoneOnNode => write!(f, "x is 0: no node may have a fragment"),
            Self::TooManyOnNode => {
                write!(f, "x is over both m and local: a lost node would lose data")
            }
        }
    }
}

impl From<LayoutError> for PolicyError {
    fn from(why: LayoutError) -> Self {
        Self::Layout(why)
    }
}

/// What may be lost of a completely stored object without losing it, and what repair costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// Any so many disks.
    pub disks: usize,
    /// Any one node.
    pub node: bool,
    /// Any one Domain.
    pub domain: bool,
    /// Any one Domain, and then any one disk of another.
    pub domain_and_disk: bool,
    /// The fragments of a lost disk are computed without another Domain.
    pub disk_repair_local: bool,
    /// Those of a lost node are, too.
    pub node_repair_local: bool,
    /// Fragments that are read to compute one that was lost.
    pub repair_reads: usize,
}

impl Policy {
    /// `layout`, of whose k + m fragments `acknowledge` (c) must be stored before a SCO may leave
    /// the write buffer; at most `node_max` (x) fragments are on one node.
    pub fn new(layout: Layout, acknowledge: u8, node_max: u8) -> Result<Self, PolicyError> {
        if usize::from(acknowledge) <= layout.data() {
            return Err(PolicyError::AcknowledgeTooFew);
        }
        if usize::from(acknowledge) > layout.global() {
            return Err(PolicyError::AcknowledgeTooMany);
        }
        if node_max == 0 {
            return Err(PolicyError::NoneOnNode);
        }
        if usize::from(node_max) > layout.parity().max(layout.local()) {
            return Err(PolicyError::TooManyOnNode);
        }
        Ok(Self { layout, acknowledge, node_max })
    }

    /// k, m, Domains and local parity.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// c: data and global parity fragments that must be stored before a SCO counts as stored.
    pub fn acknowledge(&self) -> usize {
        self.acknowledge.into()
    }

    /// x: most fragments of an object on one node.
    pub fn node_max(&self) -> usize {
        self.node_max.into()
    }

    /// What it promises.
    pub fn promise(&self) -> Promise {
        let layout = &self.layout;
        let (group, local, parity) = (layout.largest_group(), layout.local(), layout.parity());
        let several = layout.domains() > 1;
        // What is away must not be able to hold a whole acknowledged object, or nobody could tell
        // what is stored (see `verdict`).
        let domain = several && group <= parity && group < self.acknowledge();
        let and_disk = group + 1 < self.acknowledge();
        Promise {
            disks: self.least_fatal() - 1,
            node: self.node_max() <= local || self.node_max().min(group) <= parity,
            domain,
            domain_and_disk: domain && and_disk && (local > 0 || group < parity),
            disk_repair_local: local > 0 || !several,
            node_repair_local: self.node_max() <= local || !several,
            repair_reads: if local > 0 { group } else { layout.data() },
        }
    }

    /// The fewest lost disks that lose an object. A group heals up to `local` losses by itself, so
    /// one that loses `n` of its members for good has at least `local + 1` losses.
    fn least_fatal(&self) -> usize {
        let layout = &self.layout;
        let fatal = layout.parity() + 1;
        // By global losses (more than fatal count as fatal): the fewest lost disks that cause them.
        let mut fewest = alloc::vec![usize::MAX; fatal + 1];
        fewest[0] = 0;
        for group in 0..layout.domains() {
            let before = fewest.clone();
            for (lost, disks) in before.iter().enumerate().filter(|(_, disks)| **disks < usize::MAX)
            {
                for more in 1..=layout.member_count(group) {
                    let total = (lost + more).min(fatal);
                    fewest[total] = fewest[total].min(disks + more.max(layout.local() + 1));
                }
            }
        }
        fewest[fatal]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alba::plan;

    fn policy(data: u8, parity: u8, domains: u8, local: u8, node_max: u8) -> Policy {
        Policy::new(Layout::new(data, parity, domains, local).unwrap(), data + 1, node_max).unwrap()
    }

    #[test]
    fn what_would_lose_data_is_refused() {
        let layout = Layout::new(4, 2, 3, 1).unwrap();
        assert_eq!(Policy::new(layout, 4, 1), Err(PolicyError::AcknowledgeTooFew));
        assert_eq!(Policy::new(layout, 7, 1), Err(PolicyError::AcknowledgeTooMany));
        assert_eq!(Policy::new(layout, 5, 0), Err(PolicyError::NoneOnNode));
        assert_eq!(Policy::new(layout, 5, 3), Err(PolicyError::TooManyOnNode));
        assert!(Policy::new(layout, 6, 2).is_ok());
    }

    /// Every set of lost disks of small layouts: as many as promised never lose data, one more can.
    #[test]
    fn the_number_of_disks_is_exact() {
        for (data, parity, domains, local) in
            [(4, 2, 3, 1), (3, 3, 2, 2), (5, 2, 1, 0), (2, 1, 3, 2), (4, 4, 2, 1), (6, 3, 3, 1)]
        {
            let policy = policy(data, parity, domains, local, 1);
            let layout = *policy.layout();
            let survives = |lost: &u64| plan(&layout, layout.all() & !lost, layout.all()).is_some();
            let fatal: Option<u32> =
                (0..=layout.all()).filter(|lost| !survives(lost)).map(u64::count_ones).min();
            assert_eq!(fatal, Some(policy.promise().disks as u32 + 1), "{layout:?}");
        }
    }

    #[test]
    fn what_could_hide_an_object_is_not_promised() {
        let layout = Layout::new(2, 2, 2, 1).unwrap();
        let promise = |c| Policy::new(layout, c, 1).unwrap().promise();
        assert_eq!((promise(3).domain, promise(3).domain_and_disk), (true, false));
        assert_eq!((promise(4).domain, promise(4).domain_and_disk), (true, true));
    }

    #[test]
    fn promises_of_the_embedded_default() {
        let promise = policy(4, 2, 3, 1, 1).promise();
        let expected = Promise {
            disks: 3,
            node: true,
            domain: true,
            domain_and_disk: true,
            disk_repair_local: true,
            node_repair_local: true,
            repair_reads: 2,
        };
        assert_eq!(promise, expected);
        let promise = policy(16, 4, 1, 0, 2).promise();
        assert_eq!((promise.disks, promise.node, promise.domain), (4, true, false));
        assert_eq!(promise.repair_reads, 16);
    }
}
