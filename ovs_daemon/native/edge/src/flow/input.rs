//! Where a connection receives.
//!
//! Bytes are received into a chunk behind one another; requests are parsed and payloads are handed
//! out in place. What is left over when the chunk is nearly full (part of a header, part of a
//! cluster) moves to the front of another chunk. A chunk whose payloads are all done is used again
//! from its start.

use media::Slice;

use super::pool::{CHUNK_BYTES, NONE, Pool};

/// Room below which a chunk is left for another one, in bytes: receiving little at a time costs
/// more system calls than it saves memory.
const ROOM_BYTES_MIN: usize = 64 << 10;
/// Pieces of a payload are cut at multiples of this in the volume, so that no cluster is written in
/// two parts.
const CLUSTER_BYTES: u64 = 4096;

/// See the module's essay.
pub(crate) struct Input {
    chunk: u32,
    memory: Option<Slice>,
    /// Next byte to be looked at.
    start: usize,
    /// End of what was received.
    fill: usize,
}

impl Input {
    pub(crate) fn new() -> Self {
        Self { chunk: NONE, memory: None, start: 0, fill: 0 }
    }

    /// Bytes received and not yet taken.
    #[inline]
    pub(crate) fn available(&self) -> usize {
        self.fill - self.start
    }

    #[inline]
    pub(crate) fn chunk(&self) -> u32 {
        self.chunk
    }

    /// Offset in the chunk of the next byte.
    #[inline]
    pub(crate) fn at(&self) -> usize {
        self.start
    }

    /// Copies the next bytes out; there must be as many.
    #[inline]
    pub(crate) fn take(&mut self, into: &mut [u8]) {
        let memory = self.memory.as_ref().expect("bytes are available");
        assert!(into.len() <= self.fill - self.start, "more than was received");
        memory.read(self.start, into);
        self.start += into.len();
    }

    /// Skips the next `len` bytes and returns them in place.
    #[inline]
    pub(crate) fn take_slice(&mut self, len: usize) -> Slice {
        assert!(len <= self.fill - self.start, "more than was received");
        let slice = self.memory.as_ref().expect("bytes are available").sub(self.start, len);
        self.start += len;
        slice
    }

    pub(crate) fn skip(&mut self, len: usize) {
        assert!(len <= self.fill - self.start, "more than was received");
        self.start += len;
    }

    /// How much of a payload with `left` bytes to come, bound for `offset` of the volume, should be
    /// handed out now: all that is left, or whole clusters once waiting for more gains nothing.
    /// `whole`: it has not been cut yet. A write of up to 64 KiB never is, so a client that dies
    /// while it sends one leaves all or nothing of it.
    #[inline]
    pub(crate) fn piece(&self, left: u32, offset: u64, whole: bool) -> usize {
        let ready = self.available();
        if ready >= left as usize {
            return left as usize;
        }
        if whole && left as usize <= ROOM_BYTES_MIN {
            return 0;
        }
        let end = (offset + ready as u64) / CLUSTER_BYTES * CLUSTER_BYTES;
        let clusters = end.saturating_sub(offset) as usize;
        let nearly_full = CHUNK_BYTES - self.fill < ROOM_BYTES_MIN;
        if clusters >= ROOM_BYTES_MIN || nearly_full { clusters } else { 0 }
    }

    /// `len` more bytes have arrived.
    #[inline]
    pub(crate) fn received(&mut self, len: usize) {
        self.fill += len;
        debug_assert!(self.fill <= CHUNK_BYTES, "received past the chunk");
    }

    /// The room to receive into, with space for `contiguous` bytes from the next one on. `None`: no
    /// chunk to be had now.
    #[inline]
    pub(crate) fn room(
        &mut self,
        contiguous: usize,
        export: u32,
        pool: &mut Pool,
    ) -> Option<Slice> {
        if self.chunk == NONE {
            self.chunk = pool.take_to_receive()?;
            self.memory = Some(pool.memory(self.chunk));
        }
        let sole = pool.is_sole_user(self.chunk);
        let fits = self.start + contiguous <= CHUNK_BYTES;
        let lacking = CHUNK_BYTES - self.fill < ROOM_BYTES_MIN || !fits;
        if sole && (lacking || self.available() == 0) {
            self.move_to_front();
        } else if lacking {
            let rest = self.rest();
            match pool.replace_to_receive(self.chunk, export) {
                Some(fresh) => self.move_to(fresh, &rest, pool),
                None if self.fill < CHUNK_BYTES && fits => {}
                None => return None,
            }
        }
        let memory = self.memory.as_ref()?;
        Some(memory.sub(self.fill, CHUNK_BYTES - self.fill))
    }

    /// Lets go of the chunk when nothing unread lies in it and nobody else uses it.
    pub(crate) fn let_go(&mut self, pool: &mut Pool) {
        if self.chunk != NONE && self.available() == 0 && pool.is_sole_user(self.chunk) {
            self.close(pool);
        }
    }

    /// Lets go of the chunk and of what was not taken.
    pub(crate) fn close(&mut self, pool: &mut Pool) {
        if self.chunk != NONE {
            pool.release(self.chunk, 1);
        }
        *self = Self::new();
    }

    fn move_to_front(&mut self) {
        let len = self.available();
        if len > 0
            && let Some(memory) = &self.memory
        {
            self.rest().copy_to(&memory.sub(0, len));
        }
        (self.start, self.fill) = (0, len);
    }

    /// What was received and not taken.
    fn rest(&self) -> Slice {
        let memory = self.memory.as_ref().expect("a chunk has memory");
        memory.sub(self.start, self.available())
    }

    fn move_to(&mut self, fresh: u32, rest: &Slice, pool: &Pool) {
        let memory = pool.memory(fresh);
        rest.copy_to(&memory.sub(0, rest.len()));
        *self = Self { chunk: fresh, memory: Some(memory), start: 0, fill: rest.len() };
    }
}
