//! Objects as files of a folder.
//!
//! A put writes a hidden file, syncs it, gives it its name by a hard link (which fails when the
//! name is taken, and is atomic) and syncs the folder. So an object is there wholly or not at all.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use media::{Dir, write_new};

use crate::batch::Shelf;
use crate::descriptors::Descriptors;
use crate::part::Part;
use crate::{Backend, BackendError, Cause, Fill, Put, Result, Sink, Space, fill_and_write};

pub(crate) const TEMPORARY: &str = ".put-";
/// How often the folder of a put is made anew, because it was empty and was removed.
pub(crate) const PRUNED_MAX: u32 = 10;

/// See the top of the file.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    puts: AtomicU64,
    /// Bytes that were written.
    taken: AtomicU64,
    descriptors: Descriptors,
    /// Folders that a power loss cannot take: their entries were synced by this process.
    durable: Mutex<HashSet<PathBuf>>,
}

impl Directory {
    /// The backend in `root`, which is created when missing. Fails at once, with the reason, when
    /// the folder can't be written.
    pub fn open(root: &Path) -> Result<Self> {
        let failed = |e| error("open", &root.display().to_string(), e);
        Dir::create(root).and_then(|dir| dir.sync_entry()).map_err(|e| failed(e.source))?;
        let probe = root.join(format!("{TEMPORARY}probe-{}", std::process::id()));
        File::create(&probe).and_then(|_| fs::remove_file(&probe)).map_err(failed)?;
        Ok(Self {
            root: root.to_owned(),
            puts: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            descriptors: Descriptors::default(),
            durable: Mutex::default(),
        })
    }

    fn durable(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates a folder and its parents and makes their entries durable. One that is there already
    /// may have been made a moment ago, by somebody who was killed before he could sync it or has
    /// not come to that yet; so nobody relies on what he has not synced himself.
    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        if folder == self.root || (self.durable().contains(folder) && folder.is_dir()) {
            return Ok(());
        }
        let parent = folder.parent().ok_or(io::ErrorKind::InvalidInput)?;
        self.create_folder(parent)?;
        match fs::create_dir(folder) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => sync_folder(parent)?,
        }
        self.durable().insert(folder.to_owned());
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Removes the folders above an object that has been deleted which are empty now. A put into one
    /// of them makes it anew.
    pub(crate) fn prune(&self, name: &str) {
        let path = self.path(name);
        for folder in path.ancestors().skip(1).take_while(|folder| **folder != self.root) {
            // Whoever makes it anew meanwhile must not take it for the durable one.
            let mut durable = self.durable();
            if fs::remove_dir(folder).is_err() {
                return;
            }
            durable.remove(folder);
        }
    }

    /// Deletes everything below a folder but files of which `keep` says so; a missing one is fine.
    /// Durable on return.
    pub(crate) fn delete_folder_but(
        &self,
        folder: &str,
        keep: &dyn Fn(&str) -> bool,
    ) -> Result<()> {
        let path = self.path(folder);
        let removed = remove_below(&path, keep);
        self.descriptors.close_folder(folder);
        self.durable().retain(|other| !other.starts_with(&path));
        let failed = |e| error("delete", folder, e);
        match removed {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed(e)),
        }
        // Also of one that is missing: who deleted it may have been killed before the sync.
        settle(path.parent().unwrap_or(&self.root)).map_err(failed)
    }

    /// The file of an object that is open.
    pub(crate) fn opened(&self, name: &str) -> Option<Arc<File>> {
        self.descriptors.peek(name)
    }

    /// Where a put into this folder keeps its bytes until it is done. In a container every life of a
    /// process has the same number: one that is there already is a dead one's.
    fn temporary(&self, folder: &Path) -> PathBuf {
        let count = self.puts.fetch_add(1, Ordering::Relaxed);
        let temporary = folder.join(format!("{TEMPORARY}{}-{count}", std::process::id()));
        let _ = fs::remove_file(&temporary);
        temporary
    }
}

fn write_temporary(
    name: &str,
    file: File,
    taken: &AtomicU64,
    fill: &mut dyn FnMut(&mut dyn Sink) -> Result<()>,
) -> Result<()> {
    let mut sink = FileSink { name, file, taken, place: Vec::new() };
    fill(&mut sink)?;
    sink.file.sync_all().map_err(|e| error("store", name, e))
}

struct FileSink<'a> {
    name: &'a str,
    file: File,
    taken: &'a AtomicU64,
    /// For bytes that are read, see [`Sink::fill`].
    place: Vec<u8>,
}

impl Sink for FileSink<'_> {
    fn fill(&mut self, len: usize, fill: &mut Fill) -> Result<()> {
        let mut place = std::mem::take(&mut self.place);
        let filled = fill_and_write(self, &mut place, len, fill);
        self.place = place;
        filled
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| error("store", self.name, e))?;
        self.taken.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

pub(crate) fn error(attempted: &'static str, object: &str, e: io::Error) -> BackendError {
    let cause = match e.kind() {
        io::ErrorKind::NotFound => Cause::NotFound,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Cause::NoSpace,
        io::ErrorKind::UnexpectedEof => Cause::Corrupt,
        _ => Cause::Failed,
    };
    BackendError { attempted, object: object.to_owned(), cause, why: e.to_string() }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Removes what is in a folder but files that are kept, and the folder, unless it has some: then
/// what was removed from it stays removed. Others may remove the same meanwhile: what is missing is
/// removed, and the rest still has to go.
fn remove_below(folder: &Path, keep: &dyn Fn(&str) -> bool) -> io::Result<()> {
    let mut kept = false;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        let is_folder = match entry.file_type() {
            Ok(kind) => kind.is_dir(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        if is_folder {
            gone(remove_below(&path, keep))?;
            kept |= path.exists();
        } else if keep(&entry.file_name().to_string_lossy()) {
            kept = true;
        } else {
            gone(fs::remove_file(&path))?;
        }
    }
    if !kept {
        match fs::remove_dir(folder) {
            // Something was stored there since: it came after what is deleted.
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            removed => return gone(removed),
        }
    }
    settle(folder)
}

/// What somebody else has removed meanwhile is removed.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Makes what was removed from a folder stay removed; from one that is missing nothing can return.
fn settle(folder: &Path) -> io::Result<()> {
    match sync_folder(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// The disk, for many puts at a time.
pub(crate) struct OnDisk<'a> {
    pub(crate) directory: &'a Directory,
    /// Bytes that are written at a time: others have their turn at the device between them.
    pub(crate) step: usize,
}

impl Shelf for OnDisk<'_> {
    type File = File;

    fn prepare(&self, name: &str) -> io::Result<(PathBuf, PathBuf)> {
        let directory = self.directory;
        let path = directory.path(name);
        let folder = path.parent().unwrap_or(&directory.root).to_owned();
        directory.create_folder(&folder)?;
        Ok((directory.temporary(&folder), path))
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn write(&self, temporary: &Path, parts: &[Part]) -> io::Result<File> {
        let parts: Vec<&[u8]> = parts.iter().map(|part| &**part).collect();
        write_new(temporary, &parts, self.step)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn link(&self, temporary: &Path, path: &Path) -> io::Result<()> {
        fs::hard_link(temporary, path)
    }

    fn unlink(&self, temporary: &Path) {
        let _ = fs::remove_file(temporary);
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        sync_folder(folder)
    }
}

impl Backend for Directory {
    fn put(&self, name: &str, fill: &mut dyn FnMut(&mut dyn Sink) -> Result<()>) -> Result<Put> {
        let failed = |e| error("store", name, e);
        let path = self.path(name);
        let folder = path.parent().unwrap_or(&self.root);
        let mut pruned = 0;
        let (temporary, file) = loop {
            self.create_folder(folder).map_err(failed)?;
            if path.exists() {
                // Its name may not be durable yet: the put that made it may have been interrupted.
                sync_folder(folder).map_err(failed)?;
                return Ok(Put::Exists);
            }
            let temporary = self.temporary(folder);
            match OpenOptions::new().write(true).create_new(true).open(&temporary) {
                Ok(file) => break (temporary, file),
                // It was empty, and was pruned.
                Err(e) if e.kind() == io::ErrorKind::NotFound && pruned < PRUNED_MAX => pruned += 1,
                Err(e) => return Err(failed(e)),
            }
        };
        let outcome = write_temporary(name, file, &self.taken, fill).and_then(|()| {
            match fs::hard_link(&temporary, &path) {
                Ok(()) => Ok(Put::Created),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(Put::Exists),
                Err(e) => Err(failed(e)),
            }
        });
        // A leftover costs space only; `sweep` takes it.
        let _ = fs::remove_file(&temporary);
        let put = outcome?;
        sync_folder(folder).map_err(failed)?;
        Ok(put)
    }

    fn read(&self, name: &str, offset: u64, into: &mut [u8]) -> Result<()> {
        let file = self.descriptors.get(name, || File::open(self.path(name)));
        file.map_err(|e| error("open", name, e))?.read_exact_at(into, offset).map_err(|e| {
            self.descriptors.close(name);
            error("read", name, e)
        })
    }

    fn len(&self, name: &str) -> Result<Option<u64>> {
        match fs::metadata(self.path(name)) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(error("look up", name, e)),
        }
    }

    fn list(&self, folder: &str) -> Result<Vec<String>> {
        let failed = |e| error("list", folder, e);
        let entries = match fs::read_dir(self.path(folder)) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(failed(e)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
            if !name.starts_with(TEMPORARY) {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn delete(&self, name: &str) -> Result<()> {
        let removed = fs::remove_file(self.path(name));
        self.descriptors.close(name);
        match removed {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(error("delete", name, e)),
            _ => Ok(()),
        }
    }

    fn delete_folder(&self, folder: &str) -> Result<()> {
        self.delete_folder_but(folder, &|_| false)
    }

    fn settle(&self, folder: &str) -> Result<()> {
        settle(&self.path(folder)).map_err(|e| error("settle", folder, e))
    }

    fn distrust(&self, name: &str) {
        self.descriptors.close(name);
    }

    fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    fn space(&self) -> Result<Option<Space>> {
        let space = Dir::at(&self.root).space().map_err(|e| BackendError {
            attempted: "look at",
            object: self.root.display().to_string(),
            cause: Cause::Failed,
            why: e.to_string(),
        })?;
        Ok(Some(Space { total: space.total, free: space.free }))
    }

    fn sweep(&self, folder: &str) -> Result<()> {
        let Ok(entries) = fs::read_dir(self.path(folder)) else { return Ok(()) };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
                fs::remove_file(entry.path()).map_err(|e| error("sweep", folder, e))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("ovs-alba-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn an_object_is_stored_once_and_whole() {
        let root = scratch("put");
        let backend = Directory::open(&root).unwrap();
        let put = backend.put("log/sco/1", &mut |s| s.write(b"first"));
        assert_eq!(put, Ok(Put::Created));
        assert_eq!(backend.put("log/sco/1", &mut |s| s.write(b"second")), Ok(Put::Exists));
        let mut bytes = [0; 4];
        backend.read("log/sco/1", 1, &mut bytes).unwrap();
        assert_eq!(&bytes, b"irst");
        assert_eq!(backend.read("log/sco/1", 2, &mut bytes).unwrap_err().cause, Cause::Corrupt);
        assert_eq!(backend.read("log/sco/2", 0, &mut bytes).unwrap_err().cause, Cause::NotFound);
        assert_eq!(backend.list("log/sco").unwrap(), ["1"]);
        assert_eq!(backend.len("log/sco/1"), Ok(Some(5)));
        let space = backend.space().unwrap().unwrap();
        assert!(space.free > 0 && space.free <= space.total, "{space:?}");
        backend.delete("log/sco/1").unwrap();
        backend.delete("log/sco/1").unwrap();
        assert_eq!(backend.len("log/sco/1"), Ok(None));
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn an_object_is_open_until_it_is_deleted_or_damaged() {
        let root = scratch("open");
        let backend = Directory::open(&root).unwrap();
        let read = || {
            let mut bytes = [0; 3];
            backend.read("a/b", 0, &mut bytes).map(|()| bytes)
        };
        backend.put("a/b", &mut |s| s.write(b"bad")).unwrap();
        assert_eq!(read().unwrap(), *b"bad");
        // Somebody mends it: another file under its name.
        fs::write(root.join("mended"), b"new").unwrap();
        fs::rename(root.join("mended"), root.join("a/b")).unwrap();
        backend.distrust("a/b");
        assert_eq!(read().unwrap(), *b"new");
        backend.delete("a/b").unwrap();
        assert_eq!(read().unwrap_err().cause, Cause::NotFound);
        backend.put("a/b", &mut |s| s.write(b"2nd")).unwrap();
        assert_eq!(read().unwrap(), *b"2nd");
        backend.delete_folder("a").unwrap();
        assert_eq!(read().unwrap_err().cause, Cause::NotFound);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_put_that_fails_leaves_nothing() {
        let root = scratch("fail");
        let backend = Directory::open(&root).unwrap();
        let mut fill = |sink: &mut dyn Sink| {
            sink.write(b"half")?;
            Err(error("read", "source", io::ErrorKind::Other.into()))
        };
        assert!(backend.put("a/b", &mut fill).is_err());
        assert_eq!(backend.len("a/b"), Ok(None));
        assert_eq!(fs::read_dir(root.join("a")).unwrap().count(), 0);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn what_an_earlier_life_left_under_the_same_process_number_is_in_nobodys_way() {
        let root = scratch("same-number");
        fs::create_dir_all(root.join("a")).unwrap();
        fs::write(root.join(format!("a/.put-{}-0", std::process::id())), b"half").unwrap();
        let backend = Directory::open(&root).unwrap();
        assert_eq!(backend.put("a/b", &mut |s| s.write(b"x")), Ok(Put::Created));
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_folder_that_was_deleted_can_be_used_again() {
        let root = scratch("again");
        let backend = Directory::open(&root).unwrap();
        for _ in 0..2 {
            assert_eq!(backend.put("a/b/c", &mut |s| s.write(b"x")), Ok(Put::Created));
            backend.delete_folder("a").unwrap();
            backend.delete_folder("a").unwrap();
            backend.settle("a/b").unwrap();
        }
        fs::remove_dir_all(root).unwrap();
    }

    /// Folders with a file of each name.
    fn grown(name: &str, folders: usize, files: &[&str]) -> (PathBuf, Directory) {
        let root = scratch(name);
        let backend = Directory::open(&root).unwrap();
        for folder in 0..folders {
            let folder = root.join(format!("a/{}/{folder}", folder % 10));
            fs::create_dir_all(&folder).unwrap();
            files.iter().for_each(|file| fs::write(folder.join(file), b"x").unwrap());
        }
        (root, backend)
    }

    #[test]
    fn all_goes_though_another_deletes_a_part_of_it_meanwhile() {
        let (root, backend) = grown("part", 100, &["x"]);
        let order: Vec<PathBuf> =
            fs::read_dir(root.join("a")).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(order.len(), 10);
        // When it comes to the first file it has seen the names of all folders.
        backend
            .delete_folder_but("a", &|_| {
                let _ = fs::remove_dir_all(&order[1]);
                false
            })
            .unwrap();
        assert!(!root.join("a").exists());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn nothing_is_left_when_two_have_deleted_the_same() {
        let (root, backend) = grown("two", 500, &["x", "y"]);
        std::thread::scope(|scope| {
            let deletes = [(); 2].map(|()| scope.spawn(|| backend.delete_folder("a")));
            deletes.into_iter().for_each(|delete| delete.join().unwrap().unwrap());
        });
        assert!(!root.join("a").exists());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn what_is_stored_while_others_are_deleted_is_in_nobodys_way() {
        let (root, backend) = grown("late", 100, &["x"]);
        // Above what is being deleted: its names have been seen.
        let late = root.join("a/late");
        backend
            .delete_folder_but("a", &|_| {
                fs::write(&late, b"late").unwrap();
                false
            })
            .unwrap();
        (0..10).for_each(|one| assert!(!root.join(format!("a/{one}")).exists(), "{one}"));
        backend.delete_folder("a").unwrap();
        assert!(!root.join("a").exists());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn what_a_crash_left_is_hidden_and_swept() {
        let root = scratch("sweep");
        let backend = Directory::open(&root).unwrap();
        backend.put("a/b", &mut |s| s.write(b"x")).unwrap();
        fs::write(root.join("a/.put-1-2"), b"half").unwrap();
        assert_eq!(backend.list("a").unwrap(), ["b"]);
        backend.sweep("a").unwrap();
        assert_eq!(fs::read_dir(root.join("a")).unwrap().count(), 1);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_used_is_named() {
        let error = Directory::open(Path::new("/proc/nowhere")).unwrap_err();
        assert!(error.to_string().contains("/proc/nowhere"), "{error}");
    }
}
