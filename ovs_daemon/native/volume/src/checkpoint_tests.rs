//! Volumes that share chunks in memory: each checkpoint must stand on its own ancestors.
#![allow(clippy::disallowed_methods)]

use std::path::PathBuf;

use alba::Directory;
use machines::map::Loc;

use super::*;
use crate::open::uuid_text;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        Folder(std::env::temp_dir().join(format!("ovs-{name}-{}", std::process::id())))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn logs(uuids: &[Uuid]) -> Vec<(Uuid, String)> {
    uuids.iter().map(|uuid| (*uuid, uuid_text(uuid))).collect()
}

/// The checkpoint of the last of `uuids`, whose head is `map`. All are pinned, as volumes with
/// clones are.
fn checkpoint(uuids: &[Uuid], number: u64, map: &Map) -> NewCheckpoint {
    let ancestors = logs(uuids);
    let (log, log_text) = ancestors.last().cloned().expect("a log");
    NewCheckpoint {
        taken: Taken {
            position: 1,
            last_sequence: 1,
            scos: Vec::new(),
            map: map.clone(),
            snapshots: Vec::new(),
        },
        log,
        log_text,
        own_log: (ancestors.len() - 1) as u16,
        ancestors,
        epoch: 1,
        number,
        last_crc: 0,
        existing: BTreeSet::new(),
        pinned: true,
    }
}

#[test]
fn volumes_that_share_chunks_store_checkpoints_that_open() {
    let folder = Folder::new("shared-chunks");
    let backend = Directory::open(&folder.0).expect("a folder for the backend");
    let mut shared = Map::new();
    for lba in [5, 70_000, 140_000] {
        let loc = Loc { log: 0, sco: 1, ordinal: lba as u16 };
        shared.set(lba, 9, loc, &mut |_, _| {}).expect("in range");
    }
    let [parent, first, second] = [[1; 16], [2; 16], [3; 16]];
    // The parent's snapshot was not in a checkpoint yet when both clones opened on it. Numbers are
    // chosen so that a reference to a sibling's object would find another one, or none.
    let volumes: [(&[Uuid], u64); 4] =
        [(&[parent, first], 1), (&[parent, second], 2), (&[parent], 3), (&[parent, second], 4)];
    for (uuids, number) in volumes {
        store(&backend, &checkpoint(uuids, number, &shared), &|| true).expect("a checkpoint");
    }
    for (uuids, number) in volumes {
        let loaded = load(&backend, &logs(uuids), number).expect("a checkpoint that opens");
        assert_eq!(loaded.map, shared);
    }
    // What the parent has stored, its clones refer to.
    let loaded = load(&backend, &logs(&[parent, second]), 4).expect("a checkpoint that opens");
    let places: Vec<(u16, u64)> =
        loaded.metadata.maps[0].chunks.iter().map(|at| (at.log, at.object)).collect();
    assert_eq!(places, [(0, 3); 3]);
}
