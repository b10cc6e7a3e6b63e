//! The frames between an owner and the nodes that follow its map.

use format::crc32c;
use format::entry::Entry;
use format::log::{ENTRIES_AT, Link, PAGE, encode_batch_header, encode_sco_header};
use format::mds::{self, End, FRAME, Frame, Header, Hello};

use super::Target;

pub(super) fn target() -> Target {
    Target { name: "mds_frame", run, seeds, seal }
}

const VOLUME: [u8; 16] = [7; 16];

/// The first batch of a SCO and the one after it, as they are fed.
fn headers() -> Vec<u8> {
    let link = |sequence, previous_crc| Link {
        log: VOLUME,
        sco: 3,
        epoch: 2,
        sequence,
        durable_sequence: 0,
        previous_crc,
    };
    let mut sco = [0; PAGE];
    let mut crc = encode_sco_header(&link(4, 9), &mut sco);
    let mut out = Vec::new();
    let batches = [
        (vec![Entry::Data { lba: 5, clusters: 3 }], vec![1, 2, 3]),
        (vec![Entry::SnapshotCreated([1; 16]), Entry::Closed], vec![]),
    ];
    for (number, (entries, crcs)) in batches.iter().enumerate() {
        let mut header = Vec::new();
        crc = encode_batch_header(&link(5 + number as u64, crc), entries, crcs, &mut header);
        let whole = if number == 0 { [&sco[..], &header].concat() } else { header };
        assert!(mds::put_headers(&whole, &mut out));
    }
    out
}

fn seeds() -> Vec<Vec<u8>> {
    let hello = Hello { version: mds::VERSION, volume: VOLUME, cluster: [0; 16], epoch: 3 };
    let (before, last) = (End { sequence: 4, crc: 9 }, End { sequence: 6, crc: 10 });
    let entries = [Entry::Data { lba: 1, clusters: 2 }, Entry::Reverted([3; 16]), Entry::Closed];
    let said: [(Frame, Vec<u8>); 8] = [
        (Frame::Hello(hello), mds::encode_origin(Some(&[2; 16]), &[[1; 16], VOLUME])),
        (Frame::Standing { sco: 2, end: before }, Vec::new()),
        (Frame::Refused { fence: 4 }, Vec::new()),
        (Frame::Reload, Vec::new()),
        (Frame::Sco { sco: 3, epoch: 2, before, last }, mds::encode_sco(&entries)),
        (Frame::Batches, headers()),
        (Frame::Acknowledged { sequence: 9 }, Vec::new()),
        (Frame::Rejected(mds::Rejection::Cluster), Vec::new()),
    ];
    let streams = said.iter().map(|(frame, payload)| {
        let mut bytes = frame.encode(payload).to_vec();
        bytes.extend_from_slice(payload);
        bytes
    });
    streams.collect()
}

/// Puts magics and checksums right: of the first batch, of the payload, of the frame.
fn seal(bytes: &mut [u8]) {
    let Some((frame, payload)) = bytes.split_at_mut_checked(FRAME) else { return };
    if payload.starts_with(b"OVSBATCH") && payload.len() >= ENTRIES_AT {
        let pages = usize::from(payload[28]).clamp(1, 16);
        let mut page = vec![0; pages * PAGE];
        let len = payload.len().min(page.len());
        page[..len].copy_from_slice(&payload[..len]);
        page[60..64].fill(0);
        payload[60..64].copy_from_slice(&crc32c(&page).to_le_bytes());
    }
    frame[..8].copy_from_slice(mds::MAGIC);
    frame[12..16].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    frame[56..60].copy_from_slice(&crc32c(payload).to_le_bytes());
    let crc = crc32c(&frame[..60]);
    frame[60..].copy_from_slice(&crc.to_le_bytes());
}

/// Takes a frame with its payload; what makes sense must survive being written again.
fn run(bytes: &[u8]) -> bool {
    let Some((head, rest)) = bytes.split_first_chunk::<FRAME>() else { return false };
    let Ok((frame, payload)) = Frame::decode(head) else { return false };
    let Some(body) = rest.get(..payload.len).filter(|body| payload.check(body).is_ok()) else {
        return false;
    };
    assert_eq!(frame.encode(body), *head);
    match frame {
        Frame::Hello(hello) => match mds::decode_origin(body, &hello.volume) {
            Ok((base, ancestors)) => {
                assert_eq!(mds::encode_origin(base.as_ref(), &ancestors), body);
                true
            }
            Err(_) => false,
        },
        Frame::Sco { .. } => match mds::decode_sco(body) {
            Ok(entries) => {
                assert_eq!(mds::decode_sco(&mds::encode_sco(&entries)), Ok(entries));
                true
            }
            Err(_) => false,
        },
        Frame::Batches => match mds::decode_headers(body) {
            Ok(found) => {
                for header in found {
                    let Header::Batch(batch) = header else { continue };
                    let brought: u32 = batch.entries.iter().map(Entry::data_clusters).sum();
                    assert_eq!(brought as usize, batch.crcs.len());
                }
                true
            }
            Err(_) => false,
        },
        _ => true,
    }
}
