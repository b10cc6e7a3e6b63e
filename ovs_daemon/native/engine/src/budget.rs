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

/// What was not taken is made up for, but for no more than in so much time: what reading, computing and
/// storing take is no reason to move less than the budget, and a burst after a long wait is none.
const CREDIT: Duration = Duration::from_millis(50);

/// When what was spent is earned.
#[derive(Debug)]
struct Account {
    earned_at: Instant,
}

impl Account {
    /// What takes so long to earn is spent now; how long it is until that is earned.
    fn spend(&mut self, now: Instant, cost: Duration) -> Duration {
        let from = now.checked_sub(CREDIT).map_or(now, |from| self.earned_at.max(from));
        self.earned_at = from + cost;
        self.earned_at.saturating_duration_since(now)
    }
}

/// So many bytes each second, as the orders of the moment say; fewer while guests notice it
/// (`machines::alba::Courtesy`).
pub(crate) struct Budget<'a, F> {
    cluster: &'a Cluster,
    shared: &'a Shared,
    rate: F,
    account: Account,
}

impl<'a, F: Fn(&Orders) -> u64> Budget<'a, F> {
    pub(crate) fn new(cluster: &'a Cluster, shared: &'a Shared, rate: F) -> Self {
        Self { cluster, shared, rate, account: Account { earned_at: Instant::now() } }
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
        let cost = Duration::from_secs_f64(bytes as f64 / rate);
        self.shared.rest(self.account.spend(Instant::now(), cost))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_step_takes_is_made_up_for_and_a_long_wait_is_not() {
        let ms = Duration::from_millis;
        let (begin, step) = (Instant::now(), ms(24));
        let mut account = Account { earned_at: begin };
        let mut now = begin;
        // Steps take longer and shorter than what they move takes to earn.
        for work in [5, 10, 0, 40, 3, 30, 2, 7] {
            now += ms(work);
            now += account.spend(now, step);
        }
        assert_eq!(now - begin, 8 * step, "exactly the budget");
        now += ms(60_000);
        let waits = [0; 4].map(|_| account.spend(now, step));
        assert_eq!(waits, [ms(0), ms(0), ms(22), ms(46)]);
    }
}
