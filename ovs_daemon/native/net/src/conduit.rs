//! Sending pages without copying them: by way of a pipe into a socket.
//!
//! A pipe takes references to pages (vmsplice(2)), and a socket takes them from it (splice(2)). On
//! loopback the receiver copies out of the very same pages, where MSG_ZEROCOPY and io_uring's SEND_ZC
//! would copy them first; a network card reads them as well. The kernel may read them again until the
//! peer has acknowledged them, and after the descriptor is closed: nobody may change them before the
//! peer has said, in words of its own, that it has them. `media::Loan` keeps account of that.
//!
//! Of a broken socket splice(2) tells with SIGPIPE as well as with an error, and unlike sendmsg(2) it
//! cannot be told not to. A process that has not been told to ignore the signal would end: whose
//! process this is, as a library, is not known. So the thread holds it back; it comes to nobody else.

use std::io::{self, IoSlice};
use std::marker::PhantomData;
use std::mem::zeroed;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use media::Fd;

use crate::stream::send_some_now;

/// Bytes on their way at a time. Many pipes of this size are open to every user (pipe(7)).
const ROOM: usize = 256 << 10;

/// See the top of the file.
#[derive(Debug)]
pub struct Conduit {
    /// An empty one, if there is one.
    pipe: Option<Pipe>,
    /// It stays with the thread that holds the signal back.
    thread: PhantomData<*const ()>,
}

#[derive(Debug)]
struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let mut raw = [0; 2];
        // SAFETY: the array outlives the call; the result is checked.
        if unsafe { libc::pipe2(raw.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: fresh descriptors of ours.
        let [out, into] = raw.map(|raw| unsafe { OwnedFd::from_raw_fd(raw) });
        // Whoever has too many pipes keeps the usual size, which works as well.
        // SAFETY: plain system call on a live descriptor.
        unsafe { libc::fcntl(into.as_raw_fd(), libc::F_SETPIPE_SZ, ROOM as libc::c_int) };
        Ok(Self { out, into })
    }

    /// Puts pages into the pipe, which is empty.
    fn take(&self, bytes: &[u8]) -> io::Result<usize> {
        let vector =
            libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let flags = libc::SPLICE_F_NONBLOCK;
        loop {
            // SAFETY: the vector outlives the call, which takes references to the pages: they outlive
            // their mapping if they have to. Nothing is written to them.
            let done = unsafe { libc::vmsplice(self.into.as_raw_fd(), &vector, 1, flags) };
            match outcome(done) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                taken => return taken,
            }
        }
    }

    /// Passes on what is in the pipe: so many bytes the socket has taken, and why not all.
    fn pass(&self, socket: &Fd, len: usize, more: bool) -> (usize, io::Result<()>) {
        let more = if more { libc::SPLICE_F_MORE } else { 0 };
        let flags = libc::SPLICE_F_NONBLOCK | more;
        let (out, none) = (self.out.as_raw_fd(), std::ptr::null_mut());
        let mut passed = 0;
        while passed < len {
            // SAFETY: plain system call on live descriptors, without offsets.
            let done =
                unsafe { libc::splice(out, none, socket.as_raw_fd(), none, len - passed, flags) };
            match outcome(done) {
                Ok(0) => return (passed, Err(io::ErrorKind::WriteZero.into())),
                Ok(bytes) => passed += bytes,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return (passed, Err(e)),
            }
        }
        (passed, Ok(()))
    }
}

fn outcome(done: isize) -> io::Result<usize> {
    usize::try_from(done).map_err(|_| io::Error::last_os_error())
}

impl Conduit {
    /// One for the calling thread, which holds SIGPIPE back from now on.
    pub fn of_this_thread() -> Self {
        // SAFETY: `set` is initialised by sigemptyset before it is used, and outlives the calls; they
        // fail for signals and ways that there are not.
        unsafe {
            let mut set: libc::sigset_t = zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, libc::SIGPIPE);
            libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        }
        Self { pipe: None, thread: PhantomData }
    }

    /// Sends bytes whose pages nobody changes (see the top of the file), as far as the socket takes them
    /// without waiting; 0: nothing now. It is a socket that does not wait. `more`: something follows.
    /// Where pages cannot be handed over, or there is no pipe, they are copied.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn send(&mut self, socket: &Fd, bytes: &[u8], more: bool) -> io::Result<usize> {
        let mut sent = 0;
        while sent < bytes.len() {
            let chunk = &bytes[sent..bytes.len().min(sent + ROOM)];
            let more = more || sent + chunk.len() < bytes.len();
            let (passed, full) = match self.hand_over(socket, chunk, more) {
                Some(done) => done,
                None => {
                    let copied = send_some_now(socket, &[IoSlice::new(chunk)], more)?;
                    (copied, copied < chunk.len())
                }
            };
            sent += passed;
            if full {
                break;
            }
        }
        Ok(sent)
    }

    /// Sends some of the bytes without copying them: how many, and whether the socket takes no more.
    /// `None`: none, for whatever reason; sending them the usual way tells if it is the socket's.
    fn hand_over(&mut self, socket: &Fd, bytes: &[u8], more: bool) -> Option<(usize, bool)> {
        // What stays in a pipe must never come before what is sent next: it goes with it.
        let pipe = self.pipe.take().map_or_else(Pipe::new, Ok).ok()?;
        let taken = pipe.take(bytes).ok()?;
        let (passed, outcome) = pipe.pass(socket, taken, more || taken < bytes.len());
        match outcome {
            Ok(()) => self.pipe = Some(pipe),
            Err(e) if passed == 0 && e.kind() != io::ErrorKind::WouldBlock => return None,
            Err(_) => {}
        }
        Some((passed, passed < taken))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use media::Pool;

    use super::*;

    fn pair() -> (Fd, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        ours.set_nonblocking(true).unwrap();
        (Arc::new(ours.into()), listener.accept().unwrap().0)
    }

    /// Sends all of them, when there is room for them.
    fn send_wholly(conduit: &mut Conduit, socket: &Fd, bytes: &[u8]) {
        let (mut sent, end) = (0, Instant::now() + Duration::from_secs(60));
        while sent < bytes.len() {
            assert!(Instant::now() < end, "it takes {sent} bytes only");
            sent += conduit.send(socket, &bytes[sent..], false).unwrap();
        }
    }

    #[test]
    fn bytes_come_in_order_however_much_the_socket_takes_at_a_time() {
        let (fd, mut theirs) = pair();
        let mut buffer = Pool::new(0).take(24 << 20).unwrap();
        for (at, byte) in buffer.iter_mut().enumerate() {
            *byte = (at / 4096 * 7 + at) as u8;
        }
        let mut conduit = Conduit::of_this_thread();
        // Not at a page.
        let bytes = &buffer[777..];
        let (mut sent, mut full, mut heard) = (0, 0, vec![0; bytes.len()]);
        let mut got = 0;
        while got < bytes.len() {
            let now = conduit.send(&fd, &bytes[sent..], false).unwrap();
            sent += now;
            full += usize::from(sent < bytes.len());
            // Some of it, so that there is room for some more.
            let until = bytes.len().min(got + (1 << 20)).min(sent);
            theirs.read_exact(&mut heard[got..until]).unwrap();
            got = until;
        }
        assert!(full > 0, "the socket has taken everything at once");
        assert!(heard == bytes);
    }

    #[test]
    fn the_pages_are_not_copied() {
        let (fd, mut theirs) = pair();
        let mut buffer = Pool::new(0).take(64 << 10).unwrap();
        buffer.fill(1);
        send_wholly(&mut Conduit::of_this_thread(), &fd, &buffer);
        // What nobody may do: it shows what the kernel still reads.
        buffer.fill(2);
        let mut heard = vec![0; 64 << 10];
        theirs.read_exact(&mut heard).unwrap();
        assert!(heard.iter().all(|byte| *byte == 2), "the kernel has a copy");
    }

    #[test]
    fn where_pages_cannot_be_handed_over_they_are_copied() {
        let (fd, mut theirs) = pair();
        let nothing = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let mut conduit = Conduit::of_this_thread();
        conduit.pipe = Some(Pipe { out: nothing(), into: nothing() });
        assert_eq!(conduit.send(&fd, b"hello", false).unwrap(), 5);
        let mut heard = [0; 5];
        theirs.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
    }

    #[test]
    fn what_a_broken_socket_did_not_take_is_not_sent_to_another() {
        let mut conduit = Conduit::of_this_thread();
        let mut buffer = Pool::new(0).take(64 << 20).unwrap();
        buffer.fill(7);
        let (fd, theirs) = pair();
        assert!(conduit.send(&fd, &buffer, false).unwrap() < buffer.len());
        drop(theirs);
        let end = Instant::now() + Duration::from_secs(60);
        while conduit.send(&fd, &buffer, false).is_ok() {
            assert!(Instant::now() < end, "nobody tells that it is broken");
        }
        let (fd, mut theirs) = pair();
        buffer.fill(8);
        send_wholly(&mut conduit, &fd, &buffer[..100_000]);
        let mut heard = vec![0; 100_000];
        theirs.read_exact(&mut heard).unwrap();
        assert!(heard.iter().all(|byte| *byte == 8));
    }
}
