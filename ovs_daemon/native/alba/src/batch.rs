//! Many puts that share their waits for the disk: group commit.
//!
//! All files are written under hidden names and then synced one after the other: the first sync
//! makes the file system's journal take what all of them changed, so that the others find little to
//! do. Only then they get their names, and each folder is synced once. A put is there wholly or not
//! at all, as with a single one: a name is never durable before what it stands for.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use crate::directory::{PRUNED_MAX, error};
use crate::part::Part;
use crate::{Put, Result};

/// What puts need of a disk; a twin in the tests forgets what was not synced.
pub(crate) trait Shelf {
    /// An open file.
    type File;

    /// Makes the folder of a file, durably; a hidden name in it, and its path.
    fn prepare(&self, name: &str) -> io::Result<(PathBuf, PathBuf)>;
    /// Whether there is such a file.
    fn exists(&self, path: &Path) -> bool;
    /// Writes a new file.
    fn write(&self, temporary: &Path, parts: &[Part]) -> io::Result<Self::File>;
    /// Makes a file's content durable.
    fn sync(&self, file: &Self::File) -> io::Result<()>;
    /// Gives a file its name, unless it is taken.
    fn link(&self, temporary: &Path, path: &Path) -> io::Result<()>;
    /// Takes the hidden name away. A leftover costs space only; a sweep takes it.
    fn unlink(&self, temporary: &Path);
    /// Makes the names in a folder durable.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
}

/// A file's name and the pieces of its content.
pub(crate) type Named<'a> = (&'a str, &'a [Part]);

struct Open<F> {
    temporary: PathBuf,
    path: PathBuf,
    file: F,
}

/// How far a put has come.
enum Stage<F> {
    /// Its content is on its way, or durable.
    Written(Open<F>),
    /// It has its name, which is not durable yet.
    Named(PathBuf, Put),
    Failed(io::Error),
}

fn begin<S: Shelf>(shelf: &S, name: &str, parts: &[Part]) -> io::Result<Stage<S::File>> {
    let mut pruned = 0;
    loop {
        let (temporary, path) = shelf.prepare(name)?;
        if shelf.exists(&path) {
            // Its name may not be durable yet: the put that made it may have been interrupted.
            return Ok(Stage::Named(path, Put::Exists));
        }
        match shelf.write(&temporary, parts) {
            Ok(file) => return Ok(Stage::Written(Open { temporary, path, file })),
            // Its folder was empty, and was removed: it is made anew.
            Err(why) if why.kind() == io::ErrorKind::NotFound && pruned < PRUNED_MAX => pruned += 1,
            Err(why) => {
                shelf.unlink(&temporary);
                return Err(why);
            }
        }
    }
}

/// Makes a file's content durable. It is asked once: the kernel tells of a failure once, and says
/// that all is well when it is asked again.
fn sync<S: Shelf>(shelf: &S, stage: Stage<S::File>) -> Stage<S::File> {
    let Stage::Written(open) = stage else { return stage };
    match shelf.sync(&open.file) {
        Ok(()) => Stage::Written(open),
        Err(why) => {
            shelf.unlink(&open.temporary);
            Stage::Failed(why)
        }
    }
}

fn name<S: Shelf>(shelf: &S, stage: Stage<S::File>) -> Stage<S::File> {
    let Stage::Written(Open { temporary, path, .. }) = stage else { return stage };
    let linked = shelf.link(&temporary, &path);
    shelf.unlink(&temporary);
    match linked {
        Ok(()) => Stage::Named(path, Put::Created),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Stage::Named(path, Put::Exists),
        Err(e) => Stage::Failed(e),
    }
}

/// Stores files, each if there is none of its name. Durable on return; outcomes in the same order.
pub(crate) fn put_all<S: Shelf>(shelf: &S, puts: &[Named]) -> Vec<Result<Put>> {
    let write = |(name, parts): &Named| begin(shelf, name, parts).unwrap_or_else(Stage::Failed);
    let written: Vec<_> = puts.iter().map(write).collect();
    let durable: Vec<_> = written.into_iter().map(|stage| sync(shelf, stage)).collect();
    let named: Vec<_> = durable.into_iter().map(|stage| name(shelf, stage)).collect();
    let folder = |path: &Path| path.parent().unwrap_or(Path::new("")).to_owned();
    let folders: BTreeSet<PathBuf> = named
        .iter()
        .filter_map(|stage| match stage {
            Stage::Named(path, _) => Some(folder(path)),
            _ => None,
        })
        .collect();
    let failures: Vec<(PathBuf, io::Error)> = folders
        .into_iter()
        .filter_map(|folder| shelf.sync_folder(&folder).err().map(|e| (folder, e)))
        .collect();
    let end = |(stage, (name, _)): (Stage<S::File>, &Named)| match stage {
        Stage::Named(path, put) => {
            let failure = failures.iter().find(|(failed, _)| *failed == folder(&path));
            match failure {
                Some((_, e)) => Err(error("store", name, io::Error::new(e.kind(), e.to_string()))),
                None => Ok(put),
            }
        }
        Stage::Failed(e) => Err(error("store", name, e)),
        Stage::Written(_) => unreachable!("every one was named or has failed"),
    };
    named.into_iter().zip(puts).map(end).collect()
}

#[cfg(test)]
mod tests;
