//! Every pattern of losses up to the promise of a layout decodes to the same bytes.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeSet;

use alba::code::Codec;
use alba::pieces::{
    Fragment, Label, Padded, decode_object, encode_object, encode_piece, padded_len, restore,
};
use alba::preset::Preset;
use format::{Malformed, crc32c};
use machines::alba::{Cut, Layout, Set};
use media::Pool;

/// Those of the shipped presets, and odd ones.
fn layouts() -> Vec<Layout> {
    let odd = [(7, 4, 3, 2), (1, 2, 3, 1)].map(|(k, m, d, l)| Layout::new(k, m, d, l).unwrap());
    let shipped = Preset::shipped();
    let shipped = shipped.iter().flat_map(|preset| &preset.policies).map(|one| *one.layout());
    let all: BTreeSet<Layout> = shipped.chain(odd).collect();
    all.into_iter().collect()
}

/// One vector register: enough for every branch of the arithmetic, little enough for 1.3 million
/// patterns.
const LEN: usize = 64;

fn encoded(layout: Layout) -> (Codec, Vec<Vec<u8>>) {
    let codec = Codec::new(layout);
    let byte = |fragment: usize, at: usize| (fragment * 131 + at * 29 + at * at) as u8;
    let mut payloads: Vec<Vec<u8>> = (0..layout.fragments())
        .map(|fragment| (0..LEN).map(|at| byte(fragment, at)).collect())
        .collect();
    let (data, parity) = payloads.split_at_mut(layout.data());
    let data: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    let mut parity: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
    codec.encode(&data, &mut parity);
    (codec, payloads)
}

fn check(codec: &Codec, payloads: &[Vec<u8>], lost: Set, wanted: Set) {
    let mut fragments: Vec<Option<Vec<u8>>> = payloads
        .iter()
        .enumerate()
        .map(|(number, payload)| (lost & 1 << number == 0).then(|| payload.clone()))
        .collect();
    restore(codec, &mut fragments, wanted).unwrap();
    for (number, (back, payload)) in fragments.iter().zip(payloads).enumerate() {
        let same = back.as_ref() == Some(payload);
        assert!(same || wanted & 1 << number == 0, "{:?} without {lost:b}", codec.layout());
    }
}

/// Calls `visit` with every subset of `set` that has up to `most` elements.
fn subsets(set: Set, most: usize, chosen: Set, visit: &mut dyn FnMut(Set)) {
    visit(chosen);
    if most == 0 {
        return;
    }
    let mut rest = set;
    while rest != 0 {
        let lowest = rest & rest.wrapping_neg();
        rest &= !lowest;
        subsets(rest, most - 1, chosen | lowest, visit);
    }
}

#[test]
fn any_m_of_the_global_fragments_may_be_lost_with_all_local_parity() {
    for layout in layouts() {
        let (codec, payloads) = encoded(layout);
        let local = layout.all() & !layout.global_set();
        let mut patterns = 0;
        subsets(layout.global_set(), layout.parity(), 0, &mut |lost| {
            check(&codec, &payloads, lost | local, layout.global_set());
            patterns += 1;
        });
        assert!(patterns > 1);
    }
}

#[test]
fn a_domain_and_l_more_in_each_other_domain_may_be_lost() {
    for layout in layouts() {
        let (codec, payloads) = encoded(layout);
        for gone in 0..layout.domains() {
            if layout.member_count(gone) > layout.parity() {
                continue;
            }
            let mut patterns = vec![layout.group_set(gone)];
            for other in (0..layout.domains()).filter(|other| *other != gone) {
                let mut more = Vec::new();
                for lost in patterns {
                    subsets(layout.group_set(other), layout.local(), lost, &mut |all| {
                        more.push(all);
                    });
                }
                patterns = more;
            }
            patterns.iter().for_each(|lost| check(&codec, &payloads, *lost, layout.all()));
        }
    }
}

fn encode(codec: &Codec, object: &str, bytes: &[u8], fragment_size: u64) -> Vec<Fragment> {
    let object_len = bytes.len() as u64;
    let acknowledge = codec.layout().data() as u8 + 1;
    let label = Label { object, object_len, acknowledge, generation: 3, sealed: false };
    let cut = Cut::new(codec.layout(), object_len, fragment_size);
    encode_object(codec, &label, bytes, &cut).unwrap()
}

#[test]
fn objects_of_every_length_come_back() {
    let layout = Layout::new(4, 2, 3, 1).unwrap();
    let codec = Codec::new(layout);
    for len in [0, 1, 4096, 16_384, 16_385, 50_000, 100_001] {
        let object: Vec<u8> = (0..len).map(|at: usize| (at * 7 + at / 256) as u8).collect();
        let mut fragments = encode(&codec, "a/b", &object, 8192);
        for fragment in &fragments {
            let stored = fragment.encode();
            assert_eq!(stored.len() as u64, fragment.header.len());
            assert_eq!(Fragment::decode(&stored).as_ref(), Ok(fragment));
        }
        // Group 0, and one of each other group: all but 4, 5, 7 and 8.
        fragments.retain(|one| [4, 5, 7, 8].contains(&one.header.fragment));
        fragments.reverse();
        assert_eq!(decode_object(fragments.clone()), Ok(object));
        fragments.retain(|one| one.header.piece > 0 || one.header.fragment != 4);
        let error = decode_object(fragments).unwrap_err().to_string();
        assert!(error.starts_with("3 fragments of piece 0") || error.starts_with("0"), "{error}");
    }
}

#[test]
fn what_changes_after_it_was_compared_is_seen_by_who_gets_the_fragment() {
    let codec = Codec::new(Layout::new(4, 2, 3, 1).unwrap());
    // Two pieces of 4 fragments of 8 KiB, the last not full.
    let object: Vec<u8> = (0..50_000).map(|at: usize| (at * 7 + at / 256) as u8).collect();
    let cut = Cut::new(codec.layout(), 50_000, 8192);
    let plain = encode(&codec, "a/b", &object, 8192);
    let label =
        Label { object: "a/b", object_len: 50_000, acknowledge: 5, generation: 3, sealed: false };
    let mut bytes = object.clone();
    bytes.resize(padded_len(&codec, &cut), 0);
    let crcs = bytes.chunks(4096).map(|page| Some(crc32c(page)));
    let known: Vec<Option<u32>> = crcs.take(object.len() / 4096).collect();
    let pool = Pool::new(0);
    let encode = |bytes: Vec<u8>| -> Vec<Fragment> {
        let padded = Padded { bytes: bytes.into(), crcs: known.clone() };
        let piece = |piece| encode_piece(&codec, &label, &padded, &cut, piece, &pool).unwrap();
        (0..cut.pieces()).flat_map(piece).collect()
    };
    assert_eq!(encode(bytes.clone()), plain);
    // One in the second fragment of the first piece, one in the first of the second piece.
    for (at, (piece, fragment)) in [(12_288, (0, 1)), (32_768 + 5000, (1, 0))] {
        let mut spoilt = bytes.clone();
        spoilt[at] ^= 1;
        for one in encode(spoilt) {
            let hit = (one.header.piece, one.header.fragment) == (piece, fragment);
            let expected = if hit { Err(Malformed::Checksum) } else { Ok(one.clone()) };
            assert_eq!(Fragment::decode(&one.encode()), expected, "byte {at}");
        }
    }
}

#[test]
fn a_flipped_bit_of_a_stored_fragment_is_noticed() {
    let codec = Codec::new(Layout::new(2, 1, 1, 0).unwrap());
    let stored = encode(&codec, "x", &[9; 5000], 4096)[2].encode();
    for at in (0..stored.len()).step_by(61) {
        let mut damaged = stored.clone();
        damaged[at] ^= 4;
        assert!(Fragment::decode(&damaged).is_err(), "byte {at}");
    }
    assert!(Fragment::decode(&stored[..stored.len() - 1]).is_err());
}
