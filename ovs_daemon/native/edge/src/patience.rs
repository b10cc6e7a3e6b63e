//! How tests wait for what must happen: never without an end, and with what was seen instead.

use std::fmt::Debug;
use std::time::Duration;

use media::Wait;
use net::clock::monotonic_ns;

/// A machine that does much else at the same time is slow, not broken.
const MAX: Duration = Duration::from_secs(120);

/// Of one wait.
pub(crate) struct Patience {
    began_ns: u64,
}

impl Patience {
    pub(crate) fn new() -> Self {
        Self { began_ns: monotonic_ns() }
    }

    /// To be called between two looks.
    ///
    /// # Panics
    /// Time is over; the message has `state`, and the place where the test waited.
    #[track_caller]
    pub(crate) fn wait_on<State: Debug>(&self, state: impl FnOnce() -> State) {
        if Duration::from_nanos(monotonic_ns() - self.began_ns) > MAX {
            panic!("what is waited for here did not happen in {MAX:?}: {:?}", state());
        }
    }
}

/// What a loop waits for in a test that must be able to lose its patience.
pub(crate) fn impatient(wait: Wait) -> Wait {
    match wait {
        Wait::Forever => Wait::AtMost(Duration::from_secs(1)),
        other => other,
    }
}
