use alloc::vec;

use proptest::prelude::*;

use super::*;

fn frames() -> Vec<Frame> {
    let hello = Hello {
        version: VERSION,
        features: 7,
        volume: [3; 16],
        read_only: true,
        entries: 256,
        token: [0; 64],
        edge: [1; 16],
        connection: 3,
        host: "host-1".into(),
        client: "vstorage-edge 17 on host-a".into(),
    };
    let attached = Attached {
        version: VERSION,
        features: 0,
        size: 1 << 30,
        read_only: false,
        epoch: 9,
        credits: 128,
    };
    let refusal = Refusal {
        code: "unknown_volume".into(),
        what: "attach volume 0303".into(),
        why: "this engine does not serve it".into(),
        fix: "create it, or wait until its daemon has opened it".into(),
    };
    vec![
        Frame::Hello(hello),
        Frame::Attached(attached),
        Frame::Refused(refusal),
        Frame::Resized { size: 4096 },
        Frame::Moved { address: "10.0.0.7:26203".into(), epoch: 10 },
        Frame::Closed { reason: CloseReason::Deleted, detail: "deleted".into() },
        Frame::Goodbye,
    ]
}

#[test]
fn every_frame_reads_back_and_waits_for_its_last_byte() {
    for frame in frames() {
        let bytes = frame.encode();
        assert_eq!(Frame::decode(&bytes), Ok(Some((frame.clone(), bytes.len()))));
        for short in 0..bytes.len() {
            assert_eq!(Frame::decode(&bytes[..short]), Ok(None), "{frame:?} cut at {short}");
        }
    }
}

#[test]
fn one_wrong_bit_anywhere_is_refused_or_asks_for_more() {
    for frame in frames() {
        let bytes = frame.encode();
        for bit in 0..bytes.len() * 8 {
            let mut wrong = bytes.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            match Frame::decode(&wrong) {
                Ok(Some((read, _))) => panic!("bit {bit} of {frame:?} read as {read:?}"),
                Ok(None) => assert!((64..96).contains(&bit), "only a length asks for more"),
                Err(_) => {}
            }
        }
    }
}

#[test]
fn long_texts_are_cut_at_a_character() {
    let detail = "é".repeat(TEXT_MAX);
    let bytes = Frame::Closed { reason: CloseReason::Stopping, detail }.encode();
    let Ok(Some((Frame::Closed { detail, .. }, _))) = Frame::decode(&bytes) else {
        panic!("does not read back");
    };
    assert_eq!(detail.len(), TEXT_MAX);
}

#[test]
fn a_command_has_the_bytes_that_are_drawn() {
    let command = Command {
        tag: 0x0403_0201,
        verb: Verb::Write,
        flags: FLAG_FUA,
        offset: 0x1817_1615_1413_1211,
        length: 4096,
        place: 0x3837_3635_3433_3231,
        room: 0,
    };
    let bytes = command.encode();
    assert_eq!(&bytes[..8], &[1, 2, 3, 4, 2, 1, 0, 0]);
    assert_eq!(&bytes[8..16], &[0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18]);
    assert_eq!(&bytes[16..24], &4096u64.to_le_bytes());
    assert_eq!(&bytes[24..32], &[0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38]);
    assert_eq!(&bytes[32..], &[0; 32]);
    assert_eq!(Command::decode(&bytes), Ok(command));
    let done = Done { tag: 5, errno: 28, extents: 3 };
    assert_eq!(done.encode(), [5, 0, 0, 0, 28, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(Done::decode(&done.encode()), Ok(done));
    assert_eq!(decode_extent(&encode_extent(77, true)), (77, true));
}

#[test]
fn commands_outside_the_protocol_are_refused() {
    let good =
        Command { tag: 1, verb: Verb::Read, flags: 0, offset: 0, length: 512, place: 0, room: 0 };
    let refused = |change: fn(&mut [u64; 8])| {
        let mut words = good.to_words();
        change(&mut words);
        Command::from_words(&words).unwrap_err()
    };
    assert_eq!(refused(|w| w[0] = 9 << 32), WireError::Verb(9));
    assert_eq!(refused(|w| w[0] |= 1 << 40), WireError::Flags(1), "a read has no FUA");
    assert_eq!(refused(|w| w[0] |= 4 << 40), WireError::Flags(4));
    assert_eq!(refused(|w| w[0] |= 1 << 50), WireError::Reserved);
    assert_eq!(refused(|w| w[4] = 1 << 32), WireError::Reserved);
    assert_eq!(refused(|w| w[7] = 1), WireError::Reserved);
    assert_eq!(refused(|w| w[2] = PAYLOAD_MAX + 1), WireError::Value("length"));
    assert_eq!(Done::from_words(&[1 << 63, 0]), Err(WireError::Value("errno")));
}

#[test]
fn the_layout_has_no_overlaps() {
    for entries in [8, 64, 4096] {
        let layout = Layout::new(entries).unwrap();
        assert!(layout.submission_cursors() + 3 * 128 <= layout.completion_cursors());
        assert!(layout.completion_cursors() + 3 * 128 <= layout.submissions());
        assert!(layout.submissions() + entries as usize * 64 <= layout.completions());
        assert!(layout.completions() + entries as usize * 16 <= layout.answer(0));
        assert_eq!(layout.answer(entries), layout.len());
    }
    for wrong in [0, 1, 4, 9, 100, 8192, u32::MAX] {
        assert_eq!(Layout::new(wrong), Err(WireError::Value("entries")));
    }
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        let _ = Frame::decode(&bytes);
        if let Some(entry) = bytes.first_chunk() {
            let _ = Command::decode(entry);
        }
        if let Some(entry) = bytes.first_chunk() {
            let _ = Done::decode(entry);
        }
    }

    #[test]
    fn garbage_behind_a_good_header_never_panics(
        kind in 0u16..20,
        body in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&MAGIC.to_le_bytes());
        bytes.extend_from_slice(&kind.to_le_bytes());
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&crc32c(&body).to_le_bytes());
        bytes.extend_from_slice(&body);
        if let Ok(Some((frame, used))) = Frame::decode(&bytes) {
            prop_assert_eq!(used, bytes.len());
            prop_assert_eq!(frame.encode(), bytes);
        }
    }

    #[test]
    fn commands_that_parse_encode_to_the_same_words(words in any::<[u64; 8]>()) {
        let mut words = words;
        words[0] &= 0x0307_ffff_ffff;
        words[2] &= 0xff_ffff;
        words[4] &= 0xffff_ffff;
        words[5..].fill(0);
        if let Ok(command) = Command::from_words(&words) {
            prop_assert_eq!(command.to_words(), words);
        }
    }
}
