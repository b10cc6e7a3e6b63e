//! Signals as events of a loop (signalfd(2)).

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use media::{Fd, Ring};

/// A set of signals that no longer interrupt this process but are read as events.
pub struct Signals {
    fd: Fd,
}

impl Signals {
    /// Takes SIGTERM and SIGINT over. Call it before any thread is started: threads inherit which
    /// signals are blocked.
    pub fn of_termination() -> io::Result<Self> {
        // SAFETY: `set` is initialised by sigemptyset before it is used; results are checked.
        let raw = unsafe {
            let mut set: libc::sigset_t = zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, libc::SIGTERM);
            libc::sigaddset(&mut set, libc::SIGINT);
            if libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) < 0 {
                return Err(io::Error::last_os_error());
            }
            libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: fresh descriptor of ours.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        Ok(Self { fd: Arc::new(fd) })
    }

    /// An event with `token` comes once a signal has come; then take it and listen again.
    pub fn listen(&self, ring: &mut Ring, token: u64) {
        ring.poll_readable(&self.fd, token);
    }

    /// The number of a signal that has come.
    pub fn take(&self) -> Option<i32> {
        // SAFETY: all-zero is a valid signalfd_siginfo.
        let mut info: libc::signalfd_siginfo = unsafe { zeroed() };
        let len = size_of::<libc::signalfd_siginfo>();
        // SAFETY: `len` writable bytes.
        let got = unsafe { libc::read(self.fd.as_raw_fd(), (&raw mut info).cast(), len) };
        (got == len as isize).then_some(info.ssi_signo as i32)
    }
}
