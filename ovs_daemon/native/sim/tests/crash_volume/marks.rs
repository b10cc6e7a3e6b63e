//! The marks of a clone: what a power loss leaves of them while the clone is being deleted.

use std::sync::Arc;

use alba::{Backend, Result, Sink};
use sim::crash::{Crash, CrashBounds, CrashReport, enumerate};
use sim::explore::Violation;
use sim::faulty::FaultyFiles;
use sim::memory::{Image, MemoryFiles};

use crate::backend::FilesBackend;

const PARENT: &str = "aaaaaaaa-0000-4000-8000-000000000001";
const CLONE: &str = "bbbbbbbb-0000-4000-8000-000000000002";
const DELETED: u64 = 1;

fn backend(memory: &MemoryFiles) -> FilesBackend {
    let files = Arc::new(FaultyFiles::new(memory.clone(), Vec::new()));
    FilesBackend { files, sync_objects: true }
}

/// Deletes the clone, as the engine does, which finds the parent by what the clone says.
fn delete(backend: &dyn Backend) -> Result<()> {
    let is_clone = backend.len(&volume::parent_name(CLONE))?.is_some();
    volume::remove(backend, CLONE, is_clone.then_some(PARENT))
}

/// A backend whose author forgot that deletions have to be settled.
struct Unsettled(FilesBackend);

impl Backend for Unsettled {
    fn put(
        &self,
        name: &str,
        fill: &mut dyn FnMut(&mut dyn Sink) -> Result<()>,
    ) -> Result<alba::Put> {
        self.0.put(name, fill)
    }
    fn read(&self, name: &str, offset: u64, into: &mut [u8]) -> Result<()> {
        self.0.read(name, offset, into)
    }
    fn len(&self, name: &str) -> Result<Option<u64>> {
        self.0.len(name)
    }
    fn list(&self, folder: &str) -> Result<Vec<String>> {
        self.0.list(folder)
    }
    fn delete(&self, name: &str) -> Result<()> {
        self.0.delete(name)
    }
    fn delete_folder(&self, folder: &str) -> Result<()> {
        self.0.delete_folder(folder)
    }
    fn sweep(&self, folder: &str) -> Result<()> {
        self.0.sweep(folder)
    }
}

/// Whoever comes after a crash deletes again what he was not told is deleted; then nothing may keep
/// the parent.
fn check(crash: &Crash<'_>) -> std::result::Result<(), Violation> {
    let backend = backend(&MemoryFiles::from_image(crash.image.clone()));
    if crash.marks.last() != Some(&DELETED) {
        delete(&backend).expect("the memory twin has no faults");
    }
    let pins = backend.list(&volume::pins_folder(PARENT)).expect("the memory twin has no faults");
    match pins.is_empty() {
        true => Ok(()),
        false => Err(Violation::new("a deleted clone keeps no parent", format!("{pins:?}"))),
    }
}

fn deleted_with(wrap: impl Fn(FilesBackend) -> Box<dyn Backend>) -> CrashReport {
    let memory = MemoryFiles::new();
    let files = backend(&memory);
    volume::pin(&files, CLONE, PARENT, b"a snapshot of it").expect("the memory twin has room");
    files.put(&alba::sco_name(CLONE, 1), &mut |sink| sink.write(b"data")).expect("room");
    let base: Image = memory.image();
    let memory = memory.recording();
    delete(&*wrap(backend(&memory))).expect("the memory twin has no faults");
    memory.mark(DELETED);
    enumerate(&base, &memory.log(), &CrashBounds::default(), &mut check)
}

#[test]
fn a_deleted_clone_never_keeps_its_parent() {
    let report = deleted_with(|files| Box::new(files));
    assert!(report.failure.is_none(), "{}", report.failure.expect("it was just asked"));
    assert!(report.images > 3, "{} images are too few to mean something", report.images);
    let report = deleted_with(|files| Box::new(Unsettled(files)));
    assert!(report.failure.is_some(), "that deletions have to be settled went unnoticed");
}
