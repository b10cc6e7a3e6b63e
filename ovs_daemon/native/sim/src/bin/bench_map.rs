//! Times the LBA map and counts its bytes: `cargo run --release -p ovs-sim --bin bench_map`.
//!
//! Times are nanoseconds per call on one core: the median of five rounds, because other processes
//! take their share. Bytes are `Map::memory` (what was allocated, with the allocator's headers) per
//! mapped cluster; `rss` beside them is what the process really grew by, fragmentation included, and
//! `map_bytes_random` is the larger of the two at the worst of 25, 50 and 100 % of the volume. The
//! snapshot is that of a dense 1 TiB volume of random data (1.2 GB of map), together with the write
//! after it, which copies the root. The last line is for machines.
#![allow(missing_docs)]
// A stopwatch and /proc/self/statm are what this program is for.
#![allow(clippy::disallowed_methods)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use machines::map::{CHUNK_CLUSTERS, Chunk, Loc, Map};
use sim::random::Random;

const GIB: u64 = 1 << 18;
const SCO_CLUSTERS: u64 = 1 << 14;

/// Places in the log, handed out in order as a volume does.
struct Log(u64);

impl Log {
    fn next(&mut self, len: u64) -> Loc {
        if self.0 % SCO_CLUSTERS + len > SCO_CLUSTERS {
            self.0 = self.0.next_multiple_of(SCO_CLUSTERS);
        }
        let at = self.0;
        self.0 += len;
        Loc { log: 0, sco: (at / SCO_CLUSTERS) as u32 + 1, ordinal: (at % SCO_CLUSTERS) as u16 }
    }
}

fn rss_bytes() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse::<f64>().ok());
    pages.unwrap_or(0.0) * 4096.0
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Calls `step` `count` times in each of five rounds and prints the nanoseconds of one.
fn time(name: &str, count: u64, mut step: impl FnMut()) {
    let mut round = || {
        let start = Instant::now();
        (0..count).for_each(|_| step());
        start.elapsed().as_secs_f64() * 1e9 / count as f64
    };
    let ns = median((0..5).map(|_| round()).collect());
    println!("{name:<52} {ns:>9.1} ns");
}

fn write(map: &mut Map, log: &mut Log, lba: u64, len: u64) {
    let mut displaced = 0;
    let written = map.set(lba, len as u32, log.next(len), &mut |_, len| displaced += len);
    assert!(written.is_ok(), "LBA {lba} is in range");
    black_box(displaced);
}

fn sequential(clusters: u64) -> Map {
    let (mut map, mut log) = (Map::new(), Log(0));
    for lba in (0..clusters).step_by(256) {
        write(&mut map, &mut log, lba, 256);
    }
    map
}

/// Every cluster of `clusters` once, in random order.
fn shuffled(clusters: u64, random: &mut Random) -> Vec<u32> {
    let mut lbas: Vec<u32> = (0..clusters as u32).collect();
    for n in (1..lbas.len()).rev() {
        lbas.swap(n, random.index(n + 1));
    }
    lbas
}

/// Prints the bytes per cluster of random data while a volume fills; returns the worst.
fn bytes_random(clusters: u64, random: &mut Random) -> f64 {
    let lbas = shuffled(clusters, random);
    let (mut map, mut log) = (Map::new(), Log(0));
    let before = rss_bytes();
    let mut worst: f64 = 0.0;
    for (n, lba) in lbas.iter().enumerate() {
        write(&mut map, &mut log, u64::from(*lba), 1);
        let percent = (n + 1) as f64 * 100.0 / clusters as f64;
        if [12.5, 25.0, 50.0, 75.0, 100.0].contains(&percent) {
            let bytes = map.memory() as f64 / map.mapped() as f64;
            let rss = (rss_bytes() - before) / map.mapped() as f64;
            let gib = clusters / GIB;
            println!(
                "random 4 KiB, {percent:>5} % of {gib} GiB: {bytes:.3} bytes per cluster, rss {rss:.3}"
            );
            if percent >= 25.0 {
                worst = worst.max(bytes).max(rss);
            }
        }
    }
    worst
}

fn times(random: &mut Random) {
    for gib in [1, 16] {
        let clusters = gib * GIB;
        let (mut map, mut log) = (Map::new(), Log(0));
        let lbas = shuffled(clusters, random);
        let mut next = lbas.iter();
        time(&format!("fill, random 1 cluster, {gib} GiB"), clusters.div_ceil(5), || {
            if let Some(lba) = next.next() {
                write(&mut map, &mut log, u64::from(*lba), 1);
            }
        });
        time(&format!("overwrite, random 1 cluster, dense {gib} GiB"), 1_000_000, || {
            write(&mut map, &mut log, random.below(clusters), 1);
        });
        time(&format!("get, random, dense random {gib} GiB"), 1_000_000, || {
            black_box(map.get(random.below(clusters)));
        });
    }
    let clusters = 16 * GIB;
    let mut map = sequential(clusters);
    let mut log = Log(0);
    let mut lba = 0;
    time("overwrite, sequential 256 clusters, 16 GiB", 200_000, || {
        write(&mut map, &mut log, lba % clusters, 256);
        lba += 256;
    });
    time("get, random, sequential 16 GiB", 1_000_000, || {
        black_box(map.get(random.below(clusters)));
    });
    let mut map = Map::new();
    lba = 0;
    time("first write, sequential 1 cluster, 16 GiB", clusters / 5, || {
        write(&mut map, &mut log, lba % clusters, 1);
        lba += 1;
    });
    time("overwrite, sequential 1 cluster, 16 GiB", clusters / 5, || {
        write(&mut map, &mut log, lba % clusters, 1);
        lba += 1;
    });
    time("overwrite, random 1 cluster, was sequential 16 GiB", 1_000_000, || {
        write(&mut map, &mut log, random.below(clusters), 1);
    });
}

/// Milliseconds of a snapshot and the first write after it, on a dense 1 TiB of random data.
fn snapshot_1tib(random: &mut Random) -> f64 {
    let (mut one, mut log) = (Map::new(), Log(0));
    for lba in shuffled(CHUNK_CLUSTERS as u64, random) {
        write(&mut one, &mut log, u64::from(lba), 1);
    }
    let mut record = Vec::new();
    for (index, chunk) in one.chunks() {
        time("encode a dense random chunk", 20, || {
            record.clear();
            chunk.encode(index, &mut record);
        });
    }
    let per_cluster = record.len() as f64 / CHUNK_CLUSTERS as f64;
    println!("its record: {per_cluster:.3} bytes per cluster");

    let start = Instant::now();
    let chunks = (0..4096).filter_map(|index| {
        let (_, chunk) = Chunk::decode(&record).ok()?;
        Some((index, Arc::new(chunk)))
    });
    let mut map = Map::from_chunks(chunks).unwrap_or_default();
    let open_s = start.elapsed().as_secs_f64();
    assert_eq!(map.mapped(), 1024 * GIB, "all of 1 TiB is mapped");
    println!("open (decode) 1 TiB of dense random records: {open_s:.2} s");

    let mut snapshots = Vec::new();
    let mut times = Vec::new();
    for _ in 0..31 {
        let lba = random.below(1024 * GIB);
        let start = Instant::now();
        snapshots.push(map.clone());
        write(&mut map, &mut log, lba, 1);
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let worst = times.iter().copied().fold(0.0, f64::max);
    let ms = median(times);
    println!("snapshot of dense 1 TiB and the write after it: {ms:.3} ms (worst {worst:.3} ms)");
    ms
}

fn main() {
    let mut random = Random::new(1);
    let map = sequential(64 * GIB);
    let bytes_sequential = map.memory() as f64 / map.mapped() as f64;
    println!("sequential 1 MiB writes, 64 GiB: {bytes_sequential:.4} bytes per cluster");
    drop(map);
    let bytes_random = bytes_random(16 * GIB, &mut random);
    times(&mut random);
    let snapshot_ms = snapshot_1tib(&mut random);
    println!(
        "RESULT {{\"map_bytes_random\": {bytes_random:.3}, \"map_bytes_sequential\": \
         {bytes_sequential:.4}, \"snapshot_1tib_ms\": {snapshot_ms:.3}}}"
    );
}
