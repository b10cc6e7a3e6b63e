//! How long requests are in a volume, summed up without a clock for each of them.
//!
//! The sum of the times of all requests is the integral of how many there are: so the number is
//! enough, looked at when a turn begins and when it ends. A request counts from the turn that finds
//! it until the end of the turn in which it is answered.

/// What reads and everything else are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Read = 0,
    /// Writes, trims, zeroes and flushes.
    Change = 1,
}

/// See the top of the file; times are nanoseconds of a monotonic clock.
#[derive(Debug, Default)]
pub(crate) struct Load {
    inside: [u32; 2],
    /// Since the last look: they do not count yet, or count until the next one.
    entered: [u32; 2],
    left: [u32; 2],
    since: u64,
    spent: [u64; 2],
}

impl Load {
    /// A request came.
    pub(crate) fn enter(&mut self, class: Class) {
        self.entered[class as usize] += 1;
    }

    /// A request was answered, or so many were forgotten.
    pub(crate) fn leave(&mut self, class: Class, count: u32) {
        self.left[class as usize] += count;
    }

    /// Whether [`Load::look`] would count anything.
    pub(crate) fn is_busy(&self) -> bool {
        self.inside != [0; 2] || self.entered != [0; 2]
    }

    /// Counts up to `now`.
    pub(crate) fn look(&mut self, now: u64) {
        let passed = now.saturating_sub(self.since);
        self.since = self.since.max(now);
        for class in 0..2 {
            self.spent[class] += passed * u64::from(self.inside[class]);
            let inside = self.inside[class] + std::mem::take(&mut self.entered[class]);
            self.inside[class] = inside.saturating_sub(std::mem::take(&mut self.left[class]));
        }
    }

    /// The sum of the times of all requests of a class, up to the last look.
    pub(crate) fn spent(&self, class: Class) -> u64 {
        self.spent[class as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_from_its_turn_to_the_end_of_its_last_one() {
        let mut load = Load::default();
        load.enter(Class::Read);
        load.look(100);
        load.leave(Class::Read, 1);
        load.look(107);
        assert_eq!((load.spent(Class::Read), load.spent(Class::Change)), (7, 0));
        assert!(!load.is_busy());
        // Nobody is inside meanwhile.
        load.look(1000);
        assert_eq!(load.spent(Class::Read), 7);
    }

    #[test]
    fn times_of_many_are_added_up_by_class() {
        let mut load = Load::default();
        load.look(50);
        for _ in 0..3 {
            load.enter(Class::Change);
        }
        load.enter(Class::Read);
        assert!(load.is_busy());
        load.look(60);
        load.leave(Class::Change, 2);
        load.look(70);
        load.look(100);
        assert_eq!((load.spent(Class::Change), load.spent(Class::Read)), (30 + 30, 40));
        load.leave(Class::Change, 1);
        load.leave(Class::Read, 1);
        load.look(90);
        assert!(!load.is_busy());
        assert_eq!((load.spent(Class::Change), load.spent(Class::Read)), (60, 40));
    }
}
