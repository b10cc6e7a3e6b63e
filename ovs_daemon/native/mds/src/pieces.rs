//! From the frames of an owner to pieces of its log, each checked by itself; whether they continue
//! what is here is the machine's question.

use format::entry::Uuid;
use format::log::{BatchHeader, Link};
use format::mds::{End, Header, decode_headers, decode_sco};
use machines::dtl::Mark;
use machines::mds::Piece;

/// Whose log it has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) volume: Uuid,
    pub(crate) epoch: u64,
}

fn mark(end: End) -> Mark {
    Mark { sequence: end.sequence, crc: end.crc }
}

/// A whole SCO, or its begin.
pub(crate) fn sco(sco: u32, before: End, last: End, payload: &[u8]) -> Result<Piece, String> {
    let entries = decode_sco(payload).map_err(|e| format!("the entries of a SCO: {e}"))?;
    Ok(Piece { sco, before: mark(before), last: mark(last), entries })
}

/// Batches: their headers, as the log has them.
pub(crate) fn batches(source: Source, payload: &[u8]) -> Result<Vec<Piece>, String> {
    let headers = decode_headers(payload).map_err(|e| format!("a batch's header: {e}"))?;
    let mut pieces = Vec::new();
    let mut begin: Option<(Link, u32)> = None;
    for header in headers {
        match header {
            Header::Sco(link, crc) if begin.is_none() && belongs(source, &link) => {
                begin = Some((link, crc));
            }
            Header::Batch(batch) if belongs(source, &batch.link) => {
                pieces.push(piece(batch, begin.take())?);
            }
            _ => return Err("a header of another log or owner".to_owned()),
        }
    }
    match begin {
        None => Ok(pieces),
        Some(_) => Err("the begin of a SCO without a batch".to_owned()),
    }
}

fn belongs(source: Source, link: &Link) -> bool {
    (link.log, link.epoch) == (source.volume, source.epoch)
}

/// A batch; with the header of its SCO in between, when it is the first one there.
fn piece(batch: BatchHeader, begin: Option<(Link, u32)>) -> Result<Piece, String> {
    let link = batch.link;
    let before = match begin {
        None => Mark { sequence: link.sequence.wrapping_sub(1), crc: link.previous_crc },
        Some((sco, crc)) => {
            let chained = sco.sco == link.sco
                && sco.sequence.checked_add(1) == Some(link.sequence)
                && crc == link.previous_crc;
            if !chained {
                return Err("a batch that does not continue the header of its SCO".to_owned());
            }
            Mark { sequence: sco.sequence, crc: sco.previous_crc }
        }
    };
    let last = Mark { sequence: link.sequence, crc: batch.crc };
    Ok(Piece { sco: link.sco, before, last, entries: batch.entries })
}

#[cfg(test)]
mod tests {
    use format::entry::Entry;
    use format::log::{PAGE, encode_batch_header, encode_sco_header};
    use format::mds::{encode_sco, put_headers};

    use super::*;

    const SOURCE: Source = Source { volume: [7; 16], epoch: 2 };

    fn link(sco: u32, sequence: u64, previous_crc: u32) -> Link {
        let (log, epoch) = (SOURCE.volume, SOURCE.epoch);
        Link { log, sco, epoch, sequence, durable_sequence: 0, previous_crc }
    }

    /// The first batch of a SCO as it lies in its file, and the CRC of its header.
    fn first(begin: Link, batch: impl FnOnce(u32) -> Link) -> (Vec<u8>, u32) {
        let mut page = [0; PAGE];
        let crc = encode_sco_header(&begin, &mut page);
        let mut header = Vec::new();
        let last = encode_batch_header(&batch(crc), &[Entry::Closed], &[], &mut header);
        ([page.to_vec(), header].concat(), last)
    }

    fn sent(headers: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        assert!(headers.iter().all(|headers| put_headers(headers, &mut out)));
        out
    }

    #[test]
    fn batches_name_what_they_continue_across_the_header_of_their_sco() {
        let (bytes, last) = first(link(3, 8, 55), |crc| link(3, 9, crc));
        let mut next = Vec::new();
        let entries = [Entry::Trim { lba: 1, clusters: 1 }];
        let end = encode_batch_header(&link(3, 10, last), &entries, &[], &mut next);
        let pieces = batches(SOURCE, &sent(&[&bytes, &next])).unwrap();
        let marks = |sequence, crc| Mark { sequence, crc };
        let expected = [
            (3, marks(8, 55), marks(9, last), vec![Entry::Closed]),
            (3, marks(9, last), marks(10, end), entries.to_vec()),
        ];
        let expected =
            expected.map(|(sco, before, last, entries)| Piece { sco, before, last, entries });
        assert_eq!(pieces, expected);
    }

    #[test]
    fn headers_that_do_not_belong_together_or_to_the_owner_are_refused() {
        let broken: [(Vec<u8>, u32); 5] = [
            first(link(3, 8, 55), |crc| link(3, 9, crc ^ 1)),
            first(link(3, 8, 55), |crc| link(4, 9, crc)),
            first(link(3, 8, 55), |crc| link(3, 10, crc)),
            first(link(3, 8, 55), |crc| Link { epoch: 1, ..link(3, 9, crc) }),
            first(Link { log: [8; 16], ..link(3, 8, 55) }, |crc| link(3, 9, crc)),
        ];
        for (bytes, _) in broken {
            assert!(batches(SOURCE, &sent(&[&bytes])).is_err());
        }
        let (bytes, _) = first(link(3, 8, 55), |crc| link(3, 9, crc));
        let whole = sent(&[&bytes]);
        assert!(batches(SOURCE, &whole).is_ok());
        assert!(batches(SOURCE, &whole[..64]).is_err());
    }

    #[test]
    fn a_sco_keeps_its_entries_and_ends() {
        let (before, last) = (End { sequence: 1, crc: 2 }, End { sequence: 5, crc: 6 });
        let entries = vec![Entry::Data { lba: 9, clusters: 2 }];
        let found = sco(4, before, last, &encode_sco(&entries)).unwrap();
        let (before, last) = (mark(before), mark(last));
        assert_eq!(found, Piece { sco: 4, before, last, entries });
        assert!(sco(4, End::default(), End::default(), &[1; 16]).is_err());
    }
}
