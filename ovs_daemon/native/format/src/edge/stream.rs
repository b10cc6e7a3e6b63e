//! Requests over a stream: batches of commands one way, batches of answers the other way.
//!
//! ```text
//! Submit    frame header, 1 to 64 commands (the body, under the header's CRC), then for each
//!           write among them, in their order, its `length` bytes
//! Complete  frame header, 1 to 64 answers (the body), then for each of them, in their order:
//!           a read without error: the bytes asked for; a block status: `extents` x 8 bytes
//! ```
//!
//! What one turn of a loop brings forth is one send, a frame for each 64 requests, with payloads
//! gathered from where they lie. `place` and `room` of a command are zero: memory is not shared.
//! One command moves at most [`PIECE_MAX`] bytes, so that its payload lies in one piece wherever it
//! is received.

use alloc::vec::Vec;

use super::{
    ANSWER_ROOM, COMMAND_LEN, Command, DONE_LEN, Done, EXTENT_LEN, FRAME_HEADER_LEN, FrameHeader,
    FrameKind, Verb, WireError,
};
use crate::bytes::crc32c;

/// Most commands or answers in one frame.
pub const BATCH_MAX: usize = 64;
/// Longest payload of one command, in bytes: the largest piece that front ends cut requests to.
pub const PIECE_MAX: u64 = 260 << 10;
/// Most extents of one answer.
pub const EXTENTS_MAX: u32 = ANSWER_ROOM / EXTENT_LEN as u32;

/// Bytes of payload that follow the frame for this command.
#[inline]
pub fn payload_of(command: &Command) -> usize {
    if command.verb == Verb::Write { command.length as usize } else { 0 }
}

/// Puts a frame with these commands behind `out`; there are at most [`BATCH_MAX`] of them.
pub fn put_commands(out: &mut Vec<u8>, commands: &[Command]) {
    let bodies = commands.iter().map(Command::encode);
    put_frame(out, FrameKind::Submit, bodies);
}

/// Puts a frame with these answers behind `out`; there are at most [`BATCH_MAX`] of them.
pub fn put_answers(out: &mut Vec<u8>, answers: &[Done]) {
    put_frame(out, FrameKind::Complete, answers.iter().map(Done::encode));
}

fn put_frame<const N: usize>(
    out: &mut Vec<u8>,
    kind: FrameKind,
    parts: impl ExactSizeIterator<Item = [u8; N]>,
) {
    assert!((1..=BATCH_MAX).contains(&parts.len()), "a frame has 1 to {BATCH_MAX} entries");
    let start = out.len();
    out.resize(start + FRAME_HEADER_LEN, 0);
    for part in parts {
        out.extend_from_slice(&part);
    }
    let body = &out[start + FRAME_HEADER_LEN..];
    let header = FrameHeader { kind, body_len: body.len() as u32, crc: crc32c(body) };
    out[start..start + FRAME_HEADER_LEN].copy_from_slice(&header.encode());
}

/// The commands of a frame's body.
///
/// # Errors
/// A wrong checksum or length, or a command that this version does not know or a stream can't
/// carry. The connection can't be used any more.
pub fn commands(header: &FrameHeader, body: &[u8]) -> Result<Vec<Command>, WireError> {
    entries(header, body, |bytes| {
        let command = Command::decode(bytes)?;
        if command.place != 0 || command.room != 0 || command.is_own() {
            return Err(WireError::Value("place"));
        }
        let moves_data = matches!(command.verb, Verb::Read | Verb::Write);
        if moves_data && !(1..=PIECE_MAX).contains(&command.length) {
            return Err(WireError::Value("length"));
        }
        Ok(command)
    })
}

/// The answers of a frame's body.
///
/// # Errors
/// As [`commands`].
pub fn answers(header: &FrameHeader, body: &[u8]) -> Result<Vec<Done>, WireError> {
    entries(header, body, |bytes: &[u8; DONE_LEN]| {
        let done = Done::decode(bytes)?;
        if done.extents > EXTENTS_MAX || done.errno != 0 && done.extents != 0 {
            return Err(WireError::Value("extents"));
        }
        Ok(done)
    })
}

fn entries<T, const N: usize>(
    header: &FrameHeader,
    body: &[u8],
    decode: impl Fn(&[u8; N]) -> Result<T, WireError>,
) -> Result<Vec<T>, WireError> {
    if crc32c(body) != header.crc {
        return Err(WireError::Checksum);
    }
    if body.is_empty() || !body.len().is_multiple_of(N) || body.len() != header.body_len as usize {
        return Err(WireError::Length);
    }
    body.chunks_exact(N)
        .map(|chunk| decode(chunk.try_into().map_err(|_| WireError::Length)?))
        .collect()
}

const _: () = assert!(BATCH_MAX * COMMAND_LEN <= super::CONTROL_BODY_MAX);

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn command(tag: u32, verb: Verb, length: u64) -> Command {
        Command { tag, verb, flags: 0, offset: 8192, length, place: 0, room: 0 }
    }

    fn parts(bytes: &[u8]) -> (FrameHeader, &[u8]) {
        let (header, body) = bytes.split_first_chunk().unwrap();
        (FrameHeader::decode(header).unwrap(), body)
    }

    #[test]
    fn batches_read_back() {
        let all = [command(1, Verb::Write, 4096), command(2, Verb::Flush, 0)];
        let mut bytes = Vec::new();
        put_commands(&mut bytes, &all);
        assert_eq!(bytes.len(), FRAME_HEADER_LEN + 2 * COMMAND_LEN);
        let (header, body) = parts(&bytes);
        assert_eq!(header.kind, FrameKind::Submit);
        assert_eq!(commands(&header, body).unwrap(), all);
        assert_eq!(all.map(|c| payload_of(&c)), [4096, 0]);
        let done = vec![Done { tag: 9, errno: 0, extents: 3 }; BATCH_MAX];
        let mut bytes = Vec::new();
        put_answers(&mut bytes, &done);
        let (header, body) = parts(&bytes);
        assert_eq!(answers(&header, body).unwrap(), done);
    }

    #[test]
    fn what_a_stream_cannot_carry_is_refused() {
        let longest = command(1, Verb::Read, PIECE_MAX);
        let wrong = [
            Command { length: PIECE_MAX + 1, ..longest },
            Command { length: 0, ..longest },
            Command { place: 1, ..longest },
            Command { flags: super::super::FLAG_OWN, ..longest },
        ];
        for command in wrong {
            let mut bytes = Vec::new();
            put_commands(&mut bytes, &[longest, command]);
            let (header, body) = parts(&bytes);
            assert!(matches!(commands(&header, body), Err(WireError::Value(_))), "{command:?}");
        }
        let mut bytes = Vec::new();
        put_answers(&mut bytes, &[Done { tag: 1, errno: 5, extents: 1 }]);
        let (header, body) = parts(&bytes);
        assert_eq!(answers(&header, body), Err(WireError::Value("extents")));
        let short = &body[..DONE_LEN - 1];
        let header = FrameHeader { body_len: short.len() as u32, crc: crc32c(short), ..header };
        assert_eq!(answers(&header, short), Err(WireError::Length));
        assert_eq!(answers(&header, body), Err(WireError::Checksum));
    }
}
