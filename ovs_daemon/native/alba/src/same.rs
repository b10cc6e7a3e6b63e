//! Whether an object that is stored says what is to be put.

use crate::{Result, Sink};

/// Bytes that are compared at a time.
const BLOCK: usize = 1 << 20;

/// Compares what is written with what is stored.
struct Same<'a> {
    read: &'a dyn Fn(u64, &mut [u8]) -> Result<()>,
    len: u64,
    at: u64,
    differs: bool,
}

impl Sink for Same<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        for block in bytes.chunks(BLOCK) {
            let end = self.at + block.len() as u64;
            self.differs |= end > self.len;
            if self.differs {
                return Ok(());
            }
            let mut stored = vec![0; block.len()];
            (self.read)(self.at, &mut stored)?;
            self.differs = stored != block;
            self.at = end;
        }
        Ok(())
    }
}

/// Whether what `fill` writes are these `len` bytes.
pub(crate) fn is_same(
    len: u64,
    read: &dyn Fn(u64, &mut [u8]) -> Result<()>,
    fill: &mut dyn FnMut(&mut dyn Sink) -> Result<()>,
) -> Result<bool> {
    let mut same = Same { read, len, at: 0, differs: false };
    fill(&mut same)?;
    Ok(!same.differs && same.at == len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_bytes_are_the_same() {
        let stored = b"0123456789";
        let read = |at: u64, into: &mut [u8]| {
            into.copy_from_slice(&stored[at as usize..at as usize + into.len()]);
            Ok(())
        };
        let same = |parts: &[&[u8]]| {
            is_same(10, &read, &mut |sink| parts.iter().try_for_each(|part| sink.write(part)))
        };
        assert_eq!(same(&[b"0123", b"", b"456789"]), Ok(true));
        for other in [&b"012345678"[..], b"01234567890", b"0123456780", b"", b"1123456789"] {
            assert_eq!(same(&[other]), Ok(false), "{other:?}");
        }
    }
}
