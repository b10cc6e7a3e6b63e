//! Whole lists of actions for the ordinary life of a volume; everything else is `sim`'s.

use alloc::vec;

use super::*;

fn limits() -> Limits {
    Limits {
        sco_clusters: 4,
        buffer_scos: 2,
        keep_scos: 0,
        checkpoint_scos: 1,
        batch_clusters: 4,
        op_clusters: 4,
        compact_percent: 50,
    }
}

fn empty() -> Volume {
    let recovered = Recovered {
        own_log: 0,
        map: Map::new(),
        snapshots: vec![],
        scos: BTreeMap::new(),
        sequence: 0,
        durable: 0,
        next_sco: 1,
        checkpoint_position: 0,
    };
    Volume::new(limits(), recovered)
}

fn step(volume: &mut Volume, message: Message) -> Vec<Action> {
    let mut out = vec![];
    let submitted = matches!(message, Message::Submit(_));
    volume.step(message, &mut out);
    if submitted {
        assert_eq!(out, [], "nothing starts before the turn ends");
        volume.step(Message::Turn, &mut out);
    }
    out
}

fn write(id: OpId, lba: u64, clusters: u32) -> Message {
    Message::Submit(Op { id, verb: Verb::Write { lba, clusters, fua: false } })
}

#[test]
fn a_sco_is_filled_synced_uploaded_checkpointed_and_evicted() {
    let mut v = empty();
    assert_eq!(step(&mut v, write(1, 0, 3)), [Action::Open(1)]);
    assert_eq!(step(&mut v, Message::Opened { sco: 1 }), [Action::Open(2), Action::Append]);
    assert_eq!(step(&mut v, Message::Appended), [Action::Complete(1)]);
    assert_eq!(step(&mut v, Message::Opened { sco: 2 }), []);
    assert_eq!(step(&mut v, write(2, 0, 2)), [Action::Append]);
    assert_eq!(v.batch().unwrap().entries, [format::entry::Entry::Closed]);
    let after = step(&mut v, Message::Appended);
    assert_eq!(after, [Action::Append, Action::Sync { after: 0, through: 2 }]);
    assert_eq!(v.batch().unwrap().sco, 2);
    assert_eq!(step(&mut v, Message::Appended), [Action::Complete(2)]);
    assert_eq!(step(&mut v, Message::Synced { through: 2 }), [Action::Upload(1)]);
    let after = step(&mut v, Message::Uploaded { sco: 1 });
    assert_eq!(after, [Action::Evict(1), Action::Checkpoint]);
    assert_eq!(v.taken().unwrap().map.mapped(), 3);
    let referenced = BTreeMap::from([(1, 3)]);
    let after = step(&mut v, Message::CheckpointStored { referenced });
    assert_eq!(after, [Action::Compact(1)]);
    assert_eq!((v.scos()[&1].live, v.scos()[&1].stage), (1, Stage::Evicted));
}

#[test]
fn a_flush_waits_for_what_was_appended_before_it() {
    let mut v = empty();
    step(&mut v, write(1, 0, 1));
    step(&mut v, Message::Opened { sco: 1 });
    step(&mut v, Message::Appended);
    let flush = Message::Submit(Op { id: 9, verb: Verb::Flush });
    assert_eq!(step(&mut v, flush.clone()), [Action::Sync { after: 0, through: 1 }]);
    assert_eq!(step(&mut v, Message::Synced { through: 1 }), [Action::Complete(9)]);
    assert_eq!(step(&mut v, flush), [Action::Complete(9)]);
}

#[test]
fn writes_wait_while_the_backend_is_behind_and_go_on_after() {
    let mut v = empty();
    for (id, sco) in [(1, 1), (2, 2)] {
        step(&mut v, write(id, 0, 4));
        step(&mut v, Message::Opened { sco });
        step(&mut v, Message::Appended);
    }
    assert_eq!(step(&mut v, write(3, 8, 4)), []);
    assert_eq!(v.stall(), Some(Stall::BackendBehind));
    assert_eq!(v.fill(), 1024);
    assert_eq!(step(&mut v, Message::Synced { through: 2 }), [Action::Upload(1)]);
    let after = step(&mut v, Message::Uploaded { sco: 1 });
    assert!(after.contains(&Action::Open(3)), "{after:?}");
    assert_eq!(v.stall(), None);
}
