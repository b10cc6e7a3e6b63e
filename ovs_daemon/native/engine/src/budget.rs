//! What the upkeep may take from guests: so many bytes each second, and the processor when nobody else
//! wants it.

use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, scope};
use std::time::{Duration, Instant};

use alba::Cluster;
use format::osd::wire::Class;
use machines::alba::Courtesy;
use media::give_way;

use crate::upkeep::{Orders, Shared};

/// So many bytes each second, as the orders of the moment say; fewer while guests notice it
/// (`machines::alba::Courtesy`).
pub(crate) struct Budget<'a, F> {
    cluster: &'a Cluster,
    shared: &'a Shared,
    rate: F,
    /// When what was spent is earned.
    free_at: Instant,
}

impl<'a, F: Fn(&Orders) -> u64> Budget<'a, F> {
    pub(crate) fn new(cluster: &'a Cluster, shared: &'a Shared, rate: F) -> Self {
        Self { cluster, shared, rate, free_at: Instant::now() }
    }

    /// What is not of the class of the upkeep's cannot wait, and takes all of the budget.
    pub(crate) fn spend(&mut self, class: Class, bytes: u64) -> bool {
        let whole = self.shared.lock().orders.as_ref().map_or(1, &self.rate);
        let share = match class {
            Class::Upkeep => self.cluster.share(),
            Class::Guest => Courtesy::WHOLE,
        };
        let part = f64::from(share) / f64::from(Courtesy::WHOLE);
        let rate = (whole as f64 * part).max(1.0);
        let now = Instant::now();
        self.free_at = self.free_at.max(now) + Duration::from_secs_f64(bytes as f64 / rate);
        self.shared.rest(self.free_at.saturating_duration_since(now))
    }
}

/// Does this on a thread that gives way to all others; the caller waits.
pub(crate) fn gently<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let work = Mutex::new(Some(work));
    let take = || work.lock().unwrap_or_else(PoisonError::into_inner).take();
    let done = scope(|scope| {
        let gentle = || {
            // Where that is not allowed it is done as everything else.
            let _ = give_way();
            take().map(|work| work())
        };
        let thread = Builder::new().name("vs-gentle".to_owned()).spawn_scoped(scope, gentle);
        match thread.map(|thread| thread.join()) {
            Ok(Ok(done)) => done,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            // There are too many threads at this moment.
            Err(_) => take().map(|work| work()),
        }
    });
    done.expect("somebody has done it")
}
