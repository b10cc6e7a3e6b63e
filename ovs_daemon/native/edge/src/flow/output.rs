//! What waits to be sent on one connection.
//!
//! Replies to reads lie in the pool already, header in front of data. Everything small (simple
//! replies, handshake, errors) is collected on the side and moved behind them at the end of the
//! turn. Neighbours in memory become one piece, so the replies of a turn are usually one `send`.
//! Only one send is under way at a time: order is kept, and what completes meanwhile is gathered.

use media::{Fd, Ring, Slice};

use super::pool::{CHUNK_BYTES, NONE, Place, Pool};

/// Small replies that may wait before no more requests are taken, in bytes.
const SMALL_BYTES_MAX: usize = 64 << 10;
/// Pieces of one send; the kernel takes at most 1024 (IOV_MAX).
const PIECES_MAX: usize = 1000;

struct Piece {
    place: Place,
    /// How many users of its chunk this piece stands for.
    users: u32,
    /// Memory outside the pool, when the pool had none left.
    private: Option<Slice>,
}

/// See the module's essay.
pub(crate) struct Output {
    /// Index of the connection, on whose account memory is taken.
    pub(crate) owner: u32,
    /// The chunk for the next reply, and up to where it is used.
    current: Option<(u32, usize)>,
    small: Vec<u8>,
    pieces: Vec<Piece>,
    /// Chunk and users of what is being sent.
    sending: Vec<(u32, u32)>,
    /// Bytes being sent; 0: no send is under way.
    sending_bytes: usize,
}

impl Output {
    pub(crate) fn new(owner: u32) -> Self {
        Self {
            owner,
            current: None,
            small: Vec::new(),
            pieces: Vec::new(),
            sending: Vec::new(),
            sending_bytes: 0,
        }
    }

    /// Memory for a reply of up to a chunk, right behind the one before it where possible, so that
    /// the replies of a turn are one piece. The caller is a user of its chunk. `None`: not now.
    #[inline]
    pub(crate) fn reserve(&mut self, len: usize, pool: &mut Pool) -> Option<Place> {
        debug_assert!(len <= CHUNK_BYTES, "longer than a chunk");
        let (chunk, used) = match self.current {
            Some((chunk, _)) if pool.is_sole_user(chunk) => (chunk, 0),
            Some((chunk, used)) if used + len <= CHUNK_BYTES => (chunk, used),
            _ => {
                self.leave_chunk(pool);
                (pool.take_to_reply(self.owner)?, 0)
            }
        };
        self.current = Some((chunk, used + len));
        pool.hold(chunk);
        Some(Place { chunk, at: used as u32, len: len as u32 })
    }

    /// Memory for all parts of one reply (bytes each), or none at all.
    pub(crate) fn reserve_all(&mut self, lens: &[usize], pool: &mut Pool) -> Option<Vec<Place>> {
        let chunks = pool.take_all_to_reply(self.owner, lens.len())?;
        let place = |(chunk, len): (u32, &usize)| Place { chunk, at: 0, len: *len as u32 };
        Some(chunks.into_iter().zip(lens).map(place).collect())
    }

    /// Gives up the chunk for further replies when all in it was sent: the next turn, of whatever
    /// connection, finds it in the cache.
    #[inline]
    fn tidy(&mut self, pool: &mut Pool) {
        if self.current.is_some_and(|(chunk, _)| pool.is_sole_user(chunk)) {
            self.leave_chunk(pool);
        }
    }

    fn leave_chunk(&mut self, pool: &mut Pool) {
        if let Some((chunk, _)) = self.current.take() {
            pool.release(chunk, 1);
        }
    }

    /// Bytes that have no place in the pool yet.
    #[inline]
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.small.extend_from_slice(bytes);
    }

    /// For replies that are built in place.
    pub(crate) fn small(&mut self) -> &mut Vec<u8> {
        &mut self.small
    }

    /// A finished reply in the pool; its use of the chunk passes to the output.
    #[inline]
    pub(crate) fn push(&mut self, place: Place) {
        match self.pieces.last_mut() {
            Some(Piece { place: last, users, .. })
                if last.chunk == place.chunk && last.at + last.len == place.at =>
            {
                last.len += place.len;
                *users += 1;
            }
            _ => self.pieces.push(Piece { place, users: 1, private: None }),
        }
    }

    /// The client does not take its replies: do not take its requests.
    pub(crate) fn is_congested(&self) -> bool {
        self.small.len() > SMALL_BYTES_MAX
    }

    /// A send is under way.
    pub(crate) fn is_sending(&self) -> bool {
        self.sending_bytes > 0
    }

    /// Nothing waits and nothing is under way.
    pub(crate) fn is_empty(&self) -> bool {
        !self.is_sending() && self.small.is_empty() && self.pieces.is_empty()
    }

    /// Starts sending what waits, unless a send is under way.
    #[inline]
    pub(crate) fn send(&mut self, fd: &Fd, token: u64, pool: &mut Pool, ring: &mut Ring) {
        if self.is_sending() {
            return;
        }
        self.settle(pool);
        if self.pieces.is_empty() || self.sent_at_once(fd, pool) {
            return self.tidy(pool);
        }
        let count = self.pieces.len().min(PIECES_MAX);
        let mut slices = Vec::new();
        let mut single = None;
        for piece in self.pieces.drain(..count) {
            self.sending_bytes += piece.place.len as usize;
            let slice = piece.private.unwrap_or_else(|| pool.slice(piece.place));
            if piece.place.chunk != NONE {
                self.sending.push((piece.place.chunk, piece.users));
            }
            if count == 1 {
                single = Some(slice);
            } else {
                slices.push(slice);
            }
        }
        match single {
            Some(slice) => ring.send(fd, slice, token),
            None => ring.send_all(fd, slices, token),
        }
    }

    /// Sends what is in one piece by a plain system call. True: all of it is gone. Otherwise the
    /// rest goes through the ring, which waits for the socket and reports errors.
    #[inline]
    fn sent_at_once(&mut self, fd: &Fd, pool: &mut Pool) -> bool {
        let [piece] = &mut self.pieces[..] else { return false };
        if piece.private.is_some() {
            return false;
        }
        let sent = net::send_now(fd, &pool.slice(piece.place)).unwrap_or(0) as u32;
        if sent < piece.place.len {
            piece.place.at += sent;
            piece.place.len -= sent;
            return false;
        }
        pool.release(piece.place.chunk, piece.users);
        self.pieces.clear();
        true
    }

    /// Gives the small replies a place behind what waits: whatever is pushed later follows them.
    pub(crate) fn settle(&mut self, pool: &mut Pool) {
        let mut small = std::mem::take(&mut self.small);
        for bytes in small.chunks(CHUNK_BYTES) {
            if let Some(place) = self.reserve(bytes.len(), pool) {
                pool.slice(place).write(0, bytes);
                self.push(place);
                continue;
            }
            let private = Slice::copy_of(bytes).expect("the system has no memory for a reply");
            let place = Place { chunk: NONE, at: 0, len: bytes.len() as u32 };
            self.pieces.push(Piece { place, users: 0, private: Some(private) });
        }
        small.clear();
        self.small = small;
    }

    /// The send has ended; false: the client did not get all of it.
    #[inline]
    pub(crate) fn sent(&mut self, result: i32, pool: &mut Pool) -> bool {
        for (chunk, users) in self.sending.drain(..) {
            pool.release(chunk, users);
        }
        self.tidy(pool);
        let expected = std::mem::take(&mut self.sending_bytes);
        usize::try_from(result).is_ok_and(|sent| sent == expected)
    }

    /// Forgets what waits.
    pub(crate) fn drop_waiting(&mut self, pool: &mut Pool) {
        self.small.clear();
        self.leave_chunk(pool);
        for piece in self.pieces.drain(..) {
            if piece.place.chunk != NONE {
                pool.release(piece.place.chunk, piece.users);
            }
        }
    }
}
