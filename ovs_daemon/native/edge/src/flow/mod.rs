//! Streams of bytes, in and out, for servers of many connections: where they are received, where
//! replies lie until they are sent, and whose memory that is.

pub(crate) mod input;
pub(crate) mod output;
pub(crate) mod pool;
