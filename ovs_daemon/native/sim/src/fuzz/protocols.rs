//! Targets for what arrives over sockets and rings.

use format::crc32c;
use format::edge::token::{TOKEN_LEN, Token};
use format::edge::{
    Attached, COMMAND_LEN, CloseReason, Command, DONE_LEN, Done, FLAG_FUA, FRAME_HEADER_LEN, Frame,
    FrameHeader, FrameKind, Hello, Refusal, Verb, stream,
};
use format::fuse::{self, Ask, Asked};
use format::{dtl, nbd};
use machines::nbd::{Action, Catalogue, Export, Feeder, PAYLOAD_BYTES_MAX, Verb as NbdVerb};

use super::Target;
use crate::random::Random;

pub(super) fn targets() -> Vec<Target> {
    vec![
        Target { name: "nbd_session", run: nbd_session, seeds: nbd_streams, seal: |_| {} },
        Target { name: "edge_frame", run: edge_frames, seeds: edge_streams, seal: seal_frame },
        Target { name: "dtl_frame", run: dtl_frames, seeds: dtl_streams, seal: seal_dtl },
        Target { name: "edge_ring", run: edge_ring, seeds: edge_entries, seal: |_| {} },
        Target { name: "fuse_request", run: fuse_request, seeds: fuse_requests, seal: seal_fuse },
        Target { name: "edge_batch", run: edge_batch, seeds: edge_batches, seal: seal_frame },
        Target { name: "edge_token", run: edge_token, seeds: edge_tokens, seal: |_| {} },
    ]
}

const SIZE: u64 = 10 << 20;

struct Exports;

impl Catalogue for Exports {
    fn find(&self, name: &str) -> Option<Export> {
        let read_only = match name {
            "" | "disk" => false,
            "image" => true,
            _ => return None,
        };
        let name = if name.is_empty() { "disk" } else { name }.to_string();
        Some(Export { name, description: "a disk".to_string(), size: SIZE, read_only })
    }

    fn names(&self) -> Vec<String> {
        vec!["disk".to_string(), "image".to_string()]
    }
}

/// Conversations that a well-behaved client might have.
fn nbd_streams() -> Vec<Vec<u8>> {
    vec![
        conversation(&[(nbd::option::STRUCTURED_REPLY, &[]), (nbd::option::LIST, &[])], "disk"),
        conversation(&[(nbd::option::STARTTLS, &[]), (99, b"unknown")], ""),
        conversation(&context_options(), "image"),
    ]
}

fn context_options() -> Vec<(u32, &'static [u8])> {
    const QUERY: &[u8] = b"\0\0\0\x05image\0\0\0\x01\0\0\0\x0fbase:allocation";
    vec![(nbd::option::STRUCTURED_REPLY, &[]), (nbd::option::SET_META_CONTEXT, QUERY)]
}

fn conversation(options: &[(u32, &[u8])], export: &str) -> Vec<u8> {
    let mut bytes = 3u32.to_be_bytes().to_vec();
    let mut option = |kind: u32, data: &[u8]| {
        bytes.extend_from_slice(&nbd::MAGIC_OPTION.to_be_bytes());
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
        bytes.extend_from_slice(data);
    };
    options.iter().for_each(|(kind, data)| option(*kind, data));
    let mut go = (export.len() as u32).to_be_bytes().to_vec();
    go.extend_from_slice(export.as_bytes());
    go.extend_from_slice(&[0, 1, 0, 3]);
    option(nbd::option::GO, &go);
    let mut request = |kind: u16, flags: u16, offset: u64, len: u32, payload: usize| {
        let header = nbd::RequestHeader {
            magic: nbd::MAGIC_REQUEST,
            flags,
            command: kind,
            cookie: offset ^ 77,
            offset,
            len,
        };
        bytes.extend_from_slice(&header.encode());
        bytes.extend((0..payload).map(|n| n as u8));
    };
    request(nbd::command::READ, nbd::flag::DF, 4096, 8192, 0);
    request(nbd::command::WRITE, nbd::flag::FUA, 512, 700, 700);
    request(nbd::command::FLUSH, 0, 0, 0, 0);
    request(nbd::command::TRIM, 0, 0, 65536, 0);
    request(nbd::command::WRITE_ZEROES, nbd::flag::FAST_ZERO, SIZE - 4096, 4096, 0);
    request(nbd::command::BLOCK_STATUS, nbd::flag::REQ_ONE, 0, 1 << 20, 0);
    request(nbd::command::WRITE, 0, SIZE, 16, 16);
    request(nbd::command::DISC, 0, 0, 0, 0);
    bytes
}

/// The session must do the same however the stream is cut, ask only for what is inside the export,
/// and answer with no more than a small multiple of what it was sent.
fn nbd_session(bytes: &[u8]) -> bool {
    let (whole, payload) = feed(bytes);
    let mut random = Random::new(bytes.len() as u64);
    let mut actions = Vec::new();
    let mut feeder = Feeder::new(&mut actions);
    let mut rest = bytes;
    while !rest.is_empty() {
        let (now, later) = rest.split_at((1 + random.index(40)).min(rest.len()));
        feeder.feed(now, &Exports, &mut actions);
        rest = later;
    }
    finish(&mut feeder, &mut actions);
    assert_eq!(actions, whole, "it matters where the stream is cut");
    assert_eq!(feeder.payload, payload);
    let mut sent = 0;
    for action in &whole {
        match action {
            Action::Send(bytes) => sent += bytes.len(),
            Action::Request(request) => {
                // A flush has no range; whatever is in its fields is ignored.
                let inside = request.verb == NbdVerb::Flush
                    || request.offset.checked_add(request.len.into()).is_some_and(|e| e <= SIZE);
                assert!(inside, "{request:?}");
                let moves_data =
                    matches!(request.verb, NbdVerb::Read { .. } | NbdVerb::Write { .. });
                assert!(!moves_data || request.len <= PAYLOAD_BYTES_MAX, "{request:?}");
            }
            Action::Serve(name) => assert!(["disk", "image"].contains(&name.as_str())),
            Action::Close(_) => {}
        }
    }
    assert!(sent <= 1024 + 64 * bytes.len(), "{sent} bytes are an answer to {}", bytes.len());
    let closes = whole.iter().filter(|action| matches!(action, Action::Close(_))).count();
    assert_eq!(closes, 1, "every connection ends once");
    assert!(matches!(whole.last(), Some(Action::Close(_))));
    whole.iter().any(|action| matches!(action, Action::Request(_)))
}

fn feed(bytes: &[u8]) -> (Vec<Action>, Vec<u8>) {
    let mut actions = Vec::new();
    let mut feeder = Feeder::new(&mut actions);
    feeder.feed(bytes, &Exports, &mut actions);
    finish(&mut feeder, &mut actions);
    (actions, feeder.payload)
}

fn finish(feeder: &mut Feeder, actions: &mut Vec<Action>) {
    while feeder.session.in_flight() > 0 {
        feeder.answer(&Exports, actions);
    }
    feeder.session.end_of_stream(false, actions);
}

fn edge_streams() -> Vec<Vec<u8>> {
    let hello = Hello {
        version: 1,
        features: 0,
        volume: [7; 16],
        read_only: false,
        entries: 64,
        token: [0; 64],
        edge: [1; 16],
        connection: 3,
        host: "host-1".into(),
        client: "host-1 edge 4242".to_string(),
    };
    let attached =
        Attached { version: 1, features: 0, size: SIZE, read_only: true, epoch: 3, credits: 64 };
    let refusal = Refusal {
        code: "unknown_volume".to_string(),
        what: "attach".to_string(),
        why: "there is no such volume".to_string(),
        fix: "create it".to_string(),
    };
    let frames = [
        Frame::Hello(hello),
        Frame::Attached(attached),
        Frame::Refused(refusal),
        Frame::Resized { size: 2 * SIZE },
        Frame::Moved { address: "10.0.0.7:26203".to_string(), epoch: 4 },
        Frame::Closed { reason: CloseReason::Stopping, detail: "it stops".to_string() },
        Frame::Goodbye,
    ];
    let mut streams: Vec<Vec<u8>> = frames.iter().map(Frame::encode).collect();
    streams.push(streams.concat());
    streams
}

/// Puts magic, length and checksum of the first frame right.
fn seal_frame(bytes: &mut [u8]) {
    if bytes.len() < FRAME_HEADER_LEN {
        return;
    }
    let (header, body) = bytes.split_at_mut(FRAME_HEADER_LEN);
    header[..4].copy_from_slice(b"OVSE");
    let announced = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
    let len = announced.min(body.len());
    header[8..12].copy_from_slice(&(len as u32).to_le_bytes());
    header[12..16].copy_from_slice(&crc32c(&body[..len]).to_le_bytes());
}

/// Takes frames until something is wrong; every frame must survive being written again.
fn edge_frames(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    let mut frames = 0;
    while let Ok(Some((frame, taken))) = Frame::decode(rest) {
        assert!((FRAME_HEADER_LEN..=rest.len()).contains(&taken), "it took {taken} bytes");
        let shorter = Frame::decode(&rest[..taken - 1]);
        assert_eq!(shorter, Ok(None), "a frame was taken before its last byte was there");
        let again = frame.encode();
        assert_eq!(Frame::decode(&again), Ok(Some((frame, again.len()))));
        rest = &rest[taken..];
        frames += 1;
    }
    frames > 0
}

/// What an owner and its DTL node may say to each other.
fn dtl_streams() -> Vec<Vec<u8>> {
    let hello = dtl::Hello {
        version: dtl::VERSION,
        role: dtl::Role::Successor,
        volume: [7; 16],
        cluster: [0; 16],
        epoch: 3,
        generation: 1,
    };
    let greeted = dtl::Greeted { begin: 0, end: Some((5, 77)), suspect: true, fence: 3 };
    let frames = [
        dtl::Frame::Hello(hello),
        dtl::Frame::Greeted(greeted),
        dtl::Frame::Refused { fence: 4 },
        dtl::Frame::Append { payload: 8192 },
        dtl::Frame::Acknowledged { sequence: 9 },
        dtl::Frame::Trim { below: 3 },
        dtl::Frame::File { sco: 1, offset: 4096, payload: 4096 },
        dtl::Frame::End { files: 1 },
        dtl::Frame::Rejected(dtl::Rejection::Failed),
        dtl::Frame::Done,
    ];
    let mut streams: Vec<Vec<u8>> = frames.iter().map(|frame| frame.encode().to_vec()).collect();
    streams.push(streams.concat());
    streams.push(dtl::Fence { volume: [7; 16], epoch: 3, suspect: false }.encode().to_vec());
    streams
}

/// Puts magic and checksum of the first frame or fence right.
fn seal_dtl(bytes: &mut [u8]) {
    let Some(frame) = bytes.first_chunk_mut::<{ dtl::FRAME }>() else { return };
    let magic = if frame[3] == b'F' { b"OVSFENCE" } else { b"OVSDTL01" };
    frame[..8].copy_from_slice(magic);
    let crc = crc32c(&frame[..60]);
    frame[60..].copy_from_slice(&crc.to_le_bytes());
}

/// Takes frames until one makes no sense; each must survive being written again.
fn dtl_frames(bytes: &[u8]) -> bool {
    if let Ok(fence) = dtl::Fence::decode(bytes) {
        assert_eq!(fence.encode()[..], bytes[..dtl::FENCE]);
        return true;
    }
    let (frames, _) = bytes.as_chunks::<{ dtl::FRAME }>();
    let sense = frames.iter().take_while(|bytes| match dtl::Frame::decode(bytes) {
        Ok(frame) => {
            assert_eq!(frame.encode(), **bytes);
            assert!(frame.payload() <= dtl::PAYLOAD_MAX);
            true
        }
        Err(_) => false,
    });
    sense.count() > 0
}

/// Batches of commands and of answers as they cross a stream.
fn edge_batches() -> Vec<Vec<u8>> {
    let command = |tag, verb, length| Command {
        tag,
        verb,
        flags: 0,
        offset: 4096,
        length,
        place: 0,
        room: 0,
    };
    let commands =
        [command(1, Verb::Write, 4096), command(2, Verb::Read, 8192), command(3, Verb::Flush, 0)];
    let answers = [Done { tag: 1, errno: 0, extents: 0 }, Done { tag: 4, errno: 0, extents: 2 }];
    let mut all = vec![Vec::new(), Vec::new()];
    stream::put_commands(&mut all[0], &commands);
    stream::put_answers(&mut all[1], &answers);
    all
}

/// A batch is refused, or says the same when it is written again, and asks for no payload longer
/// than a stream carries.
fn edge_batch(bytes: &[u8]) -> bool {
    let Some((header, body)) = bytes.split_first_chunk::<FRAME_HEADER_LEN>() else {
        return false;
    };
    let Ok(header) = FrameHeader::decode(header) else { return false };
    let Some(body) = body.get(..header.body_len as usize) else { return false };
    let mut again = Vec::new();
    match header.kind {
        FrameKind::Submit => {
            let Ok(commands) = stream::commands(&header, body) else { return false };
            let longest = commands.iter().map(stream::payload_of).max().unwrap_or(0);
            assert!(longest as u64 <= stream::PIECE_MAX, "{longest} bytes in one payload");
            stream::put_commands(&mut again, &commands);
        }
        FrameKind::Complete => {
            let Ok(answers) = stream::answers(&header, body) else { return false };
            stream::put_answers(&mut again, &answers);
        }
        _ => return false,
    }
    assert_eq!(again, bytes[..again.len()]);
    true
}

fn edge_tokens() -> Vec<Vec<u8>> {
    let token = Token { may_write: true, expires: 1_800_000_000, generation: 0, mac: [7; 32] };
    let later = Token { generation: 6, ..token };
    vec![token.encode().to_vec(), later.encode().to_vec(), [0; TOKEN_LEN].to_vec()]
}

/// A token is refused, or has the bytes that it was read from.
fn edge_token(bytes: &[u8]) -> bool {
    let Some(bytes) = bytes.first_chunk::<TOKEN_LEN>() else { return false };
    match Token::decode(bytes) {
        Ok(Some(token)) => {
            assert_eq!(token.encode(), *bytes);
            true
        }
        Ok(None) => bytes.iter().all(|byte| *byte == 0),
        Err(_) => false,
    }
}

fn edge_entries() -> Vec<Vec<u8>> {
    let command = |verb, flags| Command {
        tag: 5,
        verb,
        flags,
        offset: 4096,
        length: if verb == Verb::Flush { 0 } else { 8192 },
        place: 1 << 20,
        room: if verb == Verb::BlockStatus { 1024 } else { 0 },
    };
    let commands = [
        command(Verb::Read, 0),
        command(Verb::Write, FLAG_FUA),
        command(Verb::Flush, 0),
        command(Verb::BlockStatus, 0),
    ];
    let done = Done { tag: 5, errno: 28, extents: 0 }.encode();
    commands.iter().map(|command| [&command.encode()[..], &done].concat()).collect()
}

/// A command and an answer as they lie in the rings: the peer may write anything there.
fn edge_ring(bytes: &[u8]) -> bool {
    let Some((command, rest)) = bytes.split_first_chunk::<COMMAND_LEN>() else { return false };
    let command = Command::decode(command);
    if let Ok(command) = command {
        assert_eq!(Command::decode(&command.encode()), Ok(command));
        assert_eq!(Command::from_words(&command.to_words()), Ok(command));
    }
    if let Some(done) = rest.first_chunk::<DONE_LEN>()
        && let Ok(done) = Done::decode(done)
    {
        assert_eq!(Done::decode(&done.encode()), Ok(done));
        assert_eq!(Done::from_words(&done.to_words()), Ok(done));
    }
    command.is_ok()
}

/// A request says how long it is.
fn seal_fuse(bytes: &mut [u8]) {
    if let Ok(len) = u32::try_from(bytes.len())
        && let Some(place) = bytes.first_chunk_mut::<4>()
    {
        *place = len.to_le_bytes();
    }
}

fn fuse_requests() -> Vec<Vec<u8>> {
    let request = |opcode: u32, len: usize, words: &[(usize, u32)]| {
        let mut bytes = vec![0; fuse::REQUEST_BYTES + len];
        bytes[4..8].copy_from_slice(&opcode.to_le_bytes());
        for (at, word) in words {
            let at = fuse::REQUEST_BYTES + at;
            bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        seal_fuse(&mut bytes);
        bytes
    };
    vec![
        request(3, 16, &[]),
        request(4, 88, &[(0, 15), (16, 4096)]),
        request(15, 40, &[(8, 8192), (16, 512)]),
        request(16, 40 + 512, &[(8, 8192), (16, 512)]),
        request(26, 16, &[(0, 7), (4, 40), (12, u32::MAX)]),
        request(43, 32, &[(8, 4096), (16, 4096), (24, 3)]),
        request(46, 24, &[(8, 4096), (16, 3)]),
    ]
}

/// A request of the kernel's to a file system in user space.
fn fuse_request(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(fuse::ARGUMENTS_MAX)];
    let Ok(asked) = Asked::parse(head, bytes.len()) else { return false };
    if let Ask::Write { len, .. } = asked.ask {
        assert_eq!(bytes.len(), fuse::WRITE_BYTES + len as usize, "its payload is there");
    }
    true
}
