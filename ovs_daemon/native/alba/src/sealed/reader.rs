//! Reads sealed objects: table and seal first, then the chunks that have what is wanted.

use std::sync::Arc;

use format::seal::{ENTRY, Encryption, SEAL, Seal, SealedChunk};

use super::chunks::open_chunk;
use super::keys::{Cipher, Keys};
use super::recent::Recent;
use crate::cluster::{Stored, failed};
use crate::{BackendError, Cause, Result};

/// Most that is read at an object's end at once.
const END_MAX: u64 = 64 << 10;

/// Bytes at an object's end that most likely have its seal and table: those of chunks of 16 KiB, of
/// which compression makes half.
fn end_len(stored_len: u64) -> u64 {
    let table = (stored_len >> 14) * 2 * ENTRY as u64;
    (table + SEAL as u64).next_multiple_of(4096).min(END_MAX).min(stored_len)
}

/// Fills bytes from an offset of the stored object.
pub(super) type Read<'a> = &'a dyn Fn(u64, &mut [u8]) -> Result<()>;

/// A sealed object that can be read.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) seal: Seal,
    pub(super) chunks: Vec<SealedChunk>,
    cipher: Option<Cipher>,
    /// The put that it is.
    pub(super) generation: u64,
}

fn corrupt(name: &str, why: String) -> BackendError {
    BackendError { cause: Cause::Corrupt, ..failed("read", name, why) }
}

fn cipher(name: &str, seal: &Seal, keys: &Keys) -> Result<Option<Cipher>> {
    if seal.encryption == Encryption::None {
        return Ok(None);
    }
    let key = keys.get(&seal.key).ok_or_else(|| {
        let why = format!(
            "it is encrypted with key {:?}, which this node was not given; add it to [alba] \
             key_file or [alba] encryption_keys",
            seal.key
        );
        failed("read", name, why)
    })?;
    Ok(Some(Cipher::new(key, &seal.salt)))
}

/// Reads seal and table; one read, unless the object is very large.
pub(super) fn open(name: &str, stored: &Stored, keys: &Keys, read: Read) -> Result<Open> {
    let wrong = |why: String| corrupt(name, why);
    let mut end = vec![0; end_len(stored.len) as usize];
    read(stored.len - end.len() as u64, &mut end)?;
    let seal_at = end.len().checked_sub(SEAL).ok_or_else(|| wrong("it is too short".into()))?;
    let seal = Seal::decode(&end[seal_at..]).map_err(|e| wrong(format!("its seal: {e}")))?;
    let table = match seal_at.checked_sub(seal.table_len()) {
        Some(at) => end[at..seal_at].to_vec(),
        None => {
            let at = stored.len.checked_sub((SEAL + seal.table_len()) as u64);
            let at = at.ok_or_else(|| wrong("it is too short for its table".into()))?;
            let mut table = vec![0; seal.table_len()];
            read(at, &mut table)?;
            table
        }
    };
    let chunks = seal.decode_table(&table, stored.len);
    let chunks = chunks.map_err(|e| wrong(format!("its table: {e}")))?;
    let cipher = cipher(name, &seal, keys)?;
    if cipher.as_ref().is_some_and(|cipher| !cipher.signed_by(name, &seal, &table)) {
        let why = format!(
            "the tag of its seal differs: it was changed, or the key {:?} that this node was given \
             is another one of this name",
            seal.key
        );
        return Err(wrong(why));
    }
    Ok(Open { seal, chunks, cipher, generation: stored.generation })
}

impl Open {
    /// Fills `into` from plain byte `offset` on: one read of all chunks that have any of it.
    pub(super) fn read(
        &self,
        name: &str,
        recent: &Recent,
        offset: u64,
        into: &mut [u8],
        read: Read,
    ) -> Result<()> {
        let end = offset.checked_add(into.len() as u64);
        if end.is_none_or(|end| end > self.seal.plain_len) {
            return Err(corrupt(name, "the object ends before".to_owned()));
        }
        if into.is_empty() {
            return Ok(());
        }
        let chunk_len = self.seal.chunk_len();
        let first = (offset >> self.seal.chunk_log2) as usize;
        let last = ((offset + into.len() as u64 - 1) >> self.seal.chunk_log2) as usize;
        let skip = offset as usize % chunk_len;
        if first == last
            && let Some(plain) = recent.chunk(name, self, first)
        {
            into.copy_from_slice(&plain[skip..skip + into.len()]);
            return Ok(());
        }
        let wanted = &self.chunks[first..=last];
        let (start, end) = (wanted[0].at, wanted[wanted.len() - 1]);
        let mut bytes = vec![0; (end.at + u64::from(end.len) - start) as usize];
        read(start, &mut bytes)?;
        let mut done = 0;
        for (number, chunk) in (first..).zip(wanted) {
            let at = (chunk.at - start) as usize;
            let stored = &mut bytes[at..at + chunk.len as usize];
            let skip = if number == first { skip } else { 0 };
            let part = (self.seal.plain_len_of(number) - skip).min(into.len() - done);
            let target = &mut into[done..done + part];
            if part == self.seal.plain_len_of(number) {
                self.chunk(name, number, stored, target)?;
            } else {
                let mut plain = vec![0; self.seal.plain_len_of(number)];
                self.chunk(name, number, stored, &mut plain)?;
                target.copy_from_slice(&plain[skip..skip + part]);
                recent.keep_chunk(name, self, number, Arc::new(plain));
            }
            done += part;
        }
        Ok(())
    }

    fn chunk(&self, name: &str, number: usize, stored: &mut [u8], plain: &mut [u8]) -> Result<()> {
        let object = (name, &self.seal, self.cipher.as_ref());
        open_chunk(object, (number, &self.chunks[number]), stored, plain)
            .map_err(|why| corrupt(name, why))
    }
}
