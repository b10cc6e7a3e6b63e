//! Where requests wait before they are admitted: because limits are set on the volume
//! (`machines::qos`), or because a snapshot of several volumes holds all their writes for a moment.
//!
//! Reads and writes wait in a queue each, so that what holds one kind does not hold the other. An
//! open gate costs one comparison per request.

use std::collections::VecDeque;

use edge::target::{Request, Verb};
use machines::qos::{Cost, Heads, Kind, Limits, NAMES, Qos};

use crate::items::length;
use crate::shell::Volume;

/// Limits on how fast requests are admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QosState {
    /// The limits.
    pub limits: Limits,
    /// Requests that wait now.
    pub waiting: usize,
    /// Requests that had to wait, since open.
    pub delayed_requests: u64,
    /// Names of the limits that requests wait for now.
    pub throttled_by: Vec<&'static str>,
}

/// Requests before they are admitted.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    qos: Qos,
    /// Snapshots of groups that hold writes at the moment.
    holds: u32,
    /// By [`Kind`].
    waiting: [VecDeque<Request>; 2],
    /// How many of them, from the front, have waited for a turn already.
    delayed: [usize; 2],
    /// Requests that had to wait, since open.
    delayed_requests: u64,
    /// Whether requests have to go through the queues.
    closed: bool,
}

/// What a request counts for. A trim moves no bytes, however long it is; a flush only keeps its
/// place among the writes.
fn cost(request: &Request) -> Cost {
    match request.verb {
        Verb::Read(_) | Verb::Write { .. } => Cost { operations: 1, bytes: length(request) },
        Verb::Trim { .. } | Verb::WriteZeroes { .. } => Cost { operations: 1, bytes: 0 },
        Verb::Flush | Verb::BlockStatus { .. } => Cost::default(),
    }
}

impl Gate {
    /// The request, when it may pass at once; otherwise it waits for [`Gate::pass`].
    pub(crate) fn admit(&mut self, request: Request) -> Option<Request> {
        if !self.closed || matches!(request.verb, Verb::BlockStatus { .. }) {
            return Some(request);
        }
        let kind = if matches!(request.verb, Verb::Read(_)) { Kind::Read } else { Kind::Write };
        self.waiting[kind as usize].push_back(request);
        None
    }

    /// The next request that may pass at `now`.
    pub(crate) fn pass(&mut self, now: u64) -> Option<Request> {
        if !self.closed {
            return None;
        }
        let Some(kind) = self.qos.pass(self.heads(), now) else {
            self.delayed = [self.waiting[0].len(), self.waiting[1].len()];
            self.settle();
            return None;
        };
        let delayed = &mut self.delayed[kind as usize];
        self.delayed_requests += u64::from(*delayed > 0);
        *delayed = delayed.saturating_sub(1);
        self.waiting[kind as usize].pop_front()
    }

    /// Opens when nothing asks for the queues any more and they are empty.
    fn settle(&mut self) {
        let used = self.holds > 0 || !self.qos.limits().is_unlimited();
        self.closed = used || self.waiting.iter().any(|queue| !queue.is_empty());
    }

    fn heads(&self) -> Heads {
        let head = |kind: Kind| self.waiting[kind as usize].front().map(cost);
        [head(Kind::Read), if self.holds == 0 { head(Kind::Write) } else { None }]
    }

    /// When requests can pass again by themselves.
    pub(crate) fn wakes_at(&self) -> Option<u64> {
        if self.closed { self.qos.wakes_at(self.heads()) } else { None }
    }

    pub(crate) fn set_limits(&mut self, limits: Limits, now: u64) {
        self.qos.set(limits, now);
        self.settle();
    }

    fn state(&self, now: u64) -> QosState {
        QosState {
            limits: *self.qos.limits(),
            waiting: self.waiting.iter().map(VecDeque::len).sum(),
            delayed_requests: self.delayed_requests,
            throttled_by: self.qos.holding(self.heads(), now).map(|at| NAMES[at]).collect(),
        }
    }

    /// Writes wait until as many releases as holds have come.
    pub(crate) fn hold(&mut self) {
        self.holds += 1;
        self.settle();
    }

    /// See [`Gate::hold`].
    pub(crate) fn release(&mut self) {
        self.holds = self.holds.saturating_sub(1);
        self.settle();
    }

    /// Forgets what waits: it is answered by whoever serves the volume next. How many, by [`Kind`].
    pub(crate) fn clear(&mut self) -> [u32; 2] {
        let forgotten = std::mem::take(&mut self.waiting).map(|queue| queue.len() as u32);
        self.delayed = [0; 2];
        self.settle();
        forgotten
    }
}

impl Volume {
    /// Sets how fast requests are admitted, from `now` on.
    pub fn set_qos(&mut self, limits: Limits, now: u64) {
        self.gate.set_limits(limits, now);
    }

    /// How fast requests are admitted, and what that does at `now`.
    pub fn qos(&self, now: u64) -> QosState {
        self.gate.state(now)
    }

    /// New writes wait until [`Volume::release`]; those that were submitted go on. What is asked of
    /// [`Volume::control`] meanwhile comes after them and before what waits.
    pub fn hold(&mut self) {
        self.gate.hold();
    }

    /// Ends [`Volume::hold`]; to be called once for each.
    pub fn release(&mut self) {
        self.gate.release();
    }
}

#[cfg(test)]
mod tests {
    use edge::target::RequestId;
    use media::Slice;

    use super::*;

    fn write(id: u64) -> Request {
        let data = Slice::zeroed(4096).expect("memory");
        Request { id: RequestId(id), offset: 0, verb: Verb::Write { data, fua: false } }
    }

    fn read(id: u64) -> Request {
        let into = Slice::zeroed(4096).expect("memory");
        Request { id: RequestId(id), offset: 0, verb: Verb::Read(into) }
    }

    fn passing(gate: &mut Gate, now: u64) -> Vec<u64> {
        std::iter::from_fn(|| gate.pass(now)).map(|request| request.id.0).collect()
    }

    #[test]
    fn a_hold_stops_writes_and_flushes_but_no_reads_and_keeps_their_order() {
        let mut gate = Gate::default();
        assert!(gate.admit(write(1)).is_some(), "an open gate lets pass at once");
        gate.hold();
        gate.hold();
        let flush = Request { id: RequestId(3), offset: 0, verb: Verb::Flush };
        for request in [write(2), flush, read(4), write(5)] {
            assert!(gate.admit(request).is_none());
        }
        assert_eq!(passing(&mut gate, 0), [4]);
        gate.release();
        assert_eq!(passing(&mut gate, 0), [0u64; 0], "another group holds it still");
        assert_eq!(gate.wakes_at(), None);
        gate.release();
        assert!(gate.admit(write(6)).is_none(), "nobody overtakes those that waited");
        assert_eq!(passing(&mut gate, 0), [2, 3, 5, 6]);
        assert!(gate.admit(write(7)).is_some());
    }

    #[test]
    fn limits_delay_and_say_which_of_them_and_when_it_goes_on() {
        let mut gate = Gate::default();
        let rates = [None, None, None, None, Some(4096), None];
        gate.set_limits(Limits { rates, burst_ns: 0 }, 7);
        for id in 0..3 {
            assert!(gate.admit(write(id)).is_none());
        }
        assert_eq!(passing(&mut gate, 7), [0]);
        let state = gate.state(7);
        assert_eq!((state.throttled_by, state.waiting), (vec!["write_bytes_s"], 2));
        assert_eq!(gate.wakes_at(), Some(1_000_000_007));
        assert_eq!(passing(&mut gate, 1_000_000_007), [1]);
        gate.set_limits(Limits::default(), 1_000_000_008);
        assert_eq!(passing(&mut gate, 1_000_000_008), [2]);
        assert_eq!(gate.state(1_000_000_008).delayed_requests, 2);
        assert!(gate.admit(write(4)).is_some());
    }
}
