//! A listening socket that outlives the process which made it. Alone in this program, because the
//! child that is forked here holds copies of all open descriptors for a moment: beside it, no other
//! test could rely on a socket being closed when it is dropped.

#![allow(unsafe_code)]
#![allow(clippy::disallowed_methods)]

use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};

use net::UnixSocket;

/// As after kill -9 of a process with an accept in its io_uring.
#[test]
fn a_socket_that_outlives_its_process_is_replaced() {
    let directory = std::env::temp_dir().join(format!("vsl-outlived-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("a.sock");
    let kept = UnixListener::bind(&path).unwrap();
    // SAFETY: the child makes two system calls and touches nothing else.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: the descriptor is open in the child too; _exit does not return. Who calls listen
        // last is whom the kernel names as the peer.
        unsafe {
            let status = libc::listen(kept.as_raw_fd(), 8);
            libc::_exit(status);
        }
    }
    let mut status = -1;
    // SAFETY: waits for our own child; `status` outlives the call.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0);
    UnixStream::connect(&path).unwrap();
    UnixSocket::listen(&path, 0o600, None).unwrap();
    drop(kept);
    std::fs::remove_dir_all(&directory).unwrap();
}
