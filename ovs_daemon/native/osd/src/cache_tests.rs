//! The cache tier over real servers: nine for capacity, three of role cache.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use alba::cluster::OsdAddress;
use alba::folder::FolderOsd;
use alba::osd::{Osd, Request};
use alba::preset::Preset;
use alba::remote::Fleet;
use alba::sealed::{Key, Keys};
use alba::{Backend, Cause, Cluster, Put, Sealed};
use format::fragment::payload_crcs;
use format::osd::wire::BLOCK;
use format::osd::{Claim, Role};
use format::seal::Encryption;

use crate::cache::FILE_NAME;
use crate::tests::{CLUSTER, Lab, content, key, put, until};
use crate::{Bounds, Running, Setup};

const OBJECT: &str = "log/sco/1";
const LEN: usize = 3 << 20;
const PAGE: usize = 4096;

/// Servers of role cache, each with one disk, which a lab's root takes along when it goes.
struct Caches {
    root: PathBuf,
    servers: Vec<Option<Running>>,
    addresses: Vec<SocketAddr>,
    bytes: u64,
    reserve: u64,
}

impl Caches {
    fn start(lab: &Lab, count: usize, bytes: u64, reserve: u64) -> Self {
        let root = lab.folder(0).parent().unwrap().to_owned();
        let (servers, addresses) = (Vec::new(), Vec::new());
        let mut caches = Self { root, servers, addresses, bytes, reserve };
        for number in 0..count {
            let (domain, node) = ("dc0".to_owned(), format!("flash{number}"));
            let osd = [number as u8 + 101; 16];
            let claim = Claim { cluster: CLUSTER, osd, domain, node, role: Role::Cache };
            FolderOsd::claim(&caches.folder(number), &claim).unwrap();
            let server = caches.serve(number, "127.0.0.1:0".parse().unwrap());
            caches.addresses.push(server.address());
            caches.servers.push(Some(server));
        }
        caches
    }

    fn folder(&self, number: usize) -> PathBuf {
        self.root.join(format!("flash{number}"))
    }

    fn file(&self, number: usize) -> PathBuf {
        self.folder(number).join(FILE_NAME)
    }

    fn serve(&self, number: usize, listen: SocketAddr) -> Running {
        let (folders, reserve) = (vec![self.folder(number)], self.reserve);
        let (cache_bytes, bounds) = (self.bytes, Bounds::default());
        let release = net::RELEASE;
        let setup = Setup { listen, key: key(), folders, reserve, cache_bytes, bounds, release };
        Running::start(&setup).unwrap()
    }

    fn places(&self) -> Vec<OsdAddress> {
        let place = |number: usize| {
            let osd = format!("{:032x}", u128::from_be_bytes([number as u8 + 101; 16]));
            let (domain, node) = ("dc0".to_owned(), format!("flash{number}"));
            let standing = machines::alba::Standing::Member;
            OsdAddress { osd, address: self.addresses[number], domain, node, standing }
        };
        (0..self.addresses.len()).map(place).collect()
    }

    /// Has a cluster use them, and waits until it reaches them.
    fn give(&self, cluster: &Cluster) {
        cluster.set_caches(&self.places()).unwrap();
        let up = |cluster: &Cluster| cluster.caches().iter().all(|one| one.trouble.is_none());
        until("the caches are reached", || up(cluster));
    }
}

fn preset() -> Preset {
    Preset { fragment_size: 256 << 10, ..Preset::shipped().remove(0) }
}

fn put_large(cluster: &Cluster, name: &str, bytes: &[u8], preset: &Preset) {
    let put = cluster.put_with(name, preset, false, &mut |sink| sink.write(bytes));
    assert_eq!(put, Ok(Put::Created));
}

fn hits(cluster: &Cluster) -> u64 {
    cluster.cache_figures().hits.load(Ordering::Relaxed)
}

/// Bytes of fragments that the capacity OSDs gave and took.
fn from_capacity(cluster: &Cluster) -> u64 {
    cluster.osds().iter().map(|osd| osd.traffic().fragments).sum()
}

/// Reads a page and compares it; whether the cache answered.
fn read_page(cluster: &Cluster, bytes: &[u8], at: usize) -> bool {
    let (before, mut page) = (hits(cluster), vec![0; PAGE]);
    let len = PAGE.min(bytes.len() - at);
    cluster.read(OBJECT, at as u64, &mut page[..len]).unwrap();
    assert_eq!(page[..len], bytes[at..at + len], "at {at}");
    hits(cluster) > before
}

/// Reads everything, page by page; how many of the reads the cache answered.
fn pass(cluster: &Cluster, bytes: &[u8]) -> usize {
    (0..bytes.len()).step_by(PAGE).filter(|at| read_page(cluster, bytes, *at)).count()
}

/// Reads each page until the cache gives it, and nothing goes to or from capacity OSDs meanwhile.
/// (Where much else goes on, an answer may be too late.)
fn warm(cluster: &Cluster, bytes: &[u8]) {
    for at in (0..bytes.len()).step_by(PAGE) {
        until("a page comes from the cache alone", || {
            let before = from_capacity(cluster);
            read_page(cluster, bytes, at) && from_capacity(cluster) == before
        });
    }
}

fn figure(cluster: &Cluster, name: &str) -> u64 {
    let number = |text: &str| {
        let (_, rest) = text.split_once(&format!("\"{name}\":")).expect("the figure");
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u64>().unwrap()
    };
    cluster.caches().iter().filter_map(|one| one.figures.as_deref().map(number)).sum()
}

#[test]
fn what_was_read_once_comes_from_the_cache_for_every_reader() {
    let lab = Lab::new("cache-read");
    let caches = Caches::start(&lab, 3, 1 << 30, 0);
    let (cluster, bytes) = (lab.open(), content(1, LEN + 1234));
    put_large(&cluster, OBJECT, &bytes, &preset());
    caches.give(&cluster);
    assert_eq!(figure(&cluster, "bytes"), 0, "nothing is there that nobody wanted");
    warm(&cluster, &bytes);
    assert!(figure(&cluster, "bytes") >= LEN as u64);
    // Which one has a fragment depends on the number of its put: of a dozen one may get none.
    let used = (0..3).filter(|number| fs::metadata(caches.file(*number)).unwrap().len() > 0);
    assert!(used.count() > 1, "they share the work");
    // Another node of the Domain, which has read nothing yet.
    let other = lab.open();
    caches.give(&other);
    warm(&other, &bytes);
    assert_eq!(other.cache_figures().fills.load(Ordering::Relaxed), 0, "all was there");
    // Ranges that begin and end anywhere.
    for (at, len) in [(0, 1), (65_000, 1000), (262_143, 70_000), (1, 250_000), (LEN, 1234)] {
        let mut part = vec![0; len];
        other.read(OBJECT, at as u64, &mut part).unwrap();
        assert_eq!(part, bytes[at..at + len], "{len} at {at}");
    }
    // Without caches it is as before.
    other.set_caches(&[]).unwrap();
    assert_eq!((pass(&other, &bytes), other.caches().len()), (0, 0));
}

#[test]
fn caches_come_and_go_and_nobody_notices() {
    let lab = Lab::new("cache-die");
    let mut caches = Caches::start(&lab, 3, 1 << 30, 0);
    let (cluster, bytes) = (lab.open(), content(2, LEN));
    put_large(&cluster, OBJECT, &bytes, &preset());
    caches.give(&cluster);
    warm(&cluster, &bytes);
    for number in 0..3 {
        caches.servers[number] = None;
        pass(&cluster, &bytes);
        until("its end is noticed", || cluster.caches()[number].trouble.is_some());
        // Its share goes to the others.
        warm(&cluster, &bytes);
        // It comes back, and knows nothing.
        caches.servers[number] = Some(caches.serve(number, caches.addresses[number]));
        until("it is back", || cluster.caches()[number].trouble.is_none());
        warm(&cluster, &bytes);
    }
    caches.servers.clear();
    pass(&cluster, &bytes);
    until("all ends are noticed", || cluster.caches().iter().all(|one| one.trouble.is_some()));
    assert_eq!(pass(&cluster, &bytes), 0);
}

/// Whatever is in the file: only what was put is given, and what is damaged is brought anew.
#[test]
fn flipped_bytes_are_never_given() {
    let lab = Lab::new("cache-damage");
    let caches = Caches::start(&lab, 1, 1 << 30, 0);
    let (cluster, bytes) = (lab.open(), content(3, LEN));
    put_large(&cluster, OBJECT, &bytes, &preset());
    caches.give(&cluster);
    for flip in 0..3 {
        warm(&cluster, &bytes);
        let mut file = fs::read(caches.file(0)).unwrap();
        assert!(file.len() >= LEN);
        match flip {
            0 => file.iter_mut().step_by(PAGE - 1).for_each(|byte| *byte ^= 16),
            // Sound blocks in each other's places.
            1 => file.rotate_left(BLOCK as usize),
            _ => file.fill(0),
        }
        // In place: the server has the file open.
        let options = fs::OpenOptions::new().write(true).open(caches.file(0)).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&options, &file, 0).unwrap();
        let before = figure(&cluster, "damaged");
        pass(&cluster, &bytes);
        until("what is damaged is noticed", || {
            pass(&cluster, &bytes);
            figure(&cluster, "damaged") >= before + LEN as u64 / BLOCK
        });
    }
    warm(&cluster, &bytes);
}

#[test]
fn a_small_cache_keeps_its_bounds_and_a_full_disk_is_no_matter() {
    let lab = Lab::new("cache-full");
    let caches = Caches::start(&lab, 1, 8 * BLOCK, 0);
    let (cluster, bytes) = (lab.open(), content(4, LEN));
    put_large(&cluster, OBJECT, &bytes, &preset());
    caches.give(&cluster);
    until("more was evicted than it has room for", || {
        pass(&cluster, &bytes);
        figure(&cluster, "evicted") > 8
    });
    assert_eq!((figure(&cluster, "bytes"), figure(&cluster, "size")), (8 * BLOCK, 8 * BLOCK));
    assert!(fs::metadata(caches.file(0)).unwrap().len() <= 8 * BLOCK);
    drop(cluster);
    drop(caches);

    let caches = Caches::start(&lab, 1, 1 << 30, u64::MAX);
    let cluster = lab.open();
    caches.give(&cluster);
    until("a block was refused", || {
        pass(&cluster, &bytes);
        figure(&cluster, "refused") > 0
    });
    assert_eq!((figure(&cluster, "bytes"), hits(&cluster)), (0, 0));
    assert_eq!(fs::metadata(caches.file(0)).unwrap().len(), 0);
}

#[test]
fn a_preset_may_have_objects_brought_there_when_they_are_put() {
    let lab = Lab::new("cache-write");
    let caches = Caches::start(&lab, 2, 1 << 30, 0);
    let (cluster, bytes) = (lab.open(), content(5, LEN + 777));
    caches.give(&cluster);
    put_large(&cluster, "log/sco/0", &bytes, &preset());
    let preset = Preset { cache_on_write: true, ..preset() };
    put_large(&cluster, OBJECT, &bytes, &preset);
    until("all its blocks are there", || figure(&cluster, "bytes") >= LEN as u64);
    warm(&cluster, &bytes);
    // Nothing of the other one.
    assert!(figure(&cluster, "bytes") < 2 * LEN as u64);
    let other = lab.open();
    caches.give(&other);
    warm(&other, &bytes);
    assert_eq!(other.cache_figures().fills.load(Ordering::Relaxed), 0, "all was there");
}

/// A name that is used again has a put of its own: what is cached of the first is not of the second.
#[test]
fn what_was_deleted_is_not_read_again() {
    let lab = Lab::new("cache-delete");
    let caches = Caches::start(&lab, 2, 1 << 30, 0);
    let (cluster, reader) = (lab.open(), lab.open());
    caches.give(&cluster);
    caches.give(&reader);
    for round in 0..4 {
        let bytes = content(round, LEN);
        put_large(&cluster, OBJECT, &bytes, &preset());
        warm(&cluster, &bytes);
        reader.distrust(OBJECT);
        pass(&reader, &bytes);
        if round % 2 == 0 {
            cluster.delete(OBJECT).unwrap();
        } else {
            cluster.delete_folder("log").unwrap();
        }
        reader.distrust(OBJECT);
        let error = reader.read(OBJECT, 0, &mut [0; PAGE]).unwrap_err();
        assert_eq!(error.cause, Cause::NotFound);
    }
    until("its blocks make room", || figure(&cluster, "bytes") == 0);
}

#[test]
fn an_encrypted_object_is_encrypted_in_the_cache() {
    let lab = Lab::new("cache-sealed");
    let caches = Caches::start(&lab, 1, 1 << 30, 0);
    let cluster = lab.open();
    caches.give(&cluster);
    let keys = Keys::new(vec![Key::new("k", &"5".repeat(64)).unwrap()]);
    let sealed = Sealed::new(cluster, keys).unwrap();
    let secret = Preset { encryption: Encryption::Aes256Gcm, ..preset() };
    sealed.assign("safe", Some(secret)).unwrap();
    let bytes = content(6, 1 << 20);
    let mark = &bytes[500_000..500_032];
    let in_cache = || {
        let file = fs::read(caches.file(0)).unwrap();
        file.windows(mark.len()).any(|window| window == mark)
    };
    for (name, readable) in [("safe/sco/1", false), ("open/sco/1", true)] {
        let put = sealed.put(name, &mut |sink| sink.write(&bytes));
        assert_eq!(put, Ok(Put::Created));
        let before = sealed.cluster().cache_figures().fills.load(Ordering::Relaxed);
        let mut whole = vec![0; 200_000];
        until("all of it was brought to the cache", || {
            for at in (0..bytes.len()).step_by(whole.len()) {
                let part = whole.len().min(bytes.len() - at);
                sealed.read(name, at as u64, &mut whole[..part]).unwrap();
                assert_eq!(whole[..part], bytes[at..at + part]);
            }
            let fills = sealed.cluster().cache_figures().fills.load(Ordering::Relaxed);
            fills >= before + (1 << 20) / BLOCK
        });
        assert_eq!(in_cache(), readable, "{name}");
    }
}

#[test]
fn a_cache_takes_whole_blocks_only_and_each_role_does_its_own() {
    let lab = Lab::new("cache-odd");
    let caches = Caches::start(&lab, 1, 1 << 30, 0);
    let cluster = lab.open();
    put(&cluster, "a/b", &content(1, 5000)).unwrap();
    let fleet = Fleet::start(lab.patient_link()).unwrap();
    let claim = |folder: PathBuf| alba::folder::read_claim(&folder).unwrap().unwrap();
    let remote = fleet.add(claim(caches.folder(0)), caches.addresses[0]);
    let cache: &dyn Osd = &remote;
    let fragment = lab.files("a/b").remove(0);
    let name = fragment.file_name().unwrap().to_str().unwrap().to_owned();
    let path = format!("a/b.obj/{name}");
    let block: Vec<u8> = content(9, BLOCK as usize);
    let keep = |path: &str, payload_len: u64, offset: u64, block: &[u8]| {
        let parts = Arc::new(vec![block.to_vec().into(), payload_crcs(block).into()]);
        let request = Request::Keep { path: path.to_owned(), payload_len, offset, parts };
        cache.call(request)
    };
    let get = |payload_len, offset, len| {
        cache.call(Request::Get { path: path.clone(), payload_len, offset, len })
    };
    let long = 3 * BLOCK + 8192;
    for (payload_len, offset, len) in
        [(long, 4096, BLOCK), (long, 0, 4096), (long, 3 * BLOCK, BLOCK), (long, 4 * BLOCK, 4096)]
    {
        let error = keep(&path, payload_len, offset, &block[..len as usize]).unwrap_err();
        assert!(error.why.contains("no fragment has such a block"), "{error}");
    }
    assert!(keep("../x", long, 0, &block).unwrap_err().why.contains("no OSD has a place"));
    let mut damaged = block.clone();
    damaged[70] ^= 1;
    let parts = Arc::new(vec![damaged.into(), payload_crcs(&block).into()]);
    let request = Request::Keep { path: path.clone(), payload_len: long, offset: 0, parts };
    assert_eq!(cache.call(request).unwrap_err().cause, Cause::Corrupt);
    assert_eq!(get(long, 0, 4096).unwrap_err().cause, Cause::NotFound);
    // The first and the last block, of which the last is short.
    keep(&path, long, 0, &block).unwrap();
    keep(&path, long, 3 * BLOCK, &block[..8192]).unwrap();
    assert_eq!(alba::osd::bytes_of(get(long, 4096, 8192)).unwrap(), block[4096..12_288]);
    let last = alba::osd::bytes_of(get(long, 3 * BLOCK + 4096, 4096)).unwrap();
    assert_eq!(last, block[4096..8192]);
    // Only half of it is there.
    assert_eq!(get(long, BLOCK - 4096, 8192).unwrap_err().cause, Cause::NotFound);
    // As a longer fragment of the same name it would have more than is there.
    let error = get(2 * long, 3 * BLOCK + 4096, 8192).unwrap_err();
    assert_eq!(error.cause, Cause::NotFound);
    assert!(get(long, 0, 0).is_err() && get(long, 1, 4096).is_err());
    let whole = Arc::new(vec![fs::read(&fragment).unwrap().into()]);
    let error = cache.call(Request::Put { path: path.clone(), parts: whole }).unwrap_err();
    assert!(error.why.contains("keeps no objects"), "{error}");
    let remote = fleet.add(claim(lab.folder(0)), lab.addresses()[0]);
    let capacity: &dyn Osd = &remote;
    for request in [
        Request::Figures,
        Request::Keep {
            path,
            payload_len: BLOCK,
            offset: 0,
            parts: Arc::new(vec![block.clone().into(), payload_crcs(&block).into()]),
        },
    ] {
        let error = capacity.call(request).unwrap_err();
        assert!(error.why.contains("it is no cache"), "{error}");
    }
}
