//! Chunk records: the bytes as drawn, what goes in comes out, and nothing else is believed.
#![allow(missing_docs)]

use format::chunk::{
    CLUSTERS, ChunkError, Extent, HEADER_BYTES, LEAF_CLUSTERS, TRAILER_BYTES, WORDS, Writer, decode,
};
use format::crc32c;
use proptest::prelude::*;

fn extents(bytes: &[u8]) -> Result<Vec<Extent>, ChunkError> {
    let mut all = Vec::new();
    decode(bytes)?.for_each(|extent| all.push(extent));
    Ok(all)
}

fn runs(index: u32, runs: &[Extent]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = Writer::new(index, &mut out);
    runs.iter().for_each(|run| writer.run(*run));
    assert_eq!(writer.finish(), out.len());
    out
}

fn extent(start: u16, len: u32, log: u16, sco: u32, ordinal: u16) -> Extent {
    Extent { start, len, log, sco, ordinal }
}

/// Makes the length and the CRC right again after a change.
fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    let length = bytes.len();
    bytes[20..24].copy_from_slice(&(length as u32).to_le_bytes());
    let body = length - TRAILER_BYTES;
    let crc = crc32c(&bytes[..body]);
    bytes[body..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// One section of each kind.
fn sample() -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = Writer::new(0x0102, &mut out);
    writer.run(extent(5, 2, 3, 0x0a0b_0c0d, 0x1112));
    let mut bitmap = [0; WORDS];
    (bitmap[0], bitmap[7]) = (1, 1 << 63);
    writer.packed(2, (4, 0x0203), &bitmap, [0x0001_0009, 0x0002_0008].into_iter());
    writer.mixed(3, &bitmap, [(6, 0x0107, 0x0208), (7, 0x0109, 0x020a)].into_iter());
    writer.run(extent(5000, 60_000, 1, 2, 3));
    writer.finish();
    out
}

#[test]
fn the_bytes_are_those_of_the_drawing() {
    let mut expected = b"OVMC\x01\0\0\0\x02\x01\0\0\x04\0\0\0\x66\xea\0\0".to_vec();
    expected.extend(228u32.to_le_bytes());
    expected.extend(*b"\x01\0\x01\0\x05\0\x01\0\x12\x11\x03\0\x0d\x0c\x0b\x0a");
    let mut bitmap = [0u8; 64];
    (bitmap[0], bitmap[63]) = (1, 0x80);
    expected.extend(*b"\x02\x02\x04\0\x03\x02\0\0");
    expected.extend(bitmap);
    expected.extend(*b"\x09\0\x01\0\x08\0\x02\0");
    expected.extend(*b"\x03\x03\0\0\0\0\0\0");
    expected.extend(bitmap);
    expected.extend(*b"\x08\x02\x06\0\x07\x01\0\0\x0a\x02\x07\0\x09\x01\0\0");
    expected.extend(*b"\x01\0\x01\0\x88\x13\x5f\xea\x03\0\x01\0\x02\0\0\0");
    expected.extend([0; 4]);
    assert_eq!(sample(), seal(expected));
}

#[test]
fn a_record_gives_back_its_extents() {
    let bytes = sample();
    let record = decode(&bytes).expect("a record just written");
    assert_eq!((record.index(), record.clusters()), (0x0102, 60_006));
    let leaf = LEAF_CLUSTERS as u16;
    let expected = [
        extent(5, 2, 3, 0x0a0b_0c0d, 0x1112),
        extent(2 * leaf, 1, 4, 0x0203_0001, 9),
        extent(2 * leaf + 511, 1, 4, 0x0203_0002, 8),
        extent(3 * leaf, 1, 6, 0x0107, 0x0208),
        extent(3 * leaf + 511, 1, 7, 0x0109, 0x020a),
        extent(5000, 60_000, 1, 2, 3),
    ];
    assert_eq!(extents(&bytes), Ok(expected.to_vec()));
    let whole = [extent(0, CLUSTERS, 0, 1, 0)];
    assert_eq!(extents(&runs(9, &whole)), Ok(whole.to_vec()));
    assert_eq!(extents(&runs(9, &[])), Ok(Vec::new()));
}

#[test]
fn more_runs_than_a_section_counts_make_two() {
    let alternating: Vec<Extent> = (0..CLUSTERS).map(|n| extent(n as u16, 1, 0, n, 7)).collect();
    let bytes = runs(1, &alternating);
    assert_eq!(bytes[12..16], 2u32.to_le_bytes());
    assert_eq!(extents(&bytes), Ok(alternating));
}

#[test]
fn every_damaged_byte_and_every_cut_is_noticed() {
    let good = sample();
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            assert!(decode(&bad).is_err(), "bit {bit} of byte {at}");
        }
        assert!(decode(&good[..at]).is_err(), "cut at {at}");
    }
    let mut long = good.clone();
    long.push(0);
    let expected = good.len();
    assert_eq!(decode(&long).err(), Some(ChunkError::Length { given: expected + 1, expected }));
}

#[test]
fn each_fault_has_its_error() {
    let good = sample();
    let section = |at: usize, why| Some(ChunkError::Section { at, why });
    let changed = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        decode(&seal(bytes)).err()
    };
    assert_eq!(decode(b"").err(), Some(ChunkError::Length { given: 0, expected: 28 }));
    assert_eq!(changed(0, b'X'), Some(ChunkError::Magic(*b"XVMC")));
    assert_eq!(changed(4, 2), Some(ChunkError::Version(2)));
    assert_eq!(changed(12, 5), Some(ChunkError::Totals));
    assert_eq!(changed(16, 5), Some(ChunkError::Totals));
    assert_eq!(changed(6, 1), section(6, "the reserved bytes are not zero"));
    let (runs_at, packed_at, mixed_at, last_at) = (24, 40, 120, 208);
    assert_eq!(changed(runs_at, 9), section(runs_at, "its kind is unknown"));
    assert_eq!(changed(runs_at + 1, 1), section(runs_at, "the reserved byte is not zero"));
    assert_eq!(changed(runs_at + 2, 0), section(runs_at, "it has no runs"));
    assert_eq!(changed(packed_at + 1, 128), section(packed_at, "its leaf is outside the chunk"));
    assert_eq!(changed(packed_at + 1, 0), section(packed_at, "the clusters are not in order"));
    assert_eq!(changed(packed_at + 7, 1), section(packed_at, "the reserved bytes are not zero"));
    assert_eq!(changed(packed_at + 9, 1), section(mixed_at + 4, "its kind is unknown"));
    assert_eq!(changed(mixed_at + 1, 2), section(mixed_at, "the clusters are not in order"));
    assert_eq!(changed(mixed_at + 5, 1), section(mixed_at, "the reserved bytes are not zero"));
    assert_eq!(changed(last_at + 2, 2), section(last_at, "it is cut short"));
    let past_sco = section(last_at, "a run passes the last ordinal of its SCO");
    assert_eq!(changed(last_at + 9, 0xff), past_sco);
    assert_eq!(changed(last_at + 5, 0), section(last_at, "the clusters are not in order"));
    assert_eq!(changed(last_at + 5, 0xff), section(last_at, "it passes the end of the chunk"));
    let mut empty = good.clone();
    (empty[packed_at + 8], empty[packed_at + 71]) = (0, 0);
    assert_eq!(decode(&seal(empty)).err(), section(packed_at, "its bitmap is empty"));
    let text = ChunkError::Checksum { stored: 1, computed: 2 }.to_string();
    assert!(text.contains("00000001") && text.contains("older checkpoint"), "{text}");
}

/// Extents in order: gaps and lengths of all sizes, few locations so that some continue others.
fn lists() -> impl Strategy<Value = Vec<Extent>> {
    let piece = (0..600u32, prop_oneof![1..3u32, 1..2000u32], 0..2u16, 0..3u32, 0..40_000u16);
    prop::collection::vec(piece, 0..80).prop_map(|pieces| {
        let mut next = 0;
        let mut list = Vec::new();
        for (gap, len, log, sco, ordinal) in pieces {
            let start = next + gap;
            next = start + len;
            if next <= CLUSTERS {
                list.push(extent(start as u16, len, log, sco, ordinal));
            }
        }
        list
    })
}

proptest! {
    #[test]
    fn lists_come_back(list in lists(), index: u32) {
        let bytes = runs(index, &list);
        let record = decode(&bytes).expect("a record just written");
        prop_assert_eq!(record.index(), index);
        prop_assert_eq!(record.clusters(), list.iter().map(|run| run.len).sum::<u32>());
        // Joined where one continues the other, cluster by cluster the same.
        let singles = |list: &[Extent]| -> Vec<Extent> {
            let single = |run: &Extent, n: u32| extent(
                run.start + n as u16, 1, run.log, run.sco, run.ordinal + n as u16,
            );
            list.iter().flat_map(|run| (0..run.len).map(|n| single(run, n)).collect::<Vec<_>>())
                .collect()
        };
        let found = extents(&bytes).expect("a record just written");
        prop_assert_eq!(singles(&found), singles(&list));
        for pair in found.windows(2) {
            prop_assert!(u32::from(pair[0].start) + pair[0].len <= u32::from(pair[1].start));
        }
    }

    #[test]
    fn garbage_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(decode(&bytes).is_err());
    }

    /// With magic, version, length and CRC right, and kinds that occur: whatever is accepted is in
    /// order and within the chunk.
    #[test]
    fn plausible_garbage_is_refused_or_harmless(
        sections in prop::collection::vec((0..5u8, prop::collection::vec(any::<u8>(), 0..160)), 0..6),
        totals: (u8, u8),
    ) {
        let mut bytes = b"OVMC\x01\0\0\0\0\0\0\0".to_vec();
        bytes.extend([totals.0 % 8, 0, 0, 0, totals.1, 0, 0, 0, 0, 0, 0, 0]);
        for (kind, body) in sections {
            bytes.push(kind);
            bytes.extend(body);
        }
        bytes.extend([0; TRAILER_BYTES]);
        if let Ok(found) = extents(&seal(bytes)) {
            let mut next = 0;
            for run in found {
                prop_assert!(u32::from(run.start) >= next);
                next = u32::from(run.start) + run.len;
                prop_assert!(next <= CLUSTERS && u32::from(run.ordinal) + run.len <= 1 << 16);
            }
        }
    }

    /// A good record with some bytes changed and sealed again never makes the parser panic.
    #[test]
    fn sealed_damage_is_refused_or_harmless(
        changes in prop::collection::vec((HEADER_BYTES..224usize, any::<u8>()), 1..8),
        cut in 0..60usize,
    ) {
        let mut bytes = sample();
        changes.into_iter().for_each(|(at, value)| bytes[at] = value);
        bytes.truncate(bytes.len() - cut);
        if let Ok(found) = extents(&seal(bytes)) {
            prop_assert!(found.iter().all(|run| u32::from(run.start) + run.len <= CLUSTERS));
        }
    }
}
