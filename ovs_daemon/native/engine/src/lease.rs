//! This node's lease in the registry, as the threads of the engine see it.
//!
//! Its end is a moment and no duration: however late the engine hears of a renewal, the lease does
//! not last longer than the registry granted it. The clock goes on while the host sleeps, as the
//! registry's does.
//!
//! A lease that was over begins anew as another *term*. What was opened in an earlier one stops,
//! also when nobody looked at the clock in between: another node may have had it meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};

use net::clock::boottime_ns;

/// The end of a node for itself, whose volumes nobody else may own.
const NEVER: u64 = u64::MAX;

/// What was granted last.
#[derive(Debug)]
pub(crate) struct Lease {
    end_ns: AtomicU64,
    term: AtomicU64,
}

/// The lease at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Granted {
    pub(crate) end_ns: u64,
    pub(crate) term: u64,
}

impl Default for Lease {
    fn default() -> Self {
        Self { end_ns: AtomicU64::new(NEVER), term: AtomicU64::new(0) }
    }
}

impl Lease {
    pub(crate) fn extend(&self, granted: Granted) {
        // Who sees the new end sees the new term: nothing of the old one is taken for valid.
        self.term.store(granted.term, Ordering::Release);
        self.end_ns.store(granted.end_ns, Ordering::Release);
    }

    pub(crate) fn granted(&self) -> Granted {
        let end_ns = self.end_ns.load(Ordering::Acquire);
        Granted { end_ns, term: self.term.load(Ordering::Acquire) }
    }
}

impl Granted {
    pub(crate) fn is_over(&self) -> bool {
        self.ends() && boottime_ns() >= self.end_ns
    }

    pub(crate) fn ends(&self) -> bool {
        self.end_ns != NEVER
    }
}
