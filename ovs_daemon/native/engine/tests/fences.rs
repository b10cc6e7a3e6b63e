//! A DTL node from which many read that read slowly: whoever takes over another volume is answered
//! all the same.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use engine::{Engine, Error};
use format::dtl::{FRAME, Frame, Greeted, Hello, Role, VERSION};
use format::entry::Uuid;
use serde_json::{Value, json};
use support::{Guest, Place, SIZE, until};

/// Volumes whose tails nobody reads to their end: each of them keeps a thread for half a minute.
const READ_SLOWLY: u8 = 12;
/// More than sockets take of a tail.
const TAIL_MB: u64 = 6;

struct Node {
    engine: Engine,
    address: String,
}

fn node(place: &Place, name: &str) -> Node {
    let (mut config, root) = (place.config(), place.root.join(name));
    config["buffer_dir"] = json!(root.join("buffer"));
    config["run_dir"] = json!(root.join("run"));
    config["dtl_dir"] = json!(root.join("dtl"));
    config["dtl_listen"] = json!("127.0.0.1:0");
    config["sco_size"] = json!(64 << 20);
    config["shards"] = json!(2);
    let engine = Engine::new(&config.to_string()).unwrap();
    let status: Value = serde_json::from_str(&engine.status().unwrap()).unwrap();
    let address = status["dtl_server"]["address"].as_str().unwrap().to_owned();
    Node { engine, address }
}

fn uuid(number: u8) -> Uuid {
    [0xdd, 0xdd, 0xdd, 0xdd, 0, 0, 0x40, 0, 0x80, 0, 0, 0, 0, 0, 1, number]
}

fn text(number: u8) -> String {
    format!("dddddddd-0000-4000-8000-0000000001{number:02x}")
}

/// A volume of which the DTL node has so much.
fn fill(owner: &Node, keeper: &Node, number: u8, megabytes: u64) {
    let (engine, volume) = (&owner.engine, text(number));
    let spec = json!({"uuid": volume, "size": SIZE, "epoch": 0});
    engine.create_volume(&spec.to_string()).unwrap();
    let dtl = json!({
        "mode": "sync", "state": "degraded", "node": "keeper", "address": keeper.address,
    });
    let spec = json!({
        "uuid": volume, "size": SIZE, "epoch": 1, "ancestors": [volume], "dtl": dtl,
    });
    engine.open_volume(&spec.to_string()).unwrap();
    let event = engine.next_event(60.0).expect("in_sync is proposed");
    let event: Value = serde_json::from_str(&event).unwrap();
    assert_eq!((&event["uuid"], &event["to"]), (&json!(volume), &json!("in_sync")));
    engine.answer_event(event["id"].as_u64().unwrap(), true);
    until(engine, &volume, |status| status["dtl"]["state"] == "in_sync");
    let mut guest = Guest::new(engine, &volume);
    (0..megabytes).for_each(|at| guest.write(at << 20, &vec![number; 1 << 20]));
}

/// Somebody who is to take over from the first owner, and what he hears.
fn succeed(keeper: &Node, cluster: Uuid, number: u8) -> (TcpStream, Greeted) {
    let (role, epoch) = (Role::Successor, 2);
    let volume = uuid(number);
    let hello = Hello { version: VERSION, role, volume, cluster, epoch, generation: 0 };
    let mut stream = TcpStream::connect(&keeper.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(&Frame::Hello(hello).encode()).unwrap();
    let mut bytes = [0; FRAME];
    let heard = stream.read_exact(&mut bytes);
    assert!(heard.is_ok(), "volume {number} waits for its fence: {heard:?}");
    match Frame::decode(&bytes) {
        Ok(Frame::Greeted(greeted)) => (stream, greeted),
        other => panic!("it is not greeted: {other:?}"),
    }
}

#[test]
fn a_fence_waits_for_no_tail_that_is_read_slowly() -> Result<(), Error> {
    let place = Place::new("fences");
    let (owner, keeper) = (node(&place, "owner"), node(&place, "keeper"));
    (0..READ_SLOWLY).for_each(|number| fill(&owner, &keeper, number, TAIL_MB));
    fill(&owner, &keeper, READ_SLOWLY, 1);
    owner.engine.shutdown(false)?;
    let cluster = [0; 16];
    let slow = (0..READ_SLOWLY).map(|number| succeed(&keeper, cluster, number));
    let slow: Vec<_> = slow.collect();
    let (_, greeted) = succeed(&keeper, cluster, READ_SLOWLY);
    assert_eq!((greeted.fence, greeted.suspect), (2, false));
    assert!(greeted.end.is_some(), "it has what was written");
    drop(slow);
    keeper.engine.shutdown(false)
}
