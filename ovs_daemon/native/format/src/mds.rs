//! What the owner of a volume and a node that follows its map send to each other. The carrier
//! delivers bytes in order or breaks; nothing else is asked of it.
//!
//! ```text
//! offset  0         8      10      12        16                 56        60       64
//!         +---------+------+-------+---------+------------------+---------+--------+---------+
//!         | OVSMDS01| kind | flags | payload | fields of the    | CRC32C  | CRC32C | payload |
//!         |         | u16  | u16   | u32     | kind, 40 bytes   | payload | of 60  |         |
//!         +---------+------+-------+---------+------------------+---------+--------+---------+
//!
//! kind               offset 16 ...
//!  1 Hello           volume 16 B, cluster 16 B, epoch u64      flags: version
//!                    payload: the snapshot that a clone starts from (zeroes: none), then the
//!                    ancestors, oldest first, the volume last; 16 B each
//!  2 Standing        sequence u64, crc u32, sco u32
//!  3 Refused         fence u64
//!  4 Reload
//!  5 Sco             epoch u64, sequence before u64, crc before u32, sco u32, sequence u64,
//!                    crc u32                                   payload: entries (see `entry`)
//!  6 Batches         payload: headers as in a SCO file, without the zeroes at the end of each
//!  7 Acknowledged    sequence u64
//!  8 Unable
//!  9 Forget
//! 10 Rejected        why u16
//! ```

use alloc::vec::Vec;

use crate::bytes::{
    Malformed, crc32c, get_id, get_u16, get_u32, get_u64, put_u16, put_u32, put_u64,
};
use crate::entry::{Entry, SLOT, Uuid, decode_entries};
use crate::log::{
    BatchHeader, ENTRIES_AT, HEADER_PAGES_MAX, Link, PAGE, decode_batch_header, decode_sco_header,
};

/// Bytes of a frame without its payload.
pub const FRAME: usize = 64;
/// Version of the protocol.
pub const VERSION: u16 = 1;
/// Largest payload: the entries of the largest SCO.
pub const PAYLOAD_MAX: usize = 4 << 20;
/// First bytes of every frame; a DTL node tells by them who calls.
pub const MAGIC: &[u8; 8] = b"OVSMDS01";

const PAYLOAD_CRC_AT: usize = 56;
const CRC_AT: usize = 60;
/// Bytes of a SCO header that are not always zero.
const SCO_HEADER_USED: usize = 64;
const SCO_BEGIN: &[u8] = b"OVSSCO01";
const BATCH_BEGIN: &[u8] = b"OVSBATCH";

/// Why a hello was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The version is not spoken here.
    Version,
    /// It is another cluster's.
    Cluster,
}

/// A hello; its payload says what the volume was cloned from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Version of the protocol.
    pub version: u16,
    /// The volume.
    pub volume: Uuid,
    /// The cluster.
    pub cluster: Uuid,
    /// The owner's epoch.
    pub epoch: u64,
}

/// A batch in a log: its sequence and the CRC of its header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// Its sequence.
    pub sequence: u64,
    /// CRC of its header.
    pub crc: u32,
}

/// A frame; its payload, if any, follows in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the page on top says what each is")]
pub enum Frame {
    Hello(Hello),
    Standing { sco: u32, end: End },
    Refused { fence: u64 },
    Reload,
    Sco { sco: u32, epoch: u64, before: End, last: End },
    Batches,
    Acknowledged { sequence: u64 },
    Unable,
    Forget,
    Rejected(Rejection),
}

/// What follows a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Bytes.
    pub len: usize,
    crc: u32,
}

impl Payload {
    /// Compares the checksum of what came.
    ///
    /// # Errors
    /// It is not what was sent.
    pub fn check(&self, bytes: &[u8]) -> Result<(), Malformed> {
        let whole = bytes.len() == self.len && crc32c(bytes) == self.crc;
        if whole { Ok(()) } else { Err(Malformed::Checksum) }
    }
}

impl Frame {
    fn kind(&self) -> u16 {
        match self {
            Frame::Hello(_) => 1,
            Frame::Standing { .. } => 2,
            Frame::Refused { .. } => 3,
            Frame::Reload => 4,
            Frame::Sco { .. } => 5,
            Frame::Batches => 6,
            Frame::Acknowledged { .. } => 7,
            Frame::Unable => 8,
            Frame::Forget => 9,
            Frame::Rejected(_) => 10,
        }
    }

    fn has_payload(&self) -> bool {
        matches!(self, Frame::Hello(_) | Frame::Sco { .. } | Frame::Batches)
    }

    /// The frame's bytes, for this payload.
    pub fn encode(&self, payload: &[u8]) -> [u8; FRAME] {
        self.encode_for(Payload { len: payload.len(), crc: crc32c(payload) })
    }

    fn encode_for(&self, payload: Payload) -> [u8; FRAME] {
        let mut out = [0; FRAME];
        out[..8].copy_from_slice(MAGIC);
        put_u16(&mut out, 8, self.kind());
        put_u32(&mut out, 12, payload.len as u32);
        match self {
            Frame::Hello(hello) => {
                put_u16(&mut out, 10, hello.version);
                out[16..32].copy_from_slice(&hello.volume);
                out[32..48].copy_from_slice(&hello.cluster);
                put_u64(&mut out, 48, hello.epoch);
            }
            Frame::Standing { sco, end } => {
                put_u64(&mut out, 16, end.sequence);
                put_u32(&mut out, 24, end.crc);
                put_u32(&mut out, 28, *sco);
            }
            Frame::Sco { sco, epoch, before, last } => {
                put_u64(&mut out, 16, *epoch);
                put_u64(&mut out, 24, before.sequence);
                put_u32(&mut out, 32, before.crc);
                put_u32(&mut out, 36, *sco);
                put_u64(&mut out, 40, last.sequence);
                put_u32(&mut out, 48, last.crc);
            }
            Frame::Refused { fence } => put_u64(&mut out, 16, *fence),
            Frame::Acknowledged { sequence } => put_u64(&mut out, 16, *sequence),
            Frame::Rejected(why) => put_u16(&mut out, 16, *why as u16),
            Frame::Reload | Frame::Batches | Frame::Unable | Frame::Forget => {}
        }
        put_u32(&mut out, PAYLOAD_CRC_AT, payload.crc);
        let crc = crc32c(&out[..CRC_AT]);
        put_u32(&mut out, CRC_AT, crc);
        out
    }

    /// Decodes a frame; every byte must be what a sender of this version writes.
    ///
    /// # Errors
    /// It is no frame, or one with a payload that its kind has not.
    pub fn decode(bytes: &[u8; FRAME]) -> Result<(Self, Payload), Malformed> {
        if &bytes[..8] != MAGIC {
            return Err(Malformed::Magic);
        }
        if get_u32(bytes, CRC_AT) != crc32c(&bytes[..CRC_AT]) {
            return Err(Malformed::Checksum);
        }
        let len = get_u32(bytes, 12) as usize;
        let payload = Payload { len, crc: get_u32(bytes, PAYLOAD_CRC_AT) };
        let number = || get_u64(bytes, 16);
        let frame = match get_u16(bytes, 8) {
            1 => Frame::Hello(Hello {
                version: get_u16(bytes, 10),
                volume: get_id(bytes, 16),
                cluster: get_id(bytes, 32),
                epoch: get_u64(bytes, 48),
            }),
            2 => {
                let end = End { sequence: number(), crc: get_u32(bytes, 24) };
                Frame::Standing { sco: get_u32(bytes, 28), end }
            }
            3 => Frame::Refused { fence: number() },
            4 => Frame::Reload,
            5 => Frame::Sco {
                epoch: number(),
                before: End { sequence: get_u64(bytes, 24), crc: get_u32(bytes, 32) },
                sco: get_u32(bytes, 36),
                last: End { sequence: get_u64(bytes, 40), crc: get_u32(bytes, 48) },
            },
            6 => Frame::Batches,
            7 => Frame::Acknowledged { sequence: number() },
            8 => Frame::Unable,
            9 => Frame::Forget,
            10 => Frame::Rejected(match get_u16(bytes, 16) {
                0 => Rejection::Version,
                1 => Rejection::Cluster,
                _ => return Err(Malformed::Field("why")),
            }),
            _ => return Err(Malformed::Field("kind")),
        };
        if len > PAYLOAD_MAX || (len > 0 && !frame.has_payload()) {
            return Err(Malformed::Field("payload"));
        }
        if frame.encode_for(payload) != *bytes {
            return Err(Malformed::Field("reserved"));
        }
        Ok((frame, payload))
    }
}

/// The payload of a hello.
pub fn encode_origin(base: Option<&Uuid>, ancestors: &[Uuid]) -> Vec<u8> {
    let mut out = base.copied().unwrap_or_default().to_vec();
    out.extend(ancestors.iter().flatten());
    out
}

/// Takes the payload of a hello apart: the snapshot that a clone starts from, and the ancestors.
///
/// # Errors
/// It does not end with the volume.
pub fn decode_origin(
    payload: &[u8],
    volume: &Uuid,
) -> Result<(Option<Uuid>, Vec<Uuid>), Malformed> {
    let (ids, rest) = payload.as_chunks::<16>();
    let (base, ancestors) = ids.split_first().ok_or(Malformed::Short)?;
    if !rest.is_empty() || ancestors.len() > usize::from(u16::MAX) {
        return Err(Malformed::Field("payload"));
    }
    if ancestors.last() != Some(volume) {
        return Err(Malformed::Identity);
    }
    Ok(((*base != [0; 16]).then_some(*base), ancestors.to_vec()))
}

/// The payload of a `Sco`.
pub fn encode_sco(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.len() * SLOT);
    entries.iter().for_each(|entry| entry.encode(&mut out));
    out
}

/// Takes the payload of a `Sco` apart.
///
/// # Errors
/// It is no table of entries.
pub fn decode_sco(payload: &[u8]) -> Result<Vec<Entry>, Malformed> {
    decode_entries(payload)
}

/// Appends what precedes a batch's data in its file: a SCO header, when there is one, and the
/// batch's header, without the zeroes at their ends. False: that is not what `headers` holds.
pub fn put_headers(headers: &[u8], out: &mut Vec<u8>) -> bool {
    let mut rest = headers;
    let sco = if rest.starts_with(SCO_BEGIN) { rest.split_at_checked(PAGE) } else { None };
    if let Some((_, batch)) = sco {
        rest = batch;
    }
    let Some(used) = batch_used(rest).filter(|used| *used <= rest.len()) else { return false };
    if let Some((page, _)) = sco {
        out.extend_from_slice(&page[..SCO_HEADER_USED]);
    }
    out.extend_from_slice(&rest[..used]);
    true
}

/// Bytes of a batch header that are not always zero, from its first ones.
fn batch_used(bytes: &[u8]) -> Option<usize> {
    let (slots, clusters) = (get_u32(bytes, 64) as usize, get_u32(bytes, 68) as usize);
    let most = HEADER_PAGES_MAX * PAGE;
    let begins = bytes.len() >= ENTRIES_AT && bytes.starts_with(BATCH_BEGIN);
    if !begins || slots > most / SLOT || clusters > most / 4 {
        return None;
    }
    let used = ENTRIES_AT + slots * SLOT + clusters * 4;
    (used <= most).then_some(used)
}

/// A header of a log that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Header {
    /// The begin of a SCO, and its CRC.
    Sco(Link, u32),
    /// A batch.
    Batch(BatchHeader),
}

/// Takes the payload of a `Batches` apart: every header is whole, and is the one whose CRC the next
/// one names only if the reader compares them.
///
/// # Errors
/// The first bytes that are no header.
pub fn decode_headers(payload: &[u8]) -> Result<Vec<Header>, Malformed> {
    let mut found = Vec::new();
    let mut page = alloc::vec![0; HEADER_PAGES_MAX * PAGE];
    let mut rest = payload;
    while !rest.is_empty() {
        let is_sco = rest.starts_with(SCO_BEGIN);
        let used = if is_sco { Some(SCO_HEADER_USED) } else { batch_used(rest) };
        let used = used.ok_or(Malformed::Field("slots"))?;
        let (part, after) = rest.split_at_checked(used).ok_or(Malformed::Short)?;
        let pages = if is_sco { 1 } else { usize::from(get_u16(part, 28)) };
        if pages == 0 || pages > HEADER_PAGES_MAX || used > pages * PAGE {
            return Err(Malformed::Field("header pages"));
        }
        page[..used].copy_from_slice(part);
        page[used..pages * PAGE].fill(0);
        found.push(if is_sco {
            let (link, crc) = decode_sco_header(&page)?;
            Header::Sco(link, crc)
        } else {
            Header::Batch(decode_batch_header(&page[..pages * PAGE])?)
        });
        rest = after;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::log::{encode_batch_header, encode_sco_header};

    fn frames() -> [Frame; 11] {
        let hello = Hello { version: VERSION, volume: [7; 16], cluster: [9; 16], epoch: 5 };
        let (before, last) = (End { sequence: 1 << 40, crc: 4 }, End { sequence: 3, crc: 5 });
        [
            Frame::Hello(hello),
            Frame::Standing { sco: 6, end: last },
            Frame::Refused { fence: 6 },
            Frame::Reload,
            Frame::Sco { sco: 8, epoch: 2, before, last },
            Frame::Batches,
            Frame::Acknowledged { sequence: 1 << 33 },
            Frame::Unable,
            Frame::Forget,
            Frame::Rejected(Rejection::Cluster),
            Frame::Rejected(Rejection::Version),
        ]
    }

    #[test]
    fn frames_come_back_as_they_were_and_no_flipped_bit_passes() {
        for frame in frames() {
            let payload: &[u8] = if frame.has_payload() { b"what follows" } else { b"" };
            let mut bytes = frame.encode(payload);
            let (back, followed) = Frame::decode(&bytes).unwrap();
            assert_eq!((back, followed.len), (frame, payload.len()));
            assert_eq!(followed.check(payload), Ok(()));
            assert_eq!(followed.check(b"what followz"), Err(Malformed::Checksum));
            for bit in 0..FRAME * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(Frame::decode(&bytes).is_err(), "{frame:?} bit {bit}");
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
        let misplaced = Frame::Reload.encode(b"more");
        assert_eq!(Frame::decode(&misplaced), Err(Malformed::Field("payload")));
        let large = Frame::Batches.encode(&vec![0; PAYLOAD_MAX + 1]);
        assert_eq!(Frame::decode(&large), Err(Malformed::Field("payload")));
    }

    #[test]
    fn an_origin_comes_back_and_ends_with_its_volume() {
        let ancestors = [[1; 16], [2; 16]];
        for base in [None, Some([3; 16])] {
            let payload = encode_origin(base.as_ref(), &ancestors);
            let back = decode_origin(&payload, &[2; 16]);
            assert_eq!(back, Ok((base, ancestors.to_vec())));
            assert_eq!(decode_origin(&payload, &[4; 16]), Err(Malformed::Identity));
            assert!(decode_origin(&payload[..33], &[2; 16]).is_err());
        }
        assert_eq!(decode_origin(&[], &[2; 16]), Err(Malformed::Short));
    }

    #[test]
    fn headers_come_back_without_their_zeroes_and_no_flipped_bit_passes() {
        let link = |sequence, previous_crc| Link {
            log: [7; 16],
            sco: 3,
            epoch: 2,
            sequence,
            durable_sequence: 8,
            previous_crc,
        };
        let mut headers = vec![0; PAGE];
        let crc = encode_sco_header(&link(8, 5), (&mut headers[..]).try_into().unwrap());
        let entries = vec![Entry::Data { lba: 5, clusters: 3 }, Entry::SnapshotCreated([1; 16])];
        let mut batch = vec![];
        let last = encode_batch_header(&link(9, crc), &entries, &[1, 2, 3], &mut batch);
        headers.extend_from_slice(&batch);
        let mut out = vec![];
        assert!(put_headers(&headers, &mut out));
        let mut next = vec![];
        encode_batch_header(&link(10, last), &[Entry::Closed], &[], &mut next);
        assert!(put_headers(&next, &mut out));
        assert_eq!(out.len(), 64 + (80 + 3 * 16 + 3 * 4) + (80 + 16));
        let found = decode_headers(&out).unwrap();
        let whole = |bytes: &[u8]| Header::Batch(decode_batch_header(bytes).unwrap());
        assert_eq!(found, [Header::Sco(link(8, 5), crc), whole(&batch), whole(&next)]);
        for bit in 0..out.len() * 8 {
            out[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_headers(&out).is_err(), "bit {bit}");
            out[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(!put_headers(&[0; PAGE], &mut out));
        assert!(!put_headers(&headers[..70], &mut out));
    }

    #[test]
    fn the_entries_of_a_sco_come_back() {
        let entries = vec![Entry::Trim { lba: 4, clusters: 2 }, Entry::Closed];
        assert_eq!(decode_sco(&encode_sco(&entries)), Ok(entries));
    }
}
