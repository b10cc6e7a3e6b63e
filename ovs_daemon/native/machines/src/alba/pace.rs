//! How fast an OSD answers, and when an answer is late.
//!
//! The mean and the mean deviation, each new measurement with a weight of an eighth and a quarter,
//! as TCP estimates round trips (RFC 6298, section 2). An answer is late after the mean and four
//! deviations: few answers of a sound disk are, so that asking elsewhere costs little.

/// Never less, in microseconds: what a busy processor takes is no reason to ask elsewhere.
const LATE_MIN_US: u64 = 3_000;
/// Never more: a guest waits.
const LATE_MAX_US: u64 = 250_000;
/// As long as nothing is known.
const LATE_FIRST_US: u64 = 30_000;

/// See the top of the file. Microseconds, times 8 and times 4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    mean_8: u64,
    deviation_4: u64,
    known: bool,
}

impl Pace {
    /// An answer took so long.
    pub fn observe(&mut self, us: u64) {
        let us = us.min(8 * LATE_MAX_US);
        if !self.known {
            *self = Self { mean_8: us * 8, deviation_4: us * 2, known: true };
            return;
        }
        let difference = us.abs_diff(self.mean_8 / 8);
        self.deviation_4 = self.deviation_4 - self.deviation_4 / 4 + difference;
        self.mean_8 = self.mean_8 - self.mean_8 / 8 + us;
    }

    /// An answer is late after so many microseconds.
    pub fn late_after_us(&self) -> u64 {
        if !self.known {
            return LATE_FIRST_US;
        }
        (self.mean_8 / 8 + self.deviation_4).clamp(LATE_MIN_US, LATE_MAX_US)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(measured: &[u64]) -> u64 {
        let mut pace = Pace::default();
        measured.iter().for_each(|us| pace.observe(*us));
        pace.late_after_us()
    }

    #[test]
    fn what_is_late_follows_what_is_usual() {
        assert_eq!(after(&[]), LATE_FIRST_US);
        assert_eq!(after(&[100; 50]), LATE_MIN_US);
        assert!((10_000..11_000).contains(&after(&[10_000; 50])), "{}", after(&[10_000; 50]));
        assert!(after(&[10_000, 30_000, 10_000, 30_000]) > 40_000);
        assert_eq!(after(&[u64::MAX; 9]), LATE_MAX_US);
        let mut recovered = [20_000; 120];
        recovered[0] = 9_000_000;
        assert!(after(&recovered) < 25_000);
    }
}
