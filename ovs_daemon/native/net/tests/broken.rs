//! A socket that breaks while pages are handed to it. Alone in this program, because what the process
//! does about SIGPIPE is changed: Rust's own start has it ignored.

#![allow(unsafe_code)]
#![allow(clippy::disallowed_methods)]

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use media::{Fd, Pool};
use net::Conduit;

#[test]
fn a_broken_socket_ends_no_process_that_does_not_ignore_it() {
    // SAFETY: no handler is set; this is what a program in C begins with.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    ours.set_nonblocking(true).unwrap();
    let fd: Fd = Arc::new(ours.into());
    drop(listener.accept().unwrap());
    let mut buffer = Pool::new(0).take(64 << 10).unwrap();
    buffer.fill(7);
    let mut conduit = Conduit::of_this_thread();
    let end = Instant::now() + Duration::from_secs(60);
    // Once for the reset, and once more: then the socket has been said to be broken.
    for _ in 0..2 {
        while conduit.send(&fd, &buffer, false).is_ok() {
            assert!(Instant::now() < end, "nobody tells that it is broken");
        }
    }
}
