//! [`Files`] over a folder of the real disk, for recovery and the offline tools.

use std::path::{Path, PathBuf};

use media::{Dir, File, StoreError};

use crate::files::{Cause, FileError, Files};

/// Files below a folder.
#[derive(Clone, Debug)]
pub struct DiskFiles {
    root: PathBuf,
}

impl DiskFiles {
    /// Paths will be relative to `root`.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn dir(&self, dir: &str) -> Result<Dir, FileError> {
        Dir::create(&self.path(dir)).map_err(|e| convert("open", dir, &e))
    }

    fn split<'a>(&self, path: &'a str) -> Result<(Dir, &'a str), FileError> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.dir(folder)?, name))
    }
}

fn convert(action: &'static str, path: &str, error: &StoreError) -> FileError {
    let cause = if error.is_not_found() {
        Cause::NotFound
    } else if error.is_no_space() {
        Cause::NoSpace
    } else if error.source.kind() == std::io::ErrorKind::AlreadyExists {
        Cause::Exists
    } else {
        Cause::Failed
    };
    FileError::new(action, path, cause, error.source.to_string())
}

impl Files for DiskFiles {
    fn create(&self, path: &str) -> Result<(), FileError> {
        let (dir, name) = self.split(path)?;
        File::create_new(&dir.join(name)).map(|_| ()).map_err(|e| convert("create", path, &e))
    }

    fn write_at(&self, path: &str, offset: u64, parts: &[&[u8]]) -> Result<(), FileError> {
        let failed = |e: StoreError| convert("write", path, &e);
        let file = File::open(&self.path(path)).map_err(failed)?;
        let mut at = offset;
        for part in parts {
            file.write_bytes_at(at, part).map_err(failed)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    fn sync(&self, path: &str) -> Result<(), FileError> {
        let synced = File::open(&self.path(path)).and_then(|f| f.datasync());
        synced.map_err(|e| convert("sync", path, &e))
    }

    fn sync_dir(&self, dir: &str) -> Result<(), FileError> {
        self.dir(dir)?.sync().map_err(|e| convert("sync", dir, &e))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), FileError> {
        let renamed = media::rename(&self.path(from), &self.path(to));
        renamed.map_err(|e| convert("rename", from, &e))
    }

    fn unlink(&self, path: &str) -> Result<(), FileError> {
        let (dir, name) = self.split(path)?;
        dir.unlink(name).map_err(|e| convert("remove", path, &e))
    }

    fn truncate(&self, path: &str, len: u64) -> Result<(), FileError> {
        let cut = File::open(&self.path(path)).and_then(|f| f.truncate(len));
        cut.map_err(|e| convert("truncate", path, &e))
    }

    fn list(&self, dir: &str) -> Result<Vec<(String, u64)>, FileError> {
        let folder = self.path(dir);
        let failed = |e: StoreError| convert("list", dir, &e);
        let mut entries = Vec::new();
        for name in Dir::at(&folder).list().map_err(failed)? {
            match media::file_len(&folder.join(&name)).map_err(failed)? {
                Some(len) => entries.push((name, len)),
                None => continue,
            }
        }
        entries.sort();
        Ok(entries)
    }

    fn read_at(&self, path: &str, offset: u64, into: &mut [u8]) -> Result<usize, FileError> {
        let failed = |e: StoreError| convert("read", path, &e);
        let file = File::open_read(&self.path(path)).map_err(failed)?;
        file.read_some_at(offset, into).map_err(failed)
    }

    fn len(&self, path: &str) -> Result<u64, FileError> {
        let len = File::open_read(&self.path(path)).and_then(|f| f.len());
        len.map_err(|e| convert("look at", path, &e))
    }
}
