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
