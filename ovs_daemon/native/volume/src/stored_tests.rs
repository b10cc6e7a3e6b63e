//! What is not stored.
#![allow(clippy::disallowed_methods)]

use std::cell::Cell;

use alba::Directory;

use super::*;
use crate::open::uuid_text;

/// A SCO of empty clusters.
struct Empty(ScoIndex);

impl ScoSource for Empty {
    fn index(&self) -> &ScoIndex {
        &self.0
    }

    fn name(&self) -> String {
        "an empty SCO".to_owned()
    }

    fn span(&self, _ordinal: u32, count: u32) -> usize {
        count as usize * PAGE
    }

    fn read(
        &self,
        _ordinal: u32,
        count: u32,
        into: &mut [u8],
    ) -> Result<Vec<(usize, usize)>, String> {
        into.fill(0);
        Ok(vec![(0, count as usize)])
    }
}

#[test]
fn what_nobody_could_open_is_not_stored() {
    let root = std::env::temp_dir().join(format!("ovs-refused-{}", std::process::id()));
    let backend = Directory::open(&root).expect("a folder for the backend");
    let log = [1; 16];
    let text = uuid_text(&log);
    for (sco, clusters, fine) in [(1, 3, true), (2, (1 << 16) + 1, false)] {
        let crcs = vec![crc32c(&[0; PAGE]); clusters];
        let entries = vec![Entry::Data { lba: 0, clusters: clusters as u32 }];
        let source = Empty(ScoIndex { entries, crcs, ..ScoIndex::default() });
        let stored = store_sco(&backend, &log, &text, sco, &source);
        let length = backend.len(&sco_name(&text, sco)).expect("the backend answers");
        assert_eq!((stored.is_ok(), length.is_some()), (fine, fine), "{stored:?}");
    }
    let _ = std::fs::remove_dir_all(&root);
}

/// A SCO whose clusters have a mebibyte of headers between them.
struct Sparse {
    index: ScoIndex,
    /// Bytes that were read at once.
    most: Cell<usize>,
}

const GAP: usize = 256;

fn cluster(number: usize) -> [u8; PAGE] {
    [number as u8 + 1; PAGE]
}

impl ScoSource for Sparse {
    fn index(&self) -> &ScoIndex {
        &self.index
    }

    fn name(&self) -> String {
        "a sparse SCO".to_owned()
    }

    fn span(&self, _ordinal: u32, count: u32) -> usize {
        ((count as usize - 1) * GAP + 1) * PAGE
    }

    fn read(
        &self,
        ordinal: u32,
        count: u32,
        into: &mut [u8],
    ) -> Result<Vec<(usize, usize)>, String> {
        self.most.set(self.most.get().max(into.len()));
        let place = |which: usize| {
            let at = which * GAP * PAGE;
            into[at..at + PAGE].copy_from_slice(&cluster(ordinal as usize + which));
            (which * GAP, 1)
        };
        Ok((0..count as usize).map(place).collect())
    }
}

#[test]
fn what_lies_between_clusters_is_read_a_little_at_a_time() {
    let root = std::env::temp_dir().join(format!("ovs-sparse-{}", std::process::id()));
    let backend = Directory::open(&root).expect("a folder for the backend");
    let (log, clusters) = ([1; 16], 100);
    let text = uuid_text(&log);
    let crcs = (0..clusters).map(|number| crc32c(&cluster(number))).collect();
    let entries = vec![Entry::Data { lba: 0, clusters: clusters as u32 }];
    let index = ScoIndex { entries, crcs, ..ScoIndex::default() };
    let source = Sparse { index, most: Cell::new(0) };
    store_sco(&backend, &log, &text, 1, &source).expect("it is stored");
    assert!(source.most.get() <= BLOCK_SPAN, "{} bytes at once", source.most.get());
    let mut bytes = vec![0; clusters * PAGE];
    read_clusters(&backend, &sco_name(&text, 1), clusters as u32, 0, &mut bytes)
        .expect("it is sound");
    for (number, stored) in bytes.chunks_exact(PAGE).enumerate() {
        assert!(*stored == cluster(number), "cluster {number} is another one");
    }
    let _ = std::fs::remove_dir_all(&root);
}
