//! When an OSD does what the upkeep asks of it: when no guest's request waits there, and otherwise
//! once in so many of theirs, so that an object that has lost fragments gets them back on a disk
//! that is never idle, too.

/// Guests' requests that go before one of the upkeep's, at most.
const GUESTS_MAX: u32 = 32;

/// See the top of the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turns {
    /// Guests' requests that went before the one of the upkeep's that waits.
    before: u32,
}

impl Turns {
    /// A guest's request is taken while one of the upkeep's waits.
    pub fn guest(&mut self) {
        self.before = self.before.saturating_add(1);
    }

    /// Whether it is the upkeep's turn; `guests`: whether a guest's request waits.
    pub fn is_upkeeps(&self, guests: bool) -> bool {
        !guests || self.before >= GUESTS_MAX
    }

    /// One of the upkeep's is taken.
    pub fn upkeep(&mut self) {
        self.before = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_go_first_and_the_upkeep_is_never_kept_waiting_for_good() {
        let (mut turns, mut served, mut guests) = (Turns::default(), 0, 0);
        for _ in 0..10 * GUESTS_MAX {
            if turns.is_upkeeps(true) {
                turns.upkeep();
                served += 1;
            } else {
                turns.guest();
                guests += 1;
            }
        }
        assert!(guests / GUESTS_MAX == served && served == 9, "{served} beside {guests}");
        for before in 0..GUESTS_MAX {
            let mut turns = Turns::default();
            (0..before).for_each(|_| turns.guest());
            assert_eq!((turns.is_upkeeps(true), turns.is_upkeeps(false)), (false, true));
        }
    }
}
