//! Clients that take more than is good for others: they do not read, do not greet, are too many.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use alba::codec::encode_request;
use alba::folder::read_claim;
use alba::osd::Request;
use format::fragment::StoredFragment;
use format::osd::wire::{Challenge, Class, FRAME, Frame, Hello, Kind, NONCE, Side, VERSION};

use crate::tests::{CLUSTER, Lab, content, key, put};
use crate::{Bounds, Running, Setup};

/// Whatever should happen has by then, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(60);
/// The most that one read at once is.
const LEN: u32 = 64 << 10;

static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());
static LOGGED: Condvar = Condvar::new();

fn log(line: &str) {
    LOG.lock().unwrap().push(line.to_owned());
    LOGGED.notify_all();
}

/// The first line of a server's log that has these words in it; lines of all tests are there.
fn logged(words: &[&str]) -> String {
    let (mut log, end) = (LOG.lock().unwrap(), Instant::now() + PATIENCE);
    loop {
        let found = log.iter().find(|line| words.iter().all(|word| line.contains(word)));
        if let Some(line) = found {
            return line.clone();
        }
        let left = end.checked_duration_since(Instant::now());
        let left = left.unwrap_or_else(|| panic!("nothing of {words:?} in {log:?}"));
        log = LOGGED.wait_timeout(log, left).unwrap().0;
    }
}

/// A server with a disk that has a fragment.
struct World {
    server: Running,
    osd: [u8; 16],
    path: String,
    payload_len: u64,
    /// The first of its payload.
    payload: Vec<u8>,
    _lab: Lab,
}

impl World {
    fn new(name: &str, bounds: Bounds) -> Self {
        let mut lab = Lab::new(name);
        put(&lab.open(), "a/b", &content(1, 1_000_000)).unwrap();
        let file = lab.files("a/b").into_iter().find(|path| path.starts_with(lab.folder(0)));
        let file = file.expect("each disk has some");
        lab.stop(0);
        let setup = Setup {
            listen: "127.0.0.1:0".parse().unwrap(),
            key: key(),
            folders: vec![lab.folder(0)],
            reserve: 0,
            cache_bytes: 0,
            bounds,
            release: net::RELEASE,
        };
        let server = Running::start_with_log(&setup, log).unwrap();
        let osd = read_claim(&lab.folder(0)).unwrap().unwrap().osd;
        let path = file.strip_prefix(lab.folder(0)).unwrap().to_str().unwrap().to_owned();
        let bytes = std::fs::read(&file).unwrap();
        let payload_len = StoredFragment::decode(&bytes).unwrap().payload_len() as u64;
        assert!(payload_len >= LEN.into(), "{payload_len}");
        let payload = bytes[4096..][..LEN as usize].to_vec();
        Self { server, osd, path, payload_len, payload, _lab: lab }
    }

    fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// One who says nothing.
    fn silent(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn greet(&self) -> io::Result<Client> {
        let mut client = Client(TcpStream::connect(self.address())?);
        client.0.set_read_timeout(Some(PATIENCE))?;
        let hello = Hello { cluster: CLUSTER, osd: self.osd, nonce: [3; NONCE] };
        let meta = hello.encode();
        let frame = Frame { code: VERSION, ..Frame::new(Kind::Hello, 0, &meta, 0) };
        client.0.write_all(&[&frame.encode()[..], &meta].concat())?;
        let (_, meta) = client.hear()?;
        let challenge = Challenge::decode(&meta).unwrap();
        let proof = key().sign(&Side::Client.signed(&hello, &challenge.nonce));
        let frame = Frame::new(Kind::Proof, 0, &proof, 0);
        client.0.write_all(&[&frame.encode()[..], &proof].concat())?;
        assert_eq!(client.hear()?.0.kind, Kind::Welcome);
        Ok(client)
    }

    /// The same, as often as it takes: there may be no room yet, or a busy machine too slow.
    fn greet_at_last(&self) -> Client {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.greet() {
                Ok(client) => return client,
                Err(error) => assert!(Instant::now() < end, "not greeted: {error}"),
            }
        }
    }

    /// Requests for the first bytes of the fragment's payload.
    fn requests(&self, tags: std::ops::Range<u64>) -> Vec<u8> {
        let (path, payload_len) = (self.path.clone(), self.payload_len);
        let (offset, len) = (0, LEN);
        let get = Request::Get { path, payload_len, offset, len };
        let one = |tag| {
            let (frame, meta, _) = encode_request(&get, Class::Guest, "", tag);
            [&frame.encode()[..], &meta].concat()
        };
        tags.flat_map(one).collect()
    }

    fn is_served(&self, client: &mut Client) -> bool {
        client.0.write_all(&self.requests(7..8)).unwrap();
        let (frame, bytes) = client.hear().unwrap();
        frame.tag == 7 && bytes[..LEN as usize] == self.payload
    }
}

struct Client(TcpStream);

impl Client {
    /// The next frame, and what belongs to it.
    fn hear(&mut self) -> io::Result<(Frame, Vec<u8>)> {
        let mut bytes = [0; FRAME];
        self.0.read_exact(&mut bytes)?;
        let frame = Frame::decode(&bytes).unwrap();
        let mut body = vec![0; frame.body()];
        self.0.read_exact(&mut body)?;
        Ok((frame, body))
    }

    fn name(&self) -> String {
        self.0.local_addr().unwrap().to_string()
    }
}

/// The server has closed it; what it has not read may have made that a reset.
fn is_closed(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0]) {
        Ok(bytes) => bytes == 0,
        Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn who_does_not_read_is_not_read_from_and_others_are_served() {
    let owed_bytes = 1 << 20;
    let world = World::new("deaf", Bounds { owed_bytes, ..Bounds::default() });
    let client = world.greet().unwrap();
    let (mut writer, name) = (client.0.try_clone().unwrap(), client.name());
    // A gigabyte of answers: no sockets hold that.
    let requests = world.requests(0..16_384);
    let writing = std::thread::spawn(move || drop(writer.write_all(&requests)));
    let line = logged(&[&name, "more slowly than it asks"]);
    let bytes = line.split(' ').find_map(|word| word.parse::<usize>().ok()).expect("a number");
    assert!(bytes < owed_bytes + 2 * LEN as usize, "{line}");
    let mut other = world.greet().unwrap();
    assert!(world.is_served(&mut other));
    let _ = client.0.shutdown(Shutdown::Both);
    writing.join().unwrap();
}

#[test]
fn who_reads_has_all_answers_whatever_it_is_owed() {
    let bounds = Bounds { owed_bytes: LEN as usize * 3 / 2, ..Bounds::default() };
    let world = World::new("slow", bounds);
    let mut client = world.greet().unwrap();
    let (mut writer, count) = (client.0.try_clone().unwrap(), 1000);
    let requests = world.requests(0..count);
    let writing = std::thread::spawn(move || writer.write_all(&requests).unwrap());
    let mut tags = Vec::new();
    for _ in 0..count {
        let (frame, bytes) = client.hear().unwrap();
        assert_eq!(frame.kind, Kind::Bytes);
        assert!(bytes[..LEN as usize] == world.payload, "{frame:?}");
        tags.push(frame.tag);
    }
    tags.sort_unstable();
    assert!(tags.into_iter().eq(0..count));
    writing.join().unwrap();
}

#[test]
fn of_too_many_that_do_not_greet_the_oldest_is_closed() {
    let world = World::new("many", Bounds { ungreeted: 2, ..Bounds::default() });
    let mut greeted = world.greet().unwrap();
    let (mut first, mut second) = (world.silent(), world.silent());
    let name = first.local_addr().unwrap().to_string();
    let third = world.silent();
    assert!(is_closed(&mut first));
    logged(&[&name, "2 connections have not said who they are"]);
    // Who greets is let in, whoever is silent.
    let mut client = world.greet().unwrap();
    assert!(is_closed(&mut second));
    assert!(world.is_served(&mut client) && world.is_served(&mut greeted));
    drop(third);
}

#[test]
fn who_does_not_greet_in_time_is_closed() {
    let bounds = Bounds { greeting: Duration::from_millis(200), ..Bounds::default() };
    let world = World::new("late", bounds);
    let mut greeted = world.greet_at_last();
    let mut silent = world.silent();
    let name = silent.local_addr().unwrap().to_string();
    assert!(is_closed(&mut silent));
    logged(&[&name, "did not say who they are in 200ms"]);
    // A hello alone is not enough.
    let mut half = world.silent();
    let hello = Hello { cluster: CLUSTER, osd: world.osd, nonce: [3; NONCE] }.encode();
    let frame = Frame { code: VERSION, ..Frame::new(Kind::Hello, 0, &hello, 0) };
    // The time may be over before it is sent or read: what is not read makes the end a reset.
    let _ = half.write_all(&[&frame.encode()[..], &hello].concat());
    match half.read_to_end(&mut Vec::new()) {
        Ok(challenge) => assert!(challenge <= 128, "a challenge at most: {challenge} bytes"),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
    }
    assert!(world.is_served(&mut greeted), "who has greeted stays");
}

#[test]
fn there_are_only_so_many_connections_and_silent_ones_give_way() {
    let world = World::new("full", Bounds { connections: 2, ..Bounds::default() });
    let mut silent = world.silent();
    let mut first = world.greet().unwrap();
    let mut second = world.greet().unwrap();
    assert!(is_closed(&mut silent));
    logged(&["2 connections are open", "--connections"]);
    let mut third = world.silent();
    assert!(is_closed(&mut third));
    assert!(world.is_served(&mut first) && world.is_served(&mut second));
    drop(first);
    let mut later = world.greet_at_last();
    assert!(world.is_served(&mut later));
}
