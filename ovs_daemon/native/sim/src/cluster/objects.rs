//! The backend, shared by all nodes: objects in memory that are stored once, whole and durably.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use alba::{Backend, BackendError, Cause, Put, Result, Sink};

use crate::random::Random;

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Vec<u8>>,
    away: bool,
    /// So many puts store the object and report a failure.
    lost_answers: u32,
}

/// See the top of the file.
#[derive(Default)]
pub(super) struct Objects(Mutex<State>);

struct Buffered(Vec<u8>);

impl Sink for Buffered {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

fn failed(attempted: &'static str, object: &str, cause: Cause, why: &str) -> BackendError {
    BackendError { attempted, object: object.to_owned(), cause, why: why.to_owned() }
}

impl Objects {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_away(&self, away: bool) {
        self.lock().away = away;
    }

    pub(super) fn lose_answers(&self, puts: u32) {
        self.lock().lost_answers = puts;
    }

    /// Flips a bit of an object; where.
    pub(super) fn rot(&self, random: &mut Random) -> Option<String> {
        let mut state = self.lock();
        let index = random.index(state.objects.len());
        let (name, bytes) = state.objects.iter_mut().nth(index)?;
        let at = random.index(bytes.len());
        bytes[at] ^= 1 << random.index(8);
        Some(format!("byte {at} of object {name}"))
    }

    fn reach(&self, attempted: &'static str, object: &str) -> Result<MutexGuard<'_, State>> {
        let state = self.lock();
        match state.away {
            true => Err(failed(attempted, object, Cause::Failed, "the backend is away")),
            false => Ok(state),
        }
    }
}

impl Backend for Objects {
    fn put(&self, name: &str, fill: &mut dyn FnMut(&mut dyn Sink) -> Result<()>) -> Result<Put> {
        if self.reach("put", name)?.objects.contains_key(name) {
            return Ok(Put::Exists);
        }
        let mut sink = Buffered(Vec::new());
        fill(&mut sink)?;
        let mut state = self.lock();
        state.objects.insert(name.to_owned(), sink.0);
        if state.lost_answers > 0 {
            state.lost_answers -= 1;
            return Err(failed("put", name, Cause::Failed, "the answer was lost"));
        }
        Ok(Put::Created)
    }

    fn read(&self, name: &str, offset: u64, into: &mut [u8]) -> Result<()> {
        let state = self.reach("read", name)?;
        let object = state.objects.get(name);
        let object =
            object.ok_or_else(|| failed("read", name, Cause::NotFound, "there is none"))?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = object.get(start..).and_then(|rest| rest.get(..into.len()));
        let bytes = bytes.ok_or_else(|| failed("read", name, Cause::Corrupt, "it ends before"))?;
        into.copy_from_slice(bytes);
        Ok(())
    }

    fn len(&self, name: &str) -> Result<Option<u64>> {
        Ok(self.reach("measure", name)?.objects.get(name).map(|bytes| bytes.len() as u64))
    }

    fn list(&self, folder: &str) -> Result<Vec<String>> {
        let state = self.reach("list", folder)?;
        let prefix = format!("{folder}/");
        let inside = state.objects.keys().filter_map(|name| name.strip_prefix(&prefix));
        Ok(inside.filter(|name| !name.contains('/')).map(str::to_owned).collect())
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.reach("delete", name)?.objects.remove(name);
        Ok(())
    }

    fn delete_folder(&self, folder: &str) -> Result<()> {
        let prefix = format!("{folder}/");
        self.reach("delete", folder)?.objects.retain(|name, _| !name.starts_with(&prefix));
        Ok(())
    }

    fn sweep(&self, folder: &str) -> Result<()> {
        self.reach("sweep", folder).map(|_| ())
    }
}
