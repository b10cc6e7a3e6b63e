//! Unix stream sockets whose messages may carry descriptors (SCM_RIGHTS, unix(7)).

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Most descriptors in one message.
pub const DESCRIPTORS_MAX: usize = 8;

/// Room for the control message, aligned as `cmsghdr` must be.
#[repr(C, align(8))]
struct Control([u8; 64]);

const fn control_len(descriptors: usize) -> usize {
    // SAFETY: a pure computation.
    unsafe { libc::CMSG_SPACE((descriptors * size_of::<RawFd>()) as u32) as usize }
}

const _: () = assert!(control_len(DESCRIPTORS_MAX) <= size_of::<Control>());

/// Connects to a unix stream socket; the connection is non-blocking.
///
/// # Errors
/// `NotFound` and `ConnectionRefused`: nobody listens. `WouldBlock`: the listener is busy, try
/// again later. `InvalidInput`: the path is longer than a socket's may be (107 bytes).
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    // SAFETY: all-zero is a valid sockaddr_un.
    let mut address: libc::sockaddr_un = unsafe { zeroed() };
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() >= address.sun_path.len() || bytes.contains(&0) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the socket's path is too long (107 bytes at most)",
        ));
    }
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers; the result is checked.
    let raw = unsafe { libc::socket(libc::AF_UNIX, kind, 0) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fresh descriptor of ours.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    let len = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: `address` is a valid sockaddr_un of `len` bytes.
    let failed = unsafe { libc::connect(raw, (&raw const address).cast(), len) } < 0;
    if failed {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}

/// Sends `bytes`, with the descriptors attached to the first of them, without waiting. Returns the
/// bytes sent.
///
/// # Errors
/// `WouldBlock`: the peer does not read. Others: the connection is gone.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    assert!(fds.len() <= DESCRIPTORS_MAX, "too many descriptors");
    let mut control = Control([0; 64]);
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all-zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    if !fds.is_empty() {
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = control_len(fds.len());
        // SAFETY: the control buffer is aligned and has room for one header and `fds.len()`
        // descriptors, as `control_len` computed.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            let data_len = (fds.len() * size_of::<RawFd>()) as u32;
            (*header).cmsg_len = libc::CMSG_LEN(data_len) as _;
            let data = libc::CMSG_DATA(header).cast::<RawFd>();
            for (at, fd) in fds.iter().enumerate() {
                data.add(at).write_unaligned(fd.as_raw_fd());
            }
        }
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `message` refers to buffers that live until the call returns.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &message, flags) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(sent as usize)
}

/// Receives what is there, without waiting: the number of bytes put into `bytes` (0: the peer has
/// closed) and the descriptors that came with them (close-on-exec).
///
/// # Errors
/// `WouldBlock`: nothing is there. `InvalidData`: more than [`DESCRIPTORS_MAX`] descriptors came;
/// they are closed. Others: the connection is gone.
pub fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = Control([0; 64]);
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: all-zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control_len(DESCRIPTORS_MAX);
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: `message` refers to buffers that live until the call returns.
    let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, flags) };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    let fds = take_descriptors(&message);
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the peer passed too many descriptors",
        ));
    }
    Ok((got as usize, fds))
}

/// Owns every descriptor of a received message, so that none can leak.
fn take_descriptors(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: `message` was filled by recvmsg; the CMSG macros stay inside its control buffer, and
    // each descriptor in it belongs to this process and to nobody else yet.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            let rights =
                (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS;
            if rights {
                let len = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                for at in 0..len / size_of::<RawFd>() {
                    fds.push(OwnedFd::from_raw_fd(data.add(at).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    fds
}

/// Ends both directions of a connection: the peer sees its end, pending operations complete.
pub fn shutdown(socket: BorrowedFd<'_>) {
    // SAFETY: plain system call on a live descriptor.
    unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_RDWR) };
}

/// Ends our direction only: the peer sees our end and can still send.
pub fn shutdown_write(socket: BorrowedFd<'_>) {
    // SAFETY: plain system call on a live descriptor.
    unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_WR) };
}

/// Device and inode of what a descriptor refers to: equal for the same memfd passed twice.
pub fn identity(fd: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    // SAFETY: all-zero is a valid stat.
    let mut stat: libc::stat = unsafe { zeroed() };
    // SAFETY: `stat` outlives the call.
    if unsafe { libc::fstat(fd.as_raw_fd(), &mut stat) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn descriptors_travel_with_their_bytes() {
        let (a, b) = UnixStream::pair().unwrap();
        let (mut read, mut write) = std::io::pipe().unwrap();
        let sent = send(a.as_fd(), b"hello", &[write.as_fd(), read.as_fd()]).unwrap();
        assert_eq!(sent, 5);
        assert_eq!(send(a.as_fd(), b" world", &[]).unwrap(), 6);
        let mut bytes = [0; 64];
        let (got, fds) = receive(b.as_fd(), &mut bytes).unwrap();
        assert_eq!((&bytes[..got], fds.len()), (&b"hello"[..], 2), "a boundary after rights");
        let (got, none) = receive(b.as_fd(), &mut bytes).unwrap();
        assert_eq!((&bytes[..got], none.len()), (&b" world"[..], 0));
        let mut fds = fds.into_iter();
        let mut passed: std::io::PipeWriter = fds.next().unwrap().into();
        passed.write_all(b"x").unwrap();
        let mut byte = [0];
        read.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
        write.flush().unwrap();
    }

    #[test]
    fn nothing_there_is_not_the_end_and_the_end_is_zero_bytes() {
        let (a, b) = UnixStream::pair().unwrap();
        let mut bytes = [0; 4];
        let error = receive(b.as_fd(), &mut bytes).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(a);
        assert_eq!(receive(b.as_fd(), &mut bytes).unwrap().0, 0);
        assert_eq!(send(b.as_fd(), b"x", &[]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn the_same_memory_is_recognised() {
        let mut file = tempfile();
        file.rewind().unwrap();
        let twin = file.try_clone().unwrap();
        assert_eq!(identity(file.as_fd()).unwrap(), identity(twin.as_fd()).unwrap());
        assert_ne!(identity(file.as_fd()).unwrap(), identity(tempfile().as_fd()).unwrap());
    }

    fn tempfile() -> std::fs::File {
        let arena = media::Arena::shared(4096).unwrap();
        arena.fd().unwrap().try_clone().unwrap().into()
    }

    #[test]
    fn connecting_to_nobody_says_so() {
        let path = std::env::temp_dir().join(format!("ovs-net-nobody-{}", std::process::id()));
        assert_eq!(connect(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        let long = Path::new("/x").join("y".repeat(120));
        assert_eq!(connect(&long).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
