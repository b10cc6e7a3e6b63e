//! What changed between snapshots, and limits on requests, as a guest brings them about.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod support;

use engine::{Engine, Error};
use serde_json::{Value, json};
use support::{Guest, PAGE, Place, create, open, status, until};

const A: &str = "aaaaaaaa-0000-4000-8000-000000000001";
const B: &str = "bbbbbbbb-0000-4000-8000-000000000002";
const S1: &str = "cccccccc-0000-4000-8000-000000000001";
const S2: &str = "cccccccc-0000-4000-8000-000000000002";
const P: u64 = PAGE as u64;

fn diff(engine: &Engine, from: Option<&str>, to: Option<&str>) -> Value {
    serde_json::from_str(&engine.diff_snapshots(A, from, to).unwrap()).unwrap()
}

#[test]
fn changes_between_snapshots_are_listed_and_what_is_the_same_is_not() {
    let place = Place::new("diff");
    let engine = place.engine();
    create(&engine, A, None).unwrap();
    open(&engine, A, None).unwrap();
    let mut guest = Guest::new(&engine, A);
    assert_eq!(diff(&engine, None, None), json!([]));
    guest.write(0, &[1; 4 * PAGE]);
    guest.write(100 * P, &[1; PAGE]);
    // Another chunk of the map.
    guest.write((300 << 20) + P, &[1; 2 * PAGE]);
    engine.create_snapshot(A, S1).unwrap();
    assert_eq!(diff(&engine, Some(S1), Some(S1)), json!([]));
    assert_eq!(diff(&engine, Some(S1), None), json!([]));
    guest.write(P, &[2; PAGE]);
    guest.write(2 * P, &[3; PAGE]);
    guest.trim(100 * P, PAGE);
    // A part of a cluster is the whole cluster.
    guest.write(200 * P + 5, &[4; 7]);
    engine.create_snapshot(A, S2).unwrap();
    guest.write(500 << 20, &[5; PAGE]);
    let changed = json!([[P, 2 * P], [100 * P, P], [200 * P, P]]);
    assert_eq!(diff(&engine, Some(S1), Some(S2)), changed);
    assert_eq!(diff(&engine, Some(S2), Some(S1)), changed);
    assert_eq!(diff(&engine, Some(S2), None), json!([[500 << 20, P]]));
    let third = (300 << 20) + P;
    let allocated = json!([[0, 4 * P], [200 * P, P], [third, 2 * P]]);
    assert_eq!(diff(&engine, None, Some(S2)), allocated);
    // The same after the volume was opened again: from checkpoint, objects and write buffer.
    engine.close_volume(A, None).unwrap();
    open(&engine, A, None).unwrap();
    assert_eq!(diff(&engine, Some(S1), Some(S2)), changed);
    assert_eq!(diff(&engine, None, Some(S2)), allocated);
    assert_eq!(engine.diff_snapshots(A, Some(B), None).unwrap_err().code, "NO_SNAPSHOT");
    assert_eq!(engine.diff_snapshots(B, None, None).unwrap_err().code, "NOT_OPEN");
    engine.shutdown(false).unwrap();
}

#[test]
fn a_limited_write_waits_while_reads_pass_and_goes_on_without_the_limit() {
    let place = Place::new("qos");
    let engine = place.engine();
    create(&engine, A, None).unwrap();
    open(&engine, A, None).unwrap();
    let mut guest = Guest::new(&engine, A);
    assert_eq!(status(&engine, A)["qos"], Value::Null);
    // After the first write, more than an hour's worth is owed.
    engine.set_qos(A, r#"{"write_bytes_s": 1, "burst_s": 0}"#).unwrap();
    guest.write(0, &[1; PAGE]);
    let second = guest.begin_write(P, &[2; PAGE]);
    let third = guest.begin_write(2 * P, &[3; PAGE]);
    let said = until(&engine, A, |status| status["requests_waiting"] == 2);
    assert_eq!(said["throttled_by"], json!(["write_bytes_s"]));
    assert_eq!(
        (&said["qos"]["write_bytes_s"], &said["qos"]["read_iops"]),
        (&json!(1), &Value::Null)
    );
    assert_eq!(guest.read(0, 2 * PAGE), [[1; PAGE], [0; PAGE]].concat(), "reads pass");
    engine.set_qos(A, "{}").unwrap();
    assert_eq!([guest.answer(), guest.answer()], [second, third]);
    let said = until(&engine, A, |status| status["requests_waiting"] == 0);
    assert_eq!((&said["qos"], &said["throttled_by"]), (&Value::Null, &json!([])));
    assert_eq!(said["requests_delayed"], 2);
    assert_eq!(guest.read(P, 2 * PAGE), [[2; PAGE], [3; PAGE]].concat());
    engine.shutdown(false).unwrap();
}

#[test]
fn limits_come_with_opening_and_a_volume_with_waiting_requests_can_be_closed() {
    let place = Place::new("qos-open");
    let engine = place.engine();
    create(&engine, A, None).unwrap();
    let mut spec = json!({
        "uuid": A, "size": support::SIZE, "epoch": 1, "ancestors": [A],
        "qos": {"read_bytes_s": 1, "total_iops": null},
    });
    engine.open_volume(&spec.to_string()).unwrap();
    let mut guest = Guest::new(&engine, A);
    guest.write(0, &[1; PAGE]);
    guest.read(0, PAGE);
    guest.begin_read(0, PAGE);
    until(&engine, A, |status| status["throttled_by"] == json!(["read_bytes_s"]));
    engine.close_volume(A, None).unwrap();
    spec["qos"] = json!({"total_iops": 0});
    let error = engine.open_volume(&spec.to_string()).unwrap_err();
    assert!(error.code == "BAD_QOS" && error.why.contains("total_iops"), "{error}");
    spec["qos"] = json!({"total_iops": 1.5e3, "read_iops": 0.2});
    engine.open_volume(&spec.to_string()).unwrap();
    let qos = &status(&engine, A)["qos"];
    assert_eq!((&qos["total_iops"], &qos["read_iops"]), (&json!(1500), &json!(1)));
    engine.close_volume(A, None).unwrap();
    spec["qos"] = Value::Null;
    engine.open_volume(&spec.to_string()).unwrap();
    assert_eq!(engine.set_qos(A, r#"{"burst_s": -1}"#).unwrap_err().code, "BAD_QOS");
    assert_eq!(engine.set_qos(A, r#"{"iops": 5}"#).unwrap_err().code, "BAD_REQUEST");
    assert_eq!(engine.set_qos(B, "{}").unwrap_err().code, "NOT_OPEN");
    engine.shutdown(false).unwrap();
}

#[test]
fn status_tells_the_room_on_the_backend() {
    let place = Place::new("space");
    let engine = place.engine();
    let status: Value = serde_json::from_str(&engine.status().unwrap()).unwrap();
    let bytes = |key: &str| status[key].as_u64().unwrap();
    assert!(bytes("backend_free_bytes") > 0);
    assert!(bytes("backend_free_bytes") <= bytes("backend_total_bytes"));
    engine.shutdown(false).unwrap();
}

/// Deletions on the backend are not synced one by one: a power loss may take some back, also when
/// the last checkpoint no longer lists the object.
#[test]
fn objects_that_a_power_loss_brings_back_are_deleted_again() {
    let place = Place::new("returned");
    let engine = place.engine();
    create(&engine, A, None).unwrap();
    open(&engine, A, None).unwrap();
    let fill = |byte: u8| {
        let mut guest = Guest::new(&engine, A);
        for at in 0..12 {
            guest.write(at * (256 << 10), &[byte; 256 << 10]);
        }
        drop(guest);
        engine.close_volume(A, None).unwrap();
    };
    let folder = place.root.join("backend").join(A).join("sco");
    let objects = || {
        let entries = std::fs::read_dir(&folder).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    fill(1);
    let aside = place.root.join("aside");
    std::fs::create_dir(&aside).unwrap();
    let first = objects();
    for name in &first {
        std::fs::hard_link(folder.join(name), aside.join(name)).unwrap();
    }
    // The second filling makes all of that garbage, the third one forgets that it ever was.
    for byte in [2, 3] {
        open(&engine, A, None).unwrap();
        fill(byte);
    }
    // Closing waits for no deletions: what is left goes with the next checkpoint.
    let are_gone = |_: &Value| first.iter().all(|name| !objects().contains(name));
    open(&engine, A, None).unwrap();
    engine.settle_volume(A).unwrap();
    until(&engine, A, are_gone);
    fill(3);
    for name in &first {
        std::fs::rename(aside.join(name), folder.join(name)).unwrap();
    }
    open(&engine, A, None).unwrap();
    assert_eq!(Guest::new(&engine, A).read(0, 3 << 20), vec![3; 3 << 20]);
    engine.close_volume(A, None).unwrap();
    open(&engine, A, None).unwrap();
    engine.settle_volume(A).unwrap();
    until(&engine, A, are_gone);
    assert_eq!(Guest::new(&engine, A).read(0, 3 << 20), vec![3; 3 << 20]);
    engine.shutdown(false).unwrap();
}
