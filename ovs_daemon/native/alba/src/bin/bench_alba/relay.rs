//! Between a cluster and a server: passes frames on as they are, and counts them.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use format::osd::wire::{FRAME, Frame, Kind};

/// What passed since [`Relay::begin`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Passed {
    /// Requests for ranges of fragments.
    pub(crate) gets: u64,
    /// All other requests.
    pub(crate) others: u64,
    /// Bytes of ranges that were answered, without their checksums.
    pub(crate) read: u64,
}

#[derive(Default)]
struct Counts {
    gets: AtomicU64,
    others: AtomicU64,
    read: AtomicU64,
}

impl Counts {
    fn note(&self, frame: &Frame) {
        let one = match frame.kind {
            Kind::Get => {
                self.read.fetch_add(u64::from(frame.c), Ordering::Relaxed);
                &self.gets
            }
            kind if kind.is_request() => &self.others,
            _ => return,
        };
        one.fetch_add(1, Ordering::Relaxed);
    }
}

/// See the top of the file.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    counts: Arc<Counts>,
}

/// Passes frames on until one of the sides ends.
fn pass(mut from: TcpStream, mut to: TcpStream, counts: &Counts) {
    let mut head = [0; FRAME];
    while from.read_exact(&mut head).is_ok() {
        let frame = Frame::decode(&head).expect("both sides speak the protocol");
        counts.note(&frame);
        let mut bytes = head.to_vec();
        bytes.resize(FRAME + frame.body(), 0);
        if from.read_exact(&mut bytes[FRAME..]).is_err() || to.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

fn join(client: &TcpStream, server: SocketAddr, counts: &Arc<Counts>) -> std::io::Result<()> {
    let server = TcpStream::connect(server)?;
    for stream in [client, &server] {
        stream.set_nodelay(true)?;
    }
    let pairs = [(client.try_clone()?, server.try_clone()?), (server, client.try_clone()?)];
    for (from, to) in pairs {
        let counts = counts.clone();
        thread::spawn(move || pass(from, to, &counts));
    }
    Ok(())
}

impl Relay {
    /// To this server.
    pub(crate) fn new(server: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let counts = Arc::new(Counts::default());
        let mine = counts.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // Nobody listens there: the client sees its connection end.
                let _ = join(&client, server, &mine);
            }
        });
        Ok(Self { address, counts })
    }

    /// Counts from nothing.
    pub(crate) fn begin(&self) {
        for one in [&self.counts.gets, &self.counts.others, &self.counts.read] {
            one.store(0, Ordering::Relaxed);
        }
    }

    /// What passed.
    pub(crate) fn passed(&self) -> Passed {
        let count = |one: &AtomicU64| one.load(Ordering::Relaxed);
        let Counts { gets, others, read } = &*self.counts;
        Passed { gets: count(gets), others: count(others), read: count(read) }
    }
}
