//! Which cache OSD is asked for a block, and whether it is asked at all.
//!
//! Rendezvous hashing (Thaler and Ravishankar, 1998): each OSD has a weight for each key, and the
//! highest one wins. Whoever comes or goes takes or gives its own share only.

use super::placement::mix;

/// Late answers in a row after which an OSD is not asked for a while.
const LATE_MAX: u8 = 3;
/// For how long, in microseconds: at first, and at most.
const PAUSE_MIN_US: u64 = 100_000;
const PAUSE_MAX_US: u64 = 10_000_000;

/// A number for a text.
pub fn digest(text: &[u8]) -> u64 {
    text.chunks(8).fold(text.len() as u64, |hash, chunk| {
        let word = chunk.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        mix(hash ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15)
    })
}

/// The place of the OSD (of these numbers) that has the blocks of a key; `None`: there is none.
pub fn favourite(osds: impl Iterator<Item = u64>, key: u64) -> Option<usize> {
    let weight = |osd: u64| (mix(mix(osd) ^ key), osd);
    osds.map(weight).enumerate().max_by_key(|(_, weight)| *weight).map(|(place, _)| place)
}

/// How much patience there is with a cache OSD. One that is late costs a reader his patience a few
/// times, and then, until it answers in time again, once in each pause, which become longer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Favour {
    late: u8,
    pause_us: u64,
    until_us: u64,
}

impl Favour {
    /// Whether it is asked.
    pub fn may_ask(&self, now_us: u64) -> bool {
        now_us >= self.until_us
    }

    /// It answered in time.
    pub fn answered(&mut self) {
        *self = Self::default();
    }

    /// It did not answer in time, or not at all.
    pub fn late(&mut self, now_us: u64) {
        if !self.may_ask(now_us) {
            // Others were waiting for it, too.
            return;
        }
        self.late += 1;
        if self.late >= LATE_MAX {
            self.late = LATE_MAX - 1;
            self.pause_us = (self.pause_us * 2).clamp(PAUSE_MIN_US, PAUSE_MAX_US);
            self.until_us = now_us + self.pause_us;
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn each_osd_has_its_share_and_who_leaves_gives_his_own_away() {
        let osds: Vec<u64> = (0..5).map(|one| mix(one + 77)).collect();
        let at = |osds: &[u64], key: u64| osds[favourite(osds.iter().copied(), key).unwrap()];
        let keys: Vec<u64> = (0..5000u64).map(|key| digest(&key.to_le_bytes())).collect();
        for gone in 0..osds.len() {
            let mut left = osds.clone();
            let gone = left.remove(gone);
            let mine = keys.iter().filter(|key| at(&osds, **key) == gone).count();
            assert!((850..1150).contains(&mine), "{mine} of 1000");
            for key in &keys {
                let (before, after) = (at(&osds, *key), at(&left, *key));
                assert!(before == after || before == gone, "only what it had moves");
            }
            left.reverse();
            assert!(
                keys.iter()
                    .all(|key| at(&osds, *key) == gone || { at(&osds, *key) == at(&left, *key) })
            );
        }
        assert_eq!(favourite(core::iter::empty(), 1), None);
    }

    #[test]
    fn texts_have_numbers_of_their_own() {
        let texts: [&[u8]; 7] = [b"", b"\0", b"\0\0", b"a", b"b", b"aaaaaaaab", b"baaaaaaaa"];
        for (at, one) in texts.iter().enumerate() {
            assert!(texts[at + 1..].iter().all(|other| digest(other) != digest(one)), "{one:?}");
        }
    }

    #[test]
    fn who_is_late_again_and_again_is_left_alone_and_asked_again_later() {
        let mut favour = Favour::default();
        favour.late(0);
        favour.late(10);
        assert!(favour.may_ask(10), "that happens");
        favour.late(20);
        assert!(!favour.may_ask(20 + PAUSE_MIN_US - 1) && favour.may_ask(20 + PAUSE_MIN_US));
        // Those who had asked before.
        (21..100).for_each(|now| favour.late(now));
        let mut now = 20 + PAUSE_MIN_US;
        assert!(favour.may_ask(now));
        let mut asked = 0;
        while now < 60_000_000 {
            if favour.may_ask(now) {
                asked += 1;
                favour.late(now);
            }
            now += 1000;
        }
        assert!((8..16).contains(&asked), "asked {asked} times in a minute");
        favour.answered();
        assert!(favour.may_ask(now));
        favour.late(now);
        assert!(favour.may_ask(now));
    }
}
