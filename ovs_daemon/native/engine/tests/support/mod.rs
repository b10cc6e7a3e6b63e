//! An engine in a folder of its own, and the smallest NBD client that can use it.
#![allow(dead_code, reason = "each test program uses its part")]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Engine, Error};

/// Bytes of every volume.
pub(crate) const SIZE: u64 = 1 << 30;
/// Bytes of a cluster.
pub(crate) const PAGE: usize = 4096;

/// A folder that goes when the test ends.
pub(crate) struct Place {
    pub(crate) root: PathBuf,
}

impl Place {
    pub(crate) fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("ovs-engine-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        Self { root }
    }

    pub(crate) fn config(&self) -> Value {
        json!({
            "buffer_dir": self.root.join("buffer"),
            "backend_dir": self.root.join("backend"),
            "run_dir": self.root.join("run"),
            "sco_size": 1 << 20,
            "reserve": 0,
        })
    }

    pub(crate) fn engine(&self) -> Engine {
        Engine::new(&self.config().to_string()).unwrap()
    }

    pub(crate) fn engine_with(&self, shards: usize) -> Engine {
        let mut config = self.config();
        config["shards"] = json!(shards);
        Engine::new(&config.to_string()).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

pub(crate) fn create(
    engine: &Engine,
    uuid: &str,
    parent: Option<(&str, &str)>,
) -> Result<(), Error> {
    let parent = parent.map(|(volume, snapshot)| json!({"volume": volume, "snapshot": snapshot}));
    let spec = json!({"uuid": uuid, "size": SIZE, "epoch": 0, "parent": parent});
    engine.create_volume(&spec.to_string())
}

pub(crate) fn open(
    engine: &Engine,
    uuid: &str,
    parent: Option<(&str, &str)>,
) -> Result<String, Error> {
    let ancestors: Vec<&str> = parent.iter().map(|(volume, _)| *volume).chain([uuid]).collect();
    let parent = parent.map(|(volume, snapshot)| json!({"volume": volume, "snapshot": snapshot}));
    let spec = json!({
        "uuid": uuid, "size": SIZE, "epoch": 1, "ancestors": ancestors, "parent": parent,
    });
    engine.open_volume(&spec.to_string())
}

/// What `status` says about a volume.
pub(crate) fn status(engine: &Engine, uuid: &str) -> Value {
    let status: Value = serde_json::from_str(&engine.status().unwrap()).unwrap();
    let volumes = status["volumes"].as_array().unwrap();
    volumes.iter().find(|volume| volume["uuid"] == uuid).cloned().unwrap()
}

/// Asks until a volume's status says so.
pub(crate) fn until(engine: &Engine, uuid: &str, said: impl Fn(&Value) -> bool) -> Value {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let status = status(engine, uuid);
        if said(&status) {
            return status;
        }
        assert!(std::time::Instant::now() < end, "it never said so: {status}");
        std::thread::yield_now();
    }
}

/// A guest of one volume.
pub(crate) struct Guest {
    stream: UnixStream,
    next: u64,
}

const READ: u16 = 0;
const WRITE: u16 = 1;
const TRIM: u16 = 4;

impl Guest {
    /// Connects with the oldest form of the handshake (NBD_OPT_EXPORT_NAME).
    pub(crate) fn new(engine: &Engine, uuid: &str) -> Self {
        let mut stream = UnixStream::connect(engine.export_nbd(uuid, uuid).unwrap()).unwrap();
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting[..8], b"NBDMAGIC");
        let mut hello = 3u32.to_be_bytes().to_vec();
        hello.extend_from_slice(b"IHAVEOPT");
        hello.extend_from_slice(&1u32.to_be_bytes());
        hello.extend_from_slice(&(uuid.len() as u32).to_be_bytes());
        hello.extend_from_slice(uuid.as_bytes());
        stream.write_all(&hello).unwrap();
        let mut export = [0; 10];
        stream.read_exact(&mut export).unwrap();
        assert_eq!(export[..8], SIZE.to_be_bytes());
        Self { stream, next: 1 }
    }

    fn send(&mut self, command: u16, offset: u64, length: usize, data: &[u8]) -> u64 {
        let mut request = 0x2560_9513u32.to_be_bytes().to_vec();
        request.extend_from_slice(&0u16.to_be_bytes());
        request.extend_from_slice(&command.to_be_bytes());
        request.extend_from_slice(&self.next.to_be_bytes());
        request.extend_from_slice(&offset.to_be_bytes());
        request.extend_from_slice(&(length as u32).to_be_bytes());
        request.extend_from_slice(data);
        self.stream.write_all(&request).unwrap();
        self.next += 1;
        self.next - 1
    }

    /// Asks for a write, without waiting for its answer.
    pub(crate) fn begin_write(&mut self, offset: u64, data: &[u8]) -> u64 {
        self.send(WRITE, offset, data.len(), data)
    }

    /// Asks for a read, without waiting for its answer.
    pub(crate) fn begin_read(&mut self, offset: u64, length: usize) -> u64 {
        self.send(READ, offset, length, &[])
    }

    /// Waits for the next answer: whose it is.
    pub(crate) fn answer(&mut self) -> u64 {
        let mut reply = [0; 16];
        self.stream.read_exact(&mut reply).unwrap();
        assert_eq!(reply[..8], [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0], "no error");
        u64::from_be_bytes(reply[8..].try_into().unwrap())
    }

    /// Waits for the end of the connection; whether anything came before it.
    pub(crate) fn hears_something(&mut self) -> bool {
        self.stream.read(&mut [0]).is_ok_and(|bytes| bytes > 0)
    }

    /// The bytes of a read after its answer.
    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        let id = self.begin_write(offset, data);
        assert_eq!(self.answer(), id);
    }

    pub(crate) fn trim(&mut self, offset: u64, length: usize) {
        let id = self.send(TRIM, offset, length, &[]);
        assert_eq!(self.answer(), id);
    }

    pub(crate) fn read(&mut self, offset: u64, length: usize) -> Vec<u8> {
        let id = self.begin_read(offset, length);
        assert_eq!(self.answer(), id);
        self.bytes(length)
    }
}
