//! Warm maps: other nodes follow the map of a volume.
//!
//! * [`Server`] is a node that follows: it performs what `machines::mds::follower` decides, on a
//!   loop of its own, so that it takes no time from this node's guests.
//! * [`Wire`] is an owner's connection to it, on the loop of its shard; [`hello`] makes it, on a
//!   worker.
//!
//! `format::mds` draws the frames.

mod call;
mod pieces;
mod server;
mod wire;

pub use call::{Caller, hello};
pub use server::{Followed, Load, Server};
pub use wire::{Wire, WireEvent};
