//! Nodes of a cluster in one process: owners, a DTL node, and a test that is the registry.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod support;

use std::collections::BTreeSet;
use std::fs;

use engine::{Engine, Error};
use serde_json::{Value, json};
use support::{Guest, PAGE, Place, SIZE, status, until};

const V: &str = "dddddddd-0000-4000-8000-000000000001";
const P: u64 = PAGE as u64;

/// Nodes with a common backend. Each has a write buffer of its own; each can keep tails.
struct Cluster {
    place: Place,
}

struct Node {
    name: &'static str,
    engine: Engine,
    address: String,
}

impl Cluster {
    fn new(name: &str) -> Self {
        Self { place: Place::new(name) }
    }

    fn node(&self, name: &'static str) -> Node {
        self.node_at(name, "127.0.0.1:0")
    }

    fn node_at(&self, name: &'static str, address: &str) -> Node {
        let mut config = self.place.config();
        let root = self.place.root.join(name);
        config["buffer_dir"] = json!(root.join("buffer"));
        config["run_dir"] = json!(root.join("run"));
        config["dtl_dir"] = json!(root.join("dtl"));
        config["dtl_listen"] = json!(address);
        config["shards"] = json!(2);
        let engine = Engine::new(&config.to_string()).unwrap();
        let status: Value = serde_json::from_str(&engine.status().unwrap()).unwrap();
        let address = status["dtl_server"]["address"].as_str().unwrap().to_owned();
        Node { name, engine, address }
    }

    fn folder(&self, node: &str, what: &str) -> std::path::PathBuf {
        self.place.root.join(node).join(what)
    }
}

impl Node {
    /// The process dies: nothing is uploaded or stored any more.
    fn kill(self) {
        self.engine.shutdown(false).unwrap();
    }

    fn open(&self, epoch: u64, mode: &str, state: &str, keeper: &Node) -> Result<String, Error> {
        let dtl = json!({
            "mode": mode, "state": state, "node": keeper.name, "address": keeper.address,
        });
        let spec = json!({"uuid": V, "size": SIZE, "epoch": epoch, "ancestors": [V], "dtl": dtl});
        self.engine.open_volume(&spec.to_string())
    }

    fn fetch(&self, epoch: u64, keeper: &Node, keep_local: bool) -> Result<Value, Error> {
        let request = json!({
            "uuid": V, "epoch": epoch, "address": keeper.address, "keep_local": keep_local,
        });
        let fetched = self.engine.fetch_tail(&request.to_string())?;
        Ok(serde_json::from_str(&fetched).unwrap())
    }

    /// Takes over from `in_sync`, as the daemon does after its swap.
    fn take_over(&self, epoch: u64, keeper: &Node) -> Guest {
        self.fetch(epoch, keeper, false).unwrap();
        self.open(epoch, "sync", "in_sync", keeper).unwrap();
        Guest::new(&self.engine, V)
    }

    fn event(&self) -> Value {
        let event = self.engine.next_event(60.0).expect("something has to be decided");
        serde_json::from_str(&event).unwrap()
    }

    /// The registry hears of a state, and says whether it records it.
    fn decide(&self, from: &str, to: &str, accepted: bool) {
        let event = self.event();
        assert_eq!(
            (&event["kind"], &event["from"], &event["to"]),
            (&json!("dtl_state"), &json!(from), &json!(to)),
            "{event}"
        );
        assert_eq!(event["uuid"], V);
        self.engine.answer_event(event["id"].as_u64().unwrap(), accepted);
    }

    /// A new volume whose DTL is in_sync.
    fn serve_new(&self, keeper: &Node) -> Guest {
        let spec = json!({"uuid": V, "size": SIZE, "epoch": 0});
        self.engine.create_volume(&spec.to_string()).unwrap();
        self.open(1, "sync", "degraded", keeper).unwrap();
        self.decide("degraded", "in_sync", true);
        until(&self.engine, V, |status| status["dtl"]["state"] == "in_sync");
        Guest::new(&self.engine, V)
    }
}

fn block(number: u64) -> Vec<u8> {
    (number ^ 0x5555_aaaa_5555_aaaa).to_le_bytes().repeat(PAGE / 8)
}

/// Writes blocks one after the other, each answered.
fn write_blocks(guest: &mut Guest, numbers: std::ops::Range<u64>) {
    for number in numbers {
        guest.write(number * P, &block(number));
    }
}

fn check_blocks(guest: &mut Guest, numbers: std::ops::Range<u64>) {
    for number in numbers {
        assert_eq!(guest.read(number * P, PAGE), block(number), "block {number}");
    }
}

#[test]
fn every_acknowledged_write_survives_the_loss_of_the_owner_and_its_disk() {
    let cluster = Cluster::new("dtl-loss");
    let (a, keeper) = (cluster.node("a"), cluster.node("keeper"));
    let mut guest = a.serve_new(&keeper);
    // More than two SCOs of 1 MiB: some of it is on the backend, and dropped by the DTL node.
    write_blocks(&mut guest, 0..700);
    guest.write(1000 * P + 5, b"a part of a cluster");
    let said = status(&a.engine, V);
    assert_eq!(said["dtl"]["lag_batches"], 0, "{said}");
    drop(guest);
    a.kill();
    fs::remove_dir_all(cluster.folder("a", "buffer")).unwrap();
    let b = cluster.node("b");
    let mut guest = b.take_over(2, &keeper);
    check_blocks(&mut guest, 0..700);
    assert_eq!(guest.read(1000 * P + 5, 19), b"a part of a cluster");
    // It goes on at once, in_sync: no swap is needed.
    write_blocks(&mut guest, 700..720);
    assert_eq!(status(&b.engine, V)["dtl"]["state"], "in_sync");
    drop(guest);
    b.kill();
    let c = cluster.node("c");
    check_blocks(&mut c.take_over(3, &keeper), 0..720);
    c.kill();
    keeper.kill();
}

#[test]
fn what_is_on_the_backend_is_dropped_and_the_rest_outlives_the_dtl_nodes_restart() {
    let cluster = Cluster::new("dtl-restart");
    let (a, keeper) = (cluster.node("a"), cluster.node("keeper"));
    let mut guest = a.serve_new(&keeper);
    write_blocks(&mut guest, 0..600);
    until(&a.engine, V, |status| status["scos_uploading"] == 0);
    let folder = cluster.folder("keeper", "dtl").join(V);
    let scos = || {
        let names = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name());
        let mut names: Vec<String> = names.map(|n| n.into_string().unwrap()).collect();
        // Others were SCOs of which nothing is needed any more.
        names.retain(|name| !name.starts_with("spare-") && !name.starts_with("gone-"));
        names.sort();
        names
    };
    // Trims have no answer of their own: the next write's has passed them.
    write_blocks(&mut guest, 600..601);
    assert_eq!(scos(), ["00000003.sco", "fence"]);
    drop(guest);
    a.kill();
    let address = keeper.address.clone();
    keeper.kill();
    let keeper = cluster.node_at("keeper", &address);
    let b = cluster.node("b");
    check_blocks(&mut b.take_over(2, &keeper), 0..601);
    b.kill();
    keeper.kill();
}

/// The DTL node writes later SCOs over older ones: what it hands over is the later ones, whole.
#[test]
fn files_of_the_dtl_node_that_were_used_again_hold_what_came_last() {
    let cluster = Cluster::new("dtl-again");
    let (a, keeper) = (cluster.node("a"), cluster.node("keeper"));
    let mut guest = a.serve_new(&keeper);
    let folder = cluster.folder("keeper", "dtl").join(V);
    let mut kept = BTreeSet::new();
    for round in 0..8 {
        // A SCO has 256 clusters. The last write's answer has passed the trims.
        let (first, last) = (round * 200, round * 200 + 199);
        write_blocks(&mut guest, first..last);
        until(&a.engine, V, |status| status["scos_uploading"] == 0);
        write_blocks(&mut guest, last..last + 1);
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            kept.extend(name.starts_with("spare-").then_some(name));
        }
    }
    // Two at a time are kept: those that were there before have become other SCOs.
    assert!(kept.len() > 2, "{kept:?}");
    drop(guest);
    a.kill();
    fs::remove_dir_all(cluster.folder("a", "buffer")).unwrap();
    let address = keeper.address.clone();
    keeper.kill();
    let keeper = cluster.node_at("keeper", &address);
    let b = cluster.node("b");
    let mut guest = b.take_over(2, &keeper);
    check_blocks(&mut guest, 0..1600);
    write_blocks(&mut guest, 1600..2000);
    drop(guest);
    b.kill();
    let c = cluster.node("c");
    check_blocks(&mut c.take_over(3, &keeper), 0..2000);
    c.kill();
    keeper.kill();
}

#[test]
fn a_lost_dtl_node_is_recorded_before_writes_go_on_and_catches_up_when_it_is_back() {
    let cluster = Cluster::new("dtl-degrade");
    let (a, keeper) = (cluster.node("a"), cluster.node("keeper"));
    let mut guest = a.serve_new(&keeper);
    write_blocks(&mut guest, 0..50);
    let address = keeper.address.clone();
    keeper.kill();
    // Not answered before the registry knows.
    let waiting = guest.begin_write(50 * P, &block(50));
    let event = a.event();
    assert_eq!((&event["from"], &event["to"]), (&json!("in_sync"), &json!("degraded")));
    assert_eq!(status(&a.engine, V)["dtl"]["lag_batches"], 51);
    a.engine.answer_event(event["id"].as_u64().unwrap(), true);
    assert_eq!(guest.answer(), waiting);
    write_blocks(&mut guest, 51..800);
    assert_eq!(status(&a.engine, V)["dtl"]["state"], "degraded");
    let keeper = cluster.node_at("keeper", &address);
    a.decide("degraded", "catching_up", true);
    // Writes go on meanwhile.
    write_blocks(&mut guest, 800..900);
    a.decide("catching_up", "in_sync", true);
    write_blocks(&mut guest, 900..910);
    drop(guest);
    a.kill();
    fs::remove_dir_all(cluster.folder("a", "buffer")).unwrap();
    let b = cluster.node("b");
    check_blocks(&mut b.take_over(2, &keeper), 0..910);
    b.kill();
    keeper.kill();
}

#[test]
fn an_owner_whose_swap_is_refused_answers_nobody_any_more() {
    let cluster = Cluster::new("dtl-refused");
    let (a, keeper) = (cluster.node("a"), cluster.node("keeper"));
    let mut guest = a.serve_new(&keeper);
    write_blocks(&mut guest, 0..5);
    keeper.kill();
    guest.begin_write(5 * P, &block(5));
    a.decide("in_sync", "degraded", false);
    let event = a.event();
    assert_eq!((&event["kind"], &event["why"]), (&json!("fenced"), &json!("swap_refused")));
    assert_eq!(status(&a.engine, V)["state"], "fenced");
    guest.begin_read(0, PAGE);
    a.engine.close_volume(V, None).unwrap();
    assert!(!guest.hears_something(), "a fenced volume answers");
    assert!(cluster.folder("a", "buffer").join(V).exists(), "its data is left as it is");
    a.kill();
}

#[test]
fn a_takeover_fences_the_old_owner_for_ever() {
    let cluster = Cluster::new("dtl-fence");
    let (a, b, keeper) = (cluster.node("a"), cluster.node("b"), cluster.node("keeper"));
    let mut old = a.serve_new(&keeper);
    write_blocks(&mut old, 0..10);
    let mut new = b.take_over(2, &keeper);
    let event = a.event();
    assert_eq!((&event["kind"], &event["why"]), (&json!("fenced"), &json!("newer_epoch")));
    old.begin_write(3 * P, &block(77));
    check_blocks(&mut new, 0..10);
    write_blocks(&mut new, 10..12);
    a.engine.close_volume(V, None).unwrap();
    assert!(!old.hears_something(), "two owners acknowledge writes");
    // Its epoch is refused whatever it tries.
    assert_eq!(a.fetch(1, &keeper, true).unwrap_err().code, "DTL_FENCED");
    a.open(1, "sync", "degraded", &keeper).unwrap();
    assert_eq!(a.event()["kind"], "fenced");
    check_blocks(&mut new, 0..12);
    for node in [a, b, keeper] {
        node.kill();
    }
}

#[test]
fn what_lost_power_is_not_taken_for_the_whole() {
    let cluster = Cluster::new("dtl-power");
    let (a, keeper) = (cluster.node("a"), cluster.node("keeper"));
    let mut guest = a.serve_new(&keeper);
    write_blocks(&mut guest, 0..20);
    drop(guest);
    a.kill();
    let address = keeper.address.clone();
    keeper.kill();
    fs::write(cluster.folder("keeper", "dtl").join("boot"), "another boot of the kernel").unwrap();
    let keeper = cluster.node_at("keeper", &address);
    let b = cluster.node("b");
    let error = b.fetch(2, &keeper, false).unwrap_err();
    assert!(error.code == "DTL_SUSPECT" && error.fix.contains("degraded"), "{error}");
    // Who served it last has as much and may go on; that it is whole is confirmed then.
    let a = cluster.node("a");
    assert_eq!(a.fetch(3, &keeper, true).unwrap()["source"], "local");
    a.open(3, "sync", "in_sync", &keeper).unwrap();
    let mut guest = Guest::new(&a.engine, V);
    check_blocks(&mut guest, 0..20);
    write_blocks(&mut guest, 20..21);
    drop(guest);
    a.kill();
    check_blocks(&mut b.take_over(4, &keeper), 0..21);
    b.kill();
    keeper.kill();
}

#[test]
fn leftovers_of_a_former_owner_are_removed() {
    let cluster = Cluster::new("dtl-leftovers");
    let (a, keeper) = (cluster.node("a"), cluster.node("keeper"));
    let guest = a.serve_new(&keeper);
    assert_eq!(a.engine.clear_buffer(V).unwrap_err().code, "ALREADY_OPEN");
    drop(guest);
    a.kill();
    let (a, folder) = (cluster.node("a"), cluster.folder("a", "buffer").join(V));
    assert!(folder.exists());
    a.engine.clear_buffer(V).unwrap();
    assert!(!folder.exists());
    a.engine.clear_buffer(V).unwrap();
    a.open(2, "sync", "degraded", &keeper).unwrap();
    a.kill();
    keeper.kill();
}

#[test]
fn an_asynchronous_dtl_keeps_nobody_waiting() {
    let cluster = Cluster::new("dtl-async");
    let (a, keeper) = (cluster.node("a"), cluster.node("keeper"));
    let spec = json!({"uuid": V, "size": SIZE, "epoch": 0});
    a.engine.create_volume(&spec.to_string()).unwrap();
    a.open(1, "async", "degraded", &keeper).unwrap();
    let mut guest = Guest::new(&a.engine, V);
    write_blocks(&mut guest, 0..300);
    a.decide("degraded", "catching_up", true);
    a.decide("catching_up", "in_sync", true);
    write_blocks(&mut guest, 300..400);
    until(&a.engine, V, |status| status["dtl"]["lag_batches"] == 0);
    let address = keeper.address.clone();
    keeper.kill();
    write_blocks(&mut guest, 400..410);
    let keeper = cluster.node_at("keeper", &address);
    drop(guest);
    a.kill();
    check_blocks(&mut cluster.node("b").take_over(2, &keeper), 0..400);
    keeper.kill();
}

#[test]
fn the_end_of_the_lease_stops_every_volume() {
    let cluster = Cluster::new("dtl-lease");
    let (a, keeper) = (cluster.node("a"), cluster.node("keeper"));
    let mut guest = a.serve_new(&keeper);
    write_blocks(&mut guest, 0..3);
    let far = net::clock::boottime_ns() + 600_000_000_000;
    a.engine.extend_lease(far, 0);
    write_blocks(&mut guest, 3..4);
    a.engine.extend_lease(0, 0);
    assert_eq!(a.event()["why"], "lease");
    guest.begin_read(0, PAGE);
    a.engine.close_volume(V, None).unwrap();
    assert!(!guest.hears_something(), "an owner without a lease was read");
    assert_eq!(a.open(2, "none", "standalone", &keeper).unwrap_err().code, "LEASE");
    a.engine.extend_lease(far, 1);
    let mut guest = a.take_over(2, &keeper);
    check_blocks(&mut guest, 0..4);
    a.kill();
    keeper.kill();
}

#[test]
fn a_volume_gets_another_dtl_node_while_it_works_and_the_old_one_forgets_it() {
    let cluster = Cluster::new("dtl-pair");
    let (a, first, second) = (cluster.node("a"), cluster.node("first"), cluster.node("second"));
    let mut guest = a.serve_new(&first);
    write_blocks(&mut guest, 0..100);
    let (node, address) = (second.name, &second.address);
    let dtl =
        |state: &str| json!({"mode": "sync", "node": node, "address": address, "state": state});
    let error = a.engine.set_dtl(V, &dtl("in_sync").to_string()).unwrap_err();
    assert_eq!(error.code, "BAD_REQUEST", "{error}");
    a.engine.set_dtl(V, &dtl("degraded").to_string()).unwrap();
    write_blocks(&mut guest, 100..110);
    a.decide("degraded", "catching_up", true);
    a.decide("catching_up", "in_sync", true);
    write_blocks(&mut guest, 110..120);
    let drop_it = json!({"uuid": V, "epoch": 1, "address": first.address}).to_string();
    a.engine.drop_tail(&drop_it).unwrap();
    a.engine.drop_tail(&drop_it).unwrap();
    assert!(!cluster.folder("first", "dtl").join(V).exists());
    a.engine.set_dtl(V, "null").unwrap();
    write_blocks(&mut guest, 120..121);
    drop(guest);
    a.kill();
    check_blocks(&mut cluster.node("b").take_over(2, &second), 0..120);
    first.kill();
    second.kill();
}

#[test]
fn bad_requests_are_refused_with_what_why_and_fix() {
    let cluster = Cluster::new("dtl-bad");
    let (a, keeper) = (cluster.node("a"), cluster.node("keeper"));
    let error = a.open(1, "sync", "in_sync", &keeper).unwrap_err();
    assert!(error.code == "TAIL_NOT_FETCHED" && error.why.contains("epoch 1"), "{error}");
    assert_eq!(a.open(1, "often", "degraded", &keeper).unwrap_err().code, "BAD_REQUEST");
    assert_eq!(a.open(1, "sync", "fine", &keeper).unwrap_err().code, "BAD_REQUEST");
    assert_eq!(a.fetch(1, &keeper, false).unwrap_err().code, "DTL_SUSPECT");
    let gone = Node { address: "127.0.0.1:1".to_owned(), ..cluster.node("gone") };
    assert_eq!(a.fetch(1, &gone, false).unwrap_err().code, "DTL_UNREACHABLE");
    assert_eq!(a.engine.set_dtl(V, "null").unwrap_err().code, "NOT_OPEN");
    assert!(a.engine.next_event(0.0).is_none());
    a.engine.answer_event(99, true);
    for node in [a, keeper, gone] {
        node.kill();
    }
}
