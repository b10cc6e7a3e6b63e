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
