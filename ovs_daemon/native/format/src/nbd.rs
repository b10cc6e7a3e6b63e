//! NBD on the wire: fixed newstyle handshake, options, requests, simple and structured replies.
//!
//! Source of every constant and layout: the protocol document of the NetworkBlockDevice project,
//! `doc/proto.md`. All integers are big-endian. The writers return arrays or append to a vector;
//! the parsers take exactly what the peer sent and return `None` for what is not well formed.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// First word of the server's greeting, "NBDMAGIC".
pub const MAGIC_GREETING: u64 = 0x4e42_444d_4147_4943;
/// Second word of the greeting and first word of every option, "IHAVEOPT".
pub const MAGIC_OPTION: u64 = 0x4948_4156_454f_5054;
/// First word of every reply to an option.
pub const MAGIC_OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
/// First word of every request.
pub const MAGIC_REQUEST: u32 = 0x2560_9513;
/// First word of a simple reply.
pub const MAGIC_SIMPLE_REPLY: u32 = 0x6744_6698;
/// First word of a structured reply chunk.
pub const MAGIC_STRUCTURED_REPLY: u32 = 0x668e_33ef;

/// Handshake flags, of the server and (same bits) of the client.
pub mod handshake {
    /// NBD_FLAG_FIXED_NEWSTYLE, NBD_FLAG_C_FIXED_NEWSTYLE.
    pub const FIXED_NEWSTYLE: u16 = 1;
    /// NBD_FLAG_NO_ZEROES, NBD_FLAG_C_NO_ZEROES: no padding after NBD_OPT_EXPORT_NAME.
    pub const NO_ZEROES: u16 = 2;
}

/// Option numbers (NBD_OPT_*).
pub mod option {
    /// NBD_OPT_EXPORT_NAME.
    pub const EXPORT_NAME: u32 = 1;
    /// NBD_OPT_ABORT.
    pub const ABORT: u32 = 2;
    /// NBD_OPT_LIST.
    pub const LIST: u32 = 3;
    /// NBD_OPT_STARTTLS.
    pub const STARTTLS: u32 = 5;
    /// NBD_OPT_INFO.
    pub const INFO: u32 = 6;
    /// NBD_OPT_GO.
    pub const GO: u32 = 7;
    /// NBD_OPT_STRUCTURED_REPLY.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// NBD_OPT_LIST_META_CONTEXT.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// NBD_OPT_SET_META_CONTEXT.
    pub const SET_META_CONTEXT: u32 = 10;
    /// NBD_OPT_EXTENDED_HEADERS.
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Types of replies to options (NBD_REP_*).
pub mod reply {
    /// NBD_REP_ACK.
    pub const ACK: u32 = 1;
    /// NBD_REP_SERVER.
    pub const SERVER: u32 = 2;
    /// NBD_REP_INFO.
    pub const INFO: u32 = 3;
    /// NBD_REP_META_CONTEXT.
    pub const META_CONTEXT: u32 = 4;
    /// NBD_REP_ERR_UNSUP: the option is not known.
    pub const ERR_UNSUP: u32 = 0x8000_0001;
    /// NBD_REP_ERR_POLICY: known, but forbidden here.
    pub const ERR_POLICY: u32 = 0x8000_0002;
    /// NBD_REP_ERR_INVALID: the option's data makes no sense.
    pub const ERR_INVALID: u32 = 0x8000_0003;
    /// NBD_REP_ERR_UNKNOWN: no export of that name.
    pub const ERR_UNKNOWN: u32 = 0x8000_0006;
    /// NBD_REP_ERR_TOO_BIG: the option's data is too long to be served.
    pub const ERR_TOO_BIG: u32 = 0x8000_0009;
}

/// Information types of NBD_OPT_INFO and NBD_OPT_GO (NBD_INFO_*).
pub mod info {
    /// NBD_INFO_EXPORT.
    pub const EXPORT: u16 = 0;
    /// NBD_INFO_NAME.
    pub const NAME: u16 = 1;
    /// NBD_INFO_DESCRIPTION.
    pub const DESCRIPTION: u16 = 2;
    /// NBD_INFO_BLOCK_SIZE.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags (NBD_FLAG_*).
pub mod transmission {
    /// NBD_FLAG_HAS_FLAGS.
    pub const HAS_FLAGS: u16 = 1;
    /// NBD_FLAG_READ_ONLY.
    pub const READ_ONLY: u16 = 1 << 1;
    /// NBD_FLAG_SEND_FLUSH.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// NBD_FLAG_SEND_FUA.
    pub const SEND_FUA: u16 = 1 << 3;
    /// NBD_FLAG_SEND_TRIM.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// NBD_FLAG_SEND_WRITE_ZEROES.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// NBD_FLAG_SEND_DF.
    pub const SEND_DF: u16 = 1 << 7;
    /// NBD_FLAG_CAN_MULTI_CONN.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// NBD_FLAG_SEND_CACHE.
    pub const SEND_CACHE: u16 = 1 << 10;
    /// NBD_FLAG_SEND_FAST_ZERO.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// Commands (NBD_CMD_*).
pub mod command {
    /// NBD_CMD_READ.
    pub const READ: u16 = 0;
    /// NBD_CMD_WRITE.
    pub const WRITE: u16 = 1;
    /// NBD_CMD_DISC.
    pub const DISC: u16 = 2;
    /// NBD_CMD_FLUSH.
    pub const FLUSH: u16 = 3;
    /// NBD_CMD_TRIM.
    pub const TRIM: u16 = 4;
    /// NBD_CMD_CACHE.
    pub const CACHE: u16 = 5;
    /// NBD_CMD_WRITE_ZEROES.
    pub const WRITE_ZEROES: u16 = 6;
    /// NBD_CMD_BLOCK_STATUS.
    pub const BLOCK_STATUS: u16 = 7;
}

/// Command flags (NBD_CMD_FLAG_*).
pub mod flag {
    /// NBD_CMD_FLAG_FUA.
    pub const FUA: u16 = 1;
    /// NBD_CMD_FLAG_NO_HOLE.
    pub const NO_HOLE: u16 = 1 << 1;
    /// NBD_CMD_FLAG_DF.
    pub const DF: u16 = 1 << 2;
    /// NBD_CMD_FLAG_REQ_ONE.
    pub const REQ_ONE: u16 = 1 << 3;
    /// NBD_CMD_FLAG_FAST_ZERO.
    pub const FAST_ZERO: u16 = 1 << 4;
}

/// Structured reply chunks (NBD_REPLY_TYPE_*, NBD_REPLY_FLAG_*).
pub mod chunk {
    /// NBD_REPLY_FLAG_DONE.
    pub const DONE: u16 = 1;
    /// NBD_REPLY_TYPE_NONE.
    pub const NONE: u16 = 0;
    /// NBD_REPLY_TYPE_OFFSET_DATA.
    pub const OFFSET_DATA: u16 = 1;
    /// NBD_REPLY_TYPE_OFFSET_HOLE.
    pub const OFFSET_HOLE: u16 = 2;
    /// NBD_REPLY_TYPE_BLOCK_STATUS.
    pub const BLOCK_STATUS: u16 = 5;
    /// NBD_REPLY_TYPE_ERROR.
    pub const ERROR: u16 = 0x8001;
    /// NBD_REPLY_TYPE_ERROR_OFFSET.
    pub const ERROR_OFFSET: u16 = 0x8002;
}

/// Status bits of base:allocation.
pub mod status {
    /// NBD_STATE_HOLE.
    pub const HOLE: u32 = 1;
    /// NBD_STATE_ZERO.
    pub const ZERO: u32 = 2;
}

/// Error numbers on the wire (the only ones the protocol knows; they equal Linux's).
pub mod error {
    /// NBD_EPERM.
    pub const EPERM: u32 = 1;
    /// NBD_EIO.
    pub const EIO: u32 = 5;
    /// NBD_ENOMEM.
    pub const ENOMEM: u32 = 12;
    /// NBD_EINVAL.
    pub const EINVAL: u32 = 22;
    /// NBD_ENOSPC.
    pub const ENOSPC: u32 = 28;
    /// NBD_EOVERFLOW.
    pub const EOVERFLOW: u32 = 75;
    /// NBD_ENOTSUP.
    pub const ENOTSUP: u32 = 95;
    /// NBD_ESHUTDOWN.
    pub const ESHUTDOWN: u32 = 108;
}

/// Bytes of the server's greeting.
pub const GREETING_BYTES: usize = 18;
/// Bytes of the client's flags.
pub const CLIENT_FLAGS_BYTES: usize = 4;
/// Bytes of an option's header.
pub const OPTION_HEADER_BYTES: usize = 16;
/// Bytes of a request's header.
pub const REQUEST_BYTES: usize = 28;
/// Bytes of a simple reply.
pub const SIMPLE_REPLY_BYTES: usize = 16;
/// Bytes of the header of a structured reply chunk.
pub const CHUNK_HEADER_BYTES: usize = 20;
/// Bytes in front of the data of an OFFSET_DATA chunk.
pub const DATA_HEADER_BYTES: usize = CHUNK_HEADER_BYTES + 8;
/// Longest string (export name, description, query), in bytes.
pub const STRING_BYTES_MAX: usize = 4096;
/// The only metadata context served.
pub const BASE_ALLOCATION: &str = "base:allocation";

/// The number of an errno on the wire; what the protocol has no number for becomes EIO.
pub fn wire_error(errno: i32) -> u32 {
    match errno as u32 {
        known @ (error::EPERM
        | error::EIO
        | error::ENOMEM
        | error::EINVAL
        | error::ENOSPC
        | error::EOVERFLOW
        | error::ENOTSUP
        | error::ESHUTDOWN) => known,
        _ => error::EIO,
    }
}

/// The server's greeting.
pub fn greeting(flags: u16) -> [u8; GREETING_BYTES] {
    let mut out = [0; GREETING_BYTES];
    out[0..8].copy_from_slice(&MAGIC_GREETING.to_be_bytes());
    out[8..16].copy_from_slice(&MAGIC_OPTION.to_be_bytes());
    out[16..18].copy_from_slice(&flags.to_be_bytes());
    out
}

/// The header of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionHeader {
    /// Must be [`MAGIC_OPTION`].
    pub magic: u64,
    /// One of [`option`].
    pub option: u32,
    /// Bytes of data that follow.
    pub len: u32,
}

impl OptionHeader {
    /// Splits the fields; the magic is for the caller to judge.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; OPTION_HEADER_BYTES] = bytes.try_into().ok()?;
        Some(Self {
            magic: be64(&bytes[0..8]),
            option: be32(&bytes[8..12]),
            len: be32(&bytes[12..16]),
        })
    }
}

/// Appends a reply to an option.
pub fn put_option_reply(out: &mut Vec<u8>, option: u32, kind: u32, data: &[u8]) {
    out.extend_from_slice(&MAGIC_OPTION_REPLY.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    out.extend_from_slice(data);
}

/// Data of NBD_INFO_EXPORT.
pub fn info_export(size: u64, flags: u16) -> [u8; 12] {
    let mut out = [0; 12];
    out[0..2].copy_from_slice(&info::EXPORT.to_be_bytes());
    out[2..10].copy_from_slice(&size.to_be_bytes());
    out[10..12].copy_from_slice(&flags.to_be_bytes());
    out
}

/// Data of NBD_INFO_BLOCK_SIZE: sizes in bytes.
pub fn info_block_size(min: u32, preferred: u32, max: u32) -> [u8; 14] {
    let mut out = [0; 14];
    out[0..2].copy_from_slice(&info::BLOCK_SIZE.to_be_bytes());
    out[2..6].copy_from_slice(&min.to_be_bytes());
    out[6..10].copy_from_slice(&preferred.to_be_bytes());
    out[10..14].copy_from_slice(&max.to_be_bytes());
    out
}

/// Data of NBD_INFO_NAME and NBD_INFO_DESCRIPTION.
pub fn info_text(kind: u16, text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 + text.len());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
    out
}

/// Data of NBD_REP_SERVER.
pub fn server_entry(name: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + name.len());
    out.extend_from_slice(&(name.len() as u32).to_be_bytes());
    out.extend_from_slice(name.as_bytes());
    out
}

/// Data of NBD_REP_META_CONTEXT.
pub fn meta_context(id: u32, name: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + name.len());
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(name.as_bytes());
    out
}

/// Reply to NBD_OPT_EXPORT_NAME; `zeroes`: with the 124 bytes of padding.
pub fn export_reply(size: u64, flags: u16, zeroes: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(134);
    out.extend_from_slice(&size.to_be_bytes());
    out.extend_from_slice(&flags.to_be_bytes());
    if zeroes {
        out.resize(134, 0);
    }
    out
}

/// Data of NBD_OPT_INFO and NBD_OPT_GO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InfoQuery {
    /// Export; empty for the default one.
    pub name: String,
    /// Information types asked for.
    pub wanted: Vec<u16>,
}

impl InfoQuery {
    /// `None`: lengths that do not add up, a name that is too long or no UTF-8.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let name = reader.text()?;
        let count = reader.u16()?;
        if reader.0.len() != usize::from(count) * 2 {
            return None;
        }
        let wanted = reader.0.chunks_exact(2).map(be16).collect();
        Some(Self { name, wanted })
    }
}

/// Data of NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextQuery {
    /// Export; empty for the default one.
    pub name: String,
    /// Queries, such as "base:allocation".
    pub queries: Vec<String>,
}

impl ContextQuery {
    /// `None`: lengths that do not add up, a string that is too long or no UTF-8.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let name = reader.text()?;
        let count = reader.u32()?;
        let mut queries = Vec::new();
        for _ in 0..count {
            queries.push(reader.text()?);
        }
        reader.0.is_empty().then_some(Self { name, queries })
    }
}

/// The export name in NBD_OPT_EXPORT_NAME, whose data is the bare name.
pub fn parse_name(bytes: &[u8]) -> Option<String> {
    if bytes.len() > STRING_BYTES_MAX {
        return None;
    }
    core::str::from_utf8(bytes).ok().map(ToString::to_string)
}

/// The header of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// Must be [`MAGIC_REQUEST`].
    pub magic: u32,
    /// Bits of [`flag`].
    pub flags: u16,
    /// One of [`command`].
    pub command: u16,
    /// The client's; repeated in the reply.
    pub cookie: u64,
    /// Bytes.
    pub offset: u64,
    /// Bytes.
    pub len: u32,
}

impl RequestHeader {
    /// Splits the fields; the magic is for the caller to judge.
    #[inline]
    pub fn parse(bytes: &[u8; REQUEST_BYTES]) -> Self {
        Self {
            magic: be32(&bytes[0..4]),
            flags: be16(&bytes[4..6]),
            command: be16(&bytes[6..8]),
            cookie: be64(&bytes[8..16]),
            offset: be64(&bytes[16..24]),
            len: be32(&bytes[24..28]),
        }
    }

    /// What a client sends (tests, tools).
    pub fn encode(&self) -> [u8; REQUEST_BYTES] {
        let mut out = [0; REQUEST_BYTES];
        out[0..4].copy_from_slice(&self.magic.to_be_bytes());
        out[4..6].copy_from_slice(&self.flags.to_be_bytes());
        out[6..8].copy_from_slice(&self.command.to_be_bytes());
        out[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        out[16..24].copy_from_slice(&self.offset.to_be_bytes());
        out[24..28].copy_from_slice(&self.len.to_be_bytes());
        out
    }
}

/// A simple reply; after one with error 0 to a read, the data follows.
#[inline]
pub fn simple_reply(error: u32, cookie: u64) -> [u8; SIMPLE_REPLY_BYTES] {
    let mut out = [0; SIMPLE_REPLY_BYTES];
    out[0..4].copy_from_slice(&MAGIC_SIMPLE_REPLY.to_be_bytes());
    out[4..8].copy_from_slice(&error.to_be_bytes());
    out[8..16].copy_from_slice(&cookie.to_be_bytes());
    out
}

/// The header of a structured reply chunk with `len` bytes of payload.
#[inline]
pub fn chunk_header(flags: u16, kind: u16, cookie: u64, len: u32) -> [u8; CHUNK_HEADER_BYTES] {
    let mut out = [0; CHUNK_HEADER_BYTES];
    out[0..4].copy_from_slice(&MAGIC_STRUCTURED_REPLY.to_be_bytes());
    out[4..6].copy_from_slice(&flags.to_be_bytes());
    out[6..8].copy_from_slice(&kind.to_be_bytes());
    out[8..16].copy_from_slice(&cookie.to_be_bytes());
    out[16..20].copy_from_slice(&len.to_be_bytes());
    out
}

/// What stands in front of `len` bytes of data from `offset`.
#[inline]
pub fn data_header(done: bool, cookie: u64, offset: u64, len: u32) -> [u8; DATA_HEADER_BYTES] {
    let flags = if done { chunk::DONE } else { 0 };
    let mut out = [0; DATA_HEADER_BYTES];
    let head = chunk_header(flags, chunk::OFFSET_DATA, cookie, len.saturating_add(8));
    out[..CHUNK_HEADER_BYTES].copy_from_slice(&head);
    out[CHUNK_HEADER_BYTES..].copy_from_slice(&offset.to_be_bytes());
    out
}

/// Appends an OFFSET_HOLE chunk: `len` zero bytes from `offset` that are not sent.
pub fn put_hole(out: &mut Vec<u8>, done: bool, cookie: u64, offset: u64, len: u32) {
    let flags = if done { chunk::DONE } else { 0 };
    out.extend_from_slice(&chunk_header(flags, chunk::OFFSET_HOLE, cookie, 12));
    out.extend_from_slice(&offset.to_be_bytes());
    out.extend_from_slice(&len.to_be_bytes());
}

/// Appends the final chunk of a request whose other chunks have been sent.
pub fn put_done(out: &mut Vec<u8>, cookie: u64) {
    out.extend_from_slice(&chunk_header(chunk::DONE, chunk::NONE, cookie, 0));
}

/// Appends a final ERROR chunk; `text` is for people and is cut to the protocol's maximum.
pub fn put_error(out: &mut Vec<u8>, cookie: u64, error: u32, text: &str) {
    let text = clip(text);
    let len = 6 + text.len() as u32;
    out.extend_from_slice(&chunk_header(chunk::DONE, chunk::ERROR, cookie, len));
    out.extend_from_slice(&error.to_be_bytes());
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Appends an ERROR_OFFSET chunk: the error concerns the data at `offset`.
pub fn put_error_offset(out: &mut Vec<u8>, done: bool, cookie: u64, error: u32, offset: u64) {
    let flags = if done { chunk::DONE } else { 0 };
    out.extend_from_slice(&chunk_header(flags, chunk::ERROR_OFFSET, cookie, 14));
    out.extend_from_slice(&error.to_be_bytes());
    out.extend_from_slice(&0u16.to_be_bytes());
    out.extend_from_slice(&offset.to_be_bytes());
}

/// Appends a final BLOCK_STATUS chunk: `extents` of (bytes, bits of [`status`]) in order.
pub fn put_block_status(out: &mut Vec<u8>, cookie: u64, context: u32, extents: &[(u32, u32)]) {
    let len = 4 + 8 * extents.len() as u32;
    out.extend_from_slice(&chunk_header(chunk::DONE, chunk::BLOCK_STATUS, cookie, len));
    out.extend_from_slice(&context.to_be_bytes());
    for (bytes, bits) in extents {
        out.extend_from_slice(&bytes.to_be_bytes());
        out.extend_from_slice(&bits.to_be_bytes());
    }
}

fn clip(text: &str) -> &str {
    let mut end = text.len().min(STRING_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn u16(&mut self) -> Option<u16> {
        let (head, rest) = self.0.split_at_checked(2)?;
        self.0 = rest;
        Some(be16(head))
    }

    fn u32(&mut self) -> Option<u32> {
        let (head, rest) = self.0.split_at_checked(4)?;
        self.0 = rest;
        Some(be32(head))
    }

    fn text(&mut self) -> Option<String> {
        let len = self.u32()? as usize;
        if len > STRING_BYTES_MAX {
            return None;
        }
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        core::str::from_utf8(head).ok().map(ToString::to_string)
    }
}

#[inline]
fn be16(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}

#[inline]
fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

#[inline]
fn be64(bytes: &[u8]) -> u64 {
    u64::from(be32(&bytes[0..4])) << 32 | u64::from(be32(&bytes[4..8]))
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    #[test]
    fn a_request_survives_encoding() {
        let header = RequestHeader {
            magic: MAGIC_REQUEST,
            flags: flag::FUA,
            command: command::WRITE,
            cookie: 0x0102_0304_0506_0708,
            offset: u64::MAX - 3,
            len: 4096,
        };
        let bytes = header.encode();
        assert_eq!(bytes[..8], [0x25, 0x60, 0x95, 0x13, 0, 1, 0, 1]);
        assert_eq!(RequestHeader::parse(&bytes), header);
    }

    #[test]
    fn queries_whose_lengths_do_not_add_up_are_refused() {
        let good = [0, 0, 0, 1, b'v', 0, 1, 0, 3];
        assert_eq!(
            InfoQuery::parse(&good),
            Some(InfoQuery { name: "v".into(), wanted: vec![info::BLOCK_SIZE] })
        );
        for end in 0..good.len() {
            assert_eq!(InfoQuery::parse(&good[..end]), None, "cut at {end}");
        }
        assert_eq!(InfoQuery::parse(&[0, 0, 0, 1, 0xff, 0, 0]), None);
        let context = [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, b'b', b':'];
        assert_eq!(
            ContextQuery::parse(&context),
            Some(ContextQuery { name: String::new(), queries: vec!["b:".into()] })
        );
        for end in 0..context.len() {
            assert_eq!(ContextQuery::parse(&context[..end]), None, "cut at {end}");
        }
    }

    #[test]
    fn replies_are_byte_exact() {
        assert_eq!(
            simple_reply(error::EINVAL, 9),
            [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 22, 0, 0, 0, 0, 0, 0, 0, 9]
        );
        let mut out = Vec::new();
        put_error(&mut out, 1, error::EIO, "no");
        assert_eq!(
            out,
            [
                0x66, 0x8e, 0x33, 0xef, 0, 1, 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0,
                5, 0, 2, b'n', b'o'
            ]
        );
        out.clear();
        put_block_status(&mut out, 1, 7, &[(4096, status::HOLE | status::ZERO)]);
        assert_eq!(out.len(), CHUNK_HEADER_BYTES + 12);
        assert_eq!(out[CHUNK_HEADER_BYTES..], [0, 0, 0, 7, 0, 0, 16, 0, 0, 0, 0, 3]);
        out.clear();
        put_hole(&mut out, true, 1, 4096, 512);
        assert_eq!(out.len(), CHUNK_HEADER_BYTES + 12);
        out.clear();
        put_error_offset(&mut out, false, 1, error::EIO, 4096);
        assert_eq!(out.len(), CHUNK_HEADER_BYTES + 14);
        let data = data_header(true, 1, 4096, 512);
        assert_eq!(data[16..], [0, 0, 2, 8, 0, 0, 0, 0, 0, 0, 16, 0]);
    }

    #[test]
    fn long_error_texts_are_cut_between_characters() {
        let text = "é".repeat(STRING_BYTES_MAX);
        let mut out = Vec::new();
        put_error(&mut out, 1, error::EIO, &text[..STRING_BYTES_MAX + 2]);
        assert_eq!(out.len(), CHUNK_HEADER_BYTES + 6 + STRING_BYTES_MAX);
        assert_eq!(clip("é".repeat(2049).as_str()).len(), STRING_BYTES_MAX);
    }
}
