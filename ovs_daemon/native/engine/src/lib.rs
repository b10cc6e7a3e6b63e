//! The engine: shards (one thread and one io_uring each) that host volumes and their front ends,
//! worker threads for what takes long, and the control calls that Python and the tools use.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod budget;
mod cache;
mod claims;
#[cfg(test)]
mod closing_tests;
mod config;
mod engine;
mod error;
mod events;
mod farewell;
mod followers;
mod following;
mod group;
mod hosted;
mod lease;
mod mailbox;
mod parting;
mod places;
mod presets;
mod reach;
mod rebalance;
mod replication;
mod roll;
mod settling;
mod shard;
mod shut_out;
mod spec;
mod status;
mod upkeep;
mod workers;

pub use config::Config;
pub use engine::Engine;
pub use error::Error;
pub use net::RELEASE;
