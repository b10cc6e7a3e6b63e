//! How fast a volume's requests are let through: limits per second on operations and bytes, of
//! reads, of writes and of both together.
//!
//! Each limit is a token bucket, kept as the moment at which it will be full again (the "virtual
//! scheduling" form of ITU-T I.371, annex A). A request passes while every bucket that it draws
//! from has anything left, and may leave it in debt; so one that is larger than the bucket passes
//! too, and those behind it wait the longer. Nothing accumulates but one integer per bucket, and
//! rounding is always to the side of the limit: over any time `t` a bucket lets through at most
//! `rate * (t + burst)` plus one request.
//!
//! Requests of one kind pass in the order in which they came. When both kinds wait for a common
//! bucket they take turns. The machine knows no clock: the shell says what time it is.

#[cfg(test)]
mod tests;

/// Buckets, in the order of [`NAMES`].
const BUCKETS: usize = 6;
/// What the limits are called, in the order of [`Limits::rates`].
pub const NAMES: [&str; BUCKETS] =
    ["read_iops", "write_iops", "total_iops", "read_bytes_s", "write_bytes_s", "total_bytes_s"];

const SECOND_NS: u64 = 1_000_000_000;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// It fetches bytes.
    Read,
    /// It changes bytes.
    Write,
}

impl Kind {
    const ALL: [Kind; 2] = [Kind::Read, Kind::Write];

    fn other(self) -> Kind {
        match self {
            Kind::Read => Kind::Write,
            Kind::Write => Kind::Read,
        }
    }

    /// Whether the bucket of this index is one that requests of this kind draw from.
    fn draws_from(self, bucket: usize) -> bool {
        bucket % 3 == 2 || bucket % 3 == self as usize
    }
}

/// What a request draws from the buckets. A flush draws nothing: it passes in its order only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Cost {
    /// Operations.
    pub operations: u32,
    /// Bytes.
    pub bytes: u64,
}

/// The limits of a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Operations or bytes per second, as [`NAMES`] lists them; `None`: no limit. Zero lets one
    /// request through and then nothing for centuries; whoever sets limits refuses it.
    pub rates: [Option<u64>; BUCKETS],
    /// How much of a limit may be used at once after a rest, as the time in which that much
    /// becomes available, in nanoseconds.
    pub burst_ns: u64,
}

impl Limits {
    /// Nothing is limited.
    pub fn is_unlimited(&self) -> bool {
        self.rates.iter().all(Option::is_none)
    }
}

/// The requests that are first in line; `None`: nobody waits.
pub type Heads = [Option<Cost>; 2];

/// The state of a volume's limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Qos {
    limits: Limits,
    /// When each bucket will be full again.
    full_at: [u64; BUCKETS],
    /// The kind that passed last: the other one goes first.
    last: Option<Kind>,
}

impl Qos {
    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Sets other limits at `now`. What was used counts on, at the new rate: changing limits gives
    /// nobody a fresh burst, and nobody pays at an old rate.
    pub fn set(&mut self, limits: Limits, now: u64) {
        for (bucket, full_at) in self.full_at.iter_mut().enumerate() {
            let owed = u128::from(full_at.saturating_sub(now));
            let owed = match (self.limits.rates[bucket], limits.rates[bucket]) {
                (Some(old), Some(new)) => (owed * u128::from(old)).div_ceil(new.max(1).into()),
                _ => 0,
            };
            *full_at = now.saturating_add(u64::try_from(owed).unwrap_or(u64::MAX));
        }
        self.limits = limits;
    }

    /// Which of the requests that are first in line passes at `now` (nanoseconds of a monotonic
    /// clock), if any. It has passed then; ask again for the next.
    pub fn pass(&mut self, heads: Heads, now: u64) -> Option<Kind> {
        let first = self.last.map_or(Kind::Read, Kind::other);
        for kind in [first, first.other()] {
            if let Some(cost) = heads[kind as usize]
                && self.ready_at(kind, cost) <= now
            {
                self.charge(kind, cost, now);
                self.last = Some(kind);
                return Some(kind);
            }
        }
        None
    }

    /// When to ask again; `None`: nobody waits.
    pub fn wakes_at(&self, heads: Heads) -> Option<u64> {
        let at = |kind: Kind| Some(self.ready_at(kind, heads[kind as usize]?));
        Kind::ALL.into_iter().filter_map(at).min()
    }

    /// The limits that hold requests back at `now`, as places in [`NAMES`].
    pub fn holding(&self, heads: Heads, now: u64) -> impl Iterator<Item = usize> {
        (0..BUCKETS).filter(move |&bucket| {
            let waits = |kind: &Kind| {
                let cost = heads[*kind as usize];
                cost.is_some_and(|cost| kind.draws_from(bucket) && amount(cost, bucket) > 0)
            };
            Kind::ALL.iter().any(waits) && self.opens_at(bucket) > now
        })
    }

    /// When the bucket has anything left.
    fn opens_at(&self, bucket: usize) -> u64 {
        match self.limits.rates[bucket] {
            Some(_) => self.full_at[bucket].saturating_sub(self.limits.burst_ns),
            None => 0,
        }
    }

    fn ready_at(&self, kind: Kind, cost: Cost) -> u64 {
        let drawn = (0..BUCKETS).filter(|b| kind.draws_from(*b) && amount(cost, *b) > 0);
        drawn.map(|bucket| self.opens_at(bucket)).max().unwrap_or(0)
    }

    fn charge(&mut self, kind: Kind, cost: Cost, now: u64) {
        for (bucket, full_at) in self.full_at.iter_mut().enumerate() {
            let amount = amount(cost, bucket);
            if let Some(rate) = self.limits.rates[bucket]
                && kind.draws_from(bucket)
                && amount > 0
            {
                let refill = u128::from(amount) * u128::from(SECOND_NS);
                let refill = refill.div_ceil(u128::from(rate.max(1)));
                let refill = u64::try_from(refill).unwrap_or(u64::MAX);
                *full_at = (*full_at).max(now).saturating_add(refill);
            }
        }
    }
}

/// What a request draws from a bucket: operations from the first half, bytes from the second.
fn amount(cost: Cost, bucket: usize) -> u64 {
    if bucket < BUCKETS / 2 { u64::from(cost.operations) } else { cost.bytes }
}
