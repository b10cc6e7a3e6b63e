//! Whole action lists, and: however the stream is cut, it means the same.

use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use format::nbd::{self, RequestHeader, chunk, command, error, flag, option, reply, transmission};
use proptest::prelude::*;

use super::*;

const SIZE: u64 = 1 << 20;
const FLAGS: u16 = transmission::HAS_FLAGS
    | transmission::SEND_FLUSH
    | transmission::SEND_FUA
    | transmission::CAN_MULTI_CONN
    | transmission::SEND_CACHE
    | transmission::SEND_TRIM
    | transmission::SEND_WRITE_ZEROES
    | transmission::SEND_FAST_ZERO;

/// Two exports, "disk" (also the default) and the read-only "cd".
struct Shelf;

impl Catalogue for Shelf {
    fn find(&self, name: &str) -> Option<Export> {
        let (name, description, read_only) = match name {
            "" | "disk" => ("disk", "a disk", false),
            "cd" => ("cd", "", true),
            _ => return None,
        };
        let (name, description) = (name.to_string(), description.to_string());
        Some(Export { name, description, size: SIZE, read_only })
    }

    fn names(&self) -> Vec<String> {
        vec!["cd".to_string(), "disk".to_string()]
    }
}

fn client_option(number: u32, data: &[u8]) -> Vec<u8> {
    let mut out = nbd::MAGIC_OPTION.to_be_bytes().to_vec();
    out.extend_from_slice(&number.to_be_bytes());
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    out.extend_from_slice(data);
    out
}

fn info_data(name: &str, wanted: &[u16]) -> Vec<u8> {
    let mut out = nbd::server_entry(name);
    out.extend_from_slice(&(wanted.len() as u16).to_be_bytes());
    for kind in wanted {
        out.extend_from_slice(&kind.to_be_bytes());
    }
    out
}

fn context_data(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut out = nbd::server_entry(name);
    out.extend_from_slice(&(queries.len() as u32).to_be_bytes());
    for query in queries {
        out.extend_from_slice(&nbd::server_entry(query));
    }
    out
}

fn request(command: u16, flags: u16, offset: u64, len: u32) -> Vec<u8> {
    let magic = nbd::MAGIC_REQUEST;
    RequestHeader { magic, flags, command, cookie: 7, offset, len }.encode().to_vec()
}

/// What the server sends for one option.
fn replies(number: u32, list: &[(u32, &[u8])]) -> Action {
    let mut out = Vec::new();
    for (kind, data) in list {
        nbd::put_option_reply(&mut out, number, *kind, data);
    }
    Action::Send(out)
}

fn refused(code: u32) -> Vec<Action> {
    vec![Action::Send(nbd::simple_reply(code, 7).to_vec())]
}

fn asked(offset: u64, len: u32, verb: Verb) -> Vec<Action> {
    vec![Action::Request(Request { cookie: 7, offset, len, verb })]
}

fn fed(feeder: &mut Feeder, bytes: &[u8]) -> Vec<Action> {
    let mut actions = Vec::new();
    feeder.feed(bytes, &Shelf, &mut actions);
    actions
}

/// A client that has sent its flags.
fn negotiating() -> Feeder {
    let mut feeder = Feeder::new(&mut Vec::new());
    assert_eq!(fed(&mut feeder, &[0, 0, 0, 3]), []);
    feeder
}

/// A client that uses `name`.
fn serving(name: &str) -> Feeder {
    let mut feeder = negotiating();
    fed(&mut feeder, &client_option(option::GO, &info_data(name, &[])));
    feeder
}

/// A client with structured replies and base:allocation.
fn structured() -> Feeder {
    let mut feeder = negotiating();
    fed(&mut feeder, &client_option(option::STRUCTURED_REPLY, &[]));
    let data = context_data("", &["base:allocation"]);
    fed(&mut feeder, &client_option(option::SET_META_CONTEXT, &data));
    fed(&mut feeder, &client_option(option::GO, &info_data("disk", &[])));
    feeder
}

#[test]
fn the_greeting_comes_first() {
    let mut actions = Vec::new();
    let feeder = Feeder::new(&mut actions);
    assert_eq!(actions, [Action::Send(nbd::greeting(3).to_vec())]);
    assert_eq!(feeder.session.wants(), Wants::Bytes(4));
}

#[test]
fn go_describes_the_export_and_serves_it() {
    let mut feeder = negotiating();
    let wanted = [nbd::info::NAME, nbd::info::DESCRIPTION, nbd::info::BLOCK_SIZE, 99];
    let actions = fed(&mut feeder, &client_option(option::GO, &info_data("", &wanted)));
    let expected = replies(
        option::GO,
        &[
            (reply::INFO, &nbd::info_export(SIZE, FLAGS)),
            (reply::INFO, &nbd::info_text(nbd::info::NAME, "disk")),
            (reply::INFO, &nbd::info_text(nbd::info::DESCRIPTION, "a disk")),
            (reply::INFO, &nbd::info_block_size(512, 4096, 32 << 20)),
            (reply::ACK, &[]),
        ],
    );
    assert_eq!(actions, [expected, Action::Serve("disk".to_string())]);
    assert_eq!(feeder.session.wants(), Wants::Bytes(28));
}

#[test]
fn info_stays_in_negotiation_and_read_only_is_told() {
    let mut feeder = negotiating();
    let actions = fed(&mut feeder, &client_option(option::INFO, &info_data("cd", &[])));
    let flags = FLAGS
        & !(transmission::SEND_TRIM)
        & !(transmission::SEND_WRITE_ZEROES | transmission::SEND_FAST_ZERO)
        | transmission::READ_ONLY;
    let info = nbd::info_export(SIZE, flags);
    let expected = replies(option::INFO, &[(reply::INFO, &info), (reply::ACK, &[])]);
    assert_eq!(actions, [expected]);
    assert_eq!(feeder.session.wants(), Wants::Bytes(16));
}

#[test]
fn export_name_answers_without_ack_and_pads_for_old_clients() {
    for (flags, zeroes) in [(1u8, true), (3, false)] {
        let mut feeder = Feeder::new(&mut Vec::new());
        fed(&mut feeder, &[0, 0, 0, flags]);
        let actions = fed(&mut feeder, &client_option(option::EXPORT_NAME, b"disk"));
        let expected = Action::Send(nbd::export_reply(SIZE, FLAGS, zeroes));
        assert_eq!(actions, [expected, Action::Serve("disk".to_string())]);
    }
    let actions = fed(&mut negotiating(), &client_option(option::EXPORT_NAME, b"tape"));
    assert_eq!(actions, [Action::Close(Reason::NoSuchExport("tape".to_string()))]);
    let actions = fed(&mut negotiating(), &client_option(option::EXPORT_NAME, &[0xff]));
    assert_eq!(actions, [Action::Close(Reason::BadName)]);
}

#[test]
fn other_options_are_answered_and_negotiation_goes_on() {
    let cd = nbd::server_entry("cd");
    let disk = nbd::server_entry("disk");
    let tls = b"TLS is not offered; use the unix socket or a protected network";
    type Replies<'a> = Vec<(u32, &'a [u8])>;
    let cases: Vec<(u32, &[u8], Replies)> = vec![
        (option::LIST, b"", vec![(reply::SERVER, &cd), (reply::SERVER, &disk), (reply::ACK, b"")]),
        (option::LIST, b"x", vec![(reply::ERR_INVALID, b"this option has no data")]),
        (option::STARTTLS, b"", vec![(reply::ERR_POLICY, tls)]),
        (option::EXTENDED_HEADERS, b"", vec![(reply::ERR_UNSUP, b"unknown option")]),
        (77, b"data", vec![(reply::ERR_UNSUP, b"unknown option")]),
        (option::STRUCTURED_REPLY, b"", vec![(reply::ACK, b"")]),
    ];
    let mut feeder = negotiating();
    for (number, data, expected) in cases {
        let actions = fed(&mut feeder, &client_option(number, data));
        assert_eq!(actions, [replies(number, &expected)], "option {number}");
        assert_eq!(feeder.session.wants(), Wants::Bytes(16));
    }
    let unknown = fed(&mut feeder, &client_option(option::GO, &info_data("tape", &[])));
    assert_eq!(unknown, [replies(option::GO, &[(reply::ERR_UNKNOWN, b"no such export")])]);
}

#[test]
fn abort_is_acknowledged_and_ends_the_session() {
    let mut feeder = negotiating();
    let actions = fed(&mut feeder, &client_option(option::ABORT, &[]));
    let ack = replies(option::ABORT, &[(reply::ACK, &[])]);
    assert_eq!(actions, [ack, Action::Close(Reason::Aborted)]);
    assert_eq!(feeder.session.wants(), Wants::Nothing);
}

#[test]
fn contexts_belong_to_the_export_they_were_selected_for() {
    let context = nbd::meta_context(ALLOCATION_ID, nbd::BASE_ALLOCATION);
    let mut feeder = negotiating();
    let set = client_option(option::SET_META_CONTEXT, &context_data("disk", &["base:allocation"]));
    let text = b"structured replies must be negotiated first";
    let invalid = replies(option::SET_META_CONTEXT, &[(reply::ERR_INVALID, text)]);
    assert_eq!(fed(&mut feeder, &set), [invalid]);
    fed(&mut feeder, &client_option(option::STRUCTURED_REPLY, &[]));
    let good = [(reply::META_CONTEXT, &context[..]), (reply::ACK, &[])];
    assert_eq!(fed(&mut feeder, &set), [replies(option::SET_META_CONTEXT, &good)]);
    fed(&mut feeder, &client_option(option::GO, &info_data("cd", &[])));
    let actions = fed(&mut feeder, &request(command::BLOCK_STATUS, 0, 0, 4096));
    let mut refusal = Vec::new();
    let text = "base:allocation was not negotiated";
    nbd::put_error(&mut refusal, 7, error::EINVAL, text);
    assert_eq!(actions, [Action::Send(refusal)]);
    let actions = fed(&mut structured(), &request(command::BLOCK_STATUS, flag::REQ_ONE, 0, 4096));
    assert_eq!(actions, asked(0, 4096, Verb::BlockStatus { one: true }));
}

#[test]
fn listing_contexts_knows_wildcards_and_selecting_does_not() {
    let mut feeder = negotiating();
    fed(&mut feeder, &client_option(option::STRUCTURED_REPLY, &[]));
    let found = nbd::meta_context(0, nbd::BASE_ALLOCATION);
    for queries in [&[][..], &["base:"], &["x:y", "base:allocation"]] {
        let data = context_data("disk", queries);
        let actions = fed(&mut feeder, &client_option(option::LIST_META_CONTEXT, &data));
        let expected = [(reply::META_CONTEXT, &found[..]), (reply::ACK, &[])];
        assert_eq!(actions, [replies(option::LIST_META_CONTEXT, &expected)], "{queries:?}");
    }
    for queries in [&[][..], &["base:"], &["base:dirty"]] {
        let data = context_data("disk", queries);
        let actions = fed(&mut feeder, &client_option(option::SET_META_CONTEXT, &data));
        let expected = replies(option::SET_META_CONTEXT, &[(reply::ACK, &[])]);
        assert_eq!(actions, [expected], "{queries:?}");
    }
}

#[test]
fn what_does_not_speak_nbd_is_hung_up_on() {
    let mut feeder = Feeder::new(&mut Vec::new());
    let actions = fed(&mut feeder, &[0, 0, 1, 3]);
    assert_eq!(actions, [Action::Close(Reason::ClientFlags(0x103))]);
    let actions = fed(&mut negotiating(), b"GET / HTTP/1.1\r\n");
    let magic = u64::from_be_bytes(*b"GET / HT");
    assert_eq!(actions, [Action::Close(Reason::OptionMagic(magic))]);
    let mut bad = request(command::READ, 0, 0, 512);
    bad[0] = 0;
    let mut feeder = serving("disk");
    assert_eq!(fed(&mut feeder, &bad), [Action::Close(Reason::RequestMagic(0x60_9513))]);
    assert_eq!(fed(&mut feeder, &bad), []);
}

#[test]
fn an_option_that_is_too_long_is_skipped_and_refused() {
    let mut feeder = negotiating();
    let len = OPTION_BYTES_MAX + 1;
    let mut header = client_option(option::INFO, &[]);
    header[12..].copy_from_slice(&len.to_be_bytes());
    assert_eq!(fed(&mut feeder, &header), []);
    assert_eq!(feeder.session.wants(), Wants::Skip(len));
    let text = b"the option's data is too long; use shorter or fewer names";
    let expected = replies(option::INFO, &[(reply::ERR_TOO_BIG, text)]);
    assert_eq!(fed(&mut feeder, &vec![0; len as usize]), [expected]);
    assert_eq!(feeder.session.wants(), Wants::Bytes(16));
    header[8..12].copy_from_slice(&option::EXPORT_NAME.to_be_bytes());
    assert_eq!(fed(&mut feeder, &header), [Action::Close(Reason::BadName)]);
}

#[test]
fn endless_haggling_ends() {
    let mut feeder = negotiating();
    for _ in 0..OPTIONS_MAX {
        assert_eq!(fed(&mut feeder, &client_option(77, &[])).len(), 1);
    }
    let actions = fed(&mut feeder, &client_option(77, &[]));
    assert_eq!(actions, [Action::Close(Reason::TooManyOptions)]);
}

#[test]
fn good_requests_are_passed_on() {
    let zeroes = flag::NO_HOLE | flag::FAST_ZERO | flag::FUA;
    let cases = [
        (command::READ, 0, Verb::Read { whole: false }),
        (command::READ, flag::FUA, Verb::Read { whole: false }),
        (command::TRIM, flag::FUA, Verb::Trim { fua: true }),
        (command::CACHE, 0, Verb::Cache),
        (command::WRITE_ZEROES, zeroes, Verb::WriteZeroes { fua: true }),
        (command::WRITE_ZEROES, 0, Verb::WriteZeroes { fua: false }),
    ];
    let mut feeder = serving("disk");
    for (number, flags, verb) in cases {
        let actions = fed(&mut feeder, &request(number, flags, SIZE - 4096, 4096));
        assert_eq!(actions, asked(SIZE - 4096, 4096, verb));
    }
    assert_eq!(fed(&mut feeder, &request(command::FLUSH, 0, 0, 0)), asked(0, 0, Verb::Flush));
    let actions = fed(&mut structured(), &request(command::READ, flag::DF, 0, 512));
    assert_eq!(actions, asked(0, 512, Verb::Read { whole: true }));
    assert_eq!(feeder.session.in_flight(), 7);
}

#[test]
fn the_payload_of_a_write_is_counted() {
    let mut feeder = serving("disk");
    let actions = fed(&mut feeder, &request(command::WRITE, flag::FUA, 4096, 512));
    assert_eq!(actions, asked(4096, 512, Verb::Write { fua: true }));
    assert_eq!(feeder.session.wants(), Wants::Payload(512));
    assert_eq!(fed(&mut feeder, &[1; 500]), []);
    assert_eq!(feeder.session.wants(), Wants::Payload(12));
    assert_eq!(fed(&mut feeder, &[1; 12]), []);
    assert_eq!(feeder.session.wants(), Wants::Bytes(28));
    assert_eq!(feeder.payload, [1; 512]);
}

#[test]
fn bad_requests_are_refused_and_the_session_goes_on() {
    let max = PAYLOAD_BYTES_MAX;
    let cases = [
        (command::READ, 0, SIZE, 1, error::EINVAL),
        (command::READ, 0, u64::MAX, 2, error::EINVAL),
        (command::READ, flag::DF, 0, 512, error::EINVAL),
        (command::READ, 1 << 9, 0, 512, error::EINVAL),
        (command::TRIM, 0, SIZE - 1, 2, error::EINVAL),
        (command::CACHE, 0, SIZE, 1, error::EINVAL),
        (command::WRITE_ZEROES, 0, SIZE - 1, 2, error::ENOSPC),
        (command::BLOCK_STATUS, 0, 0, 512, error::EINVAL),
        (8, 0, 0, 0, error::EINVAL),
        (command::READ, 0, 0, max + 1, error::EINVAL),
    ];
    let mut feeder = serving("disk");
    for (number, flags, offset, len, code) in cases {
        let actions = fed(&mut feeder, &request(number, flags, offset, len));
        assert_eq!(actions, refused(code), "command {number} at {offset}");
    }
    assert_eq!(feeder.session.in_flight(), 0);
    let mut cd = serving("cd");
    for number in [command::TRIM, command::WRITE_ZEROES] {
        assert_eq!(fed(&mut cd, &request(number, 0, 0, 512)), refused(error::EPERM));
    }
}

#[test]
fn the_payload_of_a_refused_write_is_skipped_before_the_answer() {
    for (name, offset, len, code) in [
        ("disk", SIZE - 1, 2, error::ENOSPC),
        ("cd", 0, 512, error::EPERM),
        ("disk", 0, u32::MAX, error::ENOSPC),
    ] {
        let mut feeder = serving(name);
        assert_eq!(fed(&mut feeder, &request(command::WRITE, 0, offset, len)), []);
        assert_eq!(feeder.session.wants(), Wants::Skip(len));
        let mut actions = Vec::new();
        feeder.session.consumed(len - 1, &mut actions);
        assert_eq!(actions, []);
        feeder.session.consumed(1, &mut actions);
        assert_eq!(actions, refused(code));
        assert_eq!(feeder.session.wants(), Wants::Bytes(28));
        assert_eq!(feeder.payload, []);
    }
}

#[test]
fn refused_reads_are_structured_when_that_was_negotiated() {
    let actions = fed(&mut structured(), &request(command::READ, 0, SIZE, 512));
    let mut expected = Vec::new();
    nbd::put_error(&mut expected, 7, error::EINVAL, "beyond the end of the export");
    assert_eq!(actions, [Action::Send(expected.clone())]);
    assert_eq!(expected[6..8], chunk::ERROR.to_be_bytes());
    let actions = fed(&mut structured(), &request(command::TRIM, 0, SIZE, 512));
    assert_eq!(actions, refused(error::EINVAL));
}

#[test]
fn too_many_requests_in_flight_stop_the_stream() {
    let mut feeder = serving("disk");
    for _ in 0..REQUESTS_IN_FLIGHT_MAX {
        assert_eq!(fed(&mut feeder, &request(command::READ, 0, 0, 512)).len(), 1);
    }
    assert_eq!(feeder.session.wants(), Wants::Answers);
    assert_eq!(fed(&mut feeder, &request(command::FLUSH, 0, 0, 0)), []);
    let mut actions = Vec::new();
    feeder.answer(&Shelf, &mut actions);
    assert_eq!(actions, asked(0, 0, Verb::Flush));
}

#[test]
fn disconnecting_waits_for_what_is_in_flight() {
    let mut feeder = serving("disk");
    fed(&mut feeder, &request(command::READ, 0, 0, 512));
    assert_eq!(fed(&mut feeder, &request(command::DISC, 0, 0, 0)), []);
    assert_eq!(feeder.session.wants(), Wants::Answers);
    let mut actions = Vec::new();
    feeder.answer(&Shelf, &mut actions);
    assert_eq!(actions, [Action::Close(Reason::Disconnected)]);
    let actions = fed(&mut serving("disk"), &request(command::DISC, 0, 0, 0));
    assert_eq!(actions, [Action::Close(Reason::Disconnected)]);
}

#[test]
fn a_stream_that_ends_is_told_apart_by_where_it_ends() {
    let ends = |mut feeder: Feeder, bytes: &[u8], partial| {
        fed(&mut feeder, bytes);
        let mut actions = Vec::new();
        feeder.session.end_of_stream(partial, &mut actions);
        actions
    };
    let write = request(command::WRITE, 0, 0, 512);
    let during = |what| [Action::Close(Reason::PeerLeftDuring(what))];
    assert_eq!(ends(serving("disk"), &[], false), [Action::Close(Reason::PeerLeft)]);
    assert_eq!(ends(serving("disk"), &write[..9], true), during("a request"));
    assert_eq!(ends(serving("disk"), &write, false), during("the payload of a write"));
    let go = client_option(option::GO, &[0; 9]);
    assert_eq!(ends(negotiating(), &go[..20], true), during("an option"));
    assert_eq!(ends(negotiating(), &go[..5], true), during("the handshake"));
    assert_eq!(ends(negotiating(), &[], false), [Action::Close(Reason::PeerLeft)]);
}

#[test]
fn a_performer_that_breaks_the_contract_ends_the_session_only() {
    let mut actions = Vec::new();
    let mut session = serving("disk").session;
    session.step(&[0; 3], &Shelf, &mut actions);
    session.consumed(1, &mut actions);
    session.answered(&mut actions);
    session.step(&[], &Shelf, &mut actions);
    assert_eq!(actions, [Action::Close(Reason::Unexpected)]);
    assert_eq!(session.wants(), Wants::Nothing);
}

#[test]
fn every_reason_reads_well() {
    let reasons = [
        Reason::Disconnected,
        Reason::Aborted,
        Reason::PeerLeft,
        Reason::PeerLeftDuring("a request"),
        Reason::ClientFlags(9),
        Reason::OptionMagic(9),
        Reason::RequestMagic(9),
        Reason::NoSuchExport("x".to_string()),
        Reason::BadName,
        Reason::TooManyOptions,
        Reason::Unexpected,
    ];
    let clean = reasons.iter().filter(|reason| reason.is_clean()).count();
    assert_eq!(clean, 3);
    for reason in reasons {
        assert!(reason.to_string().split(' ').count() > 2, "{reason}");
    }
}

/// A conversation of a client that knows the protocol, with a few mistakes in it.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let request_strategy = (0u16..10, 0u16..32, 0..SIZE + 9000, 0u32..9000).prop_map(
        |(number, flags, offset, len)| {
            let number = if number == command::DISC { command::FLUSH } else { number };
            let mut bytes = request(number, flags, offset, len);
            if number == command::WRITE {
                bytes.resize(bytes.len() + len as usize, 0x5a);
            }
            bytes
        },
    );
    let option_strategy = (0u32..13, prop::collection::vec(any::<u8>(), 0..40))
        .prop_filter("stays in negotiation", |(n, _)| ![1, 2].contains(n))
        .prop_map(|(number, data)| client_option(number, &data));
    let options = prop::collection::vec(option_strategy, 0..6);
    let requests = prop::collection::vec(request_strategy, 0..30);
    (any::<bool>(), options, requests).prop_map(|(structured, options, requests)| {
        let mut bytes = vec![0, 0, 0, 3];
        options.into_iter().for_each(|option| bytes.extend(option));
        if structured {
            bytes.extend(client_option(option::STRUCTURED_REPLY, &[]));
            let data = context_data("disk", &["base:allocation"]);
            bytes.extend(client_option(option::SET_META_CONTEXT, &data));
        }
        bytes.extend(client_option(option::GO, &info_data("disk", &[nbd::info::BLOCK_SIZE])));
        requests.into_iter().for_each(|request| bytes.extend(request));
        bytes
    })
}

/// Feeds `bytes` in pieces of these lengths (then the rest), answering everything at once.
fn outcome(bytes: &[u8], pieces: &[usize]) -> (Vec<Action>, Vec<u8>, Wants) {
    let mut actions = Vec::new();
    let mut feeder = Feeder::new(&mut actions);
    let mut rest = bytes;
    for piece in pieces {
        let (head, tail) = rest.split_at((*piece).min(rest.len()));
        feeder.feed(head, &Shelf, &mut actions);
        rest = tail;
    }
    feeder.feed(rest, &Shelf, &mut actions);
    (actions, feeder.payload, feeder.session.wants())
}

proptest! {
    #[test]
    fn any_split_means_the_same(
        bytes in stream(),
        pieces in prop::collection::vec(1usize..5000, 0..60),
    ) {
        let whole = outcome(&bytes, &[]);
        prop_assert!(whole.0.len() > 2);
        prop_assert_eq!(outcome(&bytes, &pieces), whole.clone());
        prop_assert_eq!(outcome(&bytes, &vec![1; bytes.len()]), whole);
    }

    #[test]
    fn garbage_never_panics_and_never_asks_for_much(
        start in prop::sample::select(vec![0usize, 1, 2]),
        bytes in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let mut feeder = match start {
            0 => Feeder::new(&mut Vec::new()),
            1 => negotiating(),
            _ => structured(),
        };
        let actions = fed(&mut feeder, &bytes);
        prop_assert!(actions.len() < 60);
        if let Wants::Bytes(len) = feeder.session.wants() {
            prop_assert!(len > 0 && len <= OPTION_BYTES_MAX as usize);
        }
        for action in actions {
            if let Action::Request(request) = action {
                prop_assert!(request.offset + u64::from(request.len) <= SIZE);
            }
        }
    }

    #[test]
    fn damaged_conversations_never_panic(
        bytes in stream(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let mut bytes = bytes;
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] ^= value;
        }
        outcome(&bytes, &[]);
    }
}
