//! What an owner and its DTL node send to each other. The carrier delivers bytes in order or
//! breaks; nothing else is asked of it.
//!
//! ```text
//! offset  0         8      10      12        16                    60       64
//!         +---------+------+-------+---------+---------------------+--------+---------+
//!         | OVSDTL01| kind | flags | payload | fields of the kind  | CRC32C | payload |
//!         |         | u16  | u16   | u32     | 44 bytes            | of 60  |         |
//!         +---------+------+-------+---------+---------------------+--------+---------+
//!
//! kind                offset 16 ...
//!  1 Hello            volume 16 B, cluster 16 B, epoch u64, generation u32   flags: version | role << 8
//!  2 Greeted          begin u64, sequence u64, crc u32, 0 u32, fence u64     flags: 1 = something
//!                                                                                   is held, 2 = suspect
//!  3 Refused          fence u64
//!  4 Resume
//!  5 Fresh
//!  6 Append           payload: whole batches of one SCO, as in its file
//!  7 Acknowledged     sequence u64
//!  8 Trim             below u32
//!  9 File             sco u32, 0 u32, offset u64    payload: bytes of the file
//! 10 End              files u32
//! 11 Rejected         why u16
//! 12 Done
//! ```
//!
//! The payload of an Append has checksums of its own (batch headers, clusters); that of a File is
//! parsed as a write buffer's file is. So only the header has a checksum here.

use crate::bytes::{
    Malformed, crc32c, get_id, get_u16, get_u32, get_u64, put_u16, put_u32, put_u64,
};
use crate::entry::Uuid;

/// Bytes of a frame without its payload.
pub const FRAME: usize = 64;
/// Version of the protocol.
pub const VERSION: u8 = 1;
/// Largest payload: the largest batch with its headers, and some.
pub const PAYLOAD_MAX: usize = 8 << 20;

const MAGIC: &[u8; 8] = b"OVSDTL01";
const CRC_AT: usize = 60;

/// Why somebody says hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// To send batches.
    Owner,
    /// To become the owner: it wants everything that is held.
    Successor,
    /// To have the DTL node forget the volume.
    Remover,
}

/// Why a hello was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The version is not spoken here.
    Version,
    /// It is another cluster's.
    Cluster,
    /// The DTL node's disk fails.
    Failed,
}

/// A hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Version of the protocol.
    pub version: u8,
    /// What for.
    pub role: Role,
    /// The volume.
    pub volume: Uuid,
    /// The cluster.
    pub cluster: Uuid,
    /// The sender's epoch.
    pub epoch: u64,
    /// Number of the connection among those of this epoch.
    pub generation: u32,
}

/// The answer to a hello: what is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeted {
    /// Sequence of the last batch before the first one.
    pub begin: u64,
    /// Sequence and header CRC of the last batch; `None`: nothing is held.
    pub end: Option<(u64, u32)>,
    /// The node lost power since, or did not know the volume.
    pub suspect: bool,
    /// The epoch of the fence.
    pub fence: u64,
}

/// A frame; its payload, if any, follows in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the page on top says what each is")]
pub enum Frame {
    Hello(Hello),
    Greeted(Greeted),
    Refused { fence: u64 },
    Resume,
    Fresh,
    Append { payload: u32 },
    Acknowledged { sequence: u64 },
    Trim { below: u32 },
    File { sco: u32, offset: u64, payload: u32 },
    End { files: u32 },
    Rejected(Rejection),
    Done,
}

impl Frame {
    /// Bytes that follow the frame.
    pub fn payload(&self) -> usize {
        match self {
            Frame::Append { payload } | Frame::File { payload, .. } => *payload as usize,
            _ => 0,
        }
    }

    fn kind(&self) -> u16 {
        match self {
            Frame::Hello(_) => 1,
            Frame::Greeted(_) => 2,
            Frame::Refused { .. } => 3,
            Frame::Resume => 4,
            Frame::Fresh => 5,
            Frame::Append { .. } => 6,
            Frame::Acknowledged { .. } => 7,
            Frame::Trim { .. } => 8,
            Frame::File { .. } => 9,
            Frame::End { .. } => 10,
            Frame::Rejected(_) => 11,
            Frame::Done => 12,
        }
    }

    /// The frame's bytes.
    pub fn encode(&self) -> [u8; FRAME] {
        let mut out = [0; FRAME];
        out[..8].copy_from_slice(MAGIC);
        put_u16(&mut out, 8, self.kind());
        put_u32(&mut out, 12, self.payload() as u32);
        match self {
            Frame::Hello(hello) => put_hello(hello, &mut out),
            Frame::Greeted(greeted) => put_greeted(greeted, &mut out),
            Frame::Refused { fence } => put_u64(&mut out, 16, *fence),
            Frame::Acknowledged { sequence } => put_u64(&mut out, 16, *sequence),
            Frame::Trim { below } => put_u32(&mut out, 16, *below),
            Frame::File { sco, offset, .. } => {
                put_u32(&mut out, 16, *sco);
                put_u64(&mut out, 24, *offset);
            }
            Frame::End { files } => put_u32(&mut out, 16, *files),
            Frame::Rejected(why) => put_u16(&mut out, 16, *why as u16),
            Frame::Resume | Frame::Fresh | Frame::Append { .. } | Frame::Done => {}
        }
        let crc = crc32c(&out[..CRC_AT]);
        put_u32(&mut out, CRC_AT, crc);
        out
    }

    /// Decodes a frame; every byte must be what a sender of this version writes.
    pub fn decode(bytes: &[u8; FRAME]) -> Result<Self, Malformed> {
        if &bytes[..8] != MAGIC {
            return Err(Malformed::Magic);
        }
        if get_u32(bytes, CRC_AT) != crc32c(&bytes[..CRC_AT]) {
            return Err(Malformed::Checksum);
        }
        let payload = get_u32(bytes, 12);
        let number = || get_u64(bytes, 16);
        let frame = match get_u16(bytes, 8) {
            1 => Frame::Hello(get_hello(bytes)?),
            2 => Frame::Greeted(get_greeted(bytes)),
            3 => Frame::Refused { fence: number() },
            4 => Frame::Resume,
            5 => Frame::Fresh,
            6 => Frame::Append { payload },
            7 => Frame::Acknowledged { sequence: number() },
            8 => Frame::Trim { below: get_u32(bytes, 16) },
            9 => Frame::File { sco: get_u32(bytes, 16), offset: get_u64(bytes, 24), payload },
            10 => Frame::End { files: get_u32(bytes, 16) },
            11 => Frame::Rejected(get_rejection(bytes)?),
            12 => Frame::Done,
            _ => return Err(Malformed::Field("kind")),
        };
        if frame.payload() > PAYLOAD_MAX {
            return Err(Malformed::Field("payload"));
        }
        if frame.encode() != *bytes {
            return Err(Malformed::Field("reserved"));
        }
        Ok(frame)
    }
}

fn put_hello(hello: &Hello, out: &mut [u8; FRAME]) {
    put_u16(out, 10, u16::from(hello.version) | (hello.role as u16) << 8);
    out[16..32].copy_from_slice(&hello.volume);
    out[32..48].copy_from_slice(&hello.cluster);
    put_u64(out, 48, hello.epoch);
    put_u32(out, 56, hello.generation);
}

fn get_hello(bytes: &[u8]) -> Result<Hello, Malformed> {
    let flags = get_u16(bytes, 10);
    let role = match flags >> 8 {
        0 => Role::Owner,
        1 => Role::Successor,
        2 => Role::Remover,
        _ => return Err(Malformed::Field("role")),
    };
    Ok(Hello {
        version: flags as u8,
        role,
        volume: get_id(bytes, 16),
        cluster: get_id(bytes, 32),
        epoch: get_u64(bytes, 48),
        generation: get_u32(bytes, 56),
    })
}

fn put_greeted(greeted: &Greeted, out: &mut [u8; FRAME]) {
    let flags = u16::from(greeted.end.is_some()) | u16::from(greeted.suspect) << 1;
    put_u16(out, 10, flags);
    let (sequence, crc) = greeted.end.unwrap_or_default();
    put_u64(out, 16, greeted.begin);
    put_u64(out, 24, sequence);
    put_u32(out, 32, crc);
    put_u64(out, 40, greeted.fence);
}

fn get_greeted(bytes: &[u8]) -> Greeted {
    let flags = get_u16(bytes, 10);
    let end = (get_u64(bytes, 24), get_u32(bytes, 32));
    Greeted {
        begin: get_u64(bytes, 16),
        end: (flags & 1 != 0).then_some(end),
        suspect: flags & 2 != 0,
        fence: get_u64(bytes, 40),
    }
}

fn get_rejection(bytes: &[u8]) -> Result<Rejection, Malformed> {
    match get_u16(bytes, 16) {
        0 => Ok(Rejection::Version),
        1 => Ok(Rejection::Cluster),
        2 => Ok(Rejection::Failed),
        _ => Err(Malformed::Field("why")),
    }
}

/// Bytes of a fence file.
pub const FENCE: usize = 64;
const FENCE_MAGIC: &[u8; 8] = b"OVSFENCE";

/// What a DTL node remembers of a volume besides its batches: file `<dtl_dir>/<uuid>/fence`.
///
/// ```text
/// offset  0          8         24        32          36            40   60
///         +----------+---------+---------+-----------+-------------+----+--------+
///         | OVSFENCE | volume  | epoch   | suspect   | version = 1 | 0  | CRC32C |
///         |          | 16 B    | u64     | u32: 0, 1 | u32         |    | of 60  |
///         +----------+---------+---------+-----------+-------------+----+--------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The volume.
    pub volume: Uuid,
    /// Everything from older epochs is refused.
    pub epoch: u64,
    /// What is held may be less than what was acknowledged.
    pub suspect: bool,
}

impl Fence {
    /// The file's bytes.
    pub fn encode(&self) -> [u8; FENCE] {
        let mut out = [0; FENCE];
        out[..8].copy_from_slice(FENCE_MAGIC);
        out[8..24].copy_from_slice(&self.volume);
        put_u64(&mut out, 24, self.epoch);
        put_u32(&mut out, 32, self.suspect.into());
        put_u32(&mut out, 36, 1);
        let crc = crc32c(&out[..CRC_AT]);
        put_u32(&mut out, CRC_AT, crc);
        out
    }

    /// Decodes a fence file.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let bytes = bytes.get(..FENCE).ok_or(Malformed::Short)?;
        if &bytes[..8] != FENCE_MAGIC {
            return Err(Malformed::Magic);
        }
        if get_u32(bytes, CRC_AT) != crc32c(&bytes[..CRC_AT]) {
            return Err(Malformed::Checksum);
        }
        let (volume, epoch) = (get_id(bytes, 8), get_u64(bytes, 24));
        let fence = Fence { volume, epoch, suspect: get_u32(bytes, 32) == 1 };
        if fence.encode() != *bytes {
            return Err(Malformed::Field("reserved"));
        }
        Ok(fence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames() -> [Frame; 14] {
        let hello = Hello {
            version: VERSION,
            role: Role::Successor,
            volume: [7; 16],
            cluster: [9; 16],
            epoch: 5,
            generation: 3,
        };
        let greeted = Greeted { begin: 4, end: Some((9, 77)), suspect: true, fence: 5 };
        [
            Frame::Hello(hello),
            Frame::Hello(Hello { role: Role::Owner, ..hello }),
            Frame::Greeted(greeted),
            Frame::Greeted(Greeted { end: None, suspect: false, ..greeted }),
            Frame::Refused { fence: 6 },
            Frame::Resume,
            Frame::Fresh,
            Frame::Append { payload: 8192 },
            Frame::Acknowledged { sequence: 1 << 40 },
            Frame::Trim { below: 7 },
            Frame::File { sco: 3, offset: 1 << 33, payload: 1 << 20 },
            Frame::End { files: 2 },
            Frame::Rejected(Rejection::Cluster),
            Frame::Done,
        ]
    }

    #[test]
    fn frames_come_back_as_they_were_and_no_flipped_bit_passes() {
        for frame in frames() {
            let mut bytes = frame.encode();
            assert_eq!(Frame::decode(&bytes), Ok(frame));
            for bit in 0..FRAME * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(Frame::decode(&bytes).is_err(), "{frame:?} bit {bit}");
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
        let large = Frame::Append { payload: PAYLOAD_MAX as u32 + 1 }.encode();
        assert_eq!(Frame::decode(&large), Err(Malformed::Field("payload")));
    }

    #[test]
    fn a_fence_comes_back_as_it_was_and_no_flipped_bit_passes() {
        let fence = Fence { volume: [1; 16], epoch: 9, suspect: true };
        let mut bytes = fence.encode();
        assert_eq!(Fence::decode(&bytes), Ok(fence));
        for bit in 0..FENCE * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Fence::decode(&bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(Fence::decode(&bytes[..63]), Err(Malformed::Short));
    }
}
