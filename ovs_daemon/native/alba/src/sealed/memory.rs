//! Objects sealed and unsealed in memory, without a cluster.

use format::seal::Compression;

use super::keys::{Key, Keys};
use super::recent::Recent;
use super::writer::Sealer;
use super::{CHUNK_LOG2, drawn_salt, reader};
use crate::cluster::Stored;
use crate::{Result, Sink};

struct Memory(Vec<u8>);

impl Sink for Memory {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// An object as a cluster would be given it.
pub fn seal(
    object: &str,
    plain: &[u8],
    compression: Compression,
    key: Option<&Key>,
) -> Result<Vec<u8>> {
    let key = key.map(|key| Ok((key, drawn_salt(object)?))).transpose()?;
    let mut memory = Memory(Vec::with_capacity(plain.len() + plain.len() / 1024 + 4096));
    let mut sealer = Sealer::new(object, &mut memory, compression, key, CHUNK_LOG2)?;
    sealer.write(plain)?;
    sealer.finish()?;
    Ok(memory.0)
}

/// Fills `into` from byte `offset` of what [`seal`] was given.
pub fn unseal(
    object: &str,
    sealed: &[u8],
    keys: &Keys,
    offset: u64,
    into: &mut [u8],
) -> Result<()> {
    let read = |offset: u64, into: &mut [u8]| {
        into.copy_from_slice(&sealed[offset as usize..][..into.len()]);
        Ok(())
    };
    let stored = Stored { len: sealed.len() as u64, sealed: true, generation: 0 };
    let open = reader::open(object, &stored, keys, &read)?;
    open.read(object, &Recent::default(), offset, into, &read)
}
