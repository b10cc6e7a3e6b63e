//! The Edge protocol: what an Edge process and an engine say to each other, whatever carries it.
//!
//! A *session* joins one Edge to one volume. It has a **control connection** (a stream: unix
//! socket or TCP) that carries [`Frame`]s, and a way for requests:
//!
//! * **shared memory** (same host): two rings in memory that belongs to the Edge. Requests are
//!   64-byte [`Command`]s, answers 16-byte [`Done`]s; payloads stay where the front end received
//!   them, in the data arena, and are named by offset. Where everything lies in the session's own
//!   memory is computed by [`Layout`] from the number of entries, by both sides alike.
//! * **a stream** (other hosts): [`FrameKind::Submit`] and [`FrameKind::Complete`] carry the same 64
//!   and 16 bytes, many at a time, with the payloads behind them ([`stream`]). The control frames
//!   travel on the same stream.
//!
//! All integers are little endian. Reserved bytes are zero and checked, so that a later version
//! can give them a meaning. Nothing here trusts its input: a parser returns an error, it never
//! panics and never allocates more than the input holds.
//!
//! ```text
//! frame    0 magic "OVSE"   4 kind u16   6 zero u16   8 body bytes u32   12 CRC32C of body u32   16 body
//! command  0 tag u32   4 verb u8   5 flags u8   6 zero u16   8 offset u64   16 length u64
//!         24 place u64   32 room u32   36 zero [28]                                        = 64 bytes
//! done     0 tag u32   4 errno i32 (0 = done)   8 extents u32   12 zero u32                = 16 bytes
//! extent   0 length u32   4 flags u32 (bit 0: hole)                                        =  8 bytes
//! ```

pub mod stream;
pub mod token;

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use crate::bytes::crc32c;

/// The only version so far. A peer announces what it speaks in [`Hello`].
pub const VERSION: u16 = 1;
/// First bytes of every frame.
pub const MAGIC: u32 = u32::from_le_bytes(*b"OVSE");
/// Bytes of a frame's header.
pub const FRAME_HEADER_LEN: usize = 16;
/// Largest body of a control frame, in bytes; a longer one is refused before it is read.
pub const CONTROL_BODY_MAX: usize = 8192;
/// Largest text inside a control frame, in bytes; longer ones are cut when encoded.
pub const TEXT_MAX: usize = 1024;
/// Bytes of a [`Command`].
pub const COMMAND_LEN: usize = 64;
/// Bytes of a [`Done`].
pub const DONE_LEN: usize = 16;
/// Bytes of one extent of a block status.
pub const EXTENT_LEN: usize = 8;
/// Largest payload of one read or write, in bytes.
pub const PAYLOAD_MAX: u64 = 32 << 20;
/// Fewest and most ring entries; a power of two between them.
pub const ENTRIES_MIN: u32 = 8;
/// See [`ENTRIES_MIN`].
pub const ENTRIES_MAX: u32 = 4096;
/// Descriptors that travel with [`Hello`] over a unix socket, in this order: session memory, data
/// arena, eventfd that wakes the engine, eventfd that wakes the Edge.
pub const HELLO_DESCRIPTORS: usize = 4;

/// What was wrong with bytes from the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// The frame does not begin with "OVSE": the peer speaks something else.
    Magic,
    /// A kind of frame that this version does not know.
    Kind(u16),
    /// A body longer than its kind may have, in bytes.
    TooLong(u32),
    /// A body that ends before its fields do, or goes on after them.
    Length,
    /// The body's checksum does not match.
    Checksum,
    /// Reserved bytes that are not zero.
    Reserved,
    /// A verb that this version does not know.
    Verb(u8),
    /// Flags that this version does not know, or that do not go with the verb.
    Flags(u8),
    /// A field outside its limits; its name.
    Value(&'static str),
    /// A text that is not UTF-8.
    Text,
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireError::Magic => write!(f, "the frame does not begin with the Edge magic"),
            WireError::Kind(kind) => write!(f, "unknown frame kind {kind}"),
            WireError::TooLong(len) => write!(f, "a frame body of {len} bytes is too long"),
            WireError::Length => write!(f, "the frame body has a wrong length"),
            WireError::Checksum => write!(f, "the frame body fails its checksum"),
            WireError::Reserved => write!(f, "reserved bytes are not zero"),
            WireError::Verb(verb) => write!(f, "unknown verb {verb}"),
            WireError::Flags(flags) => write!(f, "unknown or misplaced flags {flags:#04x}"),
            WireError::Value(name) => write!(f, "the field '{name}' is outside its limits"),
            WireError::Text => write!(f, "a text is not UTF-8"),
        }
    }
}

impl core::error::Error for WireError {}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Verb {
    /// Fill `length` bytes at `place`.
    Read = 1,
    /// Store `length` bytes from `place`.
    Write = 2,
    /// The range may be forgotten.
    Trim = 3,
    /// The range reads as zeroes afterwards.
    WriteZeroes = 4,
    /// All that was completed before is durable at completion.
    Flush = 5,
    /// Put extents that describe the range at `place`, at most `room` bytes of them.
    BlockStatus = 6,
}

impl Verb {
    fn from_byte(byte: u8) -> Result<Self, WireError> {
        Ok(match byte {
            1 => Verb::Read,
            2 => Verb::Write,
            3 => Verb::Trim,
            4 => Verb::WriteZeroes,
            5 => Verb::Flush,
            6 => Verb::BlockStatus,
            other => return Err(WireError::Verb(other)),
        })
    }

    /// It changes what later reads return.
    pub fn is_write(self) -> bool {
        matches!(self, Verb::Write | Verb::Trim | Verb::WriteZeroes)
    }
}

/// Flag of a [`Command`]: durable before completion. Only with verbs that write.
pub const FLAG_FUA: u8 = 1;
/// Flag of a [`Command`]: `place` lies in the session's own memory, not in the data arena.
pub const FLAG_OWN: u8 = 2;

/// One request as it crosses the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Command {
    /// Chosen by the Edge, returned with the answer; below the number of ring entries.
    pub tag: u32,
    /// What to do.
    pub verb: Verb,
    /// [`FLAG_FUA`], [`FLAG_OWN`].
    pub flags: u8,
    /// First byte in the volume.
    pub offset: u64,
    /// Bytes of the volume; 0 for a flush.
    pub length: u64,
    /// Where the payload or the answer is, in bytes from the start of its memory.
    pub place: u64,
    /// Bytes at `place` that an answer (block status) may use.
    pub room: u32,
}

impl Command {
    /// Its bytes.
    pub fn encode(&self) -> [u8; COMMAND_LEN] {
        let mut bytes = [0; COMMAND_LEN];
        for (at, word) in self.to_words().iter().enumerate() {
            bytes[at * 8..at * 8 + 8].copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Its bytes as little-endian words, the unit in which rings copy.
    #[inline]
    pub fn to_words(&self) -> [u64; 8] {
        let head =
            u64::from(self.tag) | u64::from(self.verb as u8) << 32 | u64::from(self.flags) << 40;
        let room = u64::from(self.room);
        [head, self.offset, self.length, self.place, room, 0, 0, 0]
    }

    /// Parses bytes from a peer.
    ///
    /// # Errors
    /// [`WireError`] for anything that this version does not define.
    pub fn decode(bytes: &[u8; COMMAND_LEN]) -> Result<Self, WireError> {
        let mut words = [0; 8];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(chunk.try_into().map_err(|_| WireError::Length)?);
        }
        Self::from_words(&words)
    }

    /// Parses the words of a ring entry.
    ///
    /// # Errors
    /// As [`Command::decode`].
    #[inline]
    pub fn from_words(words: &[u64; 8]) -> Result<Self, WireError> {
        let [head, offset, length, place, room, spare @ ..] = *words;
        if head >> 48 != 0 || room >> 32 != 0 || spare != [0; 3] {
            return Err(WireError::Reserved);
        }
        let verb = Verb::from_byte((head >> 32) as u8)?;
        let flags = (head >> 40) as u8;
        let allowed = if verb.is_write() { FLAG_FUA | FLAG_OWN } else { FLAG_OWN };
        if flags & !allowed != 0 {
            return Err(WireError::Flags(flags));
        }
        if matches!(verb, Verb::Read | Verb::Write) && length > PAYLOAD_MAX {
            return Err(WireError::Value("length"));
        }
        let (tag, room) = (head as u32, room as u32);
        Ok(Command { tag, verb, flags, offset, length, place, room })
    }

    /// Durable before completion.
    pub fn is_fua(&self) -> bool {
        self.flags & FLAG_FUA != 0
    }

    /// `place` lies in the session's own memory.
    pub fn is_own(&self) -> bool {
        self.flags & FLAG_OWN != 0
    }
}

/// The answer to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Done {
    /// The request's.
    pub tag: u32,
    /// 0, or a positive errno.
    pub errno: i32,
    /// Extents written to the request's `place` (block status), else 0.
    pub extents: u32,
}

impl Done {
    /// Its bytes as words.
    #[inline]
    pub fn to_words(&self) -> [u64; 2] {
        let head = u64::from(self.tag) | u64::from(self.errno as u32) << 32;
        [head, u64::from(self.extents)]
    }

    /// Parses the words of a ring entry.
    ///
    /// # Errors
    /// A negative errno, or reserved bytes in use.
    #[inline]
    pub fn from_words(words: &[u64; 2]) -> Result<Self, WireError> {
        let errno = (words[0] >> 32) as u32 as i32;
        if words[1] >> 32 != 0 {
            return Err(WireError::Reserved);
        }
        if errno < 0 {
            return Err(WireError::Value("errno"));
        }
        Ok(Done { tag: words[0] as u32, errno, extents: words[1] as u32 })
    }

    /// Its bytes.
    pub fn encode(&self) -> [u8; DONE_LEN] {
        let [a, b] = self.to_words();
        let mut bytes = [0; DONE_LEN];
        bytes[..8].copy_from_slice(&a.to_le_bytes());
        bytes[8..].copy_from_slice(&b.to_le_bytes());
        bytes
    }

    /// Parses bytes from a peer.
    ///
    /// # Errors
    /// As [`Done::from_words`].
    pub fn decode(bytes: &[u8; DONE_LEN]) -> Result<Self, WireError> {
        let (a, b) = bytes.split_at(8);
        let word = |half: &[u8]| half.try_into().map(u64::from_le_bytes);
        match (word(a), word(b)) {
            (Ok(a), Ok(b)) => Self::from_words(&[a, b]),
            _ => Err(WireError::Length),
        }
    }
}

/// One extent of a block status as it lies in the answer.
pub fn encode_extent(len: u32, hole: bool) -> [u8; EXTENT_LEN] {
    (u64::from(len) | u64::from(hole) << 32).to_le_bytes()
}

/// Length and "is a hole" of one extent of an answer.
pub fn decode_extent(bytes: &[u8; EXTENT_LEN]) -> (u32, bool) {
    let word = u64::from_le_bytes(*bytes);
    (word as u32, word >> 32 & 1 == 1)
}

/// Where things lie in a session's own shared memory, computed from the number of entries.
///
/// ```text
///    0  magic u32, version u16, zero u16, entries u32        (for people with a hex dump)
/// 4096  submissions: head | tail | asleep, 128 bytes apart   (u32 each)
/// 4480  answers:     head | tail | asleep, 128 bytes apart
/// 8192  entries x 64 bytes of commands
///    .  entries x 16 bytes of answers                        (page aligned)
///    .  entries x 32768 bytes for extents, by tag (memory only where used)
/// ```
///
/// Cursors are 128 bytes apart because processors fetch cache lines in pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    entries: u32,
}

/// Bytes for the extents of one tag.
pub const ANSWER_ROOM: u32 = 32768;

impl Layout {
    /// The layout for so many entries.
    ///
    /// # Errors
    /// Not a power of two within [`ENTRIES_MIN`] and [`ENTRIES_MAX`].
    pub fn new(entries: u32) -> Result<Self, WireError> {
        let fits = entries.is_power_of_two() && (ENTRIES_MIN..=ENTRIES_MAX).contains(&entries);
        if fits { Ok(Self { entries }) } else { Err(WireError::Value("entries")) }
    }

    /// Ring entries.
    pub fn entries(&self) -> u32 {
        self.entries
    }

    /// Cursors of the ring of submissions.
    pub fn submission_cursors(&self) -> usize {
        4096
    }

    /// Cursors of the ring of answers.
    pub fn completion_cursors(&self) -> usize {
        4096 + 384
    }

    /// The commands.
    pub fn submissions(&self) -> usize {
        8192
    }

    /// The answers.
    pub fn completions(&self) -> usize {
        (self.submissions() + self.entries as usize * COMMAND_LEN).next_multiple_of(4096)
    }

    /// Room for the extents of one tag.
    pub fn answer(&self, tag: u32) -> usize {
        let first = self.completions() + self.entries as usize * DONE_LEN;
        first.next_multiple_of(4096) + tag as usize * ANSWER_ROOM as usize
    }

    /// Bytes of the whole.
    pub fn len(&self) -> usize {
        self.answer(self.entries)
    }

    /// Never true.
    pub fn is_empty(&self) -> bool {
        false
    }
}

/// Kinds of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum FrameKind {
    /// Edge -> engine: opens a session.
    Hello = 1,
    /// Engine -> Edge: the session is open.
    Attached = 2,
    /// Engine -> Edge: it is not, and why.
    Refused = 3,
    /// Engine -> Edge: the volume has another size now.
    Resized = 4,
    /// Engine -> Edge: the volume has another owner now.
    Moved = 5,
    /// Engine -> Edge: the session ends, and why.
    Closed = 6,
    /// Edge -> engine: finish what is in flight, then close the connection.
    Goodbye = 7,
    /// Stream carrier only: [`Command`]s; the payloads of the writes among them follow the frame.
    Submit = 16,
    /// Stream carrier only: [`Done`]s; the payloads of reads and extents follow the frame.
    Complete = 17,
}

impl FrameKind {
    fn from_wire(kind: u16) -> Result<Self, WireError> {
        Ok(match kind {
            1 => FrameKind::Hello,
            2 => FrameKind::Attached,
            3 => FrameKind::Refused,
            4 => FrameKind::Resized,
            5 => FrameKind::Moved,
            6 => FrameKind::Closed,
            7 => FrameKind::Goodbye,
            16 => FrameKind::Submit,
            17 => FrameKind::Complete,
            other => return Err(WireError::Kind(other)),
        })
    }

    fn body_max(self) -> usize {
        match self {
            FrameKind::Submit => stream::BATCH_MAX * COMMAND_LEN,
            FrameKind::Complete => stream::BATCH_MAX * DONE_LEN,
            _ => CONTROL_BODY_MAX,
        }
    }
}

/// The first 16 bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the body is.
    pub kind: FrameKind,
    /// Bytes of the body.
    pub body_len: u32,
    /// CRC32C of the body. Payloads are not in the body: a stream's own checksums protect them on
    /// their way, and the owner gives every cluster its lasting checksum as soon as it has it.
    pub crc: u32,
}

impl FrameHeader {
    /// Its bytes.
    pub fn encode(&self) -> [u8; FRAME_HEADER_LEN] {
        let mut bytes = [0; FRAME_HEADER_LEN];
        bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..6].copy_from_slice(&(self.kind as u16).to_le_bytes());
        bytes[8..12].copy_from_slice(&self.body_len.to_le_bytes());
        bytes[12..].copy_from_slice(&self.crc.to_le_bytes());
        bytes
    }

    /// Parses bytes from a peer.
    ///
    /// # Errors
    /// Wrong magic, unknown kind, a body longer than the kind allows.
    pub fn decode(bytes: &[u8; FRAME_HEADER_LEN]) -> Result<Self, WireError> {
        let mut reader = Reader(bytes);
        if reader.u32()? != MAGIC {
            return Err(WireError::Magic);
        }
        let kind = FrameKind::from_wire(reader.u16()?)?;
        if reader.u16()? != 0 {
            return Err(WireError::Reserved);
        }
        let (body_len, crc) = (reader.u32()?, reader.u32()?);
        if body_len as usize > kind.body_max() {
            return Err(WireError::TooLong(body_len));
        }
        Ok(Self { kind, body_len, crc })
    }
}

/// Opens a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Newest version that the Edge speaks; the engine answers in it or refuses.
    pub version: u16,
    /// Features that the Edge offers; none is defined yet.
    pub features: u64,
    /// UUID of the volume.
    pub volume: [u8; 16],
    /// The Edge will not write.
    pub read_only: bool,
    /// Ring entries; the session's memory has the [`Layout`] of so many.
    pub entries: u32,
    /// Attach token ([`token::Token`]); all zero: none.
    pub token: [u8; 64],
    /// Which Edge this is, in all its connections and, but after a boot of its host, its lives.
    pub edge: [u8; 16],
    /// Number of this connection, higher than those of all earlier ones of this Edge.
    pub connection: u64,
    /// Host of the Edge, which the token names.
    pub host: String,
    /// Who attaches, for the engine's log.
    pub client: String,
}

/// The session is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attached {
    /// Version of this session.
    pub version: u16,
    /// Features of this session.
    pub features: u64,
    /// Bytes of the volume.
    pub size: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// Ownership epoch of the engine; never goes back for a volume.
    pub epoch: u64,
    /// Requests that may be unanswered at once, at most the entries of the ring.
    pub credits: u32,
}

/// Why a session was refused, for an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Stable short code, such as "unknown_volume".
    pub code: String,
    /// What was attempted, on which object.
    pub what: String,
    /// Why it failed.
    pub why: String,
    /// What to do.
    pub fix: String,
}

/// Why a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum CloseReason {
    /// The volume was deleted: there is nothing to come back to.
    Deleted = 1,
    /// The engine stops or lets go of the volume: come back, and wait until it is there.
    Stopping = 2,
    /// Another epoch owns the volume: come back to it.
    Fenced = 3,
    /// The Edge broke the protocol.
    Protocol = 4,
    /// The Edge said goodbye.
    Goodbye = 5,
}

impl CloseReason {
    fn from_wire(reason: u16) -> Result<Self, WireError> {
        Ok(match reason {
            1 => CloseReason::Deleted,
            2 => CloseReason::Stopping,
            3 => CloseReason::Fenced,
            4 => CloseReason::Protocol,
            5 => CloseReason::Goodbye,
            _ => return Err(WireError::Value("reason")),
        })
    }
}

/// A frame of the control connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// See [`FrameKind::Hello`].
    Hello(Hello),
    /// See [`FrameKind::Attached`].
    Attached(Attached),
    /// See [`FrameKind::Refused`].
    Refused(Refusal),
    /// The new size in bytes.
    Resized {
        /// Bytes of the volume.
        size: u64,
    },
    /// Where the volume is served now.
    Moved {
        /// Address of the new owner, as in "10.0.0.7:26203"; empty: ask the registry.
        address: String,
        /// Epoch of the new owner.
        epoch: u64,
    },
    /// The session ends.
    Closed {
        /// Why.
        reason: CloseReason,
        /// One sentence for the log.
        detail: String,
    },
    /// See [`FrameKind::Goodbye`].
    Goodbye,
}

impl Frame {
    /// Its kind.
    pub fn kind(&self) -> FrameKind {
        match self {
            Frame::Hello(_) => FrameKind::Hello,
            Frame::Attached(_) => FrameKind::Attached,
            Frame::Refused(_) => FrameKind::Refused,
            Frame::Resized { .. } => FrameKind::Resized,
            Frame::Moved { .. } => FrameKind::Moved,
            Frame::Closed { .. } => FrameKind::Closed,
            Frame::Goodbye => FrameKind::Goodbye,
        }
    }

    /// Header and body. Texts over [`TEXT_MAX`] bytes are cut.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        self.encode_body(&mut body);
        let header =
            FrameHeader { kind: self.kind(), body_len: body.len() as u32, crc: crc32c(&body) };
        let mut bytes = Vec::with_capacity(FRAME_HEADER_LEN + body.len());
        bytes.extend_from_slice(&header.encode());
        bytes.append(&mut body);
        bytes
    }

    fn encode_body(&self, out: &mut Vec<u8>) {
        match self {
            Frame::Hello(hello) => {
                out.extend_from_slice(&hello.version.to_le_bytes());
                out.extend_from_slice(&u16::from(hello.read_only).to_le_bytes());
                out.extend_from_slice(&hello.entries.to_le_bytes());
                out.extend_from_slice(&hello.features.to_le_bytes());
                out.extend_from_slice(&hello.volume);
                out.extend_from_slice(&hello.token);
                out.extend_from_slice(&hello.edge);
                out.extend_from_slice(&hello.connection.to_le_bytes());
                put_text(out, &hello.host);
                put_text(out, &hello.client);
            }
            Frame::Attached(attached) => {
                out.extend_from_slice(&attached.version.to_le_bytes());
                out.extend_from_slice(&u16::from(attached.read_only).to_le_bytes());
                out.extend_from_slice(&attached.credits.to_le_bytes());
                out.extend_from_slice(&attached.features.to_le_bytes());
                out.extend_from_slice(&attached.size.to_le_bytes());
                out.extend_from_slice(&attached.epoch.to_le_bytes());
            }
            Frame::Refused(refusal) => {
                for text in [&refusal.code, &refusal.what, &refusal.why, &refusal.fix] {
                    put_text(out, text);
                }
            }
            Frame::Resized { size } => out.extend_from_slice(&size.to_le_bytes()),
            Frame::Moved { address, epoch } => {
                out.extend_from_slice(&epoch.to_le_bytes());
                put_text(out, address);
            }
            Frame::Closed { reason, detail } => {
                out.extend_from_slice(&(*reason as u16).to_le_bytes());
                put_text(out, detail);
            }
            Frame::Goodbye => {}
        }
    }

    /// Parses the first frame of `bytes` and says how many bytes it took; `None`: it is not
    /// complete yet. Frames with a payload are not control frames and are refused here.
    ///
    /// # Errors
    /// The connection can't be used any more: frame boundaries are lost.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Frame, usize)>, WireError> {
        let Some(header) = bytes.first_chunk::<FRAME_HEADER_LEN>() else {
            return Ok(None);
        };
        let header = FrameHeader::decode(header)?;
        if matches!(header.kind, FrameKind::Submit | FrameKind::Complete) {
            return Err(WireError::Kind(header.kind as u16));
        }
        let end = FRAME_HEADER_LEN + header.body_len as usize;
        let Some(body) = bytes.get(FRAME_HEADER_LEN..end) else {
            return Ok(None);
        };
        if crc32c(body) != header.crc {
            return Err(WireError::Checksum);
        }
        let mut reader = Reader(body);
        let frame = Self::decode_body(header.kind, &mut reader)?;
        if !reader.0.is_empty() {
            return Err(WireError::Length);
        }
        Ok(Some((frame, end)))
    }

    fn decode_body(kind: FrameKind, reader: &mut Reader<'_>) -> Result<Frame, WireError> {
        Ok(match kind {
            FrameKind::Hello => {
                let (version, read_only) = (reader.u16()?, reader.flag("read_only")?);
                let (entries, features) = (reader.u32()?, reader.u64()?);
                let (volume, token) = (reader.array()?, reader.array()?);
                let (edge, connection) = (reader.array()?, reader.u64()?);
                let (host, client) = (reader.text()?, reader.text()?);
                Layout::new(entries)?;
                Frame::Hello(Hello {
                    version,
                    features,
                    volume,
                    read_only,
                    entries,
                    token,
                    edge,
                    connection,
                    host,
                    client,
                })
            }
            FrameKind::Attached => {
                let (version, read_only) = (reader.u16()?, reader.flag("read_only")?);
                let (credits, features) = (reader.u32()?, reader.u64()?);
                let (size, epoch) = (reader.u64()?, reader.u64()?);
                if credits == 0 {
                    return Err(WireError::Value("credits"));
                }
                Frame::Attached(Attached { version, features, size, read_only, epoch, credits })
            }
            FrameKind::Refused => {
                let (code, what) = (reader.text()?, reader.text()?);
                let (why, fix) = (reader.text()?, reader.text()?);
                Frame::Refused(Refusal { code, what, why, fix })
            }
            FrameKind::Resized => Frame::Resized { size: reader.u64()? },
            FrameKind::Moved => {
                let epoch = reader.u64()?;
                Frame::Moved { address: reader.text()?, epoch }
            }
            FrameKind::Closed => {
                let reason = CloseReason::from_wire(reader.u16()?)?;
                Frame::Closed { reason, detail: reader.text()? }
            }
            FrameKind::Goodbye => Frame::Goodbye,
            FrameKind::Submit | FrameKind::Complete => return Err(WireError::Kind(kind as u16)),
        })
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let mut end = text.len().min(TEXT_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.extend_from_slice(&(end as u16).to_le_bytes());
    out.extend_from_slice(&text.as_bytes()[..end]);
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(WireError::Length)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        self.take(N)?.try_into().map_err(|_| WireError::Length)
    }

    fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_le_bytes)
    }

    fn flag(&mut self, name: &'static str) -> Result<bool, WireError> {
        match self.u16()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(WireError::Value(name)),
        }
    }

    fn text(&mut self) -> Result<String, WireError> {
        let len = self.u16()? as usize;
        if len > TEXT_MAX {
            return Err(WireError::Value("text length"));
        }
        let text = core::str::from_utf8(self.take(len)?).map_err(|_| WireError::Text)?;
        Ok(text.to_string())
    }
}

#[cfg(test)]
mod tests;
