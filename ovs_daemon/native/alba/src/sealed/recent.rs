//! What was opened lately: tables of objects, and chunks of which only a part was wanted.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use super::reader::Open;

/// Entries of all tables that are kept: 24 bytes each. The table of a SCO of 64 MiB has 4097 and
/// few more.
const ENTRIES_MAX: usize = 1 << 20;
/// Objects whose tables are kept.
const OBJECTS_MAX: usize = 4096;
/// Chunks that are kept: 16 KiB each.
const CHUNKS_MAX: usize = 512;

#[derive(Debug, Default)]
struct State {
    objects: HashMap<String, Arc<Open>>,
    entries: usize,
    /// By object, put and number.
    chunks: HashMap<(String, u64, usize), Arc<Vec<u8>>>,
    order: VecDeque<(String, u64, usize)>,
}

/// See the top of the file.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<State>);

impl Recent {
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// An object that was opened, if it is still this put of it.
    pub(super) fn get(&self, object: &str, generation: u64) -> Option<Arc<Open>> {
        let found = self.with(|state| state.objects.get(object).cloned())?;
        (found.generation == generation).then_some(found)
    }

    pub(super) fn keep(&self, object: &str, open: &Arc<Open>) {
        self.with(|state| {
            let room = |state: &State| {
                state.entries + open.chunks.len() <= ENTRIES_MAX
                    && state.objects.len() < OBJECTS_MAX
            };
            while !room(state) {
                let Some(any) = state.objects.keys().next().cloned() else { break };
                state.drop_object(&any);
            }
            state.drop_object(object);
            state.entries += open.chunks.len();
            state.objects.insert(object.to_owned(), open.clone());
        });
    }

    pub(super) fn forget(&self, object: &str) {
        self.with(|state| state.drop_object(object));
    }

    pub(super) fn forget_folder(&self, folder: &str) {
        let below = format!("{folder}/");
        self.with(|state| {
            let names = state.objects.keys().filter(|name| name.starts_with(&below));
            let names: Vec<String> = names.cloned().collect();
            names.iter().for_each(|name| state.drop_object(name));
        });
    }

    /// The plain bytes of a chunk.
    pub(super) fn chunk(&self, object: &str, open: &Open, number: usize) -> Option<Arc<Vec<u8>>> {
        let key = (object.to_owned(), open.generation, number);
        self.with(|state| state.chunks.get(&key).cloned())
    }

    /// Keeps a chunk. Not of objects that have no other: those are read whole.
    pub(super) fn keep_chunk(&self, object: &str, open: &Open, number: usize, plain: Arc<Vec<u8>>) {
        if open.chunks.len() < 2 {
            return;
        }
        let key = (object.to_owned(), open.generation, number);
        self.with(|state| {
            if state.chunks.insert(key.clone(), plain).is_none() {
                state.order.push_back(key);
            }
            while state.order.len() > CHUNKS_MAX {
                if let Some(oldest) = state.order.pop_front() {
                    state.chunks.remove(&oldest);
                }
            }
        });
    }
}

impl State {
    fn drop_object(&mut self, object: &str) {
        if let Some(gone) = self.objects.remove(object) {
            self.entries -= gone.chunks.len();
            self.order.retain(|(name, _, _)| name != object);
            self.chunks.retain(|(name, _, _), _| name != object);
        }
    }
}
