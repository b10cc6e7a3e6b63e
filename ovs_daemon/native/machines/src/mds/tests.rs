//! Whole lists of actions for the ordinary life of a follower; everything else is `sim`'s.

use alloc::vec;
use alloc::vec::Vec;

use format::entry::Entry;

use super::feed::{self, Feed, Known, State};
use super::follower::{self, Follower};
use super::*;
use crate::map::Loc;

fn mark(sequence: u64) -> Mark {
    Mark { sequence, crc: sequence as u32 * 10 }
}

fn piece(sco: u32, sequences: (u64, u64), entries: Vec<Entry>) -> Piece {
    Piece { sco, before: mark(sequences.0), last: mark(sequences.1), entries }
}

fn step(follower: &mut Follower, message: follower::Message) -> Vec<follower::Action> {
    let mut out = vec![];
    follower.step(message, &mut out);
    out
}

fn tell(feed: &mut Feed, message: feed::Message) -> Vec<feed::Action> {
    let mut out = vec![];
    feed.step(message, &mut out);
    out
}

fn loaded() -> Follower {
    let mut follower = Follower::new(0);
    step(&mut follower, follower::Message::Hello { connection: 1, epoch: 5 });
    step(&mut follower, follower::Message::Loaded(Some(Warm::default())));
    follower
}

#[test]
fn a_follower_loads_stands_takes_batches_and_moves_its_place_when_a_sco_ends() {
    use follower::{Action, Message};
    let mut f = Follower::new(0);
    let hello = Message::Hello { connection: 1, epoch: 5 };
    assert_eq!(step(&mut f, hello), [Action::Load]);
    assert_eq!(f.end(), None);
    let place = Place::default();
    let found = Message::Loaded(Some(Warm::default()));
    assert_eq!(step(&mut f, found), [Action::Stand { connection: 1, place }]);
    let data = Entry::Data { lba: 7, clusters: 2 };
    let fed = Message::Fed { connection: 1, piece: piece(1, (0, 1), vec![data]) };
    assert_eq!(step(&mut f, fed), [Action::Acknowledge { connection: 1, sequence: 1 }]);
    assert_eq!(f.warm().unwrap().place, place);
    let loc = Loc { log: 0, sco: 1, ordinal: 1 };
    assert_eq!(f.content().unwrap().map.get(8), Some(loc));
    let fed = Message::Fed { connection: 1, piece: piece(1, (1, 2), vec![Entry::Closed]) };
    assert_eq!(step(&mut f, fed), [Action::Acknowledge { connection: 1, sequence: 2 }]);
    assert_eq!(f.warm().unwrap().place, Place { sco: 1, mark: mark(2) });
    assert_eq!(f.into_warm().unwrap().content.map.get(8), Some(loc));
}

#[test]
fn a_gap_an_older_sco_and_an_older_owner_are_refused() {
    use follower::{Action, Message};
    for (sco, sequences) in [(1, (1, 2)), (0, (0, 1))] {
        let mut f = loaded();
        let fed = Message::Fed { connection: 1, piece: piece(sco, sequences, vec![]) };
        assert_eq!(step(&mut f, fed), [Action::Close { connection: 1 }]);
        assert_eq!((f.feeder(), f.end()), (None, Some(Mark::default())));
    }
    let mut f = loaded();
    let older = Message::Hello { connection: 2, epoch: 4 };
    assert_eq!(step(&mut f, older), [Action::Refuse { connection: 2, fence: 5 }]);
    let newer = Message::Hello { connection: 3, epoch: 6 };
    let place = Place::default();
    let expected = [Action::Close { connection: 1 }, Action::Stand { connection: 3, place }];
    assert_eq!(step(&mut f, newer), expected);
    let late = Message::Fed { connection: 1, piece: piece(1, (0, 1), vec![]) };
    assert_eq!(step(&mut f, late), []);
    assert_eq!(step(&mut f, Message::Reload { connection: 3 }), [Action::Load]);
    assert_eq!(step(&mut f, Message::Loaded(None)), [Action::Unable { connection: 3 }]);
}

#[test]
fn what_no_map_takes_leaves_nothing_behind() {
    use follower::{Action, Message};
    let mut f = loaded();
    let beyond = Entry::Data { lba: crate::map::CLUSTERS_MAX, clusters: 1 };
    let broken = piece(1, (0, 1), vec![beyond, Entry::Closed]);
    let fed = Message::Fed { connection: 1, piece: broken };
    assert_eq!(step(&mut f, fed), [Action::Close { connection: 1 }]);
    assert_eq!(f.end(), None);
    let again = Message::Hello { connection: 2, epoch: 5 };
    assert_eq!(step(&mut f, again), [Action::Load]);
}

#[test]
fn an_owner_feeds_who_stands_in_its_log_and_has_others_load() {
    use feed::{Action, Message};
    let place = Place { sco: 3, mark: mark(9) };
    let standing = |crc, continues| Message::Standing { place, known: Known { crc, continues } };
    let mut f = Feed::default();
    assert_eq!(tell(&mut f, standing(Some(90), true)), []);
    tell(&mut f, Message::Connected);
    assert_eq!(tell(&mut f, standing(Some(91), true)), [Action::Reload]);
    assert_eq!(tell(&mut f, standing(None, true)), [Action::LetGo]);
    assert_eq!(f.state(), State::Away);
    tell(&mut f, Message::Connected);
    assert_eq!(tell(&mut f, standing(Some(90), false)), [Action::Reload]);
    assert_eq!(tell(&mut f, standing(Some(90), true)), [Action::CatchUp { after: 3 }]);
    assert_eq!((f.state(), f.acknowledged()), (State::Fed, 9));
    assert_eq!(tell(&mut f, Message::Released { sequence: 12, bytes: 100 }), [Action::Send]);
    assert_eq!(f.unanswered(), (100, 1));
    tell(&mut f, Message::Acknowledged { sequence: 12 });
    assert_eq!((f.unanswered(), f.acknowledged()), ((0, 0), 12));
}

#[test]
fn one_that_has_nothing_to_begin_from_is_asked_again_after_a_checkpoint() {
    use feed::{Action, Message};
    let mut f = Feed::default();
    tell(&mut f, Message::Connected);
    assert_eq!(tell(&mut f, Message::Unable), []);
    assert_eq!(tell(&mut f, Message::Released { sequence: 1, bytes: 1 }), []);
    assert_eq!(tell(&mut f, Message::Checkpointed), [Action::Reload]);
    assert_eq!(f.state(), State::Asked);
}

#[test]
fn one_that_does_not_keep_up_is_let_go_of() {
    use feed::{Action, Message};
    let known = Known { crc: Some(0), continues: true };
    let fed = || {
        let mut f = Feed::default();
        tell(&mut f, Message::Connected);
        tell(&mut f, Message::Standing { place: Place::default(), known });
        f
    };
    let mut f = fed();
    for sequence in 1..=feed::Limits::default().frames as u64 {
        assert_eq!(tell(&mut f, Message::Released { sequence, bytes: 1 }), [Action::Send]);
    }
    assert_eq!(tell(&mut f, Message::Released { sequence: 900, bytes: 1 }), [Action::LetGo]);
    assert_eq!((f.state(), f.unanswered()), (State::Away, (0, 0)));
    let mut f = fed();
    let large = feed::Limits::default().bytes as u32;
    assert_eq!(tell(&mut f, Message::Released { sequence: 1, bytes: large }), [Action::Send]);
    assert_eq!(tell(&mut f, Message::Released { sequence: 2, bytes: 1 }), [Action::LetGo]);
}
