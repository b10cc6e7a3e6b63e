//! A file system that is one file, mounted over a file (linux/fuse.h, mount(2)).
//!
//! Each has a connection to the kernel of its own, so that one which does not answer holds up none
//! of the others. Mounting needs CAP_SYS_ADMIN; nothing else here does.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use media::{Fd, Slice};

/// Mounts that may lie over one another at one place: each killed process leaves one at most.
const DEAD_MAX: usize = 64;

/// The connection; unmounts when it is dropped.
#[derive(Debug)]
pub struct FuseDevice {
    fd: Fd,
    mounted: Option<PathBuf>,
}

impl FuseDevice {
    /// Mounts over `path`, which is made, and freed from what a killed process left there.
    ///
    /// # Errors
    /// `PermissionDenied`: only root may mount. Others as mount(2) and open(2) have them.
    pub fn mount(path: &Path, read_only: bool, read_bytes_max: u32) -> io::Result<Self> {
        unmount(path);
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/fuse")?;
        let target = CString::new(path.as_os_str().as_bytes())?;
        let options = CString::new(format!(
            "fd={},rootmode=100000,user_id=0,group_id=0,allow_other,default_permissions,\
             max_read={read_bytes_max}",
            device.as_raw_fd()
        ))?;
        let mut flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        if read_only {
            flags |= libc::MS_RDONLY;
        }
        let (source, kind) = (c"vstorage", c"fuse.vstorage");
        // SAFETY: all pointers are to strings that end in zero and outlive the call.
        let failed = unsafe {
            let data = options.as_ptr().cast();
            libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data) < 0
        };
        if failed {
            let error = io::Error::last_os_error();
            let _ = std::fs::remove_file(path);
            return Err(error);
        }
        let fd: OwnedFd = device.into();
        Ok(Self { fd: Arc::new(fd), mounted: Some(path.to_owned()) })
    }

    /// Something else that keeps the bounds of messages and does not block.
    pub fn over(fd: OwnedFd) -> Self {
        Self { fd: Arc::new(fd), mounted: None }
    }

    /// Becomes readable when there is a request.
    pub fn fd(&self) -> &Fd {
        &self.fd
    }

    /// Takes a request, without waiting; its bytes.
    ///
    /// # Errors
    /// `WouldBlock`: there is none. `Interrupted` or `NotFound`: there was one. Others: it was
    /// unmounted.
    pub fn read(&self, into: &Slice) -> io::Result<usize> {
        let (to, len) = (into.as_mut_ptr().cast(), into.len());
        // SAFETY: `len` writable bytes, which the caller's slice keeps.
        let got = unsafe { libc::read(self.fd.as_raw_fd(), to, len) };
        usize::try_from(got).map_err(|_| io::Error::last_os_error())
    }

    /// Answers a request: the head, a small result, and data.
    ///
    /// # Errors
    /// Nobody waits for it any more, or the kernel refuses it.
    pub fn reply(&self, head: &[u8], result: &[u8], data: Option<&Slice>) -> io::Result<()> {
        let part = |address: *const u8, len: usize| libc::iovec {
            iov_base: address.cast_mut().cast(),
            iov_len: len,
        };
        let (address, len) = data.map_or((std::ptr::null(), 0), |data| (data.as_ptr(), data.len()));
        let parts = [
            part(head.as_ptr(), head.len()),
            part(result.as_ptr(), result.len()),
            part(address, len),
        ];
        // SAFETY: three valid iovecs, whose memory the borrowed arguments keep.
        let sent = unsafe { libc::writev(self.fd.as_raw_fd(), parts.as_ptr(), 3) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl Drop for FuseDevice {
    fn drop(&mut self) {
        if let Some(path) = self.mounted.take() {
            unmount(&path);
            let _ = std::fs::remove_file(&path);
        }
    }
}

/// Unmounts whatever is mounted over a path. Whoever has the file open gets errors from then on.
fn unmount(path: &Path) {
    let Ok(target) = CString::new(path.as_os_str().as_bytes()) else { return };
    // By force: the connection ends at once, although the loop's poll still refers to it.
    let flags = libc::MNT_FORCE | libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW;
    for _ in 0..DEAD_MAX {
        // SAFETY: a string that ends in zero and outlives the call.
        if unsafe { libc::umount2(target.as_ptr(), flags) } < 0 {
            return;
        }
    }
}
