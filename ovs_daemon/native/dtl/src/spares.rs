//! Files of SCOs that are on the backend, kept to become those of later SCOs.
//!
//! Getting fresh pages for a file and giving them back costs more than writing to pages that are there.
//! A file that is used again is longer than what it holds, until the next SCO is begun; behind the end
//! lies what an older SCO of the same log has left. Whoever reads it stops there, as at a torn tail: the
//! headers of the older one have another SCO's number and do not continue the chain. It gets its name
//! only after its first batch was written, and a wiped log leaves none: so one and the same SCO is never
//! twice in a file.

use std::path::Path;

use buffer::file_name;
use media::{Dir, File, StoreError};

use crate::gone::Gone;

/// What their names begin with; such a file is no part of a log.
const PREFIX: &str = "spare-";
/// For one volume: what is trimmed between two SCOs that begin.
const FILES_MAX: usize = 2;

/// A file and its length in bytes.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(crate) file: File,
    pub(crate) bytes: u64,
}

/// See the top of the file.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    files: Vec<Spare>,
}

impl Spares {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    /// Keeps the file of a SCO; false: it stays where it is.
    pub(crate) fn keep(&mut self, dir: &Dir, sco: u32) -> bool {
        if self.files.len() == FILES_MAX {
            return false;
        }
        let name = dir.join(&format!("{PREFIX}{sco:08x}"));
        let kept = File::open(&dir.join(&file_name(sco))).and_then(|mut file| {
            let bytes = file.len()?;
            file.rename(&name)?;
            Ok(Spare { file, bytes })
        });
        let renamed = kept.is_ok();
        self.files.extend(kept);
        renamed
    }

    /// One to be used; it still has its old name.
    pub(crate) fn take(&mut self) -> Option<Spare> {
        self.files.pop()
    }

    /// Gives up the oldest. One that keeps its name is removed when the folder is read again.
    pub(crate) fn drop_one(&mut self, gone: &mut Gone) {
        if !self.files.is_empty() {
            let _ = gone.add(self.files.remove(0).file.path());
        }
    }

    /// Gives up all of them, and every other file in the folder that has such a name.
    ///
    /// # Errors
    /// The first that occurred: some are left, of no use to anybody.
    pub(crate) fn drop_all(&mut self, dir: &Dir, gone: &mut Gone) -> Result<(), StoreError> {
        self.files.clear();
        let mut names = dir.list()?;
        names.retain(|name| name.starts_with(PREFIX));
        let mut done = Ok(());
        for name in names {
            done = done.and(gone.add(&dir.join(&name)));
        }
        done
    }

    /// Removes those that an earlier life has left.
    ///
    /// # Errors
    /// Any of them may be left.
    pub(crate) fn clear(path: &Path) -> Result<(), StoreError> {
        let dir = Dir::at(path);
        let mut names = dir.list()?;
        names.retain(|name| name.starts_with(PREFIX));
        names.iter().try_for_each(|name| dir.unlink(name))
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::path::PathBuf;

    use buffer::DiskFiles;
    use format::dtl::Fence;
    use format::entry::Uuid;
    use format::log::PAGE;
    use media::Slice;

    use super::*;
    use crate::gone;
    use crate::inspect::inspect;
    use crate::owner::Owner;
    use crate::replica::{Replica, mark_suspect, read, store_fence, uuid_text};

    const VOLUME: Uuid = [0x44; 16];

    /// A DTL node's folder, and the owner whose batches come to it.
    struct World {
        root: PathBuf,
        replica: Replica,
        owner: Owner,
    }

    impl World {
        fn new(name: &str) -> Self {
            let root = std::env::temp_dir().join(format!("ovs-dtl-{name}-{}", std::process::id()));
            let _ = Dir::at(&root).remove_all();
            Dir::create(&root.join(uuid_text(&VOLUME))).unwrap();
            let fence = Fence { volume: VOLUME, epoch: 1, suspect: false };
            store_fence(&DiskFiles::new(&root), &fence).unwrap();
            let replica = Replica::load(&root, &VOLUME).unwrap().replica;
            Self { root, replica, owner: Owner::new(VOLUME) }
        }

        fn append(&mut self, clusters: usize) {
            let payload = Slice::copy_of(&self.owner.batch(clusters)).unwrap();
            let new = inspect(&payload, &VOLUME, &mut Vec::new()).unwrap();
            self.replica.append(&new, &payload).unwrap();
        }

        fn begin(&mut self, clusters: usize) {
            self.owner.next_sco();
            self.append(clusters);
        }

        /// What a process that starts now finds is all that was taken, and nothing else.
        fn check(&self) {
            let found = read(&DiskFiles::new(&self.root), &VOLUME).unwrap();
            assert_eq!((found.held.end, found.held.suspect), (Some(self.owner.end()), false));
            assert_eq!(found.scos, self.replica.scos());
            assert!(found.remove.is_empty());
        }

        fn names(&self) -> Vec<String> {
            let mut names = Dir::at(&self.path("")).list().unwrap();
            names.sort();
            names
        }

        /// The folder has no room for the names of files that are taken out of use.
        fn has_no_names(&self) {
            for number in 0..20 {
                let name = self.path(&format!("gone-{number:016x}"));
                Dir::create(&name.join("taken")).unwrap();
            }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.root.join(uuid_text(&VOLUME)).join(name)
        }

        fn inode(&self, sco: u32) -> u64 {
            std::fs::metadata(self.path(&file_name(sco))).unwrap().ino()
        }

        fn pages(&self, sco: u32) -> u64 {
            std::fs::metadata(self.path(&file_name(sco))).unwrap().len() / PAGE as u64
        }
    }

    impl Drop for World {
        fn drop(&mut self) {
            let _ = Dir::at(&self.root).remove_all();
        }
    }

    #[test]
    fn a_file_is_used_again_and_found_whole_after_every_batch() {
        let mut world = World::new("again");
        world.begin(3);
        (0..4).for_each(|_| world.append(2));
        let first = world.inode(1);
        world.begin(1);
        world.replica.unlink(2);
        assert_eq!(world.replica.spares(), 1);
        world.check();
        world.begin(2);
        assert_eq!((world.inode(3), world.replica.spares()), (first, 0));
        let long = world.pages(3);
        world.check();
        // Batches begin and end elsewhere than those that lie below them.
        for clusters in [1, 3, 1] {
            world.append(clusters);
            world.check();
            assert_eq!(world.pages(3), long, "what the older SCO had is still behind the end");
        }
        let end = world.owner.bytes() / PAGE as u64;
        assert!(end < long);
        world.begin(1);
        assert_eq!(world.pages(3), end, "only the newest file may be longer than what it holds");
        world.check();
    }

    #[test]
    fn after_a_restart_the_newest_file_ends_where_the_log_does() {
        let mut world = World::new("restart");
        world.begin(8);
        world.begin(1);
        world.replica.unlink(2);
        world.begin(2);
        assert!(world.pages(3) > world.owner.bytes() / PAGE as u64);
        world.begin(1);
        world.replica.unlink(4);
        world.begin(1);
        // Two are kept now; the process that starts next does not know them.
        let loaded = Replica::load(&world.root, &VOLUME).unwrap();
        assert_eq!(loaded.held.end, Some(world.owner.end()));
        world.replica = loaded.replica;
        assert_eq!(world.pages(world.owner.sco), world.owner.bytes() / PAGE as u64);
        let names = Dir::at(&world.path("")).list().unwrap();
        assert!(!names.iter().any(|name| name.starts_with(PREFIX)), "{names:?}");
        world.append(2);
        world.check();
    }

    #[test]
    fn a_batch_that_was_cut_off_over_an_older_one_is_not_taken_for_whole() {
        let mut world = World::new("torn");
        world.begin(6);
        world.append(6);
        world.begin(1);
        world.replica.unlink(2);
        world.begin(1);
        let (end, at) = (world.owner.end(), world.owner.bytes());
        let payload = world.owner.batch(4);
        for pages in 0..payload.len() / PAGE {
            let file = File::open(&world.path(&file_name(3))).unwrap();
            file.write_bytes_at(at, &payload[..pages * PAGE]).unwrap();
            let found = read(&DiskFiles::new(&world.root), &VOLUME).unwrap();
            let held = (found.held.end, found.held.suspect);
            assert_eq!(held, (Some(end), false), "{pages} pages");
        }
    }

    #[test]
    fn a_log_that_is_wiped_leaves_no_file_to_be_used_again() {
        let mut world = World::new("wiped");
        world.begin(2);
        world.begin(2);
        world.replica.unlink(2);
        world.replica.wipe().unwrap();
        assert_eq!(world.replica.spares(), 0);
        gone::remove(&world.replica.take_gone()).unwrap();
        assert_eq!(Dir::at(&world.path("")).list().unwrap(), ["fence"]);
        world.begin(1);
        world.check();
        world.begin(1);
        world.replica.unlink(4);
        world.replica.drop_spare();
        world.begin(1);
        world.check();
    }

    #[test]
    fn a_log_that_is_wiped_leaves_no_file_whose_first_batch_failed() {
        let mut world = World::new("unnamed");
        world.begin(2);
        world.begin(2);
        world.replica.unlink(2);
        world.replica.create(3).unwrap();
        assert_eq!(world.names(), [&file_name(2), "fence", "spare-00000001"]);
        // Of this one nobody knows.
        std::fs::write(world.path("spare-00000000"), "").unwrap();
        world.replica.wipe().unwrap();
        gone::remove(&world.replica.take_gone()).unwrap();
        assert_eq!(world.names(), ["fence"]);
        world.begin(1);
        world.check();
    }

    #[test]
    fn files_that_get_no_new_name_are_removed_at_once() {
        let mut world = World::new("full");
        world.has_no_names();
        let names = |world: &World| -> Vec<String> {
            world.names().into_iter().filter(|name| !name.starts_with("gone-")).collect()
        };
        (0..6).for_each(|_| world.begin(2));
        world.replica.unlink(6);
        assert_eq!(names(&world), [&file_name(6), "fence", "spare-00000001", "spare-00000002"]);
        world.check();
        world.replica.drop_spare();
        world.begin(1);
        world.check();
        assert_eq!(names(&world), [&file_name(6), &file_name(7), "fence"]);
        world.begin(1);
        world.replica.unlink(8);
        world.replica.wipe().unwrap();
        assert_eq!(names(&world), ["fence"]);
        assert!(world.replica.take_gone().is_empty());
    }

    #[test]
    fn a_file_that_stays_has_no_hole_behind_it_and_is_tried_again() {
        let mut world = World::new("stays");
        world.has_no_names();
        (0..5).for_each(|_| world.begin(2));
        // It can be given no name, nor removed.
        let (name, aside) = (world.path(&file_name(1)), world.root.join("aside"));
        std::fs::rename(&name, &aside).unwrap();
        std::fs::create_dir(&name).unwrap();
        world.replica.unlink(5);
        std::fs::remove_dir(&name).unwrap();
        std::fs::rename(&aside, &name).unwrap();
        world.check();
        assert_eq!(world.replica.scos().len(), 5);
        world.begin(1);
        world.check();
        assert_eq!(world.replica.scos().iter().map(|(sco, _)| *sco).collect::<Vec<_>>(), [5, 6]);
    }

    #[test]
    fn a_file_that_got_its_old_name_back_takes_no_other_with_it() {
        let mut world = World::new("misnamed");
        (0..5).for_each(|_| world.begin(2));
        let end = world.owner.end();
        world.replica.unlink(3);
        world.begin(2);
        // Power loss undid the names of both files that were kept; one of them is in use again.
        let spare = world.path(&format!("{PREFIX}{:08x}", 1));
        std::fs::rename(spare, world.path(&file_name(1))).unwrap();
        std::fs::rename(world.path(&file_name(6)), world.path(&file_name(2))).unwrap();
        mark_suspect(&DiskFiles::new(&world.root), &VOLUME).unwrap();
        let loaded = Replica::load(&world.root, &VOLUME).unwrap();
        let held = loaded.held;
        assert_eq!((held.begin, held.end), (2, Some(end)));
        assert!(held.suspect);
        assert_eq!(world.names(), [&file_name(3), &file_name(4), &file_name(5), "fence"]);
    }
}
