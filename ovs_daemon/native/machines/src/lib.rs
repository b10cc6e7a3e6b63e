//! Pure state machines and the LBA map: `step(&mut state, message, &mut actions)`. No IO, no clock,
//! no randomness, no threads.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod alba;
pub mod dtl;
pub mod edge;
pub mod map;
pub mod mds;
pub mod nbd;
pub mod osd;
pub mod qos;
pub mod replay;
pub mod volume;
