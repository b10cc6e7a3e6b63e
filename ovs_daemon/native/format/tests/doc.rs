//! `doc/format.md` against the code: one of each structure is encoded, and every row of its table
//! is looked up in the bytes.
#![allow(clippy::disallowed_methods)]

use std::collections::BTreeMap;

use format::checkpoint::{ChunkRef, Footer, Metadata, StoredMap};
use format::chunk::{self, Extent};
use format::dtl;
use format::edge::token::Token;
use format::edge::{Command, Done, FrameHeader, FrameKind, Verb};
use format::entry::Entry;
use format::fragment::{ERASURE_AT, ErasureHeader, StoredFragment};
use format::log::{Link, PAGE, encode_batch_header, encode_sco_header};
use format::mds;
use format::object::ObjectHeader;
use format::osd::{Claim, Role, wire};
use format::seal::{Compression, Encryption, SEAL, Seal};

/// Offset, field and type of each row of the tables below a heading.
fn rows(heading: &str) -> Vec<(usize, String, String)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../doc/format.md");
    let text = std::fs::read_to_string(path).expect("doc/format.md is readable");
    let start = text.find(&format!("### {heading}\n")).expect("the heading is there");
    let rest = &text[start + 4..];
    let section = &rest[..rest.find("\n#").unwrap_or(rest.len())];
    let mut rows = Vec::new();
    for line in section.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        if let Ok(offset) = cells[0].parse() {
            rows.push((offset, cells[1].to_owned(), cells[2].to_owned()));
        }
    }
    assert!(!rows.is_empty(), "no table below {heading}");
    rows
}

/// Compares `bytes` with the table below `heading`; `fields`: what each named field must hold.
fn compare(heading: &str, bytes: &[u8], fields: &[(&str, Vec<u8>)]) {
    let mut fields: BTreeMap<&str, Vec<u8>> =
        fields.iter().map(|(name, value)| (*name, value.clone())).collect();
    let mut end = 0;
    for (offset, field, kind) in rows(heading) {
        assert_eq!(offset, end, "{heading}: a gap or an overlap before {field}");
        let len = match kind.as_str() {
            "u8" => 1,
            "u16" => 2,
            "u32" => 4,
            "u48" => 6,
            "u64" => 8,
            "uuid" => 16,
            "16 bytes a slot" => 16,
            "to 4096" => 4096 - offset,
            other => match other.strip_suffix(" bytes").map(str::parse) {
                Some(Ok(len)) => len,
                _ => panic!("{heading}: unknown type {other}"),
            },
        };
        end = offset + len;
        let there = &bytes[offset..end];
        if let Some(magic) = field.strip_prefix("magic ") {
            assert_eq!(there, magic.trim_matches('"').as_bytes(), "{heading}: {field}");
        } else if field == "zero" {
            assert!(there.iter().all(|b| *b == 0), "{heading}: bytes at {offset} are not zero");
        } else {
            let expected = fields.remove(field.as_str());
            let expected = expected.unwrap_or_else(|| panic!("{heading}: {field} is not tested"));
            assert_eq!(there, expected, "{heading}: {field}");
        }
    }
    assert!(fields.is_empty(), "{heading}: not in the table: {:?}", fields.keys());
}

fn u16(value: u16) -> Vec<u8> {
    value.to_le_bytes().to_vec()
}
fn u32(value: u32) -> Vec<u8> {
    value.to_le_bytes().to_vec()
}
fn u64(value: u64) -> Vec<u8> {
    value.to_le_bytes().to_vec()
}

fn own_crc(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut copy = bytes.to_vec();
    copy[at..at + 4].fill(0);
    u32(format::crc32c(&copy))
}

fn link() -> Link {
    Link {
        log: [0xa1; 16],
        sco: 0x1122_3344,
        epoch: 0x0102_0304_0506_0708,
        sequence: 0x1112_1314_1516_1718,
        durable_sequence: 0x2122_2324_2526_2728,
        previous_crc: 0x5152_5354,
    }
}

#[test]
fn headers_of_the_write_buffer() {
    let link = link();
    let common = [
        ("log", link.log.to_vec()),
        ("sco", u32(link.sco)),
        ("epoch", u64(link.epoch)),
        ("sequence", u64(link.sequence)),
        ("durable sequence", u64(link.durable_sequence)),
        ("previous crc", u32(link.previous_crc)),
    ];
    let mut page = [0; PAGE];
    let crc = encode_sco_header(&link, &mut page);
    assert_eq!(u32(crc), own_crc(&page, 60));
    let mut fields = common.to_vec();
    fields.extend([("version", u16(1)), ("own crc", u32(crc))]);
    compare("SCO header", &page, &fields);

    let entry = Entry::Data { lba: 0x3_1234_5678, clusters: 3 };
    let mut bytes = Vec::new();
    let crc = encode_batch_header(&link, &[entry], &[7, 8, 9], &mut bytes);
    assert_eq!(u32(crc), own_crc(&bytes, 60));
    let mut slot = Vec::new();
    entry.encode(&mut slot);
    let mut fields = common.to_vec();
    fields.extend([
        ("pages", u16(1)),
        ("own crc", u32(crc)),
        ("slots", u32(1)),
        ("clusters", u32(3)),
        ("entries", slot.clone()),
    ]);
    compare("Batch header", &bytes, &fields);
    assert_eq!(bytes[96..108], [u32(7), u32(8), u32(9)].concat(), "CRCs follow the entries");
    assert!(bytes[108..].iter().all(|b| *b == 0) && bytes.len() == PAGE);

    let fields = [("lba", u64(0x3_1234_5678)[..6].to_vec()), ("kind", vec![1]), ("length", u32(3))];
    compare("Entry slot", &slot, &fields);
    let kinds = [
        Entry::Data { lba: 1, clusters: 1 },
        Entry::Trim { lba: 1, clusters: 1 },
        Entry::SnapshotCreated([9; 16]),
        Entry::SnapshotDeleted([9; 16]),
        Entry::Reverted([9; 16]),
        Entry::Closed,
    ];
    for (number, entry) in kinds.iter().enumerate() {
        let mut bytes = Vec::new();
        entry.encode(&mut bytes);
        assert_eq!(usize::from(bytes[6]), number + 1);
        assert_eq!(bytes.len(), 16 * entry.slots());
        if entry.slots() == 2 {
            assert_eq!(bytes[16..], [9; 16]);
        }
    }
}

#[test]
fn objects() {
    let header = ObjectHeader {
        log: [0xb2; 16],
        sco: 5,
        epoch: 6,
        last_sequence: 7,
        previous_sequence: 8,
        last_crc: 9,
        slots: 10,
        clusters: 11,
        index_crc: 12,
    };
    let page = header.encode();
    let fields = [
        ("log", header.log.to_vec()),
        ("sco", u32(5)),
        ("version", u16(1)),
        ("epoch", u64(6)),
        ("last sequence", u64(7)),
        ("previous sequence", u64(8)),
        ("last crc", u32(9)),
        ("own crc", own_crc(&page, 60)),
        ("slots", u32(10)),
        ("clusters", u32(11)),
        ("index crc", u32(12)),
    ];
    compare("Object header", &page, &fields);
    assert_eq!(ObjectHeader::data_at(3), 4 * 4096);
    assert_eq!(header.crc_at(2), 4096 * (1 + 11) + 8);
}

#[test]
fn claims() {
    let claim = Claim {
        cluster: [1; 16],
        osd: [2; 16],
        domain: "dc1".to_owned(),
        node: "host-7".to_owned(),
        role: Role::Cache,
    };
    let page = claim.encode();
    let padded = |text: &str, len| {
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(len, 0);
        bytes
    };
    let fields = [
        ("cluster", vec![1; 16]),
        ("version", u16(1)),
        ("osd", vec![2; 16]),
        ("domain length", u16(3)),
        ("node length", u16(6)),
        ("role", u16(1)),
        ("own crc", own_crc(&page, 60)),
        ("domain", padded("dc1", 256)),
        ("node", padded("host-7", 256)),
    ];
    compare("OSD claim", &page, &fields);
}

#[test]
fn fragments() {
    let erasure = ErasureHeader { index: 1, payload_len: 8192, original_len: 3, crc: 4 };
    let header = StoredFragment {
        object: "log/sco/1".to_owned(),
        object_len: 5,
        piece_at: 6,
        piece: 7,
        code: [8, 9, 10, 11],
        fragment: 12,
        acknowledge: 14,
        sealed: true,
        generation: 15,
        crcs_crc: 13,
        erasure,
    };
    let page = header.encode();
    let mut name = vec![0; 1024];
    name[..9].copy_from_slice(b"log/sco/1");
    let fields = [
        ("version", u16(1)),
        ("name length", u16(9)),
        ("k", vec![8]),
        ("m", vec![9]),
        ("domains", vec![10]),
        ("local", vec![11]),
        ("fragment", vec![12]),
        ("piece", u32(7)),
        ("piece offset", u64(6)),
        ("object length", u64(5)),
        ("payload length", u32(8192)),
        ("crcs crc", u32(13)),
        ("c", vec![14]),
        ("sealed", vec![1]),
        ("generation", u64(15)),
        ("own crc", own_crc(&page, 60)),
        ("object name", name),
        ("erasure header", erasure.encode().to_vec()),
    ];
    compare("Fragment header", &page, &fields);
    assert_eq!(header.len(), 4096 + 8192 + 2 * 4);
    let bytes = &page[ERASURE_AT..];
    let fields = [
        ("index", u32(1)),
        ("payload length", u32(8192)),
        ("original length", u64(3)),
        ("checksum type", vec![2]),
        ("payload crc32", u32(4)),
        ("backend", vec![7]),
        ("backend version", u32(0x02_0e_01)),
        ("erasure magic", u32(0x0b0c_5ecc)),
        ("library version", u32(0x01_06_02)),
        ("metadata crc32", u32(format::fragment::crc32(&bytes[..59]))),
    ];
    compare("liberasurecode header", bytes, &fields);
}

#[test]
fn seals() {
    let seal = Seal {
        compression: Compression::Zstd,
        encryption: Encryption::Aes256Gcm,
        chunk_log2: 14,
        plain_len: 40_000,
        table_crc: 5,
        salt: [6; 32],
        tag: [7; 16],
        key: "key-1".to_owned(),
    };
    let bytes = seal.encode();
    let mut key = vec![0; 128];
    key[..5].copy_from_slice(b"key-1");
    let fields = [
        ("version", u16(1)),
        ("compression", vec![2]),
        ("encryption", vec![1]),
        ("chunk size", vec![14]),
        ("key name length", u16(5)),
        ("plain length", u64(40_000)),
        ("table crc", u32(5)),
        ("salt", vec![6; 32]),
        ("tag", vec![7; 16]),
        ("key name", key),
        ("own crc", u32(format::crc32c(&bytes[..SEAL - 4]))),
    ];
    compare("Seal", &bytes, &fields);
}

#[test]
fn checkpoints() {
    let chunk = ChunkRef { index: 0x31, log: 0x32, object: 0x33, offset: 0x34, len: 0x35 };
    let metadata = Metadata {
        log: [0xc3; 16],
        position: 0x21,
        last_crc: 0x22,
        last_sequence: 0x23,
        scos: vec![(0x24, 0x25)],
        maps: vec![StoredMap { snapshot: [0xd4; 16], position: 0x26, chunks: vec![chunk] }],
    };
    let bytes = metadata.encode();
    let fields = [
        ("log", vec![0xc3; 16]),
        ("position", u32(0x21)),
        ("last crc", u32(0x22)),
        ("last sequence", u64(0x23)),
        ("sco count", u32(1)),
        ("first sco", u32(0x24)),
        ("first sco clusters", u32(0x25)),
        ("map count", u32(1)),
        ("snapshot", vec![0xd4; 16]),
        ("snapshot position", u32(0x26)),
        ("chunk count", u32(1)),
        ("chunk index", u32(0x31)),
        ("chunk log", u16(0x32)),
        ("chunk object", u64(0x33)),
        ("chunk offset", u64(0x34)),
        ("chunk length", u32(0x35)),
    ];
    compare("Checkpoint metadata", &bytes, &fields);
    assert_eq!(bytes.len(), 104);
    let footer = Footer {
        log: [0xe5; 16],
        number: 1,
        epoch: 2,
        metadata_at: 3,
        metadata_len: 4,
        metadata_crc: 5,
    };
    let bytes = footer.encode();
    let fields = [
        ("log", vec![0xe5; 16]),
        ("number", u64(1)),
        ("epoch", u64(2)),
        ("metadata offset", u64(3)),
        ("metadata length", u32(4)),
        ("metadata crc", u32(5)),
        ("version", u16(1)),
        ("own crc", own_crc(&bytes, 60)),
    ];
    compare("Checkpoint footer", &bytes, &fields);
}

#[test]
fn dtl_frames_and_fence() {
    let hello = dtl::Hello {
        version: 1,
        role: dtl::Role::Remover,
        volume: [0xa6; 16],
        cluster: [0xb7; 16],
        epoch: 0x41,
        generation: 0x42,
    };
    let bytes = dtl::Frame::Hello(hello).encode();
    let crc = |bytes: &[u8]| u32(format::crc32c(&bytes[..60]));
    let fields = [
        ("kind", u16(1)),
        ("version", vec![1]),
        ("role", vec![2]),
        ("payload length", u32(0)),
        ("volume", vec![0xa6; 16]),
        ("cluster", vec![0xb7; 16]),
        ("epoch", u64(0x41)),
        ("generation", u32(0x42)),
        ("own crc", crc(&bytes)),
    ];
    compare("DTL hello", &bytes, &fields);
    let greeted = dtl::Greeted { begin: 1, end: Some((2, 3)), suspect: true, fence: 4 };
    let bytes = dtl::Frame::Greeted(greeted).encode();
    let fields = [
        ("kind", u16(2)),
        ("flags", u16(3)),
        ("payload length", u32(0)),
        ("begin", u64(1)),
        ("sequence", u64(2)),
        ("header crc", u32(3)),
        ("fence", u64(4)),
        ("own crc", crc(&bytes)),
    ];
    compare("DTL greeted", &bytes, &fields);
    let bytes = dtl::Fence { volume: [0xc8; 16], epoch: 5, suspect: true }.encode();
    let fields = [
        ("volume", vec![0xc8; 16]),
        ("epoch", u64(5)),
        ("suspect", u32(1)),
        ("version", u32(1)),
        ("own crc", crc(&bytes)),
    ];
    compare("DTL fence", &bytes, &fields);
    let file = dtl::Frame::File { sco: 6, offset: 7, payload: 8 }.encode();
    assert_eq!((&file[8..10], &file[12..20]), (&u16(9)[..], &[u32(8), u32(6)].concat()[..]));
    assert_eq!(file[24..32], u64(7));
}

#[test]
fn mds_frames() {
    let hello = mds::Hello { version: 1, volume: [0xa6; 16], cluster: [0xb7; 16], epoch: 0x41 };
    let origin = mds::encode_origin(None, &[[0xa6; 16]]);
    assert_eq!(origin, [[0; 16], [0xa6; 16]].concat());
    let bytes = mds::Frame::Hello(hello).encode(&origin);
    let crc = |bytes: &[u8]| u32(format::crc32c(&bytes[..60]));
    let fields = [
        ("kind", u16(1)),
        ("version", u16(1)),
        ("payload length", u32(32)),
        ("volume", vec![0xa6; 16]),
        ("cluster", vec![0xb7; 16]),
        ("epoch", u64(0x41)),
        ("payload crc", u32(format::crc32c(&origin))),
        ("own crc", crc(&bytes)),
    ];
    compare("MDS hello", &bytes, &fields);
    let entries = mds::encode_sco(&[Entry::Data { lba: 1, clusters: 2 }]);
    let (before, last) = (mds::End { sequence: 2, crc: 3 }, mds::End { sequence: 4, crc: 5 });
    let bytes = mds::Frame::Sco { sco: 6, epoch: 7, before, last }.encode(&entries);
    let fields = [
        ("kind", u16(5)),
        ("payload length", u32(16)),
        ("epoch", u64(7)),
        ("sequence before", u64(2)),
        ("header crc before", u32(3)),
        ("sco", u32(6)),
        ("sequence", u64(4)),
        ("header crc", u32(5)),
        ("payload crc", u32(format::crc32c(&entries))),
        ("own crc", crc(&bytes)),
    ];
    compare("MDS sco", &bytes, &fields);
    let standing = mds::Frame::Standing { sco: 8, end: last }.encode(&[]);
    assert_eq!(standing[16..32], [u64(4), u32(5), u32(8)].concat());
}

#[test]
fn chunk_records() {
    let extents = [
        Extent { start: 0, len: 512, log: 1, sco: 0x1234_5678, ordinal: 3 },
        Extent { start: 600, len: 2, log: 1, sco: 9, ordinal: 4 },
    ];
    let mut bytes = Vec::new();
    let mut writer = chunk::Writer::new(7, &mut bytes);
    for extent in extents {
        writer.run(extent);
    }
    writer.finish();
    let fields = [
        ("version", u16(1)),
        ("index", u32(7)),
        ("sections", u32(1)),
        ("clusters", u32(514)),
        ("record length", u32(bytes.len() as u32)),
    ];
    compare("Chunk record", &bytes, &fields);
    let end = bytes.len() - 4;
    assert_eq!(bytes[end..], u32(format::crc32c(&bytes[..end])));
    let runs = [
        vec![1, 0],
        u16(2),
        [u16(0), u16(511), u16(3), u16(1), u32(0x1234_5678)].concat(),
        [u16(600), u16(1), u16(4), u16(1), u32(9)].concat(),
    ];
    assert_eq!(bytes[24..end], runs.concat(), "section RUNS");
}

#[test]
fn the_edge_protocol() {
    let command =
        Command { tag: 1, verb: Verb::Write, flags: 1, offset: 2, length: 3, place: 4, room: 5 };
    let bytes = command.encode();
    let fields = [
        ("tag", u32(1)),
        ("verb", vec![2]),
        ("flags", vec![1]),
        ("volume offset", u64(2)),
        ("request length", u64(3)),
        ("place", u64(4)),
        ("room", u32(5)),
    ];
    compare("Edge command", &bytes, &fields);
    assert!(bytes.len() == 64 && bytes[36..].iter().all(|b| *b == 0));
    let done = Done { tag: 1, errno: 5, extents: 2 }.encode();
    let fields = [("tag", u32(1)), ("errno", u32(5)), ("extents", u32(2))];
    compare("Edge done", &done, &fields);
    assert_eq!(done.len(), 16);
    let (kind, crc) = (FrameKind::Submit, format::crc32c(b"body"));
    let header = FrameHeader { kind, body_len: 4, crc }.encode();
    let fields = [
        ("kind", u16(FrameKind::Submit as u16)),
        ("body length", u32(4)),
        ("body crc", u32(format::crc32c(b"body"))),
    ];
    compare("Edge frame header", &header, &fields);
    let token = Token { may_write: true, expires: 77, generation: 3, mac: [9; 32] }.encode();
    let fields = [
        ("version", vec![2]),
        ("may write", vec![1]),
        ("expires", u64(77)),
        ("generation", u64(3)),
        ("signature", [9; 32].to_vec()),
    ];
    compare("Edge attach token", &token, &fields);
}

#[test]
fn osd_frames() {
    let meta = b"a/sco/00000001.obj/x";
    let frame = wire::Frame {
        code: 0x0304,
        a: 0x1112_1314_1516_1718,
        b: 0x2122_2324_2526_2728,
        c: 0x3132_3334,
        ..wire::Frame::new(wire::Kind::Put, 0x0102_0304_0506_0708, meta, 0x1_0000)
    };
    let bytes = frame.encode();
    let fields = [
        ("kind", u16(16)),
        ("code", u16(frame.code)),
        ("meta", u32(meta.len() as u32)),
        ("tag", u64(frame.tag)),
        ("data", u32(0x1_0000)),
        ("meta crc", u32(format::crc32c(meta))),
        ("a", u64(frame.a)),
        ("b", u64(frame.b)),
        ("c", u32(frame.c)),
        ("own crc", u32(format::crc32c(&bytes[..60]))),
    ];
    compare("OSD frame", &bytes, &fields);
}
