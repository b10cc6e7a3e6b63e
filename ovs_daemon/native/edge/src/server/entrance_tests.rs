//! Connections over TCP that do not say who they are, beside an Edge that works.

use std::time::Duration;

use format::edge::Frame;
use net::Lobby;

use super::entrance::TCP;
use super::stream_tests::{Engine, Raw, VOLUME, works};

const LONG: Duration = Duration::from_secs(3600);

impl Engine {
    fn lobby(&mut self, max: usize, patience: Duration) {
        self.server.entrances[TCP].lobby = Lobby::new(max, patience);
    }

    /// Connections that are open, said hello or not.
    fn open(&self) -> usize {
        self.server.connections.len() - self.server.free.len()
    }

    fn told(&self, text: &str) -> usize {
        self.log.iter().filter(|line| line.contains(text)).count()
    }
}

/// An honest Edge of another host gets in.
fn enters(engine: &mut Engine, connection: u64) -> Raw {
    let mut raw = Raw::new(engine);
    raw.say(&Frame::Hello(engine.hello_of(0, connection)).encode());
    assert!(matches!(raw.frame(engine), Frame::Attached(_)));
    raw
}

#[test]
fn who_does_not_say_hello_in_time_is_closed_and_sessions_stay() {
    let mut engine = Engine::new();
    let mut bystander = Raw::open(&mut engine, 1);
    engine.lobby(8, Duration::from_millis(50));
    let mut silent = Raw::new(&engine);
    silent.until_end(&mut engine);
    assert_eq!(engine.told("1 connections that did not say who they are in 50ms"), 1);
    // Part of a hello is none.
    let mut slow = Raw::new(&engine);
    let hello = Frame::Hello(engine.hello_of(0, 1)).encode();
    slow.say(&hello[..hello.len() - 1]);
    slow.until_end(&mut engine);
    works(&mut bystander, &mut engine);
    engine.until(|e| e.open() == 1);
}

#[test]
fn a_flood_of_silent_connections_keeps_nobody_out_and_ends_no_session() {
    let mut engine = Engine::new();
    let mut bystander = Raw::open(&mut engine, 1);
    engine.lobby(8, LONG);
    let mut flood: Vec<Raw> = Vec::new();
    for count in 1..=200 {
        flood.push(Raw::new(&engine));
        // The one whose place it takes has gone already.
        engine.until(|e| e.server.entrances[TCP].lobby.waiting() == count.min(8));
        assert!(engine.open() <= 1 + 8, "{}", engine.open());
        works(&mut bystander, &mut engine);
    }
    let mut newcomer = enters(&mut engine, 1);
    works(&mut newcomer, &mut engine);
    works(&mut bystander, &mut engine);
    flood[..192].iter_mut().for_each(|raw| raw.until_end(&mut engine));
    assert_eq!(engine.told("8 connections have not said who they are"), 1, "{:?}", engine.log);
    assert_eq!(engine.server.sessions(VOLUME), 2);
}

#[test]
fn there_are_only_so_many_connections_and_silent_ones_give_way() {
    let mut engine = Engine::new();
    let mut bystander = Raw::open(&mut engine, 1);
    engine.server.sessions_max = 2;
    let mut silent = Raw::new(&engine);
    engine.until(|e| e.open() == 2);
    let mut newcomer = enters(&mut engine, 1);
    silent.until_end(&mut engine);
    for _ in 0..2 {
        Raw::new(&engine).until_end(&mut engine);
    }
    assert_eq!(engine.told("2 Edge connections are open"), 1, "{:?}", engine.log);
    works(&mut newcomer, &mut engine);
    works(&mut bystander, &mut engine);
    drop(newcomer);
    engine.until(|e| e.open() == 1);
    works(&mut enters(&mut engine, 2), &mut engine);
}
