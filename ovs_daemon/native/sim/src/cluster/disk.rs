//! A node's disk: files in memory, what power loss would leave of them, and how it misbehaves.

use std::cell::RefCell;

use buffer::files::{Cause, FileError, Files};

use crate::crash::{Disk, Syncing};
use crate::memory::{Image, MemoryFiles, Op};
use crate::random::Random;

/// Silent and open mistakes that are due.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mischief {
    /// So many syncs report success and do nothing.
    pub(super) lost_syncs: u32,
    /// So many syncs fail; what they should have covered is forgotten by the kernel.
    pub(super) failed_syncs: u32,
    /// So many writes land 4 KiB further on.
    pub(super) misdirected: u32,
}

/// See the top of the file.
pub(super) struct SimDisk {
    files: MemoryFiles,
    platter: RefCell<Disk>,
    pub(super) mischief: RefCell<Mischief>,
}

/// Syncs of several files that have begun.
pub(super) struct Ticket(Vec<Syncing>);

impl SimDisk {
    pub(super) fn new() -> Self {
        Self::from_image(Image::new())
    }

    pub(super) fn from_image(image: Image) -> Self {
        SimDisk {
            platter: RefCell::new(Disk::new(&image)),
            files: MemoryFiles::from_image(image),
            mischief: RefCell::default(),
        }
    }

    /// The disk as it is after the power went and came back.
    pub(super) fn after_power_loss(&self, random: &mut Random) -> Self {
        Self::from_image(self.platter.borrow().lose_power(random))
    }

    pub(super) fn begin_sync(&self, paths: &[String]) -> Ticket {
        let platter = self.platter.borrow();
        Ticket(paths.iter().filter_map(|path| platter.begin_sync(path)).collect())
    }

    /// True: what the ticket covers is on the platter, or the disk says so.
    pub(super) fn end_sync(&self, ticket: Ticket) -> bool {
        match self.next_sync() {
            Sync::Works => {
                let mut platter = self.platter.borrow_mut();
                ticket.0.into_iter().for_each(|sync| platter.end_sync(sync));
                true
            }
            Sync::Lies => true,
            Sync::Fails => {
                let mut platter = self.platter.borrow_mut();
                ticket.0.into_iter().for_each(|sync| platter.fail_sync(sync));
                false
            }
        }
    }

    fn next_sync(&self) -> Sync {
        let mut mischief = self.mischief.borrow_mut();
        if mischief.failed_syncs > 0 {
            mischief.failed_syncs -= 1;
            return Sync::Fails;
        }
        if mischief.lost_syncs > 0 {
            mischief.lost_syncs -= 1;
            return Sync::Lies;
        }
        Sync::Works
    }

    /// Bytes in use.
    pub(super) fn used(&self) -> u64 {
        self.files.image().values().map(|bytes| bytes.len() as u64).sum()
    }

    pub(super) fn set_capacity(&self, bytes: Option<u64>) {
        self.files.set_capacity(bytes);
    }

    /// Flips a bit somewhere; where.
    pub(super) fn rot(&self, random: &mut Random) -> Option<String> {
        let image = self.files.image();
        let files: Vec<&String> =
            image.iter().filter(|(_, bytes)| !bytes.is_empty()).map(|(path, _)| path).collect();
        let path = (*files.get(random.index(files.len()))?).clone();
        let at = random.index(image[&path].len());
        let byte = image[&path][at] ^ (1 << random.index(8));
        self.write_at(&path, at as u64, &[&[byte]]).ok()?;
        Some(format!("byte {at} of {path}"))
    }

    fn note(&self, op: &Op) {
        self.platter.borrow_mut().take(op);
    }
}

enum Sync {
    Works,
    Lies,
    Fails,
}

impl Files for SimDisk {
    fn create(&self, path: &str) -> Result<(), FileError> {
        self.files.create(path)?;
        self.note(&Op::Create { path: path.to_owned() });
        Ok(())
    }

    fn write_at(&self, path: &str, offset: u64, parts: &[&[u8]]) -> Result<(), FileError> {
        let mut offset = offset;
        let mut mischief = self.mischief.borrow_mut();
        if mischief.misdirected > 0 {
            mischief.misdirected -= 1;
            offset += 4096;
        }
        drop(mischief);
        self.files.write_at(path, offset, parts)?;
        let bytes = parts.concat().into();
        self.note(&Op::Write { path: path.to_owned(), offset, bytes });
        Ok(())
    }

    fn sync(&self, path: &str) -> Result<(), FileError> {
        match self.next_sync() {
            Sync::Works => {
                self.files.sync(path)?;
                self.note(&Op::Sync { path: path.to_owned() });
                Ok(())
            }
            Sync::Lies => Ok(()),
            Sync::Fails => {
                let mut platter = self.platter.borrow_mut();
                if let Some(sync) = platter.begin_sync(path) {
                    platter.fail_sync(sync);
                }
                Err(FileError::new("sync", path, Cause::Failed, "the disk failed"))
            }
        }
    }

    fn sync_dir(&self, dir: &str) -> Result<(), FileError> {
        match self.next_sync() {
            Sync::Works => self.note(&Op::SyncDir { dir: dir.to_owned() }),
            Sync::Lies => {}
            Sync::Fails => {
                return Err(FileError::new("sync", dir, Cause::Failed, "the disk failed"));
            }
        }
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), FileError> {
        self.files.rename(from, to)?;
        self.note(&Op::Rename { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    fn unlink(&self, path: &str) -> Result<(), FileError> {
        match self.files.unlink(path) {
            Ok(()) => {}
            Err(error) if error.cause == Cause::NotFound => return Ok(()),
            Err(error) => return Err(error),
        }
        self.note(&Op::Unlink { path: path.to_owned() });
        self.platter.borrow_mut().forget_removed();
        Ok(())
    }

    fn truncate(&self, path: &str, len: u64) -> Result<(), FileError> {
        self.files.truncate(path, len)?;
        self.note(&Op::Truncate { path: path.to_owned(), len });
        Ok(())
    }

    fn list(&self, dir: &str) -> Result<Vec<(String, u64)>, FileError> {
        self.files.list(dir)
    }

    fn read_at(&self, path: &str, offset: u64, into: &mut [u8]) -> Result<usize, FileError> {
        self.files.read_at(path, offset, into)
    }

    fn len(&self, path: &str) -> Result<u64, FileError> {
        self.files.len(path)
    }
}

/// A folder of a disk as a root of its own.
pub(super) struct Folder<'a> {
    pub(super) disk: &'a SimDisk,
    pub(super) name: &'static str,
}

impl Folder<'_> {
    fn path(&self, path: &str) -> String {
        match path {
            "" => self.name.to_owned(),
            path => format!("{}/{path}", self.name),
        }
    }
}

impl Files for Folder<'_> {
    fn create(&self, path: &str) -> Result<(), FileError> {
        self.disk.create(&self.path(path))
    }

    fn write_at(&self, path: &str, offset: u64, parts: &[&[u8]]) -> Result<(), FileError> {
        self.disk.write_at(&self.path(path), offset, parts)
    }

    fn sync(&self, path: &str) -> Result<(), FileError> {
        self.disk.sync(&self.path(path))
    }

    fn sync_dir(&self, dir: &str) -> Result<(), FileError> {
        self.disk.sync_dir(&self.path(dir))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), FileError> {
        self.disk.rename(&self.path(from), &self.path(to))
    }

    fn unlink(&self, path: &str) -> Result<(), FileError> {
        self.disk.unlink(&self.path(path))
    }

    fn truncate(&self, path: &str, len: u64) -> Result<(), FileError> {
        self.disk.truncate(&self.path(path), len)
    }

    fn list(&self, dir: &str) -> Result<Vec<(String, u64)>, FileError> {
        self.disk.list(&self.path(dir))
    }

    fn read_at(&self, path: &str, offset: u64, into: &mut [u8]) -> Result<usize, FileError> {
        self.disk.read_at(&self.path(path), offset, into)
    }

    fn len(&self, path: &str) -> Result<u64, FileError> {
        self.disk.len(&self.path(path))
    }
}
