//! How a volume stands, as those see it who do its jobs: on other threads, and later than it asked.

use std::sync::atomic::{AtomicBool, Ordering};

/// Shared by a volume and its jobs.
#[derive(Debug, Default)]
pub struct Standing {
    over: AtomicBool,
}

impl Standing {
    /// It was stopped or let go of: nobody waits for its jobs, and somebody else may own it.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Release);
    }
}
