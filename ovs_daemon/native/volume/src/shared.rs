//! Closed SCOs that are still in a write buffer of this engine, for volumes that are clones of
//! others: a clone reads its parent's data where it is, before it has reached the backend.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use buffer::ScoFile;
use format::entry::Uuid;

/// Closed SCO files by log and number. Only reads of ancestors' data look here.
#[derive(Debug, Default)]
pub struct SharedScos {
    files: RwLock<HashMap<(Uuid, u32), Arc<ScoFile>>>,
}

impl SharedScos {
    pub(crate) fn put(&self, log: Uuid, sco: u32, file: Arc<ScoFile>) {
        self.files.write().expect("no holder panics").insert((log, sco), file);
    }

    pub(crate) fn remove(&self, log: &Uuid, sco: u32) {
        self.files.write().expect("no holder panics").remove(&(*log, sco));
    }

    pub(crate) fn get(&self, log: &Uuid, sco: u32) -> Option<Arc<ScoFile>> {
        self.files.read().expect("no holder panics").get(&(*log, sco)).cloned()
    }
}
