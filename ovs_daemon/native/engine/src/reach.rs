//! Who connects to which node at a time: one that does not answer keeps nobody waiting who wants to
//! reach another one, however many volumes want to reach it.
//!
//! Of the threads that connect few try the same node, and the others' errands for it are parked. When
//! it does not answer, all of them hear so, and for as long as that took nobody tries again.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Threads that may wait for one node that nothing bad is known of.
const AT_ONCE: usize = 2;

#[derive(Debug)]
struct Node<E> {
    connecting: usize,
    parked: VecDeque<E>,
    /// It did not answer, and counts as away until then.
    away_until: Option<Instant>,
}

impl<E> Default for Node<E> {
    fn default() -> Self {
        Self { connecting: 0, parked: VecDeque::new(), away_until: None }
    }
}

/// The errands to all nodes.
#[derive(Debug)]
pub(crate) struct Reach<E> {
    nodes: HashMap<SocketAddr, Node<E>>,
}

/// What becomes of an errand.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next<E> {
    /// Connect, and say how that went ([`Reach::ended`]).
    Connect(E),
    /// The node did not answer a moment ago.
    Away(E),
    /// It comes back from [`Reach::ended`].
    Parked,
}

/// Errands that were parked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Freed<E> {
    /// To be asked for again.
    pub(crate) again: Vec<E>,
    /// Their node does not answer.
    pub(crate) away: Vec<E>,
}

impl<E> Default for Reach<E> {
    fn default() -> Self {
        Self { nodes: HashMap::new() }
    }
}

impl<E> Reach<E> {
    pub(crate) fn begin(&mut self, address: SocketAddr, errand: E, now: Instant) -> Next<E> {
        let node = self.nodes.entry(address).or_default();
        if node.away_until.is_some_and(|until| now < until) {
            return Next::Away(errand);
        }
        // Where it was away, one finds out for all.
        let at_once = if node.away_until.is_some() { 1 } else { AT_ONCE };
        if node.connecting >= at_once {
            node.parked.push_back(errand);
            return Next::Parked;
        }
        node.connecting += 1;
        Next::Connect(errand)
    }

    /// An attempt that [`Next::Connect`] began has ended after `took`.
    pub(crate) fn ended(
        &mut self,
        address: SocketAddr,
        answered: bool,
        took: Duration,
        now: Instant,
    ) -> Freed<E> {
        let mut freed = Freed { again: Vec::new(), away: Vec::new() };
        let Some(node) = self.nodes.get_mut(&address) else { return freed };
        node.connecting -= 1;
        if answered {
            node.away_until = None;
            freed.again.extend(node.parked.pop_front());
        } else {
            node.away_until = Some(now + took);
            freed.away.extend(node.parked.drain(..));
        }
        let known = node.connecting > 0 || !node.parked.is_empty() || node.away_until.is_some();
        if !known {
            self.nodes.remove(&address);
        }
        freed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: Duration = Duration::from_secs(5);

    fn node(number: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], number))
    }

    #[test]
    fn a_node_that_does_not_answer_takes_few_threads_and_all_hear_of_it_at_once() {
        let (mut reach, start) = (Reach::default(), Instant::now());
        let begun: Vec<_> = (0..5).map(|one| reach.begin(node(1), one, start)).collect();
        let parked = Next::Parked;
        assert_eq!(begun[..3], [Next::Connect(0), Next::Connect(1), parked]);
        // Whoever wants to reach another one does not wait.
        assert_eq!(reach.begin(node(2), 9, start), Next::Connect(9));
        let later = start + SLOW;
        let freed = reach.ended(node(1), false, SLOW, later);
        assert_eq!(freed, Freed { again: vec![], away: vec![2, 3, 4] });
        assert_eq!(reach.begin(node(1), 5, later), Next::Away(5));
        assert!(reach.ended(node(1), false, SLOW, later).away.is_empty());
        // One finds out for all whether it is back.
        let again = later + SLOW;
        assert_eq!(reach.begin(node(1), 6, again), Next::Connect(6));
        assert_eq!(reach.begin(node(1), 7, again), Next::Parked);
        let freed = reach.ended(node(1), true, Duration::ZERO, again);
        assert_eq!(freed, Freed { again: vec![7], away: vec![] });
        assert_eq!(reach.begin(node(1), 7, again), Next::Connect(7));
    }

    #[test]
    fn what_was_parked_is_asked_for_one_by_one_while_the_node_answers() {
        let (mut reach, now) = (Reach::default(), Instant::now());
        for one in 0..4 {
            reach.begin(node(1), one, now);
        }
        let mut connected = vec![0, 1];
        let mut ended = 0;
        while ended < connected.len() {
            for one in reach.ended(node(1), true, Duration::ZERO, now).again {
                assert_eq!(reach.begin(node(1), one, now), Next::Connect(one));
                connected.push(one);
            }
            ended += 1;
        }
        assert_eq!(connected, [0, 1, 2, 3]);
        assert!(reach.nodes.is_empty(), "{:?}", reach.nodes);
    }

    #[test]
    fn a_refusal_that_came_at_once_keeps_nobody_from_trying() {
        let (mut reach, now) = (Reach::default(), Instant::now());
        assert_eq!(reach.begin(node(1), 0, now), Next::Connect(0));
        reach.ended(node(1), false, Duration::ZERO, now);
        assert_eq!(reach.begin(node(1), 1, now), Next::Connect(1));
    }
}
