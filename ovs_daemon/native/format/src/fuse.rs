//! The kernel's protocol for file systems in user space (linux/fuse.h), as far as a file system
//! that is one file needs it. Both ends are one machine; its byte order is little-endian.
//!
//! ```text
//! request  len:u32 opcode:u32 unique:u64 node:u64 uid:u32 gid:u32 pid:u32 pad:u32  arguments
//! reply    len:u32 error:i32 unique:u64                                            result
//! ```
//! A write's payload follows its arguments, 80 bytes from the start.

use crate::bytes::{Malformed, get_u32, get_u64, put_u16, put_u32, put_u64};

/// Bytes of a request before its arguments.
pub const REQUEST_BYTES: usize = 40;
/// Bytes of a write before its payload.
pub const WRITE_BYTES: usize = REQUEST_BYTES + 40;
/// Bytes that [`Asked::parse`] needs of a request, if it has as many.
pub const ARGUMENTS_MAX: usize = REQUEST_BYTES + 88;
/// Bytes of a reply before its result.
pub const REPLY_BYTES: usize = 16;

/// Version of the protocol that we speak; each side uses the older of the two.
const MAJOR: u32 = 7;
const MINOR: u32 = 31;

/// What of the protocol we use, if the kernel has it.
const ASYNC_READ: u32 = 1 << 0;
const BIG_WRITES: u32 = 1 << 5;
const ASYNC_DIO: u32 = 1 << 15;
const MAX_PAGES: u32 = 1 << 22;
const WANTED: u32 = ASYNC_READ | BIG_WRITES | ASYNC_DIO | MAX_PAGES;

/// Neither cached nor read ahead: what a guest reads is what the volume has.
const OPEN_DIRECT_IO: u32 = 1 << 0;
/// Writes of one file do not wait for each other.
const OPEN_PARALLEL_WRITES: u32 = 1 << 6;

/// `fallocate(2)`: the size stays.
pub const KEEP_SIZE: u32 = 1;
/// `fallocate(2)`: the range is forgotten.
pub const PUNCH_HOLE: u32 = 2;
/// `fallocate(2)`: the range reads as zeroes.
pub const ZERO_RANGE: u32 = 16;

/// `lseek(2)`: the next data.
pub const SEEK_DATA: u32 = 3;
/// `lseek(2)`: the next hole.
pub const SEEK_HOLE: u32 = 4;

/// What of the attributes is to change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Bytes.
    pub size: Option<u64>,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The first request: version and abilities of the kernel.
    Init {
        /// Version.
        major: u32,
        /// What it can do.
        flags: u32,
    },
    /// Attributes of the file.
    GetAttr,
    /// Change attributes.
    SetAttr(Change),
    /// Open it.
    Open,
    /// Read.
    Read {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u32,
    },
    /// Write what follows.
    Write {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u32,
    },
    /// Make durable what was written.
    Fsync,
    /// Allocate or free space.
    Allocate {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// As `fallocate(2)` has it.
        mode: u32,
    },
    /// Find data or a hole.
    Seek {
        /// From here on.
        offset: u64,
        /// [`SEEK_DATA`] or [`SEEK_HOLE`].
        whence: u32,
    },
    /// Size of the file system.
    StatFs,
    /// An open file is closed for good.
    Release,
    /// The last request.
    Destroy,
    /// References to nodes are dropped; there is no reply.
    Forget,
    /// Anything else, by its number.
    Other(u32),
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Its number, for the reply.
    pub unique: u64,
    /// What is asked.
    pub ask: Ask,
}

impl Asked {
    /// Reads a request of `len` bytes, of which `bytes` are the first [`ARGUMENTS_MAX`] (or all).
    ///
    /// # Errors
    /// The kernel does not send such a thing.
    pub fn parse(bytes: &[u8], len: usize) -> Result<Self, Malformed> {
        if bytes.len() < REQUEST_BYTES || bytes.len() < len.min(ARGUMENTS_MAX) {
            return Err(Malformed::Short);
        }
        if get_u32(bytes, 0) as usize != len {
            return Err(Malformed::Field("len"));
        }
        let arguments = &bytes[REQUEST_BYTES..];
        let opcode = get_u32(bytes, 4);
        let needed = match opcode {
            4 => 88,
            15 | 16 => 40,
            26 => 16,
            43 => 32,
            46 => 24,
            _ => 0,
        };
        if arguments.len() < needed {
            return Err(Malformed::Short);
        }
        let ask = match opcode {
            2 | 42 => Ask::Forget,
            3 => Ask::GetAttr,
            4 => Ask::SetAttr(change(arguments)),
            14 => Ask::Open,
            15 => Ask::Read { offset: get_u64(arguments, 8), len: get_u32(arguments, 16) },
            16 => {
                let count = get_u32(arguments, 16);
                if len - WRITE_BYTES != count as usize {
                    return Err(Malformed::Field("size"));
                }
                Ask::Write { offset: get_u64(arguments, 8), len: count }
            }
            17 => Ask::StatFs,
            18 => Ask::Release,
            20 => Ask::Fsync,
            26 => Ask::Init { major: get_u32(arguments, 0), flags: get_u32(arguments, 12) },
            38 => Ask::Destroy,
            43 => Ask::Allocate {
                offset: get_u64(arguments, 8),
                len: get_u64(arguments, 16),
                mode: get_u32(arguments, 24),
            },
            46 => Ask::Seek { offset: get_u64(arguments, 8), whence: get_u32(arguments, 16) },
            other => Ask::Other(other),
        };
        Ok(Self { unique: get_u64(bytes, 8), ask })
    }
}

fn change(arguments: &[u8]) -> Change {
    let valid = get_u32(arguments, 0);
    let given = |bit: u32, at: usize| (valid & bit != 0).then(|| get_u32(arguments, at));
    Change {
        mode: given(1, 68),
        uid: given(2, 76),
        gid: given(4, 80),
        size: (valid & 8 != 0).then(|| get_u64(arguments, 16)),
    }
}

/// The head of a reply with a result of `len` bytes, or with an errno (positive) and no result.
pub fn reply(unique: u64, errno: i32, len: usize) -> [u8; REPLY_BYTES] {
    let mut bytes = [0; REPLY_BYTES];
    put_u32(&mut bytes, 0, (REPLY_BYTES + len) as u32);
    put_u32(&mut bytes, 4, errno.wrapping_neg() as u32);
    put_u64(&mut bytes, 8, unique);
    bytes
}

/// The result of the first request.
///
/// `flags`: what the kernel can do; `write_bytes`: the largest write; `background`: requests that
/// it may have under way for asynchronous readers and writers.
pub fn init(flags: u32, write_bytes: u32, background: u16) -> [u8; 64] {
    let mut bytes = [0; 64];
    put_u32(&mut bytes, 0, MAJOR);
    put_u32(&mut bytes, 4, MINOR);
    put_u32(&mut bytes, 8, write_bytes);
    put_u32(&mut bytes, 12, flags & WANTED);
    put_u16(&mut bytes, 16, background);
    put_u16(&mut bytes, 18, background);
    put_u32(&mut bytes, 20, write_bytes);
    put_u32(&mut bytes, 24, 1);
    put_u16(&mut bytes, 28, (write_bytes / 4096) as u16);
    bytes
}

/// True: we understand this kernel.
pub fn is_known(major: u32) -> bool {
    major == MAJOR
}

/// Attributes of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Attributes {
    /// The result of asking for them. They are asked for again each time: the size may change.
    pub fn result(&self) -> [u8; 104] {
        const REGULAR: u32 = 0o100_000;
        let mut bytes = [0; 104];
        let attr = &mut bytes[16..];
        put_u64(attr, 0, 1);
        put_u64(attr, 8, self.size);
        put_u64(attr, 16, self.size / 512);
        put_u32(attr, 60, REGULAR | self.mode);
        put_u32(attr, 64, 1);
        put_u32(attr, 68, self.uid);
        put_u32(attr, 72, self.gid);
        put_u32(attr, 80, 4096);
        bytes
    }
}

/// The result of an open.
pub fn opened() -> [u8; 16] {
    let mut bytes = [0; 16];
    put_u32(&mut bytes, 8, OPEN_DIRECT_IO | OPEN_PARALLEL_WRITES);
    bytes
}

/// The result of a write of `len` bytes.
pub fn written(len: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    put_u32(&mut bytes, 0, len);
    bytes
}

/// The result of finding data or a hole at `offset`.
pub fn found(offset: u64) -> [u8; 8] {
    offset.to_le_bytes()
}

/// The size of a file system that is full: its file has it all.
pub fn space(size: u64) -> [u8; 80] {
    let mut bytes = [0; 80];
    put_u64(&mut bytes, 0, size / 4096);
    put_u64(&mut bytes, 24, 1);
    put_u32(&mut bytes, 40, 4096);
    put_u32(&mut bytes, 44, 255);
    put_u32(&mut bytes, 48, 4096);
    bytes
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    fn request(opcode: u32, arguments: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; REQUEST_BYTES];
        let len = REQUEST_BYTES + arguments.len();
        put_u32(&mut bytes, 0, len as u32);
        put_u32(&mut bytes, 4, opcode);
        put_u64(&mut bytes, 8, 77);
        bytes.extend_from_slice(arguments);
        bytes
    }

    fn parse(bytes: &[u8]) -> Result<Asked, Malformed> {
        Asked::parse(&bytes[..bytes.len().min(ARGUMENTS_MAX)], bytes.len())
    }

    #[test]
    fn requests_are_read_as_the_kernel_writes_them() {
        let mut arguments = [0u8; 40];
        put_u64(&mut arguments, 8, 4096);
        put_u32(&mut arguments, 16, 512);
        let asked = parse(&request(15, &arguments)).unwrap();
        assert_eq!(asked, Asked { unique: 77, ask: Ask::Read { offset: 4096, len: 512 } });
        let mut payload = arguments.to_vec();
        payload.resize(40 + 512, 1);
        let asked = parse(&request(16, &payload)).unwrap();
        assert_eq!(asked.ask, Ask::Write { offset: 4096, len: 512 });
        let mut arguments = [0u8; 88];
        put_u32(&mut arguments, 0, 8 | 2);
        put_u64(&mut arguments, 16, 1 << 40);
        put_u32(&mut arguments, 76, 107);
        let change = Change { size: Some(1 << 40), uid: Some(107), ..Change::default() };
        assert_eq!(parse(&request(4, &arguments)).unwrap().ask, Ask::SetAttr(change));
        assert_eq!(parse(&request(36, &[0; 8])).unwrap().ask, Ask::Other(36));
    }

    #[test]
    fn nothing_is_read_beyond_the_end() {
        for opcode in 0..60 {
            for len in 0..120 {
                let bytes = request(opcode, &vec![255; len]);
                let _ = parse(&bytes);
                let most = ARGUMENTS_MAX.min(bytes.len());
                assert!(Asked::parse(&bytes[..most - 1], bytes.len()).is_err());
            }
        }
        let short = request(16, &[0; 39]);
        assert_eq!(parse(&short), Err(Malformed::Short));
        let mut wrong = request(3, &[]);
        put_u32(&mut wrong, 0, 41);
        assert_eq!(parse(&wrong), Err(Malformed::Field("len")));
    }

    #[test]
    fn replies_say_their_length() {
        assert_eq!(reply(7, 0, 104)[..4], 120u32.to_le_bytes());
        assert_eq!(reply(7, 5, 0)[4..8], (-5i32).to_le_bytes());
        let init = init(u32::MAX, 256 << 10, 64);
        assert_eq!(init[12..16], WANTED.to_le_bytes());
        assert_eq!(init[28..30], 64u16.to_le_bytes());
    }
}
