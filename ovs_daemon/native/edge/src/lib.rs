//! The Edge: front ends towards hypervisors, and the Edge protocol towards the engine.
//!
//! Front ends are a library: the engine serves them in process, `vstorage-edge` serves the same
//! ones from its own small process.

pub mod client;
mod flow;
pub mod fuse;
pub mod memory;
pub mod nbd;
#[cfg(test)]
mod patience;
pub mod process;
pub mod server;
mod slab;
pub mod spin;
pub mod target;
mod token;

pub use token::class_of;
