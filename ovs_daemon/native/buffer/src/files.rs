//! The few file operations that the write buffer stands on, as a trait.
//!
//! Recovery and the offline tools read through it, and so can be run against an image that a crash
//! might have left (`sim::crash`) or against files that lie (`sim::faulty`), with the same code
//! that runs in production.
//!
//! What an implementation promises, and nothing more:
//!
//! * What was written is what is read, by this process, at once.
//! * After `kill -9` everything written is still there (the page cache belongs to the kernel).
//! * After power loss a file has what was written before its last `sync`; of what came later any
//!   part may be there, in any order, and the file's length may run ahead of its data.
//! * A name that was made, renamed or removed is certain after `sync_dir` of its folder; until then
//!   the folder may show the old or the new state, each operation by itself.
//!
//! Paths are relative to the root that the implementation was opened with and use `/`. A folder
//! exists as soon as a file is created in it.

use std::fmt;

/// The operations; see the top of the file for what they promise. They take `&self`, since several
/// files are in use at once.
pub trait Files {
    /// Makes an empty file.
    ///
    /// # Errors
    /// [`Cause::Exists`] when the name is taken.
    fn create(&self, path: &str) -> Result<(), FileError>;

    /// Writes `parts` one behind the other, the first at `offset` bytes; the file grows as needed.
    ///
    /// # Errors
    /// [`Cause::NotFound`], [`Cause::NoSpace`] (a part of the bytes may have been written) or
    /// [`Cause::Failed`].
    fn write_at(&self, path: &str, offset: u64, parts: &[&[u8]]) -> Result<(), FileError>;

    /// Returns when everything written to the file would survive power loss.
    ///
    /// # Errors
    /// After [`Cause::Failed`] nothing written since the last success may be relied on, ever: the
    /// kernel drops pages that it could not write.
    fn sync(&self, path: &str) -> Result<(), FileError>;

    /// Returns when the names in the folder would survive power loss. The root is `""`.
    ///
    /// # Errors
    /// [`Cause::NotFound`] or [`Cause::Failed`].
    fn sync_dir(&self, dir: &str) -> Result<(), FileError>;

    /// Gives a file another name, replacing a file that has it; atomic.
    ///
    /// # Errors
    /// [`Cause::NotFound`] or [`Cause::Failed`].
    fn rename(&self, from: &str, to: &str) -> Result<(), FileError>;

    /// Removes a file.
    ///
    /// # Errors
    /// [`Cause::NotFound`] or [`Cause::Failed`].
    fn unlink(&self, path: &str) -> Result<(), FileError>;

    /// Cuts or extends (with zeros) a file to `len` bytes.
    ///
    /// # Errors
    /// [`Cause::NotFound`], [`Cause::NoSpace`] or [`Cause::Failed`].
    fn truncate(&self, path: &str, len: u64) -> Result<(), FileError>;

    /// The files directly in a folder, by name without the folder, with their lengths in bytes, in
    /// the order of their names. A folder that does not exist is empty.
    ///
    /// # Errors
    /// [`Cause::Failed`] when the folder cannot be read.
    fn list(&self, dir: &str) -> Result<Vec<(String, u64)>, FileError>;

    /// Reads from `offset` bytes on until `into` is full or the file ends; the number of bytes read.
    ///
    /// # Errors
    /// [`Cause::NotFound`] or [`Cause::Failed`] when the medium cannot read.
    fn read_at(&self, path: &str, offset: u64, into: &mut [u8]) -> Result<usize, FileError>;

    /// The length of a file in bytes.
    ///
    /// # Errors
    /// [`Cause::NotFound`] or [`Cause::Failed`].
    fn len(&self, path: &str) -> Result<u64, FileError>;
}

/// Why an operation failed, as far as the caller can react to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// There is no file of this name.
    NotFound,
    /// The name is taken.
    Exists,
    /// The disk is full: wait and try again.
    NoSpace,
    /// Anything else; the medium or the kernel said no.
    Failed,
}

/// A failed operation: what was attempted, on which file, and why it failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    /// The operation, as a verb: "write", "sync".
    pub action: &'static str,
    /// The file or folder.
    pub path: String,
    /// The kind of failure.
    pub cause: Cause,
    /// What the system said about it.
    pub detail: String,
}

impl FileError {
    /// Builds an error for `action` on `path`.
    pub fn new(
        action: &'static str,
        path: &str,
        cause: Cause,
        detail: impl Into<String>,
    ) -> FileError {
        FileError { action, path: path.to_string(), cause, detail: detail.into() }
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hint = match self.cause {
            Cause::NotFound => "check that nothing else removes files of the write buffer",
            Cause::Exists => "two processes may be using the same folder",
            Cause::NoSpace => "free space on this filesystem; writes wait until then",
            Cause::Failed => "look at the kernel log for errors of this disk",
        };
        write!(f, "cannot {} '{}': {}; {hint}", self.action, self.path, self.detail)
    }
}

impl std::error::Error for FileError {}
