//! Sealed objects in memory, and on a cluster of folders.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

use format::seal::{Compression, Encryption, SALT, SEAL, Seal};
use proptest::prelude::*;

use super::keys::{Key, Keys};
use super::reader;
use super::recent::Recent;
use super::writer::Sealer;
use super::{Sealed, Written};
use crate::cluster::{OsdPlace, Stored};
use crate::preset::Preset;
use crate::{Backend, BackendError, Cause, Cluster, Put, Result, Sink};

const NAME: &str = "log/sco/00000001";
const COMPRESSIONS: [Compression; 3] = [Compression::None, Compression::Lz4, Compression::Zstd];

struct Memory(Vec<u8>);

impl Sink for Memory {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

fn key(name: &str, digit: &str) -> Key {
    Key::new(name, &digit.repeat(64)).unwrap()
}

fn keys() -> Keys {
    Keys::new(vec![key("second", "b"), key("first", "a")])
}

/// Half of it compresses well, half not at all.
fn content(len: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut noise = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    let byte = |at: usize| if (at / 9000).is_multiple_of(2) { (at / 64) as u8 } else { noise() };
    (0..len).map(byte).collect()
}

fn sealed(name: &str, plain: &[u8], compression: Compression, key: Option<&Key>) -> Vec<u8> {
    let mut memory = Memory(Vec::new());
    let key = key.map(|key| (key, [7; SALT]));
    let mut sealer = Sealer::new(name, &mut memory, compression, key, 12).unwrap();
    plain.chunks(5000).for_each(|part| sealer.write(part).unwrap());
    let (plain_len, sealed_len) = sealer.finish().unwrap();
    assert_eq!((plain_len, sealed_len), (plain.len() as u64, memory.0.len() as u64));
    memory.0
}

/// Offset and length of each read.
type Reads = Vec<(u64, usize)>;

/// What is read from stored bytes, and how many reads that took.
fn unsealed(
    name: &str,
    stored: &[u8],
    keys: &Keys,
    range: std::ops::Range<usize>,
) -> Result<(Vec<u8>, Reads)> {
    let reads = RefCell::new(Vec::new());
    let read = |offset: u64, into: &mut [u8]| {
        reads.borrow_mut().push((offset, into.len()));
        into.copy_from_slice(&stored[offset as usize..][..into.len()]);
        Ok(())
    };
    let info = Stored { len: stored.len() as u64, sealed: true, generation: 1 };
    let open = reader::open(name, &info, keys, &read)?;
    let mut bytes = vec![0; range.len()];
    open.read(name, &Recent::default(), range.start as u64, &mut bytes, &read)?;
    Ok((bytes, reads.into_inner()))
}

fn whole(name: &str, stored: &[u8], keys: &Keys, len: usize) -> Result<Vec<u8>> {
    Ok(unsealed(name, stored, keys, 0..len)?.0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_range_is_what_was_put(
        len in 0usize..70_000,
        ranges in prop::collection::vec((0.0..1.0, 0.0..1.0), 1..6),
        how in 0usize..3,
        encrypted: bool,
    ) {
        let (plain, first) = (content(len), key("first", "a"));
        let stored = sealed(NAME, &plain, COMPRESSIONS[how], encrypted.then_some(&first));
        for (start, part) in ranges {
            let start = (start * len as f64) as usize;
            let end = start + (part * (len - start) as f64) as usize;
            let (bytes, _) = unsealed(NAME, &stored, &keys(), start..end).unwrap();
            prop_assert_eq!(&bytes, &plain[start..end]);
        }
        prop_assert_eq!(whole(NAME, &stored, &keys(), len).unwrap(), plain);
        let error = whole(NAME, &stored, &keys(), len + 1).unwrap_err();
        prop_assert_eq!(error.why, "the object ends before");
    }
}

#[test]
fn two_puts_of_the_same_bytes_have_nothing_in_common() {
    let (plain, first) = (content(40_000), key("first", "a"));
    let seal = || super::seal(NAME, &plain, Compression::None, Some(&first)).unwrap();
    let (one, two) = (seal(), seal());
    let pages = |bytes: &[u8]| bytes[..40_000].chunks(16).map(<[u8]>::to_vec).collect::<Vec<_>>();
    assert!(pages(&one).iter().all(|part| !pages(&two).contains(part)));
    let mut back = vec![0; 40_000];
    super::unseal(NAME, &two, &keys(), 0, &mut back).unwrap();
    assert_eq!(back, plain);
}

#[test]
fn a_cluster_costs_the_end_once_and_then_one_read_of_its_chunk() {
    let plain = content(1 << 20);
    for compression in COMPRESSIONS {
        let stored = sealed(NAME, &plain, compression, Some(&key("first", "a")));
        let (bytes, reads) = unsealed(NAME, &stored, &keys(), 40_960..45_056).unwrap();
        assert_eq!(bytes, plain[40_960..45_056]);
        let [(end, len), (_, chunk)] = reads[..] else { panic!("{reads:?}") };
        assert_eq!(end as usize + len, stored.len());
        assert!(chunk <= 4096 + 16, "{chunk}");
    }
}

#[test]
fn a_table_that_is_longer_than_the_end_that_is_read_is_read_too() {
    let plain = vec![9; 40 << 20];
    let stored = sealed(NAME, &plain, Compression::Lz4, None);
    assert!(stored.len() < 1 << 20);
    let (bytes, reads) = unsealed(NAME, &stored, &keys(), 12_345..99_999).unwrap();
    assert_eq!((bytes, reads.len()), (plain[12_345..99_999].to_vec(), 3));
}

#[test]
fn no_flipped_bit_passes() {
    let plain = content(10_000);
    for compression in COMPRESSIONS {
        for key in [None, Some(&key("first", "a"))] {
            let stored = sealed(NAME, &plain, compression, key);
            for at in 0..stored.len() {
                let mut damaged = stored.clone();
                damaged[at] ^= 1 << (at % 8);
                let error = whole(NAME, &damaged, &keys(), plain.len()).unwrap_err();
                assert_eq!((error.cause, error.object.as_str()), (Cause::Corrupt, NAME), "{at}");
            }
        }
    }
}

/// Changes seal, chunks and table.
type Forgery<'a> = &'a dyn Fn(&mut Seal, &mut [u8], &mut [u8]);

/// Puts every checksum of stored bytes right, as somebody does who changes them on purpose.
fn forge(stored: &mut [u8], change: impl FnOnce(&mut Seal, &mut [u8], &mut [u8])) {
    let len = stored.len();
    let seal_at = len - SEAL;
    let mut seal = Seal::decode(&stored[seal_at..]).unwrap();
    let (chunks, rest) = stored.split_at_mut(seal_at - seal.table_len());
    let (table, end) = rest.split_at_mut(seal.table_len());
    change(&mut seal, chunks, table);
    let mut at = 0;
    for entry in table.chunks_exact_mut(8) {
        let word = u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]);
        let chunk = &chunks[at..at + (word & !(1 << 31)) as usize];
        entry[4..].copy_from_slice(&format::crc32c(chunk).to_le_bytes());
        at += chunk.len();
    }
    seal.table_crc = format::crc32c(table);
    end.copy_from_slice(&seal.encode());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Without tags, what is wrong inside a compressed chunk is for the decompressor to notice, or
    /// for the checksums in the object.
    #[test]
    fn what_decompressors_are_given_never_harms_them(
        how in 1usize..3,
        changes in prop::collection::vec((0.0..1.0, 1u8..), 1..20),
        len in 1usize..20_000,
    ) {
        let plain: Vec<u8> = (0..len).map(|at| (at / 50 % 7 * at % 3) as u8).collect();
        let mut stored = sealed(NAME, &plain, COMPRESSIONS[how], None);
        forge(&mut stored, |_, chunks, _| {
            for (place, flip) in &changes {
                chunks[(place * chunks.len() as f64) as usize] ^= flip;
            }
        });
        match whole(NAME, &stored, &keys(), len) {
            Ok(other) => prop_assert_eq!(other.len(), len),
            Err(error) => prop_assert_eq!(error.cause, Cause::Corrupt),
        }
    }
}

#[test]
fn what_somebody_changed_with_all_checksums_right_has_wrong_tags() {
    let plain = content(3 * 4096);
    let first = key("first", "a");
    let stored = sealed(NAME, &plain, Compression::None, Some(&first));
    let why = |change: Forgery| {
        let mut forged = stored.clone();
        forge(&mut forged, change);
        whole(NAME, &forged, &keys(), plain.len()).unwrap_err().why
    };
    let mut same = stored.clone();
    forge(&mut same, |_, _, _| ());
    assert_eq!(same, stored);
    // With the table as it is signed, only the chunk itself tells.
    let mut flipped = stored.clone();
    flipped[5] ^= 1;
    assert!(whole(NAME, &flipped, &keys(), plain.len()).is_err());
    for forgery in [
        &|_: &mut Seal, chunks: &mut [u8], _: &mut [u8]| chunks[5] ^= 1,
        &|_: &mut Seal, chunks: &mut [u8], _: &mut [u8]| {
            let (one, two) = chunks.split_at_mut(4112);
            one.swap_with_slice(&mut two[..4112]);
        },
        &|seal: &mut Seal, _: &mut [u8], _: &mut [u8]| seal.salt[0] ^= 1,
        &|seal: &mut Seal, _: &mut [u8], _: &mut [u8]| seal.compression = Compression::Lz4,
        &|seal: &mut Seal, _: &mut [u8], _: &mut [u8]| seal.key = "second".to_owned(),
    ] as [Forgery; 5]
    {
        assert!(why(forgery).starts_with("the tag of its seal differs"), "{}", why(forgery));
    }
    // Another object's bytes under this name.
    let other = sealed("log/sco/00000002", &plain, Compression::None, Some(&first));
    let error = whole(NAME, &other, &keys(), plain.len()).unwrap_err();
    assert!(error.why.starts_with("the tag of its seal differs"), "{error}");
}

#[test]
fn a_chunk_is_bound_to_its_place_object_and_kind() {
    let cipher = super::keys::Cipher::new(&key("first", "a"), &[7; SALT]);
    let mut bytes = b"plain".to_vec();
    cipher.encrypt(NAME, 3, false, &mut bytes);
    let opens = |name, number, packed| {
        cipher.decrypt(name, number, packed, &mut bytes.clone()).map(<[u8]>::to_vec)
    };
    assert_eq!(opens(NAME, 3, false), Some(b"plain".to_vec()));
    assert_eq!(opens(NAME, 4, false), None);
    assert_eq!(opens(NAME, 3, true), None);
    assert_eq!(opens("log/sco/00000002", 3, false), None);
}

#[test]
fn a_missing_key_and_another_key_of_its_name_are_told_apart() {
    let plain = content(9000);
    let stored = sealed(NAME, &plain, Compression::Zstd, Some(&key("first", "a")));
    let none = Keys::new(vec![key("second", "b")]);
    let error = whole(NAME, &stored, &none, 9000).unwrap_err();
    assert_eq!(error.cause, Cause::Failed);
    assert!(error.why.contains("encrypted with key \"first\", which this node was not given"));
    let other = Keys::new(vec![key("first", "c")]);
    let error = whole(NAME, &stored, &other, 9000).unwrap_err();
    assert!(error.why.contains("the key \"first\""), "{error}");
}

#[test]
fn keys_are_checked_and_never_shown() {
    assert!(Key::new("", &"a".repeat(64)).unwrap_err().contains("no name of a key"));
    assert!(Key::new("k", "abc").unwrap_err().contains("64 hexadecimal digits"));
    assert!(Key::new("k", &"g".repeat(64)).unwrap_err().contains("64 hexadecimal digits"));
    assert_eq!(format!("{:?}", Keys::new(vec![key("first", "a")])), "Keys([Key(first)])");
}

/// Nine folders as a cluster.
struct Lab(PathBuf);

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Lab {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("ovs-sealed-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        Self(root)
    }

    fn cluster(&self, preset: Preset) -> Cluster {
        let place = |number: usize| OsdPlace {
            path: self.0.join(number.to_string()),
            domain: format!("dc{}", number / 3),
            node: format!("node{}", number % 3),
        };
        let places: Vec<OsdPlace> = (0..9).map(place).collect();
        Cluster::open(&places, preset, 0).unwrap()
    }

    fn open(&self, preset: Preset, keys: Keys) -> Sealed {
        Sealed::new(self.cluster(preset), keys).unwrap()
    }

    /// All that is stored on all OSDs.
    fn files(&self) -> Vec<Vec<u8>> {
        fn below(path: &Path, files: &mut Vec<Vec<u8>>) {
            for entry in fs::read_dir(path).unwrap().flatten() {
                match entry.file_type().unwrap().is_dir() {
                    true => below(&entry.path(), files),
                    false => files.push(fs::read(entry.path()).unwrap()),
                }
            }
        }
        let mut files = Vec::new();
        below(&self.0, &mut files);
        files
    }
}

fn preset(compression: Compression, encryption: Encryption) -> Preset {
    Preset { compression, encryption, fragment_size: 64 << 10, ..Preset::shipped().remove(0) }
}

fn put(backend: &dyn Backend, name: &str, bytes: &[u8]) -> Result<Put> {
    backend.put(name, &mut |sink| bytes.chunks(10_000).try_for_each(|part| sink.write(part)))
}

fn get(backend: &dyn Backend, name: &str) -> Result<Vec<u8>> {
    let len = backend.len(name)?.ok_or_else(|| BackendError {
        attempted: "read",
        object: name.to_owned(),
        cause: Cause::NotFound,
        why: "it is not there".to_owned(),
    })?;
    let mut bytes = vec![0; len as usize];
    backend.read(name, 0, &mut bytes)?;
    Ok(bytes)
}

#[test]
fn without_compression_and_encryption_objects_are_stored_as_they_were() {
    let lab = Lab::new("plain");
    let plain = content(100_000);
    let backend = lab.open(preset(Compression::None, Encryption::None), Keys::default());
    assert_eq!(put(&backend, NAME, &plain), Ok(Put::Created));
    assert_eq!(get(backend.cluster(), NAME), Ok(plain.clone()));
    assert_eq!(get(&backend, NAME), Ok(plain));
    assert_eq!(backend.written(), Written::default());
}

#[test]
fn objects_of_all_presets_are_read_whichever_new_ones_are_put_with() {
    let lab = Lab::new("mixed");
    let plain = content(200_000);
    let backend = lab.open(preset(Compression::None, Encryption::None), keys());
    assert_eq!(put(&backend, "default/1", &plain), Ok(Put::Created));
    backend.assign("packed", Some(preset(Compression::Lz4, Encryption::None))).unwrap();
    backend.assign("secret", Some(preset(Compression::Zstd, Encryption::Aes256Gcm))).unwrap();
    assert_eq!(put(&backend, "packed/1", &plain), Ok(Put::Created));
    assert_eq!(put(&backend, "secret/1", &plain), Ok(Put::Created));
    assert_eq!(put(&backend, "secret/1", b"other"), Ok(Put::Exists));
    let Written { plain: all, sealed } = backend.written();
    assert!(all == 400_000 && sealed < 300_000, "{all} {sealed}");
    // Another life, with another preset, and a new key for new objects.
    drop(backend);
    let newer = Keys::new(vec![key("third", "c"), key("second", "b")]);
    let backend = lab.open(preset(Compression::Lz4, Encryption::Aes256Gcm), newer);
    for name in ["default/1", "packed/1", "secret/1"] {
        assert_eq!(get(&backend, name).as_ref(), Ok(&plain), "{name}");
        let mut part = [0; 4096];
        backend.read(name, 65_536, &mut part).unwrap();
        assert_eq!(part, plain[65_536..69_632]);
        assert_eq!(backend.list(name.split('/').next().unwrap()), Ok(vec!["1".to_owned()]));
    }
    assert_eq!(put(&backend, "default/2", &plain), Ok(Put::Created));
    drop(backend);
    let backend = lab.open(preset(Compression::None, Encryption::None), keys());
    let error = get(&backend, "default/2").unwrap_err();
    assert!(error.why.contains("key \"third\", which this node was not given"), "{error}");
    assert_eq!(get(&backend, "secret/1"), Ok(plain));
    backend.delete("secret/1").unwrap();
    assert_eq!(backend.len("secret/1"), Ok(None));
    assert_eq!(get(&backend, "secret/1").unwrap_err().cause, Cause::NotFound);
    backend.delete_folder("packed").unwrap();
    assert_eq!(backend.len("packed/1"), Ok(None));
}

#[test]
fn nothing_of_the_plain_bytes_is_on_the_disks() {
    let lab = Lab::new("secret");
    let plain = content(200_000);
    let there = |lab: &Lab| {
        let noise = &plain[9_100..9_132];
        lab.files().iter().any(|file| file.windows(32).any(|part| part == noise))
    };
    let backend = lab.open(preset(Compression::Lz4, Encryption::None), Keys::default());
    put(&backend, "a/1", &plain).unwrap();
    assert!(there(&lab), "what does not compress is stored as it is");
    backend.delete("a/1").unwrap();
    drop(backend);
    let backend = lab.open(preset(Compression::Lz4, Encryption::Aes256Gcm), keys());
    put(&backend, "a/1", &plain).unwrap();
    assert!(!there(&lab));
    let first: Vec<Vec<u8>> = lab.files();
    assert!(first.iter().all(|file| !file.windows(32).any(|part| part == [0xbb; 32])));
    // The same bytes under the same name again: nothing of the first put comes back.
    let pages = |files: &[Vec<u8>]| -> Vec<Vec<u8>> {
        let payloads = files.iter().filter(|file| file.starts_with(b"OVSFRAG1"));
        payloads
            .map(|file| file[4096..8192].to_vec())
            .filter(|page| page[..] != [0; 4096])
            .collect()
    };
    backend.delete("a/1").unwrap();
    put(&backend, "a/1", &plain).unwrap();
    let (first, second) = (pages(&first), pages(&lab.files()));
    assert!(!first.is_empty() && second.iter().all(|page| !first.contains(page)));
}

#[test]
fn a_clusters_own_checksum_is_read_only_where_nothing_else_has_checked_it() {
    let lab = Lab::new("checks");
    let backend = lab.open(preset(Compression::None, Encryption::None), keys());
    backend.assign("packed", Some(preset(Compression::Lz4, Encryption::None))).unwrap();
    // An object of 8 data clusters whose checksums are all wrong.
    let object = content(4096 * 9 + 8 * 4);
    for (name, checked) in [("plain/sco/1", false), ("packed/sco/1", true)] {
        put(&backend, name, &object).unwrap();
        assert_eq!(backend.checks(name), checked);
        let mut cluster = [0; 4096];
        let read = crate::read_clusters(&backend, name, 8, 3, &mut cluster);
        assert_eq!(read.is_ok(), checked, "{name}: {read:?}");
        assert_eq!(cluster, object[4 * 4096..5 * 4096]);
    }
    assert!(!backend.checks("plain/sco/2"));
}

#[test]
fn what_cannot_be_put_is_refused_before() {
    let lab = Lab::new("refused");
    let secret = preset(Compression::None, Encryption::Aes256Gcm);
    let backend = lab.open(preset(Compression::None, Encryption::None), Keys::default());
    let error = backend.assign("a", Some(secret.clone())).unwrap_err();
    assert!(error.why.contains("asks for encryption, and no key is given"), "{error}");
    assert_eq!(backend.check(&secret), Err(error));
    let mut large = preset(Compression::Lz4, Encryption::None);
    large.policies.truncate(1);
    let error = backend.check(&large).unwrap_err();
    assert!(error.why.starts_with("no policy of preset default fits: "), "{error}");
    large.policies = Preset::shipped().remove(0).policies;
    assert_eq!(backend.check(&large), Ok(()));
    assert_eq!(backend.unsatisfied(), []);
    (1..9)
        .for_each(|disk| fs::remove_file(lab.0.join(disk.to_string()).join("osd.claim")).unwrap());
    let [(preset, why)] = &backend.unsatisfied()[..] else { panic!("{:?}", backend.unsatisfied()) };
    assert!(preset == "default" && !why.is_empty(), "{preset}: {why}");
    drop(backend);
    fs::remove_dir_all(&lab.0).unwrap();
    let cluster = lab.cluster(secret);
    assert!(Sealed::new(cluster, Keys::default()).unwrap_err().why.contains("no key is given"));
}

#[test]
fn a_sealed_object_survives_losses_and_repair_keeps_it_sealed() {
    let lab = Lab::new("repair");
    let plain = content(300_000);
    let how = || preset(Compression::Zstd, Encryption::Aes256Gcm);
    let backend = lab.open(how(), keys());
    put(&backend, NAME, &plain).unwrap();
    drop(backend);
    for disk in ["0", "1", "4"] {
        fs::remove_dir_all(lab.0.join(disk).join("log")).unwrap();
    }
    let backend = lab.open(how(), keys());
    assert_eq!(get(&backend, NAME).as_ref(), Ok(&plain));
    let repaired = backend.cluster().repair().unwrap();
    assert!(repaired.mended.fragments > 0 && repaired.lost == 0, "{repaired:?}");
    drop(backend);
    for disk in ["2", "6", "8"] {
        fs::remove_dir_all(lab.0.join(disk).join("log")).unwrap();
    }
    assert_eq!(get(&lab.open(how(), keys()), NAME), Ok(plain));
}
