use alloc::vec;

use format::edge::Verb;

use super::*;

const MIB: u64 = 1 << 20;

fn command(tag: u32, verb: Verb, offset: u64, length: u64) -> Command {
    Command { tag, verb, flags: 0, offset, length, place: 0, room: 0 }
}

fn done(tag: u32) -> Done {
    Done { tag, errno: 0, extents: 0 }
}

fn attached(epoch: u64, credits: u32) -> Attached {
    Attached { version: 1, features: 0, size: MIB, read_only: false, epoch, credits }
}

fn step(session: &mut Session, message: Message) -> Vec<Action> {
    let mut out = Vec::new();
    session.step(message, &mut out);
    out
}

/// A session with 8 entries that serves on its first connection.
fn ready(credits: u32) -> Session {
    let mut session = Session::new(8);
    assert_eq!(step(&mut session, Message::Start), [Action::Connect { generation: 1 }]);
    let opened = Message::Attached { generation: 1, attached: attached(1, credits) };
    assert_eq!(step(&mut session, opened), [Action::Opened { first: true }]);
    session
}

#[test]
fn one_request_at_a_time_never_uses_credits_up() {
    let mut session = ready(8);
    for round in 0..1000 {
        let write = command(3, Verb::Write, round % 8 * 4096, 4096);
        assert_eq!(step(&mut session, Message::Submit(write)), [Action::Send(write)], "{round}");
        let answer = Message::Answered { generation: 1, done: done(3) };
        assert_eq!(step(&mut session, answer), [Action::Complete(done(3))]);
    }
}

#[test]
fn requests_wait_for_the_first_handshake_and_go_in_their_order() {
    let mut session = Session::restored(8, MIB, false);
    assert_eq!(step(&mut session, Message::Start), [Action::Connect { generation: 1 }]);
    let requests: Vec<Command> =
        (0..4).map(|tag| command(tag, Verb::Write, u64::from(tag) * 4096, 4096)).collect();
    for request in &requests {
        assert_eq!(step(&mut session, Message::Submit(*request)), []);
    }
    let opened = Message::Attached { generation: 1, attached: attached(1, 3) };
    let expected = [
        Action::Opened { first: false },
        Action::Send(requests[0]),
        Action::Send(requests[1]),
        Action::Send(requests[2]),
    ];
    assert_eq!(step(&mut session, opened), expected, "three credits");
    let answer = Message::Answered { generation: 1, done: done(1) };
    let expected = [Action::Complete(done(1)), Action::Send(requests[3])];
    assert_eq!(step(&mut session, answer), expected);
}

#[test]
fn what_a_lost_engine_did_not_answer_is_sent_again_in_order() {
    let mut session = ready(8);
    let requests: Vec<Command> =
        (0..3).map(|tag| command(tag, Verb::Write, u64::from(tag) * 4096, 4096)).collect();
    for request in &requests {
        assert_eq!(step(&mut session, Message::Submit(*request)), [Action::Send(*request)]);
    }
    let answer = Message::Answered { generation: 1, done: done(1) };
    assert_eq!(step(&mut session, answer), [Action::Complete(done(1))]);
    let pause = Action::SetTimer { pause_ms: PAUSE_FIRST_MS };
    assert_eq!(step(&mut session, Message::Lost { generation: 1 }), [pause]);
    let late = command(1, Verb::Flush, 0, 0);
    assert_eq!(step(&mut session, Message::Submit(late)), []);
    assert_eq!(step(&mut session, Message::Timer), [Action::Connect { generation: 2 }]);
    let stale = Message::Answered { generation: 1, done: done(0) };
    assert_eq!(step(&mut session, stale), [], "from an engine that is lost");
    let opened = Message::Attached { generation: 2, attached: attached(2, 8) };
    let expected = [
        Action::Opened { first: false },
        Action::Send(requests[0]),
        Action::Send(requests[2]),
        Action::Send(late),
    ];
    assert_eq!(step(&mut session, opened), expected);
}

#[test]
fn a_write_waits_for_one_to_the_same_bytes_and_so_does_what_is_behind_it() {
    let mut session = ready(8);
    let first = command(0, Verb::Write, 4096, 8192);
    let second = command(1, Verb::Trim, 8192, 4096);
    let behind = command(2, Verb::Read, 0, 512);
    assert_eq!(step(&mut session, Message::Submit(first)), [Action::Send(first)]);
    assert_eq!(step(&mut session, Message::Submit(second)), []);
    assert_eq!(step(&mut session, Message::Submit(behind)), []);
    let answer = Message::Answered { generation: 1, done: done(0) };
    let expected = [Action::Complete(done(0)), Action::Send(second), Action::Send(behind)];
    assert_eq!(step(&mut session, answer), expected);
}

#[test]
fn writes_that_share_a_counter_but_no_byte_do_not_wait() {
    let far = 256 * 4096;
    let pairs = [
        (command(0, Verb::Write, 0, 512), command(1, Verb::Write, 512, 512)),
        (command(0, Verb::Write, 4096, 4096), command(1, Verb::Write, 4096 + far, 4096)),
        (command(0, Verb::Trim, 0, 4 * far), command(1, Verb::Write, 4 * far, 4096)),
        (command(0, Verb::Write, 0, 0), command(1, Verb::Write, 0, 4096)),
    ];
    for (first, second) in pairs {
        let mut session = ready(8);
        assert_eq!(step(&mut session, Message::Submit(first)), [Action::Send(first)]);
        assert_eq!(step(&mut session, Message::Submit(second)), [Action::Send(second)]);
        for tag in [0, 1] {
            let answer = Message::Answered { generation: 1, done: done(tag) };
            assert_eq!(step(&mut session, answer), [Action::Complete(done(tag))]);
        }
        let again = command(3, Verb::Write, second.offset, 512);
        assert_eq!(step(&mut session, Message::Submit(again)), [Action::Send(again)]);
    }
}

#[test]
fn a_trim_of_the_whole_volume_conflicts_with_any_write() {
    let mut session = ready(8);
    let trim = command(0, Verb::Trim, 0, u64::MAX);
    let write = command(1, Verb::Write, 77 << 20, 4096);
    assert_eq!(step(&mut session, Message::Submit(trim)), [Action::Send(trim)]);
    assert_eq!(step(&mut session, Message::Submit(write)), []);
}

#[test]
fn an_answer_that_nobody_asked_for_ends_the_connection_but_no_request() {
    let mut session = ready(8);
    let read = command(0, Verb::Read, 0, 512);
    step(&mut session, Message::Submit(read));
    let strange = Message::Answered { generation: 1, done: done(5) };
    let breach = Some(Breach::StrangeAnswer { tag: 5 });
    assert_eq!(step(&mut session, strange), [Action::Leave { generation: 1, breach }]);
    let answer = Message::Answered { generation: 1, done: done(0) };
    assert_eq!(step(&mut session, answer), [], "it is not believed any more");
    assert_eq!(session.in_flight(), 1);
    let outside = Message::Answered { generation: 1, done: done(4_000_000_000) };
    assert_eq!(step(&mut session, outside), []);
}

#[test]
fn the_first_handshake_may_fail_and_later_ones_are_tried_for_ever() {
    let mut session = Session::new(8);
    step(&mut session, Message::Start);
    let leave = Action::Leave { generation: 1, breach: None };
    assert_eq!(step(&mut session, Message::Refused { generation: 1 }), [leave]);
    let ended = [Action::Ended(Ending::Refused)];
    assert_eq!(step(&mut session, Message::Lost { generation: 1 }), ended);
    let mut session = Session::new(8);
    step(&mut session, Message::Start);
    let ended = [Action::Ended(Ending::Unreachable)];
    assert_eq!(step(&mut session, Message::Lost { generation: 1 }), ended);

    let mut session = ready(8);
    let mut pauses = Vec::new();
    for generation in 1..40 {
        if generation % 2 == 0 {
            step(&mut session, Message::Refused { generation });
        }
        let actions = step(&mut session, Message::Lost { generation });
        let [Action::SetTimer { pause_ms }] = actions[..] else { panic!("{actions:?}") };
        pauses.push(pause_ms);
        step(&mut session, Message::Timer);
    }
    let lengths: Vec<u32> = pauses.chunks_exact(4).map(|pauses| pauses[0]).collect();
    assert_eq!(lengths[..7], [5, 10, 20, 40, 80, 160, 250]);
    assert!(pauses[..24].chunks_exact(4).all(|four| four.iter().all(|one| *one == four[0])));
    assert!(pauses[24..].iter().all(|pause| *pause == PAUSE_LONGEST_MS));
}

#[test]
fn a_size_that_changed_is_told_whoever_says_it() {
    let mut session = ready(8);
    let resized = Message::Resized { generation: 1, size: 2 * MIB };
    assert_eq!(step(&mut session, resized.clone()), [Action::Resized { size: 2 * MIB }]);
    assert_eq!(step(&mut session, resized), [], "known already");
    step(&mut session, Message::Lost { generation: 1 });
    step(&mut session, Message::Timer);
    let opened = Message::Attached { generation: 2, attached: attached(2, 8) };
    let expected = [Action::Opened { first: false }, Action::Resized { size: MIB }];
    assert_eq!(step(&mut session, opened), expected);
}

#[test]
fn a_detached_session_answers_everything_once_the_engine_let_go() {
    let mut session = ready(1);
    for tag in 0..3 {
        step(&mut session, Message::Submit(command(tag, Verb::Read, 0, 512)));
    }
    let leave = Action::Leave { generation: 1, breach: None };
    assert_eq!(step(&mut session, Message::Detach), [leave]);
    assert_eq!(step(&mut session, Message::Detach), [], "asked already");
    let gone = |tag| Action::Complete(Done { tag, errno: ERRNO_GONE, extents: 0 });
    let late = command(7, Verb::Flush, 0, 0);
    assert_eq!(step(&mut session, Message::Submit(late)), [gone(7)]);
    let expected = [gone(0), gone(1), gone(2), Action::Ended(Ending::Detached)];
    assert_eq!(step(&mut session, Message::Lost { generation: 1 }), expected);
    assert_eq!(session.phase(), Phase::Over);
}

#[test]
fn a_session_that_is_over_says_whether_all_has_ended() {
    let write = Message::Submit(command(0, Verb::Write, 0, 4096));
    let read = Message::Submit(command(1, Verb::Read, 0, 4096));
    let answer = Message::Answered { generation: 1, done: done(0) };
    let (lost, let_go) = (Message::Lost { generation: 1 }, Message::LetGo { generation: 1 });
    let again = [
        Message::Timer,
        Message::Attached { generation: 2, attached: attached(1, 8) },
        Message::Detach,
        Message::LetGo { generation: 2 },
    ];
    let turned_away = [Message::Timer, Message::Detach, Message::LetGo { generation: 2 }].to_vec();
    let cases: [(&str, bool, Vec<Message>); 9] = [
        ("it lets go", true, vec![write.clone(), Message::Detach, let_go.clone()]),
        ("it is given up", false, vec![write.clone(), Message::Detach, lost.clone()]),
        ("nothing was asked for", true, vec![Message::Detach, lost.clone()]),
        ("a read", true, vec![read, Message::Detach, lost.clone()]),
        ("all was answered", true, vec![write.clone(), answer, Message::Detach, lost.clone()]),
        ("it broke, and pauses", false, vec![write.clone(), lost.clone(), Message::Detach]),
        ("it died, and pauses", false, vec![write.clone(), let_go, Message::Detach]),
        ("let in again", true, [vec![write.clone(), lost.clone()], again.to_vec()].concat()),
        ("not let in again", false, [vec![write, lost], turned_away].concat()),
    ];
    for (name, expected, messages) in cases {
        let mut session = ready(8);
        for message in messages {
            step(&mut session, message);
        }
        assert_eq!((session.phase(), session.has_ended_all()), (Phase::Over, expected), "{name}");
    }
    // Of what an earlier life has asked for, one that is restored knows nothing.
    for mut session in [Session::restored(8, MIB, false), Session::new(8)] {
        step(&mut session, Message::Start);
        step(&mut session, Message::Detach);
        step(&mut session, Message::LetGo { generation: 1 });
        assert_eq!((session.phase(), session.has_ended_all()), (Phase::Over, false));
    }
}

fn retarget(targets: u32, first: u32, epoch: u64, keep: bool) -> Message {
    Message::Retarget { targets, first, epoch, keep }
}

#[test]
fn a_round_tries_every_target_at_once_and_only_then_pauses() {
    let mut session = Session::new(8);
    assert_eq!(step(&mut session, retarget(3, 1, 0, false)), []);
    let mut tried = Vec::new();
    assert_eq!(step(&mut session, Message::Start), [Action::Connect { generation: 1 }]);
    tried.push(session.target());
    assert_eq!(
        step(&mut session, Message::Lost { generation: 1 }),
        [Action::Connect { generation: 2 }],
    );
    tried.push(session.target());
    let opened = Message::Attached { generation: 2, attached: attached(1, 8) };
    assert_eq!(step(&mut session, opened), [Action::Opened { first: true }]);
    let pause = |pause_ms| [Action::SetTimer { pause_ms }];
    assert_eq!(step(&mut session, Message::Lost { generation: 2 }), pause(5));
    for generation in 3..6 {
        let actions = match generation {
            3 => step(&mut session, Message::Timer),
            _ => step(&mut session, Message::Lost { generation: generation - 1 }),
        };
        assert_eq!(actions, [Action::Connect { generation }]);
        tried.push(session.target());
    }
    assert_eq!(tried, [1, 2, 2, 0, 1], "who served last comes first");
    assert_eq!(step(&mut session, Message::Lost { generation: 5 }), pause(5));
}

#[test]
fn a_first_round_fails_with_what_the_engines_said() {
    let mut session = Session::new(8);
    step(&mut session, retarget(2, 0, 0, false));
    step(&mut session, Message::Start);
    step(&mut session, Message::Refused { generation: 1 });
    let next = [Action::Connect { generation: 2 }];
    assert_eq!(step(&mut session, Message::Lost { generation: 1 }), next);
    let ended = [Action::Ended(Ending::Refused)];
    assert_eq!(step(&mut session, Message::Lost { generation: 2 }), ended);
}

#[test]
fn a_retarget_leaves_an_outdated_owner_and_keeps_the_present_one() {
    let mut session = ready(8);
    let write = command(0, Verb::Write, 0, 4096);
    step(&mut session, Message::Submit(write));
    assert_eq!(step(&mut session, retarget(2, 1, 1, true)), [], "the same epoch");
    assert_eq!(session.target(), 1);
    let leave = Action::Leave { generation: 1, breach: None };
    assert_eq!(step(&mut session, retarget(2, 0, 2, true)), [leave], "a newer epoch");
    let next = [Action::Connect { generation: 2 }];
    assert_eq!(step(&mut session, Message::Lost { generation: 1 }), next);
    let opened = Message::Attached { generation: 2, attached: attached(1, 8) };
    let breach = Some(Breach::OldEpoch { epoch: 1 });
    assert_eq!(step(&mut session, opened), [Action::Leave { generation: 2, breach }]);
    let next = [Action::Connect { generation: 3 }];
    assert_eq!(step(&mut session, Message::Lost { generation: 2 }), next);
    assert_eq!(session.target(), 1);
    let opened = Message::Attached { generation: 3, attached: attached(2, 8) };
    let expected = [Action::Opened { first: false }, Action::Send(write)];
    assert_eq!(step(&mut session, opened), expected);
}

#[test]
fn a_retarget_ends_a_pause() {
    let mut session = ready(8);
    step(&mut session, Message::Lost { generation: 1 });
    let next = [Action::Connect { generation: 2 }];
    assert_eq!(step(&mut session, retarget(1, 0, 0, true)), next);
    assert_eq!(step(&mut session, Message::Timer), [], "of the pause that is over");
}
