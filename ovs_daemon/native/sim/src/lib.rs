//! Proofs that run: an exhaustive explorer for the state machines, an enumerator of crash images
//! for stored files, faulty twins of the media, and a seeded fuzzer for the parsers.
//!
//! Nothing here reads a clock or touches a disk; the same call gives the same answer.

pub mod cluster;
pub mod crash;
pub mod explore;
pub mod faulty;
pub mod fingerprint;
pub mod fuzz;
pub mod memory;
pub mod random;
pub mod scenario;
pub mod worlds;
