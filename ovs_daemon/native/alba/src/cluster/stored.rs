//! What a layer above needs to know of an object, and with which preset it is put.

use std::cell::RefCell;

use machines::alba::Shortage;

use crate::preset::Preset;
use crate::same::is_same;
use crate::{Backend, Put, Result, Sink};

use super::put::Outcome;
use super::{Cluster, failed};

/// An object as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Bytes that were put.
    pub len: u64,
    /// Whether they are sealed (see `format::seal`).
    pub sealed: bool,
    /// Number of the put.
    pub generation: u64,
}

impl Cluster {
    /// The preset of objects that are put without naming one.
    pub fn preset(&self) -> &Preset {
        &self.preset
    }

    /// For each of these presets: why the OSDs in reach satisfy none of its policies; `None` when
    /// they do.
    pub fn shortages(&self, presets: &[&Preset]) -> Vec<Option<String>> {
        let disks = self.disks(self.reach().up());
        let shortage = |preset: &&Preset| match preset.choose(&disks) {
            (Some(_), _) => None,
            (None, shortages) => {
                let why: Vec<String> = shortages.iter().map(Shortage::to_string).collect();
                Some(why.join("; "))
            }
        };
        presets.iter().map(shortage).collect()
    }

    /// Like `Backend::put`, with a preset of its own; `sealed`: what `fill` writes is sealed.
    pub fn put_with(
        &self,
        name: &str,
        preset: &Preset,
        sealed: bool,
        fill: &mut dyn FnMut(&mut dyn Sink) -> Result<()>,
    ) -> Result<Put> {
        let fill = RefCell::new(fill);
        let same = &mut || {
            let len = self.len(name)?.unwrap_or(0);
            let read = |offset, into: &mut [u8]| self.read(name, offset, into);
            is_same(len, &read, &mut **fill.borrow_mut())
        };
        self.put_comparing(name, preset, sealed, &mut |sink| (fill.borrow_mut())(sink), same)
    }

    /// The same; `same` says whether what is stored is what would be put. It is asked when an earlier
    /// put was cut off, and cannot be completed because OSDs are away: maybe one of them had the last
    /// fragment that was needed, and the put counts when it is back. Whoever says the same, be it the
    /// one who was cut off, after a restart, or who goes on with the volume, may say it once more, on
    /// OSDs that are here: whichever of the two puts counts, nothing else is read. What is left of the
    /// first stays where it is, since somebody may have completed it.
    pub fn put_comparing(
        &self,
        name: &str,
        preset: &Preset,
        sealed: bool,
        fill: &mut dyn FnMut(&mut dyn Sink) -> Result<()>,
        same: &mut dyn FnMut() -> Result<bool>,
    ) -> Result<Put> {
        let short = match self.put_object(name, preset, sealed, None, fill)? {
            Outcome::Put(put) => return Ok(put),
            Outcome::Short(generation) => generation,
        };
        if same()?
            && let Outcome::Put(put) = self.put_object(name, preset, sealed, Some(short), fill)?
        {
            return Ok(put);
        }
        Err(failed("store", name, "it is there, but on too few OSDs; bring more into reach"))
    }

    /// What is stored under a name.
    pub fn stored(&self, name: &str) -> Result<Option<Stored>> {
        let found = self.find(name)?;
        Ok(found.map(|found| Stored {
            len: found.object_len(),
            sealed: found.sealed,
            generation: found.seen.generation,
        }))
    }
}
