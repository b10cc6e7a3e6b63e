//! Presets: which one a volume's objects are put with, and what the status says of them.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use alba::cluster::{OsdPlace, Place};
use alba::preset::{Preset, PresetError};
use alba::sealed::{Key, Keys};
use alba::{Backend, Cluster, Directory, Sealed};
use format::entry::Uuid;
use serde::Deserialize;
use serde_json::{Value, json};
use volume::uuid_text;

use crate::config::Config;
use crate::engine::{Engine, backend_error};
use crate::error::{Error, Result};

/// A key that objects are encrypted with.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct KeyConfig {
    pub name: String,
    /// 64 hexadecimal digits.
    pub key: String,
}

impl fmt::Debug for KeyConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyConfig({})", self.name)
    }
}

fn bad_preset(what: &str, error: PresetError) -> Error {
    Error::new("BAD_PRESET", what, error.why, error.fix)
}

/// The backend, and the same once more when it is one that knows presets.
pub(crate) type Backends = (Arc<dyn Backend>, Option<Arc<Sealed>>);

/// Opens the backend that the configuration names.
pub(crate) fn backend(config: &Config) -> Result<Backends> {
    let what = "cannot start the engine";
    let Some(alba) = &config.alba else {
        let dir = config.backend_dir.as_deref().unwrap_or(Path::new("."));
        return Ok((Arc::new(Directory::open(dir).map_err(|e| backend_error(what, &e))?), None));
    };
    let preset = Preset::find(&alba.preset).map_err(|e| bad_preset(what, e))?;
    let keys: std::result::Result<Vec<Key>, String> =
        alba.keys.iter().map(|key| Key::new(&key.name, &key.key)).collect();
    let keys = keys.map_err(|why| {
        Error::new("BAD_CONFIG", what, why, "correct the key; 'openssl rand -hex 32' makes one")
    })?;
    let folder = |place: &Place| match place {
        Place::Folder(folder) => Some(folder.clone()),
        Place::Server(_) => None,
    };
    let folders: Option<Vec<OsdPlace>> = alba.osds.iter().map(folder).collect();
    let cluster = match folders {
        Some(folders) if !folders.is_empty() => Cluster::open(&folders, preset, alba.reserve),
        // OSDs behind servers may come later.
        _ => Cluster::connect(&alba.osds, preset, alba.reserve, config.link()?),
    };
    let cluster = cluster.map_err(|e| backend_error(what, &e))?;
    let sealed = Sealed::new(cluster, Keys::new(keys)).map_err(|e| bad_preset(what, e))?;
    let sealed = Arc::new(sealed);
    Ok((sealed.clone(), Some(sealed)))
}

impl Engine {
    fn preset(&self, what: &str, value: &Value) -> Result<(&Sealed, Preset)> {
        let Some(sealed) = &self.sealed else {
            let why = "its backend is a folder of objects, which knows no presets";
            let fix = "use [alba], or leave the preset out";
            return Err(Error::new("BAD_PRESET", what, why, fix));
        };
        Ok((sealed, Preset::find(value).map_err(|e| bad_preset(what, e))?))
    }

    /// Refuses a preset that no object could be put with now.
    pub(crate) fn check_preset(&self, what: &str, value: Option<&Value>) -> Result<()> {
        let Some(value) = value else { return Ok(()) };
        let (sealed, preset) = self.preset(what, value)?;
        sealed.check(&preset).map_err(|e| bad_preset(what, e))
    }

    /// From now on a volume's objects are put with this preset, until the engine ends: also what is
    /// still on its way when the volume is closed.
    pub(crate) fn assign_preset(
        &self,
        what: &str,
        volume: &Uuid,
        value: Option<&Value>,
    ) -> Result<()> {
        let volume = uuid_text(volume);
        let assigned = match (value, &self.sealed) {
            (Some(value), _) => {
                let (sealed, preset) = self.preset(what, value)?;
                sealed.assign(&volume, Some(preset))
            }
            (None, Some(sealed)) => sealed.assign(&volume, None),
            (None, None) => Ok(()),
        };
        assigned.map_err(|e| bad_preset(what, e))
    }

    /// A finding for each preset in use that the OSDs do not satisfy at this moment.
    pub(crate) fn preset_findings(&self) -> Vec<Value> {
        let unsatisfied = self.sealed.iter().flat_map(|sealed| sealed.unsatisfied());
        let finding = |(preset, why): (String, String)| {
            json!({
                "code": "PRESET_NOT_SATISFIED",
                "severity": "warning",
                "object": format!("preset {preset}"),
                "why": format!("no policy of it fits the OSDs in reach: {why}"),
                "fix": "bring OSDs back or add some; until then what is written with it stays in \
                        the write buffer, and reads go on",
            })
        };
        unsatisfied.map(finding).collect()
    }

    /// Bytes of what was compressed or encrypted since the engine was started.
    pub(crate) fn sealed_bytes(&self) -> Option<Value> {
        let written = self.sealed.as_ref()?.written();
        Some(json!({"plain_bytes": written.plain, "stored_bytes": written.sealed}))
    }
}
