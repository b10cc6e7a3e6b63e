//! `edge.json`: what this process serves, so that its next life serves it again.
//!
//! It is a convenience, not the truth: the registry knows what is attached, and the daemon brings
//! the Edge in line with it. So a file that cannot be read is put aside and said, and the process
//! starts without it.

use std::path::{Path, PathBuf};

use media::{Dir, File, StoreError};
use serde::{Deserialize, Serialize};

use super::whereabouts::Where;

/// Largest file that is read, in bytes.
const FILE_MAX: u64 = 64 << 20;
const NAME: &str = "edge.json";

/// How one volume is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Spec {
    /// UUID of the volume.
    pub(super) volume: String,
    /// Name of the NBD export.
    pub(super) name: String,
    /// Path of the guest's socket; `None`: not served over NBD.
    pub(super) socket: Option<PathBuf>,
    /// Path of the volume as a file; `None`: it is not served as one.
    #[serde(default)]
    pub(super) file: Option<PathBuf>,
    /// "uid:gid" of socket and file.
    pub(super) owner: Option<String>,
    /// Permission bits of socket and file.
    pub(super) mode: u32,
    /// The guest may not write.
    pub(super) read_only: bool,
    /// Close the guest's connections when the size changes, so that it sees the new one when it
    /// connects again. Only for guests that do connect again.
    #[serde(default)]
    pub(super) drop_on_resize: bool,
    /// Where it comes from.
    #[serde(default, rename = "where")]
    pub(super) place: Where,
}

impl Spec {
    /// Whether it can be changed to `other` while guests use it.
    pub(super) fn can_become(&self, other: &Self) -> bool {
        let same = |ours: &Option<PathBuf>, theirs: &Option<PathBuf>| match (ours, theirs) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => true,
        };
        let place = (&self.name, &self.owner, self.mode, self.read_only);
        place == (&other.name, &other.owner, other.mode, other.read_only)
            && same(&self.socket, &other.socket)
            && same(&self.file, &other.file)
    }

    /// Where it is served, for people.
    pub(super) fn places(&self) -> String {
        let paths = self.socket.iter().chain(&self.file);
        let places = paths.map(|path| path.display().to_string());
        places.collect::<Vec<_>>().join(" and ")
    }
}

/// A volume as it is kept in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    #[serde(flatten)]
    pub(super) spec: Spec,
    /// Bytes, as last heard from an engine.
    pub(super) size: u64,
}

#[derive(Serialize, Deserialize)]
struct Content {
    version: u32,
    volumes: Vec<Kept>,
}

/// The file.
pub(super) struct Attachments {
    dir: Dir,
}

impl Attachments {
    pub(super) fn of(run_dir: &Path) -> Self {
        Self { dir: Dir::at(run_dir) }
    }

    fn path(&self) -> PathBuf {
        self.dir.join(NAME)
    }

    /// What was kept. A file that cannot be used is put aside; the text says so.
    pub(super) fn load(&self) -> (Vec<Kept>, Option<String>) {
        let why = match self.read() {
            Ok(volumes) => return (volumes, None),
            Err(why) => why,
        };
        let aside = self.dir.join("edge.json.unusable");
        let kept = match media::rename(&self.path(), &aside) {
            Ok(()) => format!("it is kept as {}", aside.display()),
            Err(error) => error.to_string(),
        };
        let text = format!(
            "starts without {}: {why}; {kept}; volumes are served again when they are attached again",
            self.path().display()
        );
        (Vec::new(), Some(text))
    }

    fn read(&self) -> Result<Vec<Kept>, String> {
        let file = match File::open_read(&self.path()) {
            Ok(file) => file,
            Err(error) if error.is_not_found() => return Ok(Vec::new()),
            Err(error) => return Err(error.to_string()),
        };
        let len = file.len().map_err(|e| e.to_string())?;
        if len > FILE_MAX {
            return Err(format!("it has {len} bytes"));
        }
        let mut bytes = vec![0; len as usize];
        file.read_bytes_at(0, &mut bytes).map_err(|e| e.to_string())?;
        let content: Content = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
        match content.version {
            1 => Ok(content.volumes),
            other => Err(format!("it has version {other}")),
        }
    }

    /// Replaces the file, all of it or nothing.
    pub(super) fn save(&self, volumes: Vec<Kept>) -> Result<(), StoreError> {
        let content = Content { version: 1, volumes };
        let bytes = serde_json::to_vec_pretty(&content).unwrap_or_default();
        let fresh = "edge.json.new";
        self.dir.unlink(fresh)?;
        let file = File::create_new(&self.dir.join(fresh))?;
        file.write_bytes_at(0, &bytes)?;
        file.datasync()?;
        media::rename(&self.dir.join(fresh), &self.path())?;
        self.dir.sync()
    }
}
