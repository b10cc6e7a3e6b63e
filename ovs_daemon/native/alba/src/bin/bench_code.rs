//! How fast the erasure code is, beside ISA-L alone on the same buffers.
//!
//! `bench_code [K+M DOMAINS LOCAL]...`; fragments of 4 MiB. Ends with a line `RESULT {json}`; the
//! ratio is ISA-L's time over ours, each the best of interleaved rounds. Ours also sends every
//! stripe through the cache once for two parities; ISA-L alone computes one parity after the other.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeSet;
use std::hint::black_box;
use std::time::{Duration, Instant};

use alba::code::Codec;
use alba::preset::Preset;
use isal::Tables;
use machines::alba::Layout;

const FRAGMENT: usize = 4 << 20;
const ROUNDS: usize = 7;

fn time(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// Whole fragments through ISA-L: global parity, then each group's local parity.
fn isal_alone(layout: &Layout, data: &[&[u8]], parity: &mut [Vec<u8>]) {
    let (global, local) = parity.split_at_mut(layout.parity());
    let matrix = isal::cauchy(layout.global(), layout.data());
    let tables = Tables::new(&matrix[layout.data() * layout.data()..], layout.data());
    let mut outputs: Vec<&mut [u8]> = global.iter_mut().map(Vec::as_mut_slice).collect();
    tables.apply(data, &mut outputs);
    for (group, locals) in local.chunks_mut(layout.local().max(1)).enumerate() {
        let members: Vec<&[u8]> = layout
            .members(group)
            .map(|fragment| match fragment.checked_sub(layout.data()) {
                None => data[fragment],
                Some(parity) => &*outputs[parity],
            })
            .collect();
        let matrix = isal::cauchy(members.len() + layout.local(), members.len());
        let tables = Tables::new(&matrix[members.len() * members.len()..], members.len());
        let mut locals: Vec<&mut [u8]> = locals.iter_mut().map(Vec::as_mut_slice).collect();
        tables.apply(&members, &mut locals);
    }
}

fn measure(layout: Layout) -> (f64, f64) {
    let codec = Codec::new(layout);
    let data: Vec<Vec<u8>> = (0..layout.data())
        .map(|number| (0..FRAGMENT).map(|at| (at * 31 + number) as u8).collect())
        .collect();
    let data: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    let parity_len = layout.fragments() - layout.data();
    let mut ours = vec![vec![0; FRAGMENT]; parity_len];
    let mut theirs = ours.clone();
    let mut best = [Duration::MAX; 2];
    for _ in 0..ROUNDS {
        best[0] = best[0].min(time(|| {
            let mut parity: Vec<&mut [u8]> = ours.iter_mut().map(Vec::as_mut_slice).collect();
            codec.encode(black_box(&data), &mut parity);
        }));
        best[1] = best[1].min(time(|| isal_alone(&layout, black_box(&data), &mut theirs)));
        assert!(ours == theirs, "both compute the same code");
    }
    let mib = (layout.data() * FRAGMENT) as f64 / f64::from(1 << 20);
    (best[1].as_secs_f64() / best[0].as_secs_f64(), best[0].as_secs_f64() * 1e6 / mib)
}

fn main() {
    let words: Vec<u8> = std::env::args()
        .skip(1)
        .flat_map(|word| word.split('+').map(str::to_owned).collect::<Vec<_>>())
        .map(|word| word.parse().expect("usage: bench_code [K+M DOMAINS LOCAL]..."))
        .collect();
    let layout = |[data, parity, domains, local]: &[u8; 4]| {
        Layout::new(*data, *parity, *domains, *local).expect("a layout")
    };
    let shipped = Preset::shipped();
    let layouts: BTreeSet<Layout> = match words.as_chunks() {
        ([], []) => shipped.iter().flat_map(|one| &one.policies).map(|one| *one.layout()).collect(),
        (layouts, _) => layouts.iter().map(layout).collect(),
    };
    let mut worst = f64::MAX;
    let mut rows = Vec::new();
    for layout in layouts {
        let (ratio, us_per_mib) = measure(layout);
        let (data, parity) = (layout.data(), layout.parity());
        let name = format!("{data}+{parity} over {}, {} local", layout.domains(), layout.local());
        println!("{name:<24} {us_per_mib:8.1} us/MiB of data, {:5.0} % of ISA-L", ratio * 100.0);
        rows.push(format!(
            r#"{{"code":"{name}","us_per_mib":{us_per_mib:.1},"ratio":{ratio:.2}}}"#
        ));
        worst = worst.min(ratio);
    }
    println!("RESULT {{\"encode_vs_isal\":{worst:.2},\"codes\":[{}]}}", rows.join(","));
}
