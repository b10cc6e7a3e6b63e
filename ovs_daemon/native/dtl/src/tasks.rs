//! What the server has done by threads that may wait.

use std::path::{Path, PathBuf};
use std::time::Duration;

use buffer::{DiskFiles, file_name};
use format::dtl::{Fence, Frame, Rejection};
use format::entry::Uuid;
use media::{Dir, Fd, File, StoreError};
use net::Stream;

use crate::gone;
use crate::replica::{FENCE_FILE, Loaded, Replica, store_fence, uuid_text};

/// Bytes of a file in one frame.
const BLOCK: usize = 1 << 20;
/// How long a successor may take for one block.
const PATIENCE: Duration = Duration::from_secs(30);

/// Something that takes long.
#[derive(Debug)]
pub struct Task(pub(crate) Kind);

/// Tasks that may wait for one another, and for no other ones: each lane needs threads of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// A takeover waits for a few bytes to be on the disk.
    Fence,
    /// A caller waits for the headers of a log to be read.
    Load,
    /// A whole tail, as fast as its reader takes it.
    Stream,
    /// Large files are removed.
    Removal,
}

#[derive(Debug)]
pub(crate) enum Kind {
    /// Find out what is held of a volume.
    Load { root: PathBuf, volume: Uuid },
    /// Store a fence.
    Store { root: PathBuf, fence: Fence },
    /// Send everything that is held to a successor.
    Stream { connection: u32, fd: Fd, folder: PathBuf, scos: Vec<(u32, u64)> },
    /// Forget a volume.
    Remove { connection: u32, fd: Fd, root: PathBuf, volume: Uuid },
    /// Remove files of which nothing is needed.
    Unlink { files: Vec<PathBuf> },
}

/// What came of a task.
#[derive(Debug)]
pub struct TaskDone(pub(crate) Done);

#[derive(Debug)]
pub(crate) enum Done {
    Loaded { volume: Uuid, result: Result<Box<Loaded>, StoreError> },
    Stored { fence: Fence, result: Result<(), String> },
    Streamed { connection: u32, result: Result<(), String> },
    Removed { connection: u32, volume: Uuid, result: Result<(), String> },
    Unlinked { files: Vec<PathBuf>, result: Result<(), String> },
}

impl Task {
    /// Whose threads do it.
    pub fn lane(&self) -> Lane {
        match self.0 {
            Kind::Store { .. } => Lane::Fence,
            Kind::Load { .. } => Lane::Load,
            Kind::Stream { .. } => Lane::Stream,
            Kind::Remove { .. } | Kind::Unlink { .. } => Lane::Removal,
        }
    }

    /// Does it.
    pub fn run(self) -> TaskDone {
        TaskDone(match self.0 {
            Kind::Load { root, volume } => {
                Done::Loaded { volume, result: Replica::load(&root, &volume).map(Box::new) }
            }
            Kind::Store { root, fence } => {
                let stored = store_fence(&DiskFiles::new(&root), &fence);
                Done::Stored { fence, result: stored.map_err(|e| e.to_string()) }
            }
            Kind::Stream { connection, fd, folder, scos } => {
                Done::Streamed { connection, result: stream(&fd, &folder, &scos) }
            }
            Kind::Remove { connection, fd, root, volume } => {
                let result = remove(&fd, &root, &volume);
                Done::Removed { connection, volume, result }
            }
            Kind::Unlink { files } => {
                let result = gone::remove(&files).map_err(|e| e.to_string());
                Done::Unlinked { files, result }
            }
        })
    }
}

fn stream(fd: &Fd, folder: &Path, scos: &[(u32, u64)]) -> Result<(), String> {
    let failed = |e: std::io::Error| e.to_string();
    let mut stream = Stream::from_fd(fd, PATIENCE).map_err(failed)?;
    let mut block = vec![0; BLOCK];
    for (sco, bytes) in scos {
        let path = folder.join(file_name(*sco));
        let file = File::open_read(&path).map_err(|e| e.to_string())?;
        let mut offset = 0;
        while offset < *bytes {
            let now = (bytes - offset).min(BLOCK as u64) as usize;
            file.read_bytes_at(offset, &mut block[..now]).map_err(|e| e.to_string())?;
            let frame = Frame::File { sco: *sco, offset, payload: now as u32 };
            stream.write_all(&frame.encode()).map_err(failed)?;
            stream.write_all(&block[..now]).map_err(failed)?;
            offset += now as u64;
        }
    }
    stream.write_all(&Frame::End { files: scos.len() as u32 }.encode()).map_err(failed)
}

/// The fence first: what a removal that was cut short has left is suspect then, and nobody takes it
/// for the whole log.
fn forget(folder: &Dir) -> Result<(), StoreError> {
    folder.unlink(FENCE_FILE)?;
    match folder.sync() {
        Err(error) if !error.is_not_found() => return Err(error),
        _ => {}
    }
    folder.remove_all()
}

fn remove(fd: &Fd, root: &Path, volume: &Uuid) -> Result<(), String> {
    let folder = Dir::at(&root.join(uuid_text(volume)));
    let removed = forget(&folder).and_then(|()| Dir::at(root).sync());
    let frame = match &removed {
        Ok(()) => Frame::Done,
        Err(_) => Frame::Rejected(Rejection::Failed),
    };
    let answered = Stream::from_fd(fd, PATIENCE).and_then(|mut s| s.write_all(&frame.encode()));
    removed.map_err(|e| e.to_string()).and(answered.map_err(|e| e.to_string()))
}
