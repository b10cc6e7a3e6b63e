//! Saying hello to a node that is to follow, by a thread that may wait.

use std::net::SocketAddr;
use std::time::Duration;

use dtl::CallError;
use format::entry::Uuid;
use format::mds::{Frame, Hello, VERSION};
use media::Fd;
use net::Stream;

/// How long connecting may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The node that is to follow.
    pub address: SocketAddr,
    /// The cluster.
    pub cluster: Uuid,
    /// The volume.
    pub volume: Uuid,
    /// The caller's epoch.
    pub epoch: u64,
    /// What the volume was cloned from (`format::mds::encode_origin`).
    pub origin: Vec<u8>,
}

/// A connection on which hello was said. The node may take long to answer: it may have to load a
/// map first.
///
/// # Errors
/// [`CallError::Unreachable`]: it cannot be connected to. Others tell nothing about the node.
pub fn hello(caller: &Caller) -> Result<Fd, CallError> {
    let connected = Stream::connect(caller.address, PATIENCE);
    let mut stream = connected.map_err(CallError::of_connecting)?;
    let Caller { cluster, volume, epoch, .. } = *caller;
    let frame = Frame::Hello(Hello { version: VERSION, volume, cluster, epoch });
    stream.write_all(&frame.encode(&caller.origin))?;
    stream.write_all(&caller.origin)?;
    Ok(stream.into_fd()?)
}
