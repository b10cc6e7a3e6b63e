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
        deletes: 2,
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

/// A volume that has five objects which nothing refers to, just after a checkpoint said so.
fn with_dead_objects() -> (Volume, Vec<Action>) {
    let dead = Sco {
        stage: Stage::Evicted,
        clusters: 4,
        room: 4,
        live: 0,
        last_sequence: 0,
        unsyncable: false,
        stuck: false,
    };
    let recovered = Recovered {
        own_log: 0,
        map: Map::new(),
        snapshots: vec![],
        scos: (1..=5).map(|number| (number, dead)).collect(),
        sequence: 9,
        durable: 9,
        next_sco: 6,
        checkpoint_position: 5,
    };
    let mut v = Volume::new(limits(), recovered);
    assert_eq!(step(&mut v, Message::Drain), [Action::Checkpoint]);
    let mut after = step(&mut v, Message::CheckpointStored { referenced: BTreeMap::new() });
    after.retain(|action| *action != Action::Drained);
    (v, after)
}

#[test]
fn objects_are_deleted_few_at_a_time() {
    let (mut v, asked) = with_dead_objects();
    assert_eq!(asked, [Action::Delete(1), Action::Delete(2)]);
    // Nobody asks for them once more because something else has failed.
    assert_eq!(step(&mut v, Message::Retry), []);
    let orders = [(2, vec![3]), (1, vec![4]), (3, vec![5]), (5, vec![]), (4, vec![])];
    for (sco, next) in orders {
        let next: Vec<Action> = next.into_iter().map(Action::Delete).collect();
        assert_eq!(step(&mut v, Message::Deleted { sco }), next);
    }
    assert!(v.scos().is_empty());
}

#[test]
fn what_cannot_be_deleted_is_tried_again_last_and_ever_less_often() {
    let (mut v, _) = with_dead_objects();
    let retry = |doublings| Action::RetryDeletes { doublings };
    assert_eq!(step(&mut v, Message::DeleteFailed { sco: 1 }), [retry(0)]);
    assert_eq!(step(&mut v, Message::DeleteFailed { sco: 2 }), []);
    for pause in 1..12 {
        let asked = step(&mut v, Message::RetryDeletes);
        let [Action::Delete(first), Action::Delete(second)] = asked[..] else {
            panic!("{asked:?}");
        };
        if pause == 1 {
            assert_eq!((first, second), (3, 4), "those that were never tried come first");
        }
        assert_eq!(step(&mut v, Message::DeleteFailed { sco: first }), [retry(pause.min(8))]);
        assert_eq!(step(&mut v, Message::DeleteFailed { sco: second }), []);
    }
    // All are there still, and one success makes the next pause short.
    assert_eq!(v.scos().len(), 5);
    let asked = step(&mut v, Message::RetryDeletes);
    let [Action::Delete(first), Action::Delete(second)] = asked[..] else { panic!("{asked:?}") };
    assert_eq!(step(&mut v, Message::Deleted { sco: first }).len(), 1);
    assert_eq!(step(&mut v, Message::DeleteFailed { sco: second }), [retry(0)]);
}

fn trim(id: OpId, lba: u64) -> Message {
    Message::Submit(Op { id, verb: Verb::Trim { lba, clusters: 1, fua: false } })
}

#[test]
fn trims_one_by_one_fill_a_sco_with_header_pages() {
    let mut v = empty();
    step(&mut v, trim(1, 0));
    step(&mut v, Message::Opened { sco: 1 });
    step(&mut v, Message::Appended);
    step(&mut v, trim(2, 0));
    assert_eq!((v.scos()[&1].room, v.fill()), (1, 128));
    step(&mut v, Message::Appended);
    step(&mut v, Message::Opened { sco: 2 });
    assert_eq!(step(&mut v, trim(3, 0)), [Action::Append]);
    step(&mut v, Message::Appended);
    step(&mut v, trim(4, 0));
    assert!(v.batch().unwrap().closes);
    let after = step(&mut v, Message::Appended);
    assert_eq!(after, [Action::Complete(4), Action::Sync { after: 0, through: 4 }]);
    assert_eq!((v.scos()[&1].clusters, v.fill()), (0, 512));
    // The next one begins with nothing.
    step(&mut v, trim(5, 0));
    assert!(!v.batch().unwrap().closes);
}

#[test]
fn many_trims_fill_a_sco_with_slots() {
    let large = Limits { sco_clusters: 1 << 14, buffer_scos: 4, ..limits() };
    let mut v = Volume { limits: large, ..empty() };
    let (mut id, mut slots) = (0, 0);
    while v.scos().get(&1).is_none_or(|sco| sco.stage == Stage::Open) {
        assert!(slots < 1 << 17, "{slots} slots in one SCO");
        let mut out = vec![];
        for _ in 0..400 {
            id += 1;
            v.step(trim(id, u64::from(id)), &mut out);
        }
        v.step(Message::Turn, &mut out);
        while let Some(action) = out.pop() {
            let message = match action {
                Action::Open(sco) => Message::Opened { sco },
                Action::Append => {
                    slots += v.batch().unwrap().entries.len();
                    Message::Appended
                }
                _ => continue,
            };
            v.step(message, &mut out);
        }
    }
    assert!(slots >= 1 << 16, "{slots} slots");
}
