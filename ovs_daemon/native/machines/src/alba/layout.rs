//! The fragments of one coded piece of an object.
//!
//! ```text
//! fragment   0 .. k-1        data, the piece's bytes in order
//!            k .. k+m-1      global parity over all data
//!            k+m ..          local parity: `local` fragments for group 0, then for group 1, ...
//! ```
//! Fragment `i` of the first `k + m` belongs to group `i % domains`; a group, with its local parity
//! fragments, lies in one Domain. So the groups' sizes differ by one at most, and so do their shares
//! of the data. The local parity of a group is computed from all its other fragments, global parity
//! included: whatever is lost in a Domain, as many fragments as it has local ones come back without
//! a byte from another Domain.

use core::fmt;

/// Most data and global parity fragments: what liberasurecode can decode.
pub const GLOBAL_MAX: usize = 32;
/// Most fragments altogether: the bits of a [`Set`].
pub const FRAGMENTS_MAX: usize = 64;

/// A set of fragments, one bit each.
pub type Set = u64;

/// How a piece of an object is cut and coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Layout {
    data: u8,
    parity: u8,
    domains: u8,
    local: u8,
}

/// Why there is no such layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutError {
    /// No data fragment, or no Domain.
    Nothing,
    /// More than [`GLOBAL_MAX`] data and global parity fragments.
    TooWide,
    /// More than [`FRAGMENTS_MAX`] fragments with the local ones.
    TooManyLocal,
    /// Fewer data and global parity fragments than Domains.
    EmptyDomain,
    /// Neither global nor local parity.
    NoParity,
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => write!(f, "it has no data fragment or no Domain"),
            Self::TooWide => write!(f, "k + m is over {GLOBAL_MAX}"),
            Self::TooManyLocal => write!(f, "it has over {FRAGMENTS_MAX} fragments"),
            Self::EmptyDomain => write!(f, "it has fewer fragments (k + m) than Domains"),
            Self::NoParity => write!(f, "it has no parity (m is 0), so a lost disk is lost data"),
        }
    }
}

impl Layout {
    /// `data` (k) and `parity` (m) fragments over `domains`, and `local` parity fragments in each.
    pub fn new(data: u8, parity: u8, domains: u8, local: u8) -> Result<Self, LayoutError> {
        let global = usize::from(data) + usize::from(parity);
        if data == 0 || domains == 0 {
            return Err(LayoutError::Nothing);
        }
        if parity == 0 {
            return Err(LayoutError::NoParity);
        }
        if global > GLOBAL_MAX {
            return Err(LayoutError::TooWide);
        }
        if global < usize::from(domains) {
            return Err(LayoutError::EmptyDomain);
        }
        if global + usize::from(domains) * usize::from(local) > FRAGMENTS_MAX {
            return Err(LayoutError::TooManyLocal);
        }
        Ok(Self { data, parity, domains, local })
    }

    /// Data fragments: k.
    pub fn data(&self) -> usize {
        self.data.into()
    }

    /// Global parity fragments: m.
    pub fn parity(&self) -> usize {
        self.parity.into()
    }

    /// Data and global parity fragments: k + m.
    pub fn global(&self) -> usize {
        self.data() + self.parity()
    }

    /// Groups, each for a Domain of its own.
    pub fn domains(&self) -> usize {
        self.domains.into()
    }

    /// Local parity fragments of a group.
    pub fn local(&self) -> usize {
        self.local.into()
    }

    /// All fragments.
    pub fn fragments(&self) -> usize {
        self.global() + self.domains() * self.local()
    }

    /// The group of a fragment.
    pub fn group_of(&self, fragment: usize) -> usize {
        match fragment.checked_sub(self.global()) {
            None => fragment % self.domains(),
            Some(local) => local / self.local(),
        }
    }

    /// Data and global parity fragments of a group, in order.
    pub fn members(&self, group: usize) -> impl Iterator<Item = usize> + use<> {
        (group..self.global()).step_by(self.domains())
    }

    /// How many [`Self::members`] a group has.
    pub fn member_count(&self, group: usize) -> usize {
        (self.global() - group).div_ceil(self.domains())
    }

    /// Local parity fragments of a group, in order.
    pub fn locals(&self, group: usize) -> core::ops::Range<usize> {
        let first = self.global() + group * self.local();
        first..first + self.local()
    }

    /// Data and global parity fragments of the largest group: what the loss of a Domain may take.
    pub fn largest_group(&self) -> usize {
        self.member_count(0)
    }

    /// All data and global parity fragments.
    pub fn global_set(&self) -> Set {
        (1 << self.global()) - 1
    }

    /// All fragments.
    pub fn all(&self) -> Set {
        Set::MAX >> (FRAGMENTS_MAX - self.fragments())
    }

    /// The members of a group.
    pub fn member_set(&self, group: usize) -> Set {
        self.members(group).fold(0, |set, fragment| set | 1 << fragment)
    }

    /// The fragments of a group, local ones too.
    pub fn group_set(&self, group: usize) -> Set {
        self.locals(group).fold(self.member_set(group), |set, fragment| set | 1 << fragment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_share_the_fragments_evenly() {
        let layout = Layout::new(7, 3, 3, 2).unwrap();
        let members: alloc::vec::Vec<_> = layout.members(1).collect();
        assert_eq!(members, [1, 4, 7]);
        assert_eq!(layout.locals(1), 12..14);
        let mut all = 0;
        for group in 0..3 {
            assert_eq!(layout.member_count(group), layout.members(group).count());
            assert!(layout.largest_group() - layout.member_count(group) <= 1);
            assert_eq!(all & layout.group_set(group), 0, "groups do not overlap");
            all |= layout.group_set(group);
        }
        assert_eq!(all, layout.all());
        for fragment in 0..layout.fragments() {
            let group = layout.group_of(fragment);
            assert_ne!(layout.group_set(group) & 1 << fragment, 0);
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_reason() {
        assert_eq!(Layout::new(0, 2, 1, 0), Err(LayoutError::Nothing));
        assert_eq!(Layout::new(4, 2, 0, 0), Err(LayoutError::Nothing));
        assert_eq!(Layout::new(4, 0, 1, 1), Err(LayoutError::NoParity));
        assert_eq!(Layout::new(24, 9, 3, 0), Err(LayoutError::TooWide));
        assert_eq!(Layout::new(1, 1, 3, 0), Err(LayoutError::EmptyDomain));
        assert_eq!(Layout::new(16, 8, 3, 14), Err(LayoutError::TooManyLocal));
        assert_eq!(Layout::new(24, 8, 8, 4).unwrap().all(), Set::MAX);
    }
}
