//! How a volume stands, as those see it who do its jobs: on other threads, and later than it asked.

use std::sync::atomic::{AtomicBool, Ordering};

/// Shared by a volume and its jobs.
#[derive(Debug, Default)]
pub struct Standing {
    leaving: AtomicBool,
    over: AtomicBool,
}

impl Standing {
    /// It takes no requests any more, and its guests wait until another node has it.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// It was stopped or let go of: nobody waits for its jobs, and somebody else may own it.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// From now on it takes none.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Release);
    }
}
