//! What the upkeep asks of a server.

use std::fs;
use std::sync::Arc;

use alba::folder::read_claim;
use alba::osd::{Answer, Osd, Request};
use alba::remote::Fleet;
use alba::{Cause, Put};
use format::osd::wire::Class;

use crate::tests::{Lab, content, put, until};

const BYTES: usize = 3_000_000;

fn read(osd: &dyn Osd, path: &str, payload_len: u64, class: Class) -> alba::Result<Answer> {
    let len = payload_len as u32;
    osd.call_for(class, Request::Get { path: path.to_owned(), payload_len, offset: 0, len })
}

/// Asks until the server, which runs, is connected: that takes a thread that gives way to all others
/// longer than anybody waits, where the machine is busy.
fn is_served(osd: &dyn Osd, path: &str, payload: &[u8], class: Class) {
    until("what is asked is served", || match read(osd, path, payload.len() as u64, class) {
        Ok(answer) => {
            assert!(answer == Answer::Bytes(payload.to_vec()), "{class:?}");
            true
        }
        Err(error) => {
            assert_eq!(error.cause, Cause::Failed, "{class:?}: {error}");
            false
        }
    });
}

#[test]
fn the_upkeep_is_served_beside_guests_and_again_after_a_server_came_back() {
    let mut lab = Lab::new("upkeep");
    let fleet = Fleet::start_with_upkeep(lab.link()).unwrap();
    let claim = read_claim(&lab.folder(0)).unwrap().unwrap();
    let osd: &dyn Osd = &fleet.add(claim, lab.addresses()[0]);
    put(&lab.open(), "a/b", &content(1, BYTES)).unwrap();
    // Those that were slow come later.
    until("the OSD has fragments", || osd.fragments("a/b").is_ok_and(|all| !all.is_empty()));
    let name = osd.fragments("a/b").unwrap()[0];
    let payload_len = osd.header("a/b", &name).unwrap().payload_len() as u64;
    let path = format!("a/b.obj/{name}");
    let file = fs::read(lab.folder(0).join(&path)).unwrap();
    let payload = file[4096..][..payload_len as usize].to_vec();
    for _ in 0..2 {
        for class in [Class::Guest, Class::Upkeep] {
            is_served(osd, &path, &payload, class);
        }
        let observed = osd.traffic().fragments;
        assert!(observed >= 2 * payload_len, "both are counted: {observed}");
        lab.stop(0);
        for class in [Class::Upkeep, Class::Guest] {
            let error = read(osd, &path, payload_len, class).unwrap_err();
            let nothing = matches!(error.cause, Cause::Failed | Cause::Unanswered);
            assert!(nothing, "{class:?}: {error}");
        }
        lab.restart(0);
        until("the server is reached again", || osd.reachable());
    }
    is_served(osd, &path, &payload, Class::Upkeep);
    // What it stores is written in steps, and is the same file.
    osd.delete("a/b", &name).unwrap();
    assert!(!lab.folder(0).join(&path).exists());
    for expected in [Put::Created, Put::Exists] {
        let parts = Arc::new(vec![file.clone().into()]);
        let stored = osd.call_for(Class::Upkeep, Request::Put { path: path.clone(), parts });
        assert_eq!(stored, Ok(Answer::Put(expected)));
        assert!(fs::read(lab.folder(0).join(&path)).unwrap() == file);
    }
    let mut damaged = file;
    damaged[5000] ^= 1;
    let parts = Arc::new(vec![damaged.into()]);
    let refused = osd.call_for(Class::Upkeep, Request::Put { path, parts });
    assert_eq!(refused.unwrap_err().cause, Cause::Corrupt);
}
