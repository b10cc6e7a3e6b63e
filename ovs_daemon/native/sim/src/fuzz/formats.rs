//! Targets for the stored formats.

use format::checkpoint::{ChunkRef, FOOTER, Footer, Metadata, StoredMap};
use format::crc32c;
use format::entry::Entry;
use format::fragment::{ErasureHeader, StoredFragment};
use format::log::{self, Link, PAGE, VERSION};
use format::object::{ObjectHeader, ObjectIndex};
use format::osd::{Claim, Role};
use format::seal::{Compression, Encryption, SEAL, Seal, SealedChunk};

use machines::map::{Chunk, Loc, Map};

use super::Target;

/// Every header of this project keeps its CRC here.
const CRC_AT: usize = 60;

pub(super) fn targets() -> Vec<Target> {
    vec![
        Target {
            name: "sco_header",
            run: sco_header,
            seeds: sco_headers,
            seal: |bytes| seal(bytes, b"OVSSCO01", PAGE),
        },
        Target { name: "batch_header", run: batch_header, seeds: batches, seal: seal_batch },
        Target { name: "object", run: object, seeds: objects, seal: seal_object },
        Target {
            name: "checkpoint_footer",
            run: checkpoint_footer,
            seeds: footers,
            seal: |bytes| seal(bytes, b"OVSCKPT1", FOOTER),
        },
        Target {
            name: "checkpoint_metadata",
            run: checkpoint_metadata,
            seeds: || vec![metadata().encode()],
            seal: |_| {},
        },
        Target {
            name: "osd_claim",
            run: osd_claim,
            seeds: || vec![claim().encode().to_vec()],
            seal: |bytes| seal(bytes, b"OVSOSD01", PAGE),
        },
        Target { name: "fragment", run: fragment, seeds: fragments, seal: seal_fragment },
        Target { name: "seal", run: sealed_end, seeds: sealed_ends, seal: seal_end },
        Target { name: "chunk", run: chunk, seeds: chunks, seal: seal_chunk },
    ]
}

/// Puts magic, version and CRC of a header of `len` bytes right.
fn seal(bytes: &mut [u8], magic: &[u8; 8], len: usize) {
    if bytes.len() < len {
        return;
    }
    let version_at = if len == FOOTER { 56 } else { 28 };
    bytes[..8].copy_from_slice(magic);
    bytes[version_at..version_at + 2].copy_from_slice(&VERSION.to_le_bytes());
    seal_crc(&mut bytes[..len]);
}

fn seal_crc(header: &mut [u8]) {
    header[CRC_AT..CRC_AT + 4].fill(0);
    let crc = crc32c(header);
    header[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
}

fn seal_batch(bytes: &mut [u8]) {
    if bytes.len() >= PAGE {
        bytes[..8].copy_from_slice(b"OVSBATCH");
        let pages = usize::from(u16::from_le_bytes([bytes[28], bytes[29]]));
        let pages = pages.clamp(1, (bytes.len() / PAGE).min(log::HEADER_PAGES_MAX));
        bytes[28..30].copy_from_slice(&(pages as u16).to_le_bytes());
        seal_crc(&mut bytes[..pages * PAGE]);
    }
}

/// The input is an object without its data clusters: header page, then index.
fn seal_object(bytes: &mut [u8]) {
    if bytes.len() >= PAGE {
        let crc = crc32c(&bytes[PAGE..]);
        bytes[72..76].copy_from_slice(&crc.to_le_bytes());
        seal(bytes, b"OVSOBJ01", PAGE);
    }
}

/// The header page of a fragment, with liberasurecode's header and its CRC at the end.
fn seal_fragment(bytes: &mut [u8]) {
    if bytes.len() >= PAGE {
        bytes[..8].copy_from_slice(b"OVSFRAG1");
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        let erasure = &mut bytes[PAGE - 80..PAGE];
        let crc = format::fragment::crc32(&erasure[..59]);
        erasure[67..71].copy_from_slice(&crc.to_le_bytes());
        seal_crc(&mut bytes[..PAGE]);
    }
}

fn fragments() -> Vec<Vec<u8>> {
    let erasure = ErasureHeader { index: 1, payload_len: 8192, original_len: 9000, crc: 4 };
    let header = StoredFragment {
        object: "a/sco/00000001".to_owned(),
        object_len: 9000,
        piece_at: 0,
        piece: 0,
        code: [4, 2, 3, 1],
        fragment: 1,
        acknowledge: 5,
        sealed: false,
        generation: 77,
        crcs_crc: 13,
        erasure,
    };
    vec![header.encode().to_vec()]
}

/// The input is the end of a sealed object: table, then seal.
fn sealed_ends() -> Vec<Vec<u8>> {
    let end = |compression, encryption, lens: &[(u32, bool)], plain_len| {
        let one =
            |(len, packed): &(u32, bool)| SealedChunk { at: 0, len: *len, packed: *packed, crc: 1 };
        let table = Seal::encode_table(&lens.iter().map(one).collect::<Vec<_>>());
        let secret = encryption != Encryption::None;
        let seal = Seal {
            compression,
            encryption,
            chunk_log2: 12,
            plain_len,
            table_crc: crc32c(&table),
            salt: [u8::from(secret); 32],
            tag: [u8::from(secret); 16],
            key: if secret { "key-1".to_owned() } else { String::new() },
        };
        [&table[..], &seal.encode()].concat()
    };
    let secret = Encryption::Aes256Gcm;
    vec![
        end(Compression::Lz4, Encryption::None, &[(700, true), (4096, false), (9, false)], 8201),
        end(Compression::Zstd, secret, &[(716, true), (4112, false), (25, false)], 8201),
        end(Compression::None, secret, &[], 0),
    ]
}

fn seal_end(bytes: &mut [u8]) {
    if let Some(at) = bytes.len().checked_sub(SEAL) {
        let (table, seal) = bytes.split_at_mut(at);
        seal[..8].copy_from_slice(b"OVSSEAL1");
        seal[8..10].copy_from_slice(&VERSION.to_le_bytes());
        seal[24..28].copy_from_slice(&crc32c(table).to_le_bytes());
        let crc = crc32c(&seal[..SEAL - 4]);
        seal[SEAL - 4..].copy_from_slice(&crc.to_le_bytes());
    }
}

fn sealed_end(bytes: &[u8]) -> bool {
    let Some(at) = bytes.len().checked_sub(SEAL) else { return false };
    let (table, end) = bytes.split_at(at);
    let Ok(seal) = Seal::decode(end) else { return false };
    assert_eq!(Seal::decode(&seal.encode()).as_ref(), Ok(&seal));
    // An object that is as long as the table says: then the entries are what is looked at.
    let lens = table.chunks_exact(8).map(|entry| {
        u64::from(u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]) & !(1 << 31))
    });
    let stored = lens.sum::<u64>() + bytes.len() as u64;
    let Ok(chunks) = seal.decode_table(table, stored) else { return false };
    assert_eq!(Seal::encode_table(&chunks), table);
    let mut plain = 0;
    for (number, chunk) in chunks.iter().enumerate() {
        plain += seal.plain_len_of(number) as u64;
        assert!(chunk.at + u64::from(chunk.len) <= stored);
        assert!((1..=seal.chunk_len() + seal.tag_len()).contains(&(chunk.len as usize)));
    }
    assert_eq!(plain, seal.plain_len);
    true
}

fn claim() -> Claim {
    let (domain, node) = ("dc1".to_owned(), "host".to_owned());
    Claim { cluster: [1; 16], osd: [2; 16], domain, node, role: Role::Cache }
}

fn osd_claim(bytes: &[u8]) -> bool {
    let Ok(claim) = Claim::decode(bytes) else { return false };
    assert_eq!(Claim::decode(&claim.encode()), Ok(claim));
    true
}

fn fragment(bytes: &[u8]) -> bool {
    let Ok(header) = StoredFragment::decode(bytes) else { return false };
    assert_eq!(StoredFragment::decode(&header.encode()).as_ref(), Ok(&header));
    assert!(header.len() >= PAGE as u64 && header.crcs_len() <= header.payload_len());
    true
}

fn link() -> Link {
    Link {
        log: [0xa5; 16],
        sco: 3,
        epoch: 2,
        sequence: 77,
        durable_sequence: 70,
        previous_crc: 0xdead_beef,
    }
}

fn sco_headers() -> Vec<Vec<u8>> {
    let mut page = [0; PAGE];
    log::encode_sco_header(&link(), &mut page);
    vec![page.to_vec()]
}

fn sco_header(bytes: &[u8]) -> bool {
    let Ok((link, _)) = log::decode_sco_header(bytes) else {
        return false;
    };
    let mut page = [0; PAGE];
    let crc = log::encode_sco_header(&link, &mut page);
    assert_eq!(log::decode_sco_header(&page), Ok((link, crc)));
    true
}

fn entries() -> Vec<Entry> {
    vec![
        Entry::Data { lba: 5, clusters: 2 },
        Entry::Trim { lba: 1 << 33, clusters: 7 },
        Entry::SnapshotCreated([1; 16]),
        Entry::Reverted([1; 16]),
        Entry::SnapshotDeleted([1; 16]),
        Entry::Data { lba: 0, clusters: 1 },
        Entry::Closed,
    ]
}

fn batches() -> Vec<Vec<u8>> {
    let large = [Entry::Data { lba: 9, clusters: 1500 }];
    let crcs: Vec<u32> = (0..1500).collect();
    let mut encoded = [Vec::new(), Vec::new(), Vec::new()];
    log::encode_batch_header(&link(), &entries(), &[1, 2, 3], &mut encoded[0]);
    log::encode_batch_header(&link(), &large, &crcs, &mut encoded[1]);
    log::encode_batch_header(&link(), &[], &[], &mut encoded[2]);
    encoded.to_vec()
}

fn batch_header(bytes: &[u8]) -> bool {
    let peeked = log::peek_batch_pages(bytes);
    let Ok(header) = log::decode_batch_header(bytes) else {
        return false;
    };
    assert_eq!(peeked, Ok(header.pages));
    let slots = header.entries.iter().map(Entry::slots).sum();
    let needed = log::header_pages(slots, header.crcs.len());
    assert!(needed <= header.pages, "{} pages cannot hold what was read", header.pages);
    let mut again = Vec::new();
    log::encode_batch_header(&header.link, &header.entries, &header.crcs, &mut again);
    let back = log::decode_batch_header(&again).expect("what was accepted can be written");
    assert_eq!((&back.link, &back.entries), (&header.link, &header.entries));
    assert_eq!(back.crcs, header.crcs);
    true
}

fn objects() -> Vec<Vec<u8>> {
    let build = |index: ObjectIndex| {
        let bytes = index.encode();
        let header = ObjectHeader {
            log: [0xa5; 16],
            sco: 4,
            epoch: 5,
            previous_sequence: 5,
            last_sequence: 6,
            last_crc: 7,
            slots: index.entries.iter().map(|entry| entry.slots() as u32).sum(),
            clusters: index.crcs.len() as u32,
            index_crc: crc32c(&bytes),
        };
        [&header.encode()[..], &bytes].concat()
    };
    vec![
        build(ObjectIndex { entries: entries(), crcs: vec![1, 2, 3] }),
        build(ObjectIndex::default()),
    ]
}

fn object(bytes: &[u8]) -> bool {
    let Ok(header) = ObjectHeader::decode(bytes) else {
        return false;
    };
    let encoded = header.encode();
    assert_eq!(ObjectHeader::decode(&encoded), Ok(header));
    for ordinal in [0, header.clusters / 2, header.clusters.saturating_sub(1)] {
        if ordinal < header.clusters {
            assert!(ObjectHeader::data_at(ordinal) + PAGE as u64 <= header.len());
            assert!(header.crc_at(ordinal) + 4 <= header.len());
        }
    }
    let Ok(index) = ObjectIndex::decode(&header, &bytes[PAGE..]) else {
        return false;
    };
    assert_eq!(index.crcs.len(), header.clusters as usize);
    let again = index.encode();
    assert_eq!(again.len(), header.index_len());
    let header = ObjectHeader { index_crc: crc32c(&again), ..header };
    assert_eq!(ObjectIndex::decode(&header, &again), Ok(index));
    true
}

fn footers() -> Vec<Vec<u8>> {
    let footer = Footer {
        log: [0xa5; 16],
        number: 3,
        epoch: 4,
        metadata_at: 4096,
        metadata_len: 200,
        metadata_crc: 0x1234,
    };
    vec![footer.encode().to_vec()]
}

fn checkpoint_footer(bytes: &[u8]) -> bool {
    let Ok(footer) = Footer::decode(bytes) else {
        return false;
    };
    assert_eq!(Footer::decode(&footer.encode()), Ok(footer));
    true
}

fn metadata() -> Metadata {
    let chunk = |index| ChunkRef { index, log: 1, object: 7, offset: 1 << 40, len: 99 };
    Metadata {
        log: [9; 16],
        position: 12,
        last_crc: 5,
        last_sequence: 1 << 40,
        scos: vec![(1, 100), (12, 16384)],
        maps: vec![
            StoredMap { snapshot: [0; 16], position: 12, chunks: vec![chunk(3), chunk(4)] },
            StoredMap { snapshot: [8; 16], position: 4, chunks: Vec::new() },
        ],
    }
}

fn checkpoint_metadata(bytes: &[u8]) -> bool {
    let Ok(metadata) = Metadata::decode(bytes) else {
        return false;
    };
    assert_eq!(Metadata::decode(&metadata.encode()), Ok(metadata));
    true
}

/// A chunk with runs, a leaf of one log and a leaf of several.
fn chunks() -> Vec<Vec<u8>> {
    let mut map = Map::new();
    let mut set = |lba, len, log, sco, ordinal| {
        let loc = Loc { log, sco, ordinal };
        map.set(lba, len, loc, &mut |_, _| {}).expect("it is inside the map");
    };
    set(0, 2048, 0, 7, 100);
    for lba in 0..200 {
        set(4096 + lba * 2, 1, 1, 9 + lba as u32 % 3, 5000 - 7 * lba as u16);
        set(8192 + lba, 1, lba as u16 % 3, (lba as u32) << 14, 3 * lba as u16);
    }
    let encode = |map: &Map| {
        let mut out = Vec::new();
        for (index, chunk) in map.chunks() {
            chunk.encode(index, &mut out);
        }
        out
    };
    let mut small = Map::new();
    let loc = Loc { log: 0, sco: 1, ordinal: 0 };
    small.set(3, 1, loc, &mut |_, _| {}).expect("it is inside the map");
    vec![encode(&map), encode(&small)]
}

/// Puts magic, version, length and checksum of a chunk record right.
fn seal_chunk(bytes: &mut [u8]) {
    let len = bytes.len();
    if len < 28 {
        return;
    }
    bytes[..8].copy_from_slice(b"OVMC\x01\0\0\0");
    bytes[20..24].copy_from_slice(&(len as u32).to_le_bytes());
    let crc = crc32c(&bytes[..len - 4]);
    bytes[len - 4..].copy_from_slice(&crc.to_le_bytes());
}

fn chunk(bytes: &[u8]) -> bool {
    let Ok((index, chunk)) = Chunk::decode(bytes) else { return false };
    let mut again = Vec::new();
    chunk.encode(index, &mut again);
    let (other, back) = Chunk::decode(&again).expect("what was accepted can be written");
    assert_eq!((other, back.mapped()), (index, chunk.mapped()));
    let runs = |chunk: &Chunk| {
        let mut runs = Vec::new();
        chunk.for_each_run(|start, len, loc| runs.push((start, len, loc)));
        runs
    };
    assert_eq!(runs(&back), runs(&chunk));
    let clusters: u32 = runs(&chunk).iter().map(|(_, len, _)| *len).sum();
    assert_eq!(clusters, chunk.mapped());
    true
}
