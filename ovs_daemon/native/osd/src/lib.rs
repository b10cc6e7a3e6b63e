//! The OSD server: disks of a host, served to the nodes of a cluster.
//!
//! One process has any number of disks. A thread owns the sockets ([`Server`], one io_uring); each
//! disk has threads of its own ([`disk::Disk`]), so that one which is slow or full keeps nobody from
//! the others. An OSD of role cache has blocks of fragments in place of fragments ([`cache::Cache`]). What
//! a connection may do is decided by `machines::osd`, what frames look like says
//! `format::osd::wire`.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod bounds;
#[cfg(test)]
mod bounds_tests;
pub mod cache;
#[cfg(test)]
mod cache_tests;
pub mod disk;
#[cfg(test)]
mod leave_tests;
#[cfg(test)]
mod lend_tests;
#[cfg(test)]
mod mend_tests;
mod reads;
mod server;
mod session;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod upkeep_tests;

pub use bounds::Bounds;
pub use server::{Running, Server, Setup};
