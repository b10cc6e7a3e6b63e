//! The cluster's key, by which its programs know each other.

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Fewest bytes of a cluster key.
pub const KEY_BYTES_MIN: usize = 32;
/// More of a key file is not read, in bytes.
const KEY_FILE_BYTES_MAX: usize = 4096;

/// See the top of the file.
#[derive(Clone)]
pub struct ClusterKey {
    bytes: Vec<u8>,
}

impl std::fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterKey")
    }
}

impl ClusterKey {
    /// The key in the text of its file; `None`: it is too short to be one.
    pub fn new(text: &[u8]) -> Option<Self> {
        let bytes = text.trim_ascii().to_vec();
        (bytes.len() >= KEY_BYTES_MIN).then_some(Self { bytes })
    }

    /// The key in a file; an error is why there is none, in words.
    pub fn read(path: &std::path::Path) -> Result<Self, String> {
        let file = media::File::open_read(path).map_err(|e| e.to_string())?;
        let mut text = vec![0; KEY_FILE_BYTES_MAX];
        let len = file.read_some_at(0, &mut text).map_err(|e| e.to_string())?;
        Self::new(&text[..len]).ok_or_else(|| format!("it has fewer than {KEY_BYTES_MIN} bytes"))
    }

    fn hmac(&self, message: &[u8]) -> Hmac<Sha256> {
        let mac = Hmac::<Sha256>::new_from_slice(&self.bytes);
        let mut mac = mac.expect("a key of any length will do");
        mac.update(message);
        mac
    }

    /// HMAC-SHA256 of a message.
    pub fn sign(&self, message: &[u8]) -> [u8; 32] {
        self.hmac(message).finalize().into_bytes().into()
    }

    /// Whether [`Self::sign`] gave this; takes the same time wherever they differ.
    pub fn is_genuine(&self, message: &[u8], signature: &[u8]) -> bool {
        self.hmac(message).verify_slice(signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_the_key_signs_and_nobody_else() {
        let key = ClusterKey::new(b" 0123456789abcdef0123456789abcdef\n").unwrap();
        let mut signature = key.sign(b"message");
        assert!(key.is_genuine(b"message", &signature));
        assert!(!key.is_genuine(b"massage", &signature));
        let other = ClusterKey::new(&[b'x'; 32]).unwrap();
        assert!(!other.is_genuine(b"message", &signature));
        signature[31] ^= 1;
        assert!(!key.is_genuine(b"message", &signature));
        assert!(!key.is_genuine(b"message", &signature[..31]));
        assert!(ClusterKey::new(b"too short").is_none());
        assert_eq!(format!("{key:?}"), "ClusterKey");
    }

    #[test]
    fn a_file_that_has_none_is_refused() {
        let error = ClusterKey::read(std::path::Path::new("/nowhere/key")).unwrap_err();
        assert!(error.contains("/nowhere/key"), "{error}");
        let error = ClusterKey::read(std::path::Path::new("/dev/null")).unwrap_err();
        assert!(error.contains("fewer than 32"), "{error}");
    }
}
