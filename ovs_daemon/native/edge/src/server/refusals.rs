//! What an Edge is told when it is refused, and volumes' names for that.

use format::edge::{Hello, Refusal};

pub(super) fn unknown(hello: &Hello) -> Refusal {
    Refusal {
        code: "unknown_volume".into(),
        what: format!("attach volume {}", uuid(&hello.volume)),
        why: "this engine does not serve a volume with this UUID".into(),
        fix: "check the UUID with 'vstorage volume list'; if it is listed, start its daemon".into(),
    }
}

pub(super) fn too_late(hello: &Hello) -> Refusal {
    Refusal {
        code: "replaced".into(),
        what: format!("attach volume {}", uuid(&hello.volume)),
        why: "a later connection of the same Edge has taken its place".into(),
        fix: "nothing: the later connection serves".into(),
    }
}

/// Why connections of an earlier generation are ended and refused.
pub(super) fn taken_away(hello: &Hello, generation: u64, present: u64) -> Refusal {
    Refusal {
        code: "preempted".into(),
        what: format!("attach volume {} from host {:?}", uuid(&hello.volume), hello.host),
        why: format!(
            "the volume was taken away from this host's users: what it may attach is generation \
             {generation} of the volume's attachments, and only {present} is let in"
        ),
        fix:
            "'vstorage volume show' says who has it now; to have it here again, attach it through \
              the daemon of this host"
                .into(),
    }
}

pub(super) fn malformed(why: &str) -> Refusal {
    Refusal {
        code: "malformed_hello".into(),
        what: "open an Edge session".into(),
        why: why.to_owned(),
        fix: "run a vstorage-edge of the same release as the daemon".into(),
    }
}

/// The usual text form of a UUID.
pub fn uuid(bytes: &[u8; 16]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    parts.join("-")
}

/// The bytes of a UUID in its usual text form, with or without hyphens.
pub fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let hex: Vec<u8> = text.bytes().filter(|byte| *byte != b'-').collect();
    let mut bytes = [0; 16];
    if hex.len() != 32 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = (digit(0)? << 4 | digit(1)?) as u8;
    }
    Some(bytes)
}
