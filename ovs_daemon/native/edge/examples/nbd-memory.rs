//! Serves a plain array of memory over NBD: what the front end costs without any storage behind it.
//!
//! `nbd-memory SOCKET [BYTES]`. Compare with `nbdkit memory` and `qemu-nbd`; see `bench/`.

use std::path::Path;
use std::process::ExitCode;

use edge::nbd::{NbdServer, Offer};
use edge::target::{Completion, Extent, Outcome, Request, Targets, Verb, VolumeId, VolumeInfo};
use media::{Arena, Ring, Slice, Wait};

struct Memory {
    bytes: Slice,
    done: Vec<Completion>,
}

impl Targets for Memory {
    fn info(&self, _: VolumeId) -> Option<VolumeInfo> {
        Some(VolumeInfo { size: self.bytes.len() as u64, read_only: false })
    }

    fn submit(&mut self, _: VolumeId, request: Request) {
        let at = request.offset as usize;
        let outcome = match request.verb {
            Verb::Read(into) => {
                self.bytes.sub(at, into.len()).copy_to(&into);
                Outcome::Done
            }
            Verb::Write { data, .. } => {
                data.copy_to(&self.bytes.sub(at, data.len()));
                Outcome::Done
            }
            Verb::Trim { len, .. } | Verb::WriteZeroes { len, .. } => {
                self.bytes.sub(at, len as usize).zero();
                Outcome::Done
            }
            Verb::Flush => Outcome::Done,
            Verb::BlockStatus { len } => Outcome::Extents(self.extents(at, len as usize)),
        };
        self.done.push(Completion { id: request.id, outcome });
    }
}

impl Memory {
    fn extents(&self, at: usize, len: usize) -> Vec<Extent> {
        let steps = (at..at + len).step_by(4096);
        let piece = |from: usize| {
            let len = (at + len - from).min(4096);
            Extent { len: len as u32, hole: self.bytes.sub(from, len).is_zero() }
        };
        steps.map(piece).collect()
    }
}

fn serve(path: &Path, size: usize) -> Result<(), Box<dyn std::error::Error>> {
    let mut ring = Ring::new(256)?;
    let mut nbd = NbdServer::new(1, Arena::anonymous(256 << 20)?);
    let bytes = Arena::anonymous(size)?.slice(0, size).ok_or("empty volume")?;
    // Touched now: the first use of a page is not what is measured.
    bytes.zero();
    let mut memory = Memory { bytes, done: Vec::new() };
    let offer = Offer {
        volume: VolumeId(0),
        name: "memory".to_string(),
        description: "an array of memory".to_string(),
        read_only: false,
    };
    nbd.listen_unix(&mut ring, offer, path, 0o600, None)?;
    println!("listening on {}", path.display());
    let mut events = Vec::new();
    let mut done = Vec::new();
    loop {
        ring.turn(Wait::Forever, &mut events)?;
        for event in events.drain(..) {
            nbd.on_event(event, &mut ring, &mut memory);
        }
        loop {
            std::mem::swap(&mut memory.done, &mut done);
            for completion in done.drain(..) {
                nbd.complete(completion);
            }
            if !nbd.end_turn(&mut ring, &mut memory) {
                break;
            }
        }
        for line in nbd.take_log() {
            println!("{}", line.text);
        }
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(path) = arguments.next() else {
        eprintln!("usage: nbd-memory SOCKET [BYTES]");
        return ExitCode::from(2);
    };
    let size = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(1 << 30);
    match serve(Path::new(&path), size) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nbd-memory: {error}");
            ExitCode::FAILURE
        }
    }
}
