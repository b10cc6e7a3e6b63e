//! Files in memory, with a log of what was done to them.
//!
//! The twin of the real file system for tests: what one running process sees. It also writes down
//! every operation that changes something, and [`crate::crash`] turns that record into every state
//! that the disk may be in when the power goes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use buffer::files::{Cause, FileError, Files};

/// The content of a folder tree: each path with its bytes.
pub type Image = BTreeMap<String, Vec<u8>>;

/// One operation that changed something, in the order in which it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A new, empty file.
    Create {
        /// Its path.
        path: String,
    },
    /// Bytes written to a file.
    Write {
        /// The file.
        path: String,
        /// Where, in bytes.
        offset: u64,
        /// What.
        bytes: Arc<[u8]>,
    },
    /// The file's length was set.
    Truncate {
        /// The file.
        path: String,
        /// The new length in bytes.
        len: u64,
    },
    /// The file's content was made durable.
    Sync {
        /// The file.
        path: String,
    },
    /// The folder's names were made durable.
    SyncDir {
        /// The folder.
        dir: String,
    },
    /// A file got another name.
    Rename {
        /// The old path.
        from: String,
        /// The new path.
        to: String,
    },
    /// A file was removed.
    Unlink {
        /// Its path.
        path: String,
    },
    /// The test noted that something was promised here (an acknowledgement, say).
    Mark(u64),
}

/// Files in memory.
///
/// Clones share the same files, as two handles of one file system do.
#[derive(Clone, Debug, Default)]
pub struct MemoryFiles {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    files: Image,
    log: Option<Vec<Op>>,
    capacity: Option<u64>,
}

impl MemoryFiles {
    /// No files, no record.
    pub fn new() -> Self {
        Self::default()
    }

    /// The files of an image, no record.
    pub fn from_image(image: Image) -> Self {
        let state = State { files: image, log: None, capacity: None };
        MemoryFiles { state: Arc::new(Mutex::new(state)) }
    }

    /// Starts (again) to record, from the present content.
    #[must_use]
    pub fn recording(self) -> Self {
        self.lock().log = Some(Vec::new());
        self
    }

    /// Notes a promise in the record.
    pub fn mark(&self, promise: u64) {
        self.lock().note(Op::Mark(promise));
    }

    /// The record so far; empty when not recording.
    pub fn log(&self) -> Vec<Op> {
        self.lock().log.clone().unwrap_or_default()
    }

    /// The present content.
    pub fn image(&self) -> Image {
        self.lock().files.clone()
    }

    /// Limits the sum of all file lengths to `bytes`; `None` lifts the limit. Growing past it fails
    /// with [`Cause::NoSpace`].
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().capacity = bytes;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl State {
    fn note(&mut self, op: Op) {
        if let Some(log) = &mut self.log {
            log.push(op);
        }
    }

    fn file(&mut self, action: &'static str, path: &str) -> Result<&mut Vec<u8>, FileError> {
        self.files.get_mut(path).ok_or_else(|| missing(action, path))
    }

    fn room(&mut self, action: &'static str, path: &str, len: u64) -> Result<(), FileError> {
        let old = self.file(action, path)?.len() as u64;
        let used: u64 = self.files.values().map(|bytes| bytes.len() as u64).sum();
        match self.capacity {
            Some(capacity) if len > old && used - old + len > capacity => {
                let detail = format!("{used} of {capacity} bytes are in use");
                Err(FileError::new(action, path, Cause::NoSpace, detail))
            }
            _ => Ok(()),
        }
    }
}

fn missing(action: &'static str, path: &str) -> FileError {
    FileError::new(action, path, Cause::NotFound, "there is no such file")
}

/// The folder of a path; the root is `""`.
pub(crate) fn dir_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// Writes into a byte vector as into a file: a gap is filled with zeros.
pub(crate) fn put(file: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let end = offset as usize + bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[offset as usize..end].copy_from_slice(bytes);
}

impl Files for MemoryFiles {
    fn create(&self, path: &str) -> Result<(), FileError> {
        let mut state = self.lock();
        if state.files.contains_key(path) {
            return Err(FileError::new("create", path, Cause::Exists, "the name is taken"));
        }
        state.files.insert(path.to_string(), Vec::new());
        state.note(Op::Create { path: path.to_string() });
        Ok(())
    }

    fn write_at(&self, path: &str, offset: u64, parts: &[&[u8]]) -> Result<(), FileError> {
        let bytes = parts.concat();
        let mut state = self.lock();
        state.room("write", path, offset + bytes.len() as u64)?;
        put(state.file("write", path)?, offset, &bytes);
        state.note(Op::Write { path: path.to_string(), offset, bytes: bytes.into() });
        Ok(())
    }

    fn sync(&self, path: &str) -> Result<(), FileError> {
        let mut state = self.lock();
        state.file("sync", path)?;
        state.note(Op::Sync { path: path.to_string() });
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> Result<(), FileError> {
        self.lock().note(Op::SyncDir { dir: dir.to_string() });
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), FileError> {
        let mut state = self.lock();
        let file = state.files.remove(from).ok_or_else(|| missing("rename", from))?;
        state.files.insert(to.to_string(), file);
        state.note(Op::Rename { from: from.to_string(), to: to.to_string() });
        Ok(())
    }

    fn unlink(&self, path: &str) -> Result<(), FileError> {
        let mut state = self.lock();
        state.files.remove(path).ok_or_else(|| missing("remove", path))?;
        state.note(Op::Unlink { path: path.to_string() });
        Ok(())
    }

    fn truncate(&self, path: &str, len: u64) -> Result<(), FileError> {
        let mut state = self.lock();
        state.room("truncate", path, len)?;
        state.file("truncate", path)?.resize(len as usize, 0);
        state.note(Op::Truncate { path: path.to_string(), len });
        Ok(())
    }

    fn list(&self, dir: &str) -> Result<Vec<(String, u64)>, FileError> {
        let state = self.lock();
        let name = |path: &String| path.rsplit('/').next().unwrap_or_default().to_string();
        let files = state.files.iter().filter(|(path, _)| dir_of(path) == dir);
        Ok(files.map(|(path, bytes)| (name(path), bytes.len() as u64)).collect())
    }

    fn read_at(&self, path: &str, offset: u64, into: &mut [u8]) -> Result<usize, FileError> {
        let mut state = self.lock();
        let file = state.file("read", path)?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(file.len());
        let len = into.len().min(file.len() - start);
        into[..len].copy_from_slice(&file[start..start + len]);
        Ok(len)
    }

    fn len(&self, path: &str) -> Result<u64, FileError> {
        Ok(self.lock().file("measure", path)?.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaves_as_files_do() {
        let files = MemoryFiles::new();
        files.create("a/1").expect("new");
        files.write_at("a/1", 2, &[b"xy", b"z"]).expect("exists");
        let mut buffer = [9u8; 8];
        assert_eq!(files.read_at("a/1", 0, &mut buffer), Ok(5));
        assert_eq!(&buffer, b"\0\0xyz\x09\x09\x09");
        assert_eq!(files.read_at("a/1", 99, &mut buffer), Ok(0));
        assert_eq!(files.create("a/1").map_err(|e| e.cause), Err(Cause::Exists));
        assert_eq!(files.len("a/2").map_err(|e| e.cause), Err(Cause::NotFound));
        files.create("b").expect("new");
        files.rename("a/1", "a/0").expect("exists");
        assert_eq!(files.list("a"), Ok(vec![("0".to_string(), 5)]));
        assert_eq!(files.list(""), Ok(vec![("b".to_string(), 0)]));
        files.truncate("a/0", 3).expect("exists");
        files.unlink("b").expect("exists");
        assert_eq!(files.image(), Image::from([("a/0".to_string(), b"\0\0x".to_vec())]));
    }

    #[test]
    fn a_full_disk_refuses_growth_only() {
        let files = MemoryFiles::new();
        files.create("a").expect("new");
        files.set_capacity(Some(4));
        files.write_at("a", 0, &[b"1234"]).expect("fits");
        files.write_at("a", 1, &[b"abc"]).expect("does not grow");
        let refused = files.write_at("a", 2, &[b"abc"]).expect_err("grows");
        assert_eq!(refused.cause, Cause::NoSpace);
        files.set_capacity(None);
        files.write_at("a", 2, &[b"abc"]).expect("no limit");
    }
}
