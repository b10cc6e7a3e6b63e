//! Bytes that those share who still have to send or store them.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use media::{Buffer, Loan};

/// Copying fewer bytes is as cheap as handing their pages over.
const LENT_MIN: usize = 64 << 10;

#[derive(Clone)]
enum Memory {
    Plain(Arc<Vec<u8>>),
    Pooled(Arc<Buffer>),
}

/// A part of somebody's memory, which nobody changes any more; cheap to copy.
#[derive(Clone)]
pub struct Part {
    memory: Memory,
    range: Range<usize>,
}

impl Part {
    /// Of a buffer that others have parts of, too; it goes back to its pool when the last is gone.
    ///
    /// # Panics
    /// The buffer has no such range.
    pub fn of(buffer: &Arc<Buffer>, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= buffer.len(), "{range:?}");
        Self { memory: Memory::Pooled(buffer.clone()), range }
    }

    /// A part of this part.
    ///
    /// # Panics
    /// It has no such range.
    pub fn sub(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len(), "{range:?}");
        let at = self.range.start;
        Self { memory: self.memory.clone(), range: at + range.start..at + range.end }
    }

    /// If its pages may go to the kernel without a copy: the loan that says so.
    pub fn lend(&self) -> Option<Loan> {
        match &self.memory {
            Memory::Pooled(buffer) if self.len() >= LENT_MIN => Some(buffer.lend()),
            _ => None,
        }
    }

    /// The bytes for an owner who may change them; copied only if others have them as well, or a
    /// pool wants them back.
    pub fn into_vec(self) -> Vec<u8> {
        match self.memory {
            Memory::Plain(bytes) if self.range == (0..bytes.len()) => {
                Arc::try_unwrap(bytes).unwrap_or_else(|shared| shared.to_vec())
            }
            Memory::Plain(bytes) => bytes[self.range].to_vec(),
            Memory::Pooled(buffer) => buffer[self.range].to_vec(),
        }
    }
}

impl From<Vec<u8>> for Part {
    fn from(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self { memory: Memory::Plain(Arc::new(bytes)), range }
    }
}

impl From<Buffer> for Part {
    fn from(buffer: Buffer) -> Self {
        let range = 0..buffer.len();
        Self { memory: Memory::Pooled(Arc::new(buffer)), range }
    }
}

impl Deref for Part {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.memory {
            Memory::Plain(bytes) => &bytes[self.range.clone()],
            Memory::Pooled(buffer) => &buffer[self.range.clone()],
        }
    }
}

impl PartialEq for Part {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

impl Eq for Part {}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

#[cfg(test)]
mod tests {
    use media::Pool;

    use super::*;

    #[test]
    fn parts_share_memory_until_the_last_is_gone() {
        let pool = Pool::new(1 << 30);
        let mut buffer = pool.take(10).unwrap();
        buffer.copy_from_slice(b"0123456789");
        let shared = Arc::new(buffer);
        let (a, b) = (Part::of(&shared, 0..6), Part::of(&shared, 4..10));
        drop(shared);
        assert_eq!((&a[..], &b.sub(1..3)[..]), (&b"012345"[..], &b"56"[..]));
        drop(a);
        assert_eq!(pool.kept(), 0);
        assert_eq!(b.into_vec(), b"456789");
        assert!(pool.kept() > 0);
        let plain = Part::from(b"abc".to_vec());
        assert_eq!(plain.sub(1..3).into_vec(), b"bc");
        assert_eq!((plain.clone().into_vec(), plain.len()), (b"abc".to_vec(), 3));
    }
}
