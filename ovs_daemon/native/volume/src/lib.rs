//! One open volume: performs what its machine (`machines::volume`) asks for.
//!
//! * [`open`] finds out, blocking, what a log holds: checkpoint, objects, write buffer.
//! * [`Volume`] lives on a shard's thread and never blocks: it appends with one system call per
//!   batch, reads what the page cache has, and hands everything slow to the ring or to worker
//!   threads as [`Job`]s.

mod checkpoint;
mod dtl;
mod feed;
mod gate;
mod items;
mod jobs;
mod load;
mod moves;
mod open;
mod perform;
mod reads;
mod remove;
mod saving;
mod shared;
mod shell;
mod slab;
mod standing;
mod warm;

pub use checkpoint::{
    NewCheckpoint, StoredCheckpoint, checkpoint_folder, load as load_checkpoint,
    store as store_checkpoint,
};
pub use dtl::{DtlEvent, DtlNews, DtlStatus, Pair};
pub use feed::{FeedStatus, FollowerAt, Following};
pub use gate::QosState;
pub use jobs::{Job, JobDone, JobFailure, Outcome, ScoSource, Unreached, Work, store_sco};
pub use open::{
    Found, OpenError, OpenSpec, Opened, Start, find, has_unsaved, open, saved_end, uuid_text,
};
pub use remove::{parent_name, pin, pins_folder, remove};
pub use saving::Saving;
pub use shared::SharedScos;
pub use shell::{Control, ControlDone, Finding, Outputs, Stats, Tuning, Volume};
pub use standing::Standing;
pub use warm::load_warm;
