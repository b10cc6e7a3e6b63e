//! Fragments whose pages are sent without a copy, and what becomes of the pages.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use alba::code::Codec;
use alba::folder::read_claim;
use alba::osd::{Answer, Osd, Parts, Request, fragment_path};
use alba::part::Part;
use alba::pieces::{Label, encode_piece, padded_len};
use alba::remote::Fleet;
use alba::{Cause, Put};
use machines::alba::{Cut, Layout};
use media::{Buffer, Pool};

use crate::tests::{Lab, content};

const OBJECT: &str = "a/b";
const FRAGMENT: usize = 1 << 20;

/// A data fragment of an object in a buffer of the pool: its path, and its file.
fn fragment(pool: &Arc<Pool>) -> (String, Parts) {
    let layout = Layout::new(4, 2, 3, 1).unwrap();
    let (codec, len) = (Codec::new(layout), 4 * FRAGMENT);
    let cut = Cut::new(&layout, len as u64, FRAGMENT as u64);
    let mut buffer: Buffer = pool.take(padded_len(&codec, &cut)).unwrap();
    buffer.copy_from_slice(&content(3, len));
    let label = Label {
        object: OBJECT,
        object_len: len as u64,
        acknowledge: 5,
        generation: 9,
        sealed: false,
    };
    let padded = Part::from(buffer).into();
    let fragments = encode_piece(&codec, &label, &padded, &cut, 0, pool).unwrap();
    let fragment = fragments.into_iter().next().unwrap();
    let name = fragment.header.name().unwrap();
    (fragment_path(OBJECT, &name), fragment.into_parts())
}

/// Passes on what comes, until `cut` says that it is the time; true: it has.
fn pass_on(mut from: TcpStream, mut to: TcpStream, cut: &AtomicBool) {
    let (mut bytes, mut passed) = (vec![0; 64 << 10], 0);
    loop {
        match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(len) if to.write_all(&bytes[..len]).is_ok() => passed += len,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            _ => break,
        }
        if passed > FRAGMENT / 4 && cut.swap(false, Ordering::Relaxed) {
            break;
        }
    }
    // Both ways end.
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// A way to a server that breaks once, within a fragment, if `cut` says so.
fn relay(server: SocketAddr, cut: Arc<AtomicBool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // It ends with the process.
    thread::spawn(move || {
        for client in listener.incoming() {
            let (client, server) = (client.unwrap(), TcpStream::connect(server).unwrap());
            let (back, answers) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let (cut, never) = (cut.clone(), AtomicBool::new(false));
            thread::spawn(move || pass_on(client, server, &cut));
            thread::spawn(move || pass_on(answers, back, &never));
        }
    });
    address
}

/// Puts a fragment over a connection that breaks or not; bytes that its buffers leave to others.
fn kept_after_a_put(name: &str, breaks: bool) -> usize {
    let lab = Lab::new(name);
    let fleet = Fleet::start(lab.patient_link()).unwrap();
    let claim = read_claim(&lab.folder(0)).unwrap().unwrap();
    let cut = Arc::new(AtomicBool::new(breaks));
    let osd: &dyn Osd = &fleet.add(claim, relay(lab.addresses()[0], cut.clone()));
    let pool = Pool::new(64 << 20);
    let (path, parts) = fragment(&pool);
    let file: Vec<u8> = parts.iter().flat_map(|part| part.to_vec()).collect();
    let stored = osd.call(Request::Put { path: path.clone(), parts });
    assert_eq!(stored, Ok(Answer::Put(Put::Created)));
    assert!(!cut.load(Ordering::Relaxed), "the connection was not cut");
    assert!(std::fs::read(lab.folder(0).join(&path)).unwrap() == file);
    // The fleet's thread lets go of a request behind its answer, and before the next one's.
    let again = osd.call(Request::Put { path, parts: Arc::new(vec![vec![0; 9].into()]) });
    assert_eq!(again.unwrap_err().cause, Cause::Corrupt);
    pool.kept()
}

#[test]
fn pages_are_used_again_when_the_osd_has_answered() {
    // The object, and its parity.
    assert_eq!(kept_after_a_put("lend-answered", false), 4 * FRAGMENT + 6 * FRAGMENT);
}

#[test]
fn pages_of_a_connection_that_broke_are_never_used_again() {
    // The parity was not sent.
    assert_eq!(kept_after_a_put("lend-broken", true), 6 * FRAGMENT);
}
