//! Attach tokens: the leave to attach one volume from one host, signed with the cluster's key.
//!
//! Whoever holds the key may make them, and whoever holds it can check them without asking anybody.
//! The daemon of the host that attaches makes one (`ovs_daemon/control/tokens.py`); the engine that
//! owns the volume checks it before a session over TCP is opened.
//!
//! ```text
//!  0 version u8 (1 or 2)   1 may write u8   2 zero [6]   8 expires u64 (seconds since 1970, UTC)
//! 16 generation u64   24 zero [8]   32 HMAC-SHA256 [32] over what [`Token::signed`] says = 64 bytes
//! ```
//!
//! The generation is that of the volume's attachments when the token was made: it is raised when one
//! is taken away that somebody else serves, and tokens of an earlier one open nothing any more
//! (`machines::edge::Door`). Version 1 is generation 0, the same bytes as before there were
//! generations, so that only a volume of which something was taken needs engines that know them.

use alloc::vec::Vec;

use super::WireError;

/// Bytes of a token.
pub const TOKEN_LEN: usize = 64;
/// Bytes of its signature.
pub const MAC_LEN: usize = 32;
const VERSION: u8 = 1;
/// That of tokens with a generation.
const VERSION_GENERATION: u8 = 2;
/// What the signed bytes begin with, so that no other use of the key can be taken for a token.
const PURPOSE: &[u8] = b"vstorage attach 1";
const PURPOSE_GENERATION: &[u8] = b"vstorage attach 2";

/// A token that parses; whether it is genuine is for its checker to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// The session may write.
    pub may_write: bool,
    /// It opens no session from this moment on: seconds since 1970, UTC.
    pub expires: u64,
    /// Of the volume's attachments, when it was made.
    pub generation: u64,
    /// The signature.
    pub mac: [u8; MAC_LEN],
}

impl Token {
    /// Its bytes.
    pub fn encode(&self) -> [u8; TOKEN_LEN] {
        let mut bytes = [0; TOKEN_LEN];
        bytes[0] = if self.generation == 0 { VERSION } else { VERSION_GENERATION };
        bytes[1] = u8::from(self.may_write);
        bytes[8..16].copy_from_slice(&self.expires.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.generation.to_le_bytes());
        bytes[32..].copy_from_slice(&self.mac);
        bytes
    }

    /// Parses bytes from a peer; `None`: all are zero, it has no token.
    ///
    /// # Errors
    /// Another version, or bytes in use that this version does not define.
    pub fn decode(bytes: &[u8; TOKEN_LEN]) -> Result<Option<Self>, WireError> {
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if !matches!(bytes[0], VERSION | VERSION_GENERATION) {
            return Err(WireError::Value("token version"));
        }
        let may_write = match bytes[1] {
            0 => false,
            1 => true,
            _ => return Err(WireError::Value("token mode")),
        };
        if bytes[2..8].iter().chain(&bytes[24..32]).any(|byte| *byte != 0) {
            return Err(WireError::Reserved);
        }
        let number = |at: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(number)
        };
        let (expires, generation) = (number(8), number(16));
        if (bytes[0] == VERSION) != (generation == 0) {
            return Err(WireError::Value("token generation"));
        }
        let mut mac = [0; MAC_LEN];
        mac.copy_from_slice(&bytes[32..]);
        Ok(Some(Self { may_write, expires, generation, mac }))
    }

    /// The bytes that are signed: purpose, volume, mode, expiry, generation if there is one, and, to
    /// the end, the host's name.
    pub fn signed(&self, volume: &[u8; 16], host: &str) -> Vec<u8> {
        let purpose = if self.generation == 0 { PURPOSE } else { PURPOSE_GENERATION };
        let mut bytes = purpose.to_vec();
        bytes.extend_from_slice(volume);
        bytes.push(u8::from(self.may_write));
        bytes.extend_from_slice(&self.expires.to_le_bytes());
        if self.generation != 0 {
            bytes.extend_from_slice(&self.generation.to_le_bytes());
        }
        bytes.extend_from_slice(host.as_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_and_every_bit_counts() {
        assert_eq!(Token::decode(&[0; TOKEN_LEN]), Ok(None));
        for generation in [0, 1, u64::MAX] {
            let expires = 0x0102_0304_0506;
            let token = Token { may_write: true, expires, generation, mac: [7; 32] };
            let bytes = token.encode();
            assert_eq!(Token::decode(&bytes), Ok(Some(token)));
            for bit in 0..TOKEN_LEN * 8 {
                let mut wrong = bytes;
                wrong[bit / 8] ^= 1 << (bit % 8);
                assert_ne!(Token::decode(&wrong), Ok(Some(token)), "bit {bit}");
            }
        }
    }

    #[test]
    fn a_token_without_a_generation_is_as_it_was_before_there_were_any() {
        let token = Token { may_write: true, expires: 9, generation: 0, mac: [7; 32] };
        assert_eq!((token.encode()[0], &token.encode()[16..32]), (1, &[0; 16][..]));
        assert!(token.signed(&[1; 16], "a").starts_with(b"vstorage attach 1"));
        // Neither can be taken for the other.
        for (version, generation) in [(1, 5), (2, 0)] {
            let mut bytes = Token { generation, ..token }.encode();
            bytes[0] = version;
            assert_eq!(Token::decode(&bytes), Err(WireError::Value("token generation")));
        }
    }

    #[test]
    fn what_is_signed_tells_all_fields_apart() {
        let token = Token { may_write: false, expires: 5, generation: 0, mac: [0; 32] };
        let all = [
            token.signed(&[1; 16], "a"),
            token.signed(&[2; 16], "a"),
            token.signed(&[1; 16], "b"),
            Token { may_write: true, ..token }.signed(&[1; 16], "a"),
            Token { expires: 6, ..token }.signed(&[1; 16], "a"),
            Token { generation: 1, ..token }.signed(&[1; 16], "a"),
            Token { generation: 2, ..token }.signed(&[1; 16], "a"),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(all[at + 1..].iter().all(|other| one != other), "{at}");
        }
    }
}
