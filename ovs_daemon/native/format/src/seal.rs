//! A sealed object: compressed, encrypted, or both, in chunks that can be read one by one.
//!
//! ```text
//! chunks       one after the other, each of its own length
//! table        for each chunk: length and whether it is packed, CRC32C of the stored bytes
//! seal         the last 256 bytes: what the object is, and the table's checksum
//! ```
//! All chunks but the last hold equally many plain bytes. So whoever has the table, which one read
//! of the object's end brings, finds any byte with one read more. The table comes last because
//! lengths are known only then, and an object is written front to back.
//!
//! A chunk that compression does not make smaller is stored as it is (not *packed*). An encrypted
//! chunk is followed by its tag. The tag in the seal is over the seal and the table, so that chunks
//! can be neither exchanged nor left out. The salt makes the object's own key of the cluster's.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use crate::bytes::{Malformed, crc32c, get_u16, get_u32, get_u64, put_u16, put_u32, put_u64};
use crate::log::VERSION;

/// Bytes of the seal.
pub const SEAL: usize = 256;
/// Bytes of an entry of the table.
pub const ENTRY: usize = 8;
/// Bytes of a tag.
pub const TAG: usize = 16;
/// Bytes of a salt.
pub const SALT: usize = 32;
/// Most bytes of a key's name.
pub const KEY_NAME_MAX: usize = 128;

const MAGIC: &[u8; 8] = b"OVSSEAL1";
const TAG_AT: usize = 64;
const KEY_AT: usize = 80;
const CRC_AT: usize = SEAL - 4;
const CHUNK_LOG2: core::ops::RangeInclusive<u8> = 12..=20;
/// An object has 256 MiB of data and what belongs to it; with chunks of 4 KiB there are few more.
const CHUNKS_MAX: u64 = 1 << 20;
const PACKED: u32 = 1 << 31;

/// How chunks are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// LZ4 blocks.
    Lz4,
    /// Zstandard frames.
    Zstd,
}

/// How chunks are encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encryption {
    /// Not at all.
    #[default]
    None,
    /// AES-256 in Galois/Counter Mode (NIST SP 800-38D).
    Aes256Gcm,
}

/// The end of a sealed object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// How its packed chunks are compressed.
    pub compression: Compression,
    /// How it is encrypted.
    pub encryption: Encryption,
    /// Plain bytes of a chunk are 2 to the power of this.
    pub chunk_log2: u8,
    /// Plain bytes of the object.
    pub plain_len: u64,
    /// CRC32C of the table.
    pub table_crc: u32,
    /// Drawn for this object; zeroes when it is not encrypted.
    pub salt: [u8; SALT],
    /// Over seal and table; zeroes when it is not encrypted.
    pub tag: [u8; TAG],
    /// Name of the key; empty when it is not encrypted.
    pub key: String,
}

/// Where a chunk lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedChunk {
    /// Offset in the sealed object.
    pub at: u64,
    /// Stored bytes, with the tag.
    pub len: u32,
    /// Whether it is compressed.
    pub packed: bool,
    /// CRC32C of the stored bytes.
    pub crc: u32,
}

impl Seal {
    /// Plain bytes of each chunk but the last.
    pub fn chunk_len(&self) -> usize {
        1 << self.chunk_log2
    }

    /// Number of chunks.
    pub fn chunks(&self) -> usize {
        (self.plain_len.div_ceil(1 << self.chunk_log2)) as usize
    }

    /// Plain bytes of a chunk.
    pub fn plain_len_of(&self, chunk: usize) -> usize {
        let rest = self.plain_len.saturating_sub((chunk as u64) << self.chunk_log2);
        rest.min(1 << self.chunk_log2) as usize
    }

    /// Bytes of the table.
    pub fn table_len(&self) -> usize {
        self.chunks() * ENTRY
    }

    /// Bytes that encryption adds to a chunk.
    pub fn tag_len(&self) -> usize {
        if self.encryption == Encryption::None { 0 } else { TAG }
    }

    /// What the tag is over, beside the table.
    pub fn signed(&self) -> [u8; SEAL] {
        let mut bytes = Self { tag: [0; TAG], ..self.clone() }.encode();
        bytes[CRC_AT..].fill(0);
        bytes
    }

    /// Its bytes.
    ///
    /// # Panics
    /// With a key's name of more than [`KEY_NAME_MAX`] bytes, which callers refuse.
    pub fn encode(&self) -> [u8; SEAL] {
        let key = self.key.as_bytes();
        assert!(key.len() <= KEY_NAME_MAX);
        let mut bytes = [0; SEAL];
        bytes[..8].copy_from_slice(MAGIC);
        put_u16(&mut bytes, 8, VERSION);
        bytes[10] = match self.compression {
            Compression::None => 0,
            Compression::Lz4 => 1,
            Compression::Zstd => 2,
        };
        bytes[11] = match self.encryption {
            Encryption::None => 0,
            Encryption::Aes256Gcm => 1,
        };
        bytes[12] = self.chunk_log2;
        put_u16(&mut bytes, 14, key.len() as u16);
        put_u64(&mut bytes, 16, self.plain_len);
        put_u32(&mut bytes, 24, self.table_crc);
        bytes[32..TAG_AT].copy_from_slice(&self.salt);
        bytes[TAG_AT..KEY_AT].copy_from_slice(&self.tag);
        bytes[KEY_AT..KEY_AT + key.len()].copy_from_slice(key);
        let crc = crc32c(&bytes[..CRC_AT]);
        put_u32(&mut bytes, CRC_AT, crc);
        bytes
    }

    /// The inverse of [`Self::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let bytes: &[u8; SEAL] =
            bytes.get(..SEAL).and_then(|b| b.try_into().ok()).ok_or(Malformed::Short)?;
        if &bytes[..8] != MAGIC {
            return Err(Malformed::Magic);
        }
        if get_u32(bytes, CRC_AT) != crc32c(&bytes[..CRC_AT]) {
            return Err(Malformed::Checksum);
        }
        let version = get_u16(bytes, 8);
        if version > VERSION {
            return Err(Malformed::Version(version));
        }
        let compression = match bytes[10] {
            0 => Compression::None,
            1 => Compression::Lz4,
            2 => Compression::Zstd,
            _ => return Err(Malformed::Field("compression")),
        };
        let encryption = match bytes[11] {
            0 => Encryption::None,
            1 => Encryption::Aes256Gcm,
            _ => return Err(Malformed::Field("encryption")),
        };
        let key_len = usize::from(get_u16(bytes, 14));
        if key_len > KEY_NAME_MAX || (key_len == 0) != (encryption == Encryption::None) {
            return Err(Malformed::Field("key name length"));
        }
        let key = core::str::from_utf8(&bytes[KEY_AT..KEY_AT + key_len]);
        let mut seal = Self {
            compression,
            encryption,
            chunk_log2: bytes[12],
            plain_len: get_u64(bytes, 16),
            table_crc: get_u32(bytes, 24),
            salt: [0; SALT],
            tag: [0; TAG],
            key: key.map_err(|_| Malformed::Field("key name"))?.to_owned(),
        };
        seal.salt.copy_from_slice(&bytes[32..TAG_AT]);
        seal.tag.copy_from_slice(&bytes[TAG_AT..KEY_AT]);
        if !CHUNK_LOG2.contains(&seal.chunk_log2) {
            return Err(Malformed::Field("chunk size"));
        }
        if seal.plain_len > CHUNKS_MAX << seal.chunk_log2 {
            return Err(Malformed::Field("plain length"));
        }
        Ok(seal)
    }

    /// The table of these chunks, whose offsets follow from their lengths.
    pub fn encode_table(chunks: &[SealedChunk]) -> Vec<u8> {
        let mut table = Vec::with_capacity(chunks.len() * ENTRY);
        for chunk in chunks {
            let packed = if chunk.packed { PACKED } else { 0 };
            table.extend((chunk.len | packed).to_le_bytes());
            table.extend(chunk.crc.to_le_bytes());
        }
        table
    }

    /// The chunks of an object of `stored_len` bytes that has this seal and this table.
    pub fn decode_table(
        &self,
        table: &[u8],
        stored_len: u64,
    ) -> Result<Vec<SealedChunk>, Malformed> {
        if table.len() != self.table_len() {
            return Err(Malformed::Short);
        }
        if crc32c(table) != self.table_crc {
            return Err(Malformed::Checksum);
        }
        let mut chunks = Vec::with_capacity(self.chunks());
        let mut at = 0;
        for (number, entry) in table.chunks_exact(ENTRY).enumerate() {
            let word = get_u32(entry, 0);
            let (packed, len) = (word & PACKED != 0, word & !PACKED);
            let body = (len as usize).checked_sub(self.tag_len()).unwrap_or(usize::MAX);
            let plain = self.plain_len_of(number);
            // What compression does not make smaller is stored as it is.
            let sound = if packed { (1..plain).contains(&body) } else { body == plain };
            if !sound || (packed && self.compression == Compression::None) {
                return Err(Malformed::Field("chunk length"));
            }
            chunks.push(SealedChunk { at, len, packed, crc: get_u32(entry, 4) });
            at += u64::from(len);
        }
        if at + (table.len() + SEAL) as u64 != stored_len {
            return Err(Malformed::Field("stored length"));
        }
        Ok(chunks)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn seal() -> Seal {
        Seal {
            compression: Compression::Lz4,
            encryption: Encryption::Aes256Gcm,
            chunk_log2: 14,
            plain_len: 40_000,
            table_crc: 0,
            salt: [3; SALT],
            tag: [4; TAG],
            key: "key-1".into(),
        }
    }

    fn lens(lens: &[(u32, bool)]) -> Vec<u8> {
        let chunk =
            |(len, packed): &(u32, bool)| SealedChunk { at: 0, len: *len, packed: *packed, crc: 9 };
        Seal::encode_table(&lens.iter().map(chunk).collect::<Vec<_>>())
    }

    #[test]
    fn a_seal_reads_back_and_no_flipped_bit_passes() {
        let bytes = seal().encode();
        assert_eq!(Seal::decode(&bytes), Ok(seal()));
        for bit in 0..SEAL * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Seal::decode(&damaged).is_err(), "bit {bit}");
        }
        assert_eq!(Seal::decode(&bytes[1..]), Err(Malformed::Short));
    }

    #[test]
    fn a_table_says_where_chunks_lie() {
        let table = lens(&[(116, true), (16_400, false), (7248, false)]);
        let seal = Seal { table_crc: crc32c(&table), ..seal() };
        let stored = 116 + 16_400 + 7248 + 3 * 8 + 256;
        let chunks = seal.decode_table(&table, stored).unwrap();
        let places: Vec<(u64, u32, bool)> =
            chunks.iter().map(|c| (c.at, c.len, c.packed)).collect();
        assert_eq!(places, [(0, 116, true), (116, 16_400, false), (16_516, 7248, false)]);
        let wrong = Err(Malformed::Field("stored length"));
        assert_eq!(seal.decode_table(&table, stored + 1), wrong);
        let mut flipped = table.clone();
        flipped[9] ^= 1;
        assert_eq!(seal.decode_table(&flipped, stored), Err(Malformed::Checksum));
        assert_eq!(seal.decode_table(&table[8..], stored), Err(Malformed::Short));
    }

    #[test]
    fn lengths_that_no_writer_produces_are_refused() {
        let whole = (16_400, false);
        for bad in [
            vec![(16_400, true), whole, (7248, false)],
            vec![(16, true), whole, (7248, false)],
            vec![(15, true), whole, (7248, false)],
            vec![(16_399, false), whole, (7248, false)],
            vec![whole, whole, (16_400, false)],
        ] {
            let table = lens(&bad);
            let seal = Seal { table_crc: crc32c(&table), ..seal() };
            let stored = bad.iter().map(|(len, _)| u64::from(*len)).sum::<u64>() + 24 + 256;
            let outcome = seal.decode_table(&table, stored);
            assert_eq!(outcome, Err(Malformed::Field("chunk length")), "{bad:?}");
        }
        let table = lens(&[(100, true), (200, true), (300, true)]);
        let plain = Seal { compression: Compression::None, table_crc: crc32c(&table), ..seal() };
        let outcome = plain.decode_table(&table, 600 + 24 + 256);
        assert_eq!(outcome, Err(Malformed::Field("chunk length")));
    }
}
