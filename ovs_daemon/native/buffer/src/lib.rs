//! The write buffer: the log of a volume, cut into SCO files in a folder. `format::log` draws the
//! bytes.

pub mod disk;
pub mod files;
pub mod index;
pub mod log;
pub mod recover;
pub mod tail;

pub use disk::DiskFiles;
pub use index::ScoIndex;
pub use log::{FileRange, LogBuffer, ScoFile};
pub use recover::{
    ChainEnd, RecoverError, RecoveredLog, RecoveredSco, file_name, recover, recover_whole,
};
pub use tail::{NewBatch, Tail};
