//! What a layer above needs to know of an object, and with which preset it is put.

use machines::alba::Shortage;

use crate::preset::Preset;
use crate::{Put, Result, Sink};

use super::Cluster;

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

    /// Whether the OSDs in reach satisfy a policy of a preset; else why not.
    pub fn satisfies(&self, preset: &Preset) -> std::result::Result<(), String> {
        match preset.choose(&self.disks(self.reach().up())) {
            (Some(_), _) => Ok(()),
            (None, shortages) => {
                let why: Vec<String> = shortages.iter().map(Shortage::to_string).collect();
                Err(why.join("; "))
            }
        }
    }

    /// Like `Backend::put`, with a preset of its own; `sealed`: what `fill` writes is sealed.
    pub fn put_with(
        &self,
        name: &str,
        preset: &Preset,
        sealed: bool,
        fill: &mut dyn FnMut(&mut dyn Sink) -> Result<()>,
    ) -> Result<Put> {
        self.put_object(name, preset, sealed, fill)
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
