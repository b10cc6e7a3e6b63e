//! The map against a plain model: every operation, every representation, snapshots and records.
#![allow(missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

use machines::map::{CHUNK_CLUSTERS, CLUSTERS_MAX, Chunk, LEAF_CLUSTERS, Loc, Map, count_refs};
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
    Loc {
        ordinal: (u64::from(loc.ordinal) + n) as u16,
        ..loc
    }
}

/// Expands runs into clusters.
fn clusters(runs: &[(Loc, u32)]) -> Vec<Loc> {
    runs.iter()
        .flat_map(|(loc, len)| (0..u64::from(*len)).map(|n| plus(*loc, n)))
        .collect()
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
    map.set(lba, len, loc, &mut |loc, len| old.push((loc, len)))
        .expect("in range");
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
    assert_eq!(
        all,
        model
            .iter()
            .map(|(lba, loc)| (*lba, *loc))
            .collect::<Vec<_>>()
    );
}

/// The same content, built in one go: another history, possibly other forms.
fn rebuilt(model: &Model) -> Map {
    let mut map = Map::new();
    for (lba, loc) in model.iter().rev() {
        map.set(*lba, 1, *loc, &mut |_, _| panic!("nothing to displace"))
            .expect("in range");
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
}

/// `count_refs` counts the distinct (LBA, location) pairs of all maps together.
fn check_refs(kept: &[(Map, Model)]) {
    let maps: Vec<&Map> = kept.iter().map(|(map, _)| map).collect();
    let pairs: BTreeSet<(u64, Loc)> = kept
        .iter()
        .flat_map(|(_, model)| model.iter().map(|(lba, loc)| (*lba, *loc)))
        .collect();
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
    let set = (
        place.clone(),
        len.clone(),
        0..3u16,
        1..4u32,
        any::<bool>(),
        0..60000u16,
    )
        .prop_map(move |(lba, len, log, sco, aligned, ordinal)| {
            let len = u64::from(len).min(base + span - lba);
            // Half of the locations follow from the LBA, as in sequential writing.
            let ordinal = if aligned {
                (lba % 50000) as u16
            } else {
                ordinal
            };
            Op::Set {
                lba,
                len: len as u32,
                loc: loc(log, sco, ordinal),
            }
        });
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
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

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

    #[test]
    fn agrees_with_a_model_at_the_end_of_64_tib(ops in ops(CLUSTERS_MAX - 700, 700)) {
        run(ops, CLUSTERS_MAX - 1024, CLUSTERS_MAX + 1024);
    }
}
