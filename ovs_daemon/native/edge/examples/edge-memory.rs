//! An engine that keeps one volume in plain memory and serves it over the Edge protocol: what the
//! protocol costs without any storage behind it.
//!
//! `edge-memory SOCKET UUID [BYTES]`

use std::path::Path;
use std::process::ExitCode;

use edge::memory::MemoryTargets;
use edge::server::{EdgeServer, parse_uuid};
use media::{Ring, Wait};

fn serve(path: &Path, uuid: [u8; 16], size: u64) -> Result<(), Box<dyn std::error::Error>> {
    let mut ring = Ring::new(256)?;
    let mut server = EdgeServer::new(1);
    let mut volumes = MemoryTargets::default();
    volumes.add(0, uuid, size, size)?;
    server.listen(path, &mut ring)?;
    println!("listening on {}", path.display());
    let (mut events, mut done) = (Vec::new(), Vec::new());
    loop {
        let wait = if server.wants_polling() { Wait::No } else { Wait::Forever };
        ring.turn(wait, &mut events)?;
        for event in events.drain(..) {
            server.on_event(event, &mut ring, &mut volumes);
        }
        // A few looks at the rings for each system call: io_uring has nothing urgent here.
        for _ in 0..16 {
            if !server.poll(&mut volumes, &mut ring) {
                break;
            }
            volumes.take_completions(&mut done);
            for completion in done.drain(..) {
                server.complete(completion);
            }
            server.publish();
        }
        server.end_turn(&mut ring);
        for line in server.take_log() {
            println!("{line}");
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (path, uuid) = match arguments.as_slice() {
        [path, uuid, ..] => (path, parse_uuid(uuid)),
        _ => (&String::new(), None),
    };
    let Some(uuid) = uuid else {
        eprintln!("usage: edge-memory SOCKET UUID [BYTES]");
        return ExitCode::from(2);
    };
    let size = arguments.get(2).and_then(|text| text.parse().ok()).unwrap_or(1 << 30);
    match serve(Path::new(path), uuid, size) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("edge-memory: {error}");
            ExitCode::FAILURE
        }
    }
}
