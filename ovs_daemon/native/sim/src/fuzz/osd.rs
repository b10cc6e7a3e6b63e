//! A connection of an OSD server: bytes to frames to steps of its session, without sockets.

use std::collections::BTreeSet;

use format::crc32c;
use format::osd::wire::{
    Challenge, FRAME, Frame, Hello, IN_FLIGHT_MAX, Kind, Reason, VERSION, is_path,
};
use machines::osd::{Action, Message, Session};

use super::Target;

pub(super) fn targets() -> Vec<Target> {
    vec![Target { name: "osd_session", run: osd_session, seeds: osd_streams, seal: seal_osd }]
}

const CLUSTER: [u8; 16] = [7; 16];
const OSD: [u8; 16] = [9; 16];
/// What stands for the proof of who has the key.
const PROOF: [u8; 32] = [5; 32];

fn frame(kind: Kind, tag: u64, meta: &[u8], data: &[u8]) -> Vec<u8> {
    let frame = Frame { code: VERSION, c: 4096, ..Frame::new(kind, tag, meta, data.len()) };
    [&frame.encode()[..], meta, data].concat()
}

/// Conversations that a well-behaved client might have.
fn osd_streams() -> Vec<Vec<u8>> {
    let hello = Hello { cluster: CLUSTER, osd: OSD, nonce: [1; 32] };
    let greeting =
        [frame(Kind::Hello, 0, &hello.encode(), b""), frame(Kind::Proof, 0, &PROOF, b"")];
    let requests = [
        frame(Kind::Put, 1, b"a/b.obj/x", &[3; 100]),
        frame(Kind::Get, 2, b"a/b.obj/x", b""),
        frame(Kind::Names, 3, b"a\0after", b""),
        frame(Kind::PutRecord, 4, b"name\0text", b""),
        frame(Kind::Delete, 5, b"a/b.obj/x", b""),
        frame(Kind::Space, 6, b"", b""),
        frame(Kind::Keep, 7, b"a/b.obj/x", &[4; 100]),
        frame(Kind::Figures, 8, b"", b""),
    ];
    let server = Hello { osd: [0; 16], ..hello };
    let roll = [
        frame(Kind::Hello, 0, &server.encode(), b""),
        frame(Kind::Proof, 0, &PROOF, b""),
        frame(Kind::Claims, 1, b"", b""),
    ];
    let challenge = Challenge { nonce: [2; 32], proof: PROOF }.encode();
    let odd = [frame(Kind::Challenge, 0, &challenge, b""), frame(Kind::Done, 1, b"", b"")];
    let forged = [greeting[0].clone(), frame(Kind::Proof, 0, &[6; 32], b"")];
    let all = [[&greeting[..], &requests].concat(), roll.to_vec(), odd.to_vec(), forged.to_vec()];
    all.into_iter().map(|frames| frames.concat()).collect()
}

/// Puts the checksums of every frame right that can be found.
fn seal_osd(bytes: &mut [u8]) {
    let mut at = 0;
    while let Some(rest) = bytes.get_mut(at..).filter(|rest| rest.len() >= FRAME) {
        let number = |from: usize| {
            u32::from_le_bytes([rest[from], rest[from + 1], rest[from + 2], rest[from + 3]])
                as usize
        };
        let (meta, data) = (number(12), number(24));
        let end = FRAME.saturating_add(meta).min(rest.len());
        let meta_crc = crc32c(&rest[FRAME..end]);
        rest[..8].copy_from_slice(b"OVSOSDW1");
        rest[28..32].copy_from_slice(&meta_crc.to_le_bytes());
        let crc = crc32c(&rest[..60]);
        rest[60..64].copy_from_slice(&crc.to_le_bytes());
        at = at.saturating_add(FRAME).saturating_add(meta).saturating_add(data);
    }
}

fn message(frame: &Frame, meta: &[u8]) -> Option<Message> {
    Some(match frame.kind {
        Kind::Hello => {
            let hello = Hello::decode(meta).ok()?;
            assert_eq!(hello.encode()[..], *meta);
            let for_server = hello.is_for_server();
            let mut wrong = (!for_server && hello.osd != OSD).then_some(Reason::NoOsd);
            if hello.cluster != CLUSTER {
                wrong = Some(Reason::Cluster);
            }
            Message::Hello { version: frame.code, for_server, wrong }
        }
        Kind::Proof => Message::Proof { genuine: *meta == PROOF },
        kind if kind.is_request() => Message::Request { kind, tag: frame.tag },
        _ => Message::Other,
    })
}

/// Whatever comes: nothing is performed for who has not proved himself, no request twice, not more
/// than may be, and nothing after the end.
fn osd_session(bytes: &[u8]) -> bool {
    let (mut session, mut actions) = (Session::default(), Vec::new());
    let (mut proved, mut over, mut at) = (false, false, 0);
    let mut at_work = BTreeSet::new();
    let mut accepted = false;
    while let Ok(frame) = Frame::decode(bytes.get(at..).unwrap_or_default()) {
        let Some(meta) = bytes.get(at + FRAME..at + FRAME + frame.meta as usize) else { break };
        if frame.check_meta(meta).is_err() {
            break;
        }
        at += FRAME + frame.body();
        let Some(message) = message(&frame, meta) else { break };
        let genuine = message == Message::Proof { genuine: true };
        actions.clear();
        session.step(message, &mut actions);
        for action in &actions {
            assert!(!over, "{action:?} after the end");
            match action {
                Action::Challenge => accepted = true,
                Action::Welcome => {
                    assert!(genuine && accepted);
                    proved = true;
                }
                Action::Perform { tag } => {
                    assert!(proved && at_work.insert(*tag));
                    let text = core::str::from_utf8(meta).unwrap_or_default();
                    assert!(!is_path(text) || !text.contains("/.") && !text.starts_with('/'));
                }
                Action::Answer { .. } => panic!("nothing was performed"),
                Action::Refuse(_) | Action::Close(_) => over = true,
            }
        }
        assert_eq!(session.is_open(), proved && !over);
        assert!(session.in_flight() == at_work.len() && at_work.len() <= IN_FLIGHT_MAX);
    }
    accepted
}
