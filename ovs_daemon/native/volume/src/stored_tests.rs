//! What is not stored.
#![allow(clippy::disallowed_methods)]

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
