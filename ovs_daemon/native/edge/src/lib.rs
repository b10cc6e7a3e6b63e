//! The Edge: front ends towards hypervisors, and the Edge protocol towards the engine.
//!
//! Front ends are a library: the engine serves them in process, `vstorage-edge` serves the same
//! ones from its own small process.

pub mod nbd;
pub mod target;
