//! The limits, driven by any sequence of requests and pauses.

extern crate std;

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

/// A request or a pause in nanoseconds.
#[derive(Clone, Copy, Debug)]
enum Event {
    Request(Kind, Cost),
    Pause(u64),
}

fn limits() -> impl Strategy<Value = Limits> {
    let iops = || prop::option::of(1..5_000u64);
    let bytes = || prop::option::of(1_000..100_000_000u64);
    let burst = prop_oneof![Just(0), 0..2 * SECOND_NS];
    (iops(), iops(), iops(), bytes(), bytes(), bytes(), burst)
        .prop_map(|(a, b, c, d, e, f, burst_ns)| Limits { rates: [a, b, c, d, e, f], burst_ns })
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let kind = prop_oneof![Just(Kind::Read), Just(Kind::Write)];
    let request = (kind, 0..2u32, 0..1_000_000u64)
        .prop_map(|(kind, operations, bytes)| Event::Request(kind, Cost { operations, bytes }));
    let event = prop_oneof![3 => request, 1 => (0..SECOND_NS / 10).prop_map(Event::Pause)];
    prop::collection::vec(event, 1..200)
}

/// A volume's queues around the machine, with its own clock.
#[derive(Default)]
struct World {
    qos: Qos,
    now: u64,
    waiting: [VecDeque<Cost>; 2],
    /// When each request passed.
    passed: Vec<(u64, Kind, Cost)>,
}

impl World {
    fn new(limits: Limits) -> World {
        let mut world = World { now: 5 * SECOND_NS, ..World::default() };
        world.qos.set(limits, world.now);
        world
    }

    fn heads(&self) -> Heads {
        [self.waiting[0].front().copied(), self.waiting[1].front().copied()]
    }

    fn pump(&mut self) {
        while let Some(kind) = self.qos.pass(self.heads(), self.now) {
            let cost = self.waiting[kind as usize].pop_front().expect("only a waiting one passes");
            self.passed.push((self.now, kind, cost));
        }
    }

    /// Sleeps as the machine says, at most until `end`.
    fn run_until(&mut self, end: u64) {
        self.pump();
        while let Some(at) = self.qos.wakes_at(self.heads()).filter(|at| *at <= end) {
            assert!(at > self.now, "whoever is woken finds something to do");
            self.now = at;
            let before = self.passed.len();
            self.pump();
            assert!(self.passed.len() > before, "waking at {at} let nobody pass");
        }
        self.now = self.now.max(end);
    }

    fn drive(&mut self, events: &[Event]) {
        for event in events {
            match *event {
                Event::Request(kind, cost) => {
                    self.waiting[kind as usize].push_back(cost);
                    self.pump();
                }
                Event::Pause(ns) => self.run_until(self.now + ns),
            }
        }
        self.run_until(u64::MAX);
    }
}

proptest! {
    /// Over every window, no bucket lets more through than its rate, its burst and one request.
    #[test]
    fn no_limit_is_ever_exceeded(limits in limits(), events in events()) {
        let mut world = World::new(limits);
        world.drive(&events);
        for (bucket, rate) in limits.rates.iter().enumerate() {
            let Some(rate) = *rate else { continue };
            let drawn: Vec<(u64, u64)> = world
                .passed
                .iter()
                .filter(|(_, kind, _)| kind.draws_from(bucket))
                .map(|(at, _, cost)| (*at, amount(*cost, bucket)))
                .collect();
            for (first, (start, _)) in drawn.iter().enumerate() {
                let mut sum = 0u128;
                for (at, amount) in &drawn[first..] {
                    // The last request may leave the bucket in debt: it is not counted.
                    let time = u128::from(at - start + limits.burst_ns);
                    let allowed = u128::from(rate) * time / u128::from(SECOND_NS);
                    let before = sum;
                    sum += u128::from(*amount);
                    if *amount > 0 {
                        prop_assert!(before <= allowed + 1, "{}: {before} > {allowed}", NAMES[bucket]);
                    }
                }
            }
        }
    }

    /// Every request passes, once, in the order of its kind.
    #[test]
    fn nothing_is_lost_or_overtaken(limits in limits(), events in events()) {
        let mut world = World::new(limits);
        world.drive(&events);
        for kind in Kind::ALL {
            let asked: Vec<Cost> = events
                .iter()
                .filter_map(|event| match event {
                    Event::Request(asked, cost) if *asked == kind => Some(*cost),
                    _ => None,
                })
                .collect();
            let passed = world.passed.iter().filter(|(_, passed, _)| *passed == kind);
            prop_assert_eq!(asked, passed.map(|(_, _, cost)| *cost).collect::<Vec<_>>());
        }
    }

    /// A steady stream gets its whole rate: the limit is not undercut by more than rounding.
    #[test]
    fn a_limit_is_used_up(rate in 1..5_000u64, burst_ns in 0..SECOND_NS) {
        let rates = [None, Some(rate), None, None, None, None];
        let mut world = World::new(Limits { rates, burst_ns });
        let count = 2 * rate + 10;
        world.waiting[1].extend((0..count).map(|_| Cost { operations: 1, bytes: 4096 }));
        let start = world.now;
        world.run_until(start + SECOND_NS);
        let expected = rate + rate * burst_ns / SECOND_NS;
        let passed = world.passed.len() as u64;
        prop_assert!(passed + 1 >= expected.min(count), "{passed} of {expected}");
    }
}

fn cost(bytes: u64) -> Cost {
    Cost { operations: 1, bytes }
}

#[test]
fn without_limits_everything_passes() {
    let mut world = World::new(Limits::default());
    assert!(world.qos.limits().is_unlimited());
    world.waiting[0].extend([cost(1 << 40); 3]);
    world.pump();
    assert_eq!(world.passed.len(), 3);
}

#[test]
fn a_request_larger_than_the_bucket_passes_and_is_paid_for() {
    let rates = [None, None, None, None, Some(1_000_000), None];
    let mut world = World::new(Limits { rates, burst_ns: SECOND_NS / 10 });
    world.waiting[1].extend([cost(10_000_000), cost(1)]);
    world.pump();
    assert_eq!(world.passed.len(), 1);
    assert_eq!(world.qos.holding(world.heads(), world.now).collect::<Vec<_>>(), [4]);
    let start = world.now;
    world.run_until(u64::MAX);
    assert_eq!(world.passed[1].0 - start, 10 * SECOND_NS - SECOND_NS / 10);
}

#[test]
fn a_limit_on_writes_leaves_reads_alone() {
    let rates = [None, Some(1), None, None, None, None];
    let mut world = World::new(Limits { rates, burst_ns: 0 });
    world.waiting[1].extend([cost(4096); 3]);
    world.waiting[0].extend([cost(4096); 100]);
    world.pump();
    assert_eq!(world.waiting[0].len(), 0);
    assert_eq!(world.waiting[1].len(), 2);
}

#[test]
fn both_kinds_take_turns_at_a_common_limit() {
    let rates = [None, None, Some(100), None, None, None];
    let mut world = World::new(Limits { rates, burst_ns: 0 });
    world.waiting[0].extend([cost(4096); 50]);
    world.waiting[1].extend([cost(4096); 50]);
    world.run_until(world.now + SECOND_NS / 2);
    let reads = world.passed.iter().filter(|(_, kind, _)| *kind == Kind::Read).count();
    assert!(reads.abs_diff(world.passed.len() - reads) <= 1, "{:?}", world.passed);
}

#[test]
fn new_limits_give_no_fresh_burst() {
    let rates = [None, Some(1), None, None, None, None];
    let mut world = World::new(Limits { rates, burst_ns: 0 });
    world.waiting[1].extend([cost(4096); 2]);
    world.pump();
    world.qos.set(Limits { rates, burst_ns: 0 }, world.now);
    world.pump();
    assert_eq!(world.passed.len(), 1);
    // A second is owed at one per second: a thousandth of that at a thousand.
    let faster = [None, Some(1000), None, None, None, None];
    world.qos.set(Limits { rates: faster, burst_ns: 0 }, world.now);
    assert_eq!(world.qos.wakes_at(world.heads()), Some(world.now + SECOND_NS / 1000));
    world.qos.set(Limits::default(), world.now);
    world.pump();
    assert_eq!(world.passed.len(), 2);
}
