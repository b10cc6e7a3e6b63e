//! Control calls: what they do, and what they say when they can't.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod support;

use std::fs;

use engine::{Engine, Error};
use serde_json::{Value, json};
use support::{Guest, PAGE, Place, create, open};

const A: &str = "aaaaaaaa-0000-4000-8000-000000000001";
const B: &str = "bbbbbbbb-0000-4000-8000-000000000002";
const SNAPSHOT: &str = "cccccccc-0000-4000-8000-000000000003";

#[test]
fn a_volume_lives_from_create_to_delete() {
    let place = Place::new("life");
    let engine = place.engine();
    create(&engine, A, None).unwrap();
    create(&engine, A, None).unwrap();
    open(&engine, A, None).unwrap();
    assert_eq!(open(&engine, A, None).unwrap_err().code, "ALREADY_OPEN");
    let socket = engine.export_nbd(A, "volume").unwrap();
    assert!(fs::metadata(&socket).is_ok());
    engine.resize_volume(A, 2 << 30).unwrap();
    let status: Value = serde_json::from_str(&engine.status().unwrap()).unwrap();
    assert_eq!(status["volumes"][0]["size"], json!(2u64 << 30));
    assert_eq!(status["findings"], json!([]));
    engine.close_volume(A, None).unwrap();
    assert!(fs::metadata(&socket).is_err(), "the socket is gone with the volume");
    assert_eq!(engine.close_volume(A, None).unwrap_err().code, "NOT_OPEN");
    engine.delete_volume(A).unwrap();
    engine.delete_volume(A).unwrap();
    assert!(!place.root.join("backend").join(A).exists());
    assert!(!place.root.join("buffer").join(A).exists());
    engine.shutdown(true).unwrap();
}

#[test]
fn what_clones_use_can_not_be_deleted() {
    let place = Place::new("clones");
    let engine = place.engine();
    create(&engine, A, None).unwrap();
    open(&engine, A, None).unwrap();
    let missing = create(&engine, B, Some((A, SNAPSHOT))).unwrap_err();
    assert_eq!(missing.code, "NO_SNAPSHOT", "{missing}");
    engine.create_snapshot(A, SNAPSHOT).unwrap();
    engine.create_snapshot(A, SNAPSHOT).unwrap();
    create(&engine, B, Some((A, SNAPSHOT))).unwrap();
    open(&engine, B, Some((A, SNAPSHOT))).unwrap();
    assert_eq!(engine.delete_snapshot(A, SNAPSHOT).unwrap_err().code, "HAS_CLONES");
    let refused = engine.delete_volume(A).unwrap_err();
    assert!(refused.code == "HAS_CLONES" && refused.why.contains(B), "{refused}");
    engine.shutdown(false).unwrap();
    drop(engine);

    // The mark of the clone is on the backend: another process knows it too.
    let engine = place.engine();
    assert_eq!(engine.delete_volume(A).unwrap_err().code, "HAS_CLONES");
    assert_eq!(open(&engine, B, Some((A, SNAPSHOT))).unwrap_err().code, "NOT_OPEN");
    open(&engine, A, None).unwrap();
    open(&engine, B, Some((A, SNAPSHOT))).unwrap();
    engine.revert_volume(A, SNAPSHOT).unwrap();
    engine.delete_volume(B).unwrap();
    engine.delete_snapshot(A, SNAPSHOT).unwrap();
    engine.delete_volume(A).unwrap();
    engine.shutdown(true).unwrap();
}

/// The registry was put back to an older state, say.
#[test]
fn a_snapshot_that_a_clone_uses_stays_even_if_the_registry_does_not_know_it() {
    const OTHER: &str = "dddddddd-0000-4000-8000-000000000004";
    let place = Place::new("unlisted");
    let engine = place.engine();
    create(&engine, A, None).unwrap();
    open(&engine, A, None).unwrap();
    engine.create_snapshot(A, SNAPSHOT).unwrap();
    engine.create_snapshot(A, OTHER).unwrap();
    create(&engine, B, Some((A, SNAPSHOT))).unwrap();
    engine.close_volume(A, None).unwrap();
    let spec = json!({
        "uuid": A, "size": 1u64 << 30, "epoch": 2, "ancestors": [A], "parent": null, "snapshots": [],
    });
    engine.open_volume(&spec.to_string()).unwrap();
    open(&engine, B, Some((A, SNAPSHOT))).unwrap();
    assert_eq!(engine.diff_snapshots(A, None, Some(OTHER)).unwrap_err().code, "NO_SNAPSHOT");
    engine.shutdown(true).unwrap();
}

/// Somebody had this node go on with a volume by force, and its former owner came to life again in
/// the middle of an upload.
#[test]
fn what_was_acknowledged_here_does_not_give_way_to_what_a_former_owner_stores_late() {
    let (former, here) = (Place::new("former"), Place::new("here"));
    let open_in = |place: &Place, epoch: u64| {
        let engine = place.engine();
        create(&engine, A, None).unwrap();
        let spec = json!({"uuid": A, "size": 1u64 << 30, "epoch": epoch, "ancestors": [A]});
        let opened = engine.open_volume(&spec.to_string());
        (engine, opened)
    };
    let (engine, _) = open_in(&former, 1);
    Guest::new(&engine, A).write(0, &[1; PAGE]);
    engine.shutdown(true).unwrap();
    let (engine, _) = open_in(&here, 2);
    Guest::new(&engine, A).write(0, &[2; PAGE]);
    engine.shutdown(false).unwrap();
    drop(engine);

    let scos = |place: &Place| place.root.join("backend").join(A).join("sco");
    fs::create_dir_all(scos(&here)).unwrap();
    let object = fs::read_dir(scos(&former)).unwrap().next().unwrap().unwrap();
    let late = scos(&here).join(object.file_name());
    fs::copy(object.path(), &late).unwrap();
    let (engine, opened) = open_in(&here, 3);
    let error = opened.unwrap_err().to_string();
    assert!(error.contains("a former owner stored that"), "{error}");
    engine.shutdown(false).unwrap();
    drop(engine);

    fs::remove_file(late).unwrap();
    let (engine, _) = open_in(&here, 3);
    assert_eq!(Guest::new(&engine, A).read(0, PAGE), [2; PAGE]);
    engine.shutdown(true).unwrap();
}

#[test]
fn bad_input_is_refused_with_what_why_and_fix() {
    let place = Place::new("refusals");
    let engine = place.engine();
    let size = |size: u64| {
        let spec = json!({"uuid": A, "size": size, "epoch": 0});
        engine.create_volume(&spec.to_string()).unwrap_err()
    };
    for error in [size(0), size(4097), size(1 << 50)] {
        assert_eq!(error.code, "BAD_SIZE");
        assert!(error.what.contains(A) && !error.fix.is_empty(), "{error}");
    }
    assert_eq!(create(&engine, "not-a-uuid", None).unwrap_err().code, "BAD_REQUEST");
    assert_eq!(engine.create_volume("{").unwrap_err().code, "BAD_REQUEST");
    for error in [
        engine.export_nbd(A, "x").unwrap_err(),
        engine.create_snapshot(A, SNAPSHOT).unwrap_err(),
        engine.resize_volume(A, 4096).unwrap_err(),
        engine.revert_volume(A, SNAPSHOT).unwrap_err(),
    ] {
        assert!(error.code == "NOT_OPEN" && error.why.contains(A), "{error}");
    }
    engine.shutdown(true).unwrap();
}

fn refused(config: &Value) -> Error {
    match Engine::new(&config.to_string()) {
        Ok(_) => panic!("the engine started"),
        Err(error) => error,
    }
}

#[test]
fn an_engine_does_not_start_where_it_could_do_harm() {
    let place = Place::new("start");
    let engine = place.engine();
    let second = refused(&place.config());
    assert_eq!(second.code, "BUFFER_IN_USE", "{second}");
    engine.shutdown(false).unwrap();
    drop(engine);
    let mut config = place.config();
    config["backend_dir"] = json!("/proc/nowhere");
    let error = refused(&config);
    assert!(error.code == "BACKEND" && error.why.contains("/proc/nowhere"), "{error}");
    let mut config = place.config();
    config["buffer_dir"] = json!("/proc/nowhere");
    assert!(refused(&config).why.contains("/proc/nowhere"));
}

/// Also a call that was sent while the engine was going down must not wait for ever.
#[test]
fn calls_after_a_shutdown_say_so() {
    let place = Place::new("stopped");
    let engine = place.engine();
    create(&engine, A, None).unwrap();
    open(&engine, A, None).unwrap();
    let late = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            loop {
                if let Err(error) = engine.status() {
                    return error;
                }
            }
        });
        engine.shutdown(false).unwrap();
        asking.join().unwrap()
    });
    assert!(["STOPPED", "CLOSED"].contains(&late.code), "{late}");
    for error in [
        engine.status().unwrap_err(),
        engine.close_volume(A, None).unwrap_err(),
        engine.create_snapshot(A, SNAPSHOT).unwrap_err(),
        open(&engine, B, None).unwrap_err(),
        engine.delete_volume(A).unwrap_err(),
    ] {
        assert!(error.code == "STOPPED" && error.why.contains("shut down"), "{error}");
    }
    engine.shutdown(true).unwrap_err();
}

#[test]
fn a_clone_waits_for_what_only_its_parents_write_buffer_has() {
    let place = Place::new("unsaved");
    let engine = place.engine();
    create(&engine, A, None).unwrap();
    open(&engine, A, None).unwrap();
    // The backend takes nothing of the parent.
    let sco = place.root.join("backend").join(A).join("sco");
    fs::create_dir_all(sco.parent().unwrap()).unwrap();
    fs::write(&sco, b"in the way").unwrap();
    Guest::new(&engine, A).write(0, &[1; PAGE]);
    engine.create_snapshot(A, SNAPSHOT).unwrap();
    create(&engine, B, Some((A, SNAPSHOT))).unwrap();
    open(&engine, B, Some((A, SNAPSHOT))).unwrap();
    Guest::new(&engine, B).write(8192, &[2; PAGE]);
    engine.close_volume(B, None).unwrap();
    engine.shutdown(false).unwrap();
    drop(engine);
    fs::remove_file(&sco).unwrap();

    // The clone has a checkpoint of its own and needs its parent's map no more.
    let engine = place.engine();
    let refused = open(&engine, B, Some((A, SNAPSHOT))).unwrap_err();
    assert!(refused.code == "NOT_OPEN" && refused.why.contains(A), "{refused}");
    open(&engine, A, None).unwrap();
    open(&engine, B, Some((A, SNAPSHOT))).unwrap();
    assert_eq!(Guest::new(&engine, B).read(0, PAGE), [1; PAGE]);
    engine.shutdown(true).unwrap();
    drop(engine);

    let engine = place.engine();
    open(&engine, B, Some((A, SNAPSHOT))).unwrap();
    assert_eq!(Guest::new(&engine, B).read(0, PAGE), [1; PAGE]);
    engine.shutdown(true).unwrap();
}
