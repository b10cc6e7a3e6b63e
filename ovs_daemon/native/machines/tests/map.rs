//! The map against a plain model: every operation, every representation, snapshots and records.
#![allow(missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

use format::chunk::{Extent, Writer};
use machines::map::{
    CHUNK_CLUSTERS, CHUNKS_MAX, CLUSTERS_MAX, Chunk, LEAF_CLUSTERS, Loc, Map, MapError, Stored,
    count_refs,
};
use proptest::prelude::*;

const LEAF: u64 = LEAF_CLUSTERS as u64;
const CHUNK: u64 = CHUNK_CLUSTERS as u64;

type Model = BTreeMap<u64, Loc>;

#[derive(Clone, Debug)]
enum Op {
    Set {
        lba: u64,
        len: u32,
        loc: Loc,
    },
    Unset {
        lba: u64,
        len: u64,
    },
    Snapshot,
    /// Goes on from the snapshot of this number, and keeps the present map as a snapshot.
    Revert(usize),
    /// Goes on from what encoding and decoding gives.
    Reload,
}

fn loc(log: u16, sco: u32, ordinal: u16) -> Loc {
    Loc { log, sco, ordinal }
}

fn plus(loc: Loc, n: u64) -> Loc {
    Loc { ordinal: (u64::from(loc.ordinal) + n) as u16, ..loc }
}

/// Expands runs into clusters.
fn clusters(runs: &[(Loc, u32)]) -> Vec<Loc> {
    runs.iter().flat_map(|(loc, len)| (0..u64::from(*len)).map(|n| plus(*loc, n))).collect()
}

fn hash(map: &Map) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(map)
}

/// The map that a checkpoint of `map` would be opened as.
fn reload(map: &Map) -> Map {
    let chunks: Vec<(u32, Arc<Chunk>)> = map
        .chunks()
        .map(|(index, chunk)| {
            let mut bytes = Vec::new();
            chunk.encode(index, &mut bytes);
            let (found, decoded) = Chunk::decode(&bytes).expect("a record just written");
            assert_eq!(found, index);
            assert_eq!(&decoded, &**chunk);
            (index, Arc::new(decoded))
        })
        .collect();
    Map::from_chunks(chunks).expect("indexes of a map")
}

fn set(map: &mut Map, model: &mut Model, lba: u64, len: u32, loc: Loc) {
    let mut old = Vec::new();
    map.set(lba, len, loc, &mut |loc, len| old.push((loc, len))).expect("in range");
    let replaced = (0..u64::from(len)).filter_map(|n| model.insert(lba + n, plus(loc, n)));
    assert_eq!(clusters(&old), replaced.collect::<Vec<_>>());
}

fn unset(map: &mut Map, model: &mut Model, lba: u64, len: u64) {
    let mut old = Vec::new();
    map.unset(lba, len, &mut |loc, len| old.push((loc, len)));
    let keys: Vec<u64> = model.range(lba..lba + len).map(|(key, _)| *key).collect();
    let removed: Vec<Loc> = keys.iter().filter_map(|key| model.remove(key)).collect();
    assert_eq!(clusters(&old), removed);
}

/// Every reading function of `map` says what `model` says.
fn check(map: &Map, model: &Model, from: u64, to: u64) {
    assert_eq!(map.mapped(), model.len() as u64);
    let mut next = from;
    let mut before: Option<(u64, Option<Loc>)> = None;
    map.runs(from, to - from, &mut |lba, len, first| {
        assert_eq!(lba, next, "without gaps and in order");
        assert!(len > 0);
        for n in 0..len {
            let expected = model.get(&(lba + n)).copied();
            assert_eq!(first.map(|loc| plus(loc, n)), expected, "LBA {}", lba + n);
            assert_eq!(map.get(lba + n), expected, "LBA {}", lba + n);
        }
        if let Some((count, previous)) = before {
            let joined = match (previous, first) {
                (None, None) => true,
                (Some(a), Some(b)) => {
                    u64::from(a.ordinal) + count == u64::from(b.ordinal)
                        && (a.log, a.sco) == (b.log, b.sco)
                }
                _ => false,
            };
            assert!(!joined, "runs at LBA {lba} are not maximal");
        }
        before = Some((len, first));
        next = lba + len;
    });
    assert_eq!(next, to);
    let mut all = Vec::new();
    map.for_each_run(&mut |lba, len, loc| all.extend((0..len).map(|n| (lba + n, plus(loc, n)))));
    assert_eq!(all, model.iter().map(|(lba, loc)| (*lba, *loc)).collect::<Vec<_>>());
}

/// The same content, built in one go: another history, possibly other forms.
fn rebuilt(model: &Model) -> Map {
    let mut map = Map::new();
    for (lba, loc) in model.iter().rev() {
        map.set(*lba, 1, *loc, &mut |_, _| panic!("nothing to displace")).expect("in range");
    }
    map
}

fn run(ops: Vec<Op>, from: u64, to: u64) {
    let (mut map, mut model) = (Map::new(), Model::new());
    let mut kept: Vec<(Map, Model)> = Vec::new();
    for op in ops {
        match op {
            Op::Set { lba, len, loc } => set(&mut map, &mut model, lba, len, loc),
            Op::Unset { lba, len } => unset(&mut map, &mut model, lba, len),
            Op::Snapshot => kept.push((map.clone(), model.clone())),
            Op::Revert(number) if number < kept.len() => {
                let next = kept[number].clone();
                kept.push((std::mem::replace(&mut map, next.0), model));
                model = next.1;
            }
            Op::Revert(_) => {}
            Op::Reload => map = reload(&map),
        }
    }
    kept.push((map, model));
    for (map, model) in &kept {
        check(map, model, from, to);
        let other = rebuilt(model);
        assert!(*map == other && hash(map) == hash(&other));
    }
    for ((a, model_a), (b, model_b)) in kept.iter().zip(kept.iter().skip(1)) {
        assert_eq!(a == b, model_a == model_b);
    }
    check_refs(&kept);
    let empty = (Map::new(), Model::new());
    let newest = kept.last().expect("the head");
    for (map, model) in kept.iter().chain([&empty]) {
        check_diff((map, model), (&newest.0, &newest.1));
        check_diff((&newest.0, &newest.1), (map, model));
    }
}

/// `diff` reports exactly the clusters whose locations differ, in maximal ranges.
fn check_diff((a, model_a): (&Map, &Model), (b, model_b): (&Map, &Model)) {
    let (mut found, mut end) = (BTreeSet::new(), None);
    a.diff(b, &mut |lba, len| {
        assert!(len > 0 && end.is_none_or(|end| lba > end), "in order and maximal");
        found.extend(lba..lba + len);
        end = Some(lba + len);
    });
    let lbas = model_a.keys().chain(model_b.keys());
    let expected = lbas.filter(|lba| model_a.get(lba) != model_b.get(lba)).copied();
    assert_eq!(found, expected.collect());
}

/// `count_refs` counts the distinct (LBA, location) pairs of all maps together.
fn check_refs(kept: &[(Map, Model)]) {
    let maps: Vec<&Map> = kept.iter().map(|(map, _)| map).collect();
    let pairs: BTreeSet<(u64, Loc)> =
        kept.iter().flat_map(|(_, model)| model.iter().map(|(lba, loc)| (*lba, *loc))).collect();
    for log in 0..3 {
        let mut expected = BTreeMap::new();
        for (_, loc) in pairs.iter().filter(|(_, loc)| loc.log == log) {
            *expected.entry(loc.sco).or_insert(0) += 1;
        }
        assert_eq!(count_refs(&maps, log), expected);
    }
}

/// Operations inside `[base, base + span)`, with few distinct locations so that runs meet.
fn ops(base: u64, span: u64) -> impl Strategy<Value = Vec<Op>> {
    let place = (0..span).prop_map(move |n| base + n);
    let len = prop_oneof![4 => 1..4u32, 2 => 1..600u32, 1 => Just(512u32), 1 => 1..3000u32];
    let set = (place.clone(), len.clone(), 0..3u16, 1..4u32, any::<bool>(), 0..60000u16).prop_map(
        move |(lba, len, log, sco, aligned, ordinal)| {
            let len = u64::from(len).min(base + span - lba);
            // Half of the locations follow from the LBA, as in sequential writing.
            let ordinal = if aligned { (lba % 50000) as u16 } else { ordinal };
            Op::Set { lba, len: len as u32, loc: loc(log, sco, ordinal) }
        },
    );
    let unset = (place, len).prop_map(move |(lba, len)| {
        let len = u64::from(len).min(base + span - lba);
        Op::Unset { lba, len }
    });
    let op = prop_oneof![
        12 => set,
        4 => unset,
        1 => Just(Op::Snapshot),
        1 => (0..4usize).prop_map(Op::Revert),
        1 => Just(Op::Reload),
    ];
    prop::collection::vec(op, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_a_model_within_a_leaf(ops in ops(7, 300)) {
        run(ops, 0, LEAF);
    }

    #[test]
    fn agrees_with_a_model_over_leaves(ops in ops(LEAF - 200, 3 * LEAF)) {
        run(ops, 0, 5 * LEAF);
    }

    #[test]
    fn agrees_with_a_model_over_chunks(ops in ops(CHUNK - 1500, 3000)) {
        run(ops, CHUNK - 2048, CHUNK + 2048);
    }
}

proptest! {
    // Few cases: each copies the root of a 64 TiB map many times.
    #![proptest_config(ProptestConfig { cases: 10, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_a_model_at_the_end_of_64_tib(ops in ops(CLUSTERS_MAX - 700, 700)) {
        run(ops, CLUSTERS_MAX - 1024, CLUSTERS_MAX + 1024);
    }
}

/// Random overwrites and trims (2 or 3 in `trims`), enough to drive every leaf through all forms and
/// back.
fn churn(pages: u32, trims: u64, seed: u64) {
    let (mut map, mut model) = (Map::new(), Model::new());
    let mut state = seed;
    let mut next = |limit: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % limit
    };
    for n in 0..6_000 {
        let lba = next(2 * LEAF);
        let page = next(u64::from(pages)) as u32;
        let place =
            loc((page >> 4) as u16, (page & 15) << 16 | next(3) as u32, next(60_000) as u16);
        match next(trims) {
            0 | 1 => unset(&mut map, &mut model, lba, 1),
            2 => unset(&mut map, &mut model, lba, 1 + n % 7),
            3 => set(&mut map, &mut model, lba, 1 + (n % 5) as u32, place),
            _ => set(&mut map, &mut model, lba, 1, place),
        }
    }
    check(&map, &model, 0, 3 * LEAF);
    assert_eq!(map, rebuilt(&model));
    assert_eq!(reload(&map), map);
    for lba in (0..2 * LEAF).step_by(16) {
        set(&mut map, &mut model, lba, 16, loc(1, 9, lba as u16));
    }
    check(&map, &model, 0, 3 * LEAF);
    assert_eq!(map, rebuilt(&model));
    assert!(map.memory() < 3000, "two leaves in order need none: {}", map.memory());
}

#[test]
fn leaves_hold_one_page_or_several_or_more_than_a_palette() {
    for (pages, trims) in [(1, 5), (2, 10), (16, 10), (250, 20), (300, 30), (4000, 40)] {
        churn(pages, trims, u64::from(pages));
    }
}

/// Bytes per mapped cluster.
fn bytes_per_cluster(map: &Map) -> f64 {
    map.memory() as f64 / map.mapped() as f64
}

/// Every cluster of a chunk once, in an order that leaves all leaves equally full.
fn scattered() -> impl Iterator<Item = u64> {
    (0..CHUNK).map(|n| n * 40_503 % CHUNK)
}

#[test]
fn random_clusters_stay_small() {
    let (mut map, mut n) = (Map::new(), 0u64);
    for (count, limit) in [(CHUNK / 4, 5.6), (CHUNK / 2, 4.9), (CHUNK, 4.4)] {
        for lba in scattered().skip(n as usize).take((count - n) as usize) {
            let place = loc(0, (n % 5 + n / 16384) as u32, (n % 16384) as u16);
            map.set(lba, 1, place, &mut |_, _| panic!("each cluster once")).expect("in range");
            n += 1;
        }
        assert_eq!(map.mapped(), count);
        let bytes = bytes_per_cluster(&map);
        assert!(bytes < limit, "{bytes} bytes per cluster at {count}");
    }
    let (_, chunk) = map.chunks().next().expect("one chunk");
    let mut record = Vec::new();
    chunk.encode(0, &mut record);
    assert!(record.len() as f64 / CHUNK as f64 <= 4.2, "{} bytes", record.len());

    // Trims give memory back while leaves stay packed.
    let mut trimmed = map.clone();
    for lba in scattered().filter(|lba| lba % 4 > 0) {
        trimmed.unset(lba, 1, &mut |_, _| {});
    }
    assert_eq!(trimmed.mapped(), CHUNK / 4);
    let bytes = bytes_per_cluster(&trimmed);
    assert!(bytes < 6.2, "{bytes} bytes per cluster after trims");

    // A clone that has overwritten half of it: two pages in every leaf.
    let clone = map.clone();
    for lba in scattered().filter(|lba| lba % 2 == 0) {
        map.set(lba, 1, loc(1, 7, (lba * 31 % 16384) as u16), &mut |_, _| {}).expect("in range");
    }
    assert!(bytes_per_cluster(&map) < 5.6, "{} of two logs", bytes_per_cluster(&map));
    assert!(bytes_per_cluster(&clone) < 4.4);
}

#[test]
fn sequential_clusters_cost_next_to_nothing() {
    for step in [1, 8, 256, 1000] {
        let mut map = Map::new();
        let clusters = 4 * CHUNK;
        let mut lba = 0;
        while lba < clusters {
            let len = u64::min(step, 16384 - lba % 16384);
            let place = loc(0, (lba / 16384) as u32, (lba % 16384) as u16);
            map.set(lba, len as u32, place, &mut |_, _| {}).expect("in range");
            lba += len;
        }
        assert_eq!(map.mapped(), clusters);
        let bytes = bytes_per_cluster(&map);
        assert!(bytes < 0.04, "{bytes} bytes per cluster in steps of {step}");
        let (_, chunk) = map.chunks().next().expect("a chunk");
        let mut record = Vec::new();
        chunk.encode(0, &mut record);
        assert_eq!(record.len(), 24 + 4 + 4 * 12 + 4, "a run per SCO");
    }
}

#[test]
fn memory_is_counted_as_pages_come_and_go() {
    let mut map = Map::new();
    let empty = map.memory();
    for lba in scattered().take(20_000) {
        map.set(lba, 1, loc(0, 1, (lba % 60_000) as u16), &mut |_, _| {}).expect("in range");
    }
    let before = map.memory();
    let snapshot = map.clone();
    assert_eq!(snapshot.memory(), before, "the same pages");
    // One leaf keeps a cluster, so the chunk stays while its other leaves go.
    for lba in scattered().take(20_000).filter(|lba| *lba != 0) {
        map.unset(lba, 1, &mut |_, _| {});
    }
    assert_eq!((map.mapped(), map.get(0)), (1, Some(loc(0, 1, 0))));
    assert!(map.memory() < 2500, "{} for a chunk and a leaf", map.memory());
    map.unset(0, 1, &mut |_, _| {});
    assert_eq!(map.mapped(), 0);
    assert_eq!(map.chunks().count(), 0, "an empty chunk is dropped");
    // The root keeps its one place: an allocation of at least 32 bytes.
    assert!(map.memory() <= empty + 64);
    assert_eq!((snapshot.memory(), snapshot.mapped()), (before, 20_000));
}

/// All sequences of three operations over ranges whose borders are those of leaves, give or take 1.
#[test]
fn all_short_sequences_around_borders_of_leaves() {
    let points = [0, 1, LEAF - 1, LEAF, LEAF + 1, 2 * LEAF - 1, 2 * LEAF];
    let mut steps: Vec<(u64, u64, Option<Loc>)> = Vec::new();
    for (n, from) in points.iter().enumerate() {
        for to in &points[n + 1..] {
            // One that continues its neighbours, one that does not, and a trim.
            for place in [Some(loc(0, 1, *from as u16)), Some(loc(1, 1, 7)), None] {
                steps.push((*from, to - from, place));
            }
        }
    }
    let apply = |map: &mut Map, model: &mut [Option<Loc>], step: (u64, u64, Option<Loc>)| {
        let (lba, len, place) = step;
        let range = lba as usize..(lba + len) as usize;
        let mut old = Vec::new();
        match place {
            Some(loc) => {
                map.set(lba, len as u32, loc, &mut |l, n| old.push((l, n))).expect("in range");
            }
            None => map.unset(lba, len, &mut |l, n| old.push((l, n))),
        }
        assert_eq!(
            clusters(&old),
            model[range.clone()].iter().flatten().copied().collect::<Vec<_>>()
        );
        for (n, cell) in model[range].iter_mut().enumerate() {
            *cell = place.map(|loc| plus(loc, n as u64));
        }
    };
    for first in &steps {
        let (mut map, mut model) = (Map::new(), vec![None; 2 * LEAF as usize]);
        apply(&mut map, &mut model, *first);
        for second in &steps {
            let (mut map, mut model) = (map.clone(), model.clone());
            apply(&mut map, &mut model, *second);
            for third in &steps {
                let (mut map, mut model) = (map.clone(), model.clone());
                apply(&mut map, &mut model, *third);
                let mapped = model.iter().flatten().count() as u64;
                assert_eq!(map.mapped(), mapped, "{first:?} {second:?} {third:?}");
                map.runs(0, 2 * LEAF, &mut |lba, len, loc| {
                    for n in [0, len / 2, len - 1] {
                        let expected = model[(lba + n) as usize];
                        assert_eq!(
                            loc.map(|l| plus(l, n)),
                            expected,
                            "{first:?} {second:?} {third:?}"
                        );
                    }
                });
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let mut map = Map::new();
    map.set(5, 3, loc(0, 1, 0), &mut |_, _| {}).expect("in range");
    let before = map.clone();
    let mut refuse = |lba, len, loc| {
        let mut displaced = 0;
        let refused = map.set(lba, len, loc, &mut |_, _| displaced += 1);
        assert_eq!(displaced, 0);
        assert_eq!(map, before);
        refused.expect_err("does not fit")
    };
    assert_eq!(
        refuse(CLUSTERS_MAX - 1, 2, loc(0, 1, 0)),
        MapError::BeyondEnd { lba: CLUSTERS_MAX - 1, len: 2 }
    );
    assert!(matches!(refuse(u64::MAX, u32::MAX, loc(0, 1, 0)), MapError::BeyondEnd { .. }));
    let last = loc(0, 1, 65535);
    assert_eq!(refuse(6, 2, last), MapError::BeyondSco { loc: last, len: 2 });
    assert!(refuse(6, 2, last).to_string().contains("ordinal 65535 of SCO 00000001"));
    map.set(6, 1, last, &mut |_, _| {}).expect("the last ordinal is one");
    map.set(CLUSTERS_MAX - 1, 1, last, &mut |_, _| {}).expect("the last cluster is one");
    map.set(u64::MAX, 0, last, &mut |_, _| {}).expect_err("beyond, though empty");
    assert_eq!(map.get(u64::MAX), None);
    let mut holes = Vec::new();
    map.runs(CLUSTERS_MAX, u64::MAX, &mut |lba, len, loc| holes.push((lba, len, loc)));
    assert_eq!(holes, [(CLUSTERS_MAX, u64::MAX - CLUSTERS_MAX, None)]);
    map.unset(0, u64::MAX, &mut |_, _| {});
    assert_eq!(map.mapped(), 0);
    let far = Map::from_chunks([(CHUNKS_MAX, Arc::new(Chunk::new()))]);
    assert!(matches!(far, Err(MapError::BeyondEnd { .. })));
}

fn stored(number: u64) -> Stored {
    let log = u128::from(number).wrapping_mul(0x1_0000_0000_0000_0001).to_be_bytes();
    Stored { log, object: number, offset: number * 512, length: number as u32 }
}

#[test]
fn a_chunk_forgets_its_address_when_it_is_changed() {
    let mut map = Map::new();
    map.set(0, 9, loc(0, 1, 0), &mut |_, _| {}).expect("in range");
    map.set(CHUNK, 9, loc(0, 1, 9), &mut |_, _| {}).expect("in range");
    assert!(map.chunks().all(|(_, chunk)| chunk.stored().is_none()));
    let clone = map.clone();
    for (index, chunk) in clone.chunks() {
        assert!(chunk.set_stored(stored(u64::from(index) + 40)));
    }
    let addresses = |map: &Map| map.chunks().map(|(_, chunk)| chunk.stored()).collect::<Vec<_>>();
    let both = [Some(stored(40)), Some(stored(41))];
    assert_eq!(addresses(&map), both);

    // Nothing is mapped there: not a change.
    map.unset(100, 1000, &mut |_, _| {});
    assert_eq!(addresses(&map), both);
    map.set(3, 1, loc(0, 2, 0), &mut |_, _| {}).expect("in range");
    assert_eq!(addresses(&map), [None, both[1]]);
    assert_eq!(addresses(&clone), both, "the clone's chunk is as it was stored");
    drop(clone);
    // The only owner changes it in place, and it forgets all the same.
    map.unset(CHUNK, 1, &mut |_, _| {});
    assert_eq!(addresses(&map), [None, None]);
    let (_, chunk) = map.chunks().next().expect("a chunk");
    assert!(chunk.set_stored(stored(3)));
    assert_eq!(Chunk::clone(chunk).stored(), None);
    assert!(chunk.set_stored(stored(1)) && chunk.set_stored(stored(2)));
    assert_eq!(chunk.stored(), Some(stored(2)));
}

/// Two threads set addresses while a third reads: it sees whole ones or none.
#[test]
fn an_address_is_never_torn() {
    let chunk = Chunk::new();
    let accepted: usize = std::thread::scope(|scope| {
        let set = |first: u64| {
            let chunk = &chunk;
            move || (0..400_000).filter(|n| chunk.set_stored(stored(first + 2 * n))).count()
        };
        let writers = [scope.spawn(set(0)), scope.spawn(set(1))];
        while !writers.iter().all(|writer| writer.is_finished()) {
            if let Some(seen) = chunk.stored() {
                assert_eq!(seen, stored(seen.object));
            }
        }
        writers.map(|writer| writer.join().expect("a writer")).iter().sum()
    });
    assert!(accepted > 0, "an uncontended set succeeds");
    let last = chunk.stored().expect("nobody is writing any more");
    assert_eq!(last, stored(last.object));
}

fn send_and_sync<T: Send + Sync>() {}

#[test]
fn maps_cross_threads() {
    send_and_sync::<Map>();
    send_and_sync::<Chunk>();
}

#[test]
fn chunks_in_any_order_make_the_map() {
    let mut map = Map::new();
    for index in [0, 3, 9] {
        map.set(index * CHUNK + index, 5, loc(0, 1, 0), &mut |_, _| {}).expect("in range");
    }
    let mut chunks: Vec<_> = map.chunks().map(|(i, chunk)| (i, Arc::clone(chunk))).collect();
    chunks.reverse();
    let (_, another) = chunks[0].clone();
    chunks.insert(0, (3, another));
    chunks.push((5, Arc::new(Chunk::new())));
    let again = Map::from_chunks(chunks).expect("in range");
    assert_eq!(again, map);
    assert_eq!((again.mapped(), again.chunks().count()), (15, 3));
}

/// Our own records have a leaf in one section; a reader takes any legal split.
#[test]
fn a_leaf_may_come_in_several_sections() {
    let mut record = Vec::new();
    let mut writer = Writer::new(4, &mut record);
    let run = |start, len, ordinal| Extent { start, len, log: 1, sco: 70_000, ordinal };
    writer.run(run(500, 20, 0));
    // Leaf 1 from its cluster 10 on: two that follow the run before them, and one apart.
    let bitmap = [1 << 10 | 1 << 11 | 1 << 20, 0, 0, 0, 0, 0, 0, 0];
    writer.packed(1, (1, 1), &bitmap, [4464 << 16 | 22, 4464 << 16 | 23, 1].into_iter());
    writer.run(run(512 + 21, 600, 9));
    writer.finish();
    let (index, chunk) = Chunk::decode(&record).expect("a legal record");
    let map = Map::from_chunks([(index, Arc::new(chunk))]).expect("in range");

    let (mut expected, base) = (Map::new(), 4 * CHUNK);
    let place = |ordinal| loc(1, 70_000, ordinal);
    for (start, len, loc) in [
        (500, 20, place(0)),
        (522, 2, place(22)),
        (532, 1, loc(1, 65_536, 1)),
        (533, 600, place(9)),
    ] {
        expected.set(base + start, len, loc, &mut |_, _| {}).expect("in range");
    }
    assert_eq!(map, expected);
    assert_eq!((map.mapped(), map.memory()), (623, reload(&map).memory()));
}
