//! Keys, and the cipher that an object gets of one of them.

use std::fmt;

use format::seal::{SALT, Seal, TAG};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, Tag, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};

use format::seal::KEY_NAME_MAX;

/// What an object's key is derived for; another use of the same key would have other words.
const PURPOSE: &[u8] = b"open-vstorage sealed object 1";
/// The number of the tag over seal and table; no chunk has it.
const SEAL_NUMBER: u64 = u64::MAX;

/// A key with its name. The key itself is never shown, and never stored on an OSD.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    name: String,
    bytes: [u8; 32],
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.name)
    }
}

impl Key {
    /// From its 64 hexadecimal digits.
    pub fn new(name: &str, hex: &str) -> Result<Self, String> {
        if name.is_empty() || name.len() > KEY_NAME_MAX {
            return Err(format!("{name:?} is no name of a key: it has 1 to {KEY_NAME_MAX} bytes"));
        }
        let mut bytes = [0; 32];
        let digits = hex.len() == 64 && hex.bytes().all(|digit| digit.is_ascii_hexdigit());
        if !digits {
            return Err(format!("key {name:?} is not 64 hexadecimal digits, which are 256 bits"));
        }
        for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&hex[at..at + 2], 16).unwrap_or(0);
        }
        Ok(Self { name: name.to_owned(), bytes })
    }

    /// Its name, which is stored with each object.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// The keys that this process was given; new objects get the first.
#[derive(Clone, Debug, Default)]
pub struct Keys(Vec<Key>);

impl Keys {
    /// These, the one for new objects first.
    pub fn new(keys: Vec<Key>) -> Self {
        Self(keys)
    }

    pub(super) fn current(&self) -> Option<&Key> {
        self.0.first()
    }

    pub(super) fn get(&self, name: &str) -> Option<&Key> {
        self.0.iter().find(|key| key.name == name)
    }
}

/// Encrypts and decrypts the chunks of one object.
///
/// An object's own key is derived of the cluster's key and of a salt that is drawn anew for every
/// put. So numbering the chunks is enough: a number never stands for two plaintexts under the same
/// key, also when a put is repeated after a crash with other bytes.
pub(super) struct Cipher(LessSafeKey);

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cipher")
    }
}

fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// What a chunk's tag is over, beside its bytes: what it is, so that it can stand nowhere else.
fn about(object: &str, number: u64, packed: bool) -> Vec<u8> {
    let mut about = number.to_le_bytes().to_vec();
    about.push(packed.into());
    about.extend_from_slice(object.as_bytes());
    about
}

impl Cipher {
    pub(super) fn new(key: &Key, salt: &[u8; SALT]) -> Self {
        let secret = Salt::new(HKDF_SHA256, salt).extract(&key.bytes);
        let okm = secret.expand(&[PURPOSE], &AES_256_GCM).expect("32 bytes are not too many");
        Self(LessSafeKey::new(UnboundKey::from(okm)))
    }

    /// Encrypts a chunk in place and appends its tag.
    pub(super) fn encrypt(&self, object: &str, number: u64, packed: bool, bytes: &mut Vec<u8>) {
        let about = Aad::from(about(object, number, packed));
        let done = self.0.seal_in_place_append_tag(nonce(number), about, bytes);
        done.expect("a chunk is far below the cipher's limit");
    }

    /// Decrypts what [`Self::encrypt`] gave, in place; `None`: it is not that.
    pub(super) fn decrypt<'a>(
        &self,
        object: &str,
        number: u64,
        packed: bool,
        bytes: &'a mut [u8],
    ) -> Option<&'a [u8]> {
        let about = Aad::from(about(object, number, packed));
        self.0.open_in_place(nonce(number), about, bytes).ok().map(|plain| &*plain)
    }

    fn signed(object: &str, seal: &Seal, table: &[u8]) -> Vec<u8> {
        [&seal.signed()[..], table, object.as_bytes()].concat()
    }

    /// The tag over seal and table.
    pub(super) fn sign(&self, object: &str, seal: &Seal, table: &[u8]) -> [u8; TAG] {
        let signed = Aad::from(Self::signed(object, seal, table));
        let tag = self.0.seal_in_place_separate_tag(nonce(SEAL_NUMBER), signed, &mut []);
        let mut bytes = [0; TAG];
        bytes.copy_from_slice(tag.expect("nothing is not too long").as_ref());
        bytes
    }

    /// Whether the tag of a seal is right.
    pub(super) fn signed_by(&self, object: &str, seal: &Seal, table: &[u8]) -> bool {
        let signed = Aad::from(Self::signed(object, seal, table));
        let tag = Tag::from(seal.tag);
        self.0.open_in_place_separate_tag(nonce(SEAL_NUMBER), signed, tag, &mut [], 0..).is_ok()
    }
}
