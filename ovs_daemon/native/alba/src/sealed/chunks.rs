//! Chunks of a sealed object: packed and encrypted, and back.

use std::cell::RefCell;

use format::crc32c;
use format::seal::{Compression, Seal, SealedChunk};

use super::keys::Cipher;

/// A level at which zstd still compresses several hundred MB a second.
const ZSTD_LEVEL: i32 = 1;
/// What is stored packed must be smaller by this part of its plain bytes: unpacking costs time.
const WORTH: usize = 16;

/// Packs chunks; it keeps what the compressor works in.
pub(super) struct Packer {
    compression: Compression,
    zstd: Option<zstd::bulk::Compressor<'static>>,
    packed: Vec<u8>,
}

impl Packer {
    pub(super) fn new(compression: Compression, chunk_len: usize) -> Result<Self, String> {
        let zstd = match compression {
            Compression::Zstd => {
                Some(zstd::bulk::Compressor::new(ZSTD_LEVEL).map_err(|e| e.to_string())?)
            }
            Compression::None | Compression::Lz4 => None,
        };
        let room = lz4_flex::block::get_maximum_output_size(chunk_len)
            .max(zstd::zstd_safe::compress_bound(chunk_len));
        let room = if compression == Compression::None { 0 } else { room };
        Ok(Self { compression, zstd, packed: vec![0; room] })
    }

    /// The chunk compressed; `None`: that does not make it smaller.
    pub(super) fn pack(&mut self, plain: &[u8]) -> Option<&[u8]> {
        let len = match (self.compression, &mut self.zstd) {
            (Compression::Lz4, _) => {
                lz4_flex::block::compress_into(plain, &mut self.packed).ok()?
            }
            (Compression::Zstd, Some(zstd)) => {
                zstd.compress_to_buffer(plain, &mut self.packed[..]).ok()?
            }
            _ => return None,
        };
        (len + plain.len().div_ceil(WORTH) <= plain.len()).then_some(&self.packed[..len])
    }
}

thread_local! {
    /// What a thread decompresses with: making it anew costs more than a chunk.
    static ZSTD: RefCell<zstd::bulk::Decompressor<'static>> =
        RefCell::new(zstd::bulk::Decompressor::new().expect("there is memory for one"));
}

/// Decompresses a chunk, which has exactly as many bytes as `plain`.
fn unpack(compression: Compression, packed: &[u8], plain: &mut [u8]) -> Result<(), String> {
    let len = match compression {
        Compression::None => return Err("it is not compressed at all".to_owned()),
        Compression::Lz4 => {
            lz4_flex::block::decompress_into(packed, plain).map_err(|e| e.to_string())?
        }
        Compression::Zstd => ZSTD
            .with_borrow_mut(|zstd| zstd.decompress_to_buffer(packed, plain))
            .map_err(|e| e.to_string())?,
    };
    if len != plain.len() {
        return Err(format!("{len} bytes came out instead of {}", plain.len()));
    }
    Ok(())
}

/// The plain bytes of chunk `number` from its stored ones, which are changed.
pub(super) fn open_chunk(
    (object, seal, cipher): (&str, &Seal, Option<&Cipher>),
    (number, chunk): (usize, &SealedChunk),
    stored: &mut [u8],
    plain: &mut [u8],
) -> Result<(), String> {
    let wrong = |why: &str| Err(format!("its chunk {number}: {why}"));
    if crc32c(stored) != chunk.crc {
        return wrong("its checksum differs");
    }
    let body = match cipher {
        None => &*stored,
        Some(cipher) => match cipher.decrypt(object, number as u64, chunk.packed, stored) {
            Some(body) => body,
            None => return wrong("its tag differs: it was not written with this key, or changed"),
        },
    };
    if chunk.packed {
        return unpack(seal.compression, body, plain).or_else(|why| wrong(&why));
    }
    if body.len() != plain.len() {
        return wrong("its length is wrong");
    }
    plain.copy_from_slice(body);
    Ok(())
}
