//! The claim: one page in the folder of an OSD that says whose it is and where it stands.

pub mod wire;

use alloc::borrow::ToOwned;
use alloc::string::String;

use crate::bytes::{Malformed, crc32c, get_id, get_u16, get_u32, put_u16, put_u32};
use crate::log::{PAGE, VERSION};

/// Name of the file in the OSD's folder.
pub const CLAIM_NAME: &str = "osd.claim";
/// Most bytes of the name of a Domain or node.
pub const PLACE_MAX: usize = 255;

const MAGIC: &[u8; 8] = b"OVSOSD01";
const CRC_AT: usize = 60;
const DOMAIN_AT: usize = 64;
const NODE_AT: usize = 320;

/// What an OSD is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// It keeps fragments.
    #[default]
    Capacity = 0,
    /// It is part of its Domain's read cache: what is on it may be lost at any time.
    Cache = 1,
}

impl Role {
    /// As people write it.
    pub fn text(self) -> &'static str {
        match self {
            Self::Capacity => "capacity",
            Self::Cache => "cache",
        }
    }

    /// The inverse of [`Self::text`].
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Capacity, Self::Cache].into_iter().find(|role| role.text() == text)
    }
}

/// Whose an OSD is, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The cluster that stores its fragments there. No other may.
    pub cluster: [u8; 16],
    /// The OSD, for life.
    pub osd: [u8; 16],
    /// Name of its Domain.
    pub domain: String,
    /// Name of its node.
    pub node: String,
    /// What it is for.
    pub role: Role,
}

impl Claim {
    /// The page.
    ///
    /// # Panics
    /// With a name of over [`PLACE_MAX`] bytes, which callers refuse.
    pub fn encode(&self) -> [u8; PAGE] {
        let mut page = [0; PAGE];
        page[..8].copy_from_slice(MAGIC);
        page[8..24].copy_from_slice(&self.cluster);
        put_u16(&mut page, 28, VERSION);
        page[32..48].copy_from_slice(&self.osd);
        put_u16(&mut page, 48, self.domain.len() as u16);
        put_u16(&mut page, 50, self.node.len() as u16);
        put_u16(&mut page, 52, self.role as u16);
        for (at, name) in [(DOMAIN_AT, &self.domain), (NODE_AT, &self.node)] {
            assert!(name.len() <= PLACE_MAX);
            page[at..at + name.len()].copy_from_slice(name.as_bytes());
        }
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
        let version = get_u16(page, 28);
        if version > VERSION {
            return Err(Malformed::Version(version));
        }
        let mut zeroed = *page;
        put_u32(&mut zeroed, CRC_AT, 0);
        if get_u32(page, CRC_AT) != crc32c(&zeroed) {
            return Err(Malformed::Checksum);
        }
        let name = |at: usize, len: u16, field| {
            let bytes = page.get(at..at + usize::from(len).min(PLACE_MAX + 1));
            let text = bytes.and_then(|bytes| core::str::from_utf8(bytes).ok());
            text.map(str::to_owned)
                .filter(|_| usize::from(len) <= PLACE_MAX)
                .ok_or(Malformed::Field(field))
        };
        let role = match get_u16(page, 52) {
            0 => Role::Capacity,
            1 => Role::Cache,
            _ => return Err(Malformed::Field("role")),
        };
        Ok(Self {
            role,
            cluster: get_id(page, 8),
            osd: get_id(page, 32),
            domain: name(DOMAIN_AT, get_u16(page, 48), "domain")?,
            node: name(NODE_AT, get_u16(page, 50), "node")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_reads_back_and_no_flipped_bit_passes() {
        let claim = Claim {
            cluster: [1; 16],
            osd: [2; 16],
            domain: "dc1".to_owned(),
            node: "host-7".to_owned(),
            role: Role::Cache,
        };
        let page = claim.encode();
        assert_eq!(Claim::decode(&page), Ok(claim));
        for bit in 0..PAGE * 8 {
            let mut damaged = page;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Claim::decode(&damaged).is_err(), "bit {bit}");
        }
        assert_eq!(Claim::decode(&page[1..]), Err(Malformed::Short));
    }
}
