//! Closing and opening a volume while something else happens to it.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use format::edge::CloseReason;
use volume::{Following, OpenSpec, Tuning, Volume};

use crate::engine::Engine;
use crate::group::support::{Guest, PAGE, Place as Folder, SIZE, create, open};
use crate::mailbox::Command;
use crate::shard::{CLASS_VOLUME, closed};

const A: &str = "aaaaaaaa-0000-4000-8000-000000000001";
const SNAPSHOT: &str = "cccccccc-0000-4000-8000-000000000003";

fn remove(engine: &Engine, place: crate::places::Place) {
    let uuid = crate::spec::uuid(A).unwrap();
    let volume = place.volume;
    let farewell = closed(CloseReason::Stopping, "closed twice");
    let removed =
        engine.ask(place.shard, |reply| Command::Remove { volume, uuid, farewell, reply });
    removed.unwrap();
}

#[test]
fn a_close_that_comes_late_takes_no_volume_away_that_is_open_again() {
    let folder = Folder::new("late-close");
    // On two shards it has the same number on each.
    let engine = folder.engine_with(2);
    create(&engine, A, None).unwrap();
    for _ in 0..2 {
        open(&engine, A, None).unwrap();
        let (_, old) = engine.place(String::new(), A).unwrap();
        engine.close_volume(A, None).unwrap();
        open(&engine, A, None).unwrap();
        let (_, new) = engine.place(String::new(), A).unwrap();
        assert_ne!((old.shard, old.volume), (new.shard, new.volume));
        remove(&engine, old);
        assert_eq!(engine.place(String::new(), A).unwrap().1, new);
        Guest::new(&engine, A).write(0, &[1; PAGE]);
        engine.close_volume(A, None).unwrap();
        assert!(engine.place(String::new(), A).is_err());
    }
    engine.shutdown(true).unwrap();
}

/// What a call answers, which must not wait for ever.
fn answer<T: Send + 'static>(engine: &Arc<Engine>, call: fn(&Engine) -> T) -> T {
    let (tell, hear) = sync_channel(1);
    let engine = engine.clone();
    std::thread::spawn(move || tell.send(call(&engine)));
    hear.recv_timeout(Duration::from_secs(60)).expect("a call waits for a volume that is stopped")
}

fn stopped_by_the_lease(engine: &Engine) {
    let event = engine.next_event(60.0).expect("a volume goes on without a lease");
    assert!(event.contains(r#""kind":"fenced""#) && event.contains(r#""why":"lease""#), "{event}");
}

#[test]
fn nobody_waits_for_a_volume_that_was_stopped() {
    let folder = Folder::new("asked-late");
    let engine = Arc::new(folder.engine());
    create(&engine, A, None).unwrap();
    open(&engine, A, None).unwrap();
    engine.extend_lease(0, 0);
    stopped_by_the_lease(&engine);
    let refused = answer(&engine, |engine| engine.create_snapshot(A, SNAPSHOT));
    assert_eq!(refused.unwrap_err().code, "CLOSED");
    let refused = answer(&engine, |engine| engine.settle_volume(A));
    assert_eq!(refused.unwrap_err().code, "CLOSED");
    let saved = answer(&engine, |engine| engine.close_volume(A, None)).unwrap();
    assert!(!saved, "it was stopped before");
    engine.shutdown(true).unwrap();
}

/// What `open_volume` does once the log is read.
fn added_late(folder: &Folder, engine: &Engine, term: u64) {
    let id = crate::spec::uuid(A).unwrap();
    let backend = alba::Directory::open(&folder.root.join("backend")).unwrap();
    let shared = Arc::default();
    let spec = OpenSpec {
        ancestors: vec![id],
        epoch: 1,
        base: None,
        buffer_dir: engine.config.buffer_dir.clone(),
        limits: engine.config.limits(None),
        warm: None,
    };
    let opened = volume::open(spec, &backend, &shared).unwrap();
    let tuning = Tuning { buffer_reserve: 0, compaction_bytes_per_s: 0 };
    let make = Box::new(move |number| {
        Volume::new(opened, number, CLASS_VOLUME, SIZE, false, shared, tuning)
    });
    let following = Following { cluster: id, base: None, followers: Vec::new() };
    let (uuid, epoch, pair) = (id, 1, None);
    let added =
        |reply| Command::Add { uuid, epoch, term, generation: 0, make, pair, following, reply };
    engine.ask(0, added).unwrap();
}

#[test]
fn a_volume_is_stopped_whose_lease_ended_while_its_log_was_read() {
    let folder = Folder::new("read-late");
    let engine = folder.engine();
    create(&engine, A, None).unwrap();
    engine.extend_lease(0, 0);
    added_late(&folder, &engine, 0);
    stopped_by_the_lease(&engine);
    engine.shutdown(true).unwrap();
}

#[test]
fn a_lease_ends_when_it_was_granted_to_however_late_that_is_heard() {
    let folder = Folder::new("heard-late");
    let engine = folder.engine();
    create(&engine, A, None).unwrap();
    open(&engine, A, None).unwrap();
    // What was granted is over before the engine hears of it.
    engine.extend_lease(net::clock::boottime_ns() - 1, 0);
    stopped_by_the_lease(&engine);
    engine.shutdown(true).unwrap();
}

#[test]
fn what_was_opened_before_the_lease_was_over_stops_although_it_holds_again() {
    let folder = Folder::new("other-term");
    let engine = folder.engine();
    create(&engine, A, None).unwrap();
    open(&engine, A, None).unwrap();
    let far = net::clock::boottime_ns() + 3_600_000_000_000;
    engine.extend_lease(far, 0);
    Guest::new(&engine, A).write(0, &[1; PAGE]);
    // Nobody has looked at the clock while it was over.
    engine.extend_lease(far + 1, 1);
    stopped_by_the_lease(&engine);
    engine.close_volume(A, None).unwrap();
    // A record that was read before says nothing any more.
    let refused =
        engine.open_volume(&format!(r#"{{"uuid":"{A}","size":{SIZE},"epoch":2,"term":0}}"#));
    assert_eq!(refused.unwrap_err().code, "LEASE");
    let spec = format!(r#"{{"uuid":"{A}","size":{SIZE},"epoch":2,"term":1}}"#);
    engine.open_volume(&spec).unwrap();
    assert_eq!(Guest::new(&engine, A).read(0, PAGE), [1; PAGE]);
    engine.shutdown(true).unwrap();
}

#[test]
fn a_volume_is_stopped_that_was_opened_across_the_end_of_a_lease() {
    let folder = Folder::new("read-across");
    let engine = folder.engine();
    create(&engine, A, None).unwrap();
    engine.extend_lease(u64::MAX - 1, 1);
    added_late(&folder, &engine, 0);
    stopped_by_the_lease(&engine);
    engine.shutdown(true).unwrap();
}

#[test]
fn what_takes_long_with_one_volume_holds_up_no_other() {
    let folder = Folder::new("others-go-on");
    let engine = Arc::new(folder.engine());
    create(&engine, A, None).unwrap();
    // As in a deletion, whose backend is slow.
    let id = crate::spec::uuid("bbbbbbbb-0000-4000-8000-000000000002").unwrap();
    let deleting = engine.claims.changing(vec![id]);
    answer(&engine, |engine| open(engine, A, None)).unwrap();
    // As in an opening, whose keeper is slow.
    let opening = engine.claims.opening([9; 16]).unwrap();
    answer(&engine, |engine| engine.delete_volume(A)).unwrap();
    drop((deleting, opening));
    engine.shutdown(true).unwrap();
}

#[test]
fn guests_of_a_volume_that_is_moved_do_not_wait_for_a_backend_that_is_away() {
    let folder = Folder::new("move-backend-away");
    let engine = Arc::new(folder.engine());
    create(&engine, A, None).unwrap();
    open(&engine, A, None).unwrap();
    let sco = folder.root.join("backend").join(A).join("sco");
    std::fs::create_dir_all(sco.parent().unwrap()).unwrap();
    std::fs::write(&sco, b"in the way").unwrap();
    Guest::new(&engine, A).write(0, &[1; PAGE]);
    let saved = answer(&engine, |engine| {
        engine.close_within(A, Some("127.0.0.1:9"), Some(Duration::from_millis(100)))
    });
    assert!(!saved.unwrap(), "the write buffer has it alone");
    // Opened again it has everything, and the backend takes it when it is back.
    std::fs::remove_file(&sco).unwrap();
    open(&engine, A, None).unwrap();
    assert_eq!(Guest::new(&engine, A).read(0, PAGE), [1; PAGE]);
    assert!(answer(&engine, |engine| engine.close_volume(A, None)).unwrap());
    engine.shutdown(true).unwrap();
}

#[test]
fn a_move_does_not_wait_for_a_backend_that_is_away() {
    let folder = Folder::new("settle-backend-away");
    let engine = Arc::new(folder.engine());
    create(&engine, A, None).unwrap();
    open(&engine, A, None).unwrap();
    let sco = folder.root.join("backend").join(A).join("sco");
    std::fs::create_dir_all(sco.parent().unwrap()).unwrap();
    std::fs::write(&sco, b"in the way").unwrap();
    let mut guest = Guest::new(&engine, A);
    guest.write(0, &[1; PAGE]);
    let settled = answer(&engine, |engine| engine.settle_within(A, Duration::from_millis(100)));
    let refused = settled.unwrap_err();
    assert_eq!(refused.code, "BACKEND");
    assert!(refused.why.contains("took nothing of it"), "{refused:?}");
    // It is served as before, and the backend takes it when it is back.
    assert_eq!(guest.read(0, PAGE), [1; PAGE]);
    guest.write(PAGE as u64, &[2; PAGE]);
    std::fs::remove_file(&sco).unwrap();
    answer(&engine, |engine| engine.settle_volume(A)).unwrap();
    assert!(answer(&engine, |engine| engine.close_volume(A, None)).unwrap());
    engine.shutdown(true).unwrap();
}
