//! What an append brings: checked against every checksum before anything of it is believed.

use format::entry::Uuid;
use format::log::{HEADER_PAGES_MAX, PAGE, decode_sco_header, peek_batch_pages, view_batch_header};
use machines::dtl::Mark;
use machines::dtl::keeper::Piece;
use media::Slice;

/// Batches of one SCO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contents {
    /// The SCO.
    pub sco: u32,
    /// Which batches.
    pub piece: Piece,
}

/// Checks the payload of an append; `None`: it is not what a healthy owner sends. `scratch` is for
/// headers.
pub fn inspect(payload: &Slice, volume: &Uuid, scratch: &mut Vec<u8>) -> Option<Contents> {
    let pages = payload.len() / PAGE;
    if !payload.len().is_multiple_of(PAGE) || pages == 0 {
        return None;
    }
    // Once: filling it anew for each batch would cost more than the batch.
    if scratch.len() < HEADER_PAGES_MAX * PAGE {
        scratch.resize(HEADER_PAGES_MAX * PAGE, 0);
    }
    payload.read(0, &mut scratch[..PAGE]);
    let (mut at, mut end, mut sco, mut previous) = (0, None, None, None);
    let mut starts_sco = false;
    if let Ok((link, crc)) = decode_sco_header(&scratch[..PAGE]) {
        if link.log != *volume {
            return None;
        }
        (starts_sco, sco, at) = (true, Some(link.sco), 1);
        previous = Some(Mark { sequence: link.sequence, crc: link.previous_crc });
        end = Some(Mark { sequence: link.sequence, crc });
    }
    let mut batches = 0;
    while at < pages {
        let header_pages = read_header(payload, at, pages, scratch)?;
        let view = view_batch_header(&scratch[..header_pages * PAGE]).ok()?;
        let link = view.link;
        if link.log != *volume || sco.is_some_and(|sco| sco != link.sco) {
            return None;
        }
        let before = Mark { sequence: link.sequence.checked_sub(1)?, crc: link.previous_crc };
        if end.is_some_and(|end| end != before) {
            return None;
        }
        previous = previous.or(Some(before));
        let data = at + header_pages;
        if data + view.clusters() > pages {
            return None;
        }
        for index in 0..view.clusters() {
            let cluster = payload.sub((data + index) * PAGE, PAGE);
            if cluster.crc32c() != view.cluster_crc(index) {
                return None;
            }
        }
        (sco, end) = (Some(link.sco), Some(Mark { sequence: link.sequence, crc: view.crc }));
        at = data + view.clusters();
        batches += 1;
    }
    let piece = Piece { previous: previous?, end: end?, starts_sco };
    (batches > 0).then_some(Contents { sco: sco?, piece })
}

/// Copies the header at a page into `scratch`; its pages.
fn read_header(payload: &Slice, at: usize, pages: usize, scratch: &mut [u8]) -> Option<usize> {
    payload.read(at * PAGE, &mut scratch[..PAGE]);
    let header = peek_batch_pages(&scratch[..PAGE]).ok()?;
    if at + header > pages {
        return None;
    }
    payload.read(at * PAGE, &mut scratch[..header * PAGE]);
    Some(header)
}

/// How many bytes from the start of a part of a SCO file are whole batches, and the last batch's
/// mark; `Err`: pages that the first batch needs. `starts_sco`: the part begins with the SCO header.
///
/// # Errors
/// More pages are needed, see above; 0: this is no batch.
pub fn whole_batches(part: &[u8], starts_sco: bool) -> Result<(usize, Mark), usize> {
    let pages = part.len() / PAGE;
    let (mut at, mut last) = (usize::from(starts_sco), None);
    while at < pages {
        let Ok(header) = peek_batch_pages(&part[at * PAGE..]) else { break };
        let bytes = part.get(at * PAGE..(at + header) * PAGE);
        let Some(bytes) = bytes else { return last.ok_or(at + header) };
        let Ok(view) = view_batch_header(bytes) else { break };
        let end = at + header + view.clusters();
        if end > pages {
            return last.ok_or(end);
        }
        last = Some((end * PAGE, Mark { sequence: view.link.sequence, crc: view.crc }));
        at = end;
    }
    last.ok_or(0)
}

#[cfg(test)]
mod tests {
    use buffer::{NewBatch, ScoIndex, Tail};
    use format::crc32c;
    use format::entry::Entry;

    use super::*;

    const VOLUME: Uuid = [5; 16];

    /// Two batches of a new SCO as they lie in its file.
    fn file() -> Vec<u8> {
        let mut tail = Tail { log: VOLUME, epoch: 3, sequence: 7, crc: 99 };
        let (mut index, mut bytes) = (ScoIndex::default(), Vec::new());
        for value in [1u8, 2] {
            let cluster = [value; PAGE];
            let (entries, crcs) = ([Entry::Data { lba: 4, clusters: 1 }], [crc32c(&cluster)]);
            let batch = NewBatch {
                sco: 6,
                sequence: tail.sequence + 1,
                durable_sequence: 7,
                entries: &entries,
                crcs: &crcs,
            };
            let (mut header, mut scratch) = (Vec::new(), Vec::new());
            tail = tail.encode(&batch, &index, &mut header, &mut scratch);
            index.end_page = index.end_page.max(1);
            index.add(&entries, &crcs, 1);
            bytes.extend_from_slice(&header);
            bytes.extend_from_slice(&cluster);
        }
        bytes
    }

    fn check(bytes: &[u8]) -> Option<Contents> {
        inspect(&Slice::copy_of(bytes).unwrap(), &VOLUME, &mut Vec::new())
    }

    #[test]
    fn batches_are_taken_whole_and_every_flipped_bit_is_noticed() {
        let bytes = file();
        let all = check(&bytes).unwrap();
        assert_eq!((all.sco, all.piece.starts_sco), (6, true));
        assert_eq!(all.piece.previous, Mark { sequence: 7, crc: 99 });
        assert_eq!(all.piece.end.sequence, 9);
        let second = check(&bytes[3 * PAGE..]).unwrap();
        assert_eq!((second.piece.starts_sco, second.piece.end), (false, all.piece.end));
        let first = check(&bytes[..3 * PAGE]).unwrap();
        assert_eq!(first.piece.end, second.piece.previous);
        for byte in (0..bytes.len()).step_by(7) {
            let mut spoilt = bytes.clone();
            spoilt[byte] ^= 1;
            assert_eq!(check(&spoilt), None, "byte {byte}");
        }
        assert_eq!(check(&bytes[..PAGE]), None, "a SCO header alone is no batch");
        assert_eq!(check(&bytes[..4 * PAGE]), None, "the data of the second is missing");
    }

    #[test]
    fn a_part_is_cut_at_the_last_whole_batch() {
        let bytes = file();
        let all = check(&bytes).unwrap();
        assert_eq!(whole_batches(&bytes, true), Ok((5 * PAGE, all.piece.end)));
        let first = whole_batches(&bytes[..4 * PAGE], true).unwrap();
        assert_eq!(first.0, 3 * PAGE);
        assert_eq!(whole_batches(&bytes[..2 * PAGE], true), Err(3));
        assert_eq!(whole_batches(&bytes[2 * PAGE..], false), Err(0));
    }
}
