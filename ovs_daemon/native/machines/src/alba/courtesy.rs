//! How much of its budget the upkeep takes while guests read: less when their reads become slower.
//!
//! What nearly all reads of guests stay below (19 of 20) is followed by an estimate that every read
//! moves a little, up by nineteen steps if it took longer and down by one if not. There are two: of
//! the time when the upkeep rests, and of that when it works. As long as the second is much above
//! the first the upkeep halves what it takes, again and again down to a quarter; otherwise it takes
//! more again, little by little. What is usual follows, too, while the upkeep works, but in a quarter
//! of an hour: when guests do more than before, that is no reason to mend slowly for days.
//!
//! Without reads of guests there is nothing to be told apart, and the upkeep takes all of its budget.

/// Parts of the budget.
const WHOLE: u32 = 16;
/// Never less of it.
const LEAST: u32 = WHOLE / 4;
/// The upkeep counts as at work for so long after it has moved something.
const AT_WORK_MS: u64 = 1000;
/// How often it is decided.
const EVERY_MS: u64 = 250;
/// Reads since the last decision, fewer of which tell nothing.
const READS_MIN: u32 = 16;
/// Of all reads that are taken for usual, one in so many is slower.
const SLOW_ONE_IN: u64 = 20;
/// A step is the so manieth part of the estimate.
const STEP: u64 = 256;
/// What is usual follows by the so manieth part of the difference with each decision.
const DRIFT: u64 = 4096;
/// Differences of so many microseconds are no matter.
const FREE_US: u64 = 100;

/// In 1/1024 microseconds.
fn follow(estimate: &mut u64, us: u64) {
    let us = us.min(1 << 32) << 10;
    if *estimate == 0 {
        *estimate = us.max(1);
        return;
    }
    let step = (*estimate / STEP).max(1);
    *estimate = match us > *estimate {
        true => *estimate + step * (SLOW_ONE_IN - 1),
        false => *estimate - step.min(*estimate - 1),
    };
}

/// See the top of the file. Times are milliseconds of any clock that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Courtesy {
    usual: u64,
    working: u64,
    /// Reads since the last decision while the upkeep worked.
    reads: u32,
    moved_at: Option<u64>,
    decided_at: u64,
    share: u32,
}

impl Default for Courtesy {
    fn default() -> Self {
        Self { usual: 0, working: 0, reads: 0, moved_at: None, decided_at: 0, share: WHOLE }
    }
}

impl Courtesy {
    /// A guest's read took so long.
    pub fn observe(&mut self, us: u64, now: u64) {
        let works = self.moved_at.is_some_and(|at| now.saturating_sub(at) < AT_WORK_MS);
        if !works {
            // What follows begins with what is usual.
            (self.working, self.reads, self.share) = (0, 0, WHOLE);
            return follow(&mut self.usual, us);
        }
        if self.working == 0 {
            self.working = self.usual;
        }
        self.reads += 1;
        follow(&mut self.working, us);
    }

    /// The upkeep has moved something; the parts of [`Courtesy::WHOLE`] of its budget that it may take
    /// from now on.
    pub fn moved(&mut self, now: u64) -> u32 {
        self.moved_at = Some(now);
        if now.saturating_sub(self.decided_at) < EVERY_MS {
            return self.share;
        }
        self.decided_at = now;
        let known = self.reads >= READS_MIN && self.usual > 0;
        let much = self.usual + self.usual / 2 + (FREE_US << 10);
        self.share = match known && self.working > much {
            true => (self.share / 2).max(LEAST),
            false => (self.share + 1).min(WHOLE),
        };
        if known {
            self.usual = self.usual - self.usual / DRIFT + self.working / DRIFT;
        }
        self.reads = 0;
        self.share
    }

    /// See [`Courtesy::moved`].
    pub const WHOLE: u32 = WHOLE;
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    /// Reads for so many seconds, 500 a second, which take `us` or, one in ten, `slow` microseconds;
    /// the upkeep moves something each 10 ms if it works. The shares that it was given.
    fn run(
        courtesy: &mut Courtesy,
        from: &mut u64,
        (seconds, works): (u64, bool),
        (us, slow): (u64, u64),
    ) -> Vec<u32> {
        let mut shares = Vec::new();
        let until = *from + seconds * 1000;
        while *from < until {
            *from += 2;
            courtesy.observe(if from.is_multiple_of(20) { slow } else { us }, *from);
            if works && from.is_multiple_of(10) {
                shares.push(courtesy.moved(*from));
            }
        }
        shares
    }

    #[test]
    fn it_takes_less_while_guests_wait_longer_and_more_again_when_they_do_not() {
        let (mut courtesy, mut now) = (Courtesy::default(), 0);
        assert_eq!(run(&mut courtesy, &mut now, (20, false), (300, 400)), []);
        let calm = run(&mut courtesy, &mut now, (20, true), (300, 400));
        assert!(calm.iter().all(|share| *share == WHOLE), "as usual");
        let worse = run(&mut courtesy, &mut now, (10, true), (300, 2000));
        assert_eq!(worse.last(), Some(&LEAST), "every tenth read is slow");
        assert!(worse.iter().all(|share| (LEAST..=WHOLE).contains(share)));
        let better = run(&mut courtesy, &mut now, (30, true), (300, 400));
        assert_eq!(better.last(), Some(&WHOLE));
    }

    #[test]
    fn nobody_reads_and_nothing_is_known() {
        let mut courtesy = Courtesy::default();
        assert!((0..10_000).all(|now| courtesy.moved(now) == WHOLE));
        // Of the time before it worked nothing is known: it does not matter how slow they are.
        let mut courtesy = Courtesy::default();
        courtesy.moved(0);
        let all = run(&mut courtesy, &mut 0, (10, true), (9000, 90_000));
        assert!(all.iter().all(|share| *share == WHOLE), "{all:?}");
    }

    #[test]
    fn what_goes_on_for_long_becomes_usual() {
        let (mut courtesy, mut now) = (Courtesy::default(), 0);
        run(&mut courtesy, &mut now, (20, false), (300, 400));
        let all = run(&mut courtesy, &mut now, (3000, true), (900, 1200));
        assert_eq!((all.iter().min(), all.last()), (Some(&LEAST), Some(&WHOLE)));
    }

    #[test]
    fn a_rest_lets_it_begin_anew() {
        let (mut courtesy, mut now) = (Courtesy::default(), 0);
        run(&mut courtesy, &mut now, (20, false), (300, 400));
        run(&mut courtesy, &mut now, (10, true), (300, 3000));
        run(&mut courtesy, &mut now, (5, false), (300, 400));
        assert_eq!(courtesy.moved(now), WHOLE);
    }
}
