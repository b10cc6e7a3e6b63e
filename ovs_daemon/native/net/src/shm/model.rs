//! The sleep protocol, explored: every interleaving of a producer and a consumer whose stores
//! pass through store buffers (x86-TSO; a fence or a locked instruction drains the buffer).
//!
//! The producer publishes `BATCHES` batches, one after the other; the consumer takes what it sees
//! and sleeps when it sees nothing. Lost wake-up: everything is published, nothing can move any
//! more, and the consumer has not taken all.

use std::collections::{HashSet, VecDeque};

const BATCHES: u8 = 3;

/// What is left out of the protocol to see that the exploration notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    None,
    NoFenceInProducer,
    NoFenceInConsumer,
    NoSecondLook,
    ClearAfterRing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Word {
    Tail,
    Asleep,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Thread {
    at: u8,
    buffer: VecDeque<(u8, u8)>,
    /// Producer: batches published. Consumer: batches taken.
    count: u8,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct State {
    memory: [u8; 2],
    bell: bool,
    producer: Thread,
    consumer: Thread,
}

impl Thread {
    fn load(&self, memory: &[u8; 2], word: Word) -> u8 {
        let own = self.buffer.iter().rev().find(|(w, _)| *w == word as u8);
        own.map_or(memory[word as usize], |(_, value)| *value)
    }

    fn store(&mut self, word: Word, value: u8) {
        self.buffer.push_back((word as u8, value));
    }
}

impl State {
    fn drain_one(&self, producer: bool) -> Option<State> {
        let mut next = self.clone();
        let thread = if producer { &mut next.producer } else { &mut next.consumer };
        let (word, value) = thread.buffer.pop_front()?;
        next.memory[word as usize] = value;
        Some(next)
    }

    /// `publish`, one shared access at a time.
    fn step_producer(&self, mutant: Mutant) -> Option<State> {
        let mut next = self.clone();
        let me = &mut next.producer;
        match me.at {
            0 if me.count == BATCHES => return None,
            0 => {
                me.count += 1;
                me.store(Word::Tail, me.count);
                me.at = if mutant == Mutant::NoFenceInProducer { 2 } else { 1 };
            }
            1 if !me.buffer.is_empty() => return None,
            1 => me.at = 2,
            2 => me.at = if me.load(&next.memory, Word::Asleep) != 0 { 3 } else { 0 },
            // The swap: locked, so it waits for the buffer.
            3 if !me.buffer.is_empty() => return None,
            3 if mutant == Mutant::ClearAfterRing => {
                next.bell = true;
                me.at = 5;
            }
            3 => {
                me.at = if next.memory[Word::Asleep as usize] != 0 { 4 } else { 0 };
                next.memory[Word::Asleep as usize] = 0;
            }
            4 => {
                next.bell = true;
                me.at = 0;
            }
            _ => {
                next.memory[Word::Asleep as usize] = 0;
                me.at = 0;
            }
        }
        Some(next)
    }

    /// Take what is there, else `fall_asleep` and wait for the bell.
    fn step_consumer(&self, mutant: Mutant) -> Option<State> {
        let mut next = self.clone();
        let me = &mut next.consumer;
        match me.at {
            0 if me.count == BATCHES => return None,
            0 => {
                let tail = me.load(&next.memory, Word::Tail);
                if tail == me.count {
                    me.at = 1;
                }
                me.count = tail;
            }
            1 => {
                me.store(Word::Asleep, 1);
                me.at = match mutant {
                    Mutant::NoFenceInConsumer => 3,
                    Mutant::NoSecondLook => 4,
                    _ => 2,
                };
            }
            2 if !me.buffer.is_empty() => return None,
            2 => me.at = 3,
            3 if me.load(&next.memory, Word::Tail) != me.count => {
                me.store(Word::Asleep, 0);
                me.at = 0;
            }
            3 => me.at = 4,
            // Sleeps in the kernel until the bell was rung; entering the kernel drains the buffer.
            _ if !me.buffer.is_empty() || !next.bell => return None,
            _ => {
                next.bell = false;
                me.at = 0;
            }
        }
        Some(next)
    }

    fn followers(&self, mutant: Mutant) -> Vec<State> {
        let steps = [
            self.step_producer(mutant),
            self.step_consumer(mutant),
            self.drain_one(true),
            self.drain_one(false),
        ];
        steps.into_iter().flatten().collect()
    }
}

/// States visited, and a state in which all stands still although batches were not taken.
fn explore(mutant: Mutant) -> (usize, Option<State>) {
    let mut seen = HashSet::from([State::default()]);
    let mut todo = VecDeque::from([State::default()]);
    while let Some(state) = todo.pop_front() {
        let next = state.followers(mutant);
        if next.is_empty() && state.consumer.count != BATCHES {
            return (seen.len(), Some(state));
        }
        for state in next {
            if seen.insert(state.clone()) {
                todo.push_back(state);
            }
        }
    }
    (seen.len(), None)
}

#[test]
fn no_wake_up_is_lost_in_any_interleaving() {
    let (states, stuck) = explore(Mutant::None);
    assert_eq!(stuck, None);
    assert!(states > 500, "explored only {states} states");
}

#[test]
fn each_part_of_the_protocol_is_needed() {
    let mutants = [
        Mutant::NoFenceInProducer,
        Mutant::NoFenceInConsumer,
        Mutant::NoSecondLook,
        Mutant::ClearAfterRing,
    ];
    for mutant in mutants {
        assert!(explore(mutant).1.is_some(), "{mutant:?} went unnoticed");
    }
}
