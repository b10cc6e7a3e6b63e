//! Everything is mended at once, of a cluster that nobody else uses.

use super::{Cluster, Mended, Terms};
use crate::{Backend, Result};

/// What became of all objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Objects that were looked at.
    pub objects: usize,
    /// Those that cannot be computed, or of which it cannot be told.
    pub lost: usize,
    /// What was stored for the others.
    pub mended: Mended,
}

impl Cluster {
    /// Mends every object.
    pub fn repair(&self) -> Result<Repaired> {
        let mut done = Repaired::default();
        self.walk(&mut |name| {
            done.objects += 1;
            match self.mend(name, &Terms::default(), &mut |_| true) {
                Ok(mended) => done.mended.add(mended),
                Err(_) => done.lost += usize::from(self.len(name).is_err()),
            }
            true
        })?;
        Ok(done)
    }
}
