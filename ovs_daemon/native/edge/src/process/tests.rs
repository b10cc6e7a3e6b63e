//! The whole process with its sockets, and an engine of plain memory, in one thread.

use std::cell::RefCell;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use format::edge::{CloseReason, Frame};
use media::{Dir, File};
use net::pass;
use serde_json::{Value, json};

use super::*;
use crate::memory::MemoryTargets;
use crate::patience::Patience;
use crate::server::EdgeServer;
use crate::target::VolumeId;

const UUID: &str = "00112233-4455-6677-8899-aabbccddeeff";
const OTHER: &str = "00112233-4455-6677-8899-000000000000";
const MIB: u64 = 1 << 20;

thread_local! {
    static LOG: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

fn log(line: &str) {
    LOG.with(|log| log.borrow_mut().push(line.to_owned()));
}

fn logged(text: &str) -> bool {
    LOG.with(|log| log.borrow().iter().any(|line| line.contains(text)))
}

struct Engine {
    ring: Ring,
    server: EdgeServer,
    volumes: MemoryTargets,
}

impl Engine {
    fn start(run_dir: &Path) -> Self {
        let mut volumes = MemoryTargets::default();
        volumes.epoch = 1;
        let uuid = crate::server::parse_uuid(UUID).unwrap();
        volumes.add(0, uuid, MIB, 2 * MIB).unwrap();
        let mut ring = Ring::new(64).unwrap();
        let mut server = EdgeServer::new(7);
        // The ring of an engine that was dropped in this process holds its listener for a moment
        // longer, and the kernel says when it lets go.
        let socket = run_dir.join("engine.sock");
        let patience = Patience::new();
        while let Err(error) = server.listen(&socket, &mut ring) {
            patience.wait_on(|| &error);
            assert_eq!(error.source.kind(), std::io::ErrorKind::AddrInUse, "{error}");
            std::thread::yield_now();
        }
        Self { ring, server, volumes }
    }

    fn turn(&mut self) {
        let mut events = Vec::new();
        self.ring.turn(Wait::No, &mut events).unwrap();
        for event in events {
            self.server.on_event(event, &mut self.ring, &mut self.volumes);
        }
        self.server.poll(&mut self.volumes, &mut self.ring);
        let mut done = Vec::new();
        self.volumes.take_completions(&mut done);
        for completion in done {
            self.server.complete(completion);
        }
        self.server.end_turn(&mut self.ring);
    }
}

/// A connection to the control socket.
struct Client {
    socket: OwnedFd,
    bytes: Vec<u8>,
    ended: bool,
}

impl Client {
    fn say(&self, text: &str) {
        assert_eq!(pass::send(self.socket.as_fd(), text.as_bytes(), &[]).unwrap(), text.len());
    }

    fn hear(&mut self) -> Option<Value> {
        let mut part = [0; 4096];
        match pass::receive(self.socket.as_fd(), &mut part) {
            Ok((0, _)) => self.ended = true,
            Ok((got, _)) => self.bytes.extend_from_slice(&part[..got]),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => self.ended = true,
        }
        let end = self.bytes.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = self.bytes.drain(..=end).collect();
        Some(serde_json::from_slice(&line).unwrap())
    }
}

struct Host {
    run_dir: PathBuf,
    edge: Process,
    engine: Option<Engine>,
}

impl Host {
    fn new(name: &str) -> Self {
        let name = format!("ovs-process-{name}-{}", std::process::id());
        let run_dir = std::env::temp_dir().join(name);
        Dir::at(&run_dir).remove_all().unwrap();
        Dir::create(&run_dir).unwrap();
        let edge = Self::edge(&run_dir);
        Self { run_dir, edge, engine: None }
    }

    fn edge(run_dir: &Path) -> Process {
        let setup = Setup { run_dir: run_dir.to_owned(), arena_bytes: 16 << 20 };
        Process::start(&setup, None, log).unwrap()
    }

    /// The Edge process ends and another one starts.
    fn restart_edge(&mut self) {
        self.edge.ends = true;
        self.edge.run().unwrap();
        self.edge = Self::edge(&self.run_dir);
    }

    fn start_engine(&mut self) {
        self.engine = Some(Engine::start(&self.run_dir));
    }

    fn turn(&mut self) {
        self.edge.targets.wants_polling();
        self.edge.turn(Wait::No, &mut Vec::new()).unwrap();
        if let Some(engine) = &mut self.engine {
            engine.turn();
        }
    }

    #[track_caller]
    fn until(&mut self, mut reached: impl FnMut(&mut Self) -> bool) {
        let patience = Patience::new();
        while !reached(self) {
            patience.wait_on(|| LOG.with(RefCell::take));
            self.turn();
        }
    }

    fn client(&self) -> Client {
        let socket = pass::connect(&self.run_dir.join("edge.sock")).unwrap();
        Client { socket, bytes: Vec::new(), ended: false }
    }

    #[track_caller]
    fn answer(&mut self, client: &mut Client) -> Value {
        let mut heard = None;
        self.until(|_| {
            heard = client.hear();
            heard.is_some()
        });
        heard.unwrap()
    }

    #[track_caller]
    fn ask(&mut self, request: &Value) -> Value {
        let mut client = self.client();
        client.say(&format!("{request}\n"));
        self.answer(&mut client)
    }

    fn refusal(&mut self, request: &Value) -> (String, String) {
        let answer = self.ask(request);
        assert_eq!(answer["ok"], false, "{answer}");
        let error = &answer["error"];
        for field in ["code", "what", "why", "fix"] {
            assert!(error[field].as_str().is_some_and(|text| !text.is_empty()), "{answer}");
        }
        let text = |field: &str| error[field].as_str().unwrap().to_owned();
        (text("code"), text("why"))
    }

    fn volumes(&mut self) -> Vec<Value> {
        self.ask(&json!({"op": "list"}))["volumes"].as_array().unwrap().clone()
    }

    fn state(&mut self) -> String {
        self.volumes()[0]["state"].as_str().unwrap().to_owned()
    }

    fn greeting(&mut self) -> Vec<u8> {
        let socket = pass::connect(&guest_socket(&self.run_dir, UUID)).unwrap();
        let mut bytes = [0; 64];
        let mut got = 0;
        self.until(|_| {
            got = pass::receive(socket.as_fd(), &mut bytes).map_or(0, |(got, _)| got);
            got > 0
        });
        bytes[..got].to_vec()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = Dir::at(&self.run_dir).remove_all();
    }
}

fn attach() -> Value {
    json!({
        "op": "attach", "volume": UUID, "name": "web", "owner": null, "mode": 0o660,
        "read_only": false,
    })
}

const OK: fn() -> Value = || json!({"ok": true});
const PONG: fn() -> Value = || json!({"ok": true, "release": net::RELEASE});

#[test]
fn requests_are_answered_in_their_order_and_nonsense_is_named() {
    let mut host = Host::new("requests");
    let mut client = host.client();
    client.say("{\"op\":\"ping\"}\nnonsense\n{\"op\":\"dance\"}\n{\"op\":\"list\"}\n{\"op\"");
    assert_eq!(host.answer(&mut client), PONG());
    assert_eq!(host.answer(&mut client)["error"]["code"], "bad_request");
    let answer = host.answer(&mut client);
    assert!(answer["error"]["why"].as_str().unwrap().contains("dance"), "{answer}");
    assert_eq!(host.answer(&mut client), json!({"ok": true, "volumes": []}));
    client.say(":\"ping\"}\n");
    assert_eq!(host.answer(&mut client), PONG(), "a line may come in pieces");
    let mut endless = host.client();
    let piece = "x".repeat(16 << 10);
    for _ in 0..5 {
        endless.say(&piece);
        for _ in 0..20 {
            host.turn();
        }
    }
    host.until(|_| {
        endless.hear();
        endless.ended
    });
    assert_eq!(host.ask(&json!({"op": "ping"})), PONG());
}

#[test]
fn an_attach_that_cannot_be_leaves_nothing_behind() {
    let mut host = Host::new("refusals");
    let (code, why) = host.refusal(&attach());
    assert_eq!(code, "engine_unavailable");
    assert!(why.contains("no engine listens"), "{why}");
    host.start_engine();
    let mut request = attach();
    request["volume"] = json!(OTHER);
    assert_eq!(host.refusal(&request).0, "unknown_volume");
    for (field, value) in [
        ("volume", json!("web")),
        ("name", json!("")),
        ("mode", json!(0o7777)),
        ("owner", json!("root")),
        ("socket", json!("here.sock")),
    ] {
        let mut request = attach();
        request[field] = value;
        let (code, why) = host.refusal(&request);
        assert!(code == "bad_request" && why.contains(field), "{code}: {why}");
    }
    let mut request = attach();
    request["socket"] = json!(host.run_dir.join("missing").join("web.sock"));
    let (code, why) = host.refusal(&request);
    assert!(code == "socket" && why.contains("missing"), "{code}: {why}");
    host.until(|host| host.volumes().is_empty());
    assert_eq!(host.ask(&attach()), OK());
}

#[test]
fn attached_volumes_are_served_until_they_are_detached() {
    let mut host = Host::new("attach");
    host.start_engine();
    assert_eq!(host.ask(&attach()), OK());
    assert_eq!(host.ask(&attach()), OK(), "again in the same way");
    let volumes = host.volumes();
    assert_eq!(volumes.len(), 1);
    assert_eq!(volumes[0]["volume"], UUID);
    assert_eq!(volumes[0]["state"], "serving");
    assert_eq!(volumes[0]["size"], MIB);
    assert!(host.greeting().starts_with(b"NBDMAGIC"));
    let mut request = attach();
    request["read_only"] = json!(true);
    assert_eq!(host.refusal(&request).0, "in_use");
    let mut request = attach();
    request["volume"] = json!(OTHER);
    assert_eq!(host.refusal(&request).0, "duplicate_name");
    let detach = json!({"op": "detach", "volume": UUID});
    assert_eq!(host.ask(&detach), json!({"ok": true, "confirmed": true}));
    assert!(pass::connect(&guest_socket(&host.run_dir, UUID)).is_err());
    assert!(host.volumes().is_empty());
    assert_eq!(host.refusal(&detach).0, "unknown_volume");
    assert_eq!(host.ask(&attach()), OK());
}

#[test]
fn the_next_process_serves_what_the_last_one_did() {
    let mut host = Host::new("restart");
    host.start_engine();
    assert_eq!(host.ask(&attach()), OK());
    host.engine = None;
    host.restart_edge();
    assert_eq!(host.state(), "waiting");
    assert_eq!(host.volumes()[0]["size"], MIB, "known from the file");
    assert!(host.greeting().starts_with(b"NBDMAGIC"), "guests may connect and wait");
    assert_eq!(host.ask(&attach()), OK(), "it is attached");
    host.start_engine();
    host.until(|host| host.state() == "serving");
    let detached = host.ask(&json!({"op": "detach", "volume": UUID}));
    assert_eq!(detached, json!({"ok": true, "confirmed": true}));
    host.restart_edge();
    assert!(host.volumes().is_empty());
}

#[test]
fn a_list_that_cannot_be_read_is_put_aside() {
    let mut host = Host::new("unusable");
    for text in ["{", "{\"version\": 9, \"volumes\": []}", "[1]"] {
        Dir::at(&host.run_dir).unlink("edge.json").unwrap();
        let file = File::create_new(&host.run_dir.join("edge.json")).unwrap();
        file.write_bytes_at(0, text.as_bytes()).unwrap();
        host.restart_edge();
        assert!(host.volumes().is_empty());
        assert!(logged("edge.json.unusable"));
    }
}

#[test]
fn a_deleted_volume_is_no_longer_served() {
    let mut host = Host::new("deleted");
    host.start_engine();
    assert_eq!(host.ask(&attach()), OK());
    let engine = host.engine.as_mut().unwrap();
    engine.volumes.remove(0);
    let reason = CloseReason::Deleted;
    engine.server.leave(VolumeId(0), &Frame::Closed { reason, detail: "deleted".into() });
    host.until(|host| host.volumes().is_empty());
    assert!(pass::connect(&guest_socket(&host.run_dir, UUID)).is_err());
    host.restart_edge();
    assert!(host.volumes().is_empty());
}

#[test]
fn a_new_size_is_kept() {
    let mut host = Host::new("resized");
    host.start_engine();
    let mut request = attach();
    request["drop_on_resize"] = json!(true);
    assert_eq!(host.ask(&request), OK());
    let engine = host.engine.as_mut().unwrap();
    engine.volumes.resize(0, 2 * MIB);
    engine.server.volume_resized(VolumeId(0), &engine.volumes);
    host.until(|host| host.volumes()[0]["size"] == 2 * MIB);
    host.engine = None;
    host.restart_edge();
    assert_eq!(host.volumes()[0]["size"], 2 * MIB);
}

#[test]
fn guests_are_told_to_connect_again() {
    let mut host = Host::new("drop");
    host.start_engine();
    let ask = json!({"op": "drop", "volume": UUID});
    assert_eq!(host.refusal(&ask).0, "unknown_volume");
    assert_eq!(host.ask(&attach()), OK());
    assert!(host.greeting().starts_with(b"NBDMAGIC"));
    assert_eq!(host.ask(&ask), OK());
    assert_eq!(host.state(), "serving");
    assert!(host.greeting().starts_with(b"NBDMAGIC"), "they may");
}

#[test]
fn what_can_change_under_guests_is_changed_and_kept() {
    let mut host = Host::new("change");
    host.start_engine();
    assert_eq!(host.ask(&attach()), OK());
    let mut request = attach();
    request["drop_on_resize"] = json!(true);
    assert_eq!(host.ask(&request), OK());
    host.restart_edge();
    assert_eq!(host.ask(&request), OK());
    request["socket"] = json!(host.run_dir.join("nbd").join("elsewhere.sock"));
    assert_eq!(host.refusal(&request).0, "in_use", "its guests are on the old one");
    request["socket"] = json!(null);
    request["file"] = json!(host.run_dir.join("missing").join("web"));
    let (code, why) = host.refusal(&request);
    assert!(code == "mount" && why.contains("missing"), "{code}: {why}");
    assert!(host.greeting().starts_with(b"NBDMAGIC"), "what was served still is");
}
