//! A replicator that does nothing but what has to be done for a write in two places: a record is a
//! header of 64 bytes with a checksum, and 4 KiB.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use media::{Fd, File, Ring, Slice, Wait};
use net::{send_now, tune_stream};

use crate::{Outcome, own_cpu_us, report};

const HEADER: usize = 64;
const RECORD: usize = HEADER + 4096;
const ROOM: usize = 1 << 20;
/// The log starts again at its beginning: what is measured is appending, not the size of /dev/shm.
const LOG: u64 = 256 << 20;

/// A file that is there already, as the page cache likes it best.
struct Log {
    file: File,
    at: u64,
}

impl Log {
    fn new(path: &Path) -> Outcome<Self> {
        let file = File::create_new(path)?;
        let block = vec![0; 1 << 20];
        for at in (0..LOG).step_by(block.len()) {
            file.write_bytes_at(at, &block)?;
        }
        Ok(Self { file, at: 0 })
    }

    fn append(&mut self, records: &Slice) -> Outcome<()> {
        if self.at + records.len() as u64 > LOG {
            self.at = 0;
        }
        self.file.write_at(self.at, std::slice::from_ref(records))?;
        self.at += records.len() as u64;
        Ok(())
    }
}

/// Bytes that come in, in whole records.
struct Inlet {
    fd: Fd,
    room: Slice,
    have: usize,
    token: u64,
}

impl Inlet {
    fn new(fd: Fd, token: u64, ring: &mut Ring) -> Outcome<Self> {
        let room = Slice::zeroed(ROOM)?;
        ring.recv(&fd, room.clone(), token);
        Ok(Self { fd, room, have: 0, token })
    }

    /// Whole records that are there, after a receive of so many bytes.
    fn records(&mut self, received: i32, record: usize) -> Outcome<Slice> {
        let received = usize::try_from(received).ok().filter(|bytes| *bytes > 0);
        self.have += received.ok_or("the other side is gone")?;
        Ok(self.room.sub(0, self.have / record * record))
    }

    /// They are dealt with.
    fn next(&mut self, taken: usize, ring: &mut Ring) {
        let left = self.have - taken;
        self.room.sub(taken, left).copy_to(&self.room.sub(0, left));
        self.have = left;
        ring.recv(&self.fd, self.room.sub(left, ROOM - left), self.token);
    }
}

fn send(fd: &Fd, bytes: &Slice) -> Outcome<()> {
    let mut sent = 0;
    while sent < bytes.len() {
        sent += send_now(fd, &bytes.sub(sent, bytes.len() - sent))?;
    }
    Ok(())
}

fn checksums(records: &Slice) -> impl Iterator<Item = (u32, u32)> + '_ {
    (0..records.len() / RECORD).map(|at| {
        let mut crc = [0; 4];
        records.read(at * RECORD, &mut crc);
        (u32::from_le_bytes(crc), records.sub(at * RECORD + HEADER, 4096).crc32c())
    })
}

/// Takes records, appends, acknowledges how many there are.
pub(crate) fn second(log: &Path) -> Outcome<()> {
    let mut log = Log::new(log)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    let (stream, _) = listener.accept()?;
    let fd: Fd = Arc::new(OwnedFd::from(stream));
    tune_stream(&fd);
    let mut ring = Ring::new(16)?;
    let mut inlet = Inlet::new(fd.clone(), 1, &mut ring)?;
    let (answer, mut events, mut count) = (Slice::zeroed(8)?, Vec::new(), 0u64);
    loop {
        ring.turn(Wait::Forever, &mut events)?;
        for event in events.drain(..) {
            let records = inlet.records(event.result, RECORD)?;
            if !records.is_empty() {
                if checksums(&records).any(|(told, is)| told != is) {
                    return Err("a checksum differs".into());
                }
                log.append(&records)?;
                count += (records.len() / RECORD) as u64;
                answer.write(0, &count.to_le_bytes());
                send(&fd, &answer)?;
            }
            inlet.next(records.len(), &mut ring);
        }
    }
}

/// Takes records of a client, sends and appends them, answers when the second has them too.
pub(crate) fn first(log: &Path, socket: &str, address: &str) -> Outcome<()> {
    let mut log = Log::new(log)?;
    let second: Fd = Arc::new(OwnedFd::from(TcpStream::connect(address)?));
    tune_stream(&second);
    let listener = UnixListener::bind(socket)?;
    println!("ready");
    let mut ring = Ring::new(16)?;
    let mut acknowledged = Inlet::new(second.clone(), 2, &mut ring)?;
    let (mut sent, mut answered) = (0u64, 0u64);
    let answers = Slice::zeroed(ROOM)?;
    loop {
        let (stream, _) = listener.accept()?;
        let client: Fd = Arc::new(OwnedFd::from(stream));
        let mut inlet = Inlet::new(client.clone(), 1, &mut ring)?;
        let (mut events, mut open) = (Vec::new(), true);
        while open || answered < sent {
            ring.turn(Wait::Forever, &mut events)?;
            for event in events.drain(..) {
                if event.token == 1 {
                    let Ok(records) = inlet.records(event.result, RECORD) else {
                        open = false;
                        continue;
                    };
                    for (at, (_, crc)) in checksums(&records).enumerate() {
                        records.write(at * RECORD, &crc.to_le_bytes());
                    }
                    if !records.is_empty() {
                        send(&second, &records)?;
                        log.append(&records)?;
                        sent += (records.len() / RECORD) as u64;
                    }
                    inlet.next(records.len(), &mut ring);
                } else {
                    let counts = acknowledged.records(event.result, 8)?;
                    let mut count = [0; 8];
                    counts.read(counts.len() - 8, &mut count);
                    let count = u64::from_le_bytes(count);
                    // Answers are as many headers.
                    let bytes = (count - answered) as usize * HEADER;
                    answered = count;
                    let _ = send(&client, &answers.sub(0, bytes));
                    acknowledged.next(counts.len(), &mut ring);
                }
            }
        }
    }
}

/// Keeps `depth` records on their way.
pub(crate) fn client(socket: &str, depth: &str, seconds: &str) -> Outcome<()> {
    let (depth, seconds): (usize, f64) = (depth.parse()?, seconds.parse()?);
    let mut stream = UnixStream::connect(socket)?;
    let records = vec![0x5a; depth * RECORD];
    let mut answers = vec![0; depth * HEADER];
    let (start, cpu) = (Instant::now(), own_cpu_us());
    let mut latencies: Vec<u32> = Vec::with_capacity(1 << 22);
    // Answers come in the order of the records.
    let mut begun = std::collections::VecDeque::from(vec![Instant::now(); depth]);
    stream.write_all(&records)?;
    let (mut in_flight, mut part) = (depth, 0);
    while in_flight > 0 {
        part += stream.read(&mut answers[part..])?;
        let count = part / HEADER;
        part %= HEADER;
        let now = Instant::now();
        for begin in begun.drain(..count) {
            latencies.push((now - begin).as_nanos() as u32);
        }
        if start.elapsed().as_secs_f64() < seconds {
            begun.extend(std::iter::repeat_n(now, count));
            stream.write_all(&records[..count * RECORD])?;
        } else {
            in_flight -= count;
        }
    }
    let (elapsed, cpu) = (start.elapsed().as_secs_f64(), own_cpu_us() - cpu);
    report(latencies.len(), elapsed, &mut latencies, cpu);
    Ok(())
}
