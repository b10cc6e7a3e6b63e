//! Callers that are turned away.
#![allow(clippy::disallowed_methods)]

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use buffer::DiskFiles;
use media::Dir;

use super::*;
use crate::replica::store_fence;

const CLUSTER: Uuid = [1; 16];
const VOLUME: Uuid = [0x33; 16];

fn hello(cluster: Uuid, role: Role, epoch: u64) -> Hello {
    Hello { version: VERSION, role, volume: VOLUME, cluster, epoch, generation: 0 }
}

/// What a caller hears whose connection another shard has accepted, and whether that is all.
fn call(server: &mut Server, ring: &mut Ring, hello: Hello) -> Frame {
    let (here, mut caller) = UnixStream::pair().unwrap();
    let fd = Arc::new(OwnedFd::from(here));
    server.adopt(Guest { fd, hello }, ring);
    for task in server.take_tasks() {
        server.on_task(task.run(), ring);
    }
    let mut heard = Vec::new();
    caller.read_to_end(&mut heard).unwrap();
    Frame::decode(heard.as_slice().try_into().unwrap()).unwrap()
}

#[test]
fn a_caller_that_is_turned_away_leaves_no_connection() {
    let root = std::env::temp_dir().join(format!("ovs-dtl-turned-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&root);
    Dir::create(&root.join(uuid_text(&VOLUME))).unwrap();
    let fence = Fence { volume: VOLUME, epoch: 5, suspect: false };
    store_fence(&DiskFiles::new(&root), &fence).unwrap();
    let mut ring = Ring::new(64).unwrap();
    let mut server = Server::new(5, &root, CLUSTER, 0, 1);

    let stranger = hello([9; 16], Role::Owner, 6);
    let heard = call(&mut server, &mut ring, stranger);
    assert_eq!(heard, Frame::Rejected(Rejection::Cluster));
    assert!(server.connections.is_empty(), "of another cluster");

    // The fence has to be read first; for the second one it is known.
    for role in [Role::Successor, Role::Remover, Role::Owner] {
        let heard = call(&mut server, &mut ring, hello(CLUSTER, role, 3));
        assert_eq!(heard, Frame::Refused { fence: 5 });
        assert!(server.connections.is_empty(), "of an older epoch, {role:?}");
    }
    let _ = std::fs::remove_dir_all(&root);
}
