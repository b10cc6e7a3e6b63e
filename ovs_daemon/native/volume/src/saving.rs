//! How far a volume is on its way to the backend.

use machines::volume::Stage;

use crate::shell::Volume;

/// What is left to be saved, and what became of it so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saving {
    /// The first SCO that is not on the backend.
    pub oldest: Option<u32>,
    /// The last checkpoint that is.
    pub checkpoint: Option<u64>,
    /// SCOs or a checkpoint are with the worker threads.
    pub asked: bool,
    /// How many of them could not be stored, since it was opened.
    pub failures: u64,
    /// Why the last one could not.
    pub why: Option<String>,
}

impl Volume {
    /// How far it is.
    pub fn saving(&self) -> Saving {
        let scos = self.machine().scos();
        let mut unsaved = scos.iter().filter(|(_, sco)| sco.stage < Stage::Uploaded);
        let why = self.trouble.get("upload").or_else(|| self.trouble.get("checkpoint"));
        Saving {
            oldest: unsaved.next().map(|(number, _)| *number),
            checkpoint: self.checkpoints.last().copied(),
            asked: self.storing_checkpoint
                || scos.values().any(|sco| sco.stage == Stage::Uploading),
            failures: self.stats().failed_stores,
            why: why.cloned(),
        }
    }
}
