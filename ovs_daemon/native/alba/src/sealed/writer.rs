//! Seals an object while it is written.

use format::crc32c;
use format::seal::{Compression, SALT, Seal, SealedChunk};

use super::chunks::Packer;
use super::keys::{Cipher, Key};
use crate::cluster::failed;
use crate::{Fill, Result, Sink, fill_and_write};

/// Takes plain bytes, gives chunks, and in the end table and seal.
pub(super) struct Sealer<'a> {
    object: &'a str,
    sink: &'a mut dyn Sink,
    seal: Seal,
    cipher: Option<Cipher>,
    packer: Packer,
    /// Plain bytes that do not fill a chunk yet.
    pending: Vec<u8>,
    /// The chunk that is being made.
    sealed: Vec<u8>,
    /// For bytes that are read, see [`Sink::fill`].
    place: Vec<u8>,
    chunks: Vec<SealedChunk>,
    at: u64,
}

impl<'a> Sealer<'a> {
    /// `key`: that of an object to be encrypted, with a salt that was drawn for it alone.
    pub(super) fn new(
        object: &'a str,
        sink: &'a mut dyn Sink,
        compression: Compression,
        key: Option<(&Key, [u8; SALT])>,
        chunk_log2: u8,
    ) -> Result<Self> {
        let seal = Seal {
            compression,
            encryption: key.map_or(Default::default(), |_| format::seal::Encryption::Aes256Gcm),
            chunk_log2,
            plain_len: 0,
            table_crc: 0,
            salt: key.map_or([0; SALT], |(_, salt)| salt),
            tag: Default::default(),
            key: key.map_or(String::new(), |(key, _)| key.name().to_owned()),
        };
        let packer = Packer::new(compression, seal.chunk_len())
            .map_err(|why| failed("compress", object, why))?;
        let cipher = key.map(|(key, salt)| Cipher::new(key, &salt));
        let (pending, sealed, place) = (Vec::new(), Vec::new(), Vec::new());
        let chunks = Vec::new();
        Ok(Self { object, sink, seal, cipher, packer, pending, sealed, place, chunks, at: 0 })
    }

    fn chunk(&mut self, plain: &[u8]) -> Result<()> {
        self.sealed.clear();
        let packed = self.packer.pack(plain);
        self.sealed.extend_from_slice(packed.unwrap_or(plain));
        let packed = packed.is_some();
        if let Some(cipher) = &self.cipher {
            cipher.encrypt(self.object, self.chunks.len() as u64, packed, &mut self.sealed);
        }
        let (len, crc) = (self.sealed.len() as u32, crc32c(&self.sealed));
        self.chunks.push(SealedChunk { at: self.at, len, packed, crc });
        self.at += u64::from(len);
        self.seal.plain_len += plain.len() as u64;
        self.sink.write(&self.sealed)
    }

    /// What is left, the table and the seal. Returns plain and stored bytes.
    pub(super) fn finish(mut self) -> Result<(u64, u64)> {
        let last = std::mem::take(&mut self.pending);
        if !last.is_empty() {
            self.chunk(&last)?;
        }
        let table = Seal::encode_table(&self.chunks);
        self.seal.table_crc = crc32c(&table);
        if let Some(cipher) = &self.cipher {
            self.seal.tag = cipher.sign(self.object, &self.seal, &table);
        }
        let end = self.seal.encode();
        self.sink.write(&table)?;
        self.sink.write(&end)?;
        Ok((self.seal.plain_len, self.at + (table.len() + end.len()) as u64))
    }
}

impl Sink for Sealer<'_> {
    fn fill(&mut self, len: usize, fill: &mut Fill) -> Result<()> {
        let mut place = std::mem::take(&mut self.place);
        let filled = fill_and_write(self, &mut place, len, fill);
        self.place = place;
        filled
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        let chunk_len = self.seal.chunk_len();
        while !bytes.is_empty() {
            if self.pending.is_empty() && bytes.len() >= chunk_len {
                let (whole, rest) = bytes.split_at(chunk_len);
                self.chunk(whole)?;
                bytes = rest;
                continue;
            }
            let (part, rest) = bytes.split_at(bytes.len().min(chunk_len - self.pending.len()));
            self.pending.extend_from_slice(part);
            bytes = rest;
            if self.pending.len() == chunk_len {
                let whole = std::mem::take(&mut self.pending);
                self.chunk(&whole)?;
                self.pending = whole;
                self.pending.clear();
            }
        }
        Ok(())
    }
}
