//! The one io_uring of a shard: sockets, descriptors of other processes and disk operations all
//! complete here, so that a thread sleeps in one place only.
//!
//! A [`Ring`] belongs to the thread that made it. Each operation carries a caller's `token`; its
//! outcome comes back as an [`Event`] with that token. The ring owns the memory and the descriptor
//! of an operation until its completion.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use crate::memory::Slice;

/// A descriptor that operations may hold on to after its owner let go of it.
pub type Fd = Arc<OwnedFd>;

/// The outcome of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What the caller gave when it started the operation.
    pub token: u64,
    /// Bytes, a descriptor, or a negated errno; as io_uring returns it.
    pub result: i32,
}

/// How long [`Ring::turn`] may sleep when nothing has completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all: submit, collect what is there.
    No,
    /// Until something completes.
    Forever,
    /// Until something completes or this long.
    AtMost(Duration),
}

struct Op {
    token: u64,
    _fd: Option<Fd>,
    memory: Memory,
}

enum Memory {
    None,
    One { _slice: Slice },
    Vector { _slices: Vec<Slice>, _iovecs: Box<[libc::iovec]>, header: Box<libc::msghdr> },
    File { _slice: Slice, _file: Arc<std::fs::File> },
    Address { _address: Box<libc::sockaddr_storage> },
    Time { _time: Box<types::Timespec> },
}

/// See the module's essay.
pub struct Ring {
    uring: IoUring,
    ops: Vec<Option<Op>>,
    free: Vec<u32>,
    backlog: std::collections::VecDeque<squeue::Entry>,
}

impl Ring {
    /// A ring with room for `entries` operations per submission (more in flight are fine).
    pub fn new(entries: u32) -> io::Result<Self> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_cqsize(entries * 4)
            .build(entries)?;
        Ok(Self { uring, ops: Vec::new(), free: Vec::new(), backlog: Default::default() })
    }

    /// Operations started and not yet completed.
    pub fn in_flight(&self) -> usize {
        self.ops.len() - self.free.len()
    }

    /// Receives at least one byte into `into`; result = bytes, 0 = end of stream.
    pub fn recv(&mut self, fd: &Fd, into: Slice, token: u64) {
        let sqe = opcode::Recv::new(raw(fd), into.as_mut_ptr(), into.len() as u32).build();
        self.push(sqe, Op { token, _fd: Some(fd.clone()), memory: Memory::One { _slice: into } });
    }

    /// Sends all of `from`; result = bytes sent (all, unless the peer went away).
    pub fn send(&mut self, fd: &Fd, from: Slice, token: u64) {
        let flags = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
        let sqe = opcode::Send::new(raw(fd), from.as_ptr(), from.len() as u32).flags(flags).build();
        self.push(sqe, Op { token, _fd: Some(fd.clone()), memory: Memory::One { _slice: from } });
    }

    /// Sends all slices in order, as one message; at most 1024 slices.
    pub fn send_all(&mut self, fd: &Fd, slices: Vec<Slice>, token: u64) {
        let (iovecs, header) = message(&slices);
        let flags = (libc::MSG_WAITALL | libc::MSG_NOSIGNAL) as u32;
        let sqe = opcode::SendMsg::new(raw(fd), &*header).flags(flags).build();
        let memory = Memory::Vector { _slices: slices, _iovecs: iovecs, header };
        self.push(sqe, Op { token, _fd: Some(fd.clone()), memory });
    }

    /// Receives at least one byte into the slices, filling them in order (at most 1024 of them);
    /// result = bytes, 0 = end of stream.
    pub fn recv_all(&mut self, fd: &Fd, slices: Vec<Slice>, token: u64) {
        let (iovecs, mut header) = message(&slices);
        let sqe = opcode::RecvMsg::new(raw(fd), &mut *header).build();
        let memory = Memory::Vector { _slices: slices, _iovecs: iovecs, header };
        self.push(sqe, Op { token, _fd: Some(fd.clone()), memory });
    }

    /// Connects a TCP socket; result = 0. The socket must not be a non-blocking one.
    pub fn connect(&mut self, fd: &Fd, address: SocketAddr, token: u64) {
        let (storage, len) = socket_address(address);
        let storage = Box::new(storage);
        let sqe = opcode::Connect::new(raw(fd), std::ptr::from_ref(&*storage).cast(), len).build();
        let memory = Memory::Address { _address: storage };
        self.push(sqe, Op { token, _fd: Some(fd.clone()), memory });
    }

    /// Accepts one connection; result = its descriptor (close-on-exec), see [`take_fd`].
    ///
    /// [`take_fd`]: Ring::take_fd
    pub fn accept(&mut self, fd: &Fd, token: u64) {
        let sqe = opcode::Accept::new(raw(fd), std::ptr::null_mut(), std::ptr::null_mut())
            .flags(libc::SOCK_CLOEXEC)
            .build();
        self.push(sqe, Op { token, _fd: Some(fd.clone()), memory: Memory::None });
    }

    /// Owns the descriptor that an `accept` event carried.
    pub fn take_fd(event: &Event) -> io::Result<Fd> {
        if event.result < 0 {
            return Err(io::Error::from_raw_os_error(-event.result));
        }
        // SAFETY: the kernel gave this descriptor to the accept that this event reports.
        Ok(Arc::new(unsafe { std::os::fd::FromRawFd::from_raw_fd(event.result) }))
    }

    /// Completes once when `fd` becomes readable (eventfd, control socket).
    pub fn poll_readable(&mut self, fd: &Fd, token: u64) {
        let sqe = opcode::PollAdd::new(raw(fd), libc::POLLIN as u32).build();
        self.push(sqe, Op { token, _fd: Some(fd.clone()), memory: Memory::None });
    }

    /// Completes once when `fd` can be written to.
    pub fn poll_writable(&mut self, fd: &Fd, token: u64) {
        let sqe = opcode::PollAdd::new(raw(fd), libc::POLLOUT as u32).build();
        self.push(sqe, Op { token, _fd: Some(fd.clone()), memory: Memory::None });
    }

    /// Completes once when so much time has passed; result = -ETIME.
    pub fn after(&mut self, time: Duration, token: u64) {
        let time = Box::new(types::Timespec::from(time));
        let sqe = opcode::Timeout::new(std::ptr::from_ref(&*time)).build();
        self.push(sqe, Op { token, _fd: None, memory: Memory::Time { _time: time } });
    }

    /// Reads up to `into.len()` bytes of a file at `offset`; result = bytes.
    pub fn read_at(&mut self, fd: &Fd, into: Slice, offset: u64, token: u64) {
        let sqe =
            opcode::Read::new(raw(fd), into.as_mut_ptr(), into.len() as u32).offset(offset).build();
        self.push(sqe, Op { token, _fd: Some(fd.clone()), memory: Memory::One { _slice: into } });
    }

    /// The same of a file that others have open.
    pub fn read_file_at(
        &mut self,
        file: &Arc<std::fs::File>,
        into: Slice,
        offset: u64,
        token: u64,
    ) {
        let fd = types::Fd(file.as_raw_fd());
        let sqe = opcode::Read::new(fd, into.as_mut_ptr(), into.len() as u32).offset(offset);
        let memory = Memory::File { _slice: into, _file: file.clone() };
        self.push(sqe.build(), Op { token, _fd: None, memory });
    }

    /// Makes a file's data durable (fdatasync); result = 0.
    pub fn datasync(&mut self, fd: &Fd, token: u64) {
        let sqe = opcode::Fsync::new(raw(fd)).flags(types::FsyncFlags::DATASYNC).build();
        self.push(sqe, Op { token, _fd: Some(fd.clone()), memory: Memory::None });
    }

    /// Shuts a socket down in both directions so that its pending operations complete.
    pub fn shutdown(&mut self, fd: &Fd) {
        // SAFETY: plain system call on a live descriptor.
        unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_RDWR) };
    }

    /// Submits what was started, sleeps as `wait` says when nothing has completed yet, and appends
    /// what completed to `events`.
    pub fn turn(&mut self, wait: Wait, events: &mut Vec<Event>) -> io::Result<()> {
        self.feed();
        let ready = !self.uring.completion().is_empty();
        let outcome = match wait {
            _ if ready || wait == Wait::No => self.enter(0, None),
            Wait::Forever => self.enter(1, None),
            Wait::AtMost(time) => self.enter(1, Some(time)),
            Wait::No => unreachable!("handled by the first arm"),
        };
        match outcome {
            Ok(_) => {}
            Err(e) => match e.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => {}
                _ => return Err(e),
            },
        }
        self.collect(events);
        Ok(())
    }

    fn enter(&mut self, want: u32, time: Option<Duration>) -> io::Result<usize> {
        let to_submit = {
            let mut queue = self.uring.submission();
            queue.sync();
            queue.len() as u32
        };
        if let Some(time) = time {
            let span = types::Timespec::from(time);
            let args = types::SubmitArgs::new().timespec(&span);
            return self.uring.submitter().submit_with_args(want as usize, &args);
        }
        const GETEVENTS: u32 = 1;
        // SAFETY: no argument pointer is passed; queue entries refer to memory owned by `ops`.
        unsafe { self.uring.submitter().enter::<libc::sigset_t>(to_submit, want, GETEVENTS, None) }
    }

    fn collect(&mut self, events: &mut Vec<Event>) {
        let completed: &mut Vec<Option<Op>> = &mut self.ops;
        for entry in self.uring.completion() {
            let entry: cqueue::Entry = entry;
            let index = entry.user_data() as usize;
            if let Some(op) = completed[index].take() {
                self.free.push(index as u32);
                events.push(Event { token: op.token, result: entry.result() });
            }
        }
    }

    fn push(&mut self, entry: squeue::Entry, op: Op) {
        let index = match self.free.pop() {
            Some(index) => {
                self.ops[index as usize] = Some(op);
                index
            }
            None => {
                self.ops.push(Some(op));
                self.ops.len() as u32 - 1
            }
        };
        self.backlog.push_back(entry.user_data(u64::from(index)));
        if self.backlog.len() >= 64 {
            self.feed();
        }
    }

    /// Moves started operations into the submission queue; submits when it is full.
    fn feed(&mut self) {
        while let Some(entry) = self.backlog.front() {
            // SAFETY: the entry's memory and descriptor are owned by `ops` until it completes.
            let pushed = unsafe { self.uring.submission().push(entry) };
            if pushed.is_ok() {
                self.backlog.pop_front();
            } else if self.uring.submit().is_err() {
                return;
            }
        }
    }
}

/// A message header for these slices and what it points to.
fn message(slices: &[Slice]) -> (Box<[libc::iovec]>, Box<libc::msghdr>) {
    assert!(slices.len() <= 1024, "more slices than IOV_MAX");
    let mut iovecs: Box<[libc::iovec]> = slices.iter().map(Slice::iovec).collect();
    // SAFETY: an all-zero msghdr is valid.
    let mut header: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
    header.msg_iov = iovecs.as_mut_ptr();
    header.msg_iovlen = iovecs.len();
    (iovecs, header)
}

/// An address as the kernel takes it, and its length.
fn socket_address(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: an all-zero sockaddr_storage is valid.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let len = match address {
        SocketAddr::V4(v4) => {
            let inner = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: a sockaddr_storage has room and alignment for every kind of address.
            unsafe { std::ptr::from_mut(&mut storage).cast::<libc::sockaddr_in>().write(inner) };
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            let inner = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: as above.
            unsafe { std::ptr::from_mut(&mut storage).cast::<libc::sockaddr_in6>().write(inner) };
            size_of::<libc::sockaddr_in6>()
        }
    };
    (storage, len as libc::socklen_t)
}

fn raw(fd: &Fd) -> types::Fd {
    types::Fd(fd.as_raw_fd())
}

impl Memory {
    fn is_vector(&self) -> bool {
        matches!(self, Memory::Vector { header, .. } if header.msg_iovlen > 0)
    }
}

impl Drop for Ring {
    /// The kernel may still write into memory of unfinished operations: leak it rather than free
    /// it under the kernel. A ring is dropped once, when its shard ends.
    fn drop(&mut self) {
        for op in self.ops.drain(..).flatten() {
            if op.memory.is_vector() || !matches!(op.memory, Memory::None) {
                std::mem::forget(op);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn until(ring: &mut Ring, events: &mut Vec<Event>, count: usize) {
        while events.len() < count {
            ring.turn(Wait::Forever, events).unwrap();
        }
    }

    #[test]
    fn sends_arrive_and_receives_complete() {
        let (a, b) = UnixStream::pair().unwrap();
        let (a, b): (Fd, Fd) = (Arc::new(a.into()), Arc::new(b.into()));
        let mut ring = Ring::new(8).unwrap();
        let into = Slice::zeroed(64).unwrap();
        ring.recv(&b, into.clone(), 7);
        let parts = vec![Slice::copy_of(b"hello ").unwrap(), Slice::copy_of(b"world").unwrap()];
        ring.send_all(&a, parts, 8);
        let mut events = Vec::new();
        until(&mut ring, &mut events, 2);
        events.sort_by_key(|e| e.token);
        assert_eq!(events, [Event { token: 7, result: 11 }, Event { token: 8, result: 11 }]);
        assert_eq!(&into.to_vec()[..11], b"hello world");
        assert_eq!(ring.in_flight(), 0);
    }

    #[test]
    fn connects_and_receives_into_several_places() {
        let mut ring = Ring::new(8).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // SAFETY: no pointers; the result is checked below.
        let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) };
        assert!(socket >= 0);
        // SAFETY: a fresh descriptor of ours.
        let fd: Fd = Arc::new(unsafe { std::os::fd::FromRawFd::from_raw_fd(socket) });
        ring.connect(&fd, address, 1);
        let mut events = Vec::new();
        until(&mut ring, &mut events, 1);
        assert_eq!(events, [Event { token: 1, result: 0 }]);
        let (mut peer, _) = listener.accept().unwrap();
        std::io::Write::write_all(&mut peer, b"hello world").unwrap();
        let (a, b) = (Slice::zeroed(6).unwrap(), Slice::zeroed(64).unwrap());
        ring.recv_all(&fd, vec![a.clone(), b.clone()], 2);
        until(&mut ring, &mut events, 2);
        assert_eq!(events[1], Event { token: 2, result: 11 });
        assert_eq!((&a.to_vec()[..], &b.to_vec()[..5]), (&b"hello "[..], &b"world"[..]));
    }

    #[test]
    fn a_wait_with_a_limit_ends_without_events() {
        let mut ring = Ring::new(8).unwrap();
        let mut events = Vec::new();
        ring.turn(Wait::AtMost(Duration::from_millis(1)), &mut events).unwrap();
        assert!(events.is_empty());
    }

    #[test]
    fn time_passes_once() {
        let mut ring = Ring::new(8).unwrap();
        ring.after(Duration::from_millis(1), 3);
        let mut events = Vec::new();
        until(&mut ring, &mut events, 1);
        assert_eq!(events, [Event { token: 3, result: -libc::ETIME }]);
        assert_eq!(ring.in_flight(), 0);
    }

    #[test]
    fn more_operations_than_entries_all_complete() {
        let mut ring = Ring::new(4).unwrap();
        let file: Fd = Arc::new(std::fs::File::open("/dev/zero").unwrap().into());
        for token in 0..500 {
            ring.read_at(&file, Slice::zeroed(8).unwrap(), 0, token);
        }
        let mut events = Vec::new();
        until(&mut ring, &mut events, 500);
        assert!(events.iter().all(|e| e.result == 8));
    }
}
