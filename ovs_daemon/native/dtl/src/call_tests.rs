//! What a call tells about the node that was called, and what about the volume only.
#![allow(clippy::disallowed_methods)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use super::*;

/// For an answer that does not come; the connection is made in less, however busy the machine is.
const SHORT: Patience = Patience(Duration::from_secs(2));
/// For an answer that comes.
const LONG: Patience = Patience(Duration::from_secs(60));

fn caller(address: SocketAddr) -> Caller {
    Caller { address, cluster: [1; 16], volume: [7; 16], epoch: 3, generation: 1 }
}

/// A node that does this with each of so many hellos.
fn node(hellos: usize, answer: fn(TcpStream, Hello)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().take(hellos) {
            let mut stream = stream.unwrap();
            let mut bytes = [0; FRAME];
            stream.read_exact(&mut bytes).unwrap();
            let Ok(Frame::Hello(hello)) = Frame::decode(&bytes) else { panic!("a hello") };
            answer(stream, hello);
        }
    });
    address
}

/// Until the caller has gone.
fn say_nothing(mut stream: TcpStream) {
    let _ = stream.read(&mut [0]);
}

#[test]
fn nobody_who_listens_is_a_node_that_is_away() {
    let caller = caller(SocketAddr::from(([127, 0, 0, 1], 1)));
    assert!(matches!(greet(&caller, LONG), Err(CallError::Unreachable(_))));
    assert!(!caller.is_there(LONG));
}

#[test]
fn a_node_that_stands_still_answers_nobody() {
    // The kernel takes its connections all the same.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let caller = caller(listener.local_addr().unwrap());
    assert!(matches!(greet(&caller, SHORT), Err(CallError::Late(_))));
    assert!(!caller.is_there(SHORT));
}

#[test]
fn a_node_that_reads_much_for_a_volume_is_there() {
    let caller = caller(node(2, |mut stream, hello| match hello.version {
        VERSION => say_nothing(stream),
        _ => stream.write_all(&Frame::Rejected(Rejection::Version).encode()).unwrap(),
    }));
    assert!(matches!(greet(&caller, SHORT), Err(CallError::Late(_))));
    assert!(caller.is_there(LONG));
}

#[test]
fn a_node_that_hangs_up_is_there() {
    let caller = caller(node(2, |stream, _| drop(stream)));
    assert!(matches!(greet(&caller, LONG), Err(CallError::Broken(_))));
    assert!(caller.is_there(LONG));
}

#[test]
fn what_this_host_lacks_is_not_the_nodes_fault() {
    let too_many_files = io::Error::from_raw_os_error(24);
    assert!(matches!(CallError::of_connecting(too_many_files), CallError::Broken(_)));
    let no_route = io::Error::from_raw_os_error(113);
    assert!(matches!(CallError::of_connecting(no_route), CallError::Unreachable(_)));
}
