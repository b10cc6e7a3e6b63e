//! A stored fragment of an object: a header page, the payload, a CRC32C for each 4 KiB of it.
//!
//! The last 80 bytes of the header page are the header that liberasurecode puts before a payload.
//! So the bytes from 4016 on, header and payload, are a fragment as stock liberasurecode (pyeclib)
//! reads it, while the payload starts at a page. liberasurecode's backend is `isa_l_rs_cauchy`.
//!
//! For a data or global parity fragment the liberasurecode header belongs to the code (k, m) of
//! the piece. For local parity it belongs to the code (members of the group, local) whose data
//! fragments are the payloads of the group's members, in order: give these the header that
//! [`StoredFragment::local_member`] makes, and liberasurecode decodes the group, too.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use crate::bytes::{Malformed, crc32c, get_u16, get_u32, get_u64, put_u16, put_u32, put_u64};
use crate::log::{PAGE, VERSION};

/// Where liberasurecode's header starts.
pub const ERASURE_AT: usize = PAGE - ERASURE_HEADER;
/// Bytes of liberasurecode's header.
pub const ERASURE_HEADER: usize = 80;
/// Most bytes of an object's name.
pub const NAME_MAX: usize = 1024;

const MAGIC: &[u8; 8] = b"OVSFRAG1";
const CRC_AT: usize = 60;
const NAME_AT: usize = 64;

// liberasurecode's own numbers (erasurecode.h, erasurecode_version.h, isa_l_rs_cauchy.c).
const ERASURE_MAGIC: u32 = 0x0b0c_5ecc;
const ERASURE_METADATA: usize = 59;
const CHECKSUM_CRC32: u8 = 2;
const BACKEND_ISA_L_RS_CAUCHY: u8 = 7;
const BACKEND_VERSION: u32 = 0x02_0e_01;
// The first release that writes CRC32 as zlib does: any later one accepts it.
const LIBRARY_VERSION: u32 = 0x01_06_02;

/// CRC32 as in zlib, the checksum of liberasurecode.
pub fn crc32(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iso_hdlc(bytes)
}

/// What liberasurecode's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErasureHeader {
    /// Number of the fragment within its code.
    pub index: u32,
    /// Bytes of the payload.
    pub payload_len: u32,
    /// Bytes that the code's data fragments hold together, padding not counted.
    pub original_len: u64,
    /// [`crc32`] of the payload.
    pub crc: u32,
}

impl ErasureHeader {
    /// Its 80 bytes.
    pub fn encode(&self) -> [u8; ERASURE_HEADER] {
        let mut bytes = [0; ERASURE_HEADER];
        put_u32(&mut bytes, 0, self.index);
        put_u32(&mut bytes, 4, self.payload_len);
        put_u64(&mut bytes, 12, self.original_len);
        bytes[20] = CHECKSUM_CRC32;
        put_u32(&mut bytes, 21, self.crc);
        bytes[54] = BACKEND_ISA_L_RS_CAUCHY;
        put_u32(&mut bytes, 55, BACKEND_VERSION);
        put_u32(&mut bytes, 59, ERASURE_MAGIC);
        put_u32(&mut bytes, 63, LIBRARY_VERSION);
        let crc = crc32(&bytes[..ERASURE_METADATA]);
        put_u32(&mut bytes, 67, crc);
        bytes
    }

    /// The inverse of [`Self::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() < ERASURE_HEADER {
            return Err(Malformed::Short);
        }
        if get_u32(bytes, 59) != ERASURE_MAGIC {
            return Err(Malformed::Magic);
        }
        if get_u32(bytes, 67) != crc32(&bytes[..ERASURE_METADATA]) {
            return Err(Malformed::Checksum);
        }
        let header = Self {
            index: get_u32(bytes, 0),
            payload_len: get_u32(bytes, 4),
            original_len: get_u64(bytes, 12),
            crc: get_u32(bytes, 21),
        };
        if bytes[..ERASURE_HEADER] != header.encode() {
            return Err(Malformed::Field("backend"));
        }
        Ok(header)
    }
}

/// The header page of a stored fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredFragment {
    /// Name of the object.
    pub object: String,
    /// Bytes of the object.
    pub object_len: u64,
    /// Bytes of the object before this piece.
    pub piece_at: u64,
    /// Number of this piece of the object, from 0.
    pub piece: u32,
    /// k, m, Domains and local parity fragments of a group.
    pub code: [u8; 4],
    /// Number of the fragment.
    pub fragment: u8,
    /// How many of k + m make the object count as stored.
    pub acknowledge: u8,
    /// Whether the object is sealed (see [`crate::seal`]).
    pub sealed: bool,
    /// The put that wrote it: fragments of different puts never belong together.
    pub generation: u64,
    /// CRC32C of the CRCs behind the payload.
    pub crcs_crc: u32,
    /// liberasurecode's header.
    pub erasure: ErasureHeader,
}

impl StoredFragment {
    /// The name of its file; `None` when no object has such a fragment.
    pub fn name(&self) -> Option<FragmentName> {
        let [data, parity, domains, local] = self.code;
        let piece_len = u64::from(self.erasure.payload_len) * u64::from(data);
        let pieces = self.object_len.checked_div(piece_len)?;
        let rest = u64::from(pieces * piece_len < self.object_len);
        Some(FragmentName {
            generation: self.generation,
            pieces: u32::try_from((pieces + rest).max(1)).ok()?,
            data,
            parity,
            acknowledge: self.acknowledge,
            domains,
            local,
            piece: self.piece,
            fragment: self.fragment,
        })
    }

    /// Bytes of the payload.
    pub fn payload_len(&self) -> usize {
        self.erasure.payload_len as usize
    }

    /// Bytes of the CRCs behind the payload.
    pub fn crcs_len(&self) -> usize {
        self.payload_len() / PAGE * 4
    }

    /// Bytes of the whole file.
    pub fn len(&self) -> u64 {
        (PAGE + self.payload_len() + self.crcs_len()) as u64
    }

    /// Never: there is a header page at least.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The header of the same payload as data fragment `index` of the local code of its group,
    /// which has `members` of them.
    pub fn local_member(&self, index: u32, members: u32) -> ErasureHeader {
        let original_len = u64::from(self.erasure.payload_len) * u64::from(members);
        ErasureHeader { index, original_len, ..self.erasure }
    }

    /// The page.
    ///
    /// # Panics
    /// With a name of more than [`NAME_MAX`] bytes, which [`crate::fragment`]'s callers refuse.
    pub fn encode(&self) -> [u8; PAGE] {
        let name = self.object.as_bytes();
        assert!(name.len() <= NAME_MAX);
        let mut page = [0; PAGE];
        page[..8].copy_from_slice(MAGIC);
        put_u16(&mut page, 8, VERSION);
        put_u16(&mut page, 10, name.len() as u16);
        page[12..16].copy_from_slice(&self.code);
        page[16] = self.fragment;
        page[17] = self.acknowledge;
        page[18] = self.sealed.into();
        put_u32(&mut page, 20, self.piece);
        put_u64(&mut page, 24, self.piece_at);
        put_u64(&mut page, 32, self.object_len);
        put_u32(&mut page, 40, self.erasure.payload_len);
        put_u32(&mut page, 44, self.crcs_crc);
        put_u64(&mut page, 48, self.generation);
        page[NAME_AT..NAME_AT + name.len()].copy_from_slice(name);
        page[ERASURE_AT..].copy_from_slice(&self.erasure.encode());
        let crc = crc32c(&page);
        put_u32(&mut page, CRC_AT, crc);
        page
    }

    /// The inverse of [`Self::encode`].
    pub fn decode(page: &[u8]) -> Result<Self, Malformed> {
        let page: &[u8; PAGE] =
            page.get(..PAGE).and_then(|p| p.try_into().ok()).ok_or(Malformed::Short)?;
        if &page[..8] != MAGIC {
            return Err(Malformed::Magic);
        }
        let version = get_u16(page, 8);
        if version > VERSION {
            return Err(Malformed::Version(version));
        }
        let mut zeroed = *page;
        put_u32(&mut zeroed, CRC_AT, 0);
        if get_u32(page, CRC_AT) != crc32c(&zeroed) {
            return Err(Malformed::Checksum);
        }
        let name_len = usize::from(get_u16(page, 10));
        if name_len > NAME_MAX {
            return Err(Malformed::Field("name length"));
        }
        let name = core::str::from_utf8(&page[NAME_AT..NAME_AT + name_len]);
        if page[18] > 1 {
            return Err(Malformed::Field("sealed"));
        }
        let erasure = ErasureHeader::decode(&page[ERASURE_AT..])?;
        if erasure.payload_len != get_u32(page, 40)
            || !(erasure.payload_len as usize).is_multiple_of(PAGE)
        {
            return Err(Malformed::Field("payload length"));
        }
        Ok(Self {
            object: name.map_err(|_| Malformed::Field("name"))?.to_owned(),
            object_len: get_u64(page, 32),
            piece_at: get_u64(page, 24),
            piece: get_u32(page, 20),
            code: [page[12], page[13], page[14], page[15]],
            fragment: page[16],
            acknowledge: page[17],
            sealed: page[18] == 1,
            generation: get_u64(page, 48),
            crcs_crc: get_u32(page, 44),
            erasure,
        })
    }
}

/// Name of a fragment's file within the folder of its object: enough to tell, without opening any
/// file, which puts of the object are complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FragmentName {
    /// The put that wrote it.
    pub generation: u64,
    /// Pieces of the object.
    pub pieces: u32,
    /// k.
    pub data: u8,
    /// m.
    pub parity: u8,
    /// How many of k + m make the object count as stored.
    pub acknowledge: u8,
    /// Domains that they are spread over.
    pub domains: u8,
    /// Local parity fragments in each Domain.
    pub local: u8,
    /// Number of the piece.
    pub piece: u32,
    /// Number of the fragment.
    pub fragment: u8,
}

impl core::fmt::Display for FragmentName {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { generation, pieces, data, parity, acknowledge, domains, local, piece, fragment } =
            self;
        write!(
            f,
            "{generation:016x}.{pieces:08x}.{data:02x}{parity:02x}{acknowledge:02x}\
             {domains:02x}{local:02x}.{piece:08x}.{fragment:02x}"
        )
    }
}

impl FragmentName {
    /// The inverse of its text; `None` for what is no such name.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let mut hex = |digits| {
            let part = parts.next().filter(|part| part.len() == digits)?;
            u64::from_str_radix(part, 16).ok()
        };
        let (generation, pieces, code) = (hex(16)?, hex(8)? as u32, hex(10)?);
        let (piece, fragment) = (hex(8)? as u32, hex(2)? as u8);
        let name = Self {
            generation,
            pieces,
            data: (code >> 32) as u8,
            parity: (code >> 24) as u8,
            acknowledge: (code >> 16) as u8,
            domains: (code >> 8) as u8,
            local: code as u8,
            piece,
            fragment,
        };
        let sound = name.data > 0
            && piece < pieces
            && name.acknowledge > name.data
            && u16::from(name.acknowledge) <= u16::from(name.data) + u16::from(name.parity)
            // Signs and capitals would be other names for the same fragment.
            && alloc::string::ToString::to_string(&name) == text;
        sound.then_some(name)
    }
}

/// How the name of a mark ends.
const DELETED: &str = ".deleted";

/// The name of the mark, beside the fragments of an object, that a put of it was deleted.
pub fn mark_name(generation: u64) -> alloc::string::String {
    alloc::format!("{generation:016x}{DELETED}")
}

/// The name of the mark, in a log's folder, that the whole log was deleted for good.
pub const LOG_MARK: &str = "log.deleted";

/// The put that a mark says was deleted; `None`: it is no name of a mark.
pub fn marked_generation(name: &str) -> Option<u64> {
    let generation = u64::from_str_radix(name.strip_suffix(DELETED)?, 16).ok()?;
    (mark_name(generation) == name).then_some(generation)
}

/// The CRCs that follow a payload, little endian.
pub fn payload_crcs(payload: &[u8]) -> Vec<u8> {
    let mut crcs = Vec::with_capacity(payload.len() / PAGE * 4);
    for cluster in payload.chunks(PAGE) {
        crcs.extend(crc32c(cluster).to_le_bytes());
    }
    crcs
}

/// Both kinds of checksums of a payload that comes in stretches, while each is in the processor's
/// cache.
#[derive(Clone, Debug)]
pub struct PayloadSums {
    crcs: Vec<u8>,
    whole: crc_fast::Digest,
}

impl PayloadSums {
    /// For a payload of so many bytes.
    pub fn new(payload_len: usize) -> Self {
        let whole = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32IsoHdlc);
        Self { crcs: Vec::with_capacity(payload_len.div_ceil(PAGE) * 4), whole }
    }

    /// The next stretch: whole 4 KiB, unless it is the last.
    pub fn add(&mut self, stretch: &[u8]) {
        self.add_known(stretch, &[]);
    }

    /// The same of a stretch whose first 4 KiB have these CRC32C, as far as they are known. They are
    /// not computed again: if the bytes have changed since, whoever compares them will see it.
    pub fn add_known(&mut self, stretch: &[u8], known: &[Option<u32>]) {
        for (number, cluster) in stretch.chunks(PAGE).enumerate() {
            let crc = known.get(number).copied().flatten();
            self.crcs.extend(crc.unwrap_or_else(|| crc32c(cluster)).to_le_bytes());
        }
        self.whole.update(stretch);
    }

    /// [`payload_crcs`] and [`crc32`] of all of it.
    pub fn finish(self) -> (Vec<u8>, u32) {
        (self.crcs, self.whole.finalize() as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment() -> StoredFragment {
        StoredFragment {
            object: "log/sco/00000001".into(),
            object_len: 70_000,
            piece_at: 32_768,
            piece: 1,
            code: [4, 2, 3, 1],
            fragment: 7,
            acknowledge: 5,
            sealed: false,
            generation: 0x0102_0304_0506_0708,
            crcs_crc: 5,
            erasure: ErasureHeader {
                index: 2,
                payload_len: 8192,
                original_len: 16_384,
                crc: 0x1234_5678,
            },
        }
    }

    #[test]
    fn a_header_page_reads_back_and_no_flipped_bit_passes() {
        let page = fragment().encode();
        assert_eq!(StoredFragment::decode(&page), Ok(fragment()));
        for bit in 0..PAGE * 8 {
            let mut damaged = page;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(StoredFragment::decode(&damaged).is_err(), "bit {bit}");
        }
        assert_eq!(StoredFragment::decode(&page[..4000]), Err(Malformed::Short));
    }

    #[test]
    fn a_fragment_of_a_plain_object_is_what_it_was_before_there_were_sealed_ones() {
        let plain = fragment().encode();
        assert_eq!(plain[18..20], [0, 0]);
        let sealed = StoredFragment { sealed: true, ..fragment() };
        assert_eq!(StoredFragment::decode(&sealed.encode()), Ok(sealed));
    }

    #[test]
    fn sums_of_stretches_are_those_of_the_whole() {
        let payload: Vec<u8> = (0..20 * PAGE + 9).map(|at| (at * 11 + at / 999) as u8).collect();
        for stretch in [PAGE, 4 * PAGE, 7 * PAGE, 40 * PAGE] {
            let mut sums = PayloadSums::new(payload.len());
            payload.chunks(stretch).for_each(|one| sums.add(one));
            assert_eq!(sums.finish(), (payload_crcs(&payload), crc32(&payload)));
        }
    }

    #[test]
    fn checksums_that_are_known_are_taken_over() {
        let payload: Vec<u8> = (0..PAGE * 3 + 5).map(|at| (at * 11) as u8).collect();
        let mut sums = PayloadSums::new(payload.len());
        sums.add_known(&payload, &[None, Some(0x0102_0304)]);
        let mut expected = payload_crcs(&payload);
        expected[4..8].copy_from_slice(&[4, 3, 2, 1]);
        assert_eq!(sums.finish(), (expected, crc32(&payload)));
    }

    #[test]
    fn names_read_back_and_nothing_else_is_one() {
        let name = FragmentName {
            generation: 0xfeed,
            pieces: 4,
            data: 16,
            parity: 8,
            acknowledge: 18,
            domains: 3,
            local: 2,
            piece: 3,
            fragment: 29,
        };
        let text = alloc::string::ToString::to_string(&name);
        assert_eq!(text, "000000000000feed.00000004.1008120302.00000003.1d");
        assert_eq!(FragmentName::parse(&text), Some(name));
        for wrong in [
            "",
            "000000000000feed.00000004.1008120302.00000004.1d",
            "000000000000feed.00000004.1008100302.00000003.1d",
            "000000000000feed.00000004.1008190302.00000003.1d",
            "000000000000FEED.00000004.1008120302.00000003.1d",
            "000000000000feed.00000004.1008120302.00000003.1d.",
            "000000000000feed.00000004.1008120302.00000003",
            "+00000000000feed.00000004.1008120302.00000003.1d",
        ] {
            assert_eq!(FragmentName::parse(wrong), None, "{wrong}");
        }
    }

    /// The bytes that pyeclib 1.8.0 (liberasurecode 1.8.0) writes for fragment 5 of 4+2 of the
    /// bytes 0, 1 .. 255, 64 times, but for the library's version, which is ours.
    #[test]
    fn the_erasure_header_is_liberasurecodes() {
        let theirs = "0500000000100000000000000040000000000000026dbae8510000000000000000000000\
                      00000000000000000000000000000000000007010e0200cc5e0c0b00080100\
                      5866b078000000000000000000";
        let mut theirs: Vec<u8> = (0..160)
            .step_by(2)
            .map(|at| u8::from_str_radix(&theirs[at..at + 2], 16).unwrap())
            .collect();
        theirs[63..67].copy_from_slice(&LIBRARY_VERSION.to_le_bytes());
        let header =
            ErasureHeader { index: 5, payload_len: 4096, original_len: 16_384, crc: 0x51e8_ba6d };
        assert_eq!(header.encode()[..], theirs);
        assert_eq!(ErasureHeader::decode(&theirs), Ok(header));
    }
}
