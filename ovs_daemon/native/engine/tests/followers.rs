//! Nodes of a cluster in one process: an owner, a DTL node, nodes that follow the owner's map, and a
//! test that is the registry.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod support;

use engine::{Engine, Error};
use serde_json::{Value, json};
use support::{Guest, PAGE, Place, SIZE, until};

const V: &str = "dddddddd-0000-4000-8000-000000000002";
const SNAPSHOT: &str = "dddddddd-0000-4000-8000-0000000000a1";
const P: u64 = PAGE as u64;
/// Clusters of a SCO.
const SCO: u64 = 256;

struct Node {
    name: &'static str,
    engine: Engine,
    address: String,
}

fn node(place: &Place, name: &'static str) -> Node {
    let mut config = place.config();
    let root = place.root.join(name);
    config["buffer_dir"] = json!(root.join("buffer"));
    config["run_dir"] = json!(root.join("run"));
    config["dtl_dir"] = json!(root.join("dtl"));
    config["dtl_listen"] = json!("127.0.0.1:0");
    config["checkpoint_scos"] = json!(2);
    config["buffer_size"] = json!(8 << 20);
    let engine = Engine::new(&config.to_string()).unwrap();
    let status: Value = serde_json::from_str(&engine.status().unwrap()).unwrap();
    let address = status["dtl_server"]["address"].as_str().unwrap().to_owned();
    Node { name, engine, address }
}

impl Node {
    fn kill(self) {
        self.engine.shutdown(false).unwrap();
    }

    /// Opens the volume; returns what its map was made from.
    fn open(
        &self,
        epoch: u64,
        followers: &[&Node],
        keeper: Option<&Node>,
    ) -> Result<String, Error> {
        let dtl = keeper.map(|keeper| {
            let state = if epoch == 1 { "degraded" } else { "in_sync" };
            json!({"mode": "sync", "state": state, "node": keeper.name, "address": keeper.address})
        });
        let spec = json!({
            "uuid": V, "size": SIZE, "epoch": epoch, "ancestors": [V], "dtl": dtl,
            "followers": places(followers),
        });
        let opened: Value =
            serde_json::from_str(&self.engine.open_volume(&spec.to_string())?).unwrap();
        Ok(opened["recovered"]["map"].as_str().unwrap().to_owned())
    }

    fn create(&self, followers: &[&Node], keeper: Option<&Node>) -> Guest {
        let spec = json!({"uuid": V, "size": SIZE, "epoch": 0});
        self.engine.create_volume(&spec.to_string()).unwrap();
        assert_eq!(self.open(1, followers, keeper).unwrap(), "loaded");
        if keeper.is_some() {
            let event = self.engine.next_event(60.0).expect("its log is complete");
            let event: Value = serde_json::from_str(&event).unwrap();
            self.engine.answer_event(event["id"].as_u64().unwrap(), true);
            until(&self.engine, V, |status| status["dtl"]["state"] == "in_sync");
        }
        Guest::new(&self.engine, V)
    }

    /// Waits until all followers have everything.
    fn until_followed(&self, count: usize) {
        until(&self.engine, V, |status| {
            let followers = status["followers"].as_array().unwrap();
            let good = |f: &&Value| f["state"] == "following" && f["lag_batches"] == 0;
            followers.len() == count && followers.iter().filter(good).count() == count
        });
    }

    /// What is followed here.
    fn followed(&self) -> Vec<Value> {
        let status: Value = serde_json::from_str(&self.engine.status().unwrap()).unwrap();
        status["followed"].as_array().unwrap().clone()
    }

    fn fetch(&self, epoch: u64, keeper: &Node) {
        let request = json!({"uuid": V, "epoch": epoch, "address": keeper.address});
        self.engine.fetch_tail(&request.to_string()).unwrap();
    }
}

fn places(followers: &[&Node]) -> Value {
    followers.iter().map(|f| json!({"node": f.name, "address": f.address})).collect()
}

fn block(number: u64) -> Vec<u8> {
    (number ^ 0x1234_5678_9abc_def0).to_le_bytes().repeat(PAGE / 8)
}

/// Writes each number into the place that belongs to it: places repeat, and are far apart.
fn write(guest: &mut Guest, numbers: std::ops::Range<u64>) {
    for number in numbers {
        guest.write(number % 700 * 300 * P, &block(number));
    }
}

/// Of the numbers below `end`, every place has its last one.
fn check(guest: &mut Guest, end: u64) {
    for number in end.saturating_sub(700)..end {
        let there = guest.read(number % 700 * 300 * P, PAGE);
        assert!(there == block(number), "number {number} is not there");
    }
}

#[test]
fn a_takeover_where_the_map_is_followed_uses_it_and_finds_everything() {
    let place = Place::new("follow-takeover");
    let (a, keeper, b) = (node(&place, "a"), node(&place, "keeper"), node(&place, "b"));
    let mut guest = a.create(&[&b], Some(&keeper));
    // Several SCOs and checkpoints, and a SCO that is not closed.
    write(&mut guest, 0..5 * SCO + 17);
    a.engine.create_snapshot(V, SNAPSHOT).unwrap();
    write(&mut guest, 5 * SCO + 17..6 * SCO);
    guest.write(P, &block(1));
    guest.trim(P, PAGE);
    write(&mut guest, 6 * SCO..1700);
    a.until_followed(1);
    let followed = b.followed();
    assert_eq!((&followed[0]["uuid"], &followed[0]["epoch"]), (&json!(V), &json!(1)));
    drop(guest);
    a.kill();
    b.fetch(2, &keeper);
    assert_eq!(b.open(2, &[], Some(&keeper)).unwrap(), "warm");
    assert_eq!(b.followed(), [] as [Value; 0], "it is followed here no more");
    let mut guest = Guest::new(&b.engine, V);
    check(&mut guest, 1700);
    assert!(guest.read(P, PAGE) == vec![0; PAGE], "what was trimmed is back");
    // What it stores has to be whole without the warm map, too.
    write(&mut guest, 1700..2400);
    drop(guest);
    b.engine.close_volume(V, None).unwrap();
    assert_eq!(b.open(3, &[], None).unwrap(), "loaded");
    let mut guest = Guest::new(&b.engine, V);
    check(&mut guest, 2400);
    b.engine.revert_volume(V, SNAPSHOT).unwrap();
    check(&mut guest, 5 * SCO + 17);
    drop(guest);
    b.kill();
    keeper.kill();
}

#[test]
fn one_that_comes_late_begins_at_the_checkpoint_and_a_hand_over_uses_its_map() {
    let place = Place::new("follow-late");
    let a = node(&place, "a");
    let mut guest = a.create(&[], None);
    // More than the write buffer keeps: the rest is on the backend only.
    write(&mut guest, 0..20 * SCO + 3);
    let (b, c) = (node(&place, "b"), node(&place, "c"));
    let spec = json!({"followers": places(&[&b, &c])}).to_string();
    a.engine.set_followers(V, &spec).unwrap();
    a.until_followed(2);
    write(&mut guest, 20 * SCO + 3..21 * SCO + 9);
    a.until_followed(2);
    let spec = json!({"followers": places(&[&c])}).to_string();
    a.engine.set_followers(V, &spec).unwrap();
    a.until_followed(1);
    drop(guest);
    a.engine.close_volume(V, None).unwrap();
    assert_eq!(c.open(2, &[&b], None).unwrap(), "warm");
    let mut guest = Guest::new(&c.engine, V);
    check(&mut guest, 21 * SCO + 9);
    write(&mut guest, 21 * SCO + 9..22 * SCO);
    c.until_followed(1);
    assert_eq!(b.followed()[0]["epoch"], 2);
    drop(guest);
    c.engine.close_volume(V, None).unwrap();
    assert_eq!(a.open(3, &[], None).unwrap(), "loaded", "it follows nothing");
    check(&mut Guest::new(&a.engine, V), 22 * SCO);
    [a, b, c].into_iter().for_each(Node::kill);
}

#[test]
fn a_map_of_another_log_is_refused_and_the_checkpoint_loaded() {
    let place = Place::new("follow-fork");
    let (a, b) = (node(&place, "a"), node(&place, "b"));
    let mut guest = a.create(&[&b], None);
    write(&mut guest, 0..700);
    guest.write(500 * 300 * P, b"on the backend, as a part");
    a.engine.create_snapshot(V, SNAPSHOT).unwrap();
    until(&a.engine, V, |status| status["scos_uploading"] == 0);
    // SCOs that only the owner's buffer has: a person gives them up.
    let held = place.root.join("backend-away");
    std::fs::rename(place.root.join("backend").join(V).join("sco"), &held).unwrap();
    std::fs::write(place.root.join("backend").join(V).join("sco"), b"in the way").unwrap();
    write(&mut guest, 700..700 + 2 * SCO);
    a.until_followed(1);
    drop(guest);
    a.kill();
    std::fs::remove_file(place.root.join("backend").join(V).join("sco")).unwrap();
    std::fs::rename(&held, place.root.join("backend").join(V).join("sco")).unwrap();
    assert_eq!(b.open(2, &[], None).unwrap(), "warm_refused");
    let mut guest = Guest::new(&b.engine, V);
    assert_eq!(guest.read(500 * 300 * P, 25), b"on the backend, as a part");
    assert!(guest.read(0, PAGE) == block(0), "what was given up is gone");
    b.kill();
}

#[test]
fn maps_that_nobody_wants_followed_here_are_forgotten() {
    let place = Place::new("follow-forget");
    let (a, b) = (node(&place, "a"), node(&place, "b"));
    let mut guest = a.create(&[&b], None);
    write(&mut guest, 0..10);
    a.until_followed(1);
    b.engine.retain_followed(&json!([V]).to_string()).unwrap();
    assert_eq!(b.followed().len(), 1);
    b.engine.retain_followed("[]").unwrap();
    // Its owner comes again, until it is told that it is not wanted there.
    write(&mut guest, 10..20);
    a.until_followed(1);
    a.engine.set_followers(V, &json!({"followers": []}).to_string()).unwrap();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !b.followed().is_empty() {
        assert!(std::time::Instant::now() < end, "it is followed for ever");
        std::thread::yield_now();
    }
    drop(guest);
    a.kill();
    b.kill();
}
