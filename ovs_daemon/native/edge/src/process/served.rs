//! One volume that the process serves: on a guest's socket, as a file, or both.

use std::path::Path;

use super::attachments::Spec;
use super::control::Asker;
use super::desk::{Failure, Room};
use crate::fuse::FileOffer;
use crate::nbd::Offer;
use crate::target::VolumeId;

pub(super) struct Served {
    pub(super) spec: Spec,
    pub(super) volume: VolumeId,
    pub(super) size: u64,
    /// An engine has accepted it once, in this life or an earlier one.
    pub(super) opened: bool,
    pub(super) listening: bool,
    pub(super) leaving: bool,
    pub(super) waiters: Vec<Asker>,
    pub(super) deadline_ns: Option<u64>,
}

impl Served {
    pub(super) fn title(&self) -> String {
        format!("volume {} ({})", self.spec.name, self.spec.volume)
    }

    /// Everything by which it is to be served is there.
    pub(super) fn is_as_asked(&self, room: &Room<'_>) -> bool {
        let mounted = room.fuse.serves(self.volume);
        self.listening == self.spec.socket.is_some() && mounted == self.spec.file.is_some()
    }

    /// Serves it as its spec says. What fails leaves what was served before.
    pub(super) fn serve(&mut self, room: &mut Room<'_>) -> Result<(), Failure> {
        let listened = self.listening;
        if let (Some(path), false) = (self.spec.socket.clone(), listened) {
            self.listen(&path, room)?;
        }
        if let (Some(path), false) = (self.spec.file.clone(), room.fuse.serves(self.volume)) {
            let mounted = self.mount(&path, room);
            if mounted.is_err() && !listened {
                self.unlisten(room);
            }
            mounted?;
        }
        if self.spec.socket.is_none() {
            self.unlisten(room);
        }
        if self.spec.file.is_none() {
            room.fuse.unmount(self.volume);
        }
        Ok(())
    }

    /// Ends all ways in which it is served.
    pub(super) fn withdraw(&mut self, room: &mut Room<'_>) {
        self.unlisten(room);
        room.fuse.unmount(self.volume);
    }

    /// Opens the guest's socket.
    fn listen(&mut self, path: &Path, room: &mut Room<'_>) -> Result<(), Failure> {
        let spec = &self.spec;
        let offer = Offer {
            volume: self.volume,
            name: spec.name.clone(),
            description: format!("vstorage volume {}", spec.volume),
            read_only: spec.read_only,
        };
        let owner = spec.owner.as_deref().and_then(parse_owner);
        room.nbd.listen_unix(room.ring, offer, path, spec.mode, owner).map_err(|error| {
            let what = format!("attach volume {} ({})", spec.name, spec.volume);
            let fix = "check the socket's directory, path and owner";
            Failure::new("socket", &what, error.to_string(), fix)
        })?;
        self.listening = true;
        Ok(())
    }

    fn unlisten(&mut self, room: &mut Room<'_>) {
        if std::mem::take(&mut self.listening) {
            room.nbd.unexport(room.ring, self.volume);
        }
    }

    /// Makes the volume a file.
    fn mount(&mut self, path: &Path, room: &mut Room<'_>) -> Result<(), Failure> {
        let spec = &self.spec;
        let offer = FileOffer {
            volume: self.volume,
            name: spec.name.clone(),
            read_only: spec.read_only,
            mode: spec.mode,
            owner: spec.owner.as_deref().and_then(parse_owner).unwrap_or((0, 0)),
        };
        room.fuse.mount(room.ring, offer, path).map_err(|error| {
            let what = format!("attach volume {} ({}) as a file", spec.name, spec.volume);
            let why = format!("cannot mount it on {}: {error}", path.display());
            let fix = "run vstorage-edge as root, with /dev/fuse; or attach over NBD";
            Failure::new("mount", &what, why, fix)
        })
    }
}

/// "uid:gid" as two numbers.
pub(super) fn parse_owner(text: &str) -> Option<(u32, u32)> {
    let (uid, gid) = text.split_once(':')?;
    Some((uid.parse().ok()?, gid.parse().ok()?))
}
