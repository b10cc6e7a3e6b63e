//! The Distributed Transaction Log: a volume's unsaved batches on a second node.
//!
//! * [`Server`] is the DTL node: it performs what `machines::dtl::keeper` decides, on the loop of a
//!   shard.
//! * [`Line`] is an owner's connection, on the loop of its shard; [`greet`] makes it, on a worker.
//! * [`fetch`] takes over what a DTL node holds, before a volume is opened.
//!
//! `format::dtl` draws the frames. What is held lies in files like those of the write buffer, and is
//! recovered by the same code.

mod call;
#[cfg(test)]
mod crash_tests;
mod fetch;
mod gone;
mod inspect;
mod line;
mod outbox;
#[cfg(test)]
mod owner;
mod replica;
mod server;
mod spares;
mod tasks;

pub use call::{CallError, Caller, Patience, greet, remove};
pub use fetch::{FetchError, Fetched, Local, Saved, Survey, clear, fetch, keep_own, survey};
pub use inspect::{Contents, inspect, whole_batches};
pub use line::{Line, LineEvent};
pub use outbox::Outbox;
pub use replica::{Read, mark_power_loss, read as read_replica, store_fence};
pub use server::{Guest, Server};
pub use tasks::{Lane, Task, TaskDone};
