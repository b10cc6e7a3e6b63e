//! TCP sockets of our own making, and sends that gather without waiting.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use media::{Fd, Slice};

use crate::listen::{set_option, tune_stream};

/// Data that the peer's kernel has not acknowledged for so long, in milliseconds, ends a
/// connection, and so does a peer whose kernel is silent for as long.
const SILENCE_MS: i32 = 3000;
/// Pieces of one send (IOV_MAX).
pub const PIECES_MAX: usize = 1024;

/// A socket for `Ring::connect` to this address, tuned as [`tune_peer`] does.
pub fn tcp_socket(address: SocketAddr) -> io::Result<Fd> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: no pointers; the result is checked.
    let raw = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fresh descriptor of ours.
    let fd: Fd = Arc::new(unsafe { OwnedFd::from_raw_fd(raw) });
    tune_peer(&fd);
    Ok(fd)
}

/// Prepares a connection between Edge and engine: no delay, and a host that is gone is noticed
/// within seconds, whether something is on its way to it or not. Does nothing to other sockets.
pub fn tune_peer(fd: &Fd) {
    tune_stream(fd);
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 1);
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, 1);
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, SILENCE_MS / 1000);
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, SILENCE_MS);
}

/// The same, before it is connected; one to this host is spared the machine's congestion control: there
/// is no path that could be congested, and BBR's timers, which pace even such packets, cost more than
/// copying them. Reno has none, is in every kernel and may be chosen by everybody. What has begun with
/// timers keeps them.
pub fn unpaced_socket(address: SocketAddr) -> io::Result<Fd> {
    let fd = tcp_socket(address)?;
    if is_here(address) {
        let name = b"reno";
        let (level, option) = (libc::IPPROTO_TCP, libc::TCP_CONGESTION);
        let len = name.len() as libc::socklen_t;
        // SAFETY: the name outlives the call. A failure changes nothing that matters.
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, name.as_ptr().cast(), len) };
    }
    Ok(fd)
}

/// Whether an address is one of this host: what is sent there would come from it.
fn is_here(address: SocketAddr) -> bool {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let from = || {
        // Nothing is sent: connecting only looks the way up.
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(address)?;
        socket.local_addr()
    };
    address.ip().is_loopback() || from().is_ok_and(|from| from.ip() == address.ip())
}

/// From now on the socket counts as readable when so many bytes are there, or when it is over, or
/// no more fit: who waits for much is not woken for little.
pub fn wake_at(fd: &Fd, bytes: usize) {
    set_option(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT, bytes as i32);
}

/// Sends as much of the slices, in order, as the socket takes without waiting; 0: nothing now. At
/// most [`PIECES_MAX`] slices.
pub fn send_all_now(fd: &Fd, slices: &[Slice]) -> io::Result<usize> {
    assert!(slices.len() <= PIECES_MAX, "more slices than IOV_MAX");
    let iovec =
        |slice: &Slice| libc::iovec { iov_base: slice.as_mut_ptr().cast(), iov_len: slice.len() };
    let mut iovecs: Vec<libc::iovec> = slices.iter().map(iovec).collect();
    // SAFETY: all-zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = iovecs.as_mut_ptr();
    message.msg_iovlen = iovecs.len();
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the slices and the vector outlive the call.
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

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use super::*;

    fn congestion_control(fd: &Fd) -> String {
        let (mut name, mut len) = ([0u8; 16], 16);
        let (level, option) = (libc::IPPROTO_TCP, libc::TCP_CONGESTION);
        // SAFETY: both outlive the call, which writes at most 16 bytes.
        let done = unsafe {
            let value = name.as_mut_ptr().cast();
            libc::getsockopt(fd.as_raw_fd(), level, option, value, &mut len)
        };
        assert_eq!(done, 0, "{}", io::Error::last_os_error());
        String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned()
    }

    #[test]
    fn a_connection_within_the_host_is_not_paced() {
        let usual = congestion_control(&tcp_socket("127.0.0.1:9".parse().unwrap()).unwrap());
        // The last is of no host (RFC 5737).
        for (address, wanted) in
            [("127.0.0.1:9", "reno"), ("127.8.8.8:9", "reno"), ("192.0.2.1:9", &*usual)]
        {
            let fd = unpaced_socket(address.parse().unwrap()).unwrap();
            assert_eq!(congestion_control(&fd), wanted, "{address}");
        }
        // Any address that this host has beside loopback's, if it has one.
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        if socket.connect("192.0.2.1:9").is_ok() {
            assert!(is_here(SocketAddr::new(socket.local_addr().unwrap().ip(), 9)));
        }
    }

    #[test]
    fn slices_leave_in_order_and_a_full_socket_takes_part_of_them() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut theirs, _) = listener.accept().unwrap();
        let fd: Fd = Arc::new(ours.into());
        tune_peer(&fd);
        let parts = [Slice::copy_of(b"hello ").unwrap(), Slice::copy_of(b"world").unwrap()];
        assert_eq!(send_all_now(&fd, &parts).unwrap(), 11);
        let mut heard = [0; 11];
        theirs.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello world");
        let large = [Slice::zeroed(64 << 20).unwrap()];
        let sent = send_all_now(&fd, &large).unwrap();
        assert!((1..64 << 20).contains(&sent), "{sent}");
        while send_all_now(&fd, &large).unwrap() > 0 {}
        drop(theirs);
        let end = Instant::now() + Duration::from_secs(60);
        while send_all_now(&fd, &large).is_ok() {
            assert!(Instant::now() < end, "nobody tells that it is broken");
        }
    }
}
