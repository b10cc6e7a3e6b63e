//! Whether a loop looks at its rings once more, or sleeps.
//!
//! Sleeping and being woken costs a few microseconds on both sides; looking costs a processor that
//! a guest might use. So a loop looks on only where that pays:
//!
//! * for a front end: with few requests on their way. With many, sleeping is better: the engine and
//!   the guest work meanwhile, and one wake-up is shared by all that is done by then;
//! * for a short budget;
//! * if it paid lately. After a look that found nothing, the next sleeps begin at once: one, then
//!   three, seven, up to [`SKIPS_MAX`]; the first look that finds work resets that. So a quick
//!   exchange one by one never sleeps, a slow or idle volume wastes next to nothing, and where both
//!   sides share one processor (looking keeps the other from working) nearly all time is theirs.
//!
//! The processor is not given away between two looks (`sched_yield`): on a host where somebody
//! computes it would come back a whole time slice later, while a sleeper that is woken comes first.

use net::clock::monotonic_ns;

/// Longest time of looking without finding anything, in nanoseconds.
const BUDGET_NS: u64 = 20_000;
/// Sleeps in a row that begin without a look, at most.
const SKIPS_MAX: u32 = 127;

/// See the file's essay.
#[derive(Debug, Default)]
pub struct Spin {
    /// Since when nothing was found; `None`: not looking.
    idle_since_ns: Option<u64>,
    /// Sleeps that are still to begin without a look.
    skips: u32,
    /// How many of them the last vain look was worth.
    penalty: u32,
}

impl Spin {
    /// Something was found.
    #[inline]
    pub fn worked(&mut self) {
        if self.idle_since_ns.take().is_some() {
            self.penalty = 0;
        }
    }

    /// Nothing was found: look again? False: sleep.
    pub fn again(&mut self) -> bool {
        if self.skips > 0 {
            self.skips -= 1;
            return false;
        }
        let now = monotonic_ns();
        let since = *self.idle_since_ns.get_or_insert(now);
        if now.saturating_sub(since) < BUDGET_NS {
            std::hint::spin_loop();
            return true;
        }
        self.idle_since_ns = None;
        self.penalty = (self.penalty * 2 + 1).min(SKIPS_MAX);
        self.skips = self.penalty;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks until the budget is used up.
    fn in_vain(spin: &mut Spin) {
        while spin.again() {}
    }

    #[test]
    fn vain_looks_are_paid_for_with_sleeps() {
        let mut spin = Spin::default();
        for expected in [1, 3, 7, 15, 31, 63, 127, 127] {
            spin.worked();
            in_vain(&mut spin);
            for _ in 0..expected {
                spin.worked();
                assert_eq!(spin.idle_since_ns, None);
                assert!(!spin.again(), "a sleep without a look");
            }
            spin.worked();
            assert!(spin.again(), "after {expected} sleeps it looks again");
            spin.idle_since_ns = None;
        }
    }

    #[test]
    fn a_look_that_pays_is_followed_by_others() {
        let mut spin = Spin::default();
        in_vain(&mut spin);
        spin.worked();
        assert!(!spin.again());
        assert!(spin.again());
        spin.worked();
        assert_eq!(spin.penalty, 0);
        assert!(spin.again(), "no sleep in between");
    }
}
