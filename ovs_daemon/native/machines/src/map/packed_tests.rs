//! A packed leaf against an array, and its redundant parts against a recount.

extern crate std;

use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

type Model = [Option<Loc>; LEAF_CLUSTERS];

/// Bitmap, cells, `links` and palette say the same.
fn consistent(packed: &Packed, model: &Model) {
    let bits: u32 = packed.bitmap.iter().map(|word| word.count_ones()).sum();
    assert_eq!(bits as usize, packed.cells.len());
    for (cluster, expected) in model.iter().enumerate() {
        assert_eq!(packed.get(cluster), *expected, "cluster {cluster}");
    }
    let joined = |pair: &&[Option<Loc>]| match pair {
        [Some(before), Some(loc)] => loc.follows(*before, 1),
        _ => false,
    };
    assert_eq!(usize::from(packed.links), model.windows(2).filter(joined).count());
    assert_eq!(packed.touches(0, LEAF_CLUSTERS), bits > 0);
    let pages: Vec<Page> = model.iter().flatten().map(|loc| Page::of(*loc)).collect();
    match &packed.mixed {
        None => {
            assert!(pages.iter().all(|page| *page == packed.page));
            assert_eq!(packed.links, packed.count_links());
        }
        Some(mixed) => {
            assert!(pages.iter().any(|page| *page != pages[0]), "one page needs no palette");
            assert_eq!(mixed.shades.len(), pages.len());
            for (index, shade) in mixed.palette.iter().enumerate() {
                let cells = mixed.shades.iter().filter(|s| usize::from(**s) == index).count();
                assert_eq!(usize::from(shade.clusters), cells, "palette entry {index}");
            }
        }
    }
}

/// Locations that often continue each other, among them the last ordinal of a SCO and the first
/// of the next one, and SCOs of two pages.
fn locs() -> impl Strategy<Value = Loc> {
    let sco = prop_oneof![8 => 1..3u32, 1 => Just(0xffff), 1 => Just(0x1_0000)];
    let ordinal = prop_oneof![3 => 0..3u16, 1 => 65533..=65535u16];
    let log = prop_oneof![12 => Just(0u16), 1 => Just(1)];
    (log, sco, ordinal).prop_map(|(log, sco, ordinal)| Loc { log, sco, ordinal })
}

fn changes() -> impl Strategy<Value = Vec<(usize, usize, Option<Loc>)>> {
    // Around the border of two words of the bitmap, where clusters are hit again and again.
    let start = prop_oneof![6 => 60..68usize, 1 => Just(0usize), 1 => 0..LEAF_CLUSTERS];
    let len = prop_oneof![8 => Just(1usize), 2 => 1..5usize, 1 => 1..200usize];
    let change = (start, len, prop::option::weighted(0.8, locs()));
    prop::collection::vec(change, 1..80)
}

fn apply(packed: &mut Packed, model: &mut Model, start: usize, len: usize, new: Option<Loc>) {
    let mut old = Vec::new();
    let mut report = |loc: Loc, len: u32| old.extend((0..len).map(|n| loc.plus(n)));
    let overwritten = match new {
        Some(loc) if len == 1 => packed.overwrite(start, loc),
        _ => None,
    };
    match overwritten {
        Some(loc) => report(loc, 1),
        None => {
            let removed = packed.replace(start, len, new, &mut report);
            assert_eq!(removed, old.len());
        }
    }
    let range = &mut model[start..start + len];
    assert_eq!(old, range.iter().flatten().copied().collect::<Vec<_>>());
    for (n, place) in range.iter_mut().enumerate() {
        *place = new.map(|loc| loc.plus(n as u32));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_an_array(full: bool, changes in changes()) {
        let loc = Loc { log: 0, sco: 1, ordinal: 0 };
        let len = if full { LEAF_CLUSTERS } else { 3 };
        let mut packed = Packed::from_runs(&[Run::new(0, len, loc)], len).expect("one page");
        let mut model: Model = [None; LEAF_CLUSTERS];
        (0..len).for_each(|n| model[n] = Some(loc.plus(n as u32)));
        consistent(&packed, &model);
        for (start, len, new) in changes {
            // Ordinals of a run do not wrap; the map refuses such.
            let room = new.map_or(LEAF_CLUSTERS, |loc| 65536 - usize::from(loc.ordinal));
            let len = len.min(LEAF_CLUSTERS - start).min(room);
            apply(&mut packed, &mut model, start, len, new);
            consistent(&packed, &model);
            let mut runs = Vec::new();
            packed.for_each(0, LEAF_CLUSTERS, &mut |run| runs.push(run));
            prop_assert_eq!(runs.len(), packed.run_count());
            if !runs.is_empty() {
                let again = Packed::from_runs(&runs, packed.clusters()).expect("few pages");
                consistent(&again, &model);
            }
        }
    }
}

#[test]
fn a_full_palette_takes_known_pages_only() {
    let page = |n: u32| Loc { log: n as u16, sco: n << 16, ordinal: 7 };
    let mut packed = Packed::from_runs(&[Run::new(0, 1, page(0))], 1).expect("one page");
    let mut model: Model = [None; LEAF_CLUSTERS];
    model[0] = Some(page(0));
    for n in 1..PALETTE_MAX as u32 {
        assert!(packed.accepts(Page::of(page(n))));
        apply(&mut packed, &mut model, n as usize, 1, Some(page(n)));
    }
    consistent(&packed, &model);
    assert!(packed.accepts(Page::of(page(9))));
    assert!(!packed.accepts(Page::of(page(256))));
    // Overwriting the last cluster of a page frees its entry.
    apply(&mut packed, &mut model, 9, 1, Some(page(8)));
    assert!(packed.accepts(Page::of(page(256))));
    apply(&mut packed, &mut model, 300, 1, Some(page(256)));
    consistent(&packed, &model);
    let runs: Vec<Run> = (0..257).map(|n| Run::new(n as usize, 1, page(n))).collect();
    assert!(Packed::from_runs(&runs, runs.len()).is_none(), "one page too many");
    assert_eq!(vec![packed.run_count()], [257]);
}
