//! Connections that have not said yet who they are.
//!
//! Whoever reaches an address can make them, and each takes a descriptor and memory. So only a
//! number of them may be open at a time: for one more the one that came first is closed, so that
//! somebody who opens them and says nothing keeps nobody out who does. And each has only so long.

use std::collections::VecDeque;
use std::time::Duration;

use media::Ring;

/// Such connections of one listener, at a time. A cluster that comes back after a failure greets
/// within milliseconds; what waits longer than those is not of it.
pub const UNGREETED_MAX: usize = 1024;
/// How long one may take to say who it is.
pub const GREETING: Duration = Duration::from_secs(10);

/// See the top of the file. Connections have numbers, times are those of a monotonic clock.
#[derive(Debug)]
pub struct Lobby {
    max: usize,
    patience_ns: u64,
    /// Number, and when its time is over; oldest first.
    waiting: VecDeque<(u32, u64)>,
    /// An event will come.
    watched: bool,
    /// That it is full has been said.
    told: bool,
}

impl Default for Lobby {
    fn default() -> Self {
        Self::new(UNGREETED_MAX, GREETING)
    }
}

impl Lobby {
    /// An empty one for so many, each for so long.
    pub fn new(max: usize, patience: Duration) -> Self {
        let patience_ns = u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX);
        let (waiting, watched, told) = (VecDeque::new(), false, false);
        Self { max, patience_ns, waiting, watched, told }
    }

    /// A connection has come. Whoever is to be closed in its place, if it is one too many.
    pub fn enter(&mut self, number: u32, now_ns: u64) -> Option<u32> {
        let too_many = if self.waiting.len() >= self.max { self.oldest() } else { None };
        self.waiting.push_back((number, now_ns.saturating_add(self.patience_ns)));
        too_many
    }

    /// The one that came first, which is none of them any more.
    pub fn oldest(&mut self) -> Option<u32> {
        self.waiting.pop_front().map(|(number, _)| number)
    }

    /// How many there are.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// A connection has said who it is, or is over.
    pub fn leave(&mut self, number: u32) {
        self.waiting.retain(|(other, _)| *other != number);
        self.told &= self.waiting.len() > self.max / 2;
    }

    /// Whether it has not been said yet that one was closed to make room: once, until there are far
    /// fewer. Who opens connections all the time must not fill a log.
    pub fn is_news(&mut self) -> bool {
        !std::mem::replace(&mut self.told, true)
    }

    /// Those whose time is over, which are none of them any more. Call it when the event that
    /// [`Lobby::watch`] asked for has come.
    pub fn late(&mut self, now_ns: u64) -> Vec<u32> {
        self.watched = false;
        // Some that come one after the other are closed, and told of, together.
        let now_ns = now_ns.saturating_add(self.patience_ns / 8);
        let late = self.waiting.iter().take_while(|(_, until)| *until <= now_ns).count();
        self.waiting.drain(..late).map(|(number, _)| number).collect()
    }

    /// Has an event with this token come when somebody's time is over, unless one will already.
    pub fn watch(&mut self, now_ns: u64, token: u64, ring: &mut Ring) {
        if let Some((_, until)) = self.waiting.front()
            && !std::mem::replace(&mut self.watched, true)
        {
            ring.after(Duration::from_nanos(until.saturating_sub(now_ns)), token);
        }
    }

    /// What a log says of those that were late; `peer`: one of them.
    pub fn text_of_late(&self, count: usize, peer: &str) -> String {
        let time = Duration::from_nanos(self.patience_ns);
        format!("closed {count} connections that did not say who they are in {time:?}, of {peer}")
    }

    /// What a log says when `peer` was closed because there were too many.
    pub fn text_of_full(&self, peer: &str) -> String {
        let max = self.max;
        format!(
            "{max} connections have not said who they are: the oldest are closed, the first of \
             {peer}; keep strangers away from this address"
        )
    }
}

#[cfg(test)]
mod tests {
    use media::{Event, Wait};

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn lobby(max: usize) -> Lobby {
        Lobby::new(max, Duration::from_secs(8))
    }

    #[test]
    fn for_one_too_many_the_oldest_goes() {
        let mut lobby = lobby(2);
        assert_eq!([lobby.enter(1, 0), lobby.enter(2, 0)], [None, None]);
        assert_eq!(lobby.enter(3, 0), Some(1));
        lobby.leave(2);
        assert_eq!(lobby.enter(4, 0), None);
        assert_eq!(lobby.enter(5, 0), Some(3));
        assert_eq!([lobby.oldest(), lobby.oldest(), lobby.oldest()], [Some(4), Some(5), None]);
    }

    #[test]
    fn a_full_one_is_told_of_once_until_it_is_half_empty() {
        let mut lobby = lobby(4);
        (1..5).for_each(|number| assert_eq!(lobby.enter(number, 0), None));
        assert_eq!([lobby.is_news(), lobby.is_news()], [true, false]);
        lobby.leave(1);
        assert!(!lobby.is_news());
        lobby.leave(2);
        assert!(lobby.is_news());
    }

    #[test]
    fn whose_time_is_over_goes_and_the_others_stay() {
        let mut lobby = lobby(9);
        lobby.enter(1, 0);
        lobby.enter(2, SECOND / 2);
        lobby.enter(3, 5 * SECOND);
        assert_eq!(lobby.late(6 * SECOND), []);
        assert_eq!(lobby.late(8 * SECOND), [1, 2], "the second with the first");
        assert_eq!(lobby.late(13 * SECOND), [3]);
    }

    #[test]
    fn the_ring_tells_when_the_first_is_late_and_is_asked_once() {
        let mut ring = Ring::new(8).unwrap();
        let mut lobby = Lobby::new(9, Duration::from_millis(1));
        lobby.watch(0, 7, &mut ring);
        assert_eq!(ring.in_flight(), 0, "nobody waits");
        lobby.enter(1, 0);
        lobby.watch(0, 7, &mut ring);
        lobby.watch(0, 7, &mut ring);
        assert_eq!(ring.in_flight(), 1);
        let mut events = Vec::new();
        while events.is_empty() {
            ring.turn(Wait::Forever, &mut events).unwrap();
        }
        assert_eq!(events, [Event { token: 7, result: -libc::ETIME }]);
        assert_eq!(lobby.late(SECOND), [1]);
        lobby.enter(2, SECOND);
        lobby.watch(SECOND, 7, &mut ring);
        assert_eq!(ring.in_flight(), 1, "and again");
    }
}
