//! Files of which nothing is needed any more.
//!
//! Giving back the blocks and pages of a large file takes longer than a shard has time: all its volumes
//! would wait for their acknowledgements. So a file only gets a name that is no part of a log, and a
//! thread removes it by that. What no thread has come to is removed when the folder is read again. A
//! new name may need room in the folder: where the disk has none the file is removed at once.
//!
//! A name is given once while a folder is used. A thread that comes late finds nothing, or what is of
//! no use either.

use std::path::{Path, PathBuf};

use media::{Dir, StoreError, rename};

/// What their names begin with.
const PREFIX: &str = "gone-";

/// Files that were given such a name, and that no thread has been told of.
#[derive(Debug, Default)]
pub(crate) struct Gone {
    named: u64,
    files: Vec<PathBuf>,
}

impl Gone {
    /// Takes a file out of use; one that is missing is fine.
    ///
    /// # Errors
    /// It has its old name still.
    pub(crate) fn add(&mut self, file: &Path) -> Result<(), StoreError> {
        let to = file.with_file_name(format!("{PREFIX}{:016x}", self.named));
        self.named += 1;
        match rename(file, &to) {
            Ok(()) => self.files.push(to),
            Err(_) => remove(&[file.to_owned()])?,
        }
        Ok(())
    }

    /// Those that a thread is to be told of.
    pub(crate) fn take(&mut self) -> Vec<PathBuf> {
        std::mem::take(&mut self.files)
    }

    /// Removes those that an earlier life has left.
    ///
    /// # Errors
    /// Any of them may be left.
    pub(crate) fn clear(path: &Path) -> Result<(), StoreError> {
        let dir = Dir::at(path);
        let mut names = dir.list()?;
        names.retain(|name| name.starts_with(PREFIX));
        names.iter().try_for_each(|name| dir.unlink(name))
    }
}

/// Removes them; one that is missing is fine.
///
/// # Errors
/// The first that occurred; the others were removed.
pub(crate) fn remove(files: &[PathBuf]) -> Result<(), StoreError> {
    let mut done = Ok(());
    for file in files {
        if let (Some(dir), Some(name)) = (file.parent(), file.file_name()) {
            done = done.and(Dir::at(dir).unlink(&name.to_string_lossy()));
        }
    }
    done
}
