//! Little-endian fields at fixed places: the one way in which this crate reads and writes bytes.

/// Why stored or received bytes are not what they claim to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Fewer bytes than the structure needs.
    Short,
    /// Another structure, or nothing at all (zeroes).
    Magic,
    /// Written by a newer version of this program.
    Version(u16),
    /// The checksum does not match.
    Checksum,
    /// It belongs to another log, SCO or place: a misdirected write or a mixed-up file.
    Identity,
    /// A field has a value that no writer produces; its name.
    Field(&'static str),
}

impl core::fmt::Display for Malformed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Malformed::Short => write!(f, "it ends before the structure does"),
            Malformed::Magic => write!(f, "it does not start with the structure's magic"),
            Malformed::Version(v) => write!(f, "it has format version {v}, which is newer"),
            Malformed::Checksum => write!(f, "its checksum does not match"),
            Malformed::Identity => write!(f, "it belongs to another log, SCO or place"),
            Malformed::Field(name) => write!(f, "its field {name} has an impossible value"),
        }
    }
}

/// CRC32C (Castagnoli; RFC 3720, section 12.1).
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

macro_rules! field {
    ($get:ident, $put:ident, $type:ty) => {
        /// Reads a field; 0 when it is past the end (callers check the length first).
        pub(crate) fn $get(bytes: &[u8], at: usize) -> $type {
            let mut raw = [0; core::mem::size_of::<$type>()];
            if let Some(part) = bytes.get(at..at + raw.len()) {
                raw.copy_from_slice(part);
            }
            <$type>::from_le_bytes(raw)
        }
        /// Writes a field.
        pub(crate) fn $put(bytes: &mut [u8], at: usize, value: $type) {
            let raw = value.to_le_bytes();
            bytes[at..at + raw.len()].copy_from_slice(&raw);
        }
    };
}

field!(get_u16, put_u16, u16);
field!(get_u32, put_u32, u32);
field!(get_u64, put_u64, u64);

/// Reads 16 bytes.
pub(crate) fn get_id(bytes: &[u8], at: usize) -> [u8; 16] {
    let mut raw = [0; 16];
    if let Some(part) = bytes.get(at..at + 16) {
        raw.copy_from_slice(part);
    }
    raw
}
