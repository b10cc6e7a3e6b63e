//! Every byte that is stored or sent. No IO: parsers take bytes, writers give bytes, and no input
//! can make a parser panic or allocate more than a small multiple of its own length.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod bytes;
pub mod checkpoint;
pub mod chunk;
pub mod dtl;
pub mod edge;
pub mod entry;
pub mod fragment;
pub mod fuse;
pub mod log;
pub mod mds;
pub mod nbd;
pub mod object;
pub mod osd;
pub mod seal;

pub use bytes::{Malformed, crc32c};
