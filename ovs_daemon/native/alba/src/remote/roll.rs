//! Asking a server which OSDs it serves, by a thread that may wait.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use format::log::PAGE;
use format::osd::Claim;
use format::osd::wire::{
    Challenge, DATA_MAX, FRAME, Frame, Hello, Kind, META_MAX, NONCE, Side, VERSION,
};
use net::Stream;

use super::Link;
use super::peer::{random, refusal};
use crate::wire::Received;

const PATIENCE: Duration = Duration::from_secs(5);

/// Why it is not known.
#[derive(Debug)]
pub struct RollError(String);

impl fmt::Display for RollError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for RollError {}

impl From<io::Error> for RollError {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

fn odd(why: impl fmt::Display) -> RollError {
    RollError(format!("its answer makes no sense: {why}"))
}

fn next(stream: &mut Stream) -> Result<Received, RollError> {
    let mut head = [0; FRAME];
    stream.read_exact(&mut head)?;
    let frame = Frame::decode(&head).map_err(odd)?;
    if frame.body() > META_MAX + DATA_MAX {
        return Err(odd("it is too large"));
    }
    let (mut meta, mut data) = (vec![0; frame.meta as usize], vec![0; frame.data as usize]);
    stream.read_exact(&mut meta)?;
    stream.read_exact(&mut data)?;
    frame.check_meta(&meta).map_err(odd)?;
    let received = Received { frame, meta, data: data.into(), crcs: Vec::new() };
    if frame.kind == Kind::Refused {
        return Err(RollError(refusal(&received)));
    }
    Ok(received)
}

fn send(stream: &mut Stream, frame: &Frame, meta: &[u8]) -> io::Result<()> {
    stream.write_all(&[&frame.encode()[..], meta].concat())
}

/// The claims of the OSDs that a server serves.
///
/// # Errors
/// It cannot be reached, or does not belong to the cluster.
pub fn roll(address: SocketAddr, link: &Link) -> Result<Vec<Claim>, RollError> {
    let mut stream = Stream::connect(address, PATIENCE)?;
    let mut nonce = [0; NONCE];
    random(&mut nonce)?;
    let hello = Hello { cluster: link.cluster, osd: [0; 16], nonce };
    let meta = hello.encode();
    let frame = Frame { code: VERSION, ..Frame::new(Kind::Hello, 0, &meta, 0) };
    send(&mut stream, &frame, &meta)?;
    let challenge = Challenge::decode(&next(&mut stream)?.meta).map_err(odd)?;
    if !link.key.is_genuine(&Side::Server.signed(&hello, &challenge.nonce), &challenge.proof) {
        return Err(RollError("it has another cluster's key".to_owned()));
    }
    let proof = link.key.sign(&Side::Client.signed(&hello, &challenge.nonce));
    send(&mut stream, &Frame::new(Kind::Proof, 0, &proof, 0), &proof)?;
    if next(&mut stream)?.frame.kind != Kind::Welcome {
        return Err(odd("no welcome"));
    }
    send(&mut stream, &Frame::new(Kind::Claims, 1, b"", 0), b"")?;
    let received = next(&mut stream)?;
    received.data.chunks(PAGE).map(|page| Claim::decode(page).map_err(odd)).collect()
}
