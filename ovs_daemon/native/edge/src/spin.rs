//! How long a loop looks at its rings before it sleeps.
//!
//! Sleeping and being woken costs both sides a system call and the waker's target a few
//! microseconds; looking costs a processor. After work, the loop goes on looking for a short
//! *budget*, giving its processor away between two looks (on a machine where both sides share one
//! processor the peer would else never get to run). If looking finds work, the budget stays; each
//! time it does not, it halves, down to nothing; and a sleep that ends so soon that looking would
//! have caught the work restores it. So a steady exchange never sleeps, and an idle or slow volume
//! costs nothing.

use net::clock::monotonic_ns;

/// Longest time of looking without finding anything, in nanoseconds.
pub const BUDGET_MAX_NS: u64 = 50_000;
/// A budget below this is not worth a look, in nanoseconds.
const BUDGET_MIN_NS: u64 = 3_000;

/// See the file's essay.
#[derive(Debug)]
pub struct Spin {
    budget_ns: u64,
    idle_since_ns: Option<u64>,
    asleep_since_ns: Option<u64>,
}

impl Default for Spin {
    fn default() -> Self {
        Self { budget_ns: BUDGET_MAX_NS, idle_since_ns: None, asleep_since_ns: None }
    }
}

impl Spin {
    /// Something was found.
    #[inline]
    pub fn worked(&mut self) {
        self.idle_since_ns = None;
        if let Some(since) = self.asleep_since_ns.take() {
            let slept = monotonic_ns().saturating_sub(since);
            if slept < BUDGET_MAX_NS {
                self.budget_ns = (self.budget_ns * 2).clamp(BUDGET_MIN_NS, BUDGET_MAX_NS);
            }
        }
    }

    /// Nothing was found: look again? Gives the processor away before it says yes.
    pub fn again(&mut self) -> bool {
        if self.budget_ns < BUDGET_MIN_NS {
            return self.stop();
        }
        let now = monotonic_ns();
        let since = *self.idle_since_ns.get_or_insert(now);
        if now.saturating_sub(since) < self.budget_ns {
            std::thread::yield_now();
            return true;
        }
        self.budget_ns /= 2;
        self.stop()
    }

    fn stop(&mut self) -> bool {
        self.idle_since_ns = None;
        self.asleep_since_ns = Some(monotonic_ns());
        false
    }
}
