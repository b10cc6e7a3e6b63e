//! A connection of an OSD server: who it is with, and which requests are at work.
//!
//! The shell decodes frames, computes and compares proofs, and performs requests; this decides what
//! may happen. Nothing is performed for who has not proved that he has the cluster's key.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use format::osd::wire::{IN_FLIGHT_MAX, Kind, Reason, VERSION};

/// What came, or was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// A hello; `known`: what is wrong with what it asks for, from the shell's list of OSDs.
    Hello {
        /// Version of the protocol.
        version: u16,
        /// Whether it is for the server instead of an OSD.
        for_server: bool,
        /// Why it can't be served.
        wrong: Option<Reason>,
    },
    /// A proof, and whether it is genuine.
    Proof {
        /// It was made with the cluster's key.
        genuine: bool,
    },
    /// A request.
    Request {
        /// What for.
        kind: Kind,
        /// Its tag.
        tag: u64,
    },
    /// Any other frame.
    Other,
    /// A request was performed; its answer may be sent.
    Performed {
        /// Its tag.
        tag: u64,
    },
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send a challenge.
    Challenge,
    /// Send a welcome.
    Welcome,
    /// Say why not; the connection ends behind it.
    Refuse(Reason),
    /// Perform a request.
    Perform {
        /// Its tag.
        tag: u64,
    },
    /// Send the answer to a request.
    Answer {
        /// Its tag.
        tag: u64,
    },
    /// End the connection: the peer breaks the rules.
    Close(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    Challenged { for_server: bool },
    Open { for_server: bool },
    Closed,
}

/// See the top of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    state: State,
    at_work: BTreeSet<u64>,
}

impl Default for Session {
    fn default() -> Self {
        Self { state: State::New, at_work: BTreeSet::new() }
    }
}

impl Session {
    /// Requests that are at work.
    pub fn in_flight(&self) -> usize {
        self.at_work.len()
    }

    /// Whether the peer has proved who it is.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// The next state and what is to be done.
    pub fn step(&mut self, message: Message, actions: &mut Vec<Action>) {
        match (self.state, message) {
            (State::Closed, Message::Performed { tag }) => {
                self.at_work.remove(&tag);
            }
            (State::Closed, _) => {}
            (State::New, Message::Hello { version, for_server, wrong }) => {
                let wrong = if version == VERSION { wrong } else { Some(Reason::Version) };
                match wrong {
                    Some(reason) => self.refuse(reason, actions),
                    None => {
                        self.state = State::Challenged { for_server };
                        actions.push(Action::Challenge);
                    }
                }
            }
            (State::Challenged { for_server }, Message::Proof { genuine: true }) => {
                self.state = State::Open { for_server };
                actions.push(Action::Welcome);
            }
            (State::Challenged { .. }, Message::Proof { genuine: false }) => {
                self.refuse(Reason::Proof, actions);
            }
            (State::Open { for_server }, Message::Request { kind, tag }) => {
                self.request(for_server, kind, tag, actions);
            }
            (State::Open { .. }, Message::Performed { tag }) => {
                if self.at_work.remove(&tag) {
                    actions.push(Action::Answer { tag });
                }
            }
            _ => self.close("a frame came out of turn", actions),
        }
    }

    fn request(&mut self, for_server: bool, kind: Kind, tag: u64, actions: &mut Vec<Action>) {
        if for_server != (kind == Kind::Claims) {
            self.close("the request is not one for whom it was sent to", actions);
        } else if self.at_work.len() >= IN_FLIGHT_MAX {
            self.close("too many requests are unanswered", actions);
        } else if self.at_work.insert(tag) {
            actions.push(Action::Perform { tag });
        } else {
            self.close("two requests have the same tag", actions);
        }
    }

    fn refuse(&mut self, reason: Reason, actions: &mut Vec<Action>) {
        self.state = State::Closed;
        actions.push(Action::Refuse(reason));
    }

    fn close(&mut self, why: &'static str, actions: &mut Vec<Action>) {
        self.state = State::Closed;
        actions.push(Action::Close(why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: Message = Message::Hello { version: VERSION, for_server: false, wrong: None };
    const GENUINE: Message = Message::Proof { genuine: true };

    fn run(session: &mut Session, messages: &[Message]) -> Vec<Action> {
        let mut actions = Vec::new();
        messages.iter().for_each(|message| session.step(*message, &mut actions));
        actions
    }

    fn put(tag: u64) -> Message {
        Message::Request { kind: Kind::Put, tag }
    }

    #[test]
    fn a_request_is_performed_and_answered_once() {
        let mut session = Session::default();
        let performed = Message::Performed { tag: 1 };
        let all = [HELLO, GENUINE, put(1), put(2), performed, performed, put(1)];
        let actions = run(&mut session, &all);
        let expected = [
            Action::Challenge,
            Action::Welcome,
            Action::Perform { tag: 1 },
            Action::Perform { tag: 2 },
            Action::Answer { tag: 1 },
            Action::Perform { tag: 1 },
        ];
        assert_eq!(actions, expected);
        assert_eq!(session.in_flight(), 2);
    }

    /// All sequences of messages up to a length: nothing is performed without a genuine proof that
    /// follows a challenge, nor after an end.
    #[test]
    fn nothing_is_performed_for_who_has_not_proved_himself() {
        let wrong =
            Message::Hello { version: VERSION, for_server: false, wrong: Some(Reason::NoOsd) };
        let old = Message::Hello { version: VERSION + 1, for_server: false, wrong: None };
        let forged = Message::Proof { genuine: false };
        let moves = [HELLO, wrong, old, GENUINE, forged, put(1), Message::Other];
        let mut performed = 0;
        for number in 0..moves.len().pow(5) {
            let mut rest = number;
            let mut session = Session::default();
            let (mut greeted, mut proved, mut over) = (false, false, false);
            for _ in 0..5 {
                let message = moves[rest % moves.len()];
                rest /= moves.len();
                let actions = run(&mut session, &[message]);
                for action in &actions {
                    assert!(!over, "{action:?} after the end");
                    match action {
                        Action::Challenge => greeted = true,
                        Action::Welcome => {
                            assert!(greeted && message == GENUINE);
                            proved = true;
                        }
                        Action::Perform { .. } => {
                            assert!(proved);
                            performed += 1;
                        }
                        Action::Answer { .. } => panic!("nothing was performed"),
                        Action::Refuse(_) | Action::Close(_) => over = true,
                    }
                }
            }
        }
        assert!(performed > 0);
    }

    #[test]
    fn a_peer_that_asks_for_too_much_is_dropped() {
        let mut session = Session::default();
        run(&mut session, &[HELLO, GENUINE]);
        for tag in 0..IN_FLIGHT_MAX as u64 {
            assert_eq!(run(&mut session, &[put(tag)]), [Action::Perform { tag }]);
        }
        assert!(matches!(run(&mut session, &[put(1 << 32)])[..], [Action::Close(_)]));
        assert_eq!(run(&mut session, &[Message::Performed { tag: 0 }]), []);
        assert_eq!(session.in_flight(), IN_FLIGHT_MAX - 1);
    }

    #[test]
    fn the_server_itself_only_says_what_it_serves() {
        let claims = Message::Request { kind: Kind::Claims, tag: 1 };
        let for_server = Message::Hello { version: VERSION, for_server: true, wrong: None };
        let actions = run(&mut Session::default(), &[for_server, GENUINE, claims, put(2)]);
        assert_eq!(actions[2], Action::Perform { tag: 1 });
        assert!(matches!(actions[3], Action::Close(_)));
        let actions = run(&mut Session::default(), &[HELLO, GENUINE, claims]);
        assert!(matches!(actions[2], Action::Close(_)));
    }

    #[test]
    fn a_tag_is_used_by_one_request_at_a_time() {
        let actions = run(&mut Session::default(), &[HELLO, GENUINE, put(1), put(1)]);
        assert_eq!(actions[3], Action::Close("two requests have the same tag"));
    }
}
