//! A bell between processes: an eventfd that a sleeper waits on and a peer rings.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use media::Ring;

/// One eventfd, shared by both ends.
///
/// It never blocks the one who rings. (A peer that fills its own counter to the brim only loses
/// its own wake-ups: they are refused with `EAGAIN`, which counts as "rung already".)
#[derive(Clone, Debug)]
pub struct Bell {
    fd: Arc<OwnedFd>,
}

impl Bell {
    /// A fresh one, not rung.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked.
        let raw = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: fresh descriptor of ours.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        Ok(Self { fd: Arc::new(fd) })
    }

    /// One that a peer passed. It is made non-blocking.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: plain system calls on a descriptor that we own.
        let failed = unsafe {
            let flags = libc::fcntl(fd.as_raw_fd(), libc::F_GETFL);
            flags < 0 || libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) < 0
        };
        if failed {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { fd: Arc::new(fd) })
    }

    /// Its descriptor, to pass to the peer.
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Wakes the one who waits, now or when it comes to wait.
    pub fn ring(&self) -> io::Result<()> {
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight readable bytes.
        let wrote = unsafe { libc::write(self.fd.as_raw_fd(), one.as_ptr().cast(), 8) };
        if wrote == 8 {
            return Ok(());
        }
        match io::Error::last_os_error() {
            e if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
            e => Err(e),
        }
    }

    /// Makes it not rung. True: it was.
    pub fn silence(&self) -> bool {
        let mut count = [0u8; 8];
        // SAFETY: eight writable bytes.
        let got = unsafe { libc::read(self.fd.as_raw_fd(), count.as_mut_ptr().cast(), 8) };
        got == 8
    }

    /// An event with `token` comes once it is rung; then [`Bell::silence`] it and listen again.
    pub fn listen(&self, ring: &mut Ring, token: u64) {
        ring.poll_readable(&self.fd, token);
    }

    /// Blocks this thread until it is rung, and silences it. For programs without a loop.
    pub fn wait(&self) -> io::Result<()> {
        let mut poll = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        while !self.silence() {
            // SAFETY: one valid pollfd.
            if unsafe { libc::poll(&mut poll, 1, -1) } < 0 {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rung_many_times_it_is_heard_once() {
        let bell = Bell::new().unwrap();
        assert!(!bell.silence());
        bell.ring().unwrap();
        bell.ring().unwrap();
        assert!(bell.silence());
        assert!(!bell.silence());
    }

    #[test]
    fn a_full_counter_never_blocks_the_ringer() {
        let bell = Bell::new().unwrap();
        let brim = (u64::MAX - 1).to_ne_bytes();
        // SAFETY: eight readable bytes.
        let wrote = unsafe { libc::write(bell.fd().as_raw_fd(), brim.as_ptr().cast(), 8) };
        assert_eq!(wrote, 8);
        bell.ring().unwrap();
        assert!(bell.silence());
    }
}
