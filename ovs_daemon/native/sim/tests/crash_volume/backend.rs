//! `alba::Directory` on recording files: the same steps in the same order.

use std::sync::Arc;

use alba::{Backend, BackendError, Cause, Put, Result, Sink};
use buffer::files::{FileError, Files};
use sim::faulty::FaultyFiles;
use sim::memory::MemoryFiles;

const TEMPORARY: &str = ".put";

/// Files in memory that may lie.
pub(crate) type TestFiles = Arc<FaultyFiles<MemoryFiles>>;

/// Objects below `backend/`.
pub(crate) struct FilesBackend {
    pub(crate) files: TestFiles,
    /// The planted omission of `Forget::SyncObject`.
    pub(crate) sync_objects: bool,
}

struct Buffered(Vec<u8>);

impl Sink for Buffered {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

fn failed(object: &str) -> impl Fn(FileError) -> BackendError + '_ {
    move |error| BackendError {
        attempted: "reach",
        object: object.to_owned(),
        cause: Cause::Failed,
        why: error.to_string(),
    }
}

fn path(name: &str) -> String {
    format!("backend/{name}")
}

impl Backend for FilesBackend {
    fn put(&self, name: &str, fill: &mut dyn FnMut(&mut dyn Sink) -> Result<()>) -> Result<Put> {
        let path = path(name);
        let (folder, _) = path.rsplit_once('/').expect("it starts with backend/");
        if self.files.len(&path).is_ok() {
            return Ok(Put::Exists);
        }
        let temporary = format!("{folder}/{TEMPORARY}");
        let mut sink = Buffered(Vec::new());
        fill(&mut sink)?;
        let fail = failed(name);
        self.files.create(&temporary).map_err(&fail)?;
        self.files.write_at(&temporary, 0, &[&sink.0]).map_err(&fail)?;
        if self.sync_objects {
            self.files.sync(&temporary).map_err(&fail)?;
        }
        self.files.rename(&temporary, &path).map_err(&fail)?;
        self.files.sync_dir(folder).map_err(&fail)?;
        Ok(Put::Created)
    }

    fn read(&self, name: &str, offset: u64, into: &mut [u8]) -> Result<()> {
        let read = self.files.read_at(&path(name), offset, into).map_err(failed(name))?;
        if read == into.len() {
            return Ok(());
        }
        let why = "it ends early".to_owned();
        Err(BackendError { attempted: "read", object: name.to_owned(), cause: Cause::Corrupt, why })
    }

    fn len(&self, name: &str) -> Result<Option<u64>> {
        Ok(self.files.len(&path(name)).ok())
    }

    fn list(&self, folder: &str) -> Result<Vec<String>> {
        let found = self.files.list(&path(folder)).map_err(failed(folder))?;
        Ok(found.into_iter().map(|(name, _)| name).filter(|n| !n.starts_with(TEMPORARY)).collect())
    }

    fn delete(&self, name: &str) -> Result<()> {
        // A missing one is fine.
        let _ = self.files.unlink(&path(name));
        Ok(())
    }

    fn delete_folder(&self, folder: &str) -> Result<()> {
        for name in self.list(folder)? {
            self.delete(&format!("{folder}/{name}"))?;
        }
        self.settle(folder)
    }

    fn settle(&self, folder: &str) -> Result<()> {
        self.files.sync_dir(&path(folder)).map_err(failed(folder))
    }

    fn sweep(&self, folder: &str) -> Result<()> {
        let _ = self.files.unlink(&format!("{}/{TEMPORARY}", path(folder)));
        Ok(())
    }
}
