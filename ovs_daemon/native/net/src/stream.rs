//! TCP streams that a worker thread uses one call at a time: to connect and greet, to fetch.

use std::io::{self, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use media::{Fd, Slice};

use crate::listen::tune_stream;

/// A connected stream whose calls wait, up to a limit.
#[derive(Debug)]
pub struct Stream(TcpStream);

impl Stream {
    /// Connects; `patience` bounds connecting and every later call.
    pub fn connect(address: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_nodelay(true)?;
        Self::bounded(stream, patience)
    }

    /// The stream of a descriptor that a ring has used until now.
    pub fn from_fd(fd: &Fd, patience: Duration) -> io::Result<Self> {
        Self::bounded(TcpStream::from(fd.try_clone()?), patience)
    }

    fn bounded(stream: TcpStream, patience: Duration) -> io::Result<Self> {
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self(stream))
    }

    /// Sends all of it.
    pub fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    /// Receives exactly as much.
    pub fn read_exact(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.0.read_exact(bytes)
    }

    /// The descriptor, for a ring; its calls no longer have a limit.
    pub fn into_fd(self) -> io::Result<Fd> {
        self.0.set_read_timeout(None)?;
        self.0.set_write_timeout(None)?;
        let fd: Fd = Arc::new(OwnedFd::from(self.0));
        tune_stream(&fd);
        Ok(fd)
    }
}

/// Sends as much of `head` and the slices behind it as the socket takes without waiting, in one
/// system call; 0: nothing now.
pub fn send_parts_now(fd: &Fd, head: &[IoSlice<'_>], slices: &[Slice]) -> io::Result<usize> {
    send_parts(fd, head, slices, 0)
}

/// The same of parts alone; `more`: something follows at once, and may leave in the same packet.
pub fn send_some_now(fd: &Fd, parts: &[IoSlice<'_>], more: bool) -> io::Result<usize> {
    send_parts(fd, parts, &[], if more { libc::MSG_MORE } else { 0 })
}

fn send_parts(fd: &Fd, head: &[IoSlice<'_>], slices: &[Slice], more: i32) -> io::Result<usize> {
    let mut vector: Vec<libc::iovec> = Vec::with_capacity(head.len() + slices.len());
    vector.extend(head.iter().map(|part| libc::iovec {
        iov_base: part.as_ptr().cast_mut().cast(),
        iov_len: part.len(),
    }));
    vector.extend(
        slices
            .iter()
            .map(|slice| libc::iovec { iov_base: slice.as_mut_ptr().cast(), iov_len: slice.len() }),
    );
    vector.truncate(1024);
    // SAFETY: plain data, for which zero is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = vector.as_mut_ptr();
    message.msg_iovlen = vector.len();
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | more;
    // SAFETY: the vector's parts outlive the call; it is only read from.
    let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &message, flags) };
    if let Ok(sent) = usize::try_from(sent) {
        return Ok(sent);
    }
    let error = io::Error::last_os_error();
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
        _ => Err(error),
    }
}
