//! What a cluster and an OSD server send to each other. The carrier delivers bytes in order or
//! breaks; many requests are in flight, and answers come in any order, each with its request's tag.
//!
//! ```text
//! offset 0        8    10   12   16  24   28     32   40   48   52  60     64
//!        +--------+----+----+----+---+----+------+----+----+----+---+------+----------
//!        |OVSOSDW1|kind|code|meta|tag|data|CRC32C| a  | b  | c  | 0 |CRC32C| meta data
//!        |        |u16 |u16 |u32 |u64|u32 |of    |u64 |u64 |u32 |8 B|of 60 |
//!        |        |    |    |    |   |    |meta  |    |    |    |   |      |
//!        +--------+----+----+----+---+----+------+----+----+----+---+------+----------
//!
//! kind            meta                     a           b            c       code     data
//!  1 Hello        cluster, OSD, nonce                                       version
//!  2 Challenge    nonce, proof
//!  3 Proof        proof
//!  4 Welcome      release, or nothing                                       version
//!  5 Refused      why, in words                                             reason
//! 16 Put          path                                                               the file
//! 17 Get          path                     payload     offset       length
//! 18 Header       path
//! 19 Names        folder, 0, after                                  limit
//! 20 Delete       path
//! 21 DeleteFolder folder
//! 22 Sweep        folder
//! 23 Space
//! 24 PutRecord    name, 0, text
//! 25 Record       name
//! 26 Claims
//! 27 Keep         path                     payload     offset                         block, CRC32Cs
//! 28 Figures
//! 64 Done         text of a Record, Figures                                 1 = there
//! 65 Failed       why, in words                                             cause
//! 66 Bytes                                                                           bytes
//! 67 Listed       names, each with 0                                        1 = more
//! 68 Room                                  total       free
//! ```
//!
//! **The code of a request** is its [`Class`]: 0 is a guest's, 1 the upkeep's, which guests' go before.
//! Whoever knows no classes sends 0 and does not look at what comes, so that it needs no new version;
//! what is neither counts as a guest's.
//!
//! In a *Put* the data is a fragment's file, in *Bytes* that answers a *Get* it is 4 KiB after 4 KiB
//! and then their CRC32C, as in the file: whoever receives it compares them. What answers a *Header*
//! or *Claims* are pages that have checksums of their own. So `meta` has a checksum here, `data` has
//! not.
//!
//! *Keep* and *Figures* are for OSDs of role cache. With a *Keep* comes a block: [`BLOCK`] bytes of a
//! fragment's payload from a multiple of that on, or what is left there, and behind them their
//! checksums as in *Bytes*. What answers *Figures* is JSON.
//!
//! **Who speaks** is proved by both, with HMAC-SHA256 under the cluster's key over what
//! [`Side::signed`] says: both nonces are in it, so that nothing said before can be said again.

use alloc::vec::Vec;

use crate::bytes::{
    Malformed, crc32c, get_id, get_u16, get_u32, get_u64, put_u16, put_u32, put_u64,
};

/// Bytes of a frame without meta and data.
pub const FRAME: usize = 64;
/// Version of the protocol.
pub const VERSION: u16 = 1;
/// Most bytes of meta.
pub const META_MAX: usize = 256 << 10;
/// Most bytes of data: the largest fragment, its header page and its checksums.
pub const DATA_MAX: usize = (64 << 20) + (64 << 10) + 4096;
/// Most bytes of one [`Kind::Get`].
pub const GET_MAX: u32 = 4 << 20;
/// What a cache OSD keeps as one: so many bytes of a fragment's payload.
pub const BLOCK: u64 = 64 << 10;
/// Bytes of a nonce, and of a proof.
pub const NONCE: usize = 32;
/// Requests of one connection that may be unanswered.
pub const IN_FLIGHT_MAX: usize = 256;

const MAGIC: &[u8; 8] = b"OVSOSDW1";
const CRC_AT: usize = 60;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the page on top says what each is")]
pub enum Kind {
    Hello = 1,
    Challenge = 2,
    Proof = 3,
    Welcome = 4,
    Refused = 5,
    Put = 16,
    Get = 17,
    Header = 18,
    Names = 19,
    Delete = 20,
    DeleteFolder = 21,
    Sweep = 22,
    Space = 23,
    PutRecord = 24,
    Record = 25,
    Claims = 26,
    Keep = 27,
    Figures = 28,
    Done = 64,
    Failed = 65,
    Bytes = 66,
    Listed = 67,
    Room = 68,
}

const KINDS: [Kind; 23] = [
    Kind::Hello,
    Kind::Challenge,
    Kind::Proof,
    Kind::Welcome,
    Kind::Refused,
    Kind::Put,
    Kind::Get,
    Kind::Header,
    Kind::Names,
    Kind::Delete,
    Kind::DeleteFolder,
    Kind::Sweep,
    Kind::Space,
    Kind::PutRecord,
    Kind::Record,
    Kind::Claims,
    Kind::Keep,
    Kind::Figures,
    Kind::Done,
    Kind::Failed,
    Kind::Bytes,
    Kind::Listed,
    Kind::Room,
];

impl Kind {
    /// Whether it asks an OSD for something.
    pub fn is_request(self) -> bool {
        (16..64).contains(&(self as u16))
    }

    /// Whether it answers a request.
    pub fn is_answer(self) -> bool {
        self as u16 >= 64
    }

    fn carries_data(self) -> bool {
        matches!(self, Kind::Put | Kind::Keep | Kind::Bytes)
    }
}

/// Why a hello was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The version is not spoken here.
    Version = 1,
    /// The OSD belongs to another cluster.
    Cluster = 2,
    /// No such OSD is served here.
    NoOsd = 3,
    /// The proof is not one of who has the cluster's key.
    Proof = 4,
}

impl Reason {
    /// The inverse of `as u16`.
    pub fn of(code: u16) -> Option<Self> {
        [Self::Version, Self::Cluster, Self::NoOsd, Self::Proof]
            .into_iter()
            .find(|reason| *reason as u16 == code)
    }
}

/// For whom a request is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Class {
    /// For a guest, or for whom nobody said.
    #[default]
    Guest = 0,
    /// For the upkeep, whose requests nobody waits for.
    Upkeep = 1,
}

impl Class {
    /// Of the code of a request.
    pub fn of(code: u16) -> Self {
        if code == Self::Upkeep as u16 { Self::Upkeep } else { Self::Guest }
    }
}

/// A frame; meta and data follow in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// See the top of the file, as for all other fields.
    pub code: u16,
    /// Bytes of meta.
    pub meta: u32,
    /// Of the request; 0 for what is none.
    pub tag: u64,
    /// Bytes of data.
    pub data: u32,
    /// [`crc32c`] of the meta.
    pub meta_crc: u32,
    /// A number.
    pub a: u64,
    /// A number.
    pub b: u64,
    /// A number.
    pub c: u32,
}

impl Frame {
    /// A frame with this meta and so many bytes of data.
    pub fn new(kind: Kind, tag: u64, meta: &[u8], data: usize) -> Self {
        let (meta, meta_crc) = (meta.len() as u32, crc32c(meta));
        Self { kind, code: 0, meta, tag, data: data as u32, meta_crc, a: 0, b: 0, c: 0 }
    }

    /// Bytes that follow.
    pub fn body(&self) -> usize {
        self.meta as usize + self.data as usize
    }

    /// The frame's bytes.
    pub fn encode(&self) -> [u8; FRAME] {
        let mut out = [0; FRAME];
        out[..8].copy_from_slice(MAGIC);
        put_u16(&mut out, 8, self.kind as u16);
        put_u16(&mut out, 10, self.code);
        put_u32(&mut out, 12, self.meta);
        put_u64(&mut out, 16, self.tag);
        put_u32(&mut out, 24, self.data);
        put_u32(&mut out, 28, self.meta_crc);
        put_u64(&mut out, 32, self.a);
        put_u64(&mut out, 40, self.b);
        put_u32(&mut out, 48, self.c);
        let crc = crc32c(&out[..CRC_AT]);
        put_u32(&mut out, CRC_AT, crc);
        out
    }

    /// Decodes a frame; every byte must be what a sender of this version writes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let bytes: &[u8; FRAME] =
            bytes.get(..FRAME).and_then(|b| b.try_into().ok()).ok_or(Malformed::Short)?;
        if &bytes[..8] != MAGIC {
            return Err(Malformed::Magic);
        }
        if get_u32(bytes, CRC_AT) != crc32c(&bytes[..CRC_AT]) {
            return Err(Malformed::Checksum);
        }
        let number = get_u16(bytes, 8);
        let kind = KINDS.into_iter().find(|kind| *kind as u16 == number);
        let frame = Self {
            kind: kind.ok_or(Malformed::Field("kind"))?,
            code: get_u16(bytes, 10),
            meta: get_u32(bytes, 12),
            tag: get_u64(bytes, 16),
            data: get_u32(bytes, 24),
            meta_crc: get_u32(bytes, 28),
            a: get_u64(bytes, 32),
            b: get_u64(bytes, 40),
            c: get_u32(bytes, 48),
        };
        if frame.meta as usize > META_MAX {
            return Err(Malformed::Field("meta"));
        }
        let most = if frame.kind.carries_data() { DATA_MAX } else { 0 };
        if frame.data as usize > most {
            return Err(Malformed::Field("data"));
        }
        if frame.encode() != *bytes {
            return Err(Malformed::Field("reserved"));
        }
        Ok(frame)
    }

    /// Whether this is the meta that was sent.
    pub fn check_meta(&self, meta: &[u8]) -> Result<(), Malformed> {
        if meta.len() != self.meta as usize || crc32c(meta) != self.meta_crc {
            return Err(Malformed::Checksum);
        }
        Ok(())
    }
}

/// The meta of a [`Kind::Hello`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The cluster.
    pub cluster: [u8; 16],
    /// The OSD; all zero: the server, which says what its OSDs are.
    pub osd: [u8; 16],
    /// A number that was never used before.
    pub nonce: [u8; NONCE],
}

impl Hello {
    /// Its bytes.
    pub fn encode(&self) -> [u8; 32 + NONCE] {
        let mut bytes = [0; 32 + NONCE];
        bytes[..16].copy_from_slice(&self.cluster);
        bytes[16..32].copy_from_slice(&self.osd);
        bytes[32..].copy_from_slice(&self.nonce);
        bytes
    }

    /// The inverse of [`Self::encode`].
    pub fn decode(meta: &[u8]) -> Result<Self, Malformed> {
        if meta.len() != 32 + NONCE {
            return Err(Malformed::Short);
        }
        let mut nonce = [0; NONCE];
        nonce.copy_from_slice(&meta[32..]);
        Ok(Self { cluster: get_id(meta, 0), osd: get_id(meta, 16), nonce })
    }

    /// Whether it is for the server instead of one OSD.
    pub fn is_for_server(&self) -> bool {
        self.osd == [0; 16]
    }
}

/// The meta of a [`Kind::Challenge`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// A number that was never used before.
    pub nonce: [u8; NONCE],
    /// That the server has the cluster's key.
    pub proof: [u8; NONCE],
}

impl Challenge {
    /// Its bytes.
    pub fn encode(&self) -> [u8; 2 * NONCE] {
        let mut bytes = [0; 2 * NONCE];
        bytes[..NONCE].copy_from_slice(&self.nonce);
        bytes[NONCE..].copy_from_slice(&self.proof);
        bytes
    }

    /// The inverse of [`Self::encode`].
    pub fn decode(meta: &[u8]) -> Result<Self, Malformed> {
        let meta: &[u8; 2 * NONCE] = meta.try_into().map_err(|_| Malformed::Short)?;
        let (mut nonce, mut proof) = ([0; NONCE], [0; NONCE]);
        nonce.copy_from_slice(&meta[..NONCE]);
        proof.copy_from_slice(&meta[NONCE..]);
        Ok(Self { nonce, proof })
    }
}

/// Whose proof it is: one side's is not the other's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who said hello.
    Client,
    /// The OSD server.
    Server,
}

impl Side {
    /// The bytes that are signed.
    pub fn signed(self, hello: &Hello, nonce: &[u8; NONCE]) -> Vec<u8> {
        let purpose: &[u8] = match self {
            Side::Client => b"vstorage osd client 1",
            Side::Server => b"vstorage osd server 1",
        };
        let mut bytes = purpose.to_vec();
        bytes.extend_from_slice(&hello.encode());
        bytes.extend_from_slice(nonce);
        bytes
    }
}

/// Whether a text is a path within an OSD: no part of it is empty or begins with a dot.
pub fn is_path(text: &str) -> bool {
    text.len() <= crate::fragment::NAME_MAX + 128
        && !text.bytes().any(|byte| byte == 0)
        && text.split('/').all(|part| !part.is_empty() && !part.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_as_they_were_and_no_flipped_bit_passes() {
        for kind in KINDS {
            let data = if kind.carries_data() { 8192 } else { 0 };
            let frame =
                Frame { code: 3, a: 1, b: 1 << 40, c: 9, ..Frame::new(kind, 7, b"a", data) };
            let mut bytes = frame.encode();
            assert_eq!(Frame::decode(&bytes), Ok(frame));
            assert_eq!((frame.check_meta(b"a"), frame.body()), (Ok(()), 1 + data));
            assert_eq!(frame.check_meta(b"b"), Err(Malformed::Checksum));
            for bit in 0..FRAME * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(Frame::decode(&bytes).is_err(), "{frame:?} bit {bit}");
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    #[test]
    fn what_is_too_large_or_not_to_be_there_is_refused() {
        let frame = Frame::new(Kind::Put, 1, b"", DATA_MAX + 1);
        assert_eq!(Frame::decode(&frame.encode()), Err(Malformed::Field("data")));
        let frame = Frame::new(Kind::Get, 1, b"", 1);
        assert_eq!(Frame::decode(&frame.encode()), Err(Malformed::Field("data")));
        let frame = Frame { meta: META_MAX as u32 + 1, ..Frame::new(Kind::Get, 1, b"", 0) };
        assert_eq!(Frame::decode(&frame.encode()), Err(Malformed::Field("meta")));
        assert_eq!(Frame::decode(&frame.encode()[1..]), Err(Malformed::Short));
    }

    #[test]
    fn a_handshake_reads_back_and_signs_every_field_of_it() {
        let hello = Hello { cluster: [1; 16], osd: [2; 16], nonce: [3; NONCE] };
        assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
        assert_eq!(Hello::decode(&hello.encode()[1..]), Err(Malformed::Short));
        let challenge = Challenge { nonce: [4; NONCE], proof: [5; NONCE] };
        assert_eq!(Challenge::decode(&challenge.encode()), Ok(challenge));
        assert_eq!(Challenge::decode(&[0; 63]), Err(Malformed::Short));
        let all = [
            Side::Client.signed(&hello, &[4; NONCE]),
            Side::Server.signed(&hello, &[4; NONCE]),
            Side::Client.signed(&hello, &[5; NONCE]),
            Side::Client.signed(&Hello { cluster: [9; 16], ..hello }, &[4; NONCE]),
            Side::Client.signed(&Hello { osd: [0; 16], ..hello }, &[4; NONCE]),
            Side::Client.signed(&Hello { nonce: [9; NONCE], ..hello }, &[4; NONCE]),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(all[at + 1..].iter().all(|other| one != other), "{at}");
        }
    }

    #[test]
    fn a_path_leads_nowhere_else() {
        assert!(is_path("log/sco/00000001.obj/00.01"));
        for wrong in ["", "/a", "a/", "a//b", "..", "a/../b", ".put-1", "a/.b", "a\0b"] {
            assert!(!is_path(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn a_class_that_is_not_known_is_a_guests() {
        for class in [Class::Guest, Class::Upkeep] {
            assert_eq!(Class::of(class as u16), class);
        }
        assert_eq!([Class::of(2), Class::of(u16::MAX)], [Class::Guest; 2]);
    }

    #[test]
    fn reasons_have_numbers() {
        assert_eq!(Reason::of(Reason::Proof as u16), Some(Reason::Proof));
        assert_eq!(Reason::of(0), None);
    }
}
