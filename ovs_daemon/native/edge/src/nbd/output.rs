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
#[derive(Default)]
pub(super) struct Output {
    small: Vec<u8>,
    pieces: Vec<Piece>,
    /// Chunk and users of what is being sent.
    sending: Vec<(u32, u32)>,
    /// Bytes of `pieces`.
    waiting_bytes: usize,
    /// Bytes being sent; 0: no send is under way.
    sending_bytes: usize,
}

impl Output {
    /// Bytes that have no place in the pool yet.
    #[inline]
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.small.extend_from_slice(bytes);
    }

    /// For replies that are built in place.
    pub(super) fn small(&mut self) -> &mut Vec<u8> {
        &mut self.small
    }

    /// A finished reply in the pool; its use of the chunk passes to the output.
    #[inline]
    pub(super) fn push(&mut self, place: Place) {
        self.waiting_bytes += place.len as usize;
        append(&mut self.pieces, place);
    }

    /// The client does not take its replies: do not take its requests.
    pub(super) fn is_congested(&self) -> bool {
        self.small.len() > SMALL_BYTES_MAX
    }

    /// Bytes of the pool that wait or are under way.
    #[inline]
    pub(super) fn bytes(&self) -> usize {
        self.waiting_bytes + self.sending_bytes
    }

    /// A send is under way.
    pub(super) fn is_sending(&self) -> bool {
        self.sending_bytes > 0
    }

    /// Nothing waits and nothing is under way.
    pub(super) fn is_empty(&self) -> bool {
        !self.is_sending() && self.small.is_empty() && self.pieces.is_empty()
    }

    /// Starts sending what waits, unless a send is under way.
    #[inline]
    pub(super) fn send(&mut self, fd: &Fd, token: u64, pool: &mut Pool, ring: &mut Ring) {
        if self.is_sending() {
            return;
        }
        self.settle(pool);
        if self.pieces.is_empty() || self.sent_at_once(fd, pool) {
            return;
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
        self.waiting_bytes -= self.sending_bytes;
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
        self.waiting_bytes -= sent as usize;
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
    pub(super) fn settle(&mut self, pool: &mut Pool) {
        self.waiting_bytes += self.small.len();
        for bytes in self.small.chunks(CHUNK_BYTES) {
            if let Some(place) = pool.reserve(bytes.len()) {
                pool.slice(place).write(0, bytes);
                append(&mut self.pieces, place);
                continue;
            }
            let private = Slice::copy_of(bytes).expect("the system has no memory for a reply");
            let place = Place { chunk: NONE, at: 0, len: bytes.len() as u32 };
            self.pieces.push(Piece { place, users: 0, private: Some(private) });
        }
        self.small.clear();
    }

    /// The send has ended; false: the client did not get all of it.
    #[inline]
    pub(super) fn sent(&mut self, result: i32, pool: &mut Pool) -> bool {
        for (chunk, users) in self.sending.drain(..) {
            pool.release(chunk, users);
        }
        let expected = std::mem::take(&mut self.sending_bytes);
        usize::try_from(result).is_ok_and(|sent| sent == expected)
    }

    /// Forgets what waits.
    pub(super) fn drop_waiting(&mut self, pool: &mut Pool) {
        self.small.clear();
        self.waiting_bytes = 0;
        for piece in self.pieces.drain(..) {
            if piece.place.chunk != NONE {
                pool.release(piece.place.chunk, piece.users);
            }
        }
    }
}

#[inline]
fn append(pieces: &mut Vec<Piece>, place: Place) {
    match pieces.last_mut() {
        Some(Piece { place: last, users, .. })
            if last.chunk == place.chunk && last.at + last.len == place.at =>
        {
            last.len += place.len;
            *users += 1;
        }
        _ => pieces.push(Piece { place, users: 1, private: None }),
    }
}
