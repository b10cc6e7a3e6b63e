//! How long a loop looks at its rings before it sleeps.
//!
//! Sleeping and being woken costs a few microseconds on both sides; looking costs a processor. So
//! after work a loop goes on looking for a short budget, and gives its processor away between two
//! looks: whoever produces the work may be waiting for exactly this processor.
//!
//! Looking must pay. When it found nothing within the budget, the next sleeps begin at once,
//! without a look: one sleep, then three, seven, up to [`SKIPS_MAX`]; the first look that finds
//! work resets that. So a steady exchange never sleeps, and a slow or idle volume wastes next to
//! nothing. And when giving the processor away cost more than [`CROWDED_NS`], somebody took it for
//! a whole time slice: on a host that busy, sleeping is the better way to get it back in time
//! (a sleeper that is woken goes before one that keeps running), so looking ends for long.

use net::clock::monotonic_ns;

/// Longest time of looking without finding anything, in nanoseconds.
const BUDGET_NS: u64 = 50_000;
/// A processor given away for longer than this went to somebody who computes, in nanoseconds.
const CROWDED_NS: u64 = 150_000;
/// Sleeps in a row that begin without a look, at most.
const SKIPS_MAX: u32 = 127;
/// The same on a crowded host.
const SKIPS_CROWDED: u32 = 2047;

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

    /// Nothing was found: look again? Gives the processor away before it says yes.
    pub fn again(&mut self) -> bool {
        if self.skips > 0 {
            self.skips -= 1;
            return false;
        }
        let now = monotonic_ns();
        let since = *self.idle_since_ns.get_or_insert(now);
        if now.saturating_sub(since) >= BUDGET_NS {
            return self.in_vain((self.penalty * 2 + 1).min(SKIPS_MAX));
        }
        std::thread::yield_now();
        if monotonic_ns().saturating_sub(now) >= CROWDED_NS {
            return self.in_vain(SKIPS_CROWDED);
        }
        true
    }

    fn in_vain(&mut self, penalty: u32) -> bool {
        self.idle_since_ns = None;
        self.penalty = penalty.min(SKIPS_MAX);
        self.skips = penalty;
        false
    }
}
