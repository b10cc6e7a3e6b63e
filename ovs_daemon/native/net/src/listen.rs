//! Listening sockets.
//!
//! A unix socket appears under its name with its final owner and mode, or not at all: it is bound
//! under a temporary name in the same directory, adjusted, set to listen, and only then renamed.
//! The rename also replaces the socket of a process that died. A socket that somebody still listens
//! on, or a file that is no socket, is never replaced.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use media::{Fd, Slice};

/// Longest path of a unix socket in bytes (`sun_path` without its final NUL; unix(7)).
const PATH_BYTES_MAX: usize = 107;

/// A socket that could not be made.
#[derive(Debug)]
pub struct ListenError {
    /// Path or address.
    pub address: String,
    /// Which step failed, as in "set the owner of".
    pub attempted: &'static str,
    /// Why.
    pub source: io::Error,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} socket {}: {}", self.attempted, self.address, self.source)
    }
}

impl std::error::Error for ListenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// A unix socket in listening state, and the file that leads to it.
#[derive(Debug)]
pub struct UnixSocket {
    fd: Fd,
    path: PathBuf,
    /// Device and inode of the file, to recognise it when it is removed.
    identity: (u64, u64),
}

impl UnixSocket {
    /// Listens on `path` with the permission bits `mode` and, if given, `owner` (uid, gid).
    ///
    /// Errors: a path longer than 107 bytes, a directory that is missing or not writable, a path
    /// that is in use by a live server or is no socket, an owner that this process may not set.
    pub fn listen(
        path: &Path,
        mode: u32,
        owner: Option<(u32, u32)>,
    ) -> Result<UnixSocket, ListenError> {
        let fail = |attempted, source| ListenError {
            address: path.display().to_string(),
            attempted,
            source,
        };
        let name = temporary_name(path).map_err(|e| fail("name", e))?;
        may_replace(path).map_err(|e| fail("replace", e))?;
        let listener = bind(&name).map_err(|e| fail("bind", e))?;
        let remove = RemoveOnDrop(Some(name.clone()));
        let permissions = std::fs::Permissions::from_mode(mode & 0o777);
        std::fs::set_permissions(&name, permissions).map_err(|e| fail("set the mode of", e))?;
        if let Some((uid, gid)) = owner {
            std::os::unix::fs::lchown(&name, Some(uid), Some(gid))
                .map_err(|e| fail("set the owner of", e))?;
        }
        let fd: OwnedFd = listener;
        // SAFETY: plain system call on a descriptor that we own.
        if unsafe { libc::listen(fd.as_raw_fd(), 128) } < 0 {
            return Err(fail("listen on", io::Error::last_os_error()));
        }
        let identity = identity(&name).map_err(|e| fail("look at", e))?;
        std::fs::rename(&name, path).map_err(|e| fail("rename", e))?;
        remove.forget();
        Ok(UnixSocket { fd: Arc::new(fd), path: path.to_owned(), identity })
    }

    /// For `Ring::accept`.
    pub fn fd(&self) -> &Fd {
        &self.fd
    }

    /// The file that leads here.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the file, unless another server has replaced it meanwhile.
    pub fn unlink(&self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            // A failure leaves a dead socket behind, which the next server replaces.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Listens on a TCP address; port 0 lets the kernel choose. Returns the address in use.
pub fn listen_tcp(address: SocketAddr) -> Result<(Fd, SocketAddr), ListenError> {
    let fail =
        |source| ListenError { address: address.to_string(), attempted: "listen on", source };
    let listener = TcpListener::bind(address).map_err(fail)?;
    let bound = listener.local_addr().map_err(fail)?;
    Ok((Arc::new(listener.into()), bound))
}

/// Prepares an accepted TCP connection: no delay, keepalive. Does nothing to other sockets.
pub fn tune_stream(fd: &Fd) {
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
    set_option(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1);
}

/// Sends as much as the socket takes without waiting; 0: nothing now. For replies, which nearly
/// always fit: one system call, and their memory is free again at once.
pub fn send_now(fd: &Fd, from: &Slice) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the slice outlives the call and has `len` bytes.
    let sent = unsafe { libc::send(fd.as_raw_fd(), from.as_ptr().cast(), from.len(), flags) };
    if let Ok(sent) = usize::try_from(sent) {
        return Ok(sent);
    }
    let error = io::Error::last_os_error();
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
        _ => Err(error),
    }
}

/// Who is at the other end, for logs: an address, or process and user of a unix socket.
pub fn peer_name(fd: &Fd) -> String {
    // SAFETY: plain data, for which zero is valid.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut len = size_of_val(&storage) as libc::socklen_t;
    let address = std::ptr::from_mut(&mut storage).cast::<libc::sockaddr>();
    // SAFETY: `address` points to `len` writable bytes that outlive the call.
    let failed = unsafe { libc::getpeername(fd.as_raw_fd(), address, &mut len) } < 0;
    if failed {
        return "unknown peer".to_string();
    }
    if i32::from(storage.ss_family) == libc::AF_UNIX {
        return peer_credentials(fd.as_raw_fd()).map_or_else(
            || "unix peer".to_string(),
            |peer| format!("pid {} uid {}", peer.pid, peer.uid),
        );
    }
    std_address(fd).map_or_else(|| "unknown peer".to_string(), |a| a.to_string())
}

/// Process and user at the other end of a unix socket; for who connected, those that listened.
fn peer_credentials(fd: RawFd) -> Option<libc::ucred> {
    // SAFETY: plain data, for which zero is valid.
    let mut credentials: libc::ucred = unsafe { std::mem::zeroed() };
    let mut len = size_of_val(&credentials) as libc::socklen_t;
    let out = std::ptr::from_mut(&mut credentials).cast();
    // SAFETY: `out` points to `len` writable bytes that outlive the call.
    let result =
        unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, out, &mut len) };
    (result >= 0).then_some(credentials)
}

fn std_address(fd: &Fd) -> Option<SocketAddr> {
    let copy: OwnedFd = fd.try_clone().ok()?;
    std::net::TcpStream::from(copy).peer_addr().ok()
}

pub(crate) fn set_option(fd: &Fd, level: i32, name: i32, value: i32) {
    let len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the value outlives the call. A failure (not TCP) changes nothing that matters.
    unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, name, std::ptr::from_ref(&value).cast(), len)
    };
}

/// A socket bound to `path`, not yet listening: connecting to it is still refused.
fn bind(path: &Path) -> io::Result<OwnedFd> {
    // Blocking: io_uring would answer an accept on a non-blocking socket with EAGAIN.
    let (fd, address, len) = unix_socket(path, 0)?;
    // SAFETY: the address outlives the call and is `len` bytes long.
    if unsafe { libc::bind(fd.as_raw_fd(), std::ptr::from_ref(&address).cast(), len) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(fd)
}

/// Connects without waiting: a server whose queue is full answers EAGAIN.
fn connect(path: &Path) -> io::Result<OwnedFd> {
    let (fd, address, len) = unix_socket(path, libc::SOCK_NONBLOCK)?;
    // SAFETY: the address outlives the call and is `len` bytes long.
    if unsafe { libc::connect(fd.as_raw_fd(), std::ptr::from_ref(&address).cast(), len) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(fd)
}

fn unix_socket(
    path: &Path,
    flags: i32,
) -> io::Result<(OwnedFd, libc::sockaddr_un, libc::socklen_t)> {
    let bytes = path.as_os_str().as_bytes();
    // SAFETY: plain data, for which zero is valid.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    if bytes.len() > PATH_BYTES_MAX || bytes.contains(&0) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | flags;
    // SAFETY: plain system call; the result is checked.
    let raw = unsafe { libc::socket(libc::AF_UNIX, kind, 0) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `raw` was just returned by the kernel and nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(raw) };
    Ok((fd, address, size_of_val(&address) as libc::socklen_t))
}

/// A name beside `path` that no other socket of any process uses.
fn temporary_name(path: &Path) -> io::Result<PathBuf> {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
    let len = path.as_os_str().len();
    if len > PATH_BYTES_MAX {
        return Err(invalid(format!(
            "the path has {len} bytes, a unix socket can have {PATH_BYTES_MAX}; use a shorter \
             directory"
        )));
    }
    let (Some(_), Some(directory)) = (path.file_name(), path.parent()) else {
        return Err(invalid("the path names no file".to_string()));
    };
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let name = directory.join(format!(".{:x}.{number:x}", std::process::id()));
    if name.as_os_str().len() > PATH_BYTES_MAX {
        return Err(invalid(
            "there is no room for a temporary name beside it; use a shorter directory".to_string(),
        ));
    }
    // A process that had our number and died here; nobody can be listening under this name.
    let _ = std::fs::remove_file(&name);
    Ok(name)
}

/// Refuses to replace what is not a dead socket.
fn may_replace(path: &Path) -> io::Result<()> {
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "something that is no socket has this name; move it away",
        ));
    }
    match connect(path) {
        Err(e) if e.raw_os_error() == Some(libc::ECONNREFUSED) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.raw_os_error() != Some(libc::EAGAIN) => Err(e),
        Ok(fd) if listener_is_gone(&fd) => Ok(()),
        _ => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another process serves it; stop that process first",
        )),
    }
}

/// The process that listened has ended. Its socket still takes connections for a moment: the kernel
/// closes the files of pending io_uring operations only after the process is gone.
fn listener_is_gone(connected: &OwnedFd) -> bool {
    let Some(listener) = peer_credentials(connected.as_raw_fd()) else {
        return false;
    };
    // SAFETY: plain system call; signal 0 only asks whether the process exists. Process 0 is one
    // outside our namespace, of which nothing is known.
    listener.pid > 0
        && unsafe { libc::kill(listener.pid, 0) } < 0
        && io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH)
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = std::fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

struct RemoveOnDrop(Option<PathBuf>);

impl RemoveOnDrop {
    fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // Best effort on an error path; the error itself is what the caller hears of.
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("vsl-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_socket_has_its_mode_and_goes_away() {
        let dir = directory("mode");
        let path = dir.join("a.sock");
        let socket = UnixSocket::listen(&path, 0o640, None).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        assert_eq!(names(&dir), ["a.sock"]);
        UnixStream::connect(&path).unwrap();
        socket.unlink();
        assert!(names(&dir).is_empty());
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let dir = directory("stale");
        let path = dir.join("a.sock");
        let first = UnixSocket::listen(&path, 0o600, None).unwrap();
        let error = UnixSocket::listen(&path, 0o600, None).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains("a.sock"), "{error}");
        drop(first.fd);
        let second = UnixSocket::listen(&path, 0o600, None).unwrap();
        UnixStream::connect(&path).unwrap();
        let third = UnixSocket { fd: second.fd.clone(), path: path.clone(), identity: (0, 0) };
        third.unlink();
        assert_eq!(names(&dir), ["a.sock"], "somebody else's socket stays");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let dir = directory("file");
        let path = dir.join("precious");
        std::fs::write(&path, "data").unwrap();
        let error = UnixSocket::listen(&path, 0o600, None).unwrap_err();
        assert!(error.to_string().contains("no socket"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"data");
        assert_eq!(names(&dir), ["precious"]);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn bad_paths_are_named_in_the_error() {
        let long = PathBuf::from(format!("/tmp/{}", "x".repeat(120)));
        let error = UnixSocket::listen(&long, 0o600, None).unwrap_err();
        assert!(error.to_string().contains("shorter"), "{error}");
        let missing = Path::new("/nonexistent-directory/a.sock");
        let error = UnixSocket::listen(missing, 0o600, None).unwrap_err();
        assert!(error.to_string().contains("/nonexistent"), "{error}");
    }

    #[test]
    fn tcp_listens_on_a_port_of_the_kernels_choice() {
        let (_fd, address) = listen_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        assert_ne!(address.port(), 0);
        let error = listen_tcp(address).unwrap_err();
        assert!(error.to_string().contains("127.0.0.1"), "{error}");
    }
}
