//! What the erasure-coded backend costs, over real `vstorage-osd` processes on loopback.
//!
//! `bench_alba VSTORAGE_OSD FOLDER`: the program of the servers, and where their disks are made.
//! `doc/benchmarks.md` says what is measured. Ends with a line `RESULT {json}`; what cannot be
//! measured ends the program.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod relay;
mod servers;

use std::collections::BTreeSet;
use std::fs::File;
use std::hint::black_box;
use std::io::{Read, Seek};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use alba::cluster::Cluster;
use alba::code::Codec;
use alba::preset::Preset;
use alba::{Backend, BackendError, Cause, Sink};
use format::crc32c;
use format::fragment::FragmentName;
use format::log::PAGE;
use format::osd::wire;
use machines::alba::{Cut, Layout, mix};

use servers::{Servers, cpu_us, threads_us};

const MIB: usize = 1 << 20;
/// Bytes that are read at once, as by uploads.
const BLOCK: usize = 256 << 10;
/// Bytes of an object: a SCO of the shipped presets.
const OBJECT: usize = 64 * MIB;
/// Objects of each round.
const OBJECTS: usize = 4;
const ROUNDS: usize = 5;
const READS: usize = 40_000;
const COUNTED: usize = 2000;
/// How long bringing the object to the cache may take.
const WARMING_MAX: Duration = Duration::from_secs(120);
const NAME: &str = "00000000-0000-4000-8000-000000000001/sco/00000001";

/// The layout that nine OSDs in three Domains get.
fn layout() -> Layout {
    Layout::new(4, 2, 3, 1).expect("a layout")
}

fn cut() -> Cut {
    Cut::new(&layout(), OBJECT as u64, Preset::shipped()[0].fragment_size)
}

/// A SCO's worth of noise in a file, which stays in memory.
fn sco(folder: &Path) -> File {
    let path = folder.join(format!("bench-alba-{}.sco", std::process::id()));
    let noise: Vec<u8> = (0..OBJECT as u64 / 8).flat_map(|at| mix(at).to_le_bytes()).collect();
    std::fs::write(&path, noise).expect("room for an object");
    let file = File::open(&path).expect("it was written");
    // It goes with the process.
    std::fs::remove_file(&path).expect("it is there");
    file
}

/// Puts the file as an object. Every 4 KiB is read and its checksum computed, as uploads do; there it
/// is compared with the one in the buffer.
fn upload(cluster: &Cluster, name: &str, mut file: &File) {
    file.rewind().expect("a file");
    let mut crcs = Vec::with_capacity(BLOCK / PAGE);
    let mut block = |place: &mut [u8], crcs: &mut Vec<u32>| {
        file.read_exact(place).map_err(|e| BackendError {
            attempted: "read",
            object: name.to_owned(),
            cause: Cause::Failed,
            why: e.to_string(),
        })?;
        crcs.clear();
        crcs.extend(place.chunks_exact(PAGE).map(crc32c));
        Ok(place.len())
    };
    let mut fill = |sink: &mut dyn Sink| {
        (0..OBJECT / BLOCK).try_for_each(|_| {
            sink.fill(BLOCK, &mut |place| block(place, &mut crcs))?;
            sink.compared(&crcs);
            Ok(())
        })
    };
    cluster.put(name, &mut fill).expect("an upload");
}

/// What no upload does without: a copy of the data, the code, a checksum of every stored 4 KiB.
struct Limit {
    codec: Codec,
    data: Vec<u8>,
    copy: Vec<u8>,
    parity: Vec<Vec<u8>>,
}

impl Limit {
    fn new(mut file: &File) -> Self {
        let mut data = vec![0; OBJECT];
        file.rewind().and_then(|()| file.read_exact(&mut data)).expect("the file");
        let len = cut().fragment_len() as usize;
        let parity = vec![vec![0; len]; layout().fragments() - layout().data()];
        Self { codec: Codec::new(layout()), data, copy: vec![0; OBJECT], parity }
    }

    fn run(&mut self) {
        self.copy.copy_from_slice(black_box(&self.data));
        let len = cut().fragment_len() as usize;
        for piece in self.copy.chunks_exact(len * layout().data()) {
            let data: Vec<&[u8]> = piece.chunks_exact(len).collect();
            let mut parity: Vec<&mut [u8]> =
                self.parity.iter_mut().map(Vec::as_mut_slice).collect();
            self.codec.encode(&data, &mut parity);
            let fragments = data.into_iter().chain(self.parity.iter().map(Vec::as_slice));
            for page in fragments.flat_map(|one| one.chunks_exact(PAGE)) {
                black_box(crc32c(page));
            }
        }
    }
}

/// CPU of this thread so far (proc(5), schedstat).
fn thread_us() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells");
    let first = text.split(' ').next().and_then(|first| first.parse::<f64>().ok());
    first.expect("its first field, in nanoseconds") / 1e3
}

/// Microseconds of CPU for each MiB of data: uploads, and the limit, in turns. Medians.
fn uploads(servers: &Servers, cluster: &Cluster, file: &File) -> (f64, f64) {
    let mut limit = Limit::new(file);
    let (mut ours, mut least) = (Vec::new(), Vec::new());
    let mib = (OBJECTS * OBJECT / MIB) as f64;
    for round in 0..ROUNDS {
        let start = thread_us();
        (0..OBJECTS).for_each(|_| limit.run());
        least.push((thread_us() - start) / mib);
        let names: Vec<String> =
            (0..OBJECTS).map(|one| format!("bench/sco/{round}-{one}")).collect();
        let used = || threads_us("self") + servers.threads_us();
        let start = used();
        names.iter().for_each(|name| upload(cluster, name, file));
        ours.push((used() - start) / mib);
        println!(
            "round {}: upload {:.0}, limit {:.0} us/MiB",
            round + 1,
            ours[round],
            least[round]
        );
    }
    // Not between the rounds: an ext4 without a journal does not use the inodes of files again that
    // were deleted within a minute, and looks at each of them for every new file.
    cluster.delete_folder("bench").expect("a deletion");
    (median(ours), median(least))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Offsets of 4 KiB in an object, in an order that repeats.
fn offsets() -> impl Iterator<Item = u64> {
    (1..).map(|number| mix(number) % (OBJECT / PAGE) as u64 * PAGE as u64)
}

/// Microseconds of CPU that reading 4 KiB at each of these places costs servers, and the reader.
fn partial_reads(
    servers: &Servers,
    cluster: &Cluster,
    places: impl Iterator<Item = u64>,
) -> (f64, f64) {
    let mut page = vec![0; PAGE];
    cluster.read(NAME, 0, &mut page).expect("a read");
    let (served, used) = (servers.cpu_us(), cpu_us("self"));
    let mut reads = 0.0;
    for offset in places {
        cluster.read(NAME, offset, &mut page).expect("a read");
        reads += 1.0;
    }
    let each = |before: f64, after: f64| (after - before) / reads;
    (each(served, servers.cpu_us()), each(used, cpu_us("self")))
}

/// The offset of each 4 KiB of an object, in an order that repeats.
fn every_offset() -> impl Iterator<Item = u64> {
    let pages = (OBJECT / PAGE) as u64;
    // An odd factor visits each of 2^n places once.
    (0..pages).map(move |number| number * 0x9e37_79b1 % pages * PAGE as u64)
}

/// The same of reads that a cache answers, which has been filled by reads before; and the share of
/// reads that it did answer.
fn cached_reads(servers: &mut Servers, cluster: &Cluster) -> (f64, f64, f64) {
    let place = servers.add_cache();
    cluster.set_caches(&[place]).expect("a cache");
    let hits = || cluster.cache_figures().hits.load(Ordering::Relaxed);
    let mut page = vec![0; PAGE];
    let end = Instant::now() + WARMING_MAX;
    for block in (0..OBJECT as u64).step_by(wire::BLOCK as usize) {
        let before = hits();
        while hits() == before {
            assert!(Instant::now() < end, "the object is not in the cache by now");
            cluster.read(NAME, block, &mut page).expect("a read");
        }
    }
    let before = hits();
    let (server_us, reader_us) = partial_reads(servers, cluster, offsets().take(READS));
    let share = (hits() - before) as f64 / (READS + 1) as f64;
    cluster.set_caches(&[]).expect("no cache");
    (server_us, reader_us, share)
}

/// What passed the relays.
#[derive(Debug, Default)]
struct Traffic {
    gets: u64,
    others: u64,
    read: u64,
    /// Of `read`, what other Domains gave than this one.
    elsewhere: u64,
}

fn traffic(servers: &Servers, home: usize) -> Traffic {
    servers.all.iter().fold(Traffic::default(), |sum, server| {
        let one = server.relay.passed();
        Traffic {
            gets: sum.gets + one.gets,
            others: sum.others + one.others,
            read: sum.read + one.read,
            elsewhere: sum.elsewhere + if server.domain == home { 0 } else { one.read },
        }
    })
}

/// Reads at these offsets, and what then passed.
fn counted(servers: &Servers, cluster: &Cluster, at: &[u64], home: usize) -> Traffic {
    let mut page = vec![0; PAGE];
    // Its places are looked up the first time.
    cluster.read(NAME, at[0], &mut page).expect("a read");
    servers.begin();
    for offset in at {
        cluster.read(NAME, *offset, &mut page).expect("a read");
    }
    traffic(servers, home)
}

/// The fragments of the object that a server has.
fn held(folder: &Path) -> BTreeSet<(u32, u8)> {
    let folder = folder.join(format!("{NAME}.obj"));
    let names = std::fs::read_dir(folder).expect("the object is there").flatten();
    let names = names.filter_map(|entry| FragmentName::parse(entry.file_name().to_str()?));
    names.map(|name| (name.piece, name.fragment)).collect()
}

/// Kills a server that has data, and reads 4 KiB from what it had; what that took, for each read.
fn degraded_reads(servers: &mut Servers, cluster: &Cluster) -> (usize, Traffic) {
    let mine = |number: &usize| {
        let held = held(&servers.all[*number].folder);
        held.into_iter().any(|(_, fragment)| usize::from(fragment) < layout().data())
    };
    let number = (0..servers.all.len()).find(mine).expect("somebody has data");
    let (lost, home) = (held(&servers.all[number].folder), servers.all[number].domain);
    let was_there = |offset: &u64| {
        let place = cut().place(*offset);
        lost.contains(&(place.piece, place.fragment as u8))
    };
    let at: Vec<u64> = offsets().filter(was_there).take(COUNTED).collect();
    servers.all[number].kill();
    while cluster.troubles().is_empty() {
        // The end of the connection is on its way.
        std::thread::yield_now();
    }
    (number, counted(servers, cluster, &at, home))
}

/// A new disk in the place of a lost one: what is read, and from which Domain, to fill it.
fn repair(servers: &mut Servers, number: usize) -> (u64, Traffic) {
    let (home, node) = servers.lose(number);
    servers.add(home, node, "second");
    let cluster = servers.cluster(true);
    servers.begin();
    let done = cluster.repair().expect("a repair");
    assert!(done.mended.fragments > 0 && done.mended.unplaced == 0 && done.lost == 0, "{done:?}");
    (done.mended.between_domains, traffic(servers, home))
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [program, folder] = &words[..] else { panic!("usage: bench_alba VSTORAGE_OSD FOLDER") };
    let folder = Path::new(folder);
    std::fs::create_dir_all(folder).expect("the folder");
    let mut servers = Servers::start(Path::new(program), folder);
    let file = sco(folder);
    let cluster = servers.cluster(false);
    let (upload_us, limit_us) = uploads(&servers, &cluster, &file);
    println!(
        "upload, 4+2 over 3 Domains, 1 local: {upload_us:.0} us of CPU for each MiB of data, {:.2} \
         times memcpy, code and checksums alone ({limit_us:.0} us)",
        upload_us / limit_us
    );
    upload(&cluster, NAME, &file);
    let (device_us, reader_us) = partial_reads(&servers, &cluster, every_offset());
    println!(
        "4 KiB for the first time: {device_us:.1} us of CPU of the server, {reader_us:.1} us of the \
         reader"
    );
    let (server_us, reader_us) = partial_reads(&servers, &cluster, offsets().take(READS));
    println!("and again: {server_us:.1} us of CPU of the server, {reader_us:.1} us of the reader");
    let (cached_us, cached_reader_us, share) = cached_reads(&mut servers, &cluster);
    println!(
        "the same from the cache tier: {cached_us:.1} and {cached_reader_us:.1} us; it answered \
         {:.2} % of the reads",
        share * 100.0
    );
    drop(cluster);
    let cluster = servers.cluster(true);
    let at: Vec<u64> = offsets().take(COUNTED).collect();
    let direct = counted(&servers, &cluster, &at, 0);
    let each = |count: u64| count as f64 / COUNTED as f64;
    let (gets, others) = (each(direct.gets), each(direct.others));
    println!("which takes {gets:.3} reads of fragments, and {others:.3} other requests");
    let (number, degraded) = degraded_reads(&mut servers, &cluster);
    let (far, read) = (degraded.elsewhere, each(degraded.read));
    println!(
        "with its disk lost: {:.3} reads of fragments, {read:.0} bytes; {far} bytes of all came from \
         other Domains",
        each(degraded.gets)
    );
    drop(cluster);
    let (between, moved) = repair(&mut servers, number);
    let (inside, outside) = (moved.read - moved.elsewhere, moved.elsewhere);
    println!("a lost disk repaired: {inside} bytes read inside its Domain, {outside} from others");
    assert_eq!(between, outside, "what a repair says of itself, and what was on the wire");
    println!(
        "RESULT {{\"upload_us_per_mib\":{upload_us:.0},\"upload_vs_limit\":{:.2},\
         \"partial_read_device_us\":{device_us:.1},\
         \"partial_read_server_us\":{server_us:.1},\"cache_hit_server_us\":{cached_us:.1},\
         \"cache_hit_share\":{share:.4},\"partial_read_requests\":{:.3},\
         \"degraded_read_requests\":{:.3},\"degraded_read_bytes\":{read:.0},\
         \"degraded_read_cross_domain_bytes\":{far},\"repair_cross_domain_bytes\":{outside}}}",
        upload_us / limit_us,
        gets + others,
        each(degraded.gets + degraded.others),
    );
}
