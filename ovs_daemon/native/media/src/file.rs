//! Files and directories, as the write buffer and the directory backend need them.
//!
//! Every error names what was attempted and on which path: these texts end up in front of an
//! operator.

use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::memory::Slice;
use crate::ring::Fd;

/// A failed operation on a path.
#[derive(Debug)]
pub struct StoreError {
    /// What was attempted, as in "append to".
    pub attempted: &'static str,
    /// On which file or directory.
    pub path: PathBuf,
    /// Why it failed.
    pub source: io::Error,
}

impl StoreError {
    fn new(attempted: &'static str, path: &Path, source: io::Error) -> Self {
        Self { attempted, path: path.to_owned(), source }
    }

    /// The device has no room left (or the quota is used up).
    pub fn is_no_space(&self) -> bool {
        matches!(self.source.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
    }

    /// This process, or the whole host, may not have more files open.
    pub fn is_no_files(&self) -> bool {
        matches!(self.source.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
    }

    /// The file or directory does not exist.
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}: {}", self.attempted, self.path.display(), self.source)
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Room on a file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FsSpace {
    /// Size of the file system.
    pub total: u64,
    /// What an unprivileged user may still use.
    pub free: u64,
}

/// An open file.
#[derive(Clone, Debug)]
pub struct File {
    fd: Fd,
    path: Arc<Path>,
    /// On a file system that lives in memory: reads never wait for a device.
    in_memory: bool,
}

const IOV_MAX: usize = 1024;

impl File {
    /// Creates a file that must not exist yet.
    pub fn create_new(path: &Path) -> Result<Self, StoreError> {
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        Self::open_with("create", path, &options)
    }

    /// Opens an existing file for reading and writing.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_with("open", path, std::fs::OpenOptions::new().read(true).write(true))
    }

    /// Opens an existing file for reading.
    pub fn open_read(path: &Path) -> Result<Self, StoreError> {
        Self::open_with("open", path, std::fs::OpenOptions::new().read(true))
    }

    fn open_with(
        what: &'static str,
        path: &Path,
        options: &std::fs::OpenOptions,
    ) -> Result<Self, StoreError> {
        let file = options.open(path).map_err(|e| StoreError::new(what, path, e))?;
        let in_memory = is_in_memory(&file);
        Ok(Self { fd: Arc::new(OwnedFd::from(file)), path: path.into(), in_memory })
    }

    /// Its descriptor, for [`crate::Ring`].
    pub fn fd(&self) -> &Fd {
        &self.fd
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn with<T>(
        &self,
        what: &'static str,
        f: impl FnOnce(&std::fs::File) -> io::Result<T>,
    ) -> Result<T, StoreError> {
        // SAFETY: the descriptor is owned by `self.fd` for the whole call; ManuallyDrop keeps the
        // temporary File from closing it.
        let file = std::mem::ManuallyDrop::new(unsafe {
            <std::fs::File as std::os::fd::FromRawFd>::from_raw_fd(self.fd.as_raw_fd())
        });
        f(&file).map_err(|e| StoreError::new(what, &self.path, e))
    }

    /// Length in bytes.
    pub fn len(&self) -> Result<u64, StoreError> {
        self.with("read the length of", |f| f.metadata().map(|m| m.len()))
    }

    /// True for a file of 0 bytes.
    pub fn is_empty(&self) -> Result<bool, StoreError> {
        self.len().map(|n| n == 0)
    }

    /// Writes the slices one after the other at `offset`, all of them or an error. After an error
    /// any part of the range may have been written.
    pub fn write_at(&self, offset: u64, slices: &[Slice]) -> Result<(), StoreError> {
        let mut iovecs: Vec<libc::iovec> = Vec::with_capacity(slices.len());
        iovecs.extend(slices.iter().map(Slice::iovec));
        self.write_iovecs(offset, &mut iovecs)
    }

    /// Writes `header` and behind it the slices at `offset`, in one system call where possible.
    /// After an error any part of the range may have been written.
    pub fn append(&self, offset: u64, header: &[u8], data: &[Slice]) -> Result<(), StoreError> {
        let mut iovecs: Vec<libc::iovec> = Vec::with_capacity(data.len() + 1);
        let base = header.as_ptr().cast_mut().cast();
        iovecs.push(libc::iovec { iov_base: base, iov_len: header.len() });
        iovecs.extend(data.iter().map(Slice::iovec));
        self.write_iovecs(offset, &mut iovecs)
    }

    fn write_iovecs(
        &self,
        mut offset: u64,
        mut rest: &mut [libc::iovec],
    ) -> Result<(), StoreError> {
        while !rest.is_empty() {
            let count = rest.len().min(IOV_MAX) as libc::c_int;
            // SAFETY: the vectors refer to memory that `write_at`'s caller holds.
            let wrote = unsafe {
                let at = offset as libc::off_t;
                libc::pwritev(self.fd.as_raw_fd(), rest.as_ptr(), count, at)
            };
            if wrote < 0 {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(StoreError::new("append to", &self.path, error));
            }
            offset += wrote as u64;
            rest = advance(rest, wrote as usize);
        }
        Ok(())
    }

    /// Writes plain bytes at `offset`.
    pub fn write_bytes_at(&self, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        self.with("write to", |f| f.write_all_at(bytes, offset))
    }

    /// Fills `bytes` from `offset`; an error when the file ends before.
    pub fn read_bytes_at(&self, offset: u64, bytes: &mut [u8]) -> Result<(), StoreError> {
        self.with("read", |f| f.read_exact_at(bytes, offset))
    }

    /// Fills `into` from `offset`, only if all of it can be had without waiting for a device.
    /// `Ok(false)`: it cannot; read it through the ring instead.
    pub fn read_cached(&self, offset: u64, into: &Slice) -> Result<bool, StoreError> {
        let iovec = into.iovec();
        // SAFETY: one vector into memory that the caller holds.
        let got = unsafe {
            let (fd, at) = (self.fd.as_raw_fd(), offset as libc::off_t);
            // tmpfs does not know RWF_NOWAIT, and does not need it.
            let flags = if self.in_memory { 0 } else { libc::RWF_NOWAIT };
            libc::preadv2(fd, &iovec, 1, at, flags)
        };
        if got == into.len() as isize {
            return Ok(true);
        }
        if got >= 0 {
            return Ok(false);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EOPNOTSUPP | libc::EINTR) => Ok(false),
            _ => Err(StoreError::new("read", &self.path, error)),
        }
    }

    /// Reads from `offset` until `bytes` is full or the file ends; bytes read.
    pub fn read_some_at(&self, offset: u64, bytes: &mut [u8]) -> Result<usize, StoreError> {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            match self.with("read", |f| f.read_at(&mut bytes[done..], at))? {
                0 => break,
                got => done += got,
            }
        }
        Ok(done)
    }

    /// Makes the data durable and waits for it.
    pub fn datasync(&self) -> Result<(), StoreError> {
        self.with("sync", |f| f.sync_data())
    }

    /// Gives the file another name in place of whatever has that, in one step.
    pub fn rename(&mut self, to: &Path) -> Result<(), StoreError> {
        rename(&self.path, to)?;
        self.path = to.into();
        Ok(())
    }

    /// Cuts the file to `len` bytes.
    pub fn truncate(&self, len: u64) -> Result<(), StoreError> {
        self.with("truncate", |f| f.set_len(len))
    }
}

fn is_in_memory(file: &std::fs::File) -> bool {
    // SAFETY: zeroed is a valid out-parameter.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a live descriptor; `stat` outlives the call.
    let known = unsafe { libc::fstatfs(file.as_raw_fd(), &mut stat) } == 0;
    known && stat.f_type == libc::TMPFS_MAGIC
}

fn advance(rest: &mut [libc::iovec], mut bytes: usize) -> &mut [libc::iovec] {
    let mut skip = 0;
    while skip < rest.len() && bytes >= rest[skip].iov_len {
        bytes -= rest[skip].iov_len;
        skip += 1;
    }
    let rest = &mut rest[skip..];
    if let Some(first) = rest.first_mut() {
        // SAFETY: `bytes` is less than this vector's length.
        first.iov_base = unsafe { first.iov_base.cast::<u8>().add(bytes).cast() };
        first.iov_len -= bytes;
    }
    rest
}

/// A directory.
#[derive(Clone, Debug)]
pub struct Dir {
    path: PathBuf,
}

impl Dir {
    /// The directory at `path`, created with its parents when missing (and their entries made
    /// durable, each before anything is put into it).
    pub fn create(path: &Path) -> Result<Self, StoreError> {
        let missing: Vec<&Path> = path.ancestors().take_while(|level| !level.is_dir()).collect();
        for level in missing.into_iter().rev().filter(|level| !level.as_os_str().is_empty()) {
            match std::fs::create_dir(level) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(StoreError::new("create the directory", level, e));
                }
                _ => Self::at(level).sync_entry()?,
            }
        }
        Ok(Self::at(path))
    }

    /// The directory at `path`, which may be missing.
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Path of an entry.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Makes creations, renames and removals of entries durable.
    pub fn sync(&self) -> Result<(), StoreError> {
        let done = std::fs::File::open(&self.path).and_then(|f| f.sync_all());
        done.map_err(|e| StoreError::new("sync the directory", &self.path, e))
    }

    /// Makes this directory's own name durable. Also of one that was there: whoever made it may
    /// have been killed before he came to it. Where this process may not read the parent, somebody
    /// else has made the directory for it, and answers for that.
    pub fn sync_entry(&self) -> Result<(), StoreError> {
        let parent = match self.path.parent() {
            None => return Ok(()),
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
        };
        match Self::at(parent).sync() {
            Err(e) if e.source.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            done => done,
        }
    }

    /// Names of the entries, in no particular order; a missing directory is an empty one.
    pub fn list(&self) -> Result<Vec<String>, StoreError> {
        let entries = match std::fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(StoreError::new("list", &self.path, e)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| StoreError::new("list", &self.path, e))?;
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }

    /// Removes a file; one that is missing is fine.
    pub fn unlink(&self, name: &str) -> Result<(), StoreError> {
        let path = self.join(name);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::new("remove", &path, e))
            }
            _ => Ok(()),
        }
    }

    /// Gives `from` the name `to`, only if `to` does not exist. `Ok(false)`: it exists.
    pub fn publish(&self, from: &str, to: &str) -> Result<bool, StoreError> {
        let (from, to) = (self.join(from), self.join(to));
        match std::fs::hard_link(&from, &to) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(e) => return Err(StoreError::new("publish", &to, e)),
        }
        std::fs::remove_file(&from).map_err(|e| StoreError::new("remove", &from, e))?;
        Ok(true)
    }

    /// Removes the directory and everything in it, for good; a missing one is fine.
    pub fn remove_all(&self) -> Result<(), StoreError> {
        match std::fs::remove_dir_all(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::new("remove the directory", &self.path, e))
            }
            _ => match self.sync_entry() {
                Err(e) if !e.is_not_found() => Err(e),
                _ => Ok(()),
            },
        }
    }

    /// The number of the file system that holds the directory, while it is mounted.
    pub fn device(&self) -> Result<u64, StoreError> {
        let found = std::fs::metadata(&self.path).map(|found| found.dev());
        found.map_err(|e| StoreError::new("look at the directory", &self.path, e))
    }

    /// Room on the file system that holds the directory.
    pub fn space(&self) -> Result<FsSpace, StoreError> {
        let failed = |e| StoreError::new("read the free space of", &self.path, e);
        let path = CString::new(self.path.as_os_str().as_bytes())
            .map_err(|e| failed(io::Error::new(io::ErrorKind::InvalidInput, e)))?;
        // SAFETY: zeroed is a valid out-parameter.
        let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: NUL-terminated path; `stat` outlives the call.
        if unsafe { libc::statvfs(path.as_ptr(), &mut stat) } < 0 {
            return Err(failed(io::Error::last_os_error()));
        }
        let unit = stat.f_frsize;
        Ok(FsSpace { total: stat.f_blocks * unit, free: stat.f_bavail * unit })
    }
}

/// An exclusive lock on a file, held until it is dropped or the process is gone.
#[derive(Debug)]
pub struct FileLock {
    _file: std::fs::File,
}

impl FileLock {
    /// Takes the lock, or fails at once when another process has it.
    pub fn take(path: &Path) -> Result<Self, StoreError> {
        let mut options = std::fs::OpenOptions::new();
        let opened = options.create(true).truncate(false).write(true).mode(0o600).open(path);
        let file = opened.map_err(|e| StoreError::new("open", path, e))?;
        // SAFETY: plain system call on a live descriptor.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } < 0 {
            let error = match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::WouldBlock => {
                    io::Error::new(e.kind(), "another process holds it")
                }
                e => e,
            };
            return Err(StoreError::new("lock", path, error));
        }
        Ok(Self { _file: file })
    }
}

/// Gives a file another name, replacing what has it.
pub fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    std::fs::rename(from, to).map_err(|e| StoreError::new("rename", from, e))
}

/// Exchanges the names of two files or folders of one file system, in one step: at any time, and
/// after loss of power, both names are there.
pub fn exchange(one: &Path, other: &Path) -> Result<(), StoreError> {
    let failed = |e| StoreError::new("exchange the names of", one, e);
    let name = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from);
    let from = name(one).map_err(failed)?;
    let to = name(other).map_err(failed)?;
    // SAFETY: both are strings that end with a zero, and live until the call has returned.
    let done = unsafe {
        let here = libc::AT_FDCWD;
        libc::renameat2(here, from.as_ptr(), here, to.as_ptr(), libc::RENAME_EXCHANGE)
    };
    if done == 0 { Ok(()) } else { Err(failed(io::Error::last_os_error())) }
}

/// Fills `into` from `offset` of an open file, only if all of it can be had without waiting for a
/// device; false: it cannot, or it ends before.
pub fn read_cached_at(file: &std::fs::File, offset: u64, into: &mut [u8]) -> bool {
    let iovec = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // SAFETY: one vector into memory that the caller lends for the call.
    let got = unsafe {
        libc::preadv2(file.as_raw_fd(), &iovec, 1, offset as libc::off_t, libc::RWF_NOWAIT)
    };
    got == into.len() as isize
}

/// Length of a file; `None` when it is missing or no file.
pub fn file_len(path: &Path) -> Result<Option<u64>, StoreError> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(Some(metadata.len())),
        Ok(_) => Ok(None),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(StoreError::new("look at", path, e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> Dir {
        let path = std::env::temp_dir().join(format!("ovs-media-{}-{name}", std::process::id()));
        let dir = Dir { path };
        dir.remove_all().unwrap();
        Dir::create(&dir.path).unwrap()
    }

    #[test]
    fn vectors_land_in_order_and_read_back() {
        let dir = scratch("vectors");
        let file = File::create_new(&dir.join("a")).unwrap();
        let parts: Vec<Slice> =
            (0..1500u32).map(|i| Slice::copy_of(&i.to_le_bytes()).unwrap()).collect();
        file.write_at(8, &parts).unwrap();
        assert_eq!(file.len().unwrap(), 8 + 6000);
        let back = Slice::zeroed(4).unwrap();
        assert!(file.read_cached(8 + 4 * 1400, &back).unwrap());
        assert_eq!(back.to_vec(), 1400u32.to_le_bytes());
        assert!(!file.read_cached(6006, &Slice::zeroed(8).unwrap()).unwrap(), "past the end");
        dir.remove_all().unwrap();
    }

    #[test]
    fn folders_exchange_their_names() {
        let dir = scratch("exchange");
        let (one, other) = (dir.join("one"), dir.join("other"));
        Dir::create(&one).unwrap();
        assert!(exchange(&one, &other).unwrap_err().is_not_found());
        Dir::create(&other).unwrap();
        File::create_new(&one.join("a")).unwrap();
        File::create_new(&other.join("b")).unwrap();
        exchange(&one, &other).unwrap();
        assert_eq!(Dir::at(&one).list().unwrap(), ["b"]);
        assert_eq!(Dir::at(&other).list().unwrap(), ["a"]);
        dir.remove_all().unwrap();
    }

    #[test]
    fn publish_never_replaces() {
        let dir = scratch("publish");
        for (name, text) in [("a", b"1"), ("b", b"2")] {
            File::create_new(&dir.join(name)).unwrap().write_bytes_at(0, text).unwrap();
        }
        assert!(dir.publish("a", "object").unwrap());
        assert!(!dir.publish("b", "object").unwrap());
        let mut text = [0];
        File::open_read(&dir.join("object")).unwrap().read_bytes_at(0, &mut text).unwrap();
        assert_eq!(&text, b"1");
        dir.remove_all().unwrap();
    }

    #[test]
    fn a_directory_is_made_with_its_parents_and_removed_as_often_as_wanted() {
        let dir = scratch("parents");
        let deep = dir.join("a/b/c");
        for _ in 0..2 {
            assert!(Dir::create(&deep).unwrap().path().is_dir());
        }
        for _ in 0..2 {
            Dir::at(&dir.join("a")).remove_all().unwrap();
        }
        Dir::at(&deep).remove_all().unwrap();
        assert_eq!(dir.list().unwrap(), [""; 0]);
        File::create_new(&dir.join("file")).unwrap();
        let error = Dir::create(&dir.join("file/a")).unwrap_err();
        assert!(error.to_string().contains("create the directory"), "{error}");
        dir.remove_all().unwrap();
    }

    #[test]
    fn errors_name_the_path_and_the_attempt() {
        let dir = scratch("errors");
        let error = File::open(&dir.join("missing")).unwrap_err();
        assert!(error.is_not_found() && !error.is_no_space());
        assert!(error.to_string().starts_with("cannot open /"), "{error}");
        assert!(error.to_string().contains("missing"), "{error}");
        dir.remove_all().unwrap();
    }
}
