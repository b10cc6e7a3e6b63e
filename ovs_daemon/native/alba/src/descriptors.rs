//! Objects that are open: a read of 4 KiB should not pay for opening and closing its object.
//!
//! An object never changes under its name, so a descriptor that is open stays right. It is closed
//! when the object is deleted, when it is the one that was used longest ago and others want its
//! place, and when anything is wrong with what it gave: whoever mends an object puts another file
//! in its place.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Descriptors that are kept open. A process may have 1024, unless its limits were raised, and SCO
/// files and guests need theirs.
const OPEN_MAX: usize = 128;

#[derive(Debug, Default)]
struct Open {
    files: HashMap<String, (Arc<File>, u64)>,
    /// Counts uses.
    now: u64,
    /// Counts what was closed: a file that was being opened meanwhile is not kept.
    closed: u64,
}

/// See the top of the file.
#[derive(Debug, Default)]
pub(crate) struct Descriptors {
    open: Mutex<Open>,
}

impl Descriptors {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The object's file, opened by `open` when it is not open yet.
    pub(crate) fn get(
        &self,
        name: &str,
        open: impl FnOnce() -> io::Result<File>,
    ) -> io::Result<Arc<File>> {
        let closed = {
            let mut guard = self.lock();
            let state = &mut *guard;
            state.now += 1;
            if let Some((file, used)) = state.files.get_mut(name) {
                *used = state.now;
                return Ok(file.clone());
            }
            state.closed
        };
        let file = Arc::new(open()?);
        let mut state = self.lock();
        if state.closed == closed {
            if state.files.len() >= OPEN_MAX {
                let oldest = state.files.iter().min_by_key(|(_, (_, used))| *used);
                let oldest = oldest.map(|(name, _)| name.clone()).unwrap_or_default();
                state.files.remove(&oldest);
            }
            let now = state.now;
            state.files.insert(name.to_owned(), (file.clone(), now));
        }
        Ok(file)
    }

    /// The object's file, if it is open already.
    pub(crate) fn peek(&self, name: &str) -> Option<Arc<File>> {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.now += 1;
        let (file, used) = state.files.get_mut(name)?;
        *used = state.now;
        Some(file.clone())
    }

    /// Closes an object, which is then opened anew.
    pub(crate) fn close(&self, name: &str) {
        let mut state = self.lock();
        state.closed += 1;
        state.files.remove(name);
    }

    /// Closes all objects below a folder.
    pub(crate) fn close_folder(&self, folder: &str) {
        let mut state = self.lock();
        state.closed += 1;
        let below = |name: &str| name.strip_prefix(folder).is_some_and(|n| n.starts_with('/'));
        state.files.retain(|name, _| !below(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn null() -> io::Result<File> {
        File::open("/dev/null")
    }

    fn never() -> io::Result<File> {
        panic!("it is open already")
    }

    #[test]
    fn what_was_used_longest_ago_makes_room() {
        let descriptors = Descriptors::default();
        for number in 0..OPEN_MAX {
            descriptors.get(&number.to_string(), null).unwrap();
        }
        descriptors.get("0", never).unwrap();
        assert!(descriptors.peek("1").is_some() && descriptors.peek("new").is_none());
        descriptors.get("1", never).unwrap();
        descriptors.get("new", null).unwrap();
        assert_eq!(descriptors.lock().files.len(), OPEN_MAX);
        descriptors.get("0", never).unwrap();
        assert!(!descriptors.lock().files.contains_key("2"));
    }

    #[test]
    fn what_is_closed_is_opened_anew() {
        let descriptors = Descriptors::default();
        for name in ["a/b/1", "a/b/2", "a/bc/3"] {
            descriptors.get(name, null).unwrap();
        }
        descriptors.close("a/b/1");
        assert!(!descriptors.lock().files.contains_key("a/b/1"));
        descriptors.close_folder("a/b");
        let left: Vec<String> = descriptors.lock().files.keys().cloned().collect();
        assert_eq!(left, ["a/bc/3"]);
    }

    #[test]
    fn a_file_that_is_closed_while_it_is_being_opened_is_not_kept() {
        let descriptors = Descriptors::default();
        let deleted_meanwhile = || {
            descriptors.close("a");
            null()
        };
        descriptors.get("a", deleted_meanwhile).unwrap();
        assert!(descriptors.lock().files.is_empty());
    }
}
