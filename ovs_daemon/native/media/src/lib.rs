//! Memory, files and io_uring: the only crate that touches disks.
//!
//! `unsafe` is allowed here (and in `net` and `py`): the kernel is handed raw addresses. What keeps
//! that sound is one rule: **memory that the kernel or a system call may touch is always a
//! [`Slice`]**, and whoever starts an operation keeps the `Slice` (and the file) alive until its
//! completion was seen. [`Ring`] does that by itself: it owns both until the completion.
#![allow(unsafe_code)]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

/// Error numbers that volumes answer with.
pub mod errno {
    pub use libc::{EINVAL, EIO, ENOMEM, ENOSPC, EPERM};
}

mod file;
mod fresh;
mod gentle;
mod memory;
mod pool;
mod ring;

pub use file::{
    Dir, File, FileLock, FsSpace, StoreError, exchange, file_len, read_cached_at, rename,
};
pub use fresh::write_new;
pub use gentle::{give_way, gives_way};
pub use memory::{Arena, Slice};
pub use pool::{Buffer, Loan, Pool};
pub use ring::{Event, Fd, Ring, Wait};
