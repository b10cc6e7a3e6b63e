//! Files that lie: bit rot, torn, lost and misdirected writes, lost syncs, full and broken disks.
//!
//! A crash leaves old data or none; a lying disk leaves wrong data. The promise differs too: what
//! was stored may be gone, but it must be noticed (by checksum and by address), reported, and never
//! be returned as data.
//!
//! A fault is planned for the *n*-th operation of its kind, counted from 0 over all files, so a test
//! can walk a fault through every place of a workload.

use std::sync::{Mutex, MutexGuard};

use buffer::files::{Cause, FileError, Files};

use crate::random::Random;

/// One planned fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The write reports success; only its first `keep` bytes reach the disk.
    TornWrite {
        /// Which write.
        nth: usize,
        /// How many bytes of it are kept.
        keep: usize,
    },
    /// The write reports success and does nothing.
    LostWrite {
        /// Which write.
        nth: usize,
    },
    /// The write reports success and lands so many bytes further on.
    MisdirectedWrite {
        /// Which write.
        nth: usize,
        /// How far off, in bytes.
        shift: u64,
    },
    /// A bit of the written data is wrong on the disk.
    FlippedBit {
        /// Which write.
        nth: usize,
        /// Which bit of it (counted from its first byte; modulo its length).
        bit: usize,
    },
    /// The write fails with [`Cause::NoSpace`] after its first `keep` bytes.
    NoSpace {
        /// Which write.
        nth: usize,
        /// How many bytes of it are on the disk all the same.
        keep: usize,
    },
    /// The write fails with [`Cause::Failed`]; nothing is written.
    FailedWrite {
        /// Which write.
        nth: usize,
    },
    /// The sync fails with [`Cause::Failed`].
    FailedSync {
        /// Which sync.
        nth: usize,
    },
    /// The sync reports success and does nothing (visible only to a recording twin below).
    LostSync {
        /// Which sync.
        nth: usize,
    },
    /// The read fails with [`Cause::Failed`]: an unreadable sector.
    FailedRead {
        /// Which read.
        nth: usize,
    },
}

impl Fault {
    /// A fault of a random kind that reports success, at a random one of `writes` writes.
    pub fn silent(random: &mut Random, writes: usize) -> Fault {
        let nth = random.index(writes);
        match random.index(4) {
            0 => Fault::TornWrite { nth, keep: random.index(16) * 512 },
            1 => Fault::LostWrite { nth },
            2 => Fault::MisdirectedWrite { nth, shift: (1 + random.below(8)) * 512 },
            _ => Fault::FlippedBit { nth, bit: random.index(1 << 20) },
        }
    }
}

/// How often each kind of operation was called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// Calls of `write_at`.
    pub writes: usize,
    /// Calls of `sync` and `sync_dir`.
    pub syncs: usize,
    /// Calls of `read_at`.
    pub reads: usize,
}

/// Files with planned faults in front of other files.
pub struct FaultyFiles<F> {
    inner: F,
    plan: Vec<Fault>,
    calls: Mutex<Calls>,
}

impl<F: Files> FaultyFiles<F> {
    /// Puts the faults of `plan` in front of `inner`.
    pub fn new(inner: F, plan: Vec<Fault>) -> Self {
        FaultyFiles { inner, plan, calls: Mutex::new(Calls::default()) }
    }

    /// How often each kind of operation was called so far.
    pub fn calls(&self) -> Calls {
        *self.lock()
    }

    /// The files behind the faults.
    pub fn inner(&self) -> &F {
        &self.inner
    }

    fn lock(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn count(&self, kind: impl Fn(&mut Calls) -> &mut usize) -> usize {
        let mut calls = self.lock();
        let counter = kind(&mut calls);
        *counter += 1;
        *counter - 1
    }

    fn put(&self, path: &str, offset: u64, bytes: &[u8]) -> Result<(), FileError> {
        if bytes.is_empty() { Ok(()) } else { self.inner.write_at(path, offset, &[bytes]) }
    }

    fn sync_or(
        &self,
        path: &str,
        sync: impl Fn() -> Result<(), FileError>,
    ) -> Result<(), FileError> {
        let now = self.count(|calls| &mut calls.syncs);
        for fault in &self.plan {
            match fault {
                Fault::FailedSync { nth } if *nth == now => return Err(broken("sync", path)),
                Fault::LostSync { nth } if *nth == now => return Ok(()),
                _ => {}
            }
        }
        sync()
    }
}

fn broken(action: &'static str, path: &str) -> FileError {
    FileError::new(action, path, Cause::Failed, "planned fault: input/output error")
}

impl<F: Files> Files for FaultyFiles<F> {
    fn create(&self, path: &str) -> Result<(), FileError> {
        self.inner.create(path)
    }

    fn write_at(&self, path: &str, offset: u64, parts: &[&[u8]]) -> Result<(), FileError> {
        let now = self.count(|calls| &mut calls.writes);
        let mut bytes = parts.concat();
        for fault in &self.plan {
            match *fault {
                Fault::TornWrite { nth, keep } if nth == now => {
                    return self.put(path, offset, &bytes[..keep.min(bytes.len())]);
                }
                Fault::LostWrite { nth } if nth == now => return Ok(()),
                Fault::MisdirectedWrite { nth, shift } if nth == now => {
                    return self.put(path, offset + shift, &bytes);
                }
                Fault::FlippedBit { nth, bit } if nth == now && !bytes.is_empty() => {
                    let bit = bit % (bytes.len() * 8);
                    bytes[bit / 8] ^= 1 << (bit % 8);
                }
                Fault::NoSpace { nth, keep } if nth == now => {
                    self.put(path, offset, &bytes[..keep.min(bytes.len())])?;
                    let detail = "planned fault: no space left on device";
                    return Err(FileError::new("write", path, Cause::NoSpace, detail));
                }
                Fault::FailedWrite { nth } if nth == now => return Err(broken("write", path)),
                _ => {}
            }
        }
        self.inner.write_at(path, offset, &[&bytes])
    }

    fn sync(&self, path: &str) -> Result<(), FileError> {
        self.sync_or(path, || self.inner.sync(path))
    }

    fn sync_dir(&self, dir: &str) -> Result<(), FileError> {
        self.sync_or(dir, || self.inner.sync_dir(dir))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), FileError> {
        self.inner.rename(from, to)
    }

    fn unlink(&self, path: &str) -> Result<(), FileError> {
        self.inner.unlink(path)
    }

    fn truncate(&self, path: &str, len: u64) -> Result<(), FileError> {
        self.inner.truncate(path, len)
    }

    fn list(&self, dir: &str) -> Result<Vec<(String, u64)>, FileError> {
        self.inner.list(dir)
    }

    fn read_at(&self, path: &str, offset: u64, into: &mut [u8]) -> Result<usize, FileError> {
        let now = self.count(|calls| &mut calls.reads);
        if self.plan.contains(&Fault::FailedRead { nth: now }) {
            return Err(broken("read", path));
        }
        self.inner.read_at(path, offset, into)
    }

    fn len(&self, path: &str) -> Result<u64, FileError> {
        self.inner.len(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryFiles;

    fn content(plan: &[Fault]) -> (Result<(), FileError>, Vec<u8>) {
        let files = FaultyFiles::new(MemoryFiles::new(), plan.to_vec());
        files.create("a").expect("new");
        files.write_at("a", 0, &[b"first"]).expect("no fault is planned for write 0");
        let result = files.write_at("a", 5, &[b"sec", b"ond"]);
        let image = files.inner().image();
        (result, image["a"].clone())
    }

    #[test]
    fn each_fault_does_what_its_name_says() {
        assert_eq!(content(&[]), (Ok(()), b"firstsecond".to_vec()));
        let torn = Fault::TornWrite { nth: 1, keep: 2 };
        assert_eq!(content(&[torn]), (Ok(()), b"firstse".to_vec()));
        assert_eq!(content(&[Fault::LostWrite { nth: 1 }]), (Ok(()), b"first".to_vec()));
        let astray = Fault::MisdirectedWrite { nth: 1, shift: 1 };
        assert_eq!(content(&[astray]), (Ok(()), b"first\0second".to_vec()));
        let flipped = Fault::FlippedBit { nth: 1, bit: 48 };
        assert_eq!(content(&[flipped]), (Ok(()), b"firstrecond".to_vec()));
        let (full, kept) = content(&[Fault::NoSpace { nth: 1, keep: 1 }]);
        assert_eq!((full.map_err(|e| e.cause), kept), (Err(Cause::NoSpace), b"firsts".to_vec()));
        let (failed, kept) = content(&[Fault::FailedWrite { nth: 1 }]);
        assert_eq!((failed.map_err(|e| e.cause), kept), (Err(Cause::Failed), b"first".to_vec()));
    }

    #[test]
    fn syncs_and_reads_fail_at_their_number() {
        let plan = vec![
            Fault::FailedSync { nth: 0 },
            Fault::LostSync { nth: 1 },
            Fault::FailedRead { nth: 1 },
        ];
        let files = FaultyFiles::new(MemoryFiles::new().recording(), plan);
        files.create("a").expect("new");
        assert!(files.sync("a").is_err());
        files.sync_dir("").expect("lost, not failed");
        assert_eq!(files.inner().log().len(), 1, "neither sync reached the disk");
        files.sync("a").expect("no fault left");
        assert_eq!(files.inner().log().len(), 2);
        assert!(files.read_at("a", 0, &mut [0]).is_ok());
        assert!(files.read_at("a", 0, &mut [0]).is_err());
        assert_eq!(files.calls(), Calls { writes: 0, syncs: 3, reads: 2 });
    }
}
