//! Closing a volume that somebody else closes, and opens again, at the same time.

use format::edge::CloseReason;

use crate::engine::Engine;
use crate::group::support::{Guest, PAGE, Place as Folder, create, open};
use crate::mailbox::Command;
use crate::shard::closed;

const A: &str = "aaaaaaaa-0000-4000-8000-000000000001";

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
