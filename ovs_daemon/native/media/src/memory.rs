//! Arenas and slices: memory that may be shared with the kernel or with another process.
//!
//! An [`Arena`] is one mapping (anonymous, or a sealed memfd that an Edge process and the engine
//! both map). A [`Slice`] is a counted reference to a part of it. A shared arena can be changed by
//! its other owner at any moment, so no `&[u8]` into a `Slice` is ever handed out: bytes are copied
//! in and out, or passed to the kernel by address. Checksums are computed over what is there at
//! that moment; a peer that changes its own request underneath gets its own volume's checksum
//! error and harms nobody else.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// One mapping of memory. Unmapped when the last [`Slice`] is gone.
pub struct Arena {
    base: NonNull<u8>,
    len: usize,
    fd: Option<OwnedFd>,
    /// See [`Arena::count_use`].
    uses: AtomicU32,
    due: AtomicBool,
}

/// Of `Arena::uses`: nothing is left to be done.
const ALL_LARGE: u32 = u32::MAX;

// SAFETY: an Arena is plain memory that is only reached through copies and system calls; it has no
// thread affinity.
unsafe impl Send for Arena {}
// SAFETY: as above; concurrent copies may race only in the content of the bytes, never in types.
unsafe impl Sync for Arena {}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena").field("len", &self.len).field("shared", &self.fd.is_some()).finish()
    }
}

impl Arena {
    /// Private zeroed memory of `len` bytes (rounded up to whole pages by the kernel).
    pub fn anonymous(len: usize) -> io::Result<Arc<Self>> {
        Self::map(len, None, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS)
    }

    /// Memory of `len` bytes in a memfd sealed against shrinking and growing, for another process
    /// to map with [`Arena::from_fd`].
    pub fn shared(len: usize) -> io::Result<Arc<Self>> {
        // SAFETY: the name is a NUL-terminated literal; the result is checked.
        let raw = unsafe {
            libc::memfd_create(c"vstorage".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING)
        };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `raw` was just returned by the kernel and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        // SAFETY: plain system calls on a descriptor that we own.
        let failed = unsafe {
            libc::ftruncate(fd.as_raw_fd(), len as libc::off_t) < 0
                || libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) < 0
        };
        if failed {
            return Err(io::Error::last_os_error());
        }
        Self::map(len, Some(fd), libc::MAP_SHARED)
    }

    /// Maps a memfd received from a peer. Refuses one that the peer could still shrink, because
    /// touching the missing pages would kill this process (SIGBUS).
    pub fn from_fd(fd: OwnedFd) -> io::Result<Arc<Self>> {
        // SAFETY: plain system call on a descriptor that we own.
        let seals = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) };
        if seals < 0 || seals & libc::F_SEAL_SHRINK == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "shared memory from the peer is not sealed against shrinking",
            ));
        }
        // SAFETY: zeroed `stat` is a valid out-parameter.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: `stat` outlives the call.
        if unsafe { libc::fstat(fd.as_raw_fd(), &mut stat) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Self::map(stat.st_size as usize, Some(fd), libc::MAP_SHARED)
    }

    fn map(len: usize, fd: Option<OwnedFd>, flags: libc::c_int) -> io::Result<Arc<Self>> {
        if len == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "an arena of 0 bytes"));
        }
        let raw = fd.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        // SAFETY: a fresh mapping at an address of the kernel's choice; the result is checked.
        let address = unsafe {
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(std::ptr::null_mut(), len, prot, flags, raw, 0)
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(address.cast()).expect("mmap never returns address 0 here");
        let (uses, due) = (AtomicU32::new(0), AtomicBool::new(false));
        Ok(Arc::new(Self { base, len, fd, uses, due }))
    }

    /// Asks for large pages, where there are any: fewer of them have to be found and cleared.
    pub fn prefer_large_pages(&self) {
        // Without them it works as well.
        // SAFETY: the range is this mapping, whose content the advice does not change.
        unsafe { libc::madvise(self.base.as_ptr().cast(), self.len, libc::MADV_HUGEPAGE) };
    }

    /// It has been used once more, and nobody uses it now. After the first, second, fourth, eighth
    /// time and so on it is due for [`Arena::make_large`], until all is large: to look for large pages
    /// takes time.
    pub(crate) fn count_use(&self) {
        let uses = self.uses.load(Ordering::Relaxed);
        if uses != ALL_LARGE {
            self.uses.store(uses + 1, Ordering::Relaxed);
            self.due.fetch_or((uses + 1).is_power_of_two(), Ordering::Relaxed);
        }
    }

    /// Whether there may be something to make large.
    pub(crate) fn is_due(&self) -> bool {
        self.due.load(Ordering::Relaxed)
    }

    /// What is in small pages is put into large ones, if that is `wanted` and the kernel finds them now.
    /// The content stays.
    pub(crate) fn make_large(&self, wanted: bool) {
        self.due.store(false, Ordering::Relaxed);
        let done = wanted && {
            // SAFETY: the range is this mapping, whose content the advice does not change.
            let advised =
                unsafe { libc::madvise(self.base.as_ptr().cast(), self.len, libc::MADV_COLLAPSE) };
            advised == 0
        };
        if done {
            self.uses.store(ALL_LARGE, Ordering::Relaxed);
        }
    }

    /// Where it begins, for [`crate::Buffer`], which owns its arena alone.
    pub(crate) fn start(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Bytes of the mapping.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never true: an arena of 0 bytes cannot be made.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The memfd of a shared arena, to pass to the peer.
    pub fn fd(&self) -> Option<&OwnedFd> {
        self.fd.as_ref()
    }

    /// The part `[offset, offset + len)`; `None` when it is not inside the arena.
    pub fn slice(self: &Arc<Self>, offset: usize, len: usize) -> Option<Slice> {
        (offset.checked_add(len)? <= self.len).then(|| Slice { arena: self.clone(), offset, len })
    }

    /// Address of a 4- or 8-byte aligned word, for the rings in `net`.
    #[doc(hidden)]
    pub fn address(&self, offset: usize, len: usize) -> Option<NonNull<u8>> {
        if offset.checked_add(len)? > self.len {
            return None;
        }
        // SAFETY: within the mapping, as just checked.
        Some(unsafe { self.base.add(offset) })
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `map` and no Slice refers to it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// A counted reference to a part of an [`Arena`].
#[derive(Clone, Debug)]
pub struct Slice {
    arena: Arc<Arena>,
    offset: usize,
    len: usize,
}

impl Slice {
    /// Fresh private memory with these bytes; for control paths and tests, not for the data path.
    pub fn copy_of(bytes: &[u8]) -> io::Result<Self> {
        let arena = Arena::anonymous(bytes.len().max(1))?;
        let slice = Slice { arena, offset: 0, len: bytes.len() };
        slice.write(0, bytes);
        Ok(slice)
    }

    /// Fresh private zeroed memory; for control paths and tests.
    pub fn zeroed(len: usize) -> io::Result<Self> {
        Ok(Slice { arena: Arena::anonymous(len.max(1))?, offset: 0, len })
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for a slice of 0 bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Offset of the first byte in its arena (what a ring descriptor carries).
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The arena it belongs to.
    pub fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// The part `[start, start + len)` of this slice. Panics when out of bounds.
    pub fn sub(&self, start: usize, len: usize) -> Slice {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.len), "slice out of bounds");
        Slice { arena: self.arena.clone(), offset: self.offset + start, len }
    }

    /// Copies `bytes` to position `at`. Panics when out of bounds.
    pub fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at.checked_add(bytes.len()).is_some_and(|end| end <= self.len), "out of bounds");
        // SAFETY: destination is inside the mapping (checked); source is a valid slice; a private
        // arena's source can't overlap because no `&[u8]` into an arena exists outside this crate.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.as_mut_ptr().add(at), bytes.len());
        }
    }

    /// Copies from position `at` into `bytes`. Panics when out of bounds.
    pub fn read(&self, at: usize, bytes: &mut [u8]) {
        assert!(at.checked_add(bytes.len()).is_some_and(|end| end <= self.len), "out of bounds");
        // SAFETY: as in `write`, the other way round.
        unsafe {
            std::ptr::copy_nonoverlapping(self.as_ptr().add(at), bytes.as_mut_ptr(), bytes.len());
        }
    }

    /// Copies this slice's bytes to `target` (same length; they may overlap).
    pub fn copy_to(&self, target: &Slice) {
        assert_eq!(self.len, target.len, "lengths differ");
        // SAFETY: both ranges are inside their mappings and have the same length.
        unsafe { std::ptr::copy(self.as_ptr(), target.as_mut_ptr(), self.len) };
    }

    /// A copy on the heap.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        self.read(0, &mut bytes);
        bytes
    }

    /// Sets every byte to zero.
    pub fn zero(&self) {
        // SAFETY: inside the mapping.
        unsafe { std::ptr::write_bytes(self.as_mut_ptr(), 0, self.len) };
    }

    /// CRC32C of the bytes (the Castagnoli polynomial of RFC 3720, as in `format`).
    pub fn crc32c(&self) -> u32 {
        // SAFETY: inside the mapping. A peer may change shared bytes meanwhile: the checksum is
        // then of a mixture, which the module's essay accounts for.
        let bytes = unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len) };
        crc_fast::crc32_iscsi(bytes)
    }

    /// True when every byte is zero.
    pub fn is_zero(&self) -> bool {
        // SAFETY: as in `crc32c`.
        let bytes = unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len) };
        // SAFETY: any bit pattern is a valid u64; `align_to` splits correctly.
        let (head, words, tail) = unsafe { bytes.align_to::<u64>() };
        head.iter().all(|b| *b == 0)
            && words.iter().all(|w| *w == 0)
            && tail.iter().all(|b| *b == 0)
    }

    /// Address for a system call. The caller keeps the slice until the call has completed.
    #[doc(hidden)]
    pub fn as_ptr(&self) -> *const u8 {
        self.as_mut_ptr()
    }

    /// Address for a system call that writes. The caller keeps the slice until it has completed.
    #[doc(hidden)]
    pub fn as_mut_ptr(&self) -> *mut u8 {
        // SAFETY: offset <= arena length by construction.
        unsafe { self.arena.base.as_ptr().add(self.offset) }
    }

    pub(crate) fn iovec(&self) -> libc::iovec {
        libc::iovec { iov_base: self.as_mut_ptr().cast(), iov_len: self.len }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_bounded_and_shared() {
        let arena = Arena::shared(8192).unwrap();
        assert!(arena.slice(4096, 4097).is_none());
        assert!(arena.slice(usize::MAX, 2).is_none());
        let ours = arena.slice(4096, 4096).unwrap();
        let theirs = Arena::from_fd(arena.fd().unwrap().try_clone().unwrap()).unwrap();
        ours.write(10, b"hello");
        let mut seen = [0; 5];
        theirs.slice(4096, 4096).unwrap().read(10, &mut seen);
        assert_eq!(&seen, b"hello");
        assert!(!ours.is_zero());
        ours.zero();
        assert!(ours.is_zero());
    }

    #[test]
    fn memory_that_the_peer_could_shrink_is_refused() {
        // SAFETY: literal name; result checked by the assertion below.
        let raw = unsafe { libc::memfd_create(c"x".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(raw >= 0);
        // SAFETY: fresh descriptor.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        assert_eq!(Arena::from_fd(fd).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    #[should_panic(expected = "out of bounds")]
    fn writing_past_the_end_panics() {
        Slice::zeroed(16).unwrap().write(10, &[0; 7]);
    }
}
