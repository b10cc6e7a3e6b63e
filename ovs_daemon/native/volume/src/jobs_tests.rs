//! When a node counts as away, for all volumes that want to connect to it.
#![allow(clippy::disallowed_methods)]

use std::io::Read;
use std::net::TcpListener;
use std::time::Duration;

use super::*;

fn work(address: SocketAddr) -> [Work; 2] {
    let (cluster, volume, epoch) = ([1; 16], [7; 16], 3);
    let caller = Caller { address, cluster, volume, epoch, generation: 1 };
    let origin = format::mds::encode_origin(None, &[volume]);
    let follower = mds::Caller { address, cluster, volume, epoch, origin };
    [Work::Connect { caller }, Work::Follow { connection: 1, caller: follower }]
}

#[test]
fn a_node_where_nobody_listens_is_away_and_one_that_hangs_up_is_not() {
    let root = std::env::temp_dir().join(format!("ovs-jobs-{}", std::process::id()));
    let backend = alba::Directory::open(&root).unwrap();
    let run = |work: Work| Job { volume: 1, work, standing: Arc::default() }.run(&backend).outcome;

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let hangs_up = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; format::dtl::FRAME]).unwrap();
    });
    let [connect, _] = work(address);
    let outcome = run(connect);
    assert!(matches!(&outcome, Outcome::Connected { result: Err(Unreached::Failed(_)), .. }));
    assert!(!outcome.is_away(), "only this volume may be the cause");
    hangs_up.join().unwrap();
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    assert!(work(nobody).into_iter().all(|work| run(work).is_away()));
    let _ = std::fs::remove_dir_all(&root);
}

#[test]
fn a_node_that_stands_still_is_away() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let [Work::Connect { caller }, _] = work(listener.local_addr().unwrap()) else {
        panic!("an owner's call")
    };
    // The connection is made in less, however busy the machine is.
    let result = connect(&caller, Patience(Duration::from_secs(2)));
    assert!(matches!(result, Err(Unreached::Away(_))), "{result:?}");
}
