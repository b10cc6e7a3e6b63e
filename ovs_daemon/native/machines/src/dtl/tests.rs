//! Whole lists of actions for the ordinary life of a DTL; everything else is `sim`'s.

use alloc::vec;
use alloc::vec::Vec;

use super::keeper::{self, Keeper, Piece};
use super::link::{self, Link, Mode, Reason, Saved};
use super::{Held, Mark, State};

fn mark(sequence: u64) -> Mark {
    Mark { sequence, crc: 100 + sequence as u32 }
}

fn held(sequence: u64) -> Held {
    Held { begin: 0, end: Some(mark(sequence)), suspect: false }
}

fn tell(link: &mut Link, message: link::Message) -> Vec<link::Action> {
    let mut out = vec![];
    link.step(message, &mut out);
    out
}

fn in_sync_at(sequence: u64) -> Link {
    let mut link = Link::new(Mode::Sync, State::InSync, mark(sequence), Saved::default());
    let mut out = vec![];
    link.start(&mut out);
    assert_eq!(out, [link::Action::Connect { generation: 1 }, link::Action::WaitForKeeper]);
    let greeted = tell(&mut link, link::Message::Connected { generation: 1, held: held(sequence) });
    assert_eq!(greeted, [link::Action::Resume]);
    link
}

#[test]
fn a_write_in_sync_is_released_by_the_dtl_node() {
    use link::{Action, Message};
    let mut link = in_sync_at(5);
    assert_eq!(tell(&mut link, Message::Appended(mark(6))), [Action::Send]);
    assert_eq!(link.lag(), Some(1));
    let acknowledged = Message::Acknowledged { generation: 1, sequence: 6 };
    assert_eq!(tell(&mut link, acknowledged), [Action::Release]);
}

#[test]
fn a_lost_dtl_node_is_recorded_before_a_write_is_released_and_comes_back() {
    use link::{Action, Message};
    let mut link = in_sync_at(5);
    tell(&mut link, Message::Appended(mark(6)));
    let lost = tell(&mut link, Message::Lost { generation: 1 });
    assert_eq!(lost, [Action::Connect { generation: 2 }, Action::WaitForKeeper]);
    let (from, to) = (State::InSync, State::Degraded);
    assert_eq!(tell(&mut link, Message::Impatient), [Action::Propose { from, to }]);
    let answered = Message::Answered { accepted: true };
    assert_eq!(tell(&mut link, answered), [Action::Release]);
    assert_eq!(tell(&mut link, Message::Appended(mark(7))), [Action::Release]);
    let connected = Message::Connected { generation: 2, held: held(5) };
    let (from, to) = (State::Degraded, State::CatchingUp);
    let copying = [Action::Copy, Action::Propose { from, to }];
    assert_eq!(tell(&mut link, connected), copying);
    assert_eq!(tell(&mut link, answered), []);
    assert_eq!(tell(&mut link, Message::Copied { generation: 2 }), [Action::StopCopying]);
    let (from, to) = (State::CatchingUp, State::InSync);
    let acknowledged = Message::Acknowledged { generation: 2, sequence: 7 };
    assert_eq!(tell(&mut link, acknowledged), [Action::Propose { from, to }]);
    assert_eq!(tell(&mut link, Message::Appended(mark(8))), [Action::Send], "the gate is closed");
    assert_eq!(tell(&mut link, answered), []);
    assert_eq!(link.recorded(), State::InSync);
}

/// Nothing is left to be copied, and nobody has to write for the copy to be complete.
#[test]
fn a_log_that_is_on_the_backend_is_in_sync_with_a_dtl_node_that_holds_nothing() {
    use link::{Action, Message};
    let saved = Saved { below: 2, sequence: 5 };
    let mut link = Link::new(Mode::Sync, State::Degraded, mark(5), saved);
    link.start(&mut vec![]);
    let nothing = Held { begin: 0, end: None, suspect: true };
    let (from, to) = (State::Degraded, State::CatchingUp);
    let copying = [Action::Copy, Action::Trim { below: 2 }, Action::Propose { from, to }];
    assert_eq!(tell(&mut link, Message::Connected { generation: 1, held: nothing }), copying);
    assert_eq!(tell(&mut link, Message::Answered { accepted: true }), []);
    let (from, to) = (State::CatchingUp, State::InSync);
    let copied = [Action::StopCopying, Action::Propose { from, to }];
    assert_eq!(tell(&mut link, Message::Copied { generation: 1 }), copied);
    let gated = tell(&mut link, Message::Appended(mark(6)));
    assert_eq!(gated, [Action::Send], "what comes next it must have");
    assert_eq!(tell(&mut link, Message::Answered { accepted: true }), []);
}

/// Whoever takes over would otherwise find more of a SCO on the backend than at the DTL node.
#[test]
fn with_async_the_backend_gets_what_the_dtl_node_has() {
    use link::{Action, Message};
    let mut link = Link::new(Mode::Async, State::Degraded, mark(5), Saved::default());
    link.start(&mut vec![]);
    assert!(link.may_upload(5), "nobody can take over");
    tell(&mut link, Message::Connected { generation: 1, held: held(5) });
    tell(&mut link, Message::Answered { accepted: true });
    tell(&mut link, Message::Acknowledged { generation: 1, sequence: 5 });
    let (from, to) = (State::CatchingUp, State::InSync);
    let copied = tell(&mut link, Message::Copied { generation: 1 });
    assert_eq!(copied, [Action::Propose { from, to }]);
    assert_eq!(tell(&mut link, Message::Appended(mark(6))), [Action::Release]);
    assert!(link.may_upload(5));
    assert!(!link.may_upload(6), "the registry may say in_sync already");
    tell(&mut link, Message::Answered { accepted: true });
    assert!(!link.may_upload(6));
    tell(&mut link, Message::Acknowledged { generation: 1, sequence: 6 });
    assert!(link.may_upload(6));
    tell(&mut link, Message::Lost { generation: 1 });
    assert!(!link.may_upload(6), "what it has is known for a connection only");
    tell(&mut link, Message::Impatient);
    tell(&mut link, Message::Answered { accepted: true });
    assert_eq!(link.recorded(), State::Degraded);
    assert!(link.may_upload(6));
    tell(&mut link, Message::LeaseExpired);
    assert!(!link.may_upload(6), "another node may be the owner");
}

#[test]
fn a_dtl_node_that_can_be_reached_and_takes_nothing_holds_nobody_up() {
    use link::{Action, Message};
    let mut link = in_sync_at(5);
    tell(&mut link, Message::Appended(mark(6)));
    tell(&mut link, Message::Lost { generation: 1 });
    let connected = Message::Connected { generation: 2, held: held(5) };
    assert_eq!(tell(&mut link, connected), [Action::Resume, Action::Send]);
    let lost = tell(&mut link, Message::Lost { generation: 2 });
    let (from, to) = (State::InSync, State::Degraded);
    let connect = Action::Connect { generation: 3 };
    assert_eq!(lost, [connect, Action::WaitForKeeper, Action::Propose { from, to }]);
}

#[test]
fn a_refused_swap_a_newer_epoch_and_the_end_of_the_lease_stop_the_owner() {
    use link::{Action, Message};
    let cases = [
        (Message::Refused { generation: 1 }, Reason::NewerEpoch),
        (Message::LeaseExpired, Reason::Lease),
    ];
    for (message, reason) in cases {
        let mut link = in_sync_at(5);
        let stopped = tell(&mut link, message);
        assert_eq!(stopped, [Action::Disconnect, Action::Stop(reason)]);
        assert_eq!(tell(&mut link, Message::Appended(mark(6))), []);
    }
    let mut link = in_sync_at(5);
    tell(&mut link, Message::Lost { generation: 1 });
    tell(&mut link, Message::Impatient);
    let stopped = tell(&mut link, Message::Answered { accepted: false });
    assert_eq!(stopped, [Action::Disconnect, Action::Stop(Reason::SwapRefused)]);
}

#[test]
fn a_fence_is_durable_before_it_is_answered_and_holds_for_ever() {
    use keeper::{Action, Message};
    let mut keeper = Keeper::new(3, held(5));
    let mut tell = |message| {
        let mut out = vec![];
        keeper.step(message, &mut out);
        out
    };
    let hello = |connection, epoch| Message::Hello { connection, epoch, generation: 1 };
    assert_eq!(tell(hello(1, 2)), [Action::Refuse { connection: 1, fence: 3 }]);
    assert_eq!(tell(hello(2, 3)), [Action::Greet { connection: 2, held: held(5) }]);
    assert_eq!(tell(Message::Resume { connection: 2 }), []);
    let piece = Piece { previous: mark(5), end: mark(6), starts_sco: false };
    assert_eq!(tell(Message::Append { connection: 2, piece }), [Action::Write]);
    let acknowledge = Action::Acknowledge { connection: 2, sequence: 6 };
    assert_eq!(tell(Message::Written), [acknowledge]);
    assert_eq!(tell(hello(3, 4)), [Action::StoreEpoch { epoch: 4, suspect: false }]);
    let fenced = tell(Message::EpochStored { epoch: 4 });
    let refuse = Action::Refuse { connection: 2, fence: 4 };
    assert_eq!(fenced, [refuse, Action::Greet { connection: 3, held: held(6) }]);
    let piece = Piece { previous: mark(6), end: mark(7), starts_sco: false };
    let late = tell(Message::Append { connection: 2, piece });
    assert_eq!(late, [Action::Close { connection: 2 }]);
    assert_eq!(tell(hello(4, 3)), [Action::Refuse { connection: 4, fence: 4 }]);
}

#[test]
fn a_node_that_does_not_know_a_volume_says_so() {
    use keeper::{Action, Message};
    let mut keeper = Keeper::new(0, Held::default());
    let mut out = vec![];
    keeper.step(Message::Hello { connection: 1, epoch: 9, generation: 1 }, &mut out);
    keeper.step(Message::EpochStored { epoch: 9 }, &mut out);
    keeper.step(Message::Fresh { connection: 1 }, &mut out);
    keeper.step(Message::Wiped, &mut out);
    let piece = Piece { previous: mark(5), end: mark(6), starts_sco: true };
    keeper.step(Message::Append { connection: 1, piece }, &mut out);
    keeper.step(Message::Written, &mut out);
    let suspect = Held { begin: 0, end: None, suspect: true };
    assert_eq!(
        out,
        [
            Action::StoreEpoch { epoch: 9, suspect: true },
            Action::Greet { connection: 1, held: suspect },
            Action::Wipe,
            Action::Vouch,
            Action::Write,
            Action::Acknowledge { connection: 1, sequence: 6 },
        ]
    );
    assert_eq!(keeper.held(), Held { begin: 5, end: Some(mark(6)), suspect: false });
}

/// An owner that took what is left for its whole log would lack the rest.
#[test]
fn a_wipe_that_fails_leaves_nothing_to_go_on_from() {
    use keeper::{Action, Message};
    let mut keeper = Keeper::new(3, held(5));
    let mut out = vec![];
    keeper.step(Message::Hello { connection: 1, epoch: 3, generation: 1 }, &mut out);
    keeper.step(Message::Fresh { connection: 1 }, &mut out);
    keeper.step(Message::WipeFailed, &mut out);
    keeper.step(Message::Hello { connection: 2, epoch: 3, generation: 2 }, &mut out);
    keeper.step(Message::Fresh { connection: 2 }, &mut out);
    keeper.step(Message::Wiped, &mut out);
    let suspect = Held { begin: 0, end: None, suspect: true };
    assert_eq!(
        out,
        [
            Action::Greet { connection: 1, held: held(5) },
            Action::Wipe,
            Action::Close { connection: 1 },
            Action::Greet { connection: 2, held: suspect },
            Action::Wipe,
            Action::Vouch,
        ]
    );
}
